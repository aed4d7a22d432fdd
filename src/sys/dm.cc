// SPDX-License-Identifier: Apache-2.0
#include "sys/dm.h"

#include <fcntl.h>
#include <libdevmapper.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <mutex>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

using detail::invoke;

constexpr const char *no_dm = "this kernel has no device-mapper (/dev/mapper/control); load it (modprobe "
                              "dm_thin_pool), or use a kernel that has it";

/// What the library said last, under the lock of Session.
std::string &last_words() {
    static std::string text;
    return text;
}

void take_words(int level, const char * /*file*/, int /*line*/, int /*error*/, const char *format, ...) {
    if ((level & 0x7) > 3) return; // libdevmapper: 3 = error, 4 = warning, ...
    std::array<char, 512> line;    // NOLINT: filled below
    va_list arguments;
    va_start(arguments, format);
    (void)std::vsnprintf(line.data(), line.size(), format, arguments);
    va_end(arguments);
    last_words() = line.data();
}

/// One task at a time. The library's descriptor of /dev/mapper/control would be inherited by programs that are run: it
/// is closed again after each.
class Session {
public:
    Session() : lock_(mutex()) {
        static const bool once = [] {
            dm_log_with_errno_init(take_words);
            dm_udev_set_sync_support(0);
            dm_udev_set_checking(0);
            return true;
        }();
        (void)once;
        last_words().clear();
    }
    ~Session() { dm_lib_release(); } // does the pending work on nodes, too
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

private:
    static std::mutex &mutex() {
        static std::mutex one;
        return one;
    }
    std::lock_guard<std::mutex> lock_;
};

struct Destroy {
    void operator()(dm_task *task) const noexcept { dm_task_destroy(task); }
};
using Task = std::unique_ptr<dm_task, Destroy>;

Task make_task(int type, const std::string &name) {
    Task task(dm_task_create(type));
    if (task && !name.empty() && dm_task_set_name(task.get(), name.c_str()) == 0) task.reset();
    return task;
}

/// The node's own rules (its name) are udev's business; nobody is to look for file systems in it.
bool quiet(dm_task *task) {
    uint32_t cookie = 0;
    return dm_task_set_cookie(task, &cookie,
                              DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG | DM_UDEV_DISABLE_DISK_RULES_FLAG |
                                  DM_UDEV_DISABLE_OTHER_RULES_FLAG) != 0;
}

/// Must be asked first: the library would make the directory and a node of its own.
bool has_control() {
    return ::access("/dev/mapper/control", F_OK) == 0;
}

std::string what(std::string_view verb, const std::string &name) {
    return name.empty() ? fmt::format("device-mapper: {}", verb) : fmt::format("device-mapper: {} \"{}\"", verb, name);
}

/// Runs the task through the seam. The error's number is the kernel's.
Status run(Op op, const Task &task, std::string_view verb, const std::string &name) {
    if (!task) return fail(Errc::ResourceExhausted, what(verb, name) + ": the library cannot make a task");
    int kernel_error = 0;
    const int done = invoke(op, -1, name.c_str(), [&] {
        if (dm_task_run(task.get()) != 0) return 0;
        kernel_error = dm_task_get_errno(task.get());
        errno = kernel_error != 0 ? kernel_error : EIO;
        return -1;
    });
    if (done == 0) return {};
    const int error = errno;
    std::string text = what(verb, name);
    if (!last_words().empty() && kernel_error == 0) text += fmt::format(" ({})", last_words());
    return fail_errno(error, std::move(text));
}

bool add_targets(dm_task *task, const std::vector<DmTarget> &table) {
    for (const auto &target : table)
        if (dm_task_add_target(task, target.start_sectors, target.length_sectors, target.type.c_str(),
                               target.parameters.c_str()) == 0)
            return false;
    return true;
}

Result<std::vector<DmTarget>> targets(int type, std::string_view verb, const std::string &name, bool flush) {
    const Session session;
    const Task task = make_task(type, name);
    if (task && !flush) dm_task_no_flush(task.get());
    TRY(run(Op::stat, task, verb, name));
    struct dm_info info{};
    if (dm_task_get_info(task.get(), &info) == 0 || info.exists == 0) return fail_errno(ENXIO, what(verb, name));
    std::vector<DmTarget> out;
    void *next = nullptr;
    do {
        DmTarget one;
        char *target_type = nullptr;
        char *parameters = nullptr;
        next = dm_get_next_target(task.get(), next, &one.start_sectors, &one.length_sectors, &target_type, &parameters);
        if (target_type == nullptr) break; // no table
        one.type = target_type;
        one.parameters = parameters == nullptr ? "" : parameters;
        out.push_back(std::move(one));
    } while (next != nullptr);
    return out;
}

Status simple(int type, std::string_view verb, const std::string &name) {
    const Session session;
    const Task task = make_task(type, name);
    if (task && !quiet(task.get())) return fail(Errc::Internal, what(verb, name));
    return run(Op::ioctl, task, verb, name);
}

} // namespace

Result<std::string> dm_version() {
    if (!has_control()) return fail(Errc::FailedPrecondition, no_dm);
    const Session session;
    const Task task = make_task(DM_DEVICE_VERSION, {});
    if (const auto done = run(Op::stat, task, "ask for its version", {}); !done)
        return fail(Errc::FailedPrecondition, fmt::format("{}: {}", no_dm, done.error().text()));
    std::array<char, 64> version{};
    if (dm_task_get_driver_version(task.get(), version.data(), version.size()) == 0)
        return fail(Errc::Internal, "device-mapper says no version");
    return std::string(version.data());
}

Result<std::string> dm_target_version(std::string_view type) {
    if (!has_control()) return fail(Errc::FailedPrecondition, no_dm);
    const Session session;
    const Task task = make_task(DM_DEVICE_GET_TARGET_VERSION, std::string(type));
    if (const auto done = run(Op::stat, task, "look for target", std::string(type)); !done)
        return fail(Errc::FailedPrecondition,
                    fmt::format("this kernel's device-mapper has no target \"{}\" (modprobe dm_{}): {}", type, type,
                                done.error().text()));
    const dm_versions *found = dm_task_get_versions(task.get());
    return fmt::format("{}.{}.{}", found->version[0], found->version[1], found->version[2]);
}

Result<std::optional<DmInfo>> dm_find(const std::string &name) {
    const Session session;
    const Task task = make_task(DM_DEVICE_INFO, name);
    TRY(run(Op::stat, task, "look at", name));
    struct dm_info info{};
    if (dm_task_get_info(task.get(), &info) == 0) return fail(Errc::Internal, what("look at", name));
    if (info.exists == 0) return std::nullopt;
    DmInfo out;
    out.major = info.major;
    out.minor = info.minor;
    out.openers = static_cast<unsigned>(info.open_count);
    out.suspended = info.suspended != 0;
    out.has_table = info.live_table != 0;
    out.goes_when_unused = info.deferred_remove != 0;
    if (const char *uuid = dm_task_get_uuid(task.get())) out.uuid = uuid;
    return out;
}

Result<std::vector<std::string>> dm_names() {
    const Session session;
    const Task task = make_task(DM_DEVICE_LIST, {});
    TRY(run(Op::stat, task, "list devices", {}));
    std::vector<std::string> out;
    const struct dm_names *entry = dm_task_get_names(task.get());
    if (entry == nullptr || entry->dev == 0) return out;
    for (;;) {
        out.emplace_back(entry->name);
        if (entry->next == 0) return out;
        entry = reinterpret_cast<const struct dm_names *>(reinterpret_cast<const char *>(entry) + entry->next);
    }
}

Result<std::vector<DmTarget>> dm_table(const std::string &name) {
    return targets(DM_DEVICE_TABLE, "read the table of", name, false);
}

Result<std::vector<DmTarget>> dm_status(const std::string &name, DmStatus how) {
    return targets(DM_DEVICE_STATUS, "read the status of", name, how == DmStatus::commit);
}

Status dm_create(const std::string &name, const std::string &uuid, const std::vector<DmTarget> &table) {
    {
        const Session session;
        const Task task = make_task(DM_DEVICE_CREATE, name);
        if (task && (dm_task_set_uuid(task.get(), uuid.c_str()) == 0 || !quiet(task.get())))
            return fail(Errc::Internal, what("make", name));
        TRY(run(Op::ioctl, task, "make", name));
    }
    // Not all in one task of the library's: that one keeps the error's number to itself.
    Status done = dm_reload(name, table);
    if (done) done = dm_resume(name);
    if (!done) (void)simple(DM_DEVICE_REMOVE, "remove", name);
    return done;
}

Status dm_reload(const std::string &name, const std::vector<DmTarget> &table) {
    const Session session;
    const Task task = make_task(DM_DEVICE_RELOAD, name);
    if (task && !add_targets(task.get(), table)) return fail(Errc::Internal, what("load the table of", name));
    return run(Op::ioctl, task, "load the table of", name);
}

Status dm_suspend(const std::string &name, DmSuspend file_system) {
    const Session session;
    const Task task = make_task(DM_DEVICE_SUSPEND, name);
    if (task && (!quiet(task.get()) || (file_system == DmSuspend::as_it_is && dm_task_skip_lockfs(task.get()) == 0)))
        return fail(Errc::Internal, what("suspend", name));
    return run(Op::ioctl, task, "suspend", name);
}

Status dm_resume(const std::string &name) {
    return simple(DM_DEVICE_RESUME, "resume", name);
}

Status dm_remove(const std::string &name, DmRemove how) {
    const Session session;
    const Task task = make_task(DM_DEVICE_REMOVE, name);
    if (task && (!quiet(task.get()) || (how == DmRemove::when_unused && dm_task_deferred_remove(task.get()) == 0)))
        return fail(Errc::Internal, what("remove", name));
    return run(Op::ioctl, task, "remove", name);
}

Status dm_keep(const std::string &name) {
    return dm_message(name, "@cancel_deferred_remove");
}

Status dm_message(const std::string &name, const std::string &message) {
    const Session session;
    const Task task = make_task(DM_DEVICE_TARGET_MSG, name);
    if (task && (dm_task_set_sector(task.get(), 0) == 0 || dm_task_set_message(task.get(), message.c_str()) == 0))
        return fail(Errc::Internal, what("send a message to", name));
    return in_context(run(Op::ioctl, task, "send a message to", name), [&] { return message; });
}

Result<std::string> dm_node(const std::string &name) {
    const auto info = TRY(dm_find(name));
    if (!info) return fail(Errc::NotFound, fmt::format("there is no device \"{}\"", name));
    const std::string path = "/dev/mapper/" + name;
    struct stat status{};
    const auto is_it = [&] {
        return ::stat(path.c_str(), &status) == 0 && S_ISBLK(status.st_mode) && major(status.st_rdev) == info->major &&
               minor(status.st_rdev) == info->minor;
    };
    if (is_it()) return path;
    // No udev, and the library made none, or one is left from a device of that name before.
    (void)unlink_at(AT_FDCWD, path.c_str());
    const auto made = make_node(AT_FDCWD, path.c_str(), S_IFBLK | 0600, makedev(info->major, info->minor));
    if (is_it()) return path; // also when udev was faster
    TRY(Status(made));
    return fail(Errc::Internal, fmt::format("{} is not the device {}:{}", path, info->major, info->minor));
}

} // namespace shale::sys
