// SPDX-License-Identifier: Apache-2.0
#include "drivers/erofs/host_tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <unordered_map>

#include <fmt/format.h>

#include "archive/tree_walk.h"
#include "drivers/common.h"
#include "sys/sparse.h"

namespace shale::drivers::erofs {
namespace {

constexpr size_t piece_bytes = size_t{256} << 10U;
constexpr std::string_view opaque_key = "trusted.overlay.opaque";

Status copy_attributes(ImageTree &tree, int from, const struct stat &status, int to_dir, const char *name) {
    TRY(tree.chown(to_dir, name, status.st_uid, status.st_gid));
    if (!S_ISLNK(status.st_mode)) TRY(tree.chmod(to_dir, name, status.st_mode & 07777U));
    for (const auto &key : TRY(sys::list_xattrs(from, ""))) {
        if (!archive::is_layer_xattr(key) && key != opaque_key) continue;
        if (const auto value = TRY(sys::get_xattr(from, "", key.c_str())))
            TRY(tree.set_xattr(to_dir, name, key.c_str(), *value));
    }
    return tree.set_times(to_dir, name, status.st_atim, status.st_mtim);
}

/// The bytes from `begin` to `end` of a file.
Status copy_range(ImageTree &tree, int in, int out, uint64_t begin, uint64_t end, bool sparse,
                  std::vector<std::byte> &buffer) {
    buffer.resize(piece_bytes);
    while (begin < end) {
        const auto wanted = static_cast<size_t>(std::min<uint64_t>(buffer.size(), end - begin));
        const size_t got = TRY(sys::pread_some(in, std::span(buffer).first(wanted), begin));
        if (got == 0) return fail(Errc::Aborted, "a file became shorter while it was read");
        const auto data = std::span<const std::byte>(buffer).first(got);
        TRY(sparse ? tree.write_at(out, data, begin) : tree.write(out, data));
        begin += got;
    }
    return {};
}

Status copy_data(ImageTree &tree, int in, int out, const struct stat &status) {
    const auto size = static_cast<uint64_t>(status.st_size);
    std::vector<std::byte> buffer;
    const bool sparse = static_cast<uint64_t>(status.st_blocks) * 512 + block_size < size;
    if (!sparse) return copy_range(tree, in, out, 0, size, false, buffer);
    TRY(tree.truncate(out, size));
    for (auto data = sys::next_data(in, 0, size); data; data = sys::next_data(in, data->end, size))
        TRY(copy_range(tree, in, out, data->begin, data->end, true, buffer));
    return {};
}

} // namespace

Status copy_in(ImageTree &tree, int from, int to_dir, const char *name) {
    const struct stat status = TRY(sys::stat_at(from, ""));
    if (S_ISDIR(status.st_mode)) return fail(Errc::InvalidArgument, fmt::format("\"{}\" is a directory", name));
    if (S_ISREG(status.st_mode)) {
        const UniqueFd in(::open(sys::fd_path(from).c_str(), O_RDONLY | O_CLOEXEC));
        if (!in) return fail_errno(errno, fmt::format("open the source of \"{}\"", name));
        const auto out = TRY(tree.create_file(to_dir, name, 0600));
        TRY(copy_data(tree, in.get(), out.get(), status));
    } else if (S_ISLNK(status.st_mode)) {
        TRY(tree.make_symlink(TRY(sys::read_link(from, "")), to_dir, name));
    } else {
        TRY(tree.make_node(to_dir, name, status.st_mode, status.st_rdev));
        const bool whiteout = S_ISCHR(status.st_mode) && status.st_rdev == 0;
        if (whiteout) return tree.chmod(to_dir, name, 0); // nothing else of it counts
    }
    return copy_attributes(tree, from, status, to_dir, name);
}

Status copy_upper(ImageTree &tree, int upper) {
    TRY(copy_attributes(tree, upper, TRY(sys::stat_at(upper, "")), tree.root(), ""));
    struct First {
        int dir = 0; ///< in the tree
        std::string name;
    };
    std::unordered_map<ino_t, First> links; // of files with several names
    std::string here;                       // path of `dir`
    int dir = tree.root();
    return walk_tree(upper,
                     [&](int from_dir, const char *name, const struct stat &status, std::string_view path) -> Status {
                         if (path != here) {
                             here = path;
                             dir = TRY(tree.open_dirs(path.substr(0, path.empty() ? 0 : path.size() - 1))).get();
                         }
                         if (S_ISSOCK(status.st_mode)) return {};
                         const UniqueFd from = TRY(sys::open_at(from_dir, name, O_PATH));
                         if (S_ISDIR(status.st_mode)) {
                             TRY(tree.make_dir(dir, name, 0700));
                             return copy_attributes(tree, from.get(), status, dir, name);
                         }
                         const bool whiteout = S_ISCHR(status.st_mode) && status.st_rdev == 0;
                         if (status.st_nlink > 1 && !whiteout) {
                             const auto [first, is_first] = links.try_emplace(status.st_ino, First{dir, name});
                             if (!is_first)
                                 return tree.make_link(first->second.dir, first->second.name.c_str(), dir, name);
                         }
                         return in_context(copy_in(tree, from.get(), dir, name),
                                           [&] { return fmt::format("\"{}{}\"", path, name); });
                     });
}

} // namespace shale::drivers::erofs
