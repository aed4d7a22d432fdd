// SPDX-License-Identifier: Apache-2.0
// The life of shaled: sockets first, so that clients wait instead of failing; then the stores; then "ready"; then one
// loop that accepts connections and hears signals, while gRPC's threads do the work; then everything backwards, all
// snapshotters at once. No state is kept but the stores': being killed is a way to stop like another, and what does not
// end in time is ended like that.
#include "daemon/daemon.h"

#include <fmt/format.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <optional>
#include <span>
#include <thread>
#include <utility>

#include "cli/table.h"
#include "daemon/args.h"
#include "daemon/footprint.h"
#include "daemon/guardian.h"
#include "daemon/log.h"
#include "daemon/monitor.h"
#include "daemon/notify.h"
#include "daemon/served.h"

namespace shale::daemon {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto grace = std::chrono::seconds(10);        ///< for calls that run when it is told to stop
constexpr auto stop_at_most = std::chrono::seconds(20); ///< all of it; less than TimeoutStopSec= of the unit
constexpr auto look_every = std::chrono::minutes(1);    ///< at what fails without anybody hearing of it

struct Wanted {
    std::vector<cli::Snapshotter> snapshotters;
    std::string metrics; ///< empty: off
    LogFormat format = LogFormat::text;
    LogLevel level = LogLevel::info;
    guard::Config guard;
};

Result<Wanted> load(const cli::Globals &globals) {
    cli::Config config = TRY(cli::load_config(globals, false));
    const auto first = [&](auto member) -> std::optional<std::string> {
        for (const cli::Source &source : config.sources)
            if (source.*member) return source.*member;
        return std::nullopt;
    };
    Wanted out;
    out.snapshotters = TRY(cli::resolve_snapshotters(config.sources, config.default_root, drivers::registry()));
    out.metrics = first(&cli::Source::metrics).value_or("");
    const std::string format = first(&cli::Source::log_format).value_or("text");
    const std::string level = first(&cli::Source::log_level).value_or("info");
    const auto parsed_format = parse_log_format(format);
    const auto parsed_level = parse_log_level(level);
    if (!parsed_format)
        return fail(Errc::InvalidArgument, fmt::format("log format \"{}\" must be text or json", format));
    if (!parsed_level)
        return fail(Errc::InvalidArgument,
                    fmt::format("log level \"{}\" must be debug, info, warning or error", level));
    out.format = *parsed_format;
    out.level = *parsed_level;
    out.guard = std::move(config.guard);
    return out;
}

/// What SIGHUP cannot bring into effect; empty: nothing.
std::string needs_restart(const Wanted &now, const Wanted &then) {
    std::string out;
    const auto changed = [&](bool differs, std::string_view what) {
        if (differs) out += (out.empty() ? "" : ", ") + std::string(what);
    };
    changed(now.metrics != then.metrics, "metrics");
    changed(now.guard != then.guard, "guard");
    changed(now.snapshotters.size() != then.snapshotters.size(), "number of snapshotters");
    for (size_t i = 0; i < std::min(now.snapshotters.size(), then.snapshotters.size()); ++i) {
        const cli::Snapshotter &a = now.snapshotters[i], &b = then.snapshotters[i];
        changed(a.name != b.name || a.socket != b.socket || a.settings.root != b.settings.root ||
                    a.settings.driver != b.settings.driver || a.settings.driver_options != b.settings.driver_options ||
                    a.settings.durability != b.settings.durability,
                "snapshotter " + a.name);
    }
    return out;
}

/// Says what has gone wrong; the exit code.
int report(const Status &ran) {
    if (ran) return 0;
    std::fputs(("shaled: error: " + printable(ran.error().text()) + "\n").c_str(), stderr);
    return errc_info(ran.error().code()).exit_code;
}

/// Something that is being stopped.
struct Ending {
    std::string what;
    std::future<void> done;
};

class Daemon {
public:
    explicit Daemon(cli::Globals globals) : globals_(std::move(globals)) {}

    Status run() {
        wanted_ = TRY(load(globals_));
        log_.set(wanted_.format, wanted_.level);
        const UniqueFd signals = TRY(take_signals());
        for (const cli::Snapshotter &one : wanted_.snapshotters)
            served_.push_back(TRY(Served::listen(one, log_)));
        TRY(open_stores());
        if (wanted_.guard.enabled)
            guardian_ = TRY(Guardian::start(wanted_.guard, served_, log_));
        else
            Guardian::undo_what_is_left(served_, log_);
        if (!wanted_.metrics.empty()) monitor_ = TRY(Monitor::start(wanted_.metrics, served_, guardian_.get()));
        status_ = status();
        tell("READY=1\n" + status_);
        forget_the_start();
        const Status ended = loop(signals.get());
        tell("STOPPING=1");
        log_.write(LogLevel::info, "stopping");
        look();
        stop(ended);
        served_.clear();
        return ended;
    }

private:
    /// Signals come as data, on the main thread. Before any other thread starts: they inherit the mask.
    static Result<UniqueFd> take_signals() {
        sigset_t set;
        sigemptyset(&set);
        for (const int signal : {SIGHUP, SIGTERM, SIGINT})
            sigaddset(&set, signal);
        pthread_sigmask(SIG_BLOCK, &set, nullptr);
        UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
        if (!fd) return fail_errno(errno, "signalfd");
        return fd;
    }

    /// Some are served where not all can be: the others are tried again behind. An error when none is open.
    Status open_stores() {
        Status first;
        for (const auto &one : served_) {
            const auto where = [&] { return fmt::format("snapshotter {}", one->snapshotter().name); };
            Status opened = in_context(one->open(), where);
            if (!opened && first) first = std::move(opened);
        }
        const bool any = std::ranges::any_of(served_, [](const auto &one) { return one->is_open(); });
        for (const auto &one : served_) {
            const auto failure = one->failure();
            if (!failure || served_.size() == 1) continue;
            log_.write(LogLevel::error, "not served", {{"snapshotter", one->snapshotter().name}, {"error", *failure}});
            if (any) one->open_later();
        }
        if (!any) return first;
        return {};
    }

    std::string status() const {
        const auto open = std::ranges::count_if(served_, [](const auto &one) { return one->is_open(); });
        const auto all = std::ssize(served_);
        return fmt::format("STATUS=serving {}{} snapshotter{}", open, open == all ? "" : fmt::format(" of {}", all),
                           all == 1 ? "" : "s");
    }

    /// What nobody asked for is told by nobody else.
    void look() {
        for (const auto &one : served_)
            one->log_failures();
    }

    Status loop(int signals) {
        std::vector<pollfd> waiting{{signals, POLLIN, 0}};
        for (const auto &one : served_)
            waiting.push_back({one->listener(), POLLIN, 0});
        auto look_at = Clock::now() + look_every;
        while (true) {
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(look_at - Clock::now()).count();
            const int patience = static_cast<int>(std::max<int64_t>(left, 0));
            if (::poll(waiting.data(), waiting.size(), patience) < 0 && errno != EINTR)
                return fail_errno(errno, "poll");
            if (Clock::now() >= look_at) {
                look();
                if (std::string now = status(); now != status_) tell(status_ = std::move(now));
                look_at = Clock::now() + look_every;
            }
            signalfd_siginfo signal{};
            if (waiting[0].revents != 0 && ::read(signals, &signal, sizeof signal) == sizeof signal) {
                if (signal.ssi_signo != SIGHUP) return {};
                reload();
            }
            for (size_t i = 0; i < served_.size(); ++i) {
                if (waiting[i + 1].revents == 0) continue;
                if (const Status accepted = served_[i]->accept(); !accepted) {
                    log_.write(LogLevel::error, "no connection could be accepted",
                               {{"error", accepted.error().text()}});
                    std::this_thread::sleep_for(std::chrono::milliseconds(100)); // out of descriptors: some will end
                }
            }
        }
    }

    /// Only logs change; whatever else differs waits for the next start, and is named. A bad file changes nothing. What
    /// could not be opened is tried again in any case.
    void reload() {
        tell("RELOADING=1");
        for (const auto &one : served_)
            one->try_again();
        if (auto then = load(globals_)) {
            log_.set(then->format, then->level);
            const std::string waits = needs_restart(wanted_, *then);
            if (waits.empty())
                log_.write(LogLevel::info, "reloaded");
            else
                log_.write(LogLevel::warning, "reloaded; some of what changed needs a restart", {{"changed", waits}});
        } else {
            log_.write(LogLevel::error, "not reloaded", {{"error", then.error().text()}});
        }
        tell("READY=1");
    }

    /// The monitor, which looks at the stores and the guard; then the guard; then these, all at once.
    void stop(const Status &ended) {
        const auto until = Clock::now() + stop_at_most;
        std::vector<Ending> endings;
        endings.push_back({"monitor", std::async(std::launch::async, [this] { monitor_.reset(); })});
        await(endings, until, ended);
        endings.clear();
        endings.push_back({"guard", std::async(std::launch::async, [this] { guardian_.reset(); })});
        await(endings, until, ended);
        endings.clear();
        for (const auto &one : served_)
            endings.push_back({"snapshotter " + one->snapshotter().name,
                               std::async(std::launch::async, [served = one.get()] { served->stop(grace); })});
        await(endings, until, ended);
    }

    /// What does not end by then (a sync to a disk that is busy, a call to one that hangs) cannot be ended, and uses
    /// all of this: the process ends under it.
    void await(std::span<const Ending> endings, Clock::time_point until, const Status &ended) const {
        bool all = true;
        for (const Ending &one : endings) {
            if (one.done.wait_until(until) == std::future_status::ready) continue;
            all = false;
            log_.write(LogLevel::warning, "cut off: it did not end in time; the store is as after a kill",
                       {{"what", one.what}});
        }
        if (!all) std::_Exit(report(ended));
    }

    void tell(std::string_view state) {
        if (const Status told = notify(state); !told)
            log_.write(LogLevel::warning, "the service manager was not told", {{"error", told.error().text()}});
    }

    cli::Globals globals_;
    Wanted wanted_; ///< as it was at the start
    Log log_;
    std::string status_; ///< as the service manager was told
    std::vector<std::unique_ptr<Served>> served_;
    std::unique_ptr<Guardian> guardian_;
    std::unique_ptr<Monitor> monitor_;
};

} // namespace

int run_program(const std::vector<std::string> &arguments) {
    umask(0);                 // modes are stated wherever a file is made
    signal(SIGPIPE, SIG_IGN); // a client that went away is no reason to end
    mallopt(M_ARENA_MAX, 2);  // an arena for every thread would be most of this process
    auto line = parse_command_line(arguments);
    if (line && line->exit_code) return *line->exit_code;
    const Status ran = line ? Daemon(std::move(line->globals)).run() : Status(std::unexpected(line.error()));
    return report(ran);
}

} // namespace shale::daemon
