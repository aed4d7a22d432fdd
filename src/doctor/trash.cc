// SPDX-License-Identifier: Apache-2.0
#include "doctor/trash.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "doctor/checks/common.h"
#include "oci/json.h"
#include "sys/btrfs.h"

namespace shale::doctor {

namespace {

using probe::Host;

constexpr const char *record_file = "record.json", *tree_name = "tree", *link_name = "link";
constexpr size_t max_record_bytes = 1U << 20U;

std::string parent_of(const std::string &path) {
    const size_t slash = path.rfind('/');
    return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}
std::string last_of(const std::string &path) {
    return path.substr(path.rfind('/') + 1);
}

Result<UniqueFd> open_directory(const Host &host, const std::string &path) {
    return host.open_path(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

/// The highest directory from the store's root down to the orphan's parent that its file system reaches.
Result<std::string> place_for(const Host &host, const std::string &root, const std::string &path) {
    const auto device_of = [&](const std::string &directory) -> Result<dev_t> {
        const auto fd = TRY(open_directory(host, directory));
        return TRY(sys::stat_at(fd.get(), "")).st_dev;
    };
    std::string best = parent_of(path);
    if (!checks::lies_in(best, root))
        return fail(Errc::InvalidArgument, fmt::format("{} does not lie in the store at {}", path, root));
    const dev_t device = TRY(device_of(best));
    for (std::string up = best; up != root; best = up) {
        up = parent_of(up);
        if (TRY(device_of(up)) != device) break;
    }
    return best + "/" + std::string(trash_name);
}

std::string to_json(const TrashItem &item) {
    const nlohmann::ordered_json json{{"version", 1},          {"path", item.path},     {"link", item.link},
                                      {"engine", item.engine}, {"driver", item.driver}, {"layer", item.layer},
                                      {"bytes", item.bytes},   {"inodes", item.inodes}, {"moved_s", item.moved_s},
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
    out.layer = TRY(oci::string_member(json, "layer", record_file));
    out.proof = TRY(oci::list_member(json, "proof", record_file));
    out.bytes = number_member(json, "bytes");
    out.inodes = number_member(json, "inodes");
    out.moved_s = number_member(json, "moved_s");
    if (!out.path.starts_with('/'))
        return fail(Errc::DataLoss, fmt::format("{}: the path \"{}\" is not absolute", record_file, out.path));
    return {};
}

/// Makes the next item's directory.
Result<UniqueFd> make_item(int trash, uint64_t &number) {
    for (const auto &entry : TRY(sys::list_dir(trash))) {
        uint64_t there = 0;
        std::from_chars(entry.name.data(), entry.name.data() + entry.name.size(), there);
        number = std::max(number, there);
    }
    for (;;) {
        ++number;
        const Status made = sys::make_dir(trash, std::to_string(number).c_str(), 0700);
        if (made) return sys::open_dir(trash, std::to_string(number).c_str());
        if (made.error().code() != Errc::AlreadyExists) return std::unexpected(made.error());
    }
}

/// overlay2's and containers/storage's short name of a layer: a file `link` in its directory, a symlink below l/.
std::string short_name_of(const Host &host, const std::string &path) {
    const auto name = host.read_if_there(path + "/link", 256);
    if (!name || !*name || (*name)->empty() || (*name)->find('/') != std::string::npos) return {};
    std::string link = parent_of(path) + "/l/" + **name;
    const auto dir = open_directory(host, parent_of(link));
    if (!dir) return {};
    const auto target = sys::read_link(dir->get(), (*name)->c_str());
    return target && *target == "../" + last_of(path) + "/diff" ? link : std::string();
}

Status same_inode(int dir, const std::string &name, const struct stat &as) {
    const auto now = TRY(sys::stat_at(dir, name.c_str()));
    if (now.st_dev == as.st_dev && now.st_ino == as.st_ino) return {};
    return fail(Errc::FailedPrecondition,
                fmt::format("\"{}\" is another one than a moment ago; nothing was moved", name));
}

Status remove_item(int trash, const TrashItem &item) {
    TRY(sys::remove_tree(trash, std::to_string(item.number).c_str()));
    return sys::fsync_fd(trash);
}

} // namespace

Result<TrashItem> move_to_trash(const Host &host, const Orphan &orphan) {
    const auto &layer = *orphan.layer;
    if (!orphan.obstacles.empty())
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} stays: {}", checks::place_of(layer), orphan.obstacles.front()));
    TrashItem item;
    item.place = TRY(place_for(host, orphan.store->root, layer.path));
    item.path = layer.path;
    item.link = short_name_of(host, layer.path);
    item.engine = orphan.store->engine;
    item.driver = orphan.store->driver;
    item.layer = layer.id;
    item.bytes = layer.usage ? layer.usage->exclusive_bytes : 0;
    item.inodes = layer.usage ? layer.usage->exclusive_inodes : 0;
    item.moved_s = static_cast<uint64_t>(std::time(nullptr));
    item.proof = orphan.proof;
    TrashItem again;
    TRY(read_record(to_json(item), again));
    if (again.path != item.path || again.link != item.link)
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} stays: its name is no UTF-8, and could not be put back from a record", item.path));
    const auto from = TRY(open_directory(host, parent_of(item.path)));
    const std::string name = last_of(item.path);
    const auto before = TRY(sys::stat_at(from.get(), name.c_str()));
    const auto above = TRY(open_directory(host, parent_of(item.place)));
    const auto trash = TRY(sys::make_dirs(above.get(), trash_name));
    TRY(sys::fsync_fd(above.get()));
    const auto directory = TRY(make_item(trash.get(), item.number));
    const auto moved = [&]() -> Status {
        TRY(sys::write_file_durably(directory.get(), record_file, to_json(item)));
        TRY(sys::fsync_fd(trash.get()));
        TRY(same_inode(from.get(), name, before));
        return sys::rename_at(from.get(), name.c_str(), directory.get(), tree_name, RENAME_NOREPLACE);
    }();
    if (!moved) {
        (void)remove_item(trash.get(), item);
        return std::unexpected(Error(moved.error()).add(fmt::format("move {} to {}", item.path, item.place)));
    }
    item.has_tree = true;
    if (!item.link.empty()) { // a link that stays leads nowhere, and no engine minds
        const auto links = open_directory(host, parent_of(item.link));
        if (links &&
            sys::rename_at(links->get(), last_of(item.link).c_str(), directory.get(), link_name, RENAME_NOREPLACE))
            TRY(sys::fsync_fd(links->get()));
    }
    TRY(sys::fsync_fd(directory.get()));
    TRY(sys::fsync_fd(from.get()));
    return item;
}

Status put_back(const Host &host, const TrashItem &item) {
    const auto trash = TRY(open_directory(host, item.place));
    const auto directory = TRY(sys::open_dir(trash.get(), std::to_string(item.number).c_str()));
    const auto back = [&](const char *name, const std::string &path) -> Status {
        if (path.empty() || !TRY(sys::stat_if_exists(directory.get(), name))) return {};
        const auto to = TRY(open_directory(host, parent_of(path)));
        TRY(in_context(sys::rename_at(directory.get(), name, to.get(), last_of(path).c_str(), RENAME_NOREPLACE),
                       [&] { return fmt::format("put {} back", path); }));
        return sys::fsync_fd(to.get());
    };
    TRY(back(link_name, item.link));
    TRY(back(tree_name, item.path));
    return remove_item(trash.get(), item);
}

Status purge(const Host &host, const TrashItem &item) {
    const auto trash = TRY(open_directory(host, item.place));
    const auto directory = TRY(sys::open_dir(trash.get(), std::to_string(item.number).c_str()));
    if (const auto tree = sys::open_dir(directory.get(), tree_name);
        tree && sys::is_btrfs(tree->get()) && TRY(sys::is_subvolume(tree->get())))
        TRY(sys::delete_subvolume(directory.get(), tree_name));
    // The record goes last: what is left of a cut purge is still known.
    TRY(sys::remove_tree(directory.get(), tree_name));
    return remove_item(trash.get(), item);
}

std::vector<TrashItem> list_trash(const Host &host, const probe::Facts &facts, std::vector<std::string> &problems) {
    std::set<std::string> places;
    for (const auto &store : facts.stores) {
        places.insert(store.root + "/" + std::string(trash_name));
        for (const auto &layer : store.layers)
            for (std::string up = layer.path; checks::lies_in(up, store.root) && up != store.root;) {
                up = parent_of(up);
                places.insert(up + "/" + std::string(trash_name));
            }
    }
    std::vector<TrashItem> out;
    for (const std::string &place : places) {
        if (!host.is_dir(place)) continue;
        const auto entries = host.list(place);
        if (!entries) {
            problems.push_back(entries.error().text());
            continue;
        }
        for (const auto &entry : *entries) {
            TrashItem item;
            item.place = place;
            const char *end = entry.name.data() + entry.name.size();
            if (std::from_chars(entry.name.data(), end, item.number).ptr != end) continue;
            const std::string directory = place + "/" + entry.name;
            const auto text = host.read(directory + "/" + record_file, max_record_bytes);
            const Status read = text ? read_record(*text, item) : Status(std::unexpected(text.error()));
            if (!read) {
                problems.push_back(fmt::format("{}: {}", directory, read.error().text()));
                continue;
            }
            item.has_tree = host.is_dir(directory + "/" + tree_name);
            out.push_back(std::move(item));
        }
    }
    std::ranges::stable_sort(out, {}, [](const TrashItem &item) { return std::pair(item.moved_s, item.number); });
    return out;
}

} // namespace shale::doctor
