// SPDX-License-Identifier: Apache-2.0
// Driver devicemapper: what lies below its pool, files or a device; both when they are damaged, grown, another's.
#include "conformance/devicemapper.h"

namespace shale::conformance {
namespace {

using sys::PoolMode;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class DevicemapperOnFiles : public DevicemapperDriver {
protected:
    /// The loop device of an active pool's metadata or data (`word` 0 or 1 of its table).
    [[nodiscard]] std::string loop_of(int word) const {
        const auto table = sys::dm_table(pool()->name());
        EXPECT_DONE(table);
        std::istringstream words(table->at(0).parameters);
        std::string number;
        for (int i = 0; i <= word; ++i)
            words >> number;
        return "/dev/" + std::filesystem::read_symlink("/sys/dev/block/" + number).filename().string();
    }
};

class DevicemapperOnDevice : public DevicemapperDriver {
protected:
    [[nodiscard]] std::string disk() const { return test::options_of(GetParam(), driver_root()).at("device"); }
};

/// Sets or clears a flag of the pool's superblock (drivers/md/dm-thin-metadata.c: flags at 4, checksum at 0).
void set_flags(const std::string &metadata, uint32_t flags) {
    const UniqueFd fd(::open(metadata.c_str(), O_RDWR | O_CLOEXEC));
    std::array<unsigned char, 4096> block{};
    ASSERT_EQ(::pread(fd.get(), block.data(), block.size(), 0), 4096);
    std::memcpy(block.data() + 4, &flags, sizeof flags);
    uint32_t sum = 0xffff'ffff; // crc32c without the last inversion
    for (size_t i = 4; i < block.size(); ++i) {
        sum ^= block.at(i);
        for (int bit = 0; bit < 8; ++bit)
            sum = (sum >> 1U) ^ ((sum & 1U) != 0 ? 0x82f6'3b78U : 0U);
    }
    sum ^= 160'774U;
    std::memcpy(block.data(), &sum, sizeof sum);
    ASSERT_EQ(::pwrite(fd.get(), block.data(), block.size(), 0), 4096);
    ASSERT_EQ(::fsync(fd.get()), 0);
}

TEST_P(DevicemapperOnFiles, NeedsCheckIsNamed) {
    const LayerId base = import({}, Archive().file("f", "x"));
    rest();
    set_flags(pool_file("metadata"), 1);
    reopen({});
    const auto refused = driver_->create(next(), std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(refused.error().text(), HasSubstr("needs_check"));
    EXPECT_THAT(refused.error().text(), HasSubstr("--clear-needs-check-flag"));
    EXPECT_EQ(get(view(base, {}) + "/f"), "x") << "what is there can be read";
    drop_views();
    rest();
    // The way out of the text.
    ASSERT_DONE(sys::run_tool_or_fail({"/usr/sbin/thin_check", "-q", "--clear-needs-check-flag", pool_file("metadata")},
                                      std::chrono::seconds(60)));
    reopen({});
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
}

TEST_P(DevicemapperOnFiles, DamagedMetadataIsNotActivated) {
    (void)import({}, Archive().file("f", "x"));
    rest();
    {
        const UniqueFd fd(::open(pool_file("metadata").c_str(), O_RDWR | O_CLOEXEC));
        ASSERT_EQ(::pwrite(fd.get(), "damage", 6, 100), 6);
    }
    reopen({});
    const auto refused = driver_->create(next(), {}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::DataLoss);
    EXPECT_THAT(refused.error().text(), HasSubstr("thin_check"));
    EXPECT_FALSE(*sys::dm_find(pool()->name()));
}

TEST_P(DevicemapperOnDevice, AFailedPoolIsNamed) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId planned = next();
    ASSERT_DONE(driver_->create(planned, std::vector{base}, {}));
    const std::string metadata = pool()->prefix() + "-meta";
    const auto table = sys::dm_table(metadata);
    ASSERT_DONE(table);
    ASSERT_DONE(sys::dm_reload(metadata, {{0, table->at(0).length_sectors, "error", ""}}));
    ASSERT_DONE(sys::dm_suspend(metadata, sys::DmSuspend::as_it_is));
    ASSERT_DONE(sys::dm_resume(metadata));
    EXPECT_FALSE(driver_->seal(planned, std::vector{base})); // the kernel finds out
    const auto refused = driver_->create(next(), std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition) << refused.error().text();
    EXPECT_THAT(refused.error().text(), testing::AnyOf(HasSubstr("(Fail)"), HasSubstr("needs_check")));
    ASSERT_DONE(driver_->remove(base));
    EXPECT_FALSE(driver_->reap(nullptr)) << "nothing is taken for deleted";
    EXPECT_EQ(driver_->trash()->layers, 1U);
}

TEST_P(DevicemapperOnFiles, ThePoolGrowsInUseAndAtRest) {
    reopen({{"data_size", "64M"}, {"metadata_size", "4M"}});
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId container = next();
    const std::string path = start(container, {base});
    EXPECT_EQ(status().total_data_blocks, 1024U);
    reopen({{"data_size", "96M"}, {"metadata_size", "8M"}});
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(status().total_data_blocks, 1536U);
    EXPECT_EQ(status().total_metadata_blocks, 2048U);
    EXPECT_EQ(fill(path + "/fill", 8), 0);
    stop(container);
    rest();
    reopen({{"data_size", "128M"}});
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(status().total_data_blocks, 2048U);
    EXPECT_EQ(get(view(container, {base}) + "/f"), "x");
}

TEST_P(DevicemapperOnFiles, AnEnlargementThatDidNotEndIsEnded) {
    reopen({{"data_size", "64M"}, {"metadata_size", "4M"}});
    const LayerId base = import({}, Archive().file("f", "x"));
    // The files and their devices have grown, the pool was not told.
    std::filesystem::resize_file(pool_file("metadata"), 8U << 20U);
    std::filesystem::resize_file(pool_file("data"), 96U << 20U);
    ASSERT_DONE(sys::grow_loop(loop_of(0)));
    ASSERT_DONE(sys::grow_loop(loop_of(1)));
    EXPECT_EQ(status().total_metadata_blocks, 1024U);
    reopen({{"data_size", "96M"}, {"metadata_size", "8M"}});
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(status().total_metadata_blocks, 2048U);
    EXPECT_EQ(status().total_data_blocks, 1536U);
    // The size of a volume is recorded, its file system was not enlarged.
    const LayerId container = next();
    ASSERT_DONE(driver_->create(container, std::vector{base}, {}));
    const std::string volume =
        std::filesystem::read_symlink(driver_root() + "/" + to_string(container) + "/volume").string();
    std::filesystem::create_symlink(std::to_string(96U << 20U), pool_file(("size-" + volume).c_str()));
    ASSERT_DONE(driver_->quota()->set(container, {.bytes = 96U << 20U}));
    const std::string path = mount(container, {base});
    struct statvfs info{};
    ASSERT_EQ(::statvfs(path.c_str(), &info), 0);
    EXPECT_GT(info.f_blocks * info.f_frsize, uint64_t{64} << 20U);
}

TEST_P(DevicemapperOnFiles, AnActivePoolOfOtherFilesIsRefused) {
    const LayerId base = import({}, Archive().file("f", "x"));
    std::filesystem::rename(pool_file("data"), pool_file("kept"));
    put(pool_file("data"), "");
    std::filesystem::resize_file(pool_file("data"), uint64_t{4} << 30U);
    reopen({});
    const auto refused = driver_->create(next(), std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(refused.error().text(), HasSubstr("not this store's file \"data\""));
    std::filesystem::rename(pool_file("kept"), pool_file("data"));
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
}

TEST_P(DevicemapperOnDevice, ACopiedStoreDoesNotTakeTheDevice) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{base}));
    const auto copy = open_copy(test::options_of(GetParam(), driver_root()));
    for (int i = 0; i < 2; ++i) {
        const auto refused = copy->create(LayerId{7}, std::vector{base}, {});
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition) << refused.error().text();
        EXPECT_THAT(refused.error().text(), HasSubstr("is in use by"));
        EXPECT_THAT(refused.error().text(), HasSubstr(pool()->prefix() + "-meta")) << "whose";
    }
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
}

TEST_P(DevicemapperOnDevice, AnActivePoolOnAnotherDeviceIsRefused) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{base}));
    // Another disk with this store's label, as a copy of the disk has it.
    const std::string twin = test::options_of(GetParam(), scratch_ + "/twin").at("device");
    std::string label(4096, '\0');
    ASSERT_EQ(::pread(UniqueFd(::open(disk().c_str(), O_RDONLY | O_CLOEXEC)).get(), label.data(), label.size(), 0),
              4096);
    put(twin, label);
    reopen({{"device", twin}});
    const auto refused = driver_->create(next(), std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition) << refused.error().text();
    EXPECT_THAT(refused.error().text(), HasSubstr("not this store's parts of " + twin));
    reopen({});
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
}

TEST_P(DevicemapperOnDevice, AnotherSizeOfMetadataIsRefusedWithBothFigures) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{base}));
    for (const bool active : {true, false})
        for (const auto &[given, bytes] : {std::pair{"16M", "16777216"}, {"4M", "4194304"}}) {
            if (!active) rest();
            reopen({{"metadata_size", given}});
            const auto refused = driver_->create(next(), std::vector{base}, {});
            ASSERT_FALSE(refused) << given;
            EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition) << refused.error().text();
            EXPECT_THAT(refused.error().text(), HasSubstr("metadata_size=8388608"));
            EXPECT_THAT(refused.error().text(), HasSubstr(bytes));
        }
    reopen({{"metadata_size", ""}});
    EXPECT_EQ(get(view(base, {}) + "/f"), "x") << "an option that is not set asks for nothing";
    EXPECT_EQ(status().total_metadata_blocks, 2048U);
}

TEST_P(DevicemapperOnDevice, AnotherOwnersDeviceIsRefused) {
    const std::string disk = this->disk();
    put(disk, "somebody's data");
    const auto refused = driver_->create(next(), {}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(refused.error().text(), HasSubstr("not empty"));
    std::array<char, 15> kept{};
    EXPECT_EQ(::pread(UniqueFd(::open(disk.c_str(), O_RDONLY | O_CLOEXEC)).get(), kept.data(), kept.size(), 0), 15);
    EXPECT_EQ(std::string_view(kept.data(), kept.size()), "somebody's data");
    put(disk, std::string(4096, '\0'));
    (void)import({}, Archive().file("f", "x"));
    // Now it is this store's, and no other's.
    rest();
    std::filesystem::remove_all(driver_root());
    reopen({});
    const auto other = driver_->create(next(), {}, {});
    ASSERT_FALSE(other);
    EXPECT_THAT(other.error().text(), HasSubstr("another store"));
}

TEST_P(DevicemapperOnDevice, LogicalVolumes) {
    if (::access("/usr/sbin/lvm", X_OK) != 0) GTEST_SKIP() << "needs lvm2";
    const std::string disk = this->disk();
    const std::string home = scratch_ + "/lvm";
    std::filesystem::create_directory(home);
    put(home + "/lvm.conf", fmt::format("devices {{ filter=[\"a|^{}$|\",\"r|.*|\"] use_devicesfile=0 "
                                        "external_device_info_source=\"none\" obtain_device_list_from_udev=0 }}\n"
                                        "activation {{ monitoring=0 verify_udev_operations=0 }}\n"
                                        "global {{ use_lvmpolld=0 event_activation=0 }}\n",
                                        disk));
    ::setenv("LVM_SYSTEM_DIR", home.c_str(), 1);
    const auto lvm = [](std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), "/usr/sbin/lvm");
        const auto done = sys::run_tool_or_fail(arguments, std::chrono::seconds(60));
        EXPECT_DONE(done);
        return done.value_or("");
    };
    const std::string vg = fmt::format("shaletest{}", ::getpid());
    lvm({"pvcreate", "-y", disk});
    lvm({"vgcreate", vg, disk});
    const auto info = drivers::find_driver("devicemapper");
    drivers::DriverOptions options{{"pool", "vg"},          {"vg", vg},           {"data_size", "128M"},
                                   {"metadata_size", "8M"}, {"base_size", "48M"}, {"fs", xfs() ? "xfs" : "ext4"}};
    const auto again = [&] {
        driver_.reset();
        auto opened = (*info)->open(driver_root(), options);
        EXPECT_DONE(opened);
        driver_ = std::move(*opened);
    };
    // A first use that was interrupted is begun anew, whatever else the group has. Its volumes go before they come
    // again, and the disk would go with the last that has it open.
    UniqueFd held(::open(disk.c_str(), O_RDONLY | O_CLOEXEC));
    lvm({"lvcreate", "--yes", "-an", "-Zn", "-Wn", "-n", "a_longer_name_than_any_that_is_made_here", "-L", "4M", vg});
    again();
    (void)import({}, Archive().file("f", "lost"));
    rest();
    std::string record = get(pool_file("record"));
    const size_t state = record.find("state=ready");
    ASSERT_NE(state, std::string::npos) << record;
    put(pool_file("record"), record.replace(state, 11, "state=begun"));
    std::filesystem::remove(driver_root() + "/volumes");
    again();
    const LayerId base = import({}, Archive().file("f", "x"));
    held.reset();
    const LayerId container = next();
    put(start(container, {base}) + "/g", "y");
    commit(container, {base});
    EXPECT_THAT(lvm({"lvs", "--noheadings", "-o", "lv_name", vg}), HasSubstr("_meta"));
    {
        const auto refused = open_copy(options)->create(LayerId{7}, std::vector{base}, {});
        ASSERT_FALSE(refused) << "the pool of a copied store is the same volumes";
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition) << refused.error().text();
        EXPECT_THAT(refused.error().text(), HasSubstr("is in use by " + pool()->name()));
    }
    rest();
    options["data_size"] = "192M";
    options["metadata_size"] = "16M";
    again();
    EXPECT_EQ(get(view(container, {base}) + "/g"), "y");
    EXPECT_EQ(get(view(container, {base}) + "/f"), "x");
    EXPECT_EQ(status().total_data_blocks, 3072U) << "raised at rest";
    EXPECT_EQ(status().total_metadata_blocks, 4096U);
    drop_views();
    options["data_size"] = "224M";
    again();
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(status().total_data_blocks, 3584U) << "raised in use";
    rest();
    lvm({"vgchange", "-an", vg}); // and the disk, which nothing has open then, goes
}

std::vector<std::string> names_on_devices(bool wanted) {
    auto out = driver_names("devicemapper");
    std::erase_if(out, [&](const std::string &name) { return name.contains("_direct") != wanted; });
    return out;
}
std::string name_of(const testing::TestParamInfo<std::string> &info) {
    return info.param;
}

INSTANTIATE_TEST_SUITE_P(Drivers, DevicemapperOnFiles, testing::ValuesIn(names_on_devices(false)), name_of);
INSTANTIATE_TEST_SUITE_P(Drivers, DevicemapperOnDevice, testing::ValuesIn(names_on_devices(true)), name_of);

} // namespace
} // namespace shale::conformance
