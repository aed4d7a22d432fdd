// SPDX-License-Identifier: Apache-2.0
#include "cli/userns.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <optional>

#include "sys/fs.h"

namespace shale::cli {
namespace {

/// Set for children (`shale unshare shale ...`), so that they find the user's store and not root's.
constexpr const char *marker = "SHALE_USERNS";

/// True when /proc/self/uid_map is not the initial name space's "0 0 4294967295".
bool in_user_namespace() {
    const auto map = sys::read_file(AT_FDCWD, "/proc/self/uid_map", 65'536);
    return map && map->find("4294967295") == std::string::npos;
}

std::string find_tool(std::string_view name) {
    for (const char *dir : {"/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"}) {
        std::string path = fmt::format("{}/{}", dir, name);
        if (access(path.c_str(), X_OK) == 0) return path;
    }
    return {};
}

std::optional<IdRange> sub_range(const char *file, std::string_view name, unsigned id) {
    const auto text = sys::read_file(AT_FDCWD, file, size_t{1} << 20U);
    if (!text) return std::nullopt;
    const IdRange range = find_sub_range(*text, name, id);
    return range.count == 0 ? std::nullopt : std::optional(range);
}

struct Plan {
    uid_t uid = 0;
    gid_t gid = 0;
    std::optional<IdRange> uids, gids;
    std::string uid_tool, gid_tool;
    [[nodiscard]] bool with_tools() const { return uids && gids && !uid_tool.empty() && !gid_tool.empty(); }
};

Plan make_plan() {
    Plan plan;
    plan.uid = geteuid();
    plan.gid = getegid();
    std::string name;
    if (const passwd *entry = getpwuid(plan.uid)) name = entry->pw_name;
    plan.uids = sub_range("/etc/subuid", name, plan.uid);
    plan.gids = sub_range("/etc/subgid", name, plan.uid);
    plan.uid_tool = find_tool("newuidmap");
    plan.gid_tool = find_tool("newgidmap");
    return plan;
}

Status map_with_tools(const Plan &plan, pid_t pid) {
    auto arguments = [&](unsigned own, const IdRange &range) {
        return std::vector<std::string>{
            std::to_string(pid),        "0", std::to_string(own), "1", "1", std::to_string(range.start),
            std::to_string(range.count)};
    };
    TRY(run_tool(plan.uid_tool, arguments(plan.uid, *plan.uids), 10));
    return run_tool(plan.gid_tool, arguments(plan.gid, *plan.gids), 10);
}

Status write_proc(const char *path, const std::string &text) {
    UniqueFd fd(::open(path, O_WRONLY | O_CLOEXEC));
    if (!fd) return fail_errno(errno, fmt::format("open {}", path));
    if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
        return fail_errno(errno, fmt::format("write {}", path));
    return {};
}

Status map_single(const Plan &plan) {
    TRY(write_proc("/proc/self/setgroups", "deny"));
    TRY(write_proc("/proc/self/uid_map", fmt::format("0 {} 1", plan.uid)));
    return write_proc("/proc/self/gid_map", fmt::format("0 {} 1", plan.gid));
}

/// The helper stays outside and maps us once we are in: newuidmap wants a caller in the parent name space.
struct Helper {
    pid_t pid = -1;
    UniqueFd go;
};

Result<Helper> start_helper(const Plan &plan) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "pipe2");
    UniqueFd in(ends[0]);
    Helper helper{-1, UniqueFd(ends[1])};
    const pid_t target = getpid();
    helper.pid = fork();
    if (helper.pid < 0) return fail_errno(errno, "fork");
    if (helper.pid == 0) {
        helper.go.reset();
        char byte = 0;
        if (read(in.get(), &byte, 1) != 1) _exit(2); // the parent could not unshare, or died
        _exit(map_with_tools(plan, target) ? 0 : 1);
    }
    return helper;
}

Status finish_helper(Helper &helper, bool unshared) {
    if (unshared && write(helper.go.get(), "x", 1) != 1) return fail_errno(errno, "write to helper");
    helper.go.reset();
    int status = 0;
    while (waitpid(helper.pid, &status, 0) < 0)
        if (errno != EINTR) return fail_errno(errno, "waitpid");
    if (unshared && status != 0) return fail(Errc::PermissionDenied, "newuidmap or newgidmap refused");
    return {};
}

/// A bit of what the kernel's refusals usually mean.
std::string refusal(int error) {
    return fmt::format("a user namespace cannot be made ({}): only driver vfs works, with the caller's own ids "
                       "(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, "
                       "kernel.apparmor_restrict_unprivileged_userns)",
                       sys_error(error, "unshare").text());
}

} // namespace

IdRange find_sub_range(std::string_view text, std::string_view name, unsigned id) {
    const std::string number = std::to_string(id);
    while (!text.empty()) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(text.size(), line.size() + 1));
        const size_t first = line.find(':');
        const size_t second = line.find(':', first == std::string_view::npos ? first : first + 1);
        if (second == std::string_view::npos) continue;
        const std::string_view who = line.substr(0, first);
        if (who.empty() || (who != name && who != number)) continue;
        IdRange range;
        auto parse = [](std::string_view digits, unsigned &into) {
            const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), into);
            return error == std::errc{} && end == digits.data() + digits.size();
        };
        if (parse(line.substr(first + 1, second - first - 1), range.start) &&
            parse(line.substr(second + 1), range.count) && range.count > 0)
            return range;
    }
    return {};
}

Status run_tool(const std::string &path, const std::vector<std::string> &arguments, int deadline_seconds) {
    std::vector<std::string> words{path};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char *> argv;
    argv.reserve(words.size() + 1);
    for (std::string &word : words)
        argv.push_back(word.data());
    argv.push_back(nullptr);
    std::array<char *, 1> environment{nullptr}; // nothing of ours steers a setuid tool
    pid_t pid = -1;
    if (const int error = posix_spawn(&pid, path.c_str(), nullptr, nullptr, argv.data(), environment.data());
        error != 0)
        return fail_errno(error, "start " + path);
    int status = 0;
    for (int tenths = 0;; ++tenths) {
        const pid_t done = waitpid(pid, &status, WNOHANG);
        if (done == pid) break;
        if (done < 0 && errno != EINTR) return fail_errno(errno, "waitpid");
        if (tenths > deadline_seconds * 100) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return fail(Errc::DeadlineExceeded, fmt::format("{} did not end within {} s", path, deadline_seconds));
        }
        const timespec pause{0, 10'000'000};
        nanosleep(&pause, nullptr);
    }
    if (status != 0)
        return fail(Errc::PermissionDenied, fmt::format("{} failed (status {})", path, WEXITSTATUS(status)));
    return {};
}

Rootless enter_user_namespace() {
    Rootless state;
    if (geteuid() == 0) {
        state.active = getenv(marker) != nullptr && in_user_namespace();
        return state;
    }
    const Plan plan = make_plan();
    Helper helper;
    if (plan.with_tools()) {
        auto started = start_helper(plan);
        if (started) helper = std::move(*started);
    }
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
        state.unavailable = refusal(errno);
        if (helper.pid > 0) (void)finish_helper(helper, false);
        return state;
    }
    state.ids = 1;
    Status mapped;
    if (helper.pid > 0) {
        mapped = finish_helper(helper, true);
        if (mapped) state.ids = 1 + plan.uids->count;
    }
    // Nothing is mapped when the tools refused at their first step: then the caller's own ids still can be.
    if (state.ids == 1) mapped = map_single(plan);
    if (!mapped) {
        state.unavailable = fmt::format("ids cannot be mapped in the user namespace: {}", mapped.error().text());
        return state;
    }
    // setgroups is denied with the single mapping; the groups the caller has then stay, unmapped.
    if (state.ids > 1) (void)setgroups(0, nullptr);
    if (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0) {
        state.unavailable = sys_error(errno, "become root in the user namespace").text();
        return state;
    }
    // What the host mounts still arrives here; what is mounted here stays here.
    (void)mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr);
    setenv(marker, std::to_string(plan.uid).c_str(), 1);
    state.active = true;
    return state;
}

} // namespace shale::cli
