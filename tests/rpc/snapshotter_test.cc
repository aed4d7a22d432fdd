// SPDX-License-Identifier: Apache-2.0
// The snapshot service over a real unix socket, asked by the generated client.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <mutex>
#include <thread>

#include "containerd/services/snapshots/v1/snapshots.grpc.pb.h"
#include "frontends/metrics.h"
#include "frontends/snapshotter.h"
#include "store/snapshots.h"
#include "support/world.h"
#include "sys/unix_socket.h"

namespace shale {
namespace {

namespace wire = containerd::services::snapshots::v1;
using grpc::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

/// A socket, the loop that accepts at it, and the server behind it.
class Served {
public:
    Served(store::Snapshots &snapshots, const std::string &path, frontends::CallObserver observe)
        : listener_(sys::UnixListener::listen(path, 0660).value()),
          server_(frontends::serve_snapshots(snapshots, std::move(observe)).value()), accepter_([this] { accept(); }) {}
    ~Served() {
        stop_ = true;
        accepter_.join();
        server_->stop(std::chrono::seconds(5));
    }

private:
    void accept() {
        while (!stop_) {
            pollfd waiting{listener_.fd(), POLLIN, 0};
            if (::poll(&waiting, 1, 20) <= 0) continue;
            if (auto connection = sys::accept_one(listener_.fd()); connection && *connection)
                server_->adopt(std::move(*connection));
        }
    }

    sys::UnixListener listener_;
    std::unique_ptr<frontends::RpcServer> server_;
    std::atomic<bool> stop_{false};
    std::thread accepter_;
};

class Snapshotter : public testing::Test {
protected:
    void SetUp() override {
        store::StoreOptions options;
        options.root = world_ / "store";
        options.driver = "vfs";
        store_ = store::Store::open(options).value();
        snapshots_ = std::make_unique<store::Snapshots>(*store_);
        serve();
    }
    void serve() {
        served_.reset();
        served_ = std::make_unique<Served>(*snapshots_, world_ / "sock", [this](const frontends::Call &call) {
            metrics_.observe(call);
            const std::lock_guard lock(mutex_);
            calls_.emplace_back(
                fmt::format("{} {}", frontends::method_names[static_cast<size_t>(call.method)], call.code));
        });
        stub_ = wire::Snapshots::NewStub(
            grpc::CreateChannel("unix:" + (world_ / "sock"), grpc::InsecureChannelCredentials()));
    }

    grpc::Status prepare(const std::string &key, const std::string &parent = {},
                         const std::map<std::string, std::string> &labels = {}) {
        grpc::ClientContext context;
        context.AddMetadata("containerd-namespace", "k8s.io");
        wire::PrepareSnapshotRequest request;
        request.set_snapshotter("whatever");
        request.set_key(key);
        request.set_parent(parent);
        for (const auto &[name, value] : labels)
            (*request.mutable_labels())[name] = value;
        prepared_.Clear();
        return stub_->Prepare(&context, request, &prepared_);
    }
    grpc::Status commit(const std::string &name, const std::string &key) {
        grpc::ClientContext context;
        wire::CommitSnapshotRequest request;
        request.set_name(name);
        request.set_key(key);
        google::protobuf::Empty response;
        return stub_->Commit(&context, request, &response);
    }
    grpc::Status remove(const std::string &key) {
        grpc::ClientContext context;
        wire::RemoveSnapshotRequest request;
        request.set_key(key);
        google::protobuf::Empty response;
        return stub_->Remove(&context, request, &response);
    }
    grpc::Status stat(const std::string &key, wire::Info *info = nullptr) {
        grpc::ClientContext context;
        wire::StatSnapshotRequest request;
        request.set_key(key);
        wire::StatSnapshotResponse response;
        const grpc::Status status = stub_->Stat(&context, request, &response);
        if (info != nullptr) *info = response.info();
        return status;
    }
    /// Names, and how many messages they came in.
    std::pair<std::vector<std::string>, size_t> list(const std::vector<std::string> &filters,
                                                     grpc::Status *status = nullptr) {
        grpc::ClientContext context;
        wire::ListSnapshotsRequest request;
        for (const std::string &filter : filters)
            request.add_filters(filter);
        const auto reader = stub_->List(&context, request);
        std::pair<std::vector<std::string>, size_t> out;
        for (wire::ListSnapshotsResponse batch; reader->Read(&batch); ++out.second) {
            EXPECT_LE(batch.ByteSizeLong(), store::Snapshots::page_bytes + 4'000) << "a page and its last row";
            for (const auto &info : batch.info())
                out.first.push_back(info.name());
        }
        const grpc::Status ended = reader->Finish();
        if (status != nullptr) *status = ended;
        return out;
    }

    test::World world_;
    std::unique_ptr<store::Store> store_;
    std::unique_ptr<store::Snapshots> snapshots_;
    frontends::CallMetrics metrics_;
    std::mutex mutex_;
    std::vector<std::string> calls_;
    std::unique_ptr<Served> served_;
    std::unique_ptr<wire::Snapshots::Stub> stub_;
    wire::PrepareSnapshotResponse prepared_;
};

TEST_F(Snapshotter, LifeOfASnapshot) {
    const std::string key = "k8s.io/1/extract 7 sha256:\xC3\xA9/../x";
    ASSERT_TRUE(prepare(key, "", {{"a", "1"}}).ok());
    ASSERT_EQ(prepared_.mounts_size(), 1);
    EXPECT_EQ(prepared_.mounts(0).type(), "bind");
    EXPECT_EQ(prepared_.mounts(0).target(), "");
    EXPECT_THAT(prepared_.mounts(0).options(), ElementsAre("rw", "rbind"));
    EXPECT_EQ(prepare(key).error_code(), StatusCode::ALREADY_EXISTS);

    wire::Info info;
    ASSERT_TRUE(stat(key, &info).ok());
    EXPECT_EQ(info.name(), key);
    EXPECT_EQ(info.kind(), wire::ACTIVE);
    EXPECT_EQ(info.labels().at("a"), "1");
    EXPECT_GT(info.created_at().seconds(), 1'500'000'000);
    EXPECT_EQ(info.created_at().nanos(), info.updated_at().nanos());

    ASSERT_TRUE(commit("base", key).ok());
    EXPECT_EQ(stat(key).error_code(), StatusCode::NOT_FOUND);
    ASSERT_TRUE(stat("base", &info).ok());
    EXPECT_EQ(info.kind(), wire::COMMITTED);
    EXPECT_TRUE(info.labels().empty());

    ASSERT_TRUE(prepare("child", "base").ok());
    const grpc::Status refused = remove("base");
    EXPECT_EQ(refused.error_code(), StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(refused.error_message(), HasSubstr("remove"));
    EXPECT_TRUE(remove("child").ok());
    EXPECT_TRUE(remove("base").ok());
    EXPECT_EQ(remove("base").error_code(), StatusCode::NOT_FOUND);
}

TEST_F(Snapshotter, MountsViewAndUsage) {
    ASSERT_TRUE(prepare("a").ok());
    ASSERT_TRUE(commit("base", "a").ok());
    {
        grpc::ClientContext context;
        wire::ViewSnapshotRequest request;
        request.set_key("look");
        request.set_parent("base");
        wire::ViewSnapshotResponse response;
        ASSERT_TRUE(stub_->View(&context, request, &response).ok());
        ASSERT_GE(response.mounts_size(), 1);
        EXPECT_THAT(response.mounts(0).options(), testing::Contains("ro"));
    }
    const auto mounts = [&](const std::string &key) {
        grpc::ClientContext context;
        wire::MountsRequest request;
        request.set_key(key);
        wire::MountsResponse response;
        return stub_->Mounts(&context, request, &response).error_code();
    };
    EXPECT_EQ(mounts("look"), StatusCode::OK);
    EXPECT_EQ(mounts("base"), StatusCode::FAILED_PRECONDITION);
    EXPECT_EQ(mounts("none"), StatusCode::NOT_FOUND);
    EXPECT_EQ(mounts(""), StatusCode::INVALID_ARGUMENT);
    grpc::ClientContext context;
    wire::UsageRequest request;
    request.set_key("base");
    wire::UsageResponse response;
    EXPECT_TRUE(stub_->Usage(&context, request, &response).ok());
    EXPECT_GE(response.inodes(), 1);
    grpc::ClientContext second;
    google::protobuf::Empty empty;
    EXPECT_TRUE(stub_->Cleanup(&second, {}, &empty).ok());
}

TEST_F(Snapshotter, Update) {
    ASSERT_TRUE(prepare("a", "", {{"one", "1"}, {"two", "2"}}).ok());
    const auto update = [&](const std::map<std::string, std::string> &labels, const std::vector<std::string> &mask,
                            wire::Info *info = nullptr) {
        grpc::ClientContext context;
        wire::UpdateSnapshotRequest request;
        request.mutable_info()->set_name("a");
        for (const auto &[name, value] : labels)
            (*request.mutable_info()->mutable_labels())[name] = value;
        for (const std::string &path : mask)
            request.mutable_update_mask()->add_paths(path);
        wire::UpdateSnapshotResponse response;
        const grpc::Status status = stub_->Update(&context, request, &response);
        if (info != nullptr) *info = response.info();
        return status.error_code();
    };
    wire::Info info;
    EXPECT_EQ(update({{"three", "3"}}, {"labels.three", "labels.two"}, &info), StatusCode::OK);
    EXPECT_EQ(info.labels().size(), 2U);
    EXPECT_EQ(info.labels().at("three"), "3");
    EXPECT_EQ(update({{"only", "1"}}, {}, &info), StatusCode::OK);
    EXPECT_EQ(info.labels().size(), 1U);
    EXPECT_EQ(update({}, {"parent"}), StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(update({{"long", std::string(4'096, 'x')}}, {}), StatusCode::INVALID_ARGUMENT);
}

TEST_F(Snapshotter, ListsInBatchesAndByFilter) {
    EXPECT_EQ(list({}).second, 0U);
    for (int i = 0; i < 250; ++i)
        ASSERT_TRUE(
            prepare(fmt::format("key/{:03}", i), "", {{"n", std::to_string(i % 2)}, {"pad", std::string(3'000, 'p')}})
                .ok());
    const auto [all, batches] = list({});
    EXPECT_EQ(all.size(), 250U);
    EXPECT_EQ(batches, 3U) << "of 86 each";
    EXPECT_EQ(list({"labels.n==1"}).first.size(), 125U);
    EXPECT_EQ(list({"labels.n==1", "name==\"key/000\""}).first.size(), 126U);
    EXPECT_THAT(list({"name==key/007", "name==gone", "name==key/003,kind==active", "name==key/004,kind==view"}).first,
                ElementsAre("key/003", "key/007"));
    grpc::Status status;
    list({"name="}, &status);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(Snapshotter, AReaderThatStopsReadingHoldsNobodyUp) {
    const std::string big(4'000, 'x');
    for (int i = 0; i < 400; ++i)
        ASSERT_TRUE(prepare(fmt::format("{}", i), "", {{"a", big}, {"b", big}, {"c", big}}).ok());
    grpc::ClientContext context;
    const auto reader = stub_->List(&context, {});
    wire::ListSnapshotsResponse first;
    ASSERT_TRUE(reader->Read(&first));
    EXPECT_TRUE(prepare("while it waits").ok());
    EXPECT_TRUE(remove("0").ok());
    context.TryCancel();
    (void)reader->Finish();
}

TEST_F(Snapshotter, HostileRequests) {
    EXPECT_EQ(prepare("").error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(prepare(std::string(40'000, 'k')).error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(prepare("a", std::string(40'000, 'p')).error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(prepare("a", "", {{"k", std::string(4'096, 'v')}}).error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_TRUE(prepare("a", "", {{"k", std::string(4'095, 'v')}}).ok());
    EXPECT_EQ(commit("", "a").error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(prepare("b", "a").error_code(), StatusCode::INVALID_ARGUMENT) << "the parent is not committed";
    EXPECT_EQ(prepare("b", "none").error_code(), StatusCode::NOT_FOUND);
    const std::string newline = "two\nlines \x01";
    EXPECT_EQ(stat(newline).error_code(), StatusCode::NOT_FOUND);
    std::map<std::string, std::string> many;
    for (int i = 0; i < 5'000; ++i)
        many[std::to_string(i)] = std::string(4'000, 'v');
    EXPECT_EQ(prepare("c", "", many).error_code(), StatusCode::RESOURCE_EXHAUSTED) << "more than 16 MiB";
    EXPECT_TRUE(stat("a").ok()) << "and the server goes on";
}

TEST_F(Snapshotter, FiftyClientsAtOnce) {
    std::atomic<int> failed{0};
    std::vector<std::thread> clients;
    for (int client = 0; client < 50; ++client)
        clients.emplace_back([&, client] {
            grpc::ChannelArguments own; // a connection of its own
            own.SetInt("client", client);
            const auto stub = wire::Snapshots::NewStub(
                grpc::CreateCustomChannel("unix:" + (world_ / "sock"), grpc::InsecureChannelCredentials(), own));
            for (int i = 0; i < 10; ++i) {
                wire::PrepareSnapshotRequest make;
                make.set_key(fmt::format("{}/{}", client, i));
                wire::PrepareSnapshotResponse made;
                wire::RemoveSnapshotRequest drop;
                drop.set_key(make.key());
                google::protobuf::Empty empty;
                grpc::ClientContext first, second;
                if (!stub->Prepare(&first, make, &made).ok()) ++failed;
                if (!stub->Remove(&second, drop, &empty).ok()) ++failed;
            }
        });
    for (std::thread &client : clients)
        client.join();
    EXPECT_EQ(failed, 0);
    EXPECT_EQ(list({}).first.size(), 0U);
}

TEST_F(Snapshotter, ClosingTheServerKeepsEverything) {
    ASSERT_TRUE(prepare("kept").ok());
    serve();
    EXPECT_TRUE(stat("kept").ok());
}

TEST_F(Snapshotter, CallsAreCounted) {
    (void)stat("none");
    ASSERT_TRUE(prepare("a").ok());
    EXPECT_THAT(calls_, ElementsAre("Stat 5", "Prepare 0"));
    const std::string text = metrics_.text("the \"one\"");
    EXPECT_THAT(text,
                HasSubstr(R"(shale_rpc_seconds_count{snapshotter="the \"one\"",method="Stat",code="NotFound"} 1)"));
    EXPECT_THAT(text, HasSubstr(R"(method="Prepare",code="OK",le="+Inf"} 1)"));
    EXPECT_THAT(text, HasSubstr(R"(le="10"} 1)"));
    EXPECT_THAT(text, Not(HasSubstr("method=\"Commit\"")));
}

} // namespace
} // namespace shale
