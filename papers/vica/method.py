"""ViCA: text looks at the picture in a few layers, and the picture is never computed on.

A multimodal decoder treats visual tokens like words: 576 of them are queries, keys and FFN inputs in every layer. The
paper finds that projected visual embeddings v need no such work and that text reads them in few layers only. So

    visual states never change                     h_v = v in every layer
    layer l in C:      text attends to [text ; visual], in ONE softmax
    layer l not in C:  text attends to text
    visual keys, values come from the layer's own norm and projections: K = RoPE(W_K norm_l(v)), V = W_V norm_l(v)
    positions are those of the whole sequence, also where visual keys are absent

No parameter is added (spec 3.2). Here the UNCHANGED transformers decoder runs over the text alone; in the layers of C an
attention function joins visual keys and values to those of the text. Training and inference take the same path:
`hidden_states` or `forward` for whole texts and for steps of decoding with a `ViCACache`; `generate` for answers.

`prefix_update="frozen"` is the variant of the paper's 7B checkpoint: text before the picture gets no attention output, only
its FFN (spec 3.3). Who sees whom is one rule: query i sees key j iff j is real, position[j] <= position[i], and the segment
of j is 0 or that of i. Segments let several questions share a picture in one row; without them all is segment 0.

Shapes: B rows, T text slots, N visual slots, d width, Hk key heads of size hd.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# 0-based decoder layers (the paper's repository, README).
PAPER_CROSS_LAYERS: dict[str, tuple[int, ...]] = {
    "llava-1.5-3b": (0, 1, 14, 15, 18, 19, 21, 22, 23),
    "llava-1.5-7b": (0, 1, 7, 8, 9, 10, 11, 14),
    "llava-1.5-13b": (0, 6, 8, 9, 10, 13, 14, 16),
}
FILE = "vica.json"


@dataclass(frozen=True)
class ViCAConfig:
    """cross_layers: C, 0-based. prefix_update: "full", or "frozen" as in the paper's 7B checkpoint.

    Kept beside the weights as vica.json: the same weights with other layers are another model (spec 6.9).
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

    def save(self, folder: Path | str) -> None:
        Path(folder, FILE).write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> ViCAConfig:
        """Raises ValueError if the folder does not name the layers that look: there is no default."""
        path = Path(folder, FILE)
        if not path.is_file():
            raise ValueError(f"{path.parent.name}: no {FILE}, which names the cross layers; a ViCA checkpoint has one")
        try:
            entries = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path.parent.name}/{FILE} is no JSON: {error}") from error
        if not isinstance(entries, dict) or not isinstance(entries.get("cross_layers"), list):
            raise ValueError(f"{path.parent.name}/{FILE}: cross_layers is missing or no list")
        unknown = sorted(entries.keys() - {"cross_layers", "prefix_update"})
        if unknown:
            raise ValueError(f"{path.parent.name}/{FILE}: unknown entry {unknown[0]!r}")
        return cls(tuple(entries["cross_layers"]), entries.get("prefix_update", "full"))


def check_model(language_model: nn.Module, config: ViCAConfig | None = None) -> None:
    """Raises TypeError naming the property for which a decoder cannot run ViCA, ValueError for layers it does not have."""
    kind, c = type(language_model).__name__, language_model.config.get_text_config(decoder=True)
    base = c._attn_implementation.removeprefix(PREFIX)
    if base not in BASES:
        raise TypeError(f"{kind} uses attention {base!r}; ViCA joins keys in {', '.join(BASES)}: load it with one of them")
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


@dataclass
class _Call:
    """What the layers of one call need. It travels through the decoder's keyword arguments, so that layers which are run
    again in the backward pass (gradient checkpointing) find it again."""

    layers: frozenset[int]
    base: str
    rotary: tuple[Tensor, Tensor] | None = None
    kv: VisualKV | None = None
    made: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    joint_mask: Tensor | None = None  # (B, 1, T, N + keys of text)
    keep: dict[int, Tensor] | None = None
    idle: Tensor | None = None  # (B, T): rows without attention output
    split: int | None = None  # text slots before the picture, where no mask is needed (see _split)


def _base(module: nn.Module, name: str):
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]


def _attend(module, query, key, value, attention_mask, vica: _Call | None = None, vica_visual: Tensor | None = None, **kwargs):
    """Stock attention; in a layer of C over [visual ; text] keys. query (B, H, T, hd), key, value (B, Hk, S, hd)."""
    name = module.config._attn_implementation.removeprefix(PREFIX)
    if vica is None:
        return _base(module, name)(module, query, key, value, attention_mask, **kwargs)
    looks = module.layer_idx in vica.layers
    if looks:
        more = (vica.kv.keys[module.layer_idx], vica.kv.values[module.layer_idx]) if vica.kv else vica.made[module.layer_idx]
        if vica.split is None:
            key, value = (torch.cat([v.to(t.dtype), t], 2) for v, t in zip(more, (key, value)))
            attention_mask = vica.joint_mask
            if vica.keep is not None and module.layer_idx in vica.keep:
                attention_mask = _without(attention_mask, vica.keep[module.layer_idx])
    if vica.split is not None:
        return _split(query, key, value, more if looks else None, vica, **kwargs), None
    out, weights = _base(module, name)(module, query, key, value, attention_mask, **kwargs)
    if vica.idle is not None:
        out = out.masked_fill(vica.idle[..., None, None], 0)
    return out, weights


def _split(query: Tensor, key: Tensor, value: Tensor, visual: tuple[Tensor, Tensor] | None, vica: _Call, scaling=None, **_):
    """Attention without a mask for rows of equal shape: prefix on itself, suffix on all, aligned bottom right.

    Causal attention of SDPA is aligned top left and would be wrong for fewer queries than keys (spec 3.5).
    """
    p = vica.split
    options = dict(scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    if visual is None and vica.idle is None:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, **options)
        return out.transpose(1, 2).contiguous()
    if vica.idle is None and p:
        before = F.scaled_dot_product_attention(query[:, :, :p], key[:, :, :p], value[:, :, :p], is_causal=True, **options)
    else:
        before = torch.zeros_like(query[:, :, :p])
    if visual is not None:
        key, value = (torch.cat([t[:, :, :p], v.to(t.dtype), t[:, :, p:]], 2) for v, t in zip(visual, (key, value)))
    behind = query[:, :, p:]
    n, m = behind.shape[2], key.shape[2]
    if key.device.type == "cuda":  # lets flash kernels align it themselves; on CPUs the object only makes a mask
        bias = causal_lower_right(n, m)
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        options["enable_gqa"] = False
    else:
        bias = torch.ones(n, m, dtype=torch.bool, device=key.device).tril(m - n)
    after = F.scaled_dot_product_attention(behind, key, value, attn_mask=bias, **options)
    return torch.cat([before, after], 2).transpose(1, 2).contiguous()


def _without(mask: Tensor, keep: Tensor) -> Tensor:
    """The mask with visual keys (its first columns) that `keep` (B, N) leaves out gone."""
    n = keep.shape[1]
    if mask.dtype == torch.bool:
        return torch.cat([mask[..., :n] & keep[:, None, None], mask[..., n:]], -1)
    gone = torch.zeros(keep.shape, dtype=mask.dtype, device=mask.device).masked_fill_(~keep, torch.finfo(mask.dtype).min)
    return torch.cat([mask[..., :n].minimum(gone[:, None, None]), mask[..., n:]], -1)


for _name in BASES:
    AttentionInterface.register(PREFIX + _name, _attend)
    # Without one transformers would hand on no mask at all to a call that is not ours.
    AttentionMaskInterface.register(PREFIX + _name, ALL_MASK_ATTENTION_FUNCTIONS[_name])


def _make_kv(layer: nn.Module, args: tuple, kwargs: dict):
    """Before a layer of C runs, inside its call: sharded weights are gathered there, and checkpointing runs it again.

    The picture comes as an argument of the layer: only of tensors among these does FSDP know that their gradients, too,
    must be there before it gives a layer's weights back.
    """
    call, visual = kwargs.get("vica"), kwargs.get("vica_visual")
    if call is not None and visual is not None and layer.self_attn.layer_idx in call.layers:
        call.made[layer.self_attn.layer_idx] = layer_kv(layer, visual, *call.rotary)


# -- running it --------------------------------------------------------------------------------------------
class ViCACache(DynamicCache):
    """Keys and values of text (equally long in all layers), where that text stands, and the picture's keys and values."""

    def __init__(self, config=None):
        super().__init__(config=config) if config is not None else super().__init__()
        self.positions: Tensor | None = None  # (B, S) of the cached text
        self.real: Tensor | None = None
        self.segments: Tensor | None = None
        self.visual: VisualKV | None = None

    def extend(self, positions: Tensor, real: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        new = {"positions": positions, "real": real, "segments": segments}
        for name, value in new.items():
            old = getattr(self, name)
            setattr(self, name, value if old is None else torch.cat([old, value], 1))
        return self.positions, self.real, self.segments


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


def hidden_states(language_model: nn.Module, config: ViCAConfig, embeds: Tensor, places: Places, visual: Tensor | VisualKV | None = None,
                  past_key_values: ViCACache | None = None, keep: dict[int, Tensor] | None = None) -> Tensor:
    """Last hidden states (B, T, d) of the text; arguments as in `forward`."""
    picture = _picture(language_model, config, places, visual, past_key_values)
    call, mask = _plan(language_model, config, embeds, places, picture, past_key_values, keep)
    looked_at = {} if picture is None or picture.embeds is None else {"vica_visual": picture.embeds}
    with _attending(language_model, call, bool(looked_at)):
        out = language_model.get_decoder()(inputs_embeds=embeds, attention_mask=mask, position_ids=places.positions,
                                           past_key_values=past_key_values, use_cache=past_key_values is not None, vica=call, **looked_at)
    return out.last_hidden_state


@dataclass
class _Picture:
    """The visual tokens of a batch, where they stand, and what the layers of C look at: embeddings (B, N, d), or keys and values
    that are at hand. Neither, where C is empty."""

    positions: Tensor  # (B, N)
    real: Tensor
    embeds: Tensor | None = None
    kv: VisualKV | None = None


def _picture(language_model: nn.Module, config: ViCAConfig, places: Places, visual: Tensor | VisualKV | None,
             cache: ViCACache | None) -> _Picture | None:
    """None where no row has one. A cache gets the keys and values in its first call, and gives them in all others."""
    if cache is not None and cache.visual is not None and not isinstance(visual, VisualKV):
        visual = cache.visual
    if isinstance(visual, VisualKV):
        return _Picture(visual.positions, visual.real, kv=visual if config.cross_layers else None)
    if visual is None or visual.shape[1] == 0:
        return None
    positions, real = places.visual_positions, places.visual_real
    real = torch.ones_like(positions, dtype=torch.bool) if real is None else real
    if not config.cross_layers:
        return _Picture(positions, real)
    if cache is None:
        return _Picture(positions, real, embeds=visual)
    cache.visual = compute_visual_kv(language_model, visual, positions, config.cross_layers, real)
    return _Picture(positions, real, kv=cache.visual)


def _plan(language_model: nn.Module, config: ViCAConfig, embeds: Tensor, places: Places, picture: _Picture | None,
          cache: ViCACache | None, keep: dict[int, Tensor] | None) -> tuple[_Call, Tensor]:
    """(what the layers of C need, the mask of all others). The cache learns where the new text stands."""
    positions, width = places.positions, places.positions.shape[1]
    real = torch.ones_like(positions, dtype=torch.bool) if places.real is None else places.real
    segments = torch.zeros_like(positions) if places.segments is None else places.segments
    keys = (positions, real, segments) if cache is None else cache.extend(positions, real, segments)

    base = language_model.config._attn_implementation.removeprefix(PREFIX)
    looks = picture is not None and (picture.embeds is not None or picture.kv is not None)
    call = _Call(frozenset(config.cross_layers if looks else ()), base, kv=picture.kv if looks else None, keep=keep)
    if looks and picture.embeds is not None:
        call.rotary = language_model.get_decoder().rotary_emb(picture.embeds, picture.positions)
    if config.prefix_update == "frozen" and picture is not None:
        far = torch.iinfo(positions.dtype).max
        first = picture.positions.masked_fill(~picture.real, far).amin(1, keepdim=True)
        call.idle = picture.real.any(1, keepdim=True) & (positions < first)

    plain = places.segments is None and places.visual_real is None and keep is None and cache is None and bool(real.all())
    if plain and base == "sdpa" and looks and width > 1:
        call.split = _uniform_split(positions, picture.positions, picture.real)
    if call.split is not None:  # a mask must be given all the same: without one transformers reads the gap in the positions as a new text
        return call, embeds.new_zeros(1, 1, 1, 1, dtype=torch.bool)
    mask = _visible(positions, segments, *keys)
    own = torch.arange(width, device=mask.device)
    mask[:, own, own + keys[0].shape[1] - width] = True  # padding sees itself: its softmax stays finite
    if looks:
        look = picture.real[:, None, :] & (picture.positions[:, None, :] <= positions[:, :, None])
        call.joint_mask = _form(torch.cat([look, mask], 2)[:, None], base, embeds)
    return call, _form(mask[:, None], base, embeds)


@contextmanager
def _attending(language_model: nn.Module, call: _Call, makes_kv: bool) -> Iterator[None]:
    """The decoder runs by our attention function; makes_kv: layers of C make the picture's keys and values before they run."""
    decoder, before = language_model.get_decoder(), language_model.config._attn_implementation
    if not before.startswith(PREFIX):
        language_model.set_attn_implementation(PREFIX + before)
    runs_again = decoder.training and getattr(decoder, "is_gradient_checkpointing", False)
    kept: dict[int, Any] = decoder.__dict__.setdefault("_vica_hooks", {})  # of calls whose layers the backward pass runs again
    hooks = {k: decoder.layers[k].register_forward_pre_hook(_make_kv, with_kwargs=True)
             for k in call.layers if makes_kv and k not in kept}
    try:
        yield
    finally:
        if runs_again:  # the backward pass needs both; one hook a layer serves every call, for a call brings its own data
            kept.update(hooks)
        else:
            for hook in (*hooks.values(), *kept.values()):
                hook.remove()
            kept.clear()
            if not before.startswith(PREFIX):
                language_model.set_attn_implementation(before)


def _visible(positions: Tensor, segments: Tensor, key_positions: Tensor, key_real: Tensor, key_segments: Tensor) -> Tensor:
    """(B, T, S) bool by the rule at the head of this file."""
    seen = key_real[:, None, :] & (key_positions[:, None, :] <= positions[:, :, None])
    return seen & ((key_segments[:, None, :] == 0) | (key_segments[:, None, :] == segments[:, :, None]))


def _form(mask: Tensor, base: str, like: Tensor) -> Tensor:
    if base != "eager":
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill_(~mask, torch.finfo(like.dtype).min)


def _uniform_split(positions: Tensor, visual_positions: Tensor, visual_real: Tensor) -> int | None:
    """How many text slots stand before the picture, if that is the same in all rows and the picture is one whole run."""
    same = (positions == positions[:1]).all() & (visual_positions == visual_positions[:1]).all() & visual_real.all()
    if not bool(same):
        return None
    first, last = int(visual_positions[0, 0]), int(visual_positions[0, -1])
    rising = bool((positions[0].diff() > 0).all()) and last - first + 1 == visual_positions.shape[1]
    p = int((positions[0] < first).sum())
    return p if rising and (p == positions.shape[1] or int(positions[0, p]) > last) and p < positions.shape[1] else None


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


@torch.no_grad()
def generate(language_model: nn.Module, config: ViCAConfig, layout: Any, visual: Tensor | None, max_new_tokens: int,
             eos_token_id: int | None = None) -> list[list[int]]:
    """Greedy continuation of each row. layout: `Places` with all fields and the text's ids (B, T) (common/vision/layout.py).

    Every new token sees the picture in the layers of C; padding may stand left or right.
    """
    embed, cache = language_model.get_input_embeddings(), ViCACache()
    slots = torch.arange(layout.real.shape[1], device=layout.real.device)
    last = (layout.real.long() * (slots + 1)).argmax(1)
    out = hidden_states(language_model, config, embed(layout.ids), layout, visual, cache)
    rows = torch.arange(len(last), device=last.device)
    ends = torch.where(layout.visual_real, layout.visual_positions, -1).amax(1) if layout.visual_positions.shape[1] else -1
    position = torch.maximum(layout.positions[rows, last], torch.as_tensor(ends, device=last.device))
    token = language_model.lm_head(out[rows, last]).argmax(-1)
    written, done = [[] for _ in rows], torch.zeros_like(last, dtype=torch.bool)
    for _ in range(max_new_tokens):
        for row in (~done).nonzero()[:, 0].tolist():
            written[row].append(int(token[row]))
        if eos_token_id is not None:
            done |= token == eos_token_id
        if bool(done.all()) or max(map(len, written)) >= max_new_tokens:
            break
        position = position + 1
        out = hidden_states(language_model, config, embed(token[:, None]), Places(position[:, None]), past_key_values=cache)
        token = language_model.lm_head(out[:, -1]).argmax(-1)
    return written


def loss_sum(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of cross-entropies in fp32, number of scored slots); targets (B, T), -100 = not scored, already shifted."""
    scored = targets != -100
    return F.cross_entropy(logits[scored].float(), targets[scored], reduction="sum"), scored.sum()
