// SPDX-License-Identifier: Apache-2.0
#include "drivers/writable.h"

#include <fmt/format.h>

#include "sys/fs.h"

namespace shale::drivers {

Result<Driver::View> open_writable(Driver &driver, LayerId id, Parents parents) {
    const auto specs = TRY(driver.mounts(id, parents, Driver::Access::read_write));
    if (specs.size() != 1)
        return fail(Errc::Unimplemented,
                    fmt::format("driver {} mounts a container in {} steps", driver.name(), specs.size()));
    if (specs[0].type == "bind") // a plain directory, which needs no privilege
        return Driver::View{TRY(sys::open_dir(AT_FDCWD, specs[0].source.c_str())), nullptr};
    auto mount = std::make_shared<UniqueFd>(TRY(sys::mount_detached(specs[0])));
    return Driver::View{TRY(sys::open_dir(mount->get(), ".")), mount};
}

} // namespace shale::drivers
