// SPDX-License-Identifier: Apache-2.0
// The part of an import that needs the parents: drivers/apply.h, over the parents' stacked diff directories.
#include <fcntl.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "drivers/apply.h"
#include "drivers/overlay2/overlay2.h"
#include "sys/fs.h"

namespace shale::drivers::overlay2 {
namespace {

/// The parents without a mount, as long as no redirect or metacopy mark is met.
class StackedParents final : public LowerTree {
public:
    StackedParents(Driver &driver, const LayerRoot &root, Parents parents, archive::WhiteoutForm form)
        : driver_(driver), root_(root), parents_(parents), form_(form), opened_(parents.size()) {}

    Result<std::optional<UniqueFd>> look(std::string_view path) override {
        if (view_.root) return find_below(view_.root.get(), path);
        for (size_t i = 0; i < parents_.size(); ++i) {
            if (!opened_[i])
                opened_[i] = std::make_unique<archive::DirectoryTree>(TRY(root_.open_part(parents_[i], "diff")));
            Look look = TRY(look_up(*opened_[i], path, form_));
            if (look.redirected) {
                view_ = TRY(driver_.open_view(parents_.front(), parents_.subspan(1)));
                return find_below(view_.root.get(), path);
            }
            if (look.kind == Look::Kind::found) return look.at.take_fd();
            if (look.kind == Look::Kind::hidden) return std::nullopt;
        }
        return std::nullopt;
    }

    Status give(const std::string & /*path*/, int from, int to_dir, const char *name) override {
        return copy_entry(from, to_dir, name);
    }
    [[nodiscard]] bool copies() const noexcept override { return true; }

private:
    Driver &driver_;
    const LayerRoot &root_;
    Parents parents_;
    archive::WhiteoutForm form_;
    std::vector<std::unique_ptr<archive::DirectoryTree>> opened_; ///< parents' diff directories, as far as needed
    Driver::View view_;
};

} // namespace

Status Overlay2::apply(LayerId id, Parents parents, Staging staged, const archive::ExtractReport &report) {
    TRY(check_depth(id, parents));
    StackedParents lower(*this, root_, parents, config_.form());
    TRY(in_context(Applier(*staged.tree, config_.form(), lower).run(report),
                   [&] { return fmt::format("layer {}", id.value); }));
    if (report.has_root_entry || parents.empty()) return {};
    return copy_metadata(TRY(root_.open_part(parents.front(), "diff")).get(), staged.tree->root());
}

} // namespace shale::drivers::overlay2
