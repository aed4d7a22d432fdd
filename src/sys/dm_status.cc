// SPDX-License-Identifier: Apache-2.0
#include "sys/dm_status.h"

#include <charconv>
#include <system_error>
#include <vector>

#include <fmt/format.h>

namespace shale::sys {
namespace {

constexpr size_t longest = 512; ///< of a line that is looked at; the kernel's have about 100 bytes

std::unexpected<Error> not_one(std::string_view text) {
    return fail(Errc::InvalidArgument, fmt::format("not a status of a thin pool: {:?}{}", text.substr(0, 200),
                                                   text.size() > 200 ? "..." : ""));
}

std::vector<std::string_view> words_of(std::string_view text) {
    std::vector<std::string_view> out;
    while (true) {
        const size_t begin = text.find_first_not_of(' ');
        if (begin == std::string_view::npos) return out;
        text.remove_prefix(begin);
        const size_t end = text.find(' ');
        out.push_back(text.substr(0, end));
        if (end == std::string_view::npos) return out;
        text.remove_prefix(end);
    }
}

bool number(std::string_view text, uint64_t &out) {
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), out);
    return bad == std::errc() && end == text.data() + text.size() && !text.empty();
}

/// "used/total", used <= total.
bool fraction(std::string_view text, uint64_t &used, uint64_t &total) {
    const size_t slash = text.find('/');
    return slash != std::string_view::npos && number(text.substr(0, slash), used) &&
           number(text.substr(slash + 1), total) && used <= total;
}

/// "-" or a number.
bool maybe_number(std::string_view text, std::optional<uint64_t> &out) {
    if (text == "-") return true;
    uint64_t value = 0;
    if (!number(text, value)) return false;
    out = value;
    return true;
}

bool mode_of(std::string_view text, PoolMode &out) {
    if (text == "rw")
        out = PoolMode::read_write;
    else if (text == "ro")
        out = PoolMode::read_only;
    else if (text == "out_of_data_space")
        out = PoolMode::out_of_data_space;
    else
        return false;
    return true;
}

/// A word behind the mode. The kernel's order has grown over time, so each is known by itself.
bool feature(std::string_view text, ThinPoolStatus &out) {
    using Discard = ThinPoolStatus::Discard;
    if (text == "ignore_discard")
        out.discard = Discard::ignored;
    else if (text == "no_discard_passdown")
        out.discard = Discard::not_passed_down;
    else if (text == "discard_passdown")
        out.discard = Discard::passed_down;
    else if (text == "error_if_no_space")
        out.error_if_no_space = true;
    else if (text == "queue_if_no_space")
        out.error_if_no_space = false;
    else if (text == "needs_check")
        out.needs_check = true;
    else if (text != "-")
        return false;
    return true;
}

} // namespace

Result<ThinPoolStatus> parse_thin_pool_status(std::string_view text) {
    ThinPoolStatus out;
    if (text.size() > longest) return not_one(text);
    const auto words = words_of(text);
    if (words.size() == 1 && (words[0] == "Fail" || words[0] == "Error")) {
        out.mode = words[0] == "Fail" ? PoolMode::failed : PoolMode::error;
        return out;
    }
    if (words.size() < 5 || !number(words[0], out.transaction) ||
        !fraction(words[1], out.used_metadata_blocks, out.total_metadata_blocks) ||
        !fraction(words[2], out.used_data_blocks, out.total_data_blocks) || !maybe_number(words[3], out.held_root) ||
        !mode_of(words[4], out.mode))
        return not_one(text);
    for (size_t i = 5; i < words.size(); ++i) {
        uint64_t low_water = 0;
        if (i + 1 == words.size() && number(words[i], low_water)) {
            out.metadata_low_water_blocks = low_water;
        } else if (!feature(words[i], out)) {
            return not_one(text);
        }
    }
    return out;
}

} // namespace shale::sys
