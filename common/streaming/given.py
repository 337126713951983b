"""What a live stream is given, looked at before a model sees it: a mistake there gives other words, without a sign."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def check_count(name: str, value: object, least: int, more: str = "") -> None:
    """Raises ValueError unless value is a whole number from `least` on; more: what else may be given, in words."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise ValueError(f"{name} = {value!r}: a whole number, {least} or more{more}")


def tokens(what: str, unit: Sequence[int] | Tensor, model: nn.Module, or_embeddings: bool = True) -> Tensor:
    """The unit as ids (n,) int64, or embeddings (n, width). Raises ValueError for anything else: an id without a row is an error without
    a name on a CPU, and on a GPU the end of the process."""
    try:
        found = torch.as_tensor(unit)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{what}: token ids or embeddings, and no {type(unit).__name__} ({error})") from error
    table, shape = model.get_input_embeddings(), tuple(found.shape)
    if not found.numel():
        raise ValueError(f"{what}: a unit without tokens; it needs one at least")
    if found.is_floating_point() and or_embeddings:
        if shape[1:] != (table.embedding_dim,) or not found.isfinite().all():
            raise ValueError(f"{what}: embeddings of shape {shape}, where this model takes (tokens, {table.embedding_dim}), all finite")
        return found
    if len(shape) != 1 or found.dtype == torch.bool or found.is_floating_point() or found.is_complex():
        raise ValueError(f"{what}: {found.dtype} of shape {shape}, where token ids are whole numbers in a row")
    found = found.long()
    if (wrong := found[(found < 0) | (found >= table.num_embeddings)]).numel():
        raise ValueError(f"{what}: token id {int(wrong[0])}, where this model has embeddings of 0 to {table.num_embeddings - 1}: the "
                         "tokenizer is of another one, or the embedding was not resized")
    return found
