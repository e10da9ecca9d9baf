"""Writes a checkpoint in the InternVLChat remote-code layout, and reads one back."""
import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

import model

SHARD = 12_000_000  # bytes
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja")


def export(m, out, tok):
    """Weights in bf16 in shards, configs and tokenizer; the glyph head goes to aux/ beside it. Returns the bytes of the weights."""
    os.makedirs(out, exist_ok=True)
    state = model.remote_state(m)
    size = lambda t: t.numel() * t.element_size()
    shards, room = [], 0
    for name, t in state.items():
        if not shards or room < size(t):
            shards.append({})
            room = SHARD
        shards[-1][name] = t
        room -= size(t)
    names, where = [], {}
    for i, shard in enumerate(shards):
        f = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, os.path.join(out, f), metadata={"format": "pt"})
        names.append(f)
        where.update(dict.fromkeys(shard, f))
    write = lambda f, x: json.dump(x, open(os.path.join(out, f), "w"), indent=1)
    total = sum(map(size, state.values()))
    write("model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    ids = json.load(open(os.path.join(tok, "added_tokens.json")))
    c = m.c
    write("config.json", model.remote_config(c, ids))
    write("generation_config.json", {"_from_model_config": True, "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]})
    write("preprocessor_config.json", {"crop_size": None, "crop_to_patches": False, "data_format": "channels_first", "default_to_square": True, "do_center_crop": None, "do_convert_rgb": True,
                                       "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [.485, .456, .406], "image_std": [.229, .224, .225],
                                       "image_processor_type": "GotOcr2ImageProcessorFast", "max_patches": c.max_tiles, "min_patches": 1, "processor_class": "InternVLProcessor", "resample": 3,
                                       "rescale_factor": 1 / 255, "size": {"height": c.image, "width": c.image}})
    for f in TOKENIZER:
        shutil.copy(os.path.join(tok, f), os.path.join(out, f))
    aux = os.path.join(out, "aux")
    os.makedirs(aux, exist_ok=True)
    save_file({k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in m.glyphs.state_dict().items()}, os.path.join(aux, "glyphs.safetensors"))
    return total


def load(m, folder):
    """Loads weights, and the glyph head if it is there."""
    state = {}
    for f in sorted(os.listdir(folder)):
        if f.endswith(".safetensors"):
            state.update(load_file(os.path.join(folder, f)))
    model.load_remote(m, state)
    aux = os.path.join(folder, "aux", "glyphs.safetensors")
    if os.path.exists(aux):
        with torch.no_grad():
            for k, p in m.glyphs.state_dict().items():
                p.copy_(load_file(aux)[k])
