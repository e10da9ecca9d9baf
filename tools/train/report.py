"""Writes an evaluation (evaluate.py --out) as a table: python report.py evaluation.json > docs/results/drawn-accuracy.md"""
import json
import sys

ROWS = (("facts", "facts of detailed captions"), ("wrong_facts", "the sentence with one point changed, said instead"), ("overview", "overview sentence"), ("caption_exact", "whole caption exact"), ("fact_color", "colours"),
        ("fact_count", "counts"), ("fact_pos", "positions"), ("fact_state", "states"), ("fact_motion", "motion"), ("fact_event", "events"), ("fact_value", "printed values"),
        ("fact_value_axis", "values read off an axis"), ("fact_text", "quoted text, exact"), ("fact_relation", "relations"), ("words", "words of the transcript"), ("cer", "character error rate"),
        ("smudged_called", "smudged words called unreadable"), ("no_text_right", "no text said to be none"), ("router_forward", "router, canonical order"), ("router_reversed", "router, reversed order"),
        ("claim_true", "true claims"), ("claim_false", "false claims"), ("question", "questions"), ("judge", "judge scores"), ("summary", "summary with the picture, exact"), ("summary_facts", "summary with the picture, facts"),
        ("summary_text_only", "summary from text, exact"), ("summary_facts_text_only", "summary from text, facts"), ("revise", "revision with the picture, exact"), ("revise_text_only", "revision from text, exact"),
        ("paraphrase_facts", "facts, free wordings of \"describe\""), ("data_table", "table as JSON, exact"), ("coder", "coder, exact"), ("tags", "tags, exact"), ("caption_short", "short caption, exact"),
        ("data_table_sentinel", "no table: empty table"), ("coder_sentinel", "no code: not applicable"), ("false_alarm", "own pictures refused"))


def cell(v):
    return "" if v is None else f"{v[0]:.3f}"


def main(path):
    res = json.load(open(path))
    d = res["domains"]
    names = [n for n in d if n != "all"]
    print("| share | all (95 % interval, n) | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 2) + "|")
    for key, title in ROWS:
        v = d["all"].get(key)
        if v:
            print(f"| {title} | {v[0]:.3f} ({v[1]:.3f}–{v[2]:.3f}, {v[3]:g}) | " + " | ".join(cell(d[n].get(key)) for n in names) + " |")
    print("\nPictures of other worlds refused: " + ", ".join(f"{k} {v['refused'][0]:.2f} (n={v['refused'][3]})" for k, v in res["outside"].items()) + ".")
    c = res["confidence"]
    print(f"\nConfidence: refusal alone catches {c['refused_outside']:.3f} of {c['n_outside']} outside pictures; with the mean log-probability of the caption under {c['threshold']}"
          f" also counted as a guess, {c['caught_outside']:.3f}, at {c['false_alarms']:.3f} false alarms.")


if __name__ == "__main__":
    main(sys.argv[1])
