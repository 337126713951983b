"""C5b, C5c: what a picture costs over the text alone, from the processes of experiments/ratios.py. No number here judges."""

from __future__ import annotations

from statistics import fmean, median

from common.claims.processes import extreme

from .experiments.ratios import OURS, PLACEBO, TEXT


def over_text(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Time over that of the text alone, round by round, the largest over batches. Placebos: 64 visual tokens; the dense model."""
    found = [results[name] for name in sorted(results) if name.startswith("ratios/process")]

    def largest(what: str, way: str) -> tuple[dict, dict[str, float]]:
        cases = {batch: [[a / b for a, b in zip(of[what][batch][way], of[what][batch][TEXT], strict=True)] for of in found]
                 for batch in found[0][what]}
        return extreme(cases), {f"{way} / {TEXT}, batch {batch}": fmean(median(of) for of in rounds) for batch, rounds in cases.items()}

    measured = {}
    for claim, what, placebo in (("C5b", "prefill", PLACEBO), ("C5c", "decoding", "dense")):
        ours, control = largest(what, OURS), largest(what, placebo)
        measured[claim] = ours[0] | {"placebo": control[0], "baselines": ours[1] | control[1]}
    return measured
