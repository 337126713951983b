"""Train from one config: python -m papers.decouplingkl.train fit --config FILE [--key value ...].

`fit` and `validate` of the Lightning Trainer; every key of a config can be given as an option. `--ckpt_path last` goes on
where a killed run stopped. The product, in the hub's format, is written to trainer.default_root_dir/model; its training.json has
what a curriculum's gate has read and decided, stage by stage.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from lightning.pytorch.cli import LightningCLI

from common.files import write_json
from common.training import cli as commands

from .curriculum import EntropyGatedLength
from .data import Problems
from .module import Sampling


def cli(args: list[str] | None = None, run: bool = True) -> LightningCLI:
    """The command line; args without program name, default sys.argv. run=False only builds.

    Leaves by SystemExit(2), after a line or two on stderr, for anything that the user can mend.
    """
    done = commands.cli(Sampling, Problems, name="decouplingkl", seed=1, args=args, run=run)
    if run and done.subcommand == "fit" and done.trainer.is_global_zero:
        keep_decisions(done.trainer)
    return done


def keep_decisions(trainer) -> None:
    """Prints what the curriculum decided and writes it to the product's training.json; nothing where there is no curriculum."""
    about = Path(trainer.default_root_dir) / "model" / "training.json"
    gates = [callback for callback in trainer.callbacks if isinstance(callback, EntropyGatedLength)]
    if not gates or not about.is_file():
        return
    for row in gates[0].decisions:
        print(f"curriculum: after step {row['step']} at {row['length']} tokens, entropy {row['entropy']:.3f} (threshold "
              f"{row['threshold']:.3f}): {row['action']}, next {row['next_length']} tokens")
    write_json(about, json.loads(about.read_text(encoding="utf-8")) | {"decisions": gates[0].decisions})


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    cli()
