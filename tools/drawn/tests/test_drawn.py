"""The drawn world is deterministic, its facts are consistent, and held-out pictures are kept apart."""
import json
import os
import random
import sys

import pytest
from PIL import Image, ImageChops

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import canvas  # noqa: E402
import dataset  # noqa: E402
import places  # noqa: E402
import scenes  # noqa: E402
import tasks  # noqa: E402
import words  # noqa: E402
import world  # noqa: E402

ALL = world.DOMAINS + [world.OUTSIDE]


@pytest.mark.parametrize("domain", ALL)
def test_a_seed_gives_one_picture(domain):
    for seed in (3, 2_000_003):
        a, b = world.make(seed, domain), world.make(seed, domain)
        assert [im.tobytes() for im in a.images] == [im.tobytes() for im in b.images]
        assert a.facts_json() == b.facts_json()
    assert world.make(4, domain).images[0].tobytes() != world.make(5, domain).images[0].tobytes()


@pytest.mark.parametrize("domain", world.DOMAINS)
def test_facts_are_checkable(domain):
    for seed in range(60):
        s = world.make(seed, domain)
        assert len(s.images) == len(s.glyphs) >= 1
        assert s.facts and s.overview and s.short and s.tags
        assert all(f.true != f.false for f in s.facts)
        json.dumps(s.facts_json())
        for im in s.images:
            assert 200 <= min(im.size) and max(im.size) <= 1344


def test_glyphs_lie_where_text_was_printed():
    """Each readable word's characters are recorded, left to right on their line, inside the picture."""
    for seed in range(40):
        s = world.make(seed, "ui", clean=True)
        w, h = s.images[0].size
        assert all(0 <= x < w and 0 <= y < h for x, y, _ in s.glyphs[0])
        printed = "".join(c for _, _, c in s.glyphs[0])
        for word in s.ocr.split():
            if word != canvas.UNREADABLE and "[" not in word:
                assert word in printed, (seed, word)


def test_held_out_words_and_combinations_never_train():
    held = {w for w in words.WORDS if words.held_word(w)}
    assert .1 < len(held) / len(words.WORDS) < .3
    seen = 0
    for seed in range(words.HELD_OUT, words.HELD_OUT + 400):
        s = world.make(seed, "natural")
        for f in s.facts:
            if f.kind == "color" and "house with a" in f.true:
                wall, roof = f.true.split()[1], f.true.split("with a ")[1].split()[0]
                assert not words.held_pair(f"roof|{wall}", roof), f.true
                seen += 1
    assert seen > 50
    assert any(words.held_pair(f"roof|{w}", r) for w in words.VIVID for r in ("brown", "red", "black", "gray"))


def test_unreadable_words_are_marked():
    n = sum(canvas.UNREADABLE in world.make(seed, "infographic_document").ocr for seed in range(300))
    assert 10 < n < 150


@pytest.mark.parametrize("size,want", [((224, 224), (1, 1)), ((316, 316), (1, 1)), ((317, 317), (2, 2)), ((448, 224), (2, 1)), ((300, 1200), (1, 4)), ((1344, 896), (2, 2)), ((1, 1), (1, 1))])
def test_tiling_rule(size, want):
    assert canvas.grid(*size) == want


def test_tiles_carry_their_glyphs():
    s = world.make(11, "code", size="multi", clean=True)
    cut = canvas.tiles(s.images[0], s.glyphs[0])
    assert len(cut) > 1 and all(im.size == (224, 224) for im, _ in cut)
    assert sum(len(g) for _, g in cut[:-1]) == len(s.glyphs[0]) == len(cut[-1][1])


@pytest.mark.parametrize("domain", ALL)
def test_every_task_has_an_answer(domain):
    r = random.Random(1)
    for seed in range(30):
        s = world.make(seed, domain)
        for name in tasks.VIDEO_TASKS if domain == "video" else tasks.STILL_TASKS:
            if domain == world.OUTSIDE and name in tasks.BUILT and name != "claim":
                continue
            it = tasks.ask(s, name, r)
            assert it.prompt and it.answer and "{claim}" not in it.prompt
            if name == "data_table":
                t = json.loads(it.answer)
                assert all(len(row) == len(t["columns"]) for row in t["rows"])


def test_claims_and_scores_are_balanced():
    r = random.Random(2)
    got = [tasks.ask(world.make(seed), "claim", r).answer for seed in range(300)]
    assert 110 < got.count("Yes") < 190
    got = [tasks.ask(world.make(seed, "ui"), "judge", r).answer for seed in range(300)]
    assert min(got.count(x) for x in "123") > 40


def test_a_twin_differs_little():
    m = world.Maker(random.Random(3), world.Sample("ui", 3, True), canvas.Frame())
    for text in ("Sales 2023", "a", "42", "x := 3"):
        assert m.twin(text) != text


def test_false_arrows_are_false():
    """No false sentence of a diagram is a true sentence of it."""
    checked = 0
    for seed in range(300):
        s = world.make(seed, "knowledge_edu")
        true = {f.true for f in s.facts}
        for f in s.facts:
            assert f.false not in true, (seed, f.false)
            checked += f.kind == "relation"
    assert checked > 500


def test_nothing_counted_in_the_sky_is_hidden(monkeypatch):
    """Clouds and birds are drawn after houses, trees and people: the picture ends with them."""
    real, calls = scenes._air, []

    def record(m, c, *rest):
        clouds, birds, draw = real(m, c, *rest)

        def last():
            draw()
            calls.append((clouds + birds, c, c.im.copy()))
        return clouds, birds, last
    monkeypatch.setattr(scenes, "_air", record)
    for seed in range(100):
        s = world.make(seed, "natural", size="plain", clean=True)
        n, c, after = calls[-1]
        assert ImageChops.difference(after, c.im).getbbox() is None
        assert sum(f.true.endswith(("cloud.", "clouds.", "bird.", "birds.")) for f in s.facts) == 0 or n
    assert len(calls) == 100 and sum(n > 0 for n, _, _ in calls) > 50


def test_the_data_set_is_what_the_samples_say(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dataset.py", str(tmp_path), "--n", "2"])
    dataset.main()
    lines = [json.loads(line) for line in (tmp_path / "facts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2 * len(world.DOMAINS) and len(list(tmp_path.iterdir())) == 1 + sum(len(x["files"]) for x in lines)
    x = lines[0]
    s = world.make(x["seed"], x["domain"])
    assert x["caption"] == s.caption() and Image.open(tmp_path / x["files"][0]).tobytes() == s.images[0].tobytes()


def plain_shapes(n):
    """n held-out samples of plain shapes."""
    seeds = (seed for seed in range(10_000) if scenes.of_shapes(seed))
    return [world.make(seed, "synthetic") for seed, _ in zip(seeds, range(n))]


def test_plain_shapes_are_told_as_one_reads():
    """The order of the list, the pair and its relation are functions of the picture: nothing about them is drawn by lot."""
    kinds = {"pos": 0, "relation": 0}
    for s in plain_shapes(400):
        rows = [round((p.y - 37) / 75) if len(s.shapes) > 1 else 0 for p in s.shapes]
        assert [(row, p.x) for row, p in zip(rows, s.shapes)] == sorted((row, p.x) for row, p in zip(rows, s.shapes))
        listed = [f.true.split(" ", 3)[3].rstrip(".").split() for f in s.facts if f.kind == "count" and s.shapes]
        assert [x for i, (x, *_) in enumerate(s.shapes) if x not in [p.name for p in s.shapes[:i]]] == [f"{c} {form if form in scenes.FORMS else form[:-1]}" for c, form in listed]
        told = [f for f in s.facts if f.kind in kinds]
        assert len(told) == (len(s.shapes) == 1 or len(places.single(s.shapes)) > 1)
        for f in told:
            kinds[f.kind] += 1
            assert places.check(f.true, s.shapes) == (f.kind, True) and places.check(f.false, s.shapes) == (f.kind, False), (s.seed, f)
            if f.kind == "relation":
                a, b = places.single(s.shapes)[:2]
                assert f.true.startswith(f"The {a.name} is ") and f.true.endswith(f" the {b.name}."), (s.seed, f)
    assert min(kinds.values()) > 100


def test_a_shape_lies_where_it_is_drawn():
    """The middle that is told is the middle of what differs from the ground."""
    checked = 0
    for s in plain_shapes(200):
        if len(s.shapes) != 1 or s.style.get("degraded") or s.images[0].size != (224, 224):
            continue
        im = s.images[0]
        x0, y0, x1, y1 = ImageChops.difference(im, Image.new("RGB", im.size, im.getpixel((0, 0)))).point(lambda v: 255 * (v > 40)).getbbox()
        p = s.shapes[0]
        assert abs((x0 + x1) / 2 - p.x) < 4 and abs((y0 + y1) / 2 - p.y) < 4, (s.seed, p)
        checked += 1
    assert checked > 30


def test_sentences_about_places_are_judged_by_the_picture():
    shape = places.Shape
    three = [shape("red square", 40, 40, "left"), shape("blue circle", 110, 45, "middle"), shape("red triangle", 112, 190, "middle")]
    true = ["The red square is left of the blue circle.", "The blue circle is right of the red square.", "The red triangle is right of the red square.",
            "The red triangle is below the red square.", "The blue circle is above the red triangle."]
    false = ["The red square is right of the blue circle.", "The blue circle is left of the red square.", "The red square is above the blue circle.",
             "The blue circle is left of the red triangle.", "The blue circle is below the red triangle.", "The blue square is left of the blue circle.",
             "The red square is left of the red square.", "The red square is left of the pink circle."]
    assert all(places.check(x, three) == ("relation", True) for x in true)
    assert all(places.check(x, three) == ("relation", False) for x in false)
    assert places.check("The red square is on the left.", three) == ("pos", True)
    assert places.check("The red square is in the middle.", three) == ("pos", False)
    assert places.check("The red circle is on the left.", three) == ("pos", False)
    for odd in ("The red square is left of the blue circle", "The red square is to the left of it.", "A square is in the middle.", "The red square is beside the blue circle."):
        assert places.check(odd, three) == ("", False)
    assert places.check("The background is white.", three) is None and places.check("There is 1 red square.", three) is None
    twins = [*three, shape("red square", 190, 40, "right")]
    assert places.check(true[0], twins) == ("relation", False), "which of the two is not said"
    assert [p.name for p in places.single(twins)] == ["blue circle", "red triangle"]
    assert places.statements(f"A drawing. {true[0]} There is 1 dot. {false[0]}", three) == [("relation", True), ("relation", False)]
