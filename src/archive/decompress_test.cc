// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <zstd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "archive/decompress.h"

namespace shale::archive {
namespace {

std::string sample(size_t size, unsigned seed = 1) {
    std::string out(size, '\0');
    unsigned state = seed;
    for (auto &c : out) {
        state = state * 1664525U + 1013904223U;
        c = static_cast<char>('a' + (state >> 24U) % 20U);
    }
    return out;
}

std::string compress(Compression kind, std::string_view data, size_t piece = 1000) {
    std::string out;
    auto encoder = make_encoder(kind, [&](std::span<const std::byte> bytes) -> Status {
        out.append(reinterpret_cast<const char *>(bytes.data()), bytes.size());
        return {};
    });
    EXPECT_TRUE(encoder);
    for (; !data.empty(); data.remove_prefix(std::min(piece, data.size())))
        EXPECT_TRUE((*encoder)->write(std::as_bytes(std::span(data.substr(0, piece)))));
    EXPECT_TRUE((*encoder)->finish());
    return out;
}

Result<std::string> decompress(Compression kind, std::string_view data, size_t in_piece = 4096, size_t out_piece = 4096,
                               unsigned window = default_window_log) {
    auto decoder = TRY(make_decoder(kind, window));
    std::string out;
    std::vector<std::byte> room(out_piece);
    while (!data.empty()) {
        auto in = std::as_bytes(std::span(data.substr(0, in_piece)));
        data.remove_prefix(in.size());
        for (;;) {
            const auto step = TRY(decoder->step(in, room));
            in = in.subspan(step.consumed);
            out.append(reinterpret_cast<const char *>(room.data()), step.produced);
            if (in.empty() && step.produced < room.size()) break;
            if (step.consumed == 0 && step.produced == 0) return fail(Errc::Internal, "no progress");
        }
    }
    TRY(decoder->finish());
    return out;
}

class Codec : public ::testing::TestWithParam<Compression> {};
INSTANTIATE_TEST_SUITE_P(All, Codec, ::testing::Values(Compression::none, Compression::gzip, Compression::zstd));

TEST_P(Codec, RoundTripsAtAwkwardSizes) {
    for (size_t size : {0UL, 1UL, 1000UL, 100'000UL, 1'000'000UL}) {
        const std::string data = sample(size);
        const std::string packed = compress(GetParam(), data);
        for (auto [in, out] : {std::pair{4096UL, 4096UL}, {1UL, 100'000UL}, {100'000UL, 7UL}, {3UL, 5UL}}) {
            if (size > 100'000 && std::min(in, out) < 100) continue;
            auto got = decompress(GetParam(), packed, in, out);
            ASSERT_TRUE(got) << got.error().text() << " size " << size << " in " << in << " out " << out;
            EXPECT_TRUE(*got == data) << size;
        }
    }
}

TEST_P(Codec, SeveralMembersFollowOneAnother) {
    const std::string a = sample(50'000, 2);
    const std::string b = sample(70'000, 3);
    const std::string packed = compress(GetParam(), a) + compress(GetParam(), "") + compress(GetParam(), b);
    for (size_t in : {1UL, 2UL, 9UL, 4096UL, 1UL << 20U}) {
        auto got = decompress(GetParam(), packed, in);
        ASSERT_TRUE(got) << got.error().text();
        EXPECT_TRUE(*got == a + b);
    }
}

TEST_P(Codec, IsDeterministic) {
    const std::string data = sample(300'000);
    EXPECT_TRUE(compress(GetParam(), data, 1000) == compress(GetParam(), data, 1000));
}

TEST_P(Codec, DamageIsDataLoss) {
    if (GetParam() == Compression::none) return;
    const std::string packed = compress(GetParam(), sample(200'000));
    for (size_t keep : {1UL, 5UL, 20UL, packed.size() / 2, packed.size() - 1}) {
        auto got = decompress(GetParam(), std::string_view(packed).substr(0, keep));
        ASSERT_FALSE(got) << keep;
        EXPECT_EQ(got.error().code(), Errc::DataLoss);
    }
    for (std::string_view tail : {"garbage!", "\0\0\0\0\0\0\0\0\0\0\0\0"}) {
        auto got = decompress(GetParam(), packed + std::string(tail.empty() ? std::string(12, '\0') : tail));
        ASSERT_FALSE(got);
        EXPECT_EQ(got.error().code(), Errc::DataLoss) << got.error().text();
    }
    std::string flipped = packed;
    flipped[flipped.size() - 6] = static_cast<char>(flipped[flipped.size() - 6] ^ 1); // CRC or checksum area
    EXPECT_FALSE(decompress(GetParam(), flipped));
    flipped = packed;
    flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 0x55);
    EXPECT_FALSE(decompress(GetParam(), flipped));
    EXPECT_FALSE(decompress(GetParam(), ""));
}

TEST(Decompress, GzipHeaderIsFixed) {
    const std::string packed = compress(Compression::gzip, "hello");
    EXPECT_EQ(packed.substr(0, 3), "\x1f\x8b\x08");
    EXPECT_EQ(packed.substr(4, 4), std::string(4, '\0'));
}

TEST(Decompress, ZeroPaddingAfterGzipIsRefused) {
    auto got = decompress(Compression::gzip, compress(Compression::gzip, "hello") + std::string(512, '\0'));
    ASSERT_FALSE(got);
    EXPECT_NE(got.error().text().find("trailing garbage"), std::string::npos) << got.error().text();
}

TEST(Decompress, ZstdSkippableFrames) {
    const std::string skippable("\x50\x2a\x4d\x18\x05\0\0\0hello", 13);
    const std::string packed = skippable + compress(Compression::zstd, "data") + skippable;
    for (size_t in : {1UL, 5UL, 1000UL}) {
        auto got = decompress(Compression::zstd, packed, in);
        ASSERT_TRUE(got) << got.error().text();
        EXPECT_EQ(*got, "data");
    }
}

TEST(Decompress, ZstdWindowLimit) {
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 27);
    const std::string data = sample(1000);
    std::string packed(2000, '\0');
    ZSTD_inBuffer in{data.data(), data.size(), 0};
    ZSTD_outBuffer out{packed.data(), packed.size(), 0};
    ZSTD_compressStream2(context, &out, &in, ZSTD_e_flush);
    in = {nullptr, 0, 0};
    ZSTD_compressStream2(context, &out, &in, ZSTD_e_end);
    packed.resize(out.pos);
    ZSTD_freeCCtx(context);
    auto got = decompress(Compression::zstd, packed);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code(), Errc::ResourceExhausted);
    EXPECT_TRUE(decompress(Compression::zstd, packed, 4096, 4096, 27)); // as zstd itself does
}

TEST(Decompress, Detection) {
    const auto detect = [](std::string_view text) { return detect_compression(std::as_bytes(std::span(text))); };
    EXPECT_EQ(*detect(compress(Compression::gzip, "x")), Compression::gzip);
    EXPECT_EQ(*detect(compress(Compression::zstd, "x")), Compression::zstd);
    EXPECT_EQ(*detect(std::string_view("\x5f\x2a\x4d\x18", 4)), Compression::zstd);
    EXPECT_EQ(*detect(""), Compression::none);
    EXPECT_EQ(*detect("etc/passwd"), Compression::none);
    EXPECT_EQ(*detect(std::string_view("BZhello/x\0\0\0\0", 13)), Compression::none);
    for (auto [text, name] : {std::pair{std::string_view("\xfd"
                                                         "7zXZ\0\0",
                                                         7),
                                        "xz"},
                              {std::string_view("BZh91AY&SY"), "bzip2"},
                              {std::string_view("\x04\x22\x4d\x18"), "lz4"}}) {
        auto got = detect(text);
        ASSERT_FALSE(got);
        EXPECT_EQ(got.error().code(), Errc::Unimplemented);
        EXPECT_NE(got.error().text().find(name), std::string::npos);
    }
}

} // namespace
} // namespace shale::archive
