"""A text that is still being written: its units from an open file as they come, and a trained checkpoint to answer it with.

    for units in units_of(sys.stdin, split_on=ends_sentence):      # a line is a text
        for unit in units: ...

Every line is a text, an empty one included, so that what answers line i is line i. Its units are words (words.py), or words up to
one that ends a sentence; each is given as soon as the blank behind its last word is there, while the rest may not exist yet. A line
feed ends a line; every other blank parts words, a no-break space too.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import select
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from torch import nn

from ..errors import DataError, ModelError
from ..lora import CONFIG, adapter_folder, merged
from ..models import ModelSpec, load
from .units import Template, ends_word

MOST_THREADS = 1024  # torch makes them at once, and dies of too many
BREAKS = dict.fromkeys(map(ord, "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"), " ")  # what `str.splitlines` ends a line at


def threads(text: str) -> int:
    """Of an option --threads, for argparse."""
    if not text.strip().isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{text}: a whole number, 1 to {MOST_THREADS}")
    return int(text)


def units_of(stream, split_on: Callable[[str], bool] = ends_word, codec: str = "utf-8-sig") -> Iterator[Iterator[str]]:
    """Texts, each an iterator of units that ends with its line. What is left of a text is read and dropped before the next.

    stream: an open file with a file descriptor; None, standard input that is closed. split_on(word): whether a unit ends with this
    word; the words of a unit are joined by single blanks. Bytes that are no text in `codec` become U+FFFD; a mark of byte order at the
    start is none of the text.
    Raises DataError for what cannot be read, a folder say, and for UTF-16, which would be read as other words.
    """
    if stream is None:
        raise DataError("standard input is closed; give it a text, by a pipe or < FILE")
    tail, at_start, at_end, number = "", True, False, stream.fileno()
    decoder = codecs.getincrementaldecoder(codec)(errors="replace")  # half a letter waits for its other half

    def more() -> bool:
        nonlocal tail, at_end, at_start
        if at_end:
            return False
        select.select([number], [], [])  # wakes up with the first byte, not with a full buffer
        try:
            new = os.read(number, 4096)
        except OSError as error:
            raise DataError(f"standard input cannot be read: {error.strerror}; give it a text, by a pipe or < FILE") from error
        if at_start and codec.startswith("utf-8") and new[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # in no text of UTF-8
            raise DataError("standard input is UTF-16, and UTF-8 is read: iconv -f UTF-16 -t UTF-8, say")
        at_end, at_start = not new, False
        tail += decoder.decode(new, final=at_end)
        return True

    def skip_blanks() -> None:
        nonlocal tail
        tail = tail[next((i for i, sign in enumerate(tail) if sign == "\n" or not sign.isspace()), len(tail)) :]

    def words() -> Iterator[str]:
        nonlocal tail
        while True:
            skip_blanks()
            if tail.startswith("\n"):
                tail = tail[1:]
                return
            if (blank := next((i for i, sign in enumerate(tail) if sign.isspace()), None)) is not None:
                word, tail = tail[:blank], tail[blank:]
                yield word
            elif not more():
                word, tail = tail, ""
                if word:
                    yield word
                return

    def units() -> Iterator[str]:
        unit: list[str] = []
        for word in words():
            unit.append(word)
            if split_on(word):
                yield " ".join(unit)
                unit = []
        if unit:
            yield " ".join(unit)

    while True:
        skip_blanks()
        if tail:
            text = units()
            yield text
            for _ in text:  # an answer may have ended before its source
                pass
        elif not more():
            return


def in_a_line(text: str) -> str:
    """What a model wrote, sign for sign, with a plain space for each break: its line ends where the line that it answers does."""
    return text.translate(BREAKS)


class Output:
    """Standard output, to `write` on and `flush`. Raises DataError, with the way out, where it is closed (None) or cannot be written; a
    reader that went away is a BrokenPipeError still, for that is no mistake."""

    def __init__(self, file: TextIO | None):
        if file is None:
            raise DataError("standard output is closed: send the text somewhere, by a pipe or > FILE")
        self.file = file

    def write(self, text: str) -> None:
        self._done(self.file.write, text)

    def flush(self) -> None:
        self._done(self.file.flush)

    def _done(self, call: Callable, *text: str) -> None:
        try:
            call(*text)
        except UnicodeEncodeError as error:
            raise DataError(f"standard output is {self.file.encoding}, which has no {text[0][error.start]!r}: set "
                            "PYTHONIOENCODING=utf-8") from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DataError(f"standard output cannot be written: {error.strerror}") from error


def open_checkpoint(name: str, about: str, base: str | None = None) -> tuple[Any, Any, dict[str, Any]]:
    """(model, tokenizer, facts of its training or {}) of a folder that a training wrote, a local model or a hub id.

    about: the file of the facts in the folder, e.g. "gpe.json". An adapter is merged into its base model: `base`, or the
    "trained_from" of the facts. Raises ModelError for what cannot be opened.
    """
    folder = Path(name).expanduser()
    facts = {}
    if (folder / about).is_file():
        try:
            facts = json.loads((folder / about).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{about} of {folder.name} is damaged ({error}): restore it, or remove it and give the options") from error
        if not isinstance(facts, dict):
            raise ModelError(f"{about} of {folder.name} holds a {type(facts).__name__}, no facts by name: restore it, or remove it "
                             "and give the options")
    if (folder / CONFIG).is_file():
        adapter_folder(folder)
        from transformers import AutoTokenizer

        base = base or facts.get("trained_from")
        if not base:
            raise ModelError(f"{folder.name} is an adapter and does not say of which model: give --base")
        adapted = merged(base, folder)
        tokenizer = adapted.tokenizer or AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return adapted.model, tokenizer, facts
    if base:
        raise ModelError(f"{name} is no adapter (it has no {CONFIG}), so --base has no use: leave it out, or give the adapter's folder")
    loaded = load(ModelSpec(name))
    if loaded.tokenizer is None:
        raise ModelError(f"{name} has no tokenizer; put its files into the folder")
    return loaded.model, loaded.tokenizer, facts


def fact(facts: dict[str, Any], about: str, name: str, default: Any) -> Any:
    """An entry of the facts, of the kind that `default` is; default where there is none. Raises ModelError for another kind."""
    value = facts.get(name, default)
    kinds = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ModelError(f"{about}: {name} is {value!r}, where {default!r} would do: restore the file, or remove it and give options")
    return value


def template_of(tokenizer, instruction: str) -> Template:
    """Raises ModelError for a chat template that refuses every turn, and ValueError as `Template.of`."""
    from jinja2 import TemplateError

    try:
        return Template.of(tokenizer, instruction)
    except TemplateError as error:
        raise ModelError(f"the chat template of the tokenizer refuses a user's turn ({error}): mend or remove it") from error


def known(units: Iterable[Any], model: nn.Module) -> Iterator[Any]:
    """The units (ids) as they come. Raises ModelError for an id that the model has no embedding of."""
    rows = model.get_input_embeddings().weight.shape[0]
    for ids in units:
        if len(ids) and (highest := int(max(ids))) >= rows:
            raise ModelError(f"token {highest} of the tokenizer has no row in an embedding of {rows}: the tokenizer is of another one, or "
                             "the embedding was not resized (model.resize_token_embeddings)")
        yield ids
