"""The arm is the arm: what each job trains, holds and asks, by spies in the place of the trainings and passes, which other tests run."""

import json
from dataclasses import dataclass
from types import SimpleNamespace as Of

import pytest
import torch

from common.lora import LoraSpec
from common.models import Loaded

from .. import baselines
from ..baselines import JOINT_TARGETS, LORA_TARGETS
from ..difficulty import base_model, sequences
from ..experiments import blind, gemma, paper, rates, scratch, smollm2
from ..method import SkipGPTConfig, apply_skipgpt, remove_skipgpt
from ..router_files import CARD
from .test_experiments import TINY, names_of


def spy(monkeypatch, module, name, log, real=True, gives=None):
    """Calls of module.name go to log as (name, positional, keywords)."""
    call = getattr(module, name)

    def watched(*args, **how):
        log.append((name, args, how))
        return call(*args, **how) if real else gives

    monkeypatch.setattr(module, name, watched)


# -- from scratch ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method, coupled, learns, held", [
    ("routers", False, {"weight", "bias"}, [5 / 12]), ("coupled", True, {"weight", "bias"}, [5 / 12]),
    ("token-blind", False, {"bias"}, [5 / 12]), ("joint", False, {"lora", "weight", "bias"}, [0.40]),
    ("MoD-D", False, {"weight", "bias"}, [])])
def test_a_rate_is_tried_on_the_method_whose_name_it_has(method, coupled, learns, held, monkeypatch):
    monkeypatch.setitem(scratch.SIZES, "tiny", TINY)
    seen, budgets, asked = [], [], []

    def tune(model, batch, optimiser, steps, state=None, seed=None):
        group = optimiser.param_groups[0]
        seen.append((names_of(model, state, group["params"]), group["lr"], group["weight_decay"], seed))
        return iter(())

    monkeypatch.setattr(rates, "tune", tune)
    monkeypatch.setattr(rates, "hold_budget", lambda model, state, ids, target: budgets.append((len(ids), target, state.config.coupled)))
    for name in ("joint", "mod_d", "bias_only"):
        spy(monkeypatch, baselines, name, asked)
    rates.validated(method, 3e-3, 1, "tiny")
    assert seen == [(learns, 3e-3, 0.01, 1)]
    assert budgets == [(TINY.calibration_sequences, target, coupled) for target in held]
    calls = {"joint": [("joint", {"rank": 8, "alpha": 16})], "MoD-D": [("mod_d", {"rank": 0})], "token-blind": [("bias_only", {})]}
    assert [(name, how) for name, _, how in asked] == calls.get(method, [])
    if method in ("joint", "MoD-D"):
        given = asked[0][1][1]
        assert (given.target_sparsity if method == "joint" else given) == 0.40


@pytest.mark.parametrize("whole_layers, name", [(False, "joint"), (True, "d_llm")])
def test_joint_training_of_whole_layers_is_d_llm(whole_layers, name, monkeypatch):
    asked = []
    for each in ("joint", "d_llm"):
        monkeypatch.setattr(baselines, each, lambda model, config, each=each, **how: asked.append((each, config.target_sparsity, how)))
    with pytest.raises(AttributeError):  # nothing was prepared
        scratch.joint(0, 0.25, whole_layers, "smoke")
    assert asked == [(name, 0.25, {"rank": 8, "alpha": 16})]


def quiet(monkeypatch):
    """Trainings that do nothing, measures that say nothing, and a log of (adapter, trained parts, budgets)."""
    log = []
    monkeypatch.setattr(scratch, "tune", lambda model, batch, optimiser, steps, **how: log.append(
        ("tune", optimiser.param_groups[0]["lr"], steps, how["state"].mode, how["seed"])) or iter(()))
    monkeypatch.setattr(scratch, "measure", lambda model, state, ids, kinds: {"ce": 2.0, "sparsity": 0.3, "attn_skip": 0.2, "mlp_skip": 0.4,
                                                                              "routed": state is not None})
    monkeypatch.setattr(scratch, "hold_budget", lambda model, state, ids, target, **how: log.append(("hold", len(ids), target)) or 0.5)
    monkeypatch.setattr(scratch, "shift_budget", lambda state, shift: log.append(("shift", shift)))
    return log


@pytest.mark.parametrize("train", [lambda: scratch.router_tuning(3, 0.40, size="smoke"), lambda: scratch.joint(3, 0.40, size="smoke"),
                                   lambda: scratch.mixture_of_depths(3, 0.40, size="smoke")], ids=["routers", "joint", "MoD-D"])
def test_a_training_draws_from_its_own_seed_whatever_was_drawn_before(train, monkeypatch):
    """Its batches, its gates and its first weights."""
    quiet(monkeypatch)
    seen, real = [], scratch.batches
    monkeypatch.setattr(scratch, "batches", lambda split, seed, *of: seen.append((split, seed)) or real(split, seed, *of))
    monkeypatch.setattr(scratch, "base_model", lambda seed: base_model(0 if seed == 3 else None))  # seed 3 has none that is committed
    monkeypatch.setattr(scratch, "matched_random", lambda *of: {})
    monkeypatch.setattr(scratch, "tune", lambda model, batch, optimiser, steps, **how: seen.append(
        (how["seed"], [p.sum().item() for p in optimiser.param_groups[0]["params"]])) or iter(()))
    for before in (1, 2):
        torch.manual_seed(before)
        train()
    assert seen[:2] == seen[2:] and seen[0] == ("tune", 3) and seen[1][0] == 3


def test_stage_2_and_its_controls_differ_in_their_mode_and_in_where_the_adapters_are(monkeypatch):
    log = quiet(monkeypatch)
    monkeypatch.setattr(scratch, "add_lora", lambda model, spec, real=scratch.add_lora: log.append(("lora", spec)) or real(model, spec))
    model = base_model(0)
    state = apply_skipgpt(model, SkipGPTConfig(target_sparsity=0.40))
    found = scratch.lora(model, state, 3, TINY, 0.40)
    routed = [("hold", TINY.calibration_sequences, 0.40), ("shift", -0.5)]
    assert log == [step for mode, targets in (("mask", LORA_TARGETS), ("dense", LORA_TARGETS), ("mask", JOINT_TARGETS)) for step in (
        ("lora", LoraSpec(rank=8, alpha=16, dropout=0.1, targets=targets)), ("tune", 5e-3, TINY.lora_steps, mode, 3),
        *(routed if mode == "mask" else ()))]
    assert {name: row["routed"] for name, row in found.items()} == {
        "routed": True, "routed held": True, "dense": False, "q and v": True, "q and v held": True} and state.mode == "mask"


def test_a_sweep_moves_the_one_threshold_and_puts_it_back(monkeypatch):
    log = quiet(monkeypatch)
    monkeypatch.setattr(scratch, "matched_random", lambda model, state, routed, ids, kinds, seed: {
        "matched": {"ce": 3.0 + seed}, "uniform": {"ce": 7.0 + seed}})
    state = apply_skipgpt(base_model(0), SkipGPTConfig(target_sparsity=0.40))
    found = scratch.sweep(None, state, 1, TINY)
    assert found == {"dense": 2.0, "rows": [
        {"asked": asked, "sparsity": 0.3, "ce": 2.0, "attn_skip": 0.2, "mlp_skip": 0.4, "matched": 4.0, "uniform": 8.0}
        for asked in (0.2, 0.4, 0.5, 0.6, 0.8)]}
    assert log == [*(("hold", TINY.calibration_sequences, asked) for asked in (0.2, 0.4, 0.5, 0.6, 0.8)), ("shift", -2.5)]


# -- the real small model ----------------------------------------------------------------------------------
def routed(model):
    torch.manual_seed(1)
    return model.eval(), apply_skipgpt(model, SkipGPTConfig(target_sparsity=0.25))


@pytest.mark.parametrize("size, other", [("cpu", False), ("smoke", True)])
def test_routers_are_those_of_the_target_and_the_seed_and_nothing_learns(size, other, monkeypatch):
    log, model = [], base_model(0).train()
    monkeypatch.setattr(smollm2, "smollm2", lambda asked: log.append(asked) or Of(model=model))
    spy(monkeypatch, smollm2, "committed", log, real=False, gives="folder")
    spy(monkeypatch, smollm2, "load_routers", log, real=False, gives="state")
    found, state = smollm2._routed(0.40, 2, size)
    assert log == [size, ("committed", (0.40, 2), {}), ("load_routers", (model, "folder"), {"allow_other_base": other})]
    assert found is model and state == "state" and not model.training and not any(p.requires_grad for p in model.parameters())


def test_test_windows_are_one_of_a_document_and_drawn_the_same_whatever_was_drawn_before(monkeypatch):
    texts = tuple(chr(97 + i) * 30 for i in range(9))
    monkeypatch.setattr(smollm2, "documents", lambda: texts)
    monkeypatch.setattr(smollm2, "smollm2", lambda size: Of(tokenizer=smollm2.Letters()))
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        rows, numbers = smollm2.held_out.__wrapped__(10, 4, "smoke")
        drawn.append((rows.tolist(), numbers))
        assert rows.shape == (4, 10) and numbers == sorted(set(numbers)) and [bytes(row)[:1].decode() for row in rows.tolist()] == [
            texts[number][0] for number in numbers]
    assert drawn[0] == drawn[1] and drawn[0][1] != [0, 1, 2, 3]


def test_a_router_stands_beside_two_lots_of_its_own_rates_and_one_of_its_mean(monkeypatch):
    log, model = [], base_model(0)
    monkeypatch.setattr(smollm2, "_routed", lambda target, seed, size: log.append((target, seed, size)) or routed(model))
    monkeypatch.setattr(smollm2, "windows_of", lambda size: sequences("test", 0, 3)[0])
    monkeypatch.setattr(smollm2, "check_budget", lambda realised, asked, what, guard: log.append((realised, asked, guard)))
    monkeypatch.setattr(smollm2, "remove_skipgpt", lambda model, real=remove_skipgpt: log.append("whole again") or real(model))
    for name in ("random_matched", "random_uniform"):
        spy(monkeypatch, baselines, name, log)
    found = smollm2.learned(0.25, 3, "smoke")
    names = ("skip", "matched", "matched again", "uniform")
    assert tuple(found) == names and len({found[name]["ce"] for name in names}) == 4
    drawn = {entry[1][1]: entry[1][0] for entry in log if entry[0] == "random_matched"}
    assert set(drawn) == {6, 7} and all(torch.allclose(rates, torch.tensor(found["skip"]["per_layer"])) for rates in drawn.values())
    assert [entry[1:] for entry in log if entry[0] == "random_uniform"] == [((found["skip"]["sparsity"], 3), {})]
    checked = [entry for entry in log if isinstance(entry, tuple) and isinstance(entry[0], float) and len(entry) == 3][1:]
    assert log[0] == (0.25, 3, "smoke") and log[-1] == "whole again"
    assert checked == [(found[name]["sparsity"], 0.25, smollm2.SIZES["smoke"].guard) for name in names]


def test_where_it_looks_is_read_from_attention_and_mlp_apart_and_from_the_positions_named(monkeypatch):
    model = base_model(0)
    monkeypatch.setattr(smollm2, "_routed", lambda target, size: routed(model))
    monkeypatch.setattr(smollm2, "held_out", lambda length, count, size: (sequences("test", 0, 3)[0][:, :length], [4, 5, 6]))
    monkeypatch.setattr(smollm2, "smollm2", lambda size: Of(tokenizer=smollm2.Letters()))
    found = smollm2.positions_and_tokens(0.25, "smoke")
    at, quarter = found["position"], smollm2.SIZES["smoke"].long // 4
    assert at["attn"] != at["mlp"] and len(at["attn"]) == smollm2.SIZES["smoke"].long and found["documents"] == [4, 5, 6]
    for name, part in {"first quarter": slice(1, quarter), "last quarter": slice(-quarter, None), "odd": slice(1, None, 2),
                       "even": slice(2, None, 2)}.items():
        for row, kind in enumerate(("attn", "mlp")):
            some = at[kind][part]
            assert len(found[name][row]) == 3 and sum(found[name][row]) / 3 == pytest.approx(sum(some) / len(some)), (name, kind)


@pytest.mark.parametrize("method", ["dense", "routers", "matched random", "static"])
def test_real_texts_and_tasks_are_asked_of_the_arm_that_is_named(method, monkeypatch):
    model, asked, left = base_model(0), [], []
    n, state = smollm2.SIZES["smoke"], None if method == "dense" else routed(model)[1]
    words = lambda text, return_tensors: {"input_ids": torch.arange(90)[None]}  # noqa: E731

    def perplexity(model, ids, length, batch):
        asked.append((ids.tolist(), length, batch, getattr(state, "policy", None), getattr(state, "mode", None)))
        return {"value": 9.0}

    monkeypatch.setattr(smollm2, "smollm2", lambda size: Of(model=model, tokenizer=words))
    monkeypatch.setattr(smollm2, "_routed", lambda target: asked.append(target) or (model, state))
    monkeypatch.setattr(smollm2, "read_text", lambda name: Of(text=name, definition=f"text of {name}"))
    monkeypatch.setattr(smollm2, "token_perplexity", perplexity)
    monkeypatch.setattr(smollm2.language, "evaluate", lambda model, words, tasks, limit, batch_size: asked.append(
        (tasks, limit)) or "scores")
    monkeypatch.setattr(smollm2, "window_losses", lambda *of: {"per_layer": [[0.5, 1.0]]})
    monkeypatch.setattr(smollm2, "held_out", lambda *of: ("windows", [0]))
    monkeypatch.setattr(smollm2, "static_plans", lambda target: {"shortgpt": Of(policy=lambda: f"plan at {target}"), "other": None})
    monkeypatch.setattr(baselines, "random_matched", lambda rates, seed: ("lot", rates.tolist(), seed))
    monkeypatch.setattr(smollm2, "rates", lambda state: {"sparsity": 0.25})
    monkeypatch.setattr(smollm2, "remove_skipgpt", lambda model: left.append(model))
    found = smollm2.real_data(method, 0.25, "smoke")
    policy = {"matched random": ("lot", [[0.5, 1.0]], 0), "static": "plan at 0.25"}.get(method)
    row = (list(range(n.text)), n.text, 4, policy, None if method == "dense" else "skip")
    assert asked == [*([0.25] if method != "dense" else []), row, row,
                     (["piqa_local", "arc_easy_local", "winogrande_local", "lambada_openai_local"], n.items)]
    assert found == {"perplexity": {name: {"value": 9.0, "text": f"text of {name}", "tokens_of_text": 90} for name in ("wikitext2", "ptb")},
                     "tasks": "scores"} | ({"sparsity": 0.25} if method != "dense" else {})
    assert left == ([model] if method != "dense" else []), "whoever comes next finds the model as it was"


@dataclass(frozen=True)
class Tuning:
    """What `prepare` gives, whose steps only say what they would train."""

    model: object
    state: object
    train: torch.Tensor
    log: list
    optimiser: object = None

    def steps(self, count, seed=0):
        group = self.optimiser.param_groups[0]
        self.log.append(("steps", count, seed, group["lr"], group["weight_decay"], group["betas"], {p.ndim for p in group["params"]}))
        return iter(range(count))


@pytest.mark.parametrize("size, steps, held", [("cpu", blind.STEPS[0.25], blind.CALIBRATE), ("smoke", 2, 2)])
def test_token_blind_routers_have_as_many_steps_as_the_others_and_are_held_on_training_text(size, steps, held, monkeypatch):
    model, log = base_model(0), []
    _, state = routed(model)
    rows = {"per_layer": [[1, 0.5], [0, 1], [0.25, 0]], "ce": 2.0}
    text = torch.arange(3 * blind.CALIBRATE)

    def hold(model, state, ids, target, batch_size):
        log.append(("hold", ids.tolist(), target, batch_size, any(p.requires_grad for p in state.parameters())))

    monkeypatch.setattr(blind, "prepare", lambda *of, dtype: log.append((of[:3], dtype)) or Tuning(model, state, text, log))
    monkeypatch.setattr(blind, "hold_budget", hold)
    monkeypatch.setattr(blind, "windows_of", lambda asked: f"windows of {asked}")
    monkeypatch.setattr(blind, "window_losses", lambda model, state, ids: log.append(ids) or rows)
    monkeypatch.setattr(blind, "remove_skipgpt", lambda model: log.append("whole again"))
    found = blind.token_blind(0.25, 2, size)
    assert log == [((blind.CHOSEN, 0.25, 2), "float32"), ("steps", steps, 2, blind.CHOSEN["bias_lr"], 0.0, (0.9, 0.98), {1}),
                   ("hold", text[-held:].tolist(), 0.25, 16, False), f"windows of {size}", "whole again"]
    assert found == rows | {"dropped": [[0, "attn"], [1, "mlp"]]}


# -- Gemma, and the paper's own size -----------------------------------------------------------------------
def test_gemmas_lots_are_two_of_the_seeds_own(monkeypatch):
    asked = []
    for name in ("random_matched", "random_uniform"):
        spy(monkeypatch, baselines, name, asked)
    monkeypatch.setattr(gemma, "_hold", lambda *of, **how: 0.0)
    gemma.measured(3, "smoke")
    assert [(name, args[1]) for name, args, _ in asked] == [
        ("random_matched", 6), ("random_matched", 7), ("random_uniform", 3), ("random_matched", 6), ("random_matched", 7)]


def test_modules_that_nobody_runs_are_named_by_layer_and_kind(monkeypatch):
    asked = []
    monkeypatch.setattr(gemma, "work_of", lambda seed, size: Of(held_back="held back", seed=seed))
    monkeypatch.setattr(gemma, "learned", lambda arm, work, steps, dtype: asked.append((arm, work.seed, steps, dtype)) or {
        "tensors": "biases", "curve": [1.0]})
    monkeypatch.setattr(gemma, "routed", lambda work, tensors: (Of(model=tensors, tokenizer=None), Of(set_mode=lambda mode: mode)))
    monkeypatch.setattr(gemma, "_hold", lambda model, state, ids, size: asked.append((model, ids)))
    monkeypatch.setattr(gemma, "held_out", lambda words, size: ("windows", [0]))
    monkeypatch.setattr(gemma, "window_losses", lambda model, state, ids: asked.append((state, ids)) or {
        "per_layer": [[1, 0.5], [0, 1], [0.25, 0]]})
    n, found = gemma.SIZES["smoke"], gemma.token_blind(4, "smoke")
    assert found == {"per_layer": [[1, 0.5], [0, 1], [0.25, 0]], "dropped": [[0, "attn"], [1, "mlp"]], "curve": [1.0]}
    assert asked == [("token-blind", 4, n.steps, n.dtype), ("biases", "held back"), ("skip", "windows")]


def test_gemmas_dense_row_says_of_which_documents_it_is(monkeypatch):
    monkeypatch.setattr(gemma, "work_of", lambda seed, size: Of(opened=lambda dtype: Of(model=dtype, tokenizer="words", source="gemma")))
    monkeypatch.setattr(gemma, "held_out", lambda words, size: ("windows", [4, 9, 9]))
    monkeypatch.setattr(gemma, "long_ones", lambda words, size: "long windows")
    monkeypatch.setattr(gemma, "window_losses", lambda model, state, ids: {"of": (model, state, ids)})
    found = gemma.dense("smoke")
    assert found["of"] == ("float32", None, "windows") and found["long"] == {"of": ("float32", None, "long windows")}
    assert (found["documents"], found["model"], found["text"]["documents"]) == ([4, 9, 9], "gemma", 2)
    assert set(found["text"]) == {"name", "sha256", "documents", "version"}


def test_a_score_of_the_papers_size_stands_beside_its_error_and_its_items(monkeypatch):
    asked = []
    monkeypatch.setattr(paper, "trained_routers", lambda: {"7B": {"rt_25": "routers", "joint_25": "others"}})
    monkeypatch.setattr(paper, "open_run", lambda folder, device, routed: asked.append((folder, routed)) or (
        Of(model=folder, tokenizer="words"), Of(stats=lambda: Of(sparsity=0.25 if folder == "routers" else 0.5)) if routed else None))
    monkeypatch.setattr(paper.language, "evaluate", lambda model, words, tasks, limit, batch_size: {"tasks": {
        task: {"value": 0.5, "stderr": 0.125, "n": 9} for task in tasks}})
    monkeypatch.setattr(paper, "progress", lambda rows, what: rows)
    found = paper.measure_paper(lambda text: None, "cpu", ("piqa", "arc_easy"))
    row, error = {"piqa": 0.5, "arc_easy": 0.5}, {"piqa": [0.125, 9], "arc_easy": [0.125, 9]}
    assert asked == [("routers", False), ("routers", True), ("others", True)]
    assert found == {"7B": {"dense": row, "routers at 0.25": row, "errors": {"dense": error, "routers at 0.25": error}}}, "a missed budget"


@pytest.mark.parametrize("device, dtype", [("cuda", "bfloat16"), ("cpu", "float32")])
@pytest.mark.parametrize("lora", [False, True])
def test_a_run_of_the_papers_size_is_opened_as_it_was_trained(lora, device, dtype, tmp_path, monkeypatch):
    folder, asked = tmp_path / "run" / "routers", []
    folder.mkdir(parents=True)
    (folder / CARD).write_text(json.dumps({"base": {"name": "a/model", "revision": "abc"}}))
    if lora:
        (folder.parent / "lora").mkdir()
    state = Of(set_mode=lambda mode: Of(start_recording=lambda: mode))
    monkeypatch.setattr(paper, "load", lambda spec: asked.append(spec) or Loaded("model", "words", {}))
    monkeypatch.setattr(paper, "load_routers", lambda model, path: asked.append((model, path)) or state)
    monkeypatch.setattr(paper, "merge", lambda model, path: (model, path))
    loaded, mode = paper.open_run(folder, device, routed=True)
    assert [(asked[0].name, asked[0].revision, asked[0].dtype, asked[0].device), asked[1]] == [
        ("a/model", "abc", dtype, device), ("model", folder)]
    assert mode == "skip" and loaded.model == (("model", folder.parent / "lora") if lora else "model")
    dense, none = paper.open_run(folder, device, routed=False)
    assert none is None and dense.model == "model" and len(asked) == 3, "the base has neither routers nor adapters"
