"""Prefill under VisiPruner beside a dense one by SDPA, at SmolLM2-135M's dimensions with a picture of 576 tokens, random weights.

Which tokens go is decided by the paper's averages and not by the model, whose weights mean nothing: half of the layers see all,
ten tokens stay until three quarters, then none. All that VisiPruner computes to decide is computed:

    dense       the stock decoder on all tokens, its causal kernel, outside of any session
    pruned      the session of this project: tokens leave
    masked      the same decisions, tokens stay and are hidden by masks: the definition, in its place a saving must not appear
    official    as the released code runs: attention written out in every layer, shallow weights set to zero behind the softmax; tokens
                leave behind the filter layer. (Its own arithmetic of influence, which is dearer than ours, is not restated.)

Another process gets other memory, and keeps it: a timing is of PROCESSES of them, and the rounds within one say how finely it
could be read. `python -m papers.visipruner.experiments.speed` measures once and records nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.attention import Edit, Rows
from common.flops import counted
from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.shapes import SMOLLM2_135M, Shape
from common.timing.cases import in_a_process
from common.timing.clock import facts, paired_ratio, timings_within

from .. import analytic
from ..method import VisiPrunerConfig, code_compat, paper
from ..pruners import VisiPruner
from ..session import PruningSession, View, check_model

PROCESSES = 3
PAIRS = (("dense", "pruned"), ("dense", "masked"), ("dense", "official"))


@dataclass(frozen=True)
class Size:
    """boundary, filter_layer, exit_layer: layers counted from 0, the last that are not tested, that see all, that see `kept` tokens."""

    shape: Shape
    before: int
    visual: int
    behind: int
    boundary: int
    filter_layer: int
    kept: int
    exit_layer: int
    repeats: int
    seconds: float


SIZES = {"smoke": Size(Shape(32, 64, 4, 4, 2, 8, 96, name="four small layers"), 3, 24, 2, 0, 1, 3, 2, repeats=3, seconds=1.0),
         "cpu": Size(SMOLLM2_135M, 35, 576, 27, 5, 14, 10, 21, repeats=20, seconds=15.0)}


def jobs(size: str = "cpu") -> list[Job]:
    processes = PROCESSES if size == "cpu" else 1
    return [Job(f"speed/process{i}", f"{__name__}:one_process", {"process": i, "size": size}, seconds=2 * SIZES[size].seconds)
            for i in range(processes)]


def one_process(process: int, size: str) -> dict[str, Any]:
    """`measure`, at size cpu in a process of its own."""
    return measure(size) if size == "smoke" else in_a_process(measure, size)


# -- decisions that are given ------------------------------------------------------------------------------
class Forced(VisiPruner):
    """VisiPruner that looks at every layer as it would, and then does as it is told: the first `kept` visual tokens stay behind the
    filter layer, none behind the exit layer."""

    def __init__(self, config: VisiPrunerConfig, size: Size):
        super().__init__(config.with_(layer_threshold=-1.0))  # never fires: the rule asks for every layer behind the boundary
        self.size = size

    def left(self, layer: int, view: View) -> Tensor:
        """(B, n) bool: visual tokens that go on behind a layer."""
        if layer < self.size.filter_layer:
            return view.visual
        few = view.visual & (view.visual.long().cumsum(1) <= self.size.kept)
        return few if layer < self.size.exit_layer else torch.zeros_like(few)

    def wants(self, layer: int) -> bool:
        return self.config.boundary < layer <= self.size.exit_layer

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        if rows is None:
            return None
        super().keep(layer, view, rows)
        return self.left(layer, view)


class Masked(Forced):
    """The same decisions with tokens that stay and are hidden."""

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        if rows is not None:
            super().keep(layer, view, rows)
        return None

    def edit(self, layer: int, view: View) -> Edit | None:
        if layer <= self.size.filter_layer:
            return super().edit(layer, view)
        gone = view.visual & ~self.left(layer - 1, view)
        own = torch.eye(gone.shape[1], dtype=torch.bool, device=gone.device)
        return Edit(gone[:, None, :] & ~own, "before")


# -- what is timed -----------------------------------------------------------------------------------------
def ways(model: nn.Module, size: Size) -> dict[str, Callable[[], Tensor]]:
    """{way: a prefill that gives the logits of the last token (1, V)}."""
    width, draw = size.before + size.visual + size.behind, torch.Generator().manual_seed(0)
    embeds = torch.randn(1, width, model.config.hidden_size, generator=draw).mul_(0.02).to(model.device, model.dtype)
    visual = torch.zeros(1, width, dtype=torch.bool, device=model.device)
    visual[:, size.before : size.before + size.visual] = True
    mask = torch.ones(1, width, dtype=torch.long, device=model.device)
    eager = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    eager.set_attn_implementation("eager")
    for each in (model, eager):
        check_model(each)

    def prefill(of: nn.Module) -> Tensor:
        return of(inputs_embeds=embeds, attention_mask=mask, use_cache=True, logits_to_keep=1).logits[:, -1]

    def under(of: nn.Module, pruner: Forced) -> Tensor:
        with PruningSession(of, pruner, visual):
            return prefill(of)

    plain, official = paper(boundary=size.boundary, shallow=None), code_compat(boundary=size.boundary)
    shallow = None if official.shallow is None else dataclasses.replace(official.shallow, layers=size.boundary)
    return {"dense": lambda: prefill(model), "pruned": lambda: under(model, Forced(plain, size)),
            "masked": lambda: under(model, Masked(plain, size)),
            "official": lambda: under(eager, Forced(official.with_(shallow=shallow), size))}


@torch.no_grad()
def measure(size: str = "cpu", log: Callable[[str], None] = print) -> dict[str, Any]:
    """{"settings", "flops": {way}, "ratios": {"dense / pruned": {"median", "iqr", "ratios", "bound"}}, "times": {way: seconds of each
    round}, "difference" of pruned and masked logits by the largest, "rounds", "load_average"}. The bound is the ratio of FLOPs that
    were executed."""
    s = SIZES[size]
    model = load(ModelSpec("random", config=s.shape.config(max_position_embeddings=4096), seed=0)).model.eval()
    fns, flops, logits = ways(model, s), {}, {}
    for name, fn in fns.items():
        flops[name] = counted(lambda fn=fn, name=name: logits.update({name: fn()})).total
    apart = float((logits["pruned"] - logits["masked"]).abs().max() / logits["masked"].abs().max())
    timings, rounds, _ = timings_within(s.seconds, fns, s.repeats, 2)
    ratios = {f"{a} / {b}": paired_ratio(timings, a, b) | {"bound": flops[a] / flops[b]} for a, b in PAIRS}
    layers = analytic.token_layers(s.shape.L, s.visual, s.before + s.behind, s.filter_layer, s.kept, s.exit_layer)
    document = {"settings": facts("cpu") | {"shape": s.shape.name, "dtype": "float32"}, "flops": flops, "ratios": ratios,
                "times": {name: timing["times"] for name, timing in timings.items()}, "token layers": list(layers), "difference": apart,
                "rounds": rounds, "load_average": max(t["load_average"] for t in timings.values())}
    log("; ".join(f"{pair} {ratio['median']:.2f} (FLOPs {ratio['bound']:.2f})" for pair, ratio in ratios.items()))
    return document


def main() -> int:
    silent = functools.partial(print, file=sys.stderr)
    print(json.dumps(measure("cpu", silent)["ratios"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
