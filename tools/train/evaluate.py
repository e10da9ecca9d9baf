"""Greedy generation on held-out pictures, and scoring of captions, text, claims and the other tasks as facts."""
import json
import os
import random
import sys
from collections import defaultdict

import numpy as np
import torch

import tok  # noqa: F401  (puts the drawn world on the path)
import canvas
import tasks
import words
import world

EVAL_BASE = 400_000  # seeds of the quick evaluation; all of it is below words.HELD_OUT


def tiles_of(s):
    return list(s.images) if s.domain == "video" else [t for t, _ in canvas.tiles(s.images[0])]


@torch.no_grad()
def generate(m, tx, items, most, dev, batch=256):
    """items: (tiles, prompt, is video) -> (text, mean log-probability of its tokens) each, greedy, with a key/value cache."""
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
