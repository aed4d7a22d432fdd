// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>
#include <limits>

#include "archive/tar.h"
#include "archive/test_tree.h"

namespace shale::archive {
namespace {

std::string pack(const std::vector<std::pair<Entry, std::string>> &entries) {
    std::string out;
    TarWriter writer([&](std::span<const std::byte> bytes) -> Status {
        out.append(reinterpret_cast<const char *>(bytes.data()), bytes.size());
        return {};
    });
    for (const auto &[entry, data] : entries) {
        TestTree::must(writer.add(entry));
        TestTree::must(writer.data(std::as_bytes(std::span(data))));
    }
    TestTree::must(writer.finish());
    return out;
}

/// What GNU tar makes of it.
std::string listed(const std::string &archive) {
    TestTree tree;
    tree.file("a.tar", archive);
    const std::string command = "LC_ALL=C TZ=UTC tar --numeric-owner --full-time -tvf " + tree.path() + "/a.tar 2>&1";
    FILE *pipe = ::popen(command.c_str(), "r");
    std::string out;
    char piece[512];
    while (std::fgets(piece, sizeof piece, pipe) != nullptr)
        out += piece;
    EXPECT_EQ(::pclose(pipe), 0) << out;
    return out;
}

Entry file(std::string path, uint64_t size) {
    Entry entry;
    entry.path = std::move(path);
    entry.mode = 0644;
    entry.size = size;
    return entry;
}

TEST(TarWriter, PlainEntriesHaveNoExtension) {
    Entry entry = file("a/b", 3);
    entry.uid = 2'097'151;
    entry.mtime_s = 8'589'934'591;
    const auto archive = pack({{entry, "abc"}});
    EXPECT_EQ(archive.size(), 512U * 4);
    EXPECT_EQ(archive[156], '0');
    EXPECT_NE(listed(archive).find("2097151/0"), std::string::npos) << listed(archive);
    EXPECT_EQ(pack({}), std::string(1024, '\0'));
    EXPECT_EQ(pack({{file("\xc3\xa9\xff", 0), ""}}).size(), 512U * 3) << "bytes go as they are";
}

TEST(TarWriter, LongNames) {
    const std::string hundred(100, 'n');
    const std::string prefix(155, 'p');
    EXPECT_EQ(pack({{file(hundred, 0), ""}}).size(), 512U * 3);
    const std::string split = prefix + "/" + hundred;
    const auto archive = pack({{file(split, 0), ""}});
    EXPECT_EQ(archive.size(), 512U * 3);
    EXPECT_NE(listed(archive).find(" " + split + "\n"), std::string::npos);
    for (const std::string &path : {hundred + "n", "p" + split, prefix + "/n" + hundred, std::string(4000, 'x')}) {
        const auto extended = pack({{file(path, 0), ""}});
        EXPECT_EQ(extended[156], 'x');
        EXPECT_EQ(extended.compare(0, 11, "PaxHeaders/"), 0);
        EXPECT_NE(listed(extended).find(" " + path + "\n"), std::string::npos);
    }
    // A directory's slash belongs to the name part.
    Entry directory = file(prefix + "/" + std::string(99, 'd') + "/", 0);
    directory.type = EntryType::directory;
    EXPECT_EQ(pack({{directory, ""}}).size(), 512U * 3);
    Entry link = file("l", 0);
    link.type = EntryType::symlink;
    link.link = std::string(101, 't');
    EXPECT_NE(listed(pack({{link, ""}})).find("-> " + link.link), std::string::npos);
}

TEST(TarWriter, WhatUstarCannotSay) {
    Entry entry = file("f", 1);
    entry.uid = 2'097'152;
    entry.gid = 4'294'967'294;
    entry.mtime_s = 1;
    entry.mtime_ns = 500'000'000;
    entry.xattrs = {{"user.b", "1"}, {"user.a", std::string("x\0y\n", 4)}};
    const auto archive = pack({{entry, "z"}});
    const std::string body = archive.substr(512, 512);
    const std::string wanted = std::string("28 SCHILY.xattr.user.a=x\0y\n\n", 28) + "25 SCHILY.xattr.user.b=1\n" +
                               "18 gid=4294967294\n13 mtime=1.5\n15 uid=2097152\n";
    EXPECT_EQ(body.substr(0, body.find_last_not_of('\0') + 1), wanted);
    EXPECT_NE(listed(archive).find("2097152/4294967294"), std::string::npos);
    for (auto [seconds, nanoseconds, text] :
         {std::tuple{int64_t{-1}, 0U, " mtime=-1\n"},
          {int64_t{-1}, 250'000'000U, " mtime=-0.75\n"},
          {int64_t{-3}, 1U, " mtime=-2.999999999\n"},
          {int64_t{8'589'934'592}, 0U, " mtime=8589934592\n"},
          {std::numeric_limits<int64_t>::min(), 0U, " mtime=-9223372036854775808\n"}}) {
        Entry timed = file("f", 0);
        timed.mtime_s = seconds;
        timed.mtime_ns = nanoseconds;
        EXPECT_NE(pack({{timed, ""}}).find(text), std::string::npos) << text;
    }
    Entry bad = file("f", 0);
    bad.xattrs = {{"user.a=b", "1"}};
    TarWriter writer([](auto) -> Status { return {}; });
    EXPECT_EQ(writer.add(bad).error().code(), Errc::InvalidArgument);
}

TEST(TarWriter, LengthOfRecordsCountsItself) {
    for (size_t length = 1; length < 1100; ++length) {
        Entry entry = file("f", 0);
        entry.xattrs = {{"user.a", std::string(length, 'v')}};
        const auto archive = pack({{entry, ""}});
        const size_t stated = std::stoul(archive.substr(512, 8));
        ASSERT_EQ(archive[512 + stated - 1], '\n');
        if (stated % 512 != 0) {
            ASSERT_EQ(archive[512 + stated], '\0');
        }
    }
}

TEST(TarWriter, HugeFilesAndAccounting) {
    TarWriter writer([](auto) -> Status { return {}; });
    ASSERT_TRUE(writer.add(file("f", uint64_t{1} << 40U)));
    EXPECT_EQ(writer.add(file("g", 0)).error().code(), Errc::Internal);
    EXPECT_EQ(writer.finish().error().code(), Errc::Internal);
    TarWriter other([](auto) -> Status { return {}; });
    ASSERT_TRUE(other.add(file("f", 2)));
    const std::string three = "abc";
    EXPECT_EQ(other.data(std::as_bytes(std::span(three))).error().code(), Errc::Internal);
    EXPECT_TRUE(other.data(std::as_bytes(std::span(three)).first(2)));
    EXPECT_TRUE(other.finish());
    EXPECT_FALSE(other.add(file("", 0)));
    EXPECT_FALSE(other.add(file(std::string("a\0b", 3), 0)));
}

} // namespace
} // namespace shale::archive
