// SPDX-License-Identifier: Apache-2.0
// What the verbs about a host share: the host, its facts, and a line on the terminal while they are gathered.
#pragma once

#include "cli/context.h"
#include "doctor/gather.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::cli {

struct HostView {
    probe::Host host;
    probe::Facts facts;
};

/// Says on standard error what is being read, when that is a terminal.
class GatherLine {
public:
    explicit GatherLine(bool enabled);
    ~GatherLine();
    GatherLine(const GatherLine &) = delete;
    GatherLine &operator=(const GatherLine &) = delete;
    void show(std::string_view what, uint64_t inodes);

private:
    bool enabled_, drawn_ = false;
};

Result<HostView> look_at_host(const Context &context, const HostArgs &args);

} // namespace shale::cli
