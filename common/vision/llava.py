"""A small LLaVA as the field has it: `LlavaForConditionalGeneration` with a frozen DINOv2-S, a projector and a Llama.

The vision tower is real and pretrained (vision.py) and is not stored: a folder holds config, tokenizer, and the weights of
projector and decoder. Features of hidden states 2, 9 and 11, side by side, go into LLaVA's two-layer projector: 64 visual
tokens for a 64 x 64 picture shown at 112 x 112. A prompt is

    <bos> answer in one word <image> x 64 question words ?        and the answer is the next token.

`Packed` is how it is trained and scored: many questions about one picture in one row, each as if it were alone
(layout.py), from features computed once. The stock forward on pixels gives the same logits; a test holds that.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import easyvqa, scenes
from ..errors import ModelError
from ..files import file_sha256
from . import tower as vision
from .layout import Layout, additive, joint, packed

LAYERS, SHOWN, N_VISUAL = (2, 9, 11), 112, 64
SYSTEM = "answer in one word"
DECODER = dict(hidden_size=96, intermediate_size=256, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=4,
               max_position_embeddings=512, rope_theta=10000.0, tie_word_embeddings=True)
TRAINED = "model.safetensors"


# -- tokenizer ---------------------------------------------------------------------------------------------
def tokenizer():
    """One token a word, in hub format; "<image>" stands for a visual token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["<pad>", "<bos>", "<eos>", "<unk>", "<image>", *SYSTEM.split(), "describe", *scenes.words(), *easyvqa.words()]
    known = list(dict.fromkeys(known))
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
                                   unk_token="<unk>", extra_special_tokens={"image_token": "<image>"})


# -- the model ---------------------------------------------------------------------------------------------
@dataclass
class Llava:
    """llava: the stock model, eval mode, its tower frozen. tokenizer. source: facts for records."""

    llava: nn.Module
    tokenizer: Any
    source: dict

    @property
    def projector(self) -> nn.Module:
        return self.llava.model.multi_modal_projector

    def language_model(self) -> nn.Module:
        """The decoder as a stock LlamaForCausalLM that shares its weights (no copy)."""
        from transformers import LlamaForCausalLM

        with torch.device("meta"):
            shell = LlamaForCausalLM(self.llava.config.text_config)
        shell.model, shell.lm_head = self.llava.model.language_model, self.llava.lm_head
        return shell.train(self.llava.training)

    @property
    def prefix(self) -> list[int]:
        return self.tokenizer.convert_tokens_to_ids(["<bos>", *SYSTEM.split()])


def config(decoder: dict | None = None, layers: Sequence[int] = LAYERS):
    from transformers import Dinov2Config, LlamaConfig, LlavaConfig

    words = tokenizer()
    text = LlamaConfig(**(decoder or DECODER), vocab_size=len(words), bos_token_id=words.bos_token_id,
                       eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    return LlavaConfig(vision_config=Dinov2Config(**vision.CONFIG), text_config=text, image_token_id=words.convert_tokens_to_ids("<image>"),
                       vision_feature_layer=list(layers), vision_feature_select_strategy="default", image_seq_length=N_VISUAL,
                       tie_word_embeddings=text.tie_word_embeddings)


def build(seed: int, features: Tensor, decoder: dict | None = None, layers: Sequence[int] = LAYERS) -> Llava:
    """An untrained model. features (., ., len(layers) * dv): a sample; the projector's first layer starts out whitening
    them, because late DINOv2 states have eight times the norm of early ones and LLaVA's projector has no norm of its own."""
    from transformers import LlavaForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llava = LlavaForConditionalGeneration(config(decoder, layers))
    llava.model.vision_tower = vision.dinov2()
    whiten(llava.model.multi_modal_projector.linear_1, features, seed)
    return Llava(llava.eval(), tokenizer(), {"name": "random:llava", "kind": "random", "seed": seed})


@torch.no_grad()
def whiten(first: nn.Module, features: Tensor, seed: int) -> None:
    """Starts a projector's first layer so that every feature arrives with mean 0 and variance 1 over the sample (., ., dv)."""
    flat = features.reshape(-1, features.shape[-1]).float()
    mean, std = flat.mean(0), flat.std(0).clamp(min=1e-3)
    torch.nn.init.normal_(first.weight, std=features.shape[-1] ** -0.5, generator=torch.Generator().manual_seed(seed))
    first.weight /= std
    first.bias.copy_(-first.weight @ mean)


def save(model: Llava, folder: Path) -> None:
    """Config, tokenizer, and weights without the tower, half precision."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.llava.config.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    state = {k: v.detach().half().contiguous() for k, v in model.llava.state_dict().items() if ".vision_tower." not in k}
    if model.llava.config.text_config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    save_file(state, folder / TRAINED, {"format": "pt"})


def load_llava(folder: Path | str, attn_implementation: str = "sdpa", tower: bool = True) -> Llava:
    """A folder of `save` with the packaged tower put back. Raises ModelError naming what is missing.

    tower=False leaves it an empty shell: whoever works on cached features never runs it, and it takes most of the time.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration

    folder = Path(folder)
    absent = [name for name in ("config.json", TRAINED, "tokenizer.json") if not (folder / name).is_file()]
    if absent:
        raise ModelError(f"{folder.name}: no {absent[0]}; a small LLaVA is a folder as `make standins-llava` writes it")
    of = LlavaConfig.from_pretrained(folder)
    of._attn_implementation = attn_implementation
    shown, of.vision_config.num_hidden_layers = of.vision_config.num_hidden_layers, 0  # a tower is made once, below, or not at all
    llava = LlavaForConditionalGeneration._from_config(of, attn_implementation=attn_implementation)
    of.vision_config.num_hidden_layers = shown
    try:
        state = {k: v.float() for k, v in load_file(folder / TRAINED).items()}
    except SafetensorError as error:
        raise ModelError(f"{folder.name}: {TRAINED} is damaged or cut short ({error}); restore it") from error
    found = llava.load_state_dict(state, strict=False)
    wrong = [k for k in found.missing_keys if ".vision_tower." not in k and k != "lm_head.weight"] + found.unexpected_keys
    if wrong:
        raise ModelError(f"{folder.name}: {len(wrong)} weights do not fit its config ({', '.join(wrong[:3])})")
    llava.tie_weights()
    if tower:
        llava.model.vision_tower = vision.dinov2()
    facts = {"name": folder.name, "kind": "folder", "revision": None, "weights_sha256": file_sha256(folder / TRAINED),
             "vision_tower_sha256": file_sha256(vision.onnx_file()), "dtype": "float32", "attn_implementation": attn_implementation}
    return Llava(llava.eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True), facts)


# -- questions as rows -------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=8)
def chat(words) -> tuple[list[int], list[int]]:
    """Ids before and behind what the user says, by the tokenizer's own chat template; behind it the model answers.

    Raises ValueError for a template that does not show the user's words as they are.
    """
    mark = "<<said>>"
    shown = words.apply_chat_template([{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True)
    if shown.count(mark) != 1:
        raise ValueError("the tokenizer's chat template changes what the user says; a picture has no place in it")
    before, behind = shown.split(mark)
    return tuple(words(part, add_special_tokens=False).input_ids for part in (before, behind))


def said_slots(words, asked: str, answer: str) -> tuple[list[int], list[int]]:
    """(ids, targets) of a chat model: every token of the answer and the end of the turn are predicted."""
    ids = words(asked, add_special_tokens=False).input_ids + chat(words)[1]
    said = words(answer, add_special_tokens=False).input_ids
    return ids + said, [-100] * (len(ids) - 1) + said + [words.eos_token_id]


def question_slots(words, question: scenes.Question) -> tuple[list[int], list[int]]:
    """(ids, targets): the answer is predicted at the question mark; by a chat model behind its template's turn."""
    if words.chat_template:
        return said_slots(words, question.text, question.answer)
    ids = words.convert_tokens_to_ids(question.text.split())
    return ids, [-100] * (len(ids) - 1) + [words.convert_tokens_to_ids(question.answer)]


def caption_slots(words, caption: str) -> tuple[list[int], list[int]]:
    """(ids, targets): every word of the caption and its end are predicted."""
    if words.chat_template:
        return said_slots(words, "describe the picture", caption)
    said = words.convert_tokens_to_ids(caption.split())
    ask = words.convert_tokens_to_ids(["describe", "?"])
    return ask + said, [-100] + said + [words.eos_token_id]


def packed_questions(model: Llava, asked: Sequence[Sequence[scenes.Question]]) -> Layout:
    return packed(model.prefix, [[question_slots(model.tokenizer, q) for q in row] for row in asked], N_VISUAL)


def dense_hidden(decoder: nn.Module, layout: Layout, visual: Tensor, text: Tensor | None = None) -> Tensor:
    """Last hidden states (B, T, d) at text slots of a stock *ForCausalLM run on text and visual tokens together."""
    text = decoder.get_input_embeddings()(layout.ids) if text is None else text
    embeds, positions, mask, _ = joint(layout, text, visual)
    if decoder.config._attn_implementation == "eager":
        mask = additive(mask, embeds)
    out = decoder.model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
    return out.last_hidden_state[:, visual.shape[1] :]


def scored_loss(decoder: nn.Module, hidden: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """(sum of cross-entropies, their number); logits are made at scored slots only."""
    scored = layout.targets != -100
    logits = decoder.lm_head(hidden[scored]).float()
    return nn.functional.cross_entropy(logits, layout.targets[scored], reduction="sum"), scored.sum()


def card(folder: Path) -> dict:
    """training.json of a committed stand-in."""
    return json.loads((folder / "training.json").read_text())
