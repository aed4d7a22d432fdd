// SPDX-License-Identifier: Apache-2.0
#include "crash/operations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>

#include "store/snapshots.h"
#include "sys/seam.h"

namespace shale::test {
namespace {

const std::vector<Layer> &base_layers() {
    static const std::vector<Layer> layers{
        {{dir("etc/"), ""},
         {file("etc/passwd"), "root:x:0:0\n"},
         {file("etc/old"), "old"},
         {dir("bin/"), ""},
         {file("bin/tool", 04755), std::string(70'000, 't')},
         {hard_link("bin/alias", "bin/tool"), ""},
         {symlink("sh", "bin/tool"), ""}},
        {{dir("etc/"), ""}, {whiteout("etc/old"), ""}, {file("etc/new"), "new"}},
        {{dir("var/"), ""}, {dir("var/lib/"), ""}, {file("var/lib/data"), std::string(5000, 'd')}},
    };
    return layers;
}

std::string container_root(store::Store &store, std::string_view name) {
    auto mounted = store.mount_container(name);
    EXPECT_TRUE(mounted) << mounted.error().text();
    return mounted.value_or("");
}

/// Not through the seam, so that it is no step of any matrix.
void damage(store::Store &store) {
    sys::Hook *const hook = sys::detail::hook.load();
    sys::set_hook(nullptr);
    in_layer(store, LayerId{1}, [](const std::string &layer) {
        if (const std::string image = layer + "/image.erofs"; std::filesystem::exists(image)) {
            const std::string content = read_all(image);
            const auto at = content.find("root:x:0:0");
            if (at == std::string::npos) { // the repair of a run before was cut short
                ASSERT_NE(content.find("lost:x:0:0"), std::string::npos);
                return;
            }
            std::fstream file(image, std::ios::binary | std::ios::in | std::ios::out);
            file.seekp(static_cast<std::streamoff>(at)).write("lost", 4);
            return;
        }
        for (const auto &entry : std::filesystem::recursive_directory_iterator(layer))
            if (entry.path().filename() == "passwd") std::ofstream(entry.path()) << "lost";
    });
    sys::set_hook(hook);
}

Status import_next(store::Store &store, const World &world) {
    store::ImportRequest request;
    request.source = world / "next.tar";
    TRY(store.import_images(request, {}));
    return {};
}

} // namespace

Stride stride_of(std::string_view driver, unsigned steps, unsigned trials) {
#ifdef __SANITIZE_THREAD__
    constexpr unsigned whole = 9;
#else
    constexpr unsigned whole = 1;
#endif
    if (in_guest()) trials = 1;
    Stride out;
    out.step = whole;
    if (trials != 0) out.step = std::max(1U, steps / trials) * whole;
    if (const char *wanted = std::getenv("SHALE_TEST_STRIDE"))
        out.step = std::max(1U, static_cast<unsigned>(std::strtoul(wanted, nullptr, 10)));
    const auto names = driver_names();
    const auto place = static_cast<size_t>(std::ranges::find(names, driver) - names.begin());
    out.first += static_cast<unsigned>((place + 1) * out.step / (names.size() + 1));
    out.first = std::min(out.first, std::max(1U, steps));
    out.last = out.step == whole ? std::numeric_limits<unsigned>::max() : steps;
    return out;
}

const std::vector<Operation> &operations() {
    static const std::vector<Operation> all{
        {"import", import_next},
        {"create",
         [](store::Store &store, const World &) -> Status {
             TRY(store.create_container("base:1", "fresh", {}));
             return {};
         }},
        {"mount_unmount",
         [](store::Store &store, const World &) -> Status {
             TRY(store.mount_container("victim"));
             return store.unmount_container("victim");
         }},
        {"commit",
         [](store::Store &store, const World &) -> Status {
             store::CommitRequest request;
             request.container = "kept";
             request.name = "committed:1";
             TRY(store.commit_container(request));
             return {};
         }},
        {"tag", [](store::Store &store, const World &) { return store.tag_image("base:1", "other:2"); }},
        {"remove_container", [](store::Store &store, const World &) { return store.remove_container("victim", true); }},
        {"remove_image",
         [](store::Store &store, const World &) -> Status {
             TRY(store.remove_image("spare:1", false, false));
             return {};
         }},
        {"gc",
         [](store::Store &store, const World &) -> Status {
             TRY(store.remove_container("victim", true));
             TRY(store.gc(false));
             return {};
         }},
        {"repair",
         [](store::Store &store, const World &) -> Status {
             damage(store);
             TRY(store.check(store::CheckLevel::data, {}, true));
             return {};
         },
         true},
        {"snapshot",
         [](store::Store &store, const World &) -> Status {
             {
                 store::Snapshots snapshots(store);
                 for (const std::string key : {"first", "second"}) {
                     const auto specs = TRY(snapshots.prepare(key, key == "second" ? "base" : "", {}));
                     if (specs.front().type == "bind") std::ofstream(specs.front().source + "/file") << key;
                     TRY(snapshots.commit(key == "second" ? "top" : "base", key, {}, {}));
                 }
                 TRY(snapshots.remove("top"));
             }
             TRY(store.gc(false)); // settles what the commit left
             return {};
         }},
        {"export",
         [](store::Store &store, const World &world) {
             return store.export_image("base:1", oci::ExportFormat::oci_archive, world / "out.tar");
         }},
        {"lease",
         [](store::Store &store, const World &) -> Status {
             TRY(store.create_lease("hold", std::nullopt));
             TRY(store.add_lease_ref("hold", "layer:1"));
             return store.delete_lease("hold");
         }},
    };
    return all;
}

void prepare(const World &world, const std::string &root, const std::string &driver) {
    auto layers = base_layers();
    write_docker_archive(world / "base.tar", layers, "base:1");
    auto spare = layers;
    spare.push_back({{file("spare"), "spare"}});
    write_docker_archive(world / "spare.tar", spare, "spare:1");
    auto next = layers;
    next.back() = {
        {dir("var/"), ""}, {file("var/next"), std::string(3000, 'n')}, {opaque("bin"), ""}, {file("bin/only"), "only"}};
    next.push_back({{file("top"), "top"}, {whiteout("etc/new"), ""}});
    write_docker_archive(world / "next.tar", next, "next:1");

    auto store = open_store(root, driver, store::Durability::none);
    for (const auto *name : {"base.tar", "spare.tar"}) {
        store::ImportRequest request;
        request.source = world / name;
        auto imported = store->import_images(request, {});
        ASSERT_TRUE(imported) << imported.error().text();
    }
    for (const auto *name : {"kept", "victim"}) {
        auto made = store->create_container("base:1", name, {});
        ASSERT_TRUE(made) << made.error().text();
    }
    const std::string at = container_root(*store, "kept");
    std::ofstream(at + "/etc/changed") << "changed";
    std::filesystem::remove(at + "/var/lib/data");
    ASSERT_TRUE(store->unmount_container("kept"));
}

void expect_consistent(const std::string &root, const std::string &driver, const Operation &operation,
                       const std::string &what) {
    SCOPED_TRACE(operation.name + " " + what);
    auto store = open_store(root, driver, store::Durability::none);
    const auto collected = store->gc(false);
    ASSERT_TRUE(collected) << collected.error().text();
    if (operation.damages) {
        const auto repaired = store->check(store::CheckLevel::data, {}, true);
        ASSERT_TRUE(repaired) << repaired.error().text();
        for (const auto &problem : repaired->problems)
            EXPECT_TRUE(problem.repaired) << problem.object << " " << problem.what;
        ASSERT_TRUE(store->gc(false));
    }
    const auto checked = store->check(store::CheckLevel::data, {});
    ASSERT_TRUE(checked) << checked.error().text();
    for (const auto &problem : checked->problems)
        // Where a background sync was what failed, this is the truth.
        if (operation.name != "snapshot" || problem.what.find("could not write all") == std::string::npos)
            ADD_FAILURE() << problem.object << " " << problem.what;

    const auto base = store->find_image("base:1");
    ASSERT_TRUE(base) << base.error().text();
    EXPECT_EQ(base->layers.size(), 3U);
    if (const auto next = store->find_image("next:1")) {
        EXPECT_EQ(next->layers.size(), 4U);
        EXPECT_EQ(next->layers[1].id, base->layers[1].id) << "shared layers are shared";
    }
    EXPECT_TRUE(std::filesystem::is_empty(root + "/tmp"));

    const std::string at = container_root(*store, "kept");
    EXPECT_EQ(read_all(at + "/etc/changed"), "changed");
    EXPECT_EQ(read_all(at + "/etc/new"), "new");
    EXPECT_FALSE(std::filesystem::exists(at + "/var/lib/data"));
    EXPECT_FALSE(std::filesystem::exists(at + "/etc/old"));
    EXPECT_TRUE(std::filesystem::equivalent(at + "/bin/tool", at + "/bin/alias")) << "one file with two names";
    EXPECT_TRUE(store->unmount_container("kept"));
    // A mount that the dead process left is found and undone.
    const auto gone = store->remove_container("victim", true);
    EXPECT_TRUE(gone || gone.error().code() == Errc::NotFound) << gone.error().text();
}

} // namespace shale::test
