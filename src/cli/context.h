// SPDX-License-Identifier: Apache-2.0
// What a verb works with: settings, output, the store.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "cli/args.h"
#include "cli/json.h"
#include "cli/load.h"
#include "cli/options.h"
#include "cli/table.h"

namespace shale::cli {

/// How this process stands to privilege.
struct Rootless {
    bool active = false;     ///< in a user namespace of ours
    std::string unavailable; ///< why there is none, when one was needed
    unsigned ids = 0;        ///< how many user ids are mapped
};

class Context {
public:
    Globals globals;
    Config config;
    Settings settings;
    Rootless rootless;
    mode_t user_umask = 022; ///< as it was when shale started; for files that the user asked for
    const std::atomic<bool> *cancel = nullptr;

    /// migrate: by the store's own driver, whatever the configuration names, and also where it has moved away from.
    enum class Access : uint8_t { normal, read_only, migrate };
    Result<std::unique_ptr<store::Store>> open_store(Access access = Access::normal) const;

    /// Gives back the space of what was removed, once the user has been told of it.
    Status reap(store::Store &store) const;

    /// Standard output; whether it arrived is asked once, at the end (flush_output).
    static void print(std::string_view text);
    static void print(const Json &json) { print(json.text()); }
    static void print(const Table &table) { print(table.text()); }
    /// A line on standard error.
    static void note(std::string_view text);
    void detail(std::string_view text) const {
        if (globals.verbose) note(text);
    }
};

/// Error when standard output could not be written (disk full, closed pipe).
Status flush_output();

/// A file that a verb writes: complete and synced under its name, or not there at all. "-" and what is no regular file
/// (pipes, /dev/stdout) are written in place.
class OutputFile {
public:
    OutputFile() = default;
    OutputFile(OutputFile &&) = default;
    OutputFile &operator=(OutputFile &&) = delete;
    ~OutputFile();
    static Result<OutputFile> create(const std::string &path, const Context &context);
    [[nodiscard]] archive::Sink sink();
    Status commit();

private:
    std::string path_, partial_;
    UniqueFd fd_;
    int out_ = -1;
    bool sync_ = true;
};

/// "12 hours ago" for a time of the store.
std::string ago(int64_t unix_ns);
/// First 12 hex digits.
std::string short_digest(const Digest &digest);

} // namespace shale::cli
