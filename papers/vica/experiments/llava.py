"""The claims in the small: a LLaVA that answers well is taught to look in two of its eight layers.

Per seed: the committed stand-in (common/standins/llava-weights: dense, really trained, real frozen vision tower) and copies of
it, each tuned for the same steps on the same rows: dense; ViCA with all layers, with the two that matter most, the two that
matter least, the last two, two drawn; and the text alone. All then answer the same unseen questions about unseen pictures.

    features    of the frozen vision tower, which all other jobs only read
    all_layers  tunes the all-layer model, measures each layer's worth and every pair of layers without training, and what
                freezing costs the dense model; keeps the weights in the cache
    tune        tunes one arm whose layers `all_layers` chose, and answers; the widest also drops visual tokens (PyramidDrop)
    pruned      the dense model as it is, on fewer visual tokens

Each is one job: arguments in, JSON out (common/runs/jobs.py); how much of everything, by SIZES. What trains is imported where
it is used: the command that plans the jobs need not wait for Lightning.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.runs.jobs import Job, work_folder
from common.training.fit import fit
from common.vision.layout import Layout
from common.vision.parts import LlavaSpec, Parts
from common.vision.visual_tokens import attention_to_pictures, random_scores, schedule

from .. import baselines, method, pruning, selection
from ..analytic import Shape, equivalent_tokens, visual_flops
from ..reference import frozen_dense
from ..scoring import blind, dense, log_probabilities, right_answers, scores, test_set, tested, vica

K, WIDER = 2, 4  # layers that look, of the stand-in's eight
KEEPS = (0.5, 0.35)  # mean share of visual tokens over WIDER layers under PyramidDrop; the first layer sees all
FREEZES = ("ffn", "attention", "all")  # what visual tokens of a dense model go without
RANKS = 2  # the layer whose attention ranks the visual tokens of pruned dense models (FastV's)
RATE = 1e-3
SPLITS = {"train": 30, "val": 5, "test": 12}  # seconds that their features take


@dataclass(frozen=True)
class Size:
    """steps, rows: of tuning. trained_on, test, validation, easy: pictures; easy is of easy-VQA's test split, and of its training
    split a quarter of `trained_on` is used. counts: visual tokens of pruned dense models, beside the equivalent count.
    job_seconds: no job takes longer."""

    seeds: tuple[int, ...]
    steps: int
    rows: int
    trained_on: int
    test: int
    validation: int
    easy: int
    counts: tuple[int, ...]
    job_seconds: float


SIZES = {"smoke": Size(seeds=(0,), steps=2, rows=2, trained_on=4, test=3, validation=2, easy=1, counts=(16,), job_seconds=2.0),
         "cpu": Size(seeds=(0, 1, 2), steps=160, rows=16, trained_on=1200, test=250, validation=100, easy=120, counts=(8, 16, 32),
                     job_seconds=1000.0)}


# -- the jobs ----------------------------------------------------------------------------------------------
def _job(name: str, function: str, size: str, seconds: float, after: tuple[str, ...] = (), **arguments) -> Job:
    """seconds: on one core of a 2024 server at size cpu; they only order the work and estimate the rest."""
    return Job(name, f"{__name__}:{function}", arguments | {"size": size}, seconds=min(seconds, SIZES[size].job_seconds), after=after)


def jobs(size: str = "cpu") -> list[Job]:
    """Features, and all that needs nothing else."""
    made = [_job(f"features/{split}", "features", size, seconds, split=split) for split, seconds in SPLITS.items()]
    needed = tuple(job.name for job in made)
    kept = work_folder("vica", size)
    for seed in SIZES[size].seeds:
        weights = str(kept / f"all-layers-{seed}.safetensors")
        made += [_job(f"all layers/seed{seed}", "all_layers", size, 110, needed, seed=seed, weights=weights),
                 _job(f"dense/seed{seed}", "tune", size, 100, needed, seed=seed, arm="dense", layers=None),
                 _job(f"text/seed{seed}", "tune", size, 25, needed, seed=seed, arm="text", layers=[]),
                 _job(f"pruned/seed{seed}", "pruned", size, 60, needed, seed=seed)]
    return made


def then(size: str, results: dict) -> list[Job]:
    """The arms of every seed whose all-layer model is there to choose their layers."""
    return [_job(f"{name}/seed{seed}", "tune", size, 80 if name == "wide" else 45, seed=seed, arm=name, layers=layers, drop=name == "wide")
            for seed in SIZES[size].seeds if f"all layers/seed{seed}" in results for name, layers in arms(results, seed).items()]


def arms(results: dict, seed: int) -> dict[str, list[int]]:
    """Sets of layers, chosen by what the seed's all-layer model showed on validation pictures, or without looking."""
    of = results[f"all layers/seed{seed}"]
    worth, n = {int(k): v for k, v in of["leave-one-out"].items()}, of["layers"]
    return {"top": list(selection.top(worth, K)), "bottom": list(selection.bottom(worth, K)), "last": list(baselines.last_layers(n, K)),
            "drawn": list(baselines.random_layers(n, K, seed)), "greedy": of["greedy"]["kept"], "wide": kept_by_greedy(of, WIDER)}


def kept_by_greedy(of: dict, count: int) -> list[int]:
    """What greedy elimination had left when it was down to `count` layers."""
    gone = [layer for layer, _ in of["greedy"]["steps"]]
    return sorted(set(range(of["layers"])) - set(gone[: of["layers"] - count]))


# What `arms` reads of a result of `all_layers`.
EXAMPLE = {f"all layers/seed{seed}": {
    "layers": 8, "leave-one-out": {str(k): 1.0 - k / 8 for k in range(8)},
    "greedy": {"kept": [0, 1], "steps": [[k, 0.0] for k in range(7, 1, -1)]}} for seed in SIZES["cpu"].seeds}


# -- training ----------------------------------------------------------------------------------------------
def tuned(parts: Parts, layers: tuple[int, ...] | None, seed: int, s: Size) -> float:
    """Trains parts in place: the same rows for every arm. layers: None is dense. Returns the loss of the last ten steps."""
    losses = train(parts, layers, seed, s.steps, s.rows, RATE, scenes=s.trained_on, easy=s.trained_on // 4)
    return sum(losses[-10:]) / len(losses[-10:])


def train(parts: Parts, cross_layers: tuple[int, ...] | None, seed: int, steps: int, rows: int, rate: float, **pictures) -> list[float]:
    """Losses of a training in place, in bf16: of ViCA in these layers, or of dense. pictures: arguments of ScenePictures."""
    from ..data import ScenePictures
    from ..module import ViCATraining

    module = ViCATraining(LlavaSpec(stand_in="in memory"), None if cross_layers is None else list(cross_layers), learning_rate=rate,
                          weight_decay=0.01, beta2=0.98, warmup_steps=15, seed=seed)
    module.given = parts
    data = ScenePictures(train_samples=steps * rows, batch_size=rows, easy_share=0.15, seed=seed, **pictures)
    parts.decoder.set_attn_implementation("eager")  # on CPU in bf16 twice as fast as SDPA at this width
    losses = fit(module, data, steps, precision="32-true")
    parts.decoder.set_attn_implementation("sdpa")
    return losses


# -- what the jobs do --------------------------------------------------------------------------------------
def features(split: str, size: str = "cpu") -> int:
    """Features of every picture of a split that the other jobs use. How many."""
    from common.vision.features import Pictures

    s = SIZES[size]
    count, easy = {"train": (s.trained_on, s.trained_on // 4), "val": (s.validation, 0), "test": (s.test, s.easy)}[split]
    Pictures(count, split=split, easy=easy)
    return count + easy


def all_layers(seed: int, weights: str, size: str = "cpu") -> dict:
    """The all-layer model of a seed, what its layers are worth, and what freezing costs the dense one.

    weights: file that the tuned all-layer weights are kept in, for looking into later.
    """
    from safetensors.torch import save_file

    from common.standins.llava import stand_in

    parts, s = stand_in(seed), SIZES[size]
    every = tuple(range(parts.decoder.config.num_hidden_layers))
    result = {"model": parts.source, "layers": len(every), "dense": tested(parts, dense(parts), s.test, s.easy),
              "blind": blind(s.test, s.easy), "frozen": frozen(parts, s), "dense, leave-one-out": worth(parts, every, s)[0],
              "loss": tuned(parts, every, seed, s)}
    Path(weights).parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in parts.decoder.state_dict().items() if k != "lm_head.weight"}, weights)
    result["all layers"] = tested(parts, vica(parts, every), s.test, s.easy)
    single, kept, eliminated = worth(parts, every, s, K)
    result |= {"leave-one-out": single, "greedy": {"kept": kept, "steps": eliminated}, "pairs": pairs(parts, every, s)}
    return result


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


def tune(seed: int, arm: str, layers: list[int] | None, size: str = "cpu", drop: bool = False) -> dict:
    """One arm: dense (layers None), the text alone ([]) or ViCA in `layers`; with drop, PyramidDrop on it as well."""
    from common.standins.llava import stand_in

    parts, s = stand_in(seed), SIZES[size]
    loss = tuned(parts, None if layers is None else tuple(layers), seed, s)
    way = dense(parts) if layers is None else vica(parts, tuple(layers))
    result = {"arm": arm, "layers": layers, "loss": loss, "test": tested(parts, way, s.test, s.easy)}
    if layers is None:
        result["frozen"] = frozen(parts, s)
    return result | {f"PyramidDrop {keep}": dropped(parts, tuple(layers), keep, s) for keep in (KEEPS if drop else ())}


def dropped(parts: Parts, layers: tuple[int, ...], keep: float, s: Size) -> dict:
    """The arm with a mean share `keep` of visual tokens over its layers: ranked by attention, and by lot."""
    shares, config = schedule(layers, keep), method.ViCAConfig(layers)
    ways = {"ranked": lambda layout, visual: pruning.ranked(parts.decoder, config, layout, visual, shares),
            "random": lambda layout, visual: pruning.by_lot(layout.visual_real, shares, seed=0)}
    return {"schedule": {str(k): v for k, v in shares.items()},
            **{way: tested(parts, vica(parts, layers, choose), s.test, s.easy, alone=True) for way, choose in ways.items()}}


def pruned(seed: int, size: str = "cpu") -> dict:
    """The dense stand-in on fewer visual tokens: as many as ViCA's visual FLOPs are worth, and more. Training-free."""
    from common.standins.llava import stand_in

    parts, s, ranking = stand_in(seed), SIZES[size], []
    equal, decoder = equal_tokens(parts), parts.decoder

    def rank(layout: Layout, visual: Tensor) -> Tensor:
        ranking.append(attention_to_pictures(decoder, layout, visual, [RANKS])[RANKS])
        return torch.zeros(*layout.ids.shape, visual.shape[-1])

    def cut(count: int, scored: list[Tensor]) -> dict:
        batches = iter(scored)

        def hidden(layout: Layout, visual: Tensor) -> Tensor:
            return baselines.dense_on(decoder, layout, visual, next(batches), count)

        return tested(parts, hidden, s.test, s.easy, alone=True)

    tested(parts, rank, s.test, s.easy, alone=True)  # once: every count cuts the same order
    lot = [random_scores(score, i) for i, score in enumerate(ranking)]
    return {"equivalent tokens": equal} | {str(count): {"attention": cut(count, ranking), "random": cut(count, lot)}
                                           for count in sorted({equal, *s.counts})}


def equal_tokens(parts: Parts, n_text: int = 11) -> int:
    """Visual tokens of a dense model that cost what ViCA's visual side costs at the stand-in's shape (spec 7.1)."""
    shape = Shape.of(parts.decoder.config)
    ratio = visual_flops(shape, parts.n_visual, n_text, K).total / visual_flops(shape, parts.n_visual, n_text).total
    return equivalent_tokens(ratio, parts.n_visual)
