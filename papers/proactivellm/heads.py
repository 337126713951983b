"""Decision heads: from what a probe of the model shows to READ or WRITE. The model stays as it is; a head is plugged in.

Before every unit of the answer the model is asked what it would write now (a probe: the last target token is fed, and taken back
if more is read). A head turns what the probe shows into a score of 0 .. 1, how sure the model is; `Decide` writes where the score is
at least a threshold. Thresholds come from quantiles of scores on held-out streams (`threshold`), never from the test's.

    Entropy, MaxProb, Margin       of the distribution of the next token                     (entropy: paper section 3.3)
    Attention                      how much of the last row's attention lies on the stream  (paper section 3.3; statistic ours)
    Linear                         of the last hidden state; learnt without labels of timing: is what the prefix's distribution likes
                                   best what the whole source's does? Learnt from oracle timing it is the costly rival

Policies that look at no state, and how they compare, are in baselines.py.

A head sees what is read so far and what is written, and neither how long the stream will be nor which words are to come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Probe(NamedTuple):
    """What probes show, one or many of them: leading dimensions (...) are alike.

    logits (..., V) of the next token. read (...): units read. written: units written so far, (...) or a number. hidden (..., width):
    the state that the logits were computed from. attention (..., layers, heads, S): weights of the row on source tokens, 0 on the
    instruction and on what is not read. What a head does not need (`needs`) may be None.
    """

    logits: Tensor
    read: Tensor
    written: Tensor
    hidden: Tensor | None = None
    attention: Tensor | None = None


class Policy(Protocol):
    """goal(units written): for a policy that looks at no state, how many units it reads before it writes; no probe is made before
    that. None for one that looks."""

    needs: frozenset[str]
    goal: Callable[[Tensor], Tensor] | None

    def write(self, probe: Probe) -> Tensor:
        """Boolean (...): WRITE. Not asked once the source has ended: then it is WRITE."""
        ...


class Head(Protocol):
    needs: frozenset[str]

    def score(self, probe: Probe) -> Tensor:
        """(...) in 0 .. 1, the higher the surer."""
        ...


# -- heads -------------------------------------------------------------------------------------------------
class Entropy:
    """1 - H / ln V of the next token's distribution (paper section 3.3)."""

    needs: frozenset[str] = frozenset()

    def score(self, probe: Probe) -> Tensor:
        log_p = _wide(probe.logits).log_softmax(-1)
        entropy = -torch.where(log_p.isfinite(), log_p.exp() * log_p, torch.zeros_like(log_p)).sum(-1)
        return (1 - entropy / math.log(probe.logits.shape[-1])).clamp(0, 1)  # an even distribution's rounding is not below 0


class MaxProb:
    """The likeliest token's probability."""

    needs: frozenset[str] = frozenset()

    def score(self, probe: Probe) -> Tensor:
        return _wide(probe.logits).softmax(-1).amax(-1)


class Margin:
    """By how much the likeliest token is likelier than the next one."""

    needs: frozenset[str] = frozenset()

    def score(self, probe: Probe) -> Tensor:
        best = _wide(probe.logits).softmax(-1).topk(2, -1).values
        return best[..., 0] - best[..., 1]


class Attention:
    """Of the weights of the last target row on the stream, mean over the chosen layers and all their heads.

    mass: their sum, what is not parked on the instruction or the target. largest: the largest. layers: which (-1: the last).
    The paper says neither statistic nor layers (README, D5).
    """

    needs = frozenset({"attention"})

    def __init__(self, statistic: Literal["mass", "largest"] = "mass", layers: Sequence[int] = (-1,)):
        self.statistic, self.layers = statistic, tuple(layers)

    def score(self, probe: Probe) -> Tensor:
        assert probe.attention is not None
        of = probe.attention[..., list(self.layers), :, :]
        return (of.sum(-1) if self.statistic == "mass" else of.amax(-1)).mean((-1, -2))


class Linear(nn.Module):
    """sigmoid(w h + b) of the hidden state that the next token is predicted from."""

    needs = frozenset({"hidden"})

    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Linear(width, 1)

    def score(self, probe: Probe) -> Tensor:
        assert probe.hidden is not None
        return torch.sigmoid(self.layer(probe.hidden.to(self.layer.weight.dtype))[..., 0]).detach()

    def fit(self, hidden: Tensor, labels: Tensor, decay: float = 1e-3, steps: int = 40) -> float:
        """Learns labels (n,) of hidden states (n, width) by logistic regression, full batch, from zero; returns the mean loss.

        The states are constants: no weight of the model moves. Raises ValueError where all labels are alike.
        """
        labels = labels.to(self.layer.weight.dtype)
        if labels.min() == labels.max():
            raise ValueError(f"all {len(labels)} labels are {labels[0]:g}: nothing to tell apart")
        hidden = hidden.detach().to(labels.dtype)
        mean, scale = hidden.mean(0), hidden.std(0).clamp(min=1e-6)
        flat = ((hidden - mean) / scale)
        w, b = torch.zeros(flat.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
        optimizer = torch.optim.LBFGS([w, b], max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.binary_cross_entropy_with_logits(flat @ w + b, labels) + decay * w.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        final = float(loss().detach())
        with torch.no_grad():
            self.layer.weight.copy_((w / scale)[None])
            self.layer.bias.copy_((b - (w * mean / scale).sum())[None])
        return final


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


HEADS = {"entropy": Entropy, "max-prob": MaxProb, "margin": Margin, "attention": Attention}


# -- policies ----------------------------------------------------------------------------------------------
class Decide:
    """WRITE where the head's score is at least the threshold."""

    goal = None

    def __init__(self, head: Head, threshold: float):
        self.head, self.threshold, self.needs = head, threshold, head.needs

    def write(self, probe: Probe) -> Tensor:
        return self.head.score(probe) >= self.threshold


# -- thresholds --------------------------------------------------------------------------------------------
def threshold(scores: Sequence[float] | Tensor, q: float, mode: Literal["batch", "stream"] = "batch") -> float:
    """The threshold at quantile q of held-out scores; the higher q in "batch", the more is written at once.

    batch: scores of answer units with the whole source read; with q = .9 nine tenths of them would be written at once. stream: scores of
    all probes of streams that are read to their ends; with q = .9 a tenth of all probes would write. The paper's main results are "at
    the .9 quantile" and do not say of which (README, D4). Raises ValueError for no scores, one that is no number, a q outside 0 .. 1, or
    another mode.
    """
    if mode not in ("batch", "stream"):
        raise ValueError(f"threshold: mode is {mode!r}, not batch or stream")
    values = torch.as_tensor(scores, dtype=torch.float64)
    if not values.numel() or not 0 <= q <= 1:
        raise ValueError(f"threshold: {values.numel()} scores, q = {q}: it needs one score, and a q of 0 .. 1")
    if not bool(values.isfinite().all()):
        raise ValueError(f"threshold: {int((~values.isfinite()).sum())} of {values.numel()} scores are no number")
    return float(torch.quantile(values, 1 - q if mode == "batch" else q))
