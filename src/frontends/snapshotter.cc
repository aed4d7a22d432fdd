// SPDX-License-Identifier: Apache-2.0
#include "frontends/snapshotter.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <new>
#include <utility>

#include "containerd/services/snapshots/v1/snapshots.grpc.pb.h"
#include "frontends/filter.h"

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

void put_time(int64_t unix_ns, google::protobuf::Timestamp *out) {
    constexpr int64_t second = 1'000'000'000;
    const int64_t rest = ((unix_ns % second) + second) % second; // of a time before the epoch too
    out->set_seconds((unix_ns - rest) / second);
    out->set_nanos(static_cast<int32_t>(rest));
}

/// About what it takes in a message.
size_t size_of(const store::SnapshotInfo &info) {
    size_t out = info.name.size() + info.parent.size() + 64;
    for (const auto &[key, value] : info.labels)
        out += key.size() + value.size() + 16;
    return out;
}

/// Takes what is in `info`.
void put(store::SnapshotInfo &info, wire::Info *out) {
    out->set_name(std::move(info.name));
    out->set_parent(std::move(info.parent));
    out->set_kind(static_cast<wire::Kind>(info.kind));
    put_time(info.created_ns, out->mutable_created_at());
    put_time(info.updated_ns, out->mutable_updated_at());
    while (!info.labels.empty()) {
        auto label = info.labels.extract(info.labels.begin());
        (*out->mutable_labels())[std::move(label.key())] = std::move(label.mapped());
    }
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
    Service(store::Snapshots &snapshots, CallObserver observe) : snapshots_(snapshots), observe_(std::move(observe)) {}

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
            auto info = TRY(snapshots_.stat(request->key()));
            put(info, response->mutable_info());
            return {};
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
            auto info = TRY(snapshots_.update(wanted, fields));
            put(info, response->mutable_info());
            return {};
        });
    }

    grpc::Status List(ServerContext *context, const wire::ListSnapshotsRequest *request,
                      grpc::ServerWriter<wire::ListSnapshotsResponse> *writer) override {
        return call(Method::List, {}, [&]() -> Status {
            const auto filter =
                TRY(Filter::parse(std::vector<std::string>(request->filters().begin(), request->filters().end())));
            google::protobuf::Arena arena; // a message's parts are freed together
            wire::ListSnapshotsResponse *batch = nullptr;
            size_t bytes = 0;
            const auto send = [&]() -> Status {
                if (context->IsCancelled() || !writer->Write(*std::exchange(batch, nullptr)))
                    return fail(Errc::Canceled, "the client went away in the middle of a list");
                arena.Reset();
                bytes = 0;
                return {};
            };
            TRY(visit_matches(filter, [&](store::SnapshotInfo &info) -> Status {
                if (batch == nullptr)
                    batch = google::protobuf::Arena::CreateMessage<wire::ListSnapshotsResponse>(&arena);
                bytes += size_of(info);
                put(info, batch->add_info());
                return batch->info_size() == static_cast<int>(list_batch) || bytes > list_bytes ? send() : Status();
            }));
            if (batch != nullptr) TRY(send());
            return {};
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

    /// `visit` may take its time (a slow reader): walk() holds nothing while it runs.
    template <class Visit> Status visit_matches(const Filter &filter, Visit &&visit) {
        const auto if_it_matches = [&](store::SnapshotInfo &info) -> Status {
            return filter.matches(info) ? visit(info) : Status();
        };
        const auto names = filter.names();
        if (!names) return snapshots_.walk(if_it_matches, filter.label(store::ref_label).value_or(""));
        for (const std::string &name : *names) {
            auto info = snapshots_.stat(name);
            if (info)
                TRY(if_it_matches(*info));
            else if (info.error().code() != Errc::NotFound)
                return std::unexpected(std::move(info).error());
        }
        return {};
    }

    store::Snapshots &snapshots_;
    CallObserver observe_;
};

} // namespace

Result<std::unique_ptr<RpcServer>> serve_snapshots(store::Snapshots &snapshots, CallObserver observe) {
    return RpcServer::start(std::make_unique<Service>(snapshots, std::move(observe)));
}

} // namespace shale::frontends
