// SPDX-License-Identifier: Apache-2.0
// What the guard saw and did, as lines of JSON in ROOT/guard/events.jsonl, the oldest first. At a size that file
// becomes events.jsonl.1, in place of the one before.
//
// Invariants: a line is appended with one write and synced before append() returns. A line that a crash or a full disk
// cut off is no event: whoever appends next ends it, whoever reads passes it over. Rotation is one rename; a crash
// behind it leaves only events.jsonl.1, which is read like any. One process appends; others may read meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "guard/resource.h"
#include "guard/tiers.h"

namespace shale::guard {

enum class EventType : uint8_t {
    entered,  ///< a step
    left,     ///< a step
    acting,   ///< an action was begun
    acted,    ///< and has done what it should
    failed,   ///< or not
    undone,   ///< something that was held is not any more
    forecast, ///< it will be full soon
    problem,  ///< of the guard itself: what it cannot read or do
};
[[nodiscard]] std::string_view name_of(EventType type) noexcept;

struct Event {
    Time time;
    EventType type = EventType::problem;
    Kind kind = Kind::bytes;
    std::string subject;      ///< as of Sample
    std::optional<Tier> tier; ///< nullopt: of none
    std::string what;         ///< one sentence, with the figures
    std::vector<std::string> evidence;
    bool undone = false; ///< acting, acted: it is in force no more when this is written (dry run: it never was)
};
/// What is longer is cut, so that a line stays below max_event_bytes.
inline constexpr size_t max_event_text = 1000, max_event_evidence = 20, max_event_bytes = size_t{256} << 10U;

/// One line, without its end: {"time": "2026-11-24T05:16:14.123Z", "time_ms": ..., "type": ..., ...}. Text that is not
/// UTF-8 gets U+FFFD for what is wrong. "time" is for people; "time_ms" is read.
std::string to_line(const Event &event);
/// InvalidArgument: no event, or of a type, kind or tier that this shale does not know.
Result<Event> event_from_line(std::string_view line);

/// The directory ROOT/guard, made (0700) where it is missing.
Result<UniqueFd> open_guard_dir(int root);

/// Not for several threads at once.
class EventLog {
public:
    /// `dir`: that of open_guard_dir(). A file is rotated before it would be larger than `max_bytes`.
    EventLog(UniqueFd dir, uint64_t max_bytes);

    /// After an error the event may be lost; those before it are not.
    Status append(const Event &event);

    struct Page {
        std::vector<Event> events; ///< the oldest first
        uint64_t skipped = 0;      ///< lines among them that are no events: torn, or damaged
    };
    /// The last `most`, of both files; at most the last max_read_bytes of each are looked at. No file is no event.
    [[nodiscard]] Result<Page> read(size_t most) const;
    static constexpr uint64_t max_read_bytes = uint64_t{16} << 20U;

private:
    UniqueFd dir_;
    uint64_t max_bytes_;
};

} // namespace shale::guard
