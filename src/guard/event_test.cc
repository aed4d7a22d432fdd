// SPDX-License-Identifier: Apache-2.0
#include "guard/event.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "guard/test_dir.h"
#include "sys/seam.h"

namespace shale::guard {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

Event example(int number = 7) {
    Event out;
    out.time = Time(Duration(1'795'497'374'123));
    out.type = EventType::acted;
    out.kind = Kind::thin_metadata;
    out.subject = "vg/pool";
    out.tier = Tier::gc;
    out.what = "event " + std::to_string(number);
    out.evidence = {"a", "b \"quoted\"\n"};
    return out;
}
std::vector<std::string> whats(const EventLog &log, size_t most = 1000) {
    const auto page = log.read(most);
    EXPECT_TRUE(page) << page.error().text();
    std::vector<std::string> out;
    if (page)
        for (const Event &event : page->events)
            out.push_back(event.what);
    return out;
}

TEST(GuardEvent, ALineAndBack) {
    const std::string line = to_line(example());
    EXPECT_EQ(line,
              R"({"time":"2026-11-24T05:16:14.123Z","time_ms":1795497374123,"type":"acted","kind":"thin_metadata",)"
              R"("subject":"vg/pool","tier":"gc","what":"event 7","evidence":["a","b \"quoted\"\n"],"undone":false})");
    const auto event = event_from_line(line);
    ASSERT_TRUE(event) << event.error().text();
    EXPECT_EQ(event->time, example().time);
    EXPECT_EQ(event->type, EventType::acted);
    EXPECT_EQ(event->kind, Kind::thin_metadata);
    EXPECT_EQ(event->subject, "vg/pool");
    EXPECT_EQ(event->tier, Tier::gc);
    EXPECT_EQ(event->what, "event 7");
    EXPECT_EQ(event->evidence, example().evidence);
    EXPECT_FALSE(event->undone);
    EXPECT_EQ(to_line(*event), line);
}

TEST(GuardEvent, EveryTypeGoesBothWays) {
    for (const auto type : {EventType::entered, EventType::left, EventType::acting, EventType::acted, EventType::failed,
                            EventType::undone, EventType::forecast, EventType::problem}) {
        Event event = example();
        event.type = type;
        event.tier.reset();
        event.undone = true;
        const auto back = event_from_line(to_line(event));
        ASSERT_TRUE(back) << name_of(type);
        EXPECT_EQ(back->type, type);
        EXPECT_EQ(back->tier, std::nullopt);
        EXPECT_TRUE(back->undone);
    }
}

TEST(GuardEvent, WhatIsHostileIsCutAndMadeText) {
    Event event = example();
    event.time = Time(Duration::max());
    event.subject = std::string(5000, '\xff');
    event.what = std::string("a\0b\n", 4) + std::string(5000, '\x01');
    event.evidence.assign(100, std::string(5000, '\xe2'));
    const std::string line = to_line(event);
    EXPECT_LE(line.size(), max_event_bytes);
    EXPECT_EQ(line.find('\n'), std::string::npos);
    const auto json = nlohmann::json::parse(line, nullptr, false);
    ASSERT_FALSE(json.is_discarded());
    EXPECT_THAT(json["evidence"], SizeIs(max_event_evidence));
    EXPECT_EQ(json["evidence"].back(), "... and 81 more");
    event.what = "a";
    const auto back = event_from_line(to_line(event));
    ASSERT_TRUE(back) << back.error().text();
    EXPECT_EQ(to_line(*back).substr(0, 40), to_line(event).substr(0, 40));
}

TEST(GuardEvent, LinesThatAreNoEvents) {
    const auto good = nlohmann::json::parse(to_line(example()));
    const auto why = [&](const char *key, nlohmann::json value) {
        auto json = good;
        json[key] = std::move(value);
        const auto event = event_from_line(json.dump());
        return event ? std::string("accepted") : event.error().text();
    };
    EXPECT_EQ(why("more", 1), "accepted") << "of a later shale";
    EXPECT_THAT(why("time_ms", -1), HasSubstr("time_ms"));
    EXPECT_THAT(why("time_ms", "1"), HasSubstr("time_ms"));
    EXPECT_THAT(why("type", "exploded"), HasSubstr("another type"));
    EXPECT_THAT(why("kind", "bits"), HasSubstr("kind"));
    EXPECT_THAT(why("tier", 4), HasSubstr("tier"));
    EXPECT_THAT(why("subject", nullptr), HasSubstr("subject"));
    EXPECT_THAT(why("what", std::string(4001, 'x')), HasSubstr("what"));
    EXPECT_THAT(why("evidence", "x"), HasSubstr("evidence"));
    EXPECT_THAT(why("evidence", nlohmann::json::array({1})), HasSubstr("evidence"));
    EXPECT_THAT(why("undone", 0), HasSubstr("undone"));
    for (const std::string &line : {std::string(), std::string("{"), std::string("[]"), std::string("null"),
                                    std::string(max_event_bytes + 1, ' '), std::string(100'000, '[')})
        EXPECT_FALSE(event_from_line(line));
}

TEST(GuardEventLog, AppendsAndReadsTheLast) {
    const TestDir dir;
    EventLog log(dir.fd(), 1 << 20U);
    EXPECT_THAT(whats(log), IsEmpty());
    for (int i = 0; i < 5; ++i)
        ASSERT_TRUE(log.append(example(i)));
    EXPECT_THAT(whats(log), ElementsAre("event 0", "event 1", "event 2", "event 3", "event 4"));
    EXPECT_THAT(whats(log, 2), ElementsAre("event 3", "event 4"));
    EXPECT_THAT(whats(log, 0), IsEmpty());
    struct stat st{};
    ASSERT_EQ(::stat(dir.file("events.jsonl").c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 07777U, 0600U);
}

TEST(GuardEventLog, RotatesAtItsSize) {
    const TestDir dir;
    constexpr uint64_t limit = 2000;
    EventLog log(dir.fd(), limit);
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(log.append(example(i)));
        EXPECT_LE(dir.read("events.jsonl").size(), limit);
    }
    EXPECT_LE(dir.read("events.jsonl.1").size(), limit);
    const auto all = whats(log);
    ASSERT_GE(all.size(), 10U) << "both files are read";
    for (size_t i = 0; i < all.size(); ++i)
        EXPECT_EQ(all[i], "event " + std::to_string(100 - all.size() + i));
    // A crash right behind the rename.
    std::filesystem::rename(dir.file("events.jsonl"), dir.file("events.jsonl.1"));
    EXPECT_EQ(whats(log, 1), std::vector<std::string>{"event 99"});
    ASSERT_TRUE(log.append(example(100)));
    EXPECT_THAT(whats(log, 2), ElementsAre("event 99", "event 100"));
    // One event is never too large for an empty file.
    EventLog tiny(dir.fd(), 1);
    ASSERT_TRUE(tiny.append(example(101)));
    ASSERT_TRUE(tiny.append(example(102)));
    EXPECT_THAT(whats(tiny), ElementsAre("event 101", "event 102"));
}

TEST(GuardEventLog, ALineCutOffAnywhereLosesNoOther) {
    const std::string line = to_line(example(1)) + "\n";
    for (size_t kept = 0; kept <= line.size(); ++kept) {
        const TestDir dir;
        EventLog log(dir.fd(), 1 << 20U);
        ASSERT_TRUE(log.append(example(0)));
        dir.append("events.jsonl", line.substr(0, kept));
        const bool is_whole = kept + 1 >= line.size();
        auto page = log.read(10);
        ASSERT_TRUE(page);
        EXPECT_EQ(page->events.size(), is_whole ? 2U : 1U) << kept;
        EXPECT_EQ(page->skipped, kept == 0 || is_whole ? 0U : 1U) << kept;
        ASSERT_TRUE(log.append(example(2)));
        const auto all = whats(log);
        ASSERT_EQ(all.size(), is_whole ? 3U : 2U) << kept;
        EXPECT_EQ(all.front(), "event 0");
        EXPECT_EQ(all.back(), "event 2");
    }
}

TEST(GuardEventLog, GarbageIsCountedAndPassedOver) {
    const TestDir dir;
    EventLog log(dir.fd(), 1 << 20U);
    dir.append("events.jsonl", std::string("\0\xff garbage\n\n{}\n", 15));
    ASSERT_TRUE(log.append(example(1)));
    const auto page = log.read(10);
    ASSERT_TRUE(page);
    EXPECT_THAT(page->events, SizeIs(1));
    EXPECT_EQ(page->skipped, 2U);
}

TEST(GuardEventLog, ReadsAreBounded) {
    const TestDir dir;
    EventLog log(dir.fd(), ~uint64_t{0});
    ASSERT_TRUE(log.append(example(0)));
    std::filesystem::resize_file(dir.file("events.jsonl"), uint64_t{1} << 40U); // a hole of a terabyte
    ASSERT_TRUE(log.append(example(1)));
    const auto page = log.read(10);
    ASSERT_TRUE(page);
    ASSERT_THAT(page->events, SizeIs(1));
    EXPECT_EQ(page->events[0].what, "event 1");
}

TEST(GuardEventLog, ALineThatTheBoundCutsIsNotMissed) {
    const TestDir dir;
    Event event = example();
    event.evidence.assign(max_event_evidence, std::string(max_event_text, 'x'));
    const std::string line = to_line(event) + "\n";
    const auto lines = static_cast<size_t>(EventLog::max_read_bytes / line.size() + 10);
    std::string text;
    for (size_t i = 0; i < lines; ++i)
        text += line;
    dir.append("events.jsonl", text);
    const auto page = EventLog(dir.fd(), 1 << 20U).read(lines);
    ASSERT_TRUE(page);
    EXPECT_EQ(page->events.size(), lines - 10);
    EXPECT_EQ(page->skipped, 0U);
}

TEST(GuardEventLog, WhatIsNoFileIsRefused) {
    for (const bool fifo : {true, false}) {
        const TestDir dir;
        if (fifo)
            ASSERT_EQ(::mkfifo(dir.file("events.jsonl").c_str(), 0600), 0);
        else
            std::filesystem::create_symlink("/etc/passwd", dir.file("events.jsonl"));
        EventLog log(dir.fd(), 1000);
        EXPECT_FALSE(log.append(example())) << "and does not wait";
        EXPECT_FALSE(log.read(1));
    }
}

/// Fails writes; the first is done in part, as by a disk that fills.
class Full : public sys::Hook {
public:
    Full() { sys::set_hook(this); }
    ~Full() override { sys::set_hook(nullptr); }
    int before(const sys::Call &call) noexcept override {
        if (call.op != sys::Op::write) return 0;
        (void)!::write(call.fd, "{\"half", 6);
        return ENOSPC;
    }
};

TEST(GuardEventLog, AFullDiskLeavesNoHalfLine) {
    const TestDir dir;
    EventLog log(dir.fd(), 1 << 20U);
    ASSERT_TRUE(log.append(example(0)));
    const std::string before = dir.read("events.jsonl");
    {
        const Full full;
        const auto status = log.append(example(1));
        ASSERT_FALSE(status);
        EXPECT_EQ(status.error().code(), Errc::ResourceExhausted);
    }
    EXPECT_EQ(dir.read("events.jsonl"), before);
    ASSERT_TRUE(log.append(example(2)));
    EXPECT_THAT(whats(log), ElementsAre("event 0", "event 2"));
}

} // namespace
} // namespace shale::guard
