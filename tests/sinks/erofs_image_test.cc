// SPDX-License-Identifier: Apache-2.0
// Images against the kernel and against erofs-utils: random layers are unpacked into a directory and into an image, and
// what the kernel shows of both must be the same to the nanosecond; fsck.erofs and dump.erofs must accept every image.
// Where one of the two is not installed a test that made images counts as skipped, though the rest of it was done.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ctime>
#include <map>
#include <random>
#include <set>

#include <fmt/format.h>

#include "archive/tar.h"
#include "archive/tree_walk.h"
#include "conformance/hostile.h"
#include "drivers/common.h"
#include "drivers/erofs/erofs.h"
#include "drivers/erofs/host_tree.h"
#include "support/world.h"
#include "sys/fs.h"

namespace shale::test {
namespace {

using archive::Entry;
using archive::EntryType;
using drivers::erofs::ImageTree;

/// Path, mode, owner, times, size, data's digest, target, device, attributes, names in common; of everything.
std::string describe(int root, bool with_root_times) {
    std::map<std::string, std::string> lines;
    std::map<ino_t, std::string> first;
    const auto one = [&](int dir, const char *name, const struct stat &st, const std::string &path) {
        if (S_ISCHR(st.st_mode) && st.st_rdev == 0) { // nothing else of it counts
            lines[path] = "deleted";
            return;
        }
        std::string line =
            fmt::format("{:o} {}:{} {}", st.st_mode, st.st_uid, st.st_gid, S_ISDIR(st.st_mode) ? 0 : st.st_size);
        if (with_root_times || !path.empty()) line += fmt::format(" t{}.{}", st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
        if (S_ISREG(st.st_mode)) {
            const auto file = sys::open_at(dir, name, O_RDONLY);
            EXPECT_TRUE(file) << path;
            Sha256 hash;
            std::vector<std::byte> buffer(size_t{1} << 16U);
            for (uint64_t at = 0; file;) {
                const auto got = sys::pread_some(file->get(), buffer, at);
                EXPECT_TRUE(got) << path << ": " << got.error().text();
                if (!got || *got == 0) break;
                hash.update(std::span<const std::byte>(buffer).first(*got));
                at += *got;
            }
            line += " " + hash.finish().hex();
        }
        if (S_ISLNK(st.st_mode)) line += " -> " + sys::read_link(dir, name).value_or("<error>");
        if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) line += fmt::format(" dev {}", st.st_rdev);
        const auto xattrs = archive::read_xattrs(dir, name);
        EXPECT_TRUE(xattrs) << path;
        if (xattrs)
            for (const auto &[key, value] : *xattrs)
                line += fmt::format(" {}={}", key, Digest::of(std::string_view(value)).hex().substr(0, 16));
        if (!S_ISDIR(st.st_mode))
            line += fmt::format(" n{} {}", st.st_nlink, first.try_emplace(st.st_ino, path).first->second);
        lines[path] = line;
    };
    one(root, "", *sys::stat_at(root, ""), "");
    // In order of paths, so that the first of several names is the same one.
    std::map<std::string, struct stat> all;
    EXPECT_TRUE(
        drivers::walk_tree(root, [&](int, const char *name, const struct stat &st, std::string_view path) -> Status {
            all[std::string(path) + name] = st;
            return {};
        }));
    for (const auto &[path, st] : all) {
        const auto slash = path.rfind('/');
        const auto dir = sys::open_dirs(root, slash == std::string::npos ? "" : path.substr(0, slash));
        EXPECT_TRUE(dir) << path;
        if (dir) one(dir->get(), path.c_str() + (slash == std::string::npos ? 0 : slash + 1), st, path);
    }
    std::string out;
    for (const auto &[path, line] : lines)
        out += path + ": " + line + "\n";
    return out;
}

constexpr int cannot_run = 127;

/// Exit status; cannot_run: there is no such program.
int run(const std::vector<const char *> &arguments) {
    const pid_t child = ::fork();
    if (child == 0) {
        const rlimit stack{uint64_t{1} << 30U, uint64_t{1} << 30U}; // they recurse
        (void)::setrlimit(RLIMIT_STACK, &stack);
        const int log = ::open("/dev/null", O_WRONLY);
        ::dup2(log, 1);
        auto copy = arguments;
        copy.push_back(nullptr);
        ::execvp(copy[0], const_cast<char *const *>(copy.data()));
        ::_exit(cannot_run);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

class ErofsImage : public testing::Test {
protected:
    void SetUp() override {
        if (const auto why = cannot_mount(); !why.empty()) GTEST_SKIP() << why;
        world_.emplace();
        ::mkdir((*world_ / "mnt").c_str(), 0755);
    }
    void TearDown() override {
        unmount();
        if (!missing_.empty())
            GTEST_SKIP() << missing_ << " is not installed (erofs-utils): it has not seen the images of this test";
    }
    void unmount() {
        if (mounted_) (void)sys::unmount(*world_ / "mnt", 2);
        mounted_ = false;
    }
    Result<std::unique_ptr<ImageTree>> new_tree(const char *name = "image") {
        const std::string path = *world_ / name;
        return std::make_unique<ImageTree>(TRY(sys::open_at(AT_FDCWD, path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600)));
    }
    /// One of erofs-utils looks at the image.
    void judge(const std::vector<const char *> &arguments) {
        const int status = run(arguments);
        if (status == cannot_run)
            missing_ = arguments.front();
        else
            EXPECT_EQ(status, 0) << arguments.front();
    }
    /// fsck, dump, mount; the mounted root.
    UniqueFd accepted() {
        const std::string image = *world_ / "image";
        judge({"fsck.erofs", image.c_str()});
        judge({"dump.erofs", "-s", "-S", image.c_str()});
        const auto fd = sys::open_at(AT_FDCWD, image.c_str(), O_RDONLY);
        EXPECT_TRUE(fd);
        const auto info = drivers::erofs::read_info(fd->get());
        EXPECT_TRUE(info) << info.error().text();
        if (info) {
            EXPECT_EQ(info->digest, *drivers::erofs::digest_of_image(fd->get()));
        }
        const auto mounted = drivers::erofs::mount_image(image, *world_ / "mnt", std::nullopt);
        EXPECT_TRUE(mounted) << mounted.error().text();
        mounted_ = mounted.has_value();
        return std::move(*sys::open_dir(AT_FDCWD, (*world_ / "mnt").c_str()));
    }
    static Result<archive::ExtractReport> extract(const std::string &tar, archive::Tree &tree) {
        bool given = false;
        archive::TarReader reader(
            [&]() -> Result<std::span<const std::byte>> {
                if (std::exchange(given, true)) return std::span<const std::byte>();
                return std::as_bytes(std::span(tar));
            },
            {});
        return archive::extract_tar(reader, tree, {});
    }
    /// The same archive as a directory and as an image; both must look alike.
    void compare(const std::string &tar) {
        world_->remove("dir");
        ::mkdir((*world_ / "dir").c_str(), 0755);
        const auto dir = sys::open_dir(AT_FDCWD, (*world_ / "dir").c_str());
        archive::DirectoryTree directory(dir->get());
        const auto one = extract(tar, directory);
        auto tree = new_tree();
        ASSERT_TRUE(tree);
        const auto two = extract(tar, **tree);
        ASSERT_EQ(one.has_value(), two.has_value()) << (one ? two.error().text() : one.error().text());
        if (!one) {
            EXPECT_EQ(one.error().text(), two.error().text());
            ++refused_;
            return;
        }
        EXPECT_EQ(one->inodes, two->inodes);
        EXPECT_EQ(one->whiteouts, two->whiteouts);
        EXPECT_EQ(one->implied_dirs, two->implied_dirs);
        EXPECT_EQ(one->deferred_links.size(), two->deferred_links.size());
        // A directory that the layer does not state has the time of the unpacking there, none here.
        EXPECT_TRUE(drivers::walk_tree(
            dir->get(), [](int at, const char *name, const struct stat &st, std::string_view) -> Status {
                if (!S_ISDIR(st.st_mode) || std::abs(st.st_mtim.tv_sec - ::time(nullptr)) > 3600) return {};
                return sys::set_times(at, name, {}, {});
            }));
        const auto digest = (*tree)->finish();
        ASSERT_TRUE(digest) << digest.error().text();
        const auto root = accepted();
        EXPECT_EQ(describe(dir->get(), one->has_root_entry), describe(root.get(), one->has_root_entry));
        unmount();
        auto again = new_tree("again");
        ASSERT_TRUE(extract(tar, **again));
        EXPECT_EQ(*(*again)->finish(), *digest) << "the same layer, other bytes";
    }

    std::optional<World> world_;
    std::string missing_; ///< a program that was to look at an image, and is not installed
    bool mounted_ = false;
    unsigned refused_ = 0;
};

/// A random layer; names repeat, so that entries replace each other.
class RandomLayer {
public:
    explicit RandomLayer(unsigned seed) : random_(seed) {}

    std::string tar() {
        Layer layer;
        const size_t entries = pick(0, 3) == 0 ? pick(0, 4) : pick(5, 400);
        for (size_t i = 0; i < entries; ++i)
            layer.push_back(member());
        return tar_of(layer);
    }

private:
    size_t pick(size_t low, size_t high) { return std::uniform_int_distribution<size_t>(low, high)(random_); }
    std::string name() {
        switch (pick(0, 12)) {
        case 0:
            return std::string(pick(200, 250), static_cast<char>('a' + pick(0, 3)));
        case 1:
            return std::string(1, static_cast<char>(pick(0x80, 0xff))) + "\xff\x01 \n";
        case 2:
            return "!" + std::to_string(pick(0, 9)); // before "." in order
        case 3:
            return "..." + std::to_string(pick(0, 3));
        default:
            return fmt::format("n{}", pick(0, 60));
        }
    }
    std::string path() {
        for (;;) {
            std::string out;
            for (size_t depth = pick(0, 4); depth > 0; --depth)
                out += fmt::format("d{}/", pick(0, 5));
            out += name();
            if (!paths_.empty() && pick(0, 9) == 0) out = paths_[pick(0, paths_.size() - 1)];
            return out;
        }
    }
    std::string content() {
        static constexpr size_t sizes[] = {0,    1,    100,  1000, 4030, 4031,   4032,
                                           4033, 4095, 4096, 4097, 8191, 12'288, 70'000};
        std::string out(pick(0, 1) == 0 ? sizes[pick(0, std::size(sizes) - 1)] : pick(0, 6000), '\0');
        for (size_t i = 0; i < out.size(); ++i)
            out[i] = static_cast<char>(random_());
        return out;
    }
    Member member() {
        Member out;
        Entry &entry = out.entry;
        entry.path = path();
        entry.mode = static_cast<uint32_t>(pick(0, 07777));
        entry.uid = pick(0, 3) == 0 ? pick(0, 4'000'000'000) : pick(0, 5);
        entry.gid = pick(0, 5);
        entry.mtime_s = static_cast<int64_t>(pick(0, 2'000'000'000)) - 1000;
        entry.mtime_ns = static_cast<uint32_t>(pick(0, 1) * pick(0, 999'999'999));
        const size_t kind = pick(0, 19);
        const bool has_user = kind < 12;
        if (kind < 9) {
            out.content = content();
        } else if (kind < 12) {
            entry.type = EntryType::directory;
        } else if (kind < 14) {
            entry.type = EntryType::symlink;
            entry.link = pick(0, 20) == 0 ? std::string(pick(3900, 4095), 't') : "d" + std::to_string(pick(0, 5));
        } else if (kind < 16 && !files_.empty()) {
            entry.type = EntryType::hard_link;
            entry.link = *std::next(files_.begin(), static_cast<ptrdiff_t>(pick(0, files_.size() - 1)));
            entry.path += "-link";
        } else if (kind == 16) {
            entry.type = pick(0, 1) == 0 ? EntryType::char_device : EntryType::block_device;
            entry.dev_major = static_cast<uint32_t>(pick(1, 4095));
            entry.dev_minor = static_cast<uint32_t>(pick(0, 0xfffff));
        } else if (kind == 17) {
            entry.type = EntryType::fifo;
        } else if (kind == 18) {
            out.entry = whiteout(fmt::format("{}d{}", pick(0, 1) == 0 ? "d1/" : "", pick(0, 5)));
            return out;
        } else {
            out.entry = opaque(fmt::format("d{}", pick(0, 5)));
            return out;
        }
        if (has_user && pick(0, 3) == 0)
            for (size_t i = pick(1, 3); i > 0; --i)
                entry.xattrs.emplace_back(fmt::format("user.k{}", pick(0, 9)), std::string(pick(0, 40), 'v'));
        if (kind < 9 && pick(0, 9) == 0) entry.xattrs.emplace_back("trusted.once", std::to_string(random_()));
        paths_.push_back(entry.path);
        files_.erase(entry.path);
        if (kind < 9) files_.insert(entry.path);
        return out;
    }

    std::mt19937_64 random_;
    std::vector<std::string> paths_;
    std::set<std::string> files_;
};

TEST_F(ErofsImage, RandomLayersLookAsInADirectory) {
    const char *given = std::getenv("SHALE_SEEDS");
    const unsigned seeds = given != nullptr ? static_cast<unsigned>(std::atoi(given)) : 60;
    for (unsigned seed = 0; seed < seeds && !HasFailure(); ++seed) {
        SCOPED_TRACE(fmt::format("seed {}", seed));
        compare(RandomLayer(seed).tar());
    }
    EXPECT_LT(refused_, seeds / 4) << "archives that no tree takes test little";
}

// But for attributes: the refusal of one names the place.
TEST_F(ErofsImage, HostileLayersLookAsInADirectory) {
    for (auto *group : {hostile::names, hostile::symlinks, hostile::hard_links, hostile::whiteouts, hostile::nodes,
                        hostile::repeated})
        for (const auto &one : group("/outside/canary")) {
            SCOPED_TRACE(one.name);
            compare(tar_of(one.layer));
        }
}

TEST_F(ErofsImage, Empty) {
    compare(tar_of({}));
}

TEST_F(ErofsImage, ManyEntriesInOneDirectory) {
    Layer layer;
    for (int i = 0; i < 100'000; ++i)
        layer.push_back({file(fmt::format("big/name-{:x}", i * 7919 % 100'000)), ""});
    compare(tar_of(layer));
}

// Names that differ in two bytes only, and so fell into one place of a table without a key: seconds then, not minutes.
TEST(ErofsTree, ManyNamesThatLookAlike) {
    const World world;
    ImageTree tree(*sys::open_at(AT_FDCWD, (world / "image").c_str(), O_RDWR | O_CREAT, 0600));
    const auto begin = std::clock();
    std::string name = "aaaaaa..";
    for (int i = 1; i < 256; ++i)
        for (int k = 1; k < 256; ++k) {
            name[6] = static_cast<char>(i == '/' ? '0' : i);
            name[7] = static_cast<char>(k == '/' ? '0' : k);
            (void)tree.make_dir(tree.root(), name.c_str(), 0755); // '0' twice: EEXIST
        }
    EXPECT_EQ(tree.inodes(), 1U + 254 * 254);
    EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 4.0);
}

TEST_F(ErofsImage, DeepDirectories) {
    std::string path;
    for (int i = 0; i < 1000; ++i)
        path += "d/";
    compare(tar_of({{dir(path), ""}, {file(path + "f"), "deep"}}));
}

TEST_F(ErofsImage, ManyAttributes) {
    Layer layer;
    for (int i = 0; i < 40; ++i) {
        auto one = file(fmt::format("f{}", i));
        one.xattrs = {{"user.same", "value"}, {"user.own", std::to_string(i)}, {"user.big", std::string(3000, 'b')}};
        layer.push_back({one, std::string(2000, 'x')});
    }
    auto top = dir("./");
    top.xattrs = {{"user.top", std::string(3500, 't')}, {"user.same", "value"}};
    layer.push_back({top, ""});
    compare(tar_of(layer));
}

TEST_F(ErofsImage, SparseFiles) {
    auto tree = new_tree();
    ASSERT_TRUE(tree);
    struct Range {
        uint64_t offset, length;
    };
    const std::map<std::string, std::pair<uint64_t, std::vector<Range>>> files{
        {"hole", {uint64_t{5} << 30U, {}}},
        {"ends", {uint64_t{1} << 40U, {{0, 10}, {(uint64_t{1} << 40U) - 5, 5}}}},
        {"odd", {1'000'001, {{4000, 200}, {4200, 1}, {9000, 5000}, {1'000'000, 1}}}},
        {"small", {100, {{50, 10}}}},
    };
    for (const auto &[name, file] : files) {
        const auto made = (*tree)->create_file(0, name.c_str(), 0644);
        ASSERT_TRUE(made);
        ASSERT_TRUE((*tree)->truncate(made->get(), file.first));
        for (const auto &range : file.second) {
            const std::string data(range.length, 'd');
            ASSERT_TRUE((*tree)->write_at(made->get(), std::as_bytes(std::span(data)), range.offset));
        }
    }
    ASSERT_TRUE((*tree)->finish());
    struct stat image{};
    ASSERT_EQ(::stat((*world_ / "image").c_str(), &image), 0);
    EXPECT_LT(image.st_blocks * 512, 64 << 20) << "holes take no room";
    const auto root = accepted();
    for (const auto &[name, file] : files) {
        const auto fd = sys::open_at(root.get(), name.c_str(), O_RDONLY);
        ASSERT_TRUE(fd);
        EXPECT_EQ(static_cast<uint64_t>(sys::stat_at(fd->get(), "")->st_size), file.first);
        for (const auto &range : file.second) {
            std::vector<std::byte> got(range.length + 2);
            const uint64_t from = range.offset == 0 ? 0 : range.offset - 1;
            const auto count = sys::pread_some(fd->get(), got, from);
            ASSERT_TRUE(count) << count.error().text();
            for (size_t i = 0; i < *count; ++i) {
                bool inside = false;
                for (const auto &one : file.second)
                    inside = inside || (from + i >= one.offset && from + i < one.offset + one.length);
                ASSERT_EQ(got[i], inside ? std::byte{'d'} : std::byte{0}) << name << " " << from + i;
            }
        }
    }
}

// A large file has large chunks: one byte in each of a thousand must not become a thousand chunks of zeros.
TEST_F(ErofsImage, ABytePerChunkTakesABlock) {
    auto tree = new_tree();
    ASSERT_TRUE(tree);
    const auto made = (*tree)->create_file(0, "f", 0644);
    ASSERT_TRUE((*tree)->truncate(made->get(), uint64_t{100} << 30U));
    for (uint64_t i = 0; i < 1000; ++i) {
        const auto byte = std::byte{'d'};
        ASSERT_TRUE((*tree)->write_at(made->get(), std::span(&byte, 1), i << 20U));
    }
    ASSERT_TRUE((*tree)->finish());
    struct stat image{};
    ASSERT_EQ(::stat((*world_ / "image").c_str(), &image), 0);
    EXPECT_LT(image.st_blocks * 512, 16 << 20);
    const auto root = accepted();
    const auto fd = sys::open_at(root.get(), "f", O_RDONLY);
    ASSERT_TRUE(fd);
    std::vector<std::byte> got(3);
    ASSERT_EQ(sys::pread_some(fd->get(), got, (uint64_t{7} << 20U) - 1).value_or(0), 3U);
    EXPECT_EQ(got, (std::vector{std::byte{0}, std::byte{'d'}, std::byte{0}}));
}

TEST_F(ErofsImage, AContainersUpperBecomesAnImage) {
    ::mkdir((*world_ / "upper").c_str(), 0751);
    const auto upper = sys::open_dir(AT_FDCWD, (*world_ / "upper").c_str());
    ASSERT_TRUE(upper);
    archive::DirectoryTree directory(upper->get());
    Layer layer{{dir("./", 0751), ""},       {dir("d/"), ""},
                {file("d/a", 04711), "one"}, {hard_link("b", "d/a"), ""},
                {symlink("l", "d/a"), ""},   {whiteout("gone"), ""},
                {opaque("d"), ""},           {file("e"), std::string(9000, 'e')}};
    layer[2].entry.xattrs = {{"user.k", "v"}, {"trusted.t", "w"}};
    const auto extracted = extract(tar_of(layer), directory);
    ASSERT_TRUE(extracted) << extracted.error().text();
    auto tree = new_tree();
    ASSERT_TRUE(tree);
    const auto copied = drivers::erofs::copy_upper(**tree, upper->get());
    ASSERT_TRUE(copied) << copied.error().text();
    ASSERT_TRUE((*tree)->finish());
    const auto root = accepted();
    EXPECT_EQ(describe(upper->get(), true), describe(root.get(), true));
}

} // namespace
} // namespace shale::test
