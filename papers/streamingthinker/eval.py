"""What StreamingThinker's claims are measured by: `python -m papers.streamingthinker.eval` is what `make reproduce-streamingthinker` runs.

Rungs: `cpu` (here; what is `asked` runs only when it is named, as in ONLY=paced), `smoke` (the same code on models that have learnt
nothing), `paper` (a GPU and trained models). Exact checks run on every rung.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from common.runs.experiment import Experiment, main

from . import adapters, pictures, quantities, quantities_paper, quantities_real, tables
from .experiments import aligned, arms, attention, clock, exact, gated, gates, paced, paper

from .experiments import realtext, speed, symbolic, variants  # isort: skip

HERE = Path(__file__).parent

EXPERIMENTS = (
    Experiment("exact", "analytic", quantities.exact),
    Experiment("gold", "cpu", quantities.gold, exact.jobs, tables=tables.gold, document="cpu-small", minutes=0.1),
    Experiment("gate", "cpu", quantities.gate, gates.jobs, tables=tables.gate, document="cpu-small", minutes=0.2),
    Experiment("arms", "cpu", quantities.arms, arms.jobs, tables=tables.arms, pictures=pictures.arms, document="cpu-small", minutes=6,
               draws=("depths.svg",), facts=quantities.facts),
    Experiment("attention", "cpu", quantities.attention, attention.jobs, tables=tables.attention, document="cpu-small", minutes=0.3),
    Experiment("clock", "cpu", quantities.clock, clock.jobs, tables=tables.clock, alone=True, document="clock", minutes=1),
    Experiment("encoders", "cpu", quantities.encoders, gates.encoder_jobs, tables=partial(tables.gate, of="encoders"), asked=True,
               walked=False, claims=("C14m",), document="encoders", minutes=2, needs="the group `sentences` of pyproject.toml"),
    Experiment("gated", "cpu", quantities.gated, gated.jobs, tables=tables.gated, asked=True, claims=("C14s", "C14u"), document="gated",
               minutes=4),
    Experiment("variants", "cpu", quantities.variants, variants.jobs, tables=tables.variants, asked=True, claims=("C8s", "C13s", "C17s"),
               document="variants", minutes=60),
    Experiment("aligned", "cpu", quantities_real.aligned, aligned.jobs, tables=tables.aligned, asked=True, claims=("C18a",),
               document="aligned", minutes=0.2, needs="the group `reasoning` of pyproject.toml", ready=aligned.ready),
    Experiment("symbolic", "cpu", quantities_real.symbolic, symbolic.jobs, tables=tables.symbolic, asked=True, walked=False,
               claims=("C18d", "C18n", "C18s", "C18u", "C18w"), document="symbolic", minutes=240, ready=adapters.ready),
    Experiment("paced", "cpu", quantities_real.paced, paced.jobs, tables=tables.paced, asked=True, alone=True, walked=False,
               claims=("C18c", "C18e"), document="paced", minutes=30, ready=paced.ready, needs="adapters.py's adapters"),
    Experiment("realtext", "cpu", quantities.realtext, realtext.jobs, tables=tables.realtext, asked=True, claims=("C2p", "C2r"),
               document="realtext", minutes=0.5, data=realtext.FILES),
    Experiment("paper", "paper", quantities_paper.paper, run=paper.measure, tables=tables.paper, document="paper-scale",
               needs="Qwen3, the six tasks, and models trained by configs/cuda"),
    Experiment("speed", "cpu", quantities.speed, speed.jobs, tables=tables.speed, alone=True, document="speed", minutes=1),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
