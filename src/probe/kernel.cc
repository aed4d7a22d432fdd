// SPDX-License-Identifier: Apache-2.0
#include "probe/kernel.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "probe/text.h"

namespace shale::probe {
namespace {

constexpr size_t text_limit = size_t{1} << 20U;    ///< of a file of /proc that is read here
constexpr size_t value_limit = size_t{64} << 10U;  ///< of one setting; sysfs itself ends at a page
constexpr size_t table_limit = size_t{256} << 20U; ///< of mountinfo; a host with 100,000 mounts has some 40 MiB
constexpr size_t settings_limit = 2000;            ///< of one module or directory; ZFS has some 300

/// nullopt: it is not there, or it could not be read and that is noted.
std::optional<std::string> text_of(const Host &host, const std::string &path, std::vector<Problem> &problems,
                                   size_t limit = text_limit) {
    auto text = host.read_if_there(path, limit);
    if (text) return std::move(*text);
    problems.push_back({path, text.error().text()});
    return std::nullopt;
}

/// As text_of(), for what every kernel has.
std::string needed_text(const Host &host, const std::string &path, std::vector<Problem> &problems,
                        size_t limit = text_limit) {
    auto text = host.read(path, limit);
    if (text) return std::move(*text);
    problems.push_back({path, text.error().text()});
    return {};
}

/// Files of `dir` in the host, each as `prefix`NAME. Those that nobody may read (write-only switches) are left out.
void read_settings(const Host &host, const std::string &dir, const std::string &prefix,
                   std::map<std::string, std::string> &out, std::vector<Problem> &problems) {
    const auto entries = host.list_if_there(dir, settings_limit);
    if (!entries) {
        problems.push_back({dir, entries.error().text()});
        return;
    }
    for (const auto &entry : *entries) {
        const std::string path = fmt::format("{}/{}", dir, entry.name);
        const auto status = host.stat(path);
        if (!status || !*status || !S_ISREG((*status)->st_mode) || ((*status)->st_mode & 0444U) == 0) continue;
        if (const auto text = text_of(host, path, problems, value_limit))
            out.emplace(prefix + entry.name, std::string(trimmed(*text)));
    }
}

/// "avg10=1.50 avg60=0.20 avg300=0.00 total=123" (kernel, Documentation/accounting/psi.rst).
void read_averages(std::string_view line, double &ten, double &sixty, double &three_hundred) {
    for (const auto word : words_of(line)) {
        std::string_view value = word;
        const std::string_view name = next_part(value, '=');
        double percent = 0;
        const auto [end, bad] = std::from_chars(value.data(), value.data() + value.size(), percent);
        if (bad != std::errc() || end != value.data() + value.size() || !std::isfinite(percent)) continue;
        if (name == "avg10") ten = percent;
        if (name == "avg60") sixty = percent;
        if (name == "avg300") three_hundred = percent;
    }
}

/// The next word of a kernel command line, blanks in double quotes kept; moves `rest` behind it.
std::string next_argument(std::string_view &rest) {
    std::string out;
    bool quoted = false;
    size_t at = 0;
    for (; at < rest.size(); ++at) {
        const char c = rest[at];
        if (c == '"')
            quoted = !quoted;
        else if (!quoted && (c == ' ' || c == '\t' || c == '\n'))
            break;
        else
            out += c;
    }
    rest.remove_prefix(at);
    return out;
}

/// The hierarchy has no controller, only a name: "rw,xattr,name=systemd" (cgroups(7)).
bool only_named(const sys::MountEntry &mount) {
    return fmt::format(",{}", mount.super_options).contains(",name=");
}

} // namespace

std::vector<std::string> parse_file_systems(std::string_view text) {
    std::vector<std::string> out;
    while (!text.empty()) {
        const auto words = words_of(next_part(text, '\n'));
        if (!words.empty() && words.back() != "nodev") out.emplace_back(words.back());
    }
    return out;
}

std::map<std::string, std::string> parse_command_line(std::string_view text) {
    std::map<std::string, std::string> out;
    for (;;) {
        text.remove_prefix(std::min(text.find_first_not_of(" \t\n"), text.size()));
        if (text.empty()) return out;
        const std::string word = next_argument(text);
        if (word == "--") return out;
        const size_t equals = word.find('=');
        if (equals == 0 || word.empty()) continue;
        out[word.substr(0, equals)] = equals == std::string::npos ? "" : word.substr(equals + 1);
    }
}

std::map<std::string, uint64_t> parse_vmstat(std::string_view text) {
    std::map<std::string, uint64_t> out;
    while (!text.empty()) {
        const auto words = words_of(next_part(text, '\n'));
        if (words.size() != 2) continue;
        if (const auto value = to_number(words[1])) out.emplace(words[0], *value);
    }
    return out;
}

std::map<std::string, uint64_t> parse_memory(std::string_view text) {
    std::map<std::string, uint64_t> out;
    while (!text.empty()) {
        std::string_view line = next_part(text, '\n');
        const std::string_view name = next_part(line, ':');
        const auto words = words_of(line);
        if (name.empty() || words.empty() || words.size() > 2 || (words.size() == 2 && words[1] != "kB")) continue;
        const auto value = to_number(words[0]);
        const uint64_t unit = words.size() == 2 ? 1024 : 1;
        if (value && *value <= ~uint64_t{0} / unit) out.emplace(name, *value * unit);
    }
    return out;
}

std::optional<Pressure> parse_pressure(std::string_view text) {
    Pressure out;
    bool some = false;
    while (!text.empty()) {
        std::string_view line = next_part(text, '\n');
        const std::string_view kind = next_part(line, ' ');
        if (kind == "some") read_averages(line, out.some_10s, out.some_60s, out.some_300s);
        if (kind == "full") read_averages(line, out.full_10s, out.full_60s, out.full_300s);
        some = some || kind == "some";
    }
    return some ? std::optional(out) : std::nullopt;
}

std::optional<uint64_t> parse_uptime(std::string_view text) {
    return to_number(next_part(text, '.'));
}

Cgroups cgroups_of(const std::vector<sys::MountEntry> &mounts, std::string_view table, std::string_view unified) {
    bool v2 = false;
    bool v1 = false;
    bool named = false;
    for (const auto &mount : mounts) {
        v2 = v2 || mount.type == "cgroup2";
        if (mount.type == "cgroup") (only_named(mount) ? named : v1) = true;
    }
    Cgroups out;
    if (v1 || (named && !v2))
        out.version = 1;
    else if (v2)
        out.version = 2;
    out.hybrid = out.version == 1 && v2;
    std::set<std::string, std::less<>> controllers;
    while (v1 && !table.empty()) { // "#subsys_name hierarchy num_cgroups enabled"; hierarchy 0: it is v2's or nobody's
        const auto words = words_of(next_part(table, '\n'));
        if (words.size() == 4 && !words[0].starts_with('#') && words[1] != "0" && words[3] == "1")
            controllers.emplace(words[0]);
    }
    if (v2) {
        for (const auto word : words_of(unified))
            controllers.emplace(word);
    }
    out.controllers.assign(controllers.begin(), controllers.end());
    return out;
}

std::map<std::string, std::string> read_module_parameters(const Host &host, std::vector<Problem> &problems) {
    constexpr std::array modules{"overlay", "btrfs", "zfs", "dm_thin_pool", "dm_mod", "erofs", "xfs", "ext4", "loop"};
    std::map<std::string, std::string> out;
    for (const std::string module : modules)
        read_settings(host, fmt::format("/sys/module/{}/parameters", module), module + ".", out, problems);
    return out;
}

std::map<std::string, std::string> read_sysctls(const Host &host, std::vector<Problem> &problems) {
    // fs/may_detach_mounts: RHEL 7 only. user/: limits of a user namespace (namespaces(7)).
    constexpr std::array directories{"fs/inotify", "user"};
    constexpr std::array files{"fs/file-max",       "fs/file-nr",           "fs/nr_open",
                               "fs/mount-max",      "fs/may_detach_mounts", "vm/vfs_cache_pressure",
                               "vm/min_free_kbytes"};
    const auto dotted = [](std::string path) {
        std::ranges::replace(path, '/', '.');
        return path;
    };
    std::map<std::string, std::string> out;
    for (const std::string dir : directories)
        read_settings(host, "/proc/sys/" + dir, dotted(dir) + ".", out, problems);
    for (const std::string file : files)
        if (const auto text = text_of(host, "/proc/sys/" + file, problems, value_limit))
            out.emplace(dotted(file), std::string(trimmed(*text)));
    return out;
}

std::string read_hostname_file(const Host &host, std::vector<Problem> &problems) {
    const auto text = text_of(host, "/etc/hostname", problems, value_limit);
    std::string_view rest = text ? std::string_view(*text) : std::string_view();
    while (!rest.empty()) {
        const auto words = words_of(next_part(rest, '\n'));
        if (!words.empty() && !words[0].starts_with('#')) return std::string(words[0]);
    }
    return {};
}

Kernel read_kernel(const Host &host, std::vector<Problem> &problems) {
    Kernel out;
    if (!host.live()) {
        out.hostname = read_hostname_file(host, problems);
        return out;
    }
    utsname names{};
    if (::uname(&names) == 0) {
        out.release = static_cast<const char *>(names.release);
        out.version = static_cast<const char *>(names.version);
        out.architecture = static_cast<const char *>(names.machine);
        out.hostname = static_cast<const char *>(names.nodename);
    }
    const auto uptime = parse_uptime(needed_text(host, "/proc/uptime", problems));
    out.uptime_s = uptime.value_or(0);
    const auto memory = parse_memory(needed_text(host, "/proc/meminfo", problems));
    if (const auto total = memory.find("MemTotal"); total != memory.end()) out.memory_bytes = total->second;
    out.processors = static_cast<int>(std::max(0L, ::sysconf(_SC_NPROCESSORS_ONLN)));
    out.file_systems = parse_file_systems(needed_text(host, "/proc/filesystems", problems));
    out.command_line = parse_command_line(needed_text(host, "/proc/cmdline", problems));
    out.parameters = read_module_parameters(host, problems);
    out.sysctls = read_sysctls(host, problems);
    return out;
}

Cgroups read_cgroups(const Host &host, std::vector<Problem> &problems) {
    if (!host.live()) return {};
    const auto mounts = sys::parse_mountinfo(needed_text(host, "/proc/self/mountinfo", problems, table_limit));
    if (!mounts) {
        problems.push_back({"/proc/self/mountinfo", mounts.error().text()});
        return {};
    }
    std::string unified;
    for (const auto &mount : *mounts)
        if (mount.type == "cgroup2") unified = mount.target + "/cgroup.controllers";
    const auto table = text_of(host, "/proc/cgroups", problems);
    const auto controllers = unified.empty() ? std::nullopt : text_of(host, unified, problems);
    return cgroups_of(*mounts, table.value_or(""), controllers.value_or(""));
}

std::map<std::string, Pressure> read_pressure(const Host &host, std::vector<Problem> &problems) {
    std::map<std::string, Pressure> out;
    if (!host.live()) return out;
    for (const std::string name : {"cpu", "io", "memory"}) {
        const std::string path = "/proc/pressure/" + name;
        const auto text = text_of(host, path, problems);
        if (!text) continue;
        if (const auto pressure = parse_pressure(*text))
            out.emplace(name, *pressure);
        else
            problems.push_back({path, "there is no line \"some\""});
    }
    return out;
}

std::map<std::string, uint64_t> read_vmstat(const Host &host, std::vector<Problem> &problems) {
    if (!host.live()) return {};
    return parse_vmstat(needed_text(host, "/proc/vmstat", problems));
}

std::map<std::string, uint64_t> read_memory(const Host &host, std::vector<Problem> &problems) {
    if (!host.live()) return {};
    return parse_memory(needed_text(host, "/proc/meminfo", problems));
}

} // namespace shale::probe
