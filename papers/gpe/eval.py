"""A verdict for every claim: `python -m papers.gpe.eval --rung cpu` is what `make reproduce-gpe` runs.

Rungs: `analytic` (seconds; part of every run), `cpu` (two cores, ten minutes: toy translation in every arm, synthesised
speech, timings), `gpu` (real size, random weights), `paper` (the paper's models and data). Finished jobs are kept and
reused. Records of a run go to results/.scratch/; `--publish` writes results/ itself, from a clean tree only.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.jobs import Job, run_jobs
from common.models import cache_dir
from common.reproduce import Outcome, Say, main, rounded, source_files

HERE = Path(__file__).parent
# What only shows or judges results that exist: its changes compute nothing anew.
SHOWING = {"eval.py", "verdicts.py", "tables.py", "pictures.py", "reported.py", "stream.py", "train.py", "analytic.py",
           "checks.py", "template.py", "simuleval_agent.py", "paper_scale.py"}
COMMON = ("models.py", "masks.py", "caches.py", "steps.py", "benchmarks/translation.py", "benchmarks/speech.py")
WHOLE = ("statistics", "sentences")  # per-sentence lists: kept in the cache, too long to commit


def text_jobs() -> list[Job]:
    """Seconds are for one core of a 2024 server, and only order the work and estimate the rest."""
    from .text_experiment import LONG, PHIS, SEEDS, SHORT

    package, files, jobs = __package__, source_files(HERE, SHOWING | {"speech_experiment.py", "speed.py"}, *COMMON), []

    def job(name: str, function: str, seconds: float, **arguments) -> None:
        for seed in SEEDS:
            weights = [str(HERE / "standins" / f"seed{seed}" / f) for f in ("model.safetensors", "config.json")]
            jobs.append(Job(f"text/{name}/seed{seed}", f"{package}.text_experiment:{function}", {"seed": seed, **arguments},
                            (*files, *weights), seconds))

    job("untuned", "untuned", 4)
    for arm in ("interleaved", "batch_streaming"):
        job(f"{arm}, {LONG} steps", "tune", 27, arm=arm, steps=LONG)
    for phi in PHIS:
        job(f"group, phi {phi}, {LONG} steps", "tune", 27, arm="group", phi=phi, steps=LONG)
    for arm in ("interleaved", "batch_streaming", "position_reencoding", "kv_reencoding", "contiguous", "group",
                "no_source_positions", "no_target_positions", "no_positions", "interleaved_group", "blocked_arrival",
                "finished_frozen", "finished_group"):
        job(f"{arm}, {SHORT} steps", "tune", 8, arm=arm, steps=SHORT)
    job(f"batch, {LONG} steps", "tune_batch", 26, steps=LONG)
    job(f"group with batch, {LONG} steps", "tune_with_batch", 27, steps=LONG)
    return jobs


def measure(rung: str, say: Say) -> Outcome:
    from . import verdicts

    out = Outcome(measured=verdicts.analytic_claims())
    work = cache_dir() / "gpe"
    if rung == "cpu":
        results = run_jobs(text_jobs(), work, workers=2, threads=1, say=say)
        say("timing streams, alone on the machine")
        results |= run_jobs([speed_job()], work, workers=1, threads=os.cpu_count() or 1, say=say)
        out.measured |= verdicts.text_claims(results)
        speed, out.timings = verdicts.speed_claims(results["speed"])
        out.measured |= speed
        out.models = [results["text/untuned/seed0"]["model"]]
        out.documents = {"cpu-small": rounded(results, WHOLE)}

        from .pictures import draw
        from .tables import cpu_tables

        out.lines = list(cpu_tables(results))
        out.pictures = lambda folder: draw(results, folder)
    elif rung == "gpu":
        from .speed import measure_gpu

        document = measure_gpu(out=work / "gpu", say=say)
        gpu, out.timings = verdicts.gpu_claims(document)
        out.measured |= gpu
        out.documents = {"gpu-random-weights": document}
    elif rung == "paper":
        from .paper_scale import measure_paper

        out.measured |= verdicts.paper_claims(measure_paper(say=say))
    return out


def speed_job() -> Job:
    files = source_files(HERE, SHOWING | {"speech_experiment.py", "text_experiment.py"}, *COMMON)
    return Job("speed", f"{__package__}.speed:measure_cpu", {}, (*files, str(HERE / "analytic.py")), 60)


if __name__ == "__main__":
    raise SystemExit(main(HERE, measure))
