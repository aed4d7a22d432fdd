// SPDX-License-Identifier: Apache-2.0
#include "guard/measures.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/paths.h"
#include "base/text.h"
#include "guard/json_members.h"
#include "oci/json.h"
#include "sys/fs.h"

namespace shale::guard {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char *file_name = "active.json", *bad_name = "active.json.bad";
constexpr int file_version = 1;
constexpr size_t max_problems = 20;
constexpr uint64_t last_id = uint64_t{1} << 62U;

Status check(const Measure &measure) {
    if (!is_plain(measure.target))
        return fail(Errc::InvalidArgument, fmt::format("measure: \"{}\" is no absolute path without \".\" and \"..\"",
                                                       printable(measure.target.substr(0, max_measure_text))));
    for (const std::string *text :
         {&measure.subject, &measure.target, &measure.key, &measure.old_value, &measure.new_value})
        if (text->size() > max_measure_text || text->contains('\0'))
            return fail(Errc::InvalidArgument,
                        fmt::format("measure on {}: text of more than {} bytes, or with NUL",
                                    printable(measure.target.substr(0, max_measure_text)), max_measure_text));
    return {};
}

bool same_place(const Measure &one, const Measure &other) {
    return one.target == other.target && one.key == other.key;
}

/// JSON has no bytes: what is no UTF-8 could not be written back as it was.
Result<std::string> line_of(const Measure &measure) try {
    const Json json{{"id", measure.id},
                    {"tier", name_of(measure.tier)},
                    {"kind", name_of(measure.kind)},
                    {"subject", measure.subject},
                    {"target", measure.target},
                    {"key", measure.key},
                    {"old", measure.old_value},
                    {"new", measure.new_value},
                    {"time_ms", time_json(measure.time).get<uint64_t>()}};
    return json.dump();
} catch (const Json::exception &) {
    return fail(Errc::InvalidArgument, fmt::format("measure on {}: text that is not UTF-8", printable(measure.target)));
}

Result<Measure> measure_of(const oci::Json &json, std::string_view where) {
    Measure out;
    out.id = TRY(number_member(json, "id", last_id, where));
    out.tier = TRY(tier_member(json, "tier", where));
    out.kind = TRY(kind_member(json, "kind", where));
    out.subject = TRY(text_member(json, "subject", max_measure_text, where));
    out.target = TRY(text_member(json, "target", max_measure_text, where));
    out.key = TRY(text_member(json, "key", max_measure_text, where));
    out.old_value = TRY(text_member(json, "old", max_measure_text, where));
    out.new_value = TRY(text_member(json, "new", max_measure_text, where));
    out.time = TRY(time_member(json, "time_ms", where));
    TRY(check(out));
    return out;
}

/// One that anybody else could have written tells root what to write where.
Status check_owner(const struct stat &file) {
    if (!S_ISREG(file.st_mode)) return fail(Errc::FailedPrecondition, fmt::format("{} is no file", file_name));
    if (file.st_uid != ::geteuid() || (file.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} could have been written by others (owner {}, mode {:o}): look what is in it, then "
                                "remove it or give it to user {} with mode 600",
                                file_name, file.st_uid, file.st_mode & 07777U, ::geteuid()));
    return {};
}

} // namespace

Result<Measures> Measures::load(UniqueFd dir) {
    Measures out(std::move(dir));
    const int at = out.dir_.get();
    if (!TRY(sys::stat_if_exists(at, file_name))) return out;
    const auto fd = TRY(sys::open_at(at, file_name, O_RDONLY | O_NONBLOCK));
    TRY(check_owner(TRY(sys::stat_at(fd.get(), ""))));
    const auto text = sys::read_file(at, file_name, oci::max_document_bytes);
    if (text)
        out.read(*text);
    else if (text.error().code() == Errc::ResourceExhausted)
        out.problems_.push_back(text.error().text());
    else
        return std::unexpected(text.error());
    if (out.problems_.empty()) return out;
    // What is understood is written anew; all of it stays to be looked at.
    TRY(sys::rename_at(at, file_name, at, bad_name));
    TRY(out.write(out.measures_));
    return out;
}

void Measures::read(std::string_view text) {
    const auto problem = [&](std::string what) {
        if (problems_.size() < max_problems) problems_.push_back(fmt::format("{}: {}", file_name, what));
    };
    const auto take = [&](const oci::Json &json, const std::string &where) {
        auto measure = measure_of(json, where);
        if (!measure)
            problem(measure.error().text());
        else if (std::ranges::any_of(measures_, [&](const Measure &one) { return same_place(one, *measure); }))
            problem(fmt::format("{}: a second measure on {}", where, printable(measure->target)));
        else
            measures_.push_back(std::move(*measure));
    };
    const auto document = oci::parse_object(text, file_name);
    const auto list = document ? array_member(*document, "measures", max_measures, "") : Result<const oci::Json *>();
    if (document && list && check_version(*document, file_version, "")) {
        for (size_t i = 0; i < (*list)->size(); ++i)
            take((**list)[i], fmt::format("measures[{}]", i));
    } else {
        problem(document ? std::string("no list of measures of this version") : document.error().text());
        for (size_t number = 1; !text.empty() && measures_.size() < max_measures; ++number) {
            std::string_view line = text.substr(0, text.find('\n'));
            text.remove_prefix(std::min(text.size(), line.size() + 1));
            if (line.ends_with(',')) line.remove_suffix(1);
            if (!line.starts_with("{\"id\"")) continue;
            const std::string where = fmt::format("line {}", number);
            if (const auto json = oci::parse_object(line, where))
                take(*json, where);
            else
                problem(json.error().text());
        }
    }
    std::ranges::sort(measures_, {}, &Measure::id);
    if (!measures_.empty()) next_id_ = measures_.back().id + 1;
}

/// A line for each measure. Without any the file goes, which a full disk does not hinder.
Status Measures::write(std::span<const Measure> measures) const {
    if (measures.empty()) {
        if (!TRY(sys::stat_if_exists(dir_.get(), file_name))) return {};
        TRY(sys::unlink_at(dir_.get(), file_name));
        return sys::fsync_fd(dir_.get());
    }
    std::string text = fmt::format("{{\"version\":{},\"measures\":[\n", file_version);
    for (const Measure &measure : measures)
        text += TRY(line_of(measure)) + (&measure == &measures.back() ? "\n" : ",\n");
    text += "]}\n";
    if (text.size() > oci::max_document_bytes)
        return fail(Errc::ResourceExhausted,
                    fmt::format("{}: {} bytes, more than {}", file_name, text.size(), oci::max_document_bytes));
    return sys::write_file_durably(dir_.get(), file_name, text);
}

Result<uint64_t> Measures::add(Measure measure) {
    TRY(check(measure));
    if (measures_.size() >= max_measures)
        return fail(Errc::ResourceExhausted, fmt::format("{} measures are in force already", measures_.size()));
    if (const auto same = std::ranges::find_if(measures_, [&](const Measure &one) { return same_place(one, measure); });
        same != measures_.end())
        return fail(Errc::AlreadyExists, fmt::format("{} is under measure {} already, set to \"{}\"",
                                                     printable(measure.target), same->id, printable(same->new_value)));
    measure.id = next_id_++;
    auto all = measures_;
    all.push_back(std::move(measure));
    TRY(in_context(write(all), [] { return "the measure was not taken, because it cannot be written down"; }));
    measures_ = std::move(all);
    return measures_.back().id;
}

Status Measures::remove(uint64_t id) {
    auto rest = measures_;
    if (std::erase_if(rest, [&](const Measure &one) { return one.id == id; }) == 0)
        return fail(Errc::NotFound, fmt::format("no measure {} is in force", id));
    TRY(write(rest));
    measures_ = std::move(rest);
    return {};
}

} // namespace shale::guard
