"""What claims measure of the experiments that are asked for by name, beside quantities.py: a second family, a pretrained decoder, rivals
at equal pairs on test questions, other arithmetic, and leaving out each token. All are claims about the very models that were run, over
pictures.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from statistics import fmean

from common.claims.intervals import summarize
from common.seeds import seeds_of

from .quantities import THIRTY, Items, Small, apart, of_small

# What is judged of the second family, in the order of C24a, C24b, ...: the same quantities of the default run.
OF_QWEN3 = ("C14a", "C14f", "C18a", "C17s", "C17v", "C16a", "C16b", "C17a", "C17l")


def qwen3(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C24: the default experiment on one model with another decoder, over pictures; its rivals at no fewer pairs on test questions."""
    of = Small({name.removeprefix("qwen3/"): found for name, found in results.items() if name.startswith("qwen3/")}, fixed=True)
    found = of_small(of)
    rows = [row["equal"] for row in _rows(of.results, "pruned")]
    rivals = (at_equal_pairs(rows, of.seeds, rival) for rival in ("FastV", "PyramidDrop"))
    return dict(zip((f"C24{letter}" for letter in "abcdefghijk"), (*(found[claim] for claim in OF_QWEN3), *rivals)))


# Of the pretrained decoder, in the order of C28a, C28b, ...: and then its rivals, and what its last token speaks of.
OF_SMOLLM2 = (*OF_QWEN3, "C10a", "C19a", "C20a")
SHALLOW = "6"  # the last of the paper's shallow layers, by depth
AGREES = 0.97  # of validation answers with the model's own: what calibration asks for
LOTS = 20


def smollm2(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C28: the default experiment on a LLaVA with a pretrained decoder of thirty layers."""
    of = Small({name.removeprefix("smollm2/"): found for name, found in results.items() if name.startswith("smollm2/")}, fixed=True,
               depth=THIRTY)
    found, pruned = of_small(of), _rows(of.results, "pruned")
    found["C16a"] |= {"placebo": boundary_by_lot(pruned)}
    rivals = (at_equal_pairs([row["equal"] for row in pruned], of.seeds, rival) for rival in ("FastV", "PyramidDrop"))
    return dict(zip((f"C28{letter}" for letter in "abcdefghijklmnop"), (*(found[claim] for claim in OF_SMOLLM2), *rivals,
                                                                       *recognised(_rows(of.results, "recognised")))))


def boundary_by_lot(rows: Sequence[dict]) -> dict:
    """Percent of the pairs that are saved on validation pictures where the boundary is drawn and its threshold calibrated as the rule's
    is: a mean over boundaries, nothing saved where no threshold agrees often enough."""
    fewest: dict[int, float] = {}
    for attempt in (each for row in rows for each in row["tried"]["VisiPruner"]):
        left = attempt["pairs"] if attempt["agreement"] >= AGREES else 1.0
        fewest[attempt["boundary"]] = min(left, fewest.get(attempt["boundary"], 1.0))
    return summarize([100 * (1 - left) for left in fewest.values()], 100 / len(rows[0]["saved"]))


def recognised(rows: Sequence[dict]) -> tuple[dict, dict]:
    """(points by which the likeliest answering word behind the shallow layers is of the kind that is asked for, above how often a word of
    that kind is said of any question; layers by which the kind is settled before as large groups of words by lot, of questions that end
    right and are of another kind than is said of all)."""
    pictures = [picture for row in rows for picture in row["pictures"]]

    def above_base(row: dict, said: str, of_another: bool = False) -> tuple[Items, Items]:
        kinds = [row["words"][letter][1] for letter in row[said][SHALLOW]]
        base = {kind: 100.0 * kinds.count(kind) / len(kinds) for kind in set(row["kinds"])}
        if of_another:  # what is said of the next question of another kind
            n = len(kinds)
            kinds = [kinds[next(j % n for j in range(i + 1, i + n) if row["kinds"][j % n] != kind)] for i, kind in enumerate(row["kinds"])]
        return [100.0 * (said == kind) for said, kind in zip(kinds, row["kinds"])], [base[kind] for kind in row["kinds"]]

    def over(said: str, of_another: bool = False) -> dict:
        both = [above_base(row, said, of_another) for row in rows]
        ours, theirs = ([value for pair in both for value in pair[side]] for side in (0, 1))
        return apart(ours, theirs, pictures, ours=fmean(ours), theirs=fmean(theirs))

    ends = [hit for row in rows for hit in ends_right(row)]
    right = [hit and kind != usual for row, usual in ((row, said_of_all(row)) for row in rows)
             for hit, kind in zip(ends_right(row), row["kinds"])]

    def layers(groups: Callable[[dict], dict[str, str]]) -> Items:
        """Where the answer's group is settled, of questions that end right and of another kind than is said of all."""
        return [layer for layer, hit in zip((float(layer) for row in rows for layer in settled(row, groups(row))), right) if hit]

    *lots, another = (layers(functools.partial(drawn_kinds, number=number)) for number in range(LOTS + 1))
    by_lot = [fmean(of) for of in zip(*lots)]
    shown = [picture for picture, hit in zip(pictures, right) if hit]

    def before(group: Items, **beside: float) -> dict:
        return apart(by_lot, group, shown, ours=fmean(by_lot), theirs=fmean(group), **beside)

    kind, other = over("said"), over("another picture")
    return (kind | {"placebo": over("said", True), "baselines": kind["baselines"] | {"with another picture": other["value"]}},
            before(layers(lambda row: {letter: of[1] for letter, of in row["words"].items()}), **{
                "the answer": fmean(layers(lambda row: {letter: letter for letter in row["words"]})), "ends right, %": 100 * fmean(ends),
                "questions": float(sum(right))})
            | {"placebo": before(another)})


def said_of_all(row: dict) -> str:
    """The kind that is said most often behind the shallow layers, whatever is asked: of it nothing is recognised there."""
    kinds = [row["words"][letter][1] for letter in row["said"][SHALLOW]]
    return max(sorted(set(kinds)), key=kinds.count)


def ends_right(row: dict) -> list[bool]:
    """Whether the likeliest answering word behind the last layer is the answer."""
    last = row["said"][max(row["said"], key=int)]
    return [said == answer for said, answer in zip(last, row["answer"])]


def settled(row: dict, group: dict[str, str]) -> list[int]:
    """For each question the first layer from which on what is said is in the answer's group; the number of layers where it never is.
    group: of each letter."""
    layers = sorted(row["said"], key=int)
    found = []
    for i, answer in enumerate(row["answer"]):
        wrong = [number for number, layer in enumerate(layers) if group[row["said"][layer][i]] != group[answer]]
        found.append(wrong[-1] + 1 if wrong else 0)
    return found


def drawn_kinds(row: dict, number: int = 0) -> dict[str, str]:
    """Kinds by lot, as many and as large as the true ones."""
    letters, kinds = sorted(row["words"]), [kind for _, (_, kind) in sorted(row["words"].items())]
    return dict(zip(letters, random.Random(number).sample(kinds, len(kinds))))


def equal(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C26: VisiPruner against its rivals where these have no fewer pairs on the very test questions."""
    rows, seeds = _rows(results, "equal"), seeds_of(results, "equal")
    return {"C26a": at_equal_pairs(rows, seeds, "FastV"), "C26b": at_equal_pairs(rows, seeds, "PyramidDrop")}


def at_equal_pairs(rows: Sequence[dict], seeds: Sequence[int], rival: str) -> dict:
    """Placebo: as many tokens by lot in VisiPruner's place."""
    pictures = [picture for row in rows for picture in row["pictures"]]

    def over(ours: str) -> dict:
        a, b = ([100.0 * int(bit) for row in rows for bit in row["test"][name]] for name in (ours, rival))
        each = len(a) // len(rows)
        own = {f"seed {seed}": fmean(a[i * each :][:each]) - fmean(b[i * each :][:each]) for i, seed in enumerate(seeds)}
        pairs = {f"pairs, {name}": 100 * fmean(row["pairs"][name] for row in rows) for name in (ours, rival)}
        return apart(a, b, pictures, ours=fmean(a), theirs=fmean(b), **pairs, **own)

    return over("VisiPruner") | {"placebo": over("lot at its K")}


def budget(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C29: few tokens. Scores on the questions that keep TOKENS or fewer; rivals with no fewer pairs on all of them."""
    rows, seeds = _rows(results, "budget"), seeds_of(results, "budget")
    there = [[i for i, bit in enumerate(row["few"]) if bit == "1"] for row in rows]
    pictures = [row["pictures"][i] for row, of in zip(rows, there) for i in of]
    kept = [row["kept"][i] for row, of in zip(rows, there) for i in of]
    rivals = {"C29c": at_equal_pairs(rows, seeds, "FastV"), "C29d": at_equal_pairs(rows, seeds, "PyramidDrop")}
    if not kept:  # of a handful of questions it can be none
        return rivals
    share = 100 * len(kept) / sum(len(row["few"]) for row in rows)
    beside = {"tokens kept": fmean(kept), "questions": float(len(kept)), "of all, %": share}

    def over(ours: str, theirs: str) -> dict:
        a, b = ([[100.0 * int(row["right"][name][i]) for i in of] for row, of in zip(rows, there)] for name in (ours, theirs))
        own = {f"seed {seed}": fmean(x) - fmean(y) for seed, x, y in zip(seeds, a, b) if x}
        one, other = sum(a, []), sum(b, [])
        return apart(one, other, pictures, ours=fmean(one), theirs=fmean(other), **beside, **own)

    return {"C29a": over("value", "attention") | {"placebo": over("lot", "attention")},
            "C29b": over("value", "lot") | {"placebo": over("another lot", "lot")}, **rivals,
            "C29e": over("attention", "text") | {"placebo": over("lot", "text")},
            "C29f": over("text", "picture") | {"placebo": over("lot", "picture")}}


def precision(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C25: of the questions that are filtered in fp32, in how many per cent another arithmetic keeps as many tokens."""
    rows, seeds = _rows(results, "precision"), seeds_of(results, "precision")
    there = [[i for i, bit in enumerate(row["filtered"]) if bit == "1"] for row in rows]
    pictures = [row["pictures"][i] for row, of in zip(rows, there) for i in of]

    def same(way: str, what: str = "number") -> dict:
        values = [[100.0 * int(row[way][what][i]) for i in of] for row, of in zip(rows, there)]
        everyone = [value for of in values for value in of]
        beside = {"overlap of the kept sets, %": 100 * fmean(o for row in rows for o in row[way]["overlap"]),
                  "answers the same, %": 100 * fmean(int(bit) for row in rows for bit in row[way]["answer"])}
        return apart(everyone, [0.0] * len(everyone), pictures, **beside, **{f"seed {s}": fmean(of) for s, of in zip(seeds, values) if of})

    coarse = same("bfloat16, influence too")
    return {"C25a": same("bfloat16") | {"placebo": coarse}, "C25b": same("eager") | {"placebo": coarse}}


def oracle(results: dict, size: str = "cpu") -> dict[str, dict]:
    """C27: scores against leaving out each token."""
    rows, seeds = _rows(results, "oracle"), seeds_of(results, "oracle")
    pictures = [picture for row in rows for picture in row["pictures"]]

    def apart_by(ours: list[Items], theirs: list[Items], **baselines: float) -> dict:
        a, b = ([value for of in side for value in of] for side in (ours, theirs))
        own = {f"seed {seed}": fmean(x) - fmean(y) for seed, x, y in zip(seeds, ours, theirs)}
        return apart(a, b, pictures, ours=fmean(a), theirs=fmean(b), **baselines, **own)

    def rank(ours: str) -> dict:
        shared = {f"of the oracle's sixteen, %, {name}": 100 * fmean(s for row in rows for s in row["shared"][name])
                  for name in (ours, "attention")}
        return apart_by([row["rank"][ours] for row in rows], [row["rank"]["attention"] for row in rows], **shared)

    def right(name: str) -> list[Items]:
        return [[100.0 * int(bit) for bit in row["right"][name]] for row in rows]

    return {"C27a": rank("value") | {"placebo": rank("lot")},
            "C27b": apart_by(right("oracle"), right("value")) | {"placebo": apart_by(right("oracle"), right("lot"))}}


def _rows(results: dict, job: str) -> list[dict]:
    """The results of a job, by seed."""
    return [results[f"{job}/seed{seed}"] for seed in seeds_of(results, job)]
