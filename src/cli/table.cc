// SPDX-License-Identifier: Apache-2.0
#include "cli/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>

namespace shale::cli {
namespace {

/// Code points, not bytes: continuation bytes take no column.
size_t columns(std::string_view text) {
    return static_cast<size_t>(
        std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

} // namespace

Table::Table(std::vector<std::string> headers) {
    for (std::string &header : headers) {
        right_.push_back(header.starts_with('>'));
        if (right_.back()) header.erase(0, 1);
    }
    rows_.push_back(std::move(headers));
}

void Table::add(std::vector<std::string> cells) {
    cells.resize(right_.size());
    for (std::string &cell : cells)
        cell = printable(cell);
    rows_.push_back(std::move(cells));
}

std::string Table::text() const {
    std::vector<size_t> widths(right_.size());
    for (const auto &row : rows_)
        for (size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], columns(row[i]));
    std::string out;
    for (const auto &row : rows_) {
        std::string line;
        for (size_t i = 0; i < row.size(); ++i) {
            const size_t pad = widths[i] - columns(row[i]);
            if (right_[i]) line.append(pad, ' ');
            line += row[i];
            if (!right_[i]) line.append(pad, ' ');
            if (i + 1 < row.size()) line += "   ";
        }
        line.erase(line.find_last_not_of(' ') + 1);
        out += line + '\n';
    }
    return out;
}

} // namespace shale::cli
