"""A drawing surface in virtual units that remembers where each glyph was printed.

Drawing code works on a canvas of 224 by 224 units (plus margins) whatever the size of the picture in pixels.
Every printed glyph is recorded as (x, y, character) in pixels: training uses that as dense supervision.
"""
import os

from PIL import Image, ImageDraw, ImageFilter, ImageFont

UNIT = 224
FONT_DIR = os.environ.get("DRAWN_FONTS", "/usr/share/fonts/truetype")

# family: (regular, bold); the held ones are printed only when asked for
FAMILIES = {
    "dejavu-sans": ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    "dejavu-serif": ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
    "liberation-sans": ("LiberationSans-Regular.ttf", "LiberationSans-Bold.ttf"),
    "liberation-serif": ("LiberationSerif-Regular.ttf", "LiberationSerif-Bold.ttf"),
    "roboto": ("Roboto-Regular.ttf", "Roboto-Bold.ttf"),
    "open-sans": ("OpenSans-Regular.ttf", "OpenSans-Bold.ttf"),
    "dejavu-mono": ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
    "liberation-mono": ("LiberationMono-Regular.ttf", "LiberationMono-Bold.ttf"),
    "hack": ("Hack-Regular.ttf", "Hack-Bold.ttf"),
    "noto-sans": ("NotoSans-Regular.ttf", "NotoSans-Bold.ttf"),
    "free-sans": ("FreeSans.ttf", "FreeSansBold.ttf"),
    "lato": ("Lato-Regular.ttf", "Lato-Bold.ttf"),
    "noto-mono": ("NotoSansMono-Regular.ttf", "NotoSansMono-Bold.ttf"),
}
HELD_FAMILIES, HELD_MONO = ("noto-sans", "free-sans", "lato"), "noto-mono"
PROPORTIONAL = ("dejavu-sans", "dejavu-serif", "liberation-sans", "liberation-serif", "roboto", "open-sans")
MONO = ("dejavu-mono", "liberation-mono", "hack")

COLORS = {"red": (214, 40, 40), "orange": (244, 140, 30), "yellow": (250, 214, 40), "green": (50, 160, 70),
          "blue": (40, 90, 210), "purple": (130, 60, 170), "pink": (245, 140, 190), "brown": (130, 80, 40),
          "black": (25, 25, 25), "white": (248, 248, 248), "gray": (140, 140, 140), "cyan": (60, 200, 215)}
UNREADABLE = "[unreadable]"

_paths, _fonts = {}, {}


def font_path(file):
    """The path of a font file anywhere under FONT_DIR."""
    if not _paths:
        for folder, _, files in os.walk(FONT_DIR):
            for f in files:
                _paths[f] = os.path.join(folder, f)
    return _paths[file]


class Glyphs(dict):
    """The glyphs of one font at one size: character -> (advance, coverage mask, offset from the pen on the base line).

    Rasterising hinted outlines again for each string is what made drawing slow; a glyph is rendered once a process.
    """

    def __init__(self, path, size):
        super().__init__()
        self.font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
        self.ascent = self.font.getmetrics()[0]

    def __missing__(self, ch):
        mask, offset = self.font.getmask2(ch, "L", anchor="ls")
        self[ch] = g = (self.font.getlength(ch), mask if mask.size[0] and mask.size[1] else None, offset)
        return g


def font(family, bold, size):
    """The cached glyphs of a font at a size in pixels."""
    key = (family, bold, size)
    if key not in _fonts:
        _fonts[key] = Glyphs(font_path(FAMILIES[family][bold]), size)
    return _fonts[key]


class Smudged(str):
    """A word printed so that nobody can read it; as a string it is the marker, `shown` is what was printed."""

    def __new__(cls, shown):
        w = super().__new__(cls, UNREADABLE)
        w.shown = shown
        return w


def _shown(word):
    return getattr(word, "shown", word)


def label(text):
    """What a reader should answer for a text: a string, or a list of words joined by spaces."""
    return text if isinstance(text, str) else " ".join(text)


class Canvas:
    """A picture under construction. Coordinates are virtual units; (0,0) is the corner of the content box."""

    def __init__(self, frame, background):
        self.frame = frame
        self.k, self.ox, self.oy = frame.scale, frame.left, frame.top
        self.width, self.height = frame.width, frame.height  # of the whole picture, virtual
        self.im = Image.new("RGB", (max(1, round(self.width * self.k)), max(1, round(self.height * self.k))), background)
        self.d = ImageDraw.Draw(self.im)
        self.glyphs = []
        self.family = "dejavu-sans"

    def _xy(self, p):
        k, ox, oy = self.k, self.ox, self.oy
        return [(v + (oy if i & 1 else ox)) * k for i, v in enumerate(p)]

    def _w(self, width):
        return max(1, round(width * self.k))

    def rectangle(self, p, fill=None, outline=None, width=1):
        self.d.rectangle(self._xy(p), fill=fill, outline=outline, width=self._w(width))

    def ellipse(self, p, fill=None, outline=None, width=1):
        self.d.ellipse(self._xy(p), fill=fill, outline=outline, width=self._w(width))

    def line(self, p, fill=None, width=1):
        self.d.line(self._xy(p), fill=fill, width=self._w(width), joint="curve" if len(p) > 4 else None)

    def polygon(self, p, fill=None, outline=None, width=1):
        self.d.polygon(self._xy(p), fill=fill, outline=outline, width=self._w(width))

    def pieslice(self, p, start, end, fill=None, outline=None):
        self.d.pieslice(self._xy(p), start, end, fill=fill, outline=outline)

    def all(self):
        """The whole picture as a rectangle in content coordinates."""
        return (-self.ox, -self.oy, self.width - self.ox, self.height - self.oy)

    def length(self, text, size, bold=False, family=None):
        """Width of a text in virtual units."""
        f = font(family or self.family, bold, max(6, round(size * self.k)))
        words = [text] if isinstance(text, str) else text
        return sum([f[ch][0] for ch in " ".join(map(_shown, words))]) / self.k

    def text(self, xy, text, size, fill, bold=False, family=None, anchor="la", r=None):
        """Prints a string or a list of words, records its glyphs, smudges the words that are Smudged.

        anchor is one of "la" (left, top), "lm", "mm", "ma", "rm", "md". Returns the label.
        """
        px = max(6, round(size * self.k))
        f = font(family or self.family, bold, px)
        words = [text] if isinstance(text, str) else text
        x, y = self._xy(xy)
        if anchor[0] != "l":
            total = sum([f[ch][0] for ch in " ".join(map(_shown, words))])
            x -= total / 2 if anchor[0] == "m" else total
        y -= {"a": 0, "m": px * .58, "d": px * 1.1}[anchor[1]]
        y = round(y)
        base, ink, put, glyphs = y + f.ascent, self.d._getink(fill, fill)[0], self.d.draw.draw_bitmap, self.glyphs
        cy, smudges = y + px * .62, []
        for w in words:
            x0 = x
            readable = not isinstance(w, Smudged)
            for ch in _shown(w):
                advance, mask, (dx, dy) = f[ch]
                if mask is not None:
                    put((round(x) + dx, base + dy), mask, ink)
                    if readable:
                        glyphs.append((x + advance * .5, cy, ch))
                x += advance
            if not readable:
                smudges.append((x0, y, x, y + px * 1.15))
            x += f[" "][0]
        for box in smudges:
            self._smudge(box, fill, r, px * .95)
        return label(text)

    def _smudge(self, box, ink, r, px):
        x0, y0, x1, y1 = (round(v) for v in box)
        x0, y0 = max(0, x0 - 1), max(0, y0)
        x1, y1 = min(self.im.width, x1 + 1), min(self.im.height, y1)
        if x1 - x0 < 2 or y1 - y0 < 2:
            return
        how = r.random()
        if how < .45:
            part = self.im.crop((x0, y0, x1, y1)).filter(ImageFilter.GaussianBlur(px * r.uniform(.3, .5)))
            self.im.paste(part, (x0, y0))
        elif how < .75:
            m = max(2, round(px * r.uniform(.5, .7)))
            small = self.im.crop((x0, y0, x1, y1)).resize((max(1, (x1 - x0) // m), max(1, (y1 - y0) // m)), Image.Resampling.BOX)
            self.im.paste(small.resize((x1 - x0, y1 - y0), Image.Resampling.NEAREST), (x0, y0))
        else:
            for _ in range(3):
                pts, x = [], x0
                while x < x1:
                    pts += [x, r.uniform(y0 + px * .1, y1)]
                    x += px * r.uniform(.15, .35)
                self.d.line(pts + [x1, (y0 + y1) / 2], fill=ink, width=max(1, round(px * .14)))


class Frame:
    """Geometry of a picture: scale (pixels a unit), whole size and content offset in units, supersampling."""

    def __init__(self, scale=1.0, width=UNIT, height=UNIT, left=0, top=0, smooth=False):
        self.smooth = smooth
        self.scale = scale * (2 if smooth else 1)
        self.width, self.height, self.left, self.top = width, height, left, top


def finish(canvas):
    """The picture in its final pixels, and its glyphs."""
    im, g = canvas.im, canvas.glyphs
    if canvas.frame.smooth:
        im = im.reduce(2)
        g = [(x / 2, y / 2, c) for x, y, c in g]
    return im, g


def grid(width, height, tile=UNIT, most=4):
    """Columns and rows of the family's dynamic tiling rule for a picture of width x height pixels."""
    best, score = (1, 1), float("inf")
    cells = sorted(((i, j) for i in range(1, most + 1) for j in range(1, most + 1) if i * j <= most), key=lambda c: (c[0] * c[1], c))
    for i, j in cells:
        d = abs(width / height - i / j)
        if d < score or d == score and width * height > .5 * tile * tile * i * j:
            best, score = (i, j), d
    return best


def tiles(im, glyphs=(), tile=UNIT, most=4):
    """Cuts a picture as the model sees it: tiles row by row, then the thumbnail when there is more than one.

    Returns a list of (tile image, its glyphs in tile pixels).
    """
    w, h = im.size
    cols, rows = grid(w, h, tile, most)

    def fit(cw, ch):
        out = im if im.size == (cw, ch) else im.resize((cw, ch), Image.Resampling.BICUBIC)
        return out, [(x * cw / w, y * ch / h, c) for x, y, c in glyphs]
    if cols == rows == 1:
        return [fit(tile, tile)]
    big, gs = fit(tile * cols, tile * rows)
    out = []
    for j in range(rows):
        for i in range(cols):
            x0, y0 = i * tile, j * tile
            out.append((big.crop((x0, y0, x0 + tile, y0 + tile)),
                        [(x - x0, y - y0, c) for x, y, c in gs if x0 <= x < x0 + tile and y0 <= y < y0 + tile]))
    return out + [fit(tile, tile)]
