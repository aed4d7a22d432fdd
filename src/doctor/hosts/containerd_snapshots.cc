// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/containerd_snapshots.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "doctor/hosts/containerd_devices.h"
#include "doctor/hosts/containerd_records.h"
#include "doctor/hosts/places.h"
#include "sys/fs.h"

namespace shale::doctor::containerd {
namespace {

constexpr size_t max_entries = 1'000'000;
constexpr uint64_t day_s = 86'400;
constexpr auto pause = std::chrono::milliseconds(20);

/// How a snapshotter keeps trees and files below its root.
enum class Layout : uint8_t {
    directories, ///< snapshots/N, of which no more is known
    overlay,     ///< snapshots/N/{fs,work}
    erofs,       ///< snapshots/N/{fs,layer.erofs}
    copies,      ///< native: snapshots/N; views of a parent have none
    files,       ///< blockfile: snapshots/N is a file; views of a parent have none
    btrfs,       ///< view/N, active/N, snapshots/N are subvolumes
};

Layout layout_of(std::string_view name) {
    if (name == "overlayfs" || name == "fuse-overlayfs") return Layout::overlay;
    if (name == "erofs") return Layout::erofs;
    if (name == "native") return Layout::copies;
    if (name == "blockfile") return Layout::files;
    if (name == "btrfs") return Layout::btrfs;
    return Layout::directories;
}

std::vector<std::string> folders_of(Layout layout) {
    return layout == Layout::btrfs ? std::vector<std::string>{"active", "snapshots", "view"}
                                   : std::vector<std::string>{"snapshots"};
}

/// Where the snapshot lies, below the root; nullopt: it has nothing of its own.
std::optional<std::string> home_of(Layout layout, const Record &record) {
    if (layout == Layout::btrfs) {
        const std::string_view folder = record.kind == Kind::view     ? "view"
                                        : record.kind == Kind::active ? "active"
                                                                      : "snapshots";
        return fmt::format("{}/{}", folder, record.id);
    }
    const bool shares = layout == Layout::copies || layout == Layout::files;
    if (shares && record.kind == Kind::view && !record.parent.empty()) return std::nullopt;
    return fmt::format("snapshots/{}", record.id);
}

uint64_t changed_of(const struct stat &status) {
    return static_cast<uint64_t>(std::max<time_t>({status.st_mtime, status.st_ctime, 0}));
}

struct Entry {
    uint64_t changed_s = 0, modified_s = 0;
    bool directory = false;
    uint64_t bytes = 0;
};
Entry entry_of(const struct stat &status, uint64_t changed_s) {
    return {.changed_s = changed_s,
            .modified_s = static_cast<uint64_t>(std::max<time_t>(status.st_mtime, 0)),
            .directory = S_ISDIR(status.st_mode),
            .bytes = static_cast<uint64_t>(std::max<off_t>(status.st_size, 0))};
}

/// One look at a snapshotter.
struct Look {
    std::map<std::string, Entry> entries; ///< by path below the root
    Result<Records> records = Records{};
    std::set<std::string> missing; ///< keys of records that have nothing on disk
    std::vector<probe::RecordSource> sources;
};

class Trees {
public:
    Trees(const probe::Host &host, const Snapshotter &which, const Moment &moment)
        : host_(host), which_(which), moment_(moment), layout_(layout_of(which.name)) {}

    SnapshotterContents read() const {
        SnapshotterContents out = read_once();
        std::set<std::string> damaged;
        for (const probe::StoreLayer &layer : out.layers)
            if (!layer.damage.empty()) damaged.insert(layer.name);
        if (damaged.empty()) return out;
        if (moment_.running) std::this_thread::sleep_for(pause);
        out = read_once();
        // What is damaged for the first time only is being removed.
        std::erase_if(out.layers, [&](const probe::StoreLayer &layer) {
            return !layer.damage.empty() && !damaged.contains(layer.name);
        });
        return out;
    }

private:
    SnapshotterContents read_once() const {
        Look now = look();
        SnapshotterContents out;
        std::set<std::string> homes;
        if (now.records) add_recorded(now, homes, out);
        add_unrecorded(now, homes, out);
        out.sources = std::move(now.sources);
        return out;
    }

    Look look() const {
        Look out;
        for (const std::string &folder : folders_of(layout_))
            list(folder, out);
        const std::string path = which_.root + "/metadata.db";
        out.records = read_records(host_, path);
        if (out.records)
            out.sources.push_back(source_of(path, "snapshot metadata", out.records->by_key.size()));
        else
            out.sources.push_back(source_of(path, "snapshot metadata", out.records.error()));
        // Lost records are no proof that nothing is in use.
        if (out.sources.back().state == "missing" && !out.entries.empty()) out.sources.back().state = "unreadable";
        if (out.records) find_missing(out);
        return out;
    }

    void list(const std::string &folder, Look &out) const {
        const std::string path = fmt::format("{}/{}", which_.root, folder);
        const auto failed = [&](const Error &error) {
            out.sources.push_back(source_of(path, "snapshot directories", error));
        };
        const auto dir = host_.open_path(path, O_RDONLY | O_DIRECTORY);
        if (!dir) return failed(dir.error());
        const auto names = sys::list_dir(dir->get(), max_entries);
        const auto own = sys::stat_at(dir->get(), "");
        if (!names || !own) return failed(names ? own.error() : names.error());
        uint64_t count = 0;
        for (const auto &[name, inode, type] : *names) {
            if (name == trash_name) continue;
            ++count;
            const auto status = sys::stat_if_exists(dir->get(), name.c_str());
            if (!status) return failed(status.error());
            if (!*status) continue; // removed meanwhile
            // A subvolume has the times of the one that it is a snapshot of; what tells is when its folder changed.
            const uint64_t changed = changed_of(layout_ == Layout::btrfs ? *own : **status);
            out.entries[fmt::format("{}/{}", folder, name)] = entry_of(**status, changed);
        }
        out.sources.push_back(source_of(path, "snapshot directories", count));
    }

    void find_missing(Look &out) const {
        for (const auto &[key, record] : out.records->by_key) {
            const auto home = home_of(layout_, record);
            if (!home || out.entries.contains(*home)) continue;
            const auto status = host_.stat(fmt::format("{}/{}", which_.root, *home));
            if (!status || !*status) {
                out.missing.insert(key);
                continue;
            }
            // Made after the directories were listed.
            out.entries[*home] = entry_of(**status, moment_.now_s);
        }
    }

    void add_recorded(const Look &now, std::set<std::string> &homes, SnapshotterContents &out) const {
        out.layers = layers_of(*now.records);
        for (probe::StoreLayer &layer : out.layers) {
            const Record &record = now.records->by_key.at(layer.name);
            const auto home = home_of(layout_, record);
            layer.on_disk = !now.missing.contains(layer.name);
            if (!home) continue;
            homes.insert(*home);
            layer.path = fmt::format("{}/{}", which_.root, *home);
            if (layer.on_disk)
                look_into(layer, record, now.entries.at(*home));
            else
                add_missing(layer, record, now);
        }
    }

    bool is_dir(const probe::StoreLayer &layer, const char *name) const {
        return host_.is_dir(fmt::format("{}/{}", layer.path, name));
    }

    void look_into(probe::StoreLayer &layer, const Record &record, const Entry &entry) const {
        if (layout_ == Layout::files) {
            if (entry.directory) layer.damage.emplace_back("it is a directory, not a block file");
            if (!entry.directory && entry.bytes == 0) layer.damage.emplace_back("its block file is empty");
            return;
        }
        if (!entry.directory) {
            layer.damage.emplace_back("it is not a directory");
            return;
        }
        if (layout_ == Layout::overlay) {
            if (!is_dir(layer, "fs")) layer.damage.emplace_back("fs is missing");
            if (record.kind == Kind::active && !is_dir(layer, "work")) layer.damage.emplace_back("work is missing");
        }
        if (layout_ == Layout::erofs && record.kind == Kind::committed) {
            const auto blob = host_.stat(layer.path + "/layer.erofs");
            if (blob && !*blob) layer.damage.emplace_back("layer.erofs is missing");
            if (blob && *blob && (*blob)->st_size == 0) layer.damage.emplace_back("layer.erofs is empty");
        }
    }

    /// Removals move a snapshot to rm-N and then commit that its record is gone. One that ended between the two leaves
    /// the record without its directory.
    void add_missing(probe::StoreLayer &layer, const Record &record, const Look &now) const {
        const std::string home = home_of(layout_, record).value_or("");
        const std::string moved = fmt::format("{}/rm-{}", home.substr(0, home.find('/')), record.id);
        const auto found = now.entries.find(moved);
        if (found == now.entries.end()) {
            layer.damage.push_back(fmt::format("{} is missing", layer.path));
        } else if (moment_.being_changed(found->second.changed_s)) {
            layer.on_disk = true;
            layer.kind = "ingest";
            layer.created_s = found->second.changed_s;
        } else {
            layer.damage.push_back(fmt::format("a removal that did not end has moved it to {}/{}", which_.root, moved));
        }
    }

    void add_unrecorded(const Look &now, const std::set<std::string> &homes, SnapshotterContents &out) const {
        std::set<uint64_t> numbers;
        if (now.records)
            for (const auto &[key, record] : now.records->by_key)
                numbers.insert(record.id);
        const uint64_t sequence = now.records ? now.records->sequence : 0;
        for (const auto &[path, entry] : now.entries) {
            if (homes.contains(path)) continue;
            const size_t slash = path.find('/');
            probe::StoreLayer layer;
            layer.id = path.substr(slash + 1);
            layer.path = fmt::format("{}/{}", which_.root, path);
            layer.kind = kind_without_record(path.substr(0, slash), layer.id, entry, sequence);
            layer.on_disk = true;
            layer.created_s = layer.kind == "ingest" ? entry.changed_s : entry.modified_s;
            out.layers.push_back(std::move(layer));
        }
    }

    std::string kind_without_record(const std::string &folder, const std::string &name, const Entry &entry,
                                    uint64_t sequence) const {
        const bool removal = name.starts_with("rm-");
        const auto number = number_of(name);
        const bool creation = name.starts_with("new-") || (number && *number > sequence);
        if ((removal || creation) && moment_.being_changed(entry.changed_s)) return "ingest";
        if (removal) return "removing";
        // A number that was given: its record went a moment ago, and the directory follows.
        if (moment_.young(entry.changed_s)) return "ingest";
        if (layout_ == Layout::btrfs) return folder == "snapshots" ? "committed" : folder;
        return "";
    }

    const probe::Host &host_;
    const Snapshotter &which_;
    const Moment &moment_;
    Layout layout_;
};

} // namespace

bool Moment::being_changed(uint64_t changed_s) const noexcept {
    if (young(changed_s)) return true;
    if (processes_seen && !running) return false;
    if (daemon_started_s && changed_s < *daemon_started_s) return false;
    return changed_s + day_s >= now_s;
}

probe::RecordSource source_of(std::string path, std::string what, uint64_t entries) {
    return {.path = std::move(path), .what = std::move(what), .state = "read", .why = "", .entries = entries};
}

probe::RecordSource source_of(std::string path, std::string what, const Error &error) {
    const char *state = error.sys_errno() == ENOENT     ? "missing"
                        : error.code() == Errc::Aborted ? "changing"
                                                        : "unreadable";
    return {.path = std::move(path), .what = std::move(what), .state = state, .why = error.text(), .entries = 0};
}

SnapshotterContents read_snapshotter(const probe::Host &host, const Snapshotter &which, const Moment &moment,
                                     const probe::Facts &facts) {
    const auto status = host.stat(which.root);
    if (!status) {
        SnapshotterContents out;
        out.sources.push_back(source_of(which.root, "snapshotter", status.error()));
        return out;
    }
    if (!*status) return {};
    SnapshotterContents out = which.name == "zfs"         ? read_zfs_snapshotter(host, which, moment, facts)
                              : which.name == "devmapper" ? read_thin_snapshotter(host, which, moment)
                                                          : Trees(host, which, moment).read();
    out.there = true;
    return out;
}

} // namespace shale::doctor::containerd
