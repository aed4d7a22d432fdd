// SPDX-License-Identifier: Apache-2.0
#include "daemon/guardian.h"

#include <condition_variable>

#include <fmt/format.h>

#include "frontends/metrics.h"
#include "guard/store_hands.h"
#include "sys/fs.h"

namespace shale::daemon {

namespace {

/// FailedPrecondition: another guard has it.
Result<UniqueFd> lock(int dir) {
    UniqueFd out = TRY(sys::open_at(dir, "lock", O_RDWR | O_CREAT, 0600));
    if (!TRY(sys::try_lock_range(out.get(), 0, 1, sys::LockMode::exclusive)))
        return fail(Errc::FailedPrecondition, "another guard is at work on this store");
    return out;
}

/// A line for each limit; empty: nothing was left.
Result<guard::Outcome> undo_on(store::Store &store) {
    const UniqueFd root = TRY(sys::open_dir(AT_FDCWD, store.root().c_str()));
    const UniqueFd dir = TRY(guard::open_guard_dir(root.get()));
    const UniqueFd held = TRY(lock(dir.get()));
    return guard::StoreHands(TRY(probe::Host::open()), {&store}).recover();
}

} // namespace

struct Guardian::Watch {
    std::unique_ptr<guard::StoreHands> hands;
    UniqueFd lock; ///< one guard a store: `shale guard` may be another
    std::optional<guard::Guard> guard;
};

Guardian::Guardian(guard::Config config, std::span<const std::unique_ptr<Served>> served, const Log &log)
    : config_(std::move(config)), served_(served), log_(log),
      thread_([this](const std::stop_token &stop) { run(stop); }) {}

Result<std::unique_ptr<Guardian>> Guardian::start(const guard::Config &config,
                                                  std::span<const std::unique_ptr<Served>> served, const Log &log) {
    guard::StoreHands hands(TRY(probe::Host::open()), {}, config);
    TRY(guard::Guard::can(config, hands));
    return std::unique_ptr<Guardian>(new Guardian(config, served, log));
}

void Guardian::undo_what_is_left(std::span<const std::unique_ptr<Served>> served, const Log &log) {
    for (const auto &one : served) {
        if (!one->is_open()) continue;
        const std::string &name = one->snapshotter().name;
        const auto left = undo_on(one->store());
        if (!left) {
            log.write(LogLevel::warning, "guard", {{"snapshotter", name}, {"error", left.error().text()}});
            continue;
        }
        for (const auto &line : left->evidence)
            log.write(left->ok ? LogLevel::info : LogLevel::warning, "guard",
                      {{"snapshotter", name}, {"event", left->ok ? "undone" : "failed"}, {"what", line}});
    }
}

Guardian::~Guardian() {
    thread_.request_stop();
    thread_.join();
    const auto now = std::chrono::time_point_cast<guard::Duration>(std::chrono::system_clock::now());
    for (const auto &[name, watch] : watches_)
        if (watch && watch->guard)
            if (const auto done = watch->guard->finish(guard::Guard::Ends::all, now); !done)
                log_.write(LogLevel::warning, "guard", {{"snapshotter", name}, {"error", done.error().text()}});
}

void Guardian::run(const std::stop_token &stop) {
    std::mutex mutex;
    std::condition_variable_any wake;
    std::unique_lock lock(mutex);
    while (!stop.stop_requested()) {
        round();
        wake.wait_for(lock, stop, config_.interval, [] { return false; });
    }
}

Result<std::unique_ptr<Guardian::Watch>> Guardian::watch(Served &served) {
    auto out = std::make_unique<Watch>();
    out->hands = std::make_unique<guard::StoreHands>(TRY(probe::Host::open()),
                                                     std::vector<store::Store *>{&served.store()}, config_);
    const UniqueFd root = TRY(sys::open_dir(AT_FDCWD, served.store().root().c_str()));
    UniqueFd dir = TRY(guard::open_guard_dir(root.get()));
    out->lock = TRY(lock(dir.get()));
    const std::string name = served.snapshotter().name;
    if (const auto before = guard::EventLog(UniqueFd(::fcntl(dir.get(), F_DUPFD_CLOEXEC, 0)), config_.event_log_bytes)
                                .read(most_events)) { // of the run before, for the dashboard
        const std::lock_guard guarded(mutex_);
        last_[name].assign(before->events.rbegin(), before->events.rend());
    }
    out->guard.emplace(TRY(guard::Guard::start(config_, std::move(dir), *out->hands,
                                               [this, name](const guard::Event &event) { tell(name, event); })));
    return out;
}

void Guardian::round() {
    for (const auto &one : served_) {
        if (!one->is_open()) continue;
        const std::string &name = one->snapshotter().name;
        auto &watching = watches_[name];
        Status done;
        if (!watching) {
            auto made = watch(*one);
            if (made)
                watching = std::move(*made);
            else
                done = std::unexpected(std::move(made).error());
        }
        const auto now = std::chrono::time_point_cast<guard::Duration>(std::chrono::system_clock::now());
        if (done) done = watching->guard->round(now);
        std::string why = done ? "" : done.error().text();
        if (auto &told = failures_[name]; told != why) {
            if (!why.empty()) log_.write(LogLevel::warning, "guard", {{"snapshotter", name}, {"error", why}});
            told = std::move(why);
        }
        if (!watching) continue;
        const std::lock_guard lock(mutex_);
        rows_[name] = watching->guard->rows();
        histories_[name].add(rows_[name], now);
    }
}

void Guardian::tell(const std::string &snapshotter, const guard::Event &event) {
    using guard::EventType;
    const bool is_bad = event.type == EventType::failed || event.type == EventType::problem ||
                        event.type == EventType::entered || event.type == EventType::forecast;
    log_.write(is_bad ? LogLevel::warning : LogLevel::info, "guard",
               {{"snapshotter", snapshotter},
                {"event", name_of(event.type)},
                {"resource", event.subject.empty() ? "" : fmt::format("{} {}", name_of(event.kind), event.subject)},
                {"what", event.what}});
    const std::lock_guard lock(mutex_);
    auto &last = last_[snapshotter];
    last.push_front(event);
    if (last.size() > most_events) last.pop_back();
    ++events_[fmt::format("snapshotter={},type=\"{}\"", frontends::metric_quote(snapshotter), name_of(event.type))];
}

Guardian::View Guardian::view(const std::string &snapshotter) const {
    const std::lock_guard lock(mutex_);
    View out;
    if (const auto found = rows_.find(snapshotter); found != rows_.end()) out.rows = found->second;
    if (const auto found = last_.find(snapshotter); found != last_.end())
        out.events.assign(found->second.begin(), found->second.end());
    const auto history = histories_.find(snapshotter);
    for (const auto &row : out.rows)
        out.history.push_back(history != histories_.end() ? history->second.of(row.sample.kind, row.sample.subject)
                                                          : std::vector<guard::History::Point>());
    return out;
}

std::string Guardian::metrics() const {
    const std::lock_guard lock(mutex_);
    std::string out;
    const auto family = [&](std::string_view name, std::string_view type, std::string_view help) {
        fmt::format_to(std::back_inserter(out), "# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
    };
    const auto gauge = [&](std::string_view name, std::string_view help, auto &&value) {
        family(name, "gauge", help);
        for (const auto &[snapshotter, rows] : rows_)
            for (const auto &row : rows)
                if (const std::optional<double> now = value(row))
                    fmt::format_to(std::back_inserter(out), "{}{{snapshotter={},kind=\"{}\",subject={}}} {}\n", name,
                                   frontends::metric_quote(snapshotter), name_of(row.sample.kind),
                                   frontends::metric_quote(row.sample.subject), *now);
    };
    using Value = std::optional<double>;
    gauge("shale_guard_used", "What is in use of a resource: bytes, inodes or layers.",
          [](const guard::Row &row) -> Value { return static_cast<double>(row.sample.used); });
    gauge("shale_guard_total", "What there is of it.",
          [](const guard::Row &row) -> Value { return static_cast<double>(row.sample.total); });
    gauge("shale_guard_steps_entered", "Marks that it is above of, with their hysteresis.",
          [](const guard::Row &row) -> Value { return static_cast<double>(row.inside.size()); });
    gauge("shale_guard_full_in_seconds",
          "When it is full if it goes on as in the last minutes; none: it does not rise.",
          [](const guard::Row &row) -> Value {
              if (!row.until_full) return std::nullopt;
              return std::chrono::duration<double>(*row.until_full).count();
          });
    family("shale_guard_events_total", "counter", "What the guard saw and did.");
    for (const auto &[labels, count] : events_)
        fmt::format_to(std::back_inserter(out), "shale_guard_events_total{{{}}} {}\n", labels, count);
    return out;
}

} // namespace shale::daemon
