"""FastV and PyramidDrop with no fewer pairs than VisiPruner on the very test questions that all three answer.

The default run gives its rivals VisiPruner's pairs on validation pictures, and on test pictures they may have a little fewer. How many
pairs VisiPruner leaves on the test questions takes no labels to know; here that is the rivals' budget, rounded up to a whole token.
Where they drop is still chosen by right answers on validation pictures.

    make reproduce-visipruner ONLY=equal
"""

from __future__ import annotations

from collections.abc import Mapping

from common.runs.jobs import Job
from common.standins.llava import SEEDS, stand_in
from common.vision.llava import N_VISUAL
from common.vision.parts import Parts

from ..baselines import RIVALS, Rival, settings
from ..method import VisiPrunerConfig, paper
from ..pruners import VisiPruner
from . import llava
from .llava import SIZES, Set, Size

# (boundary, threshold) that the recorded default run's calibration chose for the committed models; a test holds them to its results.
CALIBRATED = {0: (3, 0.01), 1: (0, 0.02), 2: (1, 0.02)}


def jobs(size: str = "cpu") -> list[Job]:
    seeds = [seed for seed in SIZES[size].seeds if seed in SEEDS]
    return [Job(f"equal/seed{seed}", f"{__name__}:equal", {"seed": seed, "size": size}, seconds=40) for seed in seeds]


def calibrated(seed: int) -> VisiPrunerConfig:
    boundary, threshold = CALIBRATED[seed]
    return paper(shallow=None, boundary=boundary, relative=True, tokens_threshold=threshold)


def equal(seed: int, size: str = "cpu") -> dict:
    return compared(stand_in(seed), calibrated(seed), SIZES[size])


def compared(parts: Parts, config: VisiPrunerConfig, s: Size, rivals: Mapping[str, Rival] = RIVALS) -> dict:
    """{"test": {arm: bits}, "pairs": {arm: share left}, "settings": {rival: [place, share]}, "pictures": of each question}."""
    val, test = Set.of(parts, "val", s.validation), Set.of(parts, "test", s.test)
    n = parts.decoder.config.num_hidden_layers
    runs = {"dense": test.run(), "VisiPruner": test.run(VisiPruner(config))}
    chosen: dict[str, tuple] = {}
    whole = test.run(VisiPruner(config.with_(exit_cos=2)))  # what the filter layer keeps, whether or not vision ends later
    runs["lot at its K"] = test.run(llava.at_own_k(test.asked, whole, "lot", 0))
    budget = test.pairs(runs["VisiPruner"])
    for name, rival in rivals.items():
        at = settings(rival, N_VISUAL, n, budget, test.planned)
        chosen[name] = max(at, key=lambda setting: llava.measured(val, rival.make(*setting))[::-1])  # of equal ones that with more pairs
        runs[name] = test.run(rival.make(*chosen[name]))
    return {"test": {name: llava.bits(run.right) for name, run in runs.items()},
            "pairs": {name: test.pairs(run) for name, run in runs.items()},
            "settings": {name: [list(place) if isinstance(place, tuple) else place, share] for name, (place, share) in chosen.items()},
            "pictures": [q.picture for q in test.asked]}
