"""Questions about pictures through lmms-eval, which asks them and scores the answers: the benchmarks of the vision papers' tables.

lmms-eval (package `lmms_eval`) is no dependency of this project: it is imported when a benchmark is asked for, and a
machine without it gets one line about it. Nothing of it is changed; our model is one more of its models:

    ours = vqa.evaluate(answer, "GQA", out=folder, label="vica")         # {"benchmark": "GQA", "value": 61.9, ...}

answer(prompts, images, max_new_tokens) -> texts, greedy; one image a prompt, or None. Questions with several images
(SEED-Bench's videos, whose score is in no table here) are left unanswered and counted.

Where this differs from printed tables: VQAv2 is scored on val, since test-dev needs a server; MMBench by lmms-eval's
circular rule, which sends answers that are no option letter to a judge when one is set up, and guesses when none is.
So a score is to be divided by that of a dense model scored here as well, never by a printed one. What only a judge can
score (MM-Vet) is refused: a language model behind a network gives other scores next year.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import TaskError
from ..progress import progress

Answer = Callable[[Sequence[str], Sequence[Any], int], list[str]]
NEW_TOKENS = 128  # where a task sets no limit; LLaVA's own scripts: 128


class Benchmark(NamedTuple):
    """A column of a table. task, metrics: the names that lmms-eval has for it, the metric's in the order of its versions. scale: to the
    table's unit. changes: of the task's own settings. judged: why no score is made here."""

    task: str
    metrics: tuple[str, ...]
    scale: float = 100.0
    changes: dict | None = None
    judged: str = ""


# TextVQA as LLaVA asks it: with the tokens of an OCR system in the prompt, which lmms-eval leaves out by default.
WITH_OCR = {"lmms_eval_specific_kwargs": {"default": {
    "pre_prompt": "", "post_prompt": "\nAnswer the question using a single word or phrase.", "ocr": True}}}
BENCHMARKS = {
    "MME-P": Benchmark("mme", ("mme_perception_score", "mme_percetion_score"), 1.0),  # sic; of 2,000
    "MME-C": Benchmark("mme", ("mme_cognition_score",), 1.0),  # of 800
    "MMB": Benchmark("mmbench_en_dev", ("gpt_eval_score",), 1.0),
    "MMB-CN": Benchmark("mmbench_cn_dev", ("gpt_eval_score",), 1.0),
    "GQA": Benchmark("gqa", ("exact_match",)),
    "VQAv2": Benchmark("vqav2_val", ("exact_match",)),
    "SQA-I": Benchmark("scienceqa_img", ("exact_match",)),
    "TextVQA": Benchmark("textvqa_val", ("exact_match",), changes=WITH_OCR),
    "TextVQA without OCR": Benchmark("textvqa_val", ("exact_match",)),
    "POPE": Benchmark("pope", ("pope_f1_score",)),
    "SEED-I": Benchmark("seedbench", ("seed_image",)),
    "MMStar": Benchmark("mmstar", ("average",)),
    "CV-Bench-2D": Benchmark("cv_bench_2d", ("cv_bench_acc",)),
    "CV-Bench-3D": Benchmark("cv_bench_3d", ("cv_bench_acc",)),
    "OCRBench": Benchmark("ocrbench", ("ocrbench_accuracy",), 1000.0),  # right answers of 1,000
    "MM-Vet": Benchmark("mmvet", ("gpt_eval_score",), 1.0, judged="lmms-eval's mmvet has a language model grade every answer"),
}


class BenchmarkError(TaskError):
    """A benchmark that cannot be run as asked; the message names it and the reason."""


# -- our model as one of lmms-eval's -----------------------------------------------------------------------
def harness():
    """(simple_evaluate, TaskManager, lmms, register_model) of lmms-eval. Raises BenchmarkError when it is not installed."""
    try:
        from lmms_eval.api.model import lmms
        from lmms_eval.api.registry import register_model
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.tasks import TaskManager
    except ImportError as error:
        raise BenchmarkError(f"these benchmarks are run by lmms-eval, which cannot be imported ({error}): "
                             "pip install lmms-eval (its import name is lmms_eval)") from error
    return simple_evaluate, TaskManager, lmms, register_model


@functools.cache  # a name can be registered once
def model_class(label: str) -> type:
    """The class under which lmms-eval knows our model, registered there by the name `label`.

    label: none of lmms-eval's own models, for which tasks may have prompts of their own. Raises BenchmarkError without the package.
    """
    base: Any
    _, _, base, register_model = harness()

    @register_model(label)
    class Answering(base):
        """Answers by `answer`. `unanswered` counts questions with more than one image."""

        def __init__(self, answer: Answer, batch_size: int = 8):
            super().__init__()
            self.answer, self.batch_size, self.unanswered = answer, batch_size, 0

        def generate_until(self, requests) -> list[str]:
            """One text per request, in their order. A request's arguments: prompt, options, images of, number, task, split."""
            asked = [self._question(*request.args) for request in requests]
            texts = [""] * len(asked)
            # Answers of like length together, and prompts of like length, so that little is padded.
            order = sorted(range(len(asked)), key=lambda i: (asked[i].new_tokens, len(asked[i].prompt)))
            for now in progress(list(self._batches(asked, order)), "answering, batches"):
                images = {i: asked[i].images() for i in now}  # opened now: those of a benchmark do not fit into memory
                single = [i for i in now if len(images[i]) <= 1]
                self.unanswered += len(now) - len(single)
                answers = self.answer([asked[i].prompt for i in single], [images[i][0] if images[i] else None for i in single],
                                      asked[now[0]].new_tokens) if single else []
                for i, text in zip(single, answers, strict=True):
                    texts[i] = until(text, asked[i].stops)
            return texts

        def _batches(self, asked, order):
            """Numbers of questions, at most batch_size together, in that order and of one length of answer."""
            while order:
                first = asked[order[0]].new_tokens
                now = [i for i in order[: self.batch_size] if asked[i].new_tokens == first]
                order = order[len(now) :]
                yield now

        def _question(self, prompt, options, images_of, number, task, split) -> Question:
            if options.get("do_sample") or (options.get("temperature") or 0) > 0 or (options.get("num_beams") or 1) > 1:
                raise BenchmarkError(f"{task}: asks for {options}; answers here are greedy")
            stops, rows = options.get("until") or [], self.task_dict[task][split]
            return Question(prompt, lambda: list(images_of(rows[number]) or []), int(options.get("max_new_tokens") or NEW_TOKENS),
                            [stops] if isinstance(stops, str) else list(stops))

        def loglikelihood(self, requests):
            raise BenchmarkError("none of these benchmarks compares likelihoods")

        generate_until_multi_round = loglikelihood

    return Answering


class Question(NamedTuple):
    prompt: str
    images: Callable[[], list]
    new_tokens: int
    stops: list[str]


def until(text: str, stops: Sequence[str]) -> str:
    """`text` before the first of the stops, without blanks around it."""
    for stop in stops:
        text = text.partition(stop)[0] if stop else text
    return text.strip()


# -- one benchmark -----------------------------------------------------------------------------------------
def evaluate(answer: Answer, name: str, out: Path, *, label: str = "ninefold", limit: int | None = None,
             batch_size: int = 8) -> dict[str, Any]:
    """{"benchmark", "task", "metric", "value" in the table's unit, "n", "unanswered", "version"} of one benchmark.

    name: of BENCHMARKS. out: a folder for the files that a task writes (submissions). label: see `model_class`. limit: only the first
    questions, for a try. Raises BenchmarkError without the package, for an unknown name, for a benchmark that only a judge can score,
    for a limit or batch_size below 1, and if the task has not the metric that is expected, or gives no number for it.
    """
    for setting, count in (("limit", limit), ("batch_size", batch_size)):
        if count is not None and count < 1:
            raise BenchmarkError(f"{setting} is {count}: a number of questions from 1 on")
    if name not in BENCHMARKS:
        raise BenchmarkError(f"no benchmark {name!r}; there is: {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    if benchmark.judged:
        raise BenchmarkError(f"{name} needs a judge: {benchmark.judged}. No score is made here; leave it out, and report it as not run")
    simple_evaluate, TaskManager, _, _ = harness()
    model = model_class(label)(answer, batch_size)
    task = {"task": benchmark.task, **copy.deepcopy(benchmark.changes)} if benchmark.changes else benchmark.task
    out.mkdir(parents=True, exist_ok=True)
    # Some tasks read the command line's options, which a call from a program does not have otherwise.
    options = argparse.Namespace(output_path=str(out), process_with_media=False, model=label, tasks=benchmark.task, limit=limit)
    outcome = simple_evaluate(model=model, tasks=[task], limit=limit, batch_size=batch_size, bootstrap_iters=0, log_samples=False,
                              task_manager=TaskManager(model_name=label), cli_args=options)
    metric, value = _metric(outcome["results"][benchmark.task], benchmark)
    return {"benchmark": name, "task": benchmark.task, "metric": metric, "value": value,
            "n": outcome.get("n-samples", {}).get(benchmark.task, {}).get("effective"), "unanswered": model.unanswered,
            "version": str(outcome.get("versions", {}).get(benchmark.task))}


def _metric(row: dict[str, Any], benchmark: Benchmark) -> tuple[str, float]:
    """(name, value in the table's unit) out of lmms-eval's {"<metric>,<filter>": value}."""
    values = {key.partition(",")[0]: value for key, value in row.items()
              if isinstance(value, int | float) and not key.partition(",")[0].endswith("_stderr")}
    for metric in benchmark.metrics:
        if metric in values:
            if not math.isfinite(values[metric]):
                raise BenchmarkError(f"{benchmark.task}: lmms-eval gives {values[metric]} for {metric}, which is no score")
            return metric, benchmark.scale * float(values[metric])
    raise BenchmarkError(f"{benchmark.task}: lmms-eval gives {', '.join(sorted(values)) or 'no number'}, and none of "
                         f"{', '.join(benchmark.metrics)}")
