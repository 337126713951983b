"""Is this response right? Verifiers: callables (response, gold) -> bool, that never raise and never guess.

`MathVerifier` compares the last \\boxed{} after the thinking with the gold answer: by the rules of answers.py where they decide, else
by math-verify. A thought that is opened and not closed holds no answer. math-verify's own time limit is an alarm that only a
main thread may set, and no alarm stops one long operation of big numbers, as in 10^(10^10). So:

    servers    processes that have math-verify loaded, one a core; asked from any thread
    one fork   for each comparison, with the kernel's own limits on CPU time and memory: what hangs is ended inside C too,
               the server has the next comparison at once, and no comparison changes what another one finds
    CPU time   not the clock's: a verdict must not depend on how busy the machine is

A time-out or an error is False, and is counted. `GymVerifier` asks a data set of reasoning_gym, by its own score.

Spec onpolicysft 5, 6.5, 6.10: a box before </think> is not an answer, a part of the score is not right.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Protocol

from .answers import decide
from .numerals import number

THINK, THINK_END = "<think>", "</think>"
MEMORY = 2 << 30  # bytes that a comparison may take beyond what its server has
FALSE, TRUE, ERROR, TIMEOUT = 10, 11, 12, 13  # exit statuses of a comparison; TIMEOUT stands for SIGPROF
# What most answers are made of, read once by each server: its parser builds its tables as it reads.
WARM_UP = [("\\frac{1}{2}", "0.5"), ("[0,1)", "(0,1]"), ("3\\sqrt{13}", "x^2 + 1"), ("\\{1, 2\\}", "50\\%")]


class Verifier(Protocol):
    """Whether a response answers what gold answers."""

    def __call__(self, response: str, gold: str) -> bool: ...


# -- where the answer is -----------------------------------------------------------------------------------
def after_thinking(response: str, required: bool = False) -> str | None:
    """The text after the last </think>; all of it where there is neither that nor <think>.

    None for a thought that is opened and not closed. required: the prompt has opened one (as R1's chat template does), so that
    a response without </think> is a thought, too.
    """
    _, mark, rest = response.rpartition(THINK_END)
    return None if THINK in rest or (required and not mark) else rest


def opens_thought(prompt: str) -> bool:
    """Whether a prompt ends inside a thought: its last <think> is behind its last </think>."""
    return prompt.rfind(THINK) > prompt.rfind(THINK_END)


def response_text(tokenizer, ids: Sequence[int], end: Collection[int]) -> str:
    """The one way in which a response becomes the text that is graded, in training and in evaluation.

    Special tokens stay, for </think> may be one; the tokens of `end` at its end are taken off, and padding behind them.
    """
    ids = list(ids)
    while ids and ids[-1] in end:
        ids.pop()
    return tokenizer.decode(ids, skip_special_tokens=False)


def last_boxed(text: str) -> str | None:
    """Content of the last \\boxed{...} or \\fbox{...} (of nested ones the outer), None if there is none or if it is never closed. Of
    \\boxed 5, which TeX has for one token, the number or letter that follows.

    One pass: a model that loops writes thousands of boxes.
    """
    opened: list[tuple[int, bool]] = []  # (where the content starts, is it a box) of every brace not closed yet
    found = None
    for mark in re.finditer(r"\\(?:boxed|fbox)\s*(?:\{|(-?\d[\d.,]*(?<![.,])|[A-Za-z]\b))|\\.|[{}]", text, re.DOTALL):
        if mark.group(1):
            if not any(box for _, box in opened):
                found = mark.span(1)
        elif mark.group() == "}":
            if opened and (start := opened.pop())[1]:
                found = (start[0], mark.start())
        elif mark.group().endswith("{") and mark.group() != "\\{":
            opened.append((mark.end(), mark.group() != "{"))
    if found is None or any(box and start > found[1] for start, box in opened):
        return None
    return re.sub(r"\\(?:boxed|fbox)(?![a-zA-Z])", "", text[slice(*found)]).strip()


def plain_gold(gold: str) -> str:
    """A gold answer without its box, or the dollars around it."""
    gold = (last_boxed(gold) or "") if "\\boxed" in gold else gold.strip()
    return gold.strip("$").strip() if gold.count("$") == 2 and gold[0] == gold[-1] == "$" else gold


# -- math --------------------------------------------------------------------------------------------------
class MathVerifier:
    """verifier(response, gold) by math-verify; verify_many(pairs) on all cores. Close it, or use it in a `with`.

    gold: plain or LaTeX, boxed or not. seconds: CPU time of one comparison. require_think_end: without </think> False, for
    prompts that open the thought.
    workers: servers at most, started when needed; None takes a core each. timeouts, errors: pairs so far that ended so;
    both are False. Processes that were closed start again when asked again. ImportError without math-verify.
    """

    def __init__(self, seconds: float = 5.0, require_think_end: bool = False, workers: int | None = None):
        if not seconds > 0 or (workers is not None and workers < 1):
            raise ValueError(f"MathVerifier: {seconds} seconds, {workers} workers; both must be positive")
        if find_spec("math_verify") is None:
            raise ImportError("MathVerifier needs math-verify (pip install math-verify), which is not installed here")
        self.seconds, self.require_think_end = seconds, require_think_end
        self.workers = workers or len(os.sched_getaffinity(0))
        self.timeouts = self.errors = 0
        self._idle: list[subprocess.Popen] = []
        self._free = threading.BoundedSemaphore(self.workers)
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _end_all, self._idle)  # also at exit

    def __call__(self, response: str, gold: str) -> bool:
        return self.verify_many([(response, gold)])[0]

    def verify_many(self, pairs: Sequence[tuple[str, str]], opened: Sequence[bool] | None = None) -> list[bool]:
        """One bool a pair, in their order. Equal answers to equal golds are compared once. opened: of which pairs the prompt has
        opened a thought, in place of require_think_end."""
        required = [self.require_think_end] * len(pairs) if opened is None else opened
        asked = [_question(*pair, need) for pair, need in zip(pairs, required, strict=True)]
        decided = {question: _decided(*question) for question in dict.fromkeys(asked)}
        questions = list(dict.fromkeys(texts for texts in decided.values() if not isinstance(texts, bool)))
        if len(questions) > 1 and self.workers > 1:
            with ThreadPoolExecutor(min(self.workers, len(questions))) as pool:
                found = dict(zip(questions, pool.map(self._ask, questions)))
        else:
            found = {question: self._ask(question) for question in questions}
        status = [(TRUE if rule else FALSE) if isinstance(rule, bool) else found[rule] for rule in map(decided.__getitem__, asked)]
        with self._lock:
            self.timeouts += status.count(TIMEOUT)
            self.errors += status.count(ERROR)
        return [each == TRUE for each in status]

    def close(self) -> None:
        with self._lock:
            _end_all(self._idle)

    def __enter__(self) -> MathVerifier:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _ask(self, question: tuple[str, str]) -> int:
        with self._free:
            with self._lock:
                server = self._idle.pop() if self._idle else None
            if server is None or server.poll() is not None:  # killed by somebody while it had nothing to do
                server = _start()
            status = _read(server, question, self.seconds)
            with self._lock:
                self._idle.append(server) if status is not None else _end_all([server])
        return ERROR if status is None else status


def _question(response: str, gold: str, required: bool) -> tuple[str, str]:
    """(answer, gold); two empty texts where there is no answer."""
    text = after_thinking(response, required)
    answer = None if text is None else last_boxed(text)
    return (answer, plain_gold(gold)) if answer else ("", "")


def _decided(answer: str, gold: str) -> bool | tuple[str, str]:
    """The rules' verdict, or the texts that math-verify compares. The same text is the same answer, also where sympy fails on it
    (5:00, a division by zero); none is none."""
    if answer == gold or not answer:
        return bool(answer)
    try:
        return decide(answer, gold)
    except (ValueError, ArithmeticError, RecursionError):  # of a text that no rule was written for, as digits beyond Python's limit
        return answer, gold


def _start() -> subprocess.Popen:
    """A server that is ready. RuntimeError if it does not start."""
    # The hash seed is fixed: sympy's order of terms follows it, and a verdict must not.
    server = subprocess.Popen(
        [sys.executable, "-m", "common.reasoning.verifiers"], cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"PYTHONHASHSEED": "0"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    if _pipes(server)[1].readline() != b"ready\n":
        _end_all([server])
        raise RuntimeError(f"MathVerifier: its process ended with {server.returncode} before it was ready; what it said is "
                           "above on stderr")
    return server


def _pipes(server: subprocess.Popen) -> tuple[IO[bytes], IO[bytes]]:
    """Its stdin and stdout, which `_start` asked for."""
    assert server.stdin is not None and server.stdout is not None
    return server.stdin, server.stdout


def _read(server: subprocess.Popen, question: tuple[str, str], seconds: float) -> int | None:
    """A comparison's status; None if the server itself ended."""
    stdin, stdout = _pipes(server)
    try:
        stdin.write(json.dumps([*question, seconds]).encode() + b"\n")
        stdin.flush()
        return int(stdout.readline() or b"x")
    except (OSError, ValueError):
        return None


def _end_all(servers: list[subprocess.Popen]) -> None:
    while servers:
        server = servers.pop()
        server.kill()
        server.wait()
        stdin, stdout = _pipes(server)
        stdout.close()
        try:
            stdin.close()
        except OSError:  # what was written last found nobody
            pass


# -- inside a server ---------------------------------------------------------------------------------------
def compare(answer: str, gold: str) -> bool:
    """math-verify alone, without any limit, in this process. ValueError for a gold answer in which it reads nothing."""
    from math_verify import LatexExtractionConfig, parse, verify

    # Both as boxes, and nothing but LaTeX: it would otherwise look for some number in an answer that it cannot read.
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    read = [parse(f"\\boxed{{{text}}}", config, parsing_timeout=None, raise_on_error=True) for text in (gold, answer)]
    if not gold or not read[0]:
        raise ValueError(f"math-verify reads nothing in the gold answer {gold!r}")
    # Its default, six places, would have 0.33333333 equal to a third within a pair; and a decimal is never an irrational number.
    same = bool(verify(*read, float_rounding=12, numeric_precision=40, timeout_seconds=None, raise_on_error=True))
    irrational = any(getattr(each, "is_rational", None) is False for side in read for each in side)
    return same and not (irrational and (number(answer) is not None or number(gold) is not None))


def serve() -> None:
    """Reads [answer, gold, seconds] a line and writes a status a line, until its input ends."""
    reply = os.dup(1)
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its own time limit is off
    for answer, gold in WARM_UP:
        compare(answer, gold)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # parsers print, and replies must be replies
    os.dup2(nothing, 2)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; this one ends with its input
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    gc.freeze()
    os.write(reply, b"ready\n")
    for line in sys.stdin.buffer:
        if not (child := os.fork()):
            os.close(reply)
            _compare_and_exit(*json.loads(line))
        _, ended = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(ended)
        status = TIMEOUT if code == -signal.SIGPROF else code if code in (FALSE, TRUE) else ERROR
        os.write(reply, b"%d\n" % status)


def _compare_and_exit(answer: str, gold: str, seconds: float) -> None:
    """Nothing leaves this process but its exit status; SIGPROF, which nobody handles, ends it."""
    status = ERROR
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        status = TRUE if compare(answer, gold) else FALSE
    except BaseException:  # MemoryError and math-verify's own TimeoutException among them: counted by whoever asked
        pass
    finally:
        os._exit(status)


# -- reasoning_gym -----------------------------------------------------------------------------------------
class GymVerifier:
    """verifier(response, gold) by reasoning_gym's own score: right is a score of 1 - eps or more.

    dataset: of reasoning_gym.create_dataset. gold: the number of an entry, as text or not, or the entry itself.
    The answer is the last <answer>...</answer> after the thinking, or else the line after the last "Answer:".
    errors: answers on which the scorer raised; they are False. There is no time limit: it runs in this process.
    """

    def __init__(self, dataset, eps: float = 1e-6, require_think_end: bool = False):
        self.dataset, self.eps, self.require_think_end = dataset, eps, require_think_end
        self.errors = 0

    def __call__(self, response: str, gold: str | int | Mapping) -> bool:
        """IndexError or ValueError for a gold that names no entry: that is the caller's fault, not the response's."""
        entry = gold if isinstance(gold, Mapping) else self._entry(int(gold))
        text = after_thinking(response, self.require_think_end)
        answer = None if text is None else tagged_answer(text)
        if not answer:
            return False
        try:
            return bool(self.dataset.score_answer(answer, entry) >= 1 - self.eps)
        except Exception:
            self.errors += 1
            return False

    def _entry(self, index: int) -> Mapping:
        if not 0 <= index < len(self.dataset):
            raise IndexError(f"GymVerifier: gold {index} names no entry; the data set has {len(self.dataset)}")
        return self.dataset[index]


def tagged_answer(text: str) -> str | None:
    """What reasoning_gym takes from the last <answer>...</answer>; else the line after the last "Answer:"; else None."""
    from reasoning_gym.utils import extract_answer

    if (found := extract_answer(text)) is not None:
        return found
    lines = re.findall(r"(?i)\banswer:(?:\*\*)?[ \t]*(.+)", text)
    return re.sub(r"^\*\*(.*)\*\*$", r"\1", lines[-1].strip()) if lines else None


if __name__ == "__main__":
    serve()
