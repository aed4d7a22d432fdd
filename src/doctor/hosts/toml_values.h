// SPDX-License-Identifier: Apache-2.0
// A look into TOML files of others for a few known keys: storage.conf, shale.toml. What the readers of hosts ask for is
// text, a truth value or a list of texts under a plain table; this takes those and passes over the rest, where a whole
// parser would refuse the file. cli/ has one, for shale's own configuration.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shale::doctor {

/// `key = value` of a table. A scalar is a list of one; what is no text is as it is written ("true", "0o700").
struct TomlValue {
    std::string table; ///< "storage.options", of [[x]] too: "x"
    std::string key;
    std::vector<std::string> values;
};
struct TomlValues {
    std::vector<TomlValue> values;
    std::optional<size_t> not_understood; ///< the first such line, from 1; it was passed over

    /// The last of that name; nullptr: there is none.
    [[nodiscard]] const TomlValue *find(std::string_view table, std::string_view key) const;
    /// Its first value; "" when there is none.
    [[nodiscard]] std::string text(std::string_view table, std::string_view key) const;
};

/// At most 10,000 values of 10,000 parts.
TomlValues toml_values(std::string_view text);

} // namespace shale::doctor
