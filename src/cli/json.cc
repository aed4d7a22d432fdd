// SPDX-License-Identifier: Apache-2.0
#include "cli/json.h"

#include <fmt/format.h>

#include <cstddef>

namespace shale::cli {
namespace {

/// Length of the well-formed UTF-8 sequence at the start of `text`, 0 when there is none (RFC 3629: no overlong
/// forms, no surrogates, nothing above U+10FFFF).
size_t utf8_length(std::string_view text) {
    auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
    auto tail = [&](size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
    const unsigned lead = byte(0);
    if (lead < 0x80) return 1;
    if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
    if (lead >= 0xE0 && lead <= 0xEF) {
        const bool fits = !(lead == 0xE0 && byte(1) < 0xA0) && !(lead == 0xED && byte(1) > 0x9F);
        return fits && tail(1) && tail(2) ? 3 : 0;
    }
    if (lead >= 0xF0 && lead <= 0xF4) {
        const bool fits = !(lead == 0xF0 && byte(1) < 0x90) && !(lead == 0xF4 && byte(1) > 0x8F);
        return fits && tail(1) && tail(2) && tail(3) ? 4 : 0;
    }
    return 0;
}

} // namespace

std::string json_quote(std::string_view text) {
    std::string out = "\"";
    while (!text.empty()) {
        const size_t length = utf8_length(text);
        if (length == 0) {
            out += "\xEF\xBF\xBD";
            text.remove_prefix(1);
            continue;
        }
        const char c = text[0];
        if (length > 1) {
            out += text.substr(0, length);
        } else if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (c == '\n') {
            out += "\\n";
        } else if (c == '\t') {
            out += "\\t";
        } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
            out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
            out += c;
        }
        text.remove_prefix(length);
    }
    out += '"';
    return out;
}

void Json::line() {
    out_ += '\n';
    out_.append(levels_.size() * 2, ' ');
}

void Json::before_item() {
    if (after_key_) {
        after_key_ = false;
        return;
    }
    if (levels_.empty()) return;
    if (!levels_.back().empty) out_ += ',';
    levels_.back().empty = false;
    line();
}

Json &Json::open(char begin, char end) {
    before_item();
    out_ += begin;
    levels_.push_back({end});
    return *this;
}

Json &Json::end() {
    const Level level = levels_.back();
    levels_.pop_back();
    if (!level.empty) line();
    out_ += level.close;
    return *this;
}

Json &Json::key(std::string_view name) {
    before_item();
    out_ += json_quote(name);
    out_ += ": ";
    after_key_ = true;
    return *this;
}

Json &Json::value(std::string_view text) {
    return plain(json_quote(text));
}

Json &Json::plain(std::string_view text) {
    before_item();
    out_ += text;
    return *this;
}

Json &Json::strings(const std::vector<std::string> &list) {
    array();
    for (const std::string &item : list)
        value(item);
    return end();
}

} // namespace shale::cli
