// SPDX-License-Identifier: Apache-2.0
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "sys/fs.h"
#include "sys/fs_internal.h"
#include "sys/sparse.h"

namespace shale::sys {
namespace {

using detail::failed;
using detail::invoke;

/// The file system or kernel cannot do it this way: take the next rung.
bool steps_down(int error) {
    switch (error) {
    case ENOSYS:
    case EXDEV:
    case EOPNOTSUPP:
    case EINVAL:
    case ENOTTY:
    case EPERM:
    case ETXTBSY:
        return true;
    default:
        return false;
    }
}

Result<uint64_t> read_write(int from, int to, uint64_t at, uint64_t end) {
    constexpr size_t buffer_size = size_t{256} << 10U;
    const auto buffer = std::make_unique_for_overwrite<std::byte[]>(buffer_size); // NOLINT(*-avoid-c-arrays)
    while (at < end) {
        const auto wanted = static_cast<size_t>(std::min<uint64_t>(buffer_size, end - at));
        size_t got = TRY(pread_some(from, {buffer.get(), wanted}, at));
        if (got == 0) break;
        TRY(pwrite_all(to, {buffer.get(), got}, at));
        at += got;
    }
    return at;
}

} // namespace

std::optional<DataRange> next_data(int fd, uint64_t at, uint64_t length) noexcept {
    if (at >= length) return std::nullopt;
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno != ENXIO) return DataRange{at, length};
    if (data < 0 || static_cast<uint64_t>(data) >= length) return std::nullopt;
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    return DataRange{static_cast<uint64_t>(data), hole > data ? std::min(length, static_cast<uint64_t>(hole)) : length};
}

Result<CopyMethod> copy_file_data(int from, int to, uint64_t length) {
    // FICLONE takes whole files: only when the caller wants all of it.
    if (length > 0 && TRY(stat_at(from, "")).st_size == static_cast<off_t>(length)) {
        if (invoke(Op::clone_range, to, nullptr, [&] { return ::ioctl(to, FICLONE, from); }) == 0)
            return CopyMethod::reflink;
        if (!steps_down(errno)) return failed("clone data to", to, nullptr);
    }
    CopyMethod method = CopyMethod::copy_range;
    uint64_t at = 0;
    uint64_t written_end = 0;
    while (at < length) {
        const auto data = next_data(from, at, length);
        if (!data) break;
        at = data->begin;
        const uint64_t end = data->end;
        while (at < end && method == CopyMethod::copy_range) {
            auto in = static_cast<off_t>(at);
            auto out = static_cast<off_t>(at);
            const auto wanted = static_cast<size_t>(std::min<uint64_t>(end - at, uint64_t{1} << 30U));
            ssize_t got =
                invoke(Op::copy_range, to, nullptr, [&] { return ::copy_file_range(from, &in, to, &out, wanted, 0); });
            if (got < 0 && !steps_down(errno)) return failed("copy data to", to, nullptr);
            if (got <= 0) { // 0: some file systems say so instead of "cannot"; read() tells the truth
                method = CopyMethod::read_write;
                break;
            }
            at += static_cast<uint64_t>(got);
        }
        if (at < end) {
            at = TRY(read_write(from, to, at, end));
            if (at < end) break; // the source has shrunk
        }
        written_end = at;
    }
    if (written_end < length) TRY(truncate_fd(to, length));
    return method;
}

} // namespace shale::sys
