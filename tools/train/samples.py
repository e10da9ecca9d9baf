"""Writes testdata/drawn: four samples a domain with facts, and what the model answers in float32 in PyTorch.

    python samples.py MODEL OUT
The seeds are fixed and held out; none was chosen by its result. Every second sample of a domain has several tiles.
"""
import json
import os
import random
import sys

import torch

import tok  # noqa: F401  (puts the drawn world on the path)
import tasks
import world
from answers import pictures_of
from greedy import generate
from export import load
from model import Config, Model
from tok import Text

FIRST, EACH = 700_000, 4
MOST = {"caption": 200, "ocr": 200, "router": 2, "short": 60}


def sample_of(d, i):
    domain = world.DOMAINS[d]
    return world.make(FIRST + 10 * d + i, domain, size=("plain", "multi", "near", "multi")[i], frames=2 + i if domain == "video" else None, clean=True)


def prompts(s):
    order = world.DOMAINS if s.domain == "video" else world.DOMAINS[:8]
    words = {"caption": tasks.prompt("caption_detailed"), "ocr": tasks.prompt("ocr"), "short": tasks.prompt("caption_short"),
             "router": tasks.prompt("router").replace("{options}", tasks.router_options(order))}
    return {k: tasks.for_video(v) if s.domain == "video" else v for k, v in words.items()}


def main(model, out):
    torch.set_num_threads(1)
    os.makedirs(out, exist_ok=True)
    for f in os.listdir(out):
        if f.endswith(".png"):
            os.remove(os.path.join(out, f))
    ss = [sample_of(d, i) for d in range(len(world.DOMAINS)) for i in range(EACH)]
    records = []
    for s in ss:
        files = [f"{s.domain}_{s.seed}" + (f"_f{k + 1}" if s.domain == "video" else "") + ".png" for k in range(len(s.images))]
        for f, im in zip(files, s.images):
            im.save(os.path.join(out, f), optimize=True)
        r = random.Random(s.seed)
        claims = [tasks.ask(s, "claim", r, 1) for _ in range(4)]
        order = world.DOMAINS if s.domain == "video" else world.DOMAINS[:8]
        records.append({"domain": s.domain, "seed": s.seed, "files": files, "width": s.images[0].width, "height": s.images[0].height, "prompts": prompts(s),
                        "truth": {"caption": s.caption(), "ocr": s.ocr or tasks.NO_TEXT, "router": tasks.LETTERS[order.index(s.domain)], "short": s.short},
                        "facts": [vars(f) for f in s.facts], "reasoning": [a for a, _ in s.reasoning],
                        "claims": [{"question": c.prompt, "answer": c.answer} for c in claims],
                        "questions": [{"question": q, "answer": a} for q, a in s.qa[:3]], "table": tasks.table_json(s.table)})
    net, tx = Model(Config()), Text(model, Config().image_tokens)
    load(net, model)
    net.eval()
    tiles = [pictures_of(s) for s in ss]
    for name, most in MOST.items():
        got = generate(net, tx, [(t, rec["prompts"][name], s.domain == "video") for s, t, rec in zip(ss, tiles, records)], most, "cpu", 12)
        for rec, (text, _) in zip(records, got):
            rec.setdefault("model_greedy", {})[name] = text
    with open(os.path.join(out, "samples.json"), "w") as f:
        json.dump(records, f, indent=1, ensure_ascii=False)
        f.write("\n")
    right = [(rec["truth"][k] == rec["model_greedy"][k]) for rec in records for k in MOST]
    print(f"{len(records)} samples, {sum(right)} of {len(right)} answers exact, torch {torch.__version__}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
