// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/hard_links.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/fd.h"
#include "base/units.h"
#include "doctor/checks/common.h"
#include "sys/fs.h"

namespace shale::doctor {
namespace {

constexpr uint64_t block_bytes = 512; ///< of st_blocks
/// What is mounted in a layer may hang whoever touches it.
constexpr uint64_t on_this_mount = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;

bool same_time(const timespec &one, const timespec &other) {
    return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

bool looks_same(const struct stat &one, const struct stat &other) {
    return one.st_mode == other.st_mode && one.st_uid == other.st_uid && one.st_gid == other.st_gid &&
           one.st_size == other.st_size && same_time(one.st_mtim, other.st_mtim);
}

constexpr size_t compared_bytes = 64U << 10U;

/// The first bytes of it; empty: it cannot be read.
std::string begin_of(int tree, const std::string &path) {
    const auto file = sys::open_at2(tree, path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, on_this_mount);
    std::string out(compared_bytes, '\0');
    size_t filled = 0;
    while (file && filled < out.size()) {
        const auto got = sys::read_some(file->get(), std::as_writable_bytes(std::span(out)).subspan(filled));
        if (!got || *got == 0) break;
        filled += *got;
    }
    out.resize(filled);
    return out;
}

/// nullopt: nothing that can be looked at is there, or it is of another file system than `device`.
std::optional<struct stat> status_in(int tree, const std::string &path, dev_t device) {
    const auto fd = sys::open_at2(tree, path.c_str(), O_PATH | O_NOFOLLOW, on_this_mount);
    const auto status = fd ? sys::stat_at(fd->get(), "") : Result<struct stat>(std::unexpected(fd.error()));
    return status && status->st_dev == device ? std::optional(*status) : std::nullopt;
}

uint64_t blocks_of(const struct stat &status) {
    return static_cast<uint64_t>(status.st_blocks) * block_bytes;
}

/// What a file takes, but no more than it holds: records count either.
uint64_t bytes_of(const struct stat &status) {
    return std::min(static_cast<uint64_t>(status.st_size), blocks_of(status));
}

bool has_holes(const struct stat &status) {
    return blocks_of(status) < static_cast<uint64_t>(status.st_size);
}

std::unexpected<Error> more_than(uint64_t limit) {
    return fail(Errc::ResourceExhausted, fmt::format("more than {} files", format_count(limit)));
}

/// Of more_than(), not of a call that found no memory or descriptor.
bool is_limit(const Error &error) {
    return error.code() == Errc::ResourceExhausted && error.sys_errno() == 0;
}

/// It was removed meanwhile, is no directory any more, or something is mounted there.
bool is_elsewhere(const Error &error) {
    const int code = error.sys_errno();
    return code == ENOENT || code == ENOTDIR || code == ELOOP || code == EXDEV;
}

/// Calls `visit(directory, name, path)` for the regular files of `device` below `tree`; `left` as in inodes_of_files().
/// Memory: the current path, and the names of directories beside it.
using Visit = std::function<void(int directory, const std::string &name, const std::string &path)>;
Status walk(int tree, dev_t device, uint64_t &left, const Visit &visit) {
    const uint64_t limit = left;
    struct Frame {
        size_t length; ///< of the path
        std::vector<std::string> directories;
    };
    std::string path;
    std::vector<Frame> frames;
    const auto enter = [&](const char *name) -> Status {
        const auto dir = sys::open_at2(tree, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, on_this_mount);
        if (!dir && is_elsewhere(dir.error())) return {};
        if (!dir) return std::unexpected(dir.error());
        if (TRY(sys::stat_at(dir->get(), "")).st_dev != device) return {}; // a subvolume
        auto entries = sys::list_dir(dir->get(), left);
        if (!entries && is_limit(entries.error())) { // not even listed in whole
            left = 0;
            return more_than(limit);
        }
        if (!entries) return std::unexpected(entries.error());
        left -= entries->size();
        Frame frame{path.size(), {}};
        for (auto &entry : *entries) {
            if (entry.type == DT_REG) visit(dir->get(), entry.name, path + entry.name);
            if (entry.type == DT_DIR) frame.directories.push_back(std::move(entry.name));
        }
        if (!frame.directories.empty()) frames.push_back(std::move(frame));
        return {};
    };
    TRY(enter("."));
    while (!frames.empty()) {
        Frame &above = frames.back();
        if (above.directories.empty()) {
            frames.pop_back();
            continue;
        }
        path.resize(above.length);
        path += above.directories.back();
        path += '/';
        above.directories.pop_back();
        TRY(enter(path.c_str()));
    }
    return {};
}

std::string tree_of(const probe::Store &store, const probe::StoreLayer &layer) {
    return layer.path + (store.engine == "docker" ? "/root" : "/fs");
}

Result<UniqueFd> open_tree(const probe::Host &host, const std::string &path) {
    return host.open_path(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

/// The damage; "": there is none.
std::string text_of(const LinkReport &report, uint64_t recorded_bytes) {
    if (report.copies == 0 || report.own_bytes <= recorded_bytes) return {};
    const uint64_t more = report.copies - std::min<uint64_t>(report.copies, report.names.size());
    return fmt::format("hard link: {} of {}{} files are copies of the parent's, {}: {}{}", report.copies,
                       report.cut ? "the first " : "", report.files, format_bytes(report.copied_bytes),
                       fmt::join(report.names, ", "), more == 0 ? "" : fmt::format(" and {} more", more));
}

class Search {
public:
    Search(const probe::Host &host, probe::Facts &facts, const LinkLimits &limits)
        : host_(host), facts_(facts), limits_(limits), left_(limits.of_all) {}

    void look_at(probe::Store &store) {
        std::unordered_map<std::string_view, const probe::StoreLayer *> by_id;
        for (const auto &layer : store.layers)
            by_id.emplace(layer.id, &layer);
        std::vector<Pair> pairs;
        for (auto &layer : store.layers) {
            const auto parent = by_id.find(layer.parent);
            if (parent != by_id.end() && parent->second != &layer && is_sealed(*parent->second) && is_sealed(layer) &&
                layer.recorded_bytes)
                pairs.push_back({parent->second, &layer});
        }
        std::ranges::sort(pairs, [](const Pair &one, const Pair &other) {
            return std::tie(one.parent->id, one.child->id) < std::tie(other.parent->id, other.child->id);
        });
        const uint64_t before = left_out_;
        for (auto pair = pairs.begin(); pair != pairs.end();) {
            const auto next =
                std::find_if(pair, pairs.end(), [&](const Pair &one) { return one.parent != pair->parent; });
            look_at_children(store, *pair->parent, {pair, next});
            pair = next;
        }
        if (left_out_ != before) ++stores_left_out_;
    }

    void finish() {
        if (left_out_ != 0)
            facts_.problems.push_back({"hard links of layers", fmt::format("{} in {} were not looked at: more than {} "
                                                                           "files of all",
                                                                           checks::counted(left_out_, "layer"),
                                                                           checks::counted(stores_left_out_, "store"),
                                                                           format_count(limits_.of_all))});
    }

private:
    struct Pair {
        const probe::StoreLayer *parent;
        probe::StoreLayer *child;
    };

    static bool is_sealed(const probe::StoreLayer &layer) {
        return layer.recorded && layer.on_disk && layer.kind == "committed" && !layer.path.empty();
    }

    /// `look(left)` with what one layer may take of what is left of all.
    template <class F> auto bounded(F &&look) {
        const uint64_t before = std::min(limits_.of_layer, left_);
        uint64_t left = before;
        auto out = look(left);
        left_ -= before - left;
        return out;
    }

    void look_at_children(const probe::Store &store, const probe::StoreLayer &parent, std::span<const Pair> children) {
        if (left_ == 0) return void(left_out_ += children.size());
        const std::string path = tree_of(store, parent);
        const auto tree = open_tree(host_, path);
        if (!tree) return note(path, tree.error(), children.size());
        const auto inodes = bounded([&](uint64_t &left) { return inodes_of_files(tree->get(), left); });
        if (!inodes) return note(path, inodes.error(), children.size());
        for (const Pair &pair : children)
            look_at(*pair.child, tree_of(store, *pair.child), tree->get(), *inodes);
    }

    void look_at(probe::StoreLayer &layer, const std::string &path, int parent, const LayerInodes &inodes) {
        if (left_ == 0) return void(++left_out_);
        const auto tree = open_tree(host_, path);
        if (!tree) return note(path, tree.error(), 1);
        const auto report =
            bounded([&](uint64_t &left) { return compare_with_parent(tree->get(), parent, inodes, left); });
        if (!report) return note(path, report.error(), 1);
        if (std::string damage = text_of(*report, *layer.recorded_bytes); !damage.empty())
            layer.damage.push_back(std::move(damage));
        if (report->cut) note(path, more_than(limits_.of_layer).error(), 1);
    }

    /// `layers` could not be looked at, or not wholly. One may have been removed meanwhile; one that lacks its tree is
    /// its reader's to tell.
    void note(const std::string &path, const Error &error, uint64_t layers) {
        if (is_limit(error) && left_ == 0)
            left_out_ += layers;
        else if (error.code() != Errc::NotFound)
            facts_.problems.push_back({path, fmt::format("its hard links were not all looked at: {}", error.text())});
    }

    const probe::Host &host_;
    probe::Facts &facts_;
    LinkLimits limits_;
    uint64_t left_; ///< of all entries
    uint64_t left_out_ = 0, stores_left_out_ = 0;
};

} // namespace

Result<LayerInodes> inodes_of_files(int tree, uint64_t &left) {
    LayerInodes out;
    out.device = TRY(sys::stat_at(tree, "")).st_dev;
    TRY(walk(tree, out.device, left, [&](int directory, const std::string &name, const std::string &) {
        if (const auto status = status_in(directory, name, out.device)) out.numbers.insert(status->st_ino);
    }));
    return out;
}

Result<LinkReport> compare_with_parent(int tree, int parent, const LayerInodes &inodes, uint64_t &left) {
    LinkReport out;
    std::unordered_set<uint64_t> own; // those with several names
    const dev_t device = TRY(sys::stat_at(tree, "")).st_dev;
    const auto compare = [&](int directory, const std::string &name, const std::string &path) {
        const auto status = status_in(directory, name, device);
        if (!status || !S_ISREG(status->st_mode)) return;
        ++out.files;
        if (device == inodes.device && inodes.numbers.contains(status->st_ino)) return;
        const bool is_new = status->st_nlink == 1 || own.insert(status->st_ino).second;
        if (is_new && !has_holes(*status)) out.own_bytes += bytes_of(*status);
        const auto below = status_in(parent, path, inodes.device);
        if (!below || !looks_same(*below, *status)) return;
        // Builds that can be repeated give all files one time: a changed file may have kept its size.
        if (begin_of(parent, path) != begin_of(directory, name)) return;
        ++out.copies;
        if (is_new) out.copied_bytes += bytes_of(*status);
        if (out.names.size() < max_named_copies) out.names.push_back("/" + path);
    };
    const Status walked = walk(tree, device, left, compare);
    out.cut = !walked && is_limit(walked.error());
    if (!walked && !out.cut) return std::unexpected(walked.error());
    return out;
}

void look_for_broken_links(const probe::Host &host, probe::Facts &facts, const LinkLimits &limits) {
    Search search(host, facts, limits);
    for (auto &store : facts.stores)
        if (store.driver == "overlay" && (store.engine == "docker" || store.engine == "shale")) search.look_at(store);
    search.finish();
}

} // namespace shale::doctor
