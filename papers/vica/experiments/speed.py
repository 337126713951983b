"""What ViCA saves in time, beside the most that it could save (spec 7.4, E4): the cases, what is kept of them, and what is doubted.

A case (timed.py) is a batch of prompts of one shape around a picture. A speed-up above its bound, the ratio of FLOPs, means that
the baseline is handicapped, and is flagged like every other thing that cannot be right.

Another process gets other memory, and keeps it: so a timing is of PROCESSES of them, one after the other, and the rounds within
one say how finely it could be read. `measure` saves after each case and goes on from what it saved.
`python -m papers.vica.experiments.speed` measures the shape of SmolLM2-135M, with --device cuda LLaVA-1.5-7B in bf16, and
records nothing.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from common.errors import UserError
from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.runs.sources import closure
from common.timing.cases import Timetable, finished, in_a_process, run_cases, time_allowed
from common.timing.clock import FEWEST, facts

from .. import analytic, method
from ..analytic import Shape
from .timed import GRAPH, Case, Run, agreement, expected_flops, run_case, stock_and_ours

TOLERANCE = 1.1  # above its bound by more than this, a speed-up is not believed (spec 7.4)
CLAIMED = {1: 3.5, 8: 10.0}  # batch -> speed-up (spec C3, C4)
PROCESSES = 3
READ = ("dense", "vica", "masked")  # variants that claims read


@dataclass(frozen=True)
class Size:
    """What `measure_cpu` times: one case at a shape with these cross layers, at most `repeats` rounds."""

    shape: Shape
    layers: tuple[int, ...]
    case: Case
    repeats: int


# cpu: the shape of SmolLM2-135M, 8 of its 30 layers, 35 + 576 + 27 tokens (spec 8.2, E4). smoke: every variant, in a second.
SIZES = {
    "smoke": Size(Shape(32, 64, 3, 4, 2, 8, 96, name="three small layers"), (0, 2), Case(1, 3, 2, visual=72, decode=(1, 2)), repeats=3),
    "cpu": Size(analytic.SMOLLM2_135M, method.PAPER_CROSS_LAYERS["llava-1.5-7b"], Case(1, 35, 27, decode=(1, 16)), repeats=20),
}


def jobs(size: str = "cpu") -> list[Job]:
    processes, seconds = (PROCESSES, 14.0) if size == "cpu" else (1, 2.0)
    return [Job(f"speed/process{i}", f"{__package__}.speed:one_process", {"process": i, "time_limit": seconds, "size": size},
                seconds=2 * seconds) for i in range(processes)]


def one_process(process: int, time_limit: float, size: str) -> dict[str, Any]:
    """`measure_cpu`, at size cpu in a process of its own; only the first also times what no claim is about, decoding and other variants."""
    run = measure_cpu if size == "smoke" else functools.partial(in_a_process, measure_cpu)
    return run(time_limit, size=size, whole=not process)


def gpu(folder: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """{"processes": documents of `measure_gpu`}, the time allowed shared among them."""
    if not torch.cuda.is_available():
        measure_gpu(log=log)  # names what is missing
    share = time_allowed(540.0) / PROCESSES
    return {"processes": [in_a_process(measure_gpu, folder / f"process{i}", time_limit=share) for i in range(PROCESSES)]}


def measure_cpu(time_limit: float = 20.0, out: Path | None = None, log: Callable[[str], None] = print, size: str = "cpu",
                whole: bool = True) -> dict[str, Any]:
    """One case of SIZES in fp32. whole: with decoding and all variants, and not only those that claims read."""
    s = SIZES[size]
    case = s.case if whole else replace(s.case, decode=(), only=READ)
    return measure(s.shape, s.layers, [case], Run("cpu", "float32", repeats=s.repeats, time_limit=time_limit), out=out, log=log)


def measure_gpu(out: Path | None = None, log: Callable[[str], None] = print, time_limit: float = 540.0) -> dict[str, Any]:
    """The decoder of LLaVA-1.5-7B in bf16, random weights, the grid of spec 7.4. Raises UserError without a CUDA device.

    out: a folder for speed.json, kept and continued.
    """
    if not torch.cuda.is_available():
        raise UserError("no CUDA device: the rung gpu-random-weights times a model of real size on one GPU with 80 GB; a smaller "
                        "one on the CPU: make reproduce-vica ONLY=speed")
    cases = [Case(batch, prefix, suffix, decode=(1, 16, 128) if suffix == 27 else ())
             for batch in (1, 8, 16, 32) for prefix, suffix in ((1, 29), (35, 27), (35, 65), (35, 262))]
    run = Run("cuda", "bfloat16", repeats=50, warmup=10, time_limit=time_limit, vision=True)
    return measure(analytic.LLAVA_7B, method.PAPER_CROSS_LAYERS["llava-1.5-7b"], cases, run,
                   out=None if out is None else out / "speed.json", log=log)


# -- all cases ---------------------------------------------------------------------------------------------
def measure(shape: Shape, layers: Sequence[int], cases: Sequence[Case], run: Run, *, out: Path | None = None,
            config: dict | None = None, log: Callable[[str], None] = print,
            clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """A JSON document: "settings", "cases" {name: see run_case}, "agreement", "not_run", "flags", "met".

    layers: cross layers. A case gets as many rounds as the time allows, at least FEWEST, the smallest case in any case. out: JSON
    file, written whole after each case; cases in it of the same settings and sources are not run again. config: of the model, if
    not the shape's own.
    """
    config = config or shape.config(max_position_embeddings=4096)
    models = stock_and_ours(load(ModelSpec("random", config=config, device=run.device, dtype=run.dtype, seed=run.seed)).model)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in closure(f"{__package__}.speed")))
    settings = facts(run.device) | {
        "shape": shape.name, "dtype": run.dtype, "layers": list(layers), "seed": run.seed, "repeats": run.repeats, "warmup": run.warmup,
        "transformers": transformers.__version__, "sources_sha256": digest.hexdigest()}
    document: dict[str, Any] = {"settings": settings, "cases": finished(out, settings, cases, log),
                                "agreement": agreement(config, run.device, run.seed)}
    work = {c: expected_flops(shape, c, "dense", layers) for c in cases}
    timetable = Timetable(work, run.time_limit, FEWEST + 2, clock, slower={"": None}, surely=min(work, key=work.get))

    def timed(case: Case, seconds: float) -> dict[str, Any]:
        return run_case(models, shape, case, layers, run, seconds, clock)

    def judged(document: dict[str, Any]) -> dict[str, Any]:
        return {"flags": flags(document), "met": met(document)}

    return run_cases(cases, timed, timetable, document, out=out, judged=judged, line=line, log=log)


def line(result: dict[str, Any]) -> str:
    """One case as it is logged."""
    return (f"B={result['batch']} P={result['prefix']} Q={result['suffix']}: {result['rounds']} rounds in {result['seconds']:.0f} s, "
            f"dense / vica {result['ratios']['dense / vica']['median']:.2f}")


# -- what to make of it ------------------------------------------------------------------------------------
def flags(document: dict[str, Any]) -> list[str]:
    """What cannot be right: in words, [] if nothing."""
    doubts = [f"suspicious: ViCA with {update} prefix and its masked definition differ by {100 * gap:.2g} % of the largest logit"
             for update, gap in document["agreement"].items() if not gap < 1e-3]
    near = 0.1 if document["settings"]["dtype"] == "bfloat16" else 1e-3
    for name, case in document["cases"].items():
        if not case["difference"] < near:
            doubts.append(f"suspicious: {name}: logits of ViCA and of its masked definition are {100 * case['difference']:.2g} % apart")
        for variant, row in case["variants"].items():
            if row.get("flops") != row.get("expected_flops"):
                doubts.append(f"suspicious: {name}, {variant}: {row['flops']} FLOPs executed, not {row['expected_flops']}")
        for pair, ratio in case["ratios"].items():
            if pair.startswith("dense") and ratio["median"] > TOLERANCE * ratio["bound"]:
                doubts.append(f"suspicious: {name}: {pair} is {ratio['median']:.2f}x, but at most {ratio['bound']:.2f}x is possible: "
                             "the dense baseline is handicapped")
            if pair == "masked / vica" and ratio["median"] < 1:
                doubts.append(f"slower than the masked definition: {name}: {ratio['median']:.2f}x")
    return doubts


def met(document: dict[str, Any]) -> list[str]:
    """Whether the paper's speed-ups are met here, at which length of text, in words; only batches that it names."""
    answers = []
    for case in document["cases"].values():
        modes = [f"dense / vica{GRAPH}", f"dense / vica frozen{GRAPH}"]
        if case["batch"] not in CLAIMED or modes[0] not in case["ratios"]:
            continue
        best = max((m for m in modes if m in case["ratios"]), key=lambda m: case["ratios"][m]["median"])
        value, claimed = case["ratios"][best]["median"], CLAIMED[case["batch"]]
        answers.append(f"{'met' if value > claimed else 'not met'}: more than {claimed}x at batch {case['batch']}: {value:.2f}x of at "
                     f"most {case['ratios'][best]['bound']:.2f}x ({best}) with {case['text']} text tokens")
    return answers


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """What fits into one line of JSON."""
    def each(what: str) -> dict[str, dict[str, float]]:
        return {name: {pair: round(r[what], 3) for pair, r in case["ratios"].items()} for name, case in document["cases"].items()}

    return {"device": document["settings"]["device"], "shape": document["settings"]["shape"], "speedups": each("median"),
            "bounds": each("bound"), "not_run": [entry["case"] for entry in document["not_run"]], "flags": document["flags"]}


def refuse_out(out: Path | None, folder: bool) -> None:
    """Raises UserError for an --out that could not be written, before minutes of measurement."""
    if out is None:
        return
    wrong, there = ("a file", out.is_file()) if folder else ("a folder", out.is_dir())
    if there:
        raise UserError(f"--out {out} is {wrong}, and what is measured goes into {'a folder' if folder else 'a JSON file'}")
    try:
        (out if folder else out.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: its folder cannot be made ({error.strerror})") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prefill and decoding of ViCA, dense and text only: time beside FLOPs.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--time-limit", type=float, help="seconds of measurement (20; 540 on CUDA)")
    parser.add_argument("--out", type=Path, help="JSON file (a folder on CUDA), kept and continued")
    options = parser.parse_args(argv)
    try:
        refuse_out(options.out, folder=options.device == "cuda")
        if options.time_limit is not None and not 0 < options.time_limit < math.inf:
            raise UserError(f"--time-limit {options.time_limit}: seconds, above 0")
        if options.device == "cuda":
            document = measure_gpu(options.out, print, options.time_limit or 540.0)
        else:
            print(f"{torch.get_num_threads()} threads; load average {os.getloadavg()[0]:.1f}")
            document = measure_cpu(options.time_limit or 20.0, options.out)
    except UserError as error:
        print(f"vica speed: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary(document)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
