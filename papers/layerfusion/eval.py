"""What layer fusion's claims are measured by: `python -m papers.layerfusion.eval` is what `make reproduce-layerfusion` runs.

Rungs: `cpu` (two cores: stages and probes of the real DINOv2-S, the committed LLaVAs, time of a prefill), `smoke` (the same at tiny
sizes), `paper` (nine benchmarks). ONLY=long trains small LLaVAs on hard scenes, which the three findings rest on, ONLY=long-more and
ONLY=variants what goes beyond them, ONLY=smollm2 a pretrained decoder: hours each. ONLY=committed asks a committed one, in minutes.
Arithmetic is part of every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main

from . import pictures, quantities, quantities_trained, tables
from .experiments import committed, llava, own, paper, probes, smollm2, speed, stages, trained

HERE = Path(__file__).parent
LONG = ("C1l", "C1m", "C1g", "C1v", "C1k", "C1i", "C1j", "C2l", "C2e", "C2k", "C2i", "C2j", "C3n", "C3o")
MORE = ("C2u", "C2v", "C2w", "C2x", "C3l", "C3m", "C10l")
VARIANTS = ("C11l", "C12l", "C13l", "C13m")
SMOLLM2 = ("C23r", "C23d", "C23g")
COMMITTED = ("C21e", "C21f", "C21g")
OWN = ("C24a", "C24b", "C24c")

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
    Experiment("speed", "cpu", quantities.speed, speed.jobs, tables=tables.speed, alone=True, document="speed", minutes=1.5),
    Experiment("committed", "cpu", quantities.committed, committed.jobs, tables=tables.committed, asked=True, walked=False,
               claims=COMMITTED, document="committed", minutes=14, facts=lambda results: ([results["committed/seed0"]["model"]], [])),
    Experiment("own", "cpu", quantities.own, own.jobs, tables=tables.own, asked=True, walked=False, claims=OWN, document="own", minutes=3,
               ready=own.ready, needs="the four models of standins.py: make standins-layerfusion",
               facts=lambda results: ([of["model"] for name, of in results.items() if name.startswith("own/") and "model" in of], [])),
    Experiment("long", "cpu", quantities_trained.long, trained.long_jobs, tables=tables.long, asked=True, walked=False, claims=LONG,
               document="long", minutes=420, ready=lambda: tables.looked_first(HERE / "results")),
    Experiment("long-more", "cpu", quantities_trained.more, trained.more_jobs, tables=tables.more, asked=True, walked=False,
               claims=MORE, document="long-more", minutes=360, needs="the trainings of long, which it takes over or makes first"),
    Experiment("variants", "cpu", quantities_trained.variants, trained.variant_jobs, tables=tables.variants, asked=True, walked=False,
               claims=VARIANTS, document="variants", minutes=400, needs="nine trainings of long, which it takes over or makes first"),
    Experiment("smollm2", "cpu", quantities_trained.smollm2, smollm2.jobs, tables=tables.smollm2, asked=True, walked=False,
               claims=SMOLLM2, document="smollm2", minutes=520),
    Experiment("paper", "paper", quantities.paper, run=paper.measure, document="paper-scale",
               needs="the paper's models trained by configs/cuda, lmms-eval, and a GPU"),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
