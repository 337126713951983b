"""Translate from standard input while it is still being written: words in, words out.

    … | python -m papers.gpe.stream --checkpoint FOLDER --k 3

--checkpoint is a folder that training wrote (weights or adapter, tokenizer, gpe.json) or any causal model with a
tokenizer: a local folder or a hub id. Every line is a sentence; its words may arrive one by one, and target words are
printed as soon as the wait-k policy lets them be written, a line for a line (an empty one for an empty one). --show latency
prints after how many source words each was.
"""

from __future__ import annotations

import argparse
import math
import sys

import torch

from common.errors import UserError
from common.masks import wait_k
from common.streaming.live import Output, fact, in_a_line, known, open_checkpoint, template_of, threads, units_of
from common.streaming.words import Boundary

from . import method
from .session import MOST, Session, run

ABOUT = "gpe.json"
INSTRUCTION = "Translate the following English paragraph to French"  # of a model that says nothing about its training


def translate(model, tokenizer, arm, k: int | None, instruction: str, sentences, out, show_latency: bool = False,
              max_word: int = 32, max_words: int = 256) -> None:
    """Streams every sentence; prints each word as it is written, a line for a sentence."""
    template = template_of(tokenizer, instruction)
    boundary = Boundary.of_tokenizer(tokenizer, template.stop)
    for _ in known([*(template.ids(part) for part in (template.opening, template.user_end)), [template.stop]], model):
        pass
    for sentence in sentences:
        session = Session(model, arm, boundary, template.ids(template.opening), max_word)
        written: list[int] = []
        shown = 0
        for tokens, read in run(session, known(template.units(sentence), model), template.ids(template.user_end), k, max_words):
            written += tokens
            text = in_a_line(tokenizer.decode(written, skip_special_tokens=True)).lstrip()
            out.write(text[shown:] + (f" [{read}]" if show_latency else ""))
            out.flush()
            shown = len(text)
        out.write("\n")
        out.flush()
        if session.truncated:
            what = "a word" if session.ended else f"its text within {max_words} words"
            print(f"gpe: the model did not end {what}; its sentence was cut", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Streaming translation of standard input, word by word.")
    parser.add_argument("--checkpoint", required=True, help="folder of a training, local model or hub id")
    parser.add_argument("--base", help="base model of an adapter, if gpe.json does not name it")
    parser.add_argument("--k", type=int, default=3, help="source words to wait for; 0: read everything first")
    parser.add_argument("--arm", help=f"default: that of the training, else group; {', '.join(method.ARMS)}")
    parser.add_argument("--phi", type=float, help="first target position; default: that of the training, else 0")
    parser.add_argument("--instruction", help=f"the system turn; default: that of the training, else {INSTRUCTION!r}")
    parser.add_argument("--show", choices=["text", "latency"], default="text")
    parser.add_argument("--threads", type=threads, default=1, help="of torch")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        if not 0 <= options.k < MOST:
            raise ValueError(f"--k {options.k}: at least 1, or 0 to read everything first; less than {MOST:,}")
        k = options.k or None
        wait_k(k, 1, 0)
        model, tokenizer, about = open_checkpoint(options.checkpoint, ABOUT, options.base)
        name = fact(about, ABOUT, "arm_name", "group") if options.arm is None else options.arm
        phi = options.phi if options.phi is not None else fact(about, ABOUT, "phi", 0.0)
        if not math.isfinite(phi) or abs(phi) >= MOST:
            raise ValueError(f"phi {phi}: the first target position is a number, less than {MOST:,}")
        arm = method.arm(name, phi)
        instruction = fact(about, ABOUT, "data.instruction", INSTRUCTION) if options.instruction is None else options.instruction
        translate(model, tokenizer, arm, k, instruction, units_of(sys.stdin), Output(sys.stdout),
                  options.show == "latency")
    except (UserError, ValueError, TypeError) as error:
        print(f"gpe stream: {error}", file=sys.stderr)
        return 2
    except (BrokenPipeError, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
