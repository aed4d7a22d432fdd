// SPDX-License-Identifier: Apache-2.0
// depth-limit: images that are nearly as deep as their engine, or the kernel, can stack.
#include <algorithm>
#include <unordered_set>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr double near_percent = 90;
constexpr uint64_t kernel_layers = 500;    ///< fs/overlayfs/params.h, OVL_MAX_STACK
constexpr uint64_t docker_layers = 125;    ///< moby, layer/layer_store.go, maxLayerDepth, whatever the driver
constexpr uint64_t storage_layers = 500;   ///< containers/storage, drivers/overlay/overlay.go, maxDepth
constexpr uint64_t looked_at_layers = 100; ///< fewer fill no page, however long their ids
constexpr uint64_t most_steps = 2 * kernel_layers;

/// Layers of one image; 0: the engine has no limit that is known.
uint64_t limit_of(const probe::Store &store) {
    if (store.engine == "docker") return docker_layers;
    if (store.engine == "podman") return store.driver == "overlay" ? storage_layers : 0;
    return is_overlay(store) ? kernel_layers : 0;
}

struct Stack {
    uint64_t percent = 0; ///< of the limit
    uint64_t used = 0, limit = 0;
    std::string line;
};

/// mount(2) takes one page of options (kernel, fs/namespace.c, copy_mount_options), its last byte a NUL.
uint64_t page_bytes(const probe::Facts &facts) {
    return facts.kernel.architecture == "ppc64le" ? 65536 : 4096;
}

/// What containerd gives to mount(2) for a container on `top`: lower directories are relative when the options are long
/// (containerd, core/mount/mount_linux.go, compactLowerdirOption; snapshots/overlay, mounts). 0: not to be told.
uint64_t option_bytes(const Layers &layers, const probe::StoreLayer &top) {
    const size_t slash = top.path.rfind('/');
    if (slash == std::string::npos) return 0;
    const std::string snapshot = fmt::format("{}/{}", top.path.substr(0, slash), top.id);
    uint64_t out = fmt::format("index=off,workdir={0}/work,upperdir={0}/fs,lowerdir=", snapshot).size();
    uint64_t steps = 0;
    for (const auto *layer = &top; layer != nullptr && steps < most_steps; ++steps) {
        out += layer->id.size() + std::string_view("/fs:").size();
        const auto below = layers.find(layer->parent);
        layer = below == layers.end() ? nullptr : below->second;
    }
    return out - 1; // no ":" behind the last
}

bool fills_a_page(const probe::Store &store) {
    return store.engine == "containerd" && store.driver == "overlayfs";
}

Stack stack_of(const std::string &what, uint64_t count, uint64_t limit) {
    return {static_cast<uint64_t>(percent(count, limit)), count, limit,
            fmt::format("{}: {} of {} layers", what, format_count(count), format_count(limit))};
}

/// A chain of layers, by its top one: against the page of options if that is nearer.
Stack stack_of_top(const probe::Facts &facts, const probe::Store &store, const Layers &layers, const std::string &what,
                   const probe::StoreLayer &top, uint64_t limit) {
    Stack out = stack_of(what, top.depth + 1, limit);
    if (!fills_a_page(store) || top.depth < looked_at_layers) return out;
    const uint64_t bytes = option_bytes(layers, top);
    const uint64_t most = page_bytes(facts) - 1;
    if (const auto of_page = static_cast<uint64_t>(percent(bytes, most)); of_page > out.percent)
        out = {of_page, bytes, most,
               fmt::format("{}: {} layers make {} of {} bytes of mount options", what, format_count(top.depth + 1),
                           format_count(bytes), format_count(most))};
    return out;
}

std::vector<Stack> stacks_of(const probe::Facts &facts, const probe::Store &store, uint64_t limit) {
    const Layers layers = layers_by_id(store);
    std::vector<Stack> out;
    std::unordered_set<std::string_view> of_images;
    for (const auto &image : store.images) {
        of_images.insert(image.layers.begin(), image.layers.end());
        const auto top = image.layers.empty() ? layers.end() : layers.find(image.layers.back());
        const std::string what = fmt::format("image {}", name_of(image));
        out.push_back(top == layers.end() || top->second->depth + 1 < image.layers.size()
                          ? stack_of(what, image.layers.size() + image.missing_layers, limit)
                          : stack_of_top(facts, store, layers, what, *top->second, limit));
    }
    for (const auto &layer : store.layers) // of build cache, or of images that have lost their name
        if (layer.kind == "committed" && layer.depth + 1 >= looked_at_layers && !of_images.contains(layer.id))
            out.push_back(stack_of_top(facts, store, layers, fmt::format("layer {}", place_of(layer)), layer, limit));
    std::erase_if(out, [](const Stack &stack) { return percent(stack.used, stack.limit) < near_percent; });
    std::ranges::stable_sort(out, std::ranges::greater(), &Stack::percent);
    return out;
}

std::vector<std::string> commands_for(const probe::Store &store) {
    if (store.engine == "docker")
        return {"# build the image anew from fewer steps, or make one layer of all (ENV, CMD, USER ... by --change):",
                "docker create --name flat IMAGE && docker export flat | docker import - IMAGE:flat && docker rm flat"};
    return {"# build the image anew from fewer steps, or make one layer of all:",
            "buildah build --squash-all -t NAME ."};
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &store : facts.stores) {
        const uint64_t limit = limit_of(store);
        if (limit == 0) continue;
        std::vector<Stack> stacks = stacks_of(facts, store, limit);
        if (stacks.empty()) continue;
        Finding finding;
        const bool full = std::ranges::any_of(stacks, [](const Stack &stack) { return stack.used >= stack.limit; });
        finding.severity = full ? Severity::critical : Severity::warning;
        finding.subject = name_of(store);
        finding.summary =
            fmt::format("{} nearly as deep as can be, the deepest at {} %",
                        counted(stacks.size(), "stack of layers is", "stacks of layers are"), stacks.front().percent);
        for (auto &stack : stacks)
            finding.evidence.push_back(std::move(stack.line));
        finding.evidence = limited(std::move(finding.evidence));
        finding.commands = commands_for(store);
        out.findings.push_back(std::move(finding));
    }
    return out;
}

} // namespace

extern const Check depth_limit;
const Check depth_limit{
    .id = "depth-limit",
    .title = "An image has nearly as many layers as can be stacked",
    .why = "An image that is built on itself, or committed from its own container again and again, gets a layer each "
           "time. At the limit pulls, builds and commits fail with \"max depth exceeded\", mounts with \"invalid "
           "argument\" or \"mount options is too long\" (moby issues 20298, 25957; buildkit issue 3067; podman issue "
           "13432).",
    .limits = "Warning from 90 % of the limit on, critical at it. Docker: 125 layers (moby, layer/layer_store.go, "
              "maxLayerDepth; overlay2 itself: 128 lower directories). containers/storage overlay: 500 "
              "(drivers/overlay/overlay.go, maxDepth). Others on overlayfs: the kernel's 500 (fs/overlayfs/params.h, "
              "OVL_MAX_STACK), and in containerd's overlayfs what fits into the one page that mount(2) takes as "
              "options (4,096 bytes are taken for a page but on ppc64le).",
    .remedy = "Build the image from fewer steps, or squash it.",
    .risk = "A squashed image shares no layers with others any more: each takes its whole size.",
    .undo = "Keep the old image under another name until the new one works.",
    .run = run,
};

} // namespace shale::doctor::checks
