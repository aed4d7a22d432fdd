// SPDX-License-Identifier: Apache-2.0
#include "guard/config.h"

#include <algorithm>
#include <span>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "doctor/toml_json.h"
#include "guard/config_values.h"

namespace shale::guard {
namespace {

using Json = nlohmann::json;

/// One option: what people read about it, and how it is read and written. The default is what `get` gives of a Config
/// that nothing was read into.
template <class Table> struct Row {
    std::string_view key, unit, text;
    bool by_kind;
    bool (*is_of)(Kind kind);
    Status (*set)(const Json &value, Kind kind, Table &out);
    std::string (*get)(const Table &from, Kind kind);
};

constexpr auto any_kind = [](Kind) { return true; };
constexpr uint64_t anything = ~uint64_t{0};

constexpr std::array guard_rows{
    Row<Config>{
        "enabled", "true or false",
        "Whether shaled watches anything. What harms nobody is done by default: crossings are logged and garbage "
        "is collected.",
        false, any_kind, [](const Json &value, Kind, Config &out) { return read(value, out.enabled); },
        [](const Config &from, Kind) { return fmt::format("{}", from.enabled); }},
    Row<Config>{"dry_run", "true or false", "Nothing is done; what would be done is an event.", false, any_kind,
                [](const Json &value, Kind, Config &out) { return read(value, out.dry_run); },
                [](const Config &from, Kind) { return fmt::format("{}", from.dry_run); }},
    Row<Config>{"interval_s", "seconds, 1 to 3600",
                "Between two looks at everything. kubelet and dmeventd look every 10 seconds, too.", false, any_kind,
                [](const Json &value, Kind, Config &out) { return read_seconds(value, 1, 3600, out.interval); },
                [](const Config &from, Kind) { return seconds_text(from.interval); }},
    Row<Config>{"warn_within_s", "seconds, 0 to 2592000",
                "An event when a resource will be full within that time, if it goes on as it does. 0: none.", false,
                any_kind,
                [](const Json &value, Kind, Config &out) { return read_seconds(value, 0, 2'592'000, out.warn_within); },
                [](const Config &from, Kind) { return seconds_text(from.warn_within); }},
    Row<Config>{"event_log_size", "size, 64K to 1G",
                "The log of events (ROOT/guard/events.jsonl) is begun anew at that size; the one before is kept.",
                false, any_kind,
                [](const Json &value, Kind, Config &out) {
                    return read_size(value, uint64_t{64} << 10U, uint64_t{1} << 30U, out.event_log_bytes);
                },
                [](const Config &from, Kind) { return size_text(from.event_log_bytes); }},
    Row<Config>{"throttle_write_bps", "size a second, 4K to 1T",
                "The tier throttle: so much each container that is not critical may write to each device of the "
                "resource. One with a lower limit of its own keeps that.",
                false, any_kind,
                [](const Json &value, Kind, Config &out) {
                    return read_size(value, uint64_t{4} << 10U, uint64_t{1} << 40U, out.throttle_write_bps);
                },
                [](const Config &from, Kind) { return size_text(from.throttle_write_bps); }},
    Row<Config>{"evict_grace_s", "seconds, 0 to 300",
                "The tier evict: between SIGTERM to the first process of the container and the end of all of them.",
                false, any_kind,
                [](const Json &value, Kind, Config &out) { return read_seconds(value, 0, 300, out.evict_grace); },
                [](const Config &from, Kind) { return seconds_text(from.evict_grace); }},
    Row<Config>{"extend_percent", "percent of what there is, 1 to 100",
                "The tier extend: so much a store's own thin pool grows at once, its data or its metadata.", false,
                any_kind,
                [](const Json &value, Kind, Config &out) { return read_percent(value, 1, 100, out.extend_percent); },
                [](const Config &from, Kind) { return fmt::format("{}", from.extend_percent); }},
    Row<Config>{"extend_max", "size; 0: none, and extend cannot be turned on",
                "To which the data of a pool grows at most.", false, any_kind,
                [](const Json &value, Kind, Config &out) { return read_size(value, 0, anything, out.extend_max); },
                [](const Config &from, Kind) { return size_text(from.extend_max); }},
};

constexpr uint64_t week_s = 7 * 86'400;

constexpr std::array kind_rows{
    Row<KindConfig>{"enabled", "true or false", "Whether resources of this kind are watched.", false, any_kind,
                    [](const Json &value, Kind, KindConfig &out) { return read(value, out.enabled); },
                    [](const KindConfig &from, Kind) { return fmt::format("{}", from.enabled); }},
    Row<KindConfig>{"high", "percent in use, 1 to 100",
                    "The mark at which the guard begins: all tiers that stand at it by default move with it.", true,
                    any_kind,
                    [](const Json &value, Kind, KindConfig &out) { return read_percent(value, 1, 100, out.high); },
                    [](const KindConfig &from, Kind) { return fmt::format("{}", from.high); }},
    Row<KindConfig>{
        "hysteresis", "points, 0 to 50",
        "So far below a mark use has to fall before the mark counts as left, and may act again.", false, any_kind,
        [](const Json &value, Kind, KindConfig &out) { return read_percent(value, 0, 50, out.marks.hysteresis); },
        [](const KindConfig &from, Kind) { return fmt::format("{}", from.marks.hysteresis); }},
    Row<KindConfig>{
        "min_space", "size; 0: none",
        "What is to stay free, whatever the marks: with less, each tier but throttle and evict begins. On "
        "small disks it is at most 20 % of the disk.",
        true, counts_bytes,
        [](const Json &value, Kind, KindConfig &out) { return read_size(value, 0, anything, out.marks.min_free); },
        [](const KindConfig &from, Kind) { return size_text(from.marks.min_free); }},
    Row<KindConfig>{
        "min_reclaim", "size, or how many; 0: nothing",
        "What frees less has failed, and is tried again later and later. On small disks it is at most 1 % of "
        "the disk.",
        true, any_kind,
        [](const Json &value, Kind kind, KindConfig &out) {
            return counts_bytes(kind) ? read_size(value, 0, anything, out.marks.min_reclaim)
                                      : read_number(value, 0, anything, out.marks.min_reclaim);
        },
        [](const KindConfig &from, Kind) { return size_text(from.marks.min_reclaim); }},
    Row<KindConfig>{
        "cool_down_s", "seconds, 0 to 604800",
        "Between the end of an action and the next one at the same mark. What worked and was not enough is "
        "done again after it.",
        false, any_kind,
        [](const Json &value, Kind, KindConfig &out) { return read_seconds(value, 0, week_s, out.marks.cool_down); },
        [](const KindConfig &from, Kind) { return seconds_text(from.marks.cool_down); }},
    Row<KindConfig>{
        "back_off_s", "seconds, 0 to 604800", "After an action that failed; doubled with every failure that follows.",
        false, any_kind,
        [](const Json &value, Kind, KindConfig &out) { return read_seconds(value, 0, week_s, out.marks.back_off); },
        [](const KindConfig &from, Kind) { return seconds_text(from.marks.back_off); }},
    Row<KindConfig>{"back_off_limit_s", "seconds, 0 to 604800", "To which the wait after failures grows.", false,
                    any_kind,
                    [](const Json &value, Kind, KindConfig &out) {
                        return read_seconds(value, 0, week_s, out.marks.back_off_limit);
                    },
                    [](const KindConfig &from, Kind) { return seconds_text(from.marks.back_off_limit); }},
    Row<KindConfig>{
        "patience_s", "seconds, 0 to 604800",
        "So long evict waits for milder actions that run, before containers are ended.", false, any_kind,
        [](const Json &value, Kind, KindConfig &out) { return read_seconds(value, 0, week_s, out.marks.patience); },
        [](const KindConfig &from, Kind) { return seconds_text(from.marks.patience); }},
    Row<KindConfig>{
        "tiers", "table of tiers: true, false, a mark in percent, or a list of marks",
        "What is done at which mark. true: at the mark it has by default; false: never, and not even logged. "
        "A tier that is off and not named is logged at its mark.",
        true, any_kind, [](const Json &value, Kind kind, KindConfig &out) { return read_tiers(value, kind, out); },
        [](const KindConfig &, Kind kind) { return tiers_text(kind); }},
};

template <class Table> std::vector<std::string_view> keys_of(std::span<const Row<Table>> rows, Kind kind) {
    std::vector<std::string_view> out;
    for (const auto &row : rows)
        if (row.is_of(kind)) out.push_back(row.key);
    return out;
}

/// nullopt: no row has that key.
template <class Table>
std::optional<Status> take(std::span<const Row<Table>> rows, std::string_view where, const std::string &key,
                           const Json &value, Kind kind, Table &out) {
    for (const auto &row : rows)
        if (row.key == key && row.is_of(kind))
            return in_context(row.set(value, kind, out), [&] { return fmt::format("{}.{}", where, key); });
    return std::nullopt;
}

Status read_kind(const Json &table, Kind kind, KindConfig &out) {
    const std::string where = fmt::format("guard.{}", name_of(kind));
    if (!table.is_object()) return fail(Errc::InvalidArgument, fmt::format("{0} must be a table [{0}]", where));
    const std::span<const Row<KindConfig>> rows(kind_rows);
    for (const auto &[key, value] : table.items()) {
        const auto taken = take(rows, where, key, value, kind, out);
        if (!taken) return unknown_key(key, where, keys_of(rows, kind));
        TRY(*taken);
    }
    return {};
}

Status read_folklore(const Json &table, Config &out) {
    if (!table.is_object()) return fail(Errc::InvalidArgument, "guard.overlay2 has min_space and hysteresis");
    for (const auto &[key, value] : table.items())
        TRY(in_context(take_folklore(out, key, value.is_string() ? value.get<std::string>() : value.dump()),
                       [] { return "guard"; }));
    return {};
}

Status read_member(const std::string &key, const Json &value, Config &out) {
    constexpr std::string_view folklore = "overlay2";
    const std::span<const Row<Config>> rows(guard_rows);
    if (const auto taken = take(rows, "guard", key, value, Kind::bytes, out)) return *taken;
    if (const auto kind = kind_named(key)) return read_kind(value, *kind, out.of(*kind));
    if (key == folklore) return read_folklore(value, out);
    if (key.starts_with("overlay2.")) return read_folklore(Json::object({{key, value}}), out); // a key in quotes
    auto known = keys_of(rows, Kind::bytes);
    for (const KindName &kind : kind_names)
        known.push_back(kind.name);
    return unknown_key(key, "guard", known);
}

template <class Table>
std::vector<Option> options_of(std::span<const Row<Table>> rows, Kind kind, const Table &defaults) {
    std::vector<Option> out;
    for (const auto &row : rows)
        if (row.is_of(kind)) out.push_back({row.key, row.unit, row.text, row.get(defaults, kind), row.by_kind});
    return out;
}

/// Comment lines of at most 100 bytes.
void add_comment(std::string_view text, std::string &out) {
    constexpr size_t width = 100;
    while (!text.empty()) {
        size_t end = std::min(text.size(), width);
        if (end < text.size()) end = text.rfind(' ', end);
        if (end == std::string_view::npos || end == 0) end = text.size();
        fmt::format_to(std::back_inserter(out), "# {}\n", text.substr(0, end));
        text.remove_prefix(std::min(text.size(), end + 1));
    }
}

} // namespace

Config::Config() {
    for (const auto &[kind, name] : kind_names) {
        const KindDefaults &defaults = kind_defaults(kind);
        KindConfig &out = of(kind);
        out.high = defaults.high;
        out.marks.min_free = defaults.min_free;
        out.marks.min_reclaim = defaults.min_reclaim;
    }
}

Result<Config> read_config(const Json &table) {
    if (!table.is_object()) return fail(Errc::InvalidArgument, "guard must be a table [guard]");
    Config out;
    for (const auto &[key, value] : table.items())
        TRY(read_member(key, value, out));
    if (const auto wrong = contradictions(out); !wrong.empty())
        return fail(Errc::InvalidArgument,
                    fmt::format("{}: {} ({})", wrong.front().key, wrong.front().text, wrong.front().name));
    return out;
}

Result<Config> parse_config(std::string_view text, std::string_view file) {
    const auto context = [&] { return std::string(file); };
    const auto document = TRY(in_context(doctor::parse_toml(text), context));
    const Json *table = doctor::toml_at(document, {"guard"});
    return table == nullptr ? Config() : in_context(read_config(*table), context);
}

Status take_folklore(Config &config, std::string_view key, std::string_view value) {
    constexpr std::string_view prefix = "overlay2.";
    const std::string_view name = key.starts_with(prefix) ? key.substr(prefix.size()) : key;
    const auto context = [&] { return fmt::format("{}{}", prefix, name); };
    if (name == "min_space") {
        if (value.ends_with('%'))
            return fail(Errc::InvalidArgument,
                        fmt::format("{}: {} is no size like 10G; a percentage is a mark: [guard.bytes] high", context(),
                                    value));
        return in_context(read_size(value, 0, anything, config.of(Kind::bytes).marks.min_free), context);
    }
    if (name == "hysteresis") {
        TRY(in_context(read_percent(value, 0, 50, config.of(Kind::bytes).marks.hysteresis), context));
        config.of(Kind::inodes).marks.hysteresis = config.of(Kind::bytes).marks.hysteresis;
        return {};
    }
    return unknown_key(name, "overlay2", std::array<std::string_view, 2>{"min_space", "hysteresis"});
}

std::vector<Option> options() {
    return options_of<Config>(guard_rows, Kind::bytes, Config());
}

std::vector<Option> options(Kind kind) {
    return options_of<KindConfig>(kind_rows, kind, Config().of(kind));
}

std::string example_toml() {
    std::string out = "#[guard]\n";
    const auto add = [&](const Option &option, bool told) {
        if (!told) add_comment(fmt::format("{} ({})", option.text, option.unit), out);
        fmt::format_to(std::back_inserter(out), "#{} = {}\n", option.key, option.fallback);
    };
    for (const Option &option : options())
        add(option, false);
    for (const auto &[kind, name] : kind_names) {
        fmt::format_to(std::back_inserter(out), "\n#[guard.{}]\n", name);
        if (const std::string off = off_text(kind); !off.empty()) add_comment(off, out);
        for (const Option &option : options(kind))
            if (option.by_kind || kind == Kind::bytes) add(option, kind != Kind::bytes);
    }
    return out;
}

} // namespace shale::guard
