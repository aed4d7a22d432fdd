// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/docker_daemon.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "doctor/hosts/docker_draft.h"
#include "doctor/hosts/packages.h"
#include "doctor/hosts/places.h"
#include "doctor/hosts/times.h"
#include "oci/json.h"
#include "probe/text.h"

namespace shale::doctor::docker {
namespace {

constexpr std::string_view default_root = "/var/lib/docker";
constexpr std::string_view default_config = "/etc/docker/daemon.json";
constexpr std::string_view default_pid_file = "/run/docker.pid"; ///< dockerd says /var/run, which is a link to it
constexpr std::string_view config_kind = "docker daemon.json";
constexpr size_t max_config_bytes = size_t{1} << 20U;

/// Values are put as dockerd's flags have them: lists with commas, objects by their members.
void flatten(const oci::Json &value, const std::string &name, Settings &out) {
    if (value.is_string()) {
        out[name] = value.get<std::string>();
    } else if (value.is_boolean() || value.is_number()) {
        out[name] = value.dump();
    } else if (value.is_array()) {
        std::string &list = out[name];
        for (const auto &item : value) {
            if (!item.is_string()) continue;
            if (!list.empty()) list += ',';
            list += item.get<std::string>();
        }
    } else if (value.is_object() && std::ranges::count(name, '.') < 3) {
        for (const auto &[key, member] : value.items())
            flatten(member, fmt::format("{}.{}", name, key), out);
    }
}

/// Options of daemon.json that say how data is kept (moby, daemon/config/config.go, config_unix.go).
constexpr const char *wanted[] = {"data-root",    "graph",    "storage-driver", "storage-opts", "live-restore",
                                  "userns-remap", "features", "log-driver",     "log-opts",     "builder"};

/// The file as settings; it goes to `facts`, once. A missing one says nothing.
Settings read_config(const probe::Host &host, const std::string &path, probe::Facts &facts) {
    Settings out;
    const auto known = std::ranges::find_if(
        facts.config_files, [&](const auto &file) { return file.path == path && file.kind == config_kind; });
    const bool is_new = known == facts.config_files.end();
    std::string text;
    if (!is_new) {
        text = known->text;
    } else {
        auto read = host.read_if_there(path, max_config_bytes);
        if (!read) {
            facts.problems.push_back({.about = path, .why = read.error().text()});
            return out;
        }
        if (!*read) return out;
        text = std::move(**read);
        facts.config_files.push_back({.path = path, .kind = std::string(config_kind), .text = text});
    }
    constexpr std::string_view byte_order_mark = "\xef\xbb\xbf"; // dockerd passes over one, too
    std::string_view json = text;
    if (json.starts_with(byte_order_mark)) json.remove_prefix(byte_order_mark.size());
    if (probe::trimmed(json).empty()) return out;
    const auto document = oci::parse_object(json, path);
    if (!document) {
        if (is_new) facts.problems.push_back({.about = path, .why = document.error().text()});
        return out;
    }
    for (const char *const name : wanted)
        if (const oci::Json *value = oci::find_member(*document, name); value != nullptr) flatten(*value, name, out);
    return out;
}

/// "-s VALUE", "-sVALUE", "-s=VALUE".
std::string short_argument(const std::vector<std::string> &arguments, char name) {
    const std::string flag = {'-', name};
    for (size_t i = 1; i < arguments.size(); ++i) {
        const std::string_view argument = arguments[i];
        if (!argument.starts_with(flag)) continue;
        if (argument.size() > 2) return std::string(argument.substr(argument[2] == '=' ? 3 : 2));
        return i + 1 < arguments.size() ? arguments[i + 1] : std::string();
    }
    return {};
}

/// All values of a flag that may be given several times, with commas.
std::string list_argument(const std::vector<std::string> &arguments, std::string_view name) {
    std::string out;
    const std::string flag = fmt::format("--{}", name);
    for (size_t i = 1; i < arguments.size(); ++i) {
        std::string_view value = arguments[i];
        if (!value.starts_with(flag)) continue;
        value.remove_prefix(flag.size());
        if (value.starts_with('='))
            value.remove_prefix(1);
        else if (value.empty() && i + 1 < arguments.size())
            value = arguments[i + 1];
        else
            continue;
        if (!out.empty()) out += ',';
        out += value;
    }
    return out;
}

void add_arguments(const std::vector<std::string> &arguments, Settings &settings) {
    const auto set = [&](const char *name, std::string value) {
        if (!value.empty()) settings[name] = std::move(value);
    };
    for (const char *const name : {"data-root", "storage-driver", "userns-remap", "log-driver"})
        set(name, argument(arguments, name));
    set("data-root", argument(arguments, "graph"));
    set("data-root", short_argument(arguments, 'g'));
    set("storage-driver", short_argument(arguments, 's'));
    set("storage-opts", list_argument(arguments, "storage-opt"));
    for (const auto &given : arguments)
        if (given == "--live-restore" || given == "--live-restore=true") settings["live-restore"] = "true";
    const std::string features = list_argument(arguments, "feature");
    for (std::string_view rest = features; !rest.empty();) {
        std::string_view feature = probe::next_part(rest, ',');
        const std::string name = fmt::format("features.{}", probe::next_part(feature, '='));
        settings[name] = feature.empty() ? "true" : std::string(feature);
    }
}

/// A running dockerd of the host.
struct Daemon {
    int pid = 0;
    std::vector<std::string> arguments;
    std::string cgroup;
};

bool is_dockerd(const probe::Process &process) {
    if (process.command == "dockerd") return true;
    if (process.arguments.empty()) return false;
    const std::string &program = process.arguments.front();
    return program.substr(program.rfind('/') + 1) == "dockerd";
}

std::vector<Daemon> find_daemons(const probe::Host &host, const std::vector<probe::Process> &processes) {
    std::optional<uint64_t> named; // by the pid file, which belongs to this host whatever the cgroup is
    if (const auto text = host.read_if_there(std::string(default_pid_file), max_record_bytes); text && *text)
        named = probe::to_number(probe::trimmed(**text));
    std::vector<Daemon> out;
    for (const auto &process : processes) {
        if (!is_dockerd(process)) continue;
        if (in_container(process) && named != static_cast<uint64_t>(process.pid)) continue;
        out.push_back({.pid = process.pid, .arguments = process.arguments, .cgroup = process.cgroup});
    }
    return out;
}

/// "user-1000.slice": whose session it runs in.
std::optional<uint64_t> user_of(const Daemon &daemon) {
    constexpr std::string_view before = "/user-", after = ".slice";
    const size_t begin = daemon.cgroup.find(before);
    if (begin == std::string::npos) return std::nullopt;
    const size_t number = begin + before.size(), end = daemon.cgroup.find(after, number);
    if (end == std::string::npos) return std::nullopt;
    return probe::to_number(std::string_view(daemon.cgroup).substr(number, end - number));
}

std::string without_slash(std::string path) {
    while (path.size() > 1 && path.ends_with('/'))
        path.pop_back();
    return path;
}

/// Collects places, each directory once.
class Places {
public:
    /// `only`: identity() of the one that is wanted; empty: all are.
    Places(const probe::Host &host, probe::Facts &facts, std::string only)
        : host_(host), facts_(facts), only_(std::move(only)) {}

    /// Of a daemon that runs, if `daemon` is given. `fallback`: where its root is if nothing says another.
    void add(const std::string &config_path, const std::string &fallback, const Daemon *daemon) {
        Place place;
        place.config_path = config_path;
        place.settings = read_config(host_, config_path, facts_);
        if (daemon != nullptr) {
            place.pid = daemon->pid;
            place.started_s = started_s(host_, daemon->pid);
            add_arguments(daemon->arguments, place.settings);
        }
        if (const auto graph = place.settings.find("graph"); graph != place.settings.end())
            place.settings.try_emplace("data-root", graph->second); // its name before 17.05
        const auto said = place.settings.find("data-root");
        add_root(said == place.settings.end() ? fallback : said->second, place);
    }
    /// A root that was given, whatever the configurations say.
    void add_root(const std::string &root, Place place) {
        place.root = without_slash(root);
        const std::string id = identity(host_, place.root);
        if (id.empty()) {
            if (place.pid != 0 && only_.empty())
                facts_.problems.push_back(
                    {.about = place.root,
                     .why = fmt::format("dockerd ({}) runs, but its root is not there", place.pid)});
            return;
        }
        if (!only_.empty() && id != only_) return;
        const auto same = std::ranges::find(identities_, id);
        if (same == identities_.end()) {
            identities_.push_back(id);
            places_.push_back(std::move(place));
        } else if (auto &known = places_[static_cast<size_t>(same - identities_.begin())]; known.pid == 0) {
            known = std::move(place);
        }
    }
    [[nodiscard]] std::vector<Place> &all() noexcept { return places_; }

private:
    const probe::Host &host_;
    probe::Facts &facts_;
    std::string only_;
    std::vector<std::string> identities_; ///< of `places_`
    std::vector<Place> places_;
};

/// ~/.local/share/docker of somebody.
struct RootlessRoot {
    std::string root, config_path;
    uint64_t uid = 0;
};

std::vector<RootlessRoot> find_rootless(const probe::Host &host, probe::Facts &facts) {
    std::vector<RootlessRoot> out;
    for (const auto &home : homes(host, facts.problems)) {
        std::string root = home.path + "/.local/share/docker";
        const auto status = host.stat(root);
        if (!status || !*status || !S_ISDIR((*status)->st_mode)) continue;
        out.push_back({.root = std::move(root),
                       .config_path = home.path + "/.config/docker/daemon.json",
                       .uid = (*status)->st_uid});
    }
    return out;
}

/// It runs in the session of a user who has a root of their own. (Others there were started with sudo.)
bool is_rootless(const Daemon &daemon, const std::vector<RootlessRoot> &roots) {
    const auto uid = user_of(daemon);
    if (!uid || *uid == 0 || !argument(daemon.arguments, "data-root").empty()) return false;
    return std::ranges::any_of(roots, [&](const auto &root) { return root.uid == *uid; });
}

void add_rootless(const std::vector<RootlessRoot> &roots, const std::vector<Daemon> &daemons, Places &places) {
    for (const auto &root : roots) {
        const auto theirs = std::ranges::find_if(
            daemons, [&](const Daemon &daemon) { return is_rootless(daemon, roots) && user_of(daemon) == root.uid; });
        places.add(root.config_path, root.root, theirs == daemons.end() ? nullptr : &*theirs);
    }
}

/// "165536.165536": moby, daemon/daemon_unix.go, setupDaemonRoot.
bool is_remapped(std::string_view name) {
    const std::string_view uid = probe::next_part(name, '.');
    return probe::to_number(uid) && probe::to_number(name);
}

bool remaps_users(const Settings &settings) {
    const auto said = settings.find("userns-remap");
    return said != settings.end() && !said->second.empty();
}

void add_remapped(const probe::Host &host, std::vector<Place> &places, probe::Facts &facts) {
    std::vector<Place> found;
    for (auto &place : places) {
        const bool remaps = remaps_users(place.settings);
        place.serves = !remaps;
        const auto entries = host.list(place.root, max_entries);
        if (!entries) {
            facts.problems.push_back({.about = place.root, .why = entries.error().text()});
            continue;
        }
        for (const auto &entry : *entries) {
            if (!is_directory(entry) || !is_remapped(entry.name)) continue;
            auto &remapped = found.emplace_back(place);
            remapped.root = fmt::format("{}/{}", place.root, entry.name);
            remapped.serves = remaps;
            if (!remaps) remapped.pid = 0; // it was used once
        }
    }
    places.insert(places.end(), found.begin(), found.end());
}

} // namespace

bool in_container(const probe::Process &process) {
    // What runtimes call their cgroups: dockerd and podman with systemd and without, Kubernetes, LXC.
    constexpr std::string_view marks[] = {"/docker/", "docker-", "libpod-",    "libpod_",
                                          "kubepods", "/lxc/",   "lxc.payload"};
    return std::ranges::any_of(marks, [&](std::string_view mark) { return process.cgroup.contains(mark); });
}

std::vector<Place> find_places(const probe::Host &host, const std::vector<probe::Process> &processes,
                               const std::string &data_root, probe::Facts &facts) {
    const auto daemons = find_daemons(host, processes);
    const std::string only = data_root.empty() ? std::string() : identity(host, without_slash(data_root));
    if (only.empty() && !data_root.empty()) {
        facts.problems.push_back({.about = data_root, .why = "there is no such directory"});
        return {};
    }
    Places places(host, facts, only);
    const auto rootless = find_rootless(host, facts);
    for (const auto &daemon : daemons) {
        if (is_rootless(daemon, rootless)) continue;
        const std::string config = argument(daemon.arguments, "config-file");
        places.add(config.empty() ? std::string(default_config) : config, std::string(default_root), &daemon);
    }
    places.add(std::string(default_config), std::string(default_root), nullptr);
    // The snap says where its root is on the command line; this is for when it does not run.
    places.add("/var/snap/docker/current/config/daemon.json", "/var/snap/docker/common/var-lib-docker", nullptr);
    add_rootless(rootless, daemons, places);
    if (!data_root.empty() && places.all().empty()) places.add_root(data_root, {});
    std::vector<Place> out = std::move(places.all());
    Packages packages(host);
    for (auto &place : out)
        if (place.pid != 0 || place.config_path == default_config)
            place.version = packages.version("dockerd", place.pid, facts.problems);
    add_remapped(host, out, facts);
    return out;
}

} // namespace shale::doctor::docker
