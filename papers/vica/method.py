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
    layer_kv        keys and values of the picture in a layer of C, by the layer itself; VisualKV keeps them for more questions
    attend          the one attention function: in the layers of C it joins the picture's keys to those of the text
    hidden_states   the fast path: the UNCHANGED transformers decoder runs over the text alone; forward gives logits

Training and inference take the same path; a `ViCACache` makes it a step of decoding. Parts beside this file: masks.py, the
rule; unmasked.py, the form that needs none; layers.py, what a stock layer does with visual tokens; calls.py, what a call prepares
for its layers; checks.py, which models ViCA fits. On top of it: decoding.py, `generate`; multimodal.py, `ViCA(llava, config)` on a
stock model with its own vision tower; checkpoint.py, vica.json; reference.py, the definition for a batch of the vision kit.

Shapes: B rows, T text slots, N visual slots, d width, Hk key heads of size hd.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
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
        if any(not isinstance(k, int) or isinstance(k, bool) or k < 0 for k in layers) or len(set(layers)) != len(layers):
            raise ValueError(f"cross_layers {list(layers)}: distinct layer numbers from 0 on")
        if self.prefix_update not in ("full", "frozen"):
            raise ValueError(f"prefix_update {self.prefix_update!r} is neither full nor frozen")
        object.__setattr__(self, "cross_layers", tuple(sorted(layers)))


@dataclass
class Places:
    """Where the slots of a batch stand in the whole sequence, in which a picture has as many positions as visual tokens.

    positions (B, T) of the text, visual_positions (B, N) of the picture; real (B, T), visual_real (B, N): False for padding, also
    for all slots of a row without a picture; segments (B, T). None: none is padding, one segment. before: text slots before the picture,
    where that is known to be the same in all rows and nothing is padding; None: looked for. Anything with the other fields does as
    well, e.g. a common.vision.layout.Layout.
    """

    positions: Tensor
    visual_positions: Tensor | None = None
    real: Tensor | None = None
    visual_real: Tensor | None = None
    segments: Tensor | None = None
    before: int | None = None


# -- the definition ----------------------------------------------------------------------------------------
def definition(language_model: nn.Module, config: ViCAConfig, embeds: Tensor, places: Places, visual: Tensor,
               keep: dict[int, Tensor] | None = None) -> Tensor:
    """Logits (B, T, V) of the text, with [visual ; text] (B, N + T, d) as one sequence under masks (spec 3.4).

    Arguments as in `forward`; every field of `places` is given.
    """
    from .calls import silenced, unmoved
    from .layers import logits, no_mask
    from .masks import as_read, before_picture, visible, windows

    decoder, n, x = language_model.get_decoder(), visual.shape[1], torch.cat([visual, embeds], 1)
    positions = torch.cat([places.visual_positions, places.positions], 1)
    real = torch.cat([places.visual_real, places.real], 1)
    segments = torch.cat([torch.zeros_like(places.visual_positions), places.segments], 1)
    own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)  # padding sees itself: its softmax stays finite
    window = windows(decoder.config)

    def mask(layer: int) -> Tensor:
        seen = visible(positions, segments, positions, real, segments, window[layer])[:, None]
        if layer not in config.cross_layers:
            seen[..., :n] = False  # text attends to text
        elif keep is not None and layer in keep:
            seen[..., :n] &= keep[layer][:, None, None]
        return as_read(seen | own, decoder.config._attn_implementation, x)

    still = torch.cat([torch.ones_like(places.visual_real), torch.zeros_like(places.real)], 1)  # h_v = v
    idle = still.clone()
    if config.prefix_update == "frozen" and n:
        idle[:, n:] = before_picture(places.positions, places.visual_positions, places.visual_real)
    with unmoved(decoder, still, mask), silenced(decoder, idle, None):
        out = decoder(inputs_embeds=x, attention_mask=no_mask(x), position_ids=positions, use_cache=False)
    return logits(language_model, out.last_hidden_state[:, n:])


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
        return self.changed(lambda each: each[rows])

    def changed(self, change: Callable[[Tensor], Tensor]) -> VisualKV:
        """With its rows moved by a function of any tensor (B, ...)."""
        return VisualKV({k: change(v) for k, v in self.keys.items()}, {k: change(v) for k, v in self.values.items()},
                        change(self.positions), change(self.real))

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for side in (self.keys, self.values) for t in side.values())


def layer_kv(layer: nn.Module, visual: Tensor, entry: Any) -> tuple[Tensor, Tensor]:
    """(keys, values), each (B, Hk, N, hd), that a decoder layer would put into a cache for states visual (B, N, d): its own norm,
    projections and rotation. entry: what else the layer is called with at their positions (layers.lead_in)."""
    from .layers import Entry, keys_values

    attention = next(m for m in layer.modules() if m is not layer and hasattr(m, "layer_idx") and hasattr(m, "config"))
    return keys_values(layer, attention, Entry(visual, entry.args, entry.kwargs))


def compute_visual_kv(language_model: nn.Module, visual: Tensor, positions: Tensor, layers: Sequence[int],
                      real: Tensor | None = None) -> VisualKV:
    """All at once, e.g. to keep for more questions on a picture. visual (B, N, d), positions, real (B, N). Raises as check_model."""
    from .layers import stack

    check_model(language_model, ViCAConfig(tuple(layers)))
    entries, blocks = _entries(language_model, visual, positions), stack(language_model.get_decoder())[1]
    of_layer = {k: layer_kv(blocks[k], entries[k].hidden, entries[k]) for k in layers}
    return VisualKV({k: v[0] for k, v in of_layer.items()}, {k: v[1] for k, v in of_layer.items()}, positions,
                    torch.ones_like(positions, dtype=torch.bool) if real is None else real)


def _entries(language_model: nn.Module, visual: Tensor, positions: Tensor) -> list:
    """What each layer is called with for the picture; of no FLOPs worth counting, for no layer runs."""
    from .checks import fits, within_length
    from .layers import lead_in

    decoder = language_model.get_decoder()
    within_length(decoder, positions)
    return lead_in(decoder, visual, positions, fits(decoder).returns)


# -- the attention function --------------------------------------------------------------------------------
PREFIX, BASES = "vica_", ("sdpa", "eager")


def attend(module, query, key, value, attention_mask, vica=None, vica_visual: Tensor | None = None, **kwargs):
    """Stock attention; in a layer of C over [visual ; text] keys. query (B, H, T, hd), key, value (B, Hk, S, hd); vica: a calls.Call."""
    from .layers import RECORD, Enough

    recorded, layer = RECORD.get(), module.layer_idx
    if isinstance(recorded, list):
        recorded += (key, value)
        raise Enough
    if recorded is not None:
        recorded.setdefault(layer, []).append((key, value))
    call = module.__dict__["_vica_now"]
    call.reached.add(layer)
    more = None
    if layer in call.layers:
        more = (call.kv.keys[layer], call.kv.values[layer]) if call.kv else call.made[layer]
    if call.split is not None and not any(kwargs.get(name) is not None for name in ("softcap", "s_aux")):
        from .unmasked import attention

        return attention(query, key, value, more, call.split, call.idle, kwargs.get("scaling"), kwargs.get("dropout", 0.0)), None
    if more is not None:
        key, value = (torch.cat([v.to(t.dtype), t], 2) for v, t in zip(more, (key, value)))
    return _stock(module, call.base)(module, query, key, value, call.mask(layer, query), **kwargs)


def _stock(module: nn.Module, name: str) -> Callable:
    """The attention function that the module runs by without us: eager ones stand beside their module's class."""
    if name != "eager":
        return ALL_ATTENTION_FUNCTIONS[name]
    return next(f for c in type(module).__mro__ if (f := getattr(sys.modules[c.__module__], "eager_attention_forward", None)))


for _name in BASES:
    AttentionInterface.register(PREFIX + _name, attend)


# -- the fast path -----------------------------------------------------------------------------------------
class ViCACache(DynamicCache):
    """Keys and values of text (equally long in all layers), where that text stands, and the picture's keys and values.

    Rows move together, picture included: reorder_cache, batch_repeat_interleave and batch_select_indices, as of any cache. crop(-n)
    takes n tokens of text back; reset() forgets everything. Raises ValueError for text that goes on behind a call that was broken off,
    or behind keys that a stock model wrote, of which it is not known where they stand.
    """

    def __init__(self) -> None:
        super().__init__()  # without a config: a layer with a window would throw away what another layer's picture stands behind
        self.positions = self.real = self.segments = None  # (B, S) of the cached text
        self.visual: VisualKV | None = None

    def extend(self, *new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """new: positions, real, segments (B, T) of the text that comes. The same (B, S) of all text that is there then."""
        known = 0 if self.positions is None else self.positions.shape[1]
        if any(layer.get_seq_length() != known for layer in self.layers if layer.is_initialized):
            raise ValueError("past_key_values: its layers hold other text than what is known of them. The call before was broken off, or "
                             "a stock model wrote there: begin with a new ViCACache().")
        old = (self.positions, self.real, self.segments)
        self.positions, self.real, self.segments = new if old[0] is None else (torch.cat(pair, 1) for pair in zip(old, new))
        return self.positions, self.real, self.segments

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.positions is not None:
            self.positions, self.real, self.segments = (change(each) for each in (self.positions, self.real, self.segments))
        if self.visual is not None:
            self.visual = self.visual.changed(change)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._rows(lambda each: each.index_select(0, beam_idx.to(each.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._rows(lambda each: each.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._rows(lambda each: each[indices.to(each.device)])

    def crop(self, tokens_to_remove: int) -> None:
        """Takes the last tokens of text back, -tokens_to_remove of them; the picture stays. Raises ValueError for a positive number, which
        transformers before 5.18 read as a length, and for more tokens than there are."""
        held = 0 if self.positions is None else self.positions.shape[1]
        if not -held <= tokens_to_remove <= 0:
            raise ValueError(f"crop({tokens_to_remove}): minus the number of tokens to take back, and {held} are there")
        if tokens_to_remove and self.positions is not None:
            super().crop(tokens_to_remove)
            self.positions, self.real, self.segments = (
                each[:, :tokens_to_remove] for each in (self.positions, self.real, self.segments))

    def reset(self) -> None:
        self.layers.clear()  # of transformers 5.17 a layer that is reset keeps its length
        self.positions = self.real = self.segments = self.visual = None


def hidden_states(language_model: nn.Module, config: ViCAConfig, embeds: Tensor, places: Places, visual: Tensor | VisualKV | None = None,
                  past_key_values: ViCACache | None = None, keep: dict[int, Tensor] | None = None) -> Tensor:
    """Last hidden states (B, T, d) of the text; arguments and errors as in `forward`."""
    from .calls import attending, plan
    from .checks import within_length
    from .layers import no_mask

    check_model(language_model, config)
    if keep and (idle := sorted(keep.keys() - set(config.cross_layers))):
        raise ValueError(f"keep names layers {idle}, which do not look: those of C are {list(config.cross_layers)}")
    if isinstance(visual, Tensor) and places.visual_positions is None:
        raise ValueError("visual embeddings need visual_positions: where the picture stands in the whole sequence")
    decoder = language_model.get_decoder()
    within_length(decoder, places.positions)
    call, unseen = _picture(language_model, config, places, visual, past_key_values)
    plan(call, decoder, places, past_key_values, keep, config.prefix_update == "frozen")
    looked_at = {} if unseen is None else {"vica_visual": unseen}
    with attending(decoder, call, _make_kv):
        out = decoder(inputs_embeds=embeds, attention_mask=no_mask(embeds), position_ids=places.positions,
                      past_key_values=past_key_values, use_cache=past_key_values is not None, vica=call, **looked_at)
    return out.last_hidden_state


def _picture(language_model: nn.Module, config: ViCAConfig, places: Places, visual: Tensor | VisualKV | None, cache: ViCACache | None):
    """(a calls.Call that knows the picture, its states if keys and values are still to be made of them).

    A cache gets the keys and values in its first call, made then or before, and gives them in all others.
    """
    from .calls import Call

    layers, base = frozenset(config.cross_layers), language_model.get_decoder().config._attn_implementation
    if cache is not None and cache.visual is not None and not isinstance(visual, VisualKV):
        visual = cache.visual
    if isinstance(visual, VisualKV):
        if missing := layers - visual.keys.keys():
            raise ValueError(f"the picture's keys and values were kept for layers {sorted(visual.keys)}, and {sorted(missing)} look, too")
        if cache is not None:
            cache.visual = visual
        return Call(base, layers, visual.positions, visual.real, kv=visual), None
    if visual is None or visual.shape[1] == 0:
        return Call(base), None
    where, real = places.visual_positions, places.visual_real
    real = torch.ones_like(where, dtype=torch.bool) if real is None else real
    if not layers:
        return Call(base, layers, where, real), None
    if cache is not None:
        cache.visual = compute_visual_kv(language_model, visual, where, config.cross_layers, real)
        return Call(base, layers, where, real, kv=cache.visual), None
    entries = _entries(language_model, visual, where)
    return Call(base, layers, where, real, entries=entries), entries[0].hidden


def _make_kv(layer: nn.Module, args: tuple, kwargs: dict):
    """Before a layer of C runs, inside its call: sharded weights are gathered there, and checkpointing runs it again.

    The picture comes as an argument of the layer: only of tensors among these does FSDP know that their gradients, too,
    must be there before it gives a layer's weights back.
    """
    call, visual = kwargs.get("vica"), kwargs.get("vica_visual")
    if call is None or visual is None:
        return
    number = next(m.layer_idx for m in layer.modules() if m is not layer and hasattr(m, "layer_idx") and hasattr(m, "config"))
    if number in call.layers:
        call.made[number] = layer_kv(layer, visual, call.entries[number])


def check_model(language_model: nn.Module, config: ViCAConfig | None = None) -> None:
    """Raises ModelError (a UserError) naming the property for which a decoder cannot run ViCA, or layers that it does not have.

    The first call of a model probes it by numbers, on a few tokens (checks.py); others only look at the layers.
    """
    from .checks import refuse

    refuse(language_model, sys.modules[__name__], config)


def forward(language_model: nn.Module, config: ViCAConfig, embeds: Tensor, places: Places, visual: Tensor | VisualKV | None = None,
            past_key_values: ViCACache | None = None, logits_to_keep: int = 0,
            keep: dict[int, Tensor] | None = None) -> CausalLMOutputWithPast:
    """Logits (B, T, V) of a stock *ForCausalLM over text slots, ViCA inside; check_model says which models.

    embeds (B, T, d): of text tokens only. visual: the picture's embeddings (B, N, d), or the keys and values of one that was seen
    before (`compute_visual_kv`). past_key_values: a ViCACache, filled by the first call and then given again with one or more new
    tokens; the picture is not given again. keep {layer: (B, N) bool}: visual keys that a layer still looks at; others are gone
    (PyramidDrop). logits_to_keep: of the last slots only; 0 for all.
    Raises ModelError as check_model; ValueError for visual embeddings without positions, kept keys of too few layers, or keep for a layer
    that does not look.
    """
    hidden = hidden_states(language_model, config, embeds, places, visual, past_key_values, keep)
    return CausalLMOutputWithPast(logits=logits(language_model, hidden[:, -logits_to_keep:]), past_key_values=past_key_values)


def logits(language_model: nn.Module, hidden: Tensor) -> Tensor:
    """(..., V) of last hidden states (..., d), by the stock model's own head: with its scales and caps, where it has any."""
    from . import layers

    return layers.logits(language_model, hidden)


def loss_sum(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of cross-entropies in fp32, number of scored slots); targets (B, T), -100 = not scored, already shifted."""
    scored = targets != -100
    return F.cross_entropy(logits[scored].float(), targets[scored], reduction="sum"), scored.sum()
