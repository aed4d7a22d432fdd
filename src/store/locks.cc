// SPDX-License-Identifier: Apache-2.0
#include "store/locks.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <thread>

namespace shale::store {
namespace {

constexpr uint64_t session_base = uint64_t{1} << 61U;
constexpr uint64_t users_offset = Locks::gc_offset - 1;

Result<UniqueFd> open_lock_file(int root_dir) {
    return sys::open_at(root_dir, "lock", O_RDWR | O_CREAT, 0600);
}

} // namespace

Status LockHold::add_within(std::chrono::milliseconds patience, uint64_t offset, sys::LockMode mode) {
    // The kernel's own waiting has no end. Short at first: most are held for less than a millisecond.
    constexpr std::chrono::milliseconds longest{20};
    const auto end = std::chrono::steady_clock::now() + patience;
    for (std::chrono::microseconds pause{50};; pause = std::min<std::chrono::microseconds>(pause * 2, longest)) {
        if (TRY(try_add(offset, mode))) return {};
        if (std::chrono::steady_clock::now() >= end)
            return fail(Errc::Aborted,
                        fmt::format("another process has held the lock of this operation for {} seconds; nothing was "
                                    "changed. `lslocks` shows who holds {} of the store's file \"lock\"",
                                    std::chrono::duration_cast<std::chrono::seconds>(patience).count(), offset));
        std::this_thread::sleep_for(pause);
    }
}

Result<std::unique_ptr<Locks>> Locks::open(int root_dir) {
    auto locks = std::make_unique<Locks>();
    locks->root_ = TRY(sys::open_dir(root_dir, "."));
    locks->session_fd_ = TRY(open_lock_file(root_dir));
    TRY(locks->share());
    for (;;) {
        if (getrandom(&locks->session_, sizeof locks->session_, 0) != sizeof locks->session_)
            return fail_errno(errno, "getrandom for a session number");
        locks->session_ &= (uint64_t{1} << 60U) - 1;
        if (TRY(sys::try_lock_range(locks->session_fd_.get(), session_base + locks->session_, 1,
                                    sys::LockMode::exclusive)))
            return locks;
    }
}

Status Locks::share() const {
    return sys::lock_range(session_fd_.get(), users_offset, 1, sys::LockMode::shared);
}

Result<bool> Locks::be_alone() const {
    return sys::try_lock_range(session_fd_.get(), users_offset, 1, sys::LockMode::exclusive);
}

Result<bool> Locks::session_alive(uint64_t session) const {
    if (session == session_) return true;
    // A descriptor of its own: the probe lock must not touch this process's session byte.
    const UniqueFd probe = TRY(open_lock_file(root_.get()));
    return !TRY(sys::try_lock_range(probe.get(), session_base + session, 1, sys::LockMode::exclusive));
}

Result<LockHold> Locks::hold() const {
    return LockHold(TRY(open_lock_file(root_.get())));
}

uint64_t Locks::chain_offset(const Digest &chain) noexcept {
    uint64_t bits = 0;
    for (size_t i = 0; i < 8; ++i)
        bits = bits << 8U | chain.bytes()[i];
    return bits >> 3U;
}

} // namespace shale::store
