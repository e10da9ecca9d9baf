"""Greedy generation in torch with a key/value cache, and the short evaluation during training."""
import random

import numpy as np
import torch

import tasks
import world
from answers import pictures_of
from evaluate import EVAL_BASE, Board, claim_pair, plain, samples, score_captions, score_text
from export import load
from model import Config, Model
from tok import Text


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


class Torch:
    """A model in torch behind the calls of answers.Engine."""

    def __init__(self, m, tx, dev="cpu"):
        self.m, self.tx, self.dev = m, tx, dev

    def generate(self, items, most):
        return generate(self.m, self.tx, items, most, self.dev, 64)


@torch.compiler.set_stance("force_eager")  # other shapes than training: compiling them would cost more than it gains
def quick(m, tx, dev, per_domain, base=EVAL_BASE):
    """A short evaluation during training: shares by kind."""
    ss = samples(per_domain, base)
    board, t = Board(), [pictures_of(s) for s in ss]
    run = lambda prompt, most: generate(m, tx, [(x, prompt(s), s.domain == "video") for x, s in zip(t, ss)], most, dev)
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


def shipped(folder, tok, threads=1):
    """A checkpoint of the shipped size behind the calls of answers.Engine."""
    torch.set_num_threads(threads)
    m = Model(Config())
    load(m, folder)
    return Torch(m.eval(), Text(tok, Config().image_tokens))
