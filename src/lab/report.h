// SPDX-License-Identifier: Apache-2.0
// Accounts of scenarios for people. What came out of commands is text of others: here it is escaped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lab/account.h"

namespace shale::lab {

/// "yes", "NO", "-" (it was not answered).
std::string_view verdict_of(const Account &account, Question question);
/// A page of its own, without scripts or anything from elsewhere: a table of all, then each story.
std::string report_html(const std::vector<Account> &accounts);

} // namespace shale::lab
