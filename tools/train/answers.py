"""Asks the Go engine (cmd/drawneval) and records what it answers, so that a long evaluation can be cut into pieces.

An item is (pictures, prompt, is video); pictures is () for a question without one.
"""
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence

import tok  # noqa: F401  (puts the drawn world on the path)
import canvas


class Pictures(Sequence):
    """The tiles of a picture or the frames of a video, cut when first looked at, with the images they come from."""

    def __init__(self, images, video=False):
        self.images, self.video, self._tiles, self._digest = images, video, None, ""

    def tiles(self):
        if self._tiles is None:
            self._tiles = self.images if self.video else [t for im in self.images for t, _ in canvas.tiles(im)]
        return self._tiles

    def __len__(self):
        return len(self.tiles())

    def __getitem__(self, i):
        return self.tiles()[i]

    def __bool__(self):
        return True

    def digest(self):
        """Identifies the images by their pixels."""
        if not self._digest:
            h = hashlib.sha1()
            for im in self.images:
                h.update(repr(im.size).encode() + im.tobytes())
            self._digest = h.hexdigest()
        return self._digest


def pictures_of(s):
    return Pictures(s.images, s.domain == "video")


class Unfinished(Exception):
    """The time of this piece is over; the answers so far are recorded."""


class Plan:
    """Stands in for the engine to learn what an evaluation will ask."""

    def __init__(self):
        self.asked = []

    def generate(self, items, most):
        self.asked += [(item, most, 0) for item in items]
        return [("", 0.)] * len(items)

    def choose(self, items):
        self.asked += [(item, 1, Engine.TOP) for item in items]
        return [{}] * len(items)


class Record:
    """Answers by question, in a file that grows. Its first line says who answered; answers of another are refused."""

    def __init__(self, path, who):
        self.known, self.file = {}, None
        if not path:
            return
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                lines = f.read().split("\n")
            if json.loads(lines[0]) != who:
                raise SystemExit(f"answers: {path} was recorded from {lines[0]}, not from {json.dumps(who)}: name another file")
            for line in lines[1:-1]:
                key, value = json.loads(line)
                self.known[key] = value
            os.truncate(path, os.path.getsize(path) - len(lines[-1].encode()))  # what a crash cut off
        else:
            with open(path, "w", encoding="utf-8") as f:
                f.write(json.dumps(who) + "\n")
        self.file = open(path, "a", encoding="utf-8")

    def put(self, key, value):
        self.known[key] = value
        if self.file:
            self.file.write(json.dumps([key, value], ensure_ascii=False) + "\n")
            self.file.flush()


class Engine:
    """The Go engine behind the same calls as a model in torch: cmd/drawneval reads questions and writes answers.

    seconds bounds the time of this process: when it is over, Unfinished is raised. Recorded answers are not asked again.
    """

    TOP = 100   # alternatives asked for by choose
    OPEN = 96   # questions at a time: one step then serves many

    def __init__(self, program, args, record="", seconds=0):
        self.program, self.args = program, [*args, "-open", str(self.OPEN)]
        self.record = Record(record, {"args": list(args)})
        self.until = time.time() + seconds if seconds else float("inf")

    def generate(self, items, most):
        """(text, mean log-probability of its tokens) an item."""
        return [(a["text"], a["logprob"]) for a in self.answers([(item, most, 0) for item in items])]

    def choose(self, items):
        """The alternatives of the first token an item: {token: log-probability}."""
        return [a["first"] for a in self.answers([(item, 1, self.TOP) for item in items])]

    def answers(self, asked):
        """The engine's answer objects to a list of (item, most tokens, alternatives)."""
        keys = [hashlib.sha1("|".join((p.digest() if p else "", q, str(bool(v)), str(most), str(top))).encode()).hexdigest() for (p, q, v), most, top in asked]
        new = {}
        for k, a in zip(keys, asked):
            if k not in self.record.known:
                new.setdefault(k, a)
        if new:
            self._run(sorted(new.items(), key=lambda x: x[1][0][0].digest() if x[1][0][0] else ""))  # a picture's questions together: it is encoded once
        return [self.record.known[k] for k in keys]

    def _run(self, new):
        if time.time() > self.until:
            raise Unfinished
        with tempfile.TemporaryDirectory(prefix="drawneval") as folder, subprocess.Popen([self.program, *self.args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as p:
            window, sent = self.OPEN + 8, 0
            for done in range(len(new)):
                while sent < min(len(new), done + window):  # a few ahead of what the program answers at a time, so that no pipe fills
                    p.stdin.write(self._line(sent, new[sent][1], folder))
                    sent += 1
                if sent == len(new) and not p.stdin.closed:
                    p.stdin.close()
                elif not p.stdin.closed:
                    p.stdin.flush()
                line = p.stdout.readline()
                if not line:
                    break
                a = json.loads(line)
                self.record.put(new[a.pop("id")][0], a)
                if time.time() > self.until and done + 1 < len(new):
                    p.kill()
                    raise Unfinished
        if p.returncode:
            raise SystemExit(f"answers: {self.program} ended with {p.returncode}")

    def _line(self, n, asked, folder):
        (pictures, q, v), most, top = asked
        files = []
        for k, im in enumerate(pictures.images if pictures else ()):
            path = os.path.join(folder, f"{pictures.digest()}_{k}.png")
            if not os.path.exists(path):
                im.save(path, compress_level=1)
            files.append(path)
        return json.dumps({"id": n, "files": files, "video": bool(v), "prompt": q, "most": most, "top": top}) + "\n"
