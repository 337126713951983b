"""A small speech LLM of real parts: Whisper tiny.en's encoder in chunks, a new projector, SmolLM2-135M-Instruct with rank-4 adapters.

`make standins-speech_smollm2` (python -m common.standins.speech_smollm2; NINEFOLD_DATA, the group `whisper`) trains it on recorded digits
(common/streaming/digits.py): to write down what is spoken in half of the rows, to answer which digit comes after another in the other
half. Whisper's encoder never trains. The whole recording is read before the answer begins: nothing here has seen a prefix.
In half of the rows the answer's positions go on from the recording's, as a stock model counts, in the other half they begin at 0 again
(group positions, arXiv 2505.16983): a streaming paper may start from it with either, and it is a stock model to whoever just generates.

Under bf16 autocast; checkpoints every 20 steps hold what is trained, so that a killed run goes on. A folder holds adapter and projector
in bfloat16, under 4 MB together, and the card. What recognises too little (BARS) is refused: it would show how badly a model hears.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import DynamicCache

from ..benchmarks.speech import wer
from ..errors import FileError, ModelError
from ..files import building, cache_dir, file_sha256, replacing, write_json
from ..lora import CONFIG, MOST, WEIGHTS, LoraSpec, adapter_folder, add_lora, merge
from ..lora import save as save_adapter
from ..models import SMOLLM2, Loaded, load
from ..runs.sources import closure
from ..streaming.digits import CHUNK, TASKS, Recordings
from ..streaming.units import Example
from ..streaming.whisper import FRAME_MS, Projector
from ..training.checkpoints import WholeCheckpoints, keeper, resume_from
from ..training.fit import quiet
from ..training.steps import FromStep
from ..vision.llava import whiten
from ..vision.parts import load_projector
from .llava import Clock

FOLDER = Path(__file__).parent / "speech-smollm2-weights"
PROJECTOR, CARD = "projector.safetensors", "training.json"
SEEDS: tuple[int, ...] = ()  # that are committed; of others they are trained in the cache
BARS = {"words": 85.0, "spoken": 70.0}  # 100 - word error rate, with everything read, in either way to count
SCORED = 5 * 10**8  # calibration utterances from here on are the card's, and nobody else's


@dataclass(frozen=True)
class Steps:
    """steps of `rows` utterances; every: steps between checkpoints; scored: utterances of a task that the card is of."""

    steps: int = 600
    rows: int = 16
    rate: float = 1e-3
    warmup: int = 50
    rank: int = 4
    every: int = 20
    scored: int = 64

    def adapter(self) -> LoraSpec:
        return LoraSpec(self.rank, alpha=4 * self.rank, dropout=0.0)  # on every linear layer of a block


# -- the model ---------------------------------------------------------------------------------------------
class SpeechLLM(NamedTuple):
    """model: a stock causal LM; projector: (tokens, n) -> its embeddings, with CausalEncoder's `join`."""

    model: nn.Module
    projector: Projector
    tokenizer: Any
    source: dict


@torch.no_grad()
def build(seed: int, sample: Tensor, decoder: Loaded, adapter: LoraSpec) -> SpeechLLM:
    """Untrained, adapters on the decoder (no copy). sample (., n): states; the projector starts out whitening them, and what it gives has
    the size of the decoder's own embeddings."""
    table = decoder.model.get_input_embeddings().weight
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = Projector(sample.shape[-1], table.shape[1])
        add_lora(decoder.model, adapter)
    whiten(projector.first, sample, seed)
    projector.second.weight *= table.std() / projector(sample.float()).std()
    return SpeechLLM(decoder.model, projector, decoder.tokenizer, decoder.source | {"seed": seed})


def save(llm: SpeechLLM, folder: Path) -> None:
    """Adapter and projector in bfloat16. Raises FileError for more than 4 MB together, before the projector is written.

    A projector that was there goes first: a kill leaves a folder that is refused, never one training's beside another's adapter.
    """
    from safetensors.torch import save as as_bytes

    (folder / PROJECTOR).unlink(missing_ok=True)
    save_adapter(llm.model, folder, base=llm.source["name"])
    tensors = {name: value.detach().bfloat16().cpu().contiguous() for name, value in llm.projector.state_dict().items()}
    data = as_bytes(tensors, {"format": "pt"})
    if (whole := len(data) + (folder / WEIGHTS).stat().st_size) > MOST:
        raise FileError(f"{folder.name}: adapter and projector would have {whole:,} bytes together, and may have {MOST:,}")
    with replacing(folder / PROJECTOR) as file:
        file.write(data)


def opened(folder: Path | str, base: Loaded | None = None, task: str | None = None) -> SpeechLLM:
    """A folder of `save` and its card, the adapter merged into the decoder, float32. base: another decoder than SmolLM2 (tests), changed.

    task: that it is to be used for. Raises ModelError where it is below the task's bar, and for what is missing or does not fit."""
    from safetensors.torch import load_file

    folder = Path(folder)
    if absent := [name for name in (WEIGHTS, PROJECTOR, CARD) if not (folder / name).is_file()]:
        raise ModelError(f"{folder.name}: no {absent[0]}; this speech LLM is a folder as `make standins-speech_smollm2` writes it")
    if task is not None:
        reaches(task, json.loads((folder / CARD).read_text(encoding="utf-8"))["quality"])
    base = base or load(SMOLLM2)
    made_for = json.loads((adapter_folder(folder) / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if made_for != base.source["name"]:
        raise ModelError(f"{folder.name}: its adapter is of {made_for}, not of {base.source['name']}")
    model = merge(base.model, folder).eval().requires_grad_(False)
    projector = Projector(load_file(folder / PROJECTOR)["first.weight"].shape[1], model.get_input_embeddings().weight.shape[1])
    load_projector(projector, folder / PROJECTOR)
    facts = {"name": f"speech-smollm2/{folder.name}", "adapter_sha256": file_sha256(folder / WEIGHTS),
             "projector_sha256": file_sha256(folder / PROJECTOR)}
    return SpeechLLM(model, projector.eval().requires_grad_(False), base.tokenizer, base.source | facts)


def reaches(task: str, quality: dict[str, dict[str, float]]) -> None:
    """Raises ModelError where the card's quality in a task is below its bar in one of the two ways to count."""
    if (least := min(quality[task].values())) < BARS[task]:
        raise ModelError(f"the speech LLM has {least:.1f} of 100 in {task!r} with everything read, and needs {BARS[task]:g}: it recognises "
                         "too little for anything to be measured on it; train it longer (Steps), or with another seed")


def folder_of(seed: int) -> Path:
    """Where a seed's model is: committed, or in the cache, named by all that its training depends on."""
    return FOLDER / f"seed{seed}" if seed in SEEDS else work_of(seed, Steps(), SMOLLM2.name) / "model"


def stand_in(seed: int = 0, task: str | None = None) -> SpeechLLM:
    """The model of a seed, trained where it is neither committed nor in the cache (an hour and more). Errors as `opened`."""
    folder = folder_of(seed)
    if not folder.is_dir() and seed not in SEEDS:
        with building(folder) as made:
            train(seed, made)
    return opened(folder, task=task)


# -- its training ------------------------------------------------------------------------------------------
class Rows:
    """Optimiser steps: rows[step] is a list of (example, whether the answer counts from 0). The tasks and the ways to count in turn."""

    def __init__(self, recordings: Recordings, rows: int):
        self.recordings, self.rows = recordings, rows

    def __getitem__(self, step: int) -> list[tuple[Example, bool]]:
        return [(self.recordings.ask(TASKS[i % 2], step * self.rows + i).example, i // 2 % 2 == 0) for i in range(self.rows)]


def inputs(examples: Sequence[Example], grouped: Sequence[bool], projector: nn.Module, embeddings: nn.Module, headers: bool = False):
    """(embeddings (B, S + T, width), mask to be added (B, 1, S + T, S + T), positions (B, S + T), target ids (B, T), real columns).

    A source is padded behind its end, and its answer stands behind the padding. headers: of the targets these alone."""
    pad = functools.partial(nn.utils.rnn.pad_sequence, batch_first=True)
    source, features = pad([e.source for e in examples]), pad([e.features for e in examples])
    targets = [e.target[: e.target_units[0]] if headers else e.target for e in examples]
    target = pad(targets)
    sources, lengths = (torch.tensor([len(row) for row in rows]) for rows in ([e.source for e in examples], targets))
    s, t = torch.arange(source.shape[1]), torch.arange(target.shape[1])
    real = torch.cat([s < sources[:, None], t < lengths[:, None]], 1)
    place = torch.arange(real.shape[1])
    seen = ((place[:, None] >= place) & real[:, None]) | (place[:, None] == place)
    begin = torch.where(torch.tensor(list(grouped)), 0, sources)
    positions = torch.cat([s.expand(len(examples), -1), t + begin[:, None]], 1)
    embedded = torch.cat([projector.join(source, features, embeddings), embeddings(target)], 1)
    return embedded, _added(seen)[:, None], positions, target, real


def _added(seen: Tensor) -> Tensor:
    """As eager attention adds it, and SDPA as well."""
    return torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)


class Training(L.LightningModule):
    """Projector and adapters on the answers' tokens, a mean over those of a step; AdamW, warm-up and cosine. A checkpoint holds these."""

    def __init__(self, llm: SpeechLLM, steps: Steps):
        super().__init__()
        self.strict_loading = False  # what is frozen is in no checkpoint
        self.projector, self.decoder, self.steps = llm.projector, llm.model, steps
        self.losses: list[float] = []

    def training_step(self, rows: list[tuple[Example, bool]], batch_idx: int) -> Tensor:
        examples, grouped = zip(*rows)
        x, mask, positions, target, _ = inputs(examples, grouped, self.projector, self.decoder.get_input_embeddings())
        n = target.shape[1]
        logits = self.decoder(inputs_embeds=x, attention_mask=mask, position_ids=positions, use_cache=False,
                              logits_to_keep=n).logits[:, -n:]
        scored = torch.stack([(torch.arange(n) >= e.target_units[0]) & (torch.arange(n) < len(e.target)) for e in examples])
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), target.masked_fill(~scored, -100)[:, 1:].flatten(), ignore_index=-100)
        self.losses.append(round(float(loss.detach()), 4))
        return loss

    def transfer_batch_to_device(self, batch, device, dataloader_idx: int):
        """Examples are frozen, which Lightning would copy field by field; nothing here leaves the CPU."""
        return batch

    def configure_optimizers(self):
        from transformers import get_cosine_schedule_with_warmup

        optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.steps.rate, weight_decay=0.01,
                                      betas=(0.9, 0.98))
        schedule = get_cosine_schedule_with_warmup(optimizer, self.steps.warmup, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in trained}
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.losses = checkpoint["losses"]


def work_of(seed: int, steps: Steps, base: str) -> Path:
    """Where the cache keeps a training: by arguments and the code behind it, without the weights that it writes."""
    digest = hashlib.sha256(json.dumps([seed, repr(steps), base]).encode())
    for path in closure("common.standins.speech_smollm2"):
        if FOLDER not in path.parents:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return cache_dir() / "standins-speech-smollm2" / f"seed{seed}-{digest.hexdigest()[:16]}"


def train(seed: int, folder: Path, steps: Steps = Steps(), decoder: Loaded | None = None, recordings: Recordings | None = None,
          again: Loaded | None = None, progress: bool = True, stop: int | None = None) -> dict | None:
    """Trains, or goes on where a killed run was; writes folder and its card, and returns the card.

    decoder, again: another one than SmolLM2, twice, and recordings (tests). stop: as if killed after so many steps; then nothing is
    written, and None is returned.
    """
    decoder = decoder or load(SMOLLM2)
    recordings, clock = recordings or Recordings(decoder.tokenizer, seed), Clock(stop)
    rows = Rows(recordings, steps.rows)
    sample = torch.cat([e.features[e.source < 0] for e, _ in rows[10**6] if e.features is not None])
    llm = build(seed, sample.float(), decoder, steps.adapter())
    decoder.model.set_attn_implementation("eager")  # backwards on a CPU it is faster than sdpa on such short rows
    module = Training(llm, steps)
    module.decoder.train()
    work = work_of(seed, steps, decoder.source["name"])
    last, done = resume_from(work)
    with quiet():
        L.Trainer(accelerator="cpu", devices=1, max_steps=steps.steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                  precision="bf16-mixed", enable_model_summary=False, enable_progress_bar=progress, plugins=[WholeCheckpoints()],
                  callbacks=[clock, keeper(work, min(steps.every, stop or steps.steps)), *([TQDMProgressBar(5)] if progress else [])]
                  ).fit(module, DataLoader(FromStep(rows, done, steps.steps), batch_size=None), ckpt_path=last)
    if len(module.losses) < steps.steps:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    save(llm, folder)
    card: dict[str, Any] = {
        "command": "make standins-speech_smollm2", "seed": seed, "steps": steps.steps, "rows": steps.rows, "learning rate": steps.rate,
        "rank": steps.rank, "chunk ms": CHUNK * FRAME_MS, "base": decoder.source, "torch": torch.__version__,
        "cpu_seconds": round(clock.seconds), "curve": [[step, module.losses[step]] for step in range(0, steps.steps, 20)]}
    write_json(folder / CARD, card)
    card["quality"] = quality(opened(folder, again), recordings, steps.scored)
    write_json(folder / CARD, card)
    return card


@torch.no_grad()
def answers(llm: SpeechLLM, examples: Sequence[Example], grouped: bool, stop: int, most: int = 10) -> list[list[int]]:
    """Greedy answers, everything read before."""
    model, cache, written = llm.model, DynamicCache(), []
    x, mask, positions, target, real = inputs(examples, [grouped] * len(examples), llm.projector, model.get_input_embeddings(), True)
    ended = torch.zeros(len(examples), dtype=torch.bool)
    place = positions[:, -1:]
    for _ in range(most):
        logits = model(inputs_embeds=x, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                       logits_to_keep=1).logits[:, -1]
        token = logits.argmax(-1)
        ended |= token == stop
        written.append(torch.where(ended, stop, token))
        if bool(ended.all()):
            break
        place, real = place + 1, torch.cat([real, torch.ones(len(real), 1, dtype=torch.bool)], 1)
        x, positions, mask = model.get_input_embeddings()(token[:, None]), place, _added(real)[:, None, None]
    return [[t for t in row if t != stop] for row in torch.stack(written, 1).tolist()]


def quality(llm: SpeechLLM, recordings: Recordings, count: int) -> dict[str, dict[str, float]]:
    """{task: {way to count: 100 - word error rate}}, 0 at least, on new utterances of training takes: whether a model is taken (BARS) must
    not be decided by what the arms are tested on. Takes that were trained on are the easier ones, so a card is no test score."""
    found: dict[str, dict[str, float]] = {}
    for task in TASKS:
        examples = [recordings.ask(task, SCORED + number, "calibration").example for number in range(count)]
        wanted = [recordings.text(e.target[e.target_units[0] : -1].tolist()) for e in examples]
        for name, grouped in (("on from the recording", False), ("from 0", True)):
            given = [recordings.text(row) for row in answers(llm, examples, grouped, recordings.stop)]
            found.setdefault(task, {})[name] = round(max(100 - wer(given, wanted)["wer"], 0.0), 2)
    return found


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(args)
    card = train(options.seed, options.folder / f"seed{options.seed}")
    print(json.dumps(card, indent=1), flush=True)
    for task in TASKS:
        reaches(task, (card or {})["quality"])


if __name__ == "__main__":
    main()
