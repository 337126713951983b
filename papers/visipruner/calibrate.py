"""Boundary and threshold for a model of one's own, from pictures and prompts of one's own, without a label.

    python -m papers.visipruner.calibrate --model llava-hf/llava-1.5-7b-hf --prompts mine.jsonl --out settings.json
    python -m papers.visipruner.look --model ... --settings settings.json --pictures cat.jpg --question "What is it?"
    python -m papers.visipruner.score --model ... --settings settings.json --benchmarks GQA,TextVQA

    found = calibrate(model, prompts)           # the same from Python: a stock multimodal model, or a decoder with features
    PruningSession(model, VisiPruner(found.config))

The paper chose both numbers by hand for one model and names no way for others. Here each setting is judged by how often the model's
answer stays its own (its first token, or --tokens of them); of the settings that agree often enough the one with the fewest visual pairs
is taken (analysis.calibrate, which the experiments use on validation pictures, too).

What is chosen on pictures must not be scored on them: a settings file holds a digest of every picture that it was chosen on, and
score.py refuses a benchmark that shows one of them.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from common.errors import UserError
from common.progress import progress

from . import analysis, analytic, own
from .analysis import THRESHOLDS
from .method import VisiPrunerConfig
from .own import Prompt, answered
from .pruners import VisiPruner
from .settings import write_settings


def enough(at_least: float) -> int:
    """Prompts from which on one answer that differs is within the share that may differ; 1 where none may."""
    return math.ceil(round(1 / (1 - at_least), 9)) if at_least < 1 else 1


@dataclass(frozen=True)
class Calibrated:
    """config: what was chosen. agreement, pairs: shares of the prompts whose answer stays, and of the visual pairs that are left, under it.
    enough: whether any setting agreed as often as was asked; if not, config is the one that agrees most. tried: every attempt. rows: of
    all prompts. layers: of the model."""

    config: VisiPrunerConfig
    agreement: float
    pairs: float
    enough: bool
    tried: list[dict]
    rows: int
    layers: int


def calibrate(model: nn.Module, prompts: Sequence[Prompt], *, at_least: float = 0.97, tokens: int = 1,
              thresholds: Sequence[float] = THRESHOLDS, base: VisiPrunerConfig | None = None) -> Calibrated:
    """The setting with the fewest visual pairs under which at_least of the answers stay the model's own.

    prompts: a few dozen of the kind that the model will be asked. tokens: how many of an answer must stay. base: what else the config
    shall have (analysis.calibrate's default has no shallow stage). About four passes a boundary over all prompts. Raises ModelError for a
    model that cannot be pruned, by property, and UserError for prompts without any picture.
    """
    _asked(at_least, tokens)
    if not thresholds:
        raise UserError("no thresholds to choose from")
    if not prompts:
        raise UserError("no prompts to calibrate on")
    layers = own.depth(model)
    asked = [answered(model, prompt, None, tokens) for prompt in prompts]
    if not any(row[0] for each in asked for row in each.visual()):
        raise UserError("none of the prompts holds a picture: there is nothing to prune")
    attempts = iter(progress(iter(int, 1), "calibrating, settings", (layers - 1) * len(thresholds).bit_length()))

    def outcome(config: VisiPrunerConfig) -> tuple[float, float]:
        next(attempts)
        same, left, whole = [], 0, 0
        for prompt, own_way in zip(prompts, asked):
            found = answered(model, prompt, VisiPruner(config), tokens)
            same += [a == b for a, b in zip(found.ids, own_way.ids)]
            for visual, text in zip(found.visual(), found.text()):
                left += sum(analytic.pairs(k, text) for k in visual)
                whole += len(visual) * analytic.pairs(visual[0], text)
        return sum(same) / len(same), left / whole

    config, tried = analysis.calibrate(outcome, layers, at_least, thresholds, base)
    best = next(t for t in tried if (t["boundary"], t["threshold"]) == (config.boundary, config.tokens_threshold))
    rows = sum(len(each.ids) for each in asked)
    return Calibrated(config, best["agreement"], best["pairs"], best["agreement"] >= at_least, tried, rows, layers)


def _asked(at_least: float, tokens: int) -> None:
    if not 0 < at_least <= 1:
        raise UserError(f"at_least is {at_least}, and a share of answers lies between 0 and 1")
    if tokens < 1:
        raise UserError(f"tokens is {tokens}: an answer has one token or more")


# -- the command -------------------------------------------------------------------------------------------
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Chooses VisiPruner's boundary and threshold for a model, from pictures without labels.")
    own.arguments(parser)
    parser.add_argument("--at-least", type=float, default=0.97, help="share of the prompts whose answer stays the model's own")
    parser.add_argument("--tokens", type=int, default=1, help="of an answer that must stay")
    parser.add_argument("--out", type=Path, default=Path("settings.json"))
    options = parser.parse_args(argv)
    try:
        if options.out.is_dir():
            raise UserError(f"--out {options.out}: a folder has this name, and settings are a file")
        own.out_of(options.out.parent)
        _asked(options.at_least, options.tokens)  # before the model is opened, which may take minutes
        asked = own.questions(options)
        if len(asked) < (need := enough(options.at_least)):
            print(f"{len(asked)} prompts: an answer that differs is {100 / len(asked):.0f} % of them; from {need} on "
                  f"{100 * options.at_least:g} % can be told from all", file=sys.stderr)
        from .look import opened  # with the vision tower's libraries

        of = opened(options.model)
        found = calibrate(of.model, own.prompts(asked, of.inputs), at_least=options.at_least, tokens=options.tokens)
        write_settings(options.out, found.config, options.model, found.layers, (q.digest for q in asked), agreement=found.agreement,
                       pairs=found.pairs, enough=found.enough, rows=found.rows, tried=found.tried)
    except (UserError, ValueError) as error:
        print(f"visipruner calibrate: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: boundary {found.config.boundary}, threshold {found.config.tokens_threshold:g} of |O|; "
          f"{100 * found.agreement:.1f} % of {found.rows} answers stay, {100 * found.pairs:.1f} % of the visual pairs are left" +
          ("" if found.enough else f"; no setting agrees on {100 * options.at_least:g} %, this one agrees most"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
