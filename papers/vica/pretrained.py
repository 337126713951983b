"""A small LLaVA on a decoder that has read: DINOv2-S, a new projector, SmolLM2-135M-Instruct with LoRA, and ViCA on it.

    make pretrained-vica                       # both arms, one seed: hours on two cores, minutes on a GPU
    python -m papers.vica.pretrained --arm vica --seed 1 --device cuda

What the small stand-ins cannot show, because their decoder never saw text: whether a *pretrained* decoder needs its visual
tokens computed on. Two stages as LLaVA has them, by the training of module.py: captions with the decoder frozen, then
questions with LoRA on it. Pictures, questions and answers are the stand-ins' (common/standins-llava); text goes through the
model's own tokenizer and chat template. An answer is right if every token of it and the end is the most likely one.

Stages leave checkpoints in the cache and a killed run goes on; a finished one is read. The result is a table and a JSON in
results/pretrained.<arm>.seed<n>.json, not a record: no claim of claims.yaml rests on it.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from common.checkpoints import WholeCheckpoints, keeper, resume_from
from common.data import scenes
from common.jobs import read_result, write_json
from common.llava import LAYERS, dense_hidden, question_slots, whiten
from common.models import SMOLLM2, ModelSpec, cache_dir
from common.multimodal import IGNORED, packed
from common.progress import progress as saying
from common.standins import Pictures

from . import method
from .baselines import uniform_layers
from .data import ScenePictures
from .module import ViCATraining
from .parts import PACKAGED, LlavaSpec, Parts, load_parts

ROWS, ASKED, SCENES, EASY = 16, 6, 4000, 1000
STAGES = {"pretrain": (300, 1e-3), "finetune": (1500, 5e-4)}  # steps, learning rate
SHARE = 4  # ViCA looks in one of four layers, as the paper's 7B does
TEST = 200  # pictures


def run(arm: str, seed: int, device: str = "cpu", decoder: ModelSpec = SMOLLM2, stages: dict = STAGES, rows: int = ROWS,
        n_scenes: int = SCENES, easy: int = EASY, rank: int = 16, test: int = TEST, progress: bool = True) -> dict:
    """{"arm", "layers", "curve", "test", "blind"} after both stages. arm: dense or vica. Raises ValueError for another."""
    if arm not in ("dense", "vica"):
        raise ValueError(f"arm {arm!r} is neither dense nor vica")
    spec = LlavaSpec(decoder=decoder, tower=PACKAGED, feature_layers=LAYERS)
    parts = load_parts(spec, seed)
    whiten(parts.projector.linear_1, Pictures(min(300, n_scenes), easy=0).scene_features, seed)
    n = parts.decoder.config.num_hidden_layers
    layers = None if arm == "dense" else list(uniform_layers(n, max(1, n // SHARE)))
    curves = {stage: trained(parts, spec, layers, stage, *stages[stage], seed=seed, device=device, rows=rows, n_scenes=n_scenes,
                             easy=easy, rank=rank, progress=progress) for stage in ("pretrain", "finetune")}
    return {"arm": arm, "layers": layers, "seed": seed, "model": parts.source.get("name"), "curve": curves} | scored(parts, layers, test)


def trained(parts: Parts, spec: LlavaSpec, layers, stage: str, steps: int, rate: float, *, seed: int, device: str, rows: int,
            n_scenes: int, easy: int, rank: int, progress: bool) -> list[float]:
    """Trains parts in place by Lightning; every 50th loss."""
    import lightning as L
    from lightning.pytorch.callbacks import TQDMProgressBar

    class Curve(L.Callback):
        def __init__(self):
            self.values: list[float] = []

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step % 50 == 1 or trainer.global_step == steps:
                self.values.append(round(float(trainer.callback_metrics["train/loss"]), 4))

        def state_dict(self):
            return {"values": self.values}

        def load_state_dict(self, state):
            self.values = state["values"]

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    module = ViCATraining(spec, layers, stage=stage, learning_rate=rate, beta2=0.98, warmup=0.05, seed=seed,
                          lora_rank=rank, gradient_checkpointing=False)
    module.given, curve = parts, Curve()
    data = ScenePictures(train_samples=steps * rows, batch_size=rows, scenes=n_scenes, easy=easy, easy_share=0.15 if easy else 0.0,
                         asked=ASKED, captions=1.0 if stage == "pretrain" else 0.1, layers=list(LAYERS), seed=seed)
    name = f"{Path(str(spec.decoder.name)).name}-{'dense' if layers is None else 'vica'}-seed{seed}-{stage}-{steps}x{rows}"
    work = cache_dir() / "vica" / "pretrained" / name
    last, _ = resume_from(work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(accelerator="gpu" if device == "cuda" else "cpu", devices=1, max_steps=steps, max_epochs=-1, logger=False,
                            gradient_clip_val=1.0, precision="bf16-mixed", enable_model_summary=False, limit_val_batches=0,
                            enable_progress_bar=progress, default_root_dir=work, plugins=[WholeCheckpoints()],
                            callbacks=[curve, keeper(work, min(50, steps)),
                                       *([TQDMProgressBar(5)] if progress else [])])
        trainer.fit(module, data, ckpt_path=last)
    parts.decoder.eval()
    return curve.values


@torch.no_grad()
def scored(parts: Parts, layers, count: int, batch: int = 16) -> dict:
    """{"test": accuracy by kind and of all, "blind": the best answers without looking}: unseen scenes, a question of every kind."""
    of, draw = Pictures(count, split="test", easy=0), np.random.default_rng([0, 11])
    asked = [scenes.one_of_each_kind(s, draw) for s in of.scenes]
    right: dict[str, list[bool]] = {}
    device = parts.decoder.device
    for start in saying(range(0, count, batch), f"scoring {count} pictures, batches of {batch}"):
        some = asked[start : start + batch]
        slots = [[question_slots(parts.tokenizer, q) for q in row] for row in some]
        layout = packed(parts.prefix, slots, parts.n_visual).to(device)
        visual = parts.visual(layout, of.scene_features[start : start + batch].float().to(device))
        if layers is None:
            hidden = dense_hidden(parts.decoder, layout, visual)
        else:
            embeds = parts.decoder.get_input_embeddings()(layout.ids)
            hidden = method.hidden_states(parts.decoder, method.ViCAConfig(tuple(layers)), embeds, layout.positions, layout.real, visual,
                                          layout.visual_positions, layout.visual_real, layout.segments)
        where = layout.targets != IGNORED
        hits = torch.zeros_like(where)
        hits[where] = parts.decoder.lm_head(hidden[where]).argmax(-1) == layout.targets[where]
        for row, questions in enumerate(some):
            for k, q in enumerate(questions, 1):  # segment 0 is the prefix
                mine = where[row] & (layout.segments[row] == k)
                right.setdefault(q.kind, []).append(bool(hits[row][mine].all()))
    every = [hit for hits in right.values() for hit in hits]
    known = [q for i in range(1000) for q in scenes.one_of_each_kind(scenes.scene(i), draw)]
    flat = [q for row in asked for q in row]
    guesses = scenes.blind(known, flat)
    return {"test": {"all": sum(every) / len(every), **{k: sum(v) / len(v) for k, v in sorted(right.items())}},
            "blind": sum(g == q.answer for g, q in zip(guesses, flat)) / len(flat)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=("dense", "vica"), nargs="+", default=["vica", "dense"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--stage-1", type=int, default=STAGES["pretrain"][0])
    parser.add_argument("--stage-2", type=int, default=STAGES["finetune"][0])
    options = parser.parse_args()
    stages = {"pretrain": (options.stage_1, STAGES["pretrain"][1]), "finetune": (options.stage_2, STAGES["finetune"][1])}
    for arm in options.arm:
        path = Path(__file__).parent / "results" / f"pretrained.{arm}.seed{options.seed}.{options.stage_1}-{options.stage_2}.json"
        found = read_result(path)
        if found is None:
            found = run(arm, options.seed, options.device, stages=stages)
            write_json(path, {"result": found})
        print(f"{arm}: all {100 * found['test']['all']:.1f} (blind {100 * found['blind']:.1f}), " +
              ", ".join(f"{k} {100 * v:.0f}" for k, v in found["test"].items() if k != "all"), flush=True)


if __name__ == "__main__":
    main()
