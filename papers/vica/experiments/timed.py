"""One prefill, timed in all the ways that it can be run, beside the most that each could save (spec 7.4, E4).

The same weights for all, logits of the last position only, every input on the device before the clock runs:

    dense              stock decoder over prefix, image and suffix: S = N + T tokens, its causal kernel
    vica               text only, visual K/V projected inside the timed region: a "cold" image
    vica warm          the same with those K/V at hand: a later question about the same image
    vica frozen        attention of the prefix switched off, as in the paper's 7B model; also warm
    text only          no image: the lower bound of any visual method
    masked             the definition, on all S tokens with masks: must not be faster than dense
    dense 64, dense 32 dense with as many visual tokens: what token pruning could reach at best

Rounds are interleaved, so that a speed-up is a median over rounds, and stands beside its bound, the ratio of FLOPs
(analytic.py). On CUDA each variant is also replayed as one graph: at batch 1 a loop of launches hides what a GPU could
do, and the paper's figures come from a GPU that was the limit (A6000; the two cannot be converted into each other).
Decoding is timed apart, for a prefill speed-up is no generation speed-up.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.flops import counted
from common.models import ModelSpec, load
from common.timing.clock import in_graph, paired_ratio, peak_memory, spread, timings_within, wait
from common.timing.decoding import Room, cache_bytes
from common.vision.layout import Layout, split

from .. import analytic, method, reference
from ..analytic import Shape

N_VISUAL = 576
PRUNED = (64, 32)
PAIRS = [("dense", "vica"), ("dense", "vica warm"), ("dense", "vica frozen"), ("dense", "vica frozen warm"),
         ("dense", "text only"), ("vica", "text only"), ("dense", "dense 64"), ("dense", "dense 32"), ("masked", "vica")]
GRAPH = ", graph"


@dataclass(frozen=True)
class Case:
    """`batch` rows of `prefix` tokens, an image of `visual` tokens and `suffix` tokens. decode: steps timed after it. only: names of
    the variants that are timed; () for all."""

    batch: int
    prefix: int
    suffix: int
    visual: int = N_VISUAL
    decode: tuple[int, ...] = ()
    only: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"B={self.batch} P={self.prefix} Q={self.suffix}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"decode": list(self.decode), "only": list(self.only)}

    @property
    def text(self) -> int:
        return self.prefix + self.suffix


@dataclass(frozen=True)
class Run:
    """Where, in which precision, and for how long. repeats: rounds of a case at most. warmup: passes before them. time_limit: seconds
    of all cases together. vision: also time the vision tower and the projector."""

    device: str
    dtype: str
    repeats: int = 10
    warmup: int = 2
    seed: int = 0
    time_limit: float = 60.0
    vision: bool = False


# -- what is timed -----------------------------------------------------------------------------------------
class Inputs:
    """Random tokens of a case: layout, text (B, T, d) and visual (B, N, d) embeddings, next (B, 1, d) for decoding."""

    def __init__(self, model: nn.Module, case: Case, seed: int):
        self.case, draw = case, torch.Generator().manual_seed(seed)
        ids = torch.randint(model.config.vocab_size, (case.batch, case.text + 1), generator=draw)
        order = torch.arange(case.text + case.visual).expand(case.batch, -1)
        behind = case.prefix + case.visual
        positions, where = torch.cat([order[:, : case.prefix], order[:, behind:]], 1), order[:, case.prefix : behind]
        self.layout = Layout(ids[:, :-1], positions, torch.ones_like(positions, dtype=torch.bool), where.contiguous(),
                             torch.ones_like(where, dtype=torch.bool), torch.zeros_like(positions),
                             torch.full_like(positions, -100)).to(model.device)
        embed = model.get_input_embeddings()
        self.text, self.next = embed(self.layout.ids), embed(ids[:, -1:].to(model.device))
        size = case.batch, case.visual, model.config.hidden_size
        self.visual = (0.02 * torch.randn(size, generator=draw)).to(self.text)

    def joined(self, visual: int) -> Tensor:
        """(B, P + visual + Q, d): what a stock decoder is given."""
        return torch.cat([self.text[:, : self.case.prefix], self.visual[:, :visual], self.text[:, self.case.prefix :]], 1)


def stock_and_ours(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The model untouched, and a twin that shares its weights, probed for ViCA before anything is timed or counted."""
    ours = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    method.check_model(ours)
    return model, ours


def prefill(model: nn.Module, config: method.ViCAConfig, x: Inputs, kv: method.VisualKV | None = None):
    """ViCA on a case, its cache filled; kv: a picture that was seen before."""
    places = method.Places(x.layout.positions, x.layout.visual_positions, before=x.case.prefix)
    return method.forward(model, config, x.text, places, kv or x.visual, method.ViCACache(), logits_to_keep=1)


def variants(models: tuple[nn.Module, nn.Module], case: Case, layers: Sequence[int], seed: int) -> tuple[dict[str, Callable], int]:
    """({name: a prefill}, bytes of the visual K/V that ViCA keeps). Each call makes its own cache."""
    stock, ours = models
    x = Inputs(stock, case, seed)
    full, frozen = (method.ViCAConfig(tuple(layers), update) for update in ("full", "frozen"))
    kv = method.compute_visual_kv(ours, x.visual, x.layout.visual_positions, layers)

    def dense(visual: int) -> Callable:
        embeds = x.joined(visual)
        return lambda: stock(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)

    fns = {"dense": dense(case.visual), "vica": lambda: prefill(ours, full, x), "vica warm": lambda: prefill(ours, full, x, kv),
           "vica frozen": lambda: prefill(ours, frozen, x), "vica frozen warm": lambda: prefill(ours, frozen, x, kv),
           "text only": dense(0), "masked": lambda: reference.masked_reference(stock, full, x.layout, x.visual)}
    fns |= {f"dense {n}": dense(n) for n in PRUNED if n < case.visual}
    return {name: fn for name, fn in fns.items() if not case.only or name in case.only}, kv.bytes()


def tower(batch: int, model: nn.Module) -> dict[str, Callable]:
    """{"vision tower", "projector"}: CLIP ViT-L/14-336 as far as its second-last layer, and LLaVA's two-layer projector."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    size = CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
                            image_size=336, patch_size=14)
    with model.device:
        clip = CLIPVisionModel(size).to(model.dtype).eval()
        width = model.config.hidden_size
        projector = nn.Sequential(nn.Linear(1024, width), nn.GELU(), nn.Linear(width, width)).to(model.dtype)
        pixels = torch.randn(batch, 3, 336, 336, dtype=model.dtype)
        features = torch.randn(batch, N_VISUAL, 1024, dtype=model.dtype)
    return {"vision tower": lambda: clip(pixels), "projector": lambda: projector(features)}


# -- one case ----------------------------------------------------------------------------------------------
@torch.no_grad()
def run_case(models: tuple[nn.Module, nn.Module], shape: Shape, case: Case, layers: Sequence[int], run: Run, seconds: float,
             clock: Callable[[], float]) -> dict[str, Any]:
    """Counts, then times; fewer than `run.repeats` rounds (but FEWEST) to stay within `seconds`. Returns JSON values, seconds.

    The pass that counts warms up as well.
    """
    towers = tower(case.batch, models[0]) if run.vision else {}
    device, began = models[0].device, clock()
    fns, visual_bytes = variants(models, case, layers, run.seed)
    rows: dict[str, dict] = {}
    logits = {}
    for name, fn in fns.items():
        held: list = []
        executed = counted(lambda fn=fn, held=held: held.append(fn())).total
        rows[name] = {"flops": executed, "expected_flops": expected_flops(shape, case, name, layers)}
        out = held.pop()
        if name == "masked":
            logits[name] = out[:, -1].float()
            continue
        logits[name] = out.logits[:, -1].float()
        rows[name]["kv_bytes"] = cache_bytes(out.past_key_values) + visual_bytes * name.startswith("vica")
        del out
    apart = float((logits["vica"] - logits["masked"]).abs().max() / logits["masked"].abs().max())
    fns |= towers
    no_graph = {}
    if device.type == "cuda":
        for name, fn in fns.items():
            rows.setdefault(name, {})["peak_bytes"] = peak_memory(fn, device)["peak_bytes"]
        pool = torch.cuda.graph_pool_handle()
        for name, fn in [(n, f) for n, f in fns.items() if n != "masked"]:
            try:
                fns[name + GRAPH] = in_graph(fn, pool)
            except RuntimeError as error:
                no_graph[name] = str(error).splitlines()[0]
    timings, rounds, a_round = timings_within(seconds - (clock() - began), fns, run.repeats, run.warmup, device, run.seed, clock)
    for name, timing in timings.items():
        rows.setdefault(name, {}).update({k: timing[k] for k in ("median", "iqr", "times")})
    return case.as_json() | {
        "text": case.text, "difference": apart, "rounds": rounds, "variants": rows, "no_graph": no_graph,
        "ratios": {pair: ratio | {"bound": bound(shape, case, *variants, layers)} for pair, variants, ratio in ratios(timings)},
        "load_average": max(t["load_average"] for t in timings.values()), "round_seconds": a_round,
        "decoding": decoding(models, case, layers, run.seed, clock) if case.decode else {}, "seconds": clock() - began}


def ratios(timings: dict[str, dict]) -> Iterator[tuple[str, tuple[str, str], dict]]:
    """("dense / vica", the two variants, {"median", "iqr", "ratios" of each round}) of all PAIRS, as a loop and as graphs."""
    for mode in ("", GRAPH):
        for slow, fast in PAIRS:
            if slow + mode in timings and fast + mode in timings:
                yield f"{slow} / {fast}{mode}", (slow, fast), paired_ratio(timings, slow + mode, fast + mode)


def expected_flops(shape: Shape, case: Case, name: str, layers: Sequence[int]) -> int:
    """FLOPs that a variant executes (spec 7.2), for the whole batch, with the head: at the last position, or at all text slots
    of the masked definition."""
    n, text, head = case.visual, case.text, analytic.head_flops(shape, case.text if name == "masked" else 1)
    if name.startswith("vica"):  # rows of one shape: without masks, the prefix by itself (unmasked.py)
        return case.batch * (analytic.prefill_flops(shape, n, text, len(layers), prefix=case.prefix, split=True, frozen="frozen" in name,
                                                    warm=name.endswith("warm")) + head)
    visual = 0 if name == "text only" else n if name in ("dense", "masked") else int(name.removeprefix("dense "))
    return case.batch * (analytic.prefill_flops(shape, visual, text) + head)


def bound(shape: Shape, case: Case, slow: str, fast: str, layers: Sequence[int]) -> float:
    """The ratio of two variants' FLOPs by spec 7.2, the head left out."""
    def flops(name: str) -> int:
        if not name.startswith("vica"):
            return expected_flops(shape, case, name, layers) // case.batch - analytic.head_flops(
                shape, case.text if name == "masked" else 1)
        return analytic.prefill_flops(shape, case.visual, case.text, len(layers), prefix=case.prefix, frozen="frozen" in name,
                                      warm="warm" in name)

    return flops(slow) / flops(fast)


@torch.no_grad()
def decoding(models: tuple[nn.Module, nn.Module], case: Case, layers: Sequence[int], seed: int, clock: Callable[[], float],
             rounds: int = 2) -> dict[str, dict[str, dict]]:
    """{variant: {"16": {"median", "iqr", "times"}}}: seconds a token over the first 16 new tokens, as case.decode says.

    Tokens are given, not chosen; an eager loop, with caches that have room. Prefill is not in it.
    """
    (stock, ours), config = models, method.ViCAConfig(tuple(layers))
    x = Inputs(stock, case, seed)
    kv = method.compute_visual_kv(ours, x.visual, x.layout.visual_positions, layers)

    def dense(visual: int):
        cache = stock(inputs_embeds=x.joined(visual), use_cache=True, logits_to_keep=1).past_key_values
        return cache, lambda step: stock(inputs_embeds=x.next, past_key_values=cache, use_cache=True)

    def vica():
        cache = prefill(ours, config, x, kv).past_key_values
        at = [method.Places(x.layout.positions[:, -1:] + 1 + step) for step in range(max(case.decode))]
        return cache, lambda step: method.forward(ours, config, x.next, at[step], kv, cache)

    ways = {"dense": lambda: dense(case.visual), "vica": vica, "text only": lambda: dense(0)}
    taken: dict[str, dict[int, list[float]]] = {name: {n: [] for n in case.decode} for name in ways}
    for number in range(-1, rounds):  # round -1 warms up
        for name, way in ways.items():
            cache, step = way()
            cache.layers[:] = [Room.behind(layer, max(case.decode)) for layer in cache.layers]
            wait(stock.device)
            began = clock()
            for n in range(max(case.decode) if number >= 0 else 1):
                step(n)
                if n + 1 in case.decode:
                    wait(stock.device)
                    if number >= 0:
                        taken[name][n + 1].append((clock() - began) / (n + 1))
    return {name: {str(n): spread(times) | {"times": times} for n, times in by_length.items()}
            for name, by_length in taken.items()}


# -- is it the same function? ------------------------------------------------------------------------------
@torch.no_grad()
def agreement(config: dict, device: str, seed: int = 0) -> dict[str, float]:
    """{"full", "frozen"}: the largest difference of logits between ViCA and its masked definition, by the largest logit.

    Two layers of the shape in fp32, the first one a cross layer; a left-padded batch of a short prompt, a long one and one
    without image.
    """
    model = load(ModelSpec("random", config=config | {"num_hidden_layers": 2}, device=device, seed=seed)).model
    image, pad, draw = 3, 0, torch.Generator().manual_seed(seed)
    rows = [torch.cat([torch.randint(4, 60, (before,), generator=draw), torch.full((n,), image),
                       torch.randint(4, 60, (after,), generator=draw)]) for before, n, after in ((3, 32, 5), (9, 32, 12), (20, 0, 1))]
    width = max(map(len, rows))
    ids = torch.stack([torch.cat([torch.full((width - len(row),), pad), row]) for row in rows])
    layout = split(ids, image, ids != pad).to(device)
    visual = torch.randn(*layout.visual_real.shape, model.config.hidden_size, generator=draw).to(device) * 0.02
    text = model.get_input_embeddings()(layout.ids)
    gaps = {}
    for update in ("full", "frozen"):
        vica = method.ViCAConfig((0,), update)
        ours = method.forward(model, vica, text, layout, visual).logits
        theirs = reference.masked_reference(model, vica, layout, visual)
        gaps[update] = float((ours - theirs)[layout.real].abs().max() / theirs[layout.real].abs().max())
    return gaps
