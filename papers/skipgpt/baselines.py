"""What SkipGPT is compared with. Everything runs through the same gates: a baseline is a policy, or other routers.

no-op, random            `no_op`, `random_uniform`, `random_matched`: nothing is learned
static, training-free    `static_pruning.py`, re-exported here
static, learned          `bias_only`: one learned decision per module, blind to the token
coupled                  SkipGPTConfig(coupled=True): one gate per layer, as D-LLM decides; with LoRA it is D-LLM
MoD-D, MoD               `MixtureOfDepths`: top-k tokens per sequence, weighted by the router's score
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .method import RoutingState
from .static_pruning import (  # noqa: F401  (part of this door)
    StaticPlan,
    attention_drop,
    block_influence,
    greedy_drop,
    joint_layer_drop,
    mlp_drop,
    read_plan,
    shortened_ppl,
    shortened_taylor,
    write_plan,
)


def no_op():
    """Everything is executed: the dense model through the routed code."""
    return lambda layer, name, x, valid: torch.ones(valid.shape, device=x.device)


def random_uniform(rate: float, seed: int):
    """Every module skips each token with probability `rate`, independently."""
    return _random(lambda layer, name: rate, seed)


def random_matched(per_layer: Tensor, seed: int):
    """Every module keeps its own skip rate, per_layer (L, 2) [attention, MLP], but the tokens are drawn at random.

    The control that matters: whatever a router gains over it comes from *which tokens* skip.
    """
    return _random(lambda layer, name: float(per_layer[layer, int(name == "mlp")]), seed)


def _random(rate, seed: int):
    if not isinstance(seed, int):
        raise TypeError(f"seed is {seed!r}; random routing needs an integer seed")
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device

    def policy(layer, name, x, valid):
        return (torch.rand(valid.shape, generator=generator) >= rate(layer, name)).float().to(x.device)

    return policy


def bias_only(state: RoutingState) -> list[nn.Parameter]:
    """Routers that see no token: weights zero and frozen. Returns the biases, which are left to train."""
    biases = []
    for router in state.routers().values():
        for name, parameter in router.named_parameters():
            if name.endswith("weight"):
                nn.init.zeros_(parameter)
                parameter.requires_grad_(False)
            else:
                biases.append(parameter)
    return biases


class MixtureOfDepths(nn.Module):
    """MoD-D, the paper's decoupled Mixture-of-Depths baseline: a scalar router per module picks the top k tokens.

    k = max(1, floor((1 - s) S)) tokens of each sequence run the module, and its output is multiplied by the raw router
    score, through which the router learns; first and last layer stay dense. With official_strict the comparison with
    the k-th score is strict, as in the released evaluation code, so that k - 1 tokens run when k > 1. decoupled=False
    shares one router per layer (MoD).

    The choice looks at the whole sequence, later tokens included: it is *not causal*, and when decoding one token at a
    time every token is selected. Gates are real numbers, so there is no skip mode for it.
    """

    def __init__(
        self,
        layers: int,
        d: int,
        skip: float,
        decoupled: bool = True,
        official_strict: bool = False,
    ):
        super().__init__()
        if not 0 <= skip < 1:
            raise ValueError(f"skip is {skip}; it is a fraction in [0, 1)")
        self.layers, self.skip, self.decoupled, self.strict = (
            layers,
            skip,
            decoupled,
            official_strict,
        )
        self.scores = nn.ModuleDict(
            {
                f"{i}_{name}": nn.Linear(d, 1, bias=False)
                for i in range(1, layers - 1)
                for name in (("attn", "mlp") if decoupled else ("attn",))
            }
        )

    def inner_skip(self) -> float:
        """The rate at which the inner layers skip, so that all layers together skip `skip` of their modules."""
        return min(self.skip * self.layers / max(self.layers - 2, 1), 0.99)

    def policy(self, state: RoutingState):
        def decide(layer: int, name: str, x: Tensor, valid: Tensor) -> Tensor:
            if state.mode == "skip":
                raise RuntimeError(
                    "MoD multiplies by real-valued scores; skip mode needs gates of 0 and 1: use mode 'mask'"
                )
            key = f"{layer}_{name if self.decoupled else 'attn'}"
            if key not in self.scores:
                return torch.ones(valid.shape, device=x.device)
            score = self.scores[key](x.float()).squeeze(-1)  # (B, S)
            ranked = score.detach().masked_fill(~valid, float("-inf"))
            k = max(1, int((1 - self.inner_skip()) * x.shape[1]))
            threshold = ranked.topk(k, dim=1).values[:, -1:]
            selected = ranked > threshold if self.strict and k > 1 else ranked >= threshold
            return score * (selected & valid)

        return decide
