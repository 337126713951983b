"""The paper's own table: the models that you trained with configs/cuda, on its nine benchmarks.

    make reproduce-vica RUNG=paper

looks in `lightning_logs/vica/` (another folder: VICA_RUNS) for what stage 2 leaves, `<run>/model`, and asks each of them
the benchmarks' questions (common/benchmarks/vqa.py), greedily. Rel. Avg. is the paper's: the mean of 100 x score / dense
score over the benchmarks, and the dense scores are those of a dense run of the same decoder, trained and scored here as
well (a row of the paper's table has another harness behind it). The run with the paper's eight layers is scored once more
with PyramidDrop.

A score is kept in `<run>/benchmarks/` with the hash of all weights that it is of, decoder and projector: a run that was killed goes on
with the next one, and a run that was trained anew is scored anew.
"""

from __future__ import annotations

import functools
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from common.benchmarks import vqa
from common.benchmarks.kept import folder_sha256, kept, named
from common.errors import UserError
from common.models import ModelSpec
from common.vision.layout import Layout, split
from common.vision.parts import LlavaSpec, Parts, load_parts
from common.vision.tower import padded_pixels

from .. import checkpoint, decoding, method, pruning
from ..reported import BENCHMARKS, relative_average

BATCH, LONGEST = 8, 2048


def runs_folder() -> Path:
    return Path(os.environ.get("VICA_RUNS", "lightning_logs/vica"))


# -- all of it ---------------------------------------------------------------------------------------------
def measured(folder: Path, log: Callable[[str], None]) -> dict[str, dict]:
    """What is measured of the models in `runs_folder`; they keep their scores themselves, and need no folder of the rung."""
    return measure_paper(log=log)


def measure_paper(log: Callable[[str], None] = print, device: str = "cuda", benchmarks: Sequence[str] = BENCHMARKS,
                  limit: int | None = None) -> dict[str, dict]:
    """{run, or "run + PyramidDrop": {"trained_from", "cross_layers", "prefix_update", "scores", "relative", "against"}}.

    scores {benchmark: value in the table's unit}. relative: Rel. Avg. against the dense run named, None without one or if a
    benchmark is missing on either side. limit: questions of each benchmark, for a try. Raises UserError, with what is
    needed, without a GPU, without lmms-eval, or without a run of stage 2 on LLaVA's conversations.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("rung paper needs a GPU with 80 GB (none is visible), the hub, lmms-eval, and models trained with "
                        "configs/cuda; see papers/vica/README.md, section Run it")
    runs = trained()
    if not runs:
        raise UserError(f"rung paper found no trained model in {runs_folder().name}/: train one with configs/cuda, both stages, "
                        "e.g. llava-1.5-7b_vica_pretrain and llava-1.5-7b_vica_finetune, and set VICA_RUNS to the folder that "
                        "holds the runs")
    vqa.harness()  # an error for what is missing comes before a model is loaded
    results: dict[str, dict] = {}
    for name, (folder, about) in runs.items():
        opened = functools.cache(functools.partial(open_run, folder, device))  # only if a score is missing
        weights = of_weights(folder, about) | {"device": device}
        ways = {name: None}
        if set(about["cross_layers"] or ()) == set(pruning.PAPER_SCHEDULE):
            ways[f"{name} + PyramidDrop"] = pruning.PAPER_SCHEDULE
        for title, schedule in ways.items():
            results[title] = {key: about[key] for key in ("trained_from", "cross_layers", "prefix_update")} | {
                "scores": scores(folder.parent, title, weights, opened, schedule, benchmarks, limit, log)}
    dense_runs = {row["trained_from"]: title for title, row in results.items() if row["cross_layers"] is None}
    for title, row in results.items():
        row["against"] = dense_runs.get(row["trained_from"])
        row["relative"] = relative(row["scores"], results[row["against"]]["scores"], benchmarks) if row["against"] else None
        end = f"no Rel. Avg.: there is no dense run of {row['trained_from']}"
        if row["against"]:
            end = "no Rel. Avg.: benchmarks are missing"
        if row["relative"] is not None:
            end = f"Rel. Avg. {row['relative']:.1f} of {row['against']}"
        log(f"{title}: " + ", ".join(f"{k} {v:.1f}" for k, v in row["scores"].items()) + f"; {end}")
    return results


def trained() -> dict[str, tuple[Path, dict]]:
    """{run: (its model folder, training.json)} of finished second stages on LLaVA's conversations, by name."""
    runs = {}
    for path in sorted(runs_folder().glob("*/model/training.json")):
        about = json.loads(path.read_text())
        if about.get("stage") == "finetune" and about.get("data.template") == "v1":
            runs[path.parent.parent.name] = path.parent, about
    return runs


def of_weights(folder: Path, about: dict) -> dict[str, Any]:
    """What tells the weights of a trained model from others of its name: all that training wrote, and the tower that it names."""
    return {"weights_sha256": folder_sha256(folder), "cross_layers": about["cross_layers"], "steps": about["steps"],
            "tower": named(about.get("llava.tower"), about.get("llava.tower_revision"))}


def scores(run: Path, title: str, weights: dict, opened: Callable[[], tuple[Parts, method.ViCAConfig | None]], schedule: dict | None,
           benchmarks: Sequence[str], limit: int | None, log: Callable[[str], None]) -> dict[str, float]:
    """{benchmark: value}; a benchmark that cannot be run is logged and left out. Scores of the same weights are not made again."""
    of = weights | {"schedule": schedule, "limit": limit}
    kind, values = "as-trained" if schedule is None else "PyramidDrop", {}
    for name in benchmarks:
        ask = functools.partial(vqa.evaluate, lambda *asked: answer(*opened(), *asked, schedule=schedule), name, run / "benchmarks",
                                label="vica", limit=limit, batch_size=BATCH)
        try:
            values[name] = kept(run / "benchmarks" / f"{kind}.{name}.json", of, ask, log)["value"]
        except vqa.BenchmarkError as error:
            log(f"{title}, {name}: no score. {error}")
    return values


# -- one model ---------------------------------------------------------------------------------------------
def open_run(folder: Path, device: str) -> tuple[Parts, method.ViCAConfig | None]:
    """(parts, its layers or None if dense) of what stage 2 wrote; bfloat16 on a GPU. The vision tower is that of its config.

    Raises UserError when the run's config is gone, ModelError, ValueError for files that are missing or do not fit.
    """
    about = json.loads((folder / "training.json").read_text())
    config = None if about["cross_layers"] is None else checkpoint.load(folder)
    written = sorted(folder.parent.glob("logs/version_*/config.yaml"), key=lambda path: int(path.parent.name.partition("_")[2]))
    if not written:
        raise UserError(f"{folder.parent.name}: no logs/version_*/config.yaml, which names the vision tower")
    start = yaml.safe_load(written[-1].read_text())["model"]["init_args"]["llava"]
    how = dict(dtype="bfloat16" if device == "cuda" else "float32", device=device)
    parts = load_parts(LlavaSpec(decoder=ModelSpec(str(folder / "decoder"), **how), tower=start["tower"],
                                 tower_revision=start["tower_revision"], feature_layers=tuple(start["feature_layers"]),
                                 projector=str(folder / "projector.safetensors")))
    parts.projector.to(device, parts.decoder.dtype)
    return parts, config


@torch.no_grad()
def answer(parts: Parts, config: method.ViCAConfig | None, prompts: Sequence[str], images: Sequence, new_tokens: int,
           schedule: dict[int, float] | None = None) -> list[str]:
    """Greedy answers to prompts with a PIL image each, or None. config None: dense, by transformers' own generate.

    schedule: PyramidDrop's, {cross layer: share of visual tokens}; then one prompt at a time, as the authors evaluate. Raises
    BenchmarkError for a prompt that is longer than those of the training: cut, it would have lost the end of its question.
    """
    from common.vision.conversations import IMAGE, encode_v1  # with Lightning, for which no other command waits

    rows = [encode_v1(parts.tokenizer, {"image": image,  # None: a text alone, as in LLaVA's files
                                        "conversations": [{"from": "human", "value": (IMAGE + "\n" if image else "") + prompt}]},
                      n_visual=parts.n_visual, image_token_id=parts.image_token_id, max_tokens=sys.maxsize)[0]
            for prompt, image in zip(prompts, images)]
    if (longest := max(map(len, rows))) > LONGEST:
        raise vqa.BenchmarkError(f"a prompt of {longest} tokens, visual ones counted, where the training had {LONGEST} at most")
    pad = torch.nn.utils.rnn.pad_sequence
    layout = split(pad(rows, batch_first=True), parts.image_token_id,
                   pad([torch.ones_like(row) for row in rows], batch_first=True)).to(parts.decoder.device)
    shown = [as_trained(image, parts) for image in images if image]
    visual = parts.visual(layout, parts.features(torch.stack(shown).to(layout.ids.device)) if shown else None)
    end = parts.tokenizer.eos_token_id
    if config is None:
        written = dense(parts.decoder, layout, visual, new_tokens, end)
    elif schedule is None:
        written = decoding.generate(parts.decoder, config, layout, visual, new_tokens, end)
    else:
        written = [pruned(parts.decoder, config, *row, schedule, new_tokens, end) for row in _single(layout, visual)]
    return parts.tokenizer.batch_decode(written, skip_special_tokens=True)


def as_trained(image, parts: Parts) -> Tensor:
    """(3, H, W) of a PIL image: the pixels that training made of a file with this picture."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "BMP")
    file.seek(0)
    return padded_pixels(file, parts.image_size, parts.image_mean, parts.image_std)


def dense(decoder: nn.Module, layout: Layout, visual: Tensor, new_tokens: int, end: int) -> list[list[int]]:
    """Token ids by the stock decoder: everything in its order, padded left."""
    lengths = layout.real.sum(1) + layout.visual_real.sum(1)
    shift = (lengths.max() - lengths)[:, None]
    text = decoder.get_input_embeddings()(layout.ids)
    embeds = text.new_zeros(len(lengths), int(lengths.max()), text.shape[-1])
    for what, where, real in ((text, layout.positions, layout.real), (visual, layout.visual_positions, layout.visual_real)):
        row, slot = real.nonzero(as_tuple=True)
        embeds[row, (where + shift)[row, slot]] = what[row, slot].to(embeds)
    mask = (torch.arange(embeds.shape[1], device=shift.device) >= shift).long()
    written = decoder.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, num_beams=1,
                               temperature=None, top_p=None, eos_token_id=end, pad_token_id=end)
    return [row[: row.index(end) + 1] if end in row else row for row in written.tolist()]


def pruned(decoder: nn.Module, config: method.ViCAConfig, layout: Layout, visual: Tensor, schedule: dict[int, float],
           new_tokens: int, end: int) -> list[int]:
    """Token ids of one row with PyramidDrop: ranked once, by the prompt; what is dropped stays dropped."""
    keep = pruning.ranked(decoder, config, layout, visual, schedule) if visual.shape[1] else None
    embed, cache, written = decoder.get_input_embeddings(), method.ViCACache(), []
    out = method.forward(decoder, config, embed(layout.ids), layout, visual, cache, logits_to_keep=1, keep=keep)
    first = 1 + max(int(where.max()) for where in (layout.positions, layout.visual_positions) if where.numel())
    while True:
        written.append(int(out.logits[0, -1].argmax()))
        if written[-1] == end or len(written) == new_tokens:
            return written
        token, position = (torch.tensor([[value]], device=visual.device) for value in (written[-1], first + len(written) - 1))
        out = method.forward(decoder, config, embed(token), method.Places(position), past_key_values=cache, keep=keep)


def _single(layout: Layout, visual: Tensor) -> list[tuple[Layout, Tensor]]:
    """Each row by itself, without padding."""
    rows = []
    for i in range(len(visual)):
        row, n_text, n_visual = layout.rows([i]), int(layout.real[i].sum()), int(layout.visual_real[i].sum())
        text = {name: getattr(row, name)[:, :n_text] for name in ("ids", "positions", "real", "segments", "targets")}
        rows.append((Layout(**text, visual_positions=row.visual_positions[:, :n_visual], visual_real=row.visual_real[:, :n_visual]),
                     visual[i : i + 1, :n_visual]))
    return rows


def relative(ours: dict[str, float], theirs: dict[str, float], benchmarks: Sequence[str]) -> float | None:
    """Rel. Avg. over the benchmarks, None unless both have a score in each."""
    if not all(name in side for side in (ours, theirs) for name in benchmarks):
        return None
    return relative_average([ours[name] for name in benchmarks], [theirs[name] for name in benchmarks])
