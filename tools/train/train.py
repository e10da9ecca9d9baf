"""Trains the demo model: one recipe, one process, one GPU (or the CPU with --micro).

The learning rate follows the wall clock: warm-up, a flat part, a linear decay over the last part of --seconds; with --steps it
follows the steps, and with --workers 0 too a run on the CPU is the same every time. A later run continues with --init from the
files of an earlier one. --focus weights domains and tasks: --focus infographic_document=40,data_table=3,video=3.
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
                torch._foreach_mul_(ps, 1 - group["lr"] * group["weight_decay"])  # lr may be a tensor: a captured step reads its present value
                torch._foreach_add_(ps, list((x.float() * (group["lr"] * -scale)).unbind()))


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

    def __init__(self, tok, image_tokens, base, multi, workers, slots, focus=None):
        self.workers, self.focus = [], focus
        probe = packing.Packer(Text(tok, image_tokens), packing.first_seed(base, workers), multi=multi, focus=focus)
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
        p = packing.Packer(Text(tok, image_tokens), packing.first_seed(base, worker), multi=multi, focus=self.focus)
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

    def draw(self, m):
        """m chunks made in this process (no workers), as rows of bytes."""
        rows = torch.zeros((m, self.bytes), dtype=torch.uint8)
        for row in rows.numpy():
            for x, (at, n, _, _) in zip(self.probe.chunk(), self.layout):
                row[at:at + n] = x.reshape(-1).view("uint8")
        return rows


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
        """m chunks as rows of bytes."""
        while len(self.ready) < 3 * m:
            if self.error:
                raise self.error
            time.sleep(.01)
        with self.lock:  # a chunk being overwritten is not ready; a drawn one is copied before its turn comes again
            ix = random.sample(self.ready, m)
        return torch.stack([self.ring[k] for k in ix])


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


class Step:
    """One step of training on rows of chunks: losses, gradients, optimisers.

    With graph=True the step is captured once as a CUDA graph and replayed: the rows are copied to where the graph reads them, and
    the learning rates are tensors it reads. A capture that fails is reported, and steps go on as before.
    """

    EAGER = 8  # steps before the capture: they compile, and make the optimisers' state

    def __init__(self, m, opts, loader, image_id, glyph, dev, graph=False):
        self.m, self.opts, self.loader, self.image_id, self.glyph, self.dev = m, opts, loader, image_id, glyph, dev
        self.steps, self.graph, self.rows, self.out, self.error = 0, graph and dev == "cuda", None, None, ""
        self.replay, self.side = None, torch.cuda.Stream() if self.graph else None

    def rate(self, lr):
        for o in self.opts:
            for g in o.param_groups:
                if torch.is_tensor(g["lr"]):
                    g["lr"].fill_(lr)
                else:
                    g["lr"] = lr

    def __call__(self, rows):
        """loss, share of right answer tokens, glyph loss, share of right glyphs, gradient norm."""
        if self.graph and self.steps >= self.EAGER and self.replay is None:
            self._capture(rows)
        self.steps += 1
        if self.replay is None:
            return self._aside(rows) if self.graph else self._eager(rows)
        self.rows.copy_(rows)
        self.replay.replay()
        return self.out.clone()

    def _eager(self, rows):
        for o in self.opts:
            o.zero_grad(set_to_none=True)
        loss, hit, gloss, ghit = losses(self.m, self.loader.unpack(rows), self.image_id, self.dev)
        (loss + self.glyph * gloss).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.m.parameters(), 1.)
        for o in self.opts:
            o.step()
        return torch.stack([x.detach().float() for x in (loss, hit, gloss, ghit, norm)])

    def _aside(self, rows):
        """An eager step on the stream of the capture: gradients remember the stream on which they were first made."""
        here = torch.cuda.current_stream()
        self.side.wait_stream(here)
        with torch.cuda.stream(self.side):
            out = self._eager(rows)
        here.wait_stream(self.side)
        return out

    def _capture(self, rows):
        self.rows = rows.clone()
        try:
            torch.cuda.synchronize()
            replay = torch.cuda.CUDAGraph()
            with torch.cuda.graph(replay, stream=self.side):
                self.out = self._eager(self.rows)
            self.replay = replay
        except Exception as e:  # whatever cannot be captured: slower, but the run goes on
            self.graph, self.error = False, f"{type(e).__name__}: {e}"[:300]
            torch.cuda.synchronize()


def optimisers(m, lr, adam, dev, graph):
    """AdamW, and Muon for the matrices of the blocks."""
    matrices = [p for n, p in m.named_parameters() if p.ndim == 2 and ".blocks." in n and not adam]
    ids = {id(p) for p in matrices}
    decay = [p for p in m.parameters() if p.ndim == 2 and id(p) not in ids]
    rest = [p for p in m.parameters() if p.ndim != 2]
    rate = lambda: torch.tensor(lr, device=dev) if graph else lr
    opts = [torch.optim.AdamW([dict(params=decay, weight_decay=.05), dict(params=rest, weight_decay=0.)], lr=rate(), betas=(.9, .97), fused=dev == "cuda", capturable=graph)]
    if matrices:
        opts.append(Muon(matrices, rate()))
    return opts


def compile_blocks(m):
    """Compiles once a block class: a tenth of the time of compiling the whole step."""
    global head_loss
    for b in list(m.vision.blocks) + list(m.llm.blocks):
        b.compile(dynamic=False)
    head_loss = torch.compile(head_loss, dynamic=False)
    m.vision.pixels = torch.compile(m.vision.pixels, dynamic=False)


class Log:
    """Lines of JSON, printed and appended to a file."""

    def __init__(self, path):
        self.file = open(path, "a")

    def __call__(self, **k):
        s = json.dumps(k)
        print(s, flush=True)
        self.file.write(s + "\n")
        self.file.flush()


def parse_focus(text):
    """"a=2,b=.5" as a dict, with every name checked."""
    out = {}
    for part in filter(None, (text or "").split(",")):
        name, _, value = part.partition("=")
        if name not in packing.FOCUS:
            raise SystemExit(f"train: --focus {name}: neither a domain nor a task; known are {', '.join(sorted(packing.FOCUS))}")
        out[name] = float(value)
    return out


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seconds", type=float, default=500)
    ap.add_argument("--steps", type=int, default=0, help="end after so many steps instead of --seconds; the rate follows them")
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
    ap.add_argument("--focus", type=parse_focus, default={}, metavar="NAME=FACTOR,...", help="how much more often domains are drawn and tasks asked than in the recipe")
    ap.add_argument("--base", type=int, default=0, help="offset of the training seeds")
    ap.add_argument("--save", type=float, default=90, help="seconds between checkpoints")
    ap.add_argument("--score", type=int, default=24, help="pictures a domain of the evaluations, 0 = none")
    ap.add_argument("--profile", action="store_true", help="print where three steps spend their time")
    ap.add_argument("--graph", action="store_true", help="capture the step as a CUDA graph")
    ap.add_argument("--eval", type=float, default=0, help="seconds between quick evaluations, 0 = only at the end")
    ap.add_argument("--micro", action="store_true", help="a tiny model, for the CPU")
    ap.add_argument("--compile", action="store_true", help="compile on the CPU too")
    ap.add_argument("--adam", action="store_true", help="AdamW for all parameters")
    return ap.parse_args()


class Clock:
    """Seconds of training since the first counted step, without pauses; with --steps, steps as if they took equal parts of --seconds."""

    def __init__(self, a, warmup):
        self.a, self.warmup, self.start, self.paused, self.step = a, warmup, None, 0., 0

    def wall(self):
        return 0. if self.start is None else time.time() - self.start - self.paused

    def at(self):
        return max(0, self.step - self.warmup) * self.a.seconds / self.a.steps if self.a.steps else self.wall()


def main():
    a = arguments()
    torch.manual_seed(a.base)
    random.seed(a.base)
    torch.set_float32_matmul_precision("high")
    sys.setswitchinterval(.001)
    c = Config(**(MICRO if a.micro else {}))
    loader = Loader(a.tok, c.image_tokens, a.base, a.multi, a.workers, 3 * a.workers, a.focus)  # forks: before the device is used
    dev = "cuda" if torch.cuda.is_available() else "cpu"
    m = Model(c).to(dev)
    if a.init:
        load(m, a.init)
    tx = Text(a.tok, c.image_tokens)
    os.makedirs(a.out, exist_ok=True)
    say = Log(f"{a.out}/log.jsonl")
    say(event="start", params=m.shipped(), device=torch.cuda.get_device_name() if dev == "cuda" else "cpu", torch=torch.__version__, args=vars(a))
    opts = optimisers(m, a.lr, a.adam, dev, a.graph and dev == "cuda")
    source = Pool(loader, 192 if dev == "cuda" else 12, dev) if a.workers else loader
    if dev == "cuda" or a.compile:
        compile_blocks(m)
    train(a, m, tx, Step(m, opts, loader, tx.img, a.glyph, dev, a.graph), source, say, dev)


def train(a, m, tx, step, source, say, dev):
    """The loop: draw, step, and now and then a line in the log, a checkpoint, an evaluation."""
    begun, hist, wait, warmup = time.time(), [], 0., (step.EAGER + 2 if step.graph else 4) if dev == "cuda" else 1
    clock = Clock(a, warmup)
    last = saved = evaled = None

    def score(n, tag):
        m.eval()
        s = time.time()
        res = quick(m, tx, dev, n)
        m.train()
        say(event=tag, step=clock.step, t=round(clock.wall(), 1), took=round(time.time() - s, 1), **res)
        return time.time() - s
    m.train()
    while True:
        tw = time.time()
        rows = source.draw(a.chunks)
        wait += time.time() - tw
        t = clock.at()
        f = rate(t, a.seconds, a.warm, a.decay, a.low, a.high)
        step.rate(a.lr * f)
        if a.profile and clock.step == warmup + 12:
            prof = torch.profiler.profile().__enter__()
        out = step(rows)
        clock.step += 1
        if a.profile and clock.step == warmup + 15:
            prof.__exit__(None, None, None)
            key = "self_cuda_time_total" if dev == "cuda" else "self_cpu_time_total"
            print(prof.key_averages().table(sort_by=key, row_limit=14, max_name_column_width=60), flush=True)
        if clock.start is None and clock.step == warmup:
            if dev == "cuda":
                torch.cuda.synchronize()
            clock.start = last = saved = evaled = time.time()
            wait = 0.
            say(event="ready", s=round(clock.start - begun, 1), graph=step.replay is not None, graph_error=step.error)
        if clock.start is None:
            continue
        hist.append(out)
        if len(hist) == (100 if dev == "cuda" else 5):
            v = torch.stack(hist).mean(0).tolist()
            now = time.time()
            say(step=clock.step, t=round(clock.wall(), 1), loss=round(v[0], 4), acc=round(v[1], 4), glyph=round(v[2], 4), glyph_acc=round(v[3], 4), gn=round(v[4], 2), lr=round(a.lr * f, 6),
                steps_s=round(len(hist) / (now - last), 2), wait=round(wait / (now - last), 2), chunks=getattr(source, "got", clock.step * a.chunks))
            if not math.isfinite(v[0]):
                raise SystemExit("train: the loss is not finite")
            hist, wait, last = [], 0., now
        if time.time() - saved > a.save:
            s = time.time()
            export(m, f"{a.out}/model", a.tok)
            saved = time.time()
            clock.paused += saved - s
        if a.eval and time.time() - evaled > a.eval and t < a.seconds - 30:
            clock.paused += score(a.score, "eval")
            evaled = last = time.time()
            hist, wait = [], 0.
        if clock.at() >= a.seconds:
            break
    total = export(m, f"{a.out}/model", a.tok)
    say(event="trained", steps=clock.step, chunks=getattr(source, "got", clock.step * a.chunks), bytes=total)
    if a.score:
        load(m, f"{a.out}/model")  # score the weights as shipped, rounded to bf16
        score(a.score if dev == "cuda" else 1, "final")
    for w in step.loader.workers:  # they never end by themselves
        w.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
