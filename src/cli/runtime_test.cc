// SPDX-License-Identifier: Apache-2.0
#include "cli/runtime.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/fd.h"

namespace shale::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FindUser : public ::testing::Test {
protected:
    void SetUp() override {
        ASSERT_NE(mkdtemp(dir_.data()), nullptr);
        std::filesystem::create_directory(dir_ + "/etc");
        root_ = UniqueFd(open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    }
    void TearDown() override { std::filesystem::remove_all(dir_); }
    void write(const char *name, std::string_view text) const { std::ofstream(dir_ + "/etc/" + name) << text; }

    std::string dir_ = "/tmp/shale-user-XXXXXX";
    UniqueFd root_;
};

TEST_F(FindUser, NamesAndNumbers) {
    write("passwd", "root:x:0:0::/root:/bin/sh\nbad\nweb:x:33:34::/var/www:\n");
    write("group", "adm:x:4:web,x\nstaff:x:50:\n");
    const auto web = find_user(root_.get(), "web");
    ASSERT_TRUE(web);
    EXPECT_EQ(web->uid, 33U);
    EXPECT_EQ(web->gid, 34U);
    EXPECT_EQ(web->home, "/var/www");
    EXPECT_THAT(web->groups, ElementsAre(4U));
    EXPECT_EQ(find_user(root_.get(), "33")->gid, 34U);
    EXPECT_EQ(find_user(root_.get(), "77")->uid, 77U);
    EXPECT_EQ(find_user(root_.get(), "77:staff")->gid, 50U);
    EXPECT_EQ(find_user(root_.get(), "web:9")->gid, 9U);
    EXPECT_EQ(find_user(root_.get(), "")->uid, 0U);
    EXPECT_EQ(find_user(root_.get(), "eve").error().code(), Errc::NotFound);
    EXPECT_EQ(find_user(root_.get(), "web:eve").error().code(), Errc::NotFound);
    EXPECT_FALSE(find_user(root_.get(), "-1"));
    EXPECT_FALSE(find_user(root_.get(), "4294967295"));
}

TEST_F(FindUser, HostileFilesDoNotHoldOrEscape) {
    // The link's target exists outside; inside the root it does not.
    std::filesystem::create_symlink("/etc/passwd", dir_ + "/etc/group");
    std::filesystem::create_symlink("/../../../../../../etc/shadow", dir_ + "/etc/passwd");
    EXPECT_FALSE(find_user(root_.get(), "root")); // group -> passwd -> itself missing
    std::filesystem::remove(dir_ + "/etc/passwd");
    std::filesystem::remove(dir_ + "/etc/group");
    ASSERT_EQ(mkfifo((dir_ + "/etc/passwd").c_str(), 0600), 0);
    EXPECT_EQ(find_user(root_.get(), "0").error().code(), Errc::FailedPrecondition);
    std::filesystem::remove(dir_ + "/etc/passwd");
    write("passwd", std::string((size_t{1} << 20U) + 1, 'x'));
    EXPECT_EQ(find_user(root_.get(), "web").error().code(), Errc::ResourceExhausted);
}

TEST(RunSpecTest, CommandReplacesEntrypoint) {
    oci::Config config;
    config.entrypoint = {"/entry"};
    config.cmd = {"a"};
    config.env = {"PATH=/bin"};
    config.working_dir = "srv";
    EXPECT_THAT(run_spec(config, {})->args, ElementsAre("/entry", "a"));
    EXPECT_THAT(run_spec(config, {"ls"})->args, ElementsAre("ls"));
    EXPECT_EQ(run_spec(config, {})->cwd, "/srv");
    EXPECT_EQ(run_spec(config, {})->env[0], "PATH=/bin");
    EXPECT_FALSE(run_spec({}, {}));
}

TEST(BundleConfig, UserNamespaceBindsSys) {
    RunSpec spec;
    spec.root = "/r";
    spec.args = {"sh"};
    EXPECT_THAT(bundle_config(spec), HasSubstr("\"sysfs\""));
    EXPECT_THAT(bundle_config(spec), HasSubstr("\"noNewPrivileges\": true"));
    spec.in_user_namespace = true;
    EXPECT_THAT(bundle_config(spec), HasSubstr("\"rbind\""));
}

TEST(RunChild, ExitCodes) {
    EXPECT_EQ(*run_child("/bin/sh", {"sh", "-c", "exit 7"}, 022), 7);
    EXPECT_EQ(*run_child("/bin/sh", {"sh", "-c", "kill -9 $$"}, 022), 137);
    EXPECT_FALSE(run_child("/nonexistent", {"x"}, 022));
    const auto in_proc = [] { (void)!chdir("/proc"); };
    EXPECT_EQ(*run_child("/bin/sh", {"sh", "-c", "test \"$(pwd -P)\" = /proc"}, 022, in_proc), 0);
}

} // namespace
} // namespace shale::cli
