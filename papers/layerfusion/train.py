"""Train a LLaVA that reads several layers from one config: python -m papers.layerfusion.train fit --config FILE [--key value ...].

`fit` and `validate` of the Lightning Trainer; every key of a config can be given as an option. `--ckpt_path last` goes on
where a killed run stopped. The product, what is new and the decoder, is written to trainer.default_root_dir/model.
"""

from __future__ import annotations

import os

from lightning.pytorch.cli import LightningCLI

from common.training import cli as commands

from .data import StepData  # with the data modules that a config may name
from .module import FusedTraining


def cli(args: list[str] | None = None, run: bool = True) -> LightningCLI:
    """The command line; args without program name, default sys.argv. run=False only builds.

    Leaves by SystemExit(2), after a line or two on stderr, for anything that the user can mend.
    """
    return commands.cli(FusedTraining, StepData, name="layerfusion", seed=1, args=args, run=run)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    cli()
