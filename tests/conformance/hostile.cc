// SPDX-License-Identifier: Apache-2.0
// Hostile layers through every driver, as an import brings them: on top of a base, into a store that others use. What
// they are after lies beside the store, on the file system of the store; it must stay as it is to the last time of
// change.
#include "conformance/hostile.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "conformance/fixture.h"
#include "drivers/common.h"
#include "store/store.h"
#include "sys/fs.h"

namespace shale::conformance {
namespace {

namespace fs = std::filesystem;
using hostile::Case;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char *secret = "what the host keeps to itself";

class Hostile : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        if (const auto why = test::cannot_test(GetParam()); !why.empty()) GTEST_SKIP() << why;
        if (const auto why = test::cannot_mount(); !why.empty()) GTEST_SKIP() << why;
        world_.emplace(GetParam());
        for (const auto *sibling : {"canary", "root-evil"}) {
            const std::string path = *world_ / sibling;
            fs::create_directories(path + "/dir");
            fs::permissions(path + "/dir", fs::perms(0700));
            put(path + "/secret", secret, 0640);
            put(path + "/dir/inner", secret, 0600);
        }
        store_ = test::open_store(*world_ / "root", GetParam());
        test::write_docker_archive(*world_ / "image.tar", {hostile::base(outside())}, "base:1");
        const auto imported = import();
        ASSERT_DONE(imported);
        base_ = imported->at(0).image.layers.at(0).id;
        before_ = host();
        blobs_ = names_in(*world_ / "root/blobs/sha256");
    }
    void TearDown() override {
        if (!store_) return;
        (void)store_->remove_container("victim", true);
        store_.reset();
        world_.reset();
    }

    [[nodiscard]] std::string outside() const { return *world_ / "canary"; }
    Result<std::vector<store::ImportedImage>> import() {
        store::ImportRequest request;
        request.source = *world_ / "image.tar";
        return store_->import_images(request, {});
    }

    /// Everything beside the store, with the times of the last change.
    [[nodiscard]] std::string host() const {
        std::string out = fmt::format("{}\n", fmt::join(names_in(world_->path()), " "));
        std::vector<std::string> paths;
        for (const auto *sibling : {"canary", "root-evil"}) {
            paths.push_back(*world_ / sibling);
            for (const auto &entry : fs::recursive_directory_iterator(paths.back()))
                paths.push_back(entry.path());
        }
        std::ranges::sort(paths);
        for (const auto &path : paths) {
            const auto status = status_of(path);
            out += fmt::format("{} {:o} {}:{} n{} {}.{:09} {}\n", path, status.st_mode, status.st_uid, status.st_gid,
                               status.st_nlink, status.st_ctim.tv_sec, status.st_ctim.tv_nsec,
                               S_ISREG(status.st_mode) ? get(path) : "");
        }
        return out;
    }

    /// What is at `path` below `root`, no link followed; as hostile::Seen says it.
    static std::string look(int root, const std::string &path) {
        const auto found = drivers::find_below(root, path);
        if (!found) return found.error().text();
        if (!*found) return "none";
        const int fd = (*found)->get();
        const auto status = sys::stat_at(fd, "");
        if (!status) return status.error().text();
        const auto device = fmt::format("{}:{}", major(status->st_rdev), minor(status->st_rdev));
        switch (status->st_mode & S_IFMT) {
        case S_IFDIR:
            return "dir";
        case S_IFREG:
            return "file " + get(sys::fd_path(fd));
        case S_IFLNK:
            return "link " + sys::read_link(fd, "").value_or("<error>");
        case S_IFIFO:
            return "fifo";
        case S_IFCHR:
            return "char " + device;
        case S_IFBLK:
            return "block " + device;
        default:
            return fmt::format("mode {:o}", status->st_mode);
        }
    }

    /// Every name that is listed is there, none is a mark of the driver's, no file holds what the host's do.
    static void nothing_of_the_host(int dir, const std::vector<std::string> &ghosts, const std::string &path = {}) {
        const auto entries = sys::list_dir(dir);
        ASSERT_DONE(entries);
        for (const auto &entry : *entries) {
            const std::string name = path + "/" + entry.name;
            const auto status = sys::stat_if_exists(dir, entry.name.c_str());
            ASSERT_DONE(status);
            if (!*status) {
                EXPECT_THAT(ghosts, testing::Contains(name)) << name << " is listed, and is not there";
                continue;
            }
            const mode_t mode = (*status)->st_mode;
            EXPECT_FALSE(entry.name.starts_with(".wh.")) << name;
            EXPECT_FALSE(S_ISCHR(mode) && (*status)->st_rdev == 0) << name << " is a whiteout";
            if (!S_ISREG(mode) && !S_ISDIR(mode)) continue;
            const auto file = sys::open_at(dir, entry.name.c_str(), O_RDONLY | O_NOFOLLOW);
            ASSERT_DONE(file);
            if (S_ISDIR(mode))
                nothing_of_the_host(file->get(), ghosts, name);
            else
                EXPECT_THAT(get(sys::fd_path(file->get())), testing::Not(HasSubstr(secret))) << name;
        }
    }

    void is_accepted(const Case &one) {
        const auto imported = import();
        ASSERT_DONE(imported);
        ASSERT_EQ(imported->at(0).image.layers.size(), 2U);
        EXPECT_EQ(imported->at(0).image.layers[0].id, base_);
        ASSERT_DONE(store_->create_container("hostile:1", "victim", {}));
        const auto at = store_->mount_container("victim");
        ASSERT_DONE(at);
        {
            const auto root = sys::open_dir(AT_FDCWD, at->c_str());
            ASSERT_DONE(root);
            const bool overlay = GetParam() == "overlay2" || GetParam() == "erofs";
            for (const auto &[path, what] : overlay && !one.on_overlay.empty() ? one.on_overlay : one.seen)
                EXPECT_EQ(look(root->get(), path), what) << path;
            nothing_of_the_host(root->get(), overlay ? one.ghosts : std::vector<std::string>());
        }
        EXPECT_DONE(store_->unmount_container("victim"));
        is_whole();
        EXPECT_DONE(store_->remove_container("victim", true));
        EXPECT_DONE(store_->remove_image("hostile:1", false, false));
    }

    void is_refused(const Case &one) {
        const auto imported = import();
        ASSERT_FALSE(imported) << "it was accepted";
        EXPECT_EQ(imported.error().code(), one.code) << imported.error().text();
        EXPECT_THAT(imported.error().text(), HasSubstr(one.refused));
        EXPECT_THAT(imported.error().text(), HasSubstr("layer 2 of 2"));
        EXPECT_FALSE(store_->find_image("hostile:1"));
        is_whole();
    }

    void is_whole() {
        const auto checked = store_->check(store::CheckLevel::data, {});
        ASSERT_DONE(checked);
        for (const auto &problem : checked->problems)
            ADD_FAILURE() << problem.object << ": " << problem.what;
    }

    /// The base is all there is.
    void nothing_remains() {
        const auto collected = store_->gc(false);
        ASSERT_DONE(collected);
        const auto layers = store_->list_layers();
        ASSERT_DONE(layers);
        ASSERT_EQ(layers->size(), 1U);
        EXPECT_EQ(layers->front().id, base_);
        const auto kept = store_->driver().list();
        ASSERT_DONE(kept);
        EXPECT_THAT(*kept, ElementsAre(base_));
        const auto trash = store_->driver().trash_layers();
        ASSERT_DONE(trash);
        EXPECT_EQ(*trash, 0U);
        EXPECT_THAT(names_in(*world_ / "root/tmp"), testing::IsEmpty());
        EXPECT_EQ(names_in(*world_ / "root/blobs/sha256"), blobs_);
    }

    void run(const std::vector<Case> &cases) {
        for (const auto &one : cases) {
            SCOPED_TRACE(one.name);
            test::write_docker_archive(*world_ / "image.tar", {hostile::base(outside()), one.layer}, "hostile:1");
            if (one.refused.empty())
                is_accepted(one);
            else
                is_refused(one);
            // Also after a failure: the next case begins with what this one was to leave.
            (void)store_->remove_container("victim", true);
            (void)store_->remove_image("hostile:1", true, false);
            nothing_remains();
            ASSERT_EQ(host(), before_) << "something outside has changed";
        }
    }

    std::optional<test::World> world_;
    std::unique_ptr<store::Store> store_;
    LayerId base_;
    std::string before_;
    std::vector<std::string> blobs_;
};

TEST_P(Hostile, Names) {
    run(hostile::names(outside()));
}
TEST_P(Hostile, Symlinks) {
    run(hostile::symlinks(outside()));
}
TEST_P(Hostile, HardLinks) {
    run(hostile::hard_links(outside()));
}
TEST_P(Hostile, Whiteouts) {
    run(hostile::whiteouts(outside()));
}
TEST_P(Hostile, Nodes) {
    run(hostile::nodes(outside()));
}
TEST_P(Hostile, Repeated) {
    run(hostile::repeated(outside()));
}
TEST_P(Hostile, Attributes) {
    run(hostile::attributes(outside()));
}

INSTANTIATE_TEST_SUITE_P(Drivers, Hostile, testing::ValuesIn(driver_names()),
                         [](const auto &info) { return info.param; });

} // namespace
} // namespace shale::conformance
