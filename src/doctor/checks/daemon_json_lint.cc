// SPDX-License-Identifier: Apache-2.0
// daemon-json-lint: what dockerd will refuse, pass over in silence, or contradict itself with.
#include <algorithm>
#include <array>
#include <expected>
#include <set>
#include <span>

#include <fmt/format.h>

#include "base/text.h"
#include "doctor/checks/common.h"
#include "doctor/checks/docker_config.h"
#include "doctor/checks/docker_options.h"
#include "oci/json.h"

namespace shale::doctor::checks {
namespace {

using oci::Json;

constexpr size_t most_members = 1000; ///< of the file that are looked at

enum class Effect : uint8_t {
    none,    ///< passed over
    later,   ///< this dockerd takes it; a newer one does not start on it
    refused, ///< dockerd does not start on the file
};
struct Remark {
    Effect effect;
    std::string text;
};
using Remarks = std::vector<Remark>;

/// What a file is judged by.
struct Case {
    const probe::Facts &facts;
    std::vector<const probe::Store *> stores; ///< of its dockerd
    DockerConfig config;                      ///< with the command line
    int major;                                ///< version of its dockerd, 0: not known
};

std::string brief(const Json &value) {
    return shown(value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

// ---------------------------------------------------------------------------------------------------------- the text

/// Where the text stops to be JSON, and keys that occur twice, of which Go takes the last.
class Reader : public nlohmann::json_sax<Json> {
public:
    bool null() override { return true; }
    bool boolean(bool /*value*/) override { return true; }
    bool number_integer(number_integer_t /*value*/) override { return true; }
    bool number_unsigned(number_unsigned_t /*value*/) override { return true; }
    bool number_float(number_float_t /*value*/, const string_t & /*text*/) override { return true; }
    bool string(string_t & /*value*/) override { return true; }
    bool binary(binary_t & /*value*/) override { return true; }
    bool start_object(std::size_t /*elements*/) override { return enter(); }
    bool end_object() override { return leave(); }
    bool start_array(std::size_t /*elements*/) override { return enter(); }
    bool end_array() override { return leave(); }
    bool key(string_t &name) override {
        if (!keys_.back().insert(name).second) twice.insert(name);
        return true;
    }
    bool parse_error(std::size_t position, const std::string & /*token*/,
                     const nlohmann::detail::exception &) override {
        stopped_at = position;
        return false;
    }

    std::set<std::string> twice;
    std::size_t stopped_at = 0;
    bool too_deep = false;

private:
    bool enter() {
        keys_.emplace_back();
        too_deep = keys_.size() > oci::max_json_depth;
        return !too_deep;
    }
    bool leave() {
        keys_.pop_back();
        return true;
    }
    std::vector<std::set<std::string>> keys_; ///< of every level; none of an array's
};

std::string place_of(std::string_view text, size_t position) {
    const std::string_view before = text.substr(0, std::min(position == 0 ? 0 : position - 1, text.size()));
    const auto line = std::ranges::count(before, '\n') + 1;
    const size_t begin = before.rfind('\n');
    return fmt::format("line {}, column {}", line,
                       before.size() - (begin == std::string_view::npos ? 0 : begin + 1) + 1);
}

// ---------------------------------------------------------------------------------------------------------- the types

bool all_are(const Json &value, bool (Json::*is)() const noexcept) {
    return std::ranges::all_of(value, [&](const Json &one) { return (one.*is)(); });
}

/// encoding/json of Go: null is taken by every kind.
bool has_kind(const Json &value, JsonKind kind) {
    if (value.is_null()) return true;
    switch (kind) {
    case JsonKind::boolean:
        return value.is_boolean();
    case JsonKind::integer:
        return value.is_number_integer();
    case JsonKind::text:
        return value.is_string();
    case JsonKind::texts:
        return value.is_array() && all_are(value, &Json::is_string);
    case JsonKind::text_map:
        return value.is_object() && all_are(value, &Json::is_string);
    case JsonKind::flag_map:
        return value.is_object() && all_are(value, &Json::is_boolean);
    case JsonKind::list:
        return value.is_array();
    case JsonKind::object:
        break;
    }
    return value.is_object();
}

// ----------------------------------------------------------------------------------------------------------- the keys

void judge_unknown_key(const std::string &key, const Json &value, Remarks &out) {
    if (value.is_object()) {
        // dockerd looks at the members of such an object as if they stood outside (config.go, configValuesSet).
        const auto known = [](const auto &member) {
            return daemon_key(member.key()) != nullptr || flag_name(member.key()) != nullptr;
        };
        const auto items = value.items();
        const auto unknown = std::find_if_not(items.begin(), items.end(), known);
        out.push_back(
            unknown == items.end()
                ? Remark{Effect::none, fmt::format("\"{}\": does nothing, dockerd has no such table", shown(key))}
                : Remark{Effect::refused,
                         fmt::format("\"{}.{}\": dockerd knows no such key", shown(key), shown(unknown.key()))});
        return;
    }
    std::vector<std::string_view> names;
    for (const DaemonKey &known : daemon_keys())
        names.push_back(known.name);
    const std::string near = nearest(key, names);
    out.push_back({Effect::refused, fmt::format("\"{}\": dockerd knows no such key{}", shown(key),
                                                near.empty() ? "" : fmt::format("; \"{}\" is one", near))});
}

void judge_key(const std::string &key, const Json &value, int major, Remarks &out) {
    if (const FlagName *flag = flag_name(key); flag != nullptr && daemon_key(key) == nullptr) {
        out.push_back(
            {Effect::none, flag->key.empty()
                               ? fmt::format("\"{}\": a flag of dockerd, which does nothing in the file", key)
                               : fmt::format("\"{}\": does nothing; the file calls it \"{}\"", key, flag->key)});
        return;
    }
    if (const GoneKey *gone = gone_key(key)) {
        const bool refuses = gone->refused_since != 0 && major >= gone->refused_since;
        out.push_back({gone->refused_since == 0 ? Effect::none
                       : refuses                ? Effect::refused
                                                : Effect::later,
                       gone->refused_since == 0 ? fmt::format("\"{}\": {}", key, gone->what)
                                                : fmt::format("\"{}\": Docker {} and later do not have it; {}", key,
                                                              gone->refused_since, gone->what)});
        return;
    }
    const DaemonKey *known = daemon_key(key);
    if (known == nullptr) {
        judge_unknown_key(key, value, out);
    } else if (!has_kind(value, known->kind)) {
        out.push_back(
            {Effect::refused, fmt::format("\"{}\" must be {}, not {}", key, name_of(known->kind), brief(value))});
    }
}

/// Members that dockerd looks at below "builder"; it passes over others (moby, daemon/config/builder.go).
void judge_builder(const Json &file, Remarks &out) {
    constexpr auto of_builder = std::to_array<std::string_view>({"gc", "entitlements", "history", "proxy-network"});
    constexpr auto of_gc =
        std::to_array<std::string_view>({"enabled", "policy", "defaultkeepstorage", "defaultreservedspace",
                                         "defaultmaxusedspace", "defaultminfreespace"});
    const auto judge = [&out](std::string_view where, const Json &object, std::span<const std::string_view> known) {
        if (!object.is_object()) return;
        for (auto it = object.begin(); it != object.end(); ++it) {
            std::string name = it.key();
            std::ranges::transform(name, name.begin(),
                                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
            if (std::ranges::find(known, name) == known.end())
                out.push_back({Effect::none, fmt::format("\"{}.{}\": does nothing, there is no such member", where,
                                                         shown(it.key()))});
        }
    };
    const Json *builder = oci::find_member(file, "builder");
    if (builder == nullptr) return;
    judge("builder", *builder, of_builder);
    for (const char *gc : {"gc", "GC"})
        if (const Json *object = oci::find_member(*builder, gc)) judge("builder.gc", *object, of_gc);
}

/// moby, daemon/logger/jsonfilelog, local and loggerutils/cache (ValidateLogOpt); general ones in
/// daemon/logger/factory.go.
void judge_log_options(const Case &the, const Json &file, Remarks &out) {
    constexpr auto general = std::to_array<std::string_view>(
        {"mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"});
    constexpr auto of_local = std::to_array<std::string_view>({"max-file", "max-size", "compress"});
    constexpr auto of_json_file = std::to_array<std::string_view>(
        {"max-file", "max-size", "compress", "labels", "labels-regex", "env", "env-regex", "tag"});
    const Json *driver = oci::find_member(file, "log-driver");
    const std::string *flag = value_of(the.config.flags, "log-driver");
    const std::string name = driver != nullptr && driver->is_string() ? driver->get<std::string>()
                             : flag != nullptr                        ? *flag
                                                                      : "json-file";
    const Json *options = oci::find_member(file, "log-opts");
    if (options == nullptr || !options->is_object() || (name != "json-file" && name != "local")) return;
    const std::span<const std::string_view> known =
        name == "local" ? std::span<const std::string_view>(of_local) : std::span<const std::string_view>(of_json_file);
    for (auto it = options->begin(); it != options->end(); ++it)
        if (std::ranges::find(known, it.key()) == known.end() && std::ranges::find(general, it.key()) == general.end())
            out.push_back({Effect::refused,
                           fmt::format("\"log-opts\": the log driver {} has no option \"{}\"", name, shown(it.key()))});
}

// -------------------------------------------------------------------------------------------------------- the storage

bool feature(const Json &file, const char *name) {
    const Json *features = oci::find_member(file, "features");
    const Json *value = features == nullptr ? nullptr : oci::find_member(*features, name);
    return value != nullptr && value->is_boolean() && value->get<bool>();
}

/// The driver whose options count: the file's, else the command line's, else the one of the store that is in use.
std::string driver_in_use(const Case &the) {
    if (!the.config.storage_driver.empty()) return the.config.storage_driver;
    for (const auto *store : the.stores)
        if (store->running) return store->driver;
    return the.stores.size() == 1 ? the.stores[0]->driver : std::string();
}

Effect effect_of(OptionUse use) {
    return use == OptionUse::refused ? Effect::refused : Effect::later;
}

/// "overlay2.size" takes project quota of the file system below (moby, daemon/graphdriver/overlay2/overlay.go, Init).
/// It shows while it is mounted as dockerd has it, and to root.
void judge_overlay_size(const Case &the, const std::string &option, Remarks &out) {
    if (!option.starts_with("overlay2.size=") || !the.facts.live || !the.facts.privileged) return;
    for (const auto *store : the.stores) {
        if (store->driver != "overlay2") continue;
        const auto *fs = file_system_of(the.facts, *store);
        if (fs != nullptr && fs->project_quota.empty())
            out.push_back(
                {Effect::refused, fmt::format("\"{}\": {} ({}) has no project quota; XFS wants the mount option pquota",
                                              shown(option), shown(fs->target), shown(fs->type))});
    }
}

void judge_storage(const Case &the, const Json &file, Remarks &out) {
    const bool by_containerd = feature(file, "containerd-snapshotter");
    const Json *driver = oci::find_member(file, "storage-driver");
    if (driver != nullptr && driver->is_string() && !by_containerd && the.major < 29) {
        const auto verdict = judge_driver_name(driver->get_ref<const std::string &>(), the.major);
        if (verdict.use != OptionUse::known)
            out.push_back(
                {effect_of(verdict.use), fmt::format("\"storage-driver\": {}: {}", brief(*driver), verdict.why)});
    }
    const Json *options = oci::find_member(file, "storage-opts");
    const std::string in_use = driver_in_use(the);
    if (options == nullptr || !options->is_array() || in_use.empty()) return;
    for (const Json &option : *options) {
        if (!option.is_string()) continue;
        const auto &text = option.get_ref<const std::string &>();
        if (by_containerd) {
            out.push_back({Effect::none, fmt::format("\"{}\": options of storage drivers do nothing with the feature "
                                                     "containerd-snapshotter",
                                                     shown(text))});
            continue;
        }
        const auto verdict = judge_storage_option(text, in_use, the.major);
        if (verdict.use != OptionUse::known)
            out.push_back({effect_of(verdict.use), fmt::format("\"{}\": {}", shown(text), verdict.why)});
        else
            judge_overlay_size(the, text, out);
    }
}

// -------------------------------------------------------------------------------------------------- contradictions

bool swarm_is_active(const Case &the) {
    return std::ranges::any_of(the.stores, [](const probe::Store *store) {
        const std::string *swarm = value_of(store->settings, "swarm");
        return swarm != nullptr && *swarm == "active";
    });
}

/// dockerd refuses what is said twice (moby, daemon/config/config.go, findConfigurationConflicts).
void judge_contradictions(const Case &the, const Json &file, Remarks &out) {
    const Json *live_restore = oci::find_member(file, "live-restore");
    if (live_restore != nullptr && live_restore->is_boolean() && live_restore->get<bool>() && swarm_is_active(the))
        out.push_back({Effect::refused, "\"live-restore\": this node is in a swarm, and a swarm does not go with it"});
    for (const auto &[key, value] : the.config.flags)
        if (key != "runtimes" && oci::find_member(file, key.c_str()) != nullptr)
            out.push_back(
                {Effect::refused,
                 fmt::format("\"{}\": the running dockerd has it on its command line{}, and refuses it in both places",
                             shown(key), key == "proxies" || value.empty() ? "" : fmt::format(" ({})", shown(value)))});
    if (oci::find_member(file, "host-gateway-ip") != nullptr && oci::find_member(file, "host-gateway-ips") != nullptr)
        out.push_back({Effect::refused, "\"host-gateway-ip\" and \"host-gateway-ips\" exclude each other"});
}

/// The error: why nothing is said.
std::expected<Remarks, std::string> judge(const probe::Facts &facts, const probe::ConfigFile &file) {
    Remarks out;
    if (file.text.find_first_not_of(" \t\r\n") == std::string::npos) return out;
    Reader reader;
    const bool complete = Json::sax_parse(file.text, &reader);
    if (reader.too_deep) return std::unexpected(fmt::format("nested more than {} deep", oci::max_json_depth));
    if (!complete)
        return Remarks{
            {Effect::refused, fmt::format("it is no JSON from {} on", place_of(file.text, reader.stopped_at))}};
    const Json document = Json::parse(file.text.begin(), file.text.end(), nullptr, false);
    if (!document.is_object())
        return Remarks{{Effect::refused, fmt::format("it is no JSON object: {}", brief(document))}};
    const Json *options = oci::find_member(document, "storage-opts");
    if (document.size() > most_members || (options != nullptr && options->size() > most_members))
        return std::unexpected(fmt::format("more than {} keys or options", most_members));
    for (const std::string &key : reader.twice)
        out.push_back(
            {Effect::none, fmt::format("\"{}\" occurs twice in one object: the last one counts", shown(key))});
    const Case the{facts, stores_of(facts, file), docker_config(&file, daemon_of(facts, file)),
                   docker_major(stores_of(facts, file))};
    for (auto it = document.begin(); it != document.end(); ++it)
        judge_key(it.key(), it.value(), the.major, out);
    judge_builder(document, out);
    judge_log_options(the, document, out);
    judge_storage(the, document, out);
    judge_contradictions(the, document, out);
    return out;
}

// ---------------------------------------------------------------------------------------------------------- the words

void add_finding(const probe::ConfigFile &file, const Remarks &remarks, Effect effect, Outcome &out) {
    std::vector<std::string> lines;
    for (const Remark &remark : remarks)
        if (remark.effect == effect) lines.push_back(remark.text);
    if (lines.empty()) return;
    Finding &finding = out.findings.emplace_back();
    finding.subject = shown(file.path);
    switch (effect) {
    case Effect::refused:
        finding.severity = Severity::critical;
        finding.summary = fmt::format("dockerd does not start on this file: {}", lines[0]);
        break;
    case Effect::later:
        finding.severity = Severity::warning;
        finding.summary = fmt::format("a newer dockerd does not start on this file: {}", lines[0]);
        break;
    case Effect::none:
        finding.severity = Severity::info;
        finding.summary = fmt::format("dockerd passes over a part of this file: {}", lines[0]);
        break;
    }
    lines.erase(lines.begin());
    finding.evidence = limited(std::move(lines));
    finding.commands = {"# edit the file, then look before the daemon does (Docker 23 and later):",
                        fmt::format("dockerd --validate --config-file {}", shell_quote(file.path)),
                        "systemctl restart docker"};
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &file : facts.config_files) {
        if (file.kind != daemon_json_kind) continue;
        const auto remarks = judge(facts, file);
        if (!remarks) {
            out.unable.push_back(fmt::format("{}: {}", shown(file.path), remarks.error()));
            continue;
        }
        for (const Effect effect : {Effect::refused, Effect::later, Effect::none})
            add_finding(file, *remarks, effect, out);
    }
    return out;
}

} // namespace

extern const Check daemon_json_lint;
const Check daemon_json_lint{
    .id = "daemon-json-lint",
    .title = "Docker's daemon.json has lines that dockerd refuses or passes over",
    .why =
        "dockerd does not start when the file has an unknown key, a value of the wrong type, an option that its "
        "storage "
        "driver does not have, or something that the command line says as well; a running one does not notice before "
        "its next start, which is then in the middle of an upgrade or a reboot. What it knows by another name it "
        "passes "
        "over without a word: \"registry-mirror\" sets no mirror, \"storage-opt\" no option.",
    .limits =
        "Critical: the dockerd that is installed (by its version; any, when that is not known) does not start. "
        "Warning: "
        "a newer one does not. Information: of no effect. Keys, types and storage options are those of moby 20.10 to "
        "29 (daemon/config, cmd/dockerd, daemon/graphdriver/*); what is gone since when is from docker/cli, "
        "docs/deprecated.md.",
    .remedy = "Take the line out, or write it as dockerd has it.",
    .risk =
        "A restart of dockerd stops the containers, unless live-restore is on. An option that goes may have been there "
        "for a reason.",
    .undo = "Put the old file back.",
    .run = run,
};

} // namespace shale::doctor::checks
