// SPDX-License-Identifier: Apache-2.0
#include "guard/event.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "guard/json_members.h"
#include "oci/json.h"
#include "store/refusal.h"
#include "sys/fs.h"

namespace shale::guard {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char *file_name = "events.jsonl", *old_name = "events.jsonl.1";
constexpr std::array<std::string_view, 8> type_names{"entered", "left",   "acting",   "acted",
                                                     "failed",  "undone", "forecast", "problem"};
static_assert(type_names.size() == std::to_underlying(EventType::problem) + 1);

std::string cut(const std::string &text) {
    return text.size() <= max_event_text ? text : text.substr(0, max_event_text) + "...";
}

/// No reader waits for a writer of what is no file.
Result<UniqueFd> open_file(int dir, const char *name, int flags) {
    auto fd = TRY(sys::open_at(dir, name, flags | O_NONBLOCK, 0600));
    if (!S_ISREG(TRY(sys::stat_at(fd.get(), "")).st_mode))
        return fail(Errc::FailedPrecondition, fmt::format("{} is no file", name));
    return fd;
}

/// The last line of the file was cut off.
Result<bool> is_torn(int fd, uint64_t size) {
    std::array<std::byte, 1> last{};
    if (size == 0 || TRY(sys::pread_some(fd, last, size - 1)) == 0) return false;
    return last[0] != std::byte{'\n'};
}

/// Whole lines of the end of a file, and what a crash left behind the last one.
Result<std::string> read_tail(int dir, const char *name) {
    if (!TRY(sys::stat_if_exists(dir, name))) return std::string();
    const auto fd = TRY(open_file(dir, name, O_RDONLY));
    const auto size = static_cast<uint64_t>(TRY(sys::stat_at(fd.get(), "")).st_size);
    const uint64_t begin = size - std::min(size, EventLog::max_read_bytes);
    std::string out(size - begin, '\0');
    size_t have = 0;
    while (have < out.size()) {
        const size_t got =
            TRY(sys::pread_some(fd.get(), std::as_writable_bytes(std::span(out)).subspan(have), begin + have));
        if (got == 0) break;
        have += got;
    }
    out.resize(have);
    if (begin != 0) out.erase(0, std::min(out.find('\n'), out.size() - 1) + 1);
    return out;
}

/// The newest first, until there are `most`.
void collect(std::string_view text, size_t most, EventLog::Page &out) {
    while (!text.empty() && out.events.size() < most) {
        if (text.ends_with('\n')) text.remove_suffix(1);
        const size_t begin = text.rfind('\n') + 1; // npos + 1 is 0
        const std::string_view line = text.substr(begin);
        text = text.substr(0, begin);
        if (line.empty()) continue;
        if (auto event = event_from_line(line))
            out.events.push_back(std::move(*event));
        else
            ++out.skipped;
    }
}

} // namespace

std::string_view name_of(EventType type) noexcept {
    return type_names[std::to_underlying(type)];
}

std::string to_line(const Event &event) {
    Json json;
    const uint64_t time_ms = time_json(event.time).get<uint64_t>();
    json["time"] = format_time_ns(static_cast<int64_t>(std::min<uint64_t>(time_ms, 9'223'372'036'854)) * 1'000'000);
    json["time_ms"] = time_ms;
    json["type"] = name_of(event.type);
    json["kind"] = name_of(event.kind);
    json["subject"] = cut(event.subject);
    if (event.tier) json["tier"] = name_of(*event.tier);
    json["what"] = cut(event.what);
    Json evidence = Json::array();
    for (size_t i = 0; i < std::min(event.evidence.size(), max_event_evidence); ++i)
        evidence.push_back(cut(event.evidence[i]));
    if (event.evidence.size() > max_event_evidence)
        evidence.back() = fmt::format("... and {} more", event.evidence.size() - max_event_evidence + 1);
    json["evidence"] = std::move(evidence);
    json["undone"] = event.undone;
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Event> event_from_line(std::string_view line) {
    constexpr std::string_view where = "event:";
    constexpr size_t most_text = 4 * max_event_text; // what was cut, with U+FFFD for every byte
    if (line.size() > max_event_bytes)
        return fail(Errc::InvalidArgument, fmt::format("{} a line of {} bytes", where, line.size()));
    const auto json = TRY(oci::parse_object(line, "event"));
    Event out;
    out.time = TRY(time_member(json, "time_ms", where));
    const std::string type = TRY(text_member(json, "type", most_text, where));
    const auto known = std::ranges::find(type_names, type);
    if (known == type_names.end()) return fail(Errc::InvalidArgument, fmt::format("{} of another type", where));
    out.type = static_cast<EventType>(known - type_names.begin());
    out.kind = TRY(kind_member(json, "kind", where));
    out.subject = TRY(text_member(json, "subject", most_text, where));
    if (oci::find_member(json, "tier") != nullptr) out.tier = TRY(tier_member(json, "tier", where));
    out.what = TRY(text_member(json, "what", most_text, where));
    TRY(array_member(json, "evidence", max_event_evidence, where));
    out.evidence = TRY(oci::list_member(json, "evidence", where));
    out.undone = TRY(bool_member(json, "undone", where));
    return out;
}

Result<UniqueFd> open_guard_dir(int root) {
    return in_context(sys::make_dirs(root, store::guard_name), [] { return "the directory of the guard"; });
}

EventLog::EventLog(UniqueFd dir, uint64_t max_bytes) : dir_(std::move(dir)), max_bytes_(max_bytes) {}

Status EventLog::append(const Event &event) {
    constexpr int flags = O_RDWR | O_CREAT | O_APPEND;
    std::string line = to_line(event) + "\n";
    auto fd = TRY(open_file(dir_.get(), file_name, flags));
    auto size = static_cast<uint64_t>(TRY(sys::stat_at(fd.get(), "")).st_size);
    if (size != 0 && size + line.size() > max_bytes_) {
        TRY(sys::rename_at(dir_.get(), file_name, dir_.get(), old_name));
        fd = TRY(open_file(dir_.get(), file_name, flags));
        size = static_cast<uint64_t>(TRY(sys::stat_at(fd.get(), "")).st_size);
    }
    if (TRY(is_torn(fd.get(), size))) line.insert(0, "\n");
    if (auto written = sys::write_all(fd.get(), std::as_bytes(std::span(line))); !written) {
        (void)sys::truncate_fd(fd.get(), size); // best effort: a torn line is passed over
        return written;
    }
    TRY(sys::fsync_fd(fd.get()));
    return size == 0 ? sys::fsync_fd(dir_.get()) : Status();
}

Result<EventLog::Page> EventLog::read(size_t most) const {
    Page out;
    // The newer one first: what is rotated in between is then read twice and not missed, and told once below.
    const std::string newer = TRY(read_tail(dir_.get(), file_name));
    const std::string older = TRY(read_tail(dir_.get(), old_name));
    collect(newer, most, out);
    if (newer != older) collect(older, most, out);
    std::ranges::reverse(out.events);
    return out;
}

} // namespace shale::guard
