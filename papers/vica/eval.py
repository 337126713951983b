"""A verdict for every claim: `python -m papers.vica.eval --rung cpu` is what `make reproduce-vica` runs.

Rungs: `analytic` (seconds; part of every run), `cpu` (two cores, ten minutes: a small LLaVA taught to look in few layers,
pruning beside it, prefill timed at SmolLM2-135M's dimensions), `gpu` (LLaVA-1.5-7B's dimensions, random weights), `paper`
(the paper's models and data). Finished jobs are kept and reused. Records of a run go to results/.scratch/; `--publish`
writes results/ itself, from a clean tree only.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.jobs import Job, run_jobs
from common.models import cache_dir
from common.reproduce import Outcome, Say, main, rounded, source_files
from common.standins import FOLDER, SEEDS

HERE = Path(__file__).parent
# What only shows or judges results that exist: its changes compute nothing anew.
SHOWING = {"eval.py", "verdicts.py", "tables.py", "pictures.py", "reported.py", "checks.py", "train.py", "paper_scale.py", "lmms.py",
           "pretrained.py"}
COMMON = ("models.py", "multimodal.py", "llava.py", "standins.py", "vision.py", "steps.py", "data/scenes.py", "data/easyvqa.py")


def files(seed: int | None = None) -> tuple[str, ...]:
    weights = () if seed is None else tuple(str(FOLDER / f"seed{seed}" / f) for f in ("model.safetensors", "config.json"))
    return (*source_files(HERE, SHOWING | {"speed.py"}, *COMMON), *weights)


def first_jobs(work: Path) -> list[Job]:
    """What needs no other job. Seconds are for one core of a 2024 server, and only order the work and estimate the rest."""
    jobs = []
    for seed in SEEDS:
        jobs.append(Job(f"all layers/seed{seed}", f"{__package__}.experiment:one",
                        {"seed": seed, "weights": str(work / f"all-layers-{seed}.safetensors")}, files(seed), 110))
        jobs.append(Job(f"dense/seed{seed}", f"{__package__}.experiment:two", {"seed": seed, "arm": "dense", "layers": None},
                        files(seed), 100))
        jobs.append(Job(f"text/seed{seed}", f"{__package__}.experiment:two", {"seed": seed, "arm": "text", "layers": []}, files(seed), 25))
        jobs.append(Job(f"pruned/seed{seed}", f"{__package__}.experiment:pruned", {"seed": seed}, files(seed), 60))
    return jobs


def arms(first: dict, seed: int) -> dict[str, list[int]]:
    """Sets of layers, chosen by what the seed's all-layer model said on validation pictures, or without looking."""
    from .baselines import last_layers, random_layers
    from .experiment import WIDER, K
    from .selection import bottom, top

    found = first[f"all layers/seed{seed}"]
    worth, n = {int(k): v for k, v in found["leave-one-out"].items()}, found["layers"]
    return {"top": list(top(worth, K)), "bottom": list(bottom(worth, K)), "last": list(last_layers(n, K)),
            "drawn": list(random_layers(n, K, seed)), "greedy": found["greedy"]["kept"], "wide": kept_by_greedy(found, WIDER)}


def kept_by_greedy(found: dict, count: int) -> list[int]:
    """What greedy elimination had left when it was down to `count` layers."""
    gone = [layer for layer, _ in found["greedy"]["steps"]]
    return sorted(set(range(found["layers"])) - set(gone[: found["layers"] - count]))


def second_jobs(first: dict) -> list[Job]:
    return [Job(f"{arm}/seed{seed}", f"{__package__}.experiment:two",
                {"seed": seed, "arm": arm, "layers": layers, "drop": arm == "wide"}, files(seed), 80 if arm == "wide" else 45)
            for seed in SEEDS for arm, layers in arms(first, seed).items()]


def measure(rung: str, say: Say) -> Outcome:
    from . import verdicts

    out = Outcome(measured=verdicts.analytic_claims())
    work = cache_dir() / "vica"
    if rung == "cpu":
        say("pictures and features of the frozen vision tower")
        results = run_jobs([Job(f"features/{split}", f"{__package__}.experiment:prepare", {"split": split}, files(), seconds)
                            for split, seconds in (("train", 30), ("val", 5), ("test", 12))], work, workers=2, threads=1, say=say)
        results |= run_jobs(first_jobs(work), work, workers=2, threads=1, say=say)
        results |= run_jobs(second_jobs(results), work, workers=2, threads=1, say=say)
        say("timing prefills, alone on the machine")
        results |= run_jobs([speed_job()], work, workers=1, threads=os.cpu_count() or 1, say=say)
        out.measured |= verdicts.small_claims(results)
        speed, out.timings = verdicts.speed_claims(results["speed"])
        out.measured |= speed
        out.models = [results["all layers/seed0"]["model"]]
        out.datasets = [{"name": "generated scenes and easy-VQA", "split": "test", "n": results["features/test"]}]
        out.documents = {"cpu-small": rounded(results)}
        out.elsewhere = {"C1r": "make scratch-vica", "C8c": "make patches-vica"}

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


def measure_scratch(rung: str, say: Say) -> Outcome:
    """`make scratch-vica`: ViCA trained from nothing by the recipe of the dense stand-in (claim C1r)."""
    from . import verdicts
    from .baselines import uniform_layers
    from .experiment import K
    from .tables import scratch_table

    jobs = [Job(f"scratch/seed{seed}", f"{__package__}.experiment:scratch", {"seed": seed, "layers": list(uniform_layers(8, K))},
                files(seed), 850) for seed in SEEDS]
    results = run_jobs(jobs, cache_dir() / "vica", workers=2, threads=1, say=say)
    measured = verdicts.scratch_claims(results)
    others = dict.fromkeys(verdicts.names("cpu-small") - set(measured), "make reproduce-vica or make patches-vica")
    return Outcome(measured=verdicts.analytic_claims() | measured, lines=list(scratch_table(results)), elsewhere=others,
                   documents={"scratch": rounded(results)})


def measure_patches(rung: str, say: Say) -> Outcome:
    """`make patches-vica`: an encoder that has not mixed its patches (claim C8c)."""
    from . import verdicts
    from .tables import patch_table

    work = cache_dir() / "vica"
    jobs = [Job(f"patches/{arm}/seed{seed}", f"{__package__}.experiment:patches", {"seed": seed, "arm": arm}, files(), seconds)
            for seed in SEEDS for arm, seconds in (("dense", 400), ("vica", 250))]
    results = run_jobs(jobs, work, workers=2, threads=1, say=say)
    measured = verdicts.patch_claims(results)
    others = dict.fromkeys(verdicts.names("cpu-small") - set(measured), "make reproduce-vica or make scratch-vica")
    return Outcome(measured=verdicts.analytic_claims() | measured, lines=list(patch_table(results)), elsewhere=others,
                   documents={"patches": rounded(results)})


def speed_job() -> Job:
    used = [HERE / name for name in ("speed.py", "method.py", "reference.py", "analytic.py")]
    return Job("speed", f"{__package__}.speed:measure_cpu", {}, tuple(map(str, used)), 60)


if __name__ == "__main__":
    raise SystemExit(main(HERE, measure, parts={"scratch": measure_scratch, "patches": measure_patches}))
