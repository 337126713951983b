"""vica.json, in which a checkpoint names the layers that look: the same weights with other layers are another model (spec 6.9)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from common.files import write_atomic

from .method import ViCAConfig

FILE = "vica.json"


def save(config: ViCAConfig, folder: Path | str) -> None:
    """Raises FileError where it cannot be written; what was there is whole."""
    write_atomic(Path(folder, FILE), json.dumps(asdict(config)) + "\n")


def load(folder: Path | str) -> ViCAConfig:
    """Raises ValueError if the folder does not name the layers that look, there is no default, or says it wrongly."""
    path = Path(folder, FILE)
    if not path.is_file():
        raise ValueError(f"{path.parent.name}: no {FILE}, which names the cross layers; a ViCA checkpoint has one")
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path.parent.name}/{FILE} is no JSON: {error}") from error
    if not isinstance(entries, dict) or not isinstance(entries.get("cross_layers"), list):
        raise ValueError(f"{path.parent.name}/{FILE}: cross_layers is missing or no list")
    unknown = sorted(entries.keys() - {"cross_layers", "prefix_update"})
    if unknown:
        raise ValueError(f"{path.parent.name}/{FILE}: unknown entry {unknown[0]!r}")
    return ViCAConfig(tuple(entries["cross_layers"]), entries.get("prefix_update", "full"))
