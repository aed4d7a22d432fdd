// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "oci/media_type.h"
#include "oci/reference.h"
#include "oci/source.h"
#include "oci/stream.h"

namespace shale::oci {
namespace {

constexpr unsigned max_index_depth = 4;

/// A document blob, checked for size and digest.
Result<std::string> load_document(const Layout &layout, const Descriptor &descriptor, std::string_view what) {
    const BlobView view = TRY(in_context(layout.blob(descriptor.digest), [&] { return std::string(what); }));
    if (view.size != descriptor.size)
        return fail(Errc::DataLoss, fmt::format("{} {} has {} bytes, its descriptor says {}", what,
                                                descriptor.digest.text(), view.size, descriptor.size));
    std::string text = TRY(read_document(view, max_document_bytes, what));
    if (const Digest got = Digest::of(text); got != descriptor.digest)
        return fail(Errc::DataLoss, fmt::format("{} {} has digest {}", what, descriptor.digest.text(), got.text()));
    return text;
}

bool is_attestation(const Descriptor &entry) {
    return (entry.os == "unknown" && entry.architecture == "unknown") ||
           entry.annotations.contains("vnd.docker.reference.type");
}

bool has_platform(const Descriptor &entry) {
    return !entry.os.empty() || !entry.architecture.empty();
}

bool fits(const Descriptor &entry, const SourceOptions &options) {
    return entry.os == options.os && entry.architecture == options.architecture;
}

std::string platforms(const std::vector<Descriptor> &entries) {
    std::string out;
    for (const Descriptor &entry : entries)
        out += fmt::format("{}{}/{}", out.empty() ? "" : ", ", entry.os, entry.architecture);
    return out;
}

/// From an index to one manifest of the wanted platform.
Result<Descriptor> choose(const Layout &layout, Descriptor entry, const SourceOptions &options) {
    std::set<Digest> seen;
    for (unsigned depth = 0; is_index_type(entry.media_type); ++depth) {
        if (depth == max_index_depth)
            return fail(Errc::InvalidArgument, fmt::format("indexes nested more than {} deep", max_index_depth));
        if (!seen.insert(entry.digest).second)
            return fail(Errc::InvalidArgument, fmt::format("index {} holds itself", entry.digest.text()));
        const std::string text = TRY(load_document(layout, entry, "index"));
        auto entries = TRY(parse_index(text));
        std::erase_if(entries, [](const Descriptor &item) {
            return is_attestation(item) || !(is_manifest_type(item.media_type) || is_index_type(item.media_type));
        });
        auto best = std::ranges::find_if(entries, [&](const Descriptor &item) { return fits(item, options); });
        if (best == entries.end())
            best = std::ranges::find_if(entries, [](const Descriptor &item) { return !has_platform(item); });
        if (best == entries.end() && entries.size() == 1) best = entries.begin();
        if (best == entries.end())
            return fail(Errc::NotFound,
                        fmt::format("index {} has no manifest for {}/{}; it has: {}", entry.digest.text(), options.os,
                                    options.architecture, platforms(entries)));
        entry = Descriptor(*best);
    }
    if (!is_manifest_type(entry.media_type))
        return fail(Errc::Unimplemented,
                    fmt::format("{}: media type \"{}\" is not an image's", entry.digest.text(), entry.media_type));
    return entry;
}

struct Candidate {
    Descriptor entry;
    std::string name;     ///< normalised, may be empty
    std::string bare_tag; ///< as stated
};

Result<Candidate> name_entry(Descriptor entry, const std::string &stem) {
    Candidate out;
    if (const auto full = entry.annotations.find("io.containerd.image.name"); full != entry.annotations.end())
        out.name = TRY(stated_name(full->second));
    if (const auto ref = entry.annotations.find("org.opencontainers.image.ref.name"); ref != entry.annotations.end()) {
        if (is_hostile_name(ref->second)) TRY(stated_name(ref->second));
        if (is_tag(ref->second)) {
            out.bare_tag = ref->second;
            if (out.name.empty() && !stem.empty()) out.name = TRY(stated_name(stem + ":" + ref->second));
        } else if (out.name.empty()) {
            out.name = TRY(stated_name(ref->second));
        }
    }
    out.entry = std::move(entry);
    return out;
}

/// Entries of one name that differ in platform are one image for several platforms, not several images.
void choose_platforms(std::vector<Candidate> &candidates, const SourceOptions &options) {
    std::map<std::string, bool> group_fits;
    for (const Candidate &item : candidates)
        group_fits[item.name + "\n" + item.bare_tag] |= fits(item.entry, options);
    std::erase_if(candidates, [&](const Candidate &item) {
        return group_fits[item.name + "\n" + item.bare_tag] && has_platform(item.entry) && !fits(item.entry, options);
    });
}

} // namespace

Result<std::string> stated_name(std::string_view text) {
    auto name = normalize_reference(text);
    if (name) return name;
    if (is_hostile_name(text)) return std::unexpected(std::move(name).error().add("image name in the source"));
    return std::string();
}

bool wanted(const std::vector<std::string> &names, const std::string &reference) {
    if (reference.empty()) return true;
    const auto normal = normalize_reference(reference);
    return std::ranges::any_of(
        names, [&](const std::string &name) { return name == reference || (normal && name == *normal); });
}

Result<SourceImage> load_image(const Layout &layout, const Descriptor &manifest) {
    SourceImage out;
    out.manifest_json = TRY(load_document(layout, manifest, "manifest"));
    out.manifest = TRY(parse_manifest(out.manifest_json));
    out.config_json = TRY(load_document(layout, out.manifest.config, "config"));
    out.config = TRY(parse_config(out.config_json, out.manifest.layers.size()));
    out.layers.reserve(out.manifest.layers.size());
    for (const Descriptor &layer : out.manifest.layers) {
        // Bytes that only a url offers are never fetched: they must be here.
        BlobView view = TRY(in_context(layout.blob(layer.digest), [] { return std::string("layer"); }));
        if (view.size != layer.size)
            return fail(Errc::DataLoss, fmt::format("layer {} has {} bytes, its descriptor says {}",
                                                    layer.digest.text(), view.size, layer.size));
        out.layers.push_back(std::move(view));
    }
    return out;
}

Result<std::vector<SourceImage>> read_layout(const Layout &layout, const std::string &stem,
                                             const SourceOptions &options) {
    const auto index = TRY(layout.file("index.json"));
    if (!index) return fail(Errc::NotFound, "index.json is missing");
    const std::string text = TRY(read_document(*index, max_document_bytes, "index.json"));
    std::vector<Candidate> candidates;
    for (Descriptor &entry : TRY(parse_index(text))) {
        if (is_attestation(entry)) continue;
        candidates.push_back(TRY(name_entry(std::move(entry), stem)));
    }
    choose_platforms(candidates, options);

    std::vector<SourceImage> out;
    std::map<Digest, size_t> by_digest;
    std::string offered;
    for (Candidate &candidate : candidates) {
        std::vector<std::string> names;
        if (!candidate.name.empty()) names.push_back(candidate.name);
        if (!wanted(names, options.reference) &&
            (candidate.bare_tag.empty() || candidate.bare_tag != options.reference)) {
            offered += fmt::format("{}{}", offered.empty() ? "" : ", ", names.empty() ? "(no name)" : names.front());
            continue;
        }
        const Descriptor manifest = TRY(choose(layout, std::move(candidate.entry), options));
        const auto [known, fresh] = by_digest.try_emplace(manifest.digest, out.size());
        if (fresh) out.push_back(TRY(load_image(layout, manifest)));
        auto &all = out[known->second].names;
        for (std::string &name : names)
            if (std::ranges::find(all, name) == all.end()) all.push_back(std::move(name));
    }
    if (out.empty() && !options.reference.empty())
        return fail(Errc::NotFound, fmt::format("no image \"{}\" here; there is: {}", options.reference,
                                                offered.empty() ? "nothing" : offered));
    if (out.empty()) return fail(Errc::NotFound, "the index names no image");
    return out;
}

} // namespace shale::oci
