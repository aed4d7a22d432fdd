# SPDX-License-Identifier: Apache-2.0
"""The musts: what the measurements have to show, all of them in one table, and the judgement over them.

A must is about one figure, or about the ratio of two: shale's to that of the peer, the floor or the driver that it stands beside.
All are medians. A must whose figures were not measured (no peer, no image, no kernel) is neither kept nor missed, and is named.
"""
import operator
from typing import NamedTuple

SAME = 0.1  # within this, two measured latencies are the same
WORDS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge}


class Must(NamedTuple):
    item: str  # of run.py
    row: str  # as it is printed
    word: str
    limit: float
    over: tuple  # where the figure stands among the item's: its names, outermost first
    under: tuple = ()  # where that stands which it is divided by; none: the figure alone
    unit: str = "x"

    def text(self):
        return f"{self.word} {self.limit:.4g} {self.unit}"

    def measured(self, figures):
        """None: there are no such figures."""
        over, under = (look_up(figures, names) for names in (self.over, self.under))
        if not self.under:
            return over
        return over / under if over is not None and under else None


def look_up(figures, names):
    for name in names:
        figures = figures.get(name) if isinstance(figures, dict) else None
    return figures if names else None


def wall(item, row, word, limit, over, under):
    """Of imports: seconds of one row over those of another, both of one case."""
    case = row.split(",")[0]
    return Must(item, row, word, limit, (case, over, "wall_s"), (case, under, "wall_s"))


def rpc(row, word, limit, over="shale", under="peer", unit="x"):
    return Must("rpc", row, word, limit, (row, over), (row, under) if under else (), unit)


MUSTS = (
    wall("import", "A-gz, wall: shale / containerd", "<=", 1 / 5, "shale", "containerd"),

    wall("drivers", "C-gz, wall: erofs / overlay2", "<=", 1 / 2.5, "erofs on ext4", "overlay2 on ext4"),
    wall("drivers", "C-gz, wall: erofs / bare tar -x", "<", 1, "erofs on ext4", "floor: tar -x on ext4"),
    Must("drivers", "C-gz, inodes that erofs takes", "<=", 20, ("C-gz", "erofs on ext4", "inodes"), unit="inodes"),
    wall("drivers", "A-gz, wall: erofs / containerd overlayfs", "<=", 1 / 8, "erofs on ext4", "containerd overlayfs"),
    wall("drivers", "A-gz, wall: btrfs / containerd btrfs", "<=", 1 / 4, "btrfs", "containerd btrfs"),
    Must("drivers", "A-gz, space: vfs with reflinks / vfs on ext4", "<=", 1 / 3,
         ("A-gz", "vfs on btrfs (reflinks)", "used_mb"), ("A-gz", "vfs on ext4", "used_mb")),

    Must("containers", "find / -xdev, wall: erofs / overlay2", "<=", 1.1, ("find / -xdev", "erofs"), ("find / -xdev", "overlay2")),
    Must("containers", "python from cold caches, wall: erofs / overlay2", "<=", 1.1,
         ("python3 -c 'import numpy'", "erofs"), ("python3 -c 'import numpy'", "overlay2")),

    Must("migrate", "A, wall: --to / import by btrfs", "<=", 1.2, ("migrate --to btrfs",), ("import by btrfs",)),
    Must("migrate", "A, wall: --finish / rm -rf of the old side", "<=", 1, ("migrate --finish",), ("floor: rm -rf of the old side",)),

    Must("facts", "1,000,000 files, wall: shale facts / find", "<=", 1.5, ("shale facts", "wall_s"), ("find", "wall_s")),
    Must("facts", "1,000,000 files, peak memory", "<=", 300, ("shale facts", "peak_mb"), unit="MB"),

    Must("guest", "devicemapper, create and remove: shale / the bare ioctls", "<=", 1.3,
         ("devicemapper", "unmounted", "shale"), ("devicemapper", "unmounted", "floor")),
    Must("guest", "devicemapper, the same with mounts", "<=", 1.3, ("devicemapper", "mounted", "shale"), ("devicemapper", "mounted", "floor")),
    Must("guest", "zfs, create and remove: shale / the zfs commands", "<=", 1.3, ("zfs", "unmounted", "shale"), ("zfs", "unmounted", "floor")),
    Must("guest", "zfs, the same with mounts", "<=", 1.3, ("zfs", "mounted", "shale"), ("zfs", "mounted", "floor")),

    rpc("Prepare+Mounts+Remove, 1 client, p50 us", "<=", 0.5),
    rpc("Prepare+Mounts+Remove, 1 client, p99 us", "<=", 0.5),
    rpc("Prepare+Mounts+Remove, 50 clients, /s", ">=", 2),
    rpc("Commit p99 us, shale's, 100 and 10000 present", "<=", 1 + SAME, "many", "few"),
    rpc("List of 10000, ms", "<=", 1 / 3),
    rpc("List of 10000, decoded by the client, ms", "<=", 1 / 3),
    rpc("restart after kill -9 to the first answer, 10000 snapshots, ms", "<", 1000, under=None, unit="ms"),
    rpc("resident MB, idle", "<=", 20, under=None, unit="MB"),
    rpc("resident MB, 10000 snapshots", "<=", 60, under=None, unit="MB"),
    rpc("ctr images import, image A, s", "<=", 1),
    rpc("the same, unpacked by shale image import before, s", "<=", 1 / 20),
)


class Musts:
    def __init__(self):
        self.verdicts = []

    def judge(self, item, figures):
        """The verdicts over those musts of the item that `figures` (nested dicts) has the figures of."""
        found = [{"item": item, "row": must.row, "measured": measured, "must": must.text(),
                  "kept": WORDS[must.word](measured, must.limit)}
                 for must in MUSTS if must.item == item and (measured := must.measured(figures)) is not None]
        self.verdicts += found
        return found

    def judge_and_print(self, item, figures):
        found = self.judge(item, figures)
        if found:
            print(f"  {'':58} {'measured':>9} {'must':>12}")
        for verdict in found:
            print(f"  {verdict['row']:58} {verdict['measured']:9.4g} {verdict['must']:>12} {said(verdict['kept'])}")

    def all_of(self, items):
        """Every must of these items, with its verdict or without one."""
        judged = {(verdict["item"], verdict["row"]) for verdict in self.verdicts}
        return self.verdicts + [{"item": must.item, "row": must.row, "measured": None, "must": must.text(), "kept": None}
                                for must in MUSTS if must.item in items and (must.item, must.row) not in judged]


def said(kept):
    return {True: "kept", False: "MISSED", None: "not measured"}[kept]


def print_summary(verdicts):
    counts = {word: [verdict for verdict in verdicts if verdict["kept"] is word] for word in (True, False, None)}
    print("\nmusts: " + ", ".join(f"{len(all_)} {said(word)}" for word, all_ in counts.items()))
    for word in (False, None):
        for verdict in counts[word]:
            measured = f"{verdict['measured']:.4g}, " if verdict["measured"] is not None else ""
            print(f"  {said(word)}: {verdict['item']}: {verdict['row']}: {measured}must be {verdict['must']}")
