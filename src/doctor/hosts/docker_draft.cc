// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/docker_draft.h"

#include <dirent.h>

#include <algorithm>
#include <chrono>
#include <map>

#include <fmt/format.h>

#include "doctor/hosts/depths.h"
#include "probe/text.h"

namespace shale::doctor::docker {

void Sources::read(const std::string &path, std::string_view what, uint64_t entries) {
    all_.push_back({.path = path, .what = std::string(what), .state = "read", .why = {}, .entries = entries});
}

void Sources::missing(const std::string &path, std::string_view what, std::string why) {
    all_.push_back({.path = path, .what = std::string(what), .state = "missing", .why = std::move(why), .entries = 0});
}

void Sources::broken(const std::string &path, std::string_view what, const std::string &why) {
    if (++broken_[std::string(what)] > max_broken) return;
    all_.push_back({.path = path, .what = std::string(what), .state = "unreadable", .why = why, .entries = 0});
}

void Sources::append(const Sources &others) {
    all_.insert(all_.end(), others.all_.begin(), others.all_.end());
    for (const auto &[what, count] : others.broken_)
        broken_[what] += count;
}

void Sources::changing(const std::string &path, const std::string &why) {
    for (auto &source : all_) {
        if (source.state != "read" || !source.path.starts_with(path)) continue;
        if (source.path.size() > path.size() && source.path[path.size()] != '/') continue;
        source.state = "changing";
        source.why = why;
    }
}

void Sources::lost(const std::string &path, const std::string &why) {
    for (auto &source : all_) {
        if (source.path != path || (source.state != "read" && source.state != "missing")) continue;
        ++broken_[source.what];
        source.state = "unreadable";
        source.why = why;
    }
}

bool Sources::is_missing(const std::string &path) const {
    return std::ranges::any_of(all_,
                               [&](const auto &source) { return source.path == path && source.state == "missing"; });
}

void Sources::broken(const std::string &path, std::string_view what, const Error &error) {
    if (error.code() != Errc::Aborted) return broken(path, what, error.text());
    // BoltFile: a writer was always faster.
    all_.push_back({.path = path, .what = std::string(what), .state = "changing", .why = error.text(), .entries = 0});
}

std::vector<probe::RecordSource> Sources::finish() && {
    const std::map<std::string, uint64_t> sorted(broken_.begin(), broken_.end());
    for (const auto &[what, count] : sorted) {
        if (count <= max_broken) continue;
        const uint64_t more = count - max_broken;
        all_.push_back({.path = {},
                        .what = what,
                        .state = "unreadable",
                        .why = fmt::format("{} more of them are not told one by one", more),
                        .entries = more});
    }
    return std::move(all_);
}

Draft::Draft(const probe::Host &host, std::string root, std::string driver)
    : host(&host), root(std::move(root)), driver(std::move(driver)) {
    store.engine = "docker";
    store.root = this->root;
    store.driver = this->driver;
}

std::string Draft::image_dir() const {
    return fmt::format("{}/image/{}", root, driver);
}

std::string Draft::graph_dir() const {
    return fmt::format("{}/{}", root, driver);
}

probe::StoreLayer &Draft::layer(const std::string &id) {
    const auto [found, is_new] = index_.try_emplace(id, store.layers.size());
    if (is_new) store.layers.emplace_back().id = id;
    return store.layers[found->second];
}

probe::StoreLayer *Draft::find(const std::string &id) {
    const auto found = index_.find(id);
    return found == index_.end() ? nullptr : &store.layers[found->second];
}

void Draft::use(const std::string &id, std::string user) {
    const size_t users = ++users_[id];
    if (users <= max_users) layer(id).used_by.push_back(std::move(user));
    if (users == max_users + 1)
        problem(fmt::format("users of layer {}", id), fmt::format("more than {}; the others are not told", max_users));
}

void Draft::use_as_lower(const std::string &id, const std::string &above) {
    auto *tree = find(id);
    if (tree == nullptr || id == above) return;
    auto &users = tree->used_by;
    if (!users.empty() && (users.size() >= max_users || lowers_ >= max_lowers)) return;
    std::string user = "layer " + above;
    if (!users.empty() && users.back() == user) return; // `lower` names it twice
    users.push_back(std::move(user));
    ++lowers_;
}

void Draft::problem(std::string about, std::string why) {
    problems.push_back({.about = std::move(about), .why = std::move(why)});
}

void Draft::join_parents() {
    for (auto &layer : store.layers) {
        const auto below = chain_below.find(layer.id);
        if (below == chain_below.end()) continue;
        const auto parent = layer_of_chain.find(below->second);
        if (parent != layer_of_chain.end())
            layer.parent = parent->second;
        else
            layer.damage.push_back(fmt::format("the layer below, {}, has no record", below->second.text()));
    }
    for (const auto &layer : store.layers) {
        const auto *parent = layer.parent.empty() ? nullptr : find(layer.parent);
        std::string user = "layer " + layer.id;
        if (parent == nullptr || std::ranges::find(parent->used_by, user) != parent->used_by.end()) continue;
        use(layer.parent, std::move(user));
    }
}

void Draft::settle() {
    join_parents();
    // What it is for comes before what stands on it.
    for (auto &layer : store.layers)
        std::ranges::stable_partition(layer.used_by, [](const auto &user) { return !user.starts_with("layer "); });
    Depths depths;
    for (const auto &layer : store.layers)
        depths.add(layer.id, layer.parent);
    for (auto &layer : store.layers)
        layer.depth = depths.of(layer.id);
    std::ranges::sort(store.layers, {}, &probe::StoreLayer::id);
    index_layers();
}

void Draft::index_layers() {
    index_.clear();
    for (size_t i = 0; i < store.layers.size(); ++i)
        index_[store.layers[i].id] = i;
}

void Draft::forget(const std::unordered_set<std::string> &ids) {
    std::erase_if(store.layers, [&](const auto &layer) { return ids.contains(layer.id); });
    index_layers();
}

probe::Store Draft::finish() && {
    store.sources = std::move(sources).finish();
    return std::move(store);
}

bool is_directory(const sys::DirEntry &entry) noexcept {
    return entry.type == DT_DIR;
}

bool is_id(std::string_view text) noexcept {
    const auto plain = [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' ||
               c == '.';
    };
    return !text.empty() && text.size() <= 255 && text.front() != '.' && std::ranges::all_of(text, plain);
}

uint64_t time_of(const probe::Facts &facts) noexcept {
    if (facts.taken_s != 0) return facts.taken_s;
    const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
    return static_cast<uint64_t>(std::max<int64_t>(now.time_since_epoch().count(), 0));
}

uint64_t changed_s(const probe::Host &host, const std::string &path) {
    const auto status = host.stat(path);
    return status && *status ? static_cast<uint64_t>(std::max<time_t>((*status)->st_mtim.tv_sec, 0)) : 0;
}

Result<std::string> read_word(const probe::Host &host, const std::string &path, size_t limit) {
    const std::string text = TRY(host.read(path, limit));
    const std::string_view word = probe::trimmed(text);
    if (word.empty()) return fail(Errc::DataLoss, fmt::format("{:?} holds nothing ({} bytes)", path, text.size()));
    return std::string(word);
}

} // namespace shale::doctor::docker
