// SPDX-License-Identifier: Apache-2.0
#include "cli/options.h"
#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace shale::cli {
namespace {

struct DeadOption {
    std::string_view driver, key, message;
    Standing standing;
};
// What people bring along from elsewhere: key, and what to do instead.
constexpr std::array dead_options{
    DeadOption{"overlay2", "override_kernel_check",
               "obsolete: every kernel that shale runs on stacks several lower directories; remove it",
               Standing::obsolete},
    DeadOption{"overlay", "override_kernel_check",
               "obsolete: every kernel that shale runs on stacks several lower directories; remove it",
               Standing::obsolete},
    DeadOption{"overlay", "mount_program",
               "an option of containers-storage (fuse-overlayfs); shale mounts with the kernel's overlay, remove it",
               Standing::obsolete},
    DeadOption{"overlay", "mountopt", "an option of containers-storage; shale sets the mount options itself, remove it",
               Standing::obsolete},
    DeadOption{"overlay", "ignore_chown_errors",
               "an option of containers-storage; without privilege shale squashes owners by itself, remove it",
               Standing::obsolete},
    DeadOption{"overlay", "skip_mount_home",
               "an option of containers-storage; shale mounts nothing on its root, remove it", Standing::obsolete},
    DeadOption{"lcow", "kernel", "an option of Docker on Windows (LCOW, removed in Docker 23.0); remove it",
               Standing::obsolete},
};

struct GoneDriver {
    std::string_view name, prefix, message;
};
constexpr std::array gone_drivers{
    GoneDriver{"aufs", "aufs", "driver aufs was removed from Docker (24.0) and was never in the kernel; use overlay2"},
    GoneDriver{"overlay", "overlay",
               "driver overlay (the first one, with hard links) was removed from Docker (25.0); use overlay2"},
    GoneDriver{"devicemapper", "dm",
               "driver devicemapper (options dm.*) is not built into this shale; use overlay2 on a quota-capable "
               "file system"},
    GoneDriver{"btrfs", "btrfs", "driver btrfs is not built into this shale; overlay2 works on btrfs"},
    GoneDriver{"zfs", "zfs", "driver zfs is not built into this shale; overlay2 works on zfs 2.2 and later"},
    GoneDriver{"fuse-overlayfs", "fuse-overlayfs",
               "driver fuse-overlayfs is not built into this shale; overlay2 works without root "
               "since Linux 5.11"},
    GoneDriver{"overlayfs", "overlayfs", "\"overlayfs\" is containerd's name; shale's driver is called overlay2"},
    GoneDriver{"native", "native", "\"native\" is containerd's name; shale's driver that copies is called vfs"},
    GoneDriver{"windowsfilter", "windowsfilter", "driver windowsfilter is of Docker on Windows; use overlay2"},
};

struct GuardOption {
    std::string_view key, message;
};
constexpr std::array guard_options{
    GuardOption{"hysteresis",
                "shale's own guard option: how far below the mark the space must fall before writers go on; "
                "dockerd refuses to start on it, keep it out of daemon.json"},
    GuardOption{"min_space", "shale's own guard option: free space below which writers are held; "
                             "dockerd refuses to start on it, keep it out of daemon.json"},
};

const drivers::DriverInfo *find_built(std::string_view name, std::span<const drivers::DriverInfo> built) {
    const auto found = std::ranges::find(built, name, &drivers::DriverInfo::name);
    return found == built.end() ? nullptr : &*found;
}

bool has_option(const drivers::DriverInfo &driver, std::string_view key) {
    return std::ranges::any_of(driver.options, [&](const drivers::OptionInfo &option) { return option.key == key; });
}

/// The rest of judge_option once driver and key are apart; `driver` is of a prefix or in use, or empty.
void judge_key(Verdict &verdict, std::string_view driver, std::span<const drivers::DriverInfo> built) {
    for (const DeadOption &dead : dead_options)
        if (dead.key == verdict.key && (dead.driver == driver || driver.empty())) {
            verdict.standing = dead.standing;
            verdict.message = dead.message;
            return;
        }
    const drivers::DriverInfo *info = find_built(driver, built);
    if (info == nullptr && !driver.empty()) {
        const auto gone = std::ranges::find(gone_drivers, driver, &GoneDriver::prefix);
        verdict.standing = gone == gone_drivers.end() ? Standing::unknown : Standing::unbuilt;
        if (gone != gone_drivers.end()) verdict.message = gone->message;
    } else if (info != nullptr ? has_option(*info, verdict.key) : std::ranges::any_of(built, [&](const auto &one) {
                   return has_option(one, verdict.key);
               })) {
        verdict.standing = Standing::known;
        return;
    } else if (const auto guard = std::ranges::find(guard_options, verdict.key, &GuardOption::key);
               guard != guard_options.end()) {
        verdict.standing = Standing::guard;
        verdict.message = guard->message;
        return;
    }
    if (verdict.standing == Standing::unbuilt) return;

    std::vector<std::string> names;
    for (const drivers::DriverInfo &one : built) {
        for (const drivers::OptionInfo &option : one.options)
            names.push_back(fmt::format("{}.{}", one.name, option.key));
        for (const GuardOption &guard : guard_options)
            names.push_back(fmt::format("{}.{}", one.name, guard.key));
    }
    std::vector<std::string_view> views(names.begin(), names.end());
    verdict.suggestion =
        nearest(fmt::format("{}.{}", driver.empty() && !built.empty() ? built[0].name : driver, verdict.key), views);
    verdict.message = verdict.suggestion.empty()
                          ? fmt::format("no driver has it; `shale drivers --json` lists the options there are")
                          : fmt::format("no driver has it; did you mean {}?", verdict.suggestion);
}

} // namespace

Verdict judge_option(std::string_view text, std::string_view driver, std::span<const drivers::DriverInfo> built) {
    Verdict verdict;
    const size_t equals = text.find('=');
    std::string_view name = text.substr(0, equals);
    if (equals != std::string_view::npos) verdict.value = text.substr(equals + 1);
    if (const size_t dot = name.find('.'); dot != std::string_view::npos) {
        verdict.driver = name.substr(0, dot);
        name.remove_prefix(dot + 1);
    }
    verdict.key = name;
    if (verdict.key.empty() || equals == std::string_view::npos) {
        verdict.message = "must be written KEY=VALUE or DRIVER.KEY=VALUE";
        return verdict;
    }
    judge_key(verdict, verdict.driver.empty() ? driver : std::string_view(verdict.driver), built);
    return verdict;
}

std::optional<std::string> judge_driver(std::string_view name, std::span<const drivers::DriverInfo> built) {
    if (find_built(name, built) != nullptr) return std::nullopt;
    const auto gone = std::ranges::find(gone_drivers, name, &GoneDriver::name);
    if (gone != gone_drivers.end()) return std::string(gone->message);
    std::vector<std::string_view> names;
    for (const drivers::DriverInfo &one : built)
        names.push_back(one.name);
    const std::string near = nearest(name, names);
    return fmt::format("no driver is called \"{}\"; there are: {}{}", name, fmt::join(names, ", "),
                       near.empty() ? "" : fmt::format("; did you mean {}?", near));
}

namespace {

/// Takes one option into the settings, or says why not.
Status take_option(Settings &settings, const StorageOpt &option, std::span<const drivers::DriverInfo> built) {
    Verdict verdict = judge_option(option.text, settings.driver, built);
    const std::string shown = option.text.substr(0, option.text.find('='));
    switch (verdict.standing) {
    case Standing::guard:
        settings.guard.try_emplace(verdict.key, verdict.value);
        settings.notes.push_back(fmt::format("{}: {}: {}", option.origin, shown, verdict.message));
        return {};
    case Standing::known:
        break;
    case Standing::obsolete:
    case Standing::unbuilt:
    case Standing::unknown:
        return fail(Errc::InvalidArgument,
                    fmt::format("{}: storage option {}: {}", option.origin, shown, verdict.message));
    }
    if (!verdict.driver.empty() && !settings.driver.empty() && verdict.driver != settings.driver) {
        if (option.of_section) return {};
        return fail(Errc::InvalidArgument,
                    fmt::format("{}: storage option {} is of driver {}, but driver {} is asked for", option.origin,
                                shown, verdict.driver, settings.driver));
    }
    if (settings.driver_options.try_emplace(verdict.key, verdict.value).second)
        settings.origin.try_emplace("driver_options." + verdict.key, option.origin);
    return {};
}

} // namespace

store::StoreOptions store_options(const Settings &settings) {
    store::StoreOptions out;
    out.root = settings.root;
    out.driver = settings.driver;
    out.driver_options = settings.driver_options;
    out.durability = settings.durability;
    out.jobs = settings.jobs;
    out.tar_limits = settings.limits;
    return out;
}

Result<Settings> resolve(std::span<const Source> sources, const std::string &default_root,
                         std::span<const drivers::DriverInfo> built) {
    Settings settings;
    std::string durability = "full";
    uint64_t jobs = 0;
    settings.root = default_root;
    for (const char *name : {"root", "driver", "durability", "jobs", "limits.entries", "limits.layer_bytes"})
        settings.origin[name] = "default";
    auto take = [&](const char *name, const auto &from, auto &into) {
        for (const Source &source : sources)
            if (from(source)) {
                into = *from(source);
                settings.origin[name] = source.name;
                return;
            }
    };
    take("root", [](const Source &s) -> const auto & { return s.root; }, settings.root);
    take("driver", [](const Source &s) -> const auto & { return s.driver; }, settings.driver);
    take("durability", [](const Source &s) -> const auto & { return s.durability; }, durability);
    take("jobs", [](const Source &s) -> const auto & { return s.jobs; }, jobs);
    take("limits.entries", [](const Source &s) -> const auto & { return s.max_entries; }, settings.limits.entries);
    take(
        "limits.layer_bytes", [](const Source &s) -> const auto & { return s.max_layer_bytes; },
        settings.limits.total_bytes);

    if (settings.root.empty() || settings.root[0] != '/')
        return fail(Errc::InvalidArgument,
                    fmt::format("root \"{}\" ({}) must be an absolute path", settings.root, settings.origin["root"]));
    if (!settings.driver.empty())
        if (auto reason = judge_driver(settings.driver, built))
            return fail(Errc::InvalidArgument, fmt::format("{}: {}", settings.origin["driver"], *reason));
    if (durability != "full" && durability != "none")
        return fail(Errc::InvalidArgument, fmt::format("{}: durability \"{}\" must be full or none",
                                                       settings.origin["durability"], durability));
    settings.durability = durability == "full" ? store::Durability::full : store::Durability::none;
    if (jobs > 1024)
        return fail(Errc::InvalidArgument,
                    fmt::format("{}: jobs {} must be 0 (one per processor) to 1024", settings.origin["jobs"], jobs));
    settings.jobs = static_cast<unsigned>(jobs);
    settings.limits.file_bytes = std::min(settings.limits.file_bytes, settings.limits.total_bytes);

    for (const Source &source : sources) {
        for (const StorageOpt &option : source.storage_opts)
            TRY(take_option(settings, option, built));
        settings.notes.insert(settings.notes.end(), source.notes.begin(), source.notes.end());
    }
    return settings;
}

} // namespace shale::cli
