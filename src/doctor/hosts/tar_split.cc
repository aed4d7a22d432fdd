// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/tar_split.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "archive/decompress.h"
#include "base/fd.h"
#include "sys/fs.h"

namespace shale::doctor {

namespace {

using probe::Host;

constexpr size_t max_line_bytes = size_t{16} << 20U;
constexpr uint64_t max_archive_bytes = uint64_t{8} << 30U; // decoded
constexpr uint64_t max_files = 10'000'000;                 // of one layer

using Sizes = std::unordered_map<std::string, uint64_t>; ///< of the files with contents, by path in the tree

/// Hands each line on, without its line feed.
class Lines {
public:
    explicit Lines(const std::function<Status(std::string_view)> &on_line) : on_line_(on_line) {}

    Status add(std::string_view text) {
        while (!text.empty()) {
            const size_t end = text.find('\n');
            line_ += text.substr(0, end);
            if (line_.size() > max_line_bytes)
                return fail(Errc::ResourceExhausted, fmt::format("a line of more than {} bytes", max_line_bytes));
            if (end == std::string_view::npos) return {};
            TRY(on_line_(line_));
            line_.clear();
            text.remove_prefix(end + 1);
        }
        return {};
    }
    Status finish() { return line_.empty() ? Status() : on_line_(line_); }

private:
    const std::function<Status(std::string_view)> &on_line_;
    std::string line_;
};

Status for_each_line(int fd, const std::function<Status(std::string_view)> &on_line) {
    auto decoder = TRY(archive::make_decoder(archive::Compression::gzip));
    std::array<std::byte, size_t{64} << 10U> in;
    std::array<std::byte, size_t{128} << 10U> out;
    Lines lines(on_line);
    uint64_t total = 0;
    while (const size_t got = TRY(sys::read_some(fd, in))) {
        for (size_t at = 0; at < got;) {
            const auto step = TRY(decoder->step(std::span(in).subspan(at, got - at), out));
            at += step.consumed;
            total += step.produced;
            if (total > max_archive_bytes) return fail(Errc::ResourceExhausted, "it unpacks to more than 8 GiB");
            TRY(lines.add({reinterpret_cast<const char *>(out.data()), step.produced}));
            if (step.consumed == 0 && step.produced == 0) return fail(Errc::DataLoss, "it does not unpack");
        }
    }
    TRY(decoder->finish());
    return lines.finish();
}

struct Entry {
    std::string name;
    uint64_t size = 0;
};

/// nullopt: bytes between entries, or a name that is not told as text. A size of 0 is left out (storage.Entry:
/// omitempty).
Result<std::optional<Entry>> parse_entry(std::string_view line) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object()) return fail(Errc::DataLoss, "a line is no JSON object");
    const auto type = json.find("type"), name = json.find("name"), size = json.find("size");
    constexpr int file_entry = 1;
    if (type == json.end() || !type->is_number_integer()) return fail(Errc::DataLoss, "a line has no type");
    if (*type != file_entry || name == json.end() || !name->is_string()) return std::nullopt;
    if (size != json.end() && !size->is_number_unsigned()) return fail(Errc::DataLoss, "a size is no whole number");
    Entry out{name->get<std::string>(), size == json.end() ? 0 : size->get<uint64_t>()};
    if (out.name.contains('\0')) return std::nullopt; // no file is called so
    return out;
}

/// Names as the tree has them: "./etc//passwd" is "/etc/passwd".
std::string normal(std::string_view name) {
    std::string out;
    while (!name.empty()) {
        const size_t end = std::min(name.find('/'), name.size());
        const std::string_view part = name.substr(0, end);
        if (!part.empty() && part != ".") out += fmt::format("/{}", part);
        name.remove_prefix(std::min(end + 1, name.size()));
    }
    return out;
}

std::string parent_of(const std::string &path) {
    return path.substr(0, std::max<size_t>(path.rfind('/'), 1));
}

/// Whoever owns the store may put anything there. Opening a device can do something: so it is looked at first.
Result<UniqueFd> open_archive(const Host &host, const std::string &path) {
    const auto not_regular = [&] {
        return fail(Errc::InvalidArgument, fmt::format("read {:?}: not a regular file", host.here(path)));
    };
    const auto before = TRY(host.stat(path));
    if (before && !S_ISREG(before->st_mode)) return not_regular();
    auto fd = TRY(host.open_path(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    const auto now = TRY(sys::stat_at(fd.get(), ""));
    if (!S_ISREG(now.st_mode)) return not_regular();
    return fd;
}

Result<Sizes> read_archive(int fd) {
    Sizes out; // the last entry of a name is the one that is there
    TRY(for_each_line(fd, [&](std::string_view line) -> Status {
        const auto entry = TRY(parse_entry(line));
        if (!entry) return {};
        std::string path = normal(entry->name);
        if (entry->size == 0 || path.empty()) {
            out.erase(path);
            return {};
        }
        if (out.size() >= max_files) return fail(Errc::ResourceExhausted, fmt::format("more than {} files", max_files));
        out[std::move(path)] = entry->size;
        return {};
    }));
    return out;
}

/// A path as the layer's container would find it: no link leads out of the tree, whatever the disk is mounted at.
Result<UniqueFd> open_in(int tree, const std::string &path, int flags) {
    return sys::open_at2(tree, path == "/" ? "." : path.c_str() + 1, O_PATH | flags,
                         RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

/// What is wrong with it; empty: nothing. A file whose directory is not in this layer's own tree was reached through a
/// symlink of a lower layer: nothing is known about it.
Result<std::string> look_at(int tree, const std::string &path, uint64_t size) {
    const auto fd = open_in(tree, path, O_NOFOLLOW);
    if (!fd) {
        if (fd.error().code() != Errc::NotFound || !open_in(tree, parent_of(path), O_DIRECTORY)) return std::string();
        return fmt::format("{}: is missing, the archive has {} bytes", path, size);
    }
    const auto st = TRY(sys::stat_at(fd->get(), ""));
    if (!S_ISREG(st.st_mode)) return fmt::format("{}: is no regular file, the archive has one of {} bytes", path, size);
    if (static_cast<uint64_t>(st.st_size) == size) return std::string();
    return fmt::format("{}: {} bytes, the archive has {}", path, st.st_size, size);
}

Result<SplitReport> look_at_all(int tree, const Sizes &sizes) {
    SplitReport out;
    for (const auto &[path, size] : sizes) {
        ++out.files;
        std::string damage = TRY(look_at(tree, path, size));
        if (damage.empty()) continue;
        ++out.damaged;
        if (out.damage.size() < max_split_damage) out.damage.push_back(std::move(damage));
    }
    return out;
}

/// `path` still leads to what was opened.
bool is_there(const Host &host, const std::string &path, int opened) {
    const auto now = host.stat(path);
    const auto then = sys::stat_at(opened, "");
    return now && *now && then && (*now)->st_dev == then->st_dev && (*now)->st_ino == then->st_ino;
}

/// Where a store keeps the archive of a layer, and what of the layer's directory is its own tree.
struct Places {
    std::string archive, tree;
};
std::optional<Places> places_of(const probe::Store &store, const probe::StoreLayer &layer) {
    if (!layer.recorded || !layer.on_disk || layer.path.empty() || layer.kind != "committed") return std::nullopt;
    const bool overlay = store.driver.find("overlay") != std::string::npos;
    if (!overlay && store.driver != "btrfs" && store.driver != "vfs") return std::nullopt;
    const std::string tree = overlay ? layer.path + "/diff" : layer.path;
    constexpr std::string_view sha256 = "sha256:";
    if (store.engine == "docker" && layer.name.starts_with(sha256))
        return Places{fmt::format("{}/image/{}/layerdb/sha256/{}/tar-split.json.gz", store.root, store.driver,
                                  layer.name.substr(sha256.size())),
                      tree};
    if (store.engine == "podman")
        return Places{fmt::format("{}/{}-layers/{}.tar-split.gz", store.root, store.driver, layer.id), tree};
    return std::nullopt;
}

} // namespace

Result<SplitReport> compare_with_tar_split(const Host &host, const std::string &archive, const std::string &tree) {
    const auto file = TRY(open_archive(host, archive));
    const auto root = TRY(host.open_path(tree, O_PATH | O_DIRECTORY));
    const auto sizes = read_archive(file.get());
    if (!sizes) return std::unexpected(Error(sizes.error()).add(archive));
    auto out = TRY(look_at_all(root.get(), *sizes));
    if (out.damaged == 0) return out;
    // A layer that is being removed looks damaged, too. Its files go on to vanish, or it is gone.
    const auto again = TRY(look_at_all(root.get(), *sizes));
    if (again.damaged != out.damaged || again.damage != out.damage)
        return fail(Errc::Aborted, fmt::format("{:?} changes while it is compared with its archive", tree));
    if (!is_there(host, archive, file.get()) || !is_there(host, tree, root.get()))
        return fail(Errc::NotFound, fmt::format("{:?} was removed while it was compared with its archive", tree));
    return out;
}

void compare_layers_with_archives(const Host &host, probe::Facts &facts) {
    for (auto &store : facts.stores)
        for (auto &layer : store.layers) {
            const auto places = places_of(store, layer);
            if (!places) continue;
            auto report = compare_with_tar_split(host, places->archive, places->tree);
            if (!report) { // the store's reader tells of an archive that is missing or empty; a layer may be removed
                if (report.error().code() != Errc::NotFound && layer.damage.empty())
                    facts.problems.push_back({places->archive, report.error().text()});
                continue;
            }
            for (std::string &line : report->damage)
                layer.damage.push_back(places->tree + std::move(line));
            if (report->damaged > report->damage.size())
                layer.damage.push_back(fmt::format("{} more files of other sizes than the archive has",
                                                   report->damaged - report->damage.size()));
        }
}

} // namespace shale::doctor
