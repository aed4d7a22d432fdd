// SPDX-License-Identifier: Apache-2.0
#include "cli/snapshotters.h"
#include "cli/verbs.h"
#include "store/store.h"

namespace shale::cli {
namespace {

/// The driver that a store has, where none is configured: what containerd may ask of it depends on that. Empty: there
/// is no store yet, or none that this user may look at.
std::string driver_at(const std::string &root) {
    store::StoreOptions options;
    options.root = root;
    options.read_only = true;
    const auto store = store::Store::open(options);
    return store ? std::string((*store)->driver().name()) : std::string();
}

} // namespace

Result<int> run(Context &context, const ContainerdConfigArgs &) {
    auto snapshotters =
        TRY(resolve_snapshotters(context.config.sources, context.config.default_root, drivers::registry()));
    for (Snapshotter &one : snapshotters)
        if (one.settings.driver.empty()) one.settings.driver = driver_at(one.settings.root);
    if (!context.globals.json) {
        context.print(containerd_config(snapshotters));
        return 0;
    }
    Json json;
    json.array();
    for (const Snapshotter &one : snapshotters) {
        json.object()
            .field("name", one.name)
            .field("root", one.settings.root)
            .field("socket", one.socket)
            .key("driver");
        if (one.settings.driver.empty())
            json.null(); // the store's own; a new store: the best that the host can run
        else
            json.value(one.settings.driver);
        json.end();
    }
    json.end();
    context.print(json);
    return 0;
}

} // namespace shale::cli
