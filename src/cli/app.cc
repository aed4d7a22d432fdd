// SPDX-License-Identifier: Apache-2.0
#include "cli/app.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdlib>

#include "cli/userns.h"
#include "cli/verbs.h"
#include "sys/fs.h"

namespace shale::cli {
namespace {

std::atomic<bool> canceled{false};
static_assert(std::atomic<bool>::is_always_lock_free); // set in a signal handler

void on_signal(int) {
    if (canceled.exchange(true)) _exit(130);
}

void install_signals() {
    struct sigaction action{};
    action.sa_handler = on_signal;
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    signal(SIGPIPE, SIG_IGN);
}

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

Result<Settings> load_settings(const Globals &globals, bool user_store) {
    std::vector<Source> sources{globals.flags};
    Source &env = sources.emplace_back();
    env.name = "environment";
    if (std::string root = environment("SHALE_ROOT"); !root.empty()) env.root = root;
    if (std::string driver = environment("SHALE_DRIVER"); !driver.empty()) env.driver = driver;

    std::string config = globals.config;
    if (config.empty()) {
        const std::string dir = user_store ? home_dir("XDG_CONFIG_HOME", "/.config") : "/etc";
        if (!dir.empty()) config = dir + "/shale/shale.toml";
    }
    if (!config.empty())
        if (auto text = TRY(read_config(config, !globals.config.empty())))
            sources.push_back(TRY(parse_toml(*text, config)));
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
    return resolve(sources, default_root, drivers::registry());
}

bool needs_namespace(const Verb &verb) {
    return !std::holds_alternative<VersionArgs>(verb) && !std::holds_alternative<ConfigShowArgs>(verb);
}

/// The first error wins; output that did not arrive is one too.
Result<int> run_verb(const CommandLine &line, mode_t user_umask) {
    Context context;
    context.globals = line.globals;
    context.user_umask = user_umask;
    context.cancel = &canceled;
    const bool user_store = geteuid() != 0 || getenv("SHALE_USERNS") != nullptr;
    context.settings = TRY(load_settings(line.globals, user_store));
    for (const std::string &note : context.settings.notes)
        context.detail("shale: note: " + note);
    if (needs_namespace(line.verb)) context.rootless = enter_user_namespace();
    if (!context.rootless.unavailable.empty()) context.detail("shale: note: " + context.rootless.unavailable);
    return std::visit(
        [&]<class Args>(const Args &args) -> Result<int> {
            if constexpr (std::is_same_v<Args, std::monostate>)
                return fail(Errc::InvalidArgument, "no verb; see `shale --help`");
            else
                return run(context, args);
        },
        line.verb);
}

int report(const Error &error, bool json) {
    const ErrcInfo &info = errc_info(error.code());
    if (json) {
        Json out;
        out.object().key("error").object().field("code", info.name).field("message", error.text()).end().end();
        std::fputs(out.text().c_str(), stderr);
    } else {
        Context::note("shale: error: " + printable(error.text()));
    }
    return info.exit_code;
}

} // namespace

int run_program(const std::vector<std::string> &arguments) {
    // Modes are stated wherever a file is made; with umask 0 extraction needs no chmod after it.
    const mode_t user_umask = umask(0);
    install_signals();
    auto line = parse_command_line(arguments);
    if (!line) {
        bool json = false;
        for (const std::string &word : arguments)
            json = json || word == "--json";
        return report(line.error(), json);
    }
    if (line->exit_code) return *line->exit_code;
    auto code = run_verb(*line, user_umask);
    const Status flushed = flush_output();
    if (!code) return report(code.error(), line->globals.json);
    if (!flushed) return report(flushed.error(), line->globals.json);
    return *code;
}

} // namespace shale::cli
