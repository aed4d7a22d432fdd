// SPDX-License-Identifier: Apache-2.0
// What checks share: finding things in the facts, and saying them the same way everywhere. Text that came from the host
// is hostile: it goes through shown() into evidence and through shell_quote() into commands.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/paths.h"
#include "doctor/check.h"

namespace shale::doctor::checks {

using shale::lies_in;
/// The file system with the longest target that `path` lies in; nullptr: none is known.
const probe::FileSystem *file_system_of(const probe::Facts &facts, std::string_view path);
/// The one that the store's root lies on: as its reader found it, else by path.
const probe::FileSystem *file_system_of(const probe::Facts &facts, const probe::Store &store);
/// The one that its layers lie on: a driver's directory may be a mount of its own.
const probe::FileSystem *file_system_of_layers(const probe::Facts &facts, const probe::Store &store);
/// The file by its kind ("docker daemon.json"); nullptr: there is none.
const probe::ConfigFile *config_file(const probe::Facts &facts, std::string_view kind);
/// A string, number or truth value of dockerd's daemon.json, as text: {"log-opts", "max-size"}. nullopt: it is not set,
/// or the file is no JSON (daemon-json-lint says that).
std::optional<std::string> docker_setting(const probe::Facts &facts, std::initializer_list<const char *> path);
/// The value for a key of a map of the facts (settings, parameters, sysctls, vmstat ...); nullptr: it is not there.
template <class Map> const typename Map::mapped_type *value_of(const Map &map, std::string_view key) {
    const auto found = map.find(std::string(key));
    return found == map.end() ? nullptr : &found->second;
}
/// Of Kernel::release ("6.1.0-18-amd64"). One that cannot be read is older than everything.
[[nodiscard]] bool kernel_at_least(const probe::Facts &facts, int major, int minor);

/// 100 * part / whole; 0 for a whole of nothing.
[[nodiscard]] double percent(uint64_t part, uint64_t whole) noexcept;
/// "91.3 %", rounded down: "100.0 %" is all of it.
std::string percent_text(uint64_t part, uint64_t whole);
/// "1 layer", "2,345 layers"; `many` only where an "s" does not make it.
std::string counted(uint64_t count, std::string_view one, std::string_view many = {});
/// "a", "a and b", "a, b and c"; at most `most`, then "... and N more".
std::string listed(const std::vector<std::string> &names, size_t most = 5);
/// Text of the host as one line of at most about 300 bytes: what is no printable UTF-8 as "\x1b", the end as "...".
std::string shown(std::string_view text);
/// A word for a shell that means exactly `text`, on one line; plain where it needs no quotes.
std::string shell_quote(std::string_view text);
/// At most max_evidence lines; the last one is "... and N more" where some were cut.
std::vector<std::string> limited(std::vector<std::string> lines);

/// "docker overlay2 store at /var/lib/docker"
std::string name_of(const probe::Store &store);
/// "process 12 (nginx)"
std::string process_name(int pid, std::string_view command);
/// The record source of the store that forbids a verdict on what has no record ("unreadable", "changing"), as a line
/// for Outcome::unable that begins with the store's name; empty: all is "read" or "missing".
std::string unread_records(const probe::Store &store);
/// It is mounted, or may be at any moment, by its state's name.
[[nodiscard]] bool is_running(const probe::StoreContainer &container) noexcept;
/// It certainly does not run: it was made, has ended or is being removed. Neither: the state is unknown.
[[nodiscard]] bool is_stopped(const probe::StoreContainer &container) noexcept;
/// Its containers' file systems are overlayfs of the kernel.
[[nodiscard]] bool is_overlay(const probe::Store &store) noexcept;
/// Layers by their ids; the keys live in the store.
using Layers = std::unordered_map<std::string_view, const probe::StoreLayer *>;
Layers layers_by_id(const probe::Store &store);
/// On disk, and needed by no record. "removing" and a lone init layer are half removed; "ingest" may be in the making.
[[nodiscard]] bool is_orphan(const probe::StoreLayer &layer, const Layers &all) noexcept;
/// The init layer of a container whose own layer is gone: half a removal.
[[nodiscard]] bool is_init_leftover(const probe::StoreLayer &layer, const Layers &all) noexcept;
/// Where it is, for people: its path, else its id.
std::string place_of(const probe::StoreLayer &layer);
/// The first of its names, else the id.
std::string name_of(const probe::StoreImage &image);
/// What a reader says of a layer of hard links (StoreLayer::damage) that costs space and loses nothing.
[[nodiscard]] bool is_broken_link(std::string_view damage) noexcept;
/// "used by image X and container Y"; what other layers need it is left out. "used by nothing"
std::string users_text(const probe::StoreLayer &layer);
/// "1.5 GiB and 1,234 inodes", of what has no names elsewhere; "not measured".
std::string exclusive_text(const std::optional<probe::Usage> &usage);
/// Of several layers; not complete: some were not measured. nullopt: none was.
std::optional<probe::Usage> exclusive_of(const std::vector<const probe::StoreLayer *> &layers);
/// "since 2026-11-24"; empty for no time, or one that no calendar has.
std::string since_text(uint64_t created_s);

/// What removes unused things of the store's engine, with its command line, least harm first; remarks begin with "#".
std::vector<std::string> prune_commands(const probe::Store &store);
/// Blocks and inodes of all layers, volumes and the rest of a store, as far as they were measured.
struct StoreSize {
    uint64_t bytes = 0, inodes = 0;
    bool complete = true; ///< false: some layer on disk was not measured, or not wholly
};
StoreSize size_of(const probe::Store &store);

} // namespace shale::doctor::checks
