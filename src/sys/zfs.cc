// SPDX-License-Identifier: Apache-2.0
#include "sys/zfs.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <mutex>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/fs_internal.h"
#include "sys/mount.h"
#include "sys/run.h"
#include "sys/zfs_library.h"

namespace shale::sys {
namespace {

using detail::invoke;

constexpr unsigned long zfs_magic = 0x2fc12fc1; // ZFS_SUPER_MAGIC of OpenZFS's zfs_vfsops.h
constexpr std::chrono::minutes deadline{5};     // a busy pool makes a command wait for its transaction groups

class List {
public:
    explicit List(const ZfsLibrary &library) : library_(library) {
        if (library.list_alloc(&list_, ZfsLibrary::unique_names, 0) != 0) list_ = nullptr;
    }
    ~List() { library_.list_free(list_); }
    List(const List &) = delete;
    List &operator=(const List &) = delete;
    [[nodiscard]] ZfsLibrary::List *get() const noexcept { return list_; }
    List &name(const std::string &text) {
        if (list_ != nullptr) (void)library_.add_boolean(list_, text.c_str());
        return *this;
    }

private:
    const ZfsLibrary &library_;
    ZfsLibrary::List *list_ = nullptr;
};

/// A call of the library through the seam.
template <class F> Status ask(const char *verb, const std::string &name, F &&call) {
    const int done = invoke(Op::ioctl, -1, name.c_str(), [&] {
        errno = call();
        return errno == 0 ? 0 : -1;
    });
    if (done == 0) return {};
    const int error = errno;
    return fail_errno(error, fmt::format("{} zfs dataset \"{}\"", verb, name));
}

const std::string &library_missing(std::shared_ptr<const ZfsLibrary> &out) {
    static std::mutex mutex;
    static std::shared_ptr<const ZfsLibrary> library;
    static std::string why;
    const std::lock_guard guard(mutex);
    if (!library) library = ZfsLibrary::load(why);
    out = library;
    return why;
}

} // namespace

bool is_zfs(int fd) {
    struct statfs info{};
    return ::fstatfs(fd, &info) == 0 && static_cast<unsigned long>(info.f_type) == zfs_magic;
}

Result<std::string> zfs_dataset_of(int fd) {
    const auto status = TRY(statfs_fd(fd));
    if (static_cast<unsigned long>(status.f_type) != zfs_magic)
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} is on {}, not on ZFS", TRY(path_of_fd(fd)), file_system_name(status)));
    const auto file = TRY(stat_at(fd, ""));
    const std::string device = fmt::format("{}:{}", major(file.st_dev), minor(file.st_dev));
    for (const auto &entry : TRY(mount_table()))
        if (entry.type == "zfs" && entry.device == device && !entry.source.contains('@')) return entry.source;
    return fail(Errc::FailedPrecondition,
                fmt::format("no mount shows the dataset of {} (device {})", TRY(path_of_fd(fd)), device));
}

Result<Zfs> Zfs::open(Use use) {
    Zfs out;
    if (!TRY(stat_if_exists(AT_FDCWD, "/sys/module/zfs")) || !TRY(stat_if_exists(AT_FDCWD, "/dev/zfs")))
        return fail(Errc::FailedPrecondition,
                    "this kernel has no ZFS (no /dev/zfs); install OpenZFS (Debian: zfs-dkms) and `modprobe zfs`");
    if (use == Use::library) {
        out.why_ = library_missing(out.library_);
    } else {
        out.why_ = "asked for";
    }
    out.tool_ = TRY(find_tool("zfs", "zfsutils-linux"));
    return out;
}

Result<std::string> Zfs::command(const std::vector<std::string> &arguments) const {
    std::vector<std::string> all{tool_};
    all.insert(all.end(), arguments.begin(), arguments.end());
    auto done = TRY(run_tool(all, deadline));
    if (done.exit_status == 0) return std::move(done.output);
    std::string words = done.errors;
    std::ranges::replace(words, '\n', ' ');
    const int error = zfs_errno_of(words);
    return std::unexpected(Error(errc_from_errno(error), error, fmt::format("zfs {}: {}", arguments.front(), words)));
}

Status Zfs::create(const std::string &name) const {
    if (library_)
        return ask("create", name,
                   [&] { return library_->create(name.c_str(), ZfsLibrary::file_system, nullptr, nullptr, 0); });
    TRY(command({"create", "-u", name}));
    return {};
}

Status Zfs::clone(const std::string &origin, const std::string &name) const {
    if (library_) return ask("clone", name, [&] { return library_->clone(name.c_str(), origin.c_str(), nullptr); });
    TRY(command({"clone", origin, name}));
    return {};
}

Status Zfs::snapshot(const std::string &name) const {
    if (library_) {
        const auto &lib = *library_;
        return ask("snapshot", name, [&] {
            ZfsLibrary::List *errors = nullptr;
            const int error = lib.snapshot(List(lib).name(name).get(), nullptr, &errors);
            lib.list_free(errors);
            return error;
        });
    }
    TRY(command({"snapshot", name}));
    return {};
}

Status Zfs::destroy(const std::string &name) const {
    if (library_) return ask("destroy", name, [&] { return library_->destroy(name.c_str()); });
    TRY(command({"destroy", name}));
    return {};
}

Status Zfs::destroy_snapshot(const std::string &name, bool deferred) const {
    if (library_) {
        const auto &lib = *library_;
        // The library says "done" for a snapshot that is not there (lzc_destroy_snaps).
        return ask("destroy", name, [&] {
            ZfsLibrary::List *errors = nullptr;
            const int error = lib.destroy_snapshots(List(lib).name(name).get(), deferred ? 1 : 0, &errors);
            lib.list_free(errors);
            return error;
        });
    }
    std::vector<std::string> arguments{"destroy"};
    if (deferred) arguments.emplace_back("-d");
    arguments.push_back(name);
    TRY(command(arguments));
    return {};
}

Result<bool> Zfs::exists(const std::string &name) const {
    if (library_) {
        if (const int injected = enter(Op::stat, -1, name.c_str()); injected != 0 && injected != EINTR)
            return fail_errno(injected, fmt::format("look for zfs dataset \"{}\"", name));
        return library_->exists(name.c_str()) != 0;
    }
    const auto found = command({"list", "-H", "-t", "all", "-o", "name", name});
    if (!found && found.error().sys_errno() == ENOENT) return false;
    TRY(Result<std::string>(found));
    return true;
}

Status Zfs::sync_pool(std::string_view pool) const {
    const std::string name(pool);
    if (library_) {
        const auto &lib = *library_;
        return ask("sync pool of", name, [&] {
            ZfsLibrary::List *out = nullptr;
            const List options(lib);
            (void)lib.add_boolean_value(options.get(), "force", 0); // OpenZFS 2.1 demands that it is said
            const int error = lib.sync(name.c_str(), options.get(), &out);
            lib.list_free(out);
            return error;
        });
    }
    TRY(run_tool_or_fail({TRY(find_tool("zpool", "zfsutils-linux")), "sync", name}, deadline));
    return {};
}

Result<std::vector<ZfsDataset>> Zfs::list(const std::string &name) const {
    const std::string text =
        TRY(command({"list", "-H", "-p", "-r", "-d", "1", "-t", "filesystem", "-o", zfs_list_columns, name}));
    if (!text.ends_with('\n'))
        return fail(Errc::ResourceExhausted, fmt::format("the list of datasets below {} is too long", name));
    return parse_zfs_list(text);
}

Result<ZfsDataset> Zfs::get(const std::string &name) const {
    auto rows = TRY(
        parse_zfs_list(TRY(command({"list", "-H", "-p", "-t", "filesystem,snapshot", "-o", zfs_list_columns, name}))));
    if (rows.size() != 1) return fail(Errc::Internal, fmt::format("zfs list {} shows {} rows", name, rows.size()));
    return std::move(rows.front());
}

Result<std::vector<std::string>> Zfs::snapshots(const std::string &name) const {
    const std::string text = TRY(command({"list", "-H", "-r", "-d", "1", "-t", "snapshot", "-o", "name", name}));
    std::vector<std::string> out;
    for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.size(), text.find('\n', at));
        out.push_back(text.substr(at, end - at));
        at = end + 1;
    }
    return out;
}

Result<std::string> Zfs::property(const std::string &name, const std::string &key) const {
    std::string text = TRY(command({"get", "-H", "-p", "-o", "value", key, name}));
    while (text.ends_with('\n'))
        text.pop_back();
    return text;
}

Status Zfs::create_with(const std::string &name, const ZfsProperties &properties) const {
    std::vector<std::string> arguments{"create", "-u"};
    for (const auto &[key, value] : properties) {
        arguments.emplace_back("-o");
        arguments.push_back(key + "=" + value);
    }
    arguments.push_back(name);
    TRY(command(arguments));
    return {};
}

Status Zfs::set(const std::string &name, const ZfsProperties &properties) const {
    std::vector<std::string> arguments{"set"};
    for (const auto &[key, value] : properties)
        arguments.push_back(key + "=" + value);
    arguments.push_back(name);
    TRY(command(arguments));
    return {};
}

} // namespace shale::sys
