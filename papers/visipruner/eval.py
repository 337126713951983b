"""What VisiPruner's claims are measured by: `python -m papers.visipruner.eval` is what `make reproduce-visipruner` runs.

Rungs: `cpu` (two cores: the three committed LLaVAs looked into and pruned, nothing trained; prefill timed at SmolLM2-135M's
dimensions), `smoke` (the same at tiny sizes), `paper` (LLaVA-1.5 on seven benchmarks); arithmetic is part of every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main

from . import findings, further, pictures, quantities, tables
from .experiments import budget, clock, equal, guideline, llava, oracle, paper, precision, qwen3, smollm2, speed

HERE = Path(__file__).parent
C24 = ("C24a", "C24b", "C24c", "C24d", "C24e", "C24f", "C24g", "C24h", "C24i", "C24j", "C24k")
C28 = ("C28a", "C28b", "C28c", "C28d", "C28e", "C28f", "C28g", "C28h", "C28i", "C28j", "C28k", "C28l", "C28m", "C28n", "C28o", "C28p")

EXPERIMENTS = (
    Experiment("exact", "analytic", quantities.exact, tables=tables.exact),
    Experiment("totals", "analytic", findings.totals),
    Experiment("llava", "cpu", findings.llava, llava.jobs, tables=tables.llava, pictures=pictures.llava, document="cpu-small", minutes=7,
               draws=("blocks.svg", "kept.svg", "trade_off.svg"),
               facts=lambda results: ([results["knocked/seed0"]["model"]],
                                      [{"name": "generated scenes", "split": "test",
                                        "n": len(set(results["features/test"]["test"]["pictures"]))}])),
    Experiment("speed", "cpu", quantities.speed, speed.jobs, tables=tables.speed, pictures=pictures.speed, alone=True,
               document="speed", minutes=1, draws=("time.svg",)),
    Experiment("clock", "cpu", None, clock.jobs, clock.then, alone=True, example=clock.EXAMPLE, document="cpu-small", minutes=1),
    Experiment("guideline", "cpu", quantities.guideline, guideline.jobs, tables=tables.guideline, asked=True, walked=False,
               claims=("C23a", "C23b"), document="guideline", minutes=150),
    Experiment("qwen3", "cpu", further.qwen3, qwen3.jobs, tables=tables.qwen3, asked=True, walked=False,
               claims=C24, document="qwen3", minutes=3),
    Experiment("smollm2", "cpu", further.smollm2, smollm2.jobs, tables=tables.smollm2, asked=True, walked=False,
               claims=C28, document="smollm2", minutes=50),
    Experiment("equal", "cpu", further.equal, equal.jobs, tables=tables.equal, asked=True, claims=("C26a", "C26b"), document="equal",
               minutes=1),
    Experiment("precision", "cpu", further.precision, precision.jobs, tables=tables.precision, asked=True, claims=("C25a", "C25b"),
               document="precision", minutes=1),
    Experiment("oracle", "cpu", further.oracle, oracle.jobs, tables=tables.oracle, asked=True, claims=("C27a", "C27b"), document="oracle",
               minutes=2),
    Experiment("budget", "cpu", further.budget, budget.jobs, tables=tables.budget, asked=True,
               claims=("C29a", "C29b", "C29c", "C29d", "C29e", "C29f"), document="budget", minutes=2),
    Experiment("paper", "paper", quantities.paper, run=paper.measure, document="paper-scale",
               needs="one GPU with 40 GB, lmms-eval, and LLaVA-1.5 7B and 13B"),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
