// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/thin_transactions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "doctor/check.h"
#include "probe/test_root.h"

namespace shale::doctor {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr const char *docker_record = "/var/lib/docker/devicemapper/metadata/transaction-metadata";
constexpr const char *shale_record = "/var/lib/shale/devicemapper/volumes";

class ThinTransactionsTest : public testing::Test {
protected:
    ThinTransactionsTest() {
        for (const char *engine : {"docker", "shale"}) {
            auto &store = facts_.stores.emplace_back();
            store.engine = engine;
            store.driver = "devicemapper";
            store.root = fmt::format("/var/lib/{}", engine);
        }
        write_docker(12);
        root_.file(shale_record, "7 9");
    }
    void write_docker(uint64_t number) const {
        root_.file(docker_record,
                   fmt::format(R"({{"open_transaction_id":{},"device_hash":"abc","device_id":5}})", number));
    }
    void read(const ReadPools &read_pools = {}) { read_thin_transactions(root_.host(), read_pools, facts_); }
    [[nodiscard]] std::string setting(size_t store, const std::string &name) const {
        const auto found = facts_.stores[store].settings.find(name);
        return found == facts_.stores[store].settings.end() ? "none" : found->second;
    }
    [[nodiscard]] struct stat driver(const char *of) const {
        struct stat out{};
        EXPECT_EQ(::stat(root_.here(fmt::format("/var/lib/{}/devicemapper", of)).c_str(), &out), 0);
        return out;
    }
    /// Docker's pool as the facts have it.
    probe::ThinPool &add_pool(uint64_t transaction) {
        facts_.stores[0].settings["storage-opts"] = "dm.fs=xfs, dm.thinpooldev=/dev/mapper/docker-thinpool";
        auto &pool = facts_.thin_pools.emplace_back();
        pool.name = "docker-thinpool";
        pool.mode = "rw";
        pool.transaction = transaction;
        return pool;
    }

    probe::TestRoot root_;
    probe::Facts facts_;
};

TEST_F(ThinTransactionsTest, RecordsNameTheNumberAndThePool) {
    read();
    EXPECT_EQ(setting(0, "transaction"), "12");
    EXPECT_EQ(setting(1, "transaction"), "9");
    const auto docker = driver("docker"), shale = driver("shale");
    EXPECT_EQ(setting(0, "thin pool"),
              fmt::format("docker-{}:{}-{}-pool", major(docker.st_dev), minor(docker.st_dev), docker.st_ino));
    EXPECT_EQ(setting(1, "thin pool"), fmt::format("shale-{:x}-{:x}-pool", shale.st_dev, shale.st_ino));
    EXPECT_THAT(facts_.problems, IsEmpty());
}

TEST_F(ThinTransactionsTest, OptionsNameDockersPool) {
    facts_.stores[0].settings["storage-opts"] = "dm.directlvm_device=/dev/sdb";
    read();
    EXPECT_EQ(setting(0, "thin pool"), "docker-thinpool");
    facts_.stores[0].settings["storage-opts"] = "dm.thinpooldev=vg-pool";
    read();
    EXPECT_EQ(setting(0, "thin pool"), "vg-pool");
}

TEST_F(ThinTransactionsTest, WhatIsMissingOrOfAnotherDriverIsNothing) {
    facts_.stores[0].driver = "overlay2";
    ASSERT_EQ(::unlink(root_.here(shale_record).c_str()), 0);
    read();
    EXPECT_EQ(setting(0, "transaction"), "none");
    EXPECT_EQ(setting(0, "thin pool"), "none");
    EXPECT_EQ(setting(1, "transaction"), "none");
    EXPECT_THAT(facts_.problems, IsEmpty());
}

TEST_F(ThinTransactionsTest, WhatIsNoRecordIsAProblem) {
    for (const char *text : {"", "{", "[]", "{}", R"({"open_transaction_id":-1})", R"({"open_transaction_id":"1"})"}) {
        facts_.problems.clear();
        root_.file(docker_record, text);
        read();
        ASSERT_THAT(facts_.problems, SizeIs(1)) << text;
        EXPECT_EQ(facts_.problems[0].about, docker_record);
        EXPECT_EQ(setting(0, "transaction"), "none");
    }
    write_docker(1);
    for (const std::string &text :
         {std::string("7"), std::string("7 x"), std::string("9 7"), std::string("7 9\n"), std::string(10'000, '1')}) {
        facts_.problems.clear();
        facts_.stores[1].settings.clear();
        root_.file(shale_record, text);
        read();
        ASSERT_THAT(facts_.problems, SizeIs(1)) << text;
        EXPECT_EQ(facts_.problems[0].about, shale_record);
        EXPECT_EQ(setting(1, "transaction"), "none");
    }
}

/// The pool was read long before the stores.
TEST_F(ThinTransactionsTest, ThePoolIsReadAgain) {
    add_pool(3);
    int readings = 0;
    read([&] {
        auto pools = facts_.thin_pools;
        pools[0].transaction = ++readings == 1 ? 11 : 12; // dockerd was about to tell it
        return PoolReading{pools, {}};
    });
    EXPECT_EQ(readings, 2);
    EXPECT_EQ(setting(0, "transaction"), "12");
    EXPECT_EQ(facts_.thin_pools.at(0).transaction, 12U);
    const auto outcome = find_check("thin-pool-transaction")->run(facts_);
    EXPECT_THAT(outcome.findings, IsEmpty());
    EXPECT_THAT(outcome.unable, IsEmpty()); // shale's pool is not active, and nobody has to use it
}

TEST_F(ThinTransactionsTest, AMismatchThatStaysIsFound) {
    add_pool(20);
    int readings = 0;
    read([&] {
        ++readings;
        return PoolReading{facts_.thin_pools, {}};
    });
    EXPECT_EQ(readings, 3);
    EXPECT_EQ(setting(0, "transaction"), "12");
    const auto outcome = find_check("thin-pool-transaction")->run(facts_);
    ASSERT_THAT(outcome.findings, SizeIs(1));
    EXPECT_EQ(outcome.findings[0].severity, Severity::critical);
}

TEST_F(ThinTransactionsTest, WhatNeverStandsStillIsNotCompared) {
    add_pool(12);
    uint64_t number = 12;
    read([&] {
        write_docker(++number);
        return PoolReading{facts_.thin_pools, {}};
    });
    EXPECT_EQ(setting(0, "transaction"), "none");
    EXPECT_EQ(setting(1, "transaction"), "9");
    ASSERT_THAT(facts_.problems, SizeIs(1));
    EXPECT_EQ(facts_.problems[0].about, docker_record);
    EXPECT_THAT(facts_.problems[0].why, HasSubstr("changed while it was compared"));
}

/// It stood still at first, and its pool had another number.
TEST_F(ThinTransactionsTest, OneChangeAtLastIsNotToldAsMany) {
    add_pool(20);
    int readings = 0;
    read([&] {
        if (++readings == 3) write_docker(13);
        return PoolReading{facts_.thin_pools, {}};
    });
    EXPECT_EQ(setting(0, "transaction"), "none");
    ASSERT_THAT(facts_.problems, SizeIs(1));
    EXPECT_EQ(facts_.problems[0].why, "it changed while it was compared with its thin pool");
}

TEST_F(ThinTransactionsTest, AReadingThatFailsReplacesNone) {
    add_pool(3);
    read([] { return PoolReading{{}, {{"devices of device-mapper", "no memory"}}}; });
    ASSERT_THAT(facts_.thin_pools, SizeIs(1)) << "what is known stays";
    EXPECT_EQ(setting(0, "thin pool"), "docker-thinpool");
    EXPECT_EQ(setting(0, "transaction"), "none") << "it is of another moment than the pool's";
    ASSERT_THAT(facts_.problems, SizeIs(3));
    EXPECT_EQ(facts_.problems[0].about, "devices of device-mapper");
    EXPECT_EQ(facts_.problems[1].about, docker_record);
    EXPECT_THAT(facts_.problems[1].why, HasSubstr("could not be read again"));
    EXPECT_EQ(facts_.problems[2].about, shale_record);
    EXPECT_THAT(find_check("thin-pool-transaction")->run(facts_).findings, IsEmpty());
}

TEST_F(ThinTransactionsTest, AReadingThatFailsIsMadeAgain) {
    add_pool(3);
    facts_.problems.push_back({"thin device x", "its pool was not found"}); // of the first reading
    int readings = 0;
    read([&] {
        PoolReading out{facts_.thin_pools, facts_.problems};
        out.pools[0].transaction = 12;
        if (++readings == 1) out.problems.push_back({"devices of device-mapper", "no memory"});
        return out;
    });
    EXPECT_EQ(readings, 2);
    EXPECT_EQ(facts_.thin_pools.at(0).transaction, 12U);
    EXPECT_EQ(setting(0, "transaction"), "12");
    EXPECT_THAT(facts_.problems, SizeIs(1));
}

} // namespace
} // namespace shale::doctor
