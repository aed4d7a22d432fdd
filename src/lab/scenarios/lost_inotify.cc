// SPDX-License-Identifier: Apache-2.0
// A service waits for changes of its configuration that it cannot hear of.
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <thread>

#include "lab/actor.h"
#include "lab/findings.h"
#include "lab/scenario.h"
#include "probe/text.h"
#include "sys/mount.h"

namespace shale::lab {
namespace {

using namespace std::chrono_literals;

volatile sig_atomic_t reloads = 0; // of the service's process

void on_hangup(int) {
    reloads = reloads + 1;
}

/// The service: watches `path` in a mount namespace of its own, and writes a line for whatever wakes it.
struct Service {
    std::string path, log;
    int queue = -1, out = -1;

    bool begin() {
        if (::unshare(CLONE_NEWNS) != 0) return false;
        struct sigaction action{};
        action.sa_handler = on_hangup; // no SA_RESTART: read() returns
        ::sigaction(SIGHUP, &action, nullptr);
        queue = ::inotify_init1(IN_CLOEXEC);
        out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        return queue >= 0 && out >= 0 &&
               ::inotify_add_watch(queue, path.c_str(),
                                   IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF) >= 0;
    }
    void say(std::string_view what) const { (void)!::write(out, what.data(), what.size()); }
    void stay() const {
        std::array<char, 4096> events{};
        for (int told = 0;;) {
            const ssize_t got = ::read(queue, events.data(), events.size());
            if (got > 0) say("inotify\n");
            for (; told < reloads; ++told)
                say("reload\n");
            if (got < 0 && errno != EINTR) ::_exit(1);
        }
    }
};

size_t count(const std::string &log, std::string_view word) {
    const auto text = read_whole(log);
    size_t out = 0;
    for (size_t at = 0; text && (at = text->find(word, at)) != std::string::npos; at += word.size())
        ++out;
    return out;
}

/// As editors and configuration tools save.
Status replace(const std::string &path, std::string_view bytes) {
    TRY(write_file(path + ".new", bytes));
    if (::rename((path + ".new").c_str(), path.c_str()) != 0)
        return fail_errno(errno, fmt::format("rename {:?}", path));
    return {};
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const std::string host = world / "host/app.conf", bound = world / "root/app.conf";
    TRY(write_file(host, "one\n"));
    TRY(write_file(bound, ""));
    TRY(sys::mount_at({"none", host, {"bind"}}, bound));
    const std::string lower = world / "layer/app.conf", merged = world / "merged/app.conf";
    TRY(write_file(lower, "one\n"));
    std::error_code error;
    for (const auto *directory : {"upper", "work", "merged"})
        std::filesystem::create_directories(world / directory, error);
    TRY(sys::mount_at(
        {"overlay",
         "overlay",
         {"lowerdir=" + (world / "layer"), "upperdir=" + (world / "upper"), "workdir=" + (world / "work")}},
        world / "merged"));
    Service by_bind{bound, world / "bind.log"}, by_layer{lower, world / "layer.log"};
    Actor service = TRY(Actor::start([&] { return by_bind.begin(); }, [&] { by_bind.stay(); }));
    Actor other = TRY(Actor::start([&] { return by_layer.begin(); }, [&] { by_layer.stay(); }));
    story.say(fmt::format(
        "Process {} watches a file that is bound alone into its root; process {} one of an image's layer, while "
        "the container shows it through an overlay",
        service.pid(), other.pid()));

    story.phase(Phase::reproduce);
    TRY(write_file(host, "one, written in place\n"));
    const bool hears = eventually([&] { return count(by_bind.log, "inotify") > 0; });
    std::this_thread::sleep_for(300ms);
    const size_t heard = count(by_bind.log, "inotify");
    TRY(replace(host, "two\n"));
    TRY(write_file(merged, "two\n")); // copied up: the layer's file stays what it is
    std::this_thread::sleep_for(1s);
    TRY(replace(host, "three\n"));
    std::this_thread::sleep_for(1s);
    const size_t more = count(by_bind.log, "inotify"), of_layer = count(by_layer.log, "inotify");
    story.table("What inotify says", {{"change", "path of the service", "events"},
                                      {"written in place on the host", bound, fmt::format("{}", heard)},
                                      {"replaced twice on the host (rename)", bound,
                                       fmt::format("{} (of the old inode's end at most)", more - heard)},
                                      {"written in the container (copied up)", lower, fmt::format("{}", of_layer)}});
    const bool stale = TRY(read_whole(bound)) != TRY(read_whole(host));
    story.answer(Question::reproduced, hears && stale && of_layer == 0,
                 fmt::format("after the replacement {} shows another file than {}, and changes do not reach the watch",
                             bound, host));

    story.phase(Phase::detect);
    const Ran report = TRY(World::shale({"doctor", "--json", "--no-usage", "--check", "inotify-dead-watches"}));
    const auto finding = find(TRY(findings_of(report)), "inotify-dead-watches", std::to_string(service.pid()));
    if (finding) story.show(*finding);
    story.answer(Question::detected, finding.has_value(),
                 finding ? finding->subject + ": " + finding->evidence.front() : "the doctor says nothing");

    story.phase(Phase::heal);
    const std::string events = world / "watch.events", notes = world / "watch.notes";
    Actor watch =
        TRY(start_shale({"watch", "--pid", std::to_string(service.pid()), "--signal", "HUP", bound}, events, notes));
    Actor second = TRY(start_shale({"watch", "--pid", std::to_string(other.pid()), "--signal", "HUP", merged},
                                   world / "second.events", world / "second.notes"));
    const bool ready = eventually(
        [&] { return count(notes, "shale: watches") > 0 && count(world / "second.notes", "shale: watches") > 0; });
    story.say(fmt::format("$ shale watch --pid {} --signal HUP {}", service.pid(), bound),
              {ready ? "it watches" : "it does not begin: " + read_whole(notes).value_or("")});

    story.phase(Phase::verify);
    const size_t before = count(by_bind.log, "inotify");
    TRY(replace(host, "four\n"));
    TRY(write_file(merged, "three\n"));
    const bool reached = eventually([&] { return count(by_bind.log, "reload") > 0; });
    const bool other_reached = eventually([&] { return count(by_layer.log, "reload") > 0; });
    story.say("One more change of each:",
              {fmt::format("reloads of {}: {}, inotify events: {}", service.pid(), count(by_bind.log, "reload"),
                           count(by_bind.log, "inotify") - before),
               fmt::format("reloads of {}: {}", other.pid(), count(by_layer.log, "reload")),
               "told by shale watch: " + std::string(probe::trimmed(read_whole(events).value_or("")))});
    story.answer(Question::healed, ready && reached && other_reached,
                 "both services were signalled for a change that their own watches did not show");
    return {};
}

std::string cannot_run() {
    return lacks_file_system("overlay");
}

} // namespace

extern const Scenario lost_inotify;
const Scenario lost_inotify{
    .id = "lost-inotify",
    .title = "A service waits for changes of its configuration that it cannot hear of",
    .about = "inotify watches an inode. A file that is bound alone into a container keeps showing the old inode when "
             "it is replaced on "
             "the host, and a file of a layer never changes when the container writes it, since the overlay copies it "
             "up. The doctor "
             "finds watches whose path shows another file by now; `shale watch` hears the change by fanotify and "
             "signals the service.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
