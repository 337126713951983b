"""The paper's own table: models trained by configs/cuda, on its nine benchmarks.

    make reproduce-layerfusion RUNG=paper

takes every run under lightning_logs/layerfusion (or LAYERFUSION_RUNS), folders <kind>_<set>/seed<n>/finetune/model as the configs write
them, and asks it the benchmarks' questions (common/benchmarks/vqa.py), greedily, under Vicuna's chat. TextVQA is asked without the tokens
of an OCR system, as the paper's 35.47 for its baseline looks (README, D7), and with them beside. A score is kept in the run's folder with
the hash of the weights that it is of: a run that was killed goes on with the next one, and one that was trained anew is scored anew. The
loss that fine-tuning ended with stands beside the scores.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from common.benchmarks import vqa
from common.benchmarks.kept import folder_sha256, kept, named
from common.errors import ModelError, UserError
from common.models import ModelSpec, load
from common.vision.conversations import IMAGE, encode_v1
from common.vision.parts import CLASS_TOKEN, _pixel_statistics, load_tower

from ..internal import Internal, Pictures
from ..method import Fusion, apart
from ..module import NEW, built, config_of, load_new
from ..reported import BENCHMARKS

BATCH = 8
PLACE = -1  # of a visual token among ids
WITH_OCR = "TextVQA with OCR"
HARNESS = {"TextVQA": "TextVQA without OCR", WITH_OCR: "TextVQA"}  # ours: the harness's, where they differ
LAST = 50  # logged losses: what a training ended with


@dataclass
class Eyes:
    """A trained model in parts: decoder and tokenizer, tower, fusion with its hooks attached."""

    decoder: Any
    tokenizer: Any
    tower: nn.Module
    fusion: Fusion
    internal: Internal

    def states(self, images: Sequence[Any]) -> dict[int, Tensor]:
        """{layer: (M, N, dv)} of PIL images, padded to squares as in training."""
        pixels = torch.stack([squared(image, self.tower) for image in images])
        like: Any = next(self.tower.parameters())
        states = self.tower(pixel_values=pixels.to(like.device, like.dtype), output_hidden_states=True).hidden_states
        first = int(type(self.tower).__name__ in CLASS_TOKEN)
        wide = torch.cat([states[k][:, first:] for k in self.fusion.layers], -1)
        return apart(wide.to(next(self.fusion.parameters()).dtype), self.fusion.layers)


def squared(image: Any, tower: nn.Module) -> Tensor:
    """(3, size, size): padded with the mean colour, resized, normalised, as common/vision/tower.padded_pixels does with a file."""
    import numpy as np
    from PIL import Image

    config: Any = tower.config
    mean, std = _pixel_statistics(type(tower).__name__)
    side, image = max(image.size), image.convert("RGB")
    square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    shown = np.asarray(square.resize((config.image_size,) * 2, Image.Resampling.BICUBIC), dtype=np.float32) / 255
    return torch.from_numpy((shown - np.float32(mean)) / np.float32(std)).permute(2, 0, 1).contiguous()


def measure(folder: Path, log: Callable[[str], None] = print, device: str = "cuda", benchmarks: Sequence[str] = (*BENCHMARKS, WITH_OCR),
            limit: int | None = None) -> dict[str, dict[str, dict[str, float]]]:
    """{run: {seed: {benchmark: value in the table's unit}}}. limit: questions of each benchmark, for a try.

    Raises UserError, with what is needed, without a GPU, without lmms-eval, or where nothing is trained.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("rung paper needs a GPU (none is visible), trained models and lmms-eval; see papers/layerfusion/README.md")
    vqa.harness()  # an error for what is missing comes before a model is loaded
    root = Path(os.environ.get("LAYERFUSION_RUNS", "lightning_logs/layerfusion"))
    models = sorted(path.parent for path in root.glob(f"*/seed*/finetune/model/{NEW}"))
    if not models:
        raise UserError(f"no trained model under {root.name}: train with configs/cuda first, or name the folder in LAYERFUSION_RUNS")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for model in models:
        run, seed = model.parts[-4], model.parts[-3]
        opened = functools.cache(functools.partial(open_model, model, device))
        weights = of_weights(model, device)
        scores = one(run, seed, opened, folder, benchmarks, limit, log, weights)
        found.setdefault(run, {})[seed] = scores | last_loss(model.parents[0])
    return found


def last_loss(folder: Path) -> dict[str, float]:
    """{"training loss": mean of the last logged ones} of a run's folder; nothing where it keeps no log."""
    found: list[float] = []
    for path in sorted(folder.glob("logs/version_*/metrics.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found += [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
    return {"training loss": fmean(found[-LAST:])} if found else {}


def one(run: str, seed: str, opened: Callable[[], Eyes], folder: Path, benchmarks: Sequence[str], limit: int | None,
        log: Callable[[str], None], weights: dict[str, Any]) -> dict[str, float]:
    """{benchmark: value}; one that cannot be run is logged and left out. Scores of the same weights are not made again."""
    values = {}
    for benchmark in benchmarks:
        ask = functools.partial(vqa.evaluate, lambda *asked: answer(opened(), *asked), HARNESS.get(benchmark, benchmark), folder,
                                label="layerfusion", limit=limit, batch_size=BATCH)
        try:
            values[benchmark] = kept(folder / f"{run}.{seed}.{benchmark}.json", weights | {"limit": limit}, ask, log)["value"]
        except vqa.BenchmarkError as error:
            log(f"{run}, {seed}, {benchmark}: no score. {error}")
    log(f"{run}, {seed}: " + ", ".join(f"{k} {v:.1f}" for k, v in values.items()))
    return values


def of_weights(folder: Path, device: str) -> dict[str, Any]:
    """What tells the weights of a trained model from others of its name: all that training wrote, and the tower that it names."""
    path = folder / "training.json"
    about = json.loads(path.read_text()) if path.is_file() else {}
    return {"weights_sha256": folder_sha256(folder), "device": device,
            "tower": named(about.get("llava.tower"), about.get("llava.tower_revision"))}


def open_model(folder: Path, device: str) -> Eyes:
    """What training wrote, put together again. Raises ModelError for a folder that is none."""
    path = folder / "training.json"
    if not path.is_file():
        raise ModelError(f"{folder.name}: no training.json; a trained model is a folder as papers.layerfusion.train writes it")
    about = json.loads(path.read_text())
    loaded = load(ModelSpec(str(folder / "decoder"), dtype="float16" if device == "cuda" else "float32", device=device))
    tower, _ = load_tower(about["llava.tower"], about.get("llava.tower_revision"))
    config = config_of(about)
    fusion = built(config, tower.config.hidden_size, loaded.model, 0).eval()
    load_new(fusion, folder / NEW)
    return Eyes(loaded.model.eval(), loaded.tokenizer, tower.to(device), fusion, Internal(loaded.model, fusion).attach())


@torch.no_grad()
def answer(eyes: Eyes, prompts: Sequence[str], images: Sequence[Any], new_tokens: int) -> list[str]:
    """Greedy answers to prompts with a PIL image each, or None, under Vicuna's chat, in the ids that training makes of it; rows are padded
    on the left. Raises BenchmarkError for a prompt that leaves the decoder no position for its answer."""
    table = eyes.decoder.get_input_embeddings()
    device = table.weight.device
    shown = [image for image in images if image]
    tokens, extras = eyes.fusion(eyes.states(shown)) if shown else (None, [])
    rows, slots, number, longest = [], [], 0, eyes.decoder.config.max_position_embeddings - new_tokens
    for prompt, image in zip(prompts, images):
        said = {"image": image, "conversations": [{"from": "human", "value": (IMAGE + "\n" if image else "") + prompt}]}
        ids = encode_v1(eyes.tokenizer, said, n_visual=0 if tokens is None else tokens.shape[1], image_token_id=PLACE,
                        max_tokens=sys.maxsize)[0].to(device)
        if len(ids) > longest:
            raise vqa.BenchmarkError(f"a prompt of {len(ids)} tokens, where the decoder has {longest} positions before an answer")
        visual, row = ids == PLACE, table(ids.clamp(min=0))
        if image and tokens is not None:
            row[visual] = tokens[number].to(row.dtype)
            number += 1
        rows.append(row)
        slots.append(visual.tolist())
    width = max(map(len, rows))
    embeds = torch.stack([nn.functional.pad(row, (0, 0, width - len(row), 0)) for row in rows])
    real = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in slots], device=device)
    where = torch.tensor([[False] * (width - len(s)) + s for s in slots], device=device)
    eyes.internal.pictures = Pictures.of(extras, where) if extras else None
    written = eyes.decoder.generate(inputs_embeds=embeds, attention_mask=real, max_new_tokens=new_tokens, do_sample=False,
                                    num_beams=1)
    return [text.strip() for text in eyes.tokenizer.batch_decode(written, skip_special_tokens=True)]
