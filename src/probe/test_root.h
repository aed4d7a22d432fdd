// SPDX-License-Identifier: Apache-2.0
// A root directory of a test's own, to be examined as a host.
#pragma once

#include <gtest/gtest.h>

#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "probe/host.h"
#include "sys/fs.h"

namespace shale::probe {

/// Gone with the object. Paths are the host's ("/proc/1/comm"); directories on the way are made.
class TestRoot {
public:
    TestRoot() {
        std::string name = testing::TempDir() + "shale-host-XXXXXX";
        if (::mkdtemp(name.data()) == nullptr) std::abort();
        path_ = name;
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
