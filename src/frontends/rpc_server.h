// SPDX-License-Identifier: Apache-2.0
// A gRPC server without a port of its own: connections are accepted elsewhere (one loop for all sockets of the daemon,
// with modes and take-over as sys/unix_socket.h says) and handed over.
#pragma once

#include <chrono>
#include <memory>

#include "base/error.h"
#include "base/fd.h"

namespace grpc {
class Server;
class Service;
} // namespace grpc

namespace shale::frontends {

class RpcServer {
public:
    static constexpr int max_message_bytes = 16 << 20;
    /// Calls of one connection at a time; further ones wait in the client (HTTP/2, SETTINGS_MAX_CONCURRENT_STREAMS).
    static constexpr int max_calls = 64;
    /// Of all connections together: a thread a call, made when needed. Calls beyond are told ResourceExhausted.
    static constexpr int max_threads = 512;

    /// Internal when gRPC does not start.
    static Result<std::unique_ptr<RpcServer>> start(std::unique_ptr<grpc::Service> service);
    /// stop() without patience.
    ~RpcServer();
    RpcServer(const RpcServer &) = delete;
    RpcServer &operator=(const RpcServer &) = delete;

    /// Serves a connected stream socket until either side closes it.
    void adopt(UniqueFd connection);
    /// No new calls; those that run have `grace` to end, then they are cancelled (their handlers still run to their
    /// end). Once.
    void stop(std::chrono::milliseconds grace);

private:
    RpcServer(std::unique_ptr<grpc::Service> service, std::unique_ptr<grpc::Server> server);

    std::unique_ptr<grpc::Service> service_;
    std::unique_ptr<grpc::Server> server_; ///< goes first
};

} // namespace shale::frontends
