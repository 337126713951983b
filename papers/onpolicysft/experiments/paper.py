"""The paper's own table: models that you trained with configs/cuda, and their bases, on its five benchmarks.

    make reproduce-onpolicysft RUNG=paper

looks in `lightning_logs/onpolicysft/` (another folder: OPSFT_RUNS) for what a training leaves, `<run>/model`, and samples
answers of it and of the model that it was trained from, at temperature 1 with nothing truncated, graded by math-verify
(common/benchmarks/maths.py). Mean tokens are over all responses, right or wrong; the five benchmarks count equally.

Scores of a model are kept beside it in `<run>/benchmarks/`: a run that was killed goes on with the next benchmark.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from common.benchmarks import maths, reasoning
from common.benchmarks.sampled import sampling_lm
from common.errors import UserError
from common.files import write_json
from common.models import ModelSpec, load

RUNS = {"1.5b": "r1-distill-qwen-1.5b", "7b": "r1-distill-qwen-7b"}


def runs_folder() -> Path:
    return Path(os.environ.get("OPSFT_RUNS", "lightning_logs/onpolicysft"))


def measure(folder: Path, log: Callable[[str], None]) -> dict[str, dict]:
    """Of the paper rung; scores stand beside the models and not in the folder of the rung."""
    return measure_paper(log)


def measure_paper(log: Callable[[str], None] = print, device: str = "cuda", benchmarks: Sequence[str] = tuple(maths.BENCHMARKS),
                  **options) -> dict[str, dict]:
    """{size: {"base": mean over the benchmarks, "trained": ...}} of the runs that are there.

    options: of maths.evaluate (repeats, limit, max_tokens), for a try. Raises UserError, with what is needed, without a GPU or
    without a trained model.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("rung paper needs a GPU of 80 GB (none is visible), the hub, and models trained with configs/cuda; see "
                        "papers/onpolicysft/README.md, section Run it")
    runs = {size: runs_folder() / run for size, run in RUNS.items() if (runs_folder() / run / "model" / "training.json").is_file()}
    if not runs:
        raise UserError(f"rung paper found no trained model in {runs_folder().name}/: train one with configs/cuda, and set "
                        "OPSFT_RUNS to the folder that holds the runs")

    def mean(run: Path, which: str, name: str) -> dict:
        kept = scores(run, which, name, benchmarks, device, log, options)
        return reasoning.macro_average({b: reasoning.score(s["correct"], s["lengths"], s["cap"]) for b, s in kept.items()})

    means = {}
    for size, run in runs.items():
        about = json.loads((run / "model" / "training.json").read_text())
        means[size] = {"base": mean(run, "base", str(about["trained_from"])), "trained": mean(run, "trained", str(run / "model"))}
    return means


def scores(run: Path, which: str, name: str, benchmarks: Sequence[str], device: str, log, options: dict) -> dict[str, dict]:
    """{benchmark: maths.evaluate's} of a model, one after the other; what is kept already is read."""
    scored, lm = {}, None
    for benchmark in benchmarks:
        path = run / "benchmarks" / f"{which}.{benchmark}.json"
        if not path.is_file():
            if lm is None:
                spec = ModelSpec(name=name, dtype="bfloat16" if device == "cuda" else "float32", device=device)
                loaded = load(spec)
                lm = sampling_lm(loaded.model, loaded.tokenizer)
            log(f"{which}: {benchmark}")
            write_json(path, maths.evaluate(lm, [benchmark], **options)[benchmark])
        scored[benchmark] = json.loads(path.read_text())
    return scored
