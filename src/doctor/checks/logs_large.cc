// SPDX-License-Identifier: Apache-2.0
// logs-large: logs of containers that grow without an end.
#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t large_bytes = uint64_t{1} << 30U;
constexpr size_t most_commands = 5; ///< logs that a command is given for

std::string container_name(const probe::StoreContainer &container) {
    return container.name.empty() ? fmt::format("container {}", shown(container.id))
                                  : fmt::format("container {} ({})", shown(container.name),
                                                shown(std::string_view(container.id).substr(0, 12)));
}

/// Why docker's do not rotate.
void add_rotation(const probe::Facts &facts, const probe::Store &store, std::vector<std::string> &evidence) {
    if (store.engine != "docker") return;
    const auto *const unlimited = value_of(store.settings, "containers without a log limit");
    if (unlimited != nullptr && *unlimited != "0")
        evidence.push_back(fmt::format("containers of json-file without max-size: {}", shown(*unlimited)));
    const auto driver = docker_setting(facts, {"log-driver"});
    if (const auto size = docker_setting(facts, {"log-opts", "max-size"}))
        evidence.push_back(fmt::format("daemon.json has max-size {}: these containers were made before that, or with "
                                       "options of their own",
                                       shown(*size)));
    else
        evidence.push_back(fmt::format("daemon.json sets no max-size: {} does not rotate",
                                       driver ? shown(*driver) : "json-file, the default,"));
}

void add_limit(const probe::Store &store, std::vector<std::string> &commands) {
    if (store.engine == "docker") {
        commands.emplace_back("# /etc/docker/daemon.json, for containers that are made from then on: "
                              R"("log-opts": {"max-size": "10m", "max-file": "3"})");
        commands.emplace_back("systemctl restart docker");
    } else if (store.engine == "podman") {
        commands.emplace_back("# /etc/containers/containers.conf, for containers that are made from then on: "
                              "[containers] log_size_max = 10485760");
    } else if (store.engine == "containerd") {
        commands.emplace_back("# kubelet rotates at containerLogMaxSize (10Mi by default) in its configuration");
    }
}

void judge(const probe::Facts &facts, const probe::Store &store, Outcome &out) {
    std::vector<const probe::StoreContainer *> large;
    for (const auto &container : store.containers)
        if (container.log_bytes > large_bytes) large.push_back(&container);
    if (large.empty()) return;
    std::ranges::stable_sort(large, std::ranges::greater(), [](const auto *container) { return container->log_bytes; });
    Finding finding;
    add_rotation(facts, store, finding.evidence);
    uint64_t bytes = 0;
    for (const auto *container : large) {
        bytes += container->log_bytes;
        finding.evidence.push_back(fmt::format("{}: {}, {}", container_name(*container),
                                               format_bytes(container->log_bytes), shown(container->log_path)));
    }
    finding.evidence = limited(std::move(finding.evidence));
    for (size_t i = 0; i < std::min(large.size(), most_commands); ++i)
        if (!large[i]->log_path.empty())
            finding.commands.push_back(fmt::format("truncate -s 0 {}", shell_quote(large[i]->log_path)));
    add_limit(store, finding.commands);
    finding.subject = name_of(store);
    finding.summary =
        fmt::format("{} larger than 1 GiB, {} in all",
                    counted(large.size(), "container has a log", "containers have logs"), format_bytes(bytes));
    out.findings.push_back(std::move(finding));
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &store : facts.stores)
        judge(facts, store, out);
    return out;
}

} // namespace

extern const Check logs_large;
const Check logs_large{
    .id = "logs-large",
    .title = "Logs of containers grow without an end",
    .why = "Docker's default log driver keeps everything that a container ever wrote to its standard output, beside "
           "the layers, where neither `docker system df` nor any prune sees it. One chatty container fills the disk.",
    .limits = "The log of one container over 1 GiB. json-file does not rotate unless max-size is set (moby, "
              "daemon/logger/jsonfilelog); the driver `local` keeps 5 files of 20 MiB; kubelet rotates at 10 MiB "
              "(containerLogMaxSize).",
    .remedy = "Empty the log, then set a limit and make the container again: a log option holds for the life of a "
              "container.",
    .risk = "What is emptied is gone. dockerd appends, so cutting the file while it runs is safe for it; `docker "
            "logs --follow` may show a torn line. A restart of dockerd stops its containers unless live-restore is "
            "on.",
    .undo = "None for the contents: copy the log elsewhere first if it is needed.",
    .run = run,
};

} // namespace shale::doctor::checks
