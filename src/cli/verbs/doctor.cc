// SPDX-License-Identifier: Apache-2.0
// facts, doctor, df --host.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <span>
#include <thread>

#include "base/fd.h"
#include "base/units.h"
#include "cli/host_view.h"
#include "cli/verbs.h"
#include "doctor/report.h"
#include "doctor/space.h"
#include "probe/facts_json.h"
#include "sys/fs.h"

namespace shale::cli {
namespace {

/// What the user names, links followed: also a pipe (`<(ssh HOST shale facts)`); "-": standard input.
Result<std::string> read_document(const std::string &path) {
    UniqueFd opened;
    if (path != "-") {
        opened.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
        if (!opened) return fail_errno(errno, fmt::format("open {:?}", path));
    }
    const int fd = opened ? opened.get() : STDIN_FILENO;
    constexpr size_t first = size_t{64} << 10U, limit = probe::max_facts_bytes;
    std::string out;
    for (size_t filled = 0;;) {
        if (filled == out.size()) out.resize(std::min(std::max(first, filled * 2), limit + 1));
        const size_t got = TRY(sys::read_some(fd, std::as_writable_bytes(std::span(out)).subspan(filled)));
        filled += got;
        if (filled > limit)
            return fail(Errc::ResourceExhausted, fmt::format("read {:?}: larger than {} bytes", path, limit));
        if (got != 0) continue;
        out.resize(filled);
        return out;
    }
}

Result<std::vector<const doctor::Check *>> checks_of(const DoctorArgs &args) {
    std::vector<const doctor::Check *> out;
    for (const std::string &id : args.checks) {
        const auto *check = doctor::find_check(id);
        if (check == nullptr)
            return fail(Errc::InvalidArgument, fmt::format("no check is called \"{}\"; see `shale doctor --list`", id));
        out.push_back(check);
    }
    return out;
}

int list_checks(const Context &context) {
    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto *check : doctor::all_checks())
            json.object().field("id", check->id).field("title", check->title).end();
        json.end();
        Context::print(json);
        return 0;
    }
    Table table({"CHECK", "WHAT IT FINDS"});
    for (const auto *check : doctor::all_checks())
        table.add({std::string(check->id), std::string(check->title)});
    Context::print(table);
    return 0;
}

Result<int> explain(const std::string &id) {
    const auto *check = doctor::find_check(id);
    if (check == nullptr)
        return fail(Errc::NotFound, fmt::format("no check is called \"{}\"; see `shale doctor --list`", id));
    Context::print(doctor::check_page(*check));
    return 0;
}

std::string render(const Context &context, const DoctorArgs &args, const probe::Facts &facts,
                   const doctor::Diagnosis &diagnosis) {
    if (args.format == "html") return doctor::report_html(facts, diagnosis);
    if (args.format == "prometheus") return doctor::report_prometheus(facts, diagnosis);
    if (args.format == "line") return doctor::report_line(diagnosis) + "\n";
    if (args.format == "json" || context.globals.json) return doctor::report_json(facts, diagnosis);
    const char *no_color = std::getenv("NO_COLOR");
    const bool color =
        !context.globals.no_color && (no_color == nullptr || *no_color == '\0') && ::isatty(STDOUT_FILENO) == 1;
    return doctor::report_text(facts, diagnosis, color);
}

Result<int> diagnose_once(const Context &context, const DoctorArgs &args) {
    const auto which = TRY(checks_of(args));
    const auto facts = args.facts.empty() ? TRY(look_at_host(context, args.host)).facts
                                          : TRY(probe::facts_from_json(TRY(read_document(args.facts))));
    const auto diagnosis = doctor::diagnose(facts, which);
    Context::print(render(context, args, facts, diagnosis));
    return diagnosis.exit_status();
}

void write_node(Json &json, const doctor::SpaceNode &node) {
    json.object().field("name", node.name).field("bytes", node.bytes).field("inodes", node.inodes);
    if (!node.parts.empty()) {
        json.key("parts").array();
        for (const auto &part : node.parts)
            write_node(json, part);
        json.end();
    }
    json.end();
}

constexpr size_t shown_parts = 10; // of one node; the others are one line

void add_rows(Table &table, const std::vector<doctor::SpaceNode> &parts, size_t indent) {
    for (size_t i = 0; i < parts.size(); ++i) {
        if (i == shown_parts) {
            uint64_t bytes = 0, inodes = 0;
            for (size_t rest = i; rest < parts.size(); ++rest) {
                bytes += parts[rest].bytes;
                inodes += parts[rest].inodes;
            }
            table.add({fmt::format("{:{}}... and {} more", "", indent, parts.size() - i), format_bytes(bytes),
                       format_count(inodes)});
            return;
        }
        table.add({fmt::format("{:{}}{}", "", indent, parts[i].name), format_bytes(parts[i].bytes),
                   format_count(parts[i].inodes)});
        add_rows(table, parts[i].parts, indent + 2);
    }
}

std::string signed_bytes(int64_t bytes) {
    return bytes < 0 ? "-" + format_bytes(static_cast<uint64_t>(-bytes)) : format_bytes(static_cast<uint64_t>(bytes));
}

} // namespace

Result<int> run(Context &context, const FactsArgs &args) {
    const auto view = TRY(look_at_host(context, args.host));
    context.print(probe::to_json(view.facts));
    return 0;
}

Result<int> run(Context &context, const DoctorArgs &args) {
    if (args.list) return list_checks(context);
    if (!args.explain.empty()) return explain(args.explain);
    for (;;) {
        const int status = TRY(diagnose_once(context, args));
        if (args.watch_s == 0) return status;
        TRY(flush_output());
        for (uint64_t second = 0; second < args.watch_s; ++second) {
            if (context.cancel->load()) return status;
            std::this_thread::sleep_for(std::chrono::seconds(1));
        }
    }
}

Result<int> run_df_host(Context &context, const HostArgs &args) {
    const auto view = TRY(look_at_host(context, args));
    GatherLine line(!context.globals.quiet);
    const auto others = doctor::count_others(view.host, view.facts, std::max(1U, std::thread::hardware_concurrency()),
                                             [&](uint64_t inodes) { line.show("inodes beside the stores", inodes); });
    const auto spaces = doctor::account(view.facts, others);
    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto &space : spaces) {
            json.object().field("target", space.file_system->target).field("type", space.file_system->type);
            json.field("used_bytes", space.used_bytes).field("used_inodes", space.used_inodes);
            json.field("total_bytes", space.file_system->total_bytes)
                .field("total_inodes", space.file_system->total_inodes);
            json.field("rest_bytes", space.rest_bytes).field("rest_inodes", space.rest_inodes).key("parts").array();
            for (const auto &part : space.parts)
                write_node(json, part);
            json.end().end();
        }
        json.end();
        context.print(json);
        return 0;
    }
    if (spaces.empty()) context.print("no store was found\n");
    for (const auto &space : spaces) {
        const auto &fs = *space.file_system;
        context.print(fmt::format("{} ({}): {} used of {}; inodes {} used of {}\n\n", printable(fs.target),
                                  printable(fs.type), format_bytes(space.used_bytes), format_bytes(fs.total_bytes),
                                  format_count(space.used_inodes), format_count(fs.total_inodes)));
        Table table({"WHAT", ">SIZE", ">INODES"});
        add_rows(table, space.parts, 0);
        table.add({space.rest_bytes < 0 ? "counted more than once: shared extents, or written meanwhile"
                   : fs.type == "btrfs" ? "the rest: the file system's own (trees), and subvolumes that are no layers"
                                        : "the rest: the file system's own (journal, inode tables, trees)",
                   signed_bytes(space.rest_bytes),
                   space.rest_inodes < 0 ? "-" : format_count(static_cast<uint64_t>(space.rest_inodes))});
        context.print(table.text() + "\n");
    }
    return 0;
}

} // namespace shale::cli
