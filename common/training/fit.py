"""A training inside a job: a Lightning Trainer on one CPU thread, without files and without noise."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence


def fit(module, data, steps: int, *, bar: bool = False, callbacks: Sequence = (), **options) -> list[float]:
    """Trains in place for `steps` optimiser steps and leaves the module in eval mode. Returns the losses ("train/loss"), one a step.

    module: a LightningModule; data: its data module; bar: show how far it is; options: of the Trainer, over those here.
    """
    import lightning as L
    from lightning.pytorch.callbacks import TQDMProgressBar

    class Losses(L.Callback):
        def __init__(self):
            self.values: list[float] = []

        def on_train_batch_end(self, trainer, *_):
            self.values.append(float(trainer.callback_metrics["train/loss"]))

    losses = Losses()
    usual = dict(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                 enable_checkpointing=False, enable_progress_bar=bar, enable_model_summary=False, limit_val_batches=0,
                 callbacks=[losses, *callbacks, *([TQDMProgressBar(25)] if bar else [])])
    with quiet():
        L.Trainer(**(usual | options)).fit(module, data)
    module.eval()
    return losses.values


class quiet(warnings.catch_warnings):
    """What Lightning tells whoever starts a training by hand is kept to errors: a job has nobody to read it."""

    def __enter__(self):
        found = super().__enter__()
        warnings.simplefilter("ignore")
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        return found
