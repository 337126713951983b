"""Four small LLaVAs of this paper, to be committed, and how they are trained: one of the default layer, and three ways to read more.

    make standins-layerfusion      default, external direct Triple, three layers of one region, internal modular Triple; seed 0

They are trainings of ONLY=long (experiments/trained.py), which this takes over where they have been made, else makes: 20 to 30 minutes of
a core each, to be killed at any time. One that has not left its plateau is not written. A folder holds decoder and fusion in half
precision, 3 MB, and a card: what it answers where, and its curve. The tower is the package's.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from common.errors import ModelError, SetupError
from common.files import building, file_sha256, write_json

from .experiments import trained
from .small import WEIGHTS, Small, restore

FOLDER = Path(__file__).parent / "standins"
SEED = 0
ARMS = {"default": "default", "triple": "external direct, triple", "region": "late region", "cross-attention": "internal modular, triple"}
OUT = 1 / 2  # of the loss of the best answer without a picture: the bar for questions that are looked up


def make(name: str, folder: Path | None = None, size: str = "cpu") -> dict:
    """Trains the arm of a name, writes its folder and its card, and returns the card. Raises SetupError for one that did not learn."""
    arm, folder = ARMS[name], folder or FOLDER / name
    found = trained.trained("long", arm, SEED, size)
    blind = trained.features("long", "dinov2", size)["nats"]["looked up"]
    last = found["looked up"][-1]
    if not last < OUT * blind:
        raise SetupError(f"{name}: the loss of questions that are looked up ended at {last:.3f}, the bar is {OUT * blind:.3f}: the plateau "
                         "has not ended; nothing is written")
    work = trained.kept(arm, trained.LONG[arm], SEED, size)
    with building(folder) as new:
        shutil.copyfile(work / WEIGHTS, new / WEIGHTS)
        card = {"command": "make standins-layerfusion", "arm": arm, "seed": SEED, "size": size, "torch": torch.__version__,
                "right": {where: bits.count("1") / len(bits) for where, bits in found["end"].items()}, "half": found["half"],
                "blind": blind, "curve": found["looked up"], "all": found["all"], "sha256": file_sha256(new / WEIGHTS)}
        write_json(new / "training.json", card)
    return card


def missing() -> list[str]:
    return [name for name in ARMS if not (FOLDER / name / WEIGHTS).is_file()]


def stand_in(name: str, folder: Path | None = None, dv: int = 384) -> tuple[Small, dict]:
    """(the model, facts for records). Raises ModelError where it is not there or was changed."""
    path = (folder or FOLDER / name) / WEIGHTS
    if not path.is_file():
        raise ModelError(f"papers/layerfusion/standins/{name} is not there: train it with `make standins-layerfusion`")
    facts = {"name": f"layerfusion/{name}", "sha256": file_sha256(path)}
    card = json.loads((path.parent / "training.json").read_text(encoding="utf-8"))
    if card["sha256"] != facts["sha256"]:
        raise ModelError(f"{name}/{WEIGHTS} is not what its card names; restore both")
    one = trained.LONG[ARMS[name]]
    layers = trained.fusion_layers(one)
    sample = torch.randn(8, 4, len(layers) * dv, generator=torch.Generator().manual_seed(0))  # whitened, then overwritten
    return restore(Small(one.config(), one.decoder, SEED, sample, layers), path), facts


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name in ARMS:
        print(json.dumps({"name": name, "right": make(name)["right"]}), flush=True)


if __name__ == "__main__":
    main()
