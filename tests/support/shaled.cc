// SPDX-License-Identifier: Apache-2.0
#include "support/shaled.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <random>

#include "base/fd.h"
#include "support/world.h"

namespace shale::test {

std::vector<std::string> shaled_arguments(const std::string &tested, const std::string &root,
                                          const std::string &socket) {
    const std::string driver = driver_of(tested);
    std::vector<std::string> out{SHALE_SHALED, "--root", root, "--driver", driver, "--listen", socket};
    for (const auto &[key, value] : options_of(tested, root + "/" + driver))
        out.insert(out.end(), {"--storage-opt", driver + "." + key + "=" + value});
    return out;
}

Shaled::Shaled(std::vector<std::string> arguments, std::string log)
    : arguments_(std::move(arguments)), log_(std::move(log)) {
    start();
}

Shaled::~Shaled() {
    if (killer_.joinable()) calm();
    end(SIGTERM);
}

void Shaled::storm() {
    killer_ = std::jthread([this](const std::stop_token &stop) {
        std::mt19937 random(7);
        const int slower = in_guest() ? 30 : 1; // so that calls come to their end between two
        while (!stop.stop_requested()) {
            std::this_thread::sleep_for(std::chrono::milliseconds((30 + random() % 170) * slower));
            restart();
        }
    });
}

void Shaled::calm() {
    killer_.request_stop();
    killer_.join();
}

void Shaled::restart(const std::function<void()> &meanwhile) {
    end(SIGKILL);
    ++kills_;
    meanwhile();
    start();
}

int Shaled::end(int signal) {
    if (pid_ <= 0) return 0;
    ++turns_;
    ::kill(pid_, signal);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
}

void Shaled::start() {
    std::vector<char *> words;
    for (auto &argument : arguments_)
        words.push_back(argument.data());
    words.push_back(nullptr);
    const std::lock_guard lock(starting_);
    std::array<int, 2> ends{-1, -1}; // the program has begun when the last writer is closed
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return;
    const UniqueFd begun(ends[0]);
    UniqueFd not_begun(ends[1]);
    pid_ = ::fork();
    if (pid_ == 0) {
        const int log = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
        ::dup2(log, STDERR_FILENO);
        ::execv(words[0], words.data());
        ::_exit(127);
    }
    not_begun.reset();
    char nothing = 0;
    (void)!::read(begun.get(), &nothing, 1);
    ++turns_;
}

} // namespace shale::test
