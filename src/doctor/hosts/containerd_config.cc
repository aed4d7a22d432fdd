// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/containerd_config.h"

#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <deque>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/paths.h"
#include "doctor/hosts/toml_values.h"

namespace shale::doctor::containerd {
namespace {

constexpr size_t max_files = 100;
constexpr size_t max_file_bytes = size_t{1} << 20U;
constexpr std::string_view snapshotter_plugin = "plugins.io.containerd.snapshotter.v1.";
/// Where the snapshotter for CRI is named: versions 2, 1 and 3 of the file.
constexpr std::array<std::string_view, 3> cri_keys{"plugins.io.containerd.grpc.v1.cri.containerd.snapshotter",
                                                   "plugins.cri.containerd.snapshotter",
                                                   "plugins.io.containerd.cri.v1.images.snapshotter"};
/// Snapshotters that version 1 names without the prefix (config.go, v1MigratePluginName).
constexpr std::array<std::string_view, 6> short_names{"aufs", "btrfs", "devmapper", "native", "overlayfs", "zfs"};

template <size_t N> bool among(const std::array<std::string_view, N> &known, std::string_view word) {
    return std::ranges::find(known, word) != known.end();
}

/// The inside of an inline table, "{ a = 1, b = 2 }", a line for each key.
std::string lines_of(std::string_view table) {
    std::string out(table.substr(1, table.rfind('}') == std::string_view::npos ? table.size() : table.rfind('}') - 1));
    char quote = '\0';
    for (char &c : out) {
        if (quote != '\0')
            quote = c == quote ? '\0' : quote;
        else if (c == '"' || c == '\'')
            quote = c;
        else if (c == ',')
            c = '\n';
    }
    return out;
}

class Reading {
public:
    Reading(const probe::Host &host, probe::Facts &facts) : host_(host), facts_(facts) {}

    /// Later files win, as in containerd; one that imports itself is read once.
    Config read(const std::string &path) {
        std::deque<std::string> todo{path};
        std::set<std::string> seen;
        while (!todo.empty()) {
            const std::string next = std::move(todo.front());
            todo.pop_front();
            if (!seen.insert(next).second) continue;
            if (seen.size() > max_files) {
                problem(path, fmt::format("it imports more than {} files; the rest is not read", max_files));
                break;
            }
            for (std::string &import : read_file(next, next == path))
                todo.push_back(std::move(import));
        }
        return std::move(out_);
    }

private:
    void problem(const std::string &about, std::string why) {
        const bool known = std::ranges::any_of(
            facts_.problems, [&](const probe::Problem &one) { return one.about == about && one.why == why; });
        if (!known) facts_.problems.push_back({about, std::move(why)});
    }

    /// Returns the paths that it imports.
    std::vector<std::string> read_file(const std::string &path, bool may_be_missing) {
        auto text = host_.read_if_there(path, max_file_bytes);
        if (!text || (!*text && !may_be_missing)) {
            problem(path, text ? "imported, and not there" : text.error().text());
            return {};
        }
        if (!*text) return {};
        const TomlValues values = toml_values(**text);
        const bool known =
            std::ranges::any_of(facts_.config_files, [&](const probe::ConfigFile &file) { return file.path == path; });
        if (!known) {
            if (values.not_understood)
                problem(path, fmt::format("line {} is not understood; it is passed over", *values.not_understood));
            facts_.config_files.push_back({.path = path, .kind = "containerd config.toml", .text = std::move(**text)});
        }
        std::vector<std::string> imports;
        for (const TomlValue &value : values.values) {
            const std::string key = value.table.empty() ? value.key : fmt::format("{}.{}", value.table, value.key);
            if (key == "imports")
                for (const std::string &import : value.values)
                    add_import(path, import, imports);
            else
                take(key, value.values);
        }
        return imports;
    }

    void take(const std::string &key, const std::vector<std::string> &values) {
        const std::string value = fmt::format("{}", fmt::join(values, ","));
        if (key.starts_with("proxy_plugins.") || key.starts_with("plugins."))
            if (values.size() == 1 && value.starts_with('{')) {
                for (const TomlValue &inner : toml_values(lines_of(value)).values)
                    if (!inner.values.empty() && !inner.values.front().starts_with('{'))
                        take(fmt::format("{}.{}", key, inner.key), inner.values);
                return;
            }
        if (key == "root")
            out_.root = value;
        else if (key == "state")
            out_.state = value;
        else if (among(cri_keys, key))
            out_.cri_snapshotter = value;
        else if (key.starts_with("proxy_plugins."))
            take_proxy(key.substr(std::string_view("proxy_plugins.").size()), value);
        else if (key.starts_with(snapshotter_plugin))
            take_snapshotter(key.substr(snapshotter_plugin.size()), value);
        else if (const std::string_view rest = std::string_view(key).substr(std::min(key.size(), size_t{8}));
                 key.starts_with("plugins.") && among(short_names, rest.substr(0, rest.find('.'))))
            take_snapshotter(std::string(rest), value);
    }
    void take_snapshotter(const std::string &rest, const std::string &value) {
        const size_t dot = rest.find('.');
        if (dot != std::string::npos) out_.snapshotters[rest.substr(0, dot)][rest.substr(dot + 1)] = value;
    }
    void take_proxy(const std::string &rest, const std::string &value) {
        const auto of = [&](std::string_view suffix) -> Proxy * {
            if (!rest.ends_with(suffix) || rest.size() == suffix.size()) return nullptr;
            return &out_.proxies[rest.substr(0, rest.size() - suffix.size())];
        };
        if (Proxy *exports = of(".exports.root"); exports != nullptr)
            exports->root = value;
        else if (Proxy *address = of(".address"); address != nullptr)
            address->address = value;
        else if (Proxy *type = of(".type"); type != nullptr)
            type->type = value;
    }

    /// resolveImports: relative to the file that imports; "*" makes it a pattern. A pattern in a directory's name is
    /// not looked at.
    void add_import(const std::string &from, const std::string &import, std::vector<std::string> &out) {
        const std::string path =
            import.starts_with('/') ? import : fmt::format("{}/{}", split_path(from).first, import);
        if (!path.contains('*')) {
            out.push_back(path);
            return;
        }
        const auto [directory, pattern] = split_path(path);
        if (directory.contains('*')) {
            problem(from, fmt::format("imports {:?}: a pattern for directories is not followed", import));
            return;
        }
        const std::string where(directory), what(pattern);
        const auto entries = host_.list_if_there(where, 10'000);
        if (!entries) {
            problem(where, entries.error().text());
            return;
        }
        for (const auto &entry : *entries)
            if (::fnmatch(what.c_str(), entry.name.c_str(), FNM_PATHNAME) == 0)
                out.push_back(fmt::format("{}/{}", where, entry.name));
    }

    const probe::Host &host_;
    probe::Facts &facts_;
    Config out_;
};

} // namespace

Config read_config(const probe::Host &host, const std::string &path, probe::Facts &facts) {
    return Reading(host, facts).read(path);
}

} // namespace shale::doctor::containerd
