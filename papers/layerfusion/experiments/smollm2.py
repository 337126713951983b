"""A pretrained decoder: DINOv2-S and SmolLM2-135M-Instruct with rank-4 LoRA, on hard scenes, by layer sets. Hours on two cores, once.

    make reproduce-layerfusion ONLY=smollm2

What the small LLaVAs cannot show, because their decoder never saw text. Captions first, then questions, through the model's own
tokenizer and chat template; what is new and the adapters train in both. An answer is right if every token of it and the end of its
turn is the most likely one. A killed run goes on from its checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.data import hard_scenes, scenes
from common.files import cache_dir
from common.lora import LoraSpec, add_lora
from common.models import SMOLLM2, load
from common.runs.jobs import Job
from common.runs.sources import closure
from common.seeds import asked as seeds_asked
from common.seeds import seed_of
from common.training.checkpoints import WholeCheckpoints, keeper, resume_from
from common.training.fit import quiet
from common.training.steps import FromStep
from common.vision import llava
from common.vision.layout import IGNORED, packed

from ..data import HardRows
from ..internal import Internal
from ..method import Fusion, Sizes, apart
from ..running import hidden
from .trained import DIRECT, PLAIN, Arm, Columns, Training, fusion_layers, scenes_of, shown, whitened

ARMS = {name: Arm(DIRECT, of) for name, of in PLAIN.items()} | {
    "external direct, triple": Arm(DIRECT, "triple"), "internal direct, triple": Arm("internal direct", "triple")}


@dataclass(frozen=True)
class Size:
    """stage_1, stage_2: steps of captions, of questions. features: which features of trained.py. test: pictures."""

    seeds: tuple[int, ...]
    stage_1: int
    stage_2: int
    rows: int
    asked: int
    rank: int
    test: int
    features: str = "cpu"


SIZES = {"cpu": Size(seeds_asked(), 300, 1500, 16, 6, 4, 200)}
SIZES["smoke"] = SIZES["cpu"]  # never walked, nor its features


def jobs(size: str = "cpu") -> list[Job]:
    made = [Job("smollm2/features", "papers.layerfusion.experiments.trained:features",
                {"of": "smollm2", "tower_of": "dinov2", "size": size}, seconds=300)]
    return made + [Job(f"smollm2/{arm}/seed{seed}", f"{__name__}:run", {"arm": arm, "seed": seed, "size": size}, seconds=10000,
                       after=("smollm2/features",)) for arm in ARMS for seed in SIZES[size].seeds]


class Reader:
    """SmolLM2 with adapters and a fusion: what `trained.Training` reads of a small LLaVA."""

    def __init__(self, decoder: nn.Module, tokenizer: Any, arm: Arm, seed: int, sample: Tensor, layers: Sequence[int], rank: int):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("fusion", seed))
            self.fusion = Fusion(arm.config(), Sizes.of(sample.shape[-1] // len(layers), decoder.config))
            torch.manual_seed(seed_of("adapters", seed))
            add_lora(decoder, LoraSpec(rank=rank, alpha=2 * rank, dropout=0.0))  # the model itself has them: its class stays as it is
        self.decoder, self.tokenizer, self.layers = decoder, tokenizer, tuple(layers)
        self.internal = Internal(decoder, self.fusion).attach()
        self.projector = nn.Identity()
        whitened(self.fusion, apart(sample.float(), layers), seed)

    @property
    def prefix(self) -> list[int]:
        return llava.chat(self.tokenizer)[0] if self.tokenizer.chat_template else [self.tokenizer.bos_token_id]

    def language_model(self) -> nn.Module:
        return self.decoder

    def hidden(self, layout: Any, features: Tensor) -> Tensor:
        return hidden(self.decoder, self.internal, self.fusion, layout, apart(features, self.layers))


def run(arm: str, seed: int, size: str = "cpu") -> dict:
    """{"test", "shifted": {kind: share}, "loss": every 50th, "trained": parameters}."""
    import lightning as L

    s, of, loaded = SIZES[size], ARMS[arm], load(SMOLLM2)
    layers = fusion_layers(of)
    train = Columns(shown("train", "dinov2", s.features), layers)
    model = Reader(loaded.model.float(), loaded.tokenizer, of, seed, train[:300], layers, s.rank)
    steps = s.stage_1 + s.stage_2
    some = scenes_of("train", len(train.features))
    rows = HardRows(some, train, model.tokenizer, model.prefix, s.stage_1, steps, seed, s.rows, s.asked)
    module = Training(model, 1e-3)
    key = Job(arm, f"{__name__}:run", {"arm": asdict(of), "seed": seed, "size": asdict(s)}, tuple(str(p) for p in closure(__name__))).key()
    work = cache_dir() / "layerfusion" / f"smollm2-seed{seed}-{key}"
    last, done = resume_from(work)
    with quiet():
        L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                  enable_model_summary=False, enable_progress_bar=False, plugins=[WholeCheckpoints()],
                  callbacks=[keeper(work, min(50, steps))]).fit(module, DataLoader(FromStep(rows, done, steps), batch_size=None),
                                                                ckpt_path=last)
    return tested(model, s, s.features) | {"loss": module.losses[::50], "trained": sum(
        p.numel() for p in module.parameters() if p.requires_grad)}


@torch.no_grad()
def tested(model: Reader, s: Size, features: str, batch: int = 16) -> dict:
    model.decoder.eval()
    model.fusion.eval()
    draw, found = np.random.default_rng(31), {}
    asked = [hard_scenes.one_of_each_kind(of, draw) for of in scenes_of("test", s.test)]
    for which in ("test", "shifted"):
        pictures = Columns(shown(which, "dinov2", features), model.layers)
        right: dict[str, list[bool]] = {}
        for start in range(0, s.test, batch):
            part = asked[start : start + batch]
            for row, hits in zip(part, answered(model, pictures[start : start + batch], part)):
                for q, hit in zip(row, hits):
                    right.setdefault(q.kind, []).append(hit)
        found[which] = {kind: sum(hits) / len(hits) for kind, hits in right.items()}
    return found


def answered(model: Reader, pictures: Tensor, asked: list[list[scenes.Question]]) -> list[list[bool]]:
    """Whether every scored token of a question is the most likely one, question by question."""
    layout = packed(model.prefix, [[llava.question_slots(model.tokenizer, q) for q in row] for row in asked], pictures.shape[1])
    head: Any = model.decoder.get_output_embeddings()
    scored = layout.targets != IGNORED
    hit = torch.ones_like(scored)
    hit[scored] = head(model.hidden(layout, pictures.float())[scored]).argmax(-1) == layout.targets[scored]
    return [[bool(hit[b][layout.segments[b] == number].all()) for number in range(1, len(row) + 1)] for b, row in enumerate(asked)]
