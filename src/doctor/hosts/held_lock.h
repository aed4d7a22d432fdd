// SPDX-License-Identifier: Apache-2.0
// Asks whether a lock is held, without taking it: whoever waits for it never waits for a doctor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "probe/host.h"
#include "sys/fs.h"

namespace shale::doctor {

/// True: another holds an fcntl(2) lock on this range of the file, of either kind (F_SETLK, F_OFD_SETLK), that one of
/// `mode` would wait for. Length 0: to the end of the file. A missing file is not locked.
Result<bool> is_locked(const probe::Host &host, const std::string &path, sys::LockMode mode, uint64_t offset = 0,
                       uint64_t length = 0);

struct LockedRange {
    uint64_t begin = 0, end = 0; ///< end: the byte behind it; 2^63 - 1 where it has none
};
/// All of the locks from `offset` on that are held for writing, in no order; each byte was asked for once during the
/// call. ResourceExhausted: more than 10,000.
Result<std::vector<LockedRange>> write_locks(const probe::Host &host, const std::string &path, uint64_t offset);

} // namespace shale::doctor
