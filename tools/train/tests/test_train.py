"""The tokenizer equals the library's, packing equals separate prompts, and exports load in transformers."""
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import answers  # noqa: E402
import evaluate  # noqa: E402
import greedy  # noqa: E402
import model as M  # noqa: E402
import packing  # noqa: E402
import tasks  # noqa: E402
import tok  # noqa: E402
import train  # noqa: E402
import world  # noqa: E402
from export import export, load  # noqa: E402

SHIPPED = os.path.join(os.path.dirname(__file__), "..", "..", "..", "internal", "demo", "model")


@pytest.fixture(scope="module")
def text():
    return tok.Text(SHIPPED, 64)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return M.Model(M.Config(**M.MICRO)).eval()


def test_tokenizer_equals_the_library(text):
    from tokenizers import Tokenizer
    ref = Tokenizer.from_file(os.path.join(SHIPPED, "tokenizer.json"))
    r = random.Random(1)
    for seed in range(60):
        s = world.make(seed, size="plain", clean=True)
        for name in tasks.STILL_TASKS:
            it = tasks.ask(s, name, r)
            for x in it[:2]:
                assert text.encode(x) == ref.encode(x, add_special_tokens=False).ids
            assert text.decode(text.encode(it.answer)) == it.answer
    want = f"<|im_start|>system\n{tok.SYSTEM}<|im_end|>\n<|im_start|>user\n<img>" + "<IMG_CONTEXT>" * 64 + "</img>\n"
    assert text.prefix(1, True) == ref.encode(want, add_special_tokens=False).ids


def test_labels_are_single_tokens(text):
    for x in list("ABCDEFGHI123") + ["Yes", "No"]:
        assert len(text.encode(x)) == 1


def test_a_chunk_is_what_its_prompts_are_alone(text, net):
    """Logits of a packed row's answers equal those of each prompt run by itself."""
    p = packing.Packer(text, 5_000_000)
    img, ids, seg, br, pos, at, w, *_ = p.chunk()
    i = 0
    with torch.no_grad():
        feats = net.vision(torch.from_numpy(img))
        T = lambda x: torch.from_numpy(x.astype(np.int64))
        x = net.embed(T(ids), feats, text.img)
        packed = net.llm(x[i:i + 1], T(pos)[i:i + 1], M.branch_mask(T(seg)[i:i + 1], T(br)[i:i + 1], torch.float32))
        for k in range(2):
            for b in range(1, 4):
                keep = np.flatnonzero((seg[i] == k) & ((br[i] == 0) | (br[i] == b)))
                if not (br[i][keep] == b).any():
                    continue
                n = len(keep)
                mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
                alone = net.llm(x[i:i + 1, keep], torch.arange(n)[None], mask)
                assert torch.allclose(alone[0], packed[0, keep], atol=2e-4)


def test_image_features_go_to_image_positions(text, net):
    ids = torch.tensor([[1, text.img, 2], [text.img, text.img, 3]])
    feats = torch.randn(1, 64, net.c.dim)
    x = net.embed(ids, feats, text.img)
    assert torch.equal(x[0, 1], feats[0, 0]) and torch.equal(x[1, 1], feats[0, 2])
    assert torch.equal(x[1, 2], net.llm.embed.weight[3])


def test_cached_generation_equals_full_forward(text, net):
    items = [(answers.pictures_of(world.make(s, size="plain")), "Describe the image.", False) for s in (1, 2)]
    for (tiles, q, _), (got, _) in zip(items, greedy.generate(net, text, items, 6, "cpu")):
        ids = text.prefix(1) + text.ask(q)
        out = []
        with torch.no_grad():
            feats = net.vision(torch.from_numpy(np.stack([np.asarray(t) for t in tiles])))
            for _ in range(6):
                x = net.embed(torch.tensor([ids + out]), feats, text.img)
                n = x.shape[1]
                h = net.llm(x, torch.arange(n)[None], torch.full((n, n), float("-inf")).triu(1)[None, None])
                out.append(int(net.llm.head(h[0, -1]).argmax()))
        assert text.decode(out) == got


def test_export_loads_back_and_in_transformers(text, net, tmp_path):
    from transformers import InternVLConfig, InternVLForConditionalGeneration
    export(net, str(tmp_path), SHIPPED)
    twin = M.Model(M.Config(**M.MICRO)).eval()
    load(twin, str(tmp_path))
    assert json.load(open(tmp_path / "config.json"))["architectures"] == ["InternVLChatModel"]
    ids = json.load(open(os.path.join(SHIPPED, "added_tokens.json")))
    cfg = {k: v for k, v in M.native_config(twin.c, ids).items() if k not in ("architectures", "model_type")}
    hf = InternVLForConditionalGeneration(InternVLConfig(**cfg)).eval().float()
    ren = lambda k: k.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head", "lm_head") if k.startswith("language_model") else "model." + k
    missing, extra = hf.load_state_dict({ren(k): v for k, v in M.native_state(twin).items()}, strict=False)
    assert not missing and not extra
    s = world.make(5, "ui", size="multi")
    tiles = answers.pictures_of(s)
    row = torch.tensor([text.prefix(len(tiles)) + text.ask("Describe the image.")])
    u8 = torch.from_numpy(np.stack([np.asarray(t) for t in tiles]))
    with torch.no_grad():
        x = (u8.permute(0, 3, 1, 2).float() / 255 - twin.vision.mean) / twin.vision.std
        want = hf(input_ids=row, pixel_values=x, attention_mask=torch.ones_like(row)).logits
        n = row.shape[1]
        got = twin.llm.head(twin.llm(twin.embed(row, twin.vision(u8), text.img), torch.arange(n)[None], torch.full((n, n), float("-inf")).triu(1)[None, None]))
    assert (got - want).norm() / want.norm() < 1e-5


def test_muon_steps_are_nearly_orthogonal():
    u = train.orthogonal(torch.randn(3, 48, 32))
    sv = torch.linalg.svdvals(u)
    assert .5 < float(sv.min()) and float(sv.max()) < 1.5


def test_rate_warms_up_holds_and_falls():
    f = lambda t: train.rate(t, 100, 10, .4, .02)
    assert f(0) < .05 and f(5) == .5 and f(30) == 1 and abs(f(80) - .51) < .01 and abs(f(100) - .02) < 1e-9


def test_focus_draws_domains_and_tasks_more_often(text):
    asked = lambda focus: [packing.plan(world.make(seed, "ui"), random.Random(seed), focus) for seed in range(200)]
    share = lambda plans: sum(p.count("judge") for p in plans)
    assert share(asked({"judge": 4})) > 2 * share(asked({}))
    p = packing.Packer(text, 5_000_000, focus={"medical_bio": 50})
    domains = [p.sample(0, 16)[0].domain for _ in range(60)]
    assert domains.count("medical_bio") > 35
    assert train.parse_focus("video=2,claim=.5") == {"video": 2, "claim": .5}
    with pytest.raises(SystemExit, match="--focus cars"):
        train.parse_focus("cars=2")


def smoke(folder, *args):
    """A run of a few steps in a process of its own: it ends by leaving without cleaning up."""
    script = os.path.join(os.path.dirname(train.__file__), "train.py")
    run = subprocess.run([sys.executable, script, "--micro", "--chunks", "1", "--workers", "0", "--score", "0", "--tok", SHIPPED, "--out", str(folder), *args], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with open(folder / "log.jsonl", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def test_a_run_by_steps_repeats_and_goes_on(tmp_path):
    args = "--steps", "11", "--seconds", "11", "--warm", "2", "--lr", "4e-3"
    one, two = smoke(tmp_path / "a", *args), smoke(tmp_path / "b", *args)
    loss = lambda log: [x["loss"] for x in log if "loss" in x]
    assert loss(one) == loss(two) and len(loss(one)) == 2 and loss(one)[1] < loss(one)[0]
    assert one[-1]["event"] == "trained" and one[-1]["steps"] == 12
    more = smoke(tmp_path / "c", "--steps", "5", "--seconds", "5", "--warm", "1", "--lr", "1e-3", "--init", str(tmp_path / "a" / "model"), "--base", "7")
    assert loss(more)[0] < loss(one)[0]


def test_a_step_changes_weights_by_the_rate(text, net):
    m = M.Model(M.Config(**M.MICRO))
    loader = train.Loader(SHIPPED, 64, 0, .1, 0, 0)
    step = train.Step(m, train.optimisers(m, 1e-3, False, "cpu", False), loader, text.img, .5, "cpu")
    before = [p.detach().clone() for p in m.parameters()]
    step.rate(0.)
    out = step(loader.draw(1))
    assert out.shape == (5,) and torch.isfinite(out).all()
    assert all(torch.equal(a, b) for a, b in zip(before, m.parameters()))
    step.rate(1e-3)
    step(loader.draw(1))
    assert not any(torch.equal(a, b) for a, b in zip(before, m.parameters()) if b.ndim == 2 and b.grad is not None and b.grad.abs().sum() > 0)
