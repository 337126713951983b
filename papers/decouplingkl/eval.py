"""What Decoupling KL's claims are measured by: `python -m papers.decouplingkl.eval` is what `make reproduce-decouplingkl` runs.

Rungs: `cpu` (two cores: a weak student distilled by every cell, mixture and length; ONLY=strong: a better student, GRPO from every
cell, two end tokens; ONLY=real: half of SmolLM2 distilled from the whole; ONLY=reasoners: On-Policy SFT's reasoners distilled, the
family's common bench; ONLY=timing: memory and time of the loss, speed of the sampler), `smoke` (the same at tiny sizes), `gpu`
(memory and time of a loss over Qwen3's vocabulary), `paper` (the paper's models and data); the exact claims are part of every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main

from . import pair, pictures, quantities, tables
from .experiments import chains, paper, real, reasoners, speed, strong, timing

HERE = Path(__file__).parent
REAL = ("C3i", "C5i", "C7i", "C8i", "C8j", "C8k", "C9i", "C10i", "C10j")
STRONG = ("C3g", "C3h", "C3p", "C4e", "C4r", "C4s", "C5s", "C6s", "C7s", "C7t", "C7u", "C8x", "C8y")

EXPERIMENTS = (
    Experiment("exact", "analytic", quantities.exact),
    Experiment("weak", "cpu", quantities.weak, chains.jobs, tables=tables.weak, pictures=pictures.weak, document="cpu-small", minutes=6,
               draws=("mixtures.svg", "plane.svg", "compute.svg"), facts=lambda results: quantities.facts(results["start/seed0"])),
    Experiment("strong", "cpu", quantities.strong, strong.jobs, tables=tables.strong, pictures=pictures.strong, asked=True,
               claims=STRONG, document="strong", minutes=12, draws=("strong.svg",),
               facts=lambda results: quantities.facts(results["strong/start/seed0"])),
    Experiment("real", "cpu", quantities.real, real.jobs, tables=tables.real, pictures=pictures.real, asked=True, walked=False,
               claims=REAL, document="real", minutes=230, draws=("real.svg",), needs="the pair: `python -m papers.decouplingkl.pair`",
               ready=pair.ready,
               facts=lambda results: quantities.facts(results["real/start/seed0"], "reasoning_gym chain_sum")),
    Experiment("reasoners", "cpu", quantities.reasoners, reasoners.jobs, tables=tables.reasoners, asked=True, claims=("C18a", "C18b"),
               document="reasoners", minutes=21, facts=lambda results: quantities.facts(results["reasoners/start/seed0"])),
    Experiment("timing", "cpu", quantities.timing, timing.jobs, tables=tables.timing, asked=True, alone=True,
               claims=("C17m", "C17t", "C17g", "C17h"), document="timing", minutes=4, needs="six gigabytes, and nothing else to do"),
    Experiment("gpu", "gpu", run=speed.measure_gpu, document="gpu-random-weights", needs="one CUDA device of 80 GB"),
    Experiment("paper", "paper", quantities.paper, run=paper.measure, document="paper-scale",
               needs="the paper's models and data, trained by configs/cuda"),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
