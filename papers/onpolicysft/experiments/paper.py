"""The paper's own table: models that you trained with configs/cuda, their bases and rivals, on its five benchmarks.

    make reproduce-onpolicysft RUNG=paper

looks in `lightning_logs/onpolicysft/` (another folder: OPSFT_RUNS) for what trainings leave, `<run>/model`, and samples answers of
each and of the model that it was trained from, at temperature 1 with nothing truncated (common/benchmarks/maths.py). Mean tokens
are over all responses, right or wrong; the five benchmarks count equally.

    r1-distill-qwen-1.5b, r1-distill-qwen-7b     the method (C1, C2, C3)
    <either>.fixed-data, .grpo, .T0.3 ... .T1.5   the same config with another class or temperature (C8, C6 and C7, C9)
    rivals/<name>/model                           ten other methods' checkpoints at 1.5B, in the hub's format (C4)

Scores of a model are kept beside it in `<run>/benchmarks/`, with the hash of the weights and all that was asked: a run that was killed
goes on with the next benchmark, and other weights under the same name are scored anew.
"""

from __future__ import annotations

import csv
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from common.benchmarks import maths, reasoning
from common.benchmarks.kept import kept
from common.benchmarks.sampled import sampling_lm
from common.errors import UserError
from common.models import ModelSpec, load

RUNS = {"1.5b": "r1-distill-qwen-1.5b", "7b": "r1-distill-qwen-7b"}
ARMS = ("fixed-data", "grpo", "T0.3", "T0.6", "T1.2", "T1.5")  # ends of a run's name


def runs_folder() -> Path:
    return Path(os.environ.get("OPSFT_RUNS", "lightning_logs/onpolicysft"))


def measure(folder: Path, log: Callable[[str], None]) -> dict[str, dict]:
    """Of the paper rung; scores stand beside the models and not in the folder of the rung."""
    return measure_paper(log)


def measure_paper(log: Callable[[str], None] = print, device: str = "cuda", benchmarks: Sequence[str] = tuple(maths.BENCHMARKS),
                  **options) -> dict[str, dict]:
    """{size: {"base" | "trained" | an arm | "rival NAME": means, "curves": {"trained" | an arm: [[step, avg, tokens]]}}} of what is there.

    means: macro_average's, with "normalised_length_std" and "by_benchmark" {name: avg}. options: of maths.evaluate (repeats, limit,
    max_tokens), for a try. Raises UserError, with what is needed, without a GPU or without a trained model.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("rung paper needs a GPU of 80 GB (none is visible), the hub, and models trained with configs/cuda; see "
                        "papers/onpolicysft/README.md, section Run it")
    runs = {size: runs_folder() / run for size, run in RUNS.items() if finished(runs_folder() / run)}
    if not runs:
        raise UserError(f"rung paper found no trained model in {runs_folder().name}/: train one with configs/cuda, and set "
                        "OPSFT_RUNS to the folder that holds the runs")

    def mean(run: Path, which: str, name: str, revision: str | None = None) -> dict:
        return means(scores(run, which, ModelSpec(name, revision=revision), benchmarks, device, log, options))

    found: dict[str, dict] = {}
    for size, run in runs.items():
        about = json.loads((run / "model" / "training.json").read_text(encoding="utf-8"))
        arms = {arm: run.with_name(f"{run.name}.{arm}") for arm in ARMS if finished(run.with_name(f"{run.name}.{arm}"))}
        found[size] = {"base": mean(run, "base", str(about["trained_from"]), about.get("revision")),
                       "trained": mean(run, "trained", str(run / "model"))}
        found[size] |= {arm: mean(each, "trained", str(each / "model")) for arm, each in arms.items()}
        curves = {arm: curve(each) for arm, each in {"trained": run, **arms}.items()}
        found[size]["curves"] = {arm: points for arm, points in curves.items() if points}
    if "1.5b" in found:
        for folder in sorted((runs_folder() / "rivals").glob("*/model")):
            found["1.5b"][f"rival {folder.parent.name}"] = mean(folder.parent, "trained", str(folder))
    return found


def finished(run: Path) -> bool:
    return (run / "model" / "training.json").is_file()


def means(scored: dict[str, dict]) -> dict:
    """Over the benchmarks, unweighted."""
    every = {b: reasoning.score(s["correct"], s["lengths"], s["cap"]) for b, s in scored.items()}
    spreads = [s.normalised_length_std for s in every.values()]
    return reasoning.macro_average(every) | {
        "normalised_length_std": None if None in spreads else sum(s for s in spreads if s is not None) / len(spreads),
        "by_benchmark": {b: s.avg for b, s in every.items()}}


def scores(run: Path, which: str, spec: ModelSpec, benchmarks: Sequence[str], device: str, log, options: dict) -> dict[str, dict]:
    """{benchmark: maths.evaluate's} of a model, one after the other; what is kept of these very weights is read."""
    loaded = load(ModelSpec(spec.name, revision=spec.revision, dtype="bfloat16" if device == "cuda" else "float32", device=device))
    asked = {"weights_sha256": loaded.source["weights_sha256"], "dtype": str(loaded.model.dtype),
             "options": {name: str(value) for name, value in sorted(options.items())}}
    lm = functools.cache(lambda: sampling_lm(loaded.model, loaded.tokenizer))  # only if something is asked

    def score(benchmark: str) -> dict:
        log(f"{which}: {benchmark}")
        found = maths.evaluate(lm(), [benchmark], **options)
        assert found is not None, "of one process"
        return found[benchmark]

    return {benchmark: kept(run / "benchmarks" / f"{which}.{benchmark}.json", asked, functools.partial(score, benchmark),
                            lambda line, benchmark=benchmark: log(f"{which}: {benchmark}: {line}")) for benchmark in benchmarks}


def curve(run: Path) -> list[list[float]]:
    """[[step, accuracy, tokens]] of a training's validations, from its CSV logs; of a step that was run twice the later."""
    points: dict[float, list[float]] = {}
    for path in sorted(run.glob("logs/version_*/metrics.csv"), key=lambda p: int(p.parent.name.rpartition("_")[2])):
        with path.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                if row.get("val/avg") and row.get("val/tokens"):
                    step = float(row["step"])
                    points[step] = [step, float(row["val/avg"]), float(row["val/tokens"])]
    return [points[step] for step in sorted(points)]
