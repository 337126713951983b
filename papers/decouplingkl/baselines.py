"""What the four cells are compared with: other teachers that must teach nothing of use, and an ordinary SFT.

    shuffled    the teacher's own distributions with the vocabulary permuted: as sharp, as long, and wrong
    itself      the student as its own teacher: loss and gradient are exactly 0, for every lam and every prefix

Plain SFT on the teacher's text is the cell TF with `estimator="sampled"` (hard labels); the student before any training is the no-op.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from common.errors import ModelError


def shuffled(teacher: nn.Module, seed: int = 0, keep: tuple[int, ...] = ()) -> nn.Module:
    """A copy whose logits are those of `teacher` with the tokens exchanged by lot; `keep`: tokens that stay (the ends of a response).

    Raises ModelError for a model without an output embedding of its own kind (a linear layer).
    """
    found = copy.deepcopy(teacher)
    head = found.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ModelError(f"shuffled: {type(teacher).__name__} has no linear layer that gives its logits, whose rows could be exchanged")
    V = head.weight.shape[0]
    movable = torch.tensor([v for v in range(V) if v not in keep])
    order = torch.arange(V)
    order[movable] = movable[torch.randperm(len(movable), generator=torch.Generator().manual_seed(seed))]
    own = nn.Linear(head.in_features, V, bias=head.bias is not None, dtype=head.weight.dtype, device=head.weight.device)
    with torch.no_grad():
        own.weight.copy_(head.weight[order])
        if head.bias is not None:
            own.bias.copy_(head.bias[order])
    found.config.tie_word_embeddings = False  # the embedding that is read stays as it was
    found.set_output_embeddings(own)
    return found.eval().requires_grad_(False)


def itself(student: nn.Module) -> nn.Module:
    """A frozen copy of the student."""
    return copy.deepcopy(student).eval().requires_grad_(False)
