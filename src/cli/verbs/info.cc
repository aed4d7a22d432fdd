// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/utsname.h>

#include "base/units.h"
#include "cli/verbs.h"
#include "sys/fs.h"

namespace shale::cli {
namespace {

struct Counts {
    size_t images = 0, layers = 0, containers = 0;
};

std::string kernel() {
    utsname name{};
    return uname(&name) == 0 ? fmt::format("{} {} {}", name.sysname, name.release, name.machine) : "unknown";
}

} // namespace

Result<int> run(Context &, const VersionArgs &) {
    Context::print(fmt::format("shale {}\n", SHALE_VERSION));
    return 0;
}

Result<int> run(Context &context, const InfoArgs &) {
    // Read only: asking must not make a store, and a store in trouble must still answer.
    auto opened = context.open_store(Context::Access::read_only);
    const bool absent = !opened && !TRY(sys::stat_if_exists(AT_FDCWD, (context.settings.root + "/shale.db").c_str()));
    if (!opened && !absent) return std::unexpected(std::move(opened).error());
    Counts counts;
    std::string driver = context.settings.driver; // as asked for; of a store that exists, its own
    std::vector<drivers::Fact> facts;
    std::optional<store::SpaceReport> space;
    if (opened) {
        store::Store &store = **opened;
        driver = store.driver().name();
        counts = {TRY(store.list_images()).size(), TRY(store.list_layers()).size(),
                  TRY(store.list_containers()).size()};
        if (auto probe = store.driver().probe())
            facts = std::move(probe->facts);
        else
            facts.push_back({"probe", "failed", probe.error().text()});
        if (auto report = store.space()) space = std::move(*report);
    }
    if (context.globals.json) {
        Json json;
        json.object().field("version", SHALE_VERSION).field("kernel", kernel());
        json.field("root", context.settings.root).field("exists", !absent);
        json.key("driver");
        if (driver.empty())
            json.null();
        else
            json.value(driver);
        json.key("facts").array();
        for (const auto &fact : facts)
            json.object().field("name", fact.name).field("value", fact.value).field("reason", fact.reason).end();
        json.end();
        if (space) {
            json.field("file_system", space->file_system).field("fs_bytes", space->fs_bytes);
            json.field("fs_available", space->fs_available)
                .field("fs_inodes", space->fs_inodes)
                .field("store_bytes", space->store_bytes);
        }
        json.field("images", counts.images).field("layers", counts.layers).field("containers", counts.containers);
        json.field("durability", context.settings.durability == store::Durability::full ? "full" : "none");
        json.field("rootless", context.rootless.active).field("mapped_ids", context.rootless.ids).end();
        context.print(json);
        return 0;
    }
    if (absent)
        driver = driver.empty() ? "none yet (chosen when the store is made; see `shale drivers`)"
                                : driver + " (store not made yet)";
    std::string out = fmt::format("Root: {}{}\nDriver: {}\n", printable(context.settings.root),
                                  absent ? " (no store yet)" : "", driver);
    if (space)
        out += fmt::format("Backing file system: {}, {} of {} available\n", space->file_system,
                           format_bytes(space->fs_available), format_bytes(space->fs_bytes));
    for (const auto &fact : facts)
        out += fmt::format("  {}: {}{}\n", printable(fact.name), printable(fact.value),
                           fact.reason.empty() ? "" : fmt::format(" ({})", printable(fact.reason)));
    out += fmt::format("Images: {}\nLayers: {}\nContainers: {}\n", counts.images, counts.layers, counts.containers);
    out += fmt::format("Durability: {}\n", context.settings.durability == store::Durability::full ? "full" : "none");
    if (context.rootless.active) out += fmt::format("Rootless: yes ({} ids mapped)\n", context.rootless.ids);
    out += fmt::format("Version: {}\nKernel: {}\n", SHALE_VERSION, kernel());
    context.print(out);
    return 0;
}

Result<int> run(Context &context, const ConfigShowArgs &) {
    const Settings &s = context.settings;
    struct Row {
        std::string key, value;
        bool number = false;
    };
    std::vector<Row> rows{{"root", s.root},
                          {"driver", s.driver},
                          {"durability", s.durability == store::Durability::full ? "full" : "none"},
                          {"jobs", std::to_string(s.jobs), true},
                          {"limits.entries", std::to_string(s.limits.entries), true},
                          {"limits.layer_bytes", std::to_string(s.limits.total_bytes), true}};
    for (const auto &[key, value] : s.driver_options)
        rows.push_back({"driver_options." + key, value});
    for (const auto &[key, value] : s.guard)
        rows.push_back({"guard." + key, value});
    auto origin = [&](const std::string &key) {
        const auto found = s.origin.find(key);
        return found == s.origin.end() ? std::string("--storage-opt or file") : found->second;
    };
    if (context.globals.json) {
        Json json;
        json.object();
        for (const Row &row : rows) {
            json.key(row.key).object().key("value");
            if (row.number)
                json.raw(row.value);
            else
                json.value(row.value);
            json.field("from", origin(row.key)).end();
        }
        json.end();
        context.print(json);
        return 0;
    }
    Table table({"SETTING", "VALUE", "FROM"});
    for (const Row &row : rows)
        table.add({row.key, row.value.empty() ? "-" : row.value, origin(row.key)});
    context.print(table);
    return 0;
}

} // namespace shale::cli
