"""Writers in turn, and what they have written: long generations by models that need not fit beside each other, kept as they come.

    one, other = in_turn(open_one, open_other)            opened when asked, closed when the other is
    remembered(one, file, about, 16)                      a killed run asks again for sixteen replies at most
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from common.data.text import lines
from common.errors import DataError, ModelError
from common.files import advice
from common.models import ModelSpec, load
from common.reasoning.rollouts import sample

Writer = Callable[[Sequence[tuple[str, str]], int], list[str]]  # (message, beginning of the reply) of each, attempt -> what follows


def in_turn(*makers: Callable[[], Writer]) -> list[Writer]:
    """Writers that open when they are first asked and close when another one is: the memory of one is enough."""
    held: dict[int, Writer] = {}

    def writer(i: int) -> Writer:
        def write(asked: Sequence[tuple[str, str]], attempt: int) -> list[str]:
            if asked and i not in held:
                if held:
                    held.clear()
                    released()
                held[i] = makers[i]()
            return held[i](asked, attempt) if asked else []

        return write

    return [writer(i) for i in range(len(makers))]


def released() -> None:
    """Gives back the memory of a model that nothing refers to any more; an engine of vLLM in this process leaves its groups behind, too."""
    gc.collect()
    if "vllm" in sys.modules:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def remembered(writer: Writer, path: Path, about: Any, at_once: int) -> Writer:
    """The writer, asked for `at_once` replies at a time, each of which is in a file before the next are asked for, and never asked for
    again. about: what else a reply depends on, as a JSON value. A line that a kill cut short is as good as none."""
    known = dict(_replies(path))

    def write(asked: Sequence[tuple[str, str]], attempt: int) -> list[str]:
        keys = [hashlib.sha256(json.dumps([about, attempt, *one]).encode()).hexdigest() for one in asked]
        new = {key: one for key, one in zip(keys, asked) if key not in known}
        for at in range(0, len(new), at_once):
            part = dict(list(new.items())[at : at + at_once])
            found = dict(zip(part, writer(list(part.values()), attempt), strict=True))
            with open(path, "a", encoding="utf-8") as file:  # begins a line of its own: the one before may have been cut
                file.write("\n" + "\n".join(json.dumps(pair) for pair in found.items()) + "\n")
            known.update(found)
        return [known[key] for key in keys]

    return write


def writable(out: Path, replies: Path, inputs: Sequence[Path | None]) -> None:
    """Raises DataError for an --out that could not be written, or that would take the place of an input: before hours of work."""
    if out.is_dir():
        raise DataError(f"--out {out}: a folder has this name, and traces are a file")
    if any(path is not None and path.resolve() == out.resolve() for path in inputs):
        raise DataError(f"--out {out}: this file is an input, which traces would take the place of; give another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out}: its folder cannot be made ({error.strerror})") from error
    begun = replies.exists()
    try:
        open(replies, "a").close()
        if not begun:
            replies.unlink()
    except OSError as error:
        raise DataError(f"--out {out}: {replies.name} beside it cannot be written: {advice(error, replies)}") from error


def _replies(path: Path) -> Iterator[tuple[str, str]]:
    for _, line in lines(path) if path.is_file() else ():
        with contextlib.suppress(ValueError, TypeError):  # a number, say, is no pair
            key, reply = json.loads(line)
            yield key, reply


# -- of a model --------------------------------------------------------------------------------------------
def model_writer(name: str, engine: str = "transformers", cap: int = 1024, temperature: float = 0.6, rows: int = 16, **options) -> Writer:
    """A `Writer` of a model with a chat template, asked not to think first where its template knows of that. engine: "vllm" or
    "transformers". options: of vllm.LLM, or of ModelSpec. Raises what `load` and VllmSampler do."""
    if engine == "vllm":
        from transformers import AutoTokenizer

        from common.reasoning.engine import VllmSampler

        sampler, tokenizer = VllmSampler(name, **options), AutoTokenizer.from_pretrained(name)
        draw = sampler.sample
    else:
        loaded = load(ModelSpec(name, **options))
        tokenizer = loaded.tokenizer
        if tokenizer is None:
            raise ModelError(f"{name} has no tokenizer; put its files into the folder")

        def draw(prompts, n, most, **how):
            return [r for at in range(0, len(prompts), rows) for r in sample(loaded.model, prompts[at : at + rows], n, most, **how)]

    return chat_writer(draw, tokenizer, cap, temperature)


def chat_writer(draw: Callable, tokenizer, cap: int, temperature: float) -> Writer:
    """draw: as `common.reasoning.rollouts.sample` without its model."""
    def write(asked: Sequence[tuple[str, str]], attempt: int) -> list[str]:
        prompts = []
        for message, begun in asked:
            text = tokenizer.apply_chat_template([{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True,
                                                 enable_thinking=False)
            prompts.append(tokenizer.encode(text + begun, add_special_tokens=False))
        found = draw(prompts, 1, cap, end=tokenizer.eos_token_id, temperature=temperature,
                     generator=torch.Generator().manual_seed(attempt)) if prompts else []
        return [tokenizer.decode([t for t in r.ids if t != tokenizer.eos_token_id], skip_special_tokens=False) for r in found]

    return write
