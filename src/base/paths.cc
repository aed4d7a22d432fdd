// SPDX-License-Identifier: Apache-2.0
#include "base/paths.h"

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

} // namespace shale
