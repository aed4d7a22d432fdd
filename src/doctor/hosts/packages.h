// SPDX-License-Identifier: Apache-2.0
// Which version of a daemon is installed, by the package manager that put it there: no engine writes its version down,
// and no program of the host is run. Read are dpkg's database and that of rpm since 4.16 (SQLite); of others nothing is
// known.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

/// Version of "dockerd" or "containerd", as its makers count: "27.3.1" of a package "5:27.3.1-1~debian.12~bookworm".
/// `pid`: of the one that runs; 0: none does, and the one is meant that would be started, in /usr/bin or /usr/sbin.
/// "": not known. It is not known of a file that no package has, and of one that is not there any more or is another
/// one by now (the package was replaced and the daemon runs on; it is in a container).
std::string packaged_version(const probe::Host &host, std::string_view program, int pid,
                             std::vector<probe::Problem> &problems);

/// The version field of an installed package in /var/lib/dpkg/status (deb-control(5)); "": it is not installed.
std::string version_in_dpkg_status(std::string_view status, std::string_view package);
/// The version in the header of a package in rpm's database, if the package has the file; "": it has not, or the bytes
/// are no header (rpm.org, "RPM V4 Package format: header"; there without its magic).
std::string version_in_rpm_header(std::string_view header, std::string_view path);

} // namespace shale::doctor
