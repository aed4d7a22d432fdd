// SPDX-License-Identifier: Apache-2.0
// The databases are made by bolt_test_writer.h, byte by byte, and damaged here.
#include "probe/bolt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "probe/bolt_test_writer.h"

namespace shale::probe {
namespace {

using namespace bolt_writer;
using testing::ElementsAre;
using testing::HasSubstr;

/// Path -> value; a bucket ends in "/" and has its sequence as value.
using Content = std::map<std::string, std::string>;

/// All of it, deep. What for_each tells, get and bucket must find.
Status read_all(const BoltBucket &bucket, const std::string &at, Content &out) {
    TRY(bucket.for_each([&](std::string_view key, std::optional<std::string_view> value) -> Status {
        const auto got = TRY(bucket.get(key));
        EXPECT_EQ(got.has_value(), value.has_value());
        EXPECT_EQ(TRY(bucket.bucket(key)).has_value(), !value.has_value());
        if (value) {
            EXPECT_TRUE(got && got->data() == value->data() && got->size() == value->size());
            out[fmt::format("{}{}", at, key)] = *value;
        }
        return {};
    }));
    return bucket.for_each_bucket([&](std::string_view name, const BoltBucket &nested) {
        const std::string path = fmt::format("{}{}/", at, name);
        out[path] = std::to_string(nested.sequence());
        return read_all(nested, path, out);
    });
}

Result<Content> content_of(std::string bytes) {
    const BoltFile file = TRY(BoltFile::from_bytes(std::move(bytes)));
    Content out;
    TRY(read_all(file.root(), "", out));
    return out;
}

void expect_content(std::string bytes, const Content &wanted) {
    const auto content = content_of(std::move(bytes));
    ASSERT_TRUE(content) << content.error().text();
    EXPECT_EQ(*content, wanted);
}

void expect_damage(std::string bytes, const std::string &text) {
    const auto content = content_of(std::move(bytes));
    ASSERT_FALSE(content) << text;
    EXPECT_EQ(content.error().code(), Errc::DataLoss) << content.error().text();
    EXPECT_THAT(content.error().text(), HasSubstr(text));
}

/// A database whose root is page 3; the pages follow from there on.
std::string of_pages(const std::vector<std::string> &pages, uint32_t page_bytes = 4096) {
    File file(page_bytes);
    for (const std::string &page : pages)
        file.add(page);
    return file.done(3);
}

Bucket small() {
    Bucket out;
    out.values["a"] = "1";
    out.values["b"] = "";
    out.buckets["v1"].buckets["ns"].values["key"] = "value";
    out.buckets["v1"].buckets["ns"].sequence = 7;
    out.buckets["v1"].values["x"] = std::string(1500, 'x');
    return out;
}
Content small_content() {
    return {
        {"a", "1"}, {"b", ""}, {"v1/", "0"}, {"v1/ns/", "7"}, {"v1/ns/key", "value"}, {"v1/x", std::string(1500, 'x')}};
}

Bucket many(size_t keys) {
    Bucket out;
    for (size_t i = 0; i < keys; ++i)
        out.values[fmt::format("key {:06}", i * 2)] = fmt::format("value {}", i);
    return out;
}

TEST(Bolt, AnEmptyDatabase) {
    auto file = BoltFile::from_bytes(database({}));
    ASSERT_TRUE(file) << file.error().text();
    EXPECT_EQ(file->transaction(), 1U);
    EXPECT_EQ(file->page_bytes(), 4096U);
    EXPECT_EQ(file->root().get("a").value(), std::nullopt);
    EXPECT_FALSE(file->root().bucket("a").value());
    expect_content(database({}), {});
}

TEST(Bolt, ValuesAndBucketsInlineAndNot) {
    expect_content(database(small()), small_content());
    auto file = BoltFile::from_bytes(database(small()));
    ASSERT_TRUE(file);
    const BoltFile moved = std::move(*file);
    const auto ns = moved.root().bucket_at({"v1", "ns"});
    ASSERT_TRUE(ns && *ns);
    EXPECT_EQ((*ns)->get("key").value(), "value");
    EXPECT_EQ((*ns)->sequence(), 7U);
    EXPECT_FALSE(moved.root().bucket_at({"v1", "nt"}).value());
    EXPECT_FALSE(moved.root().bucket_at({"v2", "ns"}).value());
    EXPECT_FALSE(moved.root().bucket_at({"a", "ns"}).value()) << "a has a value";
    EXPECT_TRUE(moved.root().bucket_at({}).value());
}

TEST(Bolt, ManyPages) {
    const Bucket bucket = many(10'000);
    const auto file = BoltFile::from_bytes(database(bucket, 10)); // 4 levels
    ASSERT_TRUE(file) << file.error().text();
    auto wanted = bucket.values.begin();
    const auto walked = file->root().for_each([&](auto key, auto value) -> Status {
        EXPECT_EQ(key, wanted->first);
        EXPECT_EQ(value, wanted->second);
        ++wanted;
        return {};
    });
    EXPECT_TRUE(walked) << walked.error().text();
    EXPECT_EQ(wanted, bucket.values.end());
    for (size_t i = 0; i < 20'000; i += 3) {
        const auto value = file->root().get(fmt::format("key {:06}", i));
        ASSERT_TRUE(value) << value.error().text();
        EXPECT_EQ(*value, i % 2 == 0 ? std::optional(fmt::format("value {}", i / 2)) : std::nullopt);
    }
    for (const char *absent : {"", "a", "key", "key 000000a", "z", "\xff"})
        EXPECT_EQ(file->root().get(absent).value(), std::nullopt);
}

TEST(Bolt, KeysBelowTheFirstOneOfTheFirstBranchElement) {
    // bbolt looks for them below that element (cursor.go, search), so they count.
    const auto pages = {branch(3, {{"m", 4}, {"t", 5}}), leaf(4, {{"a", "1"}, {"n", "2"}}), leaf(5, {{"t", "3"}})};
    expect_content(of_pages(pages), {{"a", "1"}, {"n", "2"}, {"t", "3"}});
}

TEST(Bolt, EmptyLeafBetweenOthers) {
    const auto pages = {branch(3, {{"a", 4}, {"b", 5}, {"c", 6}}), leaf(4, {{"a", "1"}}), leaf(5, {}),
                        leaf(6, {{"c", "3"}})};
    expect_content(of_pages(pages), {{"a", "1"}, {"c", "3"}});
}

TEST(Bolt, KeysAreOrderedAsUnsignedBytes) {
    Bucket bucket;
    for (int i = 1; i < 256; ++i)
        bucket.values[std::string(1, static_cast<char>(i))] = std::to_string(i);
    const Content wanted(bucket.values.begin(), bucket.values.end());
    expect_content(database(bucket, 7), wanted);
}

TEST(Bolt, ValueOverManyPages) {
    Bucket bucket = many(30);
    bucket.values["large"] = std::string(100'000, 'l');
    const Content wanted(bucket.values.begin(), bucket.values.end());
    expect_content(database(bucket, 4), wanted);
}

TEST(Bolt, PageSizes) {
    for (const uint32_t size : {1024U, 16384U, 65536U}) {
        expect_content(database(small(), 50, size), small_content());
        EXPECT_EQ(BoltFile::from_bytes(database(small(), 50, size))->page_bytes(), size);
    }
    for (const uint32_t size : {512U, 4097U, uint32_t{32} << 20U}) {
        std::string bytes = database({}, 50, 4096);
        for (const size_t page : {0, 4096}) {
            poke(bytes, page + 24, size);
            seal_meta(bytes, page);
        }
        expect_damage(bytes, fmt::format("pages of {} bytes", size));
    }
}

// ------------------------------------------------------------------------------------------------------- meta pages

/// Transaction 4 (meta page 0) has the key "new", transaction 3 (meta page 1) the key "old".
std::string two_transactions(uint32_t page_bytes = 4096) {
    File file(page_bytes);
    const uint64_t old_root = file.add(leaf(3, {{"old", ""}}));
    const uint64_t new_root = file.add(leaf(4, {{"new", ""}}));
    std::string out = file.done(new_root, 4);
    const std::string page = meta(1, {old_root, file.next(), 3, 0, page_bytes});
    return out.replace(page_bytes, page.size(), page);
}

TEST(BoltMeta, TheNewestValidOneCounts) {
    for (const uint32_t size : {1024U, 4096U, 16384U}) {
        const std::string bytes = two_transactions(size);
        expect_content(bytes, {{"new", ""}});
        std::string torn = bytes;
        torn[60] ^= 1; // of meta page 0
        expect_content(torn, {{"old", ""}});
        std::string blank = bytes;
        blank.replace(0, size, size, '\0');
        expect_content(blank, {{"old", ""}});
        std::string other = bytes;
        other[size + 60] ^= 1;
        expect_content(other, {{"new", ""}});
        torn[size + 60] ^= 1;
        expect_damage(torn, "no meta page is valid; that of page 0: checksum");
    }
}

TEST(BoltMeta, TheSecondOneMayBeTheNewer) {
    std::string bytes = two_transactions();
    poke<uint64_t>(bytes, 4096 + 64, 5); // transaction 3 becomes 5
    seal_meta(bytes, 4096);
    expect_content(bytes, {{"old", ""}});
    EXPECT_EQ(BoltFile::from_bytes(bytes)->transaction(), 5U);
}

TEST(BoltMeta, OneOfAnotherPageSizeIsNone) {
    std::string bytes = two_transactions();
    poke<uint64_t>(bytes, 4096 + 64, 5);
    poke<uint32_t>(bytes, 4096 + 24, 8192);
    seal_meta(bytes, 4096);
    expect_content(bytes, {{"new", ""}});
}

TEST(BoltMeta, OtherFiles) {
    expect_damage("", "magic number 0x00000000");
    expect_damage("SQLite format 3", "magic number");
    expect_damage(std::string(100'000, '\xff'), "magic number 0xffffffff");
    std::string version = database(small()), order = version;
    for (const size_t page : {0, 4096}) {
        poke<uint32_t>(version, page + 20, 3);
        seal_meta(version, page);
        poke<uint32_t>(order, page + 16, 0xEDDA0CED);
    }
    EXPECT_EQ(content_of(version).error().code(), Errc::Unimplemented);
    EXPECT_THAT(content_of(version).error().text(), HasSubstr("version 3"));
    EXPECT_EQ(content_of(order).error().code(), Errc::Unimplemented);
}

// ----------------------------------------------------------------------------------------------------------- damage

TEST(BoltDamage, PagesThatAreNotWhatTheyShouldBe) {
    const auto pages = [](uint64_t child, const std::string &page) {
        return of_pages({branch(3, {{"a", child}}), page});
    };
    const std::string good = leaf(4, {{"a", "1"}});
    expect_content(pages(4, good), {{"a", "1"}});
    expect_damage(pages(0, good), "page 0: byte 12304 refers to it");
    expect_damage(pages(1, good), "page 1: byte 12304 refers to it");
    expect_damage(pages(2, good), "page 2: neither a branch nor a leaf");
    expect_damage(pages(5, good), "page 5: byte 12304 refers to it");
    expect_damage(pages(UINT64_MAX, good), "page 18446744073709551615: byte");
    expect_damage(pages(4, leaf(6, {{"a", "1"}})), "page 4: it says that it is page 6");
    expect_damage(pages(4, page_header(4, branch_page | leaf_page, 0)), "page 4: neither");
    expect_damage(pages(4, branch(4, {})), "page 4: a branch without elements");
    std::string longer = pages(4, good);
    poke<uint32_t>(longer, 4 * 4096 + 12, 1);
    expect_damage(longer, "page 4: 2 pages long");
    poke<uint32_t>(longer, 4 * 4096 + 12, UINT32_MAX);
    expect_damage(longer, "page 4: 4294967296 pages long");
}

TEST(BoltDamage, RootThatIsNoPage) {
    for (const uint64_t root : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{1000}, UINT64_MAX}) {
        File file;
        file.add(leaf(3, {{"a", "1"}}));
        expect_damage(file.done(root), fmt::format("page {}: ", root));
    }
}

TEST(BoltDamage, Cycles) {
    const std::string good = leaf(4, {{"a", "1"}});
    expect_damage(of_pages({branch(3, {{"a", 3}})}), "page 3: used twice");
    expect_damage(of_pages({branch(3, {{"a", 4}}), branch(4, {{"a", 3}})}), "page 3: used twice");
    expect_damage(of_pages({branch(3, {{"a", 4}, {"b", 4}}), good}), "page 4: used twice");
    // A bucket that is its own parent, and two that are the same.
    expect_damage(of_pages({leaf(3, {{"a", bucket_header(3), true}})}), "page 3: used twice");
    expect_damage(of_pages({leaf(3, {{"a", bucket_header(4), true}, {"b", bucket_header(4), true}}), good}),
                  "page 4: used twice");
    // A page inside another's length.
    const std::string two = leaf(4, {{"a", std::string(4096, 'x')}});
    expect_damage(of_pages({branch(3, {{"a", 4}, {"b", 5}}), two}), "page 5: it says that it is page");
    std::string inner = of_pages({branch(3, {{"a", 4}, {"b", 5}}), two});
    const std::string page = leaf(5, {{"b", "1"}});
    expect_damage(inner.replace(size_t{5} * 4096, page.size(), page), "page 5: used twice");
}

TEST(BoltDamage, APageThatWasRefusedStaysRefused) {
    const auto bytes = of_pages({branch(3, {{"a", 4}, {"b", 5}, {"c", 4}}), leaf(4, {{"a", "1"}}), leaf(5, {})});
    const auto file = BoltFile::from_bytes(bytes);
    ASSERT_TRUE(file);
    EXPECT_EQ(file->root().get("a").value(), "1");
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(file->root().get("c").error().code(), Errc::DataLoss);
        EXPECT_EQ(file->root().get("a").value(), "1") << "the damage is elsewhere";
    }
}

TEST(BoltDamage, Order) {
    expect_damage(of_pages({leaf(3, {{"b", ""}, {"a", ""}})}), "page 3: the key \"a\" of element 1 is out of order");
    expect_damage(of_pages({leaf(3, {{"a", ""}, {"a", ""}})}), "page 3: the key \"a\" of element 1 is out of order");
    expect_damage(of_pages({leaf(3, {{"", ""}})}), "page 3: the key \"\" of element 0 is out of order");
    expect_damage(of_pages({branch(3, {{"b", 4}, {"a", 4}}), leaf(4, {})}), "page 3: the key \"a\" of element 1");
    const auto below = [](const std::string &first, const std::string &second) {
        return of_pages({branch(3, {{"f", 4}, {"m", 5}}), leaf(4, {{first, ""}}), leaf(5, {{second, ""}})});
    };
    expect_content(below("f", "n"), {{"f", ""}, {"n", ""}});
    expect_damage(below("m", "n"), "page 4: the key \"m\" belongs on a page behind it");
    expect_damage(below("f", "l"), "page 5: the key \"l\" belongs on a page before it");
    // A search tells it as well, not "there is no such key".
    const auto file = BoltFile::from_bytes(below("f", "l"));
    EXPECT_EQ(file->root().get("n").error().code(), Errc::DataLoss);
    // The range goes down over more than one branch.
    const auto deep =
        of_pages({branch(3, {{"a", 4}, {"m", 5}}), leaf(4, {}), branch(5, {{"m", 6}}), leaf(6, {{"b", ""}})});
    expect_damage(deep, "page 6: the key \"b\" belongs on a page before it");
    expect_damage(of_pages({leaf(3, {{std::string(200, 'b'), ""}, {std::string(200, 'a'), ""}})}),
                  "aaa\"... of element 1");
}

TEST(BoltDamage, ElementsOutsideTheirPlace) {
    const std::string good = of_pages({leaf(3, {{"a", "1"}, {"b", "2"}})});
    const size_t page = size_t{3} * 4096, first = page + 16, second = first + 16;
    const auto with = [&](size_t offset, uint32_t value) {
        std::string bytes = good;
        poke(bytes, offset, value);
        return bytes;
    };
    expect_damage(with(first + 4, 4096), "page 3: element 0");
    expect_damage(with(first + 4, UINT32_MAX), "page 3: element 0");
    expect_damage(with(first + 4, 0), "page 3: element 0"); // over the elements themselves
    expect_damage(with(first + 8, UINT32_MAX), "page 3: element 0");
    expect_damage(with(first + 12, UINT32_MAX), "page 3: element 0");
    expect_damage(with(first + 12, 2), "page 3: element 1"); // they overlap
    expect_damage(with(second + 12, 4096), "page 3: element 1");
    std::string count = good;
    poke<uint16_t>(count, page + 10, 300);
    expect_damage(count, "page 3: has no room for its 300 elements");
    poke<uint16_t>(count, page + 10, 3);
    expect_damage(count, "page 3: element 0"); // its data is where the third element should be
    expect_damage(of_pages({branch(3, {{std::string(4096, 'a'), 5}})}).substr(0, size_t{4} * 4096),
                  "page 3: 2 pages long");
}

TEST(BoltDamage, NestedBuckets) {
    const auto value = [](std::string bytes) { return of_pages({leaf(3, {{"b", std::move(bytes), true}})}); };
    expect_damage(value(""), "page 3: the bucket \"b\" is cut short");
    expect_damage(value(std::string(15, '\0')), "page 3: the bucket \"b\" is cut short");
    expect_damage(value(bucket_header(0)), "page 3: an inline bucket is cut short");
    expect_damage(value(bucket_header(0) + branch(0, {{"a", 3}})), "page 3: an inline bucket that is no leaf");
    expect_damage(value(inline_bucket({{"a", "1"}}).substr(0, 40)), "page 3: has no room for its 1 elements");
    expect_damage(value(inline_bucket({{"a", "1"}}).substr(0, 49)), "page 3: element 0");
    expect_damage(value(bucket_header(77)), "page 77: ");
    expect_content(value(inline_bucket({{"a", "1"}}) + "more"), {{"b/", "0"}, {"b/a", "1"}});
}

TEST(BoltDamage, Depth) {
    const auto buckets = [](int depth) {
        std::string value = inline_bucket({{"k", "v"}});
        for (int i = 1; i < depth; ++i)
            value = inline_bucket({{"b", value, true}});
        return of_pages({leaf(3, {{"b", value, true}})});
    };
    EXPECT_TRUE(content_of(buckets(63)));
    expect_damage(buckets(64), "more than 64 buckets in each other");
    const auto branches = [](uint64_t depth) {
        std::vector<std::string> pages;
        for (uint64_t id = 3; id < 3 + depth; ++id)
            pages.push_back(branch(id, {{"a", id + 1}}));
        pages.push_back(leaf(3 + depth, {{"a", "1"}}));
        return of_pages(pages);
    };
    expect_content(branches(63), {{"a", "1"}});
    expect_damage(branches(64), "page 67: more than 64 pages above it");
    const auto file = BoltFile::from_bytes(branches(64));
    EXPECT_EQ(file->root().get("a").error().code(), Errc::DataLoss);
}

TEST(BoltDamage, CutAnywhere) {
    const std::string good = database(small(), 50, 1024);
    size_t whole = 0;
    for (size_t size = 0; size < good.size(); size += 13) {
        const auto content = content_of(good.substr(0, size));
        if (!content) {
            EXPECT_EQ(content.error().code(), Errc::DataLoss) << content.error().text();
        } else {
            EXPECT_EQ(*content, small_content());
            ++whole;
        }
    }
    EXPECT_EQ(whole, 0U) << "the root is the last page here";
    expect_damage(good.substr(0, good.size() - 1), "behind the end of the file");
}

TEST(BoltDamage, EveryByteFlipped) {
    const std::string good = database(small(), 2, 1024);
    size_t refused = 0, other = 0, same = 0;
    for (size_t i = 0; i < good.size(); ++i) {
        for (const int mask : {0xff, 0x01}) {
            if (mask == 0x01 && good[i] == '\0') continue; // little of a page is in use
            std::string bytes = good;
            bytes[i] = static_cast<char>(bytes[i] ^ mask);
            if (i >= 16 && i < 72) seal_meta(bytes, 0); // else the other meta page just takes over
            if (i >= 1040 && i < 1096) seal_meta(bytes, 1024);
            const auto content = content_of(bytes);
            if (content)
                ++(*content == small_content() ? same : other);
            else
                ++refused;
        }
    }
    EXPECT_GT(refused, 200U);
    EXPECT_GT(other, 3'000U); // the value of 1,500 bytes alone
    EXPECT_GT(same, 1'000U);  // padding, the older meta page, sequences of no bucket
}

TEST(Bolt, AnErrorOfTheVisitorEndsTheWalk) {
    const auto file = BoltFile::from_bytes(database(many(100), 5));
    int visits = 0;
    const auto walked = file->root().for_each([&](auto, auto) -> Status {
        if (++visits == 20) return fail(Errc::Canceled, "enough");
        return {};
    });
    EXPECT_EQ(walked.error().code(), Errc::Canceled);
    EXPECT_EQ(visits, 20);
}

TEST(Bolt, WhatIsBeforeADamageIsVisited) {
    const auto bytes = of_pages({branch(3, {{"a", 4}, {"b", 5}}), leaf(4, {{"a", "1"}}), leaf(7, {})});
    const auto file = BoltFile::from_bytes(bytes);
    std::vector<std::string> keys;
    const auto walked = file->root().for_each([&](auto key, auto) -> Status {
        keys.emplace_back(key);
        return {};
    });
    EXPECT_EQ(walked.error().code(), Errc::DataLoss);
    EXPECT_THAT(keys, ElementsAre("a"));
}

// -------------------------------------------------------------------------------------------------- Go's encodings

TEST(GoEncoding, Varints) {
    const auto unsigned_of = [](std::string_view bytes) { return take_uvarint(bytes); };
    EXPECT_EQ(unsigned_of(std::string_view("\0", 1)).value(), 0U);
    EXPECT_EQ(unsigned_of("\x7f").value(), 127U);
    EXPECT_EQ(unsigned_of("\x80\x01").value(), 128U);
    EXPECT_EQ(unsigned_of("\xac\x02").value(), 300U);
    EXPECT_EQ(unsigned_of("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").value(), UINT64_MAX);
    for (const char *bad : {"", "\x80", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
                            "\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"})
        EXPECT_EQ(unsigned_of(bad).error().code(), Errc::DataLoss);
    const auto signed_of = [](std::string_view bytes) { return take_varint(bytes); };
    EXPECT_EQ(signed_of(std::string_view("\0", 1)).value(), 0);
    EXPECT_EQ(signed_of("\x01").value(), -1);
    EXPECT_EQ(signed_of("\x02").value(), 1);
    EXPECT_EQ(signed_of("\xd8\x04").value(), 300);
    EXPECT_EQ(signed_of("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").value(), INT64_MIN);
    EXPECT_EQ(signed_of("\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01").value(), INT64_MAX);
    std::string_view rest = "\x96\x01tail";
    EXPECT_EQ(take_uvarint(rest).value(), 150U);
    EXPECT_EQ(rest, "tail");
}

TEST(GoEncoding, Times) {
    // time.Date(2023, 11, 14, 22, 13, 20, 5, time.UTC), and the same in a zone of +00:19:32.
    const std::string utc("\x01\x00\x00\x00\x0e\xdc\xe5\xe8\x00\x00\x00\x00\x05\xff\xff", 15);
    const std::string amsterdam("\x02\x00\x00\x00\x0e\xdc\xe5\xe8\x00\x00\x00\x00\x05\x00\x13\x20", 16);
    EXPECT_EQ(go_time_s(utc).value(), 1'700'000'000U);
    EXPECT_EQ(go_time_s(amsterdam).value(), 1'700'000'000U);
    EXPECT_EQ(go_time_s(std::string("\x01") + std::string(12, '\0') + "\xff\xff").value(), 0U) << "the zero time";
    EXPECT_EQ(go_time_s("\x01" + std::string(14, '\xff')).value(), 0U) << "before the year 1";
    for (const std::string &bad : {std::string(), utc.substr(1), utc.substr(0, 14), utc + " ", amsterdam.substr(0, 15),
                                   "\x03" + utc.substr(1), std::string("2023-11-14T22:13")})
        EXPECT_EQ(go_time_s(bad).error().code(), Errc::DataLoss);
}

} // namespace
} // namespace shale::probe
