"""Which key may each query see? One integer vector, and the masks, position ids and counts that follow.

A model that answers while it still reads has two streams: a source of S tokens and a target of T. A training row is

    [ source, S ][ target, T ]        each part padded on the right in a batch

and all that streaming means is in `visible`, an integer for every target row: how many source tokens that row may
see. It never falls. Batch processing is visible = S everywhere; wait-k lets it grow with the words written; a sentence
policy lets it grow with the units. From it follow the mask (`streaming_mask`: the source is causal and sees no target,
the target is causal and sees `visible` source tokens), its form for SDPA, eager and flex_attention (`for_attention`,
`block_mask`), the number of (query, key) pairs that are computed, and a drawing.

Units (words, sentences, chunks of audio) are what a policy counts in: `readable[u]` says how many source units the
target's unit u may see, and `visible_tokens` turns that into tokens. A row is allowed what the token needs that it
*predicts*: the last token of unit u - 1 predicts the first of unit u and sees what unit u sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


# -- policies: units read before a unit is written ---------------------------------------------------------
def wait_k(k: int | None, n_source: int, n_target: int) -> Tensor:
    """g(j) = min(k + j - 1, n_source) for j = 1 .. n_target, int64 (n_target,). k None: everything, batch processing.

    Ma et al. 2019 (STACL), section 3. Raises ValueError for k < 1 or no source unit.
    """
    if n_source < 1 or n_target < 0:
        raise ValueError(f"wait_k: needs one source unit or more, got {n_source} source and {n_target} target units")
    if k is None:
        return torch.full((n_target,), n_source)
    if k < 1:
        raise ValueError(f"wait_k: k = {k}; the first unit needs one source unit read at least (k >= 1, or None)")
    return (k + torch.arange(n_target)).clamp(max=n_source)


def unit_by_unit(n_source: int, n_target: int) -> Tensor:
    """Target unit u sees source units 0 .. u; the last target unit sees all. For sentences answered one by one."""
    readable = (1 + torch.arange(n_target)).clamp(max=n_source)
    readable[-1:] = n_source
    return readable


def monotone_path(readable: Sequence[int] | Tensor, n_source: int) -> Tensor:
    """Any other policy, checked: units read before each written unit. Raises ValueError if it falls or leaves 0 .. n."""
    path = torch.as_tensor(readable, dtype=torch.int64)
    if path.numel() and (path.min() < 0 or path.max() > n_source):
        raise ValueError(f"monotone_path: {path.tolist()} leaves 0 .. {n_source}, the source units there are")
    if (path.diff() < 0).any():
        raise ValueError(f"monotone_path: {path.tolist()} falls: what was read cannot be unread")
    return path


def visible_tokens(source_units: Sequence[int], target_units: Sequence[int], readable: Sequence[int] | Tensor,
                   shift: bool = True) -> Tensor:
    """How many source tokens each target row sees: int64 (T,), T = sum(target_units).

    source_units, target_units: tokens of each unit. readable: source units that each target unit may see.
    shift: row t gets what the unit of token t + 1 may see, the one that it predicts (the last row keeps its own).
    False: the unit of token t itself, which is what had been read when token t was chosen.
    """
    path = monotone_path(readable, len(source_units))
    if len(path) != len(target_units):
        raise ValueError(f"visible_tokens: {len(path)} entries of readable for {len(target_units)} target units")
    if any(n < 1 for n in [*source_units, *target_units]):
        raise ValueError(f"visible_tokens: a unit without tokens: {list(source_units)}, {list(target_units)}")
    read = torch.tensor([0, *source_units]).cumsum(0)[path]
    own = read.repeat_interleave(torch.tensor(list(target_units), dtype=torch.int64))
    return torch.cat([own[1:], own[-1:]]) if shift else own


# -- masks -------------------------------------------------------------------------------------------------
def streaming_mask(visible: Tensor, n_source: int, source_lengths: Tensor | None = None,
                   target_lengths: Tensor | None = None) -> Tensor:
    """Boolean mask (B, 1, N, N), N = n_source + T, True where the row (query) may see the column (key).

    visible (B, T) or (T,). lengths (B,): real tokens of each part; None: no padding. Padding is seen by no real row;
    a padding row sees itself, so that no softmax runs over nothing.
    """
    visible = torch.atleast_2d(visible)
    (batch, n_target), device = visible.shape, visible.device
    source, target = torch.arange(n_source, device=device), torch.arange(n_target, device=device)
    mask = torch.zeros(batch, n_source + n_target, n_source + n_target, dtype=torch.bool, device=device)
    mask[:, :n_source, :n_source] = source[:, None] >= source
    mask[:, n_source:, :n_source] = source < visible[..., None]
    mask[:, n_source:, n_source:] = target[:, None] >= target
    mask &= _real(batch, n_source, n_target, source_lengths, target_lengths, device)[:, None]
    mask |= torch.eye(n_source + n_target, dtype=torch.bool, device=device)
    return mask[:, None]


def _real(batch: int, n_source: int, n_target: int, source_lengths, target_lengths, device) -> Tensor:
    """Columns that are no padding, boolean (B, S + T)."""
    parts = []
    for width, lengths in ((n_source, source_lengths), (n_target, target_lengths)):
        lengths = torch.full((batch,), width, device=device) if lengths is None else lengths.to(device)
        parts.append(torch.arange(width, device=device) < lengths[:, None])
    return torch.cat(parts, 1)


def for_attention(mask: Tensor, implementation: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """The boolean mask in the form that an attention implementation of transformers reads.

    "sdpa": as it is. "eager": 0 and the dtype's lowest number, to be added (a boolean mask would be added as 0 and 1,
    without an error). flex_attention wants `block_mask`; FlashAttention takes no such mask. Raises ValueError for both.
    """
    if implementation == "sdpa":
        return mask
    if implementation == "eager":
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
    way = "build it with block_mask()" if implementation == "flex_attention" else "load the model with sdpa or eager"
    raise ValueError(f"attention {implementation!r} takes no dense mask of source and target: {way}")


def block_mask(visible: Tensor, n_source: int, source_lengths: Tensor | None = None,
               target_lengths: Tensor | None = None):
    """The same mask as `streaming_mask`, for attn_implementation "flex_attention": a BlockMask, rebuilt for each batch."""
    from torch.nn.attention.flex_attention import create_block_mask

    visible = torch.atleast_2d(visible)
    (batch, n_target), device = visible.shape, visible.device
    real = _real(batch, n_source, n_target, source_lengths, target_lengths, device)
    # A source row sees no column beyond itself, which excludes the target; a target row's bound comes from `visible`.
    bound = torch.cat([torch.arange(n_source, device=device).expand(batch, -1) + 1, visible], 1)

    def allowed(b, head, q, k):
        seen = torch.where(k < n_source, k < bound[b, q], (q >= n_source) & (k <= q))
        return (seen & real[b, k]) | (q == k)

    return create_block_mask(allowed, batch, None, n_source + n_target, n_source + n_target, device=str(device))


# -- position ids ------------------------------------------------------------------------------------------
def group_position_ids(n_source: int, n_target: int, offset: float = 0) -> Tensor:
    """Each stream counts for itself: 0 .. S - 1, then offset .. offset + T - 1; (S + T,).

    int64, or float32 for an offset that is no whole number (rotary embeddings take any real position).
    """
    whole = float(offset).is_integer()
    start = int(offset) if whole else float(offset)
    source = torch.arange(n_source, dtype=torch.int64 if whole else torch.float32)
    return torch.cat([source, torch.arange(n_target, dtype=source.dtype) + start])


# -- counts and drawing ------------------------------------------------------------------------------------
def pair_count(mask: Tensor) -> int:
    """(query, key) pairs that are attended; subtract the diagonal of the padding rows where there are any."""
    return int(mask.sum())


def source_density(visible: Tensor, n_source: int) -> float:
    """Share of the target-to-source cells that are allowed; 1 for batch processing. visible (T,), unpadded."""
    return visible.double().mean().item() / n_source


def sketch(mask: Tensor, n_source: int) -> str:
    """The mask (N, N) as text: # seen, . not seen, a bar and a rule between source and target."""
    rows = ["".join("#" if seen else "." for seen in row) for row in mask.tolist()]
    lines = [f"{row[:n_source]}|{row[n_source:]}" for row in rows]
    return "\n".join([*lines[:n_source], "-" * n_source + "+" + "-" * (len(rows) - n_source), *lines[n_source:]])


def draw(mask: Tensor, n_source: int, path: str | Path, labels: Sequence[str] | None = None, title: str = "") -> Path:
    """The mask (N, N) as a picture: source columns in one colour, target columns in the other."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap

    from .pictures import save

    n = len(mask)
    shown = mask.int() * (1 + (torch.arange(n) >= n_source).int())
    figure, axis = plt.subplots(figsize=(0.28 * n + 1.5, 0.28 * n + 1.2), layout="constrained")
    axis.imshow(shown.numpy(), cmap=ListedColormap(["#f2f2f2", "#1f6f8b", "#c8553d"]), vmin=0, vmax=2)
    axis.axhline(n_source - 0.5, color="black", lw=0.8)
    axis.axvline(n_source - 0.5, color="black", lw=0.8)
    ticks = list(labels) if labels else [f"s{i}" for i in range(n_source)] + [f"t{i}" for i in range(n - n_source)]
    axis.set_xticks(range(n), ticks, rotation=90, fontsize=7)
    axis.set_yticks(range(n), ticks, fontsize=7)
    axis.set(xlabel="key", ylabel="query", title=title)
    path = Path(path)
    save(figure, path)
    plt.close(figure)
    return path
