"""The claims in the small: a LLaVA that answers well is taught to look in two of its eight layers.

Per seed: the stand-in (common/standins/llava-weights: dense, really trained, real frozen vision tower) and copies of it, each
tuned for the same steps on the same rows: dense; dense on as few visual tokens as cost what ViCA costs; ViCA with all layers,
with the two of the highest scores, two by greedy elimination, two drawn; and the text alone. All then answer the same unseen
questions about unseen pictures. What no claim compares is not run.

    features    of the frozen vision tower, which all other jobs only read
    blind       the best answers without the picture, which bound what is counted as kept from below
    untuned     the stand-in as it is: whole, with frozen visual tokens, on fewer of them
    all_layers  tunes the all-layer model, measures each layer's worth and every pair of layers without training, and drops visual
                tokens on the way (PyramidDrop)
    tune        tunes one other arm, and answers

One arm of one seed is tuned once more ("again") from weights that are moved by less than their own rounding. What then differs
is what another processor, or another number of threads, would make differ: no claim is decided by less.

Each is one job: arguments in, JSON out (common/runs/jobs.py); how much of everything, by SIZES. What trains is imported where
it is used: the command that plans the jobs need not wait for Lightning.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.runs.jobs import Job, work_folder
from common.seeds import asked as seeds_asked
from common.training.fit import fit
from common.vision.layout import Layout
from common.vision.parts import LlavaSpec, Parts
from common.vision.visual_tokens import attention_to_pictures, random_scores, schedule

from .. import baselines, method, pruning, selection
from ..analytic import Shape, equivalent_tokens, visual_flops
from ..reference import frozen_dense
from ..scoring import YES_NO, blind, dense, log_probabilities, right_answers, scores, test_set, tested, vica

K = 2  # layers that look, of the stand-in's eight
KEEP = 0.5  # mean share of visual tokens over all layers under PyramidDrop; the first layer sees all
FREEZES = ("ffn", "all")  # what visual tokens of a dense model go without
RATE = 1e-3
SPLITS = {"train": 32, "test": 10, "easy": 8, "val": 3}  # seconds that their features take


@dataclass(frozen=True)
class Size:
    """steps, rows: of tuning. trained_on, test, validation, easy: pictures; easy is of easy-VQA's test split, and of its training
    split a quarter of `trained_on` is used. job_seconds: no job takes longer."""

    seeds: tuple[int, ...]
    steps: int
    rows: int
    trained_on: int
    test: int
    validation: int
    easy: int
    job_seconds: float


SIZES = {"smoke": Size(seeds=(0,), steps=2, rows=2, trained_on=4, test=3, validation=2, easy=1, job_seconds=2.0),
         "cpu": Size(seeds=seeds_asked(), steps=90, rows=16, trained_on=1200, test=250, validation=60, easy=120, job_seconds=1e4)}
COMMITTED = 3  # small LLaVAs in common/standins/llava-weights; further seeds train theirs first
AGAIN = 0  # the seed of which an arm is tuned once more


# -- the jobs ----------------------------------------------------------------------------------------------
def _job(name: str, function: str, size: str, seconds: float, after: tuple[str, ...] = (), **arguments) -> Job:
    """seconds: on one core of a 2024 server at size cpu; they only order the work and estimate the rest."""
    return Job(name, f"{__name__}:{function}", arguments | {"size": size}, seconds=min(seconds, SIZES[size].job_seconds), after=after)


def jobs(size: str = "cpu") -> list[Job]:
    """Features, stand-ins that are not committed, and all that needs nothing else."""
    made = [_job(f"features/{split}", "features", size, seconds, split=split) for split, seconds in SPLITS.items()]
    needed = tuple(job.name for job in made)
    made += [_job("blind", "blind_answers", size, 4)]
    made += standins(SIZES[size].seeds)
    for seed in SIZES[size].seeds:
        after = (*needed, f"stand-in/seed{seed}")
        weights = str(work_folder("vica", size) / f"all-layers-{seed}.safetensors")
        made += [_job(f"all layers/seed{seed}", "all_layers", size, 60, after, seed=seed, weights=weights),
                 _job(f"dense/seed{seed}", "tune", size, 40, after, seed=seed, arm="dense", layers=None),
                 _job(f"few/seed{seed}", "tune", size, 25, after, seed=seed, arm="few", layers=None),
                 _job(f"text/seed{seed}", "tune", size, 20, after, seed=seed, arm="text", layers=[]),
                 _job(f"untuned/seed{seed}", "untuned", size, 25, after, seed=seed)]
    return made


def standins(seeds: tuple[int, ...]) -> list[Job]:
    """A job for the small LLaVA of each seed that is not among the committed ones: an hour."""
    return [Job(f"stand-in/seed{seed}", "common.standins.llava:made", {"seed": seed}, seconds=3600) for seed in seeds if seed >= COMMITTED]


def then(size: str, results: dict) -> list[Job]:
    """The arms of every seed whose all-layer model is there to choose their layers."""
    found = [seed for seed in SIZES[size].seeds if f"all layers/seed{seed}" in results]
    made = [(name, seed, layers) for seed in found for name, layers in arms(results, seed).items() if not repeated(results, seed, name)]
    made += [("again", AGAIN, arms(results, AGAIN)["greedy"])] if AGAIN in found else []
    return [_job(f"{name}/seed{seed}", "tune", size, 22, seed=seed, arm=name, layers=layers) for name, seed, layers in made]


def arms(results: dict, seed: int) -> dict[str, list[int]]:
    """Sets of layers, chosen by what the seed's all-layer model showed on validation pictures, or without looking."""
    of = results[f"all layers/seed{seed}"]
    worth, n = {int(k): v for k, v in of["leave-one-out"].items()}, of["layers"]
    return {"top": list(selection.top(worth, K)), "greedy": of["greedy"]["kept"], "drawn": list(baselines.random_layers(n, K, seed))}


def repeated(results: dict, seed: int, arm: str) -> bool:
    """Whether an arm is another arm's training again: greedy elimination may end at the layers of the highest scores."""
    of = arms(results, seed)
    return arm == "greedy" and of["greedy"] == of["top"]


def result_of(results: dict, arm: str, seed: int) -> dict:
    """What `tune` gave for an arm; where that is another's training again, the other's."""
    return results[f"top/seed{seed}" if arm == "greedy" and f"greedy/seed{seed}" not in results else f"{arm}/seed{seed}"]


# What `arms` reads of a result of `all_layers`.
EXAMPLE = {f"all layers/seed{seed}": {
    "layers": 8, "leave-one-out": {str(k): 1.0 - k / 8 for k in range(8)},
    "greedy": {"kept": [0, 3]}} for seed in SIZES["cpu"].seeds}


# -- training ----------------------------------------------------------------------------------------------
def tuned(parts: Parts, layers: tuple[int, ...] | None, seed: int, s: Size, tokens: int | None = None) -> float:
    """Trains parts in place: the same rows for every arm. layers: None is dense. Returns the loss of the last ten steps."""
    losses = train(parts, layers, seed, s.steps, s.rows, RATE, tokens, scenes=s.trained_on, easy=s.trained_on // 4)
    return sum(losses[-10:]) / len(losses[-10:])


def pooled(features: Tensor, tokens: int | None) -> Tensor:
    """(..., N, dv) -> (..., tokens, dv): means over stretches of visual tokens, in reading order; None leaves them as they are."""
    if tokens is None:
        return features
    return torch.stack([part.float().mean(-2) for part in features.tensor_split(tokens, dim=-2)], -2)


@torch.no_grad()
def nudged(parts: Parts, seed: int) -> None:
    """Moves each weight to the next number below or above, or leaves it, by lot: one unit of its last place, which is the least that
    a weight can move by, and what another order of summation does to what it meets."""
    draw = torch.Generator().manual_seed(seed)
    for weight in (*parts.decoder.parameters(), *parts.projector.parameters()):
        to = torch.randint(-1, 2, weight.shape, generator=draw)
        weight.copy_(torch.where(to == 0, weight, torch.nextafter(weight, torch.where(to > 0, torch.inf, -torch.inf))))


def train(parts: Parts, cross_layers: tuple[int, ...] | None, seed: int, steps: int, rows: int, rate: float, tokens: int | None = None,
          **pictures) -> list[float]:
    """Losses of a training in place, in fp32: of ViCA in these layers, or of dense. tokens: so many `pooled` ones in place of all.
    pictures: arguments of ScenePictures."""
    from ..data import ScenePictures
    from ..module import ViCATraining

    module = ViCATraining(LlavaSpec(stand_in="in memory"), None if cross_layers is None else list(cross_layers), learning_rate=rate,
                          weight_decay=0.01, beta2=0.98, warmup_steps=15, seed=seed)
    module.given = parts

    class Shown(ScenePictures):
        def _rows(self, *which):
            made = super()._rows(*which)
            made.entries = [(pooled(features, tokens), texts) for features, texts in made.entries]
            return made

    data = Shown(train_samples=steps * rows, batch_size=rows, easy_share=0.15, seed=seed, **pictures)
    return fit(module, data, steps, precision="32-true")


# -- what the jobs do --------------------------------------------------------------------------------------
def features(split: str, size: str = "cpu") -> int:
    """Features of every picture of a split that the other jobs use. How many. "easy" is easy-VQA's part of the training pictures."""
    from common.vision.features import Pictures

    s = SIZES[size]
    name, count, easy = {"train": ("train", s.trained_on, 0), "easy": ("train", 0, s.trained_on // 4), "val": ("val", s.validation, 0),
                         "test": ("test", s.test, s.easy)}[split]
    Pictures(count, split=name, easy=easy)
    return count + easy


def blind_answers(size: str = "cpu") -> dict[str, float]:
    """Scores of the best answers without the picture, which are the same for every seed."""
    return blind(SIZES[size].test, SIZES[size].easy)


def all_layers(seed: int, weights: str, size: str = "cpu") -> dict:
    """The all-layer model of a seed, and what its layers are worth.

    weights: file that the tuned all-layer weights are kept in, for looking into later.
    """
    from safetensors.torch import save_file

    from common.standins.llava import stand_in

    parts, s = stand_in(seed), SIZES[size]
    every = tuple(range(parts.decoder.config.num_hidden_layers))
    result = {"model": parts.source, "layers": len(every), "items": items(s), "loss": tuned(parts, every, seed, s)}
    Path(weights).parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in parts.decoder.state_dict().items() if k != "lm_head.weight"}, weights)
    result["all layers"] = tested(parts, vica(parts, every), s.test, s.easy)
    single, kept, eliminated = worth(parts, every, s, K)
    result |= {"leave-one-out": single, "greedy": {"kept": kept, "steps": eliminated}, "pairs": pairs(parts, every, s),
               f"PyramidDrop {KEEP}": dropped(parts, every, KEEP, s)}
    return result


def items(s: Size) -> dict[str, int]:
    """Questions behind an accuracy; "pairs, ..." and "dropped, ...": behind one of `pairs` and of `dropped`."""
    def count(which: slice) -> dict[str, int]:
        kinds = [q.kind for row in test_set("test", s.test, s.easy)[1][which] for q in row]
        return {"all": len(kinds), "open": sum(kind not in YES_NO for kind in kinds)}

    return count(slice(s.test)) | {f"pairs, {name}": n for name, n in count(slice(s.test // 3)).items()} | {
        f"dropped, {name}": n for name, n in count(slice(0, s.test, 2)).items()}


def frozen(parts: Parts, s: Size) -> dict[str, dict]:
    """A dense model's scores when visual tokens go without a part of every layer."""
    return {what: tested(parts, functools.partial(frozen_dense, parts.decoder, freeze=what), s.test, s.easy) for what in FREEZES}


def worth(parts: Parts, layers: tuple[int, ...], s: Size, count: int | None = None) -> tuple[dict[str, float], list[int], list[list]]:
    """({layer: nats}, greedy set of `count`, greedy steps), measured on validation pictures with visual tokens frozen."""
    pictures, asked = test_set("val", s.validation, 0)

    @functools.cache
    def answers(chosen: tuple[int, ...]) -> Tensor:
        return log_probabilities(parts, vica(parts, chosen), pictures, asked)

    single = {str(k): v for k, v in selection.leave_one_out(answers, layers).items()}
    kept, steps = selection.greedy(answers, layers, count) if count else ((), [])
    return single, list(kept), [list(step) for step in steps]


def pairs(parts: Parts, layers: tuple[int, ...], s: Size) -> dict[str, dict[str, float]]:
    """{"0-1": accuracies} of every K layers without training, on a third of the pictures."""
    pictures, asked = (part[: s.test // 3] for part in test_set("test", s.test, s.easy))
    by_pair = {}
    for pair in itertools.combinations(layers, K):
        of = scores(asked, right_answers(parts, vica(parts, pair), pictures, asked), s.test)
        by_pair["-".join(map(str, pair))] = {name: of[name] for name in ("all", "open")}
    return by_pair


def tune(seed: int, arm: str, layers: list[int] | None, size: str = "cpu") -> dict:
    """One arm: dense (layers None), dense on few tokens, the text alone ([]) or ViCA in `layers`."""
    from common.standins.llava import stand_in

    parts, s = stand_in(seed), SIZES[size]
    tokens = equal_tokens(parts) if arm == "few" else None
    if arm == "again":
        nudged(parts, seed)
    loss = tuned(parts, None if layers is None else tuple(layers), seed, s, tokens)
    way = dense(parts) if layers is None else vica(parts, tuple(layers))
    result = {"arm": arm, "layers": layers, "loss": loss}
    if arm == "few":
        return result | {"tokens": tokens, "test": on_few(parts, tokens, s)}
    return result | {"test": tested(parts, way, s.test, s.easy)}


def on_few(parts: Parts, tokens: int, s: Size) -> dict[str, float]:
    """Scores of a dense model that is shown `pooled` tokens."""
    pictures, asked = test_set("test", s.test, s.easy)
    return scores(asked, right_answers(parts, dense(parts), pooled(pictures, tokens), asked), s.test)


def dropped(parts: Parts, layers: tuple[int, ...], keep: float, s: Size) -> dict:
    """The arm with a mean share `keep` of visual tokens over its layers: ranked by attention, by two lots, and whole; on every other
    picture, for here each question is a row."""
    shares, config = schedule(layers, keep), method.ViCAConfig(layers)
    pictures, asked = (part[: s.test : 2] for part in test_set("test", s.test, s.easy))
    ways = {"ranked": lambda layout, visual: pruning.ranked(parts.decoder, config, layout, visual, shares),
            "random": lambda layout, visual: pruning.by_lot(layout.visual_real, shares, seed=0),
            "random again": lambda layout, visual: pruning.by_lot(layout.visual_real, shares, seed=1), "whole": None}

    def of(choose) -> dict[str, float]:
        right = right_answers(parts, vica(parts, layers, choose), pictures, asked, alone=choose is not None)
        return scores(asked, right, len(asked))

    return {"schedule": {str(k): v for k, v in shares.items()}} | {way: of(choose) for way, choose in ways.items()}


def untuned(seed: int, size: str = "cpu") -> dict:
    """The dense stand-in as it is: on all visual tokens, with these frozen, and on as many as ViCA's visual FLOPs are worth.

    The few are kept by lot, or by the attention of that layer whose ranking answers most questions about validation pictures:
    FastV's own layer is that of another model, and the baseline shall not lose by ours.
    """
    from common.standins.llava import stand_in

    parts, s = stand_in(seed), SIZES[size]
    equal, decoder = equal_tokens(parts), parts.decoder
    every = range(decoder.config.num_hidden_layers)

    def shown(split: str, count: int, way: Callable[[Layout, Tensor], Tensor]) -> dict[str, float]:
        pictures, asked = (part[:count] for part in test_set(split, count, s.easy if split == "test" else 0))
        return scores(asked, right_answers(parts, way, pictures, asked, alone=True), count)

    def ranked(split: str, count: int, layers: Iterable[int]) -> list[dict[int, Tensor]]:
        """By batch: {layer: attention to each visual token}. One pass, after which every cut is cheap."""
        found = []

        def look(layout: Layout, visual: Tensor) -> Tensor:
            found.append(attention_to_pictures(decoder, layout, visual, layers))
            return torch.zeros(*layout.ids.shape, visual.shape[-1])

        shown(split, count, look)
        return found

    def cut(split: str, count: int, ranks: list[Tensor]) -> dict[str, float]:
        batches = iter(ranks)
        return shown(split, count, lambda layout, visual: baselines.dense_on(
            decoder, layout, visual, next(batches), equal))

    tried = ranked("val", s.validation, every)
    on_validation = {layer: cut("val", s.validation, [of[layer] for of in tried])["all"] for layer in every}
    best = max(every, key=lambda layer: (on_validation[layer], -layer))
    ranks = [of[best] for of in ranked("test", s.test, [best])]
    lot = [random_scores(of, i) for i, of in enumerate(ranks)]
    return {"whole": tested(parts, dense(parts), s.test, s.easy), "frozen": frozen(parts, s), "equivalent tokens": equal, "ranks": best,
            "validation": {str(k): v for k, v in on_validation.items()}, "attention": cut("test", s.test, ranks),
            "random": cut("test", s.test, lot)}


def equal_tokens(parts: Parts, n_text: int = 11) -> int:
    """Visual tokens of a dense model that cost what ViCA's visual side costs at the stand-in's shape (spec 7.1)."""
    shape = Shape.of(parts.decoder.config)
    ratio = visual_flops(shape, parts.n_visual, n_text, K).total / visual_flops(shape, parts.n_visual, n_text).total
    return equivalent_tokens(ratio, parts.n_visual)
