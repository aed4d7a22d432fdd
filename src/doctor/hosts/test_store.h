// SPDX-License-Identifier: Apache-2.0
// For tests of readers of stores: looking into what one has found.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string_view>

#include "probe/facts.h"

namespace shale::doctor {

/// The only one; where it is not, the test has failed.
inline probe::Store only_store(const probe::Facts &facts) {
    EXPECT_EQ(facts.stores.size(), 1U);
    return facts.stores.empty() ? probe::Store() : facts.stores.front();
}

/// By its id; where there is none, the test has failed.
inline const probe::StoreLayer &layer_of(const probe::Store &store, std::string_view id) {
    static const probe::StoreLayer none;
    const auto found = std::ranges::find(store.layers, id, &probe::StoreLayer::id);
    if (found != store.layers.end()) return *found;
    ADD_FAILURE() << "no layer " << id;
    return none;
}

} // namespace shale::doctor
