// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <fmt/format.h>

#include "oci/image.h"
#include "oci/json.h"

namespace shale::oci {
namespace {

const std::string digest_a = Digest::of("a").text();
const std::string digest_b = Digest::of("b").text();

std::string descriptor(std::string_view type, std::string_view digest, std::string_view size = "10",
                       std::string_view extra = "") {
    return fmt::format(R"({{"mediaType":"{}","digest":"{}","size":{}{}}})", type, digest, size, extra);
}

std::string manifest(std::string_view layers, std::string_view extra = "") {
    return fmt::format(R"({{"schemaVersion":2,"config":{},"layers":[{}]{}}})", descriptor(media_oci_config, digest_a),
                       layers, extra);
}

template <class T> void expect_error(const Result<T> &result, Errc code, std::string_view text) {
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code(), code) << result.error().text();
    EXPECT_NE(result.error().text().find(text), std::string::npos) << result.error().text();
}

TEST(Manifest, Oci) {
    const auto parsed = parse_manifest(manifest(descriptor(media_oci_layer_zstd, digest_b, "7")));
    ASSERT_TRUE(parsed) << parsed.error().text();
    EXPECT_EQ(parsed->media_type, media_oci_manifest);
    ASSERT_EQ(parsed->layers.size(), 1U);
    EXPECT_EQ(parsed->layers[0].size, 7U);
    EXPECT_EQ(parsed->layers[0].digest.text(), digest_b);
}

TEST(Manifest, DockerSchema2) {
    const auto parsed = parse_manifest(fmt::format(
        R"({{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{},"layers":[{}]}})",
        descriptor("application/vnd.docker.container.image.v1+json", digest_a),
        descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", digest_b)));
    ASSERT_TRUE(parsed) << parsed.error().text();
    EXPECT_EQ(parsed->media_type, "application/vnd.docker.distribution.manifest.v2+json");
}

TEST(Manifest, NullLayersAreNone) {
    const auto parsed = parse_manifest(
        fmt::format(R"({{"schemaVersion":2,"config":{},"layers":null}})", descriptor(media_oci_config, digest_a)));
    ASSERT_TRUE(parsed) << parsed.error().text();
    EXPECT_TRUE(parsed->layers.empty());
}

// CVE-2021-41190: one document, two meanings.
TEST(Manifest, RefusesBothLayersAndManifests) {
    expect_error(parse_manifest(manifest("", R"(,"manifests":[])")), Errc::InvalidArgument, "manifests");
    expect_error(parse_index(fmt::format(R"({{"schemaVersion":2,"manifests":[],"layers":[]}})")), Errc::InvalidArgument,
                 "layers");
    expect_error(parse_index(R"({"schemaVersion":2,"manifests":[],"config":{}})"), Errc::InvalidArgument, "config");
}

// CVE-2024-3727, CVE-2014-9358: digests as paths.
TEST(Manifest, RefusesDigestsThatArePaths) {
    for (const char *bad : {"sha256:../../etc/passwd", "../../x", "sha256:", "sha512:00", "sha256:ABC", ""})
        expect_error(parse_manifest(manifest(descriptor(media_oci_layer, bad))), Errc::InvalidArgument,
                     "layers[0].digest");
}

TEST(Manifest, RefusesBadSizes) {
    for (const char *bad :
         {"-1", "1.5", "1e3", "\"10\"", "18446744073709551615", "99999999999999999999999", "[1]", "true"})
        expect_error(parse_manifest(manifest(descriptor(media_oci_layer, digest_b, bad))), Errc::InvalidArgument,
                     "layers[0].size");
    expect_error(parse_manifest(manifest(descriptor(media_oci_layer, digest_b, "null"))), Errc::InvalidArgument,
                 "size is missing");
}

TEST(Manifest, RefusesOtherDocuments) {
    expect_error(parse_manifest("{}"), Errc::InvalidArgument, "config is missing");
    expect_error(parse_manifest("[]"), Errc::InvalidArgument, "not a JSON object");
    expect_error(parse_manifest("{"), Errc::InvalidArgument, "not valid JSON");
    expect_error(parse_manifest(""), Errc::InvalidArgument, "not valid JSON");
    expect_error(parse_manifest(R"({"schemaVersion":1})"), Errc::Unimplemented, "schema version 1");
    expect_error(parse_manifest(R"({"schemaVersion":2,"config":[]})"), Errc::InvalidArgument, "config");
    expect_error(parse_manifest(manifest("", R"(,"mediaType":"application/vnd.oci.image.index.v1+json")")),
                 Errc::InvalidArgument, "mediaType");
    expect_error(parse_manifest(manifest(descriptor("text/plain", digest_b))), Errc::Unimplemented, "layers[0]");
    expect_error(parse_manifest(R"({"schemaVersion":2,"config":{"mediaType":7}})"), Errc::InvalidArgument,
                 "config.mediaType");
}

TEST(Manifest, BoundsSizeAndDepth) {
    expect_error(parse_manifest(std::string(max_document_bytes + 1, ' ')), Errc::ResourceExhausted, "more than");
    expect_error(parse_manifest(std::string(100'000, '[')), Errc::InvalidArgument, "nested");
    expect_error(parse_manifest(manifest("", R"(,"a":1,"a":2)")), Errc::InvalidArgument, "occurs twice");
    // Brackets within strings are not depth.
    EXPECT_TRUE(parse_manifest(manifest("", ",\"a\":\"" + std::string(1000, '[') + "\\\"{\"")));
    std::string many;
    for (int i = 0; i < 1001; ++i)
        many += (i == 0 ? "" : ",") + descriptor(media_oci_layer, digest_b);
    expect_error(parse_manifest(manifest(many)), Errc::ResourceExhausted, "layers");
}

TEST(Index, ReadsPlatforms) {
    const auto parsed = parse_index(fmt::format(
        R"({{"schemaVersion":2,"manifests":[{}]}})",
        descriptor(media_oci_manifest, digest_a, "1",
                   R"(,"platform":{"os":"linux","architecture":"arm","variant":"v7"},"annotations":{"k":"v"})")));
    ASSERT_TRUE(parsed) << parsed.error().text();
    ASSERT_EQ(parsed->size(), 1U);
    EXPECT_EQ(parsed->front().variant, "v7");
    EXPECT_EQ(parsed->front().annotations.at("k"), "v");
    expect_error(parse_index(fmt::format(R"({{"manifests":[{}]}})",
                                         descriptor(media_oci_manifest, digest_a, "1", R"(,"annotations":{"k":1})"))),
                 Errc::InvalidArgument, "annotations.k");
}

TEST(Config, ReadsWhatIsUsed) {
    const auto parsed = parse_config(
        fmt::format(
            R"({{"os":"linux","architecture":"amd64","config":{{"Entrypoint":["/init"],"Cmd":"sh","Env":["A=b"],"User":"1:2",)"
            R"("WorkingDir":"/w","Labels":{{"l":"m"}},"Volumes":{{"/v":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}})",
            digest_a),
        1);
    ASSERT_TRUE(parsed) << parsed.error().text();
    EXPECT_EQ(parsed->entrypoint, std::vector<std::string>{"/init"});
    EXPECT_EQ(parsed->cmd, std::vector<std::string>{"sh"});
    EXPECT_EQ(parsed->labels.at("l"), "m");
    EXPECT_EQ(parsed->diff_ids.at(0).text(), digest_a);
}

TEST(Config, RefusesCountsAndTypes) {
    const std::string one = fmt::format(R"({{"rootfs":{{"type":"layers","diff_ids":["{}"]}}}})", digest_a);
    EXPECT_TRUE(parse_config(one));
    expect_error(parse_config(one, 2), Errc::InvalidArgument, "1 rootfs.diff_ids for 2 layers");
    expect_error(parse_config(one, 0), Errc::InvalidArgument, "for 0 layers");
    expect_error(parse_config("{}"), Errc::InvalidArgument, "rootfs is missing");
    for (const char *bad : {R"("config":7)", R"("config":{"Env":[1]})", R"("config":{"Cmd":{}})", R"("os":[])",
                            R"("config":{"Labels":{"a":[]}})", R"("config":{"User":false})",
                            R"("config":{"Env":["a\u0000b"]})", R"("rootfs2":1,"created":1)"})
        EXPECT_FALSE(parse_config(fmt::format(R"({{"rootfs":{{"diff_ids":[]}},{}}})", bad))) << bad;
    for (const char *bad : {"7", "[]", R"({"diff_ids":7})", R"({"diff_ids":[null]})", R"({"diff_ids":["sha256:../x"]})",
                            R"({"type":"windows","diff_ids":[]})"})
        EXPECT_FALSE(parse_config(fmt::format(R"({{"rootfs":{}}})", bad))) << bad;
}

TEST(Write, ManifestIsStable) {
    Descriptor config{std::string(media_oci_config), Digest::of("c"), 1, {}, {}, {}, {}};
    Descriptor layer{std::string(media_oci_layer), Digest::of("l"), 2, {{"z", "1"}, {"a", "2"}}, {}, {}, {}};
    const std::string text = write_manifest(config, {layer});
    EXPECT_EQ(text, fmt::format(R"({{"config":{{"digest":"{}","mediaType":"{}","size":1}},"layers":[{{"annotations":)"
                                R"({{"a":"2","z":"1"}},"digest":"{}","mediaType":"{}","size":2}}],"mediaType":"{}",)"
                                R"("schemaVersion":2}})",
                                Digest::of("c").text(), media_oci_config, Digest::of("l").text(), media_oci_layer,
                                media_oci_manifest));
    EXPECT_TRUE(parse_manifest(text));
}

TEST(Write, ChildConfig) {
    CommitInfo info{Digest::of("l"), "2024-01-01T00:00:00Z", "shale commit", "why", "", {"/bin/sh"}};
    const auto first = write_child_config("", info);
    ASSERT_TRUE(first) << first.error().text();
    const auto config = parse_config(*first, 1);
    ASSERT_TRUE(config) << config.error().text();
    EXPECT_EQ(config->os, "linux");
    EXPECT_FALSE(config->architecture.empty());
    EXPECT_EQ(config->cmd, std::vector<std::string>{"/bin/sh"});

    info.cmd.clear();
    info.author = "me";
    const auto second = write_child_config(*first, info);
    ASSERT_TRUE(second) << second.error().text();
    const auto child = parse_config(*second, 2);
    ASSERT_TRUE(child) << child.error().text();
    EXPECT_EQ(child->cmd, std::vector<std::string>{"/bin/sh"});
    EXPECT_NE(
        second->find(R"("author":"me","comment":"why","created":"2024-01-01T00:00:00Z","created_by":"shale commit")"),
        std::string::npos)
        << *second;
    EXPECT_EQ(*second, *write_child_config(*first, info));
}

TEST(Write, ChildConfigKeepsUnknownFields) {
    const CommitInfo info{Digest::of("l"), "", "\xff", "", "", {}};
    const auto child = write_child_config(
        R"({"rootfs":{"type":"layers","diff_ids":null},"history":null,"x":{"y":[1,2.5,null]},"config":{"Healthcheck":{"Test":[]}}})",
        info);
    ASSERT_TRUE(child) << child.error().text();
    EXPECT_NE(child->find(R"("x":{"y":[1,2.5,null]})"), std::string::npos) << *child;
    EXPECT_NE(child->find("Healthcheck"), std::string::npos);
    expect_error(write_child_config(R"({"rootfs":{"diff_ids":[]},"history":7})", info), Errc::InvalidArgument,
                 "history");
    expect_error(write_child_config("{", info), Errc::InvalidArgument, "JSON");
}

} // namespace
} // namespace shale::oci
