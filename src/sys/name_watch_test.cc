// SPDX-License-Identifier: Apache-2.0
#include "sys/name_watch.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <string>
#include <string_view>

#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::sys {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr milliseconds debounce{20};

FileState file(uint64_t inode) {
    return {.is_there = true,
            .device = 1,
            .inode = inode,
            .born_ns = 7,
            .modified_ns = 8,
            .changed_ns = 9,
            .mode = S_IFREG};
}

TEST(CompareTest, NamesWhatHappened) {
    const FileState none, a = file(1), b = file(2);
    const Noticed quiet{.time_ns = int64_t{1} << 60};
    EXPECT_EQ(compare(none, none, quiet), std::nullopt);
    EXPECT_EQ(compare(none, a, quiet), ChangeKind::created);
    EXPECT_EQ(compare(a, none, quiet), ChangeKind::deleted);
    EXPECT_EQ(compare(a, none, {.what = event::moved_from}), ChangeKind::moved);
    EXPECT_EQ(compare(a, b, quiet), ChangeKind::replaced);
    EXPECT_EQ(compare(a, a, quiet), std::nullopt);
    FileState grown = a, touched = a, changed = a, of_another = a;
    grown.size = 5;
    touched.modified_ns = 10;
    changed.changed_ns = 10;
    of_another.uid = 5;
    EXPECT_EQ(compare(a, grown, quiet), ChangeKind::modified);
    EXPECT_EQ(compare(a, touched, quiet), ChangeKind::modified);
    EXPECT_EQ(compare(a, of_another, quiet), ChangeKind::attributes);
    EXPECT_EQ(compare(a, changed, {.what = event::attributes, .time_ns = quiet.time_ns}), ChangeKind::attributes);
    EXPECT_EQ(compare(a, changed, quiet), std::nullopt); // by a link count alone: nobody asked
    EXPECT_EQ(compare(a, changed, {.time_ns = quiet.time_ns, .is_unsure = true}), ChangeKind::attributes);
}

/// The number of an inode is given again, and a copy-up of overlay has another time of birth.
TEST(CompareTest, TheSameNumberIsNotTheSameFile) {
    const FileState a = file(1);
    FileState again = a, unknown = a;
    again.born_ns = 100;
    unknown.born_ns = 0;
    const int64_t late = int64_t{1} << 60;
    EXPECT_EQ(compare(a, again, {.what = event::created, .time_ns = late}), ChangeKind::replaced);
    EXPECT_EQ(compare(a, again, {.time_ns = late, .is_unsure = true}), ChangeKind::replaced);
    EXPECT_EQ(compare(a, again, {.time_ns = late}), std::nullopt);
    EXPECT_EQ(compare(a, a, {.what = event::moved_from | event::moved_to, .time_ns = late}), std::nullopt);
    EXPECT_EQ(compare(unknown, unknown, {.what = event::moved_to, .time_ns = late}), ChangeKind::replaced);
}

/// A file that was replaced and is still written to sends events under its old name.
TEST(CompareTest, AnEventAloneIsNoChangeUnlessTheTimesAreTooYoung) {
    const FileState a = file(1);
    EXPECT_EQ(compare(a, a, {.what = event::modified, .time_ns = a.changed_ns + 10'000'000'000}), std::nullopt);
    EXPECT_EQ(compare(a, a, {.what = event::modified, .time_ns = a.changed_ns + 1'000'000}), ChangeKind::modified);
}

class NameWatchTest : public testing::TestWithParam<ChangeQueue::Api> {
protected:
    void SetUp() override {
        std::string name = testing::TempDir() + "shale-watch-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        path_ = name;
        root_ = std::make_shared<const UniqueFd>(::open(path_.c_str(), O_PATH | O_CLOEXEC));
    }
    void TearDown() override {
        watch_.reset();
        (void)remove_tree(AT_FDCWD, path_.c_str());
    }
    [[nodiscard]] int root() const { return root_->get(); }
    void make(const std::string &name, std::string_view data = "one") const {
        const UniqueFd fd(::openat(root(), name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_TRUNC, 0600));
        ASSERT_TRUE(fd) << name;
        ASSERT_EQ(::write(fd.get(), data.data(), data.size()), static_cast<ssize_t>(data.size()));
    }
    void directory(const char *name) const { ASSERT_TRUE(make_dir(root(), name, 0700)); }
    void link(const char *target, const char *name) const { ASSERT_TRUE(make_symlink(target, root(), name)); }
    void rename(const char *from, const char *to) const { ASSERT_TRUE(rename_at(root(), from, root(), to)); }
    void replace(const char *name) const {
        make(".new", "another");
        rename(".new", name);
    }
    void open(const std::vector<std::string> &paths, bool is_recursive = false, NameWatchOptions options = {}) {
        std::vector<WatchedPath> watched;
        for (const auto &path : paths)
            watched.push_back({.views = {{root_, path}}, .is_recursive = is_recursive});
        open_views(std::move(watched), options);
    }
    void open_views(std::vector<WatchedPath> watched, NameWatchOptions options = {}) {
        options.debounce = debounce;
        options.api = GetParam();
        auto opened = NameWatch::open(std::move(watched), options);
        ASSERT_TRUE(opened) << opened.error().text();
        watch_.emplace(std::move(*opened));
    }
    /// What is told until nothing has come for a while: "kind path", in the order of their coming.
    std::vector<std::string> told() {
        std::vector<std::string> out;
        changes_.clear();
        for (;;) {
            pollfd ready{watch_->fd(), POLLIN, 0};
            ::poll(&ready, 1, static_cast<int>(2 * debounce.count()));
            auto now = NameWatch::Now::get();
            now.unix_ns += later_ns_;
            EXPECT_TRUE(watch_->read(now));
            auto changes = watch_->take(now);
            EXPECT_TRUE(changes) << changes.error().text();
            if (!changes) return out;
            for (Change &change : *changes) {
                std::string one(change_name(change.kind));
                if (several_) one += " " + std::to_string(change.path);
                if (!change.below.empty()) one += " " + change.below;
                out.push_back(one);
                changes_.push_back(change);
            }
            if (changes->empty() && ready.revents == 0 && !watch_->next_due()) return out;
        }
    }
    static uint64_t inode(const std::shared_ptr<const UniqueFd> &root, const char *name) {
        return stat_at(root->get(), name)->st_ino;
    }
    std::string path_;
    std::shared_ptr<const UniqueFd> root_;
    std::optional<NameWatch> watch_;
    std::vector<Change> changes_; ///< of told()
    bool several_ = false;
    int64_t later_ns_ = 0; ///< that the clock is ahead of the file system's
};

TEST_P(NameWatchTest, AFileIsReplacedAgainAndAgain) {
    make("conf");
    open({"/conf"});
    for (int i = 0; i < 3; ++i) {
        const uint64_t before = inode(root_, "conf");
        replace("conf");
        EXPECT_THAT(told(), ElementsAre("replaced"));
        ASSERT_EQ(changes_.size(), 1U);
        EXPECT_EQ(changes_[0].inode_before, before);
        EXPECT_EQ(changes_[0].inode_after, inode(root_, "conf"));
        EXPECT_GT(changes_[0].time_ns, 0);
    }
}

TEST_P(NameWatchTest, ModifiedAttributesDeletedCreatedMoved) {
    make("conf");
    open({"/conf"});
    make("conf", "two");
    EXPECT_THAT(told(), ElementsAre("modified"));
    ASSERT_TRUE(chmod_at(root(), "conf", 0644));
    EXPECT_THAT(told(), ElementsAre("attributes"));
    ASSERT_TRUE(unlink_at(root(), "conf"));
    EXPECT_THAT(told(), ElementsAre("deleted"));
    EXPECT_EQ(changes_[0].inode_after, 0U);
    make("conf");
    EXPECT_THAT(told(), ElementsAre("created"));
    rename("conf", "elsewhere");
    EXPECT_THAT(told(), ElementsAre("moved"));
    rename("elsewhere", "conf");
    EXPECT_THAT(told(), ElementsAre("created"));
    rename("conf", "elsewhere");
    rename("elsewhere", "conf");
    EXPECT_THAT(told(), IsEmpty());
    make("neighbour");
    EXPECT_THAT(told(), IsEmpty());
}

/// The number of the inode may well be the same one.
TEST_P(NameWatchTest, DeletedAndMadeAnewIsReplaced) {
    make("conf");
    open({"/conf"});
    ASSERT_TRUE(unlink_at(root(), "conf"));
    make("conf");
    EXPECT_THAT(told(), ElementsAre("replaced"));
}

TEST_P(NameWatchTest, ABurstIsOneEvent) {
    make("conf");
    open({"/conf"});
    for (int i = 0; i < 50; ++i)
        make("conf", std::string(static_cast<size_t>(i), 'x'));
    EXPECT_THAT(told(), ElementsAre("modified"));
}

TEST_P(NameWatchTest, WhoNeverRestsIsToldOfAllTheSame) {
    make("conf");
    open({"/conf"});
    const auto start = std::chrono::steady_clock::now();
    size_t events = 0;
    for (int i = 0; events < 2; ++i) {
        ASSERT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
        make("conf", std::to_string(i) + "x");
        const auto now = NameWatch::Now::get();
        ASSERT_TRUE(watch_->read(now));
        events += watch_->take(now)->size();
        ::usleep(1000);
    }
    EXPECT_GT(std::chrono::steady_clock::now() - start, 10 * debounce);
}

/// As Kubernetes updates a ConfigMap.
TEST_P(NameWatchTest, ALinkIsTurned) {
    directory("..1");
    directory("..2");
    make("..1/app.conf");
    make("..2/app.conf");
    link("..1", "..data");
    link("..data/app.conf", "app.conf");
    open({"/app.conf"});
    for (const char *next : {"..2", "..1", "..2"}) {
        link(next, "..data_tmp");
        rename("..data_tmp", "..data");
        EXPECT_THAT(told(), ElementsAre("replaced")) << next;
        EXPECT_EQ(changes_[0].inode_after, inode(root_, (std::string(next) + "/app.conf").c_str()));
        make(std::string(next) + "/app.conf", "written through");
        EXPECT_THAT(told(), ElementsAre("modified"));
    }
    ASSERT_TRUE(remove_tree(root(), "..1"));
    EXPECT_THAT(told(), IsEmpty());
}

TEST_P(NameWatchTest, ADirectoryGoesAndComesBack) {
    ASSERT_TRUE(make_dirs(root(), "a/b/c"));
    make("a/b/c/conf");
    open({"/a/b/c/conf"});
    ASSERT_TRUE(remove_tree(root(), "a"));
    EXPECT_THAT(told(), ElementsAre("deleted"));
    ASSERT_TRUE(make_dirs(root(), "a/b"));
    EXPECT_THAT(told(), IsEmpty());
    ASSERT_TRUE(make_dirs(root(), "a/b/c"));
    make("a/b/c/conf");
    EXPECT_THAT(told(), ElementsAre("created"));
    replace("a/b/c/conf");
    EXPECT_THAT(told(), ElementsAre("replaced"));
    rename("a/b", "a/old");
    EXPECT_THAT(told(), ElementsAre("moved"));
    rename("a/old", "a/b");
    EXPECT_THAT(told(), ElementsAre("created"));
    make("a/b/c/conf", "and is watched");
    EXPECT_THAT(told(), ElementsAre("modified"));
}

TEST_P(NameWatchTest, ByAnotherNameOfIt) {
    make("conf");
    directory("d");
    ASSERT_TRUE(make_link(root(), "conf", root(), "d/other"));
    open({"/conf"});
    make("d/other", "through the other one");
    EXPECT_THAT(told(), ElementsAre("modified"));
}

TEST_P(NameWatchTest, WritersOfTheOldFileAreNotHeard) {
    make("conf");
    const UniqueFd old(::openat(root(), "conf", O_WRONLY | O_CLOEXEC));
    const timespec past{1000, 0};
    open({"/conf"});
    replace("conf");
    EXPECT_THAT(told(), ElementsAre("replaced"));
    later_ns_ = 5'000'000'000; // an event counts as long as times are young
    ASSERT_EQ(::write(old.get(), "x", 1), 1);
    ASSERT_TRUE(set_times(old.get(), "", past, past));
    EXPECT_THAT(told(), IsEmpty());
}

TEST_P(NameWatchTest, ADirectorysEntries) {
    directory("d");
    directory("d/sub");
    make("d/one");
    open({"/d"});
    make("d/two");
    make("d/one", "changed");
    make("d/sub/deep");
    EXPECT_THAT(told(), UnorderedElementsAre("created two", "modified one"));
    rename("d/one", "d/two");
    EXPECT_THAT(told(), ElementsAre("moved one", "replaced two"));
    ASSERT_TRUE(chmod_at(root(), "d/sub", 0755));
    EXPECT_THAT(told(), ElementsAre("attributes sub"));
    rename("d", "old");
    EXPECT_THAT(told(), ElementsAre("moved", "moved sub", "moved two"));
    directory("d");
    make("d/two");
    EXPECT_THAT(told(), ElementsAre("created", "created two"));
    ASSERT_TRUE(remove_tree(root(), "d"));
    EXPECT_THAT(told(), ElementsAre("deleted", "deleted two"));
}

TEST_P(NameWatchTest, AWholeTree) {
    ASSERT_TRUE(make_dirs(root(), "d/a/b"));
    make("d/a/b/file");
    open({"/d"}, true);
    make("d/a/b/file", "changed");
    EXPECT_THAT(told(), ElementsAre("modified a/b/file"));
    ASSERT_TRUE(make_dirs(root(), "d/new/deep/er"));
    make("d/new/deep/er/file");
    EXPECT_THAT(told(),
                ElementsAre("created new", "created new/deep", "created new/deep/er", "created new/deep/er/file"));
    make("d/new/deep/er/file", "watched, too");
    EXPECT_THAT(told(), ElementsAre("modified new/deep/er/file"));
    rename("d/new", "d/a/moved");
    EXPECT_THAT(told(), UnorderedElementsAre("moved new", "moved new/deep", "moved new/deep/er",
                                             "moved new/deep/er/file", "created a/moved", "created a/moved/deep",
                                             "created a/moved/deep/er", "created a/moved/deep/er/file"));
    make("d/a/moved/deep/er/file", "and there");
    EXPECT_THAT(told(), ElementsAre("modified a/moved/deep/er/file"));
    ASSERT_TRUE(remove_tree(root(), "d/a"));
    EXPECT_THAT(told(), UnorderedElementsAre("deleted a", "deleted a/b", "deleted a/b/file", "deleted a/moved",
                                             "deleted a/moved/deep", "deleted a/moved/deep/er",
                                             "deleted a/moved/deep/er/file"));
}

TEST_P(NameWatchTest, ATreeIsBounded) {
    directory("d");
    for (int i = 0; i < 5; ++i)
        make("d/" + std::to_string(i));
    const auto opened = NameWatch::open({{.views = {{root_, "/d"}}}}, {.max_entries = 4, .api = GetParam()});
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code(), Errc::ResourceExhausted);
    open({"/d"}, true, {.max_entries = 5});
    make("d/more");
    (void)told();
    EXPECT_THAT(watch_->take_notes(), ElementsAre(::testing::HasSubstr("more entries than are watched")));
}

TEST_P(NameWatchTest, LinksInATreeAreNotFollowed) {
    directory("d");
    directory("out");
    link("../out", "d/link");
    open({"/d"}, true);
    make("out/file");
    EXPECT_THAT(told(), IsEmpty());
    link("/", "d/.new");
    rename("d/.new", "d/link");
    EXPECT_THAT(told(), ElementsAre("replaced link"));
}

/// Lets no queue be without a limit.
class LimitHook final : public Hook {
public:
    LimitHook() { set_hook(this); }
    LimitHook(const LimitHook &) = delete;
    LimitHook &operator=(const LimitHook &) = delete;
    ~LimitHook() override { set_hook(nullptr); }
    int before(const Call &call) noexcept override {
        const bool is_unlimited = call.name != nullptr && std::string_view(call.name).ends_with("unlimited");
        return call.op == Op::fanotify && is_unlimited ? EPERM : 0;
    }
};

/// What the kernel lost is found by looking.
TEST_P(NameWatchTest, AnOverflowIsMadeUpFor) {
    const std::string family = GetParam() == ChangeQueue::Api::inotify ? "inotify" : "fanotify";
    const auto limit = read_file(AT_FDCWD, ("/proc/sys/fs/" + family + "/max_queued_events").c_str(), 100);
    if (!limit) GTEST_SKIP() << "no limit is known";
    const unsigned long most = std::stoul(*limit);
    if (most > 60'000) GTEST_SKIP() << "the queue takes " << most << " events";
    directory("d");
    make("d/stays");
    make("d/goes");
    make("conf");
    make("other");
    several_ = true;
    const LimitHook hook;
    open({"/conf", "/d"});
    for (unsigned long i = 0; i < most + 10; ++i)
        ASSERT_EQ(::linkat(root(), "other", root(), ("n" + std::to_string(i)).c_str(), 0), 0);
    make("d/stays", "longer");
    ASSERT_TRUE(unlink_at(root(), "d/goes"));
    make("d/comes");
    replace("conf");
    EXPECT_THAT(told(), UnorderedElementsAre("replaced 0", "modified 1 stays", "deleted 1 goes", "created 1 comes"));
    EXPECT_THAT(watch_->take_notes(), ElementsAre(::testing::HasSubstr("more changes than the kernel keeps")));
    make("conf", "is watched");
    EXPECT_THAT(told(), ElementsAre("modified 0"));
}

/// A directory that is turned away from leaves a watch behind; many of them are got rid of.
TEST_P(NameWatchTest, WatchesDoNotPileUp) {
    link("v0", "current");
    directory("v0");
    make("v0/conf");
    open({"/current/conf"}, false, {.max_unused = 3});
    for (int i = 1; i < 12; ++i) {
        const std::string next = "v" + std::to_string(i);
        directory(next.c_str());
        make(next + "/conf");
        link(next.c_str(), ".next");
        rename(".next", "current");
        EXPECT_THAT(told(), ElementsAre("replaced")) << i;
        EXPECT_LE(watch_->queue().unused(), 5U);
    }
    make("v11/conf", "still watched");
    EXPECT_THAT(told(), ElementsAre("modified"));
}

/// A process sees the old file for ever where the file alone is bound; its source has the news.
TEST_P(NameWatchTest, TwoViewsAreOneChange) {
    make("bound");
    make("source");
    ASSERT_TRUE(unlink_at(root(), "bound"));
    ASSERT_TRUE(make_link(root(), "source", root(), "bound"));
    open_views({{.views = {{root_, "/bound"}, {root_, "/source"}}}});
    make("source", "in place");
    EXPECT_THAT(told(), ElementsAre("modified"));
    EXPECT_EQ(changes_[0].view, 0U);
    EXPECT_FALSE(changes_[0].is_stale);
    replace("source");
    EXPECT_THAT(told(), ElementsAre("replaced"));
    EXPECT_EQ(changes_[0].view, 1U);
    EXPECT_TRUE(changes_[0].is_stale);
    replace("source");
    EXPECT_THAT(told(), ElementsAre("replaced"));
    make("source", "the new one in place");
    EXPECT_THAT(told(), ElementsAre("modified"));
    EXPECT_TRUE(changes_[0].is_stale);
}

TEST_P(NameWatchTest, TwoViewsOfADirectory) {
    directory("source");
    make("source/file");
    link("source", "seen");
    open_views({{.views = {{root_, "/seen"}, {root_, "/source"}}, .is_recursive = true}});
    make("source/file", "in place");
    EXPECT_THAT(told(), ElementsAre("modified file"));
    // The process stays with the directory that it has.
    ASSERT_TRUE(unlink_at(root(), "seen"));
    link("old", "seen");
    rename("source", "old");
    (void)told();
    directory("source");
    EXPECT_THAT(told(), ElementsAre("created"));
    EXPECT_EQ(changes_[0].view, 1U);
    EXPECT_TRUE(changes_[0].is_stale);
    make("source/another");
    EXPECT_THAT(told(), ElementsAre("created another"));
    make("old/file", "there, too");
    EXPECT_THAT(told(), ElementsAre("modified file"));
    EXPECT_FALSE(changes_[0].is_stale);
}

TEST_P(NameWatchTest, SeveralPaths) {
    make("a");
    directory("d");
    several_ = true;
    open({"/a", "/d", "/missing", "/a"});
    replace("a");
    make("missing");
    make("d/x");
    EXPECT_THAT(told(), UnorderedElementsAre("replaced 0", "replaced 3", "created 2", "created 1 x"));
}

INSTANTIATE_TEST_SUITE_P(Ladder, NameWatchTest, testing::Values(ChangeQueue::Api::fanotify, ChangeQueue::Api::inotify),
                         [](const auto &api) {
                             return api.param == ChangeQueue::Api::fanotify ? "Fanotify" : "Inotify";
                         });

} // namespace
} // namespace shale::sys
