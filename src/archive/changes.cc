// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>

#include <algorithm>

#include "archive/diff_walk.h"
#include "archive/pack.h"
#include "archive/tree_walk.h"

namespace shale::archive {
namespace {

Status hand_out(std::vector<Change> &changes, const ChangeSink &sink) {
    std::ranges::sort(changes, {}, &Change::path);
    for (const Change &change : changes)
        TRY(sink(change));
    return {};
}

class UpperChanges {
public:
    UpperChanges(int upper, WhiteoutForm form, int lower)
        : upper_(upper), lower_(lower), form_(form), has_lower_(lower >= 0) {}

    Result<std::vector<Change>> run() {
        TRY(enter(TRY(read_xattrs(upper_.top(), "")), has_lower_, false));
        while (!frames_.empty()) {
            Frame &frame = frames_.back();
            if (frame.next < frame.items.size()) {
                const UpperItem item = std::move(frame.items[frame.next++]);
                TRY(visit(item, frame.has_lower, frame.hides_lower));
                continue;
            }
            const bool has_lower = frame.has_lower;
            frames_.pop_back();
            if (frames_.empty()) break;
            TRY(upper_.pop());
            if (has_lower) TRY(lower_.pop());
            path_.resize(frames_.back().path_length);
        }
        return std::move(changes_);
    }

private:
    struct Frame {
        std::vector<UpperItem> items;
        size_t next = 0;
        size_t path_length = 0;
        bool has_lower = false;   ///< the lower view has a directory here
        bool hides_lower = false; ///< opaque, or below something opaque
    };

    Status enter(const Xattrs &xattrs, bool has_lower, bool hides_lower) {
        const OverlayMarks marks = overlay_marks(xattrs, form_);
        if (marks.redirect)
            return fail(Errc::FailedPrecondition, "changes of " + quoted(path_) +
                                                      ": overlay's redirect attribute is set, so the upper directory "
                                                      "alone does not hold the change");
        auto listing = TRY(list_upper(upper_.top(), form_, marks));
        Frame frame;
        frame.items = std::move(listing.items);
        frame.path_length = path_.size();
        frame.has_lower = has_lower;
        frame.hides_lower = hides_lower || listing.opaque;
        if (has_lower && frame.hides_lower) TRY(report_hidden(frame.items));
        frames_.push_back(std::move(frame));
        return {};
    }

    /// Lower children that an opaque directory does not have again.
    Status report_hidden(const std::vector<UpperItem> &items) {
        for (const auto &entry : TRY(sys::list_dir(lower_.top()))) {
            auto again = std::ranges::lower_bound(items, entry.name, {}, &UpperItem::name);
            while (again != items.end() && again->name == entry.name && again->whiteout)
                ++again;
            if (again == items.end() || again->name != entry.name) report(ChangeKind::deleted, entry.name);
        }
        return {};
    }

    Status visit(const UpperItem &item, bool has_lower, bool hides_lower) {
        std::optional<struct stat> lower;
        if (has_lower) lower = TRY(sys::stat_if_exists(lower_.top(), item.name.c_str()));
        if (item.whiteout) {
            // In a directory that hides the lower one it has been reported; a name that is here again is modified.
            const Frame &frame = frames_.back();
            const bool again = frame.next < frame.items.size() && frame.items[frame.next].name == item.name;
            if (lower && !hides_lower && !again) report(ChangeKind::deleted, item.name);
            return {};
        }
        report(lower ? ChangeKind::modified : ChangeKind::added, item.name);
        if (item.type != DT_DIR) return {};
        TRY(upper_.push(item.raw.c_str()));
        const bool both = lower && S_ISDIR(lower->st_mode);
        if (both) TRY(lower_.push(item.name.c_str()));
        path_.append(item.name).append("/");
        return enter(TRY(read_xattrs(upper_.top(), "")), both, hides_lower);
    }

    void report(ChangeKind kind, const std::string &name) { changes_.push_back({kind, path_ + name}); }

    DirStack upper_, lower_;
    WhiteoutForm form_;
    bool has_lower_;
    std::vector<Frame> frames_;
    std::string path_ = "/";
    std::vector<Change> changes_;
};

class TreeChanges final : public DiffVisitor {
public:
    Status deleted(const std::string &directory, const std::string &name) override {
        changes.push_back({ChangeKind::deleted, "/" + directory + name});
        return {};
    }
    Status changed(const std::string &path, Source & /*upper*/, bool added) override {
        changes.push_back({added ? ChangeKind::added : ChangeKind::modified, "/" + path});
        return {};
    }
    bool unchanged_link(const std::string & /*path*/, const struct stat & /*upper*/,
                        const struct stat & /*lower*/) override {
        return false;
    }
    bool skips(const std::string & /*directory*/, const UpperItem &item) override { return item.type == DT_SOCK; }

    std::vector<Change> changes;
};

} // namespace

Status upper_changes(int upper_dir, WhiteoutForm form, int lower_dir, const ChangeSink &sink) {
    auto changes = TRY(UpperChanges(upper_dir, form, lower_dir).run());
    return hand_out(changes, sink);
}

Status tree_changes(int lower_dir, int upper_dir, const ChangeSink &sink, bool snapshot) {
    if (lower_dir < 0) return upper_changes(upper_dir, WhiteoutForm::oci_names, -1, sink);
    TreeChanges visitor;
    TRY(diff_trees(lower_dir, upper_dir, visitor, snapshot));
    return hand_out(visitor.changes, sink);
}

} // namespace shale::archive
