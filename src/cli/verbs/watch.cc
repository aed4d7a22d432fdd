// SPDX-License-Identifier: Apache-2.0
// watch.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/text.h"
#include "cli/verbs.h"
#include "cli/watch_delivery.h"
#include "cli/watch_source.h"
#include "sys/fs.h"
#include "sys/name_watch.h"
#include "sys/pidfd.h"

namespace shale::cli {
namespace {

using Clock = std::chrono::steady_clock;
using sys::NameWatch;

/// SIGINT and SIGTERM wait until ppoll(2) lets them in: none comes between looking for it and waiting.
class HeldSignals {
public:
    HeldSignals() {
        sigset_t held;
        sigemptyset(&held);
        sigaddset(&held, SIGINT);
        sigaddset(&held, SIGTERM);
        pthread_sigmask(SIG_BLOCK, &held, &before_);
    }
    HeldSignals(const HeldSignals &) = delete;
    HeldSignals &operator=(const HeldSignals &) = delete;
    ~HeldSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    /// As they are without holding any.
    [[nodiscard]] const sigset_t &before() const { return before_; }

private:
    sigset_t before_{};
};

sigset_t current_signals() {
    sigset_t out;
    sigemptyset(&out);
    pthread_sigmask(SIG_SETMASK, nullptr, &out);
    return out;
}

/// What the user called it, and where it is looked for.
struct Named {
    std::string shown, source; ///< source: on the host, of what is mounted there; empty: none
    bool was_stale_told = false;
};

void note(const std::string &text) {
    Context::note("shale: " + printable(text));
}

class Watcher {
public:
    Watcher(Context &context, const WatchArgs &args)
        : context_(context), args_(args), runner_(args.command, current_signals(), context.user_umask) {}

    Result<int> run() {
        TRY(find_process());
        std::vector<sys::WatchedPath> paths;
        paths.reserve(args_.paths.size());
        for (const std::string &path : args_.paths)
            paths.push_back(TRY(look_for(path)));
        sys::NameWatchOptions options;
        options.debounce = std::chrono::milliseconds(args_.debounce_ms);
        watch_.emplace(TRY(NameWatch::open(std::move(paths), options)));
        say_what_is_watched();
        open_mount_tables();
        if (args_.timeout_s) end_ = Clock::now() + std::chrono::seconds(*args_.timeout_s);
        return loop();
    }

private:
    Status find_process() {
        pid_t pid = args_.pid;
        if (!args_.container.empty()) {
            const auto container =
                TRY(context_.open_store(Context::Access::read_only))->find_container(args_.container);
            if (!container) return std::unexpected(container.error());
            if (container->mounted_at.empty())
                return fail(Errc::FailedPrecondition,
                            fmt::format("container \"{}\" is not mounted: nothing runs in it", args_.container));
            pid = TRY(find_container_process(container->mounted_at));
            context_.detail(fmt::format("shale: note: {} is process {}", printable(args_.container), pid));
        }
        if (pid == 0) return {};
        process_ = TRY(open_process_view(pid));
        if (args_.signal.empty()) return {};
        signal_ = TRY(parse_signal(args_.signal));
        return in_context(sys::signal_process(process_->process.get(), 0),
                          [&] { return fmt::format("signal process {}", pid); });
    }

    /// As the process sees it, and where the host has what is mounted there.
    Result<sys::WatchedPath> look_for(const std::string &path) {
        sys::WatchedPath out;
        out.is_recursive = args_.recursive;
        Named &named = named_.emplace_back();
        named.shown = path;
        if (path.empty()) return fail(Errc::InvalidArgument, "a PATH is empty");
        if (process_ && !path.starts_with('/'))
            return fail(Errc::InvalidArgument,
                        fmt::format("\"{}\" must begin with a slash: it is looked for in the root of process {}", path,
                                    process_->pid));
        if (!process_) {
            std::error_code failed;
            const std::string here = path.starts_with('/') ? "" : std::filesystem::current_path(failed).string() + "/";
            if (failed) return fail_errno(failed.value(), "the working directory");
            out.views.push_back({TRY(host_root()), here + path});
            return out;
        }
        out.views.push_back({process_->root, path});
        const auto walked = TRY(sys::walk_path(process_->root->get(), path));
        const auto source = TRY(find_bind_source(*process_, walked));
        if (!source) return out;
        named.source = source->path;
        out.views.push_back({TRY(host_root()), source->path});
        return out;
    }

    Result<std::shared_ptr<const UniqueFd>> host_root() {
        if (!host_) host_ = std::make_shared<const UniqueFd>(TRY(sys::open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY)));
        return host_;
    }

    void say_what_is_watched() {
        for (const std::string &text : watch_->take_notes())
            note("note: " + text);
        const auto &queue = watch_->queue();
        if (!queue.refusal().empty())
            context_.detail("shale: note: " + printable("inotify is used: " + queue.refusal()));
        for (size_t i = 0; i < named_.size(); ++i) {
            if (!named_[i].source.empty())
                context_.detail("shale: note: " +
                                printable(fmt::format("{} is {} on the host", named_[i].shown, named_[i].source)));
            if (!watch_->state(i).is_there)
                note(fmt::format("note: nothing is at {}; it is waited for", named_[i].shown));
            const bool is_stale = !named_[i].source.empty() && watch_->state(i).is_there &&
                                  watch_->state(i, 1).is_there && !watch_->state(i).is_inode_of(watch_->state(i, 1));
            if (is_stale) tell_stale(named_[i]);
        }
        if (context_.globals.quiet) return;
        note(fmt::format("watches {} path{} by {}", named_.size(), named_.size() == 1 ? "" : "s",
                         queue.api() == sys::ChangeQueue::Api::fanotify ? "fanotify" : "inotify"));
    }

    void tell_stale(Named &named) {
        if (std::exchange(named.was_stale_told, true)) return;
        note(fmt::format(
            "note: process {} still sees at {} what was there before, whatever it is told: a bind mount stays "
            "with what was bound; start its container again, or bind the directory that {} is in",
            process_ ? process_->pid : 0, named.shown, named.source));
    }

    /// A mount or unmount is no event of any directory. Where these tables cannot be read, it goes unnoticed.
    void open_mount_tables() {
        std::vector<std::string> tables{"/proc/self/mountinfo"};
        if (process_) tables.push_back(fmt::format("/proc/{}/mountinfo", process_->pid));
        for (const std::string &table : tables)
            if (auto fd = sys::open_at(AT_FDCWD, table.c_str(), O_RDONLY)) mount_tables_.push_back(std::move(*fd));
    }

    Result<int> loop() {
        const HeldSignals held;
        for (;;) {
            runner_.step();
            if (context_.cancel->load()) return 0;
            const bool is_over = args_.once && told_ != 0;
            if (is_over && !runner_.is_busy()) return 0;
            const auto now = NameWatch::Now::get();
            if (!is_over) {
                TRY(watch_->read(now));
                TRY(deliver(TRY(watch_->take(now))));
                for (const std::string &text : watch_->take_notes())
                    note("note: " + text);
                if (args_.once && told_ != 0) continue;
            }
            if (end_ && now.steady >= *end_) return told_ != 0 ? 0 : 1;
            TRY(wait(is_over, held.before()));
        }
    }

    Status wait(bool is_over, const sigset_t &signals) {
        std::vector<pollfd> ready{{runner_.fd(), POLLIN, 0}};
        if (process_) ready.push_back({process_->process.get(), POLLIN, 0});
        const size_t tables_at = ready.size();
        for (const UniqueFd &table : mount_tables_)
            ready.push_back({table.get(), POLLPRI, 0});
        if (!is_over) ready.push_back({watch_->fd(), POLLIN, 0});
        const auto patience = patience_for(is_over);
        if (::ppoll(ready.data(), ready.size(), patience ? &*patience : nullptr, &signals) < 0) {
            if (errno == EINTR) return {};
            return fail_errno(errno, "ppoll");
        }
        if (process_ && ready[1].revents != 0 && !is_over)
            return fail(Errc::NotFound,
                        fmt::format("process {} has ended, and what it saw cannot be watched any more", process_->pid));
        const auto tables = std::span(ready).subspan(tables_at, mount_tables_.size());
        if (std::ranges::any_of(tables, [](const pollfd &one) { return one.revents != 0; }))
            watch_->look_again(NameWatch::Now::get());
        return {};
    }

    /// Until something is due; nullopt: for ever.
    [[nodiscard]] std::optional<timespec> patience_for(bool is_over) const {
        constexpr auto never = Clock::time_point::max();
        auto due = never;
        if (const auto next = is_over ? std::nullopt : watch_->next_due()) due = *next;
        if (end_) due = std::min(due, *end_);
        if (runner_.is_busy() && runner_.fd() < 0) due = Clock::now() + std::chrono::milliseconds(100);
        if (due == never) return std::nullopt;
        const auto left = std::max(Clock::duration::zero(), due - Clock::now());
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
        return timespec{.tv_sec = seconds.count(), .tv_nsec = std::chrono::nanoseconds(left - seconds).count()};
    }

    Status deliver(const std::vector<sys::Change> &changes) {
        for (const sys::Change &change : changes) {
            Named &named = named_[change.path];
            WatchEvent event{.time_ns = change.time_ns,
                             .kind = std::string(change_name(change.kind)),
                             .path = named.shown,
                             .inode_before = change.inode_before,
                             .inode_after = change.inode_after,
                             .source = change.view == 0 ? "" : named.source,
                             .is_stale = change.is_stale};
            const std::string below = (named.shown.ends_with('/') ? "" : "/") + change.below;
            if (!change.below.empty()) event.path += below;
            if (!change.below.empty() && change.view != 0) event.source += "/" + change.below;
            TRY(print(event));
            if (change.is_stale) tell_stale(named);
            TRY(signal_process());
            runner_.add(event);
            runner_.step();
            ++told_;
            if (args_.once) return {};
        }
        return {};
    }

    Status print(const WatchEvent &event) {
        if (context_.globals.json)
            Context::print(event_json(event));
        else
            Context::print(context_.globals.quiet ? printable(event.path) + "\n" : event_line(event));
        return flush_output();
    }

    Status signal_process() {
        if (signal_ == 0) return {};
        return in_context(sys::signal_process(process_->process.get(), signal_),
                          [&] { return fmt::format("signal {} to process {}", args_.signal, process_->pid); });
    }

    Context &context_;
    const WatchArgs &args_;
    CommandRunner runner_;
    std::optional<ProcessView> process_;
    int signal_ = 0;
    std::shared_ptr<const UniqueFd> host_;
    std::vector<Named> named_;
    std::optional<NameWatch> watch_;
    std::vector<UniqueFd> mount_tables_;
    std::optional<Clock::time_point> end_;
    uint64_t told_ = 0;
};

} // namespace

Result<int> run(Context &context, const WatchArgs &args) {
    return Watcher(context, args).run();
}

} // namespace shale::cli
