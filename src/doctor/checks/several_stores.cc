// SPDX-License-Identifier: Apache-2.0
// several-stores: stores of several engines or drivers that share one file system.
#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t much_bytes = uint64_t{1} << 30U; ///< of images that are there twice

/// "nginx" -> "docker.io/library/nginx:latest": as containerd and podman write what docker shortens (distribution,
/// reference/normalize.go).
std::string full_name(std::string_view name) {
    std::string out(name);
    const size_t slash = out.find('/');
    const std::string_view first = std::string_view(out).substr(0, slash == std::string::npos ? 0 : slash);
    if (slash == std::string::npos)
        out = "docker.io/library/" + out;
    else if (first != "localhost" && first.find_first_of(".:") == std::string_view::npos)
        out = "docker.io/" + out;
    const size_t last = out.rfind('/');
    if (out.find_first_of(":@", last) == std::string::npos) out += ":latest";
    return out;
}

uint64_t bytes_of(const Layers &layers, const probe::StoreImage &image) {
    uint64_t out = 0;
    for (const auto &id : image.layers)
        if (const auto found = layers.find(id); found != layers.end() && found->second->usage)
            out += found->second->usage->bytes;
    return out;
}

/// An image by its full name: in which stores, and what it takes there.
struct Copies {
    std::vector<std::string> stores;
    std::vector<uint64_t> bytes;
    [[nodiscard]] uint64_t twice() const { // all but the largest
        uint64_t sum = 0;
        for (const uint64_t each : bytes)
            sum += each;
        return sum - std::ranges::max(bytes);
    }
};

std::map<std::string, Copies> images_in(const std::vector<const probe::Store *> &stores) {
    std::map<std::string, Copies> out;
    for (const auto *store : stores) {
        const Layers layers = layers_by_id(*store);
        std::set<std::string> seen;
        for (const auto &image : store->images)
            for (const auto &name : image.names) {
                std::string full = full_name(name);
                if (!seen.insert(full).second) continue;
                Copies &copies = out[std::move(full)];
                copies.stores.push_back(fmt::format("{} {}", store->engine, store->driver));
                copies.bytes.push_back(bytes_of(layers, image));
            }
    }
    std::erase_if(out, [](const auto &each) { return each.second.stores.size() < 2; });
    return out;
}

std::string line_of(const probe::Store &store) {
    const StoreSize size = size_of(store);
    return fmt::format("{}: {}{} in {}, {}, {}{}", name_of(store), size.complete ? "" : "at least ",
                       format_bytes(size.bytes), counted(store.layers.size(), "layer"),
                       counted(store.images.size(), "image"), counted(store.containers.size(), "container"),
                       store.running ? ", its engine runs" : "");
}

Finding finding_of(const probe::FileSystem &fs, std::vector<const probe::Store *> stores) {
    const auto bytes = [](const auto *store) { return size_of(*store).bytes; };
    std::ranges::stable_sort(stores, std::ranges::greater(), bytes);
    Finding out;
    uint64_t sum = 0;
    uint64_t twice = 0;
    for (const auto *store : stores) {
        sum += bytes(store);
        out.evidence.push_back(line_of(*store));
    }
    const auto images = images_in(stores);
    for (const auto &[name, copies] : images) {
        twice += copies.twice();
        out.evidence.push_back(fmt::format("image {} is in {}", shown(name), listed(copies.stores)));
    }
    out.severity = twice >= much_bytes ? Severity::warning : Severity::info;
    out.subject = fmt::format("{} ({})", shown(fs.target), shown(fs.type));
    out.summary = fmt::format("{} share it and take {}, {} of it", counted(stores.size(), "store"), format_bytes(sum),
                              percent_text(sum, fs.total_bytes));
    if (!images.empty())
        out.summary += fmt::format("; {} in more than one ({} twice)", counted(images.size(), "image is", "images are"),
                                   format_bytes(twice));
    out.evidence = limited(std::move(out.evidence));
    for (const auto *store : stores) {
        if (store->running || store->images.empty()) continue;
        out.commands.push_back(fmt::format("# nothing runs on the {}; if nothing will, free it:", name_of(*store)));
        for (auto &command : prune_commands(*store))
            out.commands.push_back(std::move(command));
    }
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &fs : facts.file_systems) {
        std::vector<const probe::Store *> stores;
        for (const auto &store : facts.stores) {
            // BuildKit in dockerd keeps its layers in dockerd's store.
            const bool in_docker =
                store.engine == "buildkit" && std::ranges::any_of(facts.stores, [&](const auto &other) {
                    return other.engine == "docker" && lies_in(store.root, other.root);
                });
            if (!in_docker && !store.layers.empty() && file_system_of_layers(facts, store) == &fs)
                stores.push_back(&store);
        }
        if (stores.size() > 1) out.findings.push_back(finding_of(fs, std::move(stores)));
    }
    return out;
}

} // namespace

extern const Check several_stores;
const Check several_stores{
    .id = "several-stores",
    .title = "Several engines keep their stores on one file system",
    .why = "Docker, containerd, podman and each of their drivers have stores of their own. None sees the others: "
           "images lie there twice, each engine's thresholds count the space of all, and one that was tried once "
           "keeps its gigabytes.",
    .limits = "Two or more stores with layers on one file system. A warning when images of the same name take 1 GiB "
              "or more twice; else a note. Names are compared as written in full (docker.io/library/nginx:latest); "
              "the same name may stand for different contents.",
    .remedy = "Keep one engine's store, empty the others with their own commands.",
    .risk = "Containers of the other engine may be needed though its daemon does not run now (podman has none).",
    .undo = "Pull again.",
    .run = run,
};

} // namespace shale::doctor::checks
