"""Draws a set of pictures with their facts: the form that `metacap eval drawn DIR` reads.

    python drawset.py OUT --base 850000 --each 50
    python drawset.py OUT --base 850000 --each 50 --domains ui,code

Sample i of domain d has the seed base + 1000 d + i, so that sets with different bases (10,000 apart) share no picture.
Seeds must be below words.HELD_OUT: training never saw these seeds, nor the words and combinations of attributes kept for them.
Sizes, fonts, JPEG and blur are drawn as in training.
"""
import argparse
import json
import os

import tasks
import words
import world

MOST = 1000  # samples a domain: the distance of the seeds of two domains


def record(s, out):
    """Writes the sample's pictures and returns its entry of samples.json."""
    files = [f"{s.domain}_{s.seed}" + (f"_f{k + 1}" if len(s.images) > 1 else "") + ".png" for k in range(len(s.images))]
    for f, im in zip(files, s.images):
        im.save(os.path.join(out, f), compress_level=4)
    return {"domain": s.domain, "seed": s.seed, "files": files, "width": s.images[0].width, "height": s.images[0].height, "overview": s.overview,
            "truth": {"caption": s.caption(), "ocr": s.ocr or tasks.NO_TEXT, "short": s.short, "medium": s.medium(), "tags": s.tags},
            "facts": [vars(f) for f in s.facts], "reasoning": [a for a, _ in s.reasoning],
            "table": {"columns": s.table[0], "rows": s.table[1]} if s.table else None,
            "code": {"language": s.code[0], "source": s.code[1], "purpose": s.code[2]} if s.code else None}


def main(out, base, each, domains):
    top = base + 1000 * (len(world.DOMAINS) - 1) + each
    if not 0 < each <= MOST or base < 0 or top > words.HELD_OUT:
        raise SystemExit(f"seeds {base} to {top} with {each} a domain: want at most {MOST} a domain and seeds below {words.HELD_OUT}, which training never saw")
    os.makedirs(out, exist_ok=True)
    entries = [record(world.make(base + 1000 * d + i, domain), out) for d, domain in enumerate(world.DOMAINS) if domain in domains for i in range(each)]
    with open(os.path.join(out, "samples.json.tmp"), "w", encoding="utf-8") as f:
        json.dump(entries, f, indent=1, ensure_ascii=False)
        f.write("\n")
    os.replace(f.name, os.path.join(out, "samples.json"))
    print(f"{len(entries)} samples in {out}, seeds from {base}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out")
    ap.add_argument("--base", type=int, required=True, help="first seed")
    ap.add_argument("--each", type=int, default=50, help="samples a domain")
    ap.add_argument("--domains", default=",".join(world.DOMAINS), help="comma-separated")
    a = ap.parse_args()
    unknown = [d for d in a.domains.split(",") if d not in world.DOMAINS]
    if unknown:
        ap.error(f"no domain {unknown}, want some of {world.DOMAINS}")
    main(a.out, a.base, a.each, a.domains.split(","))
