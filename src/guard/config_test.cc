// SPDX-License-Identifier: Apache-2.0
#include "guard/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "sys/fs.h"

namespace shale::guard {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

constexpr uint64_t gib = uint64_t{1} << 30U;

Config parsed(std::string_view text) {
    auto config = parse_config(text, "shale.toml");
    EXPECT_TRUE(config) << text << ": " << config.error().text();
    return config ? *config : Config();
}
std::string refusal(std::string_view text) {
    const auto config = parse_config(text, "shale.toml");
    if (config) return "accepted";
    EXPECT_EQ(config.error().code(), Errc::InvalidArgument);
    return config.error().text();
}

TEST(GuardConfig, WithoutATableTheDefaults) {
    EXPECT_EQ(parsed(""), Config());
    EXPECT_EQ(parsed("root = '/x'\n[shaled]\nmetrics = 'x'\n"), Config());
    EXPECT_EQ(parsed("[guard]\n"), Config());
    const Config config;
    EXPECT_TRUE(config.enabled);
    EXPECT_FALSE(config.dry_run);
    EXPECT_EQ(config.of(Kind::bytes).marks.min_free, 10 * gib);
    EXPECT_EQ(config.of(Kind::bytes).high, 90U);
    EXPECT_EQ(config.of(Kind::inodes).marks.hysteresis, 5U);
}

TEST(GuardConfig, EveryOptionIsRead) {
    const Config config = parsed(R"(
[guard]
enabled = false
dry_run = true
interval_s = 30
warn_within_s = 0
event_log_size = "1M"
throttle_write_bps = "64K"
evict_grace_s = 0
extend_percent = "50%"
extend_max = "1T"
[guard.bytes]
enabled = true
high = "88%"
hysteresis = 4
min_space = "20G"
min_reclaim = 1000
cool_down_s = 60
back_off_s = 5
back_off_limit_s = 50
patience_s = 7
tiers = { gc = 89, refuse_creates = true, throttle = false, evict = [99, 97, 99] }
[guard.inodes]
min_reclaim = 5
[guard.thin_data]
enabled = false
tiers.extend = [70, 80]
)");
    EXPECT_FALSE(config.enabled);
    EXPECT_TRUE(config.dry_run);
    EXPECT_EQ(config.interval, std::chrono::seconds(30));
    EXPECT_EQ(config.warn_within, Duration::zero());
    EXPECT_EQ(config.event_log_bytes, 1U << 20U);
    EXPECT_EQ(config.throttle_write_bps, 1U << 16U);
    EXPECT_EQ(config.evict_grace, Duration::zero());
    EXPECT_EQ(config.extend_percent, 50U);
    EXPECT_EQ(config.extend_max, uint64_t{1} << 40U);
    const KindConfig &bytes = config.of(Kind::bytes);
    EXPECT_EQ(bytes.high, 88U);
    EXPECT_EQ(bytes.marks.hysteresis, 4U);
    EXPECT_EQ(bytes.marks.min_free, 20 * gib);
    EXPECT_EQ(bytes.marks.min_reclaim, 1000U);
    EXPECT_EQ(bytes.marks.cool_down, std::chrono::seconds(60));
    EXPECT_EQ(bytes.marks.back_off, std::chrono::seconds(5));
    EXPECT_EQ(bytes.marks.back_off_limit, std::chrono::seconds(50));
    EXPECT_EQ(bytes.marks.patience, std::chrono::seconds(7));
    EXPECT_THAT(plan(config, Kind::bytes).steps,
                ElementsAre(Step{88, Tier::log}, Step{89, Tier::gc}, Step{95, Tier::refuse_creates},
                            Step{97, Tier::evict}, Step{99, Tier::evict}));
    EXPECT_EQ(config.of(Kind::inodes).marks.min_reclaim, 5U);
    EXPECT_FALSE(config.of(Kind::thin_data).enabled);
    EXPECT_THAT(config.of(Kind::thin_data).tiers[std::to_underlying(Tier::extend)].marks, ElementsAre(70, 80));
}

TEST(GuardConfig, FolkloresNames) {
    const Config wanted = parsed("[guard.bytes]\nmin_space = '12G'\nhysteresis = 6\n[guard.inodes]\nhysteresis = 6\n");
    EXPECT_EQ(parsed("[guard]\n\"overlay2.min_space\" = '12G'\n'overlay2.hysteresis' = '6%'\n"), wanted);
    EXPECT_EQ(parsed("[guard]\noverlay2.min_space = '12GB'\noverlay2.hysteresis = 6\n"), wanted);
    Config config;
    EXPECT_TRUE(take_folklore(config, "overlay2.min_space", "12884901888"));
    EXPECT_TRUE(take_folklore(config, "hysteresis", "6%"));
    EXPECT_EQ(config, wanted);
    EXPECT_THAT(take_folklore(config, "min_space", "5%").error().text(), HasSubstr("[guard.bytes] high"));
    EXPECT_THAT(take_folklore(config, "min_spce", "5G").error().text(), HasSubstr("did you mean min_space?"));
    EXPECT_THAT(take_folklore(config, "hysteresis", "-1").error().text(), HasSubstr("from 0 to 50"));
    EXPECT_EQ(config, wanted) << "what is refused changes nothing";
    EXPECT_THAT(refusal("[guard]\noverlay2 = 3\n"), HasSubstr("min_space and hysteresis"));
    EXPECT_THAT(refusal("[guard]\n\"overlay2.size\" = '3G'\n"), HasSubstr("unknown key \"size\""));
}

TEST(GuardConfig, ErrorsNameTheKeyAndTheNearest) {
    struct Case {
        std::string_view text, wanted;
    };
    for (const auto &[text, wanted] : {
             Case{"[guard]\nintervall_s = 1\n", "unknown key \"intervall_s\" in [guard]; did you mean interval_s?"},
             Case{"[guard.byte]\nhigh = 1\n", "unknown key \"byte\" in [guard]; did you mean bytes?"},
             Case{"[guard.bytes]\nhysterisis = 1\n",
                  "unknown key \"hysterisis\" in [guard.bytes]; did you mean hysteresis?"},
             Case{"[guard.bytes]\nzzzzzzzzzz = 1\n", "there are: enabled, high"},
             Case{"[guard.inodes]\nmin_space = '1G'\n", "unknown key \"min_space\" in [guard.inodes]"},
             Case{"[guard.bytes]\ntiers = { evikt = 90 }\n",
                  "unknown key \"evikt\" in [guard.bytes.tiers]; did you mean evict?"},
             Case{"guard = 7\n", "guard must be a table [guard]"},
             Case{"[guard]\nbytes = 7\n", "guard.bytes must be a table [guard.bytes]"},
             Case{"[guard]\nenabled = 'yes'\n", "guard.enabled: must be true or false, and is \"yes\""},
             Case{"[guard]\ninterval_s = 0\n", "guard.interval_s: must be a whole number from 1 to 3600, and is 0"},
             Case{"[guard]\ninterval_s = -5\n", "and is -5"},
             Case{"[guard]\ninterval_s = 1.5\n", "and is 1.5"},
             Case{"[guard]\nevent_log_size = '1K'\n", "must be a size from \"64K\" to \"1G\", and is \"1K\""},
             Case{"[guard.bytes]\nhigh = 101\n", "guard.bytes.high: must be a whole number of percent from 1 to 100"},
             Case{"[guard.bytes]\nhigh = '90 %'\n", "and is \"90 %\""},
             Case{"[guard.bytes]\nhigh = ''\n", "and is \"\""},
             Case{"[guard.bytes]\nmin_space = 'lots'\n", "guard.bytes.min_space: must be a size like \"10G\""},
             Case{"[guard.bytes]\nmin_space = -1\n", "and is -1"},
             Case{"[guard.inodes]\nmin_reclaim = '1G'\n", "must be a whole number of 0 or more, and is \"1G\""},
             Case{"[guard.bytes]\ntiers = 'all'\n", "guard.bytes.tiers: must be a table of tiers"},
             Case{"[guard.bytes]\ntiers = { gc = {} }\n", "guard.bytes.tiers: gc: must be true, false, a mark"},
             Case{"[guard.bytes]\ntiers = { gc = [] }\n", "1 to 8 marks, and has 0"},
             Case{"[guard.bytes]\ntiers = { gc = [90, 0] }\n", "from 1 to 100, and is 0"},
             Case{"[guard.bytes]\ntiers = { evict = 50 }\n",
                  "guard.bytes.tiers.evict: evict begins at 50 %, before the milder gc at 90 %; give evict a mark of "
                  "90 or more (harsher-first)"},
             Case{"[guard\n", "shale.toml: line 1: "},
         })
        EXPECT_THAT(refusal(text), HasSubstr(wanted)) << text;
    EXPECT_THAT(refusal("[guard]\nx = '" + std::string(1000, 'y') + "'\n"), testing::SizeIs(testing::Lt(600U)));
    EXPECT_THAT(refusal("[guard]\nenabled = \"a\\u001bb\"\n"), testing::Not(HasSubstr("\x1b")));
}

/// The lines that set something, without their "#".
std::string uncommented(const std::string &example) {
    std::istringstream lines(example);
    std::string out, line;
    while (std::getline(lines, line))
        if (line.starts_with('#') && !line.starts_with("# ")) out += line.substr(1) + "\n";
    return out;
}

TEST(GuardConfig, TheExampleSetsTheDefaults) {
    const std::string example = example_toml();
    Config config = parsed(uncommented(example));
    for (const auto &[kind, name] : kind_names) {
        EXPECT_EQ(plan(config, kind), plan(Config(), kind)) << name;
        config.of(kind).tiers = {}; // written down, not just by default
    }
    EXPECT_EQ(config, Config());
    std::istringstream lines(example);
    for (std::string line; std::getline(lines, line);) {
        EXPECT_TRUE(line.empty() || line.starts_with('#')) << "it sets nothing: " << line;
        EXPECT_LE(line.size(), 120U) << line;
    }
}

TEST(GuardConfig, EveryOptionIsDocumentedAndInTheExample) {
    const std::string example = example_toml();
    auto all = options();
    for (const auto &[kind, name] : kind_names) {
        EXPECT_THAT(example, HasSubstr("#[guard." + std::string(name) + "]\n"));
        for (const Option &option : options(kind))
            all.push_back(option);
    }
    std::set<std::string_view> keys;
    for (const Option &option : all) {
        keys.insert(option.key);
        EXPECT_THAT(option.text, EndsWith(".")) << option.key;
        EXPECT_FALSE(option.unit.empty()) << option.key;
        EXPECT_FALSE(option.fallback.empty()) << option.key;
        EXPECT_THAT(example, HasSubstr("#" + std::string(option.key) + " = ")) << option.key;
    }
    EXPECT_EQ(keys.size(), 18U);
    EXPECT_THAT(example, AllOf(StartsWith("#[guard]\n"), HasSubstr("#min_space = \"10G\"\n"),
                               HasSubstr("#tiers = { log = 90, gc = 90 }\n"), HasSubstr("evict = 98")));
}

TEST(GuardConfig, EveryDefaultIsReadAsItself) {
    // Alone, so that none hides behind another.
    for (const Option &option : options())
        EXPECT_EQ(parsed("[guard]\n" + std::string(option.key) + " = " + option.fallback + "\n"), Config())
            << option.key;
    for (const auto &[kind, name] : kind_names)
        for (const Option &option : options(kind)) {
            Config config = parsed("[guard." + std::string(name) + "]\n" + std::string(option.key) + " = " +
                                   option.fallback + "\n");
            EXPECT_EQ(plan(config, kind), plan(Config(), kind)) << name << "." << option.key;
            config.of(kind).tiers = {};
            EXPECT_EQ(config, Config()) << name << "." << option.key;
        }
}

TEST(GuardConfig, ThePackagedFileSaysTheSame) {
    const auto text = sys::read_file(AT_FDCWD, SHALE_SOURCE_DIR "/packaging/shale.toml", size_t{1} << 20U);
    ASSERT_TRUE(text);
    EXPECT_TRUE(text->ends_with(example_toml())) << "its end is not example_toml(), which is:\n" << example_toml();
}

} // namespace
} // namespace shale::guard
