// SPDX-License-Identifier: Apache-2.0
#include "doctor/trash.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "base/paths.h"
#include "doctor/checks/common.h"
#include "doctor/hosts/places.h"
#include "oci/json.h"
#include "sys/btrfs.h"
#include "sys/fs.h"

namespace shale::doctor {

namespace {

constexpr const char *record_file = "record.json", *tree_name = "tree", *link_name = "link", *gone_name = "gone";
constexpr size_t max_record_bytes = 1U << 20U;

std::string parent_of(const std::string &path) {
    const size_t slash = path.rfind('/');
    return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}
std::string last_of(const std::string &path) {
    return path.substr(path.rfind('/') + 1);
}

/// A canonical path, none of whose components is or becomes a link.
Result<UniqueFd> open_directory(const std::string &path) {
    auto top = TRY(sys::open_dir(AT_FDCWD, "/"));
    if (path == "/") return top;
    return sys::open_dirs(top.get(), std::string_view(path).substr(1)); // a component at a time, none followed
}

std::pair<dev_t, ino_t> inode_of(const struct stat &st) {
    return {st.st_dev, st.st_ino};
}

/// The highest directory from the store's root down to the orphan's parent that its file system reaches.
Result<std::string> place_for(const Orphan &orphan) {
    const auto device_of = [](const std::string &directory) -> Result<dev_t> {
        const auto fd = TRY(open_directory(directory));
        return TRY(sys::stat_at(fd.get(), "")).st_dev;
    };
    const std::string parent = parent_of(orphan.path);
    std::string best = parent;
    const dev_t device = TRY(device_of(best));
    for (std::string up = best; up != orphan.root; best = up) {
        up = parent_of(up);
        if (TRY(device_of(up)) != device) break;
    }
    if (best == parent)
        return fail(Errc::FailedPrecondition, fmt::format("{} is a mount of its own, or the store itself: on its file "
                                                          "system there is no place for a trash that the engine "
                                                          "leaves alone",
                                                          parent));
    return best + "/" + std::string(trash_name);
}

std::string to_json(const TrashItem &item) {
    const nlohmann::ordered_json json{
        {"version", 1},          {"path", item.path},       {"link", item.link},          {"engine", item.engine},
        {"driver", item.driver}, {"root", item.root},       {"layer", item.layer},        {"bytes", item.bytes},
        {"inodes", item.inodes}, {"moved_s", item.moved_s}, {"device", item.inode.first}, {"inode", item.inode.second},
        {"proof", item.proof}};
    return json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

uint64_t number_member(const oci::Json &json, const char *key) {
    const auto *member = oci::find_member(json, key);
    return member != nullptr && member->is_number_unsigned() ? member->get<uint64_t>() : 0;
}

Status read_record(std::string_view text, TrashItem &out) {
    const auto json = TRY(oci::parse_object(text, record_file));
    out.path = TRY(oci::string_member(json, "path", record_file));
    out.link = TRY(oci::string_member(json, "link", record_file));
    out.engine = TRY(oci::string_member(json, "engine", record_file));
    out.driver = TRY(oci::string_member(json, "driver", record_file));
    out.root = TRY(oci::string_member(json, "root", record_file));
    out.layer = TRY(oci::string_member(json, "layer", record_file));
    out.proof = TRY(oci::list_member(json, "proof", record_file));
    out.bytes = number_member(json, "bytes");
    out.inodes = number_member(json, "inodes");
    out.moved_s = number_member(json, "moved_s");
    out.inode = {number_member(json, "device"), number_member(json, "inode")};
    return {};
}

/// What a record may say of places: the orphan lay below the directory that the trash is in, its link beside it.
Status check_record(const TrashItem &item) {
    const std::string above = parent_of(item.place);
    if (!is_plain(item.path) || !checks::lies_in(item.path, above) || item.path == above ||
        checks::lies_in(item.path, item.place))
        return fail(Errc::DataLoss, fmt::format("{}: \"{}\" is no place that something of this trash can have been at",
                                                record_file, item.path));
    if (!item.link.empty() && (!is_plain(item.link) || parent_of(item.link) != parent_of(item.path) + "/l"))
        return fail(Errc::DataLoss, fmt::format("{}: \"{}\" is no link of that layer", record_file, item.link));
    return {};
}

Status lock(int trash) {
    if (::flock(trash, LOCK_EX) != 0) return fail_errno(errno, "lock the trash");
    return {};
}

/// A trash that nobody else can have written.
Result<UniqueFd> open_trash(const std::string &place) {
    TRY(check_way(parent_of(place)));
    auto trash = TRY(open_directory(place));
    const auto st = TRY(sys::stat_at(trash.get(), ""));
    if (st.st_uid != ::geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return fail(Errc::PermissionDenied,
                    fmt::format("{} was not made by this user, or others can write to it: it is not believed", place));
    return trash;
}

Result<UniqueFd> open_item(int trash, uint64_t number) {
    auto item = TRY(sys::open_dir(trash, std::to_string(number).c_str()));
    const auto st = TRY(sys::stat_at(item.get(), ""));
    if (st.st_uid != ::geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return fail(
            Errc::PermissionDenied,
            fmt::format("item {} was not made by this user, or others can write to it: it is not believed", number));
    return item;
}

/// Makes the next item's directory.
Result<UniqueFd> make_item(int trash, uint64_t &number) {
    for (const auto &entry : TRY(sys::list_dir(trash))) {
        uint64_t there = 0;
        const char *end = entry.name.data() + entry.name.size();
        if (std::from_chars(entry.name.data(), end, there).ec == std::errc() && there < UINT64_MAX - 1)
            number = std::max(number, there);
    }
    const std::string name = std::to_string(++number);
    TRY(sys::make_dir(trash, name.c_str(), 0700));
    TRY(sys::fsync_fd(trash));
    return sys::open_dir(trash, name.c_str());
}

/// overlay2's and containers/storage's short name of a layer: a file `link` in its directory, a symlink below l/.
std::string short_name_of(const std::string &path) {
    const auto directory = open_directory(path);
    const auto name = directory ? sys::read_file(directory->get(), "link", 256)
                                : Result<std::string>(std::unexpected(directory.error()));
    if (!name || name->empty() || name->find('/') != std::string::npos || *name == "." || *name == "..") return {};
    const std::string links = parent_of(path) + "/l";
    const auto dir = open_directory(links);
    if (!dir) return {};
    const auto target = sys::read_link(dir->get(), name->c_str());
    return target && *target == "../" + last_of(path) + "/diff" ? links + "/" + *name : std::string();
}

/// Only an item that is empty but for its record can be forgotten.
Status forget(int trash, int item, uint64_t number) {
    const Status unlinked = sys::unlink_at(item, record_file);
    if (!unlinked && unlinked.error().code() != Errc::NotFound) return unlinked;
    TRY(sys::unlink_at(trash, std::to_string(number).c_str(), AT_REMOVEDIR));
    return sys::fsync_fd(trash);
}

/// Renames without replacing, and syncs both directories; after an error of the sync it is renamed back.
Status move_synced(int from, const char *name, int to, const char *as) {
    TRY(sys::rename_at(from, name, to, as, RENAME_NOREPLACE));
    for (const int directory : {to, from})
        if (const Status synced = sys::fsync_fd(directory); !synced) {
            (void)sys::rename_at(to, as, from, name, RENAME_NOREPLACE);
            return synced;
        }
    return {};
}

TrashItem item_of(const Orphan &orphan, std::string place) {
    const auto &layer = *orphan.layer;
    TrashItem item;
    item.place = std::move(place);
    item.path = orphan.path;
    item.link = short_name_of(orphan.path);
    item.engine = orphan.store->engine;
    item.driver = orphan.store->driver;
    item.root = orphan.store->root;
    item.layer = layer.id;
    item.bytes = layer.usage ? layer.usage->exclusive_bytes : 0;
    item.inodes = layer.usage ? layer.usage->exclusive_inodes : 0;
    item.moved_s = static_cast<uint64_t>(std::time(nullptr));
    item.inode = orphan.inode;
    item.proof = orphan.proof;
    return item;
}

Status check_text(const TrashItem &item) {
    TrashItem again;
    TRY(read_record(to_json(item), again));
    if (again.path == item.path && again.link == item.link) return {};
    return fail(Errc::FailedPrecondition,
                fmt::format("{} stays: its name is no UTF-8, and could not be put back from a record", item.path));
}

TrashItem::State state_of(int item) {
    const auto has = [item](const char *name) {
        const auto st = sys::stat_if_exists(item, name);
        return !st || *st; // what cannot be looked at is there
    };
    return has(gone_name)   ? TrashItem::State::going
           : has(tree_name) ? TrashItem::State::whole
                            : TrashItem::State::empty;
}

/// Everything of one trash.
void list_one(const std::string &place, std::vector<TrashItem> &out, std::vector<std::string> &problems) {
    const auto trash = open_trash(place);
    const auto entries =
        trash ? sys::list_dir(trash->get()) : Result<std::vector<sys::DirEntry>>(std::unexpected(trash.error()));
    if (!entries) {
        problems.push_back(entries.error().text());
        return;
    }
    for (const auto &entry : *entries) {
        TrashItem item;
        item.place = place;
        std::from_chars(entry.name.data(), entry.name.data() + entry.name.size(), item.number);
        if (std::to_string(item.number) != entry.name) continue;
        const auto read = [&]() -> Status {
            const auto directory = TRY(open_item(trash->get(), item.number));
            item.state = state_of(directory.get());
            const auto text = sys::read_file(directory.get(), record_file, max_record_bytes);
            if (!text && text.error().code() == Errc::NotFound && item.state == TrashItem::State::empty)
                return {}; // being made, or cut short before anything moved
            if (!text) return std::unexpected(text.error());
            TRY(read_record(*text, item));
            TRY(check_record(item));
            out.push_back(item);
            return {};
        }();
        if (!read) problems.push_back(fmt::format("{}/{}: {}", place, entry.name, read.error().text()));
    }
}

} // namespace

std::string TrashItem::tree() const {
    return fmt::format("{}/{}/{}", place, number, state == State::going ? gone_name : tree_name);
}

Result<TrashItem> move_to_trash(const Orphan &orphan) {
    if (!orphan.obstacles.empty())
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} stays: {}", checks::place_of(*orphan.layer), orphan.obstacles.front()));
    TrashItem item = item_of(orphan, TRY(place_for(orphan)));
    TRY(check_text(item));
    TRY(check_way(parent_of(item.path)));
    const auto from = TRY(open_directory(parent_of(item.path)));
    const std::string name = last_of(item.path);
    const auto above = TRY(open_directory(parent_of(item.place)));
    (void)TRY(sys::make_dirs(above.get(), trash_name));
    TRY(sys::fsync_fd(above.get()));
    const auto trash = TRY(open_trash(item.place));
    TRY(lock(trash.get()));
    const auto directory = TRY(make_item(trash.get(), item.number));
    const auto moved = [&]() -> Status {
        TRY(sys::write_file_durably(directory.get(), record_file, to_json(item)));
        if (inode_of(TRY(sys::stat_at(from.get(), name.c_str()))) != orphan.inode)
            return fail(Errc::FailedPrecondition,
                        "another directory lies there than the one that was judged; nothing was moved");
        TRY(move_synced(from.get(), name.c_str(), directory.get(), tree_name));
        if (inode_of(TRY(sys::stat_at(directory.get(), tree_name))) == orphan.inode) return {};
        TRY(move_synced(directory.get(), tree_name, from.get(), name.c_str()));
        return fail(Errc::FailedPrecondition, "another directory was put there while it was moved; it is back");
    }();
    if (!moved) {
        (void)forget(trash.get(), directory.get(), item.number);
        return std::unexpected(Error(moved.error()).add(fmt::format("move {} to {}", item.path, item.place)));
    }
    item.state = TrashItem::State::whole;
    if (!item.link.empty()) // one that stays leads nowhere, and no engine minds
        if (const auto links = open_directory(parent_of(item.link)))
            (void)move_synced(links->get(), last_of(item.link).c_str(), directory.get(), link_name);
    return item;
}

Status put_back(const TrashItem &item) {
    TRY(check_record(item));
    TRY(check_way(parent_of(item.path)));
    const auto trash = TRY(open_trash(item.place));
    TRY(lock(trash.get()));
    const auto directory = TRY(open_item(trash.get(), item.number));
    if (state_of(directory.get()) == TrashItem::State::going)
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} is being purged: some of it may be gone; purge it", item.path));
    if (const auto st = TRY(sys::stat_if_exists(directory.get(), tree_name))) {
        if (inode_of(*st) != item.inode)
            return fail(Errc::DataLoss, fmt::format("{} is not what was moved there; it stays", item.tree()));
        const auto to = TRY(open_directory(parent_of(item.path)));
        TRY(in_context(move_synced(directory.get(), tree_name, to.get(), last_of(item.path).c_str()),
                       [&] { return fmt::format("put {} back", item.path); }));
    }
    if (!item.link.empty() && TRY(sys::stat_if_exists(directory.get(), link_name))) {
        const auto to = TRY(open_directory(parent_of(item.link)));
        if (!move_synced(directory.get(), link_name, to.get(),
                         last_of(item.link).c_str())) // the engine has made it anew
            TRY(sys::unlink_at(directory.get(), link_name));
    }
    return forget(trash.get(), directory.get(), item.number);
}

Status purge(const TrashItem &item) {
    const auto trash = TRY(open_trash(item.place));
    TRY(lock(trash.get()));
    const auto directory = TRY(open_item(trash.get(), item.number));
    if (TRY(sys::stat_if_exists(directory.get(), tree_name)))
        TRY(move_synced(directory.get(), tree_name, directory.get(), gone_name));
    ::flock(trash.get(), LOCK_UN); // nobody puts it back from now on
    if (const auto gone = sys::open_dir(directory.get(), gone_name);
        gone && sys::is_btrfs(gone->get()) && TRY(sys::is_subvolume(gone->get())))
        TRY(sys::delete_subvolume(directory.get(), gone_name));
    TRY(sys::remove_tree(directory.get(), gone_name));
    TRY(lock(trash.get()));
    if (TRY(sys::stat_if_exists(directory.get(), link_name))) TRY(sys::unlink_at(directory.get(), link_name));
    return forget(trash.get(), directory.get(), item.number);
}

std::vector<TrashItem> list_trash(const probe::Host &host, const probe::Facts &facts,
                                  std::vector<std::string> &problems) {
    std::set<std::string> directories; // canonical
    const auto add = [&](const std::string &path) {
        const auto fd = host.open_path(path, O_PATH | O_DIRECTORY);
        const auto real = fd ? sys::path_of_fd(fd->get()) : Result<std::string>(std::unexpected(fd.error()));
        if (real) directories.insert(*real);
        return real.has_value();
    };
    std::set<std::string> seen;
    for (const auto &store : facts.stores) {
        add(store.root);
        for (const auto &layer : store.layers)
            for (std::string up = parent_of(layer.path); checks::lies_in(up, store.root) && seen.insert(up).second;
                 up = parent_of(up))
                add(up);
    }
    std::vector<TrashItem> out;
    for (const std::string &directory : directories) {
        const std::string place = directory + "/" + std::string(trash_name);
        struct stat st{};
        if (::lstat(place.c_str(), &st) == 0) list_one(place, out, problems);
    }
    std::ranges::stable_sort(out, {}, [](const TrashItem &item) { return std::pair(item.moved_s, item.number); });
    return out;
}

} // namespace shale::doctor
