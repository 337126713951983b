"""A test's whole arithmetic in float64: what is equal in theory is then equal to twelve digits, on every processor.

`model.double()` is not enough. The norms, the rotation and the eager softmax of `transformers`, the routers and the losses
compute in fp32 whatever the model's dtype, and so leave roundings of 1e-7 in every layer, others on each processor. In
`float64()` what these modules call `torch.float32`, and `Tensor.float()`, is float64; torch itself stays as it is.
"""

import importlib
import sys
from contextlib import contextmanager

import pytest
import torch

from common import models

REL = 1e-12  # of the largest value: far above float64's roundings in a tiny model, far below any mistake
FAMILIES = ("llama", "qwen3", "gemma2", "mixtral", "qwen3_moe", "hunyuan_v1_dense", "diffllama", "smollm3", "phi3", "glm4")
CONCERNED = ("transformers.models.", "transformers.integrations.", "transformers.generation.", __package__.rpartition(".")[0] + ".")

for family in FAMILIES:  # before any of them is asked for: a module that is imported later would keep its fp32
    importlib.import_module(f"transformers.models.{family}.modeling_{family}")


class _Torch:
    """torch, but for the meaning of one name."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


SINGLE, DOUBLE = (torch, torch.Tensor.float, torch.float32), (_Torch(), torch.Tensor.double, torch.float64)


@contextmanager
def _arithmetic(stand_in, convert, dtype):
    default, known = torch.get_default_dtype(), (SINGLE[0], DOUBLE[0])
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith(CONCERNED) and name != __name__ and any(vars(module).get("torch") is each for each in known):
                patch.setattr(module, "torch", stand_in)
        patch.setattr(torch.Tensor, "float", convert)
        patch.setitem(models.DTYPES, "float32", dtype)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def float64():
    """A context in which all that would be fp32 is float64, models that are loaded in it included."""
    return _arithmetic(*DOUBLE)


def float32():
    """Within `float64()`, a context in which fp32 is fp32: for what is about number formats."""
    return _arithmetic(*SINGLE)
