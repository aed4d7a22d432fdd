// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/containerd_discovery.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/paths.h"
#include "doctor/hosts/packages.h"
#include "doctor/hosts/places.h"
#include "doctor/hosts/times.h"
#include "sys/fs.h"

namespace shale::doctor::containerd {
namespace {

struct Place {
    const char *root, *state, *config;
};
/// The first is containerd's own default (defaults/defaults_unix.go), the others are of those who bring their own:
/// moby (libcontainerd/supervisor), k3s and rke2 (pkg/daemons/config), k0s (pkg/component/worker/containerd), microk8s.
constexpr Place places[] = {
    {default_root, default_state, default_config},
    {"/var/lib/docker/containerd/daemon", "/run/docker/containerd/daemon", "/run/docker/containerd/containerd.toml"},
    {"/var/lib/rancher/k3s/agent/containerd", "/run/k3s/containerd",
     "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"},
    {"/var/lib/rancher/rke2/agent/containerd", "/run/k3s/containerd",
     "/var/lib/rancher/rke2/agent/etc/containerd/config.toml"},
    {"/var/lib/k0s/containerd", "/run/k0s/containerd", "/etc/k0s/containerd.toml"},
    {"/var/snap/microk8s/common/var/lib/containerd", "/var/snap/microk8s/common/run/containerd",
     "/var/snap/microk8s/current/args/containerd.toml"},
};

bool is_containerd(const probe::Process &process) {
    return process.command == "containerd" ||
           (!process.arguments.empty() && split_path(process.arguments.front()).second == "containerd");
}

/// The number in the text, leading spaces skipped; 0: there is none.
bool same(const struct stat &one, const struct stat &other) {
    return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

class Search {
public:
    Search(const probe::Host &host, const std::vector<probe::Process> &processes, probe::Facts &facts)
        : host_(host), facts_(facts), packages_(host) {
        moment_.now_s =
            facts.taken_s != 0 ? facts.taken_s : static_cast<uint64_t>(std::max<time_t>(::time(nullptr), 0));
        moment_.processes_seen = host.live() && !processes.empty();
        for (const probe::Process &process : processes)
            if (host.live() && is_containerd(process)) add_process(process);
        for (const Place &place : places)
            add_place(place.root, place.state, place.config);
        // Rootless (nerdctl's containerd-rootless.sh): these are mounted at the default places within its namespace.
        for (const Home &home : homes(host, facts.problems))
            add_place(home.path + "/.local/share/containerd", fmt::format("/run/user/{}/containerd", home.uid),
                      home.path + "/.config/containerd/config.toml");
        for (const Elsewhere &one : elsewhere_)
            facts_.problems.push_back({fmt::format("containerd, process {}", one.pid),
                                       fmt::format("its {} is not the host's: it runs in a container, or has a mount "
                                                   "namespace of its own; it is not read",
                                                   one.root)});
    }

    std::vector<Instance> only(const std::string &root) {
        const auto wanted = host_.stat(root);
        if (!wanted || !*wanted || !S_ISDIR((*wanted)->st_mode)) {
            facts_.problems.push_back({root, wanted ? "there is no such directory" : wanted.error().text()});
            return {};
        }
        for (Instance &one : found_) {
            if (identity(host_, one.root) != identity(host_, root)) continue;
            one.root = root;
            return {std::move(one)};
        }
        Instance other;
        other.root = root;
        other.state = default_state;
        other.moment = moment_;
        return {std::move(other)};
    }

    std::vector<Instance> all() { return std::move(found_); }

private:
    /// One that runs, with a root that is not the host's.
    struct Elsewhere {
        int pid;
        std::string root;
        struct stat status;
    };

    void add_place(const std::string &root, const std::string &state, const std::string &config) {
        Instance out;
        out.config_path = config;
        out.config = read_config(host_, config, facts_);
        // Of the others, the configuration is made by what starts them, which gives the root on the command line.
        const bool own = config == default_config;
        out.root = own && !out.config.root.empty() ? out.config.root : root;
        out.state = out.config.state.empty() ? state : out.config.state;
        out.moment = moment_;
        const auto status = host_.stat(out.root);
        if (!status) facts_.problems.push_back({out.root, status.error().text()});
        if (!status || !*status) return;
        const auto user =
            std::ranges::find_if(elsewhere_, [&](const Elsewhere &one) { return same(one.status, **status); });
        if (user != elsewhere_.end()) {
            set_running(out, user->pid);
            elsewhere_.erase(user);
        }
        add(std::move(out));
    }

    void add_process(const probe::Process &process) {
        Instance out;
        out.config_path = first_of(argument(process.arguments, "config"), word_after(process, "-c"), default_config);
        out.config = read_config(host_, out.config_path, facts_);
        out.root = first_of(argument(process.arguments, "root"), out.config.root, default_root);
        out.state = first_of(argument(process.arguments, "state"), out.config.state, default_state);
        out.moment = moment_;
        // A path that is looked for in vain, or may not be looked at, is taken for the same.
        const auto seen = sys::stat_at(AT_FDCWD, fmt::format("/proc/{}/root{}/.", process.pid, out.root).c_str());
        const auto ours = host_.stat(out.root);
        if (seen && ours && (!*ours || !same(*seen, **ours))) {
            elsewhere_.push_back({process.pid, out.root, *seen});
            return;
        }
        set_running(out, process.pid);
        add(std::move(out));
    }

    void set_running(Instance &out, int pid) const {
        out.pid = pid;
        out.moment.running = true;
        out.moment.daemon_started_s = started_s(host_, pid);
    }

    static std::string first_of(std::string one, std::string other, const char *fallback) {
        return !one.empty() ? std::move(one) : !other.empty() ? std::move(other) : fallback;
    }

    void add(Instance &&one) {
        const std::string id = identity(host_, one.root);
        if (id.empty()) return; // not there yet
        for (const Instance &other : found_)
            if (identity(host_, other.root) == id) return;
        if (one.pid != 0 || one.config_path == default_config)
            one.version = packages_.version("containerd", one.pid, facts_.problems);
        found_.push_back(std::move(one));
    }

    const probe::Host &host_;
    probe::Facts &facts_;
    Packages packages_;
    Moment moment_;
    std::vector<Instance> found_;
    std::vector<Elsewhere> elsewhere_;
};

} // namespace

std::string word_after(const probe::Process &process, std::string_view option) {
    const auto &words = process.arguments;
    const auto found = std::ranges::find(words, option);
    return found == words.end() || found + 1 == words.end() ? std::string() : *(found + 1);
}

std::vector<Instance> find_instances(const probe::Host &host, const std::vector<probe::Process> &processes,
                                     const std::string &root, probe::Facts &facts) {
    Search search(host, processes, facts);
    return root.empty() ? search.all() : search.only(root);
}

} // namespace shale::doctor::containerd
