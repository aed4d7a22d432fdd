// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "archive/tar.h"
#include "oci/image.h"
#include "oci/media_type.h"
#include "oci/reference.h"
#include "oci/stream.h"
#include "oci/write_json.h"
#include "sys/fs.h"

namespace shale::oci {
namespace {

constexpr std::string_view layout_marker = R"({"imageLayoutVersion":"1.0.0"})";

/// Where the parts of an export go: files of a directory or members of a tar.
class Output {
public:
    virtual ~Output() = default;
    /// `fill` must hand exactly `size` bytes to its sink.
    virtual Status put(const std::string &name, uint64_t size, const std::function<Status(const Blocks &)> &fill) = 0;
    /// States a directory, where that is more than the files in it.
    virtual Status put_directory(const std::string & /*name*/) { return {}; }
    Status put_text(const std::string &name, std::string_view text) {
        return put(name, text.size(),
                   [&](const Blocks &sink) { return sink(std::as_bytes(std::span(text.data(), text.size()))); });
    }
};

class DirectoryOutput final : public Output {
public:
    explicit DirectoryOutput(int dir) : dir_(dir) {}
    Status prepare() {
        blobs_ = TRY(sys::make_dirs(dir_, "blobs/sha256", 0755));
        return {};
    }
    Status put(const std::string &name, uint64_t, const std::function<Status(const Blocks &)> &fill) override {
        constexpr std::string_view prefix = "blobs/sha256/";
        const bool blob = name.starts_with(prefix);
        const std::string file_name = blob ? name.substr(prefix.size()) : name;
        const UniqueFd file =
            TRY(sys::open_at(blob ? blobs_.get() : dir_, file_name.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644));
        TRY(fill([&](std::span<const std::byte> block) { return sys::write_all(file.get(), block); }));
        return sys::fsync_fd(file.get());
    }
    Status finish() {
        TRY(sys::fsync_fd(blobs_.get()));
        const UniqueFd parent = TRY(sys::open_dir(dir_, "blobs"));
        TRY(sys::fsync_fd(parent.get()));
        return sys::fsync_fd(dir_);
    }

private:
    int dir_;
    UniqueFd blobs_;
};

class TarOutput final : public Output {
public:
    explicit TarOutput(int file)
        : writer_([file](std::span<const std::byte> block) { return sys::write_all(file, block); }) {}
    Status put(const std::string &name, uint64_t size, const std::function<Status(const Blocks &)> &fill) override {
        archive::Entry entry;
        entry.path = name;
        entry.mode = 0644;
        entry.size = entry.stored = size;
        TRY(writer_.add(entry));
        return fill([this](std::span<const std::byte> block) { return writer_.data(block); });
    }
    Status put_directory(const std::string &name) override {
        archive::Entry entry;
        entry.type = archive::EntryType::directory;
        entry.path = name + "/";
        entry.mode = 0755;
        return writer_.add(entry);
    }
    Status finish() { return writer_.finish(); }

private:
    archive::TarWriter writer_;
};

Status check_digest(Sha256 &hash, const Digest &expected, std::string_view what) {
    const Digest got = hash.finish();
    if (got == expected) return {};
    return fail(Errc::DataLoss, fmt::format("{} {} reads back with digest {}", what, expected.text(), got.text()));
}

/// The image's documents agree with each other and with the layers handed over.
Result<Manifest> check_image(const ExportImage &image) {
    Manifest manifest = TRY(parse_manifest(image.manifest_json));
    if (const Digest got = Digest::of(image.config_json); got != manifest.config.digest)
        return fail(Errc::DataLoss,
                    fmt::format("config {} reads back with digest {}", manifest.config.digest.text(), got.text()));
    const Config config = TRY(parse_config(image.config_json, manifest.layers.size()));
    if (image.layers.size() != manifest.layers.size())
        return fail(Errc::Internal, fmt::format("{} layers to export, the manifest has {}", image.layers.size(),
                                                manifest.layers.size()));
    for (size_t i = 0; i < image.layers.size(); ++i) {
        const ExportLayer &layer = image.layers[i];
        if (layer.descriptor.digest != manifest.layers[i].digest || layer.blob.size != manifest.layers[i].size)
            return fail(Errc::DataLoss, fmt::format("layer {} is not the blob that the manifest names", i));
        if (layer.diff_id != config.diff_ids[i])
            return fail(Errc::DataLoss, fmt::format("layer {} has another diff id than the config states", i));
    }
    return manifest;
}

Status write_oci(const ExportImage &image, Output &out) {
    const Manifest manifest = TRY(check_image(image));
    Descriptor entry;
    entry.media_type = manifest.media_type;
    entry.digest = Digest::of(image.manifest_json);
    entry.size = image.manifest_json.size();
    std::vector<Descriptor> entries;
    for (const std::string &name : image.names) {
        Descriptor named = entry;
        named.annotations["io.containerd.image.name"] = name;
        if (const std::string_view tag = tag_of(name); !tag.empty())
            named.annotations["org.opencontainers.image.ref.name"] = tag;
        entries.push_back(std::move(named));
    }
    if (entries.empty()) entries.push_back(entry);

    // skopeo gives directories that an archive does not state to root, and fails where it is not root.
    TRY(out.put_directory("blobs"));
    TRY(out.put_directory("blobs/sha256"));
    TRY(out.put_text("oci-layout", layout_marker));
    TRY(out.put_text("index.json", write_index(entries)));
    std::set<Digest> written;
    const auto fresh = [&](const Digest &digest) { return written.insert(digest).second; };
    const auto path = [](const Digest &digest) { return "blobs/sha256/" + digest.hex(); };
    if (fresh(entry.digest)) TRY(out.put_text(path(entry.digest), image.manifest_json));
    if (fresh(manifest.config.digest)) TRY(out.put_text(path(manifest.config.digest), image.config_json));
    for (const ExportLayer &layer : image.layers) {
        const Digest &digest = layer.descriptor.digest;
        if (!fresh(digest)) continue;
        TRY(out.put(path(digest), layer.blob.size, [&](const Blocks &sink) -> Status {
            Sha256 hash;
            TRY(read_view(layer.blob, [&](std::span<const std::byte> block) -> Status {
                hash.update(block);
                return sink(block);
            }));
            return check_digest(hash, digest, "layer");
        }));
    }
    return {};
}

/// A tar header comes before its data, so the decoded size must be known first: a pass that counts and verifies, then
/// one that writes.
Status write_docker_layer(const ExportLayer &layer, const std::string &name, Output &out) {
    const auto compression = TRY(view_compression(layer.blob));
    uint64_t size = layer.blob.size;
    if (compression != archive::Compression::none) {
        size = 0;
        Sha256 hash;
        TRY(decode_view(layer.blob, compression, [&](std::span<const std::byte> block) -> Status {
            size += block.size();
            hash.update(block);
            return {};
        }));
        TRY(check_digest(hash, layer.diff_id, "layer with diff id"));
    }
    return out.put(name, size, [&](const Blocks &sink) -> Status {
        Sha256 hash;
        TRY(decode_view(layer.blob, compression, [&](std::span<const std::byte> block) -> Status {
            hash.update(block);
            return sink(block);
        }));
        return check_digest(hash, layer.diff_id, "layer with diff id");
    });
}

Status write_docker(const ExportImage &image, Output &out) {
    const Manifest manifest = TRY(check_image(image));
    const std::string config_name = manifest.config.digest.hex() + ".json";
    std::vector<std::string> layer_names, names;
    // Digest references are no tags: docker refuses to load them.
    std::ranges::copy_if(image.names, std::back_inserter(names),
                         [](const std::string &name) { return !tag_of(name).empty(); });
    TRY(out.put_text(config_name, image.config_json));
    std::set<Digest> written;
    for (const ExportLayer &layer : image.layers) {
        layer_names.push_back(layer.diff_id.hex() + "/layer.tar");
        if (!written.insert(layer.diff_id).second) continue;
        TRY(in_context(write_docker_layer(layer, layer_names.back(), out),
                       [&] { return fmt::format("layer {}", layer.descriptor.digest.text()); }));
    }
    return out.put_text("manifest.json", write_docker_list(config_name, names, layer_names));
}

Status write_archive(const ExportImage &image, ExportFormat format, int file) {
    TarOutput out(file);
    TRY(format == ExportFormat::oci_archive ? write_oci(image, out) : write_docker(image, out));
    return out.finish();
}

/// PATH as its directory, opened, and its last component.
struct Target {
    UniqueFd dir;
    std::string name, partial;
};

Result<Target> open_target(std::string path) {
    while (path.size() > 1 && path.ends_with('/'))
        path.pop_back();
    const size_t slash = path.rfind('/');
    Target out;
    out.name = slash == std::string::npos ? path : path.substr(slash + 1);
    if (out.name.empty() || out.name == "." || out.name == "..")
        return fail(Errc::InvalidArgument, "the path must end in a name");
    const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
    // The user's own path: links in it are followed.
    out.dir = TRY(sys::open_at2(AT_FDCWD, parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
    out.partial = fmt::format("{}.partial-{}", out.name, ::getpid());
    return out;
}

Status export_archive(const ExportImage &image, ExportFormat format, const Target &target) {
    const UniqueFd file =
        TRY(sys::open_at(target.dir.get(), target.partial.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644));
    ScopeGuard undo([&] { std::ignore = sys::unlink_at(target.dir.get(), target.partial.c_str()); });
    TRY(write_archive(image, format, file.get()));
    TRY(sys::fsync_fd(file.get()));
    TRY(sys::rename_at(target.dir.get(), target.partial.c_str(), target.dir.get(), target.name.c_str()));
    undo.release();
    return sys::fsync_fd(target.dir.get());
}

Status export_directory(const ExportImage &image, const Target &target) {
    if (const auto old = TRY(sys::stat_if_exists(target.dir.get(), target.name.c_str())); old) {
        if (!S_ISDIR(old->st_mode)) return fail(Errc::AlreadyExists, "exists and is not a directory");
        const UniqueFd dir = TRY(sys::open_dir(target.dir.get(), target.name.c_str()));
        if (!TRY(sys::list_dir(dir.get())).empty()) return fail(Errc::AlreadyExists, "the directory is not empty");
    }
    TRY(sys::make_dir(target.dir.get(), target.partial.c_str(), 0755));
    ScopeGuard undo([&] { std::ignore = sys::remove_tree(target.dir.get(), target.partial.c_str()); });
    const UniqueFd dir = TRY(sys::open_dir(target.dir.get(), target.partial.c_str()));
    DirectoryOutput out(dir.get());
    TRY(out.prepare());
    TRY(write_oci(image, out));
    TRY(out.finish());
    // rename(2) replaces an empty directory and nothing else.
    TRY(sys::rename_at(target.dir.get(), target.partial.c_str(), target.dir.get(), target.name.c_str()));
    undo.release();
    return sys::fsync_fd(target.dir.get());
}

Status export_path(const ExportImage &image, ExportFormat format, const std::string &path) {
    if (path == "-") {
        if (format == ExportFormat::oci_dir)
            return fail(Errc::InvalidArgument, "a directory cannot be written to standard output");
        return write_archive(image, format, STDOUT_FILENO);
    }
    const Target target = TRY(open_target(path));
    return format == ExportFormat::oci_dir ? export_directory(image, target) : export_archive(image, format, target);
}

} // namespace

Status write_export(const ExportImage &image, ExportFormat format, const std::string &path) {
    return in_context(export_path(image, format, path), [&] { return fmt::format("export to {}", path); });
}

} // namespace shale::oci
