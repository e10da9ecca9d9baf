#!/usr/bin/env python3
"""metacap on a GPU against PyTorch, transformers and llama.cpp: one run, one table.

    bench.py --metacap bin/metacap --out docs/results [--peers PYTHON] [--llama DIR] [--device cuda] [--shape 8b]

--peers PYTHON  interpreter that has torch and transformers: runs peers.py
--llama DIR     folder with llama-bench and llama-batched-bench built for the card, and a GGUF of the shape (*.gguf)
What is not given is left out and said so in the table. Every part runs alone on the card, one after the other. Results
are written after each part. --device cpu --shape tiny tries all of it without a GPU.
"""
import argparse, glob, hashlib, json, os, re, statistics, subprocess, sys, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
# test, what is shown, unit, must, aim: of one H100 at the 8B shape. Lower is better for times.
ROWS = {
    "8b": [
        ("tg64@2304", "decode, 1 sequence", "tok/s", 172, 184),
        ("tg64@2304*8", "decode, 8 sequences", "tok/s", 1150, 1250),
        ("tg64@2304*64", "decode, 64 sequences", "tok/s", 4600, 4900),
        ("ttft8@256", "first token, 8 tiles and 256 tokens", "ms", 70, 60),
        ("vit8", "vision encoder and projector, 8 tiles", "ms", 12, 10),
        ("vit13", "vision encoder and projector, 13 tiles", "ms", 20, 16),
        ("pp2304", "prefill, 2,304 tokens", "ms", 55, 46),
        ("startup", "process start to first token", "s", 3, 1.5),
    ],
    "tiny": [("tg16@48", "decode", "tok/s", 0, 0), ("tg16@48*2", "decode, 2", "tok/s", 0, 0), ("ttft3@40", "first token", "ms", 0, 0),
             ("vit3", "vision", "ms", 0, 0), ("pp48", "prefill", "ms", 0, 0), ("startup", "start", "s", 0, 0)],
}
ALIAS = {"tg64@48": "tg16@48", "tg64@48*2": "tg16@48*2", "ttft2@16": "ttft3@40", "vit2": "vit3"}  # tiny: shapes differ, only the script is tried


def shown(test, unit, value):
    """A rate as the table shows it."""
    if unit == "ms" and test.startswith(("vit", "pp")):
        return 1e3 * int(re.match(r"[a-z]+(\d+)", test).group(1)) / value
    return value


def run(command, seconds, **kw):
    print("+", " ".join(command), file=sys.stderr, flush=True)
    p = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds, **kw)
    return p.returncode, p.stdout


def card():
    fields = ["name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit", "temperature.gpu", "memory.used"]
    try:
        code, out = run(["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader"], 30)
    except OSError:
        return {}
    return dict(zip(fields, [v.strip() for v in out.splitlines()[0].split(",")])) if code == 0 and out else {}


class Table:
    def __init__(self, o):
        self.o, self.rows = o, ROWS[o.shape]
        self.doc = {"time": time.strftime("%Y-%m-%d %H:%M"), "shape": o.shape, "device": o.device, "card_before": card(), "metacap": {}, "peers": {}, "left_out": []}
        manifest = os.path.join(HERE, "../../kernels/cuda/bin/MANIFEST.json")
        if os.path.exists(manifest):
            self.doc["kernel_sources"] = json.load(open(manifest)).get("sources", "")
        with open(o.metacap, "rb") as f:
            self.doc["binary_sha256"] = hashlib.sha256(f.read()).hexdigest()

    def base(self):
        name = (self.doc["card_before"].get("name") or self.o.device).lower().replace("nvidia ", "")
        return os.path.join(self.o.out, "cuda-bench-" + re.sub(r"[^a-z0-9]+", "-", name).strip("-"))

    def resume(self):
        try:
            with open(self.base() + ".json") as f:
                self.doc = json.load(f)
        except OSError as e:
            self.doc["left_out"].append(f"metacap: {e}")
        self.doc["left_out"] = [t for t in self.doc["left_out"] if not t.startswith("torch, transformers")]

    def part(self, name, call):
        try:
            call()
        except (OSError, subprocess.SubprocessError, ValueError, KeyError) as e:
            self.doc["left_out"].append(f"{name}: {e}")
        self.doc["card_after"] = card()
        self.write()

    def ours(self):
        tests = [r[0] for r in self.rows]
        weights = ["-m", self.o.model] if self.o.model else ["--random-weights", self.o.shape] + (["--dir", self.o.tmp] if self.o.tmp else [])
        command = [self.o.metacap, "bench"] + weights + ["--device", self.o.device, "-r", str(self.o.reps), "-o", "jsonl"] + tests
        print("+", " ".join(command), file=sys.stderr, flush=True)
        p = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        watch = threading.Timer(self.o.seconds, p.kill)
        watch.start()
        for line in p.stdout:  # as they come: a test that fails or hangs takes no other with it
            r = json.loads(line)
            self.doc["metacap"][r["test"]] = r
            self.write()
        watch.cancel()
        if p.wait() != 0:
            raise ValueError(f"exit status {p.returncode}; the tests before it are in the table")

    def torch(self):
        code, out = run([self.o.peers, os.path.join(HERE, "peers.py"), "--device", self.o.device, "--shape", self.o.shape, "--seconds", str(self.o.peer_seconds)], self.o.seconds)
        for line in out.splitlines():
            if line.startswith("{"):
                r = json.loads(line)
                self.doc["peers"].setdefault(r["peer"], {})[ALIAS.get(r["test"], r["test"])] = r["samples"]
        if code != 0:
            raise ValueError(f"exit status {code}")

    def llama(self):
        files = glob.glob(os.path.join(self.o.llama, "*.gguf"))
        if len(files) != 1:
            raise ValueError(f"{len(files)} GGUF files in {self.o.llama}, want one of the shape in bf16")
        put = self.doc["peers"].setdefault("llama.cpp", {})
        code, out = run([os.path.join(self.o.llama, "llama-bench"), "-m", files[0], "-ngl", "99", "-fa", "1", "-p", "2304", "-n", "64", "-d", "0,2304", "-r", "5",
                         "-b", "2304", "-ub", "2304", "-o", "json"], self.o.seconds)
        for e in json.loads(out):
            if e["n_gen"] > 0 and e["n_depth"] == 2304:
                put["tg64@2304"] = e["samples_ts"]
            if e["n_gen"] == 0 and e["n_depth"] == 0:
                put["pp2304"] = e["samples_ts"]
        code, out = run([os.path.join(self.o.llama, "llama-batched-bench"), "-m", files[0], "-ngl", "99", "-fa", "on", "-c", "163840", "-b", "2304", "-ub", "2304",
                         "-npp", "2304", "-ntg", "64", "-npl", "8,64", "--output-format", "jsonl"], self.o.seconds)
        for line in out.splitlines():
            if line.startswith("{"):
                e = json.loads(line)
                put[f"tg64@2304*{e['pl']}"] = [e["speed_tg"]]

    def lines(self):
        d = self.doc
        first = next(iter(d["metacap"].values()), {})
        c = d["card_before"]
        peers = sorted(d["peers"])
        out = [f"# {first.get('device') or c.get('name') or d['device']}: metacap against others", "",
               f"{d['time']}; driver {c.get('driver_version', '-')} ({first.get('driver', '-')}); clocks {c.get('clocks.sm', '-')} of {c.get('clocks.max.sm', '-')}, memory "
               f"{c.get('clocks.mem', '-')}; power limit {c.get('power.limit', '-')}; metacap {first.get('version', '-')}, commit {first.get('commit', '-')}, "
               f"kernels {d.get('kernel_sources', '-')[:16]}. Random weights of the {d['shape']} shape in {first.get('dtype', '-')}; medians, deviation of metacap's in brackets."]
        if first.get("read_bytes_per_second"):
            out.append(f"Limits measured on this card by `metacap bench`: reading {first['read_bytes_per_second'] / 1e12:.2f} TB/s, products "
                       f"{first['ops_per_second'] / 1e12:.0f} TFLOP/s; \"of limit\" is a share of these.")
        out += ["", "| test | metacap | of limit | " + "".join(p + " | " for p in peers) + "against the best peer | must | aim |",
                "|---|---|---|" + "---|" * len(peers) + "---|---|---|"]
        for test, what, unit, must, aim in self.rows:
            r = d["metacap"].get(test)
            ours = shown(test, unit, r["median"]) if r else None
            spread = abs(shown(test, unit, r["median"] + r["deviation"]) - ours) if r else 0
            theirs = {p: shown(test, unit, statistics.median(d["peers"][p][test])) for p in peers if d["peers"][p].get(test)}
            higher = unit == "tok/s"
            ratio = ""
            if r and theirs:
                ratio = f"**{ours / max(theirs.values()):.2f}×**" if higher else f"**{min(theirs.values()) / ours:.2f}×**"
            verdict = ""
            if must:
                verdict = f"{'≥' if higher else '≤'} {must:,}" + ("" if not r else " yes" if (ours >= must if higher else ours <= must) else " **no**")
            cell = lambda v: f"{v:,.4g}" if v < 1000 else f"{v:,.0f}"
            mine = f"{cell(ours)} ({cell(spread)}) {unit}" if r else "not run"
            share = f"{100 * r['share_of_limit']:.0f} %" if r and r.get("share_of_limit") else ""
            out.append(f"| {what} (`{test}`) | {mine} | {share} | " + "".join((cell(theirs[p]) if p in theirs else "") + " | " for p in peers)
                       + f"{ratio} | {verdict} | {aim or ''} |")
        out.append("")
        start = d["metacap"].get("startup", {}).get("start")
        if start:
            out += [f"The start: main {start['main']:.3f} s, files {start['files']:.3f}, device {start['device']:.3f} beside tokenizer {start['text']:.3f}, weights "
                    f"{start['weights']:.3f} ({start['bytes'] / 1e9 / start['weights']:.1f} GB/s), workspace {start['workspace']:.3f}, first token {start['first']:.3f}.", ""]
        if d["left_out"]:
            out += ["Left out:", ""] + ["- " + t for t in d["left_out"]] + [""]
        out += ["`make bench-cuda` makes this page; every sample is in the JSON file beside it.", ""]
        return "\n".join(out)

    def write(self):
        base = self.base()
        os.makedirs(self.o.out, exist_ok=True)
        for end, text in ((".json", json.dumps(self.doc, indent=1) + "\n"), (".md", self.lines())):
            with open(base + end + ".part", "w") as f:
                f.write(text)
            os.replace(base + end + ".part", base + end)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--metacap", required=True)
    a.add_argument("--out", required=True)
    a.add_argument("--device", default="cuda")
    a.add_argument("--shape", default="8b", choices=sorted(ROWS))
    a.add_argument("--reps", type=int, default=5)
    a.add_argument("--model", default="", help="folder of a checkpoint of the shape; empty = random weights made for this run")
    a.add_argument("--peers", default="")
    a.add_argument("--llama", default="")
    a.add_argument("--tmp", default="", help="where the start-up test puts its checkpoint (17 GB at the 8B shape)")
    a.add_argument("--only-peers", action="store_true", help="add the peers to the table that an earlier run left in --out")
    a.add_argument("--seconds", type=float, default=600, help="limit of a part")
    a.add_argument("--peer-seconds", type=float, default=240, help="no test of peers.py begins later")
    o = a.parse_args()
    t = Table(o)
    if o.only_peers:
        t.resume()
    else:
        t.part("metacap", t.ours)
    if o.peers:
        t.part("torch, transformers", t.torch)
    else:
        t.doc["left_out"].append("torch, transformers: no interpreter was given (PEERS)")
    if o.llama:
        t.part("llama.cpp", t.llama)
    elif not o.only_peers:
        t.doc["left_out"].append("llama.cpp: no build was given (LLAMA)")
    t.write()
    print(t.lines())
    sys.exit(0 if o.only_peers or all(r[0] in t.doc["metacap"] for r in t.rows) else 1)


main()
