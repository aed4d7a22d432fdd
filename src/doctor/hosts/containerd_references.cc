// SPDX-License-Identifier: Apache-2.0
// What keeps snapshots from containerd's garbage collection: its graph of roots and references, for one namespace after
// the other (containerd, core/metadata/gc.go, scanRoots and references).
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "doctor/hosts/containerd_metadata.h"

namespace shale::doctor::containerd {
namespace {

/// A node of the graph as text: its first byte is its kind, a snapshot is "sNAME/KEY" as in containerd. Names of
/// snapshotters have no "/".
using Node = std::string;
enum Kind : char { content = 'c', snapshot = 's', image = 'i', container = 'k' };

Node node_of(Kind kind, std::string_view key) {
    return fmt::format("{}{}", static_cast<char>(kind), key);
}
Node snapshot_node(std::string_view snapshotter, std::string_view key) {
    return fmt::format("{}{}/{}", static_cast<char>(snapshot), snapshotter, key);
}

/// `label` is `prefix`, alone or with a name behind "." or "/".
bool is_label(std::string_view label, std::string_view prefix) {
    return label.starts_with(prefix) &&
           (label.size() == prefix.size() || label[prefix.size()] == '.' || label[prefix.size()] == '/');
}

/// What a label of the form PREFIX.content, PREFIX.snapshot.NAME, ... names; empty: it is none.
Node named_by(std::string_view prefix, std::string_view label, std::string_view value) {
    if (!label.starts_with(prefix)) return {};
    const std::string_view rest = label.substr(prefix.size());
    constexpr std::string_view of_snapshot = "snapshot.";
    if (rest.starts_with(of_snapshot)) {
        const std::string_view name = rest.substr(of_snapshot.size());
        return snapshot_node(name.substr(0, name.find('/')), value);
    }
    if (is_label(rest, "content")) return node_of(content, value);
    if (is_label(rest, "image")) return node_of(image, value);
    if (is_label(rest, "container")) return node_of(container, value);
    return {};
}

class Graph {
public:
    Graph(const std::string &name, const Namespace &of, SnapshotUsers &out, size_t &left)
        : name_(name), of_(of), out_(out), left_(left) {
        for (const auto &[digest, blob] : of.blobs)
            add_back_references(node_of(content, digest), blob.labels);
        for (const auto &[key, one] : of.images)
            add_back_references(node_of(image, key), one.labels);
        for (const auto &[id, one] : of.containers)
            add_back_references(node_of(container, id), one.labels);
        for (const auto &[snapshotter, snapshots] : of.snapshots)
            for (const auto &[key, one] : snapshots)
                add_back_references(snapshot_node(snapshotter, key), one.labels);
    }

    void walk_roots() {
        std::map<std::string, std::vector<std::string>> names; // of one target
        for (const auto &[name, one] : of_.images)
            names[one.digest].push_back(name);
        for (const auto &[digest, of_target] : names) {
            std::vector<Node> roots;
            for (const std::string &name : of_target)
                roots.push_back(node_of(image, name));
            walk(std::move(roots), fmt::format("image {}", best_name(of_target)), Parents::followed);
        }
        for (const auto &[id, one] : of_.containers)
            walk({node_of(container, id)}, fmt::format("container {}", id), Parents::left_out);
        for (const auto &[id, lease] : of_.leases)
            walk_lease(id, lease);
        for (const auto &[id, labels] : of_.sandboxes)
            walk(referred(labels), fmt::format("sandbox {}", id), Parents::left_out);
        for (const auto &[digest, blob] : of_.blobs)
            if (is_root(blob.labels))
                walk({node_of(content, digest)}, fmt::format("content {}", digest), Parents::left_out);
        for (const auto &[snapshotter, snapshots] : of_.snapshots)
            for (const auto &[key, one] : snapshots)
                if (is_root(one.labels))
                    walk({snapshot_node(snapshotter, key)}, "label containerd.io/gc.root", Parents::left_out);
    }

private:
    /// Below an image every layer is the image's; below the rest, a layer is what the one above it uses.
    enum class Parents : uint8_t { followed, left_out };

    static bool is_root(const Labels &labels) {
        // labels that begin so count too (sendLabelRefs: any key with that prefix)
        const auto found = labels.lower_bound("containerd.io/gc.root");
        return found != labels.end() && found->first.starts_with("containerd.io/gc.root");
    }
    static std::vector<Node> referred(const Labels &labels) {
        std::vector<Node> out;
        for (const auto &[label, value] : labels)
            if (Node node = named_by("containerd.io/gc.ref.", label, value); !node.empty())
                out.push_back(std::move(node));
        return out;
    }
    void add_back_references(const Node &from, const Labels &labels) {
        for (const auto &[label, value] : labels)
            if (const Node to = named_by("containerd.io/gc.bref.", label, value); !to.empty())
                back_references_[to].push_back(from);
    }

    void walk_lease(const std::string &id, const Lease &lease) {
        // A flat lease keeps what it names and not what that refers to; here it keeps that too.
        std::vector<Node> roots;
        roots.reserve(lease.content.size() + lease.images.size());
        for (const std::string &digest : lease.content)
            roots.push_back(node_of(content, digest));
        for (const std::string &name : lease.images)
            roots.push_back(node_of(image, name));
        for (const auto &[snapshotter, keys] : lease.snapshots)
            for (const std::string &key : keys)
                roots.push_back(snapshot_node(snapshotter, key));
        walk(std::move(roots), fmt::format("lease {}", id), Parents::left_out);
    }

    void walk(std::vector<Node> todo, const std::string &user, Parents parents) {
        std::unordered_set<Node> seen;
        while (!todo.empty()) {
            const Node node = std::move(todo.back());
            todo.pop_back();
            if (!seen.insert(node).second) continue;
            if (left_ == 0) {
                out_.complete = false;
                return;
            }
            --left_;
            if (const auto back = back_references_.find(node); back != back_references_.end())
                todo.insert(todo.end(), back->second.begin(), back->second.end());
            visit(node, user, parents, todo);
        }
    }

    void visit(const Node &node, const std::string &user, Parents parents, std::vector<Node> &todo) {
        const std::string key = node.substr(1);
        const auto follow = [&](const Labels &labels) {
            for (Node &next : referred(labels))
                todo.push_back(std::move(next));
        };
        switch (node[0]) {
        case content:
            if (const auto found = of_.blobs.find(key); found != of_.blobs.end()) follow(found->second.labels);
            break;
        case image:
            if (const auto found = of_.images.find(key); found != of_.images.end()) {
                todo.push_back(node_of(content, found->second.digest));
                follow(found->second.labels);
            }
            break;
        case container:
            if (const auto found = of_.containers.find(key); found != of_.containers.end()) {
                todo.push_back(snapshot_node(found->second.snapshotter, found->second.snapshot));
                follow(found->second.labels);
            }
            break;
        default:
            visit_snapshot(key, user, parents, todo);
            break;
        }
    }

    void visit_snapshot(const std::string &node, const std::string &user, Parents parents, std::vector<Node> &todo) {
        const size_t slash = node.find('/');
        const std::string snapshotter = node.substr(0, slash), key = node.substr(slash + 1);
        const auto keys = of_.snapshots.find(snapshotter);
        if (keys == of_.snapshots.end()) return;
        const auto found = keys->second.find(key);
        if (found == keys->second.end()) return;
        out_.users[{name_, snapshotter, key}].insert(user);
        for (Node &next : referred(found->second.labels))
            todo.push_back(std::move(next));
        if (parents == Parents::followed && !found->second.parent.empty())
            todo.push_back(snapshot_node(snapshotter, found->second.parent));
    }

    const std::string &name_;
    const Namespace &of_;
    SnapshotUsers &out_;
    size_t &left_; ///< references that may still be followed
    std::unordered_map<Node, std::vector<Node>> back_references_;
};

} // namespace

SnapshotUsers snapshot_users(const Metadata &metadata) {
    SnapshotUsers out;
    size_t left = max_references;
    for (const auto &[name, of] : metadata.namespaces)
        Graph(name, of, out, left).walk_roots();
    return out;
}

} // namespace shale::doctor::containerd
