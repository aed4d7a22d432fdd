// SPDX-License-Identifier: Apache-2.0
// The dashboard at /, /dashboard.json, /metrics and /healthz.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "daemon/guardian.h"
#include "daemon/served.h"
#include "frontends/http.h"
#include "sys/unix_socket.h"

namespace shale::daemon {

/// Answers on a thread of its own: a scrape that takes long holds up no call.
class Monitor {
public:
    /// `address`: of loopback, or the path of a socket (made 0660). `served` and `guardian` outlive it. `patience` as
    /// of serve_http().
    static Result<std::unique_ptr<Monitor>> start(const std::string &address,
                                                  std::span<const std::unique_ptr<Served>> served,
                                                  const Guardian *guardian = nullptr,
                                                  std::chrono::milliseconds patience = frontends::http_patience);
    /// Waits for an answer that is being made, for no client.
    ~Monitor();
    Monitor(const Monitor &) = delete;
    Monitor &operator=(const Monitor &) = delete;

private:
    Monitor(UniqueFd tcp, std::optional<sys::UnixListener> unix_socket, UniqueFd wake,
            std::span<const std::unique_ptr<Served>> served, const Guardian *guardian,
            std::chrono::milliseconds patience);
    void run();

    UniqueFd tcp_;
    std::optional<sys::UnixListener> unix_;
    UniqueFd wake_;
    std::span<const std::unique_ptr<Served>> served_;
    const Guardian *guardian_; ///< null: there is none
    std::chrono::milliseconds patience_;
    std::jthread thread_;
};

/// The whole text of /metrics; of a store that is not open only that. Counting snapshots walks their records; nothing
/// walks a tree.
std::string metrics_text(std::span<const std::unique_ptr<Served>> served);
/// 200 while every store answers, else 503 with a line for each that does not.
frontends::HttpReply health(std::span<const std::unique_ptr<Served>> served);

} // namespace shale::daemon
