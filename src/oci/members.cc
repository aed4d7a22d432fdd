// SPDX-License-Identifier: Apache-2.0
#include "oci/members.h"

#include <linux/openat2.h>

#include <vector>

#include <fmt/format.h>

#include "archive/tar.h"
#include "sys/fs.h"

namespace shale::oci {
namespace {

constexpr size_t max_members = 65'536;
constexpr size_t max_member_name = 512;
constexpr unsigned max_links = 8;

class DirectoryLayout final : public Layout {
public:
    explicit DirectoryLayout(UniqueFd root) : root_(std::move(root)) {}

    Result<std::optional<BlobView>> file(std::string_view name) const override {
        const std::string path(name);
        auto file = sys::open_at2(root_.get(), path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
                                  RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
        if (!file && file.error().sys_errno() == ENOENT) return std::nullopt;
        if (!file) return std::unexpected(std::move(file).error().add(path));
        const struct stat info = TRY(sys::stat_at(file->get(), ""));
        if (!S_ISREG(info.st_mode)) return fail(Errc::InvalidArgument, fmt::format("{} is not a regular file", path));
        return BlobView{std::make_shared<UniqueFd>(std::move(*file)), 0, static_cast<uint64_t>(info.st_size)};
    }

    Result<BlobView> blob(const Digest &digest) const override {
        auto found = TRY(file("blobs/sha256/" + digest.hex()));
        if (!found) return fail(Errc::NotFound, fmt::format("blob {} is not in the layout", digest.text()));
        return std::move(*found);
    }

private:
    UniqueFd root_;
};

} // namespace

std::unique_ptr<Layout> directory_layout(UniqueFd root) {
    return std::make_unique<DirectoryLayout>(std::move(root));
}

std::optional<std::string> clean_name(std::string_view name, std::string_view dir, bool allow_dotdot) {
    if (name.starts_with('/') || name.find('\0') != std::string_view::npos) return std::nullopt;
    std::string out(dir);
    while (!name.empty()) {
        const size_t slash = name.find('/');
        const std::string_view part = name.substr(0, slash);
        name = slash == std::string_view::npos ? std::string_view() : name.substr(slash + 1);
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            if (!allow_dotdot || out.empty()) return std::nullopt;
            const size_t cut = out.rfind('/');
            out.resize(cut == std::string::npos ? 0 : cut);
            continue;
        }
        if (!out.empty()) out += '/';
        out += part;
    }
    if (out.empty()) return std::nullopt;
    return out;
}

Result<std::unique_ptr<TarIndex>> TarIndex::read(const BlobView &archive) {
    auto out = std::make_unique<TarIndex>();
    out->file_ = archive.file;
    archive::TarLimits limits;
    limits.total_bytes = limits.file_bytes = uint64_t{1} << 62U;
    std::vector<std::byte> buffer(size_t{8} << 10U);
    uint64_t next = 0;
    for (size_t count = 0;; ++count) {
        if (count == max_members)
            return fail(Errc::ResourceExhausted, fmt::format("image archive with more than {} members", max_members));
        // A new reader at each header: data is jumped over, not read.
        uint64_t position = next;
        archive::TarReader reader(
            [&]() -> Result<std::span<const std::byte>> {
                const auto want = static_cast<size_t>(std::min<uint64_t>(buffer.size(), archive.size - position));
                if (want == 0) return std::span<const std::byte>();
                const size_t got =
                    TRY(sys::pread_some(archive.file->get(), std::span(buffer).first(want), archive.offset + position));
                position += got;
                return std::span<const std::byte>(buffer).first(got);
            },
            limits);
        archive::Entry entry;
        if (!TRY(in_context(reader.next(entry), [&] { return fmt::format("image archive at offset {}", next); })))
            return out;
        const uint64_t data = next + reader.offset();
        if (data > archive.size || entry.stored > archive.size - data)
            return fail(Errc::DataLoss, fmt::format("image archive is cut off inside member \"{}\"", entry.path));
        next = std::min(data + (entry.stored + 511) / 512 * 512, archive.size);
        if (entry.path.size() > max_member_name || entry.link.size() > max_member_name) continue;
        auto name = clean_name(entry.path);
        if (!name) continue;
        Member member;
        member.offset = archive.offset + data;
        member.size = entry.stored;
        member.link = std::move(entry.link);
        using Type = archive::EntryType;
        if (entry.type == Type::file && !entry.is_sparse)
            member.kind = Member::Kind::file;
        else if (entry.type == Type::symlink)
            member.kind = Member::Kind::symlink;
        else if (entry.type == Type::hard_link)
            member.kind = Member::Kind::hard_link;
        out->members_.insert_or_assign(std::move(*name), std::move(member));
    }
}

Result<std::optional<BlobView>> TarIndex::file(std::string_view name) const {
    const auto found = members_.find(name);
    if (found == members_.end()) return std::nullopt;
    if (found->second.kind != Member::Kind::file)
        return fail(Errc::InvalidArgument, fmt::format("member {} is not a plain regular file", name));
    return BlobView{file_, found->second.offset, found->second.size};
}

Result<BlobView> TarIndex::blob(const Digest &digest) const {
    auto found = TRY(file("blobs/sha256/" + digest.hex()));
    if (!found) return fail(Errc::NotFound, fmt::format("blob {} is not in the archive", digest.text()));
    return std::move(*found);
}

Result<BlobView> TarIndex::resolve(std::string_view name) const {
    auto current = clean_name(name);
    if (!current)
        return fail(Errc::InvalidArgument, fmt::format("member name \"{}\" is absolute, empty or holds \"..\"", name));
    for (unsigned links = 0; links <= max_links; ++links) {
        const auto found = members_.find(*current);
        if (found == members_.end())
            return fail(Errc::NotFound, fmt::format("member \"{}\" is not in the archive", *current));
        const Member &member = found->second;
        if (member.kind == Member::Kind::file) return BlobView{file_, member.offset, member.size};
        if (member.kind == Member::Kind::other)
            return fail(Errc::InvalidArgument, fmt::format("member \"{}\" is not a plain regular file", *current));
        const bool symlink = member.kind == Member::Kind::symlink;
        const size_t slash = current->rfind('/');
        const std::string dir = symlink && slash != std::string::npos ? current->substr(0, slash) : std::string();
        auto target = clean_name(member.link, dir, symlink);
        if (!target)
            return fail(Errc::InvalidArgument,
                        fmt::format("member \"{}\" is a link that leads out of the archive", *current));
        current = std::move(target);
    }
    return fail(Errc::InvalidArgument, fmt::format("member \"{}\": too many links", name));
}

} // namespace shale::oci
