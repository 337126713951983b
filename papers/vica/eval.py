"""What ViCA's claims are measured by: `python -m papers.vica.eval` is what `make reproduce-vica` runs.

Rungs: `cpu` (two cores, nine minutes: a small LLaVA turned into ViCA and what it has to beat, prefill timed at
SmolLM2-135M's dimensions), `smoke` (the same at tiny sizes, and patches), `gpu` (LLaVA-1.5-7B's dimensions, random weights),
`paper` (the paper's models and data); arithmetic is part of every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main

from . import pictures, quantities, quantities_ratios, tables
from .experiments import clock, draws, llava, paper, patches, ratios, scratch, smollm2, speed

HERE = Path(__file__).parent

EXPERIMENTS = (
    Experiment("exact", "analytic", quantities.exact),
    Experiment("llava", "cpu", quantities.llava, llava.jobs, llava.then, example=llava.EXAMPLE, tables=tables.llava,
               pictures=pictures.llava, document="cpu-small", minutes=7,
               draws=("who_sees_whom.svg", "trade_off.svg", "layers.svg", "pairs.svg"),
               facts=lambda results: ([results["all layers/seed0"]["model"]],
                                      [{"name": "generated scenes and easy-VQA", "split": "test", "n": results["features/test"]}])),
    Experiment("speed", "cpu", quantities.speed, speed.jobs, tables=tables.speed, pictures=pictures.speed, alone=True,
               document="speed", minutes=1, draws=("time.svg",)),
    Experiment("clock", "cpu", None, clock.jobs, clock.then, alone=True, example=llava.EXAMPLE, document="cpu-small", minutes=1),
    Experiment("ratios", "cpu", quantities_ratios.over_text, ratios.jobs, tables=tables.ratios, asked=True, alone=True,
               claims=("C5b", "C5c"), document="ratios", minutes=6),
    Experiment("scratch", "cpu", quantities.scratch, scratch.jobs, tables=tables.scratch, asked=True, walked=False,
               claims=("C1q", "C1r", "C9f"), document="scratch", minutes=150),
    Experiment("draws", "cpu", quantities.draws, draws.jobs, tables=tables.draws, asked=True, walked=False, claims=("C9g",),
               document="draws", minutes=12),
    Experiment("patches", "cpu", quantities.patches, patches.jobs, tables=tables.patches, asked=True, claims=("C8c",),
               document="patches", minutes=40),
    Experiment("smollm2", "cpu", quantities.smollm2, smollm2.jobs, tables=tables.smollm2, asked=True, walked=False,
               claims=("C13a", "C13b", "C13c"), document="smollm2", minutes=30),
    Experiment("few", "cpu", quantities.few, smollm2.jobs, smollm2.then, example=smollm2.EXAMPLE, tables=tables.few, asked=True,
               walked=False, claims=("C13d",), document="few", minutes=10, needs="the jobs of smollm2 before"),
    Experiment("gpu", "gpu", quantities.gpu, run=speed.gpu, tables=tables.gpu,
               document="gpu-random-weights", minutes=10, needs="one CUDA device"),
    Experiment("paper", "paper", quantities.paper, run=paper.measured, document="paper-scale",
               needs="one GPU with 80 GB, lmms-eval, and models trained by configs/cuda"),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
