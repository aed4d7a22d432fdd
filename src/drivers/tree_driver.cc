// SPDX-License-Identifier: Apache-2.0
#include "drivers/tree_driver.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include <fmt/format.h>

#include "drivers/apply.h"
#include "sys/fs.h"

namespace shale::drivers {
namespace {

/// The copy of the parent's tree, before the layer is merged into it.
class CopiedParent final : public LowerTree {
public:
    explicit CopiedParent(int fs) : fs_(fs) {}

    Result<std::optional<UniqueFd>> look(std::string_view path) override { return find_below(fs_, path); }

    Status give(const std::string &path, int from, int to_dir, const char *name) override {
        const auto [parent, last] = split_path(path);
        const auto dir = TRY(find_below(fs_, parent));
        if (!dir) return fail(Errc::Internal, fmt::format("\"{}\" has gone", path));
        auto made = sys::make_link(dir->get(), std::string(last).c_str(), to_dir, name);
        if (made || made.error().sys_errno() != EMLINK) return made;
        return copy_entry(from, to_dir, name);
    }
    [[nodiscard]] bool copies() const noexcept override { return false; }

private:
    int fs_;
};

/// Of directories that were opened up, in the parent's copy (`modes`) and in the stage: those that count after the
/// merge.
Status settle_modes(int stage, const archive::ExtractReport &report, const Applier &applier,
                    const LockedModes &staged_modes, LockedModes &modes) {
    for (auto it = modes.begin(); it != modes.end();) {
        const bool states_nothing = it->first.empty() ? !report.has_root_entry : applier.implied().contains(it->first);
        const bool stays = states_nothing || !TRY(find_below(stage, it->first));
        it = stays ? std::next(it) : modes.erase(it);
    }
    for (const auto &[path, mode] : staged_modes)
        if (!path.empty() || report.has_root_entry) modes.insert_or_assign(applier.moved_path(path), mode);
    return {};
}

} // namespace

Result<Staging> TreeDriver::stage(LayerId id, Parents parents) {
    TRY(remove(id));
    TRY(make_layer(id, parents));
    if (!links_to_parents()) TRY(count(id)); // an inode belongs to one project, its links to several layers
    View stage = TRY(make_stage(id));
    return Staging{std::make_unique<archive::DirectoryTree>(std::move(stage.root)), archive::WhiteoutForm::oci_names,
                   std::move(stage.keep)};
}

Result<Driver::View> TreeDriver::open_tree(LayerId id) {
    return View{TRY(root_.open_part(id, "fs")), nullptr};
}

Result<Driver::View> TreeDriver::make_stage(LayerId id) {
    TRY(root_.make((to_string(id) + "/stage").c_str(), 0755));
    return open_stage(id, -1);
}

Result<Driver::View> TreeDriver::open_stage(LayerId id, int /*tree*/) {
    return View{TRY(root_.open_part(id, "stage")), nullptr};
}

Status TreeDriver::remove_stage(LayerId id, int /*tree*/) {
    return sys::remove_tree(root_.fd(), (to_string(id) + "/stage").c_str());
}

Status TreeDriver::apply(LayerId id, Parents parents, Staging staged, const archive::ExtractReport &report) {
    if (staged.tree) TRY(flush(staged.tree->root()));
    staged = {}; // its mount may stand in the way of what make_tree() mounts
    TRY(merge(id, parents, report));
    return make_immutable(id); // now that nothing of it is open
}

Status TreeDriver::merge(LayerId id, Parents parents, const archive::ExtractReport &report) {
    const View tree = TRY(make_tree(id, parents));
    const UniqueFd &fs = tree.root;
    // Again, in the tree's own mount: names do not move from one mount to another.
    archive::DirectoryTree stage_tree(TRY(open_stage(id, fs.get())).root);
    const int stage = stage_tree.root();
    // Before the merge: it replaces files of the parents that the layer's links mean.
    const LockedModes staged_modes = TRY(open_up(stage));
    LockedModes modes = TRY(open_up(fs.get()));
    CopiedParent lower(fs.get());
    Applier applier(stage_tree, archive::WhiteoutForm::oci_names, lower);
    TRY(in_context(applier.run(report), [&] { return fmt::format("layer {}", id.value); }));
    TRY(settle_modes(stage, report, applier, staged_modes, modes));
    if (!report.has_root_entry && !parents.empty()) TRY(copy_metadata(fs.get(), stage));
    // The merge empties the stage's own directories; what its root says is kept for afterwards.
    const UniqueFd root_like = TRY(sys::open_dir(stage, "."));
    const struct stat staged_root = TRY(sys::stat_at(stage, ""));
    TRY(in_context(archive::merge_upper(stage, archive::WhiteoutForm::oci_names, fs.get()),
                   [&] { return fmt::format("layer {}: merge", id.value); }));
    TRY(copy_metadata(root_like.get(), fs.get()));
    TRY(remove_stage(id, fs.get()));
    TRY(lock_again(fs.get(), modes));
    TRY(sys::set_times(fs.get(), "", staged_root.st_atim, staged_root.st_mtim));
    return flush(fs.get());
}

Status TreeDriver::create(LayerId id, Parents parents, const Quota &quota) {
    const Quota limit = TRY(limit_of(id, quota));
    TRY(make_layer(id, parents));
    TRY(count(id, limit));
    (void)TRY(make_tree(id, parents));
    return {};
}

Status TreeDriver::seal(LayerId id, Parents /*parents*/) {
    return make_immutable(id);
}

Result<std::vector<sys::MountSpec>> TreeDriver::mounts(LayerId id, Parents /*parents*/, Access access) {
    return std::vector{sys::MountSpec{"bind",
                                      fmt::format("{}/{}/fs", root_.path(), id.value),
                                      {access == Access::read_write ? "rw" : "ro", "rbind"}}};
}

Result<Usage> TreeDriver::usage(LayerId id, Parents parents) {
    if (const auto known = TRY(counted(id))) return *known;
    auto fs = open_tree(id);
    if (!fs && fs.error().code() == Errc::NotFound) fs = open_stage(id, -1);
    const View tree = TRY(std::move(fs));
    if (parents.empty() || !trees_are_snapshots()) return walk_usage(tree.root.get());
    return walk_usage(tree.root.get(), TRY(open_tree(parents.front())).root.get());
}

Result<Driver::DiffReport> TreeDriver::diff(LayerId id, Parents parents, const archive::Sink &sink) {
    DiffReport out;
    const View fs = TRY(open_tree(id));
    if (parents.empty()) {
        out.native = true;
        out.pack = TRY(archive::pack_tree(fs.root.get(), {}, sink));
        return out;
    }
    out.walk_reason = fmt::format("{} keeps complete trees: both are compared", name());
    const View lower = TRY(open_tree(parents.front()));
    archive::PackOptions options;
    options.snapshot = trees_are_snapshots();
    out.pack = TRY(archive::pack_diff(lower.root.get(), fs.root.get(), options, sink));
    return out;
}

Status TreeDriver::changes(LayerId id, Parents parents, const archive::ChangeSink &sink) {
    const View fs = TRY(open_tree(id));
    // A complete tree is an upper over nothing; in this form a file named ".wh.x" is just a file.
    if (parents.empty()) return archive::upper_changes(fs.root.get(), archive::WhiteoutForm::overlay_trusted, -1, sink);
    const View lower = TRY(open_tree(parents.front()));
    return archive::tree_changes(lower.root.get(), fs.root.get(), sink, trees_are_snapshots());
}

Result<Driver::View> TreeDriver::open_view(LayerId id, Parents /*parents*/) {
    return open_tree(id);
}

Result<std::vector<std::string>> TreeDriver::check(LayerId id, Parents /*parents*/) {
    std::vector<std::string> out;
    const auto layer = sys::open_dir(root_.fd(), to_string(id).c_str());
    if (!layer) {
        out.push_back(fmt::format("layer {} has no directory below {}", id.value, root_.path()));
        return out;
    }
    bool has_fs = false;
    for (const auto &entry : TRY(sys::list_dir(layer->get()))) {
        if (entry.name == "fs") {
            has_fs = true;
        } else {
            out.push_back(
                fmt::format("layer {}: \"{}\" is left over (an import that did not end)", id.value, entry.name));
        }
    }
    if (!has_fs) out.push_back(fmt::format("layer {} has no fs directory: its content is gone", id.value));
    return out;
}

} // namespace shale::drivers
