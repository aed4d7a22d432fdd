// SPDX-License-Identifier: Apache-2.0
// vfs without root's rights and outside a user name space: directories whose modes lock out their owner.
#include "drivers/vfs/vfs.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>

#include "archive/extract.h"
#include "archive/tar_test_util.h"
#include "sys/fs.h"

namespace shale::drivers::vfs {
namespace {

using namespace archive::testing;

class VfsAsNobody : public testing::Test {
protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become another user: NOT TESTED";
        path_ = "/tmp/shale-vfs-XXXXXX";
        ASSERT_NE(::mkdtemp(path_.data()), nullptr);
        ASSERT_EQ(::chown(path_.c_str(), nobody, nobody), 0);
    }
    void TearDown() override {
        if (path_.empty()) return;
        EXPECT_TRUE(sys::remove_tree(AT_FDCWD, path_.c_str()));
    }

    /// Runs `body` in a child process that is uid 65534, with a driver in a directory of its own.
    void as_nobody(const std::function<void()> &body) {
        const pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            if (::setgroups(0, nullptr) != 0 || ::setgid(nobody) != 0 || ::setuid(nobody) != 0) ::_exit(2);
            auto driver = open(path_ + "/vfs", {});
            if (!driver) ::_exit(3);
            driver_ = std::move(*driver);
            body();
            ::_exit(HasFailure() ? 1 : 0);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the child's failures are above; " << status;
    }
    void import(LayerId id, const std::vector<LayerId> &parents, const std::string &tar) {
        const auto done = [&]() -> Status {
            auto staging = TRY(driver_->stage(id, parents));
            archive::TarReader reader(source_of(tar), {});
            archive::ExtractOptions options;
            options.whiteouts = staging.whiteouts;
            options.owners = archive::OwnerPolicy::squash;
            const auto report = TRY(archive::extract_tar(reader, *staging.tree, options));
            return driver_->apply(id, parents, std::move(staging), report);
        }();
        EXPECT_TRUE(done) << done.error().text();
    }
    [[nodiscard]] std::string at(LayerId id, const std::string &name) const {
        return path_ + "/vfs/" + to_string(id) + "/fs/" + name;
    }
    [[nodiscard]] mode_t mode(LayerId id, const std::string &name) const {
        struct stat out{};
        EXPECT_EQ(::lstat(at(id, name).c_str(), &out), 0) << name;
        return out.st_mode & 07777;
    }
    [[nodiscard]] std::string read(LayerId id, const std::string &name) const {
        return sys::read_file(AT_FDCWD, at(id, name).c_str(), 1000).value_or("<missing>");
    }
    void remove(std::initializer_list<LayerId> ids) {
        for (const LayerId id : ids)
            EXPECT_TRUE(driver_->remove(id));
        const auto reaped = driver_->reap(nullptr);
        EXPECT_TRUE(reaped) << reaped.error().text();
        EXPECT_EQ(driver_->trash()->layers, 0U);
    }

    static constexpr uid_t nobody = 65'534;
    std::string path_;
    std::unique_ptr<Driver> driver_;
};

TEST_F(VfsAsNobody, LockedDirectoriesOfALayer) {
    as_nobody([&] {
        const LayerId id{1};
        import(id, {},
               dir("./", 0555) + dir("none", 0) + file("none/f", "f") + dir("none/sub", 0) + file("none/sub/g", "g") +
                   dir("ro", 0555) + file("ro/f", "1") + dir("write", 0300) + file("write/f", "w") + dir("list", 0400) +
                   file("list/f", "l") + dir("list/d") + file("ro/f", "2") + file("none/h", "h") +
                   link("hard", "none/sub/g") + link("none/sub/again", "hard") + dir("open", 0) + file("open/f", "o") +
                   dir("open", 0755));
        EXPECT_EQ(mode(id, ""), 0555U);
        EXPECT_EQ(mode(id, "none"), 0U);
        EXPECT_EQ(mode(id, "ro"), 0555U);
        EXPECT_EQ(mode(id, "write"), 0300U);
        EXPECT_EQ(mode(id, "list"), 0400U);
        EXPECT_EQ(mode(id, "open"), 0755U);
        EXPECT_EQ(read(id, "ro/f"), "2");
        EXPECT_EQ(read(id, "hard"), "g");
        EXPECT_EQ(::chmod(at(id, "none").c_str(), 0700), 0);
        EXPECT_EQ(mode(id, "none/sub"), 0U);
        EXPECT_EQ(::chmod(at(id, "none/sub").c_str(), 0700), 0);
        EXPECT_EQ(read(id, "none/f") + read(id, "none/h") + read(id, "none/sub/again"), "fhg");
        EXPECT_EQ(::chmod(at(id, "none/sub").c_str(), 0), 0);
        EXPECT_EQ(::chmod(at(id, "none").c_str(), 0), 0);
        remove({id});
    });
}

TEST_F(VfsAsNobody, LockedDirectoriesOfTheParent) {
    as_nobody([&] {
        const LayerId base{1}, top{2};
        import(base, {},
               dir("./", 0555) + dir("ro", 0555) + file("ro/f", "old") + file("ro/gone", "g") + dir("ro/sub", 0555) +
                   file("ro/sub/x", "x") + dir("untouched", 0555) + dir("untouched/d", 0555) +
                   file("untouched/d/f", "u") + dir("opened", 0555) + dir("closed", 0755) + file("closed/f", "c") +
                   dir("replaced", 0555) + file("replaced/f", "r") + symlink("alias", "ro"));
        import(top, {base},
               file("ro/f", "new") + file("ro/.wh.gone") + link("l", "ro/sub/x") + dir("opened", 0700) +
                   file("opened/f", "o") + dir("closed", 0500) + file("closed/g", "g") +
                   file("replaced", "now a file") + dir("fresh", 0) + file("fresh/f", "f") +
                   file("alias/by-alias", "a") + file("untouched/d/new", "n"));
        EXPECT_EQ(mode(top, ""), 0555U);
        EXPECT_EQ(mode(top, "ro"), 0555U);
        EXPECT_EQ(mode(top, "ro/sub"), 0555U);
        EXPECT_EQ(mode(top, "untouched"), 0555U);
        EXPECT_EQ(mode(top, "untouched/d"), 0555U);
        EXPECT_EQ(mode(top, "opened"), 0700U);
        EXPECT_EQ(mode(top, "closed"), 0500U);
        EXPECT_EQ(mode(top, "fresh"), 0U);
        EXPECT_EQ(read(top, "ro/f"), "new");
        EXPECT_EQ(read(top, "ro/gone"), "<missing>");
        EXPECT_EQ(read(top, "ro/by-alias"), "a");
        EXPECT_EQ(read(top, "l"), "x");
        EXPECT_EQ(read(top, "closed/f") + read(top, "closed/g"), "cg");
        EXPECT_EQ(read(top, "replaced"), "now a file");
        EXPECT_EQ(read(top, "untouched/d/f") + read(top, "untouched/d/new"), "un");
        EXPECT_EQ(mode(base, "ro"), 0555U) << "the parent is as it was";
        remove({top, base});
    });
}

} // namespace
} // namespace shale::drivers::vfs
