// SPDX-License-Identifier: Apache-2.0
// OCI layouts whose documents fit each other, which no mutation of an archive would keep: index.json and blobs, held
// apart by NUL bytes; "@1".."@9" in a document stand for the digest of that blob, "#1".."#9" for its size (of later
// blobs only: no document can hold its own digest).
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "oci/source.h"

namespace {

using namespace shale;

class Documents final : public oci::Layout {
public:
    explicit Documents(std::string_view text) {
        std::vector<std::string_view> pieces;
        while (pieces.size() < 10) {
            const size_t end = text.find('\0');
            pieces.push_back(text.substr(0, end));
            if (end == std::string_view::npos) break;
            text.remove_prefix(end + 1);
        }
        texts_.resize(pieces.size());
        for (size_t i = pieces.size(); i-- > 0;) {
            texts_[i] = fill(pieces[i], i);
            digests_.insert(digests_.begin(), Digest::of(texts_[i]));
        }
        std::string all;
        for (const std::string &one : texts_) {
            offsets_.push_back(all.size());
            all += one;
        }
        if (::ftruncate(file_->get(), 0) != 0 ||
            ::pwrite(file_->get(), all.data(), all.size(), 0) != static_cast<ssize_t>(all.size()))
            std::abort();
    }
    Result<std::optional<oci::BlobView>> file(std::string_view name) const override {
        if (name != "index.json") return std::nullopt;
        return view(0);
    }
    Result<oci::BlobView> blob(const Digest &digest) const override {
        for (size_t i = 1; i < digests_.size(); ++i)
            if (digests_[i] == digest) return view(i);
        return fail(Errc::NotFound, "no such blob");
    }

private:
    oci::BlobView view(size_t i) const { return {file_, offsets_[i], texts_[i].size()}; }
    std::string fill(std::string_view text, size_t own) const {
        std::string out;
        for (size_t i = 0; i < text.size(); ++i) {
            const size_t number = i + 1 < text.size() ? static_cast<size_t>(text[i + 1]) - '0' : 0;
            if ((text[i] != '@' && text[i] != '#') || number <= own || number >= texts_.size()) {
                out += text[i];
                continue;
            }
            // digests_ holds those of the blobs behind this one.
            out += text[i] == '@' ? digests_[number - own - 1].text() : std::to_string(texts_[number].size());
            ++i;
        }
        return out;
    }

    std::shared_ptr<UniqueFd> file_ = std::make_shared<UniqueFd>(::memfd_create("layout", MFD_CLOEXEC));
    std::vector<std::string> texts_;
    std::vector<Digest> digests_;
    std::vector<size_t> offsets_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const Documents layout({reinterpret_cast<const char *>(data), size});
    const auto images = oci::read_layout(layout, "stem", {});
    if (!images) return 0;
    for (const auto &image : *images) {
        if (image.layers.size() != image.manifest.layers.size()) std::abort();
        if (image.config.diff_ids.size() != image.layers.size()) std::abort();
        for (size_t i = 0; i < image.layers.size(); ++i)
            if (image.layers[i].size != image.manifest.layers[i].size) std::abort();
    }
    return 0;
}
