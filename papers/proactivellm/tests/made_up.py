"""Results as the jobs give them, made up so that every claim in the small holds: tests change one thing and look at the word."""

import copy

from common.claims.records import load_claims, make_record, start_run

from .. import eval as harness
from ..experiments import speech, text

CLAIMS = load_claims(harness.HERE / "claims.yaml")
FACTS = start_run("test") | {"seconds": 0.0}
SHIFT = 0.01  # between seeds: values that are equal have no interval


def row(quality, rco, ail, seed=0, number=0, **more):
    own = SHIFT * seed * (5 * number % 7 + 1)
    return {"quality": quality + own, "exact": quality, "RCO": rco + own / 100, "AIL": ail + own, "CW": 2.0, "no output": 0, "n": 128,
            "truncated": 0, "premature": 1.0, "excess": 1.0, "probes": 1500, "failed": 1200, "AL": 2.0, "LAAL": 2.0, "AIL s": 0.1 * ail,
            "pairs": 60000 if rco == 1 else 90000, "wasted": 0 if rco == 1 else 40000, "fed": 100, "fed again": 50, "bleu": quality} | more


def swept(points, seed, number=0):
    rows = [row(*point, seed, number) for point in points]
    return {"threshold": [0.5 + 0.1 * i for i in range(len(rows))], "calibration": copy.deepcopy(rows),
            "test": rows, "chosen": 0, "early": 0, "keeps": True}


WAIT = {"qa": {"1": (20, .1, -5), "9": (45, .4, 3), "16": (70, .7, 10), "20": (85, .9, 15)},
        "mt": {"1": (89, .53, 1.0), "2": (92, .6, 2.0), "3": (94, .65, 2.8), "5": (98, .75, 4.3), "7": (99.9, .83, 5.6)},
        "words": {"2": (60, .4, 2.0), "3": (80, .5, 3.0), "4": (94, .6, 5.0), "6": (96, .75, 7.0)},
        "spoken": {"2": (20, .2, 2), "4": (35, .4, 4), "8": (60, .8, 8)}}
POINTS = {  # entropy's operating point: quality, RCO, AIL, AUROC; with everything read
    "qa": {"start": (50, .7, 9, .87, 99), "full": (98.9, .62, 8.6, .99, 99), "plain law": (80, .66, 8.6, .98, 99),
           "no distillation": (96, .63, 8.7, .985, 99),
           "no MSLM": (60, .7, 9, .9, 99), "batch only": (62, .7, 9, .88, 99), "MSLM only": (95, .65, 8.9, .98, 96),
           "labelled": (97, .64, 8.8, .97, 95)},
    "mt": {"start": (30, .3, 0, .6, 100), "full": (99.8, .6, 2.0, .95, 100), "batch only": (7, .07, -3, .6, 100),
           "wait-1": (89, .53, 1, .6, 70), "wait-3": (90, .6, 2, .6, 80), "wait-5": (91, .7, 4, .6, 90)},
    "revised": {"full": (95, .7, 10, .95, 99)},
    "words": {"start": (0, .06, 1, .6, 95), "full": (97, .58, 4.0, .95, 98), "batch only": (0, .06, 1, .6, 96)},
    "spoken": {"start": (30, .3, 3, .6, 92), "full": (91, .7, 6.0, .95, 93), "batch only": (60, .7, 6, .7, 93)}}
HEADS = {"max-prob": 98.8, "margin": 98.7, "attention": 101, "linear": 98.6}
OWN = {1: 86, 3: 94.5, 5: 98.5}  # of the models trained for k


def result(task, arm, seed, points=None, heads=None):
    quality, rco, ail, auroc, whole = (points or POINTS[task])[arm]
    number = list(POINTS[task]).index(arm)
    drop = {"batch only": 30, "start": 30}.get(arm, 0) if task == "mt" else 0
    found = {"batch": row(whole, 1.0, 18, seed, number), "auroc": auroc + SHIFT * seed / 10,
             "entropy": swept([(quality, rco, ail), (quality - 5, rco - 0.05, ail - 1.5)], seed, number),
             "wait": {k: row(*values, seed, number) | {"quality": values[0] - drop + SHIFT * seed}
                      for k, values in WAIT.get(task, WAIT["qa"]).items()},
             "weights": ["a", "a"], "loss": 0.1, "model": {"name": arm}, "stride": 2.0}
    if arm == "full" and task != "revised":
        lots = {"mt": 70, "qa": 60}.get(task, 40)
        found["heads"] = {}
        for i, (name, value) in enumerate((HEADS | (heads or {})).items()):
            shift = {"mt": -3 if name == "attention" else 0, "qa": 0}.get(task, -8)
            found["heads"][name] = swept([(value + shift, rco, ail)], seed, number + i)
        found["random"] = row(lots, rco, ail, seed, number) | {"chance": 0.1}
        found["lots"] = {name: row(lots, rco, ail, seed, number) for name in (*HEADS, "early")}
        found["always read"] = {"differs": 0, "probes": 9000}
    if arm == "plain law":
        for point in found["entropy"]["test"]:
            point["truncated"] = 30 + seed
    if arm == "labelled":
        found["labelled"] = swept([(97.5, .63, 8.7)], seed, number)
    if arm.startswith("wait-"):
        return {"loss": 0.1, "own": row(OWN[int(arm[5:])], .6, 2, seed, number)}
    if task == "mt" and arm == "start":
        found["reencoded"] = {str(k): row(60 + k, .5, k, seed) for k in text.REENCODED}
    if task == "revised":
        found["revisions"] = {"overturned": {"loose": row(80, .55, 7, seed), "strict": row(93, .8, 12, seed, 1)},
                              "plain": {"loose": row(97, .55, 7.0, seed, 2), "strict": row(98, .8, 12, seed, 3)}}
    return found


def of_text(points=None, heads=None, seeds=3):
    """points {task: {arm: five numbers}}, over those above."""
    found = {}
    for seed in range(seeds):
        for task, arms in (("qa", ("start", *text.QA)), ("revised", ("full",)), ("mt", ("start", *text.MT))):
            for arm in arms:
                found[f"{task}/{arm}/seed{seed}"] = result(task, arm, seed, POINTS[task] | (points or {}).get(task, {}), heads)
    return found


def of_speech(points=None, seeds=3):
    found = {"speech/bank": {"name": "bank"}}
    for seed in range(seeds):
        for task in ("words", "spoken"):
            for arm in ("start", *speech.NAMES):
                found[f"speech/{task}/{arm}/seed{seed}"] = result(task, arm, seed, POINTS[task] | (points or {}).get(task, {}))
    return found


def of_whisper(seeds=3):
    found = {"whisper/heard": {"words": [4, 6] * 20, "speakers": list(range(40)), "model": {"name": "w"}, "ways": {
        "stock": {"wer": 20.0, "errors": [1, 1] * 20, "too many": 0},
        "one chunk": {"wer": 20.0, "errors": [1, 1] * 19 + [0, 2], "too many": 0},
        "480 ms": {"wer": 100.0, "errors": [4, 6] * 20, "too many": 9}, "960 ms": {"wer": 50.0, "errors": [2, 3] * 20, "too many": 5}}},
        "whisper/standin": {"model": {"name": "s"}, "quality": {}, "steps": 1, "cpu_seconds": 1}}
    for seed in range(seeds):
        for task in ("words", "spoken"):
            for arm in speech.NAMES:
                found[f"whisper/{task}/{arm}/seed{seed}"] = result(task, arm, seed) | ({"heads": {}} if arm == "full" else {})
            found[f"whisper/{task}/full/seed{seed}"]["batch"] |= {"n": 400}  # enough that one answer decides nothing
    return found


def of_abstracts(count=40, later=0):
    """Results begin in the middle, or some sentences later."""
    sentences = [8 + i % 7 for i in range(count)]
    first = [m // 2 + later for m in sentences]
    return {"letter/abstracts": {"sentences": sentences, "evidence": first, "words": [20 * m for m in sentences],
                                 "evidence words": [20 * e for e in first], "all": count + 2, "answers": {"yes": count}}}


def _point(quality, rco=0.7, seed=0):
    return {"quality": quality + 0.01 * seed, "RCO": rco, "premature": 1.0, "n": 188}


def of_letter(quality, auroc, whole=80.0, lots=50.0, seed=0, **more):
    return {"batch": _point(whole, 1.0), "guesses": 30.0, "auroc": auroc + 0.001 * seed, "letters": 81.0, "no letter": 0.0, "loss": 0.1,
            "wait": {"1": _point(40.0, 0.2)}, "entropy": {"threshold": [0.1, 0.2], "calibration": [_point(1.0), _point(2.0)],
            "test": [_point(1.0), _point(quality, seed=seed)], "chosen": 1}, "random": _point(lots), "weights": ["a", "a"]} | more


def of_realtext(seeds=3, **changed):
    """changed: {arm: arguments of `of_letter` over those here}."""
    found = {"realtext/frozen": of_letter(24, .5) | {"model": {"name": "s"}, "prose": [], "documents": {}}}
    of = {"start": (55, .62), "full": (79, .9), "plain law": (56, .63), "end counted": (75, .85), "batch only": (57, .64)}
    for seed in range(seeds):
        for arm, (quality, auroc) in of.items():
            more = {"elsewhere": [.55 + .002 * seed, .56], "heads": {}} if arm == "full" else {}
            own = {"quality": quality, "auroc": auroc} | changed.get(arm.replace(" ", "_"), {})
            found[f"realtext/{arm}/seed{seed}"] = of_letter(seed=seed * (len(arm) % 5 + 1), **own, **more)
    return found


def of_speed(probe=1.1, late=1.05, processes=3):
    return {f"speed/process{i}": {"decode": [0.01, 0.0101], "probe": [0.01 * probe + 1e-5 * i, 0.0101 * probe],
                                  "read early": [0.009, 0.0091], "read late": [0.009 * late + 1e-5 * i, 0.0091 * late],
                                  "encode again": [0.2, 0.21 + 1e-3 * i], "encode early": [0.02, 0.021], "shape": "tiny", "late": 1000,
                                  "early": 100} for i in range(processes)}


def verdict(name, measured):
    """(word, reason) of the record that a run with these measurements would leave."""
    found = make_record(CLAIMS.find(name), CLAIMS.sha256, measured[name], FACTS, seeds=[0, 1, 2])["verdict"]
    return found["word"], found["reason"]
