"""Training and eval mode of a model: whoever measures or answers with one leaves each of its parts as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every part in eval mode, then each as it was: a frozen part may differ from the rest. Costs nothing where all are."""
    learning = [module for module in model.modules() if module.training]
    for module in learning:
        module.training = False
    try:
        yield
    finally:
        for module in learning:
            module.training = True
