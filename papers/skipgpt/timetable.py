"""Which cases are timed, in which order and in how many seconds each, so that a measurement ends when it was told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .timed import FEWEST, Case


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


class Timetable:
    """Which case comes next, and in how many seconds, so that all ends at the plan's time limit.

    dense {case: seconds of one dense run by the roofline}. not_run {case: why}. What a round really takes is a factor above
    the roofline, one for prefill and one for decoding, which every case that has run corrects.
    """

    def __init__(self, plan: Plan, dense: dict[Case, float], clock: Callable[[], float]):
        self.plan, self.clock, self.began = plan, clock, clock()
        self.not_run: dict[Case, str] = {}
        self.slower = {"prefill": 1.5, "decode": 3.0}
        # A round: dense, mask mode, skip mode at each s.
        self.round_seconds = {case: seconds * (2.1 + 0.75 * len(plan.sparsities)) for case, seconds in dense.items()}
        self.surely = min((c for c in dense if c.phase == "prefill"), default=None, key=lambda c: c.batch * c.length)

    def gone(self) -> float:
        return self.clock() - self.began

    def a_round(self, case: Case) -> float:
        return self.round_seconds[case] * self.slower[case.phase]

    def took(self, case: Case, seconds: float) -> None:
        self.slower[case.phase] *= seconds / self.a_round(case)

    def next(self, pending: list[Case]) -> tuple[Case, float] | None:
        """The next case and its share of the time left; None, and in `not_run` why, where no other fits."""
        pending = sorted((c for c in pending if c not in self.not_run), key=lambda c: (c != self.surely, self.a_round(c)))
        if not pending:
            return None
        left = self.plan.time_limit - self.gone()
        # A case: warm-up and FEWEST rounds or more.
        least = {c: self.a_round(c) * (min(self.plan.repeats, FEWEST) + max(self.plan.warmup, 2)) for c in pending}
        fits = list(pending)
        while fits and sum(least[c] for c in fits) > left and fits != [self.surely]:
            fits.pop()
        if not fits:
            self.not_run |= {c: f"needs about {least[c]:.0f} s, {max(left, 0):.0f} s of {self.plan.time_limit:.0f} s were left"
                             for c in pending}
            return None
        return fits[0], left * self.a_round(fits[0]) / sum(self.a_round(c) for c in fits)
