// SPDX-License-Identifier: Apache-2.0
// guard, guard events.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>

#include "base/units.h"
#include "cli/verbs.h"
#include "guard/guard.h"
#include "guard/store_hands.h"
#include "store/refusal.h"
#include "sys/fs.h"

namespace shale::cli {
namespace {

guard::Time now() {
    return std::chrono::time_point_cast<guard::Duration>(std::chrono::system_clock::now());
}

void write_rows(Json &json, const std::vector<guard::Row> &rows) {
    json.array();
    for (const auto &row : rows) {
        json.object().field("kind", name_of(row.sample.kind)).field("subject", row.sample.subject);
        json.field("used", row.sample.used).field("total", row.sample.total).field("unit", row.sample.unit);
        if (row.until_full) json.field("full_in_s", static_cast<uint64_t>(row.until_full->count() / 1000));
        json.key("marks").array();
        for (const auto &step : row.marks.steps)
            json.object()
                .field("percent", uint64_t{step.percent})
                .field("tier", name_of(step.tier))
                .field("entered", row.is_inside(step))
                .end();
        json.end().end();
    }
    json.end();
}

void print_rows(Context &context, const std::vector<guard::Row> &rows) {
    Table table({"RESOURCE", "OF", ">IN USE", ">FREE", ">FULL IN", "MARKS"});
    for (const auto &row : rows) {
        std::vector<std::string> marks;
        for (const auto &step : row.marks.steps)
            marks.push_back((row.is_inside(step) ? "*" : "") + text_of(step));
        table.add(
            {std::string(name_of(row.sample.kind)), row.sample.subject, fmt::format("{:.1f} %", percent_of(row.sample)),
             guard::amount_text(free_of(row.sample), row.sample.unit),
             row.until_full ? guard::span_text(*row.until_full) : "-", fmt::format("{}", fmt::join(marks, ", "))});
    }
    context.print(table.text());
}

void print_event(Context &context, const guard::Event &event) {
    if (context.globals.json) {
        Context::print(guard::to_line(event) + "\n");
        return;
    }
    std::string text = fmt::format("{} {}", name_of(event.type), event.what);
    if (!event.subject.empty()) text = fmt::format("{} of {}: {}", name_of(event.kind), event.subject, text);
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(event.time.time_since_epoch()).count();
    Context::print(fmt::format("{} {}\n", format_time_ns(ns), printable(text)));
    for (const auto &line : event.evidence)
        Context::print("  " + printable(line) + "\n");
}

} // namespace

Result<int> run(Context &context, const GuardArgs &args) {
    auto store = TRY(context.open_store());
    guard::Config config = context.config.guard;
    if (args.interval_s != 0) config.interval = std::chrono::seconds(args.interval_s);
    config.dry_run = config.dry_run || context.globals.dry_run;
    const UniqueFd root = TRY(sys::open_dir(AT_FDCWD, store->root().c_str()));
    // Nothing is written in a dry run: a store of before the guard may have no directory for it, and no room for one.
    const bool has_dir = TRY(sys::stat_if_exists(root.get(), store::guard_name)).has_value();
    UniqueFd dir = config.dry_run && !has_dir ? TRY(sys::open_dir(AT_FDCWD, store->root().c_str()))
                                              : TRY(guard::open_guard_dir(root.get()));
    UniqueFd lock;
    if (!config.dry_run) { // one guard a store: two would undo what the other does
        lock = TRY(sys::open_at(dir.get(), "lock", O_RDWR | O_CREAT, 0600));
        if (!TRY(sys::try_lock_range(lock.get(), 0, 1, sys::LockMode::exclusive)))
            return fail(Errc::FailedPrecondition,
                        fmt::format("another guard is at work on {} (shaled has one); --dry-run looks without acting",
                                    store->root()));
    }
    guard::StoreHands hands(TRY(probe::Host::open()), {store.get()}, config);
    auto guard = TRY(guard::Guard::start(std::move(config), std::move(dir), hands,
                                         [&](const guard::Event &event) { print_event(context, event); }));
    for (;;) {
        if (const auto done = guard.round(now()); !done) {
            if (args.once) {
                (void)guard.finish(guard::Guard::Ends::limits, now());
                return std::unexpected(done.error());
            }
            Context::note("shale: " + done.error().text());
        }
        if (args.once) break;
        TRY(flush_output());
        const auto next = std::chrono::steady_clock::now() + guard.config().interval;
        while (std::chrono::steady_clock::now() < next) {
            if (context.cancel->load()) { // what it has in force ends with it
                TRY(guard.finish(guard::Guard::Ends::all, now()));
                return 0;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
        }
    }
    TRY(guard.finish(guard::Guard::Ends::limits, now())); // a look alone does not go on to see when they may end
    if (context.globals.json) {
        Json json;
        write_rows(json, guard.rows());
        context.print(json);
    } else if (!context.globals.quiet) {
        print_rows(context, guard.rows());
    }
    return 0;
}

Result<int> run(Context &context, const GuardEventsArgs &args) {
    const UniqueFd root = TRY(sys::open_dir(AT_FDCWD, context.settings.root.c_str()));
    if (!TRY(sys::stat_if_exists(root.get(), store::guard_name))) return 0; // no guard was ever there
    const guard::EventLog log(TRY(guard::open_guard_dir(root.get())), context.config.guard.event_log_bytes);
    const auto page = TRY(log.read(args.most));
    for (const auto &event : page.events)
        print_event(context, event);
    if (page.skipped > 0) Context::note(fmt::format("shale: {} lines of the log are no events", page.skipped));
    return 0;
}

} // namespace shale::cli
