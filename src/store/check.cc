// SPDX-License-Identifier: Apache-2.0
// Checking: quick = records against driver and blob files; full = every entry of every layer against the layer's own
// blob (type, mode, owner, size, mtime, link target, xattrs stated there); data = blob digests and file contents as
// well. Read-only unless repair.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <unordered_set>

#include "archive/unpack.h"
#include "store/check_tree.h"
#include "store/id_space.h"
#include "store/locks.h"
#include "store/records.h"
#include "store/store.h"
#include "store/upkeep.h"
#include "sys/fs.h"

namespace shale::store {

Result<CheckReport> Store::check(CheckLevel level, const Progress &progress, bool repair) {
    CheckReport report;
    // Shared: nothing is collected while it is looked at; other work goes on.
    auto locks = TRY(locks_->hold());
    TRY(locks.add(Locks::gc_offset, repair ? sys::LockMode::exclusive : sys::LockMode::shared));
    auto problem = [&](std::string object, std::string what, std::string remedy) -> Problem & {
        return report.problems.emplace_back(Problem{std::move(object), std::move(what), std::move(remedy), false});
    };
    const std::string import_again = "import the image again, or run `shale check --repair` while its blob is good";

    // Records against blobs.
    std::unordered_set<Digest> bad_blobs;
    auto blobs = TRY(records_->prepare("SELECT digest, bytes FROM blobs ORDER BY digest"));
    while (TRY(blobs.step())) {
        ++report.blobs;
        const Digest digest = blobs.digest(0);
        const std::string object = "blob " + digest.text();
        const auto info = TRY(sys::stat_if_exists(blobs_fd_.get(), digest.hex().c_str()));
        std::string what;
        if (!info)
            what = "is recorded and missing on disk";
        else if (static_cast<uint64_t>(info->st_size) != blobs.count(1))
            what = fmt::format("has {} bytes, {} are recorded", info->st_size, blobs.count(1));
        else if (level == CheckLevel::data) {
            const UniqueFd file = TRY(sys::open_at(blobs_fd_.get(), digest.hex().c_str(), O_RDONLY));
            if (const Digest found = TRY(digest_of_fd(file.get())); found != digest)
                what = "has other content: " + found.text();
        }
        if (what.empty()) continue;
        bad_blobs.insert(digest);
        problem(object, what, "import an image that holds it again");
    }

    // Records against the driver's disk. Snapshots come and go meanwhile: the records are read first, so that each has
    // its directory, and what is wrong with one counts only while there still is a record of it.
    const auto layers = TRY(list_layers());
    const auto containers = TRY(list_containers());
    std::unordered_set<LayerId> on_disk;
    for (const LayerId id : TRY(driver_->list()))
        on_disk.insert(id);
    const auto recorded = [&](std::string_view rows, LayerId id) -> Result<bool> {
        auto row = TRY(records_->prepare(rows));
        return TRY(row.bind(id).step());
    };
    for (const auto &layer : layers) {
        ++report.layers;
        const std::string object = fmt::format("layer {} ({})", layer.id.value, layer.chain_id.text().substr(0, 19));
        if (progress) progress({ProgressEvent::Kind::note, object, report.layers, 0});
        std::vector<LayerId> chain;
        std::vector<std::string> found;
        const auto look = [&]() -> Status {
            chain = TRY(chain_of(layer.id));
            if (chain.empty()) return fail(Errc::NotFound, object + " has gone");
            const auto parents = std::span(chain).subspan(1);
            if (!on_disk.contains(layer.id)) {
                found.emplace_back("its directory is missing");
                return {};
            }
            found = TRY(driver_->check(layer.id, parents));
            if (found.empty() && level == CheckLevel::data) found = TRY(driver_->verify(layer.id));
            // A committed snapshot has no blob that it could be compared with.
            if (!found.empty() || level == CheckLevel::quick || layer.blob.empty() || bad_blobs.contains(layer.blob))
                return {};
            auto compared = compare_layer(layer, parents, level);
            if (compared) {
                report.entries += compared->entries;
                found = std::move(compared->differences);
            } else {
                found.push_back(compared.error().text());
            }
            return {};
        };
        auto looked = look();
        on_disk.erase(layer.id);
        if (looked && found.empty()) continue;
        if (!TRY(recorded("SELECT 1 FROM layers WHERE id = ?", layer.id))) continue; // it has gone
        TRY(std::move(looked));
        const auto parents = std::span(chain).subspan(1);
        bool repaired = false;
        std::string failure;
        if (repair && !layer.blob.empty() && !bad_blobs.contains(layer.blob)) {
            if (auto done = reapply_layer(layer, parents); done)
                repaired = true;
            else
                failure = "; repair failed: " + done.error().text();
        }
        for (auto &what : found)
            problem(object, what + failure, import_again).repaired = repaired;
    }
    {
        auto rows = TRY(records_->prepare("SELECT name FROM snapshots WHERE synced = ? ORDER BY name"));
        rows.bind(static_cast<int64_t>(SyncState::failed));
        while (TRY(rows.step()))
            problem("snapshot " + rows.text(0),
                    "the kernel could not write all of its data, and it goes at the next boot",
                    "remove it and what stands on it, and pull it again");
    }
    for (const auto &container : containers) {
        ++report.containers;
        if (!on_disk.contains(container.id))
            problem("container " + container.name, "its directory is missing",
                    "its data is lost; remove it with `shale container rm`");
        else
            for (auto &what : TRY(driver_->check(container.id, container.parents)))
                problem("container " + container.name, std::move(what), "see docs/operations.md");
        on_disk.erase(container.id);
    }
    // What is made or removed just now owns a directory too: a layer by its intent, a container or a snapshot by its
    // byte.
    std::vector<LayerId> unnamed;
    for (const LayerId id : on_disk) {
        auto owner = TRY(locks_->hold());
        if (!TRY(owner.try_add(Locks::container_offset(id), sys::LockMode::shared))) continue;
        if (!TRY(recorded(
                "SELECT 1 FROM layers WHERE id = ?1 UNION ALL SELECT 1 FROM containers WHERE id = ?1 UNION ALL "
                "SELECT 1 FROM snapshots WHERE layer = ?1",
                id)))
            unnamed.push_back(id);
    }
    if (!unnamed.empty()) {
        on_disk.clear();
        for (const LayerId id : TRY(driver_->list()))
            on_disk.insert(id);
    }
    for (const LayerId id : unnamed)
        if (on_disk.contains(id)) // it was not in the middle of its removal
            problem(fmt::format("directory of layer {}", id.value), "no record names it", "shale gc");

    for (const auto &image : TRY(list_images()))
        for (const auto &document : {image.manifest, image.config})
            if (!bad_blobs.contains(document) && !read_document(document))
                problem("image " + image.manifest.text(), "document " + document.text() + " cannot be read",
                        import_again);
    return report;
}

Result<TreeComparison> Store::compare_layer(const LayerInfo &layer, drivers::Parents parents, CheckLevel level) {
    const auto blob = TRY(open_blob(layer.blob));
    auto view = TRY(driver_->open_view(layer.id, parents));
    drivers::Driver::View parent;
    if (!parents.empty() && driver_->links_to_parents())
        parent = TRY(driver_->open_view(parents.front(), parents.subspan(1)));
    return compare_tree(blob, view.root.get(), level == CheckLevel::data, extract_options({}, options_.tar_limits),
                        parent.root ? parent.root.get() : -1);
}

/// Unpacks the layer's blob anew beside the damaged one and swaps them; containers above see the good files after their
/// next mount. The caller holds the gc byte exclusively.
Status Store::reapply_layer(const LayerInfo &layer, drivers::Parents parents) {
    for (const auto &container : TRY(list_containers()))
        if (!container.mounted_at.empty() && std::ranges::find(container.parents, layer.id) != container.parents.end())
            return fail(Errc::FailedPrecondition,
                        fmt::format("container {} uses it and is mounted; unmount it first", container.name));
    const auto blob = TRY(open_blob(layer.blob));
    // A layer of its own until it is whole and synced; only then the two change places. A crash at any point leaves one
    // complete tree in place (or the damaged one), and the staging row tells the next open what to clear away.
    LayerId fresh;
    TRY(begin_layer(fresh, layer.parent));
    const ScopeGuard clear([&] { abandon_layer(fresh); });
    auto staging = TRY(driver_->stage(fresh, parents));
    archive::UnpackJob job;
    job.blob_fd = blob.file->get();
    job.offset = blob.offset;
    job.size = blob.size;
    job.digest = layer.blob;
    job.diff_id = layer.diff_id;
    job.dest = staging.tree.get();
    job.extract = extract_options(staging.whiteouts, options_.tar_limits);
    const auto unpacked = TRY(archive::unpack_layer(job));
    TRY(driver_->apply(fresh, parents, std::move(staging), unpacked.extract));
    TRY(driver_->sync(std::span(&fresh, 1)));
    TRY(driver_->exchange(fresh, layer.id));
    return driver_->sync(std::span(&layer.id, 1)); // `fresh` is the damaged one now
}

} // namespace shale::store
