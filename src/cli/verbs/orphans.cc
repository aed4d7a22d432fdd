// SPDX-License-Identifier: Apache-2.0
// orphans ls, reclaim, trash, undo, purge.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <map>
#include <set>
#include <thread>

#include "base/units.h"
#include "cli/host_view.h"
#include "cli/verbs.h"
#include "doctor/checks/common.h"
#include "doctor/orphans.h"
#include "doctor/trash.h"
#include "doctor/uses.h"

namespace shale::cli {
namespace {

using doctor::Orphan;
using doctor::TrashItem;

std::string name_of(const Orphan &orphan) {
    return orphan.layer->path.empty() ? orphan.layer->id : orphan.layer->path;
}

std::string size_of(uint64_t bytes, uint64_t inodes) {
    return fmt::format("{}, {} inodes", format_bytes(bytes), format_count(inodes));
}

struct Sum {
    uint64_t bytes = 0, inodes = 0;
    void add(const Orphan &orphan) {
        if (!orphan.layer->usage) return;
        bytes += orphan.layer->usage->exclusive_bytes;
        inodes += orphan.layer->usage->exclusive_inodes;
    }
};

void write_orphan(Json &json, const Orphan &orphan) {
    const auto &layer = *orphan.layer;
    json.object()
        .field("engine", orphan.store->engine)
        .field("driver", orphan.store->driver)
        .field("root", orphan.store->root);
    json.field("layer", layer.id)
        .field("path", layer.path)
        .field("what", orphan.what)
        .field("changed_s", orphan.changed_s);
    if (layer.usage)
        json.field("bytes", layer.usage->exclusive_bytes)
            .field("inodes", layer.usage->exclusive_inodes)
            .field("counted", layer.usage->complete);
    json.key("proof").strings(orphan.proof).key("obstacles").strings(orphan.obstacles).end();
}

void print_orphan(const Orphan &orphan) {
    const auto &usage = orphan.layer->usage;
    Context::print(printable(fmt::format(
                       "{}  {} {} ({}), {}", name_of(orphan), orphan.store->engine, orphan.store->driver, orphan.what,
                       usage ? size_of(usage->exclusive_bytes, usage->exclusive_inodes) : "not counted")) +
                   "\n");
    for (const auto &line : orphan.proof)
        Context::print("    " + printable(line) + "\n");
    for (const auto &line : orphan.obstacles)
        Context::print("    stays: " + printable(line) + "\n");
}

void print_unable(const std::vector<std::string> &unable) {
    for (const auto &line : unable)
        Context::note("shale: not judged: " + printable(line));
}

/// By id or path. A name that means nothing is a mistake, and so is one that means several things.
class Wanted {
public:
    explicit Wanted(const std::vector<std::string> &names) : names_(names) {}
    void know(const std::string &layer, const std::string &path) {
        ++known_[path];
        if (layer != path) ++known_[layer];
    }
    [[nodiscard]] Status check(std::string_view where) const {
        for (const std::string &name : names_) {
            const auto found = known_.find(name);
            if (found == known_.end())
                return fail(Errc::NotFound, fmt::format("\"{}\" is not {}; nothing was changed", name, where));
            if (found->second > 1)
                return fail(
                    Errc::InvalidArgument,
                    fmt::format("\"{}\" names {} things; give the path; nothing was changed", name, found->second));
        }
        return {};
    }
    [[nodiscard]] bool means(const std::string &layer, const std::string &path) const {
        return names_.empty() ||
               std::ranges::any_of(names_, [&](const std::string &name) { return name == layer || name == path; });
    }

private:
    const std::vector<std::string> &names_;
    std::map<std::string, int> known_;
};

HostArgs without_usage(const HostArgs &args) {
    HostArgs out = args;
    out.no_usage = true;
    return out;
}

/// What the records say now of something that lies in the trash, which no reader sees at its place.
enum class Recorded : uint8_t { no, yes, unknown };
Recorded is_recorded(const probe::Facts &facts, const TrashItem &item) {
    Recorded out = Recorded::unknown; // a store that is not there any more tells nothing
    for (const auto &store : facts.stores) {
        if (store.engine != item.engine || store.root != item.root) continue;
        if (!doctor::checks::unread_records(store).empty()) return Recorded::unknown;
        if (store.driver != item.driver) continue;
        out = Recorded::no;
        for (const auto &layer : store.layers)
            if (layer.id == item.layer && (layer.recorded || !layer.used_by.empty())) return Recorded::yes;
    }
    return out;
}

/// What an engine has recorded while its layer was on the way out goes back, and so does what cannot be told.
Result<size_t> put_back_recorded(const Context &context, const HostArgs &args, std::vector<TrashItem> moved) {
    constexpr int attempts = 5;
    size_t back = 0;
    for (int attempt = 0; !moved.empty(); ++attempt) {
        const auto view = TRY(look_at_host(context, without_usage(args)));
        std::vector<TrashItem> unknown;
        for (const TrashItem &item : moved) {
            const Recorded recorded = is_recorded(view.facts, item);
            if (recorded == Recorded::no) continue;
            if (recorded == Recorded::unknown && attempt + 1 < attempts) {
                unknown.push_back(item);
                continue;
            }
            const Status put = doctor::put_back(item);
            Context::note(printable(fmt::format(
                "shale: {}: {}", item.path,
                put ? recorded == Recorded::yes ? "was recorded in this moment, and is back in its place"
                                                : "the records could not be read again; it is back in its place"
                    : "must go back to its place: " + put.error().text())));
            back += put ? 1U : 0U;
        }
        moved = std::move(unknown);
        if (!moved.empty()) std::this_thread::sleep_for(std::chrono::seconds(1));
    }
    return back;
}

std::string_view name_of(TrashItem::State state) {
    switch (state) {
    case TrashItem::State::empty:
        return "empty";
    case TrashItem::State::whole:
        return "whole";
    case TrashItem::State::going:
        return "being purged";
    }
    return "?";
}

void write_item(Json &json, const TrashItem &item) {
    json.object()
        .field("engine", item.engine)
        .field("driver", item.driver)
        .field("layer", item.layer)
        .field("path", item.path);
    json.field("trash", item.tree())
        .field("state", name_of(item.state))
        .field("bytes", item.bytes)
        .field("inodes", item.inodes);
    json.field("moved_s", item.moved_s).key("proof").strings(item.proof).end();
}

struct Trash {
    std::vector<TrashItem> items;
    bool whole = true; ///< else something in it could not be believed, and was told
};
Trash trash_of(const HostView &view) {
    std::vector<std::string> problems;
    Trash out;
    out.items = doctor::list_trash(view.host, view.facts, problems);
    for (const auto &problem : problems)
        Context::note("shale: " + printable(problem));
    out.whole = problems.empty();
    return out;
}

/// What undo and purge do to each item that is meant; `act` tells what it did.
template <class Act>
Result<int> for_each_item(Context &context, const HostView &view, const std::vector<std::string> &names,
                          std::string_view would, Act &&act) {
    const auto trash = trash_of(view);
    Wanted wanted(names);
    for (const auto &item : trash.items)
        wanted.know(item.layer, item.path);
    TRY(wanted.check("in the trash"));
    int status = trash.whole ? 0 : 1;
    Json json;
    json.array();
    for (const auto &item : trash.items) {
        if (!wanted.means(item.layer, item.path)) continue;
        if (context.cancel->load()) return fail(Errc::Canceled, "interrupted; what was done is said above");
        const Result<std::string> done = context.globals.dry_run ? Result<std::string>(std::string(would)) : act(item);
        if (!done) {
            Context::note("shale: error: " + printable(done.error().text()));
            status = 1;
            continue;
        }
        write_item(json, item);
        if (!context.globals.json)
            Context::print(printable(fmt::format("{} {} ({})", *done, item.path, size_of(item.bytes, item.inodes))) +
                           "\n");
    }
    json.end();
    if (context.globals.json) Context::print(json);
    return status;
}

/// Its place is free, nothing has it open or mounted, and no record names it.
Status check_purge(const HostView &view, const doctor::Uses &uses, const std::set<std::pair<dev_t, ino_t>> &overlays,
                   const TrashItem &item) {
    const Recorded recorded = is_recorded(view.facts, item);
    if (recorded != Recorded::no)
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} stays: {}", item.path,
                                recorded == Recorded::yes
                                    ? "it has been recorded since; put it back (shale orphans undo)"
                                    : "the records of its store cannot be read now"));
    if (!uses.gaps.empty())
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} stays: it may be in use: {}", item.path, uses.gaps.front()));
    const auto place = doctor::place_of(uses, item.tree());
    const std::string use = place ? doctor::use_of(uses, *place, overlays) : "no mount table tells what it lies on";
    if (!use.empty()) return fail(Errc::FailedPrecondition, fmt::format("{} stays: {}", item.path, use));
    return {};
}

} // namespace

Result<int> run(Context &context, const OrphansLsArgs &args) {
    const auto view = TRY(look_at_host(context, args.host));
    const auto audit =
        doctor::audit_orphans(view.host, view.facts, doctor::read_uses(args.assume_alone), args.assume_alone);
    const int status = !audit.orphans.empty() ? 1 : !audit.unable.empty() ? 2 : 0;
    if (context.globals.json) {
        Json json;
        json.object().key("orphans").array();
        for (const auto &orphan : audit.orphans)
            write_orphan(json, orphan);
        json.end().key("unable").strings(audit.unable).end();
        context.print(json);
        return status;
    }
    Sum sum;
    for (const auto &orphan : audit.orphans) {
        sum.add(orphan);
        if (context.globals.quiet)
            context.print(printable(orphan.layer->id) + "\n");
        else
            print_orphan(orphan);
    }
    print_unable(audit.unable);
    if (!context.globals.quiet)
        context.print(fmt::format("{} orphans in {} stores: {}\n", audit.orphans.size(), view.facts.stores.size(),
                                  size_of(sum.bytes, sum.inodes)));
    return status;
}

Result<int> run(Context &context, const OrphansReclaimArgs &args) {
    const auto view = TRY(look_at_host(context, args.host));
    const auto audit =
        doctor::audit_orphans(view.host, view.facts, doctor::read_uses(args.assume_alone), args.assume_alone);
    Wanted wanted(args.layers);
    for (const auto &orphan : audit.orphans)
        wanted.know(orphan.layer->id, orphan.layer->path);
    TRY(wanted.check("an orphan (see `shale orphans`)"));
    const auto now = static_cast<uint64_t>(std::time(nullptr));
    std::vector<TrashItem> moved;
    Sum sum;
    size_t left = 0, count = 0;
    Json json;
    json.object().field("dry_run", context.globals.dry_run).key("moved").array();
    for (const auto &orphan : audit.orphans) {
        if (!wanted.means(orphan.layer->id, orphan.layer->path)) continue;
        if (context.cancel->load()) break;
        std::string why = orphan.obstacles.empty() ? std::string() : orphan.obstacles.front();
        if (why.empty() && now - std::min(now, orphan.changed_s) < args.min_age_s)
            why = fmt::format("it is younger than {} seconds (--min-age)", args.min_age_s);
        if (why.empty() && !context.globals.dry_run) {
            auto item = doctor::move_to_trash(orphan);
            if (item)
                moved.push_back(std::move(*item));
            else
                why = item.error().text();
        }
        if (!why.empty()) {
            ++left;
            Context::note(printable(fmt::format("shale: {} stays: {}", name_of(orphan), why)));
            continue;
        }
        ++count;
        sum.add(orphan);
        write_orphan(json, orphan);
        if (!context.globals.json)
            context.print(
                printable(fmt::format("{} {}", context.globals.dry_run ? "would move" : "moved", name_of(orphan))) +
                "\n");
    }
    print_unable(audit.unable);
    const size_t back = TRY(put_back_recorded(context, args.host, std::move(moved)));
    if (context.globals.json)
        context.print(json.end().field("left", left).field("put_back", back).key("unable").strings(audit.unable).end());
    else
        context.print(fmt::format(
            "{} {} orphans ({}), {} stay; `shale orphans purge` frees them, `shale orphans undo` puts them back\n",
            context.globals.dry_run ? "would move" : "moved", count - back, size_of(sum.bytes, sum.inodes),
            left + back));
    if (context.cancel->load()) return fail(Errc::Canceled, "interrupted; what was done is said above");
    return left + back != 0 ? 1 : audit.unable.empty() ? 0 : 2;
}

Result<int> run(Context &context, const OrphansTrashArgs &args) {
    const auto view = TRY(look_at_host(context, without_usage(args.host)));
    const auto trash = trash_of(view);
    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto &item : trash.items)
            write_item(json, item);
        context.print(json.end());
        return trash.whole ? 0 : 1;
    }
    Table table({"LAYER", "STORE", "WAS AT", ">SIZE", ">INODES", "STATE", "MOVED"});
    for (const auto &item : trash.items)
        table.add({item.layer, item.engine + " " + item.driver, item.path, format_bytes(item.bytes),
                   format_count(item.inodes), std::string(name_of(item.state)),
                   ago(static_cast<int64_t>(std::min<uint64_t>(item.moved_s, 4'000'000'000)) * 1'000'000'000)});
    context.print(table);
    return trash.whole ? 0 : 1;
}

Result<int> run(Context &context, const OrphansUndoArgs &args) {
    const auto view = TRY(look_at_host(context, without_usage(args.host)));
    return for_each_item(
        context, view, args.layers, "would put back", [](const TrashItem &item) -> Result<std::string> {
            TRY(doctor::put_back(item));
            return std::string(item.state == TrashItem::State::empty ? "forgot, as it was not there," : "put back");
        });
}

Result<int> run(Context &context, const OrphansPurgeArgs &args) {
    const auto view = TRY(look_at_host(context, without_usage(args.host)));
    const auto uses = doctor::read_uses(args.assume_alone);
    const auto overlays = doctor::overlay_directories(uses, {});
    return for_each_item(context, view, args.layers, "would free", [&](const TrashItem &item) -> Result<std::string> {
        TRY(check_purge(view, uses, overlays, item));
        TRY(doctor::purge(item));
        return std::string("freed");
    });
}

} // namespace shale::cli
