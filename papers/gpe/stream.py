"""Translate from standard input while it is still being written: words in, words out.

    … | python -m papers.gpe.stream --checkpoint FOLDER --k 3

--checkpoint is a folder that training wrote (weights or adapter, tokenizer, gpe.json) or any causal model with a
tokenizer: a local folder or a hub id. Every line is a sentence; its words may arrive one by one, and target words are
printed as soon as the wait-k policy lets them be written. --show latency prints after how many source words each was.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from common.errors import ModelError
from common.lora import CONFIG, adapter_folder, merged
from common.masks import wait_k
from common.models import ModelSpec, load

from . import method
from .decoding import Boundary
from .session import Session, run
from .template import Template


def words_of(stream, codec: str = "utf-8") -> Iterator[Iterator[str]]:
    """An iterator of sentences, each an iterator of words that ends with its line; words come as they are written."""
    tail, at_end, number = b"", False, stream.fileno()

    def more() -> bool:
        nonlocal tail, at_end
        if at_end:
            return False
        select.select([number], [], [])  # wakes up with the first byte, not with a full buffer
        new = os.read(number, 4096)
        at_end = not new
        tail += new
        return True

    def words() -> Iterator[str]:
        nonlocal tail
        while True:
            text = tail.lstrip(b" \t\r")
            cut = min((i for i in (text.find(c) for c in (b" ", b"\t", b"\r", b"\n")) if i >= 0), default=-1)
            if text.startswith(b"\n"):
                tail = text[1:]
                return
            if cut > 0:
                word, tail = text[:cut], text[cut:]
                yield word.decode(codec, errors="replace")
            elif not more():
                tail = b""
                if text:
                    yield text.decode(codec, errors="replace")
                return

    while not at_end or tail.strip():
        tail = tail.lstrip()  # blank lines are no sentences
        if not tail and not more():
            return
        if tail.strip():
            tail = tail.lstrip()
            yield words()
        elif at_end:
            return


def open_checkpoint(name: str, base: str | None = None):
    """(model, tokenizer, gpe.json or {}). An adapter is put on its base model: --base, or what gpe.json names.

    Raises ModelError for what cannot be opened.
    """
    folder = Path(name).expanduser()
    about = json.loads((folder / "gpe.json").read_text()) if (folder / "gpe.json").is_file() else {}
    if (folder / CONFIG).is_file():
        adapter_folder(folder)
        from transformers import AutoTokenizer

        base = base or about.get("trained_from")
        if not base:
            raise ModelError(f"{folder.name} is an adapter and does not say of which model: give --base")
        loaded = merged(base, folder)
        return loaded.model, loaded.tokenizer or AutoTokenizer.from_pretrained(folder, local_files_only=True), about
    loaded = load(ModelSpec(name))
    if loaded.tokenizer is None:
        raise ModelError(f"{name} has no tokenizer; put its files into the folder")
    return loaded.model, loaded.tokenizer, about


def translate(model, tokenizer, arm, k: int | None, instruction: str, sentences, out, show_latency: bool = False,
              max_word: int = 32, max_words: int = 256) -> None:
    """Streams every sentence; prints each word as it is written, a line for a sentence."""
    template = Template.of(tokenizer, instruction)
    boundary = Boundary.of_tokenizer(tokenizer, template.stop)
    for sentence in sentences:
        session = Session(model, arm, boundary, template.ids(template.opening), max_word)
        written: list[int] = []
        shown = 0
        for tokens, read in run(session, template.units(sentence), template.ids(template.user_end), k, max_words):
            written += tokens
            text = tokenizer.decode(written, skip_special_tokens=True).lstrip()
            out.write(text[shown:] + (f" [{read}]" if show_latency else ""))
            out.flush()
            shown = len(text)
        out.write("\n")
        out.flush()
        for _ in sentence:  # the text may have been ended before its source
            pass
        if session.truncated:
            print("gpe: the model did not end a word; its sentence was cut", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Streaming translation of standard input, word by word.")
    parser.add_argument("--checkpoint", required=True, help="folder of a training, local model or hub id")
    parser.add_argument("--base", help="base model of an adapter, if gpe.json does not name it")
    parser.add_argument("--k", type=int, default=3, help="source words to wait for; 0: read everything first")
    parser.add_argument("--arm", help=f"default: that of the training, else group; {', '.join(method.ARMS)}")
    parser.add_argument("--phi", type=float, help="first target position; default: that of the training, else 0")
    parser.add_argument("--instruction", default="Translate the following English paragraph to French")
    parser.add_argument("--show", choices=["text", "latency"], default="text")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        if options.k < 0:
            raise ValueError(f"--k {options.k}: at least 1, or 0 to read everything first")
        k = options.k or None
        wait_k(k, 1, 0)
        model, tokenizer, about = open_checkpoint(options.checkpoint, options.base)
        name = options.arm or about.get("arm_name") or "group"
        arm = method.arm(name, options.phi if options.phi is not None else about.get("phi", 0.0))
        translate(model, tokenizer, arm, k, options.instruction, words_of(sys.stdin), sys.stdout,
                  options.show == "latency")
    except (ModelError, ValueError, TypeError) as error:
        print(f"gpe stream: {error}", file=sys.stderr)
        return 2
    except (BrokenPipeError, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
