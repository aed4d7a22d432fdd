// SPDX-License-Identifier: Apache-2.0
#include "sys/path_walk.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "base/paths.h"
#include "sys/fs.h"

namespace shale::sys {
namespace {

constexpr size_t max_depth = 128, max_steps = 400;

using Directory = std::shared_ptr<const UniqueFd>;

bool is_missing(const Error &error) {
    const int number = error.sys_errno();
    return number == ENOENT || number == ENOTDIR || number == ENAMETOOLONG;
}

class Walk {
public:
    Walk(Directory root, std::string_view path) : directories_{std::move(root)} { push_parts(path, todo_); }

    Result<WalkedPath> run() {
        while (!todo_.empty()) {
            const std::string name = std::move(todo_.back());
            todo_.pop_back();
            if (name == "..") { // of the root: the root
                if (directories_.size() > 1) directories_.pop_back(), out_.names.pop_back();
                continue;
            }
            if (!TRY(enter(name))) return std::move(out_);
        }
        if (!out_.file) out_.file = TRY(open_at(directories_.back()->get(), ".", O_PATH | O_DIRECTORY));
        return std::move(out_);
    }

private:
    /// False: the walk is at its end.
    Result<bool> enter(const std::string &name) {
        if (out_.steps.size() == max_steps || directories_.size() == max_depth)
            return fail(Errc::ResourceExhausted,
                        "a path that leads through more directories than are followed (128 deep, 400 in all)");
        const Directory &directory = directories_.back();
        out_.steps.push_back({directory, name});
        auto found = open_at(directory->get(), name.c_str(), O_PATH);
        if (!found && is_missing(found.error())) return false;
        UniqueFd fd = TRY(std::move(found));
        const auto status = TRY(stat_at(fd.get(), ""));
        if (S_ISLNK(status.st_mode)) return follow(fd.get());
        if (S_ISDIR(status.st_mode)) {
            directories_.push_back(std::make_shared<const UniqueFd>(std::move(fd)));
            out_.names.push_back(name);
            return true;
        }
        if (!todo_.empty()) return false; // a file, and the path goes on
        out_.file = std::move(fd);
        out_.names.push_back(name);
        return true;
    }

    Result<bool> follow(int link) {
        if (++links_ > max_symlinks) return false;
        const std::string target = TRY(read_link(link, ""));
        if (target.empty()) return false;
        push_parts(target, todo_);
        if (target.starts_with('/')) {
            directories_.resize(1);
            out_.names.clear();
        }
        return true;
    }

    std::vector<Directory> directories_; ///< the root, and where the walk is
    std::vector<std::string> todo_;      ///< the next one is the last
    int links_ = 0;
    WalkedPath out_;
};

} // namespace

Result<WalkedPath> walk_path(int root, std::string_view path) {
    return Walk(std::make_shared<const UniqueFd>(TRY(open_at(root, ".", O_PATH | O_DIRECTORY))), path).run();
}

} // namespace shale::sys
