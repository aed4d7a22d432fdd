// SPDX-License-Identifier: Apache-2.0
#include "doctor/checks/common.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

#include <fmt/format.h>

#include "base/units.h"
#include "oci/json.h"

namespace shale::doctor::checks {
namespace {

constexpr size_t longest_shown = 300; ///< bytes of a text of the host that go into a line

/// Bytes of the UTF-8 character that `text` begins with; 0: there is none that may be printed (not well-formed by
/// RFC 3629, or a control character, C1 among them).
size_t printable(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char first = byte(0);
    if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
    const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
    for (size_t i = 1; i < length; ++i)
        if ((byte(i) & 0xc0U) != 0x80) return 0;
    const unsigned char second = byte(1);
    const bool out_of_range = (first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
                              (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90);
    const bool c1 = first == 0xc2 && second < 0xa0;
    return out_of_range || c1 ? 0 : length;
}

bool needs_no_quotes(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("/._-+:@%,=").contains(c);
}

} // namespace

const probe::FileSystem *file_system_of(const probe::Facts &facts, std::string_view path) {
    const probe::FileSystem *best = nullptr;
    for (const auto &fs : facts.file_systems)
        if (lies_in(path, fs.target) && (best == nullptr || fs.target.size() > best->target.size())) best = &fs;
    return best;
}

const probe::FileSystem *file_system_of(const probe::Facts &facts, const probe::Store &store) {
    if (store.known_file_system && store.file_system < facts.file_systems.size())
        return &facts.file_systems[store.file_system];
    return file_system_of(facts, store.root);
}

const probe::FileSystem *file_system_of_layers(const probe::Facts &facts, const probe::Store &store) {
    for (const auto &layer : store.layers)
        if (layer.on_disk && !layer.path.empty()) return file_system_of(facts, layer.path);
    return file_system_of(facts, store);
}

const probe::ConfigFile *config_file(const probe::Facts &facts, std::string_view kind) {
    const auto found = std::ranges::find(facts.config_files, kind, &probe::ConfigFile::kind);
    return found == facts.config_files.end() ? nullptr : &*found;
}

std::optional<std::string> docker_setting(const probe::Facts &facts, std::initializer_list<const char *> path) {
    const auto *const file = config_file(facts, "docker daemon.json");
    if (file == nullptr) return std::nullopt;
    const auto parsed = oci::parse_object(file->text, file->path);
    if (!parsed) return std::nullopt;
    const oci::Json *value = &*parsed;
    for (const char *const key : path) {
        value = oci::find_member(*value, key);
        if (value == nullptr) return std::nullopt;
    }
    if (value->is_string()) return value->get<std::string>();
    if (value->is_boolean()) return value->get<bool>() ? "true" : "false";
    if (value->is_number_unsigned()) return std::to_string(value->get<uint64_t>());
    if (value->is_number_integer()) return std::to_string(value->get<int64_t>());
    return std::nullopt;
}

bool kernel_at_least(const probe::Facts &facts, int major, int minor) {
    const std::string &release = facts.kernel.release;
    const char *const end = release.data() + release.size();
    int its_major = 0;
    int its_minor = 0;
    const auto first = std::from_chars(release.data(), end, its_major);
    if (first.ec != std::errc() || first.ptr == end || *first.ptr != '.') return false;
    if (std::from_chars(first.ptr + 1, end, its_minor).ec != std::errc()) return false;
    return its_major > major || (its_major == major && its_minor >= minor);
}

double percent(uint64_t part, uint64_t whole) noexcept {
    return whole == 0 ? 0 : 100 * static_cast<double>(part) / static_cast<double>(whole);
}

std::string percent_text(uint64_t part, uint64_t whole) {
    const bool exact = whole != 0 && part <= std::numeric_limits<uint64_t>::max() / 1000;
    constexpr double most = 1e18; // of figures that make no sense: a larger one may fit into no integer
    const uint64_t tenths =
        exact ? part * 1000 / whole : static_cast<uint64_t>(std::min(percent(part, whole) * 10, most));
    return fmt::format("{}.{} %", tenths / 10, tenths % 10);
}

std::string counted(uint64_t count, std::string_view one, std::string_view many) {
    if (count == 1) return fmt::format("1 {}", one);
    return many.empty() ? fmt::format("{} {}s", format_count(count), one)
                        : fmt::format("{} {}", format_count(count), many);
}

std::string listed(const std::vector<std::string> &names, size_t most) {
    const size_t count = std::min(names.size(), most);
    std::string out;
    for (size_t i = 0; i < count; ++i) {
        if (i != 0) out += i + 1 == names.size() ? " and " : ", ";
        out += shown(names[i]);
    }
    if (names.size() > count) out += fmt::format(" ... and {} more", format_count(names.size() - count));
    return out;
}

std::string shown(std::string_view text) {
    std::string out;
    for (size_t at = 0; at < text.size();) {
        if (at >= longest_shown) return out + "...";
        const size_t length = printable(text.substr(at));
        if (length == 0)
            out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[at]));
        else
            out += text.substr(at, length);
        at += std::max<size_t>(length, 1);
    }
    return out;
}

std::string shell_quote(std::string_view text) {
    if (!text.empty() && text[0] != '-' && std::ranges::all_of(text, needs_no_quotes)) return std::string(text);
    std::string out;
    bool plain = true; // it is one printable line: '...' does; else $'...' (POSIX.1-2024; bash, ksh, zsh, busybox)
    for (size_t at = 0; at < text.size();) {
        const size_t length = printable(text.substr(at));
        if (length == 0)
            out += fmt::format("\\{:03o}", static_cast<unsigned char>(text[at]));
        else if (text[at] == '\'' || text[at] == '\\')
            out += fmt::format("\\{}", text[at]);
        else
            out += text.substr(at, length);
        plain = plain && length != 0 && text[at] != '\'';
        at += std::max<size_t>(length, 1);
    }
    return plain ? fmt::format("'{}'", text) : fmt::format("$'{}'", out);
}

std::vector<std::string> limited(std::vector<std::string> lines) {
    if (lines.size() <= max_evidence) return lines;
    const size_t more = lines.size() - (max_evidence - 1);
    lines.resize(max_evidence - 1);
    lines.push_back(fmt::format("... and {} more", format_count(more)));
    return lines;
}

std::string name_of(const probe::Store &store) {
    return fmt::format("{} {} store at {}", shown(store.engine), shown(store.driver), shown(store.root));
}

std::string process_name(int pid, std::string_view command) {
    return command.empty() ? fmt::format("process {}", pid) : fmt::format("process {} ({})", pid, shown(command));
}

std::string unread_records(const probe::Store &store) {
    for (const auto &source : store.sources) {
        if (source.state == "read" || source.state == "missing") continue;
        if (source.state == "changing")
            return fmt::format("{}: {} ({}) changed while it was read{}{}; look again when the store is idle",
                               name_of(store), shown(source.path), shown(source.what), source.why.empty() ? "" : ": ",
                               shown(source.why));
        return fmt::format("{}: {} cannot be read ({}){}{}", name_of(store), shown(source.what), shown(source.path),
                           source.why.empty() ? "" : ": ", shown(source.why));
    }
    return {};
}

bool is_running(const probe::StoreContainer &container) noexcept {
    constexpr std::array states{"running", "paused", "pausing", "restarting", "stopping"};
    return std::ranges::find(states, std::string_view(container.state)) != states.end();
}

bool is_stopped(const probe::StoreContainer &container) noexcept {
    constexpr std::array states{"created", "configured", "initialized", "exited", "stopped", "dead", "removing"};
    return std::ranges::find(states, std::string_view(container.state)) != states.end();
}

bool is_overlay(const probe::Store &store) noexcept {
    constexpr std::array drivers{"overlay", "overlay2", "overlayfs", "stargz", "nydus", "soci", "erofs"};
    return std::ranges::find(drivers, std::string_view(store.driver)) != drivers.end();
}

Layers layers_by_id(const probe::Store &store) {
    Layers out;
    out.reserve(store.layers.size());
    for (const auto &layer : store.layers)
        out.emplace(layer.id, &layer);
    return out;
}

bool is_orphan(const probe::StoreLayer &layer, const Layers &all) noexcept {
    return layer.on_disk && !layer.recorded && layer.used_by.empty() && layer.kind != "removing" &&
           layer.kind != "ingest" && !is_init_leftover(layer, all);
}

bool is_init_leftover(const probe::StoreLayer &layer, const Layers &all) noexcept {
    constexpr std::string_view suffix = "-init"; // moby, layer/layer_store.go, initMount
    if (layer.kind != "init" || layer.recorded || !layer.on_disk || !layer.id.ends_with(suffix)) return false;
    const auto container = all.find(std::string_view(layer.id).substr(0, layer.id.size() - suffix.size()));
    return container == all.end() || !container->second->on_disk;
}

std::string place_of(const probe::StoreLayer &layer) {
    return shown(layer.path.empty() ? layer.id : layer.path);
}

std::string name_of(const probe::StoreImage &image) {
    return shown(image.names.empty() ? image.id : image.names[0]);
}

bool is_broken_link(std::string_view damage) noexcept {
    return damage.starts_with("hard link");
}

std::string users_text(const probe::StoreLayer &layer) {
    std::vector<std::string> users;
    for (const auto &user : layer.used_by)
        if (!user.starts_with("layer ")) users.push_back(user);
    if (!users.empty()) return fmt::format("used by {}", listed(users, 2));
    return layer.used_by.empty() ? "used by nothing" : "used by other layers only";
}

std::string exclusive_text(const std::optional<probe::Usage> &usage) {
    if (!usage) return "not measured";
    return fmt::format("{}{} and {}", usage->complete ? "" : "at least ", format_bytes(usage->exclusive_bytes),
                       counted(usage->exclusive_inodes, "inode"));
}

std::optional<probe::Usage> exclusive_of(const std::vector<const probe::StoreLayer *> &layers) {
    probe::Usage sum;
    bool any = false;
    for (const auto *layer : layers) {
        sum.complete = sum.complete && layer->usage && layer->usage->complete;
        if (!layer->usage) continue;
        any = true;
        sum.exclusive_bytes += layer->usage->exclusive_bytes;
        sum.exclusive_inodes += layer->usage->exclusive_inodes;
    }
    return any ? std::optional(sum) : std::nullopt;
}

std::string since_text(uint64_t created_s) {
    constexpr uint64_t last = 4'102'444'800; // of the year 2099
    if (created_s == 0 || created_s > last) return {};
    return "since " + format_time_ns(static_cast<int64_t>(created_s) * 1'000'000'000).substr(0, 10);
}

std::vector<std::string> prune_commands(const probe::Store &store) {
    const std::string root = shell_quote(store.root);
    if (store.engine == "docker" || store.engine == "buildkit")
        return {"docker builder prune", "docker container prune", "docker image prune",
                "# also images that no container uses: docker image prune -a"};
    if (store.engine == "podman")
        return {fmt::format("podman --root {} image prune", root),
                fmt::format("podman --root {} container prune", root),
                fmt::format("# also images that no container uses: podman --root {} image prune -a", root)};
    if (store.engine == "containerd")
        return {"# a node of Kubernetes: crictl rmi --prune", "ctr namespaces ls",
                "ctr -n NAMESPACE images ls && ctr -n NAMESPACE images rm IMAGE"};
    if (store.engine == "shale") return {fmt::format("shale --root {} gc", root)};
    return {};
}

StoreSize size_of(const probe::Store &store) {
    StoreSize out;
    // Its layers are hard links to those below: what has names elsewhere would count once a layer.
    const bool hard_links = store.driver == "overlay" && store.engine == "docker";
    const auto add = [&](const std::optional<probe::Usage> &usage, bool on_disk) {
        if (!usage) {
            out.complete = out.complete && !on_disk;
            return;
        }
        out.bytes += hard_links ? usage->exclusive_bytes : usage->bytes;
        out.inodes += hard_links ? usage->exclusive_inodes : usage->inodes;
        out.complete = out.complete && usage->complete;
    };
    for (const auto &layer : store.layers)
        add(layer.usage, layer.on_disk);
    for (const auto &volume : store.volumes)
        add(volume.usage, volume.on_disk);
    for (const auto &[what, bytes] : store.other_bytes)
        out.bytes += bytes;
    return out;
}

} // namespace shale::doctor::checks
