// SPDX-License-Identifier: Apache-2.0
#include "drivers/common.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>

#include "drivers/concurrent_writes.h"
#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::drivers {
namespace {

class Tree : public testing::Test {
protected:
    void SetUp() override {
        path_ = testing::TempDir() + "shale-common-XXXXXX";
        ASSERT_NE(::mkdtemp(path_.data()), nullptr);
        auto opened = sys::open_dir(AT_FDCWD, path_.c_str());
        ASSERT_TRUE(opened);
        fd_ = std::move(*opened);
    }
    void TearDown() override { EXPECT_TRUE(sys::remove_tree(AT_FDCWD, path_.c_str())); }
    UniqueFd file(const char *name) { return *sys::open_at(fd_.get(), name, O_RDWR | O_CREAT, 0600); }

    std::string path_;
    UniqueFd fd_;
};

TEST_F(Tree, WalkSeesEverythingOnceAndDirectoriesFirst) {
    for (const char *name : {"a", "a/b", "a/b/c", "a/d", "e"})
        ASSERT_TRUE(sys::make_dir(fd_.get(), name, 0700));
    for (const char *name : {"f", "a/b/c/g", "a/d/h"})
        (void)file(name);
    ASSERT_TRUE(sys::make_symlink("a", fd_.get(), "link"));
    std::vector<std::string> seen;
    const auto done = walk_tree(
        fd_.get(), [&](int dir, const char *name, const struct stat &status, std::string_view path) -> Status {
            seen.push_back(sys::path_of_fd(dir)->substr(path_.size()) + "/" + name);
            EXPECT_EQ("/" + std::string(path) + name, seen.back());
            if (S_ISDIR(status.st_mode)) seen.back() += "/";
            return {};
        });
    ASSERT_TRUE(done) << done.error().text();
    for (size_t i = 0; i < seen.size(); ++i) {
        const std::string parent = seen[i].substr(0, seen[i].find_last_of('/', seen[i].size() - 2) + 1);
        if (parent == "/") continue;
        EXPECT_LT(std::ranges::find(seen, parent) - seen.begin(), static_cast<ptrdiff_t>(i)) << seen[i];
    }
    std::ranges::sort(seen);
    EXPECT_EQ(seen, (std::vector<std::string>{"/a/", "/a/b/", "/a/b/c/", "/a/b/c/g", "/a/d/", "/a/d/h", "/e/", "/f",
                                              "/link"}));
}

// Deeper than one path takes, with siblings at every level: few descriptors, every entry.
TEST_F(Tree, WalkOfADeepTree) {
    constexpr int depth = 400;
    const std::string name(20, 'n');
    UniqueFd at = *sys::open_dir(fd_.get(), ".");
    for (int i = 0; i < depth; ++i) {
        ASSERT_TRUE(sys::make_dir(at.get(), "sibling", 0700));
        ASSERT_TRUE(sys::make_dir(at.get(), name.c_str(), 0700));
        at = *sys::open_dir(at.get(), name.c_str());
    }
    const int first_free = UniqueFd(::dup(fd_.get())).get();
    int highest = 0, entries = 0;
    const auto done = walk_tree(fd_.get(), [&](int dir, const char *, const struct stat &, std::string_view) -> Status {
        highest = std::max(highest, dir);
        ++entries;
        return {};
    });
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(entries, 2 * depth);
    EXPECT_LT(highest - first_free, 30);
}

TEST_F(Tree, WalkStopsAtAnErrorAndPassesOverWhatIsRemoved) {
    for (const char *name : {"a", "a/b", "c"})
        ASSERT_TRUE(sys::make_dir(fd_.get(), name, 0700));
    const auto stopped = walk_tree(fd_.get(), [](int, const char *, const struct stat &, std::string_view) -> Status {
        return fail(Errc::Canceled, "enough");
    });
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().code(), Errc::Canceled);
    const auto passed =
        walk_tree(fd_.get(), [](int dir, const char *name, const struct stat &, std::string_view) -> Status {
            return sys::remove_tree(dir, name);
        });
    EXPECT_TRUE(passed) << passed.error().text();
}

TEST_F(Tree, CopiedMetadataLeavesTheHostsAttributes) {
    const UniqueFd from = file("from"), to = file("to");
    ASSERT_TRUE(sys::set_xattr_fd(from.get(), "user.kept", "u"));
    if (::geteuid() != 0 || !sys::set_xattr_fd(from.get(), "security.shale-test", "label"))
        GTEST_SKIP() << "needs root and a file system that takes an attribute security.shale-test";
    ASSERT_TRUE(sys::set_xattr_fd(from.get(), "trusted.overlay.opaque", "y"));
    const auto done = copy_metadata(from.get(), to.get());
    ASSERT_TRUE(done) << done.error().text();
    const auto copied = copy_entry(from.get(), fd_.get(), "copy");
    ASSERT_TRUE(copied) << copied.error().text();
    for (const char *name : {"to", "copy"}) {
        EXPECT_EQ(*sys::get_xattr(fd_.get(), name, "user.kept"), "u");
        EXPECT_EQ(*sys::get_xattr(fd_.get(), name, "security.shale-test"), std::nullopt) << name;
        EXPECT_EQ(*sys::get_xattr(fd_.get(), name, "trusted.overlay.opaque"), std::nullopt) << name;
    }
}

TEST_F(Tree, ConcurrentWritesAreMeasuredOrSaidWhyNot) {
    EXPECT_EQ(concurrent_writes(sys::open_dir(fd_.get(), "."), "a write").value, "unknown");
    EXPECT_NE(concurrent_writes(sys::open_dir(fd_.get(), "missing"), "a write").reason, "");
    const auto made = make_written_files(fd_.get());
    ASSERT_TRUE(made) << made.error().text();
    const Fact fact = concurrent_writes(sys::open_dir(fd_.get(), "."), "a write");
    EXPECT_TRUE(fact.value.ends_with('x')) << fact.value;
    EXPECT_TRUE(fact.reason.starts_with("a write: ")) << fact.reason;
    for (int i = 0; i < 8; ++i) { // each file got its byte
        const auto text = sys::read_file(fd_.get(), ("w" + std::to_string(i)).c_str(), 1 << 20U);
        ASSERT_TRUE(text);
        EXPECT_EQ(text->size(), 256U << 10U);
        EXPECT_EQ(text->at(0), 1);
        EXPECT_EQ(text->at(1), 2);
    }
}

/// A file system whose renames know no flags (ZFS before 2.2): the call with a flag comes first. Then it may end the
/// process at a later rename.
class PlainRenames : public sys::Hook {
public:
    explicit PlainRenames(int killed_at = 0) : killed_at_(killed_at) {}
    int before(const sys::Call &call) noexcept override {
        if (call.op != sys::Op::rename) return 0;
        const int now = seen_++;
        if (now > 0 && now == killed_at_) ::_exit(7);
        return now == 0 ? EINVAL : 0;
    }

private:
    std::atomic<int> seen_ = 0;
    int killed_at_;
};

class Exchange : public Tree {
protected:
    void put(uint64_t id, const char *mark) {
        ASSERT_TRUE(sys::make_dir(fd_.get(), std::to_string(id).c_str(), 0700));
        ASSERT_TRUE(sys::make_symlink(mark, fd_.get(), (std::to_string(id) + "/mark").c_str()));
    }
    std::string mark(uint64_t id) {
        return sys::read_link(fd_.get(), (std::to_string(id) + "/mark").c_str()).value_or("none");
    }
    Status exchange(PlainRenames &hook) {
        const auto root = TRY(LayerRoot::open(path_));
        sys::set_hook(&hook);
        auto done = root.exchange(LayerId{2}, LayerId{1});
        sys::set_hook(nullptr);
        return done;
    }
};

TEST_F(Exchange, WithoutFlags) {
    put(1, "old");
    put(2, "fresh");
    PlainRenames hook;
    ASSERT_TRUE(exchange(hook));
    EXPECT_EQ(mark(1), "fresh");
    EXPECT_EQ(mark(2), "old");
    EXPECT_EQ(LayerRoot::open(path_)->list()->size(), 2U);
}

TEST_F(Exchange, WithoutFlagsAndOld) {
    put(2, "fresh");
    PlainRenames hook;
    ASSERT_TRUE(exchange(hook));
    EXPECT_EQ(mark(1), "fresh");
    EXPECT_EQ(mark(2), "none");
}

TEST_F(Exchange, EndsAfterAKill) {
    for (int step = 1; step <= 3; ++step) {
        put(1, "old");
        put(2, "fresh");
        const pid_t child = ::fork();
        if (child == 0) {
            PlainRenames hook(step);
            (void)exchange(hook);
            ::_exit(0);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        ASSERT_EQ(WEXITSTATUS(status), 7) << step;
        const auto root = LayerRoot::open(path_);
        ASSERT_TRUE(root) << root.error().text();
        const bool done = step > 2;
        EXPECT_EQ(mark(1), done ? "fresh" : "old") << step;
        EXPECT_EQ(mark(2), done ? "old" : "fresh") << step;
        for (const char *name : {"1", "2"})
            ASSERT_TRUE(sys::remove_tree(fd_.get(), name));
    }
}

TEST_F(Exchange, TrashWithoutFlags) {
    put(1, "old");
    const auto root = LayerRoot::open(path_);
    for (int i = 0; i < 2; ++i) {
        PlainRenames hook;
        sys::set_hook(&hook);
        const auto done = root->to_trash("1", LayerId{1});
        sys::set_hook(nullptr);
        ASSERT_TRUE(done) << done.error().text();
        put(1, "again");
    }
    EXPECT_EQ(root->trash()->layers, 2U);
    EXPECT_EQ(*root->reap(nullptr), 4U);
}

} // namespace
} // namespace shale::drivers
