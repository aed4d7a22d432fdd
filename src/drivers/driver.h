// SPDX-License-Identifier: Apache-2.0
// What every storage driver does. A driver keeps layers' trees on disk and nothing else: names, parents, digests are
// the store's records, handed in with each call. Layer ids come from the store and are never used twice.
//
// Life of a layer in a driver:
//   import:    stage(id, parents) -> extraction fills the staged tree (upper form) -> apply(id, parents, staging,
//   report)
//              -> sync(id) : sealed
//   container: create(id, parents) -> mounts(id) ... -> seal(id) -> sync(id) [-> settle(id)]
//   removal:   remove(id) = rename into trash, O(1) -> reap() unlinks
// Every call is safe to repeat after a crash: recovery of an unfinished layer is remove(id), whatever state it is in.
// Thread safety: calls for different ids may run at once; the store serialises calls for one id.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "archive/extract.h"
#include "archive/pack.h"
#include "archive/tree.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/ids.h"
#include "sys/mount.h"

namespace shale::drivers {

/// One probed fact: every cell of `shale drivers` comes from one of these.
struct Fact {
    std::string name;   ///< "d_type", "native diff", "redirect_dir", ...
    std::string value;  ///< "yes", "no", "500", "ext4", ...
    std::string reason; ///< why absent, or how it was found; empty when self-evident
};
struct ProbeReport {
    bool usable = false;
    std::string reason; ///< when not usable: what is missing and what to do
    std::vector<Fact> facts;
    void add(std::string name, std::string value, std::string why = {}) {
        facts.push_back({std::move(name), std::move(value), std::move(why)});
    }
};

struct Usage {
    uint64_t bytes = 0; ///< allocated on disk (st_blocks), own only, parents excluded
    uint64_t inodes = 0;
    bool counted = false; ///< true: O(1) from the file system's counters; false: walked
};
struct Quota {
    uint64_t bytes = 0, inodes = 0; ///< 0 = none
};

/// Parents of a layer, nearest first (top ... bottom).
using Parents = std::span<const LayerId>;

struct Staging {
    std::unique_ptr<archive::Tree> tree; ///< empty: for the upper-form tree
    archive::WhiteoutForm whiteouts = archive::WhiteoutForm::overlay_trusted;
    std::shared_ptr<void> keep = nullptr; ///< lives as long as the tree is in use
};

/// Quota per container, where the file system counts.
class QuotaControl {
public:
    virtual ~QuotaControl() = default;
    virtual Status set(LayerId id, const Quota &quota) = 0;
    virtual Result<Quota> get(LayerId id) = 0;
};

/// A pool of the driver's own, from which its layers get their space.
class SpacePool {
public:
    enum class Part : uint8_t { data, metadata };
    struct Growth {
        uint64_t before_bytes = 0, after_bytes = 0;
        std::string where; ///< what has grown: a file, a logical volume
    };
    virtual ~SpacePool() = default;
    /// As `dmsetup` lists it.
    [[nodiscard]] virtual std::string pool_name() const = 0;
    /// Makes one part larger by that percentage, at most to `most_bytes`; a process that dies meanwhile leaves what the
    /// next use of the pool finishes. ResourceExhausted: it is that large already, or what is below it has no room.
    /// FailedPrecondition: it cannot grow while it is in use.
    virtual Result<Growth> extend(Part part, unsigned percent, uint64_t most_bytes) = 0;
};

class Driver {
public:
    virtual ~Driver() = default;
    [[nodiscard]] virtual std::string_view name() const noexcept = 0;

    /// True: a sealed layer's unchanged files are further names of the parent's inodes.
    [[nodiscard]] virtual bool links_to_parents() const noexcept { return false; }

    /// An empty staged layer; a leftover with this id is removed first.
    virtual Result<Staging> stage(LayerId id, Parents parents) = 0;
    /// True: a layer can be staged before its parents are applied, so several unpack at once.
    [[nodiscard]] virtual bool stages_alone() const noexcept { return true; }
    /// Turns the staged tree into the layer's content over `parents` (all sealed), see docs/formats/layer-tar.md:
    /// implied directories follow the parents' symlinks, deferred hard links get their file, other implied directories
    /// take owner and mode of the parents' (drivers/apply.h); vfs: merged into a copy.
    /// `staged` is what stage() gave; it ends here.
    virtual Status apply(LayerId id, Parents parents, Staging staged, const archive::ExtractReport &report) = 0;
    /// A writable layer over `parents`; root directory has the nearest parent's mode, owner (else 0755 root).
    virtual Status create(LayerId id, Parents parents, const Quota &quota) = 0;
    /// Who owns the root directory of a writable layer whose mount is an overlay, as seen from the host: its parents
    /// are mounted with mapped ids, what is written is not. Before it is mounted.
    virtual Status set_owner(LayerId /*id*/, uid_t /*uid*/, gid_t /*gid*/) { return {}; }
    /// A writable layer becomes immutable, in O(1). Nothing writes to it any more (the store checks). Done again, it is
    /// done; after a failure reopen() makes the layer what it was.
    virtual Status seal(LayerId id, Parents parents) = 0;
    /// True: seal() has begun with this layer, which was made by create(): mounts() cannot give it for writing.
    virtual Result<bool> is_sealed(LayerId /*id*/, Parents /*parents*/) { return false; }
    /// Undoes a seal that no record followed; a layer that is not sealed stays as it is. FailedPrecondition: this
    /// driver cannot, and the layer can only be sealed to the end or removed.
    virtual Status reopen(LayerId /*id*/, Parents /*parents*/) { return {}; }

    /// Sealed layers that are not yet in the form this driver keeps layers in, for that is not O(1): see settle().
    virtual Result<std::vector<LayerId>> unsettled() { return std::vector<LayerId>(); }
    /// Asked when the layer's new form is complete and on stable storage: what is returned is held while the old form
    /// goes, and nobody uses the layer or begins to; null: not now.
    using Permit = std::function<Result<std::shared_ptr<void>>()>;
    /// Brings a sealed layer into the form this driver keeps layers in. Reads of it go on meanwhile. False: `permit`
    /// was not given, nothing has changed.
    virtual Result<bool> settle(LayerId /*id*/, const Permit & /*permit*/) { return true; }
    /// Everything of these layers is on stable storage when this returns (one syncfs for all).
    virtual Status sync(std::span<const LayerId> ids) = 0;

    enum class Access : uint8_t { read_write, read_only };
    /// How to mount the layer: one or more specs for sys::mount_at, in order. Stable until seal or remove.
    virtual Result<std::vector<sys::MountSpec>> mounts(LayerId id, Parents parents, Access access) = 0;

    /// After mounting: what is mounted at `target` is this layer, or an error says what it is. For drivers whose mounts
    /// could be another's (a device by name).
    virtual Status prove_mount(LayerId /*id*/, const std::string & /*target*/) { return {}; }

    /// The two layers' data change places, atomically; a missing `old` just receives. For repair in place.
    virtual Status exchange(LayerId fresh, LayerId old) = 0;

    /// O(1): the layer's data goes to the trash. Missing id = done. Safe in every state of the layer.
    virtual Status remove(LayerId id) = 0;
    /// Deletes what lies in the trash; returns entries removed. Any number may run at once, also in other processes.
    virtual Result<uint64_t> reap(const std::atomic<bool> *cancel) = 0;
    struct TrashUsage {
        uint64_t layers = 0;
        uint64_t bytes = 0, inodes = 0; ///< walked
        std::vector<LayerId> ids;
    };
    virtual Result<TrashUsage> trash() = 0;
    /// How many layers lie in the trash; their trees are not looked at.
    virtual Result<uint64_t> trash_layers() = 0;

    /// Every layer that has anything on disk (staged, active, sealed; not the trash). Enumerates the disk, not records.
    virtual Result<std::vector<LayerId>> list() = 0;
    virtual Result<Usage> usage(LayerId id, Parents parents) = 0;

    /// The layer's changes against its parents as canonical tar (for a sealed layer or an unmounted/frozen active one).
    struct DiffReport {
        archive::PackReport pack;
        bool native = false;     ///< read from the upper alone
        std::string walk_reason; ///< why not native
    };
    virtual Result<DiffReport> diff(LayerId id, Parents parents, const archive::Sink &sink) = 0;
    virtual Status changes(LayerId id, Parents parents, const archive::ChangeSink &sink) = 0;
    /// Opens the complete tree (layer over parents) read-only, without a visible mount where that can be; the guard
    /// undoes whatever was mounted.
    struct View {
        UniqueFd root;
        std::shared_ptr<void> keep; ///< lives as long as the view is in use
    };
    virtual Result<View> open_view(LayerId id, Parents parents) = 0;

    /// What the file system below must give before a store begins there; cheap, unlike probe(). FailedPrecondition: it
    /// does not, with what to use instead.
    virtual Status suits_here() { return {}; }

    [[nodiscard]] virtual unsigned max_depth() const noexcept = 0;
    /// What this driver can do here; does the real thing in a scratch directory below its root.
    virtual Result<ProbeReport> probe() = 0;
    /// Structural check of one layer (directories, links, leftovers): texts of what is wrong, empty = fine.
    virtual Result<std::vector<std::string>> check(LayerId id, Parents parents) = 0;
    /// What the layer's own bytes tell against what was recorded with them, reading all: empty = fine, or nothing is
    /// recorded.
    virtual Result<std::vector<std::string>> verify(LayerId /*id*/) { return std::vector<std::string>(); }

    virtual QuotaControl *quota() noexcept { return nullptr; }
    virtual SpacePool *space_pool() noexcept { return nullptr; }

    /// The driver is given up: no layer and no trash is left, and what it keeps besides (a pool, a mount) goes. The
    /// caller removes the directory afterwards. Safe to repeat.
    virtual Status dismantle() { return {}; }
};

/// Options of a driver, already validated as key=value ("redirect_dir" -> "on"); see options().
using DriverOptions = std::map<std::string, std::string, std::less<>>;

struct OptionInfo {
    std::string_view key, default_value, help;
    std::string_view choices{}; ///< '|' between; empty: the driver checks the value
};
/// What a layer costs on disk beside its own changes, for estimates.
struct Footprint {
    bool parents_bytes = false, parents_inodes = false; ///< a copy of all that is below it
};
/// One row of the only list of drivers.
struct DriverInfo {
    std::string_view name;
    int priority; ///< lower is tried first when no driver is named
    std::string_view summary;
    std::span<const OptionInfo> options;
    /// `root`: the store's directory for this driver; made by the factory (0700 / 0711).
    Result<std::unique_ptr<Driver>> (*open)(const std::string &root, const DriverOptions &options);
    Footprint footprint{};
    /// A sealed layer holds its own changes only, in a form that is right over any parents: it can be put on others.
    bool rebases = false;
};

/// All drivers, by priority. registry.cc is the only list.
std::span<const DriverInfo> registry() noexcept;
/// Unknown name: NotFound with the names there are.
Result<const DriverInfo *> find_driver(std::string_view name);
/// The first driver whose probe says usable under `root`; the reasons of those passed over are in the error.
Result<const DriverInfo *> choose_driver(const std::string &root);

} // namespace shale::drivers
