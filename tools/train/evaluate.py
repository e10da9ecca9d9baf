"""Greedy generation on held-out pictures, and scoring of captions, text, claims and the other tasks as facts."""
import json
import os
import random
import subprocess
import tempfile
import threading
from collections import defaultdict

import numpy as np
import torch

import tok  # noqa: F401  (puts the drawn world on the path)
import canvas
import tasks
import words
import world
from tok import Text

EVAL_BASE = 400_000  # seeds of the quick evaluation; all of it is below words.HELD_OUT


class Tiles(list):
    """The tiles of a picture or the frames of a video, with the pictures they were cut from."""

    def __init__(self, images, video=False):
        super().__init__(images if video else [t for im in images for t, _ in canvas.tiles(im)])
        self.images = images


def tiles_of(s):
    return Tiles(s.images, s.domain == "video")


class Engine:
    """The Go engine behind the same interface as a model: cmd/drawneval reads questions and writes answers."""

    def __init__(self, program, *args):
        self.run = subprocess.Popen([program, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.folder, self.paths = tempfile.mkdtemp(), {}

    def files(self, images):
        out = []
        for im in images:
            if id(im) not in self.paths:
                path = os.path.join(self.folder, f"{len(self.paths)}.png")
                im.save(path, compress_level=1)
                self.paths[id(im)] = (path, im)  # the image is kept, so that its id stays its own
            out.append(self.paths[id(im)][0])
        return out

    def generate(self, items, most):
        send = [json.dumps({"id": i, "files": self.files(t.images) if t else [], "video": bool(v), "prompt": q, "most": most}) + "\n" for i, (t, q, v) in enumerate(items)]
        threading.Thread(target=lambda: [self.run.stdin.writelines(send), self.run.stdin.flush()], daemon=True).start()
        out = [None] * len(items)
        for _ in items:
            a = json.loads(self.run.stdout.readline())
            out[a["id"]] = (a["text"], a["logprob"])
        return out


@torch.no_grad()
def generate(m, tx, items, most, dev, batch=256):
    """items: (tiles, prompt, is video) -> (text, mean log-probability of its tokens) each, greedy, with a key/value cache."""
    if isinstance(m, Engine):
        return m.generate(items, most)
    out = [None] * len(items)
    order = sorted(range(len(items)), key=lambda i: (len(items[i][0]), len(items[i][1])))
    for o in range(0, len(order), batch):
        ix = order[o:o + batch]
        rows = [tx.prefix(len(items[i][0]), False, items[i][2]) + tx.ask(items[i][1]) for i in ix]
        n, b = max(map(len, rows)), len(ix)
        ids = torch.tensor([[tx.pad] * (n - len(r)) + r for r in rows], device=dev)
        pos = torch.tensor([[0] * (n - len(r)) + list(range(len(r))) for r in rows], device=dev)
        real = torch.tensor([[0] * (n - len(r)) + [1] * len(r) for r in rows], device=dev, dtype=torch.bool)
        with torch.autocast(dev, torch.bfloat16, enabled=dev == "cuda"):
            u8 = [np.asarray(t) for i in ix for t in items[i][0]]
            if u8:
                u8 = torch.from_numpy(np.stack(u8)).to(dev)
                x = m.embed(ids, torch.cat([m.vision(p) for p in u8.split(256)]), tx.img)
            else:
                x = m.llm.embed(ids)
            dtype = torch.bfloat16 if dev == "cuda" else torch.float32
            see = torch.ones(n, n, device=dev, dtype=torch.bool).tril() & real[:, None, :] | torch.eye(n, device=dev, dtype=torch.bool)
            mask = torch.zeros(b, 1, n, n, device=dev, dtype=dtype).masked_fill_(~see[:, None], float("-inf"))
            cache, texts, score = [None] * m.c.layers, [[] for _ in ix], [[] for _ in ix]
            live, last = list(range(b)), pos[:, -1] + 1
            done = torch.zeros(b, dtype=torch.bool, device=dev)
            toks = []
            for step in range(most):
                cos, sin = m.llm.rope(pos)
                for k, blk in enumerate(m.llm.blocks):
                    x, cache[k] = blk.step(x, cos, sin, cache[k], mask)
                lp = torch.log_softmax(m.llm.head(m.llm.norm(x[:, -1])).float(), -1)
                best, nx = lp.max(-1)
                nx = torch.where(done, tx.end, nx)
                toks.append(torch.stack([nx.double(), best.double() * ~done]))
                done |= nx == tx.end
                if step % 8 == 7 and bool(done.all()):
                    break
                real = torch.cat([real, torch.ones(b, 1, device=dev, dtype=torch.bool)], 1)
                mask = torch.zeros(b, 1, 1, real.shape[1], device=dev, dtype=dtype).masked_fill_(~real[:, None, None], float("-inf"))
                x, pos = m.llm.embed(nx)[:, None], last[:, None]
                last = last + 1
        toks = torch.stack(toks).cpu().numpy()
        for j, i in enumerate(ix):
            seq = toks[:, 0, j].astype(int).tolist()
            k = seq.index(tx.end) if tx.end in seq else len(seq)
            out[i] = (tx.decode(seq[:k]), float(toks[:k + 1, 1, j].mean()))
    return out


def states(text, sentence):
    """Says whether a text contains a sentence; "a" and "an" are one word here, all else is exact."""
    flat = lambda x: f" {x} ".replace(" An ", " A ").replace(" an ", " a ")
    return flat(sentence) in flat(text)


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
                p, z = min(1., r / n), 1.96
                mid, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** .5
                out[d][k] = [round(p, 4), round(max(0., mid - half), 4), round(min(1., mid + half), 4), n]
        return out


def samples(per_domain, base, size=None, **k):
    return [world.make(base + 10_000 * d + i, dm, size=size, **k) for d, dm in enumerate(world.DOMAINS) for i in range(per_domain)]


def score_captions(board, ss, answers):
    for s, (got, _) in zip(ss, answers):
        board.put(s.domain, "overview", states(got, s.overview))
        for f in s.facts:
            board.put(s.domain, "fact_" + f.kind, states(got, f.true))
            board.put(s.domain, "facts", states(got, f.true))
            board.put(s.domain, "wrong_facts", states(got, f.false))
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


@torch.compiler.set_stance("force_eager")  # other shapes than training: compiling them would cost more than it gains
def quick(m, tx, dev, per_domain, base=EVAL_BASE):
    """A short evaluation during training: shares by kind."""
    ss = samples(per_domain, base)
    board, t = Board(), [tiles_of(s) for s in ss]
    run = lambda prompt, most: generate(m, tx, [(x, prompt(s), s.domain == "video") for x, s in zip(t, ss)], most, dev)
    plain = lambda name: lambda s: tasks.for_video(tasks.prompt(name)) if s.domain == "video" else tasks.prompt(name)
    score_captions(board, ss, run(plain("caption_detailed"), 190))
    score_text(board, ss, run(plain("ocr"), 190))
    order = lambda s: random.Random(s.seed)
    for s, (a, _) in zip(ss, run(lambda s: tasks.ask(s, "router", order(s), 1).prompt, 2)):
        board.put(s.domain, "router", a == tasks.ask(s, "router", order(s), 1).answer)
    for ok in (True, False):
        q = lambda s: plain("claim")(s).replace("{claim}", claim_pair(s).true if ok else claim_pair(s).false)
        for s, (a, _) in zip(ss, run(q, 2)):
            board.put(s.domain, "claim_true" if ok else "claim_false", a == ("Yes" if ok else "No"))
    res = {k: board.share(k) for k in sorted({k for _, k in board.n})}
    res["words_by_domain"] = {d: board.share("words", d) for d in world.DOMAINS if board.n["infographic_document", "words"]}
    return res


def plain(name):
    """The canonical prompt of a task for a sample."""
    return lambda s: tasks.for_video(tasks.prompt(name)) if s.domain == "video" else tasks.prompt(name)


def full(m, tx, dev, per_domain, base, size=None, family=None, say=print):
    """Every task on held-out pictures. Returns the Board and, for the confidence rule, (inside, refused, log-probability) rows."""
    ss = samples(per_domain, base, size=size, family=family)
    board, t, rows = Board(), [tiles_of(s) for s in ss], []
    run = lambda prompt, most, keep=lambda s: True: [(s, a) for s, a in zip(
        [s for s in ss if keep(s)], generate(m, tx, [(x, prompt(s), s.domain == "video") for x, s in zip(t, ss) if keep(s)], most, dev, 64))]
    caps = run(plain("caption_detailed"), 200)
    score_captions(board, ss, [a for _, a in caps])
    rows += [(1, a[0] == tasks.UNKNOWN, a[1], s.domain) for s, a in caps]
    for s, a in caps:
        board.put(s.domain, "false_alarm", a[0] == tasks.UNKNOWN)
    score_text(board, ss, [a for _, a in run(plain("ocr"), 200)])
    say("captions and text done")
    for name in ("forward", "reversed"):
        order = lambda s: [d for d in (world.DOMAINS if s.domain == "video" else world.DOMAINS[:8])][::1 if name == "forward" else -1]
        for s, (a, _) in run(lambda s: plain("router")(s).replace("{options}", tasks.router_options(order(s))), 2):
            board.put(s.domain, "router_" + name, a == tasks.LETTERS[order(s).index(s.domain)])
    for ok in (True, False):
        q = lambda s: plain("claim")(s).replace("{claim}", claim_pair(s).true if ok else claim_pair(s).false)
        for s, (a, _) in run(q, 2):
            board.put(s.domain, "claim_true" if ok else "claim_false", a == ("Yes" if ok else "No"))
    pick = lambda s: random.Random(s.seed + 1).choice(s.qa)
    for s, (a, _) in run(lambda s: pick(s)[0], 40, lambda s: s.qa):
        board.put(s.domain, "question", a == pick(s)[1])
    say("router, claims, questions done")
    built = lambda name: {s.seed: tasks.ask(s, name, random.Random(s.seed + 2), 1) for s in ss}
    for name, most in (("judge", 2), ("summary", 200), ("revise", 200), ("render_short", 60), ("render_tags", 60)):
        its = built(name)
        for with_image in (True, False):
            keep = lambda s: its[s.seed].image == with_image
            kept = [s for s in ss if keep(s)]
            items = [(x if with_image else [], its[s.seed].prompt, s.domain == "video" and with_image) for x, s in zip(t, ss) if keep(s)]
            for s, (a, _) in zip(kept, generate(m, tx, items, most, dev, 64) if items else []):
                board.put(s.domain, name + ("" if with_image else "_text_only"), a == its[s.seed].answer)
                if name == "summary":
                    for f in s.facts:
                        board.put(s.domain, "summary_facts" + ("" if with_image else "_text_only"), states(a, f.true))
    say("judge, summary, revision, renderings done")
    for name in ("caption_short", "caption_medium", "tags", "visual_guideline", "general_reasoning", "data_table", "coder", "structure_perception", "ui_perception", "natural_perception",
                 "infographic_perception", "texture_perception", "medical_reasoning", "knowledge_reasoning", "probe_text", "probe_table", "probe_code", "probe_person"):
        for s, (a, _) in run(plain(name), 200, lambda s: s.domain != "video" and s.seed % 4 == 0):
            want = tasks.ask(s, name, random.Random(0), 1).answer
            board.put(s.domain, name + ("_sentinel" if want in (tasks.NOT_APPLICABLE, tasks.EMPTY_TABLE) else ""), a == want)
    for s, (a, _) in run(lambda s: tasks.for_video(random.Random(s.seed).choice(tasks.PACK["tasks"]["caption_detailed"]["prompts"][1:])) if s.domain == "video"
                         else random.Random(s.seed).choice(tasks.PACK["tasks"]["caption_detailed"]["prompts"][1:]), 200, lambda s: s.seed % 4 == 1):
        board.put(s.domain, "paraphrase_caption_exact", a == s.caption())
        for f in s.facts:
            board.put(s.domain, "paraphrase_facts", states(a, f.true))
    return board, rows


def outside_rows(m, tx, dev, n, say=print):
    """Refusals and confidence on pictures of other worlds, kind by kind."""
    import outside
    board, rows = Board(), []
    for kind in outside.KINDS:
        ims = [outside.picture(random.Random(77_000 + i), kind, held=True) for i in range(n)]
        for a, lp in generate(m, tx, [(Tiles([im]), tasks.prompt("caption_detailed"), False) for im in ims], 120, dev, 64):
            board.put(kind, "refused", a == tasks.UNKNOWN)
            rows.append((0, a == tasks.UNKNOWN, lp, kind))
    return board, rows


def threshold(rows, alarms=.02):
    """The lowest mean log-probability that keeps false alarms (with refusals) at most `alarms`, and what it catches outside."""
    inside = sorted(lp for i, refused, lp, _ in rows if i and not refused)
    spare = int(alarms * sum(i for i, *_ in rows)) - sum(refused for i, refused, *_ in rows if i)
    cut = inside[max(0, spare)] if inside else 0.
    out = [(refused, lp) for i, refused, lp, _ in rows if not i]
    caught = sum(refused or lp < cut for refused, lp in out)
    return {"threshold": round(cut, 4), "caught_outside": round(caught / max(1, len(out)), 4), "refused_outside": round(sum(r for r, _ in out) / max(1, len(out)), 4),
            "false_alarms": round(sum(refused or lp < cut for i, refused, lp, _ in rows if i) / max(1, sum(i for i, *_ in rows)), 4), "n_outside": len(out)}


if __name__ == "__main__":
    import argparse
    from export import load
    from model import Config, Model
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("model")
    ap.add_argument("--tok", help="tokenizer folder; default: the model's")
    ap.add_argument("--n", type=int, default=40, help="pictures a domain")
    ap.add_argument("--base", type=int, default=200_000, help="first seed, below the held-out limit")
    ap.add_argument("--size", choices=("plain", "near", "multi"))
    ap.add_argument("--family", help="print all text in this font family")
    ap.add_argument("--out", default="evaluation.json")
    ap.add_argument("--go", help="answer through the engine: path of the built cmd/drawneval")
    ap.add_argument("--dtype", default="auto", help="of the engine")
    ap.add_argument("--threads", type=int, default=1)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    text = Text(a.tok or a.model, Config().image_tokens)
    if a.go:
        net = Engine(a.go, "-m", a.model, "-threads", str(a.threads), "-dtype", a.dtype)
    else:
        net = Model(Config())
        load(net, a.model)
        net.eval()
    with torch.no_grad():
        b, inside = full(net, text, "cpu", a.n, a.base, a.size, a.family)
        ob, outer = outside_rows(net, text, "cpu", max(8, a.n // 2))
    res = {"args": vars(a), "domains": b.table(), "outside": ob.table(), "confidence": threshold(inside + outer)}
    json.dump(res, open(a.out, "w"), indent=1)
    print(json.dumps({k: v[:1] + v[3:] for k, v in res["domains"]["all"].items()}), json.dumps({k: v["refused"][0] for k, v in res["outside"].items()}), res["confidence"])
