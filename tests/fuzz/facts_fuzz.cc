// SPDX-License-Identifier: Apache-2.0
// A facts file of somebody else: no input crashes its reader, a check or a report; what was read is written and read as
// the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "doctor/diagnosis.h"
#include "doctor/report.h"
#include "probe/facts_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const auto facts = shale::probe::facts_from_json({reinterpret_cast<const char *>(data), size});
    if (!facts) return 0;
    const std::string text = shale::probe::to_json(*facts);
    const auto again = shale::probe::facts_from_json(text);
    if (!again || shale::probe::to_json(*again) != text) std::abort();
    const auto diagnosis = shale::doctor::diagnose(*facts);
    (void)shale::doctor::report_text(*facts, diagnosis, true);
    (void)shale::doctor::report_json(*facts, diagnosis);
    (void)shale::doctor::report_html(*facts, diagnosis);
    if (shale::doctor::report_line(diagnosis).size() > 80) std::abort();
    return 0;
}
