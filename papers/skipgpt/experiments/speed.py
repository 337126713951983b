"""What real skipping saves in time, beside the most that it could save.

Three rules make the figures honest. All variants of a case run in one process in turn, so that a
speed-up is a median over rounds, not a ratio of two moods of the machine. Every speed-up stands
beside its bound: FLOPs in prefill, weight traffic in decoding. And what cannot be right is flagged:
skip mode slower than mask mode, a speed-up more than 5 % above every bound (work was left out), an
executed FLOP too many or too few. What one case is stands in `timed.py`.

`measure` saves after each case and continues from what it saved. `python -m papers.skipgpt.experiments.speed`
prints the table for the shape of SmolLM2-135M, or, with `--device cuda`, of Llama-3.1-8B and
Llama-2-7B; the last line is JSON. The KV cache is as large with skipping as without.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import transformers

from common.errors import SetupError
from common.models import ModelSpec, load
from common.runs.jobs import Job
from common.runs.sources import closure
from common.timing.cases import Timetable, finished, in_a_process, over_processes, run_cases, time_allowed
from common.timing.clock import FEWEST, calibrate, facts, peak_rss_bytes

from .. import analytic
from ..analytic import Shape
from .timed import Case, dense_seconds, run_case, stock_and_routed

SYMBOLS = ("d", "f", "L", "H", "KV", "dh", "V", "tied")  # what a result says of the shape
TOLERANCE = 1.05  # above its bound by more than this, a speed-up is not believed


@dataclass(frozen=True)
class Plan:
    """Prefill of batches x prompt_lengths, and decoding of `steps` tokens at decode_batches (default: batches) x contexts; each dense,
    in mask mode and in skip mode at every sparsity. repeats, warmup: rounds of all variants (warm-up at least 2). time_limit: seconds
    for the measurement, loading not included."""

    batches: tuple[int, ...] = (1, 8)
    prompt_lengths: tuple[int, ...] = (128, 512)
    contexts: tuple[int, ...] = (256,)
    decode_batches: tuple[int, ...] | None = None
    sparsities: tuple[float, ...] = (0.0, 0.25, 0.40, 0.50)
    steps: int = 4
    repeats: int = 10
    warmup: int = 1
    seed: int = 0
    time_limit: float = 60.0

    def cases(self) -> list[Case]:
        prefill = [Case("prefill", b, n) for b in self.batches for n in self.prompt_lengths]
        decoding = self.batches if self.decode_batches is None else self.decode_batches
        return prefill + [Case("decode", b, n, self.steps) for b in decoding for n in self.contexts]

    def timetable(self, m: Shape, width: int, rates: dict[str, float], clock: Callable[[], float]) -> Timetable:
        """By the roofline of dense, of `width` bytes a value at calibrated rates: a round is dense, mask mode and skip mode at each s."""
        cases = self.cases()
        estimates = {c: dense_seconds(m, c, width, rates) * (2.1 + 0.75 * len(self.sparsities)) for c in cases}
        surely = min((c for c in cases if c.phase == "prefill"), default=None, key=lambda c: c.batch * c.length)
        return Timetable(estimates, self.time_limit, min(self.repeats, FEWEST) + max(self.warmup, 2), clock,
                         slower={"prefill": 1.5, "decode": 3.0}, kind=lambda c: c.phase, surely=surely)


@dataclass(frozen=True)
class Size:
    """What the CPU rung times: a model of this shape. calibration: seconds, before those of the plan, for what the CPU can do.
    job_seconds: how long the job takes, loading included."""

    shape: Shape
    plan: Plan
    calibration: float
    job_seconds: float


SIZES = {
    "cpu": Size(analytic.SMOLLM2_135M, Plan(time_limit=36.0), calibration=0.3, job_seconds=25.0),
    "smoke": Size(Shape(72, 192, 2, 9, 3, 8, 512, tied=True), Plan(batches=(1, 2), prompt_lengths=(8, 16), contexts=(16,), repeats=2,
                                                                   time_limit=10.0), calibration=0.05, job_seconds=1.5),
}
PROCESSES = 3
PREFILL = {"cpu": Plan(batches=(1,), prompt_lengths=(128,), contexts=(), sparsities=(0.40,), repeats=9, time_limit=12.0),
           "smoke": Plan(batches=(1,), prompt_lengths=(16,), contexts=(), sparsities=(0.40,), repeats=2, time_limit=5.0)}
THOROUGH = Plan(batches=(1, 2, 4, 8), prompt_lengths=(16, 32, 64, 128, 256, 512), repeats=20, time_limit=900.0)
GPU = Plan(batches=(1, 8), prompt_lengths=(1024, 4096), contexts=(1024,), decode_batches=(1, 8, 32), steps=8, repeats=30, warmup=10,
           time_limit=540.0)


# -- all cases -------------------------------------------------------------------------------------
def measure(spec: ModelSpec | dict, plan: Plan, *, device: str = "cpu", dtype: str = "float32", out: Path | None = None,
            rates: dict[str, float] | None = None, calibration: float = 1.0, log: Callable[[str], None] = print,
            clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Times the cases of a plan.

    spec: a model, or a `transformers` config as a dict for random weights; of a family whose layers
    are all alike. The smallest prefill runs in any case, then the other cases from the smallest; the
    largest are dropped if they would not fit, and "not_run" lists which and why. What runs gets as
    many of the rounds as there is time for, at least FEWEST. out: JSON file, written whole after each
    case; cases in it under the same settings and sources are not run again. rates {"flops_per_s",
    "bytes_per_s"}, for the estimates: calibrated in so many seconds if not given.

    Returns a JSON document: "settings", "cases" {name: ...}, "not_run", "flags", "pays_from".
    Raises ModelError for a model that cannot be loaded, TypeError for one that cannot be routed.
    """
    if isinstance(spec, dict):
        spec = ModelSpec("random", config=spec, seed=plan.seed)
    model, _, source = load(replace(spec, device=device, dtype=dtype, attn_implementation="sdpa"))
    m, models, cases = Shape.of(model.config), stock_and_routed(model, plan.seed), plan.cases()
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in closure(f"{__package__}.speed")))
    settings = facts(device) | {
        "model": source, "dtype": dtype, "seed": plan.seed, "sparsities": list(plan.sparsities), "repeats": plan.repeats,
        "warmup": plan.warmup, "transformers": transformers.__version__, "sources_sha256": digest.hexdigest()}
    done = finished(out, settings, cases, log)
    if rates is None:
        limits = calibrate(device, seconds=calibration)
        rates = {"flops_per_s": limits["gemm_flops_per_s"].get(dtype, 1e12),
                 "bytes_per_s": limits["copy_bytes_per_s"]}
    document = {"settings": settings, "shape": {name: getattr(m, name) for name in SYMBOLS}, "rates": rates, "cases": done}

    def run(case: Case, seconds: float) -> dict[str, Any]:
        return run_case(models, m, case, plan.sparsities, plan.repeats, plan.warmup, plan.seed, seconds, clock)

    def judged(document: dict[str, Any]) -> dict[str, Any]:
        return {"flags": flags(done), "pays_from": pays_from(done), "peak_rss_bytes": peak_rss_bytes()}

    run_cases(cases, run, plan.timetable(m, model.dtype.itemsize, rates, clock), document, out=out, judged=judged, line=line, log=log)
    for entry in document["not_run"]:
        log(f"  not run: {entry['case']}: {entry['reason']}")
    for flag in document["flags"]:
        log(f"  FLAG: {flag}")
    return document


# -- what to make of it ----------------------------------------------------------------------------
def flags(cases: dict[str, dict]) -> list[str]:
    """What cannot be right: in words, [] if nothing."""
    flagged = []
    for name, case in cases.items():
        for variant, s in case["speedups"].items():
            limit = max(s.get("bound", 1.0), s.get("flop_bound", 1.0))
            if s["speedup"] > TOLERANCE * limit:
                flagged.append(f"suspicious: {name}, {variant}: {s['speedup']:.3f}x, but at most "
                             f"{limit:.3f}x is possible")
        for variant, row in case["variants"].items():
            if row.get("flops") != row.get("expected_flops"):
                flagged.append(f"suspicious: {name}, {variant}: {row['flops']} FLOPs executed, not "
                             f"{row['expected_flops']}")
        if len({r.get("kv_cache_bytes") for r in case["variants"].values()} - {None}) > 1:
            flagged.append(f"suspicious: {name}: the variants leave caches of different sizes")
    prompts = [n for n, c in cases.items() if c["phase"] == "prefill"]
    if prompts:
        largest = max(prompts, key=lambda n: cases[n]["batch"] * cases[n]["length"])
        ratios = {v: s["speedup"] for v, s in cases[largest]["speedups"].items()}
        mask, skip = (max(v for v in ratios if v.startswith(mode)) for mode in ("mask", "skip"))
        if ratios[skip] < ratios[mask]:
            flagged.append(f"slower than mask mode: {largest}, {skip}: {ratios[skip]:.3f}x of dense, "
                         f"{mask}: {ratios[mask]:.3f}x")
    return flagged


def pays_from(cases: dict[str, dict]) -> dict[str, dict[str, int | None]]:
    """{variant: {"B=1": the shortest prompt measured from which on skipping beats dense}}.

    Beats: the lower quartile of the rounds is above 1, here and at every longer prompt. None: not
    at the longest.
    """
    def wins(case: dict, variant: str) -> bool:
        ratios = sorted(case["speedups"][variant]["ratios"])
        return ratios[len(ratios) // 4] > 1

    shortest: dict[str, dict[str, int | None]] = {}
    prompts = [c for c in cases.values() if c["phase"] == "prefill"]
    for batch in sorted({c["batch"] for c in prompts}):
        falling = sorted((c for c in prompts if c["batch"] == batch), key=lambda c: -c["length"])
        for variant in (v for v in falling[0]["speedups"] if v.startswith("skip")):
            paying = [c["length"] for c in takewhile(lambda c, v=variant: wins(c, v), falling)]
            shortest.setdefault(variant, {})[f"B={batch}"] = paying[-1] if paying else None
    return shortest


def line(case: dict[str, Any]) -> str:
    """One case in one line: dense time, speed-ups with their bounds, routers."""
    name = Case(case["phase"], case["batch"], case["length"], case["steps"]).name
    text = f"{name:<20s} n={case['rounds']:<3d}"
    for variant in sorted({"dense", case["best_dense"]}):
        text += f" {variant} {case['variants'][variant]['median'] * 1e3:.1f} ms/{case['per']}"
    for variant, s in case["speedups"].items():
        text += f"  {variant} {s['speedup']:.2f}x"
        text += f" of {s['bound']:.2f}" if "bound" in s else ""
        text += "?" if s["noisy"] else ""
    return f"{text}  routers {100 * case['router_share_of_dense']:.1f} %"


# -- what the rungs ask for ------------------------------------------------------------------------
def jobs(size: str = "cpu") -> list[Job]:
    """One prefill, dense and skipping, in PROCESSES processes: rounds within one say how fine a ratio is, processes how sure."""
    return [Job(f"speed/process{i}", f"{__name__}:one_process", {"process": i, "size": size}, seconds=SIZES[size].job_seconds)
            for i in range(PROCESSES)]


def one_process(process: int, size: str = "cpu") -> dict[str, Any]:
    """Jobs of one run may share a worker; a process more makes sure that these do not."""
    return in_a_process(prefill, process, size)


def prefill(process: int, size: str) -> dict[str, Any]:
    """process: also the seed of what is skipped."""
    n = SIZES[size]
    return measure(n.shape.config(max_position_embeddings=8192), replace(PREFILL[size], seed=process), calibration=n.calibration)


def gpu(folder: Path, log: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """What the rung gpu runs: real sizes, {"8B": document, "7B": document}."""
    return measure_gpu(out=folder, log=log)


def measure_cpu(thorough: bool = False, time_limit: float | None = None, out: Path | None = None,
                seed: int = 0, log: Callable[[str], None] = print, size: str = "cpu", processes: int = 1) -> dict[str, Any]:
    """The shape of SmolLM2-135M in fp32 in 36 s a process; thorough: a grid, to see where it pays."""
    n = SIZES[size]
    plan = THOROUGH if thorough else n.plan
    plan = replace(plan, seed=seed, time_limit=time_limit or plan.time_limit)
    return over_processes(processes, measure, n.shape.config(max_position_embeddings=8192), plan, out=out, log=log,
                          calibration=n.calibration)


def measure_gpu(time_limit: float | None = None, out: Path | None = None, seed: int = 0,
                log: Callable[[str], None] = print, processes: int = 3) -> dict[str, dict[str, Any]]:
    """{"8B": ..., "7B": ...}, in bf16, each in half of the time or what the first one leaves; a process has its share.

    out: a folder for one JSON file each. Raises SetupError without a CUDA device.
    """
    if not torch.cuda.is_available():
        raise SetupError("no CUDA device: the rung gpu-random-weights times models of real size "
                         "on one GPU with 80 GB; a smaller one on the CPU: make reproduce-skipgpt ONLY=speed")
    documents, began, limit = {}, time.monotonic(), (time_limit or time_allowed(GPU.time_limit)) / processes
    for label in ("8B", "7B"):
        left = limit - (time.monotonic() - began) / processes
        log(f"{label} shape, bf16, random weights")
        plan = replace(GPU, seed=seed, time_limit=left / 2 if label == "8B" else left)
        config = analytic.PAPER[label].config(max_position_embeddings=8192)
        documents[label] = over_processes(processes, measure, config, plan, device="cuda", dtype="bfloat16", log=log,
                                          out=None if out is None else out / f"speed-{label}.json")
        torch.cuda.empty_cache()
    return documents


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """What fits into one line of JSON."""
    return {"device": document["settings"]["device"], "dtype": document["settings"]["dtype"],
            "speedups": {name: {v: round(s["speedup"], 4) for v, s in case["speedups"].items()}
                         for name, case in document["cases"].items()},
            "bounds": {name: {v: round(s["bound"], 4) for v, s in case["speedups"].items()
                              if "bound" in s} for name, case in document["cases"].items()},
            "not_run": [entry["case"] for entry in document["not_run"]],
            "flags": document["flags"], "pays_from": document["pays_from"]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Dense, mask and skip mode: time, FLOPs, bounds.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--thorough", action="store_true",
                        help="CPU: a grid of batches and lengths, to see where skipping pays")
    parser.add_argument("--time-limit", type=float, help="seconds of measurement (36; 900 if thorough; 540 on CUDA)")
    parser.add_argument("--out", type=Path, help="JSON file (a folder on CUDA), kept and continued")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.device == "cuda":
        try:
            documents = measure_gpu(options.time_limit, options.out, options.seed)
        except SetupError as error:
            print(f"skipgpt speed: {error}", file=sys.stderr)
            return 2
    else:
        print(f"shape of SmolLM2-135M, fp32, random weights, {torch.get_num_threads()} threads; "
              f"load average {os.getloadavg()[0]:.1f}")
        documents = {"SmolLM2-135M": measure_cpu(options.thorough, options.time_limit, options.out, options.seed)}
    print(json.dumps({label: summary(document) for label, document in documents.items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
