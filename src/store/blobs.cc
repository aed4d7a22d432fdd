// SPDX-License-Identifier: Apache-2.0
// Blobs: files blobs/sha256/<hex>, byte for byte what their digest says. Made as tmp/<session>-<n>, renamed when
// complete; the caller's driver.sync (or fsync below) comes before the row that makes them count.
#include <fmt/format.h>

#include "store/locks.h"
#include "store/store.h"
#include "sys/fs.h"

namespace shale::store {

Result<oci::BlobView> Store::open_blob(const Digest &digest) {
    auto opened = sys::open_at(blobs_fd_.get(), digest.hex().c_str(), O_RDONLY);
    if (!opened)
        return std::unexpected(std::move(opened).error().add(fmt::format(
            "blob {} is recorded but cannot be read; import the image again to restore it", digest.text())));
    auto file = std::make_shared<UniqueFd>(std::move(*opened));
    const auto info = TRY(sys::stat_at(file->get(), ""));
    return oci::BlobView{std::move(file), 0, static_cast<uint64_t>(info.st_size)};
}

Result<std::string> Store::read_document(const Digest &digest) {
    auto text = TRY(sys::read_file(blobs_fd_.get(), digest.hex().c_str(), oci::max_document_bytes));
    if (Digest::of(std::string_view(text)) != digest)
        return fail(Errc::DataLoss, fmt::format("document {} on disk has other content ({}); import its image again",
                                                digest.text(), Digest::of(std::string_view(text)).text()));
    return text;
}

Result<UniqueFd> Store::new_blob(std::string &tmp_name) {
    tmp_name = fmt::format("{}-{}", locks_->session(), tmp_counter_.fetch_add(1));
    return sys::open_at(tmp_fd_.get(), tmp_name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
}

Status Store::publish_blob(const std::string &tmp_name, const Digest &digest) {
    return sys::rename_at(tmp_fd_.get(), tmp_name.c_str(), blobs_fd_.get(), digest.hex().c_str());
}

Status Store::write_document(const Digest &digest, std::string_view bytes) {
    // An existing file is kept only when it still is what its name says: a power cut may have emptied one no row named.
    if (auto present = sys::read_file(blobs_fd_.get(), digest.hex().c_str(), oci::max_document_bytes);
        present && *present == bytes)
        return {};
    std::string tmp_name;
    const UniqueFd file = TRY(new_blob(tmp_name));
    ScopeGuard undo([&] { (void)sys::unlink_at(tmp_fd_.get(), tmp_name.c_str()); });
    TRY(sys::write_all(file.get(), std::as_bytes(std::span(bytes))));
    TRY(publish_blob(tmp_name, digest));
    undo.release();
    return {};
}

} // namespace shale::store
