// SPDX-License-Identifier: Apache-2.0
// The inodes of the store's file system: refused before the last one is taken, with who holds them.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/text.h"
#include "base/units.h"
#include "drivers/common.h"
#include "store/records.h"
#include "store/store.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

constexpr uint64_t needed_inodes = 16; ///< directories of a container, its records' files, some to spare
constexpr size_t most_holders = 3;
/// So that who is refused is refused at once: what was counted by then is told as "at least".
constexpr std::chrono::milliseconds patience{300};

struct Holder {
    std::string name;
    uint64_t inodes = 0;
};

} // namespace

Status Store::enough_inodes() {
    const auto status = TRY(sys::statfs_fd(root_fd_.get()));
    // btrfs counts none (0 in statfs).
    if (status.f_files == 0 || status.f_ffree >= needed_inodes) return {};
    std::vector<Holder> holders;
    bool complete = true;
    const auto end = std::chrono::steady_clock::now() + patience;
    auto containers = TRY(records_->prepare("SELECT id, name FROM containers"));
    while (TRY(containers.step())) {
        const auto id = containers.id(0);
        Holder holder{std::string(containers.text(1)), 0};
        if (holder.name.empty()) holder.name = fmt::format("{}", id.value);
        const auto tree = sys::open_dir(root_fd_.get(), fmt::format("{}/{}", driver_->name(), id.value).c_str());
        if (!tree) continue; // its data lies elsewhere
        const auto walked =
            drivers::walk_tree(tree->get(), [&](int, const char *, const struct stat &, std::string_view) -> Status {
                ++holder.inodes;
                if (holder.inodes % 256 == 0 && std::chrono::steady_clock::now() > end)
                    return fail(Errc::DeadlineExceeded, "");
                return {};
            });
        complete = complete && walked.has_value();
        holders.push_back(std::move(holder));
    }
    std::ranges::stable_sort(holders, std::greater(), &Holder::inodes);
    if (holders.size() > most_holders) holders.resize(most_holders);
    std::vector<std::string> texts;
    for (const auto &holder : holders)
        texts.push_back(
            fmt::format("{} ({}{})", printable(holder.name), complete ? "" : "at least ", format_count(holder.inodes)));
    return std::unexpected(Error(
        Errc::ResourceExhausted, ENOSPC,
        fmt::format(
            "inodes: {} of {} free on the file system of {} ({}); top holders among the containers: {}. `shale "
            "container rm`, `shale image rm` and `shale gc` still work; ext4 gets more when it is grown (`shale doctor "
            "--check inodes-low`)",
            format_count(status.f_ffree), format_count(status.f_files), options_.root, sys::file_system_name(status),
            texts.empty() ? "none" : fmt::format("{}", fmt::join(texts, ", ")))));
}

} // namespace shale::store
