"""The short training loop of the CPU experiments, and how a trained router is held to a budget.

`tune` is stage 1 of the paper (section 3.5) without a framework around it: the loss and the temperature of
`module.py`, for models small enough that a Trainer's overhead would be the larger half. The noise is drawn from
the global generator, not sample by sample; with the same noise, a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import divergence_by_token
from .method import RoutingState, sparsity_loss

Batch = Callable[[int], Tensor]  # optimiser step -> token ids (B, S)


class BudgetNotHeld(RuntimeError):
    """No threshold gives the asked rate: a score at another rate would be compared with the wrong ones."""


def token_losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Next-token cross-entropies (B, S-1) of unpadded ids (B, S), in fp32."""
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)


@dataclass(frozen=True)
class Rate:
    """Share of the learning rate at each step. warmup: steps; decay: the last fraction of the run in which the rate falls linearly
    to zero (0 = constant, the paper's)."""

    warmup: int = 0
    decay: float = 0.0

    def at(self, step: int, steps: int) -> float:
        rising = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return rising * (min(1.0, (steps - step) / (self.decay * steps)) if self.decay else 1.0)


def tune(model: nn.Module, batch: Batch, optimiser: torch.optim.Optimizer, steps: int, *, state: RoutingState | None = None,
         start: int = 0, rate: Rate = Rate(), distill: bool = False, seed: int = 0) -> Iterator[dict]:
    """Trains the optimiser's parameters and nothing else; yields {"step", "ce", "executed"} after each step.

    state: of a routed model; its temperature follows its config, and the paper's budget is part of the loss if routers are
    trained. distill: the target is the dense model's distribution instead of the text. All randomness of a step follows
    from (seed, step), so a run taken up at `start` with its optimiser goes on as if unbroken. Ends in eval mode.
    """
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    rates = [group.setdefault("initial_lr", group["lr"]) for group in optimiser.param_groups]
    routers_learn = state is not None and any(p.requires_grad for p in state.parameters())
    for step in range(start, steps):
        for group, full in zip(optimiser.param_groups, rates):
            group["lr"] = full * rate.at(step, steps)
        ids = batch(step)
        teacher = dense_distribution(model, state, ids) if distill else None
        torch.manual_seed(seed * 1_000_003 + step)
        model.train()
        if state is not None:
            state.temperature = state.config.tau(step, steps)
        ce, divergence = losses_of(model, ids, teacher)
        loss = ce if divergence is None else divergence
        executed = float("nan")
        if routers_learn:
            fraction = state.executed_fraction()
            loss = loss + sparsity_loss(fraction, state.config.target_sparsity, state.config.alpha)
            executed = fraction.item()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        yield {"step": step, "ce": ce.item(), "executed": executed}
    if state is not None:
        state.temperature = 1.0
    model.eval()


def losses_of(model: nn.Module, ids: Tensor, teacher: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Mean next-token cross-entropy, and KL(teacher || model) if there is a teacher (B, S-1, V) of log-probabilities."""
    if teacher is None:
        return token_losses(model, ids).mean(), None
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1].float()
    ours = torch.log_softmax(logits, -1)
    divergence = divergence_by_token(teacher, ours).mean()
    return F.nll_loss(ours.detach().flatten(0, 1), ids[:, 1:].flatten()), divergence


@torch.no_grad()
def dense_distribution(model: nn.Module, state: RoutingState, ids: Tensor) -> Tensor:
    """Log-probabilities (B, S-1, V) of the model without its routers."""
    mode, _ = state.mode, model.eval()
    state.set_mode("dense")
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1].float()
    state.set_mode(mode)
    return torch.log_softmax(logits, -1)


@torch.no_grad()
def evaluate(model: nn.Module, ids: Tensor, batch_size: int = 64) -> Tensor:
    """Token losses (N, S-1) of ids (N, S) in eval mode."""
    model.eval()
    return torch.cat([token_losses(model, rows) for rows in ids.split(batch_size)])


def shift_budget(state: RoutingState, amount: float) -> None:
    """Adds `amount` to every execute-minus-skip logit: one threshold for the whole model, nothing per layer."""
    with torch.no_grad():
        for router in state.routers().values():
            router.layers[-1].bias += torch.tensor([amount / 2, -amount / 2], device=router.layers[-1].bias.device)


@torch.no_grad()
def hold_budget(model: nn.Module, state: RoutingState, ids: Tensor, sparsity: float, *, tolerance: float = 0.002,
                batch_size: int = 64) -> float:
    """Shifts the global logit threshold until the realised module sparsity on `ids` (N, S) is `sparsity`.

    Sampled and argmax rates differ while logits are soft, so routers trained at T skip less than T when they decide
    by argmax; methods are compared at equal realised rates. Returns the shift: about five passes over `ids`, walking
    in doubling steps until the rate is bracketed, then between the bracket's ends. Rates may be stepwise (routers that
    decide whole modules): then the nearest of them stays. Raises BudgetNotHeld if that is two points off.
    """
    best = (float("inf"), 0.0)  # (distance, shift)
    low, high, applied, step = (-40.0, 1.0 - sparsity), (40.0, -sparsity), 0.0, 0.5
    walking = True
    for _ in range(24):
        state.start_recording()
        evaluate(model, ids, batch_size)
        error = state.stats().sparsity - sparsity
        best = min(best, (abs(error), applied), key=lambda pair: pair[0])
        if abs(error) <= tolerance:
            break
        bracketed = low[0] > -40.0 if error < 0 else high[0] < 40.0  # a shift that errs to the other side is known
        low, high = ((applied, error), high) if error > 0 else (low, (applied, error))
        walking = walking and not bracketed
        if walking:
            wanted, step = applied + (step if error > 0 else -step), 2 * step
        else:
            share = low[1] / (low[1] - high[1])
            wanted = low[0] + min(max(share, 0.1), 0.9) * (high[0] - low[0])
        wanted = min(max(wanted, -40.0), 40.0)
        shift_budget(state, wanted - applied)
        applied = wanted
    distance, shift = best
    if distance > max(tolerance, 0.02):
        shift_budget(state, -applied)
        raise BudgetNotHeld(f"no threshold skips {sparsity:.3f} of the modules; the nearest is off by {distance:.3f}")
    shift_budget(state, shift - applied)
    return shift
