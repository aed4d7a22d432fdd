// SPDX-License-Identifier: Apache-2.0
#include "cli/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "cli/json.h"
#include "cli/table.h"

namespace shale::cli {
namespace {

using drivers::DriverInfo;
using drivers::OptionInfo;
using ::testing::HasSubstr;

constexpr std::array overlay_options{OptionInfo{"size", "", ""}, OptionInfo{"redirect_dir", "auto", ""},
                                     OptionInfo{"metacopy", "off", ""}};
const std::array<DriverInfo, 2> built{DriverInfo{"overlay2", 10, "", overlay_options, nullptr},
                                      DriverInfo{"vfs", 90, "", {}, nullptr}};

struct Case {
    const char *text;
    const char *driver;
    Standing standing;
    const char *says;
};
class JudgeOption : public ::testing::TestWithParam<Case> {};

TEST_P(JudgeOption, StandsAndSays) {
    const Case &c = GetParam();
    const Verdict verdict = judge_option(c.text, c.driver, built);
    EXPECT_EQ(verdict.standing, c.standing) << verdict.message;
    EXPECT_THAT(verdict.message, HasSubstr(c.says));
}

INSTANTIATE_TEST_SUITE_P(
    Table, JudgeOption,
    ::testing::Values(Case{"overlay2.size=10G", "overlay2", Standing::known, ""},
                      Case{"overlay2.size=10G", "", Standing::known, ""},
                      Case{"size=10G", "overlay2", Standing::known, ""}, Case{"size=10G", "", Standing::known, ""},
                      Case{"redirect_dir=on", "overlay2", Standing::known, ""},
                      Case{"overlay2.redirect_dir=on", "vfs", Standing::known, ""},
                      Case{"overlay2.override_kernel_check=true", "overlay2", Standing::obsolete, "remove it"},
                      Case{"overlay2.override_kernel_check=true", "", Standing::obsolete, "obsolete"},
                      Case{"overlay.mount_program=/usr/bin/fuse-overlayfs", "", Standing::obsolete,
                           "containers-storage"},
                      Case{"overlay.mountopt=nodev", "", Standing::obsolete, "remove it"},
                      Case{"dm.basesize=20G", "overlay2", Standing::unbuilt, "devicemapper"},
                      Case{"dm.thinpooldev=/dev/x", "", Standing::unbuilt, "devicemapper"},
                      Case{"btrfs.min_space=1G", "", Standing::unbuilt, "btrfs"},
                      Case{"zfs.fsname=tank/docker", "", Standing::unbuilt, "zfs"},
                      Case{"aufs.x=1", "", Standing::unbuilt, "removed"},
                      Case{"overlay2.hysteresis=5%", "overlay2", Standing::guard, "dockerd refuses"},
                      Case{"overlay2.min_space=5%", "", Standing::guard, "dockerd refuses"},
                      Case{"min_space=5%", "overlay2", Standing::guard, "guard"},
                      Case{"overlay2.sise=10G", "overlay2", Standing::unknown, "did you mean overlay2.size?"},
                      Case{"redirectdir=on", "overlay2", Standing::unknown, "did you mean overlay2.redirect_dir?"},
                      Case{"overlay2.turbo_everything=1", "overlay2", Standing::unknown, "no driver has it"},
                      Case{"ovrelay2.size=1G", "", Standing::unknown, "did you mean overlay2.size?"},
                      Case{"vfs.size=1G", "vfs", Standing::unknown, "no driver has it"},
                      Case{"overlay2.size", "", Standing::unknown, "KEY=VALUE"},
                      Case{"=10G", "", Standing::unknown, "KEY=VALUE"}, Case{"", "", Standing::unknown, "KEY=VALUE"}));

TEST(JudgeDriver, NamesTheSuccessor) {
    EXPECT_FALSE(judge_driver("overlay2", built));
    EXPECT_THAT(*judge_driver("aufs", built), HasSubstr("use overlay2"));
    EXPECT_THAT(*judge_driver("overlayfs", built), HasSubstr("overlay2"));
    EXPECT_THAT(*judge_driver("devicemapper", built), HasSubstr("not built"));
    EXPECT_THAT(*judge_driver("overly2", built), HasSubstr("did you mean overlay2?"));
    EXPECT_THAT(*judge_driver("frobnicate", built), HasSubstr("there are: overlay2, vfs"));
}

TEST(Toml, TakesAllKeys) {
    const auto source =
        parse_toml("root = \"/srv/shale\"\ndurability = \"none\"\njobs = 3\n[driver]\nname = \"overlay2\"\n"
                   "[driver.overlay2]\nsize = \"10G\"\nmetacopy = true\n[limits]\nentries = 5\nlayer_bytes = \"1G\"\n",
                   "f.toml");
    ASSERT_TRUE(source) << source.error().text();
    EXPECT_EQ(source->root, "/srv/shale");
    EXPECT_EQ(source->driver, "overlay2");
    EXPECT_EQ(source->durability, "none");
    EXPECT_EQ(source->jobs, 3U);
    EXPECT_EQ(source->max_entries, 5U);
    EXPECT_EQ(source->max_layer_bytes, uint64_t{1} << 30U);
    ASSERT_EQ(source->storage_opts.size(), 2U);
    EXPECT_EQ(source->storage_opts[0].text, "overlay2.metacopy=on");
    EXPECT_EQ(source->storage_opts[1].text, "overlay2.size=10G");
    EXPECT_EQ(source->storage_opts[1].origin, "f.toml:7");
}

TEST(Toml, ErrorsNameFileLineAndNearest) {
    const std::array<std::pair<const char *, const char *>, 11> cases{{
        {"root = \"/x\"\ndurabilty = \"full\"\n", "f.toml:2: unknown key \"durabilty\"; did you mean durability?"},
        {"[limits]\nentrys = 3\n", "f.toml:2: unknown key \"entrys\" in [limits]; did you mean entries?"},
        {"zzzzzzzz = 1\n", "there are: root, driver"},
        {"jobs = -1\n", "f.toml:1: jobs must be a number"},
        {"root = 3\n", "f.toml:1: root must be a string"},
        {"root = \n", "f.toml:1: "},
        {"[driver]\nuse = \"vfs\"\n", "f.toml:2: [driver] has"},
        {"jobs = 1\n[:00Z, 1e3, nan, true]\n", "f.toml: a key or a table's name"}, // an assertion of toml++ 3.3
        {"[ ]\n", "f.toml"},
        {"jobs = 1\xef\xbb\xbd\n", "f.toml:1: "}, // these two: undefined in toml++ 3.3 as it comes
        {"y = [1979\xc9\xa5]\n", "f.toml:1: "},
    }};
    for (const auto &[text, says] : cases) {
        const auto source = parse_toml(text, "f.toml");
        ASSERT_FALSE(source) << text;
        EXPECT_EQ(source.error().code(), Errc::InvalidArgument);
        EXPECT_THAT(source.error().text(), HasSubstr(says));
    }
}

TEST(DaemonJson, TakesDockersKeys) {
    const auto source = parse_daemon_json(
        R"({"storage-driver":"overlay2","storage-opts":["overlay2.size=10G"],"data-root":"/d","log-driver":"x"})",
        "d.json");
    ASSERT_TRUE(source);
    EXPECT_EQ(source->driver, "overlay2");
    ASSERT_EQ(source->storage_opts.size(), 1U);
    EXPECT_FALSE(source->root);
    EXPECT_EQ(source->notes.size(), 1U);
    EXPECT_TRUE(parse_daemon_json("", "d.json"));
    for (const char *bad : {"[", "[]", R"({"graph":"/x"})", R"({"storage-driver":3})", R"({"storage-opts":"x"})",
                            R"({"storage-opts":[1]})"})
        EXPECT_FALSE(parse_daemon_json(bad, "d.json")) << bad;
    EXPECT_FALSE(parse_daemon_json(std::string(100'000, '['), "d.json"));
}

Source source_of(std::string name, std::optional<std::string> root, std::optional<std::string> driver,
                 std::vector<StorageOpt> options) {
    Source source;
    source.name = std::move(name);
    source.root = std::move(root);
    source.driver = std::move(driver);
    source.storage_opts = std::move(options);
    return source;
}

TEST(Resolve, StrongestSourceWins) {
    const std::array sources{source_of("flag", std::nullopt, std::nullopt, {{"size=1G", "--storage-opt"}}),
                             source_of("environment", "/env", std::nullopt, {}),
                             source_of("toml", "/toml", "overlay2",
                                       {{"overlay2.size=2G", "t:1", true}, {"overlay2.metacopy=on", "t:2", true}}),
                             source_of("daemon.json", std::nullopt, "vfs", {})};
    const auto settings = resolve(sources, "/default", built);
    ASSERT_TRUE(settings) << settings.error().text();
    EXPECT_EQ(settings->root, "/env");
    EXPECT_EQ(settings->driver, "overlay2");
    EXPECT_EQ(settings->driver_options.at("size"), "1G");
    EXPECT_EQ(settings->driver_options.at("metacopy"), "on");
    EXPECT_EQ(settings->origin.at("root"), "environment");
    EXPECT_EQ(settings->origin.at("driver"), "toml");
    EXPECT_EQ(settings->origin.at("jobs"), "default");
}

TEST(Resolve, RefusesWhatCannotBe) {
    auto refused = [](Source source) {
        const auto settings = resolve(std::array{std::move(source)}, "/default", built);
        return settings ? std::string("accepted") : settings.error().text();
    };
    EXPECT_THAT(refused(source_of("flag", "relative", {}, {})), HasSubstr("absolute"));
    EXPECT_THAT(refused(source_of("flag", {}, "aufs", {})), HasSubstr("flag: driver aufs was removed"));
    EXPECT_THAT(refused(source_of("flag", {}, "vfs", {{"overlay2.size=1G", "--storage-opt"}})),
                HasSubstr("driver vfs is asked for"));
    EXPECT_EQ(refused(source_of("flag", {}, "vfs", {{"overlay2.size=1G", "t:1", true}})), "accepted");
    EXPECT_EQ(refused(source_of("flag", {}, "overlay2", {{"overlay2.hysteresis=3", "--storage-opt"}})), "accepted");
    Source durable;
    durable.durability = "maybe";
    EXPECT_THAT(refused(durable), HasSubstr("full or none"));
    Source jobs;
    jobs.jobs = 100'000;
    EXPECT_THAT(refused(jobs), HasSubstr("jobs"));
}

TEST(ParseCommand, ArrayOrShell) {
    EXPECT_EQ(*parse_command(R"(["a","b c"])"), (std::vector<std::string>{"a", "b c"}));
    EXPECT_EQ(*parse_command("echo hi"), (std::vector<std::string>{"/bin/sh", "-c", "echo hi"}));
    EXPECT_FALSE(parse_command("[1]"));
    EXPECT_FALSE(parse_command("[]"));
    EXPECT_FALSE(parse_command("[\"a\""));
}

TEST(Json, EscapesAndNests) {
    Json json;
    json.object().field("a", 1).field("b", "x\"\\\n\x01").key("c").array().end().key("d").strings({"p", "q"}).end();
    EXPECT_EQ(
        json.text(),
        "{\n  \"a\": 1,\n  \"b\": \"x\\\"\\\\\\n\\u0001\",\n  \"c\": [],\n  \"d\": [\n    \"p\",\n    \"q\"\n  ]\n}\n");
    EXPECT_EQ(json_quote("\xFF"), "\"\xEF\xBF\xBD\"");
    EXPECT_EQ(json_quote("\xED\xA0\x80").size(), 2U + 3 * 3); // a surrogate is not UTF-8
    EXPECT_EQ(json_quote("\xC3\xA4"), "\"\xC3\xA4\"");
    EXPECT_EQ(json_quote("\xC3"), "\"\xEF\xBF\xBD\"");
}

TEST(TableText, AlignsAndDefusesEscapes) {
    Table table({"NAME", ">SIZE"});
    table.add({"a\x1b[31m", "1 B"});
    table.add({"b", "100 KiB"});
    EXPECT_EQ(table.text(), "NAME           SIZE\na\\x1b[31m       1 B\nb           100 KiB\n");
}

} // namespace
} // namespace shale::cli
