"""The paper's own tables: models that you trained with configs/cuda, streamed over their test sets.

    make reproduce-proactivellm RUNG=paper

looks in `lightning_logs/proactivellm/` (another folder: PROACTIVE_RUNS) for the products that the cuda configs leave,
`<run>/model`; a run is called as its config, which says what table's row it is (NAMES). Each is streamed over the whole test split
with everything read, by wait-9, and by the entropy and the attention head at the .9 quantile, whose threshold comes from the validation
split; of SQuAD, whose hub set has no test split, thresholds come from its first validation rows and the others are scored. Quality is
BLEU, SQuAD's F1 or accuracy; latency in words. Claims whose runs are missing stay "not run".
"""

from __future__ import annotations

import json
import os
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from common.benchmarks.interaction import interaction
from common.benchmarks.translation import bleu
from common.errors import UserError
from common.lora import merged
from common.models import Loaded, ModelSpec, load
from common.progress import progress
from common.streaming.units import Template
from common.streaming.words import Boundary

from .. import baselines, heads
from ..data import FORMS, cut
from ..decoding import Streamed, decode
from ..tasks import Item
from .arms import flat

NAMES = {"qwen25-3b_en-de": "en-de", "qwen25-3b_squad": "short qa", "qwen25-3b_mctest": "choice qa", "qwen3-4b_en-fr": "en-fr",
         "qwen3-4b_squad": "short qa, qwen3", "qwen2-audio-7b_spoken-squad": "spoken-squad"}
BATCH, LONGEST, QUANTILE, CALIBRATION = 16, 96, 0.9, 256
WITHOUT_TEST = ("squad", "spoken-squad")  # forms of data whose test rows are not public


def runs_folder() -> Path:
    return Path(os.environ.get("PROACTIVE_RUNS", "lightning_logs/proactivellm"))


def measure(folder: Path, log: Callable[[str], None]) -> dict[str, dict]:
    """Of the paper rung."""
    return measure_paper(log)


def measure_paper(log: Callable[[str], None] = print, device: str = "cuda", limit: int | None = None,
                  rows: Callable | None = None) -> dict:
    """{row of a table: {way to stream: {"AIL", "RCO", "n", and a quality}}}.

    limit: rows of each set, for a try. rows(about, split): the data, in place of the hub's. Raises UserError, with what is needed, without
    a GPU or without a trained model.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("rung paper needs a GPU of 80 GB (none is visible), the hub, and models trained with configs/cuda; see "
                        "papers/proactivellm/README.md, section Run it")
    found = {}
    for path in sorted(runs_folder().glob("*/model/proactivellm.json")):
        about, name = json.loads(path.read_text(encoding="utf-8")), path.parent.parent.name
        if name not in NAMES:
            log(f"{name}: no row of a table is called so; there is {', '.join(NAMES)}")
            continue
        found[NAMES[name]] = measure_run(path.parent, about, device, limit, rows or hub_rows)
        log(f"{name}: " + ", ".join(f"{way} {row}" for way, row in found[NAMES[name]].items()))
    if not found:
        raise UserError(f"rung paper found no trained model in {runs_folder().name}/: train one with configs/cuda, e.g. qwen25-3b_squad, "
                        "and set PROACTIVE_RUNS to the folder that holds the runs")
    return found


def hub_rows(about: dict[str, Any], split: str) -> list[tuple[str, str, str]]:
    """The rows that a run's data module would read of a split."""
    from datasets import load_dataset

    found = load_dataset(about["data.path"], about["data.name"], split=split, revision=about["data.revision"])
    return [FORMS[about["data.form"]](row, about.get("data.languages")) for row in found]


def held_and_test(about: dict[str, Any], limit: int | None, rows: Callable) -> tuple[list, list]:
    """(rows that set thresholds, rows that are scored), none of them in both. Raises UserError where none is left to be scored."""
    most, held = limit or CALIBRATION, rows(about, about["data.splits"][1])
    test = held[most:] if about["data.form"] in WITHOUT_TEST else rows(about, "test")
    if not test:
        raise UserError(f"{about.get('data.path')}: {len(held)} rows of {about['data.splits'][1]}, and {most} of them set the thresholds: "
                        "none is left to be scored; ask for fewer (limit)")
    return held[:most], test[:limit]


def opened(folder: Path, about: dict[str, Any], device: str) -> Loaded:
    """The model as it was trained: the base in its very revision, in bfloat16 on a GPU, the adapter merged in."""
    how = dict(dtype="bfloat16" if device == "cuda" else "float32", device=device, attn_implementation=about["attn_implementation"])
    if not (folder / "adapter_config.json").is_file():
        return load(ModelSpec(str(folder), **how))
    return merged(ModelSpec(about["trained_from"], revision=about["revision"], **how), folder)


def measure_run(folder: Path, about: dict[str, Any], device: str, limit: int | None, rows: Callable) -> dict[str, dict]:
    """One trained model on its test split, see `measure_paper`."""
    loaded = opened(folder, about, device)
    tokenizer = loaded.tokenizer
    held, test = (cut(tokenizer, about["data.instruction"], found, 1 << 15) for found in held_and_test(about, limit, rows))
    template = Template.of(tokenizer, about["data.instruction"])
    boundary = Boundary.of_tokenizer(tokenizer, template.stop)
    policies: dict[str, heads.Policy] = {"batch": baselines.Always(False), "wait-9": baselines.WaitK(9)}
    for name in ("entropy", "attention"):
        head = heads.HEADS[name]()
        policies[name] = heads.Decide(head, heads.threshold(full_view(loaded.model, head, held, boundary), QUANTILE))
    scored = {"translation": "bleu", "squad": "f1", "spoken-squad": "f1", "mctest": "accuracy", "dialogsum": "rouge"}[about["data.form"]]
    return {way: scores(streamed(loaded.model, test, policy, boundary), test, tokenizer, scored) for way, policy in policies.items()}


def full_view(model, head: heads.Head, items: Sequence[Item], boundary: Boundary) -> torch.Tensor:
    """Scores of the units of held-out answers with everything read."""
    class Everything(baselines.Always):
        needs = head.needs

    record: list = []
    for batch in batches(items):
        decode(model, [i.example for i in batch], Everything(False), boundary, LONGEST, record=record)
    return torch.cat([head.score(flat([step], last=True)) for step in record if bool(step.real.any())])


def batches(items: Sequence[Item]) -> list[list[Item]]:
    """Of like length, and one header a batch."""
    order = sorted(items, key=lambda item: (item.example.target_units[0], len(item.example.source)))
    found: list[list[Item]] = []
    for item in order:
        if not found or len(found[-1]) == BATCH or found[-1][0].example.target_units[0] != item.example.target_units[0]:
            found.append([])
        found[-1].append(item)
    return found


def streamed(model, items: Sequence[Item], policy: heads.Policy, boundary: Boundary) -> dict[int, Streamed]:
    found = {}
    for batch in progress(batches(items), "streaming, batches"):
        for item, out in zip(batch, decode(model, [i.example for i in batch], policy, boundary, LONGEST)):
            found[id(item)] = out
    return found


def scores(streams: dict[int, Streamed], items: Sequence[Item], tokenizer, metric: str) -> dict[str, float]:
    """AIL and RCO in words, and the metric, in %."""
    found = [streams[id(item)] for item in items]
    texts = [tokenizer.decode(s.tokens, skip_special_tokens=True).strip() for s in found]
    references = [item.example.reference for item in items]
    written = [(s, i) for s, i in zip(found, items) if s.delays]
    late = interaction([s.delays for s, _ in written], [i.example.n_units for _, i in written]) if written else {"AIL": 0.0, "RCO": 0.0}
    value = {"bleu": lambda: bleu(texts, references)["score"], "f1": lambda: 100 * fmean(map(f1, texts, references)),
             "accuracy": lambda: 100 * fmean(chosen(t) is not None and chosen(t) == chosen(r) for t, r in zip(texts, references)),
             "rouge": lambda: 100 * fmean(map(rouge_l, texts, references))}[metric]()
    return {metric: value, "AIL": late["AIL"], "RCO": late["RCO"], "n": len(items)}


# -- the letter of a choice, SQuAD's official score, and ROUGE-L -------------------------------------------------------------------
def chosen(text: str) -> str | None:
    """The first word of an answer to a multiple choice, None where there is none. Not SQuAD's form, in which the choice A is an article
    and so nothing, which every answer without a word would be equal to."""
    words = re.findall(r"[^\W_]+", text.lower())
    return words[0] if words else None


def normalised(text: str) -> list[str]:
    """SQuAD v1.1's: lower case, no punctuation, no articles."""
    text = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(text: str, reference: str) -> float:
    """Word overlap of one answer with one reference, as SQuAD v1.1 counts it."""
    ours, theirs = normalised(text), normalised(reference)
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    return 2 * common / (len(ours) + len(theirs))


def rouge_l(text: str, reference: str) -> float:
    """F of the longest common subsequence of words."""
    ours, theirs = normalised(text), normalised(reference)
    best = [0] * (len(theirs) + 1)
    for word in ours:
        row = [0]
        for j, other in enumerate(theirs, 1):
            row.append(best[j - 1] + 1 if word == other else max(best[j], row[-1]))
        best = row
    return 2 * best[-1] / (len(ours) + len(theirs)) if ours and theirs else 0.0
