// SPDX-License-Identifier: Apache-2.0
// The only file of this room that includes a JSON library: what is read as JSON.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cli/options.h"

namespace shale::cli {
namespace {

using Document = nlohmann::json;

bool too_deep(std::string_view text) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        if (in_string) {
            if (text[i] == '\\')
                ++i;
            else if (text[i] == '"')
                in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == '[' || text[i] == '{') {
            if (++depth > 64) return true;
        } else if (text[i] == ']' || text[i] == '}') {
            --depth;
        }
    }
    return false;
}

} // namespace

Result<Source> parse_daemon_json(std::string_view text, const std::string &file) {
    Source out;
    out.name = file;
    auto bad = [&](std::string_view what) { return fail(Errc::InvalidArgument, fmt::format("{}: {}", file, what)); };
    if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return out; // dockerd takes an empty file too
    if (too_deep(text)) return bad("nested more than 64 deep");
    const Document document = Document::parse(text, nullptr, false);
    if (document.is_discarded()) return bad("is not JSON");
    if (!document.is_object()) return bad("must hold one JSON object");
    if (document.contains("graph"))
        return bad(
            "\"graph\" was removed from Docker (23.0); its successor is \"data-root\"; shale's root is set by --root");
    if (document.contains("data-root"))
        out.notes.push_back(file + ": data-root is Docker's own store and is not taken; shale's root is set by --root");
    if (const auto driver = document.find("storage-driver"); driver != document.end()) {
        if (!driver->is_string()) return bad("\"storage-driver\" must be a string");
        if (!driver->get<std::string>().empty()) out.driver = driver->get<std::string>();
    }
    if (const auto options = document.find("storage-opts"); options != document.end()) {
        if (!options->is_array()) return bad("\"storage-opts\" must be an array of strings");
        for (const Document &option : *options) {
            if (!option.is_string()) return bad("\"storage-opts\" must be an array of strings");
            out.storage_opts.push_back({option.get<std::string>(), file + ": storage-opts", false});
        }
    }
    return out;
}

Result<std::vector<std::string>> parse_command(std::string_view text) {
    if (!text.starts_with('[')) return std::vector<std::string>{"/bin/sh", "-c", std::string(text)};
    const Document document =
        too_deep(text) ? Document(Document::value_t::discarded) : Document::parse(text, nullptr, false);
    std::vector<std::string> out;
    if (document.is_array())
        for (const Document &word : document) {
            if (!word.is_string()) break;
            out.push_back(word.get<std::string>());
        }
    if (!document.is_array() || out.size() != document.size() || out.empty())
        return fail(Errc::InvalidArgument,
                    fmt::format("--cmd {} starts like a JSON array but is not one of strings", text));
    return out;
}

} // namespace shale::cli
