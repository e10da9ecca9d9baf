"""Samples of the drawn world: a picture (or frames) with every fact that a description of it should state.

    sample = make(seed)                 # a still of a random domain
    sample = make(seed, "ui")           # of a given domain
    sample.images, sample.caption(), sample.facts_json()

A sample is a pure function of (seed, domain, options). Seeds below words.HELD_OUT are held out.
"""
import io
import random
from dataclasses import dataclass, field

from PIL import Image, ImageFilter

import canvas as cv
from words import HELD_OUT, VIVID, held_pair, listed, random_word, rng

DOMAINS = ["natural", "structure_math", "infographic_document", "medical_bio", "ui", "code", "knowledge_edu", "synthetic", "video"]
OUTSIDE = "outside"  # pictures that do not belong to the world
# share of the still-image domains in training: pictures with much text need most
WEIGHTS = {"natural": 11, "structure_math": 17, "infographic_document": 22, "medical_bio": 7, "ui": 15, "code": 16, "knowledge_edu": 15, "synthetic": 5}


@dataclass
class Fact:
    """One checkable statement: its kind, the true sentence and a false one that differs in a single point."""
    kind: str
    true: str
    false: str


@dataclass
class Sample:
    domain: str
    seed: int
    held: bool
    images: list = field(default_factory=list)
    glyphs: list = field(default_factory=list)     # one list of (x, y, char) per image, in its pixels
    overview: str = ""
    facts: list = field(default_factory=list)
    ocr: str = ""
    short: str = ""
    tags: list = field(default_factory=list)
    reasoning: list = field(default_factory=list)  # (true sentence, false sentence)
    qa: list = field(default_factory=list)         # (question, answer)
    table: tuple = None                            # (columns, rows) of strings
    code: tuple = None                             # (language, source, what it does)
    shapes: list = field(default_factory=list)     # places.Shape of each plain shape, in the order of the facts
    style: dict = field(default_factory=dict)

    def caption(self):
        return " ".join([self.overview] + [f.true for f in self.facts])

    def medium(self):
        return " ".join([self.overview] + [f.true for f in self.facts[:2]])

    def add(self, kind, true, false):
        assert true != false, (self.domain, self.seed, true)
        self.facts.append(Fact(kind, true, false))

    def has_person(self):
        return any("person" in t or "people" in t for t in self.tags)

    def facts_json(self):
        """The facts as plain data for a JSON file."""
        return {"domain": self.domain, "seed": self.seed, "overview": self.overview,
                "facts": [vars(f) for f in self.facts], "text": self.ocr, "short": self.short, "tags": self.tags,
                "reasoning": [a for a, _ in self.reasoning], "questions": [list(q) for q in self.qa], "shapes": [shape._asdict() for shape in self.shapes],
                "table": {"columns": self.table[0], "rows": self.table[1]} if self.table else None,
                "code": {"language": self.code[0], "source": self.code[1], "purpose": self.code[2]} if self.code else None}


class Maker:
    """What the drawing functions share: the generator, the sample, the look of the picture."""

    def __init__(self, r, sample, frame, family=None):
        self.r, self.s, self.frame = r, sample, frame
        self.held = sample.held
        self.family = family
        # some pictures carry words that cannot be read; in training more of them, also several in a row
        self.smudge = r.random() < (.12 if self.held else .18)
        self.smudged = .25 if self.held else r.choice((.25, .25, .6))
        self.printed_random = r.choice((.35, .6, .9))

    def canvas(self, background, mono=False):
        c = cv.Canvas(self.frame, background)
        drawn = self.r.choice(cv.MONO if mono else cv.PROPORTIONAL)
        c.family = (cv.HELD_MONO if mono else self.family) if self.family else drawn
        self.s.style["font"] = c.family
        return c

    def pick(self, thing, options=VIVID, beside=""):
        """An attribute for an object in a context, say a roof colour beside a wall colour.

        Every attribute of the object is seen in training, but the combinations kept for held-out pictures appear only there.
        """
        if not beside:
            return self.r.choice(options)
        kept = [o for o in options if held_pair(f"{thing}|{beside}", o)]
        rest = [o for o in options if not held_pair(f"{thing}|{beside}", o)]
        if self.held and kept and self.r.random() < .5:
            return self.r.choice(kept)
        return self.r.choice(rest or options)

    def other(self, options, value):
        while True:
            x = self.r.choice(options)
            if x != value:
                return x

    def jitter(self, color, d=10):
        rgb = cv.COLORS[color] if isinstance(color, str) else color
        return tuple(max(0, min(255, v + self.r.randint(-d, d))) for v in rgb)

    def word(self, name="words", longest=8, plain=False):
        """A word to print: from a list, or a random string; now and then one that will be smudged."""
        r = self.r
        w = random_word(r, 2, longest) if r.random() < self.printed_random else listed(r, name, self.held)
        while len(w) > longest:
            w = listed(r, name, self.held)
        if self.smudge and not plain and len(w) > 3 and r.random() < self.smudged:
            return cv.Smudged(w)
        return w

    def words(self, n, longest=8, width=24):
        out = [self.word(longest=longest) for _ in range(n)]
        while len(out) > 1 and sum(len(getattr(w, "shown", w)) + 1 for w in out) > width + 1:
            out.pop()
        return out

    def twin(self, text):
        """A text that differs from the given one in one character, or in one word."""
        r = self.r
        spots = [i for i, c in enumerate(text) if c.isalnum()]
        for _ in range(20):
            t = list(text)
            i = r.choice(spots) if spots else 0
            pool = "0123456789" if t[i].isdigit() else "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if t[i].isupper() else "abcdefghijklmnopqrstuvwxyz"
            if r.random() < .5 or " " not in text:
                t[i] = r.choice(pool)
                out = "".join(t)
            else:
                ws = text.split(" ")
                ws[r.randrange(len(ws))] = random_word(r, 2, 7)
                out = " ".join(ws)
            if out != text and cv.UNREADABLE not in out or cv.UNREADABLE in text and out != text:
                return out
        return text + "s"

    def near(self, n, lo=0, hi=99):
        while True:
            m = n + self.r.choice((-3, -2, -1, 1, 2, 3))
            if lo <= m <= hi:
                return m

    def count(self, n, one, many=None, hi=9, kind="count"):
        self.s.add(kind, there(n, one, many), there(self.near(n, 1, hi), one, many))

    def done(self, *canvases):
        for c in canvases:
            im, g = cv.finish(c)
            self.s.images.append(im)
            self.s.glyphs.append(g)


def there(n, one, many=None):
    return f"There is 1 {one}." if n == 1 else f"There are {n} {many or one + 's'}."


def frame_for(r, size):
    """plain: 224 x 224. near: other sizes that stay one tile. multi: several tiles, up to 1344 pixels."""
    if size == "plain":
        return cv.Frame(smooth=r.random() < .2)
    if size == "near":
        mx, my = r.choice(((0, 0), (r.randint(0, 30), r.randint(0, 30)), (0, r.randint(0, 50)), (r.randint(0, 50), 0)))
        w, h = cv.UNIT + mx, cv.UNIT + my
        k = r.uniform(.95, min(1.35, (2 * 224 * 224 / (w * h)) ** .5))
        return cv.Frame(k, w, h, r.randint(0, mx), r.randint(0, my), smooth=r.random() < .2)
    shape = r.random()
    mx, my = (r.randint(0, 30), r.randint(0, 30)) if shape < .4 else (r.randint(40, 220), r.randint(0, 20)) if shape < .7 else (r.randint(0, 20), r.randint(40, 220))
    w, h = cv.UNIT + mx, cv.UNIT + my
    k = r.uniform(1.5, 3.0) if r.random() < .8 else r.uniform(3.0, 1344 / max(w, h))
    return cv.Frame(min(k, 1344 / max(w, h)), w, h, r.randint(0, mx), r.randint(0, my))


def degrade(im, r, how=None):
    """JPEG at some quality, or slight blur, as pictures from the wild have; how picks one: "jpeg" or "blur"."""
    k = r.random()
    if k < .6 and how is None or how == "jpeg":
        buf = io.BytesIO()
        im.save(buf, "JPEG", quality=r.randint(45, 95))
        return Image.open(buf).convert("RGB")
    return im.filter(ImageFilter.GaussianBlur(r.uniform(.2, .5) * im.width / 224))


VIEWS = ("near", "multi", "jpeg", "blur", "font")


def make(seed, domain=None, size=None, family=None, frames=None, clean=None, view=None):
    """Draws the sample of a seed. size: plain, near or multi (default: drawn). clean=True forbids degradation.

    view draws what the other arguments say once more with one thing changed: another geometry (near, multi), a held-out font
    (font), JPEG or blur. Comparing the two tells what that change costs.
    """
    import diagrams
    import outside
    import pages
    import scenes
    import charts
    r = random.Random(seed * 7 + 1)
    if domain is None:
        domain = r.choices(list(WEIGHTS), WEIGHTS.values())[0]
    s = Sample(domain, seed, seed < HELD_OUT)
    if size is None:
        size = r.choices(("plain", "near", "multi"), (74, 16, 10))[0]
    if domain == "video":
        size = "plain"
    frame = frame_for(r, size)
    if view in ("near", "multi") and domain != "video":
        frame = frame_for(rng(seed, view), view)
    if view == "font":
        family = cv.HELD_FAMILIES[seed % len(cv.HELD_FAMILIES)]
    m = Maker(r, s, frame, family)
    s.style["size"] = size
    draw = {"natural": scenes.natural, "structure_math": charts.structure_math, "infographic_document": pages.document,
            "medical_bio": scenes.microscope, "ui": pages.interface, "code": pages.code, "knowledge_edu": diagrams.diagram,
            "synthetic": scenes.pattern, OUTSIDE: outside.outside}
    if domain == "video":
        scenes.video(m, frames)
    else:
        draw[domain](m)
    if not clean and r.random() < .15:
        s.images = [degrade(im, r) for im in s.images]
        s.style["degraded"] = True
    if view in ("jpeg", "blur"):
        s.images = [degrade(im, rng(seed, view, k), view) for k, im in enumerate(s.images)]
    return s
