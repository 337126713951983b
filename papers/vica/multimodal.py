"""ViCA on a stock multimodal model: `ViCA(llava, config)(input_ids=..., pixel_values=...)`, with its own vision tower and projector.

    ours = ViCA(LlavaForConditionalGeneration.from_pretrained(folder), ViCAConfig((0, 1, 7, 8, 9, 10, 11, 14)))
    ours.generate(**processor(images=picture, text=prompt, return_tensors="pt"), max_new_tokens=64)

The model's own forward makes the embeddings of text and pictures and is stopped where it would call its decoder. What it hands over
there decides whether ViCA fits: embeddings, positions and a causal mask are taken; positions of three axes, pictures that see each
other both ways, or states for the layers in between are refused by name.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from common.errors import UserError
from common.modes import eval_mode
from common.vision.layout import Layout, split

from .checks import Unfit
from .decoding import generate
from .layers import Enough
from .method import ViCACache, ViCAConfig, VisualKV, check_model, compute_visual_kv, hidden_states, logits

DEFAULT = object()  # the end tokens of the model's own generation config
DECIDED = ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "labels", "use_cache", "logits_to_keep")
SPEECHLESS = "visual tokens predict nothing in ViCA. Put one behind the picture, a question or a line break say."
KINDS = ("token_type_ids", "mm_token_type_ids")  # processors give them unasked; a model that does not name them has no use for them


@dataclass
class ViCAOutput(ModelOutput):
    """logits (B, T, V) of the text slots of `layout`, in their order: a visual token has none. text (B, T, d), visual (B, N, d): the
    embeddings that they came from. past_key_values: as given."""

    logits: Tensor | None = None
    layout: Layout | None = None
    text: Tensor | None = None
    visual: Tensor | None = None
    past_key_values: ViCACache | None = None


class ViCA:
    """A stock *ForConditionalGeneration (or *ForCausalLM, for text alone), ViCA inside; its weights and config stay as they are.

    Raises ModelError naming the property for which it cannot be run so (method.check_model).
    """

    def __init__(self, model: nn.Module, config: ViCAConfig):
        check_model(model, config)
        self.model, self.config = model, config

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None, past_key_values: ViCACache | None = None,
                 visual: VisualKV | None = None, **pictures) -> ViCAOutput:
        """Logits of a batch; pictures: what the model's processor gives beside the ids, pixel_values and the like.

        input_ids (B, S) hold the image token once per visual token; padding may stand anywhere. visual: a picture that `see` has kept, in
        place of pixels; its image tokens stay in the ids. past_key_values: empty in the first call; the ids of a later one go on behind
        what it holds, and so does attention_mask (B, S), which is of these ids alone. Gradients reach projector and decoder.
        Raises UserError for ids and pictures that do not belong together, for no ids, for a picture or other rows behind what is cached,
        and for an argument that is none of the pictures' (labels, a misspelt name), which would else be left out without a word.
        """
        layout, text, shown = self._taken_apart(input_ids, attention_mask, visual, pictures, past_key_values)
        hidden = hidden_states(self.model, self.config, text, layout, shown if visual is None else visual, past_key_values)
        return ViCAOutput(logits(self.model, hidden), layout, text, shown, past_key_values)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, max_new_tokens: int = 20, visual: VisualKV | None = None,
                 eos_token_id=DEFAULT, **pictures) -> list[list[int]]:
        """New token ids of each row, greedy, up to and with its first end token; by default the model's own end tokens.

        Errors as of a call: `do_sample`, `num_beams` and the like are refused, since nothing here samples or searches; and UserError for a
        max_new_tokens that is no number from 0 on.
        """
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 0:
            raise UserError(f"max_new_tokens is {max_new_tokens!r}: a number of tokens, from 0 on.")
        if eos_token_id is DEFAULT:
            eos_token_id = self.model.generation_config.eos_token_id
        with eval_mode(self.model):  # the tower may have dropout, too
            layout, text, shown = self._taken_apart(input_ids, attention_mask, visual, pictures)
        if not bool((answers := layout.real.any(1)).all()):
            raise UserError(f"row {int((~answers).nonzero()[0, 0])} of input_ids holds no token of text: {SPEECHLESS}")
        return generate(self.model, self.config, layout, shown if visual is None else visual, max_new_tokens, eos_token_id, text)

    @torch.no_grad()
    def see(self, input_ids: Tensor, attention_mask: Tensor | None = None, **pictures) -> VisualKV:
        """Keys and values of the pictures, for more questions on them at the same places."""
        with eval_mode(self.model):
            layout, _, shown = self._taken_apart(input_ids, attention_mask, None, pictures)
        if shown is None:
            raise UserError("there is no picture in input_ids: none of them is the image token, and nothing can be kept.")
        return compute_visual_kv(self.model, shown, layout.visual_positions, self.config.cross_layers, layout.visual_real)

    def _taken_apart(self, ids: Tensor, real: Tensor | None, kept: VisualKV | None, pictures: dict,
                     cache: ViCACache | None = None) -> tuple[Layout, Tensor, Tensor | None]:
        """(layout, text (B, T, d), visual (B, N, d) or None), from the embeddings that the model makes; kept: without a picture's."""
        if not isinstance(ids, Tensor):
            raise UserError(f"input_ids is a {type(ids).__name__}: a tensor (B, S) is needed. What a processor gives comes by its names: "
                            "ours(**inputs).")
        if kept is not None and not isinstance(kept, VisualKV):
            raise UserError(f"visual is a {type(kept).__name__}: it takes what `see` has kept, and new pixels are pixel_values.")
        if ids.dim() != 2:
            raise UserError(f"input_ids are {tuple(ids.shape)}: a batch of rows is needed (B, S). One row is ids[None].")
        if not ids.numel():
            raise UserError(f"input_ids are empty {tuple(ids.shape)}: there is no token that could be read. Begin with one, a BOS say.")
        if cache is not None and not isinstance(cache, ViCACache):
            raise UserError(f"past_key_values is a {type(cache).__name__}, which has no place for a picture's keys: give a ViCACache().")
        pictures = _pictures(self.model, pictures)
        layout = split(ids, image_token(self.model), real)
        if not layout.ids.shape[1]:
            raise UserError(f"input_ids hold no token of text: {SPEECHLESS}")
        places, pixels = layout.visual_positions.shape[1], any(name.startswith(("pixel_values", "mm_encoder")) for name in pictures)
        if cache is not None and cache.positions is not None:
            if places or kept is not None or pixels:
                raise UserError("a picture behind what past_key_values holds: give all pictures in the first call.")
            if len(cache.positions) != len(ids):
                raise UserError(f"past_key_values holds {len(cache.positions)} rows, and input_ids have {len(ids)}: choose or repeat its "
                                "rows first (batch_select_indices, batch_repeat_interleave).")
            layout = replace(layout, positions=layout.positions + _behind(cache))
        elif kept is not None:
            _same_places(kept, layout)
        elif places and not pixels:
            raise UserError(f"{int(layout.visual_real.sum())} image tokens in input_ids and no picture (pixel_values) for them: text would "
                            "look at the word that stands in its place.")
        elif not places and pixels:
            raise UserError("a picture (pixel_values) and no image token in input_ids: it would not be looked at. Have the processor "
                            "put the image tokens into the text.")
        if not places or kept is not None:
            return layout, self.model.get_input_embeddings()(layout.ids), None
        real = torch.ones_like(ids) if real is None else real
        joined = embeddings(self.model, input_ids=ids, attention_mask=real, **pictures)
        columns = (~real.bool()).int().argsort(dim=1, stable=True)  # of the real tokens in their order, wherever padding stands
        text, visual = (joined.gather(1, columns.gather(1, where)[..., None].expand(-1, -1, joined.shape[-1]))
                        for where in (layout.positions, layout.visual_positions))
        return layout, text, visual


def _pictures(model: nn.Module, given: dict) -> dict:
    """Of the arguments beside the ids those that the model's own forward reads its pictures from, but for None.

    Raises UserError for any other: a stock model takes whatever it is given and drops what it does not know.
    """
    stock = next(module for module in model.modules() if isinstance(module, PreTrainedModel))  # under peft's wrapper, say
    known = inspect.signature(stock.forward).parameters
    taken = {name: value for name, value in given.items() if value is not None and (name in known or name not in KINDS)}
    for name in taken:
        if name in DECIDED:
            raise UserError(f"{name} is no argument of ViCA on a whole model, which makes positions, cache and logits itself; a loss is "
                            "method.loss_sum of the logits that it gives.")
        if name not in known:
            raise UserError(f"{name} is no argument of {type(stock).__name__}, nor of ViCA, whose answers are greedy: it would be left "
                            "out. Give what the processor gives, and leave the rest.")
        if name.endswith("_videos"):
            raise UserError(f"{name}: ViCA keeps pictures as they are, and would read a video's tokens as text.")
    return taken


def _behind(cache: ViCACache) -> Tensor:
    """(B, 1): the first free position of each row, behind its text and its picture."""
    held = [(cache.positions, cache.real)] + ([] if cache.visual is None else [(cache.visual.positions, cache.visual.real)])
    positions, real = (torch.cat(parts, 1) for parts in zip(*held))
    return torch.nn.functional.pad(torch.where(real, positions + 1, 0), (1, 0)).amax(1, keepdim=True)  # 0 where all text was taken back


def _same_places(kept: VisualKV, layout: Layout) -> None:
    """Raises UserError unless a picture that was kept has its image tokens where it was seen: its keys are rotated for these places."""
    if kept.real.shape[0] != layout.visual_real.shape[0]:
        raise UserError(f"the picture was kept for {kept.real.shape[0]} rows, and input_ids have {layout.visual_real.shape[0]}: repeat or "
                        "choose its rows by visual.select(rows).")
    width = max(kept.real.shape[1], layout.visual_real.shape[1])  # of rows that were chosen from a batch, others may have had more
    here, there = (torch.nn.functional.pad(torch.where(of, where, -1), (0, width - of.shape[1]), value=-1) for of, where in (
        (kept.real, kept.positions), (layout.visual_real, layout.visual_positions)))
    if not torch.equal(here, there):
        raise UserError("the picture was kept at other places than those of the image tokens in input_ids, and its keys are rotated for "
                        "these: keep the text before it as it was, or see it again.")


def image_token(model: nn.Module) -> int:
    """The id that stands for a visual token; -1 for a model without pictures. Raises Unfit where a config names none but has a tower."""
    token = next((v for name in ("image_token_id", "image_token_index") if (v := getattr(model.config, name, None)) is not None), None)
    if token is None and hasattr(model.config, "vision_config"):
        raise Unfit(f"{type(model).__name__}: its config has no image_token_id, which stands for a visual token in a row of ids.")
    return -1 if token is None else token


def embeddings(model: nn.Module, **inputs) -> Tensor:
    """(B, S, d): what the model hands its decoder for these inputs. Raises Unfit where it hands over more than ViCA can keep."""
    decoder, kind, taken = model.get_decoder(), type(model).__name__, {}

    def stop(*args, **kwargs):
        taken.update(kwargs)
        raise Enough

    before = decoder.__dict__.get("forward")
    decoder.forward = stop
    try:
        model(**inputs, use_cache=False)
    except Enough:
        pass
    finally:
        del decoder.forward
        if before is not None:
            decoder.forward = before
    joined, positions, mask = (taken.pop(name, None) for name in ("inputs_embeds", "position_ids", "attention_mask"))
    if not isinstance(joined, Tensor) or joined.shape[:2] != inputs["input_ids"].shape:
        raise Unfit(f"{kind} does not hand its decoder one embedding for each id (inputs_embeds): its pictures take another way.")
    if isinstance(positions, Tensor) and not _plain(positions, inputs["attention_mask"]):
        raise Unfit(f"{kind} counts positions of pictures in another way than one by one (position_ids {tuple(positions.shape)}).")
    is_text = inputs["attention_mask"].bool() & (inputs["input_ids"] != image_token(model))  # a picture asks for nothing
    for each in mask.values() if isinstance(mask, dict) else [mask]:
        if isinstance(each, Tensor) and each.dim() == 4 and not _causal(each, is_text):
            raise Unfit(f"{kind} gives its decoder a mask that is not causal (attention_mask): text sees what stands behind it.")
    more = sorted(name for name, value in taken.items() if _tensors(value))
    if more:
        raise Unfit(f"{kind} hands its decoder more than embeddings ({', '.join(more)}): layers in between would miss it.")
    return joined


def _plain(positions: Tensor, real: Tensor) -> bool:
    """Whether real tokens of each row are counted 0, 1, 2 and on."""
    if positions.dim() != 2:
        return False
    counted = (real.long().cumsum(1) - 1).clamp(min=0)
    return bool(((positions.expand_as(real) == counted) | ~real.bool()).all())


def _causal(mask: Tensor, queries: Tensor) -> bool:
    """Whether none of these queries (B, S) sees a later key by the mask (B, 1, S, S), bool or additive."""
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return not bool((seen.triu(1) & queries[:, None, :, None]).any())


def _tensors(value) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value))
