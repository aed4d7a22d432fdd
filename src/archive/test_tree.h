// SPDX-License-Identifier: Apache-2.0
// Trees for the tests of packing, merging and copying.
#pragma once

#include <gtest/gtest.h>

#include <dirent.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <string>

#include "archive/tree_walk.h"
#include "sys/fs.h"

namespace shale::archive {

/// A directory of the test's own with short ways to fill it. Every failure ends the process' test at once.
class TestTree {
public:
    TestTree() {
        std::string name = testing::TempDir() + "shale-tree-XXXXXX";
        if (::mkdtemp(name.data()) == nullptr) std::abort();
        path_ = name;
        fd_ = must(sys::open_dir(AT_FDCWD, path_.c_str()));
    }
    TestTree(const TestTree &) = delete;
    TestTree &operator=(const TestTree &) = delete;
    ~TestTree() {
        fd_.reset();
        (void)sys::remove_tree(AT_FDCWD, path_.c_str());
    }
    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] const std::string &path() const { return path_; }

    template <class T> static T must(Result<T> result) {
        if (!result) {
            ADD_FAILURE() << result.error().text();
            std::abort();
        }
        if constexpr (!std::is_void_v<T>) return std::move(*result);
    }
    void dir(const char *name, mode_t mode = 0755) const {
        must(sys::make_dir(fd(), name, mode));
        must(sys::chmod_at(fd(), name, mode));
    }
    void file(const char *name, std::string_view data = {}, mode_t mode = 0644, time_t mtime = 1000) const {
        auto out = must(sys::open_at(fd(), name, O_WRONLY | O_CREAT | O_TRUNC, 0600));
        must(sys::write_all(out.get(), std::as_bytes(std::span(data))));
        must(sys::chmod_fd(out.get(), mode));
        times(name, mtime);
    }
    void link(const char *target, const char *name) const { must(sys::make_symlink(target, fd(), name)); }
    void hard(const char *from, const char *name) const { must(sys::make_link(fd(), from, fd(), name)); }
    void whiteout(const char *name) const { must(sys::make_node(fd(), name, S_IFCHR, makedev(0, 0))); }
    void xattr(const char *name, const char *key, std::string_view value) const {
        must(sys::set_xattr(fd(), name, key, value));
    }
    void times(const char *name, time_t mtime, long nanoseconds = 0) const {
        must(sys::set_times(fd(), name, {mtime, 0}, {mtime, nanoseconds}));
    }

    /// Everything that counts of a tree, one line for each path; the root's own line when `with_root`.
    [[nodiscard]] std::string dump(bool with_times = true, bool with_root = false) const {
        std::string out;
        std::map<ino_t, std::string> first;
        if (with_root) describe(fd(), "", ".", out, first, with_times);
        dump_below(fd(), "", out, first, with_times);
        return out;
    }

private:
    static void dump_below(int at, const std::string &prefix, std::string &out, std::map<ino_t, std::string> &first,
                           bool with_times) {
        for (const auto &item : must(list_plain(at)).items) {
            describe(at, item.raw.c_str(), prefix + item.name, out, first, with_times);
            if (item.type != DT_DIR) continue;
            auto below = must(sys::open_dir(at, item.raw.c_str()));
            dump_below(below.get(), prefix + item.name + "/", out, first, with_times);
        }
    }
    static void describe(int at, const char *name, const std::string &path, std::string &out,
                         std::map<ino_t, std::string> &first, bool with_times) {
        const auto st = must(sys::stat_at(at, name));
        out += path + " mode=" + std::to_string(st.st_mode) + " owner=" + std::to_string(st.st_uid) + ":" +
               std::to_string(st.st_gid);
        if (with_times) out += " t=" + std::to_string(st.st_mtim.tv_sec) + "." + std::to_string(st.st_mtim.tv_nsec);
        if (S_ISREG(st.st_mode)) out += " data=" + must(sys::read_file(at, name, 10'000'000));
        if (S_ISLNK(st.st_mode)) out += " -> " + must(sys::read_link(at, name));
        if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) out += " dev=" + std::to_string(st.st_rdev);
        for (const auto &[key, value] : must(read_xattrs(at, name)))
            out += " " + key + "=" + value;
        if (!S_ISDIR(st.st_mode) && st.st_nlink > 1)
            out += " same-as=" + first.try_emplace(st.st_ino, path).first->second;
        out += "\n";
    }

    std::string path_;
    UniqueFd fd_;
};

} // namespace shale::archive
