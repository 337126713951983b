"""A model of one's own on the benchmarks of the paper's tables, dense and pruned by settings that calibrate.py chose for it.

    python -m papers.visipruner.score --model llava-hf/llava-v1.6-vicuna-7b-hf --settings settings.json --benchmarks GQA,TextVQA

asks by lmms-eval (common/benchmarks/vqa.py), greedily, the stock model and the pruned one by the same harness. This measures no claim of
the paper, which gives settings for two models alone (experiments/paper.py). A picture that the settings were chosen on ends the run: its
score would be one of pictures that were chosen for.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from common.benchmarks import vqa
from common.errors import UserError
from common.files import write_json

from . import own
from .experiments import paper as paper_scale
from .reported import TABLE_5
from .settings import Settings, read_settings


def score(source: str, settings: Settings, folder: Path, benchmarks: Sequence[str] = TABLE_5, limit: int | None = None,
          device: str = "cuda", log: Callable[[str], None] = print) -> dict[str, dict[str, float]]:
    """{"dense", "pruned": {benchmark: value in the table's unit}}, also in folder/scores.json.

    Raises UserError for settings of a model of another depth, for a benchmark that shows a picture of theirs, without lmms-eval, and for
    a device that is not there.
    """
    if not benchmarks:
        raise UserError(f"no benchmark is asked for; there is: {', '.join(vqa.BENCHMARKS)}")
    if unknown := [name for name in benchmarks if name not in vqa.BENCHMARKS]:
        raise UserError(f"no benchmark {', '.join(unknown)}; there is: {', '.join(vqa.BENCHMARKS)}")
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}: a number of questions from 1 on, or none for all of them")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no GPU is visible; --device cpu scores without one, for days")
    own.out_of(folder, files=("scores.json",))
    vqa.harness()  # an error for what is missing comes before a model is loaded
    opened = functools.cache(functools.partial(guarded, source, settings, device))
    where = Path(source) if Path(source).is_dir() else source
    weights = paper_scale.of_weights(where, opened) | {"device": device}
    name = where.name if isinstance(where, Path) else source.replace("/", "--")
    config = settings.check(opened()[0])
    if settings.model != (called := own.name_of(source)):
        log(f"the settings were chosen for {settings.model}, and this is {called}: the same model by another name, or none of theirs")
    chosen_on = hashlib.sha256("".join(sorted(settings.pictures)).encode()).hexdigest()  # a kept score saw none of these, either
    found = {way: paper_scale.one(name, way, opened, of, folder, benchmarks, limit, log, weights | beside)
             for way, of, beside in (("dense", None, {}), ("pruned", config, {"chosen_on": chosen_on}))}
    write_json(folder / "scores.json", {"model": name, "settings of": settings.model, **weights, "limit": limit, **found})
    return found


class Guard:
    """A processor that takes no picture that the settings were chosen on."""

    def __init__(self, processor: Any, settings: Settings):
        self.processor, self.settings = processor, settings

    def __call__(self, images: Any = None, **others: Any) -> Any:
        self.settings.refuse(images or (), "the benchmark")
        return self.processor(images=images, **others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)


def guarded(source: str, settings: Settings, device: str) -> tuple[Any, Any]:
    model, processor = paper_scale.open_model(source, device)
    return model, Guard(processor, settings)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Scores a model on benchmarks, dense and pruned by settings that were calibrated for it.")
    parser.add_argument("--model", required=True, help="a folder or hub id of transformers")
    parser.add_argument("--settings", type=Path, required=True, help="a file of calibrate.py")
    parser.add_argument("--benchmarks", default=",".join(TABLE_5))
    parser.add_argument("--limit", type=int, help="questions of each benchmark, for a try")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, default=Path("scores"))
    options = parser.parse_args(argv)
    names = [name.strip() for name in options.benchmarks.split(",") if name.strip()]
    try:
        found = score(options.model, read_settings(options.settings), options.out, names, options.limit, options.device)
    except UserError as error:
        print(f"visipruner score: {error}", file=sys.stderr)
        return 2
    for name in names:
        values = [found[way].get(name) for way in ("dense", "pruned")]
        print(f"{name}: " + ("no score" if None in values else "{:.1f} dense, {:.1f} pruned".format(*values)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
