"""Writes pictures with their facts to a folder, for whoever wants the drawn world as files.

    python dataset.py OUT --n 200             # 200 held-out pictures a domain: OUT/DOMAIN_SEED.png and OUT/facts.jsonl
    python dataset.py OUT --n 50 --domain ui  # of one domain

A video is one PNG a frame, DOMAIN_SEED_f1.png and so on. A line of facts.jsonl is an object with
  files    names of the picture, or of the frames in order
  prompts  the canonical wording of caption_detailed and ocr for it (see prompts.json)
  caption, style  the detailed caption expected, and how the picture was drawn
and the keys of world.Sample.facts_json: domain, seed, overview, facts (kind, true and false sentence), text, short, tags, reasoning, questions, table, code.
"""
import argparse
import json
import os

import tasks
import world


def record(s, folder):
    """Saves the pictures of a sample and returns its line."""
    files = [f"{s.domain}_{s.seed}" + (f"_f{k + 1}" if s.domain == "video" else "") + ".png" for k in range(len(s.images))]
    for f, im in zip(files, s.images):
        im.save(os.path.join(folder, f), compress_level=6)
    ask = {name: tasks.for_video(tasks.prompt(name)) if s.domain == "video" else tasks.prompt(name) for name in ("caption_detailed", "ocr")}
    return {"files": files, "prompts": ask, "caption": s.caption(), "style": s.style, **s.facts_json()}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out")
    ap.add_argument("--n", type=int, default=200, help="pictures a domain")
    ap.add_argument("--domain", choices=world.DOMAINS, help="only this domain")
    ap.add_argument("--base", type=int, default=200_000, help="first seed; seeds from 1,000,000 on are training pictures")
    ap.add_argument("--size", choices=("plain", "near", "multi"))
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    part = os.path.join(a.out, "facts.jsonl.part")
    with open(part, "w", encoding="utf-8") as f:
        for d, domain in enumerate(world.DOMAINS):
            for i in range(a.n if a.domain in (None, domain) else 0):
                f.write(json.dumps(record(world.make(a.base + 10_000 * d + i, domain, size=a.size), a.out), ensure_ascii=False) + "\n")
    os.replace(part, os.path.join(a.out, "facts.jsonl"))


if __name__ == "__main__":
    main()
