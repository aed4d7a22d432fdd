// SPDX-License-Identifier: Apache-2.0
#include "store/id_space.h"

#include <unistd.h>

#include <sstream>

#include "sys/fs.h"

namespace shale::store {

archive::ExtractOptions extract_options(archive::WhiteoutForm whiteouts, const archive::TarLimits &limits) {
    archive::ExtractOptions options;
    options.whiteouts = whiteouts;
    options.limits = limits;
    std::istringstream map(sys::read_file(AT_FDCWD, "/proc/self/uid_map", 65'536).value_or("0 0 4294967295"));
    uint64_t inside = 0;
    uint64_t outside = 0;
    uint64_t count = 0;
    uint64_t mapped = 0;
    while (map >> inside >> outside >> count)
        mapped += count;
    const bool initial = mapped >= 4'294'967'295;
    options.allow_devices = initial && geteuid() == 0;
    options.owners = geteuid() == 0 && mapped >= 65'536 ? archive::OwnerPolicy::keep : archive::OwnerPolicy::squash;
    return options;
}

} // namespace shale::store
