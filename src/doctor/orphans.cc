// SPDX-License-Identifier: Apache-2.0
#include "doctor/orphans.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <utility>

#include "doctor/checks/common.h"
#include "doctor/checks/mounted_layers.h"

namespace shale::doctor {

namespace {

using checks::lies_in;
using probe::Facts;
using probe::Host;

using Inode = std::pair<dev_t, ino_t>;

std::optional<Inode> inode_of(const Host &host, const std::string &path) {
    const auto st = host.stat(path);
    if (!st || !*st) return std::nullopt;
    return Inode{(*st)->st_dev, (*st)->st_ino};
}

/// Overlay's options as the kernel shows them: "lowerdir=A:B" or "lowerdir+=A", with "\" before what is special.
std::vector<std::string> overlay_directories(std::string_view options) {
    std::vector<std::string> out;
    std::string key, word;
    bool in_value = false;
    const auto end_word = [&] {
        const bool directory =
            key == "lowerdir" || key == "lowerdir+" || key == "datadir+" || key == "upperdir" || key == "workdir";
        if (directory && !word.empty()) out.push_back(word);
        word.clear();
    };
    for (size_t i = 0; i <= options.size(); ++i) {
        const char c = i < options.size() ? options[i] : ',';
        if (c == '\\' && i + 1 < options.size()) {
            word += options[++i];
        } else if (c == ',') {
            end_word();
            key.clear();
            in_value = false;
        } else if (c == '=' && !in_value) {
            key = std::exchange(word, {});
            in_value = true;
        } else if (c == ':' && in_value && key == "lowerdir") {
            end_word();
        } else {
            word += c;
        }
    }
    return out;
}

/// Everything that mounts of any namespace stand on.
struct Mounted {
    std::set<std::string> paths; ///< targets, roots and directories as they are told
    std::set<Inode> inodes;      ///< of overlays' directories: a lower one may be named by a link
    size_t mounts = 0, namespaces = 0;
};

Mounted mounted_of(const Host &host, const Facts &facts) {
    Mounted out;
    out.namespaces = facts.mount_namespaces.size();
    std::set<std::string> directories;
    for (const auto &space : facts.mount_namespaces) {
        out.mounts += space.mounts.size();
        for (const auto &mount : space.mounts) {
            out.paths.insert(mount.target);
            out.paths.insert(mount.source);
            out.paths.insert(mount.root);
            if (mount.type != "overlay") continue;
            for (std::string &directory : overlay_directories(mount.super_options)) {
                // dockerd and podman mount relative to their directory when the options get long.
                if (directory.starts_with('/'))
                    directories.insert(directory);
                else
                    for (const auto &store : facts.stores)
                        for (const std::string_view below : {"/" + store.driver, std::string()})
                            directories.insert(fmt::format("{}{}/{}", store.root, below, directory));
            }
        }
    }
    for (const std::string &directory : directories) {
        out.paths.insert(directory);
        if (const auto inode = inode_of(host, directory)) out.inodes.insert(*inode);
    }
    return out;
}

bool any_below(const std::set<std::string> &paths, const std::string &directory) {
    if (paths.contains(directory)) return true;
    const auto next = paths.lower_bound(directory + "/");
    return next != paths.end() && lies_in(*next, directory);
}

/// Processes by the directory of those asked for that they have something open in.
struct Holders {
    std::map<std::string, std::set<int>> by_path;
    size_t processes = 0, unread = 0;
};

void note_holder(Holders &out, const std::set<std::string, std::less<>> &paths, std::string_view open, int pid) {
    for (; open.size() > 1 && open.starts_with('/'); open = open.substr(0, open.rfind('/')))
        if (const auto found = paths.find(open); found != paths.end()) out.by_path[*found].insert(pid);
}

Holders holders_of(const Host &host, const std::set<std::string, std::less<>> &paths) {
    Holders out;
    if (!host.live() || paths.empty()) return out;
    const auto all = host.list_if_there("/proc");
    if (!all) return out;
    for (const auto &entry : *all) {
        int pid = 0;
        const char *end = entry.name.data() + entry.name.size();
        if (const auto [at, error] = std::from_chars(entry.name.data(), end, pid); error != std::errc() || at != end)
            continue;
        const auto dir = host.open_path("/proc/" + entry.name, O_RDONLY | O_DIRECTORY);
        if (!dir) continue; // it has ended
        ++out.processes;
        for (const char *link : {"cwd", "root", "exe"})
            if (const auto target = sys::read_link(dir->get(), link)) note_holder(out, paths, *target, pid);
        const auto files = sys::open_dir(dir->get(), "fd");
        const auto listed =
            files ? sys::list_dir(files->get()) : Result<std::vector<sys::DirEntry>>(std::unexpected(files.error()));
        if (!listed) {
            if (listed.error().code() == Errc::PermissionDenied) ++out.unread;
            continue;
        }
        for (const auto &file : *listed)
            if (const auto target = sys::read_link(files->get(), file.name.c_str()))
                note_holder(out, paths, *target, pid);
    }
    return out;
}

std::string what_of(const probe::StoreLayer &layer, const checks::Layers &all) {
    if (checks::is_orphan(layer, all)) return "without a record";
    if (layer.on_disk && !layer.recorded && layer.used_by.empty()) {
        if (layer.kind == "removing") return "half removed";
        if (checks::is_init_leftover(layer, all)) return "init layer of a container that is gone";
    }
    return {};
}

/// The records that were read, as proof.
std::vector<std::string> records_proof(const probe::Store &store) {
    std::vector<std::string> out;
    for (const auto &source : store.sources)
        if (source.state == "read")
            out.push_back(fmt::format("not in {} ({}, {})", source.path, source.what,
                                      checks::counted(source.entries, "entry", "entries")));
    return out;
}

class Auditor {
public:
    Auditor(const Host &host, const Facts &facts) : host_(host), facts_(facts) {}

    Audit run() {
        for (const auto &store : facts_.stores)
            judge(store);
        if (out_.orphans.empty()) return std::move(out_);
        prove();
        std::ranges::stable_sort(out_.orphans, std::ranges::greater{}, [](const Orphan &orphan) {
            return orphan.layer->usage ? orphan.layer->usage->exclusive_bytes : 0;
        });
        return std::move(out_);
    }

private:
    void judge(const probe::Store &store) {
        if (std::string why = checks::unread_records(store); !why.empty()) {
            out_.unable.push_back(std::move(why));
            return;
        }
        const auto all = checks::layers_by_id(store);
        for (const auto &layer : store.layers)
            if (std::string what = what_of(layer, all); !what.empty())
                out_.orphans.push_back({&store, &layer, std::move(what), records_proof(store), {}});
    }

    void prove() {
        std::set<std::string, std::less<>> paths;
        for (const Orphan &orphan : out_.orphans)
            if (!orphan.layer->path.empty()) paths.insert(orphan.layer->path);
        const Mounted mounted = mounted_of(host_, facts_);
        const Holders holders = holders_of(host_, paths);
        for (Orphan &orphan : out_.orphans)
            prove_one(orphan, mounted, holders);
    }

    void prove_one(Orphan &orphan, const Mounted &mounted, const Holders &holders) {
        const std::string &path = orphan.layer->path;
        if (path.empty()) {
            orphan.obstacles.push_back(
                fmt::format("it is no directory but the {} of {}: its driver's own tools remove it",
                            orphan.store->driver == "zfs" ? "dataset" : "device", orphan.layer->id));
            return;
        }
        if (!facts_.live) {
            orphan.proof.emplace_back("no process runs on this disk's host");
            return;
        }
        prove_unmounted(orphan, mounted);
        if (const auto found = holders.by_path.find(path); found != holders.by_path.end())
            orphan.obstacles.push_back(fmt::format("process {} has something open in it", *found->second.begin()));
        else if (holders.unread != 0)
            orphan.obstacles.push_back(fmt::format("the open files of {} could not be read: root is needed",
                                                   checks::counted(holders.unread, "process", "processes")));
        else
            orphan.proof.push_back(
                fmt::format("open in none of {}", checks::counted(holders.processes, "process", "processes")));
    }

    void prove_unmounted(Orphan &orphan, const Mounted &mounted) const {
        const std::string &path = orphan.layer->path;
        bool busy = any_below(mounted.paths, path);
        for (const std::string_view part : {"", "/diff", "/fs", "/work"})
            if (const auto inode = inode_of(host_, path + std::string(part)))
                busy = busy || mounted.inodes.contains(*inode);
        for (const auto &device : facts_.devices)
            busy = busy || (!device.file.empty() && lies_in(device.file, path));
        if (busy)
            orphan.obstacles.emplace_back(
                "it is mounted, or something that is mounted stands on it; see leaked-mounts");
        else if (facts_.mount_namespaces.empty())
            orphan.obstacles.emplace_back("no mount table could be read");
        else
            orphan.proof.push_back(fmt::format("in none of {} of {}", checks::counted(mounted.mounts, "mount"),
                                               checks::counted(mounted.namespaces, "mount namespace")));
    }

    const Host &host_;
    const Facts &facts_;
    Audit out_;
};

} // namespace

Audit audit_orphans(const Host &host, const Facts &facts) {
    return Auditor(host, facts).run();
}

} // namespace shale::doctor
