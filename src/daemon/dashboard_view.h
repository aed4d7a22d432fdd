// SPDX-License-Identifier: Apache-2.0
// Gathers what the dashboard shows. Records and the guard are asked each time; the doctor at most once a minute.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>

#include "daemon/dashboard.h"
#include "daemon/served.h"

namespace shale::daemon {

/// For one thread.
class DashboardView {
public:
    /// `served` and `guardian` (null: there is none) outlive it.
    DashboardView(std::span<const std::unique_ptr<Served>> served, const Guardian *guardian)
        : served_(served), guardian_(guardian) {}

    /// What is returned refers to this object's diagnosis, until the next call.
    Dashboard look();

private:
    void diagnose();

    std::span<const std::unique_ptr<Served>> served_;
    const Guardian *guardian_;
    std::optional<doctor::Diagnosis> diagnosis_;
    std::chrono::steady_clock::time_point diagnosed_;
    int64_t diagnosed_ns_ = 0;
};

} // namespace shale::daemon
