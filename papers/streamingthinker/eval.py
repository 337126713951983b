"""What StreamingThinker's claims are measured by: `python -m papers.streamingthinker.eval` is what `make reproduce-streamingthinker` runs.

Rungs: `cpu` (two cores: arms tuned from one base on generated stories, two caches, schedules, the event model, the gate on planted
faults; ONLY=variants: other tasks and orders, and what the mask is for; ONLY=realtext: tokens waited on real questions), `smoke` (the
same way with models that have learnt nothing); the exact claims are part of every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main

from . import pictures, quantities, tables
from .experiments import arms, clock, exact, gates, realtext, speed, variants

HERE = Path(__file__).parent

EXPERIMENTS = (
    Experiment("exact", "analytic", quantities.exact),
    Experiment("gold", "cpu", quantities.gold, exact.jobs, tables=tables.gold, document="cpu-small", minutes=0.1),
    Experiment("gate", "cpu", quantities.gate, gates.jobs, tables=tables.gate, document="cpu-small", minutes=0.2),
    Experiment("arms", "cpu", quantities.arms, arms.jobs, tables=tables.arms, pictures=pictures.arms, document="cpu-small", minutes=6,
               draws=("depths.svg",), facts=quantities.facts),
    Experiment("clock", "cpu", quantities.clock, clock.jobs, tables=tables.clock, alone=True, document="cpu-small", minutes=1),
    Experiment("variants", "cpu", quantities.variants, variants.jobs, tables=tables.variants, asked=True, claims=("C8s", "C13s", "C17s"),
               document="variants", minutes=60),
    Experiment("realtext", "cpu", quantities.realtext, realtext.jobs, tables=tables.realtext, asked=True, claims=("C2p", "C2r"),
               document="realtext", minutes=0.5, data=realtext.FILES),
    Experiment("speed", "cpu", quantities.speed, speed.jobs, tables=tables.speed, alone=True, document="cpu-small", minutes=1),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
