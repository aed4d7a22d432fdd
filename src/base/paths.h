// SPDX-License-Identifier: Apache-2.0
// Paths as text: what resolving one by hand (inside a root, over several trees) needs. No system calls.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shale {

/// Symlinks followed in one path before it counts as a loop: the kernel's number (include/linux/namei.h, MAXSYMLINKS).
inline constexpr int max_symlinks = 40;

/// Directory ("" for a path of one component) and last component.
std::pair<std::string_view, std::string_view> split_path(std::string_view path);
/// Pushes the components of `path` onto `todo`, the first one on top; "" and "." are left out, ".." stays.
void push_parts(std::string_view path, std::vector<std::string> &todo);
/// `path` is `directory` or lies below it; both without a trailing slash (but "/").
[[nodiscard]] bool lies_in(std::string_view path, std::string_view directory) noexcept;
/// Absolute, not "/", and no component is empty, "." or "..".
[[nodiscard]] bool is_plain(std::string_view path) noexcept;

} // namespace shale
