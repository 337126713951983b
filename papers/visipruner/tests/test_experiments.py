"""The jobs in the small: what is chosen where, which pictures are shown, and that forced decisions are what is timed."""

import json
import types

import pytest
import torch

from common.attention import Rows
from common.standins.llava import folder_of, stand_in
from common.vision.llava import load_llava

from .. import analysis, scoring
from ..baselines import RIVALS, settings
from ..experiments import clock, guideline, llava, speed
from ..method import neutral, paper
from ..pruners import VisiPruner
from ..session import View
from ..stages import Stages, hidden

SMALL = llava.Size((0,), test=3, looked=2, validation=1)


@pytest.fixture(scope="module")
def parts():
    return stand_in(0)


@pytest.fixture(scope="module")
def few(parts):
    return llava.Set.of(parts, "test", 2)


@pytest.fixture(scope="module", autouse=True)
def small():
    llava.SIZES["small"] = SMALL
    yield
    del llava.SIZES["small"]


# -- by hand -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("visual, found", [([64, 64, 64], (None, 64)), ([64, 64, 10, 10], (1, 10)), ([64, 10, 10, 10], (0, 10)),
                                           ([64, 0, 0], (0, 0))])
def test_when_tokens_went_is_read_off_their_numbers(visual, found):
    assert llava.when(visual) == found


@pytest.mark.parametrize("visual, without, layer", [([64, 9, 9, 0], [64, 9, 9, 9], 2), ([64, 64, 0], [64, 64, 64], 1),
                                                    ([64, 9], [64, 9], None), ([64, 0, 0], [64, 0, 0], None)])
def test_the_exit_is_where_a_run_without_it_goes_on(visual, without, layer):
    assert llava.ended(visual, without) == layer


def test_rivals_get_no_fewer_pairs_and_hardly_more(parts, few):
    """k^2 + k n_t of 64 tokens: one more or one fewer a block is the grain; a block that is too late alone is left out."""
    for name, budget in (("FastV", 0.3), ("FastV", 0.126), ("PyramidDrop", 0.3), ("PyramidDrop", 0.7)):
        rival = RIVALS[name]
        found = settings(rival, 64, 8, budget, few.planned)
        assert found and {place for place, _ in found} <= set(rival.places(8))
        for place, share in found:
            run = few.run(rival.make(place, share))
            assert run.visual == [rival.plan(place, share, 64, 8)] * len(few.asked), "what is planned is what is run"
            shares = rival.shares(64)
            fewer = shares[shares.index(share) - 1]
            assert few.pairs(run) == few.planned(run.visual[0]) >= budget > few.planned(rival.plan(place, fewer, 64, 8))
    assert [place for place, _ in settings(RIVALS["FastV"], 64, 8, 0.3, few.planned)] == [0, 1]
    assert settings(RIVALS["FastV"], 64, 8, 0.01, few.planned) == [(0, 1.0)]
    assert settings(RIVALS["FastV"], 64, 8, 1.0, few.planned)[0] == (0, 0.0)


def test_pairs_are_those_of_tokens_that_were_there():
    """Two questions of 3 and 4 words behind 5 words: 2 and 0 tokens of 4 in the second block."""
    parts = types.SimpleNamespace(prefix=[0] * 5)
    asked = (scoring.Asked(0, "color", "a b ?", "x"), scoring.Asked(1, "color", "a b c ?", "x"))
    run = scoring.Run([True, False], [[4, 2], [4, 0]], [0, 0])
    of = llava.Set(parts, asked, torch.zeros(0))
    whole = 2 * (16 + 4 * 8) + 2 * (16 + 4 * 9)
    assert of.pairs(run) == pytest.approx((48 + 4 + 16 + 52) / whole) and of.share(run) == 0.5
    assert llava.saved([4, 2], 8) == pytest.approx(100 * (1 - (48 + 20) / 96))


def test_visual_flops_are_those_of_tokens_that_were_there(parts):
    """Width 96, four heads of 24, MLP 256: 4 * 96 * 96 + 3 * 96 * 256 = 110,592 multiply-adds a token and layer. 8 and 9 text tokens."""
    asked = (scoring.Asked(0, "color", "a b ?", "x"), scoring.Asked(1, "color", "a b c ?", "x"))
    of = llava.Set(types.SimpleNamespace(prefix=[0] * 5, decoder=parts.decoder), asked, torch.zeros(0))

    def layer(k, text):
        return 2 * 110_592 * k + 4 * 96 * k * (k + text)

    run = scoring.Run([True, False], [[4, 2], [4, 0]], [0, 0])
    assert of.flops(run) == pytest.approx((layer(4, 8) + layer(2, 8) + layer(4, 9)) / (2 * layer(4, 8) + 2 * layer(4, 9)), rel=1e-12)


def test_the_clock_times_what_the_settings_say(parts, few, monkeypatch):
    """The prunings of `pruned` are run again, tokens and all; the stock decoder stands outside of any session."""
    monkeypatch.setitem(clock.SIZES, "small", clock.Size(pictures=2, repeats=2, seconds=0.01))
    settings = {"boundary": 2, "threshold": 0.05, "FastV": [1, 0.5], "PyramidDrop": [[1, 3, 5], 0.5]}
    (job,) = clock.then("small", {"pruned/seed0": {"config": settings}, "looked/seed0": {}})
    assert (job.name, job.arguments["seed"], job.arguments["settings"]) == ("clock/seed0", 0, settings)
    ways = clock.pruners(settings)
    assert list(ways) == ["dense", "dense again", "VisiPruner", "FastV", "PyramidDrop"] and ways["dense"] is ways["dense again"] is None
    assert ways["VisiPruner"].config == paper(shallow=None).with_(boundary=2, relative=True, tokens_threshold=0.05)
    for name, plan in (("FastV", [64, 64, *[32] * 6]), ("PyramidDrop", [64, 64, 32, 32, 16, 16, 8, 8])):
        assert few.run(ways[name]).visual[0] == plan
    found = clock.measure(0, settings, "small", log=lambda line: None)
    assert found["questions"] == len(few.asked) and set(found["times"]) == set(ways) and found["rounds"] == len(found["times"]["dense"])
    assert found["flops"]["dense"] == found["flops"]["dense again"] > found["flops"]["FastV"] > found["flops"]["PyramidDrop"]


def test_another_score_gets_the_layer_and_the_number_of_each_question():
    asked = tuple(scoring.Asked(i, "color", "a ?", "x") for i in range(3))
    run = scoring.Run([True] * 3, [[4, 4, 1], [4, 4, 4], [4, 3, 3]], [0] * 3)
    pruner = llava.at_own_k(asked, run, "lot", 5)([asked[2], asked[0], asked[1]])
    assert (pruner.layer, pruner.counts, pruner.score) == ([0, 1, 2], [3, 1, 4], "lot")
    assert pruner.seed == llava.lot([asked[2]], 5) not in (llava.lot([asked[0]], 5), llava.lot([asked[2]], 4)), "a lot of each batch"


# -- pictures ------------------------------------------------------------------------------------------------
def test_questions_are_open_and_their_pictures_those_that_intervals_cluster_by():
    of = llava.features("test", "small")
    for name, count in (("test", 3), ("looked", 2)):
        asked = llava.asked("test", count)
        assert of[name] == {"pictures": [q.picture for q in asked], "kinds": [q.kind for q in asked]}
        assert set(of[name]["pictures"]) == set(range(count)) and not {"exists", "relation"} & set(of[name]["kinds"])
    assert {(q.picture, q.text) for q in llava.asked("test", 2)} <= {(q.picture, q.text) for q in llava.asked("test", 3)}


def test_settings_are_chosen_without_a_test_picture(monkeypatch):
    """Calibration and the rivals' sweeps run on validation questions alone; what is tested was chosen before."""
    order = []
    real = scoring.run

    def run(parts, asked, shown, pruner=None):
        order.append(next(split for split in ("val", "test") if asked[0] in llava.asked(split, 3)))
        return real(parts, asked, shown, pruner)

    def calibrated(outcome, n_layers, thresholds):
        outcome(neutral())
        return paper(boundary=2, relative=True, tokens_threshold=0.05, shallow=None), []

    monkeypatch.setattr(llava.scoring, "run", run)
    monkeypatch.setattr(llava.analysis, "calibrate", calibrated)
    found = llava.pruned_by(llava.stand_in(0), SMALL, curve_at=())
    json.dumps(found)
    assert order[0] == "val" and found["config"]["boundary"] == 2 and found["pairs"]["dense"] == 1.0
    n = len(llava.asked("test", 3))
    assert {len(bits) for bits in found["test"].values()} == {n} == {len(found["saved"])}
    assert found["pairs"]["attention at its K"] == pytest.approx(found["pairs"]["no exit"]), "rivals at its K have its pairs"
    assert 0 < found["pairs"]["VisiPruner"] < 1 and found["filter"] > 2
    pairs = found["tried"]["pairs"]
    assert len(pairs) == 1
    assert all(row[0] >= least - 1e-4 for name in RIVALS for least, sweep in zip(pairs, found["tried"][name]) for row in sweep)


# -- what is run ---------------------------------------------------------------------------------------------
def test_the_stand_in_answers_and_a_neutral_pruner_changes_nothing(few):
    dense = few.run()
    assert sum(dense.right) >= len(dense.right) - 2 and all(layers == [64] * 8 for layers in dense.visual)
    same = few.run(VisiPruner(neutral()))
    assert (same.right, same.chosen, same.visual) == (dense.right, dense.chosen, dense.visual)


def test_without_attention_to_the_picture_anywhere_the_model_is_blind(few):
    out = [few.run(analysis.Knockout(range(8), mode)) for mode in ("after", "before")]
    assert all(sum(run.right) < len(run.right) / 2 for run in out)


def test_what_is_looked_at_has_a_number_for_every_block(parts):
    found = llava.looked(0, "small")
    n = len(llava.asked("test", 2))
    assert {len(bits) for of in found["kept"].values() for bits in of.values()} == {n} and len(found["exit"]) == 7
    assert len(found["sinks"]["ratio"]) == 8 and len(found["sinks"]["items"]) == len(found["sinks"]["by lot"]) == n
    assert found["lens"]["right"]["7"] == llava.bits(llava.Set.of(parts, "test", 2).run().right), "the last state is the model's answer"


# -- time ----------------------------------------------------------------------------------------------------
def test_forced_decisions_are_the_sizes_own_and_pruning_is_masking():
    found = speed.measure("smoke", log=lambda line: None)
    assert found["difference"] < 1e-5 and set(found["times"]) == {"dense", "pruned", "masked", "official"}
    assert found["flops"]["pruned"] < found["flops"]["dense"] <= found["flops"]["masked"]
    assert found["ratios"]["dense / pruned"]["bound"] > 1.5
    s = speed.SIZES["smoke"]
    view = View(torch.arange(29)[None], (torch.arange(29)[None] >= 3) & (torch.arange(29)[None] < 27), torch.tensor([28]), 29)
    pruner = speed.Forced(paper(boundary=s.boundary, shallow=None), s)
    pruner.begin(view, 4)
    rows = Rows(torch.full((1, 2, 29), 1 / 29), torch.ones(1, 2, 29, 8))
    left = [int(pruner.keep(layer, view, rows).sum()) for layer in range(3)]
    assert left == [24, 3, 0] and [pruner.wants(layer) for layer in range(4)] == [False, True, True, False]


def test_what_the_guideline_trains_is_asked_and_timed_in_its_stages():
    """The committed dense model with all blocks answers as it does; with the last alone, untrained, it cannot."""
    small = load_llava(folder_of(0), tower=False)
    decoder = small.language_model()
    dense, all_blocks, last = (guideline.tested(small, 3, way) for way in (None, *(
        lambda layout, visual, stages=stages: hidden(decoder, layout, visual, stages) for stages in (Stages(0, 7), Stages(7, 7)))))
    assert dense == all_blocks and dense["right"].count("1") >= len(dense["pictures"]) - 2 > last["right"].count("1") + 5
    seconds = guideline.step_seconds(small, Stages(2, 6), rows=2)
    assert {name: len(of) for name, of in seconds.items()} == {"dense": guideline.ROUNDS, "staged": guideline.ROUNDS}
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert guideline.training(Stages(2, 6))(small).hidden.__qualname__.startswith("training")
