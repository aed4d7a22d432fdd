// SPDX-License-Identifier: Apache-2.0
#include "cli/watch_source.h"

#include <fcntl.h>

#include <algorithm>
#include <ranges>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/paths.h"
#include "probe/processes.h"
#include "probe/text.h"
#include "sys/fs.h"
#include "sys/pidfd.h"

namespace shale::cli {
namespace {

constexpr std::string_view deleted_mark =
    "//deleted"; ///< end of the root of a mount whose file has no name (fs/dcache.c)
constexpr size_t table_limit = size_t{64} << 20U, small_limit = size_t{64} << 10U;
constexpr std::string_view data_link = "..data"; ///< kubernetes, pkg/volume/util/atomic_writer.go

std::string in_proc(pid_t pid, std::string_view name) {
    return fmt::format("/proc/{}/{}", pid, name);
}

/// What is left of `path` below `directory`: "" or "/rest". nullopt: it is not below.
std::optional<std::string_view> rest_of(std::string_view path, std::string_view directory) {
    if (directory == "/") return path == "/" ? "" : path;
    if (!path.starts_with(directory)) return std::nullopt;
    path.remove_prefix(directory.size());
    if (!path.empty() && !path.starts_with('/')) return std::nullopt;
    return path;
}

std::optional<uint64_t> mount_id_of(int fd) {
    const auto text = sys::read_file(AT_FDCWD, fmt::format("/proc/self/fdinfo/{}", fd).c_str(), small_limit);
    return text ? probe::mount_id_in(*text) : std::nullopt;
}

/// "/a/..2024/b" -> "/a/..data/b" where "/a/..data" leads to "..2024", or to another one by now and ..2024 is gone.
std::string by_data_link(const std::string &path, bool is_replaced) {
    for (size_t at = path.find("/.."); at != std::string::npos; at = path.find("/..", at + 1)) {
        const size_t end = std::min(path.find('/', at + 1), path.size());
        const std::string name = path.substr(at + 1, end - at - 1);
        if (name == data_link) return path;
        const std::string link = fmt::format("{}/{}", path.substr(0, at), data_link);
        const auto target = sys::read_link(AT_FDCWD, link.c_str());
        if (target && (*target == name || is_replaced)) return link + path.substr(end);
    }
    return path;
}

/// The innermost number of a process, as /proc/PID/status has it: "NSpid:\t4711\t1".
bool is_first_of_namespace(pid_t pid) {
    const auto text = sys::read_file(AT_FDCWD, in_proc(pid, "status").c_str(), small_limit);
    if (!text) return false;
    const size_t at = text->find("\nNSpid:");
    if (at == std::string::npos) return false;
    const auto numbers = probe::words_of(text->substr(at + 7, text->find('\n', at + 1) - at - 7));
    return !numbers.empty() && numbers.back() == "1";
}

} // namespace

Result<ProcessView> open_process_view(pid_t pid) {
    ProcessView out;
    out.pid = pid;
    out.process = TRY(sys::open_process(pid));
    UniqueFd root = TRY(sys::open_at2(AT_FDCWD, in_proc(pid, "root").c_str(), O_PATH | O_DIRECTORY, 0));
    out.root = std::make_shared<const UniqueFd>(std::move(root));
    out.mounts =
        TRY(sys::parse_mountinfo(TRY(sys::read_file(AT_FDCWD, in_proc(pid, "mountinfo").c_str(), table_limit))));
    // What was read is of this process only if it had its number all the time.
    if (sys::has_ended(out.process.get())) return fail(Errc::NotFound, fmt::format("process {} has ended", pid));
    return out;
}

Result<pid_t> find_container_process(const std::string &mounted_at) {
    const auto root = TRY(sys::open_at(AT_FDCWD, mounted_at.c_str(), O_PATH | O_DIRECTORY));
    const auto wanted = TRY(sys::stat_at(root.get(), ""));
    const auto proc = TRY(sys::open_dir(AT_FDCWD, "/proc"));
    std::vector<pid_t> found;
    for (const auto &entry : TRY(sys::list_dir(proc.get()))) {
        const auto pid = probe::to_number(entry.name);
        if (!pid) continue;
        const auto its = sys::open_at2(proc.get(), (entry.name + "/root").c_str(), O_PATH | O_DIRECTORY, 0);
        if (!its) continue; // ended, a thread of the kernel, another user's
        const auto status = sys::stat_at(its->get(), "");
        if (status && status->st_dev == wanted.st_dev && status->st_ino == wanted.st_ino)
            found.push_back(static_cast<pid_t>(*pid));
    }
    if (found.empty()) return fail(Errc::NotFound, fmt::format("no process has its root at {}", mounted_at));
    std::ranges::sort(found);
    const auto first = std::ranges::find_if(found, is_first_of_namespace);
    return first == found.end() ? found.front() : *first;
}

std::vector<SourceCandidate> source_candidates(const sys::MountEntry &mount, std::string_view path,
                                               const std::vector<sys::MountEntry> &ours) {
    std::vector<SourceCandidate> out;
    std::string_view root = mount.root;
    if (root.ends_with(deleted_mark)) root.remove_suffix(deleted_mark.size());
    const auto below = rest_of(path, mount.target);
    if (root == "/" || root.empty() || !below) return out;
    const std::string on_disk = std::string(root).append(*below);
    for (const auto &one : ours) {
        if (one.device != mount.device || one.id == mount.id) continue;
        const auto rest = rest_of(on_disk, one.root);
        // A mount of the very same directory or file stays with it, just as this one does.
        if (!rest || one.root == root) continue;
        out.push_back({one.id, (one.target == "/" ? "" : one.target) + std::string(*rest)});
    }
    return out;
}

Result<std::optional<BindSource>> find_bind_source(const ProcessView &process, const sys::WalkedPath &walked) {
    if (!walked.file) return std::nullopt;
    const auto id = mount_id_of(walked.file.get());
    const auto mount = std::ranges::find_if(process.mounts, [&](const auto &one) { return id && one.id == *id; });
    if (mount == process.mounts.end()) return std::nullopt;
    const auto seen = TRY(sys::stat_at(walked.file.get(), ""));
    const bool is_replaced = mount->root.ends_with(deleted_mark);
    const auto root = TRY(sys::open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY));
    const auto candidates =
        source_candidates(*mount, fmt::format("/{}", fmt::join(walked.names, "/")), TRY(sys::mount_table()));
    for (const auto &candidate : candidates) {
        auto there = sys::walk_path(root.get(), candidate.path);
        if (!there) continue;
        // What is not there (any more) has its directory at least; other mounts may hide either.
        const bool is_missing = !there->file;
        if (is_missing && (!is_replaced || there->steps.empty())) continue;
        const int shown = is_missing ? there->steps.back().directory->get() : there->file.get();
        if (mount_id_of(shown) != candidate.mount_id) continue;
        if (!is_replaced) {
            const auto status = sys::stat_at(shown, "");
            if (!status || status->st_dev != seen.st_dev || status->st_ino != seen.st_ino) continue;
        }
        return BindSource{by_data_link(candidate.path, is_replaced), is_replaced};
    }
    return std::nullopt;
}

} // namespace shale::cli
