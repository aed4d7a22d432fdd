// SPDX-License-Identifier: Apache-2.0
#include "frontends/rpc_server.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/service_type.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_posix.h>

#include <utility>

namespace shale::frontends {

RpcServer::RpcServer(std::unique_ptr<grpc::Service> service, std::unique_ptr<grpc::Server> server)
    : service_(std::move(service)), server_(std::move(server)) {}

Result<std::unique_ptr<RpcServer>> RpcServer::start(std::unique_ptr<grpc::Service> service) {
    grpc::ResourceQuota quota("shale");
    quota.SetMaxThreads(max_threads);
    quota.Resize(size_t{64} << 20U);
    grpc::ServerBuilder builder;
    using Option = grpc::ServerBuilder::SyncServerOption;
    builder.SetResourceQuota(quota)
        .SetSyncServerOption(Option::NUM_CQS, 1)
        .SetSyncServerOption(Option::MIN_POLLERS, 1)
        .SetSyncServerOption(Option::MAX_POLLERS, 2)
        .SetMaxReceiveMessageSize(max_message_bytes)
        .SetMaxSendMessageSize(max_message_bytes)
        .AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, max_calls)
        .RegisterService(service.get());
    auto server = builder.BuildAndStart();
    if (!server) return fail(Errc::Internal, "gRPC did not start a server");
    return std::unique_ptr<RpcServer>(new RpcServer(std::move(service), std::move(server)));
}

RpcServer::~RpcServer() {
    stop(std::chrono::milliseconds(0));
}

void RpcServer::adopt(UniqueFd connection) {
    const int flags = fcntl(connection.get(), F_GETFL);
    if (flags < 0 || fcntl(connection.get(), F_SETFL, flags | O_NONBLOCK) != 0) return;
    grpc::AddInsecureChannelFromFd(server_.get(), connection.release());
}

void RpcServer::stop(std::chrono::milliseconds grace) {
    if (!server_) return;
    server_->Shutdown(std::chrono::system_clock::now() + grace);
    server_->Wait();
    server_.reset();
}

} // namespace shale::frontends
