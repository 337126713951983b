"""ViCA on a decoder that has read: the LLaVA of common/standins/llava_smollm2.py as it is, and turned into ViCA.

    make reproduce-vica ONLY=smollm2
    python -m papers.vica.experiments.smollm2 --arm "all layers" --device cuda    # one tuned arm; prints what came out

What the small stand-ins cannot show, because their decoder never saw text: whether a *pretrained* decoder of thirty layers needs its
visual tokens computed on, and whether few of its layers look. One model of one training, so intervals are over pictures. Every tuned
arm has the same steps on the same rows, LoRA of the stand-in's rank on the merged decoder and the projector:

    untuned       as it is: whole, without FFN on visual tokens, with these frozen
    dense         tuned as it is
    all layers    tuned with frozen visual tokens that all layers look at; then each layer's worth on validation pictures, and without
                  further training eight layers of the highest scores, of the lowest, and four times two sets of eight by lot
    top, lot 0    tuned with the eight of the highest scores, and with eight by lot
"""

from __future__ import annotations

import argparse
import functools
import json
import random
from dataclasses import dataclass

from common.runs.jobs import Job
from common.seeds import seed_of
from common.standins.llava_smollm2 import SEEDS, stand_in
from common.training.fit import fit
from common.vision.parts import LlavaSpec, Parts

from .. import selection
from ..reference import frozen_dense
from ..scoring import YES_NO, Hidden, dense, log_probabilities, right_answers, test_set, vica

SHARE = 4  # ViCA looks in one of four layers, about as the paper's 7B does
RATE, RANK, ASKED, WARMUP = 5e-4, 4, 12, 10
TUNED = ("dense", "all layers")  # arms that need no scores
FEW = ("top", "lot 0")  # arms of a few layers
LOTS = 4


@dataclass(frozen=True)
class Size:
    """steps, rows: of tuning. scenes: pictures that are trained on. validation, test: pictures that are asked about."""

    seeds: tuple[int, ...]
    steps: int
    rows: int
    scenes: int
    validation: int
    test: int


SIZES = {"smoke": Size((0,), steps=2, rows=2, scenes=6, validation=2, test=3),
         "cpu": Size(SEEDS, steps=120, rows=16, scenes=4000, validation=20, test=60)}


def jobs(size: str = "cpu") -> list[Job]:
    made = []
    for seed in SIZES[size].seeds:
        made.append(Job(f"smollm2/untuned/seed{seed}", f"{__name__}:untuned", {"seed": seed, "size": size}, seconds=120))
        made += [Job(f"smollm2/{arm}/seed{seed}", f"{__name__}:tuned", {"seed": seed, "arm": arm, "size": size}, seconds=600)
                 for arm in TUNED]
    return made


def then(size: str, results: dict) -> list[Job]:
    """The arms of a few layers, when the scores are there."""
    found = [seed for seed in SIZES[size].seeds if f"smollm2/all layers/seed{seed}" in results]
    return [Job(f"smollm2/{arm}/seed{seed}", f"{__name__}:tuned", {"seed": seed, "arm": arm, "size": size, "layers": results[
        f"smollm2/all layers/seed{seed}"]["sets"][arm]}, seconds=300) for seed in found for arm in FEW]


EXAMPLE = {f"smollm2/all layers/seed{seed}": {"sets": {"top": [0], "lot 0": [1]}} for seed in SIZES["cpu"].seeds}  # what `then` reads


# -- answers -----------------------------------------------------------------------------------------------
def answered(parts: Parts, way: Hidden, s: Size) -> str:
    """Of every open test question a 1 where it is answered right, else a 0."""
    features, asked = test_set("test", s.test, 0)
    right = right_answers(parts, way, features, asked, batch=16)
    return "".join("01"[hit] for row, hits in zip(asked, right) for q, hit in zip(row, hits) if q.kind not in YES_NO)


def untuned(seed: int, size: str = "cpu") -> dict:
    """{"whole", "ffn", "all": bits of the model, without FFN on visual tokens, with these frozen; "pictures", "kinds": of each bit}."""
    parts, s = stand_in(seed), SIZES[size]
    open_ones = [(i, q.kind) for i, row in enumerate(test_set("test", s.test, 0)[1]) for q in row if q.kind not in YES_NO]
    return {"model": parts.source, "pictures": [i for i, _ in open_ones], "kinds": [kind for _, kind in open_ones],
            "whole": answered(parts, dense(parts), s),
            **{part: answered(parts, functools.partial(frozen_dense, parts.decoder, freeze=part), s) for part in ("ffn", "all")}}


# -- tuned -------------------------------------------------------------------------------------------------
def tuned(seed: int, arm: str, size: str = "cpu", layers: list[int] | None = None, device: str = "cpu", bar: bool = False) -> dict:
    """{"layers", "curve": every tenth loss, "right": bits} of an arm; of "all layers" also {"worth": {layer: nats}, "sets", "untrained":
    {set: bits}}. layers: of an arm of FEW, which has none of its own.

    Raises ValueError for another arm, for layers of an arm that has its own, and for none of one that has not.
    """
    if arm not in (*TUNED, *FEW):
        raise ValueError(f"arm {arm!r} is none of {', '.join((*TUNED, *FEW))}")
    if (layers is None) == (arm in FEW):
        raise ValueError(f"arm {arm!r} " + ("needs layers" if layers is None else "has layers of its own: give none"))
    parts, s = stand_in(seed), SIZES[size]
    every = tuple(range(parts.decoder.config.num_hidden_layers))
    look = None if arm == "dense" else every if layers is None else tuple(layers)
    losses = tune(parts, look, seed, s, device, bar)
    way = dense(parts) if look is None else vica(parts, look)
    found = {"layers": None if look is None else list(look), "curve": [round(loss, 4) for loss in losses[::10]],
             "right": answered(parts, way, s)}
    if arm != "all layers":
        return found
    worth = selection.leave_one_out(functools.partial(spoken, parts, s), every)
    sets = {name: list(chosen) for name, chosen in few(worth, seed).items()}
    return found | {"worth": {str(layer): nats for layer, nats in worth.items()}, "sets": sets, "untrained": {
        name: answered(parts, vica(parts, tuple(chosen)), s) for name, chosen in sets.items()}}


def tune(parts: Parts, look: tuple[int, ...] | None, seed: int, s: Size, device: str = "cpu", bar: bool = False) -> list[float]:
    """Losses by step of a training in place."""
    from ..data import ScenePictures
    from ..module import ViCATraining

    module = ViCATraining(LlavaSpec(stand_in="in memory"), None if look is None else list(look), learning_rate=RATE, beta2=0.98,
                          warmup_steps=min(WARMUP, s.steps // 2), lora_rank=RANK, seed=seed)
    module.given = parts
    data = ScenePictures(train_samples=s.steps * s.rows, batch_size=s.rows, scenes=s.scenes, easy=0, easy_share=0.0, asked=ASKED,
                         captions=0.1, seed=seed)
    losses = fit(module, data, s.steps, bar=bar, precision="bf16-mixed", accelerator="gpu" if device == "cuda" else "cpu")
    parts.decoder.to(device)  # Lightning has put them back on the CPU
    parts.projector.to(device)
    return losses


def spoken(parts: Parts, s: Size, layers: tuple[int, ...]):
    """Log-probabilities at the answers to the validation questions, with these layers looking."""
    return log_probabilities(parts, vica(parts, layers), *test_set("val", s.validation, 0))


def few(worth: dict[int, float], seed: int) -> dict[str, tuple[int, ...]]:
    """A quarter of the layers, rounded up: of the highest scores, of the lowest, and LOTS pairs of sets by lot that share no layer."""
    count, draw = -(-len(worth) // SHARE), random.Random(seed_of("few layers", seed))
    sets = {"top": selection.top(worth, count), "bottom": selection.bottom(worth, count)}
    for number in range(LOTS):
        lot = draw.sample(sorted(worth), 2 * count)
        sets |= {f"lot {number}": tuple(sorted(lot[:count])), f"other lot {number}": tuple(sorted(lot[count:]))}
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=(*TUNED, *FEW), default="all layers")
    parser.add_argument("--layers", type=int, nargs="+", help=f"those that look, for {' and '.join(FEW)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    print(json.dumps(tuned(options.seed, options.arm, layers=options.layers, device=options.device, bar=True)), flush=True)


if __name__ == "__main__":
    main()
