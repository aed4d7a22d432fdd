// SPDX-License-Identifier: Apache-2.0
#include "drivers/erofs/erofs.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "drivers/apply.h"
#include "drivers/erofs/host_tree.h"
#include "sys/fs.h"

namespace shale::drivers::erofs {
namespace {

constexpr const char *temporary_name = "image.erofs.tmp";

constexpr std::array options{
    OptionInfo{"backing", "auto",
               "auto, file, loop: images are mounted straight from their files (Linux 6.12) or over loop devices",
               "auto|file|loop"},
    OptionInfo{"volatile", "no",
               "no, yes: containers' writes are never synced; lost or torn after a crash (Linux 5.10)", "no|yes"},
    OptionInfo{"size", "", "default limit of bytes per container (10G); needs project quota"},
    OptionInfo{"inodes", "", "default limit of inodes per container; needs project quota"},
};

/// The parents, image by image, as far as they are asked for.
class ImageParents final : public LowerTree {
public:
    ImageParents(Erofs &driver, Parents parents, ImageTree &staged)
        : driver_(driver), parents_(parents), opened_(parents.size()), staged_(staged) {}

    Result<std::optional<UniqueFd>> look(std::string_view path) override {
        for (size_t i = 0; i < parents_.size(); ++i) {
            if (!opened_[i])
                opened_[i] = std::make_unique<archive::DirectoryTree>(TRY(driver_.sealed_root(parents_[i])));
            Look look = TRY(look_up(*opened_[i], path, archive::WhiteoutForm::overlay_trusted));
            if (look.kind == Look::Kind::found) return look.at.take_fd();
            if (look.kind == Look::Kind::hidden) return std::nullopt;
        }
        return std::nullopt;
    }
    Status give(const std::string & /*path*/, int from, int to_dir, const char *name) override {
        return copy_in(staged_, from, to_dir, name);
    }
    [[nodiscard]] bool copies() const noexcept override { return true; }

private:
    Erofs &driver_;
    Parents parents_;
    std::vector<std::unique_ptr<archive::DirectoryTree>> opened_;
    ImageTree &staged_;
};

} // namespace

std::span<const OptionInfo> option_infos() noexcept {
    return options;
}

Result<Config> Config::from(const DriverOptions &given) {
    const DriverOptions all = TRY(check_options("erofs", options, given));
    Config out;
    const std::string &backing = all.find("backing")->second;
    if (backing == "file") out.backing = Backing::file;
    if (backing == "loop") out.backing = Backing::loop;
    out.is_volatile = all.find("volatile")->second == "yes";
    out.default_quota = TRY(drivers::default_quota("erofs", all));
    return out;
}

Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &given) {
    const Config config = TRY(Config::from(given));
    return std::make_unique<Erofs>(TRY(LayerRoot::open(root)), config);
}

std::string Erofs::path(LayerId id, std::string_view part) const {
    return fmt::format("{}/{}/{}", root_.path(), id.value, part);
}

Result<bool> Erofs::has(LayerId id, const char *part) const {
    return TRY(sys::stat_if_exists(root_.fd(), fmt::format("{}/{}", id.value, part).c_str())).has_value();
}

Status Erofs::check_depth(LayerId id, Parents parents) const {
    if (parents.size() <= max_lowers) return {};
    return fail(Errc::ResourceExhausted,
                fmt::format("layer {} has {} parents, overlay takes {}", id.value, parents.size(), max_lowers));
}

Result<UniqueFd> Erofs::new_image(LayerId id) const {
    const std::string name = fmt::format("{}/{}", id.value, temporary_name);
    return sys::open_at(root_.fd(), name.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
}

Status Erofs::finish(ImageTree &tree, Synced synced) {
    (void)TRY(tree.finish());
    TRY(sys::chmod_fd(tree.image(), 0400));
    return synced == Synced::now ? sys::fsync_fd(tree.image()) : Status();
}

Status Erofs::publish(LayerId id) const {
    return sys::rename_at(root_.fd(), fmt::format("{}/{}", id.value, temporary_name).c_str(), root_.fd(),
                          fmt::format("{}/{}", id.value, image_name).c_str());
}

Result<Staging> Erofs::stage(LayerId id, Parents /*parents*/) {
    TRY(remove(id));
    TRY(root_.make(to_string(id).c_str(), 0700));
    TRY(count(id));
    return Staging{std::make_unique<ImageTree>(TRY(new_image(id))), archive::WhiteoutForm::overlay_trusted};
}

Status Erofs::apply(LayerId id, Parents parents, Staging staged, const archive::ExtractReport &report) {
    TRY(check_depth(id, parents));
    auto &tree = static_cast<ImageTree &>(*staged.tree);
    ImageParents lower(*this, parents, tree);
    TRY(in_context(Applier(tree, archive::WhiteoutForm::overlay_trusted, lower).run(report),
                   [&] { return fmt::format("layer {}", id.value); }));
    if (!report.has_root_entry && !parents.empty()) {
        archive::DirectoryTree host(-1);
        TRY(copy_metadata(host, TRY(sealed_root(parents.front())).get(), tree, tree.root()));
    }
    TRY(in_context(finish(tree, Synced::later), [&] { return fmt::format("image of layer {}", id.value); }));
    return publish(id);
}

Status Erofs::create(LayerId id, Parents parents, const Quota &quota) {
    TRY(check_depth(id, parents));
    const Quota limit = TRY(limit_of(id, quota));
    UniqueFd parent;
    if (!parents.empty()) parent = TRY(sealed_root(parents.front()));
    const std::string name = to_string(id);
    TRY(root_.make(name.c_str(), 0700));
    TRY(count(id, limit));
    TRY(root_.make((name + "/upper").c_str(), 0755));
    if (parent) {
        const UniqueFd upper = TRY(root_.open_part(id, "upper"));
        TRY(copy_metadata(parent.get(), upper.get()));
    }
    return make_helpers(root_, id, parents);
}

Status Erofs::set_owner(LayerId id, uid_t uid, gid_t gid) {
    return sys::chown_at(root_.fd(), (to_string(id) + "/upper").c_str(), uid, gid);
}

// The rename is the seal; as a lower directory the tree is what the image will be.
Status Erofs::seal(LayerId id, Parents parents) {
    const std::string name = to_string(id);
    if (!TRY(has(id, tree_name)) && !TRY(has(id, image_name)))
        TRY(sys::rename_at(root_.fd(), (name + "/upper").c_str(), root_.fd(),
                           fmt::format("{}/{}", name, tree_name).c_str()));
    return drop_helpers(root_, id, parents);
}

Result<bool> Erofs::is_sealed(LayerId id, Parents parents) {
    return !TRY(has(id, "upper")) || !TRY(has_helpers(root_, id, parents));
}

Status Erofs::reopen(LayerId id, Parents parents) {
    const std::string name = to_string(id);
    if (!TRY(has(id, "upper")))
        TRY(sys::rename_at(root_.fd(), fmt::format("{}/{}", name, tree_name).c_str(), root_.fd(),
                           (name + "/upper").c_str()));
    return make_helpers(root_, id, parents);
}

Result<std::vector<LayerId>> Erofs::unsettled() {
    std::vector<LayerId> out;
    for (const LayerId id : TRY(list()))
        if (TRY(has(id, tree_name))) out.push_back(id);
    return out;
}

Result<bool> Erofs::settle(LayerId id, const Permit &permit) {
    const auto tree = [&] { return fmt::format("{}/{}", id.value, tree_name); };
    if (!TRY(has(id, tree_name))) return true;
    if (!TRY(has(id, image_name))) {
        const UniqueFd from = TRY(root_.open_part(id, tree_name));
        ImageTree image(TRY(new_image(id)));
        ScopeGuard undo(
            [&] { (void)sys::unlink_at(root_.fd(), fmt::format("{}/{}", id.value, temporary_name).c_str()); });
        TRY(in_context(copy_upper(image, from.get()), [&] { return fmt::format("image of layer {}", id.value); }));
        TRY(finish(image, Synced::now));
        const auto held = TRY(permit());
        if (!held) return false;
        TRY(publish(id));
        undo.release();
        TRY(sys::fsync_fd(TRY(sys::open_dir(root_.fd(), to_string(id).c_str())).get()));
        TRY(root_.to_trash(tree(), id));
        return true;
    }
    const auto held = TRY(permit()); // a crash came before the tree went
    if (held) TRY(root_.to_trash(tree(), id));
    return held != nullptr;
}

Status Erofs::exchange(LayerId fresh, LayerId old) {
    TRY(unmount(fresh));
    TRY(unmount(old));
    return DirectoryDriver::exchange(fresh, old);
}

Status Erofs::remove(LayerId id) {
    TRY(unmount(id));
    return DirectoryDriver::remove(id);
}

Result<UniqueFd> Erofs::own_tree(LayerId id) {
    if (TRY(has(id, "upper"))) return root_.open_part(id, "upper");
    return sealed_root(id);
}

Result<Usage> Erofs::usage(LayerId id, Parents /*parents*/) {
    if (const auto known = TRY(counted(id))) return *known;
    for (const char *part : {"upper", tree_name})
        if (TRY(has(id, part)) && !TRY(has(id, image_name))) return walk_usage(TRY(root_.open_part(id, part)).get());
    Usage out;
    for (const char *part : {image_name, temporary_name})
        if (const auto status = TRY(sys::stat_if_exists(root_.fd(), fmt::format("{}/{}", id.value, part).c_str()))) {
            out.bytes += static_cast<uint64_t>(status->st_blocks) * 512;
            ++out.inodes;
        }
    if (out.inodes == 0) return fail(Errc::NotFound, fmt::format("layer {} has no image", id.value));
    return out;
}

Result<Driver::DiffReport> Erofs::diff(LayerId id, Parents /*parents*/, const archive::Sink &sink) {
    DiffReport out;
    out.native = true; // mounted without redirects: the layer alone tells the change
    out.pack = TRY(archive::pack_upper(TRY(own_tree(id)).get(), archive::WhiteoutForm::overlay_trusted, {}, sink));
    return out;
}

Status Erofs::changes(LayerId id, Parents parents, const archive::ChangeSink &sink) {
    const UniqueFd own = TRY(own_tree(id));
    View lower;
    if (!parents.empty()) lower = TRY(open_view(parents.front(), parents.subspan(1)));
    return archive::upper_changes(own.get(), archive::WhiteoutForm::overlay_trusted,
                                  parents.empty() ? -1 : lower.root.get(), sink);
}

/// One block is read: header, superblock and its checksum, size.
Status Erofs::check_image(LayerId id, std::vector<std::string> &out) const {
    const UniqueFd image = TRY(sys::open_at(root_.fd(), fmt::format("{}/{}", id.value, image_name).c_str(), O_RDONLY));
    const auto info = read_info(image.get());
    const auto status = TRY(sys::stat_at(image.get(), ""));
    if (!info) {
        out.push_back(fmt::format("layer {}: {}", id.value, info.error().text()));
    } else if (static_cast<uint64_t>(status.st_size) != info->bytes) {
        out.push_back(fmt::format("layer {}: its image has {} bytes, {} are recorded in it", id.value, status.st_size,
                                  info->bytes));
    }
    return {};
}

Result<std::vector<std::string>> Erofs::check(LayerId id, Parents parents) {
    std::vector<std::string> out;
    const auto layer = sys::open_dir(root_.fd(), to_string(id).c_str());
    if (!layer) {
        out.push_back(fmt::format("layer {} has no directory below {}", id.value, root_.path()));
        return out;
    }
    bool has_image = false, has_tree = false, has_temporary = false;
    for (const auto &entry : TRY(sys::list_dir(layer->get()))) {
        if (entry.name == image_name) {
            has_image = true;
        } else if (entry.name == "upper" || entry.name == tree_name) {
            has_tree = true;
        } else if (entry.name == temporary_name) {
            has_temporary = true;
        } else if (entry.name != "work" && entry.name != no_parents && entry.name != "mnt") {
            out.push_back(fmt::format("layer {}: \"{}\" is none of its files", id.value, entry.name));
        }
    }
    if (has_temporary && !has_tree) // else it is being settled, or will be again
        out.push_back(
            fmt::format("layer {}: \"{}\" is left over (an image that was not finished)", id.value, temporary_name));
    if (!has_image && !has_tree)
        out.push_back(fmt::format("layer {} has neither an image nor a directory: its content is gone", id.value));
    if (has_image) TRY(check_image(id, out));
    for (const LayerId parent : parents)
        if (!TRY(has(parent, image_name)) && !TRY(has(parent, tree_name)))
            out.push_back(fmt::format("layer {}: parent {} has neither an image nor a tree", id.value, parent.value));
    if (parents.size() > max_lowers)
        out.push_back(fmt::format("layer {} has {} parents, overlay takes {}", id.value, parents.size(), max_lowers));
    return out;
}

Result<std::vector<std::string>> Erofs::verify(LayerId id) {
    std::vector<std::string> out;
    if (!TRY(has(id, image_name)) && (TRY(has(id, "upper")) || TRY(has(id, tree_name)))) return out; // nothing recorded
    const UniqueFd image = TRY(sys::open_at(root_.fd(), fmt::format("{}/{}", id.value, image_name).c_str(), O_RDONLY));
    const auto info = read_info(image.get());
    if (!info) {
        out.push_back(fmt::format("layer {}: {}", id.value, info.error().text()));
        return out;
    }
    if (const Digest now = TRY(digest_of_image(image.get())); now != info->digest)
        out.push_back(fmt::format("layer {}: its image is {}, recorded in it is {}: it has changed on disk", id.value,
                                  now.text(), info->digest.text()));
    return out;
}

} // namespace shale::drivers::erofs
