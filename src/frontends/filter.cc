// SPDX-License-Identifier: Apache-2.0
#include "frontends/filter.h"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace shale::frontends {
namespace {

using Selector = Filter::Selector;

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}
bool is_field(char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}
bool is_operator(char c) {
    return c == '=' || c == '!' || c == '~';
}
/// Everything that prints, and all that is no ASCII.
bool is_value(char c) {
    return c != ',' && static_cast<unsigned char>(c) > ' ' && c != 0x7F;
}

void append_utf8(std::string &out, uint32_t point) {
    const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
    if (point < 0x80) {
        put(point);
    } else if (point < 0x800) {
        put(0xC0U | point >> 6U), put(0x80U | (point & 0x3FU));
    } else if (point < 0x10000) {
        put(0xE0U | point >> 12U), put(0x80U | (point >> 6U & 0x3FU)), put(0x80U | (point & 0x3FU));
    } else {
        put(0xF0U | point >> 18U), put(0x80U | (point >> 12U & 0x3FU));
        put(0x80U | (point >> 6U & 0x3FU)), put(0x80U | (point & 0x3FU));
    }
}

/// One filter, left to right.
class Parser {
public:
    explicit Parser(std::string_view text) : text_(text) {}

    Result<std::vector<Selector>> selectors() {
        std::vector<Selector> all;
        while (true) {
            all.push_back(TRY(selector()));
            if (at_end()) return all;
            if (peek() != ',') return wrong("a comma or the end is expected");
            ++at_;
        }
    }

private:
    [[nodiscard]] bool at_end() const { return at_ == text_.size(); }
    [[nodiscard]] char peek() const { return at_end() ? '\0' : text_[at_]; }
    void skip_space() {
        while (!at_end() && is_space(peek()))
            ++at_;
    }
    template <class Is> std::string_view take_while(Is is) {
        const size_t begin = at_;
        while (!at_end() && is(peek()))
            ++at_;
        return text_.substr(begin, at_ - begin);
    }
    [[nodiscard]] std::unexpected<Error> wrong(std::string_view what) const {
        constexpr size_t shown = 200;
        return fail(Errc::InvalidArgument, fmt::format("filter \"{}{}\": {} at byte {}", text_.substr(0, shown),
                                                       text_.size() > shown ? "..." : "", what, at_));
    }

    Result<Selector> selector() {
        Selector out;
        TRY(path(out));
        if (at_end() || peek() == ',') return out;
        out.op = TRY(operation());
        out.value = TRY(value(out.op == Filter::Operator::matches));
        if (out.op == Filter::Operator::matches) out.pattern = TRY(compile(out.value));
        return out;
    }

    Status path(Selector &out) {
        std::vector<std::string> parts{TRY(field())};
        while (peek() == '.') {
            ++at_;
            parts.push_back(TRY(field()));
        }
        if (parts[0] == "labels") {
            out.field = Filter::Field::label;
            for (size_t i = 1; i < parts.size(); ++i)
                out.label += (i > 1 ? "." : "") + parts[i];
        } else if (parts[0] == "name") {
            out.field = Filter::Field::name;
        } else if (parts[0] == "parent") {
            out.field = Filter::Field::parent;
        } else if (parts[0] == "kind") {
            out.field = Filter::Field::kind;
        }
        return {};
    }

    Result<std::string> field() {
        skip_space();
        if (peek() == '"') return quoted();
        const std::string_view word = take_while(is_field);
        if (word.empty()) return wrong("a field is expected");
        return std::string(word);
    }

    Result<Filter::Operator> operation() {
        skip_space();
        const size_t begin = at_;
        const std::string_view word = take_while(is_operator);
        if (word == "==") return Filter::Operator::equal;
        if (word == "!=") return Filter::Operator::not_equal;
        if (word == "~=") return Filter::Operator::matches;
        at_ = begin;
        return wrong("an operator (==, !=, ~=) is expected");
    }

    Result<std::string> value(bool pattern) {
        skip_space();
        const char c = peek();
        if (c == '"' || (pattern && (c == '/' || c == '|'))) return quoted();
        if (at_end() || c == '/' || c == '|' || c == '.' || is_operator(c)) return wrong("a value is expected");
        const std::string_view word = take_while(is_value);
        if (word.empty()) return wrong("a value is expected");
        return std::string(word);
    }

    /// From the opening to the closing quote, whichever it is.
    Result<std::string> quoted() {
        const char quote = text_[at_++];
        std::string out;
        while (true) {
            if (at_end() || peek() == '\n' || peek() == '\0') return wrong("a quoted string does not end");
            const char c = text_[at_++];
            if (c == quote) return out;
            if (c != '\\')
                out += c;
            else
                TRY(escape(quote, out));
        }
    }

    Status escape(char quote, std::string &out) {
        constexpr std::string_view letters = "abfnrtv\\", meanings = "\a\b\f\n\r\t\v\\";
        const char c = at_end() ? '\0' : text_[at_++];
        if (c == quote && c != '\0') {
            out += c;
        } else if (const size_t letter = letters.find(c); letter != std::string_view::npos) {
            out += meanings[letter];
        } else if (c >= '0' && c <= '7') {
            --at_;
            out += static_cast<char>(TRY(digits(8, 3, 0xFF)));
        } else if (c == 'x') {
            out += static_cast<char>(TRY(digits(16, 2, 0xFF)));
        } else if (c == 'u' || c == 'U') {
            append_utf8(out, TRY(digits(16, c == 'u' ? 4 : 8, 0x10FFFF)));
        } else {
            return wrong("an escape that there is not");
        }
        return {};
    }

    Result<uint32_t> digits(uint32_t base, unsigned count, uint32_t most) {
        uint64_t number = 0;
        for (unsigned i = 0; i < count; ++i, ++at_) {
            const char c = peek();
            const uint32_t digit = c >= '0' && c <= '9'   ? static_cast<uint32_t>(c - '0')
                                   : c >= 'a' && c <= 'f' ? static_cast<uint32_t>(c - 'a' + 10)
                                   : c >= 'A' && c <= 'F' ? static_cast<uint32_t>(c - 'A' + 10)
                                                          : base;
            if (digit >= base) return wrong("a digit of an escape is expected");
            number = number * base + digit;
        }
        if (number > most) return wrong("an escape is too large");
        return static_cast<uint32_t>(number);
    }

    Result<std::shared_ptr<const re2::RE2>> compile(const std::string &pattern) {
        RE2::Options options;
        options.set_log_errors(false);
        options.set_max_mem(256 << 10);
        auto compiled = std::make_shared<const re2::RE2>(pattern, options);
        if (!compiled->ok()) return wrong(fmt::format("a regular expression that is none ({})", compiled->error()));
        return compiled;
    }

    std::string_view text_;
    size_t at_ = 0;
};

/// The value of a field; nullopt when it is not there.
std::optional<std::string_view> find(const Selector &selector, const store::SnapshotRow &row) {
    constexpr std::array<std::string_view, 3> kinds{"view", "active", "committed"};
    switch (selector.field) {
    case Filter::Field::name:
        return row.name;
    case Filter::Field::parent:
        return row.parent;
    case Filter::Field::kind:
        return kinds.at(static_cast<size_t>(row.kind) - 1);
    case Filter::Field::label:
        return row.labels.find(selector.label);
    case Filter::Field::none:
        break;
    }
    return std::nullopt;
}

bool holds(const Selector &selector, const store::SnapshotRow &row) {
    const auto value = find(selector, row);
    switch (selector.op) {
    case Filter::Operator::present:
        return value.has_value();
    case Filter::Operator::equal:
        return value == selector.value;
    case Filter::Operator::not_equal:
        return value.value_or("") != selector.value;
    case Filter::Operator::matches:
        return RE2::PartialMatch(value.value_or(""), *selector.pattern);
    }
    return false;
}

} // namespace

Result<Filter> Filter::parse(std::span<const std::string> filters) {
    Filter out;
    size_t bytes = 0, selectors = 0, patterns = 0;
    const auto too_much = [](std::string_view what, size_t most) {
        return fail(Errc::InvalidArgument, fmt::format("filters of more than {} {} are not taken", most, what));
    };
    for (const std::string &text : filters)
        bytes += text.size();
    if (bytes > max_bytes) return too_much("bytes", max_bytes);
    for (const std::string &text : filters) {
        // Counted before they are compiled: a selector has at most one comma, and a pattern its "~=".
        selectors += 1 + static_cast<size_t>(std::ranges::count(text, ','));
        for (size_t at = text.find("~="); at != std::string::npos; at = text.find("~=", at + 2))
            ++patterns;
        if (selectors > max_selectors) return too_much("selectors", max_selectors);
        if (patterns > max_patterns) return too_much("patterns", max_patterns);
    }
    bool all = filters.empty();
    for (const std::string &text : filters) {
        if (text.empty())
            all = true;
        else
            out.alternatives_.push_back(TRY(Parser(text).selectors()));
    }
    if (all) out.alternatives_.clear();
    return out;
}

bool Filter::matches(const store::SnapshotRow &row) const {
    const auto all_hold = [&](const std::vector<Selector> &selectors) {
        return std::ranges::all_of(selectors, [&](const Selector &one) { return holds(one, row); });
    };
    return alternatives_.empty() || std::ranges::any_of(alternatives_, all_hold);
}

std::optional<std::vector<std::string>> Filter::names() const {
    if (alternatives_.empty()) return std::nullopt;
    std::vector<std::string> out;
    for (const auto &selectors : alternatives_) {
        const auto found = std::ranges::find_if(
            selectors, [](const Selector &one) { return one.field == Field::name && one.op == Operator::equal; });
        if (found == selectors.end()) return std::nullopt;
        out.push_back(found->value);
    }
    std::ranges::sort(out);
    out.erase(std::ranges::unique(out).begin(), out.end());
    return out;
}

std::optional<std::string> Filter::label(std::string_view key) const {
    if (alternatives_.size() != 1) return std::nullopt;
    for (const Selector &one : alternatives_.front())
        if (one.field == Field::label && one.label == key && one.op == Operator::equal) return one.value;
    return std::nullopt;
}

} // namespace shale::frontends
