// SPDX-License-Identifier: Apache-2.0
// Locks between processes (and threads): open-file-description locks on byte ranges of ROOT/lock. They vanish with
// their holder, so nothing is ever left locked by a crash, and there are no lock files to clean.
//   [0, 2^61)          one byte per chain id (its first 61 bits): who unpacks this layer
//   2^61 + session     one byte per process that changes the store: tells a live owner of an intent from a dead one
//   2^62 - 3           who settles layers
//   2^62 - 2           who works at a migration
//   2^62 - 1           shared: every process that has the store open; exclusive: a migration's last step
//   2^62               shared: an operation makes objects that no root names yet; exclusive: gc's mark and sweep
//   2^62 + 1          who creates the database and chooses the driver
//   2^62 + 2 + id      one byte per container: create, mount, unmount, commit, remove of it
// Order: open-store byte, migration byte, settle byte, gc byte, then chain bytes from base to top of one image, then
// container byte, then the database.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "base/digest.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/ids.h"
#include "sys/fs.h"

namespace shale::store {

/// Holds locks until it goes.
class LockHold {
public:
    explicit LockHold(UniqueFd fd) : fd_(std::move(fd)) {}
    Status add(uint64_t offset, sys::LockMode mode) { return sys::lock_range(fd_.get(), offset, 1, mode); } ///< waits
    /// Aborted when another holds it all that time (a process that was stopped, say).
    Status add_within(std::chrono::milliseconds patience, uint64_t offset, sys::LockMode mode);
    Result<bool> try_add(uint64_t offset, sys::LockMode mode) {
        return sys::try_lock_range(fd_.get(), offset, 1, mode);
    }

private:
    UniqueFd fd_;
};

class Locks {
public:
    static Result<std::unique_ptr<Locks>> open(int root_dir);

    /// This process's number in `session` columns; its byte is held while this object lives.
    [[nodiscard]] uint64_t session() const noexcept { return session_; }
    /// False when the process that took `session` is gone.
    [[nodiscard]] Result<bool> session_alive(uint64_t session) const;

    /// Nobody else has the store open, or opens it from now on until share() or the end. False: somebody has.
    [[nodiscard]] Result<bool> be_alone() const;
    Status share() const;

    /// A fresh set of locks, empty.
    Result<LockHold> hold() const;
    static uint64_t chain_offset(const Digest &chain) noexcept;
    static constexpr uint64_t gc_offset = uint64_t{1} << 62U;
    static constexpr uint64_t open_offset = gc_offset + 1;
    static constexpr uint64_t migrate_offset = gc_offset - 2;
    static constexpr uint64_t settle_offset = gc_offset - 3;
    static constexpr uint64_t container_offset(LayerId id) noexcept { return gc_offset + 2 + id.value; }

private:
    UniqueFd root_, session_fd_;
    uint64_t session_ = 0;
};

} // namespace shale::store
