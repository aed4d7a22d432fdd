// SPDX-License-Identifier: Apache-2.0
#include "frontends/filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

namespace shale::frontends {
namespace {

using testing::HasSubstr;

store::SnapshotRow example() {
    static const std::string labels = store::pack_labels(
        {{"l", "2"}, {"containerd.io/snapshot.ref", "sha256:abc"}, {"a.b", "dotted"}, {"nl", "x\ny"}});
    return {"k8s.io/12/extract-7 sha256:abc", "base", store::SnapshotKind::committed, 0, 0,
            store::PackedLabels(labels)};
}

bool holds(const std::vector<std::string> &filters) {
    auto filter = Filter::parse(filters);
    EXPECT_TRUE(filter) << (filter ? "" : filter.error().text());
    return filter && filter->matches(example());
}
std::string refusal(const std::vector<std::string> &filters) {
    auto filter = Filter::parse(filters);
    if (filter) return "accepted";
    EXPECT_EQ(filter.error().code(), Errc::InvalidArgument);
    return filter.error().text();
}

TEST(Filter, NoneAndEmptyOnesMatchAll) {
    EXPECT_TRUE(holds({}));
    EXPECT_TRUE(holds({""}));
    EXPECT_TRUE(holds({"name==other", ""}));
}

TEST(Filter, Operators) {
    EXPECT_TRUE(holds({"parent==base"}));
    EXPECT_FALSE(holds({"parent==bas"}));
    EXPECT_TRUE(holds({"parent!=bas"}));
    EXPECT_FALSE(holds({"parent!=base"}));
    EXPECT_TRUE(holds({"parent~=as"}));
    EXPECT_FALSE(holds({"parent~=^as"}));
    EXPECT_TRUE(holds({"parent"}));
    EXPECT_TRUE(holds({"parent!=\"\""}));
    EXPECT_TRUE(holds({"kind==committed"}));
    EXPECT_FALSE(holds({"kind==active"}));
    EXPECT_TRUE(holds({"kind~=/^(active|committed)$/"}));
}

TEST(Filter, Labels) {
    EXPECT_TRUE(holds({"labels.l"}));
    EXPECT_TRUE(holds({"labels.l==2"}));
    EXPECT_FALSE(holds({"labels.m"}));
    EXPECT_FALSE(holds({"labels.m==2"}));
    EXPECT_TRUE(holds({"labels.m!=2"})) << "what is not there is not 2";
    EXPECT_TRUE(holds({R"(labels."containerd.io/snapshot.ref"==sha256:abc)"}));
    EXPECT_TRUE(holds({R"(labels."containerd.io/snapshot.ref"=="sha256:abc",parent=="base")"}));
    EXPECT_TRUE(holds({"labels.a.b==dotted"}));
    EXPECT_FALSE(holds({"labels"}));
}

TEST(Filter, CommaIsAndSeveralAreOr) {
    EXPECT_FALSE(holds({"parent==base,kind==active"}));
    EXPECT_TRUE(holds({"parent==base, kind==committed,labels.l"}));
    EXPECT_TRUE(holds({"kind==active", "labels.l==2"}));
    EXPECT_FALSE(holds({"kind==active", "labels.l==3"}));
}

TEST(Filter, UnknownFieldIsOneThatIsNotThere) {
    EXPECT_FALSE(holds({"colour"}));
    EXPECT_FALSE(holds({"colour==red"}));
    EXPECT_TRUE(holds({"colour!=red"}));
}

TEST(Filter, Quoting) {
    EXPECT_TRUE(holds({R"(name=="k8s.io/12/extract-7 sha256:abc")"}));
    EXPECT_TRUE(holds({R"(name=="k8s.io\x2f12\u002fextract\0557 sha256:ab\U00000063")"}));
    EXPECT_TRUE(holds({R"(labels.nl=="x\ny")"}));
    EXPECT_TRUE(holds({R"(parent~=|^b\x61se$|)"}));
    EXPECT_TRUE(holds({R"(name~=/k8s\\.io\/12/)"})) << "the quote itself may be escaped";
    EXPECT_TRUE(holds({"name == \"k8s.io/12/extract-7 sha256:abc\""})) << "space before operator and value";
}

TEST(Filter, BadOnesAreRefused) {
    for (const char *bad : {"==",
                            "name==",
                            "name=",
                            "name===x",
                            "name=x",
                            "name==a b",
                            "name,",
                            ",name",
                            "name==a,",
                            ".name",
                            "name.",
                            "name==\"open",
                            "name==\"a\"b",
                            R"(name=="\q")",
                            R"(name=="\400")",
                            R"(name=="\x1")",
                            R"(name=="\U00110000")",
                            "name==/slash/",
                            "name==|pipe|",
                            "name ~= (",
                            "name~=*",
                            "name!x",
                            "name==.x",
                            "labels.==2",
                            " ",
                            "name==a ,kind",
                            "name=='single' x",
                            "na-me==x"})
        EXPECT_THAT(refusal({bad}), HasSubstr("at byte")) << bad;
    EXPECT_NE(refusal({std::string("name==\"a\0b\"", 11)}), "accepted");
}

TEST(Filter, HostileOnesAreBounded) {
    EXPECT_THAT(refusal({"name==" + std::string(Filter::max_bytes, 'x')}), HasSubstr("bytes"));
    std::string many = "name";
    for (size_t i = 0; i < Filter::max_selectors; ++i)
        many += ",name";
    EXPECT_THAT(refusal({many}), HasSubstr("selectors"));
    EXPECT_THAT(refusal(std::vector<std::string>(Filter::max_patterns + 1, "name~=x")), HasSubstr("patterns"));
    EXPECT_NE(refusal({"name~=((a{100}){100}){100}"}), "accepted") << "a pattern that would fill memory";

    // What makes a backtracking matcher run for ever.
    const std::string name = std::string(30'000, 'a') + "!";
    store::SnapshotRow row;
    row.name = name;
    const std::vector<std::string> slow{"name~=^(a+)+$"};
    const auto filter = Filter::parse(slow);
    ASSERT_TRUE(filter);
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_FALSE(filter->matches(row));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST(Filter, NamesThatAloneCanMatch) {
    const auto names = [](const std::vector<std::string> &filters) { return Filter::parse(filters)->names(); };
    EXPECT_EQ(names({"name==b,kind==active", "name==a", "name==b"}), (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(names({"name==a", "kind==active"}), std::nullopt);
    EXPECT_EQ(names({"name!=a"}), std::nullopt);
    EXPECT_EQ(names({}), std::nullopt);
}

TEST(Filter, ALabelThatAllMatchesHave) {
    const auto label = [](const std::vector<std::string> &filters) { return Filter::parse(filters)->label("a/b"); };
    EXPECT_EQ(label({"labels.\"a/b\"==sha256:1,parent==p"}), "sha256:1");
    EXPECT_EQ(label({"parent==p,labels.\"a/b\"==\"\""}), "");
    EXPECT_EQ(label({"labels.\"a/b\"==1", "labels.\"a/b\"==2"}), std::nullopt);
    EXPECT_EQ(label({"labels.\"a/b\"!=1"}), std::nullopt);
    EXPECT_EQ(label({"labels.a==1"}), std::nullopt);
    EXPECT_EQ(label({}), std::nullopt);
}

} // namespace
} // namespace shale::frontends
