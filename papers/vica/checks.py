"""Which decoders ViCA fits: what it uses of one, and what would make its result another one's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from torch import nn


def refuse(language_model: nn.Module, base: str, bases: Sequence[str], config: Any = None) -> None:
    """Raises TypeError naming the property for which a decoder cannot run ViCA, ValueError for layers it does not have.

    base: its attention, of which `bases` can be joined. config: a ViCAConfig, if layers and prefix are to be looked at as well.
    """
    kind, c = type(language_model).__name__, language_model.config.get_text_config(decoder=True)
    if base not in bases:
        raise TypeError(f"{kind} uses attention {base!r}; ViCA joins keys in {', '.join(bases)}: load it with one of them")
    kinds = set(getattr(c, "layer_types", None) or ())
    if kinds - {"full_attention"} or (not kinds and getattr(c, "sliding_window", None) and getattr(c, "use_sliding_window", True)):
        raise TypeError(f"{kind} has layers that do not see the whole text (sliding_window, linear attention): a picture "
                        "would fall out of the window")
    if getattr(c, "attn_logit_softcapping", None):
        raise TypeError(f"{kind} caps its attention scores (attn_logit_softcapping)")
    if "mrope_section" in (getattr(c, "rope_parameters", None) or {}):
        raise TypeError(f"{kind} has positions of three dimensions (mrope_section); ViCA counts one")
    for layer in language_model.get_decoder().layers:
        attention = layer.self_attn
        for needed in ("k_proj", "v_proj"):
            if not hasattr(attention, needed):
                raise TypeError(f"{kind}: attention has no {needed}; ViCA computes keys and values of visual tokens by it")
        if not hasattr(layer, "input_layernorm"):
            raise TypeError(f"{kind}: layers have no input_layernorm before attention")
        if hasattr(attention, "sinks"):
            raise TypeError(f"{kind}: attention has sinks")
        if not hasattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb"):
            raise TypeError(f"{kind}: positions are not rotary")
    n_layers = c.num_hidden_layers
    if config is not None and any(k >= n_layers for k in config.cross_layers):
        raise ValueError(f"cross layer {max(config.cross_layers)}: {kind} has layers 0 to {n_layers - 1}")
    if config is not None and config.prefix_update == "frozen" and getattr(c, "attention_bias", False):
        raise TypeError(f"{kind}: o_proj has a bias (attention_bias), so a frozen prefix cannot be had by zero attention")
