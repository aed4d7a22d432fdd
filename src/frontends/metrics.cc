// SPDX-License-Identifier: Apache-2.0
#include "frontends/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace shale::frontends {

void CallMetrics::observe(const Call &call) noexcept {
    const double seconds = std::chrono::duration<double>(call.took).count();
    const auto bucket = std::ranges::lower_bound(latency_buckets, seconds);
    Histogram &histogram = histograms_[static_cast<size_t>(call.method)][std::min<size_t>(call.code, 16)];
    histogram.buckets[static_cast<size_t>(bucket - latency_buckets.begin())].fetch_add(1, std::memory_order_relaxed);
    histogram.sum_ns.fetch_add(static_cast<uint64_t>(std::max<int64_t>(call.took.count(), 0)),
                               std::memory_order_relaxed);
}

std::string CallMetrics::text(std::string_view snapshotter) const {
    std::string out;
    const std::string name = metric_quote(snapshotter);
    for (size_t method = 0; method < method_names.size(); ++method)
        for (size_t code = 0; code < code_names.size(); ++code) {
            const Histogram &histogram = histograms_[method][code];
            std::array<uint64_t, latency_buckets.size() + 1> counts{};
            uint64_t total = 0;
            for (size_t i = 0; i < counts.size(); ++i)
                total += counts[i] = histogram.buckets[i].load(std::memory_order_relaxed);
            if (total == 0) continue;
            const std::string labels =
                fmt::format("snapshotter={},method=\"{}\",code=\"{}\"", name, method_names[method], code_names[code]);
            uint64_t below = 0;
            for (size_t i = 0; i < latency_buckets.size(); ++i)
                fmt::format_to(std::back_inserter(out), "shale_rpc_seconds_bucket{{{},le=\"{}\"}} {}\n", labels,
                               latency_buckets[i], below += counts[i]);
            fmt::format_to(std::back_inserter(out),
                           "shale_rpc_seconds_bucket{{{0},le=\"+Inf\"}} {1}\nshale_rpc_seconds_sum{{{0}}} {2:.9f}\n"
                           "shale_rpc_seconds_count{{{0}}} {1}\n",
                           labels, total, static_cast<double>(histogram.sum_ns.load(std::memory_order_relaxed)) / 1e9);
        }
    return out;
}

std::string metric_quote(std::string_view text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        out += c == '\n' ? std::string_view("\\n") : std::string_view(&c, 1);
    }
    return out + '"';
}

} // namespace shale::frontends
