// SPDX-License-Identifier: Apache-2.0
#include "archive/tree.h"

#include <fcntl.h>
#include <linux/openat2.h>

#include <algorithm>
#include <cerrno>

namespace shale::archive {

Result<Ref> Tree::open_dirs(std::string_view path) {
    Ref current = TRY(open_dir(root(), ""));
    for (size_t begin = 0; begin < path.size();) {
        const size_t slash = std::min(path.find('/', begin), path.size());
        current = TRY(open_dir(current.get(), std::string(path.substr(begin, slash - begin)).c_str()));
        begin = slash + 1;
    }
    return current;
}

Result<Ref> DirectoryTree::open_dir(int dir, const char *name) {
    return Ref(TRY(sys::open_dir(dir, *name == '\0' ? "." : name)));
}

Result<Ref> DirectoryTree::open_path(int dir, const char *name) {
    return Ref(TRY(sys::open_at(dir, *name == '\0' ? "." : name, O_PATH)));
}

Result<std::optional<Ref>> DirectoryTree::resolve_dir(const std::string &path) {
    for (int attempt = 0;; ++attempt) {
        auto opened = sys::open_at2(root_, path.empty() ? "." : path.c_str(), O_PATH | O_DIRECTORY,
                                    RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
        if (opened) return std::optional<Ref>(std::in_place, std::move(*opened));
        const int error = opened.error().sys_errno();
        if (error == ENOENT) return std::nullopt;
        if (error == EAGAIN && attempt < 100) continue; // a rename somewhere raced with ".."
        return std::unexpected(std::move(opened).error());
    }
}

Result<Ref> DirectoryTree::create_file(int dir, const char *name, mode_t mode) {
    return Ref(TRY(sys::open_at(dir, name, O_WRONLY | O_CREAT | O_EXCL, mode)));
}

Status DirectoryTree::chmod(int dir, const char *name, mode_t mode) {
    return *name == '\0' && dir != root_ ? sys::chmod_fd(dir, mode) : sys::chmod_at(dir, name, mode);
}

Status DirectoryTree::set_xattr(int dir, const char *name, const char *key, std::string_view value) {
    return *name == '\0' && dir != root_ ? sys::set_xattr_fd(dir, key, value) : sys::set_xattr(dir, name, key, value);
}

} // namespace shale::archive
