// SPDX-License-Identifier: Apache-2.0
// The part of an import that needs the parents: it brings a staged upper-form tree into the state as if the archive's
// entries had been applied one after the other to the merged tree. Three steps, in this order:
//   fold     a directory that the layer only implies, over a symlink of the parents: the parents' link stays, what the
//            layer put there moves to the directory that the link leads to
//   links    hard links to files of the parents get their names
//   inherit  directories that the layer only implies take owner, mode, attributes and times of the parents' ones
// Works on the staged tree alone: after a crash or an error that is thrown away as a whole.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "archive/extract.h"
#include "archive/tree.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/paths.h"

namespace shale::drivers {

/// A path looked up in one upper-form tree, following no link.
struct Look {
    enum class Kind : uint8_t { found, absent, hidden }; ///< hidden: whiteout, opaque, or no directory on the way
    Kind kind = Kind::absent;
    archive::Ref at;           ///< only to be looked at, when found
    bool opaque_above = false; ///< a directory above the path is opaque here
    bool redirected = false;   ///< a redirect or metacopy mark on the way: only a mount tells the truth
};
Result<Look> look_up(archive::Tree &tree, std::string_view path, archive::WhiteoutForm form);

/// The merged tree of a layer's parents, as the driver keeps it.
class LowerTree {
public:
    virtual ~LowerTree() = default;
    /// What is at `path` (clean; no link is followed), O_PATH; nullopt: nothing.
    virtual Result<std::optional<UniqueFd>> look(std::string_view path) = 0;
    /// The file at `path`, opened as `from`, gets a first name in the staged tree, which is free: `to_dir` is the
    /// staged tree's number of the directory.
    virtual Status give(const std::string &path, int from, int to_dir, const char *name) = 0;
    /// True: giving makes a copy, and the lower name must become one of the copy's names to stay the same file.
    [[nodiscard]] virtual bool copies() const noexcept = 0;
};

class Applier {
public:
    /// `staged` and `lower` outlive the object.
    Applier(archive::Tree &staged, archive::WhiteoutForm form, LowerTree &lower)
        : staged_(staged), form_(form), lower_(lower) {}
    Status run(const archive::ExtractReport &report);
    /// Afterwards: where the archive's `path` is now.
    [[nodiscard]] std::string moved_path(std::string path) const;
    /// Afterwards: directories that say nothing about themselves.
    [[nodiscard]] const std::set<std::string> &implied() const noexcept { return implied_; }

private:
    static constexpr size_t max_lookups = 4096; ///< components looked at for one path

    // apply_fold.cc
    Status fold();
    Result<std::optional<std::string>> fold_target(const std::string &path);
    Result<std::optional<std::string>> resolve(const std::string &path);
    Status move_tree(const std::string &from, const std::string &to);
    Status move_level(const std::string &below, const std::string &from, const std::string &to,
                      std::vector<std::string> &todo);
    Status move_entry(int source, int target, const std::string &raw, const std::string &from, const std::string &to,
                      bool &both_directories);
    Status move_deletion(int source, int target, const std::string &raw, const char *name);
    Status make_opaque(int dir, const char *name);
    void rename_pending(const std::string &from, const std::string &to);

    // apply.cc
    struct Found {
        std::string path; ///< without symlinks
        bool own = false; ///< the layer's, not the parents'
        UniqueFd fd;      ///< the parents'
    };
    Result<Found> find_target(const archive::DeferredLink &link);
    Result<std::string> resolve_below(const archive::DeferredLink &link);
    Status link(const archive::DeferredLink &link);
    Status link_from(const std::string &path, int to_dir, const char *name);
    Status inherit(const std::string &path);
    Result<archive::Ref> make_staged(std::string_view path);
    Status keep_times(int dir, const std::function<Status()> &body);
    [[nodiscard]] bool has_arrived(const std::string &path) const;

    archive::Tree &staged_;
    archive::WhiteoutForm form_;
    LowerTree &lower_;
    std::set<std::string> pending_;            ///< implied directories not looked at yet
    std::set<std::string> implied_;            ///< those that stay, and those made here
    std::map<std::string, std::string> moved_; ///< directory whose content moved -> where to
    std::set<std::string> arrived_;            ///< what is at a place that the archive did not name
    std::set<std::string> link_names_;
    std::map<std::string, std::string> homes_; ///< the parents' file -> a name of it in the staged tree
};

} // namespace shale::drivers
