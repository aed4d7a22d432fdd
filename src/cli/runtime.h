// SPDX-License-Identifier: Apache-2.0
// A command in a container by way of an OCI runtime (crun, runc): the bundle's config.json, the user look-up, the
// child.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "oci/image.h"

namespace shale::cli {

/// Who a process in the container is.
struct ProcessUser {
    uint32_t uid = 0, gid = 0;
    std::vector<uint32_t> groups;
    std::string home = "/";
};
/// Resolves "", "uid", "name", "uid:gid", "name:group" with the root file system's own /etc/passwd and /etc/group.
/// Those files are the image's and hostile: opened inside the root only, regular files only, at most 1 MiB read
/// (CVE-2024-9676, CVE-2025-4437).
Result<ProcessUser> find_user(int root, std::string_view user);

struct RunSpec {
    std::string root;              ///< absolute path of the root file system
    std::vector<std::string> args; ///< not empty
    std::vector<std::string> env;  ///< "K=V"
    std::string cwd = "/", hostname;
    ProcessUser user;
    bool terminal = false;
    bool in_user_namespace = false; ///< sysfs and devices cannot be mounted: they come from the host
};
/// The runtime-spec config.json.
std::string bundle_config(const RunSpec &spec);
/// What the image and the command line together say: args = command, or entrypoint + cmd; env = the image's, PATH and
/// TERM added.
Result<RunSpec> run_spec(const oci::Config &config, const std::vector<std::string> &command);

/// Path of the OCI runtime: `wanted` (a name or path), else crun, else runc.
Result<std::string> find_runtime(const std::string &wanted);
/// Runs the bundle and waits; the container's exit code. Signals sent to us alone are passed on.
Result<int> run_bundle(const std::string &runtime, const std::string &state_dir, const std::string &bundle,
                       const std::string &id);
/// Runs a program with our terminal, environment and the given umask; its exit code (128 + signal when killed).
/// `prepare` is called in the child, before the program: async-signal-safe calls only.
Result<int> run_child(const std::string &program, const std::vector<std::string> &argv, mode_t mask,
                      void (*prepare)() = nullptr);

} // namespace shale::cli
