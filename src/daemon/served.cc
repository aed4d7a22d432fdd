// SPDX-License-Identifier: Apache-2.0
#include "daemon/served.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "base/paths.h"
#include "frontends/snapshotter.h"

namespace shale::daemon {
namespace {

constexpr mode_t socket_mode = 0660; // and root's: who may connect may mount what he likes
constexpr auto slow_call = std::chrono::seconds(1);
constexpr auto open_again = std::chrono::seconds(30);

} // namespace

Served::Served(cli::Snapshotter snapshotter, sys::UnixListener listener, const Log &log)
    : snapshotter_(std::move(snapshotter)), listener_(std::move(listener)), log_(log) {}

Result<std::unique_ptr<Served>> Served::listen(cli::Snapshotter snapshotter, const Log &log) {
    if (auto inherited = TRY(sys::UnixListener::inherit(snapshotter.socket)))
        return std::unique_ptr<Served>(new Served(std::move(snapshotter), std::move(*inherited), log));
    const std::string directory(split_path(snapshotter.socket).first);
    if (!directory.empty() && ::mkdir(directory.c_str(), 0711) != 0 && errno != EEXIST)
        return fail_errno(errno, fmt::format("mkdir {} for the socket of \"{}\"", directory, snapshotter.name));
    auto listener = TRY(sys::UnixListener::listen(snapshotter.socket, socket_mode));
    return std::unique_ptr<Served>(new Served(std::move(snapshotter), std::move(listener), log));
}

Status Served::open() {
    Status opened = try_to_open();
    if (!opened) {
        const std::lock_guard lock(mutex_);
        failure_ = opened.error().text();
        return opened;
    }
    open_.store(true, std::memory_order_release);
    log_.write(LogLevel::info, "serving",
               {{"snapshotter", snapshotter_.name},
                {"driver", store_->driver().name()},
                {"root", snapshotter_.settings.root},
                {"socket", snapshotter_.socket}});
    return {};
}

Status Served::try_to_open() {
    auto opened = TRY(store::Store::open(cli::store_options(snapshotter_.settings)));
    auto snapshots = std::make_unique<store::Snapshots>(*opened);
    server_ = TRY(frontends::serve_snapshots(*snapshots, [this](const frontends::Call &call) { observe(call); }));
    store_ = std::move(opened);
    snapshots_ = std::move(snapshots);
    return {};
}

void Served::open_later() {
    opener_ = std::jthread([this](const std::stop_token &stop) { keep_trying(stop); });
}

void Served::try_again() {
    {
        const std::lock_guard lock(mutex_);
        again_ = true;
    }
    again_wake_.notify_one();
}

void Served::keep_trying(const std::stop_token &stop) {
    while (true) {
        std::string before;
        {
            std::unique_lock lock(mutex_);
            (void)again_wake_.wait_for(lock, stop, open_again, [&] { return again_; });
            again_ = false;
            before = failure_;
        }
        if (stop.stop_requested()) return;
        const Status opened = open();
        if (opened) return;
        if (const std::string text = opened.error().text(); text != before)
            log_.write(LogLevel::error, "still not served", {{"snapshotter", snapshotter_.name}, {"error", text}});
    }
}

std::optional<std::string> Served::failure() const {
    if (is_open()) return std::nullopt;
    const std::lock_guard lock(mutex_);
    return failure_;
}

Status Served::accept() {
    while (true) {
        UniqueFd connection = TRY(sys::accept_one(listener_.fd()));
        if (!connection) return {};
        if (is_open()) server_->adopt(std::move(connection));
    }
}

void Served::log_failures() {
    if (!is_open()) return;
    const store::UpkeepCounts counts = snapshots_->upkeep();
    const uint64_t failures = counts.failures + counts.sync_failures;
    if (failures == std::exchange(told_failures_, failures)) return;
    log_.write(LogLevel::warning, "a cleaning or a sync failed",
               {{"snapshotter", snapshotter_.name},
                {"cleaning_failures", fmt::format("{}", counts.failures)},
                {"sync_failures", fmt::format("{}", counts.sync_failures)},
                {"error", counts.last_failure}});
}

void Served::stop(std::chrono::milliseconds grace) {
    if (opener_.joinable()) {
        opener_.request_stop();
        opener_.join();
    }
    if (server_) server_->stop(grace);
    server_.reset();
    snapshots_.reset();
    store_.reset();
}

void Served::observe(const frontends::Call &call) {
    calls_.observe(call);
    const bool failed = call.code != 0;
    const LogLevel level = failed ? LogLevel::warning : call.took >= slow_call ? LogLevel::warning : LogLevel::debug;
    // What is part of the protocol's everyday life: "is it there?" - "no", "make it" - "it is there already".
    const bool everyday = call.code == 5 || call.code == 6;
    const LogLevel as = everyday && call.took < slow_call ? LogLevel::info : level;
    if (!log_.says(as)) return;
    log_.write(as,
               failed                   ? "call failed"
               : call.took >= slow_call ? "slow call"
                                        : "call",
               {{"snapshotter", snapshotter_.name},
                {"method", frontends::method_names[static_cast<size_t>(call.method)]},
                {"code", frontends::code_names[call.code < frontends::code_names.size() ? call.code : 2]},
                {"ms", fmt::format("{:.3f}", std::chrono::duration<double, std::milli>(call.took).count())},
                {"key", call.key},
                {"error", call.message}});
}

} // namespace shale::daemon
