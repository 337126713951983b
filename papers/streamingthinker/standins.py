"""The arms: small models of stories, tuned for as many steps from one base on the same rows, each in its own layout.

    base           the stand-in of common (trained on stories in the batch layout, contiguous positions): no arm, it is not tuned
    batch          goes on as it was trained                                         the paper's Batch-S, RoPE
    batch spe      the whole story first, positions from 0 in both streams           Batch-S, SPE
    streaming      sentence by sentence, positions from 0 in both streams            the method
    streaming far  the same, the target's positions from FAR on: same mask, no place in common
    interleaved    one text in which sentences and thoughts take turns
    batch own      batch at the rate that is best for it on validation stories (`sweep`): nobody else's rate is chosen

`make standins-streamingthinker` tunes those of arms-weights/; other seeds are tuned into the cache when an experiment asks for them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.data import stories
from common.data.stories import Level
from common.errors import ModelError
from common.files import building, cache_dir, write_json
from common.progress import progress
from common.standins import stories as base_of

from . import method
from .worded import segments_of

FOLDER = Path(__file__).parent / "arms-weights"
FAR = 256  # longer than any story
RATES = (5e-4, 1e-4)  # that `sweep` tries for batch reasoning, beside the common one and none at all
OWN = 5e-4  # what it chose (arms-weights/sweep.json)


@dataclass(frozen=True)
class Arm:
    """layout, positions and start of `method.collate`; how it is run: mode and start of `common.standins.stories.written`. rate: in the
    place of the tuning's."""

    layout: str
    positions: str = "spe"
    start: int = 0
    mode: str = "streaming"
    rate: float | None = None

    @property
    def runs_from(self) -> int | None:
        return None if self.positions == "rope" else self.start


ARMS = {"batch": Arm("batch", "rope", mode="batch"), "batch spe": Arm("batch", "spe", mode="batch"), "streaming": Arm("streaming"),
        "streaming far": Arm("streaming", start=FAR), "interleaved": Arm("interleaved", mode="interleaved"),
        "batch own": Arm("batch", "rope", mode="batch", rate=OWN)}


@dataclass(frozen=True)
class Tuning:
    """steps of `rows` stories, a cosine down from `rate`; level and order of the stories."""

    steps: int = 300
    rows: int = 48
    rate: float = 1.5e-3
    warm: int = 20
    level: Level = Level((3, 7), (2, 3))

    def at(self, step: int) -> float:
        if step < self.warm:
            return self.rate * (step + 1) / self.warm
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - self.warm) / (self.steps - self.warm)))


def committed() -> tuple[int, ...]:
    """Seeds whose base is there, in order."""
    there = (path.parent.name.removeprefix("seed") for path in base_of.FOLDER.glob("seed*/model.safetensors"))
    return tuple(sorted(int(name) for name in there if name.isdecimal()))


def base(seed: int):
    """(model, tokenizer, facts). Raises ModelError for a base that is missing or below its bars: nothing may be measured on it."""
    folder = base_of.FOLDER / f"seed{seed}"
    if not (folder / "training.json").is_file():
        raise ModelError(f"the stand-in of seed {seed} is missing: run `python -m common.standins.stories --seeds {seed}`, some twenty "
                         "minutes of a core")
    card = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    if not base_of.reaches(card):
        found = {name: card["test"][name] for name in base_of.BARS}
        raise ModelError(f"the stand-in of seed {seed} has {found} on unseen stories and needs {base_of.BARS}: nothing can be measured "
                         "on it; train it longer")
    return base_of.load_stories(folder)


def rows_at(step: int, seed: int, how: Tuning, tell: Callable[[int, str, int], stories.Story] | None = None) -> list[method.Segments]:
    """The rows of a step, the same for every arm: stories no test ever asks, depths drawn evenly. tell: (number, split, seed) -> a story,
    default totals of the tuning's level."""
    draw = np.random.default_rng([seed, 21, step // 4])
    tell = tell or partial(stories.totals, level=how.level)
    told = [tell(10**8 + (step // 4) * 1000 + i, "train", seed) for i in range(4 * how.rows)]
    rows = sorted((segments_of(story, int(draw.integers(1, 4))) for story in told), key=length)
    place = int(draw.permutation(4)[step % 4])
    return rows[place * how.rows : (place + 1) * how.rows]


def length(row: method.Segments) -> int:
    return sum(row.source_lengths) + sum(row.target_lengths)


def tune(model, arm: Arm, seed: int, how: Tuning = Tuning(), rows=rows_at, watch=lambda step, model: None) -> list[float]:
    """Tunes in place; returns the losses. watch(step, model): called every 100 steps."""
    how = replace(how, rate=arm.rate or how.rate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.rate, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for step in progress(range(how.steps), "tuning, steps"):
        for group in optimizer.param_groups:
            group["lr"] = how.at(step)
        batch = method.collate(rows(step, seed, how), arm.layout, arm.positions, arm.start)
        total, count = method.loss_sum(method.forward(model.train(), batch), batch)
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(float(total.detach() / count), 4))
        if (step + 1) % 100 == 0:
            watch(step + 1, model.eval())
    model.eval()
    return losses


def tuned(seed: int, arm: str, how: Tuning = Tuning()):
    """(model, facts): a committed arm, or one of the cache, tuned first where it is not there."""
    folder = FOLDER / f"seed{seed}" / arm.replace(" ", "-")
    if how != Tuning() or not (folder / "model.safetensors").is_file():
        folder = _cached(seed, arm, how)
    model, _, facts = base_of.load_stories(folder)
    return model, facts


def _cached(seed: int, arm: str, how: Tuning) -> Path:
    weights = base_of.FOLDER / f"seed{seed}" / "model.safetensors"
    digest = hashlib.sha256(repr((seed, arm, ARMS[arm], how)).encode() + (weights.read_bytes() if weights.is_file() else b"")).hexdigest()
    folder = cache_dir() / "streamingthinker-arms" / digest[:16]
    if not folder.is_dir():
        with building(folder) as beside:
            make(seed, arm, beside, how)
    return folder


def make(seed: int, arm: str, folder: Path, how: Tuning = Tuning()) -> dict:
    """Tunes an arm, writes folder and its card, and returns the card."""
    model = base(seed)[0]
    curve: list[list[float]] = []

    def watch(step: int, model) -> None:
        told = [stories.totals(i, "val", seed) for i in range(100)]
        of = ARMS[arm]
        found = base_of.graded(told, base_of.written(model, told, 2, of.mode, of.runs_from))
        curve.append([step, round(found["unit"], 4), round(found["answer"], 4)])

    losses = tune(model, ARMS[arm], seed, how, watch=watch)
    model.half().save_pretrained(folder)
    stories.tokenizer().save_pretrained(folder)
    card = {"seed": seed, "arm": arm, "steps": how.steps, "rate": ARMS[arm].rate or how.rate, "rows": how.rows,
            "step, unit and D2 of 100 stories": curve, "losses": [[s, losses[s]] for s in range(0, len(losses), 20)]}
    write_json(folder / "training.json", card)
    return card


def sweep(seed: int = 0, count: int = 300, how: Tuning = Tuning()) -> dict:
    """{"rates": {rate: [unit, D2 of `count` validation stories]}, "chosen", ...} of batch reasoning, 0 the base itself. The best D2 is
    chosen, of equals the one with more units right."""
    told, of, rates = [stories.totals(i, "val", seed) for i in range(count)], ARMS["batch"], {}
    for rate in (0.0, how.rate, *RATES):
        model = tuned(seed, "batch", how)[0] if rate == how.rate else base(seed)[0]
        if rate in RATES:
            tune(model, replace(of, rate=rate), seed, how)
        found = base_of.graded(told, base_of.written(model.eval(), told, 2, of.mode, of.runs_from))
        rates[rate] = [round(found["unit"], 4), round(found["answer"], 4)]
        print(f"batch, rate {rate}: unit and D2 {rates[rate]}", flush=True)
    chosen = max(rates, key=lambda rate: (rates[rate][1], rates[rate][0]))
    return {"seed": seed, "stories": count, "steps": how.steps, "chosen": chosen, "rates": {str(rate): row for rate, row in rates.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Tune the committed arms again, two to three minutes of one core each.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(committed()))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--sweep", action="store_true", help="only write sweep.json: which rate is best for batch reasoning")
    options = parser.parse_args()
    if options.sweep:
        return write_json(options.folder / "sweep.json", sweep())
    for seed in options.seeds:
        for arm in options.arms:
            card = make(seed, arm, options.folder / f"seed{seed}" / arm.replace(" ", "-"))
            print(seed, arm, card["step, unit and D2 of 100 stories"], flush=True)


if __name__ == "__main__":
    main()
