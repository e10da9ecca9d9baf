#!/usr/bin/env python3
"""Measures metacap against llama.cpp on random weights of the true shapes.

  bench.py --dir DIR --metacap bin/metacap [--rows REGEXP] [--rounds 5] [--threads 2] [--out docs/results]

DIR is what build.sh made. The engines take turns, round by round (A B A B), so that slow spells of the machine hit
both; a ratio is that of the medians over all rounds. llama.cpp's options are tried once a row and its best kept.
machine.c measures what the machine can do, before and after. Rows, and what llama.cpp runs for them, are in ROWS.
"""
import argparse, json, os, platform, re, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))

# name, random-weights shape, weight type, metacap test, GGUF shape, GGUF type, llama-bench arguments, least ratio wanted
ROWS = [
    ("prefill 512, bf16, 0.6B",              "0.6b", "bf16", "pp512",       "qwen3-0.6b", "bf16",   "-p 512 -n 0",         1.7),
    ("prefill 512, int8 / Q8_0, 0.6B",       "0.6b", "int8", "pp512",       "qwen3-0.6b", "q8_0",   "-p 512 -n 0",         3.0),
    ("prefill 512, int4 / Q4_K_M, 0.6B",     "0.6b", "int4", "pp512",       "qwen3-0.6b", "q4_k_m", "-p 512 -n 0",         1.6),
    ("decode 1, bf16, 0.6B",                 "0.6b", "bf16", "tg32",        "qwen3-0.6b", "bf16",   "-p 0 -n 32",          1.25),
    ("decode 1, int8 / Q8_0, 0.6B",          "0.6b", "int8", "tg32",        "qwen3-0.6b", "q8_0",   "-p 0 -n 32",          1.6),
    ("decode 1, int4 / Q4_K_M, 0.6B",        "0.6b", "int4", "tg32",        "qwen3-0.6b", "q4_k_m", "-p 0 -n 32",          1.6),
    ("decode 8 together, int4 / Q4_K_M, 0.6B", "0.6b", "int4", "tg32@128*8", "qwen3-0.6b", "q4_k_m", "batched 128 32 8",   3.0),
    ("decode 1 at 3,328, int4 / Q4_K_M, 0.6B", "0.6b", "int4", "tg16@3328",  "qwen3-0.6b", "q4_k_m", "-p 0 -n 16 -d 3328", 2.0),
    ("prefill 512 at 3,328, int4 / Q4_K_M, 0.6B", "0.6b", "int4", "pp512@3328", "qwen3-0.6b", "q4_k_m", "-p 512 -n 0 -d 3328", 2.5),
    ("decode 1, int4 / Q4_K_M, 8B",          "8b",   "int4", "tg16",        "qwen3-8b",   "q4_k_m", "-p 0 -n 16",          1.8),
    ("prefill 512, bf16, 12M",               "shapes/tiny12m.json", "bf16", "pp512", "tiny", "bf16", "-p 512 -n 0",         2.0),
    ("decode 1, bf16, 12M",                  "shapes/tiny12m.json", "bf16", "tg128", "tiny", "bf16", "-p 0 -n 128",         3.0),
    ("vision tile 448, bf16, InternViT-300M", "shapes/vit300m.json", "bf16", "vit1", "internvit-300m", "bf16", "vision",      2.2),
]
OPTIONS = [["-fa", "1"], ["-fa", "1", "--repack", "0"]]
UNITS = {"pp": "tok/s", "tg": "tok/s", "vit": "tiles/s"}


def run(cmd):
    p = subprocess.run(cmd, capture_output=True, text=True)
    if p.returncode:
        raise SystemExit(f"{' '.join(map(str, cmd))}: exit {p.returncode}\n{p.stderr[-1500:]}")
    return p.stdout


def median(values):
    return statistics.median(values) if values else float("nan")


class Bench:
    def __init__(self, o):
        self.o = o

    def gguf(self, shape, kind):
        f = f"{self.o.dir}/gguf/{shape}-{kind}.gguf"
        if not os.path.exists(f + ".json"):
            print(f"writing {f}", file=sys.stderr, flush=True)
            run([f"{self.o.dir}/venv/bin/python", f"{HERE}/make_gguf.py", f"{HERE}/shapes/{shape}.json", kind, f])
        return f, json.load(open(f + ".json"))

    def ours(self, row):
        shape = f"{HERE}/{row[1]}" if "/" in row[1] else row[1]
        out = run([self.o.metacap, "bench", "--random-weights", shape, "--weights", row[2], "--threads", str(self.o.threads),
                   "--device", "cpu", "-r", str(self.o.reps), "-o", "json", row[3]])
        r = json.loads(out.splitlines()[-1])
        self.device, self.version = r["device"], r.get("commit") or r["version"]
        return r["rates"]

    def llama(self, row, options):
        f, _ = self.gguf(row[4], row[5])
        n = str(self.o.threads)
        if row[6] == "vision":
            host, _ = self.gguf("qwen3-8b-2layer", "q8_0")
            ms = json.loads(run([f"{self.o.dir}/vision_bench", host, f, n, str(self.o.reps)]).splitlines()[-1])["ms"]
            return [1e3 / v for v in ms]
        if row[6].startswith("batched"):
            _, depth, tokens, batch = row[6].split()
            out = run([f"{self.o.dir}/build/bin/llama-batched-bench", "-m", f, "-t", n, "-tb", n, "-c", "4096", "-b", "512", "-ub", "512",
                       "-npp", depth, "-ntg", tokens, "-npl", batch, "--output-format", "jsonl"] + options)
            return [json.loads(line)["speed_tg"] for line in out.splitlines() if line.startswith("{")]
        out = run([f"{self.o.dir}/build/bin/llama-bench", "-m", f, "-t", n, "-r", str(self.o.reps), "-o", "json"] + row[6].split() + options)
        return [v for e in json.loads(out) for v in e["samples_ts"]]

    def limits(self):
        return json.loads(run([f"{self.o.dir}/machine", str(self.o.threads), "3", "128"]))

    def measure(self, row):
        best, tried = OPTIONS[0], {}
        if row[6] != "vision" and not self.o.quick:
            for options in OPTIONS:
                try:
                    tried[" ".join(options)] = median(self.llama(row, options))
                except SystemExit as e:  # an option that this build lacks
                    print(e, file=sys.stderr)
            best = max(tried, key=tried.get).split()
        a, b = [], []
        for _ in range(self.o.rounds):
            a += self.ours(row)
            b += self.llama(row, best)
        kind = re.match(r"[a-z]+", row[3]).group()
        r = {"row": row[0], "test": row[3], "unit": UNITS[kind], "metacap": a, "llama": b, "llama_options": " ".join(best), "tried": tried,
             "metacap_median": median(a), "llama_median": median(b), "ratio": median(a) / median(b), "wanted": row[7]}
        info = self.gguf(row[4], row[5])[1]
        r["work"] = {k: info[k] for k in ("weight_bytes_per_token", "flops_per_prompt_token", "flops_per_tile") if k in info}
        print(f"{r['row']}: {r['metacap_median']:.2f} against {r['llama_median']:.2f} {r['unit']}, {r['ratio']:.2f}x", file=sys.stderr, flush=True)
        return r


def share(r, limit):
    """Of the machine's own limit: bf16 or int8 products for prefill and vision; weight bytes (of the GGUF) for decoding one."""
    w, rate = r["work"], r["metacap_median"]
    flops = w.get("flops_per_tile") or w.get("flops_per_prompt_token")
    if r["test"].startswith("tg"):
        if "*" in r["test"] or "@" in r["test"] or not w.get("weight_bytes_per_token"):
            return ""
        return f"{100 * rate * w['weight_bytes_per_token'] / 1e9 / limit['read']:.0f} % of reading"
    peak = limit["bf16"] if "bf16" in r["row"] else limit["int8"]
    return f"{100 * rate * flops / 1e9 / peak:.0f} % of {'bf16' if 'bf16' in r['row'] else 'int8'} products" if peak else ""


def peaks(limits, threads):
    best = lambda prefix: max((v["median"] for d in limits for k, v in d.items() if k.startswith(prefix) and k.endswith(f"_t{threads}") and isinstance(v, dict)), default=0)
    return {"read": best("dram_read") or best("read"), "bf16": max(best("bf16_dot"), best("amx_bf16")), "int8": max(best("int8_vnni"), best("amx_int8"))}


def markdown(doc):
    t = doc["threads"]
    limit = peaks(doc["limits"], t)
    before, after = doc["load_before"][0], doc["load_after"][0]
    shared = ": the machine was shared, so only the ratios mean anything" if max(before, after) > 1 else ""
    lines = [f"# CPU: {doc['cpu']}, {t} threads", "",
             f"{doc['time']}; {doc['device']}; metacap {doc['version']}; llama.cpp of llama-cpp-python {doc['llama']}.",
             f"Medians of {doc['rounds']} interleaved rounds of {doc['reps']} repetition(s). Load average {before:.1f} before, {after:.1f} after "
             f"on {doc['cores']} cores{shared}.",
             f"Machine, best of before and after: reading {limit['read']:.1f} GB/s, bf16 products {limit['bf16']:.0f} GFLOP/s, int8 {limit['int8']:.0f} GOP/s.", "",
             "| case | metacap | llama.cpp | ratio | wanted | share of the machine | llama.cpp options |", "|---|---|---|---|---|---|---|"]
    for r in doc["rows"]:
        lines.append("| %s | %.4g %s | %.4g | **%.2f×** | %s× | %s | %s |" % (
            r["row"], r["metacap_median"], r["unit"], r["llama_median"], r["ratio"], r["wanted"], share(r, limit), r["llama_options"]))
    lines += ["", "metacap's int8 and int4 are symmetric in groups of 128, with the head in int8; Q4_K_M keeps the head in Q6_K, Q8_0 in Q8_0. "
              "Random weights of the true shapes. `make bench-cpu` makes this page; every sample is in the JSON file beside it.", ""]
    return "\n".join(lines)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--dir", required=True); a.add_argument("--metacap", required=True); a.add_argument("--rows", default="")
    a.add_argument("--rounds", type=int, default=5); a.add_argument("--reps", type=int, default=1); a.add_argument("--threads", type=int, default=2)
    a.add_argument("--quick", action="store_true", help="do not try llama.cpp's options"); a.add_argument("--out", default="")
    o = a.parse_args()
    b = Bench(o)
    rows = [r for r in ROWS if re.search(o.rows, r[0])]
    for r in rows:
        b.gguf(r[4], r[5])
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    doc = {"time": time.strftime("%Y-%m-%d %H:%M"), "cpu": cpu, "cores": os.cpu_count(), "threads": o.threads, "rounds": o.rounds, "reps": o.reps,
           "llama": open(f"{o.dir}/llama.version").read().strip(), "load_before": os.getloadavg(), "limits": [b.limits()], "rows": []}
    for r in rows:
        doc["rows"].append(b.measure(r))
        doc["load_after"], doc["device"], doc["version"] = os.getloadavg(), b.device, b.version
        write(doc, o.out)  # after each row, so that an interruption loses nothing
    doc["limits"].append(b.limits())
    print(write(doc, o.out))


def write(doc, out):
    text = markdown(doc)
    if out:
        os.makedirs(out, exist_ok=True)
        base = f"{out}/cpu-" + re.sub(r"[^a-z0-9]+", "-", doc["cpu"].lower()).strip("-")
        with open(base + ".json", "w") as f:
            json.dump(doc, f, indent=1)
        with open(base + ".md", "w") as f:
            f.write(text)
    return text


main()
