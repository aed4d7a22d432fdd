// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace shale {

/// A sha256 digest. Text form "sha256:<64 lower-case hex>" (OCI image-spec, descriptor.md);
/// no other algorithm is accepted. Never built into a path from outside text: parse() first.
class Digest {
public:
    Digest() = default; ///< all zero: "none"
    explicit Digest(const std::array<uint8_t, 32> &bytes) : bytes_(bytes) {}

    /// Accepts exactly "sha256:" + 64 lower-case hex digits; anything else is InvalidArgument.
    static Result<Digest> parse(std::string_view text);
    static Digest of(std::span<const std::byte> data);
    static Digest of(std::string_view data) { return of(std::as_bytes(std::span(data))); }

    [[nodiscard]] std::string hex() const;
    [[nodiscard]] std::string text() const { return "sha256:" + hex(); }
    [[nodiscard]] const std::array<uint8_t, 32> &bytes() const noexcept { return bytes_; }
    [[nodiscard]] bool empty() const noexcept { return *this == Digest(); }
    auto operator<=>(const Digest &) const = default;

private:
    std::array<uint8_t, 32> bytes_{};
};

/// Incremental sha256 (OpenSSL EVP: uses SHA-NI where the processor has it).
class Sha256 {
public:
    Sha256();
    ~Sha256();
    Sha256(Sha256 &&) noexcept;
    Sha256 &operator=(Sha256 &&) noexcept;
    void update(std::span<const std::byte> data);
    void update(std::string_view data) { update(std::as_bytes(std::span(data))); }
    /// Digest of all so far; the object is spent afterwards.
    [[nodiscard]] Digest finish();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// OCI chain id: diff id of the first layer, then sha256("<parent chain> <diff id>")
/// (image-spec config.md, "Layer ChainID"). `parent` empty = first layer.
Digest chain_id(const Digest &parent, const Digest &diff_id);

} // namespace shale

/// A digest is its own good hash.
template <> struct std::hash<shale::Digest> {
    size_t operator()(const shale::Digest &digest) const noexcept {
        size_t out = 0;
        std::memcpy(&out, digest.bytes().data(), sizeof out);
        return out;
    }
};
