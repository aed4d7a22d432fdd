// SPDX-License-Identifier: Apache-2.0
#include "drivers/concurrent_writes.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "sys/fs.h"

namespace shale::drivers {
namespace {

constexpr size_t writers = 4, written_bytes = 256U << 10U;

std::string written_file(size_t number) {
    return fmt::format("w{}", number);
}

Status write_first(int dir, size_t number, double &microseconds) {
    const auto begin = std::chrono::steady_clock::now();
    {
        const UniqueFd file = TRY(sys::open_at(dir, written_file(number).c_str(), O_WRONLY));
        constexpr std::array byte{std::byte{1}};
        TRY(sys::pwrite_all(file.get(), byte, 0));
    }
    microseconds = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
    return {};
}

/// Medians: one file after the other, then as many at once.
Result<std::pair<double, double>> time_writes(int dir) {
    std::array<double, 2 * writers> each{};
    std::array<Status, writers> done;
    for (size_t i = 0; i < writers; ++i)
        TRY(write_first(dir, i, each[i]));
    {
        std::atomic<bool> go = false;
        std::vector<std::jthread> threads; // joins after the start below, also when not all could be made
        threads.reserve(writers);
        const ScopeGuard start([&] {
            go = true;
            go.notify_all();
        });
        for (size_t i = 0; i < writers; ++i)
            threads.emplace_back([&, i] {
                go.wait(false);
                done[i] = write_first(dir, writers + i, each[writers + i]);
            });
    }
    for (auto &status : done)
        TRY(std::move(status));
    std::ranges::sort(each.begin(), each.begin() + writers);
    std::ranges::sort(each.begin() + writers, each.end());
    return std::pair{each[writers / 2], each[writers + writers / 2]};
}

} // namespace

Status make_written_files(int dir) {
    const std::vector<std::byte> data(written_bytes, std::byte{2});
    for (size_t i = 0; i < 2 * writers; ++i) {
        const UniqueFd file = TRY(sys::open_at(dir, written_file(i).c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
        TRY(sys::write_all(file.get(), data));
    }
    return {};
}

Fact concurrent_writes(const Result<UniqueFd> &dir, std::string_view what) {
    Fact out{"concurrent writes", "unknown", {}};
    if (!dir) {
        out.reason = dir.error().text();
    } else if (const auto times = time_writes(dir->get()); !times) {
        out.reason = times.error().text();
    } else {
        const auto [alone, together] = *times;
        out.value = fmt::format("{:.1f}x", together / std::max(alone, 0.001));
        out.reason = fmt::format("{}: {:.0f} us alone, {:.0f} us among {}", what, alone, together, writers);
    }
    return out;
}

} // namespace shale::drivers
