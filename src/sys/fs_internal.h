// SPDX-License-Identifier: Apache-2.0
// Shared by the sources of sys/fs.h only: one way through the seam, and the texts of errors.
#pragma once

#include <cerrno>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::sys::detail {

/// Asks the hook, then makes `call` (which returns -1 and sets errno on failure). A real EINTR repeats the call; an
/// injected one asks the hook again, at most 100 times.
template <class F> auto invoke(Op op, int fd, const char *name, F &&call) -> decltype(call()) {
    for (int injected = 0;; ++injected) {
        int error = enter(op, fd, name);
        if (error == 0) break;
        if (error == EINTR && injected < 100) continue;
        errno = error;
        return -1;
    }
    for (;;) {
        auto result = call();
        if (result != -1 || errno != EINTR) return result;
    }
}

/// `open "etc/passwd"`; an empty or null name is replaced by the descriptor's path. Control bytes are escaped.
std::string what(std::string_view verb, int fd, const char *name);

inline std::unexpected<Error> failed(std::string_view verb, int fd, const char *name) {
    int error = errno;
    return fail_errno(error, what(verb, fd, name));
}

/// One getdents64 of at most 64 KiB appended to `out`; false at the end of the directory.
Result<bool> read_entries(int dir, std::vector<DirEntry> &out);

} // namespace shale::sys::detail
