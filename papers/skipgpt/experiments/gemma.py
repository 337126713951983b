"""A second real decoder, Gemma-3-270M: the routers of `routers_gemma.py`, their rivals, and what LoRA gives back.

    make reproduce-skipgpt ONLY=gemma        hours on a CPU; needs the model's packages, and routers in routers-gemma/

Everything SmolLM2 is asked at 25 %, on the documents that it is asked on, of a model that is built otherwise: sliding layers, one
key-value head, norms on queries and keys and behind each module. The committed routers are held against random routing at their own
rates, static plans, and token-blind routers of as many steps; then adapters are trained under the routers and, for control, on the
dense model with the same windows. Windows of 768 tokens show whether what was learned on 128 holds where fifteen of the eighteen
layers no longer see the beginning. Losses are in chunks, since full logits of 262,144 words take gigabytes; all in float32, but the
trainings and the calibration of plans (bfloat16). A training that was killed goes on at its checkpoint. A process takes about 4.3 GB
of memory, and a run starts one for each of two cores: 8.6 GB together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor, nn

from common import gemma
from common.data.prose import document_windows, texts_sha256, topics
from common.errors import DataError, SetupError
from common.lora import add_lora
from common.models import Loaded, ModelSpec, load
from common.runs.jobs import Job

from .. import baselines, chunked, routers_gemma, static_pruning
from ..method import RoutingState, SkipGPTConfig, apply_skipgpt, remove_skipgpt
from ..router_files import CARD, load_routers
from ..routers_gemma import ADAPTER, CALIBRATE, LORA_STEPS, STEPS, TARGET, Work, adapters_of, learned, put, routed
from ..routers_smollm2 import BATCH, cheapest
from ..tuning import hold_budget, shift_budget
from .smollm2 import LENGTH, Letters, check_budget, documents, rates

SEEDS = (0, 1, 2)  # trainings that the claims ask for
HOLD_LONG = 4  # long validation windows that the budget of long windows is held on
PLANS = (24, 8)  # windows that plans are calibrated on: by what a module turns; by what its loss costs


@dataclass(frozen=True)
class Size:
    """How much is trained and measured. Lengths are in tokens, the start token among them; every test window is of another document."""

    length: int
    test_windows: int
    long: int
    long_windows: int
    steps: int
    lora_steps: int
    batch: int
    calibrate: int
    plans: tuple[int, int]
    shortlist: int
    guard: float
    dtype: str  # of the weights beside which something is learned
    share: float  # of the seconds that a job takes in the default run


SIZES = {
    "cpu": Size(LENGTH, 32, 768, 12, STEPS, LORA_STEPS, BATCH, CALIBRATE, PLANS, 16, 0.02, "bfloat16", 1.0),
    "smoke": Size(20, 2, 40, 2, 2, 2, 2, 8, (4, 2), 2, 1.0, "float32", 0.002),  # of a tiny model whose routers learned nothing
}
TINY = dict(model_type="gemma3_text", vocab_size=258, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=1, head_dim=8, max_position_embeddings=512, initializer_range=0.2, sliding_window=16,
            query_pre_attn_scalar=8, layer_types=["sliding_attention"] * 3 + ["full_attention"], pad_token_id=0, bos_token_id=256,
            eos_token_id=257)  # fmt: skip


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one thread of a busy core, from a pilot. The dense model comes first: it expands the packed weights."""

    def job(name: str, function: str, seconds: float, after: tuple[str, ...] = ("gemma/dense",), **arguments) -> Job:
        return Job(f"gemma/{name}", f"{__name__}:{function}", {"size": size, **arguments}, seconds=seconds * SIZES[size].share, after=after)

    each = [("routers", "measured", 480), ("token-blind", "token_blind", 2700), ("recovery", "recovery", 2000)]
    return [job("dense", "dense", 180, after=()), job("static", "static", 1500),
            *(job(f"{name}/seed{seed}", function, seconds, seed=seed) for name, function, seconds in each for seed in seeds(size))]


def seeds(size: str = "cpu") -> tuple[int, ...]:
    """The trainings of which routers are committed."""
    found = (int(folder.name.removeprefix("seed")) for folder in routers_gemma.FOLDER.glob("seed*") if (folder / CARD).is_file())
    return (0,) if size == "smoke" else tuple(sorted(found))


def ready() -> None:
    """Raises ModelError without the model, SetupError without the routers of all trainings that the claims ask for."""
    gemma.ready()
    if absent := [seed for seed in SEEDS if seed not in seeds()]:
        raise SetupError(f"{routers_gemma.FOLDER.name} lacks the routers of {len(absent)} of {len(SEEDS)} trainings: run `python -m "
                         f"papers.skipgpt.routers_gemma --seed {' '.join(map(str, absent))}`, an hour of one core each")


# -- models and texts --------------------------------------------------------------------------------------
class Bytes(Letters):
    """The tokenizer of the smoke run, with a start token."""

    bos_token_id = 256


def _tiny(dtype: str) -> Loaded:
    return load(ModelSpec("random", config=TINY, attn_implementation="eager"))._replace(tokenizer=Bytes())


@functools.lru_cache(maxsize=2)
def work_of(seed: int, size: str = "cpu") -> Work:
    """Models and training text of a seed; in the smoke run a tiny model and the bytes of a few pages."""
    n = SIZES[size]
    if size != "smoke":
        return replace(routers_gemma.real_work(seed), batch=n.batch, calibrate=n.calibrate)
    train, validation = (gemma.with_start(document_windows(topics()[split], Bytes(), n.length - 1)[0][:count], Bytes())
                         for split, count in (("train", 24), ("validation", 2)))
    return Work(_tiny, train, validation, {"topics": topics().source}, seed, n.batch, n.calibrate)


def held_out(tokenizer, size: str = "cpu") -> tuple[Tensor, list[int]]:
    """Test windows (N, length) and the number of each one's document."""
    return _windows(documents(), tokenizer, SIZES[size].length, SIZES[size].test_windows)


def long_ones(tokenizer, size: str = "cpu", split: str = "test") -> Tensor:
    """Windows (N, long): one of each of some test documents, or two of a validation page, on which the budget is held for them."""
    n = SIZES[size]
    if split == "test":
        return _windows(documents(), tokenizer, n.long, n.long_windows)[0]
    return _windows(topics()[split], tokenizer, n.long, min(HOLD_LONG, n.long_windows), each=2)[0]  # two pages are long enough


def _windows(texts, tokenizer, length: int, count: int, each: int = 1) -> tuple[Tensor, list[int]]:
    """Raises DataError where texts hold fewer windows than asked for: a claim says of how many it speaks."""
    rows, numbers = document_windows(texts, tokenizer, length - 1, each)
    if len(rows) < count:
        raise DataError(f"{count} windows of {length} tokens are asked for, {each} of a document at most: these texts have {len(rows)}")
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count].sort().values
    return gemma.with_start(rows[chosen], tokenizer), [numbers[i] for i in chosen]


@torch.no_grad()
def window_losses(model: nn.Module, state: RoutingState | None, ids: Tensor) -> dict:
    """{"ce", "windows": mean nats of each window}, and of a routed model the realised rates; by chunks."""
    if state is not None:
        state.start_recording()
    losses = chunked.evaluate(model, ids, batch_size=max(1, 1024 // ids.shape[1])).mean(1).tolist()
    found = {"ce": fmean(losses), "windows": losses}
    return found if state is None else found | rates(state) | {"per_layer": state.stats().per_layer.tolist()}


def routers_on(seed: int, size: str = "cpu") -> Callable[[nn.Module], RoutingState]:
    """Puts the committed routers of a training on a stock model; in the smoke run some that know nothing."""
    if size != "smoke":
        return lambda model: load_routers(model, routers_gemma.folder_of(seed))

    def drawn(model: nn.Module) -> RoutingState:
        torch.manual_seed(seed)
        return apply_skipgpt(model, SkipGPTConfig(target_sparsity=TARGET, router_norm=True))

    return drawn


def _routed(seed: int, size: str) -> tuple[nn.Module, RoutingState, object]:
    """(model in float32 with its routers, their state, tokenizer); nothing learns."""
    loaded = work_of(seed, size).opened("float32")
    state = routers_on(seed, size)(loaded.model)
    loaded.model.requires_grad_(False)
    return loaded.model.eval(), state, loaded.tokenizer


# -- the jobs ----------------------------------------------------------------------------------------------
def dense(size: str = "cpu") -> dict:
    loaded = work_of(0, size).opened("float32")
    ids, numbers = held_out(loaded.tokenizer, size)
    text = {"name": "test pages of pydoc-topics, docstrings of the standard library", "sha256": texts_sha256(documents()),
            "documents": len(set(numbers)), "version": topics().source["version"]}
    return window_losses(loaded.model, None, ids) | {"long": window_losses(loaded.model, None, long_ones(loaded.tokenizer, size)),
                                                     "documents": numbers, "model": loaded.source, "text": text}


def measured(seed: int, size: str = "cpu") -> dict:
    """One training's routers: skip mode, decided by argmax; and the same budget without a router: its rates of every module drawn per
    token, twice, and one rate for everything. "long": on long windows, the threshold moved on long windows of other text; and the rates
    of these windows drawn, twice.

    Raises BudgetMissed for a score at another sparsity than asked for."""
    n, (model, state, tokenizer) = SIZES[size], _routed(seed, size)
    ids, long = held_out(tokenizer, size)[0], long_ones(tokenizer, size)
    result = {"skip": window_losses(model, state.set_mode("skip"), ids)}
    check_budget(result["skip"]["sparsity"], TARGET, f"routers of seed {seed}", n.guard)
    per_layer = torch.tensor(result["skip"]["per_layer"])
    for name, policy in (("matched", baselines.random_matched(per_layer, 2 * seed)),
                         ("matched again", baselines.random_matched(per_layer, 2 * seed + 1)),
                         ("uniform", baselines.random_uniform(result["skip"]["sparsity"], seed))):
        state.policy = policy
        result[name] = window_losses(model, state, ids)
        check_budget(result[name]["sparsity"], TARGET, f"{name} random routing, seed {seed}", n.guard)
    state.policy = None
    shift = _hold(model, state, long_ones(tokenizer, size, "validation"), size, batch_size=1)
    result["long"] = {"shift": shift, "skip": window_losses(model, state, long)}
    check_budget(result["long"]["skip"]["sparsity"], TARGET, f"routers of seed {seed} on long windows", n.guard)
    per_layer = torch.tensor(result["long"]["skip"]["per_layer"])
    for name, draw in (("matched", 2 * seed), ("matched again", 2 * seed + 1)):
        state.policy = baselines.random_matched(per_layer, draw)
        result["long"][name] = window_losses(model, state, long)
        check_budget(result["long"][name]["sparsity"], TARGET, f"{name} random routing, seed {seed}, on long windows", n.guard)
    return result


def static(size: str = "cpu") -> dict:
    """Training-free plans at the same module sparsity (blocks: the largest number that does not exceed it), calibrated on training
    windows that begin with the start token."""
    n, work = SIZES[size], work_of(0, size)
    plans = static_plans(work.opened(n.dtype).model, work.train[: n.plans[0]], n)
    loaded = work.opened("float32")
    ids, long = held_out(loaded.tokenizer, size)[0], long_ones(loaded.tokenizer, size)
    state, results = apply_skipgpt(loaded.model, SkipGPTConfig()).set_mode("skip"), {}
    for plan in plans:
        state.policy = plan.policy()
        results[f"{plan.label}, {len(plan.dropped)} modules"] = window_losses(loaded.model, state, ids) | {
            "long": window_losses(loaded.model, state, long), "dropped": [list(unit) for unit in plan.dropped]}
    remove_skipgpt(loaded.model)
    return results


def static_plans(model: nn.Module, windows: Tensor, n: Size) -> list[static_pruning.StaticPlan]:
    """The five of `routers_smollm2.plans`."""
    layers = len(model.get_decoder().layers)
    count, few = round(2 * layers * TARGET), windows[: n.plans[1]]
    single = static_pruning.shortened_ppl(model, few, count, units="modules")
    return [static_pruning.block_influence(model, windows, int(layers * TARGET)),
            static_pruning.joint_layer_drop(model, windows, count),
            static_pruning.attention_drop(model, windows, min(count, layers)),
            replace(single, dropped=cheapest(single.scores, count)),
            static_pruning.greedy_drop(model, few, count, shortlist=n.shortlist)]


def token_blind(seed: int, size: str = "cpu") -> dict:
    """As many steps as the routers had, of the biases alone: held at the target as far as whole modules allow; and which nobody runs."""
    n, work = SIZES[size], work_of(seed, size)
    made = learned("token-blind", work, n.steps, n.dtype)
    loaded, state = routed(work, made["tensors"])
    _hold(loaded.model, state, work.held_back, size)
    found = window_losses(loaded.model, state.set_mode("skip"), held_out(loaded.tokenizer, size)[0])
    dropped = [[layer, name] for layer, rates in enumerate(found["per_layer"]) for name, rate in zip(("attn", "mlp"), rates) if rate == 1]
    return found | {"dropped": dropped, "curve": made["curve"]}


def recovery(seed: int, size: str = "cpu") -> dict:
    """Stage 2 (section 3.6), on windows of the same text: adapters trained under the frozen routers, and the same on the dense model.
    Each routed arm is held at the target anew. "routers + dense's LoRA": what an adapter that never saw a router does under them."""
    n, work = SIZES[size], work_of(seed, size)
    made = {arm: learned(arm, work, n.lora_steps, n.dtype, routers_on(seed, size)) for arm in ("dense LoRA", "routed LoRA")}
    model, state, tokenizer = _routed(seed, size)
    ids, wrapped = held_out(tokenizer, size)[0], add_lora(model, ADAPTER)
    named, result = adapters_of(wrapped), {}
    untrained = {name: p.detach().clone() for name, p in named.items()}  # B is zero: no adapter
    for name, tensors, mode in (("dense", untrained, "dense"), ("dense + LoRA", made["dense LoRA"]["tensors"], "dense"),
                                ("routers", untrained, "mask"), ("routers + LoRA", made["routed LoRA"]["tensors"], "mask"),
                                ("routers + dense's LoRA", made["dense LoRA"]["tensors"], "mask")):
        put(tensors, named)
        state.set_mode(mode)
        if mode == "dense":
            result[name] = window_losses(wrapped, None, ids)
            continue
        shift = _hold(wrapped, state, work.held_back, size)
        result[name] = window_losses(wrapped, state, ids)
        check_budget(result[name]["sparsity"], TARGET, f"{name}, seed {seed}", n.guard)
        shift_budget(state, -shift)
    return result | {"curves": {arm: of["curve"] for arm, of in made.items()}}


def _hold(model: nn.Module, state: RoutingState, ids: Tensor, size: str, batch_size: int = 4) -> float:
    """In the smoke run, whose routers know nothing, any rate will do."""
    return hold_budget(model, state, ids, TARGET, batch_size=batch_size, tolerance=0.002 if size != "smoke" else 1.0)
