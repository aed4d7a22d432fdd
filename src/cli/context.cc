// SPDX-License-Identifier: Apache-2.0
#include "cli/context.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <utility>

#include "sys/fs.h"

namespace shale::cli {

Result<std::unique_ptr<store::Store>> Context::open_store(Access access) const {
    store::StoreOptions options = store_options(settings);
    options.read_only = access == Access::read_only;
    options.migrating = access == Access::migrate;
    auto store = store::Store::open(options);
    if (!store && !rootless.unavailable.empty())
        return std::unexpected(std::move(store).error().add(rootless.unavailable));
    return store;
}

Status Context::reap(store::Store &store) const {
    Status told = flush_output(); // a reader that has gone does not keep the space
    TRY(store.reap(cancel));
    return told;
}

void Context::print(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
}

void Context::note(std::string_view text) {
    const std::string line = std::string(text) + "\n";
    std::fwrite(line.data(), 1, line.size(), stderr);
}

Status flush_output() {
    errno = 0;
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return {};
    if (errno == EPIPE) return fail(Errc::Canceled, "standard output was closed by its reader");
    return fail_errno(errno != 0 ? errno : EIO, "write standard output");
}

OutputFile::~OutputFile() {
    if (!partial_.empty() && fd_) (void)sys::unlink_at(AT_FDCWD, partial_.c_str());
}

Result<OutputFile> OutputFile::create(const std::string &path, const Context &context) {
    OutputFile out;
    out.path_ = path;
    out.sync_ = context.settings.durability == store::Durability::full;
    if (path == "-") {
        if (isatty(STDOUT_FILENO) != 0)
            return fail(Errc::InvalidArgument,
                        "an archive is not written to a terminal; name a file or redirect standard output");
        out.out_ = STDOUT_FILENO;
        return out;
    }
    struct stat found{};
    if (::stat(path.c_str(), &found) == 0 && !S_ISREG(found.st_mode)) {
        if (S_ISDIR(found.st_mode)) return fail(Errc::InvalidArgument, fmt::format("{} is a directory", path));
        out.fd_ = UniqueFd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
        if (!out.fd_) return fail_errno(errno, "open " + path);
    } else {
        out.partial_ = fmt::format("{}.partial-{}", path, getpid());
        out.fd_ = TRY(in_context(
            sys::open_at(AT_FDCWD, out.partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0666U & ~context.user_umask),
            [&] { return "create " + out.partial_; }));
    }
    out.out_ = out.fd_.get();
    return out;
}

archive::Sink OutputFile::sink() {
    return [this](std::span<const std::byte> bytes) -> Status {
        return in_context(sys::write_all(out_, bytes),
                          [&] { return "write " + (path_ == "-" ? "standard output" : path_); });
    };
}

Status OutputFile::commit() {
    if (partial_.empty()) return {};
    if (sync_) TRY(sys::fsync_fd(fd_.get()));
    TRY(sys::rename_at(AT_FDCWD, partial_.c_str(), AT_FDCWD, path_.c_str()));
    partial_.clear();
    if (!sync_) return {};
    const size_t slash = path_.rfind('/');
    const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : path_.substr(0, slash);
    UniqueFd dir(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!dir) return fail_errno(errno, "open " + parent);
    return sys::fsync_fd(dir.get());
}

std::string ago(int64_t unix_ns) {
    const int64_t seconds = std::time(nullptr) - unix_ns / 1'000'000'000;
    if (seconds < 1) return "now";
    constexpr std::array<std::pair<int64_t, std::string_view>, 6> units{
        {{31'536'000, "year"}, {604'800, "week"}, {86'400, "day"}, {3'600, "hour"}, {60, "minute"}, {1, "second"}}};
    for (const auto &[size, name] : units)
        if (seconds >= size) return fmt::format("{} {}{} ago", seconds / size, name, seconds / size == 1 ? "" : "s");
    return "now";
}

std::string short_digest(const Digest &digest) {
    return digest.hex().substr(0, 12);
}

} // namespace shale::cli
