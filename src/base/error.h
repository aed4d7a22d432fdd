// SPDX-License-Identifier: Apache-2.0
// The one error type of shale. Every fallible call returns Result<T>; no exception crosses a module.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shale {

/// Error classes: the canonical gRPC set, by number (google.rpc.Code), so that every frontend
/// translates through errc_info() and nowhere else.
/// Unavailable = retry this call; Aborted = retry at a higher level;
/// FailedPrecondition = do not retry until the state is mended.
enum class Errc : uint8_t {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
};

/// What a class of error means to each outside world.
struct ErrcInfo {
    Errc code;
    std::string_view name; ///< as printed, e.g. "not found"
    int http_status;
    int exit_code; ///< of the command line
};

[[nodiscard]] const ErrcInfo &errc_info(Errc code) noexcept;

/// The class that fits an errno best (ENOENT -> NotFound, ENOSPC/EDQUOT -> ResourceExhausted, ...).
[[nodiscard]] Errc errc_from_errno(int sys_errno) noexcept;

/// An error: class, errno (0 when none), message, and the contexts added on the way up.
/// Message text says what failed, on what, with which figures; what was done; what one can do.
class [[nodiscard]] Error {
public:
    Error(Errc code, std::string message) : code_(code), message_(std::move(message)) {}
    Error(Errc code, int sys_errno, std::string message)
        : code_(code), sys_errno_(sys_errno), message_(std::move(message)) {}

    [[nodiscard]] Errc code() const noexcept { return code_; }
    [[nodiscard]] int sys_errno() const noexcept { return sys_errno_; }
    [[nodiscard]] const std::string &message() const noexcept { return message_; }

    /// Adds what the caller was doing; the last added prints first.
    Error &&add(std::string context) && {
        context_.push_back(std::move(context));
        return std::move(*this);
    }
    /// "outer context: inner context: message"
    [[nodiscard]] std::string text() const;

private:
    Errc code_;
    int sys_errno_ = 0;
    std::string message_;
    std::vector<std::string> context_;
};

/// "what: strerror(errno)" with the class of that errno.
Error sys_error(int sys_errno, std::string what);

template <class T> using Result = std::expected<T, Error>;
using Status = Result<void>;

inline std::unexpected<Error> fail(Errc code, std::string message) {
    return std::unexpected(Error(code, std::move(message)));
}
inline std::unexpected<Error> fail_errno(int sys_errno, std::string what) {
    return std::unexpected(sys_error(sys_errno, std::move(what)));
}

/// Adds a context to a failed result; the text is made only on failure.
template <class T, class F> Result<T> in_context(Result<T> &&result, F &&context) {
    if (!result) return std::unexpected(std::move(result).error().add(context()));
    return std::move(result);
}

namespace detail {
template <class T> T take(Result<T> &&result) {
    if constexpr (!std::is_void_v<T>) return std::move(*result);
}
} // namespace detail

} // namespace shale

/// Value of a Result, or return its error from the enclosing function.
#define TRY(...)                                                                                                       \
    __extension__({                                                                                                    \
        auto try_result_ = (__VA_ARGS__);                                                                              \
        if (!try_result_) [[unlikely]]                                                                                 \
            return std::unexpected(std::move(try_result_).error());                                                    \
        ::shale::detail::take(std::move(try_result_));                                                                 \
    })
