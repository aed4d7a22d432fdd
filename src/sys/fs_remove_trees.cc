// SPDX-License-Identifier: Apache-2.0
// Many trees removed by several threads: one stack of directories that wait, the last one in is the first one out, so
// that few of them are open. A directory that waits is its name and its parent; whoever removes the last thing in a
// directory removes the directory, too. What resists is left where it is.
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "sys/fs.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

using detail::invoke;

constexpr unsigned max_depth = 100; ///< as many descriptors a thread may hold; what is deeper is left

struct Directory {
    std::shared_ptr<Directory> parent; ///< null: the one that the trees are in
    std::string name;
    unsigned depth = 0;
    UniqueFd fd{};
    std::atomic<size_t> open_ends = 1; ///< subdirectories that are there still, and its own reading
};
using Shared = std::shared_ptr<Directory>;

class Removers {
public:
    Removers(int dir, std::span<const std::string> names, const RemoveOptions &options) : options_(options) {
        auto top = std::make_shared<Directory>();
        top->fd = UniqueFd(::fcntl(dir, F_DUPFD_CLOEXEC, 0));
        for (const auto &name : names) {
            ++top->open_ends;
            waiting_.push_back(below(top, name));
        }
    }

    void run() {
        std::vector<std::jthread> others;
        working_ = 1;
        for (unsigned i = 1; i < options_.threads; ++i) {
            const std::lock_guard lock(mutex_); // before it looks whether anybody works
            try {
                others.emplace_back([this] { work(); });
                ++working_;
            } catch (const std::system_error &) {
                break; // no more threads: the others do it
            }
        }
        work();
    }

private:
    static Shared below(const Shared &parent, std::string name) {
        auto out = std::make_shared<Directory>();
        out->parent = parent;
        out->name = std::move(name);
        out->depth = parent->depth + 1;
        return out;
    }

    void work() {
        std::vector<Shared> found;
        for (Shared next; take(next, found);) {
            empty(next, found);
            close(std::exchange(next, nullptr));
        }
    }

    bool take(Shared &out, std::vector<Shared> &found) {
        std::unique_lock lock(mutex_);
        waiting_.insert(waiting_.end(), std::make_move_iterator(found.begin()), std::make_move_iterator(found.end()));
        found.clear();
        --working_;
        if (waiting_.size() > 1 || (waiting_.empty() && working_ == 0)) wake_.notify_all();
        wake_.wait(lock, [&] { return !waiting_.empty() || working_ == 0; });
        if (waiting_.empty()) return false;
        ++working_;
        out = std::move(waiting_.back());
        waiting_.pop_back();
        return true;
    }

    [[nodiscard]] bool cancelled() const {
        return options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed);
    }

    /// Its files go, its directories are found.
    void empty(const Shared &directory, std::vector<Shared> &found) {
        if (cancelled() || directory->depth > max_depth) return;
        auto opened =
            open_at2(directory->parent->fd.get(), directory->name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW,
                     RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
        if (!opened) return;
        directory->fd = std::move(*opened);
        std::vector<DirEntry> entries;
        for (bool more = true; more;) {
            const auto read = detail::read_entries(directory->fd.get(), entries);
            more = read && *read;
        }
        for (auto &entry : entries) {
            if (cancelled()) return;
            if (entry.type != DT_DIR && (remove(*directory, entry.name, 0) || errno != EISDIR)) continue;
            ++directory->open_ends;
            found.push_back(below(directory, std::move(entry.name)));
        }
    }

    /// One end of it less; with the last one it goes, and is one less of its parent's.
    void close(Shared directory) {
        while (directory && --directory->open_ends == 0) {
            directory->fd = {};
            if (directory->parent) (void)remove(*directory->parent, directory->name, AT_REMOVEDIR);
            directory = Shared(directory->parent);
        }
    }

    bool remove(const Directory &in, const std::string &name, int flags) const {
        const int dir = in.fd.get();
        if (invoke(Op::unlink, dir, name.c_str(), [&] { return ::unlinkat(dir, name.c_str(), flags); }) != 0)
            return false;
        if (options_.on_entry) options_.on_entry();
        return true;
    }

    const RemoveOptions &options_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<Shared> waiting_;
    size_t working_ = 0; ///< threads that may still add to waiting_
};

} // namespace

void remove_what_goes(int dir, std::span<const std::string> names, const RemoveOptions &options) {
    Removers(dir, names, options).run();
}

} // namespace shale::sys
