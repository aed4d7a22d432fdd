// SPDX-License-Identifier: Apache-2.0
// moby #35642, #16112: a mount that lives on in another process's mount name space makes "dataset is busy", and the
// removal fails for good. Here the removal is done; the dataset waits in the trash until nobody has it mounted.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE_OF(Moby35642, "zfs");

TEST_P(Moby35642, AMountElsewhereDelaysTheSpaceOnly) {
    auto store = open();
    import(*store, {{{file("a"), "a"}}}, "app:1");
    ASSERT_TRUE(store->create_container("app:1", "busy", {}));
    const auto at = store->mount_container("busy");
    ASSERT_TRUE(at) << at.error().text();
    int ready[2]; // NOLINT: pipe(2)
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t other = ::fork();
    if (other == 0) {
        // In use: the kernel takes an idle mount there away together with the mount point here (Linux 3.18).
        if (::unshare(CLONE_NEWNS) != 0 || ::chdir(at->c_str()) != 0) ::_exit(1);
        (void)::write(ready[1], "x", 1);
        ::pause();
        ::_exit(0);
    }
    char byte = 0;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    const auto removed = store->remove_container("busy", true);
    EXPECT_TRUE(removed) << removed.error().text();
    const auto collected = store->gc(false);
    EXPECT_TRUE(collected) << collected.error().text();
    EXPECT_EQ(store->driver().trash()->layers, 1U);
    EXPECT_FALSE(store->find_container("busy"));
    ASSERT_TRUE(store->create_container("app:1", "busy", {})) << "its name is free";
    ::kill(other, SIGKILL);
    ::waitpid(other, nullptr, 0);
    ::close(ready[0]);
    ::close(ready[1]);
    EXPECT_TRUE(store->gc(false));
    EXPECT_EQ(store->driver().trash()->layers, 0U);
}

} // namespace
} // namespace shale::test
