"""VisiPruner's settings in a file: what calibrate.py chose for a model, and on which pictures; read by look.py and score.py.

What was chosen on pictures must not be scored on them, so a file holds a digest of each (own.digest), and `Settings.refuse` knows them
again. No place of a machine stands in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import UserError
from common.files import write_json

from . import own
from .method import ShallowConfig, VisiPrunerConfig

FORMAT = "visipruner settings, 1"


@dataclass(frozen=True)
class Settings:
    """What a settings file holds. model: its name, without its place. pictures: digests of those that it was chosen on (own.digest)."""

    config: VisiPrunerConfig
    model: str
    layers: int
    pictures: frozenset[str]

    def check(self, model: nn.Module, path: Path | str = "settings") -> VisiPrunerConfig:
        """The config, if the model is as deep as the one that it was chosen for. Raises UserError otherwise."""
        layers = own.depth(model)
        if layers != self.layers:
            raise UserError(f"{path}: chosen for {self.model} with {self.layers} layers, and this model has {layers}; calibrate it")
        return self.config

    def refuse(self, pictures: Iterable[Any], what: str) -> None:
        """Raises UserError if one of these PIL pictures is one that the settings were chosen on."""
        if seen := sum(own.digest(picture) in self.pictures for picture in pictures):
            raise UserError(f"{what} shows {seen} of the pictures that the settings were chosen on: nothing may be scored on those; "
                            "calibrate on others")


def write_settings(path: Path, config: VisiPrunerConfig, model: str, layers: int, pictures: Iterable[str], **beside: Any) -> None:
    """model: a folder or hub id. pictures: digests. beside: what is written for whoever reads the file."""
    write_json(path, {"format": FORMAT, "model": own.name_of(model), "layers": layers, "config": asdict(config),
                      "pictures": sorted(set(pictures)), **beside})


def read_settings(path: Path | str) -> Settings:
    """Raises UserError for what is no settings file of this version, and for values that mean nothing."""
    try:
        of = json.loads(Path(path).read_text(encoding="utf-8-sig"))  # with or without a mark of byte order
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: no settings that can be read ({error})") from error
    if not isinstance(of, dict) or of.get("format") != FORMAT:
        raise UserError(f"{path}: not a file of {FORMAT!r}; python -m papers.visipruner.calibrate writes one")
    try:
        config = dict(of["config"])
        shallow = None if config["shallow"] is None else ShallowConfig(**config["shallow"])
        found = VisiPrunerConfig(**config | {"shallow": shallow})
        for each, given in ((found, config), (shallow, config["shallow"])):
            if each is not None and (absent := sorted({one.name for one in fields(each)} - given.keys())):
                raise ValueError(f"{absent[0]} is missing")  # a default in its place would be another rule than the one that was chosen
        _mean_something(found, of)
        return Settings(found, str(of["model"]), of["layers"], frozenset(of["pictures"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: settings that mean nothing ({type(error).__name__}: {error})") from error


def _mean_something(config: VisiPrunerConfig, of: dict) -> None:
    """Raises ValueError for what a config of the right shape may still hold, JSON being written by hand."""
    whole = (of["layers"], config.boundary)
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in whole):
        raise ValueError(f"layers and boundary are whole numbers, not {whole[0]!r} and {whole[1]!r}")
    if not config.boundary < whole[0]:
        raise ValueError(f"boundary {config.boundary} of a model with layers 0 to {whole[0] - 1}: nothing would ever be pruned")
    told = {"relative": config.relative, "exit_consecutive": config.exit_consecutive}
    told |= {} if config.shallow is None else {"visual_self": config.shallow.visual_self}
    for name, value in told.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}: true or false")
    if not isinstance(of["model"], str):
        raise ValueError(f"model is {of['model']!r}: a name")
    for name, least in (("tokens_threshold", 0.0), ("layer_threshold", -1.0), ("exit_cos", -1.0)):
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
            raise ValueError(f"{name} is {value!r}: a number from {least:g} on")
    pictures = of["pictures"]
    if not isinstance(pictures, list) or not all(isinstance(one, str) for one in pictures):
        raise ValueError("pictures is not a list of digests")
