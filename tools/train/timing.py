"""Times the embedded model as a user meets it: whole processes, start and loading included.

    python timing.py ../../bin/metacap --runs 7 --out timing.json

One-tile pictures of testdata/drawn by `metacap caption`, and those whose domain has four agents by `metacap capflow run`.
Runs take turns, so that a change of the machine's speed meets all of them; a process that does nothing is the baseline.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import time

import tok

DRAWN = os.path.join(tok.HERE, "..", "..", "testdata", "drawn")
ONE_TILE = ("natural_700000", "structure_math_700010", "infographic_document_700020", "medical_bio_700030", "ui_700040", "code_700050", "knowledge_edu_700060", "synthetic_700070")
FOUR_AGENTS = ("ui_700040", "knowledge_edu_700060")


def seconds(args):
    start = time.perf_counter()
    out = subprocess.run(args, capture_output=True, text=True, check=True).stdout
    return time.perf_counter() - start, out


def agents(out):
    """How many agents of a CapFlow record were asked."""
    return sum(not a.get("skipped") for a in json.loads(out)["agents"])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("binary")
    ap.add_argument("--runs", type=int, default=7)
    ap.add_argument("--out", default="timing.json")
    a = ap.parse_args()
    file = lambda name: os.path.join(DRAWN, name + ".png")
    jobs = {"nothing (--version)": [a.binary, "version"]}
    jobs |= {f"caption {n}": [a.binary, "caption", "-m", "demo", file(n)] for n in ONE_TILE}
    jobs |= {f"capflow {n}": [a.binary, "capflow", "run", "-m", "demo", file(n)] for n in FOUR_AGENTS}
    for name in FOUR_AGENTS:
        n = agents(seconds(jobs[f"capflow {name}"])[1])
        if n != 4:
            raise SystemExit(f"timing: {name} has {n} agents, not 4")
    took = {name: [] for name in jobs}
    for _ in range(a.runs):
        for name, args in jobs.items():
            took[name].append(seconds(args)[0])
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    res = {"cpu": cpu, "cores": os.cpu_count(), "runs": a.runs, "binary_bytes": os.path.getsize(a.binary),
           "seconds": {name: {"median": round(statistics.median(v), 3), "least": round(min(v), 3), "most": round(max(v), 3)} for name, v in took.items()}}
    with open(a.out, "w", encoding="utf-8") as f:
        json.dump(res, f, indent=1)
    print(json.dumps(res, indent=1))


if __name__ == "__main__":
    main()
