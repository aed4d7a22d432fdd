// SPDX-License-Identifier: Apache-2.0
// The pool as a whole: made, checked, activated, grown. Its volumes are in volumes.cc.
#include "drivers/devicemapper/pool.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/units.h"
#include "sys/dm.h"
#include "sys/fs.h"
#include "sys/random.h"
#include "sys/run.h"

namespace shale::drivers::devicemapper {
namespace {

using sys::PoolMode;

constexpr auto check_deadline = std::chrono::minutes(30); ///< of thin_check: reads all metadata, at most 16 GiB
constexpr auto mkfs_deadline = std::chrono::minutes(10);

std::string value_of(const std::string &record, std::string_view key) {
    const std::string wanted = fmt::format("\n{}=", key);
    const std::string text = "\n" + record;
    const size_t at = text.find(wanted);
    if (at == std::string::npos) return {};
    return text.substr(at + wanted.size(), text.find('\n', at + 1) - at - wanted.size());
}

/// How the pool gets more: the end of a sentence that begins with "or".
std::string_view more_metadata(Backing backing) {
    return backing == Backing::device ? "move the store to a pool with a larger metadata_size (shale migrate --to "
                                        "devicemapper, with another device): on a device it is fixed"
                                      : "raise metadata_size";
}
std::string_view more_data(Backing backing) {
    return backing == Backing::device ? "enlarge the device, and data_size where it is set: that counts at the pool's "
                                        "next activation"
                                      : "raise data_size";
}

} // namespace

Status usable(const sys::ThinPoolStatus &status, const Config &config, const std::string &pool) {
    const auto refuse = [&](std::string_view state, std::string_view what_to_do) {
        return fail(Errc::FailedPrecondition, fmt::format("thin pool {} {}. {}", pool, state, what_to_do));
    };
    if (status.mode == PoolMode::failed || status.mode == PoolMode::error)
        return refuse(status.mode == PoolMode::failed ? "has failed: the kernel gave it up and refuses all I/O (Fail)"
                                                      : "cannot read its own metadata (Error)",
                      "See the kernel's log for the device's errors; unmount what is on it, deactivate it (dmsetup "
                      "remove) and open the store again: thin_check then says whether thin_repair is needed");
    if (status.needs_check)
        return refuse("is read-only and marked needs_check: a commit of its metadata has failed",
                      "Unmount what is on it, deactivate it, run thin_check on the metadata device; when that finds "
                      "nothing, thin_check --clear-needs-check-flag, else thin_repair");
    if (status.mode == PoolMode::read_only && status.used_metadata_blocks == status.total_metadata_blocks)
        return refuse(
            fmt::format("is read-only: its metadata is full ({} of {} blocks of 4 KiB)", status.used_metadata_blocks,
                        status.total_metadata_blocks),
            config.backing == Backing::device
                ? "On a device its size is fixed. Unmount what is on it, deactivate it (dmsetup remove), then remove "
                  "containers or images that wrote much and run gc; or move the store, all of which can be read, "
                  "to a pool with a larger metadata_size (shale migrate --to devicemapper, with another device)"
                : "Raise metadata_size and open the store again: it goes on from there");
    if (status.mode == PoolMode::read_only)
        return refuse("is read-only", "The kernel's log says why; deactivate it and open the store again");
    return {};
}

Status took_all(const sys::ThinPoolStatus &status, const Config &config, const std::string &pool) {
    TRY(usable(status, config, pool));
    if (status.mode == PoolMode::out_of_data_space) return has_room(status, config, pool);
    return {};
}

Status has_room(const sys::ThinPoolStatus &status, const Config &config, const std::string &pool) {
    const auto percent = [](uint64_t part, uint64_t whole) {
        return whole == 0 ? 100.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
    };
    const auto full = [&](std::string_view what, uint64_t used, uint64_t total, uint64_t block, uint64_t need,
                          unsigned mark, std::string_view option, std::string_view more) {
        return fail(
            Errc::ResourceExhausted,
            fmt::format("thin pool {}: {} is nearly full: {} of {} blocks of {} in use ({:.1f} %), a new volume "
                        "may take {} and the mark is {} % (option {}_max). Nothing was made. Remove "
                        "containers or images and run gc, or {}",
                        pool, what, used, total, format_bytes(block), percent(used, total), need, mark, option, more));
    };
    // A snapshot copies a path of each of three B-trees (mappings, details, and the space maps that count the blocks),
    // at most 4 levels, old and new: 24 blocks; twice that, as its first mount changes the same paths. Small pools have
    // low trees.
    const uint64_t need = std::clamp<uint64_t>(status.total_metadata_blocks / 32, 4, 48);
    if (status.used_metadata_blocks + need > status.total_metadata_blocks * config.metadata_max_percent / 100)
        return full("metadata", status.used_metadata_blocks, status.total_metadata_blocks, 4096, need,
                    config.metadata_max_percent, "metadata", more_metadata(config.backing));
    if (status.mode == PoolMode::out_of_data_space ||
        status.used_data_blocks + 1 > status.total_data_blocks * config.data_max_percent / 100)
        return full("data space", status.used_data_blocks, status.total_data_blocks, config.block_bytes, 1,
                    config.data_max_percent, "data", more_data(config.backing));
    return {};
}

Result<std::unique_ptr<Pool>> Pool::open(int root, Config config) {
    UniqueFd own = TRY(sys::open_dir(root, "."));
    const struct stat status = TRY(sys::stat_at(own.get(), ""));
    // By place, not by a number in the store: a copy of the store can be active beside it.
    std::string prefix = fmt::format("shale-{:x}-{:x}", status.st_dev, status.st_ino);
    return std::unique_ptr<Pool>(new Pool(std::move(own), std::move(config), std::move(prefix)));
}

Result<UniqueFd> Pool::lock(uint64_t byte) const {
    UniqueFd fd = TRY(sys::open_at(directory_.get(), "lock", O_RDWR | O_CREAT, 0600));
    TRY(sys::lock_range(fd.get(), byte, 1, sys::LockMode::exclusive));
    return fd;
}

Status Pool::ready() {
    const std::lock_guard guard(mutex_);
    if (ready_) return {};
    (void)TRY(sys::dm_version());
    if (const auto made = sys::make_dir(root_.get(), "pool", 0700); !made && made.error().sys_errno() != EEXIST)
        return made;
    directory_ = TRY(sys::open_dir(root_.get(), "pool"));
    const UniqueFd held = TRY(lock(0));
    TRY(in_context(ready_locked(), [&] { return fmt::format("thin pool {}", name()); }));
    ready_ = true;
    return {};
}

/// Reads what the store's pool is, or begins one.
Status Pool::read_record(bool &begun) {
    if (!TRY(sys::stat_if_exists(directory_.get(), "record"))) {
        store_ = TRY(sys::random_hex(8));
        begun = true;
        return write_record("begun");
    }
    const std::string record = TRY(sys::read_file(directory_.get(), "record", 4096));
    store_ = value_of(record, "store");
    begun = value_of(record, "state") == "begun";
    if (value_of(record, "format") != "1" || store_.empty() || (!begun && value_of(record, "state") != "ready"))
        return fail(Errc::DataLoss, fmt::format("the record ROOT/pool/record is damaged, or of a later shale: {:?}",
                                                record.substr(0, 200)));
    if (begun) return write_record("begun"); // with the options of now
    const auto same = [&](std::string_view key, const std::string &now) -> Status {
        const std::string then = value_of(record, key);
        if (then == now) return {};
        return fail(Errc::FailedPrecondition,
                    fmt::format("this store's pool was made with {}={}, and the options say {}: that cannot change "
                                "while the pool lives. Go on with {}={}, or use another store",
                                key, then, now, key, then));
    };
    TRY(same("pool", std::string(name_of(config_.backing))));
    TRY(same("fs", std::string(name_of(config_.fs))));
    TRY(same("block_size", std::to_string(config_.block_bytes)));
    return same("base_size", std::to_string(config_.base_bytes));
}

Status Pool::write_record(std::string_view state) const {
    return sys::write_file_durably(
        directory_.get(), "record",
        fmt::format("format=1\nstate={}\nstore={}\npool={}\nfs={}\nblock_size={}\nbase_size={}\n", state, store_,
                    name_of(config_.backing), name_of(config_.fs), config_.block_bytes, config_.base_bytes));
}

Status Pool::ready_locked() {
    bool begun = false;
    TRY(read_record(begun));
    backing_ = open_backing(directory_.get(), {prefix_, store_}, config_);
    if (begun) {
        TRY(remove_device(device_name(base_volume)));
        TRY(remove_device(name()));
        TRY(backing_->detach());
        TRY(backing_->make());
    }
    const auto active = TRY(sys::dm_find(name()));
    if (active && active->has_table) {
        if (active->suspended) TRY(sys::dm_resume(name()));
        if (active->goes_when_unused) TRY(sys::dm_keep(name()));
        TRY(adopt_active());
    } else {
        if (active) TRY(remove_device(name())); // its maker died before it had a table
        TRY(activate_pool(begun));
    }
    const auto now = TRY(sys::dm_find(name()));
    if (!now) return fail(Errc::Unavailable, "it went away just now; try again");
    pool_number_ = fmt::format("{}:{}", now->major, now->minor);
    if (begun) {
        TRY(make_base());
        return write_record("ready");
    }
    return check_transaction();
}

sys::DmTarget pool_target(const Attached &devices, uint64_t block_bytes) {
    // Without skip_block_zeroing: nobody reads what another container left, and a fresh volume reads as zeros (mkfs
    // relies on it). Writers get ENOSPC at once instead of waiting.
    return {0, devices.data.bytes / block_bytes * block_bytes / sys::sector_bytes, "thin-pool",
            fmt::format("{} {} {} 0 1 error_if_no_space", devices.metadata.number, devices.data.number,
                        block_bytes / sys::sector_bytes)};
}

Status Pool::activate_pool(bool begun) {
    const Attached devices = TRY(backing_->attach());
    if (!begun) TRY(check_metadata(devices.metadata));
    return in_context(sys::dm_create(name(), "SHALE-" + name(), {pool_target(devices, config_.block_bytes)}),
                      [&] { return fmt::format("on {} and {}", devices.metadata.path, devices.data.path); });
}

/// thin_check before the kernel relies on it. Its own answer is asked for, not the superblock's flag: that one the
/// kernel shows as needs_check afterwards.
Status Pool::check_metadata(const BlockDevice &metadata) const {
    const std::string tool = TRY(sys::find_tool("thin_check", "thin-provisioning-tools"));
    const auto done = TRY(sys::run_tool({tool, "-q", metadata.path}, check_deadline));
    if (done.exit_status == 0) return {};
    std::string words = done.errors + done.output;
    while (words.ends_with('\n'))
        words.pop_back();
    return fail(Errc::DataLoss,
                fmt::format("thin_check finds its metadata on {} damaged (status {}: {}). It was not activated and "
                            "nothing was changed. Copy the metadata device first; then thin_repair -i {} -o NEW makes "
                            "what can be saved, or put back a backup",
                            metadata.path, done.exit_status, words.empty() ? "no words" : words, metadata.path));
}

/// A pool of this name is active: it must lie on this store's devices.
Result<Attached> Pool::active_devices() const {
    const auto table = TRY(sys::dm_table(name()));
    if (table.size() != 1 || table[0].type != "thin-pool")
        return fail(Errc::FailedPrecondition, fmt::format("the active device {} is no thin pool", name()));
    const std::string &parameters = table[0].parameters;
    const size_t first = parameters.find(' ');
    const size_t second = parameters.find(' ', first + 1);
    if (second == std::string::npos) return fail(Errc::Internal, fmt::format("its table: {}", parameters));
    return backing_->attached(parameters.substr(0, first), parameters.substr(first + 1, second - first - 1));
}

Status Pool::adopt_active() {
    TRY(backing_->grow(TRY(active_devices())));
    const Attached now = TRY(active_devices());
    const auto table = TRY(sys::dm_table(name()));
    // What the pool itself says counts, not what was just done: the process that enlarged the devices may have died
    // before it told the pool.
    const sys::DmTarget wanted = pool_target(now, config_.block_bytes);
    const auto status = TRY(status_now(Figures::of_last_commit));
    const bool known = status.mode != PoolMode::failed && status.mode != PoolMode::error;
    if (wanted.length_sectors <= table[0].length_sectors &&
        (!known || usable_metadata_blocks(now.metadata.bytes) <= status.total_metadata_blocks))
        return {};
    TRY(sys::dm_reload(name(), {wanted}));
    TRY(sys::dm_suspend(name(), sys::DmSuspend::as_it_is));
    return sys::dm_resume(name());
}

Result<uint64_t> size_after(SpacePool::Part part, uint64_t now_bytes, unsigned percent, uint64_t most_bytes,
                            uint64_t block_bytes) {
    const bool is_data = part == SpacePool::Part::data;
    // Metadata in units of 64 KiB; more than what the kernel uses of it is of no use.
    const uint64_t unit = is_data ? block_bytes : uint64_t{64} << 10U;
    const uint64_t most = is_data ? most_bytes : usable_metadata_blocks(~uint64_t{0}) * metadata_block_bytes;
    const uint64_t more = now_bytes / 100 * percent + unit;
    const uint64_t wanted = std::min(now_bytes + more, most) / unit * unit;
    if (wanted > now_bytes) return wanted;
    return fail(Errc::ResourceExhausted,
                fmt::format("it has {} of {}, and may grow to {} at most{}. Nothing was changed",
                            format_bytes(now_bytes), is_data ? "data" : "metadata", format_bytes(most),
                            is_data ? "" : ", which is all that the kernel uses"));
}

Result<SpacePool::Growth> Pool::extend(SpacePool::Part part, unsigned percent, uint64_t most_bytes) {
    TRY(ready());
    const UniqueFd held = TRY(lock(0));
    const auto context = [&] { return fmt::format("thin pool {}", name()); };
    const auto is_data = part == SpacePool::Part::data;
    const Attached now = TRY(in_context(active_devices(), context));
    SpacePool::Growth out;
    out.before_bytes = is_data ? now.data.bytes : now.metadata.bytes;
    out.after_bytes =
        TRY(in_context(size_after(part, out.before_bytes, percent, most_bytes, config_.block_bytes), context));
    out.where = TRY(in_context(backing_->room_for(part, out.after_bytes), context));
    // From now on it is what the options ask for: growing is what the next opener would do, too.
    uint64_t &wanted = is_data ? config_.data_bytes : config_.metadata_bytes;
    const uint64_t before = std::exchange(wanted, std::max(wanted, out.after_bytes));
    if (const auto grown = in_context(adopt_active(), context); !grown) {
        wanted = before;
        return std::unexpected(grown.error());
    }
    const Attached then = TRY(in_context(active_devices(), context));
    out.after_bytes = is_data ? then.data.bytes : then.metadata.bytes;
    return out;
}

Result<sys::ThinPoolStatus> Pool::status(Figures figures) {
    TRY(ready());
    return status_now(figures);
}

Result<sys::ThinPoolStatus> Pool::status_now(Figures figures) const {
    const auto lines = TRY(
        sys::dm_status(name(), figures == Figures::committed_now ? sys::DmStatus::commit : sys::DmStatus::as_it_is));
    if (lines.size() != 1 || lines[0].type != "thin-pool")
        return fail(Errc::Internal, fmt::format("device {} is no thin pool", name()));
    return sys::parse_thin_pool_status(lines[0].parameters);
}

Status Pool::make_base() {
    const auto made = sys::dm_message(name(), "create_thin 0");
    if (!made) return made;
    TRY(sys::dm_message(name(), "set_transaction_id 0 1"));
    const std::string device = TRY(activate_locked(base_volume));
    TRY(in_context(format_base(device), [] { return "the base file system"; }));
    TRY(remove_device(device_name(base_volume)));
    (void)TRY(sys::dm_status(name(), sys::DmStatus::commit));
    return {};
}

Status Pool::format_base(const std::string &device) const {
    std::vector<std::string> arguments;
    if (config_.fs == FileSystem::ext4) {
        // The device reads as zeros: what mke2fs need not write needs no blocks of the pool.
        arguments = {TRY(sys::find_tool("mkfs.ext4", "e2fsprogs")),
                     "-q",
                     "-F",
                     "-m",
                     "0",
                     "-E",
                     "nodiscard,lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1,root_owner=0:0"};
    } else {
        arguments = {TRY(sys::find_tool("mkfs.xfs", "xfsprogs")), "-q", "-f", "-K"};
    }
    arguments.insert(arguments.end(), config_.mkfs.begin(), config_.mkfs.end());
    arguments.push_back(device);
    TRY(sys::run_tool_or_fail(arguments, mkfs_deadline));
    const UniqueFd mounted = TRY(sys::mount_detached(mount_spec(device, false)));
    const UniqueFd root = TRY(sys::open_dir(mounted.get(), "."));
    TRY(sys::remove_tree(root.get(), "lost+found"));
    TRY(sys::chmod_fd(root.get(), 0755));
    return sys::syncfs_fd(root.get());
}

sys::MountSpec Pool::mount_spec(const std::string &device, bool read_only) const {
    sys::MountSpec spec{std::string(name_of(config_.fs)), device, {read_only ? "ro" : "rw"}};
    if (config_.fs == FileSystem::xfs) spec.options.emplace_back("nouuid"); // a snapshot has its parent's
    return spec;
}

namespace {

/// "from to": the last change of the numbers. The pool's transaction id is `to`, or `from` when the process died
/// between the two.
struct Numbers {
    uint64_t from = 1, to = 1;
};

Result<Numbers> read_numbers(int root) {
    if (!TRY(sys::stat_if_exists(root, "volumes"))) return Numbers{};
    const std::string text = TRY(sys::read_file(root, "volumes", 64));
    Numbers out;
    const char *const end = text.data() + text.size();
    const auto first = std::from_chars(text.data(), end, out.from);
    if (first.ec == std::errc() && first.ptr != end && *first.ptr == ' ') {
        const auto second = std::from_chars(first.ptr + 1, end, out.to);
        if (second.ec == std::errc() && second.ptr == end && out.from < out.to) return out;
    }
    return fail(Errc::DataLoss, fmt::format("ROOT/volumes is damaged: {:?}", text));
}

} // namespace

/// Lock 0 is held.
Status Pool::check_transaction() {
    const Numbers numbers = TRY(read_numbers(root_.get()));
    const auto status = TRY(status_now(Figures::of_last_commit));
    if (status.mode == PoolMode::failed || status.mode == PoolMode::error) return usable(status, config_, name());
    if (status.transaction == numbers.to) return {};
    if (status.transaction == numbers.from) {
        TRY(usable(status, config_, name()));
        return sys::dm_message(name(), fmt::format("set_transaction_id {} {}", numbers.from, numbers.to));
    }
    return fail(
        Errc::FailedPrecondition,
        fmt::format(
            "its transaction id is {}, the store's records say {} (ROOT/volumes): {} is older than the other, a "
            "backup or copy was put back. Nothing was changed, and nothing is made on it, because numbers of "
            "volumes would be given out twice. Put back both from the same moment. If only one is left: "
            "'dmsetup message {} 0 \"set_transaction_id {} {}\"' takes the {}, and 'shale check' then names "
            "the layers whose volumes are missing",
            status.transaction, numbers.to, status.transaction < numbers.to ? "the pool" : "the store", name(),
            status.transaction, std::max(status.transaction, numbers.to),
            status.transaction < numbers.to ? "pool as it is"
                                            : "store as it is, after ROOT/volumes was raised to that number"));
}

Result<uint64_t> Pool::reserve(uint64_t count) {
    TRY(usable(TRY(status()), config_, name()));
    const UniqueFd held = TRY(lock(0));
    const Numbers numbers = TRY(read_numbers(root_.get()));
    if (numbers.to + count > volume_limit)
        return fail(Errc::ResourceExhausted,
                    fmt::format("thin pool {}: all {} numbers that a pool has for volumes were given out; they are not "
                                "used twice. Export what is needed and import it into a new store",
                                name(), volume_limit));
    // Another process may have died between its two writes: ours would hide it.
    TRY(in_context(check_transaction(), [&] { return fmt::format("thin pool {}", name()); }));
    TRY(sys::write_file_durably(root_.get(), "volumes", fmt::format("{} {}", numbers.to, numbers.to + count)));
    TRY(sys::dm_message(name(), fmt::format("set_transaction_id {} {}", numbers.to, numbers.to + count)));
    return numbers.to;
}

} // namespace shale::drivers::devicemapper
