// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/thin_transactions.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "oci/json.h"
#include "probe/text.h"
#include "probe/thin_pools.h"

namespace shale::doctor {
namespace {

constexpr int attempts = 3;
constexpr size_t max_record_bytes = 4096;

/// The record of one store.
struct Record {
    size_t store = 0; ///< index into Facts::stores
    std::string path;
    std::string pool;                         ///< its name; "": not known
    Result<std::optional<uint64_t>> number{}; ///< nullopt: there is none yet
};

/// deviceset.go, saveTransactionMetaData. The file goes when dockerd has rolled a transaction back; deviceset-metadata
/// beside it and the records of devices do not say where the pool is.
Result<std::optional<uint64_t>> docker_number(const std::string &text, const std::string &path) {
    const auto record = TRY(oci::parse_object(text, path));
    const oci::Json *number = oci::find_member(record, "open_transaction_id");
    if (number == nullptr || !number->is_number_unsigned())
        return fail(Errc::DataLoss, fmt::format("{:?} has no number \"open_transaction_id\"", path));
    return number->get<uint64_t>();
}

/// "FROM TO" (src/drivers/devicemapper/FORMAT.md).
Result<std::optional<uint64_t>> shale_number(std::string_view text, const std::string &path) {
    std::string_view rest = text;
    const auto from = probe::to_number(probe::next_part(rest, ' ')), to = probe::to_number(rest);
    if (!from || !to || *from >= *to)
        return fail(Errc::DataLoss, fmt::format("{:?} is damaged: {:?}", path, text.substr(0, 100)));
    return *to;
}

/// The value of "dm.thinpooldev=..." in a list of options with commas.
std::string option(std::string_view options, std::string_view name) {
    while (!options.empty()) {
        std::string_view value = probe::trimmed(probe::next_part(options, ','));
        if (probe::next_part(value, '=') == name) return std::string(value);
    }
    return {};
}

/// deviceset.go, getPoolName and initDevmapper. `directory`: of the driver.
std::string docker_pool(const probe::Store &store, const struct stat *directory) {
    if (const auto options = store.settings.find("storage-opts"); options != store.settings.end()) {
        std::string given = option(options->second, "dm.thinpooldev");
        constexpr std::string_view mapper = "/dev/mapper/";
        if (given.starts_with(mapper)) given.erase(0, mapper.size());
        if (!given.empty()) return given;
        if (!option(options->second, "dm.directlvm_device").empty()) return "docker-thinpool";
    }
    if (directory == nullptr) return {};
    return fmt::format("docker-{}:{}-{}-pool", major(directory->st_dev), minor(directory->st_dev), directory->st_ino);
}

/// src/drivers/devicemapper/pool.cc, Pool::open.
std::string shale_pool(const struct stat *directory) {
    return directory == nullptr ? std::string()
                                : fmt::format("shale-{:x}-{:x}-pool", directory->st_dev, directory->st_ino);
}

Record read_record(const probe::Host &host, const probe::Store &store, size_t index) {
    const bool is_docker = store.engine == "docker";
    const std::string driver = store.root + "/devicemapper";
    Record out;
    out.store = index;
    out.path = driver + (is_docker ? "/metadata/transaction-metadata" : "/volumes");
    const auto status = host.stat(driver);
    const struct stat *directory = status && *status ? &**status : nullptr;
    out.pool = is_docker ? docker_pool(store, directory) : shale_pool(directory);
    const auto text = host.read_if_there(out.path, max_record_bytes);
    if (!text)
        out.number = std::unexpected(text.error());
    else if (*text)
        out.number = is_docker ? docker_number(**text, out.path) : shale_number(**text, out.path);
    return out;
}

std::vector<Record> read_records(const probe::Host &host, const std::vector<probe::Store> &stores) {
    std::vector<Record> out;
    for (size_t i = 0; i < stores.size(); ++i)
        if (stores[i].driver == "devicemapper" && (stores[i].engine == "docker" || stores[i].engine == "shale"))
            out.push_back(read_record(host, stores[i], i));
    return out;
}

bool same_number(const Record &one, const Record &other) {
    return one.number.has_value() == other.number.has_value() && (!one.number || *one.number == *other.number);
}

/// Its pool has the number; or there is none to compare, or no such pool.
bool agrees(const Record &record, const std::vector<probe::ThinPool> &pools) {
    const auto pool =
        std::ranges::find_if(pools, [&](const probe::ThinPool &one) { return probe::is_named(one, record.pool); });
    return !record.number || !*record.number || pool == pools.end() || pool->transaction == **record.number;
}

/// Those of `found` that are not known yet.
std::vector<probe::Problem> new_ones(std::vector<probe::Problem> found, const std::vector<probe::Problem> &known) {
    std::erase_if(found, [&](const probe::Problem &one) {
        return std::ranges::any_of(
            known, [&](const probe::Problem &other) { return one.about == other.about && one.why == other.why; });
    });
    return found;
}

/// Why the record is not to be compared with its pool; "": it is.
std::string doubt_about(const Record &record, const Record *before, bool pools_failed) {
    if (!record.number) return record.number.error().text();
    if (before == nullptr) return {};
    if (!same_number(*before, record)) return "it changed while it was compared with its thin pool";
    return *record.number && pools_failed ? "it was not compared with its thin pool, which could not be read again"
                                          : std::string();
}

} // namespace

void read_thin_transactions(const probe::Host &host, const ReadPools &read_pools, probe::Facts &facts) {
    std::vector<Record> before, now = read_records(host, facts.stores);
    if (now.empty()) return;
    std::vector<probe::Problem> failures; // of the last reading of the pools
    for (int i = 0; !facts.thin_pools.empty() && i < attempts; ++i) {
        if (i != 0) std::this_thread::sleep_for(std::chrono::milliseconds(50 << i));
        before = i == 0 ? std::move(now) : read_records(host, facts.stores);
        PoolReading reading = read_pools();
        now = read_records(host, facts.stores);
        failures = new_ones(std::move(reading.problems), facts.problems);
        if (!failures.empty()) continue;
        facts.thin_pools = std::move(reading.pools);
        if (std::ranges::equal(before, now, same_number) &&
            std::ranges::all_of(now, [&](const Record &one) { return agrees(one, facts.thin_pools); }))
            break;
    }
    std::ranges::copy(failures, std::back_inserter(facts.problems));
    for (size_t i = 0; i < now.size(); ++i) {
        const Record &record = now[i];
        auto &settings = facts.stores[record.store].settings;
        if (!record.pool.empty()) settings["thin pool"] = record.pool;
        std::string doubt = doubt_about(record, before.empty() ? nullptr : &before[i], !failures.empty());
        if (!doubt.empty())
            facts.problems.push_back({record.path, std::move(doubt)});
        else if (*record.number)
            settings["transaction"] = fmt::to_string(**record.number);
    }
}

} // namespace shale::doctor
