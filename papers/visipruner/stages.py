"""The paper's guideline, taken literally: a LLaVA in which the picture enters at one layer and leaves behind another.

The abstract ends with "actionable guidelines for training efficient MLLMs by aligning model architecture with its intrinsic
layer-wise processing dynamics"; the authors' HiDrop (arXiv 2602.23699) is what they made of it. Here

    layers 0 to first - 1      text alone; visual tokens wait as the projector made them
    layers first to last       visual tokens beside the text, as in any LLaVA
    layers last + 1 and on     text alone

`hidden` runs the stock decoder so, with gradients, for rows of several questions (common/vision/layout.py). What is computed
on waiting and on gone tokens is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import SetupError
from common.vision.layout import Layout, additive, joint


@dataclass(frozen=True)
class Stages:
    """first, last: layers, counted from 0, between which the picture is there. Raises SetupError unless 0 <= first <= last < layers."""

    first: int
    last: int

    def check(self, layers: int) -> None:
        if not 0 <= self.first <= self.last < layers:
            raise SetupError(f"first {self.first}, last {self.last}: the picture is there in one layer or more of the model's {layers} "
                             "(counted from 0)")


def hidden(decoder: nn.Module, layout: Layout, visual: Tensor, stages: Stages, text: Tensor | None = None) -> Tensor:
    """Last hidden states (B, T, d) at text slots. visual (B, N, d): projected; text (B, T, d): embeddings, default those of the ids."""
    stack = decoder.get_decoder()
    stages.check(len(stack.layers))
    text = decoder.get_input_embeddings()(layout.ids) if text is None else text
    embeds, positions, mask, _ = joint(layout, text, visual)
    if decoder.config._attn_implementation == "eager":
        mask = additive(mask, embeds)
    n, waiting = visual.shape[1], []

    def before(number: int):
        inside = stages.first <= number <= stages.last

        def hook(module, args, kwargs):
            states = args[0] if args else kwargs["hidden_states"]
            if number == 0 and not inside:
                waiting.append(states[:, :n])  # behind what the model does to all embeddings
                states = states[:, n:]
            elif number == stages.first and number > 0:
                states = torch.cat([waiting.pop(), states], 1)
            elif number == stages.last + 1:
                states = states[:, n:]
            if not inside:
                kwargs = kwargs | {name: _text(value, n) for name, value in kwargs.items() if name in SLICED and value is not None}
            return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})

        return hook

    hooks = [layer.register_forward_pre_hook(before(i), with_kwargs=True) for i, layer in enumerate(stack.layers)]
    try:
        out = stack(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    finally:
        for each in hooks:
            each.remove()
    return out[:, n:] if stages.last == len(stack.layers) - 1 else out


SLICED = ("attention_mask", "position_ids", "position_embeddings")


def _text(value, n: int):
    """Masks (B, 1, S, S), positions (B, S) and rotary tables (B, S, d), without their first n slots."""
    if isinstance(value, tuple):
        return tuple(_text(part, n) for part in value)
    return value[..., n:, n:] if value.dim() == 4 else value[:, n:]


def multiply_adds(layers: int, linear: int, width: int, visual: int, text: int, stages: Stages) -> tuple[int, int]:
    """(dense, with stages) multiply-adds of a prefill; linear: weights of a layer's projections and MLP; width: of its queries."""
    def layer(tokens: int) -> int:
        return linear * tokens + 2 * width * tokens * tokens

    inside = stages.last - stages.first + 1
    return layers * layer(visual + text), inside * layer(visual + text) + (layers - inside) * layer(text)
