// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/tar_split.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <set>
#include <span>

#include "archive/decompress.h"
#include "probe/test_root.h"
#include "sys/seam.h"

namespace shale::doctor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

std::string gzipped(std::string_view text) {
    std::string out;
    auto encoder =
        archive::make_encoder(archive::Compression::gzip, [&out](std::span<const std::byte> bytes) -> Status {
            out.append(reinterpret_cast<const char *>(bytes.data()), bytes.size());
            return {};
        });
    EXPECT_TRUE(encoder);
    EXPECT_TRUE((*encoder)->write(std::as_bytes(std::span(text))));
    EXPECT_TRUE((*encoder)->finish());
    return out;
}

constexpr std::string_view archive_text = R"({"type":2,"payload":"aGVhZA==","position":0}
{"type":1,"name":"etc/","payload":null,"position":1}
{"type":1,"name":"./etc/passwd","size":5,"payload":"AAAA","position":2}
{"type":1,"name":"etc/empty","size":0,"payload":null,"position":3}
{"type":1,"name":"etc/link","payload":null,"position":4}
{"type":1,"name":"elsewhere/file","size":9,"payload":"AAAA","position":5}
)";

/// Does something right before a system call.
class BeforeCalls final : public sys::Hook {
public:
    explicit BeforeCalls(std::function<void(const sys::Call &)> action) : action_(std::move(action)) {
        sys::set_hook(this);
    }
    BeforeCalls(const BeforeCalls &) = delete;
    BeforeCalls &operator=(const BeforeCalls &) = delete;
    ~BeforeCalls() override { sys::set_hook(nullptr); }
    int before(const sys::Call &call) noexcept override {
        action_(call);
        return 0;
    }

private:
    std::function<void(const sys::Call &)> action_;
};

class TarSplitTest : public testing::Test {
protected:
    TarSplitTest() {
        root_.file("/split.gz", gzipped(archive_text));
        root_.file("/tree/etc/passwd", "12345");
        root_.file("/tree/etc/empty", "");
    }
    Result<SplitReport> compare() { return compare_with_tar_split(root_.host(), "/split.gz", "/tree"); }
    probe::TestRoot root_;
};

TEST_F(TarSplitTest, AWholeTreeHasNoDamage) {
    const auto report = compare();
    ASSERT_TRUE(report) << report.error().text();
    EXPECT_EQ(report->files, 2U) << "a directory that is not in the layer's own tree says nothing";
    EXPECT_THAT(report->damage, IsEmpty());
}

TEST_F(TarSplitTest, AFileThatIsEmptyShortLongOrGoneIsDamage) {
    for (const auto &[content, said] : {std::pair("", "/etc/passwd: 0 bytes, the archive has 5"),
                                        std::pair("123", "/etc/passwd: 3 bytes, the archive has 5"),
                                        std::pair("123456", "/etc/passwd: 6 bytes, the archive has 5")}) {
        root_.file("/tree/etc/passwd", content);
        EXPECT_THAT(compare()->damage, ElementsAre(said));
    }
    std::filesystem::remove(root_.here("/tree/etc/passwd"));
    EXPECT_THAT(compare()->damage, ElementsAre("/etc/passwd: is missing, the archive has 5 bytes"));
    root_.link("/etc/empty", "/tree/etc/passwd");
    EXPECT_THAT(compare()->damage, ElementsAre(HasSubstr("is no regular file")));
}

TEST_F(TarSplitTest, TheLastEntryOfANameCounts) {
    root_.file("/split.gz",
               gzipped(std::string(archive_text) + R"({"type":1,"name":"etc/passwd","size":6,"position":6})"));
    EXPECT_THAT(compare()->damage, ElementsAre("/etc/passwd: 5 bytes, the archive has 6"));
}

TEST_F(TarSplitTest, AnEntryWithoutASizeIsOfNoBytesAndReplacesAnother) {
    root_.file("/split.gz",
               gzipped(std::string(archive_text) + R"({"type":1,"name":"etc/passwd","payload":null,"position":6})"));
    root_.file("/tree/etc/passwd", "");
    const auto report = compare();
    ASSERT_TRUE(report) << report.error().text();
    EXPECT_THAT(report->damage, IsEmpty());
    EXPECT_EQ(report->files, 1U);
}

TEST_F(TarSplitTest, AnArchiveThatIsNoRegularFileIsNotOpened) {
    std::filesystem::rename(root_.here("/split.gz"), root_.here("/elsewhere.gz"));
    root_.link("/elsewhere.gz", "/split.gz");
    EXPECT_FALSE(compare()) << "a link is not followed";
    ASSERT_EQ(::mkfifo(root_.here("/fifo").c_str(), 0600), 0);
    for (const char *target : {"/fifo", "/tree"}) {
        std::filesystem::remove(root_.here("/split.gz"));
        root_.link(target, "/split.gz");
        EXPECT_THAT(compare().error().text(), HasSubstr("not a regular file")) << target;
    }
}

TEST_F(TarSplitTest, AbsoluteLinksOnTheWayToTheTreeStayOnTheExaminedDisk) {
    root_.file("/data/tree/etc/passwd", "1");
    root_.link("/data", "/moved");
    const auto report = compare_with_tar_split(root_.host(), "/split.gz", "/moved/tree");
    ASSERT_TRUE(report) << report.error().text();
    EXPECT_THAT(report->damage, ElementsAre("/etc/passwd: 1 bytes, the archive has 5"));
}

TEST_F(TarSplitTest, ALayerThatIsRemovedMeanwhileIsNotDamaged) {
    root_.file("/split.gz", gzipped(R"({"type":1,"name":"top","size":3,"position":0})"));
    root_.file("/tree/top", "123");
    for (const char *gone : {"/tree", "/split.gz"}) {
        const BeforeCalls removal([&](const sys::Call &call) {
            if (call.op != sys::Op::read) return; // both are open
            std::filesystem::remove(root_.here("/tree/top"));
            std::filesystem::remove_all(root_.here(gone));
        });
        const auto report = compare();
        ASSERT_FALSE(report) << gone;
        EXPECT_EQ(report.error().code(), Errc::NotFound) << report.error().text();
        root_.dir("/tree");
    }
}

TEST_F(TarSplitTest, ALayerWhoseFilesGoOnToVanishIsNotDamaged) {
    std::string text;
    for (int n = 0; n < 10; ++n) {
        text += fmt::format("{{\"type\":1,\"name\":\"f{}\",\"size\":3,\"position\":{}}}\n", n, n);
        if (n != 0) root_.file(fmt::format("/tree/f{}", n), "123");
    }
    root_.file("/split.gz", gzipped(text));
    std::set<std::string> looked_at;
    const BeforeCalls removal([&](const sys::Call &call) {
        if (call.op != sys::Op::openat2 || call.name == nullptr || *call.name != 'f') return;
        if (looked_at.insert(call.name).second) return;
        for (int n = 1; n < 10; ++n) // once all were seen
            std::filesystem::remove(root_.here(fmt::format("/tree/f{}", n)));
    });
    const auto report = compare();
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().code(), Errc::Aborted) << report.error().text();
}

TEST_F(TarSplitTest, LinksDoNotLeadOut) {
    root_.file("/outside/file", "too long");
    root_.link("/outside", "/tree/elsewhere");
    EXPECT_THAT(compare()->damage, IsEmpty()) << "the link leads nowhere in the layer's tree";
}

TEST_F(TarSplitTest, ManyAreCounted) {
    std::string text;
    for (int n = 0; n < 100; ++n) {
        root_.file(fmt::format("/tree/f{}", n), "");
        text += fmt::format("{{\"type\":1,\"name\":\"f{}\",\"size\":3,\"position\":{}}}\n", n, n);
    }
    root_.file("/split.gz", gzipped(text));
    const auto report = compare();
    ASSERT_TRUE(report);
    EXPECT_EQ(report->damaged, 100U);
    EXPECT_EQ(report->damage.size(), max_split_damage);
}

TEST_F(TarSplitTest, ADamagedArchiveIsAnError) {
    const std::string whole = gzipped(archive_text);
    for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
        root_.file("/split.gz", whole.substr(0, bytes));
        EXPECT_FALSE(compare()) << bytes;
    }
    root_.file("/split.gz", gzipped("no JSON\n"));
    EXPECT_THAT(compare().error().text(), HasSubstr("no JSON object"));
    root_.file("/split.gz", gzipped("{}\n"));
    EXPECT_THAT(compare().error().text(), HasSubstr("no type"));
    EXPECT_EQ(compare_with_tar_split(root_.host(), "/missing", "/tree").error().code(), Errc::NotFound);
}

TEST_F(TarSplitTest, DockersAndPodmansLayersAreFound) {
    root_.file("/docker/image/overlay2/layerdb/sha256/abc/tar-split.json.gz", gzipped(archive_text));
    root_.file("/docker/overlay2/cache/diff/etc/passwd", "");
    root_.file("/podman/overlay-layers/p.tar-split.gz", gzipped(archive_text));
    root_.file("/podman/overlay/p/diff/etc/passwd", "1");
    probe::Facts facts;
    const auto add = [&](const char *engine, const char *driver, const char *root, const char *id,
                         const char *name) -> probe::StoreLayer & {
        auto &store = facts.stores.emplace_back();
        store.engine = engine;
        store.driver = driver;
        store.root = root;
        auto &layer = store.layers.emplace_back();
        layer.id = id;
        layer.name = name;
        layer.path = fmt::format("{}/{}/{}", root, driver, id);
        layer.kind = "committed";
        layer.recorded = layer.on_disk = true;
        return layer;
    };
    add("docker", "overlay2", "/docker", "cache", "sha256:abc");
    add("podman", "overlay", "/podman", "p", "");
    compare_layers_with_archives(root_.host(), facts);
    EXPECT_THAT(facts.problems, IsEmpty());
    EXPECT_THAT(facts.stores[0].layers[0].damage,
                ElementsAre("/docker/overlay2/cache/diff/etc/passwd: 0 bytes, the archive has 5"));
    EXPECT_THAT(facts.stores[1].layers[0].damage,
                ElementsAre("/podman/overlay/p/diff/etc/passwd: 1 bytes, the archive has 5"));
}

} // namespace
} // namespace shale::doctor
