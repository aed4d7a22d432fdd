// SPDX-License-Identifier: Apache-2.0
#include "cli/runtime.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "cli/json.h"
#include "sys/fs.h"

namespace shale::cli {
namespace {

constexpr size_t max_user_file = size_t{1} << 20U;

/// Text of a file inside the root; a missing one is empty.
Result<std::string> read_in_root(int root, const char *path) {
    // O_NONBLOCK: a FIFO by that name must not hold us.
    auto fd = sys::open_at2(root, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY,
                            RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    if (!fd) {
        if (fd.error().code() == Errc::NotFound) return std::string();
        return std::unexpected(std::move(fd).error().add(fmt::format("open /{} of the container", path)));
    }
    struct stat found{};
    if (fstat(fd->get(), &found) != 0) return fail_errno(errno, "fstat");
    if (!S_ISREG(found.st_mode))
        return fail(Errc::FailedPrecondition,
                    fmt::format("/{} of the container is not a regular file; user names cannot be looked up", path));
    std::string text;
    std::array<std::byte, 16'384> buffer{};
    while (true) {
        const size_t got = TRY(sys::read_some(fd->get(), buffer));
        if (got == 0) return text;
        if (text.size() + got > max_user_file)
            return fail(Errc::ResourceExhausted,
                        fmt::format("/{} of the container has more than {} bytes", path, max_user_file));
        text.append(reinterpret_cast<const char *>(buffer.data()), got);
    }
}

std::optional<uint32_t> number(std::string_view text) {
    uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc{} || end != text.data() + text.size() || value > 2'147'483'647)
        return std::nullopt;
    return value;
}

/// Calls `row` with the fields of each line "a:b:c".
template <class F> void each_row(std::string_view text, F &&row) {
    while (!text.empty()) {
        std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(text.size(), line.size() + 1));
        std::vector<std::string_view> fields;
        while (true) {
            const size_t colon = line.find(':');
            fields.push_back(line.substr(0, colon));
            if (colon == std::string_view::npos) break;
            line.remove_prefix(colon + 1);
        }
        row(fields);
    }
}

bool names_member(std::string_view list, std::string_view name) {
    while (!list.empty()) {
        const std::string_view one = list.substr(0, list.find(','));
        if (one == name) return true;
        list.remove_prefix(std::min(list.size(), one.size() + 1));
    }
    return false;
}

Status apply_group(std::string_view wanted, std::string_view groups, ProcessUser &out) {
    if (const auto gid = number(wanted)) {
        out.gid = *gid;
        return {};
    }
    bool found = false;
    each_row(groups, [&](const auto &fields) {
        if (found || fields.size() < 3 || fields[0] != wanted) return;
        if (const auto gid = number(fields[2])) {
            out.gid = *gid;
            found = true;
        }
    });
    if (!found) return fail(Errc::NotFound, fmt::format("group \"{}\" is not in the container's /etc/group", wanted));
    return {};
}

} // namespace

Result<ProcessUser> find_user(int root, std::string_view user) {
    ProcessUser out;
    const size_t colon = user.find(':');
    std::string_view name = user.substr(0, colon);
    if (name.empty()) name = "0";
    const auto uid = number(name);
    const std::string users = TRY(read_in_root(root, "etc/passwd"));
    const std::string groups = TRY(read_in_root(root, "etc/group"));
    std::string login;
    bool found = false;
    each_row(users, [&](const auto &fields) {
        if (found || fields.size() < 6) return;
        const auto row_uid = number(fields[2]);
        const auto row_gid = number(fields[3]);
        if (!row_uid || !row_gid || !(uid ? *row_uid == *uid : fields[0] == name)) return;
        out.uid = *row_uid;
        out.gid = *row_gid;
        login = fields[0];
        if (!fields[5].empty()) out.home = fields[5];
        found = true;
    });
    if (!found && !uid)
        return fail(Errc::NotFound, fmt::format("user \"{}\" is not in the container's /etc/passwd", name));
    if (uid) out.uid = *uid;
    if (out.uid == 0 && !found) out.home = "/root";
    if (colon != std::string_view::npos) {
        TRY(apply_group(user.substr(colon + 1), groups, out));
    } else if (!login.empty()) {
        each_row(groups, [&](const auto &fields) {
            if (fields.size() < 4 || out.groups.size() >= 1000 || !names_member(fields[3], login)) return;
            if (const auto gid = number(fields[2])) out.groups.push_back(*gid);
        });
    }
    return out;
}

Result<RunSpec> run_spec(const oci::Config &config, const std::vector<std::string> &command) {
    RunSpec spec;
    if (command.empty()) {
        spec.args = config.entrypoint;
        spec.args.insert(spec.args.end(), config.cmd.begin(), config.cmd.end());
    } else {
        spec.args = command;
    }
    if (spec.args.empty())
        return fail(Errc::InvalidArgument, "the image names no command; give one behind the image's name");
    spec.env = config.env;
    auto has = [&](std::string_view name) {
        return std::ranges::any_of(spec.env, [&](const std::string &one) { return one.starts_with(name); });
    };
    if (!has("PATH=")) spec.env.emplace_back("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    const char *term = getenv("TERM");
    if (!has("TERM=")) spec.env.push_back(fmt::format("TERM={}", term != nullptr && *term != '\0' ? term : "dumb"));
    if (!config.working_dir.empty()) spec.cwd = config.working_dir;
    if (spec.cwd[0] != '/') spec.cwd.insert(0, "/");
    return spec;
}

std::string bundle_config(const RunSpec &spec) {
    // The set that Docker gives an unprivileged container.
    static const std::vector<std::string> capabilities{
        "CAP_AUDIT_WRITE", "CAP_CHOWN",   "CAP_DAC_OVERRIDE",     "CAP_FOWNER",    "CAP_FSETID",
        "CAP_KILL",        "CAP_MKNOD",   "CAP_NET_BIND_SERVICE", "CAP_NET_RAW",   "CAP_SETFCAP",
        "CAP_SETGID",      "CAP_SETPCAP", "CAP_SETUID",           "CAP_SYS_CHROOT"};
    Json json;
    json.object().field("ociVersion", "1.0.2");
    json.key("process").object().field("terminal", spec.terminal);
    json.key("user").object().field("uid", spec.user.uid).field("gid", spec.user.gid).field("umask", 022);
    json.key("additionalGids").array();
    for (const uint32_t gid : spec.user.groups)
        json.value(gid);
    json.end().end();
    json.key("args").strings(spec.args);
    json.key("env").strings(spec.env);
    json.field("cwd", spec.cwd).field("noNewPrivileges", true);
    json.key("capabilities").object();
    for (const char *set : {"bounding", "effective", "permitted"})
        json.key(set).strings(capabilities);
    json.end().end();
    json.key("root").object().field("path", spec.root).field("readonly", false).end();
    json.field("hostname", spec.hostname);

    json.key("mounts").array();
    auto add = [&](const char *target, const char *type, const char *source, const std::vector<std::string> &options) {
        json.object().field("destination", target).field("type", type).field("source", source);
        json.key("options").strings(options).end();
    };
    add("/proc", "proc", "proc", {"nosuid", "noexec", "nodev"});
    add("/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"});
    // gid 5 (tty) is not mapped when only the caller's own ids are.
    std::vector<std::string> pts{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"};
    if (!spec.in_user_namespace) pts.emplace_back("gid=5");
    add("/dev/pts", "devpts", "devpts", pts);
    add("/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"});
    add("/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"});
    // A sysfs can be mounted only by the owner of its network name space, which stays the host's.
    if (spec.in_user_namespace)
        add("/sys", "none", "/sys", {"rbind", "nosuid", "noexec", "nodev", "ro"});
    else
        add("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"});
    json.end();

    json.key("linux").object();
    json.key("namespaces").array();
    for (const char *type : {"pid", "mount", "ipc", "uts"})
        json.object().field("type", type).end();
    json.end();
    json.key("maskedPaths")
        .strings({"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                  "/proc/sched_debug", "/proc/scsi", "/sys/firmware"});
    json.key("readonlyPaths").strings({"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"});
    json.end();
    json.end();
    return json.text();
}

namespace {

constexpr const char *unified_cgroups = "/sys/fs/cgroup/unified";

bool cgroups_are_hybrid() {
    struct statfs top{}, unified{};
    return statfs("/sys/fs/cgroup", &top) == 0 && top.f_type == TMPFS_MAGIC && statfs(unified_cgroups, &unified) == 0 &&
           unified.f_type == CGROUP2_SUPER_MAGIC;
}

/// crun (seen with 1.8) refuses cgroup v1 beside a v2 that has controllers, also when it is told to leave cgroups
/// alone. With an empty tmpfs over the v2 mount, in a mount namespace of its own, it sees v1 only. In a fork's child:
/// calls only. Where this is not allowed crun says what it misses.
void hide_unified_cgroups() {
    if (unshare(CLONE_NEWNS) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) return;
    (void)mount("none", unified_cgroups, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k");
}

std::string in_path(const std::string &name) {
    for (const char *dir : {"/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin"}) {
        std::string path = fmt::format("{}/{}", dir, name);
        if (access(path.c_str(), X_OK) == 0) return path;
    }
    return {};
}

// The one child that signals go to; set before the handlers are installed.
std::atomic<pid_t> signal_target{0};

void pass_on(int number, siginfo_t *info, void *) {
    // What the terminal sends (si_code > 0) has reached the child's process group already.
    const pid_t target = signal_target.load();
    if (target > 0 && info->si_code <= 0) kill(target, number);
}

/// While it lives, signals to this process go to the child.
class SignalRelay {
public:
    explicit SignalRelay(pid_t target) {
        signal_target = target;
        struct sigaction action{};
        action.sa_sigaction = pass_on;
        action.sa_flags = SA_SIGINFO | SA_RESTART;
        for (size_t i = 0; i < signals.size(); ++i)
            sigaction(signals[i], &action, &before_[i]);
    }
    ~SignalRelay() {
        for (size_t i = 0; i < signals.size(); ++i)
            sigaction(signals[i], &before_[i], nullptr);
        signal_target = 0;
    }
    SignalRelay(const SignalRelay &) = delete;
    SignalRelay &operator=(const SignalRelay &) = delete;

    static constexpr std::array<int, 6> signals{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

private:
    std::array<struct sigaction, signals.size()> before_{};
};

} // namespace

Result<std::string> find_runtime(const std::string &wanted) {
    if (!wanted.empty()) {
        std::string path = wanted.find('/') == std::string::npos ? in_path(wanted) : wanted;
        if (path.empty() || access(path.c_str(), X_OK) != 0)
            return fail(Errc::NotFound, fmt::format("OCI runtime {} is not there or not executable", wanted));
        return path;
    }
    for (const char *name : {"crun", "runc"})
        if (std::string path = in_path(name); !path.empty()) return path;
    return fail(Errc::NotFound, "no OCI runtime is installed; install crun or runc, or name one with --runtime");
}

Result<int> run_child(const std::string &program, const std::vector<std::string> &argv, mode_t mask,
                      void (*prepare)()) {
    std::vector<std::string> words = argv;
    std::vector<char *> pointers;
    pointers.reserve(words.size() + 1);
    for (std::string &word : words)
        pointers.push_back(word.data());
    pointers.push_back(nullptr);
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "pipe2");
    UniqueFd in(ends[0]);
    UniqueFd out(ends[1]);
    const pid_t pid = fork();
    if (pid < 0) return fail_errno(errno, "fork");
    if (pid == 0) {
        umask(mask);
        signal(SIGPIPE, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        if (prepare != nullptr) prepare();
        execvp(program.c_str(), pointers.data());
        const int error = errno;
        (void)!write(out.get(), &error, sizeof(error)); // the pipe is closed by a successful exec
        _exit(127);
    }
    const SignalRelay relay(pid);
    out.reset();
    int exec_error = 0;
    ssize_t got = 0;
    do
        got = read(in.get(), &exec_error, sizeof(exec_error));
    while (got < 0 && errno == EINTR);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return fail_errno(errno, "waitpid");
    if (got == sizeof(exec_error)) return fail_errno(exec_error, "execute " + program);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

Result<int> run_bundle(const std::string &runtime, const std::string &state_dir, const std::string &bundle,
                       const std::string &id) {
    std::vector<std::string> argv{runtime, "--root", state_dir};
    const bool crun = runtime.ends_with("crun");
    if (crun) argv.emplace_back("--cgroup-manager=disabled");
    for (const std::string &word : {std::string("run"), std::string("--bundle"), bundle, id})
        argv.push_back(word);
    return run_child(runtime, argv, 022, crun && cgroups_are_hybrid() ? hide_unified_cgroups : nullptr);
}

} // namespace shale::cli
