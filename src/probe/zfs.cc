// SPDX-License-Identifier: Apache-2.0
#include "probe/zfs.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "probe/text.h"

namespace shale::probe {
namespace {

constexpr size_t output_limit = size_t{1} << 20U; // of run_tool
constexpr size_t max_runs = 4096;                 // of `zfs list`: about 20 ms each
constexpr size_t batch_size = 256;                // names of at most 255 bytes: an argument list of 64 KiB
constexpr size_t zpool_fields = 7, zfs_fields = 15;
constexpr std::chrono::seconds deadline{60}; // a suspended pool makes a command wait for ever

/// At most `limit` fields; the last one takes what is left.
std::vector<std::string_view> split(std::string_view line, size_t limit) {
    std::vector<std::string_view> out;
    while (out.size() + 1 < limit) {
        const size_t tab = line.find('\t');
        if (tab == std::string_view::npos) break;
        out.push_back(line.substr(0, tab));
        line.remove_prefix(tab + 1);
    }
    out.push_back(line);
    return out;
}

/// "-" and "none" are 0; a percentage may have its sign (OpenZFS before 0.8).
bool number(std::string_view text, uint64_t &out) {
    if (text == "-" || text == "none") return true;
    if (text.ends_with('%')) text.remove_suffix(1);
    const auto value = to_number(text);
    out = value.value_or(out);
    return value.has_value();
}

/// "-" is the absence of a value.
std::string word(std::string_view text) {
    return text == "-" ? std::string() : std::string(text);
}

std::optional<ZfsPool> pool_of(std::string_view line) {
    const auto field = split(line, zpool_fields + 1);
    ZfsPool out;
    if (field.size() < zpool_fields || field[0].empty() || !number(field[2], out.size_bytes) ||
        !number(field[3], out.allocated_bytes) || !number(field[4], out.free_bytes) ||
        !number(field[5], out.fragmentation_percent) || !number(field[6], out.capacity_percent))
        return std::nullopt;
    out.name = field[0];
    out.health = field[1];
    out.autotrim = field.size() > zpool_fields && field[7] == "on";
    return out;
}

std::optional<ZfsDataset> dataset_of(std::string_view line) {
    const auto field = split(line, zfs_fields);
    ZfsDataset out;
    uint64_t volume_block_bytes = 0;
    if (field.size() != zfs_fields || field[0].empty() || !number(field[2], out.used_bytes) ||
        !number(field[3], out.referenced_bytes) || !number(field[4], out.snapshots_bytes) ||
        !number(field[5], out.quota_bytes) || !number(field[6], out.refquota_bytes) ||
        !number(field[7], out.record_bytes) || !number(field[8], volume_block_bytes) ||
        !number(field[9], out.created_s) || !number(field[10], out.holds))
        return std::nullopt;
    out.name = field[0];
    out.type = field[1];
    if (out.type != "filesystem" && out.type != "volume" && out.type != "snapshot") return std::nullopt;
    out.record_bytes = std::max(out.record_bytes, volume_block_bytes);
    out.mounted = field[11] == "yes";
    out.origin = word(field[12]);
    if (field[13] != "-") out.volume_of = fmt::format("shale:{}", field[13]);
    out.mountpoint = word(field[14]);
    return out;
}

template <class T> ZfsRows<T> rows_of(std::string_view text, std::optional<T> (*one)(std::string_view)) {
    ZfsRows<T> out;
    while (!text.empty()) {
        const std::string_view line = next_part(text, '\n');
        if (auto row = one(line)) {
            out.rows.push_back(std::move(*row));
        } else if (out.malformed++ == 0) {
            out.example = line.substr(0, 200);
        }
    }
    return out;
}

template <class T> void note_malformed(const ZfsRows<T> &rows, std::string_view about, std::vector<Problem> &problems) {
    if (rows.malformed != 0)
        problems.push_back({std::string(about), fmt::format("{} lines are not of the form that was asked for; the "
                                                            "first: {:?}",
                                                            rows.malformed, rows.example)});
}

std::string words_of(const sys::ToolResult &result) {
    std::string out = result.errors.substr(0, 1000);
    std::ranges::replace(out, '\n', ' ');
    return out;
}

/// Lists all below some datasets, in parts where the whole is too long for one run.
class Lister {
public:
    Lister(const ZfsTool &zfs, std::vector<Problem> &problems, size_t max_datasets)
        : zfs_(zfs), problems_(problems), max_datasets_(max_datasets) {}

    std::vector<ZfsDataset> list(const std::vector<ZfsPool> &pools) {
        for (const auto &pool : pools)
            todo_.push_back({pool.name});
        std::ranges::reverse(todo_);
        while (!todo_.empty() && !stopped_) {
            const auto names = std::move(todo_.back());
            todo_.pop_back();
            list_below(names);
        }
        std::ranges::sort(out_, {}, &ZfsDataset::name);
        return std::move(out_);
    }

private:
    using Names = std::vector<std::string>;
    struct Part {
        std::vector<ZfsDataset> rows;
        bool cut = false;
    };

    void list_below(const Names &names) {
        auto part = run({"-r", "-t", "filesystem,volume,snapshot"}, names);
        if (!part) return;
        if (!part->cut) return keep(std::move(part->rows));
        if (names.size() == 1) return list_in_parts(names.front());
        const auto middle = names.begin() + static_cast<Names::difference_type>(names.size() / 2);
        todo_.emplace_back(middle, names.end());
        todo_.emplace_back(names.begin(), middle);
    }

    /// The dataset, its own snapshots; its children later.
    void list_in_parts(const std::string &name) {
        auto datasets = run({"-d", "1", "-t", "filesystem,volume"}, {name});
        auto snapshots = run({"-d", "1", "-t", "snapshot"}, {name});
        if (!datasets || !snapshots) return;
        if (datasets->cut) note(name, "the list of its children was cut at a mebibyte");
        if (snapshots->cut) note(name, "the list of its snapshots was cut at a mebibyte");
        Names children;
        std::vector<ZfsDataset> own;
        for (auto &row : datasets->rows) {
            if (row.name == name) {
                own.push_back(std::move(row));
            } else if (row.name.size() > name.size()) { // a child's name is longer: what it says here ends
                children.push_back(std::move(row.name));
            }
        }
        keep(std::move(own));
        keep(std::move(snapshots->rows));
        for (size_t at = 0; at < children.size(); at += batch_size) {
            const auto begin = children.begin() + static_cast<Names::difference_type>(at);
            const size_t count = std::min(batch_size, children.size() - at);
            todo_.emplace_back(begin, begin + static_cast<Names::difference_type>(count));
        }
    }

    /// nullopt: nothing was learnt; that is noted.
    std::optional<Part> run(std::initializer_list<std::string> options, const Names &names) {
        if (++runs_ > max_runs) {
            stop("too many of them for this many calls of zfs; the list is not complete");
            return std::nullopt;
        }
        std::vector<std::string> arguments{"list", "-H", "-p", "-o", std::string(zfs_columns)};
        arguments.insert(arguments.end(), options);
        arguments.insert(arguments.end(), names.begin(), names.end());
        auto done = zfs_(arguments);
        if (!done) {
            note(names.front(), done.error().text());
            // The next one would wait as long.
            if (done.error().code() == Errc::DeadlineExceeded) stopped_ = true;
            return std::nullopt;
        }
        // One that has been destroyed meanwhile is said on the error stream; the others are listed all the same.
        if (done->exit_status != 0 && (done->output.empty() || !done->errors.contains("does not exist")))
            note(names.front(), fmt::format("zfs list ended with status {}: {}", done->exit_status, words_of(*done)));
        Part out;
        out.cut = done->output.size() >= output_limit;
        if (out.cut) done->output.resize(done->output.rfind('\n') + 1); // none: npos + 1 is 0
        auto rows = parse_zfs_datasets(done->output);
        if (!out.cut) note_malformed(rows, fmt::format("zfs list {}", names.front()), problems_);
        out.rows = std::move(rows.rows);
        return out;
    }

    void keep(std::vector<ZfsDataset> rows) {
        for (auto &row : rows) {
            if (out_.size() >= max_datasets_)
                return stop(fmt::format("there are more than {}; the others are left out", max_datasets_));
            out_.push_back(std::move(row));
        }
    }

    void note(std::string_view name, std::string why) {
        problems_.push_back({fmt::format("zfs list {}", name), std::move(why)});
    }
    void stop(std::string why) {
        if (!stopped_) problems_.push_back({"datasets of zfs", std::move(why)});
        stopped_ = true;
    }

    const ZfsTool &zfs_;
    std::vector<Problem> &problems_;
    size_t max_datasets_;
    std::vector<Names> todo_;
    std::vector<ZfsDataset> out_;
    size_t runs_ = 0;
    bool stopped_ = false;
};

std::vector<ZfsPool> list_pools(const ZfsTool &zpool, std::vector<Problem> &problems) {
    const std::string_view older = zpool_columns.substr(0, zpool_columns.rfind(','));
    auto done = zpool({"list", "-H", "-p", "-o", std::string(zpool_columns)});
    if (done && done->exit_status != 0) done = zpool({"list", "-H", "-p", "-o", std::string(older)});
    if (!done || done->exit_status != 0) {
        problems.push_back(
            {"zpool list",
             done ? fmt::format("ended with status {}: {}", done->exit_status, words_of(*done)) : done.error().text()});
        return {};
    }
    if (done->output.size() >= output_limit) {
        problems.push_back({"zpool list", "the list was cut at a mebibyte"});
        done->output.resize(done->output.rfind('\n') + 1);
    }
    auto rows = parse_zpool_list(done->output);
    note_malformed(rows, "zpool list", problems);
    return std::move(rows.rows);
}

} // namespace

ZfsRows<ZfsPool> parse_zpool_list(std::string_view text) {
    return rows_of<ZfsPool>(text, pool_of);
}

ZfsRows<ZfsDataset> parse_zfs_datasets(std::string_view text) {
    return rows_of<ZfsDataset>(text, dataset_of);
}

ZfsFacts list_zfs(const ZfsTool &zpool, const ZfsTool &zfs, std::vector<Problem> &problems, size_t max_datasets) {
    ZfsFacts out;
    out.pools = list_pools(zpool, problems);
    out.datasets = Lister(zfs, problems, max_datasets).list(out.pools);
    return out;
}

ZfsFacts read_zfs(const Host &host, std::vector<Problem> &problems) {
    if (!host.live() || !host.is_dir("/sys/module/zfs")) return {};
    const auto tool = [](const char *name) -> ZfsTool {
        return [path = sys::find_tool(name, "zfsutils-linux")](const std::vector<std::string> &arguments) {
            if (!path) return Result<sys::ToolResult>(std::unexpected(path.error()));
            std::vector<std::string> all{*path};
            all.insert(all.end(), arguments.begin(), arguments.end());
            return sys::run_tool(all, deadline);
        };
    };
    return list_zfs(tool("zpool"), tool("zfs"), problems);
}

} // namespace shale::probe
