"""The tokenizer equals the library's, packing equals separate prompts, and exports load in transformers."""
import contextlib
import json
import os
import queue
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import answers  # noqa: E402
import evaluate  # noqa: E402
import greedy  # noqa: E402
import model as M  # noqa: E402
import packing  # noqa: E402
import support  # noqa: E402
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


def test_chunks_stay_full(text):
    """What finds no room waits, and must not take the place of what does."""
    p = packing.Packer(text, 6_000_000, multi=.3, focus={"video": 4})
    chunks = [p.chunk() for _ in range(40)]
    assert min((c[2] >= 0).mean() for c in chunks) > .7 and np.mean([(c[2] >= 0).mean() for c in chunks]) > .85
    assert min((c[6] > 0).sum() for c in chunks) > packing.ROWS * 50
    assert len(p.waiting) <= 4 * packing.MISSES


def test_images_follow_the_order_of_the_rows(text):
    rows = [packing.Row() for _ in range(packing.ROWS)]
    tile = lambda k: (Image.new("RGB", (224, 224), (k, k, k)), [])
    item = [text.ask("Describe the image."), text.answer("A note.")]
    for row, shades in ((1, [1]), (0, [2, 3]), (1, [4])):
        rows[row].add(text.prefix(len(shades)), [item], [tile(k) for k in shades])
    img, ids, *_ = packing.arrays(text, rows, random.Random(0))
    assert img[:5, 0, 0, 0].tolist() == [2, 3, 1, 4, 127]
    assert [(row == text.img).sum() for row in ids[:3]] == [128, 128, 0]


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


def tensors(path):
    """{name: (offsets in the file, bytes)} of a safetensors file."""
    data = path.read_bytes()
    n = 8 + int.from_bytes(data[:8], "little")
    return {k: (v["data_offsets"], data[n + v["data_offsets"][0]:n + v["data_offsets"][1]]) for k, v in json.loads(data[8:n]).items() if k != "__metadata__"}


def test_an_export_of_the_shipped_weights_is_the_shipped_files(tmp_path):
    m = M.Model(M.Config())
    load(m, SHIPPED)
    export(m, str(tmp_path), SHIPPED)
    shards = [f for f in os.listdir(SHIPPED) if f.endswith(".safetensors")]
    assert len(shards) == 3
    for f in [*shards, "model.safetensors.index.json", "config.json"]:
        assert (tmp_path / f).read_bytes() == open(os.path.join(SHIPPED, f), "rb").read(), f


def test_a_run_on_few_tensors_leaves_all_others_byte_for_byte(tmp_path):
    smoke(tmp_path / "a", "--steps", "2", "--seconds", "2", "--warm", "1")
    only = r"^mlp1\.|encoder\.layers\.1\.|model\.layers\.0\.self_attn"
    log = smoke(tmp_path / "b", "--steps", "3", "--seconds", "3", "--warm", "1", "--glyph", "0", "--init", str(tmp_path / "a" / "model"), "--train-only", only, "--focus", "shapes=9")
    old, new = tmp_path / "a" / "model", tmp_path / "b" / "model"
    files = sorted(f for f in os.listdir(old) if f.endswith(".safetensors"))
    assert files == sorted(f for f in os.listdir(new) if f.endswith(".safetensors"))
    changed, kept, size = set(), set(), 0
    for f in files:
        a, b = tensors(old / f), tensors(new / f)
        assert {k: at for k, (at, _) in a.items()} == {k: at for k, (at, _) in b.items()}
        for k in a:
            (kept if a[k] == b[k] else changed).add(k)
            size += len(a[k][1]) // 2 if train.re.search(only, k) else 0
    named = {k for k in changed | kept if train.re.search(only, k)}
    assert changed <= named and len(kept) > len(named)
    assert {k for k in named if k.endswith("weight") and "norm" not in k} <= changed, "every matrix named is trained"
    assert log[0]["trained"] == size


def test_only_tensors_of_the_files_can_be_named(net):
    with pytest.raises(SystemExit, match="no tensor has such a name"):
        train.freeze(net, "decoder", 0)


def test_a_focus_on_plain_shapes_draws_them_by_themselves(text):
    p = packing.Packer(text, 5_000_000, outside=0, video=0, focus={"shapes": 200})
    drawn = [p.sample(0, 16)[0] for _ in range(80)]
    assert len({s.seed for s in drawn}) == 80
    share = sum(s.overview == packing.scenes.SHAPES for s in drawn) / 80
    assert .5 < share < .95, "200 times a weight of 1.5 beside one of 108"


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


class FakeGraph:
    """Stands in for a CUDA graph on the CPU: a replay does what `again` does."""

    def __init__(self, again):
        self.again = again

    def __call__(self):
        return self

    def replay(self):
        self.again()


class FakeStream:
    def wait_stream(self, other):
        pass


def captured(monkeypatch, text, again):
    """A captured step of a micro model with everything of CUDA replaced."""
    m = M.Model(M.Config(**M.MICRO))
    loader = train.Loader(SHIPPED, 64, 0, .1, 0, 0)
    step = train.Step(m, train.optimisers(m, 1e-3, False, "cpu", False), loader, text.img, .5, "cpu")
    step.graph, step.side, step.EAGER = True, FakeStream(), 2
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda *a, **k: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph(lambda: again(step)))
    step.rate(1e-3)
    return step, loader


def test_a_replayed_step_reads_new_rows(monkeypatch, text):
    seen = []

    def again(step):
        seen.append(step.rows.clone())
        step.out.copy_(step._eager(step.rows))
    step, loader = captured(monkeypatch, text, again)
    rows = [loader.draw(1) for _ in range(4)]
    out = [step(r) for r in rows]
    assert [torch.equal(a, b) for a, b in zip(seen, rows[2:])] == [True, True]
    assert len(step.moved) == 2 and all(x > 0 for x in step.moved)
    assert not torch.equal(out[2], out[3])


def test_a_replay_that_does_not_train_is_refused(monkeypatch, text):
    step, loader = captured(monkeypatch, text, lambda step: None)
    rows = loader.draw(1)
    step(rows)
    step(rows)
    with pytest.raises(train.Unusable, match="moved the weights by 0"):
        step(rows)


def test_a_loss_far_above_the_first_is_bad():
    w = train.Watch(.08)
    assert not w.bad(.3) and w.bad(.4) and w.bad(float("nan"))


def test_a_pool_gives_new_chunks_before_old_ones():
    class Source:
        bytes, slots = 3, 100

        def __init__(self):
            self.shared = torch.arange(self.slots, dtype=torch.uint8)[:, None].repeat(1, self.bytes)
            self.full, self.free = queue.Queue(), queue.Queue()
    source = Source()
    pool = train.Pool(source, 12, "cpu")

    def fill(ks):
        for k in ks:
            source.full.put(k)
        for _ in ks:
            source.free.get(timeout=5)
    fill(range(6))
    first = pool.draw(2)[:, 0].tolist() + pool.draw(2)[:, 0].tolist()
    assert first == [0, 1, 2, 3] and pool.reused == 0
    assert pool.draw(1)[0, 0] == 4
    rest = pool.draw(2)[:, 0].tolist()
    assert rest[0] == 5 and rest[1] in [*first, 4] and pool.reused == 1
    fill(range(6, 22, 2))  # 6 free places, then those of used chunks but the last four
    assert pool.draw(4)[:, 0].tolist() == [6, 8, 10, 12]
    assert len(pool.fresh) + len(pool.used) == 12


def test_the_glyph_loss_reaches_behind_its_head_by_degrees(text):
    m = M.Model(M.Config(**M.MICRO))
    batch = train.Loader(SHIPPED, 64, 0, .1, 0, 0)
    batch = batch.unpack(batch.draw(1))

    def gradients(reach):
        m.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        train.losses(m, batch, text.img, "cpu", reach)[2].backward()
        return m.vision.patch.weight.grad.norm().item(), m.glyphs.inp.weight.grad.norm().item()
    (none, head), (half, _), (full, same) = gradients(0.), gradients(.5), gradients(1.)
    assert none == 0 < half < full and half == pytest.approx(full / 2, rel=.02) and head == pytest.approx(same, rel=.02)


def test_support_weights_are_found_again():
    g = np.random.default_rng(0)
    x = np.stack([g.uniform(-8, 0, 4000), g.uniform(-6, 6, 4000), g.integers(0, 4, 4000), g.integers(0, 3, 4000)], 1)
    odds = x @ np.array([.5, .3, 1., 0.]) - .5
    y = g.random(4000) < 1 / (1 + np.exp(-odds))
    b, w = support.fit(x, y)
    assert abs(b + .5) < .25 and np.allclose(w, [.5, .3, 1., 0.], atol=.12) and (w >= 0).all()
    assert support.auc(np.array([1., 2., 3.]), np.array([False, True, True])) == 1 and support.auc(np.zeros(4), np.array([True, False] * 2)) == .5


def test_support_reads_records():
    record = {"checks": {"claims": [{"t": "A.", "logp": -20., "claim": .5, "views": 3, "agents": 1}, {"t": "B.", "logp": -1., "claim": 1., "views": 0, "agents": 0}, {"t": "C.", "logp": -1., "views": 0, "agents": 0}]}}
    assert list(support.rows(record, {"A."})) == [([-8., 0., 3, 1], True), ([-1., 6., 0, 0], False)]
