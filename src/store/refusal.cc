// SPDX-License-Identifier: Apache-2.0
#include "store/refusal.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <system_error>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/random.h"

namespace shale::store {
namespace {

constexpr size_t most_text = 2000; ///< of the 4095 bytes that a symlink holds

} // namespace

Status refuse_creates(int root, int64_t now_s, std::chrono::seconds how_long, std::string_view why) {
    const int64_t until = now_s + std::min(how_long, longest_refusal).count();
    const std::string fresh = fmt::format("tmp/refusal-{}", TRY(sys::random_hex(8)));
    TRY(sys::make_symlink(fmt::format("{} {}", until, why.substr(0, most_text)), root, fresh.c_str()));
    const auto done = sys::rename_at(root, fresh.c_str(), root, refusal_name);
    if (!done) (void)sys::unlink_at(root, fresh.c_str());
    return done;
}

Status allow_creates(int root) {
    const auto done = sys::unlink_at(root, refusal_name);
    if (!done && done.error().sys_errno() != ENOENT) return done;
    return {};
}

Result<std::optional<std::string>> why_refused(int root, int64_t now_s) {
    const auto text = sys::read_link(root, refusal_name);
    if (!text && text.error().sys_errno() == ENOENT) return std::nullopt;
    if (!text) return std::unexpected(text.error());
    int64_t until = 0;
    const char *const end = text->data() + text->size();
    const auto [rest, error] = std::from_chars(text->data(), end, until);
    // What is no refusal refuses nothing: it must not keep a store from working.
    if (error != std::errc() || rest == end || *rest != ' ') return std::nullopt;
    if (until <= now_s || until > now_s + longest_refusal.count()) return std::nullopt;
    return std::string(rest + 1, end);
}

Status creates_allowed(int root, int64_t now_s) {
    const auto why = TRY(why_refused(root, now_s));
    if (!why) return {};
    return fail(
        Errc::ResourceExhausted,
        fmt::format("new images, containers and snapshots are refused for now: {}. `shale container rm`, `shale "
                    "image rm` and `shale gc` make room; shale's guard takes the refusal back when there is",
                    *why));
}

} // namespace shale::store
