// SPDX-License-Identifier: Apache-2.0
// moby #20707, #20272: a thin pool runs full (of metadata, unseen), the kernel makes it read-only and containers hang;
// the repair is by hand. Here what could overflow it is refused before, with the figures, and work goes on when space
// returns.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE_OF(Moby20707, "devicemapper");

TEST_P(Moby20707, AFullPoolRefusesAndGoesOn) {
    auto options = store_options(world_ / "root", GetParam());
    options.driver_options["metadata_size"] = "512K";
    auto opened = store::Store::open(options);
    ASSERT_TRUE(opened) << opened.error().text();
    auto &store = **opened;
    import(store, {{{file("a"), "a"}}}, "app:1");
    const auto name = [](int i) { return "c" + std::to_string(i); };
    int made = 0;
    Status done;
    while (done && made < 500) {
        const auto created = store.create_container("app:1", name(made), {});
        if (!created) {
            done = std::unexpected(created.error());
            break;
        }
        const auto at = store.mount_container(name(made));
        ASSERT_TRUE(at) << at.error().text();
        std::ofstream(*at + "/own") << "own";
        ASSERT_TRUE(store.unmount_container(name(made)));
        ++made;
    }
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code(), Errc::ResourceExhausted) << done.error().text();
    EXPECT_NE(done.error().text().find("metadata is nearly full"), std::string::npos) << done.error().text();
    EXPECT_NE(done.error().text().find("metadata_size"), std::string::npos) << "what one can do";
    EXPECT_FALSE(store.find_container(name(made))) << "nothing is left of it";
    for (int i = 0; i < made; ++i)
        ASSERT_TRUE(store.remove_container(name(i), false));
    ASSERT_TRUE(store.gc(false));
    ASSERT_TRUE(store.create_container("app:1", "fresh", {}));
    const auto at = store.mount_container("fresh");
    ASSERT_TRUE(at) << at.error().text();
    std::ofstream(*at + "/own") << "own";
    EXPECT_EQ(read_all(*at + "/a"), "a");
    ASSERT_TRUE(store.unmount_container("fresh"));
    const auto checked = store.check(store::CheckLevel::data, {});
    ASSERT_TRUE(checked);
    EXPECT_TRUE(checked->problems.empty());
}

TEST_P(Moby20707, FullDataRefusesAndGoesOn) {
    auto options = store_options(world_ / "root", GetParam());
    options.driver_options["data_size"] = GetParam().ends_with("_xfs") ? "48M" : "32M";
    auto opened = store::Store::open(options);
    ASSERT_TRUE(opened) << opened.error().text();
    auto &store = **opened;
    import(store, {{{file("a"), "a"}}}, "app:1");
    ASSERT_TRUE(store.create_container("app:1", "filler", {}));
    const auto at = store.mount_container("filler");
    ASSERT_TRUE(at) << at.error().text();
    int ended = 0;
    {
        const UniqueFd fd(::open((*at + "/fill").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        const std::string block(1U << 20U, 'x');
        for (int i = 0; i < 64 && ended == 0; ++i)
            if (::write(fd.get(), block.data(), block.size()) < 0 || ::fsync(fd.get()) != 0) ended = errno;
    }
    EXPECT_TRUE(ended == ENOSPC || ended == EIO) << ended;
    for (int i = 0; i < 5; ++i) {
        const auto refused = store.create_container("app:1", "c" + std::to_string(i), {});
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted) << refused.error().text();
        for (const auto *part : {"data space is nearly full", "blocks of 64.0 KiB in use", "data_size"})
            EXPECT_NE(refused.error().text().find(part), std::string::npos) << refused.error().text();
        EXPECT_FALSE(store.find_container("c" + std::to_string(i))) << "nothing is left of it";
    }
    write_docker_archive(world_ / "other.tar", {{{file("b"), "b"}}}, "other:1");
    store::ImportRequest request;
    request.source = world_ / "other.tar";
    const auto refused = store.import_images(request, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted) << refused.error().text();
    (void)store.unmount_container("filler"); // its file system may have lost its journal
    ASSERT_TRUE(store.remove_container("filler", true));
    ASSERT_TRUE(store.gc(false));
    ASSERT_TRUE(store.import_images(request, {}));
    ASSERT_TRUE(store.create_container("app:1", "fresh", {}));
    const auto again = store.mount_container("fresh");
    ASSERT_TRUE(again) << again.error().text();
    std::ofstream(*again + "/own") << "own";
    EXPECT_EQ(read_all(*again + "/a"), "a");
    ASSERT_TRUE(store.unmount_container("fresh"));
    const auto checked = store.check(store::CheckLevel::data, {});
    ASSERT_TRUE(checked);
    EXPECT_TRUE(checked->problems.empty());
}

} // namespace
} // namespace shale::test
