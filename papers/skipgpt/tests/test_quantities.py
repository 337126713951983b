"""Every quantity of a claim, worked out again from results in which no two numbers are equal: an arm compared with itself, sides
exchanged, another column, all would give something else. test_words.py has what the words make of them."""

import math
from statistics import fmean

import pytest

from common.claims.intervals import paired
from tests.numerics import drawn

from .. import analytic, quantities
from ..experiments.scratch import BUDGET

SEEDS = (0, 1, 4)


def row(*path, **more):
    kinds = {kind: {m: drawn(*path, kind, m) for m in ("attn", "mlp")} for kind in ("recall", "cycle", "triple")}
    return {name: drawn(*path, name) for name in ("ce", "sparsity", "attn_skip", "mlp_skip")} | {"executed_by_kind": kinds} | more


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


@pytest.fixture(scope="module")
def found():
    made = {}
    for seed in SEEDS:
        def rows(*path, s=seed):
            return {name: row(*path, name, s) for name in ("matched", "uniform")}

        plans = {f"plan {i}": row("plan", i, seed, sparsity=sparsity) for i, sparsity in enumerate((0.4, BUDGET, round(BUDGET, 5), 0.3))}
        plans["too much"] = row("too much", seed, ce=0.001, sparsity=BUDGET + 1e-4)
        sweep = [{"asked": asked, **{name: drawn("sweep", asked, seed, name) for name in ("sparsity", "ce", "matched", "uniform")}}
                 for asked in (0.2, 0.5, 0.6, 0.8)]
        made |= {
            f"tier_a/static/seed{seed}": {"dense": row("dense", seed, ce=0.0001, sparsity=0.0), **plans},
            f"tier_a/routers at 0.40/seed{seed}": {
                **{state: row(state, seed) for state in ("untrained", "trained", "sampled", "held")},
                **{f"{state} random": rows(state, "random") for state in ("untrained", "trained", "held")},
                "sweep": {"dense": drawn("sweep", seed), "rows": sweep},
                "lora": {name: row("lora", name, seed) for name in ("routed", "routed held", "dense", "q and v", "q and v held")}},
            f"tier_a/MoD-D/seed{seed}": row("MoD-D", seed),
            **{f"tier_a/{arm}/seed{seed}": {"trained": row(arm, "trained", seed), "held": row(arm, "held", seed)}
               for arm in ("coupled", "token-blind", "joint")}}
    return made


@pytest.fixture(scope="module")
def measured(found):
    return quantities.scratch(found)


@pytest.fixture(scope="module")
def of(found):
    def read(job, *names):
        rows = [found[f"tier_a/{job}/seed{seed}"] for seed in SEEDS]
        for name in names:
            rows = [each[name] for each in rows]
        return rows

    return read


def same(measured, expected, placebo, **shown):
    assert measured["per_seed"] == pytest.approx(expected, rel=1e-12), "the quantity"
    assert measured["placebo"]["per_seed"] == pytest.approx(placebo, rel=1e-12), "its placebo"
    means = {name.replace("_", " "): fmean(values) for name, values in shown.items()}
    assert measured["baselines"] == pytest.approx(means, rel=1e-12)


# -- what is computed --------------------------------------------------------------------------------------
def test_figures_of_the_paper():
    value = {claim: of["value"] for claim, of in quantities.exact({}).items()}
    seven = analytic.LLAMA2_7B
    share = 100 * analytic.router_params(seven) / seven.P_total
    assert value == pytest.approx({
        "C2b": 90.33, "C3a": 94.14, "C4a": 81.15, "C6b": 60.91, "C9": math.floor(share * 1000) / 1000,
        "C10": 100 * analytic.training_cost(seven, steps=10_000, batch=16).share_of_peak,
        "C11a": 100 * analytic.module_sparsity(0.3319, 0.2633), "C15c": 1.44 / 1.81}, rel=5e-3)
    assert value["C10"] == 100 * analytic.training_cost(seven, steps=10_000, batch=16).share_of_peak
    exact = quantities.exact({})
    bound = analytic.prefill_speedup(analytic.LLAMA31_8B, 1024, 0.5, 0.5)
    assert exact["C15c"]["baselines"] == {"reported speed-up": 1.44, "dense / executed FLOPs": bound}
    assert exact["C15c"]["value"] == 1.44 / bound and bound == pytest.approx(1.81, abs=0.01)
    assert exact["C9"]["baselines"]["untruncated"] == share and 0 <= share - exact["C9"]["value"] < 1e-3
    assert exact["C9"]["baselines"]["bottleneck router of the released code"] == pytest.approx(
        100 * analytic.router_params(seven, "bottleneck") / seven.P_total)
    assert {round(value[claim], 2) for claim in ("C2b", "C3a", "C4a", "C6b")} == {value[claim] for claim in ("C2b", "C3a", "C4a", "C6b")}


# -- from scratch ------------------------------------------------------------------------------------------
def test_stages(measured, of):
    routers, dense = of("routers at 0.40", "trained", "ce"), of("static", "dense", "ce")
    lora = {name: of("routers at 0.40", "lora", name, "ce") for name in ("routed", "routed held", "dense", "q and v held")}
    joint = of("joint", "held", "ce")
    same(measured["C1a"], minus(lora["routed held"], dense), minus(routers, dense), both_stages=lora["routed held"], dense=dense,
         dense_with_LoRA=lora["dense"], routers=routers)
    same(measured["C5a"], minus(routers, lora["routed"]), minus(dense, lora["dense"]), routed_with_LoRA=lora["routed"],
         dense_with_LoRA=lora["dense"], dense=dense)
    same(measured["C6a"], minus(joint, lora["routed held"]), minus(lora["q and v held"], lora["routed held"]), joint=joint,
         two_stages=lora["routed held"], two_stages_on_q_and_v=lora["q and v held"], joint_sparsity=of("joint", "held", "sparsity"),
         two_stages_sparsity=of("routers at 0.40", "lora", "routed held", "sparsity"))


def test_rivals(measured, of):
    ours, lot = of("routers at 0.40", "held", "ce"), of("routers at 0.40", "held random", "matched", "ce")
    plans = {f"plan {i}": of("static", f"plan {i}", "ce") for i in range(4)}  # at most the budget; neither the dense model nor more
    best = [min(values) for values in zip(*plans.values())]
    same(measured["C7a"], minus(best, ours), minus(best, lot), router=ours, **plans)
    for claim, arm, shown in (("C8a", of("MoD-D", "ce"), {"MoD_D": of("MoD-D", "ce"), "router": ours}),
                              ("C16b", of("token-blind", "held", "ce"), {
                                  "router": ours, "token_blind": of("token-blind", "held", "ce"),
                                  "token_blind_sparsity": of("token-blind", "held", "sparsity")}),
                              ("C17", of("coupled", "held", "ce"), {"coupled": of("coupled", "held", "ce"), "decoupled": ours})):
        same(measured[claim], minus(arm, ours), minus(arm, lot), **shown)


def test_whether_it_looks_at_tokens(measured, of):
    def gain(state):
        return minus(of("routers at 0.40", f"{state} random", "matched", "ce"), of("routers at 0.40", state, "ce"))

    same(measured["C16"], gain("trained"), gain("untrained"), router=of("routers at 0.40", "trained", "ce"),
         sampled=of("routers at 0.40", "sampled", "ce"), matched_random=of("routers at 0.40", "trained random", "matched", "ce"),
         uniform_random=of("routers at 0.40", "trained random", "uniform", "ce"))
    kinds = {(state, kind): of("routers at 0.40", state, "executed_by_kind", kind, "attn")
             for state in ("trained", "untrained") for kind in ("recall", "cycle")}
    same(measured["C16a"], minus(kinds["trained", "recall"], kinds["trained", "cycle"]),
         minus(kinds["untrained", "recall"], kinds["untrained", "cycle"]), recall=kinds["trained", "recall"],
         cycle=kinds["trained", "cycle"])
    attention, mlp = (of("routers at 0.40", "trained", f"{name}_skip") for name in ("attn", "mlp"))
    same(measured["C11b"], minus(attention, mlp), minus(*(of("routers at 0.40", "untrained", f"{name}_skip") for name in ("attn", "mlp"))),
         attention_skip=attention, MLP_skip=mlp)


def test_budgets(measured, found, of):
    dense = of("routers at 0.40", "sweep", "dense")
    by_asked = {rows[0]["asked"]: rows for rows in zip(*of("routers at 0.40", "sweep", "rows"))}

    def rise(asked, name):
        return minus([each[name] for each in by_asked[asked]], dense)

    assert measured["C13a"]["per_seed"] == pytest.approx(rise(0.6, "ce")) and "baselines" not in measured["C13a"]
    assert measured["C13a"]["placebo"]["per_seed"] == pytest.approx(rise(0.6, "matched"))
    assert measured["C13a"]["details"]["rise over dense"] == {
        f"{round(100 * asked)} %": pytest.approx({name: fmean(rise(asked, name)) for name in ("ce", "matched", "uniform")})
        for asked in (0.2, 0.5, 0.6, 0.8)}
    realised = of("routers at 0.40", "trained", "sparsity")
    assert measured["C18"]["per_seed"] == pytest.approx([rate - 0.40 for rate in realised])
    assert measured["C18"]["sensitivity"]["per_seed"] == pytest.approx([each["sparsity"] - 0.40 for each in by_asked[0.5]])
    assert measured["C18"]["details"] == {"realised": realised}


# -- the real small model ----------------------------------------------------------------------------------
WINDOWS = range(8)
DOCUMENTS = [0, 0, 1, 2, 3, 4, 5, 5]


def windows(*path):
    return {"ce": drawn(*path), "windows": [drawn(*path, i) for i in WINDOWS], "attn_skip": drawn(*path, "attn"),
            "mlp_skip": drawn(*path, "mlp"), "attn skip by window": [drawn(*path, "attn", i) for i in WINDOWS],
            "mlp skip by window": [drawn(*path, "mlp", i) for i in WINDOWS]}


def pretrained():
    made = {"tier_b/dense": {"ce": 0.9, "documents": DOCUMENTS}}
    for target, some in {"0.25": SEEDS, "0.40": (0, 2)}.items():
        for seed in some:
            made[f"tier_b/routers at {target}/seed{seed}"] = {
                name: windows(target, seed, name) for name in ("skip", "matched", "matched again", "uniform")}
        made[f"tier_b/static at {target}"] = {f"plan {i}": windows(target, "plan", i) for i in range(3)}
        made[f"tier_b/positions at {target}"] = {"documents": list(WINDOWS)} | {
            part: [[drawn(target, part, column, i) for i in WINDOWS] for column in range(2)]
            for part in ("first quarter", "last quarter", "odd", "even")}
    return made


@pytest.mark.parametrize("target, claims", [("0.25", {"matched": "C2c", "static": "C2d", "uniform": "C2e"}),
                                            ("0.40", {"matched": "C4c", "static": "C4b"})])
def test_routers_against_lots_and_plans(target, claims):
    found = pretrained()
    measured = quantities.smollm2(found)
    runs = [found[f"tier_b/routers at {target}/seed{seed}"] for seed in ((0, 1, 4) if target == "0.25" else (0, 2))]
    of = {name: [run[name]["ce"] for run in runs] for name in runs[0]}
    lots = [(a + b) / 2 for a, b in zip(of["matched"], of["matched again"])]
    plans = found[f"tier_b/static at {target}"]
    best = min(plans, key=lambda name: plans[name]["ce"])
    plan = [plans[best]["ce"]] * len(runs)
    first = runs[0]
    both = [(a + b) / 2 for a, b in zip(first["matched"]["windows"], first["matched again"]["windows"])]
    expected = {"matched": (minus(lots, of["skip"]), minus(of["matched"], of["matched again"]), both),
                "uniform": (minus(of["uniform"], of["skip"]), minus(of["uniform"], lots), first["uniform"]["windows"]),
                "static": (minus(plan, of["skip"]), minus(plan, lots), plans[best]["windows"])}
    shown = {"router": of["skip"], "matched random": lots, "uniform random": of["uniform"], "dense": [0.9]}
    for name, claim in claims.items():
        values, placebo, theirs = expected[name]
        more = {plan: [each["ce"]] for plan, each in plans.items()} if name == "static" else {}
        same(measured[claim], values, placebo, **shown, **more)
        over = paired(theirs, first["skip"]["windows"], clusters=DOCUMENTS)
        assert measured[claim]["details"] == {"first training, over documents": over["ci95"], "documents": 6}


def test_the_committed_routers_as_they_are():
    found = pretrained()
    measured, run = quantities.smollm2(found), found["tier_b/routers at 0.25/seed0"]
    where = found["tier_b/positions at 0.25"]

    def apart(ours, theirs, clusters):
        return paired(ours, theirs, clusters=clusters)

    for part, each in (("skip", measured["C11c"]), ("uniform", measured["C11c"]["placebo"])):
        wanted = apart(run[part]["attn skip by window"], run[part]["mlp skip by window"], DOCUMENTS)
        assert {key: each[key] for key in wanted} == wanted
    assert measured["C11c"]["baselines"] == {"attention skip": run["skip"]["attn_skip"], "MLP skip": run["skip"]["mlp_skip"]}
    for claim, column, order, control in (("C12a", 0, ("last quarter", "first quarter"), ("even", "odd")),
                                          ("C12b", 1, ("first quarter", "last quarter"), ("odd", "even"))):
        for each, pair in ((measured[claim], order), (measured[claim]["placebo"], control)):
            wanted = apart(*(where[part][column] for part in pair), list(WINDOWS))
            assert {key: each[key] for key in wanted} == wanted, claim
        assert measured[claim]["baselines"] == {part: fmean(where[part][column]) for part in ("first quarter", "last quarter")}


# -- times -------------------------------------------------------------------------------------------------
def case(process, phase="prefill", batch=1, length=128):
    names = ("skip 0.25", "skip 0.40", "skip 0.50", "mask 0.40")
    return {"phase": phase, "batch": batch, "length": length, "rounds": 9 + process, "load_average": drawn(process, "load"),
            "speedups": {name: {"speedup": drawn(process, length, name, high=2.0), "iqr": drawn(process, length, name, "iqr"),
                                "bound": drawn(process, length, name, "bound", low=1.0, high=3.0)} for name in names},
            "variants": {name: {"median": drawn(process, length, name, "median"), "flops": int(drawn(process, name, "flops", high=1e9))}
                         for name in ("dense", *names)}}


def test_speed():
    """Of each process its largest prefill, by tokens; the spread of its rounds is the least that is told apart."""
    largest = [case(i, batch=4, length=100) for i in range(12)]
    found = {f"speed/process{i}": {"cases": {"long": case(i, length=399), "largest": of, "decoding": case(i, "decode", 64, 900)}}
             for i, of in enumerate(largest)}
    measured = quantities.speed(found | {"other": {}})
    noisiest = max(largest, key=lambda of: of["speedups"]["skip 0.40"]["iqr"])
    for claim, bounded in (("C15d", False), ("C15e", True)):
        for each, name in ((measured[claim], "skip 0.40"), (measured[claim]["placebo"], "mask 0.40")):
            limits = [of["speedups"]["skip 0.40"]["bound"] if bounded else 1.0 for of in largest]
            assert each["per_seed"] == pytest.approx([of["speedups"][name]["speedup"] / limit for of, limit in zip(largest, limits)])
            errors = [0.93 * of["speedups"][name]["iqr"] / of["rounds"] ** 0.5 / limit for of, limit in zip(largest, limits)]
            assert each["resolution"] == pytest.approx(fmean(errors)) and each["stderr_kind"] == "across-processes"
        assert measured[claim]["timing"] == timing(noisiest, "skip 0.40")


def timing(of, name):
    entry = of["speedups"][name]
    return {"rounds": of["rounds"], "estimator": "median of interleaved per-round ratios", "iqr_relative": entry["iqr"] / entry["speedup"],
            "dense_seconds": of["variants"]["dense"]["median"], "load_average": of["load_average"],
            "flops_dense": of["variants"]["dense"]["flops"], "flops_executed": of["variants"][name]["flops"], "bound": entry["bound"]}


def test_speed_on_a_gpu_is_that_of_the_8b_shape():
    cases = {"one": case(0, length=128), "two": case(1, batch=2, length=128), "decode": case(2, "decode", 9, 512)}
    measured = quantities.gpu({"gpu": {"8B": {"cases": cases}, "7B": {"cases": {"other": case(3, batch=8, length=512)}}}})["C15b"]
    assert measured["value"] == cases["two"]["speedups"]["skip 0.50"]["speedup"]
    assert measured["baselines"] == {f"{variant}, {name}": s["speedup"] for name, of in cases.items()
                                     for variant, s in of["speedups"].items()}
    assert measured["timing"] == timing(cases["two"], "skip 0.50")
    with pytest.raises(RuntimeError, match="no prefill"):
        quantities.gpu({"gpu": {"8B": {"cases": {"decode": cases["decode"]}}}})


# -- paper scale -------------------------------------------------------------------------------------------
def test_paper_scale():
    runs = ("dense", "routers at 0.25", "routers at 0.40", "joint at 0.25", "routers + LoRA at 0.25")
    scores = {model: {run: {task: drawn(model, run, task) for task in ("piqa", "boolq")} for run in runs} for model in ("7B", "13B", "8B")}
    measured = quantities.paper({"paper": scores})

    def retained(model, run):
        return 100 * fmean(scores[model][run][task] / scores[model]["dense"][task] for task in ("piqa", "boolq"))

    assert {claim: of["value"] for claim, of in measured.items()} == pytest.approx({
        "C2": retained("7B", "routers at 0.25"), "C2a": retained("13B", "routers at 0.25"), "C3": retained("8B", "routers at 0.25"),
        "C4": retained("8B", "routers at 0.40"), "C6": retained("8B", "joint at 0.25"),
        "C5": 100 * fmean(scores["7B"]["routers + LoRA at 0.25"].values())})
    errors = {run: {task: [drawn(run, task, "error", high=0.9) / 50, 100 + len(task)] for task in ("piqa", "boolq")} for run in runs[:2]}
    exact = quantities.paper({"paper": {"7B": scores["7B"] | {"errors": errors}}})["C2"]
    ours, dense = scores["7B"]["routers at 0.25"], scores["7B"]["dense"]
    squares = sum((errors[runs[1]][task][0] / dense[task]) ** 2 + (ours[task] / dense[task] ** 2 * errors["dense"][task][0]) ** 2
                  for task in dense)
    assert exact["value"] == pytest.approx(retained("7B", "routers at 0.25")) and exact["n_items"] == 209
    assert exact["stderr"] == pytest.approx(100 * squares**0.5 / 2) and exact["ci95"][0] < exact["value"] < exact["ci95"][1]
    del scores["8B"]["dense"], scores["7B"]["routers + LoRA at 0.25"], scores["13B"]
    assert set(quantities.paper({"paper": scores})) == {"C2"}
