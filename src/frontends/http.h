// SPDX-License-Identifier: Apache-2.0
// The few GETs of a monitor: one request a connection, bounded in bytes and in time. Several connections at once on one
// thread, which waits for none of them. Not a web server: nothing is kept alive, no body is read.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"

namespace shale::frontends {

struct HttpReply {
    int status = 200;
    std::string type = "text/plain; charset=utf-8", body;
};
/// Path without query -> reply.
using HttpHandler = std::function<HttpReply(std::string_view path)>;

/// What a client has for its request to arrive, and once more to take the answer.
inline constexpr std::chrono::seconds http_patience{5};
/// Connections at a time; for a further one the oldest is let go.
inline constexpr size_t max_http_clients = 32;

/// Answers the clients of `listener` (non-blocking) until `wake` can be read; what is open then is closed, whatever its
/// client does. Over TCP a request that names another host than localhost is refused (403): a browser was led here.
/// `handler` is called on this thread, and is all that one client waits for because of another. A bad request is
/// answered too; a client that is slow or gone is let go.
void serve_http(int listener, int wake, const HttpHandler &handler, std::chrono::milliseconds patience = http_patience);

/// A non-blocking TCP listener at "127.0.0.1:PORT", "[::1]:PORT" or "localhost:PORT". InvalidArgument for any other
/// host: what is told there is for this machine alone.
Result<UniqueFd> listen_loopback(std::string_view address);

} // namespace shale::frontends
