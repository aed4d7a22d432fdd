// SPDX-License-Identifier: Apache-2.0
// Leases: what a lease names is a root for gc until the lease ends. Refs are "layer:<id>", "blob:<digest>",
// "image:<digest>".
#include <fmt/format.h>

#include <charconv>

#include "store/records.h"
#include "store/store.h"

namespace shale::store {
namespace {

Status check_ref(std::string_view ref) {
    if (ref.starts_with("layer:")) {
        uint64_t number = 0;
        const std::string_view digits = ref.substr(6);
        const auto [end, bad] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
        if (bad == std::errc{} && end == digits.data() + digits.size()) return {};
    } else if (ref.starts_with("blob:")) {
        if (Digest::parse(ref.substr(5))) return {};
    } else if (ref.starts_with("image:")) {
        if (Digest::parse(ref.substr(6))) return {};
    }
    return fail(Errc::InvalidArgument, fmt::format("\"{}\" is not layer:<id>, blob:<digest> or image:<digest>", ref));
}

} // namespace

Result<std::string> Store::create_lease(std::string_view id, std::optional<int64_t> ttl_ns) {
    if (id.size() > 128) return fail(Errc::InvalidArgument, "a lease id has at most 128 bytes");
    std::string name = id.empty() ? fmt::format("lease-{}", TRY(records_->new_id()).value) : std::string(id);
    auto tx = TRY(records_->begin(Sync::relaxed));
    const int64_t now = now_ns();
    int64_t expires = 0;
    if (ttl_ns && __builtin_add_overflow(now, *ttl_ns, &expires)) expires = 0;
    auto insert = TRY(tx.prepare("INSERT INTO leases VALUES (?, ?, ?)"));
    if (auto done = insert.bind(std::string_view(name)).bind(now).bind(expires).run(); !done) {
        if (done.error().code() == Errc::AlreadyExists)
            return fail(Errc::AlreadyExists, fmt::format("lease \"{}\" exists", name));
        return std::unexpected(std::move(done).error());
    }
    TRY(tx.commit());
    return name;
}

Status Store::add_lease_ref(std::string_view id, std::string_view ref) {
    TRY(check_ref(ref));
    auto tx = TRY(records_->begin(Sync::relaxed));
    auto there = TRY(tx.prepare("SELECT 1 FROM leases WHERE id = ?"));
    if (!TRY(there.bind(id).step())) return fail(Errc::NotFound, fmt::format("no lease \"{}\"", id));
    auto insert = TRY(tx.prepare("INSERT OR IGNORE INTO lease_refs VALUES (?, ?)"));
    TRY(insert.bind(id).bind(ref).run());
    return tx.commit();
}

Status Store::delete_lease(std::string_view id) {
    auto tx = TRY(records_->begin(Sync::relaxed));
    auto drop = TRY(tx.prepare("DELETE FROM leases WHERE id = ? RETURNING id"));
    if (!TRY(drop.bind(id).step())) return fail(Errc::NotFound, fmt::format("no lease \"{}\"", id));
    TRY(drop.run());
    return tx.commit();
}

Result<std::vector<Store::LeaseInfo>> Store::list_leases() {
    std::vector<LeaseInfo> leases;
    auto rows = TRY(records_->prepare("SELECT l.id, l.created_ns, l.expires_ns, r.ref FROM leases l "
                                      "LEFT JOIN lease_refs r ON r.lease = l.id ORDER BY l.id, r.ref"));
    while (TRY(rows.step())) {
        if (leases.empty() || leases.back().id != rows.text(0))
            leases.push_back({rows.text(0), rows.integer(1), rows.integer(2), {}});
        if (!rows.is_null(3)) leases.back().refs.push_back(rows.text(3));
    }
    return leases;
}

} // namespace shale::store
