"""What fusion adds to a prefill, timed at SmolLM2-135M's dimensions, random weights: 576 patches of width 384 and 64 other tokens.

Timed from the tower's states on, which every kind needs alike: projector, what fuses, and the decoder's prefill. Another process gets
other memory, and keeps it: a timing is of PROCESSES of them, and the rounds within one say how finely it could be read.
`python -m papers.layerfusion.experiments.speed` measures once and records nothing.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.flops import counted
from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.shapes import SMOLLM2_135M, Shape
from common.timing.cases import in_a_process
from common.timing.clock import facts, paired_ratio, timings_within

from ..baselines import default
from ..internal import Internal, Pictures
from ..method import Fusion, FusionConfig, Sizes, layer_set

PROCESSES, BLOCKS = 3, 12  # of the tower
TIMED = {"external direct": ("external", "direct"), "internal modular": ("internal", "modular")}


@dataclass(frozen=True)
class Size:
    shape: Shape
    dv: int
    visual: int
    text: int
    repeats: int
    seconds: float


SIZES = {"smoke": Size(Shape(32, 64, 6, 4, 2, 8, 96, name="six small layers"), 32, 16, 4, repeats=3, seconds=1.0),
         "cpu": Size(SMOLLM2_135M, 384, 576, 64, repeats=20, seconds=12.0)}


def jobs(size: str = "cpu") -> list[Job]:
    processes = PROCESSES if size == "cpu" else 1
    return [Job(f"speed/process{i}", f"{__name__}:one_process", {"process": i, "size": size}, seconds=2 * SIZES[size].seconds)
            for i in range(processes)]


def one_process(process: int, size: str) -> dict[str, Any]:
    """`measure`, at size cpu in a process of its own."""
    return measure(size) if size == "smoke" else in_a_process(measure, size)


def configs() -> dict[str, FusionConfig]:
    """One layer, once more, and three layers by the cheapest and the dearest kind."""
    one = FusionConfig(default(BLOCKS))
    return {"one layer": one, "one layer again": one} | {
        name: FusionConfig(layer_set("triple", BLOCKS), position, pattern)
        for name, (position, pattern) in TIMED.items()}


def ways(model: nn.Module, size: Size) -> dict[str, Callable[[], Tensor]]:
    """{way: a prefill that gives the logits of the last token (1, V)}; what fuses is attached for its own passes alone."""
    draw, s = torch.Generator().manual_seed(0), size
    states = {k: torch.randn(1, s.visual, s.dv, generator=draw) for k in range(1, BLOCKS + 1)}
    text = torch.randn(1, s.text, s.shape.d, generator=draw) * 0.02
    where = torch.zeros(1, s.visual + s.text, dtype=torch.bool)
    where[:, : s.visual] = True
    mask = torch.ones(1, s.visual + s.text, dtype=torch.long)
    made = {}
    for name, config in configs().items():
        torch.manual_seed(0)
        fusion = Fusion(config, Sizes.of(s.dv, model.config)).eval()
        made[name] = functools.partial(_prefill, model, fusion, Internal(model, fusion), states, text, where, mask)
    return made


def _prefill(model: nn.Module, fusion: Fusion, internal: Internal, states: dict[int, Tensor], text: Tensor, where: Tensor,
             mask: Tensor) -> Tensor:
    tokens, extras = fusion(states)
    with internal:
        internal.pictures = Pictures.of(extras, where) if extras else None
        return model(inputs_embeds=torch.cat([tokens, text], 1), attention_mask=mask, use_cache=True, logits_to_keep=1).logits[:, -1]


@torch.no_grad()
def measure(size: str = "cpu", log: Callable[[str], None] = print) -> dict[str, Any]:
    """{"settings", "flops": {way}, "ratios": {way: its time over one layer's, "median", "iqr", "ratios", "bound"}, "times": {way: seconds
    of each round}, "rounds", "load_average"}. The bound is the ratio of FLOPs that were executed."""
    s = SIZES[size]
    model = load(ModelSpec("random", config=s.shape.config(max_position_embeddings=4096), seed=0)).model.eval()
    fns = ways(model, s)
    flops = {name: counted(fn).total for name, fn in fns.items()}
    timings, rounds, _ = timings_within(s.seconds, fns, s.repeats, 2)
    ratios = {name: paired_ratio(timings, name, "one layer") | {"bound": flops[name] / flops["one layer"]}
              for name in ("one layer again", *TIMED)}
    log("; ".join(f"{name} {ratio['median']:.3f} (FLOPs {ratio['bound']:.3f})" for name, ratio in ratios.items()))
    return {"settings": facts("cpu") | {"shape": s.shape.name, "dtype": "float32"}, "flops": flops, "ratios": ratios,
            "times": {name: timing["times"] for name, timing in timings.items()}, "rounds": rounds,
            "load_average": max(t["load_average"] for t in timings.values())}


def main() -> int:
    silent = functools.partial(print, file=sys.stderr)
    print(json.dumps(measure("cpu", silent)["ratios"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
