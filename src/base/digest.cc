// SPDX-License-Identifier: Apache-2.0
#include "base/digest.h"

#include <openssl/evp.h>

#include <cstdlib>

namespace shale {

struct Sha256::Impl {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    Impl() = default;
    Impl(const Impl &) = delete;
    Impl &operator=(const Impl &) = delete;
    ~Impl() { EVP_MD_CTX_free(context); }
};

// OpenSSL's sha256 fails only when memory for its context is gone; then nothing can go on.
Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
    if (impl_->context == nullptr || EVP_DigestInit_ex(impl_->context, EVP_sha256(), nullptr) != 1) std::abort();
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256 &&) noexcept = default;
Sha256 &Sha256::operator=(Sha256 &&) noexcept = default;

void Sha256::update(std::span<const std::byte> data) {
    if (EVP_DigestUpdate(impl_->context, data.data(), data.size()) != 1) std::abort();
}

Digest Sha256::finish() {
    std::array<uint8_t, 32> out{};
    unsigned length = 0;
    if (EVP_DigestFinal_ex(impl_->context, out.data(), &length) != 1) std::abort();
    return Digest(out);
}

Result<Digest> Digest::parse(std::string_view text) {
    constexpr std::string_view prefix = "sha256:";
    auto bad = [&] {
        return fail(Errc::InvalidArgument,
                    "digest \"" + std::string(text.substr(0, 100)) + "\" is not sha256:<64 lower-case hex digits>");
    };
    if (!text.starts_with(prefix) || text.size() != prefix.size() + 64) return bad();
    auto nibble = [](char c) -> int {
        if (c >= '0' && c <= '9') return c - '0';
        if (c >= 'a' && c <= 'f') return c - 'a' + 10;
        return -1;
    };
    std::array<uint8_t, 32> bytes{};
    for (size_t i = 0; i < bytes.size(); ++i) {
        int high = nibble(text[prefix.size() + 2 * i]);
        int low = nibble(text[prefix.size() + 2 * i + 1]);
        if (high < 0 || low < 0) return bad();
        bytes[i] = static_cast<uint8_t>(high * 16 + low);
    }
    return Digest(bytes);
}

Digest Digest::of(std::span<const std::byte> data) {
    Sha256 hash;
    hash.update(data);
    return hash.finish();
}

std::string Digest::hex() const {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string out;
    out.reserve(64);
    for (uint8_t byte : bytes_) {
        out += digits[byte >> 4U];
        out += digits[byte & 15U];
    }
    return out;
}

Digest chain_id(const Digest &parent, const Digest &diff_id) {
    if (parent.empty()) return diff_id;
    return Digest::of(parent.text() + " " + diff_id.text());
}

} // namespace shale
