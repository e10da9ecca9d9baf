"""Scores, intervals and the record of answers, on cases whose result is known."""
import json
import os
import random
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import answers  # noqa: E402
import evaluate  # noqa: E402
import places  # noqa: E402
import tasks  # noqa: E402
import world  # noqa: E402


class Oracle:
    """Answers every task rightly, or with `wrong` everywhere."""

    def __init__(self, ss, wrong=None):
        self.wrong, self.known = wrong, {}
        for s in ss:
            self.known[answers.pictures_of(s).digest()] = s

    def generate(self, items, most):
        return [(self.wrong or self.right(p, q), -.01) for p, q, _ in items]

    def right(self, pictures, q):
        s = self.known[pictures.digest()]
        plain = {evaluate.plain(n)(s): tasks.PLAIN[n](s) for n in ("caption_detailed", "ocr", "data_table")}
        return plain[q] if q in plain else dict(s.qa)[q]


def test_a_right_answer_scores_one_and_a_wrong_one_nothing():
    ss = evaluate.samples(3, 1000)
    for wrong, want in ((None, 1.), ("It is a cat.", 0.)):
        m = Oracle(ss, wrong)
        board, asker = evaluate.Board(), evaluate.Asker(m, ss)
        evaluate.score_captions(board, ss, [a for _, a in asker.ask(evaluate.plain("caption_detailed"), 200)])
        evaluate.score_text(board, ss, [a for _, a in asker.ask(evaluate.plain("ocr"), 200)])
        evaluate.tables(board, asker)
        got = board.table()["all"]
        for kind in ("facts", "overview", "caption_exact", "words", "no_text_right", "data_table", "table_values", "table_names", "value_asked"):
            assert got[kind][0] == want, (kind, got[kind])
        assert got["wrong_facts"][0] == 0
        assert got["cer"][0] == (0 if wrong is None else pytest.approx(1, abs=.35))


def shapes_board(caption, shapes, kind, true, false):
    s = world.Sample("synthetic", 1, True, overview="A drawing of plain shapes.", shapes=shapes)
    s.add("color", "The background is white.", "The background is red.")
    s.add(kind, true, false)
    board = evaluate.Board()
    evaluate.score_captions(board, [s], [(caption, 0.)])
    return board


def test_a_place_counts_if_what_is_said_is_true_of_the_picture():
    two = [places.Shape("red square", 40, 40, "left"), places.Shape("blue circle", 110, 115, "middle")]
    told = "The red square is left of the blue circle.", "The blue circle is left of the red square."
    for said, right, statements in (
            (told[0], 1, (1, 1)),
            ("The blue circle is right of the red square.", 1, (1, 1)),
            ("The red square is above the blue circle.", 1, (1, 1)),
            (told[1], 0, (0, 1)),
            ("The red square is below the blue circle.", 0, (0, 1)),
            ("The red rectangle is left of the blue circle.", 0, (0, 1)),
            (told[0] + " The blue circle is on the left.", 0, (1, 2)),
            (told[0] + " " + told[1], 0, (1, 2)),
            ("The red square is on the left.", 0, (1, 1)),
            ("", 0, (0, 0))):
        board = shapes_board(f"A drawing of plain shapes. The background is white. {said}".strip(), two, "relation", *told)
        for kind in ("fact_relation", "shapes_relation"):
            assert board.n["synthetic", kind] == [right, 1], said
        assert board.n["all", "facts"] == [1 + right, 2], said
        assert tuple(board.n["all", "places_said"]) == statements, said
        assert board.n["all", "shapes_color"] == [1, 1] and not board.n["all", "others_color"][1]


def test_a_place_of_a_shape_of_another_name_does_not_count():
    one = [places.Shape("red square", 40, 40, "left")]
    told = "The red square is on the left.", "The red square is on the right."
    for said, right in ((told[0], 1), (told[1], 0), ("The red rectangle is on the left.", 0), ("The red square is left of the red square.", 0), ("", 0)):
        board = shapes_board(f"A drawing of plain shapes. {said}".strip(), one, "pos", *told)
        assert board.n["all", "fact_pos"] == [right, 1], said


def test_other_pictures_must_hold_the_very_sentence():
    s = next(s for s in (world.make(seed, "natural") for seed in range(50)) if any(f.kind == "relation" for f in s.facts))
    f = next(f for f in s.facts if f.kind == "relation")
    assert evaluate.tells(s.caption(), f, s) and not evaluate.tells(s.caption().replace(f.true, f.false), f, s)
    flip = f.true.replace("The car", "The house").replace("the house", "the car").replace(" left ", " ? ").replace(" right ", " left ").replace(" ? ", " right ")
    assert flip != f.true and not evaluate.tells(s.caption().replace(f.true, flip), f, s)


def test_text_scores_count_smudged_words():
    u = "[unreadable]"
    cer, right, of, wrong, smudged = evaluate.text_scores(f"one {u} two", f"one {u} two")
    assert (cer, right, of, wrong, smudged) == (0, 2, 2, 0, 1)
    assert evaluate.text_scores(f"one {u} two", "one guess two")[1:] == (2, 2, 1, 1)


def test_wilson_holds_the_share_and_narrows():
    p, low, high, n = evaluate.wilson(90, 100)
    assert p == .9 and low < .9 < high and n == 100
    assert (low, high) == pytest.approx((.8256, .9448), abs=1e-3)  # the textbook value
    assert evaluate.wilson(900, 1000)[2] < high
    assert evaluate.wilson(5, 5)[1] < 1


def test_calibration_error_of_known_cases():
    assert evaluate.calibration([("ui", 1., True)] * 10) == 0
    assert evaluate.calibration([("ui", .95, i % 2 == 0) for i in range(10)]) == pytest.approx(.45)


def test_threshold_keeps_false_alarms_and_reports_what_it_catches():
    r = random.Random(1)
    inside = [(True, False, -.1 * r.random(), "ui") for _ in range(2000)]
    outside = [(False, i % 2 == 0, -.2, "noise") for i in range(100)]
    got = evaluate.threshold(inside + outside)
    assert -.1 <= got["threshold"] <= -.095
    assert got["refused"][0] == .5 and got["caught"][0] == 1
    assert got["false_alarms"][0] <= .03 and got["false_alarms"][3] == 1000
    assert got["caught_by_kind"] == {"noise": [1.0, 100]}


def test_paired_differences():
    rows = [("ui", (4, 4), (3, 4)), ("code", (2, 2), (2, 2)), ("code", (2, 2), (2, 3))]
    got = evaluate.paired(rows * 50)
    assert got["pictures"] == 100 and got["plain"] == 1 and got["view"] == pytest.approx(5 / 6, abs=1e-4)
    low, high = got["difference"][1:]
    assert low < -1 / 6 < high < 0
    assert got["by_domain"] == {"code": 0, "ui": -.25}
    assert evaluate.paired([("ui", (1, 1), (1, 2))]) is None


def test_views_show_the_same_facts():
    same = 0
    for seed in range(20):
        base = world.make(seed, "ui", size="plain", clean=True)
        for view in world.VIEWS:
            s = world.make(seed, "ui", size="plain", clean=True, view=view)
            assert s.images[0].tobytes() != base.images[0].tobytes(), (seed, view)
            same += [f.true for f in s.facts] == [f.true for f in base.facts]
    assert same >= 20 * len(world.VIEWS) - 5  # a smudge takes as many random numbers as it has pixels


def test_a_record_goes_on_after_a_cut_and_refuses_another_engine(tmp_path):
    path = str(tmp_path / "answers.jsonl")
    answers.Record(path, {"args": ["-m", "a"]}).put("k", {"text": "é"})
    with open(path, "a", encoding="utf-8") as f:
        f.write('["half", {"te')
    again = answers.Record(path, {"args": ["-m", "a"]})
    assert again.known == {"k": {"text": "é"}}
    again.put("l", {"text": "x"})
    assert answers.Record(path, {"args": ["-m", "a"]}).known == {"k": {"text": "é"}, "l": {"text": "x"}}
    with pytest.raises(SystemExit, match="name another file"):
        answers.Record(path, {"args": ["-m", "b"]})


PROGRAM = """
import json, sys
for line in sys.stdin:
    q = json.loads(line)
    print(json.dumps({"id": q["id"], "text": q["prompt"][::-1] * len(q["files"]), "logprob": 0, "first": {}}), flush=True)
"""


def test_the_engine_is_asked_once_a_question_and_stops_in_time(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    path = str(tmp_path / "answers.jsonl")
    p = answers.pictures_of(world.make(3, "ui"))
    items = [(p, f"question {i}", False) for i in range(60)] + [((), "none", False), (p, "question 3", False)]
    e = answers.Engine(sys.executable, [str(script)], path)
    want = [(q[::-1] * bool(pic), 0) for pic, q, _ in items]
    assert e.generate(items, 5) == want
    with open(path, encoding="utf-8") as f:
        assert len(f.readlines()) == 1 + 61
    late = answers.Engine(sys.executable, [str(script)], path, seconds=1e-9)
    assert late.generate(items, 5) == want  # all recorded: nothing is asked
    with pytest.raises(answers.Unfinished):
        late.generate([(p, "new", False)], 5)


def test_a_domain_keeps_its_pictures_when_others_are_left_out():
    seeds = lambda **k: [(s.domain, s.seed) for s in evaluate.samples(2, 1000, size="plain", clean=True, **k)]
    assert seeds(domains=evaluate.known_domains("ui,synthetic")) == [x for x in seeds() if x[0] in ("ui", "synthetic")]
    assert len(seeds()) == 2 * len(world.DOMAINS)
    with pytest.raises(evaluate.argparse.ArgumentTypeError, match="cars"):
        evaluate.known_domains("ui,cars")


def test_a_plan_learns_every_question():
    ss = evaluate.samples(1, 1000)
    plan = answers.Plan()
    evaluate.full(plan, ss, 1)
    asked = {q for (_, q, _), _, _ in plan.asked}
    assert len(plan.asked) > 20 * len(ss) and any("router" in q or "A. natural" in q for q in asked)
    assert json.dumps(sorted(asked))
