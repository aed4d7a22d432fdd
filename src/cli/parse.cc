// SPDX-License-Identifier: Apache-2.0
// The only file that includes CLI11: words to structs.
#include <CLI/CLI.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <climits>

#include "base/text.h"
#include "base/units.h"
#include "cli/args.h"
#include "cli/options.h"
#include "cli/watch_delivery.h"

namespace shale::cli {
namespace {

class Parser {
public:
    Parser() : app_("Container storage engine", "shale") {
        app_.require_subcommand(1);
        app_.fallthrough();
        app_.set_help_all_flag("--help-all", "Help of all verbs");
        app_.set_version_flag("--version", std::string("shale ") + SHALE_VERSION);
        add_globals();
        add_plain();
        add_images();
        add_layers();
        add_containers();
        add_run();
        add_migrate();
        add_leases();
        add_host();
    }

    Result<CommandLine> parse(const std::vector<std::string> &arguments) {
        auto [own, command] = split_command(arguments);
        std::ranges::reverse(own); // CLI11 takes them last first
        try {
            app_.parse(own);
        } catch (const CLI::ParseError &error) {
            if (error.get_exit_code() == 0) { // help, version
                line_.exit_code = app_.exit(error);
                return std::move(line_);
            }
            const std::string unknown = unknown_verb(arguments);
            return fail(Errc::InvalidArgument,
                        fmt::format("{}; see `shale --help`", unknown.empty() ? error.what() : unknown));
        }
        if (auto *run = std::get_if<RunArgs>(&line_.verb))
            run->command = std::move(command);
        else if (auto *unshare = std::get_if<UnshareArgs>(&line_.verb))
            unshare->command = std::move(command);
        else if (auto *watch = std::get_if<WatchArgs>(&line_.verb))
            watch->command = std::move(command);
        TRY(convert());
        return std::move(line_);
    }

private:
    /// `run` and `unshare` end with a command whose words are not shale's: everything behind IMAGE is cut off here,
    /// so that `shale run debian ls --json` gives --json to ls.
    std::pair<std::vector<std::string>, std::vector<std::string>>
    split_command(const std::vector<std::string> &arguments) {
        size_t positionals = 0, limit = 0;
        const CLI::App *verb = &app_;
        for (size_t i = 0; i < arguments.size(); ++i) {
            const std::string &word = arguments[i];
            if (word == "--" && limit != 0) return cut(arguments, i, i + 1);
            if (word.size() > 1 && word[0] == '-') {
                if (word.starts_with("--container") && limit != 0) limit = 1;
                if (takes_value(verb, word)) ++i;
                continue;
            }
            if (positionals == 0) {
                if (word == "watch") return split_watch(arguments);
                if (word != "run" && word != "unshare") return {arguments, {}};
                verb = app_.get_subcommand(word);
                limit = word == "run" ? 2 : 1;
            }
            if (limit != 0 && positionals >= limit) return cut(arguments, i, i);
            ++positionals;
        }
        return {arguments, {}};
    }

    /// `watch` has its paths before, and its command behind `--exec ... --`.
    static std::pair<std::vector<std::string>, std::vector<std::string>>
    split_watch(const std::vector<std::string> &arguments) {
        const auto bar = std::ranges::find(arguments, "--");
        if (bar == arguments.end() || std::find(arguments.begin(), bar, "--exec") == bar) return {arguments, {}};
        const auto at = static_cast<size_t>(bar - arguments.begin());
        return cut(arguments, at, at + 1);
    }

    /// What to say about the first word that stands where a verb must and is none; empty when there is no such word.
    /// CLI11 only says that a subcommand is missing.
    std::string unknown_verb(const std::vector<std::string> &arguments) const {
        const CLI::App *verb = &app_;
        std::string before;
        for (size_t i = 0; i < arguments.size(); ++i) {
            const std::string &word = arguments[i];
            if (word.size() > 1 && word[0] == '-') {
                if (takes_value(verb, word)) ++i;
                continue;
            }
            const auto verbs = verb->get_subcommands([](const CLI::App *) { return true; });
            if (verbs.empty()) return ""; // the rest are its arguments
            const auto found = std::ranges::find_if(verbs, [&](const CLI::App *one) { return one->check_name(word); });
            if (found == verbs.end()) {
                std::vector<std::string_view> names;
                names.reserve(verbs.size());
                for (const CLI::App *one : verbs)
                    names.push_back(one->get_name());
                const std::string near = nearest(word, names);
                return fmt::format("no verb is called \"{}{}\"{}", before, word,
                                   near.empty() ? "" : fmt::format(" (did you mean \"{}{}\"?)", before, near));
            }
            verb = *found;
            before += verb->get_name() + " ";
        }
        return "";
    }

    static std::pair<std::vector<std::string>, std::vector<std::string>> cut(const std::vector<std::string> &all,
                                                                             size_t end, size_t begin) {
        const auto at = [&](size_t i) { return all.begin() + static_cast<std::ptrdiff_t>(i); };
        return {{all.begin(), at(end)}, {at(begin), all.end()}};
    }

    bool takes_value(const CLI::App *verb, const std::string &word) const {
        if (word.find('=') != std::string::npos || (word[1] != '-' && word.size() > 2)) return false;
        const CLI::Option *option = verb->get_option_no_throw(word);
        if (option == nullptr) option = app_.get_option_no_throw(word);
        return option != nullptr && option->get_items_expected_max() > 0;
    }

    void add_globals() {
        Globals &g = line_.globals;
        g.flags.name = "flag";
        CLI::App &a = app_;
        const char *group = "Global options";
        a.add_option("--root", g.flags.root, "Directory of the store")->group(group);
        a.add_option("-s,--driver,--storage-driver", g.flags.driver, "Storage driver (see `shale drivers`)")
            ->group(group);
        a.add_option("--storage-opt", storage_opts_, "Option of the driver: [DRIVER.]KEY=VALUE; may be repeated")
            ->allow_extra_args(false)
            ->group(group);
        a.add_option("--config", g.config, "Configuration file (TOML)")->group(group);
        a.add_option("--daemon-json", g.daemon_json, "Docker's daemon.json: storage-driver and storage-opts are taken")
            ->group(group);
        a.add_option("--durability", g.flags.durability,
                     "full: what is reported done survives a power loss; none: for tests")
            ->group(group);
        a.add_option("--jobs", g.flags.jobs, "Layers unpacked at once (0: one per processor)")->group(group);
        a.add_option("--max-entries", g.flags.max_entries, "Most entries that one layer may have")->group(group);
        a.add_option("--max-layer-size", max_layer_size_, "Most bytes that one layer may unpack to, e.g. 20G")
            ->group(group);
        a.add_flag("--json", g.json, "One JSON document on standard output")->group(group);
        a.add_flag("-q,--quiet", g.quiet, "Only ids")->group(group);
        a.add_flag("-v,--verbose", g.verbose, "Say more on standard error")->group(group);
        a.add_flag("--no-color", g.no_color, "No colours (so does NO_COLOR)")->group(group);
        a.add_flag("--dry-run", g.dry_run, "rm, gc, migrate, orphans: only say what would be done")->group(group);
    }

    template <class Args> CLI::App *add(CLI::App *to, const char *name, const char *help, Args &args) {
        CLI::App *verb = to->add_subcommand(name, help);
        verb->callback([this, &args] { line_.verb = args; });
        return verb;
    }
    CLI::App *group(const char *name, const char *help) {
        CLI::App *verb = app_.add_subcommand(name, help);
        verb->require_subcommand(1);
        return verb;
    }

    void add_plain() {
        add(&app_, "info", "Driver, backing file system, counts, versions", info_);
        add(&app_, "drivers", "What each driver can do on this host, by trying", drivers_)
            ->add_flag("--measure", drivers_.measure, "Also time what containers do, with each driver that works here");
        add(&app_, "version", "Version", version_);
        add(&app_, "gc", "Remove what nothing uses", gc_);
        CLI::App *df = add(&app_, "df", "Where the space is", df_);
        df->add_flag("--host", df_.host, "On the whole host: all stores of all engines, and what lies beside them");
        add_host_options(df, df_.where, false);
        CLI::App *check = add(&app_, "check", "Verify the store", check_);
        check->add_option("--level", check_.level, "quick, full or data")
            ->capture_default_str()
            ->check(CLI::IsMember({"quick", "full", "data"}));
        check->add_flag("--repair", check_.repair, "Mend what can be mended from what the store holds");
        add(group("config", "Configuration"), "show", "The effective configuration and where it comes from",
            config_show_);
        add(group("containerd", "For containerd"), "config",
            "What its configuration needs to find shaled's snapshotters", containerd_config_);
    }

    void add_images() {
        CLI::App *image = group("image", "Images");
        CLI::App *import = add(image, "import", "Import an OCI layout, an OCI or docker archive", import_);
        import->add_option("FILE", import_.file, "Archive or directory; - is standard input")->required();
        import->add_option("--name", import_.name, "Name to give it");
        import->add_option("--platform", platform_, "OS/ARCH to take from an index")->capture_default_str();
        import->add_option("--ref", import_.reference, "Only this image of several");
        add(image, "ls", "List images", image_ls_);
        add(image, "inspect", "All about an image, JSON", image_inspect_)
            ->add_option("REF", image_inspect_.reference)
            ->required();
        CLI::App *tag = add(image, "tag", "Give an image another name", tag_);
        tag->add_option("REF", tag_.reference)->required();
        tag->add_option("NAME", tag_.name)->required();
        CLI::App *out = add(image, "export", "Write an image to an archive or a directory", image_export_);
        out->add_option("REF", image_export_.reference)->required();
        out->add_option("FILE", image_export_.file)->required();
        out->add_option("--format", image_export_.format, "oci-dir, oci, docker; default: oci for *.tar, else oci-dir")
            ->check(CLI::IsMember({"oci-dir", "oci", "docker"}));
        CLI::App *rm = add(image, "rm", "Remove names, and images with their last name", image_rm_);
        rm->add_option("REF", image_rm_.references)->required();
        rm->add_flag("-f,--force", image_rm_.force, "Also with several names");
    }

    void add_layers() {
        CLI::App *layer = group("layer", "Layers");
        add(layer, "ls", "List layers", layer_ls_);
        add(layer, "inspect", "All about a layer, JSON", layer_inspect_)
            ->add_option("ID", layer_inspect_.reference)
            ->required();
        CLI::App *out = add(layer, "export", "Write a layer as canonical tar", layer_export_);
        out->add_option("ID", layer_export_.reference)->required();
        out->add_option("FILE", layer_export_.file, "- is standard output")->required();
    }

    void add_containers() {
        CLI::App *container = group("container", "Containers");
        CLI::App *create = add(container, "create", "A writable layer over an image", create_);
        create->add_option("IMAGE", create_.image)->required();
        create->add_option("--name", create_.name);
        create->add_option("--size", create_.size, "Most bytes it may write, e.g. 10G");
        create->add_option("--inodes", create_.inodes, "Most inodes it may have");
        CLI::App *mount = add(container, "mount", "Mount and print where", mount_);
        mount->add_option("NAME", mount_.name)->required();
        mount->add_option("TARGET", mount_.target, "Directory to mount on");
        add(container, "unmount", "Unmount", unmount_)->alias("umount")->add_option("NAME", unmount_.name)->required();
        add(container, "ls", "List containers", container_ls_);
        add(container, "inspect", "All about a container, JSON", container_inspect_)
            ->add_option("NAME", container_inspect_.name)
            ->required();
        add(container, "diff", "What changed: A, C, D and path", diff_)->add_option("NAME", diff_.name)->required();
        CLI::App *commit = add(container, "commit", "Make an image of a container", commit_);
        commit->add_option("CONTAINER", commit_.container)->required();
        commit->add_option("NAME", commit_.name)->required();
        commit->add_option("--comment", commit_.comment);
        commit->add_option("--author", commit_.author);
        commit->add_option("--cmd", commit_.cmd, R"(Command of the image: ["a","b"], or a line for /bin/sh)");
        commit->add_option("--compression", commit_.compression, "gzip, zstd or none")
            ->capture_default_str()
            ->check(CLI::IsMember({"gzip", "zstd", "none"}));
        CLI::App *out = add(container, "export", "Write the whole tree as tar", container_export_);
        out->add_option("NAME", container_export_.name)->required();
        out->add_option("FILE", container_export_.file, "- is standard output")->required();
        CLI::App *rm = add(container, "rm", "Remove containers", container_rm_);
        rm->add_option("NAME", container_rm_.names)->required();
        rm->add_flag("-f,--force", container_rm_.force, "Unmount first");
    }

    void add_run() {
        CLI::App *run = add(&app_, "run", "Run a command in a container (crun or runc)", run_);
        run->add_option("IMAGE", run_.image, "Image; its command runs when none is given");
        run->add_option("--container", run_.container, "A container that exists, instead of IMAGE");
        run->add_option("--name", run_.name, "Name of the new container; it is then kept");
        run->add_flag("--rm", run_.remove, "Remove the container afterwards (default without --name)");
        run->add_flag("--keep", run_.keep, "Keep the container that was made");
        run->add_option("--runtime", run_.runtime, "crun, runc or a path");
        run->footer("Behind IMAGE: [--] CMD ARG...");
        add(&app_, "unshare", "Run a command in the user and mount namespace of a rootless store", unshare_)
            ->footer("[--] CMD ARG...");
    }

    void add_migrate() {
        CLI::App *verb = add(&app_, "migrate", "Move the store to another driver, or directory, or both", migrate_);
        CLI::Option *to = verb->add_option("--to", migrate_.to, "Driver to copy to; run again, it goes on");
        verb->add_option("--to-root", migrate_.to_root, "Another root for it (a new directory)")->needs(to);
        verb->add_option("--to-opt", migrate_.to_options, "Option of the new driver: KEY=VALUE; may be repeated")
            ->allow_extra_args(false)
            ->needs(to);
        verb->add_flag("--force", migrate_.force, "Also when the estimate does not fit")->needs(to);
        verb->add_option("--verify", migrate_.verify,
                         "digest: layers by their digests, containers' trees; data: all files of all trees")
            ->capture_default_str()
            ->check(CLI::IsMember({"digest", "data"}));
        CLI::Option *finish = verb->add_flag("--finish", migrate_.finish, "Copy the rest and switch to the copy");
        CLI::Option *back = verb->add_flag("--rollback", migrate_.rollback, "Take the copy away");
        finish->excludes(back)->excludes(to);
        back->excludes(to);
    }

    void add_leases() {
        CLI::App *lease = group("lease", "Leases: what they name is not collected");
        CLI::App *create = add(lease, "create", "Create a lease", lease_create_);
        create->add_option("ID", lease_create_.id, "Made up when left out");
        create->add_option("--expires", lease_create_.expires, "After e.g. 90s, 15m, 24h, 7d");
        create->add_option("--ref", lease_create_.refs, "layer:ID, blob:DIGEST, image:DIGEST; may be repeated")
            ->allow_extra_args(false);
        add(lease, "ls", "List leases", lease_ls_);
        add(lease, "rm", "Remove leases", lease_rm_)->add_option("ID", lease_rm_.ids)->required();
    }

    static void add_host_options(CLI::App *verb, HostArgs &host, bool usage = true) {
        verb->add_option("--host-root", host.root, "Where the host's disk is mounted")->capture_default_str();
        verb->add_option("--store", host.stores, "ENGINE=DIRECTORY: only this one; may be repeated")
            ->allow_extra_args(false);
        if (usage)
            verb->add_flag("--no-usage", host.no_usage, "Do not count what layers take: looks at no inode of theirs");
    }

    void add_host() {
        add_host_options(add(&app_, "facts", "All there is to know about this container host, JSON", facts_),
                         facts_.host);
        CLI::App *doctor = add(&app_, "doctor", "What is wrong with this container host, and what to do", doctor_);
        add_host_options(doctor, doctor_.host);
        doctor->add_option("--facts", doctor_.facts, "A file of `shale facts` instead; - is standard input");
        doctor->add_option("--format", doctor_.format, "text, json, html, prometheus, line (node-problem-detector)")
            ->capture_default_str()
            ->check(CLI::IsMember({"text", "json", "html", "prometheus", "line"}));
        doctor->add_option("--check", doctor_.checks, "Only this check; may be repeated")->allow_extra_args(false);
        doctor->add_option("--explain", doctor_.explain, "The page of a check");
        doctor->add_flag("--list", doctor_.list, "List the checks");
        doctor->add_option("--watch", doctor_.watch_s, "Again every so many seconds, until interrupted");
        add_orphans();
        add_cache();
        add_guard();
        add_watch();
        add_lab();
    }

    void add_watch() {
        CLI::App *watch = add(&app_, "watch", "Tell what happens to paths, also where inotify cannot", watch_);
        watch->add_option("PATH", watch_.paths, "Files and directories; they need not be there yet")->required();
        watch->add_flag("--once", watch_.once, "End after the first event");
        watch->add_option("--debounce", watch_.debounce_ms, "Milliseconds that a path must be quiet before it is told")
            ->capture_default_str()
            ->check(CLI::Range(0, 3'600'000));
        watch->add_option("--timeout", watch_.timeout_s, "End after so many seconds; exit status 1 without an event")
            ->check(CLI::Range(0, 1'000'000'000));
        watch->add_flag("--recursive", watch_.recursive, "Of directories all that is below, on their file system");
        CLI::Option *pid =
            watch->add_option("--pid", watch_.pid, "PATH as this process sees it")->check(CLI::Range(1, INT_MAX));
        watch->add_option("--container", watch_.container, "The same for a container of this store")->excludes(pid);
        watch->add_option("--signal", watch_.signal, "Send that process this signal with each event");
        watch->add_flag("--exec", watch_.exec, "Run what is behind -- with each event (SHALE_PATH, SHALE_EVENT)");
        watch->footer("Behind the PATHs: --exec -- CMD ARG...");
    }

    void add_lab() {
        CLI::App *lab = group("lab", "Failures of container hosts, made to happen in a sandbox, seen, and mended");
        add(lab, "ls", "The scenarios, and which can run here", lab_ls_);
        add(lab, "show", "What a scenario is about", lab_show_)
            ->add_option("SCENARIO", lab_show_.scenario, "Its id")
            ->required();
        CLI::App *run = add(
            lab, "run", "Run scenarios; exit status 1 unless all that ran are reproduced, detected, healed", lab_run_);
        run->add_option("SCENARIO", lab_run_.scenarios, "Ids, or all")->required();
        run->add_option("--report", lab_run_.report, "Also write the stories there: a page (.html), or JSON");
        run->add_option("--dir", lab_run_.directory,
                        "Where the disks are kept (files without a name); default: in memory");
        run->add_option("--limit", lab_run_.limit_s, "Seconds that one scenario may take")
            ->capture_default_str()
            ->check(CLI::Range(1, 1'000'000));
        CLI::App *report =
            add(lab, "report", "One report of the JSON of several runs, also of other machines", lab_report_);
        report->add_option("FILE", lab_report_.files, "Written by lab run --report")->required();
        report->add_option("-o,--output", lab_report_.output, "A page (.html), or JSON; default: a table");
    }

    void add_guard() {
        CLI::App *guard = group("guard", "Watch what runs out, and act before it has (see [guard] of shale.toml)");
        guard->require_subcommand(0, 1); // by itself it watches
        guard->callback([this, guard] {
            if (guard->get_subcommands().empty()) line_.verb = guard_;
        });
        guard->add_flag("--once", guard_.once, "One look, what is due then, and a table of all resources");
        guard->add_option("--interval", guard_.interval_s, "Seconds between two looks; default: as configured");
        add(guard, "events", "What the store's guard saw and did, the newest last", guard_events_)
            ->add_option("-n,--most", guard_events_.most, "At most so many")
            ->capture_default_str();
    }

    void add_cache() {
        CLI::App *cache = group("cache", "Whose the page cache is");
        CLI::App *top = add(cache, "top", "What of layers, images and containers is in the page cache", cache_top_);
        add_host_options(top, cache_top_.host, false);
        top->add_option("--by", cache_top_.by, "layer, image or container; default: all")
            ->check(CLI::IsMember({"layer", "image", "container"}));
        top->add_option("-n,--most", cache_top_.most, "Rows of each kind")->capture_default_str();
        CLI::App *evict = add(cache, "evict", "Have clean pages dropped, of one thing only", cache_evict_);
        add_host_options(evict, cache_evict_.host, false);
        CLI::Option *layer = evict->add_option("--layer", cache_evict_.layer, "Id of a layer");
        CLI::Option *image = evict->add_option("--image", cache_evict_.image, "Name or id of an image: all its layers");
        CLI::Option *cgroup =
            evict->add_option("--cgroup", cache_evict_.cgroup, "Path of a cgroup, as in /proc/PID/cgroup");
        layer->excludes(image)->excludes(cgroup);
        image->excludes(cgroup);
    }

    void add_orphans() {
        CLI::App *orphans = group("orphans", "What lies in stores and is in no record");
        orphans->require_subcommand(0, 1); // by itself it is `ls`
        orphans->callback([this, orphans] {
            if (orphans->get_subcommands().empty()) line_.verb = orphans_ls_;
        });
        add_host_options(orphans, orphans_all_.host);
        orphans->add_flag(
            "--assume-alone", orphans_all_.assume_alone,
            "Nobody uses the stores but who can be seen from here: the host of that disk is off, or the engine "
            "runs in this very container");
        add(orphans, "ls", "List orphans, each with its proof", orphans_ls_);
        CLI::App *reclaim = add(orphans, "reclaim", "Move orphans to a trash; undo puts them back", orphans_reclaim_);
        reclaim->add_option("LAYER", orphans_reclaim_.layers, "Only these; default: all that nothing stands against");
        reclaim->add_option("--min-age", orphans_reclaim_.min_age_s, "Seconds: younger ones stay")
            ->capture_default_str();
        add(orphans, "trash", "List what was reclaimed and not purged", orphans_trash_);
        add(orphans, "undo", "Put reclaimed layers back", orphans_undo_)
            ->add_option("LAYER", orphans_undo_.layers, "Only these; default: all");
        add(orphans, "purge", "Free what was reclaimed, for good", orphans_purge_)
            ->add_option("LAYER", orphans_purge_.layers, "Only these; default: all");
    }

    [[nodiscard]] bool has_dry_run() const {
        const auto &verb = line_.verb;
        return std::holds_alternative<ImageRmArgs>(verb) || std::holds_alternative<ContainerRmArgs>(verb) ||
               std::holds_alternative<LeaseRmArgs>(verb) || std::holds_alternative<GcArgs>(verb) ||
               std::holds_alternative<MigrateArgs>(verb) || std::holds_alternative<OrphansReclaimArgs>(verb) ||
               std::holds_alternative<OrphansUndoArgs>(verb) || std::holds_alternative<OrphansPurgeArgs>(verb) ||
               std::holds_alternative<CacheEvictArgs>(verb) || std::holds_alternative<GuardArgs>(verb);
    }

    /// What CLI11 cannot turn into its final type.
    Status convert() {
        std::visit(
            [this]<class Args>(Args &args) {
                if constexpr (std::is_base_of_v<OrphansVerb, Args>) static_cast<OrphansVerb &>(args) = orphans_all_;
            },
            line_.verb);
        for (const std::string &text : storage_opts_)
            line_.globals.flags.storage_opts.push_back({text, "--storage-opt", false});
        if (!max_layer_size_.empty())
            line_.globals.flags.max_layer_bytes =
                TRY(in_context(parse_bytes(max_layer_size_), [] { return std::string("--max-layer-size"); }));
        if (line_.globals.dry_run && !has_dry_run())
            return fail(
                Errc::InvalidArgument,
                "this command has no --dry-run: that is for image rm, container rm, lease rm, gc, migrate, orphans "
                "reclaim, orphans undo, orphans purge, cache evict and guard");
        if (auto *import = std::get_if<ImageImportArgs>(&line_.verb)) {
            const size_t slash = platform_.find('/');
            if (slash == 0 || slash == std::string::npos || slash + 1 == platform_.size())
                return fail(Errc::InvalidArgument,
                            fmt::format("--platform \"{}\" must be OS/ARCH, e.g. linux/amd64", platform_));
            import->os = platform_.substr(0, slash);
            import->architecture = platform_.substr(slash + 1);
        }
        if (const auto *evict = std::get_if<CacheEvictArgs>(&line_.verb);
            evict != nullptr && evict->layer.empty() && evict->image.empty() && evict->cgroup.empty())
            return fail(Errc::InvalidArgument, "cache evict needs --layer ID, --image NAME or --cgroup PATH");
        if (const auto *doctor = std::get_if<DoctorArgs>(&line_.verb);
            doctor != nullptr && doctor->watch_s != 0 && doctor->facts == "-")
            return fail(Errc::InvalidArgument,
                        "doctor --watch reads the facts again each time, and standard input (--facts "
                        "-) can be read once only; name a file, or leave one of the two out");
        if (const auto *watch = std::get_if<WatchArgs>(&line_.verb)) TRY(check_watch(*watch));
        if (const auto *run = std::get_if<RunArgs>(&line_.verb)) {
            if (run->image.empty() == run->container.empty())
                return fail(Errc::InvalidArgument, "run needs an IMAGE, or --container NAME (not both)");
            if (!run->container.empty() && (run->remove || !run->name.empty()))
                return fail(Errc::InvalidArgument,
                            "--rm and --name are for a container made by run, not with --container");
            if (run->remove && run->keep) return fail(Errc::InvalidArgument, "--rm and --keep exclude each other");
        }
        return {};
    }

    static Status check_watch(const WatchArgs &args) {
        if (args.exec && args.command.empty())
            return fail(Errc::InvalidArgument, "--exec needs a command, behind the PATHs: --exec -- CMD ARG...");
        if (args.signal.empty()) return {};
        if (args.pid == 0 && args.container.empty())
            return fail(Errc::InvalidArgument, "--signal needs --pid PID or --container NAME: whom to send it to");
        TRY(in_context(parse_signal(args.signal), [] { return std::string("--signal"); }));
        return {};
    }

    CLI::App app_;
    CommandLine line_;
    std::vector<std::string> storage_opts_;
    std::string max_layer_size_, platform_ = "linux/amd64";
    InfoArgs info_;
    DriversArgs drivers_;
    VersionArgs version_;
    ImageImportArgs import_;
    ImageLsArgs image_ls_;
    ImageInspectArgs image_inspect_;
    ImageTagArgs tag_;
    ImageExportArgs image_export_;
    ImageRmArgs image_rm_;
    LayerLsArgs layer_ls_;
    LayerInspectArgs layer_inspect_;
    LayerExportArgs layer_export_;
    ContainerCreateArgs create_;
    ContainerMountArgs mount_;
    ContainerUnmountArgs unmount_;
    ContainerLsArgs container_ls_;
    ContainerInspectArgs container_inspect_;
    ContainerDiffArgs diff_;
    ContainerCommitArgs commit_;
    ContainerExportArgs container_export_;
    ContainerRmArgs container_rm_;
    RunArgs run_;
    UnshareArgs unshare_;
    GcArgs gc_;
    DfArgs df_;
    CheckArgs check_;
    MigrateArgs migrate_;
    LeaseCreateArgs lease_create_;
    LeaseLsArgs lease_ls_;
    LeaseRmArgs lease_rm_;
    ConfigShowArgs config_show_;
    ContainerdConfigArgs containerd_config_;
    FactsArgs facts_;
    DoctorArgs doctor_;
    CacheTopArgs cache_top_;
    CacheEvictArgs cache_evict_;
    GuardArgs guard_;
    GuardEventsArgs guard_events_;
    WatchArgs watch_;
    LabLsArgs lab_ls_;
    LabShowArgs lab_show_;
    LabRunArgs lab_run_;
    LabReportArgs lab_report_;
    OrphansVerb orphans_all_;
    OrphansLsArgs orphans_ls_;
    OrphansReclaimArgs orphans_reclaim_;
    OrphansTrashArgs orphans_trash_;
    OrphansUndoArgs orphans_undo_;
    OrphansPurgeArgs orphans_purge_;
};

} // namespace

Result<CommandLine> parse_command_line(const std::vector<std::string> &arguments) {
    return Parser().parse(arguments);
}

} // namespace shale::cli
