// SPDX-License-Identifier: Apache-2.0
// Importing an image: plan (which layers are here) -> unpack the missing ones, several at once, each into its own
// staged directory
// -> apply in order from the base -> sync once -> one synced transaction makes layers, blobs, image and names count
// together. Before that transaction nothing counts; a failure or a crash leaves "staging" rows whose data goes to the
// trash.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <numeric>
#include <thread>

#include "archive/unpack.h"
#include "base/units.h"
#include "store/id_space.h"
#include "store/locks.h"
#include "store/records.h"
#include "store/store.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

struct LayerPlan {
    Digest chain;
    std::optional<LayerId> existing;
    LayerId id; ///< of the row, existing or new
    bool need_blob = false;
    std::string tmp_name;     ///< of the blob's copy, when need_blob
    drivers::Staging staging; ///< from the unpacking to apply()
    std::optional<Result<archive::UnpackResult>> result;
    bool done = false;
    bool applied = false; ///< its tree is complete: a driver that does not stage alone may build on it
};

std::string short_digest(const Digest &digest) {
    return digest.hex().substr(0, 12);
}

} // namespace

Result<std::vector<ImportedImage>> Store::import_images(const ImportRequest &request, const Progress &progress,
                                                        const std::atomic<bool> *cancel) {
    TRY(begin_new());
    auto select = request.select;
    select.spool_dir = options_.root + "/tmp";
    const auto sources = TRY(oci::open_source(request.source, select));
    if (!request.name.empty() && sources.size() > 1)
        return fail(Errc::InvalidArgument,
                    fmt::format("{} holds {} images; choose one with --ref before giving it a name", request.source,
                                sources.size()));
    std::vector<ImportedImage> images;
    images.reserve(sources.size());
    for (const auto &source : sources)
        images.push_back(TRY(import_one(source, request, nullptr, progress, cancel)));
    return images;
}

/// One import in progress: owns staged layers and temporary blobs until commit.
class Import {
public:
    Import(Store &store, const oci::SourceImage &source, const Progress &progress, const std::atomic<bool> *cancel)
        : store_(store), source_(source), progress_(progress), outer_cancel_(cancel) {}
    Import(const Import &) = delete;
    Import &operator=(const Import &) = delete;
    ~Import() {
        if (committed_) return;
        for (auto it = plan_.rbegin(); it != plan_.rend(); ++it) {
            if (!it->existing && it->id.value != 0) store_.abandon_layer(it->id);
            if (!it->tmp_name.empty()) (void)sys::unlink_at(store_.tmp_fd_.get(), it->tmp_name.c_str());
        }
    }

    Status make_plan(LockHold &locks, std::string *top_blob);
    Status unpack_all();
    Status publish(const std::vector<std::string> &names, const Digest &manifest);
    void fill(ImportedImage &out) const;

private:
    void work();
    void wait_for_parent(size_t index);
    void pace(const std::stop_token &stop);
    Result<archive::UnpackResult> unpack(size_t index);
    void report(ProgressEvent::Kind kind, size_t index, uint64_t done);
    std::vector<LayerId> parents_of(size_t index) const;

    Store &store_;
    const oci::SourceImage &source_;
    const Progress &progress_;
    const std::atomic<bool> *outer_cancel_;
    std::vector<LayerPlan> plan_;
    std::deque<size_t> queue_; ///< layers to unpack, in order
    std::mutex mutex_;
    std::condition_variable changed_;
    std::atomic<bool> stop_{false};
    bool committed_ = false;
};

Status Import::make_plan(LockHold &locks, std::string *top_blob) {
    const auto &layers = source_.manifest.layers;
    plan_.resize(layers.size());
    Digest chain;
    for (size_t i = 0; i < layers.size(); ++i) {
        auto &step = plan_[i];
        chain = step.chain = chain_id(chain, source_.config.diff_ids[i]);
        step.existing = TRY(store_.layer_by_chain(chain));
        if (!step.existing) {
            // Another process may be unpacking the same layer: wait for it, then share what it made.
            TRY(locks.add(Locks::chain_offset(chain), sys::LockMode::exclusive));
            step.existing = TRY(store_.layer_by_chain(chain));
        }
        step.applied = step.existing.has_value();
        if (step.existing) {
            step.id = *step.existing;
        } else {
            const auto parent = i == 0 ? std::nullopt : std::optional(plan_[i - 1].id);
            TRY(store_.begin_layer(step.id, parent));
        }
        auto blob = TRY(store_.records_->prepare("SELECT 1 FROM blobs WHERE digest = ?"));
        step.need_blob = !TRY(blob.bind(layers[i].digest).step());
        // A recorded blob that lost its file, or part of it, is written anew: importing again restores it.
        const auto file = TRY(sys::stat_if_exists(store_.blobs_fd_.get(), layers[i].digest.hex().c_str()));
        if (!file || static_cast<uint64_t>(file->st_size) != layers[i].size) step.need_blob = true;
        if (step.need_blob && top_blob != nullptr && i + 1 == layers.size()) step.tmp_name.swap(*top_blob);
        if (!step.existing || step.need_blob)
            queue_.push_back(i);
        else
            report(ProgressEvent::Kind::layer_shared, i, 0);
    }
    // From the base up where a layer is staged on its parent; else the largest first: the long one must not come last.
    if (!store_.driver_->stages_alone()) return {};
    std::ranges::sort(queue_, [&](size_t a, size_t b) {
        return layers[a].size != layers[b].size ? layers[a].size > layers[b].size : a < b;
    });
    return {};
}

void Import::report(ProgressEvent::Kind kind, size_t index, uint64_t done) {
    if (!progress_) return;
    const std::lock_guard lock(mutex_);
    const auto &layer = source_.manifest.layers[index];
    progress_(
        {kind, fmt::format("layer {}/{} {}", index + 1, plan_.size(), short_digest(layer.digest)), done, layer.size});
}

std::vector<LayerId> Import::parents_of(size_t index) const {
    std::vector<LayerId> parents;
    for (size_t i = index; i > 0; --i)
        parents.push_back(plan_[i - 1].id);
    return parents;
}

Result<archive::UnpackResult> Import::unpack(size_t index) {
    auto &step = plan_[index];
    const auto &view = source_.layers[index];
    archive::UnpackJob job;
    job.blob_fd = view.file->get();
    job.offset = view.offset;
    job.size = view.size;
    job.digest = source_.manifest.layers[index].digest;
    job.diff_id = source_.config.diff_ids[index];
    job.cancel = &stop_;
    job.progress = [&](uint64_t done) {
        if (outer_cancel_ != nullptr && outer_cancel_->load(std::memory_order_relaxed)) stop_ = true;
        report(ProgressEvent::Kind::layer_bytes, index, done);
    };
    UniqueFd copy;
    if (step.need_blob && step.tmp_name.empty()) {
        copy = TRY(store_.new_blob(step.tmp_name));
        job.copy_fd = copy.get();
    }
    if (!step.existing) {
        step.staging = TRY(store_.driver_->stage(step.id, parents_of(index)));
        job.dest = step.staging.tree.get();
        job.extract = extract_options(step.staging.whiteouts, store_.options_.tar_limits);
    }
    return in_context(archive::unpack_layer(job),
                      [&] { return fmt::format("layer {} of {}", index + 1, plan_.size()); });
}

void Import::work() {
    for (;;) {
        size_t index = 0;
        {
            const std::lock_guard lock(mutex_);
            if (queue_.empty()) return;
            index = queue_.front();
            queue_.pop_front();
        }
        Result<archive::UnpackResult> result = fail(Errc::Canceled, "import canceled");
        wait_for_parent(index);
        if (!stop_) {
            report(ProgressEvent::Kind::layer_begin, index, 0);
            result = unpack(index);
        }
        if (!result)
            stop_ = true;
        else
            report(ProgressEvent::Kind::layer_done, index, source_.manifest.layers[index].size);
        const std::lock_guard lock(mutex_);
        plan_[index].result = std::move(result);
        plan_[index].done = true;
        changed_.notify_all();
    }
}

void Import::wait_for_parent(size_t index) {
    if (index == 0 || plan_[index].existing || store_.driver_->stages_alone()) return;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return plan_[index - 1].applied || stop_; });
}

/// Keeps the disk at work while layers unpack, so that the sync that counts finds little left. Its own descriptor: an
/// error of write-back is reported once for each open file, and must not be taken from the last sync.
void Import::pace(const std::stop_token &stop) {
    const auto root = sys::open_dir(store_.root_fd_.get(), ".");
    if (!root) return;
    std::mutex mutex;
    std::condition_variable_any tick;
    std::unique_lock lock(mutex);
    for (;;) {
        tick.wait_for(lock, stop, std::chrono::milliseconds(250), [] { return false; });
        if (stop.stop_requested()) return;
        (void)sys::syncfs_fd(root->get());
    }
}

Status Import::unpack_all() {
    const size_t jobs = std::min<size_t>(
        {store_.options_.jobs != 0 ? store_.options_.jobs : std::max(1U, std::thread::hardware_concurrency()),
         queue_.size(), 16});
    const auto queued = queue_;
    std::vector<std::jthread> workers;
    workers.reserve(jobs);
    std::optional<std::jthread> pacer;
    if (store_.durable()) pacer.emplace([this](const std::stop_token &stop) { pace(stop); });
    for (size_t i = 0; i < jobs; ++i)
        workers.emplace_back([this] { work(); });

    auto finish = [&](Status status) {
        {
            const std::lock_guard lock(mutex_); // nobody is between its look at stop_ and its wait
            stop_ = true;
        }
        changed_.notify_all();
        workers.clear(); // joins
        return status;
    };
    std::vector<bool> pending(plan_.size());
    for (const size_t index : queued)
        pending[index] = true;
    for (size_t i = 0; i < plan_.size(); ++i) {
        if (!pending[i]) continue;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return plan_[i].done; });
        }
        if (!*plan_[i].result) break; // stop_ is set; the first cause is looked for below
        if (plan_[i].existing) continue;
        const auto parents = parents_of(i);
        if (auto applied =
                store_.driver_->apply(plan_[i].id, parents, std::move(plan_[i].staging), (*plan_[i].result)->extract);
            !applied)
            return finish(
                std::unexpected(std::move(applied).error().add(fmt::format("layer {} of {}", i + 1, plan_.size()))));
        const std::lock_guard lock(mutex_);
        plan_[i].applied = true;
        changed_.notify_all();
    }
    TRY(finish({}));
    const Error *first = nullptr;
    for (const auto &step : plan_)
        if (step.result && !*step.result && (first == nullptr || first->code() == Errc::Canceled))
            first = &step.result->error();
    if (first != nullptr) return std::unexpected(*first);
    return {};
}

Status Import::publish(const std::vector<std::string> &names, const Digest &manifest) {
    const auto &layers = source_.manifest.layers;
    std::vector<LayerId> fresh;
    for (size_t i = 0; i < plan_.size(); ++i) {
        if (!plan_[i].existing) fresh.push_back(plan_[i].id);
        if (plan_[i].need_blob) TRY(store_.publish_blob(plan_[i].tmp_name, layers[i].digest));
        plan_[i].tmp_name.clear();
    }
    TRY(store_.write_document(manifest, source_.manifest_json));
    TRY(store_.write_document(source_.manifest.config.digest, source_.config_json));
    if (store_.durable()) TRY(store_.sync_all(fresh));

    auto tx = TRY(store_.records_->begin(Sync::synced));
    const int64_t now = store_.now_ns();
    auto blob = [&](const Digest &digest, uint64_t bytes) -> Status {
        auto put = TRY(tx.prepare("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)"));
        return put.bind(digest).bind(bytes).bind(now).run();
    };
    TRY(blob(manifest, source_.manifest_json.size()));
    TRY(blob(source_.manifest.config.digest, source_.config_json.size()));
    auto image = TRY(tx.prepare("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)"));
    TRY(image.bind(manifest)
            .bind(source_.manifest.config.digest)
            .bind(std::string_view(source_.config.os))
            .bind(std::string_view(source_.config.architecture))
            .bind(now)
            .run());
    for (size_t i = 0; i < plan_.size(); ++i) {
        const auto &step = plan_[i];
        if (step.need_blob) TRY(blob(layers[i].digest, layers[i].size));
        if (!step.existing) {
            const auto &unpacked = **step.result;
            auto ready = TRY(tx.prepare(
                "UPDATE layers SET state = 'ready', chain_id = ?, diff_id = ?, blob = ?, bytes = ?, inodes = ? "
                "WHERE id = ?"));
            TRY(ready.bind(step.chain)
                    .bind(unpacked.diff_id)
                    .bind(layers[i].digest)
                    .bind(unpacked.extract.bytes)
                    .bind(unpacked.extract.inodes)
                    .bind(step.id)
                    .run());
        }
        auto link = TRY(tx.prepare("INSERT OR IGNORE INTO image_layers VALUES (?, ?, ?, ?, ?, ?)"));
        TRY(link.bind(manifest)
                .bind(uint64_t{i})
                .bind(step.id)
                .bind(layers[i].digest)
                .bind(std::string_view(layers[i].media_type))
                .bind(layers[i].size)
                .run());
    }
    for (const auto &name : names) {
        auto put = TRY(tx.prepare("INSERT OR REPLACE INTO names VALUES (?, ?)"));
        TRY(put.bind(std::string_view(name)).bind(manifest).run());
    }
    TRY(tx.commit());
    committed_ = true;
    return {};
}

void Import::fill(ImportedImage &out) const {
    for (const auto &step : plan_) {
        if (step.existing) {
            ++out.layers_shared;
            continue;
        }
        ++out.layers_unpacked;
        const auto &report = (*step.result)->extract;
        out.skipped_devices += report.skipped_devices;
        out.squashed_owners += report.squashed_owners;
        out.skipped_xattrs += report.skipped_xattrs;
        out.warnings.insert(out.warnings.end(), report.warnings.begin(), report.warnings.end());
    }
}

Result<ImportedImage> Store::import_one(const oci::SourceImage &source, const ImportRequest &request,
                                        std::string *top_blob, const Progress &progress,
                                        const std::atomic<bool> *cancel) {
    std::vector<std::string> names = source.names;
    if (!request.name.empty()) names = {TRY(oci::normalize_reference(request.name))};
    const Digest manifest = Digest::of(std::string_view(source.manifest_json));
    // A name is what keeps an image; one that came without gets its digest's.
    if (names.empty()) names = {"imported:" + short_digest(manifest)};
    if (source.manifest.layers.size() + 1 > driver_->max_depth())
        return fail(
            Errc::ResourceExhausted,
            fmt::format(
                "the image has {} layers; driver {} can stack {} including a container's own; squash the image, or "
                "use --driver vfs, which has no limit",
                source.manifest.layers.size(), driver_->name(), driver_->max_depth()));
    auto locks = TRY(locks_->hold());
    TRY(locks.add(Locks::gc_offset, sys::LockMode::shared));
    Import import(*this, source, progress, cancel);
    TRY(import.make_plan(locks, top_blob));
    TRY(import.unpack_all());
    TRY(import.publish(names, manifest));
    ImportedImage out;
    import.fill(out);
    out.image = TRY(load_image(manifest));
    return out;
}

Status Store::sync_all(std::span<const LayerId> layers) {
    TRY(driver_->sync(layers));
    // Blobs usually share the driver's file system, and then its one syncfs has covered them.
    const auto blobs = TRY(sys::stat_at(blobs_fd_.get(), ""));
    const auto driver = TRY(sys::stat_at(root_fd_.get(), options_.driver.c_str()));
    if (layers.empty() || blobs.st_dev != driver.st_dev) TRY(sys::syncfs_fd(blobs_fd_.get()));
    return {};
}

} // namespace shale::store
