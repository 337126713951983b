"""A small reasoner that repeats itself, and how it is trained: the stand-in of the papers on reasoning.

`make standins-reasoner` (python -m common.standins.reasoner) trains the three of common/standins/reasoner-weights: a Llama of two layers on
redundant traces of chain arithmetic (data/chains.py), next-token loss on the trace alone.

The loss is divided by a constant, rows x the corpus' mean length, and not by the tokens of the batch: batches hold traces
of about one length, and a mean over each would give a token of a short trace more weight than one of a long trace. The
model then writes traces that are far too short, which is the very bias that On-Policy SFT's correction is about.
Checkpoints every 250 steps: a killed run goes on.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import chains
from ..files import cache_dir, write_json
from ..models import ModelSpec, load
from ..runs.jobs import Job
from ..training.checkpoints import WholeCheckpoints, keeper, resume_from
from ..training.steps import FromStep

FOLDER = Path(__file__).parent / "reasoner-weights"
SEEDS = (0, 1, 2)
TRACES, ROWS, STAGES = 24_000, 64, ((2600, 3e-3), (800, 1e-3))  # steps and peak learning rate of each stage
CAP = chains.LONGEST
DECODER = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, intermediate_size=192,
               tie_word_embeddings=True, max_position_embeddings=512)


def build(seed: int, decoder: Mapping[str, Any] = DECODER):
    """An untrained model of these dimensions (entries of LlamaConfig; hidden_size a multiple of the heads): 0.1 M parameters by default."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = chains.tokenizer()
    config = LlamaConfig(**decoder, vocab_size=len(words), bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
                         pad_token_id=words.pad_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


class Traces(Dataset):
    """Optimiser steps: rows of about one length, drawn from (seed, step) alone."""

    def __init__(self, seed: int, steps: int, count: int = TRACES, rows: int = ROWS):
        self.seed, self.steps, self.rows = seed, steps, rows
        index, draw = {w: i for i, w in enumerate(chains.WORDS)}, np.random.default_rng([seed, 5])
        problems = [chains.problem(i, "train", seed=0) for i in range(count)]
        found = sorted(((p.prompt, chains.trace(p, draw)) for p in problems), key=lambda pair: len(pair[0]) + len(pair[1]))
        self.examples = [([index[w] for w in prompt], [index[w] for w in trace]) for prompt, trace in found]
        self.mean_length = sum(len(t) for _, t in self.examples) / count

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """(ids (B, T), targets (B, T)): targets are the trace's tokens where they stand, -100 elsewhere."""
        draw = np.random.default_rng([self.seed, 6, step])
        first = int(draw.integers(len(self.examples) - self.rows + 1))
        part = self.examples[first : first + self.rows]
        width = max(len(p) + len(t) for p, t in part)
        ids, targets = torch.zeros(len(part), width, dtype=torch.long), torch.full((len(part), width), -100)
        for row, (prompt, trace) in enumerate(part):
            ids[row, : len(prompt) + len(trace)] = torch.tensor(prompt + trace)
            targets[row, len(prompt) : len(prompt) + len(trace)] = torch.tensor(trace)
        return ids, targets


class ReasonerTraining(L.LightningModule):
    """AdamW; a warm-up and a cosine for each stage."""

    def __init__(self, model, mean_length: float, stages=STAGES):
        super().__init__()
        self.model, self.mean_length, self.stages = model, mean_length, stages
        self.losses: list[float] = []

    def training_step(self, batch: tuple, batch_idx: int) -> Tensor:
        ids, targets = batch
        logits = self.model(ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets[:, 1:].reshape(-1), reduction="sum")
        self.losses.append(round(float(loss.detach()) / int((targets != -100).sum()), 4))
        return loss / (len(ids) * self.mean_length)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(rate, stages=self.stages))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.losses = checkpoint["losses"]


def rate(step: int, stages) -> float:
    """Learning rate of a step: 50 steps up, then half a cosine down to nothing, once a stage."""
    for steps, peak in stages:
        if step < steps:
            warmup = min(50, steps // 4)
            if step < warmup:
                return peak * (step + 1) / warmup
            return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        step -= steps
    return 0.0


def checkpoints(seed: int, stages, decoder: Mapping[str, Any] = DECODER) -> Path:
    """Where the cache keeps a training's checkpoints: by arguments and by the recipe's own code."""
    key = Job("reasoner", "common.standins.reasoner:train", {"seed": seed, "stages": stages, "decoder": dict(decoder)}).key()
    return cache_dir() / "standins-reasoner" / f"seed{seed}-{key}"


def train(seed: int, stages=STAGES, count: int = TRACES, progress: bool = True, stop: int | None = None,
          every: int = 250, decoder: Mapping[str, Any] = DECODER):
    """(model, losses, mean length of the corpus); a killed run goes on.

    stages: (steps, peak learning rate) of each. count: traces of the corpus. stop: as if killed after that many steps.
    every: steps between checkpoints. decoder: dimensions, as `build` takes them; the batches do not depend on it.
    """
    from lightning.pytorch.callbacks import TQDMProgressBar

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    steps = sum(n for n, _ in stages)
    rows, model = Traces(seed, steps, count), build(seed, decoder)
    module, work = ReasonerTraining(model.train(), rows.mean_length, stages), checkpoints(seed, stages, decoder)
    last, done = resume_from(work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=stop or steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                            enable_model_summary=False, enable_progress_bar=progress,
                            plugins=[WholeCheckpoints()],
                            callbacks=[keeper(work, min(every, stop or steps)), *([TQDMProgressBar(50)] if progress else [])])
        trainer.fit(module, DataLoader(FromStep(rows, done, steps), batch_size=None), ckpt_path=last)
    return model.eval(), module.losses, rows.mean_length


def report(model, problems: int = 200, samples: int = 4, seed: int = 0) -> dict:
    """{"avg", "tokens", "at_cap", "by_k": {k: {"avg", "tokens"}}}: unseen problems at temperature 1 and the cap."""
    from ..reasoning.rollouts import sample

    words, found = chains.tokenizer(), [chains.problem(i, "test") for i in range(problems)]
    prompts = [words.convert_tokens_to_ids(list(p.prompt)) for p in found]
    rollouts = sample(model, prompts, samples, CAP, end=words.eos_token_id, generator=torch.Generator().manual_seed(seed))
    said = [words.convert_ids_to_tokens(list(r.ids)) for r in rollouts]
    rows = [(found[r.prompt].k, chains.correct(text, found[r.prompt]), len(r.ids), r.finished) for r, text in zip(rollouts, said)]

    def mean(part: list, column: int) -> float:
        return round(float(np.mean([row[column] for row in part])), 4)

    by_k = {str(k): [row for row in rows if row[0] == k] for k in sorted({row[0] for row in rows})}
    return {"avg": mean(rows, 1), "tokens": mean(rows, 2), "at_cap": round(1 - mean(rows, 3), 4),
            "by_k": {k: {"avg": mean(part, 1), "tokens": mean(part, 2)} for k, part in by_k.items()}}


def train_reasoner(seed: int, folder: Path, stages=STAGES, decoder: Mapping[str, Any] = DECODER) -> dict:
    """Trains a stand-in, writes folder and its card, and returns the card."""
    model, losses, mean_length = train(seed, stages, decoder=decoder)
    model.half().save_pretrained(folder)
    chains.tokenizer().save_pretrained(folder)
    result = {"seed": seed, "stages": [list(s) for s in stages], "rows": ROWS, "traces": TRACES,
              "decoder": dict(decoder), "corpus mean length": round(mean_length, 2),
              "test": report(load_reasoner(folder)[0]), "curve": [[s, losses[s]] for s in range(0, len(losses), 50)]}
    write_json(folder / "training.json", result)
    return result


def load_reasoner(folder: Path | str):
    """(model in fp32 and eval mode, tokenizer, facts for records)."""
    loaded = load(ModelSpec(name=str(folder), dtype="float32"))
    return loaded.model, loaded.tokenizer, loaded.source


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the committed small reasoners again, four minutes of one core each.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    for seed in options.seeds:
        print(seed, train_reasoner(seed, options.folder / f"seed{seed}")["test"], flush=True)


if __name__ == "__main__":
    main()
