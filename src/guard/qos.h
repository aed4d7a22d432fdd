// SPDX-License-Identifier: Apache-2.0
// Classes of service: who is slowed or ended first when a resource runs out, and who never is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "probe/host.h"

namespace shale::guard {

/// The lowest first.
enum class Qos : uint8_t { batch, standard, critical };
[[nodiscard]] std::string_view name_of(Qos qos) noexcept;
/// "batch", "standard", "critical"; nullopt: none of them.
std::optional<Qos> qos_named(std::string_view name) noexcept;
inline constexpr std::string_view qos_label = "shale.qos";
/// That of Kubernetes by the path of a cgroup, where there is one: besteffort is batch, burstable standard, guaranteed
/// (a pod right below kubepods) critical (Kubernetes, "Pod Quality of Service Classes"; the kubelet's names of cgroups,
/// pkg/kubelet/cm/qos_container_manager_linux.go and pod_container_manager_linux.go).
std::optional<Qos> qos_of_cgroup(std::string_view path);
/// By the label of a container of Docker's, from its config.v2.json. `id`: 64 hexadecimal digits; `data_root`:
/// "/var/lib/docker". nullopt: there is no such container, or it has no such label.
std::optional<Qos> qos_of_docker(const probe::Host &host, const std::string &data_root, std::string_view id);
/// The last 64 hexadecimal digits in the path of a cgroup, as engines name their containers; empty: there are none.
std::string engine_id_in(std::string_view path);

} // namespace shale::guard
