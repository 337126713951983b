"""The paper's own tables: students that you trained with configs/cuda, on its four benchmarks.

    make reproduce-decouplingkl RUNG=paper

looks in `lightning_logs/decouplingkl/` (another folder: DKL_RUNS) for what trainings leave, `<run>/model`, where a run is called as
its config: 4b-sr-128 is teacher, cell, training length. Answers are sampled at temperature 1 with nothing truncated under a cap of
8,192 tokens, graded by math-verify; the four benchmarks count equally. What is asked stands in configs/cuda/benchmarks.json:
`math` is math500 or math5000, the whole MATH test set, which the paper's own columns seem to be (a file of {"problem", "answer"}
lines, $NINEFOLD_DATA/maths/math5000.jsonl).

Scores are kept beside a model in `<run>/benchmarks/`, with the hash of its weights and all that was asked: a run that was killed goes on
with the next benchmark, and a run that was trained anew is scored anew.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.benchmarks import maths, reasoning
from common.benchmarks.kept import kept
from common.benchmarks.sampled import sampling_lm
from common.errors import UserError
from common.models import ModelSpec, load
from common.reasoning.problems import Problem, read_problems
from common.reasoning.rollouts import sample
from common.reasoning.strict import StrictVerifier
from common.reasoning.verifiers import response_text

ASKED = Path(__file__).parent.parent / "configs" / "cuda" / "benchmarks.json"
MATHS = {"math500": 500, "math5000": 5000}


def runs_folder() -> Path:
    return Path(os.environ.get("DKL_RUNS", "lightning_logs/decouplingkl"))


def asked(path: Path = ASKED) -> dict[str, Any]:
    """The entries of benchmarks.json. Raises UserError naming the one that is wrong."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["math"] not in MATHS:
        raise UserError(f"{path.name}: math is {found['math']!r}; it is one of {', '.join(MATHS)}")
    if min(found["samples"], found["cap"]) < 1 or not found["temperature"] > 0:
        raise UserError(f"{path.name}: samples {found['samples']}, cap {found['cap']}, temperature {found['temperature']}; above 0 each")
    if odd := [b for b in found["benchmarks"] if b != "math" and b not in maths.BENCHMARKS]:
        raise UserError(f"{path.name}: {odd[0]!r} is no benchmark; there is math, {', '.join(maths.BENCHMARKS)}")
    return found


def measure(folder: Path, log: Callable[[str], None]) -> dict[str, dict]:
    """Of the paper rung; scores stand beside the models and not in the folder of the rung."""
    return measure_paper(log)


def measure_paper(log: Callable[[str], None] = print, device: str = "cuda", how: dict[str, Any] | None = None,
                  **options) -> dict[str, dict]:
    """{run: {"avg", "passed" (in %), "tokens", "at_cap", "by": {benchmark: {...}}, "math": which set}} of the runs that are there.

    how: as benchmarks.json. options: data, limit of maths.evaluate, for a try. Raises UserError, with what is needed, without a GPU
    or without a trained model.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("rung paper needs a GPU of 80 GB (none is visible), the hub, and models trained with configs/cuda; see "
                        "papers/decouplingkl/README.md, section Run it")
    runs = sorted(p.parent.parent for p in runs_folder().glob("*/model/training.json"))
    if not runs:
        raise UserError(f"rung paper found no trained model in {runs_folder().name}/: train one with configs/cuda, and set "
                        "DKL_RUNS to the folder that holds the runs")
    how = asked() if how is None else how
    return {run.name: summary(scores(run, how, device, log, options), how) for run in runs}


def summary(kept: dict[str, dict], how: dict[str, Any]) -> dict[str, Any]:
    """Means over benchmarks, in % and tokens, and each benchmark's own."""
    k = how["samples"]
    by = {}
    for name, s in kept.items():
        of = reasoning.score(s["correct"], s["lengths"], s["cap"])
        by[name] = {"avg": 100 * of.avg, "passed": 100 * reasoning.pass_at_first_k(s["correct"], min(k, of.samples)), "tokens": of.tokens,
                    "at_cap": of.at_cap}
    mean = {entry: sum(row[entry] for row in by.values()) / len(by) for entry in ("avg", "passed", "tokens", "at_cap")}
    return mean | {"by": by, "math": how["math"]}


def scores(run: Path, how: dict[str, Any], device: str, log: Callable[[str], None], options: dict) -> dict[str, dict]:
    """{benchmark: {"correct", "lengths", "cap", ...}} of a run, one after the other; what is kept of these very weights is read."""
    loaded = load(ModelSpec(name=str(run / "model"), dtype="bfloat16" if device == "cuda" else "float32", device=device))
    of = {"weights_sha256": loaded.source["weights_sha256"], "dtype": str(loaded.model.dtype),
          "asked": {name: how[name] for name in ("samples", "cap", "temperature")},
          "options": {name: str(value) for name, value in sorted(options.items())}}

    def score(name: str) -> dict[str, Any]:
        log(f"{run.name}: {name}")
        return of_a_file(loaded, how, **options) if name == "math5000" else of_lm_eval(loaded, name, how, **options)

    names = {benchmark: how["math"] if benchmark == "math" else benchmark for benchmark in how["benchmarks"]}
    return {benchmark: kept(run / "benchmarks" / f"{name}.{how['samples']}.json", of, functools.partial(score, name), log)
            for benchmark, name in names.items()}


def of_lm_eval(loaded, name: str, how: dict[str, Any], **options) -> dict[str, Any]:
    lm = sampling_lm(loaded.model, loaded.tokenizer)
    found = maths.evaluate(lm, [name], repeats=how["samples"], max_tokens=how["cap"], temperature=how["temperature"], **options)
    return (found or {})[name]


def of_a_file(loaded, how: dict[str, Any], data: Path | str | None = None, limit: int | None = None, **_) -> dict[str, Any]:
    """MATH's whole test set, from a file; asked and graded as the others are."""
    folder = data or os.environ.get("NINEFOLD_DATA")
    if not folder:
        raise UserError("math5000 is read from $NINEFOLD_DATA/maths/math5000.jsonl, a line of {\"problem\", \"answer\"} each: set "
                        "NINEFOLD_DATA, or math to math500 in benchmarks.json")
    entries, words = read_problems(Path(folder) / "maths" / "math5000.jsonl")[:limit], loaded.tokenizer
    problems = []
    for entry in entries:
        ids = words.apply_chat_template([{"role": "user", "content": entry["problem"]}], add_generation_prompt=True, return_dict=False,
                                        enable_thinking=False)
        problems.append(Problem(tuple(ids), entry["answer"], "maths"))
    ends = loaded.model.generation_config.eos_token_id
    end = {words.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    drawn = sample(loaded.model, [p.prompt for p in problems], how["samples"], how["cap"], temperature=how["temperature"],
                   end=end, generator=torch.Generator().manual_seed(0))
    with StrictVerifier() as verifier:
        right = verifier.verify_many([(response_text(words, r.ids, end), problems[r.prompt].gold) for r in drawn])
    rows = {"correct": [int(ok and r.finished) for ok, r in zip(right, drawn)], "lengths": [len(r.ids) for r in drawn]}
    return {name: reasoning.by_problem(row, how["samples"]) for name, row in rows.items()} | {"cap": how["cap"], "size": MATHS["math5000"]}
