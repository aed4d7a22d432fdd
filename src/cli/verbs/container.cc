// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <unistd.h>

#include <climits>
#include <cstdlib>

#include "base/units.h"
#include "cli/verbs.h"

namespace shale::cli {
namespace {

void write_container(Json &json, const store::ContainerInfo &container) {
    json.object().field("id", container.id.value).field("name", container.name).key("image");
    if (container.image)
        json.value(container.image->text());
    else
        json.null();
    json.field("image_name", container.image_name).key("parents").array();
    for (const LayerId id : container.parents)
        json.value(id.value);
    json.end().field("created", format_time_ns(container.created_ns));
    json.key("mounted_at");
    if (container.mounted_at.empty())
        json.null();
    else
        json.value(container.mounted_at);
    json.field("quota_bytes", container.quota.bytes).field("quota_inodes", container.quota.inodes);
}

void print_warnings(const Context &context, const archive::PackReport &report) {
    for (const std::string &warning : report.warnings)
        context.note("shale: warning: " + printable(warning));
    if (report.skipped_sockets != 0)
        context.detail(fmt::format("shale: note: {} sockets were left out", report.skipped_sockets));
}

/// A path as the store wants it: absolute.
Result<std::string> absolute(const std::string &path) {
    if (path.empty() || path[0] == '/') return path;
    std::string here(PATH_MAX, '\0');
    if (getcwd(here.data(), here.size()) == nullptr) return fail_errno(errno, "getcwd");
    return fmt::format("{}/{}", here.c_str(), path);
}

} // namespace

Result<int> run(Context &context, const ContainerCreateArgs &args) {
    drivers::Quota quota;
    if (!args.size.empty()) quota.bytes = TRY(in_context(parse_bytes(args.size), [] { return std::string("--size"); }));
    quota.inodes = args.inodes;
    auto store = TRY(context.open_store());
    const auto container = TRY(store->create_container(args.image, args.name, quota));
    if (context.globals.json) {
        Json json;
        write_container(json, container);
        json.end();
        context.print(json);
    } else {
        context.print(fmt::format("{}\n", container.name.empty() ? to_string(container.id) : container.name));
    }
    return 0;
}

Result<int> run(Context &context, const ContainerMountArgs &args) {
    auto store = TRY(context.open_store());
    const std::string path = TRY(store->mount_container(args.name, TRY(absolute(args.target))));
    if (context.globals.json) {
        Json json;
        json.object().field("name", args.name).field("path", path).end();
        context.print(json);
    } else {
        context.print(path + "\n");
    }
    if (context.rootless.active && context.rootless.ids != 0 && store->driver().name() != "vfs")
        context.note("shale: note: without root the mount is seen only inside this command's own mount namespace and "
                     "goes with it; "
                     "work inside: `shale unshare sh`, then `shale container mount ...` there");
    return 0;
}

Result<int> run(Context &context, const ContainerUnmountArgs &args) {
    auto store = TRY(context.open_store());
    TRY(store->unmount_container(args.name));
    return 0;
}

Result<int> run(Context &context, const ContainerLsArgs &) {
    auto store = TRY(context.open_store());
    const auto containers = TRY(store->list_containers());
    if (context.globals.json) {
        Json json;
        json.array();
        for (const auto &container : containers) {
            write_container(json, container);
            json.end();
        }
        json.end();
        context.print(json);
        return 0;
    }
    if (context.globals.quiet) {
        for (const auto &container : containers)
            context.print(to_string(container.id) + "\n");
        return 0;
    }
    Table table({">CONTAINER ID", "NAME", "IMAGE", "CREATED", "MOUNTED AT"});
    for (const auto &container : containers)
        table.add({to_string(container.id), container.name, container.image_name.empty() ? "-" : container.image_name,
                   ago(container.created_ns), container.mounted_at.empty() ? "-" : container.mounted_at});
    context.print(table);
    return 0;
}

Result<int> run(Context &context, const ContainerInspectArgs &args) {
    auto store = TRY(context.open_store());
    const auto container = TRY(store->find_container(args.name));
    const auto usage = TRY(store->container_usage(container));
    const auto mounts = TRY(store->container_mounts(container));
    Json json;
    write_container(json, container);
    json.key("usage")
        .object()
        .field("bytes", usage.bytes)
        .field("inodes", usage.inodes)
        .field("counted", usage.counted)
        .end();
    json.key("mounts").array();
    for (const auto &mount : mounts) {
        json.object()
            .field("type", mount.type)
            .field("source", mount.source)
            .key("options")
            .strings(mount.options)
            .end();
    }
    json.end().end();
    context.print(json);
    return 0;
}

Result<int> run(Context &context, const ContainerDiffArgs &args) {
    auto store = TRY(context.open_store());
    Json json;
    json.array();
    TRY(store->container_changes(args.name, [&](const archive::Change &change) -> Status {
        const char letter = change.kind == archive::ChangeKind::added     ? 'A'
                            : change.kind == archive::ChangeKind::deleted ? 'D'
                                                                          : 'C';
        if (context.globals.json)
            json.object().field("kind", std::string_view(&letter, 1)).field("path", change.path).end();
        else
            Context::print(fmt::format("{} {}\n", letter, printable(change.path)));
        return {};
    }));
    json.end();
    if (context.globals.json) context.print(json);
    return 0;
}

Result<int> run(Context &context, const ContainerCommitArgs &args) {
    store::CommitRequest request;
    request.container = args.container;
    request.name = args.name;
    request.comment = args.comment;
    request.author = args.author;
    if (!args.cmd.empty()) request.cmd = TRY(parse_command(args.cmd));
    using archive::Compression;
    request.compression = args.compression == "zstd"   ? Compression::zstd
                          : args.compression == "none" ? Compression::none
                                                       : Compression::gzip;
    auto store = TRY(context.open_store());
    const auto result = TRY(store->commit_container(request));
    print_warnings(context, result.pack);
    if (!result.native_diff)
        context.detail(fmt::format("shale: note: the container was compared with its image entry by entry: {}",
                                   result.walk_reason));
    if (context.globals.json) {
        Json json;
        json.object().field("diff_id", result.diff_id.text()).field("native_diff", result.native_diff);
        json.field("walk_reason", result.walk_reason)
            .field("entries", result.pack.entries)
            .field("bytes", result.pack.bytes);
        json.key("image");
        write_image(json, result.image);
        json.end();
        context.print(json);
    } else {
        context.print(result.image.manifest.text() + "\n");
    }
    return 0;
}

Result<int> run(Context &context, const ContainerExportArgs &args) {
    auto store = TRY(context.open_store());
    const auto container = TRY(store->find_container(args.name));
    OutputFile file = TRY(OutputFile::create(args.file, context));
    const auto report = TRY(store->export_container(to_string(container.id), file.sink()));
    TRY(file.commit());
    print_warnings(context, report);
    return 0;
}

Result<int> run(Context &context, const ContainerRmArgs &args) {
    auto store = TRY(context.open_store());
    std::optional<Error> first;
    std::vector<std::string> removed;
    for (const std::string &name : args.names) {
        Status done;
        if (context.globals.dry_run) {
            auto found = store->find_container(name);
            if (!found)
                done = std::unexpected(std::move(found).error());
            else if (!found->mounted_at.empty() && !args.force)
                done = fail(Errc::FailedPrecondition,
                            fmt::format("container {} is mounted at {}", name, found->mounted_at));
        } else {
            done = store->remove_container(name, args.force);
        }
        if (done) {
            removed.push_back(name);
        } else if (first) {
            context.note("shale: error: " + printable(done.error().text()));
        } else {
            first = std::move(done).error();
        }
    }
    if (context.globals.json) {
        Json json;
        json.object().field("dry_run", context.globals.dry_run).key("removed").strings(removed).end();
        context.print(json);
    } else {
        for (const std::string &name : removed)
            context.print(fmt::format("{}{}\n", context.globals.dry_run ? "would remove " : "", printable(name)));
    }
    Status reaped;
    if (!context.globals.dry_run) reaped = context.reap(*store);
    if (first) return std::unexpected(std::move(*first));
    TRY(std::move(reaped));
    return 0;
}

} // namespace shale::cli
