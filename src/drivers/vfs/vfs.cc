// SPDX-License-Identifier: Apache-2.0
#include "drivers/vfs/vfs.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "base/units.h"
#include "drivers/apply.h"
#include "drivers/concurrent_writes.h"
#include "sys/fs.h"

namespace shale::drivers::vfs {
namespace {

constexpr std::array options{
    OptionInfo{"size", "",
               "default limit of bytes per container (10G), copies of the parents included; needs project quota"},
    OptionInfo{"inodes", "", "default limit of inodes per container; needs project quota"},
};
constexpr std::array rules{OptionRule{"size", "", ""}, OptionRule{"inodes", "", ""}};

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

std::span<const OptionInfo> option_infos() noexcept {
    return options;
}

Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &given) {
    const DriverOptions all = TRY(check_options("vfs", rules, given));
    Quota quota;
    if (const auto &size = all.find("size")->second; !size.empty()) quota.bytes = TRY(parse_bytes(size));
    if (const auto &inodes = all.find("inodes")->second; !inodes.empty()) quota.inodes = TRY(parse_bytes(inodes));
    return std::make_unique<Vfs>(TRY(LayerRoot::open(root)), quota);
}

Result<Staging> Vfs::stage(LayerId id) {
    TRY(remove(id));
    const std::string name = to_string(id);
    TRY(root_.make(name.c_str(), 0700));
    if (quota_) TRY(quota_->adopt(id));
    TRY(root_.make((name + "/stage").c_str(), 0755));
    return Staging{TRY(root_.open_part(id, "stage")), archive::WhiteoutForm::oci_names};
}

Result<UniqueFd> Vfs::copy_of_parent(LayerId id, Parents parents) {
    TRY(root_.make((to_string(id) + "/fs").c_str(), 0755));
    UniqueFd fs = TRY(root_.open_part(id, "fs"));
    if (parents.empty()) return fs;
    const UniqueFd parent = TRY(root_.open_part(parents.front(), "fs"));
    (void)TRY(in_context(archive::copy_tree(parent.get(), fs.get()),
                         [&] { return fmt::format("layer {}: copy of parent {}", id.value, parents.front().value); }));
    TRY(copy_metadata(parent.get(), fs.get()));
    return fs;
}

Status Vfs::apply(LayerId id, Parents parents, const archive::ExtractReport &report) {
    const UniqueFd stage = TRY(root_.open_part(id, "stage"));
    const UniqueFd fs = TRY(copy_of_parent(id, parents));
    // Before the merge: it replaces files of the parents that the layer's links mean.
    const LockedModes staged_modes = TRY(open_up(stage.get()));
    LockedModes modes = TRY(open_up(fs.get()));
    CopiedParent lower(fs.get());
    Applier applier(stage.get(), archive::WhiteoutForm::oci_names, lower);
    TRY(in_context(applier.run(report), [&] { return fmt::format("layer {}", id.value); }));
    TRY(settle_modes(stage.get(), report, applier, staged_modes, modes));
    if (!report.has_root_entry && !parents.empty()) TRY(copy_metadata(fs.get(), stage.get()));
    // The merge empties the stage's own directories; what its root says is kept for afterwards.
    const UniqueFd root_like = TRY(sys::open_dir(stage.get(), "."));
    const struct stat staged_root = TRY(sys::stat_at(stage.get(), ""));
    TRY(in_context(archive::merge_upper(stage.get(), archive::WhiteoutForm::oci_names, fs.get()),
                   [&] { return fmt::format("layer {}: merge", id.value); }));
    TRY(copy_metadata(root_like.get(), fs.get()));
    TRY(lock_again(fs.get(), modes));
    TRY(sys::set_times(fs.get(), "", staged_root.st_atim, staged_root.st_mtim));
    return sys::remove_tree(root_.fd(), (to_string(id) + "/stage").c_str());
}

Status Vfs::create(LayerId id, Parents parents, const Quota &quota) {
    const Quota limit{quota.bytes != 0 ? quota.bytes : default_quota_.bytes,
                      quota.inodes != 0 ? quota.inodes : default_quota_.inodes};
    if ((limit.bytes != 0 || limit.inodes != 0) && !quota_)
        return fail(Errc::FailedPrecondition, fmt::format("layer {}: quota: {}", id.value, no_quota_reason_));
    TRY(root_.make(to_string(id).c_str(), 0700));
    if (quota_) {
        TRY(quota_->adopt(id));
        if (limit.bytes != 0 || limit.inodes != 0) TRY(quota_->set(id, limit));
    }
    (void)TRY(copy_of_parent(id, parents));
    return {};
}

Status Vfs::sync(std::span<const LayerId> ids) {
    if (ids.empty()) return {};
    return sys::syncfs_fd(root_.fd());
}

Result<std::vector<sys::MountSpec>> Vfs::mounts(LayerId id, Parents /*parents*/, Access access) {
    return std::vector{sys::MountSpec{"bind",
                                      fmt::format("{}/{}/fs", root_.path(), id.value),
                                      {access == Access::read_write ? "rw" : "ro", "rbind"}}};
}

Result<Usage> Vfs::usage(LayerId id, Parents /*parents*/) {
    if (quota_) {
        if (const auto counted = TRY(quota_->usage(id))) return *counted;
    }
    auto fs = root_.open_part(id, "fs");
    if (!fs && fs.error().code() == Errc::NotFound) fs = root_.open_part(id, "stage");
    return walk_usage(TRY(std::move(fs)).get());
}

Result<Driver::DiffReport> Vfs::diff(LayerId id, Parents parents, const archive::Sink &sink) {
    DiffReport out;
    const UniqueFd fs = TRY(root_.open_part(id, "fs"));
    if (parents.empty()) {
        out.native = true;
        out.pack = TRY(archive::pack_tree(fs.get(), {}, sink));
        return out;
    }
    out.walk_reason = "vfs keeps complete trees: both are compared";
    const UniqueFd lower = TRY(root_.open_part(parents.front(), "fs"));
    out.pack = TRY(archive::pack_diff(lower.get(), fs.get(), {}, sink));
    return out;
}

Status Vfs::changes(LayerId id, Parents parents, const archive::ChangeSink &sink) {
    const UniqueFd fs = TRY(root_.open_part(id, "fs"));
    // A complete tree is an upper over nothing; in this form a file named ".wh.x" is just a file.
    if (parents.empty()) return archive::upper_changes(fs.get(), archive::WhiteoutForm::overlay_trusted, -1, sink);
    const UniqueFd lower = TRY(root_.open_part(parents.front(), "fs"));
    return archive::tree_changes(lower.get(), fs.get(), sink);
}

Result<Driver::View> Vfs::open_view(LayerId id, Parents /*parents*/) {
    return View{TRY(root_.open_part(id, "fs")), nullptr};
}

Result<std::vector<std::string>> Vfs::check(LayerId id, Parents /*parents*/) {
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

Result<ProbeReport> Vfs::probe() {
    ProbeReport out;
    auto fact = [&](std::string name, std::string value, std::string reason = {}) {
        out.facts.push_back({std::move(name), std::move(value), std::move(reason)});
    };
    const auto scratch = root_.scratch();
    if (!scratch) {
        out.reason = scratch.error().text();
        return out;
    }
    const int dir = scratch->dir.get();
    fact("backing file system", sys::file_system_name(TRY(sys::statfs_fd(dir))), "statfs");
    fact("d_type", TRY(has_d_type(dir)) ? "yes" : "no", "getdents64 of a fresh directory");
    {
        const UniqueFd from = TRY(sys::open_at(dir, "from", O_RDWR | O_CREAT | O_EXCL, 0600));
        const UniqueFd to = TRY(sys::open_at(dir, "to", O_RDWR | O_CREAT | O_EXCL, 0600));
        const std::vector<std::byte> data(65'536, std::byte{1});
        TRY(sys::write_all(from.get(), data));
        const auto method = TRY(sys::copy_file_data(from.get(), to.get(), data.size()));
        fact("reflink", method == sys::CopyMethod::reflink ? "yes" : "no",
             method == sys::CopyMethod::reflink ? ""
                                                : "FICLONE is refused here: every layer is a full copy of its parent");
        fact("copy_file_range", method == sys::CopyMethod::read_write ? "no" : "yes");
    }
    const auto attribute = sys::set_xattr(dir, "", "user.shale", "1");
    fact("user xattrs", attribute ? "yes" : "no", attribute ? "" : attribute.error().message());
    const auto filled = make_written_files(dir);
    out.facts.push_back(concurrent_writes(filled ? sys::open_dir(dir, ".") : std::unexpected(filled.error()),
                                          "write into a file of 256 KiB, which is the container's own"));
    fact("project quota", quota_ ? "yes" : "no", no_quota_reason_);
    fact("max depth", std::to_string(max_depth()), "a layer needs only its own tree");
    out.usable = true;
    return out;
}

} // namespace shale::drivers::vfs
