// SPDX-License-Identifier: Apache-2.0
// A root directory of a test's own, to be examined as a host.
#pragma once

#include <gtest/gtest.h>

#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

#include <fmt/format.h>

#include "probe/host.h"
#include "sys/fs.h"

namespace shale::probe {

/// Runs `body` in a thread that may read no more than a user: root becomes nobody there, and there alone (the system
/// call is a thread's, setresuid(2), "C library/kernel differences").
template <class Body> void as_a_user(Body &&body) {
    std::thread([&] {
        if (::geteuid() == 0) {
            constexpr uid_t nobody = 65534;
            ASSERT_EQ(::syscall(SYS_setresuid, uid_t(-1), nobody, uid_t(-1)), 0);
        }
        body();
    }).join();
}

/// "major:minor", as in facts.
inline std::string device_of(const struct stat &status) {
    return fmt::format("{}:{}", major(status.st_dev), minor(status.st_dev));
}

/// Gone with the object. Paths are the host's ("/proc/1/comm"); directories on the way are made.
class TestRoot {
public:
    TestRoot() {
        std::string name = testing::TempDir() + "shale-host-XXXXXX";
        if (::mkdtemp(name.data()) == nullptr) std::abort();
        path_ = name;
        ::chmod(path_.c_str(), 0755); // NOLINT(readability-magic-numbers): for as_a_user()
    }
    TestRoot(const TestRoot &) = delete;
    TestRoot &operator=(const TestRoot &) = delete;
    ~TestRoot() { (void)sys::remove_tree(AT_FDCWD, path_.c_str()); }

    [[nodiscard]] const std::string &path() const { return path_; }
    [[nodiscard]] std::string here(std::string_view path) const { return path_ + std::string(path); }
    [[nodiscard]] Host host() const {
        auto out = Host::open(path_);
        if (!out) {
            ADD_FAILURE() << out.error().text();
            std::abort();
        }
        return std::move(*out);
    }
    void dir(std::string_view path) const { std::filesystem::create_directories(here(path)); }
    void file(std::string_view path, std::string_view text) const {
        dir(path.substr(0, path.rfind('/')));
        std::ofstream(here(path), std::ios::binary) << text;
    }
    void link(std::string_view target, std::string_view path) const {
        dir(path.substr(0, path.rfind('/')));
        std::filesystem::create_symlink(target, here(path));
    }

private:
    std::string path_;
};

} // namespace shale::probe
