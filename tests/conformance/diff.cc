// SPDX-License-Identifier: Apache-2.0
// Changes of a layer, as a list and as an archive that makes the same tree again.
#include <sys/stat.h>

#include <filesystem>

#include <fmt/format.h>

#include "conformance/fixture.h"

namespace shale::conformance {

namespace fs = std::filesystem;
using testing::ElementsAre;

class Diff : public DriverTest {
protected:
    void diff_apply(int files) {
        Archive archive;
        archive.dir("d").dir("gone").file("gone/x", "x");
        for (int i = 0; i < files; ++i)
            archive.file(fmt::format("d/f{}", i), fmt::format("base {}", i));
        const LayerId base = import({}, archive);
        const LayerId upper = next();
        const std::string path = start(upper, {base});
        for (int i = 0; i < files; i += 2)
            put(fmt::format("{}/d/f{}", path, i), fmt::format("changed {}", i));
        fs::remove(path + "/d/f1");
        fs::remove_all(path + "/gone");
        put(path + "/new", "n");
        ASSERT_EQ(::chmod((path + "/d/f3").c_str(), 0600), 0);
        fs::create_hard_link(path + "/new", path + "/new2");
        const std::string before = describe(path);
        commit(upper, {base});
        drivers::Driver::DiffReport report;
        const std::string tar = diff(upper, {base}, &report);
        EXPECT_EQ(report.native, report.walk_reason.empty());
        const LayerId copy = next();
        ASSERT_DONE(try_import(copy, {base}, tar));
        EXPECT_EQ(describe(view(copy, {base})), before);
        EXPECT_EQ(diff(copy, {base}), tar) << "the archive of the copy is the same, byte by byte";
        EXPECT_FALSE(exists(view(copy, {base}) + "/d/f1"));
        EXPECT_FALSE(exists(view(copy, {base}) + "/gone"));
    }
};

TEST_P(Diff, DiffApply10Files) {
    diff_apply(10);
}
TEST_P(Diff, DiffApply100Files) {
    diff_apply(100);
}

TEST_P(Diff, Changes20) {
    Archive archive;
    for (int i = 0; i < 20; ++i)
        archive.file(fmt::format("f{:02}", i), "base");
    const LayerId base = import({}, archive);
    const LayerId upper = next();
    const std::string path = start(upper, {base});
    std::vector<std::string> wanted;
    for (int i = 0; i < 20; ++i) {
        const std::string name = fmt::format("/f{:02}", i);
        if (i % 3 == 0) {
            put(path + name, "longer than before");
            wanted.push_back("C " + name);
        } else if (i % 3 == 1) {
            fs::remove(path + name);
            wanted.push_back("D " + name);
        } else {
            put(path + name + "-new", "new");
            wanted.push_back("A " + name + "-new");
        }
    }
    EXPECT_THAT(changes(upper, {base}), testing::UnorderedElementsAreArray(wanted));
}

TEST_P(Diff, ChangesWithoutParents) {
    const LayerId base = import({}, Archive().dir("d").file("d/f", "x"));
    EXPECT_THAT(changes(base, {}), ElementsAre("A /d", "A /d/f"));
}

TEST_P(Diff, Echo) {
    // Deleted at each depth of a tree, made again in a third layer.
    constexpr int depth = 10;
    for (int at = 1; at < depth; at += 4) {
        Archive archive;
        std::string path;
        std::vector<std::string> dirs;
        for (int i = 0; i < depth; ++i) {
            path += fmt::format("{}d{}", i == 0 ? "" : "/", i);
            dirs.push_back(path);
            archive.dir(path).file(path + "/file", "x");
        }
        const std::string victim = dirs[static_cast<size_t>(at)];
        const LayerId base = import({}, archive);
        const LayerId second = next();
        std::string mounted = start(second, {base});
        fs::remove_all(mounted + "/" + victim);
        std::vector<std::string> deleted, added;
        for (int i = 0; i < at; ++i) {
            deleted.push_back("C /" + dirs[static_cast<size_t>(i)]);
            added.push_back("C /" + dirs[static_cast<size_t>(i)]);
        }
        deleted.push_back("D /" + victim);
        added.push_back("A /" + victim);
        EXPECT_THAT(changes(second, {base}), testing::UnorderedElementsAreArray(deleted));
        commit(second, {base});
        const LayerId third = next();
        mounted = start(third, over({base, second}));
        fs::create_directory(mounted + "/" + victim);
        EXPECT_THAT(changes(third, over({base, second})), testing::UnorderedElementsAreArray(added));
        stop(third);
    }
}

TEST_P(Diff, EmptyLayer) {
    const LayerId base = import({}, Archive().dir("d").file("d/f", "x"));
    const LayerId upper = next();
    const std::string path = start(upper, {base});
    EXPECT_EQ(get(path + "/d/f"), "x");
    EXPECT_THAT(changes(upper, {base}), testing::IsEmpty());
    const LayerId copy = next();
    ASSERT_DONE(try_import(copy, {base}, diff(upper, {base})));
    EXPECT_EQ(describe(view(copy, {base})), describe(path));
}

TEST_P(Diff, Metacopy) {
    if (GetParam() == "overlay2") reopen({{"redirect_dir", "on"}, {"metacopy", "on"}});
    const LayerId base = import({}, Archive().dir("d").file("d/f", "the data"));
    const LayerId upper = next();
    const std::string path = start(upper, {base});
    ASSERT_EQ(::chmod((path + "/d/f").c_str(), 0600), 0);
    commit(upper, {base});
    const LayerId copy = next();
    ASSERT_DONE(try_import(copy, {base}, diff(upper, {base})));
    EXPECT_EQ(get(view(copy, {base}) + "/d/f"), "the data");
    EXPECT_EQ(mode_of(view(copy, {base}) + "/d/f"), 0600U);
    // A hard link onto such a file takes the data, not the hole.
    const LayerId top = next();
    ASSERT_DONE(try_import(top, over({base, upper}), Archive().link("l", "d/f").bytes()));
    EXPECT_EQ(get(view(top, over({base, upper})) + "/l"), "the data");
}

INSTANTIATE_TEST_SUITE_P(Drivers, Diff, testing::ValuesIn(driver_names()), [](const auto &info) { return info.param; });

} // namespace shale::conformance
