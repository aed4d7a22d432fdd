// SPDX-License-Identifier: Apache-2.0
// The image's /etc/passwd and /etc/group, and the host's /etc/subuid: three texts held apart by NUL bytes, in front of
// them the wanted user. No input crashes, ids are those that the kernel takes.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "cli/runtime.h"
#include "cli/userns.h"
#include "sys/fs.h"

namespace {

using namespace shale;

struct Root {
    std::string path = (std::filesystem::temp_directory_path() / "shale-fuzz-XXXXXX").string();
    UniqueFd dir, passwd, group;
    Root() {
        if (::mkdtemp(path.data()) == nullptr) std::abort();
        std::filesystem::create_directory(path + "/etc");
        const auto open = [](const std::string &name, int flags) {
            return UniqueFd(::open(name.c_str(), flags | O_CLOEXEC, 0600));
        };
        dir = open(path, O_RDONLY | O_DIRECTORY);
        passwd = open(path + "/etc/passwd", O_RDWR | O_CREAT);
        group = open(path + "/etc/group", O_RDWR | O_CREAT);
    }
    ~Root() { (void)sys::remove_tree(AT_FDCWD, path.c_str()); }
    Root(const Root &) = delete;
    Root &operator=(const Root &) = delete;
};

void fill(const UniqueFd &file, std::string_view text) {
    if (::ftruncate(file.get(), 0) != 0 ||
        ::pwrite(file.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
        std::abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const Root root;
    std::string_view text(reinterpret_cast<const char *>(data), size);
    std::array<std::string_view, 4> pieces;
    for (std::string_view &piece : pieces) {
        const size_t end = text.find('\0');
        piece = text.substr(0, end);
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
    fill(root.passwd, pieces[1]);
    fill(root.group, pieces[2]);
    const auto user = cli::find_user(root.dir.get(), pieces[0]);
    if (user) {
        constexpr uint32_t most = 2'147'483'647;
        if (user->uid > most || user->gid > most || user->groups.size() > 1000 || user->home.empty()) std::abort();
    }
    const auto range = cli::find_sub_range(pieces[3], pieces[0], 1000);
    if (range.count == 0 && range.start != 0) std::abort();
    return 0;
}
