// SPDX-License-Identifier: Apache-2.0
// One snapshotter at work: its socket, its store, the engine and the server over it. Not open -> open, once; a store
// that cannot be opened is tried again on a thread of its own, and what other threads use of it they use after
// is_open().
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "cli/snapshotters.h"
#include "daemon/log.h"
#include "frontends/metrics.h"
#include "frontends/rpc_server.h"
#include "store/snapshots.h"
#include "store/store.h"
#include "sys/unix_socket.h"

namespace shale::daemon {

class Served {
public:
    /// From here on clients can connect; they are served after open(). The socket is the service manager's, when it has
    /// handed one over for that path; else its directory is made when only that is missing.
    static Result<std::unique_ptr<Served>> listen(cli::Snapshotter snapshotter, const Log &log);
    /// Opens the store and starts the server.
    Status open();
    /// After open() failed: it is tried every 30 seconds, and at every try_again(), until it succeeds. Another error
    /// than before is logged.
    void open_later();
    void try_again();
    [[nodiscard]] bool is_open() const noexcept { return open_.load(std::memory_order_acquire); }
    /// Why it is not open; nullopt: it is.
    [[nodiscard]] std::optional<std::string> failure() const;

    [[nodiscard]] int listener() const noexcept { return listener_.fd(); }
    [[nodiscard]] const cli::Snapshotter &snapshotter() const noexcept { return snapshotter_; }
    /// All connections that wait. When it is not open they are closed: clients hear of it now, instead of waiting.
    Status accept();
    /// Logs what has failed behind the clients' backs since the last time.
    void log_failures();
    /// Calls that run have `grace` to end; what the store does behind is cut short, which takes its time. Nothing is
    /// removed from the store.
    void stop(std::chrono::milliseconds grace);

    [[nodiscard]] const frontends::CallMetrics &calls() const noexcept { return calls_; }
    /// Once it is open.
    [[nodiscard]] store::Store &store() noexcept { return *store_; }
    [[nodiscard]] store::Snapshots &snapshots() noexcept { return *snapshots_; }

private:
    Served(cli::Snapshotter snapshotter, sys::UnixListener listener, const Log &log);
    Status try_to_open();
    void keep_trying(const std::stop_token &stop);
    void observe(const frontends::Call &call);

    cli::Snapshotter snapshotter_;
    sys::UnixListener listener_;
    const Log &log_;
    frontends::CallMetrics calls_;
    std::unique_ptr<store::Store> store_;
    std::unique_ptr<store::Snapshots> snapshots_;
    std::unique_ptr<frontends::RpcServer> server_;
    uint64_t told_failures_ = 0; ///< by log_failures()
    std::atomic<bool> open_{false};
    mutable std::mutex mutex_;
    std::condition_variable_any again_wake_;
    bool again_ = false;                   ///< guarded by mutex_, as is the next
    std::string failure_ = "not open yet"; ///< of the last open()
    std::jthread opener_;                  ///< last: it uses all of the above
};

} // namespace shale::daemon
