// SPDX-License-Identifier: Apache-2.0
#include "archive/unpack.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "archive/tar_test_util.h"
#include "base/fd.h"

namespace shale::archive {
namespace {
using namespace testing;
namespace fs = std::filesystem;

std::string packed(Compression kind, const std::string &data) {
    std::string out;
    auto encoder = make_encoder(kind, [&](std::span<const std::byte> bytes) -> Status {
        out.append(reinterpret_cast<const char *>(bytes.data()), bytes.size());
        return {};
    });
    EXPECT_TRUE((*encoder)->write(std::as_bytes(std::span(data))));
    EXPECT_TRUE((*encoder)->finish());
    return out;
}

UniqueFd memory_file(const std::string &data) {
    UniqueFd fd(::memfd_create("blob", MFD_CLOEXEC));
    EXPECT_EQ(::write(fd.get(), data.data(), data.size()), static_cast<ssize_t>(data.size()));
    return fd;
}

/// Does not compress well, so that the blob too has many buffers.
std::string big_tar() {
    std::string out;
    unsigned state = 7;
    for (int i = 0; i < 40; ++i) {
        std::string data(100'000 + static_cast<size_t>(i) * 999, '\0');
        for (auto &c : data)
            c = static_cast<char>((state = state * 1664525U + 1013904223U) >> 24U);
        out += file("d/f" + std::to_string(i), data);
    }
    return out + end() + std::string(20'480, '\0');
}

class Unpack : public ::testing::TestWithParam<Compression> {
protected:
    void SetUp() override {
        std::string pattern = (fs::temp_directory_path() / "shale-unpack-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        base_ = pattern;
        dir_ = UniqueFd(::open(base_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        job_.extract.owners = ::geteuid() == 0 ? OwnerPolicy::keep : OwnerPolicy::squash;
    }
    void TearDown() override { fs::remove_all(base_); }
    void use(const std::string &blob) {
        blob_ = memory_file("junk" + blob + "junk");
        job_.blob_fd = blob_.get();
        job_.offset = 4;
        job_.size = blob.size();
        tree_.emplace(dir_.get());
        job_.dest = &*tree_;
    }
    fs::path base_;
    UniqueFd dir_, blob_;
    std::optional<DirectoryTree> tree_;
    UnpackJob job_;
};
INSTANTIATE_TEST_SUITE_P(All, Unpack, ::testing::Values(Compression::none, Compression::gzip, Compression::zstd));

TEST_P(Unpack, BigAndSmallLayers) {
    for (const std::string &tar : {big_tar(), file("d/f0", "x") + end() + std::string(9000, '\0')}) {
        fs::remove_all(base_ / "d");
        const std::string blob = packed(GetParam(), tar);
        use(blob);
        UniqueFd copy = memory_file("");
        job_.copy_fd = copy.get();
        job_.digest = Digest::of(blob);
        job_.diff_id = Digest::of(tar);
        uint64_t seen = 0;
        job_.progress = [&](uint64_t done) { seen = done; };
        auto got = unpack_layer(job_);
        ASSERT_TRUE(got) << got.error().text();
        EXPECT_EQ(got->compression, GetParam());
        EXPECT_EQ(got->tar_bytes, tar.size());
        EXPECT_EQ(seen, blob.size());
        std::string copied(blob.size(), '\0');
        EXPECT_EQ(::pread(copy.get(), copied.data(), copied.size(), 0), static_cast<ssize_t>(blob.size()));
        EXPECT_TRUE(copied == blob);
        EXPECT_TRUE(fs::exists(base_ / "d/f0"));
        job_.dest = nullptr;
        job_.copy_fd = -1;
        got = unpack_layer(job_);
        ASSERT_TRUE(got) << got.error().text();
        EXPECT_EQ(got->diff_id, Digest::of(tar));
        EXPECT_EQ(got->tar_bytes, tar.size());
    }
}

TEST_P(Unpack, MismatchesNameBoth) {
    const std::string tar = big_tar();
    use(packed(GetParam(), tar));
    job_.digest = Digest::of("other");
    auto got = unpack_layer(job_);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code(), Errc::DataLoss);
    EXPECT_NE(got.error().text().find(Digest::of("other").text()), std::string::npos);
    fs::remove_all(base_ / "d");
    job_.digest.reset();
    job_.diff_id = Digest::of("other");
    got = unpack_layer(job_);
    ASSERT_FALSE(got);
    EXPECT_NE(got.error().text().find(Digest::of(tar).text()), std::string::npos) << got.error().text();
}

TEST_P(Unpack, ErrorsOfEachStageEndAll) {
    const std::string tar = big_tar();
    // reader: the blob is shorter than it says
    use(packed(GetParam(), tar));
    job_.size += 1000;
    auto got = unpack_layer(job_);
    EXPECT_FALSE(got);
    // copy
    use(packed(GetParam(), tar));
    UniqueFd read_only(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    job_.copy_fd = read_only.get();
    fs::remove_all(base_ / "d");
    EXPECT_FALSE(unpack_layer(job_));
    job_.copy_fd = -1;
    // decoder
    if (GetParam() != Compression::none) {
        std::string blob = packed(GetParam(), tar);
        use(blob.substr(0, blob.size() / 2));
        fs::remove_all(base_ / "d");
        got = unpack_layer(job_);
        ASSERT_FALSE(got);
        EXPECT_EQ(got.error().code(), Errc::DataLoss) << got.error().text();
    }
    // extractor, early in a long stream
    use(packed(GetParam(), symlink("/", "x") + tar));
    fs::remove_all(base_ / "d");
    got = unpack_layer(job_);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code(), Errc::InvalidArgument) << got.error().text();
}

TEST_P(Unpack, Cancel) {
    use(packed(GetParam(), big_tar()));
    std::atomic<bool> cancel = false;
    job_.cancel = &cancel;
    job_.progress = [&](uint64_t) { cancel = true; };
    auto got = unpack_layer(job_);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code(), Errc::Canceled);
}

TEST(UnpackBomb, StaysWithinItsBuffersAndLimits) {
    std::string bomb = header_of({.name = "zeros"}, uint64_t{1} << 28U) + std::string(size_t{1} << 26U, '\0');
    UniqueFd blob = memory_file(packed(Compression::gzip, bomb));
    UnpackJob job;
    job.blob_fd = blob.get();
    job.size = static_cast<uint64_t>(::lseek(blob.get(), 0, SEEK_END));
    auto got = unpack_layer(job);
    ASSERT_TRUE(got) << got.error().text();
    EXPECT_EQ(got->tar_bytes, bomb.size());
}

} // namespace
} // namespace shale::archive
