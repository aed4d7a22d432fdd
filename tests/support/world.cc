// SPDX-License-Identifier: Apache-2.0
#include "support/world.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "drivers/devicemapper/devicemapper.h"
#include "support/zfs_world.h"
#include "sys/btrfs.h"
#include "sys/dm.h"
#include "sys/fs.h"
#include "sys/loop.h"
#include "sys/mount.h"
#include "sys/seam.h"
#include "sys/zfs.h"

namespace shale::test {
namespace {

bool private_mounts() {
    static const bool done = [] {
        if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0) return false;
        return ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    }();
    return done;
}

/// For those who cannot mount a tmpfs of their own: the one that everybody may use, where it has room. On a disk that
/// discards what is freed, the matrices take an hour.
std::string plain_base() {
    struct statvfs info{};
    const bool room = geteuid() != 0 && ::access("/dev/shm", W_OK | X_OK) == 0 && ::statvfs("/dev/shm", &info) == 0 &&
                      info.f_bavail * info.f_frsize > uint64_t{1} << 30U;
    return room ? "/dev/shm" : "/var/tmp";
}

} // namespace

World::World(std::string_view tested) {
    const std::string driver = driver_of(tested);
    const char *base = std::getenv("SHALE_TEST_DIR");
    std::string name = (base != nullptr ? base : plain_base()) + "/shale-test-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
    path_ = name;
    if (private_mounts() && cannot_test(tested).empty()) { // else the test is skipped before it uses this
        const auto home = mount_home_of(driver, path_);
        if (!home) throw std::runtime_error(home.error().text());
        mounted_ = *home;
        if (mounted_) return;
    }
    // SHALE_TEST_DIR asks for that directory's own file system.
    mounted_ = base == nullptr && private_mounts() &&
               ::mount("shale-test", path_.c_str(), "tmpfs", 0, "size=2g,mode=0755") == 0;
}

World::~World() {
    if (std::error_code error; !mounted_ || std::filesystem::exists(path_, error))
        for (const auto &entry : std::filesystem::directory_iterator(path_, error))
            put_to_rest(entry.path().string() + "/devicemapper");
    unmount_below(path_);
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
    const auto slash = path_.rfind('/');
    if (const auto parent = sys::open_dir(AT_FDCWD, path_.substr(0, slash).c_str()))
        (void)sys::remove_tree(parent->get(), path_.c_str() + slash + 1);
}

void World::remove(std::string_view name) const {
    const auto here = sys::open_dir(AT_FDCWD, path_.c_str());
    ASSERT_TRUE(here) << here.error().text();
    const std::string tree = path_ + "/" + std::string(name);
    put_to_rest(tree + "/devicemapper");
    unmount_below(tree);
    remove_zfs_layers(tree + "/zfs");
    for (const auto *layers : {"/btrfs", "/btrfs/trash"}) { // what is read-only is not unlinked entry by entry
        if (!std::filesystem::exists(tree + layers)) continue;
        const auto dir = sys::open_dir(AT_FDCWD, (tree + layers).c_str());
        ASSERT_TRUE(dir) << dir.error().text();
        for (const auto &entry : std::filesystem::directory_iterator(tree + layers))
            (void)sys::delete_subvolume(dir->get(), entry.path().filename().c_str());
    }
    const auto removed = sys::remove_tree(here->get(), std::string(name).c_str());
    ASSERT_TRUE(removed) << removed.error().text();
}

std::string cannot_mount() {
    if (geteuid() != 0) return "needs root (mounts)";
    return private_mounts() ? "" : "no mount namespace can be made here";
}

namespace {

/// Where processors are emulated a configuration takes minutes: the usual run tests those that cover every part.
bool all_configurations() {
    return std::getenv("SHALE_TEST_ALL") != nullptr;
}

} // namespace

std::vector<std::string> driver_names(std::string_view of) {
    std::vector<std::string> out;
    for (const auto &driver : drivers::registry()) {
        if (!of.empty() && driver.name != of) continue;
        out.emplace_back(driver.name);
        if (driver.name == "devicemapper")
            for (const auto *more :
                 all_configurations() ? std::vector{"_xfs", "_direct", "_direct_xfs"} : std::vector{"_direct_xfs"})
                out.push_back(std::string(driver.name) + more);
        if (driver.name == "zfs" && all_configurations()) out.push_back("zfs_command");
    }
    return out;
}

std::string driver_of(std::string_view tested) {
    return std::string(tested.substr(0, tested.find('_')));
}

namespace {

/// Devices that tests gave away, by the driver's directory.
std::map<std::string, sys::LoopDevice> &disks() {
    static std::map<std::string, sys::LoopDevice> all;
    return all;
}

/// ROOT.disk as a block device, made when missing.
std::string disk_of(const std::string &root) {
    auto &disk = disks()[root];
    if (disk.fd) return disk.path;
    const std::filesystem::path parent = std::filesystem::path(root).parent_path();
    if (std::filesystem::create_directories(parent))
        std::filesystem::permissions(parent, std::filesystem::perms(0711)); // as a store makes its root
    const UniqueFd file(::open((root + ".disk").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!file || ::ftruncate(file.get(), std::max(off_t{4} << 30U, ::lseek(file.get(), 0, SEEK_END))) != 0)
        throw std::runtime_error("disk " + root);
    auto attached = sys::attach_loop(file.get(), false);
    if (!attached) throw std::runtime_error(attached.error().text());
    disk = std::move(*attached);
    return disk.path;
}

} // namespace

drivers::DriverOptions options_of(std::string_view tested, const std::string &root) {
    drivers::DriverOptions out;
    if (driver_of(tested) == "zfs") out["compression"] = "off"; // tests count bytes
    if (tested == "zfs_command") out["library"] = "off";
    if (driver_of(tested) != "devicemapper") return out;
    out = {{"data_size", "4G"}, {"metadata_size", "8M"}, {"base_size", "48M"}};
    if (tested.ends_with("_xfs")) {
        out["fs"] = "xfs";
        // xfsprogs' own tests make file systems of less than 300 MiB so.
        for (const auto *name : {"TEST_DIR", "TEST_DEV", "QA_CHECK_FS"})
            ::setenv(name, "1", 1);
    }
    if (tested.find("_direct") != std::string_view::npos) {
        out["pool"] = "device";
        out["device"] = disk_of(root);
    }
    return out;
}

void put_to_rest(const std::string &root) {
    const ScopeGuard drop_disk([&] { disks().erase(root); });
    if (!std::filesystem::exists(root + "/pool")) return;
    // Not through the seam: this is no step of any matrix.
    sys::Hook *const hook = sys::detail::hook.load();
    sys::set_hook(nullptr);
    // What was mounted last may be on its way out still.
    Result<uint64_t> left = 1;
    for (int tries = 0; tries < 5 && left && *left > 0; ++tries)
        left = drivers::devicemapper::deactivate(root);
    if (!left)
        ADD_FAILURE() << left.error().text();
    else
        EXPECT_EQ(*left, 0U) << "devices of " << root << " stay in use";
    sys::set_hook(hook);
}

unsigned deep(std::string_view tested, unsigned wanted) {
    const std::string driver = driver_of(tested);
    return driver == "devicemapper" || driver == "zfs" ? std::min(wanted, 50U) : wanted;
}

bool in_guest() {
    return std::getenv("SHALE_GUEST") != nullptr;
}

std::string cannot_load(std::string_view tested) {
    const auto why = cannot_test(tested);
    const auto kernel = why.find("this kernel");
    if (kernel == std::string::npos) return why;
    return "by hand only, for clients get no turn on one emulated processor (./dev guest PROGRAM "
           "--gtest_filter=...): " +
           why.substr(kernel);
}

std::string cannot_test(std::string_view tested) {
    const std::string driver = driver_of(tested);
    if (driver == "vfs") return {};
    if (auto why = cannot_mount(); !why.empty()) return why;
    if (driver == "btrfs" && ::access("/sbin/mkfs.btrfs", X_OK) != 0) return "needs mkfs.btrfs (btrfs-progs)";
    // A reason that begins with "this kernel" sends a case to the guest.
    const auto for_guest = [](const Error &why) {
        const char *guest = std::getenv("SHALE_TEST_GUEST");
        return (guest != nullptr && guest == std::string_view("0") ? "left out by SHALE_TEST_GUEST=0: " : "") +
               std::string(why.message());
    };
    if (driver == "zfs")
        if (const auto there = sys::Zfs::open(); !there) return for_guest(there.error());
    if (driver == "devicemapper") {
        if (const auto there = sys::dm_version(); !there) return for_guest(there.error());
        if (const auto there = sys::dm_target_version("thin-pool"); !there) return for_guest(there.error());
        if (::access("/usr/sbin/thin_check", X_OK) != 0) return "needs thin_check (thin-provisioning-tools)";
        if (tested.ends_with("_xfs") && ::access("/sbin/mkfs.xfs", X_OK) != 0) return "needs mkfs.xfs (xfsprogs)";
    }
    return {};
}

Status mount_new(const std::string &type, uint64_t bytes, const std::string &path,
                 const std::vector<std::string> &options, const std::vector<std::string> &mkfs) {
    static int last = 0; // mkfs.btrfs takes loop devices whose files have one name for the same
    const std::string name = "shale-test-" + std::to_string(::getpid()) + "-" + std::to_string(++last);
    const UniqueFd image(::memfd_create(name.c_str(), MFD_CLOEXEC));
    if (!image) return fail_errno(errno, "memfd_create");
    if (::ftruncate(image.get(), static_cast<off_t>(bytes)) != 0) return fail_errno(errno, "size of a test image");
    std::vector<std::string> words{"mkfs." + type, "-q"};
    if (type == "btrfs") words.insert(words.end(), {"-K", "-m", "single"});
    if (type == "ext4") words.insert(words.end(), {"-F", "-m", "0"});
    words.insert(words.end(), mkfs.begin(), mkfs.end());
    const auto loop = TRY(sys::attach_loop(image.get(), false));
    words.push_back(loop.path);
    std::vector<char *> arguments;
    for (auto &word : words)
        arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        (void)::dup2(::open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO); // -q is not enough
        ::execv(("/sbin/" + words[0]).c_str(), arguments.data());
        ::_exit(127);
    }
    int status = 0;
    if (child < 0 || ::waitpid(child, &status, 0) != child || status != 0)
        return fail(Errc::FailedPrecondition, "mkfs." + type + " of a test image failed");
    return sys::mount_at({type, loop.path, options}, path);
}

Result<bool> mount_home_of(std::string_view driver, const std::string &path) {
    if (driver == "zfs") return mount_zfs_home(path);
    if (driver != "btrfs") return false;
    TRY(mount_new("btrfs", uint64_t{4} << 30, path));
    return true;
}

archive::Entry dir(std::string path, uint32_t mode) {
    archive::Entry entry;
    entry.type = archive::EntryType::directory;
    entry.path = std::move(path);
    entry.mode = mode;
    entry.mtime_s = 1'600'000'000;
    return entry;
}
archive::Entry file(std::string path, uint32_t mode) {
    auto entry = dir(std::move(path), mode);
    entry.type = archive::EntryType::file;
    entry.mtime_ns = 123'456'789;
    return entry;
}
archive::Entry symlink(std::string path, std::string target) {
    auto entry = dir(std::move(path), 0777);
    entry.type = archive::EntryType::symlink;
    entry.link = std::move(target);
    return entry;
}
archive::Entry hard_link(std::string path, std::string target) {
    auto entry = symlink(std::move(path), std::move(target));
    entry.type = archive::EntryType::hard_link;
    entry.mode = 0644;
    return entry;
}
archive::Entry whiteout(std::string path) {
    const auto slash = path.rfind('/');
    return file(
        slash == std::string::npos ? ".wh." + path : path.substr(0, slash + 1) + ".wh." + path.substr(slash + 1), 0);
}
archive::Entry opaque(std::string directory) {
    return file(std::move(directory) + "/.wh..wh..opq", 0);
}

std::string tar_of(const Layer &layer) {
    std::string out;
    archive::TarWriter writer([&](std::span<const std::byte> bytes) -> Status {
        out.append(reinterpret_cast<const char *>(bytes.data()), bytes.size());
        return {};
    });
    for (const auto &member : layer) {
        auto entry = member.entry;
        if (entry.type == archive::EntryType::file) entry.size = member.content.size();
        EXPECT_TRUE(writer.add(entry));
        if (!member.content.empty()) {
            EXPECT_TRUE(writer.data(std::as_bytes(std::span(member.content))));
        }
    }
    EXPECT_TRUE(writer.finish());
    return out;
}

void write_docker_archive(const std::string &path, const std::vector<Layer> &layers, std::string_view name) {
    std::string diff_ids;
    std::string names;
    Layer outer;
    for (const auto &layer : layers) {
        const std::string tar = tar_of(layer);
        const Digest digest = Digest::of(std::string_view(tar));
        if (!diff_ids.empty()) diff_ids += ',';
        diff_ids += '"' + digest.text() + '"';
        if (!names.empty()) names += ',';
        names += '"' + digest.hex() + "/layer.tar\"";
        outer.push_back({file(digest.hex() + "/layer.tar"), tar});
    }
    const std::string config =
        R"({"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"]},"rootfs":{"type":"layers",)"
        R"("diff_ids":[)" +
        diff_ids + "]}}";
    const std::string config_name = Digest::of(std::string_view(config)).hex() + ".json";
    outer.push_back({file(config_name), config});
    outer.push_back({file("manifest.json"), "[{\"Config\":\"" + config_name + "\",\"RepoTags\":[\"" +
                                                std::string(name) + "\"],\"Layers\":[" + names + "]}]"});
    std::ofstream(path, std::ios::binary) << tar_of(outer);
}

store::StoreOptions store_options(const std::string &root, const std::string &driver, store::Durability durability) {
    store::StoreOptions options;
    options.root = root;
    options.driver = driver_of(driver);
    options.driver_options = options_of(driver, root + "/" + options.driver);
    options.durability = durability;
    return options;
}

std::unique_ptr<store::Store> open_store(const std::string &root, const std::string &driver,
                                         store::Durability durability) {
    auto opened = store::Store::open(store_options(root, driver, durability));
    if (!opened) {
        ADD_FAILURE() << opened.error().text();
        throw std::runtime_error(opened.error().text());
    }
    return std::move(*opened);
}

std::string read_all(const std::string &path) {
    const std::ifstream in(path, std::ios::binary);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
}

void copy_dir(const std::string &from, const std::string &to) {
    std::filesystem::create_directories(to);
    put_to_rest(from + "/devicemapper");
    unmount_below(from); // mounts that a driver keeps
    const auto source = sys::open_dir(AT_FDCWD, from.c_str());
    const auto target = sys::open_dir(AT_FDCWD, to.c_str());
    ASSERT_TRUE(source && target);
    if (!std::filesystem::exists(from + "/btrfs")) {
        const auto copied = archive::copy_tree(source->get(), target->get());
        ASSERT_TRUE(copied) << copied.error().text();
        copy_zfs_layers(from + "/zfs", to + "/zfs");
        return;
    }
    for (const auto &entry : std::filesystem::directory_iterator(from))
        if (entry.path().filename() != "btrfs")
            std::filesystem::copy(entry.path(), to + "/" + entry.path().filename().string(),
                                  std::filesystem::copy_options::recursive);
    std::filesystem::create_directory(to + "/btrfs");
    const auto layers = sys::open_dir(AT_FDCWD, (to + "/btrfs").c_str());
    ASSERT_TRUE(layers);
    for (const auto &entry : std::filesystem::directory_iterator(from + "/btrfs")) {
        const std::string name = entry.path().filename();
        const auto layer = sys::open_dir(AT_FDCWD, entry.path().c_str());
        ASSERT_TRUE(layer && sys::is_subvolume(layer->get()).value_or(false)) << name;
        const auto copied = sys::snapshot(layer->get(), layers->get(), name.c_str());
        ASSERT_TRUE(copied) << copied.error().text();
        if (::faccessat(layer->get(), ".", W_OK, 0) != 0) thaw(to + "/btrfs/" + name, false); // EROFS
    }
}

void in_layer(store::Store &store, LayerId id, const std::function<void(const std::string &)> &body) {
    const std::string layer = store.root() + "/" + std::string(store.driver().name()) + "/" + to_string(id);
    if (std::filesystem::exists(layer + "/image.erofs")) return body(layer);
    const auto specs = store.driver().mounts(id, {}, drivers::Driver::Access::read_write);
    ASSERT_TRUE(specs) << specs.error().text();
    if (specs->front().type == "bind" || specs->front().type == "overlay") {
        thaw(layer, true);
        body(layer);
        thaw(layer, false);
        return;
    }
    const auto mounted = sys::mount_detached(specs->front());
    ASSERT_TRUE(mounted) << mounted.error().text();
    body(sys::fd_path(mounted->get()) + "/");
    if (specs->front().type == "zfs") seal_zfs_layer_again(layer, specs->front().source);
}

void unmount_below(const std::string &path) {
    if (const auto table = sys::mount_table())
        for (auto it = table->rbegin(); it != table->rend(); ++it)
            if (it->target.starts_with(path + "/")) ::umount2(it->target.c_str(), MNT_DETACH);
}

void thaw(const std::string &layer, bool writable) {
    const auto opened = sys::open_dir(AT_FDCWD, layer.c_str());
    ASSERT_TRUE(opened) << opened.error().text();
    if (!sys::is_subvolume(opened->get()).value_or(false)) return;
    const auto done = sys::set_read_only(opened->get(), !writable);
    ASSERT_TRUE(done) << done.error().text();
}

} // namespace shale::test
