// SPDX-License-Identifier: Apache-2.0
#include "daemon/dashboard_view.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "doctor/gather.h"

namespace shale::daemon {
namespace {

constexpr std::chrono::seconds diagnosis_lasts{60};

int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
}

void add_layers(store::Store &store, Dashboard::Served &out) {
    auto layers = store.list_layers();
    if (!layers) return;
    std::ranges::sort(*layers, std::ranges::greater(), &store::LayerInfo::bytes);
    for (const auto &layer : *layers) {
        if (out.layers.size() == Dashboard::most_layers) {
            ++out.more_layers;
            out.more_bytes += layer.bytes;
            continue;
        }
        std::string name = fmt::format("layer {}", layer.id.value);
        if (!layer.chain_id.empty()) name += " " + layer.chain_id.hex().substr(0, 12);
        out.layers.push_back({std::move(name), layer.bytes, layer.inodes});
    }
}

} // namespace

void DashboardView::diagnose() {
    const auto now = std::chrono::steady_clock::now();
    if (diagnosis_ && now - diagnosed_ < diagnosis_lasts) return;
    const auto host = probe::Host::open();
    if (!host) return;
    doctor::GatherOptions options;
    options.usage = false;
    for (const auto &one : served_)
        if (one->is_open()) options.only.push_back({"shale", one->store().root()});
    if (options.only.empty()) return; // none: it would look at all stores of the host
    diagnosis_ = doctor::diagnose(doctor::gather(*host, options));
    diagnosed_ = now;
    diagnosed_ns_ = now_ns();
    ::malloc_trim(0); // facts are large, and not needed again for a while
}

Dashboard DashboardView::look() {
    Dashboard out;
    std::array<char, 256> hostname{};
    if (::gethostname(hostname.data(), hostname.size() - 1) == 0) out.hostname = hostname.data();
    out.version = SHALE_VERSION;
    out.taken_ns = now_ns();
    out.has_guard = guardian_ != nullptr;
    for (const auto &one : served_) {
        auto &row = out.served.emplace_back();
        row.name = one->snapshotter().name;
        row.socket = one->snapshotter().socket;
        row.failure = one->failure().value_or("");
        row.driver = one->snapshotter().settings.driver;
        row.root = one->snapshotter().settings.root;
        if (!one->is_open()) continue;
        row.driver = one->store().driver().name();
        row.root = one->store().root();
        if (const auto counts = one->snapshots().counts()) row.counts = *counts;
        add_layers(one->store(), row);
        if (guardian_ != nullptr) row.guard = guardian_->view(row.name);
    }
    diagnose();
    if (diagnosis_) {
        out.diagnosis = &*diagnosis_;
        out.diagnosed_ns = diagnosed_ns_;
    }
    return out;
}

} // namespace shale::daemon
