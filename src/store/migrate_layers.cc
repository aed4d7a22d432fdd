// SPDX-License-Identifier: Apache-2.0
// Copying layers: each from its blob through the pipeline that an import uses, so that blob digest and diff id are
// proved on the way; one whose blob is gone or damaged from the old driver's tree, and both trees are compared then.
// Several at once, parents applied before children; every few seconds what is applied is synced and recorded.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <thread>

#include "archive/compare.h"
#include "archive/unpack.h"
#include "drivers/common.h"
#include "store/id_space.h"
#include "store/locks.h"
#include "store/migration.h"
#include "store/records.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

constexpr auto pace_interval = std::chrono::milliseconds(250);
constexpr auto record_interval = std::chrono::seconds(5);
constexpr size_t choice_window = 16; ///< of so many next layers the largest is begun first: it must not come last
constexpr size_t max_staged = 64;    ///< unpacked and waiting for a parent
constexpr unsigned max_jobs = 16;

std::string item_of(LayerId id) {
    return fmt::format("layer:{}", id.value);
}

} // namespace

class LayerCopy {
public:
    explicit LayerCopy(Migration &migration) : m_(migration), store_(migration.store_), side_(*migration.side_) {}
    Status run();

private:
    enum class State : uint8_t { waiting, unpacking, staged, applying, applied };
    struct Task {
        LayerInfo layer;
        std::vector<LayerId> parents;
        State state = State::waiting;
        archive::ExtractReport extract;
        drivers::Staging staged; ///< until it is applied
        bool from_tree = false;
        std::string text; ///< for progress
    };

    Status plan();
    void work();
    bool pick(size_t &index, bool &apply);
    bool parent_ready(const Task &task) const;
    Status unpack(Task &task);
    Status unpack_blob(Task &task, archive::Tree &tree, archive::ExtractOptions options);
    Status unpack_tree(Task &task, archive::Tree &tree, const archive::ExtractOptions &options);
    Status keep_times(const Task &task, archive::Tree &tree);
    Status apply(Task &task);
    Status coordinate();
    Status record_applied();

    Migration &m_;
    Store &store_;
    NewSide &side_;
    std::deque<Task> tasks_; ///< parents before children
    std::unordered_map<LayerId, size_t> by_id_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<size_t> fresh_; ///< applied, not recorded
    size_t left_ = 0, staged_ = 0, first_waiting_ = 0;
    std::atomic<bool> stop_{false};
    std::optional<Error> error_;
};

Status LayerCopy::plan() {
    for (const auto &layer : TRY(store_.list_layers())) {
        if (m_.is_done(item_of(layer.id))) continue;
        Task task;
        auto chain = TRY(store_.chain_of(layer.id));
        if (chain.empty()) continue; // a snapshot that was removed just now
        task.parents.assign(chain.begin() + 1, chain.end());
        task.layer = layer;
        tasks_.push_back(std::move(task));
    }
    std::ranges::sort(tasks_, {}, [](const Task &task) { return std::pair(task.parents.size(), task.layer.id); });
    for (size_t i = 0; i < tasks_.size(); ++i) {
        by_id_.emplace(tasks_[i].layer.id, i);
        tasks_[i].text =
            fmt::format("layer {}/{} {}", i + 1, tasks_.size(), tasks_[i].layer.diff_id.hex().substr(0, 12));
    }
    left_ = tasks_.size();
    return {};
}

bool LayerCopy::parent_ready(const Task &task) const {
    if (task.parents.empty()) return true;
    const auto parent = by_id_.find(task.parents.front());
    return parent == by_id_.end() || tasks_[parent->second].state == State::applied;
}

/// The caller holds the mutex. What can be applied comes first: others wait for it.
bool LayerCopy::pick(size_t &index, bool &apply) {
    while (first_waiting_ < tasks_.size() && tasks_[first_waiting_].state != State::waiting)
        ++first_waiting_;
    if (staged_ > 0)
        for (size_t i = 0; i < tasks_.size(); ++i)
            if (tasks_[i].state == State::staged && parent_ready(tasks_[i])) {
                index = i;
                apply = true;
                return true;
            }
    const bool alone = side_.driver().stages_alone();
    std::optional<size_t> best;
    size_t seen = 0;
    for (size_t i = first_waiting_; i < tasks_.size() && seen < choice_window; ++i) {
        const Task &task = tasks_[i];
        if (task.state != State::waiting) continue;
        ++seen;
        if (!alone && !parent_ready(task)) continue;
        if (!best || task.layer.blob_bytes > tasks_[*best].layer.blob_bytes) best = i;
        if (staged_ >= max_staged) break;
    }
    if (!best) return false;
    index = *best;
    apply = false;
    return true;
}

void LayerCopy::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        size_t index = 0;
        bool applies = false;
        changed_.wait(lock, [&] { return stop_ || left_ == 0 || pick(index, applies); });
        if (stop_ || left_ == 0) return;
        Task &task = tasks_[index];
        if (applies) --staged_;
        task.state = applies ? State::applying : State::unpacking;
        lock.unlock();
        auto done = in_context(applies ? apply(task) : unpack(task), [&] { return task.text; });
        lock.lock();
        if (!done) {
            if (!error_ || error_->code() == Errc::Canceled) error_ = std::move(done).error();
            stop_ = true;
        } else if (applies) {
            task.state = State::applied;
            fresh_.push_back(index);
            --left_;
        } else {
            task.state = State::staged;
            ++staged_;
        }
        changed_.notify_all();
    }
}

Status LayerCopy::unpack(Task &task) {
    const LayerInfo &layer = task.layer;
    m_.report(ProgressEvent::Kind::layer_begin, task.text, 0, layer.blob_bytes);
    auto staging = TRY(side_.driver().stage(layer.id, task.parents));
    auto options = extract_options(staging.whiteouts, store_.options_.tar_limits);
    Status done = unpack_blob(task, *staging.tree, options);
    const auto code = done ? Errc::Unknown : done.error().code();
    if (!done && (code == Errc::DataLoss || code == Errc::NotFound)) {
        {
            const std::lock_guard lock(m_.mutex_);
            m_.report_.notes.push_back(fmt::format("layer {}: its blob cannot be used ({}); copied from its tree",
                                                   layer.id.value, done.error().text()));
        }
        staging = TRY(side_.driver().stage(layer.id, task.parents)); // removes what the blob left
        done = unpack_tree(task, *staging.tree, options);
        task.from_tree = true;
    }
    TRY(std::move(done));
    TRY(keep_times(task, *staging.tree));
    task.staged = std::move(staging);
    return {};
}

Status LayerCopy::unpack_blob(Task &task, archive::Tree &tree, archive::ExtractOptions options) {
    const LayerInfo &layer = task.layer;
    if (layer.blob.empty()) return fail(Errc::NotFound, "no blob is kept");
    const auto blob = TRY(store_.open_blob(layer.blob));
    archive::UnpackJob job;
    job.blob_fd = blob.file->get();
    job.size = blob.size;
    job.digest = layer.blob;
    job.diff_id = layer.diff_id;
    job.dest = &tree;
    job.extract = std::move(options);
    job.cancel = &stop_;
    job.progress = [&](uint64_t done) {
        m_.report(ProgressEvent::Kind::layer_bytes, task.text, done, layer.blob_bytes);
    };
    UniqueFd copy;
    std::string tmp_name;
    if (side_.other_root() && !TRY(side_.link_blob(store_.blobs_fd_.get(), layer.blob.hex()))) {
        copy = TRY(side_.new_blob(tmp_name));
        job.copy_fd = copy.get();
    }
    ScopeGuard drop([&] {
        if (!tmp_name.empty()) side_.drop_blob(tmp_name);
    });
    task.extract = TRY(archive::unpack_layer(job)).extract;
    drop.release();
    if (!tmp_name.empty()) TRY(side_.publish_blob(tmp_name, layer.blob));
    return {};
}

Status LayerCopy::unpack_tree(Task &task, archive::Tree &tree, const archive::ExtractOptions &options) {
    DiffStream stream(
        [&](const archive::Sink &sink) { return store_.driver_->diff(task.layer.id, task.parents, sink); });
    task.extract = TRY(stream.extract_to(tree, options, &stop_));
    return {};
}

/// A directory that the archive implies has no time of its own: the old tree's stays, so that the trees are the same.
Status LayerCopy::keep_times(const Task &task, archive::Tree &tree) {
    if (task.extract.implied_dirs.empty() && task.extract.has_root_entry) return {};
    auto view = TRY(store_.driver_->open_view(task.layer.id, task.parents));
    for (const auto &path : task.extract.implied_dirs) {
        const auto old = TRY(drivers::find_below(view.root.get(), path));
        if (!old) continue;
        const auto status = TRY(sys::stat_at(old->get(), ""));
        if (!S_ISDIR(status.st_mode)) continue; // what is in it goes where the parents' link leads
        TRY(tree.set_times(TRY(tree.open_dirs(path)).get(), "", status.st_atim, status.st_mtim));
    }
    if (task.extract.has_root_entry) return {};
    const auto root = TRY(sys::stat_at(view.root.get(), ""));
    return tree.set_times(tree.root(), "", root.st_atim, root.st_mtim);
}

Status LayerCopy::apply(Task &task) {
    TRY(side_.driver().apply(task.layer.id, task.parents, std::move(task.staged), task.extract));
    if (m_.verify_data_ || task.from_tree) {
        auto view = TRY(store_.driver_->open_view(task.layer.id, task.parents));
        archive::CompareOptions options;
        options.contents = [](std::string_view) { return true; };
        TRY(m_.compare(view, task.layer.id, task.parents, options, fmt::format("layer {}", task.layer.id.value)));
    }
    m_.report(ProgressEvent::Kind::layer_done, task.text, task.layer.blob_bytes, task.layer.blob_bytes);
    return {};
}

Status LayerCopy::record_applied() {
    std::vector<size_t> indices;
    {
        const std::lock_guard lock(mutex_);
        indices.swap(fresh_);
    }
    if (indices.empty()) return {};
    std::vector<Migration::Done> done;
    std::vector<LayerId> layers;
    for (const size_t index : indices) {
        const LayerInfo &layer = tasks_[index].layer;
        done.push_back({item_of(layer.id), {}});
        if (side_.other_root() && !layer.blob.empty() && !tasks_[index].from_tree)
            done.push_back({"blob:" + layer.blob.text(), {}});
        layers.push_back(layer.id);
        ++m_.report_.layers;
        m_.report_.bytes += layer.blob_bytes;
    }
    return m_.record(done, layers);
}

/// The calling thread keeps the disk at work and records, while the workers copy.
Status LayerCopy::coordinate() {
    auto recorded = std::chrono::steady_clock::now();
    std::unique_lock lock(mutex_);
    while (left_ > 0 && !stop_) {
        changed_.wait_for(lock, pace_interval, [&] { return left_ == 0 || stop_; });
        if (m_.canceled()) stop_ = true;
        if (left_ == 0 || stop_) break;
        lock.unlock();
        if (std::chrono::steady_clock::now() - recorded >= record_interval) {
            TRY(record_applied());
            recorded = std::chrono::steady_clock::now();
        } else if (store_.durable()) {
            side_.pace();
        }
        lock.lock();
    }
    return {};
}

Status LayerCopy::run() {
    TRY(plan());
    if (tasks_.empty()) return {};
    const unsigned wanted =
        store_.options_.jobs != 0 ? store_.options_.jobs : std::max(1U, std::thread::hardware_concurrency());
    std::vector<std::jthread> workers;
    for (size_t i = 0; i < std::min<size_t>({wanted, tasks_.size(), max_jobs}); ++i)
        workers.emplace_back([this] { work(); });
    auto done = coordinate();
    {
        const std::lock_guard lock(mutex_); // nobody is between its look at stop_ and its wait
        if (!done || m_.canceled()) stop_ = true;
    }
    changed_.notify_all();
    workers.clear();                  // joins
    auto recorded = record_applied(); // what is whole is kept, also when another failed
    if (error_) return std::unexpected(*error_);
    TRY(std::move(done));
    TRY(std::move(recorded));
    if (m_.canceled()) return fail(Errc::Canceled, "canceled; the same command goes on where this one stopped");
    return {};
}

Status Migration::check_depth() {
    const unsigned depth = side_->driver().max_depth();
    for (const auto &layer : TRY(store_.list_layers())) {
        if (layer.children > 0) continue;
        const size_t layers = TRY(store_.chain_of(layer.id)).size();
        if (layers + 1 > depth)
            return fail(Errc::FailedPrecondition,
                        fmt::format("layer {} is the {}th of its stack; driver {} can stack {} with a container's own",
                                    layer.id.value, layers, side_->driver().name(), depth));
    }
    return {};
}

Status Migration::copy(bool alone) {
    auto locks = TRY(store_.locks_->hold());
    TRY(locks.add(Locks::gc_offset, sys::LockMode::shared)); // nothing is collected while it is copied
    TRY(check_depth());
    TRY(load_done());
    TRY(drop_leftovers());
    if (!alone) report_.kept = done_.size();
    TRY(LayerCopy(*this).run());
    if (side_->other_root()) TRY(copy_blobs());
    TRY(copy_containers(alone));
    if (report_.dropped > 0) (void)TRY(side_->driver().reap(cancel_));
    return {};
}

Status Migration::compare(drivers::Driver::View &old_view, LayerId id, drivers::Parents parents,
                          const archive::CompareOptions &options, const std::string &what) {
    auto copy = TRY(side_->driver().open_view(id, parents));
    const auto compared = TRY(archive::compare_trees(old_view.root.get(), copy.root.get(), options));
    const std::lock_guard lock(mutex_);
    report_.compared += compared.entries;
    if (compared.differences.empty()) return {};
    return fail(Errc::DataLoss,
                fmt::format("the copy of {} differs: {}{}; it does not count. `shale check` tells whether "
                            "the old side is damaged",
                            what, compared.differences.front(),
                            compared.differences.size() > 1
                                ? fmt::format(" (and {} more)", compared.differences.size() - 1)
                                : ""));
}

} // namespace shale::store
