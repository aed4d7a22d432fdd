// SPDX-License-Identifier: Apache-2.0
// moby #4036, #9562: "Error mounting '/dev/mapper/docker-...': no such file or directory", and containers that ran on
// the bare directory below a mount that had not happened. Here a device that goes away just before the mount is an
// error, the next try works, and what is mounted is proved to be the container's device.
#include <atomic>

#include "issues/issue_test.h"
#include "sys/dm.h"
#include "sys/mount.h"
#include "sys/seam.h"

namespace shale::test {
namespace {

SHALE_ISSUE_OF(Moby4036, "devicemapper");

/// Takes the device away right before the file system's mount begins, once.
class TakeAway : public sys::Hook {
public:
    explicit TakeAway(std::string device) : device_(std::move(device)) {}
    int before(const sys::Call &call) noexcept override {
        if (call.op == sys::Op::fsopen && !done_.exchange(true))
            gone_ = sys::dm_remove(device_, sys::DmRemove::now).has_value();
        return 0;
    }
    [[nodiscard]] bool gone() const noexcept { return gone_; }

private:
    std::string device_;
    std::atomic<bool> done_ = false, gone_ = false;
};

TEST_P(Moby4036, AMountThatDidNotHappenIsAnError) {
    auto store = open();
    import(*store, {{{file("a"), "a"}}}, "app:1");
    ASSERT_TRUE(store->create_container("app:1", "one", {}));
    const auto container = store->find_container("one");
    ASSERT_TRUE(container);
    const auto specs = store->container_mounts(*container);
    ASSERT_TRUE(specs) << specs.error().text();
    TakeAway hook(specs->front().source.substr(specs->front().source.rfind('/') + 1));
    sys::set_hook(&hook);
    const auto failed = store->mount_container("one");
    sys::set_hook(nullptr);
    ASSERT_TRUE(hook.gone());
    ASSERT_FALSE(failed);
    EXPECT_NE(failed.error().text().find(specs->front().source), std::string::npos) << failed.error().text();
    const auto at = store->mount_container("one");
    ASSERT_TRUE(at) << at.error().text();
    EXPECT_EQ(read_all(*at + "/a"), "a");
    EXPECT_TRUE(store->driver().prove_mount(container->id, *at));
    EXPECT_TRUE(store->unmount_container("one"));
    EXPECT_FALSE(store->driver().prove_mount(container->id, *at)) << "the bare directory is not the container";
}

} // namespace
} // namespace shale::test
