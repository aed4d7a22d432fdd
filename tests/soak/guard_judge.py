#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Judges the events of a guard under a load (guard_load.py): guard_judge.py DRIVER EVENTS LOAD"""
import collections
import json
import re
import sys

driver = sys.argv[1]
HYSTERESIS, WAIT_MS, MIN_SPACE, SLACK = 5.0, 5000, 24 << 20, 12 << 20
events = [json.loads(line) for line in open(sys.argv[2], encoding="utf-8")]
load = json.load(open(sys.argv[3], encoding="utf-8"))
wrong = []
inside, acted, counts = {}, collections.defaultdict(list), collections.Counter()
worst_left = 100.0
for event in events:
    counts[event["type"]] += 1
    if event["type"] in ("entered", "left"):
        step = re.match(r"(\w+) at (\d+) %: ([\d.]+) % in use", event["what"])
        key = (event["kind"], event["subject"], step[1], int(step[2]))
        use = float(step[3])
        if event["type"] == "entered":
            if key in inside:
                wrong.append(f"{key} entered twice without having been left: {event['what']}")
            inside[key] = event["time_ms"]
            counts["crossings"] += 1
        else:
            if key not in inside:
                wrong.append(f"{key} left without having been entered")
            inside.pop(key, None)
            worst_left = min(worst_left, key[3] - use)
            if use >= key[3] - HYSTERESIS + 0.1:
                wrong.append(f"{key} left at {use} %, which is not below {key[3] - HYSTERESIS} %")
    elif event["type"] == "acting":
        key = (event["kind"], event["subject"], event["tier"])
        at = event["time_ms"]
        if acted[key] and at - acted[key][-1] < WAIT_MS:
            wrong.append(f"{key} acted twice within {at - acted[key][-1]} ms")
        if not any((k[0], k[1], k[2]) == key for k in inside):
            wrong.append(f"{key} acted without a step that is entered")
        if event["tier"] in ("refuse_creates", "throttle") and acted[key]:
            entered = max(t for k, t in inside.items() if (k[0], k[1], k[2]) == key)
            if acted[key][-1] >= entered:
                wrong.append(f"{key} acted twice in one crossing")
        acted[key].append(at)
        counts["acting " + event["tier"]] += 1
    elif event["type"] == "problem":
        wrong.append(f"a problem: {event['what']}")
if load["least_free_bytes"] < MIN_SPACE - SLACK:
    wrong.append(f"only {load['least_free_bytes'] >> 20} MiB were free, and {MIN_SPACE >> 20} MiB are to stay free")
if load["created"] == 0 or load["checked_files"] == 0:
    wrong.append("nothing was done")
print(f"{driver}: {counts['crossings']} crossings, {counts['acting gc']} gc, {counts['acting refuse_creates']} refusals begun, "
      f"{load['refused']} creates refused, {load['created']} containers, {load['files']} files, "
      f"{load['written_bytes'] >> 20} MiB written, {load['checked_files']} files checked, writes that found it full: "
      f"{load['full']}, least free {load['least_free_bytes'] >> 20} MiB of {load['disk_bytes'] >> 20} MiB, "
      f"least points below a mark when it was left: {worst_left:.1f}; {len(wrong)} wrong")
for line in wrong[:20]:
    print(f"FAIL: {driver}: {line}", file=sys.stderr)
sys.exit(1 if wrong else 0)
