"""A verdict for every claim: `python -m papers.gpe.eval --rung cpu` is what `make reproduce-gpe` runs.

Rungs: `analytic` (seconds; part of every run), `smoke` (half a minute: the default run and `--speech` at tiny sizes), `cpu` (two
cores, ten minutes: toy translation in every arm, timings), `gpu` (real size, random weights), `paper` (the paper's models and
data). Finished jobs are kept and reused. Records of a run go to results/.scratch/; `--publish` writes results/ itself, from a
clean tree only.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.jobs import Job, run_jobs
from common.reproduce import Outcome, Say, main, rounded, work_folder

HERE = Path(__file__).parent
WHOLE = ("statistics", "sentences")  # per-sentence lists: kept in the cache, too long to commit


# -- the jobs ----------------------------------------------------------------------------------------------
def text_jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu, and only order the work and estimate the rest."""
    from .baselines import ABLATIONS, COMPARED, FACTORS
    from .text_experiment import PHIS, SIZES

    s, jobs = SIZES[size], []

    def job(name: str, function: str, seconds: float, **arguments) -> None:
        jobs.extend(Job(f"text/{name}/seed{seed}", f"{__package__}.text_experiment:{function}",
                        {"seed": seed, "size": size, **arguments}, seconds=_guess(seconds, size)) for seed in s.seeds)

    job("untuned", "untuned", 4)
    for arm in ("interleaved", "batch_streaming"):
        job(f"{arm}, {s.long} steps", "tune", 27, arm=arm, budget="long")
    for phi in PHIS:
        job(f"group, phi {phi}, {s.long} steps", "tune", 27, arm="group", phi=phi, budget="long")
    for arm in (*COMPARED, "group", *ABLATIONS, *FACTORS):
        job(f"{arm}, {s.short} steps", "tune", 8, arm=arm, budget="short")
    job(f"batch, {s.long} steps", "tune_batch", 26)
    job(f"group with batch, {s.long} steps", "tune_with_batch", 27)
    return jobs


def speed_job(size: str = "cpu") -> Job:
    return Job("speed", f"{__package__}.speed:measure_cpu", {"size": size}, seconds=_guess(60, size))


def speech_jobs(size: str = "cpu") -> list[Job]:
    """Group ids at every phi and seed; one longer tuning shows whether the farthest offset catches up."""
    from .speech_experiment import PHIS, SIZES

    s = SIZES[size]
    tuned = [(phi, seed, "short", "") for phi in PHIS for seed in s.seeds] + [(PHIS[-1], 0, "long", f", {s.long} steps")]
    return [Job(f"speech/phi {phi}{more}/seed{seed}", f"{__package__}.speech_experiment:tune",
                {"seed": seed, "phi": phi, "budget": budget, "size": size}, seconds=_guess(60 if budget == "short" else 170, size))
            for phi, seed, budget, more in tuned]


def digit_jobs(size: str = "cpu") -> list[Job]:
    """Recorded digits. Raises DataError where NINEFOLD_DATA lacks them."""
    from common.data.text import data_file

    from .speech_experiment import PHIS, SIZES

    data = (str(data_file("speech/fsdd.zip")),)
    return [Job(f"digits/phi {PHIS[0]}/seed{seed}", f"{__package__}.speech_experiment:recorded",
                {"seed": seed, "phi": PHIS[0], "size": size}, data, _guess(150, size)) for seed in SIZES[size].seeds]


def multi30k_jobs(size: str = "cpu") -> list[Job]:
    """Raises DataError where NINEFOLD_DATA lacks a file."""
    from .real_experiment import LANGUAGES, files

    data = tuple(path for language in LANGUAGES for split in ("train", "val", "test_2016_flickr") for path in files(language, split))
    return [Job(f"multi30k/en-{language}", f"{__package__}.real_experiment:translate", {"language": language, "size": size}, data,
                _guess(1500, size)) for language in LANGUAGES]


def every_job(size: str = "cpu") -> list[Job]:
    """Those of all commands; what needs NINEFOLD_DATA only where that is set."""
    more = [*digit_jobs(size), *multi30k_jobs(size)] if os.environ.get("NINEFOLD_DATA") else []
    return [*text_jobs(size), speed_job(size), *speech_jobs(size), *more]


def _guess(seconds: float, size: str) -> float:
    """Seconds that a job takes: at size smoke one, whatever it is."""
    return {"smoke": 1.0, "cpu": seconds}[size]


# -- the commands ------------------------------------------------------------------------------------------
def measure_small(size: str, say: Say) -> Outcome:
    """`make reproduce-gpe`. size: "cpu" or "smoke"."""
    from . import verdicts
    from .pictures import draw
    from .tables import cpu_tables

    work = work_folder("gpe", size)
    results = run_jobs(text_jobs(size), work, workers=2, threads=1, say=say)
    say("timing streams, alone on the machine")
    results |= run_jobs([speed_job(size)], work, workers=1, threads=os.cpu_count() or 1, say=say)
    speed, timings = verdicts.speed_claims(results["speed"])
    return Outcome(measured=verdicts.analytic_claims() | verdicts.text_claims(results, size) | speed, timings=timings,
                   models=[results["text/untuned/seed0"]["model"]], documents={"cpu-small": rounded(results, WHOLE)},
                   elsewhere=dict.fromkeys(("C7a", "C7b"), "make speech-gpe"), lines=list(cpu_tables(results, size)),
                   pictures=lambda folder: draw(results, folder, size))


def measure_speech(rung: str, say: Say) -> Outcome:
    """`make speech-gpe`: about six minutes; with NINEFOLD_DATA recorded digits as well."""
    from . import verdicts
    from .pictures import draw
    from .tables import cpu_tables

    size = "smoke" if rung == "smoke" else "cpu"
    results = run_jobs(speech_jobs(size), work_folder("gpe", size), workers=2, threads=1, say=say)
    if size == "cpu" and os.environ.get("NINEFOLD_DATA"):  # the smoke rung needs no data beyond the repository
        say("recorded digits from NINEFOLD_DATA; the claims above do not need them")
        results |= run_jobs(digit_jobs(size), work_folder("gpe", size), workers=2, threads=1, say=say)
    measured = verdicts.speech_claims(results, size)
    others = dict.fromkeys(verdicts.names("cpu-small") - set(measured), "make reproduce-gpe")
    return Outcome(measured=verdicts.analytic_claims() | measured, lines=list(cpu_tables(results, size)), elsewhere=others,
                   models=[results["speech/phi 0/seed0"]["model"]], datasets=[results["speech/phi 0/seed0"]["data"]],
                   documents={"speech": rounded(results, WHOLE)}, pictures=lambda folder: draw(results, folder, size))


def measure_multi30k(rung: str, say: Say) -> Outcome:
    """`make multi30k-gpe`: real translations from NINEFOLD_DATA; tables and pictures, no claim of its own (one seed)."""
    from common.data.text import DataError

    from . import verdicts
    from .pictures import draw
    from .tables import real_table

    try:
        jobs = multi30k_jobs()
    except DataError as error:
        raise RuntimeError(f"real translations: {error}") from error
    results = run_jobs(jobs, work_folder("gpe", rung), workers=2, threads=1, say=say)
    return Outcome(measured=verdicts.analytic_claims(), lines=list(real_table(results)), documents={"multi30k": rounded(results, WHOLE)},
                   elsewhere=dict.fromkeys(verdicts.names("cpu-small"), "make reproduce-gpe or make speech-gpe"),
                   pictures=lambda folder: draw(results, folder))


def walk_small(say: Say) -> Outcome:
    """The default run and that of speech at size smoke. All their jobs are run first, by the same two processes: starting one
    takes longer than what it then does. The first of speech synthesises the words that the others find."""
    first, *others = speech_jobs("smoke")
    jobs = [first, *text_jobs("smoke"), speed_job("smoke"), *others]
    run_jobs(jobs, work_folder("gpe", "smoke"), workers=2, threads=1, say=say)
    text, speech = measure_small("smoke", say), measure_speech("smoke", say)
    return Outcome(measured=text.measured | speech.measured, timings=text.timings, models=text.models + speech.models,
                   datasets=speech.datasets, documents=text.documents | speech.documents, lines=text.lines + speech.lines,
                   pictures=lambda folder: [*text.pictures(folder), *speech.pictures(folder)], left_out=("multi30k.svg",))


def measure(rung: str, say: Say) -> Outcome:
    from . import verdicts

    if rung == "smoke":
        return walk_small(say)
    if rung == "cpu":
        return measure_small("cpu", say)
    out = Outcome(measured=verdicts.analytic_claims())
    if rung == "gpu":
        from .speed import measure_gpu

        document = measure_gpu(out=work_folder("gpe", rung) / "gpu", say=say)
        gpu, out.timings = verdicts.gpu_claims(document)
        out.measured |= gpu
        out.documents = {"gpu-random-weights": document}
    elif rung == "paper":
        from .paper_scale import measure_paper

        out.measured |= verdicts.paper_claims(measure_paper(say=say))
    return out


if __name__ == "__main__":
    raise SystemExit(main(HERE, measure, parts={"speech": measure_speech, "multi30k": measure_multi30k}))
