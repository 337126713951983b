"""A small LLaVA on a decoder that has read: DINOv2-S, a new projector, SmolLM2-135M-Instruct with LoRA, and ViCA on it.

    make reproduce-vica ONLY=smollm2           # both arms, one seed: hours on two cores
    python -m papers.vica.experiments.smollm2 --arm vica --seed 1 --device cuda    # minutes on a GPU; prints what came out

What the small stand-ins cannot show, because their decoder never saw text: whether a *pretrained* decoder needs its visual
tokens computed on. Two stages as LLaVA has them, by the training of module.py: captions with the decoder frozen, then
questions with LoRA on it. Pictures, questions and answers are the stand-ins' (common/standins/llava-weights); text goes through the
model's own tokenizer and chat template. An answer is right if every token of it and the end is the most likely one.

Stages leave checkpoints in the cache and a killed run goes on; a finished one is read. No claim of claims.yaml rests on it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from common.files import cache_dir
from common.models import SMOLLM2, ModelSpec
from common.runs.jobs import Job
from common.training.fit import quiet
from common.vision.llava import LAYERS, whiten
from common.vision.parts import PACKAGED, LlavaSpec, load_parts

from ..baselines import uniform_layers
from ..scoring import blind, dense, tested, vica

ARMS = ("vica", "dense")
RATES = {"pretrain": 1e-3, "finetune": 5e-4}
ASKED = 6  # questions about a picture in one row
SHARE = 4  # ViCA looks in one of four layers, as the paper's 7B does


@dataclass(frozen=True)
class Size:
    """steps: of both stages, of `rows` rows. scenes, easy: pictures to train on; test: to be asked about. rank: of the adapters.
    job_seconds: of an arm, guessed."""

    seeds: tuple[int, ...]
    steps: dict[str, int]
    rows: int
    scenes: int
    easy: int
    rank: int
    test: int
    job_seconds: float


SIZES = {"smoke": Size((0,), {"pretrain": 2, "finetune": 2}, rows=2, scenes=6, easy=0, rank=2, test=3, job_seconds=60.0),
         "cpu": Size((0,), {"pretrain": 300, "finetune": 1500}, rows=16, scenes=4000, easy=1000, rank=16, test=200, job_seconds=10000.0)}


def jobs(size: str = "cpu") -> list[Job]:
    s = SIZES[size]
    return [Job(f"smollm2/{arm}/seed{seed}", f"{__package__}.smollm2:run", {"seed": seed, "arm": arm, "size": size},
                seconds=s.job_seconds) for seed in s.seeds for arm in ARMS]


def run(seed: int, arm: str, size: str = "cpu", device: str = "cpu", decoder: ModelSpec = SMOLLM2, bar: bool = False) -> dict:
    """{"arm", "layers", "seed", "model", "curve", "test", "blind"} after both stages. arm: dense or vica. bar: show how far it is.

    Raises ValueError for another arm.
    """
    from common.vision.features import Pictures

    from ..data import ScenePictures
    from ..module import ViCATraining

    if arm not in ARMS:
        raise ValueError(f"arm {arm!r} is neither dense nor vica")
    s = SIZES[size]
    spec = LlavaSpec(decoder=decoder, tower=PACKAGED, feature_layers=LAYERS)
    parts = load_parts(spec, seed)
    whiten(parts.projector.linear_1, Pictures(min(300, s.scenes), easy=0).scene_features, seed)
    n = parts.decoder.config.num_hidden_layers
    layers = None if arm == "dense" else uniform_layers(n, max(1, n // SHARE))
    # Another code's checkpoints are not gone on from: the folder is named by the hash of all that a result depends on.
    key = Job("smollm2", f"{__package__}.smollm2:run", {"seed": seed, "arm": arm, "size": size}).key()
    curves = {}
    for stage, steps in s.steps.items():
        module = ViCATraining(spec, layers and list(layers), stage=stage, learning_rate=RATES[stage], beta2=0.98, warmup_steps=0.05,
                              seed=seed, lora_rank=s.rank)
        module.given = parts
        data = ScenePictures(train_samples=steps * s.rows, batch_size=s.rows, scenes=s.scenes, easy=s.easy, asked=ASKED, seed=seed,
                             easy_share=0.15 if s.easy else 0.0, captions=1.0 if stage == "pretrain" else 0.1)
        kept = cache_dir() / "vica" / "pretrained" / f"{Path(decoder.name).name}-{arm}-seed{seed}-{stage}-{key}"
        curves[stage] = train(module, data, steps, kept, device, bar)
    way = dense(parts) if layers is None else vica(parts, layers)
    return {"arm": arm, "layers": layers and list(layers), "seed": seed, "model": parts.source.get("name"), "curve": curves,
            "test": tested(parts, way, s.test, 0, batch=16), "blind": blind(s.test, 0)}


def train(module, data, steps: int, kept: Path, device: str, bar: bool) -> list[float]:
    """Trains in place, or goes on from the checkpoints in `kept`; every 50th loss."""
    import lightning as L
    from lightning.pytorch.callbacks import TQDMProgressBar

    from common.training.checkpoints import WholeCheckpoints, keeper, resume_from

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

    curve = Curve()
    last, _ = resume_from(kept)
    with quiet():
        L.Trainer(accelerator="gpu" if device == "cuda" else "cpu", devices=1, max_steps=steps, max_epochs=-1, logger=False,
                  gradient_clip_val=1.0, precision="bf16-mixed", enable_model_summary=False, limit_val_batches=0,
                  enable_progress_bar=bar, default_root_dir=kept, plugins=[WholeCheckpoints()],
                  callbacks=[curve, keeper(kept, min(50, steps)), *([TQDMProgressBar(5)] if bar else [])]).fit(module, data, ckpt_path=last)
    module.eval()
    return curve.values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=ARMS, nargs="+", default=list(ARMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    for arm in options.arm:
        print(json.dumps(run(options.seed, arm, device=options.device, bar=True)), flush=True)


if __name__ == "__main__":
    main()
