// SPDX-License-Identifier: Apache-2.0
#include "drivers/measure.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <random>

#include "archive/extract.h"
#include "drivers/writable.h"
#include "sys/fs.h"

namespace shale::drivers {
namespace {

constexpr LayerId base{1};
constexpr const char *file_name = "data";
constexpr size_t rounds = 3, writes = 2000, write_bytes = 4096;

using Bytes = std::vector<std::byte>;

/// The same sequence in every round and for every driver.
Bytes noise(std::mt19937_64 &random, size_t size) {
    Bytes out(size);
    for (size_t at = 0; at < size; at += sizeof(uint64_t)) {
        const auto word = std::bit_cast<std::array<std::byte, sizeof(uint64_t)>>(random());
        std::ranges::copy(word, out.begin() + static_cast<ptrdiff_t>(at));
    }
    return out;
}

Status make_base(Driver &driver, uint64_t bytes) {
    auto staging = TRY(driver.stage(base, {}));
    {
        auto &tree = *staging.tree;
        const auto file = TRY(tree.create_file(tree.root(), file_name, 0644));
        std::mt19937_64 random(1);
        constexpr size_t piece = size_t{1} << 20;
        for (uint64_t done = 0; done < bytes; done += piece)
            TRY(tree.write(file.get(), noise(random, piece)));
    }
    TRY(driver.apply(base, {}, std::move(staging), {}));
    return driver.sync(std::array{base});
}

Status copy_up(const Driver::View &view) {
    const auto file = TRY(sys::open_at(view.root.get(), file_name, O_WRONLY));
    return sys::pwrite_all(file.get(), std::array{std::byte{1}}, 0);
}

Status write_at_random(const Driver::View &view, uint64_t bytes) {
    const auto file = TRY(sys::open_at(view.root.get(), file_name, O_WRONLY));
    std::mt19937_64 random(2);
    const auto data = noise(random, write_bytes);
    for (size_t i = 0; i < writes; ++i)
        TRY(sys::pwrite_all(file.get(), data, random() % (bytes / write_bytes) * write_bytes));
    return sys::fsync_fd(file.get());
}

Result<Measurement::Time> timed(const std::function<Status()> &step) {
    const auto begin = std::chrono::steady_clock::now();
    TRY(step());
    return std::chrono::steady_clock::now() - begin;
}

Result<Measurement> round(Driver &driver, LayerId id, uint64_t bytes, const std::atomic<bool> *cancel) {
    const std::array parents{base};
    Measurement out;
    Driver::View view;
    out.create = TRY(timed([&]() -> Status {
        TRY(driver.create(id, parents, {}));
        view = TRY(open_writable(driver, id, parents));
        return {};
    }));
    out.copy_up = TRY(timed([&] { return copy_up(view); }));
    out.write = TRY(timed([&] { return write_at_random(view, bytes); })) / writes;
    out.remove = TRY(timed([&]() -> Status {
        view = {};
        TRY(driver.remove(id));
        TRY(driver.reap(cancel));
        return {};
    }));
    return out;
}

Result<Measurement> all_rounds(Driver &driver, uint64_t bytes, const std::atomic<bool> *cancel) {
    TRY(make_base(driver, bytes));
    std::array<Measurement, rounds> all;
    for (size_t i = 0; i < rounds; ++i) {
        if (cancel != nullptr && cancel->load()) return fail(Errc::Canceled, "canceled");
        all[i] = TRY(round(driver, LayerId{base.value + 1 + i}, bytes, cancel));
    }
    Measurement median;
    for (auto member : {&Measurement::create, &Measurement::copy_up, &Measurement::write, &Measurement::remove}) {
        std::ranges::sort(all, {}, member);
        median.*member = all[rounds / 2].*member;
    }
    return median;
}

/// Containers before what they are made of.
Status clear(Driver &driver) {
    auto ids = TRY(driver.list());
    std::ranges::sort(ids, std::ranges::greater{}, &LayerId::value);
    for (const LayerId id : ids)
        TRY(driver.remove(id));
    TRY(driver.reap(nullptr));
    return {};
}

} // namespace

Result<Measurement> measure(Driver &driver, uint64_t bytes, const std::atomic<bool> *cancel) {
    auto measured = all_rounds(driver, bytes, cancel);
    const Status cleared = clear(driver);
    if (measured && !cleared) return std::unexpected(cleared.error());
    return measured;
}

} // namespace shale::drivers
