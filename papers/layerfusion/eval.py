"""What layer fusion's claims are measured by: `python -m papers.layerfusion.eval` is what `make reproduce-layerfusion` runs.

Rungs: `cpu` (two cores: stages and probes of the real DINOv2-S, the committed LLaVAs, time of a prefill), `smoke` (the same at tiny
sizes), `paper` (nine benchmarks); ONLY=long and ONLY=variants train small LLaVAs on hard scenes, a night, ONLY=smollm2 a pretrained
decoder, hours; arithmetic is part of every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main

from . import pictures, quantities, tables
from .experiments import llava, paper, probes, smollm2, speed, stages, trained

HERE = Path(__file__).parent
LONG = ("C1l", "C1m", "C1g", "C1v", "C2l", "C3l", "C3m", "C10l")
VARIANTS = ("C11l", "C12l", "C13l", "C13m")

EXPERIMENTS = (
    Experiment("exact", "analytic", quantities.exact, tables=tables.exact),
    Experiment("stages", "cpu", quantities.stages, stages.jobs, tables=tables.stages, pictures=pictures.stages, document="cpu-small",
               minutes=1, draws=("similarity.svg",)),
    Experiment("probes", "cpu", quantities.probes, probes.jobs, tables=tables.probes, pictures=pictures.probes, document="cpu-small",
               minutes=4, draws=("layers.svg", "sets.svg")),
    Experiment("llava", "cpu", quantities.llava, llava.jobs, tables=tables.llava, document="cpu-small", minutes=1,
               facts=lambda results: ([results["llava/seed0"]["model"]],
                                      [{"name": "generated scenes", "split": "test",
                                        "n": len(set(results["llava/features"]["test"]["pictures"]))}])),
    Experiment("speed", "cpu", quantities.speed, speed.jobs, tables=tables.speed, alone=True, document="cpu-small", minutes=1.5),
    Experiment("long", "cpu", quantities.long, trained.long_jobs, tables=tables.trained, asked=True, walked=False, claims=LONG,
               document="long", minutes=1300),
    Experiment("variants", "cpu", quantities.variants, trained.variant_jobs, asked=True, walked=False, claims=VARIANTS,
               document="variants", minutes=900, needs="for C11l and C12l the arms of long beside it: ONLY=long,variants"),
    Experiment("smollm2", "cpu", quantities.smollm2, smollm2.jobs, tables=tables.smollm2, asked=True, walked=False, claims=("C23r",),
               document="smollm2", minutes=1000),
    Experiment("paper", "paper", quantities.paper, run=paper.measure, document="paper-scale",
               needs="the paper's models trained by configs/cuda, lmms-eval, and a GPU"),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
