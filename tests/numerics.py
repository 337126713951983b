"""Closeness relative to the size of the values, for equalities that hold in theory and are computed in floating point.

An absolute tolerance passes on one processor and fails on the next, whose kernels add in another order. So: both sides in
float64 where that can be had, and the difference held against the largest value of the reference.
"""

from __future__ import annotations

import importlib
import random
import sys
from contextlib import contextmanager

import pytest
import torch

from common import models

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "phi3", "mixtral", "qwen3_moe", "hunyuan_v1_dense", "diffllama", "smollm3", "glm4",
            "gpt_neox", "falcon_h1")


def drawn(*path, low: float = 0.2, high: float = 0.8) -> float:
    """A number that belongs to `path` (printable) alone: in results that are made up of such, whoever reads the wrong entry is seen."""
    return random.Random(repr(path)).uniform(low, high)


def _difference(ours, reference) -> tuple[float, float]:
    """(largest difference, largest value of the reference). Infinite and NaN entries must agree in place and sign."""
    # Plain numbers have double precision, which a tensor made of them without a dtype would round away.
    a, b = (x.detach().to("cpu", torch.float64) if torch.is_tensor(x) else torch.tensor(x, dtype=torch.float64) for x in (ours, reference))
    assert a.shape == b.shape, f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    assert torch.equal(a.isnan(), b.isnan()) and torch.equal(a.isinf(), b.isinf()), "not finite in different places"
    assert torch.equal(a[a.isinf()], b[b.isinf()]), "infinities of different sign"
    finite = b.isfinite()
    a, b = a[finite], b[finite]
    return ((a - b).abs().max().item(), b.abs().max().item()) if len(b) else (0.0, 0.0)


def close(ours, reference, rel: float = 1e-9) -> None:
    """Asserts max |ours - reference| <= rel * max |reference|; both are tensors, numbers or lists of the same shape."""
    difference, size = _difference(ours, reference)
    assert difference <= rel * size, f"off by {difference:.3g} where values reach {size:.3g}, so by more than {rel:.3g} of that"


def far(ours, reference, rel: float = 1e-2) -> None:
    """Asserts that two things differ, by more than rel of the largest value of the reference."""
    difference, size = _difference(ours, reference)
    assert difference > rel * size, f"off by only {difference:.3g}, where values reach {size:.3g}; expected more than {rel:.3g}"


class _DoubleTorch:
    """torch, but for the meaning of one dtype's two names."""

    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


SINGLE, DOUBLE = (torch, torch.Tensor.float, torch.float32), (_DoubleTorch(), torch.Tensor.double, torch.float64)
COMPUTES = ("transformers.models.", "transformers.integrations.", "transformers.generation.", "common.", "papers.")


@contextmanager
def _arithmetic(stand_in, convert, dtype):
    before, known = torch.get_default_dtype(), (SINGLE[0], DOUBLE[0])
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith(COMPUTES) and ".tests." not in name and any(vars(module).get("torch") is each for each in known):
                patch.setattr(module, "torch", stand_in)
        patch.setattr(torch.Tensor, "float", convert)
        patch.setitem(models.DTYPES, "float32", dtype)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def float64():
    """A context in which all that would be fp32 is float64, models that are loaded in it included.

    `model.double()` is not enough: the norms, rotations and eager softmaxes of transformers, and losses, ask for fp32 whatever
    the model's dtype, and leave roundings of 1e-7 in every layer, others on each processor. Here what their modules call
    `torch.float32` or `torch.float`, and `Tensor.float()`, is float64; torch itself stays as it is. Import a model's module
    before: one that is imported later keeps its fp32 (see FAMILIES).
    """
    for family in FAMILIES:
        importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    return _arithmetic(*DOUBLE)


def float32():
    """Within `float64()`, a context in which fp32 is fp32: for what is about number formats."""
    return _arithmetic(*SINGLE)


def truly_double(model):
    """Stock norms and rotary angles are computed in single precision whatever they are given, which hides or makes differences
    of 1e-7: here in the precision that they are given."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = lambda x, m=module: m.weight * x * (x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon).rsqrt()
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.forward = lambda x, position_ids, m=module: _rotations(m, x, position_ids)
    return model


def _rotations(rotary, x, position_ids):
    """(cos, sin), each (B, T, hd), of plain rotary positions."""
    angles = position_ids[..., None].to(x.dtype) * rotary.inv_freq.to(x.dtype)
    angles = torch.cat([angles, angles], -1)
    return angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
