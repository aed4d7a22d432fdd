// SPDX-License-Identifier: Apache-2.0
// JSON out, streamed and indented. Small and header-light, so that no verb has to include a JSON library.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shale::cli {

/// Writes one document. Calls nest as the document does: object(), key("a"), value(1), end().
/// Strings that are not UTF-8 get U+FFFD for each byte that is wrong: the output always parses.
class Json {
public:
    Json &object() { return open('{', '}'); }
    Json &array() { return open('[', ']'); }
    Json &end();
    Json &key(std::string_view name);
    Json &value(std::string_view text);
    Json &value(const char *text) { return value(std::string_view(text)); }
    Json &value(bool flag) { return plain(flag ? "true" : "false"); }
    template <std::integral N>
        requires(!std::same_as<N, bool>)
    Json &value(N number) {
        return plain(std::to_string(number));
    }
    Json &null() { return plain("null"); }
    Json &strings(const std::vector<std::string> &list);
    /// Text that is a JSON document already, taken as it is.
    Json &raw(std::string_view document) { return plain(document); }
    template <class T> Json &field(std::string_view name, const T &what) { return key(name).value(what); }

    /// The document; ends with a line feed.
    [[nodiscard]] std::string text() const { return out_ + "\n"; }

private:
    Json &open(char begin, char end);
    Json &plain(std::string_view text);
    void before_item();
    void line();

    struct Level {
        char close;
        bool empty = true;
    };
    std::string out_;
    std::vector<Level> levels_;
    bool after_key_ = false;
};

/// The quoted JSON form of a string.
std::string json_quote(std::string_view text);

} // namespace shale::cli
