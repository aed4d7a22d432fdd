// SPDX-License-Identifier: Apache-2.0
// migrate: estimate, copy, finish or rollback; without an action, how far it is.
#include "store/migrate.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/units.h"
#include "cli/progress.h"
#include "cli/verbs.h"

namespace shale::cli {
namespace {

std::string_view name_of(store::MigratePhase phase) {
    switch (phase) {
    case store::MigratePhase::copying:
        return "copying";
    case store::MigratePhase::retiring:
        return "retiring";
    default:
        return "none";
    }
}

std::string place(const std::string &root) {
    return root.empty() ? "" : " at " + printable(root);
}

/// "[DRIVER.]KEY=VALUE" of the new driver.
Result<drivers::DriverOptions> parse_options(const std::vector<std::string> &texts, const std::string &driver) {
    drivers::DriverOptions out;
    for (const std::string &text : texts) {
        const Verdict verdict = judge_option(text, driver, drivers::registry());
        if (verdict.standing != Standing::known || (!verdict.driver.empty() && verdict.driver != driver))
            return fail(Errc::InvalidArgument,
                        fmt::format("--to-opt {}: {}", text,
                                    verdict.message.empty() ? "not an option of driver " + driver : verdict.message));
        out.insert_or_assign(verdict.key, verdict.value);
    }
    return out;
}

Result<store::MigrateRequest> request_of(const MigrateArgs &args) {
    store::MigrateRequest request;
    request.driver = args.to;
    if (auto reason = judge_driver(args.to, drivers::registry()))
        return fail(Errc::InvalidArgument, "--to: " + *reason);
    if (!args.to_root.empty()) {
        std::error_code error;
        request.root = std::filesystem::absolute(args.to_root, error).lexically_normal().string();
        while (request.root.size() > 1 && request.root.ends_with('/'))
            request.root.pop_back();
        if (error) return fail_errno(error.value(), "--to-root " + args.to_root);
    }
    request.options = TRY(parse_options(args.to_options, args.to));
    request.verify_data = args.verify == "data";
    request.force = args.force;
    return request;
}

std::string text_of(const store::MigrateEstimate &e, const std::string &driver) {
    const std::string room =
        e.elsewhere
            ? fmt::format("{} keeps its data outside {}, and checks the room there as it is filled", driver,
                          printable(e.where))
            : fmt::format("{} ({}) has {}{} free", printable(e.where), e.file_system, format_bytes(e.free_bytes),
                          e.inodes_limited ? fmt::format(" and {} inodes", format_count(e.free_inodes)) : "");
    return fmt::format("to copy: {} layers, {} containers, {} blobs: at most {} and {} inodes; {}\n", e.layers,
                       e.containers, e.blobs, format_bytes(e.bytes), format_count(e.inodes), room);
}

void write_estimate(Json &json, const store::MigrateEstimate &e) {
    json.key("estimate").object();
    json.field("layers", e.layers).field("containers", e.containers).field("blobs", e.blobs);
    json.field("bytes", e.bytes).field("inodes", e.inodes).field("blob_bytes", e.blob_bytes);
    json.field("where", e.where).field("room_checked_by", e.elsewhere ? "driver" : "estimate");
    json.field("file_system", e.file_system).field("free_bytes", e.free_bytes);
    if (e.inodes_limited) json.field("free_inodes", e.free_inodes);
    json.field("fits", e.fits()).end();
}

void write_state(Json &json, const store::MigrateState &state) {
    json.field("phase", name_of(state.phase)).field("from", state.from).field("to", state.to);
    json.field("to_root", state.root).key("to_options").object();
    for (const auto &[key, value] : state.options)
        json.field(key, value);
    json.end().field("layers", state.layers).field("layers_copied", state.layers_done);
    json.field("containers", state.containers).field("containers_copied", state.containers_done);
}

void write_report(Json &json, const store::MigrateReport &report) {
    json.key("report").object().field("layers", report.layers).field("containers", report.containers);
    json.field("blobs", report.blobs).field("kept", report.kept).field("dropped", report.dropped);
    json.field("bytes", report.bytes).field("compared_entries", report.compared);
    json.field("removed_entries", report.removed_entries).key("notes").strings(report.notes);
    json.key("pending").strings(report.pending).end();
}

void print_notes(const store::MigrateReport &report) {
    for (const std::string &note : report.notes)
        Context::note("shale: note: " + printable(note));
    for (const std::string &pending : report.pending)
        Context::note("shale: not copied: " + printable(pending));
}

/// What a driver that was given up leaves outside the store, because that is the user's; empty: nothing.
std::string left_outside(const std::string &driver, const drivers::DriverOptions &options) {
    const auto option = [&](std::string_view key) {
        const auto found = options.find(key);
        return found == options.end() ? std::string() : found->second;
    };
    if (driver != "devicemapper") return "";
    if (option("pool") == "device")
        return fmt::format("the pool's label stays in the first MiB of {} and keeps other stores off, until zeros "
                           "are written over it",
                           option("device"));
    if (option("pool") == "vg")
        return fmt::format("the pool's volumes shale_<store>_meta and shale_<store>_data, where they were made, stay "
                           "in the group {0}: `lvs {0}` shows them, lvremove takes them away",
                           option("vg"));
    return "";
}

Result<int> show_state(const Context &context, store::Store &store) {
    const auto state = TRY(store.migration());
    if (context.globals.json) {
        Json json;
        json.object();
        write_state(json, state);
        json.end();
        Context::print(json);
        return 0;
    }
    switch (state.phase) {
    case store::MigratePhase::none:
        Context::print(fmt::format("no migration is under way; the store is kept by {}\n", state.from));
        break;
    case store::MigratePhase::copying:
        Context::print(fmt::format("{} to {}{}: {} of {} layers, {} of {} containers are copied; {} counts.\nGo on "
                                   "with the same --to, then --finish; or --rollback\n",
                                   state.from, state.to, place(state.root), state.layers_done, state.layers,
                                   state.containers_done, state.containers, state.from));
        break;
    case store::MigratePhase::retiring:
        Context::print(fmt::format("the store is kept by {}{}; what is left of {} is removed by --finish\n", state.to,
                                   place(state.root), state.from));
        break;
    }
    return 0;
}

Result<int> copy(const Context &context, store::Store &store, const MigrateArgs &args) {
    auto request = TRY(request_of(args));
    const auto estimate = TRY(store.estimate_migration(request));
    const bool text = !context.globals.json && !context.globals.quiet;
    if (text) {
        Context::print(text_of(estimate, request.driver));
        TRY(flush_output()); // before the long part
    }
    store::MigrateReport report;
    if (!context.globals.dry_run) {
        if (!request.force) TRY(estimate.refuse());
        request.force = true; // this estimate need not be made twice
        ProgressLine progress(text);
        report = TRY(store.migrate(request, progress.callback(), context.cancel));
    }
    print_notes(report);
    const int code = report.pending.empty() && (!context.globals.dry_run || estimate.fits()) ? 0 : 1;
    if (context.globals.json) {
        Json json;
        json.object().field("dry_run", context.globals.dry_run);
        write_estimate(json, estimate);
        write_state(json, TRY(store.migration()));
        write_report(json, report);
        json.end();
        Context::print(json);
        return code;
    }
    if (!text) return code;
    if (context.globals.dry_run) {
        if (!estimate.fits()) Context::print("that does not fit\n");
        return code;
    }
    Context::print(fmt::format("copied {} layers, {} containers, {} blobs ({} read, {} entries compared); {} were "
                               "there\n{} still counts: `shale migrate --finish` switches to {}{}, `--rollback` takes "
                               "the copy away\n",
                               report.layers, report.containers, report.blobs, format_bytes(report.bytes),
                               format_count(report.compared), report.kept, store.driver().name(), request.driver,
                               place(request.root)));
    return code;
}

Result<int> end(const Context &context, store::Store &store, const MigrateArgs &args) {
    const auto state = TRY(store.migration());
    if (context.globals.dry_run && state.phase != store::MigratePhase::none) return show_state(context, store);
    const bool text = !context.globals.json && !context.globals.quiet;
    store::MigrateReport report;
    {
        ProgressLine progress(text);
        report = args.finish ? TRY(store.finish_migration(args.verify == "data", progress.callback(), context.cancel))
                             : TRY(store.rollback_migration(progress.callback(), context.cancel));
    }
    const bool configured = args.finish && context.settings.driver == state.from;
    if (auto left = args.finish ? left_outside(configured ? state.from : "", context.settings.driver_options)
                                : left_outside(state.to, state.options);
        !left.empty())
        report.notes.push_back(std::move(left));
    print_notes(report);
    if (context.globals.json) {
        Json json;
        json.object().field("action", args.finish ? "finish" : "rollback");
        json.field("from", state.from).field("to", state.to).field("to_root", state.root);
        write_report(json, report);
        json.end();
        Context::print(json);
        return 0;
    }
    if (!text) return 0;
    if (!args.finish) {
        Context::print(fmt::format("the copy by {}{} is removed ({} entries); {} keeps the store as before\n", state.to,
                                   place(state.root), format_count(report.removed_entries), state.from));
        return 0;
    }
    Context::print(fmt::format("the store is kept by {}{} now; {} entries of {} removed\n", state.to, place(state.root),
                               format_count(report.removed_entries), state.from));
    if (!state.root.empty()) Context::print(fmt::format("use it with --root {}\n", printable(state.root)));
    for (const auto &[key, value] : state.options)
        Context::print(
            fmt::format("keep in the configuration: --storage-opt {}.{}={}\n", state.to, key, printable(value)));
    if (!context.settings.driver.empty() && context.settings.driver != state.to)
        Context::print(fmt::format("change the configuration: {} names driver {}\n",
                                   context.settings.origin.at("driver"), context.settings.driver));
    return 0;
}

} // namespace

Result<int> run(Context &context, const MigrateArgs &args) {
    auto store = TRY(context.open_store(Context::Access::migrate));
    if (args.finish || args.rollback) return end(context, *store, args);
    return args.to.empty() ? show_state(context, *store) : copy(context, *store, args);
}

} // namespace shale::cli
