"""Position re-encoding, the baseline that moves the target's ids at each READ: cached keys are turned, or queries are.

Ids "as if a batch at every moment" would move all target keys at each READ. Rotary scores depend on id differences only, and
R(a) R(b) = R(a + b). In decoding cached target keys are turned by what was read (`rotate`). Over a whole sequence the keys stay,
the target counts from 0, and a query looks at the source from position visible[t] + t and at the target from t
(`two_frame_attention`). Both need to know how a layer's keys turn: which entries are pairs, and by which frequencies. That is
measured (`turns`): a token alone attends to itself, whatever its id, so its cached keys at two ids differ by the rotation and
by nothing else, in every layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from common.errors import ModelError
from common.probe import change, in_use, measurable, once, rounding

TWO_FRAMES = "gpe_two_frames"


class Turn(NamedTuple):
    """How a layer's keys (..., head size) turn with their ids.

    frequencies (n,): of the pairs; n = 0 in a layer without rotary positions. start: first of the 2 n entries that turn.
    interleaved: pairs are neighbours; else entry i and entry i + n.
    """

    frequencies: Tensor
    start: int = 0
    interleaved: bool = False


def rotation(shift: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
    """cos and sin (..., 2 n) that move rotary vectors by `shift` positions."""
    angle = shift[..., None].float() * turn.frequencies
    angle = angle.repeat_interleave(2, -1) if turn.interleaved else torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, turn: Turn) -> Tensor:
    """x (..., head size) with the entries of `turn` turned, and the rest as it is."""
    n, end = len(turn.frequencies), turn.start + 2 * len(turn.frequencies)
    moved = x[..., turn.start : end]
    if turn.interleaved:
        halves = torch.stack([-moved[..., 1::2], moved[..., ::2]], -1).flatten(-2)
    else:
        halves = torch.cat([-moved[..., n:], moved[..., :n]], -1)
    return torch.cat([x[..., : turn.start], (moved * cos + halves * sin).to(x.dtype), x[..., end:]], -1)


# -- how keys turn, measured -------------------------------------------------------------------------------
SHIFTS = (1, 29)


def turns_of(model: nn.Module) -> list[Turn]:
    """`turns`, measured once for each model."""
    return once(model, "turns of cached keys", turns)


def turns(model: nn.Module) -> list[Turn]:
    """Of each layer, how its cached keys turn with their ids. Raises ModelError for a layer whose keys do not."""
    kind, device = type(model).__name__, next(model.parameters()).device
    found = [(name, tensor) for name, tensor in model.get_decoder().named_buffers()
             if name.endswith("inv_freq") and "original" not in name and tensor.dim() == 1]
    sets = [way * tensor for tensor in {tuple(tensor.tolist()): tensor for _, tensor in found}.values() for way in (1, -1)]
    subject = measurable(model)
    tolerance = 1e-4 if subject.dtype in (torch.float32, torch.float64) else 4 * rounding(subject)
    with in_use(subject), own_attention(subject):
        alone = [_alone(subject, shift, device) for shift in (0, *SHIFTS)]
    result = []
    for layer, states in enumerate(zip(*alone)):
        keys, values = zip(*states)
        if any(change(moved, values[0]) > tolerance for moved in values[1:]):
            raise ModelError(f"{kind} caches its rotary part among the values of layer {layer}, and position re-encoding turns cached "
                             "keys; every arm but position_reencoding runs on it")
        fits = (turn for turn in _possible(sets, keys[0].shape[-1], device)
                if all(change(rotate(keys[0], *rotation(torch.tensor(shift, device=device), turn), turn), moved) < tolerance
                       for shift, moved in zip(SHIFTS, keys[1:])))
        if (turn := next(fits, None)) is None:
            raise ModelError(f"{kind}: the cached keys of layer {layer} are not turned by their ids alone (no rotary positions, or "
                             "a norm or scale after them), and position re-encoding turns cached keys; every arm but "
                             "position_reencoding may still run on it")
        result.append(turn)
    return result


def _alone(model: nn.Module, position: int, device) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer of four tokens, each a row of its own, at that id."""
    from transformers import DynamicCache

    cache, size = DynamicCache(), model.get_input_embeddings().num_embeddings
    tokens = (torch.linspace(1, size - 1, 4).long() % size)[:, None].to(device)
    model(input_ids=tokens, position_ids=torch.full_like(tokens, position), past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def _possible(sets: Sequence[Tensor], size: int, device) -> Iterator[Turn]:
    yield Turn(torch.zeros(0, device=device))
    for frequencies in sets:
        for start in sorted({0, size - 2 * len(frequencies)}):
            if start >= 0:
                yield Turn(frequencies, start)
                yield Turn(frequencies, start, interleaved=True)


# -- the target in two frames ------------------------------------------------------------------------------
def two_frame_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor,
                        scaling: float | None = None, dropout: float = 0.0, frame_shift: Tensor | None = None,
                        frame_source: Tensor | None = None, frame_turns: Sequence[Turn] | None = None,
                        softcap: float | None = None, **kwargs):
    """Scores <R(shift) q, k> for source keys and <q, k> for target keys, one softmax.

    query (B, H, Q, h), key, value (B, K, N, h). frame_shift (B, Q): visible[t] of target rows, 0 of source rows.
    frame_source (B, N) or (N,): True where the column is source. frame_turns: of each layer. softcap: of models that bound
    their scores (Gemma-2). One product of twice the head size.
    """
    if frame_shift is None or frame_source is None or frame_turns is None:
        raise ModelError(f"{type(module).__name__} is in a layer that hands no keyword arguments on to its attention, and "
                         "position re-encoding over a whole sequence needs them; every arm but position_reencoding runs on it")
    turn = frame_turns[module.layer_idx]
    cos, sin = rotation(frame_shift, turn)
    moved = rotate(query, cos[:, None], sin[:, None], turn)
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    source = torch.atleast_2d(frame_source)[:, None, :, None]
    keys = torch.cat([key * source, key * ~source], -1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    queries = torch.cat([moved, query], -1)
    if softcap is None:
        out = F.scaled_dot_product_attention(queries, keys, value, attn_mask=attention_mask, dropout_p=dropout, scale=scale)
    else:
        scores = softcap * torch.tanh(queries @ keys.transpose(-1, -2) * scale / softcap)
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        out = F.dropout(scores.softmax(-1, dtype=torch.float32).to(value.dtype), dropout) @ value
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(TWO_FRAMES, two_frame_attention)
AttentionMaskInterface.register(TWO_FRAMES, sdpa_mask)  # without it transformers hands on no mask at all


@contextlib.contextmanager
def in_two_frames(model: nn.Module) -> Iterator[None]:
    """The decoder attends by `two_frame_attention`; its own attention is put back, and that of other parts is never touched."""
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    config._attn_implementation = TWO_FRAMES
    try:
        yield
    finally:
        config._attn_implementation = before


@contextlib.contextmanager
def own_attention(model: nn.Module) -> Iterator[None]:
    """Plain passes of a model that may have been left in two frames, as a training with gradient checkpointing leaves it."""
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    config._attn_implementation = "eager" if before == TWO_FRAMES else before  # which every model has
    try:
        yield
    finally:
        config._attn_implementation = before
