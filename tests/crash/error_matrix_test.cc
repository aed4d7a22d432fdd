// SPDX-License-Identifier: Apache-2.0
// Every mutating operation is run with its first, second, third, ... system call failing (ENOSPC, EIO, EDQUOT, EMFILE,
// EINTR). It may fail or get round it; the store must keep its promise, and the same operation must work once the
// trouble is over.
#include <gtest/gtest.h>

#include <cerrno>

#include "crash/hooks.h"
#include "crash/operations.h"

namespace shale::test {
namespace {

struct Trouble {
    const char *name;
    int error;
    unsigned stride; ///< 1: every call; more: every n-th, to bound the run (the first errors are tried at each call)
};
constexpr Trouble troubles[] = {
    {"ENOSPC", ENOSPC, 1}, {"EIO", EIO, 1}, {"EDQUOT", EDQUOT, 7}, {"EMFILE", EMFILE, 5}, {"EINTR", EINTR, 7}};

/// Calls of the undisturbed operation.
unsigned count_calls(const Operation &operation, const World &world, const std::string &root,
                     const std::string &driver) {
    copy_dir(world / "golden", root);
    CountSteps steps;
    {
        auto store = open_store(root, driver);
        sys::set_hook(&steps);
        const auto done = operation.run(*store, world);
        sys::set_hook(nullptr);
        EXPECT_TRUE(done) << operation.name << ", undisturbed: " << done.error().text();
    }
    world.remove("root");
    return steps.calls;
}

class ErrorMatrix : public testing::TestWithParam<std::tuple<std::string, size_t>> {};

TEST_P(ErrorMatrix, StoreStaysWhole) {
    const auto &[driver, index] = GetParam();
    if (const auto why = cannot_test(driver); !why.empty()) GTEST_SKIP() << why;
    const auto &operation = operations()[index];
    const World world(driver);
    prepare(world, world / "golden", driver);
    if (HasFatalFailure()) return;
    const std::string root = world / "root";
    const unsigned calls = count_calls(operation, world, root, driver);
    if (HasFailure()) return;
    const auto [first, distance, last] = stride_of(driver, calls);
    int tried = 0;
    for (const auto &trouble : troubles) {
        if (trouble.stride > 1 && in_guest()) continue; // few are tried: what disks say
        for (unsigned step = first; step <= last; step += trouble.stride * distance) {
            copy_dir(world / "golden", root);
            const std::string what = std::string("with ") + trouble.name + " at call " + std::to_string(step);
            bool reached = false;
            {
                FailAt hook(step, trouble.error);
                auto store = open_store(root, driver);
                sys::set_hook(&hook);
                const auto done = operation.run(*store, world);
                reached = hook.reached();
                sys::set_hook(nullptr);
                if (trouble.error == EINTR) {
                    EXPECT_TRUE(done) << operation.name << " " << what << ": " << done.error().text();
                }
                if (!done) {
                    EXPECT_FALSE(done.error().text().empty());
                    const auto again = operation.run(*store, world);
                    EXPECT_TRUE(again || again.error().code() == Errc::NotFound ||
                                again.error().code() == Errc::AlreadyExists)
                        << operation.name << " " << what << ", then again: " << again.error().text();
                }
            }
            expect_consistent(root, driver, operation, what);
            if (HasFailure()) return;
            world.remove("root");
            if (!reached) break;
            ++tried;
        }
    }
    EXPECT_GT(tried, 0);
    RecordProperty("calls", static_cast<int>(calls));
    RecordProperty("tried", tried);
}

INSTANTIATE_TEST_SUITE_P(All, ErrorMatrix,
                         testing::Combine(testing::ValuesIn(driver_names()),
                                          testing::Range(size_t{0}, operations().size())),
                         [](const auto &info) {
                             return std::get<0>(info.param) + "_" + operations()[std::get<1>(info.param)].name;
                         });

} // namespace
} // namespace shale::test
