"""Checkpoints that are whole or not there, are checked byte for byte when read, and never run code.

Lightning writes a checkpoint into the system's temporary folder and moves it from there, which between file systems is a
copy that a kill cuts short; and torch reads a checkpoint without comparing the checksums in it, so that a flipped bit
trains on as other weights. `WholeCheckpoints` is the Trainer's plugin that does neither.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..errors import SetupError
from ..files import advice, replacing, sweep

# What the index of a checkpoint in shards is made of; torch opens it by pickle.load, which calls whatever it names.
SHARD_INDEX = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem", "torch.distributed.tensor")
HARMLESS = {("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout"), ("collections", "OrderedDict"),
            ("pathlib", "PosixPath")}


class WholeCheckpoints(TorchCheckpointIO):
    """Raises SetupError for a checkpoint that cannot be written (the one before is intact) or must not be read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options: Any | None = None) -> None:
        path = Path(path)
        try:
            sweep(path.parent)
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except OSError as error:
            raise SetupError(f"checkpoint {path}: cannot be written: {advice(error, path)}. The one before is intact.") from error

    def load_checkpoint(self, path, map_location=None, weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU. Raises SetupError for a file that is not one, is damaged, or asks to run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (wrong := archive.testzip()) is not None:
                raise SetupError(f"{path} is damaged (checksum of {wrong}). Resume from an older one.")
        return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise SetupError(f"{path} is no checkpoint, or would run code when opened ({_line(error)}). Resume from another one.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if isinstance(error, SetupError):
            raise
        raise SetupError(f"{path} is no checkpoint, or cut short or damaged ({type(error).__name__}, {_line(error)}). "
                         "Resume from an older one.") from error


def check_shards(folder: Path) -> None:
    """Raises SetupError if the index of a checkpoint in shards names anything but what such an index is made of."""
    try:
        with open(folder / ".metadata", "rb") as file:
            _Index(file).load()
    except Exception as error:  # a pickle can raise anything
        raise SetupError(f"{folder} is no checkpoint in shards, or would run code when opened ({_line(error)}).") from error
    for path in sorted(folder.glob("*.pt")):
        read_checkpoint(path)


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if "." not in name and ((module, name) in HARMLESS or module.startswith(SHARD_INDEX)):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.layout | torch.memory_format):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def keeper(folder: Path, every: int) -> ModelCheckpoint:
    """One checkpoint, last.ckpt, replaced every so many steps: a kill leaves no second one behind."""
    return ModelCheckpoint(folder, filename="last", every_n_train_steps=every, save_top_k=1, enable_version_counter=False)


def resume_from(folder: Path) -> tuple[Path | None, int]:
    """(last.ckpt, its step) of `keeper`'s folder; (None, 0) if there is none. A damaged one is said and removed."""
    path = folder / "last.ckpt"
    if not path.exists():
        return None, 0
    try:
        return path, int(read_checkpoint(path)["global_step"])
    except (SetupError, KeyError, TypeError, ValueError) as error:
        print(f"ninefold: {error} Training again from the start.", file=sys.stderr)
        path.unlink()
        return None, 0


class Finishing(Callback):
    """A run that was killed after its last checkpoint and before its product was written has no step left to take.

    Lightning then goes home without on_train_end, where products are written: here it is called.
    """

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage != "fit":
            return
        self.ended, loop = False, trainer.fit_loop
        run = type(loop).run.__get__(loop)

        def run_to_the_end() -> None:
            run()
            if not self.ended:
                pl_module.on_train_end()

        loop.run = run_to_the_end

    def on_train_end(self, trainer, pl_module) -> None:
        self.ended = True


def _line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text.partition(". ")[0][:200]
