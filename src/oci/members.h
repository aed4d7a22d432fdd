// SPDX-License-Identifier: Apache-2.0
// Where an image source keeps its named parts. Names come from hostile documents: they are looked up, never opened as
// paths of the host (the directory form opens nothing but fixed names and hex digests).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "oci/image.h"

namespace shale::oci {

/// Files of an OCI layout.
class Layout {
public:
    virtual ~Layout() = default;
    /// "oci-layout", "index.json"; nullopt when missing.
    virtual Result<std::optional<BlobView>> file(std::string_view name) const = 0;
    /// A blob that is missing is NotFound; one that is no regular file InvalidArgument.
    virtual Result<BlobView> blob(const Digest &digest) const = 0;
};

/// A directory; nothing below it is followed if it is a symlink.
std::unique_ptr<Layout> directory_layout(UniqueFd root);

/// Members of a tar that lies in a seekable file, by name; data is located, not read.
class TarIndex final : public Layout {
public:
    /// Names that are absolute, hold ".." or exceed 512 bytes are left out. A name that occurs twice: the last counts,
    /// as when extracting.
    static Result<std::unique_ptr<TarIndex>> read(const BlobView &archive);

    [[nodiscard]] bool has(std::string_view name) const { return members_.contains(name); }
    /// A regular member of exactly this name.
    Result<std::optional<BlobView>> file(std::string_view name) const override;
    Result<BlobView> blob(const Digest &digest) const override;
    /// A regular member, or what a link member leads to inside the archive, by names only (old `docker save` shares
    /// layers by links). Names with ".." or a leading '/' are InvalidArgument.
    Result<BlobView> resolve(std::string_view name) const;

private:
    struct Member {
        enum class Kind : uint8_t { file, symlink, hard_link, other } kind = Kind::other;
        std::string link;
        uint64_t offset = 0, size = 0;
    };
    std::shared_ptr<UniqueFd> file_;
    std::map<std::string, Member, std::less<>> members_;
};

/// "./a//b/" -> "a/b"; ".." is taken lexically when `dir` (of a link) allows it. nullopt: absolute, or leads out.
std::optional<std::string> clean_name(std::string_view name, std::string_view dir = {}, bool allow_dotdot = false);

} // namespace shale::oci
