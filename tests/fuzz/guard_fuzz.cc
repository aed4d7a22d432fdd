// SPDX-License-Identifier: Apache-2.0
// What the guard reads back: [guard] of a configuration, a line of its events, the state of a watermark. The first byte
// chooses. What was read is written, and must be read again as the same.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include <nlohmann/json.hpp>

#include "guard/config.h"
#include "guard/event.h"
#include "guard/watermark.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace shale;
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char *>(data) + 1, size - 1);
    switch (data[0] % 3) {
    case 0:
        if (const auto config = guard::parse_config(text, "shale.toml"))
            for (const auto &[kind, name] : guard::kind_names)
                if (!guard::check(guard::plan(*config, kind))) std::abort();
        break;
    case 1:
        if (const auto event = guard::event_from_line(text)) {
            const std::string line = guard::to_line(*event);
            const auto again = guard::event_from_line(line);
            if (!again || guard::to_line(*again) != line) std::abort();
        }
        break;
    default: {
        const auto marks = guard::plan(guard::Config(), guard::Kind::bytes);
        const auto state = guard::Watermark::from_json(nlohmann::json::parse(text, nullptr, false), marks);
        if (!state) break;
        const auto json = state->to_json();
        const auto again = guard::Watermark::from_json(json, marks);
        if (!again || again->to_json() != json) std::abort();
        break;
    }
    }
    return 0;
}
