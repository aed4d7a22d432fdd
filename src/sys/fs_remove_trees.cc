// SPDX-License-Identifier: Apache-2.0
// Many trees removed by several threads, from one stack of directories that wait. One that waits is its name and its
// parent; whoever removes the last thing in a directory removes the directory, too. What resists is left where it is.
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <utility>

#include "base/work_stack.h"
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
            waiting_.push(below(top, name));
        }
    }

    void run() {
        waiting_.run(options_.threads, [this] { work(); });
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
        for (Shared next; waiting_.take(next, found);) {
            empty(next, found);
            close(std::exchange(next, nullptr));
        }
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
    WorkStack<Shared> waiting_;
};

} // namespace

void remove_what_goes(int dir, std::span<const std::string> names, const RemoveOptions &options) {
    Removers(dir, names, options).run();
}

} // namespace shale::sys
