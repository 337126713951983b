"""The claims in the small: a LLaVA that answers well is taught to look in two of its eight layers.

Per seed: the committed stand-in (common/standins-llava: dense, really trained, real frozen vision tower) and copies of it,
each tuned for the same steps on the same rows: dense; ViCA with all layers, with the two that matter most, the two that
matter least, the last two, two drawn; and the text alone. All then answer the same unseen questions about unseen pictures.

    one     tunes the all-layer model, measures each layer's worth and every pair of layers without training, and what
            freezing costs the dense model; keeps the weights in the cache
    two     tunes one arm that `one` chose, and answers; with the chosen layers also drops visual tokens (PyramidDrop)
    pruned  the dense model as it is, on fewer visual tokens

Every function is one job: arguments in, JSON out (common/jobs.py). size: a name of SIZES.
"""

from __future__ import annotations

import functools
import itertools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data import easyvqa, scenes
from common.llava import LAYERS, N_VISUAL, SHOWN, Llava, build, dense_hidden, question_slots
from common.multimodal import Layout, packed
from common.standins import FOLDER, LlavaTraining, Pictures, train
from common.vision import IMAGE_MEAN, IMAGE_STD

from . import baselines, method, pruning, selection
from .data import ScenePictures
from .module import ViCATraining
from .parts import LlavaSpec, Parts, load_parts
from .reference import frozen_dense
from .sizes import KEEPS, SIZES, K, Size

RATE, PATCH_RATE = 1e-3, 2e-3
YES_NO = ("exists", "relation", "yes/no")
RANKS = 2  # the layer whose attention ranks the visual tokens of pruned dense models (FastV's)


def stand_in(seed: int) -> Parts:
    folder = FOLDER / f"seed{seed}"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.name} of common/standins-llava is missing: restore it or run `make standin-llava`")
    return load_parts(LlavaSpec(stand_in=str(folder)))


# -- questions and scores ----------------------------------------------------------------------------------
@functools.lru_cache(maxsize=4)
def test_set(split: str, count: int, easy: int) -> tuple[Tensor, list[list[scenes.Question]]]:
    """(features, questions by picture): scenes with one question of every kind, then easy-VQA with all of theirs."""
    of, draw = Pictures(count, split=split, easy=easy), np.random.default_rng([0, 11])
    asked = [scenes.one_of_each_kind(s, draw) for s in of.scenes] + [easyvqa.questions(split, n) for n in of.easy]
    return torch.cat([of.scene_features, of.easy_features]) if easy else of.scene_features, asked


Hidden = Callable[[Layout, Tensor], Tensor]


@torch.no_grad()
def answer(parts: Parts, hidden: Hidden, features: Tensor, asked: list[list[scenes.Question]], alone: bool = False,
           batch: int = 64) -> tuple[list[list[bool]], Tensor]:
    """(right or wrong by picture and question, log-probabilities at the answers). alone: one question a row, not a picture."""
    parts.decoder.eval()
    jobs = [(i, [q]) for i, row in enumerate(asked) for q in row] if alone else list(enumerate(asked))
    right, probabilities = [[] for _ in asked], []
    for start in range(0, len(jobs), batch):
        part = jobs[start : start + batch]
        layout = packed(parts.prefix, [[question_slots(parts.tokenizer, q) for q in row] for _, row in part], features.shape[1])
        visual = parts.visual(layout, features[[i for i, _ in part]].float())
        states = hidden(layout, visual)
        scored = layout.targets != -100
        logits = parts.decoder.lm_head(states[scored]).float()
        hits = iter((logits.argmax(-1) == layout.targets[scored]).tolist())
        for i, row in part:
            right[i] += [next(hits) for _ in row]
        probabilities.append(logits.log_softmax(-1))
    return right, torch.cat(probabilities)


def dense(parts: Parts) -> Hidden:
    return lambda layout, visual: dense_hidden(parts.decoder, layout, visual)


def vica(parts: Parts, layers: tuple[int, ...], keep=None) -> Hidden:
    """keep(layout, visual) -> what method.forward takes, or None."""
    config = method.ViCAConfig(layers)

    def hidden(layout: Layout, visual: Tensor) -> Tensor:
        return method.hidden_states(parts.decoder, config, parts.decoder.get_input_embeddings()(layout.ids), layout.positions,
                                    layout.real, visual, layout.visual_positions, layout.visual_real, layout.segments,
                                    keep=None if keep is None else keep(layout, visual))

    return hidden


def scores(asked: list[list[scenes.Question]], right: list[list[bool]], n_scenes: int) -> dict:
    """Accuracies. all, open, yes/no: of questions about scenes; easy ...: of easy-VQA; by kind."""
    found: dict[str, list[bool]] = {}
    for i, (row, hits) in enumerate(zip(asked, right)):
        for q, hit in zip(row, hits):
            group = "yes/no" if q.kind in YES_NO else "open"
            for name in ("all", group, q.kind) if i < n_scenes else ("easy all", f"easy {group}"):
                found.setdefault(name, []).append(hit)
    return {name: sum(hits) / len(hits) for name, hits in found.items()}


def tested(parts: Parts, hidden: Hidden, of: Size, alone: bool = False) -> dict:
    """alone: what treats each question by itself; scenes only."""
    features, asked = (part[: of.test if alone else None] for part in test_set("test", of.test, of.easy))
    return scores(asked, answer(parts, hidden, features, asked, alone)[0], of.test)


def blind(of: Size) -> dict:
    """The best answers without the picture: what a text-only model may reach."""
    _, asked = test_set("test", of.test, of.easy)
    draw = np.random.default_rng([0, 11])
    known = [q for i in range(4000) for q in scenes.one_of_each_kind(scenes.scene(i), draw)]
    known_easy = [q for n in easyvqa.numbers("train") for q in easyvqa.questions("train", n)]
    guesses = iter(scenes.blind(known, [q for row in asked[: of.test] for q in row]) +
                   scenes.blind(known_easy, [q for row in asked[of.test :] for q in row]))
    return scores(asked, [[next(guesses) == q.answer for q in row] for row in asked], of.test)


# -- training ----------------------------------------------------------------------------------------------
def fit(parts: Parts, layers: tuple[int, ...] | None, seed: int, steps: int, rows: int, pictures: int, easy: int, rate: float = RATE,
        captions: float = 0.0, layers_of_tower: tuple[int, ...] = LAYERS) -> list[float]:
    """Trains parts in place by a Lightning Trainer on one CPU thread: bf16, the same rows for every arm. Returns the losses.

    pictures: generated ones, beside `easy` of easy-VQA.
    """
    import lightning as L

    class Losses(L.Callback):
        def __init__(self):
            self.values: list[float] = []

        def on_train_batch_end(self, trainer, *_):
            self.values.append(float(trainer.callback_metrics["train/loss"]))

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    module = ViCATraining(LlavaSpec(stand_in="in memory"), None if layers is None else list(layers), learning_rate=rate,
                          weight_decay=0.01, beta2=0.98, warmup=15, seed=seed)
    module.given, losses = parts, Losses()
    parts.decoder.set_attn_implementation("eager")  # on CPU in bf16 twice as fast as SDPA at this width
    data = ScenePictures(train_samples=steps * rows, batch_size=rows, scenes=pictures, easy=easy, easy_share=0.15,
                         captions=captions, layers=list(layers_of_tower), seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                            precision="bf16-mixed", enable_checkpointing=False, enable_progress_bar=False,
                            enable_model_summary=False, limit_val_batches=0, callbacks=[losses])
        trainer.fit(module, data)
    parts.decoder.eval()
    parts.decoder.set_attn_implementation("sdpa")
    return losses.values


def tuned(parts: Parts, layers: tuple[int, ...] | None, seed: int, of: Size) -> list[float]:
    """`fit` as for every arm of the default run."""
    return fit(parts, layers, seed, of.steps, of.rows, of.trained_on, of.trained_on // 4)


# -- the jobs ----------------------------------------------------------------------------------------------
def one(seed: int, weights: str, size: str = "cpu") -> dict:
    """The all-layer model of a seed, what its layers are worth, and what freezing costs the dense one.

    weights: file that the tuned all-layer weights are kept in, for looking into later.
    """
    from safetensors.torch import save_file

    parts, of = stand_in(seed), SIZES[size]
    n_layers = parts.decoder.config.num_hidden_layers
    every = tuple(range(n_layers))
    result = {"model": parts.source, "layers": n_layers, "dense": tested(parts, dense(parts), of), "blind": blind(of),
              "frozen": {what: tested(parts, functools.partial(frozen_dense, parts.decoder, freeze=what), of)
                         for what in ("ffn", "attention", "all")}}
    result["dense, leave-one-out"] = worth(parts, every, of)[0]
    result["loss"] = _tail(tuned(parts, every, seed, of))
    Path(weights).parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in parts.decoder.state_dict().items() if k != "lm_head.weight"}, weights)
    result["all layers"] = tested(parts, vica(parts, every), of)
    single, kept, steps_taken = worth(parts, every, of, K)
    result["leave-one-out"], result["greedy"] = single, {"kept": kept, "steps": steps_taken}
    features, asked = (part[: of.test // 3] for part in test_set("test", of.test, of.easy))
    result["pairs"] = {}
    for pair in itertools.combinations(every, K):
        hits = scores(asked, answer(parts, vica(parts, pair), features, asked)[0], of.test)
        result["pairs"]["-".join(map(str, pair))] = {name: hits[name] for name in ("all", "open")}
    return result


def worth(parts: Parts, layers: tuple[int, ...], of: Size, count: int | None = None):
    """({layer: nats}, greedy set, greedy steps), measured on validation pictures with visual tokens frozen."""
    features, asked = test_set("val", of.validation, 0)

    @functools.cache
    def answers(chosen: tuple[int, ...]) -> Tensor:
        return answer(parts, vica(parts, chosen), features, asked)[1]

    single = {str(k): v for k, v in selection.leave_one_out(answers, layers).items()}
    kept, steps = selection.greedy(answers, layers, count) if count else ((), [])
    return single, list(kept), [list(s) for s in steps]


def two(seed: int, arm: str, layers: list[int] | None, size: str = "cpu", drop: bool = False) -> dict:
    """One arm: dense (layers None), the text alone ([]) or ViCA in `layers`; with drop, PyramidDrop on it as well."""
    parts, of = stand_in(seed), SIZES[size]
    losses = tuned(parts, None if layers is None else tuple(layers), seed, of)
    way = dense(parts) if layers is None else vica(parts, tuple(layers))
    result = {"arm": arm, "layers": layers, "loss": _tail(losses), "test": tested(parts, way, of)}
    if layers is None:
        result |= {"frozen": {what: tested(parts, functools.partial(frozen_dense, parts.decoder, freeze=what), of)
                              for what in ("ffn", "attention", "all")}}
    for keep in KEEPS if drop else ():
        result[f"PyramidDrop {keep}"] = dropped(parts, tuple(layers), keep, of)
    return result


def dropped(parts: Parts, layers: tuple[int, ...], keep: float, of: Size) -> dict:
    """The arm with a mean share `keep` of visual tokens over its layers: ranked by attention, and by lot."""
    schedule = pruning.schedule(layers, keep)
    config = method.ViCAConfig(layers)
    ranked = tested(parts, vica(parts, layers, lambda lay, vis: pruning.ranked(parts.decoder, config, lay, vis, schedule)), of, alone=True)
    lot = tested(parts, vica(parts, layers, lambda lay, vis: pruning.by_lot(lay.visual_real, schedule, seed=0)), of, alone=True)
    return {"schedule": {str(k): v for k, v in schedule.items()}, "ranked": ranked, "random": lot}


def pruned(seed: int, size: str = "cpu") -> dict:
    """The dense stand-in on fewer visual tokens: as many as ViCA's visual FLOPs are worth, and more. Training-free."""
    parts, of = stand_in(seed), SIZES[size]
    equal, decoder, ranking = equal_tokens(parts), parts.decoder, []

    def rank(layout: Layout, visual: Tensor) -> Tensor:
        ranking.append(baselines.attention_to_pictures(decoder, layout, visual, RANKS))
        return torch.zeros(*layout.ids.shape, visual.shape[-1])

    def cut(count: int, scored: list[Tensor]) -> dict:
        score = iter(scored)
        return tested(parts, lambda lay, vis: dense_hidden(decoder, *baselines.without(lay, vis, baselines.kept_by(next(score), count))),
                      of, alone=True)

    tested(parts, rank, of, alone=True)  # once: every count cuts the same order
    lot = [baselines.random_scores(score, i) for i, score in enumerate(ranking)]
    return {"equivalent tokens": equal} | {str(count): {"attention": cut(count, ranking), "random": cut(count, lot)}
                                           for count in sorted({equal, *of.counts})}


def equal_tokens(parts: Parts, n_text: int = 11) -> int:
    """Visual tokens of a dense model that cost what ViCA's visual side costs at the stand-in's shape (spec 7.1)."""
    from .analytic import Shape, equivalent_tokens, visual_flops

    shape = Shape.of(parts.decoder.config)
    ratio = visual_flops(shape, parts.n_visual, n_text, K).total / visual_flops(shape, parts.n_visual, n_text).total
    return equivalent_tokens(ratio, parts.n_visual)


def scratch(seed: int, layers: list[int], size: str = "cpu") -> dict:
    """ViCA from nothing by the very recipe of the dense stand-in: same rows, steps and rates, both stages."""

    class Training(LlavaTraining):
        def hidden(self, layout: Layout, visual: Tensor) -> Tensor:
            return method.hidden_states(self.decoder, method.ViCAConfig(tuple(layers)), self.decoder.get_input_embeddings()(layout.ids),
                                        layout.positions, layout.real, visual, layout.visual_positions, layout.visual_real, layout.segments)

    of = SIZES[size]
    stage_1, stage_2 = of.scratch_stages
    model, losses = train(seed, "vica-" + "-".join(map(str, layers)), Training, stage_1, stage_2, progress=False,
                          sources=(method.__file__,))
    parts = parts_of(model)
    parts.decoder.set_attn_implementation("sdpa")
    return {"layers": layers, "curve": [losses[i] for i in range(0, len(losses), 50)],
            "test": tested(parts, vica(parts, tuple(layers)), of),
            "dense": tested(stand := stand_in(seed), dense(stand), of)}


def parts_of(small: Llava) -> Parts:
    """A small LLaVA in memory, as parts."""
    return Parts(small.language_model(), small.projector, None, small.tokenizer, small.source,
                 tuple(small.llava.config.vision_feature_layer), small.llava.config.image_token_id, N_VISUAL, SHOWN, IMAGE_MEAN, IMAGE_STD,
                 small.prefix)


def patches(seed: int, arm: str, size: str = "cpu") -> dict:
    """From nothing on raw patches, as an encoder without a single layer gives them: a dense decoder can mix them itself."""
    of = SIZES[size]
    small = build(seed, Pictures(of.trained_on, layers=(0,), easy=0).scene_features[:300], layers=(0,))
    parts = parts_of(small)
    every = tuple(range(parts.decoder.config.num_hidden_layers))
    losses = fit(parts, None if arm == "dense" else every, seed, of.patch_steps, of.patch_rows, of.trained_on, 0, PATCH_RATE,
                 captions=0.2, layers_of_tower=(0,))
    held, draw = Pictures(of.test, layers=(0,), split="test", easy=0), np.random.default_rng([0, 11])
    asked = [scenes.one_of_each_kind(s, draw) for s in held.scenes]
    right, _ = answer(parts, dense(parts) if arm == "dense" else vica(parts, every), held.scene_features, asked)
    return {"arm": arm, "loss": _tail(losses), "curve": [round(x, 3) for x in losses[::25]], "test": scores(asked, right, of.test)}


def _tail(losses: list[float]) -> float:
    return sum(losses[-10:]) / len(losses[-10:])


def prepare(split: str, size: str = "cpu") -> int:
    """Features of every picture of a split that the other jobs use, so that they only read them. How many."""
    of = SIZES[size]
    count, easy = {"train": (of.trained_on, of.trained_on // 4), "val": (of.validation, 0), "test": (of.test, of.easy)}[split]
    Pictures(count, split=split, easy=easy)
    return count + easy
