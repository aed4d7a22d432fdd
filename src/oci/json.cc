// SPDX-License-Identifier: Apache-2.0
#include "oci/json.h"

#include <limits>
#include <set>

#include <fmt/format.h>

namespace shale::oci {
namespace {

/// Bracket depth outside strings: exact for valid JSON, and an upper bound is all that invalid JSON needs.
size_t nesting(std::string_view text) {
    size_t depth = 0, most = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\')
                ++i;
            else if (c == '"')
                in_string = false;
        } else if (c == '"')
            in_string = true;
        else if (c == '[' || c == '{')
            most = std::max(most, ++depth);
        else if ((c == ']' || c == '}') && depth > 0)
            --depth;
    }
    return most;
}

Result<std::string> checked_string(const Json &value, std::string_view where, std::string_view key) {
    const auto *text = value.get_ptr<const std::string *>();
    if (text == nullptr) return wrong_type(where, key, "a string");
    if (text->find('\0') != std::string::npos)
        return fail(Errc::InvalidArgument, fmt::format("{} holds a NUL byte", field_path(where, key)));
    return *text;
}

} // namespace

std::string field_path(std::string_view where, std::string_view key) {
    return where.ends_with(':') ? fmt::format("{} {}", where, key) : fmt::format("{}.{}", where, key);
}

std::unexpected<Error> wrong_type(std::string_view where, std::string_view key, std::string_view expected) {
    return fail(Errc::InvalidArgument, fmt::format("{} is not {}", field_path(where, key), expected));
}

Result<Json> parse_json(std::string_view text, std::string_view what) {
    if (text.size() > max_document_bytes)
        return fail(Errc::ResourceExhausted,
                    fmt::format("{}: {} bytes, more than {}", what, text.size(), max_document_bytes));
    if (const size_t depth = nesting(text); depth > max_json_depth)
        return fail(Errc::InvalidArgument,
                    fmt::format("{}: nested {} deep, more than {}", what, depth, max_json_depth));
    std::vector<std::set<std::string>> keys;
    std::string duplicate;
    auto watch = [&](int, Json::parse_event_t event, Json &parsed) {
        if (event == Json::parse_event_t::object_start)
            keys.emplace_back();
        else if (event == Json::parse_event_t::object_end && !keys.empty())
            keys.pop_back();
        else if (event == Json::parse_event_t::key && !keys.empty()) {
            const auto *key = parsed.get_ptr<const std::string *>();
            if (key != nullptr && !keys.back().insert(*key).second && duplicate.empty()) duplicate = *key;
        }
        return true;
    };
    Json parsed = Json::parse(text.begin(), text.end(), watch, false);
    if (parsed.is_discarded()) return fail(Errc::InvalidArgument, fmt::format("{}: not valid JSON", what));
    if (!duplicate.empty())
        return fail(Errc::InvalidArgument, fmt::format("{}: key \"{}\" occurs twice in one object", what, duplicate));
    return parsed;
}

Result<Json> parse_object(std::string_view text, std::string_view what) {
    Json parsed = TRY(parse_json(text, what));
    if (!parsed.is_object()) return fail(Errc::InvalidArgument, fmt::format("{}: not a JSON object", what));
    return parsed;
}

const Json *find_member(const Json &object, const char *key) {
    if (!object.is_object()) return nullptr;
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
}

Result<std::string> string_member(const Json &object, const char *key, std::string_view where) {
    const Json *value = find_member(object, key);
    if (value == nullptr) return std::string();
    return checked_string(*value, where, key);
}

Result<std::vector<std::string>> list_member(const Json &object, const char *key, std::string_view where,
                                             bool or_string) {
    std::vector<std::string> out;
    const Json *value = find_member(object, key);
    if (value == nullptr) return out;
    if (or_string && value->is_string()) {
        out.push_back(TRY(checked_string(*value, where, key)));
        return out;
    }
    if (!value->is_array()) return wrong_type(where, key, "a list of strings");
    out.reserve(value->size());
    for (const Json &item : *value)
        out.push_back(TRY(checked_string(item, where, key)));
    return out;
}

Result<std::map<std::string, std::string>> map_member(const Json &object, const char *key, std::string_view where) {
    std::map<std::string, std::string> out;
    const Json *value = TRY(object_member(object, key, where));
    if (value == nullptr) return out;
    for (auto it = value->begin(); it != value->end(); ++it) {
        if (it.value().is_null()) continue;
        out.emplace(it.key(), TRY(checked_string(it.value(), field_path(where, key), it.key())));
    }
    return out;
}

Result<const Json *> object_member(const Json &object, const char *key, std::string_view where) {
    const Json *value = find_member(object, key);
    if (value != nullptr && !value->is_object()) return wrong_type(where, key, "an object");
    return value;
}

Result<Descriptor> read_descriptor(const Json &value, std::string_view where) {
    if (!value.is_object()) return fail(Errc::InvalidArgument, fmt::format("{} is not an object", where));
    Descriptor out;
    out.media_type = TRY(string_member(value, "mediaType", where));
    const std::string digest = TRY(string_member(value, "digest", where));
    if (digest.empty()) return fail(Errc::InvalidArgument, fmt::format("{}.digest is missing", where));
    out.digest = TRY(in_context(Digest::parse(digest), [&] { return fmt::format("{}.digest", where); }));
    const Json *size = find_member(value, "size");
    if (size == nullptr) return fail(Errc::InvalidArgument, fmt::format("{}.size is missing", where));
    const auto *bytes = size->get_ptr<const Json::number_unsigned_t *>();
    if (bytes == nullptr || *bytes > uint64_t{std::numeric_limits<int64_t>::max()})
        return wrong_type(where, "size", "a whole number from 0 to 2^63-1");
    out.size = *bytes;
    out.annotations = TRY(map_member(value, "annotations", where));
    if (const Json *platform = TRY(object_member(value, "platform", where)); platform != nullptr) {
        const std::string path = field_path(where, "platform");
        out.os = TRY(string_member(*platform, "os", path));
        out.architecture = TRY(string_member(*platform, "architecture", path));
        out.variant = TRY(string_member(*platform, "variant", path));
    }
    return out;
}

} // namespace shale::oci
