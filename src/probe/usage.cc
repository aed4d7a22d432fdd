// SPDX-License-Identifier: Apache-2.0
// One stack of directories that wait to be read, for all trees and all threads. The last one in is the first one out,
// so that few of them are open: a directory waits as its name and its parent's descriptor, which closes with the last
// child. A thread counts a directory by itself and adds the sums to its tree once.
//
// Files with several names are noted by each name that is met, and told apart at the end: such an inode is exclusive to
// a tree when as many names were met as it has.
#include "probe/usage.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include "base/fd.h"
#include "base/work_stack.h"
#include "sys/fs.h"
#include "sys/page_cache.h"

namespace shale::probe {

namespace {

constexpr uint64_t block_bytes = 512; // of st_blocks
constexpr uint64_t progress_step = 1U << 16U;

struct Sums {
    uint64_t bytes = 0, inodes = 0, resident = 0;
};

/// A name of a file that has several.
struct Name {
    uint64_t inode = 0, blocks = 0;
    uint32_t tree = 0, names = 0;
    auto operator<=>(const Name &) const = default;
};

struct Tree {
    dev_t device = 0;
    std::mutex mutex;
    Sums sums; ///< of inodes with one name, and of directories
    bool complete = true;
    std::vector<Problem> problems;
};

struct Waiting {
    std::shared_ptr<UniqueFd> parent; ///< null: it is the root of its tree
    std::string name;
    uint32_t tree = 0;
};

/// Without a mark of the access where that is allowed: O_NOATIME is the owner's.
Result<UniqueFd> open_quietly(int dir, const char *name) {
    auto opened = sys::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOATIME);
    if (opened || opened.error().sys_errno() != EPERM) return opened;
    return sys::open_dir(dir, name);
}

class Counter {
public:
    Counter(const Host &host, const std::vector<std::string> &paths, const CountOptions &options)
        : host_(host), paths_(paths), options_(options), trees_(paths.size()) {}

    void run();
    [[nodiscard]] CountedTree result(uint32_t tree);

private:
    void work();
    Result<UniqueFd> open(const Waiting &which, std::vector<Name> &names);
    void read(const Waiting &which, std::vector<Waiting> &found, std::vector<Name> &names);
    uint64_t look_at_pages(uint32_t tree, int dir, const char *name, uint64_t size);
    void note(uint32_t tree, std::string about, const Error &error);
    void add(uint32_t tree, const Sums &sums);

    const Host &host_;
    const std::vector<std::string> &paths_;
    const CountOptions &options_;
    std::vector<Tree> trees_;
    WorkStack<Waiting> waiting_;
    std::mutex mutex_;
    std::vector<Name> names_; ///< guarded by mutex_
    std::mutex progress_mutex_;
    std::atomic<uint64_t> counted_ = 0, told_ = 0;
};

void Counter::note(uint32_t tree, std::string about, const Error &error) {
    if (error.sys_errno() == ENOENT) return; // removed meanwhile
    Tree &its = trees_[tree];
    const std::lock_guard lock(its.mutex);
    its.complete = false;
    if (its.problems.size() < max_tree_problems) its.problems.push_back({std::move(about), error.text()});
}

void Counter::add(uint32_t tree, const Sums &sums) {
    {
        const std::lock_guard lock(trees_[tree].mutex);
        trees_[tree].sums.bytes += sums.bytes;
        trees_[tree].sums.inodes += sums.inodes;
        trees_[tree].sums.resident += sums.resident;
    }
    const uint64_t counted = counted_ += sums.inodes;
    if (!options_.on_progress || counted < told_.load(std::memory_order_relaxed) + progress_step) return;
    const std::lock_guard lock(progress_mutex_);
    told_ = counted;
    options_.on_progress(counted);
}

void Counter::work() {
    std::vector<Waiting> found;
    std::vector<Name> names;
    for (Waiting which; waiting_.take(which, found); which = {})
        read(which, found, names);
    const std::lock_guard lock(mutex_);
    names_.insert(names_.end(), names.begin(), names.end());
}

/// The directory; an invalid descriptor for a root that is none, which is counted here.
Result<UniqueFd> Counter::open(const Waiting &which, std::vector<Name> &names) {
    if (which.parent) return open_quietly(which.parent->get(), which.name.c_str());
    const auto root = TRY(host_.open_path(which.name, O_PATH | O_NOFOLLOW));
    const auto st = TRY(sys::stat_at(root.get(), ""));
    trees_[which.tree].device = st.st_dev;
    const auto blocks = static_cast<uint64_t>(st.st_blocks);
    if (S_ISDIR(st.st_mode) || st.st_nlink == 1)
        add(which.tree, {.bytes = blocks * block_bytes, .inodes = 1});
    else
        names.push_back({st.st_ino, blocks, which.tree, static_cast<uint32_t>(st.st_nlink)});
    return S_ISDIR(st.st_mode) ? open_quietly(root.get(), ".") : UniqueFd();
}

void Counter::read(const Waiting &which, std::vector<Waiting> &found, std::vector<Name> &names) {
    auto opened = open(which, names);
    if (!opened) return note(which.tree, which.name, opened.error());
    if (!*opened) return;
    const auto dir = std::make_shared<UniqueFd>(std::move(*opened));
    Sums sums;
    const auto listed = sys::for_each_entry(dir->get(), [&](const char *name, uint64_t, unsigned char) {
        const auto st = sys::stat_at(dir->get(), name);
        if (!st) return note(which.tree, name, st.error());
        if (st->st_dev != trees_[which.tree].device) return; // a mount
        const auto blocks = static_cast<uint64_t>(st->st_blocks);
        const bool is_dir = S_ISDIR(st->st_mode);
        if (S_ISREG(st->st_mode) && options_.page_cache != CountOptions::PageCache::ignored)
            sums.resident += look_at_pages(which.tree, dir->get(), name, static_cast<uint64_t>(st->st_size));
        if (is_dir || st->st_nlink == 1) {
            sums.bytes += blocks * block_bytes;
            ++sums.inodes;
        } else {
            names.push_back({st->st_ino, blocks, which.tree, static_cast<uint32_t>(st->st_nlink)});
        }
        if (is_dir) found.push_back({dir, name, which.tree});
    });
    if (!listed) note(which.tree, sys::path_of_fd(dir->get()).value_or("a directory"), listed.error());
    add(which.tree, sums);
}

/// Opening does not make a file's pages be read.
uint64_t Counter::look_at_pages(uint32_t tree, int dir, const char *name, uint64_t size) {
    if (size == 0) return 0;
    auto fd = sys::open_at(dir, name, O_RDONLY | O_NONBLOCK | O_NOATIME);
    if (!fd && fd.error().sys_errno() == EPERM) fd = sys::open_at(dir, name, O_RDONLY | O_NONBLOCK);
    const auto cached = fd ? sys::cached_pages(fd->get(), size) : Result<sys::CachedFile>(std::unexpected(fd.error()));
    if (!cached) {
        note(tree, name, cached.error());
        return 0;
    }
    if (options_.page_cache == CountOptions::PageCache::dropped && cached->resident != 0)
        if (const Status dropped = sys::drop_pages(fd->get()); !dropped) note(tree, name, dropped.error());
    return cached->resident;
}

void Counter::run() {
    for (size_t i = paths_.size(); i-- > 0;)
        waiting_.push({nullptr, paths_[i], static_cast<uint32_t>(i)});
    waiting_.run(options_.threads, [this] { work(); });
    std::ranges::sort(names_, {}, [](const Name &name) { return std::pair(name.tree, name.inode); });
}

CountedTree Counter::result(uint32_t tree) {
    Tree &its = trees_[tree];
    CountedTree out;
    out.path = paths_[tree];
    out.problems = std::move(its.problems);
    out.resident_bytes = its.sums.resident;
    Usage &usage = out.usage;
    usage = {.bytes = its.sums.bytes,
             .inodes = its.sums.inodes,
             .exclusive_bytes = its.sums.bytes,
             .exclusive_inodes = its.sums.inodes,
             .complete = its.complete};
    const auto mine = std::ranges::equal_range(names_, tree, {}, &Name::tree);
    for (auto name = mine.begin(); name != mine.end();) {
        const auto next = std::find_if(name, mine.end(), [&](const Name &other) { return other.inode != name->inode; });
        usage.bytes += name->blocks * block_bytes;
        ++usage.inodes;
        if (static_cast<uint64_t>(next - name) >= name->names) {
            usage.exclusive_bytes += name->blocks * block_bytes;
            ++usage.exclusive_inodes;
        }
        name = next;
    }
    return out;
}

} // namespace

std::vector<CountedTree> count_trees(const Host &host, const std::vector<std::string> &paths,
                                     const CountOptions &options) {
    Counter counter(host, paths, options);
    counter.run();
    std::vector<CountedTree> out;
    out.reserve(paths.size());
    for (size_t i = 0; i < paths.size(); ++i)
        out.push_back(counter.result(static_cast<uint32_t>(i)));
    return out;
}

} // namespace shale::probe
