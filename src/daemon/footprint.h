// SPDX-License-Identifier: Apache-2.0
// What a daemon that waits for calls has resident.
#pragma once

namespace shale::daemon {

/// To be called once all is up: the start has run through code that is not needed again (static initialisers of the
/// libraries, option parsing, probes), and has freed what it had on the heap. The pages of program text and constants
/// are unmapped (madvise(2), MADV_DONTNEED: of a file mapping that nobody has written they come back from the page
/// cache, as they are needed), and the free heap is given back (malloc_trim(3)).
void forget_the_start() noexcept;

} // namespace shale::daemon
