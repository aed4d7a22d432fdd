// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/packages.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/fd.h"
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

TEST(RpmHeader, FilesByTheirNumbers) {
    const std::string header = header_of("24.0.5");
    EXPECT_EQ(file_in_rpm_header(header, 0).path, "/usr/lib/dockerd");
    EXPECT_EQ(file_in_rpm_header(header, 1).path, "/usr/lib/docker-proxy");
    EXPECT_EQ(file_in_rpm_header(header, 2).path, "/usr/bin/dockerd");
    EXPECT_EQ(file_in_rpm_header(header, 2).version, "24.0.5");
    for (const uint64_t beyond : {uint64_t{3}, uint64_t{1} << 32U, UINT64_MAX}) {
        EXPECT_EQ(file_in_rpm_header(header, beyond).path, "");
        EXPECT_EQ(file_in_rpm_header(header, beyond).version, "");
    }
    EXPECT_EQ(file_in_rpm_header(header_of(std::string(5000, '1')), 2).path, "") << "no such versions";
}

TEST(RpmHeader, EndsOnEveryInput) {
    const std::string header = header_of("24.0.5");
    for (size_t size = 0; size < header.size(); ++size)
        (void)file_in_rpm_header(header.substr(0, size), 2);
    for (size_t at = 0; at < header.size(); ++at)
        for (const char c : {'\0', '\1', '\x7f', '\xff'}) {
            std::string changed = header;
            changed[at] = c;
            EXPECT_LE(file_in_rpm_header(changed, 2).version.size(), header.size());
        }
}

class PackagesTest : public testing::Test {
protected:
    /// Read anew each time.
    std::string version(std::string_view program, int pid = 0) {
        return Packages(root_.host()).version(program, pid, problems_);
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
        const std::string sql =
            fmt::format("CREATE TABLE Packages(hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB "
                        "NOT NULL);"
                        "CREATE TABLE Basenames(key TEXT NOT NULL, hnum INTEGER NOT NULL, idx "
                        "INTEGER NOT NULL);"
                        "INSERT INTO Packages VALUES (7, x'{}'), (8, x'00'), (9, zeroblob(5000000));"
                        "INSERT INTO Basenames VALUES ('docker-proxy', 7, 1), ('dockerd', 8, 0), "
                        "('dockerd', 9, 0), ('dockerd', 7, -1), ('dockerd', 7, 1), ('dockerd', 7, "
                        "2)",
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
    EXPECT_EQ(version("dockerd"), "20.10.24");
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
    install_rpm(header_of("24.0.5"));
    EXPECT_EQ(version("dockerd"), "24.0.5");
    root_.link("/usr/local/bin/dockerd", "/proc/42/exe");
    EXPECT_EQ(version("dockerd", 42), "");
    root_.link("/usr/lib/docker-proxy", "/proc/43/exe"); // of the package, and called dockerd by its process
    EXPECT_EQ(version("dockerd", 43), "");
    EXPECT_THAT(problems_, IsEmpty());
}

TEST_F(PackagesTest, VersionsAreThoseOfTheMakers) {
    root_.file("/usr/bin/dockerd", "ELF");
    root_.file("/var/lib/dpkg/info/docker-ce.list", "/usr/bin/dockerd\n");
    for (const auto &[package, makers] :
         {std::pair("5:27.3.1-1~debian.12~bookworm", "27.3.1"),
          std::pair("5:27.0.0~rc.1-1~debian.12~bookworm", "27.0.0-rc.1"),
          std::pair("20.10.24+dfsg1-1+deb12u1", "20.10.24"), std::pair("1.6.20~ds1-1+deb12u1", "1.6.20"),
          std::pair("1.7.0~rc1~ds1-1", "1.7.0-rc1"), std::pair("2.0.0~ds1~beta.2+x-1", "2.0.0-beta.2"),
          std::pair("18.06.0~ce~3-0~debian", "18.06.0"), std::pair("26.1.3-0ubuntu1~24.04.1", "26.1.3"),
          std::pair("20.10.25+azure-ubuntu22.04u1", "20.10.25"), std::pair("~rc1", "-rc1"), std::pair("1:", "")}) {
        root_.file("/var/lib/dpkg/status",
                   fmt::format("Package: docker-ce\nStatus: install ok installed\nVersion: {}\n", package));
        EXPECT_EQ(version("dockerd"), makers) << package;
    }
}

/// A process may be called containerd by whoever started it.
TEST_F(PackagesTest, DatabasesAreReadOnce) {
    install_rpm(header_of("24.0.5"));
    const auto host = root_.host();
    Packages packages(host);
    for (int pid = 1; pid <= 3; ++pid) {
        root_.link(fmt::format("/home/{}/dockerd", pid), fmt::format("/proc/{}/exe", pid));
        EXPECT_EQ(packages.version("dockerd", pid, problems_), "");
        std::filesystem::remove(root_.here("/var/lib/rpm/rpmdb.sqlite"));
        root_.file("/var/lib/rpm/rpmdb.sqlite", std::string(4096, 'x'));
    }
    root_.link("/usr/bin/dockerd", "/proc/4/exe");
    EXPECT_EQ(packages.version("dockerd", 4, problems_), "24.0.5");
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

/// What runs on the host of the test, which is asked as in production.
class LiveProgramTest : public testing::Test {
protected:
    void SetUp() override {
        auto host = probe::Host::open("/");
        ASSERT_TRUE(host) << host.error().text();
        host_.emplace(std::move(*host));
        program_ = std::filesystem::canonical(root_.path()) / "containerd";
        ASSERT_TRUE(std::filesystem::copy_file("/proc/self/exe", program_));
    }
    [[nodiscard]] std::string path(std::string_view name, int pid) const { return path_of_program(*host_, name, pid); }
    /// Runs the copy of this program, which waits until `wait` is closed; in a mount namespace of its own with
    /// `over_it` bound over the copy, if that is given. 0: there is no such namespace to be had.
    pid_t start(const std::filesystem::path &over_it = {}) {
        std::array<int, 2> wait{}, started{};
        EXPECT_EQ(::pipe2(wait.data(), 0), 0);
        EXPECT_EQ(::pipe2(started.data(), O_CLOEXEC), 0);
        const UniqueFd is_started(started[0]);
        const pid_t pid = ::fork();
        if (pid == 0) {
            ::close(wait[1]);
            ::dup2(wait[0], STDIN_FILENO);
            ::dup2(::open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO);
            const bool set_up =
                over_it.empty() ||
                (::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                 ::mount(over_it.c_str(), program_.c_str(), nullptr, MS_BIND, nullptr) == 0);
            if (set_up) ::execl(program_.c_str(), "containerd", "--gtest_filter=*WaitsForItsParent", nullptr);
            (void)!::write(started[1], "x", 1);
            ::_exit(1);
        }
        ::close(wait[0]);
        ::close(started[1]);
        wait_.emplace_back(wait[1]);
        char failed = 0;
        const bool runs = ::read(is_started.get(), &failed, 1) == 0; // execve has closed the other end
        if (!runs) ::waitpid(pid, nullptr, 0);
        if (runs) children_.push_back(pid);
        return runs ? pid : 0;
    }
    void TearDown() override {
        wait_.clear();
        for (const pid_t pid : children_)
            ::waitpid(pid, nullptr, 0);
    }

    probe::TestRoot root_;
    std::optional<probe::Host> host_;
    std::filesystem::path program_;

private:
    std::vector<UniqueFd> wait_;
    std::vector<pid_t> children_;
};

/// Run by start() only; by itself it ends at once.
TEST(LiveProgram, WaitsForItsParent) {
    char byte = 0;
    if (std::filesystem::read_symlink("/proc/self/exe").filename() == "containerd")
        (void)!::read(STDIN_FILENO, &byte, 1);
}

TEST_F(LiveProgramTest, ThisProcess) {
    const auto self = std::filesystem::read_symlink("/proc/self/exe");
    EXPECT_EQ(path(self.filename().string(), ::getpid()), self);
    EXPECT_EQ(path("dockerd", ::getpid()), "");
}

TEST_F(LiveProgramTest, OneThatWasReplaced) {
    const pid_t pid = start();
    ASSERT_NE(pid, 0);
    EXPECT_EQ(path("containerd", pid), program_);
    ASSERT_TRUE(std::filesystem::remove(program_));
    EXPECT_EQ(path("containerd", pid), "");
    root_.file("/containerd", "of a newer package");
    EXPECT_EQ(path("containerd", pid), "");
    root_.file("/containerd (deleted)", "as the kernel calls the old one");
    EXPECT_EQ(path("containerd (deleted)", pid), "");
}

TEST_F(LiveProgramTest, OneOfAnotherMountNamespace) {
    ASSERT_TRUE(std::filesystem::copy_file("/proc/self/exe", program_.parent_path() / "theirs"));
    const pid_t pid = start(program_.parent_path() / "theirs");
    if (pid == 0) GTEST_SKIP() << "no mount name space of its own: NOT TESTED";
    EXPECT_EQ(path("containerd", pid), "") << "what lies there for us is another file";
}

} // namespace
} // namespace shale::doctor
