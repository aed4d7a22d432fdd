// SPDX-License-Identifier: Apache-2.0
#include "doctor/orphans.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "doctor/checks/common.h"
#include "sys/fs.h"

namespace shale::doctor {

namespace {

using probe::Facts;
using probe::Host;

std::string what_of(const probe::StoreLayer &layer, const checks::Layers &all) {
    if (checks::is_orphan(layer, all)) return layer.kind == "step" ? "left by a step of a build" : "without a record";
    if (layer.on_disk && !layer.recorded && layer.used_by.empty()) {
        if (layer.kind == "removing") return "half removed";
        if (checks::is_init_leftover(layer, all)) return "init layer of a container that is gone";
    }
    return {};
}

class Auditor {
public:
    Auditor(const Host &host, const Facts &facts, const Uses &uses, bool alone)
        : host_(host), facts_(facts), uses_(uses), alone_(alone) {}

    Audit run() {
        for (const auto &store : facts_.stores)
            judge(store);
        std::set<std::string> bases;
        for (Orphan &orphan : out_.orphans)
            if (const Status found = locate(orphan); !found)
                orphan.obstacles.push_back(found.error().text());
            else
                bases.insert(orphan.path.substr(0, orphan.path.rfind('/')));
        const auto overlays = overlay_directories(uses_, bases);
        for (Orphan &orphan : out_.orphans)
            if (!orphan.path.empty()) prove(orphan, overlays);
        std::ranges::stable_sort(out_.orphans, std::ranges::greater{}, [](const Orphan &orphan) {
            return orphan.layer->usage ? orphan.layer->usage->exclusive_bytes : 0;
        });
        return std::move(out_);
    }

private:
    void judge(const probe::Store &store) {
        std::string why = checks::unread_records(store);
        if (why.empty() &&
            std::ranges::none_of(store.sources, [](const auto &source) { return source.state == "read"; }) &&
            !store.layers.empty())
            why = fmt::format("{}: it has no records at all", checks::name_of(store));
        if (!why.empty()) {
            out_.unable.push_back(std::move(why));
            return;
        }
        const auto all = checks::layers_by_id(store);
        for (const auto &layer : store.layers) {
            std::string what = what_of(layer, all);
            if (what.empty()) continue;
            Orphan orphan;
            orphan.store = &store;
            orphan.layer = &layer;
            orphan.what = std::move(what);
            if (layer.kind == "step")
                orphan.proof.emplace_back(store.running
                                              ? "it last changed before its daemon began, which knows no step "
                                                "of an earlier one"
                                              : "it is a step's, and no daemon runs that would have one");
            for (const auto &source : store.sources)
                if (source.state == "read")
                    orphan.proof.push_back(fmt::format("nothing refers to it in {} ({}, {})", source.path, source.what,
                                                       checks::counted(source.entries, "entry", "entries")));
            out_.orphans.push_back(std::move(orphan));
        }
    }

    [[nodiscard]] Result<std::string> canonical(const std::string &path) const {
        const auto fd = TRY(host_.open_path(path, O_PATH | O_DIRECTORY));
        return sys::path_of_fd(fd.get());
    }

    /// The directory itself, whatever links its store's path has. An error is an obstacle.
    Status locate(Orphan &orphan) const {
        const std::string &path = orphan.layer->path;
        if (path.empty())
            return fail(Errc::Unimplemented,
                        fmt::format("it is no directory but the {} {}: its driver's own tools remove it",
                                    orphan.store->driver == "zfs" ? "dataset" : "device", orphan.layer->id));
        const size_t slash = path.rfind('/');
        const std::string parent = TRY(canonical(slash == 0 ? "/" : path.substr(0, slash)));
        orphan.root = TRY(canonical(orphan.store->root));
        const auto dir = TRY(sys::open_dir(AT_FDCWD, parent.c_str()));
        const std::string name = path.substr(slash + 1);
        const auto st = TRY(sys::stat_at(dir.get(), name.c_str()));
        if (!S_ISDIR(st.st_mode)) return fail(Errc::Unimplemented, "it is no directory, which is not moved");
        if (!checks::lies_in(parent, orphan.root))
            return fail(Errc::FailedPrecondition,
                        fmt::format("it lies at {}, outside of its store at {}", parent, orphan.root));
        TRY(check_way(parent));
        orphan.inode = {st.st_dev, st.st_ino};
        orphan.changed_s = std::max(orphan.layer->created_s, static_cast<uint64_t>(std::max<time_t>(st.st_ctime, 0)));
        orphan.path = parent + "/" + name;
        return {};
    }

    void prove(Orphan &orphan, const std::set<std::pair<dev_t, ino_t>> &overlays) const {
        for (const std::string &gap : uses_.gaps)
            orphan.obstacles.push_back(fmt::format("it may be in use: {}", gap));
        if (!facts_.live && !alone_)
            orphan.obstacles.emplace_back("its host may run, and what runs there cannot be seen from here; if it is "
                                          "off, say so (--assume-alone)");
        const auto place = place_of(uses_, orphan.path);
        if (!place) {
            orphan.obstacles.emplace_back("no mount table tells what it lies on");
            return;
        }
        if (const std::string use = use_of(uses_, *place, overlays); !use.empty()) {
            orphan.obstacles.push_back(use);
            return;
        }
        size_t mounts = 0;
        for (const auto &space : uses_.namespaces)
            mounts += space.mounts.size();
        orphan.proof.push_back(fmt::format("in none of {} of {}", checks::counted(mounts, "mount"),
                                           checks::counted(uses_.namespaces.size(), "mount namespace")));
        orphan.proof.push_back(
            fmt::format("open in none of {}", checks::counted(uses_.processes, "process", "processes")));
        if (alone_) orphan.proof.emplace_back("nobody else uses the store: so said who asked (--assume-alone)");
    }

    const Host &host_;
    const Facts &facts_;
    const Uses &uses_;
    bool alone_;
    Audit out_;
};

} // namespace

Status check_way(const std::string &directory) {
    UniqueFd at = TRY(sys::open_dir(AT_FDCWD, "/"));
    std::string path = "/";
    for (size_t begin = 1; begin <= directory.size();) {
        const size_t end = std::min(directory.find('/', begin), directory.size());
        const std::string part = directory.substr(begin, end - begin);
        begin = end + 1;
        if (part.empty()) continue;
        at = TRY(sys::open_dir(at.get(), part.c_str()));
        path += (path.size() > 1 ? "/" : "") + part;
        const auto st = TRY(sys::stat_at(at.get(), ""));
        const bool ours = st.st_uid == 0 || st.st_uid == ::geteuid();
        const bool closed = (st.st_mode & (S_IWGRP | S_IWOTH)) == 0 || (st.st_mode & S_ISVTX) != 0;
        if (ours && closed) continue;
        return fail(
            Errc::PermissionDenied,
            fmt::format(
                "{} {}: somebody else could put another directory in its place meanwhile; run this as its owner", path,
                ours ? "can be written by others" : fmt::format("belongs to user {}", st.st_uid)));
    }
    return {};
}

Audit audit_orphans(const Host &host, const Facts &facts, const Uses &uses, bool alone) {
    return Auditor(host, facts, uses, alone).run();
}

} // namespace shale::doctor
