// SPDX-License-Identifier: Apache-2.0
// moby #27653, #29601: a btrfs refuses everything while df shows free bytes: all chunks are given out, those of data
// have room, that of metadata has none. Every create ends in a named error, what is there can be listed and removed,
// and when metadata has room again work goes on without repair.
#include <sys/statfs.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "issues/issue_test.h"
#include "sys/mount.h"

namespace shale::test {
namespace {

class Moby27653 : public testing::Test {
protected:
    void SetUp() override {
        if (const auto why = cannot_test("btrfs"); !why.empty()) GTEST_SKIP() << why;
        std::filesystem::create_directory(disk_);
        const auto mounted = mount_new("btrfs", uint64_t{512} << 20U, disk_, {"commit=1"});
        ASSERT_TRUE(mounted) << mounted.error().text();
    }
    void TearDown() override {
        unmount_below(disk_);
        (void)sys::unmount(disk_, 2 /* MNT_DETACH */);
    }
    std::unique_ptr<store::Store> open() { return open_store(disk_ + "/root", "btrfs"); }
    [[nodiscard]] std::string other(const char *kind, int number) const {
        return disk_ + "/others/" + kind + std::to_string(number);
    }
    /// False: there is no room for it.
    static bool write(const std::string &path, const std::string &data) {
        const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        return fd && ::write(fd.get(), data.data(), data.size()) == static_cast<ssize_t>(data.size());
    }
    void fill_metadata() {
        std::filesystem::create_directory(disk_ + "/others");
        const std::string large(size_t{1} << 20U, 'x'), small(1'500, 's'); // small ones lie in the metadata
        int data = 0;
        while (write(other("data", data), large))
            ++data;
        ::sync(); // every chunk is given out
        for (int i = 0; i < data; i += 2)
            std::filesystem::remove(other("data", i));
        ::sync();
        for (int failed = 0; failed < 3; ++failed) { // what is under way holds some back
            while (write(other("small", small_), small))
                ++small_;
            ::sync();
        }
    }

    World world_{"overlay2"};
    std::string disk_ = world_ / "disk";
    int small_ = 0;
};

TEST_F(Moby27653, FreeBytesAndNoMetadataIsANamedError) {
    {
        const auto store = open();
        write_docker_archive(world_ / "image.tar", {{{file("a"), "content"}}}, "app:1");
        store::ImportRequest request;
        request.source = world_ / "image.tar";
        ASSERT_TRUE(store->import_images(request, {}));
        for (const auto *name : {"kept", "victim"})
            ASSERT_TRUE(store->create_container("app:1", name, {}));
    }
    fill_metadata();
    struct statfs info{};
    ASSERT_EQ(::statfs(disk_.c_str(), &info), 0);
    ASSERT_GT(static_cast<uint64_t>(info.f_bfree) * static_cast<uint64_t>(info.f_bsize), uint64_t{50} << 20U)
        << "not only the metadata is full";
    {
        const auto store = open();
        ASSERT_NE(store, nullptr);
        for (int i = 0; i < 3; ++i) {
            const auto created = store->create_container("app:1", "more" + std::to_string(i), {});
            ASSERT_FALSE(created);
            EXPECT_EQ(created.error().code(), Errc::ResourceExhausted) << created.error().text();
        }
        EXPECT_EQ(store->list_containers()->size(), 2U) << "nothing half-made is left";
        const auto removed = store->remove_container("victim", false);
        EXPECT_TRUE(removed) << removed.error().text();
    }
    for (int i = 0; i < small_; ++i)
        std::filesystem::remove(other("small", i));
    Result<store::ContainerInfo> created = fail(Errc::Internal, "not tried");
    for (int i = 0; i < 600 && !created; ++i) { // btrfs gives it back with its next transactions
        ::sync();
        created = open()->create_container("app:1", "next", {});
        if (!created) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    ASSERT_TRUE(created) << created.error().text();
    const auto store = open();
    const auto at = store->mount_container("next");
    ASSERT_TRUE(at) << at.error().text();
    EXPECT_EQ(read_all(*at + "/a"), "content");
    ASSERT_TRUE(store->unmount_container("next"));
    const auto checked = store->check(store::CheckLevel::data, {});
    ASSERT_TRUE(checked) << checked.error().text();
    for (const auto &problem : checked->problems)
        ADD_FAILURE() << problem.object << ": " << problem.what;
}

} // namespace
} // namespace shale::test
