// SPDX-License-Identifier: Apache-2.0
// overlay-options: redirect_dir, metacopy, index and nfs_export, as they are set, against what layers were written
// with; and what that costs. (xino changes only the inode numbers that a mount shows, no layer.)
#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/mounted_layers.h"

namespace shale::doctor::checks {
namespace {

enum class Set : uint8_t { unknown, off, on };

/// What the store's own mounts say of an option: a setting of that name, or in "mountopt" (containers/storage).
Set set_by_store(const probe::Store &store, std::string_view option) {
    std::string_view value;
    if (const auto *own = value_of(store.settings, option); own != nullptr) value = *own;
    if (const auto *all = value_of(store.settings, "mountopt"); all != nullptr) {
        const std::string key = fmt::format(",{}=", option);
        const std::string text = "," + *all;
        if (const size_t at = text.find(key); at != std::string::npos)
            value = std::string_view(*all).substr(at + key.size() - 1).substr(0, 2); // "on" or "of"
    }
    if (value == "on" || value == "true") return Set::on;
    return value.empty() ? Set::unknown : Set::off;
}

Set set_by_module(const probe::Facts &facts, std::string_view option) {
    const auto *const value = value_of(facts.kernel.parameters, fmt::format("overlay.{}", option));
    if (value == nullptr || value->empty()) return Set::unknown;
    return value->front() == 'Y' || value->front() == '1' ? Set::on : Set::off;
}

/// For mounts that the engine makes from now on.
Set in_effect(const probe::Facts &facts, const probe::Store &store, std::string_view option) {
    const Set own = set_by_store(store, option);
    return own != Set::unknown ? own : set_by_module(facts, option);
}

/// Engines that always mount with index=off: moby, daemon/graphdriver/overlay2; containerd, plugins/snapshots/overlay.
bool forces_index_off(const probe::Store &store) {
    return store.engine == "docker" || store.engine == "containerd";
}

uint64_t sampled(const probe::Store &store, std::string_view key) {
    const auto *const value = value_of(store.settings, key);
    uint64_t out = 0;
    if (value != nullptr) std::from_chars(value->data(), value->data() + value->size(), out);
    return out;
}

std::vector<std::string> set_module(std::string_view options) {
    return {fmt::format("echo 'options overlay {}' > /etc/modprobe.d/overlay-options.conf", options),
            "# holds after a reboot, or at once for mounts made from then on: /sys/module/overlay/parameters/"};
}

/// Layers that the kernel will not read as they were written.
void add_refused(const probe::Facts &facts, const probe::Store &store, Outcome &out) {
    Finding finding;
    finding.severity = Severity::critical;
    finding.subject = name_of(store);
    const uint64_t metacopy = sampled(store, "xattr metacopy");
    const uint64_t redirect = sampled(store, "xattr redirect");
    if (metacopy != 0 && in_effect(facts, store, "metacopy") == Set::off) {
        finding.summary = "layers were written with metacopy=on, and it is off now: such files cannot be opened";
        finding.evidence.push_back(fmt::format("{} of a sample {} data in a layer below", counted(metacopy, "file"),
                                               metacopy == 1 ? "has its" : "have their"));
        finding.commands = set_module("redirect_dir=on metacopy=on");
    } else if (redirect != 0 && in_effect(facts, store, "redirect_dir") == Set::off &&
               set_by_module(facts, "redirect_always_follow") == Set::off) {
        finding.summary = "layers have directories that were renamed with redirect_dir=on, and redirects are not "
                          "followed now: these directories cannot be entered";
        finding.evidence.push_back(fmt::format("{} of a sample {} redirected",
                                               counted(redirect, "directory", "directories"),
                                               redirect == 1 ? "is" : "are"));
        finding.commands = set_module("redirect_always_follow=on");
    } else {
        return;
    }
    out.findings.push_back(std::move(finding));
}

/// docker build and podman commit compare whole trees instead of taking the upper directory.
void add_native_diff(const probe::Facts &facts, const probe::Store &store, Outcome &out) {
    const bool has_diff = (store.engine == "docker" && store.driver == "overlay2") || store.engine == "podman";
    if (!has_diff || value_of(store.settings, "mount_program") != nullptr) return;
    Finding finding;
    finding.subject = name_of(store);
    if (in_effect(facts, store, "redirect_dir") == Set::on || set_by_store(store, "metacopy") == Set::on) {
        const bool by_store =
            set_by_store(store, "redirect_dir") == Set::on || set_by_store(store, "metacopy") == Set::on;
        finding.severity = by_store ? Severity::info : Severity::warning;
        finding.evidence.emplace_back(by_store ? "its own mount options say so"
                                               : "/sys/module/overlay/parameters/redirect_dir is Y");
        finding.summary = "native diff is off, builds and commits compare whole trees: redirect_dir is on";
        if (!by_store) {
            finding.commands = set_module("redirect_dir=off metacopy=off");
            finding.commands.emplace_back("echo N > /sys/module/overlay/parameters/redirect_dir");
            if (store.engine == "docker") finding.commands.emplace_back("systemctl restart docker");
        }
        if (sampled(store, "xattr redirect") != 0)
            finding.evidence.emplace_back("layers have redirects already: they stay readable only while "
                                          "redirect_always_follow is Y");
    } else if (!facts.kernel.release.empty() && !kernel_at_least(facts, 4, 8)) {
        finding.summary = "native diff is off, builds and commits compare whole trees: kernels before 4.8 copy up the "
                          "mark of an opaque directory";
        finding.evidence.push_back(fmt::format("the kernel is {}", shown(facts.kernel.release)));
        finding.commands = {"# use a kernel of 4.8 or later"};
    } else {
        return;
    }
    out.findings.push_back(std::move(finding));
}

void add_index(const probe::Facts &facts, const probe::Store &store, Outcome &out) {
    if (forces_index_off(store)) return;
    const bool index = in_effect(facts, store, "index") == Set::on;
    const bool nfs_export = in_effect(facts, store, "nfs_export") == Set::on;
    if (!index && !nfs_export) return;
    Finding finding;
    finding.severity = Severity::info;
    finding.subject = name_of(store);
    finding.summary = fmt::format("its containers are tied to the place of their layers: {} is on",
                                  index && nfs_export ? "index and nfs_export"
                                  : index             ? "index"
                                                      : "nfs_export");
    finding.evidence.emplace_back("a store that is copied or restored elsewhere fails to mount with ESTALE");
    finding.commands = set_module("index=off nfs_export=off");
    out.findings.push_back(std::move(finding));
}

/// The options of a mount that decide how its layers read, as the kernel shows them: those that are not its defaults.
std::string options_of(const probe::Mount &mount) {
    constexpr std::array names{"redirect_dir", "metacopy", "index", "nfs_export"};
    std::string out;
    for (std::string_view rest = mount.super_options; !rest.empty();) {
        const std::string_view option = rest.substr(0, rest.find(','));
        rest.remove_prefix(std::min(rest.size(), option.size() + 1));
        const std::string_view name = option.substr(0, option.find('='));
        if (std::ranges::find(names, name) == names.end()) continue;
        if (!out.empty()) out += ',';
        out += option;
    }
    return out;
}

using Groups = std::map<std::string, std::vector<const probe::Mount *>>; ///< by their options

std::map<const probe::Store *, Groups> groups_of(const probe::Facts &facts) {
    std::map<const probe::Store *, Groups> out;
    std::set<std::string_view> devices; // a mount is seen in every namespace that has it
    for (const auto &mounted : mounted_layers(facts))
        if (mounted.mount->type == "overlay" && !upper_directory(*mounted.mount).empty() &&
            devices.insert(mounted.mount->device).second)
            out[mounted.store][options_of(*mounted.mount)].push_back(mounted.mount);
    return out;
}

void add_differing(const probe::Store &store, const Groups &groups, Outcome &out) {
    if (groups.size() < 2) return;
    Finding finding;
    const bool matters = std::ranges::any_of(groups, [](const auto &group) {
        return group.first.contains("redirect_dir=") || group.first.contains("metacopy=");
    });
    finding.severity = matters ? Severity::warning : Severity::info;
    finding.subject = name_of(store);
    finding.summary =
        fmt::format("its containers are mounted with {} different sets of options: they were changed while "
                    "containers ran, which get the new ones when they start again",
                    groups.size());
    for (const auto &[options, mounts] : groups)
        finding.evidence.push_back(fmt::format("{} with {}: {}", counted(mounts.size(), "mount"),
                                               options.empty() ? "the module's defaults" : shown(options),
                                               shown(mounts.front()->target)));
    finding.evidence = limited(std::move(finding.evidence));
    finding.commands = {"grep -H . /sys/module/overlay/parameters/*"};
    out.findings.push_back(std::move(finding));
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    const auto groups = groups_of(facts);
    for (const auto &store : facts.stores) {
        if (!is_overlay(store)) continue;
        add_refused(facts, store, out);
        add_native_diff(facts, store, out);
        add_index(facts, store, out);
        if (const auto found = groups.find(&store); found != groups.end()) add_differing(store, found->second, out);
    }
    return out;
}

} // namespace

extern const Check overlay_options;
const Check overlay_options{
    .id = "overlay-options",
    .title = "overlayfs options that do not fit the layers",
    .why = "redirect_dir and metacopy change what overlayfs writes into upper directories. Layers that were written "
           "with them cannot be read without (\"Operation not permitted\"), and while redirect_dir is on, Docker and "
           "podman find what a container changed by comparing whole trees (\"Not using native diff for overlay2\"), "
           "which makes builds many times slower. index and nfs_export tie a store to its place.",
    .limits = "By /sys/module/overlay/parameters, the store's own options and the options of its mounts. Whether "
              "layers have redirects or metacopy files is known from a sample of their top entries. Rules: kernel, "
              "Documentation/filesystems/overlayfs.rst and fs/overlayfs/namei.c; moby, "
              "daemon/graphdriver/overlay2/check.go (doesSupportNativeDiff); containers/storage, "
              "drivers/overlay/check.go.",
    .remedy = "Set the module's options so that they fit, before containers start.",
    .risk = "With redirect_dir off, renaming a directory of an image fails with EXDEV and programs copy it instead. "
            "With metacopy off, chown and chmod of a file of an image copy the whole file. Never switch metacopy off "
            "while layers have such files.",
    .undo = "Remove the file below /etc/modprobe.d and write the old value into /sys/module/overlay/parameters.",
    .run = run,
};

} // namespace shale::doctor::checks
