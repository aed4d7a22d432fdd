// SPDX-License-Identifier: Apache-2.0
// A bounded queue between two stages of a pipeline.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace shale {

/// Bounded first-in first-out queue. push() waits for room, pop() for an item; close() says that no more come
/// (pop() hands out what is left); abort() wakes everybody for good and drops what is left. Any number of threads.
template <class T> class BoundedQueue {
public:
    explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

    /// False: the queue was closed or aborted, `item` is gone.
    bool push(T item) {
        std::unique_lock lock(mutex_);
        room_.wait(lock, [&] { return closed_ || items_.size() < capacity_; });
        if (closed_) return false;
        items_.push_back(std::move(item));
        lock.unlock();
        filled_.notify_one();
        return true;
    }

    /// Nothing: closed and empty, or aborted.
    std::optional<T> pop() {
        std::unique_lock lock(mutex_);
        filled_.wait(lock, [&] { return closed_ || !items_.empty(); });
        if (items_.empty()) return std::nullopt;
        std::optional<T> out(std::move(items_.front()));
        items_.pop_front();
        lock.unlock();
        room_.notify_one();
        return out;
    }

    void close() {
        std::lock_guard lock(mutex_);
        closed_ = true;
        room_.notify_all();
        filled_.notify_all();
    }

    void abort() {
        std::deque<T> dropped; // outlives the lock: destroying an item may call back
        std::lock_guard lock(mutex_);
        closed_ = true;
        dropped.swap(items_);
        room_.notify_all();
        filled_.notify_all();
    }

private:
    const size_t capacity_;
    std::mutex mutex_;
    std::condition_variable room_, filled_;
    std::deque<T> items_;
    bool closed_ = false;
};

} // namespace shale
