// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>

#include "archive/tar_test_util.h"

namespace shale::archive {
namespace {
using namespace testing;

struct Read {
    std::vector<Entry> entries;
    std::vector<std::string> data;
    std::optional<Error> error;
};

Read read_all(const std::string &tar, size_t block = 1U << 16U, const TarLimits &limits = {}) {
    Read out;
    TarReader reader(source_of(tar, block), limits);
    for (;;) {
        Entry entry;
        auto more = reader.next(entry);
        if (!more) {
            out.error = more.error();
            return out;
        }
        if (!*more) break;
        std::string data;
        for (;;) {
            auto piece = reader.data();
            if (!piece) {
                out.error = piece.error();
                return out;
            }
            if (piece->empty()) break;
            data.append(reinterpret_cast<const char *>(piece->data()), piece->size());
        }
        out.entries.push_back(entry);
        out.data.push_back(data);
    }
    auto drained = reader.drain();
    EXPECT_TRUE(drained);
    EXPECT_EQ(reader.offset(), tar.size());
    return out;
}

void expect_refused(const std::string &tar, std::string_view text, Errc code = Errc::InvalidArgument) {
    auto got = read_all(tar);
    ASSERT_TRUE(got.error.has_value()) << text;
    EXPECT_EQ(got.error->code(), code) << got.error->text();
    EXPECT_NE(got.error->text().find(text), std::string::npos) << got.error->text();
}

TEST(TarReader, PlainEntriesAtEveryBlockSize) {
    const std::string body(3000, 'q');
    const std::string tar = dir("d/") + file("d/f", body, 04755) + symlink("d/s", "../x") + link("d/l", "d/f") +
                            member({.name = "c", .type = '3', .major = 5, .minor = 1}) +
                            member({.name = "p", .type = '6'}) + file("empty") + end() + std::string(4096, '\0');
    for (size_t block : {1UL, 7UL, 511UL, 512UL, 513UL, 5000UL, 1UL << 20U}) {
        auto got = read_all(tar, block);
        ASSERT_FALSE(got.error) << got.error->text();
        ASSERT_EQ(got.entries.size(), 7U);
        EXPECT_EQ(got.entries[0].type, EntryType::directory);
        EXPECT_EQ(got.entries[1].mode, 04755U);
        EXPECT_EQ(got.data[1], body);
        EXPECT_EQ(got.entries[2].link, "../x");
        EXPECT_EQ(got.entries[3].type, EntryType::hard_link);
        EXPECT_EQ(got.entries[4].dev_major, 5U);
        EXPECT_EQ(got.entries[5].type, EntryType::fifo);
    }
}

TEST(TarReader, EndsOfArchives) {
    EXPECT_FALSE(read_all("").error);
    EXPECT_FALSE(read_all(file("a", "x")).error);
    EXPECT_FALSE(read_all(file("a", "x") + std::string(512, '\0')).error);
    auto trailing = read_all(file("a") + end() + "anything");
    EXPECT_FALSE(trailing.error);
    EXPECT_EQ(trailing.entries.size(), 1U);
    expect_refused(file("a") + std::string(512, '\0') + file("b"), "zero block");
    expect_refused(file("a") + std::string(100, '\1'), "truncated header");
    expect_refused(file("a", std::string(5000, 'x')).substr(0, 2000), "truncated data");
    expect_refused(pax({{"path", "x"}}), "ends after an extended header");
    expect_refused(std::string(512, 'g'), "checksum");
}

TEST(TarReader, SkipsDataThatNobodyTook) {
    TarReader reader(source_of(file("a", std::string(2000, 'x')) + file("b")), {});
    Entry entry;
    ASSERT_TRUE(*reader.next(entry));
    ASSERT_TRUE(*reader.next(entry));
    EXPECT_EQ(entry.path, "b");
}

TEST(TarReader, Checksums) {
    EXPECT_FALSE(read_all(member({.name = "n\xc3\xa9", .signed_checksum = true})).error);
    EXPECT_FALSE(read_all(member({.name = "n\xc3\xa9"})).error);
    expect_refused(member({.name = "a", .bad_checksum = true}), "checksum");
}

TEST(TarReader, Numbers) {
    auto got = read_all(member({.name = "a", .uid_field = base256(3'000'000'000, 8), .mtime_field = base256(-5, 12)}));
    ASSERT_FALSE(got.error);
    EXPECT_EQ(got.entries[0].uid, 3'000'000'000U);
    EXPECT_EQ(got.entries[0].mtime_s, -5);
    got = read_all(member({.name = "a", .uid_field = base256(int64_t{1} << 32U, 8)}));
    EXPECT_EQ(got.entries.at(0).uid, uint64_t{1} << 32U);
    expect_refused(member({.name = "a", .uid_field = base256(-1, 8)}), "negative uid");
    expect_refused(member({.name = "a", .size_field = base256(-1, 12)}), "negative size");
    expect_refused(member({.name = "a", .size_field = "9999"}), "size is not a number");
    expect_refused(member({.name = "a", .size_field = std::string("\x80\xff") + std::string(10, '\xff')}), "too large");
    // 2^62 is a number, but over the limit of one file.
    expect_refused(member({.name = "a", .size_field = base256(int64_t{1} << 62U, 12)}), "limit",
                   Errc::ResourceExhausted);
    got = read_all(member({.name = "a", .mode = 0'0177'777}));
    EXPECT_EQ(got.entries.at(0).mode, 07777U);
}

TEST(TarReader, UstarPrefix) {
    auto got = read_all(member({.name = "name", .prefix = "some/dir"}));
    ASSERT_FALSE(got.error);
    EXPECT_EQ(got.entries[0].path, "some/dir/name");
}

TEST(TarReader, V7AndOldTypes) {
    auto got =
        read_all(member({.name = "d/", .type = '\0', .v7 = true}) + member({.name = "f", .type = '\0', .v7 = true}) +
                 member({.name = "c", .type = '7', .data = "abc"}));
    ASSERT_FALSE(got.error);
    EXPECT_EQ(got.entries[0].type, EntryType::directory);
    EXPECT_EQ(got.entries[1].type, EntryType::file);
    EXPECT_EQ(got.data[2], "abc");
}

TEST(TarReader, UnknownTypes) {
    auto got = read_all(member({.name = "v", .type = 'V', .data = "label"}) + file("a"));
    ASSERT_FALSE(got.error);
    ASSERT_EQ(got.entries.size(), 1U);
    expect_refused(member({.name = "a", .type = 'q'}), "unknown entry type 0x71");
}

TEST(TarReader, PaxValues) {
    auto got = read_all(pax({{"path", "long/name"},
                             {"uid", "3000000"},
                             {"gid", "12"},
                             {"mtime", "-1.5"},
                             {"comment", "x"},
                             {"SCHILY.xattr.user.a", std::string("1\0002", 3)}}) +
                        file("short") + pax({{"linkpath", "else"}, {"mtime", "7.1234567899"}}) + symlink("s", "t") +
                        pax({{"uid", ""}}) + member({.name = "e", .uid = 9}));
    ASSERT_FALSE(got.error) << got.error->text();
    EXPECT_EQ(got.entries[0].path, "long/name");
    EXPECT_EQ(got.entries[0].uid, 3'000'000U);
    EXPECT_EQ(got.entries[0].mtime_s, -2);
    EXPECT_EQ(got.entries[0].mtime_ns, 500'000'000U);
    ASSERT_EQ(got.entries[0].xattrs.size(), 1U);
    EXPECT_EQ(got.entries[0].xattrs[0].second.size(), 3U);
    EXPECT_EQ(got.entries[1].link, "else");
    EXPECT_EQ(got.entries[1].mtime_ns, 123'456'789U);
    EXPECT_EQ(got.entries[2].uid, 9U);
}

TEST(TarReader, PaxRefusals) {
    const auto raw = [](const std::string &data) {
        return member({.name = "x", .type = 'x', .data = data}) + file("a");
    };
    expect_refused(pax({{"path", std::string("a\0b", 3)}}) + file("a"), "path");
    expect_refused(pax({{"linkpath", std::string("a\0b", 3)}}) + symlink("a", "b"), "linkpath");
    expect_refused(pax({{"size", "-1"}}) + file("a"), "size");
    expect_refused(pax({{"size", "99999999999999999999"}}) + file("a"), "size");
    expect_refused(pax({{"size", "9223372036854775807"}}) + file("a"), "too large");
    expect_refused(pax({{"uid", "-1"}}) + file("a"), "uid");
    expect_refused(pax({{"mtime", "x"}}) + file("a"), "mtime");
    expect_refused(raw("garbage"), "PAX record");
    expect_refused(raw("999 a=b\n"), "PAX record length");
    expect_refused(raw("3 a"), "PAX record");
    expect_refused(raw("6 a=bc"), "newline");
    expect_refused(raw("5 abc"), "PAX record");
}

TEST(TarReader, PaxSizeCountsNotTheHeaders) {
    // CVE-2025-62518: with the header's size 0 the nested archive would be read as members.
    const std::string nested = file("smuggled", "x") + end();
    std::string tar = pax({{"size", std::to_string(nested.size())}}) + header_of({.name = "outer.tar"}, 0) +
                      padded(nested) + file("after");
    auto got = read_all(tar);
    ASSERT_FALSE(got.error) << got.error->text();
    ASSERT_EQ(got.entries.size(), 2U);
    EXPECT_EQ(got.data[0], nested);
    EXPECT_EQ(got.entries[1].path, "after");
}

TEST(TarReader, GlobalHeader) {
    auto got =
        read_all(pax({{"path", "evil"}, {"linkpath", "evil"}, {"size", "7"}, {"uid", "77"}, {"mtime", "5"}}, 'g') +
                 file("a") + pax({{"uid", "1"}}) + file("b") + pax({{"comment", "end"}}, 'g'));
    ASSERT_FALSE(got.error) << got.error->text();
    ASSERT_EQ(got.entries.size(), 2U);
    EXPECT_EQ(got.entries[0].path, "a");
    EXPECT_EQ(got.entries[0].uid, 77U);
    EXPECT_EQ(got.entries[0].mtime_s, 5);
    EXPECT_EQ(got.entries[1].uid, 1U);
}

TEST(TarReader, GnuLongNames) {
    const std::string name(300, 'n');
    const std::string target(400, 't');
    auto got = read_all(gnu_long('L', name) + gnu_long('K', target) + symlink("n", "t"));
    ASSERT_FALSE(got.error);
    EXPECT_EQ(got.entries[0].path, name);
    EXPECT_EQ(got.entries[0].link, target);
}

TEST(TarReader, Limits) {
    expect_refused(gnu_long('L', std::string(5000, 'n')) + file("a"), "path of 5000 bytes");
    const std::string huge = header_of({.name = "x", .type = 'x'}, 8U << 20U);
    expect_refused(huge, "limit", Errc::ResourceExhausted);
    expect_refused(header_of({.name = "x", .type = 'L'}, 64U << 20U), "limit", Errc::ResourceExhausted);
    TarLimits limits;
    limits.entries = 2;
    auto got = read_all(file("a") + file("b") + file("c"), 512, limits);
    ASSERT_TRUE(got.error);
    EXPECT_EQ(got.error->code(), Errc::ResourceExhausted);
    limits = {};
    limits.total_bytes = 10;
    EXPECT_TRUE(read_all(file("a", "123456") + file("b", "123456"), 512, limits).error);
    limits = {};
    limits.file_bytes = 5;
    EXPECT_TRUE(read_all(file("a", "123456"), 512, limits).error);
}

std::string old_sparse(const std::vector<SparseRange> &ranges, uint64_t real, const std::string &data) {
    std::string h = header_of({.name = "sparse", .type = 'S'}, data.size());
    h.replace(257, 8, std::string_view("ustar  \0", 8));
    size_t i = 0;
    for (; i < std::min<size_t>(4, ranges.size()); ++i) {
        h.replace(386 + i * 24, 12, octal(ranges[i].offset, 12));
        h.replace(386 + i * 24 + 12, 12, octal(ranges[i].length, 12));
    }
    h[482] = static_cast<char>(ranges.size() > 4 ? 1 : 0);
    h.replace(483, 12, octal(real, 12));
    seal(h);
    while (i < ranges.size()) {
        std::string more(512, '\0');
        for (size_t k = 0; k < 21 && i < ranges.size(); ++k, ++i) {
            more.replace(k * 24, 12, octal(ranges[i].offset, 12));
            more.replace(k * 24 + 12, 12, octal(ranges[i].length, 12));
        }
        more[504] = static_cast<char>(i < ranges.size() ? 1 : 0);
        h += more;
    }
    return h + padded(data);
}

TEST(TarReader, OldGnuSparse) {
    std::vector<SparseRange> ranges;
    for (uint64_t i = 0; i < 30; ++i)
        ranges.push_back({i * 100, 10});
    auto got = read_all(old_sparse(ranges, 10'000, std::string(300, 's')) + file("b"), 700);
    ASSERT_FALSE(got.error) << got.error->text();
    ASSERT_EQ(got.entries.size(), 2U);
    EXPECT_EQ(got.entries[0].sparse.size(), 30U);
    EXPECT_EQ(got.entries[0].size, 10'000U);
    EXPECT_EQ(got.data[0].size(), 300U);
    expect_refused(old_sparse({{0, 10}, {5, 10}}, 100, std::string(20, 's')), "overlap");
    expect_refused(old_sparse({{95, 10}}, 100, std::string(10, 's')), "pass the end");
    expect_refused(old_sparse({{0, 10}}, 100, std::string(20, 's')), "ranges hold 10 bytes");
}

TEST(TarReader, PaxSparse) {
    const std::string map = padded("2\n0\n3\n100\n2\n");
    const std::string tar =
        pax({{"GNU.sparse.size", "200"},
             {"GNU.sparse.numblocks", "2"},
             {"GNU.sparse.offset", "0"},
             {"GNU.sparse.numbytes", "3"},
             {"GNU.sparse.offset", "100"},
             {"GNU.sparse.numbytes", "2"}}) +
        file("v00", "abcde") +
        pax({{"GNU.sparse.size", "200"}, {"GNU.sparse.map", "0,3,100,2"}, {"GNU.sparse.name", "v01"}}) +
        file("GNUSparseFile/x", "abcde") +
        pax({{"GNU.sparse.major", "1"},
             {"GNU.sparse.minor", "0"},
             {"GNU.sparse.name", "v10"},
             {"GNU.sparse.realsize", "200"}}) +
        file("GNUSparseFile/x", map + "abcde") + file("after");
    auto got = read_all(tar, 300);
    ASSERT_FALSE(got.error) << got.error->text();
    ASSERT_EQ(got.entries.size(), 4U);
    for (size_t i = 0; i < 3; ++i) {
        EXPECT_TRUE(got.entries[i].is_sparse);
        EXPECT_EQ(got.entries[i].size, 200U);
        ASSERT_EQ(got.entries[i].sparse.size(), 2U);
        EXPECT_EQ(got.entries[i].sparse[1].offset, 100U);
        EXPECT_EQ(got.data[i], "abcde");
    }
    EXPECT_EQ(got.entries[1].path, "v01");
    EXPECT_EQ(got.entries[2].path, "v10");
    // 1 PiB of nothing
    expect_refused(
        pax({{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.realsize", "1125899906842624"}}) +
            file("x", padded("0\n")),
        "limit", Errc::ResourceExhausted);
    expect_refused(pax({{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.realsize", "100"}}) +
                       file("x", padded("99999999\n")),
                   "ranges", Errc::ResourceExhausted);
    expect_refused(pax({{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.realsize", "100"}}) +
                       file("x", padded("x\n")),
                   "sparse map");
    expect_refused(pax({{"GNU.sparse.size", "100"}, {"GNU.sparse.map", "1,2,3"}}) + file("x"), "sparse map");
}

// Readers that know no sparse files take the other name; two readers that disagree on a name see different trees.
TEST(TarReader, SparseNameIsThatOfSparseFilesOnly) {
    const std::vector<std::pair<std::string, std::string>> name{{"GNU.sparse.name", "evil"}};
    const std::vector<std::pair<std::string, std::string>> both{{"path", "long"}, {"GNU.sparse.name", "evil"}};
    const std::vector<std::pair<std::string, std::string>> version{
        {"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "evil"}};
    auto got = read_all(pax(name) + file("plain", "x") + pax(both) + file("short") + pax(version) + dir("dir/") +
                        pax(version) + symlink("symlink", "to") + pax(version) + link("link", "plain") + pax(name) +
                        old_sparse({{0, 10}}, 100, std::string(10, 's')));
    ASSERT_FALSE(got.error) << got.error->text();
    std::string names;
    for (const auto &entry : got.entries)
        names += entry.path + " ";
    EXPECT_EQ(names, "plain long dir/ symlink link sparse ");
}

TEST(TarReader, SparseRangeLimit) {
    const auto ranges = [](size_t count) {
        std::vector<SparseRange> out;
        for (uint64_t i = 0; i < count; ++i)
            out.push_back({i * 10, 1});
        return out;
    };
    const auto list = [&](size_t count) {
        std::string out;
        for (const auto &range : ranges(count))
            out += (out.empty() ? "" : ",") + std::to_string(range.offset) + ",1";
        return pax({{"GNU.sparse.size", "10000"}, {"GNU.sparse.map", out}}) + file("s", std::string(count, 'x'));
    };
    const auto map = [&](size_t count) {
        std::string out = std::to_string(count) + "\n";
        for (const auto &range : ranges(count))
            out += std::to_string(range.offset) + "\n1\n";
        return pax({{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.realsize", "10000"}}) +
               file("s", padded(out) + std::string(count, 'x'));
    };
    const auto old = [&](size_t count) { return old_sparse(ranges(count), 10'000, std::string(count, 'x')); };
    TarLimits limits;
    limits.sparse_ranges = 40;
    for (const auto &tar : {list(40), map(40), old(40)}) {
        auto got = read_all(tar + file("after"), 512, limits);
        ASSERT_FALSE(got.error) << got.error->text();
        EXPECT_EQ(got.entries.at(0).sparse.size(), 40U);
        EXPECT_EQ(got.entries.at(1).path, "after");
    }
    for (const auto &tar : {list(41), map(41), old(41), old(400)}) {
        auto got = read_all(tar + file("after"), 512, limits);
        ASSERT_TRUE(got.error);
        EXPECT_EQ(got.error->code(), Errc::ResourceExhausted) << got.error->text();
        EXPECT_NE(got.error->text().find("limit of 40"), std::string::npos) << got.error->text();
    }
}

TEST(TarReader, XattrLimit) {
    const auto with = [](size_t count) {
        std::vector<std::pair<std::string, std::string>> records;
        for (size_t i = 0; i < count; ++i)
            records.emplace_back("SCHILY.xattr.user." + std::to_string(i), "v");
        records.emplace_back("SCHILY.xattr.user.0", "again"); // replaces, is not one more
        return pax(records) + file("f");
    };
    auto got = read_all(with(1024));
    ASSERT_FALSE(got.error) << got.error->text();
    EXPECT_EQ(got.entries.at(0).xattrs.size(), 1024U);
    expect_refused(with(1025), "limit of 1024 extended attributes", Errc::ResourceExhausted);
    TarLimits limits;
    limits.xattrs = 2;
    EXPECT_FALSE(read_all(with(2), 512, limits).error);
    got = read_all(with(3), 512, limits);
    ASSERT_TRUE(got.error);
    EXPECT_EQ(got.error->code(), Errc::ResourceExhausted);
}

TEST(TarReader, DeviceNumbers) {
    std::string h = header_of({.name = "d", .type = '3'}, 0);
    h.replace(329, 8, base256(int64_t{1} << 40U, 8));
    seal(h);
    expect_refused(h, "device number");
}

} // namespace
} // namespace shale::archive
