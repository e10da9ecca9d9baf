"""The InternVL3.5 architecture at a tiny size in plain torch, for training, with export to both published layouts.

The same tensors as InternVLChatModel (InternViT, pixel shuffle v2, mlp1, Qwen3); `remote_state` names them as the
remote-code layout does, `native_state` as transformers' InternVLForConditionalGeneration.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    image: int = 224     # tile side, pixels
    patch: int = 14
    v_dim: int = 256
    v_heads: int = 4     # head size 64, as in the 8B model
    v_layers: int = 8
    v_mlp: int = 1024
    dim: int = 320
    heads: int = 4
    kv: int = 2
    head_dim: int = 128  # as in the 8B model
    layers: int = 5
    mlp: int = 864
    vocab: int = 2048
    theta: float = 1e6
    eps: float = 1e-6
    max_tiles: int = 4   # dynamic tiling, the thumbnail not counted

    @property
    def image_tokens(self):
        return (self.image // self.patch // 2) ** 2


MICRO = dict(v_dim=64, v_heads=1, v_layers=2, v_mlp=128, dim=64, heads=2, kv=1, head_dim=32, layers=2, mlp=128)
CHARS = "\0" + "".join(map(chr, range(33, 127)))  # classes of the glyph head; 0 is "no glyph here"
SLOTS = (4, 8)                                    # rows and columns of glyph positions inside a 28 x 28 token


class VisionBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.v_heads
        self.norm1, self.norm2 = nn.LayerNorm(c.v_dim, eps=1e-6), nn.LayerNorm(c.v_dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(c.v_dim, 3 * c.v_dim), nn.Linear(c.v_dim, c.v_dim)
        self.fc1, self.fc2 = nn.Linear(c.v_dim, c.v_mlp), nn.Linear(c.v_mlp, c.v_dim)
        self.ls1, self.ls2 = nn.Parameter(torch.full((c.v_dim,), .5)), nn.Parameter(torch.full((c.v_dim,), .5))

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.ls1 * self.proj(a)
        return x + self.ls2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vision(nn.Module):
    """InternViT, pixel shuffle v2 and mlp1: uint8 tiles [I,H,W,3] -> [I, image_tokens, dim]."""

    def __init__(self, c):
        super().__init__()
        self.c, g = c, c.image // c.patch
        self.patch = nn.Linear(3 * c.patch ** 2, c.v_dim)
        self.cls = nn.Parameter(torch.randn(1, 1, c.v_dim) * .02)
        self.pos = nn.Parameter(torch.randn(1, g * g + 1, c.v_dim) * .02)
        self.blocks = nn.ModuleList(VisionBlock(c) for _ in range(c.v_layers))
        self.ln, self.l1, self.l2 = nn.LayerNorm(4 * c.v_dim), nn.Linear(4 * c.v_dim, c.dim), nn.Linear(c.dim, c.dim)
        self.register_buffer("mean", torch.tensor([.485, .456, .406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([.229, .224, .225]).view(1, 3, 1, 1), persistent=False)

    def pixels(self, u8, augment=False):
        """Normalised patches [I,P,3*patch*patch]."""
        c, g, p = self.c, self.c.image // self.c.patch, self.c.patch
        x = u8.permute(0, 3, 1, 2).float() / 255
        if augment:
            x = jitter(x)
        x = (x - self.mean) / self.std
        return x.view(-1, 3, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(-1, g * g, 3 * p * p)

    def embed(self, x):
        return torch.cat([self.cls.expand(len(x), -1, -1).to(x.dtype), x], 1) + self.pos

    def merge(self, x):
        c, g = self.c, self.c.image // self.c.patch
        x = x[:, 1:].view(-1, g // 2, 2, g // 2, 2, c.v_dim).permute(0, 1, 3, 2, 4, 5).reshape(-1, g * g // 4, 4 * c.v_dim)
        return self.l2(F.gelu(self.l1(self.ln(x))))

    def forward(self, u8, augment=False):
        x = self.embed(self.patch(self.pixels(u8, augment)))
        for b in self.blocks:
            x = b(x)
        return self.merge(x)


def jitter(x):
    """Light, contrast, slight blur and noise, each picture its own: x is [I,3,H,W] in 0..1."""
    n = len(x)
    u = torch.rand(n, 6, 1, 1, 1, device=x.device)
    soft = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    mix = (u[:, 0] - .65).clamp(min=0) * 1.2                      # a third of the pictures, up to 0.42
    x = x + (soft - x) * mix
    on = (u[:, 1] < .5).float()
    x = (x - .5) * (1 + on * (u[:, 2] - .5) * .3) + .5 + on * (u[:, 3] - .5) * .12
    return (x + torch.randn_like(x) * (u[:, 4] * (u[:, 5] < .6)) * .03).clamp(0, 1)


class RMS(nn.Module):
    def __init__(self, d, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x):
        y = x.float()
        return (self.weight * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps))).to(x.dtype)


class Layer(nn.Module):
    """A Qwen3 decoder layer."""

    def __init__(self, c):
        super().__init__()
        self.heads, self.kv, self.hd = c.heads, c.kv, c.head_dim
        self.q, self.k, self.v = (nn.Linear(c.dim, n * c.head_dim, bias=False) for n in (c.heads, c.kv, c.kv))
        self.o = nn.Linear(c.heads * c.head_dim, c.dim, bias=False)
        self.gate, self.up, self.down = nn.Linear(c.dim, c.mlp, bias=False), nn.Linear(c.dim, c.mlp, bias=False), nn.Linear(c.mlp, c.dim, bias=False)
        self.n1, self.n2, self.qn, self.kn = RMS(c.dim, c.eps), RMS(c.dim, c.eps), RMS(c.head_dim, c.eps), RMS(c.head_dim, c.eps)

    def qkv(self, x, cos, sin):
        b, n, _ = x.shape
        h = self.n1(x)

        def rope(t):
            u, w = t.chunk(2, -1)
            return t * cos + torch.cat([-w, u], -1) * sin
        q = rope(self.qn(self.q(h).view(b, n, self.heads, self.hd)).transpose(1, 2))
        k = rope(self.kn(self.k(h).view(b, n, self.kv, self.hd)).transpose(1, 2))
        v = self.v(h).view(b, n, self.kv, self.hd).transpose(1, 2)
        return q.to(v.dtype), k.to(v.dtype), v

    def rest(self, x, a):
        x = x + self.o(a.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))

    def forward(self, x, cos, sin, mask):
        q, k, v = self.qkv(x, cos, sin)
        n = self.heads // self.kv
        return self.rest(x, F.scaled_dot_product_attention(q, k.repeat_interleave(n, 1), v.repeat_interleave(n, 1), attn_mask=mask))

    def step(self, x, cos, sin, cache, mask):
        """Forward with a growing key/value cache (evaluation)."""
        q, k, v = self.qkv(x, cos, sin)
        if cache:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        n = self.heads // self.kv
        a = F.scaled_dot_product_attention(q, k.repeat_interleave(n, 1), v.repeat_interleave(n, 1), attn_mask=mask)
        return self.rest(x, a), (k, v)


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed, self.head = nn.Embedding(c.vocab, c.dim), nn.Linear(c.dim, c.vocab, bias=False)
        self.blocks, self.norm = nn.ModuleList(Layer(c) for _ in range(c.layers)), RMS(c.dim, c.eps)

    def rope(self, pos):
        f = pos[..., None].float() * (self.c.theta ** (-torch.arange(0, self.c.head_dim, 2, device=pos.device).float() / self.c.head_dim))
        return torch.cat([f.cos(), f.cos()], -1)[:, None], torch.cat([f.sin(), f.sin()], -1)[:, None]

    def forward(self, x, pos, mask):
        cos, sin = self.rope(pos)
        for b in self.blocks:
            x = b(x, cos, sin, mask)
        return self.norm(x)


class GlyphHead(nn.Module):
    """Reads the character at a position inside an image token. Used in training only: it makes the tower read."""

    def __init__(self, c, width=512):
        super().__init__()
        self.inp, self.out = nn.Linear(c.dim, width), nn.Linear(width, len(CHARS))
        self.slot, self.gain = nn.Embedding(SLOTS[0] * SLOTS[1], width), nn.Embedding(SLOTS[0] * SLOTS[1], width)
        nn.init.ones_(self.gain.weight)

    def forward(self, feats, token, slot):
        f = feats.gather(1, token[..., None].expand(-1, -1, feats.shape[-1]))
        return self.out(F.gelu(self.inp(f) * self.gain(slot) + self.slot(slot)))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.vision, self.llm, self.glyphs = c, Vision(c), Decoder(c), GlyphHead(c)
        for n, p in self.named_parameters():
            if p.ndim == 2 and not any(x in n for x in ("embed", "slot", "gain")):
                nn.init.trunc_normal_(p, std=.8 / math.sqrt(p.shape[1]))
                if n.endswith(("proj.weight", "fc2.weight", ".o.weight", "down.weight")):
                    p.data /= math.sqrt(2 * (c.v_layers if "vision" in n else c.layers))
            elif n.endswith("bias"):
                nn.init.zeros_(p)
        nn.init.normal_(self.llm.embed.weight, std=.05)

    def embed(self, ids, feats, image_id):
        """Token embeddings with the image features in the image positions, in order; spare features are ignored."""
        x = self.llm.embed(ids)
        flat = feats.reshape(-1, feats.shape[-1]).to(x.dtype)
        at, n, k = (ids == image_id).view(-1), ids.numel(), len(flat)
        # where each feature goes; spare ones go to a row past the end. A copy by index has a cheap backward, a gather has not.
        where = torch.full((k + 1,), n, device=ids.device)
        where.scatter_(0, torch.where(at, (at.cumsum(0) - 1).clamp(max=k), k), torch.arange(n, device=ids.device))
        x = torch.cat([x.reshape(n, -1), x.new_zeros(1, x.shape[-1])])
        return x.index_copy(0, where[:k], flat)[:n].view(*ids.shape, -1)

    def shipped(self):
        """Parameters of the exported model (the glyph head is not)."""
        return sum(p.numel() for n, p in self.named_parameters() if not n.startswith("glyphs."))


def branch_mask(seg, br, dtype):
    """A position sees the shared prefix (branch 0) of its sample and its own branch, causally; pads see themselves.

    seg and br are [B,L]: sample of a row and branch of a sample, -1 for pads.
    """
    n = seg.shape[1]
    i = torch.arange(n, device=seg.device)
    ok = (i[:, None] >= i[None]) & (seg[:, None, :] == seg[:, :, None]) & ((br[:, None, :] == 0) | (br[:, None, :] == br[:, :, None]))
    ok = ok | (i[:, None] == i[None])
    return torch.zeros(ok.shape, dtype=dtype, device=seg.device).masked_fill_(~ok, float("-inf"))[:, None]


def _pairs(m):
    """(remote-code name, parameter, shape on disk)."""
    c, v, d = m.c, m.vision, m.llm
    e = "vision_model.embeddings."
    out = [(e + "class_embedding", v.cls, None), (e + "position_embedding", v.pos, None),
           (e + "patch_embedding.weight", v.patch.weight, (c.v_dim, 3, c.patch, c.patch)), (e + "patch_embedding.bias", v.patch.bias, None)]
    both = lambda name, mod: [(name + ".weight", mod.weight, None), (name + ".bias", mod.bias, None)]
    for i, b in enumerate(v.blocks):
        p = f"vision_model.encoder.layers.{i}."
        for name, mod in (("attn.qkv", b.qkv), ("attn.proj", b.proj), ("mlp.fc1", b.fc1), ("mlp.fc2", b.fc2), ("norm1", b.norm1), ("norm2", b.norm2)):
            out += both(p + name, mod)
        out += [(p + "ls1", b.ls1, None), (p + "ls2", b.ls2, None)]
    for name, mod in (("mlp1.0", v.ln), ("mlp1.1", v.l1), ("mlp1.3", v.l2)):
        out += both(name, mod)
    g = "language_model.model."
    out.append((g + "embed_tokens.weight", d.embed.weight, None))
    for i, b in enumerate(d.blocks):
        for name, mod in (("self_attn.q_proj", b.q), ("self_attn.k_proj", b.k), ("self_attn.v_proj", b.v), ("self_attn.o_proj", b.o), ("self_attn.q_norm", b.qn),
                          ("self_attn.k_norm", b.kn), ("mlp.gate_proj", b.gate), ("mlp.up_proj", b.up), ("mlp.down_proj", b.down),
                          ("input_layernorm", b.n1), ("post_attention_layernorm", b.n2)):
            out.append((f"{g}layers.{i}.{name}.weight", mod.weight, None))
    return out + [(g + "norm.weight", d.norm.weight, None), ("language_model.lm_head.weight", d.head.weight, None)]


def named(m):
    """(remote-code name, parameter) of everything in the files."""
    return [(n, p) for n, p, _ in _pairs(m)]


def remote_state(m, dtype=torch.bfloat16):
    """Tensors by their InternVLChatModel names."""
    return {n: (p.view(s) if s else p).detach().to("cpu", dtype).contiguous() for n, p, s in _pairs(m)}


def load_remote(m, state):
    """Loads tensors named as remote_state names them."""
    with torch.no_grad():
        pairs = _pairs(m)
        if {n for n, _, _ in pairs} != set(state):
            raise ValueError(f"tensor names differ: {sorted({n for n, _, _ in pairs} ^ set(state))[:5]}")
        for n, p, _ in pairs:
            p.copy_(state[n].reshape(p.shape))


def native_state(m, dtype=torch.float32):
    """Tensors by transformers' published names, for parity checks against InternVLForConditionalGeneration."""
    ren = (("vision_model.embeddings.class_embedding", "vision_tower.embeddings.cls_token"), ("vision_model.embeddings.position_embedding", "vision_tower.embeddings.position_embeddings"),
           ("vision_model.embeddings.patch_embedding", "vision_tower.embeddings.patch_embeddings.projection"), ("vision_model.encoder.layers.", "vision_tower.encoder.layer."),
           ("attn.proj", "attention.projection_layer"), ("norm1", "layernorm_before"), ("norm2", "layernorm_after"), (".ls1", ".lambda_1"), (".ls2", ".lambda_2"),
           ("mlp1.0", "multi_modal_projector.layer_norm"), ("mlp1.1", "multi_modal_projector.linear_1"), ("mlp1.3", "multi_modal_projector.linear_2"))
    out = {}
    for n, t in remote_state(m, dtype).items():
        for a, b in ren:
            n = n.replace(a, b)
        if "attn.qkv" in n:
            for x, part in zip("qkv", t.chunk(3)):
                out[n.replace("attn.qkv", f"attention.{x}_proj")] = part.contiguous()
        else:
            out[n] = t
    return out


def text_config(c, ids):
    return dict(architectures=["Qwen3ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"],
                head_dim=c.head_dim, hidden_act="silu", hidden_size=c.dim, initializer_range=0.02, intermediate_size=c.mlp, max_position_embeddings=4096,
                max_window_layers=c.layers, model_type="qwen3", num_attention_heads=c.heads, num_hidden_layers=c.layers, num_key_value_heads=c.kv, rms_norm_eps=c.eps,
                rope_scaling=None, rope_theta=c.theta, sliding_window=None, tie_word_embeddings=False, torch_dtype="bfloat16", use_cache=True, use_sliding_window=False, vocab_size=c.vocab)


def remote_config(c, ids):
    """config.json of the InternVLChat remote-code layout."""
    vision = dict(architectures=["InternVisionModel"], attention_dropout=0.0, drop_path_rate=0.0, dropout=0.0, hidden_act="gelu", hidden_size=c.v_dim, image_size=c.image,
                  initializer_factor=1.0, initializer_range=0.02, intermediate_size=c.v_mlp, layer_norm_eps=1e-6, model_type="intern_vit_6b", norm_type="layer_norm",
                  num_attention_heads=c.v_heads, num_channels=3, num_hidden_layers=c.v_layers, patch_size=c.patch, qk_normalization=False, qkv_bias=True, torch_dtype="bfloat16", use_bfloat16=True)
    return dict(architectures=["InternVLChatModel"], downsample_ratio=0.5, dynamic_image_size=True, force_image_size=c.image, llm_config=text_config(c, ids), max_dynamic_patch=c.max_tiles,
                min_dynamic_patch=1, model_type="internvl_chat", pad2square=False, ps_version="v2", select_layer=-1, template="internvl2_5", tie_word_embeddings=False,
                torch_dtype="bfloat16", use_backbone_lora=0, use_llm_lora=0, use_thumbnail=True, vision_config=vision)


def native_config(c, ids):
    """The same model for transformers' InternVLForConditionalGeneration."""
    vision = dict(attention_bias=True, attention_dropout=0.0, hidden_act="gelu", hidden_dropout_prob=0.0, hidden_size=c.v_dim, image_size=[c.image] * 2, intermediate_size=c.v_mlp,
                  layer_norm_eps=1e-6, layer_scale_init_value=0.1, model_type="internvl_vision", norm_type="layer_norm", num_attention_heads=c.v_heads, num_channels=3,
                  num_hidden_layers=c.v_layers, patch_size=[c.patch] * 2, projection_dropout=0.0, use_absolute_position_embeddings=True, use_mask_token=False, use_mean_pooling=True, use_qk_norm=False)
    return dict(architectures=["InternVLForConditionalGeneration"], downsample_ratio=0.5, image_seq_length=c.image_tokens, image_token_id=ids["<IMG_CONTEXT>"], model_type="internvl",
                projector_hidden_act="gelu", text_config=text_config(c, ids), tie_word_embeddings=False, vision_config=vision, vision_feature_layer=-1, vision_feature_select_strategy="default")
