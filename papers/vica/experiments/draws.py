"""Are chosen layers better than drawn ones? Three draws beside each choice: `make reproduce-vica ONLY=draws`.

The default run has one drawn pair a seed, and where that does as well as a chosen one, it may have been lucky. Here, per seed, the
pairs of the highest scores and of greedy elimination are tuned for the same steps on the same rows as three pairs drawn by lot, none
of which is the last pair, and all answer the same questions. Twenty minutes of two cores for three seeds.
"""

from __future__ import annotations

from common.runs.jobs import Job
from common.vision.parts import Parts

from .. import selection
from ..baselines import random_layers
from ..scoring import blind, dense, tested, vica
from .llava import SIZES, K, items, tuned, worth

DRAWS = 3


def jobs(size: str = "cpu") -> list[Job]:
    s = SIZES[size]
    return [Job(f"draws/seed{seed}", f"{__name__}:draws", {"seed": seed, "size": size}, seconds=min(200.0, s.job_seconds))
            for seed in s.seeds]


def draws(seed: int, size: str = "cpu") -> dict:
    """{"blind", "items", "dense", "arms": {"top", "greedy", "drawn 0", ...: {"layers", "loss", "test"}}} of a seed."""
    from common.standins.llava import stand_in

    s, whole = SIZES[size], stand_in(seed)
    every = tuple(range(whole.decoder.config.num_hidden_layers))
    tuned(whole, every, seed, s)
    single, greedy, _ = worth(whole, every, s, K)
    sets = {"top": selection.top({int(k): v for k, v in single.items()}, K), "greedy": tuple(greedy)} | {
        f"drawn {i}": random_layers(len(every), K, seed, i) for i in range(DRAWS)}

    def answered(parts: Parts, layers: tuple[int, ...] | None) -> dict:
        loss = tuned(parts, layers, seed, s)
        way = dense(parts) if layers is None else vica(parts, layers)
        return {"layers": layers and list(layers), "loss": loss, "test": tested(parts, way, s.test, s.easy)}

    found: dict[tuple[int, ...], dict] = {}
    for layers in sets.values():  # a set that was drawn and chosen is tuned once
        if layers not in found:
            found[layers] = answered(stand_in(seed), layers)
    return {"blind": blind(s.test, s.easy), "items": items(s)["all"], "dense": answered(stand_in(seed), None),
            "arms": {arm: found[layers] for arm, layers in sets.items()}}
