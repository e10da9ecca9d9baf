"""Fits the weights of capflow's pack (support.own, support.given): what makes a sentence likely to be true.

    python support.py RECORDS.jsonl SET/samples.json

RECORDS are of `metacap eval drawn SET --flow verified --records DIR` (own), or of `metacap capflow filter` (given), made with a pack
(`--pack`) in which support.*.claim is 100 and all other weights are 0: then the claim question is asked about every sentence.
Prints the weights, and the area under the ROC curve of each sign and of all together, fitted on four fifths of the pictures and measured on the others.
"""
import json
import os
import sys

import numpy as np

SIGNS = ("logprob", "claim", "view", "agent")
FLOOR, BOUND = -8., 6.  # logProbFloor and oddsBound of capflow/weigh.go


def truths(s):
    """The sentences that are true of a sample."""
    return {s["overview"], s["truth"]["short"], *(f["true"] for f in s["facts"]), *s["reasoning"]}


def rows(record, true):
    """(signs, is true) of each sentence that a record weighed."""
    for c in record["checks"].get("claims", ()):
        if c.get("logp") is None or c.get("claim") is None:
            continue
        p = min(max(c["claim"], 1e-9), 1 - 1e-9)
        yield [max(FLOOR, c["logp"]), min(BOUND, max(-BOUND, float(np.log(p / (1 - p))))), c["views"], c["agents"]], c["t"] in true


def fit(x, y, ridge=1e-2, steps=4000):
    """Bias and weights of a logistic probability, no weight below 0: gradient descent on scaled signs."""
    scale = np.maximum(x.std(0), 1e-6)
    z, w, b = x / scale, np.zeros(x.shape[1]), 0.
    for _ in range(steps):
        d = 1 / (1 + np.exp(-(z @ w + b))) - y
        b -= d.mean()
        w = np.maximum(0., w - .5 * (z.T @ d / len(y) + ridge * w / len(y)))
    return b, w / scale


def auc(score, y):
    """Area under the ROC curve, ties counted half."""
    good, bad = score[y], score[~y]
    return float((good[:, None] > bad).mean() + .5 * (good[:, None] == bad).mean()) if len(good) and len(bad) else float("nan")


def main(records, samples):
    with open(samples, encoding="utf-8") as f:
        by_file = {s["files"][0]: truths(s) for s in json.load(f)}
    x, y, picture = [], [], []
    with open(records, encoding="utf-8") as f:
        for k, line in enumerate(f):
            r = json.loads(line)
            source = r["source"]
            for signs, ok in rows(r, by_file[os.path.basename((source.get("frames") or [source["uri"]])[0])]):
                x.append(signs)
                y.append(ok)
                picture.append(k)
    x, y, picture = np.array(x, float), np.array(y), np.array(picture)
    print(f"{len(y)} sentences of {len(set(picture))} pictures, {int((~y).sum())} wrong", file=sys.stderr)
    out = np.zeros(len(y))
    for part in range(5):
        b, w = fit(x[picture % 5 != part], y[picture % 5 != part])
        out[picture % 5 == part] = x[picture % 5 == part] @ w + b
    print({**{n: round(auc(x[:, i], y), 3) for i, n in enumerate(SIGNS)}, "all": round(auc(out, y), 3)}, file=sys.stderr)
    b, w = fit(x, y)
    # where a look and the log-probability settle a sentence the question is not asked: its log-odds are then the median of the true ones
    print(json.dumps({"bias": round(b, 3), **{n: round(float(v), 3) for n, v in zip(SIGNS, w)}, "odds_unasked": round(float(np.median(x[y, 1])), 2)}))


if __name__ == "__main__":
    main(*sys.argv[1:3])
