// SPDX-License-Identifier: Apache-2.0
// ROOT/reserve: a few megabytes kept for the records of a full disk. A database that has no room for its log can
// neither be read nor changed, so without them nothing could be removed just when something has to be.
//
// What needs room holds the reserve first, and is refused when it cannot be had; what lists or removes gives it up when
// it meets a full disk. Nothing is stored in it: a crash at any time costs nothing.
#pragma once

#include <cstdint>

#include "base/error.h"

namespace shale::store {

/// Enough for the log of a removal (some pages of 4 KiB for each table), its index (32 KiB), and a directory or two.
inline constexpr uint64_t reserve_bytes = uint64_t{4} << 20;

inline constexpr const char *reserve_name = "reserve";

/// The reserve is there, or is made. ResourceExhausted with the figures when the file system has no room for it; a file
/// system that cannot preallocate has none, which is no error. `root`: the store's directory.
Status hold_reserve(int root);
/// As much of it as there is room for, after it was given up.
void refill_reserve(int root) noexcept;
/// Frees it. False: there was none.
bool give_up_reserve(int root) noexcept;

/// The file system has not even room for the records' log and index.
bool is_full(int root) noexcept;

/// The error says that a file system, a quota or a pool is full.
bool is_out_of_room(const Error &error) noexcept;

} // namespace shale::store
