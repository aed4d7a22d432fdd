// SPDX-License-Identifier: Apache-2.0
// Sources: moby, daemon/config/config.go, config_linux.go and cmd/dockerd/config.go, config_unix.go of 20.10 to 29 (a
// key is known when a flag of that name exists: findConfigurationConflicts); daemon/graphdriver/*/ (parseOptions);
// docker/cli, docs/deprecated.md for what is gone since when.
#include "doctor/checks/docker_options.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <utility>

#include <fmt/format.h>

#include "base/text.h"
#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

using enum JsonKind;
constexpr auto keys = std::to_array<DaemonKey>({
    {"allow-direct-routing", boolean},
    {"authorization-plugins", texts},
    {"bip", text},
    {"bip6", text},
    {"bridge", text},
    {"bridge-accept-fwmark", text},
    {"builder", object},
    {"cdi-spec-dirs", texts},
    {"cgroup-parent", text},
    {"containerd", text},
    {"containerd-namespace", text},
    {"containerd-plugin-namespace", text},
    {"containerd-plugins-namespace", text},
    {"cpu-rt-period", integer},
    {"cpu-rt-runtime", integer},
    {"cri-containerd", boolean},
    {"data-root", text},
    {"debug", boolean},
    {"default-address-pools", list},
    {"default-cgroupns-mode", text},
    {"default-gateway", text},
    {"default-gateway-v6", text},
    {"default-init", text},
    {"default-ipc-mode", text},
    {"default-network-opts", object},
    {"default-runtime", text},
    {"default-shm-size", text},
    {"default-ulimits", object},
    {"dns", texts},
    {"dns-opts", texts},
    {"dns-search", texts},
    {"exec-opts", texts},
    {"exec-root", text},
    {"experimental", boolean},
    {"features", flag_map},
    {"firewall-backend", text},
    {"fixed-cidr", text},
    {"fixed-cidr-v6", text},
    {"group", text},
    {"host-gateway-ip", text},
    {"host-gateway-ips", texts},
    {"hosts", texts},
    {"icc", boolean},
    {"init", boolean},
    {"init-path", text},
    {"insecure-registries", texts},
    {"ip", text},
    {"ip-forward", boolean},
    {"ip-forward-no-drop", boolean},
    {"ip-masq", boolean},
    {"ip6tables", boolean},
    {"iptables", boolean},
    {"ipv6", boolean},
    {"labels", texts},
    {"live-restore", boolean},
    {"log-driver", text},
    {"log-format", text},
    {"log-level", text},
    {"log-opts", text_map},
    {"max-concurrent-downloads", integer},
    {"max-concurrent-uploads", integer},
    {"max-download-attempts", integer},
    {"metrics-addr", text},
    {"mtu", integer},
    {"network-control-plane-mtu", integer},
    {"network-diagnostic-port", integer},
    {"no-new-privileges", boolean},
    {"node-generic-resources", texts},
    {"nri-opts", object},
    {"pidfile", text},
    {"proxies", text_map},
    {"raw-logs", boolean},
    {"registry-mirrors", texts},
    {"rootless", boolean},
    {"runtimes", object},
    {"seccomp-profile", text},
    {"selinux-enabled", boolean},
    {"shutdown-timeout", integer},
    {"storage-driver", text},
    {"storage-opts", texts},
    {"swarm-default-advertise-addr", text},
    {"swarm-raft-election-tick", integer},
    {"swarm-raft-heartbeat-tick", integer},
    {"tls", boolean},
    {"tlscacert", text},
    {"tlscert", text},
    {"tlskey", text},
    {"tlsverify", boolean},
    {"userland-proxy", boolean},
    {"userland-proxy-path", text},
    {"userns-remap", text},
});

constexpr auto gone_keys = std::to_array<GoneKey>({
    {"allow-nondistributable-artifacts", 0, "of no effect since Docker 29"},
    {"api-cors-header", 28, "put a reverse proxy before the API"},
    {"cluster-advertise", 23, "of classic Swarm, which is gone"},
    {"cluster-store", 23, "of classic Swarm, which is gone"},
    {"cluster-store-opts", 23, "of classic Swarm, which is gone"},
    {"deprecated-key-path", 0, "of no effect: its flag is gone"},
    {"disable-legacy-registry", 19, "registries of version 1 are gone"},
    {"graph", 23, "say \"data-root\""},
    {"oom-score-adjust", 25, "say OOMScoreAdjust= in the unit of dockerd"},
});

constexpr auto flags = std::to_array<FlagName>({
    {"add-runtime", "runtimes"},
    {"authorization-plugin", "authorization-plugins"},
    {"cdi-spec-dir", "cdi-spec-dirs"},
    {"config-file", ""},
    {"default-address-pool", "default-address-pools"},
    {"default-network-opt", "default-network-opts"},
    {"default-ulimit", "default-ulimits"},
    {"dns-opt", "dns-opts"},
    {"exec-opt", "exec-opts"},
    {"feature", "features"},
    {"help", ""},
    {"host", "hosts"},
    {"http-proxy", "proxies"},
    {"https-proxy", "proxies"},
    {"insecure-registry", "insecure-registries"},
    {"label", "labels"},
    {"log-opt", "log-opts"},
    {"no-proxy", "proxies"},
    {"node-generic-resource", "node-generic-resources"},
    {"registry-mirror", "registry-mirrors"},
    {"restart", ""},
    {"storage-opt", "storage-opts"},
    {"validate", ""},
    {"version", ""},
});

enum class Value : uint8_t { any, size, percent_mark, percent, flag, number, file_system };
struct DriverOption {
    std::string_view driver, key;
    Value value;
};
constexpr auto driver_options = std::to_array<DriverOption>({
    {"btrfs", "btrfs.min_space", Value::size},
    {"devicemapper", "dm.basesize", Value::size},
    {"devicemapper", "dm.blkdiscard", Value::flag},
    {"devicemapper", "dm.blocksize", Value::size},
    {"devicemapper", "dm.datadev", Value::any},
    {"devicemapper", "dm.directlvm_device", Value::any},
    {"devicemapper", "dm.directlvm_device_force", Value::flag},
    {"devicemapper", "dm.fs", Value::file_system},
    {"devicemapper", "dm.libdm_log_level", Value::number},
    {"devicemapper", "dm.loopdatasize", Value::size},
    {"devicemapper", "dm.loopmetadatasize", Value::size},
    {"devicemapper", "dm.metadatadev", Value::any},
    {"devicemapper", "dm.min_free_space", Value::percent_mark},
    {"devicemapper", "dm.mkfsarg", Value::any},
    {"devicemapper", "dm.mountopt", Value::any},
    {"devicemapper", "dm.override_udev_sync_check", Value::flag},
    {"devicemapper", "dm.thinp_autoextend_percent", Value::percent},
    {"devicemapper", "dm.thinp_autoextend_threshold", Value::percent},
    {"devicemapper", "dm.thinp_metapercent", Value::percent},
    {"devicemapper", "dm.thinp_percent", Value::percent},
    {"devicemapper", "dm.thinpooldev", Value::any},
    {"devicemapper", "dm.use_deferred_deletion", Value::flag},
    {"devicemapper", "dm.use_deferred_removal", Value::flag},
    {"devicemapper", "dm.xfs_nospace_max_retries", Value::number},
    {"overlay2", "overlay2.size", Value::size},
    {"vfs", "size", Value::size},
    {"vfs", "vfs.xattrs", Value::any},
    {"zfs", "zfs.fsname", Value::any},
});

struct Driver {
    std::string_view name;
    int gone_since;
};
constexpr auto drivers = std::to_array<Driver>({{"aufs", 24},
                                                {"btrfs", 0},
                                                {"devicemapper", 25},
                                                {"fuse-overlayfs", 0},
                                                {"overlay", 24},
                                                {"overlay2", 0},
                                                {"vfs", 0},
                                                {"zfs", 0}});

std::string lower(std::string_view text) {
    std::string out(text);
    std::ranges::transform(out, out.begin(),
                           [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
    return out;
}

bool is_number(std::string_view text) {
    return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

/// What is wrong with a value; empty: nothing.
std::string_view fault_of(Value kind, std::string_view value) {
    constexpr auto booleans = std::to_array<std::string_view>(
        {"1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"});
    switch (kind) {
    case Value::size:
        return parse_bytes(value) ? "" : "it is no size";
    case Value::percent_mark:
        return value.ends_with('%') && is_number(value.substr(0, value.size() - 1)) ? "" : "it must end with %";
    case Value::percent:
        return is_number(value.ends_with('%') ? value.substr(0, value.size() - 1) : value) ? "" : "it is no percentage";
    case Value::flag:
        return std::ranges::find(booleans, value) != booleans.end() ? "" : "it must be true or false";
    case Value::number:
        return is_number(value) ? "" : "it is no number";
    case Value::file_system:
        return value == "ext4" || value == "xfs" ? "" : "it must be ext4 or xfs";
    case Value::any:
        break;
    }
    return "";
}

OptionVerdict judge_unknown(std::string_view key, std::string_view driver) {
    const size_t dot = key.find('.');
    const std::string_view bare = dot == std::string_view::npos ? key : key.substr(dot + 1);
    if (bare == "hysteresis" || bare == "min_space")
        return {OptionUse::refused, fmt::format("it is an option of shale's own guard, not of Docker's {}", driver)};
    std::vector<std::string_view> names;
    for (const DriverOption &option : driver_options) {
        if (option.key == key)
            return {OptionUse::refused,
                    fmt::format("it is an option of the driver {}, and {} is in use", option.driver, driver)};
        if (option.driver == driver) names.push_back(option.key);
    }
    const std::string near = nearest(key, names);
    return {OptionUse::refused, near.empty()
                                    ? fmt::format("the driver {} has no such option", driver)
                                    : fmt::format("the driver {} has no such option; {} is one", driver, near)};
}

template <class Range> auto find_named(const Range &range, std::string_view name) {
    const auto found = std::ranges::find(range, name, [](const auto &one) { return one.name; });
    return found == range.end() ? nullptr : &*found;
}

} // namespace

std::string_view name_of(JsonKind kind) noexcept {
    switch (kind) {
    case boolean:
        return "true or false";
    case integer:
        return "a whole number";
    case text:
        return "a string";
    case texts:
        return "a list of strings";
    case text_map:
        return "an object of strings";
    case flag_map:
        return "an object of true or false";
    case list:
        return "a list";
    case object:
        break;
    }
    return "an object";
}

std::span<const DaemonKey> daemon_keys() noexcept {
    return keys;
}
const DaemonKey *daemon_key(std::string_view name) noexcept {
    return find_named(keys, name);
}
const GoneKey *gone_key(std::string_view name) noexcept {
    return find_named(gone_keys, name);
}

const FlagName *flag_name(std::string_view name) noexcept {
    const auto found = std::ranges::find(flags, name, &FlagName::flag);
    return found == flags.end() ? nullptr : &*found;
}

OptionVerdict judge_storage_option(std::string_view option, std::string_view driver, int major) {
    const size_t equals = option.find('=');
    if (equals == std::string_view::npos) return {OptionUse::refused, "it has no value: KEY=VALUE"};
    if (driver == "fuse-overlayfs") return {OptionUse::obsolete, "the driver fuse-overlayfs looks at no options"};
    const std::string key = lower(option.substr(0, equals));
    const std::string_view value = option.substr(equals + 1);
    if (driver == "overlay2" && key == "overlay2.override_kernel_check") {
        if (major >= 24)
            return {OptionUse::refused, "Docker 24 and later refuse it: kernels are not asked for any more"};
        return {OptionUse::obsolete, "it does nothing since Docker 19.03, and Docker 24 and later refuse it"};
    }
    for (const DriverOption &known : driver_options) {
        if (known.driver != driver || known.key != key) continue;
        const std::string_view fault = fault_of(known.value, value);
        return fault.empty() ? OptionVerdict{} : OptionVerdict{OptionUse::refused, std::string(fault)};
    }
    return judge_unknown(key, driver);
}

OptionVerdict judge_driver_name(std::string_view name, int major) {
    const auto *driver = find_named(drivers, name);
    if (driver == nullptr) {
        std::vector<std::string_view> names;
        names.reserve(drivers.size());
        for (const Driver &one : drivers)
            names.push_back(one.name);
        const std::string near = nearest(name, names);
        return {OptionUse::refused, near.empty() ? std::string("no storage driver has that name")
                                                 : fmt::format("no storage driver has that name; {} is one", near)};
    }
    if (driver->gone_since == 0) return {};
    if (major >= driver->gone_since)
        return {OptionUse::refused, fmt::format("Docker {} and later do not have it", driver->gone_since)};
    return {OptionUse::obsolete, fmt::format("Docker {} and later do not have it", driver->gone_since)};
}

int docker_major(const std::vector<const probe::Store *> &stores) {
    int out = 0;
    for (const auto *store : stores) {
        int major = 0;
        const char *const end = store->version.data() + store->version.size();
        const bool known = std::from_chars(store->version.data(), end, major).ec == std::errc();
        if (known && (out == 0 || store->running)) out = major;
    }
    return out;
}

} // namespace shale::doctor::checks
