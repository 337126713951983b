"""lm-eval on a model in memory: the field's prompts and scores, and what comparing runs needs.

`evaluate(model, tokenizer, tasks)` takes lm-eval's own tasks (their data come from the hub) and the
local ones of `tasks/`, which ask the same of files in $NINEFOLD_DATA, and one, `pydoc_cloze`, that
needs nothing. The result of a task says of each item whether it was right: a method and the dense
model are compared item by item, not by two averages.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from ..data.text import CLOZE, items_file
from ..errors import TaskError, needed
from ..files import file_sha256
from .perplexity import eval_mode


class Task(NamedTuple):
    """shots: examples in the prompt. metric: the one that a table prints; all are recorded."""

    shots: int
    metric: str


# Seven tasks that papers on pruning report. Shots vary between papers (these are those of a later
# evaluation script of EIT-NLP/LLM-Pruning), so that they are part of every result.
TASKS = {
    "boolq": Task(0, "acc"),
    "piqa": Task(0, "acc"),
    "openbookqa": Task(0, "acc_norm"),
    "winogrande": Task(5, "acc"),
    "hellaswag": Task(10, "acc_norm"),
    "arc_easy": Task(25, "acc"),
    "arc_challenge": Task(25, "acc"),
}
LOCAL_TASKS = {
    "piqa_local": Task(0, "acc"),
    "arc_easy_local": Task(0, "acc"),
    "winogrande_local": Task(0, "acc"),
    "lambada_openai_local": Task(0, "acc"),
    CLOZE: Task(0, "acc_norm"),
}
PER_ITEM = ("acc", "acc_norm")


def evaluate(
    model,
    tokenizer,
    tasks: Sequence[str],
    *,
    shots: Mapping[str, int] | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    data: str | Path | None = None,
) -> dict:
    """{"harness", "batch_size", "tasks": {name: result}}, in the order of `tasks`.

    tasks: names from TASKS, LOCAL_TASKS, or any other of lm-eval (0-shot, metric acc unless it has
    none). shots: other numbers of examples; local tasks have no training split and stay at 0.
    limit: only the first items; then n < n_original in the result. data: folder in place of
    $NINEFOLD_DATA. batch_size is recorded: scores move in the last digits with it.

    A result: metric, value, stderr (of the sample), metrics (all of them), n, n_original, shots,
    version, prompts_sha256 (of every prompt and answer asked), correct ({metric: [0 or 1 per
    item]}), data, prompts_cut (requests longer than the model's positions, which were read without
    their beginning; a warning says so). DataError if a file is missing, TaskError if the hub is or shots cannot be given.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"limit {limit}: a score needs one item or more; None takes all.")
    asked = {name: (shots or {}).get(name, _task(name).shots) for name in tasks}
    if unknown := set(shots or {}) - set(tasks):
        raise TaskError(f"shots for {sorted(unknown)}, which are not among the tasks {list(tasks)}.")
    for name in tasks:
        if name in LOCAL_TASKS:
            if asked[name]:
                raise TaskError(f"{name}: local data have no training split, so 0 shots only.")
            items_file(name.removesuffix("_local"), data)  # a missing file is said before the work
    with _quiet(), eval_mode(model):
        lm = _harness_model(model, tokenizer, batch_size)
        manager = _task_manager(set(tasks) <= set(LOCAL_TASKS), str(data) if data else None)
        results = {}
        for name in tasks:
            lm.cut = 0
            results[name] = _run(lm, manager, name, asked[name], limit) | {"prompts_cut": lm.cut}
    for name in tasks:
        if cut := results[name]["prompts_cut"]:
            warnings.warn(f"{name}: {cut} of its requests are longer than the model's {lm.max_length} positions and were read without "
                          "their beginning: the score is of other prompts than the task's", stacklevel=2)
    for name in tasks:
        if name in LOCAL_TASKS:
            file, path = items_file(name.removesuffix("_local"), data)
            results[name]["data"] = {"file": file, "sha256": file_sha256(path)}
    return {
        "harness": f"lm-eval {version('lm-eval')}",
        "batch_size": batch_size,
        "tasks": results,
    }


def retain(scores: Mapping[str, float], dense: Mapping[str, float]) -> float:
    """Percent of the dense model kept: 100 * mean over tasks of score / dense score.

    A mean of ratios, as the papers' tables compute it; the ratio of the means is another number.
    """
    if set(scores) != set(dense) or not scores:
        raise ValueError(f"Different tasks: {sorted(scores)} and, dense, {sorted(dense)}.")
    if zero := [name for name in dense if dense[name] == 0]:
        raise ValueError(f"The dense score of {', '.join(zero)} is 0: nothing can be kept of it.")
    return 100 * sum(scores[name] / dense[name] for name in scores) / len(scores)


def _task(name: str) -> Task:
    return TASKS.get(name) or LOCAL_TASKS.get(name) or Task(0, "acc")


@functools.cache
def _task_manager(local: bool, data: str | None):
    """lm-eval's index of tasks. Its own are thousands of files, so: once, and only if asked for."""
    from lm_eval.tasks import TaskManager

    return TaskManager(
        include_path=str(Path(__file__).parent / "tasks"),
        include_defaults=not local,
        metadata={"data": data} if data else None,
    )


def _harness_model(model, tokenizer, batch_size: int):
    with needed("lm-eval", "benchmarks.language"):
        from lm_eval.models.huggingface import HFLM

    class MaskedHFLM(HFLM):
        """HFLM pads on the right with zeros and gives no mask, which a causal model's scores do not notice, but anything that counts
        tokens does; and 0 may be an id of the text. So every id is one more on its way through HFLM, and what is 0 is padding.

        cut: prompts so far that were longer than the model's positions, whose beginning HFLM leaves out and says nothing.
        """

        cut = 0

        def _loglikelihood_tokens(self, requests, *args, **options):
            self.cut += sum(len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests)
            shifted = [(text, [i + 1 for i in context], [i + 1 for i in answer]) for text, context, answer in requests]
            return super()._loglikelihood_tokens(shifted, *args, **options)

        def _model_call(self, inps, attn_mask=None, labels=None):
            real = inps.ne(0)
            with torch.no_grad():
                logits = self.model((inps - 1).clamp(min=0), attention_mask=real.long(), use_cache=False).logits
            return torch.nn.functional.pad(logits, (1, 0), value=float("-inf"))  # (B, T, 1 + V): none says padding

        def tok_batch_encode(self, strings, *args, left_truncate_len=None, **options):
            if left_truncate_len:
                self.cut += sum(len(self.tok_encode(text)) > left_truncate_len for text in strings)
            return super().tok_batch_encode(strings, *args, left_truncate_len=left_truncate_len, **options)

    return MaskedHFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def _run(lm, manager, name: str, shots: int, limit: int | None) -> dict:
    from lm_eval import simple_evaluate

    if name not in manager.all_subtasks:
        raise TaskError(f"{name!r} is no task of lm-eval or of common/benchmarks/tasks.")
    try:
        output = simple_evaluate(
            model=lm,
            tasks=[name],
            num_fewshot=shots or None,
            limit=limit,
            task_manager=manager,
            bootstrap_iters=1000,  # for perplexities only; means have a formula
            # None: the caller's generators are left alone. Examples have their own, with this seed.
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
            fewshot_random_seed=1234,
        )
    except (ConnectionError, OSError) as error:  # the hub's and datasets' offline errors
        raise TaskError(
            f"{name}: its data cannot be had from the hub ({type(error).__name__}). Offline, the "
            f"tasks {', '.join(LOCAL_TASKS)} read local files instead."
        ) from error
    if output["n-shot"][name] != shots:
        raise TaskError(f"{name}: {shots} shots asked for, but its task file fixes another number.")
    return _result(name, output, shots)


def _result(name: str, output: dict, shots: int) -> dict:
    metrics: dict[str, dict] = {}
    for key, value in output["results"][name].items():
        metric, _, kind = key.partition(",")  # "acc,none", "acc_stderr,none", also "alias"
        if kind and not metric.endswith("_stderr"):
            stderr = output["results"][name].get(f"{metric}_stderr,{kind}")
            known = isinstance(stderr, float) and stderr == stderr  # "N/A", NaN for one item
            metrics[metric] = {"value": float(value), "stderr": stderr if known else None}
    samples = sorted(output["samples"][name], key=lambda sample: sample["doc_id"])
    asked = [[list(arguments) for arguments in sample["arguments"]] for sample in samples]
    answers = [str(sample["target"]) for sample in samples]
    main = _task(name).metric if _task(name).metric in metrics else next(iter(metrics))
    count = output["n-samples"][name]
    return {
        "metric": main,
        **metrics[main],
        "metrics": metrics,
        "n": count["effective"],
        "n_original": count["original"],
        "shots": shots,
        "version": output["versions"][name],
        "prompts_sha256": hashlib.sha256(json.dumps([asked, answers], default=str).encode()).hexdigest(),
        "correct": {
            metric: [int(sample[metric]) for sample in samples]
            for metric in PER_ITEM
            if samples and metric in samples[0]
        },
        "data": None,
    }


@contextlib.contextmanager
def _quiet():
    """No notes of lm-eval about itself, and no progress bars where nobody watches them move."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.ExitStack() as stack:
            if not sys.stderr.isatty():
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            yield
    finally:
        log.setLevel(level)
