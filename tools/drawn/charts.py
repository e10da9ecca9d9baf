"""Charts with printed or scaled values, and geometry figures."""
import math

from canvas import COLORS, UNIT
from words import CATEGORIES, DARK, VIVID, listed, number, random_word

INK = (20, 20, 20)


def structure_math(m):
    kind = m.r.choice(("bar", "bar", "hbar", "line", "pie", "geometry"))
    dark = m.r.random() < .15
    back = (34, 36, 44) if dark else m.r.choice(((255, 255, 255), (250, 248, 240), (240, 245, 250)))
    c = m.canvas(back)
    ink = (232, 232, 236) if dark else INK
    if kind == "geometry":
        return geometry(m, c, ink)
    size = m.r.choice((12, 13, 13, 14))
    title = _title(m)
    t = c.text((UNIT / 2, 5), title, m.r.choice((14, 15, 16)), ink, bold=m.r.random() < .6, anchor="ma", r=m.r)
    m.s.add("text", f'The title reads "{t}".', f'The title reads "{m.twin(t)}".')
    {"pie": _pie, "bar": _bars, "hbar": _hbars, "line": _bars}[kind](m, c, ink, size, t, kind)
    m.s.tags = [f"{'bar' if kind == 'hbar' else kind} chart", t.lower()] + [x for x in m.s.tags]
    m.s.short = m.s.overview
    m.done(c)


def _title(m):
    r = m.r
    k = r.random()
    if k < .45:
        w = [listed(r, "topics", m.held)]
    elif k < .8:
        w = [m.word(longest=9, plain=True).capitalize()]
    else:
        w = [x if isinstance(x, str) and len(x) < 2 else x for x in m.words(2, width=18)]
    if r.random() < .5 and len(w) == 1:
        w.append(str(r.randint(1990, 2039)))
    return w


def _names(m, n, width):
    """Category labels: a run of a list, or random strings that fit a column."""
    r = m.r
    if r.random() < .5:
        cats = r.choice(CATEGORIES)
        if n <= len(cats):
            st = r.randint(0, len(cats) - n)
            return list(cats[st:st + n])
    out = []
    while len(out) < n:
        w = random_word(r, 1, 4 if width < 40 else 6)
        if w not in out:
            out.append(w)
    return out


def _extremes(m, names, vals, unit=""):
    s = m.s
    for word, f in (("largest", max), ("smallest", min)):
        v = f(vals)
        if vals.count(v) == 1:
            n = names[vals.index(v)]
            s.reasoning.append((f"The {word} value is {n} with {v}{unit}.", f"The {word} value is {m.other(names, n)}."))
            s.qa.append((f"Which label has the {word} value?", n))


def _pie(m, c, ink, size, title, kind):
    r, s = m.r, m.s
    n = r.randint(2, 4)
    names = _names(m, n, 50)
    parts = [5] * n
    for _ in range(20 - n):
        parts[r.randrange(n)] += 5
    if r.random() < .5:  # not only multiples of five
        i, j = r.sample(range(n), 2)
        d = r.randint(1, 4)
        parts[i], parts[j] = parts[i] + d, parts[j] - d
    cols = r.sample(VIVID, n)
    a = r.randint(0, 359)
    hole = r.random() < .25
    for p, col in zip(parts, cols):
        c.pieslice((8, 50, 122, 164), a, a + p * 3.6, fill=COLORS[col], outline=(255, 255, 255))
        a += p * 3.6
    if hole:
        c.ellipse((42, 84, 88, 130), fill=(255, 255, 255))
    rows = []
    for i, (nm, p, col) in enumerate(zip(names, parts, cols)):
        y = 60 + i * 26
        c.rectangle((132, y, 143, y + 11), fill=COLORS[col], outline=ink)
        rows.append(c.text((148, y + 5), f"{nm} {p}%", size, ink, anchor="lm"))
        false = f"{nm} is {p}% in {m.other(cols, col)}." if r.random() < .4 else f"{nm} is {m.near(p, 1, 99)}% in {col}."
        s.add("value", f"{nm} is {p}% in {col}.", false)
        s.qa.append((f"What percentage is {nm}?", f"{p}%"))
    s.overview = f'A pie chart titled "{title}" with {n} slices.'
    s.ocr = "\n".join([title] + rows)
    s.table = (["label", "value"], [[nm, f"{p}%"] for nm, p in zip(names, parts)])
    s.tags = cols
    _extremes(m, names, parts, "%")


def _axis(m, c, ink, size, x0, yb, yt, top, ticks):
    sc = (yb - yt) / top
    out = []
    for v in ticks:
        y = yb - v * sc
        if v:
            c.line((x0, y, UNIT - 8, y), fill=(190, 190, 195))
        c.text((x0 - 4, y), str(v), size - 1, ink, anchor="rm")
        out.append(str(v))
    return out[::-1]


def _bars(m, c, ink, size, title, kind):
    r, s = m.r, m.s
    n = r.randint(2, 5) if kind == "bar" else r.randint(3, 5)
    x0, yb, yt = 34, 198, 46
    w = (UNIT - 8 - x0) / n
    names = _names(m, n, w)
    printed = r.random() < .75
    top = r.choice((20, 20, 50, 100)) if printed else 20
    vals = [r.randint(1, top) if printed else r.choice((5, 10, 15, 20)) for _ in range(n)]
    col = m.pick(kind, beside=n)
    c.line((x0, yt - 4, x0, yb), fill=ink)
    c.line((x0, yb, UNIT - 8, yb), fill=ink)
    ticks = _axis(m, c, ink, size, x0, yb, yt, top, (0, 5, 10, 15, 20) if top == 20 else (0, top // 2, top)) if not printed or r.random() < .35 else []
    outline = (60, 60, 60) if r.random() < .6 else None
    pts = []
    for i, (nm, v) in enumerate(zip(names, vals)):
        x, y = x0 + w * (i + .5), yb - v * (yb - yt) / top
        if kind == "bar":
            c.rectangle((x - w * .3, y, x + w * .3, yb - 1), fill=COLORS[col], outline=outline)
        pts += [x, y]
        c.text((x, yb + 4), nm, size, ink, anchor="ma")
    if kind == "line":
        c.line(pts, fill=COLORS[col], width=2)
    for i, v in enumerate(vals):
        x, y = pts[2 * i:2 * i + 2]
        if kind == "line":
            c.ellipse((x - 3, y - 3, x + 3, y + 3), fill=COLORS[col])
        if printed:
            c.text((x, y - (1 if kind == "bar" else 4)), str(v), size, ink, anchor="md")
    what = f"{n} {col} bars" if kind == "bar" else f"{n} points in {col}"
    s.overview = f'A {kind} chart titled "{title}" with {what}.'
    _value_facts(m, names, vals, printed, top)
    s.ocr = "\n".join([title] + ([" ".join(ticks)] if ticks else []) + ([" ".join(map(str, vals))] if printed else []) + [" ".join(names)])
    d = vals[-1] - vals[0]
    opts = ["rises", "falls", "does not change"]
    i = 0 if d > 0 else 1 if d < 0 else 2
    s.reasoning.append((f"From {names[0]} to {names[-1]} the value {opts[i]}.", f"From {names[0]} to {names[-1]} the value {m.other(opts, opts[i])}."))
    s.tags = [col]


def _hbars(m, c, ink, size, title, kind):
    r, s = m.r, m.s
    n, x0, x1 = r.randint(2, 5), 62, 186
    names = _names(m, n, 50)
    top = r.choice((20, 50, 100, 500))
    vals = [r.randint(1, top) for _ in range(n)]
    col = m.pick("bar", beside=n)
    h = 160 / n
    c.line((x0, 40, x0, 206), fill=ink)
    for i, (nm, v) in enumerate(zip(names, vals)):
        y = 44 + h * (i + .5)
        x = x0 + 1 + (x1 - x0) * v / top
        c.rectangle((x0 + 1, y - h * .3, x, y + h * .3), fill=COLORS[col])
        c.text((x0 - 4, y), nm, size, ink, anchor="rm")
        c.text((x + 4, y), str(v), size, ink, anchor="lm")
    s.overview = f'A horizontal bar chart titled "{title}" with {n} {col} bars.'
    _value_facts(m, names, vals, True, top)
    s.ocr = "\n".join([title] + [f"{a} {b}" for a, b in zip(names, vals)])
    s.tags = [col]


def _value_facts(m, names, vals, printed, top):
    r, s = m.r, m.s
    for nm, v in zip(names, vals):
        if printed:
            wrong = m.near(v, 1, top + 3) if r.random() < .5 or len(str(v)) < 2 else int(m.twin(str(v)).replace(" ", "") or 0)
            s.add("value", f"{nm} is {v}.", f"{nm} is {wrong if wrong != v else v + 1}.")
        else:
            s.add("value_axis", f"{nm} is {v}.", f"{nm} is {m.other((5, 10, 15, 20), v)}.")
        s.qa.append((f"What is the value of {nm}?", str(v)))
    s.table = (["label", "value"], [[nm, str(v)] for nm, v in zip(names, vals)])
    _extremes(m, names, vals)


def geometry(m, c, ink):
    r, s = m.r, m.s
    shape = r.choice(("triangle", "triangle", "rectangle", "circle"))
    col = r.choice(DARK)
    size = r.choice((13, 14, 15))
    if shape == "circle":
        _circle(m, c, ink, col, size)
    else:
        _polygon(m, c, ink, col, size, shape)
    s.short = s.overview
    s.tags = ["geometry", shape, col]
    m.done(c)


def _circle(m, c, ink, col, size):
    r, s = m.r, m.s
    rad, x, y = r.randint(48, 74), r.randint(90, 134), r.randint(96, 124)
    o, v = r.choice("OCMPQS"), r.randint(2, 99)
    c.ellipse((x - rad, y - rad, x + rad, y + rad), outline=COLORS[col], width=2)
    c.ellipse((x - 2, y - 2, x + 2, y + 2), fill=ink)
    c.line((x, y, x + rad, y), fill=ink)
    c.text((x - 6, y + 10), o, size, ink, anchor="mm")
    t = c.text((x + rad / 2, y - 10), f"r = {v}", size, ink, anchor="mm")
    s.overview = f"A geometry figure of a {col} circle." if col != "orange" else "A geometry figure of an orange circle."
    s.add("text", f"The center is {o}.", f"The center is {m.other('OCMPQS', o)}.")
    s.add("value", f"The radius is {v}.", f"The radius is {m.near(v, 1, 102)}.")
    s.ocr = f"{t}\n{o}"
    s.qa = [("What is the radius?", str(v)), ("Which point is the center?", o)]
    s.reasoning = [(f"The diameter is twice {v}.", f"The diameter is twice {m.near(v, 1, 102)}.")]


def _polygon(m, c, ink, col, size, shape):
    r, s = m.r, m.s
    names = "".join(sorted(r.sample("ABCDEFGHKLMNPQRSTXYZ", 3 if shape == "triangle" else 4)))
    right = shape == "triangle" and r.random() < .4
    if right:
        pts = [(44, r.randint(40, 70)), (44, 180), (r.randint(130, 190), 180)]
    elif shape == "triangle":
        pts = [(r.randint(70, 150), r.randint(36, 60)), (r.randint(26, 50), r.randint(160, 185)), (r.randint(165, 196), r.randint(160, 185))]
    else:
        a, b, w, h = r.randint(32, 46), r.randint(45, 80), r.randint(110, 136), r.randint(60, 100)
        pts = [(a, b), (a, b + h), (a + w, b + h), (a + w, b)]
    n = len(pts)
    c.polygon([q for p in pts for q in p], outline=COLORS[col], width=2)
    cx, cy = sum(p[0] for p in pts) / n, sum(p[1] for p in pts) / n
    for p, ch in zip(pts, names):
        k = 13 / max(1, math.hypot(p[0] - cx, p[1] - cy))
        c.text((p[0] + (p[0] - cx) * k, p[1] + (p[1] - cy) * k), ch, size, ink, anchor="mm")
    vals = [r.randint(2, 40) for _ in range(n)]
    if n == 4:
        vals[2:] = vals[:2]
    sides = n if n == 3 else 2
    s.overview = f"A geometry figure of a {col} {shape} {names}."
    for i in range(sides):
        p, q = pts[i], pts[(i + 1) % n]
        mx, my = (p[0] + q[0]) / 2, (p[1] + q[1]) / 2
        k = 15 / max(1, math.hypot(mx - cx, my - cy))
        c.text((mx + (mx - cx) * k, my + (my - cy) * k), str(vals[i]), size, ink, anchor="mm")
        side = names[i] + names[(i + 1) % n]
        s.add("value", f"Side {side} is {vals[i]}.", f"Side {side} is {m.near(vals[i], 1, 44)}.")
        s.qa.append((f"How long is side {side}?", str(vals[i])))
    if right:
        c.line((44, 170, 54, 170), fill=ink)
        c.line((54, 170, 54, 180), fill=ink)
        s.add("relation", f"The angle at {names[1]} is a right angle.", f"The angle at {m.other(names, names[1])} is a right angle.")
    got = vals[:sides]
    s.ocr = " ".join(names) + "\n" + " ".join(map(str, got))
    if got.count(max(got)) == 1:
        i = got.index(max(got))
        side = names[i] + names[(i + 1) % n]
        j = (i + 1) % sides
        s.add("relation", f"The longest labeled side is {side}.", f"The longest labeled side is {names[j] + names[(j + 1) % n]}.")
    if n == 3:
        yes, no = "The figure is a right triangle because a right angle is marked.", "No right angle is marked."
        s.reasoning.append((yes, no) if right else (no, yes))
    else:
        s.reasoning.append(("Opposite sides are equally long because it is a rectangle.", "All four sides are equally long."))
