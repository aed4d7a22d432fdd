// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/stat.h>

#include "base/units.h"
#include "cli/progress.h"
#include "cli/verbs.h"

namespace shale::cli {
namespace {

std::string first_name(const store::ImageInfo &image) {
    return image.names.empty() ? "<none>" : image.names.front();
}

/// "debian:12" -> {"debian", "12"}; a colon before the last slash is a port.
std::pair<std::string, std::string> split_name(const std::string &name) {
    const size_t colon = name.rfind(':');
    const size_t slash = name.rfind('/');
    if (colon == std::string::npos || (slash != std::string::npos && colon < slash)) return {name, "<none>"};
    return {name.substr(0, colon), name.substr(colon + 1)};
}

void write_summary(Json &json, const store::ImageInfo &image) {
    json.field("manifest", image.manifest.text()).field("config", image.config.text());
    json.key("names").strings(image.names);
    json.field("os", image.os).field("architecture", image.architecture);
    json.field("bytes", image.bytes).field("exclusive_bytes", image.exclusive_bytes);
    json.field("created", format_time_ns(image.created_ns));
}

} // namespace

void write_image(Json &json, const store::ImageInfo &image) {
    json.object();
    write_summary(json, image);
    json.key("layers").array();
    for (const auto &layer : image.layers)
        write_layer(json, layer);
    json.end().end();
}

Result<int> run(Context &context, const ImageImportArgs &args) {
    auto store = TRY(context.open_store());
    store::ImportRequest request;
    request.source = args.file;
    request.name = args.name;
    request.select.os = args.os;
    request.select.architecture = args.architecture;
    request.select.reference = args.reference;
    std::vector<store::ImportedImage> images;
    {
        ProgressLine progress(!context.globals.quiet && !context.globals.json);
        images = TRY(store->import_images(request, progress.callback(), context.cancel));
    }
    Json json;
    json.array();
    for (const auto &imported : images) {
        for (const std::string &warning : imported.warnings)
            context.note("shale: warning: " + printable(warning));
        auto skipped = [&](uint64_t count, std::string_view what) {
            if (count != 0) context.note(fmt::format("shale: warning: {} {}", format_count(count), what));
        };
        skipped(imported.skipped_devices, "device nodes were left out (no privilege to make them)");
        skipped(imported.squashed_owners,
                "entries belong to the caller instead of the owner that the image states (no ids mapped)");
        skipped(imported.skipped_xattrs, "extended attributes were left out (no privilege or no support)");
        if (context.globals.json) {
            json.object();
            write_summary(json, imported.image);
            json.field("layers_unpacked", imported.layers_unpacked).field("layers_shared", imported.layers_shared);
            json.field("skipped_devices", imported.skipped_devices).field("squashed_owners", imported.squashed_owners);
            json.field("skipped_xattrs", imported.skipped_xattrs);
            json.key("warnings").strings(imported.warnings).end();
        } else if (context.globals.quiet) {
            context.print(imported.image.manifest.text() + "\n");
        } else {
            context.print(fmt::format("imported {} {} ({} layers unpacked, {} shared)\n",
                                      printable(first_name(imported.image)), imported.image.manifest.text(),
                                      imported.layers_unpacked, imported.layers_shared));
        }
    }
    json.end();
    if (context.globals.json) context.print(json);
    return 0;
}

Result<int> run(Context &context, const ImageLsArgs &) {
    auto store = TRY(context.open_store());
    const auto images = TRY(store->list_images());
    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto &image : images)
            write_image(json, image);
        json.end();
        context.print(json);
        return 0;
    }
    if (context.globals.quiet) {
        for (const auto &image : images)
            context.print(image.manifest.text() + "\n");
        return 0;
    }
    Table table({"REPOSITORY", "TAG", "IMAGE ID", "CREATED", ">LAYERS", ">SIZE", ">EXCLUSIVE"});
    for (const auto &image : images) {
        auto names = image.names;
        if (names.empty()) names.emplace_back("<none>");
        for (const std::string &name : names) {
            const auto [repository, tag] = split_name(name);
            table.add({repository, tag, short_digest(image.manifest), ago(image.created_ns),
                       std::to_string(image.layers.size()), format_bytes(image.bytes),
                       format_bytes(image.exclusive_bytes)});
        }
    }
    context.print(table);
    return 0;
}

Result<int> run(Context &context, const ImageInspectArgs &args) {
    auto store = TRY(context.open_store());
    const auto image = TRY(store->find_image(args.reference));
    Json json;
    json.object();
    write_summary(json, image);
    json.key("layers").array();
    for (const auto &layer : image.layers)
        write_layer(json, layer);
    json.end();
    // Both documents were parsed before they came into the store, so they are JSON.
    json.key("manifest_document").raw(TRY(store->image_manifest(image.manifest)));
    json.key("config_document").raw(TRY(store->image_config(image.config)));
    json.end();
    context.print(json);
    return 0;
}

Result<int> run(Context &context, const ImageTagArgs &args) {
    auto store = TRY(context.open_store());
    TRY(store->tag_image(args.reference, args.name));
    return 0;
}

Result<int> run(Context &context, const ImageExportArgs &args) {
    auto store = TRY(context.open_store());
    oci::ExportFormat format = oci::ExportFormat::oci_dir;
    if (args.format == "oci" || (args.format.empty() && args.file.ends_with(".tar")))
        format = oci::ExportFormat::oci_archive;
    if (args.format == "docker") format = oci::ExportFormat::docker_archive;
    TRY(store->export_image(args.reference, format, args.file));
    return 0;
}

Result<int> run(Context &context, const ImageRmArgs &args) {
    auto store = TRY(context.open_store());
    const bool dry = context.globals.dry_run;
    Json json;
    json.array();
    std::optional<Error> first;
    // Each reference stands for itself: one that fails does not keep the others.
    for (const std::string &reference : args.references) {
        auto removed = store->remove_image(reference, args.force, dry);
        if (!removed) {
            if (first)
                context.note("shale: error: " + printable(removed.error().text()));
            else
                first = std::move(removed).error();
            continue;
        }
        json.object().field("reference", reference).field("dry_run", dry);
        json.key("untagged").strings(removed->untagged).key("deleted");
        if (removed->deleted)
            json.value(removed->deleted->text());
        else
            json.null();
        json.end();
        if (context.globals.json) continue;
        if (context.globals.quiet) {
            if (removed->deleted) context.print(removed->deleted->text() + "\n");
            continue;
        }
        for (const std::string &name : removed->untagged)
            context.print(fmt::format("{}: {}\n", dry ? "would untag" : "untagged", printable(name)));
        if (removed->deleted)
            context.print(fmt::format("{}: {}\n", dry ? "would delete" : "deleted", removed->deleted->text()));
    }
    json.end();
    if (context.globals.json) context.print(json);
    Status reaped;
    if (!dry) reaped = context.reap(*store);
    if (first) return std::unexpected(std::move(*first));
    TRY(std::move(reaped));
    return 0;
}

} // namespace shale::cli
