// SPDX-License-Identifier: Apache-2.0
// lab ls, lab show, lab run, lab report.
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/text.h"
#include "cli/verbs.h"
#include "lab/report.h"
#include "lab/sandbox.h"
#include "sys/fs.h"

namespace shale::cli {
namespace {

Result<const lab::Scenario *> scenario_of(const std::string &id) {
    if (const auto *found = lab::find_scenario(id); found != nullptr) return found;
    std::vector<std::string_view> ids;
    for (const auto *scenario : lab::all_scenarios())
        ids.push_back(scenario->id);
    const std::string near = nearest(id, ids);
    return fail(Errc::NotFound, fmt::format("no scenario is called {:?}{}; see `shale lab ls`", id,
                                            near.empty() ? "" : fmt::format(" (did you mean {}?)", near)));
}

/// "all", or each by its id; in the order of the list, none twice.
Result<std::vector<const lab::Scenario *>> scenarios_of(const std::vector<std::string> &ids) {
    std::vector<const lab::Scenario *> wanted;
    for (const auto &id : ids) {
        if (id == "all")
            wanted.assign(lab::all_scenarios().begin(), lab::all_scenarios().end());
        else
            wanted.push_back(TRY(scenario_of(id)));
    }
    std::vector<const lab::Scenario *> out;
    for (const auto *scenario : lab::all_scenarios())
        if (std::ranges::find(wanted, scenario) != wanted.end()) out.push_back(scenario);
    return out;
}

std::string table_text(const std::vector<std::vector<std::string>> &rows) {
    Table table(rows.front());
    for (size_t i = 1; i < rows.size(); ++i)
        table.add(rows[i]);
    return table.text();
}

std::string indented(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const size_t end = std::min(text.find('\n'), text.size());
        out += fmt::format("      {}\n", text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

/// A story as it is told.
class Teller {
public:
    void tell(const lab::News &news) {
        if (news.step) {
            if (phase_ != news.step->phase) Context::print(fmt::format("  {}\n", name_of(news.step->phase)));
            phase_ = news.step->phase;
            Context::print(fmt::format("    {}\n", printable(news.step->text)));
            for (const auto &line : news.step->lines)
                Context::print(fmt::format("      {}\n", printable(line)));
            if (!news.step->rows.empty()) Context::print(indented(table_text(news.step->rows)));
        }
        if (news.answer)
            Context::print(fmt::format("  {}: {}. {}\n", name_of(news.answer->first),
                                       news.answer->second.yes ? "yes" : "NO", printable(news.answer->second.because)));
        (void)flush_output();
    }

private:
    std::optional<lab::Phase> phase_;
};

void print_summary(const std::vector<lab::Account> &accounts) {
    Table table({"SCENARIO", "REPRODUCED", "DETECTED", "HEALED", ">SECONDS", "REMARK"});
    for (const auto &account : accounts) {
        std::vector<std::string> row{account.id};
        for (const auto question : lab::questions)
            row.emplace_back(lab::verdict_of(account, question));
        row.push_back(account.skipped.empty() ? fmt::format("{:.1f}", static_cast<double>(account.took_ms) / 1000)
                                              : "-");
        row.push_back(!account.skipped.empty() ? "not run: " + account.skipped : account.error);
        table.add(std::move(row));
    }
    Context::print(table);
}

Result<std::string> read_report(const std::string &path) {
    return sys::read_file(AT_FDCWD, path.c_str(), lab::max_accounts_bytes);
}

/// By its name: .html is a page, all else JSON.
Status write_report(const Context &context, const std::string &path, const std::vector<lab::Account> &accounts) {
    auto file = TRY(OutputFile::create(path, context));
    const std::string text = path.ends_with(".html") ? lab::report_html(accounts) : lab::to_json(accounts);
    TRY(file.sink()(std::as_bytes(std::span(text))));
    return file.commit();
}

/// 0: all that ran is good, and something ran; 1 else.
int exit_status(const std::vector<lab::Account> &accounts) {
    const auto bad = [](const lab::Account &account) { return account.skipped.empty() && !is_good(account); };
    return std::ranges::any_of(accounts, bad) || std::ranges::none_of(accounts, lab::is_good) ? 1 : 0;
}

/// One row a scenario: where several tell of the same, one that ran is worth more than one that did not; the later
/// else.
void join(std::vector<lab::Account> &accounts, std::vector<lab::Account> more) {
    for (auto &account : more) {
        const auto found = std::ranges::find(accounts, account.id, &lab::Account::id);
        if (found == accounts.end())
            accounts.push_back(std::move(account));
        else if (account.skipped.empty() || !found->skipped.empty())
            *found = std::move(account);
    }
}

} // namespace

Result<int> run(Context &context, const LabLsArgs &) {
    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto *scenario : lab::all_scenarios())
            json.object()
                .field("id", scenario->id)
                .field("title", scenario->title)
                .field("about", scenario->about)
                .field("cannot_run", scenario->cannot_run())
                .end();
        json.end();
        Context::print(json);
        return 0;
    }
    if (context.globals.quiet) {
        for (const auto *scenario : lab::all_scenarios())
            Context::print(fmt::format("{}\n", scenario->id));
        return 0;
    }
    Table table({"SCENARIO", "WHAT HAPPENS", "HERE"});
    for (const auto *scenario : lab::all_scenarios()) {
        const std::string reason = scenario->cannot_run();
        table.add({std::string(scenario->id), std::string(scenario->title), reason.empty() ? "yes" : "no: " + reason});
    }
    Context::print(table);
    return 0;
}

Result<int> run(Context &, const LabShowArgs &args) {
    const auto *scenario = TRY(scenario_of(args.scenario));
    Context::print(fmt::format("{}: {}\n\n{}\n", scenario->id, scenario->title, scenario->about));
    return 0;
}

Result<int> run(Context &context, const LabRunArgs &args) {
    const auto scenarios = TRY(scenarios_of(args.scenarios));
    std::vector<lab::Account> accounts;
    for (const auto *scenario : scenarios) {
        if (context.cancel->load()) break;
        lab::SandboxOptions options;
        options.files = args.directory;
        options.limit = std::chrono::seconds(args.limit_s);
        options.cancel = context.cancel;
        const bool tell = !context.globals.json && !context.globals.quiet;
        if (tell) {
            Context::print(fmt::format("{}: {}\n", scenario->id, scenario->title));
            TRY(flush_output());
            options.listener = [teller = Teller()](const lab::News &news) mutable { teller.tell(news); };
        }
        accounts.push_back(lab::run_in_sandbox(*scenario, options));
        if (const auto &account = accounts.back(); tell && !account.skipped.empty())
            Context::print(fmt::format("  not run: {}\n", printable(account.skipped)));
        else if (tell && !account.error.empty())
            Context::print(fmt::format("  it ended early: {}\n", printable(account.error)));
        if (tell) Context::print("\n");
    }
    if (!args.report.empty()) TRY(write_report(context, args.report, accounts));
    if (context.globals.json)
        Context::print(lab::to_json(accounts));
    else
        print_summary(accounts);
    if (context.cancel->load()) return fail(Errc::Canceled, "interrupted; what was begun is undone");
    return exit_status(accounts);
}

Result<int> run(Context &context, const LabReportArgs &args) {
    std::vector<lab::Account> accounts;
    for (const auto &path : args.files) {
        auto more = in_context(lab::accounts_from_json(TRY(read_report(path))), [&] { return path; });
        join(accounts, TRY(std::move(more)));
    }
    std::ranges::sort(accounts, {}, &lab::Account::id);
    if (!args.output.empty())
        TRY(write_report(context, args.output, accounts));
    else if (context.globals.json)
        Context::print(lab::to_json(accounts));
    else
        print_summary(accounts);
    return exit_status(accounts);
}

} // namespace shale::cli
