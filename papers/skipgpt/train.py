"""Train SkipGPT from one config: python -m papers.skipgpt.train fit --config FILE [--key value …].

`fit` and `validate` of the Lightning Trainer; every key of a config can be given as an option, and
`fit --config FILE --print_config` shows all of them. One seed (`seed_everything`) rules data order,
initialisation and noise. `--ckpt_path last` goes on where a killed run stopped. What the user can
mend is answered in a line or two and exit status 2.
"""

from __future__ import annotations

import os

from lightning.pytorch.cli import LightningCLI

from common.training import cli as commands

from .data import StepData  # with the data modules that a config may name
from .module import SkipGPTTraining


def cli(args: list[str] | None = None, run: bool = True) -> LightningCLI:
    """The command line; args without program name, default sys.argv. run=False only builds.

    Leaves by SystemExit(2), after a line or two on stderr, for anything that the user can mend.
    """
    return commands.cli(SkipGPTTraining, StepData, name="skipgpt", seed=43, args=args, run=run)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    cli()
