// SPDX-License-Identifier: Apache-2.0
#include "sys/random.h"

#include <sys/random.h>

#include <cerrno>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace shale::sys {

Result<std::string> random_hex(size_t bytes) {
    std::vector<unsigned char> out(bytes);
    if (::getrandom(out.data(), bytes, 0) != static_cast<ssize_t>(bytes)) return fail_errno(errno, "getrandom");
    return fmt::format("{:02x}", fmt::join(out, ""));
}

} // namespace shale::sys
