// SPDX-License-Identifier: Apache-2.0
// A Docker root for tests, written as dockerd would write it, in a directory that goes with it.
#pragma once

#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/digest.h"
#include "doctor/hosts/docker.h"
#include "doctor/hosts/test_store.h"
#include "probe/bolt_test_writer.h"
#include "probe/facts.h"
#include "probe/host.h"
#include "sys/fs.h"

namespace shale::doctor {

/// "aaaa..." : an id of dockerd's form.
inline std::string id_of(char c) {
    return std::string(64, c);
}

class DockerTest : public testing::Test {
protected:
    struct Layer {
        Digest chain;
        std::string id;
    };

    void SetUp() override {
        std::string name = testing::TempDir() + "shale-docker-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        base_ = name;
        std::filesystem::create_directories(base_ + root_);
    }
    void TearDown() override { (void)sys::remove_tree(AT_FDCWD, base_.c_str()); }

    /// Paths are the host's.
    void write(const std::string &path, std::string_view text) const {
        const std::filesystem::path at = base_ + path;
        std::filesystem::create_directories(at.parent_path());
        std::ofstream(at, std::ios::binary) << text;
    }
    void make_dir(const std::string &path) const { std::filesystem::create_directories(base_ + path); }
    void make_link(const std::string &target, const std::string &path) const {
        std::filesystem::create_directories(std::filesystem::path(base_ + path).parent_path());
        std::filesystem::create_symlink(target, base_ + path);
    }
    void remove(const std::string &path) const { std::filesystem::remove_all(base_ + path); }

    [[nodiscard]] std::string image(std::string_view path) const {
        return fmt::format("{}/image/{}/{}", root_, driver_, path);
    }
    [[nodiscard]] std::string graph(std::string_view path) const {
        return fmt::format("{}/{}/{}", root_, driver_, path);
    }

    /// A tree of overlay2 on the trees of `below`, the nearest first.
    void make_tree(const std::string &id, const std::vector<std::string> &below) const {
        const std::string link = link_of(id);
        make_dir(graph(id + "/diff"));
        write(graph(id + "/link"), link);
        make_link(fmt::format("../{}/diff", id), graph("l/" + link));
        if (below.empty()) return;
        make_dir(graph(id + "/work"));
        std::string lower;
        for (const auto &other : below)
            lower += fmt::format("{}l/{}", lower.empty() ? "" : ":", link_of(other));
        write(graph(id + "/lower"), lower);
        write(graph(below.front() + "/committed"), "");
    }
    static std::string link_of(const std::string &id) {
        std::string out = id.substr(0, 20) + (id.ends_with("-init") ? "INIT" : "TREE");
        for (char &c : out)
            c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
        return out + "00";
    }
    /// The record of a sealed layer.
    Layer record_layer(const std::string &id, std::string_view content, std::optional<Digest> parent = {}) const {
        const Digest diff = Digest::of(content);
        const Digest chain = chain_id(parent.value_or(Digest()), diff);
        const std::string dir = image("layerdb/sha256/" + chain.hex());
        write(dir + "/cache-id", id);
        write(dir + "/diff", diff.text());
        write(dir + "/size", std::to_string(content.size()));
        write(dir + "/tar-split.json.gz", "gzip");
        if (parent) write(dir + "/parent", parent->text());
        return {chain, id};
    }
    /// Its configuration; returns the id, "sha256:...".
    std::string record_image(const std::vector<std::string_view> &contents) const {
        std::string diffs;
        for (const auto content : contents)
            diffs += fmt::format("{}\"{}\"", diffs.empty() ? "" : ",", Digest::of(content).text());
        const std::string config = fmt::format(
            R"({{"created":"2023-04-11T21:13:26.5Z","rootfs":{{"type":"layers","diff_ids":[{}]}}}})", diffs);
        const Digest id = Digest::of(config);
        write(image("imagedb/content/sha256/" + id.hex()), config);
        return id.text();
    }
    void record_names(const std::vector<std::pair<std::string, std::string>> &names) const {
        std::string text;
        for (const auto &[name, id] : names)
            text += fmt::format(R"({}"{}":{{"{}":"{}"}})", text.empty() ? "" : ",", name.substr(0, name.find(':')),
                                name, id);
        write(image("repositories.json"), fmt::format(R"({{"Repositories":{{{}}}}})", text));
    }
    /// The records of a container's writable layer and of its init layer.
    void record_mount(const std::string &container, const std::string &mount, const Digest &parent) const {
        const std::string dir = image("layerdb/mounts/" + container);
        write(dir + "/mount-id", mount);
        write(dir + "/init-id", mount + "-init");
        write(dir + "/parent", parent.text());
    }
    void record_container(const std::string &id, const std::string &image_id, std::string_view mounts = "{}") const {
        const std::string dir = fmt::format("{}/containers/{}", root_, id);
        write(dir + "/config.v2.json",
              fmt::format(
                  R"({{"ID":"{0}","Created":"2024-01-02T03:04:05+01:00","Name":"/web","Image":"{1}","Driver":"{2}",)"
                  R"("LogPath":"{3}/{0}-json.log","State":{{"Running":true,"Paused":false,"Pid":4711,)"
                  R"("StartedAt":"2024-01-02T03:04:06Z"}},"MountPoints":{4}}})",
                  id, image_id, driver_, dir, mounts));
        write(dir + "/hostconfig.json", R"({"LogConfig":{"Type":"json-file","Config":{}}})");
    }
    void write_bolt(const std::string &path, const probe::bolt_writer::Bucket &bucket) const {
        write(path, probe::bolt_writer::database(bucket));
    }

    /// Two images on one layer, and a container of the first.
    void make_usual() {
        make_tree(id_of('a'), {});
        make_tree(id_of('b'), {id_of('a')});
        make_tree(id_of('c'), {id_of('a')});
        base_layer_ = record_layer(id_of('a'), "base").chain;
        app_layer_ = record_layer(id_of('b'), "app", base_layer_).chain;
        tool_layer_ = record_layer(id_of('c'), "tool", base_layer_).chain;
        app_ = record_image({"base", "app"});
        tool_ = record_image({"base", "tool"});
        record_names({{"app:1", app_}, {"tool:latest", tool_}});
        make_tree(id_of('d') + "-init", {id_of('b'), id_of('a')});
        make_tree(id_of('d'), {id_of('d') + "-init", id_of('b'), id_of('a')});
        record_mount(container_, id_of('d'), app_layer_);
        record_container(container_, app_);
    }

    probe::Facts read(const std::vector<probe::Process> &processes = {}) const {
        probe::Facts facts;
        facts.taken_s = taken_s_;
        auto host = probe::Host::open(base_);
        EXPECT_TRUE(host) << host.error().text();
        if (host) read_docker(*host, processes, {}, facts);
        return facts;
    }
    static const probe::Store *store_of(const probe::Facts &facts, std::string_view engine, std::string_view driver) {
        for (const auto &store : facts.stores)
            if (store.engine == engine && store.driver == driver) return &store;
        return nullptr;
    }
    static std::string state_of(const probe::Store &store, const std::string &path) {
        for (const auto &source : store.sources)
            if (source.path == path) return source.state;
        return "not told";
    }

    std::string base_, root_ = "/var/lib/docker", driver_ = "overlay2";
    std::string container_ = id_of('e'), app_, tool_;
    Digest base_layer_, app_layer_, tool_layer_;
    uint64_t taken_s_ = 4'000'000'000; ///< long after all that a test writes
    probe::Process dockerd_ = {.pid = 42,
                               .command = "dockerd",
                               .cgroup = "/system.slice/docker.service",
                               .mount_namespace = 1,
                               .arguments = {"/usr/bin/dockerd", "-H", "fd://"}};
};

} // namespace shale::doctor
