"""Results as the jobs give them, made up so that every claim in the small supports: tests change one thing and look at the word."""

import random

from common.claims.records import load_claims, make_record, start_run

from .. import eval as harness
from ..experiments import arms as small
from ..reported import KEYS

CLAIMS = load_claims(harness.HERE / "claims.yaml")
FACTS = start_run("test") | {"seconds": 0.0}
# units, D1, D2, D3, early units, late units; all in %
ARMS = {"start": (99, 20, 97, 97, 99, 99), "untuned": (5, 10, 20, 20, 5, 5), "untuned rope": (7, 10, 22, 22, 7, 7),
        "batch": (98, 20, 96, 96, 97, 99), "batch spe": (98, 20, 96.2, 96, 97, 99), "streaming": (99, 30, 97, 98, 99, 96),
        "streaming far": (99, 30, 97, 97, 99, 96), "interleaved": (95, 20, 90, 90, 96, 99), "batch own": (98, 20, 96.5, 96, 97, 99)}
SAVED = {"blocking": [-2.0, -1.0, -1.0], "buffered": [70.0, 65.0, 62.0], "streaming": [70.9, 65.0, 62.0]}


def scored(values, seed, number):
    unit, *rest = (value / 100 for value in values)
    d1, d2, d3, early, late = rest
    own = 0.0004 * seed * (5 * number % 17 - 8)  # another for every arm
    places = [[100, 100]] + [[round(1000 * early), 1000]] * 3 + [[round(1000 * late), 1000]] * 4
    return {"D1": d1 + own, "D2": d2 + own, "D3": d3 + own, "unit": unit, "answers": [1, 0], "kinds": {"init": [9, 10], "skip": [5, 5]},
            "places": places, "tokens": [60.0, 70.0, 80.0], "truncated": 0.0, "items": 300,
            "reduction": {way: [value + 0.1 * seed for value in values] for way, values in SAVED.items()}}


def arms(changes=None, seeds=3, equal=200, hasty=40, saved=None):
    """changes {arm: its six numbers}; equal, hasty: of 200 schedules; saved {way: [D1, D2, D3]}."""
    found = {}
    for seed in range(seeds):
        made = {name: scored(values, seed, number) for number, (name, values) in enumerate((ARMS | (changes or {})).items())}
        for row in made.values():
            row["reduction"] = row["reduction"] | {way: [v + 0.1 * seed for v in values] for way, values in (saved or {}).items()}
        found[f"start/seed{seed}"] = {"model": {"name": "base"}} | {name: made[name] for name in small.UNTUNED}
        found |= {f"{arm}/seed{seed}": made[arm] for arm in small.ARMS}
        found[f"streaming/seed{seed}"] = made["streaming"] | {"other units": 0.08 + 0.001 * seed}
        found[f"schedules/seed{seed}"] = {"equal": equal, "placebo": hasty, "of": 200}
    return found


def clock(streaming=(1.02, 1.03, 1.01), batch=(3.0, 3.1, 3.2), late=0.05, held=0.0):
    """held: s that the last process takes longer."""
    row = {"tau": 0.002, "p": 0.003, "r": 0.01}
    delays = [{"streaming": late + 0.0001 * i, "predicted": 0.049, "batch": 0.15} for i in range(len(streaming))]
    delays[-1]["batch"] += held
    return {f"clock/process{i}": row | {"streaming": s, "batch": b, "delay": delays[i]} for i, (s, b) in enumerate(zip(streaming, batch))}


def speed(views=(1.0, 1.01, 0.99), joined=(1.4, 1.5, 1.45)):
    ms = {"stock": 10.0, "views": 10.0, "concatenation": 14.0}
    return {f"step/process{i}": {"ratio": {"views": v, "concatenation": j}, "ms": ms} for i, (v, j) in enumerate(zip(views, joined))}


def realtext():
    return {"realtext": {"GSM8K": [82.0 + 0.1 * i for i in range(40)], "PubMedQA": [91.9, 92.1] * 20,
                         "sentences": {"GSM8K": 4.0, "PubMedQA": 11.0}}}


def variants(changes=None, seeds=3):
    """changes {variant/arm: (D2, share of look-ahead units)}."""
    usual = (("untuned", 0.2), ("batch", 0.95), ("streaming", 0.96))
    made = {f"{name}/{arm}": (d2, 0.5) for name in ("context", "rules", "places") for arm, d2 in usual}
    made |= {"ahead/untuned": (0.2, 0.1), "ahead/batch spe": (0.5, 0.4), "ahead/streaming": (0.9, 0.9)} | (changes or {})
    return {f"{name}/seed{s}": {"D2": d2 + 0.001 * s, "unit": 0.9, "items": 300, "losses": [1.0], "kinds": {
        "ahead": [round(1000 * share) + s, 1000], "init": [9, 10]}} for name, (d2, share) in made.items() for s in range(seeds)}


def gated(changes=None, seeds=3):
    """changes {arm: (D2, units)}."""
    made = {"all": (0.90, 0.93), "gated": (0.95, 0.97), "lot": (0.89, 0.92), "clean": (0.96, 0.98)} | (changes or {})
    return {f"gated/{arm}/seed{s}": {"D2": d2 + 0.002 * s * (1 + (arm == "lot")), "unit": unit + 0.001 * s * (1 + (arm == "gated")),
                                     "items": 300, "kinds": {"init": [900, 1000]}, "trained on": 1000, "faulty": 300, "losses": [1.0]}
            for arm, (d2, unit) in made.items() for s in range(seeds)}


def attention(changes=None, seeds=3):
    """changes {arm: (own, before, early)}."""
    made = {"batch": (0.30, 0.20, 0.40), "batch spe": (0.50, 0.15, 0.38), "streaming": (0.70, 0.2, 0.5)} | (changes or {})
    return {f"attention/{arm}/seed{s}": dict(zip(("own", "before", "early"), (v + 0.001 * s * len(arm) for v in values))) | {"items": 100}
            for arm, values in made.items() for s in range(seeds)}


def gold():
    return {"gold": {"waited": [82.0 + 0.01 * i for i in range(100)], "places": [50.0 + 0.1 * i for i in range(60)],
                     "reduction": {"150 words a minute": SAVED}}}


def gate(kept=(480, 500), dropped=None):
    faults = {name: [99, 100] for name in ("merged", "summary", "delayed", "ahead")} | {"quoted": [100, 100]} | (dropped or {})
    return {"gate": {"kept": {"tf-idf": list(kept)}, "dropped": {"tf-idf": faults}, "reasons": {}, "bars": {},
                     "count faults": ["merged", "summary"], "order faults": ["delayed", "ahead"]}}


def encoders(dropped=(190, 200), random=(8, 200)):
    """Order faults dropped by the sentence encoder and by random vectors."""
    def row(hit, of):
        return {"merged": [100, 100], "summary": [100, 100], "delayed": [hit, of], "ahead": [hit, of], "quoted": [100, 100]}

    return {"encoders": gate()["gate"] | {"kept": dict.fromkeys(("minilm", "tf-idf", "random"), [480, 500]), "dropped": {
        "minilm": row(*dropped), "tf-idf": row(195, 200), "random": row(*random)}}}


def aligned(survives=(900, 1500), swapped=10):
    """Of 1,500 questions from 50 templates: how many align, with their own lines and with another's."""
    def first(n):
        return [int(draw < n) for draw in random.Random(1).sample(range(survives[1]), survives[1])]

    return {"aligned": {"survives": first(survives[0]), "swapped": first(swapped), "templates": [i % 50 for i in range(survives[1])],
                        "reasons": {"question": 300, "number": 300, "skipped": 0}, "skipped": 0.5}}


def symbolic(changes=None, delays=None, waited=85.0, half=45.0, seeds=3):
    """changes {way: (share right on unseen templates, on trained ones, share of thoughts)}; delays {way: s}; waited, half: % on each
    question. Of 210 and of 95 questions, from 30 and 19 templates."""
    made = {"untuned": (0.02, 0.05, 0.01), "batch": (0.30, 0.60, 0.40), "interleaved": (0.31, 0.62, 0.42),
            "streaming": (0.33, 0.63, 0.43)} | (changes or {})
    seconds = {"batch": 4.0, "blocking": 4.1, "buffered": 2.2, "streaming": 1.4} | (delays or {})
    own = {"untuned": ("streaming",), "batch": ("batch",), "interleaved": ("blocking", "buffered"), "streaming": ("streaming",)}
    found = {"symbolic/asked": {told: {"templates": [i % of for i in range(n)], "waited": [waited + 0.01 * (i % of) for i in range(n)],
                                       "half": [half + 0.02 * (i % of) for i in range(n)]}
                                for told, n, of in (("new", 210, 30), ("known", 95, 19))}}

    def scored(way, seed):
        new, known, thoughts = made[way]
        rows = {}
        for told, n, share in (("new", 210, new), ("known", 95, known)):
            right = round(n * share) + seed * (way == "streaming")
            rows[told] = {"correct": [int(i < right) for i in range(n)], "thoughts": [round(300 * thoughts) + seed, 300],
                          "skips": [280, 300], "delay": {kind: seconds[kind] + 0.01 * seed for kind in own[way]}, "tokens": 100.0,
                          "truncated": 0.1}
        return rows | {"model": {"name": way}}

    found["symbolic/untuned"] = scored("untuned", 0)
    return found | {f"symbolic/{way}/seed{seed}": scored(way, seed) for way in own if way != "untuned" for seed in range(seeds)}


def paced(streaming=(1.50, 1.52, 1.48, 1.51, 1.49), batch=4.2, held=0.0):
    """held: s that batch takes longer in the last process."""
    row = {"tau": 0.06, "p": 0.09, "predicted": 1.47, "duty": 0.14, "items": 6, "cut": 0}
    found = {f"paced/process{i}": row | {"streaming": seconds, "batch": batch + 0.01 * i} for i, seconds in enumerate(streaming)}
    found[f"paced/process{len(streaming) - 1}"]["batch"] += held
    return found


def paper():
    """Runs as configs call them, with the means of the paper's tables."""
    def by(right, **more):
        usual = {"right": right, "tokens": 900.0, "items": 1000, "truncated": 0.0, "delay": {"batch": 30.0}}
        return dict.fromkeys(KEYS, usual | more)

    whole = by(0.6, delay={"batch": 50.0})
    ours = by(0.669, waited=11.2, heard=100.0, delay={"streaming": 15.15})
    clocked = {"first": 6.23, "delay": 9.0, "join": 0.004, "peak": 7990.0, "items": 100}
    return {"paper": {"qwen3-4b_original": {"by": whole}, "qwen3-4b_original-context": {"by": whole},
                      "qwen3-4b_streaming_d3": {"by": ours, "clock": clocked}, "qwen3-4b_streaming-context_d3": {"by": ours},
                      "qwen3-4b_batch_d1": {"by": by(0.577)}, "qwen3-4b_batch_d2": {"by": by(0.724)}, "qwen3-4b_batch_d3": {"by": by(0.69)},
                      "qwen3-4b_batch-spe_d1": {"by": by(0.58)}, "qwen3-4b_batch-spe_d3": {"by": by(0.695)},
                      "qwen3-1.7b_batch_d1": {"by": by(0.436)}, "qwen3-1.7b_batch_d2": {"by": by(0.598)},
                      "qwen3-4b_batch-spe_d2": {"by": by(0.729)}, "qwen3-4b_interleaved_d3": {"by": by(0.65, delay={"blocking": 28.6})},
                      "qwen3-4b_streaming_d1": {"by": by(0.5, tokens=257.0)},
                      "qwen3-4b_streaming-context_d1": {"by": by(0.5, tokens=1172.0)}}}


def verdict(name, measured):
    """(word, reason) of the record that a run with these measurements would leave."""
    found = make_record(CLAIMS.find(name), CLAIMS.sha256, measured[name], FACTS, seeds=[0, 1, 2])["verdict"]
    return found["word"], found["reason"]
