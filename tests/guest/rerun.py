#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""rerun.py BUILD RESULTS any|zfs [--count]: runs in the guest what the host's kernel could not.

Reads from RESULTS (see tools/test_summary.py) which tests were skipped with a reason that begins with "this kernel", and
runs exactly those in the guest: cases of GoogleTest programs in portions, integration tests one by one, on as many
guests of one processor at a time as there are processors (two at most). "zfs" takes those with zfs in the name, "any"
the others; --count only prints how many there are. Outcomes go to RESULTS/guest.outcomes as lines of NAME, PASS|FAIL|SKIP and a reason, output to RESULTS/guest/.

A case that crashes its program, stops the guest or says nothing for STALL_S seconds has failed; those that were to come
after it get another guest. After TOTAL_S seconds no guest is started, and what is left has failed.
"""
import os
import pathlib
import queue
import re
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
from test_summary import reason_of  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
LACKING = "this kernel"  # what a skip's reason begins with when another kernel would do
GUESTS = min(2, os.cpu_count() or 1)
FEW, PORTION = 5, 40  # cases in a guest, at least and at most: a boot costs 6 s, and so does a crash in the middle
STALL_S = 600
TOTAL_S = 2100
BEGUN = re.compile(r"\[ RUN      \] (\S+)")
ENDED = re.compile(r"\[ +(OK|FAILED|SKIPPED) +\] ([^\s,]+)(?:, where .*)? \(\d+ ms\)$")


class Gtest:
    """A portion of a test program's cases."""

    def __init__(self, program, cases):
        self.program, self.cases = program, cases
        self.title = f"{program.stem.removesuffix('_test')}: {len(cases)} cases"
        self.command = [str(program), "--gtest_color=no", "--gtest_filter=" + ":".join(cases)]

    def row(self, case):
        return f"{self.program.stem.removesuffix('_test')}: {case}"

    def outcomes(self, lines, why_ended):
        """What the output says of each case, and the portion that is still to be run (or None)."""
        found, running, text = {}, None, []
        for line in lines:
            if begun := BEGUN.search(line):
                running, text = begun[1], []
            elif (ended := ENDED.search(line)) and running == ended[2]:
                word = {"OK": "PASS", "FAILED": "FAIL", "SKIPPED": "SKIP"}[ended[1]]
                found[running] = (word, "" if word == "PASS" else reason_of("\n".join(text))[:300])
                running = None
            else:
                text.append(line)
        left = [case for case in self.cases if case not in found]
        if left:
            culprit = running if running in left else left[0]
            found[culprit] = ("FAIL", f"in the guest: {why_ended}")
            left.remove(culprit)
        return {self.row(case): outcome for case, outcome in found.items()}, left and Gtest(self.program, left)


class Integration:
    """One test of tests/integration."""

    def __init__(self, build, name):
        self.name, self.title = name, f"integration: {name}"
        runner = HERE.parent / "integration" / "run.sh"
        self.command = ["env", f"SHALE={build / 'shale'}", str(runner), "/run/scratch/results", name]
        self.cases = [name]

    def row(self, case):
        return f"integration: {case}"

    def outcomes(self, lines, why_ended):
        whole, part = ("FAIL", f"in the guest: {why_ended}"), ("PASS", "")
        for line in lines:
            if said := re.match(r"(PASS|FAIL|SKIP) (\S+?)(, a part)?(?:: (.*))?$", line):
                if said[2] == self.name and said[3]:
                    part = ("SKIP", said[4] or "")
                elif said[2] == self.name:
                    whole = (said[1], said[4] or "")
        return {self.row(self.name): whole, self.row(self.name) + " (a part)": part if whole[0] == "PASS" else whole}, None


def wanted(build, results, choose):
    jobs = []
    for report in sorted((results / "gtest").glob("*.xml")):
        cases = []
        try:
            root = ET.parse(report).getroot()
        except ET.ParseError:  # of a program that died: the summary tells
            continue
        for case in root.iter("testcase"):
            skip = case.find("skipped")
            if skip is not None and reason_of(skip.get("message")).startswith(LACKING):
                cases.append(f"{case.get('classname')}.{case.get('name')}")
        cases = [case for case in cases if choose(case)]
        program = next((path for path in build.rglob(report.stem) if path.is_file() and os.access(path, os.X_OK)), None)
        size = max(FEW, min(PORTION, -(-len(cases) // (3 * GUESTS))))
        jobs += [Gtest(program, cases[at : at + size]) for at in range(0, len(cases), size)]
    tests = set()
    for report in results.glob("integration.tsv"):
        for line in report.read_text().splitlines():
            name, outcome, reason = (line.split("\t") + ["", ""])[:3]
            name = name.removeprefix("integration: ").removesuffix(" (a part)")
            if outcome == "SKIP" and reason.startswith(LACKING) and choose(name):
                tests.add(name)
    return jobs + [Integration(build, name) for name in sorted(tests)]


def run(job, log, options):
    """Runs it in a guest; its output's lines, and why it ended."""
    begun = time.monotonic()
    with open(log, "w+", encoding="utf-8", errors="replace") as output:
        guest = subprocess.Popen([HERE / "run.sh", *options, "-t", str(TOTAL_S), *job.command], stdout=output, stderr=output)
        size, heard = 0, time.monotonic()
        stalled = False
        while guest.poll() is None:
            time.sleep(0.2)
            if (now := log.stat().st_size) != size:
                size, heard = now, time.monotonic()
            elif time.monotonic() - heard > STALL_S and not stalled:
                stalled = True
                guest.terminate()  # it ends its guest
        output.seek(0)
        lines = output.read().splitlines()
    took = time.monotonic() - begun
    if stalled:
        return lines, f"no output for {STALL_S} s", took
    why = "the guest stopped" if guest.returncode == 125 else f"the program ended with status {guest.returncode}"
    return lines, f"{why}; see {log}", took


class Rerun:
    def __init__(self, jobs, results, options):
        self.waiting, self.results, self.options = queue.SimpleQueue(), results, options
        self.lock, self.outcomes, self.logs = threading.Lock(), {}, len(list((results / "guest").glob("*.log")))
        self.end = time.monotonic() + TOTAL_S
        for job in jobs:
            self.waiting.put(job)

    def work(self):
        while True:
            try:
                job = self.waiting.get_nowait()
            except queue.Empty:
                return
            if time.monotonic() > self.end:
                late = ("FAIL", f"not run in the guest: {TOTAL_S} s were over")
                found, left, took = {job.row(case): late for case in job.cases}, None, 0
            else:
                with self.lock:
                    self.logs += 1
                    log = self.results / "guest" / f"{self.logs:03}.log"
                lines, why, took = run(job, log, self.options)
                found, left = job.outcomes(lines, why)
            self.report(job, found, took)
            if left:
                self.waiting.put(left)

    def report(self, job, found, took):
        words = [word for word, _ in found.values()]
        with self.lock:
            self.outcomes |= found
            counts = ", ".join(f"{words.count(word)} {said}" for word, said in (("PASS", "passed"), ("FAIL", "failed"), ("SKIP", "skipped")))
            print(f"guest: {job.title}: {counts} ({took:.0f} s)", flush=True)
            for name, (word, reason) in found.items():
                if word == "FAIL":
                    print(f"  FAILED {name}: {reason}", flush=True)


def main(build, results, which, only_count=None):
    build, results = pathlib.Path(build).resolve(), pathlib.Path(results).resolve()
    jobs = wanted(build, results, lambda name: ("zfs" in name.lower()) == (which == "zfs"))
    if only_count == "--count":
        print(sum(len(job.cases) for job in jobs))
        return
    print(f"guest: {sum(len(job.cases) for job in jobs)} tests, {GUESTS} guests at a time", flush=True)
    (results / "guest").mkdir(exist_ok=True)
    rerun = Rerun(jobs, results, ["-z"] if which == "zfs" else [])
    workers = [threading.Thread(target=rerun.work) for _ in range(min(GUESTS, len(jobs)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with open(results / "guest.outcomes", "a", encoding="utf-8") as out:
        for name, (word, reason) in sorted(rerun.outcomes.items()):
            out.write(f"{name}\t{word}\t{' '.join(reason.split())}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
