"""A user's own model, pictures and questions: what the commands beside this file ask, and what the model answers under a pruner.

    asked = questions(options)                     # pictures and questions of a command line, or lines of a JSONL file
    answered(model, Prompt(inputs), pruner, 1)     # what it writes, greedily, and what happened in its layers

No answer of anybody is read: all that is compared is what a model says with what it says itself when something of the picture is
missing. A prompt may hold several rows, if the inputs do; with commands it holds one, since pictures of other models differ in tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.data.text import is_text
from common.errors import ModelError, UserError
from common.modes import eval_mode

from .pruners import Nothing
from .session import Pruner, PruningSession, Trace


@dataclass(frozen=True)
class Prompt:
    """inputs: of the model's `generate`, one row or more. visual (B, S) bool: where visual tokens stand, for a decoder that is given
    `inputs_embeds` with projected features; None where the ids hold the model's image token. name: in tables.

    Raises UserError for rows that are padded on the right, where the last slot is no token."""

    inputs: dict[str, Tensor]
    visual: Tensor | None = None
    name: str = ""

    def __post_init__(self) -> None:
        mask = self.inputs.get("attention_mask")
        if mask is not None and not bool(mask[:, -1].all()):
            raise UserError(f"prompt {self.name or '(no name)'}: padded on the right; an answer stands behind the last slot, so pad on "
                            "the left")


@dataclass(frozen=True)
class Answered:
    """ids: of each row, up to and with the first end-of-sequence. trace: what happened in the prefill."""

    ids: list[tuple[int, ...]]
    trace: Trace

    def visual(self) -> list[list[int]]:
        """[row][layer]: visual tokens that were there."""
        return [list(row) for row in zip(*self.trace.visual)]

    def text(self) -> list[int]:
        """[row]: other tokens of the prompt, padding apart."""
        return [all_ - of_it for all_, of_it in zip(self.trace.tokens[0], self.trace.visual[0])]


@torch.no_grad()
def answered(model: nn.Module, prompt: Prompt, pruner: Pruner | None = None, tokens: int = 1) -> Answered:
    """Greedy, in eval mode, which the model is left in only where it was. Raises ModelError for a model that cannot be pruned, by property
    (session.py), and for logits that are NaN: the likeliest of them is no answer, and would be the same under any setting."""
    with eval_mode(model), PruningSession(model, pruner or Nothing(), prompt.visual) as session:
        out = model.generate(**prompt.inputs, max_new_tokens=tokens, do_sample=False, num_beams=1, return_dict_in_generate=True,
                             output_logits=True)
    finite(model, prompt, out.logits)
    written = out.sequences
    width = prompt.inputs["input_ids"].shape[1] if "input_ids" in prompt.inputs else 0
    end = getattr(model.generation_config, "eos_token_id", None)
    ends = set(end if isinstance(end, list) else [end])
    return Answered([cut(row, ends) for row in written[:, width:].tolist()], session.trace)


def finite(model: nn.Module, prompt: Prompt, logits: Iterable[Tensor]) -> None:
    """Raises ModelError where a prompt's logits, or what is made of them, hold NaN."""
    if any(bool(each.isnan().any()) for each in logits):
        raise ModelError(f"{type(model).__name__}, prompt {prompt.name or '(no name)'}: its logits are NaN, so that nothing is its answer: "
                         "weights that are not finite, or numbers too large for the precision it runs in")


def cut(row: list[int], ends: set[int | None]) -> tuple[int, ...]:
    """Up to and with the first of the ends: what stands behind it is padding."""
    first = next((i for i, token in enumerate(row) if token in ends), len(row))
    return tuple(row[: first + 1])


def loaded(name: str, dtype: Any) -> tuple[nn.Module, Any]:
    """(model, processor) of a folder or hub id. Raises UserError for what cannot be loaded, a file that is cut short included."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if not (folder := Path(name).expanduser()).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise UserError(f"{name}: there is no such folder, and a model of the hub is called organisation/name")  # not asked of the hub
    name = str(folder) if folder.is_dir() else name
    try:
        return AutoModelForImageTextToText.from_pretrained(name, dtype=dtype), AutoProcessor.from_pretrained(name)
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, SafetensorError, StrictDataclassError) as error:
        why = " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__  # a config's errors take two lines
        raise UserError(f"{name} cannot be loaded as a multimodal model of transformers ({why})") from error


def begun(prompt: str, tokenizer: Any) -> dict[str, bool]:
    """What a processor is told beside a prompt of its chat template: one that begins with the first token gets no second one."""
    first = getattr(tokenizer, "bos_token", None)
    return {"add_special_tokens": False} if first and prompt.startswith(first) else {}


# -- from a command line -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Question:
    """picture: PIL, RGB. digest: of its pixels, by which a picture is known again whatever its file is called."""

    name: str
    picture: Any
    text: str

    @property
    def digest(self) -> str:
        return digest(self.picture)


def digest(picture: Any) -> str:
    """SHA-256 of a PIL picture's size and RGB pixels, as it is shown (upright)."""
    rgb = shown(picture)
    return hashlib.sha256(str(rgb.size).encode() + rgb.tobytes()).hexdigest()


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `questions` reads."""
    parser.add_argument("--model", required=True, help="a small LLaVA's folder, or a folder or hub id of transformers")
    parser.add_argument("--pictures", type=Path, nargs="*", default=[])
    parser.add_argument("--question", action="append", default=[], help="asked about every one of --pictures; may be given again")
    parser.add_argument("--prompts", type=Path, help='a file of lines {"picture": "a.jpg", "question": "..."}, paths from its folder')
    parser.add_argument("--scenes", type=int, default=0, help="so many generated validation scenes, with a question each, beside them")


def questions(options: argparse.Namespace) -> list[Question]:
    """Raises UserError for a picture without a question, a file that cannot be read, a line that is no prompt, or nothing at all."""
    if options.pictures and not all(map(asks, options.question or [""])):
        raise UserError("--pictures needs a --question: which layers look depends on what is asked")
    if options.question and not options.pictures:
        raise UserError("--question is asked about --pictures, and there are none: prompts of a file, and scenes, have their own")
    if options.scenes < 0:
        raise UserError(f"--scenes {options.scenes}: a number of pictures, from 0 on")
    found = [Question(path.stem, image, text) for path in options.pictures for image in [opened(path)] for text in options.question]
    if options.prompts:
        found += lines(options.prompts)
    if options.scenes:
        found += scenes(options.scenes)
    if not found:
        raise UserError("give --pictures FILE ... with a --question, --prompts FILE, or --scenes COUNT")
    return found


def lines(path: Path) -> list[Question]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without a mark of byte order
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no file of prompts that can be read ({error})") from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):  # a question may hold U+2028 and its like
        if not line.strip():
            continue
        try:
            of = json.loads(line)
            name, asked = of["picture"], of["question"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f'{path}, line {number}: expected {{"picture": "a.jpg", "question": "..."}}') from error
        if not is_text(name) or not is_text(asked) or not asks(asked):
            raise UserError(f"{path}, line {number}: picture and question are texts, and a question has a word")
        found.append(Question(Path(name).stem, opened(path.parent / name), asked))
    return found


def asks(question: str) -> bool:
    return is_text(question) and bool(question.strip())


def opened(path: Path) -> Any:
    """A PIL picture in RGB, upright. Raises UserError for what is none."""
    from PIL import Image

    try:
        return shown(Image.open(path))
    except (OSError, ValueError, SyntaxError, EOFError, NotImplementedError, struct.error, zlib.error,  # PIL's own come under all of these
            Image.DecompressionBombError) as error:
        raise UserError(f"{path}: no picture that can be read ({error})") from error


def shown(picture: Any) -> Any:
    """As people see it: turned as its camera says (EXIF), and 16 bits of grey as 8, where PIL's own way to RGB makes them white.

    Raises ValueError for floats, which PIL would make black: nothing says which of them is white.
    """
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode == "F":
        raise ValueError("its pixels are floats, of which nobody says which is white; save it with 8 bits a colour")
    if upright.mode.startswith("I"):
        import numpy as np

        grey = np.asarray(upright).astype(np.int64)  # "I;16" and its like; or "I", as PIL reads a PGM of 16 bits
        sixteen = upright.mode != "I" or grey.max(initial=0) > 255
        upright = Image.fromarray((grey >> (8 if sixteen else 0)).clip(0, 255).astype(np.uint8))
    return upright.convert("RGB")


def out_of(path: Path, what: str = "--out", files: Iterable[str] = ()) -> Path:
    """A folder, made, in which these files will be written. Raises UserError for one that cannot be made or written to, and for a folder
    where a file is to stand: before any work, and not behind it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{what} {path}: no folder can be made there ({error.strerror})") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"{what} {path}: nothing can be written into this folder; name another")
    if inside := next((name for name in files if (path / name).is_dir()), None):
        raise UserError(f"{what} {path}: {inside} is a folder there, and a file of this name is to be written; move it away")
    return path


def depth(model: nn.Module) -> int:
    """How many layers its decoder has. Raises ModelError where there is no list of them, as in decoders that read a picture elsewhere."""
    layers = getattr(model.get_decoder() if hasattr(model, "get_decoder") else None, "layers", None)
    if layers is None:
        raise ModelError(f"{type(model).__name__} has no list of layers to prune between")
    return len(layers)


def scenes(count: int, split: str = "val") -> list[Question]:
    """Of generated scenes one question each, the kinds in turn. Validation pictures: what is chosen by them is not chosen on test ones."""
    from PIL import Image

    from common.data import scenes as generated

    found = []
    for number in range(count):
        of = generated.scene(number, split)
        asked = of.questions()
        found.append(Question(f"{split}{number}", Image.fromarray(of.image()), asked[number % len(asked)].text))
    return found


def name_of(model: str) -> str:
    """A model's name for a file that others read: a hub id, or a folder's own name without its place."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def prompts(asked: Iterable[Question], inputs: Callable[[Any, str], dict[str, Tensor]]) -> list[Prompt]:
    """inputs(picture, question): as look.Opened has them."""
    return [Prompt(inputs(q.picture, q.text), None, q.name) for q in asked]
