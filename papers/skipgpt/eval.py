"""A verdict for every claim: `python -m papers.skipgpt.eval --rung cpu` is what `make reproduce-skipgpt` runs.

Rungs: `analytic` (seconds; part of every run), `cpu` (two cores, ten minutes: from-scratch models, then SmolLM2 with the
committed routers, then timings), `gpu` (real size, random weights), `paper` (the paper's models and tasks). Finished jobs
are kept and reused. `smoke` walks the `cpu` rung at tiny sizes and records nothing. Records of a run go to
results/.scratch/; `--publish` writes results/ itself, from a clean tree only.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from common import reproduce
from common.jobs import Job, run_jobs
from common.reproduce import Outcome, Say, rounded, work_folder

from . import tier_a, verdicts

HERE = Path(__file__).parent
# The long per-window lists and curves of positions: kept in the cache, too long to commit.
WINDOWS = ("windows", "position", "correct", "window_nll", "window_tokens", "attn skip by window", "mlp skip by window",
           "first quarter", "last quarter")
SHARE = {"cpu": 1.0, "smoke": 0.03}  # of the seconds that a job is thought to take
ALONE = {"cpu": True, "smoke": False}  # timings wait until nothing else runs, unless they mean nothing


# -- the jobs of the CPU rung ------------------------------------------------------------------------------
def cpu_jobs(size: str = "cpu") -> list[Job]:
    """All but the timings. size: "cpu", or "smoke" for the same at tiny sizes, see SIZES of tier_a.py and tier_b.py.

    Seconds are for one core of a 2024 server, and only order the work and estimate the rest. The dense SmolLM2 comes
    first: it expands the packed weights if nobody has yet (half a minute), and two at once would need twice the memory.
    """
    from .tier_b import TARGETS

    jobs, trained = [], tier_a.SIZES[size].seeds

    def from_scratch(name: str, function: str, seconds: float, seeds=trained, **arguments) -> None:
        for seed in seeds:
            given = {"seed": seed, "size": size, **arguments}
            jobs.append(Job(f"tier_a/{name}/seed{seed}", f"{__package__}.tier_a:{function}", given, seconds=seconds * SHARE[size]))

    budget = tier_a.BUDGET
    from_scratch("static", "dense_and_static", 16)
    from_scratch("routers at 0.40", "router_tuning", 68, target=0.40, budget=budget, stage_2=True)
    from_scratch("routers at 0.25", "router_tuning", 28, seeds=trained[:1], target=0.25)
    from_scratch("coupled", "router_tuning", 27, target=0.40, budget=budget, coupled=True)
    from_scratch("token-blind", "router_tuning", 27, target=0.40, budget=budget, token_blind=True)
    from_scratch("joint", "joint", 36, target=0.40)
    from_scratch("MoD-D", "mixture_of_depths", 26, target=0.40)
    from_scratch("MoD-D with LoRA", "mixture_of_depths", 36, seeds=trained[:1], target=0.40, rank=8)
    from_scratch("paper's learning rate", "router_tuning", 26, seeds=trained[:1], target=0.25, learning_rate=2e-3)

    def pretrained(name: str, function: str, seconds: float, **arguments) -> None:
        given, after = {"size": size, **arguments}, () if name == "dense" else ("tier_b/dense",)
        jobs.append(Job(f"tier_b/{name}", f"{__package__}.tier_b:{function}", given, seconds=seconds * SHARE[size], after=after))

    pretrained("dense", "dense", 70)
    for target in TARGETS:
        pretrained(f"routers at {target:.2f}", "learned", 35, target=target)
        pretrained(f"random at {target:.2f}", "random_routing", 48, target=target)
        pretrained(f"static at {target:.2f}", "static", 17, target=target)
    return jobs


def real_jobs(size: str = "cpu", say: Say = print) -> list[Job]:
    """Real benchmarks, if NINEFOLD_DATA names them: dense, then at each target the committed routers, their rates at
    random and the best static plan. A missing file is reported in a line, and nothing of it runs."""
    if not os.environ.get("NINEFOLD_DATA"):
        return []
    from common.data.text import DataError, data_file

    from .tier_b import REAL_FILES, TARGETS

    try:
        data = tuple(str(data_file(name)) for name in REAL_FILES)
    except DataError as error:
        say(f"real benchmarks: not run. {error}")
        return []

    def job(name: str, **arguments) -> Job:
        return Job(f"real/{name}", f"{__package__}.tier_b:real_data", {"size": size, **arguments}, data, 180 * SHARE[size])

    methods = [(target, method) for target in TARGETS for method in ("routers", "matched random", "static")]
    return [job("dense", method="dense"), *(job(f"{m} at {t:.2f}", method=m, target=t) for t, m in methods)]


def speed_job(size: str = "cpu") -> Job:
    return Job("speed", f"{__package__}.speed:measure_cpu", {"size": size}, seconds=50 * SHARE[size])


def every_job(size: str = "cpu") -> list[Job]:
    """All that any run of this paper may compute; without NINEFOLD_DATA, all that needs none of it."""
    return [*cpu_jobs(size), speed_job(size), *real_jobs(size, lambda text: None)]


def run_cpu(size: str, say: Say) -> dict:
    """Everything that the CPU rung measures: {job name: result}."""
    from .tier_b import TARGETS, routers

    work = work_folder(HERE.name, size)
    jobs, timings = cpu_jobs(size), [speed_job(size)]
    results = run_jobs(jobs if ALONE[size] else jobs + timings, work, workers=2, threads=1, say=say)
    if ALONE[size]:
        say("timing prefill and decode, alone on the machine")
        results |= run_jobs(timings, work, workers=1, threads=os.cpu_count() or 1, say=say)
    if real := real_jobs(size, say):
        say("real benchmarks from NINEFOLD_DATA; the claims above do not need them")
        results |= run_jobs(real, work, workers=2, threads=1, say=say)
    results["tier_b/curves"] = {f"{t:.2f}": json.loads((routers(t) / "curve.json").read_text()) for t in TARGETS}
    return results


# -- a rung ------------------------------------------------------------------------------------------------
def measure(rung: str, say: Say) -> Outcome:
    out = Outcome(measured=verdicts.analytic_claims())
    if rung in tier_a.SIZES:
        results = run_cpu(rung, say)
        out.measured |= verdicts.tier_a_claims(results, tier_a.SIZES[rung].seeds) | verdicts.tier_b_claims(results)
        speed, out.timings = verdicts.speed_claims(results["speed"])
        out.measured |= speed
        out.models, out.datasets = [results["tier_b/dense"]["model"]], [results["tier_b/dense"]["text"]]
        real = {name: row for name, row in results.items() if name.startswith("real/")}
        small = {name: row for name, row in results.items() if name not in real}
        out.documents = {kind: rounded(rows, WINDOWS) for kind, rows in (("cpu-small", small), ("real-data", real)) if rows}

        from .pictures import draw
        from .tables import cpu_tables

        out.lines, out.pictures = list(cpu_tables(results, rung)), lambda folder: draw(results, folder, rung)
    elif rung == "gpu":
        from .speed import measure_gpu

        documents = measure_gpu(out=work_folder(HERE.name, rung) / "gpu", say=say)
        gpu, out.timings = verdicts.gpu_claims(documents)
        out.measured |= gpu
        out.documents = {"gpu-random-weights": documents}
    elif rung == "paper":
        from .paper_scale import measure_paper

        out.measured |= verdicts.paper_claims(measure_paper(say=say))
    return out


def main(argv: list[str] | None = None) -> int:
    return reproduce.main(HERE, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
