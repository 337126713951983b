"""ProactiveLLM: a decoder learns from random monotone reading what a prefix of its source is good for, and so knows when to write.

A stream x_1 .. x_M is read unit by unit, an answer y_1 .. y_L written meanwhile; phi(t) units have been read when y_t is written,
and phi never falls. A model that was trained on whole sources is sure of itself at any prefix, because it has never seen one. Two
parts mend that, without a teacher from outside and without labels of when to write (paper section 3.2):

    MSLM    masked streaming language modelling: phi is drawn at random (`read_path`), attention from y_t to the stream is masked
            beyond phi(t), and the loss is -sum_t log P(y_t | y_<t, x_1:phi(t))
    SPSD    synchronised privileged self-distillation: the same weights at the same step, seeing everything, are the teacher of
            what they say of a prefix: lambda sum_t KL(P_batch || P_stream), over the teacher's k likeliest tokens

    L = L_batch + L_MSLM + lambda KL

Forward KL is no detail: its optimum is the mean of the teacher's answers over all ways in which the prefix may go on, which is
spread out exactly where evidence is missing. That is the cue which heads.py reads.

The layout is group position encoding's: source and target count their positions each for itself, the source sees no target and
is never encoded again. A row carries the phi of the token that it *predicts*: y_t is predicted by the row of y_t-1.

    batch = Batch(...)                                  ids, and `visible`: source tokens that each target row may see
    views = two_views(model, batch)                     one pass over 2B rows: batch view, streaming view
    losses = spsd(views, batch, lam=0.1, k=100)         sums over scored tokens
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Name = Literal["multinomial", "polynomial", "slack", "dirichlet", "naive", "sorted", "waitk", "multipath", "batch"]


# -- path laws: what is read before each unit is written (paper section 3.2; the family is spec 3.3) ----------
@dataclass(frozen=True)
class Law:
    """How phi(1) .. phi(L) is drawn from 0 .. M. L counts the end of the answer, too.

        multinomial   M units fall into the bins 0 .. L with equal chances; phi(t) is what fell into 0 .. t        (the paper)
        polynomial    the same with chances ~ (bin + 1)^power, or from behind for a power below 0: (L + 1 - bin)^-power. A power
                      above 0 reads late, which asks for writing early. random_power: 0, 1 or 2 for each path
        slack         one bin more, the last one never read: phi(L) may stay below M, which short answers need
        dirichlet     the chances are drawn, too, from Dir(alpha); phi(t) is what fell into 0 .. t - 1, the last bin is not read
        naive         phi(t) uniform in phi(t - 1) .. M                                       (a control: reads almost all at once)
        sorted        L numbers of 0 .. M in order                                            (a control)
        waitk         min(k + t - 1, M)            multipath   the same, k uniform in 1 .. M            batch   M throughout

    With one unit to write (L = 1) the multinomial law always reads everything: it teaches no prefix at all (`analytic.vacuous`).
    """

    name: Name = "multinomial"
    power: float = 0.0
    random_power: bool = False
    alpha: float = 1.0
    k: int = 1

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise ValueError(f"law: no {self.name!r}; there is {', '.join(get_args(Name))}")
        if self.name != "polynomial" and (self.power or self.random_power):
            raise ValueError(f"law {self.name}: a power is for polynomial")
        if not 0 < self.alpha < float("inf") or self.k < 1:
            raise ValueError(f"law {self.name}: alpha {self.alpha} and k {self.k} must be above 0")
        if not abs(self.power) < float("inf"):
            raise ValueError(f"law {self.name}: power {self.power} is no number")


def weights(law: Law, L: int, power: float | None = None) -> list[float]:
    """Chances of the bins of a multinomial law: of 0 .. L, and for slack of one more. Not normalised."""
    power = law.power if power is None else power
    if law.name == "slack":
        return [1.0] * (L + 2)
    return [float((b + 1) ** power if power >= 0 else (L + 1 - b) ** -power) for b in range(L + 1)]


def read_path(law: Law, M: int, L: int, rng: random.Random) -> list[int]:
    """phi(1) .. phi(L): units read before each unit is written, integers of 0 .. M that never fall.

    Raises ValueError for M < 1 or L < 1. Phi may be 0: the instruction is visible all the same.
    """
    if M < 1 or L < 1:
        raise ValueError(f"read_path: {M} units to read and {L} to write; it needs one each")
    if law.name == "batch":
        return [M] * L
    if law.name in ("waitk", "multipath"):
        k = law.k if law.name == "waitk" else rng.randint(1, M)
        return [min(k + t, M) for t in range(L)]
    if law.name == "sorted":
        return sorted(rng.randint(0, M) for _ in range(L))
    if law.name == "naive":
        path = [0]
        for _ in range(L):
            path.append(rng.randint(path[-1], M))
        return path[1:]
    if law.name == "dirichlet":
        chances, first = [rng.gammavariate(law.alpha, 1.0) + 1e-300 for _ in range(L + 1)], 1
    else:
        chances, first = weights(law, L, rng.choice((0, 1, 2)) if law.random_power else None), 2
    counts = [0] * len(chances)
    for b in rng.choices(range(len(chances)), chances, k=M):
        counts[b] += 1
    path = [sum(counts[:first])]
    for b in range(first, first + L - 1):
        path.append(path[-1] + counts[b])
    return path


def visible_tokens(source_units: Sequence[int], target_units: Sequence[int], path: Sequence[int]) -> Tensor:
    """Source tokens that each target row sees, int64 (T,): row t has what the token may see that it predicts, token t + 1.

    source_units: tokens of the instruction, of x_1 .. x_M and of the end of the source, which is one more unit to read.
    target_units: tokens of the header, of y_1 .. y_L, the last one the end. path: phi(1) .. phi(L) in 0 .. M + 1; the instruction is
    always visible. The header's rows have phi(1): they are written with y_1. Raises ValueError for a path that falls or leaves.
    """
    n, length = len(source_units) - 1, len(target_units) - 1
    if len(path) != length or any(b < a for a, b in zip([0, *path], [*path, n])):
        raise ValueError(f"a path of {length} entries that rises within 0 .. {n} is needed, got {list(path)}")
    ends = [sum(source_units[: i + 1]) for i in range(n + 1)]
    own = [ends[phi] for phi, tokens in zip([path[0], *path], target_units) for _ in range(tokens)]
    return torch.tensor([*own[1:], own[-1]])


# -- mask and positions (paper section 3.1; group position encoding, arXiv 2505.16983) ------------------------
class Batch(NamedTuple):
    """Padded rows. source: ids (B, S), or embeddings (B, S, width). target: ids (B, T). visible (B, T): see `visible_tokens`.
    source_lengths, target_lengths (B,): tokens without padding. scored (B, T): target tokens that count, units and end, not the header."""

    source: Tensor
    target: Tensor
    visible: Tensor
    source_lengths: Tensor
    target_lengths: Tensor
    scored: Tensor


def streaming_mask(visible: Tensor, n_source: int, source_lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """Boolean (B, 1, N, N), N = S + T, True where the row may see the column.

    Source rows: the source up to themselves, never the target. Target rows: the target up to themselves and the source below
    `visible`. Padding is seen by nobody but itself.
    """
    (batch, n_target), device = visible.shape, visible.device
    s, t = torch.arange(n_source, device=device), torch.arange(n_target, device=device)
    mask = torch.zeros(batch, n_source + n_target, n_source + n_target, dtype=torch.bool, device=device)
    mask[:, :n_source, :n_source] = s[:, None] >= s
    mask[:, n_source:, :n_source] = s < visible[..., None]
    mask[:, n_source:, n_source:] = t[:, None] >= t
    mask &= torch.cat([s < source_lengths[:, None], t < target_lengths[:, None]], 1)[:, None]
    return (mask | torch.eye(n_source + n_target, dtype=torch.bool, device=device))[:, None]


def group_positions(n_source: int, n_target: int, device=None) -> Tensor:
    """Each stream counts for itself, from 0; (1, S + T)."""
    return torch.cat([torch.arange(n_source, device=device), torch.arange(n_target, device=device)])[None]


def as_attention_reads(model: nn.Module, mask: Tensor) -> Tensor:
    """The boolean mask for SDPA as it is, for eager attention 0 and the dtype's lowest number."""
    if model.config.get_text_config(decoder=True)._attn_implementation != "eager":
        return mask
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill_(~mask, torch.finfo(model.dtype).min)


def logits_of(model: nn.Module, source: Tensor, target: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
    """(B, T, V): the logits of all target rows of a stock model; no others are ever computed.

    Raises ValueError without a mask: a stock model takes positions that begin again for a second packed text, and the target stops
    seeing the source without an error. And for a boolean one under eager attention, which would add it as 0 and 1.
    """
    if mask is None:
        raise ValueError("group positions need the mask of source and target: without one the restart of the ids is read as a second "
                         "packed text, and the target sees no source")
    if mask.dtype == torch.bool and model.config.get_text_config(decoder=True)._attn_implementation == "eager":
        raise ValueError("eager attention adds its mask, and a boolean one counts as 0 and 1: hand it as_attention_reads(model, mask)")
    if source.is_floating_point():
        inputs = {"inputs_embeds": torch.cat([source, model.get_input_embeddings()(target).to(source.dtype)], 1)}
    else:
        inputs = {"input_ids": torch.cat([source, target], 1)}
    n = target.shape[1]
    return model(**inputs, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=n).logits[:, -n:]


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, T, V) of the target rows under `batch.visible`; row t predicts target token t + 1.

    Raises ModelError for more columns than the model's sliding layers see (the mask would lift their window), or than it has positions.
    """
    from .probe import within

    n = batch.source.shape[1]
    within(model, n, batch.target.shape[1])
    mask = streaming_mask(batch.visible, n, batch.source_lengths, batch.target_lengths)
    return logits_of(model, batch.source, batch.target, as_attention_reads(model, mask),
                     group_positions(n, batch.target.shape[1], batch.target.device))


# -- losses ------------------------------------------------------------------------------------------------
def cross_entropies(logits: Tensor, batch: Batch) -> Tensor:
    """-log P of the scored tokens, in fp32, summed. logits (B, T, V): as `forward` gives them."""
    labels = batch.target.masked_fill(~batch.scored, -100)[:, 1:]
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")


def topk_kl(teacher: Tensor, student: Tensor, k: int = 100, direction: Literal["forward", "reverse"] = "forward",
            tail: Literal["renormalise", "bucket"] = "renormalise") -> Tensor:
    """KL of the teacher's k likeliest tokens, (...) from logits (..., V); the teacher's own truncation, whatever the direction.

    renormalise: both sides are distributions over these k alone. bucket: all other tokens are one more. k >= V: the whole KL.
    A token that the first side excludes (-inf) adds nothing, whatever the other makes of it; one that the second alone excludes makes the
    KL infinite. Gradients go where they may: detach the teacher. Raises ValueError for k below 1, another direction or tail, and logits of
    different shape.
    """
    if k < 1 or direction not in ("forward", "reverse") or tail not in ("renormalise", "bucket"):
        raise ValueError(f"topk_kl: k = {k}, direction {direction!r}, tail {tail!r}; k is 1 or more, the direction forward or reverse, the "
                         "tail renormalise or bucket")
    if teacher.shape != student.shape:
        raise ValueError(f"topk_kl: logits {tuple(teacher.shape)} of the teacher and {tuple(student.shape)} of the student")
    k = min(k, teacher.shape[-1])
    chosen = teacher.topk(k, -1).indices
    p, q = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in (teacher, student))
    if tail == "renormalise" or k == p.shape[-1]:
        log_p, log_q = (x.gather(-1, chosen).log_softmax(-1) for x in (p, q))
    else:
        log_p, log_q = (_with_rest(x.log_softmax(-1), chosen) for x in (p, q))
    if direction == "reverse":
        log_p, log_q = log_q, log_p
    none = log_p == float("-inf")  # 0 log 0 is 0, and its gradient, too
    return (log_p.exp() * (log_p.masked_fill(none, 0) - log_q.masked_fill(none, 0))).sum(-1)


def _with_rest(log_probs: Tensor, chosen: Tensor) -> Tensor:
    """The chosen ones, and what all others have together: summed, since 1 minus the chosen ones has no digits left where it is small."""
    others = log_probs.scatter(-1, chosen, float("-inf"))
    none = (others == float("-inf")).all(-1, keepdim=True)  # their sum is 0, and has no gradient
    rest = others.masked_fill(none, 0).logsumexp(-1, keepdim=True).masked_fill(none, float("-inf"))
    return torch.cat([log_probs.gather(-1, chosen), rest], -1)


class Views(NamedTuple):
    """Logits (B, T, V) of the two views of one batch."""

    batch: Tensor
    stream: Tensor


class Losses(NamedTuple):
    """Sums over the scored tokens."""

    batch: Tensor
    stream: Tensor
    kl: Tensor


def two_views(model: nn.Module, batch: Batch) -> Views:
    """Both views in one pass over 2B rows: the same ids and positions, and two masks; row b sees everything, row B + b its path."""
    whole = batch.source_lengths[:, None].expand_as(batch.visible)
    twice = Batch(*(torch.cat([part, part]) for part in batch))._replace(visible=torch.cat([whole, batch.visible]))
    return Views(*forward(model, twice).chunk(2))


def spsd(views: Views, batch: Batch, k: int = 100, direction: Literal["forward", "reverse"] = "forward",
         tail: Literal["renormalise", "bucket"] = "renormalise", teacher_grad: bool = False) -> Losses:
    """The three sums: -log P with everything read, -log P along the path (MSLM), and the KL from the first to the second (SPSD).

    teacher_grad: let the KL pull the batch view towards the prefix's, too; False: it is the teacher and stays where it is.
    """
    scored = batch.scored[:, 1:]
    teacher, student = (view[:, :-1][scored] for view in views)
    kl = topk_kl(teacher if teacher_grad else teacher.detach(), student, k, direction, tail).sum()
    return Losses(cross_entropies(views.batch, batch), cross_entropies(views.stream, batch), kl)


def check_model(model: nn.Module) -> None:
    """Raises ModelError naming the property for which `model` cannot stream this way: measured on eight tokens, once (probe.py)."""
    from .probe import Pass, check

    check(model, Pass(forward, Batch))
