// SPDX-License-Identifier: Apache-2.0
// What a layer is unpacked into: the calls of a file system that extraction and the drivers' apply step make, so that
// both have one set of rules whatever keeps the tree. DirectoryTree is a directory of the host; drivers/erofs has one
// in memory whose files go to an image as they come.
//
// Semantics are those of the system calls: names are relative to a directory, no call follows a symlink in the last
// component, and errors carry the errno that the kernel would give (EEXIST, ENOENT, ENOTDIR, ELOOP, ...).
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "sys/fs.h"

namespace shale::archive {

/// An object held: its number in the tree, and the descriptor where that is one (then the number is the descriptor's).
class Ref {
public:
    Ref() = default;
    explicit Ref(UniqueFd fd) noexcept : id_(fd.get()), fd_(std::move(fd)) {}
    explicit Ref(int id) noexcept : id_(id) {}
    Ref(Ref &&other) noexcept : id_(std::exchange(other.id_, -1)), fd_(std::move(other.fd_)) {}
    Ref &operator=(Ref &&other) noexcept {
        id_ = std::exchange(other.id_, -1);
        fd_ = std::move(other.fd_);
        return *this;
    }
    Ref(const Ref &) = delete;
    Ref &operator=(const Ref &) = delete;
    ~Ref() = default;

    [[nodiscard]] int get() const noexcept { return id_; }
    [[nodiscard]] explicit operator bool() const noexcept { return id_ >= 0; }
    void reset() noexcept {
        id_ = -1;
        fd_.reset();
    }
    /// The descriptor, for callers that know that it is one.
    [[nodiscard]] UniqueFd take_fd() noexcept {
        id_ = -1;
        return std::move(fd_);
    }

private:
    int id_ = -1;
    UniqueFd fd_;
};

/// `dir` is a Ref's number or root(); name "" is the object `dir` itself.
class Tree {
public:
    Tree() = default;
    Tree(const Tree &) = delete;
    Tree &operator=(const Tree &) = delete;
    virtual ~Tree() = default;

    [[nodiscard]] virtual int root() const noexcept = 0;
    virtual Result<struct stat> stat(int dir, const char *name) = 0;
    virtual Result<std::optional<struct stat>> stat_if_exists(int dir, const char *name) = 0;
    virtual Result<Ref> open_dir(int dir, const char *name) = 0;
    /// Any object, only to be looked at (O_PATH).
    virtual Result<Ref> open_path(int dir, const char *name) = 0;
    /// The directory that `path` leads to, symlinks followed inside the root; nullopt: there is none.
    virtual Result<std::optional<Ref>> resolve_dir(const std::string &path) = 0;
    virtual Result<std::string> read_link(int dir, const char *name) = 0;
    virtual Result<std::vector<sys::DirEntry>> list_dir(int dir) = 0;

    /// A new, empty file (EEXIST when the name is taken), open for the calls below until another one is made.
    virtual Result<Ref> create_file(int dir, const char *name, mode_t mode) = 0;
    virtual Status write(int file, std::span<const std::byte> data) = 0; ///< at the end
    virtual Status write_at(int file, std::span<const std::byte> data, uint64_t offset) = 0;
    virtual Status truncate(int file, uint64_t size) = 0;

    virtual Status make_dir(int dir, const char *name, mode_t mode) = 0;
    virtual Status make_symlink(std::string_view target, int dir, const char *name) = 0;
    virtual Status make_node(int dir, const char *name, mode_t mode, dev_t device) = 0;
    virtual Status make_link(int from_dir, const char *from, int to_dir, const char *to) = 0;
    virtual Status unlink(int dir, const char *name) = 0;
    virtual Status rename(int from_dir, const char *from, int to_dir, const char *to) = 0;
    /// Missing is fine; `on_entry` is called once for each object that is no more.
    virtual Status remove_tree(int dir, const char *name, const std::function<void()> &on_entry = {}) = 0;

    virtual Status chown(int dir, const char *name, uid_t uid, gid_t gid) = 0;
    virtual Status chmod(int dir, const char *name, mode_t mode) = 0; ///< of what is no symlink
    virtual Status set_times(int dir, const char *name, const timespec &atime, const timespec &mtime) = 0;
    virtual Status set_xattr(int dir, const char *name, const char *key, std::string_view value) = 0;
    virtual Result<std::optional<std::string>> get_xattr(int dir, const char *name, const char *key) = 0;
    virtual Result<std::vector<std::string>> list_xattrs(int dir, const char *name) = 0;

    /// The directory at `path` below the root, no symlink is followed.
    Result<Ref> open_dirs(std::string_view path);
};

/// A directory of the host. Numbers are descriptors: any descriptor of the caller's may be given as `dir`.
class DirectoryTree final : public Tree {
public:
    explicit DirectoryTree(int root) noexcept : root_(root) {} ///< not owned
    explicit DirectoryTree(UniqueFd root) noexcept : root_(root.get()), owned_(std::move(root)) {}

    [[nodiscard]] int root() const noexcept override { return root_; }
    Result<struct stat> stat(int dir, const char *name) override { return sys::stat_at(dir, name); }
    Result<std::optional<struct stat>> stat_if_exists(int dir, const char *name) override {
        return sys::stat_if_exists(dir, name);
    }
    Result<Ref> open_dir(int dir, const char *name) override;
    Result<Ref> open_path(int dir, const char *name) override;
    Result<std::optional<Ref>> resolve_dir(const std::string &path) override;
    Result<std::string> read_link(int dir, const char *name) override { return sys::read_link(dir, name); }
    Result<std::vector<sys::DirEntry>> list_dir(int dir) override { return sys::list_dir(dir); }

    Result<Ref> create_file(int dir, const char *name, mode_t mode) override;
    Status write(int file, std::span<const std::byte> data) override { return sys::write_all(file, data); }
    Status write_at(int file, std::span<const std::byte> data, uint64_t offset) override {
        return sys::pwrite_all(file, data, offset);
    }
    Status truncate(int file, uint64_t size) override { return sys::truncate_fd(file, size); }

    Status make_dir(int dir, const char *name, mode_t mode) override { return sys::make_dir(dir, name, mode); }
    Status make_symlink(std::string_view target, int dir, const char *name) override {
        return sys::make_symlink(target, dir, name);
    }
    Status make_node(int dir, const char *name, mode_t mode, dev_t device) override {
        return sys::make_node(dir, name, mode, device);
    }
    Status make_link(int from_dir, const char *from, int to_dir, const char *to) override {
        return sys::make_link(from_dir, from, to_dir, to);
    }
    Status unlink(int dir, const char *name) override { return sys::unlink_at(dir, name); }
    Status rename(int from_dir, const char *from, int to_dir, const char *to) override {
        return sys::rename_at(from_dir, from, to_dir, to);
    }
    Status remove_tree(int dir, const char *name, const std::function<void()> &on_entry) override {
        return sys::remove_tree(dir, name, on_entry);
    }

    Status chown(int dir, const char *name, uid_t uid, gid_t gid) override {
        return sys::chown_at(dir, name, uid, gid);
    }
    Status chmod(int dir, const char *name, mode_t mode) override;
    Status set_times(int dir, const char *name, const timespec &atime, const timespec &mtime) override {
        return sys::set_times(dir, name, atime, mtime);
    }
    Status set_xattr(int dir, const char *name, const char *key, std::string_view value) override;
    Result<std::optional<std::string>> get_xattr(int dir, const char *name, const char *key) override {
        return sys::get_xattr(dir, name, key);
    }
    Result<std::vector<std::string>> list_xattrs(int dir, const char *name) override {
        return sys::list_xattrs(dir, name);
    }

private:
    int root_;
    UniqueFd owned_;
};

} // namespace shale::archive
