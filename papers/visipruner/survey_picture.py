"""The picture of a survey: what is lost layer by layer, where attention goes, when the answer is there, and what each token is worth."""

from __future__ import annotations

from collections.abc import Callable

BLUE, RED, GREY, GREEN, PURPLE, GOLD = "#1f6f8b", "#c8553d", "#888888", "#5b8c5a", "#7b5ea7", "#d9a441"
MODES = {"after": ("zero behind the softmax", BLUE, "-"), "before": ("hidden before it", RED, "--"),
         "merge": ("merged into one token", GREEN, ":")}
LOST = "answers that stay, %"


def survey(plt, found: dict):
    """A panel for every part that the survey has; parts that were refused, or not asked for, have none."""
    panels: list[tuple[str, Callable]] = [(part, panel) for part, panel in PANELS if found.get(part.split(",")[0])]
    columns = min(len(panels), 3) or 1
    lines = max(1, -(-len(panels) // columns))
    figure, axes = plt.subplots(lines, columns, figsize=(3.4 * columns, 2.9 * lines), squeeze=False)
    for axis, (_, panel) in zip(axes.flat, panels):
        panel(axis, found)
        axis.grid(lw=0.3)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(frameon=False, fontsize=6)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    n = len(found["prompts"])
    figure.suptitle(f"{found.get('model', '')}: {n} prompt{'s' * (n != 1)}, {found['layers']} layers", fontsize=8)
    return figure


def _curve(axis, of: dict, what: str, label: str, colour: str, style: str = "-", scale: float = 1.0) -> None:
    layers = sorted(of, key=int)
    axis.plot([int(layer) for layer in layers], [scale * of[layer][what] for layer in layers], color=colour, ls=style, marker=".",
              ms=4, lw=1, label=label)


def alone(axis, found: dict) -> None:
    for mode, of in found["knockouts"].items():
        label, colour, style = MODES[mode]
        _curve(axis, of, "stays", label, colour, style, 100)
    axis.set(title="one layer without the picture", xlabel="layer", ylabel=LOST, ylim=(-2, 102))


def nats(axis, found: dict) -> None:
    for mode, of in found["knockouts"].items():
        label, colour, style = MODES[mode]
        _curve(axis, of, "nats", label, colour, style)
    axis.set(title="the same, in log-probability", xlabel="layer", ylabel="nats lost")


def curves(axis, found: dict) -> None:
    of = found["ranges"]
    for way, colour, label in (("up to", PURPLE, "this layer and all before"), ("from", GOLD, "this layer and all behind")):
        for number, (mode, each) in enumerate(of[way].items()):
            name, _, style = MODES[mode]
            _curve(axis, each, "stays", f"the same, {name}" if number else label, colour, style, 100)
    if of["gone behind"]:
        _curve(axis, of["gone behind"], "stays", "gone behind the layer", GREY, "-", 100)
    axis.set(title="ranges without the picture", xlabel="layer", ylabel=LOST, ylim=(-2, 102))


def sinks(axis, found: dict) -> None:
    of = found["sinks"]
    _curve(axis, of, "attention", "attention on the picture, share", BLUE)
    _curve(axis, of, "most", "on its most attended token", RED)
    _curve(axis, of, "value", "that token's |v| / mean", GREEN)
    axis.axhline(1.0, color="#222222", lw=0.6, ls=":")
    axis.set(title="sinks", xlabel="layer", ylim=(0, None))


def lens(axis, found: dict) -> None:
    _curve(axis, found["lens"], "answer", "the answer is the likeliest", BLUE, "-", 100)
    axis.set(title="logit lens", xlabel="layer", ylabel="prompts, %", ylim=(-2, 102))


def oracle(axis, found: dict) -> None:
    of = found["oracle"]
    first = of["prompts"][0]
    for name, colour, mark in (("value", BLUE, "o"), ("attention", RED, "x")):
        rank = first["rank"][name]
        most = max(first[name]) or 1.0
        axis.plot([score / most for score in first[name]], first["nats"], mark, color=colour, ms=3, alpha=0.7,
                  label=name + ("" if rank is None else f", rank correlation {rank:.2f}"))
    axis.set(title=f"each token left out behind layer {of['behind']}", xlabel="score / highest", ylabel="nats lost")


PANELS = (("knockouts", alone), ("knockouts, nats", nats), ("ranges", curves), ("sinks", sinks), ("lens", lens), ("oracle", oracle))
