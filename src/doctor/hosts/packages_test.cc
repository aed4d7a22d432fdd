// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/packages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "probe/test_root.h"

namespace shale::doctor {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

constexpr std::string_view status = "Package: docker-ce-cli\n"
                                    "Status: install ok installed\n"
                                    "Version: 5:1.0-1\n"
                                    "\n"
                                    "Package: docker-ce\n"
                                    "Status: hold ok installed\n"
                                    "Description: Docker\n"
                                    " Package: containerd.io\n"
                                    "Version: 5:27.3.1-1~debian.12~bookworm\n"
                                    "\n"
                                    "Package: containerd\n"
                                    "Status: deinstall ok config-files\n"
                                    "Version: 1.6.20~ds1-1+deb12u1\n"
                                    "\n"
                                    "Package: docker.io\n"
                                    "Version: 20.10.24+dfsg1-1+deb12u1\n"
                                    "Status: install ok installed";

TEST(DpkgStatus, IsOfTheInstalledPackage) {
    EXPECT_EQ(version_in_dpkg_status(status, "docker-ce"), "5:27.3.1-1~debian.12~bookworm");
    EXPECT_EQ(version_in_dpkg_status(status, "docker.io"), "20.10.24+dfsg1-1+deb12u1");
    EXPECT_EQ(version_in_dpkg_status(status, "containerd"), "") << "removed, its configuration is left";
    EXPECT_EQ(version_in_dpkg_status(status, "containerd.io"), "");
    EXPECT_EQ(version_in_dpkg_status("", "docker-ce"), "");
    EXPECT_EQ(version_in_dpkg_status("\n\n:\nPackage:\nVersion\n", "docker-ce"), "");
}

std::string big32(uint32_t value) {
    std::string out;
    for (unsigned shift = 32; shift != 0; shift -= 8)
        out += static_cast<char>(value >> (shift - 8));
    return out;
}

/// A package with /usr/lib/dockerd (a directory's file) and /usr/bin/dockerd.
std::string header_of(std::string_view version) {
    std::string entries, data;
    uint32_t count = 0;
    const auto add = [&](uint32_t tag, uint32_t type, uint32_t values, std::string_view bytes) {
        entries += big32(tag) + big32(type) + big32(static_cast<uint32_t>(data.size())) + big32(values);
        data += bytes;
        ++count;
    };
    using namespace std::string_view_literals;
    add(63, 7, 16, "0123456789abcdef"); // the region that a signature is of
    add(1000, 6, 1, "moby-engine\0"sv);
    add(1001, 6, 1, std::string(version) + '\0');
    add(1116, 4, 3, big32(1) + big32(1) + big32(0));
    add(1117, 8, 3, "dockerd\0docker-proxy\0dockerd\0"sv);
    add(1118, 8, 2, "/usr/bin/\0/usr/lib/\0"sv);
    return big32(count) + big32(static_cast<uint32_t>(data.size())) + entries + data;
}

TEST(RpmHeader, HasItsVersionIfItHasTheFile) {
    const std::string header = header_of("24.0.5");
    EXPECT_EQ(version_in_rpm_header(header, "/usr/bin/dockerd"), "24.0.5");
    EXPECT_EQ(version_in_rpm_header(header, "/usr/lib/docker-proxy"), "24.0.5");
    EXPECT_EQ(version_in_rpm_header(header, "/usr/bin/docker-proxy"), "");
    EXPECT_EQ(version_in_rpm_header(header, "/usr/sbin/dockerd"), "");
    EXPECT_EQ(version_in_rpm_header(header, "dockerd"), "");
    EXPECT_EQ(version_in_rpm_header(header, ""), "");
}

TEST(RpmHeader, EndsOnEveryInput) {
    const std::string header = header_of("24.0.5");
    for (size_t size = 0; size < header.size(); ++size)
        (void)version_in_rpm_header(header.substr(0, size), "/usr/bin/dockerd");
    for (size_t at = 0; at < header.size(); ++at)
        for (const char c : {'\0', '\1', '\x7f', '\xff'}) {
            std::string changed = header;
            changed[at] = c;
            EXPECT_LE(version_in_rpm_header(changed, "/usr/bin/dockerd").size(), header.size());
        }
}

class PackagesTest : public testing::Test {
protected:
    std::string version(std::string_view program, int pid = 0) {
        return packaged_version(root_.host(), program, pid, problems_);
    }
    void install_docker_ce() const {
        root_.file("/usr/bin/dockerd", "ELF");
        root_.file("/var/lib/dpkg/status", status);
        root_.file("/var/lib/dpkg/info/docker-ce.list", "/.\n/usr/bin\n/usr/bin/dockerd\n");
    }
    void install_rpm(std::string_view header) const {
        const std::string path = "/var/lib/rpm/rpmdb.sqlite";
        root_.dir("/var/lib/rpm");
        sqlite3 *db = nullptr;
        ASSERT_EQ(sqlite3_open(root_.here(path).c_str(), &db), SQLITE_OK);
        std::string hex;
        for (const char c : header)
            hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
        const std::string sql = fmt::format("CREATE TABLE Packages(hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB "
                                            "NOT NULL);"
                                            "CREATE TABLE Basenames(key TEXT NOT NULL, hnum INTEGER NOT NULL, idx "
                                            "INTEGER NOT NULL);"
                                            "INSERT INTO Packages VALUES (7, x'{}'), (8, x'00');"
                                            "INSERT INTO Basenames VALUES ('docker-proxy', 7, 1), ('dockerd', 8, 0), "
                                            "('dockerd', 7, 2)",
                                            hex);
        EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
        sqlite3_close(db);
    }

    probe::TestRoot root_;
    std::vector<probe::Problem> problems_;
};

TEST_F(PackagesTest, NothingIsInstalled) {
    EXPECT_EQ(version("dockerd"), "");
    EXPECT_EQ(version("containerd"), "");
    EXPECT_EQ(version("another"), "");
    EXPECT_EQ(version("dockerd", 42), "");
    EXPECT_THAT(problems_, IsEmpty());
}

TEST_F(PackagesTest, DpkgKnowsTheOneThatWouldBeStarted) {
    install_docker_ce();
    EXPECT_EQ(version("dockerd"), "27.3.1");
    EXPECT_EQ(version("containerd"), "");
    root_.file("/usr/bin/containerd", "ELF"); // of no package
    EXPECT_EQ(version("containerd"), "");
    std::filesystem::remove(root_.here("/var/lib/dpkg/info/docker-ce.list"));
    root_.file("/var/lib/dpkg/info/docker.io.list", "/usr/bin/dockerd\n");
    EXPECT_EQ(version("dockerd"), "20.10.24+dfsg1");
    EXPECT_THAT(problems_, IsEmpty());
}

TEST_F(PackagesTest, TheOneThatRunsHasToBeThePackages) {
    install_docker_ce();
    root_.link("/usr/bin/dockerd", "/proc/42/exe");
    root_.link("/usr/bin/dockerd (deleted)", "/proc/43/exe"); // the package was replaced meanwhile
    root_.link("/snap/docker/2915/bin/dockerd", "/proc/44/exe");
    EXPECT_EQ(version("dockerd", 42), "27.3.1");
    EXPECT_EQ(version("dockerd", 43), "");
    EXPECT_EQ(version("dockerd", 44), "");
}

TEST_F(PackagesTest, RpmKnowsToo) {
    root_.file("/usr/bin/dockerd", "ELF");
    install_rpm(header_of("24.0.5~rc1"));
    EXPECT_EQ(version("dockerd"), "24.0.5");
    root_.link("/usr/local/bin/dockerd", "/proc/42/exe");
    EXPECT_EQ(version("dockerd", 42), "");
    EXPECT_THAT(problems_, IsEmpty());
}

TEST_F(PackagesTest, ADatabaseThatCannotBeReadIsAProblem) {
    install_docker_ce();
    root_.dir("/var/lib/dpkg/info/moby-engine.list");
    std::filesystem::remove(root_.here("/var/lib/dpkg/info/docker-ce.list"));
    root_.file("/var/lib/rpm/rpmdb.sqlite", std::string(4096, 'x'));
    EXPECT_EQ(version("dockerd"), "");
    EXPECT_EQ(version("dockerd"), "");
    EXPECT_THAT(problems_, SizeIs(2)); // each once
}

} // namespace
} // namespace shale::doctor
