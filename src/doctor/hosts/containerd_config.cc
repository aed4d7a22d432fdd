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
#include <nlohmann/json.hpp>

#include "base/paths.h"
#include "doctor/toml_json.h"

namespace shale::doctor::containerd {
namespace {

constexpr size_t max_files = 100;
constexpr size_t max_file_bytes = size_t{1} << 20U;
constexpr std::string_view snapshotter_plugin = "io.containerd.snapshotter.v1.";
/// Snapshotters that version 1 names without the prefix (config.go, v1MigratePluginName).
constexpr std::array<std::string_view, 6> short_names{"aufs", "btrfs", "devmapper", "native", "overlayfs", "zfs"};

/// What is not said leaves what an earlier file said.
void set(std::string &to, const nlohmann::json &from, TomlPath path) {
    if (std::string value = toml_text(from, path); !value.empty()) to = std::move(value);
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
        const auto document = parse_toml(**text);
        const bool known =
            std::ranges::any_of(facts_.config_files, [&](const probe::ConfigFile &file) { return file.path == path; });
        if (!known) {
            if (!document) problem(path, fmt::format("nothing of it is used: {}", document.error().text()));
            facts_.config_files.push_back({.path = path, .kind = "containerd config.toml", .text = std::move(**text)});
        }
        if (!document) return {};
        take(*document);
        std::vector<std::string> imports;
        for (const std::string &import : toml_texts(*document, {"imports"}))
            add_import(path, import, imports);
        return imports;
    }

    void take(const nlohmann::json &document) {
        set(out_.root, document, {"root"});
        set(out_.state, document, {"state"});
        // Where the snapshotter for CRI is named: versions 1, 2 and 3 of the file.
        set(out_.cri_snapshotter, document, {"plugins", "cri", "containerd", "snapshotter"});
        set(out_.cri_snapshotter, document, {"plugins", "io.containerd.grpc.v1.cri", "containerd", "snapshotter"});
        set(out_.cri_snapshotter, document, {"plugins", "io.containerd.cri.v1.images", "snapshotter"});
        if (const auto *proxies = toml_at(document, {"proxy_plugins"}); proxies != nullptr && proxies->is_object())
            for (const auto &[name, table] : proxies->items())
                take_proxy(name, table);
        if (const auto *plugins = toml_at(document, {"plugins"}); plugins != nullptr && plugins->is_object())
            for (const auto &[name, table] : plugins->items())
                take_plugin(name, table);
    }
    void take_plugin(std::string_view name, const nlohmann::json &table) {
        if (!table.is_object()) return;
        if (name.starts_with(snapshotter_plugin))
            name.remove_prefix(snapshotter_plugin.size());
        else if (std::ranges::find(short_names, name) == short_names.end())
            return;
        auto &options = out_.snapshotters[std::string(name)];
        for (const auto &[key, value] : table.items()) // what is in tables of its own says not where things lie
            if (!value.is_object()) options[key] = fmt::format("{}", fmt::join(toml_texts(value, {}), ","));
    }
    void take_proxy(const std::string &name, const nlohmann::json &table) {
        if (!table.is_object()) return;
        Proxy &proxy = out_.proxies[name];
        set(proxy.type, table, {"type"});
        set(proxy.address, table, {"address"});
        set(proxy.root, table, {"exports", "root"});
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
