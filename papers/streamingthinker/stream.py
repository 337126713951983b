"""Think about standard input while it is being written: a unit of thought as soon as a sentence ends, the answer when the line does.

    … | python -m papers.streamingthinker.stream --checkpoint FOLDER --depth 2 --show timing

--checkpoint is a folder that training in the layout streaming wrote (weights or adapter, tokenizer, streamingthinker.json; one of another
layout has not learnt to think while it reads, and is refused), a stand-in of stories
(common/standins/stories-weights/seed0), or any causal model with a chat template whose embedding has room for five tokens. Every line is
an input of its own: the question first, then sentences, each ending with . ! or ?. What a user writes is never taken for structure.
--show timing prints after each unit when it was written and when its sentence had come, and the delay of the answer: seconds of this
machine's clock, from the last sentence's arrival to the first answer token, under the schedule that is named beside it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator

import torch

from common.claims.machine import environment
from common.errors import ModelError, UserError
from common.streaming.live import Output, fact, open_checkpoint, threads, units_of
from common.streaming.units import ends_sentence

from . import worded
from .reasoner import SCHEDULES, Event, Reasoner, Thought, Tokens

ABOUT = "streamingthinker.json"


def structure(model, tokenizer, about: dict) -> tuple[Tokens, Callable[[str, int], list[int]]]:
    """(tokens of structure, a sentence and its number -> ids) for a stand-in of stories or a chat model. Raises ModelError for facts that
    are none, and for a model that was trained to think in another way: what it wrote here would be of no training."""
    if (layout := fact(about, ABOUT, "layout", "streaming")) != "streaming":
        raise ModelError(f"{ABOUT}: this model was trained in the layout {layout}, and has not learnt to think while it reads; take one of "
                         "layout streaming (harness.thinking_lm asks the others)")
    if set(tokenizer.get_vocab()) >= set(worded.stories.WORDS):
        def told(text: str, number: int) -> list[int]:
            ids, left_out = worded.story_segment(text, number)
            if left_out:
                print(f"streamingthinker: left out, for a model of stories does not know them: {', '.join(left_out)}", file=sys.stderr)
            return ids

        return worded.of_stories(), told
    if not isinstance(last := about.get("context_first", False), bool):
        raise ModelError(f"{ABOUT}: context_first is {last!r}, where true or false belongs: restore the file, or remove it")
    told_of = fact(about, ABOUT, "cues", {})
    if not all(depth.isdecimal() and isinstance(text, str) for depth, text in told_of.items()):
        raise ModelError(f"{ABOUT}: cues is {told_of!r}, where a text by depth belongs: restore the file, or remove it")
    cues = {int(depth): text for depth, text in told_of.items()} or None
    instruction = fact(about, ABOUT, "instruction", worded.INSTRUCTION)
    chat = worded.Chat.of(tokenizer, model.get_input_embeddings().weight.shape[0], instruction, cues)
    if last:  # which sentence is the question shows in its mark alone
        return chat.tokens(), lambda text, number: chat.segment(text, text.rstrip().endswith("?"))
    return chat.tokens(), lambda text, number: chat.segment(text, number == 0)  # as in training, whatever its mark: "Find x."


def converse(reasoner: Reasoner, encode: Callable[[str, int], list[int]], tokenizer, texts: Iterator[Iterator[str]], depth: int,
             schedule: str, out, timing: bool = False) -> list[Thought]:
    """Thinks about every text; prints each unit as it is written, then what follows the input. Of an empty text nothing is thought: its
    answer is an empty line, and the next one follows."""
    found = []
    for text in texts:
        if (first := next(text, None)) is None:
            out.write("\n")
            out.flush()
            found.append(Thought())
            continue
        read: dict[int, float] = {}

        def told(event: Event, read=read) -> None:
            if event.kind == "read":
                read[event.number] = event.at
            elif event.kind in ("unit", "end"):
                shown = tokenizer.decode(list(event.tokens), skip_special_tokens=True).strip()
                when = f"  [{event.at:.2f} s" + (f", its sentence {read[event.number]:.2f} s" if event.kind == "unit" else "") + "]"
                out.write(shown + (when if timing else "") + "\n")
                out.flush()

        thought = reasoner.think((encode(sentence, i) for i, sentence in enumerate(itertools.chain([first], text))), depth, schedule, told)
        if timing:
            answered = any(event.kind == "answer" for event in thought.events)
            until = "first answer token" if answered else "end, for no answer came"
            delay, machine = thought.at("answer" if answered else "end") - thought.at("read"), environment()["cpu"]
            out.write(f"delay, from the last sentence to the {until}: {delay:.2f} s by the clock of this machine ({machine}), schedule "
                      f"{schedule}\n")
            out.flush()
        if thought.truncated:
            print("streamingthinker: a unit or the answer reached its cap and was cut", file=sys.stderr)
        found.append(thought)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Units of thought for standard input, sentence by sentence.")
    parser.add_argument("--checkpoint", required=True, help="folder of a training or a stand-in, local model or hub id")
    parser.add_argument("--base", help=f"base model of an adapter, if {ABOUT} does not name it")
    parser.add_argument("--depth", type=int, default=2, help="1: answer at once, 2: think as a whole first, 3: and check")
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="threads")
    parser.add_argument("--start", type=int, help="the target's first position; default: that of the training, else 0")
    parser.add_argument("--unit-cap", type=int, default=64, help="most tokens of a unit; its boundary is then forced")
    parser.add_argument("--rest-cap", type=int, default=512, help="most tokens behind the input's end")
    parser.add_argument("--show", choices=["text", "timing"], default="text")
    parser.add_argument("--threads", type=threads, default=1, help="of torch")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        model, tokenizer, about = open_checkpoint(options.checkpoint, ABOUT, options.base)
        tokens, encode = structure(model, tokenizer, about)
        start = options.start if options.start is not None else fact(about, ABOUT, "start", 0)
        if start < 0:
            raise ValueError(f"start {start}: the target's first position is 0 or more")
        reasoner = Reasoner(model, tokens, start, options.unit_cap, options.rest_cap)
        converse(reasoner, encode, tokenizer, units_of(sys.stdin, split_on=ends_sentence), options.depth, options.schedule,
                 Output(sys.stdout), options.show == "timing")
    except (UserError, ValueError, TypeError) as error:
        print(f"streamingthinker stream: {error}", file=sys.stderr)
        return 2
    except (BrokenPipeError, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
