// SPDX-License-Identifier: Apache-2.0
// containerd-config-lint: containerd's config.toml. Sources: containerd, cmd/containerd/server/config/config.go,
// docs/cri/config.md, docs/snapshotters/devmapper.md, plugins/services/diff/local.go.
#include <algorithm>
#include <array>
#include <fnmatch.h>
#include <set>
#include <span>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "doctor/checks/common.h"
#include "doctor/toml_json.h"

namespace shale::doctor::checks {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kind = "containerd config.toml";
constexpr const char *old_cri = "io.containerd.grpc.v1.cri";        ///< all of it, up to version 2
constexpr const char *cri_images = "io.containerd.cri.v1.images";   ///< since version 3
constexpr const char *cri_runtime = "io.containerd.cri.v1.runtime"; ///< since version 3
constexpr std::string_view snapshotter_plugin = "io.containerd.snapshotter.v1.";
constexpr int64_t newest_version = 4;

struct Remark {
    Severity severity;
    std::string text;
    bool about_sync = false;
};

/// What a file is judged by.
struct Case {
    const probe::Facts &facts;
    const probe::ConfigFile &file;
    const Json &document;
    int64_t version; ///< of the file
    int major;       ///< of the containerd that reads it, 0: not known
    bool runs;       ///< that one does
    std::string root, state;
    std::vector<Remark> &out;

    void say(Severity severity, std::string text) const { out.push_back({severity, std::move(text), false}); }
};

bool is_true(const Json &from, TomlPath path) {
    const Json *value = toml_at(from, path);
    return value != nullptr && value->is_boolean() && value->get<bool>();
}

bool kubelet_runs(const probe::Facts &facts) {
    return std::ranges::any_of(facts.processes,
                               [](const probe::Process &process) { return process.command == "kubelet"; });
}

// --------------------------------------------------------------------------------------------------------------- types

/// As the fields of Go's that a file is read into have them: containerd ends on one that does not fit (config.go,
/// LoadConfig and Decode).
enum class Type : uint8_t { text, number, flag, texts, table };

struct Setting {
    std::vector<std::string_view> path; ///< "*": each member
    Type type;
};

bool has_type(const Json &value, Type type) {
    switch (type) {
    case Type::text:
        return value.is_string();
    case Type::number:
        return value.is_number_integer();
    case Type::flag:
        return value.is_boolean();
    case Type::texts:
        return value.is_array() && std::ranges::all_of(value, [](const Json &one) { return one.is_string(); });
    case Type::table:
        break;
    }
    return value.is_object();
}

std::string_view name_of(Type type) {
    switch (type) {
    case Type::text:
        return "a text";
    case Type::number:
        return "a whole number";
    case Type::flag:
        return "true or false";
    case Type::texts:
        return "a list of texts";
    case Type::table:
        break;
    }
    return "a table";
}

/// Those that are looked at below, and what is at the top.
std::vector<Setting> settings_of(int64_t version) {
    using enum Type;
    std::vector<Setting> out{{{"root"}, text},
                             {{"state"}, text},
                             {{"temp"}, text},
                             {{"plugin_dir"}, text},
                             {{"oom_score"}, number},
                             {{"disabled_plugins"}, texts},
                             {{"required_plugins"}, texts},
                             {{"imports"}, texts}};
    for (const std::string_view name :
         {"grpc", "ttrpc", "debug", "metrics", "cgroup", "plugins", "proxy_plugins", "timeouts", "stream_processors"})
        out.push_back({{name}, table});
    for (const std::string_view name : {"plugins", "proxy_plugins"})
        out.push_back({{name, "*"}, table});
    for (const std::string_view name : {"type", "address"})
        out.push_back({{"proxy_plugins", "*", name}, text});
    for (const std::string_view name : {"pool_name", "base_image_size"})
        out.push_back({{"plugins", "io.containerd.snapshotter.v1.devmapper", name}, text});
    out.push_back({{"plugins", "io.containerd.snapshotter.v1.devmapper", "discard_blocks"}, flag});
    out.push_back({{"plugins", "io.containerd.service.v1.diff-service", "sync_fs"}, flag});
    if (version >= 3) {
        out.push_back({{"plugins", cri_images, "snapshotter"}, text});
        out.push_back({{"plugins", cri_images, "discard_unpacked_layers"}, flag});
        out.push_back({{"plugins", cri_images, "image_pull_with_sync_fs"}, flag});
        out.push_back({{"plugins", cri_images, "runtime_platforms", "*", "snapshotter"}, text});
        out.push_back({{"plugins", cri_runtime, "containerd", "runtimes", "*", "snapshotter"}, text});
        return out;
    }
    const std::string_view cri = version < 2 ? "cri" : old_cri;
    out.push_back({{"plugins", cri, "containerd"}, table});
    out.push_back({{"plugins", cri, "image_pull_with_sync_fs"}, flag});
    out.push_back({{"plugins", cri, "containerd", "snapshotter"}, text});
    out.push_back({{"plugins", cri, "containerd", "discard_unpacked_layers"}, flag});
    out.push_back({{"plugins", cri, "containerd", "runtimes", "*", "snapshotter"}, text});
    return out;
}

/// Takes out of the document what is refused: nothing else is to be said of it.
void judge_type(Json &in, std::span<const std::string_view> path, Type type, const std::string &above,
                std::vector<Remark> &out) {
    if (!in.is_object()) return;
    for (auto it = in.begin(); it != in.end();) {
        if (path[0] != "*" && path[0] != it.key()) {
            ++it;
            continue;
        }
        const std::string key = it.key().contains('.') ? fmt::format("'{}'", it.key()) : it.key();
        const std::string name = above.empty() ? key : fmt::format("{}.{}", above, key);
        if (path.size() > 1) {
            judge_type(*it, path.subspan(1), type, name, out);
            ++it;
        } else if (has_type(*it, type)) {
            ++it;
        } else {
            out.push_back({Severity::critical,
                           fmt::format("{} must be {}: containerd does not start on it", shown(name), name_of(type))});
            it = in.erase(it);
        }
    }
}

int64_t version_of(const Json &document) {
    const Json *version = toml_at(document, {"version"});
    return version != nullptr && version->is_number_integer() ? version->get<int64_t>() : 1;
}

void judge_types(Json &document, std::vector<Remark> &out) {
    for (const Setting &setting : settings_of(version_of(document))) {
        const auto disabled = toml_texts(document, {"disabled_plugins"}); // nobody reads the settings of such
        if (setting.path.size() < 3 || std::ranges::find(disabled, setting.path[1]) == disabled.end())
            judge_type(document, setting.path, setting.type, {}, out);
    }
}

// ---------------------------------------------------------------------------------------------------- version and keys

void judge_version(const Case &the) {
    const Json *version = toml_at(the.document, {"version"});
    if (version != nullptr && !version->is_number_integer())
        return the.say(Severity::critical, "version must be a whole number: containerd does not start on it");
    if (the.version <= 1)
        the.say(Severity::info, "it says no \"version\", or 1: deprecated, and removed in containerd 2.0 by its "
                                "documentation; containerd config migrate writes a newer one");
    else if (the.version > newest_version)
        the.say(Severity::warning,
                fmt::format("version {} is newer than any that is known here ({})", the.version, newest_version));
    else if (the.version >= 3 && the.major == 1)
        the.say(Severity::critical,
                fmt::format("version {} is of containerd 2, and containerd 1 {}: it looks at none of the CRI settings",
                            the.version, the.runs ? "runs" : "is installed"));
}

/// containerd passes over names at the top that it does not know; version 2 takes full names of plugins only.
void judge_names(const Case &the) {
    constexpr auto known =
        std::to_array<std::string_view>({"version", "root", "state", "temp", "plugin_dir", "grpc", "ttrpc", "debug",
                                         "metrics", "disabled_plugins", "required_plugins", "plugins", "oom_score",
                                         "cgroup", "proxy_plugins", "timeouts", "imports", "stream_processors"});
    for (auto it = the.document.begin(); it != the.document.end(); ++it)
        if (std::ranges::find(known, it.key()) == known.end())
            the.say(Severity::warning,
                    fmt::format("\"{}\" does nothing: there is no such setting at the top", shown(it.key())));
    const Json *plugins = toml_at(the.document, {"plugins"});
    if (plugins == nullptr || !plugins->is_object() || the.version < 2) return;
    for (auto it = plugins->begin(); it != plugins->end(); ++it)
        if (!it.key().contains('.'))
            the.say(the.major == 2 ? Severity::warning : Severity::critical,
                    fmt::format(
                        "[plugins.{}] is a name of version 1: containerd 1 does not start on it, containerd 2 passes "
                        "over it",
                        shown(it.key())));
    for (const char *moved : {"snapshotter", "discard_unpacked_layers", "runtimes", "default_runtime_name"})
        if (the.version >= 3 && toml_at(*plugins, {old_cri, "containerd", moved}) != nullptr)
            the.say(Severity::warning,
                    fmt::format("{}: [plugins.'{}'.containerd] does nothing in version 3; it belongs in [plugins.'{}']",
                                moved, old_cri,
                                moved == std::string_view("snapshotter") ||
                                        moved == std::string_view("discard_unpacked_layers")
                                    ? cri_images
                                    : cri_runtime));
}

void judge_disabled(const Case &the) {
    for (const std::string &name : toml_texts(the.document, {"disabled_plugins"})) {
        if (the.version >= 2 && !name.contains('.') && the.major != 1)
            the.say(Severity::warning,
                    fmt::format("disabled_plugins: \"{}\" is no full name; containerd 2 does not start on "
                                "it",
                                shown(name)));
        if ((name == "cri" || name == old_cri) && kubelet_runs(the.facts))
            the.say(Severity::critical,
                    fmt::format("disabled_plugins has \"{}\", and kubelet runs here: it finds no CRI", shown(name)));
    }
}

// ----------------------------------------------------------------------------------------------------------- snapshots

/// Where pods' layers go: of the CRI plugin, and of its runtimes.
std::set<std::string> wanted_snapshotters(const Case &the) {
    std::set<std::string> out;
    const auto add = [&](const std::string &name) {
        if (!name.empty()) out.insert(name);
    };
    const Json *plugins = toml_at(the.document, {"plugins"});
    if (plugins == nullptr) return out;
    const auto add_runtimes = [&](const Json *runtimes) {
        if (runtimes == nullptr || !runtimes->is_object()) return;
        for (const Json &runtime : *runtimes)
            add(toml_text(runtime, {"snapshotter"}));
    };
    if (the.version < 3) {
        const char *cri = the.version < 2 ? "cri" : old_cri;
        add(toml_text(*plugins, {cri, "containerd", "snapshotter"}));
        add_runtimes(toml_at(*plugins, {cri, "containerd", "runtimes"}));
    } else {
        add(toml_text(*plugins, {cri_images, "snapshotter"}));
        add_runtimes(toml_at(*plugins, {cri_images, "runtime_platforms"}));
        add_runtimes(toml_at(*plugins, {cri_runtime, "containerd", "runtimes"}));
    }
    return out;
}

bool is_active_pool(const probe::Facts &facts, const std::string &name) {
    return std::ranges::any_of(facts.thin_pools, [&](const probe::ThinPool &pool) { return pool.name == name; });
}

/// Without its pool the plugin is skipped (docs/snapshotters/devmapper.md).
void judge_devmapper(const Case &the) {
    const Json *plugin = toml_at(the.document, {"plugins", "io.containerd.snapshotter.v1.devmapper"});
    const std::string pool = plugin == nullptr ? std::string() : toml_text(*plugin, {"pool_name"});
    if (pool.empty() || toml_text(*plugin, {"base_image_size"}).empty())
        return the.say(Severity::critical, "the snapshotter devmapper is wanted and not set up: it needs pool_name and "
                                           "base_image_size in [plugins.'io.containerd.snapshotter.v1.devmapper']");
    if (the.facts.live && the.facts.privileged && !is_active_pool(the.facts, pool))
        the.say(Severity::critical,
                fmt::format("the snapshotter devmapper is wanted, and its thin pool {} is not active", shown(pool)));
    if (!is_true(*plugin, {"discard_blocks"}))
        the.say(Severity::info,
                "devmapper: without discard_blocks = true the space of removed layers stays taken below the "
                "pool (containerd #5691)");
}

void judge_snapshotters(const Case &the) {
    constexpr auto built_in =
        std::to_array<std::string_view>({"blockfile", "btrfs", "devmapper", "erofs", "native", "overlayfs", "zfs"});
    const auto disabled = toml_texts(the.document, {"disabled_plugins"});
    for (const std::string &name : wanted_snapshotters(the)) {
        const std::string full = fmt::format("{}{}", snapshotter_plugin, name);
        const std::string type = toml_text(the.document, {"proxy_plugins", name, "type"});
        if (std::ranges::find(disabled, full) != disabled.end() || std::ranges::find(disabled, name) != disabled.end())
            the.say(Severity::critical,
                    fmt::format("the snapshotter {} is wanted, and disabled_plugins has it", shown(name)));
        else if (std::ranges::find(built_in, name) == built_in.end() && type != "snapshot")
            the.say(
                Severity::critical,
                fmt::format(
                    "the snapshotter {} is wanted, and there is none: it is not built in, and [proxy_plugins.{}] {}",
                    shown(name), shown(name),
                    type.empty() ? "is not there" : fmt::format("has the type \"{}\", not \"snapshot\"", shown(type))));
        else if (name == "devmapper")
            judge_devmapper(the);
    }
}

// ---------------------------------------------------------------------------------------------------------- durability

std::vector<const probe::Store *> stores_of(const Case &the) {
    std::vector<const probe::Store *> out;
    for (const auto &store : the.facts.stores)
        if (store.engine == "containerd" && lies_in(store.root, the.root)) out.push_back(&store);
    return out;
}

/// By the mount table, which has memory file systems, too; empty: not known.
std::string type_at(const probe::Facts &facts, std::string_view path) {
    const probe::Mount *best = nullptr;
    for (const auto &mounts : facts.mount_namespaces) {
        if (!mounts.ours) continue;
        for (const auto &mount : mounts.mounts) // of two at one place the later one counts
            if (lies_in(path, mount.target) && (best == nullptr || mount.target.size() >= best->target.size()))
                best = &mount;
    }
    if (best != nullptr) return best->type;
    const auto *fs = file_system_of(facts, path);
    return fs == nullptr || facts.live ? std::string() : fs->type;
}

bool is_memory(std::string_view type) {
    return type == "tmpfs" || type == "ramfs";
}

void judge_places(const Case &the) {
    if (the.root == the.state)
        the.say(Severity::critical, "root and state are the same directory; containerd does not start");
    const std::string root = type_at(the.facts, the.root);
    if (is_memory(root))
        the.say(Severity::warning,
                fmt::format("root {} lies in memory ({}): all images are gone after a boot", shown(the.root), root));
    const std::string state = type_at(the.facts, the.state);
    if (the.facts.live && !state.empty() && !is_memory(state))
        the.say(Severity::info, fmt::format("state {} lies on a disk ({}): what it holds is of no use after a boot",
                                            shown(the.state), shown(state)));
}

/// containerd records a layer before its files are on the disk, unless it is told to wait (containerd #10284, #9401).
void judge_sync(const Case &the) {
    if (is_memory(type_at(the.facts, the.root)) ||
        is_true(the.document, {"plugins", "io.containerd.service.v1.diff-service", "sync_fs"}))
        return;
    const bool by_cri = is_true(the.document, {"plugins", old_cri, "image_pull_with_sync_fs"}) ||
                        is_true(the.document, {"plugins", cri_images, "image_pull_with_sync_fs"});
    uint64_t damaged = 0;
    for (const auto *store : stores_of(the))
        damaged += static_cast<uint64_t>(
            std::ranges::count_if(store->layers, [](const probe::StoreLayer &layer) { return !layer.damage.empty(); }));
    the.say(
        damaged != 0 ? Severity::warning : Severity::info,
        fmt::format("sync_fs is not set: a power cut after a pull leaves layers with empty files that containerd takes "
                    "for whole{}{}",
                    by_cri ? "; image_pull_with_sync_fs covers pulls by kubelet only" : "",
                    damaged == 0 ? "" : fmt::format("; damaged here: {}", counted(damaged, "layer"))));
    the.out.back().about_sync = true;
}

void judge_discard(const Case &the) {
    const bool discards = is_true(the.document, {"plugins", old_cri, "containerd", "discard_unpacked_layers"}) ||
                          is_true(the.document, {"plugins", cri_images, "discard_unpacked_layers"});
    if (discards)
        the.say(Severity::info,
                "discard_unpacked_layers saves the compressed layers' space, and images can no more be pushed, "
                "exported, checked or mended without a registry");
}

// --------------------------------------------------------------------------------------------------------------- words

/// Of the containerd that reads the file, as far as its version is known; nullptr: of none it is.
const probe::Store *reader_of(const probe::Facts &facts, const probe::ConfigFile &file) {
    for (const auto &store : facts.stores) {
        const std::string *config = value_of(store.settings, "config");
        if (store.engine == "containerd" && config != nullptr && *config == file.path && !store.version.empty())
            return &store;
    }
    return nullptr;
}

int major_of(const probe::Store *store) {
    const bool known = store != nullptr && store->version.size() > 1 && store->version[1] == '.';
    return known ? store->version[0] - '0' : 0;
}

/// An import is a pattern, relative to the file's directory. Those with more than a few stars are nobody's.
bool imports(const probe::ConfigFile &file, std::string import, const probe::ConfigFile &other) {
    constexpr size_t longest = 1024;
    if (!import.starts_with('/')) import = file.path.substr(0, file.path.rfind('/') + 1) + import;
    if (import.size() > longest || other.path.size() > longest || std::ranges::count(import, '*') > 4) return false;
    return fnmatch(import.c_str(), other.path.c_str(), FNM_PATHNAME) == 0;
}

void note_imports(const Case &the, Outcome &out) {
    for (const std::string &import : toml_texts(the.document, {"imports"})) {
        const bool read = std::ranges::any_of(
            the.facts.config_files, [&](const probe::ConfigFile &other) { return imports(the.file, import, other); });
        if (!read)
            out.unable.push_back(
                fmt::format("{}: what it imports was not read: {}", shown(the.file.path), shown(import)));
    }
}

void add_finding(const probe::ConfigFile &file, const std::vector<Remark> &remarks, Severity severity, Outcome &out) {
    std::vector<std::string> lines;
    for (const Remark &remark : remarks)
        if (remark.severity == severity) lines.push_back(remark.text);
    if (lines.empty()) return;
    Finding &finding = out.findings.emplace_back();
    finding.severity = severity;
    finding.subject = shown(file.path);
    finding.summary = std::move(lines[0]);
    lines.erase(lines.begin());
    finding.evidence = limited(std::move(lines));
    if (std::ranges::any_of(remarks, [&](const Remark &one) { return one.severity == severity && one.about_sync; }))
        finding.commands.emplace_back(
            "# in [plugins.'io.containerd.service.v1.diff-service']: sync_fs = true (containerd "
            "2.0, and late releases of 1.7)");
    finding.commands.push_back(fmt::format("containerd --config {} config dump", shell_quote(file.path)));
    finding.commands.emplace_back("systemctl restart containerd");
}

/// `document`: its copy to be worked on.
void judge_document(const probe::Facts &facts, const probe::ConfigFile &file, Json document,
                    std::vector<Remark> &remarks, Outcome &out) {
    judge_types(document, remarks);
    const auto or_default = [&](const char *key, const char *value) {
        const std::string text = toml_text(document, {key});
        return text.empty() ? std::string(value) : text;
    };
    const probe::Store *reader = reader_of(facts, file);
    const Case the{.facts = facts,
                   .file = file,
                   .document = document,
                   .version = version_of(document),
                   .major = major_of(reader),
                   .runs = reader != nullptr && reader->running,
                   .root = or_default("root", "/var/lib/containerd"),
                   .state = or_default("state", "/run/containerd"),
                   .out = remarks};
    for (const auto judge :
         {judge_version, judge_names, judge_disabled, judge_snapshotters, judge_places, judge_sync, judge_discard})
        judge(the);
    note_imports(the, out);
}

void judge_file(const probe::Facts &facts, const probe::ConfigFile &file, const Result<Json> &document, Outcome &out) {
    std::vector<Remark> remarks;
    if (document) {
        judge_document(facts, file, *document, remarks, out);
    } else if (document.error().code() == Errc::ResourceExhausted) {
        out.unable.push_back(fmt::format("{}: {}", shown(file.path), document.error().text()));
        return;
    } else {
        remarks.push_back(
            {Severity::critical, fmt::format("containerd does not start on it: {}", document.error().text())});
    }
    for (const Severity severity : {Severity::critical, Severity::warning, Severity::info})
        add_finding(file, remarks, severity, out);
}

struct Parsed {
    const probe::ConfigFile *file;
    Result<Json> document;
};

/// A file that another one imports says a part only: what it does not say stands there.
bool is_imported(const std::vector<Parsed> &all, const probe::ConfigFile &file) {
    return std::ranges::any_of(all, [&](const Parsed &other) {
        return other.file != &file && other.document &&
               std::ranges::any_of(toml_texts(*other.document, {"imports"}),
                                   [&](const std::string &import) { return imports(*other.file, import, file); });
    });
}

Outcome run(const probe::Facts &facts) {
    std::vector<Parsed> all;
    for (const auto &file : facts.config_files)
        if (file.kind == kind && file.text.find_first_not_of(" \t\r\n") != std::string::npos)
            all.push_back({&file, parse_toml(file.text)});
    Outcome out;
    for (const auto &[file, document] : all) {
        if (!is_imported(all, *file))
            judge_file(facts, *file, document, out);
        else if (!document)
            out.unable.push_back(fmt::format("{}: {}", shown(file->path), document.error().text()));
    }
    return out;
}

} // namespace

extern const Check containerd_config_lint;
const Check containerd_config_lint{
    .id = "containerd-config-lint",
    .title = "containerd's config.toml asks for what there is not, or leaves data unsafe",
    .why =
        "containerd passes over names it does not know, so that a setting in the wrong table or of another version "
        "does "
        "nothing and nobody notices. A snapshotter that is not loaded lets every pull fail. And by default a layer "
        "counts as unpacked before its files are on the disk: after a power cut it has empty files, and pulling again "
        "does not mend it, because the layer is there.",
    .limits =
        "Critical: containerd does not start, or pods get no layers or no CRI. Warning: a setting without effect, a "
        "version that newer releases removed, images in memory, sync_fs not set where damaged layers were found. "
        "Information: sync_fs not set, discard_unpacked_layers, discard_blocks, state on a disk. Known settings are "
        "those of containerd 1.6 to 2.2; what other files import is looked at only for the files themselves.",
    .remedy =
        "Correct the file; `containerd config migrate` writes the newest version of it. Set sync_fs where the host may "
        "lose power.",
    .risk = "A restart of containerd leaves containers running. sync_fs makes pulls wait for the disk.",
    .undo = "Put the old file back.",
    .run = run,
};

} // namespace shale::doctor::checks
