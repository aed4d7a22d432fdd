// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/podman_records.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <set>
#include <utility>

#include "doctor/hosts/held_lock.h"
#include "doctor/hosts/times.h"
#include "oci/json.h"

namespace shale::doctor::podman {
namespace {

using oci::Json;

constexpr size_t max_list_bytes = size_t{256} << 20U;
constexpr std::string_view base64_digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A list of records, and where it is.
struct ListFile {
    std::string path, what;
    std::string base;
};

std::vector<ListFile> layer_lists(const Places &places) {
    std::vector<ListFile> out;
    for (const std::string &base : places.bases())
        for (const char *name : {"layers.json", "volatile-layers.json"})
            out.push_back({fmt::format("{}/{}", places.records(base, "layers"), name), "layer records", base});
    if (!places.run_root.empty())
        out.push_back(
            {places.records(places.run_root, "layers") + "/volatile-layers.json", "layer records", places.root});
    return out;
}

std::vector<ListFile> image_lists(const Places &places) {
    std::vector<ListFile> out;
    for (const std::string &base : places.bases())
        out.push_back({places.records(base, "images") + "/images.json", "image records", base});
    return out;
}

std::vector<ListFile> container_lists(const Places &places) {
    const std::string dir = places.records(places.root, "containers");
    std::vector<ListFile> out{{dir + "/containers.json", "container records", places.root},
                              {dir + "/volatile-containers.json", "container records", places.root}};
    if (!places.run_root.empty())
        out.push_back({places.records(places.run_root, "containers") + "/volatile-containers.json", "container records",
                       places.root});
    return out;
}

/// Volatile lists come and go; the others are there as soon as there is anything.
bool may_be_missing(const ListFile &list) {
    return list.path.contains("/volatile-");
}

/// The member as a count of bytes; nullopt: absent, negative or no number.
std::optional<uint64_t> size_member(const Json &object, const char *key) {
    const Json *value = oci::find_member(object, key);
    if (value == nullptr) return std::nullopt;
    const auto *bytes = value->get_ptr<const Json::number_unsigned_t *>();
    return bytes == nullptr ? std::nullopt : std::optional<uint64_t>(*bytes);
}

Result<std::string> id_member(const Json &object, const char *key, std::string_view where) {
    std::string id = TRY(oci::string_member(object, key, where));
    if (!id.empty() && !is_plain_name(id))
        return fail(Errc::InvalidArgument, fmt::format("{}: {:?} is no name of a layer, image or container",
                                                       oci::field_path(where, key), id.substr(0, 100)));
    return id;
}

Result<std::string> own_id(const Json &object, std::string_view where) {
    std::string id = TRY(id_member(object, "id", where));
    if (id.empty()) return fail(Errc::InvalidArgument, fmt::format("{} is missing", oci::field_path(where, "id")));
    return id;
}

bool has_incomplete_flag(const Json &object) {
    const Json *flags = oci::find_member(object, "flags");
    const Json *flag = flags == nullptr ? nullptr : oci::find_member(*flags, "incomplete");
    return flag != nullptr && flag->is_boolean() && flag->get<bool>();
}

Result<LayerRecord> layer_of(const Json &object, std::string_view where) {
    LayerRecord out;
    out.id = TRY(own_id(object, where));
    out.parent = TRY(id_member(object, "parent", where));
    const auto names = TRY(oci::list_member(object, "names", where));
    out.name = names.empty() ? TRY(oci::string_member(object, "diff-digest", where)) : names.front();
    // Of a layer without a digest the size says nothing (layers.go, UncompressedSize).
    if (oci::find_member(object, "diff-digest") != nullptr || oci::find_member(object, "toc-digest") != nullptr)
        out.diff_bytes = size_member(object, "diff-size");
    out.created_s = rfc3339_s(TRY(oci::string_member(object, "created", where)));
    out.incomplete = has_incomplete_flag(object);
    return out;
}

Result<ImageRecord> image_of(const Json &object, std::string_view where) {
    ImageRecord out;
    out.id = TRY(own_id(object, where));
    out.names = TRY(oci::list_member(object, "names", where));
    if (std::string top = TRY(id_member(object, "layer", where)); !top.empty()) out.tops.push_back(std::move(top));
    for (std::string &mapped : TRY(oci::list_member(object, "mapped-layers", where)))
        if (is_plain_name(mapped)) out.tops.push_back(std::move(mapped));
    out.created_s = rfc3339_s(TRY(oci::string_member(object, "created", where)));
    const Json *sizes = TRY(oci::object_member(object, "big-data-sizes", where));
    for (std::string &key : TRY(oci::list_member(object, "big-data-names", where))) {
        const auto size = sizes == nullptr ? std::nullopt : size_member(*sizes, key.c_str());
        out.data.emplace(std::move(key), size);
    }
    return out;
}

Result<ContainerRecord> container_of(const Json &object, std::string_view where) {
    ContainerRecord out;
    out.id = TRY(own_id(object, where));
    out.names = TRY(oci::list_member(object, "names", where));
    out.image = TRY(id_member(object, "image", where));
    out.layer = TRY(id_member(object, "layer", where));
    out.created_s = rfc3339_s(TRY(oci::string_member(object, "created", where)));
    return out;
}

/// The list's elements, each through `parse`. An element that cannot be read spoils the whole list, as it does for
/// containers/storage.
template <class Record>
Status read_list(std::string_view text, Result<Record> (*parse)(const Json &, std::string_view),
                 std::vector<Record> &out) {
    size_t number = 0;
    return for_each_element(text, [&](std::string_view element) -> Status {
        const std::string where = fmt::format("element {}", number++);
        if (number > max_entries)
            return fail(Errc::ResourceExhausted, fmt::format("more than {} elements", max_entries));
        out.push_back(TRY(parse(TRY(oci::parse_object(element, where)), where)));
        return {};
    });
}

/// Appends what is in `list`; of an id that occurs twice the first counts, as in containers/storage.
template <class Record>
probe::RecordSource read_source(const probe::Host &host, const ListFile &list,
                                Result<Record> (*parse)(const Json &, std::string_view), std::vector<Record> &out,
                                std::set<std::string> &ids) {
    probe::RecordSource source{.path = list.path, .what = list.what, .state = "unreadable", .why = {}, .entries = 0};
    const auto text = host.read_if_there(list.path, max_list_bytes);
    if (!text) {
        source.why = text.error().text();
        return source;
    }
    if (!*text) {
        source.state = "missing";
        return source;
    }
    if ((*text)->empty()) {
        source.why = "0 bytes: an unclean shutdown leaves such files; podman takes it for an empty list";
        return source;
    }
    std::vector<Record> records;
    if (const auto done = read_list(**text, parse, records); !done) {
        source.why = done.error().text();
        return source;
    }
    source.state = "read";
    source.entries = records.size();
    for (Record &record : records) {
        if (!ids.insert(record.id).second) continue;
        if constexpr (requires { record.base; }) record.base = list.base;
        out.push_back(std::move(record));
    }
    return source;
}

template <class Record>
void read_all(const probe::Host &host, const std::vector<ListFile> &lists,
              Result<Record> (*parse)(const Json &, std::string_view), std::vector<Record> &out,
              std::vector<probe::RecordSource> &sources) {
    std::set<std::string> ids;
    for (const ListFile &list : lists) {
        probe::RecordSource source = read_source(host, list, parse, out, ids);
        if (source.state != "missing" || !may_be_missing(list)) sources.push_back(std::move(source));
    }
}

/// A missing list of layers means that there is none, unless an image or a container stands on one.
void doubt_missing(Records &records) {
    const auto stands_on_layer = [](const ImageRecord &image) { return !image.tops.empty(); };
    const bool layers_wanted = !records.containers.empty() || std::ranges::any_of(records.images, stands_on_layer);
    const bool layers_read = std::ranges::any_of(records.sources, [](const probe::RecordSource &source) {
        return source.what == "layer records" && source.state == "read";
    });
    if (!layers_wanted || layers_read) return;
    for (probe::RecordSource &source : records.sources)
        if (source.what == "layer records" && source.state == "missing") {
            source.state = "unreadable";
            source.why = fmt::format("it is missing, but there are records of {} images and {} containers",
                                     records.images.size(), records.containers.size());
        }
}

/// Digits of a fixed place.
/// "Z" or "+02:00", as seconds east of UTC.
std::string base64(std::string_view bytes) {
    std::string out;
    for (size_t at = 0; at < bytes.size(); at += 3) {
        uint32_t group = 0;
        const size_t count = std::min<size_t>(3, bytes.size() - at);
        for (size_t i = 0; i < 3; ++i)
            group = group << 8U | (i < count ? static_cast<unsigned char>(bytes[at + i]) : 0U);
        for (size_t i = 0; i < 4; ++i)
            out += i <= count ? base64_digits[group >> (18 - 6 * i) & 63U] : '=';
    }
    return out;
}

void add_mark(const probe::Host &host, const std::string &path, std::string &text) {
    const auto status = host.stat(path);
    if (!status || !*status) {
        text += status ? "-;" : "?;";
        return;
    }
    const struct stat &s = **status;
    text += fmt::format("{}:{}:{}.{};", s.st_ino, s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
}

} // namespace

std::string Places::records(const std::string &base, std::string_view kind) const {
    return fmt::format("{}/{}-{}", base, driver, kind);
}

std::string Places::home(const std::string &base) const {
    return fmt::format("{}/{}", base, driver);
}

std::vector<std::string> Places::bases() const {
    std::vector<std::string> out{root};
    if (!image_store.empty() && image_store != root) out.push_back(image_store);
    return out;
}

Records read_records(const probe::Host &host, const Places &places) {
    Records out;
    read_all(host, layer_lists(places), layer_of, out.layers, out.sources);
    read_all(host, image_lists(places), image_of, out.images, out.sources);
    read_all(host, container_lists(places), container_of, out.containers, out.sources);
    doubt_missing(out);
    return out;
}

Foreign read_additional(const probe::Host &host, const Places &places, std::vector<probe::RecordSource> &sources) {
    Foreign out;
    std::vector<LayerRecord> layers;
    std::set<std::string> ids;
    for (const std::string &store : places.additional) {
        const ListFile list{places.records(store, "layers") + "/layers.json", "layer records of an additional store",
                            store};
        sources.push_back(read_source(host, list, layer_of, layers, ids));
        out.complete = out.complete && sources.back().state == "read";
    }
    for (LayerRecord &layer : layers)
        out.layers.emplace(layer.id, std::move(layer));
    return out;
}

Mark mark(const probe::Host &host, const Places &places) {
    Mark out;
    std::vector<std::string> locks{places.records(places.root, "containers") + "/containers.lock"};
    for (const std::string &base : places.bases()) {
        locks.push_back(places.records(base, "layers") + "/layers.lock");
        locks.push_back(places.records(base, "images") + "/images.lock");
    }
    if (!places.run_root.empty()) locks.push_back(places.records(places.run_root, "containers") + "/containers.lock");
    for (const std::string &lock : locks) {
        out.writing = out.writing || is_locked(host, lock, sys::LockMode::shared).value_or(false);
        add_mark(host, lock, out.text);
    }
    for (const auto &lists : {layer_lists(places), image_lists(places), container_lists(places)})
        for (const ListFile &list : lists)
            add_mark(host, list.path, out.text);
    return out;
}

Status for_each_element(std::string_view text, const std::function<Status(std::string_view)> &visit) {
    constexpr std::string_view spaces = " \t\r\n";
    const auto skip = [&](size_t at) { return std::min(text.find_first_not_of(spaces, at), text.size()); };
    const auto bad = [&](size_t at) {
        return at >= text.size() ? fail(Errc::InvalidArgument, fmt::format("cut off after {} bytes", text.size()))
                                 : fail(Errc::InvalidArgument, fmt::format("byte {}: not a list of records", at));
    };
    size_t at = skip(0);
    if (text.substr(at).starts_with("null") && skip(at + 4) == text.size()) return {};
    if (at >= text.size() || text[at] != '[') return bad(at);
    at = skip(at + 1);
    bool closed = at < text.size() && text[at] == ']';
    while (!closed) {
        const size_t begin = at;
        size_t depth = 0;
        bool quoted = false;
        for (; at < text.size(); ++at) {
            const char c = text[at];
            if (quoted) {
                if (c == '\\')
                    ++at;
                else if (c == '"')
                    quoted = false;
            } else if (c == '"')
                quoted = true;
            else if (c == '{' || c == '[')
                ++depth;
            else if (depth == 0 && (c == ',' || c == ']'))
                break;
            else if ((c == '}' || c == ']') && depth > 0)
                --depth;
        }
        if (at >= text.size()) return bad(text.size());
        TRY(visit(text.substr(begin, at - begin)));
        closed = text[at] == ']';
        if (!closed) at = skip(at + 1);
    }
    if (const size_t rest = skip(at + 1); rest != text.size()) return bad(rest);
    return {};
}

std::string data_file(std::string_view key) {
    const auto is_plain = [](char c) { return c == '.' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z'); };
    const auto *first = std::ranges::find_if_not(key, is_plain);
    // One that comes last is not noticed there.
    if (first == key.end() || first + 1 == key.end()) return std::string(key);
    return "=" + base64(key);
}

bool is_plain_name(std::string_view name) {
    return !name.empty() && name.size() <= 255 && name != "." && name != ".." && !name.contains('/') &&
           !name.contains('\0');
}

} // namespace shale::doctor::podman
