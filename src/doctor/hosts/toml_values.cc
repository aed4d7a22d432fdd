// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/toml_values.h"

#include <ranges>
#include <utility>

namespace shale::doctor {
namespace {

constexpr size_t most = 10'000; ///< values of a file, parts of a value

/// Stands in the text; every step goes on by a byte at least.
class Reader {
public:
    explicit Reader(std::string_view text) : text_(text) {}

    [[nodiscard]] bool at_end() const { return at_ >= text_.size(); }
    [[nodiscard]] char peek() const { return at_end() ? '\0' : text_[at_]; }
    [[nodiscard]] size_t line() const { return line_; }

    char take() {
        const char c = text_[at_++];
        if (c == '\n') ++line_;
        return c;
    }
    bool take_if(std::string_view what) {
        if (!text_.substr(at_).starts_with(what)) return false;
        for (size_t i = 0; i < what.size(); ++i)
            take();
        return true;
    }
    void skip_spaces() {
        while (!at_end() && (peek() == ' ' || peek() == '\t' || peek() == '\r'))
            take();
    }
    /// Line feeds and comments as well.
    void skip_all() {
        for (skip_spaces(); peek() == '\n' || peek() == '#'; skip_spaces())
            skip_line();
    }
    void skip_line() {
        while (!at_end() && take() != '\n') {
        }
    }
    /// Nothing but a comment is left of the line; which is taken.
    bool ends_line() {
        skip_spaces();
        const bool ends = at_end() || peek() == '\n' || peek() == '#';
        skip_line();
        return ends;
    }
    /// Up to a byte of `ends` or the end of the line, spaces behind it cut off.
    std::string_view take_until(std::string_view ends) {
        const size_t begin = at_;
        while (!at_end() && peek() != '\n' && !ends.contains(peek()))
            take();
        std::string_view out = text_.substr(begin, at_ - begin);
        while (!out.empty() && (out.back() == ' ' || out.back() == '\t' || out.back() == '\r'))
            out.remove_suffix(1);
        return out;
    }

private:
    std::string_view text_;
    size_t at_ = 0, line_ = 1;
};

/// A quoted text, in one of TOML's four forms. nullopt: it does not end. Of the escapes, those of numbers stay as they
/// are.
std::optional<std::string> take_text(Reader &reader) {
    const bool literal = reader.peek() == '\'';
    const std::string_view triple = literal ? "'''" : "\"\"\"";
    const bool lines = reader.take_if(triple);
    const std::string_view end = lines ? triple : triple.substr(0, 1);
    if (!lines) reader.take();
    std::string out;
    while (!reader.at_end()) {
        if (reader.take_if(end)) return out;
        if (!lines && reader.peek() == '\n') return std::nullopt;
        const char c = reader.take();
        if (literal || c != '\\' || reader.at_end()) {
            out += c;
            continue;
        }
        const char escaped = reader.take();
        if (escaped == 'n' || escaped == 't')
            out += escaped == 'n' ? '\n' : '\t';
        else if (escaped == '"' || escaped == '\\')
            out += escaped;
        else
            (out += c) += escaped;
    }
    return std::nullopt;
}

bool is_quote(char c) {
    return c == '"' || c == '\'';
}

/// Lists in lists are one text as it is written, which is more than anybody asks for.
bool take_list(Reader &reader, std::vector<std::string> &out) {
    while (out.size() < most) {
        reader.skip_all();
        if (reader.take_if("]")) return true;
        if (reader.at_end()) return false;
        if (is_quote(reader.peek())) {
            auto text = take_text(reader);
            if (!text) return false;
            out.push_back(std::move(*text));
        } else {
            const std::string_view word = reader.take_until(",]#");
            if (word.empty()) return false;
            out.emplace_back(word);
        }
        reader.skip_all();
        if (!reader.take_if(",") && reader.peek() != ']') return false;
    }
    return false;
}

bool take_value(Reader &reader, std::vector<std::string> &out) {
    reader.skip_spaces();
    if (reader.take_if("[")) return take_list(reader, out);
    if (is_quote(reader.peek())) {
        auto text = take_text(reader);
        if (!text) return false;
        out.push_back(std::move(*text));
        return true;
    }
    const std::string_view word = reader.take_until("#");
    if (word.empty()) return false;
    out.emplace_back(word);
    return true;
}

/// A plain or quoted name, dots in it as they are; without the quotes.
std::string name_of(std::string_view text) {
    std::string out;
    for (const char c : text)
        if (!is_quote(c) && c != ' ' && c != '\t') out += c;
    return out;
}

} // namespace

const TomlValue *TomlValues::find(std::string_view table, std::string_view key) const {
    for (const TomlValue &value : std::views::reverse(values))
        if (value.table == table && value.key == key) return &value;
    return nullptr;
}

std::string TomlValues::text(std::string_view table, std::string_view key) const {
    const TomlValue *value = find(table, key);
    return value == nullptr || value->values.empty() ? std::string() : value->values.front();
}

TomlValues toml_values(std::string_view text) {
    TomlValues out;
    Reader reader(text);
    std::string table;
    while (out.values.size() < most) {
        reader.skip_all();
        if (reader.at_end()) return out;
        const size_t line = reader.line();
        bool good = false;
        if (reader.take_if("[")) {
            const std::string_view closing = reader.take_if("[") ? "]]" : "]";
            table = name_of(reader.take_until("]#"));
            good = !table.empty() && reader.take_if(closing);
        } else {
            TomlValue value{.table = table, .key = name_of(reader.take_until("=#")), .values = {}};
            good = !value.key.empty() && reader.take_if("=") && take_value(reader, value.values);
            if (good) out.values.push_back(std::move(value));
        }
        if (!reader.ends_line()) good = false;
        if (!good && !out.not_understood) out.not_understood = line;
    }
    if (!out.not_understood) out.not_understood = reader.line();
    return out;
}

} // namespace shale::doctor
