"""Where plain shapes lie, and which sentences about it are true of a picture.

    check("The red square is left of the blue circle.", shapes) -> ("relation", True)
"""
import re
from collections import Counter, namedtuple

# a drawn shape: "red square", its middle in units of the canvas, and the third of the whole picture in which that lies
Shape = namedtuple("Shape", "name x y third")

PLACE = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
APART = 40  # units from which two shapes lie beside (above) each other: they come from a grid of 75, moved by 6 at most
_WORDS = re.compile(r"\b(left|right|middle|above|below|beside|under|over)\b")
_ALONE = re.compile(r"The (\w+ \w+) is (on the left|in the middle|on the right)\.")
_PAIR = re.compile(r"The (\w+ \w+) is (left of|right of|above|below) the (\w+ \w+)\.")


def single(shapes):
    """The shapes whose name no other has, in order."""
    n = Counter(s.name for s in shapes)
    return [s for s in shapes if n[s.name] == 1]


def relation(a, b):
    """How a lies to b: beside it unless both are in one column."""
    if abs(a.x - b.x) > APART:
        return "left of" if a.x < b.x else "right of"
    return "above" if a.y < b.y else "below"


def _holds(a, word, b):
    """Says whether two shapes lie as a word says; two shapes may be beside and above each other at once."""
    dx, dy = b.x - a.x, b.y - a.y
    return {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[word] > APART


def check(sentence, shapes):
    """(kind of fact, whether it is true) of a sentence about places; None for a sentence about something else.

    A name must be that of exactly one shape. A sentence about places that has another form is of no kind and false.
    """
    if not _WORDS.search(sentence):
        return None
    named = {s.name: s for s in single(shapes)}
    if m := _ALONE.fullmatch(sentence):
        return "pos", m[1] in named and PLACE[named[m[1]].third] == m[2]
    if m := _PAIR.fullmatch(sentence):
        return "relation", m[1] in named and m[3] in named and _holds(named[m[1]], m[2], named[m[3]])
    return "", False


def statements(caption, shapes):
    """What check says of every sentence of a caption that is about places."""
    found = (check(x, shapes) for x in re.split(r"(?<=\.) ", caption))
    return [x for x in found if x]
