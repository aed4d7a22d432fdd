// SPDX-License-Identifier: Apache-2.0
// Configuration and command lines. The first byte says how the rest is read: a TOML file, Docker's daemon.json, a
// command for an image, a size, or words (one a line). No input crashes, and what is refused says why.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"
#include "cli/args.h"
#include "cli/options.h"
#include "drivers/driver.h"

namespace {

using namespace shale;

template <class T> void said_why(const Result<T> &result) {
    if (!result && result.error().text().empty()) std::abort();
}

void settings_of(const Result<cli::Source> &source) {
    said_why(source);
    if (!source) return;
    const std::vector<cli::Source> sources{*source};
    const auto settings = cli::resolve(sources, "/var/lib/shale", drivers::registry());
    said_why(settings);
    if (settings && (settings->root.empty() || settings->root[0] != '/' || settings->jobs > 1024)) std::abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    std::string_view text(reinterpret_cast<const char *>(data), size);
    const char kind = text[0];
    text.remove_prefix(1);
    switch (kind) {
    case 't':
        settings_of(cli::parse_toml(text, "shale.toml"));
        break;
    case 'j':
        settings_of(cli::parse_daemon_json(text, "daemon.json"));
        break;
    case 'c': {
        const auto command = cli::parse_command(text);
        said_why(command);
        if (command && command->empty()) std::abort();
        break;
    }
    case 's':
        said_why(parse_bytes(text));
        break;
    case 'w': {
        std::vector<std::string> words;
        for (std::string_view rest = text; !rest.empty() && words.size() < 100;) {
            const size_t end = rest.find('\n');
            words.emplace_back(rest.substr(0, end));
            rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
        }
        const auto line = cli::parse_command_line(words);
        said_why(line);
        break;
    }
    default:
        return -1;
    }
    return 0;
}
