"""Quantities of trainings, worked out again from what claims.yaml names, on answers and losses in which no two arms are alike."""

from functools import partial
from statistics import fmean, stdev

import pytest

from tests.numerics import drawn

from .. import quantities_trained as quantities
from ..experiments import smollm2, trained

SEEDS, PARTS = (0, 1, 4), 30  # PARTS: of a curve
KINDS, SETS = ("external direct", "external modular", "internal direct", "internal modular"), ("single", "triple", "latter", "all")
FINE = ("tens", "digit", "shade")
TEST = {"pictures": [i // 4 for i in range(48)], "kinds": ["color", "digit", "tens", "shade"] * 12}
EASY = {"pictures": [i // 3 for i in range(21)], "kinds": ["color", "shape", "exists"] * 7}
DIRECT, PLAIN, AGAIN = "external direct, triple", "default", "default three times"


def answers(n, *path):
    return "".join("01"[drawn(*path, i) > 0.5] for i in range(n))


def run(*path):
    end = {where: answers(21 if where == "easy-VQA" else 48, *path, where) for where in ("test", "shifted", "another picture", "easy-VQA")}
    return {"end": end, "loss": [drawn(*path, "loss", i) for i in range(12)], "looked up": [0.8] * 7 + [0.6] * 23, "all": [0.5] * PARTS}


FEATURES = {"nats": {"all": 1.4, "looked up": 1.5}, "test": TEST | {"blind": answers(48, "blind")},
            "easy-VQA": EASY | {"blind": answers(21, "blind", "easy")}}
GROUPS = {"long": trained.LONG, "long-more": trained.MORE, "variants": trained.VARIANTS, "smollm2": smollm2.ARMS}
RUNS = {f"{group}/{arm}/seed{seed}": run(group, arm, seed) for group, arms in GROUPS.items() for arm in arms for seed in SEEDS} | {
    f"{group}/features/dinov2": FEATURES for group in GROUPS}


def right(arm, where="test", kinds=(), group="long"):
    """Of every seed the answers, 100 or 0 each."""
    asked = (EASY if where == "easy-VQA" else TEST)["kinds"]
    return [[100 * int(bit) for bit, kind in zip(RUNS[f"{group}/{arm}/seed{s}"]["end"][where], asked) if not kinds or kind in kinds]
            for s in SEEDS]


def means(rows):
    return [fmean(row) for row in rows]


def less(a, b):
    return [[x - y for x, y in zip(p, q)] for p, q in zip(a, b)]


def over(*rows):
    """The mean answer of several arms."""
    return [[fmean(of) for of in zip(*each)] for each in zip(*rows)]


def held(measured, differences, where="test", kinds=(), **beside):
    """differences: of every seed, question by question. beside: of a control its differences; of baselines their numbers."""
    asked = EASY if where == "easy-VQA" else TEST
    pictures = [p for p, kind in zip(asked["pictures"], asked["kinds"]) if not kinds or kind in kinds] * len(differences)
    values = [d for row in differences for d in row]
    mean, groups = fmean(values), sorted(set(pictures))
    sums = [sum(v - mean for v, p in zip(values, pictures) if p == g) for g in groups]
    least = (len(groups) / (len(groups) - 1) * sum(x * x for x in sums)) ** 0.5 / len(values)
    assert measured["per_seed"] == pytest.approx(means(differences), abs=1e-9) and measured["resolution"] == pytest.approx(least)
    assert measured["stderr"] == pytest.approx(max(least, stdev(means(differences)) / len(differences) ** 0.5))
    assert measured.get("baselines", {}) == pytest.approx(beside.pop("shown", {}))
    assert {*measured} & {"placebo", "sensitivity"} == {*beside}
    for name, of in beside.items():
        held(measured[name], of, where, kinds)


def simply(measured, values, least):
    assert measured["per_seed"] == pytest.approx(values) and measured["resolution"] == pytest.approx(least)


def test_long():
    measured = quantities.long(RUNS)
    for claim, where, kinds in (("C1l", "test", FINE), ("C1g", "shifted", ()), ("C1v", "easy-VQA", ())):
        of = partial(right, where=where, kinds=kinds)
        gain, none = less(of(DIRECT), of(PLAIN)), less(of(AGAIN), of(PLAIN))
        shown = {"all seeds": fmean(means(gain)), "converged seeds": 3.0}
        shown |= {"C1l": {"three times": fmean(means(of(AGAIN))), PLAIN: fmean(means(of(PLAIN)))}, "C1g": {}, "C1v": {
            "blind": 100 * FEATURES["easy-VQA"]["blind"].count("1") / 21, PLAIN: fmean(means(of(PLAIN)))}}[claim]
        held(measured[claim], gain, where, kinds, placebo=none, shown=shown)
        if claim == "C1l":
            held(measured["C1m"], none, where, kinds, sensitivity=gain, shown={"all seeds": fmean(means(none)), "converged seeds": 3.0})
    for claim, kind in (("C1k", KINDS[1]), ("C1i", KINDS[2]), ("C1j", KINDS[3])):
        plain, arm = right(PLAIN, kinds=FINE), f"{kind}, triple"
        gain, other = less(right(arm, kinds=FINE), plain), less(right(arm, "another picture", FINE), plain)
        held(measured[claim], gain, kinds=FINE, placebo=other, shown={"all seeds": fmean(means(gain)), "converged seeds": 3.0})
    pairs = {"C2l": ("late region", DIRECT)} | {claim: (f"{kind}, latter", f"{kind}, triple") for claim, kind in zip(
        ("C2e", "C2k", "C2i", "C2j"), KINDS)}
    for claim, (ours, triple) in pairs.items():
        harm = less(right(ours), right(triple))
        held(measured[claim], harm, placebo=less(right(triple), right(PLAIN)),
             shown={"all seeds": fmean(means(harm)), "converged seeds": 3.0})
    over_sets(measured["C3n"], measured["C3o"], ("triple", "latter"), lambda kind, name: right(f"{kind}, {name}"))
    assert measured["C3n"]["baselines"] == pytest.approx(
        {"all seeds": measured["C3n"]["value"], "converged seeds": 3.0, "trained seeds": 3.0}
        | {f"{kind}, {name}": fmean(means(right(f"{kind}, {name}"))) for kind in KINDS for name in ("triple", "latter")})
    assert len(measured) == 14


def over_sets(ahead, steadier, sets, answered):
    by_kind = {kind: over(*(answered(kind, name) for name in sets)) for kind in KINDS}

    def best_other(kind):
        others = [by_kind[k] for k in KINDS if k != kind]
        return [max((of[i] for of in others), key=fmean) for i in range(len(SEEDS))]

    bare = {k: v for k, v in ahead.items() if k != "baselines"}
    held(bare, less(by_kind["external direct"], best_other("external direct")),
         placebo=less(by_kind["internal modular"], best_other("internal modular")))

    def spread(kind):
        return [stdev(fmean(answered(kind, name)[i]) for name in sets) for i in range(len(SEEDS))]

    for kind, of in (("external direct", steadier), ("internal modular", steadier["placebo"])):
        others = [spread(k) for k in KINDS if k != kind]
        simply(of, [min(rest) - own for own, *rest in zip(spread(kind), *others)], 100 / 48)


def test_more():
    measured = quantities.more(RUNS)

    def answered(kind, name):
        return right(f"{kind}, {name}", group="long" if name in ("triple", "latter") else "long-more")

    over_sets(measured["C3l"], measured["C3m"], SETS, answered)
    for claim, kind in zip(("C2u", "C2v", "C2w", "C2x"), KINDS):
        harm = less(answered(kind, "all"), answered(kind, "triple"))
        held(measured[claim], harm, placebo=less(answered(kind, "triple"), right(PLAIN)),
             shown={"all seeds": fmean(means(harm)), "converged seeds": 3.0})

    def worse(kind):
        loss = {name: [RUNS[f"{group}/{kind}, {name}/seed{s}"]["loss"][3] for s in SEEDS] for name, group in (
            ("all", "long-more"), ("triple", "long"))}  # the fourth of twelve
        return [a - b for a, b in zip(loss["all"], loss["triple"])]

    simply(measured["C10l"], worse("internal modular"), 1e-3)
    simply(measured["C10l"]["placebo"], worse("external direct"), 1e-3)
    assert len(measured) == 7


def test_variants():
    measured, v = quantities.variants(RUNS), partial(right, group="variants")
    for claim, what in (("C13l", "random tower"), ("C13m", "Qwen3")):
        gain, none = (less(v(f"{name}, {what}"), v(f"default, {what}")) for name in ("triple", "default three times"))
        held(measured[claim], gain, placebo=none, shown={"all seeds": fmean(means(gain)), "converged seeds": 3.0})
    three = [*zip(means(right("internal modular, triple")), means(v("internal modular, post")), means(v("internal modular, parallel")))]
    simply(measured["C11l"], [max(of) - min(of) for of in three], 100 / 48)
    held(measured["C11l"]["sensitivity"], less(right(DIRECT), right("internal modular, triple")))
    gained = {kind: [a - b for a, b in zip(means(right(f"{kind}, triple")), means(v(f"{kind}, 1000 pictures")))] for kind in KINDS[::2]}
    a, b, c = gained["external direct"]
    simply(measured["C12l"], [x - y for x, y in zip(gained["internal direct"], (a, b, c))], 100 / 48)
    misled = less(right("internal direct, triple", "another picture"), v("internal direct, 1000 pictures", "another picture"))
    simply(measured["C12l"]["placebo"], [x - y for x, y in zip(means(misled), (a, b, c))], 100 / 48)
    assert len(measured) == 4


def test_a_pretrained_decoder():
    measured, v = quantities.smollm2(RUNS), partial(right, group="smollm2")
    for claim, arm, where, kinds in (("C23r", DIRECT, "test", FINE), ("C23d", "internal direct, triple", "test", FINE),
                                     ("C23g", DIRECT, "shifted", ())):
        gain, none = (less(v(name, where, kinds), v(PLAIN, where, kinds)) for name in (arm, AGAIN))
        held(measured[claim], gain, where, kinds, placebo=none, shown={"all seeds": fmean(means(gain)), "converged seeds": 3.0})
    assert len(measured) == 3


# -- convergence ---------------------------------------------------------------------------------------------
def with_curves(**curves):
    changed = RUNS[f"long/{DIRECT}/seed1"] | curves
    return RUNS | {f"long/{DIRECT}/seed1": changed}


def test_a_plateau_ends_below_half_of_the_blind_loss():
    of = quantities.Runs(RUNS, "long")
    assert of.exit(0, PLAIN) == 7 * 50 and of.converged(0, PLAIN) and of.settled(PLAIN, DIRECT) == SEEDS
    stuck = quantities.Runs(with_curves(**{"looked up": [0.76] * PARTS}), "long")  # half of 1.5 is .75
    assert stuck.exit(1, DIRECT) is None and not stuck.converged(1, DIRECT) and stuck.settled(DIRECT) == (0, 4)
    assert quantities.Runs(with_curves(**{"looked up": [0.74] * PARTS}), "long").exit(1, DIRECT) == 0


@pytest.mark.parametrize("fall, holds", [(0.027, True), (0.029, False), (-0.1, True)])
def test_a_curve_that_still_falls_has_not_converged(fall, holds):
    """The last three of thirty parts: the first against the last; 2 % of 1.4 is .028."""
    of = quantities.Runs(with_curves(all=[2.0] * 27 + [0.5 + fall, 9.0, 0.5]), "long")
    assert of.converged(1, DIRECT) == holds


def test_seeds_that_have_not_converged_do_not_count_and_are_shown():
    measured = quantities.long(with_curves(**{"looked up": [1.0] * PARTS}))
    gain = less(right(DIRECT, kinds=FINE), right(PLAIN, kinds=FINE))
    assert measured["C1l"]["per_seed"] == pytest.approx([means(gain)[0], means(gain)[2]])
    assert measured["C1l"]["baselines"]["all seeds"] == pytest.approx(fmean(means(gain)))
    assert measured["C1l"]["baselines"]["converged seeds"] == 2 and len(measured["C1l"]["placebo"]["per_seed"]) == 2
    assert len(measured["C1k"]["per_seed"]) == 3
    control = RUNS | {f"long/{AGAIN}/seed4": RUNS[f"long/{AGAIN}/seed4"] | {"looked up": [1.0] * PARTS}}
    measured = quantities.long(control)  # a control on a plateau is none
    assert measured["C1l"]["per_seed"] == pytest.approx(means(gain)[:2])
    assert (measured["C1m"]["n_runs"], measured["C2l"]["n_runs"]) == (2, 3)
    nobody = {name: of | ({"looked up": [1.0] * PARTS} if DIRECT in name else {}) for name, of in RUNS.items()}
    every = quantities.long(RUNS)["C3n"]
    measured = quantities.long(nobody)
    assert measured["C1l"]["value"] == pytest.approx(fmean(means(gain))) and measured["C1l"]["n_runs"] == 1
    assert "ci95" not in measured["C1l"] and measured["C1l"]["placebo"]["n_runs"] == 1
    assert measured["C3n"]["n_runs"] == 1 and "ci95" not in measured["C3n"]
    assert measured["C3n"]["value"] == pytest.approx(every["value"])  # of both sets, not of the one that is left
    assert {name: measured["C3n"]["baselines"][name] for name in ("converged seeds", "trained seeds")} == {
        "converged seeds": 0, "trained seeds": 3}


@pytest.mark.parametrize("claim, of", [("C3n", quantities.long), ("C3l", quantities.more)])
def test_seeds_compare_the_same_sets(claim, of):
    """One set of one kind that has not converged drops its seed, and not the set from that seed."""
    whole = of(RUNS)[claim]
    stuck = f"long/{KINDS[2]}, latter/seed1"
    measured = of(RUNS | {stuck: RUNS[stuck] | {"looked up": [1.0] * PARTS}})[claim]
    assert measured["per_seed"] == pytest.approx([whole["per_seed"][0], whole["per_seed"][2]])
    assert measured["placebo"]["per_seed"] == pytest.approx([whole["placebo"]["per_seed"][0], whole["placebo"]["per_seed"][2]])
    shown = {"converged seeds": 2, "trained seeds": 3, "all seeds": whole["value"]}
    assert {name: measured["baselines"][name] for name in shown} == pytest.approx(shown)
