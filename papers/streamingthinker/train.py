"""Train one layout from one config: python -m papers.streamingthinker.train fit --config FILE [--key value ...].

`fit` and `validate` of the Lightning Trainer; every key of a config can be given as an option, and
`fit --config FILE --print_config` shows all of them. `--ckpt_path last` goes on where a killed run stopped. The product,
a folder in the hub's format that `papers.streamingthinker.stream` opens, is written to trainer.default_root_dir/model.
"""

from __future__ import annotations

import os

from lightning.pytorch.cli import LightningCLI

from common.training import cli as commands

from .data import Traces
from .module import StreamingTraining


def cli(args: list[str] | None = None, run: bool = True) -> LightningCLI:
    """The command line; args without program name, default sys.argv. run=False only builds.

    Leaves by SystemExit(2), after a line or two on stderr, for anything that the user can mend.
    """
    return commands.cli(StreamingTraining, Traces, name="streamingthinker", seed=1, args=args, run=run)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    cli()
