"""A verdict for every claim: `python -m papers.vica.eval --rung cpu` is what `make reproduce-vica` runs.

Rungs: `analytic` (seconds; part of every run), `cpu` (two cores, ten minutes: a small LLaVA taught to look in few layers,
pruning beside it, prefill timed at SmolLM2-135M's dimensions), `smoke` (the same at tiny sizes, and patches with it), `gpu`
(LLaVA-1.5-7B's dimensions, random weights), `paper` (the paper's models and data). Finished jobs are kept and reused. Records
of a run go to results/.scratch/; `--publish` writes results/ itself, from a clean tree only.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.jobs import Job, run_jobs
from common.reproduce import Outcome, Say, main, rounded, work_folder

from .sizes import SIZES, WIDER, K

HERE = Path(__file__).parent
SPLITS = (("train", 30), ("val", 5), ("test", 12))


# -- the jobs ----------------------------------------------------------------------------------------------
def job(name: str, function: str, size: str, seconds: float, after: tuple[str, ...] = (), **arguments) -> Job:
    """seconds: on one core of a 2024 server at the size "cpu"; they only order the work and estimate the rest."""
    return Job(name, f"{__package__}.{function}", arguments | {"size": size}, seconds=min(seconds, SIZES[size].job_seconds), after=after)


def first_jobs(size: str, work: Path) -> list[Job]:
    """Features of the frozen vision tower, and what needs nothing else. work: the folder for the tuned weights."""
    jobs = [job(f"features/{split}", "experiment:prepare", size, seconds, split=split) for split, seconds in SPLITS]
    features = tuple(made.name for made in jobs)
    for seed in SIZES[size].seeds:
        weights = str(work / f"all-layers-{seed}.safetensors")
        jobs += [job(f"all layers/seed{seed}", "experiment:one", size, 110, features, seed=seed, weights=weights),
                 job(f"dense/seed{seed}", "experiment:two", size, 100, features, seed=seed, arm="dense", layers=None),
                 job(f"text/seed{seed}", "experiment:two", size, 25, features, seed=seed, arm="text", layers=[]),
                 job(f"pruned/seed{seed}", "experiment:pruned", size, 60, features, seed=seed)]
    return jobs


def arms(first: dict, seed: int) -> dict[str, list[int]]:
    """Sets of layers, chosen by what the seed's all-layer model said on validation pictures, or without looking."""
    from .baselines import last_layers, random_layers
    from .selection import bottom, top

    found = first[f"all layers/seed{seed}"]
    worth, n = {int(k): v for k, v in found["leave-one-out"].items()}, found["layers"]
    return {"top": list(top(worth, K)), "bottom": list(bottom(worth, K)), "last": list(last_layers(n, K)),
            "drawn": list(random_layers(n, K, seed)), "greedy": found["greedy"]["kept"], "wide": kept_by_greedy(found, WIDER)}


def kept_by_greedy(found: dict, count: int) -> list[int]:
    """What greedy elimination had left when it was down to `count` layers."""
    gone = [layer for layer, _ in found["greedy"]["steps"]]
    return sorted(set(range(found["layers"])) - set(gone[: found["layers"] - count]))


def second_jobs(size: str, first: dict) -> list[Job]:
    """first: results of `first_jobs`, of which the sets of layers follow."""
    return [job(f"{arm}/seed{seed}", "experiment:two", size, 80 if arm == "wide" else 45, seed=seed, arm=arm, layers=layers,
                drop=arm == "wide")
            for seed in SIZES[size].seeds for arm, layers in arms(first, seed).items()]


def speed_job(size: str) -> Job:
    return job("speed", "speed:measure_cpu", size, 60)


def scratch_jobs(size: str) -> list[Job]:
    from .baselines import uniform_layers

    return [job(f"scratch/seed{seed}", "experiment:scratch", size, 850, seed=seed, layers=list(uniform_layers(8, K)))
            for seed in SIZES[size].seeds]


def patch_jobs(size: str) -> list[Job]:
    return [job(f"patches/{arm}/seed{seed}", "experiment:patches", size, seconds, seed=seed, arm=arm)
            for seed in SIZES[size].seeds for arm, seconds in (("dense", 400), ("vica", 250))]


def every_job(size: str = "cpu") -> list[Job]:
    """All jobs of all commands; those that follow from results, from results of the right shape."""
    found = {"layers": 8, "leave-one-out": {str(k): 1.0 - k / 8 for k in range(8)},
             "greedy": {"kept": [0, 1], "steps": [[k, 0.0] for k in range(7, 1, -1)]}}
    first = {f"all layers/seed{seed}": found for seed in SIZES[size].seeds}
    return [*first_jobs(size, work_folder("vica", size)), *second_jobs(size, first), speed_job(size), *scratch_jobs(size),
            *patch_jobs(size)]


# -- the rungs ---------------------------------------------------------------------------------------------
def measure(rung: str, say: Say) -> Outcome:
    if rung == "smoke":
        return measure_smoke(say)
    if rung == "cpu":
        return measure_small(rung, say)
    from . import verdicts

    out = Outcome(measured=verdicts.analytic_claims())
    if rung == "gpu":
        from .speed import measure_gpu

        document = measure_gpu(out=work_folder("vica", rung) / "gpu", say=say)
        gpu, out.timings = verdicts.gpu_claims(document)
        out.measured |= gpu
        out.documents = {"gpu-random-weights": document}
    elif rung == "paper":
        from .paper_scale import measure_paper

        out.measured |= verdicts.paper_claims(measure_paper(say=say))
    return out


def measure_small(size: str, say: Say) -> Outcome:
    """The default run. size: of SIZES."""
    from . import verdicts
    from .pictures import draw
    from .tables import cpu_tables

    out = Outcome(measured=verdicts.analytic_claims())
    work, seeds = work_folder("vica", size), SIZES[size].seeds
    results = run_jobs(first_jobs(size, work), work, workers=2, threads=1, say=say)
    results |= run_jobs(second_jobs(size, results), work, workers=2, threads=1, say=say)
    say("timing prefills, alone on the machine")
    results |= run_jobs([speed_job(size)], work, workers=1, threads=os.cpu_count() or 1, say=say)
    out.measured |= verdicts.small_claims(results, seeds)
    speed, out.timings = verdicts.speed_claims(results["speed"])
    out.measured |= speed
    out.models = [results[f"all layers/seed{seeds[0]}"]["model"]]
    out.datasets = [{"name": "generated scenes and easy-VQA", "split": "test", "n": results["features/test"]}]
    out.documents = {"cpu-small": rounded(results)}
    out.elsewhere = {"C1r": "make scratch-vica", "C8c": "make patches-vica"}
    out.lines = list(cpu_tables(results, seeds))
    out.pictures = lambda folder: draw(results, folder, seeds)
    return out


def measure_smoke(say: Say) -> Outcome:
    """The default run and patches, at tiny sizes. What needs no results of others runs first and in one go, for at this size it is
    the start of a worker that takes the time; timings need not be alone."""
    work = work_folder("vica", "smoke")
    run_jobs([*first_jobs("smoke", work), *patch_jobs("smoke"), speed_job("smoke")], work, workers=2, threads=1, say=say)
    out, patches = measure_small("smoke", say), measure_patches("smoke", say)
    out.measured |= patches.measured
    out.documents |= patches.documents
    out.lines += patches.lines
    out.elsewhere = {claim: command for claim, command in out.elsewhere.items() if claim not in out.measured}
    return out


def measure_scratch(rung: str, say: Say) -> Outcome:
    """`make scratch-vica`: ViCA trained from nothing by the recipe of the dense stand-in (claim C1r)."""
    from . import verdicts
    from .tables import scratch_table

    seeds = SIZES[rung].seeds
    results = run_jobs(scratch_jobs(rung), work_folder("vica", rung), workers=2, threads=1, say=say)
    measured = verdicts.scratch_claims(results, seeds)
    others = dict.fromkeys(verdicts.names("cpu-small") - set(measured), "make reproduce-vica or make patches-vica")
    return Outcome(measured=verdicts.analytic_claims() | measured, lines=list(scratch_table(results, seeds)), elsewhere=others,
                   documents={"scratch": rounded(results)})


def measure_patches(rung: str, say: Say) -> Outcome:
    """`make patches-vica`: an encoder that has not mixed its patches (claim C8c)."""
    from . import verdicts
    from .tables import patch_table

    seeds = SIZES[rung].seeds
    results = run_jobs(patch_jobs(rung), work_folder("vica", rung), workers=2, threads=1, say=say)
    measured = verdicts.patch_claims(results, seeds)
    others = dict.fromkeys(verdicts.names("cpu-small") - set(measured), "make reproduce-vica or make scratch-vica")
    return Outcome(measured=verdicts.analytic_claims() | measured, lines=list(patch_table(results, seeds)), elsewhere=others,
                   documents={"patches": rounded(results)})


if __name__ == "__main__":
    raise SystemExit(main(HERE, measure, parts={"scratch": measure_scratch, "patches": measure_patches}))
