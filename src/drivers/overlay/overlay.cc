// SPDX-License-Identifier: Apache-2.0
#include "drivers/overlay/overlay.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>

#include <fmt/format.h>

#include "drivers/concurrent_writes.h"
#include "sys/fs.h"

namespace shale::drivers::overlay {
namespace {

constexpr std::array options{
    OptionInfo{"size", "", "default limit of bytes per container (10G); needs project quota"},
    OptionInfo{"inodes", "", "default limit of inodes per container; needs project quota"},
};

sys::MountSpec merged(const std::string &lower, const std::string &upper, const std::string &work, bool user) {
    sys::MountSpec spec{"overlay", "overlay", {"lowerdir=" + escape_overlay(lower)}};
    spec.options.push_back("upperdir=" + escape_overlay(upper));
    spec.options.push_back("workdir=" + escape_overlay(work));
    // All said, so that parameters of the module on this host change nothing.
    if (user) {
        spec.options.emplace_back("userxattr");
    } else {
        spec.options.emplace_back("redirect_dir=off");
        spec.options.emplace_back("metacopy=off");
    }
    spec.options.emplace_back("index=off");
    return spec;
}

} // namespace

std::span<const OptionInfo> option_infos() noexcept {
    return options;
}

Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &given) {
    const DriverOptions all = TRY(check_options("overlay", options, given));
    return std::make_unique<Overlay>(TRY(LayerRoot::open(root)), TRY(default_quota("overlay", all)));
}

Overlay::Overlay(LayerRoot root, const Quota &default_quota)
    : TreeDriver(std::move(root), default_quota),
      form_(in_user_namespace() ? archive::WhiteoutForm::overlay_user : archive::WhiteoutForm::overlay_trusted) {}

std::string Overlay::part(LayerId id, const char *name) const {
    return fmt::format("{}/{}/{}", root_.path(), id.value, name);
}

Result<bool> Overlay::is_container(LayerId id) const {
    return TRY(sys::stat_if_exists(root_.fd(), (to_string(id) + "/upper").c_str())).has_value();
}

Status Overlay::make_layer(LayerId id, Parents /*parents*/) {
    return root_.make(to_string(id).c_str(), 0700);
}

Result<Driver::View> Overlay::make_tree(LayerId id, Parents parents) {
    TRY(root_.make((to_string(id) + "/fs").c_str(), 0755));
    UniqueFd fs = TRY(root_.open_part(id, "fs"));
    if (parents.empty()) return View{std::move(fs), nullptr};
    const UniqueFd parent = TRY(root_.open_part(parents.front(), "fs"));
    (void)TRY(in_context(archive::copy_tree(parent.get(), fs.get(), archive::CopyFiles::links),
                         [&] { return fmt::format("layer {}: links to parent {}", id.value, parents.front().value); }));
    TRY(copy_metadata(parent.get(), fs.get()));
    return View{std::move(fs), nullptr};
}

Status Overlay::create(LayerId id, Parents parents, const Quota &quota) {
    if (parents.empty()) return TreeDriver::create(id, parents, quota);
    const Quota limit = TRY(limit_of(id, quota));
    const UniqueFd parent = TRY(root_.open_part(parents.front(), "fs"));
    TRY(make_layer(id, parents));
    TRY(count(id, limit));
    const std::string upper = to_string(id) + "/upper";
    TRY(root_.make(upper.c_str(), 0755));
    TRY(copy_metadata(parent.get(), TRY(root_.open_part(id, "upper")).get()));
    return root_.make((to_string(id) + "/work").c_str(), 0700);
}

Status Overlay::set_owner(LayerId id, uid_t uid, gid_t gid) {
    return sys::chown_at(root_.fd(), (to_string(id) + "/upper").c_str(), uid, gid);
}

Status Overlay::seal(LayerId id, Parents parents) {
    if (!TRY(is_container(id))) return {};
    if (counter_) TRY(counter_->disown(id)); // what it shares with its parent is another project's
    // A seal that was cut short begins again: what it linked goes, its upper may have lost entries to it only in the
    // last step, which a repeated merge goes on with.
    const std::string name = to_string(id);
    if (!TRY(sys::stat_if_exists(root_.fd(), (name + "/fs").c_str()))) {
        const std::string fresh = name + "/linked";
        TRY(sys::remove_tree(root_.fd(), fresh.c_str()));
        TRY(root_.make(fresh.c_str(), 0755));
        const UniqueFd tree = TRY(root_.open_part(id, "linked"));
        const UniqueFd parent = TRY(root_.open_part(parents.front(), "fs"));
        (void)TRY(archive::copy_tree(parent.get(), tree.get(), archive::CopyFiles::links));
        TRY(sys::rename_at(root_.fd(), fresh.c_str(), root_.fd(), (name + "/fs").c_str()));
    }
    const UniqueFd upper = TRY(root_.open_part(id, "upper"));
    const UniqueFd fs = TRY(root_.open_part(id, "fs"));
    const struct stat root = TRY(sys::stat_at(upper.get(), ""));
    TRY(in_context(archive::merge_upper(upper.get(), form_, fs.get()),
                   [&] { return fmt::format("layer {}: merge", id.value); }));
    TRY(copy_metadata(upper.get(), fs.get()));
    TRY(sys::set_times(fs.get(), "", root.st_atim, root.st_mtim));
    TRY(root_.to_trash(name + "/work", id));
    return root_.to_trash(name + "/upper", id);
}

Result<bool> Overlay::is_sealed(LayerId id, Parents parents) {
    if (parents.empty()) return false; // its tree is its own, before and after
    return !TRY(is_container(id)) || TRY(sys::stat_if_exists(root_.fd(), (to_string(id) + "/fs").c_str())).has_value();
}

Status Overlay::reopen(LayerId id, Parents parents) {
    if (!TRY(is_sealed(id, parents))) return {};
    return fail(Errc::FailedPrecondition,
                fmt::format("layer {}: its files are links to its parent's by now, and nothing may write to them; "
                            "commit it again, or remove it",
                            id.value));
}

Result<std::vector<sys::MountSpec>> Overlay::mounts(LayerId id, Parents parents, Access access) {
    if (parents.empty() || !TRY(is_container(id))) return TreeDriver::mounts(id, parents, access);
    const bool user = form_ == archive::WhiteoutForm::overlay_user;
    sys::MountSpec spec = merged(part(parents.front(), "fs"), part(id, "upper"), part(id, "work"), user);
    if (access == Access::read_only) spec.options.emplace_back("ro");
    return std::vector{std::move(spec)};
}

Result<Usage> Overlay::usage(LayerId id, Parents parents) {
    if (const auto known = TRY(counted(id))) return *known;
    if (TRY(is_container(id))) return walk_usage(TRY(root_.open_part(id, "upper")).get());
    if (parents.empty()) return TreeDriver::usage(id, parents);
    // What the parent's tree names too is the parent's.
    return walk_usage(TRY(root_.open_part(id, "fs")).get(), TRY(root_.open_part(parents.front(), "fs")).get());
}

Result<Driver::DiffReport> Overlay::diff(LayerId id, Parents parents, const archive::Sink &sink) {
    if (!TRY(is_container(id))) return TreeDriver::diff(id, parents, sink);
    DiffReport out;
    out.native = true;
    out.pack = TRY(archive::pack_upper(TRY(root_.open_part(id, "upper")).get(), form_, {}, sink));
    return out;
}

Status Overlay::changes(LayerId id, Parents parents, const archive::ChangeSink &sink) {
    if (!TRY(is_container(id))) return TreeDriver::changes(id, parents, sink);
    const UniqueFd lower = TRY(root_.open_part(parents.front(), "fs"));
    return archive::upper_changes(TRY(root_.open_part(id, "upper")).get(), form_, lower.get(), sink);
}

Result<Driver::View> Overlay::open_view(LayerId id, Parents parents) {
    if (!TRY(is_container(id))) return TreeDriver::open_view(id, parents);
    auto spec = TRY(mounts(id, parents, Access::read_only)).front();
    auto mounted =
        TRY(in_context(sys::mount_detached(spec), [&] { return fmt::format("view of layer {}", id.value); }));
    View out;
    out.root = TRY(sys::open_dir(mounted.get(), "."));
    out.keep = std::make_shared<UniqueFd>(std::move(mounted));
    return out;
}

Result<std::vector<std::string>> Overlay::check(LayerId id, Parents parents) {
    std::vector<std::string> out;
    const auto layer = sys::open_dir(root_.fd(), to_string(id).c_str());
    if (!layer || !TRY(is_container(id))) return TreeDriver::check(id, parents);
    for (const auto &entry : TRY(sys::list_dir(layer->get())))
        if (entry.name != "upper" && entry.name != "work")
            out.push_back(
                fmt::format("layer {}: \"{}\" is left over (a commit that did not end)", id.value, entry.name));
    if (!parents.empty() && !TRY(sys::stat_if_exists(root_.fd(), (to_string(parents.front()) + "/fs").c_str())))
        out.push_back(fmt::format("layer {}: parent {} has no fs directory", id.value, parents.front().value));
    return out;
}

Result<ProbeReport> Overlay::probe() {
    ProbeReport out;
    const auto scratch = root_.scratch();
    if (!scratch) {
        out.reason = scratch.error().text();
        return out;
    }
    const int dir = scratch->dir.get();
    out.add("deprecated", "yes", "every layer takes an inode for each directory; overlay2 does without");
    out.add("backing file system", sys::file_system_name(TRY(sys::statfs_fd(dir))), "statfs");
    const bool typed = TRY(has_d_type(dir));
    out.add("d_type", typed ? "yes" : "no",
            typed ? "" : "directory entries come without a type: overlay would show wrong directories");
    for (const char *name : {"lower", "upper", "work"})
        TRY(sys::make_dir(dir, name, 0755));
    const UniqueFd lower = TRY(sys::open_dir(dir, "lower"));
    const auto filled = make_written_files(lower.get());
    const auto linked = sys::make_link(lower.get(), "w0", dir, "w0");
    out.add("hard links", linked ? "yes" : "no", linked ? "" : linked.error().text());
    const std::string base = sys::fd_path(dir);
    const auto mounted = sys::mount_detached(
        merged(base + "/lower", base + "/upper", base + "/work", form_ == archive::WhiteoutForm::overlay_user));
    out.add("overlay mount", mounted ? "yes" : "no", mounted ? "" : mounted.error().text());
    if (mounted && filled)
        out.facts.push_back(concurrent_writes(sys::open_dir(mounted->get(), "."),
                                              "first write into a lower file of 256 KiB, which copies it up"));
    else
        out.add("concurrent writes", "unknown", mounted ? filled.error().text() : mounted.error().text());
    out.facts.push_back(quota_fact());
    out.add("max depth", std::to_string(max_layers),
            "a bound of this driver's: each layer costs its directories again");
    out.usable = mounted.has_value() && typed && linked.has_value();
    if (!out.usable)
        out.reason = !mounted ? mounted.error().text() : !linked ? linked.error().text() : "no d_type here";
    return out;
}

} // namespace shale::drivers::overlay
