// SPDX-License-Identifier: Apache-2.0
// The records of containers/storage (podman, CRI-O, buildah, skopeo): JSON lists of layers, images and containers, of
// each a stable one and one that is written without fsync ("volatile").
//
//   ROOT/DRIVER-layers/{layers,volatile-layers}.json, ID.tar-split.gz
//   ROOT/DRIVER-images/images.json, ID/... ("big data": manifests, configurations)
//   ROOT/DRIVER-containers/{containers,volatile-containers}.json, ID/...
//
// Format: containers/storage, layers.go, images.go, containers.go. With `imagestore` images and their layers lie at
// another root; with `transient_store` what is volatile lies below the run root.
//
// A writer holds an fcntl lock on layers.lock (images.lock, containers.lock) for writing, puts a new number into that
// file, and replaces the list by rename. So what was read without a lock is one state when nobody held a lock for
// writing before and after, and neither the lists nor the lock files have changed.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::podman {

inline constexpr size_t max_entries = 500'000; ///< of one list, of one directory

/// Of one store of one driver.
struct Places {
    std::string root, driver;
    std::string run_root;                ///< "": not known
    std::string image_store;             ///< "": images are at `root`
    std::vector<std::string> additional; ///< image stores that this one only reads

    /// BASE/DRIVER-KIND
    [[nodiscard]] std::string records(const std::string &base, std::string_view kind) const;
    /// BASE/DRIVER
    [[nodiscard]] std::string home(const std::string &base) const;
    /// Where it keeps layers and images: `root`, and the image store.
    [[nodiscard]] std::vector<std::string> bases() const;
};

struct LayerRecord {
    std::string id, parent;
    std::string name; ///< the first of its names, else the digest of its difference
    std::string base; ///< see Places::bases
    std::optional<uint64_t> diff_bytes;
    uint64_t created_s = 0;
    bool incomplete = false; ///< being made or deleted, or that was interrupted
};
struct ImageRecord {
    std::string id, base;
    std::vector<std::string> names;
    std::vector<std::string> tops; ///< its top layer, then the same for other user namespaces
    uint64_t created_s = 0;
    std::map<std::string, std::optional<uint64_t>> data; ///< "manifest" -> bytes; nullopt: not recorded
};
struct ContainerRecord {
    std::string id, image, layer;
    std::vector<std::string> names;
    uint64_t created_s = 0;
};
struct Records {
    std::vector<LayerRecord> layers;
    std::vector<ImageRecord> images;
    std::vector<ContainerRecord> containers;
    std::vector<probe::RecordSource> sources;
};

/// A list that is missing while others name what should stand in it is unreadable, and so is an empty file, which
/// containers/storage itself takes for an empty list.
Records read_records(const probe::Host &host, const Places &places);
/// The layers of additional image stores, by id: others may stand on them.
struct Foreign {
    std::map<std::string, LayerRecord> layers;
    bool complete = true; ///< all of their records could be read
};
Foreign read_additional(const probe::Host &host, const Places &places, std::vector<probe::RecordSource> &sources);

/// The state of locks and lists.
struct Mark {
    bool writing = false; ///< somebody holds a lock for writing
    std::string text;     ///< the same, as long as nothing changes
};
Mark mark(const probe::Host &host, const Places &places);

/// Calls `visit` with the text of each element of a JSON list. `null` is an empty list. InvalidArgument: it is no list,
/// or is cut off (with the byte where).
Status for_each_element(std::string_view text, const std::function<Status(std::string_view)> &visit);
/// The file of a piece of big data (containers/storage, store.go, makeBigDataBaseName).
std::string data_file(std::string_view key);
/// It can be one name in a directory.
bool is_plain_name(std::string_view name);

} // namespace shale::doctor::podman
