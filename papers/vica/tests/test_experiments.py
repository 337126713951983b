"""What each job does, run small: which layers an arm trains, on which pictures, from which weights, and who is asked about what;
selections see validation pictures alone. Two trainings are real; other jobs are watched, which costs nothing."""

import dataclasses
import math
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.data import easyvqa, scenes
from common.standins.llava import stand_in
from common.vision.llava import LAYERS

from .. import baselines, method, pruning, scoring, selection
from ..experiments import clock, llava, patches, scratch

SMALL = llava.Size(seeds=(0,), steps=12, rows=2, trained_on=8, test=6, validation=4, easy=2, job_seconds=1.0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(llava.SIZES, "small", SMALL)


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


# -- selections, by hand -----------------------------------------------------------------------------------
def log(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_divergence_is_of_the_first_from_the_second():
    p, q = log([0.5, 0.5], [0.9, 0.1]), log([0.25, 0.75], [0.9, 0.1])
    first = 0.5 * torch.tensor(0.5 / 0.25).log() + 0.5 * torch.tensor(0.5 / 0.75).log()
    assert selection.divergence(p, q) == pytest.approx(float(first) / 2, rel=1e-6) != pytest.approx(selection.divergence(q, p))
    p, q = log([0.5, 0.5, 0.0]), log([0.25, 0.75, 0.0])  # what both rule out adds nothing
    assert selection.divergence(p, q) == pytest.approx(float(first), rel=1e-6)
    assert selection.divergence(p, log([0.2, 0.3, 0.5])) == pytest.approx(0.5 * (math.log(2.5) + math.log(5 / 3)), rel=1e-9)
    assert selection.divergence(log([0.2, 0.3, 0.5]), p) == math.inf  # what q alone rules out
    with pytest.raises(ValueError, match="no slot is scored"):
        selection.divergence(p[:0], q[:0])


def answers(worth, both=()):
    """Of layers in which each looks at something: without it the first answer's chance falls by `worth`; two of `both` do the same."""
    def of(chosen):
        away = [k for k in worth if k not in chosen]
        loss = sum(worth[k] for k in away if k not in both) + (max(worth[k] for k in both) if set(both) <= set(away) and both else 0)
        return log([0.95 - loss, 0.05 + loss])

    return of


def test_leave_one_out_measures_what_is_taken_away_from_all():
    of = answers({0: 0.3, 1: 0.1, 2: 0.2})
    found = selection.leave_one_out(of, (0, 1, 2))
    whole = of((0, 1, 2))
    expected = {k: float((whole.exp() * (whole - log([0.95 - w, 0.05 + w]))).sum()) for k, w in ((0, 0.3), (1, 0.1), (2, 0.2))}
    assert found == pytest.approx(expected) and found[0] > found[2] > found[1] > 0
    assert selection.top(found, 2) == (0, 2) and selection.bottom(found, 2) == (1, 2)
    assert selection.top(dict.fromkeys(range(4), 0.5), 2) == selection.bottom(dict.fromkeys(range(4), 0.5), 2) == (0, 1)
    assert selection.top(found, 0) == () and selection.top(found, 3) == (0, 1, 2)
    for count in (-1, 4):
        with pytest.raises(ValueError, match="of 3 layers"):
            selection.top(found, count)


def test_greedy_keeps_one_of_two_that_do_the_same():
    """0 and 1 see the same: alone each is worth nothing, together most; the later is taken away first, then what is worth least."""
    of = answers({0: 0.5, 1: 0.5, 2: 0.1, 3: 0.2}, both=(0, 1))
    kept, steps = selection.greedy(of, (0, 1, 2, 3), 2)
    assert kept == (0, 3) and [layer for layer, _ in steps] == [1, 2]
    assert steps[1][1] == pytest.approx(selection.divergence(of((0, 1, 2, 3)), of((0, 3))))


def test_layers_drawn_by_lot_are_drawn():
    drawn = {baselines.random_layers(8, 2, seed) for seed in range(30)}
    assert len(drawn) > 10 and {k for layers in drawn for k in layers} == set(range(8)) and all(len(set(d)) == 2 for d in drawn)
    of = {f"all layers/seed{s}": {"layers": 8, "leave-one-out": {str(k): float(k) for k in range(8)}, "greedy": {"kept": [2, 5]}}
          for s in range(9)}
    chosen = [llava.arms(of, seed) for seed in range(9)]
    assert all(arm["top"] == [6, 7] and arm["greedy"] == [2, 5] for arm in chosen)
    assert len({tuple(arm["drawn"]) for arm in chosen}) > 4 and sum(arm["drawn"] == [6, 7] for arm in chosen) < 3


# -- pictures ----------------------------------------------------------------------------------------------
def test_no_picture_of_validation_or_test_is_a_training_picture():
    """By what is in them, at the sizes of the default run: generated scenes, and easy-VQA's own split."""
    cpu = llava.SIZES["cpu"]
    of = {split: {repr(scenes.scene(i, split)) for i in range(count)} for split, count in (
        ("train", cpu.trained_on), ("val", cpu.validation), ("test", cpu.test))}
    assert not of["train"] & of["test"] and not of["train"] & of["val"] and not of["val"] & of["test"]
    shown = {split: [easyvqa.image(split, n).tobytes() for n in easyvqa.numbers(split)[:count]]
             for split, count in (("train", cpu.trained_on // 4), ("test", cpu.easy))}
    assert not {*shown["train"]} & {*shown["test"]}


@pytest.mark.parametrize("split, asked", [("train", (8, "train", 0)), ("easy", (0, "train", 2)), ("val", (4, "val", 0)),
                                          ("test", (6, "test", 2))])
def test_features_are_of_the_pictures_that_the_other_jobs_show(split, asked, monkeypatch):
    seen = []
    monkeypatch.setattr("common.vision.features.Pictures", lambda count, split, easy: seen.append((count, split, easy)))
    assert llava.features(split, "small") == asked[0] + asked[2] and seen == [asked]


# -- training ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layers, tokens", [((0, 4), None), (None, 3)])
def test_a_training_is_of_these_layers_and_moves_the_weights(layers, tokens, monkeypatch):
    """Two steps on a few pictures of the training split."""
    parts, calls, shown = stand_in(0), [], []
    hidden, dense = method.hidden_states, llava.train.__globals__["pooled"]
    before = weights(parts.decoder), weights(parts.projector)
    monkeypatch.setattr(method, "hidden_states", lambda of, config, *more, **how: calls.append(config.cross_layers) or hidden(
        of, config, *more, **how))
    monkeypatch.setattr(llava, "pooled", lambda features, count: shown.append(count) or dense(features, count))
    made, real = [], scenes.scene
    monkeypatch.setattr(scenes, "scene", lambda number, split="train", seed=0: made.append((number, split)) or real(number, split, seed))
    losses = llava.train(parts, layers, 0, 2, 2, 1e-3, tokens, scenes=3, easy=0)
    moved = not same(before[0], weights(parts.decoder)), not same(before[1], weights(parts.projector))
    assert moved == (True, True), "trained with a rate of zero"
    # what the model's own check tries comes before
    assert calls[-2:] == ([layers] * 2 if layers else []) and len(losses) == 2 and set(shown) == {tokens}
    assert set(made) == {(i, "train") for i in range(3)}


class Asked(list):
    """Calls that are written down in place of the work; each gives a mark by which a result can be traced."""

    def of(self, name, value=None):
        def call(*given, **how):
            self.append((name, given, how))
            return value(*given, **how) if callable(value) else f"{name} {len(self) - 1}"

        return call

    def named(self, name):
        return [(given, how) for each, given, how in self if each == name]


@pytest.mark.parametrize("arm, layers", [("dense", None), ("few", None), ("text", []), ("top", [1, 6]), ("again", [1, 6])])
def test_an_arm_is_tuned_in_its_layers_and_answers_in_them(arm, layers, monkeypatch):
    asked, start = Asked(), weights(stand_in(0).decoder)
    monkeypatch.setattr(llava, "train", asked.of("train", lambda *given, **how: [100.0, 100.0, *range(10)]))
    for name in ("tested", "on_few", "dense", "vica"):
        monkeypatch.setattr(llava, name, asked.of(name))
    found = llava.tune(0, arm, layers, "small")
    ((parts, trained, seed, steps, rows, rate, tokens), pictures), = asked.named("train")
    assert trained == (None if layers is None else tuple(layers)) and (seed, steps, rows, rate) == (0, 12, 2, llava.RATE)
    assert pictures == {"scenes": 8, "easy": 2} and llava.RATE == 1e-3 and found["loss"] == 4.5, "the last ten steps"
    assert tokens == (llava.equal_tokens(parts) if arm == "few" else None)
    started = same(start, weights(parts.decoder))
    assert started != (arm == "again"), "all start from the stand-in, but for the one that is moved by a rounding"
    (kind, given, _), = [call for call in asked if call[0] in ("dense", "vica")]
    assert (kind, given) == (("dense", (parts,)) if layers is None else ("vica", (parts, tuple(layers))))
    if arm == "few":
        assert asked.named("on_few") == [((parts, tokens, SMALL), {})] and not asked.named("tested") and found["tokens"] == tokens
    else:
        (given, _), = asked.named("tested")
        assert given[0] is parts and given[2:] == (6, 2) and asked[int(given[1].split()[1])][0] == kind
    assert (found["arm"], found["layers"]) == (arm, layers) and found["test"].startswith("on_few" if arm == "few" else "tested")


def test_few_tokens_cost_what_vica_costs_and_are_shown_as_they_were_trained(monkeypatch):
    asked, parts = Asked(), types.SimpleNamespace()
    monkeypatch.setattr(llava, "test_set", asked.of("test_set", lambda *given: (torch.arange(8.0).reshape(1, 8, 1), "questions")))
    monkeypatch.setattr(llava, "dense", lambda of: ("dense", of))
    monkeypatch.setattr(llava, "right_answers", asked.of("right", lambda *given: "hits"))
    monkeypatch.setattr(llava, "scores", lambda *given: given)
    assert llava.on_few(parts, 2, SMALL) == ("questions", "hits", 6) and asked[0] == ("test_set", ("test", 6, 2), {})
    (given, _), = asked.named("right")
    assert given[:2] == (parts, ("dense", parts)) and given[2].flatten().tolist() == [1.5, 5.5]


def test_the_all_layer_model_is_tuned_kept_and_only_then_looked_into(monkeypatch, tmp_path):
    asked = Asked()

    def tuned(parts, layers, seed, s):
        with torch.no_grad():
            next(parts.decoder.parameters()).add_(1.0)
        asked.append(("tuned", (parts, layers, seed, s), {}))
        return 0.25

    monkeypatch.setattr(llava, "tuned", tuned)
    for name, value in (("tested", None), ("pairs", None), ("dropped", None), ("items", None), ("vica", None),
                        ("worth", lambda *given: ("single", [3, 5], "steps"))):
        monkeypatch.setattr(llava, name, asked.of(name, value))
    found = llava.all_layers(0, str(tmp_path / "w.safetensors"), "small")
    every, ((parts, layers, seed, s), _) = tuple(range(8)), asked.named("tuned")[0]
    assert (layers, seed, s) == (every, 0, SMALL) and found["layers"] == 8 and found["loss"] == 0.25
    kept = load_file(tmp_path / "w.safetensors")
    stored = all(torch.equal(kept[name], value) for name, value in parts.decoder.state_dict().items() if name != "lm_head.weight")
    assert stored and "lm_head.weight" not in kept
    order = [name for name, *_ in asked]
    assert order.index("tuned") < min(order.index(name) for name in ("tested", "worth", "pairs", "dropped"))
    assert asked.named("worth") == [((parts, every, SMALL, 2), {})] and asked.named("pairs") == [((parts, every, SMALL), {})]
    assert asked.named("dropped") == [((parts, every, 0.5, SMALL), {})] and asked.named("items") == [((SMALL,), {})]
    assert asked.named("tested")[0][0][2:] == (6, 2) and asked.named("vica") == [((parts, every), {})]
    assert (found["leave-one-out"], found["greedy"]) == ("single", {"kept": [3, 5], "steps": "steps"})


def test_layers_are_chosen_on_validation_pictures_alone(monkeypatch):
    asked, of = Asked(), answers({k: 0.01 * (k + 1) for k in range(8)})
    monkeypatch.setattr(llava, "test_set", asked.of("test_set", lambda split, *_: (f"pictures of {split}", f"questions of {split}")))
    monkeypatch.setattr(llava, "vica", lambda parts, layers: layers)
    monkeypatch.setattr(llava, "log_probabilities", asked.of("answers", lambda parts, layers, *shown: of(layers)))
    single, kept, steps = llava.worth("parts", tuple(range(8)), SMALL, 2)
    assert asked.named("test_set") == [(("val", 4, 0), {})]
    assert {given[2:] for given, _ in asked.named("answers")} == {("pictures of val", "questions of val")}
    assert list(single) == [str(k) for k in range(8)] and single["7"] == max(single.values()) and kept == [6, 7]
    assert [layer for layer, _ in steps] == [0, 1, 2, 3, 4, 5] and llava.worth("parts", (0, 1), SMALL)[1:] == ([], [])


def test_every_pair_of_layers_answers_a_third_of_the_test_pictures(monkeypatch):
    asked = Asked()
    monkeypatch.setattr(llava, "test_set", asked.of("test_set", lambda *given: (list(range(8)), list("abcdefgh"))))
    monkeypatch.setattr(llava, "vica", lambda parts, layers: layers)
    monkeypatch.setattr(llava, "right_answers", asked.of("right", lambda parts, layers, *shown: layers))
    monkeypatch.setattr(llava, "scores", lambda questions, right, n: {"all": (questions, right, n), "open": right, "digit": 0})
    found = llava.pairs("parts", (0, 2, 5), SMALL)
    assert asked.named("test_set") == [(("test", 6, 2), {})]
    assert found == {f"{a}-{b}": {"all": (["a", "b"], (a, b), 6), "open": (a, b)} for a, b in ((0, 2), (0, 5), (2, 5))}
    assert {tuple(given[2]) for given, _ in asked.named("right")} == {(0, 1)}


def test_items_are_the_questions_behind_each_accuracy(monkeypatch):
    def q(*kinds):
        return [types.SimpleNamespace(kind=kind) for kind in kinds]

    rows = [q("digit"), q("exists", "digit"), q("relation"), q("color", "color"), q("digit"), q("exists"), q("easy"), q("easy")]
    monkeypatch.setattr(llava, "test_set", lambda split, count, easy: (None, rows) if (split, count, easy) == ("test", 6, 2) else None)
    assert llava.items(SMALL) == {"all": 8, "open": 5, "pairs, all": 3, "pairs, open": 2, "dropped, all": 3, "dropped, open": 2}


def test_tokens_are_dropped_by_rank_by_two_lots_and_not_at_all(monkeypatch):
    asked, parts = Asked(), types.SimpleNamespace(decoder="decoder")
    monkeypatch.setattr(llava, "test_set", asked.of("test_set", lambda *given: (list(range(8)), list("abcdefgh"))))
    monkeypatch.setattr(llava, "vica", lambda of, layers, choose: (layers, choose))
    monkeypatch.setattr(llava, "right_answers", asked.of("right", lambda of, way, pictures, questions, alone: (way[1], pictures, alone)))
    monkeypatch.setattr(llava, "scores", lambda questions, right, n: (questions, right, n))
    monkeypatch.setattr(pruning, "ranked", asked.of("ranked"))
    monkeypatch.setattr(pruning, "by_lot", asked.of("lot"))
    found = llava.dropped(parts, (0, 3, 6, 7), 0.5, SMALL)
    shares = {int(k): v for k, v in found.pop("schedule").items()}
    assert sum(shares.values()) / 4 == pytest.approx(0.5) and shares[0] == 1.0 and asked.named("test_set") == [(("test", 6, 2), {})]
    for way, (questions, (choose, pictures, alone), n) in found.items():
        assert (questions, pictures, n, alone) == (["a", "c", "e"], [0, 2, 4], 3, way != "whole") and (choose is None) == (way == "whole")
        if choose:
            choose(types.SimpleNamespace(visual_real="real"), "visual")
    config = method.ViCAConfig((0, 3, 6, 7))
    (given, _), = asked.named("ranked")
    assert given[0] == "decoder" and given[1] == config and given[3:] == ("visual", shares) and set(found) == {
        "ranked", "random", "random again", "whole"}
    assert [(given, how) for given, how in asked.named("lot")] == [(("real", shares), {"seed": 0}), (("real", shares), {"seed": 1})]


def test_tokens_of_a_dense_model_are_ranked_by_the_layer_that_validation_says(monkeypatch):
    """Layers 2 and 5 rank best for validation questions: the lower; test pictures are ranked by it and by nothing else."""
    parts, asked = stand_in(0), Asked()
    monkeypatch.setattr("common.standins.llava.stand_in", lambda seed: parts)
    best = {2: 0.75, 5: 0.75}
    monkeypatch.setattr(llava, "test_set", lambda split, count, easy: (
        [f"{split} {i}" for i in range(count + easy)], [f"{split} {i}?" for i in range(count + easy)]))

    def right(of, way, pictures, questions, alone=False):
        assert of is parts and alone and [q.removesuffix("?") for q in questions] == pictures
        layout = types.SimpleNamespace(ids=torch.zeros(2, 3))
        return [way(layout, torch.zeros(2, 8, 4)), way(layout, torch.zeros(2, 8, 4))], pictures

    def scores(questions, right, count):
        marks, pictures = right
        assert len(pictures) == count
        return {"all": best.get(marks[0], 0.5) if pictures[0].startswith("val") and isinstance(marks[0], int) else marks, "shown": pictures}

    def attention(decoder, layout, visual, layers):
        asked.append(("attention", tuple(layers), {}))
        return {layer: torch.full((2, 8), float(layer)) for layer in layers}

    def dense_on(decoder, layout, visual, score, count):
        asked.append(("cut", (decoder is parts.decoder, count), {}))
        return int(score[0, 0]) if score.unique().numel() == 1 else score

    for name, value in (("right_answers", right), ("scores", scores), ("attention_to_pictures", attention)):
        monkeypatch.setattr(llava, name, value)
    monkeypatch.setattr(baselines, "dense_on", dense_on)
    monkeypatch.setattr(llava, "tested", lambda *given: ("tested", given[0] is parts, *given[2:]))
    monkeypatch.setattr(llava, "frozen", lambda *given: ("frozen", given[0] is parts, given[1]))
    monkeypatch.setattr(llava, "equal_tokens", lambda of: 3)
    found = llava.untuned(0, "small")
    assert found["validation"] == {str(k): best.get(k, 0.5) for k in range(8)} and found["ranks"] == 2
    assert found["attention"]["all"] == [2, 2] and found["attention"]["shown"] == [f"test {i}" for i in range(6)]
    lots = found["random"]["all"]
    drawn = [bool(torch.equal(lot, torch.rand(2, 8, generator=torch.Generator().manual_seed(i)))) for i, lot in enumerate(lots)]
    assert drawn == [True, True] and not torch.equal(*lots)
    assert [layers for name, layers, _ in asked if name == "attention"] == [tuple(range(8))] * 2 + [(2,)] * 2
    assert {given for name, given, _ in asked if name == "cut"} == {(True, 3)} and found["equivalent tokens"] == 3
    assert found["whole"] == ("tested", True, 6, 2) and found["frozen"] == ("frozen", True, SMALL)


def test_frozen_tokens_go_without_a_part_each(monkeypatch):
    asked = []
    monkeypatch.setattr(llava, "frozen_dense", lambda decoder, *more, freeze: (decoder, freeze))
    monkeypatch.setattr(llava, "tested", lambda parts, way, count, easy: asked.append((way(), count, easy)) or way()[1])
    assert llava.frozen(types.SimpleNamespace(decoder="d"), SMALL) == {"ffn": "ffn", "all": "all"}
    assert asked == [(("d", "ffn"), 6, 2), (("d", "all"), 6, 2)]


def test_equal_tokens_are_what_two_layers_cost():
    parts = types.SimpleNamespace(decoder=stand_in(0).decoder, n_visual=64)
    shape = llava.Shape.of(parts.decoder.config)
    ratio = llava.visual_flops(shape, 64, 11, 2).total / llava.visual_flops(shape, 64, 11).total
    assert llava.equal_tokens(parts) == -(-64 * ratio // 1) == 3


# -- the longer runs ---------------------------------------------------------------------------------------
def test_the_clock_times_the_layers_that_were_chosen(monkeypatch):
    (job,) = clock.then("smoke", {"all layers/seed0": llava.EXAMPLE["all layers/seed0"], "dense/seed0": {}})
    assert (job.name, job.arguments) == ("clock/seed0", {"seed": 0, "layers": [0, 3], "size": "smoke"})
    parts = stand_in(0)
    pictures, asked = torch.randn(2, 64, 3 * 384, generator=torch.Generator().manual_seed(0)), scoring.questions("test", 2, 0)
    monkeypatch.setattr(clock, "test_set", lambda split, count, easy: (pictures, asked))
    found = clock.measure(0, [0, 3], "smoke", log=lambda line: None)
    flops = found["flops"]
    assert flops["dense"] == flops["dense again"] > flops["all layers"] > flops["greedy"] > flops["text"] and flops["dense"] > flops["few"]
    assert {len(times) for times in found["times"].values()} == {found["rounds"]} and set(found["times"]) == set(flops)
    run = {name: fn() for name, fn in clock.ways(parts, (0, 3), pictures, asked).items()}
    same = {name: fn() for name, fn in clock.ways(parts, (0, 3), pictures.flip(0), asked).items()}
    assert torch.equal(run["dense"], run["dense again"]) and torch.equal(run["text"], same["text"])
    assert not any(torch.equal(run[name], same[name]) for name in ("dense", "few", "all layers", "greedy")), "they look at the picture"


@pytest.mark.parametrize("arm", patches.ARMS)
def test_patches_are_raw_or_mixed_in_training_and_test_alike(arm, monkeypatch):
    asked, of = Asked(), (LAYERS if "mixed" in arm else (0,))
    model = types.SimpleNamespace(decoder=types.SimpleNamespace(config=types.SimpleNamespace(num_hidden_layers=4)))
    pictures = types.SimpleNamespace(scene_features=torch.arange(400))
    monkeypatch.setattr("common.vision.features.Pictures", asked.of("Pictures", lambda *given, **how: pictures))
    monkeypatch.setattr(patches, "build", asked.of("build", lambda *given, **how: "built"))
    monkeypatch.setattr(patches, "parts_of", lambda built: model)
    monkeypatch.setattr(patches, "train", asked.of("train", lambda *given, **how: [9.0, *([2.0] * 24), 7.1234, *([1.0] * 9)]))
    monkeypatch.setattr(patches, "questions", lambda *given: [[1, 2], [3]] if given == ("test", s.test, 0) else None)
    for name in ("tested", "dense", "vica"):
        monkeypatch.setattr(patches, name, asked.of(name))
    s = patches.SIZES["smoke"]
    found = patches.patches(4, arm, "smoke")
    assert asked.named("Pictures") == [((s.trained_on,), {"layers": of, "easy": 0})]
    (given, how), = asked.named("build")
    assert given[0] == 4 and len(given[1]) == 300 and how == {"layers": of}
    layers = (0, 1, 2, 3) if arm.endswith("vica") else None
    assert asked.named("train") == [((model, layers, 4, s.steps, s.rows, patches.RATE), {
        "scenes": s.trained_on, "easy": 0, "captions": 0.2, "layers": list(of)})] and patches.RATE > 0
    assert asked.named("vica" if layers else "dense") == [((model, layers) if layers else (model,), {})]
    (given, how), = asked.named("tested")
    assert given[0] is model and given[2:] == (s.test, 0) and how == {"layers": of} and given[1].startswith("vica" if layers else "dense")
    assert found["loss"] == pytest.approx((7.1234 + 9) / 10) and found["curve"] == [9.0, 7.123] and found["items"] == 3


LAID_OUT = {"scratch": [0, 4], "scratch/drawn": None, "scratch/text": [], "scratch/short": [0, 4], "scratch/short text": [],
            "scratch/short dense": "dense"}


@pytest.mark.parametrize("arm", scratch.ARMS)
def test_from_nothing_trains_its_layers_by_the_stand_ins_recipe(arm, monkeypatch):
    import common.standins.llava as recipe

    (job,) = [job for job in scratch.jobs("smoke") if job.name == f"{arm}/seed0"]
    layers, short = job.arguments["layers"], arm.startswith("scratch/short")
    wanted = LAID_OUT[arm]
    assert layers == (None if wanted == "dense" else list(baselines.random_layers(8, 2, 0)) if wanted is None else wanted)
    assert job.arguments["short"] == short
    monkeypatch.setitem(scratch.SIZES, "smoke", dataclasses.replace(scratch.SIZES["smoke"], stages=(8, 20)))
    asked, s = Asked(), scratch.SIZES["smoke"]
    stand, parts = (types.SimpleNamespace(decoder=types.SimpleNamespace(
        set_attn_implementation=lambda name, which=which: asked.append(("attention", (which, name), {})))) for which in ("stand", "ours"))
    monkeypatch.setattr(recipe, "stand_in", lambda seed: stand if seed == 0 else None)
    monkeypatch.setattr(recipe, "train", asked.of("train", lambda *given, **how: ("model", list(range(120)))))
    monkeypatch.setattr(scratch, "parts_of", lambda model: parts if model == "model" else None)
    monkeypatch.setattr(scratch, "questions", lambda *given: [[1, 2], [3]])
    for name in ("tested", "dense", "vica", "blind"):
        monkeypatch.setattr(scratch, name, asked.of(name))
    found = scratch.scratch(**job.arguments)
    (given, how), = asked.named("train")
    seed, name, training, *stages = given
    assert (seed, stages, how["progress"]) == (0, [2, 5] if short else [8, 20], False) and name.endswith("-short") == short
    assert str(Path(method.__file__)) in how["sources"] and issubclass(training, recipe.LlavaTraining)
    called = []
    monkeypatch.setattr(method, "hidden_states", lambda *given: called.append(given) or "hidden")
    monkeypatch.setattr(recipe.LlavaTraining, "hidden", lambda self, *given: ("dense", *given))
    own, layout = object.__new__(training), types.SimpleNamespace(ids="ids")
    own.__dict__["decoder"] = types.SimpleNamespace(get_input_embeddings=lambda: lambda ids: ("embedded", ids))
    if layers is None:
        assert training.hidden(own, layout, "visual") == ("dense", layout, "visual") and not called
    else:
        assert training.hidden(own, layout, "visual") == "hidden"
        assert called == [(own.__dict__["decoder"], method.ViCAConfig(tuple(layers)), ("embedded", "ids"), layout, "visual")]
    ours, dense = (given for given, _ in asked.named("tested"))
    assert ours[0] is parts and dense[0] is stand and ours[2:] == dense[2:] == (s.test, s.easy)
    assert asked.named("vica") == ([] if layers is None else [((parts, tuple(layers)), {})])
    assert asked.named("dense") == ([((parts,), {})] if layers is None else []) + [((stand,), {})]
    assert found["curve"] == [0, 50, 100] and found["items"] == 3 and asked.named("blind") == [((s.test, s.easy), {})]
    assert found["layers"] == layers and found["test"] == "tested 5" or found["test"] != found["dense"]


def test_drawn_pairs_are_tuned_like_chosen_ones_and_each_set_once(monkeypatch):
    from ..experiments import draws

    asked = Asked()
    monkeypatch.setattr(draws, "SIZES", llava.SIZES)
    monkeypatch.setattr(draws, "tuned", asked.of("tuned", lambda *given: 0.5))
    monkeypatch.setattr(draws, "worth", asked.of("worth", lambda *given: ({str(k): float(k) for k in range(8)}, [6, 7], [])))
    monkeypatch.setattr(draws, "items", lambda s: {"all": 9})
    for name in ("tested", "dense", "vica", "blind"):
        monkeypatch.setattr(draws, name, asked.of(name))
    found = draws.draws(0, "small")
    sets = {arm: tuple(of["layers"]) for arm, of in found["arms"].items()}
    assert sets["top"] == sets["greedy"] == (6, 7) and [arm for arm in sets if arm.startswith("drawn")] == ["drawn 0", "drawn 1", "drawn 2"]
    trained = [given[1] for given, _ in asked.named("tuned")]
    assert trained[0] == tuple(range(8)) and trained[-1] is None and sorted(trained[1:-1]) == sorted(set(sets.values()))
    assert len({id(given[0]) for given, _ in asked.named("tuned")}) == len(trained), "each from a stand-in of its own"
    assert all(given[2:] == (0, SMALL) for given, _ in asked.named("tuned")) and all(g[2:] == (6, 2) for g, _ in asked.named("tested"))
    assert [given[1:] for given, _ in asked.named("worth")] == [(tuple(range(8)), SMALL, llava.K)]
    assert len({sets[f"drawn {i}"] for i in range(3)}) == 3 and (found["items"], found["dense"]["layers"]) == (9, None)


# -- who scores --------------------------------------------------------------------------------------------
def test_test_pictures_are_asked_about_once_for_all(monkeypatch):
    seen = []
    monkeypatch.setattr("common.vision.features.Pictures", lambda count, layers, split, easy: seen.append((count, split, easy)) or
                        types.SimpleNamespace(scene_features=torch.zeros(count, 2), easy_features=torch.ones(easy, 2)))
    scoring.test_set.cache_clear()
    features, asked = scoring.test_set("test", 3, 2)
    scoring.test_set.cache_clear()
    assert seen == [(3, "test", 2)] and features.tolist() == [[0.0] * 2] * 3 + [[1.0] * 2] * 2 and len(asked) == 5
    assert [q.answer for q in asked[3]] == [q.answer for q in easyvqa.questions("test", easyvqa.numbers("test")[0])]
