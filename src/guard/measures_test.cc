// SPDX-License-Identifier: Apache-2.0
#include "guard/measures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "guard/test_dir.h"
#include "sys/seam.h"

namespace shale::guard {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

Measure example(const std::string &container = "abc") {
    Measure out;
    out.tier = Tier::throttle;
    out.kind = Kind::btrfs_qgroup;
    out.subject = "/mnt:0/257";
    out.target = "/sys/fs/cgroup/system.slice/" + container + "/io.max";
    out.key = "8:0";
    out.old_value = "8:0 rbps=max wbps=max riops=max wiops=max\n";
    out.new_value = "8:0 wbps=1048576";
    out.time = Time(Duration(1'795'497'374'123));
    return out;
}
Measures loaded(const TestDir &dir) {
    auto out = Measures::load(dir.fd());
    EXPECT_TRUE(out) << out.error().text();
    if (!out) std::abort();
    return std::move(*out);
}
std::vector<std::string> targets(const Measures &measures) {
    std::vector<std::string> out;
    for (const Measure &measure : measures.active())
        out.push_back(measure.target.substr(28, measure.target.find('/', 28) - 28));
    return out;
}

TEST(Measures, StandInTheFileUntilTheyAreUndone) {
    const TestDir dir;
    Measures measures = loaded(dir);
    EXPECT_THAT(measures.active(), IsEmpty());
    EXPECT_FALSE(dir.has("active.json"));
    Measure wanted = example();
    const auto id = measures.add(wanted);
    ASSERT_TRUE(id) << id.error().text();
    wanted.id = *id;
    EXPECT_THAT(measures.active(), ElementsAre(wanted));
    EXPECT_THAT(loaded(dir).active(), ElementsAre(wanted)) << "what a process that is started anew finds";
    ASSERT_TRUE(measures.add(example("def")));
    ASSERT_TRUE(measures.remove(*id));
    EXPECT_THAT(targets(loaded(dir)), ElementsAre("def"));
    EXPECT_EQ(measures.remove(*id).error().code(), Errc::NotFound);
    ASSERT_TRUE(measures.remove(measures.active()[0].id));
    EXPECT_THAT(loaded(dir).active(), IsEmpty());
    EXPECT_FALSE(dir.has("active.json"));
}

TEST(Measures, TheFileIsADocumentWithALineForEach) {
    const TestDir dir;
    Measures measures = loaded(dir);
    ASSERT_TRUE(measures.add(example()));
    ASSERT_TRUE(measures.add(example("def")));
    const std::string text = dir.read("active.json");
    const auto json = nlohmann::json::parse(text, nullptr, false);
    ASSERT_FALSE(json.is_discarded()) << text;
    EXPECT_THAT(json["measures"], SizeIs(2));
    EXPECT_EQ(std::ranges::count(text, '\n'), 4);
    struct stat st{};
    ASSERT_EQ(::stat(dir.file("active.json").c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 07777U, 0600U);
}

TEST(Measures, IdsAreNotUsedAgain) {
    const TestDir dir;
    Measures measures = loaded(dir);
    const auto first = measures.add(example("a")), second = measures.add(example("b"));
    ASSERT_TRUE(first && second);
    ASSERT_TRUE(measures.remove(*first));
    Measures again = loaded(dir);
    const auto third = again.add(example("c"));
    ASSERT_TRUE(third);
    EXPECT_GT(*third, *second);
    EXPECT_THAT(targets(loaded(dir)), ElementsAre("b", "c")) << "in the order in which they were taken";
}

TEST(Measures, WhatCannotBeWrittenBackIsNotTaken) {
    const TestDir dir;
    Measures measures = loaded(dir);
    ASSERT_TRUE(measures.add(example()));
    const auto why = [&](auto change) {
        Measure measure = example("other");
        change(measure);
        const auto id = measures.add(measure);
        return id ? std::string("accepted") : id.error().text();
    };
    EXPECT_EQ(measures.add(example()).error().code(), Errc::AlreadyExists);
    EXPECT_THAT(why([](Measure &m) { m.target = "io.max"; }), HasSubstr("no absolute path"));
    EXPECT_THAT(why([](Measure &m) { m.target = "/"; }), HasSubstr("no absolute path"));
    EXPECT_THAT(why([](Measure &m) { m.target = "/sys/fs/cgroup/../../etc/passwd"; }), HasSubstr("no absolute path"));
    EXPECT_THAT(why([](Measure &m) { m.target = "/sys//x"; }), HasSubstr("no absolute path"));
    EXPECT_THAT(why([](Measure &m) { m.target = "/sys/x/"; }), HasSubstr("no absolute path"));
    EXPECT_THAT(why([](Measure &m) { m.old_value = std::string("a\0b", 3); }), HasSubstr("NUL"));
    EXPECT_THAT(why([](Measure &m) { m.new_value = std::string(max_measure_text + 1, 'x'); }), HasSubstr("4096"));
    EXPECT_THAT(why([](Measure &m) { m.old_value = "\xff"; }), HasSubstr("UTF-8"));
    EXPECT_THAT(loaded(dir).active(), SizeIs(1));
    EXPECT_THAT(measures.active(), SizeIs(1));
    Measure other = example();
    other.key = "8:16";
    EXPECT_TRUE(measures.add(other)) << "another device of the same file";
}

TEST(Measures, GarbageIsNamedAndKept) {
    for (const std::string_view text : {"", "{", "garbage", "\xff\xfe", "[]", "null", "{\"version\":2,\"measures\":[]}",
                                        "{\"version\":1,\"measures\":{}}", "{\"version\":1,\"measures\":[7]}"}) {
        const TestDir dir;
        dir.write("active.json", text);
        Measures measures = loaded(dir);
        EXPECT_THAT(measures.active(), IsEmpty()) << text;
        EXPECT_THAT(measures.problems(), SizeIs(1)) << text;
        EXPECT_EQ(dir.read("active.json.bad"), text);
        EXPECT_FALSE(dir.has("active.json"));
        ASSERT_TRUE(measures.add(example())) << "it goes on";
        EXPECT_THAT(loaded(dir).problems(), IsEmpty());
        EXPECT_THAT(loaded(dir).active(), SizeIs(1));
    }
}

TEST(Measures, OfATornFileEachWholeLineCounts) {
    std::string whole;
    {
        const TestDir dir;
        Measures measures = loaded(dir);
        for (const char *name : {"a", "b", "c"})
            ASSERT_TRUE(measures.add(example(name)));
        whole = dir.read("active.json");
    }
    for (size_t kept = 0; kept < whole.size(); ++kept) {
        const TestDir dir;
        dir.write("active.json", whole.substr(0, kept));
        const Measures measures = loaded(dir);
        const auto lines = static_cast<size_t>(std::ranges::count(whole.substr(0, kept), '\n'));
        const size_t sure = std::min<size_t>(lines == 0 ? 0 : lines - 1, 3);
        EXPECT_GE(measures.active().size(), sure) << kept;
        EXPECT_LE(measures.active().size(), sure + 1) << kept;
        EXPECT_EQ(measures.problems().empty(), kept + 1 == whole.size()) << "its last line feed says nothing: " << kept;
        EXPECT_EQ(loaded(dir).active().size(), measures.active().size()) << "and again: " << kept;
    }
}

TEST(Measures, HostileMembersAreNotBelieved) {
    using Json = nlohmann::json;
    std::string good;
    {
        const TestDir dir;
        Measures measures = loaded(dir);
        ASSERT_TRUE(measures.add(example("a")));
        ASSERT_TRUE(measures.add(example("b")));
        good = dir.read("active.json");
    }
    const auto why = [&](const char *key, Json value) {
        const TestDir dir;
        Json json = Json::parse(good);
        json["measures"][0][key] = std::move(value);
        dir.write("active.json", json.dump());
        const Measures measures = loaded(dir);
        EXPECT_THAT(measures.active(), SizeIs(1)) << "the other one counts";
        return measures.problems().empty() ? std::string("accepted") : measures.problems()[0];
    };
    EXPECT_THAT(why("id", -1), HasSubstr("measures[0].id"));
    EXPECT_THAT(why("id", 18'446'744'073'709'551'615U), HasSubstr("measures[0].id"));
    EXPECT_THAT(why("tier", "x"), HasSubstr("tier"));
    EXPECT_THAT(why("kind", 3), HasSubstr("kind"));
    EXPECT_THAT(why("target", "/sys/fs/cgroup/../../../etc/shadow"), HasSubstr("no absolute path"));
    EXPECT_THAT(why("target", "etc/shadow"), HasSubstr("no absolute path"));
    EXPECT_THAT(why("target", example("b").target), HasSubstr("a second measure"));
    EXPECT_THAT(why("old", Json::array()), HasSubstr("old"));
    EXPECT_THAT(why("new", std::string(5000, 'x')), HasSubstr("new"));
    EXPECT_THAT(why("time_ms", "soon"), HasSubstr("time_ms"));
}

TEST(Measures, AFileOfOthersIsNotBelieved) {
    const TestDir dir;
    dir.write("active.json", "{}");
    for (const mode_t mode : {mode_t{0620}, mode_t{0602}, mode_t{0666}}) {
        ASSERT_EQ(::chmod(dir.file("active.json").c_str(), mode), 0);
        const auto measures = Measures::load(dir.fd());
        ASSERT_FALSE(measures);
        EXPECT_EQ(measures.error().code(), Errc::FailedPrecondition);
        EXPECT_THAT(measures.error().text(), HasSubstr("by others"));
    }
    if (::geteuid() == 0) {
        ASSERT_EQ(::chmod(dir.file("active.json").c_str(), 0600), 0);
        ASSERT_EQ(::chown(dir.file("active.json").c_str(), 65534, 0), 0);
        EXPECT_FALSE(Measures::load(dir.fd()));
    }
    std::filesystem::remove(dir.file("active.json"));
    ASSERT_EQ(::mkfifo(dir.file("active.json").c_str(), 0600), 0);
    EXPECT_FALSE(Measures::load(dir.fd())) << "and does not wait";
    std::filesystem::remove(dir.file("active.json"));
    std::filesystem::create_symlink("/dev/null", dir.file("active.json"));
    EXPECT_FALSE(Measures::load(dir.fd()));
}

/// At the call with that number that changes something: fails it, or ends the process as kill -9 would.
class At : public sys::Hook {
public:
    At(int number, bool kill) : left_(number), kill_(kill) { sys::set_hook(this); }
    ~At() override { sys::set_hook(nullptr); }
    int before(const sys::Call &call) noexcept override {
        if (!sys::op_mutates(call.op) || left_-- != 0) return 0;
        if (kill_) ::_exit(9);
        return ENOSPC;
    }
    [[nodiscard]] bool was_reached() const { return left_ < 0; }

private:
    int left_;
    bool kill_;
};

TEST(Measures, AnyCallThatFailsLeavesWhatIsInForce) {
    bool reached = true;
    int number = 0;
    for (; reached; ++number) {
        const TestDir dir;
        Measures measures = loaded(dir);
        const auto first = measures.add(example("a"));
        ASSERT_TRUE(first);
        {
            const At at(number, false);
            const bool added = measures.add(example("b")).has_value();
            reached = at.was_reached();
            EXPECT_EQ(added, !reached) << number;
        }
        EXPECT_EQ(measures.active().size(), reached ? 1U : 2U) << number;
        const Measures later = loaded(dir);
        EXPECT_THAT(later.problems(), IsEmpty()) << number;
        EXPECT_EQ(targets(later).front(), "a") << number;
        ASSERT_TRUE(measures.add(example("c"))) << "the next one is taken again";
        EXPECT_EQ(loaded(dir).active().size(), measures.active().size()) << number;
    }
    EXPECT_GT(number, 3) << "nothing was failed";
}

TEST(Measures, WhatCannotBeRemovedStays) {
    const TestDir dir;
    Measures measures = loaded(dir);
    for (const char *name : {"a", "b"})
        ASSERT_TRUE(measures.add(example(name)));
    while (!measures.active().empty()) {
        const size_t before = measures.active().size();
        const uint64_t id = measures.active().back().id;
        {
            const At at(0, false);
            ASSERT_FALSE(measures.remove(id));
        }
        EXPECT_EQ(measures.active().size(), before);
        EXPECT_EQ(loaded(dir).active().size(), before) << "the next start undoes it again";
        ASSERT_TRUE(measures.remove(id)) << "when it can be written down";
    }
    EXPECT_THAT(loaded(dir).active(), IsEmpty());
}

/// In a child that is killed at its `number`th call: a measure is written down, taken, undone, and removed. What was
/// taken and undone is seen by the files "taken" and "undone".
bool child_ends(const TestDir &dir, int number) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        auto measures = Measures::load(dir.fd());
        if (!measures || !measures->add(example("before"))) ::_exit(1);
        const std::string taken = dir.file("taken"), undone = dir.file("undone");
        const UniqueFd guard = dir.fd();
        const At at(number, true);
        const auto id = measures->add(example("it"));
        if (!id) ::_exit(2);
        (void)::close(::open(taken.c_str(), O_CREAT | O_WRONLY, 0600));
        (void)::close(::open(undone.c_str(), O_CREAT | O_WRONLY, 0600));
        if (!measures->remove(*id)) ::_exit(3);
        ::_exit(0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status) && (WEXITSTATUS(status) == 9 || WEXITSTATUS(status) == 0)) << status;
    return WEXITSTATUS(status) == 0;
}

TEST(Measures, AKillAtAnyCallLeavesNothingInForceForEver) {
    int number = 0, with_it = 0;
    for (bool ended = false; !ended; ++number) {
        const TestDir dir;
        ended = child_ends(dir, number);
        const Measures measures = loaded(dir);
        EXPECT_THAT(measures.problems(), IsEmpty()) << number;
        const auto all = targets(measures);
        ASSERT_FALSE(all.empty()) << number;
        EXPECT_EQ(all.front(), "before") << number;
        const bool has_it = all.size() == 2;
        with_it += has_it ? 1 : 0;
        EXPECT_TRUE(has_it || !dir.has("taken") || dir.has("undone")) << number;
        EXPECT_FALSE(has_it && ended);
    }
    EXPECT_GT(number, 6) << "nothing was killed";
    EXPECT_GT(with_it, 2) << "nothing was killed while it stood there";
}

} // namespace
} // namespace shale::guard
