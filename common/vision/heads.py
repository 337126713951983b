"""From last hidden states to logits by the model's own way, without running its layers again.

A decoder's head is not always its output embeddings: Granite and Cohere scale the logits, Gemma 2 caps them. Whoever scores a few
of the states that it has by another way (fused pictures, pruned ones) asks the stock model itself.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import MoeModelOutputWithPast


def by_own_head(decoder: nn.Module, states: Tensor) -> Tensor:
    """(A, V) of last hidden states (A, d), by the stock model's own way from states to logits: scales and caps included, which Granite,
    Cohere and Gemma 2 have and the output embeddings alone do not."""
    inner: Any = decoder.get_decoder()
    before = inner.__dict__.get("forward")
    inner.forward = lambda *args, **kwargs: MoeModelOutputWithPast(last_hidden_state=states[None])
    try:
        return decoder(inputs_embeds=states[None], use_cache=False).logits[0]
    finally:
        del inner.forward
        if before is not None:
            inner.forward = before
