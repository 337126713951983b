"""A verdict for every claim: `python -m papers.skipgpt.eval --rung cpu` is what `make reproduce-skipgpt` runs.

Rungs: `analytic` (seconds; part of every run), `cpu` (two cores, ten minutes: from-scratch models, then SmolLM2 with the
committed routers, then timings), `gpu` (real size, random weights), `paper` (the paper's models and tasks). Finished jobs
are kept and reused. Records of a run go to results/.scratch/; `--publish` writes results/ itself, from a clean tree only.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from common import reproduce
from common.jobs import Job, run_jobs
from common.models import cache_dir
from common.reproduce import Outcome, Say, rounded, source_files

from . import verdicts

HERE = Path(__file__).parent
# What only shows or judges results that exist: its changes compute nothing anew.
SHOWING = {"eval.py", "verdicts.py", "tables.py", "pictures.py", "reported.py", "paper_scale.py", "crossing.py", "gathering.py"}
# The long per-window lists and curves of positions: kept in the cache, too long to commit.
WINDOWS = ("windows", "position", "correct", "window_nll", "window_tokens", "attn skip by window", "mlp skip by window",
           "first quarter", "last quarter")


def sources() -> tuple[str, ...]:
    """All code that a measurement may depend on: this paper's, and what it uses of common."""
    return source_files(HERE, SHOWING, "models.py", "flops.py", "steps.py", "data/prose.py", "data/text.py",
                        "benchmarks/language.py", "benchmarks/perplexity.py", "benchmarks/tasks/*.yaml")


# -- the jobs of the CPU rung ------------------------------------------------------------------------------
def cpu_jobs() -> list[Job]:
    """Seconds are for one core of a 2024 server, and only order the work and estimate the rest."""
    from .tier_a import BUDGET, LORA_STEPS, SEEDS
    from .tier_b import ROUTERS, TARGETS, routers

    package, files = __package__, sources()
    jobs = []

    def tier_a(name: str, function: str, seconds: float, seeds=SEEDS, **arguments) -> None:
        for seed in seeds:
            weights = str(HERE / "standins" / f"seed{seed}" / "model.safetensors")
            jobs.append(
                Job(
                    f"tier_a/{name}/seed{seed}",
                    f"{package}.tier_a:{function}",
                    {"seed": seed, **arguments},
                    (*files, weights, str(Path(weights).with_name("config.json"))),
                    seconds,
                )
            )

    tier_a("static", "dense_and_static", 16)
    tier_a("routers at 0.40", "router_tuning", 68, target=0.40, budget=BUDGET, lora_steps=LORA_STEPS)
    tier_a("routers at 0.25", "router_tuning", 28, seeds=SEEDS[:1], target=0.25)
    tier_a("coupled", "router_tuning", 27, target=0.40, budget=BUDGET, coupled=True)
    tier_a("token-blind", "router_tuning", 27, target=0.40, budget=BUDGET, token_blind=True)
    tier_a("joint", "joint", 36, target=0.40)
    tier_a("MoD-D", "mixture_of_depths", 26, target=0.40)
    tier_a("MoD-D with LoRA", "mixture_of_depths", 36, seeds=SEEDS[:1], target=0.40, rank=8)
    tier_a("paper's learning rate", "router_tuning", 26, seeds=SEEDS[:1], target=0.25, learning_rate=2e-3)

    def tier_b(name: str, function: str, seconds: float, *more: str, **arguments) -> None:
        jobs.append(
            Job(
                f"tier_b/{name}",
                f"{package}.tier_b:{function}",
                arguments,
                (*files, *more),
                seconds,
            )
        )

    tier_b("dense", "dense", 17)
    for target in TARGETS:
        learned = [str(routers(target) / name) for name in ("routers.safetensors", "skipgpt.json")]
        plans = sorted(map(str, (ROUTERS / f"static-t{round(100 * target)}").glob("*.json")))
        tier_b(f"routers at {target:.2f}", "learned", 35, *learned, target=target)
        tier_b(f"random at {target:.2f}", "random_routing", 48, *learned, target=target)
        tier_b(f"static at {target:.2f}", "static", 17, *plans, target=target)
    tier_b("short training", "short_training", 60, str(ROUTERS / "static-t25" / "shortened-ppl.json"))
    return jobs


def real_jobs(say=print) -> list[Job]:
    """Real benchmarks, if NINEFOLD_DATA names them: dense, then at each target the committed routers, their rates at
    random and the best static plan. A missing file is said in a line, and nothing of it runs."""
    if not os.environ.get("NINEFOLD_DATA"):
        return []
    from common.data.text import DataError, data_file

    from .tier_b import BEST_STATIC, REAL_FILES, ROUTERS, TARGETS, routers

    try:
        data = [str(data_file(name)) for name in REAL_FILES]
    except DataError as error:
        say(f"real benchmarks: not run. {error}")
        return []
    function, files = f"{__package__}.tier_b:real_data", (*sources(), *data)
    jobs = [Job("real/dense", function, {"method": "dense"}, files, 180)]
    for target in TARGETS:
        used = [routers(target) / name for name in ("routers.safetensors", "skipgpt.json")]
        used.append(ROUTERS / f"static-t{round(100 * target)}" / f"{BEST_STATIC[target]}.json")
        for method in ("routers", "matched random", "static"):
            arguments = {"method": method, "target": target}
            jobs.append(Job(f"real/{method} at {target:.2f}", function, arguments, (*files, *map(str, used)), 180))
    return jobs


def run_cpu(say) -> dict:
    """Everything that the CPU rung measures: {job name: result}."""
    from common.models import SMOLLM2, load

    from .tier_b import TARGETS, routers

    work = cache_dir() / "skipgpt"
    say("loading SmolLM2-135M-Instruct; the first time its packed weights are expanded")
    load(SMOLLM2)  # before the workers start, so that two of them do not unpack it at once
    results = run_jobs(cpu_jobs(), work, workers=2, threads=1, say=say)
    say("timing prefill and decode, alone on the machine")
    results |= run_jobs([speed_job()], work, workers=1, threads=os.cpu_count() or 1, say=say)
    if real := real_jobs(say):
        say("real benchmarks from NINEFOLD_DATA; the claims above do not need them")
        results |= run_jobs(real, work, workers=2, threads=1, say=say)
    results["tier_b/curves"] = {f"{t:.2f}": json.loads((routers(t) / "curve.json").read_text()) for t in TARGETS}
    return results


def speed_job() -> Job:
    return Job("speed", f"{__package__}.speed:measure_cpu", {}, sources(), 50)


# -- a rung ------------------------------------------------------------------------------------------------
def measure(rung: str, say: Say) -> Outcome:
    out = Outcome(measured=verdicts.analytic_claims())
    if rung == "cpu":
        results = run_cpu(say)
        out.measured |= verdicts.tier_a_claims(results) | verdicts.tier_b_claims(results)
        speed, out.timings = verdicts.speed_claims(results["speed"])
        out.measured |= speed
        out.models, out.datasets = [results["tier_b/dense"]["model"]], [results["tier_b/dense"]["text"]]
        real = {name: row for name, row in results.items() if name.startswith("real/")}
        small = {name: row for name, row in results.items() if name not in real}
        out.documents = {kind: rounded(rows, WINDOWS) for kind, rows in (("cpu-small", small), ("real-data", real)) if rows}

        from .pictures import draw
        from .tables import cpu_tables

        out.lines, out.pictures = list(cpu_tables(results)), lambda folder: draw(results, folder)
    elif rung == "gpu":
        from .speed import measure_gpu

        documents = measure_gpu(out=cache_dir() / "skipgpt" / "gpu", say=say)
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
