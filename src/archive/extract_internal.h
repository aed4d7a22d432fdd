// SPDX-License-Identifier: Apache-2.0
// The extractor behind extract_tar(). extract.cc makes entries; extract_tree.cc finds the directory for them.
#pragma once

#include <array>
#include <bitset>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "archive/extract.h"
#include "archive/tree.h"

namespace shale::archive {

/// Components of an archive's name: "", "." dropped, ".." taken back lexically and clamped at the root.
/// The views point into `path`. InvalidArgument: a component of more than 255 bytes.
Status split_clean(std::string_view path, std::vector<std::string_view> &out);
std::string join(std::span<const std::string_view> components);
/// Printable form for messages, at most ~200 bytes.
std::string escaped(std::string_view name);

class Extractor {
public:
    Extractor(TarReader &tar, Tree &tree, const ExtractOptions &options, const std::atomic<bool> *cancel);
    Result<ExtractReport> run();

private:
    /// One directory of the path where work goes on. Only ancestors of the current entry are on the stack, so nothing
    /// that an entry removes can be cached here. It is opened when a child needs it.
    struct Level {
        std::string name;
        Ref fd;
        bool set_times = false;     ///< on leaving
        bool restore_times = false; ///< set_times once a child changed
        bool setgid = false;
        std::optional<mode_t> leave_mode;
        timespec atime{}, mtime{};
    };
    struct Owner {
        uid_t uid = 0;
        gid_t gid = 0;
        bool differs = false; ///< from what a new inode gets
    };

    // extract_tree.cc
    Status enter(std::span<const std::string_view> parents);
    Result<std::optional<std::string>> step_into(const std::string &part);
    Status make_implied(const std::string &part, bool deleted);
    Result<int> open_level(size_t index);
    Status leave_top();
    Status leave_to(size_t depth);
    Status lock();
    [[nodiscard]] int here() const { return stack_.size() == 1 ? root_ : stack_.back().fd.get(); }
    void touch() {
        Level &top = stack_.back();
        top.set_times = top.set_times || top.restore_times;
    }
    [[nodiscard]] std::string real_path(std::string_view name) const;
    Result<bool> make_room(const char *name);
    void forget_below(const std::string &path, bool itself);
    [[nodiscard]] const char *opaque_key() const {
        return options_.whiteouts == WhiteoutForm::overlay_trusted ? "trusted.overlay.opaque" : "user.overlay.opaque";
    }
    [[nodiscard]] bool is_whiteout(const struct stat &info) const;
    Result<bool> drop_named_whiteout(const char *name);
    Status special(const Entry &entry);
    Status whiteout(const char *name);
    Status make_opaque(int dir);
    Status make_opaque_child(const char *name);
    Status book(size_t bytes);

    // extract.cc
    Status entry(Entry &entry);
    Status root_entry(const Entry &entry);
    Status file(const Entry &entry);
    Status file_data(const Entry &entry, int file);
    Status directory(const Entry &entry);
    Status symlink(const Entry &entry);
    Status node(const Entry &entry);
    Status hard_link(const Entry &entry);
    Result<DeferredLink> locate_target();
    Status defer(const std::string &path);
    Result<std::pair<int, Ref>> link_source_dir();
    template <class F> Status create(F attempt);
    Status attributes_by_name(const Entry &entry, const Owner &owner);
    Result<Owner> owner_of(const Entry &entry);
    Result<Owner> owner_of(uint64_t uid, uint64_t gid);
    Status xattrs(const Entry &entry, int dir, const char *name);
    void warn(std::string text);
    [[nodiscard]] bool canceled() const { return cancel_ != nullptr && cancel_->load(std::memory_order_relaxed); }

    TarReader &tar_;
    Tree &tree_;
    const int root_;
    const ExtractOptions &options_;
    const std::atomic<bool> *cancel_;
    const uid_t uid_;
    const gid_t gid_;
    mode_t umask_;
    bool inherits_acl_ = false; ///< a default ACL was set somewhere: modes of new inodes are not what was asked for

    std::vector<Level> stack_;
    std::vector<std::string_view> parts_, link_parts_; ///< of the current entry
    std::string name_;                                 ///< its last component
    bool parent_is_no_dir_ = false;                    ///< why `enter` failed
    std::set<std::string> implied_;
    std::map<std::string, std::pair<uint64_t, DeferredLink>> deferred_; ///< path -> order, link
    uint64_t deferred_count_ = 0;
    /// Not root: directories with a mode that locks out their owner, who is us. They get it at the very end, since
    /// later entries and links may lead through them.
    std::map<std::string, mode_t> locked_;
    size_t booked_ = 0; ///< bytes of names kept in the ones above
    /// oci_names: hashes of names that have a whiteout, so that most entries need not look for one.
    std::bitset<65'536> whiteout_names_;
    ExtractReport report_;
};

} // namespace shale::archive
