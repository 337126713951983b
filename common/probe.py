"""What a method assumes of a model, measured on a few tokens, once for each model, and not read from its name.

    def measure(model):                      # raises ModelError: which property is missing; or returns what it measured
        with in_use(model):
            ...
    once(model, "streaming", measure)        # measured again only after the weights, their dtype or the attention have changed

A measurement is held against another one, never against a number of its own: what must not change against what does change
when it should, or against the rounding of the model's dtype. A random model of width 32 moves its logits by 1e-4 where a
trained one moves them by 1, and both are right or wrong.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ModelError

_REMEMBERED: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, tuple[tuple, Any, str | None]]] = weakref.WeakKeyDictionary()
SMALL = 50_000_000  # parameters: below it a copy in single precision costs nothing


def once(model: nn.Module, key: Hashable, measure: Callable[[nn.Module], Any]) -> Any:
    """measure(model), remembered for this key; so is its refusal (ModelError), which is raised again.

    While a model trains, its weights change at every step and what it is does not: measured once. In eval mode it is measured
    again after the weights have changed. Adapters of peft are looked through: the model below them is the one that is meant.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = _REMEMBERED.setdefault(model, {})
    config, first = model.config.get_text_config(decoder=True), next(model.parameters())
    state = (first.dtype, first.device, config._attn_implementation)
    version = None if model.training else _version(model)
    if key in known:
        (old_state, old_version), value, refusal = known[key]
        if old_state == state and (version is None or version == old_version):
            if refusal is not None:
                raise ModelError(refusal)
            return value
    try:
        value = measure(model)
    except ModelError as error:
        known[key] = ((state, version), None, str(error))
        raise
    known[key] = ((state, version), value, None)
    return value


def _version(model: nn.Module) -> int:
    """Grows with every change of a weight in place."""
    return sum(0 if p.is_inference() else p._version for p in model.parameters())


@contextlib.contextmanager
def in_use(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients, and without autocast, whose rounding is coarser than the weights'; modes are put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(next(model.parameters()).device.type, enabled=False):
            yield
    finally:
        for module, training in modes:
            module.training = training


def measurable(model: nn.Module) -> nn.Module:
    """The model, or a copy in single precision of a small one whose own rounding would hide what is measured."""
    if model.dtype in (torch.float16, torch.bfloat16) and sum(p.numel() for p in model.parameters()) < SMALL:
        return copy.deepcopy(model).float()
    return model


def change(ours: Tensor, reference: Tensor) -> float:
    """Largest difference of two tensors in units of the reference's largest value; infinite where either is not finite."""
    ours, reference = ours.double(), reference.double()
    if not (ours.isfinite().all() and reference.isfinite().all()):
        return float("inf")
    return ((ours - reference).abs().max() / reference.abs().max().clamp(min=1e-300)).item()


def rounding(model: nn.Module) -> float:
    """Relative rounding of one operation: of the model's dtype, and of single precision where that is finer, in which norms and
    rotations are computed whatever the model's dtype."""
    return max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)
