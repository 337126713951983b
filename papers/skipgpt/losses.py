"""What is minimised, as sums over tokens, and the Gumbel noise, as a function of the sample.

Sums, because whoever calls divides by the token count of a whole optimiser step: then neither
accumulation nor the number of processes changes the result. `batch` is a micro-batch of `data.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_noise(rows: int, batch: dict, seed: int, step: int) -> Tensor:
    """Gumbel(0, 1) noise (rows, B, S, 2), fp32, on the CPU; rows = 2L (see RoutingState.noise).

    Sample b's part is drawn by a generator of its own from (seed, step, sample_index[b]), position
    by position: neither its neighbours in the batch nor the length of the padding matter. Padding
    gets 0.
    """
    from common.seeds import seed_of

    noise = torch.zeros(rows, *batch["input_ids"].shape, 2)
    generator = torch.Generator()
    for b, (index, length) in enumerate(zip(batch["sample_index"], batch["lengths"])):
        generator.manual_seed(seed_of("gumbel", seed, step, index))
        uniform = torch.rand(length, rows, 2, generator=generator, dtype=torch.float64)
        gumbel = -(-uniform.clamp_(min=1e-300).log_()).log_()
        noise[:, b, :length] = gumbel.transpose(0, 1)
    return noise


def targets_of(batch: dict) -> Tensor:
    """Next-token labels (B, S-1), -100 where there is nothing to predict.

    By attention mask, not by id: an end token is a target even where it is the padding id, too
    (the official collator masks it away).
    """
    mask = batch["attention_mask"].bool()
    return batch["input_ids"][:, 1:].masked_fill(~(mask[:, 1:] & mask[:, :-1]), -100)


def lm_loss(logits: Tensor, batch: dict) -> Tensor:
    """Sum of next-token cross-entropies in fp32. logits (B, S, V)."""
    flat = logits[:, :-1].float().flatten(0, 1)
    return F.cross_entropy(flat, targets_of(batch).flatten(), ignore_index=-100, reduction="sum")


def distillation_loss(logits: Tensor, teacher: Tensor, batch: dict) -> Tensor:
    """Sum over targets of KL(teacher || student), fp32. logits, teacher (B, S, V)."""
    student, dense = (x[:, :-1].float().log_softmax(-1) for x in (logits, teacher))
    divergence = divergence_by_token(dense, student)
    return divergence.masked_fill(targets_of(batch) == -100, 0.0).sum()


def divergence_by_token(dense: Tensor, student: Tensor) -> Tensor:
    """KL(dense || student) of log-probabilities (..., V), by token (...).

    A word that the dense model gives probability 0 (-inf) counts 0, whatever the student gives it: 0 * -inf is nan to a machine.
    One that only the student rules out makes the divergence infinite.
    """
    return (dense.exp() * (dense - student)).masked_fill(dense == -torch.inf, 0.0).sum(-1)
