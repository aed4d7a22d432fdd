// SPDX-License-Identifier: Apache-2.0
#include "lab/account.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include "lab/findings.h"
#include "lab/report.h"
#include "lab/sandbox.h"
#include "lab/story.h"
#include "lab/world.h"

namespace shale::lab {
namespace {

Account good() {
    Account out;
    out.id = "inode-leak";
    out.title = "Inodes are in use";
    out.kernel = "6.1";
    out.took_ms = 1500;
    take(out, {Step{Phase::reproduce, "$ df -i", {"/dev/loop0 <full>"}, {}}, {}});
    take(out, {Step{Phase::verify, "figures", {}, {{"what", "how many"}, {"inodes", "3"}}}, {}});
    for (const auto question : questions)
        take(out, {{}, std::pair{question, Answer{true, "3 of 4"}}});
    return out;
}

TEST(Account, RoundTrips) {
    Account failed = good();
    failed.error = "its process died";
    failed.answers[1].reset();
    Account skipped;
    skipped.id = "zfs";
    skipped.title = "t";
    skipped.kernel = "6.1";
    skipped.skipped = "this kernel has no ZFS";
    const std::string text = to_json({good(), failed, skipped});
    const auto again = accounts_from_json(text);
    ASSERT_TRUE(again) << again.error().text();
    EXPECT_EQ(to_json(*again), text);
    EXPECT_TRUE(is_good((*again)[0]));
    EXPECT_FALSE(is_good((*again)[1]));
    EXPECT_FALSE(is_good((*again)[2]));
    EXPECT_EQ((*again)[0].steps[1].rows[1][1], "3");
    EXPECT_EQ((*again)[2].skipped, "this kernel has no ZFS");
}

TEST(Account, ANoIsNotGood) {
    Account account = good();
    take(account, {{}, std::pair{Question::healed, Answer{false, ""}}});
    EXPECT_FALSE(is_good(account));
}

TEST(Account, NewsRoundTrips) {
    const News step{Step{Phase::heal, "bytes \xff that are no text", {"a", ""}, {}}, {}};
    const auto line = to_line(step);
    EXPECT_EQ(line.find('\n'), std::string::npos);
    const auto again = news_from_line(line);
    ASSERT_TRUE(again) << again.error().text();
    EXPECT_EQ(again->step->phase, Phase::heal);
    EXPECT_EQ(again->step->lines, (std::vector<std::string>{"a", ""}));
    const auto answer = news_from_line(to_line({{}, std::pair{Question::detected, Answer{true, "b"}}}));
    ASSERT_TRUE(answer && answer->answer);
    EXPECT_EQ(answer->answer->first, Question::detected);
}

TEST(Account, RefusesWhatIsNone) {
    for (
        const auto *text :
        {"", "{", "[]", "{}", R"({"version":1})", R"({"version":2,"scenarios":[]})",
         R"({"version":1,"scenarios":[{}]})", R"({"version":1,"scenarios":[{"id":1,"title":"t","kernel":"k"}]})",
         R"({"version":1,"scenarios":[{"id":"i","title":"t","kernel":"k","steps":[{"phase":"nap","text":"t"}]}]})",
         R"({"version":1,"scenarios":[{"id":"i","title":"t","kernel":"k","steps":[{"phase":"heal","text":"t","rows":[["a"],["b","c"]]}]}]})",
         R"({"version":1,"scenarios":[{"id":"i","title":"t","kernel":"k","healed":{"yes":1,"because":"b"}}]})"}) {
        const auto read = accounts_from_json(text);
        ASSERT_FALSE(read) << text;
        EXPECT_EQ(read.error().code(), Errc::InvalidArgument) << text;
    }
    EXPECT_FALSE(accounts_from_json(std::string(100'000, '[')));
    EXPECT_FALSE(news_from_line(R"({"answer":{"of":"nothing","yes":true,"because":""}})"));
}

TEST(Report, EscapesWhatCommandsSaid) {
    Account account = good();
    account.title = "<script>alert(1)</script>";
    account.steps[0].text = "\"quoted\" & \x1b[31m";
    const std::string page = report_html({account});
    EXPECT_EQ(page.find("<script>"), std::string::npos);
    EXPECT_NE(page.find("&lt;script&gt;"), std::string::npos);
    EXPECT_NE(page.find("&quot;quoted&quot; &amp; \\x1b[31m"), std::string::npos);
    EXPECT_NE(page.find("/dev/loop0 &lt;full&gt;"), std::string::npos);
    EXPECT_NE(page.find("1 scenarios: 1 reproduced, detected and healed, 0 not, 0 not run."), std::string::npos);
}

TEST(Story, TellsInOrderAndBoundsWhatCommandsSaid) {
    std::vector<Step> steps;
    Story story([&](const News &news) {
        if (news.step) steps.push_back(*news.step);
    });
    story.phase(Phase::detect);
    story.show(Ran{"shale check", 1, "a\nb\nc\n", "broken\n"}, 2);
    ASSERT_EQ(steps.size(), 1U);
    EXPECT_EQ(steps[0].phase, Phase::detect);
    EXPECT_EQ(steps[0].text, "$ shale check");
    EXPECT_EQ(steps[0].lines, (std::vector<std::string>{"... (1 lines)", "b", "c", "broken", "(exit status 1)"}));
}

TEST(Findings, AreFoundByWhatTheySay) {
    const Ran doctor{
        "shale doctor --json", 1,
        R"({"findings":[{"check":"inodes-low","severity":"critical","subject":"/mnt","summary":"s","evidence":["e 17"],)"
        R"("commands":[]}]})",
        ""};
    const auto findings = findings_of(doctor);
    ASSERT_TRUE(findings) << findings.error().text();
    EXPECT_TRUE(find(*findings, "inodes-low", "17"));
    EXPECT_TRUE(find(*findings, "inodes-low"));
    EXPECT_FALSE(find(*findings, "inodes-low", "18"));
    EXPECT_FALSE(find(*findings, "bytes-low"));
    EXPECT_FALSE(findings_of(Ran{"shale doctor --json", 2, "", "no"}));
}

TEST(Scenarios, AreSortedAndWhole) {
    std::string_view before;
    for (const auto *scenario : all_scenarios()) {
        EXPECT_LT(before, scenario->id);
        before = scenario->id;
        EXPECT_FALSE(scenario->title.empty() || scenario->about.empty()) << scenario->id;
        EXPECT_EQ(find_scenario(scenario->id), scenario);
    }
    EXPECT_EQ(find_scenario("nothing"), nullptr);
}

// What a sandbox leaves behind is tried by tests/integration/095-lab, which kills it.
const Scenario tells{"tells", "t", "a", lacks_nothing, [](World &world, Story &story) -> Status {
                         TRY(write_file(world / "file", "x"));
                         story.say(TRY(read_whole(world / "file")));
                         story.answer(Question::healed, true, "b");
                         return fail(Errc::Internal, "two\nlines");
                     }};
const Scenario dies{"dies", "t", "a", lacks_nothing, [](World &, Story &) -> Status { ::_exit(3); }};
const Scenario stays{"stays", "t", "a", lacks_nothing, [](World &, Story &) -> Status {
                         for (;;)
                             ::pause();
                     }};
const Scenario cannot{"cannot", "t", "a", [] { return std::string("no such kernel"); },
                      [](World &, Story &) -> Status { return {}; }};

TEST(Sandbox, TellsWhatHappened) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root (namespaces)";
    SandboxOptions options;
    const Account told = run_in_sandbox(tells, options);
    ASSERT_EQ(told.steps.size(), 1U) << told.error;
    EXPECT_EQ(told.steps[0].text, "x");
    EXPECT_TRUE(told.answer(Question::healed)->yes);
    EXPECT_EQ(told.error, "two lines");
    EXPECT_FALSE(is_good(told));
    EXPECT_NE(::access("/mnt/file", F_OK), 0);
    EXPECT_EQ(run_in_sandbox(dies, options).error, "its process died");
    options.limit = std::chrono::seconds(1);
    EXPECT_EQ(run_in_sandbox(stays, options).error, "not done after 1 s, and ended");
    EXPECT_EQ(run_in_sandbox(cannot, options).skipped, "no such kernel");
}

} // namespace
} // namespace shale::lab
