"""Every quantity of a claim, worked out again from what claims.yaml names, on results in which no two answers are the same row: an
arm compared with itself, sides exchanged, another block, another score, another split, all would give something else."""

import functools
from functools import partial
from statistics import fmean, median, stdev

import pytest

from tests.golden import held, same
from tests.numerics import drawn

from .. import analytic, findings, further, quantities, reported

SEEDS, BLOCKS = (0, 1, 4), tuple(map(str, range(8)))
LOOKED, TEST = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]  # pictures of questions
T = {6: 2.4469118511449692, 7: 2.3646242515927844}  # Student's t at 97.5 %, by degrees of freedom
APART = ("merge, picture apart", "before, picture apart")
WAYS = {"after": BLOCKS, "before": BLOCKS, "merge": BLOCKS, "up to": BLOCKS, "onto": ("0", "31", "63"),
        "shallow": ("before", "merge", "highest", "lowest", "random", "all but highest", *APART),
        "middle": ("before", "merge", "highest", "lowest", "random", "all but highest")}
ARMS = ("dense", "VisiPruner", "no exit", "attention at its K", "lot at its K", "another lot at its K", "FastV", "PyramidDrop",
        "no boundary", "paper's shallow stage", "code's shallow stage")
RIVALS = ("VisiPruner", "lot at its K", "FastV", "PyramidDrop")


def bits(*path, n=14):
    share = drawn("share", *path)
    return "".join("01"[drawn(*path, i, low=0.0, high=1.0) < share] for i in range(n))


def at_equal(seed, n=10):
    """Rivals at equal pairs, of one model."""
    return {"test": {arm: bits("equal", arm, seed, n=n) for arm in RIVALS}, "pictures": TEST[:n],
            "pairs": {arm: drawn("equal pairs", arm, seed) for arm in RIVALS}}


def made():
    found = {"features/test": {"looked": {"pictures": LOOKED}, "test": {"pictures": TEST}}}
    for seed in SEEDS:
        share = {b: drawn("validation", seed, b) for b in (*BLOCKS, "dense")}
        found[f"knocked/seed{seed}"] = {"dense": bits("dense", seed), "validation": share} | {
            way: {name: bits(way, name, seed) for name in names} for way, names in WAYS.items()}
        found[f"looked/seed{seed}"] = {
            "kept": {score: {b: bits("kept", score, b, seed) for b in BLOCKS} for score in ("attention", "value", "lot", "another lot")},
            "exit": {b: bits("exit", b, seed) for b in BLOCKS},
            "lens": {which: {b: bits("lens", which, b, seed) for b in BLOCKS} for which in ("right", "another")},
            "sinks": {which: [drawn(which, seed, i) for i in range(len(LOOKED))] for which in ("items", "by lot")}}
        found[f"pruned/seed{seed}"] = {
            "test": {arm: bits("pruned", arm, seed, n=len(TEST)) for arm in ARMS},
            "pairs": {arm: drawn("pairs", arm, seed) for arm in ARMS},
            "saved": [drawn("saved", seed, i, high=99.0) for i in range(len(TEST))], "config": {"boundary": {0: 3, 1: 2, 4: 4}[seed]},
            "equal": at_equal(seed), **{name: drawn(name, seed) for name in ("kept", "filter", "exit")}}
    return found


FOUND = made()


@functools.cache
def measured_once():
    return findings.llava(FOUND)


@pytest.fixture(scope="module", autouse=True)
def not_before():
    """`make mutants` runs each test alone and notes what it reaches: nothing may be left of a test before."""
    measured_once.cache_clear()


def answers(job, *path):
    """Of all models, one after the other, in points."""
    out = []
    for seed in SEEDS:
        of = FOUND[f"{job}/seed{seed}"]
        for name in path:
            of = of[name]
        out += [100.0 * int(bit) for bit in of] if isinstance(of, str) else of
    return out


knocked, looked, pruned = (partial(answers, job) for job in ("knocked", "looked", "pruned"))
DENSE = knocked("dense")


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


def by_model(items):
    each = len(items) // 3
    return [fmean(items[i * each :][:each]) for i in range(3)]


def own(a, b):
    return {f"seed {seed}": value for seed, value in zip(SEEDS, minus(by_model(a), by_model(b)))}


def of_models(measured, a, b, shown=None):
    """a - b: a value a model; beside them the interval over pictures, whose error is never below what one question makes."""
    differences, n, most = minus(a, b), len(a), max(map(abs, (*a, *b)))
    mean, sums = fmean(differences), dict.fromkeys(LOOKED, 0.0)
    for difference, picture in zip(differences, LOOKED * 3):
        sums[picture] += difference - mean
    half = T[6] * max((7 / 6 * sum(s * s for s in sums.values())) ** 0.5 / n, most / n)
    same(measured, minus(by_model(a), by_model(b)), resolution=most / (n / 3) / 3**0.5, shown={
        "ours": fmean(a), "theirs": fmean(b), "over pictures of these models, from": mean - half, "over pictures, to": mean + half,
        **(shown or {})})


def seen(claim, a, b, c, d, control="placebo"):
    """What is claimed of models is a - b, its control c - d."""
    of = dict(measured_once()[claim])
    of_models(of.pop(control), c, d)
    of_models(of, a, b)


def of_arms(claim, ours, theirs, control, measured=None):
    """What is claimed of these models, on test questions: an arm less another, its control too; the pairs of both stand beside."""
    def side(a, b):
        one, other = pruned("test", a), pruned("test", b)
        pairs = {f"pairs, {arm}": 100 * fmean(FOUND[f"pruned/seed{s}"]["pairs"][arm] for s in SEEDS) for arm in (a, b)}
        return minus(one, other), TEST * 3, 100 / 30, {"ours": fmean(one), "theirs": fmean(other)} | pairs | own(one, other)

    held((measured or measured_once())[claim], *side(ours, theirs), **({"placebo": side(*control)} if control else {}))


def over_pictures(a, b):
    return minus(a, b), LOOKED * 3, max(map(abs, (*a, *b))) / len(a), {"ours": fmean(a), "theirs": fmean(b)} | own(a, b)


def test_what_shallow_blocks_do():
    before = knocked("shallow", "before")
    for claim, way in (("C8a", "highest"), ("C9a", "all but highest"), ("C11a", "merge")):
        seen(claim, DENSE, knocked("shallow", way), DENSE, before, control="sensitivity")
    seen("C10a", knocked("after", "0"), knocked("before", "0"), knocked("after", "7"), knocked("before", "7"))
    seen("C11b", knocked("shallow", "merge"), before, knocked("merge", "7"), knocked("before", "7"))
    together, hidden = (knocked("shallow", name) for name in APART)
    seen("C11c", DENSE, together, DENSE, hidden, control="sensitivity")
    seen("C11d", together, hidden, knocked("merge", "7"), knocked("before", "7"))
    seen("C12a", knocked("onto", "0"), knocked("onto", "63"), knocked("onto", "0"), knocked("before", "0"), control="sensitivity")
    first, second, behind, next_behind = (minus(DENSE, knocked(mode, block)) for mode in ("before", "after") for block in "01")
    seen("C10b", second, [x / 2 for x in first], next_behind, [x / 2 for x in behind])
    seen("C19a", looked("sinks", "items"), [0.0] * 42, looked("sinks", "by lot"), [0.0] * 42)


def test_where_the_picture_is_needed():
    ordered = {seed: sorted("123456", key=FOUND[f"knocked/seed{seed}"]["validation"].get) for seed in SEEDS}

    def at(place):
        return [100.0 * int(bit) for seed in SEEDS for bit in FOUND[f"knocked/seed{seed}"]["after"][ordered[seed][place]]]

    of = dict(measured_once()["C14a"])
    assert len({ordered[seed][0] for seed in SEEDS}) > 1
    of_models(of.pop("placebo"), DENSE, at(-1), {f"seed {seed}, block": float(ordered[seed][-1]) for seed in SEEDS})
    of_models(of, DENSE, at(0), {f"seed {seed}, block": float(ordered[seed][0]) for seed in SEEDS})
    gone = looked("exit", "0")
    seen("C14f", DENSE, knocked("after", "0"), DENSE, gone)
    seen("C14l", DENSE, knocked("after", "7"), DENSE, gone)
    seen("C14u", DENSE, knocked("up to", "1"), DENSE, knocked("up to", "7"))
    lowest = knocked("middle", "lowest")
    seen("C15a", lowest, knocked("middle", "highest"), lowest, knocked("middle", "random"))
    everything = knocked("middle", "before")
    seen("C15c", DENSE, lowest, DENSE, everything, control="sensitivity")
    seen("C15d", DENSE, knocked("middle", "all but highest"), DENSE, everything)
    seen("C15b", knocked("middle", "before"), knocked("middle", "merge"), knocked("shallow", "before"), knocked("shallow", "merge"))
    seen("C18a", DENSE, looked("exit", "5"), DENSE, looked("exit", "2"))
    seen("C18b", knocked("after", "4"), looked("exit", "3"), knocked("after", "7"), looked("exit", "6"))
    seen("C20a", looked("lens", "right", "7"), looked("lens", "right", "3"), looked("lens", "another", "7"), looked("lens", "another", "3"))


def test_a_block_that_was_not_tried_is_not_chosen_and_what_has_no_spread_has_no_interval():
    row = FOUND["knocked/seed0"]
    worst = min("123456", key=row["validation"].get)
    some = FOUND | {"knocked/seed0": row | {"validation": {b: v for b, v in row["validation"].items() if b != worst}}}
    rest = min((b for b in "123456" if b != worst), key=row["validation"].get)
    assert quantities.llava(some)["C14a"]["baselines"]["seed 0, block"] == float(rest)
    none = {seed: FOUND[f"looked/seed{seed}"] | {"sinks": {"items": [0.0] * 14, "by lot": [0.5] * 14}} for seed in SEEDS}
    measured = quantities.llava(FOUND | {f"looked/seed{seed}": of for seed, of in none.items()})["C19a"]
    assert measured["baselines"] == {"ours": 0.0, "theirs": 0.0} and measured["stderr"] is None and "ci95" not in measured


def test_pruned():
    lot = "lot at its K"
    for claim, rival in (("C7f", "FastV"), ("C7p", "PyramidDrop")):
        of_arms(claim, "VisiPruner", rival, (lot, rival))
    of_arms("C16b", "dense", "VisiPruner", ("dense", lot))
    of_arms("C16c", "VisiPruner", "no boundary", ("VisiPruner", "no exit"))
    of_arms("C17a", "no exit", "attention at its K", (lot, "attention at its K"))
    of_arms("C17l", "no exit", lot, ("another lot at its K", lot))
    shallow = dict(measured_once()["C16s"])
    of_models(shallow.pop("placebo"), DENSE, looked("exit", "0"))
    of_arms("C16s", "VisiPruner", "paper's shallow stage", None, {"C16s": shallow})
    kept = {(score, block): looked("kept", score, block) for score in ("attention", "value", "lot", "another lot") for block in "03"}
    attention, by_lot = kept["attention", "3"], kept["lot", "3"]
    held(measured_once()["C17v"], *over_pictures(kept["value", "3"], attention), placebo=over_pictures(by_lot, attention))
    seen("C17s", kept["attention", "0"], kept["lot", "0"], attention, by_lot)
    seen("C17m", attention, by_lot, kept["another lot", "3"], by_lot)
    assert len(measured_once()) == 32 and {*quantities.llava(FOUND)} < {*measured_once()}


def test_pairs_that_are_saved():
    saved, rows = pruned("saved"), [FOUND[f"pruned/seed{seed}"] for seed in SEEDS]
    measured = dict(measured_once()["C16a"])
    bounds = {"bound, 15 of 32 layers see all": 100 * 17 / 32, "seed 0, bound behind its boundary": 100 * 3 / 8,
              "seed 1, bound behind its boundary": 50.0, "seed 4, bound behind its boundary": 25.0}
    same(measured.pop("placebo"), [100 - 100 * row["pairs"]["no boundary"] for row in rows], resolution=10.0)
    held(measured, saved, TEST * 3, max(saved) / 30, {"ours": fmean(saved), "theirs": 0.0} | own(saved, [0.0] * 30) | bounds |
         {name: fmean(row[name] for row in rows) for name in ("kept", "filter", "exit")})
    some = FOUND | {"pruned/seed1": FOUND["pruned/seed1"] | {"exit": None}}
    assert quantities.llava(some)["C16a"]["baselines"]["exit"] == fmean((rows[0]["exit"], rows[2]["exit"]))
    none = FOUND | {f"pruned/seed{seed}": row | {"exit": None} for seed, row in zip(SEEDS, rows)}
    shown = {*quantities.llava(none)["C16a"]["baselines"]}
    assert {"kept", "filter"} <= shown and "exit" not in shown, "what no model did is not shown"


def test_least_errors_by_hand():
    one = quantities.apart([1.0, -4.0, 1.0], [1.0, -4.0, 1.0], [0, 0, 0])
    assert one["stderr"] == 4 / 3 and one["ci95"] == [0.0, 0.0], "a single picture has no interval"
    wide = quantities.apart([100.0, 0.0], [0.0, 0.0], [0, 1])
    assert wide["stderr"] == 50.0 and "baselines" not in wide
    more = quantities.apart([3.0] * 4, [2.0] * 4, [0, 0, 1, 1], a=1.0)
    assert more["stderr"] == 0.75 and more["stderr_kind"] == "clustered" and more["baselines"] == {"a": 1.0}
    assert more["ci95"] == pytest.approx([1 - 12.7062 * 0.75, 1 + 12.7062 * 0.75], rel=1e-4)
    assert sum(more["ci95"]) == pytest.approx(2.0)
    none = quantities.apart([0.0] * 2, [0.0] * 2, [0, 1])
    assert none["stderr"] is None and "ci95" not in none, "nothing that could be counted"
    models = quantities.across([3.0, 3.0, 2.0, 2.0], [0.0, -4.0, 2.0, 2.0], 2, a=5.0)
    assert models["per_seed"] == [5.0, 0.0] and models["resolution"] == pytest.approx(4 / 2 / 2**0.5)
    assert models["stderr"] == 2.5 and models["stderr_kind"] == "across-seeds" and models["baselines"] == {"a": 5.0}


# -- time --------------------------------------------------------------------------------------------------
def error(rounds):
    return sum(stdev(of) ** 2 / len(of) for of in rounds) ** 0.5 / len(rounds)


def test_times():
    pairs = ("dense / pruned", "dense / masked", "dense / official")

    def process(i):
        at = partial(drawn, "process", i)
        return {"rounds": int(at("rounds", low=2, high=90)), "load_average": at("load"), "ratios": {pair: {
            "median": at(pair, "median"), "iqr": at(pair, "iqr"), "bound": at(pair, "bound"), "ratios": [at(pair, r) for r in range(5)]}
            for pair in pairs}}

    found = {f"speed/process{i}": process(i) for i in range(3)}
    measured, rows = quantities.speed({"elsewhere": {}} | dict(reversed(found.items()))), list(found.values())
    bound = rows[0]["ratios"]["dense / pruned"]["bound"]
    for claim, ours, control, timed, by in (("C22a", pairs[0], pairs[1], pairs[0], 1.0), ("C22b", pairs[0], pairs[1], pairs[0], bound),
                                            ("C22c", pairs[2], pairs[0], pairs[2], 1.0)):
        of = dict(measured[claim])
        assert of.pop("timing") == {
            "rounds": sum(row["rounds"] for row in rows), "processes": 3, "estimator": "median of interleaved rounds",
            "iqr_relative": max(row["ratios"][timed]["iqr"] / row["ratios"][timed]["median"] for row in rows),
            "load_average": max(row["load_average"] for row in rows)}
        for one, pair, shown in ((of.pop("placebo"), control, {}), (of, ours, {
                pair: [row["ratios"][pair]["median"] for row in rows] for pair in pairs} | {"bound": bound} if claim == "C22a" else {})):
            rounds = [[r / by for r in row["ratios"][pair]["ratios"]] for row in rows]
            same(one, [median(r) for r in rounds], shown=shown, resolution=error(rounds), over="processes")
    assert len(measured) == 3 and "resolution" not in quantities.over_processes([[1.0], [2.0]]), "one round has no spread"
    assert quantities.over_processes([[1.0, 2.0]])["resolution"] == pytest.approx(0.5)


def test_trainings():
    def run(arm, seed):
        return {"right": "".join("01"[drawn(arm, seed, i, low=0.0, high=1.0) < drawn(arm)] for i in range(30 + seed)),
                "seconds": {way: [drawn(arm, seed, way, i) for i in range(8)] for way in ("dense", "staged")}}

    found = {f"guideline/{arm}/seed{seed}": run(arm, seed) for arm in ("dense", "middle", "last") for seed in SEEDS}
    right = {arm: [100 * sum(map(int, bits)) / len(bits) for bits in (found[f"guideline/{arm}/seed{s}"]["right"] for s in SEEDS)]
             for arm in ("dense", "middle", "last")}
    measured = quantities.guideline(found)
    claim = dict(measured["C23a"])
    for of, arm in ((claim.pop("placebo"), "last"), (claim, "middle")):
        same(of, minus(right["dense"], right[arm]), shown={"dense": right["dense"], arm: right[arm]}, resolution=100 / 30)
    steps = [found[f"guideline/middle/seed{s}"]["seconds"] for s in SEEDS]
    faster = [[a / b for a, b in zip(of["dense"], of["staged"])] for of in steps]
    itself = [[a / b for a, b in zip(of["dense"][0::2], of["dense"][1::2])] for of in steps]
    of = dict(measured["C23b"])
    spread = max((sorted(f)[5] - sorted(f)[2]) / median(f) for f in faster)  # of eight the third from either end
    assert of.pop("timing") == {"rounds": 24, "processes": 3, "estimator": "median of interleaved steps",
                                "iqr_relative": pytest.approx(spread)}
    same(of.pop("placebo"), [median(f) for f in itself], resolution=error(itself), over="processes")
    same(of, [median(f) for f in faster], resolution=error(faster), over="processes")


# -- what is asked for by name ---------------------------------------------------------------------------------
def of_rows(rows, over, pictures, shown=None):
    """(differences, clusters, least, shown) of items of several models: over = (of a row its items, and those of the other side)."""
    a, b = ([over[side](row) for row in rows] for side in (0, 1))
    both = {f"seed {seed}": fmean(x) - fmean(y) for seed, x, y in zip(SEEDS, a, b)}
    a, b = sum(a, []), sum(b, [])
    return minus(a, b), pictures, max(map(abs, (*a, *b))) / len(a), {"ours": fmean(a), "theirs": fmean(b)} | both | (shown or {})


def right(*path):
    def of(row):
        for name in path:
            row = row[name]
        return [100.0 * int(bit) for bit in row]
    return of


def rivals_are_level(measured, rival, rows):
    def over(ours):
        pairs = {f"pairs, {arm}": 100 * fmean(row["pairs"][arm] for row in rows) for arm in (ours, rival)}
        return of_rows(rows, (right("test", ours), right("test", rival)), TEST * 3, pairs)

    held(measured, *over("VisiPruner"), placebo=over("lot at its K"))


def test_rivals_at_equal_pairs_and_another_family():
    rows = [at_equal(seed) for seed in SEEDS]
    measured = further.equal({f"equal/seed{seed}": row for seed, row in zip(SEEDS, rows)})
    for claim, rival in (("C26a", "FastV"), ("C26b", "PyramidDrop")):
        rivals_are_level(measured[claim], rival, rows)
    other = further.qwen3({"another": {}} | {f"qwen3/{name}": of for name, of in FOUND.items()})
    for claim, rival in (("C24j", "FastV"), ("C24k", "PyramidDrop")):
        rivals_are_level(other[claim], rival, rows)
    gone = looked("exit", "0")
    held(other["C24b"], *over_pictures(DENSE, knocked("after", "0")), placebo=over_pictures(DENSE, gone))
    held(other["C24c"], *over_pictures(DENSE, looked("exit", "5")), placebo=over_pictures(DENSE, looked("exit", "2")))
    of_arms("C24g", "dense", "VisiPruner", ("dense", "lot at its K"), other)
    of_arms("C24i", "no exit", "lot at its K", ("another lot at its K", "lot at its K"), other)
    assert [other[f"C24{letter}"] for letter in "feh"] == [measured_once()[claim] for claim in ("C16a", "C17v", "C17a")]
    assert other["C24a"]["stderr_kind"] == other["C24d"]["stderr_kind"] == "clustered" and len(other) == 11
    for claim, usual in (("C24a", "C14a"), ("C24d", "C17s")):
        assert other[claim]["value"] == pytest.approx(measured_once()[usual]["value"])
        assert other[claim]["placebo"]["value"] == pytest.approx(measured_once()[usual]["placebo"]["value"])


def test_other_arithmetic():
    n, whats = 14, ("layer", "number", "tokens", "answer")
    rows = [{"pictures": LOOKED, "filtered": bits("filtered", seed), **{way: {"overlap": [drawn(way, seed, i) for i in range(n)]} | {
        what: bits(way, what, seed) for what in whats} for way in ("eager", "bfloat16", "bfloat16, influence too")}} for seed in SEEDS]
    measured = further.precision({f"precision/seed{seed}": row for seed, row in zip(SEEDS, rows)})
    there = [[i for i in range(n) if row["filtered"][i] == "1"] for row in rows]

    def alike(way):
        values = [[100.0 * int(row[way]["number"][i]) for i in of] for row, of in zip(rows, there)]
        return sum(values, []), [LOOKED[i] for of in there for i in of], 100 / sum(map(len, there)), {
            "overlap of the kept sets, %": 100 * fmean(x for row in rows for x in row[way]["overlap"]),
            "answers the same, %": 100 * fmean(int(x) for row in rows for x in row[way]["answer"]),
            **{f"seed {seed}": fmean(of) for seed, of in zip(SEEDS, values)}}

    held(measured["C25a"], *alike("bfloat16"), placebo=alike("bfloat16, influence too"))
    held(measured["C25b"], *alike("eager"), placebo=alike("bfloat16, influence too"))
    rows[1]["filtered"] = "0" * n
    assert "seed 1" not in further.precision({f"precision/seed{s}": row for s, row in zip(SEEDS, rows)})["C25a"]["baselines"]


def test_scores_against_leaving_out_each_token():
    n, scores = 14, ("value", "attention", "lot", "another lot")
    rows = [{"pictures": LOOKED, "right": {name: bits("right", name, seed) for name in ("dense", "oracle", *scores)}, **{
        what: {name: [drawn(what, name, seed, i) for i in range(n)] for name in scores} for what in ("rank", "shared")}} for seed in SEEDS]
    measured = further.oracle({f"oracle/seed{seed}": row for seed, row in zip(SEEDS, rows)})

    def rank(ours):
        shared = {f"of the oracle's sixteen, %, {name}": 100 * fmean(x for row in rows for x in row["shared"][name])
                  for name in (ours, "attention")}
        return of_rows(rows, (lambda row: row["rank"][ours], lambda row: row["rank"]["attention"]), LOOKED * 3, shared)

    held(measured["C27a"], *rank("value"), placebo=rank("lot"))
    held(measured["C27b"], *of_rows(rows, (right("right", "oracle"), right("right", "value")), LOOKED * 3),
         placebo=of_rows(rows, (right("right", "oracle"), right("right", "lot")), LOOKED * 3))


def test_few_tokens():
    """Scores are compared on the questions that keep few, another number of each model; rivals on all."""
    n = len(TEST)
    names = ("value", "attention", "text", "picture", "lot", "another lot")
    few = {0: "1100100000", 1: "0000000000", 4: "1111100101"}
    rows = {seed: at_equal(seed) | {"few": few[seed], "kept": [None if seed == 1 else int(drawn("kept", seed, i, low=1, high=60))
                                                            for i in range(n)],
                                    "right": {name: bits("few", name, seed, n=n) for name in names}} for seed in SEEDS}
    measured = further.budget({f"budget/seed{seed}": row for seed, row in rows.items()})
    there = {seed: [i for i in range(n) if few[seed][i] == "1"] for seed in SEEDS}
    pictures = [TEST[i] for seed in SEEDS for i in there[seed]]
    kept = [rows[seed]["kept"][i] for seed in SEEDS for i in there[seed]]

    def over(ours, theirs):
        a, b = ({seed: [100.0 * int(rows[seed]["right"][name][i]) for i in there[seed]] for seed in SEEDS} for name in (ours, theirs))
        each = {f"seed {seed}": fmean(a[seed]) - fmean(b[seed]) for seed in (0, 4)}
        one, other = (sum(of.values(), []) for of in (a, b))
        return minus(one, other), pictures, 100 / 10, {"ours": fmean(one), "theirs": fmean(other), "tokens kept": fmean(kept),
                                                       "questions": 10.0, "of all, %": 100 / 3} | each

    assert len(pictures) == 10
    for claim, ours, theirs, control in (("C29a", "value", "attention", "lot"), ("C29b", "value", "lot", "another lot"),
                                         ("C29e", "attention", "text", "lot"), ("C29f", "text", "picture", "lot")):
        held(measured[claim], *over(ours, theirs), placebo=over(control, theirs))
    for claim, rival in (("C29c", "FastV"), ("C29d", "PyramidDrop")):
        rivals_are_level(measured[claim], rival, list(rows.values()))
    assert len(measured) == 6
    none = {f"budget/seed{seed}": row | {"few": "0" * n} for seed, row in rows.items()}
    assert {*further.budget(none)} == {"C29c", "C29d"}


# -- what is printed, and the paper's size -------------------------------------------------------------------
def test_figures_of_the_paper():
    measured, d, m, L, n = quantities.exact({}, "analytic"), 4096, 11008, 32, 576

    def block(k, d=d, m=m):
        return 4 * k * d * d + 2 * k * k * d + 3 * k * d * m

    def pairs(k):
        return k * k + 74 * k

    def saved(layer, kept):
        shallow = 4 * n * d * d + 3 * n * d * m  # their attention is not counted
        return 100 * (1 - (layer * shallow + kept * block(10)) / (L * block(n)))

    values = {"C1": saved(15, 6), "C1a": L * block(n) / 1e12, "C1b": saved(12, 10), "C1c": 100 * (1 - 9 * pairs(10) / (32 * pairs(n))),
              "C2a": 40 * block(n, 5120, 13824) / 1e12, "C5a": 4, "C7a": 100 * (1 - pairs(192) / pairs(n)),
              "C7b": 100 * (1 - pairs(64) / pairs(n)), "C7c": 100 * (1 - (3 * pairs(n) + 29 * pairs(144)) / (32 * pairs(n))),
              "C7d": 100 * (1 - (9 * pairs(10) + 9 * n * 74) / (32 * pairs(n))), "C7e": 2}
    whole, text, seen = block(n + 74), block(74), block(10 + 74)
    values["C1w"] = 100 * (1 - (15 * (4 * n * d * d + 3 * n * d * m) + 9 * block(10) + L * text) / (L * whole))
    assert {name: of["value"] for name, of in measured.items()} == pytest.approx(values, rel=1e-9)
    assert measured["C1w"]["baselines"] == pytest.approx({
        "attention of the picture counted": 100 * (1 - (15 * whole + 9 * seen + 8 * text) / (L * whole)),
        "visual tokens, their attention counted up to the filter layer": 100 * (1 - (15 * block(n) + 9 * block(10)) / (L * block(n)))})
    one = 4 * n * d * d + 3 * n * d * m
    f = (1.76e12 - 23.9 * block(10)) / (one - block(10))  # f layers of all and 23.9 - f of ten tokens are 1.76 T
    cached = {"dense": 32 * 650, "paper": 32 * 74 + 9 * 10, "code": 15 * 650 + 9 * 84 + 8 * 74}
    assert measured["C1"]["baselines"] == pytest.approx({"9 layers with 10 tokens": saved(15, 9), "filter layer for 1.76 T": f} | {
        f"cache of the prompt, MB, {name}": tokens * 2 * 4096 * 2 / 1e6 for name, tokens in cached.items()})
    assert measured["C1c"]["baselines"] == {"the released code": pytest.approx(
        100 * (1 - (n * 74 + 5 * n * n + 9 * pairs(n) + 9 * pairs(10)) / (32 * pairs(n))))}
    small = 144
    mobile = 32 * (4 * small * 2560**2 + 2 * small**2 * 2560 + 3 * small * 2560 * 6912)
    assert measured["C2a"]["baselines"] == {"MobileVLM-V2-3B": pytest.approx(mobile / 1e12)}
    assert len(measured["C5a"]["baselines"]) == 6
    for name, value in measured["C5a"]["baselines"].items():
        model, _, way = name.partition(", ")
        row = next(r for r in reported.QUALITY if r.model == model and r.pruned == (way == "pruned"))
        computed = sum(s / 20 if s > 100 else s for s in row.scores) / 7
        assert value == round(computed, 2) and abs(computed - row.average) > 0.05
    assert measured["C7c"]["baselines"] == {"K = 2": pytest.approx(100 * (1 - (2 * pairs(n) + 30 * pairs(144)) / (32 * pairs(n))))}


def test_totals_of_table_5():
    measured, d, m = findings.totals({}), 5120, 13824
    shallow, few = 4 * 576 * d * d + 3 * 576 * d * m, 4 * 10 * d * d + 2 * 100 * d + 3 * 10 * d * m
    assert measured["C3a"]["value"] == pytest.approx((18 * shallow + 6 * few) / 1e12, rel=1e-12)
    f = (3.31e12 - 23.9 * few) / (shallow - few)
    assert measured["C3a"]["baselines"] == {"filter layer for 3.31 T": pytest.approx(f)} and round(f) == 18
    printed = {"LLaVA-1.5-7B": (3.82, 1.76), "LLaVA-1.5-13B": (7.44, 3.31), "InternVL2.5-8B": (11.0, 5.34), "Qwen2-VL-7B": (9.62, 4.69),
               "MobileVLM-V2-3B": (0.37, 0.25)}
    assert measured["C5r"]["baselines"] == pytest.approx({name: 100 - 100 * b / a for name, (a, b) in printed.items()})
    assert measured["C5r"]["value"] == 5
    assert [analytic.visual_tokens_for(total * 1e12, *shape) for total, shape in (
        (11.0, (32, 4096, 14336)), (9.62, (28, 3584, 18944)))] == [1352, 1300], "what the notes of C4a and C5b say"


def test_a_saving_that_does_not_follow_is_not_counted(monkeypatch):
    monkeypatch.setitem(findings.SAVED, "Qwen2-VL-7B", 51.3)
    assert findings.totals({})["C5r"]["value"] == 4


def test_points_lost_at_the_papers_size():
    scores = {model: {way: {name: drawn(model, way, name) * (20 if name == "MME-P" else 1) for name in reported.TABLE_5} | {"VQAv2": 9.0}
                      for way in ("dense", "pruned")} for model in ("LLaVA-1.5-7B", "LLaVA-1.5-13B")}
    mean = {model: {way: fmean(drawn(model, way, name) for name in reported.TABLE_5) for way in of} for model, of in scores.items()}
    measured = quantities.paper({"paper": scores})
    for claim, model in (("C2", "LLaVA-1.5-7B"), ("C3", "LLaVA-1.5-13B")):
        assert measured[claim]["value"] == pytest.approx(mean[model]["dense"] - mean[model]["pruned"])
        assert measured[claim]["baselines"] == pytest.approx(mean[model])
    del scores["LLaVA-1.5-7B"]["pruned"]["POPE"]
    assert {*quantities.paper({"paper": scores})} == {"C3"}
    del scores["LLaVA-1.5-13B"]["dense"]
    assert quantities.paper({"paper": scores}) == quantities.paper({"paper": {}}) == {}
