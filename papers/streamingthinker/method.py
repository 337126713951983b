"""StreamingThinker's method on a stock decoder: who sees whom, which position each token has, and the loss.

A sample is a source in segments s_0 .. s_n (instruction, then question and sentences) and a target in segments t_0 .. t_{n+1}: the
assistant's header, a unit of thought for each of s_1 .. s_n, and last what follows the input: cue, deep reasoning, answer. Unit t_u is
written while s_0 .. s_u are there (paper 2, eq. 1). What closes the user's turn may be a segment of its own, s_{n+1}, for the deep
part. Training sees it all at once, under a mask (3.2, eq. 2):

    [ source, S ][ target, T ]     target row p sees the source tokens j < w(p) and the target up to itself;
                                   w(p) = what unit(p + 1), the unit of the token that row p predicts, may see

So the token that ends unit u is fed under the sight of s_{u+1}, for it predicts the first token of t_{u+1}; inference does the same.
Each stream counts its own positions from 0 ("streaming position encoding", 3.2), or both count as one text ("rope").

The printed formula is at the level of segments, and its guards slip: read `i >= T and j < T` with 0-based sentences (README, D-F1).

Three layouts: `batch` (all of the source is visible), `streaming`, and `interleaved`, one causal text s_0 t_0 s_1 t_1 ... t_m.

The packed-sequence trap: with positions that restart at 0 and no mask, transformers takes the target for a second text packed behind
the source and cuts it off from the source, without a word. Every batch here carries its 4-D mask, and `forward` refuses one without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

LAYOUTS, POSITIONS = ("batch", "streaming", "interleaved"), ("rope", "spe")


@dataclass(frozen=True)
class Segments:
    """A sample in token ids: source s_0 .. s_n, target t_0 .. t_{n+1}. forced: how many tokens the last target segment begins with that
    are forced and not chosen (the depth cue): they are not learnt, nor is the header. closed: the source has a last segment more, the end
    of the user's turn, which no unit belongs to and only the deep part sees.

    Raises ValueError where units and sentences do not pair: a trace with a unit too few would hide the last sentences from the answer.
    """

    source: tuple[tuple[int, ...], ...]
    target: tuple[tuple[int, ...], ...]
    forced: int = 0
    closed: bool = False
    info: dict = field(default_factory=dict, compare=False)

    def __post_init__(self):
        if len(self.target) != len(self.source) + 1 - self.closed:
            sentences, units = len(self.source) - 1 - self.closed, len(self.target) - 2
            raise ValueError(f"{sentences} sentences and {units} units: each sentence, the question too, needs one unit, beside "
                             "the header before them and the deep part behind")
        if not all(self.source) or not all(self.target):
            raise ValueError("a segment without tokens")
        if not 0 <= self.forced < len(self.target[-1]):
            raise ValueError(f"forced = {self.forced}, but the last target segment has {len(self.target[-1])} tokens")

    @staticmethod
    def of(source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], forced: int = 0, closed: bool = False, **info) -> Segments:
        return Segments(tuple(map(tuple, source)), tuple(map(tuple, target)), forced, closed, info)

    @property
    def source_lengths(self) -> list[int]:
        return [len(s) for s in self.source]

    @property
    def target_lengths(self) -> list[int]:
        return [len(t) for t in self.target]

    @property
    def learnt(self) -> list[bool]:
        """Of each target token, whether the loss counts it."""
        last = len(self.target[-1])
        return [False] * len(self.target[0]) + [True] * sum(self.target_lengths[1:-1]) + [i >= self.forced for i in range(last)]


# -- who sees whom -----------------------------------------------------------------------------------------
def visible_prefix(source_lengths: Sequence[int], target_lengths: Sequence[int], shift: bool = True) -> Tensor:
    """w (T,) int64: source tokens that each target row may see (3.2, eq. 2). Lengths in tokens of s_0 .. and t_0 ...

    Unit u sees segments 0 .. u, the last unit all. shift False: row p sees what the unit of token p itself may see, which is another
    model (an ablation: the first token of a unit would be chosen before its sentence is seen).
    """
    read = torch.tensor(list(source_lengths)).cumsum(0)
    units = torch.arange(len(target_lengths)).clamp(max=len(read) - 1)
    units[-1] = len(read) - 1
    own = read[units].repeat_interleave(torch.tensor(list(target_lengths)))
    return torch.cat([own[1:], own[-1:]]) if shift else own


def streaming_mask(visible: Sequence[Tensor], source_lengths: Sequence[int], n_source: int, n_target: int) -> Tensor:
    """(B, 1, N, N) boolean, N = n_source + n_target; True where the row may see the column.

    visible: (T_b,) of each sample. Parts are padded on the right to n_source and n_target. A padding row sees itself and nothing else:
    no softmax runs over nothing; no real row sees padding.
    """
    n = n_source + n_target
    mask = torch.zeros(len(visible), n, n, dtype=torch.bool)
    for row, (w, s) in enumerate(zip(visible, source_lengths)):
        t = len(w)
        mask[row, :s, :s] = torch.ones(s, s, dtype=torch.bool).tril()
        target = slice(n_source, n_source + t)
        mask[row, target, :n_source] = torch.arange(n_source) < w[:, None]
        mask[row, target, target] = torch.ones(t, t, dtype=torch.bool).tril()
    return (mask | torch.eye(n, dtype=torch.bool))[:, None]


def streaming_position_ids(source_lengths: Sequence[int], n_source: int, n_target: int, positions: str = "spe", start: int = 0) -> Tensor:
    """(B, N). spe: 0 .. S - 1 and start .. start + T - 1; rope: the target goes on where its own source ends."""
    if positions not in POSITIONS:
        raise ValueError(f"positions {positions!r}: one of {', '.join(POSITIONS)}")
    source = torch.arange(n_source).expand(len(source_lengths), -1)
    first = torch.tensor(list(source_lengths)) if positions == "rope" else torch.full((len(source_lengths),), start)
    return torch.cat([source, first[:, None] + torch.arange(n_target)], 1)


# -- a batch -----------------------------------------------------------------------------------------------
@dataclass
class Batch:
    """ids, positions (B, N); mask (B, 1, N, N) boolean; targets (B, N): the id where a token is learnt, else -100 (at its own place:
    the row before predicts it; `rows` (B, N) says which). n_source: columns of the source, 0 in the interleaved layout."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    rows: Tensor
    n_source: int

    def to(self, device) -> Batch:
        return replace(self, **{name: getattr(self, name).to(device) for name in ("ids", "positions", "mask", "targets", "rows")})


def collate(samples: Sequence[Segments], layout: str = "streaming", positions: str = "spe", start: int = 0, pad: int = 0,
            shift: bool = True) -> Batch:
    """A batch in one of LAYOUTS. start: the target's first position under spe. Interleaved is one text, whose positions are its own."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}: one of {', '.join(LAYOUTS)}")
    if layout == "interleaved":
        return _interleaved(samples, pad)
    sources, targets = [sum(map(list, s.source), []) for s in samples], [sum(map(list, s.target), []) for s in samples]
    n_source, n_target = max(map(len, sources)), max(map(len, targets))
    lengths = [len(s) for s in sources]
    ids = torch.full((len(samples), n_source + n_target), pad)
    labels, rows = torch.full_like(ids, -100), torch.zeros_like(ids)
    visible = []
    for i, (sample, source, target) in enumerate(zip(samples, sources, targets)):
        ids[i, : len(source)], ids[i, n_source : n_source + len(target)] = torch.tensor(source), torch.tensor(target)
        labels[i, n_source : n_source + len(target)] = torch.where(torch.tensor(sample.learnt), torch.tensor(target), -100)
        w = visible_prefix(sample.source_lengths, sample.target_lengths, shift)
        visible.append(w if layout == "streaming" else torch.full_like(w, len(source)))
    rows[:, 1:] = torch.arange(n_source + n_target - 1)
    return Batch(ids, streaming_position_ids(lengths, n_source, n_target, positions, start),
                 streaming_mask(visible, lengths, n_source, n_target), labels, rows, n_source)


def _interleaved(samples: Sequence[Segments], pad: int) -> Batch:
    """s_0 t_0 s_1 t_1 ... s_n t_n t_{n+1}: one causal text."""
    texts, learnt = [], []
    for sample in samples:
        text: list[int] = []
        of: list[bool] = []
        flags, at = sample.learnt, 0
        for u, unit in enumerate(sample.target):
            if u < len(sample.source):
                text += sample.source[u]
                of += [False] * len(sample.source[u])
            text += unit
            of += flags[at : at + len(unit)]
            at += len(unit)
        texts.append(text)
        learnt.append(of)
    n = max(map(len, texts))
    ids, labels = torch.full((len(texts), n), pad), torch.full((len(texts), n), -100)
    for i, (text, of) in enumerate(zip(texts, learnt)):
        ids[i, : len(text)] = torch.tensor(text)
        labels[i, : len(text)] = torch.where(torch.tensor(of), torch.tensor(text), -100)
    mask = torch.ones(n, n, dtype=torch.bool).tril().expand(len(texts), 1, n, n)
    real = torch.arange(n) < torch.tensor([len(text) for text in texts])[:, None]
    mask = (mask & real[:, None, None]) | torch.eye(n, dtype=torch.bool)
    rows = torch.zeros_like(ids)
    rows[:, 1:] = torch.arange(n - 1)
    return Batch(ids, torch.arange(n).expand(len(texts), -1), mask, labels, rows, 0)


# -- the model ---------------------------------------------------------------------------------------------
def check_model(model: nn.Module, columns: int = 0, last: int = 0) -> None:
    """Raises ModelError naming the property for which `model` cannot keep a source and a target of so many columns apart, or has no
    position `last`: what its config tells, and a measurement on four tokens, once (probe.py)."""
    from .probe import check, check_positions

    check_positions(model, last)
    check(model, columns, for_attention)


def for_attention(mask: Tensor, implementation: str, dtype: torch.dtype) -> Tensor:
    """As it is for sdpa; 0 and the lowest number for eager, which adds the mask (a boolean one as 0 and 1, without an error)."""
    if implementation == "sdpa":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, N, V) of the stock model under the batch's own mask and positions. Raises ModelError, ValueError without a mask."""
    if batch.mask is None or batch.mask.dim() != 4:
        raise ValueError("no 4-D mask: with restarting positions transformers would take source and target for two packed texts")
    check_model(model, batch.ids.shape[1], int(batch.positions.max()))
    mask = for_attention(batch.mask, model.config.get_text_config(decoder=True)._attn_implementation, next(model.parameters()).dtype)
    return model(input_ids=batch.ids, attention_mask=mask, position_ids=batch.positions, use_cache=False).logits


def loss_sum(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(sum of cross-entropies of the learnt tokens, how many they are); spec 3.5: the header, the forced cue and the source are not."""
    scored = batch.targets != -100
    of = logits.gather(1, batch.rows[..., None].expand(-1, -1, logits.shape[-1]))[scored].float()
    return torch.nn.functional.cross_entropy(of, batch.targets[scored], reduction="sum"), scored.sum()
