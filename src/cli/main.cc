// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "cli/app.h"

int main(int argc, char **argv) {
    try {
        return shale::cli::run_program(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
    } catch (const std::bad_alloc &) {
        std::fputs("shale: error: out of memory\n", stderr);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "shale: error: internal error: %s\n", error.what());
    }
    return 1;
}
