// SPDX-License-Identifier: Apache-2.0
// Automatic snapshots of a pool, while volumes and layers are made and removed.
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <sstream>
#include <thread>

#include "lab/findings.h"
#include "lab/scenario.h"

namespace shale::lab {
namespace {

using namespace std::chrono_literals;
constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr unsigned volumes = 4, containers = 4;

Result<Ran> zfs(std::vector<std::string> arguments) {
    return World::tool("zfs", "zfsutils-linux", std::move(arguments));
}

size_t lines_of(const std::string &text, std::string_view word) {
    size_t out = 0;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
        out += line.find(word) != std::string::npos ? 1U : 0U;
    return out;
}

/// Takes recursive snapshots as fast as it can, under the names that zfs-auto-snapshot gives.
class Rotation {
public:
    explicit Rotation(std::string pool)
        : thread_([this, pool = std::move(pool)](const std::stop_token &stop) {
              for (unsigned i = 0; !stop.stop_requested(); ++i)
                  if (const auto done = zfs({"snapshot", "-r", fmt::format("{}@zfs-auto-snap_frequent-{}", pool, i)});
                      done && done->status == 0)
                      ++taken_;
          }) {}
    /// So that what is asked for meets the next ones.
    void wait_for_one_more() const {
        for (const unsigned before = taken_; taken_ == before;)
            std::this_thread::sleep_for(5ms);
    }
    [[nodiscard]] unsigned taken() const noexcept { return taken_; }

private:
    std::atomic<unsigned> taken_{0};
    std::jthread thread_; ///< the last: it uses what stands above
};

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const std::string pool = world.name() + "-race";
    const Disk disk = TRY(world.disk({"pool", "", 1024 * mib}));
    TRY(world.keeper().zfs_pool(pool));
    TRY(World::must("zpool", "zfsutils-linux", {"create", "-f", "-m", world / "pool", pool, disk.device}));
    TRY(succeeded(zfs({"create", pool + "/volumes"})));
    const StoreCommand store(world / "pool/store", "zfs");
    TRY(write_image(world / "image.tar", "app:1", {{{"etc/app.conf", "1\n"}}, {{"bin/app", noise(1, mib), 0755}}}));
    TRY(store.must({"image", "import", world / "image.tar"}));
    story.say(fmt::format("A pool with volumes and a store of shale; something takes `zfs snapshot -r {}` all the time",
                          pool));

    story.phase(Phase::reproduce);
    unsigned refused = 0, half_made = 0;
    std::string words;
    {
        const Rotation rotation(pool);
        for (unsigned i = 0; i < volumes; ++i) {
            const std::string volume = fmt::format("{}/volumes/v{}", pool, i);
            TRY(succeeded(zfs({"create", volume})));
            rotation.wait_for_one_more(); // it is there, and has nothing in it yet
            TRY(write_file(fmt::format("{}/volumes/v{}/data", world / "pool", i), noise(i, 100'000)));
            const auto destroyed = TRY(zfs({"destroy", volume}));
            if (destroyed.status == 0) continue;
            ++refused;
            words = destroyed.errors;
        }
        story.say(fmt::format("{} snapshots were taken meanwhile", rotation.taken()));
    }
    const Ran listed = TRY(zfs({"list", "-H", "-r", "-t", "snapshot", "-o", "name,refer", "-p", pool + "/volumes"}));
    std::istringstream rows(listed.out);
    for (std::string row; std::getline(rows, row);) {
        const size_t tab = row.find('\t');
        if (row.find("/volumes/v") != std::string::npos && tab != std::string::npos &&
            std::stoull(row.substr(tab + 1)) < 100'000)
            ++half_made;
    }
    const size_t left = lines_of(TRY(zfs({"list", "-H", "-r", "-o", "name", pool + "/volumes"})).out, "/volumes/v");
    while (words.ends_with('\n'))
        words.pop_back();
    story.say(fmt::format("An engine that makes {} volumes and removes each by `zfs destroy`:", volumes),
              {fmt::format("{} removals are refused: {}", refused, words),
               fmt::format("{} volumes stay that no engine knows any more", left),
               fmt::format("{} snapshots hold a volume before its data was in it", half_made)});
    story.answer(Question::reproduced, refused > 0 && left > 0 && half_made > 0,
                 fmt::format("{} of {} removals refused, {} datasets leaked, {} snapshots of half-made volumes",
                             refused, volumes, left, half_made));

    story.phase(Phase::detect);
    const auto findings =
        TRY(findings_of(TRY(World::shale({"doctor", "--json", "--no-usage", "--check", "zfs-snapshots-pin-space",
                                          "--store", "shale=" + store.root()}))));
    const auto finding = find(findings, "zfs-snapshots-pin-space", "zfs-auto-snapshot");
    if (finding) story.show(*finding);
    story.answer(Question::detected, finding.has_value(),
                 finding ? finding->summary : "the doctor says nothing about the rotation that takes layers along");

    story.phase(Phase::heal);
    // The volumes: with all their snapshots, by name.
    for (unsigned i = 0; i < volumes; ++i)
        (void)zfs({"destroy", "-r", fmt::format("{}/volumes/v{}", pool, i)});
    unsigned failed = 0;
    std::string failure;
    {
        const Rotation rotation(pool);
        for (unsigned i = 0; i < containers; ++i) {
            const std::string name = fmt::format("c{}", i);
            for (const auto &command : std::vector<std::vector<std::string>>{
                     {"container", "create", "--name", name, "app:1"}, {"container", "rm", name}}) {
                const Ran ran = TRY(store(command));
                rotation.wait_for_one_more();
                if (ran.status == 0) continue;
                ++failed;
                failure = ran.errors;
            }
        }
        story.say(
            fmt::format("{} containers of shale are made and removed in the same storm of {} snapshots", containers,
                        rotation.taken()),
            {fmt::format("{} of {} commands failed{}", failed, 2 * containers, failure.empty() ? "" : ": " + failure)});
    }
    // The rotation's snapshots go as they came: by its own program, or by name.
    const Ran snapshots = TRY(zfs({"list", "-H", "-t", "snapshot", "-o", "name", pool}));
    std::istringstream names(snapshots.out);
    std::string all;
    for (std::string name; std::getline(names, name);)
        if (const size_t at = name.find("@zfs-auto-snap"); at != std::string::npos)
            all += (all.empty() ? "" : ",") + name.substr(at + 1);
    (void)zfs({"destroy", "-r", "-d", pool + "@" + all});
    story.show(TRY(store({"gc"})));

    story.phase(Phase::verify);
    const size_t datasets = lines_of(TRY(zfs({"list", "-H", "-r", "-o", "name", pool})).out, "/shale-");
    const size_t volumes_left =
        lines_of(TRY(zfs({"list", "-H", "-r", "-o", "name", pool + "/volumes"})).out, "/volumes/v");
    const Ran check = TRY(store({"check"}));
    story.show(check);
    // The hidden parent, and one dataset for each of the image's two layers.
    story.answer(
        Question::healed, failed == 0 && datasets == 3 && volumes_left == 0 && check.status == 0,
        fmt::format(
            "no command failed under the storm; {} datasets of the store are left, as many as it has layers and one",
            datasets));
    return {};
}

} // namespace

extern const Scenario zfs_snapshot_race;
const Scenario zfs_snapshot_race{
    .id = "zfs-snapshot-race",
    .title = "Automatic snapshots of a ZFS pool, while volumes are made and removed",
    .about = "A rotation that snapshots a whole pool meets volumes between their creation and their first data, and "
             "layers that are about to go: "
             "snapshots hold half-made volumes, `zfs destroy` is refused because there are snapshots, and datasets "
             "stay that no engine "
             "knows. The doctor names the rotation; shale's driver destroys what others took of its layers along with "
             "them, and leaves "
             "nothing.",
    .cannot_run = lacks_zfs,
    .run = run,
};

} // namespace shale::lab
