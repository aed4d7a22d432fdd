// SPDX-License-Identifier: Apache-2.0
// Calls counted for Prometheus: a histogram of latency for every method and code that has occurred.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "frontends/calls.h"

namespace shale::frontends {

/// Upper bounds of the buckets in seconds; a further one takes the rest.
inline constexpr std::array latency_buckets{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                            0.05,   0.1,     0.25,   0.5,   1.0,    2.5,   10.0};

class CallMetrics {
public:
    void observe(const Call &call) noexcept;
    /// Samples of shale_rpc_seconds with label snapshotter="NAME"; without the HELP and TYPE lines.
    [[nodiscard]] std::string text(std::string_view snapshotter) const;

private:
    struct Histogram {
        std::array<std::atomic<uint64_t>, latency_buckets.size() + 1> buckets{};
        std::atomic<uint64_t> sum_ns{0};
    };
    std::array<std::array<Histogram, code_names.size()>, method_names.size()> histograms_{};
};

/// A label's value with Prometheus' escapes, quoted.
std::string metric_quote(std::string_view text);

} // namespace shale::frontends
