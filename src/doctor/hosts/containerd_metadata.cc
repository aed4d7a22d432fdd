// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/containerd_metadata.h"

#include <algorithm>
#include <utility>

#include "oci/json.h"

namespace shale::doctor::containerd {
namespace {

using probe::BoltBucket;

bool matters(std::string_view label) {
    return label.starts_with("containerd.io/gc.") || label.starts_with("io.kubernetes.") || label == "nerdctl/name";
}

Result<Labels> labels_of(const BoltBucket &object) {
    Labels out;
    const auto labels = TRY(object.bucket("labels"));
    if (!labels) return out;
    TRY(labels->for_each([&](std::string_view key, std::optional<std::string_view> value) -> Status {
        if (value && matters(key)) out.emplace(key, *value);
        return {};
    }));
    return out;
}

Result<std::string> text_of(const BoltBucket &bucket, std::string_view key) {
    return std::string(TRY(bucket.get(key)).value_or(""));
}

Result<uint64_t> created_of(const BoltBucket &bucket) {
    const auto value = TRY(bucket.get("createdat"));
    return value ? probe::go_time_s(*value) : Result<uint64_t>(0);
}

/// Keys without their values, of the bucket with that name, if it is there.
Result<std::vector<std::string>> keys_of(const BoltBucket &object, std::string_view name) {
    std::vector<std::string> out;
    const auto keys = TRY(object.bucket(name));
    if (!keys) return out;
    TRY(keys->for_each([&](std::string_view key, std::optional<std::string_view>) -> Status {
        out.emplace_back(key);
        return {};
    }));
    return out;
}

/// The value of a google.protobuf.Any: field 1 is the type's URL, field 2 the bytes (google/protobuf/any.proto), both
/// length-delimited. nullopt: it is none.
std::optional<std::string_view> any_value(std::string_view message) {
    std::optional<std::string_view> out;
    while (!message.empty()) {
        const auto tag = probe::take_uvarint(message);
        const auto size = tag ? probe::take_uvarint(message) : tag;
        if (!size || (*tag & 7U) != 2 || *size > message.size()) return std::nullopt;
        if (*tag >> 3U == 2) out = message.substr(0, *size);
        message.remove_prefix(*size);
    }
    return out;
}

/// The directories of the host that a container sees: mounts of its OCI runtime spec (config.md, "Mounts").
std::vector<std::string> binds_of(std::string_view spec) {
    std::vector<std::string> out;
    const auto document = oci::parse_object(spec, "spec");
    const oci::Json *mounts = document ? oci::find_member(*document, "mounts") : nullptr;
    if (mounts == nullptr || !mounts->is_array()) return out;
    for (const oci::Json &mount : *mounts) {
        const auto type = oci::string_member(mount, "type", "mount");
        const auto source = oci::string_member(mount, "source", "mount");
        const auto target = oci::string_member(mount, "destination", "mount");
        const auto options = oci::list_member(mount, "options", "mount");
        if (!type || !source || !target || !options || !source->starts_with('/')) continue;
        const bool bind = *type == "bind" || std::ranges::any_of(*options, [](const std::string &option) {
            return option == "bind" || option == "rbind";
        });
        if (bind && out.size() < max_binds) out.push_back(*source + ":" + *target);
    }
    return out;
}

/// What CRI keeps with its containers: {"Version": "v1", "Metadata": {...}} (containerd,
/// internal/cri/store/container/metadata.go).
void read_cri(std::string_view json, Container &out) {
    const auto document = oci::parse_object(json, "CRI metadata");
    const oci::Json *metadata = document ? oci::find_member(*document, "Metadata") : nullptr;
    if (metadata == nullptr) return;
    out.name = oci::string_member(*metadata, "Name", "Metadata").value_or("");
    out.log_path = oci::string_member(*metadata, "LogPath", "Metadata").value_or("");
}

Status read_image(const BoltBucket &bucket, Image &out) {
    out.labels = TRY(labels_of(bucket));
    out.created_s = TRY(created_of(bucket));
    const auto target = TRY(bucket.bucket("target"));
    if (!target) return {};
    out.digest = TRY(text_of(*target, "digest"));
    out.media_type = TRY(text_of(*target, "mediatype"));
    return {};
}

Status read_container(const BoltBucket &bucket, Container &out) {
    out.labels = TRY(labels_of(bucket));
    out.created_s = TRY(created_of(bucket));
    out.image = TRY(text_of(bucket, "image"));
    out.snapshotter = TRY(text_of(bucket, "snapshotter"));
    out.snapshot = TRY(text_of(bucket, "snapshotKey"));
    if (const auto spec = any_value(TRY(bucket.get("spec")).value_or(""))) out.binds = binds_of(*spec);
    if (const auto extensions = TRY(bucket.bucket("extensions"))) {
        // internal/cri/labels/labels.go; before 2.0 the names of containers and sandboxes were the same
        for (const std::string_view name :
             {"io.cri-containerd.container.metadata", "io.cri-containerd.sandbox.metadata"})
            if (const auto value = any_value(TRY(extensions->get(name)).value_or(""))) read_cri(*value, out);
    }
    for (const std::string_view label : {"nerdctl/name", "io.kubernetes.container.name"})
        if (const auto found = out.labels.find(label); found != out.labels.end() && out.name.empty())
            out.name = found->second;
    return {};
}

Status read_snapshot(const BoltBucket &bucket, Snapshot &out) {
    out.name = TRY(text_of(bucket, "name"));
    out.parent = TRY(text_of(bucket, "parent"));
    out.labels = TRY(labels_of(bucket));
    out.created_s = TRY(created_of(bucket));
    return {};
}

Status read_blob(const BoltBucket &bucket, Blob &out) {
    auto size = TRY(bucket.get("size")).value_or(std::string_view("\0", 1));
    const int64_t bytes = TRY(probe::take_varint(size));
    if (bytes < 0) return fail(Errc::DataLoss, "a blob with a negative size");
    out.bytes = static_cast<uint64_t>(bytes);
    out.labels = TRY(labels_of(bucket));
    return {};
}

Status read_lease(const BoltBucket &bucket, Lease &out) {
    out.labels = TRY(labels_of(bucket));
    out.content = TRY(keys_of(bucket, "content"));
    out.images = TRY(keys_of(bucket, "images"));
    const auto snapshotters = TRY(bucket.bucket("snapshots"));
    if (!snapshotters) return {};
    return snapshotters->for_each_bucket([&](std::string_view name, const BoltBucket &) -> Status {
        out.snapshots[std::string(name)] = TRY(keys_of(*snapshotters, name));
        return {};
    });
}

/// Reads on behind what is damaged, and keeps the first damage.
class Reader {
public:
    explicit Reader(Metadata &out) : out_(out) {}

    void note(Status &&status) {
        if (!status && !out_.damage) out_.damage = std::move(status).error();
    }

    /// Calls `read` for each bucket in the one at `path`, if that is there.
    template <class Read> void each(const BoltBucket &from, std::initializer_list<std::string_view> path, Read &&read) {
        auto found = from.bucket_at(path);
        if (!found) return note(std::unexpected(std::move(found).error()));
        if (!*found) return;
        note((*found)->for_each_bucket([&](std::string_view name, const BoltBucket &bucket) -> Status {
            note(in_context(read(std::string(name), bucket), [&] { return std::string(name); }));
            return {};
        }));
    }

    void read_namespace(const BoltBucket &bucket, Namespace &out) {
        each(bucket, {"images"},
             [&](const std::string &name, const BoltBucket &image) { return read_image(image, out.images[name]); });
        each(bucket, {"containers"}, [&](const std::string &id, const BoltBucket &container) {
            return read_container(container, out.containers[id]);
        });
        each(bucket, {"content", "blob"},
             [&](const std::string &digest, const BoltBucket &blob) { return read_blob(blob, out.blobs[digest]); });
        each(bucket, {"content", "ingests"}, [&](const std::string &, const BoltBucket &ingest) -> Status {
            auto expected = TRY(text_of(ingest, "expected"));
            if (!expected.empty()) out.expected.push_back(std::move(expected));
            return {};
        });
        each(bucket, {"leases"},
             [&](const std::string &id, const BoltBucket &lease) { return read_lease(lease, out.leases[id]); });
        each(bucket, {"sandboxes"}, [&](const std::string &id, const BoltBucket &sandbox) -> Status {
            out.sandboxes[id] = TRY(labels_of(sandbox));
            return {};
        });
        each(bucket, {"snapshots"}, [&](const std::string &snapshotter, const BoltBucket &keys) -> Status {
            auto &snapshots = out.snapshots[snapshotter];
            each(keys, {}, [&](const std::string &key, const BoltBucket &snapshot) {
                return read_snapshot(snapshot, snapshots[key]);
            });
            return {};
        });
    }

private:
    Metadata &out_;
};

} // namespace

Metadata metadata_of(const probe::BoltFile &file) {
    Metadata out;
    Reader reader(out);
    const auto version = file.root().bucket("v1");
    if (!version) out.damage = version.error();
    if (!version || !*version) return out;
    if (const auto schema = (*version)->get("version"); schema && *schema) {
        std::string_view rest = **schema;
        if (const auto number = probe::take_varint(rest))
            out.schema = static_cast<uint64_t>(std::max<int64_t>(*number, 0));
    }
    reader.each(**version, {}, [&](const std::string &name, const BoltBucket &bucket) -> Status {
        reader.read_namespace(bucket, out.namespaces[name]);
        return {};
    });
    return out;
}

Result<Metadata> read_metadata(const probe::Host &host, const std::string &path) {
    const auto file = TRY(probe::BoltFile::open(host, path));
    return metadata_of(file);
}

std::string_view best_name(const std::vector<std::string> &names) {
    const auto plain =
        std::ranges::find_if(names, [](const std::string &name) { return !name.starts_with("sha256:"); });
    return plain != names.end() ? *plain : names.empty() ? std::string_view() : std::string_view(names.front());
}

} // namespace shale::doctor::containerd
