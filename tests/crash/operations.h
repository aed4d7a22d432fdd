// SPDX-License-Identifier: Apache-2.0
// The mutating operations that the kill matrix and the error matrix run, and the promise that must hold after each.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "support/world.h"

namespace shale::test {

/// Of a matrix' steps the first that is tried, how far from one to the next, and none after the last (where all are
/// tried the run that comes to its end is the last).
struct Stride {
    unsigned first = 1;
    unsigned step = 1;
    unsigned last = 0;
};
/// For a run that has `steps` of them, where `trials` (0: all) are enough. Fewer are tried under the thread sanitizer,
/// where a step is 20 times slower and races do not depend on it, and in a guest, where it takes seconds and one is;
/// they are spread over the whole run, and each driver begins with another one. $SHALE_TEST_STRIDE says how far apart,
/// whatever the rest says.
Stride stride_of(std::string_view driver, unsigned steps, unsigned trials = 0);

struct Operation {
    std::string name;
    std::function<Status(store::Store &, const World &)> run;
    bool damages = false; ///< it damages layer 1 first; what was not repaired then must be repairable later
};

const std::vector<Operation> &operations();

/// Fills ROOT with the state that every operation starts from: image base:1 (three layers), containers "kept" (with a
/// change) and "victim"; archives base.tar and next.tar (shares two layers with base) lie in the world.
void prepare(const World &world, const std::string &root, const std::string &driver);

/// Whatever happened to `operation`: the store opens, gc runs, a full check of all data is silent, base:1 is whole and
/// "kept" still holds its change; next:1 is all there or not at all; nothing lies in tmp/.
void expect_consistent(const std::string &root, const std::string &driver, const Operation &operation,
                       const std::string &what);

} // namespace shale::test
