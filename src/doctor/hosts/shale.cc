// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/shale.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "doctor/hosts/depths.h"
#include "doctor/hosts/held_lock.h"
#include "doctor/hosts/places.h"
#include "doctor/hosts/shale_records.h"
#include "doctor/toml_json.h"
#include "store/locks.h"
#include "store/reserve.h"

namespace shale::doctor {
namespace {

using shale_store::Records;
using shale_store::SnapshotKind;

constexpr const char *default_root = "/var/lib/shale";
constexpr const char *config_path = "/etc/shale/shale.toml";
constexpr size_t max_entries = 1'000'000; ///< of one directory
constexpr size_t max_users = 1000;        ///< of one layer that are told
constexpr size_t max_damage = 20;         ///< of one image

/// A driver, and what a finished layer's directory must have one of. src/drivers/*/FORMAT.md; devices and datasets are
/// looked at where all of them are read, by thin pool and by ZFS pool.
struct DriverParts {
    std::string_view name;
    std::vector<std::string_view> parts;
};
const std::vector<DriverParts> &known_drivers() {
    static const std::vector<DriverParts> all{
        {"overlay2", {"diff"}},
        {"erofs", {"image.erofs", "tree", "upper"}},
        {"btrfs", {"fs"}},
        {"zfs", {"volume"}},
        {"devicemapper", {"volume"}},
        {"vfs", {"fs"}},
        {"overlay", {"fs", "upper"}},
    };
    return all;
}

struct Root {
    std::string path;
    bool of_daemon = false; ///< a shaled without --root serves it
};

/// One driver's directory.
struct Disk {
    std::set<std::string> ids;
    std::vector<probe::StoreLayer> others; ///< trash, scratch
};

/// What was seen at one time, and what of it does not fit together: ids of the driver in the records.
struct Look {
    Result<Records> records = fail(Errc::Unknown, "not read");
    std::map<std::string, Disk> disks; ///< by driver
    std::vector<probe::Problem> unread;
    std::set<std::string> unrecorded, missing;
    bool collecting = false; ///< a collection of garbage is at work
};

bool is_id(std::string_view name) {
    return !name.empty() && name.size() <= 20 && std::ranges::all_of(name, [](char c) { return c >= '0' && c <= '9'; });
}

probe::StoreLayer other_tree(const std::string &dir, const std::string &id, const char *kind) {
    probe::StoreLayer out;
    out.id = id;
    out.path = fmt::format("{}/{}", dir, id);
    out.kind = kind;
    out.on_disk = true;
    return out;
}

/// Two layers that change places, of which one has another name for a moment; and the trial of a driver's probe, which
/// the next one takes away when its process is gone (src/drivers/common.cc).
void add_scratch(const probe::Host &host, const std::string &dir, const std::string &name, Disk &out) {
    if (name.starts_with("exchange-")) out.others.push_back(other_tree(dir, name, "ingest"));
    if (!name.starts_with("probe-")) return;
    const std::string pid = name.substr(6, name.find('-', 6) - 6);
    const bool alive = host.live() && is_id(pid) && host.is_dir("/proc/" + pid);
    out.others.push_back(other_tree(dir, name, alive ? "ingest" : "removing"));
}

Result<Disk> read_disk(const probe::Host &host, const std::string &dir) {
    Disk out;
    for (const sys::DirEntry &entry : TRY(host.list_if_there(dir, max_entries))) {
        if (entry.type != DT_DIR) continue;
        if (is_id(entry.name))
            out.ids.insert(entry.name);
        else
            add_scratch(host, dir, entry.name, out);
    }
    for (const sys::DirEntry &entry : TRY(host.list_if_there(dir + "/trash", max_entries)))
        if (entry.name != trash_name) out.others.push_back(other_tree(dir, "trash/" + entry.name, "removing"));
    return out;
}

/// Ids of directories that the records want.
std::set<std::string> wanted_ids(const Records &records) {
    std::set<std::string> out;
    for (const auto &layer : records.layers)
        if (layer.state == "ready") out.insert(layer.id);
    for (const auto &container : records.containers)
        out.insert(container.id);
    for (const auto &snapshot : records.snapshots)
        if (snapshot.kind != SnapshotKind::committed && !snapshot.layer.empty()) out.insert(snapshot.layer);
    return out;
}

/// Nothing is there, as far as one may look.
bool is_gone(const probe::Host &host, const std::string &path) {
    const auto status = host.stat(path);
    return status && !*status;
}

/// Who is at work: src/store/locks.h.
struct AtWork {
    std::vector<LockedRange> containers; ///< bytes of containers and snapshots
    bool collecting = false;
    bool anybody = false; ///< any process has the store open

    [[nodiscard]] bool on(const std::string &id) const {
        LayerId number;
        std::from_chars(id.data(), id.data() + id.size(), number.value);
        const uint64_t byte = store::Locks::container_offset(number);
        return std::ranges::any_of(containers,
                                   [&](const LockedRange &one) { return one.begin <= byte && byte < one.end; });
    }
};

Result<AtWork> who_is_at_work(const probe::Host &host, const std::string &root) {
    const std::string path = root + "/lock";
    AtWork out;
    out.containers = TRY(write_locks(host, path, store::Locks::container_offset({0})));
    out.collecting = TRY(is_locked(host, path, sys::LockMode::shared, store::Locks::gc_offset, 1));
    out.anybody = TRY(is_locked(host, path, sys::LockMode::exclusive));
    return out;
}

/// The trash and the trials of probes are left to the processes that have the store open: its reaper is at work there,
/// or will be. Without any they are what dead ones left.
void leave_to_others(const Result<AtWork> &before, const Result<AtWork> &after, std::map<std::string, Disk> &disks) {
    if (before && !before->anybody && after && !after->anybody) return;
    for (auto &[driver, disk] : disks)
        for (probe::StoreLayer &layer : disk.others)
            layer.kind = "ingest";
}

/// Directories that no record names. Whoever makes one holds its byte from before the directory is there until its row
/// is; whoever removes one, from before the row goes until the directory has gone, and a collection holds the byte of
/// collections. So in the order directories, locks, records, locks, directories: one that is there first and last,
/// whose byte was free both times and that is in no record is nobody's. What has gone meanwhile is taken off `disk`.
std::set<std::string> find_unrecorded(const probe::Host &host, const std::string &dir, const Records &records,
                                      const AtWork &before, const AtWork &after, Disk &disk) {
    std::set<std::string> known = wanted_ids(records), out;
    for (const auto &layer : records.layers)
        known.insert(layer.id); // staged ones may have a directory
    for (auto it = disk.ids.begin(); it != disk.ids.end();) {
        const std::string &id = *it;
        const bool is_there = known.contains(id) || !is_gone(host, fmt::format("{}/{}", dir, id));
        const bool in_hand = before.on(id) || after.on(id) || before.collecting || after.collecting;
        if (is_there && !known.contains(id) && !in_hand) out.insert(id);
        it = is_there ? std::next(it) : disk.ids.erase(it);
    }
    return out;
}

/// Recorded layers without a directory. The records are read again: it may have been removed after they were.
template <class Read>
std::set<std::string> find_missing(const probe::Host &host, const std::string &dir, const Records &records,
                                   const Disk &disk, const Read &read_again) {
    std::set<std::string> out;
    for (const std::string &id : wanted_ids(records))
        if (!disk.ids.contains(id) && is_gone(host, fmt::format("{}/{}", dir, id))) out.insert(id);
    if (out.empty()) return out;
    if (const Result<Records> again = read_again()) {
        const std::set<std::string> wanted = wanted_ids(*again);
        std::erase_if(out, [&](const std::string &id) { return !wanted.contains(id); });
    }
    return out;
}

Look look(const probe::Host &host, const std::string &root, uint64_t now_s) {
    Look out;
    for (const auto &[name, parts] : known_drivers()) {
        const std::string dir = fmt::format("{}/{}", root, name);
        auto disk = read_disk(host, dir);
        if (!disk)
            out.unread.push_back({dir, disk.error().text()});
        else if (!disk->ids.empty() || !disk->others.empty())
            out.disks.emplace(name, std::move(*disk));
    }
    const auto before = who_is_at_work(host, root);
    const auto read = [&]() -> Result<Records> {
        return shale_store::read_records(TRY(SqliteCopy::read(host, root + "/shale.db")), now_s);
    };
    out.records = read();
    const auto after = who_is_at_work(host, root);
    for (const auto *work : {&before, &after})
        if (!*work) out.unread.push_back({root + "/lock", work->error().text()});
    leave_to_others(before, after, out.disks);
    if (!out.records || !before || !after) return out;
    out.collecting = before->collecting || after->collecting;
    const std::string driver = out.records->meta_text("driver"), dir = fmt::format("{}/{}", root, driver);
    Disk &disk = out.disks[driver];
    out.unrecorded = find_unrecorded(host, dir, *out.records, *before, *after, disk);
    out.missing = find_missing(host, dir, *out.records, disk, read);
    return out;
}

/// The layers of one driver, put together.
class Layers {
public:
    Layers(const probe::Host &host, std::string dir) : host_(host), dir_(std::move(dir)) {}

    probe::StoreLayer &add(const std::string &id, std::string kind) {
        probe::StoreLayer &layer = all_[id];
        layer.id = id;
        layer.path = fmt::format("{}/{}", dir_, id);
        layer.kind = std::move(kind);
        return layer;
    }
    void use(const std::string &id, std::string who) {
        const auto found = all_.find(id);
        if (found != all_.end() && found->second.used_by.size() < max_users)
            found->second.used_by.push_back(std::move(who));
    }
    [[nodiscard]] const probe::StoreLayer *find(const std::string &id) const {
        const auto found = all_.find(id);
        return found == all_.end() ? nullptr : &found->second;
    }
    void add_records(const Records &records);
    void add_users(const Records &records);
    void add_disk(const Look &look, const Disk &disk, std::string_view driver);
    std::vector<probe::StoreLayer> take();

private:
    void add_snapshots(const Records &records);
    void look_inside(probe::StoreLayer &layer, std::string_view driver);

    const probe::Host &host_;
    std::string dir_;
    std::map<std::string, probe::StoreLayer> all_;
};

void Layers::add_records(const Records &records) {
    for (const auto &record : records.layers) {
        probe::StoreLayer &layer = add(record.id, record.state == "ready" ? "committed" : "ingest");
        layer.name = record.chain_id;
        layer.parent = record.parent;
        layer.created_s = record.created_s;
        // A layer of a snapshot has its size there, and that as soon as somebody has counted it.
        const bool is_counted = !record.chain_id.empty() || record.bytes.value_or(0) != 0;
        if (is_counted) layer.recorded_bytes = record.bytes;
        if (is_counted) layer.recorded_inodes = record.inodes;
    }
    for (const auto &record : records.containers) {
        probe::StoreLayer &layer = add(record.id, "active");
        layer.name = record.name;
        layer.parent = record.parent;
        layer.created_s = record.created_s;
    }
    add_snapshots(records);
    Depths depths;
    for (auto &[id, layer] : all_) {
        layer.recorded = true;
        depths.add(id, layer.parent);
    }
    for (auto &[id, layer] : all_)
        layer.depth = depths.of(id);
}

void Layers::add_snapshots(const Records &records) {
    for (const auto &record : records.snapshots) {
        if (record.layer.empty()) continue;
        if (record.kind != SnapshotKind::committed) {
            probe::StoreLayer &layer = add(record.layer, record.kind == SnapshotKind::view ? "view" : "active");
            layer.name = record.name;
            layer.parent = record.parent_layer;
            layer.created_s = record.created_s;
        }
        const auto found = all_.find(record.layer);
        if (found == all_.end()) continue;
        if (record.bytes) found->second.recorded_bytes = record.bytes;
        if (record.inodes) found->second.recorded_inodes = record.inodes;
        if (found->second.name.empty()) found->second.name = record.name;
        if (record.lost)
            found->second.damage.push_back(
                fmt::format("its data could not be written to disk when snapshot {:?} was committed", record.name));
    }
}

void Layers::add_users(const Records &records) {
    for (const auto &image : records.images)
        for (const std::string &layer : image.layers)
            use(layer, "image " + (image.names.empty() ? image.manifest : image.names.front()));
    for (const auto &container : records.containers)
        use(container.id, "container " + container.id);
    for (const auto &snapshot : records.snapshots)
        use(snapshot.layer.empty() ? snapshot.parent_layer : snapshot.layer, "snapshot " + snapshot.name);
    for (const auto &lease : records.leases)
        if (lease.ref.starts_with("layer:")) use(lease.ref.substr(6), "lease " + lease.id);
    std::vector<std::pair<std::string, std::string>> below;
    for (const auto &[id, layer] : all_)
        if (layer.recorded && !layer.parent.empty()) below.emplace_back(layer.parent, id);
    for (const auto &[parent, id] : below)
        use(parent, "layer " + id);
}

void Layers::add_disk(const Look &look, const Disk &disk, std::string_view driver) {
    for (const std::string &id : disk.ids) {
        if (const auto known = all_.find(id); known != all_.end()) {
            known->second.on_disk = true;
            continue;
        }
        const bool is_judged = look.unrecorded.contains(id);
        add(id, is_judged ? "committed" : look.collecting ? "removing" : "ingest").on_disk = true;
    }
    for (auto it = all_.begin(); it != all_.end();) {
        probe::StoreLayer &layer = it->second;
        if (!layer.on_disk) layer.on_disk = !is_gone(host_, layer.path);
        const bool just_removed = !layer.on_disk && layer.kind != "ingest" && !look.missing.contains(layer.id);
        if (!just_removed) look_inside(layer, driver);
        it = just_removed ? all_.erase(it) : std::next(it);
    }
}

/// Damage of a finished layer, as far as names tell it.
void Layers::look_inside(probe::StoreLayer &layer, std::string_view driver) {
    if (!layer.recorded || layer.kind == "ingest") return;
    if (!layer.on_disk) {
        layer.damage.push_back(layer.path + " is missing");
        return;
    }
    const auto known = std::ranges::find(known_drivers(), driver, &DriverParts::name);
    const auto dir = host_.open_path(layer.path, O_RDONLY | O_DIRECTORY);
    if (known == known_drivers().end() || !dir) return;
    bool is_there = false;
    for (const std::string_view part : known->parts) {
        const auto status = sys::stat_if_exists(dir->get(), std::string(part).c_str());
        if (!status || *status) is_there = true; // what cannot be looked at is not called missing
        if (part == "image.erofs" && status && *status && (*status)->st_size == 0)
            layer.damage.emplace_back("image.erofs: 0 bytes");
    }
    if (!is_there) layer.damage.push_back(fmt::format("{} is missing", known->parts.front()));
}

std::vector<probe::StoreLayer> Layers::take() {
    std::vector<probe::StoreLayer> out;
    out.reserve(all_.size());
    for (auto &[id, layer] : all_)
        out.push_back(std::move(layer));
    std::ranges::sort(out, {}, [](const probe::StoreLayer &layer) { return std::pair(layer.id.size(), layer.id); });
    return out;
}

/// Blobs on disk: hex -> bytes.
using Blobs = std::map<std::string, uint64_t, std::less<>>;

Result<Blobs> read_blobs(const probe::Host &host, const std::string &root, uint64_t &blocks_bytes) {
    Blobs out;
    auto dir = host.open_path(root + "/blobs/sha256", O_RDONLY | O_DIRECTORY);
    if (!dir && dir.error().sys_errno() == ENOENT) return out;
    const UniqueFd fd = TRY(std::move(dir));
    for (const sys::DirEntry &entry : TRY(sys::list_dir(fd.get(), max_entries))) {
        const auto status = sys::stat_at(fd.get(), entry.name.c_str());
        if (!status) continue; // it has just gone
        out.emplace(entry.name, static_cast<uint64_t>(status->st_size));
        blocks_bytes += static_cast<uint64_t>(status->st_blocks) * 512;
    }
    return out;
}

/// Digest -> what is wrong with its file.
std::map<std::string, std::string> damaged_blobs(const Records &records, const Blobs &blobs) {
    std::map<std::string, std::string> out;
    for (const auto &[digest, bytes] : records.blobs) {
        if (!digest.starts_with("sha256:")) continue;
        const auto found = blobs.find(std::string_view(digest).substr(7));
        if (found == blobs.end())
            out.emplace(digest, fmt::format("blob {} is missing", digest));
        else if (found->second != bytes)
            out.emplace(digest, fmt::format("blob {} has {} bytes, not {}", digest, found->second, bytes));
    }
    return out;
}

void add_blobs(const probe::Host &host, const Records &records, probe::Store &store,
               std::map<std::string, std::string> &damage) {
    uint64_t bytes = 0;
    const auto blobs = read_blobs(host, store.root, bytes);
    if (!blobs) {
        store.sources.push_back({.path = store.root + "/blobs/sha256",
                                 .what = "blobs",
                                 .state = "unreadable",
                                 .why = blobs.error().text(),
                                 .entries = 0});
        return;
    }
    damage = damaged_blobs(records, *blobs);
    store.other_bytes["blobs"] = bytes;
    uint64_t unreferenced = 0;
    for (const auto &[hex, size] : *blobs)
        if (!records.blobs.contains("sha256:" + hex)) unreferenced += size;
    if (unreferenced != 0) store.other_bytes["blobs without a record"] = unreferenced;
}

void add_images(const Records &records, const std::map<std::string, std::string> &bad_blobs, const Layers &layers,
                probe::Store &store) {
    for (const auto &record : records.images) {
        probe::StoreImage image;
        image.id = record.manifest;
        image.names = record.names;
        image.created_s = record.created_s;
        for (const std::string &id : record.layers) {
            const probe::StoreLayer *layer = layers.find(id);
            if (layer != nullptr) image.layers.push_back(id);
            if (layer == nullptr || !layer->on_disk) ++image.missing_layers;
        }
        std::vector<std::string> digests = record.blobs;
        digests.push_back(record.manifest);
        digests.push_back(record.config);
        for (const std::string &digest : digests)
            if (const auto bad = bad_blobs.find(digest); bad != bad_blobs.end() && image.damage.size() < max_damage)
                image.damage.push_back(bad->second);
        store.images.push_back(std::move(image));
    }
}

void add_containers(const Records &records, const std::vector<probe::MountNamespace> &namespaces, probe::Store &store) {
    std::set<std::string_view> targets;
    for (const auto &one : namespaces)
        for (const auto &mount : one.mounts)
            targets.insert(mount.target);
    for (const auto &record : records.containers) {
        probe::StoreContainer container;
        container.id = record.id;
        container.name = record.name;
        container.image = record.image;
        container.layer = record.id;
        container.driver = store.driver;
        container.created_s = record.created_s;
        const bool mounted = targets.contains(fmt::format("{}/mnt/{}", store.root, record.id)) ||
                             (!record.target.empty() && targets.contains(record.target));
        if (!targets.empty()) container.state = mounted ? "mounted" : "not mounted";
        store.containers.push_back(std::move(container));
    }
}

/// The file of records, as a source of the store of `driver`.
probe::RecordSource source_of(const std::string &root, const Result<Records> &records, const std::string &driver) {
    probe::RecordSource out{.path = root + "/shale.db", .what = "records", .state = "read", .why = {}, .entries = 0};
    if (!records) {
        out.state = records.error().code() == Errc::Aborted ? "changing" : "unreadable";
        out.why = records.error().text();
        return out;
    }
    out.entries = records->count();
    const std::string own = records->meta_text("driver");
    for (const char *key : {"migrate_phase", "migrating_from"})
        if (own != driver && !records->meta_text(key).empty()) {
            out.state = "changing";
            out.why = fmt::format("a migration is under way ({})", records->meta_text(key));
        }
    return out;
}

void find_daemon(const std::vector<probe::Process> &processes, const Root &root, probe::Store &store) {
    for (const probe::Process &process : processes) {
        const std::string given = argument(process.arguments, "root");
        if (process.command != "shaled" || (given.empty() ? !root.of_daemon : given != root.path)) continue;
        store.running = true;
        store.pid = process.pid;
        return;
    }
}

void add_store_files(const probe::Host &host, probe::Store &store) {
    const auto file = [&](const std::string &name) {
        const auto status = host.stat(store.root + "/" + name);
        return status && *status ? static_cast<uint64_t>((*status)->st_blocks) * 512 : 0;
    };
    store.other_bytes["records"] = file("shale.db") + file("shale.db-wal") + file("shale.db-shm");
    store.other_bytes["reserve"] = file(store::reserve_name);
    store.other_bytes["unfinished blobs"] = bytes_in(host, store.root + "/tmp", 0);
}

/// One store, of the driver in the records or of another that left something.
probe::Store make_store(const probe::Host &host, const Root &root, const std::string &driver, const Look &look,
                        const probe::Facts &facts) {
    probe::Store store;
    store.engine = "shale";
    store.root = root.path;
    store.driver = driver;
    store.sources.push_back(source_of(root.path, look.records, driver));
    for (const probe::Problem &problem : look.unread)
        store.sources.push_back({problem.about, "layers and locks", "unreadable", problem.why, 0});
    const auto disk = look.disks.find(driver);
    Layers layers(host, fmt::format("{}/{}", root.path, driver));
    const bool is_own = look.records && look.records->meta_text("driver") == driver;
    if (is_own) layers.add_records(*look.records);
    if (is_own) layers.add_users(*look.records);
    Look empty;
    if (!is_own && disk != look.disks.end()) empty.unrecorded = disk->second.ids; // all that is there is nobody's
    layers.add_disk(is_own ? look : empty, disk == look.disks.end() ? Disk() : disk->second, driver);
    if (is_own) {
        std::map<std::string, std::string> bad_blobs;
        add_blobs(host, *look.records, store, bad_blobs);
        add_images(*look.records, bad_blobs, layers, store);
        add_containers(*look.records, facts.mount_namespaces, store);
        add_store_files(host, store);
        store.version = fmt::format("record format {}", look.records->format);
    }
    if (look.records)
        for (const char *key : {"migrate_phase", "migrate_driver", "migrate_root", "migrating_from", "moved_to"})
            if (std::string value = look.records->meta_text(key); !value.empty())
                store.settings[key] = std::move(value);
    store.layers = layers.take();
    if (disk != look.disks.end()) std::ranges::copy(disk->second.others, std::back_inserter(store.layers));
    return store;
}

/// False: there is none of shale's.
bool read_root(const probe::Host &host, const std::vector<probe::Process> &processes, const Root &root,
               probe::Facts &facts) {
    const auto db = host.stat(root.path + "/shale.db");
    if (!db) facts.problems.push_back({root.path, db.error().text()});
    // Without its records it is shale's by what no other engine has at its root.
    if (!db || (!*db && !host.is_dir(root.path + "/blobs/sha256"))) return !db;
    const uint64_t now_s = facts.taken_s != 0 ? facts.taken_s : static_cast<uint64_t>(std::time(nullptr));
    const Look seen = look(host, root.path, now_s);
    std::set<std::string> drivers;
    for (const auto &[name, disk] : seen.disks)
        if (!disk.ids.empty() || !disk.others.empty()) drivers.insert(name);
    const std::string own = seen.records ? seen.records->meta_text("driver") : std::string();
    if (!own.empty() || drivers.empty()) drivers.insert(own);
    for (const std::string &driver : drivers) {
        probe::Store store = make_store(host, root, driver, seen, facts);
        find_daemon(processes, root, store);
        facts.stores.push_back(std::move(store));
    }
    return true;
}

/// Roots that the configuration names: `root`, and those of [[snapshotter]] tables. Its text is gathered elsewhere.
std::vector<Root> configured_roots(const probe::Host &host, probe::Facts &facts) {
    std::vector<Root> out;
    const auto text = host.read_if_there(config_path);
    if (!text) facts.problems.push_back({config_path, text.error().text()});
    if (text && *text) {
        const auto document = parse_toml(**text);
        if (!document)
            facts.problems.push_back({config_path, fmt::format("nothing of it is used: {}", document.error().text())});
        const auto add = [&](const nlohmann::json &table) {
            if (std::string root = toml_text(table, {"root"}); !root.empty()) out.push_back({std::move(root), true});
        };
        if (document) add(*document);
        const auto *snapshotters = document ? toml_at(*document, {"snapshotter"}) : nullptr;
        if (snapshotters != nullptr && snapshotters->is_array())
            for (const nlohmann::json &one : *snapshotters)
                add(one);
    }
    if (out.empty()) out.push_back({default_root, true});
    return out;
}

} // namespace

void read_shale(const probe::Host &host, const std::vector<probe::Process> &processes, const std::string &root,
                probe::Facts &facts) {
    std::vector<Root> roots = configured_roots(host, facts);
    if (!root.empty()) {
        const std::string where = identity(host, root);
        const bool of_daemon = std::ranges::any_of(
            roots, [&](const Root &one) { return !where.empty() && identity(host, one.path) == where; });
        if (!read_root(host, processes, {root, of_daemon}, facts))
            facts.problems.push_back({root, "there is no store of shale's"});
        return;
    }
    for (const Home &home : homes(host, facts.problems))
        roots.push_back({home.path + "/.local/share/shale", false});
    std::set<std::string> seen;
    for (const Root &one : roots) {
        if (const auto status = host.stat(one.path); !status)
            facts.problems.push_back({one.path, status.error().text()});
        const std::string where = identity(host, one.path);
        if (!where.empty() && seen.insert(where).second) (void)read_root(host, processes, one, facts);
    }
}

} // namespace shale::doctor
