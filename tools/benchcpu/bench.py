#!/usr/bin/env python3
"""Measures metacap against llama.cpp, and OpenVINO for vision, on random weights of the true shapes.

  bench.py --dir DIR --metacap bin/metacap [--rows REGEXP] [--rounds 5] [--threads 2] [--out docs/results]

DIR is what build.sh made. The engines take turns, round by round (A B A B), so that slow spells of the machine hit
both; a ratio is that of the medians over all rounds. llama.cpp's settings are tried once a row and its best kept.
machine.c measures what the machine can do, before and after. Rows, and what llama.cpp runs for them, are in ROWS.
"""
import argparse, json, os, platform, re, resource, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))

# name, random-weights shape, weight type, metacap test, GGUF shape, GGUF type, what llama.cpp (or OpenVINO) runs, threads (0: --threads), least ratio wanted
TINY = "shapes/tiny12m.json"
ROWS = [
    ("prefill 512, bf16, 0.6B",                   "0.6b", "bf16", "pp512",      "qwen3-0.6b", "bf16",   "-p 512 -n 0",         0, 1.7),
    ("prefill 512, int8 / Q8_0, 0.6B",            "0.6b", "int8", "pp512",      "qwen3-0.6b", "q8_0",   "-p 512 -n 0",         0, 3.0),
    ("prefill 512, int4 / Q4_K_M, 0.6B",          "0.6b", "int4", "pp512",      "qwen3-0.6b", "q4_k_m", "-p 512 -n 0",         0, 1.6),
    ("prefill 512 at 3,328, int4 / Q4_K_M, 0.6B", "0.6b", "int4", "pp512@3328", "qwen3-0.6b", "q4_k_m", "-p 512 -n 0 -d 3328", 0, 2.5),
    ("decode 1, bf16, 0.6B",                      "0.6b", "bf16", "tg32",       "qwen3-0.6b", "bf16",   "-p 0 -n 32",          0, 1.25),
    ("decode 1, int8 / Q8_0, 0.6B",               "0.6b", "int8", "tg32",       "qwen3-0.6b", "q8_0",   "-p 0 -n 32",          0, 1.6),
    ("decode 1, int4 / Q4_K_M, 0.6B",             "0.6b", "int4", "tg32",       "qwen3-0.6b", "q4_k_m", "-p 0 -n 32",          0, 1.6),
    ("decode 1 at 3,328, int4 / Q4_K_M, 0.6B",    "0.6b", "int4", "tg16@3328",  "qwen3-0.6b", "q4_k_m", "-p 0 -n 16 -d 3328",  0, 2.0),
    ("decode 8 together, bf16, 0.6B",             "0.6b", "bf16", "tg32@128*8", "qwen3-0.6b", "bf16",   "batched 128 32 8",    0, 3.0),
    ("decode 8 together, int4 / Q4_K_M, 0.6B",    "0.6b", "int4", "tg32@128*8", "qwen3-0.6b", "q4_k_m", "batched 128 32 8",    0, 3.0),
    ("decode 1, int4 / Q4_K_M, 8B",               "8b",   "int4", "tg16",       "qwen3-8b",   "q4_k_m", "-p 0 -n 16",          0, 1.8),
    ("vision tile, bf16 / llama.cpp",             "shapes/vit300m.json", "bf16", "vit1", "internvit-300m", "bf16", "vision",   0, 2.2),
    ("vision tile, bf16 / OpenVINO",              "shapes/vit300m.json", "bf16", "vit1", "internvit-300m", "bf16", "openvino", 0, 1.0),
    ("prefill 512, bf16, 12M",                    TINY, "bf16", "pp512", "tiny", "bf16",   "-p 512 -n 0", 0, 2.0),
    ("prefill 512, int4 / Q4_K_M, 12M",           TINY, "int4", "pp512", "tiny", "q4_k_m", "-p 512 -n 0", 0, 2.0),
    ("decode 1, bf16, 12M, 1 thread",             TINY, "bf16", "tg128", "tiny", "bf16",   "-p 0 -n 128", 1, 3.0),
    ("decode 1, bf16, 12M",                       TINY, "bf16", "tg128", "tiny", "bf16",   "-p 0 -n 128", 0, 3.0),
    ("decode 1, int4 / Q4_K_M, 12M, 1 thread",    TINY, "int4", "tg128", "tiny", "q4_k_m", "-p 0 -n 128", 1, 3.0),
    ("decode 1, int4 / Q4_K_M, 12M",              TINY, "int4", "tg128", "tiny", "q4_k_m", "-p 0 -n 128", 0, 3.0),
]
# llama.cpp's settings, each tried once a row: flash attention, repacked weights
OPTIONS = [("fa", "repack"), ("fa",), ("repack",), ()]
UNITS = {"pp": "tok/s", "tg": "tok/s", "vit": "tiles/s"}


class Failed(Exception):
    """A program that ended with an error."""


def run(cmd):
    p = subprocess.run(cmd, capture_output=True, text=True)
    if p.returncode:
        raise Failed(f"{' '.join(map(str, cmd))}: exit {p.returncode}\n{p.stderr[-1500:]}")
    return p.stdout


def busy():
    """Processor seconds that the whole machine, and that our finished children, have used so far."""
    v = [int(x) for x in open("/proc/stat").readline().split()[1:]]
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (sum(v[:3]) + sum(v[5:8])) / os.sysconf("SC_CLK_TCK"), r.ru_utime + r.ru_stime


def median(values):
    return statistics.median(values) if values else float("nan")


class Bench:
    def __init__(self, o, keep):
        self.o = o
        self.keep = keep  # told of the settings tried so far for a row, so that an interruption does not lose them

    def calm(self, measure):
        """What measure returns, from a time in which other processes took at most --calm cores; it is called again,
        some times, until that holds."""
        for _ in range(3):
            start, (all0, own0) = time.monotonic(), busy()
            result = measure()
            all1, own1 = busy()
            others = (all1 - all0 - (own1 - own0)) / (time.monotonic() - start)
            if others <= self.o.calm:
                return result
            print(f"dropped: other processes took {others:.2f} cores", file=sys.stderr, flush=True)
        raise SystemExit(f"other processes keep taking more than {self.o.calm} cores")

    def gguf(self, shape, kind):
        f = f"{self.o.dir}/gguf/{shape}-{kind}.gguf"
        if not os.path.exists(f + ".json"):
            print(f"writing {f}", file=sys.stderr, flush=True)
            run([f"{self.o.dir}/venv/bin/python", f"{HERE}/make_gguf.py", f"{HERE}/shapes/{shape}.json", kind, f])
        return f, json.load(open(f + ".json"))

    def threads(self, row):
        return str(row[7] or self.o.threads)

    def ours(self, row):
        shape = f"{HERE}/{row[1]}" if "/" in row[1] else row[1]
        out = run([self.o.metacap, "bench", "--random-weights", shape, "--weights", row[2], "--threads", self.threads(row),
                   "--device", "cpu", "-r", str(self.o.reps), "-o", "jsonl", "--no-limits", row[3]])
        r = json.loads(out.splitlines()[-1])
        self.device, self.version = r["device"], r.get("commit") or r["version"]
        return r["rates"]

    def theirs(self, row, options):
        n, what = self.threads(row), row[6].split()
        if what[0] == "openvino":
            out = run([f"{self.o.dir}/venv/bin/python", f"{HERE}/ov_vit.py", f"{HERE}/shapes/{row[4]}.json", n, str(self.o.reps)])
            return [1e3 / v for v in json.loads(out.splitlines()[-1])["ms"]]
        f, _ = self.gguf(row[4], row[5])
        fa, repack = "fa" in options, "repack" in options
        if what[0] == "vision":
            host, _ = self.gguf("qwen3-8b-2layer", "q8_0")
            out = run(["env", f"FA={int(fa)}", f"{self.o.dir}/vision_bench", host, f, n, str(self.o.reps)])
            return [1e3 / v for v in json.loads(out.splitlines()[-1])["ms"]]
        if what[0] == "batched":
            _, depth, tokens, batch = what
            rates = []
            for _ in range(self.o.reps):
                out = run([f"{self.o.dir}/build/bin/llama-batched-bench", "-m", f, "-t", n, "-tb", n, "-c", "4096", "-b", "512", "-ub", "512", "-npp", depth,
                           "-ntg", tokens, "-npl", batch, "--output-format", "jsonl", "-fa", "on" if fa else "off", "--repack" if repack else "--no-repack"])
                rates += [json.loads(line)["speed_tg"] for line in out.splitlines() if line.startswith("{")]
            return rates
        out = run([f"{self.o.dir}/build/bin/llama-bench", "-m", f, "-t", n, "-r", str(self.o.reps), "-o", "json"] + what + ["-fa", str(int(fa)), "--repack", str(int(repack))])
        return [v for e in json.loads(out) for v in e["samples_ts"]]

    def limits(self):
        return json.loads(run([f"{self.o.dir}/machine", str(self.o.threads), "3", "128"]))

    def best(self, row, before):
        """The options with which the other engine is fastest, and what each gave, 0 where it fails. before is what
        earlier runs tried, which is not tried again."""
        tried = dict(before)
        if row[6] == "openvino":
            return (), tried
        settings = OPTIONS if row[6] != "vision" else [("fa",), ()]
        for options in settings:
            if name(options) in tried:
                continue
            try:
                tried[name(options)] = self.calm(lambda: median(self.theirs(row, options)))
            except Failed as e:
                print(e, file=sys.stderr)
                tried[name(options)] = 0
            self.keep(row, tried)
        best = max(settings, key=lambda options: tried[name(options)])
        if not tried[name(best)]:
            raise SystemExit(f"{row[0]}: llama.cpp fails with every setting")
        return best, tried

    def measure(self, row, before):
        best, tried = self.best(row, before.get("tried", {}))
        a, b = (list(before.get("metacap", [])), list(before.get("other", []))) if self.o.add else ([], [])
        for _ in range(self.o.rounds):
            ours, theirs = self.calm(lambda: (self.ours(row), self.theirs(row, best)))
            a += ours
            b += theirs
        kind = re.match(r"[a-z]+", row[3]).group()
        r = {"row": row[0], "test": row[3], "threads": int(self.threads(row)), "unit": UNITS[kind], "metacap": a, "other": b,
             "engine": "OpenVINO" if row[6] == "openvino" else "llama.cpp", "options": name(best) if tried else "bf16", "tried": tried,
             "metacap_median": median(a), "other_median": median(b), "ratio": median(a) / median(b), "wanted": row[8],
             "version": self.version, "device": self.device, "time": time.strftime("%Y-%m-%d %H:%M"), "calm": max(self.o.calm, before.get("calm", 0) if self.o.add else 0), "load": os.getloadavg()}
        info = self.gguf(row[4], row[5])[1]
        r["work"] = {k: info[k] for k in ("weight_bytes_per_token", "flops_per_prompt_token", "flops_per_tile") if k in info}
        print(f"{r['row']}: {r['metacap_median']:.2f} against {r['other_median']:.2f} {r['unit']}, {r['ratio']:.2f}x", file=sys.stderr, flush=True)
        return r


def name(options):
    return ", ".join(["fa on" if "fa" in options else "fa off"] + ["repack" if "repack" in options else "no repack"])


def share(r, limits):
    """Of the machine's own limit: bf16 or int8 products for prefill and vision; weight bytes (of the GGUF) for decoding one."""
    w, rate, limit = r["work"], r["metacap_median"], peaks(limits, r["threads"])
    flops = w.get("flops_per_tile") or w.get("flops_per_prompt_token")
    if r["test"].startswith("tg"):
        if "*" in r["test"] or "@" in r["test"] or not w.get("weight_bytes_per_token"):
            return ""
        where = "l3_read" if w["weight_bytes_per_token"] < 100e6 else "dram_read"
        return f"{100 * rate * w['weight_bytes_per_token'] / 1e9 / limit[where]:.0f} % of {where[:-5].upper()} reading"
    kind = "bf16" if "bf16" in r["row"] else "int8"
    return f"{100 * rate * flops / 1e9 / limit[kind]:.0f} % of {kind} products" if limit[kind] else ""


def peaks(limits, threads):
    best = lambda prefix: max((v["median"] for d in limits for k, v in d.items() if k.startswith(prefix) and k.endswith(f"_t{threads}") and isinstance(v, dict)), default=0)
    return {"dram_read": best("dram_read"), "l3_read": best("l3_read"), "bf16": max(best("bf16_dot"), best("amx_bf16")), "int8": max(best("int8_vnni"), best("amx_int8"))}


def markdown(doc):
    t = doc["threads"]
    limit = peaks(doc["limits"], t)
    if not doc["rows"]:
        return ""
    rows = sorted(doc["rows"].values(), key=lambda r: [x[0] for x in ROWS].index(r["row"]))
    versions, devices = sorted({r["version"] for r in rows}), sorted({r["device"] for r in rows})
    calm = "; rounds in which other processes took more than %g cores do not count" % max(r["calm"] for r in rows) if all("calm" in r for r in rows) else ""
    lines = [f"# CPU: {doc['cpu']}, {t} threads", "",
             f"{'; '.join(devices)}; metacap {', '.join(versions)}; llama.cpp of llama-cpp-python {doc['llama']}, each row at the best of its settings "
             f"(flash attention, repacked weights); OpenVINO {doc['openvino']}.",
             f"Medians of at least {min(min(len(r['metacap']), len(r['other'])) for r in rows)} samples, both engines in turns; rows measured from {min(r['time'] for r in rows)} to "
             f"{max(r['time'] for r in rows)}{calm}; load average at the end of a row at most {max(r['load'][0] for r in rows):.1f} on {doc['cores']} cores.",
             f"Machine, best of {len(doc['limits'])} measurements before and after: DRAM {limit['dram_read']:.1f} GB/s, L3 {limit['l3_read']:.1f} GB/s, "
             f"bf16 products {limit['bf16']:.0f} GFLOP/s, int8 {limit['int8']:.0f} GOP/s.", "",
             "| case | metacap | other | ratio | wanted | share of the machine | other's setting |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        lines.append("| %s | %.4g %s | %.4g | **%.2f×** | %s× | %s | %s |" % (
            r["row"], r["metacap_median"], r["unit"], r["other_median"], r["ratio"], r["wanted"], share(r, doc["limits"]), r["engine"] + ", " + r["options"]))
    lines += ["", "metacap's int8 and int4 are symmetric in groups of 128, with the head in int8; Q4_K_M keeps the head in Q6_K, Q8_0 in Q8_0. "
              "Random weights of the true shapes. `make bench-cpu` makes this page; every sample is in the JSON file beside it.", ""]
    return "\n".join(lines)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--dir", required=True); a.add_argument("--metacap", required=True); a.add_argument("--rows", default="")
    a.add_argument("--rounds", type=int, default=5); a.add_argument("--reps", type=int, default=1); a.add_argument("--threads", type=int, default=2)
    a.add_argument("--add", action="store_true", help="keep the samples of earlier runs of a row and add to them: many short runs, on a machine that is quiet for minutes at a time")
    a.add_argument("--calm", type=float, default=0.25, help="most processor cores of other processes during a round that counts")
    a.add_argument("--out", default="", help="folder of the page and the JSON file; rows that are there already and not measured now stay")
    o = a.parse_args()
    doc = {}

    def keep(row, tried):
        doc["tried"][row[0]] = tried
        write(doc, o.out, base)

    b = Bench(o, keep)
    rows = [r for r in ROWS if re.search(o.rows, r[0])]
    for r in rows:
        b.gguf(r[4], r[5])
    about = {k.strip(): v.strip() for k, _, v in (l.partition(":") for l in open("/proc/cpuinfo"))}
    cpu = about.get("model name", platform.machine())
    if not any(c.isdigit() for c in cpu) and "cpu family" in about:  # as virtual machines name it
        cpu += f" family {about['cpu family']} model {about['model']}"
    doc |= {"cpu": cpu, "cores": os.cpu_count(), "threads": o.threads, "llama": open(f"{o.dir}/llama.version").read().strip(),
           "openvino": run([f"{o.dir}/venv/bin/python", "-c", "import openvino; print(openvino.__version__.split('-')[0])"]).strip(), "limits": [], "rows": {}, "tried": {}}
    base = f"{o.out}/cpu-" + re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-")
    if o.out and os.path.exists(base + ".json"):
        old = json.load(open(base + ".json"))
        if all(old[k] == doc[k] for k in ("cpu", "cores", "threads", "llama", "openvino")):
            doc["rows"], doc["limits"], doc["tried"] = old["rows"], old["limits"], old.get("tried", {})
    doc["limits"].append(b.limits())
    for r in rows:
        before = doc["rows"].get(r[0], {})
        doc["rows"][r[0]] = b.measure(r, before | {"tried": doc["tried"].get(r[0], before.get("tried", {}))})
        doc["tried"].pop(r[0], None)
        write(doc, o.out, base)  # after each row, so that an interruption loses nothing
    doc["limits"].append(b.limits())
    print(write(doc, o.out, base))


def write(doc, out, base):
    text = markdown(doc)
    if out:
        os.makedirs(out, exist_ok=True)
        with open(base + ".json", "w") as f:
            json.dump(doc, f, indent=1)
        with open(base + ".md", "w") as f:
            f.write(text)
    return text


try:
    main()
except Failed as e:
    sys.exit(str(e))
