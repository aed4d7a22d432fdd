// SPDX-License-Identifier: Apache-2.0
// The hidden parent dataset.
#include <fcntl.h>

#include <cerrno>

#include <fmt/format.h>

#include "drivers/zfs/zfs.h"
#include "sys/fs.h"
#include "sys/random.h"

namespace shale::drivers::zfs {
namespace {

constexpr const char *record_name = "dataset";
constexpr const char *owner_key = "shale:root";

std::string text_of(const sys::ZfsProperties &properties) {
    std::string out;
    for (const auto &[key, value] : properties)
        out.append(out.empty() ? "" : " ").append(key).append("=").append(value);
    return out;
}

} // namespace

Result<std::optional<Home::Record>> Home::read() const {
    if (!TRY(sys::stat_if_exists(root_.fd(), record_name))) return std::nullopt;
    const std::string text = TRY(sys::read_file(root_.fd(), record_name, 4096));
    const size_t line = text.find('\n');
    const size_t end = line == std::string::npos ? line : text.find('\n', line + 1);
    Record out;
    out.name = text.substr(0, line);
    if (end == std::string::npos || !sys::is_zfs_name(out.name))
        return fail(Errc::DataLoss,
                    fmt::format("{}/{} does not name a dataset: \"{:.300}\"", root_.path(), record_name, text));
    out.properties = text.substr(line + 1, end - line - 1);
    return out;
}

Status Home::write(const Record &record) const {
    return sys::write_file_durably(root_.fd(), record_name, fmt::format("{}\n{}\n", record.name, record.properties));
}

Status Home::check_base(const std::string &name) const {
    if (settings_.base.empty() || name.starts_with(settings_.base + "/")) return {};
    return fail(
        Errc::FailedPrecondition,
        fmt::format("driver zfs: the layers of {} lie in the dataset {}, not below {}; leave the option dataset "
                    "out, or begin a new store",
                    root_.path(), name, settings_.base));
}

Result<bool> Home::is_ours(const std::string &name) const {
    const auto found = zfs_.property(name, owner_key);
    if (!found && found.error().sys_errno() == ENOENT) return false; // not made yet, or its pool is not there
    const std::string owner = TRY(Result<std::string>(found));
    if (owner == root_.path()) return true;
    // The same directory may be seen by two paths.
    const auto there = sys::stat_if_exists(AT_FDCWD, owner.c_str());
    const struct stat here = TRY(sys::stat_at(root_.fd(), ""));
    if (there && *there && (*there)->st_dev == here.st_dev && (*there)->st_ino == here.st_ino) return true;
    return fail(
        Errc::FailedPrecondition,
        fmt::format("driver zfs: the dataset {} belongs to the store at {} (property {}), not to {}: this directory is "
                    "a copy, or was moved. Nothing was changed: a copy would destroy the layers of the original. If it "
                    "was moved, and nothing is left at the old place: 'zfs set {}={} {}'. A copy needs layers of its "
                    "own: export from the original and import into a new store",
                    name, owner == "-" ? "nobody" : owner, owner_key, root_.path(), owner_key, root_.path(), name));
}

Result<std::string> Home::name() {
    const std::lock_guard guard(mutex_);
    if (!name_.empty()) return name_;
    const auto record = TRY(read());
    if (!record) return fail(Errc::NotFound, fmt::format("driver zfs: {} has no dataset yet", root_.path()));
    TRY(check_base(record->name));
    if (TRY(is_ours(record->name))) name_ = record->name;
    return record->name;
}

Result<bool> Home::is_gone(const std::string &name) {
    if (TRY(zfs_.exists(name))) return false;
    const std::string pool(sys::zfs_pool_of(name));
    if (TRY(zfs_.exists(pool))) return true;
    return fail(Errc::FailedPrecondition, fmt::format("the pool {} with the dataset {} is not imported ('zpool import "
                                                      "{}'): what is in it is not gone",
                                                      pool, name, pool));
}

Result<std::string> Home::ready() {
    const std::lock_guard guard(mutex_);
    if (ready_.empty()) ready_ = name_ = TRY(make());
    return ready_;
}

Result<std::string> Home::make() {
    const std::string wanted = text_of(settings_.properties);
    auto record = TRY(read());
    if (record) {
        TRY(check_base(record->name));
        (void)TRY(is_ours(record->name));
    }
    if (record && record->properties == wanted) return record->name;
    const UniqueFd lock = TRY(sys::open_at(root_.fd(), "dataset.lock", O_RDWR | O_CREAT, 0600));
    TRY(sys::lock_range(lock.get(), 0, 1, sys::LockMode::exclusive));
    record = TRY(read()); // what another process may have done meanwhile
    if (!record) {
        const std::string base = settings_.base.empty() ? TRY(sys::zfs_dataset_of(root_.fd())) : settings_.base;
        record = Record{fmt::format("{}/shale-{}", base, TRY(sys::random_hex(6))), ""};
        TRY(write(*record));
    }
    if (record->properties.empty()) { // named, and made or not
        sys::ZfsProperties all{{"mountpoint", "legacy"},
                               {"canmount", "noauto"},
                               {"com.sun:auto-snapshot", "false"},
                               {owner_key, root_.path()}};
        all.insert(all.end(), settings_.properties.begin(), settings_.properties.end());
        auto done = zfs_.create_with(record->name, all);
        if (!done && done.error().sys_errno() == EEXIST) {
            (void)TRY(is_ours(record->name));
            done = zfs_.set(record->name, settings_.properties);
        }
        TRY(std::move(done));
    } else if (record->properties != wanted) {
        TRY(zfs_.set(record->name, settings_.properties));
    }
    record->properties = wanted;
    TRY(write(*record));
    return record->name;
}

} // namespace shale::drivers::zfs
