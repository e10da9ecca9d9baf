"""Writes an evaluation (evaluate.py --out) as tables: python report.py evaluation.json [parity.json] [timing.json]"""
import json
import sys

ROWS = (("facts", "facts of detailed captions"), ("wrong_facts", "the sentence with one point changed, said instead"), ("overview", "overview sentence"), ("caption_exact", "whole caption exact"), ("fact_color", "colours"),
        ("fact_count", "counts"), ("fact_pos", "positions"), ("fact_state", "states"), ("fact_motion", "motion"), ("fact_event", "events"), ("fact_value", "printed values with their names"),
        ("fact_value_axis", "values read off an axis"), ("table_values", "values in the cells of tables"), ("table_names", "names in the cells of tables"), ("value_asked", "a value asked for by its names"),
        ("fact_text", "quoted text, exact"), ("fact_relation", "relations"), ("places_said", "sentences about places of plain shapes that are true"), ("words", "words of the transcript"), ("cer", "character error rate"),
        ("no_text_right", "no text said to be none"), ("router", "router, both orders averaged"), ("router_forward", "router, canonical order"), ("router_reversed", "router, reversed order"),
        ("claim_true", "true claims"), ("claim_false", "false claims"), ("question", "questions"), ("judge", "judge scores"), ("summary", "summary with the picture, exact"), ("summary_facts", "summary with the picture, facts"),
        ("summary_text_only", "summary from text, exact"), ("summary_facts_text_only", "summary from text, facts"), ("revise", "revision with the picture, exact"), ("revise_text_only", "revision from text, exact"),
        ("paraphrase_facts", "facts, free wordings of \"describe\""), ("data_table", "table as JSON, exact"), ("coder", "coder, exact"), ("tags", "tags, exact"), ("caption_short", "short caption, exact"),
        ("data_table_sentinel", "no table: empty table"), ("coder_sentinel", "no code: not applicable"), ("false_alarm", "own pictures refused"))
VIEWS = {"near": "sizes of one tile, with margins", "multi": "several tiles, up to 1,344 pixels", "jpeg": "JPEG, quality 45 to 95", "blur": "blurred", "font": "held-out fonts"}


def cell(v):
    return "" if v is None else f"{v[0]:.3f}"


def interval(v):
    return f"{v[0]:.3f} ({v[1]:.3f}–{v[2]:.3f}, {v[3]:g})"


def main_table(d):
    names = [n for n in d if n != "all"]
    print("| share | all (95 % interval, n) | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 2) + "|")
    for key, title in ROWS:
        v = d["all"].get(key)
        if v and v[3] >= 10:  # fewer say nothing
            print(f"| {title} | {interval(v)} | " + " | ".join(cell(d[n].get(key)) for n in names) + " |")


def shapes(d):
    print("\n| facts | plain shapes | all others |\n|---|---|---|")
    for key, title in ROWS:
        kind = key.removeprefix("fact_")
        v, w = d.get("shapes_" + kind), d.get("others_" + kind)
        if key != kind and v and w:
            print(f"| {title} | {interval(v)} | {interval(w)} |")


def claims(d):
    kinds = sorted({k.split("_", 2)[2] for k in d["all"] if k.startswith("claim_") and k.count("_") > 1})
    print("\n| claims about | true ones | false ones |\n|---|---|---|")
    for k in kinds:
        print(f"| {k.replace('_', ' ')} | {interval(d['all']['claim_true_' + k])} | {interval(d['all']['claim_false_' + k])} |")


def views(v):
    print("\n| the same pictures | facts: plain, so | difference (95 %) | words: plain, so | difference (95 %) | pictures |\n|---|---|---|---|---|---|")
    for key, title in VIEWS.items():
        out = []
        for kind in ("facts", "words"):
            x = v[key][kind]
            out.append(f"{x['plain']:.3f}, {x['view']:.3f} | {x['difference'][0]:+.3f} ({x['difference'][1]:+.3f} to {x['difference'][2]:+.3f})" if x else "|")
        print(f"| {title} | {out[0]} | {out[1]} | {v[key]['facts']['pictures'] if v[key]['facts'] else 0} |")


def main(path, *more):
    res = json.load(open(path))
    main_table(res["domains"])
    shapes(res["domains"]["all"])
    claims(res["domains"])
    if res.get("router_calibration") is not None:
        print(f"\nRouter, expected calibration error over ten bins: {res['router_calibration']:.4f}.")
    if res["smudged"].get("all"):
        s = res["smudged"]["all"]
        print(f"\nSmudged words for which a word was guessed: {interval(s['wrong_word'])}. Readable words called unreadable: {interval(s['readable_called'])}.")
    if any(x["facts"] for x in res["views"].values()):
        views(res["views"])
    c = res["confidence"]
    print("\n| pictures of other worlds | refused (95 % interval, n) | refused or called a guess |\n|---|---|---|")
    for k, v in res["outside"].items():
        print(f"| {k} | {interval(v['refused'])} | {interval(c['caught']) if k == 'all' else cell(c['caught_by_kind'][k])} |")
    print(f"\nA guess is a caption of mean log-probability under {c['threshold']}, chosen on half of the drawn pictures. On the other half false alarms are {interval(c['false_alarms'])}.")
    for f in more:
        x = json.load(open(f))
        if "identical" in x:
            print(f"\nThe engine and transformers, float32: {interval(x['identical'])} of captions identical, {x['tokens']:,} tokens; log-probabilities at most {x['largest_logprob_distance']:.1e} apart, "
                  f"the closest call of identical captions {x['least_margin_of_identical']:.1e} logits.")
        if "seconds" in x:
            print(f"\n| whole process, {x['cores']} cores, median of {x['runs']} | seconds |\n|---|---|")
            for k, v in x["seconds"].items():
                print(f"| {k} | {v['median']:.3f} ({v['least']:.3f}–{v['most']:.3f}) |")


if __name__ == "__main__":
    main(*sys.argv[1:])
