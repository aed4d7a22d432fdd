// SPDX-License-Identifier: Apache-2.0
// The matrices for `shale migrate`: its start, its last step and its rollback, killed before each changing step and
// failing at each system call. Until the last step's switch the old store is untouched; after whatever happened the
// migration can be ended, or rolled back, and the container's tree is what it was.
//
// A migration has some hundred steps, each trial two stores: of a long run every n-th step is tried, of each driver
// others. SHALE_TEST_STRIDE=1 tries all.
#include "store/migrate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <ranges>

#include "crash/hooks.h"
#include "crash/operations.h"

namespace shale::test {
namespace {

enum class Phase : uint8_t { start, finish, rollback };
constexpr unsigned trials = 25; ///< of a run

/// The next driver after `from` that works where `from` does; empty: there is none.
std::string partner_of(const std::string &from, const World &world) {
    const auto names = driver_names();
    const auto at = std::ranges::find(names, from);
    std::vector<std::string> others(at, names.end());
    others.insert(others.end(), names.begin(), at);
    for (const auto &to : others) {
        if (driver_of(to) == driver_of(from) || !cannot_test(to).empty()) continue;
        const std::string root = world / "probe/" + driver_of(to);
        std::filesystem::create_directories(root);
        const auto driver = drivers::find_driver(driver_of(to)).value()->open(root, options_of(to, root));
        const auto probed = driver ? (*driver)->probe() : std::unexpected(driver.error());
        const bool usable = probed && probed->usable;
        world.remove("probe");
        if (usable) return to;
    }
    return {};
}

class MigrateMatrix : public testing::TestWithParam<std::tuple<std::string, Phase, bool>> {
protected:
    void SetUp() override {
        from_ = std::get<0>(GetParam());
        phase_ = std::get<1>(GetParam());
        if (const auto why = cannot_test(from_); !why.empty()) GTEST_SKIP() << why;
        world_.emplace(from_);
        to_ = partner_of(from_, *world_);
        if (to_.empty()) GTEST_SKIP() << "no other driver works where " << from_ << " does";
        in_place_ = std::get<2>(GetParam());
        root_ = *world_ / "root";
        new_root_ = in_place_ ? root_ : *world_ / "new";
        operation_.name = "migrate from " + from_ + " to " + to_ + (in_place_ ? " in place" : "");
        request_.driver = driver_of(to_);
        request_.root = in_place_ ? "" : new_root_;
        request_.options = options_of(to_, new_root_ + "/" + driver_of(to_));
        prepare(*world_, *world_ / "golden", from_);
    }

    std::unique_ptr<store::Store> open_old() {
        auto options = store_options(root_, from_);
        options.driver.clear();
        options.migrating = true;
        auto opened = store::Store::open(options);
        if (!opened) { // it may be the new driver's by now, which does not know these options
            options.driver_options = options_of(to_, root_ + "/" + driver_of(to_));
            opened = store::Store::open(options);
        }
        return opened ? std::move(*opened) : nullptr;
    }
    Status run(store::Store &store) {
        auto done = phase_ == Phase::start    ? store.migrate(request_, {})
                    : phase_ == Phase::finish ? store.finish_migration(false, {})
                                              : store.rollback_migration({});
        if (!done) return std::unexpected(done.error());
        notes_ = done->notes;
        return {};
    }
    /// The state that the phase starts from.
    void begin() {
        notes_.clear();
        copy_dir(*world_ / "golden", root_);
        tree_ = tree_of(root_, from_);
        if (phase_ != Phase::start) {
            const auto copied = open_old()->migrate(request_, {});
            ASSERT_TRUE(copied) << copied.error().text();
        }
    }
    void end() {
        world_->remove("root");
        if (!in_place_) world_->remove("new");
    }
    static Digest tree_of(const std::string &root, const std::string &driver) {
        Sha256 hash;
        const auto done =
            open_store(root, driver)->export_container("kept", [&](std::span<const std::byte> bytes) -> Status {
                hash.update(bytes);
                return {};
            });
        EXPECT_TRUE(done) << done.error().text();
        return hash.finish();
    }
    void expect_store(const std::string &root, const std::string &driver, const std::string &what) {
        EXPECT_EQ(tree_of(root, driver), tree_) << what;
        expect_consistent(root, driver, operation_, what);
    }
    void expect_gone(const std::string &root, const std::string &driver, const std::string &what) {
        EXPECT_FALSE(std::filesystem::exists(root + "/" + driver_of(driver))) << what;
    }
    /// After the phase was cut short, or has come to its end.
    void expect_promise(bool go_on, const std::string &what) {
        SCOPED_TRACE(operation_.name + " " + what);
        const bool old_counts = store::Store::open(store_options(root_, from_)).has_value();
        if (old_counts) expect_store(root_, from_, "the old store");
        ASSERT_TRUE(old_counts || phase_ == Phase::finish) << "it is touched";
        auto old = open_old();
        const bool copying = old && old->migration()->phase == store::MigratePhase::copying;
        if (old_counts && (!go_on || phase_ == Phase::rollback)) {
            if (copying) {
                const auto back = old->rollback_migration({});
                ASSERT_TRUE(back) << back.error().text();
                EXPECT_TRUE(back->notes.empty()) << back->notes.front();
            }
            old.reset();
            if (notes_.empty()) { // else it said what it could not take away
                expect_gone(new_root_, to_, "the new side");
                EXPECT_TRUE(in_place_ || !std::filesystem::exists(new_root_) || std::filesystem::is_empty(new_root_));
            }
            return expect_store(root_, from_, "after the rollback");
        }
        if (old_counts) {
            const auto copied = old->migrate(request_, {});
            ASSERT_TRUE(copied) << copied.error().text();
        }
        ASSERT_TRUE(old || !in_place_) << "it does not open";
        if (old && old->migration()->phase != store::MigratePhase::none) {
            const auto ended = old->finish_migration(false, {});
            ASSERT_TRUE(ended) << ended.error().text();
        }
        old.reset();
        expect_gone(root_, from_, "the old side");
        expect_store(new_root_, to_, "the new store");
    }
    /// Steps of the undisturbed phase.
    void count(CountSteps &steps) {
        begin();
        {
            auto store = open_old();
            sys::set_hook(&steps);
            const auto done = run(*store);
            sys::set_hook(nullptr);
            ASSERT_TRUE(done) << done.error().text();
        }
        expect_promise(true, "undisturbed");
        end();
    }

    std::optional<World> world_;
    std::string from_, to_, root_, new_root_;
    Phase phase_ = Phase::start;
    bool in_place_ = false;
    store::MigrateRequest request_;
    Operation operation_;
    Digest tree_;
    std::vector<std::string> notes_;
};

TEST_P(MigrateMatrix, KilledItLosesNothing) {
    CountSteps steps;
    count(steps);
    const auto [first, distance, last] = stride_of(from_, steps.changes, trials);
    unsigned tried = 0;
    for (unsigned step = first; step <= last && !HasFailure(); step += distance) {
        begin();
        const int status = status_of_child([&] {
            KillAt hook(step);
            auto store = open_old();
            sys::set_hook(&hook);
            const bool good = store && run(*store);
            sys::set_hook(nullptr);
            return good;
        });
        ASSERT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << "failed at step " << step;
        expect_promise((first + tried) % 2 == 0, "killed before step " + std::to_string(step));
        end();
        if (!WIFSIGNALED(status)) break;
        ++tried;
    }
    EXPECT_GT(tried, first + distance <= steps.changes ? 1U : 0U);
    RecordProperty("steps", static_cast<int>(steps.changes));
    RecordProperty("tried", static_cast<int>(tried));
}

TEST_P(MigrateMatrix, FailingItLosesNothing) {
    CountSteps steps;
    count(steps);
    const auto [first, distance, last] = stride_of(from_, steps.calls, trials);
    unsigned tried = 0;
    for (unsigned step = first; step <= last && !HasFailure(); step += distance) {
        const unsigned turn = first + tried; // in turns, and where one is tried each driver has another
        const int error = turn % 2 == 0 ? ENOSPC : EIO;
        const std::string what = "with error " + std::to_string(error) + " at call " + std::to_string(step);
        begin();
        bool reached = false;
        {
            FailAt hook(step, error);
            auto store = open_old();
            sys::set_hook(&hook);
            const auto done = run(*store);
            reached = hook.reached();
            sys::set_hook(nullptr);
            EXPECT_TRUE(done || !done.error().text().empty());
        }
        expect_promise(turn / 2 % 2 == 0, what);
        end();
        if (!reached) break;
        ++tried;
    }
    EXPECT_GT(tried, first + distance <= steps.calls ? 1U : 0U);
    RecordProperty("calls", static_cast<int>(steps.calls));
    RecordProperty("tried", static_cast<int>(tried));
}

std::string name_of(const testing::TestParamInfo<MigrateMatrix::ParamType> &info) {
    const auto &[driver, phase, in_place] = info.param;
    const std::string_view what = phase == Phase::start ? "_start" : phase == Phase::finish ? "_finish" : "_rollback";
    return driver + std::string(what) + (in_place ? "_in_place" : "");
}

INSTANTIATE_TEST_SUITE_P(All, MigrateMatrix,
                         testing::Combine(testing::ValuesIn(driver_names()),
                                          testing::Values(Phase::start, Phase::finish, Phase::rollback),
                                          testing::Bool()),
                         name_of);

} // namespace
} // namespace shale::test
