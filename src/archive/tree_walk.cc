// SPDX-License-Identifier: Apache-2.0
#include "archive/tree_walk.h"

#include <dirent.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace shale::archive {

Status DirStack::push(const char *name) {
    return push(TRY(sys::open_dir(top(), name)));
}

Status DirStack::push(UniqueFd directory) {
    if (levels_.size() >= kept_open) {
        Level &outer = levels_[levels_.size() - kept_open];
        if (outer.fd) {
            const auto st = TRY(sys::stat_at(outer.fd.get(), ""));
            outer.device = st.st_dev;
            outer.inode = st.st_ino;
            outer.fd.reset();
        }
    }
    levels_.push_back({std::move(directory)});
    return {};
}

Status DirStack::pop() {
    UniqueFd child = std::move(levels_.back().fd);
    levels_.pop_back();
    if (levels_.empty() || levels_.back().fd) return {};
    Level &level = levels_.back();
    UniqueFd opened = TRY(sys::open_dir(child.get(), ".."));
    const auto st = TRY(sys::stat_at(opened.get(), ""));
    if (st.st_dev != level.device || st.st_ino != level.inode)
        return fail(Errc::Aborted, "a directory was moved while the tree was walked");
    level.fd = std::move(opened);
    return {};
}

Result<Xattrs> read_xattrs(int dir, const char *name) {
    auto keys = TRY(sys::list_xattrs(dir, name));
    Xattrs out;
    if (keys.empty()) return out;
    out.reserve(keys.size());
    for (auto &key : keys) {
        auto value = TRY(sys::get_xattr(dir, name, key.c_str()));
        if (value) out.emplace_back(std::move(key), std::move(*value));
    }
    std::ranges::sort(out);
    return out;
}

bool is_overlay_xattr(std::string_view key) noexcept {
    return key.starts_with("trusted.overlay.") || key.starts_with("user.overlay.");
}

bool is_layer_xattr(std::string_view key) noexcept {
    if (is_overlay_xattr(key) || key == "system.nfs4_acl") return false;
    return !key.starts_with("security.") || key == "security.capability";
}

OverlayMarks overlay_marks(const Xattrs &xattrs, WhiteoutForm form) {
    OverlayMarks out;
    if (form == WhiteoutForm::oci_names) return out;
    const std::string_view prefix = form == WhiteoutForm::overlay_user ? "user.overlay." : "trusted.overlay.";
    for (const auto &[key, value] : xattrs) {
        std::string_view rest(key);
        if (!rest.starts_with(prefix)) continue;
        rest.remove_prefix(prefix.size());
        if (rest == "opaque") {
            out.opaque = value == "y";
            out.xwhiteouts = value == "x";
        } else if (rest == "redirect") {
            out.redirect = true;
        } else if (rest == "metacopy") {
            out.metacopy = true;
        }
    }
    return out;
}

namespace {

/// True for a whiteout in either of overlay's forms.
Result<bool> is_overlay_whiteout(int dir, const sys::DirEntry &entry, WhiteoutForm form, bool xwhiteouts) {
    const char *name = entry.name.c_str();
    if (entry.type == DT_CHR) return TRY(sys::stat_at(dir, name)).st_rdev == 0;
    if (entry.type != DT_REG || !xwhiteouts) return false;
    if (TRY(sys::stat_at(dir, name)).st_size != 0) return false;
    const char *key = form == WhiteoutForm::overlay_user ? "user.overlay.whiteout" : "trusted.overlay.whiteout";
    return TRY(sys::get_xattr(dir, name, key)).has_value();
}

void sort_items(std::vector<UpperItem> &items) {
    std::ranges::sort(items, [](const UpperItem &a, const UpperItem &b) {
        // char_traits<char> compares as unsigned bytes.
        const int order = a.name.compare(b.name);
        return order != 0 ? order < 0 : a.whiteout && !b.whiteout;
    });
}

} // namespace

Result<UpperListing> list_upper(int dir, WhiteoutForm form, const OverlayMarks &marks) {
    auto entries = TRY(sys::list_dir(dir));
    UpperListing out;
    out.opaque = marks.opaque;
    out.items.reserve(entries.size());
    for (auto &entry : entries) {
        UpperItem item;
        item.raw = std::move(entry.name);
        item.type = entry.type;
        item.name = item.raw;
        if (form == WhiteoutForm::oci_names) {
            if (item.raw == opaque_marker) {
                out.opaque = true;
                out.opaque_raw = item.raw;
                continue;
            }
            if (item.raw.starts_with(whiteout_prefix)) {
                item.whiteout = true;
                item.name.erase(0, whiteout_prefix.size());
                if (item.name.empty() || item.name == "." || item.name == "..")
                    return fail(Errc::DataLoss, "a staged tree holds \"" + item.raw + "\", which no extraction makes");
            }
        } else {
            entry.name = item.raw;
            item.whiteout = TRY(is_overlay_whiteout(dir, entry, form, marks.xwhiteouts));
        }
        out.items.push_back(std::move(item));
    }
    sort_items(out.items);
    return out;
}

Result<UpperListing> list_plain(int dir) {
    auto entries = TRY(sys::list_dir(dir));
    UpperListing out;
    out.items.reserve(entries.size());
    for (auto &entry : entries) {
        UpperItem item;
        item.name = entry.name;
        item.raw = std::move(entry.name);
        item.type = entry.type;
        out.items.push_back(std::move(item));
    }
    sort_items(out.items);
    return out;
}

std::string quoted(std::string_view path) {
    std::string out = "\"";
    for (char c : path) {
        auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte != 0x7f && c != '"' && c != '\\') {
            out += c;
            continue;
        }
        std::array<char, 5> escaped{};
        std::snprintf(escaped.data(), escaped.size(), "\\x%02x", byte);
        out += escaped.data();
    }
    return out += '"';
}

} // namespace shale::archive
