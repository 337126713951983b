"""The command line of a paper's training: LightningCLI, with errors that a user can mend said in a line.

`fit` and `validate` of the Lightning Trainer; every key of a config can be given as an option, and
`fit --config FILE --print_config` shows all of them. One seed (`seed_everything`) rules module and data.
`--ckpt_path last` goes on where a killed run stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..errors import SetupError, UserError
from ..files import advice
from .checkpoints import Finishing, WholeCheckpoints, check_shards, read_checkpoint


class Commands(LightningCLI):
    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        left_out = LightningCLI.subcommands()  # weights_only: always, see _prepare_subcommand_kwargs
        return {name: left_out[name] | {"weights_only"} for name in ("fit", "validate")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for target in ("model.init_args.seed", "data.init_args.seed"):
            parser.link_arguments("seed_everything", target, compute_fn=int)

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:  # beyond what numpy takes
            raise SetupError(f"seed_everything: {error}") from error

    def before_instantiate_classes(self) -> None:
        of = self.config.get(self.config.get("subcommand") or "", self.config)
        check_numbers(of)
        if self.config.get("subcommand") == "fit":
            check_places(of.get("trainer") or {})

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:  # a value of the right type that the class refuses
            raise SetupError(str(error)) from error

    def instantiate_trainer(self, **kwargs) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # else the config names its own
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        trainer.callbacks[:0] = [Finishing(), Finite()]  # checkpoints come last
        if self._resumed_from():
            for callback in trainer.checkpoint_callbacks:
                # What a killed run wrote after the checkpoint that is taken up is written again, under the same name.
                callback._enable_version_counter = False
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict:
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}

    def _resumed_from(self) -> str | None:
        return self.config.get(self.config.get("subcommand") or "", {}).get("ckpt_path")

    def _parse_ckpt_path(self) -> None:
        """Nothing of the config comes from a checkpoint; it is looked at before any work."""
        path = self._resumed_from()
        if path and path not in ("last", "best", "hpc"):
            check_checkpoint(Path(path))

    def _run_subcommand(self, subcommand: str) -> None:
        if self._resumed_from() == "last":  # shards are opened by torch itself, and only a look beforehand keeps code out
            for callback in self.trainer.checkpoint_callbacks:
                for path in map(Path, callback._find_last_checkpoints(self.trainer)):
                    if path.is_dir():
                        check_shards(path)
        super()._run_subcommand(subcommand)


class Finite(Callback):
    """No checkpoint and no product holds weights that are not finite: in float16 Adam's 1e-8 is 0, and one step is enough.

    Before such weights are written all ranks raise SetupError; the checkpoint before is intact.
    """

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        self.look(trainer, pl_module)

    def on_train_end(self, trainer, pl_module) -> None:  # before the module's own, which writes the product
        self.look(trainer, pl_module)

    @staticmethod
    @torch.no_grad()
    def look(trainer, module) -> None:
        wrong = torch.zeros((), dtype=torch.int64, device=module.device)
        for parameter in module.parameters():
            if parameter.requires_grad:
                local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
                wrong += (~local.sum(dtype=torch.promote_types(local.dtype, torch.float32)).isfinite()).to(wrong.device)
        if trainer.strategy.reduce(wrong, reduce_op="sum"):
            raise SetupError(f"the trained weights are not finite after step {trainer.global_step}, and are not kept: the training has "
                             "diverged, or its numbers overflow. Take a lower learning rate; in float16, bfloat16 or float32.")


LEAST = {"accumulate_grad_batches": 1, "gradient_clip_val": 0, "grad_clip": 0, "learning_rate": 0, "bias_learning_rate": 0,
         "lora_learning_rate": 0, "lr": 0, "weight_decay": 0, "warmup_steps": 0, "alpha": 0, "distill_weight": 0, "router_hidden": 1,
         "samples": 1, "cap": 1}
PRODUCTS = ("model", "routers", "lora")  # folders in trainer.default_root_dir that a training writes at its end


def check_numbers(config: Any, where: str = "") -> None:
    """Raises SetupError for numbers of a config that torch and Lightning take and that train something else than they say: a negative
    rate climbs, and so does a negative norm to clip to."""
    for name, value in vars(config).items() if isinstance(config, Namespace) else config.items() if isinstance(config, dict) else ():
        if name in LEAST and isinstance(value, (int, float)) and not LEAST[name] <= value < math.inf:
            raise SetupError(f"{where}{name} is {value}: a number from {LEAST[name]} on")
        check_numbers(value, f"{where}{name}.")


def check_places(trainer: Any) -> None:
    """Raises SetupError where a training could not keep what it makes (product, checkpoints, log): it would say so hours later. Nothing
    is left there, and no folder is made."""
    root = trainer.get("default_root_dir") or "."
    places = [("default_root_dir", root), *_named(trainer, ("dirpath", "save_dir"))]
    for name, folder in [*places, *(("default_root_dir", Path(root, product)) for product in PRODUCTS)]:
        path = Path(folder).absolute()
        there = next(each for each in (path, *path.parents) if each.exists() or each.is_symlink())
        if not there.is_dir():
            raise SetupError(f"trainer, {name}: {there} is no folder, and files of the training go there. Move it away or name another.")
        try:
            with tempfile.TemporaryFile(dir=there) as file:
                file.write(bytes(4096))
        except OSError as error:
            raise SetupError(f"trainer, {name}: nothing can be written to {there}: {advice(error, there / 'file')}.") from error


def _named(config: Any, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(name, value) of the entries of a config, however deep, that are called so and say something."""
    if isinstance(config, list):
        for part in config:
            yield from _named(part, names)
    for name, value in vars(config).items() if isinstance(config, Namespace) else config.items() if isinstance(config, dict) else ():
        if name in names and isinstance(value, str) and "://" not in value:
            yield name, value
        yield from _named(value, names)


def check_checkpoint(path: Path) -> None:
    """Raises SetupError unless `path` is a checkpoint that can be read."""
    if not path.exists():
        raise SetupError(f"--ckpt_path: there is no file {path}.")
    try:
        check_shards(path) if path.is_dir() else read_checkpoint(path)
    except SetupError as error:
        raise SetupError(f"--ckpt_path: {error}") from error


def cli(module: type, data: type, *, name: str, seed: int,
        args: list[str] | None = None, run: bool = True) -> LightningCLI:
    """The command line of `module` and `data` (base classes of what a config may name).

    name: what messages begin with. seed: the default of seed_everything.
    args: without program name, default sys.argv. run=False only builds. Leaves by SystemExit(2), after a line or two on
    stderr, for anything that the user can mend.
    """
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # rows are ready
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # lightning and torch 2.13
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.msg and "litmodels" not in record.msg)
    try:
        return Commands(
            module, data, subclass_mode_model=True, subclass_mode_data=True, seed_everything_default=seed,
            save_config_kwargs={"overwrite": True}, args=args, run=run, parser_kwargs={"exit_on_error": False},
            auto_configure_optimizers=False,
        )
    except (ArgumentError, UserError, MisconfigurationException, FloatingPointError, UnicodeDecodeError) as error:
        text = f"a config is no text in UTF-8 ({error})" if isinstance(error, UnicodeDecodeError) else in_a_line(error)
        print(f"{name}: {text}", file=sys.stderr)
        raise SystemExit(2) from error


def in_a_line(error: Exception) -> str:
    """The error in a line. jsonargparse lists all types that did not fit: only what went wrong."""
    kept = []
    for line in str(error).splitlines():
        line = line.strip().removeprefix("- ").partition(" Does not validate against")[0]
        if line and not re.match(r"Subtypes:|Errors:|Given value|Expected a <class 'None", line):
            kept.append(line)
    return " ".join(dict.fromkeys(kept))[:500]


def settings_in_json(text: str) -> dict[str, Any]:
    """Of an option of a command that hands a library's own settings on, for argparse: a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"no JSON ({error})") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text}: settings by name belong here, as {{\"use_vllm\": true}}")
    return found
