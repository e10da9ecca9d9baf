"""Outdoor scenes, microscope images, abstract patterns and short videos."""
import math

from PIL import Image

import places
from canvas import COLORS, UNIT
from places import PLACE, Shape
from words import VIVID, article, rng
from world import there

SKY = {"clear blue": (120, 180, 245), "orange at sunset": (250, 165, 95), "dark at night": (20, 25, 60), "gray and overcast": (165, 170, 178)}
GROUND = {"green grass": (90, 165, 75), "yellow sand": (228, 200, 125), "white snow": (240, 244, 248), "gray pavement": (120, 120, 125)}
TIME = {"clear blue": "in daylight", "orange at sunset": "at sunset", "dark at night": "at night", "gray and overcast": "on an overcast day"}
MANY = {"tree": "trees", "person": "people", "dog": "dogs", "cow": "cows"}


def third(c, x):
    """Which third of the whole picture a content coordinate lies in."""
    at = (x + c.ox) / c.width
    return "left" if at < 1 / 3 else "middle" if at < 2 / 3 else "right"


def natural(m):
    r, s = m.r, m.s
    sky = r.choice(list(SKY))
    ground = m.pick("ground", list(GROUND), beside=sky)
    outline = (60, 60, 60) if r.random() < .6 else None
    c = m.canvas(m.jitter(SKY[sky], 8))
    hy = r.randint(126, 142)
    x0, _, x1, y1 = c.all()
    c.rectangle((x0, hy, x1, y1), fill=m.jitter(GROUND[ground], 8))
    s.add("color", f"The sky is {sky}.", f"The sky is {m.other(list(SKY), sky)}.")
    s.add("color", f"The ground is {ground}.", f"The ground is {m.other(list(GROUND), ground)}.")
    body, side = ("moon" if "night" in sky else "sun"), None
    if "overcast" not in sky and r.random() < .75:
        side = r.choice(("left", "right"))
        x = _celestial(c, r, body, side)
        half, rest = ("left", "right") if (x + c.ox) / c.width < .5 else ("right", "left")
        s.add("pos", f"The {body} is at the upper {half}.", f"The {body} is at the upper {rest}.")
        s.qa.append((f"Is the {body} on the left or right?", half))
    clouds, birds, draw_air = _air(m, c, sky, side)
    free = set(range(7))
    house = _house(m, c, hy, free, outline, ground) if r.random() < .5 else None
    car = _car(m, c, hy, free, outline, sky) if r.random() < .38 else None
    counts, shirts = _ground_life(m, c, hy, sorted(free), ground)
    draw_air()  # last, so that no roof or tree hides what is counted
    _natural_facts(m, house, car, counts, shirts)
    s.qa.append(("How many clouds are there?", str(clouds)))
    s.qa.append(("How many birds are there?", str(birds)))
    s.overview = "A drawn outdoor scene."
    main = max(counts, key=counts.get)
    n = counts[main]
    s.short = f"An outdoor scene {TIME[sky]} with {ground}" + (f" and {n} {main if n == 1 else MANY[main]}." if n else ".")
    s.tags = ["outdoor scene", sky.split()[-1] if sky != "gray and overcast" else "overcast", ground] + [
        w for w, on in (("house", house), ("car", car)) if on] + [MANY[k] for k in counts if counts[k]]
    when = {"clear blue": "It is daytime", "orange at sunset": "It is evening", "dark at night": "It is night", "gray and overcast": "It may rain"}
    s.reasoning.append((f"{when[sky]} because the sky is {sky}.", f"{when[m.other(list(when), sky)]} because of the sky."))
    a, b = counts["tree"], counts["person"]
    opts = ["There are more trees than people.", "There are more people than trees.", "There are as many trees as people."]
    i = 0 if a > b else 1 if b > a else 2
    s.reasoning.append((opts[i], m.other(opts, opts[i])))
    m.done(c)


def _celestial(c, r, body, side):
    x, y, q = (r.randint(22, 60) if side == "left" else r.randint(164, 202)), r.randint(20, 34), r.randint(11, 15)
    c.ellipse((x - q, y - q, x + q, y + q), fill=(250, 225, 60) if body == "sun" else (235, 235, 220))
    if body == "sun":
        for k in range(8):
            a = k * math.pi / 4
            c.line((x + math.cos(a) * (q + 2), y + math.sin(a) * (q + 2), x + math.cos(a) * (q + 6), y + math.sin(a) * (q + 6)), fill=(250, 225, 60), width=2)
    return x


def _air(m, c, sky, side):
    r, s = m.r, m.s
    slots = [(28, 58), (74, 62), (118, 30), (118, 66), (160, 60), (198, 70), (74, 96), (160, 98), (28, 98)]
    slots = [p for p in slots if side is None or not ((p[0] < 90) == (side == "left") and p[1] < 50)]
    r.shuffle(slots)
    clouds, birds = r.choice((0, 0, 1, 2, 3)), r.choice((0, 0, 0, 1, 2, 3))
    white = [(*slots.pop(), m.jitter((225, 228, 232) if "overcast" not in sky else (110, 114, 122), 6)) for _ in range(clouds)]
    wings = [slots.pop() for _ in range(birds)]
    ink = (20, 20, 25) if "night" not in sky else (230, 230, 230)

    def draw():
        for x, y, k in white:
            for box in ((x - 16, y - 5, x + 4, y + 7), (x - 8, y - 11, x + 9, y + 7), (x - 1, y - 6, x + 17, y + 7)):
                c.ellipse(box, fill=k)
        for x, y in wings:
            c.line((x - 8, y - 5, x, y), fill=ink, width=2)
            c.line((x, y, x + 8, y - 5), fill=ink, width=2)
    if clouds:
        m.count(clouds, "cloud", hi=4)
    if birds:
        m.count(birds, "bird", hi=4)
    return clouds, birds, draw


def _house(m, c, hy, free, outline, ground):
    i = m.r.randint(0, 5)
    free -= {i, i + 1}
    wall = m.pick("house", beside=ground)
    roof = m.pick("roof", ["brown", "red", "black", "gray"], beside=wall)
    x, b = 33 + 31 * i, hy + 24
    c.rectangle((x - 24, b - 42, x + 24, b), fill=m.jitter(wall), outline=outline)
    if m.r.random() < .7:
        c.polygon((x - 29, b - 42, x + 29, b - 42, x, b - 66), fill=m.jitter(roof), outline=outline)
    else:
        c.polygon((x - 29, b - 42, x + 29, b - 42, x + 18, b - 60, x - 18, b - 60), fill=m.jitter(roof), outline=outline)
    c.rectangle((x - 6, b - 20, x + 6, b), fill=(90, 60, 40))
    if m.r.random() < .5:
        c.rectangle((x + 10, b - 34, x + 19, b - 25), fill=(190, 220, 240), outline=outline)
    return wall, roof, third(c, x), x


def _car(m, c, hy, free, outline, sky):
    options = [i for i in range(6) if i in free and i + 1 in free]
    if not options:
        return None
    i = m.r.choice(options)
    free -= {i, i + 1}
    color = m.pick("car", VIVID + ["white", "black"], beside=sky)
    x, b = 33 + 31 * i, hy + m.r.randint(36, 56)
    fill = m.jitter(color)
    c.rectangle((x - 25, b - 16, x + 25, b - 4), fill=fill, outline=outline)
    if m.r.random() < .5:
        c.polygon((x - 15, b - 16, x - 9, b - 27, x + 9, b - 27, x + 15, b - 16), fill=fill, outline=outline)
    else:
        c.rectangle((x - 16, b - 27, x + 12, b - 16), fill=fill, outline=outline)
    for q in (-14, 14):
        c.ellipse((x + q - 6, b - 8, x + q + 6, b + 4), fill=(20, 20, 20))
    return color, third(c, x), x


def _ground_life(m, c, hy, free, ground):
    r = m.r
    counts, shirts = {"tree": 0, "person": 0, "dog": 0, "cow": 0}, []
    kinds = [(i, r.choice(("tree", "tree", "person", "person", "dog", "cow"))) for i in free if r.random() < .62]
    for i, k in kinds:
        x, b = 18 + 31 * i + r.randint(-3, 3), hy + r.randint(20, 68)
        counts[k] += 1
        if k == "tree":
            c.rectangle((x - 3, b - 16, x + 3, b), fill=(105, 70, 40))
            g = m.jitter((30, 120, 50), 12)
            style = r.random()
            if style < .45:
                c.ellipse((x - 13, b - 46, x + 13, b - 14), fill=g)
            elif style < .8:
                c.polygon((x - 13, b - 14, x + 13, b - 14, x, b - 50), fill=g)
            else:
                c.polygon((x - 13, b - 14, x + 13, b - 14, x, b - 36), fill=g)
                c.polygon((x - 11, b - 27, x + 11, b - 27, x, b - 50), fill=g)
        elif k == "person":
            shirt = m.pick("shirt", beside=ground)
            shirts.append(shirt)
            _person(c, m, x, b, shirt)
        else:
            _animal(c, m, x, b, k == "cow")
    return counts, shirts


def _person(c, m, x, b, shirt):
    skin, ink = m.r.choice(((235, 190, 150), (200, 150, 110), (140, 95, 65))), (60, 40, 30)
    c.ellipse((x - 5, b - 42, x + 5, b - 32), fill=skin, outline=ink)
    c.rectangle((x - 6, b - 32, x + 6, b - 14), fill=m.jitter(shirt))
    c.line((x - 6, b - 29, x - 12, b - 18), fill=ink, width=2)
    c.line((x + 6, b - 29, x + 12, b - 18), fill=ink, width=2)
    c.line((x - 3, b - 14, x - 5, b), fill=(40, 40, 60), width=3)
    c.line((x + 3, b - 14, x + 5, b), fill=(40, 40, 60), width=3)


def _animal(c, m, x, b, big):
    w, h = (12, 11) if big else (9, 6)
    k = m.jitter((70, 50, 45) if big else (190, 130, 60), 8)
    c.rectangle((x - w, b - h - 7, x + w, b - 7), fill=k)
    for q in (-w + 1, -w + 5, w - 5, w - 1):
        c.line((x + q, b - 7, x + q, b), fill=k, width=2)
    c.rectangle((x + w - 2, b - h - 14, x + w + 6, b - h - 5), fill=k)
    if big:
        c.ellipse((x - 7, b - h - 4, x - 1, b - 9), fill=(240, 240, 240))
        c.ellipse((x + 2, b - h - 5, x + 7, b - 11), fill=(240, 240, 240))
    else:
        c.line((x - w, b - h - 6, x - w - 5, b - h - 12), fill=k, width=2)


def _natural_facts(m, house, car, counts, shirts):
    r, s = m.r, m.s
    if house:
        wall, roof, p, _ = house
        say = lambda w, q: f"{article(w).capitalize()} {w} house with a {roof} roof is {PLACE[q]}."
        s.add("color", say(wall, p), r.choice((say(m.other(VIVID, wall), p), say(wall, m.other(list(PLACE), p)))))
        s.qa.append(("What color are the walls of the house?", wall))
    if car:
        color, p, _ = car
        say = lambda w, q: f"{article(w).capitalize()} {w} car is {PLACE[q]}."
        s.add("color", say(color, p), r.choice((say(m.other(VIVID, color), p), say(color, m.other(list(PLACE), p)))))
        s.qa.append(("What color is the car?", color))
    if house and car:
        a, b = ("left", "right") if car[2] < house[3] else ("right", "left")
        s.add("relation", f"The car is {a} of the house.", f"The car is {b} of the house.")
    for k, many in MANY.items():
        if counts[k]:
            m.count(counts[k], k, many, hi=7)
        s.qa.append((f"How many {many} are there?", str(counts[k])))
    if shirts:
        alt = list(shirts)
        j = r.randrange(len(alt))
        alt[j] = m.other(VIVID, alt[j])
        g = "The shirt color is {}." if len(shirts) == 1 else "The shirt colors from left to right are {}."
        s.add("color", g.format(", ".join(shirts)), g.format(", ".join(alt)))


CELLS = ["purple", "red", "green", "blue"]


def microscope(m):
    r, s = m.r, m.s
    backs = {"pink": (246, 215, 225), "pale yellow": (248, 242, 205), "pale blue": (214, 230, 246)}
    bg = r.choice(list(backs))
    c = m.canvas((12, 12, 14))
    if r.random() < .75:
        c.ellipse((4, 4, UNIT - 5, UNIT - 5), fill=m.jitter(backs[bg], 5))
    else:
        c.rectangle((2, 2, UNIT - 3, UNIT - 3), fill=m.jitter(backs[bg], 5))
    cells = [(40 + 36 * i, 40 + 36 * j) for i in range(5) for j in range(5) if (i, j) not in ((0, 0), (4, 0), (0, 4), (4, 4))]
    r.shuffle(cells)
    n, rods = r.randint(1, 9), r.choice((0, 0, 1, 2, 3, 4, 5))
    c1 = m.pick("round cell", CELLS, beside=bg)
    c2 = m.other(CELLS, c1)
    for _ in range(n):
        x, y = cells.pop()
        x, y, q = x + r.randint(-4, 4), y + r.randint(-4, 4), r.randint(10, 13)
        c.ellipse((x - q, y - q, x + q, y + q), fill=tuple((v + 255) // 2 for v in COLORS[c1]), outline=COLORS[c1])
        c.ellipse((x - 4, y - 4, x + 4, y + 4), fill=tuple(v // 2 for v in COLORS[c1]))
    for _ in range(rods):
        x, y = cells.pop()
        a = r.random() * math.pi
        dx, dy = math.cos(a) * 11, math.sin(a) * 11
        c.line((x - dx, y - dy, x + dx, y + dy), fill=COLORS[c2], width=5)
    um = r.choice((1, 2, 5, 10, 20, 25, 50, 100, 200, 500))
    t = f"{um} um"
    c.rectangle((80, 201, 144, 221), fill=(12, 12, 14))
    c.line((84, 203, 140, 203), fill=(255, 255, 255), width=2)
    c.text((112, 212), t, 13, (255, 255, 255), anchor="mm")
    s.overview = f"A microscope image with a {bg} background."
    false = there(m.near(n, 1, 10), f"round {c1} cell") if r.random() < .7 else there(n, f"round {m.other(CELLS, c1)} cell")
    s.add("count", there(n, f"round {c1} cell"), false)
    if rods:
        m.count(rods, f"rod-shaped {c2} cell", hi=6)
    else:
        s.add("count", "There are no rod-shaped cells.", there(r.randint(1, 3), f"rod-shaped {c2} cell"))
    s.add("text", f'The scale bar reads "{t}".', f'The scale bar reads "{m.other((5, 10, 20, 50, 100), um)} um".')
    s.ocr = t
    s.short = f"A microscope image with {n + rods} cell{'s' if n + rods > 1 else ''}."
    s.tags = ["microscope image", f"{c1} cells", f"{bg} background", "scale bar"] + ([f"{c2} rods"] if rods else [])
    opts = ["Round cells outnumber rod-shaped cells.", "Rod-shaped cells outnumber round cells.", "Round and rod-shaped cells are equally many."]
    i = 0 if n > rods else 1 if rods > n else 2
    tot = n + rods
    s.reasoning = [(opts[i], m.other(opts, opts[i])), (f"In total there {'is 1 cell' if tot == 1 else f'are {tot} cells'}.", f"In total there are {m.near(tot, 2, 20)} cells.")]
    s.qa = [("How many round cells are there?", str(n)), ("How many rod-shaped cells are there?", str(rods)), ("What does the scale bar read?", t), ("What color are the round cells?", c1)]
    m.done(c)


SHARE = .3  # of plain shapes among the abstract pictures


def of_shapes(seed):
    """Says whether the abstract picture of a seed shows plain shapes."""
    return rng(seed, "shapes").random() < SHARE


def pattern(m):
    r, s = m.r, m.s
    if of_shapes(s.seed):
        return shapes(m)
    kind = r.choice(("gradient", "stripes", "checker", "rings", "dots"))
    a = r.choice(VIVID + ["black", "white"])
    b = m.pick(kind, [x for x in VIVID + ["black", "white"] if x != a], beside=a)
    c = m.canvas(COLORS[a])
    {"gradient": _gradient, "stripes": _stripes, "checker": _checker, "rings": _rings, "dots": _dots}[kind](m, c, a, b)
    s.short = s.overview[:-1] + f" in {a} and {b}."
    s.tags = ["abstract", kind, a, b]
    s.reasoning = [("The image is generated and shows no real object.", "The image shows a real place.")]
    m.done(c)


def _gradient(m, c, a, b):
    r, s, hor = m.r, m.s, m.r.random() < .5
    g = Image.linear_gradient("L").resize(c.im.size)
    if hor:
        g = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90).resize(c.im.size)
    c.im = Image.composite(Image.new("RGB", c.im.size, COLORS[b]), Image.new("RGB", c.im.size, COLORS[a]), g)
    say = lambda p, q: f"The color changes from {p} {'on the left' if hor else 'at the top'} to {q} {'on the right' if hor else 'at the bottom'}."
    s.add("color", say(a, b), r.choice((say(b, a), say(a, m.other(VIVID, b)))) if a != b else say(b, a))
    s.overview = "An abstract smooth color gradient."
    s.qa = [("Which color is " + ("on the left?" if hor else "at the top?"), a)]


def _stripes(m, c, a, b):
    r, s, hor = m.r, m.s, m.r.random() < .5
    n = r.randint(2, 8)
    x0, y0, x1, y1 = c.all()
    w = (c.height if hor else c.width) / (2 * n)
    for i in range(n):
        lo, hi = (2 * i + .5) * w, (2 * i + 1.5) * w
        c.rectangle((x0, y0 + lo, x1, y0 + hi) if hor else (x0 + lo, y0, x0 + hi, y1), fill=COLORS[b])
    o = ("horizontal", "vertical")
    s.overview = "An abstract stripe pattern."
    say = lambda k, d: f"There are {k} {d} {b} stripes on {a}."
    s.add("count", say(n, o[not hor]), r.choice((say(m.near(n, 2, 9), o[not hor]), say(n, o[hor]))))
    s.qa = [("How many stripes are there?", str(n)), ("Are the stripes horizontal or vertical?", o[not hor])]


def _checker(m, c, a, b):
    s, n = m.s, m.r.randint(2, 7)
    x0, y0, _, _ = c.all()
    w, h = c.width / n, c.height / n
    for i in range(n):
        for j in range(n):
            if (i + j) % 2:
                c.rectangle((x0 + i * w, y0 + j * h, x0 + (i + 1) * w, y0 + (j + 1) * h), fill=COLORS[b])
    k = m.near(n, 2, 8)
    s.overview = "An abstract checkerboard."
    s.add("count", f"It has {n} by {n} squares.", f"It has {k} by {k} squares.")
    say = lambda p, q: f"The top left square is {p} and the others alternate with {q}."
    s.add("color", say(a, b), say(b, a))
    s.qa = [("How many squares are in one row?", str(n)), ("What color is the top left square?", a)]


def _rings(m, c, a, b):
    s, n = m.s, m.r.randint(1, 6)
    w = 104 / (2 * n)
    for i in range(n):
        q, p = 104 - 2 * i * w, 104 - (2 * i + 1) * w
        c.ellipse((112 - q, 112 - q, 112 + q, 112 + q), fill=COLORS[b])
        c.ellipse((112 - p, 112 - p, 112 + p, 112 + p), fill=COLORS[a])
    s.overview = "An abstract pattern of concentric rings."
    say = lambda k: f"{'There is 1' if k == 1 else f'There are {k}'} {b} ring{'s' if k > 1 else ''} on {a}."
    s.add("count", say(n), say(m.near(n, 1, 8)))
    s.qa = [("How many rings are there?", str(n))]


def _dots(m, c, a, b):
    r, s = m.r, m.s
    n, k, q = r.randint(1, 6), r.randint(1, 6), r.randint(9, 14)
    square = r.random() < .3
    for i in range(n):
        for j in range(k):
            x, y = UNIT * (j + .5) / k, UNIT * (i + .5) / n
            (c.rectangle if square else c.ellipse)((x - q, y - q, x + q, y + q), fill=COLORS[b])
    what = "squares" if square else "dots"
    s.overview = f"An abstract pattern of {what}."
    say = lambda p, t: f"There {'is 1 row' if p == 1 else f'are {p} rows'} and {t} column{'s' if t > 1 else ''} of {b} {what} on {a}."
    s.add("count", say(n, k), r.choice((say(m.near(n, 1, 7), k), say(n, m.near(k, 1, 7)))))
    s.qa = [(f"How many rows of {what} are there?", str(n)), (f"What color are the {what}?", b)]


SHAPES = "A drawing of plain shapes."  # the overview of every one
FORMS = {"circle": "circles", "square": "squares", "rectangle": "rectangles", "triangle": "triangles"}
GROUNDS = ["white", "black", "gray", *VIVID] + [f"light {k}" for k in ("red", "green", "blue", "yellow", "purple", "gray")]


def shapes(m):
    """At most four plain shapes on plain ground, as any drawing program leaves them.

    The facts list them as one reads, row by row from left to right: their order is seen in the picture.
    """
    r, s = m.r, m.s
    back = r.choice(GROUNDS)
    pale = r.uniform(.5, .8) if back.startswith("light ") else 0
    ground = m.jitter(tuple(round(v + (255 - v) * pale) for v in COLORS[back.split()[-1]]), 10 if pale else 6)
    c = m.canvas(ground)
    far = lambda color: sum(abs(a - b) for a, b in zip(COLORS[color], ground)) > 150
    colors = [k for k in (*VIVID, "black", "white") if far(k)]
    n = r.choice((0, 1, 1, 1, 2, 2, 3, 4))
    cells = r.sample([(i, j) for i in range(3) for j in range(3)], n)
    outline = r.random() < .3
    drawn = []
    for i, j in cells:
        form, color = r.choice(list(FORMS)), m.pick("shape", colors, beside=back)
        big = 1 if n > 1 else r.uniform(1, 2)  # a shape alone may be larger
        x, y = 37 + 75 * i + r.randint(-6, 6), 37 + 75 * j + r.randint(-6, 6)
        x, y = _shape(m, c, form, x, y, r.uniform(13, 29) * big, m.jitter(color, 6), outline)
        drawn.append(((j, i), color, form, x, y))
    groups = {}
    for _, color, form, x, y in sorted(drawn):
        s.shapes.append(Shape(f"{color} {form}", x, y, third(c, x)))
        groups[color, form] = groups.get((color, form), 0) + 1
    s.overview = SHAPES
    s.add("color", f"The background is {back}.", f"The background is {m.other(GROUNDS, back)}.")
    for (color, form), k in groups.items():
        say = lambda k, color, form: there(k, f"{color} {form}", f"{color} {FORMS[form]}")
        others = [(x, form) for x in colors if (x, form) not in groups] + [(color, x) for x in FORMS if (color, x) not in groups]
        s.add("count", say(k, color, form), say(m.near(k, 1, 5), color, form) if r.random() < .33 else say(k, *r.choice(others)))
    _places(m)
    if not n:
        s.add("count", "There are no shapes.", there(1, f"{r.choice(colors)} {r.choice(list(FORMS))}"))
    s.short = s.overview[:-1] + f" on {back}."
    s.tags = ["abstract", "shapes", f"{back} background"] + [f"{color} {form}" for color, form in groups]
    s.reasoning = [("The image is generated and shows no real object.", "The image shows a real place.")]
    s.qa = [("How many shapes are there?", str(n)), ("What color is the background?", back)] + [(f"How many {color} {FORMS[form]} are there?", str(k)) for (color, form), k in groups.items()]
    m.done(c)


def _shape(m, c, form, x, y, q, fill, outline):
    """Draws a shape near x, y and returns where its middle came to lie."""
    ink = (30, 30, 30) if outline else None
    x, y = min(max(x, q + 3), UNIT - q - 3), min(max(y, q + 3), UNIT - q - 3)
    if form == "circle":
        c.ellipse((x - q, y - q, x + q, y + q), fill=fill, outline=ink)
    elif form == "triangle":
        c.polygon((x - q, y + q * .9, x + q, y + q * .9, x, y - q * .9), fill=fill, outline=ink)
    elif form == "square":
        c.rectangle((x - q, y - q, x + q, y + q), fill=fill, outline=ink)
    else:
        w, h = m.r.choice(((1.15, .6), (.6, 1.15)))
        w, h = min(w * q, x - 2, UNIT - x - 2), min(h * q, y - 2, UNIT - y - 2)
        c.rectangle((x - w, y - h, x + w, y + h), fill=fill, outline=ink)
    return x, y


def _places(m):
    """Where a shape alone lies, or how the first two that are the only ones of their name lie to each other."""
    s, only = m.s, places.single(m.s.shapes)
    if len(s.shapes) == 1:
        name, p = only[0].name, only[0].third
        s.add("pos", f"The {name} is {PLACE[p]}.", f"The {name} is {PLACE[m.other(list(PLACE), p)]}.")
        s.qa.append((f"Where is the {name}?", PLACE[p]))
    elif len(only) > 1:
        a, b = only[:2]
        word = places.relation(a, b)
        # swapped names, not the opposite word: the word alone must not tell which of the two is true
        s.add("relation", f"The {a.name} is {word} the {b.name}.", f"The {b.name} is {word} the {a.name}.")


MOTION = {"right": "moves from left to right", "left": "moves from right to left", "up": "moves up", "down": "moves down", "none": "stays in place"}


def video(m, frames=None):
    r, s = m.r, m.s
    frames = frames or r.randint(2, 6)
    shape = r.choice(("circle", "square", "triangle"))
    back = r.choice(("white", "black", "gray"))
    color = m.pick(shape, beside=back)
    move = r.choice(list(MOTION))
    size = r.choice(("keeps its size", "grows", "shrinks")) if move == "none" else "keeps its size"
    change = r.randint(2, frames) if r.random() < (.4 if m.held else .6) else 0
    new = m.other(VIVID, color)
    x0, y0, amp = r.randint(80, 144), r.randint(80, 144), r.randint(52, 66)
    out = []
    for i in range(frames):
        t = i / (frames - 1) * 2 - 1
        x, y = x0, y0
        if move in ("right", "left"):
            x = 112 + t * amp * (1 if move == "right" else -1)
        elif move in ("up", "down"):
            y = 112 + t * amp * (1 if move == "down" else -1)
        q = 26 + t * 13 * {"k": 0, "g": 1, "s": -1}[size[0]]
        c = m.canvas(COLORS[back])
        fill = COLORS[new if change and i + 1 >= change else color]
        if shape == "circle":
            c.ellipse((x - q, y - q, x + q, y + q), fill=fill)
        elif shape == "square":
            c.rectangle((x - q, y - q, x + q, y + q), fill=fill)
        else:
            c.polygon((x - q, y + q, x + q, y + q, x, y - q), fill=fill)
        out.append(c)
    act = MOTION[move] if size[0] == "k" else f"stays in place and {size}"
    acts = list(MOTION.values()) + ["stays in place and grows", "stays in place and shrinks"]
    s.overview = f"A video of {frames} frames."
    s.add("color", f"The background is {back}.", f"The background is {m.other(('white', 'black', 'gray'), back)}.")
    head = f"{article(color).capitalize()} {color} {shape} "
    s.add("motion", head + act + ".", head + m.other(acts, act) + ".")
    same = "Its color stays the same."
    if change:
        s.add("event", f"Its color changes to {new} in frame {change}.",
              same if r.random() < .4 else f"Its color changes to {m.other(VIVID, new)} in frame {change}." if r.random() < .5 or frames == 2
              else f"Its color changes to {new} in frame {m.other(range(2, frames + 1), change)}.")
    else:
        s.add("event", same, f"Its color changes to {new} in frame {r.randint(2, frames)}.")
    s.short = head + act + "."
    s.tags = ["video", shape, color, f"{back} background"]
    ends = {"right": "on the right", "left": "on the left", "up": "at the top", "down": "at the bottom", "none": "where it started"}
    s.reasoning = [(f"The shape ends {ends[move]}.", f"The shape ends {ends[m.other(list(ends), move)]}.")]
    s.qa = [("What shape is shown?", shape), ("How does the shape move?", act), ("What color is the shape in the last frame?", new if change else color), ("How many frames are there?", str(frames))]
    k = rng(s.seed, "frame").randint(1, frames)
    s.qa.append((f"What color is the shape in frame {k}?", new if change and k >= change else color))
    m.done(*out)
