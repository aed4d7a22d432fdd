// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include <fmt/format.h>

#include "oci/image.h"
#include "oci/reference.h"
#include "oci/source.h"
#include "oci/stream.h"
#include "sys/fs.h"

namespace shale::oci {
namespace {

/// Only the presence counts: every known layout version is 1.0.0, and the index is checked by itself.
Result<bool> is_layout(const Layout &layout) {
    const auto marker = TRY(layout.file("oci-layout"));
    if (!marker) return false;
    const std::string text = TRY(read_document(*marker, size_t{64} << 10U, "oci-layout"));
    if (text.find("imageLayoutVersion") == std::string::npos)
        return fail(Errc::InvalidArgument, "oci-layout has no imageLayoutVersion");
    return true;
}

Result<std::vector<SourceImage>> open_archive(const TarIndex &members, const std::string &stem,
                                              const SourceOptions &options) {
    if (!members.has("index.json") || !TRY(is_layout(members))) {
        if (members.has("manifest.json")) return read_docker_archive(members, options);
        if (members.has("repositories"))
            return fail(Errc::Unimplemented, "an archive of a docker before 1.10 (repositories, no manifest.json)");
        return fail(Errc::InvalidArgument, "a tar, but neither an OCI layout nor a docker archive");
    }
    SourceOptions all = options;
    const auto names = TRY(docker_names(members));
    const bool named = std::ranges::any_of(names, [](const auto &item) { return !item.second.empty(); });
    // With names from manifest.json the choice by name comes after they are known.
    if (named) all.reference.clear();
    auto images = TRY(read_layout(members, named ? std::string() : stem, all));
    for (SourceImage &image : images) {
        const auto found = names.find(image.manifest.config.digest);
        if (image.names.empty() && found != names.end()) image.names = found->second;
    }
    if (named && !options.reference.empty()) {
        std::erase_if(images, [&](const SourceImage &image) { return !wanted(image.names, options.reference); });
        if (images.empty()) return fail(Errc::NotFound, fmt::format("no image \"{}\" here", options.reference));
    }
    return images;
}

Result<std::vector<SourceImage>> open_path(const std::string &path, const SourceOptions &options) {
    std::shared_ptr<UniqueFd> file;
    const std::string stem = path == "-" ? std::string() : stem_name(path);
    if (path == "-") {
        const int copy = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
        if (copy < 0) return fail_errno(errno, "duplicate standard input");
        file = std::make_shared<UniqueFd>(copy);
    } else {
        // The user's own path: links in it are followed.
        file =
            std::make_shared<UniqueFd>(TRY(sys::open_at2(AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY, 0)));
        const struct stat info = TRY(sys::stat_at(file->get(), ""));
        if (S_ISDIR(info.st_mode)) {
            const auto layout = directory_layout(std::move(*file));
            if (!TRY(is_layout(*layout)))
                return fail(Errc::InvalidArgument, "a directory without oci-layout: not an OCI layout");
            return read_layout(*layout, stem, options);
        }
    }
    const BlobView archive = TRY(seekable(std::move(file), options));
    const auto members = TRY(TarIndex::read(archive));
    return open_archive(*members, stem, options);
}

/// Errors quote names and values of the source: its control characters (C1 in UTF-8 too) must not reach a terminal.
std::string without_controls(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
        const bool c1 = byte == 0xc2 && next >= 0x80 && next < 0xa0;
        if (byte >= 0x20 && byte != 0x7f && !c1)
            out += text[i];
        else
            out += fmt::format("\\x{:02x}", byte);
        if (c1) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[++i]));
    }
    return out;
}

} // namespace

Result<std::vector<SourceImage>> open_source(const std::string &path, const SourceOptions &options) {
    auto images = open_path(path, options);
    if (images) return images;
    const Error error = std::move(images).error().add(fmt::format("image source {}", path));
    return std::unexpected(Error(error.code(), error.sys_errno(), without_controls(error.text())));
}

} // namespace shale::oci
