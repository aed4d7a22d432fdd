// SPDX-License-Identifier: Apache-2.0
#include "cli/load.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <optional>
#include <utility>

#include "sys/fs.h"

namespace shale::cli {
namespace {

std::string environment(const char *name) {
    const char *value = getenv(name);
    return value == nullptr ? "" : value;
}

std::string home_dir(const char *xdg, const char *fallback) {
    std::string dir = environment(xdg);
    if (dir.starts_with('/')) return dir;
    dir = environment("HOME");
    return dir.starts_with('/') ? dir + fallback : "";
}

/// Text of a configuration file; a missing one is an error only when it was asked for.
Result<std::optional<std::string>> read_config(const std::string &path, bool asked_for) {
    // Not sys::read_file: a symlink is fine here.
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
        if (errno == ENOENT && !asked_for) return std::nullopt;
        return fail_errno(errno, "open " + path);
    }
    std::string text;
    std::vector<std::byte> buffer(65'536);
    while (true) {
        const size_t got = TRY(in_context(sys::read_some(fd.get(), buffer), [&] { return "read " + path; }));
        if (got == 0) return text;
        text.append(reinterpret_cast<const char *>(buffer.data()), got);
        if (text.size() > (size_t{1} << 20U)) return fail(Errc::ResourceExhausted, path + " has more than 1 MiB");
    }
}

} // namespace

Result<Config> load_config(const Globals &globals, bool user_store) {
    std::vector<Source> sources{globals.flags};
    Source &env = sources.emplace_back();
    env.name = "environment";
    if (std::string root = environment("SHALE_ROOT"); !root.empty()) env.root = root;
    if (std::string driver = environment("SHALE_DRIVER"); !driver.empty()) env.driver = driver;

    guard::Config guard;
    std::string config = globals.config;
    if (config.empty()) {
        const std::string dir = user_store ? home_dir("XDG_CONFIG_HOME", "/.config") : "/etc";
        if (!dir.empty()) config = dir + "/shale/shale.toml";
    }
    if (!config.empty())
        if (auto text = TRY(read_config(config, !globals.config.empty()))) {
            sources.push_back(TRY(parse_toml(*text, config)));
            guard = TRY(guard::parse_config(*text, config));
        }
    if (!globals.daemon_json.empty())
        sources.push_back(TRY(parse_daemon_json(*TRY(read_config(globals.daemon_json, true)), globals.daemon_json)));

    // A relative --root is relative to here; a file's must be absolute, it has no "here".
    if (auto &root = sources[0].root; root && !root->empty() && !root->starts_with('/')) {
        std::string here(4096, '\0');
        if (getcwd(here.data(), here.size()) == nullptr) return fail_errno(errno, "getcwd");
        root = fmt::format("{}/{}", here.c_str(), *root);
    }
    std::string default_root = "/var/lib/shale";
    if (user_store) {
        const std::string data = home_dir("XDG_DATA_HOME", "/.local/share");
        if (data.empty() && !sources[0].root && !env.root)
            return fail(Errc::FailedPrecondition, "neither XDG_DATA_HOME nor HOME is set; name the store with --root");
        default_root = data + "/shale";
    }
    return Config{std::move(sources), std::move(default_root), std::move(guard)};
}

} // namespace shale::cli
