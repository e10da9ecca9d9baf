"""Evaluation on held-out pictures: captions, text, claims and every other task scored as facts.

    python evaluate.py MODEL --go ../../bin/drawneval --n 200 --answers answers.jsonl --seconds 120 --out evaluation.json

With --seconds the program stops after that time with status 75 and goes on from --answers when it is called again.
Without --go the model runs in torch. Parts: every task on held-out pictures (main); the same picture in other sizes and
fonts, as JPEG and blurred (views); smudged words (smudged); pictures of other worlds (outside).
"""
import argparse
import json
import random
import sys
from collections import defaultdict

import numpy as np

import tok  # noqa: F401  (puts the drawn world on the path)
import canvas
import outside
import places
import scenes
import tasks
import words
import world
from answers import Engine, Pictures, Plan, Unfinished, pictures_of

EVAL_BASE = 400_000  # seeds of the quick evaluation; all of it is below words.HELD_OUT
STATUS_UNFINISHED = 75


def states(text, sentence):
    """Says whether a text contains a sentence; "a" and "an" are one word here, all else is exact."""
    flat = lambda x: f" {x} ".replace(" An ", " A ").replace(" an ", " a ")
    return flat(sentence) in flat(text)


def tells(caption, f, s):
    """Says whether a caption tells fact f of sample s.

    Of plain shapes many true sentences about places can be said, of which the facts hold one. There the caption must hold a
    true sentence of that kind, and no false one about places; whether one is true, the drawn shapes tell.
    """
    if f.kind in ("pos", "relation") and s.shapes:
        said = places.statements(caption, s.shapes)
        return all(ok for _, ok in said) and any(kind == f.kind for kind, _ in said)
    return states(caption, f.true)


def distance(a, b):
    """Levenshtein distance."""
    p = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        q = [i]
        for j, y in enumerate(b, 1):
            q.append(min(p[j] + 1, q[-1] + 1, p[j - 1] + (x != y)))
        p = q
    return p[-1]


def claim_pair(s):
    return random.Random(s.seed).choice(s.facts)


def text_scores(want, got):
    """Character error rate, words right / words, wrong words in the place of a smudged word / smudged words."""
    w, g = want.split(), got.split()
    left = list(g)
    right = 0
    for x in w:
        if x in left:
            left.remove(x)
            right += x != canvas.UNREADABLE
    readable = [x for x in w if x != canvas.UNREADABLE]
    marked, smudged = min(g.count(canvas.UNREADABLE), w.count(canvas.UNREADABLE)), w.count(canvas.UNREADABLE)
    return min(1., distance(want, got) / max(1, len(want))), right, len(readable), smudged - marked, smudged


class Board:
    """Collects shares: board.put(domain, kind, right, of)."""

    def __init__(self):
        self.n = defaultdict(lambda: [0., 0])

    def put(self, domain, kind, right, of=1):
        for d in (domain, "all"):
            self.n[d, kind][0] += right
            self.n[d, kind][1] += of

    def share(self, kind, domain="all"):
        r, n = self.n[domain, kind]
        return round(r / n, 4) if n else None

    def table(self):
        """{domain: {kind: [share, low, high, n]}} with 95 % Wilson intervals."""
        out = defaultdict(dict)
        for (d, k), (r, n) in sorted(self.n.items()):
            if n:
                out[d][k] = wilson(r, n)
        return out


def wilson(right, n):
    """[share, low, high, n]: the 95 % Wilson interval."""
    if not n:
        return [0., 0., 1., 0]
    p, z = min(1., right / n), 1.96
    mid, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** .5
    return [round(p, 4), round(max(0., mid - half), 4), round(min(1., mid + half), 4), n]


def samples(per_domain, base, size=None, domains=world.DOMAINS, **k):
    """The same pictures of a domain whichever others are asked for."""
    return [world.make(base + 10_000 * d + i, dm, size=size, **k) for d, dm in enumerate(world.DOMAINS) if dm in domains for i in range(per_domain)]


def score_captions(board, ss, answers):
    for s, (got, _) in zip(ss, answers):
        board.put(s.domain, "overview", states(got, s.overview))
        group = "shapes_" if s.overview == scenes.SHAPES else "others_"
        for f in s.facts:
            ok = tells(got, f, s)
            for kind in ("fact_" + f.kind, "facts", group + f.kind):
                board.put(s.domain, kind, ok)
            board.put(s.domain, "wrong_facts", states(got, f.false))
        for _, ok in places.statements(got, s.shapes) if s.shapes else ():
            board.put(s.domain, "places_said", ok)
        board.put(s.domain, "caption_exact", got == s.caption())


def score_text(board, ss, answers):
    for s, (got, _) in zip(ss, answers):
        if not s.ocr:
            board.put(s.domain, "no_text_right", got == tasks.NO_TEXT)
            continue
        cer, right, n, wrong, smudged = text_scores(s.ocr, got)
        board.put(s.domain, "cer", cer)
        board.put(s.domain, "words", right, n)
        if smudged:
            board.put(s.domain, "smudged_called", smudged - wrong, smudged)


def plain(name):
    """The canonical prompt of a task for a sample."""
    return lambda s: tasks.for_video(tasks.prompt(name)) if s.domain == "video" else tasks.prompt(name)



class Asker:
    """Asks about samples. m answers items, see answers.py."""

    def __init__(self, m, ss):
        self.m, self.ss, self.pictures = m, ss, {id(s): pictures_of(s) for s in ss}

    def item(self, s, prompt, picture=True):
        return (self.pictures[id(s)] if picture else (), prompt, s.domain == "video" and picture)

    def ask(self, prompt, most, keep=lambda s: True):
        """(sample, answer) of each kept sample; prompt is a function of the sample."""
        kept = [s for s in self.ss if keep(s)]
        return list(zip(kept, self.m.generate([self.item(s, prompt(s)) for s in kept], most)))


def full(m, ss, every=1):
    """Every task on samples; the rarer tasks on every so many of them. Returns the Board, confidence rows and router rows."""
    board, asker = Board(), Asker(m, ss)
    few = {id(s) for s in ss if s.seed % every == 0}
    caps = asker.ask(plain("caption_detailed"), 200)
    score_captions(board, ss, [a for _, a in caps])
    for s, a in caps:
        board.put(s.domain, "false_alarm", a[0] == tasks.UNKNOWN)
    rows = [(True, a[0] == tasks.UNKNOWN, a[1], s.domain) for s, a in caps]
    score_text(board, ss, [a for _, a in asker.ask(plain("ocr"), 200)])
    routed = router(board, m, asker) if hasattr(m, "choose") else []
    short_answers(board, asker)
    tables(board, asker)
    built_tasks(board, asker, lambda s: id(s) in few)
    plain_tasks(board, asker, every)
    return board, rows, routed


def router(board, m, asker):
    """Both orders of the options, and their average as CapFlow takes it: (domain, probability of the choice, right) rows."""
    rows = []
    orders = {name: [list(world.DOMAINS if s.domain == "video" else world.DOMAINS[:8])[::step] for s in asker.ss] for name, step in (("forward", 1), ("reversed", -1))}
    total = [defaultdict(float) for _ in asker.ss]
    for name, order in orders.items():
        got = m.choose([asker.item(s, plain("router")(s).replace("{options}", tasks.router_options(o))) for s, o in zip(asker.ss, order)])
        for s, o, first, t in zip(asker.ss, order, got, total):
            p = np.array([np.exp(first.get(tasks.LETTERS[i], -40.)) for i in range(len(o))])
            p /= p.sum()
            board.put(s.domain, "router_" + name, o[int(p.argmax())] == s.domain)
            for d, x in zip(o, p):
                t[d] += x / 2
    for s, t in zip(asker.ss, total):
        best = max(t, key=t.get)
        board.put(s.domain, "router", best == s.domain)
        rows.append((s.domain, float(t[best]), best == s.domain))
    return rows


def calibration(rows, bins=10):
    """Expected calibration error: the mean distance of probability and share right over equal bins of probability, weighted by size."""
    p, right = np.array([r[1] for r in rows]), np.array([float(r[2]) for r in rows])
    at = np.minimum((p * bins).astype(int), bins - 1)
    return float(sum(abs(p[at == k].mean() - right[at == k].mean()) * (at == k).mean() for k in range(bins) if (at == k).any()))


def short_answers(board, asker):
    """Claims, one true and one false of each sample, and one question."""
    for ok in (True, False):
        q = lambda s: plain("claim")(s).replace("{claim}", claim_pair(s).true if ok else claim_pair(s).false)
        for s, (a, _) in asker.ask(q, 2):
            board.put(s.domain, "claim_true" if ok else "claim_false", a == ("Yes" if ok else "No"))
            board.put(s.domain, f"claim_{'true' if ok else 'false'}_{claim_pair(s).kind}", a == ("Yes" if ok else "No"))
    pick = lambda s: random.Random(s.seed + 1).choice(s.qa)
    for s, (a, _) in asker.ask(lambda s: pick(s)[0], 40, lambda s: s.qa):
        board.put(s.domain, "question", a == pick(s)[1])


def tables(board, asker):
    """Tables as JSON, whole and cell by cell in their places, and one value asked for by its names."""
    for s, (a, _) in asker.ask(plain("data_table"), 200, lambda s: s.table):
        board.put(s.domain, "data_table", a == tasks.table_json(s.table))
        want, got = [s.table[0], *s.table[1]], cells(a)
        for i, row in enumerate(want):
            for j, v in enumerate(row):
                kind = "table_values" if i and j else "table_names"
                if kind == "table_values" or s.domain == "infographic_document" or i:  # a chart's columns are always label and value
                    board.put(s.domain, kind, i < len(got) and j < len(got[i]) and got[i][j] == v)
    values = lambda s: [(q, a) for q, a in s.qa if s.table and a in {v for row in s.table[1] for v in row[1:]}]
    pick = lambda s: random.Random(s.seed + 3).choice(values(s))
    for s, (a, _) in asker.ask(lambda s: pick(s)[0], 20, lambda s: values(s)):
        board.put(s.domain, "value_asked", a == pick(s)[1])


def cells(text):
    """The rows of a table as JSON, headings first; nothing when it is not one."""
    try:
        t = json.loads(text)
        return [t["columns"], *t["rows"]]
    except (ValueError, KeyError, TypeError):
        return []


def built_tasks(board, asker, keep):
    """Judge, summaries from an evidence pack, revisions and renderings, with and without the picture."""
    for name, most in (("judge", 2), ("summary", 200), ("revise", 200), ("render_short", 60), ("render_tags", 60)):
        kept = [s for s in asker.ss if keep(s)]
        its = [tasks.ask(s, name, random.Random(s.seed + 2), 1) for s in kept]
        for s, it, (a, _) in zip(kept, its, asker.m.generate([asker.item(s, it.prompt, it.image) for s, it in zip(kept, its)], most)):
            tail = "" if it.image else "_text_only"
            board.put(s.domain, name + tail, a == it.answer)
            if name == "summary":
                for f in s.facts:
                    board.put(s.domain, "summary_facts" + tail, tells(a, f, s))


def plain_tasks(board, asker, every):
    """The remaining tasks with their canonical words, and detailed captions asked for in free words."""
    for name in ("caption_short", "caption_medium", "tags", "visual_guideline", "general_reasoning", "coder", "structure_perception", "ui_perception", "natural_perception",
                 "infographic_perception", "texture_perception", "medical_reasoning", "knowledge_reasoning", "probe_text", "probe_table", "probe_code", "probe_person"):
        for s, (a, _) in asker.ask(plain(name), 200, lambda s: s.domain != "video" and s.seed % every == 0):
            want = tasks.ask(s, name, random.Random(0), 1).answer
            board.put(s.domain, name + ("_sentinel" if want == tasks.NOT_APPLICABLE else ""), a == want)
    for s, (a, _) in asker.ask(plain("data_table"), 200, lambda s: s.domain != "video" and not s.table and s.seed % every == 0):
        board.put(s.domain, "data_table_sentinel", a == tasks.EMPTY_TABLE)
    free = lambda s: random.Random(s.seed).choice(tasks.PACK["tasks"]["caption_detailed"]["prompts"][1:])
    for s, (a, _) in asker.ask(lambda s: tasks.for_video(free(s)) if s.domain == "video" else free(s), 200, lambda s: s.seed % every == 1 % every):
        board.put(s.domain, "paraphrase_caption_exact", a == s.caption())
        for f in s.facts:
            board.put(s.domain, "paraphrase_facts", tells(a, f, s))


def views(m, n, base):
    """Facts and words right of the same pictures drawn plain and in each view: {view: {kind: …}}, differences paired by picture."""
    right = {}
    for view in (None, *world.VIEWS):
        ss = [world.make(base + 10_000 * d + i, dm, size="plain", clean=True, view=view) for d, dm in enumerate(world.DOMAINS) for i in range(n)]
        asker = Asker(m, ss)
        for s, (a, _) in asker.ask(plain("caption_detailed"), 200):
            right["facts", view, s.domain, s.seed] = (sum(tells(a, f, s) for f in s.facts), len(s.facts))
        for s, (a, _) in asker.ask(plain("ocr"), 200, lambda s: s.ocr):
            right["words", view, s.domain, s.seed] = text_scores(s.ocr, a)[1:3]
    out = {}
    for view in world.VIEWS:
        out[view] = {}
        for kind in ("facts", "words"):
            out[view][kind] = paired([(d, right[kind, None, d, seed], v) for (k, w, d, seed), v in right.items() if k == kind and w == view and (view not in ("near", "multi", "font") or d != "video")])
    return out


def paired(rows):
    """Shares of (right, of) pairs before and after, and their difference with a 95 % bootstrap interval over pictures."""
    rows = [(d, a, b) for d, a, b in rows if a[1] == b[1]]  # a view may hide a smudge or show another number of facts: no pair
    if not rows:
        return None
    a, b, n = (np.array(x, float) for x in ([r[1][0] for r in rows], [r[2][0] for r in rows], [r[1][1] for r in rows]))
    g = np.random.default_rng(1)
    at = g.integers(0, len(rows), (2000, len(rows)))
    total = np.maximum(1, n[at].sum(1))
    low, high = np.quantile((b - a)[at].sum(1) / total, (.025, .975))
    domains = {}
    for d in sorted({r[0] for r in rows}):
        on = np.array([r[0] == d for r in rows])
        domains[d] = round(float((b - a)[on].sum() / max(1, n[on].sum())), 4)
    share = lambda x: round(float(x.sum() / max(1, n.sum())), 4)
    return {"plain": share(a), "view": share(b), "difference": [round(share(b) - share(a), 4), round(float(low), 4), round(float(high), 4)], "pictures": len(rows), "n": int(n.sum()), "by_domain": domains}


def smudged(m, n, base):
    """Pictures with smudged words: the share of these words not called unreadable, and of readable words called so."""
    board = Board()
    ss = []
    for d, dm in enumerate(("infographic_document", "ui")):
        seeds = (s for i in range(100_000) if canvas.UNREADABLE in (s := world.make(base + 50_000 * d + i, dm)).ocr)
        ss += [s for s, _ in zip(seeds, range(n))]
    for s, (a, _) in Asker(m, ss).ask(plain("ocr"), 200):
        _, _, readable, wrong, n_smudged = text_scores(s.ocr, a)
        board.put(s.domain, "wrong_word", wrong, n_smudged)
        board.put(s.domain, "readable_called", max(0, a.split().count(canvas.UNREADABLE) - n_smudged), readable)
    return board


def outside_rows(m, n):
    """Refusals and confidence on pictures of other worlds, kind by kind."""
    board, rows = Board(), []
    kinds = {kind: [outside.picture(random.Random(77_000 + i), kind, held=True) for i in range(n)] for kind in outside.KINDS if kind not in outside.FOLDERS}
    kinds |= {kind: list(outside.foreign(kind)) for kind in outside.FOLDERS}
    for kind, ims in kinds.items():
        for a, lp in m.generate([(Pictures([im]), tasks.prompt("caption_detailed"), False) for im in ims], 120):
            board.put(kind, "refused", a == tasks.UNKNOWN)
            rows.append((False, a == tasks.UNKNOWN, lp, kind))
    return board, rows


def threshold(rows, alarms=.015):
    """The mean log-probability under which a caption counts as a guess: chosen on every second drawn picture so that at most
    `alarms` of these are refused or called guesses, measured on the others and on all outside pictures; 0.02 is the most there may be."""
    inside, out = [r for r in rows if r[0]], [r for r in rows if not r[0]]
    chosen, other = inside[::2], inside[1::2]
    lp = sorted(r[2] for r in chosen if not r[1])
    spare = int(alarms * len(chosen)) - sum(r[1] for r in chosen)
    cut = lp[max(0, spare)] if lp else 0.
    guess = lambda r: r[1] or r[2] < cut
    kinds = defaultdict(list)
    for r in out:
        kinds[r[3]].append(guess(r))
    return {"threshold": round(cut, 4), "caught": wilson(sum(map(guess, out)), len(out)), "refused": wilson(sum(r[1] for r in out), len(out)),
            "false_alarms": wilson(sum(map(guess, other)), len(other)), "caught_by_kind": {k: [round(sum(v) / len(v), 4), len(v)] for k, v in kinds.items()}}


def run(m, a):
    """All parts as one JSON object."""
    ss = samples(a.n, a.base, domains=a.domains)
    board, inside, routed = full(m, ss, a.every)
    res = {"domains": board.table(), "router_calibration": round(calibration(routed), 4) if routed else None}
    ob, outer = outside_rows(m, a.outside)
    res |= {"outside": ob.table(), "confidence": threshold(inside + outer)}
    res["smudged"] = smudged(m, a.smudged, a.base + 100_000).table()
    res["views"] = views(m, a.views, a.base + 5_000)
    return res


def known_domains(text):
    """"a,b" as a list, with every name checked."""
    names = text.split(",")
    if unknown := [d for d in names if d not in world.DOMAINS]:
        raise argparse.ArgumentTypeError(f"no domain {unknown}, want some of {world.DOMAINS}")
    return names


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("--tok", help="tokenizer folder; default: the model's")
    ap.add_argument("--n", type=int, default=200, help="pictures a domain")
    ap.add_argument("--domains", type=known_domains, default=world.DOMAINS, metavar="NAME,...", help="only these in the main part")
    ap.add_argument("--every", type=int, default=4, help="the rarer tasks are asked of one in so many pictures")
    ap.add_argument("--views", type=int, default=60, help="pictures a domain in each view")
    ap.add_argument("--smudged", type=int, default=60, help="pictures with smudged words a domain")
    ap.add_argument("--outside", type=int, default=50, help="outside pictures a drawn kind")
    ap.add_argument("--base", type=int, default=200_000, help="first seed, below the held-out limit")
    ap.add_argument("--out", default="evaluation.json")
    ap.add_argument("--go", help="answer through the engine: path of the built cmd/drawneval")
    ap.add_argument("--answers", default="", help="file in which the engine's answers are kept")
    ap.add_argument("--seconds", type=float, default=0, help="stop after this time, with status 75")
    ap.add_argument("--dtype", default="auto", help="of the engine")
    ap.add_argument("--threads", type=int, default=1)
    a = ap.parse_args()
    if a.go:
        m = Engine(a.go, ["-m", a.model, "-threads", str(a.threads), "-dtype", a.dtype], a.answers, a.seconds)
        plan = Plan()
        run(plan, a)
        try:
            m.answers(plan.asked)
        except Unfinished:
            print(f"{len(m.record.known)} answers so far; call again to go on", file=sys.stderr)
            sys.exit(STATUS_UNFINISHED)
        del plan
    else:
        import greedy
        m = greedy.shipped(a.model, a.tok or a.model, a.threads)
    res = {"args": vars(a), **run(m, a)}
    with open(a.out, "w", encoding="utf-8") as f:
        json.dump(res, f, indent=1)
    print(json.dumps({k: v[:1] + v[3:] for k, v in res["domains"]["all"].items()}), json.dumps(res["confidence"]))


if __name__ == "__main__":
    main()
