// SPDX-License-Identifier: Apache-2.0
// Drivers whose layers are complete trees: vfs copies the parent's, btrfs takes a snapshot of it. Layout of ROOT/<id>:
//   fs/      the tree, as a container sees it
//   stage/   an import in progress: the archive's entries, deletions as ".wh.NAME" files
// States: {stage} staged (where a layer is made from its parent at once: {stage, fs}); {stage, fs} being applied; {fs}
// active or sealed (the store's records tell).
#pragma once

#include "drivers/directory_driver.h"

namespace shale::drivers {

class TreeDriver : public DirectoryDriver {
public:
    Result<Staging> stage(LayerId id, Parents parents) override;
    Status apply(LayerId id, Parents parents, Staging staged, const archive::ExtractReport &report) override;
    Status create(LayerId id, Parents parents, const Quota &quota) override;
    Status seal(LayerId id, Parents parents) override;
    Result<std::vector<sys::MountSpec>> mounts(LayerId id, Parents parents, Access access) override;
    Result<Usage> usage(LayerId id, Parents parents) override;
    Result<DiffReport> diff(LayerId id, Parents parents, const archive::Sink &sink) override;
    Status changes(LayerId id, Parents parents, const archive::ChangeSink &sink) override;
    Result<View> open_view(LayerId id, Parents parents) override;
    [[nodiscard]] unsigned max_depth() const noexcept override { return 100'000; } ///< a layer needs only its own tree
    Result<std::vector<std::string>> check(LayerId id, Parents parents) override;

protected:
    using DirectoryDriver::DirectoryDriver;
    /// ROOT/<id>, new.
    virtual Status make_layer(LayerId id, Parents parents) = 0;
    /// The layer's own tree, writable: the nearest parent's content, or empty (0755) without parents.
    virtual Result<View> make_tree(LayerId id, Parents parents) = 0;
    /// The tree, for reading. NotFound: there is none (yet).
    virtual Result<View> open_tree(LayerId id);
    /// Where an import's entries go, on the tree's own file system: ROOT/<id>/stage. Opened again for the merge; `tree`
    /// is the one that it was merged into.
    virtual Result<View> make_stage(LayerId id);
    virtual Result<View> open_stage(LayerId id, int tree);
    virtual Status remove_stage(LayerId id, int tree);
    /// What was written into the tree with this descriptor reaches the disk, or an error says that it did not, where
    /// its mount is about to end and a later sync would hear of nothing.
    virtual Status flush(int /*fs*/) { return {}; }
    /// The layer will not change any more.
    virtual Status make_immutable(LayerId /*id*/) { return {}; }
    /// A tree begins as the same inodes as its parent's (see archive::PackOptions::snapshot).
    [[nodiscard]] virtual bool trees_are_snapshots() const noexcept { return false; }

private:
    /// The staged entries over a new tree of the layer's own.
    Status merge(LayerId id, Parents parents, const archive::ExtractReport &report);
};

} // namespace shale::drivers
