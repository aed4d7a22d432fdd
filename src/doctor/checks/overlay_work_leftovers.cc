// SPDX-License-Identifier: Apache-2.0
// overlay-work-leftovers: what removals, pulls and builds left half done.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t warning_bytes = uint64_t{1} << 30U;
constexpr uint64_t old_s = 24 * 3600; ///< a pull or build that has unpacked for so long is dead

/// Directories of work in Store::other_bytes.
constexpr std::array<std::string_view, 4> work{"ingest", "staging", "tmp", "unfinished blobs"};

struct Left {
    uint64_t bytes = 0;
    std::string line;
};

/// What it is a rest of; empty: it is no leftover.
std::string_view rest_of(const probe::Facts &facts, const probe::StoreLayer &layer, const Layers &all) {
    if (layer.kind == "removing" && (layer.on_disk || !layer.path.empty())) return "a removal that did not end";
    if (is_init_leftover(layer, all)) return "the init layer of a container that is gone";
    if (layer.kind == "ingest" && layer.created_s != 0 && layer.created_s + old_s < facts.taken_s)
        return "an unpacking that did not end";
    return {};
}

std::vector<Left> leftovers_of(const probe::Facts &facts, const probe::Store &store) {
    std::vector<Left> out;
    const Layers all = layers_by_id(store);
    for (const auto &layer : store.layers) {
        const std::string_view rest = rest_of(facts, layer, all);
        if (rest.empty()) continue;
        const std::string since = since_text(layer.created_s);
        out.push_back({layer.usage ? layer.usage->exclusive_bytes : 0,
                       fmt::format("{}: {}, {}{}{}", place_of(layer), rest, exclusive_text(layer.usage),
                                   since.empty() ? "" : ", ", since)});
    }
    // While the engine works, its work directories are in use.
    for (const auto name : work) {
        const uint64_t *const bytes = value_of(store.other_bytes, name);
        if (bytes != nullptr && *bytes != 0 && !store.running)
            out.push_back({*bytes, fmt::format("{} at the store's root: {}", name, format_bytes(*bytes))});
    }
    std::ranges::stable_sort(out, std::ranges::greater(), &Left::bytes);
    return out;
}

/// How many names in the driver's l/ lead to no layer; empty: none do, or nobody has looked.
std::string dangling_links(const probe::Store &store) {
    for (const char *const key : {"dangling links", "links to missing layers"})
        if (const std::string *const count = value_of(store.settings, key); count != nullptr && *count != "0")
            return shown(*count);
    return {};
}

std::vector<std::string> commands_for(const probe::Store &store) {
    if (store.engine == "docker")
        return {"# dockerd frees what it was removing when it shuts down, and its tmp/ when it starts:",
                "systemctl restart docker", "shale orphans"};
    if (store.engine == "containerd") return {"systemctl restart containerd", "shale orphans"};
    if (store.engine == "podman")
        return {fmt::format("podman --root {} system prune", shell_quote(store.root)), "shale orphans"};
    if (store.engine == "shale") return {fmt::format("shale --root {} gc", shell_quote(store.root))};
    return {"shale orphans"};
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &store : facts.stores) {
        std::vector<Left> left = leftovers_of(facts, store);
        const std::string links = dangling_links(store);
        if (left.empty() && links.empty()) continue;
        uint64_t bytes = 0;
        Finding finding;
        for (auto &one : left) {
            bytes += one.bytes;
            finding.evidence.push_back(std::move(one.line));
        }
        if (!links.empty()) finding.evidence.push_back(fmt::format("links of layers that lead nowhere: {}", links));
        finding.severity = bytes >= warning_bytes ? Severity::warning : Severity::info;
        finding.subject = name_of(store);
        finding.summary = fmt::format("{} of unfinished work {} left: {}", counted(finding.evidence.size(), "rest"),
                                      finding.evidence.size() == 1 ? "is" : "are", format_bytes(bytes));
        finding.evidence = limited(std::move(finding.evidence));
        finding.commands = commands_for(store);
        out.findings.push_back(std::move(finding));
    }
    return out;
}

} // namespace

extern const Check overlay_work_leftovers;
const Check overlay_work_leftovers{
    .id = "overlay-work-leftovers",
    .title = "Rests of removals, pulls and builds that did not end",
    .why = "An engine that is killed in the middle of its work, or finds a layer busy, leaves what it had: layers "
           "that are marked as being removed, init layers without a container, temporary directories, half unpacked "
           "layers. They take space, and nothing lists them.",
    .limits = "Layers that are being removed; init layers (ID-init) whose container's layer is not on disk; "
              "unpackings that began more than 24 hours ago; work directories (tmp, staging, ingest, unfinished "
              "blobs) that are not empty while the engine does not run. A warning from 1 GiB on, else a note.",
    .remedy = "Let the engine tidy up by itself: dockerd does when it shuts down and starts (moby, "
              "layer/layer_store.go, Cleanup), containerd's snapshotters in their Cleanup, containers/storage when a "
              "store is closed. What then is still there is for `shale orphans`.",
    .risk = "A restart of dockerd stops its containers unless live-restore is on. A pull that is slow, not dead, "
            "loses what it had.",
    .undo = "Pull or build again.",
    .run = run,
};

} // namespace shale::doctor::checks
