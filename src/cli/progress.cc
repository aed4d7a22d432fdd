// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <string_view>

#include "base/units.h"
#include "cli/table.h"

namespace shale::cli {
namespace {

int64_t now_ms() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

void write_stderr(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stderr);
}

} // namespace

ProgressLine::ProgressLine(bool enabled) : enabled_(enabled), terminal_(isatty(STDERR_FILENO) != 0) {}

ProgressLine::~ProgressLine() {
    clear();
}

store::Progress ProgressLine::callback() {
    if (!enabled_) return {};
    return [this](const store::ProgressEvent &event) { on_event(event); };
}

void ProgressLine::clear() {
    if (drawn_) write_stderr("\r\x1b[K");
    drawn_ = false;
}

void ProgressLine::finished(const std::string &text) {
    clear();
    write_stderr(printable(text) + "\n");
}

void ProgressLine::redraw() {
    if (!terminal_) return;
    const int64_t now = now_ms();
    if (now - last_draw_ms_ < 100) return; // ten times a second is enough for eyes
    last_draw_ms_ = now;
    std::string line;
    for (const auto &[item, bytes] : active_) {
        if (!line.empty()) line += "  ";
        line += bytes.second == 0 ? fmt::format("{} {}", item, format_bytes(bytes.first))
                                  : fmt::format("{} {}%", item, bytes.first * 100 / bytes.second);
    }
    winsize size{};
    const size_t width = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1U : 79U;
    write_stderr("\r\x1b[K" + printable(line).substr(0, width));
    drawn_ = true;
}

void ProgressLine::on_event(const store::ProgressEvent &event) {
    const std::lock_guard lock(mutex_);
    using Kind = store::ProgressEvent::Kind;
    switch (event.kind) {
    case Kind::layer_begin:
    case Kind::layer_bytes:
        active_[event.item] = {event.done, event.total};
        redraw();
        return;
    case Kind::layer_done:
    case Kind::layer_shared:
        active_.erase(event.item);
        finished(event.kind == Kind::layer_done ? fmt::format("{} {} done", event.item, format_bytes(event.total))
                                                : fmt::format("{} already there", event.item));
        redraw();
        return;
    case Kind::note:
        if (terminal_) {
            active_ = {{event.item, {0, 0}}};
            redraw();
            active_.clear();
        }
        return;
    }
}

} // namespace shale::cli
