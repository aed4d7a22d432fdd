// SPDX-License-Identifier: Apache-2.0
// The extractor on any archive: nothing beside the root may appear or change. Checksums are mended first, else
// nearly every input would end at its first header.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "archive/extract.h"
#include "sys/fs.h"

namespace {

std::filesystem::path make_base() {
    std::string pattern = (std::filesystem::temp_directory_path() / "shale-fuzz-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    std::filesystem::create_directory(pattern + "/host");
    return pattern;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    using namespace shale;
    static const std::filesystem::path base = make_base();
    std::vector<uint8_t> data(bytes, bytes + size);
    for (size_t at = 0; at + 512 <= data.size(); at += 512) {
        if (data[at] == 0) continue;
        unsigned sum = 0;
        for (size_t i = 0; i < 512; ++i)
            sum += i >= 148 && i < 156 ? ' ' : data[at + i];
        std::snprintf(reinterpret_cast<char *>(data.data() + at + 148), 8, "%06o", sum);
        data[at + 155] = ' ';
    }
    std::filesystem::create_directory(base / "dest");
    UniqueFd root(::open((base / "dest").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
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
    if (!sys::remove_tree(AT_FDCWD, (base / "dest").c_str())) std::filesystem::remove_all(base / "dest");
    size_t beside = 0;
    for (const auto &item : std::filesystem::directory_iterator(base))
        beside += item.path().filename() == "host" ? 0 : 1;
    if (beside != 0 || !std::filesystem::is_empty(base / "host")) std::abort();
    return 0;
}
