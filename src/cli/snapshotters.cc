// SPDX-License-Identifier: Apache-2.0
#include "cli/snapshotters.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <set>
#include <utility>

#include "cli/json.h"
#include "sys/fs.h"

namespace shale::cli {
namespace {

// The snapshotters that containerd is built with, of all its versions. It panics at its start when a proxy plugin has a
// name that is registered already (its plugin/plugin.go, Register).
constexpr std::array<std::string_view, 10> taken_names{"aufs",   "blockfile", "btrfs",   "devmapper",    "erofs",
                                                       "native", "overlayfs", "windows", "windows-lcow", "zfs"};

Status check_name(const SnapshotterTable &table) {
    const auto plain = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
               c == '-';
    };
    const std::string &name = *table.name;
    if (name.empty() || name.size() > 64 || !std::ranges::all_of(name, plain))
        return fail(Errc::InvalidArgument,
                    fmt::format("{}: snapshotter name \"{}\" must be 1 to 64 letters, digits, '.', '_' or '-'",
                                table.origin, name));
    if (std::ranges::find(taken_names, name) != taken_names.end())
        return fail(Errc::InvalidArgument,
                    fmt::format("{0}: snapshotter name \"{1}\" is one of containerd's own, which does not start when "
                                "another has it; call it \"shale-{1}\", for example",
                                table.origin, name));
    return {};
}

Result<Snapshotter> resolve_one(const SnapshotterTable &table, std::span<const Source> sources,
                                const std::string &default_root, std::span<const drivers::DriverInfo> built) {
    TRY(check_name(table));
    if (!table.socket->starts_with('/'))
        return fail(Errc::InvalidArgument,
                    fmt::format("{}: socket \"{}\" must be an absolute path", table.origin, *table.socket));
    std::vector<Source> all(1);
    all[0].name = table.origin;
    all[0].root = table.root;
    all[0].driver = table.driver;
    all.insert(all.end(), sources.begin(), sources.end());
    return Snapshotter{*table.name, *table.socket, TRY(resolve(all, default_root, built))};
}

/// "6.1.0-26-amd64" is at least 5.19.
bool at_least(const char *version, unsigned major, unsigned minor) {
    unsigned a = 0, b = 0;
    return std::sscanf(version, "%u.%u", &a, &b) == 2 && std::pair(a, b) >= std::pair(major, minor);
}

/// What containerd believes of a snapshotter. A driver that is chosen when the store is made may be one that cannot put
/// a layer on another.
std::string capabilities(const Snapshotter &one) {
    std::vector<std::string_view> out;
    if (const auto driver = drivers::find_driver(one.settings.driver); driver && (*driver)->rebases)
        out.emplace_back("\"rebase\"");
    // An overlay takes lower directories with mapped ids since Linux 5.19 ("ovl: support idmapped layers",
    // bc70682a497c).
    utsname host{};
    bool maps_ids = ::uname(&host) == 0 && at_least(host.release, 5, 19);
    if (one.settings.driver == "zfs") { // since OpenZFS 2.2 (its release notes: "Linux container support")
        const auto version = sys::read_file(AT_FDCWD, "/sys/module/zfs/version", 64);
        maps_ids = maps_ids && version && at_least(version->c_str(), 2, 2);
    }
    if (maps_ids) out.emplace_back("\"remap-ids\"");
    return fmt::format("{}", fmt::join(out, ", "));
}

/// "amd64" for this machine, as Go calls it.
std::string architecture() {
    utsname host{};
    std::string machine = ::uname(&host) == 0 ? host.machine : "x86_64";
    if (machine == "x86_64") return "amd64";
    if (machine == "aarch64") return "arm64";
    return machine;
}

} // namespace

Result<std::vector<Snapshotter>> resolve_snapshotters(std::span<const Source> sources, const std::string &default_root,
                                                      std::span<const drivers::DriverInfo> built) {
    std::vector<SnapshotterTable> tables;
    for (const Source &source : sources) // the strongest that has any
        if (tables.empty()) tables = source.snapshotters;
    if (tables.empty()) tables.emplace_back().origin = "default";
    std::vector<Snapshotter> out;
    std::set<std::string> names, sockets, roots;
    for (SnapshotterTable &table : tables) {
        const auto missing = [&](const char *what) {
            return fail(Errc::InvalidArgument,
                        fmt::format("{}: where there are several snapshotters, each needs a {}", table.origin, what));
        };
        if (tables.size() > 1 && !table.name) return missing("name");
        if (tables.size() > 1 && !table.socket) return missing("socket");
        if (tables.size() > 1 && !table.root) return missing("root");
        if (!table.name) table.name = default_snapshotter;
        if (!table.socket) table.socket = default_socket;
        Snapshotter one = TRY(resolve_one(table, sources, default_root, built));
        const auto twice = [&](const char *what, const std::string &value) {
            return fail(Errc::InvalidArgument,
                        fmt::format("{}: another snapshotter has the {} \"{}\" already", table.origin, what, value));
        };
        if (!names.insert(one.name).second) return twice("name", one.name);
        if (!sockets.insert(one.socket).second) return twice("socket", one.socket);
        if (!roots.insert(one.settings.root).second) return twice("root", one.settings.root);
        out.push_back(std::move(one));
    }
    return out;
}

std::string containerd_config(std::span<const Snapshotter> snapshotters) {
    std::string out =
        "# For /etc/containerd/config.toml; then `ctr --snapshotter NAME` or a runtime's snapshotter = \"NAME\".\n";
    for (const Snapshotter &one : snapshotters) // a JSON string is a basic string of TOML
        out += fmt::format("\n[proxy_plugins.{0}]\n"
                           "  type = \"snapshot\"\n"
                           "  address = {1}\n"
                           "  platform = \"linux/{2}\"\n"
                           "  capabilities = [{4}]\n"
                           "  [proxy_plugins.{0}.exports]\n"
                           "    root = {3}\n"
                           "    enable_remote_snapshot_annotations = \"true\"\n",
                           json_quote(one.name), json_quote(one.socket), architecture(), json_quote(one.settings.root),
                           capabilities(one));
    return out;
}

} // namespace shale::cli
