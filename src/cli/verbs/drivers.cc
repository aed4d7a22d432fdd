// SPDX-License-Identifier: Apache-2.0
// Every cell comes from a probe that does the real thing in a scratch directory on the store's own file system.
#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "cli/verbs.h"
#include "sys/fs.h"

namespace shale::cli {
namespace {

/// The root when it is there, else the nearest directory above that is: it will lie on the same file system.
std::string existing_parent(std::string path) {
    while (access(path.c_str(), F_OK) != 0) {
        const size_t slash = path.rfind('/');
        if (slash == 0 || slash == std::string::npos) return "/";
        path.resize(slash);
    }
    return path;
}

class Scratch {
public:
    static Result<Scratch> make(const std::string &below) {
        std::string path = below + "/.shale-probe-XXXXXX";
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

drivers::ProbeReport probe(const drivers::DriverInfo &info, const std::string &scratch) {
    auto failed = [](const Error &error) {
        drivers::ProbeReport report;
        report.reason = error.text();
        return report;
    };
    auto driver = info.open(fmt::format("{}/{}", scratch, info.name), {});
    if (!driver) return failed(driver.error());
    auto report = (*driver)->probe();
    return report ? std::move(*report) : failed(report.error());
}

} // namespace

Result<int> run(Context &context, const DriversArgs &) {
    const Scratch scratch = TRY(Scratch::make(existing_parent(context.settings.root)));
    std::vector<std::pair<const drivers::DriverInfo *, drivers::ProbeReport>> reports;
    for (const drivers::DriverInfo &info : drivers::registry())
        reports.emplace_back(&info, probe(info, scratch.path()));

    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto &[info, report] : reports) {
            json.object().field("name", info->name).field("summary", info->summary).field("priority", info->priority);
            json.field("usable", report.usable).field("reason", report.reason);
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
            json.end().end();
        }
        json.end();
        context.print(json);
        return 0;
    }
    if (context.globals.quiet) {
        for (const auto &[info, report] : reports)
            if (report.usable) context.print(fmt::format("{}\n", info->name));
        return 0;
    }
    Table table({"DRIVER", "FACT", "VALUE", "REASON"});
    for (const auto &[info, report] : reports) {
        table.add({std::string(info->name), "usable", report.usable ? "yes" : "no", report.reason});
        for (const auto &fact : report.facts)
            table.add({std::string(info->name), fact.name, fact.value, fact.reason});
    }
    context.print(table);
    return 0;
}

} // namespace shale::cli
