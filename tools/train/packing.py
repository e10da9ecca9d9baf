"""Packs samples into fixed arrays: all prompts of a picture behind one shared image prefix, several pictures a row."""
import random

import numpy as np

import tok  # noqa: F401  (puts the drawn world on the path)
import canvas
import scenes
import tasks
import words
import world
from model import CHARS, SLOTS

ROWS, LENGTH, TILES = 16, 512, 44   # of a chunk
ANSWERS = ROWS * 164                # answer positions of a chunk
QUERIES = 80                        # glyph queries of a tile
DENSE = 50                          # characters of text from which answers are long
MISSES = 6                          # samples without room after which a chunk is full
_CLASS = {ch: i for i, ch in enumerate(CHARS)}
GRID_Y, GRID_X = 8 * SLOTS[0], 8 * SLOTS[1]  # glyph cells of a tile: 7 x 3.5 pixels

# how often a task is asked when there is room, beside captions and text
EXTRA = {"claim": 5, "qa": 4, "caption_short": .8, "caption_medium": .5, "tags": .5, "router": 1.4, "visual_guideline": .4, "general_reasoning": .5, "judge": 1.0, "data_table": .9,
         "revise": .3, "render_short": .12, "render_medium": .12, "render_tags": .12, "probe_text": .1, "probe_table": .1, "probe_code": .1, "probe_panels": .05, "probe_person": .15,
         "natural_perception": .2, "structure_perception": .25, "infographic_perception": .25, "ui_perception": .2, "texture_perception": .12, "coder": .25,
         "knowledge_reasoning": .15, "medical_reasoning": .12, "video_perception": .4, "video_reasoning": .4, "video_guideline": .4, "summary": .35}
SHAPES = "shapes"  # plain shapes by themselves, beside those among the abstract pictures; only when weighted
FOCUS = {*world.WEIGHTS, "video", world.OUTSIDE, SHAPES, *EXTRA}  # what a training run may weight
_STILL = [n for n in EXTRA if not n.startswith("video")]
_VIDEO = [n for n in EXTRA if n in tasks.VIDEO_TASKS or n == "qa"]
_TEXT_ONLY = ("summary", "revise", "render_short", "render_medium", "render_tags")
_OUTSIDE = ["caption_detailed", "caption_short", "caption_medium", "tags", "visual_guideline", "ocr", "qa", "claim", "general_reasoning", "data_table", "natural_perception", "probe_text"]


def plan(s, r, focus):
    """Task names for a sample, most wanted first; focus holds factors by task."""
    if s.domain == world.OUTSIDE:
        return ["caption_detailed"] + r.sample(_OUTSIDE, 3)
    first = []
    if r.random() < .75:
        first.append("caption_detailed")
    if s.ocr and r.random() < .85 or not s.ocr and r.random() < .1:
        first.append("ocr")
    if s.code and r.random() < .35 * focus.get("coder", 1):
        first.append("coder")
    if s.table and r.random() < .3 * focus.get("data_table", 1):
        first.append("data_table")
    if s.domain == "knowledge_edu" or s.domain == "infographic_document" and s.table and r.random() < .5:
        first += ["qa"]
    if s.domain in ("knowledge_edu", "video"):
        first += ["claim"]
    r.shuffle(first)
    names = _VIDEO if s.domain == "video" else _STILL
    return first + ["claim"] + r.choices(names, [EXTRA[n] * focus.get(n, 1) for n in names], k=7)


def branches(tx, s, r, room, focus):
    """Token lists (question, answer) that fit into `room` tokens, and text-only items met on the way."""
    out, aside = [], []
    for name in plan(s, r, focus):
        it = tasks.ask(s, name, r)
        q, a = tx.ask(it.prompt), tx.answer(it.answer)
        if not it.image:
            aside.append((q, a))
        elif len(q) + len(a) <= room:
            out.append((q, a))
            room -= len(q) + len(a)
        if room < 24:
            break
    return out, aside


class Row:
    """One row of a chunk under construction."""

    def __init__(self):
        self.ids, self.seg, self.br, self.pos, self.at, self.w, self.tiles = [], [], [], [], [], [], []
        self.samples = 0

    @property
    def left(self):
        return LENGTH - len(self.ids)

    def add(self, prefix, items, tiles=()):
        n, k = len(prefix), self.samples
        self.ids += prefix
        self.seg += [k] * n
        self.br += [0] * n
        self.pos += range(n)
        for b, (q, a) in enumerate(items, 1):
            m = len(q) + len(a)
            start = len(self.ids) + len(q) - 1   # this position predicts the first answer token
            self.at += range(start, start + len(a))
            self.w += [len(a) ** -.5] * len(a)
            self.ids += q + a
            self.seg += [k] * m
            self.br += [b] * m
            self.pos += range(n, n + m)
        self.samples += 1
        self.tiles += tiles


def glyph_queries(glyphs, g, out_token, out_slot, out_class):
    """Fills one tile's queries: printed glyphs, and empty places (class 0). -1 = unused."""
    cells = {}
    for x, y, ch in glyphs:
        i, j = int(y / 7), int(x / 3.5)
        if 0 <= i < GRID_Y and 0 <= j < GRID_X and ch in _CLASS:
            cells[i, j] = _CLASS[ch]
    keys = list(cells)
    if len(keys) > QUERIES - 10:
        keys = g.sample(keys, QUERIES - 10)
    n = 0
    for i, j in keys:
        out_token[n], out_slot[n], out_class[n] = (i // SLOTS[0]) * 8 + j // SLOTS[1], (i % SLOTS[0]) * SLOTS[1] + j % SLOTS[1], cells[i, j]
        n += 1
    for _ in range(8 if keys else 2):
        i, j = g.randrange(GRID_Y), g.randrange(GRID_X)
        if not any((i + a, j + b) in cells for a in (-1, 0, 1) for b in (-1, 0, 1)):
            out_token[n], out_slot[n], out_class[n] = (i // SLOTS[0]) * 8 + j // SLOTS[1], (i % SLOTS[0]) * SLOTS[1] + j % SLOTS[1], 0
            n += 1


class Packer:
    """Endless chunks of fresh samples from one stream of seeds."""

    def __init__(self, tx, seed, multi=.1, outside=.03, video=.04, focus=None):
        self.tx, self.seed, self.multi, self.focus = tx, seed, multi, focus or {}
        self.outside, self.video = outside * self.focus.get(world.OUTSIDE, 1), video * self.focus.get("video", 1)
        self.weights = {d: w * self.focus.get(d, 1) for d, w in world.WEIGHTS.items()}
        if SHAPES in self.focus:
            self.weights[SHAPES] = self.focus[SHAPES] * scenes.SHARE * world.WEIGHTS["synthetic"]
        self.aside, self.waiting = [], []
        self.r = random.Random(seed)

    def sample(self, tiles_left, rows_left):
        """The next sample: stills, a few videos and outside pictures; one tile only when tiles run short."""
        self.seed += 1
        r = random.Random(self.seed ^ 0x5EED)
        k = r.random()
        wide = tiles_left - 6 > rows_left * 1.9
        if k < self.outside:
            return world.make(self.seed, world.OUTSIDE, size="plain"), r
        if k < self.outside + self.video and wide:
            return world.make(self.seed, "video"), r
        size = "multi" if wide and r.random() < self.multi else r.choice(("plain", "plain", "plain", "near"))
        domain = None if self.weights == world.WEIGHTS else r.choices(list(self.weights), self.weights.values())[0]
        if domain == SHAPES:
            domain = "synthetic"
            while not scenes.of_shapes(self.seed):
                self.seed += 1
        return world.make(self.seed, domain, size=size), r

    def chunk(self):
        """Arrays of one chunk, see `arrays`. A sample goes to the fullest row that has room; one that finds none waits for the next chunk."""
        rows, tiles, missed = [Row() for _ in range(ROWS)], 0, 0
        waiting, self.waiting = self.waiting, []
        while missed < MISSES:
            spare = TILES - tiles
            if self.aside and (not spare or self.r.random() < .5):
                q, a = self.aside.pop()
                prefix = self.tx.prefix(0)
                row = fullest(rows, len(prefix) + len(q) + len(a))
                if row:
                    row.add(prefix, [(q, a)])
                    continue
            if not spare:
                break
            s, r = waiting.pop() if waiting else self.sample(spare, sum(row.left for row in rows) / LENGTH)
            cut = [t for im, g in zip(s.images, s.glyphs) for t in (canvas.tiles(im, g) if s.domain != "video" else [(im, g)])]
            dense = len(s.ocr) > DENSE
            prefix = self.tx.prefix(len(cut), r.random() < .08, s.domain == "video")
            need = min(LENGTH, len(prefix) + (220 if dense and len(cut) == 1 else 110))  # six frames leave less, even in a row of their own
            row = fullest(rows, need) if len(cut) <= spare else None
            if not row:
                missed += 1
                self.waiting.append((s, r))
                continue
            room = row.left - len(prefix)
            if len(cut) == 1 and r.random() < .75:
                room = min(room, 300 if dense else 185)  # what is dense has long answers
            items, aside = branches(self.tx, s, r, room, self.focus)
            if len(self.aside) < 64:
                self.aside += aside
            if items:
                row.add(prefix, items, cut)
                tiles += len(cut)
        self.waiting = (waiting + self.waiting)[:4 * MISSES]
        return arrays(self.tx, rows, self.r)


def fullest(rows, need):
    """The row with the least room of those that have room for `need` tokens, or None."""
    fit = [row for row in rows if row.left >= need]
    return min(fit, key=lambda row: row.left) if fit else None


def arrays(tx, rows, r):
    """images [T,H,W,3] u8, ids/seg/br/pos [R,L], answer positions and weights [A], glyph token/slot/class [T,Q].

    Images are in the order of the rows, as the places of their tokens are.
    """
    ids = np.full((ROWS, LENGTH), tx.pad, np.int16)
    seg, br, pos = np.full((ROWS, LENGTH), -1, np.int16), np.full((ROWS, LENGTH), -1, np.int16), np.zeros((ROWS, LENGTH), np.int16)
    at, w = np.zeros(ANSWERS, np.int32), np.zeros(ANSWERS, np.float32)
    k = 0
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n], seg[i, :n], br[i, :n], pos[i, :n] = row.ids, row.seg, row.br, row.pos
        m = min(len(row.at), ANSWERS - k)
        at[k:k + m], w[k:k + m] = row.at[:m], row.w[:m]
        at[k:k + m] += i * LENGTH
        k += m
    img = np.full((TILES, canvas.UNIT, canvas.UNIT, 3), 127, np.uint8)
    token, slot, cls = np.zeros((TILES, QUERIES), np.int16), np.zeros((TILES, QUERIES), np.int16), np.full((TILES, QUERIES), -1, np.int16)
    for i, (im, glyphs) in enumerate(tile for row in rows for tile in row.tiles):
        img[i] = np.asarray(im)
        glyph_queries(glyphs, r, token[i], slot[i], cls[i])
    return img, ids, seg, br, pos, at, w, token, slot, cls


def first_seed(base, worker):
    """Training seeds of a worker: far from the held-out ones and from other workers'."""
    return words.HELD_OUT + base + worker * 50_000_000
