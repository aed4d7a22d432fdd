// SPDX-License-Identifier: Apache-2.0
#include "store/id_mapping.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

namespace shale::test {
namespace {

const std::string uids = "containerd.io/snapshot/uidmapping", gids = "containerd.io/snapshot/gidmapping";

TEST(IdMapping, RootIsWhereTheRangeOfZeroBegins) {
    const auto none = store::id_mapping({{"other", "0:1:2"}});
    ASSERT_TRUE(none);
    EXPECT_FALSE(none->has_value());
    const auto mapping = store::id_mapping({{uids, "1000:5:1,0:100000:1000"}, {gids, "0:4294967294:1"}});
    ASSERT_TRUE(mapping) << mapping.error().text();
    EXPECT_EQ((*mapping)->root_uid, 100000U);
    EXPECT_EQ((*mapping)->root_gid, 4294967294U);
    EXPECT_EQ((*mapping)->uids, "1000:5:1,0:100000:1000");
}

TEST(IdMapping, HostileTextIsRefusedWithItsReason) {
    std::string many = "0:0:1";
    for (int i = 1; i <= 340; ++i)
        many += fmt::format(",{0}:{0}:1", i);
    for (const std::string &text : {std::string(),
                                    std::string("0"),
                                    std::string("0:1"),
                                    std::string("0:1:"),
                                    std::string("0:1:2:3"),
                                    std::string("0:1:2,"),
                                    std::string(",0:1:2"),
                                    std::string("0:1:0"),
                                    std::string("0:-1:1"),
                                    std::string("0:+1:1"),
                                    std::string(" 0:1:1"),
                                    std::string("0:1:1 "),
                                    std::string("0x0:1:1"),
                                    std::string("1:1:1"),
                                    std::string("0:4294967295:1"),
                                    std::string("0:1:4294967295"),
                                    std::string("0:18446744073709551615:2"),
                                    std::string("0:99999999999999999999:1"),
                                    std::string("0:0:10,5:100:1"),
                                    std::string("0:0:10,20:5:1"),
                                    std::string("0:1:1\0", 6),
                                    many}) {
        const auto mapping = store::id_mapping({{uids, text}, {gids, "0:1:1"}});
        ASSERT_FALSE(mapping) << text;
        EXPECT_EQ(mapping.error().code(), Errc::InvalidArgument);
        EXPECT_NE(mapping.error().text().find(uids), std::string::npos);
        EXPECT_FALSE(store::id_mapping({{uids, "0:1:1"}, {gids, text}})) << text;
    }
}

} // namespace
} // namespace shale::test
