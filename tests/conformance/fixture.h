// SPDX-License-Identifier: Apache-2.0
// One suite over all drivers of the registry. The program works in its own mount name space: whatever a test mounts is
// gone with the process, killed or not. Scratch: a directory below $SHALE_TEST_DIR (else /var/tmp).
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <memory>
#include <string>
#include <vector>

#include "archive/extract.h"
#include "archive/pack.h"
#include "archive/tar.h"
#include "drivers/driver.h"
#include "support/world.h"

namespace shale::conformance {

/// A layer archive in the making.
class Archive {
public:
    Archive();
    Archive(const Archive &) = delete; // the writer's sink refers to this object
    Archive &operator=(const Archive &) = delete;
    Archive &dir(const std::string &path, uint32_t mode = 0755, uint64_t uid = 0, uint64_t gid = 0,
                 int64_t mtime = 1000);
    Archive &file(const std::string &path, const std::string &content, uint32_t mode = 0644, uint64_t uid = 0,
                  uint64_t gid = 0);
    Archive &link(const std::string &path, const std::string &target);
    Archive &symlink(const std::string &path, const std::string &target);
    Archive &fifo(const std::string &path);
    Archive &device(const std::string &path, unsigned major, unsigned minor);
    Archive &whiteout(const std::string &path);
    Archive &opaque(const std::string &path);
    Archive &entry(archive::Entry entry, const std::string &content = {});
    [[nodiscard]] std::string bytes();

private:
    std::string out_;
    archive::TarWriter writer_;
};

class DriverTest : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override;
    void TearDown() override;

    /// New ids: 1, 2, ...
    LayerId next() { return LayerId{++last_id_}; }
    /// Opens the driver again with these options, in the same place.
    void reopen(const drivers::DriverOptions &options);
    /// stage, extract, apply. (No sync: a syncfs a layer would make the suite wait for the whole host.)
    Status try_import(LayerId id, const std::vector<LayerId> &parents, const std::string &tar,
                      archive::ExtractReport *report = nullptr);
    LayerId import(const std::vector<LayerId> &parents, Archive &archive);
    /// A mounted writable layer; its path.
    std::string start(LayerId id, const std::vector<LayerId> &parents);
    /// Mounts an existing layer at its path.
    std::string mount(LayerId id, const std::vector<LayerId> &parents,
                      drivers::Driver::Access access = drivers::Driver::Access::read_write);
    void stop(LayerId id);
    void commit(LayerId id, const std::vector<LayerId> &parents);
    void settle(LayerId id);
    /// A read-only look at a layer, until the end of the test.
    std::string view(LayerId id, const std::vector<LayerId> &parents);
    void drop_views() { views_.clear(); }
    std::string diff(LayerId id, const std::vector<LayerId> &parents, drivers::Driver::DiffReport *report = nullptr);
    /// "A /x", "C /y", "D /z", sorted.
    std::vector<std::string> changes(LayerId id, const std::vector<LayerId> &parents);

    /// Names that a file has in `layers` parents' trees: the legacy overlay's layers are hard links of each other.
    [[nodiscard]] static nlink_t links_of_parents(nlink_t layers) { return GetParam() == "overlay" ? layers : 0; }
    /// Of the driver under test: what is open()'s root.
    [[nodiscard]] std::string driver_root() const { return scratch_ + "/" + test::driver_of(GetParam()); }

    std::string scratch_;
    std::unique_ptr<drivers::Driver> driver_;

private:
    uint64_t last_id_ = 0;
    bool has_home_ = false; ///< scratch_ is a file system of its own
    std::vector<std::string> mounted_;
    std::vector<drivers::Driver::View> views_;
};

using test::driver_names;

/// Parents of a layer on top of `layers` (given bottom first): nearest first.
std::vector<LayerId> over(const std::vector<LayerId> &layers);

void put(const std::string &path, const std::string &content, mode_t mode = 0644);
std::string get(const std::string &path); ///< "<errno N>" when it cannot be read
bool exists(const std::string &path);
struct stat status_of(const std::string &path);
mode_t mode_of(const std::string &path);
std::string owner_of(const std::string &path);                   ///< "uid:gid"
std::string xattr_of(const std::string &path, const char *name); ///< "" when absent
std::vector<std::string> names_in(const std::string &path);
/// Every path with type, mode, owner, content, link target and xattrs: equal texts = equal trees.
std::string describe(const std::string &root);

} // namespace shale::conformance

#define ASSERT_DONE(...)                                                                                               \
    do {                                                                                                               \
        const auto &done_ = (__VA_ARGS__);                                                                             \
        ASSERT_TRUE(done_.has_value()) << done_.error().text();                                                        \
    } while (false)
#define EXPECT_DONE(...)                                                                                               \
    do {                                                                                                               \
        const auto &done_ = (__VA_ARGS__);                                                                             \
        EXPECT_TRUE(done_.has_value()) << done_.error().text();                                                        \
    } while (false)
