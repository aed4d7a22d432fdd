// SPDX-License-Identifier: Apache-2.0
// Reports and the accounting, over facts that are made up.
#include "doctor/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "doctor/space.h"

namespace shale::doctor {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr Check made_up{
    .id = "made-up",
    .title = "A made up check",
    .why = "It matters.",
    .limits = "Always.",
    .remedy = "Do it.",
    .risk = "None.",
    .undo = "Not needed.",
    .run = [](const probe::Facts &) {
        Outcome out;
        out.findings = {{Severity::info, "small", "a little", {}, {}},
                        {Severity::critical, "<b>\x1b[31m", "bad & worse", {"line \"1\""}, {"rm -rf x", "# or"}}};
        out.unable = {"a store"};
        return out;
    }};
constexpr std::array<const Check *, 1> only = {&made_up};

probe::Facts some_facts() {
    probe::Facts facts;
    facts.kernel.hostname = "node-1";
    facts.problems.push_back({"/x", "no permission"});
    return facts;
}

TEST(Report, TheWorstComesFirstAndNothingOfTheHostReachesTheTerminal) {
    const auto diagnosis = diagnose(some_facts(), only);
    EXPECT_EQ(diagnosis.exit_status(), 1);
    const std::string text = report_text(some_facts(), diagnosis, false);
    EXPECT_LT(text.find("CRITICAL"), text.find("INFO"));
    EXPECT_THAT(text, AllOf(HasSubstr("<b>\\x1b[31m"), HasSubstr("    $ rm -rf x\n"), HasSubstr("      # or\n"),
                            HasSubstr("made-up: a store"), HasSubstr("/x: no permission"), Not(HasSubstr("\x1b"))));
    EXPECT_THAT(report_text(some_facts(), diagnosis, true), HasSubstr("\x1b[1;31mCRITICAL"));
}

TEST(Report, ExitStatusFollowsNodeProblemDetector) {
    Diagnosis diagnosis;
    EXPECT_EQ(diagnosis.exit_status(), 0);
    diagnosis.unread = {"something"};
    EXPECT_EQ(diagnosis.exit_status(), 0);
    diagnosis.unable = {{&made_up, "why"}};
    EXPECT_EQ(diagnosis.exit_status(), 2);
    diagnosis.findings = {{&made_up, {Severity::info, "s", "t", {}, {}}}};
    EXPECT_EQ(diagnosis.exit_status(), 2);
    diagnosis.findings = {{&made_up, {Severity::warning, "s", "t", {}, {}}}};
    EXPECT_EQ(diagnosis.exit_status(), 1);
}

TEST(Report, ALineHas80BytesAtMost) {
    Diagnosis diagnosis;
    EXPECT_EQ(report_line(diagnosis), "no problem found");
    diagnosis.findings = {{&made_up, {Severity::critical, std::string(200, 's'), "t", {}, {}}},
                          {&made_up, {Severity::warning, "other", "t", {}, {}}}};
    EXPECT_EQ(report_line(diagnosis).size(), 80U);
    EXPECT_THAT(report_line(diagnosis), testing::StartsWith("made-up (+1): sss"));
}

TEST(Report, JsonHoldsAll) {
    const auto json = nlohmann::json::parse(report_json(some_facts(), diagnose(some_facts(), only)));
    EXPECT_EQ(json["hostname"], "node-1");
    ASSERT_EQ(json["findings"].size(), 2U);
    EXPECT_EQ(json["findings"][0]["severity"], "critical");
    EXPECT_EQ(json["findings"][0]["commands"][0], "rm -rf x");
    EXPECT_EQ(json["findings"][0]["why"], "It matters.");
    EXPECT_EQ(json["unable"][0]["why"], "a store");
    EXPECT_EQ(json["unread"][0], "/x: no permission");
}

TEST(Report, PrometheusHasEveryCheckAlsoAtZero) {
    const std::string text = report_prometheus(some_facts(), Diagnosis());
    for (const Check *check : all_checks())
        EXPECT_THAT(text, HasSubstr("shale_doctor_findings{check=\"" + std::string(check->id) +
                                    "\",severity=\"critical\"} 0\n"));
}

TEST(Report, HtmlIsEscaped) {
    const std::string html = report_html(some_facts(), diagnose(some_facts(), only));
    EXPECT_THAT(html, AllOf(HasSubstr("&lt;b&gt;"), HasSubstr("bad &amp; worse"), Not(HasSubstr("<script")),
                            Not(HasSubstr("\x1b"))));
}

/// A file system of 1,000,000 bytes with a store: two layers, a log, a deleted file.
probe::Facts facts_with_store() {
    probe::Facts facts;
    auto &fs = facts.file_systems.emplace_back();
    fs.target = "/";
    fs.type = "ext4";
    fs.device = "8:1";
    fs.total_bytes = 1'000'000;
    fs.free_bytes = 400'000;
    fs.total_inodes = 1'000;
    fs.free_inodes = 900;
    auto &store = facts.stores.emplace_back();
    store.engine = "docker";
    store.driver = "overlay2";
    store.root = "/var/lib/docker";
    for (const char *id : {"image", "lost"}) {
        auto &layer = store.layers.emplace_back();
        layer.id = id;
        layer.path = store.root + "/overlay2/" + id;
        layer.on_disk = true;
        layer.usage = probe::Usage{.bytes = 100'000, .inodes = 10};
    }
    store.layers[0].recorded = true;
    store.layers[0].used_by = {"image debian:12"};
    store.containers.emplace_back().id = "c";
    store.containers[0].log_path = store.root + "/containers/c/c-json.log";
    store.containers[0].log_bytes = 50'000;
    store.other_bytes["network"] = 1'000;
    auto &deleted = facts.deleted_files.emplace_back();
    deleted.pid = 12;
    deleted.command = "nginx";
    deleted.device = "8:1";
    deleted.bytes = 30'000;
    facts.deleted_files.push_back(deleted); // the same file, open twice
    return facts;
}

const SpaceNode *part(const std::vector<SpaceNode> &parts, std::string_view name) {
    for (const auto &one : parts)
        if (one.name.starts_with(name)) return &one;
    return nullptr;
}

TEST(Space, TheSumIsWhatStatfsSays) {
    const auto facts = facts_with_store();
    const auto spaces = account(facts, {{"/var", 300'000, 40}, {"/usr", 200'000, 30}});
    ASSERT_EQ(spaces.size(), 1U);
    const Space &space = spaces[0];
    EXPECT_EQ(space.used_bytes, 600'000U);
    const auto *store = part(space.parts, "docker");
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(store->bytes, 251'000U);
    EXPECT_EQ(part(store->parts, "without a record")->bytes, 100'000U);
    EXPECT_EQ(part(store->parts, "images")->parts.at(0).name, "image, image debian:12");
    EXPECT_EQ(part(space.parts, "deleted files")->bytes, 30'000U);
    const auto *others = part(space.parts, "other files");
    ASSERT_NE(others, nullptr);
    EXPECT_EQ(part(others->parts, "/var")->bytes, 49'000U) << "without the store";
    EXPECT_EQ(part(others->parts, "/usr")->bytes, 200'000U);
    EXPECT_EQ(space.rest_bytes, 600'000 - 251'000 - 30'000 - 249'000);
    EXPECT_EQ(space.rest_inodes, 100 - 20 - 1 - 50);
}

TEST(Space, SharedExtentsMakeTheRestNegative) {
    auto facts = facts_with_store();
    facts.stores[0].layers[0].usage->bytes = 900'000;
    EXPECT_LT(account(facts).at(0).rest_bytes, 0);
}

TEST(Space, AFileSystemWithoutAStoreIsLeftOut) {
    auto facts = facts_with_store();
    facts.file_systems.emplace_back().target = "/home";
    EXPECT_EQ(account(facts).size(), 1U);
}

TEST(Space, TheMapIsDrawn) {
    const auto facts = facts_with_store();
    const std::string html = report_html(facts, Diagnosis());
    EXPECT_THAT(html, AllOf(HasSubstr("<svg"), HasSubstr("debian:12"), HasSubstr("free: "), Not(HasSubstr("\"nan")),
                            Not(HasSubstr("\"inf"))));
}

} // namespace
} // namespace shale::doctor
