// SPDX-License-Identifier: Apache-2.0
// One file a foreign bug that shale promises not to have; the name tells the tracker and number.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "support/world.h"
#include "sys/fs.h"

namespace shale::test {

class Issue : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        if (const auto why = cannot_test(GetParam()); !why.empty()) GTEST_SKIP() << why;
    }
    std::unique_ptr<store::Store> open() { return open_store(world_ / "root", GetParam()); }
    store::ImageInfo import(store::Store &store, const std::vector<Layer> &layers, const std::string &name) {
        write_docker_archive(world_ / "image.tar", layers, name);
        store::ImportRequest request;
        request.source = world_ / "image.tar";
        auto imported = store.import_images(request, {});
        EXPECT_TRUE(imported) << imported.error().text();
        return imported ? imported->at(0).image : store::ImageInfo{};
    }
    World world_{GetParam()};
};

#define SHALE_ISSUE(name)                                                                                              \
    class name : public Issue {};                                                                                      \
    INSTANTIATE_TEST_SUITE_P(Drivers, name, testing::ValuesIn(driver_names()),                                         \
                             [](const auto &info) { return info.param; })
/// Of one driver only.
#define SHALE_ISSUE_OF(name, driver)                                                                                   \
    class name : public Issue {};                                                                                      \
    INSTANTIATE_TEST_SUITE_P(Drivers, name, testing::ValuesIn(driver_names(driver)),                                   \
                             [](const auto &info) { return info.param; })

} // namespace shale::test
