"""What each job does, run small: on which sequences it trains, holds budgets, calibrates and scores, what of the model moves, and what
a random baseline is. The from-scratch jobs are real, of a few steps; of the real model's the passes are watched."""

import dataclasses
import types
from collections import Counter

import pytest
import torch

from common.models import load, tiny

from .. import baselines, difficulty, method, tables
from ..difficulty import KINDS, base_model, sequences, token_difficulty
from ..experiments import rates, scratch, smollm2
from ..method import SkipGPTConfig, apply_skipgpt, remove_skipgpt

TINY = dataclasses.replace(scratch.SIZES["smoke"], batch=4, tune_steps=2, lora_steps=2, test_sequences=6, calibration_sequences=4,
                           sweep_sequences=3)


def weights(model):
    """Of the model itself, whatever is wrapped around it."""
    return {name.replace("base_model.model.", "").replace(".base_layer", ""): p.detach().clone() for name, p in model.named_parameters()
            if "router" not in name and "lora_" not in name}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Watched:
    """Splits asked for, trainings, passes that score, and budgets held, in their order."""

    def __init__(self, patch):
        self.splits, self.trained, self.measured, self.held = Counter(), [], [], []
        patch.setitem(scratch.SIZES, "tiny", TINY)
        self.patch = patch
        for name, call in (("sequences", self.sequences), ("batches", self.batches), ("tune", self.tune), ("measure", self.measure),
                           ("hold_budget", self.hold)):
            setattr(self, f"real_{name}", getattr(scratch, name))
            patch.setattr(scratch, name, call)

    def sequences(self, split, *more):
        self.splits[split] += 1
        return self.real_sequences(split, *more)

    def batches(self, split, *more):
        made = self.real_batches(split, *more)
        made.split = split
        return made

    def tune(self, model, batch, optimiser, steps, **how):
        before = weights(model)
        learns = [p for group in optimiser.param_groups for p in group["params"]]
        start = [p.detach().clone() for p in learns]
        rows = list(self.real_tune(model, batch, optimiser, steps, **how))
        still = same(before, weights(model))
        self.trained.append(types.SimpleNamespace(
            split=batch.split, steps=steps, rate=optimiser.param_groups[0].get("initial_lr", optimiser.param_groups[0]["lr"]), how=how,
            base_still=still, moved=[not torch.equal(a, b) for a, b in zip(start, learns)], names=names_of(model, how.get("state"), learns),
            rows=[batch(i) for i in range(steps)]))
        yield from rows

    def measure(self, model, state, ids, kinds):
        result = self.real_measure(model, state, ids, kinds)
        self.measured.append(types.SimpleNamespace(ids=ids, kinds=kinds, policy=getattr(state, "policy", None), state=state, result=result))
        return result

    def hold(self, model, state, ids, sparsity, **how):
        self.held.append((ids, sparsity))
        return self.real_hold_budget(model, state, ids, sparsity, **{**how, "tolerance": 0.5})


def names_of(model, state, learns):
    chosen = {id(p) for p in learns}
    kinds = {"lora" if "lora_" in name else name.rpartition(".")[2] if "router" in name else "model" for name, p in model.named_parameters()
             if id(p) in chosen}
    return kinds


@pytest.fixture(scope="module")
def watched():
    with pytest.MonkeyPatch.context() as patch:
        yield lambda: Watched(patch)


def test_splits_are_disjoint_by_number_and_by_content():
    """At the sizes of the default run; a test sequence of 64 tokens that was trained on would be one and the same tensor row."""
    cpu = scratch.SIZES["cpu"]
    most = {"tune": cpu.tune_steps * cpu.batch + cpu.lora_steps * cpu.batch, "recovery": cpu.lora_steps * cpu.batch,
            "calibration": cpu.calibration_sequences, "test": 512, "base": 900 * 32}
    spans = {split: range(first, first + most.get(split, 512)) for split, first in difficulty.FIRST.items()}
    assert {"tune", "recovery", "calibration", "test", "base"} <= set(spans)
    for name, one in spans.items():
        assert all(other.stop <= one.start or one.stop <= other.start for n, other in spans.items() if n != name), name
    rows = {split: {tuple(row) for row in sequences(split, 0, 128)[0].tolist()} for split in spans}
    assert all(not rows[a] & rows[b] for a in rows for b in rows if a < b)
    assert torch.equal(sequences("test", 3, 4)[0], token_difficulty(4, 64, seed=3, first=difficulty.FIRST["test"])[0])


ARMS = {"routers": {"stage_2": True, "budget": 5 / 12}, "coupled": {"coupled": True, "budget": 5 / 12},
        "token-blind": {"token_blind": True, "budget": 5 / 12}}


@pytest.mark.parametrize("arm", ARMS)
def test_router_tuning_trains_routers_on_its_own_split_and_scores_on_test_sequences(arm, watched):
    seen = watched()
    found = scratch.router_tuning(0, target=0.40, size="tiny", **ARMS[arm])
    test, kinds = sequences("test", 0, TINY.test_sequences)
    calibration = sequences("calibration", 0, TINY.calibration_sequences)[0]
    first, *stage_2 = seen.trained
    assert first.split == "tune" and first.steps == TINY.tune_steps and first.how["seed"] == 0 and 1e-3 < first.rate < 1e-1
    assert torch.equal(torch.cat(first.rows), sequences("tune", 0, TINY.tune_steps * TINY.batch)[0])
    assert all(t.base_still for t in seen.trained), "the base moved"
    assert any(first.moved) and first.names == ({"bias"} if arm == "token-blind" else {"weight", "bias"}), "nothing moved"
    state = first.how["state"]
    assert state.config.coupled == (arm == "coupled") and state.config.target_sparsity == 0.40
    assert all(not {tuple(row) for row in torch.cat(t.rows).tolist()} & {tuple(row) for row in test.tolist()} for t in seen.trained)
    scored = [m for m in seen.measured if len(m.ids) == TINY.test_sequences]
    assert scored and all(torch.equal(m.ids, test) and torch.equal(m.kinds, kinds) for m in scored)
    assert all(torch.equal(m.ids, test[: TINY.sweep_sequences]) for m in seen.measured if len(m.ids) != TINY.test_sequences)
    assert all(torch.equal(ids, calibration) for ids, _ in seen.held), "a budget that is held on what is scored"
    swept_and_held = [*scratch.SWEPT, 0.40, 0.40] if arm == "routers" else []  # both models with LoRA are held at the target
    assert [sparsity for _, sparsity in seen.held] == [5 / 12, *swept_and_held] and found["held"]["ce"] > 0
    swept = found.get("sweep", {}).get("rows", ())
    assert [row["asked"] for row in swept] == (list(scratch.SWEPT) if arm == "routers" else [])
    if arm != "routers":
        assert not stage_2 and set(found) == {"curve", "trained", "held"}
        return
    assert [(t.split, t.steps, t.names) for t in stage_2] == [("recovery", TINY.lora_steps, {"lora"})] * 3
    assert all(any(t.moved) for t in stage_2)
    assert {"routed", "routed held", "dense", "q and v", "q and v held"} == set(found["lora"])
    assert "sparsity" not in found["lora"]["dense"] and "sparsity" in found["lora"]["q and v held"]
    policies = [m.policy is not None for m in seen.measured]
    assert sum(policies) == 2 * (3 + len(scratch.SWEPT)) and state.policy is None, "two lots for each state, and none left behind"
    assert found["sampled"]["ce"] != found["trained"]["ce"] and state.config.eval_sampling is False and state.generator is None


@pytest.mark.parametrize("target", [0.25])
def test_joint_training_has_the_steps_of_both_stages(target, watched):
    seen = watched()
    found = scratch.joint(0, target=target, size="tiny")
    (training,) = seen.trained
    assert (training.split, training.steps, training.names) == ("tune", TINY.tune_steps + TINY.lora_steps, {"lora", "weight", "bias"})
    assert training.base_still and any(training.moved) and training.how["state"].config.target_sparsity == target
    (ids, sparsity), = seen.held
    assert torch.equal(ids, sequences("calibration", 0, TINY.calibration_sequences)[0]) and sparsity == target
    assert set(found) == {"trained", "held"} and all(torch.equal(m.ids, sequences("test", 0, 6)[0]) for m in seen.measured)


@pytest.mark.parametrize("rank", [0, 8])
def test_mixture_of_depths_trains_its_scores_and_with_a_rank_adapters(rank, watched):
    seen = watched()
    found = scratch.mixture_of_depths(0, target=0.40, rank=rank, size="tiny")
    (training,) = seen.trained
    assert training.names == {"weight", "bias"} | ({"lora"} if rank else set())
    assert training.split == "tune" and training.steps == TINY.tune_steps
    assert training.base_still and any(training.moved) and training.how.get("state") is None and set(seen.splits) <= {"test", "calibration"}
    (scored,) = seen.measured
    assert torch.equal(scored.ids, sequences("test", 0, 6)[0]) and scored.policy is not None
    assert found["sparsity"] == pytest.approx(0.40, abs=0.05)


def test_static_plans_are_calibrated_on_calibration_sequences_and_scored_on_test_sequences(watched, monkeypatch):
    seen, calls = watched(), []
    for name in ("block_influence", "shortened_ppl", "shortened_taylor", "joint_layer_drop", "attention_drop", "mlp_drop", "greedy_drop",
                 "laco"):
        real = getattr(baselines, name)
        monkeypatch.setattr(baselines, name, lambda model, ids, *more, real=real, name=name, **how: calls.append((name, ids, more)) or real(
            model, ids, *more, **how))
    found = scratch.dense_and_static(0, size="tiny")
    calibration, test = sequences("calibration", 0, TINY.calibration_sequences)[0], sequences("test", 0, 6)[0]
    assert calls and all(torch.equal(ids, calibration) for _, ids, _ in calls)
    assert seen.measured and all(torch.equal(m.ids, test) for m in seen.measured) and not seen.trained
    assert found["dense"]["ce"] == seen.real_measure(base_model(0), None, test, sequences("test", 0, 6)[1])["ce"]
    for name, row in found.items():  # "module drop, 5 of 12": that is what it skips
        number, of = (int(word) for word in name.partition(", ")[2].split()[0:3:2]) if name != "dense" else (0, 12)
        if name != "dense":
            attention = "MLP" not in name
            whole = {6: number / 6 if "block" in name or "layer" in name else number / 12, 12: number / 12}[of]
            assert row["sparsity"] == pytest.approx(whole), name
            assert (row["attn_skip"] > 0) == attention or "module" in name or "greedy" in name, name


@pytest.mark.parametrize("method", rates.GRIDS)
def test_rates_are_chosen_on_validation_sequences_alone(method, watched, monkeypatch):
    watched()
    splits, trained, real = [], [], {name: getattr(rates, name) for name in ("sequences", "batches", "tune", "hold_budget")}
    monkeypatch.setattr(rates, "sequences", lambda split, *more: splits.append(split) or real["sequences"](split, *more))
    monkeypatch.setattr(rates, "batches", lambda split, *more: splits.append(f"train: {split}") or real["batches"](split, *more))
    monkeypatch.setattr(rates, "tune", lambda model, batch, optimiser, steps, **how: trained.append(
        (optimiser.param_groups[0]["lr"], steps, how["state"] is not None)) or real["tune"](model, batch, optimiser, steps, **how))
    monkeypatch.setattr(rates, "hold_budget", lambda *given, **how: real["hold_budget"](*given, **how, tolerance=0.5))
    found = rates.validated(method, 3e-3, 0, "tiny")
    assert splits == ["train: tune", "validation", *(["calibration"] if method != "MoD-D" else [])] and found["ce"] > 0
    steps = TINY.tune_steps + (TINY.lora_steps if method == "joint" else 0)
    assert trained == [(3e-3, steps, method != "MoD-D")]


def test_the_best_rate_is_that_of_the_least_validation_loss():
    results = {f"rates/{method} at {rate:g}/seed0": {"ce": abs(i - 2) + 0.1} for method, grid in rates.GRIDS.items()
               for i, rate in enumerate(grid)}
    assert rates.best(results) == {method: grid[2] for method, grid in rates.GRIDS.items()}
    assert {job.name for job in rates.jobs("smoke")} == set(results)
    assert all(job.arguments["rate"] == float(job.name.split(" at ")[1].split("/")[0]) for job in rates.jobs("smoke"))


# -- what is measured --------------------------------------------------------------------------------------
class Says(torch.nn.Module):
    """Predicts each token's successor in `order`, by logits of a known size."""

    def __init__(self, size, order):
        super().__init__()
        self.size, self.order = size, order

    def forward(self, input_ids, **_):
        logits = torch.zeros(*input_ids.shape, self.size)
        return types.SimpleNamespace(logits=logits.scatter(2, self.order[input_ids][..., None], 4.0))


def test_a_measure_by_hand():
    """Tokens 0 1 2 0: the model says 1 after 0, 2 after 1, and 1 after 2, which is wrong."""
    ids = torch.tensor([[0, 1, 2, 0]])
    kinds = torch.tensor([[KINDS["other"], KINDS["cycle"], KINDS["recall"], KINDS["recall"]]])
    found = scratch.measure(Says(3, torch.tensor([1, 2, 1])), None, ids, kinds)
    right = -torch.tensor([4.0, 0, 0]).log_softmax(0)[0].item()
    assert found["accuracy"] == {"cycle": 1.0, "recall": 0.5}
    assert found["ce"] == pytest.approx((2 * right + right + 4) / 3) and set(found) == {"ce", "accuracy"}


def test_rates_are_of_the_tokens_that_predict_a_kind():
    """A policy that runs attention where the next token is recalled, and the MLP nowhere."""
    model = base_model(0)
    state = apply_skipgpt(model, SkipGPTConfig())
    ids, kinds = sequences("test", 0, 4)
    predicts = torch.cat([kinds[:, 1:] == KINDS["recall"], torch.zeros(4, 1, dtype=torch.bool)], 1).float()
    state.policy = lambda layer, name, x, valid: predicts if name == "attn" else torch.zeros_like(predicts)
    found = scratch.measure(model, state, ids, kinds)
    assert found["executed_by_kind"]["recall"] == {"attn": 1.0, "mlp": 0.0} and found["executed_by_kind"]["cycle"]["attn"] == 0.0
    assert found["mlp_skip"] == 1.0 and found["attn_skip"] == pytest.approx(1 - predicts.mean().item())


def test_random_routing_has_the_routers_rates_and_another_choice(watched):
    seen = watched()
    model = base_model(0)
    state = apply_skipgpt(model, SkipGPTConfig())
    rates = torch.linspace(0.1, 0.9, 12).view(6, 2)
    ids, kinds = sequences("test", 0, 6)
    routed = {"per_layer": rates.tolist(), "sparsity": 0.35}
    found = scratch.matched_random(model, state, routed, ids, kinds, 3)
    assert state.policy is None and torch.tensor(found["matched"]["per_layer"]) == pytest.approx(rates.numpy(), abs=0.1)
    assert torch.tensor(found["uniform"]["per_layer"]) == pytest.approx(torch.full((6, 2), 0.35).numpy(), abs=0.1)
    again, other = (scratch.matched_random(model, state, routed, ids, kinds, seed) for seed in (3, 4))
    assert again == found and other["matched"]["ce"] != found["matched"]["ce"] and other["uniform"]["ce"] != found["uniform"]["ce"]
    assert [m.result for m in seen.measured[:2]] == [found["matched"], found["uniform"]]


def test_every_job_asks_for_what_its_name_says():
    listed = {job.name.removeprefix("tier_a/").removesuffix("/seed0"): job for job in scratch.jobs("smoke") + scratch.extra_jobs("smoke")}
    arguments = {name: {k: v for k, v in job.arguments.items() if k not in ("seed", "size")} for name, job in listed.items()}
    function = {name: job.function.rpartition(":")[2] for name, job in listed.items()}
    both = {"target": 0.40, "budget": scratch.BUDGET}
    assert arguments["routers at 0.40"] == both | {"stage_2": True} and arguments["coupled"] == both | {"coupled": True}
    assert arguments["token-blind"] == both | {"token_blind": True} and arguments["joint"] == arguments["MoD-D"] == {"target": 0.40}
    assert arguments["routers at 0.25"] == {"target": 0.25} and arguments["MoD-D with LoRA"] == {"target": 0.40, "rank": 8}
    named = ("static", "routers at 0.40", "coupled", "token-blind", "joint", "MoD-D")
    assert {name: function[name] for name in named} == {
        "static": "dense_and_static", "routers at 0.40": "router_tuning", "coupled": "router_tuning", "token-blind": "router_tuning",
        "joint": "joint", "MoD-D": "mixture_of_depths"}
    assert scratch.BUDGET == 5 / 12


# -- the real small model ----------------------------------------------------------------------------------
def test_losses_of_windows_are_means_of_each_and_rates_too(monkeypatch):
    model = base_model(0)
    state = apply_skipgpt(model, SkipGPTConfig())
    ids = sequences("test", 0, 11)[0]
    keep = torch.arange(64) % 4 != 0
    state.policy = lambda layer, name, x, valid: (keep if name == "attn" else ~keep).float().expand(len(x), -1)
    found = smollm2.window_losses(model, state, ids)
    assert len(found["windows"]) == 11 and found["ce"] == pytest.approx(sum(found["windows"]) / 11)
    assert found["attn skip by window"] == pytest.approx([0.25] * 11) and found["mlp skip by window"] == pytest.approx([0.75] * 11)
    assert (found["attn_skip"], found["mlp_skip"], found["sparsity"]) == pytest.approx((0.25, 0.75, 0.5))
    one = smollm2.window_losses(model, state, ids[4:5])
    assert one["ce"] == pytest.approx(found["windows"][4], rel=1e-4)


def test_a_budget_that_is_missed_on_either_side_gets_no_score():
    for realised, fits in ((0.23, True), (0.27, True), (0.225, False), (0.275, False)):
        if fits:
            smollm2.check_budget(realised, 0.25, "x", 0.021)
        else:
            with pytest.raises(smollm2.BudgetMissed):
                smollm2.check_budget(realised, 0.25, "x", 0.021)


def test_random_policies_of_two_seeds_are_two_and_far_from_the_routers():
    """At the rates that a router has: what is drawn skips other tokens."""
    rates = torch.full((2, 2), 0.5)
    valid = torch.ones(3, 40, dtype=torch.long)
    drawn = {seed: baselines.random_matched(rates, seed)(0, "attn", valid, valid) for seed in range(6)}
    assert len({tuple(gate.flatten().tolist()) for gate in drawn.values()}) == 6
    assert all(0.3 < gate.mean() < 0.7 for gate in drawn.values())
    uniform = baselines.random_uniform(0.5, 0)(0, "attn", valid, valid)
    assert 0.3 < uniform.mean() < 0.7 and not torch.equal(uniform, baselines.random_uniform(0.5, 1)(0, "attn", valid, valid))


@pytest.fixture
def tiny_smollm2(monkeypatch):
    """A routed model of two layers in the real one's place, and its windows."""
    model = load(tiny(vocab_size=64, num_hidden_layers=2, attn_implementation="sdpa")).model
    made = []

    def routed(target, seed=0, size="cpu"):
        torch.manual_seed(1)
        made.append(apply_skipgpt(model, SkipGPTConfig(target_sparsity=target)))
        return model.eval(), made[-1]

    monkeypatch.setattr(smollm2, "_routed", routed)
    monkeypatch.setattr(smollm2, "windows_of", lambda size: torch.arange(40).view(2, 20))
    monkeypatch.setattr(smollm2, "held_out", lambda length, count, size: (torch.arange(3 * length).view(3, length) % 64, [0, 1, 2]))
    monkeypatch.setattr(smollm2, "smollm2", lambda size: types.SimpleNamespace(tokenizer=smollm2.Letters()))
    return made


def test_sampled_gates_of_the_real_model_are_drawn_and_stand_in_no_default_job(tiny_smollm2):
    """Drawn: another result than argmax, the same at every call. No claim reads it: it is only run when it is asked for."""
    assert not any("sampled" in job.name for job in smollm2.jobs("smoke"))
    assert {job.name for job in smollm2.extra_jobs("smoke")} == {"tier_b/sampled at 0.25", "tier_b/sampled at 0.40"}
    found, again = smollm2.sampled(0.25, "smoke"), smollm2.sampled(0.25, "smoke")
    model, state = smollm2._routed(0.25)
    decided = smollm2.window_losses(model, state.set_mode("skip"), smollm2.windows_of("smoke"))
    remove_skipgpt(model)
    assert found == again and found["per_layer"] != decided["per_layer"] and tiny_smollm2[0].config.eval_sampling
    table = "\n".join(tables.sampled({f"tier_b/sampled at {target}": found for target in ("0.25", "0.40")}))
    assert f"T = 0.40: CE {found['ce']:.3f}" in table and f"{found['sparsity']:.1%} of the modules skipped" in table


def test_positions_are_looked_at_in_the_mode_that_skips_with_the_gates_of_the_one_that_computes_everything(tiny_smollm2, monkeypatch):
    found = smollm2.positions_and_tokens(smollm2.CLAIMED, "smoke")
    assert tiny_smollm2[0].mode == "skip"
    monkeypatch.setattr(method.RoutingState, "set_mode", lambda self, mode: self)
    masked = smollm2.positions_and_tokens(smollm2.CLAIMED, "smoke")
    assert tiny_smollm2[1].mode == "mask" and masked == found and 0 < found["position"]["attn"][3] < 1
    assert [job.name for job in smollm2.jobs("smoke") if "positions" in job.name] == ["tier_b/positions at 0.25"]
