// SPDX-License-Identifier: Apache-2.0
// The only file that includes toml++.
//
// toml++ 3.3 asserts, where it should report, that a table's name begins like a key ("[:x]"). Its assertions are thrown
// here, in every kind of build, and become the error that they are.
#include <string>

namespace shale::cli {
struct MalformedToml {};
[[noreturn]] inline void fail_assertion() {
    throw MalformedToml();
}
} // namespace shale::cli

#undef NDEBUG
#define TOML_ASSERT(condition) ((condition) ? void() : shale::cli::fail_assertion())
#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include <fmt/format.h>

#include <array>

#include "base/units.h"
#include "cli/options.h"

namespace shale::cli {
namespace {

std::unexpected<Error> fail_at(const std::string &file, const toml::source_region &where, std::string message) {
    return fail(Errc::InvalidArgument, fmt::format("{}:{}: {}", file, where.begin.line, message));
}

template <size_t N>
std::unexpected<Error> unknown_key(const std::string &file, const toml::key &key, std::string_view table,
                                   const std::array<std::string_view, N> &known) {
    const std::string near = nearest(key.str(), known);
    return fail_at(file, key.source(),
                   fmt::format("unknown key \"{}\"{}; {}", key.str(), table,
                               near.empty() ? fmt::format("there are: {}", fmt::join(known, ", "))
                                            : fmt::format("did you mean {}?", near)));
}

Result<std::string> text_of(const std::string &file, const toml::key &key, const toml::node &node) {
    if (const auto *text = node.as_string()) return text->get();
    return fail_at(file, node.source(), fmt::format("{} must be a string", key.str()));
}

/// A count, or with `sizes` also a string like "10G".
Result<uint64_t> number_of(const std::string &file, const toml::key &key, const toml::node &node, bool sizes) {
    if (const auto *number = node.as_integer(); number != nullptr && number->get() >= 0)
        return static_cast<uint64_t>(number->get());
    if (const auto *text = node.as_string(); text != nullptr && sizes)
        return in_context(parse_bytes(text->get()),
                          [&] { return fmt::format("{}:{}: {}", file, node.source().begin.line, key.str()); });
    return fail_at(
        file, node.source(),
        fmt::format("{} must be a number of 0 or more{}", key.str(), sizes ? " or a size like \"10G\"" : ""));
}

Status read_limits(const std::string &file, const toml::table &table, Source &out) {
    constexpr std::array<std::string_view, 2> known{"entries", "layer_bytes"};
    for (const auto &[key, node] : table) {
        if (key.str() == "entries")
            out.max_entries = TRY(number_of(file, key, node, false));
        else if (key.str() == "layer_bytes")
            out.max_layer_bytes = TRY(number_of(file, key, node, true));
        else
            return unknown_key(file, key, " in [limits]", known);
    }
    return {};
}

Status read_driver_table(const std::string &file, std::string_view driver, const toml::table &table, Source &out) {
    for (const auto &[key, node] : table) {
        std::string value;
        if (const auto *text = node.as_string())
            value = text->get();
        else if (const auto *number = node.as_integer())
            value = std::to_string(number->get());
        else if (const auto *flag = node.as_boolean())
            value = flag->get() ? "on" : "off";
        else
            return fail_at(file, node.source(), fmt::format("{} must be a string, a number, true or false", key.str()));
        out.storage_opts.push_back({fmt::format("{}.{}={}", driver, key.str(), value),
                                    fmt::format("{}:{}", file, key.source().begin.line), true});
    }
    return {};
}

} // namespace

namespace {
Result<toml::table> parse_document(std::string_view text, const std::string &file) try {
    toml::parse_result parsed = toml::parse(text, file);
    if (!parsed) return fail_at(file, parsed.error().source(), std::string(parsed.error().description()));
    return std::move(parsed).table();
} catch (const MalformedToml &) {
    return fail(Errc::InvalidArgument,
                file + ": a key or a table's name begins with a character that none may begin with");
}
} // namespace

Result<Source> parse_toml(std::string_view text, const std::string &file) {
    const toml::table document = TRY(parse_document(text, file));
    constexpr std::array<std::string_view, 5> known{"root", "driver", "durability", "jobs", "limits"};

    Source out;
    out.name = file;
    for (const auto &[key, node] : document) {
        const std::string_view name = key.str();
        if (name == "root") {
            out.root = TRY(text_of(file, key, node));
        } else if (name == "durability") {
            out.durability = TRY(text_of(file, key, node));
        } else if (name == "jobs") {
            out.jobs = TRY(number_of(file, key, node, false));
        } else if (name == "limits" && node.is_table()) {
            TRY(read_limits(file, *node.as_table(), out));
        } else if (name == "driver" && node.is_table()) {
            // [driver.NAME] tables; `driver = "NAME"` cannot stand beside them in TOML, so the name is "name" there.
            for (const auto &[driver, options] : *node.as_table()) {
                if (driver.str() == "name")
                    out.driver = TRY(text_of(file, driver, options));
                else if (options.is_table())
                    TRY(read_driver_table(file, driver.str(), *options.as_table(), out));
                else
                    return fail_at(
                        file, driver.source(),
                        fmt::format("[driver] has \"name\" and tables [driver.NAME], not \"{}\"", driver.str()));
            }
        } else if (name == "driver") {
            out.driver = TRY(text_of(file, key, node));
        } else {
            return unknown_key(file, key, "", known);
        }
    }
    return out;
}

} // namespace shale::cli
