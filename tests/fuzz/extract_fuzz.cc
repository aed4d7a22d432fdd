// SPDX-License-Identifier: Apache-2.0
// The extractor on any archive: nothing beside the root may appear or change. Checksums are mended first. It writes
// below a temporary directory of each input (TMPDIR; the fuzzer ends without destructors of statics), and syncs
// nothing.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "archive/extract.h"
#include "mend.h"
#include "sys/fs.h"

namespace {

using namespace shale;

struct Base {
    std::filesystem::path path;
    Base() {
        std::string pattern = (std::filesystem::temp_directory_path() / "shale-fuzz-XXXXXX").string();
        if (::mkdtemp(pattern.data()) == nullptr) std::abort();
        std::filesystem::create_directory(pattern + "/host");
        path = pattern;
    }
    ~Base() { (void)sys::remove_tree(AT_FDCWD, path.c_str()); }
    Base(const Base &) = delete;
    Base &operator=(const Base &) = delete;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    const Base base;
    const std::vector<uint8_t> data = fuzz::with_checksums(bytes, size);
    const std::filesystem::path dest = base.path / "dest";
    std::filesystem::create_directory(dest);
    UniqueFd root(::open(dest.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    archive::ExtractOptions options;
    options.owners = archive::OwnerPolicy::squash;
    options.whiteouts = archive::WhiteoutForm::oci_names;
    options.allow_devices = false;
    options.limits.file_bytes = 1U << 20U;
    options.limits.entries = 200;
    archive::TarReader reader(
        [&, done = false]() mutable -> Result<std::span<const std::byte>> {
            if (std::exchange(done, true)) return std::span<const std::byte>{};
            return std::as_bytes(std::span(data));
        },
        options.limits);
    (void)archive::extract_tar(reader, root.get(), options);
    if (!sys::remove_tree(AT_FDCWD, dest.c_str())) std::filesystem::remove_all(dest);
    size_t beside = 0;
    for (const auto &item : std::filesystem::directory_iterator(base.path))
        beside += item.path().filename() == "host" ? 0 : 1;
    if (beside != 0 || !std::filesystem::is_empty(base.path / "host")) std::abort();
    return 0;
}
