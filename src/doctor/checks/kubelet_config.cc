// SPDX-License-Identifier: Apache-2.0
// Of the YAML only top-level scalars and maps of scalars are looked at, which is all that a KubeletConfiguration has of
// thresholds (kubernetes, staging/src/k8s.io/kubelet/config/v1beta1/types.go); other lines are passed over. A file that
// uses anchors or several documents for these few keys is not understood, and that is said.
#include "doctor/checks/kubelet_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "doctor/checks/common.h"
#include "oci/json.h"

namespace shale::doctor::checks {
namespace {

constexpr size_t most_lines = 100'000;
constexpr std::string_view blanks = " \t\r";

std::string_view trimmed(std::string_view text) {
    const size_t begin = text.find_first_not_of(blanks);
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

/// Without a comment and quotes.
std::string scalar(std::string_view text) {
    text = trimmed(text);
    if (!text.empty() && (text[0] == '"' || text[0] == '\'')) {
        const size_t end = text.find(text[0], 1);
        return std::string(text.substr(1, end == std::string_view::npos ? end : end - 1));
    }
    if (const size_t comment = text.find(" #"); comment != std::string_view::npos) text = text.substr(0, comment);
    return text.starts_with('#') ? std::string() : std::string(trimmed(text));
}

std::optional<int> whole_number(std::string_view text) {
    int out = 0;
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (bad != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
    return out;
}

/// "imagefs.available<15%,nodefs.available<10%" (a flag), or "{a: b, c: d}" (YAML on one line).
std::map<std::string, std::string> pairs_of(std::string_view text, char between) {
    std::map<std::string, std::string> out;
    while (!text.empty()) {
        const size_t comma = std::min(text.find(','), text.size());
        const std::string_view pair = text.substr(0, comma);
        text.remove_prefix(std::min(comma + 1, text.size()));
        const size_t at = pair.find(between);
        if (at != std::string_view::npos) out[scalar(pair.substr(0, at))] = scalar(pair.substr(at + 1));
    }
    return out;
}

void set_scalar(std::string_view key, const std::string &value, KubeletConfig &out) {
    if (key == "imageGCHighThresholdPercent") out.high_percent = whole_number(value);
    if (key == "imageGCLowThresholdPercent") out.low_percent = whole_number(value);
    if (key == "mergeDefaultEvictionSettings") out.merges_defaults = value == "true";
}

std::map<std::string, std::string> *map_named(std::string_view key, KubeletConfig &out) {
    if (key == "evictionHard") {
        out.has_hard = true;
        return &out.hard;
    }
    return key == "evictionSoft" ? &out.soft : nullptr;
}

/// A top-level line; returns the map that the indented ones below belong to.
std::map<std::string, std::string> *read_top(std::string_view line, KubeletConfig &out) {
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return nullptr;
    const std::string key = scalar(line.substr(0, colon));
    const std::string value = scalar(line.substr(colon + 1));
    auto *map = map_named(key, out);
    if (map == nullptr) {
        set_scalar(key, value, out);
        return nullptr;
    }
    if (value.starts_with('{') && value.ends_with('}')) {
        *map = pairs_of(std::string_view(value).substr(1, value.size() - 2), ':');
        return nullptr;
    }
    if (!value.empty() && value != "null" && value != "~")
        out.fault = fmt::format("{} is written in a way that is not understood here: {}", key, shown(value));
    return map;
}

void read_yaml(std::string_view text, KubeletConfig &out) {
    std::map<std::string, std::string> *map = nullptr;
    for (size_t lines = 0; !text.empty() && lines < most_lines; ++lines) {
        const size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        const std::string_view content = trimmed(line);
        if (content.empty() || content[0] == '#') continue;
        if (blanks.contains(line[0])) {
            const size_t colon = content.find(':');
            if (map != nullptr && colon != std::string_view::npos)
                (*map)[scalar(content.substr(0, colon))] = scalar(content.substr(colon + 1));
        } else {
            map = read_top(line, out);
        }
    }
}

void read_json(std::string_view text, std::string_view path, KubeletConfig &out) {
    const auto document = oci::parse_object(text, path);
    if (!document) {
        out.fault = document.error().text();
        return;
    }
    for (auto it = document->begin(); it != document->end(); ++it) {
        const oci::Json &value = it.value();
        if (auto *map = map_named(it.key(), out); map != nullptr && value.is_object()) {
            for (auto member = value.begin(); member != value.end(); ++member)
                if (member->is_string()) (*map)[member.key()] = member->get<std::string>();
        } else if (value.is_number_integer() || value.is_boolean()) {
            set_scalar(it.key(), value.dump(), out);
        }
    }
}

void read_flag(std::string_view name, std::string_view value, KubeletConfig &out) {
    if (name == "image-gc-high-threshold") out.high_percent = whole_number(value);
    if (name == "image-gc-low-threshold") out.low_percent = whole_number(value);
    if (name == "root-dir") out.root = value;
    if (name == "eviction-hard") {
        out.hard = pairs_of(value, '<');
        out.has_hard = true;
    }
    if (name == "eviction-soft") out.soft = pairs_of(value, '<');
}

/// "--name=value", "--name value".
void read_flags(const probe::Process &process, KubeletConfig &out) {
    const auto &arguments = process.arguments;
    for (size_t i = 1; i < arguments.size(); ++i) {
        const std::string_view argument = arguments[i];
        if (!argument.starts_with("--")) continue;
        const size_t equals = argument.find('=');
        if (equals != std::string_view::npos)
            read_flag(argument.substr(2, equals - 2), argument.substr(equals + 1), out);
        else if (i + 1 < arguments.size() && !arguments[i + 1].starts_with("--"))
            read_flag(argument.substr(2), arguments[++i], out);
    }
}

/// 0: no such suffix.
double factor_of(std::string_view suffix) {
    constexpr std::string_view letters = "kMGTPE";
    if (suffix.empty()) return 1;
    if (suffix == "Ki") return 1024;
    const size_t at = letters.find(suffix[0]);
    if (at == std::string_view::npos || suffix.size() > 2 || (suffix.size() == 2 && suffix[1] != 'i')) return 0;
    return std::pow(suffix.size() == 2 ? 1024.0 : 1000.0, static_cast<double>(at + 1));
}

} // namespace

std::optional<uint64_t> kubelet_quantity(std::string_view text, uint64_t whole) {
    double value = 0;
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (bad != std::errc() || !std::isfinite(value) || value < 0) return std::nullopt;
    const std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
    const double factor = suffix == "%" ? static_cast<double>(whole) / 100 : factor_of(suffix);
    if (factor == 0 && suffix != "%") return std::nullopt;
    const double out = value * factor;
    constexpr double most = 9e18;
    return out > most ? static_cast<uint64_t>(most) : static_cast<uint64_t>(out);
}

std::optional<KubeletConfig> kubelet_config(const probe::Facts &facts) {
    const auto *file = config_file(facts, "kubelet config");
    const auto process = std::ranges::find(facts.processes, "kubelet", &probe::Process::command);
    if (file == nullptr && process == facts.processes.end()) return std::nullopt;
    KubeletConfig out;
    if (file != nullptr) {
        out.origin = file->path;
        const size_t begin = file->text.find_first_not_of(" \t\r\n");
        if (begin != std::string::npos && file->text[begin] == '{')
            read_json(file->text, file->path, out);
        else
            read_yaml(file->text, out);
    } else {
        out.origin = process_name(process->pid, process->command);
    }
    if (process != facts.processes.end()) read_flags(*process, out);
    return out;
}

} // namespace shale::doctor::checks
