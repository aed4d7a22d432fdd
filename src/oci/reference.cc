// SPDX-License-Identifier: Apache-2.0
#include "oci/reference.h"

#include <algorithm>

#include <fmt/format.h>

#include "oci/image.h"

namespace shale::oci {
namespace {

constexpr size_t max_name = 255;

bool is_lower_alnum(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}
bool is_alnum(char c) noexcept {
    return is_lower_alnum(c) || (c >= 'A' && c <= 'Z');
}

/// [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*
bool is_component(std::string_view text) noexcept {
    if (text.empty() || !is_lower_alnum(text.front()) || !is_lower_alnum(text.back())) return false;
    for (size_t i = 0; i < text.size();) {
        if (is_lower_alnum(text[i])) {
            ++i;
            continue;
        }
        const char separator = text[i];
        size_t run = 0;
        while (i < text.size() && text[i] == separator)
            ++i, ++run;
        const bool fits = separator == '-' || (separator == '.' && run == 1) || (separator == '_' && run <= 2);
        if (!fits || !is_lower_alnum(text[i])) return false;
    }
    return true;
}

/// A host is told from a path component by a '.', a ':' or the word localhost; letters of a host may be capital.
bool looks_like_host(std::string_view text) noexcept {
    return text == "localhost" || text.find_first_of(".:") != std::string_view::npos || text.starts_with('[');
}

bool is_host(std::string_view text) noexcept {
    std::string_view name = text;
    if (name.starts_with('[')) {
        const size_t close = name.find(']');
        if (close == std::string_view::npos || close < 3) return false;
        const std::string_view address = name.substr(1, close - 1);
        if (!std::ranges::all_of(address, [](char c) {
                return is_digit(c) || c == ':' || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
            }))
            return false;
        name = name.substr(close + 1);
        if (name.empty()) return true;
        if (!name.starts_with(':')) return false;
    }
    const size_t colon = name.find(':');
    if (colon != std::string_view::npos) {
        const std::string_view port = name.substr(colon + 1);
        if (port.empty() || port.size() > 5 || !std::ranges::all_of(port, is_digit)) return false;
        name = name.substr(0, colon);
        if (name.empty()) return text.starts_with('[');
    }
    while (true) {
        const size_t dot = name.find('.');
        const std::string_view label = name.substr(0, dot);
        if (label.empty() || !is_alnum(label.front()) || !is_alnum(label.back())) return false;
        if (!std::ranges::all_of(label, [](char c) { return is_alnum(c) || c == '-'; })) return false;
        if (dot == std::string_view::npos) return true;
        name = name.substr(dot + 1);
    }
}

/// Text of a hostile reference in an error must not carry its control characters to a terminal.
std::string printable(std::string_view text) {
    std::string out;
    for (const char c : text.substr(0, 100))
        if (c >= 0x20 && c < 0x7f)
            out += c;
        else
            out += '?';
    return out;
}

} // namespace

bool is_tag(std::string_view text) noexcept {
    return !text.empty() && text.size() <= 128 && (is_alnum(text.front()) || text.front() == '_') &&
           std::ranges::all_of(text, [](char c) { return is_alnum(c) || c == '_' || c == '.' || c == '-'; });
}

bool is_hostile_name(std::string_view text) noexcept {
    return text.find("..") != std::string_view::npos ||
           std::ranges::any_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

std::string_view tag_of(std::string_view reference) noexcept {
    if (reference.find('@') != std::string_view::npos) return {};
    const size_t colon = reference.rfind(':');
    if (colon == std::string_view::npos || reference.find('/', colon) != std::string_view::npos) return {};
    return reference.substr(colon + 1);
}

Result<std::string> normalize_reference(std::string_view text) {
    const auto refuse = [&](std::string_view why) {
        return fail(Errc::InvalidArgument, fmt::format("reference \"{}\": {}", printable(text), why));
    };
    if (text.empty()) return refuse("empty");
    if (is_hostile_name(text)) return refuse("holds a control character or \"..\"");

    std::string_view name = text;
    std::string_view digest;
    if (const size_t at = name.find('@'); at != std::string_view::npos) {
        digest = name.substr(at + 1);
        name = name.substr(0, at);
        if (!Digest::parse(digest)) return refuse("what follows '@' is not sha256:<64 hex digits>");
    }
    std::string_view tag;
    const size_t slash = name.rfind('/');
    const size_t colon = name.rfind(':');
    const bool has_tag = colon != std::string_view::npos && (slash == std::string_view::npos || colon > slash);
    if (has_tag) {
        tag = name.substr(colon + 1);
        name = name.substr(0, colon);
        if (!is_tag(tag)) return refuse("the tag must match [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}");
    }
    if (name.size() > max_name) return refuse("the name has more than 255 bytes");

    std::string_view path = name;
    if (const size_t first = path.find('/');
        first != std::string_view::npos && looks_like_host(path.substr(0, first))) {
        if (!is_host(path.substr(0, first))) return refuse("not a host name");
        path = path.substr(first + 1);
    }
    while (true) {
        const size_t next = path.find('/');
        if (!is_component(path.substr(0, next)))
            return refuse("a path component must be lower-case letters and digits, parted by '.', '_', '__' or '-'");
        if (next == std::string_view::npos) break;
        path = path.substr(next + 1);
    }
    if (!digest.empty() || has_tag) return std::string(text);
    return std::string(text) + ":latest";
}

std::string stem_name(std::string_view path) {
    while (path.ends_with('/'))
        path.remove_suffix(1);
    if (const size_t slash = path.rfind('/'); slash != std::string_view::npos) path = path.substr(slash + 1);
    for (bool cut = true; cut;) {
        cut = false;
        for (const std::string_view suffix : {".gz", ".zst", ".tgz", ".tar", ".oci"})
            if (path.size() > suffix.size() && path.ends_with(suffix)) {
                path.remove_suffix(suffix.size());
                cut = true;
            }
    }
    std::string out;
    for (char c : path) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
        if (is_lower_alnum(c))
            out += c;
        else if (!out.empty() && out.back() != '-')
            out += '-';
    }
    while (out.ends_with('-'))
        out.pop_back();
    out.resize(std::min(out.size(), size_t{128}));
    while (out.ends_with('-'))
        out.pop_back();
    return out;
}

} // namespace shale::oci
