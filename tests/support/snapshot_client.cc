// SPDX-License-Identifier: Apache-2.0
#include "support/snapshot_client.h"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "sys/mount.h"

namespace shale::test {
namespace {

SnapshotClient::Mounts specs(const auto &mounts) {
    SnapshotClient::Mounts out;
    for (const auto &mount : mounts)
        out.push_back({mount.type(), mount.source(), {mount.options().begin(), mount.options().end()}});
    return out;
}

void put(const SnapshotClient::Labels &labels, google::protobuf::Map<std::string, std::string> *out) {
    for (const auto &[name, value] : labels)
        (*out)[name] = value;
}

} // namespace

std::string Answer::text() const {
    return fmt::format("{} {}", static_cast<int>(status.error_code()), status.error_message());
}

SnapshotClient::SnapshotClient(const std::string &socket, const Shaled *server) : server_(server) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 10);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 10);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1); // else clients of one process share a connection
    stub_ = wire::Snapshots::NewStub(
        grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments));
}

Answer SnapshotClient::prepare(const std::string &key, const std::string &parent, Mounts *mounts,
                               const Labels &labels) {
    wire::PrepareSnapshotRequest request;
    request.set_key(key);
    request.set_parent(parent);
    put(labels, request.mutable_labels());
    wire::PrepareSnapshotResponse response;
    auto answer = repeat([&](grpc::ClientContext &context) { return stub_->Prepare(&context, request, &response); });
    if (mounts != nullptr) *mounts = specs(response.mounts());
    return answer;
}

Answer SnapshotClient::view(const std::string &key, const std::string &parent, Mounts *mounts) {
    wire::ViewSnapshotRequest request;
    request.set_key(key);
    request.set_parent(parent);
    wire::ViewSnapshotResponse response;
    auto answer = repeat([&](grpc::ClientContext &context) { return stub_->View(&context, request, &response); });
    if (mounts != nullptr) *mounts = specs(response.mounts());
    return answer;
}

Answer SnapshotClient::mounts(const std::string &key, Mounts *mounts) {
    wire::MountsRequest request;
    request.set_key(key);
    wire::MountsResponse response;
    auto answer = repeat([&](grpc::ClientContext &context) { return stub_->Mounts(&context, request, &response); });
    *mounts = specs(response.mounts());
    return answer;
}

Answer SnapshotClient::commit(const std::string &name, const std::string &key, const Labels &labels) {
    wire::CommitSnapshotRequest request;
    request.set_name(name);
    request.set_key(key);
    put(labels, request.mutable_labels());
    google::protobuf::Empty response;
    return repeat([&](grpc::ClientContext &context) { return stub_->Commit(&context, request, &response); });
}

Answer SnapshotClient::remove(const std::string &key) {
    wire::RemoveSnapshotRequest request;
    request.set_key(key);
    google::protobuf::Empty response;
    return repeat([&](grpc::ClientContext &context) { return stub_->Remove(&context, request, &response); });
}

Answer SnapshotClient::stat(const std::string &key, wire::Info *info) {
    wire::StatSnapshotRequest request;
    request.set_key(key);
    wire::StatSnapshotResponse response;
    auto answer = repeat([&](grpc::ClientContext &context) { return stub_->Stat(&context, request, &response); });
    *info = response.info();
    return answer;
}

Answer SnapshotClient::update(const std::string &key, const Labels &labels, const std::vector<std::string> &fields,
                              wire::Info *info) {
    wire::UpdateSnapshotRequest request;
    request.mutable_info()->set_name(key);
    put(labels, request.mutable_info()->mutable_labels());
    for (const std::string &field : fields)
        request.mutable_update_mask()->add_paths(field);
    wire::UpdateSnapshotResponse response;
    auto answer = repeat([&](grpc::ClientContext &context) { return stub_->Update(&context, request, &response); });
    *info = response.info();
    return answer;
}

Answer SnapshotClient::usage(const std::string &key, drivers::Usage *usage) {
    wire::UsageRequest request;
    request.set_key(key);
    wire::UsageResponse response;
    auto answer = repeat([&](grpc::ClientContext &context) { return stub_->Usage(&context, request, &response); });
    *usage = {static_cast<uint64_t>(response.size()), static_cast<uint64_t>(response.inodes()), true};
    return answer;
}

Answer SnapshotClient::list(const std::vector<std::string> &filters, std::map<std::string, wire::Info> *infos) {
    wire::ListSnapshotsRequest request;
    for (const std::string &filter : filters)
        request.add_filters(filter);
    return repeat([&](grpc::ClientContext &context) {
        infos->clear();
        const auto reader = stub_->List(&context, request);
        for (wire::ListSnapshotsResponse batch; reader->Read(&batch);)
            for (const auto &info : batch.info())
                infos->emplace(info.name(), info);
        return reader->Finish();
    });
}

Answer SnapshotClient::cleanup(std::chrono::seconds patience) {
    google::protobuf::Empty response;
    return repeat([&](grpc::ClientContext &context) { return stub_->Cleanup(&context, {}, &response); }, patience);
}

Answer SnapshotClient::repeat(const std::function<grpc::Status(grpc::ClientContext &)> &call,
                              std::chrono::seconds patience) {
    Answer out;
    const auto deadline = std::chrono::system_clock::now() + patience;
    for (;;) {
        const uint64_t turn = server_ == nullptr ? 0 : server_->turns();
        grpc::ClientContext context;
        context.set_wait_for_ready(true);
        context.set_deadline(deadline);
        out.status = call(context);
        if (!out.is(grpc::StatusCode::UNAVAILABLE)) {
            answered_turn_ = turn;
            return out;
        }
        if (!server_has_ended()) return out;
        out.repeated = true;
    }
}

/// Since it answered last, or it is not running just now.
bool SnapshotClient::server_has_ended() const {
    if (server_ == nullptr) return false;
    const uint64_t now = server_->turns();
    return now != answered_turn_ || now % 2 == 0;
}

std::string in_mounts(const SnapshotClient::Mounts &mounts, const std::string &at, const std::function<void()> &body) {
    if (mounts.size() != 1) return fmt::format("{} mounts were answered", mounts.size());
    auto mounted = sys::mount_at(mounts[0], at);
    // ZFS lets go of a dataset some time after its last unmount, which may be another process's.
    for (int tries = 0; !mounted && mounted.error().sys_errno() == EBUSY && mounts[0].type == "zfs" && tries < 100;
         ++tries) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        mounted = sys::mount_at(mounts[0], at);
    }
    if (!mounted) return mounted.error().text();
    body();
    const auto unmounted = sys::unmount(at);
    return unmounted ? std::string() : unmounted.error().text();
}

} // namespace shale::test
