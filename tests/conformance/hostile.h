// SPDX-License-Identifier: Apache-2.0
// Layers that mean harm, and what becomes of them on top of base(): refused by name, or accepted with a tree that holds
// nothing of the host. The answer is the same for every driver. `outside` is a directory of the host that all of them
// are after, absolute; in the tree that path is a directory of base()'s own.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "support/world.h"

namespace shale::hostile {

using archive::Entry;
using archive::EntryType;
using test::dir;
using test::file;
using test::hard_link;
using test::Layer;
using test::opaque;
using test::symlink;
using test::whiteout;

/// Paths of the tree and what is there: "none", "dir", "file CONTENT", "link TARGET", "fifo", "char 1:3", "block 8:0".
using Seen = std::vector<std::pair<std::string, std::string>>;

struct Case {
    std::string name;
    Layer layer;
    std::string refused; ///< what the error says; empty: the layer is accepted
    Errc code = Errc::InvalidArgument;
    Seen seen;                            ///< of what was accepted, beside the rest of base()
    Seen on_overlay = {};                 ///< the same where overlay merges the layers, which cannot do it right
    std::vector<std::string> ghosts = {}; ///< listed there, and not found

    [[nodiscard]] Case but_on_overlay(Seen what) && {
        on_overlay = std::move(what);
        return std::move(*this);
    }
    [[nodiscard]] Case with_ghosts(std::vector<std::string> paths) && {
        ghosts = std::move(paths);
        return std::move(*this);
    }
};

inline Case refused(std::string name, Layer layer, std::string text, Errc code = Errc::InvalidArgument) {
    return {std::move(name), std::move(layer), std::move(text), code, {}, {}, {}};
}
inline Case accepted(std::string name, Layer layer, Seen seen) {
    return {std::move(name), std::move(layer), {}, Errc::InvalidArgument, std::move(seen), {}, {}};
}

inline Entry node(EntryType type, std::string path, uint32_t major = 0, uint32_t minor = 0) {
    Entry entry = file(std::move(path), 0666);
    entry.type = type;
    entry.dev_major = major;
    entry.dev_minor = minor;
    return entry;
}
inline Entry with(Entry entry, std::vector<std::pair<std::string, std::string>> xattrs) {
    entry.xattrs = std::move(xattrs);
    return entry;
}
inline Entry owned(Entry entry, uint64_t uid, uint64_t gid) {
    entry.uid = uid;
    entry.gid = gid;
    return entry;
}
/// `text`, so many times.
inline std::string times(size_t count, std::string_view text) {
    std::string out;
    for (; count > 0; --count)
        out += text;
    return out;
}
/// `outside` as a name in an archive.
inline std::string inside(const std::string &outside) {
    return outside.substr(1);
}
/// The same by way of more ".." than any directory is deep.
inline std::string climbing(const std::string &outside) {
    return times(40, "../") + inside(outside);
}

inline Layer base(const std::string &outside) {
    return {{dir("etc/"), ""},
            {file("etc/passwd"), "root"},
            {file("keep"), "keep"},
            {dir("d/"), ""},
            {file("d/a"), "a"},
            {file("d/b"), "b"},
            {dir(inside(outside) + "/"), ""},
            {file(inside(outside) + "/inside"), "i"},
            {symlink("abs", outside), ""},
            {symlink("up", climbing(outside)), ""},
            {dir("usr/"), ""},
            {dir("usr/bin/"), ""},
            {file("usr/bin/sh"), "sh"},
            {symlink("bin", "usr/bin"), ""}};
}

inline std::vector<Case> names(const std::string &outside) {
    const std::string in = inside(outside);
    const std::string longest(255, 'n');
    return {
        accepted("dot-dot", {{file("../canary/pwn"), "x"}}, {{"canary/pwn", "file x"}}),
        accepted("dot-dot without end", {{file(climbing(outside) + "/pwn"), "x"}}, {{in + "/pwn", "file x"}}),
        accepted("dot-dot in the middle", {{file("d/../../canary/pwn"), "x"}}, {{"canary/pwn", "file x"}}),
        accepted("absolute, of a file of the host", {{file(outside + "/secret"), "x"}}, {{in + "/secret", "file x"}}),
        accepted("absolute, of a directory of the host", {{dir(outside + "/dir", 0777), ""}}, {{in + "/dir", "dir"}}),
        refused("the root as a link", {{symlink("..", outside), ""}}, "the root itself can only be a directory"),
        refused("the root as a fifo", {{node(EntryType::fifo, "a/.."), ""}}, "the root itself can only be a directory"),
        accepted("the root's own mode, by dot-dot", {{dir("..", 0777), ""}}, {{"etc/passwd", "file root"}}),
        refused("a name too long", {{file(longest + "n"), "x"}}, "a name of 256 bytes"),
        accepted("the longest name", {{file(longest), "x"}}, {{longest, "file x"}}),
        refused("a path too long", {{file(times(2500, "a/") + "x"), "x"}}, "the most is 4095"),
        accepted("a deep path", {{file(times(100, "q/") + "x"), "x"}}, {{times(100, "q/") + "x", "file x"}}),
        accepted("control bytes and no UTF-8", {{file("a\nb\x1b[2J\xff"), "x"}}, {{"a\nb\x1b[2J\xff", "file x"}}),
        accepted("names that drivers use",
                 {{file("stage"), "1"},
                  {file("volume"), "2"},
                  {dir("work/"), ""},
                  {file("work/work"), "3"},
                  {file("image.erofs"), "4"},
                  {file("trash"), "5"},
                  {file(".shale-migrate-0"), "6"}},
                 {{"stage", "file 1"},
                  {"volume", "file 2"},
                  {"work/work", "file 3"},
                  {"image.erofs", "file 4"},
                  {"trash", "file 5"},
                  {".shale-migrate-0", "file 6"}}),
    };
}

inline std::vector<Case> symlinks(const std::string &outside) {
    const std::string in = inside(outside);
    Layer chain{{symlink("l0", "d"), ""}};
    for (int i = 1; i < 60; ++i)
        chain.push_back({symlink(fmt::format("l{}", i), fmt::format("l{}", i - 1)), ""});
    chain.push_back({file("l59/x"), "x"});
    return {
        accepted("written through, absolute", {{symlink("l", outside), ""}, {file("l/pwn"), "x"}},
                 {{"l", "link " + outside}, {in + "/pwn", "file x"}}),
        accepted("written through, relative", {{symlink("l", climbing(outside)), ""}, {file("l/pwn"), "x"}},
                 {{"l", "link " + climbing(outside)}, {in + "/pwn", "file x"}}),
        accepted("in place of a directory of the layer, then a directory again",
                 {{dir("s"), ""},
                  {file("s/a"), "1"},
                  {symlink("s", outside), ""},
                  {file("s/pwn"), "2"},
                  {dir("s"), ""},
                  {file("s/b"), "3"}},
                 {{"s", "dir"}, {"s/a", "none"}, {"s/pwn", "none"}, {"s/b", "file 3"}, {in + "/pwn", "file 2"}}),
        accepted("in place of a directory of the base", {{symlink("d", outside), ""}, {file("d/pwn"), "x"}},
                 {{"d", "link " + outside}, {in + "/pwn", "file x"}}),
        accepted("in place of a directory above another link of the base",
                 {{symlink("usr", outside), ""}, {file("usr/bin/pwn"), "x"}, {file("bin/pwn2"), "y"}},
                 {{"usr", "link " + outside},
                  {"bin", "link usr/bin"},
                  {in + "/bin/pwn", "file x"},
                  {in + "/bin/pwn2", "file y"}}),
        accepted("of the base, written through", {{file("abs/pwn"), "x"}, {file("up/pwn2"), "y"}},
                 {{"abs", "link " + outside}, {in + "/pwn", "file x"}, {in + "/pwn2", "file y"}}),
        accepted("of the base, deleted and written through", {{whiteout("abs"), ""}, {file("abs/pwn"), "x"}},
                 {{"abs", "dir"}, {"abs/pwn", "file x"}, {in + "/pwn", "none"}}),
        accepted("of the base, replaced", {{dir("abs", 0777), ""}, {file("abs/pwn"), "x"}, {file("up"), "new"}},
                 {{"abs", "dir"}, {"abs/pwn", "file x"}, {"up", "file new"}, {in + "/pwn", "none"}}),
        accepted("by way of the process's root",
                 {{symlink("p", "/proc/self/root" + outside), ""}, {file("p/pwn"), "x"}},
                 {{"p", "link /proc/self/root" + outside}, {"proc/self/root" + outside + "/pwn", "file x"}}),
        accepted("dot-dot behind one, in a name", {{symlink("s", "usr/bin"), ""}, {file("s/../x"), "x"}},
                 {{"s", "link usr/bin"}, {"x", "file x"}, {"usr/x", "none"}}),
        accepted("above the root", {{symlink("s", ".."), ""}, {file("s/s/s/pwn"), "x"}},
                 {{"s", "link .."}, {"pwn", "file x"}}),
        accepted("to the root",
                 {{symlink("r", "/"), ""}, {file("r" + outside + "/pwn"), "x"}, {whiteout("r/keep"), ""}},
                 {{"r", "link /"}, {in + "/pwn", "file x"}, {"keep", "none"}}),
        accepted("to a file of the host, then that file", {{symlink("s", outside + "/secret"), ""}, {file("s"), "new"}},
                 {{"s", "file new"}, {in + "/secret", "none"}}),
        accepted("to a directory of the host, then that directory", {{symlink("s", outside), ""}, {dir("s", 0777), ""}},
                 {{"s", "dir"}}),
        accepted("to a file of the host, then a fifo",
                 {{symlink("s", outside + "/secret"), ""}, {node(EntryType::fifo, "s"), ""}}, {{"s", "fifo"}}),
        accepted("with an attribute for its target",
                 {{with(symlink("s", outside + "/secret"), {{"user.pwn", "1"}}), ""}},
                 {{"s", "link " + outside + "/secret"}}),
        refused("round in a circle", {{symlink("a", "b"), ""}, {symlink("b", "a"), ""}, {file("a/x"), "x"}}, "a loop?"),
        refused("sixty in a row", chain, "more than 40 symbolic links"),
        refused("to a name of a deletion", {{symlink("s", ".wh..."), ""}, {file("s/x"), "x"}},
                "a name that stands for a deletion"),
        refused("to nothing", {{symlink("s", ""), ""}}, "a symbolic link without a target"),
    };
}

inline std::vector<Case> hard_links(const std::string &outside) {
    const std::string in = inside(outside);
    const std::string secret = outside + "/secret";
    const std::string nowhere = "exists neither in this layer nor in a parent";
    return {
        refused("out, absolute", {{hard_link("l", secret), ""}}, nowhere),
        refused("out, by dot-dot", {{hard_link("l", "../canary/secret"), ""}}, nowhere),
        refused("out, by more dot-dots", {{hard_link("l", climbing(outside) + "/secret"), ""}}, nowhere),
        refused("out, through a symlink", {{symlink("s", outside), ""}, {hard_link("l", "s/secret"), ""}}, nowhere),
        refused("out, through a symlink of the base", {{hard_link("l", "abs/secret"), ""}}, nowhere),
        refused("out, through the process's root", {{hard_link("l", "/proc/self/root" + secret), ""}}, nowhere),
        accepted("of a name outside", {{hard_link(outside + "/l", "keep"), ""}}, {{in + "/l", "file keep"}}),
        accepted("of a name through a symlink", {{symlink("s", outside), ""}, {hard_link("s/l", "keep"), ""}},
                 {{"s", "link " + outside}, {in + "/l", "file keep"}}),
        accepted("to a symlink that leads out, then written to",
                 {{symlink("s", secret), ""}, {hard_link("t", "s"), ""}, {file("t"), "x"}},
                 {{"s", "link " + secret}, {"t", "file x"}, {in + "/secret", "none"}}),
        accepted("to a symlink of the base", {{hard_link("t", "abs"), ""}},
                 {{"abs", "link " + outside}, {"t", "link " + outside}}),
        accepted("to a symlink of the base, then written to", {{hard_link("t", "abs"), ""}, {file("t"), "x"}},
                 {{"abs", "link " + outside}, {"t", "file x"}}),
        accepted("up and down again", {{hard_link("l", "d/../../../keep"), ""}}, {{"l", "file keep"}}),
        accepted("to what is replaced later", {{hard_link("l", "keep"), ""}, {file("keep"), "new"}},
                 {{"l", "file keep"}, {"keep", "file new"}}),
        refused("to what is deleted", {{whiteout("keep"), ""}, {hard_link("l", "keep"), ""}},
                "the layer deletes the target"),
        accepted("in place of what the layer had there", {{file("x"), "1"}, {hard_link("x", "keep"), ""}},
                 {{"x", "file keep"}}),
        refused("to a directory", {{hard_link("l", "d"), ""}}, "is a directory"),
        refused("to the root", {{hard_link("l", "/"), ""}}, "is a directory"),
        refused("to itself", {{hard_link("x", "./x"), ""}}, "it is its own target"),
        refused("to what is below it", {{hard_link("d", "d/a"), ""}}, "the target lies below the link"),
        refused("to nothing", {{hard_link("l", ""), ""}}, "no target"),
    };
}

inline std::vector<Case> whiteouts(const std::string &outside) {
    const std::string in = inside(outside);
    const std::string longest(251, 'n');
    return {
        refused("of dot-dot", {{file(".wh..."), ""}}, "a whiteout of \"..\""),
        refused("of dot-dot, further down", {{file("etc/.wh..."), ""}}, "a whiteout of \"..\""),
        refused("of dot", {{file(".wh.."), ""}}, "a whiteout of \".\""),
        refused("of nothing", {{file(".wh."), ""}}, "a whiteout of \"\""),
        refused("as a directory", {{file(".wh.etc/x"), ""}}, "a whiteout is used as a directory"),
        refused("that is a directory", {{dir(".wh.etc"), ""}}, "a whiteout must be a regular file"),
        refused("that is a symlink", {{symlink(".wh.etc", outside), ""}}, "a whiteout must be a regular file"),
        refused("of a name too long", {{whiteout(longest + "n"), ""}}, "a name of 256 bytes"),
        accepted("of the longest name", {{whiteout(longest), ""}}, {{longest, "none"}}),
        accepted("above the root", {{file("../../.wh.etc"), ""}}, {{"etc", "none"}, {"etc/passwd", "none"}}),
        accepted("absolute, of a file of the host", {{whiteout(outside + "/secret"), ""}},
                 {{in + "/inside", "file i"}}),
        accepted("through a symlink", {{symlink("s", outside), ""}, {whiteout("s/inside"), ""}},
                 {{"s", "link " + outside}, {in, "dir"}, {in + "/inside", "none"}}),
        accepted("through a symlink of the base", {{whiteout("abs/inside"), ""}},
                 {{"abs", "link " + outside}, {in + "/inside", "none"}}),
        accepted("twice", {{whiteout("etc"), ""}, {whiteout("etc"), ""}}, {{"etc", "none"}}),
        accepted("and the same name",
                 {{whiteout("keep"), ""}, {file("keep"), "1"}, {file("d/a"), "2"}, {whiteout("d/a"), ""}},
                 {{"keep", "file 1"}, {"d/a", "file 2"}}),
        accepted("in a directory that hides nothing",
                 {{whiteout("nor/this"), ""}, {dir("fresh"), ""}, {whiteout("fresh/x"), ""}, {whiteout("keep/x"), ""}},
                 {{"nor", "dir"}, {"nor/this", "none"}, {"fresh/x", "none"}, {"keep", "dir"}, {"keep/x", "none"}})
            // The kernel lists a directory that only one layer has as it is (fs/overlayfs/readdir.c, ovl_iterate).
            .with_ghosts({"/nor/this", "/fresh/x", "/keep/x"}),
        accepted("opaque, the root", {{file(".wh..wh..opq"), ""}, {file("new"), "n"}},
                 {{"new", "file n"}, {"etc", "none"}, {"keep", "none"}, {"abs", "none"}, {in, "none"}})
            // The kernel merges the roots of all layers, whatever they are marked with (fs/overlayfs/super.c).
            .but_on_overlay({{"new", "file n"}, {"etc", "dir"}, {"keep", "file keep"}}),
        accepted("opaque, through a symlink", {{symlink("s", outside), ""}, {opaque("s"), ""}, {file("s/new"), "n"}},
                 {{"s", "link " + outside}, {in + "/inside", "none"}, {in + "/new", "file n"}}),
        accepted("opaque, through a symlink of the base", {{opaque("abs"), ""}, {file("abs/new"), "n"}},
                 {{"abs", "link " + outside}, {in + "/inside", "none"}, {in + "/new", "file n"}}),
        accepted("opaque, with data", {{file("d/.wh..wh..opq"), "payload"}}, {{"d", "dir"}, {"d/a", "none"}}),
        accepted("opaque, a hard link", {{hard_link("d/.wh..wh..opq", "keep"), ""}}, {{"d", "dir"}, {"d/a", "none"}}),
        accepted("opaque, of a file", {{opaque("keep"), ""}}, {{"keep", "dir"}, {"keep/.wh..wh..opq", "none"}}),
        accepted("what AUFS left",
                 {{dir(".wh..wh.plnk"), ""},
                  {file(".wh..wh.plnk/1.2"), "x"},
                  {file(".wh..wh.aufs"), ""},
                  {file(".wh..wh.fold"), "x"}},
                 {{".wh..wh.plnk", "none"}, {".wh..wh.aufs", "none"}, {".wh..wh.fold", "none"}}),
    };
}

inline std::vector<Case> nodes(const std::string &outside) {
    const std::string in = inside(outside);
    return {
        refused("overlay's own whiteout", {{node(EntryType::char_device, "etc/passwd", 0, 0), ""}},
                "would be taken for a whiteout"),
        refused("a number out of range", {{node(EntryType::char_device, "c", 4096, 1), ""}}, "out of range"),
        accepted("a disk and the memory",
                 {{node(EntryType::block_device, "disk", 8, 0), ""}, {node(EntryType::char_device, "mem", 1, 1), ""}},
                 {{"disk", "block 8:0"}, {"mem", "char 1:1"}}),
        accepted("in place of a directory", {{node(EntryType::char_device, "d", 1, 3), ""}},
                 {{"d", "char 1:3"}, {"d/a", "none"}}),
        accepted("through a symlink", {{symlink("s", outside), ""}, {node(EntryType::fifo, "s/secret"), ""}},
                 {{in + "/secret", "fifo"}}),
        refused("a fifo as a directory", {{node(EntryType::fifo, "p"), ""}, {file("p/x"), "x"}}, "is not a directory"),
    };
}

inline std::vector<Case> repeated(const std::string &outside) {
    const std::string in = inside(outside);
    Layer same;
    Layer swaps;
    for (int i = 0; i < 100; ++i)
        same.push_back({file("r"), std::to_string(i)});
    for (int i = 0; i < 20; ++i) {
        swaps.push_back({symlink("r", outside), ""});
        swaps.push_back({dir("r"), ""});
        swaps.push_back({file(fmt::format("r/pwn{}", i)), "x"});
    }
    return {
        accepted("a file", same, {{"r", "file 99"}}),
        accepted("a symlink and a directory in turn", swaps,
                 {{"r", "dir"}, {"r/pwn0", "none"}, {"r/pwn19", "file x"}, {in + "/pwn19", "none"}}),
        accepted("a file, then a directory", {{file("x"), "1"}, {dir("x"), ""}, {file("x/y"), "2"}},
                 {{"x", "dir"}, {"x/y", "file 2"}}),
        accepted("a directory, then a file", {{dir("x"), ""}, {file("x/y"), "2"}, {file("x"), "1"}}, {{"x", "file 1"}}),
        refused("a file, then what is below it", {{file("x"), "1"}, {file("x/y"), "2"}}, "is not a directory"),
        accepted("what is below a file of the base", {{file("keep/child"), "x"}},
                 {{"keep", "dir"}, {"keep/child", "file x"}}),
    };
}

inline std::vector<Case> attributes(const std::string &outside) {
    const std::string in = inside(outside);
    const auto both = [](const std::string &key, const std::string &value) {
        return std::vector<std::pair<std::string, std::string>>{{"trusted.overlay." + key, value},
                                                                {"user.overlay." + key, value}};
    };
    std::vector<std::pair<std::string, std::string>> many;
    for (int i = 0; i < 1025; ++i)
        many.emplace_back(fmt::format("user.k{}", i), "v");
    return {
        accepted("overlay's opaque", {{with(dir("d"), both("opaque", "y")), ""}},
                 {{"d/a", "file a"}, {"d/b", "file b"}}),
        accepted("overlay's opaque, of the root", {{with(dir("./"), both("opaque", "y")), ""}},
                 {{"etc/passwd", "file root"}, {"keep", "file keep"}}),
        accepted("overlay's redirect", {{with(dir("d"), both("redirect", "/etc")), ""}},
                 {{"d/a", "file a"}, {"d/passwd", "none"}}),
        accepted("overlay's metacopy",
                 {{with(file("keep"), {{"trusted.overlay.metacopy", ""}, {"trusted.overlay.redirect", "/etc/passwd"}}),
                   "new"}},
                 {{"keep", "file new"}}),
        accepted("overlay's whiteout",
                 {{with(file("keep"), both("whiteout", "y")), ""},
                  {with(dir("d"), both("opaque", "x")), ""},
                  {with(file("d/a"), both("whiteout", "y")), ""}},
                 {{"keep", "file "}, {"d/a", "file "}, {"d/b", "file b"}}),
        accepted("the host's labels",
                 {{with(file("s"), {{"security.selinux", "a"}, {"security.ima", "b"}, {"security.evm", "c"}}), "x"}},
                 {{"s", "file x"}}),
        refused("a capability that is none", {{with(file("s"), {{"security.capability", "junk"}}), "x"}},
                "security.capability"),
        refused(
            "a capability with flags that there are not",
            {{with(file("s"), {{"security.capability", std::string("\xfe\0\0\2", 4) + std::string(16, '\0')}}), "x"}},
            "security.capability"),
        refused("a key too long", {{with(file("s"), {{"user." + std::string(300, 'k'), "v"}}), "x"}},
                "an attribute with a name of 305"),
        refused("more than are allowed", {{with(file("s"), many), "x"}}, "extended attributes of one entry",
                Errc::ResourceExhausted),
        refused("an owner that is none", {{owned(file("s"), 0xffff'ffff, 0), "x"}}, "uid 4294967295 is out of range"),
        refused("a group out of range", {{owned(file("s"), 0, uint64_t{1} << 40U), "x"}},
                "gid 1099511627776 is out of range"),
        accepted("set-id bits on what is outside", {{owned(file(outside + "/secret", 06777), 1000, 1000), "x"}},
                 {{in + "/secret", "file x"}}),
    };
}

} // namespace shale::hostile
