// SPDX-License-Identifier: Apache-2.0
#include "store/reserve.h"

#include <fmt/format.h>

#include <cerrno>

#include "base/units.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

constexpr uint64_t smallest = uint64_t{64} << 10, least_free = uint64_t{1} << 20;

uint64_t free_bytes(const struct statfs &status) {
    return static_cast<uint64_t>(status.f_bavail) * static_cast<uint64_t>(status.f_bsize);
}

Result<uint64_t> held(int root) {
    const auto there = TRY(sys::stat_if_exists(root, reserve_name));
    return there ? static_cast<uint64_t>(there->st_blocks) * 512 : 0;
}

Status allocate(int root, uint64_t bytes) {
    return sys::allocate_file(TRY(sys::open_at(root, reserve_name, O_RDWR | O_CREAT, 0600)).get(), bytes);
}

} // namespace

bool is_out_of_room(const Error &error) noexcept {
    const int number = error.sys_errno();
    return number == ENOSPC || number == EDQUOT;
}

Status hold_reserve(int root) {
    if (TRY(held(root)) >= reserve_bytes) return {};
    const auto made = allocate(root, reserve_bytes);
    if (made || !is_out_of_room(made.error())) return {};
    const auto status = TRY(sys::statfs_fd(root));
    const std::string kind = sys::file_system_name(status);
    std::string free = format_bytes(free_bytes(status)) + " free";
    if (status.f_files != 0) free += fmt::format(", {} inodes free", format_count(status.f_ffree));
    return std::unexpected(Error(
        Errc::ResourceExhausted, made.error().sys_errno(),
        fmt::format("the store's file system is full ({}: {}): no room for the {} that it keeps to stay usable. `shale "
                    "container rm`, `shale image rm` and `shale gc` still work, `shale df` shows what takes the "
                    "space{}",
                    kind, free, format_bytes(reserve_bytes),
                    kind == "btrfs" ? "; what is full may be the metadata: see `btrfs filesystem usage`" : "")));
}

void refill_reserve(int root) noexcept {
    for (uint64_t bytes = reserve_bytes; bytes >= smallest; bytes /= 2)
        if (const auto made = allocate(root, bytes); made || !is_out_of_room(made.error())) return;
}

bool give_up_reserve(int root) noexcept {
    const auto bytes = held(root);
    if (!bytes || *bytes == 0) return false;
    // Unlinked, not truncated: on btrfs a deletion may use what is set aside for it.
    return sys::unlink_at(root, reserve_name).has_value();
}

bool is_full(int root) noexcept {
    const auto status = sys::statfs_fd(root);
    return status && status->f_blocks != 0 && free_bytes(*status) < least_free;
}

} // namespace shale::store
