// SPDX-License-Identifier: Apache-2.0
// containerd's filter language (its package filters), as List takes it:
//
//   selectors := selector ("," selector)*            all must hold
//   selector  := path [operator value]               no operator: the field is there
//   path      := field ("." field)*                  field: [A-Za-z0-9_]+ or "quoted"
//   operator  := "==" | "!=" | "~="                  ~= : RE2, found anywhere
//   value     := [^,\s]+ or "quoted"; behind ~= also |quoted| and /quoted/
//
// Quoted strings have Go's escapes. White space may stand before a field, an operator and a value.
// Fields of a snapshot: name, parent, kind (view, active, committed), labels.KEY; any other is one that is not there.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "store/snapshots.h"

namespace re2 {
class RE2;
}

namespace shale::frontends {

/// What a List asks for. Immutable: any thread may ask it.
class Filter {
public:
    /// What a stranger may ask for, so that neither time nor memory is his to choose.
    static constexpr size_t max_bytes = 65'536; ///< of all filters together
    static constexpr size_t max_selectors = 1'024;
    static constexpr size_t max_patterns = 64; ///< selectors with ~=, each compiled to at most 256 KiB

    /// One of `filters` must hold; none given, or an empty one: all snapshots. InvalidArgument names the position.
    static Result<Filter> parse(std::span<const std::string> filters);

    [[nodiscard]] bool matches(const store::SnapshotRow &row) const;
    /// The only names that can match, when every filter says name==NAME; nullopt: any name may.
    [[nodiscard]] std::optional<std::vector<std::string>> names() const;

    /// The only value that the label can have in what matches; nullopt: it may have several, or none.
    [[nodiscard]] std::optional<std::string> label(std::string_view key) const;

    enum class Operator : uint8_t { present, equal, not_equal, matches };
    enum class Field : uint8_t { name, parent, kind, label, none };
    struct Selector {
        Field field = Field::none;
        std::string label; ///< for Field::label
        Operator op = Operator::present;
        std::string value;
        std::shared_ptr<const re2::RE2> pattern; ///< for Operator::matches
    };

private:
    std::vector<std::vector<Selector>> alternatives_; ///< empty: all
};

} // namespace shale::frontends
