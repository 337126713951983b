"""What On-Policy SFT's claims are measured by: `python -m papers.onpolicysft.eval` is what `make reproduce-onpolicysft` runs.

Rungs: `cpu` (two cores, six minutes: small reasoners made brief by the method and by all that it is compared with; ONLY=sums and
ONLY=five: SmolLM2 on one task and on five), `smoke` (the same at tiny sizes), `gpu` (memory and time of an update at 1.5B dimensions;
SmolLM2 on ten times the rollouts), `paper` (the paper's models and data); the exact claims are part of every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main
from common.standins.five import ready

from . import pictures, quantities, quantities_five, tables
from .experiments import chains, five, paper, rates, speed, sums

HERE = Path(__file__).parent

EXPERIMENTS = (
    Experiment("exact", "analytic", quantities.exact),
    Experiment("chains", "cpu", quantities.chains, chains.jobs, tables=tables.chains, pictures=pictures.chains,
               document="cpu-small", minutes=6, draws=("plane.svg", "updates.svg", "budgets.svg"),
               facts=lambda results: quantities.facts(results["base/seed0"], "generated chains of arithmetic")),
    Experiment("sums", "cpu", quantities.sums, sums.jobs, tables=tables.sums, pictures=pictures.sums, asked=True,
               walked=False, claims=("C1n", "C1m", "C4m", "C4n", "C6n", "C8n", "C14n"), document="sums", minutes=100, draws=("sums.svg",),
               needs="up to 15 GB of memory for each of two processes",
               facts=lambda results: quantities.facts(quantities.first(results, "sums/base"), "reasoning_gym chain_sum")),
    Experiment("five", "cpu", quantities_five.five, five.jobs, tables=tables.five, pictures=pictures.five, asked=True, walked=False,
               claims=("C1f", "C1g", "C4f", "C4g", "C4h", "C8f"), document="five", minutes=75, draws=("five.svg",), ready=ready,
               needs="the adapter of five tasks: `make standins-five`",
               facts=quantities_five.facts),
    Experiment("rates", "cpu", jobs=rates.jobs, tables=tables.rates, asked=True, walked=False, document="rates", minutes=4),
    Experiment("gpu", "gpu", quantities.gpu, run=speed.measure_gpu,
               document="gpu-random-weights", needs="one CUDA device of 80 GB"),
    Experiment("sums-gpu", "gpu", run=sums.measure_gpu, tables=tables.sums_gpu, document="sums-gpu",
               needs="one CUDA device"),
    Experiment("paper", "paper", quantities.paper, run=paper.measure, tables=tables.paper, document="paper-scale",
               needs="the paper's models and data, trained by configs/cuda"),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
