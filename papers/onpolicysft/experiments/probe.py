"""A callback that looks at a training while it goes on: curves over updates."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L


class Probe(L.Callback):
    """Calls probe(updates so far) before the first update, then after every `every`."""

    def __init__(self, probe: Callable[[int], None], every: int):
        self.probe, self.every = probe, every

    def on_train_start(self, trainer, module) -> None:
        self.probe(module.done)

    def on_train_batch_end(self, trainer, module, *_) -> None:
        if module.done % self.every == 0:
            self.probe(module.done)
