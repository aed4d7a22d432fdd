// SPDX-License-Identifier: Apache-2.0
// containerd's content store, ROOT/io.containerd.content.v1.content: blobs/ALGORITHM/HEX, and downloads under way in
// ingest/ (containerd, plugins/content/local/store.go); and the images whose manifests and configurations lie in it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::containerd {

struct DiskBlob {
    uint64_t bytes = 0, changed_s = 0;
};
struct Content {
    std::string root;
    std::map<std::string, DiskBlob, std::less<>> blobs; ///< by digest, "sha256:HEX"
    uint64_t ingests = 0, ingest_bytes = 0;
    bool complete = true; ///< else `problems` of the facts say what could not be read
};

/// To be called before the metadata are read: a blob is in place before its record is committed, and goes after that is
/// gone (containerd, core/metadata/content.go), so one without a record is garbage or was made a moment ago.
Content read_content(const probe::Host &host, const std::string &root, probe::Facts &facts);
/// nullopt: it is not there. For one that the list does not have.
Result<std::optional<DiskBlob>> find_blob(const probe::Host &host, const Content &content, std::string_view digest);

/// A manifest and what it leads to.
struct Manifest {
    std::string digest;
    std::vector<std::string> documents; ///< index, manifest, configuration: digests
    std::vector<std::string> layers;    ///< digests of blobs, the lowest first; as many as `chain_ids`
    std::vector<std::string> chain_ids; ///< image-spec, config.md, "Layer ChainID"; the lowest first
};

/// Images read from their documents; each document is read once.
class Images {
public:
    Images(const probe::Host &host, const Content &content);
    ~Images();
    Images(const Images &) = delete;
    Images &operator=(const Images &) = delete;

    /// All manifests below `digest` (a manifest or an index) that are there with their configuration; those of other
    /// platforms usually are not. `damage` gets a line for each document that is there and not what it should be.
    std::vector<Manifest> manifests(const std::string &digest, std::vector<std::string> &damage);

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace shale::doctor::containerd
