"""C15f, C15g: how near skipping comes to its bounds, from the processes of experiments/ratios.py. No number here judges."""

from __future__ import annotations

from statistics import fmean

from common.claims.processes import over_processes
from common.errors import RecordError

from .experiments.ratios import DECODING, PREFILL
from .quantities import timing


def bounds_reached(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Speed-ups by their bounds, round by round. Placebo: mask mode by the same bound. Raises RecordError where a case did not run."""
    documents = [results[name] for name in sorted(results) if name.startswith("ratios/process")]
    for document in documents:
        if document["not_run"]:
            raise RecordError("{case} was not timed: {reason}. Run it where nothing else runs".format(**document["not_run"][0]))
    return {"C15f": _reached(documents, "prefill", PREFILL), "C15g": _reached(documents, "decode", DECODING)}


def _reached(documents: list[dict], phase: str, skipping: str) -> dict:
    cases = [case for document in documents for case in document["cases"].values() if case["phase"] == phase]
    masking = next(name for name in cases[0]["speedups"] if name.startswith("mask"))

    def shares(variant: str) -> dict:
        return over_processes([[ratio / case["speedups"][skipping]["bound"] for ratio in case["speedups"][variant]["ratios"]]
                               for case in cases])

    beside = {f"{name}, times dense": fmean(case["speedups"][name]["speedup"] for case in cases) for name in (masking, skipping)}
    beside["bound"] = fmean(case["speedups"][skipping]["bound"] for case in cases)
    noisiest = max(cases, key=lambda case: case["speedups"][skipping]["iqr"])
    return shares(skipping) | {"placebo": shares(masking), "baselines": beside, "timing": timing(noisiest, skipping)}
