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

#include "cli/load.h"
#include "cli/userns.h"
#include "cli/verbs.h"

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

/// Of the host, and not of a store: no configuration that is broken may stand in the way.
bool is_about_host(const Verb &verb) {
    const auto *df = std::get_if<DfArgs>(&verb);
    const auto *watch = std::get_if<WatchArgs>(&verb);
    return std::holds_alternative<FactsArgs>(verb) || std::holds_alternative<DoctorArgs>(verb) ||
           std::holds_alternative<OrphansLsArgs>(verb) || std::holds_alternative<OrphansReclaimArgs>(verb) ||
           std::holds_alternative<OrphansTrashArgs>(verb) || std::holds_alternative<OrphansUndoArgs>(verb) ||
           std::holds_alternative<OrphansPurgeArgs>(verb) || std::holds_alternative<CacheTopArgs>(verb) ||
           std::holds_alternative<CacheEvictArgs>(verb) || std::holds_alternative<LabLsArgs>(verb) ||
           std::holds_alternative<LabShowArgs>(verb) || std::holds_alternative<LabRunArgs>(verb) ||
           std::holds_alternative<LabReportArgs>(verb) || (df != nullptr && df->host) ||
           (watch != nullptr && watch->container.empty());
}

bool needs_namespace(const Verb &verb) {
    return !is_about_host(verb) && !std::holds_alternative<VersionArgs>(verb) &&
           !std::holds_alternative<ConfigShowArgs>(verb) && !std::holds_alternative<ContainerdConfigArgs>(verb);
}

/// The first error wins; output that did not arrive is one too.
Result<int> run_verb(const CommandLine &line, mode_t user_umask) {
    Context context;
    context.globals = line.globals;
    context.user_umask = user_umask;
    context.cancel = &canceled;
    if (!is_about_host(line.verb)) {
        const bool user_store = geteuid() != 0 || getenv("SHALE_USERNS") != nullptr;
        context.config = TRY(load_config(line.globals, user_store));
        context.settings = TRY(resolve(context.config.sources, context.config.default_root, drivers::registry()));
    }
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
