// SPDX-License-Identifier: Apache-2.0
// The order of reading is what makes the outcome sound while containerd works:
//  1. the content store's directories (see containerd_content.h);
//  2. its own metadata;
//  3. each snapshotter: directories, then records (see containerd_snapshots.h).
//
// A snapshot is made in the snapshotter first and then in the metadata; it is committed, and so renamed, in the
// snapshotter within the transaction of the metadata; it is removed from the metadata first (containerd,
// core/metadata/snapshot.go). Hence with the metadata read before the records of the snapshotters, a record that no
// namespace knows is one that was made or committed after that - then it was created moments ago, since committing sets
// the time anew (storage.CommitActive) - or it is leaked. The other way round an old snapshot that was committed
// between the two would look leaked under its former name.
//
// What the metadata have and the snapshotter or the disk has not may have been removed meanwhile: it counts as lost
// when a second reading of the metadata has it still.
//
// What only the snapshotter or only the disk has may be what garbage collection is at: it takes a snapshot out of the
// metadata, then out of the snapshotter, and overlayfs and erofs remove directories last (Cleanup). So while containerd
// runs, such things are looked at again after a pause. When some of them are gone by then, the others are "ingest".
#include "doctor/hosts/containerd.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <iterator>
#include <optional>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "doctor/hosts/containerd_content.h"
#include "doctor/hosts/containerd_discovery.h"
#include "doctor/hosts/containerd_metadata.h"
#include "doctor/hosts/containerd_records.h"
#include "doctor/hosts/containerd_snapshots.h"

namespace shale::doctor {
namespace {

using namespace containerd;
using probe::StoreLayer;

constexpr std::string_view snapshotter_prefix = "io.containerd.snapshotter.v1.";
constexpr size_t max_users = 1000;                                ///< of one layer that are told
constexpr auto collection_pause = std::chrono::milliseconds(200); ///< a snapshot goes with a commit of bolt: some 10 ms

/// A store under construction, and where in it a snapshot is.
struct Draft {
    probe::Store store;
    bool known = false;                                 ///< its layers are: not a proxy's
    std::map<std::string, size_t, std::less<>> by_name; ///< key in its database -> index of layers
};

class Reader {
public:
    Reader(const probe::Host &host, const std::vector<probe::Process> &processes, const Instance &instance,
           probe::Facts &facts)
        : host_(host), processes_(processes), instance_(instance), facts_(facts),
          content_(read_content(host, instance.root, facts)), images_(host, content_) {
        read_metadata_once();
        for (const std::string &name : snapshotters())
            read_one(name);
        choose_main();
    }

    void finish() {
        find_lost();
        add_users();
        add_images();
        add_containers();
        settle();
        for (auto &[name, draft] : drafts_)
            count_unused(draft, name);
        add_content();
        for (auto &[name, draft] : drafts_)
            if (is_worth_telling(name, draft)) facts_.stores.push_back(std::move(draft.store));
    }

private:
    std::string metadata_path() const { return instance_.root + "/io.containerd.metadata.v1.bolt/meta.db"; }

    void read_metadata_once() {
        auto metadata = read_metadata(host_, metadata_path());
        const std::string what = "metadata of images, containers and snapshots";
        if (!metadata) {
            source_ = source_of(metadata_path(), what, metadata.error());
            return;
        }
        metadata_ = std::move(*metadata);
        uint64_t entries = 0;
        for (const auto &[name, space] : metadata_.namespaces) {
            entries += space.images.size() + space.containers.size() + space.leases.size();
            for (const auto &[snapshotter, snapshots] : space.snapshots)
                entries += snapshots.size();
        }
        source_ = source_of(metadata_path(), what, entries);
        if (metadata_.damage) source_ = source_of(metadata_path(), what, *metadata_.damage);
        SnapshotUsers users = snapshot_users(metadata_);
        users_ = std::move(users.users);
        if (!users.complete && source_.state == "read") {
            source_.state = "unreadable";
            source_.why = fmt::format("more than {} references between its objects", max_references);
        }
    }

    /// Names of snapshotters, from everywhere.
    std::set<std::string> snapshotters() {
        std::set<std::string> out;
        const auto entries = host_.list(instance_.root, 100'000);
        if (!entries) facts_.problems.push_back({instance_.root, entries.error().text()});
        if (entries)
            for (const auto &entry : *entries)
                if (entry.name.starts_with(snapshotter_prefix))
                    out.insert(entry.name.substr(snapshotter_prefix.size()));
        for (const auto &[name, options] : instance_.config.snapshotters)
            if (options.contains("root_path")) out.insert(name);
        for (const auto &[name, proxy] : instance_.config.proxies)
            if (proxy.type == "snapshot") out.insert(name);
        for (const auto &[space_name, space] : metadata_.namespaces) {
            for (const auto &[name, snapshots] : space.snapshots)
                out.insert(name);
            for (const auto &[id, container] : space.containers)
                if (!container.snapshotter.empty()) out.insert(container.snapshotter);
        }
        out.erase("");
        return out;
    }

    std::string root_of(const std::string &name, const Snapshotter &which) const {
        if (const auto path = which.options.find("root_path"); path != which.options.end() && !path->second.empty())
            return path->second;
        if (const auto proxy = instance_.config.proxies.find(name);
            proxy != instance_.config.proxies.end() && !proxy->second.root.empty())
            return proxy->second.root;
        if (name.contains('/')) return {};
        return fmt::format("{}/{}{}", instance_.root, snapshotter_prefix, name);
    }

    void read_one(const std::string &name) {
        Snapshotter which{.name = name, .root = {}, .options = {}};
        if (const auto options = instance_.config.snapshotters.find(name);
            options != instance_.config.snapshotters.end())
            which.options = options->second;
        which.root = root_of(name, which);
        Moment moment = instance_.moment;
        if (instance_.config.proxies.contains(name)) { // a daemon of its own, of which nothing is known
            moment.processes_seen = false;
            moment.daemon_started_s.reset();
        }
        SnapshotterContents contents;
        if (!which.root.empty()) contents = read_snapshotter(host_, which, moment, facts_);

        Draft &draft = drafts_[name];
        probe::Store &store = draft.store;
        draft.known = contents.there;
        store.engine = "containerd";
        store.root = contents.there ? which.root : instance_.root;
        store.driver = name;
        store.version = instance_.version;
        store.running = instance_.pid != 0;
        store.pid = instance_.pid;
        store.sources.push_back(source_);
        std::ranges::move(contents.sources, std::back_inserter(store.sources));
        store.settings = which.options;
        store.settings.merge(std::move(contents.settings));
        store.other_bytes = std::move(contents.other_bytes);
        store.layers = std::move(contents.layers);
        for (size_t i = 0; i < store.layers.size(); ++i)
            if (store.layers[i].recorded) draft.by_name.emplace(store.layers[i].name, i);
        describe(name, draft);
    }

    void describe(const std::string &name, Draft &draft) {
        auto &settings = draft.store.settings;
        settings["containerd root"] = instance_.root;
        if (!instance_.config_path.empty()) settings["config"] = instance_.config_path;
        if (!instance_.config.cri_snapshotter.empty()) settings["cri snapshotter"] = instance_.config.cri_snapshotter;
        std::vector<std::string> spaces;
        uint64_t snapshots = 0;
        for (const auto &[space_name, space] : metadata_.namespaces) {
            spaces.push_back(space_name);
            if (const auto found = space.snapshots.find(name); found != space.snapshots.end())
                snapshots += found->second.size();
        }
        settings["namespaces"] = fmt::format("{}", fmt::join(spaces, ","));
        settings["snapshots"] = std::to_string(snapshots);
        if (const auto proxy = instance_.config.proxies.find(name); proxy != instance_.config.proxies.end())
            settings["proxy"] = proxy->second.address;
        else if (!draft.known && draft.store.sources.size() == 1)
            draft.store.sources.push_back({fmt::format("{}/{}{}", instance_.root, snapshotter_prefix, name),
                                           "snapshot metadata", "missing",
                                           "the snapshotter has no directory here and is no proxy plugin", 0});
        // Records that were lost are no proof that nothing is in use.
        if (source_.state == "missing" && !draft.by_name.empty()) draft.store.sources.front().state = "unreadable";
    }

    /// What belongs to all of them is told with one.
    void choose_main() {
        for (const auto &[name, draft] : drafts_)
            if (!draft.store.layers.empty() && (main_ == nullptr || name == "overlayfs")) main_ = &drafts_[name];
        if (main_ != nullptr) return;
        if (drafts_.empty()) {
            probe::Store &store = drafts_[""].store;
            store.engine = "containerd";
            store.root = instance_.root;
            store.version = instance_.version;
            store.running = instance_.pid != 0;
            store.pid = instance_.pid;
            store.sources.push_back(source_);
            if (!instance_.config_path.empty()) store.settings["config"] = instance_.config_path;
        }
        const auto overlay = drafts_.find("overlayfs");
        main_ = overlay != drafts_.end() ? &overlay->second : &drafts_.begin()->second;
    }

    bool is_worth_telling(const std::string &name, const Draft &draft) const {
        const probe::Store &store = draft.store;
        const bool failed = std::ranges::any_of(store.sources, [](const probe::RecordSource &source) {
            return source.state != "read" && source.state != "missing";
        });
        return &draft == main_ || failed || !store.layers.empty() || !store.images.empty() ||
               !store.containers.empty() || store.settings.at("snapshots") != "0" ||
               instance_.config.proxies.contains(name);
    }

    /// The layer of a snapshot of a namespace; nullptr: the snapshotter does not have it.
    StoreLayer *layer_of(Draft &draft, const Snapshot &snapshot) {
        const auto found = draft.by_name.find(snapshot.name);
        return found == draft.by_name.end() ? nullptr : &draft.store.layers[found->second];
    }
    Draft *draft_of(const std::string &snapshotter) {
        const auto found = drafts_.find(snapshotter);
        return found == drafts_.end() ? nullptr : &found->second;
    }
    static bool read_well(const Draft &draft) {
        return draft.known && std::ranges::all_of(draft.store.sources, [](const probe::RecordSource &source) {
                   return source.state == "read" || source.state == "missing";
               });
    }

    /// Blobs and snapshots that the metadata have and the disk has not, or not as they should be.
    void find_lost() {
        std::set<SnapshotKey> snapshots;
        for (const auto &[space_name, space] : metadata_.namespaces) {
            for (const auto &[digest, blob] : space.blobs)
                judge_blob(digest, blob);
            for (const auto &[snapshotter, keys] : space.snapshots)
                if (Draft *draft = draft_of(snapshotter); draft != nullptr && read_well(*draft))
                    for (const auto &[key, snapshot] : keys)
                        if (layer_of(*draft, snapshot) == nullptr) snapshots.insert({space_name, snapshotter, key});
        }
        if (snapshots.empty() && blob_damage_.empty()) return;
        const auto again = read_metadata(host_, metadata_path());
        if (!again || again->damage) {
            blob_damage_.clear();
            return;
        }
        std::set<std::string> blobs;
        for (const auto &[space_name, space] : again->namespaces) {
            for (const auto &[digest, blob] : space.blobs)
                blobs.insert(digest);
            for (const auto &[snapshotter, keys] : space.snapshots)
                for (const auto &[key, snapshot] : keys)
                    if (snapshots.contains({space_name, snapshotter, key}))
                        lost_.insert({space_name, snapshotter, key});
        }
        std::erase_if(blob_damage_, [&](const auto &one) { return !blobs.contains(one.first); });
    }

    void judge_blob(const std::string &digest, const Blob &blob) {
        if (!content_.complete || blob_damage_.contains(digest)) return;
        std::optional<DiskBlob> there;
        if (const auto found = content_.blobs.find(digest); found != content_.blobs.end())
            there = found->second;
        else if (auto later = find_blob(host_, content_, digest); later)
            there = *later;
        else
            return;
        if (!there)
            blob_damage_[digest] = fmt::format("blob {} is missing", digest);
        else if (there->bytes != blob.bytes)
            blob_damage_[digest] =
                fmt::format("blob {}: {} bytes, the record has {}", digest, there->bytes, blob.bytes);
    }

    void add_users() {
        for (auto &[name, draft] : drafts_) {
            for (const auto &[space_name, space] : metadata_.namespaces) {
                const auto keys = space.snapshots.find(name);
                if (keys == space.snapshots.end()) continue;
                for (const auto &[key, snapshot] : keys->second)
                    add_users_of(draft, snapshot, {space_name, name, key});
            }
            add_children(draft);
        }
    }

    void add_users_of(Draft &draft, const Snapshot &snapshot, const SnapshotKey &key) {
        StoreLayer *layer = layer_of(draft, snapshot);
        if (layer == nullptr) return;
        const auto found = users_.find(key);
        if (found == users_.end()) return;
        if (found->second.size() > max_users)
            facts_.problems.push_back(
                {layer->name, fmt::format("it has {} users; {} are told", found->second.size(), max_users)});
        for (const std::string &user : found->second)
            if (layer->used_by.size() < max_users) layer->used_by.push_back(user);
    }

    static void add_children(Draft &draft) {
        std::map<std::string, std::vector<std::string>> children;
        for (const StoreLayer &layer : draft.store.layers)
            if (layer.recorded && !layer.parent.empty() && children[layer.parent].size() < max_users)
                children[layer.parent].push_back(fmt::format("layer {}", layer.id));
        for (StoreLayer &layer : draft.store.layers)
            if (const auto found = children.find(layer.id); layer.recorded && found != children.end())
                std::ranges::move(found->second, std::back_inserter(layer.used_by));
    }

    /// See the head of this file. Indices of layers are void afterwards.
    void settle() {
        if (instance_.pid == 0) return;
        std::map<std::string, std::vector<size_t>> suspects; // by snapshotter
        for (auto &[name, draft] : drafts_) {
            const std::set<std::string> known = names_of(name);
            for (size_t i = 0; i < draft.store.layers.size(); ++i) {
                const StoreLayer &layer = draft.store.layers[i];
                const bool suspect = layer.recorded ? layer.used_by.empty() && !known.contains(layer.name)
                                                    : layer.kind != "ingest" && layer.kind != "removing";
                if (suspect) suspects[name].push_back(i);
            }
        }
        if (suspects.empty()) return;
        std::this_thread::sleep_for(collection_pause);
        for (const auto &[name, indices] : suspects)
            settle_one(drafts_[name], indices);
    }
    void settle_one(Draft &draft, const std::vector<size_t> &suspects) {
        auto &layers = draft.store.layers;
        const auto records = read_records(host_, draft.store.root + "/metadata.db");
        std::set<size_t> gone;
        for (const size_t i : suspects) {
            const auto there =
                layers[i].path.empty() ? Result<std::optional<struct stat>>(std::nullopt) : host_.stat(layers[i].path);
            if (layers[i].recorded ? records && !records->by_key.contains(layers[i].name)
                                   : there && !*there && !layers[i].path.empty())
                gone.insert(i);
        }
        if (gone.empty()) return;
        for (const size_t i : suspects) {
            layers[i].kind = "ingest";
            layers[i].created_s = 0; // not known when this began
        }
        for (auto i = gone.rbegin(); i != gone.rend(); ++i)
            layers.erase(layers.begin() + static_cast<ptrdiff_t>(*i));
    }

    /// Keys in the snapshotter's database that some namespace has.
    std::set<std::string> names_of(const std::string &snapshotter) const {
        std::set<std::string> out;
        for (const auto &[space_name, space] : metadata_.namespaces)
            if (const auto keys = space.snapshots.find(snapshotter); keys != space.snapshots.end())
                for (const auto &[key, snapshot] : keys->second)
                    out.insert(snapshot.name);
        return out;
    }

    /// Tells the leaked (of no namespace) from those that the next garbage collection will find.
    void count_unused(Draft &draft, const std::string &name) {
        std::map<std::string, uint64_t> created; // of the snapshots that namespaces have
        for (const auto &[space_name, space] : metadata_.namespaces)
            if (const auto keys = space.snapshots.find(name); keys != space.snapshots.end())
                for (const auto &[key, snapshot] : keys->second)
                    created[snapshot.name] = snapshot.created_s;
        uint64_t leaked = 0, unused = 0;
        for (StoreLayer &layer : draft.store.layers) {
            if (!layer.recorded || !layer.used_by.empty() || layer.kind == "ingest") continue;
            const auto known = created.find(layer.name);
            const uint64_t made_s = std::max(layer.created_s, known == created.end() ? 0 : known->second);
            if (instance_.moment.young(made_s))
                layer.kind = "ingest";
            else
                ++(known == created.end() ? leaked : unused);
        }
        draft.store.settings["snapshots of no namespace"] = std::to_string(leaked);
        draft.store.settings["unused snapshots"] = std::to_string(unused);
    }

    void add_images() {
        for (const auto &[space_name, space] : metadata_.namespaces) {
            std::map<std::string, std::vector<std::string>> names; // of one target
            for (const auto &[name, image] : space.images)
                names[image.digest].push_back(name);
            for (const auto &[digest, of_target] : names)
                add_image(space_name, space, digest, of_target);
        }
    }

    void add_image(const std::string &space_name, const Namespace &space, const std::string &digest,
                   const std::vector<std::string> &names) {
        std::vector<std::string> damage;
        const auto manifests = images_.manifests(digest, damage);
        probe::StoreImage image;
        image.names = names;
        for (const std::string &name : names)
            image.created_s = std::max(image.created_s, space.images.at(name).created_s);
        bool told = false;
        for (const Manifest &manifest : manifests)
            for (auto &[snapshotter, draft] : drafts_)
                told |= add_unpacked(space_name, space, manifest, draft, image);
        if (told && damage.empty()) return;
        // Not unpacked anywhere, or with documents that do not say where.
        image.id = digest;
        image.damage = std::move(damage);
        if (const auto target = blob_damage_.find(digest); target != blob_damage_.end())
            image.damage.push_back(target->second);
        if (told && image.damage.empty()) return;
        for (const Manifest &manifest : manifests) {
            add_damage(manifest, image);
            const uint64_t missing = missing_blobs(manifest, {});
            if (missing < manifest.layers.size()) image.missing_layers += told ? 0 : missing;
        }
        main_->store.images.push_back(std::move(image));
    }

    /// Adds the image as this manifest is unpacked with this snapshotter; false: it is not.
    bool add_unpacked(const std::string &space_name, const Namespace &space, const Manifest &manifest, Draft &draft,
                      probe::StoreImage image) {
        const auto snapshots = space.snapshots.find(draft.store.driver);
        if (snapshots == space.snapshots.end()) return false;
        image.id = manifest.digest;
        std::set<size_t> there; // of the layers
        const std::string user = fmt::format("image {}", best_name(image.names));
        for (size_t i = 0; i < manifest.chain_ids.size(); ++i) {
            const auto snapshot = snapshots->second.find(manifest.chain_ids[i]);
            if (snapshot == snapshots->second.end()) continue;
            there.insert(i);
            if (lost_.contains({space_name, draft.store.driver, snapshot->first}))
                image.damage.push_back(fmt::format("snapshot {} is not in the snapshotter's records", snapshot->first));
            StoreLayer *layer = layer_of(draft, snapshot->second);
            if (layer == nullptr) continue;
            image.layers.push_back(layer->id);
            if (layer->used_by.size() < max_users && std::ranges::find(layer->used_by, user) == layer->used_by.end())
                layer->used_by.push_back(user);
        }
        if (there.empty()) return false;
        if (!there.contains(manifest.chain_ids.size() - 1)) image.missing_layers = missing_blobs(manifest, there);
        add_damage(manifest, image);
        draft.store.images.push_back(std::move(image));
        return true;
    }

    /// Layers that are neither unpacked nor to be had from the content store.
    uint64_t missing_blobs(const Manifest &manifest, const std::set<size_t> &unpacked) const {
        uint64_t out = 0;
        for (size_t i = 0; i < manifest.layers.size(); ++i)
            if (!unpacked.contains(i) && !content_.blobs.contains(manifest.layers[i])) ++out;
        return content_.complete ? out : 0;
    }

    void add_damage(const Manifest &manifest, probe::StoreImage &image) const {
        for (const auto *digests : {&manifest.documents, &manifest.layers})
            for (const std::string &digest : *digests)
                if (const auto found = blob_damage_.find(digest); found != blob_damage_.end())
                    if (std::ranges::find(image.damage, found->second) == image.damage.end())
                        image.damage.push_back(found->second);
    }

    void add_containers() {
        for (const auto &[space_name, space] : metadata_.namespaces)
            for (const auto &[id, container] : space.containers)
                add_container(space_name, space, id, container);
    }

    void add_container(const std::string &space_name, const Namespace &space, const std::string &id,
                       const Container &container) {
        Draft *draft = draft_of(container.snapshotter);
        probe::StoreContainer out;
        out.id = id;
        out.name = container.name;
        out.image = container.image;
        out.driver = container.snapshotter;
        out.binds = container.binds;
        out.created_s = container.created_s;
        out.log_path = container.log_path;
        if (!out.log_path.empty())
            if (const auto log = host_.stat(out.log_path); log && *log && S_ISREG((*log)->st_mode))
                out.log_bytes = static_cast<uint64_t>(std::max<off_t>((*log)->st_size, 0));
        if (const auto keys = space.snapshots.find(container.snapshotter);
            draft != nullptr && keys != space.snapshots.end())
            if (const auto snapshot = keys->second.find(container.snapshot); snapshot != keys->second.end())
                if (const StoreLayer *layer = layer_of(*draft, snapshot->second); layer != nullptr)
                    out.layer = layer->id;
        find_task(space_name, id, out);
        (draft == nullptr ? main_ : draft)->store.containers.push_back(std::move(out));
    }

    /// A task is a directory STATE/io.containerd.runtime.v2.task/NAMESPACE/ID with the process in init.pid (containerd,
    /// core/runtime/v2/bundle.go; cmd/containerd-shim-runc-v2); it stays when the process has ended.
    void find_task(const std::string &space_name, const std::string &id, probe::StoreContainer &out) const {
        out.state = "unknown";
        if (!instance_.moment.processes_seen) return;
        const bool plain = !id.contains('/') && !space_name.contains('/') && id != ".." && space_name != "..";
        const std::string bundle =
            fmt::format("{}/io.containerd.runtime.v2.task/{}/{}", instance_.state, space_name, id);
        const auto task = plain ? host_.stat(bundle) : Result<std::optional<struct stat>>(std::nullopt);
        if (!task) return;
        const auto pid = *task ? host_.read_if_there(bundle + "/init.pid", 64) : Result<std::optional<std::string>>();
        int number = 0;
        if (pid && *pid) std::from_chars((*pid)->data(), (*pid)->data() + (*pid)->size(), number);
        const bool runs = number > 0 && std::ranges::any_of(processes_, [&](const probe::Process &process) {
                              return process.pid == number;
                          });
        out.pid = runs ? number : 0;
        if (runs || (number == 0 && has_shim(space_name, id)))
            out.state = "running";
        else
            out.state = *task ? "exited" : "created";
    }

    bool has_shim(const std::string &space_name, const std::string &id) const {
        return std::ranges::any_of(processes_, [&](const probe::Process &process) {
            return process.command.starts_with("containerd-shim") && word_after(process, "-id") == id &&
                   word_after(process, "-namespace") == space_name;
        });
    }

    void add_content() {
        std::set<std::string_view> wanted;
        for (const auto &[space_name, space] : metadata_.namespaces) {
            for (const auto &[digest, blob] : space.blobs)
                wanted.insert(digest);
            wanted.insert(space.expected.begin(), space.expected.end());
        }
        uint64_t used = 0, unused = 0, count = 0;
        for (const auto &[digest, blob] : content_.blobs) {
            const bool keep = wanted.contains(digest) || instance_.moment.young(blob.changed_s);
            (keep || source_.state != "read" ? used : unused) += blob.bytes;
            if (!keep && source_.state == "read") ++count;
        }
        auto &store = main_->store;
        store.other_bytes["content"] = used;
        store.other_bytes["content unreferenced"] = unused;
        store.other_bytes["ingest"] = content_.ingest_bytes;
        store.settings["content unreferenced"] = std::to_string(count);
        store.settings["content damaged"] = std::to_string(blob_damage_.size());
        store.settings["ingests"] = std::to_string(content_.ingests);
        store.settings["schema"] = std::to_string(metadata_.schema);
    }

    const probe::Host &host_;
    const std::vector<probe::Process> &processes_;
    const Instance &instance_;
    probe::Facts &facts_;
    Content content_;
    Images images_;
    Metadata metadata_;
    probe::RecordSource source_; ///< of the metadata
    std::map<SnapshotKey, std::set<std::string>> users_;
    std::map<std::string, Draft> drafts_; ///< by snapshotter
    Draft *main_ = nullptr;
    std::map<std::string, std::string> blob_damage_; ///< by digest
    std::set<SnapshotKey> lost_;                     ///< the metadata have them, the snapshotter has not
};

} // namespace

void read_containerd(const probe::Host &host, const std::vector<probe::Process> &processes, const std::string &root,
                     probe::Facts &facts) {
    for (const Instance &instance : find_instances(host, processes, root, facts))
        Reader(host, processes, instance, facts).finish();
}

} // namespace shale::doctor
