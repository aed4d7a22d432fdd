// SPDX-License-Identifier: Apache-2.0
// The hidden parent dataset.
#include <fcntl.h>
#include <sys/random.h>

#include <array>
#include <cerrno>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "drivers/zfs/zfs.h"
#include "sys/fs.h"

namespace shale::drivers::zfs {
namespace {

constexpr const char *record_name = "dataset";

std::string text_of(const sys::ZfsProperties &properties) {
    std::string out;
    for (const auto &[key, value] : properties)
        out.append(out.empty() ? "" : " ").append(key).append("=").append(value);
    return out;
}

Result<std::string> new_name(const std::string &base) {
    std::array<unsigned char, 6> bytes{};
    if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
        return fail_errno(errno, "getrandom");
    return fmt::format("{}/shale-{:02x}", base, fmt::join(bytes, ""));
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

Result<std::string> Home::name() {
    const std::lock_guard guard(mutex_);
    if (!name_.empty()) return name_;
    const auto record = TRY(read());
    if (!record) return fail(Errc::NotFound, fmt::format("driver zfs: {} has no dataset yet", root_.path()));
    TRY(check_base(record->name));
    name_ = record->name;
    return name_;
}

Result<std::string> Home::ready() {
    const std::lock_guard guard(mutex_);
    if (ready_.empty()) ready_ = name_ = TRY(make());
    return ready_;
}

Result<std::string> Home::make() {
    const std::string wanted = text_of(settings_.properties);
    auto record = TRY(read());
    if (record) TRY(check_base(record->name));
    if (record && record->properties == wanted) return record->name;
    const UniqueFd lock = TRY(sys::open_at(root_.fd(), "dataset.lock", O_RDWR | O_CREAT, 0600));
    TRY(sys::lock_range(lock.get(), 0, 1, sys::LockMode::exclusive));
    record = TRY(read()); // what another process may have done meanwhile
    if (!record) {
        const std::string base = settings_.base.empty() ? TRY(sys::zfs_dataset_of(root_.fd())) : settings_.base;
        record = Record{TRY(new_name(base)), ""};
        TRY(write(*record));
    }
    if (record->properties.empty()) { // named, and made or not
        sys::ZfsProperties all{{"mountpoint", "legacy"},
                               {"canmount", "noauto"},
                               {"com.sun:auto-snapshot", "false"},
                               {"shale:root", root_.path()}};
        all.insert(all.end(), settings_.properties.begin(), settings_.properties.end());
        auto done = zfs_.create_with(record->name, all);
        if (!done && done.error().sys_errno() == EEXIST) done = zfs_.set(record->name, settings_.properties);
        TRY(std::move(done));
    } else if (record->properties != wanted) {
        TRY(zfs_.set(record->name, settings_.properties));
    }
    record->properties = wanted;
    TRY(write(*record));
    return record->name;
}

} // namespace shale::drivers::zfs
