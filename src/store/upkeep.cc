// SPDX-License-Identifier: Apache-2.0
#include "store/upkeep.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <utility>

#include "base/fd.h"
#include "store/records.h"
#include "store/store.h"

namespace shale::store {
namespace {

/// An unpack or a container's start comes in a burst of calls; work that competes with it, and that its next call may
/// make vain, waits until it is over.
constexpr std::chrono::seconds quiet{10};
/// Between two layers of an image containerd commits one and prepares the next.
constexpr std::chrono::seconds between_layers{1};
/// What is committed waits no longer than that for a sync to begin.
constexpr std::chrono::seconds sync_latest{30};
/// What could not be synced for want of means is tried again after that.
constexpr std::chrono::seconds sync_again{10};

/// The kernel tells once that it could not write something (Linux, Documentation/filesystems/vfs.rst, "Handling errors
/// during writeback"), and drops it: a second sync that succeeds proves nothing. What failed before it began is another
/// matter.
bool may_have_lost_data(const Error &error) {
    switch (error.sys_errno()) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EINTR:
    case EAGAIN:
        return false;
    default:
        return error.code() != Errc::NotFound && error.code() != Errc::Unavailable;
    }
}

/// In the same boot their data is safe in the kernel's hands.
Result<std::vector<LayerId>> left_unsynced(Records &records) {
    std::vector<LayerId> out;
    auto rows = TRY(records.prepare("SELECT layer FROM snapshots WHERE kind = 3 AND synced = 0"));
    while (TRY(rows.step()))
        out.push_back(rows.id(0));
    return out;
}

/// containerd prepares what it unpacks into with the label containerd.io/snapshot.ref, and nothing else.
bool is_unpacking(Records &records) {
    auto row = records.prepare("SELECT 1 FROM snapshots WHERE kind = 2 AND ref <> '' LIMIT 1");
    return row && row->step().value_or(false);
}

Result<bool> is_unsynced(Records &records, LayerId layer) {
    auto row = TRY(records.prepare("SELECT 1 FROM snapshots WHERE layer = ? AND kind = 3 AND synced = 0"));
    return TRY(row.bind(layer).step());
}

} // namespace

Upkeep::Upkeep(Store &store)
    : store_(store), unsynced_(left_unsynced(*store.records_).value_or(std::vector<LayerId>())),
      touched_(std::chrono::steady_clock::now()), syncer_([this](const std::stop_token &stop) { sync_all(stop); }),
      keeper_([this](const std::stop_token &stop) { keep(stop); }) {
    store_.records_->checkpoint_behind();
}

Upkeep::~Upkeep() {
    cancel_ = true;
    syncer_.request_stop();
    keeper_.request_stop();
}

void Upkeep::sync_later(LayerId layer) {
    {
        const std::lock_guard lock(mutex_);
        last_ = std::chrono::steady_clock::now();
        if (unsynced_.empty()) first_ = last_;
        unsynced_.push_back(layer);
    }
    sync_wake_.notify_one();
}

void Upkeep::wait_for_its_time(std::unique_lock<std::mutex> &lock, const std::stop_token &stop) {
    while (!sync_now_ && !stop.stop_requested()) {
        const auto now = std::chrono::steady_clock::now();
        if (now >= first_ + sync_latest) return;
        if (now >= last_ + between_layers) {
            lock.unlock();
            const bool unpacking = is_unpacking(*store_.records_);
            lock.lock();
            if (!unpacking) return;
        }
        (void)sync_wake_.wait_for(lock, stop, between_layers, [&] { return sync_now_; });
    }
}

void Upkeep::sync_all(const std::stop_token &stop) {
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested() || !unsynced_.empty()) {
        const auto any = [&] { return !unsynced_.empty(); };
        if (again_.empty())
            (void)sync_wake_.wait(lock, stop, any);
        else if (!sync_wake_.wait_until(lock, stop, retry_at_, any) && !stop.stop_requested())
            unsynced_ = std::exchange(again_, {});
        if (unsynced_.empty()) continue;
        wait_for_its_time(lock, stop); // at once when it is stopped: the machine may go down next
        sync_now_ = false;
        const auto layers = std::exchange(unsynced_, {});
        lock.unlock();
        const SyncReport report = sync(layers);
        lock.lock();
        counts_.synced += report.synced;
        if (report.why.empty()) continue;
        ++counts_.sync_failures;
        counts_.last_failure = report.why;
        again_.insert(again_.end(), report.again.begin(), report.again.end());
        retry_at_ = std::chrono::steady_clock::now() + sync_again;
    }
}

/// All at once; where that fails for a reason that is one layer's, each alone.
Upkeep::SyncReport Upkeep::sync(std::span<const LayerId> layers) {
    const Status done = store_.durable() ? store_.driver_->sync(layers) : Status();
    const bool lost = !done && may_have_lost_data(done.error());
    if (lost) lost_.insert(layers.begin(), layers.end()); // until that is recorded, whatever the next sync says
    if (done || lost) {
        const auto noted = note(layers);
        if (done && noted) {
            (void)store_.record_usage(layers); // now that what counts the data has counted it; it is as safe without
            return {*noted, {}, {}};
        }
        const std::vector<LayerId> again = noted ? std::vector<LayerId>() : std::vector(layers.begin(), layers.end());
        if (lost)
            return {0, again,
                    fmt::format("the data of {} committed layers (the first: {}) could not be written: {}. They "
                                "are not trusted after the next boot; remove them and pull them again",
                                layers.size(), layers.front().value, done.error().text())};
        return {0, again, "records of synced layers: " + noted.error().text()};
    }
    if (layers.size() == 1) {
        const auto wanted = is_unsynced(*store_.records_, layers.front());
        if (wanted && !*wanted) return {}; // it is gone again
        return {0,
                {layers.front()},
                fmt::format("layer {} could not be synced: {}", layers.front().value, done.error().text())};
    }
    SyncReport out;
    for (const LayerId id : layers) {
        SyncReport one = sync(std::array{id});
        out.synced += one.synced;
        out.again.insert(out.again.end(), one.again.begin(), one.again.end());
        if (!one.why.empty()) out.why = std::move(one.why);
    }
    return out;
}

/// How many are safe: all but those that lost data.
Result<uint64_t> Upkeep::note(std::span<const LayerId> layers) {
    uint64_t safe = 0;
    auto tx = TRY(store_.records_->begin(Sync::synced));
    for (const LayerId id : layers) {
        const SyncState state = lost_.contains(id) ? SyncState::failed : SyncState::done;
        safe += state == SyncState::done ? 1 : 0;
        auto put = TRY(tx.prepare("UPDATE snapshots SET synced = ? WHERE layer = ? AND kind = 3"));
        TRY(put.bind(static_cast<int64_t>(state)).bind(id).run());
    }
    TRY(tx.commit());
    for (const LayerId id : layers)
        lost_.erase(id);
    return safe;
}

Status Upkeep::clean(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    const uint64_t mine = ++wanted_;
    sync_now_ = !unsynced_.empty();
    sync_wake_.notify_one();
    keep_wake_.notify_one();
    if (!cleaned_wake_.wait_for(lock, patience, [&] { return done_ >= mine; })) return {};
    return cleaned_;
}

void Upkeep::touch() {
    const std::lock_guard lock(mutex_);
    touched_ = std::chrono::steady_clock::now();
    if (!std::exchange(changed_, true)) keep_wake_.notify_one();
}

void Upkeep::keep(const std::stop_token &stop) {
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested()) {
        const bool rested = changed_ && std::chrono::steady_clock::now() >= touched_ + quiet;
        if (wanted_ == done_ && !rested) {
            const auto asked = [&, changed = changed_] { return wanted_ != done_ || changed_ != changed; };
            if (changed_)
                (void)keep_wake_.wait_until(lock, stop, touched_ + quiet, asked);
            else
                (void)keep_wake_.wait(lock, stop, asked);
            continue;
        }
        const uint64_t answers = wanted_;
        if (rested) changed_ = false;
        lock.unlock();
        UpkeepCounts now;
        Status cleaned = clean_now(now);
        lock.lock();
        ++counts_.cleanings;
        if (!cleaned) {
            ++counts_.failures;
            counts_.last_failure = "cleaning: " + cleaned.error().text();
        }
        counts_.removed_entries += now.removed_entries;
        counts_.settled += now.settled;
        counts_.cleaning += now.cleaning;
        done_ = answers;
        cleaned_ = std::move(cleaned);
        cleaned_wake_.notify_all();
    }
}

Status Upkeep::clean_now(UpkeepCounts &out) {
    const auto begin = std::chrono::steady_clock::now();
    const ScopeGuard took([&] { out.cleaning = std::chrono::steady_clock::now() - begin; });
    // What one step cannot do keeps no other from its own; the first error is told.
    const Status swept = store_.sweep_leftovers();
    const auto reaped = store_.reap(&cancel_);
    const auto settled = store_.settle_all(&cancel_);
    out.removed_entries = reaped.value_or(0);
    out.settled = settled ? settled->settled : 0;
    if (out.settled != 0) out.removed_entries += TRY(store_.reap(&cancel_));
    TRY(swept);
    TRY(reaped);
    TRY(settled);
    return {};
}

UpkeepCounts Upkeep::counts() {
    const std::lock_guard lock(mutex_);
    return counts_;
}

} // namespace shale::store
