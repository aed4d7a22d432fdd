// SPDX-License-Identifier: Apache-2.0
// Listening unix sockets: never open to more than their mode allows, never in the place of one that answers.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace shale::sys {

class UnixListener {
public:
    /// A non-blocking SOCK_STREAM listener at `path` (absolute, at most 107 bytes) with this mode. A socket there that
    /// nobody listens at is replaced. FailedPrecondition: somebody does, or what is there is no socket.
    static Result<UnixListener> listen(const std::string &path, mode_t mode);
    /// The listener at `path` that the service manager made and handed over (sd_listen_fds(3)): clients that come while
    /// nobody serves wait in it. Its name stays when this ends. Nullopt: none was handed over for that path.
    static Result<std::optional<UnixListener>> inherit(const std::string &path);
    UnixListener(UnixListener &&) = default;
    UnixListener &operator=(UnixListener &&) = delete;
    /// Takes the name away, unless it is another's by now (or always was).
    ~UnixListener();

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] const std::string &path() const noexcept { return path_; }

private:
    UnixListener() = default;
    UniqueFd fd_;
    std::string path_;
    dev_t device_ = 0;
    ino_t inode_ = 0;
};

/// One connection, close-on-exec and blocking; an empty descriptor when none waits (any more).
Result<UniqueFd> accept_one(int listener);

} // namespace shale::sys
