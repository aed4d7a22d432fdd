// SPDX-License-Identifier: Apache-2.0
// What the reader of processes finds in the real /proc: this process, its deleted files, its watches and their paths.
#include "probe/processes.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include <fmt/format.h>

#include "base/fd.h"
#include "probe/processes_watches.h"
#include "probe/test_root.h"
#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::probe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// This very process, in the real /proc.
class Live : public testing::Test {
protected:
    ProcessFacts read(const ProcessLimits &limits = {}) {
        const auto host = Host::open("/");
        EXPECT_TRUE(host) << host.error().text();
        return read_processes(*host, problems, limits);
    }
    template <class T> static std::vector<T> ours(const std::vector<T> &all) {
        std::vector<T> out;
        std::ranges::copy_if(all, std::back_inserter(out), [](const T &one) { return one.pid == ::getpid(); });
        return out;
    }
    TestRoot root;
    std::vector<Problem> problems;
};

TEST_F(Live, OurselvesAndOurWatch) {
    root.dir("/watched");
    const UniqueFd inotify(::inotify_init1(IN_CLOEXEC));
    ASSERT_GE(::inotify_add_watch(inotify.get(), root.here("/watched").c_str(), IN_CREATE), 0);
    struct stat status{};
    ASSERT_EQ(::stat(root.here("/watched").c_str(), &status), 0);
    const auto facts = read();
    const auto self = ours(facts.processes);
    ASSERT_EQ(self.size(), 1U);
    EXPECT_NE(self[0].command, "");
    EXPECT_NE(self[0].mount_namespace, 0U);
    EXPECT_EQ(self[0].uid, ::geteuid());
    EXPECT_GE(self[0].inotify_instances, 1U);
    const auto watches = ours(facts.inotify_watches);
    const auto found = std::ranges::find(watches, status.st_ino, &InotifyWatch::inode);
    ASSERT_NE(found, watches.end());
    EXPECT_EQ(found->watches, 1U);
    struct statfs file_system{};
    ASSERT_EQ(::statfs(root.path().c_str(), &file_system), 0);
    if (sys::file_system_name(file_system) != "btrfs") {
        EXPECT_EQ(found->device, device_of(status));
    }
}

TEST_F(Live, OurDeletedFile) {
    struct statfs file_system{};
    ASSERT_EQ(::statfs(root.path().c_str(), &file_system), 0);
    const bool in_memory = sys::file_system_name(file_system) == "tmpfs";
    root.file("/deleted", std::string(100'000, 'x'));
    root.file("/two names", "x");
    ASSERT_EQ(::link(root.here("/two names").c_str(), root.here("/other").c_str()), 0);
    const UniqueFd fd(::open(root.here("/deleted").c_str(), O_RDONLY | O_CLOEXEC));
    const UniqueFd named(::open(root.here("/two names").c_str(), O_RDONLY | O_CLOEXEC));
    const UniqueFd memory(::memfd_create("shale-test", MFD_CLOEXEC));
    ASSERT_TRUE(fd && named && memory);
    ASSERT_EQ(::fsync(fd.get()), 0); // its blocks are there now
    ASSERT_EQ(::unlink(root.here("/deleted").c_str()), 0);
    ASSERT_EQ(::unlink(root.here("/two names").c_str()), 0);
    struct stat status{};
    ASSERT_EQ(::fstat(fd.get(), &status), 0);
    const auto files = ours(read().deleted_files);
    if (in_memory) {
        EXPECT_THAT(files, IsEmpty()) << "that is no disk";
        return;
    }
    ASSERT_EQ(files.size(), 1U) << "neither the one that has a name left nor that in memory";
    EXPECT_EQ(files[0].path, root.here("/deleted"));
    EXPECT_EQ(files[0].inode, status.st_ino);
    EXPECT_EQ(files[0].device, device_of(status));
    EXPECT_GE(files[0].bytes, 100'000U);
    EXPECT_EQ(files[0].bytes, static_cast<uint64_t>(status.st_blocks) * 512);
}

/// Watches of this process on files of a real file system.
class LivePaths : public Live {
protected:
    void SetUp() override {
        top_ = std::filesystem::canonical(root.path()).string();
        struct statfs file_system{};
        ASSERT_EQ(::statfs(top_.c_str(), &file_system), 0);
        const std::string type = sys::file_system_name(file_system);
        if (type == "tmpfs" || type == "overlay" || type.starts_with("0x"))
            GTEST_SKIP() << "the temporary directory is not on disk (" << type << "): NOT TESTED";
        if (const int error = error_of_handles(); error != 0)
            GTEST_SKIP() << "needs root (CAP_DAC_READ_SEARCH) and a file system with file handles: NOT TESTED: "
                         << ::strerror(error);
        inotify_.reset(::inotify_init1(IN_CLOEXEC));
        ASSERT_TRUE(inotify_);
    }
    /// errno of opening a directory by its handle, as the reader does.
    int error_of_handles() {
        alignas(file_handle) std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> raw{};
        auto *const handle = reinterpret_cast<file_handle *>(raw.data());
        handle->handle_bytes = MAX_HANDLE_SZ;
        int mount = 0;
        const UniqueFd dir(::open(top_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (::name_to_handle_at(dir.get(), "", handle, &mount, AT_EMPTY_PATH) != 0) return errno;
        return UniqueFd(::open_by_handle_at(dir.get(), handle, O_PATH | O_CLOEXEC)) ? 0 : errno;
    }
    static uint64_t inode_of(const std::string &path) {
        struct stat status{};
        EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
        return status.st_ino;
    }
    [[nodiscard]] std::string at(std::string_view name) const { return top_ + std::string(name); }
    /// Makes a file, opens it, which keeps the watch when its names go, and watches it. Gives its inode.
    uint64_t watch(std::string_view name) {
        root.file(name, "old");
        open_.emplace_back(::open(at(name).c_str(), O_RDONLY | O_CLOEXEC));
        EXPECT_TRUE(open_.back());
        EXPECT_GE(::inotify_add_watch(inotify_.get(), at(name).c_str(), IN_MODIFY), 0);
        return inode_of(at(name));
    }
    void replace(std::string_view name) const {
        root.file("/new", "new");
        ASSERT_EQ(::rename(at("/new").c_str(), at(name).c_str()), 0);
    }
    InotifyWatch read_watch(uint64_t inode) {
        // Others' watches, of which the host may have many, are not to come first.
        const auto watches = ours(read({.paths = 1'000'000, .paths_of_process = 1'000'000}).inotify_watches);
        const auto found = std::ranges::find(watches, inode, &InotifyWatch::inode);
        EXPECT_NE(found, watches.end());
        return found == watches.end() ? InotifyWatch() : *found;
    }
    [[nodiscard]] std::vector<Problem> path_problems() const {
        std::vector<Problem> out;
        std::ranges::copy_if(problems, std::back_inserter(out),
                             [](const Problem &one) { return one.about == "paths of inotify watches"; });
        return out;
    }

    UniqueFd inotify_;

private:
    std::string top_; ///< as the kernel names it
    std::vector<UniqueFd> open_;
};

/// On the way to a mount nothing may wait for another host or process.
TEST(MountsToLookOn, AreReachedOverWhatAnswers) {
    const auto targets_of = [](std::string_view text) {
        const auto table = sys::parse_mountinfo(text);
        EXPECT_TRUE(table) << table.error().text();
        std::vector<std::string> out;
        if (table)
            for (const auto *mount : mounts_to_look_on(*table))
                out.push_back(mount->target);
        return out;
    };
    EXPECT_THAT(targets_of("20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
                           "21 20 0:30 / /mem rw - tmpfs tmpfs rw\n"
                           "22 21 8:2 / /mem/disk rw - ext4 /dev/sdb1 rw\n"
                           "23 20 0:31 / /net rw - nfs4 server:/ rw\n"
                           "24 23 8:3 / /net/disk rw - ext4 /dev/sdc1 rw\n"
                           "25 24 8:3 /a /net/disk/far/below rw - ext4 /dev/sdc1 rw\n"
                           "26 20 8:4 / /network rw - xfs /dev/sdd1 rw\n"
                           "27 20 0:32 / /auto rw - autofs systemd-1 rw\n"
                           "28 27 8:5 / /auto rw - ext4 /dev/sde1 rw\n"
                           "29 20 0:33 / /fuse rw - fuse.sshfs x rw\n"
                           "30 29 0:34 / /fuse/o rw - overlay overlay rw\n"
                           "31 30 8:6 / /fuse/o/disk rw - ext4 /dev/sdf1 rw\n"),
                ElementsAre("/", "/mem/disk", "/network", "/auto"));
    EXPECT_THAT(targets_of("20 1 8:1 / /srv/disk rw - ext4 /dev/sda1 rw\n"
                           "21 1 0:31 / /srv rw - nfs4 server:/ rw\n"
                           "22 1 8:2 / /mnt rw - ext4 /dev/sda2 rw\n"
                           "23 22 0:32 / /mnt rw - nfs4 server:/ rw\n"),
                IsEmpty())
        << "hidden by names only";
    EXPECT_THAT(targets_of("20 1 0:31 / / rw - nfs4 server:/ rw\n21 20 8:1 / /disk rw - ext4 /dev/sda1 rw\n"),
                IsEmpty());
}

TEST_F(LivePaths, FineOnes) {
    const uint64_t file = watch("/conf");
    root.dir("/dir (deleted)"); // a name like others
    ASSERT_GE(::inotify_add_watch(inotify_.get(), at("/dir (deleted)").c_str(), IN_CREATE), 0);
    const auto watch = read_watch(file);
    EXPECT_EQ(watch.path, at("/conf"));
    EXPECT_EQ(watch.path_inode, file);
    const uint64_t dir = inode_of(at("/dir (deleted)"));
    EXPECT_EQ(read_watch(dir).path, at("/dir (deleted)"));
    EXPECT_EQ(read_watch(dir).path_inode, dir);
}

TEST_F(LivePaths, ReplacedByARename) {
    const uint64_t old = watch("/conf");
    replace("/conf");
    const auto watch = read_watch(old);
    EXPECT_EQ(watch.path, at("/conf"));
    EXPECT_EQ(watch.path_inode, inode_of(at("/conf")));
    EXPECT_NE(watch.path_inode, old);
}

/// A mount name space of its own with a file bound into it, and a watch there: nobody has the file open, the mount
/// keeps it.
TEST_F(LivePaths, BoundIntoAContainerAndReplaced) {
    root.file("/conf", "old");
    root.file("/inside", "");
    const std::string source = at("/conf"), target = at("/inside");
    std::array<int, 2> ready{}, done{};
    ASSERT_EQ(::pipe2(ready.data(), O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(done.data(), O_CLOEXEC), 0);
    UniqueFd is_ready(ready[0]), say_ready(ready[1]), is_done(done[0]), say_done(done[1]);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        say_done.reset();
        char byte = 'x';
        const bool set_up = ::unshare(CLONE_NEWNS) == 0 &&
                            ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                            ::mount(source.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) == 0 &&
                            ::inotify_add_watch(inotify_.get(), target.c_str(), IN_MODIFY) >= 0;
        if (set_up && ::write(say_ready.get(), &byte, 1) == 1) (void)!::read(is_done.get(), &byte, 1);
        ::_exit(0);
    }
    const ScopeGuard end([&] {
        say_done.reset();
        ::waitpid(child, nullptr, 0);
    });
    say_ready.reset();
    char byte = 0;
    if (::read(is_ready.get(), &byte, 1) != 1) GTEST_SKIP() << "no mount name space of its own: NOT TESTED";
    const uint64_t old = inode_of(source);
    replace("/conf");
    const auto facts = read();
    const auto found = std::ranges::find_if(
        facts.inotify_watches, [&](const InotifyWatch &one) { return one.pid == child && one.inode == old; });
    ASSERT_NE(found, facts.inotify_watches.end());
    EXPECT_EQ(found->path, source) << "the host's";
    EXPECT_EQ(found->path_inode, inode_of(source));
    EXPECT_NE(found->path_inode, old);
}

TEST_F(LivePaths, ReplacedByALink) {
    const uint64_t old = watch("/conf");
    root.file("/version 2/conf", "new");
    ASSERT_EQ(::unlink(at("/conf").c_str()), 0);
    ASSERT_EQ(::symlink("version 2/conf", at("/conf").c_str()), 0);
    EXPECT_EQ(read_watch(old).path_inode, inode_of(at("/conf"))) << "what stands there, the link";
}

TEST_F(LivePaths, Deleted) {
    const uint64_t file = watch("/conf");
    const uint64_t below = watch("/..data/conf");
    ASSERT_EQ(::unlink(at("/conf").c_str()), 0);
    ASSERT_TRUE(sys::remove_tree(AT_FDCWD, at("/..data").c_str()));
    auto watch = read_watch(file);
    EXPECT_EQ(watch.path, at("/conf"));
    EXPECT_EQ(watch.path_inode, 0U);
    watch = read_watch(below);
    EXPECT_EQ(watch.path_inode.value_or(0), 0U);
    if (watch.path_inode) {
        EXPECT_EQ(watch.path, at("/..data/conf"));
    }
}

TEST_F(LivePaths, RenamedIsFollowed) {
    const uint64_t file = watch("/log");
    ASSERT_EQ(::rename(at("/log").c_str(), at("/log.1").c_str()), 0);
    replace("/log");
    const auto watch = read_watch(file);
    EXPECT_EQ(watch.path, at("/log.1"));
    EXPECT_EQ(watch.path_inode, file);
}

TEST_F(LivePaths, OfSeveralNamesNoneIsBlamed) {
    const uint64_t file = watch("/conf");
    ASSERT_EQ(::link(at("/conf").c_str(), at("/backup").c_str()), 0);
    replace("/conf");
    const auto watch = read_watch(file); // which name the kernel tells is its own affair
    EXPECT_EQ(watch.path_inode.value_or(file), file);
    EXPECT_EQ(watch.path.empty(), !watch.path_inode);
}

TEST_F(LivePaths, NamesAreTakenAsTheyAre) {
    constexpr std::string_view name = "/two\nlines \\x \xff (deleted)";
    const uint64_t old = watch(name);
    EXPECT_EQ(read_watch(old).path, at(name));
    replace(name);
    const auto watch = read_watch(old);
    EXPECT_EQ(watch.path, at(name));
    EXPECT_EQ(watch.path_inode, inode_of(at(name)));
}

TEST_F(LivePaths, OnlySoManyAndItIsSaid) {
    (void)watch("/a");
    (void)watch("/b");
    const auto with_path = [](const std::vector<InotifyWatch> &all) {
        return std::ranges::count_if(all, [](const InotifyWatch &one) { return !one.path.empty(); });
    };
    EXPECT_EQ(with_path(ours(read({.paths = 1'000'000, .paths_of_process = 1}).inotify_watches)), 1);
    ASSERT_EQ(path_problems().size(), 1U);
    EXPECT_THAT(path_problems()[0].why, HasSubstr("at most 1 of a process are, 1,000,000 of all"));
    problems.clear();
    EXPECT_LE(with_path(read({.paths = 1}).inotify_watches), 1) << "of all processes";
    EXPECT_EQ(path_problems().size(), 1U);
    problems.clear();
    const auto none = read({.paths = 0});
    EXPECT_EQ(with_path(none.inotify_watches), 0);
    EXPECT_GE(ours(none.inotify_watches).size(), 2U) << "they are listed all the same";
    EXPECT_EQ(path_problems().size(), 1U);
}

TEST_F(LivePaths, WithoutPrivilegesTheyStayEmpty) {
    struct Refuses final : sys::Hook {
        Refuses() { sys::set_hook(this); }
        ~Refuses() override { sys::set_hook(nullptr); }
        int before(const sys::Call &call) noexcept override {
            if (call.name == nullptr || std::string_view(call.name) != "open_by_handle_at") return 0;
            ++calls;
            return EPERM;
        }
        int calls = 0;
    };
    const uint64_t first = watch("/a");
    (void)watch("/b");
    const Refuses hook;
    const auto watch = read_watch(first);
    EXPECT_EQ(watch.path, "");
    EXPECT_EQ(watch.path_inode, std::nullopt);
    EXPECT_EQ(hook.calls, 1) << "nothing is asked for in vain";
    ASSERT_EQ(path_problems().size(), 1U);
    EXPECT_THAT(path_problems()[0].why, HasSubstr("CAP_DAC_READ_SEARCH"));
}

/// The disk of another host: a handle that stands there would be opened on a file system of this one.
TEST_F(LivePaths, OfAnotherHostAreNotLookedFor) {
    const uint64_t file = watch("/conf");
    auto info = sys::read_file(AT_FDCWD, fmt::format("/proc/self/fdinfo/{}", inotify_.get()).c_str(), 65'536);
    ASSERT_TRUE(info) << info.error().text();
    const TestRoot other;
    other.file("/proc/5/comm", "x\n");
    other.link("anon_inode:inotify", "/proc/5/fd/3");
    other.file("/proc/5/fdinfo/3", *info);
    const auto facts = read_processes(other.host(), problems);
    ASSERT_EQ(facts.inotify_watches.size(), 1U);
    EXPECT_EQ(facts.inotify_watches[0].inode, file);
    EXPECT_EQ(facts.inotify_watches[0].path, "");
    EXPECT_EQ(facts.inotify_watches[0].path_inode, std::nullopt);
    EXPECT_THAT(path_problems(), IsEmpty());
}

} // namespace
} // namespace shale::probe
