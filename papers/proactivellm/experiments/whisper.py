"""Small claims tested on real parts: Whisper's encoder in chunks, SmolLM2, and recorded digits (NINEFOLD_DATA, group `whisper`).

First what it costs to hear in chunks, before anything is trained: the word error rate of Whisper itself, its own decoder behind the stock
encoder, beside the same decoder behind chunks of 480 and 960 ms, and behind a single one, which leaves all but the look-ahead of attention
as it is in chunks (common/streaming/whisper.py). Then the stand-in is trained where neither the repository nor the cache has it
(common/standins/speech_smollm2.py), and from it, per seed, the full arm and batch training alone: on recognition, and on spoken questions.

The arms train a new adapter of rank 4 and the projector; Whisper's encoder and SmolLM2's own weights never. All that is measured is what
arms.py measures; a decision every 480 ms, wait-k with the stride of training items. A training is a job of its own, with checkpoints: a
killed run goes on.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.benchmarks.speech import wer
from common.data.speech import DIGITS, Utterance
from common.errors import ModelError
from common.files import cache_dir, data_file, file_sha256
from common.lora import LoraSpec
from common.models import Loaded, ModelSpec
from common.runs.jobs import Job
from common.seeds import asked
from common.standins.speech_smollm2 import SpeechLLM, folder_of, reaches, stand_in
from common.streaming import whisper
from common.streaming.digits import CHUNK, TASKS, Recordings, said
from common.streaming.words import Boundary
from common.training.checkpoints import WholeCheckpoints, keeper, resume_from
from common.training.fit import quiet
from common.whisper import MODEL, load_whisper, transcribe, whisper_files

from ..data import Drawn, Streams
from ..module import ProactiveTraining
from ..tasks import Item
from . import arms
from .arms import How

NAMES = ("full", "batch only")
RECORDINGS = "speech/fsdd.zip"
RATE = 5e-4
WAYS = {"stock": None, "one chunk": 3000, "480 ms": CHUNK, "960 ms": 2 * CHUNK}  # frames of a chunk
LONGEST, WHOLE = 24, 3000  # tokens that Whisper may write; frames of its thirty seconds
BEYOND = 5 * 10**8  # utterances of the test split that the arms are not measured on begin here


@dataclass(frozen=True)
class Size:
    seeds: tuple[int, ...]
    heard: int  # utterances
    words: How
    spoken: How
    job_seconds: float


ONE = ("entropy",)  # head
SIZES = {
    "smoke": Size((0,), 2, How(1, 2, 3, 3, (0.9,), (2,), 0.75, heads=ONE), How(1, 2, 3, 3, (0.9,), (2,), 0.85, law="slack", heads=ONE), 1),
    "cpu": Size(asked(), 96, How(200, 8, 32, 96, (0.5, 0.8, 0.95), (1, 1.5, 2, 3, 4), 0.75, heads=ONE),
                How(200, 8, 48, 96, (0.5, 0.8, 0.95), (2, 3, 4, 5, 6), 0.85, law="slack", heads=ONE), 3000)}


def how_of(task: str, size: str, stride: float = 1.0) -> How:
    return replace(SIZES[size].words if task == "words" else SIZES[size].spoken, stride=stride)


def ready() -> None:
    """Raises ModelError where the package is absent, and where the stand-in is there and recognises too little."""
    whisper_files()
    card = folder_of(0) / "training.json"
    if card.is_file():
        for task in TASKS:
            reaches(task, json.loads(card.read_text(encoding="utf-8"))["quality"])


def data_of_jobs() -> tuple[str, ...]:
    """The files beside the code that every job computes from. Raises DataError where NINEFOLD_DATA lacks the recordings."""
    data = (str(data_file(RECORDINGS)),)
    with contextlib.suppress(ModelError):  # without the package nothing runs (`ready`), and jobs may still be listed
        data += (str(whisper_files() / MODEL),)
    return data


def jobs(size: str = "cpu") -> list[Job]:
    """Raises DataError where NINEFOLD_DATA lacks the recordings."""
    of, found, data = SIZES[size], [], data_of_jobs()

    def job(name: str, function: str, seconds: float, after: tuple[str, ...] = (), **arguments) -> None:
        found.append(Job(f"whisper/{name}", f"{__name__}:{function}", arguments, data, min(seconds, of.job_seconds), after))

    job("heard", "heard", 400, size=size)
    job("standin", "made", 6000, ("whisper/heard",))
    for task in TASKS:
        for seed in of.seeds:
            for arm in NAMES:
                job(f"{task}/trained/{arm}/seed{seed}", "trained", 1200, ("whisper/standin",), task=task, seed=seed, arm=arm, size=size)
                job(f"{task}/{arm}/seed{seed}", "run", 1200, (f"whisper/{task}/trained/{arm}/seed{seed}",), task=task, seed=seed, arm=arm,
                    size=size)
    return found


# -- what chunks cost, before any training -----------------------------------------------------------------
def in_digits(text: str) -> str:
    """What Whisper wrote, in words: figures one by one, no punctuation. "9, 07" -> "nine zero seven"."""
    spelled = re.sub("[0-9]", lambda found: f" {DIGITS[int(found[0])]} ", text.lower())
    return " ".join(re.sub("[^a-z]", " ", spelled).split())


@torch.no_grad()
def states_by(way: str, encoder: nn.Module, spoken: Utterance) -> Tensor:
    """(1, 1500, d): an utterance and silence up to thirty seconds, which Whisper's decoder needs to find the end, by a way to encode."""
    if (chunk := WAYS[way]) is None:
        from transformers import WhisperFeatureExtractor

        samples = whisper.resampled(spoken.waveform, spoken.rate)
        return encoder(WhisperFeatureExtractor()(samples, sampling_rate=whisper.RATE, return_tensors="pt").input_features).last_hidden_state
    frames = whisper.log_mel(spoken.waveform, spoken.rate)[:WHOLE]
    frames = whisper.scaled(F.pad(frames, (0, 0, 0, WHOLE - len(frames)), value=whisper.QUIETEST), chunk)
    return whisper.ChunkedEncoder(encoder, chunk)(frames[None])


def heard(size: str = "cpu") -> dict:
    """{"ways": {way: {"wer", "errors": of each utterance}}, "words" and "speakers": of each, "model"}; a line a way as soon as it is
    known."""
    loaded = load_whisper()
    spoken = [said("words", BEYOND + number, "test") for number in range(SIZES[size].heard)]
    wanted, found = [" ".join(each.words) for each in spoken], {}
    for way in WAYS:
        given = [in_digits(transcribe(loaded, states_by(way, loaded.model.get_encoder(), each), LONGEST)) for each in spoken]
        score = wer(given, wanted)
        found[way] = {"wer": score["wer"], "errors": score["sentences"]["errors"],
                      "too many": sum(max(len(g.split()) - len(w.split()), 0) for g, w in zip(given, wanted))}
        print(f"  Whisper tiny.en, {way}: {score['wer']:.1f} % of the words wrong, {found[way]['too many']} too many, before any training",
              flush=True)
    return {"ways": found, "words": [len(each.words) for each in spoken], "speakers": [each.speaker for each in spoken],
            "model": loaded.source}


# -- the tasks ---------------------------------------------------------------------------------------------
class Spoken:
    """A task of tasks.py, on recordings: what arms.py and scoring.py ask of one."""

    spoken = True

    def __init__(self, name: str, recordings: Recordings, vocabulary: int):
        self.name, self.recordings, self.longest = name, recordings, 10 if name == "words" else 3
        self.boundary = Boundary("ends", torch.ones(vocabulary, dtype=torch.bool), recordings.stop)

    def item(self, number: int, split: str = "train") -> Item:
        example, units = self.recordings.ask(self.name, number, split)
        return Item(example, (*units, units[-1] if self.name == "spoken" else example.n_units + 1))

    def items(self, count: int, split: str, first: int = 0) -> list[Item]:
        return [self.item(first + i, split) for i in range(count)]

    def text(self, tokens: Sequence[int]) -> str:
        return self.recordings.text(tokens)


class SpokenStreams(Streams):
    """Items of a task as training batches; first: number of the first, behind all that the stand-in was trained on."""

    def __init__(self, task: Spoken, count: int, law: str, batch_size: int, seed: int, first: int = 10**7):
        super().__init__(law, batch_size=batch_size, seed=seed)
        self.task, self.count, self.first = task, count, first

    def items(self) -> tuple[Sequence[Item], Sequence[Item]]:
        return Drawn(self.task, "train", self.count, self.first), Drawn(self.task, "calibration", 1, 10**8)


def task_of(name: str, llm: SpeechLLM, seed: int, recordings: Recordings | None = None) -> Spoken:
    return Spoken(name, recordings or Recordings(llm.tokenizer, seed), llm.model.config.vocab_size)


def units_of_a_word(task: Spoken, count: int = 64) -> float:
    """Units of the source that a word of the answer takes, mean over training items: what a stride-aware rule may know."""
    if task.name != "words":
        return 1.0
    return fmean(item.example.n_units / (len(item.oracle) - 1) for item in task.items(count, "train", 2 * 10**7))


# -- the arms ----------------------------------------------------------------------------------------------
def made() -> dict:
    """The stand-in, trained where it is not there. Raises ModelError for one below a bar."""
    for task in TASKS:
        llm = stand_in(0, task)
    card = json.loads((folder_of(0) / "training.json").read_text(encoding="utf-8"))
    return {"model": llm.source, "quality": card["quality"], "steps": card["steps"], "cpu_seconds": card["cpu_seconds"]}


def work_of(task: str, seed: int, arm: str, size: str) -> Path:
    """Where the checkpoint of a training is kept, by all that it depends on: the job's key, which holds code,
    recordings and Whisper's weights; the stand-in is named by the same. Raises DataError where the recordings are missing."""
    key = Job("trained", f"{__name__}:trained", {"task": task, "seed": seed, "arm": arm, "size": size}, data_of_jobs()).key()
    return cache_dir() / "proactivellm-whisper" / f"{task}-{arm.replace(' ', '-')}-seed{seed}-{key}"


class SpeechTraining(ProactiveTraining):
    """Of a speech LLM: a new adapter on its decoder, and its projector. The checkpoint is all that is kept."""

    def __init__(self, llm: SpeechLLM, arm: arms.Arm, seed: int):
        super().__init__(ModelSpec("in memory"), arm.batch, arm.stream, arm.lam, learning_rate=RATE, weight_decay=0.01, beta2=0.98,
                         warmup_steps=10, schedule="linear", lora=LoraSpec(4, alpha=16, dropout=0.0), seed=seed)
        self.loss: float | None = None  # of the last step in the checkpoint that it goes on from
        self.loaded, self.projector = Loaded(llm.model, None, llm.source), [llm.projector]  # in a list: a part once, as the encoder

    def configure_model(self) -> None:
        super().configure_model()
        self.encoder = self.projector[0].requires_grad_(True).train()  # joins as a causal encoder does

    def keeps_product(self) -> bool:
        return False

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["loss"] = float(self.trainer.callback_metrics["train/loss"])

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.loss = checkpoint["loss"]


def training(llm: SpeechLLM, task: Spoken, arm: str, how: How, seed: int, work: Path) -> tuple[SpeechTraining, float]:
    """(trained module, loss of its last step); gone on with where a killed run was. Where no step was left, the checkpoint has the loss."""
    import lightning as L

    module, of = SpeechTraining(llm, arms.ARMS[arm], seed), arms.ARMS[arm]
    data = SpokenStreams(task, how.steps * how.batch, of.law or how.law, how.batch, seed + 1)
    last, _ = resume_from(work)
    with quiet():
        trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=how.steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                            precision="bf16-mixed", enable_model_summary=False, enable_progress_bar=False, limit_val_batches=0,
                            plugins=[WholeCheckpoints()], callbacks=[keeper(work, min(20, how.steps))], default_root_dir=work)
        trainer.fit(module, data, ckpt_path=last)
    return module, float(trainer.callback_metrics.get("train/loss", module.loss))


def trained(task: str, seed: int, arm: str, size: str = "cpu") -> dict:
    """Trains an arm; its last checkpoint stays in the cache, for `run`."""
    llm, work = stand_in(0, task), work_of(task, seed, arm, size)
    _, loss = training(llm, task_of(task, llm, seed), arm, how_of(task, size), seed, work)
    return {"loss": loss, "checkpoint_sha256": file_sha256(work / "last.ckpt")}


def run(task: str, seed: int, arm: str, size: str = "cpu") -> dict:
    """One arm of a task, measured as arms.py does."""
    llm = stand_in(0, task)
    of = task_of(task, llm, seed)
    how = how_of(task, size, units_of_a_word(of))
    module, _ = training(llm, of, arm, how, seed, work_of(task, seed, arm, size))  # finished: its weights are read, no step is taken
    return measured(module, of, how, seed, arm)


def measured(module: SpeechTraining, task: Spoken, how: How, seed: int, arm: str) -> dict:
    """Of a trained module, its adapter merged; with random lots and reading always, where it is the full arm."""
    model = module.model.merge_and_unload().eval()
    return {"stride": how.stride} | arms.measured(model, module.encoder.eval(), task, how, seed, arm == "full")
