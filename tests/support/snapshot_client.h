// SPDX-License-Identifier: Apache-2.0
// A client of the snapshot service, with a connection of its own. It waits for a server that is not there yet. Where it
// knows the server's process, it repeats a call under which that has ended until it is answered, as containerd does; an
// UNAVAILABLE that a living server answers is the call's answer, and no test repeats it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "containerd/services/snapshots/v1/snapshots.grpc.pb.h"
#include "drivers/driver.h"
#include "store/snapshots.h"
#include "support/shaled.h"

namespace shale::test {

namespace wire = containerd::services::snapshots::v1;

/// The end of a call, and whether an earlier try of it may have been carried out.
struct Answer {
    grpc::Status status;
    bool repeated = false;
    [[nodiscard]] bool ok() const { return status.ok(); }
    [[nodiscard]] bool is(grpc::StatusCode code) const { return status.error_code() == code; }
    [[nodiscard]] std::string text() const;
};

class SnapshotClient {
public:
    using Mounts = std::vector<sys::MountSpec>;
    using Labels = store::Labels;

    /// `server`, when given, outlives it.
    explicit SnapshotClient(const std::string &socket, const Shaled *server = nullptr);
    Answer prepare(const std::string &key, const std::string &parent, Mounts *mounts, const Labels &labels = {});
    Answer view(const std::string &key, const std::string &parent, Mounts *mounts);
    Answer mounts(const std::string &key, Mounts *mounts);
    Answer commit(const std::string &name, const std::string &key, const Labels &labels = {});
    Answer remove(const std::string &key);
    Answer stat(const std::string &key, wire::Info *info);
    Answer update(const std::string &key, const Labels &labels, const std::vector<std::string> &fields,
                  wire::Info *info);
    Answer usage(const std::string &key, drivers::Usage *usage);
    /// By name.
    Answer list(const std::vector<std::string> &filters, std::map<std::string, wire::Info> *infos);
    /// DEADLINE_EXCEEDED when it has no answer within `patience`.
    Answer cleanup(std::chrono::seconds patience = most_patience);

private:
    static constexpr std::chrono::seconds most_patience{60};
    Answer repeat(const std::function<grpc::Status(grpc::ClientContext &)> &call,
                  std::chrono::seconds patience = most_patience);
    [[nodiscard]] bool server_has_ended() const;

    const Shaled *server_;
    uint64_t answered_turn_ = 0; ///< of the server, when the last call began that it answered
    std::unique_ptr<wire::Snapshots::Stub> stub_;
};

/// Mounts what a call answered at `at`, calls `body` and unmounts. The first that fails, as a text; empty: none did.
std::string in_mounts(const SnapshotClient::Mounts &mounts, const std::string &at, const std::function<void()> &body);

} // namespace shale::test
