// SPDX-License-Identifier: Apache-2.0
// Filters, one a line: none crashes or takes long; what is refused says why; names() and matches() agree.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "frontends/filter.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace shale;
    std::vector<std::string> filters;
    for (std::string_view rest(reinterpret_cast<const char *>(data), size); !rest.empty();) {
        const size_t end = std::min(rest.find('\n'), rest.size());
        filters.emplace_back(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    const auto filter = frontends::Filter::parse(filters);
    if (!filter) {
        if (filter.error().code() != Errc::InvalidArgument || filter.error().text().empty()) std::abort();
        return 0;
    }
    static const std::string labels = store::pack_labels({{"l", "2"}, {"containerd.io/snapshot.ref", "sha256:0123"}});
    const store::SnapshotRow row{"default/1/sha256:0123 name", "base", store::SnapshotKind::committed, 0, 0,
                                 store::PackedLabels(labels)};
    const bool matches = filter->matches(row);
    const auto names = filter->names();
    if (matches && names && !std::ranges::binary_search(*names, row.name)) std::abort();
    return 0;
}
