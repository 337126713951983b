"""Train from one config: python -m papers.proactivellm.train fit --config FILE [--key value ...].

`fit` and `validate` of the Lightning Trainer; every key of a config can be given as an option. `--ckpt_path last` goes on
where a killed run stopped. The product, in the hub's format, is written to trainer.default_root_dir/model.
"""

from __future__ import annotations

import os

from lightning.pytorch.cli import LightningCLI

from common.training import cli as commands

from .data import Answered, Generated, Streams  # noqa: F401  (a config names them)
from .module import ProactiveTraining


def cli(args: list[str] | None = None, run: bool = True) -> LightningCLI:
    """The command line; args without program name, default sys.argv. run=False only builds.

    Leaves by SystemExit(2), after a line or two on stderr, for anything that the user can mend.
    """
    return commands.cli(ProactiveTraining, Streams, name="proactivellm", seed=1, args=args, run=run)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    cli()
