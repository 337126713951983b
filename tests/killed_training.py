"""The training of tests/killed_run.py: twelve weights, the samples of common.training.steps, a product in safetensors."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from safetensors.torch import save_file

from common.training.steps import StepData


class Rows:
    counts = {"samples": np.ones(40, dtype=np.int64)}

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.randn(4, generator=torch.Generator().manual_seed(i))

    def collate(self, samples: list, sample_index: list[int], totals: dict) -> dict:
        return {"x": torch.stack(samples), "total": totals["samples"]}


class Numbers(StepData):
    def sequences(self) -> tuple:
        return Rows(), Rows()


class Tiny(L.LightningModule):
    """Its losses go into checkpoint and product: a step that is taken twice or left out shows."""

    def __init__(self, seed: int = 0, anything: dict[str, Any] | None = None):
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.losses = torch.nn.Linear(4, 3), []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch["x"]).tanh().square().sum() / batch["total"]
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.losses = checkpoint["losses"]

    def on_train_end(self) -> None:
        product = {k: v.detach() for k, v in self.state_dict().items()} | {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        save_file(product, Path(self.trainer.default_root_dir) / "model.safetensors")
