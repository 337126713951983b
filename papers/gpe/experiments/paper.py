"""The paper's own tables: the models that you trained with configs/cuda, streamed over the test split of their data set.

    make reproduce-gpe RUNG=paper

looks in `lightning_logs/gpe/` (another folder: GPE_RUNS) for the products that the cuda configs leave, `<run>/model`, and
for each of them translates the whole test split twice: word by word at the k it was trained for, and reading everything
first. BLEU is SacreBLEU's, with the tokenizer of the references' script (13a where blanks part words); latency is in source
words, against the references (common/benchmarks/translation.py).
Claims whose runs are missing stay "not run".
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from common.benchmarks.translation import bleu, latency
from common.lora import merged
from common.models import Loaded, ModelSpec, load
from common.progress import progress
from common.streaming.units import Example, Template
from common.streaming.words import Boundary

from .. import data, method
from ..decoding import Streamed, stream
from ..session import Session, run

BATCH = 32
LONGEST = 3, 64  # target tokens at most: 3 a source token, and 64


def runs_folder() -> Path:
    return Path(os.environ.get("GPE_RUNS", "lightning_logs/gpe"))


def measure_paper(log: Callable[[str], None] = print, device: str = "cuda", limit: int | None = None) -> dict[str, dict]:
    """{run: {"k", "arm", "phi", "base", "direction", "left out", "stream": scores, "batch": scores}}.

    scores: {"bleu", "signature", "n", "truncated", "AL", "LAAL", "AP", "DAL"}. limit: sentences of each test set, for a try.
    Raises RuntimeError, with what is needed, without a GPU or without a run on a hub data set.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("rung paper needs a GPU (none is visible), the hub, and models trained with configs/cuda; "
                           "see papers/gpe/README.md, section Run it")
    folder, found = runs_folder(), {}
    for path in sorted(folder.glob("*/model/gpe.json")):
        about = json.loads(path.read_text())
        name, ks = path.parent.parent.name, about.get("data.ks") or []
        if about.get("module") != "StreamingTraining" or not about.get("data.path"):
            continue  # toy runs, batch models, rehearsals
        if len(ks) != 1 or ks[0] is None:
            log(f"{name}: no score. It was trained for k in {ks}; the paper's tables have one k a run")
            continue
        found[name] = path.parent, about
    if not found:
        raise RuntimeError(f"rung paper found no trained model in {folder.name}/: train one with configs/cuda, e.g. "
                           "gemma2-2b_en-fr_group_k5, and set GPE_RUNS to the folder that holds the runs")
    scores = {}
    for name, (path, about) in found.items():
        scores[name] = measure_run(path, about, device, limit)
        row = scores[name]
        log(f"{name}: BLEU {row['stream']['bleu']:.2f} at AL {row['stream']['AL']:.2f}, k = {row['k']}; "
            f"{row['batch']['bleu']:.2f} in batch mode")
    return scores


def measured(folder: Path, log: Callable[[str], None]) -> dict[str, dict]:
    """As an experiment runs it; the runs are in `runs_folder()`."""
    return measure_paper(log=log)


def measure_run(folder: Path, about: dict, device: str, limit: int | None = None) -> dict:
    """One trained model on its test split, see `measure_paper`."""
    loaded = open_run(folder, about, device)
    languages = tuple(about["data.languages"])
    pairs = data.hub_pairs(about["data.path"], about["data.name"], about["data.revision"], "test", languages)[:limit]
    template = Template.of(loaded.tokenizer, about["data.instruction"])
    examples, refused = data.cut_all(template.example, pairs)
    if not examples:
        raise RuntimeError(f"{folder.parent.name}: no test pair can be cut into words; the first: {refused[:1]}")
    arm, k = method.arm(about["arm_name"], about["phi"]), about["data.ks"][0]
    return {"k": k, "arm": about["arm_name"], "phi": about["phi"], "base": loaded.source["name"],
            "direction": "-".join(languages), "left out": len(refused),
            **{mode: evaluate(loaded, arm, examples, template, wait) for mode, wait in (("stream", k), ("batch", None))}}


def open_run(folder: Path, about: dict, device: str) -> Loaded:
    """The model as it was trained: the base in its very revision and attention, in bfloat16 on a GPU, adapter merged in."""
    how = dict(dtype="bfloat16" if device == "cuda" else "float32", device=device,
               attn_implementation=about["attn_implementation"])
    if not (folder / "adapter_config.json").is_file():
        return load(ModelSpec(str(folder), **how))
    return merged(ModelSpec(about["trained_from"], revision=about["revision"], **how), folder)


def evaluate(loaded: Loaded, arm: method.Arm, examples: Sequence[Example], template: Template, k: int | None) -> dict:
    """Quality and latency of one way to decode."""
    boundary = Boundary.of_tokenizer(loaded.tokenizer, template.stop)
    streams = translate(loaded.model, arm, examples, boundary, template, k)
    references = [example.reference for example in examples]
    quality = bleu([s.text(loaded.tokenizer) for s in streams], references)
    lag = latency([s.delays for s in streams], [e.n_units for e in examples], [len(r.split()) for r in references])
    return {"bleu": quality["score"], "signature": quality["signature"], "n": quality["n"],
            "truncated": sum(s.truncated for s in streams), **{name: lag[name] for name in ("AL", "LAAL", "AP", "DAL")}}


def translate(model: nn.Module, arm: method.Arm, examples: Sequence[Example], boundary: Boundary, template: Template,
              k: int | None) -> list[Streamed]:
    """Streams of all examples in their order; those of like length share a batch.

    KV re-encoding feeds its whole target at every READ. In a batch that is one column a token, more than the sliding
    window of Gemma-2 takes, so each sentence is a session of its own.
    """
    if arm.refresh and k is not None:
        return [_session(model, arm, example, boundary, template, k) for example in progress(examples, "translating sentences")]
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].source))
    streams: list[Streamed] = [Streamed()] * len(examples)
    for at in progress(range(0, len(order), BATCH), f"translating {len(order)} sentences, batches of {BATCH}"):
        which = order[at : at + BATCH]
        batch = [examples[i] for i in which]
        for i, found in zip(which, stream(model, arm, batch, boundary, k, max_target=[_most(e) for e in batch])):
            streams[i] = found
    return streams


def _most(example: Example) -> int:
    factor, more = LONGEST
    return factor * sum(example.source_units[1:-1]) + more


def _session(model, arm, example: Example, boundary: Boundary, template: Template, k: int) -> Streamed:
    session = Session(model, arm, boundary, example.target[: example.target_units[0]].tolist(), max_word=64)
    units = [unit.tolist() for unit in example.source.split(example.source_units)]
    out = Streamed()
    for tokens, read in run(session, units[:-1], units[-1], k):
        out.words.append(tokens)
        out.delays.append(read)
        if sum(map(len, out.words)) >= _most(example):
            out.truncated = True
            break
    out.truncated |= session.truncated
    return out
