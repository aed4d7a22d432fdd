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
constexpr int max_matches = 100; ///< files of one name in one package

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

/// Without epoch, revision, and what a distribution adds to it (deb-version(7)).
std::string upstream(std::string_view version) {
    if (const size_t colon = version.find(':'); colon != std::string_view::npos) version.remove_prefix(colon + 1);
    return std::string(version.substr(0, version.find_first_of("-~")));
}

/// Path of the program's file; "": it is not there, or the one that runs is another.
std::string path_of(const probe::Host &host, std::string_view program, int pid) {
    if (pid == 0) {
        for (const std::string_view dir : {"/usr/bin", "/usr/sbin"}) {
            std::string path = fmt::format("{}/{}", dir, program);
            if (const auto status = host.stat(path); status && *status) return path;
        }
        return {};
    }
    const auto link = host.open_path(fmt::format("/proc/{}/exe", pid), O_PATH | O_NOFOLLOW);
    auto path = link ? sys::read_link(link->get(), "") : Result<std::string>(std::unexpected(link.error()));
    if (!path) return {};
    if (!host.live()) return std::move(*path);
    // The same path may lead elsewhere in its mount namespace. That of a file that was replaced ends with " (deleted)".
    const auto theirs = sys::stat_at(AT_FDCWD, fmt::format("/proc/{}/root{}", pid, *path).c_str());
    const auto ours = host.stat(*path);
    const bool same = theirs && ours && *ours && theirs->st_dev == (*ours)->st_dev && theirs->st_ino == (*ours)->st_ino;
    return same ? std::move(*path) : std::string();
}

std::string read(const probe::Host &host, const std::string &path, size_t limit,
                 std::vector<probe::Problem> &problems) {
    auto text = host.read_if_there(path, limit);
    if (!text) note(problems, path, text.error());
    return text && *text ? std::move(**text) : std::string();
}

bool has_line(std::string_view text, std::string_view line) {
    while (!text.empty())
        if (probe::next_part(text, '\n') == line) return true;
    return false;
}

std::string by_dpkg(const probe::Host &host, const Program &program, const std::string &path,
                    std::vector<probe::Problem> &problems) {
    for (const std::string_view package : program.packages) {
        if (package.empty()) break;
        const std::string list = fmt::format("/var/lib/dpkg/info/{}.list", package); // dpkg-query(1), --listfiles
        if (has_line(read(host, list, max_list_bytes, problems), path))
            return version_in_dpkg_status(read(host, "/var/lib/dpkg/status", max_status_bytes, problems), package);
    }
    return {};
}

/// rpm, lib/backend/sqlite.cc: headers by number in Packages, numbers by the name of a file in Basenames.
std::string by_rpm(const probe::Host &host, const Program &program, const std::string &path,
                   std::vector<probe::Problem> &problems) {
    for (const char *const file : {"/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite"}) {
        const auto status = host.stat(file);
        if (status && !*status) continue;
        std::string out;
        const auto look = [&]() -> Status {
            const auto copy = TRY(SqliteCopy::read(host, file, max_rpm_bytes));
            return copy.for_each(fmt::format("SELECT p.blob FROM Basenames b JOIN Packages p ON p.hnum = b.hnum "
                                             "WHERE b.key = '{}'",
                                             program.name),
                                 [&](const SqliteRow &row) {
                                     if (out.empty()) out = version_in_rpm_header(row.text(0), path);
                                     return Status();
                                 });
        };
        if (const Status looked = look(); !looked) note(problems, file, looked.error());
        return out;
    }
    return {};
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
    [[nodiscard]] Values texts(uint32_t tag) const { return find(tag, {6, 8, 9}); }
    [[nodiscard]] std::string_view text(uint32_t tag, uint32_t index = 0) const {
        auto [rest, count] = texts(tag);
        if (index >= count) return {};
        for (; index != 0 && !rest.empty(); --index)
            (void)probe::next_part(rest, '\0');
        return probe::next_part(rest, '\0');
    }
    [[nodiscard]] std::optional<uint32_t> number(uint32_t tag, uint32_t index) const {
        const auto [all, count] = find(tag, {4});
        if (index >= count || index >= all.size() / sizeof(uint32_t)) return std::nullopt;
        return big32(all, index * sizeof(uint32_t));
    }

private:
    static constexpr size_t head_bytes = 8, entry_bytes = 16;
    std::string_view entries_, data_;
};

} // namespace

std::string packaged_version(const probe::Host &host, std::string_view program, int pid,
                             std::vector<probe::Problem> &problems) {
    const auto known = std::ranges::find(programs, program, &Program::name);
    const std::string path = known == programs.end() ? std::string() : path_of(host, program, pid);
    if (path.empty()) return {};
    std::string out = by_dpkg(host, *known, path, problems);
    return upstream(out.empty() ? by_rpm(host, *known, path, problems) : out);
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

std::string version_in_rpm_header(std::string_view header, std::string_view path) {
    const RpmHeader all(header);
    const auto [directory, name] = split_path(path);
    auto [names, count] = all.texts(RpmHeader::base_names);
    int matches = 0;
    for (uint32_t i = 0; i < count && !names.empty() && matches < max_matches; ++i) {
        if (probe::next_part(names, '\0') != name) continue;
        ++matches;
        const auto index = all.number(RpmHeader::dir_indexes, i);
        const std::string_view in = index ? all.text(RpmHeader::dir_names, *index) : std::string_view();
        if (in.ends_with('/') && in.substr(0, in.size() - 1) == directory)
            return std::string(all.text(RpmHeader::version));
    }
    return {};
}

} // namespace shale::doctor
