"""A small model that thinks sentence by sentence: the stand-in of StreamingThinker, and how it is trained.

`make standins-stories` (python -m common.standins.stories) trains the models of common/standins/stories-weights: a Llama of three
layers on stories with running totals (data/stories.py) in the batch layout, the whole story first and then every thought, next-token
loss on the thoughts alone. It plays the reasoner that is there before anybody asks it to think while it reads.

Finding again what was noted about a person is what such a model learns last (1,300 steps without help leave a third of the notes
right), and what every language model has long learnt. So two heads are set before the first step: one of the first layer looks at the
token before, one of the second looks for a token that came behind the present one (an induction circuit); they are trained on like
all the rest. Recall (names and values) and drills (chains of updates) come before the stories. A card below BARS is an error: no
claim may rest on such a model.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import stories
from ..data.stories import Level
from ..errors import ModelError
from ..files import cache_dir, write_json
from ..models import ModelSpec, load
from ..streaming.batched import Row, Written, decode, interleaved
from ..training.checkpoints import WholeCheckpoints, keeper, resume_from
from ..training.steps import FromStep

FOLDER = Path(__file__).parent / "stories-weights"
SEEDS = (0, 2, 4)  # seeds 1 and 3 stayed below BARS with the same recipe (stories-weights/README.md)
BARS = {"unit": 0.97, "D2": 0.90}
DECODER = dict(hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, intermediate_size=384,
               tie_word_embeddings=True, attention_bias=True, max_position_embeddings=1024)
BUCKET = 4  # batches that are drawn together and dealt by length
UNIT_CAP, REST_CAP = 24, 48  # tokens


@dataclass(frozen=True)
class Phase:
    """steps at a rate (peak, last), after `warm` steps up; shares of recall rows and drills, the rest are stories of a level.
    people: of the drills."""

    steps: int
    rate: tuple[float, float]
    recall: float
    drills: float
    level: Level = Level()
    people: tuple[int, int] = (1, 3)
    rows: int = 48
    warm: int = 0


PHASES = (
    Phase(150, (2e-3, 2e-3), 0.4, 0.6, warm=30),
    Phase(250, (2e-3, 2e-3), 0.10, 0.30, Level((2, 4), (2, 2))),
    Phase(300, (2e-3, 2e-3), 0.05, 0.15, Level((2, 5), (2, 3), skip=0.08)),
    Phase(1300, (2e-3, 5e-5), 0.02, 0.06, Level((3, 7), (2, 3))),
    Phase(600, (1e-3, 3e-5), 0.02, 0.04, Level((3, 7), (2, 3), give=0.5), warm=20),  # transfers are what is still wrong then
)


def build(seed: int):
    """The model before its first step: 0.65 M parameters, two heads set (`look_back`)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = stories.tokenizer()
    config = LlamaConfig(**DECODER, vocab_size=len(words), bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
                         pad_token_id=words.pad_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        look_back(model)
        return model


# -- rows --------------------------------------------------------------------------------------------------
Pairs = list[tuple[str, bool]]  # a word, and whether it is learnt


def story_row(story: stories.Story, depth: int) -> Pairs:
    """The batch layout: <bos>, source | <think>, units, cue, deep part. Header and cue are forced and not learnt."""
    read = [stories.BOS, *(w for segment in story.source for w in segment), stories.THINK]
    units = [w for unit in story.units for w in unit]
    return [*((w, False) for w in read), *((w, True) for w in units), (stories.CUES[depth - 1], False),
            *((w, True) for w in story.deep[depth - 1])]


def drill(draw: np.random.Generator, people: tuple[int, int], updates: int = 8) -> Pairs:
    """Notes alone: values, then updates of them. Old value, new value and what lies between are learnt; what cannot be known is not."""
    names = [stories.NOTES[i] for i in draw.permutation(len(stories.NOTES))[: int(draw.integers(people[0], people[1] + 1))]]
    state = {name: int(draw.integers(10)) for name in names}
    row: Pairs = [(stories.BOS, False), (stories.THINK, False)]
    for i, name in enumerate(names):
        row += [(w, False) for w in (stories.LINES[i], name, str(state[name]), stories.UNIT)]
    for i in range(len(names), len(names) + updates):
        name, sign, d = names[int(draw.integers(len(names)))], "+-"[int(draw.integers(2))], int(draw.integers(1, 10))
        old = state[name]
        state[name] = (old + d if sign == "+" else old - d) % 10
        row += [(stories.LINES[i], False), (name, False), (str(old), True), (sign, False), (str(d), False), (":", True), (name, True),
                (str(state[name]), True), (stories.UNIT, True)]
    return row


def recall(draw: np.random.Generator, queries: int = 20) -> Pairs:
    """Names with values, then names to be given their last value; 30 % get a new one, behind a colon, instead."""
    names = [stories.NOTES[i] for i in draw.permutation(len(stories.NOTES))[: int(draw.integers(2, 7))]]
    state = {name: int(draw.integers(10)) for name in names}
    row: Pairs = [(stories.BOS, False), (stories.THINK, False)]
    for name in names:
        row += [(name, False), (str(state[name]), False), (stories.UNIT, False)]
    for _ in range(queries):
        name, changes = names[int(draw.integers(len(names)))], draw.random() < 0.3
        if changes:
            state[name] = int(draw.integers(10))
            row.append((":", False))
        row += [(name, False), (str(state[name]), not changes), (stories.UNIT, False)]
    return row


class Rows(Dataset):
    """Optimiser steps: rows of about one length, a function of (seed, step) alone."""

    def __init__(self, seed: int, phases: Sequence[Phase] = PHASES):
        self.seed, self.phases = seed, phases
        self.steps = sum(phase.steps for phase in phases)
        self._bucket: tuple[int, list[list[Pairs]]] = (-1, [])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """(ids (B, T), targets (B, T)): -100 where nothing is learnt."""
        group, place = divmod(step, BUCKET)
        if self._bucket[0] != group:
            phase, draw = phase_of(step - place, self.phases)[0], np.random.default_rng([self.seed, 11, group])
            rows = sorted((self._row(phase, draw, group * 1000 + i) for i in range(BUCKET * phase.rows)), key=len)
            parts = [rows[i * phase.rows : (i + 1) * phase.rows] for i in range(BUCKET)]
            self._bucket = group, [parts[i] for i in draw.permutation(BUCKET)]
        return collate(self._bucket[1][place])

    def _row(self, phase: Phase, draw: np.random.Generator, number: int) -> Pairs:
        kind = draw.random()
        if kind < phase.recall:
            return recall(draw)
        if kind < phase.recall + phase.drills:
            return drill(draw, phase.people)
        return story_row(stories.totals(number, "train", self.seed, phase.level), int(draw.integers(1, 4)))


def collate(rows: Sequence[Pairs]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids, targets = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(stories.ids([word for word, _ in row]))
        targets[i, : len(row)] = torch.where(torch.tensor([learnt for _, learnt in row]), ids[i, : len(row)], -100)
    return ids, targets


# -- training ----------------------------------------------------------------------------------------------
def phase_of(step: int, phases: Sequence[Phase]) -> tuple[Phase, int]:
    """(its phase, steps since the phase began)."""
    for phase in phases:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    return phases[-1], phases[-1].steps


def rate(step: int, phases: Sequence[Phase]) -> float:
    phase, since = phase_of(step, phases)
    if since < phase.warm:
        return phase.rate[0] * (since + 1) / phase.warm
    high, low = phase.rate
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * (since - phase.warm) / (phase.steps - phase.warm)))


@torch.no_grad()
def look_back(model, strength: float = 6.0, keep: float = 0.1, written: float = 0.04, gain: float = 1.5) -> None:
    """Sets head 0 of the first two layers: "who came before me" and "behind whom did what I am stand".

    The first head attends to the token before, whatever it is, by biases alone: the rotation turns them with the distance, so that
    their product is largest at distance 1; its own weights are scaled by `keep`. What it sees it writes, times `written`, from one set
    of 32 random directions into another. The second head's queries read the first set, its keys the other, times `gain`.
    """
    first, second = (model.model.layers[i].self_attn for i in (0, 1))
    width, size = model.config.hidden_size, model.config.hidden_size // model.config.num_attention_heads
    angles, half = model.model.rotary_emb.inv_freq.float(), size // 2
    first.q_proj.bias[:size] = strength * torch.cat([angles.cos(), -angles.sin()])
    first.k_proj.bias[:size] = strength * torch.cat([torch.ones(half), torch.zeros(half)])
    first.q_proj.weight[:size] *= keep
    first.k_proj.weight[:size] *= keep
    directions, _ = torch.linalg.qr(torch.randn(width, 2 * size))
    present, before = directions[:, :size].T, directions[:, size:].T
    first.v_proj.weight[:size] = present
    first.o_proj.weight[:, :size] = written * before.T
    second.q_proj.weight[:size] = gain * present
    second.k_proj.weight[:size] = gain * before


class StoriesTraining(L.LightningModule):
    """AdamW, the phases one after another."""

    def __init__(self, model, phases: Sequence[Phase] = PHASES):
        super().__init__()
        self.model, self.phases = model, phases
        self.losses: list[float] = []

    def training_step(self, batch: tuple, batch_idx: int) -> Tensor:
        ids, targets = batch
        logits = self.model(ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets[:, 1:].reshape(-1))
        self.losses.append(round(float(loss.detach()), 4))
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, self.phases))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.losses = checkpoint["losses"]


def checkpoints(seed: int, phases: Sequence[Phase] = PHASES) -> Path:
    """Where the cache keeps a training's checkpoint: by its arguments."""
    digest = hashlib.sha256(repr((seed, phases, sorted(DECODER.items()), stories.WORDS)).encode()).hexdigest()
    return cache_dir() / "standins-stories" / f"seed{seed}-{digest[:16]}"


def train(seed: int, phases: Sequence[Phase] = PHASES, progress: bool = True, stop: int | None = None, every: int = 200):
    """(model, losses); a killed run goes on. stop: as if killed after that many steps. every: steps between checkpoints."""
    from lightning.pytorch.callbacks import TQDMProgressBar

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows, module, work = Rows(seed, phases), StoriesTraining(build(seed).train(), phases), checkpoints(seed, phases)
    last, done = resume_from(work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=stop or rows.steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                            enable_model_summary=False, enable_progress_bar=progress, plugins=[WholeCheckpoints()],
                            callbacks=[keeper(work, min(every, stop or rows.steps)), *([TQDMProgressBar(50)] if progress else [])])
        trainer.fit(module, DataLoader(FromStep(rows, done, rows.steps), batch_size=None), ckpt_path=last)
    return module.model.eval(), module.losses


# -- what it can -------------------------------------------------------------------------------------------
def row_of(story: stories.Story, depth: int, given: bool = False) -> Row:
    """given: the story's own units are forced, and only the rest is the model's."""
    source = [stories.ids((stories.BOS,)), *map(stories.ids, story.source)]
    units = [token for unit in story.units for token in stories.ids(unit)] if given else ()
    return Row(source, stories.ids((stories.THINK,)), stories.ids(stories.CUES[depth - 1 : depth]), given=units)


def written(model, told: Sequence[stories.Story], depth: int, mode: str = "batch", start: int | None = 0,
            given: bool = False, caps: tuple[int, int] = (UNIT_CAP, REST_CAP)) -> list[Written]:
    """What the model writes, greedily. mode: batch (the whole story first), streaming (sentence by sentence) or interleaved. start: the
    target's first position, None: behind its own source, as in one text. given: units are the stories' own. caps: most tokens of
    a unit and of the rest."""
    how = dict(ends={stories.INDEX[stories.UNIT]}, boundary=stories.INDEX[stories.UNIT], stop=stories.INDEX[stories.END],
               unit_cap=caps[0], rest_cap=caps[1])
    rows = [row_of(story, depth, given) for story in told]
    if mode == "interleaved":
        return interleaved(model, rows, **how)
    return decode(model, rows, visible="units" if mode == "streaming" else "all", start=start, **how)


def graded(told: Sequence[stories.Story], found: Sequence[Written]) -> dict:
    """{"unit": share of units that are right word for word, "answer", "kinds": {kind: [right, of them]}, "places": [[right, of them] by
    sentence number], "tokens": a story, "truncated": share}. An answer is right if the rest ends with A, it and <eos>."""
    kinds: dict[str, list[int]] = {}
    places: list[list[int]] = []
    right = tokens = truncated = 0
    answers = []
    for story, row in zip(told, found):
        for i, (gold, kind) in enumerate(zip(story.units, story.kinds)):
            good = int(i < len(row.units) and row.units[i] == stories.ids(gold))
            places += [[0, 0]] * (i + 1 - len(places))
            places[i] = [places[i][0] + good, places[i][1] + 1]
            before = kinds.get(kind, [0, 0])
            kinds[kind] = [before[0] + good, before[1] + 1]
        answers.append(int(row.rest[-3:] == stories.ids((stories.ANSWER, story.answer, stories.END))))
        right, tokens, truncated = right + answers[-1], tokens + row.tokens, truncated + row.truncated
    n, units = len(told), sum(of for _, of in kinds.values())
    return {"unit": sum(good for good, _ in kinds.values()) / units, "answer": right / n, "answers": answers, "kinds": kinds,
            "places": places, "tokens": tokens / n, "truncated": truncated / n}


def report(model, count: int = 500, seed: int = 0) -> dict:
    """{"unit", "D1", "D2", "D3", "kinds"}: unseen stories of 4-7 sentences, greedy, in batch mode."""
    told = [stories.totals(i, "test", seed) for i in range(count)]
    by_depth = {depth: graded(told, written(model, told, depth, start=None)) for depth in (1, 2, 3)}
    return {"stories": count, "unit": round(by_depth[2]["unit"], 4), "kinds": by_depth[2]["kinds"],
            **{f"D{depth}": round(found["answer"], 4) for depth, found in by_depth.items()}}


def reaches(card: dict) -> bool:
    return all(card["test"][name] >= bar for name, bar in BARS.items())


def train_stories(seed: int, folder: Path, phases: Sequence[Phase] = PHASES) -> dict:
    """Trains a stand-in, writes folder and its card, and returns the card."""
    model, losses = train(seed, phases, progress=False)
    model.half().save_pretrained(folder)
    stories.tokenizer().save_pretrained(folder)
    result = {"seed": seed, "steps": [p.steps for p in phases], "decoder": DECODER, "test": report(load_stories(folder)[0]),
              "curve": [[s, losses[s]] for s in range(0, len(losses), 25)]}
    write_json(folder / "training.json", result)
    return result


def load_stories(folder: Path | str):
    """(model in fp32 and eval mode, tokenizer, facts for records)."""
    loaded = load(ModelSpec(name=str(folder), dtype="float32"))
    return loaded.model, loaded.tokenizer, loaded.source


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the committed story tellers again, twenty minutes of one core each.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    cards = {seed: train_stories(seed, options.folder / f"seed{seed}") for seed in options.seeds}
    for seed, card in cards.items():
        print(seed, {name: value for name, value in card["test"].items() if name != "kinds"}, flush=True)
    if short := [seed for seed, card in cards.items() if not reaches(card)]:
        raise ModelError(f"seeds {short} are below {BARS} on unseen stories: no claim may be measured on them; train longer or other seeds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
