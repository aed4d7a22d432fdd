// SPDX-License-Identifier: Apache-2.0
// Reading a layer: natively from its upper where that tells the truth, else from merged views.
#include <fcntl.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "drivers/overlay2/overlay2.h"
#include "sys/fs.h"

namespace shale::drivers::overlay2 {

Result<std::string> Overlay2::find_redirect(LayerId id, int diff) const {
    // Without the marker no mount of this layer could make one: no walk.
    if (!TRY(sys::stat_if_exists(root_.fd(), fmt::format("{}/redirects", id.value).c_str()))) return std::string();
    std::string found;
    const std::string redirect = std::string(config_.prefix()) + "redirect";
    const std::string metacopy = std::string(config_.prefix()) + "metacopy";
    const auto done =
        walk_tree(diff, [&](int dir, const char *name, const struct stat &status, std::string_view) -> Status {
            if (!S_ISDIR(status.st_mode) && !S_ISREG(status.st_mode)) return {};
            for (const auto &key : TRY(sys::list_xattrs(dir, name))) {
                if (key != redirect && key != metacopy) continue;
                found = fmt::format("\"{}\" carries {}", name, key);
                return fail(Errc::Canceled, found); // ends the walk
            }
            return {};
        });
    if (!done && found.empty()) return std::unexpected(done.error());
    return found;
}

Result<Driver::DiffReport> Overlay2::diff(LayerId id, Parents parents, const archive::Sink &sink) {
    DiffReport out;
    const UniqueFd diff = TRY(root_.open_part(id, "diff"));
    out.walk_reason = TRY(find_redirect(id, diff.get()));
    out.native = out.walk_reason.empty();
    if (out.native) {
        out.pack = TRY(archive::pack_upper(diff.get(), config_.form(), {}, sink));
        return out;
    }
    const View upper = TRY(open_view(id, parents));
    if (parents.empty()) {
        out.pack = TRY(archive::pack_tree(upper.root.get(), {}, sink));
        return out;
    }
    const View lower = TRY(open_view(parents.front(), parents.subspan(1)));
    out.pack = TRY(archive::pack_diff(lower.root.get(), upper.root.get(), {}, sink));
    return out;
}

Status Overlay2::changes(LayerId id, Parents parents, const archive::ChangeSink &sink) {
    const UniqueFd diff = TRY(root_.open_part(id, "diff"));
    View lower;
    if (!parents.empty()) lower = TRY(open_view(parents.front(), parents.subspan(1)));
    const int lower_fd = parents.empty() ? -1 : lower.root.get();
    if (TRY(find_redirect(id, diff.get())).empty())
        return archive::upper_changes(diff.get(), config_.form(), lower_fd, sink);
    const View upper = TRY(open_view(id, parents));
    return archive::tree_changes(lower_fd, upper.root.get(), sink);
}

Result<Driver::View> Overlay2::open_view(LayerId id, Parents parents) {
    if (parents.empty()) return View{TRY(root_.open_part(id, "diff")), nullptr};
    const auto specs = TRY(mounts(id, parents, Access::read_only));
    auto mounted = sys::mount_detached(specs.front());
    if (!mounted) {
        Error error = std::move(mounted).error();
        if (error.sys_errno() == EPERM)
            return fail(
                Errc::PermissionDenied,
                fmt::format("layer {} over {} parents is read through an overlay mount, and this process may not mount "
                            "({}); run as root or inside a user name space with a mount name space",
                            id.value, parents.size(), error.text()));
        return std::unexpected(std::move(error).add(fmt::format("view of layer {}", id.value)));
    }
    View out;
    out.root = TRY(sys::open_dir(mounted->get(), "."));
    out.keep = std::make_shared<UniqueFd>(std::move(*mounted));
    return out;
}

} // namespace shale::drivers::overlay2
