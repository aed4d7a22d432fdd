// SPDX-License-Identifier: Apache-2.0
// The guards of shaled: one for each store that is open, all on one thread. What they see is kept for /metrics, what
// they do is logged.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "daemon/log.h"
#include "daemon/served.h"
#include "guard/guard.h"
#include "guard/history.h"

namespace shale::daemon {

class Guardian {
public:
    /// `served` and `log` outlive it. Unimplemented: as guard::Guard::start(). The first round comes at once.
    static Result<std::unique_ptr<Guardian>> start(const guard::Config &config,
                                                   std::span<const std::unique_ptr<Served>> served, const Log &log);
    /// Where no guard is to be: what one that was killed has left in force on the stores that are open is undone, and
    /// logged. A store that another guard watches is left to that one.
    static void undo_what_is_left(std::span<const std::unique_ptr<Served>> served, const Log &log);
    /// What it refuses ends with it. A round that runs is waited for.
    ~Guardian();
    Guardian(const Guardian &) = delete;
    Guardian &operator=(const Guardian &) = delete;

    /// For /metrics.
    [[nodiscard]] std::string metrics() const;
    /// Of one snapshotter, for the dashboard.
    struct View {
        std::vector<guard::Row> rows;
        std::vector<std::vector<guard::History::Point>> history; ///< of each row, the oldest point first
        std::vector<guard::Event> events;                        ///< the newest first, at most `most_events`
    };
    static constexpr size_t most_events = 100;
    [[nodiscard]] View view(const std::string &snapshotter) const;

private:
    struct Watch;
    Guardian(guard::Config config, std::span<const std::unique_ptr<Served>> served, const Log &log);
    void run(const std::stop_token &stop);
    void round();
    Result<std::unique_ptr<Watch>> watch(Served &served);
    void tell(const std::string &snapshotter, const guard::Event &event);

    guard::Config config_;
    std::span<const std::unique_ptr<Served>> served_;
    const Log &log_;
    std::map<std::string, std::unique_ptr<Watch>> watches_; ///< by name of the snapshotter; the thread's own
    std::map<std::string, std::string> failures_;           ///< why there is none yet: logged once; the thread's own
    mutable std::mutex mutex_;
    std::map<std::string, std::vector<guard::Row>> rows_;  ///< guarded by mutex_
    std::map<std::string, guard::History> histories_;      ///< guarded by mutex_
    std::map<std::string, std::deque<guard::Event>> last_; ///< the newest first: guarded by mutex_
    std::map<std::string, uint64_t> events_;               ///< "SNAPSHOTTER type": guarded by mutex_
    std::jthread thread_;                                  ///< last: it uses all of the above
};

} // namespace shale::daemon
