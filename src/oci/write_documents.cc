// SPDX-License-Identifier: Apache-2.0
#include <sys/utsname.h>

#include <array>

#include <fmt/format.h>

#include "oci/image.h"
#include "oci/json.h"
#include "oci/write_json.h"

namespace shale::oci {
namespace {

std::string host_architecture() {
    utsname host{};
    if (::uname(&host) != 0) return "amd64";
    const std::string_view machine = host.machine;
    constexpr auto names = std::to_array<std::pair<std::string_view, std::string_view>>(
        {{"x86_64", "amd64"}, {"aarch64", "arm64"}, {"armv7l", "arm"}, {"i686", "386"}, {"loongarch64", "loong64"}});
    for (const auto &[kernel, oci] : names)
        if (machine == kernel) return std::string(oci);
    return std::string(machine);
}

Json descriptor_json(const Descriptor &descriptor) {
    Json out = {{"mediaType", descriptor.media_type}, {"digest", descriptor.digest.text()}, {"size", descriptor.size}};
    if (!descriptor.annotations.empty()) out["annotations"] = descriptor.annotations;
    if (!descriptor.os.empty() || !descriptor.architecture.empty()) {
        Json &platform = out["platform"];
        platform["os"] = descriptor.os;
        platform["architecture"] = descriptor.architecture;
        if (!descriptor.variant.empty()) platform["variant"] = descriptor.variant;
    }
    return out;
}

/// Bytes that are not UTF-8 become U+FFFD rather than an exception.
std::string dump(const Json &json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// An object member to write into, made when absent or null.
Result<Json *> writable(Json &parent, const char *key, Json::value_t type, std::string_view where) {
    Json &member = parent[key];
    if (member.is_null()) member = Json(type);
    if (member.type() != type) return wrong_type(where, key, type == Json::value_t::array ? "a list" : "an object");
    return &member;
}

} // namespace

std::string write_manifest(const Descriptor &config, const std::vector<Descriptor> &layers) {
    Json list = Json::array();
    for (const Descriptor &layer : layers)
        list.push_back(descriptor_json(layer));
    const Json out = {{"schemaVersion", 2},
                      {"mediaType", std::string(media_oci_manifest)},
                      {"config", descriptor_json(config)},
                      {"layers", std::move(list)}};
    return dump(out);
}

std::string write_index(const std::vector<Descriptor> &manifests) {
    Json list = Json::array();
    for (const Descriptor &manifest : manifests)
        list.push_back(descriptor_json(manifest));
    const Json out = {
        {"schemaVersion", 2}, {"mediaType", std::string(media_oci_index)}, {"manifests", std::move(list)}};
    return dump(out);
}

std::string write_docker_list(const std::string &config_name, const std::vector<std::string> &names,
                              const std::vector<std::string> &layer_names) {
    Json image = Json::object();
    image["Config"] = config_name;
    image["RepoTags"] = names.empty() ? Json(nullptr) : Json(names);
    image["Layers"] = Json(layer_names);
    Json out = Json::array();
    out.push_back(std::move(image));
    return dump(out);
}

Result<std::string> write_child_config(std::string_view parent_config_json, const CommitInfo &info) {
    Json document = Json::object();
    if (parent_config_json.empty()) {
        document["architecture"] = host_architecture();
        document["os"] = "linux";
        document["config"] = Json::object();
    } else {
        // Checked first as a config, so that a child is never made of a document that would not be accepted itself.
        TRY(parse_config(parent_config_json));
        document = TRY(parse_object(parent_config_json, "config"));
    }
    if (!info.created.empty()) document["created"] = info.created;
    if (!info.author.empty()) document["author"] = info.author;

    Json *rootfs = TRY(writable(document, "rootfs", Json::value_t::object, "config:"));
    (*rootfs)["type"] = "layers";
    Json *diff_ids = TRY(writable(*rootfs, "diff_ids", Json::value_t::array, "config: rootfs"));
    diff_ids->push_back(info.diff_id.text());

    Json row = Json::object();
    if (!info.created.empty()) row["created"] = info.created;
    if (!info.created_by.empty()) row["created_by"] = info.created_by;
    if (!info.comment.empty()) row["comment"] = info.comment;
    if (!info.author.empty()) row["author"] = info.author;
    Json *history = TRY(writable(document, "history", Json::value_t::array, "config:"));
    history->push_back(std::move(row));

    if (!info.cmd.empty()) {
        Json *run = TRY(writable(document, "config", Json::value_t::object, "config:"));
        (*run)["Cmd"] = info.cmd;
    }
    std::string out = dump(document);
    if (out.size() > max_document_bytes)
        return fail(Errc::ResourceExhausted,
                    fmt::format("child config would have {} bytes, more than {}", out.size(), max_document_bytes));
    return out;
}

} // namespace shale::oci
