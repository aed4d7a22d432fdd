// SPDX-License-Identifier: Apache-2.0
#include "frontends/list_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "containerd/services/snapshots/v1/snapshots.pb.h"

namespace shale::frontends {
namespace {

namespace wire = containerd::services::snapshots::v1;
using testing::Pair;
using testing::UnorderedElementsAre;

TEST(ListPage, ProtobufReadsIt) {
    const std::string long_name(300, 'n'), large(20'000, 'v');
    const std::string labels =
        store::pack_labels({{"a", ""}, {"containerd.io/snapshot.ref", "sha256:1"}, {"z", large}});
    std::string page;
    append_info({"first", "", store::SnapshotKind::view, 0, 0, store::PackedLabels()}, page);
    append_info({long_name, "first", store::SnapshotKind::committed, 1'700'000'000'123'456'789,
                 1'800'000'000'000'000'000, store::PackedLabels(labels)},
                page);
    append_info({"old", long_name, store::SnapshotKind::active, -1, 999'999'999, store::PackedLabels()}, page);
    wire::ListSnapshotsResponse read;
    ASSERT_TRUE(read.ParseFromString(page));
    ASSERT_EQ(read.info_size(), 3);
    EXPECT_EQ(read.info(0).name(), "first");
    EXPECT_EQ(read.info(0).parent(), "");
    EXPECT_EQ(read.info(0).kind(), wire::VIEW);
    EXPECT_TRUE(read.info(0).has_created_at() && read.info(0).has_updated_at());
    EXPECT_EQ(read.info(0).created_at().seconds(), 0);
    EXPECT_EQ(read.info(0).labels_size(), 0);
    EXPECT_EQ(read.info(1).name(), long_name);
    EXPECT_EQ(read.info(1).parent(), "first");
    EXPECT_EQ(read.info(1).kind(), wire::COMMITTED);
    EXPECT_EQ(read.info(1).created_at().seconds(), 1'700'000'000);
    EXPECT_EQ(read.info(1).created_at().nanos(), 123'456'789);
    EXPECT_EQ(read.info(1).updated_at().seconds(), 1'800'000'000);
    EXPECT_EQ(read.info(1).updated_at().nanos(), 0);
    EXPECT_THAT(read.info(1).labels(),
                UnorderedElementsAre(Pair("a", ""), Pair("containerd.io/snapshot.ref", "sha256:1"), Pair("z", large)));
    EXPECT_EQ(read.info(2).kind(), wire::ACTIVE);
    EXPECT_EQ(read.info(2).created_at().seconds(), -1) << "before the epoch";
    EXPECT_EQ(read.info(2).created_at().nanos(), 999'999'999);
    EXPECT_EQ(read.info(2).updated_at().seconds(), 0);
    EXPECT_EQ(read.info(2).updated_at().nanos(), 999'999'999);
    EXPECT_EQ(read.SerializeAsString().size(), page.size()) << "nothing is written that protobuf would not write";
}

/// Whatever room the page has when it grows.
TEST(ListPage, GrowsByWhatIsWritten) {
    const std::string labels = store::pack_labels({{"containerd.io/gc.root", "check-walk"}});
    for (size_t bytes = 1; bytes < 200; ++bytes) {
        std::string page;
        const std::string name(bytes, 'n');
        for (int i = 0; i < 5; ++i)
            append_info({name, "", store::SnapshotKind::active, 1, 2, store::PackedLabels(labels)}, page);
        wire::ListSnapshotsResponse read;
        ASSERT_TRUE(read.ParseFromString(page)) << bytes;
        ASSERT_EQ(read.info_size(), 5);
        ASSERT_EQ(read.ByteSizeLong(), page.size());
    }
}

} // namespace
} // namespace shale::frontends
