// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "store/store.h"

namespace shale::cli {

/// Progress on standard error: on a terminal one line that is rewritten, above it a line per finished layer; in a log
/// only the latter. Nothing when `enabled` is false.
class ProgressLine {
public:
    explicit ProgressLine(bool enabled);
    ~ProgressLine();
    ProgressLine(const ProgressLine &) = delete;
    ProgressLine &operator=(const ProgressLine &) = delete;
    [[nodiscard]] store::Progress callback();

private:
    void on_event(const store::ProgressEvent &event);
    void finished(const std::string &text);
    void redraw();
    void clear();

    std::mutex mutex_;
    bool enabled_, terminal_;
    bool drawn_ = false;
    int64_t last_draw_ms_ = 0;
    std::map<std::string, std::pair<uint64_t, uint64_t>> active_;
};

} // namespace shale::cli
