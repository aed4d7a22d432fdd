// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/places.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <charconv>
#include <set>
#include <utility>

#include "sys/fs.h"

namespace shale::doctor {
namespace {

constexpr size_t max_homes = 10'000, max_counted = 1'000'000;

/// The fields of a line of passwd(5).
std::array<std::string_view, 7> fields_of(std::string_view line) {
    std::array<std::string_view, 7> out;
    for (std::string_view &field : out) {
        const size_t end = std::min(line.find(':'), line.size());
        field = line.substr(0, end);
        line.remove_prefix(std::min(end + 1, line.size()));
    }
    return out;
}

class Homes {
public:
    explicit Homes(const probe::Host &host) : host_(host) {}

    void add(Home home) {
        if (out_.size() >= max_homes || home.path.size() < 2 || !home.path.starts_with('/')) return;
        std::string where = identity(host_, home.path);
        if (where.empty() || !seen_.insert(std::move(where)).second) return;
        if (host_.stat(home.path + "/.local/share") && host_.stat(home.path + "/.config"))
            out_.push_back(std::move(home));
        else
            closed_.push_back(std::move(home.path));
    }
    std::vector<Home> take() { return std::move(out_); }
    [[nodiscard]] const std::vector<std::string> &closed() const { return closed_; }

private:
    const probe::Host &host_;
    std::set<std::string> seen_;
    std::vector<Home> out_;
    std::vector<std::string> closed_;
};

/// Once, though several readers ask for homes.
void tell_closed(const std::vector<std::string> &closed, std::vector<probe::Problem> &problems) {
    if (closed.empty()) return;
    const probe::Problem problem{closed.front(),
                                 fmt::format("{} home directories cannot be looked into, so stores of their users' own "
                                             "are not known",
                                             closed.size())};
    for (const probe::Problem &one : problems)
        if (one.about == problem.about && one.why == problem.why) return;
    problems.push_back(problem);
}

uint64_t bytes_below(int parent, const char *name, int depth, size_t &left) {
    const auto dir = sys::open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
    const auto entries =
        dir ? sys::list_dir(dir->get(), max_counted) : Result<std::vector<sys::DirEntry>>(std::unexpected(dir.error()));
    if (!entries) return 0;
    uint64_t bytes = 0;
    for (const sys::DirEntry &entry : *entries) {
        if (left == 0) return bytes;
        --left;
        const auto status = sys::stat_at(dir->get(), entry.name.c_str());
        if (!status) continue;
        bytes += static_cast<uint64_t>(status->st_blocks) * 512;
        if (depth > 0 && S_ISDIR(status->st_mode))
            bytes += bytes_below(dir->get(), entry.name.c_str(), depth - 1, left);
    }
    return bytes;
}

} // namespace

std::vector<Home> homes(const probe::Host &host, std::vector<probe::Problem> &problems) {
    Homes out(host);
    const auto passwd = host.read_if_there("/etc/passwd");
    if (!passwd) problems.push_back({"/etc/passwd", passwd.error().text()});
    std::string_view rest = passwd && *passwd ? std::string_view(**passwd) : std::string_view();
    while (!rest.empty()) {
        const size_t end = std::min(rest.find('\n'), rest.size());
        const auto fields = fields_of(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
        Home home{.user = std::string(fields[0]), .path = std::string(fields[5]), .uid = 0};
        const auto [last, bad] = std::from_chars(fields[2].data(), fields[2].data() + fields[2].size(), home.uid);
        if (bad == std::errc()) out.add(std::move(home));
    }
    const auto entries = host.list_if_there("/home", max_homes);
    if (!entries) problems.push_back({"/home", entries.error().text()});
    if (entries)
        for (const sys::DirEntry &entry : *entries) {
            const std::string path = "/home/" + entry.name;
            const auto status = host.stat(path);
            if (status && *status) out.add({.user = entry.name, .path = path, .uid = (*status)->st_uid});
        }
    tell_closed(out.closed(), problems);
    return out.take();
}

std::string identity(const probe::Host &host, const std::string &path) {
    const auto status = host.stat(path);
    if (!status || !*status || !S_ISDIR((*status)->st_mode)) return {};
    return fmt::format("{}:{}", (*status)->st_dev, (*status)->st_ino);
}

uint64_t bytes_in(const probe::Host &host, const std::string &path, int depth) {
    const auto dir = host.open_path(path, O_RDONLY | O_DIRECTORY);
    size_t left = max_counted;
    return dir ? bytes_below(dir->get(), ".", depth, left) : 0;
}

std::string argument(const std::vector<std::string> &arguments, std::string_view name) {
    for (size_t i = 0; i < arguments.size(); ++i) {
        std::string_view word = arguments[i];
        if (!word.starts_with("--") || !word.substr(2).starts_with(name)) continue;
        word.remove_prefix(2 + name.size());
        if (word.starts_with('=')) return std::string(word.substr(1));
        if (word.empty() && i + 1 < arguments.size()) return arguments[i + 1];
    }
    return {};
}

} // namespace shale::doctor
