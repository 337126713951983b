"""Every quantity of a claim, worked out again from results in which no two numbers are equal: an arm compared with itself, sides
exchanged, another column, all would give something else. test_words.py has what the words make of them."""

from statistics import fmean

import pytest

from tests.numerics import drawn

from .. import quantities
from ..experiments import chains as small
from ..experiments import sums
from .made_up import CLAIMS

SEEDS = (0, 2, 5)
RIVALS = ("grpo", "grpo, length", "fixed data", "best of n")


def scores(*path, problems=200, samples=4):
    def of(*where):
        return {name: drawn(*path, *where, name) for name in ("avg", "normalised_length_std", "efficiency", "at_cap")} | {
            "tokens": drawn(*path, *where, "tokens", low=10.0, high=70.0)}

    kinds = {k: of("kind", k) | {"problems": problems * k // 8, "samples": samples} for k in (1, 3, 2)}
    return of() | {"problems": problems, "samples": samples, "by_kind": {str(k): row for k, row in kinds.items()}}


def result(arm, seed, problems=200):
    test = scores(arm, seed, problems=problems)
    start, accuracy = 60.0, drawn(arm, seed, "start")
    short = (5 + 5 * (seed + len(arm)) % 40, accuracy + 0.01)  # the first probe that is short and no worse
    curve = [[0, accuracy, start], *([done, *((accuracy + 0.1, 25.0) if done < short[0] else (accuracy, 24.0) if done == short[0] else
                                              (accuracy - 0.1, 20.0))] for done in range(5, 45, 5))]
    areas = ("wait or restart against the rest", "separator against the rest", "wait or restart among separators",
             "redundant sentence against the rest", "needed sentence against the rest")
    within = [[9, drawn(arm, seed, "within 9")], [70, drawn(arm, seed, "within 70")], [160, 1.0]]
    test |= {"needed": drawn(arm, seed, "needed"), "within": within}
    return {"arm": arm, "test": test, "skips a step": drawn(arm, seed, "skips"), "curve": curve,
            "short": short[0], "divergence": {f"AUC, {name}": drawn(arm, seed, name) for name in areas},
            "history": {"loss per token": [drawn(arm, seed, "loss", i) for i in range(12)],
                        "kept": [drawn(arm, seed, "kept", i) for i in range(3)],
                        "kept length": [drawn(arm, seed, "kept length", i, high=30.0) for i in range(3)],
                        "length": [drawn(arm, seed, "length", i, low=30.0, high=60.0) for i in range(3)]}}


@pytest.fixture(scope="module")
def found():
    return {f"{arm}/seed{seed}": result(arm, seed) for arm in ("base", *small.ARMS) for seed in SEEDS}


@pytest.fixture(scope="module")
def measured(found):
    return quantities.chains(found)


class Of:
    """What an arm came to, a value a seed."""

    def __init__(self, found, prefix=""):
        self.found, self.prefix = found, prefix

    def at(self, arm, *names):
        rows = [self.found[f"{self.prefix}{arm}/seed{seed}"] for seed in SEEDS]
        for name in names:
            rows = [row[name] for row in rows]
        return rows

    def right(self, arm):
        return [100 * x for x in self.at(arm, "test", "avg")]

    def tokens(self, arm):
        return self.at(arm, "test", "tokens")

    def gained(self, arm, over="base"):
        return minus(self.right(arm), self.right(over))

    def saved(self, arm, over="base"):
        return [100 * (b - a) / start for a, b, start in zip(self.tokens(arm), self.tokens(over), self.tokens("base"))]

    def margin(self, arm, others):
        ahead = {other: most(self.gained(arm, other), self.saved(arm, other)) for other in others if other != arm}
        return [min(values) for values in zip(*ahead.values())]


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


def most(*arms):
    return [max(values) for values in zip(*arms)]


def same(measured, expected, placebo, resolution=None, shown=None):
    assert measured["per_seed"] == pytest.approx(expected, rel=1e-12), "the quantity"
    assert measured["placebo"]["per_seed"] == pytest.approx(placebo, rel=1e-12), "its placebo"
    for each in (measured, measured["placebo"]):
        assert each.get("resolution") == (None if resolution is None else pytest.approx(resolution, rel=1e-12))
    if shown is not None:
        assert measured["baselines"] == pytest.approx({name: fmean(values) for name, values in shown.items()}, rel=1e-12)
    else:
        assert "baselines" not in measured


def test_figures_of_the_paper():
    found = quantities.exact({}, "analytic")
    assert found["C1a"]["value"] == pytest.approx(100 * (1 - 2186 / 10178)) and found["C2a"]["value"] == pytest.approx(59.9 / 2186 * 100)
    assert found["C2a"]["baselines"] == {"base": pytest.approx(59.0 / 10178 * 100)}
    assert found["C2b"]["value"] == pytest.approx(57.8 / 2270 * 100)
    assert found["C5a"]["value"] == pytest.approx(100 * 2 / 18) and found["C5a"]["baselines"] == {"in fp32": pytest.approx(100 * 4 / 20)}
    # (1, 0): 0.5 from its mean, by the sample's deviation of 1 / sqrt(2)
    assert found["C13"]["value"] == pytest.approx(0.5 * 2**0.5, abs=1e-3)
    assert found["C13"]["baselines"] == pytest.approx({"(2, 0)": 0.5 * 2**0.5, "population std": 1.0}, abs=1e-3)


def test_how_short_and_how_right(measured, found):
    of, item = Of(found), 100 / 800
    table = {f"{arm}, {name}": values for arm in ("base", "opsft", *RIVALS, "by lot")
             for name, values in (("accuracy", of.right(arm)), ("tokens", of.tokens(arm)))}
    brief = ("grpo, length", "best of n")
    same(measured["C1s"], of.saved("opsft"), most(*map(of.saved, brief)), shown=table)
    same(measured["C1t"], of.gained("opsft"), most(*map(of.gained, brief)), item, table)
    same(measured["C1u"], [100 * x for x in of.at("opsft", "skips a step")], [100 * x for x in of.at("best of n", "skips a step")], item)
    # how much longer what is kept by lot leaves it
    start = of.tokens("base")
    for arm, values in (("opsft", measured["C1v"]["per_seed"]), ("base", measured["C1v"]["placebo"]["per_seed"])):
        expected = [100 * (lot - own) / first for lot, own, first in zip(of.tokens("by lot"), of.tokens(arm), start)]
        assert values == pytest.approx(expected, rel=1e-12)
    same(measured["C1w"], of.gained("opsft", "best of n"), of.gained("fixed data", "best of n"), item)


def test_against_rivals(measured, found):
    of, item = Of(found), 100 / 800
    everyone = ("opsft", *RIVALS, "base")
    table = {f"{arm}, {name}": values for arm in ("base", "opsft", *RIVALS, "by lot")
             for name, values in (("accuracy", of.right(arm)), ("tokens", of.tokens(arm)))}
    same(measured["C4a"], of.margin("opsft", everyone), of.margin("grpo, length", everyone), item, table)
    same(measured["C4b"], of.gained("opsft", "grpo, length"), of.gained("best of n", "grpo, length"), item)
    needed = {arm: of.at(arm, "short") for arm in ("opsft", *RIVALS)}
    same(measured["C6a"], minus(needed["grpo"], needed["opsft"]), minus(needed["grpo"], needed["best of n"]), 5,
         {f"{arm}, updates": values for arm, values in needed.items()})
    spread = {arm: of.at(arm, "test", "normalised_length_std") for arm in ("grpo", "opsft", "grpo, length")}
    same(measured["C7a"], minus(spread["grpo"], spread["opsft"]), minus(spread["grpo"], spread["grpo, length"]))
    same(measured["C8a"], of.saved("opsft", "fixed data"), of.saved("T 1.5", "fixed data"))
    same(measured["C8b"], of.gained("opsft", "fixed data"), of.gained("best of n", "fixed data"), item)


def test_what_an_update_costs(measured, found):
    """Six FLOPs a parameter for a token that is trained on; two more for one that a reference reads."""
    shares = []
    for history in Of(found).at("opsft", "history"):
        kept = sum(a * b for a, b in zip(history["kept"], history["kept length"])) / sum(history["length"])
        shares.append(6 * kept / 8)
    same(measured["C5c"], shares, [6 / 8] * 3)


def test_variants(measured, found):
    of, item = Of(found), 100 / 800

    def rise(arm):
        return [fmean(losses[-5:]) - fmean(losses[:5]) for losses in of.at(arm, "history", "loss per token")]

    def lost(arm):
        return minus(of.right("opsft"), of.right(arm))

    def hardest(arm):
        return [100 * (a["3"]["avg"] - b["3"]["avg"]) for a, b in zip(of.at("opsft", "test", "by_kind"), of.at(arm, "test", "by_kind"))]

    same(measured["C9a"], rise("T 1.5"), rise("opsft"))
    same(measured["C9b"], lost("T 1.5"), lost("T 0.6"), item)
    same(measured["C9c"], lost("T 0.6"), lost("again"), item)
    same(measured["C10"], of.gained("opsft", "G 4"), of.gained("G 4, as many", "G 4"), item)
    same(measured["C11"], hardest("L 24"), hardest("again"), item * 200 / 75)
    same(measured["C12"], lost("seq"), lost("again"), item)
    area = "AUC, wait or restart against the rest"
    same(measured["C14a"], of.at("opsft", "divergence", area), of.at("by lot", "divergence", area),
         shown={"separators": of.at("opsft", "divergence", "AUC, separator against the rest")})


def test_an_item_is_the_coarsest_of_the_seeds():
    english = {f"sums/{arm}/seed{seed}": result(arm, seed, {0: 200, 2: 96, 5: 200}[seed]) for arm in ("base", *sums.ARMS) for seed in SEEDS}
    assert quantities.sums(english)["C4n"]["resolution"] == pytest.approx(100 / (96 * 4))
    found = {f"{arm}/seed{seed}": result(arm, seed, {0: 200, 2: 96, 5: 200}[seed]) for arm in ("base", *small.ARMS) for seed in SEEDS}
    assert quantities.chains(found)["C12"]["resolution"] == pytest.approx(100 / (96 * 4))


# -- the real small model ----------------------------------------------------------------------------------
def test_sums():
    arms = ("base", *sums.ARMS)
    found = {f"sums/{arm}/seed{seed}": result(arm, seed, 96) for arm in arms for seed in SEEDS}
    measured, of, item = quantities.sums(found), Of(found, "sums/"), 100 / (96 * 4)
    right = {arm: of.right(arm) for arm in arms}
    same(measured["C1n"], of.saved("opsft"), of.saved("fixed data"),
         shown={arm: of.tokens(arm) for arm in arms} | {"needed": of.at("base", "test", "needed")})
    runs = quantities.Arms(found, "sums/")
    cut = [100 * within[1][1] - right for within, right in zip(of.at("base", "test", "within"), of.right("base"))]
    same(measured["C1m"], of.gained("opsft"), cut, item, right)
    everyone = ("base", "opsft", *RIVALS)
    same(measured["C4m"], of.margin("opsft", everyone), of.margin("grpo, length", everyone), item, right)
    same(measured["C4n"], of.gained("opsft", "grpo, length"), of.gained("best of n", "grpo, length"), item, right)
    same(measured["C6n"], *([runs.sooner(seed, arm, 0.6, 0.02) for seed in SEEDS] for arm in ("opsft", "best of n")), 5)
    same(measured["C8n"], of.saved("opsft", "fixed data"), of.saved("base", "fixed data"))
    redundant, needed = (of.at("opsft", "divergence", f"AUC, {kind} sentence against the rest") for kind in ("redundant", "needed"))
    same(measured["C14n"], redundant, needed)


# -- a GPU, and paper scale --------------------------------------------------------------------------------
def test_memory_is_the_largest_peak_of_each():
    measured = quantities.gpu({"gpu": {"opsft": {"peak_bytes": [2**30, 3 * 2**30]}, "grpo": {"peak_bytes": [5 * 2**30, 4 * 2**30]}}})["C5"]
    assert measured["value"] == pytest.approx(40) and measured["baselines"] == {"opsft, GiB": 3.0, "grpo, GiB": 5.0}


def trained(size, *arms):
    """{arm: its mean over the benchmarks}, every number another one."""
    return {arm: {key: drawn(size, arm, key) for key in ("avg", "tokens", "efficiency", "normalised_length_std")}
            | {"by_benchmark": {name: drawn(size, arm, name) for name in ("math500", "aime24")}} for arm in arms} | {"curves": {}}


def test_paper_scale():
    found = {size: trained(size, "base", "trained") for size in ("1.5b", "7b")}
    measured = quantities.paper({"paper": found})
    assert set(measured) == {"C1", "C1b", "C2", "C3", "C3b"}
    for shorter, gained, size in (("C1", "C1b", "1.5b"), ("C3", "C3b", "7b")):
        before, after = (found[size][which] for which in ("base", "trained"))
        assert measured[shorter]["value"] == pytest.approx(100 * (1 - after["tokens"] / before["tokens"]))
        assert measured[gained]["value"] == pytest.approx(100 * (after["avg"] - before["avg"]))
        sides = {f"{which}, {key}": found[size][which][key] for which in ("base", "trained") for key in ("avg", "tokens")}
        assert measured[shorter]["baselines"] == measured[gained]["baselines"] == sides
    small_one = found["1.5b"]
    assert measured["C2"]["value"] == small_one["trained"]["efficiency"]
    assert measured["C2"]["baselines"] == {"base": small_one["base"]["efficiency"]}


def test_paper_scale_against_others():
    rivals, temperatures = [f"rival {i}" for i in range(10)], ("T0.3", "T0.6", "T1.2", "T1.5")
    one = trained("1.5b", "base", "trained", "grpo", *rivals, *temperatures)
    one["curves"] = {"grpo": [[0, 0.5, 100.0], [40, 0.6, 50.0], [80, 0.7, 60.0]],  # most accurate per token at 40
                     "trained": [[0, 0.5, 100.0], [10, 0.6, 55.0], [20, 0.55, 40.0], [30, 0.6, 50.0], [90, 0.9, 10.0]]}
    seven = trained("7b", "base", "trained", "fixed-data")
    measured, ours = quantities.paper({"paper": {"1.5b": one, "7b": seven}}), one["trained"]
    better = sum(one[name]["tokens"] < ours["tokens"] and one[name]["avg"] > ours["avg"] for name in rivals)
    assert measured["C4"]["value"] == better and measured["C4"]["baselines"] == {name: 100 * one[name]["avg"] for name in rivals}
    assert measured["C6"]["value"] == pytest.approx(100 * (1 - 30 / 40)) and measured["C6"]["baselines"] == {"ours": 30, "grpo": 40}
    spreads = {arm: one[arm]["normalised_length_std"] for arm in ("trained", "grpo")}
    assert measured["C7"]["value"] == spreads["grpo"] - spreads["trained"] and measured["C7"]["baselines"] == spreads
    others = {arm: 100 * one[arm]["avg"] for arm in temperatures}
    assert measured["C9"]["value"] == pytest.approx(100 * ours["avg"] - max(others.values()))
    assert measured["C9"]["baselines"] == others | {"1": 100 * ours["avg"]}
    math = {arm: 100 * seven[arm]["by_benchmark"]["math500"] for arm in ("trained", "fixed-data")}
    assert measured["C8"]["value"] == math["trained"] - math["fixed-data"]
    assert measured["C8"]["baselines"] == {"on-policy": math["trained"], "fixed data": math["fixed-data"]}
    ties = {"tokens": ours["tokens"], "avg": 2.0}, {"tokens": 0.0, "avg": ours["avg"]}, {"tokens": 0.0, "avg": 2.0}
    for rival, change in zip(rivals, ties):
        one[rival] |= change
    for rival in rivals[3:]:
        one[rival] |= {"tokens": 1e9, "avg": 0.0}
    assert quantities.paper({"paper": {"1.5b": one}})["C4"]["value"] == 1, "as short, or as accurate, is not better in both"
    del one["rival 3"], one["grpo"], one["T1.2"], one["curves"]["grpo"], seven["fixed-data"]
    assert not {"C4", "C6", "C7", "C8", "C9"} & set(quantities.paper({"paper": {"1.5b": one, "7b": seven}}))


def test_steps_that_never_come_save_none():
    curves = {"grpo": [[0, 0.1, 100.0], [40, 0.6, 50.0]], "trained": [[0, 0.5, 60.0], [50, 0.59, 50.0], [60, 0.7, 51.0]]}
    assert quantities._steps_saved(curves)["value"] == pytest.approx(100 * (1 - 60 / 40))
    assert quantities._steps_saved({"grpo": [[0, 0.9, 1.0]], "trained": [[0, 0.5, 60.0]]})["value"] == 0.0
    short = {"grpo": curves["grpo"], "trained": [[0, 0.5, 60.0], [10, 0.59, 50.0]]}
    assert quantities._steps_saved(short) == {**quantities._steps_saved(short), "value": 0.0, "baselines": {"ours": 40, "grpo": 40}}


def test_a_claim_is_called_by_its_own_name_where_it_has_no_number(found, monkeypatch):
    called = []
    monkeypatch.setattr(quantities, "claim", lambda seeds, name, *more, **how: called.append(name) or {})
    named = [name for name in quantities.chains(found) if name != "C5c"]
    assert called == named and len(named) > 15
    called.clear()
    english = {f"sums/{arm}/seed{seed}": result(arm, seed, 96) for arm in ("base", *sums.ARMS) for seed in SEEDS}
    named = list(quantities.sums(english))
    assert called == named


def test_what_never_becomes_brief_counts_as_the_last_probe():
    assert quantities.updates_needed([[0, 0.8, 60.0], [5, 0.9, 50.0], [10, 0.7, 20.0], [40, 0.7, 10.0]]) == 40


def test_an_error_names_the_claim_that_has_no_number():
    from common.errors import RecordError

    with pytest.raises(RecordError, match="C1s"):
        quantities.claim((0, 1), "C1s", lambda seed, arm: float("nan"), "opsft", ("base",))


def test_facts_name_the_model_and_the_problems():
    base = {"model": {"name": "m"}, "test": {"problems": 96}}
    assert quantities.facts(base, "sums") == ([{"name": "m"}], [{"name": "sums", "split": "test", "n": 96}])


@pytest.mark.parametrize(("name", "asked"), [
    ("C1s", 100 * (1 - quantities.BRIEF)),
    ("C1n", 100 * (1 - quantities.BRIEF_IN_ENGLISH)),
    ("C1m", -100 * quantities.LESS),
])  # fmt: skip
def test_updates_are_counted_until_what_the_claims_ask_for(name, asked):
    """How short and how accurate a model must be for the count of updates to end is the rule of another claim: one number, twice."""
    assert CLAIMS.find(name)["protocol"]["rule"]["above"] == pytest.approx(asked)
