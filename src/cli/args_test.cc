// SPDX-License-Identifier: Apache-2.0
#include "cli/args.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/userns.h"

namespace shale::cli {
namespace {

using ::testing::ElementsAre;
using Words = std::vector<std::string>;

TEST(CommandLineTest, GlobalsBeforeAndAfterTheVerb) {
    for (const Words &words :
         {Words{"--root", "/r", "--json", "image", "ls"}, Words{"image", "ls", "--root", "/r", "--json"},
          Words{"image", "--json", "ls", "--root=/r"}}) {
        const auto line = parse_command_line(words);
        ASSERT_TRUE(line) << line.error().text();
        EXPECT_EQ(line->globals.flags.root, "/r");
        EXPECT_TRUE(line->globals.json);
        EXPECT_TRUE(std::holds_alternative<ImageLsArgs>(line->verb));
    }
}

TEST(CommandLineTest, DockersSpelling) {
    const auto line = parse_command_line({"--storage-driver=overlay2", "--storage-opt", "overlay2.size=10G",
                                          "--storage-opt", "overlay2.redirect_dir=on", "df"});
    ASSERT_TRUE(line) << line.error().text();
    EXPECT_EQ(line->globals.flags.driver, "overlay2");
    ASSERT_EQ(line->globals.flags.storage_opts.size(), 2U);
    EXPECT_EQ(line->globals.flags.storage_opts[1].text, "overlay2.redirect_dir=on");
}

struct RunCase {
    Words words;
    std::string image, container;
    Words command;
};

TEST(CommandLineTest, RunLeavesTheCommandAlone) {
    const std::vector<RunCase> cases{
        {{"run", "debian"}, "debian", "", {}},
        {{"run", "debian", "ls", "--json", "-s"}, "debian", "", {"ls", "--json", "-s"}},
        {{"run", "debian", "--", "ls", "--", "x"}, "debian", "", {"ls", "--", "x"}},
        {{"--root", "/r", "run", "--name", "n", "debian", "sh", "-c", "a b"}, "debian", "", {"sh", "-c", "a b"}},
        {{"run", "--rm", "-s", "vfs", "debian", "run"}, "debian", "", {"run"}},
        {{"run", "--container", "web", "--", "ls", "-l"}, "", "web", {"ls", "-l"}},
        {{"run", "--container=web", "ls", "-l"}, "", "web", {"ls", "-l"}},
    };
    for (const RunCase &c : cases) {
        const auto line = parse_command_line(c.words);
        ASSERT_TRUE(line) << line.error().text();
        const auto *run = std::get_if<RunArgs>(&line->verb);
        ASSERT_NE(run, nullptr);
        EXPECT_EQ(run->image, c.image);
        EXPECT_EQ(run->container, c.container);
        EXPECT_EQ(run->command, c.command);
        EXPECT_FALSE(line->globals.json);
    }
}

TEST(CommandLineTest, WrongLinesAreUsageErrors) {
    for (const Words &words : std::vector<Words>{{},
                                                 {"frobnicate"},
                                                 {"image"},
                                                 {"image", "rm"},
                                                 {"image", "ls", "--frob"},
                                                 {"image", "import", "f", "--platform", "linux"},
                                                 {"image", "import", "f", "--dry-run"},
                                                 {"container", "commit", "c", "n", "--dry-run"},
                                                 {"check", "--repair", "--dry-run"},
                                                 {"image", "export", "a", "b", "--format", "zip"},
                                                 {"check", "--level", "deep"},
                                                 {"run"},
                                                 {"run", "--container", "a", "--rm"},
                                                 {"info", "--jobs", "many"},
                                                 {"info", "--max-layer-size", "huge"}}) {
        const auto line = parse_command_line(words);
        ASSERT_FALSE(line) << (words.empty() ? "" : words[0]);
        EXPECT_EQ(errc_info(line.error().code()).exit_code, 2);
    }
}

TEST(CommandLineTest, StandardInputCannotBeWatched) {
    const auto line = parse_command_line({"doctor", "--facts", "-", "--watch", "5"});
    ASSERT_FALSE(line);
    EXPECT_THAT(line.error().text(), ::testing::HasSubstr("standard input (--facts -) can be read once only"));
    EXPECT_EQ(errc_info(line.error().code()).exit_code, 2);
    for (const Words &words :
         {Words{"doctor", "--facts", "-"}, Words{"doctor", "--watch", "5"},
          Words{"doctor", "--facts", "host.json", "--watch", "5"}, Words{"doctor", "--facts", "-", "--watch", "0"}})
        EXPECT_TRUE(parse_command_line(words)) << words.size();
}

TEST(CommandLineTest, UnknownVerbIsNamedWithTheNearest) {
    const std::vector<std::pair<Words, std::string>> cases{
        {{"nosuchverb"}, "no verb is called \"nosuchverb\"; see `shale --help`"},
        {{"--root", "/r", "inof"}, "no verb is called \"inof\" (did you mean \"info\"?); see `shale --help`"},
        {{"image", "-s", "vfs", "exprot", "a", "b"},
         "no verb is called \"image exprot\" (did you mean \"image export\"?); see `shale --help`"},
    };
    for (const auto &[words, message] : cases) {
        const auto line = parse_command_line(words);
        ASSERT_FALSE(line);
        EXPECT_EQ(line.error().text(), message);
        EXPECT_EQ(errc_info(line.error().code()).exit_code, 2);
    }
}

/// The options of `orphans` stand at the group or at any of its verbs, and by itself it lists.
TEST(CommandLineTest, OrphansByItselfLists) {
    for (const Words &words : {Words{"orphans", "--store", "docker=/d", "--assume-alone"},
                               Words{"orphans", "ls", "--store", "docker=/d", "--assume-alone"},
                               Words{"orphans", "--store", "docker=/d", "ls", "--assume-alone"}}) {
        const auto line = parse_command_line(words);
        ASSERT_TRUE(line) << line.error().text();
        const auto *args = std::get_if<OrphansLsArgs>(&line->verb);
        ASSERT_NE(args, nullptr) << words.size();
        EXPECT_THAT(args->host.stores, ElementsAre("docker=/d"));
        EXPECT_TRUE(args->assume_alone);
    }
    const auto reclaim =
        parse_command_line({"orphans", "reclaim", "--dry-run", "--min-age", "0", "--host-root", "/mnt", "a", "b"});
    ASSERT_TRUE(reclaim) << reclaim.error().text();
    const auto *args = std::get_if<OrphansReclaimArgs>(&reclaim->verb);
    ASSERT_NE(args, nullptr);
    EXPECT_TRUE(reclaim->globals.dry_run);
    EXPECT_EQ(args->min_age_s, 0U);
    EXPECT_EQ(args->host.root, "/mnt");
    EXPECT_FALSE(args->assume_alone);
    EXPECT_THAT(args->layers, ElementsAre("a", "b"));
}

TEST(CommandLineTest, CacheEvictNeedsOneTarget) {
    const auto image = parse_command_line({"cache", "evict", "--image", "debian:12", "--dry-run"});
    ASSERT_TRUE(image) << image.error().text();
    EXPECT_EQ(std::get<CacheEvictArgs>(image->verb).image, "debian:12");
    EXPECT_FALSE(parse_command_line({"cache", "evict"}));
    EXPECT_FALSE(parse_command_line({"cache", "evict", "--image", "a", "--layer", "b"}));
    EXPECT_FALSE(parse_command_line({"cache", "top", "--by", "process"}));
}

TEST(CommandLineTest, WatchHasItsPathsBeforeItsCommand) {
    const auto line = parse_command_line({"watch",       "--json", "--once", "--debounce", "0",   "--timeout", "5",
                                          "--recursive", "--pid",  "12",     "--signal",   "hup", "/a",        "/b",
                                          "--exec",      "--",     "ls",     "--json",     "--",  "/c"});
    ASSERT_TRUE(line) << line.error().text();
    EXPECT_TRUE(line->globals.json);
    const auto &args = std::get<WatchArgs>(line->verb);
    EXPECT_THAT(args.paths, ElementsAre("/a", "/b"));
    EXPECT_THAT(args.command, ElementsAre("ls", "--json", "--", "/c"));
    EXPECT_TRUE(args.once && args.recursive && args.exec);
    EXPECT_EQ(args.debounce_ms, 0U);
    EXPECT_EQ(args.timeout_s.value_or(0), 5U);
    EXPECT_EQ(args.pid, 12);
    EXPECT_EQ(args.signal, "hup");

    const auto plain = parse_command_line({"watch", "--container", "web", "--", "-odd"});
    ASSERT_TRUE(plain) << plain.error().text();
    EXPECT_THAT(std::get<WatchArgs>(plain->verb).paths, ElementsAre("-odd"));
    EXPECT_EQ(std::get<WatchArgs>(plain->verb).debounce_ms, 200U);
    EXPECT_FALSE(std::get<WatchArgs>(plain->verb).timeout_s);
}

TEST(CommandLineTest, WrongLinesOfWatch) {
    for (const Words &words :
         {Words{"watch"}, Words{"watch", "--signal", "HUP", "/a"},
          Words{"watch", "--pid", "1", "--signal", "FROB", "/a"},
          Words{"watch", "--pid", "1", "--container", "c", "/a"}, Words{"watch", "--pid", "0", "/a"},
          Words{"watch", "--pid", "me", "/a"}, Words{"watch", "/a", "--exec"}, Words{"watch", "/a", "--exec", "--"},
          Words{"watch", "--exec", "--", "ls", "/a"}, Words{"watch", "--debounce", "-1", "/a"},
          Words{"watch", "--timeout", "soon", "/a"}, Words{"watch", "--dry-run", "/a"}}) {
        const auto line = parse_command_line(words);
        ASSERT_FALSE(line) << words.size() << " " << words.back();
        EXPECT_EQ(errc_info(line.error().code()).exit_code, 2);
    }
}

TEST(CommandLineTest, DoctorTakesItsForms) {
    const auto line = parse_command_line(
        {"doctor", "--facts", "f.json", "--format", "line", "--check", "bytes-low", "--check", "inodes-low"});
    ASSERT_TRUE(line) << line.error().text();
    const auto &args = std::get<DoctorArgs>(line->verb);
    EXPECT_EQ(args.facts, "f.json");
    EXPECT_EQ(args.format, "line");
    EXPECT_THAT(args.checks, ElementsAre("bytes-low", "inodes-low"));
    EXPECT_FALSE(parse_command_line({"doctor", "--format", "yaml"}));
    EXPECT_FALSE(parse_command_line({"facts", "--dry-run"}));
}

TEST(CommandLineTest, SeveralReferences) {
    const auto line = parse_command_line({"image", "rm", "a", "b", "--dry-run", "-f"});
    ASSERT_TRUE(line) << line.error().text();
    EXPECT_TRUE(line->globals.dry_run);
    const auto &rm = std::get<ImageRmArgs>(line->verb);
    EXPECT_TRUE(rm.force);
    EXPECT_THAT(rm.references, ElementsAre("a", "b"));
}

TEST(SubRange, FindsNameOrNumber) {
    constexpr std::string_view text = "bad\nroot:1:x\nann:100000:65536\n1001:200000:10\n:5:5\nbob:1:0\nbob:7:9";
    EXPECT_EQ(find_sub_range(text, "ann", 5).start, 100'000U);
    EXPECT_EQ(find_sub_range(text, "ann", 5).count, 65'536U);
    EXPECT_EQ(find_sub_range(text, "eve", 1001).start, 200'000U);
    EXPECT_EQ(find_sub_range(text, "bob", 5).start, 7U);
    EXPECT_EQ(find_sub_range(text, "", 5).count, 0U);
    EXPECT_EQ(find_sub_range(text, "root", 0).count, 0U);
}

} // namespace
} // namespace shale::cli
