"""The language-model loss of a wide vocabulary, a few rows of logits at a time: 262,144 words make 1,024 tokens' logits a gigabyte,
and the loss of stock code keeps four of them.

    l_t = log sum_v exp(h_t · w_v) - h_t · w_{y_t}          dl_t / dh_t = (softmax(W h_t) - e_{y_t}) W

The head is frozen wherever this is used, so the gradient towards the state follows while the rows are there, and nothing has to be
kept or computed again: exact, at the cost of two products with W, as stock code has. (torch 2.13 has linear_cross_entropy, whose
gradients include the head's; 2.11 has not.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import UnfitModel, find_stack

ROWS = 128  # tokens whose logits are there at once: 134 MB for 262,144 words


class _HeadLoss(torch.autograd.Function):
    """(states (N, d), head (V, d), targets (N,)) -> losses (N,) in fp32."""

    @staticmethod
    def forward(ctx, states: Tensor, head: Tensor, targets: Tensor, rows: int) -> Tensor:
        losses, gradients = [], []
        for h, y in zip(states.split(rows), targets.split(rows)):
            logits = F.linear(h, head)
            logits = logits.float() if logits.dtype != torch.float64 else logits
            most = logits.logsumexp(-1, keepdim=True)
            losses.append((most - logits.gather(-1, y[:, None]))[:, 0])
            if ctx.needs_input_grad[0]:
                slope = logits.sub_(most).exp_()
                slope[torch.arange(len(y), device=y.device), y] -= 1
                gradients.append(slope.to(head.dtype) @ head)
        ctx.gradient = torch.cat(gradients) if gradients else None
        return torch.cat(losses)

    @staticmethod
    def backward(ctx, upstream: Tensor):
        return (upstream[:, None] * ctx.gradient).to(ctx.gradient.dtype), None, None, None


def token_losses(model: nn.Module, ids: Tensor, rows: int = ROWS) -> Tensor:
    """Next-token cross-entropies (B, S-1) of unpadded ids (B, S): those of `tuning.token_losses`, with `rows` rows of logits at once.

    For a model that `check` lets pass. Raises ValueError if the head learns.
    """
    head = (model.get_base_model() if hasattr(model, "get_base_model") else model).get_output_embeddings().weight  # through PEFT
    if head.requires_grad and torch.is_grad_enabled():
        raise ValueError("chunked loss: the head learns, and its gradient is not made here; freeze it (requires_grad_(False))")
    states = find_stack(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state[:, :-1]
    return _HeadLoss.apply(states.flatten(0, 1), head, ids[:, 1:].flatten(), rows).view(len(ids), -1)


@torch.no_grad()
def evaluate(model: nn.Module, ids: Tensor, batch_size: int = 8) -> Tensor:
    """Token losses (N, S-1) of ids (N, S) in eval mode."""
    model.eval()
    return torch.cat([token_losses(model, part) for part in ids.split(batch_size)])


@torch.no_grad()
def check(model: nn.Module) -> None:
    """Two tokens through a stock model and its head: raises UnfitModel where the logits are more than the head's product with the state."""
    head, training = model.get_output_embeddings(), model.training
    ids = torch.tensor([[0, 1]], device=head.weight.device)
    seen: list[Tensor] = []
    hook = find_stack(model).register_forward_hook(lambda module, args, out: seen.append(out.last_hidden_state))
    try:
        logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    finally:
        hook.remove()
        model.train(training)
    plain = F.linear(seen[0], head.weight)
    if getattr(head, "bias", None) is not None or not torch.allclose(plain.float(), logits.float(), rtol=1e-2, atol=1e-3):
        raise UnfitModel(f"{type(model).__name__}: its logits are not the head's product with the last state (a bias, a soft cap or a "
                         "scale), which the chunked loss computes; use tuning.token_losses")
