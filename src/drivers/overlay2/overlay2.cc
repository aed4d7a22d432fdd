// SPDX-License-Identifier: Apache-2.0
#include "drivers/overlay2/overlay2.h"

#include <sys/stat.h>

#include <array>

#include <fmt/format.h>

#include "sys/fs.h"

namespace shale::drivers::overlay2 {
namespace {

constexpr const char *marker = "redirects";

constexpr std::array options{
    OptionInfo{
        "redirect_dir", "off",
        "off, on, follow, nofollow: renaming a directory of a lower layer. off: rename(2) gives EXDEV and diffs stay "
        "native; on: it works, diffs of such layers walk both trees",
        "off|on|follow|nofollow"},
    OptionInfo{"metacopy", "off",
               "off, on: chmod and chown copy only metadata up; diffs of such layers walk both trees", "off|on"},
    OptionInfo{"index", "off", "off, on: hard links of lower layers survive a copy-up", "off|on"},
    OptionInfo{"xino", "auto", "auto, on, off: inode numbers unique over layers on several file systems",
               "auto|on|off"},
    OptionInfo{"volatile", "no",
               "no, yes: containers' writes are never synced; lost or torn after a crash (Linux 5.10)", "no|yes"},
    OptionInfo{"userxattr", "auto", "auto, yes, no: marks in user.overlay.*; auto = yes inside a user name space",
               "auto|yes|no"},
    OptionInfo{"size", "", "default limit of bytes per container (10G); needs project quota"},
    OptionInfo{"inodes", "", "default limit of inodes per container; needs project quota"},
};

} // namespace

std::span<const OptionInfo> option_infos() noexcept {
    return options;
}

Result<Config> Config::from(const DriverOptions &given) {
    const DriverOptions all = TRY(check_options("overlay2", options, given));
    auto text = [&](std::string_view key) -> const std::string & { return all.find(key)->second; };
    Config out;
    out.redirect_dir = text("redirect_dir");
    out.metacopy = text("metacopy");
    out.index = text("index");
    out.xino = text("xino");
    out.is_volatile = text("volatile") == "yes";
    out.userxattr = text("userxattr") == "yes" || (text("userxattr") == "auto" && in_user_namespace());
    out.default_quota = TRY(drivers::default_quota("overlay2", all));
    // fs/overlayfs/params.c, ovl_fs_params_verify: refused by the kernel, said here in words.
    if (out.userxattr && (out.redirect_dir == "on" || out.redirect_dir == "follow" || out.metacopy == "on"))
        return fail(Errc::InvalidArgument,
                    "driver overlay2: redirect_dir and metacopy cannot be on with userxattr (user name "
                    "space): the kernel trusts such marks only from root. Leave them off");
    if (out.metacopy == "on" && out.redirect_dir != "on")
        return fail(Errc::InvalidArgument, "driver overlay2: metacopy=on needs redirect_dir=on");
    return out;
}

std::vector<std::string> Config::mount_options(bool writable) const {
    // All said, so that parameters of the module on this host change nothing.
    std::vector<std::string> out;
    if (userxattr) {
        out.emplace_back("userxattr");
    } else {
        out.push_back("redirect_dir=" + (writable || redirect_dir == "nofollow" ? redirect_dir : "follow"));
        out.push_back("metacopy=" + (writable || metacopy == "off" ? metacopy : "on"));
    }
    out.push_back("index=" + (writable ? index : "off"));
    out.push_back("xino=" + xino);
    if (writable && is_volatile) out.emplace_back("volatile");
    return out;
}

Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &given) {
    Config config = TRY(Config::from(given));
    return std::make_unique<Overlay2>(TRY(LayerRoot::open(root)), std::move(config));
}

std::string Overlay2::diff_path(LayerId id) const {
    return fmt::format("{}/{}/diff", root_.path(), id.value);
}

std::string Overlay2::lower_option(LayerId first, Parents rest) const {
    const std::string base = escape_overlay(root_.path());
    std::string out = fmt::format("lowerdir={}/{}/diff", base, first.value);
    for (const LayerId id : rest)
        fmt::format_to(std::back_inserter(out), ":{}/{}/diff", base, id.value);
    return out;
}

Status Overlay2::check_depth(LayerId id, Parents parents) const {
    if (parents.size() <= max_lowers) return {};
    return fail(Errc::ResourceExhausted,
                fmt::format("layer {} has {} parents, overlay takes {}", id.value, parents.size(), max_lowers));
}

Result<Staging> Overlay2::stage(LayerId id, Parents /*parents*/) {
    TRY(remove(id));
    const std::string name = to_string(id);
    TRY(root_.make(name.c_str(), 0700));
    TRY(count(id));
    TRY(root_.make((name + "/diff").c_str(), 0755));
    return Staging{std::make_unique<archive::DirectoryTree>(TRY(root_.open_part(id, "diff"))), config_.form()};
}

Status Overlay2::create(LayerId id, Parents parents, const Quota &quota) {
    TRY(check_depth(id, parents));
    const Quota limit = TRY(limit_of(id, quota));
    struct stat like{};
    like.st_mode = 0755;
    std::string parent;
    std::vector<std::string> attributes;
    if (!parents.empty()) {
        parent = to_string(parents.front()) + "/diff";
        const auto found = TRY(sys::stat_if_exists(root_.fd(), parent.c_str()));
        if (!found)
            return fail(Errc::NotFound,
                        fmt::format("layer {}: parent {} is not there", id.value, parents.front().value));
        like = *found;
        attributes = TRY(sys::list_xattrs(root_.fd(), parent.c_str()));
    }
    const std::string name = to_string(id);
    TRY(root_.make(name.c_str(), 0700));
    TRY(count(id, limit));
    const std::string diff = name + "/diff";
    TRY(root_.make(diff.c_str(), like.st_mode & 07777, like.st_uid, like.st_gid));
    for (const auto &key : attributes) {
        if (key.starts_with("trusted.overlay.") || key.starts_with("user.overlay.")) continue;
        if (const auto value = TRY(sys::get_xattr(root_.fd(), parent.c_str(), key.c_str())))
            TRY(sys::set_xattr(root_.fd(), diff.c_str(), key.c_str(), *value));
    }
    return reopen(id, parents);
}

Status Overlay2::seal(LayerId id, Parents parents) {
    return drop_helpers(root_, id, parents);
}

Result<bool> Overlay2::is_sealed(LayerId id, Parents parents) {
    return !TRY(has_helpers(root_, id, parents));
}

Status Overlay2::reopen(LayerId id, Parents parents) {
    return make_helpers(root_, id, parents);
}

Status Overlay2::set_owner(LayerId id, uid_t uid, gid_t gid) {
    return sys::chown_at(root_.fd(), (to_string(id) + "/diff").c_str(), uid, gid);
}

Result<std::vector<sys::MountSpec>> Overlay2::mounts(LayerId id, Parents parents, Access access) {
    TRY(check_depth(id, parents));
    const bool writable = access == Access::read_write;
    if (!writable && parents.size() >= max_lowers)
        return fail(Errc::ResourceExhausted,
                    fmt::format("layer {} has {} parents: read-only it is one lower more itself, and overlay takes {}",
                                id.value, parents.size(), max_lowers));
    const std::string lower = fmt::format("{}/{}", id.value, no_parents);
    if (parents.empty() && !(writable && TRY(sys::stat_if_exists(root_.fd(), lower.c_str()))))
        return std::vector{sys::MountSpec{"bind", diff_path(id), {writable ? "rw" : "ro", "rbind"}}};
    sys::MountSpec spec{"overlay", "overlay", {}};
    if (writable) {
        if (config_.can_redirect()) {
            const auto made =
                sys::open_at(root_.fd(), fmt::format("{}/{}", id.value, marker).c_str(), O_WRONLY | O_CREAT, 0600);
            if (!made) return std::unexpected(made.error());
        }
        spec.options.push_back(parents.empty() ? fmt::format("lowerdir={}/{}", escape_overlay(root_.path()), lower)
                                               : lower_option(parents.front(), parents.subspan(1)));
        spec.options.push_back(fmt::format("upperdir={}/{}/diff", escape_overlay(root_.path()), id.value));
        spec.options.push_back(fmt::format("workdir={}/{}/work", escape_overlay(root_.path()), id.value));
    } else {
        spec.options.emplace_back("ro");
        spec.options.push_back(lower_option(id, parents));
    }
    for (auto &option : config_.mount_options(writable))
        spec.options.push_back(std::move(option));
    return std::vector{std::move(spec)};
}

Result<Usage> Overlay2::usage(LayerId id, Parents /*parents*/) {
    if (const auto known = TRY(counted(id))) return *known;
    return walk_usage(TRY(root_.open_part(id, "diff")).get());
}

Result<std::vector<std::string>> Overlay2::check(LayerId id, Parents parents) {
    std::vector<std::string> out;
    const auto layer = sys::open_dir(root_.fd(), to_string(id).c_str());
    if (!layer) {
        out.push_back(fmt::format("layer {} has no directory below {}", id.value, root_.path()));
        return out;
    }
    bool has_diff = false;
    for (const auto &entry : TRY(sys::list_dir(layer->get()))) {
        if (entry.name == "diff") {
            has_diff = true;
        } else if (entry.name != "work" && entry.name != no_parents && entry.name != marker) {
            out.push_back(fmt::format("layer {}: \"{}\" is nothing that overlay2 makes", id.value, entry.name));
        }
    }
    if (!has_diff) out.push_back(fmt::format("layer {} has no diff directory: its content is gone", id.value));
    for (const LayerId parent : parents) {
        const auto there = TRY(sys::stat_if_exists(root_.fd(), (to_string(parent) + "/diff").c_str()));
        if (!there || !S_ISDIR(there->st_mode))
            out.push_back(fmt::format("layer {}: parent {} has no diff directory", id.value, parent.value));
    }
    if (parents.size() > max_lowers)
        out.push_back(fmt::format("layer {} has {} parents, overlay takes {}", id.value, parents.size(), max_lowers));
    return out;
}

} // namespace shale::drivers::overlay2
