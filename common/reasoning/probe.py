"""Does a model sample and score as `rollouts.py` does it? A numeric probe, once for a model, before any work.

What is relied on, each compared with the plain pass over one row without a cache:

    the cache       a token that is fed behind what was read is predicted as if all were read at once; rows can be copied
    left padding    a row behind pads, with its mask and positions, is predicted as if it were alone
    right padding   pads behind a row, without any mask, change nothing in it: no token looks ahead

`check_model(model)` refuses a model by the property that it lacks. Some 30 tokens are read: under a second for a small model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..benchmarks.perplexity import eval_mode
from ..errors import ModelError
from . import rollouts

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}  # of the largest logit; half precision rounds by hundredths
LACKS = {
    "cache": "its cache: a token that is fed behind others is not predicted as in one pass",
    "left": "left padding: a row behind pads is not predicted as it is alone, though mask and positions say where it begins",
    "right": "tokens that look ahead: what stands behind a row changes what is predicted in it",
}


@torch.no_grad()
def check_model(model) -> None:
    """Raises ModelError, which names the property, for a model whose samples or log-probabilities would not be its own."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(1)
    long, short = (torch.randint(min(3, vocabulary - 1), vocabulary, (n,), generator=draw).tolist() for n in (7, 4))
    takes = rollouts.forward_names(model)
    with eval_mode(model):
        alone = [_plain(model, row, device) for row in (long, short)]  # (T, V) of each
        _compare("right", model, _plain(model, short + long[:3], device)[: len(short)], alone[1])
        _compare("cache", model, *_sampled(model, takes, [long[:-2]], [long[-2:]], alone[:1], device))
        _compare("left", model, *_sampled(model, takes, [long[:-2], short[:-2]], [long[-2:], short[-2:]], alone, device))


def _plain(model, ids: list[int], device) -> Tensor:
    return model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0].float()


def _sampled(model, takes: set, prompts: list, rest: list, alone: list[Tensor], device) -> tuple[Tensor, Tensor]:
    """Logits of the last prompt token and of the tokens behind it, one after the other by the cache; and those of the plain pass."""
    steps = len(rest[0])
    cache, logits, mask = rollouts._read(model, takes, prompts, steps, device)
    cache.batch_select_indices(torch.arange(len(prompts), device=device))
    width, position = mask.shape[1] - steps, mask[:, : mask.shape[1] - steps].sum(1)
    found = [logits]
    for t in range(steps):
        inputs = {"input_ids": torch.tensor([[row[t]] for row in rest], device=device),
                  "attention_mask": mask[:, : width + t + 1] if len(prompts) > 1 else None}
        if "position_ids" in takes:
            inputs["position_ids"] = position[:, None] + t
        found.append(model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1])
    return torch.stack(found, 1).float(), torch.stack([a[-steps - 1 :] for a in alone])


def _compare(what: str, model, ours: Tensor, theirs: Tensor) -> None:
    scale = float(theirs.abs().max()) or 1.0
    gap = float((ours - theirs).abs().max()) / scale
    allowed = TOLERANCE.get(next(model.parameters()).dtype, 0.1)
    if not gap <= allowed:  # a nan is refused, too
        raise ModelError(f"{LACKS[what]} ({type(model).__name__}, logits off by {gap:.2g} of the largest); sampling and scoring of "
                         "common/reasoning/rollouts.py would be wrong, so use another model")
