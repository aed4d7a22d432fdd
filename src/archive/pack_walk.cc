// SPDX-License-Identifier: Apache-2.0
#include "archive/pack_walk.h"

#include <dirent.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstring>

namespace shale::archive {
namespace {

Result<uint64_t> map_id(const IdMap &map, uint32_t id, const char *kind, const std::string &path) {
    if (map.empty()) return id;
    for (const auto &range : map) {
        if (id >= range.host_id && id - range.host_id < range.count)
            return uint64_t{range.container_id} + (id - range.host_id);
    }
    return fail(Errc::FailedPrecondition,
                "pack " + quoted(path) + ": " + kind + " " + std::to_string(id) + " is outside the id map");
}

} // namespace

Result<Source> open_source(int dir, const char *name, unsigned char type) {
    Source out;
    out.dir = dir;
    out.name = name;
    if (type == DT_REG || type == DT_DIR) {
        // O_NONBLOCK: should a FIFO have taken the place meanwhile, do not wait for a writer.
        out.fd = TRY(sys::open_at(dir, name, O_RDONLY | (type == DT_DIR ? O_DIRECTORY : O_NONBLOCK | O_NOCTTY)));
        out.st = TRY(sys::stat_at(out.fd.get(), ""));
        out.xattrs = TRY(read_xattrs(out.fd.get(), ""));
        if (type == DT_REG && !S_ISREG(out.st.st_mode))
            return fail(Errc::Aborted, "read " + quoted(name) + ": it was replaced while the tree was read");
        return out;
    }
    out.st = TRY(sys::stat_at(dir, name));
    out.xattrs = TRY(read_xattrs(dir, name));
    return out;
}

Packer::Packer(const PackOptions &options, const Sink &sink)
    : options_(options), sink_(sink), writer_([this](std::span<const std::byte> bytes) { return put(bytes); }),
      buffer_(std::make_unique_for_overwrite<std::byte[]>(buffer_size)),       // NOLINT(*-avoid-c-arrays)
      read_buffer_(std::make_unique_for_overwrite<std::byte[]>(buffer_size)) { // NOLINT(*-avoid-c-arrays)
}

Status Packer::put(std::span<const std::byte> bytes) {
    if (filled_ + bytes.size() > buffer_size) TRY(flush());
    if (bytes.size() >= buffer_size / 2) {
        TRY(flush());
        return sink_(bytes);
    }
    std::memcpy(buffer_.get() + filled_, bytes.data(), bytes.size());
    filled_ += bytes.size();
    return {};
}

Status Packer::flush() {
    if (filled_ == 0) return {};
    const std::span<const std::byte> bytes(buffer_.get(), filled_);
    filled_ = 0;
    return sink_(bytes);
}

Status Packer::emit(const std::string &path, Source &source) {
    const struct stat &st = source.st;
    Entry entry;
    entry.path = path;
    entry.mode = st.st_mode & 07777U;
    entry.uid = TRY(map_id(options_.uid_map, st.st_uid, "uid", path));
    entry.gid = TRY(map_id(options_.gid_map, st.st_gid, "gid", path));
    entry.mtime_s = st.st_mtim.tv_sec;
    entry.mtime_ns = static_cast<uint32_t>(st.st_mtim.tv_nsec);
    switch (st.st_mode & S_IFMT) {
    case S_IFREG:
        entry.type = EntryType::file;
        break;
    case S_IFDIR:
        entry.type = EntryType::directory;
        entry.path += '/';
        break;
    case S_IFLNK:
        entry.type = EntryType::symlink;
        break;
    case S_IFCHR:
        entry.type = EntryType::char_device;
        break;
    case S_IFBLK:
        entry.type = EntryType::block_device;
        break;
    case S_IFIFO:
        entry.type = EntryType::fifo;
        break;
    default:
        skip_socket();
        return {};
    }
    ++report_.entries;
    if (st.st_nlink > 1 && entry.type != EntryType::directory) {
        const auto [it, is_first] = links_.try_emplace(key_of(st), path);
        if (!is_first) {
            entry.type = EntryType::hard_link;
            entry.link = it->second;
            return writer_.add(entry);
        }
    }
    if (entry.type == EntryType::symlink) entry.link = TRY(sys::read_link(source.dir, source.name));
    if (entry.type == EntryType::char_device || entry.type == EntryType::block_device) {
        entry.dev_major = major(st.st_rdev);
        entry.dev_minor = minor(st.st_rdev);
    }
    for (auto &[key, value] : source.xattrs) {
        if (!is_layer_xattr(key)) continue;
        if (key.find('=') != std::string::npos) {
            warn(quoted(path) + ": attribute " + quoted(key) + " cannot be stated in a layer, left out");
            continue;
        }
        entry.xattrs.emplace_back(std::move(key), std::move(value));
    }
    if (entry.type == EntryType::file) entry.size = static_cast<uint64_t>(st.st_size);
    TRY(writer_.add(entry));
    if (entry.size == 0) return {};
    report_.bytes += entry.size;
    return copy_data(path, source.fd.get(), entry.size);
}

Status Packer::copy_data(const std::string &path, int fd, uint64_t size) {
    for (uint64_t left = size; left > 0;) {
        const auto wanted = static_cast<size_t>(std::min<uint64_t>(left, buffer_size));
        const size_t got = TRY(sys::read_some(fd, {read_buffer_.get(), wanted}));
        if (got == 0)
            return fail(Errc::Aborted, "pack " + quoted(path) + ": the file shrank by " + std::to_string(left) +
                                           " bytes while it was read");
        TRY(writer_.data({read_buffer_.get(), got}));
        left -= got;
    }
    return {};
}

Status Packer::marker(std::string path) {
    Entry entry;
    entry.path = std::move(path);
    ++report_.entries;
    return writer_.add(entry);
}

Status Packer::whiteout(const std::string &directory, const std::string &name) {
    if (refuses(directory, name)) return {};
    return marker(directory + std::string(whiteout_prefix) + name);
}

Status Packer::opaque(const std::string &directory) {
    return marker(directory + std::string(opaque_marker));
}

bool Packer::refuses(const std::string &directory, const std::string &name) {
    if (!name.starts_with(whiteout_prefix)) return false;
    warn(quoted(directory + name) + ": a name that begins with \".wh.\" cannot be stated in a layer, left out");
    return true;
}

void Packer::warn(std::string text) {
    if (report_.warnings.size() < 100) report_.warnings.push_back(std::move(text));
}

Result<PackReport> Packer::finish() {
    TRY(writer_.finish());
    TRY(flush());
    return std::move(report_);
}

} // namespace shale::archive
