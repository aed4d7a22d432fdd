// SPDX-License-Identifier: Apache-2.0
#include "frontends/snapshotter.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <new>
#include <utility>

#include "containerd/services/snapshots/v1/snapshots.grpc.pb.h"
#include "frontends/filter.h"
#include "frontends/list_page.h"

namespace shale::frontends {
namespace {

namespace wire = containerd::services::snapshots::v1;
using google::protobuf::Empty;
using grpc::ServerContext;

// ------------------------------------------------------------------------------------------------ engine to wire

grpc::Status status_of(const Status &result) {
    if (result) return grpc::Status::OK;
    constexpr size_t longest = 2'048; // it travels in a header
    std::string text = result.error().text();
    if (text.size() > longest) text.replace(longest, std::string::npos, "...");
    return {static_cast<grpc::StatusCode>(result.error().code()), text};
}

void put(const std::vector<sys::MountSpec> &mounts, google::protobuf::RepeatedPtrField<containerd::types::Mount> *out) {
    for (const sys::MountSpec &mount : mounts) {
        auto *one = out->Add();
        one->set_type(mount.type);
        one->set_source(mount.source);
        for (const std::string &option : mount.options)
            one->add_options(option);
    }
}

/// Of a Stat or an Update, whose answers are encoded as a list's are.
template <class Response> Status put(const store::SnapshotInfo &info, Response *out) {
    const std::string labels = store::pack_labels(info.labels);
    std::string page;
    append_info({info.name, info.parent, info.kind, info.created_ns, info.updated_ns, store::PackedLabels(labels)},
                page);
    if (out->ParseFromString(page)) return {};
    return fail(Errc::DataLoss, fmt::format("what the records say of snapshot \"{}\" is no UTF-8", info.name));
}

/// Without a copy.
grpc::Slice slice_of(std::string &&text) {
    auto owned = std::make_unique<std::string>(std::move(text));
    const grpc::Slice out(
        owned->data(), owned->size(), [](void *string) { delete static_cast<std::string *>(string); }, owned.get());
    (void)owned.release();
    return out;
}

// ------------------------------------------------------------------------------------------------ wire to engine

Status check_key(std::string_view what, const std::string &key) {
    if (key.empty()) return fail(Errc::InvalidArgument, fmt::format("the {} is empty", what));
    if (key.size() > max_key_bytes)
        return fail(Errc::InvalidArgument,
                    fmt::format("the {} has {} bytes; at most {} are taken", what, key.size(), max_key_bytes));
    return {};
}
Status check_parent(const std::string &parent) {
    return parent.empty() ? Status() : check_key("parent", parent);
}

Result<store::Labels> labels_of(const google::protobuf::Map<std::string, std::string> &labels) {
    store::Labels out;
    for (const auto &[key, value] : labels) {
        if (key.size() + value.size() > max_label_bytes)
            return fail(Errc::InvalidArgument,
                        fmt::format("label \"{}\" has {} bytes with its value; at most {} are taken", key.substr(0, 64),
                                    key.size() + value.size(), max_label_bytes));
        out.emplace(key, value);
    }
    return out;
}

// ------------------------------------------------------------------------------------------------------- service

class Service final : public wire::Snapshots::Service {
public:
    Service(store::Snapshots &snapshots, CallObserver observe) : snapshots_(snapshots), observe_(std::move(observe)) {
        // In place of the generated List, whose answers are messages made of objects.
        constexpr int list = 7; // its number in the service, as the generated WithSplitStreamingMethod_List has it
        MarkMethodStreamed(
            list, new grpc::internal::SplitServerStreamingHandler<wire::ListSnapshotsRequest, grpc::ByteBuffer>(
                      [this](ServerContext *context, ListStream *stream) { return answer(context, stream); }));
    }

    grpc::Status Prepare(ServerContext *, const wire::PrepareSnapshotRequest *request,
                         wire::PrepareSnapshotResponse *response) override {
        return call(Method::Prepare, request->key(), [&]() -> Status {
            TRY(check_key("key", request->key()));
            TRY(check_parent(request->parent()));
            const auto labels = TRY(labels_of(request->labels()));
            put(TRY(snapshots_.prepare(request->key(), request->parent(), labels)), response->mutable_mounts());
            return {};
        });
    }

    grpc::Status View(ServerContext *, const wire::ViewSnapshotRequest *request,
                      wire::ViewSnapshotResponse *response) override {
        return call(Method::View, request->key(), [&]() -> Status {
            TRY(check_key("key", request->key()));
            TRY(check_parent(request->parent()));
            const auto labels = TRY(labels_of(request->labels()));
            put(TRY(snapshots_.view(request->key(), request->parent(), labels)), response->mutable_mounts());
            return {};
        });
    }

    grpc::Status Mounts(ServerContext *, const wire::MountsRequest *request, wire::MountsResponse *response) override {
        return call(Method::Mounts, request->key(), [&]() -> Status {
            TRY(check_key("key", request->key()));
            put(TRY(snapshots_.mounts(request->key())), response->mutable_mounts());
            return {};
        });
    }

    grpc::Status Commit(ServerContext *, const wire::CommitSnapshotRequest *request, Empty *) override {
        return call(Method::Commit, request->key(), [&]() -> Status {
            TRY(check_key("key", request->key()));
            TRY(check_key("name", request->name()));
            TRY(check_parent(request->parent()));
            const auto labels = TRY(labels_of(request->labels()));
            return snapshots_.commit(request->name(), request->key(), labels, request->parent());
        });
    }

    grpc::Status Remove(ServerContext *, const wire::RemoveSnapshotRequest *request, Empty *) override {
        return call(Method::Remove, request->key(), [&]() -> Status {
            TRY(check_key("key", request->key()));
            // containerd's own tests look for the word in the refusal to remove a parent.
            return in_context(snapshots_.remove(request->key()), [] { return std::string("remove snapshot"); });
        });
    }

    grpc::Status Stat(ServerContext *, const wire::StatSnapshotRequest *request,
                      wire::StatSnapshotResponse *response) override {
        return call(Method::Stat, request->key(), [&]() -> Status {
            TRY(check_key("key", request->key()));
            return put(TRY(snapshots_.stat(request->key())), response);
        });
    }

    grpc::Status Update(ServerContext *, const wire::UpdateSnapshotRequest *request,
                        wire::UpdateSnapshotResponse *response) override {
        return call(Method::Update, request->info().name(), [&]() -> Status {
            TRY(check_key("name", request->info().name()));
            store::SnapshotInfo wanted;
            wanted.name = request->info().name();
            wanted.labels = TRY(labels_of(request->info().labels()));
            const auto &paths = request->update_mask().paths();
            const std::vector<std::string> fields(paths.begin(), paths.end());
            return put(TRY(snapshots_.update(wanted, fields)), response);
        });
    }

    grpc::Status Usage(ServerContext *, const wire::UsageRequest *request, wire::UsageResponse *response) override {
        return call(Method::Usage, request->key(), [&]() -> Status {
            TRY(check_key("key", request->key()));
            const drivers::Usage usage = TRY(snapshots_.usage(request->key()));
            response->set_size(static_cast<int64_t>(usage.bytes));
            response->set_inodes(static_cast<int64_t>(usage.inodes));
            return {};
        });
    }

    grpc::Status Cleanup(ServerContext *, const wire::CleanupRequest *, Empty *) override {
        return call(Method::Cleanup, {}, [&] { return snapshots_.cleanup(); });
    }

private:
    using ListStream = grpc::ServerSplitStreamer<wire::ListSnapshotsRequest, grpc::ByteBuffer>;

    grpc::Status answer(ServerContext *context, ListStream *stream) {
        return call(Method::List, {}, [&]() -> Status {
            wire::ListSnapshotsRequest request;
            if (!stream->Read(&request)) return fail(Errc::InvalidArgument, "the request of a list cannot be read");
            const auto filter =
                TRY(Filter::parse(std::vector<std::string>(request.filters().begin(), request.filters().end())));
            const auto write = [&](const store::SnapshotRow &row, std::string &page) {
                if (filter.matches(row)) append_info(row, page);
            };
            return snapshots_.walk({filter.names(), filter.label(store::ref_label).value_or("")}, write,
                                   [&](std::string &page) -> Status {
                                       const grpc::Slice text = slice_of(std::move(page));
                                       if (!context->IsCancelled() && stream->Write(grpc::ByteBuffer(&text, 1)))
                                           return {};
                                       return fail(Errc::Canceled, "the client went away in the middle of a list");
                                   });
        });
    }

    /// Every call goes through here: no exception gets into gRPC, and the observer hears of it.
    template <class Body> grpc::Status call(Method method, std::string_view key, Body &&body) {
        const auto begin = std::chrono::steady_clock::now();
        Status result;
        try {
            result = body();
        } catch (const std::bad_alloc &) {
            result = fail(Errc::ResourceExhausted, "out of memory");
        } catch (const std::exception &error) {
            result = fail(Errc::Internal, fmt::format("internal error: {}", error.what()));
        }
        grpc::Status status = status_of(result);
        if (observe_)
            observe_({method, static_cast<unsigned>(status.error_code()), std::chrono::steady_clock::now() - begin, key,
                      status.error_message()});
        return status;
    }

    store::Snapshots &snapshots_;
    CallObserver observe_;
};

} // namespace

Result<std::unique_ptr<RpcServer>> serve_snapshots(store::Snapshots &snapshots, CallObserver observe) {
    return RpcServer::start(std::make_unique<Service>(snapshots, std::move(observe)));
}

} // namespace shale::frontends
