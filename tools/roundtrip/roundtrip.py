"""Read what a captioning job wrote with independent readers: pyarrow, webdataset, exiftool, json.

usage: roundtrip.py METACAP PICTURES
PICTURES is a directory of pictures that the model of METACAP can caption.
Needs: pip install pyarrow webdataset; exiftool and ffmpeg on the path.
"""

import csv
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

import pyarrow.parquet as pq
import webdataset as wds


def main() -> None:
    metacap, source = sys.argv[1], pathlib.Path(sys.argv[2])
    pictures = sorted(p for p in source.rglob("*") if p.suffix in (".png", ".jpg"))
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        out = work / "out"
        caption(metacap, source, "--captions", "short,tags", "--write", "jsonl,json,xmp,csv,parquet,llava,kohya", "--out", str(out))
        records = {r["key"]: r for r in map(json.loads, (out / "captions.jsonl").open(encoding="utf-8"))}
        good = {k: r for k, r in records.items() if "error" not in r}
        assert len(records) == len(pictures) and good, (len(records), len(pictures))
        check_tables(out, records, good)
        check_json(out, good)
        check_xmp(out, good)
        check_shard(metacap, work, pictures)
        check_embed(metacap, work, pictures)
    print(f"{len(records)} records, {len(good)} captioned: csv, parquet, llava, kohya, json, xmp, tar and embedded XMP read back")


def caption(metacap: str, source: pathlib.Path, *flags: str) -> None:
    code = subprocess.run([metacap, "caption", "-q", str(source), *flags], check=False).returncode
    assert code in (0, 2), code


def check_tables(out: pathlib.Path, records: dict, good: dict) -> None:
    table = pq.read_table(out / "captions.parquet").to_pylist()
    assert [r["key"] for r in table] == list(records)
    for row in table:
        r = records[row["key"]]
        assert dict(row["captions"] or []) == (r["captions"] or {}), row
        assert (row["tags"] or []) == r.get("tags", []), row
        assert (row["error"] or "") == r.get("error", ""), row
    with (out / "captions.csv").open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [r["key"] for r in rows] == list(records)
    for row in rows:
        if row["key"] in good:
            assert row["short"] == good[row["key"]]["captions"]["short"]


def check_json(out: pathlib.Path, good: dict) -> None:
    llava = json.loads((out / "captions.llava.json").read_text(encoding="utf-8"))
    assert len(llava) == len(good)
    for sample in llava:
        assert sample["id"] and sample["image"], sample
        turns = sample["conversations"]
        assert [t["from"] for t in turns] == ["human", "gpt"] * (len(turns) // 2), sample
        assert sum(t["value"].count("<image>") for t in turns) == 1, sample
        assert turns[0]["value"].startswith("<image>\n"), sample
    kohya = json.loads((out / "captions.kohya.json").read_text(encoding="utf-8"))
    assert set(kohya) == set(good)
    assert all(set(v) <= {"caption", "tags"} for v in kohya.values())


def check_xmp(out: pathlib.Path, good: dict) -> None:
    files = sorted(out.rglob("*.xmp"))
    assert len(files) == len(good), (len(files), len(good))
    read = json.loads(subprocess.run(["exiftool", "-j", "-struct", *map(str, files)], check=True, capture_output=True).stdout)
    stems = {pathlib.Path(k).stem: r for k, r in good.items()}
    for x in read:
        r = stems[pathlib.Path(x["SourceFile"]).stem]
        assert x["Description"] == r["captions"]["short"], x
        assert x["AltTextAccessibility"] == r["captions"]["short"], x
        subject = x.get("Subject", [])
        assert [str(s) for s in (subject if isinstance(subject, list) else [subject])] == r.get("tags", []), x


def check_shard(metacap: str, work: pathlib.Path, pictures: list) -> None:
    shard = work / "00000.tar"
    with tarfile.open(shard, "w") as t:
        for i, p in enumerate(pictures):
            t.add(p, f"{i:08d}{p.suffix}")
    caption(metacap, shard, "--write", "tar,jsonl")
    records = [json.loads(x) for x in (work / "captions.jsonl").open(encoding="utf-8")]
    want = {pathlib.Path(r["member"]).stem: r["captions"]["caption"] for r in records if "error" not in r}
    got = {s["__key__"]: s["txt"].decode() for s in wds.WebDataset(str(work / "00000.captions.tar"), shardshuffle=False)}
    assert got == {k: " ".join(v.split()) for k, v in want.items()}, (got, want)


def check_embed(metacap: str, work: pathlib.Path, pictures: list) -> None:
    inside = work / "inside"
    inside.mkdir()
    for i, p in enumerate(pictures):
        copy = shutil.copy(p, inside / f"{i:04d}{p.suffix}")
        if i % 3 == 0:  # every third one as WebP, as another program writes it
            subprocess.run(["ffmpeg", "-v", "error", "-i", copy, "-lossless", "1", inside / f"w{i:04d}.webp"], check=True)
    pixels = {p: decoded(p) for p in sorted(inside.iterdir())}
    caption(metacap, inside, "--embed", "--captions", "short,tags", "--write", "jsonl")
    records = [json.loads(x) for x in (inside / "captions.jsonl").open(encoding="utf-8")]
    good = {pathlib.Path(r["key"]).name: r for r in records if "error" not in r}
    assert good
    files = [inside / name for name in good]
    read = json.loads(subprocess.run(["exiftool", "-j", "-struct", *map(str, files)], check=True, capture_output=True).stdout)
    for x in read:
        r = good[pathlib.Path(x["SourceFile"]).name]
        assert "Error" not in x and "Warning" not in x, x
        assert x["Description"] == r["captions"]["short"], x
        subject = x.get("Subject", [])
        assert [str(s) for s in (subject if isinstance(subject, list) else [subject])] == r.get("tags", []), x
    for p in pixels:
        assert decoded(p) == pixels[p], p


def decoded(path: pathlib.Path) -> bytes:
    """The digest of a picture's pixels by ffmpeg's decoders."""
    return subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "md5", "-"], check=True, capture_output=True).stdout


main()
