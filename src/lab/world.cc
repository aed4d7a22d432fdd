// SPDX-License-Identifier: Apache-2.0
#include "lab/world.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <random>
#include <span>

#include <nlohmann/json.hpp>

#include "archive/tar.h"
#include "base/digest.h"
#include "probe/text.h"
#include "sys/fs.h"
#include "sys/loop.h"
#include "sys/mount.h"
#include "sys/run.h"

namespace shale::lab {
namespace {

/// Debian's packages of the programs that make file systems.
const std::map<std::string, std::string> mkfs_packages{
    {"btrfs", "btrfs-progs"}, {"ext4", "e2fsprogs"}, {"xfs", "xfsprogs"}};

std::string quoted(const std::string &word) {
    constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,@%+";
    return !word.empty() && word.find_first_not_of(plain) == std::string::npos ? word : fmt::format("'{}'", word);
}

std::string line_of(const std::string &name, const std::vector<std::string> &arguments) {
    std::string out = name;
    for (const auto &word : arguments)
        out += " " + quoted(word);
    return out;
}

Result<Ran> run(const std::string &program, const std::string &name, std::vector<std::string> arguments,
                std::chrono::milliseconds deadline) {
    Ran out;
    out.line = line_of(name, arguments);
    arguments.insert(arguments.begin(), program);
    auto ran = TRY(in_context(sys::run_tool(arguments, deadline), [&] { return out.line; }));
    out.status = ran.exit_status;
    out.out = std::move(ran.output);
    out.errors = std::move(ran.errors);
    return out;
}

Result<std::string> tar_of(const std::vector<ImageFile> &files) {
    std::string out;
    archive::TarWriter writer([&](std::span<const std::byte> bytes) -> Status {
        out.append(reinterpret_cast<const char *>(bytes.data()), bytes.size());
        return {};
    });
    for (const auto &file : files) {
        archive::Entry entry;
        const bool directory = file.path.ends_with('/');
        entry.type = directory ? archive::EntryType::directory : archive::EntryType::file;
        entry.path = file.path;
        entry.mode = file.mode;
        entry.size = directory ? 0 : file.bytes.size();
        TRY(writer.add(entry));
        if (entry.size > 0) TRY(writer.data(std::as_bytes(std::span(file.bytes))));
    }
    TRY(writer.finish());
    return out;
}

} // namespace

Result<Disk> World::disk(const DiskPlan &plan) const {
    Disk out;
    out.type = plan.type;
    out.options = plan.options;
    out.file = TRY(in_context(sys::open_at(files_.get(), ".", O_TMPFILE | O_RDWR, 0600),
                              [] { return std::string("a file without a name for a disk"); }));
    TRY(sys::truncate_fd(out.file.get(), plan.bytes));
    auto loop = TRY(sys::attach_loop(out.file.get(), false));
    out.device = std::move(loop.path);
    out.holder = std::move(loop.fd);
    if (plan.type.empty()) return out;
    std::vector<std::string> arguments = plan.mkfs;
    arguments.insert(arguments.begin(), plan.type == "ext4" ? "-q" : plan.type == "xfs" ? "-q" : "--quiet");
    arguments.push_back(out.device);
    const auto package = mkfs_packages.find(plan.type);
    TRY(must("mkfs." + plan.type, package != mkfs_packages.end() ? package->second : "", std::move(arguments)));
    out.path = *this / plan.name;
    if (::mkdir(out.path.c_str(), 0755) != 0) return fail_errno(errno, fmt::format("make {:?}", out.path));
    TRY(mount(out));
    return out;
}

Status World::grow(const Disk &disk, uint64_t bytes) {
    TRY(sys::truncate_fd(disk.file.get(), bytes));
    return sys::grow_loop(disk.device);
}

Status World::mount(const Disk &disk) {
    return sys::mount_at({disk.type, disk.device, disk.options}, disk.path);
}

Status World::unmount(const Disk &disk) {
    return sys::unmount(disk.path);
}

Result<Ran> World::shale(std::vector<std::string> arguments, std::chrono::milliseconds deadline) {
    return run("/proc/self/exe", "shale", std::move(arguments), deadline);
}

Result<Ran> World::tool(const std::string &name, const std::string &package, std::vector<std::string> arguments,
                        std::chrono::milliseconds deadline) {
    return run(TRY(sys::find_tool(name, package)), name, std::move(arguments), deadline);
}

Result<Ran> World::must(const std::string &name, const std::string &package, std::vector<std::string> arguments,
                        std::chrono::milliseconds deadline) {
    return succeeded(tool(name, package, std::move(arguments), deadline));
}

Result<World::Cgroup> World::cgroup(std::string_view controller, std::string_view entry) const {
    Cgroup out;
    std::string at;
    for (const auto &mount : TRY(sys::mount_table())) {
        if (mount.type == "cgroup2") {
            const auto controllers = read_whole(mount.target + "/cgroup.controllers");
            if (!controllers || std::ranges::count(probe::words_of(*controllers), controller) == 0) continue;
            out.v2 = true;
        } else if (mount.type != "cgroup" ||
                   ("," + mount.super_options + ",").find(fmt::format(",{},", controller)) == std::string::npos) {
            continue;
        }
        at = mount.target;
        break;
    }
    if (at.empty())
        return fail(Errc::FailedPrecondition, fmt::format("no control group hierarchy with {} is mounted", controller));
    const std::string whole = fmt::format("{}/{}/", name_, entry);
    for (size_t begin = 0, end = 0; (end = whole.find('/', begin)) != std::string::npos; begin = end + 1) {
        // Children have a controller only when their parent gives it to them.
        if (out.v2) TRY(write_file(at + "/cgroup.subtree_control", fmt::format("+{}", controller)));
        out.name += "/" + whole.substr(begin, end - begin);
        at += "/" + whole.substr(begin, end - begin);
        if (::access(at.c_str(), F_OK) == 0) continue; // the keeper knows it, and removes what lies in it before
        TRY(keeper_.cgroup(at));
        if (::mkdir(at.c_str(), 0755) != 0) return fail_errno(errno, fmt::format("make {:?}", at));
    }
    out.path = at;
    return out;
}

StoreCommand::StoreCommand(std::string root, std::string_view driver, std::vector<std::string> more)
    : root_(std::move(root)), globals_(std::move(more)) {
    globals_.insert(globals_.begin(), {"--root", root_, "--driver", std::string(driver)});
}

Result<Ran> StoreCommand::operator()(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), globals_.begin(), globals_.end());
    return World::shale(std::move(arguments));
}

Result<Ran> StoreCommand::must(std::vector<std::string> arguments) const {
    return succeeded((*this)(std::move(arguments)));
}

Result<std::string> StoreCommand::mount(const std::string &container) const {
    std::string out = TRY(must({"container", "mount", container})).out;
    while (out.ends_with('\n'))
        out.pop_back();
    const size_t line = out.rfind('\n');
    return line == std::string::npos ? out : out.substr(line + 1);
}

Result<Ran> StoreCommand::doctor(const std::vector<std::string> &checks) const {
    std::vector<std::string> arguments{"doctor", "--json", "--store", "shale=" + root_};
    for (const auto &check : checks)
        arguments.insert(arguments.end(), {"--check", check});
    return World::shale(std::move(arguments));
}

Result<Ran> succeeded(Result<Ran> ran) {
    if (ran && ran->status != 0)
        return fail(Errc::FailedPrecondition,
                    fmt::format("{}: exit status {}: {}{}", ran->line, ran->status, ran->errors, ran->out));
    return ran;
}

Result<Room> room_of(const std::string &path) {
    struct statvfs info{};
    if (::statvfs(path.c_str(), &info) != 0) return fail_errno(errno, fmt::format("statvfs {:?}", path));
    return Room{info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize, info.f_files, info.f_favail};
}

Status write_file(const std::string &path, std::string_view bytes, unsigned mode) {
    std::error_code error;
    if (const auto parent = std::filesystem::path(path).parent_path(); !std::filesystem::exists(parent, error))
        std::filesystem::create_directories(parent, error);
    const UniqueFd file = TRY(sys::open_at(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, mode));
    return sys::write_all(file.get(), std::as_bytes(std::span(bytes)));
}

Result<std::string> read_whole(const std::string &path) {
    return sys::read_file(AT_FDCWD, path.c_str(), size_t{256} << 20U);
}

std::string noise(uint64_t seed, size_t bytes) {
    std::mt19937_64 random(seed);
    std::string out;
    out.reserve(bytes + sizeof(uint64_t));
    while (out.size() < bytes) {
        const uint64_t word = random();
        out.append(reinterpret_cast<const char *>(&word), sizeof word);
    }
    out.resize(bytes);
    return out;
}

Status write_image(const std::string &path, const std::string &name,
                   const std::vector<std::vector<ImageFile>> &layers) {
    nlohmann::json diff_ids = nlohmann::json::array(), names = nlohmann::json::array();
    std::vector<ImageFile> outer;
    for (const auto &layer : layers) {
        std::string tar = TRY(tar_of(layer));
        const Digest digest = Digest::of(std::string_view(tar));
        diff_ids.push_back(digest.text());
        names.push_back(digest.hex() + "/layer.tar");
        outer.push_back({digest.hex() + "/layer.tar", std::move(tar)});
    }
    const std::string config = nlohmann::json{{"architecture", "amd64"},
                                              {"os", "linux"},
                                              {"config", {{"Cmd", {"/bin/true"}}}},
                                              {"rootfs", {{"type", "layers"}, {"diff_ids", diff_ids}}}}
                                   .dump();
    const std::string config_name = Digest::of(std::string_view(config)).hex() + ".json";
    outer.push_back({config_name, config});
    const nlohmann::json manifest = nlohmann::json::array(
        {nlohmann::json{{"Config", config_name}, {"RepoTags", nlohmann::json::array({name})}, {"Layers", names}}});
    outer.push_back({"manifest.json", manifest.dump()});
    return write_file(path, TRY(tar_of(outer)));
}

} // namespace shale::lab
