"""Tier B: a real pretrained model, SmolLM2-135M-Instruct, with the committed routers.

The routers in `routers/` come from `routers_smollm2.py`, a folder for each training. Here they are loaded next to the packaged
weights, run with real skipping, and compared on prose that neither training nor calibration saw, each window from a document of
its own: with the dense model, with random routing at the router's own rate of every module, with one uniform rate, and with
every static plan at the same module sparsity. All of it on the same windows, so that differences are paired, and in float32:
bfloat16 is 2.5 times as fast on a processor with units for it and a third as fast on one without, and a word should depend on
neither. `jobs` and `real_jobs` list what is run, by functions that are one job each; how much each measures stands in `SIZES`.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor, nn

from common.benchmarks import language
from common.benchmarks.perplexity import token_perplexity
from common.data.prose import document_windows, library, texts_sha256, topics
from common.data.text import read_text
from common.files import data_file
from common.models import SMOLLM2, Loaded, ModelSpec, load
from common.runs.jobs import Job

from .. import baselines, static_pruning
from ..analytic import SMOLLM2_135M
from ..method import RoutingState, SkipGPTConfig, apply_skipgpt, remove_skipgpt
from ..router_files import ROUTERS, committed, committed_seeds, load_routers
from ..tuning import token_losses

TARGETS = (0.25, 0.40)
LENGTH = 128  # tokens of the windows that routers and plans learned from, and of those of the test
CLAIMED = 0.25  # the target whose claims read positions
REAL_FILES = ("text/wikitext2_word.test.txt", "text/ptb.test.txt", "text/piqa.jsonl", "text/arc_easy.jsonl", "text/winogrande.jsonl",
              "text/lambada_openai.jsonl")  # fmt: skip
BEST_STATIC = {0.25: "shortgpt", 0.40: "greedy-drop"}  # of the committed plans, on held-out prose: what `static` measures


@dataclass(frozen=True)
class Size:
    """How much is measured. Lengths are in tokens; every window is of another document."""

    length: int  # of the test windows
    test_windows: int
    long: int  # length of the windows in which positions are looked at
    long_windows: int
    seen: int  # how often a token must occur to be listed by its execution rate
    text: int  # length of the windows of real texts
    text_windows: int
    items: int  # of each real task
    guard: float  # a score is not printed as one of "T" when the realised sparsity is further off
    share: float  # of the seconds that a job takes in the default run


SIZES = {
    "cpu": Size(length=LENGTH, test_windows=32, long=384, long_windows=32, seen=20, text=512, text_windows=48,
                items=300, guard=0.02, share=1.0),
    "smoke": Size(length=20, test_windows=2, long=40, long_windows=2, seen=2, text=32, text_windows=1, items=2,
                  guard=1.0, share=0.03),  # routers of another model
}


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server, and only order the work and estimate the rest. The dense model comes
    first: it expands the packed weights if nobody has yet (half a minute), and two at once would need twice the memory."""

    def job(name: str, function: str, seconds: float, after: tuple[str, ...] = ("tier_b/dense",), **arguments) -> Job:
        return Job(f"tier_b/{name}", f"{__name__}:{function}", {"size": size, **arguments}, seconds=seconds * SIZES[size].share,
                   after=after)

    listed = [job("dense", "dense", 40, after=()), job(f"positions at {CLAIMED:.2f}", "positions_and_tokens", 12, target=CLAIMED)]
    for target in TARGETS:
        listed.append(job(f"static at {target:.2f}", "static", 20, target=target))
        for seed in committed_seeds(target):
            listed.append(job(f"routers at {target:.2f}/seed{seed}", "learned", 18, target=target, seed=seed))
    return listed


def extra_jobs(size: str = "cpu") -> list[Job]:
    """What no claim reads: gates that are drawn in evaluation, too, of the first training at each target."""
    return [Job(f"tier_b/sampled at {target:.2f}", f"{__name__}:sampled", {"target": target, "size": size}, seconds=8 * SIZES[size].share)
            for target in TARGETS]


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
def smollm2(size: str = "cpu") -> Loaded:
    """The packaged model in float32; in the smoke run one of its shape with random weights, which nobody has to expand first."""
    if size != "smoke":
        return load(replace(SMOLLM2, dtype="float32", attn_implementation="sdpa"))
    config = SMOLLM2_135M.config(max_position_embeddings=512)
    return load(ModelSpec("random", config=config, attn_implementation="sdpa"))._replace(tokenizer=Letters())


class Letters:
    """A tokenizer for the smoke run: a token is a byte."""

    def __call__(self, text: str, add_special_tokens: bool = True, **options) -> dict:
        return {"input_ids": list(text.encode())}

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


@functools.cache
def documents() -> tuple[str, ...]:
    """Prose that neither training nor calibration saw: the test pages of Python's manual, and the standard library's docstrings."""
    return (*topics()["test"], *library()["test"])


@functools.lru_cache(maxsize=4)
def held_out(length: int, count: int, size: str = "cpu") -> tuple[Tensor, list[int]]:
    """Windows (N, length) and the number of each one's document: one of a document, of `count` documents."""
    rows, numbers = document_windows(documents(), smollm2(size).tokenizer, length)
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count].sort().values
    return rows[chosen], [numbers[i] for i in chosen]


def check_budget(realised: float, requested: float, what: str, guard: float = SIZES["cpu"].guard) -> None:
    """Refuses a score at another sparsity than asked for (spec 10, test 15)."""
    if abs(realised - requested) > guard:
        raise BudgetMissed(f"{what}: realised module sparsity {realised:.3f}, requested {requested:.3f}: more than {guard:.0%} "
                           "apart, so the score would be compared at unequal budgets. Hold the budget again "
                           "(tuning.hold_budget) or ask for the realised one.")


@torch.no_grad()
def window_losses(model: nn.Module, state: RoutingState | None, ids: Tensor) -> dict:
    """{"ce", "windows": mean nats of each window}, and of a routed model the realised rates, also of each window."""
    if state is not None:
        state.start_recording()
    losses, skipped = [], []
    for rows in ids.split(8):
        losses += token_losses(model.eval(), rows).mean(1).tolist()
        if state is not None:
            skipped += (1 - torch.stack([torch.stack(pair) for pair in state.gates]).mean((0, 3))).T.tolist()  # (B, 2)
    result = {"ce": fmean(losses), "windows": losses}
    if state is not None:
        stats = state.stats()
        attn, mlp = zip(*skipped)
        result |= rates(state) | {"per_layer": stats.per_layer.tolist(), "tokens": stats.n_tokens, "attn skip by window": attn,
                                  "mlp skip by window": mlp}
    return result


def rates(state: RoutingState) -> dict[str, float]:
    """What was skipped since the recording began."""
    stats = state.stats()
    return {"attn_skip": stats.attn_skip, "mlp_skip": stats.mlp_skip, "sparsity": stats.sparsity}


def windows_of(size: str) -> Tensor:
    return held_out(SIZES[size].length, SIZES[size].test_windows, size)[0]


def _routed(target: float, seed: int = 0, size: str = "cpu") -> tuple[nn.Module, RoutingState]:
    model = smollm2(size).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if size == "smoke" else "default")  # that these routers are another model's
        state = load_routers(model, committed(target, seed), allow_other_base=size == "smoke")
    model.requires_grad_(False)
    return model.eval(), state


# -- the jobs ----------------------------------------------------------------------------------------------
def dense(size: str = "cpu") -> dict:
    loaded, n = smollm2(size), SIZES[size]
    ids, numbers = held_out(n.length, n.test_windows, size)
    text = {"name": "test pages of pydoc-topics, docstrings of the standard library", "sha256": texts_sha256(documents()),
            "documents": len(set(numbers)), "version": topics().source["version"]}
    return window_losses(loaded.model, None, ids) | {"documents": numbers, "model": loaded.source, "text": text}


def learned(target: float, seed: int, size: str = "cpu") -> dict:
    """One training's routers: skip mode, decided by argmax; and the same budget without a router: its rates of every module drawn
    per token, twice, and one rate for everything."""
    n, (model, state) = SIZES[size], _routed(target, seed, size)
    try:
        ids = windows_of(size)
        result = {"skip": window_losses(model, state.set_mode("skip"), ids)}
        check_budget(result["skip"]["sparsity"], target, f"routers at {target:.0%}", n.guard)
        per_layer = torch.tensor(result["skip"]["per_layer"])
        for name, policy in (("matched", baselines.random_matched(per_layer, 2 * seed)),
                             ("matched again", baselines.random_matched(per_layer, 2 * seed + 1)),
                             ("uniform", baselines.random_uniform(result["skip"]["sparsity"], seed))):
            state.policy = policy
            result[name] = window_losses(model, state, ids)
            check_budget(result[name]["sparsity"], target, f"{name} random routing at {target:.0%}", n.guard)
        return result
    finally:
        remove_skipgpt(model)


def sampled(target: float, size: str = "cpu") -> dict:
    """The first training's routers with gates drawn in evaluation, as the official code does, instead of decided by argmax."""
    model, state = _routed(target, size=size)
    try:
        state.set_mode("skip").config = SkipGPTConfig(**{**state.config.to_dict(), "eval_sampling": True})
        state.generator = torch.Generator().manual_seed(0)
        return window_losses(model, state, windows_of(size))
    finally:
        remove_skipgpt(model)


def positions_and_tokens(target: float, size: str = "cpu") -> dict:
    """The first training's routers: execution along long windows, per quarter of each, and of the most and least executed tokens."""
    n, (model, state) = SIZES[size], _routed(target, size=size)
    ids, numbers = held_out(n.long, n.long_windows, size)
    state.set_mode("skip")  # the gates of mode "mask", in less time
    executed = []
    try:
        with torch.no_grad():
            for rows in ids.split(4):
                model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False, logits_to_keep=1)
                executed.append(torch.stack([torch.stack(pair) for pair in state.gates]).mean(0))  # (2, B, S)
    finally:
        remove_skipgpt(model)
    executed, tokenizer = torch.cat(executed, 1), smollm2(size).tokenizer
    quarter, tokens = n.long // 4, []
    for token in ids.unique().tolist():
        where = ids == token
        if (count := int(where.sum())) >= n.seen:
            attn, mlp = executed[:, where].mean(1).tolist()
            tokens.append([tokenizer.decode([token]), count, attn, mlp])
    tokens.sort(key=lambda row: row[2])
    # Without the first token, an attention sink. Odd and even positions are parts that mean nothing.
    parts = {"first quarter": slice(1, quarter), "last quarter": slice(-quarter, None), "odd": slice(1, None, 2), "even": slice(2, None, 2)}
    return {
        "documents": numbers,
        "position": {"attn": executed[0].mean(0).tolist(), "mlp": executed[1].mean(0).tolist()},
        "tokens": {"least attention": tokens[:12], "most attention": tokens[-12:]},
    } | {name: executed[:, :, part].mean(-1).tolist() for name, part in parts.items()}


def static_plans(target: float) -> dict[str, static_pruning.StaticPlan]:
    """The committed plans at this module sparsity: {file name: plan}. `routers_smollm2 --plans` calibrated them."""
    folder = ROUTERS / f"static-t{round(100 * target)}"
    plans = {path.stem: static_pruning.read_plan(path) for path in sorted(folder.glob("*.json"))}
    if not plans:
        raise FileNotFoundError(f"{folder.name}: no static plans; python -m papers.skipgpt.routers_smollm2 --plans")
    return plans


def static(target: float, size: str = "cpu") -> dict:
    """Training-free plans at the same module sparsity (blocks: the largest number that does not exceed it)."""
    model, ids, results = smollm2(size).model, windows_of(size), {}
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
    loaded, n = smollm2("cpu"), SIZES[size]  # tasks need the real tokenizer, also in the smoke run
    model, state = loaded.model, None
    if method != "dense":
        model, state = _routed(target)
        state.set_mode("skip")
        if method == "static":
            state.policy = static_plans(target)[BEST_STATIC[target]].policy()
        if method == "matched random":
            per_layer = window_losses(model, state, held_out(n.length, n.test_windows)[0])["per_layer"]
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
