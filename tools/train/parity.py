"""Compares greedy captions of the Go engine with transformers' InternVLForConditionalGeneration, both in float32.

    python parity.py MODEL --go ../../bin/drawneval --n 56 --out parity.json

The engine writes its captions. transformers then reads each caption behind its prompt in one pass: where every token is the
argmax of the logits before it, greedy decoding in transformers gives the same caption, token by token. The first position
where it is not is reported with its margin: how far the logit of the engine's token lies under the largest one.
"""
import argparse
import json

import numpy as np
import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from answers import Engine, pictures_of
from evaluate import plain, samples, wilson
from export import load
from model import Config, Model, native_config, native_state
from tok import Text


def reference(folder):
    """The checkpoint in transformers, float32."""
    m = Model(Config())
    load(m, folder)
    ids = json.load(open(f"{folder}/added_tokens.json"))
    cfg = {k: v for k, v in native_config(m.c, ids).items() if k not in ("architectures", "model_type")}
    hf = InternVLForConditionalGeneration(InternVLConfig(**cfg)).eval().float()
    rename = lambda k: k.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head", "lm_head") if k.startswith("language_model") else "model." + k
    missing, extra = hf.load_state_dict({rename(k): v for k, v in native_state(m).items()}, strict=False)
    if missing or extra:
        raise SystemExit(f"parity: tensors differ: {missing} {extra}")
    return hf, m.vision.mean, m.vision.std


@torch.no_grad()
def compare(hf, mean, std, tx, item, answer):
    """Reads an answer in transformers: the first difference, the least margin, and the largest distance of log-probabilities."""
    pictures, prompt, video = item
    ids = answer["ids"]
    row = tx.prefix(len(pictures), False, video) + tx.ask(prompt)
    u8 = torch.from_numpy(np.stack([np.asarray(t) for t in pictures]))
    ids_all = torch.tensor([row + ids])
    lg = hf(input_ids=ids_all, pixel_values=(u8.permute(0, 3, 1, 2).float() / 255 - mean) / std, attention_mask=torch.ones_like(ids_all)).logits[0, len(row) - 1:-1]
    want = lg.argmax(-1).tolist()
    logs = torch.log_softmax(lg.double(), -1)
    same = next((i for i, (a, b) in enumerate(zip(ids, want)) if a != b), len(ids))
    top = lg.topk(2).values
    ours = torch.tensor(answer["logprobs"][:same], dtype=torch.double)
    out = {"tokens": len(ids), "same": same, "least_margin": float((top[:, 0] - top[:, 1])[:same].min()) if same else None,
           "logprob_distance": float((logs[:same].gather(1, torch.tensor(ids[:same])[:, None])[:, 0] - ours).abs().max()) if same else 0.}
    if same < len(ids):
        out |= {"engine": tx.decode([ids[same]]), "torch": tx.decode([want[same]]), "margin": float(lg[same, want[same]] - lg[same, ids[same]])}
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("--go", required=True, help="path of the built cmd/drawneval")
    ap.add_argument("--n", type=int, default=56, help="pictures a domain")
    ap.add_argument("--base", type=int, default=300_000)
    ap.add_argument("--dtype", default="f32", help="of the engine")
    ap.add_argument("--answers", default="")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--out", default="parity.json")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    ss = samples(a.n, a.base)
    items = [(pictures_of(s), plain("caption_detailed")(s), s.domain == "video") for s in ss]
    engine = Engine(a.go, ["-m", a.model, "-threads", str(a.threads), "-dtype", a.dtype, "-ids"], a.answers)
    got = engine.answers([(item, 200, 0) for item in items])
    tx, (hf, mean, std) = Text(a.model, Config().image_tokens), reference(a.model)
    rows = [{"domain": s.domain, "seed": s.seed, "tiles": len(item[0]), **compare(hf, mean, std, tx, item, answer)} for s, item, answer in zip(ss, items, got)]
    differ = [r for r in rows if r["same"] < r["tokens"]]
    res = {"args": vars(a), "torch": torch.__version__, "pictures": len(rows), "tokens": sum(r["tokens"] for r in rows), "identical": wilson(len(rows) - len(differ), len(rows)),
           "largest_logprob_distance": max(r["logprob_distance"] for r in rows), "least_margin_of_identical": min(r["least_margin"] for r in rows if r["same"] == r["tokens"]), "different": differ}
    with open(a.out, "w", encoding="utf-8") as f:
        json.dump(res, f, indent=1, ensure_ascii=False)
    print(json.dumps(res, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
