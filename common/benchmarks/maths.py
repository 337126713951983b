"""Mathematical reasoning by lm-eval: several sampled responses to each problem, graded by math-verify, counted in tokens.

Five tasks (`tasks/reasoning`), one template: the bare problem is the single user turn. `evaluate(lm, names)` runs them on
any model of lm-eval's and gives Avg@N, Pass@N, mean tokens and the share of responses cut at the limit. Data come from the
hub, or, with $NINEFOLD_DATA, from its `maths/{name}.jsonl` ({"problem", "answer"} a line) or the files in LOCAL.

How long a response is, and whether it ended, a text cannot say exactly. `sampled.sampling_lm(model, tokenizer)` knows;
with other models texts are encoded again, and the result says so.

    lm = sampling_lm(model, tokenizer)
    evaluate(lm, ["math500", "aime24"], seed=0)["aime24"]["avg"]

Graded by StrictVerifier: rules (common/reasoning/strict.py, answers.py), and math-verify where none decides; what it is still known to get
wrong stands beside the scores, as `known_errors`.

Spec onpolicysft 5: N 16 for AIME and AMC, 4 else, temperature 1, 32,768 tokens; an answer counts only if it ended.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from ..data.text import is_text, lines
from ..errors import DataError, TaskError, needed
from ..reasoning.answers import REMAINING
from ..reasoning.strict import UNMENDED, StrictVerifier
from ..reasoning.verifiers import Verifier, after_thinking, opens_thought
from .sampled import Response

CAP = 32768  # tokens of a response


class Benchmark(NamedTuple):
    """size: problems of the published set. repeats: samples a problem. hub, config, split, problem, answer: where."""

    size: int
    repeats: int
    hub: str
    config: str | None = None
    split: str = "test"
    problem: str = "problem"
    answer: str = "answer"


BENCHMARKS = {
    "gsm8k": Benchmark(1319, 4, "openai/gsm8k", "main", problem="question"),
    "math500": Benchmark(500, 4, "HuggingFaceH4/MATH-500"),
    "amc23": Benchmark(40, 16, "math-ai/amc23", problem="question"),
    "aime24": Benchmark(30, 16, "HuggingFaceH4/aime_2024", split="train"),
    "aime25": Benchmark(30, 16, "math-ai/aime25"),
}
# Copies in their authors' forms: grade-school-math's own lines, and the files that EIT-NLP/On-Policy-SFT evaluates on.
LOCAL = {
    "gsm8k": "math/gsm8k_test.jsonl",
    "math500": "math/math500.parquet",
    "amc23": "math/amc23.parquet",
    "aime24": "math/aime.parquet",
    "aime25": "math/aime25.parquet",
}


# -- problems ----------------------------------------------------------------------------------------------
def load_problems(name: str, data: str | Path | None = None, revision: str | None = None) -> list[dict]:
    """[{"problem", "answer"}], both text, in the data's order.

    data: folder in place of $NINEFOLD_DATA; without either, from the hub at `revision`. TaskError for an unknown name;
    DataError for a file or hub that cannot be read, naming file and line.
    """
    if name not in BENCHMARKS:
        raise TaskError(f"{name!r} is none of the mathematics benchmarks {', '.join(BENCHMARKS)}.")
    folder = data or os.environ.get("NINEFOLD_DATA")
    if not folder:
        return _from_hub(name, revision)
    paths = [Path(folder).expanduser() / file for file in (f"maths/{name}.jsonl", LOCAL[name])]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise DataError(f"{name}: {paths[0]} is missing, and so is {paths[1]}. Write it, a line of "
                        '{"problem": ..., "answer": ...} each, or unset NINEFOLD_DATA to read the hub.')  # fmt: skip
    rows = _parquet(path) if path.suffix == ".parquet" else _lines(path)
    problems = [_problem(row, f"{path}, {where}") for where, row in rows]
    if not problems:
        raise DataError(f"{path} holds no problems.")
    return problems


def lm_eval_dataset(name: str, data: str | None = None, suffix: str = "", revisions: Mapping | None = None, **_) -> dict:
    """The `custom_dataset` of the task files: one split, "test", with the prompt beside problem and answer.

    suffix goes behind each problem ("\\nPut the answer in \\\\boxed{}."); all tasks have the same, none by default.
    """
    from datasets import Dataset

    problems = load_problems(name, data, (revisions or {}).get(name))
    return {"test": Dataset.from_list([row | {"prompt": row["problem"] + suffix} for row in problems])}


def _lines(path: Path):
    for number, line in lines(path):
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: no JSON ({error}).") from error


def _parquet(path: Path):
    with needed("pyarrow", f"{path.name}, a parquet file,"):
        import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DataError(f"{path} is no parquet file that can be read: {error}.") from error
    for number, row in enumerate(rows, 1):
        try:
            (turn,) = row["prompt"]
            yield f"row {number}", {"problem": turn["content"], "answer": row["reward_model"]["ground_truth"]}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, row {number}: {error!r}; one turn in prompt, and reward_model.ground_truth, are "
                            "expected.") from error  # fmt: skip


def _problem(row, where: str, problem: str = "problem", answer: str = "answer") -> dict:
    """{"problem", "answer"} of a row; of GSM8K's "question" and "... #### 18", the 18."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: {type(row).__name__} where an object is expected.")
    said: dict[str, Any] = {"problem": row.get(problem, row.get("question")), "answer": row.get(answer)}
    if isinstance(said["answer"], int) and not isinstance(said["answer"], bool):
        said["answer"] = str(said["answer"])  # AIME's answers are whole numbers, and some files hold them so
    for entry, text in said.items():
        if not is_text(text) or not text.strip():
            raise DataError(f"{where}: {entry} is {text!r}; {{\"problem\", \"answer\"}}, both text, are expected.")
    if "####" in said["answer"]:
        said["answer"] = said["answer"].rpartition("####")[2].strip().replace(",", "")
    return said


def _from_hub(name: str, revision: str | None) -> list[dict]:
    from datasets import load_dataset

    hub = BENCHMARKS[name]
    try:
        rows = load_dataset(hub.hub, hub.config, split=hub.split, revision=revision)
    except Exception as error:  # hub, http and offline errors share no useful base class
        raise DataError(f"{name}: cannot get {hub.hub} from the hub ({type(error).__name__}). Offline, NINEFOLD_DATA names a "
                        f"folder with maths/{name}.jsonl.") from error  # fmt: skip
    return [_problem(row, f"{hub.hub}, row {i}", hub.problem, hub.answer) for i, row in enumerate(rows, 1)]


# -- scores ------------------------------------------------------------------------------------------------
def evaluate(
    lm,
    names: Sequence[str],
    *,
    data: str | Path | None = None,
    suffix: str = "",
    repeats: int | Mapping[str, int] | None = None,
    temperature: float = 1.0,
    max_tokens: int = CAP,
    limit: int | None = None,
    chat_template: bool = True,
    verifier: Verifier | None = None,
    require_end: bool = True,
    require_think_end: bool | None = None,
    revisions: Mapping[str, str] | None = None,
    seed: int | None = 0,
) -> dict[str, dict] | None:
    """{name: scores} of the benchmarks `names`, in their order.

    lm: of lm-eval, or `sampling_lm`. repeats: samples a problem, for all or by name, in place of BENCHMARKS'. limit:
    only the first problems. chat_template False: the bare problem is the whole prompt. verifier: None is StrictVerifier();
    one with `verify_many` is asked for all at once. require_end: what was cut at max_tokens is wrong, whatever it says.
    require_think_end: None, a response without </think> is wrong where its prompt opens a thought (R1's chat template does); True or
    False say so for all. revisions: {name: of its hub data}. seed: of torch; None leaves its generator alone.

    Scores are common.benchmarks.reasoning's (avg, pass_at, tokens, at_cap, efficiency, ...) and avg_at_n, pass_at_n,
    correct and lengths [problem][sample], tokens_by ("sampler" or "encoding again"), timeouts and errors of the verifier,
    size (of the published set), suffix, generation (what the model was asked), prompts_sha256, harness, too_long (problems of
    which `lm` cuts the prompt, for it leaves no room for `max_tokens`; also said on the screen), known_errors (of the grader).
    None on all but the first process. TaskError for an unknown name, or a model that can count no tokens.
    """
    with needed("lm-eval", "benchmarks.maths"):
        from lm_eval import simple_evaluate

    if unknown := set(names) - set(BENCHMARKS):
        raise TaskError(f"{sorted(unknown)} are none of the mathematics benchmarks {', '.join(BENCHMARKS)}.")
    manager = task_manager(data, suffix, revisions)
    tasks = {name: manager.load([f"{name}_sampled"])["tasks"][f"{name}_sampled"] for name in names}  # reads the data
    for name, task in tasks.items():
        asked = repeats.get(name) if isinstance(repeats, Mapping) else repeats
        task.set_config("repeats", BENCHMARKS[name].repeats if asked is None else asked)
    output = simple_evaluate(
        model=lm,
        tasks=list(tasks.values()),
        task_manager=manager,
        gen_kwargs={"temperature": temperature, "do_sample": temperature > 0, "max_gen_toks": max_tokens},
        limit=limit,
        apply_chat_template=chat_template,
        predict_only=True,  # graded below, all samples of all problems at once
        bootstrap_iters=0,
        random_seed=None,
        numpy_random_seed=None,
        torch_random_seed=seed,
    )
    if output is None:
        return None
    samples = {name: sorted(output["samples"][f"{name}_sampled"], key=lambda s: s["doc_id"]) for name in tasks}
    with contextlib.ExitStack() as own:
        if verifier is None:
            verifier = own.enter_context(StrictVerifier())
        how = {"suffix": suffix, "require_end": require_end, "require_think_end": require_think_end}
        return {name: _score(lm, name, samples[name], verifier, max_tokens, how) for name in tasks}


def task_manager(data: str | Path | None = None, suffix: str = "", revisions: Mapping[str, str] | None = None):
    """lm-eval's index of these five tasks ("gsm8k_sampled", ...) and of no other."""
    from lm_eval.tasks import TaskManager

    return TaskManager(
        include_path=str(Path(__file__).parent / "tasks" / "reasoning"),
        include_defaults=False,
        metadata={"data": str(data) if data else None, "suffix": suffix, "revisions": dict(revisions or {})},
    )


def process_results(doc: Mapping, results: Sequence) -> dict[str, float]:
    """Of one problem, where lm-eval itself runs the tasks (its command line): a text's length and end are not looked at."""
    correct = _verify(_verifier(), [(response, doc["answer"]) for response in results[0]])
    return {"avg_at_n": sum(correct) / len(correct), "pass_at_n": float(any(correct))}


@functools.cache
def _verifier() -> StrictVerifier:
    return StrictVerifier()


def _verify(verifier: Verifier, pairs: Sequence[tuple[str, str]], opened: Sequence[bool] | None = None) -> list[bool]:
    """opened: of which pairs the prompt has opened a thought; without </think> the response is then one, and no answer."""
    many = getattr(verifier, "verify_many", None)
    found = many(pairs) if many else [verifier(*pair) for pair in pairs]
    return [ok and after_thinking(response, need) is not None for ok, (response, _), need in
            zip(found, pairs, opened or [False] * len(pairs), strict=True)]


def _score(lm, name: str, samples: Sequence[dict], verifier, cap: int, how: dict) -> dict:
    from .reasoning import by_problem, score

    responses = [sample["resps"][0] for sample in samples]  # [problem][sample]; [0]: a problem is one request
    counted = [[_length(lm, response, cap) for response in row] for row in responses]
    lengths, finished = ([[pair[i] for pair in row] for row in counted] for i in (0, 1))
    before = [getattr(verifier, kind, 0) for kind in ("timeouts", "errors")]
    pairs = [(response, sample["doc"]["answer"]) for sample, row in zip(samples, responses) for response in row]
    required = how["require_think_end"]
    prompts = [sample["arguments"][0][0] for sample in samples]
    opened = [opens_thought(prompt) if required is None else required for prompt, row in zip(prompts, responses) for _ in row]
    right = by_problem(_verify(verifier, pairs, opened), len(responses[0]))
    correct = [[ok and (ended or not how["require_end"]) for ok, ended in zip(*rows)] for rows in zip(right, finished)]
    found = score(correct, lengths, cap, finished).to_dict()
    asked = [sample["arguments"][0] for sample in samples]  # (prompt, generation_kwargs)
    exact = all(isinstance(response, Response) for row in responses for response in row)
    return found | {
        "avg_at_n": found["avg"],
        "pass_at_n": found["pass_at"][str(found["samples"])],
        "correct": [[int(ok) for ok in row] for row in correct],
        "lengths": lengths,
        "tokens_by": "sampler" if exact else "encoding again",
        "timeouts": getattr(verifier, "timeouts", 0) - before[0],
        "errors": getattr(verifier, "errors", 0) - before[1],
        "size": BENCHMARKS[name].size,
        **how,
        "too_long": _too_long(lm, name, [prompt for prompt, _ in asked], cap),
        "known_errors": [list(error) for error in (*REMAINING, *UNMENDED)],
        "generation": dict(asked[0][1]),
        "prompts_sha256": hashlib.sha256(json.dumps([prompt for prompt, _ in asked]).encode()).hexdigest(),
        "harness": f"lm-eval {version('lm-eval')}",
    }


def _too_long(lm, name: str, prompts: Sequence[str], cap: int) -> int:
    """How many prompts lm-eval's own models cut from the left without a word. `sampling_lm` refuses them beforehand."""
    room = getattr(lm, "max_length", None)
    if not isinstance(room, int) or not hasattr(lm, "tok_encode"):
        return 0
    count = sum(len(lm.tok_encode(prompt)) + cap > room for prompt in prompts)
    if count:
        print(f"{name}: {count} of {len(prompts)} prompts leave no room for {cap} tokens in the model's {room} positions and are cut; "
              "their scores are of what was left")
    return count


def _length(lm, response: str, cap: int) -> tuple[int, bool]:
    """(tokens, finished). A text encoded again has about as many tokens as were sampled; at the cap it was cut."""
    if isinstance(response, Response):
        return response.tokens, response.finished
    if not hasattr(lm, "tok_encode"):
        raise TaskError(f"{type(lm).__name__} gives texts and has no tok_encode, so that nothing says how many tokens they "
                        "have: let generate_until give common.benchmarks.maths.Response, or use sampling_lm.")  # fmt: skip
    tokens = len(lm.tok_encode(response, add_special_tokens=False))
    return (tokens + 1, True) if tokens < cap else (cap, False)  # + 1: the end token
