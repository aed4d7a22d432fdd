// SPDX-License-Identifier: Apache-2.0
#include "base/paths.h"

#include <algorithm>

namespace shale {

std::pair<std::string_view, std::string_view> split_path(std::string_view path) {
    const size_t slash = path.rfind('/');
    if (slash == std::string_view::npos) return {{}, path};
    return {path.substr(0, slash), path.substr(slash + 1)};
}

void push_parts(std::string_view path, std::vector<std::string> &todo) {
    while (!path.empty()) {
        const auto [rest, last] = split_path(path);
        if (!last.empty() && last != ".") todo.emplace_back(last);
        path = rest;
    }
}

bool lies_in(std::string_view path, std::string_view directory) noexcept {
    if (directory.empty() || !path.starts_with(directory)) return false;
    return path.size() == directory.size() || directory == "/" || path[directory.size()] == '/';
}

bool is_plain(std::string_view path) noexcept {
    if (!path.starts_with('/') || path.size() == 1) return false;
    for (size_t begin = 1; begin <= path.size();) {
        const size_t end = std::min(path.find('/', begin), path.size());
        const std::string_view part = path.substr(begin, end - begin);
        if (part.empty() || part == "." || part == "..") return false;
        begin = end + 1;
    }
    return true;
}

} // namespace shale
