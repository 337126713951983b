"""From the name of a family to its tiny random model."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from .decoders import DECODERS, WORDS, Family
from .pictures import PICTURES

FAMILIES: dict[str, Family] = {**DECODERS, **PICTURES}


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A model of the family, in eval mode, with weights drawn from `seed`. Raises KeyError for a name that is not in FAMILIES.

    A matrix has entries of deviation 1/√(inputs), a vector (a bias, the weight of a norm) moves by a tenth from its initial
    value, so that what a part reads changes what it writes by about its own size. Experts are computed one after the other:
    the fast kernel knows no float64. Torch's generator is left as it was.
    """
    family = FAMILIES[name]
    kind = AutoModelForCausalLM if family.pixels is None else AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = kind.from_config(family.config(), experts_implementation="eager").to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() < 2:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
                else:
                    parameter.normal_(0.0, parameter[0].numel() ** -0.5)
    return model.eval()


def text_ids(rows: int = 2, length: int = 12, seed: int = 0) -> torch.Tensor:
    """Random ids of a text without padding, (rows, length)."""
    return torch.randint(WORDS.start, WORDS.stop, (rows, length), generator=torch.Generator().manual_seed(seed))
