// SPDX-License-Identifier: Apache-2.0
// Every mutating operation is run in a child that is killed (SIGKILL) right before its first, second, third, ...
// changing system call or record commit, until it ends by itself; after each the store must keep its promise.
#include <gtest/gtest.h>

#include "crash/hooks.h"
#include "crash/operations.h"

namespace shale::test {
namespace {

/// True: killed at that step; false: the operation ended before it.
bool run_killed(const Operation &operation, const World &world, const std::string &root, const std::string &driver,
                unsigned step) {
    (void)options_of(driver, root + "/" + driver_of(driver)); // a device that it needs outlives the child
    const int status = status_of_child([&] {
        KillAt hook(step);
        sys::set_hook(&hook);
        auto store = store::Store::open(store_options(root, driver));
        const bool good = store && operation.run(**store, world);
        sys::set_hook(nullptr);
        return good;
    });
    if (WIFSIGNALED(status)) return true;
    EXPECT_EQ(WEXITSTATUS(status), 0) << operation.name << " failed at step " << step;
    return false;
}

/// Steps of the undisturbed operation, the opening of the store among them.
unsigned count_steps(const Operation &operation, const World &world, const std::string &root,
                     const std::string &driver) {
    copy_dir(world / "golden", root);
    CountSteps steps;
    {
        sys::set_hook(&steps);
        auto store = store::Store::open(store_options(root, driver));
        const auto done = store ? operation.run(**store, world) : std::unexpected(store.error());
        sys::set_hook(nullptr);
        EXPECT_TRUE(done) << operation.name << ", undisturbed: " << done.error().text();
    }
    expect_consistent(root, driver, operation, "undisturbed");
    world.remove("root");
    return steps.changes;
}

class KillMatrix : public testing::TestWithParam<std::tuple<std::string, size_t>> {};

TEST_P(KillMatrix, NothingIsLost) {
    const auto &[driver, index] = GetParam();
    if (const auto why = cannot_test(driver); !why.empty()) GTEST_SKIP() << why;
    const auto &operation = operations()[index];
    const World world(driver);
    prepare(world, world / "golden", driver);
    if (HasFatalFailure()) return;
    const std::string root = world / "root";
    const unsigned steps = count_steps(operation, world, root, driver);
    if (HasFailure()) return;
    const auto [first, distance, last] = stride_of(driver, steps);
    unsigned tried = 0;
    for (unsigned step = first; step <= last; step += distance) {
        copy_dir(world / "golden", root);
        const bool killed = run_killed(operation, world, root, driver, step);
        expect_consistent(root, driver, operation, "killed before step " + std::to_string(step));
        if (HasFailure()) return;
        world.remove("root");
        if (!killed) break;
        ++tried;
    }
    RecordProperty("steps", static_cast<int>(steps));
    RecordProperty("tried", static_cast<int>(tried));
    EXPECT_GT(tried, 0U) << "of " << steps << " steps";
}

INSTANTIATE_TEST_SUITE_P(All, KillMatrix,
                         testing::Combine(testing::ValuesIn(driver_names()),
                                          testing::Range(size_t{0}, operations().size())),
                         [](const auto &info) {
                             return std::get<0>(info.param) + "_" + operations()[std::get<1>(info.param)].name;
                         });

} // namespace
} // namespace shale::test
