"""One style for all papers' pictures, and files that are the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from .files import replacing

STYLE = {
    "svg.hashsalt": "ninefold",  # ids inside an SVG are drawn from it
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


def draw_all(pictures: Iterable[Callable], results: dict, folder: Path) -> list[Path]:
    """Calls each picture(plt, results) and writes what it returns as <its name>.svg; None draws nothing."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(STYLE)
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for picture in pictures:
        figure = picture(plt, results)
        if figure is not None:
            files.append(folder / f"{picture.__name__}.svg")
            save(figure, files[-1])
            plt.close(figure)
    return files


def save(figure, path: Path) -> None:
    """Without the date and the program's address that matplotlib would write into an SVG."""
    bare = dict.fromkeys(("Date", "Creator", "Format", "Type")) if path.suffix == ".svg" else None
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix("."), metadata=bare)
