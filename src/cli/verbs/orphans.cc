// SPDX-License-Identifier: Apache-2.0
// orphans ls, reclaim, trash, undo, purge.
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <set>

#include "base/units.h"
#include "cli/host_view.h"
#include "cli/verbs.h"
#include "doctor/orphans.h"
#include "doctor/trash.h"

namespace shale::cli {
namespace {

using doctor::Orphan;
using doctor::TrashItem;

std::string store_name(const probe::Store &store) {
    return fmt::format("{} {}", store.engine, store.driver);
}

void write_orphan(Json &json, const Orphan &orphan) {
    const auto &layer = *orphan.layer;
    json.object()
        .field("engine", orphan.store->engine)
        .field("driver", orphan.store->driver)
        .field("root", orphan.store->root);
    json.field("layer", layer.id).field("path", layer.path).field("what", orphan.what);
    if (layer.usage)
        json.field("bytes", layer.usage->exclusive_bytes)
            .field("inodes", layer.usage->exclusive_inodes)
            .field("counted", layer.usage->complete);
    json.field("created_s", layer.created_s);
    json.key("proof").strings(orphan.proof).key("obstacles").strings(orphan.obstacles).end();
}

void print_orphan(const Orphan &orphan) {
    const auto &layer = *orphan.layer;
    std::string out = fmt::format("{}  {} ({}), {}\n", layer.path.empty() ? layer.id : layer.path,
                                  store_name(*orphan.store), orphan.what,
                                  layer.usage ? fmt::format("{}, {} inodes", format_bytes(layer.usage->exclusive_bytes),
                                                            format_count(layer.usage->exclusive_inodes))
                                              : "not counted");
    for (const auto &line : orphan.proof)
        out += fmt::format("    {}\n", line);
    for (const auto &line : orphan.obstacles)
        out += fmt::format("    stays: {}\n", line);
    std::string safe;
    for (size_t begin = 0; begin < out.size();) {
        const size_t end = out.find('\n', begin);
        safe += printable(out.substr(begin, end - begin)) + "\n";
        begin = end + 1;
    }
    Context::print(safe);
}

void print_unable(const std::vector<std::string> &unable) {
    for (const auto &line : unable)
        Context::note("shale: not judged: " + printable(line));
}

/// A problem is: something was found or could not be judged.
int exit_status(const doctor::Audit &audit) {
    return !audit.orphans.empty() ? 1 : !audit.unable.empty() ? 2 : 0;
}

bool is_meant(const std::vector<std::string> &wanted, const std::string &layer, const std::string &path) {
    return wanted.empty() ||
           std::ranges::any_of(wanted, [&](const std::string &one) { return one == layer || one == path; });
}

/// A name that means nothing is a mistake, not nothing to do.
Status check_names(const std::vector<std::string> &wanted, const std::set<std::string> &known, std::string_view where) {
    for (const std::string &one : wanted)
        if (!known.contains(one))
            return fail(Errc::NotFound, fmt::format("\"{}\" is not {}; nothing was changed", one, where));
    return {};
}

/// What an engine recorded while its layer was on the way out comes back.
Result<size_t> put_back_recorded(const Context &context, const HostArgs &args, const probe::Host &host,
                                 const std::vector<TrashItem> &moved) {
    if (moved.empty()) return size_t{0};
    HostArgs quick = args;
    quick.no_usage = true;
    const auto view = TRY(look_at_host(context, quick));
    std::set<std::pair<std::string, std::string>> recorded; // path of the store's layers
    for (const auto &store : view.facts.stores)
        for (const auto &layer : store.layers)
            if (layer.recorded || !layer.used_by.empty()) recorded.emplace(store.engine, layer.path);
    size_t back = 0;
    for (const TrashItem &item : moved) {
        if (!recorded.contains({item.engine, item.path})) continue;
        TRY(doctor::put_back(host, item));
        Context::note(
            printable(fmt::format("shale: {} was recorded in this moment, and is back in its place", item.path)));
        ++back;
    }
    return back;
}

void write_item(Json &json, const TrashItem &item) {
    json.object()
        .field("engine", item.engine)
        .field("driver", item.driver)
        .field("layer", item.layer)
        .field("path", item.path);
    json.field("trash", fmt::format("{}/{}", item.place, item.number))
        .field("bytes", item.bytes)
        .field("inodes", item.inodes);
    json.field("moved_s", item.moved_s).field("complete", item.has_tree).key("proof").strings(item.proof).end();
}

Result<std::vector<TrashItem>> trash_of(const HostView &view) {
    std::vector<std::string> problems;
    auto out = doctor::list_trash(view.host, view.facts, problems);
    for (const auto &problem : problems)
        Context::note("shale: " + printable(problem));
    return out;
}

/// What undo and purge do to each item that is meant.
template <class Act>
Result<int> for_each_item(Context &context, const HostArgs &host, const std::vector<std::string> &layers,
                          std::string_view verb, std::string_view done, Act &&act) {
    HostArgs quick = host;
    quick.no_usage = true;
    const auto view = TRY(look_at_host(context, quick));
    const auto items = TRY(trash_of(view));
    std::set<std::string> known;
    for (const auto &item : items)
        known.insert({item.layer, item.path});
    TRY(check_names(layers, known, "in the trash"));
    int status = 0;
    Json json;
    json.array();
    for (const auto &item : items) {
        if (!is_meant(layers, item.layer, item.path)) continue;
        const Status acted = context.globals.dry_run ? Status() : act(view.host, item);
        if (!acted) {
            Context::note("shale: error: " + printable(acted.error().text()));
            status = 1;
            continue;
        }
        write_item(json, item);
        if (!context.globals.json)
            Context::print(printable(fmt::format("{}{} ({}, {} inodes)",
                                                 context.globals.dry_run ? fmt::format("would {} ", verb)
                                                                         : fmt::format("{} ", done),
                                                 item.path, format_bytes(item.bytes), format_count(item.inodes))) +
                           "\n");
    }
    json.end();
    if (context.globals.json) Context::print(json);
    return status;
}

} // namespace

Result<int> run(Context &context, const OrphansLsArgs &args) {
    const auto view = TRY(look_at_host(context, args.host));
    const auto audit = doctor::audit_orphans(view.host, view.facts);
    if (context.globals.json) {
        Json json;
        json.object().key("orphans").array();
        for (const auto &orphan : audit.orphans)
            write_orphan(json, orphan);
        json.end().key("unable").strings(audit.unable).end();
        context.print(json);
        return exit_status(audit);
    }
    uint64_t bytes = 0, inodes = 0;
    for (const auto &orphan : audit.orphans) {
        if (context.globals.quiet)
            context.print(printable(orphan.layer->id) + "\n");
        else
            print_orphan(orphan);
        bytes += orphan.layer->usage ? orphan.layer->usage->exclusive_bytes : 0;
        inodes += orphan.layer->usage ? orphan.layer->usage->exclusive_inodes : 0;
    }
    print_unable(audit.unable);
    if (!context.globals.quiet)
        context.print(fmt::format("{} orphans in {} stores: {}, {} inodes\n", audit.orphans.size(),
                                  view.facts.stores.size(), format_bytes(bytes), format_count(inodes)));
    return exit_status(audit);
}

Result<int> run(Context &context, const OrphansReclaimArgs &args) {
    const auto view = TRY(look_at_host(context, args.host));
    const auto audit = doctor::audit_orphans(view.host, view.facts);
    std::set<std::string> known;
    for (const auto &orphan : audit.orphans)
        known.insert({orphan.layer->id, orphan.layer->path});
    TRY(check_names(args.layers, known, "an orphan (see `shale orphans ls`)"));
    const auto now = static_cast<uint64_t>(std::time(nullptr));
    std::vector<TrashItem> moved;
    uint64_t bytes = 0, inodes = 0;
    size_t left = 0, would = 0;
    Json json;
    json.object().field("dry_run", context.globals.dry_run).key("moved").array();
    for (const auto &orphan : audit.orphans) {
        if (!is_meant(args.layers, orphan.layer->id, orphan.layer->path)) continue;
        std::string why = orphan.obstacles.empty() ? std::string() : orphan.obstacles.front();
        if (why.empty() && orphan.layer->created_s + args.min_age_s > now)
            why = fmt::format("it is younger than {} seconds (--min-age)", args.min_age_s);
        if (!why.empty()) {
            ++left;
            Context::note(printable(fmt::format(
                "shale: {} stays: {}", orphan.layer->path.empty() ? orphan.layer->id : orphan.layer->path, why)));
            continue;
        }
        if (context.globals.dry_run) {
            ++would;
        } else {
            auto item = doctor::move_to_trash(view.host, orphan);
            if (!item) {
                ++left;
                Context::note("shale: error: " + printable(item.error().text()));
                continue;
            }
            moved.push_back(std::move(*item));
        }
        bytes += orphan.layer->usage ? orphan.layer->usage->exclusive_bytes : 0;
        inodes += orphan.layer->usage ? orphan.layer->usage->exclusive_inodes : 0;
        write_orphan(json, orphan);
        if (!context.globals.json)
            context.print(
                printable(fmt::format("{} {}", context.globals.dry_run ? "would move" : "moved", orphan.layer->path)) +
                "\n");
    }
    print_unable(audit.unable);
    const size_t back = TRY(put_back_recorded(context, args.host, view.host, moved));
    if (context.globals.json)
        context.print(json.end().field("left", left).field("put_back", back).key("unable").strings(audit.unable).end());
    else
        context.print(fmt::format("{} {} orphans ({}, {} inodes), {} stay; `shale orphans purge` frees them, `shale "
                                  "orphans undo` puts them back\n",
                                  context.globals.dry_run ? "would move" : "moved",
                                  context.globals.dry_run ? would : moved.size() - back, format_bytes(bytes),
                                  format_count(inodes), left));
    return left == 0 && audit.unable.empty() ? 0 : 1;
}

Result<int> run(Context &context, const OrphansTrashArgs &args) {
    HostArgs quick = args.host;
    quick.no_usage = true;
    const auto view = TRY(look_at_host(context, quick));
    const auto items = TRY(trash_of(view));
    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto &item : items)
            write_item(json, item);
        context.print(json.end());
        return 0;
    }
    Table table({"LAYER", "STORE", "WAS AT", ">SIZE", ">INODES", "MOVED"});
    for (const auto &item : items)
        table.add({item.layer, item.engine + " " + item.driver, item.path, format_bytes(item.bytes),
                   format_count(item.inodes), ago(static_cast<int64_t>(item.moved_s) * 1'000'000'000)});
    context.print(table);
    return 0;
}

Result<int> run(Context &context, const OrphansUndoArgs &args) {
    return for_each_item(context, args.host, args.layers, "put back", "put back", doctor::put_back);
}

Result<int> run(Context &context, const OrphansPurgeArgs &args) {
    return for_each_item(context, args.host, args.layers, "free", "freed", doctor::purge);
}

} // namespace shale::cli
