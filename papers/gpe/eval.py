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
    from .baselines import ABLATIONS, COMPARED, FACTORS
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
    for arm in (*COMPARED, "group", *ABLATIONS, *FACTORS):
        job(f"{arm}, {SHORT} steps", "tune", 8, arm=arm, steps=SHORT)
    job(f"batch, {LONG} steps", "tune_batch", 26, steps=LONG)
    job(f"group with batch, {LONG} steps", "tune_with_batch", 27, steps=LONG)
    return jobs


def speech_jobs(bank: str = "espeak") -> list[Job]:
    """Group ids at every phi and seed; one longer tuning shows whether the farthest offset catches up."""
    from .speech_experiment import LONGER, PHIS, SEEDS, TUNE_STEPS

    files, jobs = source_files(HERE, SHOWING | {"speed.py", "text_experiment.py", "toy.py"}, *COMMON, "data/speech.py"), []
    if bank == "fsdd":
        from common.data.text import data_file

        files = (*files, str(data_file("speech/fsdd.zip")))
    for seed in SEEDS:
        weights = [str(HERE / "standins-speech" / f"seed{seed}" / f) for f in ("model.safetensors", "encoder.safetensors")]
        for phi in PHIS if bank == "espeak" else PHIS[:1]:
            kind = "speech" if bank == "espeak" else "digits"
            function, seconds = ("tune", 60) if bank == "espeak" else ("recorded", 150)
            jobs.append(Job(f"{kind}/phi {phi}/seed{seed}", f"{__package__}.speech_experiment:{function}",
                            {"seed": seed, "phi": phi, "steps": TUNE_STEPS}, (*files, *weights), seconds))
    if bank == "espeak":
        jobs.append(Job(f"speech/phi {PHIS[-1]}, {LONGER} steps/seed0", f"{__package__}.speech_experiment:tune",
                        {"seed": 0, "phi": PHIS[-1], "steps": LONGER}, (*files, *weights), 170))
    return jobs


def measure_speech(rung: str, say: Say) -> Outcome:
    """`make speech-gpe`: about six minutes; with NINEFOLD_DATA recorded digits as well."""
    from . import verdicts
    from .pictures import draw
    from .tables import cpu_tables

    results = run_jobs(speech_jobs(), cache_dir() / "gpe", workers=2, threads=1, say=say)
    if os.environ.get("NINEFOLD_DATA"):
        say("recorded digits from NINEFOLD_DATA; the claims above do not need them")
        results |= run_jobs(speech_jobs("fsdd"), cache_dir() / "gpe", workers=2, threads=1, say=say)
    measured = verdicts.speech_claims(results)
    others = dict.fromkeys(verdicts.names("cpu-small") - set(measured), "make reproduce-gpe")
    return Outcome(measured=verdicts.analytic_claims() | measured, lines=list(cpu_tables(results)), elsewhere=others,
                   models=[results["speech/phi 0/seed0"]["model"]], datasets=[results["speech/phi 0/seed0"]["data"]],
                   documents={"speech": rounded(results, WHOLE)}, pictures=lambda folder: draw(results, folder))


def measure_multi30k(rung: str, say: Say) -> Outcome:
    """`make multi30k-gpe`: real translations from NINEFOLD_DATA; tables and pictures, no claim of its own (one seed)."""
    from common.data.text import DataError

    from . import verdicts
    from .pictures import draw
    from .real_experiment import LANGUAGES, files
    from .tables import real_table

    try:
        data = [path for language in LANGUAGES for split in ("train", "val", "test_2016_flickr") for path in files(language, split)]
    except DataError as error:
        raise RuntimeError(f"real translations: {error}") from error
    code = source_files(HERE, (SHOWING - {"template.py"}) | {"speed.py", "speech_experiment.py"}, *COMMON)
    jobs = [Job(f"multi30k/en-{language}", f"{__package__}.real_experiment:translate", {"language": language},
                (*code, *data), 1500) for language in LANGUAGES]
    results = run_jobs(jobs, cache_dir() / "gpe", workers=2, threads=1, say=say)
    return Outcome(measured=verdicts.analytic_claims(), lines=list(real_table(results)), documents={"multi30k": rounded(results, WHOLE)},
                   elsewhere=dict.fromkeys(verdicts.names("cpu-small"), "make reproduce-gpe or make speech-gpe"),
                   pictures=lambda folder: draw(results, folder))


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
        out.elsewhere = dict.fromkeys(("C7a", "C7b"), "make speech-gpe")

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
    raise SystemExit(main(HERE, measure, parts={"speech": measure_speech, "multi30k": measure_multi30k}))
