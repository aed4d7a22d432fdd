// SPDX-License-Identifier: Apache-2.0
// store-leaked-records: records of layers that nothing uses, or that are not there.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t grace_s = 3600; ///< a pull may take as long before its image has a record
constexpr std::string_view layer_user = "layer ";

/// Layers that an image, a container, a lease or the like needs, be it through others above them.
std::unordered_set<std::string_view> needed_layers(const probe::Store &store) {
    const Layers layers = layers_by_id(store);
    std::unordered_multimap<std::string_view, std::string_view> below; // by the id above
    std::vector<std::string_view> todo;
    for (const auto &layer : store.layers) {
        if (!layer.parent.empty()) below.emplace(layer.id, layer.parent);
        for (const auto &user : layer.used_by) {
            if (user.starts_with(layer_user))
                below.emplace(std::string_view(user).substr(layer_user.size()), layer.id);
            else
                todo.push_back(layer.id);
        }
    }
    std::unordered_set<std::string_view> out;
    while (!todo.empty()) {
        const std::string_view id = todo.back();
        todo.pop_back();
        if (!layers.contains(id) || !out.insert(id).second) continue;
        const auto [begin, end] = below.equal_range(id);
        for (auto each = begin; each != end; ++each)
            todo.push_back(each->second);
    }
    return out;
}

bool is_young(const probe::Facts &facts, const probe::StoreLayer &layer) {
    return layer.created_s != 0 && layer.created_s + grace_s > facts.taken_s;
}

/// A record of the BuildKit in dockerd: it is its own use, and dockerd's store has its tree.
bool is_cache_record(const probe::Store &store, const probe::StoreLayer &layer) {
    return store.engine == "buildkit" && layer.path.empty();
}

bool is_unused(const probe::Facts &facts, const probe::StoreLayer &layer) {
    return layer.recorded && layer.on_disk && layer.kind != "ingest" && layer.kind != "removing" &&
           layer.kind != "cache" && !is_young(facts, layer);
}

/// Also where the layer has its place in another store: BuildKit's in that of Docker's driver.
bool is_absent(const probe::StoreLayer &layer) {
    return layer.recorded && !layer.on_disk && !layer.path.empty() && layer.kind != "ingest" &&
           layer.kind != "removing";
}

std::string line_of(const probe::StoreLayer &layer) {
    const std::string name =
        layer.name.empty() || layer.name == layer.id ? "" : fmt::format(" ({})", shown(layer.name));
    return fmt::format("{}{}: {}", place_of(layer), name, exclusive_text(layer.usage));
}

std::vector<std::string> commands_for_unused(const probe::Store &store) {
    const std::string root = shell_quote(store.root);
    if (store.engine == "containerd")
        return {"# containerd collects what it still knows after the next removal of anything; look at what stays:",
                fmt::format("ctr -n NAMESPACE snapshots --snapshotter {} ls", shell_quote(store.driver)),
                "shale orphans"};
    if (store.engine == "podman")
        return {fmt::format("podman --root {} image prune", root),
                fmt::format("# podman 5: podman --root {} system check --quick --repair --max 24h", root)};
    if (store.engine == "shale") return {fmt::format("shale --root {} gc --dry-run", root)};
    return {"# no command of docker knows them; after a restart it collects none of them, either", "shale orphans"};
}

Finding unused_finding(const probe::Store &store, std::vector<const probe::StoreLayer *> layers) {
    const auto bytes = [](const auto *layer) { return layer->usage ? layer->usage->exclusive_bytes : 0; };
    std::ranges::stable_sort(layers, std::ranges::greater(), bytes);
    Finding out;
    for (const auto *layer : layers)
        out.evidence.push_back(line_of(*layer));
    out.subject = name_of(store);
    out.summary = fmt::format("{} {} recorded, but no image, container or lease needs {}: {}",
                              counted(layers.size(), "layer"), layers.size() == 1 ? "is" : "are",
                              layers.size() == 1 ? "it" : "them", exclusive_text(exclusive_of(layers)));
    out.evidence = limited(std::move(out.evidence));
    out.commands = commands_for_unused(store);
    return out;
}

Finding absent_finding(const probe::Store &store, const std::vector<const probe::StoreLayer *> &layers) {
    Finding out;
    const auto used = [](const auto *layer) { return !layer->used_by.empty(); };
    const auto needed = static_cast<uint64_t>(std::ranges::count_if(layers, used));
    out.severity = needed == 0 ? Severity::warning : Severity::critical;
    out.subject = name_of(store);
    out.summary = fmt::format("{} recorded, but not on disk; {} of them in use",
                              counted(layers.size(), "layer is", "layers are"), format_count(needed));
    for (const bool first : {true, false})
        for (const auto *layer : layers)
            if (used(layer) == first)
                out.evidence.push_back(fmt::format("{}: {}", place_of(*layer), users_text(*layer)));
    out.evidence = limited(std::move(out.evidence));
    if (store.engine == "docker")
        out.commands = {"# for each image above, so that its layers are pulled again:", "docker image rm -f IMAGE",
                        "docker pull IMAGE"};
    else if (store.engine == "podman")
        out.commands = {fmt::format("podman --root {} image rm -f IMAGE", shell_quote(store.root)),
                        fmt::format("podman --root {} pull IMAGE", shell_quote(store.root))};
    else if (store.engine == "containerd")
        out.commands = {"ctr -n NAMESPACE images rm IMAGE", "ctr -n NAMESPACE images pull IMAGE"};
    else if (store.engine == "shale")
        out.commands = {fmt::format("shale --root {} check --repair", shell_quote(store.root))};
    return out;
}

void judge(const probe::Facts &facts, const probe::Store &store, Outcome &out) {
    const auto needed = needed_layers(store);
    std::vector<const probe::StoreLayer *> unused;
    std::vector<const probe::StoreLayer *> absent;
    for (const auto &layer : store.layers) {
        if (is_absent(layer))
            absent.push_back(&layer);
        else if (is_unused(facts, layer) && !is_cache_record(store, layer) && !needed.contains(layer.id))
            unused.push_back(&layer);
    }
    if (!absent.empty()) out.findings.push_back(absent_finding(store, absent));
    if (!unused.empty()) out.findings.push_back(unused_finding(store, std::move(unused)));
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &store : facts.stores) {
        if (std::string why = unread_records(store); !why.empty())
            out.unable.push_back(std::move(why));
        else
            judge(facts, store, out);
    }
    return out;
}

} // namespace

extern const Check store_leaked_records;
const Check store_leaked_records{
    .id = "store-leaked-records",
    .title = "Records of layers that nothing uses, or that are not there",
    .why = "A layer that has a record but no image, container or lease above it takes space that no one asked for: a "
           "snapshot whose client died, layers of a pull that was broken off. The other way round, a record without "
           "its layer makes every container of its images fail to start, and a pull does not mend it, because the "
           "engine believes that it has the layer.",
    .limits = "Unused: no image, container, lease, build cache or the like, not even through layers above it; "
              "younger than an hour it may be a pull at work and is not counted. In containerd such a snapshot goes "
              "with the next garbage collection if the metadata store knows it; what is still there was leaked by a "
              "snapshotter. Not on disk: critical when something uses it. Nothing is said of a store whose records "
              "could not all be read.",
    .remedy = "Unused ones: the engine's own collection first, then `shale orphans`. Absent ones: remove the images "
              "that need them and pull those again.",
    .risk = "An unused layer may be somebody's base of a later build. Removing an image by force leaves its "
            "containers without it.",
    .undo = "Pull or build again.",
    .run = run,
};

} // namespace shale::doctor::checks
