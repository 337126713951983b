"""The second real decoder: the loss in chunks is the stock loss, the loop is `tune`, a killed training goes on as if unbroken, each arm
learns what it says it learns and nothing else, and every quantity by hand. The model is a tiny Gemma-3 with sliding layers."""

import json
from dataclasses import replace

import pytest
import torch

from common import gemma as loader
from common.claims.records import load_claims, make_record, start_run
from common.data.prose import document_windows, topics
from common.errors import DataError, ModelError, SetupError
from common.models import load, tiny
from common.runs.sources import closure
from tests.numerics import drawn

from .. import chunked, quantities_gemma, routers_gemma, tables, tuning
from .. import eval as harness
from ..experiments import gemma, smollm2
from ..layers import UnfitModel
from ..method import SkipGPTConfig, apply_skipgpt
from ..router_files import CARD, load_routers
from ..routers_gemma import learn, learned, put, routers_of

CLAIMS = load_claims(harness.HERE / "claims.yaml")
WORDS = ("The cat sat on the mat and looked at the moon. " * 40).encode()


def stock(dtype=torch.float64):
    return gemma._tiny("float32").model.to(dtype)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def work():
    """24 windows of 20 letters with the start token; the last 8 are held back."""
    text = torch.tensor(list(WORDS[: 24 * 19])).view(24, 19)
    windows = loader.with_start(text, gemma.Bytes())
    return routers_gemma.Work(gemma._tiny, windows, windows[:2].flip(0), {"text": "here"}, seed=3, batch=2, calibrate=8)


# -- the loss ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_chunked_losses_and_gradients_are_the_stock_ones(rows):
    model = stock().requires_grad_(False)
    chunked.check(model)
    ids = torch.randint(0, 250, (3, 21), generator=torch.Generator().manual_seed(1))
    weight = torch.rand(3, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)  # each token's loss counts otherwise
    found = {}
    for name in ("chunked", "stock"):
        q = model.model.layers[1].self_attn.q_proj.weight.requires_grad_(True)
        q.grad = None
        if name == "chunked":
            losses = chunked.token_losses(model, ids, rows)
        else:
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(3, -1)
        (losses * weight).sum().backward()
        found[name] = losses.detach(), q.grad.clone()
    torch.testing.assert_close(found["chunked"], found["stock"], rtol=1e-10, atol=1e-12)
    assert found["stock"][1].abs().max() > 1e-3
    torch.testing.assert_close(chunked.evaluate(model, ids, 2), found["stock"][0], rtol=1e-10, atol=1e-12)


def test_a_head_that_learns_and_logits_that_are_more_than_the_head_are_refused():
    model = stock()
    with pytest.raises(ValueError, match="the head learns"):
        chunked.token_losses(model, torch.ones(1, 4, dtype=torch.long))
    with torch.no_grad():
        assert chunked.token_losses(model, torch.ones(1, 4, dtype=torch.long)).shape == (1, 3)
    capped = load(tiny("gemma2", final_logit_softcapping=1.0)).model.train()
    with pytest.raises(UnfitModel, match="soft cap"):
        chunked.check(capped)
    assert capped.training


def test_the_loop_is_that_of_tune():
    """Same noise, same updates; `tune` counts losses in float32."""
    ids, ends = torch.randint(0, 250, (4, 20), generator=torch.Generator().manual_seed(1)), []
    for loop in (tuning.tune, learn):
        model = stock()
        state = apply_skipgpt(model, SkipGPTConfig(router_norm=True))
        for router in state.routers().values():
            torch.nn.init.normal_(router.layers[-1].weight, generator=torch.Generator().manual_seed(0))
        start = [p.detach().clone() for p in state.parameters()]
        optimiser = torch.optim.AdamW(state.parameters(), lr=1e-2)
        if loop is learn:
            rows = list(learn(model, lambda step: ids, optimiser, 4, state, rate=tuning.Rate(2, 0.5), seed=5))
        else:
            rows = list(loop(model, lambda step: ids, optimiser, 4, state=state, rate=tuning.Rate(2, 0.5), seed=5))
        ends.append(([list(row.values()) for row in rows], [p.detach() for p in state.parameters()]))
        assert any((a - b.detach()).abs().max() > 1e-3 for a, b in zip(start, state.parameters())) and not model.training
    torch.testing.assert_close(torch.tensor(ends[0][0]), torch.tensor(ends[1][0]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ends[0][1], ends[1][1], rtol=1e-4, atol=1e-5)


# -- the arms ----------------------------------------------------------------------------------------------
def routers(model):
    torch.manual_seed(1)
    return apply_skipgpt(model, SkipGPTConfig(target_sparsity=0.25, router_norm=True))


@pytest.mark.parametrize("arm", routers_gemma.ARMS)
def test_an_arm_trains_what_it_says_on_what_is_not_held_back(arm, work, cache, monkeypatch):
    seen, real = [], routers_gemma.learn

    def watched(model, batch, optimiser, steps, state, **how):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}

        def rows(step):
            seen.append(batch(step))
            return batch(step)

        for row in real(model, rows, optimiser, steps, state, **how):
            executed = [g.detach() for pair in state.gates for g in pair]
            yield row
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        watched.moved, watched.mode, watched.executed = moved, state.mode, executed

    monkeypatch.setattr(routers_gemma, "learn", watched)
    made = learned(arm, work, 9, "float32", routers if "LoRA" in arm else None, every=4)
    held = {tuple(row) for row in work.held_back.tolist()}
    assert len(seen) == 9 and all(len(rows) == 2 for rows in seen)
    assert not held & {tuple(row) for rows in seen for row in rows.tolist()}
    assert torch.equal(seen[0], work.train[:2]) and torch.equal(seen[8], work.train[:2]), "sixteen windows go round in eight steps"
    kinds = {"lora" if "lora_" in name else "router " + name.rpartition(".")[2] if "router_" in name else "model" for name in watched.moved}
    assert kinds == {"routers": {"router weight", "router bias"}, "token-blind": {"router bias"}, "routed LoRA": {"lora"},
                     "dense LoRA": {"lora"}}[arm]
    assert (watched.mode == "dense") == (arm == "dense LoRA") and bool(watched.executed) == (arm != "dense LoRA")
    if arm == "routed LoRA":
        assert all(set(g.unique().tolist()) <= {0.0, 1.0} for g in watched.executed) and any((g == 0).any() for g in watched.executed)
    assert {row["step"] for row in made["curve"]} == {4, 8, 9} and made["curve"][-1]["tokens"] == 9 * 2 * 20
    if "LoRA" in arm:
        assert {name.split(".lora_")[0].rpartition(".")[2] for name in made["tensors"]} == {"q_proj", "v_proj", "gate_proj"}
    if arm == "token-blind":
        assert all((t == 0).all() for name, t in made["tensors"].items() if name.endswith("weight"))


def test_an_arm_that_there_is_not(work):
    with pytest.raises(ValueError, match="'joint' is none of"):
        learned("joint", work, 1)


def test_a_training_that_was_killed_goes_on_as_if_unbroken(work, cache, monkeypatch):
    whole = learned("routers", work, 6, "float32", every=2)
    monkeypatch.setenv("NINEFOLD_CACHE", str(cache / "other"))
    real = routers_gemma.learn

    def killed(*args, **how):
        for row in real(*args, **how):
            yield row
            if row["step"] == 4:  # after the checkpoint of step 4, in the middle of what follows
                raise KeyboardInterrupt

    monkeypatch.setattr(routers_gemma, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        learned("routers", work, 6, "float32", every=2)
    steps = []

    def counted(*args, **how):
        for row in real(*args, **how):
            steps.append(row["step"])
            yield row

    monkeypatch.setattr(routers_gemma, "learn", counted)
    lines = []
    again = learned("routers", work, 6, "float32", every=2, log=lines.append)
    assert steps == [4, 5] and "going on at step 4 of 6" in lines[0]
    assert all(torch.equal(again["tensors"][name], tensor) for name, tensor in whole["tensors"].items())
    assert again["curve"] == whole["curve"]
    assert learned("routers", work, 6, "float32", every=2)["curve"] == whole["curve"] and steps == [4, 5], "a finished one is read"
    learned("routers", replace(work, seed=4), 2, "float32", every=2)
    assert steps == [4, 5, 0, 1], "another seed's checkpoint was taken"


@pytest.mark.parametrize("name", ["method.py", "chunked.py", "routers_gemma.py"])
def test_nothing_that_other_code_learned_is_read(work, cache, monkeypatch, name):
    files = closure("papers.skipgpt.routers_gemma")
    (old,) = (path for path in files if path == harness.HERE / name)
    real, steps = routers_gemma.learn, []

    def counted(*args, **how):
        for row in real(*args, **how):
            steps.append(row["step"])
            yield row

    monkeypatch.setattr(routers_gemma, "learn", counted)
    learned("routers", work, 1, "float32", every=1)
    learned("routers", work, 1, "float32", every=1)
    assert steps == [0], "the same code's is read"
    fixed = cache / name
    fixed.write_text(old.read_text() + "# fixed\n")
    monkeypatch.setattr(routers_gemma, "closure", lambda module: tuple(fixed if path == old else path for path in files))
    learned("routers", work, 1, "float32", every=1)
    assert steps == [0, 0]
    learned("routers", replace(work, calibrate=6), 1, "float32", every=1)
    assert steps == [0, 0, 0], "another number of windows held back is another order of what is trained on"


def test_routers_that_another_seed_has_left_do_not_send_a_training_back(cache, monkeypatch):
    before, left = routers_gemma._code(), routers_gemma.FOLDER / "seed7" / CARD
    monkeypatch.setattr(routers_gemma, "closure", lambda module: (*closure(module), left))  # as it would be, once it is written
    assert routers_gemma._code() == before


def test_tensors_of_another_model_are_refused(work):
    state = routers(stock(torch.float32))
    named = routers_of(state)
    with pytest.raises(ValueError, match="another model"):
        put(dict(list(named.items())[1:]), named)
    with pytest.raises(ValueError, match="another model"):
        put({name: torch.cat([t, t]) for name, t in named.items()}, named)


def test_routers_are_saved_with_a_card_and_come_back(work, cache, monkeypatch):
    real, held = routers_gemma.hold_budget, []

    def hold(model, state, ids, target, **how):
        held.append((ids, target, next(model.parameters()).dtype))
        return real(model, state, ids, target, **{**how, "tolerance": 0.2})

    monkeypatch.setattr(routers_gemma, "hold_budget", hold)
    facts = routers_gemma.make(3, steps=2, folder=cache / "seed3", dtype="float32", log=lambda text: None, work=work)
    ((ids, target, dtype),) = held
    assert torch.equal(ids, work.held_back) and target == 0.25 and dtype == torch.float32
    card = json.loads((cache / "seed3" / CARD).read_text())
    assert card["base"]["name"] == "random:gemma3_text" and card["layers"] == 4 and card["config"]["router_norm"]
    assert {name: card["extra"][name] for name in ("seed", "steps", "tokens")} == {"seed": 3, "steps": 2, "tokens": 2 * 2 * 20}
    assert card["extra"]["command"] == "python -m papers.skipgpt.routers_gemma --seed 3 --steps 2 --dtype float32"
    assert json.loads((cache / "seed3" / "curve.json").read_text())[-1]["step"] == 2
    assert sum(path.stat().st_size for path in (cache / "seed3").iterdir()) < 4e6
    loaded = routers_of(load_routers(stock(torch.float32), cache / "seed3"))
    made = learned("routers", work, 2, "float32")["tensors"]
    for name, tensor in made.items():
        shift = facts["threshold_shift"] / 2 * torch.tensor([1.0, -1.0]) if name.endswith("bias") else 0.0
        torch.testing.assert_close(loaded[name].detach(), tensor + shift)


# -- texts -------------------------------------------------------------------------------------------------
def test_windows_begin_with_the_start_token_and_no_test_document_is_trained_on():
    words = gemma.Bytes()
    ids, numbers = gemma.held_out(words, "smoke")
    assert ids.shape == (2, 20) and (ids[:, 0] == 256).all() and len(set(numbers)) == 2
    trained = gemma.work_of(0, "smoke").train
    assert (trained[:, 0] == 256).all()
    test = {tuple(row) for row in document_windows(smollm2.documents(), words, 19)[0].tolist()}
    every = {tuple(row[1:]) for row in trained.tolist()}
    assert not test & every and {tuple(row[1:]) for row in ids.tolist()} <= test
    assert not set(smollm2.documents()) & set(topics()["validation"])
    assert gemma.long_ones(words, "smoke").shape == (2, 40)
    held = {bytes(row[1:]) for row in gemma.long_ones(words, "smoke", "validation").tolist()}
    assert all(any(part in text.encode() for text in topics()["validation"]) for part in held)


def test_fewer_windows_than_a_claim_speaks_of_are_an_error(monkeypatch):
    monkeypatch.setitem(gemma.SIZES, "smoke", replace(gemma.SIZES["smoke"], long=20_000, long_windows=100))
    with pytest.raises(DataError, match="100 windows of 20000 tokens are asked for, 1 of a document at most: these texts have"):
        gemma.long_ones(gemma.Bytes(), "smoke")
    with pytest.raises(DataError, match="4 windows of 20000 tokens are asked for, 2 of a document at most: these texts have 1"):
        gemma.long_ones(gemma.Bytes(), "smoke", "validation")


# -- the jobs ----------------------------------------------------------------------------------------------
HELD: list = []  # on which windows budgets were held, in the order of the jobs


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Every job at smoke size, as a run calls them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NINEFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))
        found, real = {}, gemma.hold_budget
        HELD.clear()
        patch.setattr(gemma, "hold_budget", lambda model, state, ids, *a, **how: HELD.append(ids) or real(model, state, ids, *a, **how))
        for job in gemma.jobs("smoke"):
            assert job.function.startswith("papers.skipgpt.experiments.gemma:")
            found[job.name] = json.loads(json.dumps(getattr(gemma, job.function.partition(":")[2])(**job.arguments)))
        yield found


def test_every_job_runs_and_quantities_and_tables_read_it(walked):
    assert set(walked) == {"gemma/dense", "gemma/static", "gemma/routers/seed0", "gemma/token-blind/seed0", "gemma/recovery/seed0"}
    found = quantities_gemma.gemma(walked, "smoke")
    assert tuple(sorted(found)) == tuple(sorted(quantities_gemma.NAMES))
    lines = list(tables.gemma(walked, "smoke"))
    assert sum("training-free" in line for line in lines) == 5 and any("stage 2: routers + LoRA" in line for line in lines)


def test_arms_differ_and_what_is_paired_is_the_same(walked):
    dense, stages, run = walked["gemma/dense"], walked["gemma/recovery/seed0"], walked["gemma/routers/seed0"]
    assert stages["dense"]["windows"] == pytest.approx(dense["windows"], abs=1e-5), "the dense arm of stage 2 is the dense model"
    assert stages["routers"]["windows"] == pytest.approx(run["skip"]["windows"], abs=1e-4), "mask and skip are one model"
    losses = [stages[name]["ce"] for name in ("dense", "dense + LoRA", "routers", "routers + LoRA", "routers + dense's LoRA")]
    assert len({round(loss, 7) for loss in losses}) == 5
    assert stages["routers"]["sparsity"] > 0.1 and "sparsity" not in stages["dense + LoRA"]
    assert run["matched"]["windows"] != run["matched again"]["windows"]
    assert run["long"]["matched"]["windows"] != run["long"]["matched again"]["windows"]
    assert len(run["long"]["skip"]["windows"]) == 2 and len(dense["long"]["windows"]) == 2
    blind = walked["gemma/token-blind/seed0"]["per_layer"]
    assert all(rate in (0.0, 1.0) for pair in blind for rate in pair), "a token-blind module decides for a token"
    for name, row in walked["gemma/static"].items():
        assert row["sparsity"] == pytest.approx(len(row["dropped"]) / 8), name
        assert len(row["dropped"]) == 2, name


def test_budgets_are_held_on_what_is_neither_trained_on_nor_scored(walked):
    back, long = gemma.work_of(0, "smoke").held_back, gemma.long_ones(gemma.Bytes(), "smoke", "validation")
    assert [tuple(ids.shape) for ids in HELD] == [(2, 40), (8, 20), (8, 20), (8, 20), (8, 20)]  # long; token-blind; three of stage 2
    assert torch.equal(HELD[0], long) and all(torch.equal(ids, back) for ids in HELD[1:])


def test_a_budget_that_is_missed_is_refused(monkeypatch, cache):
    monkeypatch.setitem(gemma.SIZES, "smoke", replace(gemma.SIZES["smoke"], guard=0.0001))
    with pytest.raises(smollm2.BudgetMissed, match="routers of seed 0"):
        gemma.measured(0, "smoke")


@pytest.mark.parametrize("row", ["routers of seed 0 on long windows", "matched random routing, seed 0, on long windows",
                                 "matched again random routing, seed 0, on long windows"])
def test_a_budget_that_is_missed_on_long_windows_is_refused(monkeypatch, cache, row):
    def missed(realised, requested, what, guard):
        if what == row:
            raise smollm2.BudgetMissed(what)

    monkeypatch.setattr(gemma, "check_budget", missed)
    with pytest.raises(smollm2.BudgetMissed, match=row):
        gemma.measured(0, "smoke")


# -- what it needs -----------------------------------------------------------------------------------------
def test_what_is_missing_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(routers_gemma, "FOLDER", tmp_path / "routers-gemma")
    monkeypatch.setattr(loader, "ready", lambda: None)
    with pytest.raises(SetupError, match="routers-gemma lacks the routers of 3 of 3 trainings: .*routers_gemma --seed 0 1 2`"):
        gemma.ready()
    for seed in (0, 2, 5):
        (tmp_path / "routers-gemma" / f"seed{seed}").mkdir(parents=True)
        (tmp_path / "routers-gemma" / f"seed{seed}" / CARD).write_text("{}")
    assert gemma.seeds() == (0, 2, 5) and gemma.seeds("smoke") == (0,)
    with pytest.raises(SetupError, match="of 1 of 3 trainings: .*--seed 1`"):
        gemma.ready()
    assert {job.name for job in gemma.jobs()} == {"gemma/dense", "gemma/static", *(
        f"gemma/{arm}/seed{seed}" for arm in ("routers", "token-blind", "recovery") for seed in (0, 2, 5))}

    def absent():
        raise ModelError("not here")

    monkeypatch.setattr(loader, "ready", absent)
    with pytest.raises(ModelError, match="not here"):
        gemma.ready()


def test_the_experiment_is_asked_for_and_claims_are_its_own():
    (one,) = (e for e in harness.EXPERIMENTS if e.name == "gemma")
    assert one.asked and one.ready is gemma.ready and set(one.claims) == set(quantities_gemma.NAMES) and one.document == "gemma"
    for name in quantities_gemma.NAMES:
        claim = CLAIMS.find(name)
        assert claim["protocol"]["placebo"] and claim["protocol"]["seeds"] == list(gemma.SEEDS) and not claim.get("required")
    named = {row for entry in CLAIMS.headlines for row in entry["rows"]}
    assert {"C1b", "C2f", "C16c", "C11d", "C5b"} <= named


# -- quantities --------------------------------------------------------------------------------------------
SEEDS = (0, 2, 3)
MOVED = ("skip", "matched", "matched again", "uniform")


def made_up():
    """No two numbers are equal."""
    def row(*path, **more):
        return {name: drawn(*path, name) for name in ("ce", "sparsity", "attn_skip", "mlp_skip")} | more

    found = {"gemma/dense": row("dense", long=row("dense", "long")),
             "gemma/static": {f"plan {i}": row("plan", i, long=row("plan", i, "long")) for i in range(4)}}
    for seed in SEEDS:
        found |= {f"gemma/routers/seed{seed}": {name: row(name, seed) for name in MOVED}
                  | {"long": {name: row("long", name, seed) for name in MOVED[:3]} | {"shift": 0.1}},
                  f"gemma/token-blind/seed{seed}": row("blind", seed),
                  f"gemma/recovery/seed{seed}": {name: row("stage", name, seed) for name in (
                      "dense", "dense + LoRA", "routers", "routers + LoRA", "routers + dense's LoRA")}}
    return found


def test_every_quantity_and_placebo_by_hand():
    results = made_up()
    found = quantities_gemma.gemma(results)
    plans = list(results["gemma/static"].values())
    best, best_long = min(p["ce"] for p in plans), min(p["long"]["ce"] for p in plans)
    assert plans.index(min(plans, key=lambda p: p["ce"])) != plans.index(min(plans, key=lambda p: p["long"]["ce"])), "tells the two apart"
    run = [results[f"gemma/routers/seed{seed}"] for seed in SEEDS]
    blind = [results[f"gemma/token-blind/seed{seed}"]["ce"] for seed in SEEDS]
    stage = [{name: row["ce"] for name, row in results[f"gemma/recovery/seed{seed}"].items()} for seed in SEEDS]
    random = [(r["matched"]["ce"] + r["matched again"]["ce"]) / 2 for r in run]
    foreign = "routers + dense's LoRA"
    expected = {
        "C2f": ([best - r["skip"]["ce"] for r in run], [best - r for r in random]),
        "C2g": ([x - r["skip"]["ce"] for x, r in zip(random, run)], [r["matched"]["ce"] - r["matched again"]["ce"] for r in run]),
        "C2h": ([best_long - r["long"]["skip"]["ce"] for r in run],
                [best_long - (r["long"]["matched"]["ce"] + r["long"]["matched again"]["ce"]) / 2 for r in run]),
        "C11d": ([r["skip"]["attn_skip"] - r["skip"]["mlp_skip"] for r in run],
                 [r["uniform"]["attn_skip"] - r["uniform"]["mlp_skip"] for r in run]),
        "C16c": ([b - r["skip"]["ce"] for b, r in zip(blind, run)], [b - x for b, x in zip(blind, random)]),
        "C1b": ([s["routers + LoRA"] - s["dense + LoRA"] for s in stage], [s["routers"] - s["dense"] for s in stage]),
        "C5b": ([(s["routers"] - s["routers + LoRA"]) - (s["dense"] - s["dense + LoRA"]) for s in stage],
                [(s["routers"] - s[foreign]) - (s["dense"] - s["dense + LoRA"]) for s in stage]),
    }
    assert set(found) == set(expected)
    for name, (values, placebo) in expected.items():
        assert found[name]["per_seed"] == pytest.approx(values), name
        assert found[name]["placebo"]["per_seed"] == pytest.approx(placebo), name
    assert quantities_gemma.gemma({"gemma/dense": {}, "gemma/static": {}}) == {}


GOOD = dict(dense=2.8, plan=3.85, skip=3.4, random=3.9, again=3.9, uniform=8.0, blind=3.8, long_plan=3.7, long_skip=3.2, long_random=3.75,
            attn=0.35, mlp=0.15, uniform_attn=0.25, uniform_mlp=0.25, dense_lora=2.7, routers=3.4, both=2.705, foreign=3.35)


def word(claim, **changed):
    arms = GOOD | changed

    def a(name, seed):
        return arms[name] + drawn(name, seed, low=-1e-3, high=1e-3)

    results = {"gemma/dense": {"ce": arms["dense"]},
               "gemma/static": {"ShortGPT": {"ce": arms["plan"], "long": {"ce": arms["long_plan"]}}}}
    for s in range(3):
        results |= {
            f"gemma/routers/seed{s}": {
                "skip": {"ce": a("skip", s), "attn_skip": a("attn", s), "mlp_skip": a("mlp", s), "sparsity": 0.25},
                "matched": {"ce": a("random", s)}, "matched again": {"ce": a("again", s)},
                "uniform": {"ce": a("uniform", s), "attn_skip": a("uniform_attn", s), "mlp_skip": a("uniform_mlp", s)},
                "long": {"skip": {"ce": a("long_skip", s), "sparsity": 0.25}, "matched": {"ce": a("long_random", s)},
                         "matched again": {"ce": a("long_random", s + 10)}}},
            f"gemma/token-blind/seed{s}": {"ce": a("blind", s), "sparsity": 0.25},
            f"gemma/recovery/seed{s}": {"dense": {"ce": a("dense", s)}, "dense + LoRA": {"ce": a("dense_lora", s)},
                                        "routers": {"ce": a("routers", s)}, "routers + LoRA": {"ce": a("both", s)},
                                        "routers + dense's LoRA": {"ce": a("foreign", s)}}}
    facts = start_run("test") | {"seconds": 0.0}
    return make_record(CLAIMS.find(claim), CLAIMS.sha256, quantities_gemma.gemma(results)[claim], facts, seeds=[])["verdict"]["word"]


MOVES = {  # what makes a claim false; what makes its control pass, too
    "C1b": (dict(both=2.9), dict(routers=2.8, dense=2.85)),
    "C2f": (dict(plan=3.3), dict(random=3.5, again=3.5)),
    "C2g": (dict(random=3.3, again=3.3), dict(random=5.0, again=4.0)),
    "C2h": (dict(long_plan=3.1), dict(long_random=3.3)),
    "C5b": (dict(both=3.39), dict(foreign=3.0)),
    "C11d": (dict(attn=0.1, mlp=0.4), dict(uniform_attn=0.3, uniform_mlp=0.2)),
    "C16c": (dict(blind=3.3), dict(random=3.5, again=3.5)),
}


@pytest.mark.parametrize("claim", quantities_gemma.NAMES)
def test_words_follow_the_arms(claim):
    wrong, placebo_too = MOVES[claim]
    assert word(claim) == "supports"
    assert word(claim, **wrong) == "opposes"
    assert word(claim, **placebo_too) == "inconclusive"
