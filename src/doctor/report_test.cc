// SPDX-License-Identifier: Apache-2.0
// Reports and the accounting, over facts that are made up.
#include "doctor/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include <fmt/format.h>

#include "doctor/checks/common.h"
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

TEST(Report, LinesHangBelowTheirFirst) {
    Diagnosis diagnosis;
    std::string words = "word";
    for (int i = 0; i < 60; ++i)
        words += " word";
    diagnosis.findings = {{&made_up, {Severity::critical, "subject", words, {}, {}}}};
    diagnosis.unable = {{&made_up, words}};
    const std::string text = report_text(some_facts(), diagnosis, false);
    EXPECT_THAT(text, AllOf(HasSubstr("\n  word word"), HasSubstr("\n    word word"),
                            HasSubstr("\n  made-up: word word"), HasSubstr("\n  why: It matters.\n")));
    size_t longest = 0;
    for (size_t begin = 0, end = 0; begin < text.size(); begin = end + 1) {
        end = std::min(text.find('\n', begin), text.size());
        longest = std::max(longest, end - begin);
    }
    EXPECT_LE(longest, 110U);
    EXPECT_GT(longest, 100U);
}

TEST(Report, ALineFeedOfTheHostMakesNoLine) {
    auto facts = some_facts();
    facts.kernel.hostname = "node\nforged";
    facts.stores.emplace_back().root = "/var\nforged";
    Diagnosis diagnosis;
    diagnosis.findings = {
        {&made_up, {Severity::critical, "subject\nforged", "summary\nforged", {"line\nforged"}, {"rm x\nforged"}}}};
    diagnosis.unable = {{&made_up, "unable\nforged"}};
    diagnosis.unread = {"unread\nforged"};
    const std::string text = report_text(facts, diagnosis, false);
    for (const char *whose : {"node", "/var", "subject", "summary", "line", "rm x", "unable", "unread"})
        EXPECT_THAT(text, HasSubstr(std::string(whose) + "\\x0aforged"));
    EXPECT_THAT(text, Not(HasSubstr("\nforged")));
    EXPECT_THAT(report_html(facts, diagnosis), Not(HasSubstr("\nforged")));
    EXPECT_THAT(report_line(diagnosis), Not(HasSubstr("\n")));
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

TEST(Report, ALineIsNotCutWithinACharacter) {
    Diagnosis diagnosis;
    for (size_t shift = 0; shift < 4; ++shift) {
        std::string subject(shift, 's');
        for (int i = 0; i < 30; ++i)
            subject += "\xF0\x9F\x90\x8B"; // U+1F40B
        diagnosis.findings = {{&made_up, {Severity::critical, subject, "t", {}, {}}}};
        const std::string line = report_line(diagnosis);
        EXPECT_LE(line.size(), 80U);
        EXPECT_GT(line.size(), 76U);
        EXPECT_THAT(line, testing::EndsWith("\xF0\x9F\x90\x8B...")) << shift;
    }
    diagnosis.findings = {{&made_up, {Severity::critical, std::string(200, '\x90'), "t", {}, {}}}};
    EXPECT_EQ(report_line(diagnosis).size(), 80U) << "no UTF-8 at all";
}

TEST(Report, FiguresThatMakeNoSenseStayNumbers) {
    constexpr uint64_t most = std::numeric_limits<uint64_t>::max();
    EXPECT_EQ(checks::percent_text(most, 1), "100000000000000000.0 %");
    EXPECT_EQ(checks::percent_text(most, most), "100.0 %");
    EXPECT_EQ(checks::percent_text(most, 0), "0.0 %");
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

TEST(Space, NoTreeHasTheSubvolumesInIt) {
    auto facts = facts_with_store();
    facts.file_systems[0].type = "btrfs";
    auto &store = facts.stores[0];
    store.driver = "btrfs";
    for (auto &layer : store.layers)
        layer.path = fmt::format("{}/btrfs/subvolumes/{}", store.root, layer.id);
    auto spaces = account(facts, {{"/var", 100'000, 40}});
    ASSERT_EQ(spaces.size(), 1U);
    EXPECT_EQ(part(spaces[0].parts, "docker")->bytes, 251'000U);
    const auto *others = part(spaces[0].parts, "other files");
    ASSERT_NE(others, nullptr);
    EXPECT_EQ(part(others->parts, "/var")->bytes, 49'000U) << "without the log and the network's files";
    EXPECT_EQ(part(others->parts, "/var")->inodes, 40U);

    spaces = account(facts, {{"/var", 100'000, 40, {"/var/lib/docker"}}}); // all of it is in one
    EXPECT_EQ(part(part(spaces.at(0).parts, "other files")->parts, "/var")->bytes, 100'000U);
}

/// What lies beside the driver's directory is in none.
TEST(Space, OnlyTheDriversLayersAreSubvolumes) {
    auto facts = facts_with_store();
    auto &store = facts.stores[0];
    store.driver = "btrfs";
    store.layers[0].path = store.root + "/tmp/docker-import-1"; // counted from above
    store.layers[1].path = store.root + "/btrfs/subvolumes/lost";
    store.layers[1].kind = "ingest"; // whatever it is taken for
    const auto var = [&] {
        return part(part(account(facts, {{"/var", 200'000, 40}}).at(0).parts, "other files")->parts, "/var")->bytes;
    };
    EXPECT_EQ(var(), 49'000U);
    store.engine = "buildkit";
    EXPECT_EQ(var(), 0U);
    store.layers[1].path = store.root + "/runc-btrfs/snapshots/snapshots/1";
    EXPECT_EQ(var(), 49'000U);
    store.engine = "containerd";
    store.layers[0].path = "/var/lib/elsewhere/1";
    store.layers[1].path = store.root + "/snapshots/1";
    EXPECT_EQ(var(), 49'000U);
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

TEST(Space, APartTooSmallForTheMapIsNotDrawn) {
    auto facts = facts_with_store();
    constexpr uint64_t huge = uint64_t{1} << 63U; // with it, the other has no width, to the last bit
    facts.file_systems[0].total_bytes = huge + 1;
    facts.file_systems[0].free_bytes = 1;
    facts.deleted_files.clear();
    auto &store = facts.stores[0];
    store.layers.resize(1);
    store.layers[0].usage->bytes = huge;
    store.containers.clear();
    store.other_bytes.clear();
    const std::string html = report_html(facts, Diagnosis());
    EXPECT_THAT(html, AllOf(HasSubstr("debian:12"), Not(HasSubstr("\"nan")), Not(HasSubstr("\"-nan")),
                            Not(HasSubstr("\"inf")), Not(HasSubstr("free: "))));
}

TEST(Space, TheRestOfFiguresThatMakeNoSenseIsANumber) {
    auto facts = facts_with_store();
    facts.file_systems[0].total_bytes = std::numeric_limits<uint64_t>::max();
    facts.file_systems[0].free_bytes = 0;
    EXPECT_EQ(account(facts).at(0).rest_bytes, std::numeric_limits<int64_t>::max());
    facts.file_systems[0].total_bytes = 0;
    facts.stores[0].layers[0].usage->bytes = std::numeric_limits<uint64_t>::max() - 1'000'000;
    EXPECT_EQ(account(facts).at(0).rest_bytes, -std::numeric_limits<int64_t>::max());
}

/// As docker buildx makes it: BuildKit's root is a volume of Docker.
TEST(Space, AStoreInAVolumeIsCountedOnce) {
    auto facts = facts_with_store();
    const std::string data = "/var/lib/docker/volumes/b/_data";
    auto &inner = facts.stores.emplace_back();
    inner.engine = "buildkit";
    inner.driver = "overlayfs";
    inner.root = data;
    auto &layer = inner.layers.emplace_back();
    layer.id = "1";
    layer.path = data + "/runc-overlayfs/snapshots/snapshots/1";
    layer.on_disk = layer.recorded = true;
    layer.usage = probe::Usage{.bytes = 60'000, .inodes = 6};
    auto &volumes = facts.stores[0].volumes;
    const auto add = [&](const char *name, const std::string &path, uint64_t bytes, uint64_t inodes) {
        auto &volume = volumes.emplace_back();
        volume.name = name;
        volume.path = path;
        volume.usage = probe::Usage{.bytes = bytes, .inodes = inodes};
    };
    add("b", data, 70'000, 9);
    add("in-it", data + "/x", 4'000, 1);
    add("bc", data + "c", 5'000, 1);
    facts.stores[1].volumes.push_back(volumes.back()); // another reader's, too

    const auto spaces = account(facts, {{"/var", 400'000, 60}});
    ASSERT_EQ(spaces.size(), 1U);
    const auto &parts = spaces[0].parts;
    const auto *docker = part(parts, "docker");
    ASSERT_NE(docker, nullptr);
    EXPECT_EQ(docker->bytes, 251'000U + 10'000 + 5'000);
    const auto *named = part(docker->parts, "volumes");
    ASSERT_NE(named, nullptr);
    EXPECT_EQ(named->inodes, 4U);
    for (const auto &volume : named->parts)
        EXPECT_EQ(volume.bytes, volume.name == "b" ? 6'000U : volume.name == "bc" ? 5'000U : 4'000U) << volume.name;
    ASSERT_NE(part(parts, "buildkit"), nullptr);
    EXPECT_EQ(part(parts, "buildkit")->bytes, 60'000U);
    EXPECT_EQ(part(parts, "other files")->bytes, 400'000U - 251'000 - 70'000 - 5'000);
}

} // namespace
} // namespace shale::doctor
