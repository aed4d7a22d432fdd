// SPDX-License-Identifier: Apache-2.0
// What only devicemapper has: a pool that fills, is damaged, is another's, grows, and gives space back.
#include "conformance/devicemapper.h"

namespace shale::conformance {
namespace {

using sys::PoolMode;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

/// A client mounts a layer itself, when it likes.
TEST_P(DevicemapperDriver, ALayerCanBeMountedWhileContainersAreMadeOnIt) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const auto specs = driver_->mounts(base, {}, drivers::Driver::Access::read_only);
    ASSERT_DONE(specs);
    const std::string at = scratch_ + "/at";
    std::filesystem::create_directory(at);
    std::string refused;
    int mounts = 0;
    {
        const std::jthread client([&](const std::stop_token &stop) {
            for (; refused.empty() && !stop.stop_requested(); ++mounts) {
                const auto mounted = sys::mount_at(specs->front(), at);
                if (!mounted)
                    refused = mounted.error().text();
                else if (const auto gone = sys::unmount(at); !gone)
                    refused = gone.error().text();
            }
        });
        for (int i = 0; i < 30; ++i) {
            const LayerId made = next();
            ASSERT_DONE(driver_->create(made, std::vector{base}, {}));
            ASSERT_DONE(driver_->seal(made, std::vector{base})); // now, not when it is mounted
        }
    }
    EXPECT_EQ(refused, "");
    EXPECT_GT(mounts, 0);
}

/// Who commits need not have unmounted.
TEST_P(DevicemapperDriver, WhatIsMountedWhenItIsSealedIsWhole) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId layer = next();
    ASSERT_DONE(driver_->create(layer, std::vector{base}, {}));
    put(mount(layer, {base}) + "/written", "just now");
    ASSERT_DONE(driver_->seal(layer, std::vector{base}));
    const LayerId child = next();
    ASSERT_DONE(driver_->create(child, std::vector{layer, base}, {}));
    EXPECT_EQ(get(mount(child, {layer, base}) + "/written"), "just now");
    stop(child);
    stop(layer);
}

TEST_P(DevicemapperDriver, EveryCreateInAPoolOfFullMetadataIsRefusedWithTheFigures) {
    reopen({{"metadata_size", "512K"}});
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId unused = next();
    ASSERT_DONE(driver_->create(unused, std::vector{base}, {}));
    std::vector<LayerId> made;
    Status done;
    for (int i = 0; i < 2000 && done; ++i) {
        made.push_back(next());
        done = driver_->create(made.back(), std::vector{base}, {});
        if (!done) break;
        put(mount(made.back(), {base}) + "/own", "o"); // until then it shares its parent's mappings
        stop(made.back());
    }
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code(), Errc::ResourceExhausted) << done.error().text();
    EXPECT_THAT(done.error().text(), HasSubstr("metadata is nearly full"));
    EXPECT_THAT(done.error().text(), HasSubstr("%"));
    EXPECT_GT(made.size(), 10U);
    for (int i = 0; i < 5; ++i) {
        const auto again = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(again);
        EXPECT_EQ(again.error().code(), Errc::ResourceExhausted) << again.error().text();
    }
    auto now = status();
    EXPECT_EQ(now.mode, PoolMode::read_write) << "refused before the kernel had to";
    EXPECT_EQ(get(view(unused, {base}) + "/f"), "x") << "what was never mounted can be read, and moved elsewhere";
    drop_views();
    EXPECT_FALSE(driver_->mounts(unused, std::vector{base}, drivers::Driver::Access::read_write));
    EXPECT_LT(now.used_metadata_blocks, now.total_metadata_blocks);
    // Space returns; no repair, no new start.
    for (size_t i = 0; i < made.size(); i += 2)
        ASSERT_DONE(driver_->remove(made[i]));
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_LT(status().used_metadata_blocks, now.used_metadata_blocks);
    const LayerId fresh = next();
    put(start(fresh, {base}) + "/new", "n");
    commit(fresh, {base});
    EXPECT_EQ(get(view(fresh, {base}) + "/new"), "n");
}

TEST_P(DevicemapperDriver, APoolOfFullDataEndsInErrorsAndGoesOnWhenSpaceReturns) {
    reopen({{"data_size", xfs() ? "48M" : "32M"}});
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId victim = next();
    const std::string path = start(victim, {base});
    const int error = fill(path + "/fill", 44);
    EXPECT_TRUE(error == ENOSPC || error == EIO) << error << ": nobody waits";
    const auto full = status();
    EXPECT_GE(full.used_data_blocks * 100, full.total_data_blocks * 95);
    EXPECT_TRUE(full.mode == PoolMode::out_of_data_space || full.mode == PoolMode::read_write);
    for (int i = 0; i < 3; ++i) {
        const auto refused = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted);
        EXPECT_THAT(refused.error().text(), HasSubstr("data space is nearly full"));
    }
    EXPECT_FALSE(try_import(next(), {}, Archive().file("g", "y").bytes()));
    EXPECT_EQ(::umount2((scratch_ + "/mnt/" + to_string(victim)).c_str(), 0), 0) << std::strerror(errno);
    if (status().mode == PoolMode::out_of_data_space) {
        const auto sealed = driver_->seal(victim, std::vector{base});
        ASSERT_FALSE(sealed) << "the pool may have dropped what was written last";
        EXPECT_EQ(sealed.error().code(), Errc::ResourceExhausted) << sealed.error().text();
        EXPECT_THAT(sealed.error().text(), HasSubstr("data space is nearly full"));
        EXPECT_THAT(sealed.error().text(), HasSubstr("stays writable"));
    }
    ASSERT_DONE(driver_->remove(victim));
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(status().mode, PoolMode::read_write);
    const LayerId fresh = next();
    const std::string again = start(fresh, {base});
    EXPECT_EQ(fill(again + "/fill", 4), 0);
    commit(fresh, {base});
    EXPECT_EQ(get(view(fresh, {base}) + "/f"), "x");
    EXPECT_THAT(*driver_->check(base, {}), IsEmpty());
}

TEST_P(DevicemapperDriver, RemovalGivesSpaceBackBelowThePool) {
    const bool direct = GetParam().contains("_direct");
    const std::string below = direct ? driver_root() + ".disk" : pool_file("data");
    const LayerId small = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{small}));
    const uint64_t before = blocks_of(below);
    const LayerId big = import({small}, Archive().file("big", std::string(24U << 20U, 'b')));
    ASSERT_DONE(driver_->sync(std::vector{big}));
    const LayerId child = next();
    ASSERT_DONE(driver_->create(child, std::vector{big, small}, {}));
    EXPECT_GT(blocks_of(below), before + (24U << 20U));
    ASSERT_DONE(driver_->remove(big));
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_GT(blocks_of(below), before + (24U << 20U)) << "its child has the blocks";
    EXPECT_EQ(get(view(child, {big, small}) + "/big").size(), 24U << 20U);
    ASSERT_DONE(driver_->remove(child));
    const LayerId other = next();
    ASSERT_DONE(driver_->create(other, std::vector{small}, {}));
    EXPECT_EQ(*driver_->reap(nullptr), 0U) << "a layer that is looked at stays for the next reaper";
    EXPECT_EQ(driver_->trash()->layers, 1U);
    drop_views();
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(driver_->trash()->layers, 0U);
    EXPECT_LT(blocks_of(below), before + (4U << 20U));
}

TEST_P(DevicemapperDriver, AnotherTransactionIsRefusedWithTheWayOut) {
    const LayerId base = import({}, Archive().file("f", "x"));
    rest();
    const std::string numbers = get(driver_root() + "/volumes");
    put(driver_root() + "/volumes", "800 900");
    reopen({});
    for (int i = 0; i < 2; ++i) {
        const auto refused = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
        EXPECT_THAT(refused.error().text(), HasSubstr("transaction id"));
        EXPECT_THAT(refused.error().text(), HasSubstr("900"));
        EXPECT_THAT(refused.error().text(), HasSubstr("set_transaction_id"));
    }
    rest();
    put(driver_root() + "/volumes", numbers);
    reopen({});
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
}

TEST_P(DevicemapperDriver, ACrashBetweenStoreAndPoolIsMended) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const uint64_t now = status().transaction;
    rest();
    put(driver_root() + "/volumes", fmt::format("{} {}", now, now + 4)); // the pool was not told
    reopen({});
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
    EXPECT_EQ(status().transaction, now + 4);
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(get(driver_root() + "/volumes"), fmt::format("{} {}", now + 4, status().transaction));
}

TEST_P(DevicemapperDriver, NumbersOfVolumesRunOutInWords) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const uint64_t now = status().transaction;
    ASSERT_DONE(sys::dm_message(pool()->name(), fmt::format("set_transaction_id {} 16777216", now)));
    put(driver_root() + "/volumes", fmt::format("{} 16777216", now));
    reopen({});
    const auto refused = driver_->create(next(), std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted);
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
}

TEST_P(DevicemapperDriver, AMountOfSomethingElseIsAnError) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId one = next(), other = next();
    const std::string path = start(one, {base});
    ASSERT_DONE(driver_->prove_mount(one, path));
    (void)start(other, {base});
    const auto wrong = driver_->prove_mount(other, path);
    ASSERT_FALSE(wrong);
    EXPECT_EQ(wrong.error().code(), Errc::Internal);
    EXPECT_THAT(wrong.error().text(), HasSubstr("must not be used"));
    stop(one);
    EXPECT_FALSE(driver_->prove_mount(one, path)) << "the bare mount point";
}

TEST_P(DevicemapperDriver, TheDeviceGoesWithItsLastMount) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{base}));
    (void)diff(base, {});
    const auto active = [&] {
        const std::string prefix = pool()->prefix() + "-";
        const auto names = sys::dm_names();
        EXPECT_DONE(names);
        return std::ranges::count_if(names.value_or(std::vector<std::string>{}), [&](const std::string &name) {
            return name.starts_with(prefix) && name.find_first_not_of("0123456789", prefix.size()) == std::string::npos;
        });
    };
    for (int i = 0; i < 100 && active() > 0; ++i)
        ::usleep(10'000);
    EXPECT_EQ(active(), 0) << "what the driver itself mounted";
    const LayerId container = next();
    put(start(container, {base}) + "/g", "y");
    EXPECT_EQ(active(), 1);
    EXPECT_EQ(get(view(container, {base}) + "/g"), "y") << "read while it runs";
    EXPECT_THAT(changes(container, {base}), testing::ElementsAre("A /g"));
    drop_views();
    stop(container);
    ASSERT_DONE(driver_->seal(container, std::vector{base}));
    for (int i = 0; i < 100 && active() > 0; ++i)
        ::usleep(10'000);
    EXPECT_EQ(active(), 0);
}

TEST_P(DevicemapperDriver, WhatIsFixedIsRefusedInWords) {
    const LayerId base = import({}, Archive().file("f", "x"));
    for (const auto &[key, value] :
         {std::pair{"base_size", "64M"}, {"block_size", "128K"}, {"fs", xfs() ? "ext4" : "xfs"}}) {
        reopen({{key, value}});
        const auto refused = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(refused) << key;
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
        EXPECT_THAT(refused.error().text(), HasSubstr(std::string(key) + "="));
    }
    reopen({});
    const auto small = driver_->create(next(), std::vector{base}, {.bytes = 1U << 20U});
    ASSERT_FALSE(small);
    EXPECT_EQ(small.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(small.error().text(), HasSubstr("cannot be made smaller"));
    EXPECT_FALSE(driver_->create(next(), std::vector{base}, {.inodes = 100}));
}

TEST_P(DevicemapperDriver, ARaisedLimitCountsAtOnce) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId container = next();
    const std::string path = start(container, {base});
    EXPECT_NE(fill(path + "/one", 64), 0);
    ASSERT_DONE(driver_->quota()->set(container, {.bytes = 96U << 20U}));
    EXPECT_EQ(driver_->quota()->get(container)->bytes, 96U << 20U);
    EXPECT_EQ(fill(path + "/two", 24), 0) << "while it is mounted";
    commit(container, {base});
    const LayerId child = next();
    ASSERT_DONE(driver_->create(child, std::vector{container, base}, {}));
    EXPECT_EQ(driver_->quota()->get(child)->bytes, 96U << 20U);
    EXPECT_EQ(get(view(child, {container, base}) + "/two").size(), 24U << 20U);
}

TEST_P(DevicemapperDriver, AVolumeOfThatNumberIsAnothersAndStays) {
    const LayerId base = import({}, Archive().file("f", "x"));
    reopen({});
    const uint64_t number = status().transaction; // the next one
    ASSERT_DONE(sys::dm_message(pool()->name(), fmt::format("create_snap {} 0", number)));
    const LayerId id = next();
    ASSERT_DONE(driver_->create(id, std::vector{base}, {}));
    for (int i = 0; i < 2; ++i) {
        const auto refused = driver_->mounts(id, std::vector{base}, drivers::Driver::Access::read_write);
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::DataLoss);
        EXPECT_EQ(refused.error().sys_errno(), EEXIST);
    }
    ASSERT_DONE(driver_->remove(id));
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(driver_->trash()->layers, 0U);
    EXPECT_DONE(sys::dm_message(pool()->name(), fmt::format("delete {}", number))); // it was there still
}

TEST_P(DevicemapperDriver, AContainerThatIsNeverMountedTakesNothingOfThePool) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{base}));
    const auto before = status();
    std::vector<LayerId> made;
    for (int i = 0; i < 20; ++i) {
        made.push_back(next());
        ASSERT_DONE(driver_->create(made.back(), std::vector{base}, {}));
        EXPECT_EQ(driver_->usage(made.back(), std::vector{base})->bytes, 0U);
    }
    ASSERT_DONE(driver_->sync(std::vector{base}));
    EXPECT_EQ(status().used_metadata_blocks, before.used_metadata_blocks);
    for (const LayerId id : made)
        ASSERT_DONE(driver_->remove(id));
    ASSERT_DONE(driver_->reap(nullptr));
    for (const auto &entry : std::filesystem::directory_iterator(driver_root() + "/pool"))
        EXPECT_FALSE(entry.path().filename().string().starts_with("planned-"));
}

/// Killed before, and after, the pool had the snapshot.
TEST_P(DevicemapperDriver, AVolumeThatWasBeingMadeIsMade) {
    const LayerId base = import({}, Archive().file("f", "x"));
    for (const bool there : {false, true}) {
        const LayerId id = next();
        ASSERT_DONE(driver_->create(id, std::vector{base}, {}));
        const std::string number = std::filesystem::read_symlink(driver_root() + "/" + to_string(id) + "/volume"),
                          planned = pool_file(("planned-" + number).c_str()),
                          making = pool_file(("making-" + number).c_str());
        const std::string origin = std::filesystem::read_symlink(planned);
        std::filesystem::rename(planned, making);
        if (there) ASSERT_DONE(sys::dm_message(pool()->name(), fmt::format("create_snap {} {}", number, origin)));
        EXPECT_EQ(get(mount(id, {base}) + "/f"), "x");
        EXPECT_FALSE(std::filesystem::exists(std::filesystem::symlink_status(making)));
        stop(id);
        ASSERT_DONE(driver_->remove(id));
        ASSERT_DONE(driver_->reap(nullptr));
        EXPECT_FALSE(sys::dm_message(pool()->name(), "delete " + number)) << "it is gone";
    }
}

TEST_P(DevicemapperDriver, WhatAKilledProbeLeftGoesWithTheNext) {
    const auto devices = [] {
        auto names = sys::dm_names();
        EXPECT_DONE(names);
        std::ranges::sort(*names);
        return *names;
    };
    const auto before = devices();
    const pid_t child = ::fork();
    if (child == 0) {
        class Kill : public sys::Hook {
        public:
            int before(const sys::Call &call) noexcept override {
                if (call.op == sys::Op::fsopen && ++mounts_ == 2) ::kill(::getpid(), SIGKILL);
                return 0;
            }
            int mounts_ = 0;
        } hook;
        sys::set_hook(&hook);
        (void)driver_->probe();
        ::_exit(1);
    }
    int ended = 0;
    ASSERT_EQ(::waitpid(child, &ended, 0), child);
    ASSERT_TRUE(WIFSIGNALED(ended));
    EXPECT_NE(devices(), before) << "the test is about something";
    const auto probed = driver_->probe();
    ASSERT_DONE(probed);
    EXPECT_TRUE(probed->usable) << probed->reason;
    EXPECT_EQ(devices(), before);
    for (const auto &name : names_in(driver_root()))
        EXPECT_FALSE(name.starts_with("probe-")) << name;
}

std::string name_of(const testing::TestParamInfo<std::string> &info) {
    return info.param;
}

INSTANTIATE_TEST_SUITE_P(Drivers, DevicemapperDriver, testing::ValuesIn(driver_names("devicemapper")), name_of);

} // namespace
} // namespace shale::conformance
