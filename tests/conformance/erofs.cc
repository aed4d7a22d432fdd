// SPDX-License-Identifier: Apache-2.0
// What only the erofs driver does: images, their mounts, the ladder.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>

#include <fmt/format.h>

#include "conformance/fixture.h"
#include "drivers/erofs/image.h"
#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::conformance {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

class ErofsDriver : public DriverTest {
protected:
    [[nodiscard]] std::string part(LayerId id, const char *name) const {
        return fmt::format("{}/erofs/{}/{}", scratch_, id.value, name);
    }
    /// What is mounted at the layer's place.
    std::string source(LayerId id) {
        const auto table = sys::mount_table();
        EXPECT_DONE(table);
        for (const auto &entry : *table)
            if (entry.target == part(id, "mnt")) return entry.source;
        return {};
    }
};

/// A kernel before 6.12: an image is no device.
class WantsADevice : public sys::Hook {
public:
    int before(const sys::Call &call) noexcept override {
        if (call.op == sys::Op::open && call.name != nullptr)
            is_loop_ = std::string_view(call.name).starts_with("/dev/loop");
        if (call.op != sys::Op::fsconfig || call.name != nullptr || is_loop_) return 0;
        ++refused;
        return ENOTBLK;
    }
    std::atomic<int> refused{0};

private:
    std::atomic<bool> is_loop_{false};
};

TEST_P(ErofsDriver, TheLadder) {
    const LayerId base = import({}, Archive().file("f", "x"));
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
    EXPECT_EQ(source(base), part(base, "image.erofs"));
    ASSERT_DONE(sys::unmount(part(base, "mnt"), 2));
    reopen({});
    WantsADevice hook;
    sys::set_hook(&hook);
    const auto opened = driver_->open_view(base, {});
    sys::set_hook(nullptr);
    ASSERT_DONE(opened);
    EXPECT_EQ(hook.refused, 1);
    EXPECT_EQ(get(sys::fd_path(opened->root.get()) + "/f"), "x");
    EXPECT_THAT(source(base), StartsWith("/dev/loop"));
}

TEST_P(ErofsDriver, AskedForALoopDevice) {
    reopen({{"backing", "loop"}});
    const LayerId base = import({}, Archive().file("f", "x"));
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
    EXPECT_THAT(source(base), StartsWith("/dev/loop"));
}

TEST_P(ErofsDriver, OneMountForAllContainersAndNoneAfterRemoval) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId one = next(), two = next();
    const std::string first = start(one, {base});
    start(two, {base});
    const auto table = sys::mount_table();
    ASSERT_DONE(table);
    EXPECT_EQ(std::ranges::count(*table, part(base, "mnt"), &sys::MountEntry::target), 1);
    // Overlay keeps what it is over: taking the image's own mount away hurts nobody.
    ASSERT_DONE(sys::unmount(part(base, "mnt"), 0));
    EXPECT_EQ(get(first + "/f"), "x");
    put(first + "/f", "y");
    reopen({});
    stop(two);
    EXPECT_EQ(get(mount(two, {base}) + "/f"), "x") << "mounted again";
    stop(one);
    stop(two);
    EXPECT_EQ(source(base), part(base, "image.erofs"));
    ASSERT_DONE(driver_->remove(base));
    EXPECT_THAT(source(base), IsEmpty());
    ASSERT_DONE(driver_->reap(nullptr));
}

TEST_P(ErofsDriver, ExchangedImagesAreSeen) {
    const LayerId old = import({}, Archive().file("f", "old"));
    EXPECT_EQ(get(view(old, {}) + "/f"), "old");
    const LayerId fresh = import({}, Archive().file("f", "new"));
    EXPECT_EQ(get(view(fresh, {}) + "/f"), "new");
    ASSERT_DONE(driver_->exchange(fresh, old));
    EXPECT_EQ(get(view(old, {}) + "/f"), "new");
}

TEST_P(ErofsDriver, ReproducibleWithItsDigest) {
    Archive tar;
    tar.dir("d").file("d/a", std::string(10'000, 'a')).link("b", "d/a").file("implied/c", "c");
    const std::string bytes = tar.bytes();
    const LayerId one = next(), two = next();
    ASSERT_DONE(try_import(one, {}, bytes));
    ASSERT_DONE(try_import(two, {}, bytes));
    EXPECT_TRUE(get(part(one, "image.erofs")) == get(part(two, "image.erofs")));
    EXPECT_THAT(*driver_->verify(one), IsEmpty());
    const UniqueFd image(::open(part(one, "image.erofs").c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(image);
    const auto info = drivers::erofs::read_info(image.get());
    ASSERT_DONE(info);
    ASSERT_EQ(::pwrite(image.get(), "!", 1, static_cast<off_t>(info->bytes) - 1), 1);
    ASSERT_EQ(driver_->verify(one)->size(), 1U);
    EXPECT_THAT(driver_->verify(one)->front(), HasSubstr("changed on disk"));
    EXPECT_THAT(*driver_->check(one, {}), IsEmpty()) << "the quick check reads one block";
    ASSERT_EQ(::ftruncate(image.get(), 5000), 0);
    EXPECT_EQ(driver_->check(one, {})->size(), 1U);
    ASSERT_EQ(::ftruncate(image.get(), 0), 0);
    EXPECT_EQ(driver_->check(one, {})->size(), 1U);
}

/// Every sync, and every rename by its new name, in their order.
class Order : public sys::Hook {
public:
    int before(const sys::Call &call) noexcept override {
        if (call.op == sys::Op::fsync) steps.emplace_back("sync");
        if (call.op == sys::Op::rename) steps.emplace_back(std::filesystem::path(call.name).filename());
        return 0;
    }
    std::vector<std::string> steps;
};

// However much was written: containerd holds its database while it waits for a commit (containerd #13798).
TEST_P(ErofsDriver, SealIsAFewRenames) {
    const LayerId one = next();
    put(start(one, {}) + "/f", "x");
    stop(one);
    Order order;
    sys::set_hook(&order);
    const auto sealed = driver_->seal(one, {});
    sys::set_hook(nullptr);
    ASSERT_DONE(sealed);
    ASSERT_THAT(order.steps, testing::SizeIs(testing::Le(5)));
    EXPECT_EQ(order.steps.front(), "tree");
    EXPECT_THAT(order.steps, testing::Not(testing::Contains("sync")));
    EXPECT_EQ(get(view(one, {}) + "/f"), "x");
}

// What was written is in the trash only when a power cut would leave the image.
TEST_P(ErofsDriver, SettleKeepsTheTreeUntilTheImageIsSynced) {
    const LayerId one = next();
    put(start(one, {}) + "/f", "x");
    commit(one, {});
    Order order;
    sys::set_hook(&order);
    const auto settled = driver_->settle(one, [&]() -> Result<std::shared_ptr<void>> {
        order.steps.emplace_back("permit");
        return std::make_shared<int>();
    });
    sys::set_hook(nullptr);
    ASSERT_DONE(settled);
    EXPECT_TRUE(*settled);
    ASSERT_GT(order.steps.size(), 4U);
    EXPECT_THAT(order.steps[4], testing::StartsWith(fmt::format("{}-", one.value))) << "into the trash";
    order.steps.resize(4);
    EXPECT_THAT(order.steps, testing::ElementsAre("sync", "permit", "image.erofs", "sync"));
    EXPECT_EQ(get(view(one, {}) + "/f"), "x");
    EXPECT_EQ(source(one), part(one, "image.erofs"));
}

// A settled layer whose tree a crash left.
TEST_P(ErofsDriver, AnImageCountsBeforeATree) {
    const LayerId one = next();
    put(start(one, {}) + "/f", "x");
    commit(one, {});
    settle(one);
    std::filesystem::create_directory(part(one, "tree"));
    put(part(one, "tree") + "/f", "stale");
    EXPECT_EQ(get(view(one, {}) + "/f"), "x");
    EXPECT_THAT(*driver_->check(one, {}), IsEmpty());
    settle(one);
    EXPECT_FALSE(std::filesystem::exists(part(one, "tree")));
    EXPECT_EQ(get(view(one, {}) + "/f"), "x");
}

TEST_P(ErofsDriver, FewInodesForManyFiles) {
    Archive tar;
    for (int i = 0; i < 3000; ++i)
        tar.file(fmt::format("d{}/f{}", i % 30, i), "content");
    const LayerId base = import({}, tar);
    (void)view(base, {});
    EXPECT_LE(driver_->usage(base, {})->inodes, 3U);
    int names = 0;
    for (const auto &entry :
         std::filesystem::recursive_directory_iterator(scratch_ + "/erofs", std::filesystem::directory_options::none)) {
        names += entry.path().string().contains("/mnt/") ? 0 : 1;
    }
    EXPECT_LE(names, 3);
}

INSTANTIATE_TEST_SUITE_P(Drivers, ErofsDriver, testing::Values("erofs"), [](const auto &info) { return info.param; });

} // namespace
} // namespace shale::conformance
