// SPDX-License-Identifier: Apache-2.0
// What happens to an operation at its n-th step, or at a call of some kind.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "sys/seam.h"

namespace shale::test {

/// Kills the process right before its n-th changing system call or record commit.
class KillAt : public sys::Hook {
public:
    explicit KillAt(unsigned step) : left_(static_cast<int>(step)) {}
    int before(const sys::Call &call) noexcept override {
        if (sys::op_mutates(call.op) && left_.fetch_sub(1) == 1) kill(getpid(), SIGKILL);
        return 0;
    }

private:
    std::atomic<int> left_;
};

/// Lets the n-th system call fail.
class FailAt : public sys::Hook {
public:
    FailAt(unsigned step, int error) : left_(static_cast<int>(step)), error_(error) {}
    int before(const sys::Call & /*call*/) noexcept override { return left_.fetch_sub(1) == 1 ? error_ : 0; }
    [[nodiscard]] bool reached() const noexcept { return left_.load() <= 0; }

private:
    std::atomic<int> left_;
    int error_;
};

/// Counts what the two above count.
class CountSteps : public sys::Hook {
public:
    int before(const sys::Call &call) noexcept override {
        ++calls;
        if (sys::op_mutates(call.op)) ++changes;
        return 0;
    }
    std::atomic<unsigned> calls{0}, changes{0};
};

/// Every call of a kind fails whose name begins like this.
class FailAllOf : public sys::Hook {
public:
    FailAllOf(sys::Op op, std::string prefix, int error) : op_(op), prefix_(std::move(prefix)), error_(error) {
        sys::set_hook(this);
    }
    ~FailAllOf() override { sys::set_hook(nullptr); }
    int before(const sys::Call &call) noexcept override {
        return call.op == op_ && call.name != nullptr && std::string_view(call.name).starts_with(prefix_) ? error_ : 0;
    }

private:
    sys::Op op_;
    std::string prefix_;
    int error_;
};

/// This thread's next call of a kind fails; others' go on.
class FailNext : public sys::Hook {
public:
    FailNext(sys::Op op, int error) : op_(op), error_(error) { sys::set_hook(this); }
    ~FailNext() override { sys::set_hook(nullptr); }
    int before(const sys::Call &call) noexcept override {
        if (call.op != op_ || std::this_thread::get_id() != thread_ || failed_) return 0;
        failed_ = true;
        return error_;
    }
    bool failed_ = false;

private:
    sys::Op op_;
    int error_;
    std::thread::id thread_ = std::this_thread::get_id();
};

/// What waitpid(2) says of a child that did this; true: it exits with 0.
template <class Body> int status_of_child(const Body &body) {
    const pid_t child = fork();
    if (child == 0) _exit(body() ? 0 : 1);
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

} // namespace shale::test
