// SPDX-License-Identifier: Apache-2.0
#include "drivers/erofs/image_tree.h"

#include <dirent.h>
#include <sys/random.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/paths.h"

namespace shale::drivers::erofs {
namespace {

constexpr size_t name_max = 255, path_max = 4095;
constexpr size_t max_xattr_references = size_t{32} << 20U;

std::unexpected<Error> refuse(int error, std::string_view what, std::string_view name) {
    return fail_errno(error, fmt::format("{} \"{}\"", what, name));
}

} // namespace

ImageTree::ImageTree(UniqueFd image)
    : image_(std::move(image)), writer_(image_.get()), uid_(::geteuid()), gid_(::getegid()), table_(1024) {
    if (::getrandom(key_.data(), sizeof key_, 0) != sizeof key_) key_ = {reinterpret_cast<uintptr_t>(this), 0};
    Node root;
    root.mode = S_IFDIR | 0755;
    root.uid = uid_;
    root.gid = gid_;
    root.links = 1;
    root.extra = 0;
    nodes_.push_back(root);
    dirs_.emplace_back();
}

// ------------------------------------------------------------------------------------------------------------- names

uint64_t ImageTree::hash_of(uint32_t dir, std::string_view name) const {
    return siphash(key_, name, dir);
}

size_t ImageTree::slot_of(uint32_t dir, std::string_view name) const {
    const size_t mask = table_.size() - 1;
    size_t free = table_.size();
    for (size_t at = hash_of(dir, name) & mask;; at = (at + 1) & mask) {
        if (table_[at] == 0) return free < table_.size() ? free : at;
        if (table_[at] == none) {
            free = std::min(free, at);
            continue;
        }
        const Name &one = names_[table_[at] - 1];
        if (one.dir == dir && text_of(one) == name) return at;
    }
}

uint32_t ImageTree::find(uint32_t dir, std::string_view name) const {
    const uint32_t at = table_[slot_of(dir, name)];
    return at == 0 || at == none ? none : at - 1;
}

void ImageTree::grow_table() {
    if ((table_used_ + 1) * 4 < table_.size() * 3) return;
    size_t live = 1;
    for (const uint32_t one : table_)
        live += one != 0 && one != none ? 1U : 0U;
    const std::vector<uint32_t> old =
        std::exchange(table_, std::vector<uint32_t>(live * 2 >= table_.size() ? table_.size() * 2 : table_.size()));
    table_used_ = live - 1;
    for (const uint32_t one : old)
        if (one != 0 && one != none) table_[slot_of(names_[one - 1].dir, text_of(names_[one - 1]))] = one;
}

Result<uint32_t> ImageTree::add_text(std::string_view text) {
    if (text_.size() + text.size() > max_text)
        return fail(Errc::ResourceExhausted, fmt::format("the layer's names need more than {} bytes", max_text));
    const auto at = static_cast<uint32_t>(text_.size());
    text_ += text;
    return at;
}

Result<uint32_t> ImageTree::add_node(mode_t mode) {
    if (nodes_.size() >= max_nodes) return fail(Errc::ResourceExhausted, "the layer has too many inodes");
    Node node;
    node.mode = static_cast<uint16_t>(mode);
    node.uid = uid_;
    node.gid = gid_;
    nodes_.push_back(node);
    ++live_inodes_;
    return static_cast<uint32_t>(nodes_.size() - 1);
}

Status ImageTree::add_name(uint32_t dir, std::string_view name, uint32_t node) {
    if (names_.size() >= max_nodes) return fail(Errc::ResourceExhausted, "the layer has too many names");
    Name one;
    one.dir = dir;
    one.node = node;
    one.length = static_cast<uint8_t>(name.size());
    one.text = TRY(add_text(name));
    one.next = std::exchange(dir_of(dir).first_name, static_cast<uint32_t>(names_.size()));
    names_.push_back(one);
    ++nodes_[node].links;
    grow_table();
    uint32_t &at = table_[slot_of(dir, name)];
    if (at == 0) ++table_used_;
    at = static_cast<uint32_t>(names_.size());
    return {};
}

/// The directory's list keeps it: walks pass over names that no directory has.
void ImageTree::drop_name(uint32_t name) {
    table_[slot_of(names_[name].dir, text_of(names_[name]))] = none;
    names_[name].dir = none;
}

bool ImageTree::drop_link(uint32_t node) {
    if (--nodes_[node].links > 0) return false;
    --live_inodes_;
    return true;
}

Result<uint32_t> ImageTree::look(int dir, const char *name) const {
    const auto at = static_cast<uint32_t>(dir);
    const std::string_view text(name);
    if (text.empty()) return at;
    if (!is_dir(at)) return refuse(ENOTDIR, "look up", text);
    if (text == ".") return at;
    if (text.size() > name_max) return refuse(ENAMETOOLONG, "look up", text);
    const uint32_t found = find(at, text);
    if (found == none) return refuse(ENOENT, "look up", text);
    return names_[found].node;
}

struct stat ImageTree::stat_of(uint32_t number) const {
    const Node &node = nodes_[number];
    struct stat out{};
    out.st_ino = number;
    out.st_mode = node.mode;
    out.st_uid = node.uid;
    out.st_gid = node.gid;
    out.st_nlink = node.links;
    out.st_size = static_cast<off_t>(node.size);
    if (S_ISCHR(node.mode) || S_ISBLK(node.mode)) out.st_rdev = makedev(node.extra >> 20U, node.extra & 0xfffffU);
    out.st_mtim.tv_sec = node.mtime;
    out.st_mtim.tv_nsec = node.mtime_ns;
    out.st_atim = out.st_ctim = out.st_mtim;
    return out;
}

Result<struct stat> ImageTree::stat(int dir, const char *name) {
    return stat_of(TRY(look(dir, name)));
}

Result<std::optional<struct stat>> ImageTree::stat_if_exists(int dir, const char *name) {
    if (*name == '\0' || !is_dir(static_cast<uint32_t>(dir))) return TRY(stat(dir, name));
    const std::string_view text(name);
    if (text.size() > name_max) return refuse(ENAMETOOLONG, "look up", text);
    const uint32_t found = find(static_cast<uint32_t>(dir), text);
    if (found == none) return std::nullopt;
    return stat_of(names_[found].node);
}

Result<archive::Ref> ImageTree::open_dir(int dir, const char *name) {
    const uint32_t node = TRY(look(dir, name));
    if (!is_dir(node)) return refuse(S_ISLNK(nodes_[node].mode) ? ELOOP : ENOTDIR, "open", name);
    return archive::Ref(static_cast<int>(node));
}

Result<archive::Ref> ImageTree::open_path(int dir, const char *name) {
    return archive::Ref(static_cast<int>(TRY(look(dir, name))));
}

Result<std::optional<archive::Ref>> ImageTree::resolve_dir(const std::string &path) {
    if (path.size() > path_max) return refuse(ENAMETOOLONG, "open", path);
    std::vector<std::string> todo; // last is next
    push_parts(path, todo);
    uint32_t at = 0;
    for (int links = 0; !todo.empty();) {
        const std::string part = std::move(todo.back());
        todo.pop_back();
        if (part == "..") {
            at = dir_of(at).parent;
            continue;
        }
        if (part.size() > name_max) return refuse(ENAMETOOLONG, "open", path);
        const uint32_t found = find(at, part);
        if (found == none) return std::nullopt;
        const uint32_t node = names_[found].node;
        if (S_ISLNK(nodes_[node].mode)) {
            if (++links > max_symlinks) return refuse(ELOOP, "open", path);
            const std::string target = TRY(read_link(static_cast<int>(node), ""));
            if (target.starts_with('/')) at = 0;
            push_parts(target, todo);
            continue;
        }
        if (!is_dir(node)) return refuse(ENOTDIR, "open", path);
        at = node;
    }
    return std::optional<archive::Ref>(std::in_place, static_cast<int>(at));
}

Result<std::string> ImageTree::read_link(int dir, const char *name) {
    const Node &node = nodes_[TRY(look(dir, name))];
    if (!S_ISLNK(node.mode)) return refuse(EINVAL, "read link", name);
    return text_.substr(node.extra, static_cast<size_t>(node.size));
}

Result<std::vector<sys::DirEntry>> ImageTree::list_dir(int dir) {
    if (!is_dir(static_cast<uint32_t>(dir))) return refuse(ENOTDIR, "list", "");
    std::vector<sys::DirEntry> out;
    for (uint32_t at = dir_of(static_cast<uint32_t>(dir)).first_name; at != none; at = names_[at].next) {
        const Name &name = names_[at];
        if (name.dir != static_cast<uint32_t>(dir)) continue;
        out.push_back(
            {std::string(text_of(name)), name.node, static_cast<unsigned char>(IFTODT(nodes_[name.node].mode))});
    }
    return out;
}

// ------------------------------------------------------------------------------------------------------------- making

Result<uint32_t> ImageTree::new_entry(int dir, const char *name, mode_t mode) {
    const std::string_view text(name);
    const auto at = static_cast<uint32_t>(dir);
    if (!is_dir(at)) return refuse(ENOTDIR, "make", text);
    if (text.empty() || text == "." || text == ".." || find(at, text) != none) return refuse(EEXIST, "make", text);
    if (text.size() > name_max) return refuse(ENAMETOOLONG, "make", text);
    if (text.contains('/')) return refuse(ENOENT, "make", text);
    const uint32_t node = TRY(add_node(mode));
    TRY(add_name(at, text, node));
    return node;
}

Result<archive::Ref> ImageTree::create_file(int dir, const char *name, mode_t mode) {
    TRY(end_file());
    const uint32_t node = TRY(new_entry(dir, name, S_IFREG | (mode & 07777U)));
    TRY(writer_.begin_file());
    open_file_ = node;
    return archive::Ref(static_cast<int>(node));
}

Status ImageTree::write(int file, std::span<const std::byte> data) {
    if (static_cast<uint32_t>(file) != open_file_) return refuse(EBADF, "write", "");
    nodes_[open_file_].size += data.size();
    return writer_.append(data);
}

Status ImageTree::truncate(int file, uint64_t size) {
    if (static_cast<uint32_t>(file) != open_file_ || nodes_[open_file_].size != 0) return refuse(EBADF, "truncate", "");
    if (size == 0) return {};
    nodes_[open_file_].size = size;
    return writer_.begin_sparse(size);
}

Status ImageTree::write_at(int file, std::span<const std::byte> data, uint64_t offset) {
    if (static_cast<uint32_t>(file) != open_file_) return refuse(EBADF, "write", "");
    return writer_.write_at(data, offset);
}

Status ImageTree::end_file() {
    if (open_file_ == none) return {};
    Node &node = nodes_[std::exchange(open_file_, none)];
    node.place = TRY(writer_.end_file(head_of(node), xattrs_of(node)));
    node.placed = true;
    node.recount = node.links != 1;
    if (node.xattrs != none) xattr_sets_[node.xattrs] = {};
    return {};
}

Status ImageTree::make_dir(int dir, const char *name, mode_t mode) {
    const uint32_t node = TRY(new_entry(dir, name, S_IFDIR | (mode & 07777U)));
    nodes_[node].extra = static_cast<uint32_t>(dirs_.size());
    dirs_.emplace_back().parent = static_cast<uint32_t>(dir);
    return {};
}

Status ImageTree::make_symlink(std::string_view target, int dir, const char *name) {
    if (target.empty()) return refuse(ENOENT, "make symlink", name);
    if (target.size() > path_max) return refuse(ENAMETOOLONG, "make symlink", name);
    const uint32_t node = TRY(new_entry(dir, name, S_IFLNK | 0777));
    nodes_[node].size = target.size();
    nodes_[node].extra = TRY(add_text(target));
    return {};
}

Status ImageTree::make_node(int dir, const char *name, mode_t mode, dev_t device) {
    if (major(device) > 0xfff || minor(device) > 0xfffff) return refuse(EINVAL, "make node", name);
    if ((mode & S_IFMT) == S_IFREG || (mode & S_IFMT) == S_IFDIR || (mode & S_IFMT) == S_IFLNK)
        return refuse(EINVAL, "make node", name);
    const uint32_t node = TRY(new_entry(dir, name, mode));
    nodes_[node].extra = (major(device) << 20U) | minor(device);
    return {};
}

Status ImageTree::make_link(int from_dir, const char *from, int to_dir, const char *to) {
    const uint32_t node = TRY(look(from_dir, from));
    const auto dir = static_cast<uint32_t>(to_dir);
    const std::string_view text(to);
    if (is_dir(node)) return refuse(EPERM, "make link", text);
    if (!is_dir(dir)) return refuse(ENOTDIR, "make link", text);
    if (text.empty() || text == "." || text == ".." || find(dir, text) != none)
        return refuse(EEXIST, "make link", text);
    if (text.size() > name_max) return refuse(ENAMETOOLONG, "make link", text);
    return add_name(dir, text, node);
}

// ------------------------------------------------------------------------------------------------------------- going

Status ImageTree::unlink(int dir, const char *name) {
    const uint32_t node = TRY(look(dir, name));
    if (is_dir(node) || *name == '\0') return refuse(EISDIR, "unlink", name);
    drop_name(find(static_cast<uint32_t>(dir), name));
    (void)drop_link(node);
    return {};
}

Status ImageTree::rename(int from_dir, const char *from, int to_dir, const char *to) {
    const uint32_t node = TRY(look(from_dir, from));
    const auto dir = static_cast<uint32_t>(to_dir);
    if (*from == '\0' || *to == '\0' || std::strlen(to) > name_max || !is_dir(dir)) return refuse(EINVAL, "rename", to);
    if (is_dir(node))
        for (uint32_t at = dir; at != 0; at = dir_of(at).parent)
            if (at == node) return refuse(EINVAL, "rename", to);
    if (const uint32_t old = find(dir, to); old != none) {
        const uint32_t there = names_[old].node;
        if (there == node) return {};
        if (is_dir(there)) return refuse(is_dir(node) ? ENOTEMPTY : EISDIR, "rename", to); // nobody renames onto one
        if (is_dir(node)) return refuse(ENOTDIR, "rename", to);
        drop_name(old);
        (void)drop_link(there);
    }
    drop_name(find(static_cast<uint32_t>(from_dir), from));
    TRY(add_name(dir, to, node));
    --nodes_[node].links; // add_name counted one more
    if (is_dir(node)) dir_of(node).parent = dir;
    return {};
}

Status ImageTree::remove_tree(int dir, const char *name, const std::function<void()> &on_entry) {
    const uint32_t top = *name == '\0' ? none : find(static_cast<uint32_t>(dir), name);
    if (top == none) return {};
    std::vector<uint32_t> todo{top};
    while (!todo.empty()) {
        const uint32_t at = todo.back();
        todo.pop_back();
        const uint32_t node = names_[at].node;
        if (is_dir(node))
            for (uint32_t below = dir_of(node).first_name; below != none; below = names_[below].next)
                if (names_[below].dir == node) todo.push_back(below);
        drop_name(at);
        if (drop_link(node) && on_entry) on_entry();
    }
    return {};
}

// -------------------------------------------------------------------------------------------------------------
// attributes

Result<ImageTree::Node *> ImageTree::change(int dir, const char *name) {
    Node &node = nodes_[TRY(look(dir, name))];
    if (node.placed) return fail(Errc::Internal, fmt::format("\"{}\" is in the image already", name));
    return &node;
}

Status ImageTree::chown(int dir, const char *name, uid_t uid, gid_t gid) {
    Node *node = TRY(change(dir, name));
    node->uid = uid;
    node->gid = gid;
    return {};
}

Status ImageTree::chmod(int dir, const char *name, mode_t mode) {
    Node *node = TRY(change(dir, name));
    node->mode = static_cast<uint16_t>((node->mode & S_IFMT) | (mode & 07777U));
    return {};
}

Status ImageTree::set_times(int dir, const char *name, const timespec & /*atime*/, const timespec &mtime) {
    Node *node = TRY(change(dir, name));
    node->mtime = mtime.tv_sec;
    node->mtime_ns = static_cast<uint32_t>(mtime.tv_nsec);
    return {};
}

Status ImageTree::set_xattr(int dir, const char *name, const char *key, std::string_view value) {
    Node *node = TRY(change(dir, name));
    const std::string_view text(key);
    const bool is_link = S_ISLNK(node->mode);
    if (text.starts_with("user.") && !S_ISREG(node->mode) && !S_ISDIR(node->mode))
        return refuse(EPERM, "set attribute", text);
    if (text.starts_with("system.posix_acl_") && is_link) return refuse(EOPNOTSUPP, "set attribute", text);
    if (text == "system.posix_acl_default" && !S_ISDIR(node->mode)) return refuse(EACCES, "set attribute", text);
    const uint32_t number = TRY(writer_.xattrs().intern(text, value));
    if (node->xattrs == none) {
        node->xattrs = static_cast<uint32_t>(xattr_sets_.size());
        xattr_sets_.emplace_back();
    }
    auto &set = xattr_sets_[node->xattrs];
    for (uint32_t &one : set)
        if (writer_.xattrs().item(one).key == text) {
            one = number;
            return {};
        }
    if (++xattr_references_ > max_xattr_references)
        return fail(Errc::ResourceExhausted,
                    fmt::format("the layer has more than {} attributes", max_xattr_references));
    set.push_back(number);
    return {};
}

Result<std::optional<std::string>> ImageTree::get_xattr(int dir, const char *name, const char *key) {
    for (const uint32_t one : xattrs_of(nodes_[TRY(look(dir, name))]))
        if (const auto &item = writer_.xattrs().item(one); item.key == key) return item.value;
    return std::nullopt;
}

Result<std::vector<std::string>> ImageTree::list_xattrs(int dir, const char *name) {
    std::vector<std::string> out;
    for (const uint32_t one : xattrs_of(nodes_[TRY(look(dir, name))]))
        out.push_back(writer_.xattrs().item(one).key);
    return out;
}

std::span<const uint32_t> ImageTree::xattrs_of(const Node &node) const {
    if (node.xattrs == none) return {};
    return xattr_sets_[node.xattrs];
}

InodeHead ImageTree::head_of(const Node &node) const {
    InodeHead out;
    out.mode = node.mode;
    out.uid = node.uid;
    out.gid = node.gid;
    out.size = node.size;
    out.mtime = node.mtime;
    out.mtime_ns = node.mtime_ns;
    out.links = node.links;
    if (S_ISCHR(node.mode) || S_ISBLK(node.mode)) {
        const uint32_t major_number = node.extra >> 20U, minor_number = node.extra & 0xfffffU;
        out.device = (minor_number & 0xffU) | (major_number << 8U) | ((minor_number & ~0xffU) << 12U);
    }
    return out;
}

} // namespace shale::drivers::erofs
