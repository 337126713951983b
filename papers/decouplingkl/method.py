"""Decoupling KL and trajectories: four objectives of distillation from two switches.

A student q learns from a teacher p, token by token, on responses y to prompts x. The chain rule of KL ties two choices:

    KL(p || q) = sum_t E_{y<t ~ p} KL(p || q at the prefix)        teacher's prefixes, forward KL
    KL(q || p) = sum_t E_{y<t ~ q} KL(q || p at the prefix)        student's prefixes, reverse KL

The paper unties them. Where prefixes come from and which way the KL points are free, and the objective of a cell is

    L(theta) = E_y [ 1/Z sum_t lam KL_R(s_t) + (1 - lam) KL_F(s_t) ]      s_t = (x, y<t),  Z = supervised tokens of the step

                         forward KL, lam 0                      reverse KL, lam 1
    teacher's prefixes   TF: SFT with soft targets              TR: offline RL
    student's prefixes   SF: DAgger, the teacher labels         SR: on-policy distillation

with the distribution of y *held fixed* when differentiating. So SF, SR and TR are partial gradients; only TF's is that of a
sequence KL. At one prefix (Proposition 1), z the student's logits, q = softmax(z):

    d KL_F / dz = q - p                             cross-entropy with the teacher's soft targets
    d KL_R / dz = q (log q/p - KL_R)                policy gradient of the reward log p - log q, which is not differentiated

`forward_kl`, `reverse_kl` and `mixed_kl` are the reference, by autograd; `kl_and_slope` has the lines above; `chunked_mixed_kl`
goes from hidden states to the loss a few tokens at a time and never holds all logits. Then what one samples instead of summing
over the vocabulary, and what a cached teacher's top k tokens give. Everywhere 0 log 0 = 0 and 0 log 0/0 = 0.

Shapes: N supervised tokens, V tokens of the vocabulary, d a hidden width, (K, T) padded responses. Results are in nats.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

Prefix = Literal["teacher", "student", "dataset"]
Mix = Literal["linear", "jsd", "by_entropy"]
Estimator = Literal["full", "sampled", "topk"]


@dataclass(frozen=True)
class DistillConfig:
    """One run; defaults as in the authors' trainer where that names a value (spec 4).

    prefix: who wrote the responses that are read. lam: 0 forward, 1 reverse, linear between them.
    mix: "jsd" is trl's generalised Jensen-Shannon divergence with beta = lam, another loss between 0 and 1; "by_entropy" takes
        forward KL where the teacher's entropy is above switch_entropy nats and reverse KL elsewhere, whatever lam is.
    estimator: sums over the whole vocabulary ("full"), over the teacher's top_tokens and the rest as one ("topk"), or one
        sampled token ("sampled"). returns: sampled reverse KL with the reward-to-go, the gradient of the sequence KL.
    prompts_per_step, rollouts_per_prompt: responses of an optimiser step. max_new_tokens: of a response, the training length.
    temperature, top_p, top_k: of the sampler; top_k 0 is off. Another law than the model's own is off-policy, and warned of.
    loss_temperature: divides both models' logits in the loss.
    stop_token_ids: tokens that end a response; None: all that the data and both models' generation configs name.
    token_chunk: tokens whose logits are held at a time; 0: all of a micro-batch.
    """

    prefix: Prefix = "student"
    lam: float = 1.0
    mix: Mix = "linear"
    switch_entropy: float = 0.5
    estimator: Estimator = "full"
    top_tokens: int = 64
    returns: bool = False
    prompts_per_step: int = 32
    rollouts_per_prompt: int = 1
    max_new_tokens: int = 4096
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    loss_temperature: float = 1.0
    stop_token_ids: tuple[int, ...] | None = None
    token_chunk: int = 128
    micro_batch_size: int = 1
    lr: float = 5e-7
    grad_clip: float = 1.0
    warmup_steps: int = 75

    def __post_init__(self) -> None:
        for name, allowed in (("prefix", Prefix), ("mix", Mix), ("estimator", Estimator)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"distillation: {name} is {getattr(self, name)!r}, not one of {', '.join(get_args(allowed))}")
        for name, least in (("prompts_per_step", 1), ("rollouts_per_prompt", 1), ("max_new_tokens", 1), ("micro_batch_size", 1),
                            ("top_tokens", 1), ("token_chunk", 0), ("top_k", 0), ("warmup_steps", 0)):
            if not isinstance(value := getattr(self, name), int) or isinstance(value, bool) or value < least:
                raise ValueError(f"distillation: {name} is {value!r}; it is a whole number, {least} or more")
        for name in ("temperature", "loss_temperature", "lr", "grad_clip"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise ValueError(f"distillation: {name} is {value}; it must be above 0 and finite")
        for name, low, high in (("lam", 0, 1), ("top_p", 0, 1), ("switch_entropy", 0, float("inf"))):
            if not low <= (value := getattr(self, name)) <= high or (name == "top_p" and value == 0):
                raise ValueError(f"distillation: {name} is {value}; it lies in {low} .. {high}")
        if self.estimator != "full" and self.mix != "linear":
            raise ValueError(f"distillation: mix {self.mix!r} sums over the vocabulary; set estimator to full, not {self.estimator}")
        if self.returns and (self.estimator, self.prefix, self.lam) != ("sampled", "student", 1):
            raise ValueError("distillation: returns is the sequence gradient of sampled reverse KL on the student's own responses; set "
                             "estimator sampled, prefix student, lam 1")
        if self.stop_token_ids is not None:
            object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))

    @property
    def truncated(self) -> bool:
        """Whether the sampler draws from another law than softmax of the logits."""
        return self.temperature != 1 or self.top_p < 1 or self.top_k > 0


# -- the token KLs: the reference --------------------------------------------------------------------------
def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) over the last dimension, in single precision at least. Raises ValueError for a temperature
    of 0 or less."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    return (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) = sum_v a (log a - log b) over the last dimension. A token without probability under a adds nothing."""
    a = log_a.exp()
    return (a * torch.where(a > 0, log_a - log_b, 0)).sum(-1)


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(N,) KL(p || q) of logits (N, V): the teacher's distribution first."""
    _check_vocabularies(student_logits, teacher_logits)
    return kl(log_softmax(teacher_logits, temperature), log_softmax(student_logits, temperature))


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(N,) KL(q || p): the student's distribution first."""
    _check_vocabularies(student_logits, teacher_logits)
    return kl(log_softmax(student_logits, temperature), log_softmax(teacher_logits, temperature))


def mixed_kl(student_logits: Tensor, teacher_logits: Tensor, lam: float | Tensor, mix: Mix = "linear", temperature: float = 1.0,
             switch_entropy: float = 0.5) -> Tensor:
    """(N,) lam KL(q || p) + (1 - lam) KL(p || q); lam a number or (N,). For "jsd" with m = lam p + (1 - lam) q

        lam KL(p || m) + (1 - lam) KL(q || m), and the forward or reverse KL at lam = 0 or 1 (where it is not continuous).

    For "by_entropy" lam is 0 where the teacher's entropy is above switch_entropy and 1 elsewhere. Raises ValueError for
    vocabularies of different size, another mix, and a lam outside 0 .. 1.
    """
    _check_vocabularies(student_logits, teacher_logits)
    _check_mix(lam, mix)
    log_q, log_p = log_softmax(student_logits, temperature), log_softmax(teacher_logits, temperature)
    if mix == "jsd" and lam not in (0, 1):
        log_m = _log_mixture(log_q, log_p, float(lam))
        return lam * kl(log_p, log_m) + (1 - lam) * kl(log_q, log_m)
    if mix == "by_entropy":
        lam = (entropy(log_p) <= switch_entropy).to(log_q.dtype)
    forward, reverse = kl(log_p, log_q), kl(log_q, log_p)
    if isinstance(lam, Tensor):  # where one of the two is infinite, the other alone may still be asked for
        return torch.where(lam == 0, forward, torch.where(lam == 1, reverse, lam * reverse + (1 - lam) * forward))
    return forward if lam == 0 else reverse if lam == 1 else lam * reverse + (1 - lam) * forward


def entropy(log_p: Tensor) -> Tensor:
    """- sum_v p log p over the last dimension."""
    p = log_p.exp()
    return -(p * torch.where(p > 0, log_p, 0)).sum(-1)


def _log_mixture(log_q: Tensor, log_p: Tensor, lam: float) -> Tensor:
    """log of (1 - lam) q + lam p. A token that neither gives any probability has none, and the slope there is 0 and not that of -inf."""
    weights = torch.tensor([1 - lam, lam], dtype=log_q.dtype, device=log_q.device).log()
    none = torch.maximum(log_q, log_p) == float("-inf")
    log_q, log_p = log_q.masked_fill(none, 0), log_p.masked_fill(none, 0)
    return torch.logaddexp(log_q + weights[0], log_p + weights[1]).masked_fill(none, float("-inf"))


def _check_vocabularies(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"KL: the student's logits are {tuple(student_logits.shape)} and the teacher's {tuple(teacher_logits.shape)}; "
                         "both read the same tokens and have one vocabulary")


def _check_mix(lam: float | Tensor, mix: str) -> None:
    if mix not in get_args(Mix):
        raise ValueError(f"KL: mix is {mix!r}, not one of {', '.join(get_args(Mix))}")
    if not isinstance(lam, Tensor) and not 0 <= lam <= 1:
        raise ValueError(f"KL: lam is {lam}; it lies in 0 (forward) .. 1 (reverse)")


# -- the same with its slope, and in chunks ----------------------------------------------------------------
@torch.no_grad()
def kl_and_slope(student_logits: Tensor, teacher_logits: Tensor, lam: float, mix: Mix = "linear", temperature: float = 1.0,
                 switch_entropy: float = 0.5, slope: bool = True) -> tuple[Tensor, Tensor | None]:
    """`mixed_kl` (N,) and its derivative by the student's logits (N, V), in closed form; None without `slope`. Errors as there."""
    _check_vocabularies(student_logits, teacher_logits)
    _check_mix(lam, mix)
    log_q, log_p = log_softmax(student_logits, temperature), log_softmax(teacher_logits, temperature)
    q, p = log_q.exp(), log_p.exp()
    if mix == "jsd" and lam not in (0, 1):
        log_m = _log_mixture(log_q, log_p, lam)
        gap, of_p = _gap(q, log_q, log_m), (p * _gap(p, log_p, log_m)).sum(-1)
        of_q = (q * gap).sum(-1)
        return lam * of_p + (1 - lam) * of_q, q.mul_(gap.sub_(of_q[:, None])).mul_((1 - lam) / temperature) if slope else None
    share: Any = (entropy(log_p) <= switch_entropy).to(q.dtype) if mix == "by_entropy" else float(lam)
    if not len(q) or not bool(torch.minimum(log_q.amin(), log_p.amin()) > float("-inf")):  # of a row of NaN, too
        return _kl_and_slope_of_some(log_q, log_p, share, temperature, slope)
    # Every token has some probability, so that both directions share one gap: few passes over the vocabulary, in place.
    gap = log_q.sub_(log_p)
    of_q, of_p = torch.linalg.vecdot(q, gap), -torch.linalg.vecdot(p, gap)
    value = share * of_q + (1 - share) * of_p
    if not slope:
        return value, None
    if isinstance(share, Tensor):
        share = share[:, None]
    out = gap.sub_(of_q[:, None]).mul_(share).add_(1 - share).mul_(q)
    return value, out.sub_(p.mul_(1 - share)).div_(temperature)


def _kl_and_slope_of_some(log_q: Tensor, log_p: Tensor, share: float | Tensor, temperature: float,
                          slope: bool) -> tuple[Tensor, Tensor | None]:
    """The same where tokens may have no probability. A direction that is not asked for counts 0, though it be infinite."""
    q, p = log_q.exp(), log_p.exp()
    reverse = share if isinstance(share, Tensor) else torch.full_like(q[..., 0], share)
    gap = _gap(q, log_q, log_p)
    of_q, of_p = (q * gap).sum(-1), (p * _gap(p, log_p, log_q)).sum(-1)
    value = (reverse * of_q).masked_fill(reverse == 0, 0) + ((1 - reverse) * of_p).masked_fill(reverse == 1, 0)
    if not slope:
        return value, None
    out = (reverse[:, None] * q * (gap - of_q[:, None])).masked_fill((reverse == 0)[:, None], 0)
    return value, (out + (1 - reverse)[:, None] * (q - p)) / temperature


def _gap(a: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """log a - log b where a has probability, 0 elsewhere."""
    return torch.where(a > 0, log_a - log_b, 0)


def chunked_mixed_kl(student_hidden: Tensor, student_head: Callable[[Tensor], Tensor], teacher_hidden: Tensor,
                     teacher_head: Callable[[Tensor], Tensor], lam: float, mask: Tensor | None = None, chunk: int = 128,
                     mix: Mix = "linear", temperature: float = 1.0, switch_entropy: float = 0.5) -> Tensor:
    """sum over tokens of mask x mixed_kl(student_head(student_hidden), teacher_head(teacher_hidden)), a number with gradient.

    hidden (N, d) and (N, d'), mask (N,) weights or bool; a row of weight 0 counts nowhere, whatever stands in it. A head maps
    (n, d) to logits (n, V): a module, or a callable with `parameters()`; gradients go to the student's alone. The slope of a
    chunk is known with its loss, so both are taken at once and no logits are kept or computed again: at any time `chunk` rows
    of the vocabulary's size.
    Raises ValueError for shapes that do not fit.
    """
    if len(student_hidden) != len(teacher_hidden) or chunk < 1 or (mask is not None and mask.shape != student_hidden.shape[:1]):
        raise ValueError(f"chunked_mixed_kl: {len(student_hidden)} and {len(teacher_hidden)} hidden states, chunk {chunk}, mask "
                         f"{None if mask is None else tuple(mask.shape)}; as many of each, and one token or more at a time")
    own = [p for p in getattr(student_head, "parameters", tuple)() if p.requires_grad]
    if isinstance(student_head, nn.Linear):
        student_head = _Linear(student_head)
    wide = torch.promote_types(student_hidden.dtype, torch.float32)  # a third is not one in half precision
    weight = student_hidden.new_ones(len(student_hidden), dtype=wide) if mask is None else mask.to(wide)
    how = dict(lam=lam, mix=mix, temperature=temperature, switch_entropy=switch_entropy)
    return _Chunked.apply(student_hidden, student_head, teacher_hidden.detach(), teacher_head, weight, chunk, how, *own)


class _Chunked(torch.autograd.Function):
    """Forward takes the gradients, too, for a loss of weight 1; backward multiplies them by its weight. Those of the head's
    parameters are summed over chunks in single precision at least."""

    @staticmethod
    def forward(ctx, hidden, head, teacher_hidden, teacher_head, weight, chunk, how, *parameters):
        wanted = any(ctx.needs_input_grad)
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        slopes: list[Tensor] = [torch.zeros_like(hidden), *(torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
                                                            for p in parameters)] if wanted else []
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            with torch.set_grad_enabled(wanted), _watched(head) as seen:
                nowhere = weight[rows, None] == 0
                here = hidden[rows].detach().masked_fill(nowhere, 0).requires_grad_(wanted)  # NaN of padding times 0 is NaN
                logits = head(here)
            value, slope = kl_and_slope(logits.detach(), teacher_head(teacher_hidden[rows]), slope=wanted, **how)
            total += torch.where(weight[rows] != 0, value * weight[rows], 0).sum()
            if slope is not None:
                slope = slope.mul_(weight[rows, None].to(slope.dtype)).masked_fill_(nowhere, 0).to(logits.dtype)
                if seen is not None and len(parameters) == sum(p.requires_grad for p in head.linear.parameters()):
                    slopes[0][rows] = _through_linear(head.linear, seen[0], seen[1], here, logits, slope, slopes[1:])
                else:
                    parts = torch.autograd.grad(logits, [here, *parameters], slope, allow_unused=True)
                    for whole, part in zip([slopes[0][rows], *slopes[1:]], parts):
                        if part is not None:
                            whole += part
            del logits, slope
        ctx.slopes, ctx.dtypes = slopes, [t.dtype for t in (hidden, *parameters)]
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        first, *rest = (slope.mul_(upstream.to(slope.dtype)).to(dtype) for slope, dtype in zip(ctx.slopes, ctx.dtypes))
        del ctx.slopes
        return first, None, None, None, None, None, None, *rest


class _Linear:
    """A linear layer as a head."""

    def __init__(self, linear: nn.Linear):
        self.linear = linear

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden)


@contextlib.contextmanager
def _watched(head: Any) -> Iterator[list[Tensor] | None]:
    """What goes into the head's one linear layer and comes out of it; None for a head that does not name one (`linear`)."""
    linear = getattr(head, "linear", None)
    if not isinstance(linear, nn.Linear):
        yield None
        return
    seen: list[Tensor] = []
    handle = linear.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
    try:
        yield seen
    finally:
        handle.remove()


def _through_linear(linear: nn.Linear, into: Tensor, out: Tensor, here: Tensor, logits: Tensor, slope: Tensor,
                    sums: Sequence[Tensor]) -> Tensor:
    """The slope by `here` (n, d); the layer's own is added to `sums`, in place: a gradient of its size for every chunk, to be added to
    the sum, would be as large as all logits of 1,000 tokens."""
    (by_out,) = (slope,) if logits is out else torch.autograd.grad(logits, out, slope, retain_graph=True)
    flat, given = by_out.reshape(-1, by_out.shape[-1]), into.detach().reshape(-1, into.shape[-1])
    trained = [p for p in (linear.weight, linear.bias) if p is not None and p.requires_grad]
    for parameter, total in zip(trained, sums):
        if parameter is linear.bias:
            total += flat.sum(0)
        elif flat.dtype == given.dtype == total.dtype:
            total.addmm_(flat.T, given)
        else:
            for part, columns in zip(total.split(8192), flat.split(8192, -1)):  # in parts, for the same reason
                part += columns.T @ given.to(flat.dtype)
    by_into = (by_out @ linear.weight.to(by_out.dtype)).to(into.dtype).reshape(into.shape)
    return by_into if into is here else torch.autograd.grad(into, here, by_into)[0]


# -- one sampled token in place of the sum -----------------------------------------------------------------
def log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p of tokens (...,) under logits (..., V), in single precision at least."""
    return log_softmax(logits).gather(-1, tokens[..., None])[..., 0]


@torch.no_grad()
def fresh_labels(logits: Tensor, u: Tensor) -> Tensor:
    """(N,) a token for each row of logits (N, V), from softmax(logits); u (N,) uniform in [0, 1). The label of SF (the teacher's at a
    student's prefix) and of TR (the student's at a teacher's prefix): the token that the text goes on with is a sample of the
    *other* model, and to gather it there would be wrong."""
    edges = log_softmax(logits).exp().cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(edges, u.to(edges)[:, None] * edges[:, -1:], right=True)[:, 0]  # right: no token of probability 0
    return found.clamp(max=logits.shape[-1] - 1)


def sampled_forward(log_q: Tensor) -> Tensor:
    """- log q(y) of y ~ p: cross-entropy with a hard label. Its mean has the gradient of KL(p || q); its value is higher by the
    teacher's entropy."""
    return -log_q


def sampled_reverse(log_q: Tensor, log_p: Tensor, mask: Tensor | None = None, returns: bool = False) -> Tensor:
    """- r log q(y) of y ~ q with the reward r = log p(y) - log q(y), not differentiated: its mean has the gradient of KL(q || p).

    log_q, log_p, mask of one shape, the last dimension the response's tokens. returns: r is the sum of the rewards from here to the
    response's end, which makes the sum over tokens of the student's own response an estimate of the gradient of the *sequence* KL.
    """
    reward = (log_p - log_q).detach()
    if mask is not None:
        reward = reward.masked_fill(~mask.bool(), 0)
        log_q = log_q.masked_fill(~mask.bool(), 0)
    if returns:
        reward = reward.flip(-1).cumsum(-1).flip(-1)
    return -reward * log_q


# -- the teacher's top k -----------------------------------------------------------------------------------
class TopK(NamedTuple):
    """What is kept of a teacher's distribution: its k likeliest tokens, log p (N, k), ids (N, k), and log of the rest's mass (N,)."""

    log_p: Tensor
    ids: Tensor
    log_rest: Tensor


@torch.no_grad()
def top_k(teacher_logits: Tensor, k: int, temperature: float = 1.0) -> TopK:
    """Of logits (N, V). All of them for k >= V. Raises ValueError for less than one."""
    if k < 1:
        raise ValueError(f"top_k: {k} tokens of the teacher's; it is 1 or more")
    log_p = log_softmax(teacher_logits, temperature)
    found, ids = log_p.topk(min(k, log_p.shape[-1]), -1)
    return TopK(found, ids, log_p.scatter(-1, ids, float("-inf")).logsumexp(-1))


def top_k_kl(student_logits: Tensor, kept: TopK, lam: float, temperature: float = 1.0) -> Tensor:
    """(N,) the linear mix between k + 1 outcomes, the kept tokens and all others as one. Never above `mixed_kl`, and equal to it
    where k is the whole vocabulary: an approximation that sees nothing of what happens among the others."""
    log_q = log_softmax(student_logits, temperature)
    others = log_q.scatter(-1, kept.ids, float("-inf"))
    some = others.amax(-1) > float("-inf")  # none is left for k = V, and the slope of log 0 is no number
    rest = others.where(some[..., None], 0).logsumexp(-1).where(some, float("-inf"))
    ours = torch.cat([log_q.gather(-1, kept.ids), rest[..., None]], -1)
    theirs = torch.cat([kept.log_p, kept.log_rest[..., None]], -1).to(ours.dtype)
    forward, reverse = kl(theirs, ours), kl(ours, theirs)
    return forward if lam == 0 else reverse if lam == 1 else lam * reverse + (1 - lam) * forward


# -- tabular policies, where everything can be enumerated --------------------------------------------------
def sequence_kl_by_enumeration(first: Callable[[tuple[int, ...]], Tensor], second: Callable[[tuple[int, ...]], Tensor],
                               length: int) -> Tensor:
    """KL between the laws of whole sequences of so many tokens; a policy maps a prefix to log-probabilities (V,)."""
    def below(prefix: tuple[int, ...], log_a: Any, log_b: Any) -> Any:
        if len(prefix) == length:
            return log_a.exp() * (log_a - log_b)
        ours, theirs = first(prefix), second(prefix)
        return sum(below((*prefix, v), log_a + ours[v], log_b + theirs[v]) for v in range(len(ours)))

    return below((), torch.zeros((), dtype=first(()).dtype), torch.zeros((), dtype=first(()).dtype))


def cut(ids: Sequence[int], finished: bool, length: int) -> tuple[tuple[int, ...], bool]:
    """A response's first `length` tokens, and whether its end is still among them."""
    return tuple(ids[:length]), finished and len(ids) <= length
