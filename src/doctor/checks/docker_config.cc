// SPDX-License-Identifier: Apache-2.0
#include "doctor/checks/docker_config.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "doctor/checks/common.h"
#include "doctor/checks/docker_options.h"
#include "oci/json.h"

namespace shale::doctor::checks {
namespace {

using oci::Json;

constexpr std::string_view system_config = "/etc/docker/daemon.json";

std::string text_member(const Json &object, const char *key) {
    const auto *value = oci::find_member(object, key);
    const auto *text = value == nullptr ? nullptr : value->get_ptr<const std::string *>();
    return text == nullptr ? std::string() : *text;
}

/// Go takes the names of members in upper and lower case alike (encoding/json).
const Json *any_case(const Json &object, std::string_view key) {
    if (!object.is_object()) return nullptr;
    for (auto it = object.begin(); it != object.end(); ++it) {
        const std::string &name = it.key();
        if (std::ranges::equal(name, key, [](char a, char b) { return (a | 0x20) == (b | 0x20); })) return &it.value();
    }
    return nullptr;
}

std::string first_text(const Json &object, std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names)
        if (const Json *value = any_case(object, name); value != nullptr && value->is_string())
            if (const auto &text = value->get_ref<const std::string &>(); !text.empty()) return text;
    return {};
}

std::optional<BuilderCollection> builder_of(const Json &file, const std::string &origin) {
    const Json *builder = oci::find_member(file, "builder");
    const Json *gc = builder == nullptr ? nullptr : any_case(*builder, "gc");
    if (gc == nullptr || !gc->is_object()) return std::nullopt;
    BuilderCollection out;
    out.origin = origin;
    const Json *enabled = any_case(*gc, "enabled");
    out.enabled = enabled == nullptr || !enabled->is_boolean() || enabled->get<bool>();
    out.reserved = first_text(*gc, {"defaultReservedSpace", "defaultKeepStorage"});
    out.most_used = first_text(*gc, {"defaultMaxUsedSpace"});
    out.least_free = first_text(*gc, {"defaultMinFreeSpace"});
    // Rules go one after the other; the last one is the widest (moby, daemon/config/builder.go).
    if (const Json *policy = any_case(*gc, "policy"); policy != nullptr && policy->is_array() && !policy->empty()) {
        const Json &rule = policy->back();
        if (const std::string text = first_text(rule, {"reservedSpace", "keepStorage"}); !text.empty())
            out.reserved = text;
        if (const std::string text = first_text(rule, {"maxUsedSpace"}); !text.empty()) out.most_used = text;
        if (const std::string text = first_text(rule, {"minFreeSpace"}); !text.empty()) out.least_free = text;
    }
    return out;
}

void read_file(const probe::ConfigFile &file, DockerConfig &out) {
    out.origin = file.path;
    const Json document = Json::parse(file.text.begin(), file.text.end(), nullptr, false);
    if (!document.is_object()) return;
    out.storage_driver = text_member(document, "storage-driver");
    if (const auto *options = oci::find_member(document, "storage-opts"); options != nullptr && options->is_array())
        for (const Json &option : *options)
            if (option.is_string()) out.storage_opts.push_back(option.get<std::string>());
    out.builder = builder_of(document, file.path);
}

/// Long name of a short flag (cmd/dockerd/options.go, config_unix.go).
std::string_view long_flag(char letter) {
    constexpr auto letters = std::to_array<std::pair<char, std::string_view>>({{'D', "debug"},
                                                                               {'G', "group"},
                                                                               {'H', "host"},
                                                                               {'b', "bridge"},
                                                                               {'g', "graph"},
                                                                               {'l', "log-level"},
                                                                               {'p', "pidfile"},
                                                                               {'s', "storage-driver"}});
    const auto found = std::ranges::find(letters, letter, &std::pair<char, std::string_view>::first);
    return found == letters.end() ? std::string_view() : found->second;
}

/// "--name=value", "--name value", "-n value", "-nvalue", "-n=value".
void read_flags(const std::vector<std::string> &arguments, DockerConfig &out) {
    for (size_t i = 1; i < arguments.size(); ++i) {
        std::string_view argument = arguments[i];
        std::string_view name, value;
        bool has_value = false;
        if (argument.starts_with("--")) {
            const size_t equals = argument.find('=');
            name = argument.substr(2, equals == std::string_view::npos ? equals : equals - 2);
            has_value = equals != std::string_view::npos;
            if (has_value) value = argument.substr(equals + 1);
        } else if (argument.size() >= 2 && argument[0] == '-') {
            name = long_flag(argument[1]);
            value = argument.substr(2);
            if (value.starts_with('=')) value.remove_prefix(1);
            has_value = !value.empty();
        }
        if (name.empty()) continue;
        const FlagName *flag = flag_name(name);
        const std::string_view key = flag == nullptr || flag->key.empty() ? name : flag->key;
        const DaemonKey *known = daemon_key(key);
        const bool is_boolean = known != nullptr && known->kind == JsonKind::boolean;
        if (!has_value && !is_boolean && i + 1 < arguments.size()) value = arguments[++i];
        if (key == "storage-opts") out.storage_opts.emplace_back(value);
        if (key == "storage-driver" && out.storage_driver.empty()) out.storage_driver = value;
        out.flags.emplace(key, value);
    }
}

/// Of the configuration that a dockerd reads; empty: not known (rootless: in its user's home).
std::string config_path(const probe::Process &process) {
    DockerConfig told;
    read_flags(process.arguments, told);
    if (const auto given = told.flags.find("config-file"); given != told.flags.end()) return given->second;
    return told.flags.contains("rootless") ? std::string() : std::string(system_config);
}

const probe::Process *process_of(const probe::Facts &facts, const probe::Store &store) {
    const auto found = std::ranges::find_if(facts.processes, [&](const probe::Process &process) {
        return process.command == "dockerd" && process.pid == store.pid;
    });
    return found == facts.processes.end() ? nullptr : &*found;
}

const probe::ConfigFile *config_file_of(const probe::Facts &facts, const probe::Store &store) {
    const auto *process = process_of(facts, store);
    const bool in_a_home = lies_in(store.root, "/home") || lies_in(store.root, "/root");
    const std::string path = process != nullptr ? config_path(*process)
                             : in_a_home        ? std::string()
                                                : std::string(system_config);
    for (const auto &file : facts.config_files)
        if (file.kind == daemon_json_kind && file.path == path) return &file;
    return nullptr;
}

} // namespace

DockerConfig docker_config(const probe::ConfigFile *file, const probe::Process *daemon) {
    DockerConfig out;
    if (file != nullptr) read_file(*file, out);
    if (daemon != nullptr) read_flags(daemon->arguments, out);
    return out;
}

const probe::Process *daemon_of(const probe::Facts &facts, const probe::ConfigFile &file) {
    const auto reads = [&](const probe::Process &process) {
        return process.command == "dockerd" && config_path(process) == file.path;
    };
    const auto found = std::ranges::find_if(facts.processes, reads);
    return found == facts.processes.end() ? nullptr : &*found;
}

std::vector<const probe::Store *> stores_of(const probe::Facts &facts, const probe::ConfigFile &file) {
    std::vector<const probe::Store *> out;
    for (const auto &store : facts.stores)
        if (store.engine == "docker" && config_file_of(facts, store) == &file) out.push_back(&store);
    return out;
}

DockerConfig docker_config_of(const probe::Facts &facts, const probe::Store &store) {
    return docker_config(config_file_of(facts, store), process_of(facts, store));
}

std::string storage_option(const DockerConfig &config, std::string_view key) {
    std::string out;
    for (const std::string &option : config.storage_opts) {
        const size_t equals = option.find('=');
        if (equals != std::string::npos && std::string_view(option).substr(0, equals) == key)
            out = option.substr(equals + 1);
    }
    return out;
}

} // namespace shale::doctor::checks
