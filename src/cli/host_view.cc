// SPDX-License-Identifier: Apache-2.0
#include "cli/host_view.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <thread>
#include <utility>

#include "base/units.h"

namespace shale::cli {

GatherLine::GatherLine(bool enabled) : enabled_(enabled && ::isatty(STDERR_FILENO) == 1) {}

GatherLine::~GatherLine() {
    if (drawn_) std::fputs("\r\x1b[K", stderr);
}

void GatherLine::show(std::string_view what, uint64_t inodes) {
    if (!enabled_) return;
    drawn_ = true;
    const std::string text =
        inodes == 0 ? fmt::format("reading {}", what) : fmt::format("counting: {} {}", format_count(inodes), what);
    std::fputs(fmt::format("\r\x1b[K{}", text).c_str(), stderr);
    std::fflush(stderr);
}

Result<HostView> look_at_host(const Context &context, const HostArgs &args) {
    auto host = TRY(probe::Host::open(args.root));
    GatherLine line(!context.globals.quiet);
    doctor::GatherOptions options;
    options.usage = !args.no_usage;
    options.threads = std::max(1U, std::thread::hardware_concurrency());
    options.on_progress = [&](std::string_view what, uint64_t inodes) { line.show(what, inodes); };
    for (const std::string &store : args.stores)
        options.only.push_back(TRY(doctor::parse_place(store)));
    auto facts = doctor::gather(host, options);
    return HostView{std::move(host), std::move(facts)};
}

} // namespace shale::cli
