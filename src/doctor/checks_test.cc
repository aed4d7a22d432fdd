// SPDX-License-Identifier: Apache-2.0
// Every check against facts that are written down: tests/golden/doctor/ID/CASE.facts.json in, CASE.json out. With
// SHALE_GOLDEN_UPDATE set what comes out is written there instead: look at the diff.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "doctor/check.h"
#include "doctor/report.h"
#include "probe/facts_json.h"
#include "sys/fs.h"

namespace shale::doctor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const fs::path source = SHALE_SOURCE_DIR;
const fs::path golden = source / "tests/golden/doctor";

std::string read(const fs::path &path) {
    auto text = sys::read_file(AT_FDCWD, path.c_str(), 64U << 20U);
    EXPECT_TRUE(text) << text.error().text();
    return text.value_or("");
}

std::string text_of(const Outcome &outcome) {
    Json out{{"findings", Json::array()}, {"unable", outcome.unable}};
    for (const Finding &finding : outcome.findings)
        out["findings"].push_back({{"severity", name_of(finding.severity)},
                                   {"subject", finding.subject},
                                   {"summary", finding.summary},
                                   {"evidence", finding.evidence},
                                   {"commands", finding.commands}});
    return out.dump(2) + "\n";
}

struct Case {
    const Check *check;
    fs::path facts;
    [[nodiscard]] fs::path expected() const {
        fs::path out = facts;
        return out.replace_extension().replace_extension(".json");
    }
};

std::vector<Case> cases_of(const Check &check) {
    std::vector<Case> out;
    std::error_code error;
    for (const auto &entry : fs::directory_iterator(golden / check.id, error))
        if (entry.path().string().ends_with(".facts.json")) out.push_back({&check, entry.path()});
    std::ranges::sort(out, {}, &Case::facts);
    return out;
}

class GoldenTest : public testing::TestWithParam<const Check *> {};

TEST_P(GoldenTest, SaysWhatIsWrittenDown) {
    const Check &check = *GetParam();
    bool spoke = false, was_silent = false;
    for (const Case &one : cases_of(check)) {
        SCOPED_TRACE(one.facts.string());
        const auto facts = probe::facts_from_json(read(one.facts));
        ASSERT_TRUE(facts) << facts.error().text();
        const Outcome outcome = check.run(*facts);
        (outcome.findings.empty() ? was_silent : spoke) = true;
        for (const Finding &finding : outcome.findings) {
            EXPECT_LE(finding.evidence.size(), max_evidence);
            EXPECT_FALSE(finding.subject.empty());
            EXPECT_FALSE(finding.summary.empty());
        }
        if (std::getenv("SHALE_GOLDEN_UPDATE") != nullptr)
            std::ofstream(one.expected()) << text_of(outcome);
        else
            EXPECT_EQ(text_of(outcome), Json::parse(read(one.expected())).dump(2) + "\n");
    }
    EXPECT_TRUE(spoke) << "there is no case in which it finds something";
    EXPECT_TRUE(was_silent) << "there is no case in which it finds nothing";
}

/// It may say that it has nothing to look at.
TEST_P(GoldenTest, FindsNothingInNothing) {
    EXPECT_TRUE(GetParam()->run({}).findings.empty());
}

TEST_P(GoldenTest, HasItsPage) {
    const fs::path page = source / "docs/checks" / (std::string(GetParam()->id) + ".md");
    if (std::getenv("SHALE_GOLDEN_UPDATE") != nullptr)
        std::ofstream(page) << check_page(*GetParam());
    else
        EXPECT_EQ(read(page), check_page(*GetParam()));
    EXPECT_FALSE(GetParam()->title.empty());
    EXPECT_FALSE(GetParam()->why.empty());
    EXPECT_FALSE(GetParam()->limits.empty());
    EXPECT_FALSE(GetParam()->remedy.empty());
}

std::string name_of_case(const testing::TestParamInfo<const Check *> &info) {
    std::string out(info.param->id);
    std::ranges::replace(out, '-', '_');
    return out;
}

INSTANTIATE_TEST_SUITE_P(Checks, GoldenTest, testing::ValuesIn(all_checks().begin(), all_checks().end()), name_of_case);

TEST(AllChecks, AreInTheOrderOfTheirIdsAndFound) {
    EXPECT_TRUE(std::ranges::is_sorted(all_checks(), std::ranges::less{}, &Check::id));
    for (const Check *check : all_checks())
        EXPECT_EQ(find_check(check->id), check);
    EXPECT_EQ(find_check("no-such-check"), nullptr);
    EXPECT_EQ(find_check(""), nullptr);
    EXPECT_EQ(find_check("zzz"), nullptr);
}

/// No golden case of a check that is not there any more, no page either.
TEST(AllChecks, NothingIsLeftOfOthers) {
    for (const auto &entry : fs::directory_iterator(golden))
        EXPECT_NE(find_check(entry.path().filename().string()), nullptr) << entry.path();
    for (const auto &entry : fs::directory_iterator(source / "docs/checks"))
        if (entry.path().stem() != "README") {
            EXPECT_NE(find_check(entry.path().stem().string()), nullptr) << entry.path();
        }
}

} // namespace
} // namespace shale::doctor
