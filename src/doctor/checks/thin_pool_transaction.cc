// SPDX-License-Identifier: Apache-2.0
// thin-pool-transaction: a store and its pool that are not of the same moment.
#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/thin_pools.h"
#include "probe/thin_pools.h"

namespace shale::doctor::checks {
namespace {

std::optional<uint64_t> number_of(const std::string &text) {
    uint64_t out = 0;
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (bad != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return out;
}

/// How far a pool may be behind its store's record because an operation was cut short (or is under way): both write the
/// record first. Docker counts by one (moby, daemon/graphdriver/devmapper/deviceset.go); shale reserves up to 64
/// numbers at a time (src/drivers/devicemapper/FORMAT.md).
uint64_t slack_of(const probe::Store &store) {
    if (store.engine == "docker") return 1;
    if (store.engine == "shale") return 64;
    return 0;
}

const probe::ThinPool *pool_named(const probe::Facts &facts, const std::string &name) {
    for (const auto &pool : facts.thin_pools)
        if (probe::is_named(pool, name)) return &pool;
    return nullptr;
}

/// Nothing has to have the pool active: no daemon runs, or the store is shale's, which makes the same comparison itself
/// whenever it activates one.
bool may_rest(const probe::Store &store) {
    return !store.running || store.engine == "shale";
}

void compare(const probe::Store &store, uint64_t recorded, const probe::ThinPool &pool, Outcome &out) {
    if (pool.transaction == recorded) return;
    const bool behind = pool.transaction < recorded && recorded - pool.transaction <= slack_of(store);
    if (behind && store.running) {
        out.unable.push_back(fmt::format("{}: its record is at transaction {}, thin pool {} at {}; that may be an "
                                         "operation under way, look again when the daemon is idle",
                                         name_of(store), recorded, shown(pool.name), pool.transaction));
        return;
    }
    Finding &finding = out.findings.emplace_back();
    finding.severity = behind ? Severity::warning : Severity::critical;
    finding.subject = name_of(store);
    finding.summary =
        behind
            ? fmt::format("an operation on thin pool {} was cut short: the store is at transaction {}, the pool at {}",
                          shown(pool.name), recorded, pool.transaction)
            : fmt::format("the store and thin pool {} are not of the same moment: the store is at transaction {}, the "
                          "pool at {}",
                          shown(pool.name), recorded, pool.transaction);
    finding.evidence = {fmt::format("recorded by the store: transaction {}", recorded),
                        fmt::format("of the pool: transaction {}, {}", pool.transaction,
                                    counted(pool.devices.size(), "active volume"))};
    if (behind) {
        finding.commands = {
            store.engine == "shale"
                ? fmt::format("shale --root {} check", shell_quote(store.root))
                : std::string("# the daemon rolls it back at its next start: systemctl restart docker")};
        return;
    }
    finding.commands = {
        "# make no image and no container until both are of one moment again",
        fmt::format("dmsetup status {}", shell_quote(pool.name)),
        "# put back the backup of the side that is behind, or move what can still be read to another store"};
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &store : facts.stores) {
        const std::string *name = value_of(store.settings, "thin pool");
        const std::string *text = value_of(store.settings, "transaction");
        if (name == nullptr || text == nullptr) continue;
        const auto recorded = number_of(*text);
        if (!recorded) {
            out.unable.push_back(
                fmt::format("{}: its recorded transaction is no number: {}", name_of(store), shown(*text)));
            continue;
        }
        const auto *pool = pool_named(facts, *name);
        if (pool == nullptr) {
            if (may_rest(store)) continue;
            out.unable.push_back(fmt::format("{}: thin pool {} is not active", name_of(store), shown(*name)));
        } else if (!has_figures(*pool)) {
            out.unable.push_back(fmt::format("{}: thin pool {} gives no figures, its state is {}", name_of(store),
                                             shown(*name), shown(pool->mode)));
        } else {
            compare(store, *recorded, *pool, out);
        }
    }
    return out;
}

} // namespace

extern const Check thin_pool_transaction;
const Check thin_pool_transaction{
    .id = "thin-pool-transaction",
    .title = "A store and its thin pool disagree about what was done last",
    .why =
        "A store writes into its pool how many transactions it has made. When the numbers differ, one of the two is of "
        "another time: a backup was put back, a copy was started beside the original, or another program used the "
        "pool. Going on then gives out volume numbers twice, and containers get each other's data.",
    .limits =
        "Any difference is critical, but for a pool that is behind by as much as one cut-short operation leaves (1 for "
        "Docker, 64 for shale): the next start undoes or ends that, a warning. While the daemon runs the latter "
        "may also be an operation under way; then nothing is said. A pool that is not active while no daemon needs it "
        "is "
        "not looked at.",
    .remedy =
        "Stop the daemon. Put back the side that is too old, from the same moment as the other; or read out what is "
        "still good into a new store.",
    .risk = "Setting the pool's transaction id by hand hides the difference and repairs nothing.",
    .undo = "Nothing is changed by looking.",
    .run = run,
};

} // namespace shale::doctor::checks
