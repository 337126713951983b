"""The text that static pruning is calibrated on, and the model that must be left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .gating import is_routed
from .losses import lm_loss


class Text:
    """Calibration windows, checked. tokens: real ones; targets: those that the one before them predicts."""

    def __init__(self, ids: Tensor, mask: Tensor | None):
        if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
            raise ValueError(f"calibration text is {_shape(ids)}; it must be token ids (N, S), integers")
        mask = torch.ones_like(ids) if mask is None else mask
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask is {_shape(mask)}, calibration text {_shape(ids)}: they must agree")
        self.ids, self.mask = ids, (mask != 0).long().to(ids.device)
        self.tokens = int(self.mask.sum())
        self.targets = int((self.mask[:, 1:] & self.mask[:, :-1]).sum())
        if not self.targets:
            raise ValueError(
                f"calibration text {_shape(ids)} has {self.tokens} real tokens and none to predict; it needs "
                "windows (N, S) with N >= 1 and at least two real tokens in a row"
            )

    def batches(self, size: int, device) -> Iterator[dict[str, Tensor]]:
        for ids, mask in zip(self.ids.split(size), self.mask.split(size)):
            yield {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _shape(value) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode afterwards. Refuses a model whose routers would decide too."""
    if is_routed(model):
        raise RuntimeError("static pruning is calibrated on the stock model: call remove_skipgpt(model) first")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def loss_sum(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return lm_loss(model(**batch, use_cache=False).logits, batch)
