// SPDX-License-Identifier: Apache-2.0
#include "drivers/vfs/vfs.h"

#include <fcntl.h>

#include <array>

#include <fmt/format.h>

#include "drivers/concurrent_writes.h"
#include "sys/fs.h"

namespace shale::drivers::vfs {
namespace {

constexpr std::array options{
    OptionInfo{"size", "",
               "default limit of bytes per container (10G), copies of the parents included; needs project quota"},
    OptionInfo{"inodes", "", "default limit of inodes per container; needs project quota"},
};

} // namespace

std::span<const OptionInfo> option_infos() noexcept {
    return options;
}

Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &given) {
    const DriverOptions all = TRY(check_options("vfs", options, given));
    return std::make_unique<Vfs>(TRY(LayerRoot::open(root)), TRY(default_quota("vfs", all)));
}

Status Vfs::make_layer(LayerId id, Parents /*parents*/) {
    return root_.make(to_string(id).c_str(), 0700);
}

Result<Driver::View> Vfs::make_tree(LayerId id, Parents parents) {
    TRY(root_.make((to_string(id) + "/fs").c_str(), 0755));
    UniqueFd fs = TRY(root_.open_part(id, "fs"));
    if (parents.empty()) return View{std::move(fs), nullptr};
    const UniqueFd parent = TRY(root_.open_part(parents.front(), "fs"));
    (void)TRY(in_context(archive::copy_tree(parent.get(), fs.get()),
                         [&] { return fmt::format("layer {}: copy of parent {}", id.value, parents.front().value); }));
    TRY(copy_metadata(parent.get(), fs.get()));
    return View{std::move(fs), nullptr};
}

Result<ProbeReport> Vfs::probe() {
    ProbeReport out;
    const auto scratch = root_.scratch();
    if (!scratch) {
        out.reason = scratch.error().text();
        return out;
    }
    const int dir = scratch->dir.get();
    out.add("backing file system", sys::file_system_name(TRY(sys::statfs_fd(dir))), "statfs");
    out.add("d_type", TRY(has_d_type(dir)) ? "yes" : "no", "getdents64 of a fresh directory");
    {
        const UniqueFd from = TRY(sys::open_at(dir, "from", O_RDWR | O_CREAT | O_EXCL, 0600));
        const UniqueFd to = TRY(sys::open_at(dir, "to", O_RDWR | O_CREAT | O_EXCL, 0600));
        const std::vector<std::byte> data(65'536, std::byte{1});
        TRY(sys::write_all(from.get(), data));
        const auto method = TRY(sys::copy_file_data(from.get(), to.get(), data.size()));
        out.add("reflink", method == sys::CopyMethod::reflink ? "yes" : "no",
                method == sys::CopyMethod::reflink
                    ? ""
                    : "FICLONE is refused here: every layer is a full copy of its parent");
        out.add("copy_file_range", method == sys::CopyMethod::read_write ? "no" : "yes");
    }
    const auto attribute = sys::set_xattr(dir, "", "user.shale", "1");
    out.add("user xattrs", attribute ? "yes" : "no", attribute ? "" : attribute.error().message());
    const auto filled = make_written_files(dir);
    out.facts.push_back(concurrent_writes(filled ? sys::open_dir(dir, ".") : std::unexpected(filled.error()),
                                          "write into a file of 256 KiB, which is the container's own"));
    out.facts.push_back(quota_fact());
    out.add("max depth", std::to_string(max_depth()), "a layer needs only its own tree");
    out.usable = true;
    return out;
}

} // namespace shale::drivers::vfs
