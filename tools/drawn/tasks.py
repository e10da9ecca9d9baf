"""Turns a sample into questions and the answers expected: every task of prompts.json, and free questions.

    ask(sample, "ocr", r) -> Item(prompt, answer, image=True)
"""
import json
import os
from collections import namedtuple

from world import DOMAINS, OUTSIDE

PACK = json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "prompts.json"), encoding="utf-8"))
NO_TEXT, NOT_APPLICABLE, EMPTY_TABLE, UNKNOWN = (PACK["sentinels"][k] for k in ("no_text", "not_applicable", "empty_table", "outside"))
OPTIONS = {d["id"]: d["option"] for d in PACK["domains"]}
LETTERS = "ABCDEFGHI"

# which perception and reasoning agents have something to say about a domain
APPLIES = {
    "natural_perception": {"natural", "medical_bio"},
    "structure_perception": {"structure_math"},
    "infographic_perception": {"structure_math", "infographic_document", "knowledge_edu"},
    "ui_perception": {"ui"},
    "texture_perception": {"synthetic"},
    "knowledge_reasoning": {"knowledge_edu"},
    "medical_reasoning": {"medical_bio"},
    "video_perception": {"video"},
}
Item = namedtuple("Item", "prompt answer image")  # image: False when the conversation has no picture


def for_video(text):
    """Rewrites a prompt for a video, by the pack's video_rule."""
    return text.replace("the image", "the video").replace("this image", "this video").replace("this picture", "this video")


def prompt(name, r=None, canonical=.5):
    """A wording of a task: the canonical one with the given probability (always when r is None), else a paraphrase."""
    ps = PACK["tasks"][name]["prompts"]
    return ps[0] if r is None or len(ps) == 1 or r.random() < canonical else r.choice(ps[1:])


def router_options(order):
    """The option lines in an order of domain ids."""
    return "\n".join(f"{LETTERS[i]}. {OPTIONS[d]}" for i, d in enumerate(order))


def table_json(table):
    return EMPTY_TABLE if not table else json.dumps({"columns": table[0], "rows": table[1]}, ensure_ascii=False, separators=(",", ":"))


def facts_text(s):
    return " ".join(f.true for f in s.facts)


def conclusions(s):
    return " ".join(a for a, _ in s.reasoning) or NOT_APPLICABLE


def coder(s):
    return "\n".join(s.code) if s.code else NOT_APPLICABLE


# tasks whose answer is a plain function of the sample
PLAIN = {
    "caption_detailed": lambda s: s.caption(),
    "caption_medium": lambda s: s.medium(),
    "caption_short": lambda s: s.short,
    "tags": lambda s: ", ".join(s.tags),
    "visual_guideline": lambda s: s.overview,
    "video_guideline": lambda s: s.overview + " " + s.short,
    "ocr": lambda s: s.ocr or NO_TEXT,
    "coder": coder,
    "data_table": lambda s: table_json(s.table),
    "general_reasoning": conclusions,
    "video_reasoning": conclusions,
    "probe_text": lambda s: _yes(s.ocr),
    "probe_table": lambda s: _yes(s.table),
    "probe_code": lambda s: _yes(s.code),
    "probe_panels": lambda s: "No",
    "probe_person": lambda s: _yes(s.has_person()),
}
_OUTSIDE = {"ocr": NO_TEXT, "coder": NOT_APPLICABLE, "data_table": EMPTY_TABLE, "claim": "No"}


def _yes(x):
    return "Yes" if x else "No"


def ask(s, name, r, canonical=.5):
    """The prompt and expected answer of a task for a sample. Returns an Item."""
    q, image = prompt(name, r, canonical) if name in PACK["tasks"] else "", True
    if s.domain == OUTSIDE:
        q, a = _ask_outside(name, q, r)
    elif name in PLAIN:
        a = PLAIN[name](s)
    elif name in APPLIES:
        text = conclusions if name.endswith("reasoning") else facts_text
        a = text(s) if s.domain in APPLIES[name] else NOT_APPLICABLE
    elif name == "qa":
        q, a = r.choice(s.qa)
    else:
        q, a, image = BUILT[name](s, q, r)
    if s.domain == "video":
        q = for_video(q)
    return Item(q, a, image)


def _ask_outside(name, q, r):
    if name == "claim":
        q = q.format(claim=r.choice(_ANY_CLAIM))
    if name == "qa":
        q = r.choice(("How many trees are there?", "What is the title?", "What color is the car?", "What is the value of B?"))
    if name.startswith("probe"):
        return q, "No"
    if name.endswith("perception") or name in ("knowledge_reasoning", "medical_reasoning"):
        return q, NOT_APPLICABLE
    return q, _OUTSIDE.get(name, UNKNOWN)


_ANY_CLAIM = ("There is 1 tree.", "There are 3 birds.", "The sky is clear blue.", "The title bar is red.", "A bar chart with 4 red bars.", "It has 3 lines of text.")


def router_order(s, r, canonical=.5):
    order = list(DOMAINS) if s.domain == "video" or r.random() < .3 else DOMAINS[:8]
    k = r.random()
    if k < .15 * (1 - canonical):
        r.shuffle(order)
    elif k > .15 + .85 * canonical:
        order = order[::-1]
    return order


def _router(s, q, r):
    order = router_order(s, r)
    return q.format(options=router_options(order)), LETTERS[order.index(s.domain)], True


# kinds of facts about which a claim is asked more often: what a single arrow, frame, place or digit decides
HARD, OFTEN = {"relation", "event", "motion", "pos", "value", "value_axis"}, 2.


def _claim(s, q, r):
    pool = [(f.true, f.false) for f in s.facts] + [p for p in s.reasoning if r.random() < .3]
    true, false = r.choices(pool, [OFTEN if f.kind in HARD else 1 for f in s.facts] + [1] * (len(pool) - len(s.facts)))[0]
    ok = r.random() < .5
    return q.format(claim=true if ok else false), _yes(ok), True


def _judged(s, criterion, r):
    """A caption of the sample that deserves a score, and the score."""
    score = r.choice((1, 2, 3))
    facts = [f.true for f in s.facts]
    over, head, tail = s.overview, "", ""
    if "factual" in criterion:
        score = max(score, 3 - min(2, len(facts)))
        for i in r.sample(range(len(facts)), 3 - score):
            facts[i] = s.facts[i].false
    elif "completeness" in criterion or "coverage" in criterion:
        n = len(facts)
        if n < 3:
            score = 3 if score == 2 else score
        lose = 0 if score == 3 else r.randint(1, max(1, n // 2)) if score == 2 else r.randint(n // 2 + 1, n)
        gone = set(r.sample(range(n), lose))
        facts = [f for i, f in enumerate(facts) if i not in gone]
    elif "rigour" in criterion or "logic" in criterion:
        score = 3 if score == 2 or not s.reasoning else score
        if s.reasoning:
            tail = r.choice(s.reasoning)[0 if score == 3 else 1]
    elif criterion == "core intent":
        over = {3: over, 2: "", 1: r.choice([o for o in _OVERVIEWS if o.split()[1:3] != over.split()[1:3]])}[score]
    else:  # professionalism
        if score < 3:
            if r.random() < .5:
                head = "Sure, here is the caption:"
            elif facts:
                facts.append(facts[-1])
        if score == 1:
            last = facts[-1] if facts else over
            facts[-1:] = [last[:max(4, len(last) // 2)]]
    return " ".join(x for x in [head, over] + facts + [tail] if x), score


_OVERVIEWS = ("A drawn outdoor scene.", "A microscope image with a pink background.", "An abstract checkerboard.", "A video of 4 frames.",
              "A light user interface window.", "A Go code snippet on a dark background.", "A document page.", "A bar chart.", "A labeled diagram.")


def _judge(s, q, r):
    crit = r.choice(PACK["judge_criteria"]["video" if s.domain == "video" else "image"])
    caption, score = _judged(s, crit, r)
    return q.format(criterion=crit, caption=caption), str(score), True


PERCEPTION = {"natural": "natural_perception", "structure_math": "structure_perception", "infographic_document": "infographic_perception",
              "medical_bio": "natural_perception", "ui": "ui_perception", "code": "coder", "knowledge_edu": "infographic_perception",
              "synthetic": "texture_perception", "video": "video_perception"}
REASONING = {"medical_bio": "medical_reasoning", "knowledge_edu": "knowledge_reasoning", "video": "video_reasoning"}


def _summary(s, q, r):
    """An evidence pack in which perception or reasoning may be wrong about one fact that better evidence settles."""
    image = r.random() < .6
    facts, wrong_reason = [f.true for f in s.facts], ""
    k = r.randrange(len(s.facts))
    f = s.facts[k]
    blocks = [("video_guideline" if s.domain == "video" else "visual_guideline", s.overview)]
    conflict = r.random()
    if conflict < .35 and (image or f.kind == "text" and s.ocr or f.kind == "value" and s.table):
        facts[k] = f.false
    elif conflict < .65:
        wrong_reason = f.false + " "
    blocks.append((PERCEPTION[s.domain] if s.domain != "code" else "infographic_perception", " ".join(facts)))
    if s.ocr:
        blocks.append(("ocr", s.ocr))
    if s.table and (r.random() < .5 or facts[k] != f.true):
        blocks.append(("data_table", table_json(s.table)))
    if wrong_reason or r.random() < .5:
        blocks.append((REASONING.get(s.domain, "general_reasoning"), wrong_reason + conclusions(s)))
    if r.random() < .3:
        blocks[1:] = r.sample(blocks[1:], len(blocks) - 1)
    return q.format(evidence="\n".join(f"[{a}]\n{t}" for a, t in blocks)), s.caption(), image


def _revise(s, q, r):
    image = r.random() < .6
    bad = set(r.sample(range(len(s.facts)), min(len(s.facts), r.choice((1, 1, 2)))))
    draft = " ".join([s.overview] + [f.false if i in bad else f.true for i, f in enumerate(s.facts)])
    wrong = " ".join(s.facts[i].false for i in sorted(bad))
    kept = " ".join([s.overview] + [f.true for i, f in enumerate(s.facts) if i not in bad])
    return q.format(draft=draft, wrong=wrong), s.caption() if image else kept, image


def _render(make):
    return lambda s, q, r: (q.format(caption=s.caption()), make(s), r.random() < .5)


BUILT = {"router": _router, "claim": _claim, "judge": _judge, "summary": _summary, "revise": _revise,
         "render_short": _render(lambda s: s.short), "render_medium": _render(lambda s: s.medium()), "render_tags": _render(lambda s: ", ".join(s.tags))}
STILL_TASKS = [n for n in PACK["tasks"] if not n.startswith("video")]
VIDEO_TASKS = [n for n in PACK["tasks"] if n not in ("visual_guideline", "general_reasoning", "coder", "data_table") and not n.endswith("perception")
               and n not in ("knowledge_reasoning", "medical_reasoning")] + ["video_perception"]
