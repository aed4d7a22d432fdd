// SPDX-License-Identifier: Apache-2.0
// Calls a snapshotter behind a unix socket (containerd.services.snapshots.v1) and times what the calls take: shaled's
// or any other, which is how run.py compares them. One connection a client; every figure in one JSON object.
//   rpc SOCKET fill COUNT                     COUNT committed snapshots, in chains of 10, where there are none
//   rpc SOCKET life PARENT CLIENTS CYCLES     Prepare, Mounts, Remove; CYCLES of all clients together
//   rpc SOCKET commit PARENT COUNT            Prepare, 3 files, Commit (this is timed), Remove
//   rpc SOCKET list ROUNDS                    List of all
//   rpc SOCKET first NUMBER                   Stat of a snapshot as soon as somebody serves; when (CLOCK_MONOTONIC)
// PARENT, NUMBER: a number that fill gave (snapshot 9 is the top of a chain of 10). Removed trees are freed (Cleanup)
// before the end, not within what is timed. Parents are the names that containerd gives, with its label
// containerd.io/snapshot.ref.
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "containerd/services/snapshots/v1/snapshots.grpc.pb.h"

namespace {

namespace wire = containerd::services::snapshots::v1;
using Clock = std::chrono::steady_clock;
using Micros = std::vector<double>;
using Mounts = google::protobuf::RepeatedPtrField<containerd::types::Mount>;

constexpr size_t chain_length = 10, fill_clients = 8, files_per_commit = 3, file_bytes = 4'096;

[[noreturn]] void die(const std::string &text) {
    fmt::print(stderr, "rpc: {}\n", text);
    std::_Exit(1); // other threads may be in calls
}

double micros_since(Clock::time_point begin) {
    return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

/// One client: a connection that nobody shares, and that is there before the clock starts.
class Client {
public:
    explicit Client(const std::string &socket) {
        grpc::ChannelArguments arguments;
        arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
        const auto channel = grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
        if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(30)))
            die("nobody answers at " + socket);
        stub_ = wire::Snapshots::NewStub(channel);
        channel_ = channel;
    }

    Mounts prepare(const std::string &key, const std::string &parent, const std::string &ref = {}) {
        wire::PrepareSnapshotRequest request;
        request.set_snapshotter("bench");
        request.set_key(key);
        request.set_parent(parent);
        if (!ref.empty()) (*request.mutable_labels())["containerd.io/snapshot.ref"] = ref;
        wire::PrepareSnapshotResponse response;
        call("Prepare", key, &wire::Snapshots::Stub::Prepare, request, response);
        return response.mounts();
    }
    Mounts mounts(const std::string &key) {
        wire::MountsRequest request;
        request.set_snapshotter("bench");
        request.set_key(key);
        wire::MountsResponse response;
        call("Mounts", key, &wire::Snapshots::Stub::Mounts, request, response);
        return response.mounts();
    }
    void commit(const std::string &name, const std::string &key, const std::string &ref) {
        wire::CommitSnapshotRequest request;
        request.set_snapshotter("bench");
        request.set_name(name);
        request.set_key(key);
        (*request.mutable_labels())["containerd.io/snapshot.ref"] = ref;
        google::protobuf::Empty response;
        call("Commit", key, &wire::Snapshots::Stub::Commit, request, response);
    }
    void stat(const std::string &key) {
        wire::StatSnapshotRequest request;
        request.set_snapshotter("bench");
        request.set_key(key);
        wire::StatSnapshotResponse response;
        call("Stat", key, &wire::Snapshots::Stub::Stat, request, response);
    }
    void remove(const std::string &key) {
        wire::RemoveSnapshotRequest request;
        request.set_snapshotter("bench");
        request.set_key(key);
        google::protobuf::Empty response;
        call("Remove", key, &wire::Snapshots::Stub::Remove, request, response);
    }
    void cleanup() {
        wire::CleanupRequest request;
        request.set_snapshotter("bench");
        google::protobuf::Empty response;
        call("Cleanup", {}, &wire::Snapshots::Stub::Cleanup, request, response);
    }
    size_t list() {
        grpc::ClientContext context;
        wire::ListSnapshotsRequest request;
        request.set_snapshotter("bench");
        const auto reader = stub_->List(&context, request);
        size_t found = 0;
        for (wire::ListSnapshotsResponse batch; reader->Read(&batch);)
            found += static_cast<size_t>(batch.info_size());
        check("List", {}, reader->Finish());
        return found;
    }

    /// The bytes of all answers, not decoded: what decoding takes is the client's, and as much for every server.
    size_t list_bytes() {
        grpc::ClientContext context;
        wire::ListSnapshotsRequest request;
        request.set_snapshotter("bench");
        using grpc::internal::RpcMethod;
        const RpcMethod method("/containerd.services.snapshots.v1.Snapshots/List", nullptr, RpcMethod::SERVER_STREAMING,
                               channel_);
        const std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> reader(
            grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(channel_.get(), method, &context, request));
        size_t bytes = 0;
        for (grpc::ByteBuffer batch; reader->Read(&batch);)
            bytes += batch.Length();
        check("List", {}, reader->Finish());
        return bytes;
    }

private:
    static void check(const char *what, const std::string &key, const grpc::Status &status) {
        if (!status.ok())
            die(fmt::format("{} {}: {} ({})", what, key, status.error_message(),
                            static_cast<int>(status.error_code())));
    }
    template <class Method, class Request, class Response>
    void call(const char *what, const std::string &key, Method method, const Request &request, Response &response) {
        grpc::ClientContext context;
        context.AddMetadata("containerd-namespace", "bench");
        check(what, key, (stub_.get()->*method)(&context, request, &response));
    }

    std::shared_ptr<grpc::Channel> channel_;
    std::unique_ptr<wire::Snapshots::Stub> stub_;
};

/// As containerd names what it unpacked: a chain id, and its namespace and a sequence before it.
std::string chain_id(size_t number) {
    return fmt::format("sha256:{:064x}", number);
}
std::string name_of(size_t number) {
    return fmt::format("bench/{}/{}", number, chain_id(number));
}
/// No other process has the same.
std::string new_key(const char *what, size_t number) {
    return fmt::format("bench/{}/{}-{}", number, what, getpid());
}

/// Where the mounts let one write, without mounting them; "" for what is neither overlay nor bind.
std::string writable_directory(const Mounts &mounts) {
    if (mounts.size() != 1) return {};
    if (mounts[0].type() == "bind") return mounts[0].source();
    for (const std::string &option : mounts[0].options())
        if (option.starts_with("upperdir=")) return option.substr(9);
    return {};
}

void write_files(const Mounts &mounts, size_t count) {
    const std::string directory = writable_directory(mounts);
    if (directory.empty()) return;
    const std::string content(file_bytes, 'x');
    for (size_t i = 0; i < count; ++i)
        if (!(std::ofstream(fmt::format("{}/file-{}", directory, i)) << content))
            die("cannot write below " + directory);
}

/// "median_us":...,"p99_us":...
std::string figures(Micros &all) {
    std::ranges::sort(all);
    return fmt::format("{{\"count\":{},\"median_us\":{:.1f},\"p99_us\":{:.1f},\"max_us\":{:.1f}}}", all.size(),
                       all[all.size() / 2], all[all.size() * 99 / 100], all.back());
}

/// body(client, its number) in as many threads, all begun at once; the seconds from there to the end of the last.
template <class Body> double in_threads(const std::string &socket, size_t clients, Body &&body) {
    std::vector<std::unique_ptr<Client>> all;
    for (size_t i = 0; i < clients; ++i)
        all.push_back(std::make_unique<Client>(socket));
    const auto begin = Clock::now();
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < clients; ++i)
        threads.emplace_back([&, i] { body(*all[i], i); });
    threads.clear();
    return micros_since(begin) / 1e6;
}

std::string fill(const std::string &socket, size_t count) {
    std::atomic<size_t> next_chain = 0;
    const double seconds = in_threads(socket, fill_clients, [&](Client &client, size_t) {
        for (;;) {
            const size_t first = next_chain++ * chain_length;
            if (first >= count) return;
            for (size_t i = first; i < std::min(first + chain_length, count); ++i) {
                const std::string key = new_key("fill", i);
                write_files(client.prepare(key, i == first ? "" : name_of(i - 1), chain_id(i)), 1);
                client.commit(name_of(i), key, chain_id(i));
            }
        }
    });
    return fmt::format("\"count\":{},\"seconds\":{:.3f}", count, seconds);
}

std::string life(const std::string &socket, const std::string &parent, size_t clients, size_t cycles) {
    std::vector<std::map<std::string, Micros>> series(clients);
    std::atomic<size_t> next = 0;
    const double seconds = in_threads(socket, clients, [&](Client &client, size_t number) {
        for (size_t i = next++; i < cycles; i = next++) {
            const std::string key = new_key("life", i);
            const auto begin = Clock::now();
            (void)client.prepare(key, parent);
            const double prepared = micros_since(begin);
            (void)client.mounts(key);
            const double mounted = micros_since(begin);
            client.remove(key);
            const double removed = micros_since(begin);
            auto &mine = series[number];
            mine["prepare"].push_back(prepared);
            mine["mounts"].push_back(mounted - prepared);
            mine["remove"].push_back(removed - mounted);
            mine["cycle"].push_back(removed);
        }
    });
    Client(socket).cleanup();
    std::string out =
        fmt::format("\"clients\":{},\"cycles_per_s\":{:.1f}", clients, static_cast<double>(cycles) / seconds);
    for (const char *name : {"prepare", "mounts", "remove", "cycle"}) {
        Micros all;
        for (auto &one : series)
            all.insert(all.end(), one[name].begin(), one[name].end());
        out += fmt::format(",\"{}\":{}", name, figures(all));
    }
    return out;
}

std::string commit(const std::string &socket, const std::string &parent, size_t count) {
    Client client(socket);
    const size_t there = client.list();
    Micros all;
    for (size_t i = 0; i < count; ++i) {
        const std::string key = new_key("commit", i), name = new_key("committed", i);
        write_files(client.prepare(key, parent), files_per_commit);
        const auto begin = Clock::now();
        client.commit(name, key, chain_id(there + i));
        all.push_back(micros_since(begin));
        client.remove(name);
    }
    client.cleanup();
    return fmt::format("\"present\":{},\"commit\":{}", there, figures(all));
}

std::string list(const std::string &socket, size_t rounds) {
    Client client(socket);
    const size_t found = client.list(), bytes = client.list_bytes();
    Micros all, decoded;
    for (size_t i = 0; i < rounds; ++i) {
        auto begin = Clock::now();
        if (client.list_bytes() != bytes) die("the lists differ");
        all.push_back(micros_since(begin));
        begin = Clock::now();
        if (client.list() != found) die("the lists differ");
        decoded.push_back(micros_since(begin));
    }
    return fmt::format("\"found\":{},\"bytes\":{},\"list\":{},\"decoded\":{}", found, bytes, figures(all),
                       figures(decoded));
}

/// Whether somebody listens there. gRPC's own next try would come after 100 ms.
bool is_listening(const std::string &socket) {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    if (socket.size() >= sizeof address.sun_path) die("the socket's path is too long: " + socket);
    std::ranges::copy(socket, address.sun_path);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool there = ::connect(fd, reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0;
    ::close(fd);
    return there;
}

std::string first(const std::string &socket, const std::string &name) {
    const auto end = Clock::now() + std::chrono::minutes(1);
    while (!is_listening(socket)) {
        if (Clock::now() > end) die("nobody answers at " + socket);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    Client(socket).stat(name);
    const auto now = Clock::now().time_since_epoch();
    return fmt::format("\"answered_at_s\":{:.6f}", std::chrono::duration<double>(now).count());
}

} // namespace

int main(int argc, char **argv) {
    const std::vector<std::string> words(argv + 1, argv + argc);
    const auto number = [&](size_t index) {
        const size_t value = index < words.size() ? std::strtoul(words[index].c_str(), nullptr, 10) : 0;
        if (value == 0) die(fmt::format("argument {} must be a number, 1 or more", index + 1));
        return value;
    };
    if (words.size() < 3) die("usage: rpc SOCKET fill|life|commit|list|first ARGUMENTS (see the head of rpc.cc)");
    const std::string &socket = words[0], &what = words[1];
    std::string out;
    if (what == "fill")
        out = fill(socket, number(2));
    else if (what == "life")
        out = life(socket, name_of(number(2)), number(3), number(4));
    else if (what == "commit")
        out = commit(socket, name_of(number(2)), number(3));
    else if (what == "list")
        out = list(socket, number(2));
    else if (what == "first")
        out = first(socket, name_of(number(2)));
    else
        die("there is no '" + what + "'");
    fmt::print("{{{}}}\n", out);
    return 0;
}
