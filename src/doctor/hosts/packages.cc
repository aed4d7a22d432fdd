// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/packages.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/paths.h"
#include "doctor/hosts/sqlite_copy.h"
#include "probe/text.h"
#include "sys/fs.h"

namespace shale::doctor {
namespace {

constexpr size_t max_status_bytes = size_t{64} << 20U, max_list_bytes = size_t{4} << 20U;
constexpr size_t max_rpm_bytes = size_t{256} << 20U;
constexpr size_t max_header_bytes = size_t{4} << 20U; ///< of a package of rpm's; those of daemons have some 100 KiB
constexpr size_t max_files = 100;                     ///< of one name in all packages

/// Debian's packages, and those of Docker and Microsoft; rpm's database is asked by file.
struct Program {
    std::string_view name;
    std::array<std::string_view, 5> packages;
};
constexpr std::array programs{
    Program{"dockerd", {"docker-ce", "docker.io", "moby-engine", "docker-ee", "docker-engine"}},
    Program{"containerd", {"containerd.io", "containerd", "moby-containerd"}},
};

void note(std::vector<probe::Problem> &problems, const std::string &about, const Error &error) {
    std::string why = error.text();
    if (std::ranges::none_of(problems, [&](const auto &one) { return one.about == about && one.why == why; }))
        problems.push_back({about, std::move(why)});
}

/// Without epoch, revision, and what a distribution adds to it (deb-version(7)). What is before a release is marked
/// with "~", so that it sorts there: "27.0.0~rc.1" is "27.0.0-rc.1" to its makers.
std::string upstream(std::string_view version) {
    constexpr auto before_release = std::to_array<std::string_view>({"rc", "beta", "alpha", "tp", "pre", "dev", "git"});
    if (const size_t colon = version.find(':'); colon != std::string_view::npos) version.remove_prefix(colon + 1);
    version = version.substr(0, version.find_first_of("-+"));
    const std::string_view release = probe::next_part(version, '~');
    while (!version.empty()) {
        const std::string_view part = probe::next_part(version, '~');
        if (std::ranges::any_of(before_release, [&](std::string_view word) { return part.starts_with(word); }))
            return fmt::format("{}-{}", release, part);
    }
    return std::string(release);
}

bool is_named(std::string_view path, std::string_view program) {
    return split_path(path).second == program;
}

std::string read(const probe::Host &host, const std::string &path, size_t limit,
                 std::vector<probe::Problem> &problems) {
    auto text = host.read_if_there(path, limit);
    if (!text) note(problems, path, text.error());
    return text && *text ? std::move(**text) : std::string();
}

PackagedFiles read_dpkg(const probe::Host &host, const Program &program, std::vector<probe::Problem> &problems) {
    PackagedFiles out;
    std::string status;
    for (const std::string_view package : program.packages) {
        if (package.empty()) break;
        const std::string path = fmt::format("/var/lib/dpkg/info/{}.list", package); // dpkg-query(1), --listfiles
        const std::string list = read(host, path, max_list_bytes, problems);
        std::string version;
        for (std::string_view rest = list; !rest.empty() && out.size() < max_files;) {
            const std::string_view file = probe::next_part(rest, '\n');
            if (!is_named(file, program.name)) continue;
            if (status.empty()) status = read(host, "/var/lib/dpkg/status", max_status_bytes, problems);
            if (version.empty()) version = version_in_dpkg_status(status, package);
            if (version.empty()) break; // the package was removed, and the list is left
            out.emplace(file, version);
        }
    }
    return out;
}

/// rpm, lib/backend/sqlite.cc: headers by number in Packages; in Basenames, by the name of a file, the number and which
/// of the header's files it is.
PackagedFiles read_rpm(const probe::Host &host, const Program &program, std::vector<probe::Problem> &problems) {
    PackagedFiles out;
    for (const char *const path : {"/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite"}) {
        const auto status = host.stat(path);
        if (status && !*status) continue;
        const auto look = [&]() -> Status {
            const auto copy = TRY(SqliteCopy::read(host, path, max_rpm_bytes));
            const std::string files =
                fmt::format("SELECT p.blob, b.idx FROM Basenames b JOIN Packages p ON p.hnum = b.hnum "
                            "WHERE b.key = '{}' AND length(p.blob) <= {} LIMIT {}",
                            program.name, max_header_bytes, max_files);
            return copy.for_each(files, [&](const SqliteRow &row) {
                auto file = file_in_rpm_header(row.text(0), row.count(1));
                if (is_named(file.path, program.name)) out.emplace(std::move(file.path), std::move(file.version));
                return Status();
            });
        };
        if (const Status looked = look(); !looked) note(problems, path, looked.error());
        return out;
    }
    return out;
}

uint32_t big32(std::string_view bytes, size_t at) {
    uint32_t out = 0;
    for (size_t i = 0; i < sizeof out; ++i)
        out = out << 8U | static_cast<unsigned char>(bytes[at + i]);
    return out;
}

/// Entries of 16 bytes (tag, type, offset, count; big-endian) behind two numbers, how many they are and how many bytes
/// of data follow them.
class RpmHeader {
public:
    static constexpr uint32_t version = 1001, dir_indexes = 1116, base_names = 1117, dir_names = 1118;

    explicit RpmHeader(std::string_view bytes) {
        if (bytes.size() < head_bytes) return;
        const size_t count = big32(bytes, 0), size = big32(bytes, sizeof(uint32_t));
        bytes.remove_prefix(head_bytes);
        if (count > bytes.size() / entry_bytes) return;
        entries_ = bytes.substr(0, count * entry_bytes);
        data_ = bytes.substr(count * entry_bytes, size);
    }
    struct Values {
        std::string_view data; ///< to the end of the header
        uint32_t count = 0;
    };
    /// Types: 4 a number of 32 bits, 6 a text, 8 several, 9 one in several languages. No values: it has none such.
    [[nodiscard]] Values find(uint32_t tag, std::initializer_list<uint32_t> types) const {
        for (size_t at = 0; at < entries_.size(); at += entry_bytes) {
            const size_t offset = big32(entries_, at + 8);
            if (big32(entries_, at) == tag && std::ranges::find(types, big32(entries_, at + 4)) != types.end() &&
                offset <= data_.size())
                return {data_.substr(offset), big32(entries_, at + 12)};
        }
        return {};
    }
    [[nodiscard]] std::string_view text(uint32_t tag, uint64_t index = 0) const {
        auto [rest, count] = find(tag, {6, 8, 9});
        if (index >= count) return {};
        for (; index != 0 && !rest.empty(); --index)
            (void)probe::next_part(rest, '\0');
        return probe::next_part(rest, '\0');
    }
    [[nodiscard]] std::optional<uint32_t> number(uint32_t tag, uint64_t index) const {
        const auto [all, count] = find(tag, {4});
        if (index >= count || index >= all.size() / sizeof(uint32_t)) return std::nullopt;
        return big32(all, index * sizeof(uint32_t));
    }

private:
    static constexpr size_t head_bytes = 8, entry_bytes = 16;
    std::string_view entries_, data_;
};

} // namespace

std::string path_of_program(const probe::Host &host, std::string_view program, int pid) {
    if (pid == 0) {
        for (const std::string_view dir : {"/usr/bin", "/usr/sbin"}) {
            std::string path = fmt::format("{}/{}", dir, program);
            if (const auto status = host.stat(path); status && *status) return path;
        }
        return {};
    }
    const std::string exe = fmt::format("/proc/{}/exe", pid);
    const auto link = host.open_path(exe, O_PATH | O_NOFOLLOW);
    auto path = link ? sys::read_link(link->get(), "") : Result<std::string>(std::unexpected(link.error()));
    if (!path || !is_named(*path, program)) return {};
    if (!host.live()) return std::move(*path);
    // The kernel's own link leads to the file that runs, whatever the path shows by now, here and in the process' mount
    // namespace.
    const auto file = sys::open_at2(AT_FDCWD, exe.c_str(), O_PATH, 0);
    const auto theirs = file ? sys::stat_at(file->get(), "") : Result<struct stat>(std::unexpected(file.error()));
    const auto ours = host.stat(*path);
    const bool same = theirs && ours && *ours && theirs->st_dev == (*ours)->st_dev && theirs->st_ino == (*ours)->st_ino;
    return same ? std::move(*path) : std::string();
}

std::string Packages::version(std::string_view program, int pid, std::vector<probe::Problem> &problems) {
    const auto which = std::ranges::find(programs, program, &Program::name);
    const std::string path = which == programs.end() ? std::string() : path_of_program(host_, program, pid);
    if (path.empty()) return {};
    const auto find = [&](std::optional<PackagedFiles> &files, auto &&reader) -> std::string {
        if (!files) files = reader(host_, *which, problems);
        const auto found = files->find(path);
        return found == files->end() ? std::string() : found->second;
    };
    Databases &its = known_[which->name];
    const std::string by_dpkg = find(its.dpkg, read_dpkg);
    return upstream(by_dpkg.empty() ? find(its.rpm, read_rpm) : by_dpkg);
}

std::string version_in_dpkg_status(std::string_view status, std::string_view package) {
    std::string_view version;
    bool is_it = false, is_installed = false;
    const auto value = [](std::string_view line, std::string_view field) -> std::optional<std::string_view> {
        if (!line.starts_with(field)) return std::nullopt;
        return probe::trimmed(line.substr(field.size()));
    };
    while (!status.empty()) {
        const std::string_view line = probe::next_part(status, '\n');
        if (const auto name = value(line, "Package:"))
            is_it = *name == package;
        else if (const auto state = value(line, "Status:"))
            is_installed = state->ends_with(" installed");
        else if (const auto given = value(line, "Version:"))
            version = *given;
        if (!line.empty() && !status.empty()) continue;
        if (is_it && is_installed) return std::string(version);
        version = {};
        is_it = is_installed = false;
    }
    return {};
}

PackagedFile file_in_rpm_header(std::string_view header, uint64_t index) {
    constexpr size_t longest = 4096; // PATH_MAX
    const RpmHeader all(header);
    const std::string_view name = all.text(RpmHeader::base_names, index);
    const auto directory = all.number(RpmHeader::dir_indexes, index);
    const std::string_view in = directory ? all.text(RpmHeader::dir_names, *directory) : std::string_view();
    const std::string_view version = all.text(RpmHeader::version);
    if (name.empty() || !in.ends_with('/') || in.size() + name.size() > longest || version.size() > longest) return {};
    return {fmt::format("{}{}", in, name), std::string(version)};
}

} // namespace shale::doctor
