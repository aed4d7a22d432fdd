// SPDX-License-Identifier: Apache-2.0
// What the command line says, parsed: one struct a verb, and what every verb shares.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "cli/options.h"

namespace shale::cli {

/// Options that may stand before or after any verb.
struct Globals {
    Source flags;                    ///< name "flag"
    std::string config, daemon_json; ///< files; empty: the default file when it is there, none
    bool json = false, quiet = false, verbose = false, no_color = false, dry_run = false;
};

struct InfoArgs {};
struct DriversArgs {
    bool measure = false;
};
struct VersionArgs {};
struct ImageImportArgs {
    std::string file, name, os, architecture, reference;
};
struct ImageLsArgs {};
struct ImageInspectArgs {
    std::string reference;
};
struct ImageTagArgs {
    std::string reference, name;
};
struct ImageExportArgs {
    std::string reference, file, format;
};
struct ImageRmArgs {
    std::vector<std::string> references;
    bool force = false;
};
struct LayerLsArgs {};
struct LayerInspectArgs {
    std::string reference;
};
struct LayerExportArgs {
    std::string reference, file;
};
struct ContainerCreateArgs {
    std::string image, name, size;
    uint64_t inodes = 0;
};
struct ContainerMountArgs {
    std::string name, target;
};
struct ContainerUnmountArgs {
    std::string name;
};
struct ContainerLsArgs {};
struct ContainerInspectArgs {
    std::string name;
};
struct ContainerDiffArgs {
    std::string name;
};
struct ContainerCommitArgs {
    std::string container, name, comment, author, cmd, compression = "gzip";
};
struct ContainerExportArgs {
    std::string name, file;
};
struct ContainerRmArgs {
    std::vector<std::string> names;
    bool force = false;
};
struct RunArgs {
    std::string image, container, name, runtime;
    bool remove = false, keep = false;
    std::vector<std::string> command;
};
struct UnshareArgs {
    std::vector<std::string> command;
};
struct GcArgs {};
/// Which host is looked at.
struct HostArgs {
    std::string root = "/";
    std::vector<std::string> stores; ///< ENGINE=DIRECTORY; empty: all that are found
    bool no_usage = false;
};
struct DfArgs {
    bool host = false; ///< of the whole host
    HostArgs where;
};
struct CheckArgs {
    std::string level = "quick";
    bool repair = false;
};
struct MigrateArgs {
    std::string to, to_root, verify = "digest";
    std::vector<std::string> to_options;
    bool finish = false, rollback = false, force = false;
};
struct LeaseCreateArgs {
    std::string id, expires;
    std::vector<std::string> refs;
};
struct LeaseLsArgs {};
struct LeaseRmArgs {
    std::vector<std::string> ids;
};
struct ConfigShowArgs {};
struct ContainerdConfigArgs {};

struct FactsArgs {
    HostArgs host;
};
struct DoctorArgs {
    HostArgs host;
    std::string facts; ///< a file of `shale facts` instead of a host
    std::string format = "text", explain;
    std::vector<std::string> checks;
    bool list = false;
    uint64_t watch_s = 0;
};
/// What all verbs of `orphans` share: the options stand at any of them, or at `orphans` itself.
struct OrphansVerb {
    HostArgs host;
    bool assume_alone = false;
};
struct OrphansLsArgs : OrphansVerb {};
struct OrphansReclaimArgs : OrphansVerb {
    std::vector<std::string> layers;
    uint64_t min_age_s = 600;
};
struct OrphansTrashArgs : OrphansVerb {};
struct OrphansUndoArgs : OrphansVerb {
    std::vector<std::string> layers;
};
struct OrphansPurgeArgs : OrphansVerb {
    std::vector<std::string> layers;
};

struct CacheTopArgs {
    HostArgs host;
    std::string by; ///< "layer", "image", "container"; empty: all
    uint64_t most = 20;
};
struct CacheEvictArgs {
    HostArgs host;
    std::string layer, image, cgroup;
};

struct GuardArgs {
    bool once = false;
    uint64_t interval_s = 0; ///< 0: as configured
};
struct GuardEventsArgs {
    uint64_t most = 50;
};

struct WatchArgs {
    std::vector<std::string> paths, command; ///< command: behind `--exec --`
    bool once = false, recursive = false, exec = false;
    uint64_t debounce_ms = 200;
    std::optional<uint64_t> timeout_s;
    int pid = 0; ///< 0: none
    std::string container, signal;
};

struct LabLsArgs {};
struct LabShowArgs {
    std::string scenario;
};
struct LabRunArgs {
    std::vector<std::string> scenarios; ///< ids, or "all"
    std::string report, directory;
    uint64_t limit_s = 900;
};
struct LabReportArgs {
    std::vector<std::string> files;
    std::string output;
};

using Verb =
    std::variant<std::monostate, InfoArgs, DriversArgs, VersionArgs, ImageImportArgs, ImageLsArgs, ImageInspectArgs,
                 ImageTagArgs, ImageExportArgs, ImageRmArgs, LayerLsArgs, LayerInspectArgs, LayerExportArgs,
                 ContainerCreateArgs, ContainerMountArgs, ContainerUnmountArgs, ContainerLsArgs, ContainerInspectArgs,
                 ContainerDiffArgs, ContainerCommitArgs, ContainerExportArgs, ContainerRmArgs, RunArgs, UnshareArgs,
                 GcArgs, DfArgs, CheckArgs, MigrateArgs, LeaseCreateArgs, LeaseLsArgs, LeaseRmArgs, ConfigShowArgs,
                 ContainerdConfigArgs, FactsArgs, DoctorArgs, OrphansLsArgs, OrphansReclaimArgs, OrphansTrashArgs,
                 OrphansUndoArgs, OrphansPurgeArgs, CacheTopArgs, CacheEvictArgs, GuardArgs, GuardEventsArgs, WatchArgs,
                 LabLsArgs, LabShowArgs, LabRunArgs, LabReportArgs>;

struct CommandLine {
    Globals globals;
    Verb verb;
    std::optional<int> exit_code; ///< set: help or version was printed, nothing is left to do
};
/// A wrong command line is InvalidArgument (exit code 2). `arguments`: without the program's name.
Result<CommandLine> parse_command_line(const std::vector<std::string> &arguments);

} // namespace shale::cli
