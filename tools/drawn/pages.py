"""Documents, posters, plain lines of text, user interfaces and source code."""
from canvas import COLORS, UNIT
from words import MONTHS, VIVID, WEEKDAYS, listed, number, random_word


def document(m):
    k = m.r.random()
    if k < (.2 if m.held else .12):  # training sees more of what is dense
        poster(m)
    elif k < (.45 if m.held else .42):
        note(m)
    else:
        page(m)


def poster(m):
    r, s = m.r, m.s
    col = r.choice(VIVID)
    c = m.canvas(m.jitter(col, 6))
    ink = (15, 15, 15) if col in ("yellow", "cyan", "pink", "orange") else (255, 255, 255)
    if r.random() < .7:
        c.rectangle((8, 8, UNIT - 9, UNIT - 9), outline=ink, width=2)
    head = [m.word(longest=9)]
    if not hasattr(head[0], "shown"):
        head = [head[0].upper()]
    below = m.words(2, longest=8, width=16)
    date = f"{r.choice(WEEKDAYS)} {r.randint(1, 30)} {r.choice(MONTHS)}"
    lines = [c.text((UNIT / 2, y), t, z, ink, bold=True, anchor="mm", r=r) for t, y, z in zip((head, below, date), (50, 105, 150), (r.choice((20, 22, 24)), 16, 15))]
    s.overview = f"A poster on {'an orange' if col == 'orange' else 'a ' + col} background."
    s.add("text", f'The headline reads "{lines[0]}".', f'The headline reads "{m.twin(lines[0])}".')
    s.add("text", f'Below it reads "{lines[1]}".', f'Below it reads "{m.twin(lines[1])}".')
    s.add("text", f'The date is "{date}".', f'The date is "{m.twin(date)}".')
    s.ocr = "\n".join(lines)
    s.short = f'{"An" if col == "orange" else "A"} {col} poster with the headline "{lines[0]}".'
    s.tags = ["poster", col, lines[0].lower()]
    s.reasoning = [(f"The poster announces an event on {date}.", "The poster shows a price.")]
    s.qa = [("What is the headline?", lines[0]), ("What is the date?", date), ("What color is the background?", col)]
    m.done(c)


def note(m):
    """A few lines of text at one size, anywhere on the page: reading practice, with random strings."""
    r, s = m.r, m.s
    dark = r.random() < .3
    c = m.canvas(m.jitter((30, 32, 40) if dark else r.choice(((255, 255, 255), (252, 250, 242), (255, 246, 190), (225, 240, 255))), 4), mono=r.random() < .25)
    ink = m.jitter((235, 235, 235) if dark else (20, 20, 25), 15)
    size = r.choice((12, 13, 13, 14, 15, 16, 18, 22))
    gap = size * r.uniform(1.25, 1.8)
    room = int(196 / (size * .62))
    most = max(1, min(7, int(200 / gap)))
    n = r.randint(1, most) if m.held else max(r.randint(1, most), r.randint(1, most))
    x, y = r.uniform(8, 20), r.uniform(8, max(9, 214 - gap * n))
    lines = []
    for _ in range(n):
        ws = [number(r) if r.random() < .15 else m.word() for _ in range(r.randint(1, 4))]
        while len(ws) > 1 and sum(len(getattr(w, "shown", w)) + 1 for w in ws) > room:
            ws.pop()
        lines.append(c.text((x, y), ws, size, ink, bold=r.random() < .15, r=r))
        y += gap
    s.overview = f"A note with {n} line{'s' if n > 1 else ''} of text."
    for i, t in enumerate(lines[:4]):
        s.add("text", f'Line {i + 1} reads "{t}".', f'Line {i + 1} reads "{m.twin(t)}".')
        s.qa.append((f"What does line {i + 1} say?", t))
    s.ocr = "\n".join(lines)
    s.short = s.overview
    s.tags = ["note", "text"]
    s.reasoning = [("The note has text only.", "The note contains a table.")]
    m.done(c)


def page(m):
    r, s = m.r, m.s
    c = m.canvas(r.choice(((255, 255, 255), (252, 250, 242), (244, 246, 250))))
    ink, size = (20, 20, 25), r.choice((12, 13, 13, 14))
    title = c.text((12, 9), [w if hasattr(w, "shown") else w.capitalize() for w in m.words(r.choice((1, 2)), width=17)], r.choice((15, 16, 18)), ink, bold=True, r=r)
    if r.random() < .4:
        c.line((12, 31, UNIT - 12, 31), fill=COLORS[r.choice(VIVID)], width=2)
    n = r.randint(1, 3)
    y, lines = 37, []
    for _ in range(n):
        lines.append(c.text((12, y), m.words(r.choice((2, 3, 4)), width=23), size, ink, r=r))
        y += size * 1.4
    s.overview = f'A document page titled "{title}".'
    s.add("count", f"It has {n} line{'s' if n > 1 else ''} of text.", f"It has {m.near(n, 2, 5)} lines of text.")
    first = " ".join(lines[0].split()[:2])
    s.add("text", f'The text begins "{first}".', f'The text begins "{m.twin(first)}".')
    rows = _table(m, c, ink, size, y + 8) if r.random() < (.75 if m.held else .85) else []
    yes, no = "The page combines text and a table.", "The page has text only."
    s.reasoning.append((yes, no) if rows else (no, yes))
    s.qa.append(("What is the title?", title))
    s.ocr = "\n".join([title] + lines + [" ".join(x) for x in rows])
    s.short = f'A page titled "{title}" with {n} line{"s" if n > 1 else ""} of text' + (" and a table." if rows else ".")
    s.tags = ["document", title.lower()] + (["table"] if rows else [])
    m.done(c)


def _table(m, c, ink, size, y):
    r, s = m.r, m.s
    cols, n, h = r.choice((2, 3)), r.randint(1, 3) if m.held else r.choice((1, 2, 3, 3)), 20
    head = []
    while len(head) < cols:
        w = m.word(longest=6, plain=True).capitalize()
        if w not in head:
            head.append(w)
    keys = []
    while len(keys) < n:
        w = m.word("names", 6, plain=True).capitalize()
        if w not in keys:
            keys.append(w)
    rows = [head] + [[k] + [number(r, 2 if cols == 3 else 3) for _ in range(cols - 1)] for k in keys]
    w = (UNIT - 24) / cols
    c.rectangle((12, y, UNIT - 12, y + h), fill=r.choice(((225, 230, 240), (235, 235, 225), (255, 255, 255), (205, 225, 205))))
    for i, row in enumerate(rows):
        for j, t in enumerate(row):
            c.text((16 + j * w, y + i * h + h / 2), t, size, ink, bold=i == 0, anchor="lm")
        c.line((12, y + i * h, UNIT - 12, y + i * h), fill=(90, 90, 90))
    c.line((12, y + len(rows) * h, UNIT - 12, y + len(rows) * h), fill=(90, 90, 90))
    if r.random() < .7:
        for j in range(cols + 1):
            c.line((12 + j * w, y, 12 + j * w, y + len(rows) * h), fill=(90, 90, 90))
    say = lambda a, b: f"A table has {a} columns and {b} data row{'s' if b > 1 else ''}."
    s.add("count", say(cols, n), say(5 - cols, n) if r.random() < .5 else say(cols, m.near(n, 1, 4)))
    for row in rows[1:]:
        for hd, v in zip(head[1:], row[1:]):
            s.add("value", f"For {row[0]} the {hd} is {v}.", f"For {row[0]} the {hd} is {m.twin(v)}.")
            s.qa.append((f"What is the {hd} of {row[0]}?", v))
    s.table = (head, rows[1:])
    return rows


TITLES = "Settings Login Profile Export Import Search Print Network Account Backup Display Sound Update Options Editor Mail".split()
BUTTONS = "OK Cancel Save Apply Close Next Back Help Send Reset Delete Add".split()
CHECKS = "Sync,Wi-Fi,Alerts,Dark mode,Auto save,Show grid,Use proxy,Bluetooth,Private".split(",")
FIELDS = "Name Email City Phone User Path Host Port".split()
BAR = ("blue", "green", "purple", "red", "orange", "gray")


def interface(m):
    r, s = m.r, m.s
    dark = r.random() < .4
    back, panel, ink = ((60, 64, 72), (40, 43, 50), (230, 230, 235)) if dark else ((205, 212, 222), (246, 247, 249), (20, 20, 25))
    c = m.canvas(m.jitter(back, 6))
    col = m.pick("title bar", BAR, beside="dark" if dark else "light")
    size = r.choice((12, 13, 13))
    title = r.choice(TITLES) if r.random() < .6 else m.word(longest=9, plain=True).capitalize()
    c.rectangle((10, 12, UNIT - 11, UNIT - 14), fill=panel, outline=(90, 90, 95))
    c.rectangle((10, 12, UNIT - 11, 35), fill=COLORS[col])
    c.text((18, 24), title, size, (255, 255, 255), bold=True, anchor="lm")
    c.text((UNIT - 22, 24), "x", size, (255, 255, 255), anchor="mm")
    s.overview = f'A {"dark" if dark else "light"} user interface window titled "{title}".'
    s.add("color", f"The title bar is {col}.", f"The title bar is {m.other(BAR, col)}.")
    ocr, y = [title + " x"], 46
    for nm in r.sample(FIELDS, r.randint(0, 2)):
        ocr.append(_field(m, c, ink, size, nm, y))
        y += 29
    for nm in r.sample(CHECKS, r.randint(0 if m.held else 1, 3)):
        ocr.append(_check(m, c, ink, size, nm if r.random() < (.7 if m.held else .5) else m.word(longest=9, plain=True).capitalize(), y))
        y += 22
    ocr.append(_buttons(m, c, size, col))
    s.qa.append(("What is the window title?", title))
    s.ocr = "\n".join(ocr)
    n = len(ocr[-1].split())
    s.short = f'A "{title}" window with {n} button{"s" if n > 1 else ""}.'
    s.tags = ["user interface", title.lower(), "dark" if dark else "light", col]
    m.done(c)


def _field(m, c, ink, size, nm, y):
    r, s = m.r, m.s
    c.text((18, y + 11), nm, size, ink, anchor="lm")
    c.rectangle((68, y, UNIT - 20, y + 22), fill=(255, 255, 255), outline=(120, 120, 130))
    if r.random() < .13:
        s.add("text", f'The field "{nm}" is empty.', f'The field "{nm}" contains "{listed(r, "words", m.held)}".')
        s.qa.append((f'What is in the field "{nm}"?', "It is empty."))
        return nm
    w = str(r.randint(1, 99999)) if nm in ("Port", "Phone") else m.word(longest=10)
    if type(w) is str and r.random() < .3:
        w += str(r.randint(0, 99))
    if nm == "Email" and type(w) is str:
        w = (w[:6] + "@" + random_word(r, 2, 4)).lower()
    v = c.text((73, y + 11), [w], size, (20, 20, 20), anchor="lm", r=r)
    s.add("text", f'The field "{nm}" contains "{v}".', f'The field "{nm}" contains "{m.twin(v)}".')
    s.qa.append((f'What is in the field "{nm}"?', v))
    return f"{nm} {v}"


def _check(m, c, ink, size, nm, y):
    r, s = m.r, m.s
    on, kind = r.random() < .5, ("switch" if r.random() < .25 else "checkbox")
    if kind == "switch":
        c.rectangle((18, y + 2, 38, y + 12), fill=(40, 160, 80) if on else (170, 170, 175), outline=(80, 80, 84))
        x = 31 if on else 18
        c.rectangle((x, y + 1, x + 7, y + 13), fill=(255, 255, 255), outline=(60, 60, 60))
        st = ("on", "off")
    else:
        c.rectangle((20, y, 33, y + 13), fill=(255, 255, 255), outline=(60, 60, 60))
        if on:
            c.line((22, y + 6, 26, y + 11), fill=(10, 120, 30), width=2)
            c.line((26, y + 11, 32, y + 2), fill=(10, 120, 30), width=2)
        st = ("checked", "not checked")
    c.text((44, y + 7), nm, size, ink, anchor="lm")
    s.add("state", f'The {kind} "{nm}" is {st[not on]}.', f'The {kind} "{nm}" is {st[on]}.')
    s.qa.append((f'Is the {kind} "{nm}" {st[0]}?', "Yes" if on else "No"))
    return nm


def _buttons(m, c, size, col):
    r, s = m.r, m.s
    n = r.randint(1, 3)
    names = r.sample(BUTTONS, n)
    if r.random() < (.25 if m.held else .5):
        names[0] = m.word(longest=6, plain=True).capitalize()
    w, states, able = 60, [], []
    x = UNIT - 16 - n * (w + 4)
    for nm in names:
        en = r.random() < .7
        c.rectangle((x, 180, x + w, 203), fill=COLORS[col] if en else (190, 190, 194), outline=(80, 80, 84))
        c.text((x + w / 2, 192), nm, size, (255, 255, 255) if en else (130, 130, 134), anchor="mm")
        states.append((nm, en))
        x += w + 4
    say = lambda k: f"There {'is 1 button' if k == 1 else f'are {k} buttons'}."
    s.add("count", say(n), say(m.other((1, 2, 3, 4), n)))
    st = ("enabled", "disabled")
    for nm, en in states:
        s.add("state", f'The button "{nm}" is {st[not en]}.', f'The button "{nm}" is {st[en]}.')
        s.qa.append((f'Is the button "{nm}" enabled?', "Yes" if en else "No"))
        if en:
            able.append(f'"{nm}"')
    none = "No button can be pressed."
    s.reasoning = [(f"The user can press {' or '.join(able)}.", none) if able else (none, f'The user can press "{names[0]}".')]
    return " ".join(names)


KEYWORDS = {"def", "for", "return", "func", "int", "if", "class", "import", "while", "export", "echo", "in", "do", "done"}
LOOP, FUNCTION, CLASS, CONDITION, PLAIN = ("The code contains a loop.", "The code defines a function.", "The code defines a class.", "The code contains a condition.", "The code runs its lines in order.")


def _ident(m):
    w = m.word(longest=7, plain=True)
    return w.lower() if w[0].isalpha() else "v" + w.lower()


def _source(m):
    """Language, lines, purpose of a random snippet."""
    r = m.r
    a, b, f = _ident(m), _ident(m), _ident(m)
    n, k, op = r.randint(0, 999), r.randint(2, 99), r.choice("+-*")
    snippets = {
        "Python": [([f"def {f}({a}):", f"    {b} = {a} {op} {n}", f"    return {b}"], FUNCTION),
                   ([f"for i in range({k}):", f"    {a} = i {op} {n}", f"    print({a})"], LOOP),
                   ([f"import {r.choice(('math', 'json', 'sys', 'os'))}", f"{a} = [{n}, {k}]", f"if {k} in {a}:", f'    print("{b}")'], CONDITION),
                   ([f"class {f.title()}:", f"    {a} = {n}", "    def get(self):", f"        return self.{a}"], CLASS),
                   ([f"{a} = {n}", f"{b} = {a} {op} {k}", f"print({b})"], PLAIN)],
        "Go": [([f"func {f}({a} int) int {{", f"    return {a} {op} {n}", "}"], FUNCTION),
               ([f"for i := 0; i < {k}; i++ {{", f"    {a} += i", "}", f"return {a}"], LOOP),
               ([f"{a} := {n}", f"if {a} > {k} {{", f'    fmt.Print("{b}")', "}"], CONDITION)],
        "C": [([f"int {f}(int {a}) {{", f"  return {a} {op} {n};", "}"], FUNCTION),
              (["#include <stdio.h>", "int main() {", f"  int {a} = {n};", f'  printf("{b}");', "}"], FUNCTION),
              ([f"int {a} = {n};", f"while ({a} < {k}) {{", f"  {a}++;", "}"], LOOP)],
        "Shell": [([f"cd {a}", f"mkdir {b}", f"cp {f}.txt {b}"], PLAIN),
                  ([f"for i in {n} {k}; do", f"  echo {a} $i", "done"], LOOP),
                  ([f"export {a.upper()}={n}", f"echo ${a.upper()}", f"rm {b}.log"], PLAIN)]}
    lang = r.choice(list(snippets))
    lines, what = r.choice(snippets[lang])
    if r.random() < .35:
        lines = [("# " if lang in ("Python", "Shell") else "// ") + " ".join(m.word(longest=7, plain=True) for _ in range(2))] + lines
    return lang, lines, what


def code(m):
    r, s = m.r, m.s
    lang, lines, what = _source(m)
    dark = r.random() < .5
    c = m.canvas((30, 32, 40) if dark else (253, 253, 250), mono=True)
    ink, kw = ((225, 228, 235), (120, 170, 255)) if dark else ((25, 25, 30), (20, 60, 190))
    size, num = r.choice((12, 13, 13)), r.random() < .4
    y0, gap = r.randint(8, 44), r.choice((18, 20))
    if num:
        x0, t0, _, b0 = c.all()
        c.rectangle((x0, t0, 20, b0), fill=(50, 52, 60) if dark else (232, 232, 228))
    x = 24 if num else 8
    while size > 11 and max(c.length(t, size) for t in lines) > UNIT - x - 2:
        size -= 1
    for i, t in enumerate(lines):
        y = y0 + i * gap
        if num:
            c.text((6, y), str(i + 1), size, (140, 140, 140))
        body = t.lstrip()
        xi = x + c.length(" " * (len(t) - len(body)), size) if len(t) > len(body) else x
        first = body.split(" ")[0]
        c.text((xi, y), body, size, ink)
        if first in KEYWORDS:
            g = len(c.glyphs)
            c.text((xi, y), first, size, kw)
            del c.glyphs[g:]
    n = len(lines)
    s.overview = f"A {lang} code snippet on a {'dark' if dark else 'light'} background."
    s.add("count", f"It has {n} lines.", f"It has {m.near(n, 2, 7)} lines.")
    shown, hidden = "Line numbers are shown.", "Line numbers are not shown."
    s.add("state", shown if num else hidden, hidden if num else shown)
    for i, t in enumerate(lines):
        s.add("text", f"Line {i + 1} is `{t.strip()}`.", f"Line {i + 1} is `{m.twin(t.strip())}`." if any(ch.isalnum() for ch in t) else f"Line {i + 1} is `done`.")
    s.ocr = "\n".join(lines)
    s.code = (lang, s.ocr, what)
    s.short = f"A {lang} snippet of {n} lines."
    s.tags = ["source code", lang.lower(), "dark" if dark else "light"]
    s.reasoning = [(what, m.other((LOOP, FUNCTION, CLASS, CONDITION), what))]
    s.qa = [("Which programming language is this?", lang), ("How many lines of code are there?", str(n)), ("What is the first line?", lines[0])]
    m.done(c)
