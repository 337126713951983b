"""The tables of answers of one letter: the laws, PubMedQA's lengths, and SmolLM2 on prose."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, median

from . import quantities_letter as letter
from . import shown
from .experiments.realtext import NAMES
from .tables import spread

WIDTH = 34
PASSAGES = (("5 sentences", 5), ("12 sentences", 12), ("116 words", 116), ("205 words", 205))
WHAT = {"start": "the reader: whole passages alone", "full": "full, slack law", "plain law": "plain law over the letter alone",
        "end counted": "plain law over letter and end", "batch only": "batch training alone"}


def laws(results: dict, size: str = "cpu") -> Iterator[str]:
    """Exactly, and how far draws are from it."""
    yield ""
    yield "% of paths in which the letter is predicted with every unit read: letter alone / letter and end; draws: furthest place"
    yield f"{'':<{WIDTH}s}" + "".join(f"{name:>18s}" for name, _ in PASSAGES) + f"{'draws':>12s}"
    for name, law in shown.FAMILY.items():
        cells = ["/".join(f"{100 * float(shown.kinds(law, m, units, 1).whole):.1f}" for units in (1, 2)) for _, m in PASSAGES]
        drawn = results["letter/drawn"][name].values()
        yield (f"{name:<{WIDTH}s}" + "".join(f"{cell:>18s}" for cell in cells) + f"{max(of['furthest'] for of in drawn):10.1f} s.e."
               + (", impossible ones" if any(of["impossible"] for of in drawn) else ""))
    alone = [name for name, law in shown.FAMILY.items() if shown.vacuous(law, 5, 1)]
    yield f"Vacuous over the letter alone: {', '.join(alone)}; over letter and end: " + (
        ", ".join(name for name, law in shown.FAMILY.items() if shown.vacuous(law, 5, 2)) or "none")


def abstracts(results: dict, size: str = "cpu") -> Iterator[str]:
    found = results["letter/abstracts"]
    yield ""
    share = fmean(e / m for e, m in zip(found["evidence"], found["sentences"]))
    yield f"PubMedQA: {len(found['sentences'])} of {found['all']} abstracts say where results begin; answers {found['answers']}"
    yield (f"Median {median(found['sentences']):g} sentences ({median(found['words']):g} words); results begin at sentence "
           f"{median(found['evidence']):g}, after {100 * share:.0f} % of the sentences on average")
    yield "Mean % of paths, before the results / early / everything read; letter alone, then letter and end; then in words, letter and end"
    for name, law in shown.FAMILY.items():
        cells = []
        for units, of, needed in ((1, "sentences", "evidence"), (2, "sentences", "evidence"), (2, "words", "evidence words")):
            rows = [shown.kinds(law, m, units, place) for m, place in zip(found[of], found[needed])]
            cells.append("/".join(f"{100 * fmean(map(float, column)):.0f}" for column in zip(*rows)))
        yield f"{name:<{WIDTH}s}" + "".join(f"{cell:>16s}" for cell in cells)


def realtext(results: dict, size: str = "cpu") -> Iterator[str]:
    read = letter.Read(results, "realtext")
    frozen = results["realtext/frozen"]
    yield ""
    yield (f"SmolLM2-135M on prose, {read.whole(read.seeds[0], 'full')['n']} unseen passages, {len(read.seeds)} seeds (spread). "
           f"As it comes: {frozen['batch']['quality']:.1f} % right with everything read, {frozen['letters']:.1f} % among the letters")
    yield f"{'':<{WIDTH}s}{'read all':>14s}{'guesses':>14s}{'AUROC':>14s}{'quality':>14s}{'RCO':>14s}{'premature':>14s}{'lots':>14s}"
    for name in ("start", *NAMES):
        runs, rows = [read.run(seed, name) for seed in read.seeds], [read.at(seed, name) for seed in read.seeds]
        cells = [([run["batch"]["quality"] for run in runs], 1), ([run["guesses"] for run in runs], 1),
                 ([run["auroc"] for run in runs], 3),
                 *(([row[key] for row in rows], digits) for key, digits in (("quality", 1), ("RCO", 3), ("premature", 1))),
                 ([run["random"]["quality"] for run in runs], 1)]
        yield f"{WHAT[name]:<{WIDTH}s}" + "".join(f"{fmean(of):.{digits}f} ({spread(of):.{digits}f})".rjust(14) for of, digits in cells)
    for head in read.run(read.seeds[0], "full")["heads"]:
        rows = [read.at(seed, "full", head) for seed in read.seeds]
        yield f"full, {head}: {fmean(r['quality'] for r in rows):.1f} at RCO {fmean(r['RCO'] for r in rows):.3f}"
    for k in read.run(read.seeds[0], "full")["wait"]:
        rows = [read.run(seed, "full")["wait"][k] for seed in read.seeds]
        yield f"full, wait-{k}: {fmean(r['quality'] for r in rows):.1f} at RCO {fmean(r['RCO'] for r in rows):.3f}"
    yield f"AUROC where the question is about another passage: {fmean(read.elsewhere(seed, 0) for seed in read.seeds):.3f}"
