// SPDX-License-Identifier: Apache-2.0
#include "sys/fanotify.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>

#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::sys {
namespace {

template <class T> void put(std::string &out, const T &what) {
    out.append(reinterpret_cast<const char *>(&what), sizeof what);
}
std::span<const std::byte> bytes_of(const std::string &text) {
    return std::as_bytes(std::span(text));
}

constexpr std::string_view fsid = "filesyst";
std::string identity(std::string_view handle) {
    std::string out(fsid);
    put(out, int{1});
    return out.append(handle);
}
/// One information record; `length` instead of its own one when it is not 0.
std::string info(uint8_t type, std::string_view handle, std::string_view name, uint16_t length = 0) {
    std::string body(fsid);
    put(body, static_cast<uint32_t>(handle.size()));
    put(body, int{1});
    body.append(handle).append(name);
    std::string out;
    const auto own = static_cast<uint16_t>(sizeof(fanotify_event_info_header) + body.size());
    put(out, fanotify_event_info_header{.info_type = type, .pad = 0, .len = length != 0 ? length : own});
    return out + body;
}
std::string fanotify_event(uint64_t mask, const std::string &infos, uint32_t length = 0) {
    fanotify_event_metadata head{};
    head.event_len = length != 0 ? length : static_cast<uint32_t>(sizeof head + infos.size());
    head.vers = FANOTIFY_METADATA_VERSION;
    head.metadata_len = sizeof head;
    head.mask = mask;
    head.fd = FAN_NOFD;
    std::string out;
    put(out, head);
    return out + infos;
}
std::string inotify_record(int watch, uint32_t mask, std::string_view name, uint32_t length) {
    inotify_event head{};
    head.wd = watch;
    head.mask = mask;
    head.len = length;
    std::string out;
    put(out, head);
    return out.append(name);
}

constexpr uint8_t fid = FAN_EVENT_INFO_TYPE_FID, dfid_name = FAN_EVENT_INFO_TYPE_DFID_NAME;

TEST(FanotifyParser, ReadsNamesAndIdentities) {
    using namespace std::string_view_literals;
    const auto records = parse_fanotify(bytes_of(
        fanotify_event(FAN_MODIFY, info(dfid_name, "dir1", "conf\0\0\0\0"sv) + info(fid, "file", "")) +
        fanotify_event(FAN_DELETE_SELF, info(dfid_name, "dir1", ".\0"sv)) + fanotify_event(FAN_Q_OVERFLOW, "") +
        fanotify_event(FAN_CREATE, info(99, "x", "later kernels have others") + info(dfid_name, "", "\x1b[2J\0"sv))));
    ASSERT_TRUE(records) << records.error().text();
    const std::vector<FanotifyRecord> expected{{FAN_MODIFY, identity("dir1"), "conf", identity("file")},
                                               {FAN_DELETE_SELF, identity("dir1"), "", ""},
                                               {FAN_Q_OVERFLOW, "", "", ""},
                                               {FAN_CREATE, identity(""), "\x1b[2J", ""}};
    EXPECT_EQ(*records, expected);
    EXPECT_TRUE(parse_fanotify({})->empty());
}

TEST(FanotifyParser, RefusesWhatDoesNotFit) {
    using namespace std::string_view_literals;
    const std::string good = fanotify_event(FAN_MODIFY, info(dfid_name, "dir1", "a\0"sv) + info(fid, "file", ""));
    for (size_t length = 1; length < good.size(); ++length)
        EXPECT_FALSE(parse_fanotify(bytes_of(good.substr(0, length)))) << length;
    std::string other_version = good;
    other_version[offsetof(fanotify_event_metadata, vers)] = 9;
    for (const std::string &bad : {
             other_version,
             fanotify_event(FAN_MODIFY, "", 8),                                   // shorter than its head
             fanotify_event(FAN_MODIFY, info(dfid_name, "dir1", "a\0"sv, 3)),     // shorter than its own head
             fanotify_event(FAN_MODIFY, info(dfid_name, "dir1", "a\0"sv, 60000)), // longer than all
             fanotify_event(FAN_MODIFY, info(dfid_name, "dir1", "a")),            // a name without an end
             fanotify_event(FAN_MODIFY, info(dfid_name, "dir1", "../x\0"sv)),     // a path
             fanotify_event(FAN_MODIFY, info(dfid_name, "dir1", "a\0"sv, 16)),    // ends in its handle
             fanotify_event(FAN_MODIFY, info(fid, "dir1", "").substr(0, 14)),
         })
        EXPECT_FALSE(parse_fanotify(bytes_of(bad))) << bad.size();
}

TEST(InotifyParser, ReadsNames) {
    using namespace std::string_view_literals;
    const auto records =
        parse_inotify(bytes_of(inotify_record(1, IN_MODIFY, "conf\0\0\0\0"sv, 8) +
                               inotify_record(2, IN_DELETE_SELF, "", 0) + inotify_record(-1, IN_Q_OVERFLOW, "", 0)));
    ASSERT_TRUE(records) << records.error().text();
    const std::vector<InotifyRecord> expected{{1, IN_MODIFY, "conf"}, {2, IN_DELETE_SELF, ""}, {-1, IN_Q_OVERFLOW, ""}};
    EXPECT_EQ(*records, expected);
}

TEST(InotifyParser, RefusesWhatDoesNotFit) {
    using namespace std::string_view_literals;
    const std::string good = inotify_record(1, IN_MODIFY, "conf\0\0\0\0"sv, 8);
    for (size_t length = 1; length < good.size(); ++length)
        EXPECT_FALSE(parse_inotify(bytes_of(good.substr(0, length)))) << length;
    EXPECT_FALSE(parse_inotify(bytes_of(inotify_record(1, IN_MODIFY, "conf", 4))));
    EXPECT_FALSE(parse_inotify(bytes_of(inotify_record(1, IN_MODIFY, "a/b\0"sv, 4))));
    EXPECT_FALSE(parse_inotify(bytes_of(inotify_record(1, IN_MODIFY, "a\0"sv, 0xffffffffU))));
}

/// Fails calls of one family by their rung.
class RungHook final : public Hook {
public:
    explicit RungHook(std::function<int(const Call &)> decide) : decide_(std::move(decide)) { set_hook(this); }
    RungHook(const RungHook &) = delete;
    RungHook &operator=(const RungHook &) = delete;
    ~RungHook() override { set_hook(nullptr); }
    int before(const Call &call) noexcept override { return decide_(call); }

private:
    std::function<int(const Call &)> decide_;
};
bool is(const Call &call, Op op, std::string_view name) {
    return call.op == op && call.name != nullptr && name == call.name;
}

class ChangeQueueTest : public testing::Test {
protected:
    void SetUp() override {
        std::string name = testing::TempDir() + "shale-queue-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        path_ = name;
        dir_ = UniqueFd(::open(path_.c_str(), O_PATH | O_CLOEXEC));
        ASSERT_TRUE(dir_);
    }
    void TearDown() override {
        dir_.reset();
        (void)remove_tree(AT_FDCWD, path_.c_str());
    }
    void write(const char *name) const {
        const UniqueFd fd(::openat(dir_.get(), name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        ASSERT_EQ(::write(fd.get(), "x", 1), 1);
    }
    /// All bits of all events of `name`; all are of `watched`.
    static uint32_t what(ChangeQueue &queue, uint64_t watched, std::string_view name) {
        uint32_t out = 0;
        pollfd ready{queue.fd(), POLLIN, 0};
        EXPECT_EQ(::poll(&ready, 1, 5000), 1);
        const auto batch = queue.read();
        EXPECT_TRUE(batch) << batch.error().text();
        if (!batch) return 0;
        EXPECT_FALSE(batch->lost);
        for (const ChangeEvent &event : batch->events) {
            EXPECT_EQ(event.watched, watched) << event.name;
            if (event.name == name) out |= event.what;
        }
        return out;
    }
    void expect_all(ChangeQueue &queue) const {
        const auto watched = queue.add(dir_.get(), ChangeQueue::Interest::entries);
        ASSERT_TRUE(watched) << watched.error().text();
        EXPECT_EQ(queue.add(dir_.get(), ChangeQueue::Interest::names).value_or(0), *watched);
        write("file");
        EXPECT_EQ(what(queue, *watched, "file"), event::created | event::modified | event::closed);
        ASSERT_TRUE(rename_at(dir_.get(), "file", dir_.get(), "other"));
        EXPECT_EQ(what(queue, *watched, "other"), event::moved_to);
        ASSERT_TRUE(chmod_at(dir_.get(), "other", 0644));
        EXPECT_EQ(what(queue, *watched, "other"), event::attributes);
        ASSERT_TRUE(unlink_at(dir_.get(), "other"));
        EXPECT_TRUE((what(queue, *watched, "other") & event::deleted) != 0);
    }
    std::string path_;
    UniqueFd dir_;
};

/// Where this kernel or sandbox has no fanotify the lower rungs are all there is.
bool has_fanotify() {
    const auto queue = ChangeQueue::open();
    return queue && queue->api() == ChangeQueue::Api::fanotify;
}

TEST_F(ChangeQueueTest, TellsWhatHappensToEntries) {
    auto queue = ChangeQueue::open();
    ASSERT_TRUE(queue) << queue.error().text();
    expect_all(*queue);
}

TEST_F(ChangeQueueTest, WithoutTheRightToAnUnlimitedQueue) {
    if (!has_fanotify()) GTEST_SKIP() << "there is no fanotify here";
    const RungHook hook(
        [](const Call &call) { return is(call, Op::fanotify, "fanotify_init, unlimited") ? EPERM : 0; });
    auto queue = ChangeQueue::open();
    ASSERT_TRUE(queue) << queue.error().text();
    EXPECT_EQ(queue->api(), ChangeQueue::Api::fanotify);
    EXPECT_EQ(queue->refusal(), "");
    expect_all(*queue);
}

TEST_F(ChangeQueueTest, WithoutFanotify) {
    for (const int error : {ENOSYS, EINVAL, EPERM, EMFILE}) {
        const RungHook hook([error](const Call &call) { return call.op == Op::fanotify ? error : 0; });
        auto queue = ChangeQueue::open();
        ASSERT_TRUE(queue) << queue.error().text();
        EXPECT_EQ(queue->api(), ChangeQueue::Api::inotify);
        EXPECT_NE(queue->refusal().find("fanotify_init"), std::string::npos) << queue->refusal();
        expect_all(*queue);
    }
}

TEST_F(ChangeQueueTest, WhereFanotifyRefusesADirectory) {
    for (const int error : {EXDEV, EOPNOTSUPP, ENODEV, ENOSPC}) {
        const RungHook hook([error](const Call &call) { return is(call, Op::fanotify, "fanotify_mark") ? error : 0; });
        auto queue = ChangeQueue::open();
        ASSERT_TRUE(queue) << queue.error().text();
        expect_all(*queue);
        EXPECT_NE(queue->refusal(), "");
    }
}

TEST_F(ChangeQueueTest, WhereTheFileSystemGivesNoHandles) {
    const RungHook hook([](const Call &call) { return is(call, Op::stat, "name_to_handle_at") ? EOPNOTSUPP : 0; });
    auto queue = ChangeQueue::open();
    ASSERT_TRUE(queue) << queue.error().text();
    expect_all(*queue);
}

TEST_F(ChangeQueueTest, WithoutAnythingItIsAnError) {
    const RungHook hook([](const Call &call) {
        return call.op == Op::fanotify ? ENOSYS : call.op == Op::inotify ? EMFILE : 0;
    });
    const auto queue = ChangeQueue::open();
    ASSERT_FALSE(queue);
    EXPECT_NE(queue.error().text().find("fs.inotify.max_user_instances"), std::string::npos) << queue.error().text();
}

TEST_F(ChangeQueueTest, AFullTableOfWatchesIsNamed) {
    const RungHook hook([](const Call &call) { return is(call, Op::inotify, "inotify_add_watch") ? ENOSPC : 0; });
    auto queue = ChangeQueue::open(ChangeQueue::Api::inotify);
    ASSERT_TRUE(queue);
    const auto watched = queue->add(dir_.get(), ChangeQueue::Interest::names);
    ASSERT_FALSE(watched);
    EXPECT_EQ(watched.error().code(), Errc::ResourceExhausted);
    EXPECT_NE(watched.error().text().find("fs.inotify.max_user_watches"), std::string::npos);
}

class EveryApi : public ChangeQueueTest, public testing::WithParamInterface<ChangeQueue::Api> {};

TEST_P(EveryApi, AFileIsWatchedByItself) {
    write("file");
    ASSERT_TRUE(make_dir(dir_.get(), "d", 0700));
    ASSERT_TRUE(make_link(dir_.get(), "file", dir_.get(), "d/other"));
    auto queue = ChangeQueue::open(GetParam());
    ASSERT_TRUE(queue);
    const UniqueFd file(::openat(dir_.get(), "file", O_PATH | O_CLOEXEC));
    const auto watched = queue->add(file.get(), ChangeQueue::Interest::itself);
    ASSERT_TRUE(watched) << watched.error().text();
    write("d/other");
    EXPECT_EQ(what(*queue, *watched, ""), event::modified | event::closed);
}

TEST_P(EveryApi, ADirectoryThatGoesSaysSo) {
    ASSERT_TRUE(make_dir(dir_.get(), "d", 0700));
    auto queue = ChangeQueue::open(GetParam());
    ASSERT_TRUE(queue);
    UniqueFd inner(::openat(dir_.get(), "d", O_PATH | O_CLOEXEC));
    const auto watched = queue->add(inner.get(), ChangeQueue::Interest::names);
    ASSERT_TRUE(watched);
    inner.reset();
    ASSERT_TRUE(unlink_at(dir_.get(), "d", AT_REMOVEDIR));
    EXPECT_TRUE((what(*queue, *watched, "") & event::gone) != 0);
}

TEST_P(EveryApi, WhatIsNotUsedAnyMoreIsLetGo) {
    ASSERT_TRUE(make_dir(dir_.get(), "d", 0700));
    auto queue = ChangeQueue::open(GetParam());
    ASSERT_TRUE(queue);
    const UniqueFd inner(::openat(dir_.get(), "d", O_PATH | O_CLOEXEC));
    const auto outer_number = queue->add(dir_.get(), ChangeQueue::Interest::names);
    ASSERT_TRUE(queue->add(inner.get(), ChangeQueue::Interest::names));
    queue->keep_only({*outer_number});
    // fanotify's stays until there is a new queue.
    EXPECT_EQ(queue->unused(), queue->api() == ChangeQueue::Api::fanotify ? 1U : 0U);
}

TEST_P(EveryApi, AnOverflowIsTold) {
    const std::string limit = GetParam() == ChangeQueue::Api::inotify ? "/proc/sys/fs/inotify/max_queued_events"
                                                                      : "/proc/sys/fs/fanotify/max_queued_events";
    const auto text = read_file(AT_FDCWD, limit.c_str(), 100);
    if (!text) GTEST_SKIP() << "no limit is known";
    const unsigned long most = std::stoul(*text);
    if (most > 60'000) GTEST_SKIP() << "the queue takes " << most << " events";
    const RungHook hook(
        [](const Call &call) { return is(call, Op::fanotify, "fanotify_init, unlimited") ? EPERM : 0; });
    auto queue = ChangeQueue::open(GetParam());
    ASSERT_TRUE(queue);
    ASSERT_TRUE(queue->add(dir_.get(), ChangeQueue::Interest::names));
    write("a");
    for (unsigned long i = 0; i < most + 10; ++i) // no two alike, which would become one
        ASSERT_EQ(::linkat(dir_.get(), "a", dir_.get(), ("n" + std::to_string(i)).c_str(), 0), 0);
    bool lost = false;
    for (;;) {
        const auto batch = queue->read();
        ASSERT_TRUE(batch);
        lost = lost || batch->lost;
        if (batch->events.empty()) break;
    }
    EXPECT_TRUE(lost);
}

INSTANTIATE_TEST_SUITE_P(Ladder, EveryApi, testing::Values(ChangeQueue::Api::fanotify, ChangeQueue::Api::inotify),
                         [](const auto &api) {
                             return api.param == ChangeQueue::Api::fanotify ? "Fanotify" : "Inotify";
                         });

} // namespace
} // namespace shale::sys
