"""A fourth small LLaVA, of another family: the recipe of llava.py on a Qwen3 decoder, with grouped queries and normed queries and keys.

`make standins-llava_qwen3` (python -m common.standins.llava_qwen3) trains the one of common/standins/llava-qwen3-weights, which is
not committed yet. What is asked of a LLaVA should not hang on one decoder: here two key-value heads serve four of queries, and both
are normed by RMS before they are rotated. All else is the Llamas': tower, projector, depth, width, prompt, pictures, questions, the
two stages and their shares (llava.py); the steps are fewer, and the card says how many. Checkpoints every 50 steps: a killed run
goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import ModelError
from ..files import write_json
from ..training.checkpoints import WholeCheckpoints, keeper, resume_from
from ..training.steps import FromStep
from ..vision import llava as vision
from ..vision import tower
from ..vision.features import Pictures
from ..vision.llava import Llava, load_llava, save, whiten
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


# -- training ----------------------------------------------------------------------------------------------
class Clock(Callback):
    """CPU-seconds of a training, over all its parts: kept in the checkpoints. stop: ends the run at that step, as a kill would."""

    def __init__(self, stop: int | None = None) -> None:
        self.before, self.began, self.stop = 0.0, time.process_time(), stop

    @property
    def seconds(self) -> float:
        return self.before + time.process_time() - self.began

    def on_train_start(self, trainer, module) -> None:
        self.began = time.process_time()

    def on_train_batch_end(self, trainer, *rest) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.stop

    def state_dict(self) -> dict:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.before = state["seconds"]


def train(seed: int, stage_1: int = STAGE_1, stage_2: int = STAGE_2, learning_rate: float = LEARNING_RATE, progress: bool = True,
          stop: int | None = None) -> tuple[Qwen3Llava, list[float], float]:
    """(the model of a seed, losses by step, CPU-seconds); a killed one goes on from its checkpoints. stop: see Clock."""
    from lightning.pytorch.callbacks import TQDMProgressBar

    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    pictures, steps, clock = Pictures(), stage_1 + stage_2, Clock(stop)
    model = build(seed, pictures.scene_features[:500])
    module = standins.LlavaTraining(model, learning_rate)
    work = standins.checkpoints(seed, "qwen3", stage_1, stage_2, learning_rate, (__file__,))
    last, done = resume_from(work)
    rows = standins.Rows(pictures, model.tokenizer, model.prefix, stage_1, steps, seed)
    loader = DataLoader(FromStep(rows, done, steps), batch_size=None)
    trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                        precision="32-true", enable_model_summary=False, enable_progress_bar=progress, plugins=[WholeCheckpoints()],
                        callbacks=[clock, keeper(work, min(50, stop or steps)), *([TQDMProgressBar(50)] if progress else [])])
    trainer.fit(module, loader, ckpt_path=last)
    model.llava.eval()
    return model, module.losses, clock.seconds


def train_llava(seed: int, folder: Path, stage_1: int = STAGE_1, stage_2: int = STAGE_2, learning_rate: float = LEARNING_RATE) -> dict:
    """Trains a stand-in, writes folder and its card, and returns the card."""
    model, losses, seconds = train(seed, stage_1, stage_2, learning_rate)
    save(model, folder)
    card = {"seed": seed, "steps": [stage_1, stage_2], "rows": standins.ROWS, "learning_rate": learning_rate,
            "cpu_seconds": round(seconds), "accuracy": standins.report(opened(folder)),
            "curve": [[s, losses[s]] for s in range(0, len(losses), 50)]}
    write_json(folder / "training.json", card)
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the committed small LLaVA with a Qwen3 decoder again.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--stage-1", type=int, default=STAGE_1)
    parser.add_argument("--stage-2", type=int, default=STAGE_2)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    options = parser.parse_args()
    for seed in options.seeds:
        card = train_llava(seed, options.folder / f"seed{seed}", options.stage_1, options.stage_2, options.learning_rate)
        print(json.dumps(card["accuracy"], indent=1), flush=True)


if __name__ == "__main__":
    main()
