"""C16a, C16b: what a READ and a WRITE cost, from the processes of experiments/ratios.py. No number here judges."""

from __future__ import annotations

from statistics import fmean, median

from common.claims.processes import extreme

from .experiments.ratios import PLAIN, READ, READ_ANEW, WRITE, WRITE_ANEW


def live(results: dict, size: str = "cpu") -> dict[str, dict]:
    """Time over that of a plain step, round by round, the largest over lengths. Placebos, of fewer rounds: what encodes the source or the
    target anew, over the median of the plain steps."""
    found = [results[name]["seconds"] for name in sorted(results) if name.startswith("ratios/process")]

    def largest(way: str, round_by_round: bool = True) -> tuple[dict, dict[str, float]]:
        cases = {length: [[a / b for a, b in zip(of[length][way], of[length][PLAIN], strict=True)] if round_by_round
                          else [a / median(of[length][PLAIN]) for a in of[length][way]] for of in found] for length in found[0]}
        return extreme(cases), {f"{way} / {PLAIN}, {length} tokens": fmean(median(of) for of in rounds)
                                for length, rounds in cases.items()}

    measured = {}
    for claim, way, anew in (("C16a", READ, READ_ANEW), ("C16b", WRITE, WRITE_ANEW)):
        ours, control = largest(way), largest(anew, round_by_round=False)
        measured[claim] = ours[0] | {"placebo": control[0], "baselines": ours[1] | control[1]}
    return measured
