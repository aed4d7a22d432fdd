// SPDX-License-Identifier: Apache-2.0
// The mutating operations that the kill matrix and the error matrix run, and the promise that must hold after each.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "support/world.h"

namespace shale::test {

/// Of the matrices' steps every n-th is tried. All of them, but under the thread sanitizer, where a step is 20 times
/// slower and races do not depend on it, in a guest (an emulated processor), and where $SHALE_TEST_STRIDE says
/// otherwise.
unsigned step_stride();

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
