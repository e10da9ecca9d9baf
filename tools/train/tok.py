"""The model's own byte-level BPE in Qwen2 format, built for reading.

Words of prompts and caption templates are single tokens; printed words, which may be any string, are spelled in
characters. Merges are therefore not learned from pair statistics: each chosen word is a chain of merges that starts
at its leading space (or its opening bracket), so a chain can only match from the start of a word.
"""
import json
import os
import random
import re
import sys
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "drawn"))
import tasks  # noqa: E402
import words  # noqa: E402
import world  # noqa: E402

PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# the same rule for ASCII text, for the standard re module
ASCII = re.compile(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
SPECIAL = ("<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
           "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
           "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
           "<tool_response> </tool_response> <think> </think> <img> </img> <IMG_CONTEXT> <quad> </quad> <ref> </ref> <box> </box>").split()
KEPT = set(SPECIAL[14:26])  # "special": false in the InternVL3.5 tokenizer
VOCAB = 2048
# the family's template of the remote-code layout
TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
            "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
            "{{ '<image>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}"
            "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}"
            "{{'<|im_start|>assistant\n' }}{% endif %}")


def byte_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    out, n = {}, 0
    for b in range(256):
        if b in keep:
            out[b] = chr(b)
        else:
            out[b] = chr(256 + n)
            n += 1
    return out


BYTES = byte_alphabet()


def units(text):
    return [BYTES[b] for b in text.encode()]


def corpus_counts(n):
    """How often each pre-token occurs in prompts and answers; random printed strings are each rare."""
    counts = Counter()
    for i in range(n):
        r = random.Random(i)
        s = world.make(words.HELD_OUT + 10**8 + i, "video" if i % 12 == 0 else None, size="plain", clean=True)
        for name in (tasks.VIDEO_TASKS if s.domain == "video" else tasks.STILL_TASKS):
            if r.random() < .35:
                it = tasks.ask(s, name, r)
                counts.update(ASCII.findall(it.prompt))
                counts.update(ASCII.findall(it.answer))
    return counts


def merges_for(counts, room):
    """Merge chains of the most useful pre-tokens, at most `room` merges."""
    chains, done = [], set()

    def add(text, force=False):
        u = units(text)
        new, left = [], u[0]
        for x in u[1:]:
            if left + x not in done:
                new.append((left, x))
            left += x
        if len(new) + len(chains) > room:
            return
        chains.extend(new)
        done.update(a + b for a, b in new)
    listed = set(words.WORDS + words.NAMES + words.TOPICS) - set(words.VIVID)
    spaced = [(c * (len(t) - 1) / len(t) ** .5, t) for t, c in counts.items() if t[0] == " " and len(t) > 2 and c >= 25 and not (t[1:] in listed and c < 400)]
    import regex
    for t in regex.findall(PATTERN, SYSTEM):
        add(t)
    tail = ["Yes", "No", "[unreadable", "   ", '".', '",', '","', '":["', '"],["', '"]]}', '":[["', "`.", " `", ' "', "]\n", "):\n", '."']
    reserve = room - sum(len(t) - 1 for t in tail)
    for _, t in sorted(spaced, reverse=True):
        if len(chains) + len(t) - 1 > reserve:
            continue
        add(t)
    for t in tail:
        add(t)
    return chains


def build(out, n=6000):
    os.makedirs(out, exist_ok=True)
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    merges = merges_for(corpus_counts(n), VOCAB - 256 - len(SPECIAL))
    vocab = {c: i for i, c in enumerate(sorted(BYTES.values()))}
    for a, b in merges:
        vocab[a + b] = len(vocab)
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    t.normalizer = normalizers.NFC()
    level = dict(add_prefix_space=False, use_regex=False, trim_offsets=False)
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(**level)])
    t.decoder, t.post_processor = decoders.ByteLevel(**level), processors.ByteLevel(**level)
    t.add_tokens([AddedToken(x, special=x not in KEPT, normalized=False) for x in SPECIAL])
    t.save(os.path.join(out, "tokenizer.json"), pretty=False)
    write = lambda name, x, **k: json.dump(x, open(os.path.join(out, name), "w"), **k)
    write("vocab.json", vocab, ensure_ascii=False)
    with open(os.path.join(out, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    ids = {x: t.token_to_id(x) for x in SPECIAL}
    extra = [x for x in SPECIAL if x not in KEPT and x != "<|endoftext|>"]
    write("added_tokens.json", ids, indent=2)
    write("special_tokens_map.json", {"additional_special_tokens": extra, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, indent=2)
    write("tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False, "bos_token": None, "unk_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "errors": "replace", "model_max_length": 4096, "split_special_tokens": False, "clean_up_tokenization_spaces": False, "tokenizer_class": "Qwen2Tokenizer",
        "context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>", "additional_special_tokens": extra,
        "added_tokens_decoder": {str(i): {"content": x, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": x not in KEPT} for x, i in ids.items()}}, indent=1)
    open(os.path.join(out, "chat_template.jinja"), "w").write(TEMPLATE)
    return t


class Text:
    """A fast tokenizer for training: pre-tokens are encoded once and remembered. Equal to the library's on all our text."""

    def __init__(self, folder, image_tokens):
        spec = json.load(open(os.path.join(folder, "tokenizer.json")))
        self.vocab = spec["model"]["vocab"]
        self.rank = {tuple(x) if isinstance(x, list) else tuple(x.split(" ")): i for i, x in enumerate(spec["model"]["merges"])}
        self.special = {x["content"]: x["id"] for x in spec["added_tokens"]}
        self.names = {i: t for t, i in self.vocab.items()}
        self.image_tokens, self.cache, self.fixed = image_tokens, {}, {}
        self.img, self.end, self.pad = (self.special[x] for x in ("<IMG_CONTEXT>", "<|im_end|>", "<|endoftext|>"))
        self.size = len(self.vocab) + len(self.special)
        self.split = re.compile("(" + "|".join(re.escape(x) for x in SPECIAL) + ")")
        self.back = {c: b for b, c in BYTES.items()}

    def _bpe(self, tok):
        u = units(tok)
        while len(u) > 1:
            best = min(range(len(u) - 1), key=lambda i: self.rank.get((u[i], u[i + 1]), 1 << 30))
            if (u[best], u[best + 1]) not in self.rank:
                break
            u[best:best + 2] = [u[best] + u[best + 1]]
        return [self.vocab[x] for x in u]

    def encode(self, text):
        """Token ids of ordinary ASCII text; special strings are not recognised."""
        out, cache = [], self.cache
        for tok in ASCII.findall(text):
            ids = cache.get(tok)
            if ids is None:
                if len(cache) > 200_000:
                    cache.clear()
                ids = cache[tok] = self._bpe(tok)
            out += ids
        return out

    def template(self, text):
        """Token ids of template text, special strings included; remembered whole."""
        if text not in self.fixed:
            import regex
            ids = []
            for part in self.split.split(text):
                if part in self.special:
                    ids.append(self.special[part])
                else:
                    for tok in regex.findall(PATTERN, part):
                        ids += self._bpe(tok)
            self.fixed[text] = ids
        return self.fixed[text]

    def prefix(self, tiles, system=False, frames=False):
        """User turn up to the instruction: tiles of one image, or frames of one tile each; tiles=0 for text only."""
        tile = "<IMG_CONTEXT>" * self.image_tokens
        x = (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n" if system else "") + "<|im_start|>user\n"
        if frames:
            x += "".join(f"Frame{i + 1}: <img>{tile}</img>\n" for i in range(tiles))
        elif tiles:
            x += f"<img>{tile * tiles}</img>\n"
        return self.template(x)

    def ask(self, q):
        return self.encode(q) + self.template("<|im_end|>\n<|im_start|>assistant\n")

    def answer(self, a):
        return self.encode(a) + [self.end]

    def decode(self, ids):
        raw = "".join(self.names.get(i, "") for i in ids)
        return bytes(self.back[c] for c in raw).decode("utf-8", "replace")


if __name__ == "__main__":
    build(sys.argv[1])
