// SPDX-License-Identifier: Apache-2.0
// Every cell comes from a probe that does the real thing, with the options that are configured, in a scratch directory
// on the store's own file system: .shale-probe-<pid>-XXXXXX beside the root. What a killed one left is taken away by
// the next.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/units.h"
#include "cli/verbs.h"
#include "drivers/common.h"
#include "drivers/measure.h"
#include "sys/fs.h"
#include "sys/mount.h"

namespace shale::cli {
namespace {

/// The file that the measured containers write to. Large enough that a copy-up shows, small enough to be quick.
constexpr uint64_t measured_bytes = uint64_t{100} << 20;

/// The root when it is there, else the nearest directory above that is: it will lie on the same file system.
std::string existing_parent(std::string path) {
    while (access(path.c_str(), F_OK) != 0) {
        const size_t slash = path.rfind('/');
        if (slash == 0 || slash == std::string::npos) return "/";
        path.resize(slash);
    }
    return path;
}

constexpr std::string_view scratch_prefix = ".shale-probe-";

/// A measured pool lies in files of the scratch directory: its label would stay on the device, its volumes in the
/// group.
constexpr std::array<std::string_view, 3> unmeasured{"pool", "device", "vg"};

/// What the configuration has for this driver, whichever is configured.
drivers::DriverOptions options_of(const Context &context, std::string_view driver) {
    drivers::DriverOptions out;
    for (const Source &source : context.config.sources) // the strongest first
        for (const StorageOpt &option : source.storage_opts) {
            const Verdict verdict = judge_option(option.text, context.settings.driver, drivers::registry());
            const std::string &owner = verdict.driver.empty() ? context.settings.driver : verdict.driver;
            if (verdict.standing != Standing::known || (!owner.empty() && owner != driver)) continue;
            if (driver == "btrfs" && verdict.key == "quota") continue; // on for the whole file system, beyond the probe
            out.try_emplace(verdict.key, verdict.value);
        }
    return out;
}

/// The driver's own "deprecated: ..." for a reader of a table; empty: it is not.
std::string_view deprecation(const drivers::DriverInfo &info) {
    return info.summary.starts_with("deprecated") ? info.summary : std::string_view();
}

/// A measured driver's layers go, and what it keeps besides; its next probe takes away what a killed one left.
Status put_to_rest(drivers::Driver &driver) {
    auto layers = TRY(driver.list());
    std::ranges::sort(layers, std::greater()); // a snapshot before what it was taken of
    for (const LayerId id : layers)
        TRY(driver.remove(id));
    TRY(driver.reap(nullptr));
    TRY(driver.probe());
    return driver.dismantle();
}

Status sweep_one(const Context &context, const std::string &path) {
    TRY(sys::unmount_all(path + "/"));
    for (const drivers::DriverInfo &info : drivers::registry()) {
        const std::string root = fmt::format("{}/{}", path, info.name);
        if (!TRY(sys::stat_if_exists(AT_FDCWD, root.c_str()))) continue;
        // One that does not open here left nothing but files.
        if (auto driver = info.open(root, options_of(context, info.name)))
            TRY(put_to_rest(**driver));
        else
            context.detail(fmt::format("shale: {}: {}", root, driver.error().text()));
    }
    TRY(sys::unmount_all(path + "/"));
    return sys::remove_tree(AT_FDCWD, path.c_str());
}

/// Those of dead processes. Only our own: a driver trusts what is in its directory.
Status sweep(const Context &context, const std::string &below) {
    const UniqueFd dir = TRY(sys::open_dir(AT_FDCWD, below.c_str()));
    for (const auto &entry : TRY(sys::list_dir(dir.get()))) {
        std::string_view name = entry.name;
        if (!name.starts_with(scratch_prefix)) continue;
        name.remove_prefix(scratch_prefix.size());
        const auto pid = drivers::parse_id(name);
        if (!pid || !name.contains('-') || ::kill(static_cast<pid_t>(pid->value), 0) == 0 || errno != ESRCH) continue;
        const auto status = TRY(sys::stat_if_exists(dir.get(), entry.name.c_str()));
        if (!status || !S_ISDIR(status->st_mode) || status->st_uid != ::geteuid()) continue;
        const std::string path = fmt::format("{}/{}", below, entry.name);
        if (const auto swept = sweep_one(context, path); !swept)
            Context::note(fmt::format("shale: note: {}, which a killed `shale drivers` left, stays: {}",
                                      printable(path), printable(swept.error().text())));
    }
    return {};
}

class Scratch {
public:
    static Result<Scratch> make(const std::string &below) {
        std::string path = fmt::format("{}/{}{}-XXXXXX", below, scratch_prefix, ::getpid());
        if (mkdtemp(path.data()) == nullptr)
            return fail_errno(errno, fmt::format("make a scratch directory in {}", below));
        return Scratch(std::move(path));
    }
    Scratch(Scratch &&other) noexcept : path_(std::exchange(other.path_, {})) {}
    Scratch &operator=(Scratch &&) = delete;
    ~Scratch() {
        if (!path_.empty()) (void)sys::remove_tree(AT_FDCWD, path_.c_str());
    }
    [[nodiscard]] const std::string &path() const { return path_; }

private:
    explicit Scratch(std::string path) : path_(std::move(path)) {}
    std::string path_;
};

struct Report {
    const drivers::DriverInfo *info;
    drivers::ProbeReport probe;
    std::optional<Result<drivers::Measurement>> measured; ///< nullopt: not asked for, or not usable
    bool in_files = false;                                ///< a pool in files was measured, another is configured
};

/// What the scratch's file system must have free: the file of the base layer and copies of it.
Status check_space(const std::string &scratch) {
    constexpr uint64_t wanted = 5 * measured_bytes;
    const auto status = TRY(sys::statfs_fd(TRY(sys::open_dir(AT_FDCWD, scratch.c_str())).get()));
    const uint64_t there = static_cast<uint64_t>(status.f_bavail) * static_cast<uint64_t>(status.f_bsize);
    if (there >= wanted) return {};
    return fail(Errc::ResourceExhausted, fmt::format("--measure needs {} free below {}; there are {}",
                                                     format_bytes(wanted), scratch, format_bytes(there)));
}

Report report_on(const Context &context, const drivers::DriverInfo &info, const std::string &scratch, bool measure) {
    Report out{&info, {}, {}, false};
    const std::string root = fmt::format("{}/{}", scratch, info.name);
    auto options = options_of(context, info.name);
    auto driver = info.open(root, options);
    auto probed = driver ? (*driver)->probe() : Result<drivers::ProbeReport>(std::unexpected(driver.error()));
    if (!probed) {
        out.probe.reason = probed.error().text();
        return out;
    }
    out.probe = std::move(*probed);
    if (!measure || !out.probe.usable) return out;
    if (!context.globals.quiet && !context.globals.json) Context::note(fmt::format("measuring {} ...", info.name));
    out.in_files = info.name == "devicemapper" && options.contains("pool") && options["pool"] != "loop";
    if (out.in_files) {
        for (const auto key : unmeasured)
            if (const auto found = options.find(key); found != options.end()) options.erase(found);
        if (driver = info.open(root, options); !driver) {
            out.measured = std::unexpected(std::move(driver).error());
            return out;
        }
    }
    out.measured = drivers::measure(**driver, measured_bytes, context.cancel);
    if (auto gone = (*driver)->dismantle(); !gone && *out.measured)
        out.measured = std::unexpected(std::move(gone).error());
    return out;
}

int64_t microseconds(drivers::Measurement::Time time) {
    return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
}

std::string text_of(drivers::Measurement::Time time) {
    const auto us = static_cast<double>(time.count()) / 1000;
    return us < 1000 ? fmt::format("{:.1f} us", us) : fmt::format("{:.1f} ms", us / 1000);
}

void write_measured(Json &json, const Result<drivers::Measurement> &measured) {
    json.key("measured").object();
    if (measured) {
        json.field("create_us", microseconds(measured->create)).field("copy_up_us", microseconds(measured->copy_up));
        json.field("write_4k_ns", static_cast<int64_t>(measured->write.count()));
        json.field("remove_us", microseconds(measured->remove));
    } else {
        json.field("error", measured.error().text());
    }
    json.end();
}

Table measured_table(const std::vector<Report> &reports) {
    Table table({"DRIVER", ">CREATE+MOUNT", fmt::format(">COPY-UP {}", format_bytes(measured_bytes)),
                 ">4K RANDOM WRITE", ">REMOVE", "NOTE"});
    for (const auto &[info, probe, measured, in_files] : reports) {
        if (!measured) continue;
        std::string note(deprecation(*info));
        if (in_files) note = "pool=loop, in files beside the root";
        if (*measured) {
            const auto &m = **measured;
            table.add({std::string(info->name), text_of(m.create), text_of(m.copy_up), text_of(m.write),
                       text_of(m.remove), std::move(note)});
        } else {
            table.add({std::string(info->name), "-", "-", "-", "-", measured->error().text()});
        }
    }
    return table;
}

} // namespace

Result<int> run(Context &context, const DriversArgs &args) {
    const std::string parent = existing_parent(context.settings.root);
    if (const auto swept = sweep(context, parent); !swept) context.detail(swept.error().text()); // it may not be ours
    const Scratch scratch = TRY(Scratch::make(parent));
    if (args.measure) TRY(check_space(scratch.path()));
    std::vector<Report> reports;
    for (const drivers::DriverInfo &info : drivers::registry()) {
        if (context.cancel != nullptr && context.cancel->load()) return fail(Errc::Canceled, "canceled");
        reports.push_back(report_on(context, info, scratch.path(), args.measure));
    }

    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto &[info, report, measured, in_files] : reports) {
            json.object().field("name", info->name).field("summary", info->summary).field("priority", info->priority);
            json.field("usable", report.usable).field("reason", report.reason);
            json.field("deprecated", !deprecation(*info).empty());
            json.key("facts").array();
            for (const auto &fact : report.facts)
                json.object().field("name", fact.name).field("value", fact.value).field("reason", fact.reason).end();
            json.end().key("options").array();
            for (const auto &option : info->options)
                json.object()
                    .field("key", option.key)
                    .field("default", option.default_value)
                    .field("help", option.help)
                    .end();
            json.end();
            if (measured) write_measured(json, *measured);
            if (measured && in_files) json.field("measured_pool", "loop");
            json.end();
        }
        json.end();
        context.print(json);
        return 0;
    }
    if (context.globals.quiet) {
        for (const auto &[info, report, measured, in_files] : reports)
            if (report.usable) context.print(fmt::format("{}\n", info->name));
        return 0;
    }
    Table table({"DRIVER", "FACT", "VALUE", "REASON"});
    for (const auto &[info, report, measured, in_files] : reports) {
        // Whatever it can do: who reads this is about to choose one.
        table.add({std::string(info->name), "usable", report.usable ? "yes" : "no",
                   report.usable ? std::string(deprecation(*info)) : report.reason});
        for (const auto &fact : report.facts)
            table.add({std::string(info->name), fact.name, fact.value, fact.reason});
    }
    context.print(table);
    if (args.measure) {
        context.print("\n");
        context.print(measured_table(reports));
    }
    return 0;
}

} // namespace shale::cli
