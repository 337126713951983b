"""The paper's own tables: LLaVA-1.5 7B and 13B, dense and pruned, on the benchmarks of table 5.

    make reproduce-visipruner RUNG=paper

takes the two models whose settings the paper gives from the hub (other weights of theirs: VISIPRUNER_MODELS, a folder that holds
folders of the same names), and asks them the benchmarks' questions (common/benchmarks/vqa.py), greedily, with and without the
session. A loss is between two scores of one harness, never against a printed row. Of InternVL2.5, Qwen2-VL and MobileVLM-V2 the paper
gives no thresholds: `analysis.calibrate` finds some, and `one` scores them, but such a score is no measurement of the paper's.

A score is kept in the run's folder with the weights that it is of (a folder's hash, the hub's commit): a run that was killed goes on with
the next one, and other weights of the same name are scored anew.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.benchmarks import vqa
from common.benchmarks.kept import folder_sha256, kept
from common.errors import UserError

from .. import own
from ..method import VisiPrunerConfig, code_compat
from ..pruners import VisiPruner
from ..reported import TABLE_5
from ..session import PruningSession

BATCH = 8


def settings() -> dict[str, tuple[str, VisiPrunerConfig]]:
    """{model of table 5: (hub id, the released code's settings)}. The 13B model keeps half of the picture in the first layer."""
    seven, released = code_compat(), code_compat().shallow
    assert released is not None
    return {"LLaVA-1.5-7B": ("llava-hf/llava-1.5-7b-hf", seven),
            "LLaVA-1.5-13B": ("llava-hf/llava-1.5-13b-hf", seven.with_(shallow=replace(released, first="half")))}


def measure(folder: Path, log: Callable[[str], None] = print, device: str = "cuda", benchmarks: Sequence[str] = TABLE_5,
            limit: int | None = None) -> dict[str, dict[str, dict[str, float]]]:
    """{model: {"dense", "pruned": {benchmark: value in the table's unit}}}. limit: questions of each benchmark, for a try.

    Raises UserError, with what is needed, without a GPU or without lmms-eval.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("rung paper needs a GPU with 40 GB (none is visible), the hub and lmms-eval; see papers/visipruner/README.md")
    vqa.harness()  # an error for what is missing comes before a model is loaded
    found = {}
    for name, (hub, config) in settings().items():
        mine = os.environ.get("VISIPRUNER_MODELS")
        opened = functools.cache(functools.partial(open_model, str(Path(mine) / name) if mine else hub, device))
        weights = of_weights(Path(mine) / name if mine else hub, opened) | {"device": device}
        found[name] = {way: one(name, way, opened, of, folder, benchmarks, limit, log, weights)
                       for way, of in (("dense", None), ("pruned", config))}
    return found


def of_weights(source: Path | str, opened: Callable[[], tuple[nn.Module, Any]]) -> dict[str, Any]:
    """What tells weights from others of their name: of a folder the hash of its files, of a hub's id the commit that is loaded."""
    if isinstance(source, Path):
        return {"weights_sha256": folder_sha256(source)}
    config: Any = opened()[0].config
    return {"hub": source, "commit": config._commit_hash}


def one(name: str, way: str, opened: Callable[[], tuple[nn.Module, Any]], config: VisiPrunerConfig | None, folder: Path,
        benchmarks: Sequence[str], limit: int | None, log: Callable[[str], None],
        weights: dict[str, Any]) -> dict[str, float]:
    """{benchmark: value}; one that cannot be run is logged and left out. Scores of the same weights and settings are not made again."""
    of = weights | {"model": name, "config": None if config is None else asdict(config), "limit": limit}
    values = {}
    for benchmark in benchmarks:
        ask = functools.partial(vqa.evaluate, lambda *asked: answer(*opened(), config, *asked), benchmark, folder, label="visipruner",
                                limit=limit, batch_size=BATCH)
        try:
            values[benchmark] = kept(folder / f"{name}.{way}.{benchmark}.json", of, ask, log)["value"]
        except vqa.BenchmarkError as error:
            log(f"{name}, {way}, {benchmark}: no score. {error}")
    log(f"{name}, {way}: " + ", ".join(f"{k} {v:.1f}" for k, v in values.items()))
    return values


def open_model(name: str, device: str) -> tuple[nn.Module, Any]:
    """(model, processor) in half precision on a GPU; prompts are padded on the left. Raises UserError for what cannot be loaded."""
    model, processor = own.loaded(name, torch.float16 if device == "cuda" else torch.float32)
    processor.tokenizer.padding_side = "left"
    return model.to(device).eval(), processor


@torch.no_grad()
def answer(model: nn.Module, processor: Any, config: VisiPrunerConfig | None, prompts: Sequence[str], images: Sequence,
           new_tokens: int) -> list[str]:
    """Greedy answers to prompts with a PIL image each, or None. config None: the stock model, outside of any session."""
    texts = [processor.apply_chat_template([{"role": "user", "content": [
        *([{"type": "image"}] if image else []), {"type": "text", "text": prompt}]}], add_generation_prompt=True)
        for prompt, image in zip(prompts, images)]
    shown = [image.convert("RGB") for image in images if image]
    inputs = processor(images=shown or None, text=texts, padding=True, return_tensors="pt", **own.begun(texts[0], processor.tokenizer))
    inputs = inputs.to(model.device, model.dtype)
    with nullcontext() if config is None else PruningSession(model, VisiPruner(config)):
        written = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, num_beams=1)
    return [text.strip() for text in processor.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)]
