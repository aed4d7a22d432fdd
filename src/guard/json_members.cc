// SPDX-License-Identifier: Apache-2.0
#include "guard/json_members.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "oci/json.h"

namespace shale::guard {
namespace {

using Json = nlohmann::json;

constexpr int64_t last_ms = 253'402'300'799'999; ///< 9999-12-31T23:59:59.999Z: the last that RFC 3339 can write

std::unexpected<Error> wrong(std::string_view where, std::string_view key, std::string_view expected) {
    return fail(Errc::InvalidArgument, fmt::format("{} must be {}", oci::field_path(where, key), expected));
}

/// nullopt: it is not there, or no whole number of 0 or more.
std::optional<uint64_t> number_of(const Json &json, const char *key) {
    const Json *member = oci::find_member(json, key);
    if (member == nullptr) return std::nullopt;
    if (member->is_number_unsigned()) return member->get<uint64_t>();
    if (member->is_number_integer() && member->get<int64_t>() >= 0)
        return static_cast<uint64_t>(member->get<int64_t>());
    return std::nullopt;
}

} // namespace

Json time_json(Time time) {
    return static_cast<uint64_t>(std::clamp<int64_t>(time.time_since_epoch().count(), 0, last_ms));
}

Status check_version(const Json &json, int version, std::string_view where) {
    const auto found = number_of(json, "version");
    if (!found) return fail(Errc::InvalidArgument, fmt::format("{} this is no document with a version", where));
    if (*found != static_cast<uint64_t>(version))
        return fail(Errc::InvalidArgument, fmt::format("{} version {}, and {} is read", where, *found, version));
    return {};
}

Result<uint64_t> number_member(const Json &json, const char *key, uint64_t most, std::string_view where) {
    const auto found = number_of(json, key);
    if (!found || *found > most) return wrong(where, key, fmt::format("a whole number from 0 to {}", most));
    return *found;
}

Result<bool> bool_member(const Json &json, const char *key, std::string_view where) {
    const Json *member = oci::find_member(json, key);
    if (member == nullptr || !member->is_boolean()) return wrong(where, key, "true or false");
    return member->get<bool>();
}

Result<std::string> text_member(const Json &json, const char *key, size_t most_bytes, std::string_view where) {
    const Json *member = oci::find_member(json, key);
    const auto *text = member == nullptr ? nullptr : member->get_ptr<const std::string *>();
    if (text == nullptr || text->size() > most_bytes || text->contains('\0'))
        return wrong(where, key, fmt::format("text of at most {} bytes, without NUL", most_bytes));
    return *text;
}

Result<Time> time_member(const Json &json, const char *key, std::string_view where) {
    const auto found = number_of(json, key);
    if (!found || *found > static_cast<uint64_t>(last_ms))
        return wrong(where, key, "a time in milliseconds since 1970, before the year 10000");
    return Time(Duration(static_cast<int64_t>(*found)));
}

Result<std::optional<Time>> optional_time_member(const Json &json, const char *key, std::string_view where) {
    if (oci::find_member(json, key) == nullptr) return std::nullopt;
    return TRY(time_member(json, key, where));
}

Result<Tier> tier_member(const Json &json, const char *key, std::string_view where) {
    const auto tier = tier_named(TRY(oci::string_member(json, key, where)));
    if (!tier) return wrong(where, key, "the name of a tier");
    return *tier;
}

Result<Kind> kind_member(const Json &json, const char *key, std::string_view where) {
    const auto kind = kind_named(TRY(oci::string_member(json, key, where)));
    if (!kind) return wrong(where, key, "the name of a kind of resource");
    return *kind;
}

Result<const Json *> array_member(const Json &json, const char *key, size_t most, std::string_view where) {
    const Json *member = oci::find_member(json, key);
    if (member == nullptr || !member->is_array() || member->size() > most)
        return wrong(where, key, fmt::format("a list of at most {}", most));
    return member;
}

} // namespace shale::guard
