// SPDX-License-Identifier: Apache-2.0
// gc, df, check.
#include <fmt/format.h>

#include "base/units.h"
#include "cli/progress.h"
#include "cli/verbs.h"

namespace shale::cli {

Result<int> run(Context &context, const GcArgs &) {
    auto store = TRY(context.open_store());
    const bool dry = context.globals.dry_run;
    const auto report = TRY(store->gc(dry));
    if (context.globals.json) {
        Json json;
        json.object().field("dry_run", dry).field("layers", report.layers).field("blobs", report.blobs);
        json.field("leftovers", report.leftovers)
            .field("blob_bytes", report.blob_bytes)
            .field("layer_bytes", report.layer_bytes);
        json.field("reaped_entries", report.reaped_entries)
            .field("settled", report.settled)
            .key("what")
            .strings(report.what)
            .end();
        context.print(json);
        return 0;
    }
    if (!context.globals.quiet)
        for (const std::string &line : report.what)
            context.print(fmt::format("{}{}\n", dry ? "would remove " : "", printable(line)));
    if (report.settled != 0)
        context.print(fmt::format("settled {} committed layers in the driver's own form\n", report.settled));
    context.print(fmt::format("{} {} layers ({}), {} blobs ({}), {} leftovers; {} entries unlinked\n",
                              dry ? "would remove" : "removed", report.layers, format_bytes(report.layer_bytes),
                              report.blobs, format_bytes(report.blob_bytes), report.leftovers,
                              format_count(report.reaped_entries)));
    return 0;
}

Result<int> run(Context &context, const DfArgs &args) {
    if (args.host) return run_df_host(context, args.where);
    auto store = TRY(context.open_store());
    const auto report = TRY(store->space());
    if (context.globals.json) {
        Json json;
        json.object().field("root", report.root).field("file_system", report.file_system);
        json.field("fs_bytes", report.fs_bytes)
            .field("fs_used", report.fs_used)
            .field("fs_available", report.fs_available);
        json.field("fs_inodes", report.fs_inodes)
            .field("fs_inodes_used", report.fs_inodes_used)
            .field("store_bytes", report.store_bytes);
        json.key("rows").array();
        for (const auto &row : report.rows)
            json.object().field("name", row.name).field("bytes", row.bytes).field("inodes", row.inodes).end();
        json.end().key("images").array();
        for (const auto &image : report.images)
            json.object()
                .field("name", image.name)
                .field("bytes", image.bytes)
                .field("exclusive", image.exclusive)
                .field("shared", image.shared)
                .end();
        json.end().end();
        context.print(json);
        return 0;
    }
    std::string head = fmt::format("{} on {}: {} used of {}, {} available; inodes {} used of {}\n\n",
                                   printable(report.root), report.file_system, format_bytes(report.fs_used),
                                   format_bytes(report.fs_bytes), format_bytes(report.fs_available),
                                   format_count(report.fs_inodes_used), format_count(report.fs_inodes));
    Table rows({"WHAT", ">SIZE", ">INODES"});
    for (const auto &row : report.rows)
        rows.add({row.name, format_bytes(row.bytes), format_count(row.inodes)});
    Table images({"IMAGE", ">SIZE", ">SHARED", ">EXCLUSIVE"});
    for (const auto &image : report.images)
        images.add({image.name, format_bytes(image.bytes), format_bytes(image.shared), format_bytes(image.exclusive)});
    context.print(head + rows.text());
    if (!images.empty()) context.print("\n" + images.text());
    return 0;
}

Result<int> run(Context &context, const CheckArgs &args) {
    auto store = TRY(context.open_store());
    const auto level = args.level == "data"   ? store::CheckLevel::data
                       : args.level == "full" ? store::CheckLevel::full
                                              : store::CheckLevel::quick;
    store::CheckReport report;
    {
        ProgressLine progress(!context.globals.quiet && !context.globals.json);
        report = TRY(store->check(level, progress.callback(), args.repair));
    }
    uint64_t open = 0;
    for (const auto &problem : report.problems)
        open += problem.repaired ? 0U : 1U;
    if (context.globals.json) {
        Json json;
        json.object().field("level", args.level).field("layers", report.layers).field("blobs", report.blobs);
        json.field("containers", report.containers).field("entries", report.entries).key("problems").array();
        for (const auto &problem : report.problems)
            json.object()
                .field("object", problem.object)
                .field("what", problem.what)
                .field("remedy", problem.remedy)
                .field("repaired", problem.repaired)
                .end();
        json.end().end();
        context.print(json);
        return open == 0 ? 0 : 1;
    }
    for (const auto &problem : report.problems)
        context.print(fmt::format(
            "{}: {}{}{}\n", printable(problem.object), printable(problem.what), problem.repaired ? " (repaired)" : "",
            problem.remedy.empty() || problem.repaired ? "" : "\n    " + printable(problem.remedy)));
    if (!context.globals.quiet)
        context.print(fmt::format("checked {} layers, {} blobs, {} containers, {} entries ({}): {} problems, {} open\n",
                                  report.layers, report.blobs, report.containers, format_count(report.entries),
                                  args.level, report.problems.size(), open));
    return open == 0 ? 0 : 1;
}

} // namespace shale::cli
