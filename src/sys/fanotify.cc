// SPDX-License-Identifier: Apache-2.0
#include "sys/fanotify.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/fs_internal.h"

#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200 // include/uapi/linux/fcntl.h, Linux 6.5
#endif

namespace shale::sys {
namespace {

using detail::invoke;

constexpr size_t buffer_bytes = size_t{64} << 10U;
constexpr int reads_at_most = 64; ///< in one call of read(): who changes things without end does not hold us there

template <class T> std::optional<T> load(std::span<const std::byte> bytes) {
    if (bytes.size() < sizeof(T)) return std::nullopt;
    T out;
    std::memcpy(&out, bytes.data(), sizeof out);
    return out;
}

/// What stands before the first NUL; nullopt: there is none, or it is no name.
std::optional<std::string> name_in(std::span<const std::byte> bytes) {
    const std::string_view text(reinterpret_cast<const char *>(bytes.data()), bytes.size());
    const size_t end = text.find('\0');
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view name = text.substr(0, end);
    if (name.find('/') != std::string_view::npos) return std::nullopt;
    return std::string(name == "." ? "" : name);
}

std::unexpected<Error> malformed(std::string_view what) {
    return fail(Errc::InvalidArgument, fmt::format("a queue of events that is not as it should be: {}", what));
}

/// `info` is one information record with its header. Those of other types say nothing here.
Status add_info(std::span<const std::byte> info, uint8_t type, FanotifyRecord &out) {
    const bool has_name = type == FAN_EVENT_INFO_TYPE_DFID_NAME;
    if (!has_name && type != FAN_EVENT_INFO_TYPE_FID && type != FAN_EVENT_INFO_TYPE_DFID) return {};
    // Header, fsid, and struct file_handle: size, type, bytes.
    constexpr size_t fsid_at = sizeof(fanotify_event_info_header), handle_at = fsid_at + 8, bytes_at = handle_at + 8;
    const auto size = info.size() < bytes_at ? std::nullopt : load<uint32_t>(info.subspan(handle_at));
    if (!size || *size > info.size() - bytes_at) return malformed("a file handle that is cut off");
    std::string identity(reinterpret_cast<const char *>(info.data()) + fsid_at, 8);
    identity.append(reinterpret_cast<const char *>(info.data()) + handle_at + 4, 4 + size_t{*size});
    if (type == FAN_EVENT_INFO_TYPE_FID) {
        out.object = std::move(identity);
        return {};
    }
    out.directory = std::move(identity);
    if (!has_name) return {};
    auto name = name_in(info.subspan(bytes_at + *size));
    if (!name) return malformed("a name that does not end, or has a slash");
    out.name = std::move(*name);
    return {};
}

/// struct inotify_event without its flexible member.
struct InotifyHead {
    int watch = 0;
    uint32_t mask = 0, cookie = 0, length = 0;
};
static_assert(sizeof(InotifyHead) == sizeof(inotify_event));

struct Bit {
    uint64_t kernel;
    uint32_t ours;
};
constexpr std::array fanotify_bits = {
    Bit{FAN_MODIFY, event::modified},   Bit{FAN_CLOSE_WRITE, event::closed}, Bit{FAN_ATTRIB, event::attributes},
    Bit{FAN_CREATE, event::created},    Bit{FAN_DELETE, event::deleted},     Bit{FAN_MOVED_FROM, event::moved_from},
    Bit{FAN_MOVED_TO, event::moved_to}, Bit{FAN_DELETE_SELF, event::gone},   Bit{FAN_MOVE_SELF, event::gone}};
constexpr std::array inotify_bits = {
    Bit{IN_MODIFY, event::modified},   Bit{IN_CLOSE_WRITE, event::closed}, Bit{IN_ATTRIB, event::attributes},
    Bit{IN_CREATE, event::created},    Bit{IN_DELETE, event::deleted},     Bit{IN_MOVED_FROM, event::moved_from},
    Bit{IN_MOVED_TO, event::moved_to}, Bit{IN_DELETE_SELF, event::gone},   Bit{IN_MOVE_SELF, event::gone},
    Bit{IN_UNMOUNT, event::gone},      Bit{IN_IGNORED, event::gone}};

uint32_t what_of(uint64_t mask, std::span<const Bit> bits) {
    uint32_t out = 0;
    for (const Bit &bit : bits)
        if ((mask & bit.kernel) != 0) out |= bit.ours;
    return out;
}

uint64_t fanotify_mask(ChangeQueue::Interest interest) {
    constexpr uint64_t self = FAN_DELETE_SELF | FAN_MOVE_SELF;
    constexpr uint64_t file = FAN_MODIFY | FAN_CLOSE_WRITE | FAN_ATTRIB;
    constexpr uint64_t names = FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO | FAN_ONDIR;
    switch (interest) {
    case ChangeQueue::Interest::names:
        return self | names;
    case ChangeQueue::Interest::entries:
        return self | names | file | FAN_EVENT_ON_CHILD;
    case ChangeQueue::Interest::itself:
        break;
    }
    return self | file;
}

uint32_t inotify_mask(ChangeQueue::Interest interest) {
    constexpr uint32_t self = IN_DELETE_SELF | IN_MOVE_SELF | IN_MASK_ADD;
    constexpr uint32_t file = IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB;
    constexpr uint32_t names = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR;
    switch (interest) {
    case ChangeQueue::Interest::names:
        return self | names;
    case ChangeQueue::Interest::entries:
        return self | names | file;
    case ChangeQueue::Interest::itself:
        break;
    }
    return self | file;
}

/// As fanotify's records state it: fsid (statfs(2)), type and bytes of the handle.
Result<std::string> identity_of(int fd) {
    constexpr const char *call = "name_to_handle_at";
    alignas(file_handle) std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> raw{};
    auto *const head = reinterpret_cast<file_handle *>(raw.data());
    // A handle that need not be opened again, which overlay gives from Linux 6.6 on; EINVAL: no kernel of 6.5 yet.
    int done = -1;
    for (const int flags : {AT_EMPTY_PATH | AT_HANDLE_FID, AT_EMPTY_PATH}) {
        int mount = 0;
        head->handle_bytes = MAX_HANDLE_SZ;
        done = invoke(Op::stat, fd, call, [&] { return ::name_to_handle_at(fd, "", head, &mount, flags); });
        if (done == 0 || errno != EINVAL) break;
    }
    if (done != 0) return fail_errno(errno, call);
    const auto status = TRY(statfs_fd(fd));
    static_assert(sizeof status.f_fsid == 8);
    std::string out(reinterpret_cast<const char *>(&status.f_fsid), sizeof status.f_fsid);
    out.append(reinterpret_cast<const char *>(&head->handle_type), sizeof head->handle_type);
    out.append(reinterpret_cast<const char *>(head->f_handle), head->handle_bytes);
    return out;
}

/// Calls `take` with each buffer that can be read now.
template <class F> Status drain(int fd, F &&take) {
    alignas(8) thread_local std::array<std::byte, buffer_bytes> buffer;
    for (int reads = 0; reads < reads_at_most; ++reads) {
        const auto got = read_some(fd, buffer);
        if (!got && got.error().sys_errno() == EAGAIN) return {};
        if (!got) return std::unexpected(got.error());
        if (*got == 0) return {};
        take(std::span<const std::byte>(buffer).first(*got));
    }
    return {};
}

} // namespace

Result<std::vector<FanotifyRecord>> parse_fanotify(std::span<const std::byte> buffer) {
    std::vector<FanotifyRecord> out;
    while (!buffer.empty()) {
        const auto head = load<fanotify_event_metadata>(buffer);
        if (!head) return malformed("an event that is cut off");
        if (head->vers != FANOTIFY_METADATA_VERSION)
            return malformed(
                fmt::format("version {} of its events, where {} is known", head->vers, FANOTIFY_METADATA_VERSION));
        if (head->metadata_len < sizeof *head || head->event_len < head->metadata_len ||
            head->event_len > buffer.size())
            return malformed(fmt::format("an event of {} bytes in {}", head->event_len, buffer.size()));
        FanotifyRecord &record = out.emplace_back();
        record.mask = head->mask;
        auto rest = buffer.subspan(head->metadata_len, head->event_len - head->metadata_len);
        while (!rest.empty()) {
            const auto info = load<fanotify_event_info_header>(rest);
            if (!info || info->len < sizeof *info || info->len > rest.size())
                return malformed("an information record that is cut off");
            TRY(add_info(rest.first(info->len), info->info_type, record));
            rest = rest.subspan(info->len);
        }
        buffer = buffer.subspan(head->event_len);
    }
    return out;
}

Result<std::vector<InotifyRecord>> parse_inotify(std::span<const std::byte> buffer) {
    std::vector<InotifyRecord> out;
    while (!buffer.empty()) {
        const auto head = load<InotifyHead>(buffer);
        if (!head || head->length > buffer.size() - sizeof *head) return malformed("an event that is cut off");
        InotifyRecord &record = out.emplace_back();
        record.watch = head->watch;
        record.mask = head->mask;
        if (head->length != 0) {
            auto name = name_in(buffer.subspan(sizeof *head, head->length));
            if (!name) return malformed("a name that does not end, or has a slash");
            record.name = std::move(*name);
        }
        buffer = buffer.subspan(sizeof *head + head->length);
    }
    return out;
}

Result<ChangeQueue> ChangeQueue::open(Api first) {
    ChangeQueue out;
    out.poll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
    if (!out.poll_) return fail_errno(errno, "epoll_create1");
    if (first == Api::fanotify) {
        const Status started = out.start_fanotify();
        if (started) return out;
        out.refusal_ = started.error().text();
    }
    TRY(out.start_inotify());
    return out;
}

Status ChangeQueue::start_fanotify() {
    constexpr unsigned plain = FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID | FAN_REPORT_DFID_NAME;
    const auto init = [](const char *rung, unsigned flags) {
        return invoke(Op::fanotify, -1, rung, [&] { return ::fanotify_init(flags, O_RDONLY | O_CLOEXEC); });
    };
    // The queue without a limit takes CAP_SYS_ADMIN of the initial user namespace.
    fanotify_ = UniqueFd(init("fanotify_init, unlimited", plain | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS));
    if (!fanotify_ && errno == EPERM) fanotify_ = UniqueFd(init("fanotify_init", plain));
    if (!fanotify_) return fail_errno(errno, "fanotify_init");
    return poll_also(fanotify_.get());
}

Status ChangeQueue::start_inotify() {
    if (inotify_) return {};
    UniqueFd fd(invoke(Op::inotify, -1, "inotify_init", [] { return ::inotify_init1(IN_CLOEXEC | IN_NONBLOCK); }));
    if (!fd)
        return fail_errno(errno, errno == EMFILE ? "inotify_init (see fs.inotify.max_user_instances)" : "inotify_init");
    TRY(poll_also(fd.get()));
    inotify_ = std::move(fd);
    return {};
}

Status ChangeQueue::poll_also(int fd) const {
    epoll_event wanted{};
    wanted.events = EPOLLIN;
    if (::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd, &wanted) != 0) return fail_errno(errno, "epoll_ctl");
    return {};
}

Result<uint64_t> ChangeQueue::add(int fd, Interest interest) {
    if (fanotify_) {
        auto added = add_fanotify(fd, interest);
        if (added) return added;
        refusal_ = added.error().text();
        TRY(start_inotify());
    }
    return add_inotify(fd, interest);
}

Result<uint64_t> ChangeQueue::add_fanotify(int fd, Interest interest) {
    // By way of /proc: a descriptor that is O_PATH is not taken as it is.
    const unsigned flags = FAN_MARK_ADD | (interest == Interest::itself ? 0U : unsigned{FAN_MARK_ONLYDIR});
    const auto identity = TRY(identity_of(fd));
    const int done = invoke(Op::fanotify, fd, "fanotify_mark", [&] {
        return ::fanotify_mark(fanotify_.get(), flags, fanotify_mask(interest), AT_FDCWD, fd_path(fd).c_str());
    });
    if (done != 0) return fail_errno(errno, detail::what("fanotify_mark", fd, nullptr));
    const auto [found, fresh] = by_identity_.try_emplace(identity, last_ + 1);
    if (fresh) ++last_;
    return found->second;
}

Result<uint64_t> ChangeQueue::add_inotify(int fd, Interest interest) {
    const int watch = invoke(Op::inotify, fd, "inotify_add_watch", [&] {
        return ::inotify_add_watch(inotify_.get(), fd_path(fd).c_str(), inotify_mask(interest));
    });
    if (watch < 0) {
        const int error = errno;
        auto text = detail::what("watch", fd, nullptr);
        if (error == ENOSPC) text += " (fs.inotify.max_user_watches are in use)";
        return fail_errno(error, std::move(text));
    }
    const auto [found, fresh] = by_watch_.try_emplace(watch, last_ + 1);
    if (fresh) ++last_;
    return found->second;
}

void ChangeQueue::keep_only(const std::set<uint64_t> &used) {
    std::erase_if(by_watch_, [&](const auto &one) {
        if (used.contains(one.second)) return false;
        (void)::inotify_rm_watch(inotify_.get(), one.first);
        return true;
    });
    unused_ = static_cast<size_t>(
        std::ranges::count_if(by_identity_, [&](const auto &one) { return !used.contains(one.second); }));
}

uint64_t ChangeQueue::number_of(const std::string &identity) const {
    const auto found = by_identity_.find(identity);
    return identity.empty() || found == by_identity_.end() ? 0 : found->second;
}

Result<ChangeQueue::Batch> ChangeQueue::read() {
    Batch out;
    if (fanotify_) TRY(read_fanotify(out));
    if (inotify_) TRY(read_inotify(out));
    return out;
}

Status ChangeQueue::read_fanotify(Batch &batch) {
    return drain(fanotify_.get(), [&](std::span<const std::byte> bytes) {
        auto records = parse_fanotify(bytes);
        if (!records) {
            batch.lost = true;
            return;
        }
        for (FanotifyRecord &record : *records) {
            batch.lost = batch.lost || (record.mask & FAN_Q_OVERFLOW) != 0;
            const uint32_t what = what_of(record.mask, fanotify_bits);
            const uint64_t directory = number_of(record.directory), object = number_of(record.object);
            if (what == 0) continue;
            // It has gone for good, and what it is known by may come again.
            if ((record.mask & FAN_DELETE_SELF) != 0) by_identity_.erase(record.object);
            if (object != 0) batch.events.push_back({object, "", what});
            if (directory != 0 || object == 0) batch.events.push_back({directory, std::move(record.name), what});
        }
    });
}

Status ChangeQueue::read_inotify(Batch &batch) {
    return drain(inotify_.get(), [&](std::span<const std::byte> bytes) {
        auto records = parse_inotify(bytes);
        if (!records) {
            batch.lost = true;
            return;
        }
        for (InotifyRecord &record : *records) {
            batch.lost = batch.lost || (record.mask & IN_Q_OVERFLOW) != 0;
            const auto found = by_watch_.find(record.watch);
            if (found == by_watch_.end()) continue; // taken away meanwhile
            const uint32_t what = what_of(record.mask, inotify_bits);
            if (what != 0) batch.events.push_back({found->second, std::move(record.name), what});
            if ((record.mask & IN_IGNORED) != 0) by_watch_.erase(found);
        }
    });
}

} // namespace shale::sys
