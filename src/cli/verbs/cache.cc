// SPDX-License-Identifier: Apache-2.0
// cache top, cache evict.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <thread>

#include "base/units.h"
#include "cli/host_view.h"
#include "cli/verbs.h"
#include "doctor/page_cache.h"

namespace shale::cli {
namespace {

using Kind = doctor::CachedThing::Kind;

struct KindName {
    Kind kind;
    std::string_view name, header;
};
constexpr std::array kinds = {KindName{Kind::image, "image", "IMAGE"},
                              KindName{Kind::container, "container", "CONTAINER"},
                              KindName{Kind::layer, "layer", "LAYER"}};

HostArgs without_usage(const HostArgs &args) {
    HostArgs out = args;
    out.no_usage = true;
    return out;
}

doctor::CacheOptions options_of(GatherLine &line) {
    doctor::CacheOptions out;
    out.threads = std::max(1U, std::thread::hardware_concurrency());
    out.on_progress = [&line](uint64_t inodes) { line.show("inodes", inodes); };
    return out;
}

void print_table(const std::vector<doctor::CachedThing> &all, const KindName &kind, uint64_t most) {
    Table table({std::string(kind.header), ">RESIDENT", ">ON DISK", kind.kind == Kind::container ? ">CGROUP" : ">",
                 "STORE", "NAME"});
    uint64_t rows = 0;
    for (const auto &thing : all) {
        if (thing.kind != kind.kind || rows == most) continue;
        ++rows;
        table.add({thing.id.substr(0, 24), format_bytes(thing.resident_bytes), format_bytes(thing.bytes),
                   thing.cgroup_bytes             ? format_bytes(*thing.cgroup_bytes)
                   : kind.kind == Kind::container ? "-"
                                                  : "",
                   thing.store, thing.name});
    }
    if (!table.empty()) Context::print(table.text() + "\n");
}

} // namespace

Result<int> run(Context &context, const CacheTopArgs &args) {
    const auto view = TRY(look_at_host(context, without_usage(args.host)));
    std::vector<probe::Problem> problems;
    std::vector<doctor::CachedThing> all;
    {
        GatherLine line(!context.globals.quiet);
        all = doctor::page_cache_of(view.host, view.facts, options_of(line), problems);
    }
    for (const auto &problem : problems)
        Context::note("shale: " + printable(problem.about + ": " + problem.why));
    Json json;
    json.array();
    for (const auto &kind : kinds) {
        if (!args.by.empty() && args.by != kind.name) continue;
        if (!context.globals.json) print_table(all, kind, args.most);
        uint64_t rows = 0;
        for (const auto &thing : all) {
            if (thing.kind != kind.kind || rows++ >= args.most) continue;
            json.object()
                .field("kind", kind.name)
                .field("store", thing.store)
                .field("id", thing.id)
                .field("name", thing.name);
            json.field("resident_bytes", thing.resident_bytes).field("bytes", thing.bytes);
            if (thing.cgroup_bytes) json.field("cgroup_bytes", *thing.cgroup_bytes);
            json.end();
        }
    }
    json.end();
    if (context.globals.json) context.print(json);
    return 0;
}

Result<int> run(Context &context, const CacheEvictArgs &args) {
    const auto view = TRY(look_at_host(context, without_usage(args.host)));
    GatherLine line(!context.globals.quiet);
    const auto done = TRY(doctor::evict(view.host, view.facts, {args.layer, args.image, args.cgroup},
                                        context.globals.dry_run, options_of(line)));
    if (context.globals.json) {
        Json json;
        json.object().field("dry_run", context.globals.dry_run).field("how", done.how);
        json.field("before_bytes", done.before_bytes).field("after_bytes", done.after_bytes).end();
        context.print(json);
        return 0;
    }
    context.print(
        context.globals.dry_run
            ? fmt::format("{} are in the page cache; would use {}\n", format_bytes(done.before_bytes), done.how)
            : fmt::format("{} were in the page cache, {} are ({})\n", format_bytes(done.before_bytes),
                          format_bytes(done.after_bytes), done.how));
    return 0;
}

} // namespace shale::cli
