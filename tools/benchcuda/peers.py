#!/usr/bin/env python3
"""What PyTorch and transformers give on the same shape and card, on random weights.

    peers.py [--device cuda|cpu] [--shape 8b|tiny] [--tests tg,pp,vit,ttft] [--seconds N]

One JSON object a result on standard output: peer, test (in the words of `metacap bench`), unit, samples.

torch         a decode step written by hand: fused matrices, torch.compile on the parts between attention, SDPA over a full
              cache, the whole step in one CUDA graph; prefill and encoder through the same pieces. The best that PyTorch
              does without kernels of its own.
transformers  InternVLForConditionalGeneration as published: encoder with projector, prefill, request to first token.
Timing: median of samples that each last at least 20 ms, after warming up; nothing is copied from the host meanwhile.
"""
import argparse, json, sys, time, traceback

import torch
import torch.nn.functional as F

SHAPES = {
    "8b": dict(layers=36, width=4096, ffn=12288, heads=32, kv=8, dim=128, vocab=151936, depth=2304, tiles=8, image=256,
               vit=dict(layers=24, width=1024, ffn=4096, heads=16, side=448), batches=(1, 8, 64), tile_counts=(8, 13)),
    "tiny": dict(layers=2, width=128, ffn=256, heads=4, kv=2, dim=32, vocab=1000, depth=48, tiles=2, image=16,
                 vit=dict(layers=1, width=64, ffn=64, heads=2, side=112), batches=(1, 2), tile_counts=(2,)),
}


class Clock:
    def __init__(self, device):
        self.cuda = device == "cuda"

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize()

    def samples(self, call, count=7, warm=3, least=0.02):
        """Seconds of one call, several times."""
        for _ in range(warm):
            call()
        self.sync()
        reps, out = 1, []
        while len(out) < count:
            start = time.perf_counter()
            for _ in range(reps):
                call()
            self.sync()
            took = time.perf_counter() - start
            if took < least and reps < 4096:
                reps *= 2
                continue
            out.append(took / reps)
        return out

    def graph(self, call):
        """call as a recorded graph, on a GPU."""
        if not self.cuda:
            return call
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                call()
        torch.cuda.synchronize()
        g = torch.cuda.CUDAGraph()
        with torch.cuda.graph(g):
            call()
        return g.replay


def rms(x, w):
    f = x.float()
    return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * w


def turn(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Decoder:
    """A decoder of random weights with a key/value cache that is full up to its last token."""

    def __init__(self, s, device):
        self.s, self.device = s, device
        new = lambda *shape: torch.randn(*shape, device=device, dtype=torch.bfloat16) * 0.02
        one = lambda n: torch.ones(n, device=device, dtype=torch.bfloat16)
        c, f, d, h, k = s["width"], s["ffn"], s["dim"], s["heads"], s["kv"]
        self.layers = [dict(n1=one(c), n2=one(c), qn=one(d), kn=one(d), qkv=new((h + 2 * k) * d, c), out=new(c, h * d), gu=new(2 * f, c), down=new(c, f))
                       for _ in range(s["layers"])]
        self.norm, self.head, self.table = one(c), new(s["vocab"], c), new(s["vocab"], c)
        wrap = (lambda f: torch.compile(f, dynamic=False)) if device == "cuda" else (lambda f: f)
        self.before, self.after, self.choose = wrap(self._before), wrap(self._after), wrap(self._choose)

    def _before(self, x, n1, qkv, qn, kn, cos, sin):
        s = self.s
        b, t, _ = x.shape
        q, k, v = F.linear(rms(x, n1), qkv).view(b, t, s["heads"] + 2 * s["kv"], s["dim"]).split([s["heads"], s["kv"], s["kv"]], 2)
        return turn(rms(q, qn), cos, sin), turn(rms(k, kn), cos, sin), v

    def _after(self, x, o, out, n2, gu, down):
        x = x + F.linear(o, out)
        g, u = F.linear(rms(x, n2), gu).chunk(2, -1)
        return x + F.linear(F.silu(g) * u, down)

    def _choose(self, x):
        return F.linear(rms(x, self.norm), self.head).float().argmax(-1)

    def angles(self, tokens):
        a = torch.rand(1, tokens, 1, self.s["dim"], device=self.device) * 6
        return a.cos().to(torch.bfloat16), a.sin().to(torch.bfloat16)

    def step(self, batch):
        """One token for each of batch sequences at the shape's depth."""
        s = self.s
        shape = (s["layers"], batch, s["depth"], s["kv"], s["dim"])
        keys = torch.randn(*shape, device=self.device, dtype=torch.bfloat16)
        values = torch.randn(*shape, device=self.device, dtype=torch.bfloat16)
        ids = torch.zeros(batch, 1, dtype=torch.long, device=self.device)
        at = torch.tensor([s["depth"] - 1], device=self.device)
        cos, sin = self.angles(1)

        def run():
            x = F.embedding(ids, self.table)
            for i, l in enumerate(self.layers):
                q, k, v = self.before(x, l["n1"], l["qkv"], l["qn"], l["kn"], cos, sin)
                keys[i].index_copy_(1, at, k)
                values[i].index_copy_(1, at, v)
                o = F.scaled_dot_product_attention(q.transpose(1, 2), keys[i].transpose(1, 2), values[i].transpose(1, 2), enable_gqa=True)
                x = self.after(x, o.transpose(1, 2).reshape(batch, 1, -1), l["out"], l["n2"], l["gu"], l["down"])
            ids.copy_(self.choose(x))

        return run

    def prefill(self):
        s = self.s
        x0 = torch.randn(1, s["depth"], s["width"], device=self.device, dtype=torch.bfloat16) * 0.02
        cos, sin = self.angles(s["depth"])

        def run():
            x = x0
            for l in self.layers:
                q, k, v = self.before(x, l["n1"], l["qkv"], l["qn"], l["kn"], cos, sin)
                o = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True)
                x = self.after(x, o.transpose(1, 2).reshape(1, s["depth"], -1), l["out"], l["n2"], l["gu"], l["down"])
            return self.choose(x[:, -1:])

        return run


def transformers_model(s, device):
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    v = s["vit"]
    cfg = InternVLConfig(
        vision_config=dict(model_type="internvl_vision", hidden_size=v["width"], num_hidden_layers=v["layers"], num_attention_heads=v["heads"],
                           intermediate_size=v["ffn"], image_size=[v["side"]] * 2, patch_size=[14, 14], attention_bias=True),
        text_config=dict(model_type="qwen3", vocab_size=s["vocab"], hidden_size=s["width"], intermediate_size=s["ffn"], num_hidden_layers=s["layers"],
                         num_attention_heads=s["heads"], num_key_value_heads=s["kv"], head_dim=s["dim"], max_position_embeddings=40960,
                         rope_theta=1e6, rms_norm_eps=1e-6, tie_word_embeddings=False),
        image_token_id=s["vocab"] - 1, image_seq_length=s["image"], tie_word_embeddings=False)
    with torch.device(device):
        m = InternVLForConditionalGeneration._from_config(cfg, dtype=torch.bfloat16)
    return m.to(device, torch.bfloat16).eval()


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    a.add_argument("--shape", default="8b", choices=sorted(SHAPES))
    a.add_argument("--tests", default="tg,pp,vit,ttft")
    a.add_argument("--seconds", type=float, default=240, help="no test begins after this many")
    o = a.parse_args()
    s, clock, began = SHAPES[o.shape], Clock(o.device), time.time()
    if o.device == "cuda" and not torch.cuda.is_available():
        sys.exit("peers.py: no CUDA device in this PyTorch; --device cpu --shape tiny tries the script")
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    wanted = o.tests.split(",")
    text = s["depth"] - s["tiles"] * s["image"]

    def put(peer, test, unit, samples):
        print(json.dumps(dict(peer=peer, test=test, unit=unit, samples=samples, torch=torch.__version__, seconds=round(time.time() - began, 1))), flush=True)

    def attempt(name, call):
        if time.time() - began > o.seconds:
            print(f"peers.py: {name} left out: {o.seconds:.0f} s are over", file=sys.stderr)
            return
        try:
            call()
        except Exception:  # the other tests still tell something
            traceback.print_exc()
        if clock.cuda:
            torch.cuda.empty_cache()

    if {"vit", "ttft"} & set(wanted):
        model = transformers_model(s, o.device)
        side = s["vit"]["side"]
        pixels = lambda n: torch.randn(n, 3, side, side, device=o.device, dtype=torch.bfloat16)

        def encoder(tiles, recorded):
            px = pixels(tiles)
            call = lambda: model.get_image_features(pixel_values=px)
            if recorded:
                call = clock.graph(call)
            put("torch graph" if recorded else "transformers", f"vit{tiles}", "tiles/s", [tiles / t for t in clock.samples(call)])

        def first():
            words = lambda n: torch.randint(0, s["vocab"] - 2, (1, n))
            ids = torch.cat([words(text // 2), torch.full((1, s["tiles"] * s["image"]), s["vocab"] - 1), words(text - text // 2)], 1).to(o.device)
            inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels(s["tiles"]))
            call = lambda: model(**inputs, logits_to_keep=1).logits.argmax(-1).cpu()
            put("transformers", f"ttft{s['tiles']}@{text}", "ms", [1e3 * t for t in clock.samples(call)])

        if "ttft" in wanted:
            attempt("ttft", first)
        for n in s["tile_counts"] if "vit" in wanted else ():
            attempt(f"vit{n}", lambda: encoder(n, False))
            attempt(f"vit{n} recorded", lambda: encoder(n, True))
        del model
    if not {"tg", "pp"} & set(wanted):
        return
    d = Decoder(s, o.device)
    for b in s["batches"] if "tg" in wanted else ():
        name = f"tg64@{s['depth']}" + (f"*{b}" if b > 1 else "")
        attempt(name, lambda: put("torch graph", name, "t/s", [b / t for t in clock.samples(clock.graph(d.step(b)))]))
    if "pp" in wanted:
        attempt("pp", lambda: put("torch", f"pp{s['depth']}", "t/s", [s["depth"] / t for t in clock.samples(d.prefill())]))


main()
