"""Where a picture enters the language model: attention to it is knocked out layer by layer, and the answers tell.

    Knockout(layers, mode)    text-to-picture attention (and picture-to-picture) gone in these layers: before or behind the softmax,
                              merged into one visual token, or of the highest, lowest or random tokens alone (paper section 3, 4)
    Watched(config)           VisiPruner whose every layer is looked at: what it holds, and what each token moves (look.py draws it)
    sinks                     attention of the last token to each visual token beside the size of its value (App. E)
    logit_lens                what the last token would answer after each layer (section 3.5)
    calibrate                 boundary and threshold for a model of one's own, from its answers about pictures without labels
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.attention import Edit, Rows
from common.vision.heads import by_own_head

from .method import VisiPrunerConfig, influence, paper
from .pruners import Nothing, VisiPruner, highest, merge_onto
from .session import View

Mode = Literal["before", "after", "merge"]
Which = Literal["all", "highest", "lowest", "random", "all but highest"]


class Knockout(Nothing):
    """Some of the text-to-picture attention is gone in these layers. among: picture-to-picture attention, too; under "merge", which
    moves what text gives, it is hidden before the softmax.

    which, count: of the visual tokens, those with the highest, lowest or random attention of the last token in that very layer.
    onto: number of the visual token that "merge" moves the weight to.
    """

    def __init__(self, layers: Collection[int], mode: Mode = "after", *, among: bool = False, which: Which = "all", count: int = 0,
                 onto: int = 0, seed: int = 0):
        self.layers, self.mode, self.among = frozenset(layers), mode, among
        self.which, self.count, self.onto, self.seed = which, count, onto, seed
        self._score: Tensor | None = None

    def wants(self, layer: int) -> bool:
        return layer in self.layers and self.which not in ("all", "random")

    def see(self, layer: int, rows: Rows) -> None:
        """Called before `edit`, with the attention of the layer as it would be."""
        self._score = rows.weights.mean(1)

    def edit(self, layer: int, view: View) -> Edit | None:
        if layer not in self.layers or not bool(view.visual.any()):
            return None
        hidden = self._hidden(layer, view)
        seen = view.slots[:, None, :] <= view.slots[:, :, None]
        pairs = (view.real & ~view.visual)[:, :, None] & hidden[:, None, :] & seen
        apart = None
        if self.among:
            own = torch.eye(view.slots.shape[1], dtype=torch.bool, device=view.slots.device)
            apart = view.visual[:, :, None] & hidden[:, None, :] & seen & ~own
        if self.mode == "merge":
            return Edit(pairs, "merge", merge_onto(self.onto, view), hidden=apart)
        return Edit(pairs if apart is None else pairs | apart, self.mode)

    def _hidden(self, layer: int, view: View) -> Tensor:
        if self.which == "all":
            return view.visual
        counts = [self.count] * len(view.slots)
        if self.which == "random":
            score = torch.rand(view.slots.shape, generator=torch.Generator().manual_seed(1000 * self.seed + layer)).to(view.slots.device)
            return highest(score, view.visual, counts)
        assert self._score is not None  # `see` came first
        top = highest(-self._score if self.which == "lowest" else self._score, view.visual, counts)
        return view.visual & ~top if self.which == "all but highest" else top


# -- looking -----------------------------------------------------------------------------------------------
class Looking(Nothing):
    """Keeps `see`'s answer of every layer: a pruner that changes nothing."""

    def __init__(self, see: Callable[[int, View, Rows], object]):
        self.each, self.by_layer = see, {}

    def wants(self, layer: int) -> bool:
        return True

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        if rows is not None:
            self.by_layer[layer] = self.each(layer, view, rows)
        return None


def sinks() -> Looking:
    """by_layer[l] = (attention (B, n) of the last token, mean over heads; |v|_1 (B, n), summed over key-value heads; visual (B, n))."""
    return Looking(lambda layer, view, rows: (rows.weights.mean(1), rows.values.abs().sum((1, 3)), view.visual))


def influences() -> Looking:
    """by_layer[l] = (Influence, visual (B, n)): what leaving out each token would do, in every layer."""
    return Looking(lambda layer, view, rows: (influence(rows.weights, rows.values), view.visual))


Stage = dict[str, Any]  # {"present": numbers of the visual tokens that a layer holds, "share": |c_j| / |O| of each of them}


class Watched(VisiPruner):
    """VisiPruner whose every layer is looked at. stages[row][layer]: a Stage."""

    def begin(self, view: View, n_layers: int) -> None:
        super().begin(view, n_layers)
        self.stages: list[list[Stage]] = [[] for _ in view.slots]
        self.first = [view.slots[b, row].tolist() for b, row in enumerate(view.visual)]  # slots of the picture, by number

    def wants(self, layer: int) -> bool:
        return True

    def keep(self, layer: int, view: View, rows: Rows | None) -> Tensor | None:
        if rows is None:
            return None
        of = influence(rows.weights, rows.values)
        for b, stages in enumerate(self.stages):
            here = view.visual[b]
            number = {slot: i for i, slot in enumerate(self.first[b])}
            stages.append({"present": [number[slot] for slot in view.slots[b, here].tolist()],
                           "share": [round(x, 4) for x in (of.norm[b, here] / of.output[b]).tolist()]})
        return super().keep(layer, view, rows)


@torch.no_grad()
def logit_lens(model: nn.Module, hidden_states: Sequence[Tensor]) -> Tensor:
    """(layers, B, V) log-probabilities of the last slot behind each layer: the model's own norm and way to logits on each state.

    hidden_states: of a forward with output_hidden_states=True; the last of them has gone through the norm already.
    """
    norm = model.get_decoder().norm
    last = [state[:, -1] for state in hidden_states[1:]]
    normed = [*(norm(state) for state in last[:-1]), last[-1]]
    return torch.stack([by_own_head(model, state).float().log_softmax(-1) for state in normed])


# -- calibration -------------------------------------------------------------------------------------------
THRESHOLDS = (0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)


def calibrate(outcome: Callable[[VisiPrunerConfig], tuple[float, float]], n_layers: int, at_least: float = 0.97,
              thresholds: Sequence[float] = THRESHOLDS, base: VisiPrunerConfig | None = None) -> tuple[VisiPrunerConfig, list[dict]]:
    """(config, what was tried): boundary and relative threshold for a model, from pictures without labels (never the test set).

    outcome(config) = (the share of prompts whose answer under VisiPruner is the model's own, visual pairs that are left as a share
    of all). For each boundary the highest threshold with at_least that much agreement is searched (agreement falls as the threshold
    rises: by halving); of all these the config with the fewest pairs is taken. Where no pair of numbers agrees that often, the one
    that agrees most. The paper chose both numbers by hand for one model, and its cosine test alone does not find the boundary of
    another (spec 8.2).
    """
    tried: list[dict] = []
    base = base or paper(shallow=None)

    def attempt(boundary: int, threshold: float) -> dict:
        config = base.with_(boundary=boundary, relative=True, tokens_threshold=threshold)
        agreement, left = outcome(config)
        tried.append({"boundary": boundary, "threshold": threshold, "agreement": agreement, "pairs": left})
        return tried[-1]

    ordered = sorted(thresholds)
    for boundary in range(-1, n_layers - 2):
        low, high = 0, len(ordered)  # thresholds below `low` agree, those from `high` on do not
        while low < high:
            middle = (low + high) // 2
            if attempt(boundary, ordered[middle])["agreement"] >= at_least:
                low = middle + 1
            else:
                high = middle
    good = [each for each in tried if each["agreement"] >= at_least]
    best = min(good, key=lambda each: each["pairs"]) if good else max(tried, key=lambda each: each["agreement"])
    return base.with_(boundary=best["boundary"], relative=True, tokens_threshold=best["threshold"]), tried
