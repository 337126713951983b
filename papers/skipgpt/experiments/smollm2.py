"""Tier B: a real pretrained model, SmolLM2-135M-Instruct, with the committed routers.

The routers in `routers/` come from `routers_smollm2.py`. Here they are loaded next to the packaged weights, run with real
skipping, and compared on prose that neither training nor calibration saw: with the dense model, with random routing at
the router's own rate of every module, with one uniform rate, and with every static plan at the same module sparsity.
All of it on the same windows, so that differences are paired by window, and in float32: bfloat16 is 2.5 times as fast on a
processor with units for it and a third as fast on one without, and a word should depend on neither. `jobs` and `real_jobs`
list what is run, by functions that are one job each; how much each measures stands in `SIZES`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.benchmarks import language
from common.benchmarks.perplexity import token_perplexity
from common.data.prose import topics, windows
from common.data.text import read_text
from common.files import data_file
from common.models import SMOLLM2, Loaded, load
from common.runs.jobs import Job

from .. import baselines, static_pruning
from ..method import RoutingState, SkipGPTConfig, apply_skipgpt, remove_skipgpt
from ..router_files import ROUTERS, committed, load_routers
from ..tuning import evaluate

TARGETS = (0.25, 0.40)
LENGTH = 128  # tokens of the windows that routers and plans learned from, and of those of the test
CLAIMED = 0.25  # the target whose claims read uniform random routing and positions; at the other they are only shown
REAL_FILES = ("text/wikitext2_word.test.txt", "text/ptb.test.txt", "text/piqa.jsonl", "text/arc_easy.jsonl", "text/winogrande.jsonl",
              "text/lambada_openai.jsonl")  # fmt: skip
BEST_STATIC = {0.25: "shortgpt", 0.40: "greedy-drop"}  # of the committed plans, on held-out prose: what `static` measures
GUARD = 0.02  # a score is not printed as one of "T" when the realised sparsity is further off


@dataclass(frozen=True)
class Size:
    """How much is measured. Lengths are in tokens."""

    length: int  # of the test and training windows
    test_windows: int
    long: int  # length of the windows in which positions are looked at
    long_windows: int
    shown_windows: int  # the same, at the target without a claim on positions
    seen: int  # how often a token must occur to be listed by its execution rate
    cloze_items: int
    draws: tuple[int, ...]  # seeds of random routing
    text: int  # length of the windows of real texts
    text_windows: int
    items: int  # of each real task
    share: float  # of the seconds that a job takes in the default run


SIZES = {
    "cpu": Size(length=LENGTH, test_windows=32, long=384, long_windows=32, shown_windows=12, seen=20, cloze_items=40,
                draws=(0, 1, 2), text=512, text_windows=48, items=300, share=1.0),
    "smoke": Size(length=20, test_windows=2, long=40, long_windows=2, shown_windows=1, seen=2, cloze_items=1,
                  draws=(0,), text=32, text_windows=1, items=2, share=0.03),
}


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server, and only order the work and estimate the rest. The dense model comes
    first: it expands the packed weights if nobody has yet (half a minute), and two at once would need twice the memory."""

    def job(name: str, function: str, seconds: float, after: tuple[str, ...] = ("tier_b/dense",), **arguments) -> Job:
        return Job(f"tier_b/{name}", f"{__name__}:{function}", {"size": size, **arguments}, seconds=seconds * SIZES[size].share,
                   after=after)

    listed = [job("dense", "dense", 70, after=())]
    for target in TARGETS:
        listed += [job(f"routers at {target:.2f}", "learned", 35, target=target),
                   job(f"random at {target:.2f}", "random_routing", 48, target=target),
                   job(f"static at {target:.2f}", "static", 17, target=target)]
    return listed


def real_jobs(size: str = "cpu") -> list[Job]:
    """Real benchmarks: dense, then at each target the committed routers, their rates at random and the best static plan.
    Raises DataError where NINEFOLD_DATA lacks a file."""
    data = tuple(str(data_file(name)) for name in REAL_FILES)

    def job(name: str, **arguments) -> Job:
        return Job(f"real/{name}", f"{__name__}:real_data", {"size": size, **arguments}, data, 180 * SIZES[size].share)

    return [job("dense", method="dense"), *(job(f"{method} at {target:.2f}", method=method, target=target)
                                            for target in TARGETS for method in ("routers", "matched random", "static"))]


# -- models and texts --------------------------------------------------------------------------------------
class BudgetMissed(RuntimeError):
    """The realised sparsity is too far from the requested one for the score to be compared."""


@functools.lru_cache(maxsize=1)
def smollm2() -> Loaded:
    return load(replace(SMOLLM2, dtype="float32", attn_implementation="sdpa"))


@functools.lru_cache(maxsize=4)
def held_out(length: int, count: int) -> Tensor:
    rows = windows(topics()["test"], smollm2().tokenizer, length)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]]


def check_budget(realised: float, requested: float, what: str) -> None:
    """Refuses a score at another sparsity than asked for (spec 10, test 15)."""
    if abs(realised - requested) > GUARD:
        raise BudgetMissed(f"{what}: realised module sparsity {realised:.3f}, requested {requested:.3f}: more than {GUARD:.0%} "
                           "apart, so the score would be compared at unequal budgets. Hold the budget again "
                           "(tuning.hold_budget) or ask for the realised one.")


def window_losses(model: nn.Module, state: RoutingState | None, ids: Tensor) -> dict:
    """{"ce", "windows": mean nats of each window} and the realised rates."""
    if state is not None:
        state.start_recording()
    losses = evaluate(model, ids, 8).mean(1)
    result = {"ce": losses.mean().item(), "windows": losses.tolist()}
    if state is not None:
        stats = state.stats()
        result |= rates(state) | {"per_layer": stats.per_layer.tolist(), "tokens": stats.n_tokens}
    return result


def rates(state: RoutingState) -> dict[str, float]:
    """What was skipped since the recording began."""
    stats = state.stats()
    return {"attn_skip": stats.attn_skip, "mlp_skip": stats.mlp_skip, "sparsity": stats.sparsity}


def windows_of(n: Size) -> Tensor:
    return held_out(n.length, n.test_windows)


def cloze(model: nn.Module, n: Size) -> dict:
    """The packaged lm-eval task: the true ending of a sentence among four, held-out prose."""
    scores = language.evaluate(model, smollm2().tokenizer, ["pydoc_cloze"], limit=n.cloze_items, batch_size=8)
    return scores["tasks"]["pydoc_cloze"]


def _routed(target: float) -> tuple[nn.Module, RoutingState]:
    model = smollm2().model
    state = load_routers(model, committed(target))
    model.requires_grad_(False)
    return model.eval(), state


# -- the jobs ----------------------------------------------------------------------------------------------
def dense(size: str = "cpu") -> dict:
    loaded, n = smollm2(), SIZES[size]
    losses = window_losses(loaded.model, None, windows_of(n))
    return losses | {"cloze": cloze(loaded.model, n), "model": loaded.source, "text": topics().source}


def learned(target: float, size: str = "cpu") -> dict:
    """The committed routers: skip mode, decided by argmax; also sampled, with position, and by token."""
    n, (model, state) = SIZES[size], _routed(target)
    try:
        ids = windows_of(n)
        result = {"skip": window_losses(model, state.set_mode("skip"), ids)}
        check_budget(result["skip"]["sparsity"], target, f"routers at {target:.0%}")
        result["mask ce"] = window_losses(model, state.set_mode("mask"), ids)["ce"]
        plain, state.config = state.config, SkipGPTConfig(**{**state.config.to_dict(), "eval_sampling": True})
        state.generator = torch.Generator().manual_seed(0)
        result["sampled"] = window_losses(model, state, ids)
        state.config, state.generator = plain, None
        result |= positions_and_tokens(model, state.set_mode("skip"), n, n.long_windows if target == CLAIMED else n.shown_windows)
        result["cloze"] = cloze(model, n)
        return result
    finally:
        remove_skipgpt(model)


def positions_and_tokens(model: nn.Module, state: RoutingState, n: Size, windows: int) -> dict:
    """Execution rates along long windows, per window quarter, and of the most and least executed tokens."""
    ids, tokenizer = held_out(n.long, windows), smollm2().tokenizer
    executed = []
    with torch.no_grad():
        for rows in ids.split(4):
            model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False, logits_to_keep=1)
            executed.append(torch.stack([torch.stack(pair) for pair in state.gates]).mean(0))  # (2, B, S)
    executed = torch.cat(executed, 1)
    quarter = n.long // 4
    tokens = []
    for token in ids.unique().tolist():
        where = ids == token
        if (count := int(where.sum())) >= n.seen:
            attn, mlp = executed[:, where].mean(1).tolist()
            tokens.append([tokenizer.decode([token]), count, attn, mlp])
    tokens.sort(key=lambda row: row[2])
    return {
        "position": {"attn": executed[0].mean(0).tolist(), "mlp": executed[1].mean(0).tolist()},
        "attn skip by window": (1 - executed[0].mean(-1)).tolist(),
        "mlp skip by window": (1 - executed[1].mean(-1)).tolist(),
        "first quarter": executed[:, :, 1:quarter].mean(-1).tolist(),  # without the first token, an attention sink
        "last quarter": executed[:, :, -quarter:].mean(-1).tolist(),
        "tokens": {"least attention": tokens[:12], "most attention": tokens[-12:]},
    }


def random_routing(target: float, size: str = "cpu") -> dict:
    """The same budget without a router: its per-module rates drawn per token, and one rate for everything."""
    n, (model, state) = SIZES[size], _routed(target)
    try:
        ids = windows_of(n)
        routed = window_losses(model, state.set_mode("skip"), ids)
        matched, results = torch.tensor(routed["per_layer"]), {"matched": [], "uniform": []}
        for seed in n.draws:
            for name, policy in (("matched", baselines.random_matched(matched, seed)),
                                 ("uniform", baselines.random_uniform(routed["sparsity"], seed))):
                if name == "uniform" and seed != n.draws[0] and target != CLAIMED:
                    continue
                state.policy = policy
                row = window_losses(model, state, ids)
                check_budget(row["sparsity"], target, f"{name} random routing at {target:.0%}")
                results[name].append(row)
        state.policy = baselines.random_matched(matched, n.draws[0])
        results["cloze"] = cloze(model, n)
        return results
    finally:
        remove_skipgpt(model)


def static_plans(target: float) -> dict[str, static_pruning.StaticPlan]:
    """The committed plans at this module sparsity: {file name: plan}. `routers_smollm2 --plans` calibrated them."""
    folder = ROUTERS / f"static-t{round(100 * target)}"
    plans = {path.stem: static_pruning.read_plan(path) for path in sorted(folder.glob("*.json"))}
    if not plans:
        raise FileNotFoundError(f"{folder.name}: no static plans; python -m papers.skipgpt.routers_smollm2 --plans")
    return plans


def static(target: float, size: str = "cpu") -> dict:
    """Training-free plans at the same module sparsity (blocks: the largest number that does not exceed it)."""
    model, ids, results = smollm2().model, windows_of(SIZES[size]), {}
    state = apply_skipgpt(model, SkipGPTConfig()).set_mode("skip")
    try:
        for plan in static_plans(target).values():
            state.policy = plan.policy()
            row = window_losses(model, state, ids) | {"dropped": [list(unit) for unit in plan.dropped]}
            results[f"{plan.label}, {len(plan.dropped)} of 60 modules"] = row
    finally:
        remove_skipgpt(model)
    return results


def real_data(method: str, target: float = 0.25, size: str = "cpu") -> dict:
    """WikiText-2 and PTB, and four lm-eval tasks, from NINEFOLD_DATA. method: "dense", "routers", "matched random" or "static"."""
    loaded, n = smollm2(), SIZES[size]
    model, state = loaded.model, None
    if method != "dense":
        model, state = _routed(target)
        state.set_mode("skip")
        if method == "static":
            state.policy = static_plans(target)[BEST_STATIC[target]].policy()
        if method == "matched random":
            per_layer = window_losses(model, state, windows_of(n))["per_layer"]
            state.policy = baselines.random_matched(torch.tensor(per_layer), 0)
        state.start_recording()
    try:
        result: dict = {"perplexity": {}}
        for name in ("wikitext2", "ptb"):
            text = read_text(name)
            ids = loaded.tokenizer(text.text, return_tensors="pt")["input_ids"][0]
            perplexity = token_perplexity(model, ids[: n.text_windows * n.text], n.text, 4)
            result["perplexity"][name] = perplexity | {"text": text.definition, "tokens_of_text": len(ids)}
        tasks = [f"{task}_local" for task in ("piqa", "arc_easy", "winogrande", "lambada_openai")]
        result["tasks"] = language.evaluate(model, loaded.tokenizer, tasks, limit=n.items, batch_size=8)
        return result | (rates(state) if state is not None else {})
    finally:
        if state is not None:
            remove_skipgpt(model)
