"""Pictures that do not belong to the drawn world: noise, textures, smooth fields, collages, photographs.

They teach the model to say that it does not know. Photographs are read from the folder DRAWN_PHOTOS when it is set, those of
training from its train/, those of the evaluation from held/; none is shipped. art/ there holds drawings of other styles
(the evaluation used wallpapers), which training never sees.
"""
import os
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from canvas import UNIT

KINDS = ("noise", "clouds", "texture", "collage", "scribble", "letters", "photo")
FOLDERS = {"photo": "held", "art": "art"}  # of the evaluation
_photos = {}


def _rand(r):
    return np.random.Generator(np.random.PCG64(r.getrandbits(63)))


def _clouds(g, n=UNIT):
    """Smooth random fields of several scales in random colours."""
    out = np.zeros((n, n, 3), np.float32)
    amp = 1.0
    grey = g.random() < .3
    for cells in (2, 4, 8, 16, 32, 64)[:g.integers(2, 7)]:
        a = g.random((cells, cells, 1 if grey else 3), dtype=np.float32).repeat(3 if grey else 1, 2)
        im = Image.fromarray((a * 255).astype(np.uint8)).resize((n, n), Image.Resampling.BICUBIC)
        out += amp * np.asarray(im, np.float32)
        amp *= float(g.uniform(.4, .9))
    lo, hi = out.min(), out.max()
    tint = g.uniform(.5, 1, 3).astype(np.float32)
    return ((out - lo) / max(1, hi - lo) * 255 * tint).astype(np.uint8)


def _files(name):
    folder = os.environ.get("DRAWN_PHOTOS", "")
    path = os.path.join(folder, name) if folder else ""
    if not path or not os.path.isdir(path):
        return []
    if path not in _photos:
        _photos[path] = [Image.open(os.path.join(path, f)).convert("RGB") for f in sorted(os.listdir(path))]
    return _photos[path]


def foreign(kind):
    """Pictures for the evaluation from a folder of DRAWN_PHOTOS: each whole at three sizes, and four crops of it."""
    for i, im in enumerate(_files(FOLDERS[kind])):
        r = random.Random(i)
        for side in (224, 640, 1200):
            k = side / max(im.size)
            yield im.resize((max(1, round(im.width * k)), max(1, round(im.height * k))), Image.Resampling.BICUBIC)
        for _ in range(4):
            yield _crop(im, r)


def _crop(im, r):
    side = int(min(im.size) * r.uniform(.35, 1))
    x, y = r.randint(0, im.width - side), r.randint(0, im.height - side)
    return im.crop((x, y, x + side, y + side)).resize((UNIT, UNIT), Image.Resampling.BICUBIC)


def _photo(r, held):
    photos = _files("held" if held else "train")
    if not photos:
        return None
    im = _crop(r.choice(photos), r)
    if held:
        return im
    if r.random() < .5:
        im = ImageOps.mirror(im)
    if r.random() < .3:
        im = im.rotate(r.choice((90, 180, 270)))
    if r.random() < .4:
        bands = list(im.split())
        r.shuffle(bands)
        im = Image.merge("RGB", bands)
    if r.random() < .2:
        im = ImageOps.grayscale(im).convert("RGB")
    return im


def picture(r, kind, held=False):
    g = _rand(r)
    if kind == "photo":
        im = _photo(r, held)
        if im is not None:
            return im
        kind = "clouds"
    if kind == "noise":
        k = int(g.choice((1, 1, 2, 4, 7)))
        a = g.integers(0, 256, (UNIT // k, UNIT // k, 1 if g.random() < .3 else 3), dtype=np.uint8)
        a = a.repeat(3, 2) if a.shape[2] == 1 else a
        im = Image.fromarray(a).resize((UNIT, UNIT), Image.Resampling.NEAREST)
        return im.filter(ImageFilter.GaussianBlur(r.uniform(0, 2))) if r.random() < .5 else im
    if kind == "clouds":
        return Image.fromarray(_clouds(g))
    if kind == "texture":
        y, x = np.mgrid[0:UNIT, 0:UNIT].astype(np.float32) / UNIT
        v = sum(np.sin(2 * np.pi * (g.uniform(-30, 30) * x + g.uniform(-30, 30) * y + g.uniform(0, 1) + g.uniform(0, .5) * np.sin(6 * x * y * g.uniform(1, 5)))) for _ in range(int(g.integers(2, 5))))
        v = (v - v.min()) / (v.max() - v.min() + 1e-6)
        a, b = g.integers(0, 256, 3), g.integers(0, 256, 3)
        out = v[..., None] * a + (1 - v[..., None]) * b + g.normal(0, g.uniform(0, 12), (UNIT, UNIT, 1))
        return Image.fromarray(out.clip(0, 255).astype(np.uint8))
    im = Image.fromarray(_clouds(g)) if r.random() < .5 else Image.new("RGB", (UNIT, UNIT), tuple(int(v) for v in g.integers(0, 256, 3)))
    d = ImageDraw.Draw(im)
    col = lambda: tuple(int(v) for v in g.integers(0, 256, 3))
    if kind == "collage":
        for _ in range(r.randint(6, 40)):
            p = [(r.randint(-30, 250), r.randint(-30, 250)) for _ in range(r.randint(3, 7))]
            d.polygon([(p[0][0] + (x - p[0][0]) * .4, p[0][1] + (y - p[0][1]) * .4) for x, y in p], fill=col())
    elif kind == "scribble":
        for _ in range(r.randint(3, 25)):
            x, y, pts = r.randint(0, 224), r.randint(0, 224), []
            for _ in range(r.randint(4, 30)):
                x, y = x + r.randint(-25, 25), y + r.randint(-25, 25)
                pts.append((x, y))
            d.line(pts, fill=col(), width=r.randint(1, 5), joint="curve")
    else:  # letters: bars and blocks like a script nobody reads
        ink, y, h = col(), r.randint(0, 20), r.randint(8, 26)
        while y < UNIT - h:
            x = r.randint(4, 20)
            while x < UNIT - h:
                for _ in range(r.randint(2, 4)):
                    d.line((x + r.randint(0, h // 2), y + r.randint(0, h), x + r.randint(0, h // 2), y + r.randint(0, h)), fill=ink, width=max(1, h // 8))
                x += h * 2 // 3 + (h // 2 if r.random() < .2 else 0)
            y += int(h * 1.5)
    return im


def outside(m):
    """Fills the sample with such a picture; it has no facts."""
    kind = m.r.choice(KINDS + ("photo", "photo", "photo"))
    m.s.images = [picture(m.r, kind, m.held)]
    m.s.glyphs = [[]]
    m.s.style["kind"] = kind
