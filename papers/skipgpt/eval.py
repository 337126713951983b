"""What SkipGPT's claims are measured by: `python -m papers.skipgpt.eval` is what `make reproduce-skipgpt` runs.

Rungs: `cpu` (two cores, ten minutes: from-scratch models, then SmolLM2 with the committed routers, then timings), `smoke` (the
same at tiny sizes), `gpu` (real size, random weights), `paper` (the paper's models and tasks); the exact claims are part of
every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main

from . import pictures, quantities, quantities_gemma, quantities_ratios, tables
from .experiments import blind, gemma, paper, rates, ratios, scratch, smollm2, speed

HERE = Path(__file__).parent
# Curves that only pictures read, and lists of every token: kept in the cache, too long to commit.
LONG = ("position", "correct", "window_nll", "window_tokens")

EXPERIMENTS = (
    Experiment("exact", "analytic", quantities.exact),
    Experiment("scratch", "cpu", quantities.scratch, scratch.jobs, tables=tables.scratch, pictures=pictures.scratch,
               document="cpu-small", left_out=LONG, minutes=5),
    Experiment("smollm2", "cpu", quantities.smollm2, smollm2.jobs, tables=tables.smollm2, pictures=pictures.smollm2,
               document="cpu-small", left_out=LONG, minutes=2,
               facts=lambda results: tuple([results["tier_b/dense"][what]] for what in ("model", "text"))),
    Experiment("speed", "cpu", quantities.speed, speed.jobs, alone=True, document="speed", minutes=1),
    Experiment("ratios", "cpu", quantities_ratios.bounds_reached, ratios.jobs, tables=tables.ratios, asked=True, alone=True,
               claims=("C15f", "C15g"), document="ratios", minutes=4),
    Experiment("extras", "cpu", None, scratch.extra_jobs, tables=tables.extras, asked=True, document="extras", left_out=LONG, minutes=2),
    Experiment("sampled", "cpu", None, smollm2.extra_jobs, tables=tables.sampled, asked=True, walked=False, document="sampled",
               left_out=LONG, minutes=1),
    Experiment("rates", "cpu", None, rates.jobs, tables=tables.rates, asked=True, walked=False, document="rates", minutes=4),
    Experiment("blind", "cpu", None, blind.jobs, tables=tables.blind, asked=True, walked=False, document="blind", left_out=LONG,
               minutes=240),
    Experiment("gemma", "cpu", quantities_gemma.gemma, gemma.jobs, tables=tables.gemma, asked=True, walked=False,
               claims=("C1b", "C2f", "C2g", "C2h", "C5b", "C11d", "C16c"), document="gemma", left_out=LONG, minutes=170,
               ready=gemma.ready,
               needs="Gemma-3-270M (`uv sync --inexact --group gemma`); 4.3 GB of memory a process, two processes; `python -m "
                     "papers.skipgpt.routers_gemma --seed 0 1 2`",
               facts=lambda results: tuple([results["gemma/dense"][what]] for what in ("model", "text"))),
    Experiment("real", "cpu", None, smollm2.real_jobs, tables=tables.real, asked=True, document="real-data",
               left_out=(*LONG, "windows"), minutes=22, data=smollm2.REAL_FILES),
    Experiment("gpu", "gpu", quantities.gpu, run=speed.gpu, minutes=10, document="gpu-random-weights",
               needs="one CUDA device with 80 GB"),
    Experiment("paper", "paper", quantities.paper, run=paper.measure_for_claims, document="paper-scale",
               needs="the paper's models and tasks, and routers trained by configs/cuda"),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
