"""Small LLaVAs trained from nothing on hard scenes: four kinds of fusion by four layer sets, and what varies beside them. A night.

The tower is the frozen DINOv2-S, its features computed once. The decoder has twelve blocks, as the tower has, so that all layers
find a block of their own. Captions, then questions, as the committed LLaVAs (common/standins/llava.py); the same pictures, steps and
order for every arm of a seed. Tested twice, at half of the steps (equal steps, some still on the plateau that such trainings have)
and at the end, on unseen scenes, on the same scenes in another look, and on easy-VQA, of which nothing was trained. Killed, it goes on
from its checkpoints.

    long        default layer, the same three times, one region, and every kind with every set
    variants    post and parallel; 1,000 and 2,000 pictures; a tower of random weights; Qwen3's decoder
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.data import easyvqa, hard_scenes
from common.files import cache_dir, write_json
from common.runs.jobs import Job
from common.runs.sources import closure
from common.seeds import asked as seeds_asked
from common.seeds import seed_of
from common.standins import llava as standins
from common.training.checkpoints import WholeCheckpoints, keeper, resume_from
from common.training.steps import FromStep
from common.vision import llava, tower

from .. import baselines
from ..data import HardRows
from ..internal import Internal
from ..method import Fusion, FusionConfig, LayerSet, Sizes, apart, layer_set, side_by_side
from ..running import hidden
from .stages import random_tower

TOWER, LAYERS = 12, tuple(range(1, 13))
DECODER = dict(hidden_size=96, intermediate_size=256, num_hidden_layers=12, num_attention_heads=4, num_key_value_heads=4, head_dim=24,
               max_position_embeddings=512, tie_word_embeddings=True)
SETS = ("single", "triple", "latter", "all")
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
    f"{kind}, {name}": Arm(kind, name) for kind in KINDS for name in SETS}
VARIANTS = {f"internal modular, {v}": Arm("internal modular", "triple", v) for v in ("post", "parallel")} | {
    f"{kind}, {n} pictures": Arm(kind, "triple", pictures=n) for kind in (DIRECT, "internal direct") for n in (1000, 2000)} | {
    f"{name}, {what}": Arm(DIRECT, of, **{key: value}) for what, key, value in (
        ("random tower", "tower", "random"), ("Qwen3", "decoder", "qwen3"))
    for name, of in (*PLAIN.items(), ("triple", "triple"))}


@dataclass(frozen=True)
class Size:
    """stage_1, stage_2: steps of captions, of questions. pictures: at most, to train on. test: pictures of each kind."""

    seeds: tuple[int, ...]
    stage_1: int
    stage_2: int
    rows: int
    pictures: int
    test: int


SIZES = {"smoke": Size((0,), 1, 3, 2, 6, 3), "cpu": Size(seeds_asked(), 400, 3200, 48, 4000, 500)}


def long_jobs(size: str = "cpu") -> list[Job]:
    return _jobs("long", LONG, size)


def variant_jobs(size: str = "cpu") -> list[Job]:
    return _jobs("variants", VARIANTS, size)


def _jobs(name: str, arms: dict[str, Arm], size: str) -> list[Job]:
    towers = sorted({arm.tower for arm in arms.values()})
    made = [Job(f"{name}/features/{of}", f"{__name__}:features", {"of": name, "tower_of": of, "size": size}, seconds=300) for of in towers]
    return made + [Job(f"{name}/{arm}/seed{seed}", f"{__name__}:trained", {"of": name, "arm": arm, "seed": seed, "size": size},
                       seconds=2700, after=(f"{name}/features/{arms[arm].tower}",)) for arm in arms for seed in SIZES[size].seeds]


# -- features, computed once -------------------------------------------------------------------------------
def scenes_of(split: str, count: int, shifted: bool = False) -> list[hard_scenes.HardScene]:
    return [hard_scenes.scene(i, split, shifted=shifted) for i in range(count)]


def shown(which: str, tower_of: str, size: str) -> Any:
    """(pictures, N, 12 dv) half precision, in the cache. which: train, test, shifted, easy-VQA."""
    s = SIZES[size]
    if which == "easy-VQA":
        images = [easyvqa.image("test", n) for n in easyvqa.numbers("test")[: s.test]]
    else:
        some = scenes_of("train", s.pictures) if which == "train" else scenes_of("test", s.test, which == "shifted")
        images = [of.image() for of in some]
    if tower_of == "dinov2":
        return tower.features(f"layerfusion-hard-{which}", images, LAYERS)
    return tower.encode(random_tower(), images, LAYERS)


def features(of: str, tower_of: str, size: str = "cpu") -> dict[str, int]:
    """Into the cache, for the real tower; {which: pictures}. of: the experiment that needs them."""
    return {which: len(shown(which, tower_of, size)) for which in ("train", "test", "shifted", "easy-VQA")} if tower_of == "dinov2" else {}


class Columns:
    """Features of some layers, a row when it is asked for: all twelve of 4,000 pictures are 2.4 GB on disk."""

    def __init__(self, features: Any, layers: Sequence[int]):
        self.features, self.layers = features, layers

    def __getitem__(self, index: Any) -> Tensor:
        states = apart(torch.as_tensor(self.features[index]), LAYERS)
        return torch.cat([states[k] for k in self.layers], -1)


# -- the model ---------------------------------------------------------------------------------------------
class Small:
    """A decoder and a fusion, with what `standins.accuracy` and `standins.LlavaTraining` read of a small LLaVA."""

    def __init__(self, arm: Arm, seed: int, sample: Tensor, layers: Sequence[int]):
        from transformers import AutoConfig, AutoModelForCausalLM

        self.tokenizer = llava.tokenizer()
        config = AutoConfig.for_model(arm.decoder, **DECODER, vocab_size=len(self.tokenizer), bos_token_id=1, eos_token_id=2,
                                      pad_token_id=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.decoder = AutoModelForCausalLM.from_config(config)
            torch.manual_seed(seed_of("fusion", seed))
            self.fusion = Fusion(arm.config(), Sizes.of(sample.shape[-1] // len(layers), config))
        self.internal = Internal(self.decoder, self.fusion).attach()
        self.projector = nn.Identity()
        self.layers = tuple(layers)
        whitened(self.fusion, apart(sample.float(), layers), seed)

    @property
    def prefix(self) -> list[int]:
        return self.tokenizer.convert_tokens_to_ids(["<bos>", *llava.SYSTEM.split()])

    def language_model(self) -> nn.Module:
        return self.decoder

    def hidden(self, layout: Any, features: Tensor) -> Tensor:
        return hidden(self.decoder, self.internal, self.fusion, layout, apart(features, self.layers))


def whitened(fusion: Fusion, states: dict[int, Tensor], seed: int) -> None:
    """Every projector starts by whitening what it reads (common/vision/llava.py): late states have eight times the norm of early ones."""
    of = fusion.config.layers
    direct = fusion.config.kind == "external direct"
    llava.whiten(fusion.projector.linear_1, side_by_side(states, of, fusion.config.op) if direct else states[of.main], seed)
    for number, (projector, k) in enumerate(zip(fusion.extra, of.extras)):
        llava.whiten(projector.linear_1, states[k], seed_of(seed, number))


class Training(standins.LlavaTraining):
    """The committed LLaVAs' recipe with a fusion in place of the projector."""

    def __init__(self, model: Small, learning_rate: float = 2e-3):
        super().__init__(model, learning_rate)
        self.fusion, self.small = model.fusion, [model]

    def hidden(self, layout: Any, visual: Tensor) -> Tensor:
        return self.small[0].hidden(layout, visual)


# -- the job -----------------------------------------------------------------------------------------------
def trained(of: str, arm: str, seed: int, size: str = "cpu") -> dict:
    """{"half", "end": {"test", "shifted": {kind: share}, "easy-VQA": share}, "loss": 50-step means, "exit": the step in stage 2 where the
    loss is nearer to its end than to its beginning, "parameters": that are new}."""
    import lightning as L

    s, one = SIZES[size], (LONG | VARIANTS)[arm]
    layers = fusion_layers(one)
    train = Columns(shown("train", one.tower, size), layers)
    count, steps = min(one.pictures, s.pictures), s.stage_1 + s.stage_2
    model = Small(one, seed, train[: min(500, count)], layers)
    module, half = Training(model), s.stage_1 + s.stage_2 // 2
    rows = HardRows(scenes_of("train", count), train, model.tokenizer, model.prefix, s.stage_1, steps, seed, s.rows)
    key = Job(arm, f"{__name__}:trained", {"arm": asdict(one), "seed": seed, "size": size}, tuple(str(p) for p in closure(__name__))).key()
    work = cache_dir() / "layerfusion" / f"seed{seed}-{key}"
    last, done = resume_from(work)
    trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                        enable_model_summary=False, enable_progress_bar=False, plugins=[WholeCheckpoints()],
                        callbacks=[halfway(half, work / HALF, lambda: tested(model, one, s, size)), keeper(work, min(200, steps))])
    trainer.fit(module, DataLoader(FromStep(rows, done, steps), batch_size=None), ckpt_path=last)
    found: dict = {"parameters": sum(p.numel() for p in model.fusion.parameters()), "half": json.loads((work / HALF).read_text()),
                   "end": tested(model, one, s, size)}
    losses = module.losses
    found["loss"] = [round(fmean(losses[i : i + 50]), 4) for i in range(0, len(losses), 50)]
    return found | {"exit": plateau(losses[s.stage_1 :])}


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


def plateau(losses: Sequence[float], width: int = 50) -> int:
    """The first step from which the mean of `width` losses is nearer to that of the last ones than to that of the first."""
    means = np.convolve(losses, np.ones(min(width, len(losses))) / min(width, len(losses)), "valid")
    middle = (means[0] + means[-1]) / 2
    return int(np.argmax(means <= middle + 1e-9)) if means[-1] < means[0] else len(losses)


@torch.no_grad()
def tested(model: Small, arm: Arm, s: Size, size: str) -> dict:
    """{"test", "shifted": {kind: share}, "easy-VQA": share}, in eval mode; the model is left in the mode that it was in."""
    training, found = model.decoder.training, {}
    model.decoder.eval()
    model.fusion.eval()
    draw = np.random.default_rng(31)
    asked = [hard_scenes.one_of_each_kind(of, draw) for of in scenes_of("test", s.test)]
    for which in ("test", "shifted"):
        pictures = Columns(shown(which, arm.tower, size), model.layers)[:]
        found[which] = standins.by_kind(asked, standins.accuracy(model, pictures, asked, model.hidden))
    easy = [easyvqa.questions("test", n) for n in easyvqa.numbers("test")[: s.test]]
    pictures = Columns(shown("easy-VQA", arm.tower, size), model.layers)[:]
    right = standins.accuracy(model, pictures, easy, model.hidden)
    model.decoder.train(training)
    model.fusion.train(training)
    return found | {"easy-VQA": fmean(hit for row in right for hit in row)}
