// SPDX-License-Identifier: Apache-2.0
// Sources and exports: archives are made here with the canonical writer, hostile ones included.
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <fmt/format.h>

#include "archive/decompress.h"
#include "archive/tar.h"
#include "oci/image.h"
#include "sys/seam.h"

namespace shale::oci {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

struct Member {
    std::string name, data;
    archive::EntryType type = archive::EntryType::file;
    std::string link = {};
};

std::string make_tar(const std::vector<Member> &members) {
    std::string out;
    archive::TarWriter writer([&](std::span<const std::byte> block) -> Status {
        out.append(reinterpret_cast<const char *>(block.data()), block.size());
        return {};
    });
    for (const Member &member : members) {
        archive::Entry entry;
        entry.type = member.type;
        entry.path = member.name;
        entry.link = member.link;
        entry.mode = 0644;
        entry.size = entry.stored = member.data.size();
        EXPECT_TRUE(writer.add(entry));
        if (!member.data.empty()) {
            EXPECT_TRUE(writer.data(bytes(member.data)));
        }
    }
    EXPECT_TRUE(writer.finish());
    return out;
}

std::string compress(archive::Compression compression, std::string_view data) {
    std::string out;
    auto encoder = archive::make_encoder(compression, [&](std::span<const std::byte> block) -> Status {
        out.append(reinterpret_cast<const char *>(block.data()), block.size());
        return {};
    });
    EXPECT_TRUE(encoder);
    EXPECT_TRUE((*encoder)->write(bytes(data)));
    EXPECT_TRUE((*encoder)->finish());
    return out;
}

std::string hex(std::string_view data) {
    return Digest::of(data).hex();
}
std::string blob_name(std::string_view data) {
    return "blobs/sha256/" + hex(data);
}

/// Two layers, the second gzip-compressed.
struct Image {
    std::string layer1 = make_tar({{"etc/one", std::string(3000, '1')}});
    std::string layer2 = make_tar({{"etc/two", std::string(100'000, '2')}});
    std::string layer2_gzip = compress(archive::Compression::gzip, layer2);
    std::string config = fmt::format(
        R"({{"architecture":"amd64","os":"linux","config":{{"Cmd":["/bin/sh"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}","sha256:{}"]}}}})",
        hex(layer1), hex(layer2));
    std::string manifest =
        write_manifest(describe(media_oci_config, config),
                       {describe(media_oci_layer, layer1), describe(media_oci_layer_gzip, layer2_gzip)});

    static Descriptor describe(std::string_view type, std::string_view data) {
        return {std::string(type), Digest::of(data), data.size(), {}, {}, {}, {}};
    }
    static std::string entry(std::string_view type, std::string_view data, std::string_view extra = "") {
        return fmt::format(R"({{"mediaType":"{}","digest":"sha256:{}","size":{}{}}})", type, hex(data), data.size(),
                           extra);
    }
    [[nodiscard]] std::string index(std::string_view extra = "") const {
        return fmt::format(R"({{"schemaVersion":2,"manifests":[{}]}})", entry(media_oci_manifest, manifest, extra));
    }
    [[nodiscard]] std::vector<Member> oci(const std::string &index_json) const {
        return {{"oci-layout", R"({"imageLayoutVersion":"1.0.0"})"},
                {"index.json", index_json},
                {blob_name(manifest), manifest},
                {blob_name(config), config},
                {blob_name(layer1), layer1},
                {blob_name(layer2_gzip), layer2_gzip}};
    }
    [[nodiscard]] std::string docker_list(std::string_view first, std::string_view second,
                                          std::string_view tags = R"(["debian:12"])") const {
        return fmt::format(R"([{{"Config":"{}.json","RepoTags":{},"Layers":["{}","{}"]}}])", hex(config), tags, first,
                           second);
    }
    [[nodiscard]] std::vector<Member> docker() const {
        return {{hex(config) + ".json", config},
                {"a/layer.tar", layer1},
                {"b/layer.tar", layer2},
                {"manifest.json", docker_list("a/layer.tar", "b/layer.tar")}};
    }
};

constexpr std::string_view ref_12 = R"(,"annotations":{"org.opencontainers.image.ref.name":"12"})";

class Source : public ::testing::Test {
protected:
    void SetUp() override {
        std::string pattern = (fs::temp_directory_path() / "shale-oci-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        root_ = pattern;
        options_.spool_dir = root_;
    }
    void TearDown() override { fs::remove_all(root_); }

    std::string write(const std::string &name, std::string_view data) {
        const fs::path path = fs::path(root_) / name;
        fs::create_directories(path.parent_path());
        std::ofstream(path, std::ios::binary) << data;
        return path.string();
    }
    std::string layout(const std::string &name, const std::vector<Member> &members) {
        for (const Member &member : members)
            write(name + "/" + member.name, member.data);
        return root_ + "/" + name;
    }
    Result<std::vector<SourceImage>> open(const std::vector<Member> &members) {
        return open_source(write("x.tar", make_tar(members)), options_);
    }
    void refuse(const std::vector<Member> &members, Errc code, std::string_view text) {
        const auto got = open(members);
        ASSERT_FALSE(got) << text;
        EXPECT_EQ(got.error().code(), code) << got.error().text();
        EXPECT_NE(got.error().text().find(text), std::string::npos) << got.error().text();
    }
    static std::string read(const BlobView &view) {
        std::string out(view.size, '\0');
        EXPECT_EQ(::pread(view.file->get(), out.data(), out.size(), static_cast<off_t>(view.offset)),
                  static_cast<ssize_t>(out.size()));
        return out;
    }
    void expect_image(const Result<std::vector<SourceImage>> &got, const std::vector<std::string> &names) {
        ASSERT_TRUE(got) << got.error().text();
        ASSERT_EQ(got->size(), 1U);
        const SourceImage &only = got->front();
        EXPECT_EQ(only.names, names);
        EXPECT_EQ(only.config_json, image_.config);
        ASSERT_EQ(only.layers.size(), 2U);
        for (size_t i = 0; i < 2; ++i)
            EXPECT_EQ(Digest::of(read(only.layers[i])), only.manifest.layers[i].digest);
    }

    Image image_;
    std::string root_;
    SourceOptions options_;
};

TEST_F(Source, LayoutDirectory) {
    expect_image(open_source(layout("debian", image_.oci(image_.index(ref_12))), options_), {"debian:12"});
}

TEST_F(Source, LayoutArchives) {
    const std::string tar = make_tar(image_.oci(image_.index(ref_12)));
    expect_image(open_source(write("debian.tar", tar), options_), {"debian:12"});
    expect_image(open_source(write("deb.tar.gz", compress(archive::Compression::gzip, tar)), options_), {"deb:12"});
    expect_image(open_source(write("deb.tar.zst", compress(archive::Compression::zstd, tar)), options_), {"deb:12"});
    expect_image(open_source(write("full.tar", make_tar(image_.oci(image_.index(
                                                   R"(,"annotations":{"io.containerd.image.name":"h.example/a:1"})")))),
                             options_),
                 {"h.example/a:1"});
}

TEST_F(Source, Pipe) {
    const std::string tar = make_tar(image_.docker());
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::close(ends[0]);
        for (size_t done = 0; done < tar.size();) {
            const ssize_t wrote = ::write(ends[1], tar.data() + done, tar.size() - done);
            if (wrote <= 0) ::_exit(1);
            done += static_cast<size_t>(wrote);
        }
        ::_exit(0);
    }
    ::close(ends[1]);
    const int old = ::dup(STDIN_FILENO);
    ::dup2(ends[0], STDIN_FILENO);
    const auto got = open_source("-", options_);
    ::dup2(old, STDIN_FILENO);
    ::close(old);
    ::close(ends[0]);
    expect_image(got, {"debian:12"});
}

TEST_F(Source, SpoolIsBounded) {
    options_.max_spool_bytes = 4096;
    const auto got =
        open_source(write("x.tar.gz", compress(archive::Compression::gzip, make_tar(image_.docker()))), options_);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code(), Errc::ResourceExhausted) << got.error().text();
}

TEST_F(Source, DockerArchive) {
    const auto got = open(image_.docker());
    expect_image(got, {"debian:12"});
    EXPECT_TRUE(got->front().manifest_is_synthetic);
    // Compressed layers are described as they are.
    auto members = image_.docker();
    members[2].data = image_.layer2_gzip;
    const auto mixed = open(members);
    expect_image(mixed, {"debian:12"});
    EXPECT_EQ(mixed->front().manifest_json, image_.manifest);
}

TEST_F(Source, DockerLinksBetweenLayers) {
    using archive::EntryType;
    auto members = image_.docker();
    members.insert(members.begin(), {"c/layer.tar", "", EntryType::symlink, "../b/layer.tar"});
    members.insert(members.begin(), {"d/layer.tar", "", EntryType::hard_link, "a/layer.tar"});
    members.back().data = image_.docker_list("d/layer.tar", "c/layer.tar");
    expect_image(open(members), {"debian:12"});
}

TEST_F(Source, DockerReadsAMemberOnceHoweverOftenItIsNamed) {
    // A short list must not cost its length times the size of a layer.
    struct Reads final : sys::Hook {
        std::atomic<int> count = 0;
        int before(const sys::Call &call) noexcept override {
            if (call.op == sys::Op::read) ++count;
            return 0;
        }
    } reads;
    const std::string blob = compress(archive::Compression::zstd, image_.layer1);
    std::string diff_ids, names;
    for (int i = 0; i < 900; ++i) {
        diff_ids += fmt::format(R"({}"sha256:{}")", i == 0 ? "" : ",", hex(image_.layer1));
        names += fmt::format(R"({}"l/{}.tar")", i == 0 ? "" : ",", i % 2);
    }
    const std::string config = fmt::format(
        R"({{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}})", diff_ids);
    const std::string path =
        write("x.tar", make_tar({{"c.json", config},
                                 {"l/0.tar", blob},
                                 {"l/1.tar", "", archive::EntryType::symlink, "0.tar"},
                                 {"manifest.json", fmt::format(R"([{{"Config":"c.json","Layers":[{}]}}])", names)}}));
    sys::set_hook(&reads);
    const auto got = open_source(path, options_);
    sys::set_hook(nullptr);
    ASSERT_TRUE(got) << got.error().text();
    ASSERT_EQ(got->front().layers.size(), 900U);
    EXPECT_EQ(got->front().manifest.layers[899].digest, Digest::of(blob));
    EXPECT_LT(reads.count, 900 + 100); // the first bytes of each layer, and little else
}

// CVE-2014-9356, CVE-2014-9358: names and links that lead out.
TEST_F(Source, DockerRefusesNamesThatLeadOut) {
    using archive::EntryType;
    const std::string outside = write("secret", image_.layer1);
    for (const std::string &name :
         {std::string("../secret"), outside, std::string("a/../../secret"), std::string("/")}) {
        auto members = image_.docker();
        members.back().data = image_.docker_list(name, "b/layer.tar");
        refuse(members, Errc::InvalidArgument, "member name");
        members.back().data = fmt::format(R"([{{"Config":"{}","Layers":[]}}])", name);
        refuse(members, Errc::InvalidArgument, "config");
    }
    for (const std::string &link : {std::string("../../secret"), outside}) {
        auto members = image_.docker();
        members[1] = {"a/layer.tar", "", EntryType::symlink, link};
        refuse(members, Errc::InvalidArgument, "leads out");
    }
    auto members = image_.docker();
    members[1] = {"a/layer.tar", "", EntryType::symlink, "layer.tar"};
    refuse(members, Errc::InvalidArgument, "too many links");
    members[1] = {"a/layer.tar", "", EntryType::fifo, ""};
    refuse(members, Errc::InvalidArgument, "regular");
    members[1] = {"../a/layer.tar", image_.layer1};
    refuse(members, Errc::NotFound, "a/layer.tar");
}

TEST_F(Source, DockerRefusesBadDocuments) {
    auto members = image_.docker();
    for (const char *bad : {"{}", "[7]", "[{}]", R"([{"Config":7}])", R"([{"Config":"x","Layers":"y"}])", "[", "[]",
                            R"([{"Config":"x","RepoTags":["a/../b"],"Layers":[]}])"}) {
        members.back().data = bad;
        EXPECT_FALSE(open(members)) << bad;
    }
    members.back().data = fmt::format(R"([{{"Config":"{}.json","Layers":["a/layer.tar"]}}])", hex(image_.config));
    refuse(members, Errc::InvalidArgument, "2 rootfs.diff_ids for 1 layers");
    members.back().data = image_.docker_list("a/layer.tar", "b/layer.tar");
    members[0].data += " ";
    refuse(members, Errc::DataLoss, "has digest");
}

TEST_F(Source, ErrorsCarryNoControlCharacters) {
    auto members = image_.docker();
    members.back().data = R"([{"Config":"\u001b[2J\u009b\u00e4","Layers":[]}])";
    const auto got = open(members);
    ASSERT_FALSE(got);
    EXPECT_NE(got.error().text().find("\\x1b[2J\\xc2\\x9b\xc3\xa4"), std::string::npos) << got.error().text();
}

TEST_F(Source, RefusesWrongBlobs) {
    auto members = image_.oci(image_.index());
    members[2].data[0] = ' ';
    refuse(members, Errc::DataLoss, "manifest");
    members = image_.oci(image_.index());
    members[3].data += ' ';
    refuse(members, Errc::DataLoss, "config");
    members = image_.oci(image_.index());
    members[4].data += ' ';
    refuse(members, Errc::DataLoss, "layer");
    members.erase(members.begin() + 4);
    refuse(members, Errc::NotFound, "layer");
    members = image_.oci(image_.index(R"(,"annotations":{"org.opencontainers.image.ref.name":"a/../../b"})"));
    refuse(members, Errc::InvalidArgument, "..");
    refuse({{"x", "y"}}, Errc::InvalidArgument, "neither");
    const std::string tar = make_tar(image_.oci(image_.index()));
    const auto cut = open_source(write("cut.tar", std::string_view(tar).substr(0, tar.size() - 4096)), options_);
    EXPECT_FALSE(cut);
}

TEST_F(Source, LayoutFollowsNoSymlinks) {
    const std::string path = layout("l", image_.oci(image_.index()));
    const std::string blob = path + "/" + blob_name(image_.layer1);
    fs::rename(blob, root_ + "/outside");
    fs::create_symlink(root_ + "/outside", blob);
    EXPECT_FALSE(open_source(path, options_));
    fs::remove(blob);
    ASSERT_EQ(::mkfifo(blob.c_str(), 0600), 0);
    const auto got = open_source(path, options_);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code(), Errc::InvalidArgument) << got.error().text();
}

TEST_F(Source, ChoosesPlatform) {
    const auto platform = [](std::string_view os, std::string_view arch) {
        return fmt::format(R"(,"platform":{{"os":"{}","architecture":"{}"}})", os, arch);
    };
    const std::string inner =
        fmt::format(R"({{"schemaVersion":2,"manifests":[{},{},{}]}})",
                    Image::entry(media_oci_manifest, "missing", platform("linux", "arm64")),
                    Image::entry(media_oci_manifest, "attestation", platform("unknown", "unknown")),
                    Image::entry(media_oci_manifest, image_.manifest, platform("linux", "amd64")));
    auto members = image_.oci(
        fmt::format(R"({{"schemaVersion":2,"manifests":[{}]}})", Image::entry(media_oci_index, inner, ref_12)));
    members.push_back({blob_name(inner), inner});
    expect_image(open(members), {"x:12"});
    options_.architecture = "riscv64";
    refuse(members, Errc::NotFound, "linux/arm64");
    // The same list at the top level is one image, too.
    options_.architecture = "amd64";
    members[1].data = inner;
    expect_image(open(members), {});
}

TEST_F(Source, BoundsIndexDepth) {
    auto members = image_.oci("");
    std::string inner = image_.manifest;
    std::string_view type = media_oci_manifest;
    for (int depth = 0; depth < 6; ++depth) {
        members[1].data = fmt::format(R"({{"schemaVersion":2,"manifests":[{}]}})", Image::entry(type, inner));
        if (depth <= 4)
            expect_image(open(members), {});
        else
            refuse(members, Errc::InvalidArgument, "nested");
        inner = members[1].data;
        type = media_oci_index;
        members.push_back({blob_name(inner), inner});
    }
}

TEST_F(Source, ChoosesByReference) {
    const std::string index = fmt::format(
        R"({{"schemaVersion":2,"manifests":[{},{}]}})",
        Image::entry(media_oci_manifest, "missing", R"(,"annotations":{"org.opencontainers.image.ref.name":"11"})"),
        Image::entry(media_oci_manifest, image_.manifest, ref_12));
    const auto members = image_.oci(index);
    EXPECT_FALSE(open(members));
    for (const char *reference : {"12", "x:12"}) {
        options_.reference = reference;
        expect_image(open(members), {"x:12"});
    }
    options_.reference = "y";
    refuse(members, Errc::NotFound, "x:11, x:12");
}

TEST_F(Source, OciArchiveTakesNamesFromDockerList) {
    auto members = image_.oci(image_.index());
    members.push_back({"manifest.json", fmt::format(R"([{{"Config":"{}","RepoTags":["debian:12"],"Layers":[]}}])",
                                                    blob_name(image_.config))});
    expect_image(open(members), {"debian:12"});
}

ExportImage to_export(const SourceImage &image) {
    ExportImage out{{"debian:12", "h.example/debian:12"}, image.manifest_json, image.config_json, {}};
    for (size_t i = 0; i < image.layers.size(); ++i)
        out.layers.push_back({image.manifest.layers[i], image.config.diff_ids[i], image.layers[i]});
    return out;
}

TEST_F(Source, ExportRoundTrip) {
    const auto source = open_source(layout("l", image_.oci(image_.index())), options_);
    ASSERT_TRUE(source) << source.error().text();
    const ExportImage out = to_export(source->front());
    for (const auto &[format, name] :
         {std::pair(ExportFormat::oci_dir, "out"), std::pair(ExportFormat::oci_archive, "out.tar"),
          std::pair(ExportFormat::docker_archive, "docker.tar")}) {
        const std::string path = root_ + "/" + name;
        const Status written = write_export(out, format, path);
        ASSERT_TRUE(written) << written.error().text();
        const auto back = open_source(path, options_);
        expect_image(back, out.names);
        EXPECT_EQ(back->front().config.diff_ids, source->front().config.diff_ids);
        if (format != ExportFormat::docker_archive) {
            EXPECT_EQ(back->front().manifest_json, image_.manifest);
        }
        for (const auto &file : fs::directory_iterator(root_))
            EXPECT_EQ(file.path().string().find("partial"), std::string::npos);
        // A directory that holds something is never written over; an archive is replaced.
        EXPECT_EQ(write_export(out, format, path).has_value(), format != ExportFormat::oci_dir);
    }
    const std::string states_directories =
        "tar -tf " + root_ + "/out.tar | head -n 2 | tr '\\n' ' ' | grep -qx 'blobs/ blobs/sha256/ '";
    EXPECT_EQ(std::system(states_directories.c_str()), 0);
    if (::access("/usr/bin/skopeo", X_OK) != 0) GTEST_SKIP() << "skopeo is not installed";
    for (const std::string &what : {"oci:" + root_ + "/out:12", "oci-archive:" + root_ + "/out.tar:12",
                                    "docker-archive:" + root_ + "/docker.tar:debian:12"})
        EXPECT_EQ(std::system(("/usr/bin/skopeo inspect " + what + " >" + root_ + "/log 2>&1").c_str()), 0)
            << what << std::ifstream(root_ + "/log").rdbuf();
    for (const std::string &what :
         {"oci-archive:" + root_ + "/out.tar:12", "docker-archive:" + root_ + "/docker.tar:debian:12"}) {
        fs::remove_all(root_ + "/copy");
        EXPECT_EQ(std::system(("/usr/bin/skopeo --insecure-policy copy -q " + what + " oci:" + root_ + "/copy:12 >" +
                               root_ + "/log 2>&1")
                                  .c_str()),
                  0)
            << what << std::ifstream(root_ + "/log").rdbuf();
        const auto copied = open_source(root_ + "/copy", options_);
        ASSERT_TRUE(copied) << copied.error().text();
        EXPECT_EQ(copied->front().config.diff_ids, source->front().config.diff_ids);
    }
}

TEST_F(Source, ExportFindsDamage) {
    const auto source = open_source(layout("l", image_.oci(image_.index())), options_);
    ASSERT_TRUE(source) << source.error().text();
    for (const auto &data : {image_.layer1, image_.layer2_gzip}) {
        std::string bad = data;
        bad[bad.size() / 2] ^= 1;
        const std::string path = write("l/" + blob_name(data), bad);
        for (const auto format : {ExportFormat::oci_dir, ExportFormat::oci_archive, ExportFormat::docker_archive}) {
            const Status written = write_export(to_export(source->front()), format, root_ + "/out");
            ASSERT_FALSE(written);
            EXPECT_EQ(written.error().code(), Errc::DataLoss) << written.error().text();
            EXPECT_FALSE(fs::exists(root_ + "/out"));
        }
        write("l/" + blob_name(data), data);
        for (const auto &file : fs::directory_iterator(root_))
            EXPECT_EQ(file.path().string().find("partial"), std::string::npos);
    }
    ExportImage other = to_export(source->front());
    other.config_json += ' ';
    EXPECT_FALSE(write_export(other, ExportFormat::oci_archive, root_ + "/out"));
    EXPECT_FALSE(write_export(to_export(source->front()), ExportFormat::oci_dir, "-"));
}

} // namespace
} // namespace shale::oci
