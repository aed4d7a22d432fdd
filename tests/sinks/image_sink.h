// SPDX-License-Identifier: Apache-2.0
// The tests of extraction (src/archive/extract_test.cc) over an EROFS image in place of a directory: the rules must be
// the same. The image is mounted where the tests look.
#pragma once

#include <fcntl.h>

#include <string>

#include "archive/extract.h"
#include "drivers/erofs/erofs.h"
#include "support/world.h"

namespace shale::archive {

class Target {
public:
    static std::string cannot_test() { return test::cannot_mount(); }
    [[nodiscard]] static bool is_directory() { return false; }

    Result<ExtractReport> unpack(TarReader &tar, const std::string &dest, const ExtractOptions &options) {
        const std::string image = dest + "-image"; // beside the tests' own files, until it is mounted
        const ScopeGuard unlink([&] { (void)sys::unlink_at(AT_FDCWD, image.c_str()); });
        drivers::erofs::ImageTree tree(TRY(sys::open_at(AT_FDCWD, image.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600)));
        auto report = TRY(extract_tar(tar, tree, options));
        TRY(tree.finish());
        TRY(drivers::erofs::mount_image(image, dest, std::nullopt));
        mounted_ = dest;
        return report;
    }
    void clear() {
        if (!mounted_.empty()) (void)sys::unmount(mounted_, sys::umount_detach);
        mounted_.clear();
    }

private:
    std::string mounted_;
};

} // namespace shale::archive
