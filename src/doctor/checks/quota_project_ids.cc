// SPDX-License-Identifier: Apache-2.0
// quota-project-ids: project ids of quotas that no layer has any more, and such that several layers share.
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

using Owners = std::map<uint64_t, std::vector<const probe::StoreLayer *>>; ///< layers by their project id

struct OfFileSystem {
    Owners owners;
    const probe::Store *store = nullptr; ///< one of those that lie there
    uint64_t not_read = 0;               ///< layers whose id is not known
};

OfFileSystem layers_on(const probe::Facts &facts, const probe::FileSystem &fs) {
    OfFileSystem out;
    for (const auto &store : facts.stores) {
        if (file_system_of_layers(facts, store) != &fs) continue;
        out.store = &store;
        for (const auto &layer : store.layers) {
            if (!layer.on_disk) continue;
            if (!layer.project_id)
                ++out.not_read;
            else if (*layer.project_id != 0)
                out.owners[*layer.project_id].push_back(&layer);
        }
    }
    return out;
}

std::string quota_text(const probe::FileSystem::ProjectQuota &quota) {
    return fmt::format("project {}: limit {}, in use {} and {}", quota.id,
                       quota.limit_bytes == 0 ? "none" : format_bytes(quota.limit_bytes),
                       format_bytes(quota.used_bytes), counted(quota.used_inodes, "inode"));
}

/// An init layer and its container's layer have one id by right.
bool is_of_one_container(const std::vector<const probe::StoreLayer *> &layers) {
    if (layers.size() != 2) return false;
    const auto &one = layers[0]->id.size() < layers[1]->id.size() ? *layers[0] : *layers[1];
    const auto &other = &one == layers[0] ? *layers[1] : *layers[0];
    return other.id == one.id + "-init";
}

void add_shared(const probe::FileSystem &fs, const OfFileSystem &its, Outcome &out) {
    Finding finding;
    uint64_t shared = 0;
    for (const auto &[id, layers] : its.owners) {
        if (layers.size() < 2 || is_of_one_container(layers)) continue;
        ++shared;
        std::vector<std::string> places;
        for (const auto *layer : layers)
            places.push_back(place_of(*layer));
        finding.evidence.push_back(fmt::format("project {}: {}", id, listed(places, 3)));
    }
    if (shared == 0) return;
    finding.subject = fmt::format("{} ({})", shown(fs.target), shown(fs.type));
    finding.summary = fmt::format("{} by several layers: they count against one limit",
                                  counted(shared, "project id is shared", "project ids are shared"));
    finding.evidence = limited(std::move(finding.evidence));
    finding.commands = {"# give each layer an id of its own by making its container anew; to see who has which:",
                        fmt::format("lsattr -dp {}/*", shell_quote(its.owners.begin()->second.front()->path.substr(
                                                           0, its.owners.begin()->second.front()->path.rfind('/'))))};
    out.findings.push_back(std::move(finding));
}

void add_unowned(const probe::FileSystem &fs, const OfFileSystem &its, Outcome &out) {
    if (its.not_read != 0) {
        out.unable.push_back(
            fmt::format("{}: the project ids of {} were not read, so which are left over cannot be told",
                        shown(fs.target), counted(its.not_read, "layer")));
        return;
    }
    std::vector<const probe::FileSystem::ProjectQuota *> unowned;
    for (const auto &quota : fs.projects)
        if (quota.id != 0 && quota.used_bytes == 0 && quota.used_inodes == 0 &&
            (quota.limit_bytes != 0 || quota.limit_inodes != 0) && !its.owners.contains(quota.id))
            unowned.push_back(&quota);
    if (unowned.empty()) return;
    Finding finding;
    finding.severity = Severity::info;
    finding.subject = fmt::format("{} ({})", shown(fs.target), shown(fs.type));
    finding.summary = fmt::format("{} a limit, but nothing has the id: rests of layers that were removed",
                                  counted(unowned.size(), "project quota has", "project quotas have"));
    for (const auto *quota : unowned)
        finding.evidence.push_back(quota_text(*quota));
    finding.evidence = limited(std::move(finding.evidence));
    const std::string target = shell_quote(fs.target);
    finding.commands.emplace_back("# of each that is not in /etc/projects either:");
    if (fs.type == "xfs")
        finding.commands.push_back(fmt::format("xfs_quota -x -c 'limit -p bsoft=0 bhard=0 isoft=0 ihard=0 {}' {}",
                                               unowned.front()->id, target));
    else
        finding.commands.push_back(fmt::format("setquota -P {} 0 0 0 0 {}", unowned.front()->id, target));
    out.findings.push_back(std::move(finding));
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &fs : facts.file_systems) {
        if (fs.project_quota.empty()) continue;
        const OfFileSystem its = layers_on(facts, fs);
        if (its.store == nullptr) continue;
        add_shared(fs, its, out);
        add_unowned(fs, its, out);
    }
    return out;
}

} // namespace

extern const Check quota_project_ids;
const Check quota_project_ids{
    .id = "quota-project-ids",
    .title = "Project quotas without a layer, or shared by several",
    .why = "A size limit of a container is a project quota: an id on its directory and a record with the limit. "
           "Engines count ids up and do not remove the records, and after a restart they may give an id that is "
           "still in use: two containers then share one limit, and one fails with \"disk quota exceeded\" for what "
           "the other wrote (moby issue 34701).",
    .limits = "File systems with project quotas that a store lies on. Shared: several layers have one id (a "
              "container and its init layer may). Left over: a record with a limit and nothing in use whose id no "
              "layer of any known store has; a note, since it costs only the record. Rules: moby, "
              "quota/projectquota.go; xfs_quota(8).",
    .remedy = "Make containers that share an id anew. Clear the limits that are left over, unless /etc/projects has "
              "the id.",
    .risk = "An id without files may be one that an administrator has set up for later.",
    .undo = "Set the limit again.",
    .run = run,
};

} // namespace shale::doctor::checks
