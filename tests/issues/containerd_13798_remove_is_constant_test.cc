// SPDX-License-Identifier: Apache-2.0
// containerd #13798, #8980: removal walks a tree under a lock and wedges the node. Here removal makes a bounded number
// of calls whatever the container holds; unlinking is the reaper's.
#include <atomic>

#include "issues/issue_test.h"
#include "sys/seam.h"

namespace shale::test {
namespace {

class CountSteps : public sys::Hook {
public:
    int before(const sys::Call &call) noexcept override {
        if (sys::op_mutates(call.op)) ++steps;
        return 0;
    }
    std::atomic<int> steps{0};
};

SHALE_ISSUE(Containerd13798);

TEST_P(Containerd13798, RemoveIsConstant) {
    auto store = open();
    import(*store, {{{file("a"), "a"}}}, "app:1");
    ASSERT_TRUE(store->create_container("app:1", "big", {}));
    const auto at = store->mount_container("big");
    ASSERT_TRUE(at);
    for (int i = 0; i < 500; ++i)
        std::ofstream(*at + "/f" + std::to_string(i)) << i;
    ASSERT_TRUE(store->unmount_container("big"));
    CountSteps hook;
    sys::set_hook(&hook);
    const auto removed = store->remove_container("big", false);
    sys::set_hook(nullptr);
    ASSERT_TRUE(removed) << removed.error().text();
    EXPECT_LT(hook.steps, 20);
    EXPECT_EQ(store->driver().trash()->layers, 1U);
    ASSERT_TRUE(store->reap());
    EXPECT_EQ(store->driver().trash()->layers, 0U);
}

} // namespace
} // namespace shale::test
