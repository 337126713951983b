"""What layer fusion's claims are measured by: `python -m papers.layerfusion.eval` is what `make reproduce-layerfusion` runs.

Rungs: `cpu` (two cores: stages and probes of the real DINOv2-S, the committed LLaVAs, time of a prefill), `smoke` (the same at tiny
sizes); arithmetic is part of every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main

from . import pictures, quantities, tables
from .experiments import llava, probes, speed, stages

HERE = Path(__file__).parent

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
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
