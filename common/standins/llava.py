"""Small models that stand in for hub weights and take longer to train than a run may wait: recipes, and how to train again.

`make standins-llava` (python -m common.standins.llava) trains the three small LLaVAs of common/standins/llava-weights: frozen DINOv2-S,
LLaVA's projector, a Llama of eight blocks from scratch. Two stages, as LLaVA has them:

    1  captions of the picture, objects in random order and either attribute first. After its first word each object has
       to be found in the picture again, and that looking up by content is what questions need later.
    2  questions (nine kinds about generated scenes, and easy-VQA), a tenth of the rows captions still.

Projector and decoder learn in both stages, for this decoder is not pretrained. Twelve questions share a picture in one
row (vision/layout.py), so that 64 visual tokens are paid once for twelve answers. Checkpoints every 250 steps: a killed run
goes on. The card, training.json, holds the curve, accuracies by kind, and what the best blind answers would get.

Another family of decoders is another
`Recipe` (llava_qwen3.py). The three that are committed were trained with bf16 autocast; now the recipe computes in fp32, which does
not depend on what units a processor has. `folder_of` gives the stand-in of any seed: one that is not committed is trained when it is
first asked for.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import easyvqa, scenes
from ..errors import ModelError
from ..files import cache_dir, write_json
from ..runs.jobs import Job
from ..training.checkpoints import WholeCheckpoints, keeper, resume_from
from ..training.steps import FromStep
from ..vision.features import SCENES, Pictures
from ..vision.layout import Layout
from ..vision.llava import (
    Llava,
    build,
    caption_slots,
    dense_hidden,
    load_llava,
    packed,
    question_slots,
    save,
    scored_loss,
)
from ..vision.parts import Parts, parts_of

FOLDER = Path(__file__).parent / "llava-weights"
SEEDS = (0, 1, 2)
STAGE_1, STAGE_2, ROWS, ASKED = 400, 3200, 48, 12
EASY_SHARE, CAPTION_SHARE = 0.15, 0.1  # of the rows of stage 2


def stand_in(seed: int) -> Parts:
    """The small LLaVA of a seed, in parts, without its tower: who experiments with it works on features that are kept.

    Raises ModelError where a committed one is missing.
    """
    folder = folder_of(seed)
    if not folder.is_dir():
        raise ModelError(f"{folder.name} of common/standins/llava-weights is missing: restore it or run `make standins-llava`")
    return parts_of(load_llava(folder, tower=False), tower=False)


class Rows(Dataset):
    """Optimiser steps of `rows` rows, drawn from (seed, step) alone: a resumed run sees what the unbroken one would."""

    def __init__(self, pictures: Pictures, words, prefix: list[int], stage_1: int, steps: int, seed: int, rows: int = ROWS,
                 asked: int = ASKED):
        self.pictures, self.words, self.prefix = pictures, words, prefix
        self.stage_1, self.steps, self.seed, self.rows, self.asked = stage_1, steps, seed, rows, asked

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple:
        draw = np.random.default_rng([self.seed, 7, step])
        captions_only = step < self.stage_1
        rows, shown = [], []
        for _ in range(self.rows):
            if not captions_only and len(self.pictures.easy) and draw.random() < EASY_SHARE:
                i = int(draw.integers(len(self.pictures.easy)))
                pool = easyvqa.questions(self.pictures.split, self.pictures.easy[i])
                rows.append([question_slots(self.words, pool[k]) for k in draw.permutation(len(pool))[:7]])
                shown.append(self.pictures.easy_features[i])
                continue
            i = int(draw.integers(len(self.pictures.scenes)))
            of = self.pictures.scenes[i]
            if captions_only or draw.random() < CAPTION_SHARE:
                rows.append([caption_slots(self.words, of.caption(draw)) for _ in range(3)])
            else:
                rows.append([question_slots(self.words, q) for q in scenes.some(of, draw, self.asked)])
            shown.append(self.pictures.scene_features[i])
        return torch.stack(shown), packed(self.prefix, rows, shown[0].shape[0])


class LlavaTraining(L.LightningModule):
    """Projector and decoder on cached features; AdamW, one cycle over both stages."""

    def __init__(self, model: Llava, learning_rate: float = 2e-3, warmup: int = 100, weight_decay: float = 0.01):
        super().__init__()
        self.learning_rate, self.warmup, self.weight_decay = learning_rate, warmup, weight_decay
        self.projector, self.decoder = model.projector, model.language_model()
        self.losses: list[float] = []

    def training_step(self, batch: tuple, batch_idx: int) -> Tensor:
        features, layout = batch
        hidden = self.hidden(layout, self.projector(features.float()))
        loss, count = scored_loss(self.decoder, hidden, layout)
        self.losses.append(round(float(loss.detach() / count), 4))
        return loss / count

    def hidden(self, layout: Layout, visual: Tensor) -> Tensor:
        """Last hidden states (B, T, d) at text slots; a method that is trained by this recipe runs the decoder its own way."""
        return dense_hidden(self.decoder, layout, visual)

    def configure_optimizers(self):
        from transformers import get_cosine_schedule_with_warmup

        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay, betas=(0.9, 0.98))
        schedule = get_cosine_schedule_with_warmup(optimizer, self.warmup, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.losses = checkpoint["losses"]


@torch.no_grad()
def accuracy(model: Llava, features: Tensor, asked: list[list[scenes.Question]], hidden=None, batch: int = 64) -> list[list[bool]]:
    """Per picture and question: right or wrong. hidden(layout, visual) -> (B, T, d): default the dense stock decoder."""
    decoder, right = model.language_model(), []
    hidden = hidden or (lambda layout, visual: dense_hidden(decoder, layout, visual))
    for start in range(0, len(asked), batch):
        rows = asked[start : start + batch]
        layout = packed(model.prefix, [[question_slots(model.tokenizer, q) for q in row] for row in rows], features.shape[1])
        states = hidden(layout, model.projector(features[start : start + batch].float()))
        scored = layout.targets != -100
        hits = (decoder.lm_head(states[scored]).argmax(-1) == layout.targets[scored]).tolist()
        for row in rows:
            right.append([hits.pop(0) for _ in row])
    return right


def by_kind(asked: list[list[scenes.Question]], right: list[list[bool]]) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for row, hits in zip(asked, right):
        for q, hit in zip(row, hits):
            found.setdefault(q.kind, []).append(hit)
    return {kind: sum(hits) / len(hits) for kind, hits in found.items()}


def test_questions(count: int, split: str = "test", seed: int = 0) -> list[list[scenes.Question]]:
    """A question of every kind for each of the first pictures of a split."""
    draw = np.random.default_rng([seed, 11])
    return [scenes.one_of_each_kind(scenes.scene(i, split, seed), draw) for i in range(count)]


def report(model: Llava, pictures: int = 500) -> dict:
    """Accuracy by kind on test pictures, beside the best answers without them."""
    of = Pictures(pictures, split="test", easy=pictures)
    asked = test_questions(pictures)
    easy = [easyvqa.questions("test", n) for n in of.easy]
    blind_scenes = scenes.blind([q for row in test_questions(SCENES, "train") for q in row], [q for row in asked for q in row])
    known_easy = [q for n in easyvqa.numbers("train") for q in easyvqa.questions("train", n)]
    blind_easy = scenes.blind(known_easy, [q for row in easy for q in row])

    def unseen(rows, answers):
        answers = iter(answers)
        return by_kind(rows, [[next(answers) == q.answer for q in row] for row in rows])

    return {"scenes": by_kind(asked, accuracy(model, of.scene_features, asked)), "scenes, blind": unseen(asked, blind_scenes),
            "easy-VQA": by_kind(easy, accuracy(model, of.easy_features, easy)), "easy-VQA, blind": unseen(easy, blind_easy)}


def checkpoints(seed: int, name: str, stage_1: int, stage_2: int, learning_rate: float, sources: tuple[str, ...] = ()) -> Path:
    """Where the cache keeps a training's checkpoints: by arguments, the recipe's own code and `sources`."""
    arguments = {"seed": seed, "stage_1": stage_1, "stage_2": stage_2, "learning_rate": learning_rate}
    key = Job(name, "common.standins.llava:train", arguments, sources).key()
    return cache_dir() / "standins-llava" / f"{name}-seed{seed}-{key}"


@dataclass(frozen=True)
class Recipe:
    """One family of small LLaVAs: what is trained by the recipe above, and where it is kept.

    name: of its checkpoints. build(seed, features): an untrained model. opened(folder): what `save` wrote. every: steps between
    checkpoints. sources: files that define the family, beside this one.
    """

    name: str
    build: Callable[[int, Tensor], Llava]
    opened: Callable[[Path], Llava]
    folder: Path
    seeds: tuple[int, ...]
    stage_1: int = STAGE_1
    stage_2: int = STAGE_2
    learning_rate: float = 2e-3
    every: int = 250
    sources: tuple[str, ...] = ()


LLAMA = Recipe("dense", build, load_llava, FOLDER, SEEDS)


class Clock(Callback):
    """CPU-seconds of a training, over all its parts: kept in the checkpoints. stop: ends the run at that step, as a kill would."""

    def __init__(self, stop: int | None = None) -> None:
        self.before, self.began, self.stop = 0.0, time.process_time(), stop

    @property
    def seconds(self) -> float:
        return self.before + time.process_time() - self.began

    def on_train_start(self, trainer, module) -> None:
        self.began = time.process_time()

    def on_train_batch_end(self, trainer, *rest) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.stop

    def state_dict(self) -> dict:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.before = state["seconds"]


class Trained(NamedTuple):
    model: Llava
    losses: list[float]  # by step
    seconds: float  # of a CPU


def trained(recipe: Recipe, seed: int, stage_1: int, stage_2: int, learning_rate: float, name: str | None = None,
            training: type[LlavaTraining] = LlavaTraining, progress: bool = True, sources: tuple[str, ...] = (),
            stop: int | None = None) -> Trained:
    """A model of the family, trained; a killed run goes on from its checkpoints.

    name, sources: of another `training`, and the files that define it: checkpoints of other ones are never taken up.
    stop: as if killed after that many steps.
    """
    from lightning.pytorch.callbacks import TQDMProgressBar

    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    pictures, steps, clock = Pictures(), stage_1 + stage_2, Clock(stop)
    model = recipe.build(seed, pictures.scene_features[:500])
    module = training(model, learning_rate)
    work = checkpoints(seed, name or recipe.name, stage_1, stage_2, learning_rate, recipe.sources + sources)
    last, done = resume_from(work)
    rows = Rows(pictures, model.tokenizer, model.prefix, stage_1, steps, seed)
    loader = DataLoader(FromStep(rows, done, steps), batch_size=None)
    trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                        precision="32-true", enable_model_summary=False, enable_progress_bar=progress,
                        plugins=[WholeCheckpoints()],
                        callbacks=[clock, keeper(work, min(recipe.every, stop or steps)), *([TQDMProgressBar(50)] if progress else [])])
    trainer.fit(module, loader, ckpt_path=last)
    model.llava.eval()
    return Trained(model, module.losses, clock.seconds)


def train(seed: int, name: str = "dense", training: type[LlavaTraining] = LlavaTraining, stage_1: int = STAGE_1,
          stage_2: int = STAGE_2, learning_rate: float = 2e-3, progress: bool = True,
          sources: tuple[str, ...] = (), stop: int | None = None) -> tuple[Llava, list[float]]:
    """(the Llama of a seed, losses by step), as `trained`."""
    return trained(LLAMA, seed, stage_1, stage_2, learning_rate, name, training, progress, sources, stop)[:2]


def train_llava(seed: int, folder: Path, stage_1: int | None = None, stage_2: int | None = None, learning_rate: float | None = None,
                recipe: Recipe = LLAMA) -> dict:
    """Trains a stand-in, writes folder and its card, and returns the card. Steps and rate: default the recipe's."""
    first, second = recipe.stage_1 if stage_1 is None else stage_1, recipe.stage_2 if stage_2 is None else stage_2
    rate = recipe.learning_rate if learning_rate is None else learning_rate
    model, losses, seconds = trained(recipe, seed, first, second, rate)
    save(model, folder)
    result = {"seed": seed, "steps": [first, second], "rows": ROWS, "learning_rate": rate, "cpu_seconds": round(seconds),
              "accuracy": report(recipe.opened(folder)), "curve": [[s, losses[s]] for s in range(0, len(losses), 50)]}
    write_json(folder / "training.json", result)
    return result


def folder_of(seed: int) -> Path:
    """The stand-in of a seed: committed, or trained by the recipe when it is first asked for (about an hour) and kept in the cache."""
    if seed in SEEDS:
        return FOLDER / f"seed{seed}"
    folder = cache_dir() / "standins-llava" / f"{checkpoints(seed, 'dense', STAGE_1, STAGE_2, 2e-3).name}-model"
    if not (folder / "training.json").is_file():  # written last
        train_llava(seed, folder)
    return folder


def made(seed: int) -> str:
    """`folder_of` as a job, for those that need the stand-in: its name."""
    return folder_of(seed).name


def main(recipe: Recipe = LLAMA, args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=f"Train the small LLaVAs of {recipe.folder.name} again, an hour of one core each.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(recipe.seeds))
    parser.add_argument("--folder", type=Path, default=recipe.folder)
    parser.add_argument("--stage-1", type=int, default=recipe.stage_1)
    parser.add_argument("--stage-2", type=int, default=recipe.stage_2)
    parser.add_argument("--learning-rate", type=float, default=recipe.learning_rate)
    options = parser.parse_args(args)
    for seed in options.seeds:
        result = train_llava(seed, options.folder / f"seed{seed}", options.stage_1, options.stage_2, options.learning_rate, recipe)
        print(json.dumps(result["accuracy"], indent=1), flush=True)


if __name__ == "__main__":
    main()
