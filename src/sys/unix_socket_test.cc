// SPDX-License-Identifier: Apache-2.0
#include "sys/unix_socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>
#include <optional>

namespace shale::sys {
namespace {

using testing::HasSubstr;

class UnixSocket : public testing::Test {
protected:
    void SetUp() override {
        char name[] = "/tmp/shale-socket.XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        dir_ = name;
        path_ = dir_ + "/s";
    }
    void TearDown() override {
        ::unlink(path_.c_str());
        EXPECT_EQ(::rmdir(dir_.c_str()), 0) << "something is left";
    }
    [[nodiscard]] bool answers() const {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path_.data(), path_.size());
        UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
        return ::connect(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0;
    }
    std::string dir_, path_;
};

TEST_F(UnixSocket, HasItsModeAndGoesWithItsOwner) {
    {
        const auto listener = UnixListener::listen(path_, 0660);
        ASSERT_TRUE(listener) << listener.error().text();
        struct stat found{};
        ASSERT_EQ(::stat(path_.c_str(), &found), 0);
        EXPECT_TRUE(S_ISSOCK(found.st_mode));
        EXPECT_EQ(found.st_mode & 07777U, 0660U);
        EXPECT_FALSE(*accept_one(listener->fd()));
        EXPECT_TRUE(answers());
        EXPECT_TRUE(*accept_one(listener->fd()));
    }
    EXPECT_NE(::access(path_.c_str(), F_OK), 0);
}

TEST_F(UnixSocket, OneThatLivesIsRefused) {
    const auto first = UnixListener::listen(path_, 0660);
    ASSERT_TRUE(first);
    const auto second = UnixListener::listen(path_, 0660);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(second.error().text(), HasSubstr("another process"));
    EXPECT_TRUE(answers());
}

TEST_F(UnixSocket, AStaleOneIsReplaced) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address), 0);
    dead.reset();
    ASSERT_FALSE(answers());
    const auto listener = UnixListener::listen(path_, 0600);
    ASSERT_TRUE(listener) << listener.error().text();
    EXPECT_TRUE(answers());
}

TEST_F(UnixSocket, WhatIsNoSocketStays) {
    UniqueFd file(::open(path_.c_str(), O_CREAT | O_WRONLY, 0600));
    ASSERT_TRUE(file);
    const auto listener = UnixListener::listen(path_, 0660);
    ASSERT_FALSE(listener);
    EXPECT_EQ(listener.error().code(), Errc::FailedPrecondition);
    EXPECT_EQ(::access(path_.c_str(), F_OK), 0);
}

TEST_F(UnixSocket, TheNameOfASuccessorStays) {
    std::optional<UnixListener> first = UnixListener::listen(path_, 0660).value();
    ::unlink(path_.c_str());
    const auto second = UnixListener::listen(path_, 0660);
    ASSERT_TRUE(second);
    first.reset();
    EXPECT_TRUE(answers());
}

TEST_F(UnixSocket, HandedOverByTheServiceManager) {
    EXPECT_FALSE(*UnixListener::inherit(path_)) << "nothing was";
    {
        const auto made = UnixListener::listen(path_, 0660);
        ASSERT_TRUE(made);
        const int low = ::dup2(made->fd(), 3); // the first that sd_listen_fds(3) hands over
        ASSERT_EQ(low, 3);
        setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
        setenv("LISTEN_FDS", "1", 1);
        EXPECT_FALSE(*UnixListener::inherit(dir_ + "/other"));
        {
            const auto inherited = UnixListener::inherit(path_);
            ASSERT_TRUE(inherited && *inherited);
            EXPECT_TRUE(answers());
            EXPECT_TRUE(*accept_one((*inherited)->fd()));
        }
        EXPECT_EQ(::access(path_.c_str(), F_OK), 0) << "its name is the manager's";
        setenv("LISTEN_PID", "1", 1);
        EXPECT_FALSE(*UnixListener::inherit(path_)) << "another process was meant";
        unsetenv("LISTEN_PID");
        unsetenv("LISTEN_FDS");
    }
}

TEST_F(UnixSocket, NamesThatCannotBe) {
    EXPECT_EQ(UnixListener::listen("relative", 0660).error().code(), Errc::InvalidArgument);
    EXPECT_EQ(UnixListener::listen("/" + std::string(120, 'x'), 0660).error().code(), Errc::InvalidArgument);
    EXPECT_EQ(UnixListener::listen(dir_ + "/none/s", 0660).error().code(), Errc::NotFound);
}

} // namespace
} // namespace shale::sys
