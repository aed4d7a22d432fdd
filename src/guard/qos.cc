// SPDX-License-Identifier: Apache-2.0
#include "guard/qos.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "oci/json.h"

namespace shale::guard {
namespace {

constexpr std::array<std::string_view, 3> names{"batch", "standard", "critical"};
constexpr size_t id_digits = 64;

bool is_hexadecimal(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

} // namespace

std::string_view name_of(Qos qos) noexcept {
    return names[std::to_underlying(qos)];
}

std::optional<Qos> qos_named(std::string_view name) noexcept {
    const auto *const found = std::ranges::find(names, name);
    return found == names.end() ? std::nullopt : std::optional(static_cast<Qos>(found - names.begin()));
}

std::optional<Qos> qos_of_cgroup(std::string_view path) {
    const size_t at = path.find("kubepods");
    if (at == std::string_view::npos) return std::nullopt;
    const std::string_view rest = path.substr(at);
    if (rest.contains("besteffort")) return Qos::batch;
    return rest.contains("burstable") ? Qos::standard : Qos::critical;
}

std::optional<Qos> qos_of_docker(const probe::Host &host, const std::string &data_root, std::string_view id) {
    const auto text = host.read_if_there(fmt::format("{}/containers/{}/config.v2.json", data_root, id));
    if (!text || !*text) return std::nullopt;
    const auto document = oci::parse_object(**text, "config.v2.json");
    if (!document) return std::nullopt;
    const auto config = oci::object_member(*document, "Config", "config.v2.json");
    if (!config || *config == nullptr) return std::nullopt;
    const auto labels = oci::map_member(**config, "Labels", "Config");
    if (!labels) return std::nullopt;
    const auto found = labels->find(std::string(qos_label));
    return found == labels->end() ? std::nullopt : qos_named(found->second);
}

std::string engine_id_in(std::string_view path) {
    size_t run = 0;
    for (size_t i = path.size(); i > 0; --i) {
        run = is_hexadecimal(path[i - 1]) ? run + 1 : 0;
        const bool begins = i == 1 || !is_hexadecimal(path[i - 2]);
        if (run == id_digits && begins) return std::string(path.substr(i - 1, id_digits));
    }
    return {};
}

} // namespace shale::guard
