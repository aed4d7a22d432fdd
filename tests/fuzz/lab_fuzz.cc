// SPDX-License-Identifier: Apache-2.0
// Reports of the lab, also of other machines. What was read is written, must be read again as the same, and makes a
// page.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "lab/report.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace shale;
    const auto accounts = lab::accounts_from_json(std::string_view(reinterpret_cast<const char *>(data), size));
    if (!accounts) return 0;
    const std::string text = lab::to_json(*accounts);
    const auto again = lab::accounts_from_json(text);
    if (!again || lab::to_json(*again) != text) std::abort();
    if (lab::report_html(*accounts).find("<script") != std::string::npos) std::abort();
    return 0;
}
