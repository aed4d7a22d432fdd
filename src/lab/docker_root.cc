// SPDX-License-Identifier: Apache-2.0
#include "lab/docker_root.h"

#include <fmt/format.h>

#include <cerrno>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/digest.h"
#include "lab/world.h"

namespace shale::lab {

Status write_docker_image(const std::string &root, const std::string &name, const std::string &cache_id) {
    const Digest layer = Digest::of(std::string_view(cache_id)); // nobody unpacks it
    const std::string records = root + "/image/overlay2", chain = records + "/layerdb/sha256/" + layer.hex();
    const std::string config =
        nlohmann::json{{"architecture", "amd64"},
                       {"os", "linux"},
                       {"rootfs", {{"type", "layers"}, {"diff_ids", nlohmann::json::array({layer.text()})}}}}
            .dump();
    const Digest image = Digest::of(std::string_view(config));
    TRY(write_file(records + "/imagedb/content/sha256/" + image.hex(), config));
    TRY(write_file(
        records + "/repositories.json",
        nlohmann::json{{"Repositories", {{name.substr(0, name.find(':')), {{name, image.text()}}}}}}.dump()));
    TRY(write_file(chain + "/diff", layer.text()));
    TRY(write_file(chain + "/cache-id", cache_id));
    TRY(write_file(chain + "/size", "1048576"));
    const std::string link = cache_id.substr(0, 26);
    TRY(write_file(root + "/overlay2/" + cache_id + "/link", link));
    std::error_code error;
    for (const auto *directory : {"/overlay2/l", "/containers"})
        std::filesystem::create_directories(root + directory, error);
    std::filesystem::create_directory_symlink("../" + cache_id + "/diff", root + "/overlay2/l/" + link, error);
    if (error) return fail_errno(error.value(), fmt::format("link in {:?}", root));
    return {};
}

} // namespace shale::lab
