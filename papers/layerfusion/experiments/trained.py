"""Small LLaVAs trained from nothing on hard scenes: four kinds of fusion by four layer sets, and what varies beside them. Hours.

The tower is the frozen DINOv2-S, its features computed once. The decoder has twelve blocks, as the tower has, so that all layers
find a block of their own. Captions, then questions, as the committed LLaVAs (common/standins/llava.py); the same pictures, steps and
order for every arm of a seed. Tested twice, at half of the steps (equal steps, some still on the plateau that such trainings have)
and at the end: on unseen scenes, on the same scenes in another look, with added layers of another picture, and on easy-VQA's pictures,
of which nothing was trained. Answers are kept bit by bit, so that arms can be compared picture by picture. Killed, it goes on from its
checkpoints; what it made is kept beside them.

    long         default layer, the same three times, one region; every kind with three stages and with the latter half
    long-more    beside these, every kind with one layer and with all
    variants     post and parallel; 1,000 and 2,000 pictures; a tower of random weights; Qwen3's decoder
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from common.data import easyvqa, hard_scenes, scenes
from common.files import cache_dir, write_json
from common.runs.jobs import Job
from common.runs.sources import closure
from common.seeds import asked as seeds_asked
from common.standins import llava as standins
from common.training.checkpoints import WholeCheckpoints, keeper, resume_from
from common.training.fit import quiet
from common.training.steps import FromStep
from common.vision import tower

from .. import baselines, known_words
from ..data import HardRows
from ..method import Fusion, FusionConfig, LayerSet, Sizes, apart, layer_set
from ..small import DECODER, LOOKED_UP, WEIGHTS, Small, Training, means, save
from .stages import random_tower

TOWER, LAYERS = 12, tuple(range(1, 13))
SETS, FIRST = ("single", "triple", "latter", "all"), ("triple", "latter")
KINDS: dict[str, Any] = {"external direct": ("external", "direct"), "external modular": ("external", "modular"),
         "internal direct": ("internal", "direct"), "internal modular": ("internal", "modular")}


@dataclass(frozen=True)
class Arm:
    """of: a set, or its name. tower: dinov2 or random. decoder: a model type. pictures: to train on."""

    kind: str
    of: str | LayerSet
    variant: str = "pre"
    pictures: int = 4000
    tower: str = "dinov2"
    decoder: str = "llama"

    def config(self) -> FusionConfig:
        position, pattern = KINDS[self.kind]
        layers = layer_set(self.of, TOWER) if isinstance(self.of, str) else self.of
        variant: Any = self.variant
        return FusionConfig(layers, position, pattern, variant=variant)


DIRECT, HALF = "external direct", "half.json"
PLAIN = {"default": baselines.default(TOWER), "default three times": baselines.three_times(TOWER)}
LONG = {name: Arm(DIRECT, of) for name, of in (PLAIN | {"late region": baselines.region(TOWER)}).items()} | {
    f"{kind}, {name}": Arm(kind, name) for kind in KINDS for name in FIRST}
MORE = {f"{kind}, {name}": Arm(kind, name) for kind in KINDS for name in SETS if name not in FIRST}
VARIANTS = {f"internal modular, {v}": Arm("internal modular", "triple", v) for v in ("post", "parallel")} | {
    f"{kind}, {n} pictures": Arm(kind, "triple", pictures=n) for kind in (DIRECT, "internal direct") for n in (1000, 2000)} | {
    f"{name}, {what}": Arm(DIRECT, of, **{key: value}) for what, key, value in (
        ("random tower", "tower", "random"), ("Qwen3", "decoder", "qwen3"))
    for name, of in (*PLAIN.items(), ("triple", "triple"))}
BESIDE = tuple(f"{kind}, triple" for kind in (DIRECT, "internal direct", "internal modular"))  # of long, what variants are held against


@dataclass(frozen=True)
class Size:
    """stage_1, stage_2: steps of captions, of questions. pictures: at most, to train on. test: pictures of each kind."""

    seeds: tuple[int, ...]
    stage_1: int
    stage_2: int
    rows: int
    pictures: int
    test: int


SIZES = {"smoke": Size((0,), 1, 3, 2, 6, 3), "cpu": Size(seeds_asked(), 300, 2100, 24, 4000, 500)}


def long_jobs(size: str = "cpu") -> list[Job]:
    return _jobs("long", LONG, size)


def more_jobs(size: str = "cpu") -> list[Job]:
    """With those of long: its claims are about all sets."""
    return [*long_jobs(size), *_jobs("long-more", MORE, size)]


def variant_jobs(size: str = "cpu") -> list[Job]:
    return [*_jobs("long", {name: LONG[name] for name in BESIDE}, size), *_jobs("variants", VARIANTS, size)]


def _jobs(name: str, arms: dict[str, Arm], size: str) -> list[Job]:
    towers = sorted({arm.tower for arm in arms.values()})
    made = [Job(f"{name}/features/{of}", f"{__name__}:features", {"of": name, "tower_of": of, "size": size}, seconds=300) for of in towers]
    return made + [Job(f"{name}/{arm}/seed{seed}", f"{__name__}:trained", {"of": name, "arm": arm, "seed": seed, "size": size},
                       seconds=1500, after=(f"{name}/features/{arms[arm].tower}",)) for arm in arms for seed in SIZES[size].seeds]


# -- features, computed once -------------------------------------------------------------------------------
def scenes_of(split: str, count: int, shifted: bool = False) -> list[hard_scenes.HardScene]:
    return [hard_scenes.scene(i, split, shifted=shifted) for i in range(count)]


def images(which: str, size: str) -> list[Any]:
    """which: train, test, shifted, easy-VQA."""
    s = SIZES[size]
    if which == "easy-VQA":
        return [easyvqa.image("test", number) for number, _ in known_words.pictures(s.test)]
    some = scenes_of("train", s.pictures) if which == "train" else scenes_of("test", s.test, which == "shifted")
    return [of.image() for of in some]


def shown(which: str, tower_of: str, size: str, layers: Sequence[int]) -> Columns:
    """Features of some layers; all twelve of the real tower are in the cache, the random one's are computed."""
    if tower_of == "dinov2":
        return Columns(tower.features(f"layerfusion-hard-{which}", images(which, size), LAYERS), layers)
    return Columns(tower.encode(random_tower(), images(which, size), layers), layers, layers)


class Columns:
    """Features of some of the layers that are there side by side, a row when it is asked for: all of 4,000 pictures are 2.4 GB."""

    def __init__(self, features: Any, layers: Sequence[int], there: Sequence[int] = LAYERS):
        self.features, self.layers, self.there = features, layers, there

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: Any) -> Tensor:
        states = apart(torch.as_tensor(self.features[index]), self.there)
        return torch.cat([states[k] for k in self.layers], -1)


def asked(count: int) -> dict[str, list[list[scenes.Question]]]:
    """{"test": a question of every kind for each test scene, whatever its look, "easy-VQA": in the scenes' words}."""
    draw = np.random.default_rng(31)
    return {"test": [hard_scenes.one_of_each_kind(of, draw) for of in scenes_of("test", count)],
            "easy-VQA": [row for _, row in known_words.pictures(count)]}


def features(of: str, tower_of: str, size: str = "cpu") -> dict:
    """Into the cache, for the real tower; {"test", "easy-VQA": {"pictures", "kinds"} of each question, and "blind": bits of who knows the
    training scenes and sees none, "nats": of an answer by the question alone}. of: the experiment that needs them."""
    s = SIZES[size]
    if tower_of == "dinov2":
        for which in ("train", "test", "shifted", "easy-VQA"):
            shown(which, tower_of, size, LAYERS)
    draw, train = np.random.default_rng(41), scenes_of("train", s.pictures)
    known = [q for scene in train for q in hard_scenes.some(scene, draw, 12)]
    found: dict = {"nats": {name: nats(train, kinds) for name, kinds in (("all", hard_scenes.KINDS), ("looked up", LOOKED_UP))}}
    for which, rows in asked(s.test).items():
        every = [q for row in rows for q in row]
        found[which] = {"pictures": [i for i, row in enumerate(rows) for _ in row], "kinds": [q.kind for q in every],
                        "blind": bits(guess == q.answer for guess, q in zip(scenes.blind(known, every), every))}
    return found


def nats(some: Sequence[hard_scenes.HardScene], kinds: Sequence[str]) -> float:
    """Mean entropy of an answer given its question's text, over what `hard_scenes.some` draws of these kinds: the loss of the best
    model that sees no picture."""
    weights: dict[str, Counter[str]] = {}
    for scene in some:
        pools = hard_scenes.by_kind(scene)
        for kind in set(kinds) & set(pools):
            for q in pools[kind]:
                weights.setdefault(q.text, Counter())[q.answer] += 1 / len(pools) / len(pools[kind])
    total = sum(sum(of.values()) for of in weights.values())
    return -sum(w * math.log(w / sum(of.values())) for of in weights.values() for w in of.values()) / total


def bits(right: Iterable[bool]) -> str:
    return "".join("01"[bool(hit)] for hit in right)


# -- the job -----------------------------------------------------------------------------------------------
def trained(of: str, arm: str, seed: int, size: str = "cpu") -> dict:
    """{"half": {where: share right}, "end": {where: bits}, "loss", "all", "looked up": means of 50 steps, of all scored tokens over both
    stages, of a question over the second, "parameters": that are new}. where: test, shifted, easy-VQA, and at the end "another picture",
    with all layers but the main one of the next picture. The model is kept in the folder of its checkpoints, as small.save writes it."""
    import lightning as L

    s, one = SIZES[size], (LONG | MORE | VARIANTS)[arm]
    layers = fusion_layers(one)
    train = shown("train", one.tower, size, layers)
    count, steps = min(one.pictures, s.pictures), s.stage_1 + s.stage_2
    model = Small(one.config(), one.decoder, seed, train[: min(500, count)], layers)
    module, half = Training(model), s.stage_1 + s.stage_2 // 2
    rows = HardRows(scenes_of("train", count), train, model.tokenizer, model.prefix, s.stage_1, steps, seed, s.rows)
    work = kept(arm, one, seed, size)
    last, done = resume_from(work)
    trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                        enable_model_summary=False, enable_progress_bar=False, plugins=[WholeCheckpoints()],
                        callbacks=[halfway(half, work / HALF, lambda: tested(model, one, s, size)), keeper(work, min(200, steps))])
    with quiet():
        trainer.fit(module, DataLoader(FromStep(rows, done, steps), batch_size=None), ckpt_path=last)
    found: dict = {"parameters": sum(p.numel() for p in model.fusion.parameters()), "end": tested(model, one, s, size, ours=True),
                   "half": {where: of.count("1") / len(of) for where, of in json.loads((work / HALF).read_text()).items()}}
    save(model, work / WEIGHTS)
    whole, looked_up = zip(*module.curve[s.stage_1 :])
    return found | {"loss": means(module.losses), "all": means(whole), "looked up": means(looked_up)}


def kept(arm: str, one: Arm, seed: int, size: str) -> Path:
    """The folder of a training's checkpoints: by what it is and by all code that it depends on."""
    key = Job(arm, f"{__name__}:trained", {"arm": asdict(one), "seed": seed, "size": size}, tuple(str(p) for p in closure(__name__))).key()
    return cache_dir() / "layerfusion" / f"seed{seed}-{key}"


def halfway(step: int, path: Path, test: Callable[[], dict]) -> Any:
    """A callback that tests at a step and keeps what came out beside the checkpoints: a resumed run has it."""
    import lightning as L

    class Halfway(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == step:
                write_json(path, test())

    return Halfway()


def fusion_layers(arm: Arm) -> tuple[int, ...]:
    with torch.device("meta"):
        return Fusion(arm.config(), Sizes(384, 96, 256, 4, DECODER["num_hidden_layers"])).layers


@torch.no_grad()
def tested(model: Small, arm: Arm, s: Size, size: str, ours: bool = False) -> dict[str, str]:
    """{"test", "shifted", "easy-VQA": bits}, in eval mode; the model is left in the mode that it was in. ours: with "another picture"
    beside them, test scenes of which all layers but the main one are the next picture's."""
    training, found = model.decoder.training, {}
    model.decoder.eval()
    model.fusion.eval()
    questions = asked(s.test)

    def right(pictures: Tensor, which: str) -> str:
        return bits(hit for row in standins.accuracy(model, pictures, questions[which], model.hidden) for hit in row)

    for where, which in (("test", "test"), ("shifted", "test"), ("easy-VQA", "easy-VQA")):
        found[where] = right(shown(where, arm.tower, size, model.layers)[:], which)
    if ours:
        pictures = shown("test", arm.tower, size, model.layers)[:]
        found["another picture"] = right(of_another(pictures, arm.config().layers.main, model.layers), "test")
    model.decoder.train(training)
    model.fusion.train(training)
    return found


def of_another(own: Tensor, main: int, layers: Sequence[int]) -> Tensor:
    """Features of `layers` side by side (M, N, len(layers) dv), all but the main layer's the next picture's."""
    found, other = own, own.roll(1, 0)
    for k in layers:
        if k != main:
            found = baselines.swapped(found, other, k, layers)
    return found
