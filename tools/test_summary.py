#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sums up a test run: what failed, what was skipped and why, and a last line "N passed, N failed, N skipped".

RESULTS/gtest/*.xml are GoogleTest's reports, RESULTS/ctest-*.xml those of ctest (they tell of programs that died before
they could write their own), RESULTS/*.tsv lines of NAME, PASS|FAIL|SKIP and a reason. RESULTS/guest.outcomes, lines of the
same form, tells how tests that this host skipped went in the guest (tests/guest): that counts in place of the skip. Exit code
1 when anything failed.
"""
import os
import pathlib
import sys
import xml.etree.ElementTree as ET


def reason_of(text):
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    # GoogleTest's first line is "file:line" of the GTEST_SKIP(); the reason follows.
    if len(lines) > 1 and ".cc:" in lines[0]:
        lines = lines[1:]
    return " ".join(lines) or "no reason given"


def guest_outcomes(results):
    report = results / "guest.outcomes"
    lines = report.read_text().splitlines() if report.exists() else []
    rows = ((line.split("\t") + ["", ""])[:3] for line in lines)
    return {name: (outcome, reason) for name, outcome, reason in rows}


def main(results):
    results = pathlib.Path(results)
    passed, failed, skipped, programs = 0, [], [], {}
    for report in sorted((results / "gtest").glob("*.xml")):
        program = report.stem.removesuffix("_test")
        bad = 0
        try:
            root = ET.parse(report).getroot()
        except ET.ParseError:
            continue
        for case in root.iter("testcase"):
            if case.get("status") == "notrun":
                continue
            name = f"{program}: {case.get('classname')}.{case.get('name')}"
            failure, skip = case.find("failure"), case.find("skipped")
            if failure is not None:
                bad += 1
                failed.append((name, reason_of(failure.get("message"))[:300]))
            elif skip is not None or case.get("result") == "skipped":
                skipped.append((name, reason_of(skip.get("message") if skip is not None else "")))
            else:
                passed += 1
        programs[program] = bad
    for report in sorted(results.glob("ctest-*.xml")):
        for case in ET.parse(report).getroot().iter("testcase"):
            program = case.get("name").removeprefix("unit.")
            if case.get("status") in ("fail", "notrun") and not programs.get(program):
                failure = case.find("failure")
                why = failure.get("message") if failure is not None else "not run"
                failed.append((case.get("name"), f"the test program ended abnormally: {why or 'failed'}"))
    for report in sorted(results.glob("*.tsv")):
        for line in report.read_text().splitlines():
            name, outcome, reason = (line.split("\t") + ["", ""])[:3]
            if outcome == "PASS":
                passed += 1
            elif outcome == "SKIP":
                skipped.append((name, reason))
            else:
                failed.append((name, reason or "see above"))
    guest = guest_outcomes(results)
    passed_there = sum(guest.get(name, ("",))[0] == "PASS" for name, _ in skipped)
    passed += passed_there
    failed += [(name, guest[name][1]) for name, _ in skipped if guest.get(name, ("",))[0] == "FAIL"]
    skipped = [
        (name, f"{reason}; and in the guest: {guest[name][1]}" if name in guest else reason)
        for name, reason in skipped
        if guest.get(name, ("SKIP",))[0] == "SKIP"
    ]
    if failed:
        print("Failed:")
        for name, reason in failed:
            print(f"  {name}: {reason}")
    if skipped:
        print("Skipped on this host:")
        for name, reason in skipped:
            print(f"  {name}: {reason}")
    rootless = sum("needs root" in reason for _, reason in skipped)
    if rootless and os.geteuid() != 0:
        print(f"{rootless} of these need root: run ./dev test as root, or one at a time in a guest with ./dev guest")
    if guest:
        print(f"{len(guest)} tests that this host's kernel cannot run were run in the guest: {passed_there} passed there")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
