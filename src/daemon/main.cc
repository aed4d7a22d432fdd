// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "daemon/daemon.h"

int main(int argc, char **argv) {
    try {
        return shale::daemon::run_program(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
    } catch (const std::exception &error) {
        std::fprintf(stderr, "shaled: error: internal error: %s\n", error.what());
    }
    return 1;
}
