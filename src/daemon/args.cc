// SPDX-License-Identifier: Apache-2.0
// A dozen flags, read without CLI11: what a daemon does not load costs no memory.
#include "daemon/args.h"

#include <fmt/format.h>

#include <cstdio>
#include <string_view>

namespace shale::daemon {
namespace {

constexpr std::string_view help = R"(usage: shaled [OPTION...]

Serves containerd's snapshot service from shale's stores.

  --config FILE            configuration (default: /etc/shale/shale.toml when it is there)
  --root DIR               store of the one snapshotter (default: /var/lib/shale)
  --driver NAME            its storage driver
  --listen [unix://]PATH   its socket (default: /run/shale/shale.sock)
  --storage-opt [DRIVER.]KEY=VALUE   option of the driver; may be repeated
  --durability full|none
  --metrics ADDRESS        /metrics and /healthz at 127.0.0.1:PORT, [::1]:PORT or the path of a socket (default: off)
  --log-format text|json   (default: text)
  --log-level debug|info|warning|error   (default: info)
  --help, --version

--root, --driver and --listen describe one snapshotter and take the place of the file's [[snapshotter]] tables.
)";

} // namespace

Result<CommandLine> parse_command_line(const std::vector<std::string> &arguments) {
    CommandLine out;
    cli::Source &flags = out.globals.flags;
    flags.name = "flag";
    cli::SnapshotterTable one;
    one.origin = "flag";
    for (size_t i = 0; i < arguments.size(); ++i) {
        std::string_view word = arguments[i];
        if (word == "--help" || word == "-h" || word == "--version") {
            if (word == "--version")
                std::puts("shaled " SHALE_VERSION);
            else
                std::fwrite(help.data(), 1, help.size(), stdout);
            out.exit_code = 0;
            return out;
        }
        const size_t equals = word.find('=');
        const std::string_view name = word.substr(0, equals);
        const auto value = [&]() -> Result<std::string> {
            if (equals != std::string_view::npos) return std::string(word.substr(equals + 1));
            if (i + 1 == arguments.size())
                return fail(Errc::InvalidArgument, fmt::format("{} needs a value; see `shaled --help`", name));
            return arguments[++i];
        };
        if (name == "--config")
            out.globals.config = TRY(value());
        else if (name == "--root")
            one.root = TRY(value());
        else if (name == "--driver")
            one.driver = TRY(value());
        else if (name == "--listen")
            one.socket = TRY(value());
        else if (name == "--storage-opt")
            flags.storage_opts.push_back({TRY(value()), "--storage-opt", false});
        else if (name == "--durability")
            flags.durability = TRY(value());
        else if (name == "--metrics")
            flags.metrics = TRY(value());
        else if (name == "--log-format")
            flags.log_format = TRY(value());
        else if (name == "--log-level")
            flags.log_level = TRY(value());
        else
            return fail(Errc::InvalidArgument, fmt::format("there is no option \"{}\"; see `shaled --help`", word));
    }
    if (one.socket && one.socket->starts_with("unix://")) one.socket->erase(0, 7);
    if (one.root || one.driver || one.socket) flags.snapshotters.push_back(std::move(one));
    return out;
}

} // namespace shale::daemon
