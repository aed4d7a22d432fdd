// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/hard_links.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/fd.h"
#include "base/units.h"
#include "drivers/common.h"
#include "sys/fs.h"

namespace shale::doctor {
namespace {

constexpr uint64_t max_files = 2'000'000;         ///< of one layer
constexpr uint64_t max_files_of_all = 20'000'000; ///< of all stores
constexpr uint64_t block_bytes = 512;             ///< of st_blocks

bool same_time(const timespec &one, const timespec &other) {
    return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

bool looks_same(const struct stat &one, const struct stat &other) {
    return one.st_mode == other.st_mode && one.st_uid == other.st_uid && one.st_gid == other.st_gid &&
           one.st_size == other.st_size && same_time(one.st_mtim, other.st_mtim);
}

/// nullopt: nothing that can be looked at is there.
std::optional<struct stat> status_in(int tree, const std::string &path) {
    const auto fd = sys::open_at2(tree, path.c_str(), O_PATH | O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
    const auto status = fd ? sys::stat_at(fd->get(), "") : Result<struct stat>(std::unexpected(fd.error()));
    return status ? std::optional(*status) : std::nullopt;
}

/// What a file takes, but no more than it holds: records count either.
uint64_t bytes_of(const struct stat &status) {
    return std::min(static_cast<uint64_t>(status.st_size), static_cast<uint64_t>(status.st_blocks) * block_bytes);
}

/// What a walk returns that has seen enough.
std::unexpected<Error> enough(uint64_t limit) {
    return fail(Errc::ResourceExhausted, fmt::format("more than {} files", limit));
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
    Search(const probe::Host &host, probe::Facts &facts) : host_(host), facts_(facts) {}

    void look_at(probe::Store &store) {
        std::unordered_map<std::string_view, const probe::StoreLayer *> by_id;
        for (const auto &layer : store.layers)
            by_id.emplace(layer.id, &layer);
        std::vector<std::pair<const probe::StoreLayer *, probe::StoreLayer *>> pairs; // parent, child
        for (auto &layer : store.layers) {
            const auto parent = by_id.find(layer.parent);
            if (parent != by_id.end() && parent->second != &layer && is_sealed(*parent->second) && is_sealed(layer) &&
                layer.recorded_bytes)
                pairs.emplace_back(parent->second, &layer);
        }
        std::ranges::sort(pairs, {}, [](const auto &pair) { return std::pair(pair.first->id, pair.second->id); });
        for (auto pair = pairs.begin(); pair != pairs.end() && !is_over_;) {
            const auto next =
                std::find_if(pair, pairs.end(), [&](const auto &one) { return one.first != pair->first; });
            look_at_children(store, *pair->first, {pair, next});
            pair = next;
        }
    }

private:
    using Pairs = std::vector<std::pair<const probe::StoreLayer *, probe::StoreLayer *>>;
    struct Range {
        Pairs::iterator begin, end;
    };

    static bool is_sealed(const probe::StoreLayer &layer) {
        return layer.recorded && layer.on_disk && layer.kind == "committed" && !layer.path.empty();
    }

    void look_at_children(const probe::Store &store, const probe::StoreLayer &parent, Range children) {
        const std::string path = tree_of(store, parent);
        const auto tree = open_tree(host_, path);
        if (!tree) return note(path, tree.error());
        const auto inodes = inodes_of_files(tree->get(), std::min(max_files, left()));
        if (!inodes) return note(path, inodes.error());
        seen_ += inodes->size();
        for (auto pair = children.begin; pair != children.end && !is_over_; ++pair)
            look_at(*pair->second, tree_of(store, *pair->second), tree->get(), *inodes);
    }

    void look_at(probe::StoreLayer &layer, const std::string &path, int parent,
                 const std::unordered_set<uint64_t> &inodes) {
        const auto tree = open_tree(host_, path);
        if (!tree) return note(path, tree.error());
        const auto report = compare_with_parent(tree->get(), parent, inodes, std::min(max_files, left()));
        if (!report) return note(path, report.error());
        seen_ += report->files;
        if (std::string damage = text_of(*report, *layer.recorded_bytes); !damage.empty())
            layer.damage.push_back(std::move(damage));
        if (report->cut) note(path, enough(report->files).error());
    }

    [[nodiscard]] uint64_t left() const { return max_files_of_all - std::min(max_files_of_all, seen_); }

    /// A layer may have been removed meanwhile; one that lacks its tree is its reader's to tell.
    void note(const std::string &path, const Error &error) {
        if (error.code() == Errc::ResourceExhausted && left() < max_files) is_over_ = true;
        if (error.code() != Errc::NotFound)
            facts_.problems.push_back({path, fmt::format("its hard links were not all looked at: {}", error.text())});
    }

    const probe::Host &host_;
    probe::Facts &facts_;
    uint64_t seen_ = 0;
    bool is_over_ = false; ///< enough was looked at
};

} // namespace

Result<std::unordered_set<uint64_t>> inodes_of_files(int tree, uint64_t limit) {
    std::unordered_set<uint64_t> out;
    TRY(drivers::walk_tree(tree, [&](int, const char *, const struct stat &status, std::string_view) -> Status {
        if (!S_ISREG(status.st_mode)) return {};
        if (out.size() >= limit) return enough(limit);
        out.insert(status.st_ino);
        return {};
    }));
    return out;
}

Result<LinkReport> compare_with_parent(int tree, int parent, const std::unordered_set<uint64_t> &inodes,
                                       uint64_t limit) {
    LinkReport out;
    std::unordered_set<uint64_t> own; // those with several names
    const auto compare = [&](int, const char *name, const struct stat &status, std::string_view directory) -> Status {
        if (!S_ISREG(status.st_mode)) return {};
        if (out.files >= limit) {
            out.cut = true;
            return enough(limit);
        }
        ++out.files;
        if (inodes.contains(status.st_ino)) return {};
        const bool is_new = status.st_nlink == 1 || own.insert(status.st_ino).second;
        if (is_new) out.own_bytes += bytes_of(status);
        const std::string path = fmt::format("{}{}", directory, name);
        const auto below = status_in(parent, path);
        if (!below || !looks_same(*below, status)) return {};
        ++out.copies;
        if (is_new) out.copied_bytes += bytes_of(status);
        if (out.names.size() < max_named_copies) out.names.push_back("/" + path);
        return {};
    };
    if (auto walked = drivers::walk_tree(tree, compare); !walked && !out.cut) return std::unexpected(walked.error());
    return out;
}

void look_for_broken_links(const probe::Host &host, probe::Facts &facts) {
    Search search(host, facts);
    for (auto &store : facts.stores)
        if (store.driver == "overlay" && (store.engine == "docker" || store.engine == "shale")) search.look_at(store);
}

} // namespace shale::doctor
