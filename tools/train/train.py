"""Trains the demo model: one recipe, one process, one GPU (or the CPU with --micro).

The learning rate follows the wall clock: warm-up, a flat part, a linear decay over the last part of --seconds; with --steps it
follows the steps, and with --workers 0 too a run on the CPU is the same every time. A later run continues with --init from the
files of an earlier one. --focus weights domains and tasks: --focus infographic_document=40,data_table=3,video=3.
With --train-only a later run changes few tensors, and the files that it writes hold all others byte for byte where they were.
"""
import argparse
import json
import math
import multiprocessing as mp
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import nullcontext

import torch
import torch.nn.functional as F

import packing
from greedy import quick
from export import export, load
from model import MICRO, Config, Model, branch_mask, named
from tok import Text


STATUS_BAD = 3  # of a run whose loss says that it spoils the weights


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
        os.nice(5)  # compiling and launching go first
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
    """Chunks on the device, put there by a thread. A step takes chunks that none has used; when these run short, older ones again.

    A place is free, fresh, being read by a step that was sent to the device (used, until its event), or being written. Places of
    used chunks are written anew from the one used longest ago, behind the event of the last step that reads it; `kept` of them
    always stay to be used again.
    """

    def __init__(self, loader, size, device):
        self.loader, self.device, self.got, self.reused, self.error = loader, device, 0, 0, None
        self.ring = torch.empty((size, loader.bytes), dtype=torch.uint8, device=device)
        self.free, self.fresh, self.used, self.read, self.kept = list(range(size)), deque(), deque(), {}, size // 3
        self.change = threading.Condition()
        self.gate = threading.Lock()  # the thread leaves the device alone while another holds it
        threading.Thread(target=self.fill, daemon=True).start()

    def fill(self):
        try:
            side = torch.cuda.Stream() if self.device == "cuda" else None
            while True:
                slot = self.loader.full.get()
                with self.change:
                    while not self.free and len(self.used) <= self.kept:
                        self.change.wait()
                    k = self.free.pop() if self.free else self.used.popleft()
                    read = self.read.pop(k, None)
                with self.gate:
                    if side:
                        with torch.cuda.stream(side):
                            if read:
                                side.wait_event(read)
                            self.ring[k].copy_(self.loader.shared[slot])
                            side.synchronize()
                    else:
                        self.ring[k].copy_(self.loader.shared[slot])
                self.loader.free.put(slot)
                with self.change:
                    self.fresh.append(k)
                    self.got += 1
                    self.change.notify_all()
        except BaseException as e:  # handed to the training thread
            self.error = e

    def draw(self, m):
        """m chunks as rows of bytes."""
        with self.change:
            while len(self.fresh) + len(self.used) < 3 * m:
                if self.error:
                    raise self.error
                self.change.wait(.5)
            new = [self.fresh.popleft() for _ in range(min(m, len(self.fresh)))]
            old = random.sample(self.used, m - len(new))
            rows = torch.stack([self.ring[k] for k in new + old])
            if self.device == "cuda":
                done = torch.cuda.Event()
                done.record()
                self.read.update(dict.fromkeys(new + old, done))
            self.used.extend(new)
            self.reused += len(old)
            self.change.notify_all()
        return rows


def losses(m, batch, image_id, dev, reach=1.):
    """Mean answer loss, share of right answer tokens, glyph loss, share of right glyphs.

    reach scales the gradient of the glyph loss behind its head: a head that starts anew must not undo what the tower knows.
    """
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
        known = feats.detach()
        gloss, ghit = glyph_loss(m.glyphs, known + (feats - known) * reach, token.flatten(0, 1).long(), slot.flatten(0, 1).long(), cls.flatten(0, 1).long())
    return loss, hit, gloss, ghit


def head_loss(head, h, target, w):
    lg = head(h).float()
    ce = F.cross_entropy(lg, target, reduction="none")
    return (ce * w).sum() / w.sum().clamp(min=1), ((lg.argmax(-1) == target) & (w > 0)).float().sum() / (w > 0).sum().clamp(min=1)


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


class Unusable(Exception):
    """The captured step cannot be used."""


class Step:
    """One step of training on rows of chunks: losses, gradients, optimisers.

    With graph=True the step is captured once as a CUDA graph and replayed: the rows are copied to where the graph reads them, and
    the learning rates and the reach of the glyph loss are tensors it reads. Unusable is raised when the capture fails, or when its
    first replay moves the weights by another distance than the step before it did.
    """

    EAGER = 8  # steps before the capture: they compile, and make the optimisers' state
    AHEAD = 2  # steps sent to the device before the first of them has ended

    def __init__(self, m, opts, loader, image_id, glyph, dev, graph=False, gate=None):
        self.m, self.opts, self.loader, self.image_id, self.glyph, self.dev = m, opts, loader, image_id, glyph, dev
        self.steps, self.graph, self.rows, self.out = 0, graph and dev == "cuda", None, None
        self.replay, self.side, self.gate = None, torch.cuda.Stream() if self.graph else None, gate or nullcontext()
        self.reach, self.sent, self.moved = torch.ones((), device=dev), deque(), []

    def rate(self, lr, reach=1.):
        self.reach.fill_(reach)
        for o in self.opts:
            for g in o.param_groups:
                if torch.is_tensor(g["lr"]):
                    g["lr"].fill_(lr)
                else:
                    g["lr"] = lr

    def __call__(self, rows):
        """loss, share of right answer tokens, glyph loss, share of right glyphs, gradient norm."""
        self.steps += 1
        if self.graph and self.steps == self.EAGER:
            out = self._distance(self._aside, rows)
            self._capture(rows)
        elif self.graph and self.steps == self.EAGER + 1:
            out = self._distance(self._replay, rows)
            a, b = self.moved
            if not .3 * a < b < 3 * a:
                raise Unusable(f"the first replay moved the weights by {b:.3g}, the step before it by {a:.3g}")
        elif self.replay:
            out = self._replay(rows)
        else:
            out = self._aside(rows) if self.graph else self._eager(rows)
        self._pace()
        return out

    def _pace(self):
        """Waits, without keeping a core busy, until no more than AHEAD steps are under way."""
        if self.dev != "cuda":
            return
        done = torch.cuda.Event(blocking=True)
        done.record()
        self.sent.append(done)
        if len(self.sent) > self.AHEAD:
            self.sent.popleft().synchronize()

    def _replay(self, rows):
        self.rows.copy_(rows)
        self.replay.replay()
        return self.out.clone()

    def _distance(self, step, rows):
        """A step that notes how far it moves the weights."""
        before = [p.detach().clone() for p in self.m.parameters()]
        out = step(rows)
        norms = torch._foreach_norm(torch._foreach_sub([p.detach() for p in self.m.parameters()], before))
        self.moved.append(float(torch.stack(norms).norm()))
        return out

    def _eager(self, rows):
        for o in self.opts:
            o.zero_grad(set_to_none=True)
        loss, hit, gloss, ghit = losses(self.m, self.loader.unpack(rows), self.image_id, self.dev, self.reach)
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
        for o in self.opts:
            o.zero_grad(set_to_none=True)  # the graph makes its own
        replay = torch.cuda.CUDAGraph()
        try:
            with self.gate:
                torch.cuda.synchronize()
                with torch.cuda.graph(replay, stream=self.side, capture_error_mode="thread_local"):
                    self.out = self._eager(self.rows)
        except Exception as e:  # a failed capture leaves the random generator and the allocator in its mode: this process is spoilt
            raise Unusable(f"{type(e).__name__}: {e}"[:400]) from e
        self.replay = replay


def freeze(m, only, glyph):
    """Leaves only tensors to train whose name in the files has a match of a regular expression, and the glyph head if its loss counts. Returns their names."""
    names = [n for n, _ in named(m) if re.search(only, n)]
    if not names:
        raise SystemExit(f"train: --train-only {only}: no tensor has such a name, they are like {', '.join(n for n, _ in named(m)[:3])}")
    for n, p in named(m):
        p.requires_grad_(n in names)
    m.glyphs.requires_grad_(glyph > 0)
    return names


def optimisers(m, lr, adam, dev, graph):
    """AdamW, and Muon for the matrices of the blocks."""
    train = {n: p for n, p in m.named_parameters() if p.requires_grad}
    matrices = [p for n, p in train.items() if p.ndim == 2 and ".blocks." in n and not adam]
    ids = {id(p) for p in matrices}
    decay = [p for p in train.values() if p.ndim == 2 and id(p) not in ids]
    rest = [p for p in train.values() if p.ndim != 2]
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
    ap.add_argument("--train-only", metavar="REGEX", help="train only tensors whose name in the files has a match; with --init")
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
    ap.add_argument("--end", type=float, default=0, help="time of day (seconds since 1970) at which training must have ended; shortens --seconds")
    ap.add_argument("--save", type=float, default=90, help="seconds between checkpoints")
    ap.add_argument("--keep", help="folder for a copy of the newest weights and of the log, in few files")
    ap.add_argument("--lines", type=int, default=0, help="steps between lines of the log; default 100, on the CPU 5")
    ap.add_argument("--reach", type=float, default=0, help="seconds in which the glyph loss comes to reach behind its head; for weights without that head")
    ap.add_argument("--score", type=int, default=24, help="pictures a domain of the evaluations, 0 = none")
    ap.add_argument("--profile", action="store_true", help="print where three steps spend their time")
    ap.add_argument("--graph", action="store_true", help="capture the step as a CUDA graph; starts anew without it when that fails")
    ap.add_argument("--eval", type=float, default=0, help="seconds between quick evaluations, 0 = only at the end")
    ap.add_argument("--micro", action="store_true", help="a tiny model, for the CPU")
    ap.add_argument("--compile", action="store_true", help="compile on the CPU too")
    ap.add_argument("--adam", action="store_true", help="AdamW for all parameters")
    a = ap.parse_args()
    if a.train_only and not a.init:
        ap.error("--train-only keeps the other tensors as they are: name them with --init")
    return a


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
    trained = freeze(m, a.train_only, a.glyph) if a.train_only else [n for n, _ in named(m)]
    tx = Text(a.tok, c.image_tokens)
    os.makedirs(a.out, exist_ok=True)
    say = Log(f"{a.out}/log.jsonl")
    say(event="start", params=m.shipped(), trained=sum(p.numel() for n, p in named(m) if n in trained), device=torch.cuda.get_device_name() if dev == "cuda" else "cpu", torch=torch.__version__, args=vars(a))
    opts = optimisers(m, a.lr, a.adam, dev, a.graph and dev == "cuda")
    source = Pool(loader, 768 if dev == "cuda" else 12, dev) if a.workers else loader
    if dev == "cuda" or a.compile:
        compile_blocks(m)
    step = Step(m, opts, loader, tx.img, a.glyph, dev, a.graph, getattr(source, "gate", None))
    try:
        status = train(a, m, tx, step, source, say, dev)
    except Unusable as e:
        say(event="unusable", why=str(e))
        stop(loader)
        status = subprocess.call([sys.executable, *(x for x in sys.argv if x != "--graph")])
    stop(loader)
    os._exit(status)


def stop(loader):
    """Ends the workers, which never end by themselves."""
    for w in loader.workers:
        w.kill()


class Watch:
    """Compares the loss with that of the first steps, which hardly move the weights, and so shows what they knew before."""

    def __init__(self, known):
        self.known = known

    def bad(self, loss):
        return not math.isfinite(loss) or loss > 3 * self.known + .1


def train(a, m, tx, step, source, say, dev):
    """The loop: draw, step, and now and then a line in the log, a checkpoint, an evaluation. Returns the exit status."""
    begun, hist, wait, warmup = time.time(), [], 0., (step.EAGER + 2 if step.graph else 4) if dev == "cuda" else 1
    clock, lines, early = Clock(a, warmup), a.lines or (100 if dev == "cuda" else 5), []
    last = saved = evaled = watch = None

    def score(n, tag):
        m.eval()
        s = time.time()
        res = quick(m, tx, dev, n)
        m.train()
        say(event=tag, step=clock.step, t=round(clock.wall(), 1), took=round(time.time() - s, 1), **res)
        return time.time() - s

    def save():
        if not all(bool(p.isfinite().all()) for p in m.parameters()):
            return 0  # the next line of the log ends the run; the files stay those of before
        total = export(m, f"{a.out}/model", a.tok)
        if a.keep:
            keep(f"{a.out}/model", f"{a.out}/log.jsonl", a.keep)
        return total
    m.train()
    while True:
        tw = time.time()
        rows = source.draw(a.chunks)
        wait += time.time() - tw
        t = clock.at()
        f = rate(t, a.seconds, a.warm, a.decay, a.low, a.high)
        step.rate(a.lr * f, min(1., t / a.reach) if a.reach else 1.)
        if a.profile and clock.step == warmup + 12:
            prof = torch.profiler.profile().__enter__()
        out = step(rows)
        clock.step += 1
        if a.profile and clock.step == warmup + 15:
            prof.__exit__(None, None, None)
            key = "self_cuda_time_total" if dev == "cuda" else "self_cpu_time_total"
            print(prof.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=70), flush=True)
        if clock.start is None:
            early.append(out)
            if clock.step == warmup:
                known = torch.stack(early).mean(0).tolist()
                clock.start = last = saved = evaled = time.time()
                if a.end:
                    a.seconds = min(a.seconds, a.end - clock.start)
                watch, wait = Watch(known[0]) if a.init else None, 0.
                say(event="ready", s=round(clock.start - begun, 1), seconds=round(a.seconds, 1), graph=step.replay is not None, moved=step.moved, known=round(known[0], 4))
            continue
        hist.append(out)
        if watch and clock.step == warmup + 40:
            v = torch.stack(hist[-20:]).mean(0).tolist()
            say(event="check", step=clock.step, loss=round(v[0], 4), known=round(watch.known, 4), steps_s=round(40 / (time.time() - clock.start), 2))
            if watch.bad(v[0]) and step.graph:
                raise Unusable(f"after 40 steps the loss is {v[0]:.4f}, at the start it was {watch.known:.4f}")
        if len(hist) >= lines:
            v = torch.stack(hist).mean(0).tolist()
            now = time.time()
            say(step=clock.step, t=round(clock.wall(), 1), loss=round(v[0], 4), acc=round(v[1], 4), glyph=round(v[2], 4), glyph_acc=round(v[3], 4), gn=round(v[4], 2), lr=round(a.lr * f, 6),
                steps_s=round(len(hist) / (now - last), 2), wait=round(wait / (now - last), 2), chunks=getattr(source, "got", clock.step * a.chunks), reused=getattr(source, "reused", 0))
            if watch.bad(v[0]) if watch else not math.isfinite(v[0]):
                say(event="bad", loss=v[0])
                return STATUS_BAD
            hist, wait, last = [], 0., now
        if time.time() - saved > a.save:
            save()
            saved = time.time()
        if a.eval and time.time() - evaled > a.eval and t < a.seconds - 30:
            clock.paused += score(a.score, "eval")
            evaled = last = time.time()
            hist, wait = [], 0.
        if clock.at() >= a.seconds:
            break
    total = save()
    say(event="trained" if total else "bad", steps=clock.step, chunks=getattr(source, "got", clock.step * a.chunks), bytes=total)
    if not total:
        return STATUS_BAD
    if a.keep:
        shutil.copy(f"{a.out}/log.jsonl", a.keep)
    if a.score:
        load(m, f"{a.out}/model")  # score the weights as shipped, rounded to bf16
        score(a.score if dev == "cuda" else 1, "final")
    return 0


def keep(folder, log, to):
    """Copies weights, glyph head and log; each file is whole at any time."""
    os.makedirs(to, exist_ok=True)
    for path in [os.path.join(folder, f) for f in sorted(os.listdir(folder)) if f.endswith(".safetensors")] + [os.path.join(folder, "aux", "glyphs.safetensors"), log]:
        part = os.path.join(to, "part")
        shutil.copy(path, part)
        os.replace(part, os.path.join(to, os.path.basename(path)))


if __name__ == "__main__":
    main()
