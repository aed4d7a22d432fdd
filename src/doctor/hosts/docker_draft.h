// SPDX-License-Identifier: Apache-2.0
// One Docker store while it is read: what the readers of its parts share. A part is a function on a Draft; each adds
// what its records say, and settle() joins the parts. Nothing fails: what is wrong becomes a RecordSource or a Problem.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/digest.h"
#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::docker {

inline constexpr size_t max_entries = 500'000;   ///< of one directory of a store
inline constexpr size_t max_record_bytes = 4096; ///< of a file that holds one word (dockerd writes 64 to 80)
inline constexpr size_t max_lower_bytes = 64
                                          << 10; ///< of a `lower` file: 128 links of 28 bytes (overlay2.go, maxDepth)
inline constexpr size_t max_users = 1000;        ///< of one layer that are told
inline constexpr size_t max_lowers = 1'000'000;  ///< of all layers, trees below them that are told as theirs
inline constexpr size_t max_broken = 100;        ///< broken records of one kind that are told one by one

/// The record sources of a store, bounded.
class Sources {
public:
    void read(const std::string &path, std::string_view what, uint64_t entries);
    void missing(const std::string &path, std::string_view what, std::string why = {});
    /// A record that says nothing, so that nothing follows from its absence elsewhere either.
    void broken(const std::string &path, std::string_view what, const std::string &why);
    void broken(const std::string &path, std::string_view what, const Error &error);
    void append(const Sources &others);
    /// Those of `path`, or of something in it, that were read: nothing follows from them.
    void changing(const std::string &path, const std::string &why);
    /// That of `path` lacks what it had: whatever it does not name may be somebody's.
    void lost(const std::string &path, const std::string &why);
    [[nodiscard]] bool is_missing(const std::string &path) const;
    [[nodiscard]] bool any_broken() const noexcept { return !broken_.empty(); }
    /// All of them, with a last one a kind for those that were too many.
    [[nodiscard]] std::vector<probe::RecordSource> finish() &&;

private:
    std::vector<probe::RecordSource> all_;
    std::unordered_map<std::string, uint64_t> broken_; ///< what -> how many
};

/// A store of one driver.
class Draft {
public:
    Draft(const probe::Host &host, std::string root, std::string driver);

    const probe::Host *host;
    std::string root, driver;
    bool in_use = false; ///< the daemon's driver; the others were left behind
    Sources sources;
    probe::Store store;
    std::vector<probe::Problem> problems;

    std::unordered_map<Digest, std::string> layer_of_chain; ///< layerdb: chain id -> id of StoreLayer
    std::unordered_map<std::string, Digest> chain_below;    ///< id of StoreLayer -> chain id of the one below
    std::unordered_map<std::string, std::string> mount_of;  ///< layerdb/mounts: name (container) -> id of StoreLayer
    std::string being_written; ///< path of the records of a layer that is being made; "": none is

    /// "ROOT/image/DRIVER"
    [[nodiscard]] std::string image_dir() const;
    /// "ROOT/DRIVER"
    [[nodiscard]] std::string graph_dir() const;

    /// The layer with that id, made if there is none. The reference stands until the next call.
    probe::StoreLayer &layer(const std::string &id);
    [[nodiscard]] probe::StoreLayer *find(const std::string &id);
    /// Adds to `used_by`; no more than max_users a layer.
    void use(const std::string &id, std::string user);
    /// The recorded layer `above` is mounted on that tree, if there is one: "layer ABOVE". Beside those of use(); no
    /// more than max_users a tree and max_lowers of all, but always one for a tree that has no other user.
    void use_as_lower(const std::string &id, const std::string &above);
    void problem(std::string about, std::string why);

    /// When all parts are read: parents, depths, and which layer stands on which. Sorts them.
    void settle();
    /// Takes layers out again that cannot be believed.
    void forget(const std::unordered_set<std::string> &ids);
    /// The store with its sources; the draft is spent.
    [[nodiscard]] probe::Store finish() &&;

private:
    void join_parents();
    void index_layers();

    std::unordered_map<std::string, size_t> index_;
    std::unordered_map<std::string, size_t> users_; ///< how many each layer has, with those that are not told
    size_t lowers_ = 0;                             ///< told by use_as_lower()
};

/// An entry that is a directory of this file system: links and files are no records.
[[nodiscard]] bool is_directory(const sys::DirEntry &entry) noexcept;
/// Safe as one component of a path: letters, digits, "_", "-", "."; at most 255 bytes; no leading dot. Ids of dockerd
/// (64 hex digits, "-init") and of BuildKit (25 letters and digits) are such.
[[nodiscard]] bool is_id(std::string_view text) noexcept;
/// When the facts are taken; now, if they do not say.
[[nodiscard]] uint64_t time_of(const probe::Facts &facts) noexcept;
/// When it was last written to, by its mtime; 0: it is not there.
[[nodiscard]] uint64_t changed_s(const probe::Host &host, const std::string &path);
/// A file with one word. DataLoss: it holds nothing, which is what a power failure leaves of a file that was written
/// and not synced.
Result<std::string> read_word(const probe::Host &host, const std::string &path, size_t limit = max_record_bytes);

} // namespace shale::doctor::docker
