// SPDX-License-Identifier: Apache-2.0
// Tables for people: aligned columns, headers in upper case.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/text.h"

namespace shale::cli {

/// Rows of cells; the widest cell of a column sets its width. Columns whose header starts with '>' are aligned right.
class Table {
public:
    explicit Table(std::vector<std::string> headers);
    /// Cells are made printable here. As many as there are headers.
    void add(std::vector<std::string> cells);
    [[nodiscard]] std::string text() const;
    [[nodiscard]] bool empty() const noexcept { return rows_.size() == 1; }

private:
    std::vector<bool> right_;
    std::vector<std::vector<std::string>> rows_; ///< the first is the header
};

} // namespace shale::cli
