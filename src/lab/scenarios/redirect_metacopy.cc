// SPDX-License-Identifier: Apache-2.0
// Storms of rename and chmod over an overlay, for the four combinations of redirect_dir and metacopy.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/units.h"
#include "lab/docker_root.h"
#include "lab/findings.h"
#include "lab/scenario.h"
#include "sys/mount.h"

namespace shale::lab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr unsigned workers = 4, directories = 60; // of each worker
constexpr size_t file_bytes = 64U << 10U;
constexpr mode_t before = 0644, after = 0640;

struct Combination {
    const char *redirect_dir, *metacopy;
    [[nodiscard]] std::string text() const {
        return fmt::format("redirect_dir={},metacopy={}", redirect_dir, metacopy);
    }
};
constexpr std::array<Combination, 4> combinations{{{"off", "off"}, {"on", "off"}, {"off", "on"}, {"on", "on"}}};

struct Tally {
    uint64_t renamed = 0, crossed = 0; ///< EXDEV: the directory of a layer cannot be renamed
    uint64_t seen = 0, changed = 0;    ///< permissions that the merged view shows at once, of those that were changed
    std::vector<double> chmod_us, rename_us;

    void add(const Tally &other) {
        renamed += other.renamed;
        crossed += other.crossed;
        seen += other.seen;
        changed += other.changed;
        chmod_us.insert(chmod_us.end(), other.chmod_us.begin(), other.chmod_us.end());
        rename_us.insert(rename_us.end(), other.rename_us.begin(), other.rename_us.end());
    }
};

std::string name_of(unsigned worker, unsigned directory, bool renamed) {
    return fmt::format("{}-{}-{}", renamed ? "moved" : "dir", worker, directory);
}

bool shows(const std::string &path, mode_t mode) {
    struct stat info{};
    return ::lstat(path.c_str(), &info) == 0 && (info.st_mode & 07777U) == mode;
}

double since_us(Clock::time_point begin) {
    return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

/// One worker: chmod of a file, then rename of its directory, and what the merged view says right after.
Tally storm(const std::string &merged, unsigned worker) {
    Tally out;
    for (unsigned i = 0; i < directories; ++i) {
        const std::string from = merged + "/" + name_of(worker, i, false), to = merged + "/" + name_of(worker, i, true);
        auto begin = Clock::now();
        const bool changed = ::chmod((from + "/file").c_str(), after) == 0;
        out.chmod_us.push_back(since_us(begin));
        begin = Clock::now();
        const bool renamed = ::rename(from.c_str(), to.c_str()) == 0;
        const int why = errno;
        out.rename_us.push_back(since_us(begin));
        out.renamed += renamed ? 1U : 0U;
        out.crossed += !renamed && why == EXDEV ? 1U : 0U;
        if (!changed) continue;
        ++out.changed;
        out.seen += shows((renamed ? to : from) + "/file", after) ? 1U : 0U;
    }
    return out;
}

struct View {
    uint64_t whole = 0, unreadable = 0, missing = 0;
    [[nodiscard]] std::string text() const {
        return fmt::format("{} whole, {} unreadable, {} missing", whole, unreadable, missing);
    }
};
/// Every file of the merged view: permissions and contents.
View look(const std::string &merged, const std::string &bytes) {
    View out;
    for (unsigned worker = 0; worker < workers; ++worker) {
        for (unsigned i = 0; i < directories; ++i) {
            bool found = false;
            for (const bool renamed : {true, false}) {
                const std::string path = merged + "/" + name_of(worker, i, renamed) + "/file";
                struct stat info{};
                if (::lstat(path.c_str(), &info) != 0 && errno == ENOENT) continue;
                found = true;
                const auto read = read_whole(path);
                if (read && *read == bytes && shows(path, after))
                    ++out.whole;
                else
                    ++out.unreadable;
                break;
            }
            if (!found) ++out.missing;
        }
    }
    return out;
}

uint64_t count_xattrs(const std::string &upper, const char *key) {
    uint64_t out = 0;
    for (const auto &entry : std::filesystem::recursive_directory_iterator(upper))
        out += ::lgetxattr(entry.path().c_str(), key, nullptr, 0) >= 0 ? 1U : 0U;
    return out;
}

double at(std::vector<double> &values, double part) {
    if (values.empty()) return 0;
    std::ranges::sort(values);
    return values[std::min(values.size() - 1, static_cast<size_t>(part * static_cast<double>(values.size())))];
}

struct Place {
    std::string lower, upper, work, merged;
    [[nodiscard]] Status mount(const std::string &options) const {
        std::vector<std::string> all{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work};
        for (size_t begin = 0; begin < options.size();) {
            const size_t end = std::min(options.find(',', begin), options.size());
            all.push_back(options.substr(begin, end - begin));
            begin = end + 1;
        }
        return sys::mount_at({"overlay", "overlay", all}, merged);
    }
};

std::string per_cent(uint64_t part, uint64_t whole) {
    return whole == 0 ? "-" : fmt::format("{:.1f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const Disk disk = TRY(world.disk({"disk", "ext4", 1024 * mib}));
    const std::string lower = disk.path + "/layer", bytes = noise(1, file_bytes);
    for (unsigned worker = 0; worker < workers; ++worker)
        for (unsigned i = 0; i < directories; ++i)
            TRY(write_file(lower + "/" + name_of(worker, i, false) + "/file", bytes, before));
    // The upper directories lie as Docker's layers do, so that the doctor reads them as such.
    const std::string docker = disk.path + "/docker";
    story.say(fmt::format(
        "A layer of {} directories with a file of {} each; {} workers chmod the file and rename the directory",
        workers * directories, format_bytes(file_bytes), workers));

    story.phase(Phase::reproduce);
    std::vector<std::vector<std::string>> rows{{"options", "renamed", "EXDEV", "permissions seen", "after remount",
                                                "redirects", "metacopies", "chmod us, median (99 %)",
                                                "rename us, median (99 %)"}};
    std::vector<Place> places;
    bool all_seen = true;
    for (size_t i = 0; i < combinations.size(); ++i) {
        const auto &combination = combinations[i];
        const std::string id = std::string(63, '0') + std::to_string(i);
        const Place &place =
            places.emplace_back(Place{lower, docker + "/overlay2/" + id + "/diff", docker + "/overlay2/" + id + "/work",
                                      disk.path + "/merged" + std::to_string(i)});
        std::error_code error;
        for (const auto &directory : {place.upper, place.work, place.merged})
            std::filesystem::create_directories(directory, error);
        if (const auto mounted = place.mount(combination.text()); !mounted) {
            // metacopy follows redirects; from Linux 4.19 on the pair is refused by fs/overlayfs/params.c.
            std::vector<std::string> refused{combination.text(), "the kernel refuses the mount"};
            refused.resize(rows.front().size(), "-");
            rows.push_back(std::move(refused));
            continue;
        }
        std::vector<Tally> tallies(workers);
        {
            std::vector<std::jthread> threads;
            for (unsigned worker = 0; worker < workers; ++worker)
                threads.emplace_back([&, worker] { tallies[worker] = storm(place.merged, worker); });
        }
        Tally sum;
        for (const auto &tally : tallies)
            sum.add(tally);
        TRY(sys::unmount(place.merged));
        TRY(place.mount(combination.text()));
        const View again = look(place.merged, bytes);
        TRY(sys::unmount(place.merged));
        all_seen = all_seen && sum.seen == sum.changed && again.whole == workers * directories;
        rows.push_back({combination.text(), fmt::format("{}", sum.renamed), fmt::format("{}", sum.crossed),
                        fmt::format("{} of {} ({})", sum.seen, sum.changed, per_cent(sum.seen, sum.changed)),
                        again.text(), fmt::format("{}", count_xattrs(place.upper, "trusted.overlay.redirect")),
                        fmt::format("{}", count_xattrs(place.upper, "trusted.overlay.metacopy")),
                        fmt::format("{:.0f} ({:.0f})", at(sum.chmod_us, 0.5), at(sum.chmod_us, 0.99)),
                        fmt::format("{:.0f} ({:.0f})", at(sum.rename_us, 0.5), at(sum.rename_us, 0.99))});
    }
    story.table("What this kernel gives", rows);
    story.say(all_seen ? "Every permission that was changed is seen at once and after a remount, with all that mount: "
                         "what goes wrong is "
                         "another mount of the same layer"
                       : "Permissions were lost within one mount; see the table");
    const Place &place = places.back();
    TRY(write_docker_image(docker, "app:1", std::filesystem::path(place.upper).parent_path().filename()));
    TRY(place.mount("redirect_dir=nofollow,metacopy=off"));
    const View hidden = look(place.merged, bytes);
    TRY(sys::unmount(place.merged));
    story.say("The layer that was written with both on, mounted with redirect_dir=nofollow,metacopy=off: " +
              hidden.text());
    story.answer(Question::reproduced, hidden.whole == 0 && hidden.unreadable + hidden.missing == workers * directories,
                 fmt::format("with both off, {} (EXDEV for every rename where redirect_dir is off)", hidden.text()));

    story.phase(Phase::detect);
    const Ran report =
        TRY(World::shale({"doctor", "--json", "--check", "overlay-options", "--store", "docker=" + docker}));
    const auto finding = find(TRY(findings_of(report)), "overlay-options", "metacopy");
    if (finding) story.show(*finding);
    story.answer(Question::detected, finding && finding->severity == "critical",
                 finding ? finding->summary : "the doctor says nothing: " + report.out.substr(0, 500));

    story.phase(Phase::heal);
    TRY(place.mount("redirect_dir=on,metacopy=on"));
    story.say("Mounted with the options that it was written with");

    story.phase(Phase::verify);
    const View healed = look(place.merged, bytes);
    TRY(sys::unmount(place.merged));
    story.answer(Question::healed, healed.whole == workers * directories, healed.text());
    return {};
}

std::string cannot_run() {
    const std::string overlay = lacks_file_system("overlay");
    return !overlay.empty() ? overlay : lacks_file_system("ext4");
}

} // namespace

extern const Scenario redirect_metacopy;
const Scenario redirect_metacopy{
    .id = "redirect-metacopy",
    .title = "rename and chmod storms with redirect_dir and metacopy, and a layer that is mounted otherwise later",
    .about = "With redirect_dir=on a layer's directory is renamed by a note in the upper directory, with metacopy=on a "
             "chmod copies no data. "
             "What was written so is only whole when it is mounted so: with the options off, the directories cannot be "
             "entered and the "
             "files cannot be opened. The table shows success and latency for the four combinations on this kernel, "
             "under concurrent "
             "writers; the doctor compares what layers need with what the kernel's module does.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
