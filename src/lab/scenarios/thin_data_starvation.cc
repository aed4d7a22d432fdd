// SPDX-License-Identifier: Apache-2.0
// A thin pool has no data space left, and its writers wait.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <sstream>

#include "base/units.h"
#include "lab/actor.h"
#include "lab/findings.h"
#include "lab/scenario.h"
#include "lab/thin_pool.h"
#include "sys/fs.h"

namespace shale::lab {
namespace {

using namespace std::chrono_literals;
constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr uint64_t volume_bytes = 64 * mib;

/// The letter of /proc/PID/stat behind the name: "D" waits for a device and cannot be killed.
std::string state_of(pid_t pid) {
    const auto text = read_whole(fmt::format("/proc/{}/stat", pid));
    const size_t end = text ? text->rfind(')') : std::string::npos;
    return end == std::string::npos || end + 2 >= text->size() ? "" : text->substr(end + 2, 1);
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    ThinPool pool = TRY(ThinPool::make(world, 4 * mib, 16 * mib));
    TRY(pool.create(0));
    const std::string device = TRY(pool.activate(0, volume_bytes));
    story.say(fmt::format("A pool of 16 MiB with a volume of {}: more was promised than there is, as thin pools do",
                          format_bytes(volume_bytes)),
              {"status: " + TRY(pool.status_text())});

    story.phase(Phase::reproduce);
    const std::string done = world / "done";
    Actor writer =
        TRY(Actor::start([] { return true; },
                         [&] {
                             const UniqueFd file(::open(device.c_str(), O_WRONLY | O_CLOEXEC));
                             const std::string bytes = noise(1, mib);
                             bool ok = true;
                             for (uint64_t at = 0; at < 32 * mib && ok; at += mib)
                                 ok = sys::pwrite_all(file.get(), std::as_bytes(std::span(bytes)), at).has_value();
                             ok = ::fsync(file.get()) == 0 && ok;
                             (void)write_file(done, ok ? "ok" : "failed");
                             ::_exit(0);
                         }));
    const bool full = eventually([&] {
        const auto status = pool.status();
        return status && status->mode == sys::PoolMode::out_of_data_space;
    });
    const bool waits = eventually([&] { return state_of(writer.pid()) == "D"; }, 10s);
    const std::string text = TRY(pool.status_text());
    story.say(fmt::format("Process {} writes 32 MiB to it", writer.pid()),
              {"status: " + text, fmt::format("state of the process: {}", state_of(writer.pid()))});
    story.answer(
        Question::reproduced, full && waits,
        fmt::format(
            "the pool is out of data space, and its writer waits in state {}: it cannot be killed, and nothing failed",
            state_of(writer.pid())));

    story.phase(Phase::detect);
    const Ran report =
        TRY(World::shale({"doctor", "--json", "--no-usage", "--check", "thin-pool-space", "--check", "pressure-io"}));
    const auto findings = TRY(findings_of(report));
    const auto finding = find(findings, "thin-pool-space", pool.name());
    if (finding) story.show(*finding);
    if (const auto starved = find(findings, "pressure-io")) story.show(*starved);
    story.answer(Question::detected, finding && finding->severity == "critical",
                 finding ? finding->summary : std::string("the doctor says nothing"));

    story.phase(Phase::heal);
    TRY(pool.grow_data(96 * mib));
    story.say("The data device is made larger while everything waits", {"status: " + TRY(pool.status_text())});

    story.phase(Phase::verify);
    const bool ended = writer.ends_within(60s);
    const std::string outcome = read_whole(done).value_or("nothing");
    const auto after = TRY(pool.status());
    TRY(pool.deactivate(0));
    story.answer(Question::healed, ended && outcome == "ok" && after.mode == sys::PoolMode::read_write,
                 fmt::format("the writer goes on and ends: {}; data {} of {} blocks", outcome, after.used_data_blocks,
                             after.total_data_blocks));
    return {};
}

} // namespace

extern const Scenario thin_data_starvation;
const Scenario thin_data_starvation{
    .id = "thin-data-starvation",
    .title = "A thin pool has no space left, and its writers wait",
    .about = "A thin pool promises more than it has. When its data is used up, writes that need a block wait (for 60 "
             "seconds, then they "
             "fail): processes hang in state D, nothing is logged by them, and df shows free space inside. The doctor "
             "names the pool and its "
             "state; when the data device is made larger, they go on as if nothing had been.",
    .cannot_run = lacks_device_mapper,
    .run = run,
};

} // namespace shale::lab
