"""A fourth small LLaVA, of another family: the recipe of llava.py on a Qwen3 decoder, with grouped queries and normed queries and keys.

`make standins-llava_qwen3` (python -m common.standins.llava_qwen3) trains the one of common/standins/llava-qwen3-weights. What
is asked of a LLaVA should not hang on one decoder: here two key-value heads serve four of queries, and both are normed by RMS before
they are rotated. All else is the Llamas': tower, projector, depth, width, prompt, pictures, questions, the two stages and their
shares (llava.py); the steps are fewer, and the card says how many. Checkpoints every 50 steps: a killed run goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..vision import llava as vision
from ..vision import tower
from ..vision.llava import Llava, load_llava, whiten
from ..vision.parts import Parts, parts_of
from . import llava as standins

FOLDER = Path(__file__).parent / "llava-qwen3-weights"
SEEDS = (0,)
STAGE_1, STAGE_2, LEARNING_RATE = 300, 1300, 2e-3
DECODER = vision.DECODER | dict(num_key_value_heads=2, head_dim=24)


@dataclass
class Qwen3Llava(Llava):
    """A small LLaVA whose decoder is what its config's text part names, as a stock *ForCausalLM that shares its weights."""

    def language_model(self) -> nn.Module:
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            shell = AutoModelForCausalLM.from_config(self.llava.config.text_config)
        shell.model, shell.lm_head = self.llava.model.language_model, self.llava.lm_head
        return shell.train(self.llava.training)


def config():
    """LlavaConfig of vision/llava.py with a Qwen3 in the Llama's place."""
    from transformers import LlavaConfig, Qwen3Config

    of = vision.config()
    known = {name: getattr(of.text_config, name) for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    same = {name: getattr(of, name) for name in ("image_token_id", "vision_feature_layer", "vision_feature_select_strategy",
                                                 "image_seq_length", "tie_word_embeddings")}
    return LlavaConfig(vision_config=of.vision_config, text_config=Qwen3Config(**DECODER, **known), **same)


def build(seed: int, features: Tensor, tower_too: bool = True) -> Qwen3Llava:
    """An untrained model; features as vision.llava.build has them. tower_too=False leaves the tower random (tests)."""
    from transformers import LlavaForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llava = LlavaForConditionalGeneration(config())
    if tower_too:
        llava.model.vision_tower = tower.dinov2()
    whiten(llava.model.multi_modal_projector.linear_1, features, seed)
    return Qwen3Llava(llava.eval(), vision.tokenizer(), {"name": "random:llava-qwen3", "kind": "random", "seed": seed})


def opened(folder: Path, with_tower: bool = False) -> Qwen3Llava:
    """A folder of `save`. Raises ModelError naming what is missing."""
    of = load_llava(folder, tower=with_tower)
    return Qwen3Llava(of.llava, of.tokenizer, of.source | {"name": f"llava-qwen3/{Path(folder).name}"})


def stand_in(seed: int) -> Parts:
    """The committed model of a seed, in parts, without its tower. Raises ModelError where there is none."""
    folder = FOLDER / f"seed{seed}"
    if seed not in SEEDS or not folder.is_dir():
        raise ModelError(f"seed{seed} of common/standins/{FOLDER.name} is not there: train it with `make standins-llava_qwen3`")
    return parts_of(opened(folder), tower=False)


RECIPE = standins.Recipe("qwen3", build, opened, FOLDER, SEEDS, STAGE_1, STAGE_2, LEARNING_RATE, every=50, sources=(__file__,))


if __name__ == "__main__":
    standins.main(RECIPE)
