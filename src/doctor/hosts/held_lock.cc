// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/held_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <optional>

namespace shale::doctor {
namespace {

constexpr uint64_t end_of_file = std::numeric_limits<int64_t>::max();
constexpr size_t max_locks = 10'000;

/// nullopt: there is no such file.
Result<std::optional<UniqueFd>> open_lock(const probe::Host &host, const std::string &path) {
    const auto status = TRY(host.stat(path));
    if (!status) return std::nullopt;
    if (!S_ISREG(status->st_mode)) return fail(Errc::InvalidArgument, fmt::format("{}: not a regular file", path));
    return TRY(host.open_path(path, O_RDONLY));
}

/// One of the locks in the range that stand against one of this type.
Result<std::optional<LockedRange>> ask(int fd, const std::string &path, short type, uint64_t offset, uint64_t length) {
    struct flock lock{};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(offset);
    lock.l_len = static_cast<off_t>(length);
    // On an open file description of its own even this process's locks count as another's.
    if (::fcntl(fd, F_OFD_GETLK, &lock) < 0) return fail_errno(errno, fmt::format("look at the lock of {}", path));
    if (lock.l_type == F_UNLCK) return std::nullopt;
    const auto begin = static_cast<uint64_t>(lock.l_start);
    return LockedRange{begin, lock.l_len == 0 ? end_of_file : begin + static_cast<uint64_t>(lock.l_len)};
}

} // namespace

Result<bool> is_locked(const probe::Host &host, const std::string &path, sys::LockMode mode, uint64_t offset,
                       uint64_t length) {
    const auto fd = TRY(open_lock(host, path));
    if (!fd) return false;
    const short type = mode == sys::LockMode::shared ? F_RDLCK : F_WRLCK;
    return TRY(ask(fd->get(), path, type, offset, length)).has_value();
}

Result<std::vector<LockedRange>> write_locks(const probe::Host &host, const std::string &path, uint64_t offset) {
    std::vector<LockedRange> out;
    const auto fd = TRY(open_lock(host, path));
    if (!fd) return out;
    // The kernel tells any one of several: what is left on both sides of it is asked for next.
    std::vector<LockedRange> open{{offset, end_of_file}};
    while (!open.empty()) {
        const LockedRange range = open.back();
        open.pop_back();
        const auto found = TRY(ask(fd->get(), path, F_RDLCK, range.begin, range.end - range.begin));
        if (!found) continue;
        if (out.size() >= max_locks)
            return fail(Errc::ResourceExhausted, fmt::format("{}: more than {} locks", path, max_locks));
        out.push_back({std::max(found->begin, range.begin), std::min(found->end, range.end)});
        if (range.begin < found->begin) open.push_back({range.begin, found->begin});
        if (found->end < range.end) open.push_back({found->end, range.end});
    }
    return out;
}

} // namespace shale::doctor
