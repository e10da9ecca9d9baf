"""Trains the demo model: one recipe, one process, one GPU (or the CPU with --micro).

The learning rate follows the wall clock: warm-up, a flat part, a linear decay over the last part of --seconds.
A later run continues with --init from the files of an earlier one.
"""
import argparse
import json
import math
import multiprocessing as mp
import os
import random
import sys
import threading
import time

import torch
import torch.nn.functional as F

import packing
from greedy import quick
from export import export, load
from model import MICRO, Config, Model, branch_mask
from tok import Text


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by a Newton-Schulz iteration, for weight matrices; steps scaled to the size of Adam's.

    Matrices of one shape are stacked, so that a step costs a few batched products.
    Source: Jordan, "Muon: an optimizer for hidden layers" (coefficients); Liu et al., "Muon is scalable" (0.2*sqrt(max) scale).
    """

    def __init__(self, params, lr, momentum=.95, weight_decay=.05):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for (rows, cols), ps in shapes.items():
                if "m" not in self.state[ps[0]]:
                    for p in ps:
                        self.state[p]["m"] = torch.zeros_like(p)
                ms, gs = [self.state[p]["m"] for p in ps], [p.grad for p in ps]
                torch._foreach_lerp_(ms, gs, 1 - group["momentum"])
                x = torch.stack(torch._foreach_lerp(gs, ms, group["momentum"]))
                x = orthogonal(x.bfloat16() if x.is_cuda else x)
                scale = .2 * max(rows, cols) ** .5
                torch._foreach_mul_(ps, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(ps, list((x.float() * (-group["lr"] * scale)).unbind()))


def orthogonal(x):
    """Batched quintic Newton-Schulz iteration: [N,R,C] -> nearly orthogonal rows or columns."""
    flip = x.shape[-2] > x.shape[-1]
    x = x.mT if flip else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.mT if flip else x


class Loader:
    """Worker processes that draw and pack chunks into shared memory; only slot numbers pass through queues.

    Passing tensors through a DataLoader costs the training process a socket handshake a tensor, which stalls its steps.
    """

    def __init__(self, tok, image_tokens, base, multi, workers, slots):
        self.workers = []
        probe = packing.Packer(Text(tok, image_tokens), packing.first_seed(base, workers), multi=multi)
        first = probe.chunk()
        self.layout, at = [], 0
        for x in first:
            self.layout.append((at, x.nbytes, torch.from_numpy(x).dtype, x.shape))
            at += -(-x.nbytes // 64) * 64
        self.bytes = at
        self.probe = probe
        if workers:
            ctx = mp.get_context("fork")
            self.shared = torch.empty((slots, at), dtype=torch.uint8).share_memory_()
            self.free, self.full = ctx.SimpleQueue(), ctx.SimpleQueue()
            for k in range(slots):
                self.free.put(k)
            self.workers = [ctx.Process(target=self.work, args=(tok, image_tokens, base, multi, w), daemon=True) for w in range(workers)]
            for w in self.workers:
                w.start()

    def work(self, tok, image_tokens, base, multi, worker):
        torch.set_num_threads(1)
        p = packing.Packer(Text(tok, image_tokens), packing.first_seed(base, worker), multi=multi)
        while True:
            chunk = p.chunk()
            k = self.free.get()
            row = self.shared[k].numpy()
            for x, (at, n, _, _) in zip(chunk, self.layout):
                row[at:at + n] = x.reshape(-1).view("uint8")
            self.full.put(k)

    def unpack(self, rows):
        """[m, bytes] uint8 -> the arrays of m chunks."""
        return [rows[:, at:at + n].contiguous().view(dtype).view(len(rows), *shape) for at, n, dtype, shape in self.layout]

    def direct(self, m):
        """m chunks made in this process (no workers)."""
        return [torch.stack([torch.from_numpy(y) for y in x]) for x in zip(*(self.probe.chunk() for _ in range(m)))]


class Pool:
    """A ring of recent chunks on the device, filled by a thread; steps draw some at random, so a slow loader means reuse, not waiting."""

    def __init__(self, loader, size, device):
        self.loader, self.size, self.device, self.ready, self.got, self.error = loader, size, device, [], 0, None
        self.ring = torch.empty((size, loader.bytes), dtype=torch.uint8, device=device)
        self.lock = threading.Lock()
        threading.Thread(target=self.fill, daemon=True).start()

    def fill(self):
        try:
            side = torch.cuda.Stream() if self.device == "cuda" else None
            while True:
                slot = self.loader.full.get()
                k = self.got % self.size
                with self.lock:
                    if k in self.ready:
                        self.ready.remove(k)
                if side:
                    with torch.cuda.stream(side):
                        self.ring[k].copy_(self.loader.shared[slot])
                        side.synchronize()
                else:
                    self.ring[k].copy_(self.loader.shared[slot])
                self.loader.free.put(slot)
                with self.lock:
                    self.ready.append(k)
                    self.got += 1
        except BaseException as e:  # handed to the training thread
            self.error = e

    def draw(self, m):
        while len(self.ready) < 3 * m:
            if self.error:
                raise self.error
            time.sleep(.01)
        with self.lock:  # a chunk being overwritten is not ready; a drawn one is copied before its turn comes again
            ix = random.sample(self.ready, m)
        return self.loader.unpack(torch.stack([self.ring[k] for k in ix]))


def losses(m, batch, image_id, dev):
    """Mean answer loss, share of right answer tokens, glyph loss, share of right glyphs."""
    img, ids, seg, br, pos, at, w, token, slot, cls = batch
    chunks, rows = ids.shape[:2]
    with torch.autocast(dev, torch.bfloat16):
        # image features per chunk, so that spare tiles of one chunk never shift another's
        feats = m.vision(img.flatten(0, 1), augment=True)
        x = torch.cat([m.embed(i, f, image_id) for i, f in zip(ids.long(), feats.view(chunks, -1, *feats.shape[1:]))])
        mask = branch_mask(seg.flatten(0, 1), br.flatten(0, 1), torch.bfloat16 if dev == "cuda" else x.dtype)
        h = m.llm(x, pos.flatten(0, 1), mask)
        h = h.view(chunks, -1, h.shape[-1])
        picked = h.gather(1, at.long()[..., None].expand(-1, -1, h.shape[-1]))
        target = ids.long().flatten(1).gather(1, at.long() + 1)
        loss, hit = head_loss(m.llm.head, picked.flatten(0, 1), target.flatten(), w.flatten())
        gloss, ghit = glyph_loss(m.glyphs, feats, token.flatten(0, 1).long(), slot.flatten(0, 1).long(), cls.flatten(0, 1).long())
    return loss, hit, gloss, ghit


def head_loss(head, h, target, w):
    lg = head(h).float()
    ce = F.cross_entropy(lg, target, reduction="none")
    return (ce * w).sum() / w.sum(), ((lg.argmax(-1) == target) & (w > 0)).float().sum() / (w > 0).sum()


def glyph_loss(glyphs, feats, token, slot, cls):
    lg = glyphs(feats, token, slot).float()
    on = cls >= 0
    ce = F.cross_entropy(lg.flatten(0, 1), cls.clamp(min=0).flatten(), reduction="none") * on.flatten()
    real = cls > 0
    return ce.sum() / on.sum().clamp(min=1), ((lg.argmax(-1) == cls) & real).float().sum() / real.sum().clamp(min=1)


def rate(t, seconds, warm, decay, low, high=1.):
    """Learning-rate factor at second t."""
    if t < warm:
        return max(.02, t / warm) * high
    left = (seconds - t) / (decay * seconds)
    return high if left > 1 else low + (high - low) * max(0., left)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--seconds", type=float, default=500)
    ap.add_argument("--out", default="out")
    ap.add_argument("--tok", default="tok")
    ap.add_argument("--init", help="folder of an earlier run's checkpoint")
    ap.add_argument("--chunks", type=int, default=8, help="chunks of 16 rows in a step")
    ap.add_argument("--workers", type=int, default=15)
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--warm", type=float, default=12, help="seconds of warm-up")
    ap.add_argument("--decay", type=float, default=.4, help="share of the time in which the rate falls")
    ap.add_argument("--low", type=float, default=.02, help="final factor of the rate")
    ap.add_argument("--high", type=float, default=1., help="factor of the flat part")
    ap.add_argument("--glyph", type=float, default=.5, help="weight of the glyph loss")
    ap.add_argument("--multi", type=float, default=.1, help="share of pictures of several tiles")
    ap.add_argument("--base", type=int, default=0, help="offset of the training seeds")
    ap.add_argument("--save", type=float, default=90, help="seconds between checkpoints")
    ap.add_argument("--score", type=int, default=24, help="pictures a domain of the evaluations, 0 = none")
    ap.add_argument("--profile", action="store_true", help="print where three steps spend their time")
    ap.add_argument("--eval", type=float, default=0, help="seconds between quick evaluations, 0 = only at the end")
    ap.add_argument("--micro", action="store_true", help="a tiny model, for the CPU")
    ap.add_argument("--compile", action="store_true", help="compile on the CPU too")
    ap.add_argument("--adam", action="store_true", help="AdamW for all parameters")
    a = ap.parse_args()
    torch.manual_seed(a.base)
    random.seed(a.base)
    torch.set_float32_matmul_precision("high")
    sys.setswitchinterval(.001)
    c = Config(**(MICRO if a.micro else {}))
    loader = Loader(a.tok, c.image_tokens, a.base, a.multi, a.workers, 3 * a.workers)  # forks: before the device is used
    dev = "cuda" if torch.cuda.is_available() else "cpu"
    m = Model(c).to(dev)
    if a.init:
        load(m, a.init)
    tx = Text(a.tok, c.image_tokens)
    os.makedirs(a.out, exist_ok=True)
    log = open(f"{a.out}/log.jsonl", "a")

    def say(**k):
        s = json.dumps(k)
        print(s, flush=True)
        log.write(s + "\n")
        log.flush()
    say(event="start", params=m.shipped(), device=torch.cuda.get_device_name() if dev == "cuda" else "cpu", torch=torch.__version__, args=vars(a))
    matrices = [p for n, p in m.named_parameters() if p.ndim == 2 and ".blocks." in n and not a.adam]
    ids = {id(p) for p in matrices}
    decay = [p for p in m.parameters() if p.ndim == 2 and id(p) not in ids]
    rest = [p for p in m.parameters() if p.ndim != 2]
    opts = [torch.optim.AdamW([dict(params=decay, weight_decay=.05), dict(params=rest, weight_decay=0.)], lr=a.lr, betas=(.9, .97), fused=dev == "cuda")]
    if matrices:
        opts.append(Muon(matrices, a.lr))
    pool = Pool(loader, 192 if dev == "cuda" else 12, dev) if a.workers else None
    if dev == "cuda" or a.compile:  # compile once a block class: a tenth of the time of compiling the whole step
        for b in list(m.vision.blocks) + list(m.llm.blocks):
            b.compile(dynamic=False)
        global head_loss
        head_loss = torch.compile(head_loss, dynamic=False)
        m.vision.pixels = torch.compile(m.vision.pixels, dynamic=False)
    t00 = time.time()
    t0 = last = saved = evaled = None
    step, wait, hist, warmup = 0, 0., [], 4 if dev == "cuda" else 1

    def score(n, tag, full=False):
        m.eval()
        s = time.time()
        res = quick(m, tx, dev, n)
        m.train()
        say(event=tag, step=step, t=round(time.time() - t0, 1), took=round(time.time() - s, 1), **res)
        return time.time() - s
    paused = 0.
    m.train()
    while True:
        tw = time.time()
        batch = pool.draw(a.chunks) if pool else loader.direct(a.chunks)
        wait += time.time() - tw
        t = 0. if t0 is None else time.time() - t0 - paused
        f = rate(t, a.seconds, a.warm, a.decay, a.low, a.high)
        for o in opts:
            for g in o.param_groups:
                g["lr"] = a.lr * f
        if a.profile and step == warmup + 12:
            prof = torch.profiler.profile().__enter__()
        loss, hit, gloss, ghit = losses(m, batch, tx.img, dev)
        (loss + a.glyph * gloss).backward()
        gn = torch.nn.utils.clip_grad_norm_(m.parameters(), 1.)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        if a.profile and step == warmup + 15:
            prof.__exit__(None, None, None)
            key = "self_cuda_time_total" if dev == "cuda" else "self_cpu_time_total"
            print(prof.key_averages().table(sort_by=key, row_limit=14, max_name_column_width=60), flush=True)
        if t0 is None and step == warmup:
            if dev == "cuda":
                torch.cuda.synchronize()
            t0 = last = saved = evaled = time.time()
            wait = 0.
            say(event="ready", s=round(t0 - t00, 1), fill=round(float((batch[3] >= 0).float().mean()), 3), answers=round(float((batch[6] > 0).float().sum() / batch[1].shape[0] / batch[1].shape[1]), 1))
        if t0 is None:
            continue
        hist.append(torch.stack([loss.detach(), hit.detach(), gloss.detach(), ghit.detach()]))
        if len(hist) == (100 if dev == "cuda" else 5):
            v = torch.stack(hist).mean(0).tolist()
            now = time.time()
            say(step=step, t=round(now - t0 - paused, 1), loss=round(v[0], 4), acc=round(v[1], 4), glyph=round(v[2], 4), glyph_acc=round(v[3], 4), gn=round(float(gn), 2), lr=round(a.lr * f, 6),
                steps_s=round(len(hist) / (now - last), 2), wait=round(wait / (now - last), 2), chunks=pool.got if pool else step * a.chunks)
            if not math.isfinite(v[0]):
                raise SystemExit("train: the loss is not finite")
            hist, wait, last = [], 0., now
        if time.time() - saved > a.save:
            s = time.time()
            export(m, f"{a.out}/model", a.tok)
            saved = time.time()
            paused += saved - s
        if a.eval and time.time() - evaled > a.eval and t < a.seconds - 30:
            paused += score(a.score, "eval")
            evaled = last = time.time()
            hist, wait = [], 0.
        if t >= a.seconds:
            break
    total = export(m, f"{a.out}/model", a.tok)
    say(event="trained", steps=step, chunks=pool.got if pool else step * a.chunks, bytes=total)
    if a.score:
        load(m, f"{a.out}/model")  # score the weights as shipped, rounded to bf16
        score(a.score if dev == "cuda" else 1, "final")
    for w in loader.workers:  # they never end by themselves
        w.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
