"""What ProactiveLLM assumes of a stock decoder, measured on eight tokens, once for each model, and not read from its name.

    apart      a row's logits do not change with a source token that its path hides, and do with one that it shows
    ids        they change when the two streams' ids are moved against each other, and do not when all ids move alike
    decoding   read and fed unit by unit out of the cache of two parts, a probe taken back in between, they are those of one pass

What is refused says which property is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.probe import change, in_use, measurable, once, rounding
from common.streaming.caches import LayersError, attention_window
from common.streaming.two_streams import TwoStreams

SOURCE, TARGET, HIDDEN = 4, 3, 2  # tokens; of the source the first row sees all but the last HIDDEN


class Pass(NamedTuple):
    """What is measured: functions of method.py, which knows this file and not the other way round."""

    forward: Callable[..., Tensor]
    batch: Callable[..., Any]


def check(model: nn.Module, paper: Pass) -> None:
    """Raises ModelError naming the property that the model lacks."""
    config, kind = model.config.get_text_config(decoder=True), type(model).__name__
    if config._attn_implementation not in ("sdpa", "eager"):
        raise ModelError(f"{kind} uses attention {config._attn_implementation!r}, which takes no mask of source and target: load it with "
                         "attn_implementation sdpa or eager")
    try:
        window = attention_window(config)
    except LayersError as error:
        raise ModelError(str(error)) from error
    if window is not None and window < SOURCE + TARGET:
        raise ModelError(f"{kind}: its sliding layers see {window} columns (config.sliding_window), less than source and target together")
    rope = getattr(config, "rope_parameters", None) or {}
    if "mrope_section" in rope:
        raise ModelError(f"{kind} counts positions in three dimensions (rope_parameters.mrope_section); source and target count in one "
                         "each: take a decoder with plain rotary positions")
    once(model, "proactivellm", lambda subject: _measure(subject, paper, kind))


def within(model: nn.Module, source: int, target: int) -> None:
    """Raises ModelError for more tokens than sliding layers see together (a mask that is handed over whole lifts their window, silently),
    or for one of the two longer than the model has positions: a table of them ends, and rotary ones go on where nothing was learnt."""
    columns, room = source + target, positions(model)
    if room is not None and max(source, target) > room:
        raise ModelError(f"a source of {source} tokens and a target of {target}, each of which counts its own positions, and this model "
                         f"has {room} (config.max_position_embeddings): shorten the stream, or the answer")
    try:
        window = attention_window(model.config)
    except LayersError as error:
        raise ModelError(str(error)) from error
    if window is not None and columns > window:
        raise ModelError(f"source and target have {columns} tokens together; this model's sliding layers see {window} columns "
                         "(config.sliding_window): shorten the stream")


def positions(model: nn.Module) -> int | None:
    """Positions that a stream can have; None where the config names no end."""
    room = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return room if isinstance(room, int) and room > 0 else None


def _measure(model: nn.Module, paper: Pass, kind: str) -> None:
    subject = measurable(model)
    with in_use(subject):
        try:
            problem = _problem(subject, paper)
        except (ModelError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a pass that was not made for this raises
            first = str(error).strip().partition("\n")[0]
            raise ModelError(f"{kind}: a pass with a mask of four dimensions, position ids and a cache ends in {type(error).__name__} "
                             f"({first[:160]}); a decoder that takes all three is needed") from error
    if problem:
        raise ModelError(f"{kind}: {problem}")


def _problem(model: nn.Module, paper: Pass) -> str | None:
    size, device = model.get_input_embeddings().num_embeddings, next(model.parameters()).device
    tokens = (1 + torch.arange(SOURCE + TARGET, device=device) * max(1, (size - 1) // 8)) % size
    source, target = tokens[None, :SOURCE], tokens[None, SOURCE:]
    visible = torch.tensor([[SOURCE - HIDDEN, SOURCE - 1, SOURCE]], device=device)

    def logits(source: Tensor) -> Tensor:
        lengths = torch.tensor([SOURCE], device=device), torch.tensor([TARGET], device=device)
        return paper.forward(model, paper.batch(source, target, visible, *lengths, torch.ones_like(target, dtype=torch.bool)))[0].float()

    def changed(place: int) -> Tensor:
        other = source.clone()
        other[0, place] = (other[0, place] + 1) % size
        return logits(other)

    small, base = 64 * rounding(model), logits(source)
    shows = change(changed(0)[0], base[0])
    if shows <= small:
        return "what a row may see of the source changes nothing in its logits: its attention does not read the mask or the source"
    if change(changed(SOURCE - 1)[0], base[0]) > small + 1e-3 * shows:
        return ("a source token that the mask hides changes the logits: convolutions, recurrences or a bias of its own carry it past the "
                "mask, and what is not read yet would be known")
    streams = TwoStreams(model)
    rows = []
    for i, token in enumerate(target[0].tolist()):
        streams.read(source[0, int(visible[0, i - 1]) if i else 0 : int(visible[0, i])])
        if not i:  # a failed probe
            streams.feed([target[0, 1].item()])
            streams.take_back(1)
        rows.append(streams.feed([token])[0].float())
    if change(torch.stack(rows), base) > small + 1e-2 * shows:
        return ("unit by unit out of the cache the logits are not those of one masked pass: its cache keeps something of the order in "
                "which tokens came")
    return None
