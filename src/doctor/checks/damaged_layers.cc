// SPDX-License-Identifier: Apache-2.0
// damaged-layers: layers and images that are not what their records say.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include <fmt/format.h>

#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr size_t most_commands = 5; ///< images that a command is given for

using ImagesOf = std::unordered_map<std::string_view, std::vector<const probe::StoreImage *>>;

ImagesOf images_of(const probe::Store &store) {
    ImagesOf out;
    for (const auto &image : store.images)
        for (const auto &id : image.layers)
            out[id].push_back(&image);
    return out;
}

struct Damage {
    std::vector<std::string> lines;
    std::vector<const probe::StoreImage *> images; ///< that have to be had again; each once
    std::unordered_set<const probe::StoreImage *> known;
    uint64_t layers = 0;

    void hit(const probe::StoreImage *image) {
        if (known.insert(image).second) images.push_back(image);
    }
};

void look_at_layers(const probe::Store &store, Damage &out) {
    const ImagesOf images = images_of(store);
    for (const auto &layer : store.layers) {
        if (std::ranges::all_of(layer.damage, is_broken_link)) continue; // hard-link-breaks tells of those
        ++out.layers;
        std::string whose = users_text(layer);
        if (const auto found = images.find(layer.id); found != images.end()) {
            whose = fmt::format("of image {}", name_of(*found->second[0]));
            if (found->second.size() > 1) whose += fmt::format(" and {} more", found->second.size() - 1);
            for (const auto *image : found->second)
                out.hit(image);
        }
        for (const auto &what : layer.damage)
            if (!is_broken_link(what))
                out.lines.push_back(fmt::format("{}, {}: {}", place_of(layer), whose, shown(what)));
    }
}

void look_at_images(const probe::Store &store, Damage &out) {
    for (const auto &image : store.images) {
        if (image.damage.empty() && image.missing_layers == 0) continue;
        out.hit(&image);
        if (image.missing_layers != 0)
            out.lines.push_back(fmt::format("image {}: {} missing", name_of(image),
                                            counted(image.missing_layers, "layer is", "layers are")));
        for (const auto &what : image.damage)
            out.lines.push_back(fmt::format("image {}: {}", name_of(image), shown(what)));
    }
}

void add_commands(const probe::Store &store, const Damage &damage, Finding &out) {
    const std::string root = shell_quote(store.root);
    if (store.engine == "shale") {
        out.commands = {fmt::format("shale --root {} check --repair", root)};
        return;
    }
    if (store.engine == "buildkit") {
        out.commands = {"# in dockerd:", "docker builder prune --all", "# of a buildkitd: buildctl prune --all"};
        return;
    }
    if (store.engine == "podman")
        out.commands.push_back(
            fmt::format("# podman 5 finds and removes them: podman --root {} system check --repair", root));
    else if (store.engine == "docker")
        out.commands.emplace_back("# docker pulls a layer again only when no image and no container has it any more:");
    for (size_t i = 0; i < std::min(damage.images.size(), most_commands); ++i) {
        const auto &image = *damage.images[i];
        if (image.names.empty()) continue;
        const std::string name = shell_quote(image.names[0]);
        if (store.engine == "docker")
            out.commands.push_back(fmt::format("docker image rm -f {0} && docker pull {0}", name));
        else if (store.engine == "podman")
            out.commands.push_back(
                fmt::format("podman --root {0} image rm -f {1} && podman --root {0} pull {1}", root, name));
        else if (store.engine == "containerd")
            out.commands.push_back(
                fmt::format("ctr -n NAMESPACE images rm {0} && ctr -n NAMESPACE images pull {0}", name));
    }
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &store : facts.stores) {
        Damage damage;
        look_at_layers(store, damage);
        look_at_images(store, damage);
        if (damage.lines.empty()) continue;
        Finding finding;
        finding.severity =
            store.engine == "buildkit" ? Severity::warning : Severity::critical; // cache can be made again
        finding.subject = name_of(store);
        finding.summary = fmt::format("{} and {} damaged", counted(damage.layers, "layer"),
                                      counted(damage.images.size(), "image is", "images are"));
        finding.evidence = limited(std::move(damage.lines));
        add_commands(store, damage, finding);
        out.findings.push_back(std::move(finding));
    }
    return out;
}

} // namespace

extern const Check damaged_layers;
const Check damaged_layers{
    .id = "damaged-layers",
    .title = "Layers or images are damaged",
    .why = "Most engines do not sync a layer before they record it. After a power loss the record is there and the "
           "files are empty or cut off: containers then fail in odd ways (\"exec format error\", empty shared "
           "libraries), and pulling again does not help, since the engine believes that it has the layer (containerd "
           "issues 3671, 5854, 9401; moby issues 23184, 46649).",
    .limits = "Whatever the store's reader found wrong: a layer's directory, link or lower file that is missing or "
              "leads nowhere, records that are empty or cut off, blobs of another size than recorded, layers that an "
              "image needs and the store has not. The contents of files are not compared with anything here: a layer "
              "that is not listed may still have bad bytes.",
    .remedy = "Remove the images that have the layer, and their containers, then pull them again. In shale's store "
              "`shale check --repair` unpacks the layer from its blob in place.",
    .risk = "Containers of these images have to go first, with what they wrote; save that before (docker cp, podman "
            "cp).",
    .undo = "None. What was damaged is worth nothing; what containers wrote is lost unless it was saved.",
    .run = run,
};

} // namespace shale::doctor::checks
