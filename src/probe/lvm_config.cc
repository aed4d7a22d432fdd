// SPDX-License-Identifier: Apache-2.0
#include "probe/lvm_config.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>

namespace shale::probe {
namespace {

using namespace std::string_view_literals;

constexpr size_t max_depth = 32;
constexpr size_t file_limit = size_t{16} << 20U; // a backup of 10,000 volumes has some 10 MiB
constexpr int never = 100;                       // lvm.conf, thin_pool_autoextend_threshold: 100 disables it
const std::string lvm_dir = "/etc/lvm";
constexpr std::string_view threshold_key = "activation/thin_pool_autoextend_threshold";

enum class Kind : uint8_t { word, text, mark, end };
struct Token {
    Kind kind = Kind::end;
    std::string text; ///< mark: one of "{}[]=,"
};

class Tokens {
public:
    explicit Tokens(std::string_view text) : rest_(text) {}

    Result<Token> next() {
        skip_blanks();
        if (rest_.empty()) return Token{};
        const char first = rest_.front();
        if (first == '"' || first == '\'') return quoted(first);
        if (marks.contains(first)) {
            rest_.remove_prefix(1);
            return Token{Kind::mark, std::string(1, first)};
        }
        const size_t end = std::min(rest_.find_first_of(ends), rest_.size());
        Token out{Kind::word, std::string(rest_.substr(0, end))};
        rest_.remove_prefix(end);
        return out;
    }
    std::unexpected<Error> bad(std::string_view what) const {
        return fail(Errc::InvalidArgument, fmt::format("line {}: {}", line_, what));
    }

private:
    static constexpr std::string_view marks = "{}[]=,";
    static constexpr std::string_view ends = " \t\r\n\v\f#\"'{}[]=,\0"sv; ///< of a word

    void skip_blanks() {
        while (!rest_.empty()) {
            const char c = rest_.front();
            if (c == '#') {
                rest_.remove_prefix(std::min(rest_.find('\n'), rest_.size()));
            } else if (c == ' ' || (c >= '\t' && c <= '\r') || c == '\0') {
                if (c == '\n') ++line_;
                rest_.remove_prefix(1);
            } else {
                return;
            }
        }
    }
    /// In "..." a backslash takes the next character as it is; in '...' nothing is special.
    Result<Token> quoted(char quote) {
        Token out{Kind::text, {}};
        for (size_t i = 1; i < rest_.size(); ++i) {
            char c = rest_[i];
            if (c == quote) {
                rest_.remove_prefix(i + 1);
                return out;
            }
            if (c == '\\' && quote == '"' && i + 1 < rest_.size()) c = rest_[++i];
            if (c == '\n') ++line_;
            out.text.push_back(c);
        }
        return bad("a string without an end");
    }

    std::string_view rest_;
    size_t line_ = 1;
};

class Parser {
public:
    explicit Parser(std::string_view text) : tokens_(text) {}

    Result<LvmConfig> parse() {
        for (;;) {
            auto token = TRY(tokens_.next());
            if (token.kind == Kind::end) break;
            if (token.kind == Kind::mark) {
                TRY(mark(token.text.front()));
            } else {
                name_ = std::move(token.text);
            }
        }
        if (!sections_.empty()) return tokens_.bad(fmt::format("section {:?} has no end", sections_.back()));
        return std::move(out_);
    }

private:
    Status mark(char what) {
        switch (what) {
        case '{':
            if (sections_.size() == max_depth) return tokens_.bad("sections too deep");
            sections_.push_back(std::exchange(name_, {}));
            return {};
        case '}':
            if (sections_.empty()) return tokens_.bad("a \"}\" without a section");
            sections_.pop_back();
            name_.clear();
            return {};
        case '=':
            return value();
        default:
            return {}; // stray
        }
    }
    /// Behind the "=".
    Status value() {
        auto token = TRY(tokens_.next());
        if (token.kind == Kind::end) return tokens_.bad("a key without a value");
        if (token.kind == Kind::mark) return token.text == "[" ? skip_array() : mark(token.text.front());
        std::string path;
        for (const auto &section : sections_)
            path.append(section).push_back('/');
        out_.insert_or_assign(path + std::exchange(name_, {}), std::move(token.text));
        return {};
    }
    Status skip_array() {
        name_.clear();
        for (;;) {
            const auto token = TRY(tokens_.next());
            if (token.kind == Kind::end) return tokens_.bad("an array without an end");
            if (token.kind == Kind::mark && token.text == "]") return {};
        }
    }

    Tokens tokens_;
    std::vector<std::string> sections_;
    std::string name_; ///< the last seen, of a section or key to come
    LvmConfig out_;
};

const std::string *find(const LvmConfig &config, std::string_view key) {
    const auto found = config.find(key);
    return found == config.end() ? nullptr : &found->second;
}

/// A file that is missing is empty; nullopt: it cannot be read, which is noted.
std::optional<LvmConfig> read_config(const Host &host, const std::string &path, std::vector<Problem> &problems) {
    const auto text = host.read_if_there(path, file_limit);
    auto config = !text ? std::unexpected(text.error()) : parse_lvm_config(text->value_or(""));
    if (config) return std::move(*config);
    problems.push_back({path, config.error().text()});
    return std::nullopt;
}

std::optional<int> percent_in(const LvmConfig &config, const std::string &path, std::vector<Problem> &problems) {
    const std::string *text = find(config, threshold_key);
    if (text == nullptr) return std::nullopt;
    int out = 0;
    const auto [end, bad] = std::from_chars(text->data(), text->data() + text->size(), out);
    if (bad == std::errc() && end == text->data() + text->size() && out >= 0 && out <= never) return out;
    problems.push_back({path, fmt::format("{} is no percentage: {:.100?}", threshold_key, *text)});
    return std::nullopt;
}

std::string profile_path(std::string_view name) {
    return fmt::format("{}/profile/{}.profile", lvm_dir, name);
}

/// Some profile sets it: without LVM's own record nobody knows whether it is the pool's.
bool any_profile_sets_it(const Host &host, std::vector<Problem> &problems) {
    constexpr size_t max_profiles = 1000;
    const auto entries = host.list_if_there(lvm_dir + "/profile", max_profiles);
    if (!entries) {
        problems.push_back({lvm_dir + "/profile", entries.error().text()});
        return true;
    }
    return std::ranges::any_of(*entries, [&](const sys::DirEntry &entry) {
        if (!entry.name.ends_with(".profile")) return false;
        const auto config = read_config(host, lvm_dir + "/profile/" + entry.name, problems);
        return !config || find(*config, threshold_key) != nullptr;
    });
}

/// "" : it has none. nullopt: not known, which is noted.
std::optional<std::string> profile_of(const Host &host, const LvmVolume &pool, std::vector<Problem> &problems) {
    const std::string path = fmt::format("{}/backup/{}", lvm_dir, pool.group);
    const auto there = host.stat(path);
    if (there && !*there) {
        if (!any_profile_sets_it(host, problems)) return "";
        problems.push_back({path, fmt::format("missing: whether a profile of {}/profile is attached to the thin pool "
                                              "{}/{} is not known (lvs -o lv_profile tells)",
                                              lvm_dir, pool.group, pool.volume)});
        return std::nullopt;
    }
    const auto config = read_config(host, path, problems);
    if (!config) return std::nullopt;
    for (const auto &key :
         {fmt::format("{}/logical_volumes/{}/profile", pool.group, pool.volume), fmt::format("{}/profile", pool.group)})
        if (const auto *name = find(*config, key)) return *name;
    return "";
}

bool is_file_name(std::string_view name) {
    return !name.empty() && name != "." && name != ".." && !name.contains('/') && !name.contains('\0');
}

} // namespace

Result<LvmConfig> parse_lvm_config(std::string_view text) {
    return Parser(text).parse();
}

std::optional<LvmVolume> lvm_volume_of(std::string_view dm_name, std::string_view dm_uuid) {
    if (!dm_uuid.starts_with("LVM-")) return std::nullopt;
    // A pool that LVM's own thin volumes use has its target in a layer of its own (lvm2, lib/activate/dev_manager.c).
    constexpr std::string_view layer = "-tpool";
    if (dm_uuid.ends_with(layer) && dm_name.ends_with(layer)) dm_name.remove_suffix(layer.size());
    // One hyphen parts the names, two stand for one of a name (libdm, dm_build_dm_name).
    LvmVolume out;
    std::string *into = &out.group;
    for (size_t i = 0; i < dm_name.size(); ++i) {
        if (dm_name[i] != '-') {
            into->push_back(dm_name[i]);
        } else if (i + 1 < dm_name.size() && dm_name[i + 1] == '-') {
            into->push_back('-');
            ++i;
        } else if (into == &out.group) {
            into = &out.volume;
        } else {
            return std::nullopt; // another layer
        }
    }
    if (!is_file_name(out.group) || out.volume.empty()) return std::nullopt;
    return out;
}

std::optional<int> lvm_autoextend_percent(const Host &host, const LvmVolume &pool, std::vector<Problem> &problems) {
    const auto profile = profile_of(host, pool, problems);
    if (!profile) return std::nullopt;
    std::vector<std::string> cascade{lvm_dir + "/lvmlocal.conf", lvm_dir + "/lvm.conf"};
    if (is_file_name(*profile)) cascade.insert(cascade.begin(), profile_path(*profile));
    for (const auto &path : cascade) {
        const auto config = read_config(host, path, problems);
        if (!config) return std::nullopt;
        if (find(*config, threshold_key) != nullptr) return percent_in(*config, path, problems);
    }
    return never;
}

} // namespace shale::probe
