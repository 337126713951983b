"""Real prose and a real model: SmolLM2-135M reads a passage sentence by sentence and answers with one letter (cloze.py).

As in the small (arms.py), a reader is trained first that has only ever seen whole passages, and the arms go on from it, alike in all
but their losses and the law of their paths. With answers of one letter the law is the question (shown.py):

    full          MSLM and SPSD, slack paths over the letter and the end
    plain law     the same with the paper's multinomial law over the letter alone: everything is read always, the law is vacuous
    end counted   the multinomial law over the letter and the end: two thirds are read before the letter, and the end always last
    batch only    no prefix at all

One letter is one decision, so a stream is known by what the model says at each of its prefixes: one pass a stream, and every policy
is read off that table (looks.py). Thresholds are quantiles of scores on calibration passages, and the operating point is chosen there.
Beside that the same passages are asked about another one, whose evidence never comes: what a head has of place alone.

Adapters of rank 4 train, SmolLM2's own weights never. A training is a job of its own, with checkpoints: a killed run goes on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import ModelError, RecordError
from common.files import cache_dir, file_sha256
from common.lora import LoraSpec
from common.models import SMOLLM2, Loaded, ModelSpec, load
from common.runs.jobs import Job
from common.seeds import asked, seed_of
from common.training.checkpoints import WholeCheckpoints, keeper, resume_from
from common.training.fit import quiet

from .. import cloze, method, shared_views
from ..cloze import Cloze
from ..data import Drawn, Rows, Streams, units_of
from ..looks import HEADS, guesses, looks, lots_at, row, sufficiency, swept
from ..module import ProactiveTraining
from ..tasks import Item
from .arms import ARMS, FULL, Arm, weights_hash

READER = ARMS["batch only"]
NAMES = {"full": FULL, "plain law": ARMS["plain law"], "end counted": ARMS["plain law"], "batch only": READER}
LETTER_ALONE = ("plain law",)  # arms whose law counts the letter and not the end
LAW = "slack"  # of an arm that names none
LORA = LoraSpec(4, alpha=16, dropout=0.0)
MICRO = 2  # passages of a pass: four had taken 3.5 GB after 25 steps, and rising
APART = (1, 2)  # passages between a question and the other ones that it is asked about
ARMS_FIRST = 10**6  # number of the arms' first training item, behind all that the reader saw


@dataclass(frozen=True)
class Size:
    """reader, arm: steps, of `batch` passages; least: % right of the reader on whole calibration passages, below which no arm is worth its
    hours; calibration, test: passages."""

    seeds: tuple[int, ...]
    reader: int
    arm: int
    batch: int
    least: float
    calibration: int
    test: int
    job_seconds: float


SIZES = {"smoke": Size((0,), 2, 2, 2, 0, 3, 4, 1), "cpu": Size(asked(), 220, 100, 8, 50, 96, 188, 2000)}


def jobs(size: str = "cpu") -> list[Job]:
    of, found = SIZES[size], []

    def job(name: str, function: str, seconds: float, after: tuple[str, ...] = (), **arguments) -> None:
        found.append(Job(f"realtext/{name}", f"{__name__}:{function}", arguments | {"size": size}, (), min(seconds, of.job_seconds), after))

    job("frozen", "frozen", 150, seed=of.seeds[0])
    for seed in of.seeds:
        reader = f"realtext/reader/seed{seed}"
        job(f"reader/seed{seed}", "reader", 5 * of.reader, seed=seed)
        job(f"start/seed{seed}", "start", 150, (reader,), seed=seed)
        for arm in NAMES:
            job(f"trained/{arm}/seed{seed}", "trained", 5.4 * of.arm, (reader,), seed=seed, arm=arm)
            job(f"{arm}/seed{seed}", "run", 200, (f"realtext/trained/{arm}/seed{seed}",), seed=seed, arm=arm)
    return found


# -- what is trained on ------------------------------------------------------------------------------------
class LetterRows(Rows):
    """Rows whose law may count the letter alone (counted=False): then the end's phi is everything, as the plain law has it."""

    counted = True

    def path(self, item: Item, index: int) -> Sequence[int]:
        if self.counted:
            return super().path(item, index)
        n, units = units_of(item.example)
        return [*method.read_path(self.law, n, units - 1, random.Random(seed_of("path", self.seed, index))), n]


class Questions(Streams):
    """Questions about training passages. first: number of the first; counted: whether the law counts the end of an answer."""

    def __init__(self, task: Cloze, count: int, law: str, counted: bool, batch_size: int, seed: int, first: int):
        super().__init__(law, batch_size=batch_size, seed=seed)
        self.task, self.count, self.counted, self.first = task, count, counted, first

    def items(self) -> tuple[Sequence[Item], Sequence[Item]]:
        return Drawn(self.task, "train", self.count, self.first), Drawn(self.task, "calibration", 1, 10**8)

    def sequences(self) -> tuple[Rows, Rows]:
        found = tuple(LetterRows(items, self.drawn, self.seed, False) for items in self.items())
        for rows in found:
            rows.counted = self.counted
        return found


class LetterTraining(ProactiveTraining):
    """An adapter on a decoder in memory, both views from one pass over the source. The checkpoint is all that is kept."""

    def __init__(self, loaded: Loaded, arm: Arm, rate: float, seed: int):
        super().__init__(ModelSpec("in memory"), arm.batch, arm.stream, arm.lam, learning_rate=rate, weight_decay=0.01, beta2=0.98,
                         warmup_steps=10, schedule="linear", lora=LORA, seed=seed)
        self.loaded = loaded
        self.loss: float | None = None  # of the last step in the checkpoint that it goes on from

    def sums(self, batch: method.Batch) -> method.Losses:
        if (self.batch and self.stream) or self.lam:
            return method.spsd(shared_views.views(self.model, batch), batch, self.k, self.direction, self.tail, self.teacher_grad)
        return super().sums(batch)

    def keeps_product(self) -> bool:
        return False

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        last = self.trainer.callback_metrics.get("train/loss")  # none yet, where a run that goes on saves within its first step
        checkpoint["loss"] = self.loss if last is None else float(last)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.loss = checkpoint["loss"]


def training(loaded: Loaded, task: Cloze, name: str, size: Size, seed: int, work: Path) -> tuple[nn.Module, float]:
    """(the model with its trained adapter merged, loss of the last step), gone on with where a killed run was. name: an arm, or "reader".

    Where no step was left the weights are the checkpoint's, and so is the loss.
    """
    import lightning as L

    arm, steps, rate, first = (READER, size.reader, 1e-3, 0) if name == "reader" else (NAMES[name], size.arm, 5e-4, ARMS_FIRST)
    data = Questions(task, steps * size.batch, arm.law or LAW, name not in LETTER_ALONE, size.batch, seed + 1, first)
    module = LetterTraining(loaded, arm, rate, seed)
    last, _ = resume_from(work)
    with quiet():
        trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                            precision="bf16-mixed", accumulate_grad_batches=max(size.batch // MICRO, 1), enable_model_summary=False,
                            enable_progress_bar=False, limit_val_batches=0, plugins=[WholeCheckpoints()],
                            callbacks=[keeper(work, min(20, steps))], default_root_dir=work)
        trainer.fit(module, data, ckpt_path=last)
    loss = float(trainer.callback_metrics.get("train/loss", module.loss))
    assert module.model is not None
    return module.model.merge_and_unload().eval(), loss


def work_of(name: str, seed: int, size: str) -> Path:
    """Where a training's checkpoint is kept, by all that it depends on: the key of a job that has its code and its settings."""
    key = Job("trained", f"{__name__}:trained", {"arm": name, "seed": seed, "size": size}).key()
    return cache_dir() / "proactivellm-realtext" / f"{name.replace(' ', '-')}-seed{seed}-{key}"


def base() -> Loaded:
    return load(SMOLLM2)


def trained_reader(seed: int, size: str) -> tuple[Loaded, Cloze, float]:
    """SmolLM2 after the reader's training, as a plain model; its task; the loss."""
    loaded = base()
    task = Cloze(loaded.tokenizer, seed)
    model, loss = training(loaded, task, "reader", SIZES[size], seed, work_of("reader", seed, size))
    return loaded._replace(model=model), task, loss


def reader(seed: int, size: str = "cpu") -> dict:
    """The job: trains the reader; its last checkpoint stays in the cache. Raises ModelError for one that answers too little."""
    of, (loaded, task, loss) = SIZES[size], trained_reader(seed, size)
    found = looks(loaded.model, task, task.items(of.calibration, "calibration"))
    right = 100 * float(found.right[:, -1].double().mean())
    if right < of.least:
        raise ModelError(f"the reader of seed {seed} answers {right:.1f} % of {of.calibration} calibration passages with everything read, "
                         f"and {of.least:g} are needed before an arm is worth its hours: give it more steps (Size.reader)")
    return {"loss": loss, "right": right, "checkpoint_sha256": file_sha256(work_of("reader", seed, size) / "last.ckpt")}


def trained(seed: int, arm: str, size: str = "cpu") -> dict:
    """Trains an arm from the reader; its last checkpoint stays in the cache, for `run`."""
    loaded, task, _ = trained_reader(seed, size)
    work = work_of(arm, seed, size)
    return {"loss": training(loaded, task, arm, SIZES[size], seed, work)[1], "checkpoint_sha256": file_sha256(work / "last.ckpt")}


# -- what is asked of a model -----------------------------------------------------------------------------
def measured(model: nn.Module, task: Cloze, size: Size, arm: str) -> dict[str, Any]:
    """All that is asked of a model. Raises RecordError if a weight moved meanwhile."""
    before = weights_hash(model)
    calibration, test = (looks(model, task, task.items(count, split)) for split, count in (
        ("calibration", size.calibration), ("test", size.test)))
    end = torch.full((size.test,), test.sentences)
    found: dict[str, Any] = {
        "batch": row(test, end), "guesses": guesses(test), "auroc": sufficiency(test),
        "letters": 100 * float((test.letters[:, -1] == test.answer).double().mean()),
        "no letter": 100 * float((test.letters[:, -1] != test.token[:, -1]).double().mean()),
        "wait": {str(k): row(test, torch.full((size.test,), k - 1)) for k in range(1, test.sentences + 1)},
        "entropy": swept(calibration, test, "entropy")}
    found["random"] = lots_at(test, found["entropy"]["test"][found["entropy"]["chosen"]]["RCO"])
    if arm == "full":
        found["heads"] = {head: swept(calibration, test, head) for head in HEADS if head != "entropy"}
        found["elsewhere"] = [sufficiency(looks(model, task, task.elsewhere(size.test, "test", apart))) for apart in APART]
    found["weights"] = [before, weights_hash(model)]
    if found["weights"][0] != found["weights"][1]:
        raise RecordError(f"realtext: a sweep over heads changed the weights of {arm}")
    return found


# -- jobs --------------------------------------------------------------------------------------------------
def frozen(seed: int, size: str = "cpu") -> dict:
    """SmolLM2 as it comes, and what is read."""
    loaded = base()
    task = Cloze(loaded.tokenizer, seed)
    return measured(loaded.model, task, SIZES[size], "frozen") | {
        "model": loaded.source, "prose": cloze.facts(), "documents": {split: len(of) for split, of in task.prose.items()}}


def start(seed: int, size: str = "cpu") -> dict:
    """The reader, which has only seen whole passages."""
    loaded, task, loss = trained_reader(seed, size)
    return {"loss": loss} | measured(loaded.model, task, SIZES[size], "start")


def run(seed: int, arm: str, size: str = "cpu") -> dict:
    """One arm."""
    loaded, task, _ = trained_reader(seed, size)
    model, loss = training(loaded, task, arm, SIZES[size], seed, work_of(arm, seed, size))  # finished: its weights are read
    return {"loss": loss} | measured(model, task, SIZES[size], arm)
