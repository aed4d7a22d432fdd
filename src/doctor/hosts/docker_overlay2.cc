// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/docker_overlay2.h"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <unordered_map>

#include <fmt/format.h>

#include "doctor/hosts/places.h"
#include "probe/text.h"
#include "sys/fs.h"

namespace shale::doctor::docker {
namespace {

constexpr std::string_view link_dir = "l";
constexpr size_t max_depth = 128;        ///< overlay.go, maxDepth: more lower layers cannot be mounted
constexpr size_t max_sample_a_tree = 25; ///< so that a sample is of many trees
constexpr size_t max_sample_a_directory = 8;
constexpr size_t max_damage = 20; ///< of one tree that is told

/// LINK -> "../ID/diff", as far as l/ can be read.
class Links {
public:
    /// Unknown ones where l/ cannot be read; that is told.
    static Links read(Draft &draft);

    /// Id of the tree that "l/LINK" leads to; else why it leads nowhere.
    [[nodiscard]] std::expected<std::string, std::string> tree_of(std::string_view link) const;
    [[nodiscard]] bool known() const noexcept { return known_; }
    /// The tree has a diff. Looked up once: most trees are below many others.
    [[nodiscard]] bool has_diff(const Draft &draft, const std::string &id);
    void tell_dangling(Draft &draft, const std::vector<sys::DirEntry> &trees) const;
    /// The tree's own link, by its file, which l/ has not.
    void add_lost(const std::string &link, const std::string &id) {
        if (is_id(link)) lost_.emplace(link, id);
    }
    /// The recorded layer `above` is mounted on what the link leads to, or led to when it was there.
    void use(Draft &draft, std::string_view link, const std::string &above) const;

private:
    Links() = default;
    static std::string id_in(std::string_view target);

    std::unordered_map<std::string, std::string> targets_;
    std::unordered_multimap<std::string, std::string> lost_; ///< link -> id
    std::unordered_map<std::string, bool> has_diff_;
    bool known_ = false; ///< else nothing can be said of a link
};

Links Links::read(Draft &draft) {
    Links out;
    const std::string dir = fmt::format("{}/{}", draft.graph_dir(), link_dir);
    const auto fd = draft.host->open_path(dir, O_RDONLY | O_DIRECTORY);
    const auto entries = fd ? sys::list_dir(fd->get(), max_entries) : std::unexpected(fd.error());
    if (!entries) {
        draft.sources.broken(dir, "links", entries.error());
        return out;
    }
    for (const auto &entry : *entries) {
        if (entry.type != DT_LNK) continue;
        auto target = sys::read_link(fd->get(), entry.name.c_str());
        if (target)
            out.targets_.emplace(entry.name, std::move(*target));
        else
            draft.problem(fmt::format("{}/{}", dir, entry.name), target.error().text());
    }
    out.known_ = true;
    draft.sources.read(dir, "links", out.targets_.size());
    return out;
}

std::string Links::id_in(std::string_view target) {
    constexpr std::string_view before = "../", after = "/diff";
    if (!target.starts_with(before) || !target.ends_with(after) || target.size() <= before.size() + after.size())
        return {};
    target.remove_prefix(before.size());
    target.remove_suffix(after.size());
    return is_id(target) ? std::string(target) : std::string();
}

std::expected<std::string, std::string> Links::tree_of(std::string_view link) const {
    const auto target = targets_.find(std::string(link));
    if (target == targets_.end()) return std::unexpected("does not exist");
    std::string id = id_in(target->second);
    if (id.empty())
        return std::unexpected(fmt::format("leads to {:?}, which is no tree", target->second.substr(0, 300)));
    return id;
}

bool Links::has_diff(const Draft &draft, const std::string &id) {
    const auto [found, is_new] = has_diff_.try_emplace(id, false);
    if (is_new) found->second = draft.host->is_dir(fmt::format("{}/{}/diff", draft.graph_dir(), id));
    return found->second;
}

void Links::use(Draft &draft, std::string_view link, const std::string &above) const {
    if (const auto id = tree_of(link)) return draft.use_as_lower(*id, above);
    const auto [begin, end] = lost_.equal_range(std::string(link));
    for (auto each = begin; each != end; ++each)
        draft.use_as_lower(each->second, above);
}

void Links::tell_dangling(Draft &draft, const std::vector<sys::DirEntry> &trees) const {
    uint64_t dangling = 0;
    std::string first;
    for (const auto &[link, target] : targets_) {
        const std::string id = id_in(target);
        // `trees` is sorted by name, as Host::list gives it.
        if (!id.empty() && std::ranges::binary_search(trees, id, {}, &sys::DirEntry::name)) continue;
        if (dangling++ == 0 || link < first) first = link;
    }
    draft.store.settings["dangling links"] = fmt::to_string(dangling);
    if (dangling > 0)
        draft.store.settings["dangling links, the first"] = fmt::format("{}/{}/{}", draft.graph_dir(), link_dir, first);
}

/// One tree with the names of what lies in it.
class Tree {
public:
    Tree(Draft &draft, Links &links, const std::string &id)
        : draft_(draft), links_(links), id_(id), path_(fmt::format("{}/{}", draft.graph_dir(), id)) {}
    void read();
    /// When all trees are read: it names others.
    void read_lower();

private:
    [[nodiscard]] bool has(std::string_view name) const {
        return std::ranges::binary_search(entries_, name, {},
                                          [](const auto &entry) -> std::string_view { return entry.name; });
    }
    /// What is being removed, or was when dockerd ended, lacks what went first.
    void damaged(std::string what) {
        auto &layer = draft_.layer(id_);
        if (layer.kind != "removing" && layer.damage.size() < max_damage) layer.damage.push_back(std::move(what));
    }
    void read_link();
    void use_lowers(std::string_view lowers);
    void follow(std::string_view lower, std::vector<std::string> &below);

    Draft &draft_;
    Links &links_;
    const std::string &id_;
    std::string path_;
    std::vector<sys::DirEntry> entries_;
};

void Tree::read() {
    auto entries = draft_.host->list(path_, max_entries);
    if (!entries && entries.error().sys_errno() == ENOENT) return; // it went meanwhile
    auto &layer = draft_.layer(id_);
    layer.on_disk = true;
    layer.path = path_;
    if (!entries) return draft_.problem(path_, entries.error().text());
    entries_ = std::move(*entries);
    if (!layer.recorded) {
        if (id_.ends_with("-removing"))
            layer.kind = "removing";
        else if (id_.ends_with("-init"))
            layer.kind = "init";
        else
            layer.kind = has("committed") ? "committed" : "active";
    }
    if (layer.kind == "removing" && !layer.recorded) return;
    if (!has("diff")) damaged("diff is missing");
    read_link();
}

void Tree::read_link() {
    const std::string path = path_ + "/link";
    if (!has("link")) return damaged("link is missing");
    if (auto &layer = draft_.layer(id_); layer.created_s == 0) layer.created_s = changed_s(*draft_.host, path);
    const auto link = read_word(*draft_.host, path);
    if (!link) return damaged(link.error().text());
    if (!links_.known()) return;
    const auto leads_to = links_.tree_of(*link);
    if (!leads_to) {
        links_.add_lost(*link, id_);
        damaged(fmt::format("its link, l/{}, {}", link->substr(0, 100), leads_to.error()));
    } else if (*leads_to != id_) {
        damaged(fmt::format("its link, l/{}, leads to {}", *link, *leads_to));
    }
}

/// One "l/LINK" of `lower`.
void Tree::follow(std::string_view lower, std::vector<std::string> &below) {
    const std::string_view shown = lower.substr(0, 100);
    if (!lower.starts_with("l/")) return damaged(fmt::format("lower names {:?}, which is no link", shown));
    const auto leads_to = links_.tree_of(lower.substr(2));
    if (!leads_to) return damaged(fmt::format("lower names {}, which {}", shown, leads_to.error()));
    below.push_back(*leads_to);
    if (!links_.has_diff(draft_, *leads_to))
        damaged(fmt::format("lower names {}, which leads nowhere: {}/diff is missing", shown, *leads_to));
}

void Tree::use_lowers(std::string_view lowers) {
    if (!draft_.layer(id_).recorded) return;
    while (!lowers.empty())
        if (const std::string_view lower = probe::next_part(lowers, ':'); lower.starts_with("l/"))
            links_.use(draft_, lower.substr(2), id_);
}

void Tree::read_lower() {
    const auto *known = draft_.find(id_);
    if (known == nullptr || !known->on_disk || (known->kind == "removing" && !known->recorded)) return;
    const std::string path = path_ + "/lower";
    const auto text = read_word(*draft_.host, path, max_lower_bytes);
    if (!text && text.error().sys_errno() == ENOENT) {
        const bool has_parent = !known->parent.empty() || draft_.chain_below.contains(id_);
        if (has_parent) damaged("lower is missing, but there is a layer below");
        return;
    }
    // An empty one names nothing. Of one that cannot be read nobody knows what it needs.
    if (!text && known->recorded && text.error().code() != Errc::DataLoss)
        draft_.sources.broken(path, "lower layers", text.error());
    if (!text) return damaged(text.error().text());
    if (!links_.known()) return;
    use_lowers(*text); // whatever else is wrong with it
    const auto count = static_cast<size_t>(std::ranges::count(*text, ':')) + 1;
    if (count > max_depth) return damaged(fmt::format("lower names {} layers; {} can be mounted", count, max_depth));
    std::vector<std::string> below;
    for (std::string_view rest = *text; !rest.empty();)
        follow(probe::next_part(rest, ':'), below);
    if (below.size() != count) return; // some are unknown: the first may not be the nearest
    auto &layer = draft_.layer(id_);
    if (layer.parent.empty() && !draft_.chain_below.contains(id_)) {
        layer.parent = below.front();
        return;
    }
    std::string recorded = layer.parent;
    if (recorded.empty()) {
        const auto found = draft_.layer_of_chain.find(draft_.chain_below.at(id_));
        if (found == draft_.layer_of_chain.end()) return;
        recorded = found->second;
    }
    if (recorded != below.front())
        damaged(fmt::format("lower begins with {}, the layer below by the records is {}", below.front(), recorded));
}

/// Which attributes of overlayfs the entries of an upper directory have (kernel,
/// Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories", "redirect_dir", "metadata only copy
/// up"). Without CAP_SYS_ADMIN those of "trusted." are not there to see.
class AttributeSample {
public:
    explicit AttributeSample(Draft &draft) : draft_(draft) {}
    void look_at(const std::string &diff);
    void tell();
    [[nodiscard]] bool full() const noexcept { return entries_ >= max_sample; }

private:
    void count(int directory, const sys::DirEntry &entry);
    Draft &draft_;
    uint64_t entries_ = 0, redirect_ = 0, metacopy_ = 0, opaque_ = 0;
};

/// What lies at the top first, then what is below it, a level at a time: what a container changed is seldom in the
/// root.
void AttributeSample::look_at(const std::string &diff) {
    std::vector<std::string> directories{diff}; // those that are still to be listed, from `next` on
    size_t looked_at = 0;
    for (size_t next = 0; next < directories.size() && looked_at < max_sample_a_tree && !full(); ++next) {
        const std::string directory = directories[next];
        const auto fd = draft_.host->open_path(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        const auto entries = fd ? sys::list_dir(fd->get(), max_entries) : std::unexpected(fd.error());
        if (!entries) {
            if (next == 0) draft_.problem(directory, entries.error().text());
            continue;
        }
        size_t here = 0;
        for (const auto &entry : *entries) {
            if (entry.type != DT_REG && entry.type != DT_DIR) continue;
            if (full() || looked_at == max_sample_a_tree) return;
            if (here++ == max_sample_a_directory) break;
            ++looked_at;
            count(fd->get(), entry);
            if (entry.type == DT_DIR && directories.size() < max_sample_a_tree)
                directories.push_back(fmt::format("{}/{}", directory, entry.name));
        }
    }
}

void AttributeSample::count(int directory, const sys::DirEntry &entry) {
    const auto has = [&](std::string_view attribute) {
        return std::ranges::any_of(std::array{"trusted.overlay.", "user.overlay."}, [&](std::string_view prefix) {
            const auto value =
                sys::get_xattr(directory, entry.name.c_str(), fmt::format("{}{}", prefix, attribute).c_str());
            return value && value->has_value();
        });
    };
    ++entries_;
    redirect_ += has("redirect") ? 1U : 0U;
    if (entry.type == DT_DIR)
        opaque_ += has("opaque") ? 1U : 0U;
    else
        metacopy_ += has("metacopy") ? 1U : 0U;
}

void AttributeSample::tell() {
    auto &settings = draft_.store.settings;
    settings["xattr sample"] = fmt::to_string(entries_);
    settings["xattr redirect"] = fmt::to_string(redirect_);
    settings["xattr metacopy"] = fmt::to_string(metacopy_);
    settings["xattr opaque"] = fmt::to_string(opaque_);
}

/// Writable layers first: there the kernel makes such attributes, while dockerd unpacks none but opaque.
void sample_attributes(Draft &draft) {
    std::vector<std::string> writable, sealed;
    for (const auto &layer : draft.store.layers) {
        const bool diff_is_there = layer.on_disk && layer.kind != "removing" && layer.kind != "ingest" &&
                                   std::ranges::find(layer.damage, "diff is missing") == layer.damage.end();
        if (diff_is_there) (layer.kind == "active" ? writable : sealed).push_back(layer.path + "/diff");
    }
    AttributeSample sample(draft);
    for (const auto *const paths : {&writable, &sealed})
        for (const auto &path : *paths)
            if (!sample.full()) sample.look_at(path);
    sample.tell();
}

} // namespace

uint64_t read_overlay2(Draft &draft, const std::vector<sys::DirEntry> &entries) {
    Links links = Links::read(draft);
    uint64_t trees = 0;
    const auto is_tree = [](const sys::DirEntry &entry) {
        return is_directory(entry) && entry.name != link_dir && entry.name != trash_name;
    };
    for (const auto &entry : entries) {
        if (!is_tree(entry)) continue;
        Tree(draft, links, entry.name).read();
        ++trees;
    }
    for (const auto &entry : entries)
        if (is_tree(entry)) Tree(draft, links, entry.name).read_lower();
    if (links.known()) links.tell_dangling(draft, entries);
    sample_attributes(draft);
    return trees;
}

} // namespace shale::doctor::docker
