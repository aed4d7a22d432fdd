// SPDX-License-Identifier: Apache-2.0
// Which version of a daemon is installed, by the package manager that put it there: no engine writes its version down,
// and no program of the host is run. Read are dpkg's database and that of rpm since 4.16 (SQLite); of others nothing is
// known.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

/// Version of a package by the path of a file that it has.
using PackagedFiles = std::map<std::string, std::string, std::less<>>;

/// The databases are read once for each program, however many processes are asked about.
class Packages {
public:
    explicit Packages(const probe::Host &host) : host_(host) {}

    /// Version of "dockerd" or "containerd", as its makers count: "27.3.1" of a package
    /// "5:27.3.1-1~debian.12~bookworm". `pid`: of the one that runs; 0: none does, and the one is meant that would be
    /// started, in /usr/bin or /usr/sbin. "": not known. It is not known of a file that no package has, and of one that
    /// is not there any more or is another one by now (the package was replaced and the daemon runs on; it is in a
    /// container).
    std::string version(std::string_view program, int pid, std::vector<probe::Problem> &problems);

private:
    struct Databases {
        std::optional<PackagedFiles> dpkg, rpm;
    };
    const probe::Host &host_;
    std::map<std::string_view, Databases> known_; ///< by program
};

/// Path of the file that the process runs, or that would be started; "": it is not there, another one lies there by
/// now, or it has another name than `program`.
std::string path_of_program(const probe::Host &host, std::string_view program, int pid);

/// The version field of an installed package in /var/lib/dpkg/status (deb-control(5)); "": it is not installed.
std::string version_in_dpkg_status(std::string_view status, std::string_view package);

struct PackagedFile {
    std::string path, version;
};
/// A file, by its number, of a package in rpm's database. Empty: the header has no such file, or the bytes are no
/// header (rpm.org, "RPM V4 Package format: header"; there without its magic).
PackagedFile file_in_rpm_header(std::string_view header, uint64_t index);

} // namespace shale::doctor
