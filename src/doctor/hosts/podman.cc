// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/podman.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

#include "doctor/hosts/libpod.h"
#include "doctor/hosts/places.h"
#include "doctor/hosts/podman_layers.h"
#include "doctor/hosts/podman_records.h"
#include "doctor/toml_json.h"

namespace shale::doctor {
namespace {

using podman::Libpod;
using podman::Places;
using podman::Records;

constexpr std::array<std::string_view, 6> drivers{"overlay", "overlay2", "vfs", "btrfs", "zfs", "aufs"};
constexpr const char *default_root = "/var/lib/containers/storage";
constexpr const char *default_run_root = "/run/containers/storage";
constexpr int attempts = 3;
constexpr size_t max_users = 1000;           ///< of one layer that are told, beside those by `lower`
constexpr size_t max_chain = 1000;           ///< overlay takes 500 lower layers
constexpr size_t max_image_steps = 20 << 20; ///< of all images down their chains
constexpr size_t max_damage = 20;            ///< of one image
constexpr size_t max_config_bytes = size_t{1} << 20U;

/// What storage.conf(5) says.
struct Config {
    std::string path; ///< "": there is none
    nlohmann::json values;
    [[nodiscard]] std::string storage(std::string_view key) const { return toml_text(values, {"storage", key}); }
    [[nodiscard]] std::vector<std::string> additional_stores() const {
        return toml_texts(values, {"storage", "options", "additionalimagestores"});
    }
};

/// A root that is read, and the configuration that applies to it.
struct Root {
    std::string path, run_root;
    const Config *config = nullptr; ///< nullptr: none is known
    bool of_system = false;         ///< root's own
};

Config read_config(const probe::Host &host, const std::vector<std::string> &paths, probe::Facts &facts) {
    Config out;
    for (const std::string &path : paths) {
        auto text = host.read_if_there(path, max_config_bytes);
        if (!text) facts.problems.push_back({path, text.error().text()});
        if (!text || !*text) continue;
        out.path = path;
        if (auto values = parse_toml(**text))
            out.values = std::move(*values);
        else
            facts.problems.push_back({path, fmt::format("nothing of it is used: {}", values.error().text())});
        facts.config_files.push_back({path, "containers storage.conf", std::move(**text)});
        return out;
    }
    return out;
}

/// What containers/storage replaces in paths for users (types/utils.go, expandEnvPath).
std::string expand(std::string path, const Home &home) {
    const std::array<std::pair<std::string_view, std::string>, 3> words{
        {{"$UID", fmt::format("{}", home.uid)}, {"$HOME", home.path}, {"$USER", home.user}}};
    for (const auto &[word, value] : words)
        for (size_t at = path.find(word); at != std::string::npos && path.size() < 4096;
             at = path.find(word, at + value.size()))
            path.replace(at, word.size(), value);
    return path;
}

Root root_of_home(const Home &home, const Config &own, const Config &system) {
    Root out;
    out.config = own.path.empty() ? nullptr : &own;
    std::string path = own.storage("graphroot");
    for (const Config *config : {&own, &system})
        if (path.empty()) path = config->storage("rootless_storage_path");
    out.path = path.empty() ? home.path + "/.local/share/containers/storage" : expand(path, home);
    const std::string run_root = own.storage("runroot");
    out.run_root = run_root.empty() ? fmt::format("/run/user/{}/containers", home.uid) : expand(run_root, home);
    return out;
}

probe::StoreLayer *find_layer(std::map<std::string, size_t> &index, probe::Store &store, const std::string &id) {
    const auto found = index.find(id);
    return found == index.end() ? nullptr : &store.layers[found->second];
}

/// Joins images and containers with the layers of `store`.
class Users {
public:
    Users(const podman::Foreign &foreign, probe::Store &store) : foreign_(foreign), store_(store) {
        for (size_t i = 0; i < store.layers.size(); ++i)
            index_.emplace(store.layers[i].id, i);
    }

    void use(const std::string &layer, std::string who) {
        probe::StoreLayer *found = find_layer(index_, store_, layer);
        if (found != nullptr && found->used_by.size() < max_users + podman::max_lower_users)
            found->used_by.push_back(std::move(who));
    }
    /// The layer `id` stands on its parent, which `lower` may have told.
    void use_as_parent(const std::string &parent, const std::string &id) {
        const probe::StoreLayer *found = find_layer(index_, store_, parent);
        std::string who = "layer " + id;
        if (found == nullptr || std::ranges::find(found->used_by, who) != found->used_by.end()) return;
        use(parent, std::move(who));
    }

    void add_image(const podman::ImageRecord &record, std::vector<std::string> damage) {
        probe::StoreImage image;
        image.id = record.id;
        image.names = record.names;
        image.created_s = record.created_s;
        image.damage = std::move(damage);
        const std::string who = "image " + (record.names.empty() ? record.id : record.names.front());
        for (const std::string &top : record.tops) {
            uint64_t missing = 0;
            std::vector<std::string> chain = chain_of(top, missing);
            for (const std::string &layer : chain)
                use(layer, who);
            if (&top == &record.tops.front()) {
                image.layers.assign(chain.rbegin(), chain.rend());
                image.missing_layers = missing;
            }
        }
        store_.images.push_back(std::move(image));
    }

private:
    /// From the top down. Layers of other stores are passed over.
    std::vector<std::string> chain_of(const std::string &top, uint64_t &missing) {
        std::vector<std::string> out;
        std::string next = top;
        for (size_t steps = 0; !next.empty() && steps < max_chain && steps_ < max_image_steps; ++steps, ++steps_) {
            const auto other = foreign_.layers.find(next);
            const probe::StoreLayer *layer = find_layer(index_, store_, next);
            if (layer != nullptr && layer->recorded) {
                out.push_back(next);
                if (!layer->on_disk) ++missing;
                next = std::string(layer->parent);
            } else if (other != foreign_.layers.end()) {
                next = std::string(other->second.parent);
            } else {
                ++missing;
                return out;
            }
        }
        return out;
    }

    const podman::Foreign &foreign_;
    probe::Store &store_;
    std::map<std::string, size_t> index_;
    size_t steps_ = 0;
};

/// What an image keeps beside its layers: manifests, configurations, signatures.
std::vector<std::string> damage_of(const probe::Host &host, const Places &places, const podman::ImageRecord &record) {
    std::vector<std::string> out;
    const std::string dir = fmt::format("{}/{}", places.records(record.base, "images"), record.id);
    for (const auto &[key, bytes] : record.data) {
        if (out.size() >= max_damage) break;
        const auto status = host.stat(fmt::format("{}/{}", dir, podman::data_file(key)));
        if (!status) continue;
        const std::string_view name = std::string_view(key).substr(0, 100);
        if (!*status)
            out.push_back(fmt::format("its data {:?} is missing", name));
        else if (bytes && static_cast<uint64_t>((*status)->st_size) != *bytes)
            out.push_back(fmt::format("its data {:?} has {} bytes, not {}", name, (*status)->st_size, *bytes));
    }
    return out;
}

void look_at_log(const probe::Host &host, probe::StoreContainer &container) {
    if (container.log_path.empty()) return;
    const auto status = host.stat(container.log_path);
    if (status && *status && S_ISREG((*status)->st_mode))
        container.log_bytes = static_cast<uint64_t>((*status)->st_size);
    else
        container.log_path.clear(); // the journal has it, or nobody
}

void read_containers(const probe::Host &host, const Places &places, const Records &records, const Libpod &libpod,
                     probe::Store &store) {
    std::set<std::string_view> known;
    const auto add = [&](probe::StoreContainer container) {
        container.driver = places.driver;
        const auto more = libpod.containers.find(container.id);
        if (more == libpod.containers.end()) {
            podman::read_crio_state(host, places, container);
        } else {
            container.name = more->second.name;
            container.state = more->second.state;
            container.pid = more->second.pid;
            container.binds = more->second.binds;
            container.log_path = more->second.log_path;
        }
        look_at_log(host, container);
        store.containers.push_back(std::move(container));
    };
    for (const podman::ContainerRecord &record : records.containers) {
        known.insert(record.id);
        probe::StoreContainer container;
        container.id = record.id;
        container.name = record.names.empty() ? std::string() : record.names.front();
        container.image = record.image;
        container.layer = record.layer;
        container.created_s = record.created_s;
        add(std::move(container));
    }
    for (const auto &[id, more] : libpod.containers) {
        if (known.contains(id)) continue; // else it has a root directory of its own (podman run --rootfs)
        probe::StoreContainer container;
        container.id = id;
        container.image = more.image;
        container.created_s = more.created_s;
        add(std::move(container));
    }
}

/// The store as it is at one time, or is not: nothing of it is judged here.
probe::Store read_once(const probe::Host &host, const Places &places, const std::vector<probe::ZfsDataset> &datasets) {
    probe::Store store;
    store.engine = "podman";
    store.root = places.root;
    store.driver = places.driver;
    Records records = podman::read_records(host, places);
    store.sources = std::move(records.sources);
    const podman::Foreign foreign = podman::read_additional(host, places, store.sources);
    podman::read_layers(host, places, records, foreign, datasets, store);
    Libpod libpod = podman::read_libpod(host, places);
    read_containers(host, places, records, libpod, store);
    store.volumes = podman::join_volumes(host, libpod, libpod.sources);
    std::ranges::move(libpod.sources, std::back_inserter(store.sources));

    Users users(foreign, store);
    for (const podman::ImageRecord &record : records.images)
        users.add_image(record, damage_of(host, places, record));
    for (const podman::ContainerRecord &record : records.containers)
        users.use(record.layer, "container " + record.id);
    for (const podman::LayerRecord &record : records.layers)
        if (!record.parent.empty()) users.use_as_parent(record.parent, record.id);
    // What it is for comes before what stands on it.
    for (probe::StoreLayer &layer : store.layers)
        std::ranges::stable_partition(layer.used_by, [](const auto &user) { return !user.starts_with("layer "); });
    return store;
}

void mark_changing(probe::Store &store, bool locked) {
    for (probe::RecordSource &source : store.sources) {
        if (source.state != "read" && source.state != "missing") continue;
        source.state = "changing";
        source.why = locked ? "another process holds the store's lock for writing"
                            : fmt::format("read {} times, and each time it was changed meanwhile", attempts);
    }
}

probe::Store read_settled(const probe::Host &host, const Places &places,
                          const std::vector<probe::ZfsDataset> &datasets) {
    probe::Store store;
    bool locked = false;
    for (int i = 0; i < attempts; ++i) {
        if (i != 0) std::this_thread::sleep_for(std::chrono::milliseconds(50 << i));
        const podman::Mark before = podman::mark(host, places);
        store = read_once(host, places, datasets);
        const podman::Mark after = podman::mark(host, places);
        locked = before.writing || after.writing;
        if (!locked && before.text == after.text) return store;
    }
    mark_changing(store, locked);
    return store;
}

/// The engine that serves this root. podman has a process of its own only while something is asked of it.
void find_engine(const std::vector<probe::Process> &processes, const Root &root, probe::Store &store) {
    for (const probe::Process &process : processes) {
        const auto &words = process.arguments;
        const bool serves = process.command == "crio" ||
                            (process.command == "podman" && std::ranges::find(words, "service") != words.end());
        const std::string given = argument(words, "root");
        if (!serves || (given.empty() ? !root.of_system : given != root.path)) continue;
        store.running = true;
        store.pid = process.pid;
        store.settings["served by"] = process.command;
        return;
    }
}

void add_settings(const Root &root, probe::Store &store) {
    if (root.config == nullptr) return;
    const auto set = [&](const char *name, std::string value) {
        if (!value.empty()) store.settings[name] = std::move(value);
    };
    for (const char *key : {"driver", "imagestore", "transient_store"})
        set(key, root.config->storage(key));
    const nlohmann::json &values = root.config->values;
    for (const char *key : {"mountopt", "mount_program", "force_mask", "ignore_chown_errors", "size", "inodes"}) {
        std::string value = toml_text(values, {"storage", "options", store.driver, key});
        set(key, value.empty() ? toml_text(values, {"storage", "options", key}) : value);
    }
    set("additionalimagestores", fmt::format("{}", fmt::join(root.config->additional_stores(), " ")));
}

void add_other_bytes(const probe::Host &host, const Places &places, probe::Store &store) {
    for (const std::string &base : places.bases()) {
        store.other_bytes["layer records and tar-split"] += bytes_in(host, places.records(base, "layers"), 1);
        store.other_bytes["image records and manifests"] += bytes_in(host, places.records(base, "images"), 1);
    }
    store.other_bytes["container records and logs"] = bytes_in(host, places.records(places.root, "containers"), 3);
}

/// Drivers that have a store here. A directory of a driver alone may be somebody else's: shale's have the same names.
std::vector<std::string_view> drivers_at(const probe::Host &host, const std::string &root,
                                         std::vector<probe::Problem> &problems) {
    std::vector<std::string_view> out;
    const auto entries = host.list_if_there(root, podman::max_entries);
    if (!entries) {
        problems.push_back({root, entries.error().text()});
        return out;
    }
    const auto has = [&](std::string_view name) {
        return std::ranges::find(*entries, name, &sys::DirEntry::name) != entries->end();
    };
    for (const std::string_view driver : drivers)
        if (has(fmt::format("{}-layers", driver)) || has(fmt::format("{}-images", driver)) ||
            (has("storage.lock") && has(driver)))
            out.push_back(driver);
    return out;
}

void read_root(const probe::Host &host, const std::vector<probe::Process> &processes, const Root &root,
               probe::Facts &facts) {
    for (const std::string_view driver : drivers_at(host, root.path, facts.problems)) {
        Places places;
        places.root = root.path;
        places.driver = driver;
        places.run_root = root.run_root;
        if (root.config != nullptr) {
            places.image_store = root.config->storage("imagestore");
            places.additional = root.config->additional_stores();
        }
        probe::Store store = read_settled(host, places, facts.zfs_datasets);
        add_settings(root, store);
        add_other_bytes(host, places, store);
        find_engine(processes, root, store);
        facts.stores.push_back(std::move(store));
    }
}

/// The stores of users.
void read_homes(const probe::Host &host, const std::vector<probe::Process> &processes, const Config &system,
                std::set<std::string> &seen, probe::Facts &facts) {
    for (const Home &home : homes(host, facts.problems)) {
        const Config config = read_config(host, {home.path + "/.config/containers/storage.conf"}, facts);
        const Root root = root_of_home(home, config, system);
        const std::string where = identity(host, root.path);
        if (!where.empty() && seen.insert(where).second) read_root(host, processes, root, facts);
    }
}

/// Without what is at their ends that would make two of one.
std::string trimmed(std::string path) {
    while (path.size() > 1 && path.ends_with('/'))
        path.pop_back();
    return path;
}

} // namespace

void read_podman(const probe::Host &host, const std::vector<probe::Process> &processes, const std::string &graph_root,
                 probe::Facts &facts) {
    // containers/storage, types/utils.go: the first of them alone counts.
    const Config system =
        read_config(host, {"/etc/containers/storage.conf", "/usr/share/containers/storage.conf"}, facts);
    Root own{.path = trimmed(system.storage("graphroot")),
             .run_root = trimmed(system.storage("runroot")),
             .config = &system,
             .of_system = true};
    if (own.path.empty()) own.path = default_root;
    if (own.run_root.empty()) own.run_root = default_run_root;
    if (!graph_root.empty()) {
        const std::string path = trimmed(graph_root);
        if (!host.is_dir(path)) facts.problems.push_back({path, "no such directory: there is no store of podman's"});
        const bool configured = identity(host, path) == identity(host, own.path);
        const Root other{.path = path, .run_root = {}, .config = &system};
        read_root(host, processes, configured ? own : other, facts);
        return;
    }
    std::set<std::string> seen{identity(host, own.path)};
    read_root(host, processes, own, facts);
    read_homes(host, processes, system, seen, facts);
}

} // namespace shale::doctor
