// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cerrno>

#include "base/digest.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/siphash.h"
#include "base/text.h"
#include "base/units.h"

namespace shale {
namespace {

Result<int> positive(int value) {
    if (value <= 0) return fail(Errc::OutOfRange, "not positive");
    return value;
}
Result<int> twice(int value) {
    return 2 * TRY(positive(value));
}

TEST(Error, TryPassesValuesAndErrors) {
    EXPECT_EQ(twice(4).value(), 8);
    EXPECT_EQ(twice(-1).error().code(), Errc::OutOfRange);
}

TEST(Error, ContextPrintsOutermostFirst) {
    auto error = sys_error(ENOSPC, "write \"x\"").add("layer 3").add("import");
    EXPECT_EQ(error.text(), "import: layer 3: write \"x\": No space left on device");
    EXPECT_EQ(error.code(), Errc::ResourceExhausted);
    EXPECT_EQ(error.sys_errno(), ENOSPC);
}

TEST(Error, EveryClassHasItsRow) {
    for (int code = 1; code <= 16; ++code)
        EXPECT_EQ(static_cast<int>(errc_info(static_cast<Errc>(code)).code), code);
    EXPECT_EQ(errc_info(Errc::InvalidArgument).exit_code, 2);
    EXPECT_EQ(errc_info(Errc::NotFound).http_status, 404);
}

TEST(ScopeGuard, UndoesUnlessReleased) {
    int undone = 0;
    {
        ScopeGuard guard([&] { ++undone; });
    }
    {
        ScopeGuard guard([&] { ++undone; });
        guard.release();
    }
    EXPECT_EQ(undone, 1);
}

TEST(Digest, KnownValueAndChain) {
    // FIPS 180-4 example "abc".
    const auto abc = Digest::of(std::string_view("abc"));
    EXPECT_EQ(abc.text(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(Digest::parse(abc.text()).value(), abc);
    EXPECT_EQ(chain_id({}, abc), abc);
    EXPECT_EQ(chain_id(abc, abc), Digest::of(abc.text() + " " + abc.text()));
}

TEST(Digest, HostileTextIsRefused) {
    const std::string good = Digest::of(std::string_view("x")).text();
    for (const std::string &bad :
         {std::string(), std::string("sha256:"), std::string("sha256:../../x"), good + "0", good.substr(0, 70),
          "sha512" + good.substr(6), "sha256:" + std::string(64, 'A'), "sha256:" + std::string(63, 'a') + "/"})
        EXPECT_FALSE(Digest::parse(bad)) << bad;
}

// The paper's example (appendix A) and, for the variant of tables, the empty text with the same key.
TEST(SipHash, KnownValues) {
    const SipKey key{0x0706050403020100, 0x0f0e0d0c0b0a0908};
    const std::string text("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e", 15);
    EXPECT_EQ((siphash<2, 4>(key, text)), 0xa129ca6149be45e5U);
    EXPECT_EQ((siphash<2, 4>(key, text.substr(8), 0x0706050403020100)), 0xa129ca6149be45e5U);
    EXPECT_EQ(siphash(key, ""), 0xabac0158050fc4dcU);
}

TEST(Text, HtmlOfOthers) {
    EXPECT_EQ(html_escaped("<a href=\"x\">&'\x1b</a>"), "&lt;a href=&quot;x&quot;&gt;&amp;'\\x1b&lt;/a&gt;");
}

TEST(Units, Bytes) {
    EXPECT_EQ(parse_bytes("10GB").value(), 10ULL << 30U);
    EXPECT_EQ(parse_bytes("1.5k").value(), 1536U);
    EXPECT_EQ(parse_bytes("7").value(), 7U);
    EXPECT_EQ(parse_bytes("2 MiB").value(), 2U << 20U);
    for (const auto *bad : {"", "x", "-1", "1Q", "99999E", "nan", "1GG"})
        EXPECT_FALSE(parse_bytes(bad)) << bad;
    EXPECT_EQ(format_bytes(1536), "1.5 KiB");
    EXPECT_EQ(format_bytes(17), "17 B");
    EXPECT_EQ(format_count(1234567), "1,234,567");
    EXPECT_EQ(format_count(12), "12");
}

TEST(Units, Time) {
    EXPECT_EQ(format_time_ns(0), "1970-01-01T00:00:00Z");
    EXPECT_EQ(format_time_ns(1'700'000'000'123'000'000), "2023-11-14T22:13:20.123Z");
    EXPECT_EQ(format_time_ns(-1), "1969-12-31T23:59:59.999999999Z");
}

} // namespace
} // namespace shale
