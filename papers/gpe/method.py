"""Group position encoding (GPE): a language model that reads and writes at the same time, with its batch habits kept.

A model trained on whole texts expects [source][target]. In a stream the source still grows while the target is being
written, and three things differ from what it was trained on (the paper's Fig. 1):

    input attention    may source that is read late attend to target written before it?     batch: no
    output attention   have written target tokens attended to source read after them?       batch: yes
    position ids       do ids run through all of the source and then the target?            batch: yes

The paper finds that the first matters and the others hardly, so nothing need ever be encoded again: keep source and
target apart (the source sees no target), and give each a position count of its own, the source from 0 and the target
from phi. Within each stream distances are the familiar ones; between them phi is a constant, and its value does not
matter. That is GPE: a mask and a vector of ids on an unmodified model.

An `Arm` says how a variant answers the three questions. `position_ids`, `attention_mask` and `predictors` turn an arm
and the read/write history of a batch (`Layout`) into what a stock transformers decoder takes; `forward` runs it, over a
whole sequence at once, for training and scoring. Decoding (one READ or WRITE at a time) is in decoding.py and gives
the same logits. What is assumed of the model is measured in probe.py; position re-encoding is in reencoding.py.

Symbols as in the specification: S source and T target tokens; visible[t] = V(t), how many source tokens target row t
sees (that of the word whose token it predicts); written[t], how many had been read when token t was chosen.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Positions = Literal["arrival", "frozen", "reencoded", "group", "contiguous", "no_source", "no_target", "none"]
SourceSees = Literal["nothing", "finished", "arrival"]


@dataclass(frozen=True)
class Arm:
    """One answer to the three questions.

    positions: how ids are counted, see `position_ids`.
    source_sees: which target tokens a source token attends to. "nothing" (batch-streaming); "finished": those fed before
        it was read; "arrival": the same, and the next word is predicted from the last token that arrived, source or
        target (interleaved-streaming: one causal sequence).
    refresh: decoding encodes all written target tokens again after each READ (KV re-encoding).
    phi: first position of the target, for "group", "no_source" and "no_target"; any real number.
    """

    positions: Positions = "group"
    source_sees: SourceSees = "nothing"
    refresh: bool = False
    phi: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (("positions", Positions), ("source_sees", SourceSees)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"arm: {name} is {getattr(self, name)!r}, not one of {', '.join(get_args(allowed))}")
        if self.refresh and (self.positions, self.source_sees) != ("contiguous", "nothing"):
            raise ValueError("arm: refresh encodes the target anew as a batch, so it needs positions: contiguous and "
                             "source_sees: nothing")
        if self.positions == "reencoded" and self.source_sees != "nothing":
            raise ValueError("arm: reencoded positions move the target against a source that does not see it; "
                             "set source_sees: nothing")
        if self.phi and self.positions not in ("group", "no_source", "no_target"):
            raise ValueError(f"arm: phi = {self.phi} has no meaning for positions: {self.positions}")

    @property
    def two_frames(self) -> bool:
        return self.positions == "reencoded"

    @property
    def interleaved(self) -> bool:
        return self.source_sees == "arrival"


# The paper's ladder (spec 3.3), its ablations, and what it is compared with.
ARMS = {
    "interleaved": Arm("arrival", "arrival"),
    "batch_streaming": Arm("frozen"),
    "position_reencoding": Arm("reencoded"),
    "kv_reencoding": Arm("contiguous", refresh=True),
    "group": Arm("group"),
    "contiguous": Arm("contiguous"),
    "no_source_positions": Arm("no_source"),
    "no_target_positions": Arm("no_target"),
    "no_positions": Arm("none"),
    "interleaved_group": Arm("group", "arrival"),
    "blocked_arrival": Arm("arrival"),
    "finished_frozen": Arm("frozen", "finished"),
    "finished_group": Arm("group", "finished"),
}


def arm(name: str, phi: float = 0.0) -> Arm:
    """The arm of that name, with phi. Raises ValueError listing the names."""
    if name not in ARMS:
        raise ValueError(f"no arm {name!r}; there is: {', '.join(ARMS)}")
    return replace(ARMS[name], phi=phi)


class Layout(NamedTuple):
    """The read/write history of a batch, padded: source in columns 0 .. S - 1, target in S .. S + T - 1.

    visible, written (B, T) int64: see the head of this file. source_lengths, target_lengths (B,): tokens without
    padding. n_source: S.
    """

    visible: Tensor
    written: Tensor
    source_lengths: Tensor
    target_lengths: Tensor
    n_source: int

    @property
    def n_target(self) -> int:
        return self.visible.shape[1]

    def real(self) -> tuple[Tensor, Tensor]:
        """(B, S) and (B, T): no padding."""
        s, t = self.columns()
        return s < self.source_lengths[:, None], t < self.target_lengths[:, None]

    def columns(self) -> tuple[Tensor, Tensor]:
        device = self.visible.device
        return torch.arange(self.n_source, device=device), torch.arange(self.n_target, device=device)

    def arrival(self) -> tuple[Tensor, Tensor]:
        """Place of every token in the order in which it was read or written, (B, S) and (B, T)."""
        s, t = self.columns()
        before = (self.written[:, None] <= s[:, None]) & self.real()[1][:, None]  # (B, S, T)
        return s + before.sum(-1), self.written + t


def position_ids(arm: Arm, layout: Layout) -> Tensor:
    """Ids of source and target, (B, S + T), int64 or (for a phi that is no whole number) float32.

        arrival      the order of arrival: the source has gaps where target was written in between
        frozen       source 0 .. S - 1; target token t had G source tokens before it when written and keeps G + t
        reencoded    as if a batch at every moment; here source 0 .. S - 1 and target 0 .. T - 1, and the shift by
                     visible[t] between the two is made in reencoding.py
        group        source 0 .. S - 1; target phi .. phi + T - 1                                          (GPE)
        contiguous   source 0 .. S - 1; target S .. S + T - 1: a batch that knows how long its source is
        no_source, no_target, none   one id for all tokens of that stream
    """
    (s, t), kind = layout.columns(), arm.positions
    batch = len(layout.visible)
    if kind == "arrival":
        source, target = layout.arrival()
    else:
        source = torch.zeros_like(s) if kind in ("no_source", "none") else s
        start = {"frozen": layout.written, "contiguous": layout.source_lengths[:, None]}.get(kind, 0)
        target = start + (torch.zeros_like(t) if kind in ("no_target", "none") else t)
    ids = torch.cat([source.expand(batch, -1), target.expand(batch, -1)], 1)
    if not arm.phi:
        return ids
    shift = torch.cat([torch.zeros_like(s), torch.ones_like(t)])
    return ids + (int(arm.phi) if float(arm.phi).is_integer() else arm.phi) * shift


def attention_mask(arm: Arm, layout: Layout) -> Tensor:
    """Boolean (B, 1, N, N), N = S + T: True where the row may attend to the column.

    Target rows: target up to themselves, and source below visible[t]; in an interleaved arm whatever arrived before.
    Source rows: source up to themselves, and of the target what `arm.source_sees` says. Padding is seen by nobody but
    itself.
    """
    s, t = layout.columns()
    batch, n = len(layout.visible), layout.n_source
    if arm.interleaved:
        arrived = torch.cat(layout.arrival(), 1)
        mask = arrived[:, :, None] >= arrived[:, None]
    else:
        mask = torch.zeros(batch, n + len(t), n + len(t), dtype=torch.bool, device=s.device)
        mask[:, :n, :n] = s[:, None] >= s
        mask[:, n:, :n] = s < layout.visible[..., None]
        mask[:, n:, n:] = t[:, None] >= t
        if arm.source_sees == "finished":
            mask[:, :n, n:] = layout.visible[:, None] <= s[:, None]
    mask &= torch.cat(layout.real(), 1)[:, None]
    return (mask | torch.eye(n + len(t), dtype=torch.bool, device=s.device))[:, None]


def predictors(arm: Arm, layout: Layout) -> Tensor:
    """The row (0 .. S + T - 1) whose logits predict target token t, (B, T) int64.

    The target token before it; in an interleaved arm the token that arrived last, which is a source token where a READ
    came in between. Token 0 has no predictor of its own in most arms; it is part of the prompt and never scored.
    """
    _, t = layout.columns()
    before = (layout.n_source + t - 1).expand_as(layout.written)
    if not arm.interleaved:
        return before
    read_since = layout.written > torch.cat([layout.written[:, :1], layout.written[:, :-1]], 1)
    return torch.where(read_since | (t == 0), layout.written - 1, before)


# -- the model, run over a whole sequence ------------------------------------------------------------------
def check_model(model: nn.Module, arm: Arm) -> None:
    """Raises ModelError naming the property for which `model` cannot run this arm: measured on eight tokens, once (probe.py)."""
    from .probe import Paper, check

    check(model, arm, Paper(run, position_ids, attention_mask, Layout))


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where the boolean mask is True and the dtype's lowest number elsewhere, as attention that adds its mask takes it."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def mask_for(model: nn.Module, mask: Tensor) -> Tensor:
    """The boolean mask as the model's attention reads it: eager attention would add a boolean one as 0 and 1, without an error."""
    eager = model.config.get_text_config(decoder=True)._attn_implementation == "eager"
    return additive(mask, model.dtype) if eager else mask


def forward(model: nn.Module, arm: Arm, source: Tensor, target: Tensor, layout: Layout) -> Tensor:
    """Logits (B, T, V) that predict each target token in streaming; those of token 0 mean nothing.

    source: ids (B, S), or embeddings (B, S, width) of audio frames, say. target: ids (B, T). The model is stock; the
    mask is always handed over, because without one transformers takes a restart of the ids for a new packed sequence
    and cuts the target off from the source. Raises ModelError as `check_model`, and beyond what the model's sliding layers or
    its positions reach (`probe.check_length`).
    """
    from .probe import check_length, reach

    check_model(model, arm)
    ids = position_ids(arm, layout)
    check_length(reach(model), layout.n_source + layout.n_target, ids)
    return run(model, arm, source, target, layout, ids)


def run(model: nn.Module, arm: Arm, source: Tensor, target: Tensor, layout: Layout, ids: Tensor) -> Tensor:
    """The pass of `forward` with these position ids, unchecked."""
    from .reencoding import in_two_frames, turns_of

    n, n_target = layout.n_source, layout.n_target
    mask = attention_mask(arm, layout)
    if source.is_floating_point():
        inputs = {"inputs_embeds": torch.cat([source, model.get_input_embeddings()(target)], 1)}
    else:
        inputs = {"input_ids": torch.cat([source, target], 1)}
    frames: dict = {}
    if arm.two_frames:
        shift = torch.cat([layout.visible.new_zeros(len(mask), n), layout.visible], 1)
        frames = dict(frame_shift=shift, frame_source=torch.arange(n + n_target, device=mask.device) < n, frame_turns=turns_of(model))
    else:
        mask = mask_for(model, mask)
    keep = 0 if arm.interleaved else n_target + (n > 0)  # the rows from the last source token on
    with in_two_frames(model) if arm.two_frames else contextlib.nullcontext():
        logits = model(**inputs, attention_mask=mask, position_ids=ids, use_cache=False, logits_to_keep=keep, **frames).logits
    rows = predictors(arm, layout) - (n + n_target - logits.shape[1])
    return logits.gather(1, rows.clamp(min=0)[..., None].expand(-1, -1, logits.shape[-1]))


def loss_sum(logits: Tensor, target: Tensor, scored: Tensor) -> Tensor:
    """Sum of cross-entropies in fp32 over scored (B, T) target tokens: the words and the end, not the forced prompt."""
    labels = target.masked_fill(~scored, -100)
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
