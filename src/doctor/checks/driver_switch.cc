// SPDX-License-Identifier: Apache-2.0
// driver-switch: images that went out of sight when the engine changed its storage driver.
#include <algorithm>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

using Stores = std::vector<const probe::Store *>;

/// Docker 23 and later can keep images in containerd: then it uses no driver of its own.
bool is_in_containerd(const probe::Store &store) {
    const auto *const value = value_of(store.settings, "containerd-snapshotter");
    return value != nullptr && *value == "true";
}

/// The driver that the engine at this root uses; empty: it cannot be told.
std::string driver_in_use(const probe::Facts &facts, const Stores &stores) {
    const bool docker = stores.front()->engine == "docker";
    const auto feature = docker_setting(facts, {"features", "containerd-snapshotter"});
    if (docker &&
        (feature == "true" || std::ranges::any_of(stores, [](const auto *store) { return is_in_containerd(*store); })))
        return "containerd's image store";
    if (std::ranges::count_if(stores, &probe::Store::running) == 1)
        return (*std::ranges::find_if(stores, &probe::Store::running))->driver;
    if (docker) return docker_setting(facts, {"storage-driver"}).value_or("");
    const auto *const driver = value_of(stores.front()->settings, "driver");
    return driver == nullptr ? std::string() : *driver;
}

bool has_something(const probe::Store &store) {
    return !store.images.empty() || !store.containers.empty();
}

Finding finding_of(const probe::Store &left, const std::string &in_use) {
    const StoreSize size = size_of(left);
    Finding out;
    out.subject = name_of(left);
    out.summary =
        fmt::format("{} uses {} now: {} and {} of {} are out of its sight, {}{}", shown(left.engine), shown(in_use),
                    counted(left.images.size(), "image"), counted(left.containers.size(), "container"),
                    shown(left.driver), size.complete ? "" : "at least ", format_bytes(size.bytes));
    for (const auto &image : left.images)
        out.evidence.push_back(fmt::format("image {}", name_of(image)));
    for (const auto &container : left.containers)
        out.evidence.push_back(
            fmt::format("container {}", shown(container.name.empty() ? container.id : container.name)));
    out.evidence = limited(std::move(out.evidence));
    const std::string root = shell_quote(left.root);
    if (left.engine == "docker") {
        out.commands = {
            "# to see them, and save what is needed, with a second daemon that touches nothing of the first:",
            "systemctl stop docker",
            fmt::format("dockerd --data-root {} --storage-driver {} -H unix:///run/docker-old.sock", root,
                        shell_quote(left.driver)),
            "docker -H unix:///run/docker-old.sock image ls",
            "docker -H unix:///run/docker-old.sock save -o /var/tmp/IMAGE.tar IMAGE",
            "# to free all of them there: docker -H unix:///run/docker-old.sock system prune -a"};
    } else {
        const std::string podman = fmt::format("podman --root {} --storage-driver {}", root, shell_quote(left.driver));
        out.commands = {podman + " image ls", podman + " save -o /var/tmp/IMAGE.tar IMAGE",
                        fmt::format("# to free all of them there: {} system prune -a", podman)};
    }
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    std::map<std::pair<std::string, std::string>, Stores> engines; // by engine and root
    for (const auto &store : facts.stores)
        if (store.engine == "docker" || store.engine == "podman") engines[{store.engine, store.root}].push_back(&store);
    for (const auto &[engine, stores] : engines) {
        if (std::ranges::none_of(stores, [](const auto *store) { return has_something(*store); })) continue;
        const std::string in_use = driver_in_use(facts, stores);
        if (in_use.empty()) {
            if (std::ranges::count_if(stores, [](const auto *store) { return has_something(*store); }) > 1)
                out.unable.push_back(
                    fmt::format("{} at {}: which of its drivers is in use is set nowhere, and no daemon of it "
                                "runs",
                                shown(engine.first), shown(engine.second)));
            continue;
        }
        for (const auto *store : stores)
            if (store->driver != in_use && !store->running && !is_in_containerd(*store) && has_something(*store))
                out.findings.push_back(finding_of(*store, in_use));
    }
    return out;
}

} // namespace

extern const Check driver_switch;
const Check driver_switch{
    .id = "driver-switch",
    .title = "Images of a storage driver that is not in use any more",
    .why = "Each storage driver has images and containers of its own. After a switch (a new storage-driver, an "
           "upgrade, containerd's image store) the old ones seem to be lost, while they take their space as before "
           "and no prune reaches them (moby issues 14707, 32303, 34112).",
    .limits = "Docker and podman: a store of a driver that is not the one in use, with images or containers. In use "
              "is the one that runs, else the one that the configuration names (daemon.json storage-driver and "
              "features.containerd-snapshotter; storage.conf driver).",
    .remedy = "Save what is needed with the old driver, load it with the new one, then remove the old store with the "
              "old driver's own commands; or go back to the old driver.",
    .risk = "Stopping dockerd stops its containers unless live-restore is on. Removing the directory by hand misses "
            "mounts, subvolumes, datasets and quotas of the driver.",
    .undo = "Set the old driver in the configuration again; both stores can lie side by side.",
    .run = run,
};

} // namespace shale::doctor::checks
