// SPDX-License-Identifier: Apache-2.0
#include "conformance/fixture.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include <fmt/format.h>

#include "sys/fs.h"

namespace shale::conformance {
namespace {

namespace fs = std::filesystem;

/// Empty: this process has a mount name space of its own now; else why not.
const std::string &private_mounts() {
    static const std::string reason = []() -> std::string {
        if (::geteuid() != 0) return "needs root (mounts)";
        if (::unshare(CLONE_NEWNS) != 0) return sys_error(errno, "unshare(CLONE_NEWNS)").message();
        if (::syscall(SYS_mount, nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
            return sys_error(errno, "private mounts").message();
        return {};
    }();
    return reason;
}

} // namespace

Archive::Archive()
    : writer_([this](std::span<const std::byte> data) -> Status {
          out_.append(reinterpret_cast<const char *>(data.data()), data.size());
          return {};
      }) {}

Archive &Archive::entry(archive::Entry entry, const std::string &content) {
    if (entry.mtime_s == 0) entry.mtime_s = 1'000'000;
    if (entry.type == archive::EntryType::file) entry.size = entry.stored = content.size();
    EXPECT_DONE(writer_.add(entry));
    if (!content.empty()) EXPECT_DONE(writer_.data(std::as_bytes(std::span(content))));
    return *this;
}

Archive &Archive::dir(const std::string &path, uint32_t mode, uint64_t uid, uint64_t gid, int64_t mtime) {
    archive::Entry one;
    one.type = archive::EntryType::directory;
    one.path = path + "/";
    one.mode = mode;
    one.uid = uid;
    one.gid = gid;
    one.mtime_s = mtime;
    return entry(std::move(one));
}

Archive &Archive::file(const std::string &path, const std::string &content, uint32_t mode, uint64_t uid, uint64_t gid) {
    archive::Entry one;
    one.path = path;
    one.mode = mode;
    one.uid = uid;
    one.gid = gid;
    return entry(std::move(one), content);
}

Archive &Archive::link(const std::string &path, const std::string &target) {
    archive::Entry one;
    one.type = archive::EntryType::hard_link;
    one.path = path;
    one.link = target;
    return entry(std::move(one));
}

Archive &Archive::symlink(const std::string &path, const std::string &target) {
    archive::Entry one;
    one.type = archive::EntryType::symlink;
    one.path = path;
    one.link = target;
    one.mode = 0777;
    return entry(std::move(one));
}

Archive &Archive::fifo(const std::string &path) {
    archive::Entry one;
    one.type = archive::EntryType::fifo;
    one.path = path;
    one.mode = 0640;
    return entry(std::move(one));
}

Archive &Archive::device(const std::string &path, unsigned major, unsigned minor) {
    archive::Entry one;
    one.type = archive::EntryType::char_device;
    one.path = path;
    one.mode = 0660;
    one.dev_major = major;
    one.dev_minor = minor;
    return entry(std::move(one));
}

Archive &Archive::whiteout(const std::string &path) {
    const fs::path full(path);
    return file((full.parent_path() / (".wh." + full.filename().string())).string(), "", 0);
}

Archive &Archive::opaque(const std::string &path) {
    return file(path + "/.wh..wh..opq", "", 0);
}

std::string Archive::bytes() {
    EXPECT_DONE(writer_.finish());
    return out_;
}

void DriverTest::SetUp() {
    if (const auto why = test::cannot_test(GetParam()); !why.empty()) GTEST_SKIP() << why;
    if (!private_mounts().empty()) GTEST_SKIP() << private_mounts();
    const char *where = std::getenv("SHALE_TEST_DIR");
    scratch_ = fmt::format("{}/shale-conformance-XXXXXX", where != nullptr ? where : "/var/tmp");
    ASSERT_NE(::mkdtemp(scratch_.data()), nullptr);
    const auto home = test::mount_home_of(test::driver_of(GetParam()), scratch_);
    ASSERT_DONE(home);
    has_home_ = *home;
    fs::create_directory(scratch_ + "/mnt");
    reopen({});
}

void DriverTest::TearDown() {
    views_.clear();
    while (!mounted_.empty()) {
        (void)sys::unmount(mounted_.back(), sys::umount_detach);
        mounted_.pop_back();
    }
    driver_.reset();
    if (!scratch_.empty()) test::put_to_rest(driver_root());
    if (!scratch_.empty()) test::unmount_below(scratch_);
    if (has_home_) EXPECT_DONE(sys::unmount(scratch_, sys::umount_detach));
    if (scratch_.size() > 5) EXPECT_DONE(sys::remove_tree(AT_FDCWD, scratch_.c_str()));
}

void DriverTest::reopen(const drivers::DriverOptions &options) {
    const auto info = drivers::find_driver(test::driver_of(GetParam()));
    ASSERT_DONE(info);
    driver_.reset();
    auto all = test::options_of(GetParam(), driver_root());
    for (const auto &[key, value] : options)
        all[key] = value;
    auto opened = (*info)->open(driver_root(), all);
    ASSERT_DONE(opened);
    driver_ = std::move(*opened);
}

Status DriverTest::try_import(LayerId id, const std::vector<LayerId> &parents, const std::string &tar,
                              archive::ExtractReport *report) {
    auto staging = TRY(driver_->stage(id, parents));
    bool given = false;
    archive::TarReader reader(
        [&]() -> Result<std::span<const std::byte>> {
            if (std::exchange(given, true)) return std::span<const std::byte>();
            return std::as_bytes(std::span(tar));
        },
        {});
    archive::ExtractOptions options;
    options.whiteouts = staging.whiteouts;
    const auto extracted = TRY(archive::extract_tar(reader, *staging.tree, options));
    if (report != nullptr) *report = extracted;
    return driver_->apply(id, parents, std::move(staging), extracted);
}

LayerId DriverTest::import(const std::vector<LayerId> &parents, Archive &archive) {
    const LayerId id = next();
    EXPECT_DONE(try_import(id, parents, archive.bytes()));
    return id;
}

std::string DriverTest::start(LayerId id, const std::vector<LayerId> &parents) {
    EXPECT_DONE(driver_->create(id, parents, {}));
    return mount(id, parents);
}

std::string DriverTest::mount(LayerId id, const std::vector<LayerId> &parents, drivers::Driver::Access access) {
    const std::string path = scratch_ + "/mnt/" + to_string(id);
    fs::create_directory(path);
    const auto specs = driver_->mounts(id, parents, access);
    EXPECT_DONE(specs);
    if (!specs) return path;
    for (const auto &spec : *specs) {
        const auto done = sys::mount_at(spec, path);
        EXPECT_DONE(done);
        if (done) mounted_.push_back(path);
    }
    return path;
}

void DriverTest::stop(LayerId id) {
    const std::string path = scratch_ + "/mnt/" + to_string(id);
    while (const auto erased = std::erase(mounted_, path))
        for (size_t i = 0; i < erased; ++i)
            EXPECT_DONE(sys::unmount(path));
}

void DriverTest::commit(LayerId id, const std::vector<LayerId> &parents) {
    stop(id);
    EXPECT_DONE(driver_->seal(id, parents));
}

void DriverTest::settle(LayerId id) {
    const auto done = driver_->settle(id, []() -> Result<std::shared_ptr<void>> { return std::make_shared<int>(); });
    EXPECT_DONE(done);
    EXPECT_TRUE(done && *done);
}

std::string DriverTest::view(LayerId id, const std::vector<LayerId> &parents) {
    auto opened = driver_->open_view(id, parents);
    EXPECT_DONE(opened);
    if (!opened) return "/nonexistent";
    views_.push_back(std::move(*opened));
    return sys::fd_path(views_.back().root.get());
}

std::string DriverTest::diff(LayerId id, const std::vector<LayerId> &parents, drivers::Driver::DiffReport *report) {
    std::string out;
    const auto done = driver_->diff(id, parents, [&](std::span<const std::byte> data) -> Status {
        out.append(reinterpret_cast<const char *>(data.data()), data.size());
        return {};
    });
    EXPECT_DONE(done);
    if (done && report != nullptr) *report = *done;
    return out;
}

std::vector<std::string> DriverTest::changes(LayerId id, const std::vector<LayerId> &parents) {
    std::vector<std::string> out;
    EXPECT_DONE(driver_->changes(id, parents, [&](const archive::Change &change) -> Status {
        const char *kind = change.kind == archive::ChangeKind::added      ? "A"
                           : change.kind == archive::ChangeKind::modified ? "C"
                                                                          : "D";
        out.push_back(fmt::format("{} {}", kind, change.path));
        return {};
    }));
    std::ranges::sort(out);
    return out;
}

std::vector<LayerId> over(const std::vector<LayerId> &layers) {
    return {layers.rbegin(), layers.rend()};
}

void put(const std::string &path, const std::string &content, mode_t mode) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
    ASSERT_TRUE(fd) << path << ": " << std::strerror(errno);
    ASSERT_EQ(::write(fd.get(), content.data(), content.size()), static_cast<ssize_t>(content.size())) << path;
}

std::string get(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) return fmt::format("<errno {}>", errno);
    return {std::istreambuf_iterator<char>(in), {}};
}

bool exists(const std::string &path) {
    return ::faccessat(AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

struct stat status_of(const std::string &path) {
    struct stat out{};
    EXPECT_EQ(::lstat(path.c_str(), &out), 0) << path << ": " << std::strerror(errno);
    return out;
}

mode_t mode_of(const std::string &path) {
    return status_of(path).st_mode & 07777;
}

std::string owner_of(const std::string &path) {
    const auto status = status_of(path);
    return fmt::format("{}:{}", status.st_uid, status.st_gid);
}

std::string xattr_of(const std::string &path, const char *name) {
    std::string out(256, '\0');
    const ssize_t got = ::lgetxattr(path.c_str(), name, out.data(), out.size());
    out.resize(got < 0 ? 0 : static_cast<size_t>(got));
    return out;
}

std::vector<std::string> names_in(const std::string &path) {
    std::vector<std::string> out;
    for (const auto &entry : fs::directory_iterator(path))
        out.push_back(entry.path().filename());
    std::ranges::sort(out);
    return out;
}

std::string describe(const std::string &root) {
    std::map<std::string, std::string> lines;
    auto one = [&](const std::string &path, const std::string &name) {
        const auto status = status_of(path);
        std::string line = fmt::format("{:o} {}:{}", status.st_mode, status.st_uid, status.st_gid);
        if (S_ISREG(status.st_mode)) line += " " + get(path);
        if (S_ISLNK(status.st_mode)) line += " -> " + fs::read_symlink(path).string();
        if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode))
            line += fmt::format(" {}:{}", major(status.st_rdev), minor(status.st_rdev));
        for (const char *key : {"user.test", "security.capability"})
            if (const auto value = xattr_of(path, key); !value.empty()) line += fmt::format(" {}={}", key, value);
        lines[name] = line;
    };
    one(root + "/.", "");
    for (auto it = fs::recursive_directory_iterator(root + "/."); it != fs::recursive_directory_iterator(); ++it)
        one(it->path(), it->path().string().substr(root.size() + 2));
    std::string out;
    for (const auto &[name, line] : lines)
        out += name + ": " + line + "\n";
    return out;
}

} // namespace shale::conformance
