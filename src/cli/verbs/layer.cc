// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "base/units.h"
#include "cli/verbs.h"

namespace shale::cli {

void write_layer(Json &json, const store::LayerInfo &layer) {
    json.object().field("id", layer.id.value).key("parent");
    if (layer.parent)
        json.value(layer.parent->value);
    else
        json.null();
    json.field("chain_id", layer.chain_id.text())
        .field("diff_id", layer.diff_id.text())
        .field("blob", layer.blob.text());
    json.field("blob_bytes", layer.blob_bytes).field("bytes", layer.bytes).field("inodes", layer.inodes);
    json.field("created", format_time_ns(layer.created_ns));
    json.field("images", layer.images).field("children", layer.children).field("containers", layer.containers).end();
}

Result<int> run(Context &context, const LayerLsArgs &) {
    auto store = TRY(context.open_store());
    const auto layers = TRY(store->list_layers());
    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto &layer : layers)
            write_layer(json, layer);
        json.end();
        context.print(json);
        return 0;
    }
    if (context.globals.quiet) {
        for (const auto &layer : layers)
            context.print(to_string(layer.id) + "\n");
        return 0;
    }
    Table table({">LAYER ID", ">PARENT", "DIFF ID", "CREATED", ">SIZE", ">INODES", ">BLOB SIZE", ">IMAGES", ">CHILDREN",
                 ">CONTAINERS"});
    for (const auto &layer : layers)
        table.add({to_string(layer.id), layer.parent ? to_string(*layer.parent) : "-", short_digest(layer.diff_id),
                   ago(layer.created_ns), format_bytes(layer.bytes), format_count(layer.inodes),
                   format_bytes(layer.blob_bytes), std::to_string(layer.images), std::to_string(layer.children),
                   std::to_string(layer.containers)});
    context.print(table);
    return 0;
}

Result<int> run(Context &context, const LayerInspectArgs &args) {
    auto store = TRY(context.open_store());
    Json json;
    write_layer(json, TRY(store->find_layer(args.reference)));
    context.print(json);
    return 0;
}

Result<int> run(Context &context, const LayerExportArgs &args) {
    auto store = TRY(context.open_store());
    const auto layer = TRY(store->find_layer(args.reference));
    OutputFile file = TRY(OutputFile::create(args.file, context));
    const auto report = TRY(store->export_layer(layer.id, file.sink()));
    TRY(file.commit());
    for (const std::string &warning : report.warnings)
        context.note("shale: warning: " + printable(warning));
    return 0;
}

} // namespace shale::cli
