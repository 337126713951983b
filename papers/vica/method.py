"""ViCA: text looks at the picture in a few layers, and the picture is never computed on.

A multimodal decoder treats visual tokens like words: 576 of them are queries, keys and FFN inputs in every layer. The
paper finds that projected visual embeddings v need no such work and that text reads them in few layers only. So

    visual states never change                     h_v = v in every layer
    layer l in C:      text attends to [text ; visual], in ONE softmax
    layer l not in C:  text attends to text
    visual keys, values come from the layer's own norm and projections: K = RoPE(W_K norm_l(v)), V = W_V norm_l(v)
    positions are those of the whole sequence, also where visual keys are absent

No parameter is added (spec 3.2). Who sees whom is one rule: query i sees key j iff j is real, position[j] <= position[i], and
the segment of j is 0 or that of i. Segments let several questions share a picture in one row; without them all is segment 0.
`prefix_update="frozen"` is the variant of the paper's 7B checkpoint: text before the picture gets no attention output, only its
FFN (spec 3.3). Read in this order:

    definition      those five lines on the whole sequence, by masks: slow, and what everything else is tested against
    layer_kv        keys and values of the picture in a layer of C; VisualKV keeps them for more questions
    attend          the one attention function: in the layers of C it joins the picture's keys to those of the text
    hidden_states   the fast path: the UNCHANGED transformers decoder runs over the text alone; forward gives logits

Training and inference take the same path; a `ViCACache` makes it a step of decoding. Parts beside this file: masks.py, the
rule; unmasked.py, the form that needs none; calls.py, what a call prepares for its layers; checks.py, which models ViCA fits.
On top of it: decoding.py, `generate`; checkpoint.py, vica.json; reference.py, the definition for a batch of the vision kit.

Shapes: B rows, T text slots, N visual slots, d width, Hk key heads of size hd.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PAPER_CROSS_LAYERS: dict[str, tuple[int, ...]] = {  # 0-based decoder layers (the paper's repository, README)
    "llava-1.5-3b": (0, 1, 14, 15, 18, 19, 21, 22, 23),
    "llava-1.5-7b": (0, 1, 7, 8, 9, 10, 11, 14),
    "llava-1.5-13b": (0, 6, 8, 9, 10, 13, 14, 16),
}


@dataclass(frozen=True)
class ViCAConfig:
    """cross_layers: C, 0-based. prefix_update: "full", or "frozen" as in the paper's 7B checkpoint.

    Kept beside the weights (checkpoint.py): the same weights with other layers are another model (spec 6.9).
    """

    cross_layers: tuple[int, ...]
    prefix_update: Literal["full", "frozen"] = "full"

    def __post_init__(self) -> None:
        layers = tuple(self.cross_layers)
        if any(not isinstance(k, int) or k < 0 for k in layers) or len(set(layers)) != len(layers):
            raise ValueError(f"cross_layers {list(layers)}: distinct layer numbers from 0 on")
        if self.prefix_update not in ("full", "frozen"):
            raise ValueError(f"prefix_update {self.prefix_update!r} is neither full nor frozen")
        object.__setattr__(self, "cross_layers", tuple(sorted(layers)))


@dataclass
class Places:
    """Where the slots of a batch stand in the whole sequence, in which a picture has as many positions as visual tokens.

    positions (B, T) of the text, visual_positions (B, N) of the picture; real (B, T), visual_real (B, N): False for padding, also
    for all slots of a row without a picture; segments (B, T). None: none is padding, one segment. Anything with these fields
    does as well, e.g. a common.vision.layout.Layout.
    """

    positions: Tensor
    visual_positions: Tensor | None = None
    real: Tensor | None = None
    visual_real: Tensor | None = None
    segments: Tensor | None = None


# -- the definition ----------------------------------------------------------------------------------------
def definition(language_model: nn.Module, config: ViCAConfig, embeds: Tensor, places: Places, visual: Tensor,
               keep: dict[int, Tensor] | None = None) -> Tensor:
    """Logits (B, T, V) of the text, with [visual ; text] (B, N + T, d) as one sequence under masks (spec 3.4).

    Arguments as in `forward`; every field of `places` is given.
    """
    from .calls import silenced
    from .masks import as_read, before_picture, visible

    decoder, n, x = language_model.get_decoder(), visual.shape[1], torch.cat([visual, embeds], 1)
    positions = torch.cat([places.visual_positions, places.positions], 1)
    real = torch.cat([places.visual_real, places.real], 1)
    segments = torch.cat([torch.zeros_like(places.visual_positions), places.segments], 1)
    own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)  # padding sees itself: its softmax stays finite
    seen = (visible(positions, segments, positions, real, segments) | own)[:, None]

    def put_mask(layer: int):
        def act(module, args, kwargs):
            here = seen.clone()
            if layer not in config.cross_layers:
                here[..., :n] = False  # text attends to text
            elif keep is not None and layer in keep:
                here[..., :n] &= keep[layer][:, None, None]
            kwargs["attention_mask"] = as_read(here | own, decoder.config._attn_implementation, x)
            return args, kwargs

        return act

    unmoved = torch.cat([torch.ones_like(places.visual_real), torch.zeros_like(places.real)], 1)  # h_v = v
    idle = unmoved.clone()
    if config.prefix_update == "frozen" and n:
        idle[:, n:] = before_picture(places.positions, places.visual_positions, places.visual_real)
    hooks = [layer.register_forward_pre_hook(put_mask(i), with_kwargs=True) for i, layer in enumerate(decoder.layers)]
    try:
        with silenced(decoder, idle, unmoved):
            out = decoder(inputs_embeds=x, attention_mask=seen, position_ids=positions, use_cache=False)
    finally:
        for each in hooks:
            each.remove()
    return language_model.lm_head(out.last_hidden_state[:, n:])


# -- visual keys and values --------------------------------------------------------------------------------
@dataclass
class VisualKV:
    """Keys (rotated, normed where the model norms keys) and values of the visual tokens in the layers of C.

    keys, values {layer: (B, Hk, N, hd)}; positions (B, N); real (B, N) bool. Never appended to while text is written.
    """

    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    positions: Tensor
    real: Tensor

    def select(self, rows: Tensor) -> VisualKV:
        """The rows of an index, e.g. of beams."""
        return VisualKV({k: v[rows] for k, v in self.keys.items()}, {k: v[rows] for k, v in self.values.items()},
                        self.positions[rows], self.real[rows])

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for side in (self.keys, self.values) for t in side.values())


def layer_kv(layer: nn.Module, visual: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """(keys, values), each (B, Hk, N, hd), of a decoder layer for visual (B, N, d): its norm, its projections, rotated."""
    attention, normed = layer.self_attn, layer.input_layernorm(visual)
    shape = (*visual.shape[:2], -1, attention.head_dim)
    keys = attention.k_proj(normed).view(shape)
    if hasattr(attention, "k_norm"):  # Qwen3: per head, before the rotation
        keys = attention.k_norm(keys)
    keys, values = keys.transpose(1, 2), attention.v_proj(normed).view(shape).transpose(1, 2)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    return rotate(keys, keys, cos, sin)[1], values


def compute_visual_kv(language_model: nn.Module, visual: Tensor, positions: Tensor, layers: Sequence[int],
                      real: Tensor | None = None) -> VisualKV:
    """All at once, e.g. to keep for more questions on a picture. visual (B, N, d), positions, real (B, N)."""
    decoder = language_model.get_decoder()
    cos, sin = decoder.rotary_emb(visual, positions)
    of_layer = {k: layer_kv(decoder.layers[k], visual, cos, sin) for k in layers}
    return VisualKV({k: v[0] for k, v in of_layer.items()}, {k: v[1] for k, v in of_layer.items()}, positions,
                    torch.ones_like(positions, dtype=torch.bool) if real is None else real)


# -- the attention function --------------------------------------------------------------------------------
PREFIX, BASES = "vica_", ("sdpa", "eager")


def attend(module, query, key, value, attention_mask, vica=None, vica_visual: Tensor | None = None, **kwargs):
    """Stock attention; in a layer of C over [visual ; text] keys. query (B, H, T, hd), key, value (B, Hk, S, hd); vica: a calls.Call."""
    name = module.config._attn_implementation.removeprefix(PREFIX)
    stock = sys.modules[type(module).__module__].eager_attention_forward if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
    if vica is None:
        return stock(module, query, key, value, attention_mask, **kwargs)
    looks = module.layer_idx in vica.layers
    if looks:
        more = (vica.kv.keys[module.layer_idx], vica.kv.values[module.layer_idx]) if vica.kv else vica.made[module.layer_idx]
        if vica.split is None:
            key, value = (torch.cat([v.to(t.dtype), t], 2) for v, t in zip(more, (key, value)))
            attention_mask = vica.joint_masks[module.layer_idx]
    if vica.split is not None:
        from .unmasked import attention

        return attention(query, key, value, more if looks else None, vica.split, vica.idle, kwargs.get("scaling")), None
    out, weights = stock(module, query, key, value, attention_mask, **kwargs)
    if vica.idle is not None:
        out = out.masked_fill(vica.idle[..., None, None], 0)
    return out, weights


for _name in BASES:
    AttentionInterface.register(PREFIX + _name, attend)
    # Without one transformers would hand on no mask at all to a call that is not ours.
    AttentionMaskInterface.register(PREFIX + _name, ALL_MASK_ATTENTION_FUNCTIONS[_name])


# -- the fast path -----------------------------------------------------------------------------------------
class ViCACache(DynamicCache):
    """Keys and values of text (equally long in all layers), where that text stands, and the picture's keys and values."""

    def __init__(self, config=None):
        super().__init__(config=config) if config is not None else super().__init__()
        self.positions = self.real = self.segments = None  # (B, S) of the cached text
        self.visual: VisualKV | None = None

    def extend(self, *new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """new: positions, real, segments (B, T) of the text that comes. The same (B, S) of all text that is there then."""
        old = (self.positions, self.real, self.segments)
        self.positions, self.real, self.segments = new if old[0] is None else (torch.cat(pair, 1) for pair in zip(old, new))
        return self.positions, self.real, self.segments


def hidden_states(language_model: nn.Module, config: ViCAConfig, embeds: Tensor, places: Places, visual: Tensor | VisualKV | None = None,
                  past_key_values: ViCACache | None = None, keep: dict[int, Tensor] | None = None) -> Tensor:
    """Last hidden states (B, T, d) of the text; arguments as in `forward`."""
    from .calls import attending, plan

    decoder, base = language_model.get_decoder(), language_model.config._attn_implementation.removeprefix(PREFIX)
    call, unseen = _picture(language_model, config, places, visual, past_key_values)
    mask = plan(call, places, embeds, base, past_key_values, keep, config.prefix_update == "frozen")
    looked_at = {} if unseen is None else {"vica_visual": unseen}
    with attending(language_model, PREFIX, call.layers if looked_at else (), _make_kv):
        out = decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=places.positions, past_key_values=past_key_values,
                      use_cache=past_key_values is not None, vica=call, **looked_at)
    return out.last_hidden_state


def _picture(language_model: nn.Module, config: ViCAConfig, places: Places, visual: Tensor | VisualKV | None, cache: ViCACache | None):
    """(a calls.Call that knows the picture, the embeddings of one whose keys and values are still to be made).

    A cache gets the keys and values in its first call, and gives them in all others.
    """
    from .calls import Call

    layers = frozenset(config.cross_layers)
    if cache is not None and cache.visual is not None and not isinstance(visual, VisualKV):
        visual = cache.visual
    if isinstance(visual, VisualKV):
        return Call(layers, visual.positions, visual.real, kv=visual), None
    if visual is None or visual.shape[1] == 0:
        return Call(), None
    where, real = places.visual_positions, places.visual_real
    real = torch.ones_like(where, dtype=torch.bool) if real is None else real
    if not layers:
        return Call(layers, where, real), None
    if cache is not None:
        cache.visual = compute_visual_kv(language_model, visual, where, config.cross_layers, real)
        return Call(layers, where, real, kv=cache.visual), None
    return Call(layers, where, real, rotary=language_model.get_decoder().rotary_emb(visual, where)), visual


def _make_kv(layer: nn.Module, args: tuple, kwargs: dict):
    """Before a layer of C runs, inside its call: sharded weights are gathered there, and checkpointing runs it again.

    The picture comes as an argument of the layer: only of tensors among these does FSDP know that their gradients, too,
    must be there before it gives a layer's weights back.
    """
    call, visual = kwargs.get("vica"), kwargs.get("vica_visual")
    if call is not None and visual is not None and layer.self_attn.layer_idx in call.layers:
        call.made[layer.self_attn.layer_idx] = layer_kv(layer, visual, *call.rotary)


def check_model(language_model: nn.Module, config: ViCAConfig | None = None) -> None:
    """Raises TypeError naming the property for which a decoder cannot run ViCA, ValueError for layers it does not have."""
    from .checks import refuse

    refuse(language_model, language_model.config._attn_implementation.removeprefix(PREFIX), BASES, config)


def forward(language_model: nn.Module, config: ViCAConfig, embeds: Tensor, places: Places, visual: Tensor | VisualKV | None = None,
            past_key_values: ViCACache | None = None, logits_to_keep: int = 0,
            keep: dict[int, Tensor] | None = None) -> CausalLMOutputWithPast:
    """Logits (B, T, V) of a stock *ForCausalLM over text slots, ViCA inside; check_model says which models.

    embeds (B, T, d): of text tokens only. visual: the picture's embeddings (B, N, d), or the keys and values of one that was seen
    before (`compute_visual_kv`). past_key_values: a ViCACache, filled by the first call and then given again with one or more new
    tokens; the picture is not given again. keep {layer: (B, N) bool}: visual keys that a layer still looks at; others are gone
    (PyramidDrop). logits_to_keep: of the last slots only; 0 for all.
    Raises TypeError, ValueError as check_model; ValueError for visual embeddings without positions.
    """
    check_model(language_model, config)
    if isinstance(visual, Tensor) and places.visual_positions is None:
        raise ValueError("visual embeddings need visual_positions: where the picture stands in the whole sequence")
    hidden = hidden_states(language_model, config, embeds, places, visual, past_key_values, keep)
    return CausalLMOutputWithPast(logits=language_model.lm_head(hidden[:, -logits_to_keep:]), past_key_values=past_key_values)


def loss_sum(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of cross-entropies in fp32, number of scored slots); targets (B, T), -100 = not scored, already shifted."""
    scored = targets != -100
    return F.cross_entropy(logits[scored].float(), targets[scored], reduction="sum"), scored.sum()
