// SPDX-License-Identifier: Apache-2.0
// run, unshare.
#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "cli/runtime.h"
#include "cli/verbs.h"
#include "sys/fs.h"
#include "sys/random.h"

namespace shale::cli {
namespace {

/// Bundle and runtime state: on a tmpfs that a reboot clears where there is one.
Result<std::string> make_bundle_dir(bool rootless) {
    std::vector<std::string> places;
    if (const char *dir = getenv("XDG_RUNTIME_DIR"); rootless && dir != nullptr) places.emplace_back(dir);
    if (!rootless) places.emplace_back("/run");
    if (const char *dir = getenv("TMPDIR"); dir != nullptr) places.emplace_back(dir);
    places.emplace_back("/tmp");
    for (const std::string &place : places) {
        std::string path = place + "/shale-run-XXXXXX";
        if (place.starts_with('/') && mkdtemp(path.data()) != nullptr) return path;
    }
    return fail_errno(errno, fmt::format("make a directory in {}", fmt::join(places, ", ")));
}

Result<int> run_mounted(Context &context, const RunArgs &args, const oci::Config &config, const std::string &name,
                        const std::string &root) {
    RunSpec spec = TRY(run_spec(config, args.command));
    spec.root = root;
    spec.hostname = name;
    spec.in_user_namespace = context.rootless.active;
    spec.terminal = isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0;
    {
        const UniqueFd dir = TRY(sys::open_dir(AT_FDCWD, root.c_str()));
        spec.user = TRY(find_user(dir.get(), config.user));
    }
    bool has_home = false;
    for (const std::string &one : spec.env)
        has_home = has_home || one.starts_with("HOME=");
    if (!has_home) spec.env.push_back("HOME=" + spec.user.home);
    const std::string runtime = TRY(find_runtime(args.runtime));
    const std::string bundle = TRY(make_bundle_dir(context.rootless.active));
    const ScopeGuard remove_bundle([&] { (void)sys::remove_tree(AT_FDCWD, bundle.c_str()); });
    const UniqueFd dir = TRY(sys::open_dir(AT_FDCWD, bundle.c_str()));
    const UniqueFd file = TRY(sys::open_at(dir.get(), "config.json", O_WRONLY | O_CREAT | O_EXCL, 0600));
    const std::string text = bundle_config(spec);
    TRY(sys::write_all(file.get(), std::as_bytes(std::span(text))));
    context.detail(fmt::format("shale: note: {} runs {} with {}", name, fmt::join(spec.args, " "), runtime));
    return run_bundle(runtime, bundle + "/state", bundle, "shale-" + name);
}

} // namespace

Result<int> run(Context &context, const RunArgs &args) {
    auto store = TRY(context.open_store());
    store::ContainerInfo container;
    bool remove = false;
    if (!args.container.empty()) {
        container = TRY(store->find_container(args.container));
    } else {
        container = TRY(
            store->create_container(args.image, args.name.empty() ? "run-" + TRY(sys::random_hex(6)) : args.name, {}));
        remove = args.remove || (args.name.empty() && !args.keep);
    }
    const std::string reference = to_string(container.id);
    ScopeGuard remove_container([&] {
        if (!remove) return;
        if (auto done = store->remove_container(reference, true); !done)
            context.note("shale: warning: " + done.error().text());
        else
            (void)context.reap(*store);
    });
    oci::Config config;
    if (container.image) {
        const auto image = TRY(store->find_image(container.image->text()));
        config = TRY(oci::parse_config(TRY(store->image_config(image.config))));
    }
    const bool was_mounted = !container.mounted_at.empty();
    const std::string root = was_mounted ? container.mounted_at : TRY(store->mount_container(reference));
    auto code = run_mounted(context, args, config, container.name.empty() ? reference : container.name, root);
    if (!was_mounted)
        if (auto done = store->unmount_container(reference); !done)
            context.note("shale: warning: " + done.error().text());
    return code;
}

Result<int> run(Context &context, const UnshareArgs &args) {
    if (!context.rootless.unavailable.empty()) return fail(Errc::PermissionDenied, context.rootless.unavailable);
    if (geteuid() == 0 && !context.rootless.active)
        return fail(Errc::FailedPrecondition,
                    "unshare is for callers without root; root's mounts are visible everywhere");
    std::vector<std::string> command = args.command;
    if (command.empty()) {
        const char *shell = getenv("SHELL");
        command.emplace_back(shell != nullptr && *shell != '\0' ? shell : "/bin/sh");
    }
    return run_child(command.front(), command, context.user_umask);
}

} // namespace shale::cli
