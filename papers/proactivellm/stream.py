"""Answer while it is still being read or spoken: words from standard input, or a recording.

    … | python -m papers.proactivellm.stream --checkpoint FOLDER --question "Who won?" --threshold 0.95
    python -m papers.proactivellm.stream --checkpoint FOLDER --audio recording.wav

--checkpoint is a folder that training wrote (weights or adapter, proactivellm.json, tokenizer or encoder) or any causal model with a
tokenizer. Text: every line is a stream of its own, its words may arrive one by one, and the answer's are printed as soon as the head says
so. --audio: a WAV file, a FIFO or a device that gives 16-bit samples of one channel (--rate where it has no header), at the rate
of what the model has learnt from, 22,050 a second for the stand-ins; heard in pieces as they come. --question is put as training put it:
behind "Question: " for a model of SQuAD and its like from the hub. --show timing prints after how many
units, or seconds, each word was, and how often the model was asked.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from common.data.speech import log_mel, stacked
from common.errors import DataError, ModelError, UserError
from common.streaming.audio import FRAME_MS, CausalEncoder
from common.streaming.live import Output, fact, in_a_line, known, open_checkpoint, template_of, threads, units_of
from common.streaming.words import Boundary

from . import baselines, heads
from .recordings import WAYS_OUT, samples
from .session import Session, run
from .tasks import ASK, CHUNK, END, FEATURES, HEADER, SPOKEN, STACK, Task

ABOUT = "proactivellm.json"
HEAD, THRESHOLD = "entropy", 0.9
ASKED = ("squad", "spoken-squad", "mctest")  # forms of data.py that put "Question: " before the question of a row
LEARNT = {"espeak": 22_050, "fsdd": 8_000}  # samples a second of the recordings that a model has learnt from
REACH = 4  # tokens before it that a token's embedding depends on: two convolutions of three


def policy_of(options: argparse.Namespace) -> heads.Policy:
    """From --head and --threshold, or --k. Raises ValueError for a threshold or a number of units that is none, and for both."""
    if options.k is not None:
        if options.head is not None or options.threshold is not None:
            raise ValueError("--k decides by what is read alone, and no head: leave out --head and --threshold, or --k")
        if not math.isfinite(options.k):
            raise ValueError(f"--k {options.k}: a number of units, or 0 to read everything first")
        return baselines.WaitK(options.k) if options.k else baselines.Always(False)
    least = THRESHOLD if options.threshold is None else options.threshold
    if not 0 <= least <= 1:
        raise ValueError(f"--threshold {least}: scores are 0 to 1")
    return heads.Decide(heads.HEADS[options.head or HEAD](), least)


def check_used(options: argparse.Namespace) -> None:
    """Raises ValueError for an option of text with a recording, or the other way round: what it asks for would not be done."""
    given = {"--instruction": options.instruction, "--base": options.base} if options.audio is not None else {
        "--rate": options.rate, "--task": options.task}
    if odd := [name for name, value in given.items() if value]:
        raise ValueError(f"{odd[0]} has no use {'with' if options.audio is not None else 'without'} --audio: leave it out")


def asked_of(about: dict[str, Any], question: str) -> str:
    """The question as training had it: rows of some hub data sets say before it that it is one."""
    put = about.get("data.path") and about.get("data.form") in ASKED
    return f"Question: {question}" if put and question and not question.startswith("Question:") else question


# -- text --------------------------------------------------------------------------------------------------
def answer(model, tokenizer, policy: heads.Policy, instruction: str, lines: Iterable[Iterable[str]], out, timing: bool = False,
           every: int = 1, max_units: int = 256) -> None:
    """Streams every line; prints each word of the answer as it is written, a line for a line (an empty one for an empty one)."""
    template = template_of(tokenizer, instruction)
    boundary = Boundary.of_tokenizer(tokenizer, template.stop)
    for _ in known([template.ids(part) for part in (template.opening, template.user_end)], model):
        pass
    for line in lines:
        session = Session(model, policy, boundary, template.ids(template.opening), every=every)
        written: list[int] = []
        shown = 0
        for tokens, read in run(session, known(template.units(line), model), template.ids(template.user_end), max_units):
            written += tokens
            text = in_a_line(tokenizer.decode(written, skip_special_tokens=True)).lstrip()
            out.write(text[shown:] + (f" [{read}]" if timing else ""))
            out.flush()
            shown = len(text)
        _ended(session, out, timing)


def _ended(session: Session, out, timing: bool) -> None:
    if timing:
        out.write(f" ({session.probes} probes, {session.wasted.probes} taken back: {session.wasted.pairs} of {session.counts.pairs} pairs)")
    out.write("\n")
    out.flush()
    if session.truncated:
        print("proactivellm: the model did not end its answer, which was cut", file=sys.stderr)


# -- audio -------------------------------------------------------------------------------------------------
def check_rate(task: Task, rate: int, name: str) -> None:
    """Raises DataError for another rate than the model's: bands of log-mel reach to half of it, so that each would be of other pitches."""
    if rate != (learnt := LEARNT[task.bank]):
        raise DataError(f"{name}: {rate:,} samples a second, and this model knows sound at {learnt:,}: give it that, by ffmpeg -i {name} "
                        f"-ar {learnt} {WAYS_OUT}, say")


@torch.no_grad()
def heard(encoder: CausalEncoder, rate: int, pieces: Iterable[np.ndarray]) -> Iterator[Tensor]:
    """Embeddings (tokens, width) of each unit of CHUNK tokens as soon as it has been heard; the last one perhaps shorter.

    What was heard is never encoded again but for the few tokens that a new one depends on.
    """
    unit = rate * FRAME_MS // 1000 * STACK * CHUNK  # samples
    kept, done = np.zeros(0, np.float32), 0  # samples; units given
    for piece in pieces:
        kept = np.concatenate([kept, piece])
        while len(kept) >= (done + 1) * unit:
            done += 1
            yield _embedded(encoder, rate, kept[: done * unit], CHUNK)
    rest = len(kept) - done * unit
    frames = rest // (rate * FRAME_MS // 1000)
    if frames:
        yield _embedded(encoder, rate, kept, -(-frames // STACK))


def _embedded(encoder: CausalEncoder, rate: int, wave: np.ndarray, new: int) -> Tensor:
    token = rate * FRAME_MS // 1000 * STACK
    tail = (new + REACH + 1) * token  # one token more: a frame looks back a little
    start = max(0, (len(wave) - tail) // token * token)
    return encoder(stacked(log_mel(wave[start:], rate), STACK)[-(new + REACH) :])[-new:]


def listen(model, encoder: CausalEncoder, task: Task, policy: heads.Policy, rate: int, pieces: Iterable[np.ndarray], out,
           question: str = "", timing: bool = False, every: int = 1) -> None:
    """Writes down what is said, or the answer to "which word came after `question`?"; each word as soon as the head says so."""
    before = [ASK]
    if task.name == "spoken":
        if question not in (words := list(task._words())):
            raise ValueError(f"--question {question!r}: a word of {', '.join(words)}")
        before.append(5 + words.index(question))
    elif question:
        raise ValueError(f"--question {question!r}: this model writes down what is said, and cannot be asked (--task spoken)")
    session = Session(model, policy, task.boundary, [HEADER], every=every)
    units = iter([torch.tensor(before)])

    def source() -> Iterator[Any]:
        yield from units
        yield from heard(encoder, rate, pieces)

    first = True
    for tokens, read in run(session, source(), [END], task.longest):
        seconds = read * FRAME_MS * STACK * CHUNK / 1000
        out.write(("" if first else " ") + task.text(tokens) + (f" [{seconds:.2f} s]" if timing else ""))
        out.flush()
        first = False
    _ended(session, out, timing)


def open_listener(folder: Path, task: str | None) -> tuple[Any, CausalEncoder, Task]:
    """(model, encoder, task) of a training's product, or of a stand-in. Raises ModelError without an encoder, with another's, and for a
    task or a bank that is none of hearing, or has more words than the model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from common.models import ModelSpec, load

    weights = folder / "encoder.safetensors"
    if not weights.is_file():
        raise ModelError(f"{folder.name} has no encoder.safetensors: it does not hear; train with data.task words or spoken")
    card = next((folder / name for name in (ABOUT, "training.json") if (folder / name).is_file()), None)
    about = {}
    if card is not None:
        try:
            about = json.loads(card.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{card.name} of {folder.name} is damaged ({error}): restore it, or remove it and give --task") from error
        if not isinstance(about, dict):
            raise ModelError(f"{card.name} of {folder.name} holds a {type(about).__name__}, no facts by name: restore it, or remove it")
    model = load(ModelSpec(str(folder))).model
    encoder = CausalEncoder(FEATURES, model.config.hidden_size)
    try:
        state = {name: t.float() for name, t in load_file(weights).items()}
        encoder.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        what = " ".join(str(error).split())[:160]
        raise ModelError(f"{weights.name} of {folder.name} is damaged, or of another model ({what}): copy both again") from error
    if not all(bool(t.isfinite().all()) for t in state.values()):
        raise ModelError(f"{weights.name} of {folder.name} holds NaN or infinity: a training that diverged, or a damaged file")
    name = task or about.get("data.task") or about.get("task") or "words"
    bank = fact(about, card.name if card else ABOUT, "data.bank", "espeak")
    if name not in tuple(SPOKEN) or bank not in LEARNT:
        raise ModelError(f"{folder.name}: task {name!r} of the recordings {bank!r}; there is {', '.join(SPOKEN)} of {', '.join(LEARNT)}: "
                         "restore its facts, or give --task")
    found = Task(name, bank=bank)
    if (rows := model.get_input_embeddings().num_embeddings) < found.vocabulary:
        raise ModelError(f"{folder.name}: a model of {rows} tokens, and the words of {bank} take {found.vocabulary}: these facts are of "
                         "another model")
    return model, encoder.eval(), found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Answers a text or a recording while it is still coming.")
    parser.add_argument("--checkpoint", required=True, help="folder of a training, local model or hub id")
    parser.add_argument("--base", help=f"base model of an adapter, if {ABOUT} does not name it")
    parser.add_argument("--head", choices=list(heads.HEADS), help=f"default: {HEAD}")
    parser.add_argument("--threshold", type=float, help=f"how sure the head must be, 0 to 1; default: {THRESHOLD}")
    parser.add_argument("--k", type=float, help="wait-k in place of a head; 0: read everything first")
    parser.add_argument("--every", type=int, default=1, help="ask the model after so many units")
    parser.add_argument("--instruction", default="", help="before the stream")
    parser.add_argument("--question", default="", help="before the stream, behind the instruction")
    parser.add_argument("--audio", help="a WAV file, a FIFO or a device")
    parser.add_argument("--rate", type=int, help="samples a second, where --audio has no header")
    parser.add_argument("--task", choices=["words", "spoken"], help="of a model that hears; default: that of its training")
    parser.add_argument("--show", choices=["text", "timing"], default="text")
    parser.add_argument("--threads", type=threads, default=1, help="of torch")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        policy, timing, out = policy_of(options), options.show == "timing", Output(sys.stdout)
        check_used(options)
        if options.audio is not None:
            model, encoder, task = open_listener(Path(options.checkpoint).expanduser(), options.task)
            with _opened(options.audio) as file:
                rate, pieces = samples(file, options.rate, Path(options.audio).name)
                check_rate(task, rate, Path(options.audio).name)
                listen(model, encoder, task, policy, rate, pieces, out, options.question, timing, options.every)
            return 0
        model, tokenizer, about = open_checkpoint(options.checkpoint, ABOUT, options.base)
        instruction = options.instruction or fact(about, ABOUT, "data.instruction", "")
        answer(model, tokenizer, policy, f"{instruction}\n{asked_of(about, options.question)}".strip(), units_of(sys.stdin), out, timing,
               options.every)
    except (UserError, ValueError, TypeError) as error:
        print(f"proactivellm stream: {error}", file=sys.stderr)
        return 2
    except (BrokenPipeError, KeyboardInterrupt):
        return 130
    return 0


def _opened(path: str) -> BinaryIO:
    if path == "-" and sys.stdin is None:
        raise DataError("--audio -: standard input is closed; give it a recording, by a pipe or < FILE")
    try:
        return open(Path(path).expanduser(), "rb") if path != "-" else sys.stdin.buffer
    except OSError as error:
        raise DataError(f"--audio: {Path(path).name} cannot be opened: {error.strerror}") from error


if __name__ == "__main__":
    raise SystemExit(main())
