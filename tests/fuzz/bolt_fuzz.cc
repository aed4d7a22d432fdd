// SPDX-License-Identifier: Apache-2.0
// bbolt databases: no input crashes or takes long. What a walk tells a search finds too, at the same place, in order;
// all keys and values together are no larger than the file. The first byte says how much is made right beforehand, else
// few inputs would come as far as a second page: meta pages (the root stays the input's), and the pages' own numbers.
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "probe/bolt.h"
#include "probe/bolt_test_writer.h"

namespace {

using namespace shale;

void require(bool good) {
    if (!good) std::abort();
}

void mend(std::string &file, unsigned how) {
    const uint32_t page_bytes = 1024U << (how & 1U);
    const uint64_t pages = file.size() / page_bytes;
    if (pages < 4) return;
    for (const size_t page : {size_t{0}, size_t{page_bytes}}) {
        if ((how & 4U) != 0 && page == 0) continue; // the first one stays as it is
        probe::bolt_writer::poke<uint32_t>(file, page + 16, 0xED0CDAED);
        probe::bolt_writer::poke<uint32_t>(file, page + 20, 2);
        probe::bolt_writer::poke(file, page + 24, page_bytes);
        if ((how & 8U) == 0) probe::bolt_writer::poke(file, page + 56, pages);
        probe::bolt_writer::seal_meta(file, page);
    }
    if ((how & 2U) != 0) return;
    for (uint64_t id = 2; id < pages; ++id)
        probe::bolt_writer::poke(file, id * page_bytes, id);
}

struct Walk {
    size_t bytes = 0;

    Status all(const probe::BoltBucket &bucket) {
        std::optional<std::string> last;
        TRY(bucket.for_each([&](std::string_view key, std::optional<std::string_view> value) -> Status {
            require(!last || *last < key);
            last = key;
            const auto found = bucket.get(key);
            require(found && found->has_value() == value.has_value());
            require(!value || ((*found)->data() == value->data() && (*found)->size() == value->size()));
            const auto nested = bucket.bucket(key); // what is in the value may be damaged
            require(nested ? nested->has_value() != value.has_value() : !value);
            bytes += key.size() + (value ? value->size() : 0);
            return {};
        }));
        return bucket.for_each_bucket([&](std::string_view, const probe::BoltBucket &nested) {
            (void)all(nested); // one that is damaged says nothing about the next
            return Status{};
        });
    }
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    std::string bytes(reinterpret_cast<const char *>(data + 1), size - 1);
    mend(bytes, data[0]);
    const auto file = probe::BoltFile::from_bytes(bytes);
    if (!file) {
        require(!file.error().text().empty());
        return 0;
    }
    Walk walk;
    const auto walked = walk.all(file->root());
    require(walked || walked.error().code() == Errc::DataLoss);
    require(walk.bytes <= bytes.size());
    return 0;
}
