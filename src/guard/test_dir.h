// SPDX-License-Identifier: Apache-2.0
// A directory of a test's own, as ROOT/guard.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "guard/event.h"
#include "sys/fs.h"

namespace shale::guard {

/// Gone with the object.
class TestDir {
public:
    TestDir() : root_(testing::TempDir() + "shale-guard-XXXXXX") {
        if (::mkdtemp(root_.data()) == nullptr) std::abort();
    }
    TestDir(const TestDir &) = delete;
    TestDir &operator=(const TestDir &) = delete;
    ~TestDir() { (void)sys::remove_tree(AT_FDCWD, root_.c_str()); }

    /// Of ROOT/guard; a new one each time.
    [[nodiscard]] UniqueFd fd() const {
        auto root = sys::open_dir(AT_FDCWD, root_.c_str());
        if (!root) std::abort();
        auto dir = open_guard_dir(root->get());
        if (!dir) std::abort();
        return std::move(*dir);
    }
    [[nodiscard]] std::string file(std::string_view name) const {
        (void)fd(); // so that it is there
        return root_ + "/guard/" + std::string(name);
    }
    [[nodiscard]] bool has(std::string_view name) const { return std::filesystem::exists(file(name)); }
    [[nodiscard]] std::string read(std::string_view name) const {
        std::ostringstream out;
        out << std::ifstream(file(name), std::ios::binary).rdbuf();
        return out.str();
    }
    void append(std::string_view name, std::string_view text) const {
        std::ofstream(file(name), std::ios::binary | std::ios::app) << text;
    }
    void write(std::string_view name, std::string_view text) const {
        std::ofstream(file(name), std::ios::binary | std::ios::trunc) << text;
        std::filesystem::permissions(file(name), std::filesystem::perms(0600));
    }

private:
    std::string root_;
};

} // namespace shale::guard
