"""How this paper's method is used on a model of any family: what `make families` tries.

    whole logits   a cell's loss by `mixed_kl` on the stock model's logits, beside sums over the vocabulary written out in double
                   precision: any causal model
    chunks         the same from hidden states, a few tokens at a time, with the gradient of every weight
    own prefixes   responses that common's sampler draws, read again by teacher forcing: the student's own law
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.reasoning.probe import check_model
from common.reasoning.rollouts import Rollout, response_logits, sample

from . import method
from .baselines import itself
from .heads import Head, response_hidden
from .trajectories import explained

LAM, PROMPT = 0.3, 4


def rows_of(ids: Tensor) -> tuple[list[list[int]], list[Rollout]]:
    """Prompts of different length and what follows them, the second a token shorter: padding is part of the use."""
    prompts = [ids[0, :PROMPT].tolist(), ids[1, : PROMPT + 2].tolist()]
    return prompts, [Rollout(0, tuple(ids[0, PROMPT:].tolist()), True), Rollout(1, tuple(ids[1, PROMPT + 2 : -1].tolist()), False)]


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """A teacher: the same family with its output embedding a little elsewhere."""
    teacher = itself(model)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = teacher.get_output_embeddings().weight
        weight.add_(0.3 * weight.std() * torch.randn(weight.shape, generator=draw).to(weight))
    return teacher


def row_by_row(model: PreTrainedModel, teacher: PreTrainedModel, ids: Tensor) -> Tensor:
    """The summed loss from the stock models' own passes, a response at a time without padding, sums written out."""
    prompts, rollouts = rows_of(ids)
    total = torch.zeros((), dtype=torch.float64)
    for r in rollouts:
        prompt = prompts[r.prompt]
        whole = torch.tensor([[*prompt, *r.ids]])
        z = model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
        with torch.no_grad():
            y = teacher(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
        q, p = z.softmax(-1), y.softmax(-1)
        gap = z.log_softmax(-1) - y.log_softmax(-1)
        total = total + (LAM * (q * gap).sum() - (1 - LAM) * (p * gap).sum())
    return total


def compare(found: Tensor, expected: Tensor, what: str, rel: float = 1e-4) -> None:
    size = float(expected.detach().abs().max())
    off = float((found.detach().double() - expected.detach().double()).abs().max())
    if not off <= rel * max(size, 1e-12):
        raise AssertionError(f"{what} is off by {off:.2g} where values reach {size:.2g}")


def whole_logits(model: PreTrainedModel, ids: Tensor) -> None:
    check_model(model)  # as every training does before its first step (common/reasoning/sampled.py)
    teacher, (prompts, rollouts) = moved(model), rows_of(ids)
    zq, _, where = response_logits(model, prompts, rollouts)
    with torch.no_grad():
        zp, _, _ = response_logits(teacher, prompts, rollouts)
    compare(method.mixed_kl(zq[where], zp[where], LAM).sum(), row_by_row(model, teacher, ids), "the loss of a padded batch")


def chunks(model: PreTrainedModel, ids: Tensor) -> None:
    check_model(model)
    teacher, (prompts, rollouts) = moved(model), rows_of(ids)
    heads = Head(model), Head(teacher)
    ours = response_hidden(heads[0], prompts, rollouts)
    with torch.no_grad():
        theirs = response_hidden(heads[1], prompts, rollouts)
    loss = method.chunked_mixed_kl(ours, heads[0], theirs, heads[1], LAM, chunk=5)
    expected, own = row_by_row(model, teacher, ids), [p for p in model.parameters() if p.requires_grad]
    compare(loss, expected, "the loss in chunks")
    found = torch.autograd.grad(loss, own, allow_unused=True)
    right = torch.autograd.grad(expected, own, allow_unused=True)
    a, b = (torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(slopes, own)])
            for slopes in (found, right))
    compare(a, b, "the gradient in chunks", 1e-3)


def own_prefixes(model: PreTrainedModel, ids: Tensor) -> None:
    """Greedy, so that the stock model's own pass says what must have been drawn."""
    check_model(model)
    prompts, _ = rows_of(ids)
    with explained():
        drawn = sample(model, prompts, 1, 5, end=(), temperature=0)
    for r in drawn:
        prompt = prompts[r.prompt]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *r.ids]]), use_cache=False).logits[0, len(prompt) - 1 : -1].double()
        chosen = logits.gather(-1, torch.tensor(r.ids)[:, None])[:, 0]
        compare(chosen, logits.amax(-1), "a response that was drawn token by token, read at once,", 1e-3)


METHODS = {"whole logits": whole_logits, "chunks": chunks, "own prefixes": own_prefixes}
