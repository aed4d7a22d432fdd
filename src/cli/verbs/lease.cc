// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <charconv>

#include "base/units.h"
#include "cli/verbs.h"

namespace shale::cli {
namespace {

/// "90s", "15m", "24h", "7d" in nanoseconds.
Result<int64_t> parse_duration(std::string_view text) {
    int64_t count = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    int64_t unit = 0;
    if (error == std::errc{} && end + 1 == text.data() + text.size()) {
        switch (*end) {
        case 's':
            unit = 1;
            break;
        case 'm':
            unit = 60;
            break;
        case 'h':
            unit = 3'600;
            break;
        case 'd':
            unit = 86'400;
            break;
        default:
            break;
        }
    }
    if (unit == 0 || count <= 0 || count > 36'500 * int64_t{86'400} / unit)
        return fail(Errc::InvalidArgument,
                    fmt::format("--expires \"{}\" must be written like 90s, 15m, 24h or 7d", text));
    return count * unit * 1'000'000'000;
}

} // namespace

Result<int> run(Context &context, const LeaseCreateArgs &args) {
    std::optional<int64_t> expires;
    if (!args.expires.empty()) expires = TRY(parse_duration(args.expires));
    auto store = TRY(context.open_store());
    const std::string id = TRY(store->create_lease(args.id, expires));
    for (const std::string &ref : args.refs)
        if (auto added = store->add_lease_ref(id, ref); !added) {
            (void)store->delete_lease(id); // a lease that protects half of what was asked is none
            return std::unexpected(std::move(added).error());
        }
    if (context.globals.json) {
        Json json;
        json.object().field("id", id).end();
        context.print(json);
    } else {
        context.print(printable(id) + "\n");
    }
    return 0;
}

Result<int> run(Context &context, const LeaseLsArgs &) {
    auto store = TRY(context.open_store());
    const auto leases = TRY(store->list_leases());
    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto &lease : leases) {
            json.object().field("id", lease.id).field("created", format_time_ns(lease.created_ns)).key("expires");
            if (lease.expires_ns == 0)
                json.null();
            else
                json.value(format_time_ns(lease.expires_ns));
            json.key("refs").strings(lease.refs).end();
        }
        json.end();
        context.print(json);
        return 0;
    }
    if (context.globals.quiet) {
        for (const auto &lease : leases)
            context.print(printable(lease.id) + "\n");
        return 0;
    }
    Table table({"LEASE ID", "CREATED", "EXPIRES", "REFS"});
    for (const auto &lease : leases)
        table.add({lease.id, ago(lease.created_ns), lease.expires_ns == 0 ? "never" : format_time_ns(lease.expires_ns),
                   fmt::format("{}", fmt::join(lease.refs, " "))});
    context.print(table);
    return 0;
}

Result<int> run(Context &context, const LeaseRmArgs &args) {
    auto store = TRY(context.open_store());
    for (const std::string &id : args.ids) {
        if (!context.globals.dry_run) TRY(store->delete_lease(id));
        if (!context.globals.json)
            context.print(fmt::format("{}{}\n", context.globals.dry_run ? "would remove " : "", printable(id)));
    }
    if (context.globals.json) {
        Json json;
        json.object().field("dry_run", context.globals.dry_run).key("removed").strings(args.ids).end();
        context.print(json);
    }
    return 0;
}

} // namespace shale::cli
