// SPDX-License-Identifier: Apache-2.0
// hard-link-breaks: layers of the first overlay driver whose files are copies and no more the parent's.
#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t tolerated_bytes = uint64_t{64} << 20U;
constexpr uint64_t block_bytes = 4096;

/// A layer holds all of its parent's tree as hard links, so that what only it has is what it changed. More than that,
/// with each file rounded up to a block, are files that should have been links. 0: none, or it cannot be told.
uint64_t copied_bytes(const probe::StoreLayer &layer) {
    if (layer.parent.empty() || !layer.usage || !layer.usage->complete || !layer.recorded_bytes ||
        layer.kind != "committed")
        return 0;
    const uint64_t own = *layer.recorded_bytes + layer.usage->exclusive_inodes * block_bytes + tolerated_bytes;
    return layer.usage->exclusive_bytes > own ? layer.usage->exclusive_bytes - *layer.recorded_bytes : 0;
}

struct Broken {
    std::vector<std::string> lines;
    uint64_t bytes = 0;
    uint64_t layers = 0; ///< of which a reader saw single files
};

Broken look_at(const probe::Store &store) {
    Broken out;
    for (const auto &layer : store.layers) {
        if (std::ranges::any_of(layer.damage, is_broken_link)) ++out.layers;
        for (const std::string &damage : layer.damage)
            if (is_broken_link(damage))
                out.lines.push_back(fmt::format("layer {}: {}", shown(layer.id), shown(damage)));
        const uint64_t copied = copied_bytes(layer);
        if (copied == 0) continue;
        out.bytes += copied;
        out.lines.push_back(fmt::format("layer {}: {} are its own, its record says {} ({} in all)", shown(layer.id),
                                        format_bytes(layer.usage->exclusive_bytes), format_bytes(*layer.recorded_bytes),
                                        format_bytes(layer.usage->bytes)));
    }
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &store : facts.stores) {
        if (store.driver != "overlay") continue;
        Broken broken = look_at(store);
        if (broken.lines.empty()) continue;
        Finding &finding = out.findings.emplace_back();
        finding.severity = Severity::warning;
        finding.subject = name_of(store);
        if (broken.bytes == 0)
            finding.summary = fmt::format("files of {} are no hard links of the parents' files any more",
                                          counted(broken.layers, "layer"));
        else
            finding.summary = fmt::format("layers hold {} of copies where there should be hard links: the store was "
                                          "copied without them, or somebody wrote into a layer",
                                          format_bytes(broken.bytes));
        finding.evidence = limited(std::move(broken.lines));
        const std::string root = shell_quote(store.root);
        if (store.engine == "shale")
            finding.commands = {fmt::format("shale --root {} check", root),
                                fmt::format("shale --root {} check --repair", root)};
        else
            finding.commands = {"# remove the image and pull it again; it then gets its links:",
                                "docker image rm IMAGE", "docker pull IMAGE"};
    }
    return out;
}

} // namespace

extern const Check hard_link_breaks;
const Check hard_link_breaks{
    .id = "hard-link-breaks",
    .title = "Layers of the legacy overlay driver have lost their hard links",
    .why = "The first overlay driver keeps a whole tree for each layer and shares unchanged files by hard link. A copy "
           "of the "
           "store without -H (cp -r, rsync -a) makes each layer as large as all below it together, and a tool that "
           "writes a "
           "file anew in place breaks the link: layers that should be the same differ from then on, and the page cache "
           "holds "
           "them twice.",
    .limits =
        "Warning: a reader found files that are no links and have the mode, owner, size and time of the parent's at "
        "their "
        "path, in a layer with more of its own than its record says (\"hard link: ...\" in its damage); or a layer has "
        "64 MiB more of its own than its record says, each of its files rounded up to 4 KiB. Layers without a recorded "
        "size, or not wholly measured, are not judged.",
    .remedy = "Let the engine unpack the image again, or move to overlay2, which needs no links.",
    .risk = "Containers of the image have to be removed first, with what they wrote.",
    .undo = "Pull the image again.",
    .run = run,
};

} // namespace shale::doctor::checks
