"""Counts and identities behind claims, on models that fit anywhere."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import torch

from common.flops import counted
from common.models import load, tiny
from common.reasoning.rollouts import Rollout

from .. import method
from ..data import Chains, Problem
from ..module import GRPO, OnPolicySFT
from ..scoring import answers
from .chains import held_out, settings, stand_in

LENGTHS = (3, 7, 5, 9)


def _case(dtype: torch.dtype = torch.float64):
    """A tiny model, four responses of different lengths, and rewards 1, 0, 1, 1."""
    model = load(tiny()).model.to(dtype)
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 90, (4,), generator=draw).tolist() for _ in LENGTHS]
    ids, mask = method.right_padded(prompts, [torch.randint(3, 90, (n,), generator=draw).tolist() for n in LENGTHS])
    return model, ids, mask, torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=dtype)


def _gradient(model, loss) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def gradient_gap() -> float:
    """Largest difference between the policy gradient of truncated rewards and cross-entropy on what was kept, fp32 (Eq. 7, 8)."""
    model, ids, mask, rewards = _case(torch.float32)
    logp = method.response_log_probs(model(ids).logits, ids, mask)
    total = method.denominator(LENGTHS, "const", limit=16)
    policy = _gradient(model, method.surrogate_loss(logp, logp.detach(), rewards, mask, total))
    kept = method.keep(rewards)
    logp = method.response_log_probs(model(ids[kept]).logits, ids[kept], mask[kept])
    entropy = _gradient(model, method.sft_loss(logp, mask[kept], total))
    return float((policy - entropy).abs().max())


def unparallel_pairs() -> int:
    """Pairs among max, token, const whose gradients are not parallel to 1e-12, plus one if "seq" is parallel to them."""
    model, ids, mask, rewards = _case()
    kept = method.keep(rewards)
    ids, mask = ids[kept], mask[kept]
    lengths, gradients = mask.sum(1).tolist(), {}
    for norm in ("max", "token", "const", "seq"):
        logp = method.response_log_probs(model(ids).logits, ids, mask)
        gradients[norm] = _gradient(model, method.sft_loss(logp, mask, method.denominator(lengths, norm, limit=16), norm))

    def cosine(a: str, b: str) -> float:
        return float(torch.nn.functional.cosine_similarity(gradients[a], gradients[b], dim=0))

    apart = sum(cosine(a, b) < 1 - 1e-12 for a, b in itertools.combinations(("max", "token", "const"), 2))
    return apart + (cosine("max", "seq") > 1 - 1e-6)


def other_models_and_passes() -> int:
    """Models beside the one that is trained, and forward passes without a gradient, that an update of On-Policy SFT needs."""
    def held(kind) -> int:
        training = kind(None)
        training.given = load(tiny()).model, None, {}
        training.configure_model()
        return sum(isinstance(v, list) and bool(v) and isinstance(v[0], torch.nn.Module) for v in vars(training).values())

    model, passes = load(tiny()).model, []
    model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    training = _training(OnPolicySFT, model)
    problem, rollouts = _responses()
    training.update([problem], rollouts, [True, False, True, True])
    if held(GRPO) != 1:
        raise AssertionError("GRPO holds a reference; if it does not, this count shows nothing")
    return held(OnPolicySFT) + passes.count(False)


def _training(kind, model, **options):
    """A training outside of a Trainer, whose backward pass and step are plain."""
    training = kind(None, method.OnPolicySFTConfig(rollouts_per_prompt=4, max_new_tokens=16), **options)
    training.given = model, None, {}
    training.configure_model()
    training._trainer = SimpleNamespace(world_size=1, model=None)
    training.manual_backward = lambda loss: loss.backward()
    training.step = lambda: 0.0
    return training


def _responses() -> tuple[Problem, list[Rollout]]:
    """A problem and four responses."""
    draw = torch.Generator().manual_seed(1)
    rollouts = [Rollout(0, tuple(torch.randint(3, 90, (n,), generator=draw).tolist()), True) for n in LENGTHS]
    return Problem((1, 5, 8, 7), "", 0), rollouts


# -- a job of the default run ------------------------------------------------------------------------------
def flops_ratio(seed: int, size: str = "cpu") -> float:
    """FLOPs executed by an update of On-Policy SFT and by one of GRPO with a reference, on the same rollouts of a stand-in."""
    model, config, data = stand_in(seed)[0], method.OnPolicySFTConfig(**settings(size)), Chains(count=1)
    problems = held_out(data, config.prompts_per_step)
    rollouts = answers(model, data, problems, config.rollouts_per_prompt, config.max_new_tokens, seed)
    correct, count = data.grade(problems, rollouts), {}
    for kind in (OnPolicySFT, GRPO):
        training = _training(kind, model)
        training.config = config
        count[kind] = counted(lambda t=training: t.update(problems, rollouts, correct)).total
    return count[OnPolicySFT] / count[GRPO]
