"""What ViCA saves in time, beside the most that it could save (spec 7.4, E4).

One prefill, the same weights for all, logits of the last position only, every input on the device before the clock runs:

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
Decoding is timed apart, for a prefill speed-up is no generation speed-up. A speed-up above its bound means that the
baseline is handicapped, and is flagged like every other thing that cannot be right.

`measure` saves after each case and goes on from what it saved. `python -m papers.vica.speed` prints the table for the
shape of SmolLM2-135M, with --device cuda for LLaVA-1.5-7B in bf16.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from common.flops import counted, device_name, interleaved_timings, paired_ratio, peak_memory, spread
from common.jobs import write_json
from common.models import ModelSpec, load
from common.multimodal import Layout, split

from . import analytic, method, reference
from .analytic import Shape

N_VISUAL = 576
FEWEST = 5  # rounds; a case that has no time for as many is not run
TOLERANCE = 1.1  # above its bound by more than this, a speed-up is not believed (spec 7.4)
PRUNED = (64, 32)
PAIRS = [("dense", "vica"), ("dense", "vica warm"), ("dense", "vica frozen"), ("dense", "vica frozen warm"),
         ("dense", "text only"), ("vica", "text only"), ("dense", "dense 64"), ("dense", "dense 32"), ("masked", "vica")]
SOURCES = ("speed.py", "method.py", "reference.py", "analytic.py")
GRAPH = ", graph"
CLAIMED = {1: 3.5, 8: 10.0}  # batch -> speed-up (spec C3, C4)


@dataclass(frozen=True)
class Case:
    """`batch` rows of `prefix` tokens, an image of `visual` tokens and `suffix` tokens. decode: steps timed after it."""

    batch: int
    prefix: int
    suffix: int
    visual: int = N_VISUAL
    decode: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"B={self.batch} P={self.prefix} Q={self.suffix}"

    @property
    def text(self) -> int:
        return self.prefix + self.suffix


@dataclass(frozen=True)
class Size:
    """What `measure_cpu` times: one case at a shape with these cross layers, at most `repeats` rounds."""

    shape: Shape
    layers: tuple[int, ...]
    case: Case
    repeats: int


# cpu: the shape of SmolLM2-135M, 8 of its 30 layers, 35 + 576 + 27 tokens (spec 8.2, E4). smoke: every variant, in a second.
SIZES = {
    "smoke": Size(Shape("three small layers", 32, 64, 3, 4, 2, 8, 96), (0, 2), Case(1, 3, 2, visual=72, decode=(1, 2)), repeats=3),
    "cpu": Size(analytic.SMOLLM2_135M, method.PAPER_CROSS_LAYERS["llava-1.5-7b"], Case(1, 35, 27, decode=(1, 16)), repeats=20),
}


def _as_json(case: Case) -> dict[str, Any]:
    return asdict(case) | {"decode": list(case.decode)}


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


class Room(DynamicLayer):
    """A layer of a stock cache, but what is added goes into room kept for it: the stock one copies all of itself at each
    step, which would cost the dense model, whose cache is larger, more than it needs to."""

    def __init__(self, layer: DynamicLayer, more: int):
        super().__init__()
        self.room = [torch.cat([a, a.new_empty(*a.shape[:2], more, a.shape[3])], 2) for a in (layer.keys, layer.values)]
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True
        self.keys, self.values = (a[:, :, : layer.keys.shape[2]] for a in self.room)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        self.room[0][:, :, start:end], self.room[1][:, :, start:end] = key_states, value_states
        self.keys, self.values = (a[:, :, :end] for a in self.room)
        return self.keys, self.values


def stock_and_ours(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The model untouched, and a twin that shares its weights and has ViCA's attention set once, not at every call."""
    ours = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    ours.set_attn_implementation(method.PREFIX + "sdpa")
    return model, ours


def prefill(model: nn.Module, config: method.ViCAConfig, x: Inputs, kv: method.VisualKV | None = None):
    """ViCA on a case, its cache filled; kv: a picture that was seen before."""
    image = dict(visual_kv=kv) if kv else dict(visual=x.visual, visual_positions=x.layout.visual_positions)
    return method.forward(model, config, x.text, x.layout.positions, past_key_values=method.ViCACache(), logits_to_keep=1, **image)


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
    return fns | {f"dense {n}": dense(n) for n in PRUNED if n < case.visual}, kv.bytes()


def cache_bytes(cache) -> int:
    """Bytes of keys and values that a stock cache holds."""
    return sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))


def in_graph(fn: Callable[[], Any], pool) -> Callable[[], Any]:
    """fn as one CUDA graph. Graphs of a case share their memory: what one leaves is never read after another."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        fn()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        fn()
    return graph.replay


# -- one case ----------------------------------------------------------------------------------------------
@torch.no_grad()
def run_case(models: tuple[nn.Module, nn.Module], shape: Shape, case: Case, layers: Sequence[int], *, repeats: int, warmup: int, seed: int,
             seconds: float, vision: dict[str, Callable] | None, clock: Callable[[], float]) -> dict[str, Any]:
    """Counts, then times; fewer than `repeats` rounds (but FEWEST) to stay within `seconds`. Returns JSON values, seconds.

    vision: more functions of the batch, timed in the same rounds. The pass that counts warms up as well.
    """
    device, began = models[0].device, clock()
    fns, visual_bytes = variants(models, case, layers, seed)
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
    fns |= vision or {}
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
        torch.cuda.synchronize(device)
    start = clock()
    for fn in fns.values():
        fn()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    a_round = max(clock() - start, 1e-9)
    more = min(max(warmup - 2, 0), int(seconds / 4 / a_round))
    rounds = max(min(repeats, int((seconds - (clock() - began)) / a_round) - more), min(repeats, FEWEST))
    timings = interleaved_timings(fns, more, rounds, device, seed, clock)
    for name, timing in timings.items():
        rows.setdefault(name, {}).update({k: timing[k] for k in ("median", "iqr", "times")})
    return _as_json(case) | {
        "text": case.text, "difference": apart, "rounds": rounds, "variants": rows, "no_graph": no_graph,
        "ratios": {pair: ratio | {"bound": bound(shape, case, *variants, layers)} for pair, variants, ratio in ratios(timings)},
        "load_average": max(t["load_average"] for t in timings.values()), "round_seconds": a_round,
        "decoding": decoding(models, case, layers, seed, clock) if case.decode else {}, "seconds": clock() - began}


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
    if name.startswith("vica"):  # a frozen prefix is computed like any other and then left out
        return case.batch * (analytic.prefill_flops(shape, n, text, len(layers), warm=name.endswith("warm")) + head)
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
    wait = torch.cuda.synchronize if stock.device.type == "cuda" else (lambda: None)
    kv = method.compute_visual_kv(ours, x.visual, x.layout.visual_positions, layers)

    def dense(visual: int):
        cache = stock(inputs_embeds=x.joined(visual), use_cache=True, logits_to_keep=1).past_key_values
        return cache, lambda step: stock(inputs_embeds=x.next, past_key_values=cache, use_cache=True)

    def vica():
        cache = prefill(ours, config, x, kv).past_key_values
        at = [x.layout.positions[:, -1:] + 1 + step for step in range(max(case.decode))]
        return cache, lambda step: method.forward(ours, config, x.next, at[step], visual_kv=kv, past_key_values=cache)

    ways = {"dense": lambda: dense(case.visual), "vica": vica, "text only": lambda: dense(0)}
    taken: dict[str, dict[int, list[float]]] = {name: {n: [] for n in case.decode} for name in ways}
    for number in range(-1, rounds):  # round -1 warms up
        for name, way in ways.items():
            cache, step = way()
            cache.layers[:] = [Room(layer, max(case.decode)) for layer in cache.layers]
            wait()
            began = clock()
            for n in range(max(case.decode) if number >= 0 else 1):
                step(n)
                if n + 1 in case.decode:
                    wait()
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
    found = {}
    for update in ("full", "frozen"):
        vica = method.ViCAConfig((0,), update)
        ours = method.forward(model, vica, text, layout.positions, layout.real, visual, layout.visual_positions,
                              layout.visual_real).logits
        theirs = reference.masked_reference(model, vica, layout, visual)
        found[update] = float((ours - theirs)[layout.real].abs().max() / theirs[layout.real].abs().max())
    return found


# -- all cases ---------------------------------------------------------------------------------------------
def measure(shape: Shape, layers: Sequence[int], cases: Sequence[Case], *, device: str, dtype: str, repeats: int = 10,
            warmup: int = 2, seed: int = 0, time_limit: float = 60.0, out: Path | None = None, vision: bool = False,
            config: dict | None = None, say: Callable[[str], None] = print,
            clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """A JSON document: "settings", "cases" {name: see run_case}, "agreement", "not_run", "flags", "met".

    layers: cross layers. repeats: rounds at most; a case gets what the time allows, at least FEWEST, the smallest case in any
    case. vision: also time CLIP ViT-L/14-336 and the projector. out: JSON file, written whole after each case; cases in it
    of the same settings and sources are not run again. config: of the model, if not the shape's own.
    """
    config = config or config_of(shape)
    models = stock_and_ours(load(ModelSpec("random", config=config, device=device, dtype=dtype, seed=seed)).model)
    digest = hashlib.sha256(b"".join((Path(__file__).parent / f).read_bytes() for f in SOURCES))
    settings = {"shape": shape.name, "device": device_name(device), "dtype": dtype, "layers": list(layers), "seed": seed,
                "repeats": repeats, "warmup": warmup, "threads": torch.get_num_threads(), "torch": torch.__version__,
                "transformers": transformers.__version__, "sources_sha256": digest.hexdigest()}
    done, began = _finished(out, settings, cases, say), clock()
    document: dict[str, Any] = {"settings": settings, "cases": done, "not_run": [], "agreement": agreement(config, device, seed)}
    reasons: dict[Case, str] = {}
    a_flop = 0.0  # seconds of a round for each FLOP of dense prefill, as seen so far

    def save() -> None:
        document.update(flags=flags(document), met=met(document), seconds=clock() - began)
        if out is not None:
            write_json(out, document)

    while pending := [c for c in cases if c.name not in done and c not in reasons]:
        case = min(pending, key=lambda c: expected_flops(shape, c, "dense", layers))
        work = {c: expected_flops(shape, c, "dense", layers) for c in pending}
        left = time_limit - (clock() - began)
        if a_flop and (need := a_flop * work[case] * (FEWEST + 2)) > left:
            reasons |= {c: f"needs about {need:.0f} s or more, {max(left, 0):.0f} s of {time_limit:.0f} s were left" for c in pending}
            break
        try:
            towers = tower(case.batch, models[0]) if vision else None
            result = run_case(models, shape, case, layers, repeats=repeats, warmup=warmup, seed=seed, vision=towers, clock=clock,
                              seconds=left * work[case] / sum(work.values()))
        except torch.cuda.OutOfMemoryError:
            reasons[case] = "out of device memory"
        if case in reasons:  # here the exception no longer holds the tensors
            torch.cuda.empty_cache()
            continue
        a_flop = result["round_seconds"] / work[case]
        done[case.name] = result
        save()
        say(f"  {case.name}: {result['rounds']} rounds in {result['seconds']:.0f} s, dense / vica "
            f"{result['ratios']['dense / vica']['median']:.2f}")
    document["not_run"] = [{"case": c.name, "reason": why} for c, why in reasons.items()]
    save()
    return document


def _finished(out: Path | None, settings: dict, cases: Sequence[Case], say: Callable[[str], None]) -> dict[str, dict]:
    """Cases of an earlier run with the same settings; {} if there are none."""
    if out is None or not out.exists():
        return {}
    try:
        document = json.loads(out.read_text())
        same, old = document["settings"] == settings, document["cases"]
    except (ValueError, KeyError, TypeError):
        say(f"  {out.name} is damaged; measuring everything anew")
        return {}
    if not same:
        say(f"  {out.name} is of other settings or other code; measuring everything anew")
        return {}
    wanted = {c.name: _as_json(c) for c in cases}
    old = {n: r for n, r in old.items() if n in wanted and wanted[n].items() <= r.items()}
    say(f"  {len(old)} of {len(cases)} cases are in {out.name} already")
    return old


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


# -- what to make of it ------------------------------------------------------------------------------------
def flags(document: dict[str, Any]) -> list[str]:
    """What cannot be right: in words, [] if nothing."""
    found = [f"suspicious: ViCA with {update} prefix and its masked definition differ by {100 * gap:.2g} % of the largest logit"
             for update, gap in document["agreement"].items() if not gap < 1e-3]
    near = 0.1 if document["settings"]["dtype"] == "bfloat16" else 1e-3
    for name, case in document["cases"].items():
        if not case["difference"] < near:
            found.append(f"suspicious: {name}: logits of ViCA and of its masked definition are {100 * case['difference']:.2g} % apart")
        for variant, row in case["variants"].items():
            if row.get("flops") != row.get("expected_flops"):
                found.append(f"suspicious: {name}, {variant}: {row['flops']} FLOPs executed, not {row['expected_flops']}")
        for pair, ratio in case["ratios"].items():
            if pair.startswith("dense") and ratio["median"] > TOLERANCE * ratio["bound"]:
                found.append(f"suspicious: {name}: {pair} is {ratio['median']:.2f}x, but at most {ratio['bound']:.2f}x is possible: "
                             "the dense baseline is handicapped")
            if pair == "masked / vica" and ratio["median"] < 1:
                found.append(f"slower than the masked definition: {name}: {ratio['median']:.2f}x")
    return found


def met(document: dict[str, Any]) -> list[str]:
    """Whether the paper's speed-ups are met here, at which length of text, in words; only batches that it names."""
    found = []
    for case in document["cases"].values():
        modes = [f"dense / vica{GRAPH}", f"dense / vica frozen{GRAPH}"]
        if case["batch"] not in CLAIMED or modes[0] not in case["ratios"]:
            continue
        best = max((m for m in modes if m in case["ratios"]), key=lambda m: case["ratios"][m]["median"])
        value, claimed = case["ratios"][best]["median"], CLAIMED[case["batch"]]
        found.append(f"{'met' if value > claimed else 'not met'}: more than {claimed}x at batch {case['batch']}: {value:.2f}x of at "
                     f"most {case['ratios'][best]['bound']:.2f}x ({best}) with {case['text']} text tokens")
    return found


def table(document: dict[str, Any]) -> Iterator[str]:
    """The document as text: every case, what was not run, flags, the paper's speed-ups."""
    of = document["settings"]
    yield f"Prefill, {of['shape']}'s dimensions, {len(of['layers'])} layers look, {of['dtype']}, random weights, {of['device']}"
    for case in document["cases"].values():
        yield from lines(case)
    for entry in document["not_run"]:
        yield f"  not run: {entry['case']}: {entry['reason']}"
    yield from (f"  FLAG: {flag}" for flag in document["flags"])
    yield from (f"  {text}" for text in document["met"])


def lines(case: dict[str, Any]) -> Iterator[str]:
    """One case: times and KV bytes, speed-ups with their bounds, decoding."""
    rows = case["variants"]
    yield (f"  B={case['batch']} P={case['prefix']} N={case['visual']} Q={case['suffix']}, {case['rounds']} rounds, ms: " +
           ", ".join(f"{name} {1e3 * row['median']:.1f}" for name, row in rows.items()))
    yield "    times faster (of at most, by FLOPs): " + ", ".join(
        f"{pair} {r['median']:.2f} ({r['bound']:.2f})" for pair, r in case["ratios"].items())
    yield "    KV cache, MiB: " + ", ".join(f"{name} {row['kv_bytes'] / 2**20:.1f}" for name, row in rows.items()
                                           if "kv_bytes" in row and "warm" not in name)
    if case["decoding"]:
        yield "    decoding, ms a token: " + "; ".join(
            f"{name} " + ", ".join(f"{1e3 * t['median']:.1f} over {n}" for n, t in by_length.items())
            for name, by_length in case["decoding"].items())
    if case["no_graph"]:
        yield "    no CUDA graph: " + "; ".join(f"{name}: {why}" for name, why in case["no_graph"].items())


# -- what the rungs ask for --------------------------------------------------------------------------------
def config_of(shape: Shape) -> dict[str, Any]:
    """The Llama config of a shape, for random weights."""
    return dict(model_type="llama", hidden_size=shape.d, intermediate_size=shape.m, num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head,
                vocab_size=shape.vocabulary, tie_word_embeddings=False, max_position_embeddings=4096)


def measure_cpu(time_limit: float = 60.0, out: Path | None = None, say: Callable[[str], None] = print, size: str = "cpu") -> dict[str, Any]:
    """One case of SIZES in fp32."""
    of = SIZES[size]
    return measure(of.shape, of.layers, [of.case], device="cpu", dtype="float32", repeats=of.repeats, time_limit=time_limit, out=out,
                   say=say)


def measure_gpu(out: Path | None = None, say: Callable[[str], None] = print, time_limit: float = 540.0) -> dict[str, Any]:
    """The decoder of LLaVA-1.5-7B in bf16, random weights, the grid of spec 7.4. Raises RuntimeError without a CUDA device.

    out: a folder for speed.json, kept and continued.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device: the rung gpu-random-weights times a model of real size on one GPU with 80 GB; on the "
                           "CPU use --device cpu")
    cases = [Case(batch, prefix, suffix, decode=(1, 16, 128) if suffix == 27 else ())
             for batch in (1, 8, 16, 32) for prefix, suffix in ((1, 29), (35, 27), (35, 65), (35, 262))]
    return measure(analytic.LLAVA_7B, method.PAPER_CROSS_LAYERS["llava-1.5-7b"], cases, device="cuda", dtype="bfloat16", repeats=50,
                   warmup=10, vision=True, time_limit=time_limit, out=None if out is None else out / "speed.json", say=say)


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """What fits into one line of JSON."""
    def each(what: str) -> dict[str, dict[str, float]]:
        return {name: {pair: round(r[what], 3) for pair, r in case["ratios"].items()} for name, case in document["cases"].items()}

    return {"device": document["settings"]["device"], "shape": document["settings"]["shape"], "speedups": each("median"),
            "bounds": each("bound"), "not_run": [entry["case"] for entry in document["not_run"]], "flags": document["flags"]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prefill and decoding of ViCA, dense and text only: time beside FLOPs.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--time-limit", type=float, help="seconds of measurement (60; 540 on CUDA)")
    parser.add_argument("--out", type=Path, help="JSON file (a folder on CUDA), kept and continued")
    options = parser.parse_args(argv)
    try:
        if options.device == "cuda":
            document = measure_gpu(options.out, print, options.time_limit or 540.0)
        else:
            print(f"{torch.get_num_threads()} threads; load average {os.getloadavg()[0]:.1f}")
            document = measure_cpu(options.time_limit or 60.0, options.out)
    except RuntimeError as error:
        print(f"vica speed: {error}", file=sys.stderr)
        return 2
    print("\n".join(table(document)))
    print(json.dumps(summary(document)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
