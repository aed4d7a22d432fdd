// SPDX-License-Identifier: Apache-2.0
#include "daemon/monitor.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "daemon/dashboard_view.h"
#include "sys/fs.h"

namespace shale::daemon {
namespace {

using ServedList = std::span<const std::unique_ptr<Served>>;
using OpenList = std::span<Served *const>;

/// Head lines of a family of gauges, then what `each` writes for every snapshotter.
template <class Each>
void family(std::string &out, std::string_view name, std::string_view help, OpenList served, Each &&each) {
    fmt::format_to(std::back_inserter(out), "# HELP {0} {1}\n# TYPE {0} gauge\n", name, help);
    for (Served *one : served)
        each(*one, frontends::metric_quote(one->snapshotter().name));
}

/// What the records say, read once for all rows.
void records(std::string &out, OpenList served) {
    using Counts = store::Snapshots::Counts;
    std::map<const Served *, Counts> all;
    for (Served *one : served)
        if (const auto counts = one->snapshots().counts()) all.emplace(one, *counts);
    const auto gauge = [&](std::string_view name, std::string_view help, uint64_t Counts::*member) {
        family(out, name, help, served, [&](Served &one, const std::string &snapshotter) {
            if (const auto found = all.find(&one); found != all.end())
                fmt::format_to(std::back_inserter(out), "{}{{snapshotter={},driver=\"{}\"}} {}\n", name, snapshotter,
                               one.store().driver().name(), found->second.*member);
        });
    };
    family(out, "shale_snapshots", "Snapshots by kind.", served, [&](Served &one, const std::string &snapshotter) {
        const auto found = all.find(&one);
        if (found == all.end()) return;
        const Counts &counts = found->second;
        for (const auto &[kind, count] : {std::pair("view", counts.views), std::pair("active", counts.active),
                                          std::pair("committed", counts.committed)})
            fmt::format_to(std::back_inserter(out), "shale_snapshots{{snapshotter={},kind=\"{}\"}} {}\n", snapshotter,
                           kind, count);
    });
    gauge("shale_unsynced_snapshots", "Committed snapshots that a power cut would take.", &Counts::unsynced);
    gauge("shale_layers", "Sealed layers of the store, those of images too.", &Counts::layers);
    gauge("shale_layer_bytes", "Bytes of these layers, as counted when each was made.", &Counts::bytes);
    gauge("shale_layer_inodes", "Inodes of these layers.", &Counts::inodes);
}

void upkeep(std::string &out, OpenList served) {
    const auto counter = [&](std::string_view name, std::string_view help, auto &&value) {
        fmt::format_to(std::back_inserter(out), "# HELP {0} {1}\n# TYPE {0} counter\n", name, help);
        for (Served *one : served)
            fmt::format_to(std::back_inserter(out), "{}{{snapshotter={}}} {}\n", name,
                           frontends::metric_quote(one->snapshotter().name), value(one->snapshots().upkeep()));
    };
    using Counts = store::UpkeepCounts;
    counter("shale_cleanings_total", "Times the trash was emptied, asked for or not.",
            [](const Counts &counts) { return counts.cleanings; });
    counter("shale_cleaning_failures_total", "Those that ended with an error.",
            [](const Counts &counts) { return counts.failures; });
    counter("shale_cleaning_seconds_total", "Time that they took.", [](const Counts &counts) {
        return fmt::format("{:.6f}", std::chrono::duration<double>(counts.cleaning).count());
    });
    counter("shale_removed_entries_total", "Files and directories, or whole layers, that left the trash.",
            [](const Counts &counts) { return counts.removed_entries; });
    counter("shale_settled_layers_total", "Committed layers that got the form their driver keeps layers in.",
            [](const Counts &counts) { return counts.settled; });
    counter("shale_synced_snapshots_total", "Committed snapshots that were put on stable storage.",
            [](const Counts &counts) { return counts.synced; });
    counter("shale_sync_failures_total", "Syncs that ended with an error; they are tried again.",
            [](const Counts &counts) { return counts.sync_failures; });
}

void file_systems(std::string &out, OpenList served) {
    struct Row {
        std::string_view name, help;
        uint64_t (*value)(const struct statvfs &);
    };
    constexpr std::array rows{Row{"shale_fs_bytes", "Size of the file system of the store.",
                                  [](const struct statvfs &s) -> uint64_t { return s.f_blocks * s.f_frsize; }},
                              Row{"shale_fs_available_bytes", "What is available there to unprivileged users.",
                                  [](const struct statvfs &s) -> uint64_t { return s.f_bavail * s.f_frsize; }},
                              Row{"shale_fs_inodes", "Inodes of the file system of the store; 0: not limited.",
                                  [](const struct statvfs &s) -> uint64_t { return s.f_files; }},
                              Row{"shale_fs_available_inodes", "Inodes that are free there.",
                                  [](const struct statvfs &s) -> uint64_t { return s.f_favail; }}};
    for (const Row &row : rows)
        family(out, row.name, row.help, served, [&](Served &one, const std::string &name) {
            struct statvfs status{};
            if (::statvfs(one.store().root().c_str(), &status) == 0)
                fmt::format_to(std::back_inserter(out), "{}{{snapshotter={},driver=\"{}\"}} {}\n", row.name, name,
                               one.store().driver().name(), row.value(status));
        });
}

void trash(std::string &out, OpenList served) {
    family(out, "shale_trash_layers", "Removed layers whose space has not come back yet.", served,
           [&](Served &one, const std::string &name) {
               if (const auto layers = one.store().driver().trash_layers())
                   fmt::format_to(std::back_inserter(out), "shale_trash_layers{{snapshotter={}}} {}\n", name, *layers);
           });
}

/// Resident bytes, from /proc/self/statm (proc(5): pages, the second number).
uint64_t resident_bytes() {
    const auto text = sys::read_file(AT_FDCWD, "/proc/self/statm", 4096);
    unsigned long long size = 0, resident = 0;
    if (!text || std::sscanf(text->c_str(), "%llu %llu", &size, &resident) != 2) return 0;
    return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

} // namespace

std::string metrics_text(ServedList served) {
    std::vector<Served *> open;
    std::string out = "# HELP shale_serving 1: the snapshotter is served; 0: its store could not be opened.\n"
                      "# TYPE shale_serving gauge\n";
    for (const auto &one : served) {
        const bool is_open = one->is_open();
        if (is_open) open.push_back(one.get());
        fmt::format_to(std::back_inserter(out), "shale_serving{{snapshotter={}}} {:d}\n",
                       frontends::metric_quote(one->snapshotter().name), is_open);
    }
    out += "# HELP shale_rpc_seconds Time that calls took in the server.\n# TYPE shale_rpc_seconds histogram\n";
    for (Served *one : open)
        out += one->calls().text(one->snapshotter().name);
    records(out, open);
    upkeep(out, open);
    file_systems(out, open);
    trash(out, open);
    fmt::format_to(std::back_inserter(out),
                   "# HELP process_resident_memory_bytes Resident memory of shaled.\n"
                   "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}\n"
                   "# HELP shale_build_info Version of shaled.\n# TYPE shale_build_info gauge\n"
                   "shale_build_info{{version=\"{}\"}} 1\n",
                   resident_bytes(), SHALE_VERSION);
    return out;
}

frontends::HttpReply health(ServedList served) {
    std::string wrong;
    for (const auto &one : served) {
        const auto line = [&](std::string_view text) {
            fmt::format_to(std::back_inserter(wrong), "snapshotter {}: {}\n", one->snapshotter().name, text);
        };
        if (const auto failure = one->failure()) {
            line(*failure);
            continue;
        }
        // A name that no snapshot has (containerd's have no control characters): the records are asked, and answer.
        const auto asked = one->snapshots().stat("\x01health");
        if (!asked && asked.error().code() != Errc::NotFound) line(asked.error().text());
    }
    if (!wrong.empty()) return {503, {}, std::move(wrong)};
    return {200, {}, "ok\n"};
}

Monitor::Monitor(UniqueFd tcp, std::optional<sys::UnixListener> unix_socket, UniqueFd wake, ServedList served,
                 const Guardian *guardian, std::chrono::milliseconds patience)
    : tcp_(std::move(tcp)), unix_(std::move(unix_socket)), wake_(std::move(wake)), served_(served), guardian_(guardian),
      patience_(patience), thread_([this] { run(); }) {}

Result<std::unique_ptr<Monitor>> Monitor::start(const std::string &address, ServedList served, const Guardian *guardian,
                                                std::chrono::milliseconds patience) {
    UniqueFd tcp, wake(::eventfd(0, EFD_CLOEXEC));
    if (!wake) return fail_errno(errno, "eventfd");
    std::optional<sys::UnixListener> unix_socket;
    if (address.starts_with('/') || address.starts_with("unix:///"))
        unix_socket.emplace(
            TRY(sys::UnixListener::listen(address.starts_with('/') ? address : address.substr(7), 0660)));
    else
        tcp = TRY(frontends::listen_loopback(address));
    return std::unique_ptr<Monitor>(
        new Monitor(std::move(tcp), std::move(unix_socket), std::move(wake), served, guardian, patience));
}

Monitor::~Monitor() {
    const uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
    thread_.join();
}

void Monitor::run() {
    DashboardView dashboard(served_, guardian_);
    const auto answer = [&](std::string_view path) -> frontends::HttpReply {
        if (path == "/metrics")
            return {200, "text/plain; version=0.0.4; charset=utf-8",
                    metrics_text(served_) + (guardian_ != nullptr ? guardian_->metrics() : "")};
        if (path == "/healthz") return health(served_);
        if (path == "/") return {200, "text/html; charset=utf-8", dashboard_html(dashboard.look())};
        if (path == "/dashboard.json") return {200, "application/json", dashboard_json(dashboard.look())};
        return {404, {}, "there are /, /dashboard.json, /metrics and /healthz\n"};
    };
    frontends::serve_http(unix_ ? unix_->fd() : tcp_.get(), wake_.get(), answer, patience_);
}

} // namespace shale::daemon
