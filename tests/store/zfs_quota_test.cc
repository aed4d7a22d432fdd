// SPDX-License-Identifier: Apache-2.0
// A store, records and all, on a dataset at its quota: what is made ends in a named error and leaves nothing; when
// there is room again, work goes on without repair.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "support/world.h"
#include "sys/fs.h"
#include "sys/zfs.h"

namespace shale::test {
namespace {

/// Writes `data` to a new file until there is no room. ZFS counts what it has written out: a refusal holds when the
/// next transaction group has not made it untrue.
void write_until_full(const std::string &path, std::string_view data, const std::function<void()> &write_out) {
    constexpr size_t piece = 64U << 10U;
    const auto file = sys::open_at(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644);
    ASSERT_TRUE(file) << file.error().text();
    unsigned refused = 0;
    for (size_t at = 0; at < data.size() && refused < 2;) {
        const ssize_t got =
            ::pwrite(file->get(), data.data() + at, std::min(piece, data.size() - at), static_cast<off_t>(at));
        if (got > 0) {
            at += static_cast<size_t>(got);
            refused = 0;
            continue;
        }
        ASSERT_TRUE(errno == EDQUOT || errno == ENOSPC) << std::strerror(errno);
        ++refused;
        write_out();
    }
    ASSERT_EQ(refused, 2U) << "there was room for everything";
}

TEST(ZfsQuota, WorkGoesOnWhenThereIsRoomAgain) {
    if (const auto why = cannot_test("zfs"); !why.empty()) GTEST_SKIP() << why;
    const World world("zfs");
    const auto zfs = sys::Zfs::open();
    const auto home = sys::zfs_dataset_of(sys::open_dir(AT_FDCWD, world.path().c_str())->get());
    ASSERT_TRUE(zfs && home);
    std::string noise(3U << 20U, '\0');
    std::mt19937 random(3); // NOLINT: the same each time
    for (char &c : noise)
        c = static_cast<char>(random());
    const World outside; // archives lie elsewhere
    write_docker_archive(outside / "base.tar", {{{file("a"), "a"}}}, "base:1");
    write_docker_archive(outside / "big.tar", {{{file("a"), "a"}}, {{file("big"), noise}}}, "big:1");

    auto store = open_store(world / "root", "zfs");
    store::ImportRequest request;
    request.source = outside / "base.tar";
    ASSERT_TRUE(store->import_images(request, {}));
    ASSERT_TRUE(store->create_container("base:1", "filler", {}));
    const auto at = store->mount_container("filler");
    ASSERT_TRUE(at);
    ASSERT_TRUE(zfs->set(*home, {{"quota", std::to_string(zfs->get(*home)->used + (2U << 20U))}}));
    const auto write_out = [&] {
        const auto written = zfs->sync_pool(sys::zfs_pool_of(*home));
        EXPECT_TRUE(written) << written.error().text();
    };
    ASSERT_NO_FATAL_FAILURE(write_until_full(*at + "/fill", noise, write_out));

    // A create that finds room (there is some slack in how ZFS counts) takes of it, so that the next ones do not.
    constexpr size_t wanted = 5;
    std::vector<std::string> refused_names;
    std::vector<std::string> made_names;
    for (int i = 0; i < 100 && refused_names.size() < wanted; ++i) {
        const std::string name = "try" + std::to_string(i);
        const auto made = store->create_container("base:1", name, {});
        if (made) {
            made_names.push_back(name);
        } else {
            EXPECT_EQ(made.error().code(), Errc::ResourceExhausted) << made.error().text();
            EXPECT_FALSE(made.error().text().empty());
            refused_names.push_back(name);
        }
        write_out();
    }
    ASSERT_EQ(refused_names.size(), wanted) << "room was found for " << made_names.size() << " containers";
    for (const auto &name : refused_names) {
        const auto found = store->find_container(name);
        ASSERT_FALSE(found) << name << " was refused, and is there";
        EXPECT_EQ(found.error().code(), Errc::NotFound) << found.error().text();
    }
    request.source = outside / "big.tar";
    const auto refused = store->import_images(request, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted) << refused.error().text();
    EXPECT_FALSE(store->find_image("big:1"));

    ASSERT_TRUE(zfs->set(*home, {{"quota", "none"}}));
    const auto imported = store->import_images(request, {});
    EXPECT_TRUE(imported) << imported.error().text();
    const auto made = store->create_container("big:1", "after", {});
    EXPECT_TRUE(made) << made.error().text();
    for (const auto &name : refused_names) {
        const auto again = store->create_container("base:1", name, {});
        EXPECT_TRUE(again) << again.error().text();
        made_names.push_back(name);
    }
    for (const auto &name : made_names) {
        const auto mounted = store->mount_container(name);
        ASSERT_TRUE(mounted) << name << ": " << mounted.error().text();
        EXPECT_EQ(read_all(*mounted + "/a"), "a") << name;
        std::ofstream(*mounted + "/new") << name;
        EXPECT_EQ(read_all(*mounted + "/new"), name);
        EXPECT_TRUE(store->unmount_container(name)) << name;
    }
    ASSERT_TRUE(store->unmount_container("filler"));
    EXPECT_TRUE(store->remove_container("filler", false));
    const auto collected = store->gc(false);
    EXPECT_TRUE(collected) << collected.error().text();
    const auto checked = store->check(store::CheckLevel::data, {});
    ASSERT_TRUE(checked) << checked.error().text();
    for (const auto &problem : checked->problems)
        ADD_FAILURE() << problem.object << " " << problem.what;
}

} // namespace
} // namespace shale::test
