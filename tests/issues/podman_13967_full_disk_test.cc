// SPDX-License-Identifier: Apache-2.0
// podman #13967, #25317, #16614: on a full file system nothing can be listed or removed, for the records themselves
// want room; what would free space is refused for want of space. Here the store keeps a reserve for that: every growing
// operation ends in a named error, every removal works, and work goes on without repair when space returns.
#include <sys/statfs.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "issues/issue_test.h"
#include "sys/mount.h"

namespace shale::test {
namespace {

constexpr uint64_t disk_bytes = uint64_t{512} << 20;

struct Place {
    std::string driver, file_system;
};

class Podman13967 : public testing::TestWithParam<Place> {
protected:
    void SetUp() override {
        if (const auto why = cannot_test(GetParam().driver); !why.empty()) GTEST_SKIP() << why;
        std::filesystem::create_directory(disk_);
        const bool btrfs = GetParam().file_system == "btrfs";
        const auto mounted = mount_new(GetParam().file_system, disk_bytes, disk_,
                                       btrfs ? std::vector<std::string>{"commit=1"} : std::vector<std::string>());
        ASSERT_TRUE(mounted) << mounted.error().text();
    }
    void TearDown() override {
        unmount_below(disk_);
        (void)sys::unmount(disk_, 2 /* MNT_DETACH */);
    }
    std::unique_ptr<store::Store> open() { return open_store(disk_ + "/root", GetParam().driver); }
    Status import(store::Store &store, const std::string &name, const std::string &content) {
        write_docker_archive(world_ / "image.tar", {{{file("a"), content}, {file("b"), content}}}, name);
        store::ImportRequest request;
        request.source = world_ / "image.tar";
        if (auto imported = store.import_images(request, {}); !imported) return std::unexpected(imported.error());
        return {};
    }
    /// Until neither a byte nor a file more is taken.
    void fill_disk() const {
        std::filesystem::create_directory(disk_ + "/others");
        for (size_t block = size_t{1} << 20; block >= 512; block /= 2) {
            const UniqueFd fd(::open((disk_ + "/others/" + std::to_string(block)).c_str(), O_WRONLY | O_CREAT, 0600));
            if (!fd) continue;
            const std::string data(block, 'x');
            while (::write(fd.get(), data.data(), data.size()) > 0) {
            }
            (void)::fsync(fd.get());
        }
        for (int i = 0; i < 100'000; ++i) { // small ones: btrfs keeps them in its metadata
            const UniqueFd fd(::open((disk_ + "/others/small" + std::to_string(i)).c_str(), O_WRONLY | O_CREAT, 0600));
            if (!fd || ::write(fd.get(), disk_.data(), disk_.size()) < 0) break;
        }
        ::sync();
    }

    World world_{"overlay2"};
    std::string disk_ = world_ / "disk";
};

TEST_P(Podman13967, AFullDiskListsRemovesAndGoesOn) {
    {
        const auto store = open();
        ASSERT_TRUE(import(*store, "app:1", "content"));
        ASSERT_TRUE(import(*store, "app:2", std::string(8U << 20U, 'i')));
        for (const auto *name : {"kept", "victim"})
            ASSERT_TRUE(store->create_container("app:1", name, {}));
        for (const auto *name : {"kept", "victim"}) {
            const auto at = store->mount_container(name);
            ASSERT_TRUE(at) << at.error().text();
            std::ofstream(*at + "/own") << "own";
            if (name == std::string("victim")) std::ofstream(*at + "/large") << std::string(100U << 20U, 'v');
            ASSERT_TRUE(store->unmount_container(name));
        }
    }
    fill_disk();
    {
        const auto store = open(); // as after a reboot
        ASSERT_NE(store, nullptr);
        EXPECT_EQ(store->list_containers()->size(), 2U);
        EXPECT_EQ(store->list_images()->size(), 2U);
        EXPECT_TRUE(store->space());
        for (int i = 0; i < 3; ++i) {
            const auto created = store->create_container("app:1", "more" + std::to_string(i), {});
            ASSERT_FALSE(created);
            EXPECT_EQ(created.error().code(), Errc::ResourceExhausted) << created.error().text();
        }
        const auto imported = import(*store, "app:3", std::string(9U << 20U, 'j'));
        ASSERT_FALSE(imported);
        EXPECT_EQ(imported.error().code(), Errc::ResourceExhausted) << imported.error().text();
        EXPECT_EQ(store->list_containers()->size(), 2U) << "nothing half-made is left";
        EXPECT_FALSE(store->find_image("app:3"));

        const auto removed = store->remove_container("victim", false);
        ASSERT_TRUE(removed) << removed.error().text();
        const auto untagged = store->remove_image("app:2", false, false);
        ASSERT_TRUE(untagged) << untagged.error().text();
        const auto swept = store->gc(false);
        ASSERT_TRUE(swept) << swept.error().text();
    }
    // Elsewhere that was enough. A btrfs whose chunks are all given out has none for metadata until one is empty.
    if (GetParam().file_system == "btrfs") std::filesystem::remove_all(disk_ + "/others");
    // It gives space back in the background, with its next transactions.
    Result<store::ContainerInfo> created = fail(Errc::Internal, "not tried");
    for (int i = 0; i < 600 && !created; ++i) {
        const auto store = open();
        ASSERT_NE(store, nullptr);
        created = store->create_container("app:1", "next", {});
        if (created) break;
        ASSERT_EQ(created.error().code(), Errc::ResourceExhausted) << created.error().text();
        ::sync();
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    ASSERT_TRUE(created) << created.error().text();
    const auto store = open();
    const auto at = store->mount_container("next");
    ASSERT_TRUE(at) << at.error().text();
    std::ofstream(*at + "/large") << std::string(10U << 20U, 'n');
    EXPECT_EQ(read_all(*at + "/a"), "content");
    EXPECT_EQ(std::filesystem::file_size(*at + "/large"), 10U << 20U);
    ASSERT_TRUE(store->unmount_container("next"));
    ASSERT_TRUE(import(*store, "app:3", std::string(9U << 20U, 'j')));
    const auto kept = store->mount_container("kept");
    ASSERT_TRUE(kept) << kept.error().text();
    EXPECT_EQ(read_all(*kept + "/own"), "own");
    ASSERT_TRUE(store->unmount_container("kept"));
    const auto checked = store->check(store::CheckLevel::data, {});
    ASSERT_TRUE(checked) << checked.error().text();
    for (const auto &problem : checked->problems)
        ADD_FAILURE() << problem.object << ": " << problem.what;
}

INSTANTIATE_TEST_SUITE_P(Places, Podman13967,
                         testing::Values(Place{"overlay2", "ext4"}, Place{"overlay2", "xfs"},
                                         Place{"overlay2", "btrfs"}, Place{"btrfs", "btrfs"}, Place{"erofs", "ext4"},
                                         Place{"erofs", "xfs"}, Place{"vfs", "ext4"}, Place{"overlay", "ext4"}),
                         [](const auto &info) { return info.param.driver + "_on_" + info.param.file_system; });

} // namespace
} // namespace shale::test
