// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/containerd_content.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "base/digest.h"
#include "oci/json.h"
#include "sys/fs.h"

namespace shale::doctor::containerd {
namespace {

constexpr size_t max_blobs = 1'000'000;
constexpr size_t max_documents = 50'000;
constexpr unsigned max_index_depth = 4; ///< an index in an index is legal; containerd writes none deeper than 2
constexpr size_t max_descriptors = 10'000;

uint64_t size_of(const struct stat &status) {
    return static_cast<uint64_t>(std::max<off_t>(status.st_size, 0));
}

DiskBlob blob_of(const struct stat &status) {
    return {size_of(status), static_cast<uint64_t>(std::max<time_t>({status.st_mtime, status.st_ctime, 0}))};
}

/// Lower-case letters, digits and "+._-" (image-spec, descriptor.md, "Digests"): it can be a file's name.
bool plain(std::string_view word) {
    return !word.empty() && word != "." && word != ".." && word.size() <= 256 &&
           word.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789+._-") == std::string_view::npos;
}

/// "blobs/sha256/HEX"; empty: no digest.
std::string file_of(std::string_view digest) {
    const size_t colon = digest.find(':');
    if (colon == std::string_view::npos) return {};
    const auto algorithm = digest.substr(0, colon), hex = digest.substr(colon + 1);
    if (algorithm == "sha256" && !Digest::parse(digest)) return {};
    return plain(algorithm) && plain(hex) ? fmt::format("blobs/{}/{}", algorithm, hex) : std::string();
}

class Listing {
public:
    Listing(const probe::Host &host, Content &out, probe::Facts &facts) : host_(host), out_(out), facts_(facts) {}

    /// Calls `on_entry` with what stat(2) says of each entry of the directory.
    template <class OnEntry> void each(const std::string &folder, OnEntry &&on_entry) {
        const std::string path = fmt::format("{}/{}", out_.root, folder);
        const auto dir = host_.open_path(path, O_RDONLY | O_DIRECTORY);
        if (!dir) return failed(path, dir.error());
        const auto names = sys::list_dir(dir->get(), max_blobs);
        if (!names) return failed(path, names.error());
        for (const auto &entry : *names) {
            const auto status = sys::stat_if_exists(dir->get(), entry.name.c_str());
            if (!status)
                failed(fmt::format("{}/{}", path, entry.name), status.error());
            else if (*status)
                on_entry(entry.name, **status);
        }
    }

private:
    void failed(const std::string &path, const Error &error) {
        if (error.sys_errno() == ENOENT) return;
        out_.complete = false;
        facts_.problems.push_back({path, error.text()});
    }

    const probe::Host &host_;
    Content &out_;
    probe::Facts &facts_;
};

/// What a document says; one of the two.
struct Document {
    std::vector<std::string> manifests; ///< of an index
    std::string config;                 ///< of a manifest
    std::vector<std::string> layers;
};

Result<std::string> digest_of(const oci::Json &descriptor, std::string_view where) {
    auto digest = TRY(oci::string_member(descriptor, "digest", where));
    if (file_of(digest).empty()) return fail(Errc::InvalidArgument, fmt::format("{}: no digest", where));
    return digest;
}

Result<std::vector<std::string>> digests_of(const oci::Json &document, const char *key) {
    std::vector<std::string> out;
    const oci::Json *list = oci::find_member(document, key);
    if (list == nullptr) return out;
    if (!list->is_array() || list->size() > max_descriptors)
        return fail(Errc::InvalidArgument, fmt::format("{} is no list, or longer than {}", key, max_descriptors));
    for (const oci::Json &one : *list)
        out.push_back(TRY(digest_of(one, key)));
    return out;
}

/// More is accepted than oci::parse_manifest takes: layers of any type may have been unpacked by some snapshotter.
Result<Document> parse_document(std::string_view text) {
    const auto json = TRY(oci::parse_object(text, "document"));
    Document out;
    out.manifests = TRY(digests_of(json, "manifests"));
    out.layers = TRY(digests_of(json, "layers"));
    if (const oci::Json *config = oci::find_member(json, "config")) out.config = TRY(digest_of(*config, "config"));
    return out;
}

/// Chain ids of a configuration; empty: it is not that of an image.
Result<std::vector<std::string>> parse_chain(std::string_view text) {
    std::vector<std::string> out;
    const auto json = TRY(oci::parse_object(text, "configuration"));
    const oci::Json *rootfs = oci::find_member(json, "rootfs");
    if (rootfs == nullptr) return out;
    Digest chain;
    for (const std::string &diff : TRY(oci::list_member(*rootfs, "diff_ids", "rootfs"))) {
        chain = chain_id(chain, TRY(Digest::parse(diff)));
        out.push_back(chain.text());
    }
    return out;
}

} // namespace

Content read_content(const probe::Host &host, const std::string &root, probe::Facts &facts) {
    Content out;
    out.root = root + "/io.containerd.content.v1.content";
    Listing listing(host, out, facts);
    std::vector<std::string> algorithms;
    listing.each("blobs", [&](const std::string &name, const struct stat &status) {
        if (S_ISDIR(status.st_mode) && algorithms.size() < 16) algorithms.push_back(name);
    });
    for (const std::string &algorithm : algorithms)
        listing.each("blobs/" + algorithm, [&](const std::string &name, const struct stat &status) {
            if (S_ISREG(status.st_mode)) out.blobs[fmt::format("{}:{}", algorithm, name)] = blob_of(status);
        });
    std::vector<std::string> ingests;
    listing.each("ingest", [&](const std::string &name, const struct stat &status) {
        if (S_ISDIR(status.st_mode)) ingests.push_back(name);
    });
    out.ingests = ingests.size();
    for (const std::string &name : ingests)
        listing.each("ingest/" + name,
                     [&](const std::string &, const struct stat &status) { out.ingest_bytes += size_of(status); });
    return out;
}

Result<std::optional<DiskBlob>> find_blob(const probe::Host &host, const Content &content, std::string_view digest) {
    const std::string file = file_of(digest);
    if (file.empty()) return std::nullopt;
    const auto status = TRY(host.stat(fmt::format("{}/{}", content.root, file)));
    return status ? std::optional(blob_of(*status)) : std::nullopt;
}

struct Images::Impl {
    const probe::Host &host;
    const Content &content;
    std::map<std::string, std::optional<Result<Document>>> documents; ///< nullopt: not there
    std::map<std::string, std::optional<Result<std::vector<std::string>>>> chains;

    /// Bytes that have the digest; nullopt: it is not there. A digest of another algorithm than sha256 is not checked.
    std::optional<Result<std::string>> read(const std::string &digest) const {
        auto text = host.read_if_there(fmt::format("{}/{}", content.root, file_of(digest)), oci::max_document_bytes);
        if (!text) return std::unexpected(std::move(text).error());
        if (!*text) return std::nullopt;
        const auto wanted = Digest::parse(digest);
        if (wanted && Digest::of(**text) != *wanted)
            return fail(Errc::DataLoss, fmt::format("its {} bytes have another digest", (*text)->size()));
        return std::move(**text);
    }

    template <class T, class Parse>
    const std::optional<Result<T>> &cached(std::map<std::string, std::optional<Result<T>>> &cache,
                                           const std::string &digest, Parse &&parse) const {
        const auto [slot, fresh] = cache.try_emplace(digest);
        if (!fresh || file_of(digest).empty()) return slot->second;
        if (cache.size() > max_documents) {
            slot->second =
                fail(Errc::ResourceExhausted, fmt::format("not read: more than {} documents", max_documents));
            return slot->second;
        }
        const auto text = read(digest);
        if (text) slot->second = *text ? parse(**text) : std::unexpected(text->error());
        return slot->second;
    }

    void collect(const std::string &digest, std::vector<std::string> above, std::set<std::string> &seen,
                 std::vector<Manifest> &out, std::vector<std::string> &damage) {
        if (above.size() >= max_index_depth || !seen.insert(digest).second) return;
        const auto &document = cached(documents, digest, parse_document);
        if (!document) return;
        if (!*document) {
            damage.push_back(fmt::format("{}: {}", digest, document->error().text()));
            return;
        }
        above.push_back(digest);
        for (const std::string &inner : (*document)->manifests)
            collect(inner, above, seen, out, damage);
        if (!(*document)->config.empty()) add(digest, **document, std::move(above), out, damage);
    }

    void add(const std::string &digest, const Document &document, std::vector<std::string> above,
             std::vector<Manifest> &out, std::vector<std::string> &damage) {
        const auto &chain = cached(chains, document.config, parse_chain);
        if (!chain) return;
        if (!*chain) {
            damage.push_back(fmt::format("{}: {}", document.config, chain->error().text()));
            return;
        }
        above.push_back(document.config);
        // An artifact has layers that are no file systems.
        if ((*chain)->size() != document.layers.size()) return;
        out.push_back({digest, std::move(above), document.layers, **chain});
    }
};

Images::Images(const probe::Host &host, const Content &content) : impl_(new Impl{host, content, {}, {}}) {}
Images::~Images() = default;

std::vector<Manifest> Images::manifests(const std::string &digest, std::vector<std::string> &damage) {
    std::vector<Manifest> out;
    std::set<std::string> seen;
    impl_->collect(digest, {}, seen, out, damage);
    return out;
}

} // namespace shale::doctor::containerd
