"""Labelled diagrams: chains, cycles, trees and stars of boxes joined by arrows."""
import math

from canvas import COLORS, UNIT
from words import VIVID, random_word

SETS = [("Food Chain", "Sun Grass Rabbit Fox Owl".split()), ("Water Cycle", "Ocean Vapor Cloud Rain River".split()),
        ("Life Cycle", "Egg Larva Pupa Adult Nymph".split()), ("Rock Cycle", "Magma Lava Sand Slate Marble".split()),
        ("Computer", "Input CPU Memory Disk Output".split()), ("Plant", "Root Stem Leaf Flower Seed".split()),
        ("Digestion", "Mouth Throat Stomach Liver Colon".split()), ("Energy", "Coal Steam Turbine Grid Home".split())]


def arrow(c, a, b, ink):
    c.line((*a, *b), fill=ink, width=2)
    t = math.atan2(b[1] - a[1], b[0] - a[0])
    c.polygon((b[0], b[1], b[0] - 10 * math.cos(t - .45), b[1] - 10 * math.sin(t - .45), b[0] - 10 * math.cos(t + .45), b[1] - 10 * math.sin(t + .45)), fill=ink)


def _layout(m, lay, n):
    """Box centres and arrows (from, to)."""
    r = m.r
    if lay == "chain" and r.random() < .6:
        pos = [(112 + r.randint(-30, 30), int(48 + i * (150 / (n - 1)))) for i in range(n)]
        edges = [(i, i + 1) for i in range(n - 1)]
    elif lay == "chain":
        n = 3 if n == 3 else 4
        pos = [(40, 70), (112, 120), (184, 170)] if n == 3 else [(45, 62), (165, 62), (58, 165), (178, 165)]
        edges = [(i, i + 1) for i in range(n - 1)]
    elif lay == "cycle":
        pos = [(52, 65), (172, 65), (172, 175), (52, 175)] if n == 4 else [(112, 60), (176, 170), (48, 170)]
        edges = [(i, (i + 1) % n) for i in range(n)]
    else:
        pos = [(112, 58)] + [(112 + (i - (n - 2) / 2) * (74 if n == 4 else 100), 170) for i in range(n - 1)]
        edges = [(0, i) for i in range(1, n)]
    if lay != "tree" and r.random() < .45 or lay == "tree" and r.random() < .25:
        edges = [(b, a) for a, b in edges]
    return pos, edges


def diagram(m):
    r, s = m.r, m.s
    c = m.canvas(r.choice(((255, 255, 255), (255, 252, 235), (236, 246, 240))))
    lay = r.choice(("chain", "cycle", "tree"))
    n = r.randint(3, 4)
    title, names = _labels(m, n)
    col, ink, size = m.pick("box", beside=f"{lay}{n}"), (30, 30, 35), r.choice((12, 13, 13))
    c.text((UNIT / 2, 4), title, r.choice((15, 16)), ink, bold=True, anchor="ma")
    pos, edges = _layout(m, lay, n)
    hw, hh = 34, 13
    fill = tuple((v + 2 * 255) // 3 for v in COLORS[col])
    for a, b in edges:
        (xa, ya), (xb, yb) = pos[a], pos[b]
        t = math.atan2(yb - ya, xb - xa)
        q = min(hw / max(1e-6, abs(math.cos(t))), hh / max(1e-6, abs(math.sin(t)))) + 2
        arrow(c, (xa + q * math.cos(t), ya + q * math.sin(t)), (xb - q * math.cos(t), yb - q * math.sin(t)), ink)
    round_box = r.random() < .25
    for (x, y), nm in zip(pos, names):
        (c.ellipse if round_box else c.rectangle)((x - hw, y - hh, x + hw, y + hh), fill=fill, outline=COLORS[col], width=2)
        c.text((x, y), nm, size, ink, anchor="mm")
    _facts(m, title, names, lay, col, edges, n)
    s.ocr = "\n".join([title] + _reading_order(names, pos))
    m.done(c)


def _labels(m, n):
    r = m.r
    if r.random() < (.4 if m.held else .25):  # training reads more random names
        title, pool = r.choice(SETS)
        return title, r.sample(pool, n)
    title = " ".join(w.capitalize() for w in m.words(r.choice((1, 2)), width=16) if not hasattr(w, "shown")) or "Plan"
    names = []
    while len(names) < n:
        w = m.word(longest=7, plain=True).capitalize()
        if w not in names:
            names.append(w)
    return title, names


def _reading_order(names, pos):
    """Lines of labels: boxes at one height read from left to right."""
    rows = {}
    for (x, y), nm in zip(pos, names):
        rows.setdefault(round(y), []).append((x, nm))
    return [" ".join(nm for _, nm in sorted(rows[y])) for y in sorted(rows)]


def _facts(m, title, names, lay, col, edges, n):
    r, s = m.r, m.s
    s.overview = f'A labeled diagram titled "{title}" drawn as a {lay}.'
    say = lambda k, w: f"It has {k} {w} boxes."
    s.add("count", say(n, col), r.choice((say(m.other((2, 3, 4, 5), n), col), say(n, m.other(VIVID, col)))))
    for a, b in edges:
        # a box that this one does not point to; a false sentence must be false of every arrow
        targets = {y for x, y in edges if x == a}
        fake = m.other([nm for i, nm in enumerate(names) if i not in targets or i == b], names[b]) if r.random() < .5 else m.twin(names[b])
        false = f"An arrow goes from {names[b]} to {names[a]}." if r.random() < .5 else f"An arrow goes from {names[a]} to {fake}."
        s.add("relation", f"An arrow goes from {names[a]} to {names[b]}.", false)
    outs = [a for a, _ in edges]
    for a, b in edges:
        if outs.count(a) == 1:
            s.qa.append((f"Which box does the arrow from {names[a]} point to?", names[b]))
    s.qa += [("What is the title?", title), ("How many boxes are there?", str(n)), ("What color are the boxes?", col)]
    s.short = f'A {lay} diagram titled "{title}" with {n} boxes.'
    s.tags = ["diagram", lay, title.lower(), f"{col} boxes"]
    if lay == "chain":
        ins = {b for _, b in edges}
        first = next(i for i in range(n) if i not in ins)
        s.reasoning = [(f"The sequence starts at {names[first]}.", f"The sequence starts at {m.other(names, names[first])}.")]
    elif lay == "cycle":
        s.reasoning = [("The arrows form a closed loop.", "The arrows form a tree.")]
    elif edges[0][0] == 0:
        s.reasoning = [(f"{names[0]} leads to {n - 1} others.", f"{names[1]} leads to {n - 1} others.")]
    else:
        s.reasoning = [(f"All others lead to {names[0]}.", f"All others lead to {names[1]}.")]
