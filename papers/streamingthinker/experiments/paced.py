"""Real questions by the clock: a reader thread that is told 150 words a minute, and SmolLM2-135M writing beside it. Asked for by name.

    make reproduce-streamingthinker ONLY=paced        alone on the machine, after the adapters of seed 0 (adapters.py) are there

Streaming's adapter thinks while the words come; batch's waits for the last one, and reads sentences as they come as well, so that only its
thinking is late. Each is timed from the last word to its first answer token, beside the event model at the costs of a token and of a
segment that the same process measured before. Questions are of templates that no training has, others in every process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

from common.errors import SetupError
from common.runs.jobs import Job

from .. import adapters, baselines, latency
from ..adapters import RECIPE, Recipe
from ..reasoner import Reasoner
from ..symbolic import Aligned, Lines
from . import clock

SEED = 0


@dataclass(frozen=True)
class Size:
    """processes; questions to measure costs on, and to time, in each; seconds a word; the recipe of the adapters; most tokens of a unit and
    of the rest."""

    processes: int
    warm: int
    timed: int
    r: float
    recipe: Recipe
    caps: tuple[int, int] = (136, 80)


SIZES = {"cpu": Size(5, 2, 6, latency.Costs().r, RECIPE)}
SIZES["smoke"] = Size(1, 1, 1, 0.01, replace(RECIPE, steps=1, rows=2, parts=1), (2, 2))  # never walked


def ready() -> None:
    """Raises SetupError where a package is missing, or an adapter: nothing is tuned while a clock runs."""
    adapters.ready()
    if lacking := [way for way in ("streaming", "batch") if adapters.there(way, SEED) is None]:
        raise SetupError(f"no adapter of seed {SEED} for {' and '.join(lacking)}: run `python -m papers.streamingthinker.adapters` first, "
                         "two hours of one core")


def jobs(size: str = "cpu") -> list[Job]:
    return [Job(f"paced/process{i}", f"{__name__}:paced", {"process": i, "size": size}, seconds=400) for i in range(SIZES[size].processes)]


def paced(process: int, size: str = "cpu") -> dict:
    """{"tau", "p": s; "streaming", "batch": mean seconds from the last word to the first answer token; "predicted": of streaming, by the
    event model; "duty": writing of units / reading time; "cut": of the thoughts, how many}."""
    how = SIZES[size]
    told = asked(adapters.questions(how.recipe).new, process, how)
    warm, timed = told[: how.warm], told[how.warm :]
    own, words, _ = adapters.opened("streaming", SEED, how.recipe)
    other, _, _ = adapters.opened("batch", SEED, how.recipe)
    tau, p = costs(thinker(Reasoner, own, words, 0, how), [segments_of(one, words) for one in warm])
    of, rows, cut = latency.Costs(r=how.r, tau=tau, p=p, whole=p), [], 0
    for one in timed:
        segments, spoken = segments_of(one, words), [len(sentence.split()) for sentence in one.sentences]
        pauses = [how.r * n for n in spoken]
        streamed, thought = clock.timed(thinker(Reasoner, own, words, 0, how), segments, pauses)
        waited, late = clock.timed(thinker(baselines.Batch, other, words, behind(segments, words), how), segments, pauses)
        found = latency.simulate("streaming", spoken, [len(unit) for unit in thought.units], thought.m, of)
        rows.append((streamed, waited, found.delay, found.duty))
        cut += thought.truncated + late.truncated
    means = dict(zip(("streaming", "batch", "predicted", "duty"), map(fmean, zip(*rows))))
    return {"tau": tau, "p": p, "items": len(rows), "cut": cut} | means


def costs(reasoner: Reasoner, told: list[list[list[int]]]) -> tuple[float, float]:
    """`clock.costs` of a token and of a segment with one thread, which is what either worker of `clock.timed` has: a job that is alone on
    the machine has one a core."""
    with clock.one_thread():
        tau, p, _ = clock.costs(reasoner, told)
    return tau, p


def asked(new: tuple[Aligned, ...], process: int, how: Size) -> list[Aligned]:
    """The questions of a process: no two of one template, none of another process's, as far as there are so many."""
    count = how.warm + how.timed
    templates = sorted({one.template for one in new})
    by = {template: [one for one in new if one.template == template] for template in templates}
    return [by[templates[k % len(templates)]][k // len(templates) % len(by[templates[k % len(templates)]])]
            for k in range(process * count, (process + 1) * count)]


def segments_of(one: Aligned, words: Lines) -> list[list[int]]:
    return [words.line(sentence) for sentence in one.sentences]


def behind(segments: list[list[int]], words: Lines) -> int:
    """The first position behind all that is read: batch has contiguous ones."""
    tokens = words.tokens()
    return len(tokens.instruction) + sum(map(len, segments)) + len(tokens.closing)


def thinker(kind: type[Reasoner], model, words: Lines, start: int, how: Size) -> Reasoner:
    return kind(model, words.tokens(), start, how.caps[0], how.caps[1])
