"""Perplexity of a text, defined so that two numbers can be compared.

The text is one stream of tokens, cut into windows that do not overlap. Each is read from nothing:
its first token has no context and is not scored. The last one may be shorter and is scored too.

    ppl        = exp(sum of NLL / scored tokens)                depends on the tokenizer
    word_ppl   = exp(mean NLL per token * tokens per word)      does not

The result carries the NLL of every window: two models on one text are compared window by window.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.text import Text, read_text
from ..errors import DataError, ModelError, TaskError

__all__ = ["Text", "eval_mode", "read_text", "text_perplexity", "token_perplexity"]


@torch.no_grad()
def token_perplexity(model, ids: Tensor, window: int, batch_size: int = 1, n_words: int | None = None) -> dict:
    """ids (n,) of one text, or (N, window) cut before -> perplexity, and nats of each window.

    n_words: words of the text that ids encode, for word_ppl. The model is run in eval mode and put
    back; the attention mask is always given. TaskError for fewer than two tokens, or windows that are longer than the model's
    positions (where there are learnt ones it would crash, and with others read what it was never trained for); ModelError for a
    loss that is not finite.
    """
    if window < 2 or batch_size < 1 or ids.numel() < 2:
        raise TaskError(f"{ids.numel()} tokens in windows of {window}, {batch_size} at a time: nothing has a context.")
    rows = list(ids) if ids.dim() == 2 else list(ids.split(window))
    rows = [row for row in rows if len(row) > 1]
    room, longest = positions(model), max(map(len, rows), default=0)
    if room is not None and longest > room:
        raise TaskError(f"windows of {longest} tokens are longer than the {room} positions of {type(model).__name__} "
                        f"(config.max_position_embeddings): take a window of {room} or less.")
    if not rows:
        raise TaskError(f"{ids.numel()} tokens in rows of one: nothing has a context.")
    if n_words is not None and n_words < 1:
        raise DataError("the text has no words, so that there is no perplexity of a word.")
    device = next(model.parameters()).device
    nll: list[float] = []
    with eval_mode(model):
        for start in range(0, len(rows), batch_size):
            nll += _windows_nll(model, rows[start : start + batch_size], device)
    tokens = [len(row) - 1 for row in rows]
    total = math.fsum(nll) if all(map(math.isfinite, nll)) else math.nan
    if not math.isfinite(total):
        bad = next(i for i, value in enumerate(nll) if not math.isfinite(value))
        raise ModelError(f"The loss of window {bad} is {nll[bad]} (dtype {next(model.parameters()).dtype}): in float16 a number that grew "
                         "too large, else weights that are none. Load it in float32 or bfloat16, or look at the training it is from.")
    result = {
        "ppl": _exp(total / sum(tokens)),
        "nll_sum": total,
        "n_tokens": sum(tokens),
        "n_windows": len(rows),
        "window": window,
        "batch_size": batch_size,
        "scored": "all tokens of each window but its first; windows do not overlap",
        "window_nll": nll,
        "window_tokens": tokens,
    }
    if n_words is not None:
        result["n_words"] = n_words
        result["word_ppl"] = _exp(total / sum(tokens) * ids.numel() / n_words)
    return result


def text_perplexity(model, tokenizer, text: Text, window: int, batch_size: int = 1) -> dict:
    """token_perplexity of a whole text, tokenized at once as the tokenizer does by default (Llama:
    one start token, before the text). The result adds the text's definition."""
    ids = tokenizer(text.text, return_tensors="pt")["input_ids"][0]
    result = token_perplexity(model, ids, window, batch_size, n_words=text.n_words)
    return result | {"text": text.definition}


def positions(model) -> int | None:
    """How many positions the model has; None where nothing bounds them (a recurrent state, ALiBi)."""
    config: Any = getattr(model, "config", None)
    bound = getattr(config.get_text_config() if hasattr(config, "get_text_config") else config, "max_position_embeddings", None)
    return bound if isinstance(bound, int) and bound > 0 else None


@contextlib.contextmanager
def eval_mode(model) -> Iterator[None]:
    """Everything in eval mode, then each part as it was: a frozen part may differ from the rest."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _windows_nll(model, rows: list[Tensor], device: torch.device) -> list[float]:
    longest = max(map(len, rows))
    batch = torch.zeros(len(rows), longest, dtype=torch.long)  # 0: any id, it is masked
    mask = torch.zeros_like(batch)
    for i, row in enumerate(rows):
        batch[i, : len(row)] = row
        mask[i, : len(row)] = 1
    batch, mask = batch.to(device), mask.to(device)
    logits = model(input_ids=batch, attention_mask=mask, use_cache=False).logits  # (B, T, V)
    return [
        # row by row: a float32 copy of one row's logits at a time
        F.cross_entropy(logits[i, : len(row) - 1].float(), batch[i, 1 : len(row)], reduction="sum").double().item()
        for i, row in enumerate(rows)
    ]


def _exp(nats: float) -> float | None:
    """None where a broken model's perplexity is beyond a float; JSON has no infinity."""
    return math.exp(nats) if nats < 700 else None
