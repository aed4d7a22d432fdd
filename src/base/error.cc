// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <array>
#include <cerrno>
#include <cstring>

namespace shale {
namespace {

// Exit codes: 2 = the command line is wrong, 70 = a bug of shale's (sysexits.h, EX_SOFTWARE), 1 = anything else
// (docs/operations.md).
constexpr std::array<ErrcInfo, 16> table{{
    {Errc::Canceled, "canceled", 499, 1},
    {Errc::Unknown, "unknown error", 500, 1},
    {Errc::InvalidArgument, "invalid argument", 400, 2},
    {Errc::DeadlineExceeded, "deadline exceeded", 504, 1},
    {Errc::NotFound, "not found", 404, 1},
    {Errc::AlreadyExists, "already exists", 409, 1},
    {Errc::PermissionDenied, "permission denied", 403, 1},
    {Errc::ResourceExhausted, "resource exhausted", 507, 1},
    {Errc::FailedPrecondition, "failed precondition", 412, 1},
    {Errc::Aborted, "aborted", 409, 1},
    {Errc::OutOfRange, "out of range", 400, 1},
    {Errc::Unimplemented, "not supported", 501, 1},
    {Errc::Internal, "internal error", 500, 70},
    {Errc::Unavailable, "unavailable", 503, 1},
    {Errc::DataLoss, "data loss", 500, 1},
    {Errc::Unauthenticated, "unauthenticated", 401, 1},
}};

} // namespace

const ErrcInfo &errc_info(Errc code) noexcept {
    auto index = static_cast<size_t>(code) - 1;
    return index < table.size() ? table[index] : table[1];
}

Errc errc_from_errno(int sys_errno) noexcept {
    switch (sys_errno) {
    case ENOENT:
    case ENODATA:
        return Errc::NotFound;
    case EEXIST:
        return Errc::AlreadyExists;
    case EPERM:
    case EACCES:
    case EROFS:
        return Errc::PermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EFBIG:
        return Errc::ResourceExhausted;
    case EINVAL:
    case ENAMETOOLONG:
    case ELOOP:
    case EXDEV:
        return Errc::InvalidArgument;
    case ENOSYS:
    case EOPNOTSUPP:
        return Errc::Unimplemented;
    case EBUSY:
    case ENOTEMPTY:
        return Errc::FailedPrecondition;
    case EAGAIN:
    case EINTR:
        return Errc::Unavailable;
    case ETIMEDOUT:
        return Errc::DeadlineExceeded;
    case ECANCELED:
        return Errc::Canceled;
    case EIO:
    case EUCLEAN:
        return Errc::DataLoss;
    default:
        return Errc::Internal;
    }
}

std::string Error::text() const {
    std::string out;
    for (auto it = context_.rbegin(); it != context_.rend(); ++it) {
        out += *it;
        out += ": ";
    }
    return out + message_;
}

Error sys_error(int sys_errno, std::string what) {
    what += ": ";
    what += strerrordesc_np(sys_errno) != nullptr ? strerrordesc_np(sys_errno) : "unknown errno";
    return {errc_from_errno(sys_errno), sys_errno, std::move(what)};
}

} // namespace shale
