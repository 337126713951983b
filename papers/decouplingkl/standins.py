"""The students: Llamas of 28,000 parameters, a quarter of their teachers, pre-trained on the same traces and for less long.

A teacher is a reasoner of common/standins (0.1 M parameters). A student has half of its width, so that it cannot become its
teacher: forward and reverse KL then have different optima, and there is something to choose. Two strengths of each seed:

    weak     400 steps: what collapses and inflates, where it does
    strong   as many steps as the teachers, 3,400: where accuracies can be told apart

`make standins-decouplingkl` trains the six of students/ by common's recipe for reasoners, about half a CPU-minute and four each.
Other seeds are trained into the cache when an experiment asks for them (SEEDS=n).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common.files import building
from common.standins import reasoner

FOLDER = Path(__file__).parent / "students"
DECODER = reasoner.DECODER | dict(hidden_size=32, intermediate_size=96)
STAGES = {"weak": ((400, 3e-3),), "strong": reasoner.STAGES}  # steps and peak learning rate of each stage


def student(seed: int, strength: str):
    """(model, tokenizer, facts): a committed student, or one of the cache. FileNotFoundError where a committed one is missing."""
    if seed not in reasoner.SEEDS:
        return reasoner.load_reasoner(_cached(seed, STAGES[strength], DECODER))
    return reasoner.load_reasoner(_committed(FOLDER / strength / f"seed{seed}", "standins-decouplingkl"))


def teacher(seed: int):
    """(model, tokenizer, facts): the reasoner of that seed."""
    if seed not in reasoner.SEEDS:
        return reasoner.load_reasoner(_cached(seed, reasoner.STAGES, reasoner.DECODER))
    return reasoner.load_reasoner(_committed(reasoner.FOLDER / f"seed{seed}", "standins-reasoner"))


def made(seed: int) -> dict:
    """Cards of the teacher and the students of a seed that is not committed, which are trained where they are missing. A job."""
    places = {"teacher": _cached(seed, reasoner.STAGES, reasoner.DECODER)}
    places |= {strength: _cached(seed, stages, DECODER) for strength, stages in STAGES.items()}
    return {name: json.loads((place / "training.json").read_text(encoding="utf-8"))["test"] for name, place in places.items()}


def _committed(folder: Path, target: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.parent.name}/{folder.name} is missing: restore it or run `make {target}`")
    return folder


def _cached(seed: int, stages: tuple, decoder: dict) -> Path:
    """Where the cache keeps a model, by its recipe as its checkpoints; trained first where it is not there."""
    checkpoints = reasoner.checkpoints(seed, stages, decoder)
    folder = checkpoints.with_name(f"{checkpoints.name}-weights")
    if not folder.is_dir():
        with building(folder) as beside:
            reasoner.train_reasoner(seed, beside, stages, decoder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the committed students again, half a minute to four minutes of one core each.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(reasoner.SEEDS))
    parser.add_argument("--strengths", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    for strength in options.strengths:
        for seed in options.seeds:
            card = reasoner.train_reasoner(seed, options.folder / strength / f"seed{seed}", STAGES[strength], DECODER)
            print(strength, seed, card["test"], flush=True)


if __name__ == "__main__":
    main()
