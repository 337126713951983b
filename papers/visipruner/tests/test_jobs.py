"""What the jobs run, without running it: which pruner on which questions. A stand-in's answers are replaced by who was asked how."""

from types import SimpleNamespace as Of

import pytest
import torch

from .. import analysis
from ..baselines import Chosen, ExitBehind, FastV, PyramidDrop
from ..experiments import guideline, llava
from ..experiments.llava import Set
from ..method import ShallowConfig, paper
from ..pruners import VisiPruner
from ..scoring import Asked, Run

ROWS = [Asked(5, "color", "which color ?", "red"), Asked(2, "digit", "which digit ?", "4")]


def told(pruner):
    """A pruner as a value: its class and what it was made with."""
    if pruner is None:
        return "dense"
    if not hasattr(pruner, "begin"):
        pruner = pruner(ROWS)
    kinds = {analysis.Knockout: ("layers", "mode", "among", "which", "count", "onto", "seed"), Chosen: ("score", "layer", "counts", "seed"),
             ExitBehind: ("layer",), VisiPruner: ("config",), FastV: ("layer", "share"), PyramidDrop: ("at", "share")}
    return (type(pruner).__name__, *(getattr(pruner, name) for name in kinds[type(pruner)]))


class Stub(Set):
    """Questions of a split that nobody answers. Answers differ by what was run."""

    @classmethod
    def of(cls, parts, split, count):
        found = cls(parts, tuple(ROWS), torch.zeros(0))
        object.__setattr__(found, "name", (split, count))
        return found

    def run(self, pruner=None):
        LOG.append((self.name, told(pruner)))
        return ANSWERS["run"](self.name, told(pruner))

    def right(self, pruner=None):
        return (self.name, told(pruner))

    def flops(self, run):
        return ("FLOPs", run.visual)


LOG: list = []
ANSWERS: dict = {}
SIZE = llava.Size((0, 9), test=7, looked=4, validation=3)


@pytest.fixture
def stubbed(monkeypatch):
    monkeypatch.setitem(llava.SIZES, "stub", SIZE)
    monkeypatch.setattr(llava, "Set", Stub)
    parts = Of(source={"seed": 4}, prefix=[0] * 5, decoder=Of(config=Of(num_hidden_layers=8)))
    monkeypatch.setattr(llava, "stand_in", lambda seed: parts if seed == 4 else None)
    LOG.clear()
    return parts


def values(run):
    """What a run gives: run(questions, pruner)."""
    ANSWERS["run"] = run


# -- knocked out -------------------------------------------------------------------------------------------
def test_every_way_to_knock_out_is_the_one_that_it_is_called(stubbed):
    values(lambda name, pruner: Run([pruner == "dense", pruner == ("Knockout", frozenset([3]), "after", False, "all", 0, 0, 0)], [], []))
    found = llava.knocked(4, "stub")
    seen, val = ("test", 4), ("val", 3)
    assert [name for name, _ in LOG] == [val] * 9 and found["model"] == {"seed": 4} and found["dense"] == (seen, "dense")
    assert found["validation"] == {str(b): 0.5 * (b == 3) for b in range(8)} | {"dense": 0.5}

    def out(layers, mode="after", onto=0, number=0, among=False, which="all", count=0):
        return (seen, ("Knockout", frozenset(layers), mode, among, which, count, onto, llava.lot(ROWS, number)))

    for mode in ("after", "before", "merge"):
        assert found[mode] == {str(b): out([b], mode) for b in range(8)}
    assert found["up to"] == {str(b): out(range(b + 1)) for b in range(8)}
    assert found["from"] == {str(b): out(range(b, 8)) for b in range(8)}
    assert found["onto"] == {str(n): out([0], "merge", onto=n) for n in (0, 31, 63)}
    for name, layers in (("shallow", (0, 1)), ("middle", (2, 3, 4, 5))):
        ways = {"before": out(layers, "before"), "merge": out(layers, "merge"), "random again": out(
            layers, "before", number=1, which="random", count=6)}
        ways |= {which: out(layers, "before", which=which, count=6) for which in ("highest", "lowest", "random", "all but highest")}
        ways |= {f"{mode}, picture apart": out(layers, mode, among=True) for mode in ("merge", "before")}
        assert found[name] == ways
    assert {*found} == {"model", "dense", "validation", "after", "before", "merge", "up to", "from", "onto", "shallow", "middle"}


def test_lots_are_of_a_batch_and_of_a_number():
    assert len({llava.lot(ROWS), llava.lot(ROWS, 1), llava.lot(ROWS[1:])}) == 3 and llava.lot(ROWS) == llava.lot(ROWS[:1])


# -- looked at ---------------------------------------------------------------------------------------------
def test_sixteen_are_kept_by_each_score_behind_each_block(stubbed, monkeypatch):
    monkeypatch.setattr(llava, "sinks", lambda of, kept_in: ("sinks", of.name, kept_in))
    monkeypatch.setattr(llava, "lens", lambda of: ("lens", of.name))
    found, seen = llava.looked(4, "stub"), ("test", 4)
    kept = {score: {str(b): (seen, ("Chosen", score, b, 16, llava.lot(ROWS))) for b in range(7)} for score in ("attention", "value", "lot")}
    assert found["kept"] == kept | {"another lot": {"3": (seen, ("Chosen", "lot", 3, 16, llava.lot(ROWS, 1)))}}
    assert found["exit"] == {str(b): (seen, ("ExitBehind", b)) for b in range(7)}
    assert (found["sinks"], found["lens"]) == (("sinks", seen, 1), ("lens", seen))


def test_another_depth_is_asked_at_its_own_stops(stubbed, monkeypatch):
    """Alone are those that it names, and the inner ones that cost most and least on validation pictures (3 and, of equal ones, 6); all
    else at the stops; the two ranges, the second lot and the sinks where the depth says."""
    monkeypatch.setattr(llava, "sinks", lambda of, kept_in: kept_in)
    monkeypatch.setattr(llava, "lens", lambda of: None)
    values(lambda name, pruner: Run([pruner[1] not in ({3}, {7})], [], []))
    depth = llava.Depth((0, 1, 2), (4,), (0, 5, 7, 9), half=5, sinks=3, hidden=(0, 7, 9), alone=(7, 0))
    found, seen = llava.looked_at(stubbed, SIZE, depth), ("test", 4)
    assert {score: [*kept] for score, kept in found["kept"].items()} == dict.fromkeys(
        ("attention", "value", "lot"), ["0", "5"]) | {"another lot": ["5"]}
    assert [*found["exit"]] == ["0", "5"] and found["sinks"] == 3
    found = llava.knocked_out(stubbed, SIZE, depth)
    assert [*found["after"]] == ["0", "3", "6", "7"] and len(found["validation"]) == 9
    assert all([*found[way]] == ["0", "7"] for way in ("before", "merge"))
    assert all([*found[way]] == ["0", "5", "7"] for way in ("up to", "from"))
    assert found["from"]["5"][1][1] == frozenset([5, 6, 7]) and found["up to"]["5"][1][1] == frozenset(range(6))
    assert found["shallow"]["before"][1][1] == frozenset([0, 1, 2]) and found["middle"]["merge"][:1] == (seen,)


def test_sinks_by_hand(monkeypatch):
    """Two questions over three slots, one of them no picture's: |v| of the most attended over the picture's mean."""
    visual = torch.tensor([[False, True, True], [True, True, False]])
    attention = {0: torch.tensor([[0.7, 0.1, 0.2], [0.3, 0.5, 0.2]]), 1: torch.tensor([[0.0, 0.6, 0.4], [0.4, 0.1, 0.5]])}
    size = {0: torch.tensor([[9.0, 2.0, 6.0], [1.0, 3.0, 9.0]]), 1: torch.tensor([[9.0, 1.0, 3.0], [3.0, 5.0, 9.0]])}
    look = Of(by_layer={layer: (attention[layer], size[layer], visual) for layer in (0, 1)})
    asked = []
    monkeypatch.setattr(llava.analysis, "sinks", lambda: look)
    monkeypatch.setattr(llava.scoring, "prompts", lambda *of: ["batch"])
    monkeypatch.setattr(llava.scoring, "answers", lambda *of: asked.append(of))
    found = llava.sinks(Of(parts="parts", asked="asked", shown="shown"), kept_in=1)
    assert asked == [("parts", "batch", look)]
    assert found["ratio"] == pytest.approx({"0": (6 / 4 + 3 / 2) / 2, "1": (1 / 2 + 3 / 4) / 2})
    assert found["attention"] == pytest.approx({"0": (0.3 + 0.8) / 2, "1": (1.0 + 0.5) / 2}) and found["items"] == [0.5, 0.75]
    draw = torch.rand(visual.shape, generator=torch.Generator().manual_seed(0)).masked_fill(~visual, -1).argmax(1)
    assert found["by lot"] == [round(float(size[1][i, d] / (2.0 if i == 0 else 4.0)), 3) for i, d in enumerate(draw.tolist())]


def test_the_lens_is_asked_for_the_answer_and_for_that_of_the_next_question_of_the_kind(monkeypatch):
    rows = [Asked(i, kind, "q ?", answer) for i, (kind, answer) in enumerate((("a", "w1"), ("b", "w2"), ("a", "w3"), ("a", "w4")))]
    top = torch.tensor([[1, 9, 4, 4], [1, 2, 3, 1]])  # words of two blocks
    calls = []
    decoder = lambda **call: calls.append(call) or Of(hidden_states="states")  # noqa: E731
    monkeypatch.setattr(llava.scoring, "prompts", lambda parts, asked, shown: [Of(embeds="embeds", asked=rows)])
    monkeypatch.setattr(llava.analysis, "logit_lens", lambda of, states: torch.nn.functional.one_hot(top, 10)
                        if (of, states) == (decoder, "states") else None)
    parts = Of(decoder=decoder, tokenizer=Of(convert_tokens_to_ids=lambda word: int(word[1:])))
    found = llava.lens(Of(parts=parts, asked=rows, shown=None))
    assert found["right"] == {"0": "1001", "1": "1110"}
    assert found["another"] == {"0": "0010", "1": "0101"}  # a: w1 -> w3 -> w4 -> w1; b has one question alone: its own answer
    assert calls == [{"inputs_embeds": "embeds", "use_cache": False, "logits_to_keep": 1, "output_hidden_states": True}]


# -- pruned ------------------------------------------------------------------------------------------------
CONFIG = paper(boundary=2, relative=True, tokens_threshold=0.05, shallow=None)


def test_what_is_pruned_is_what_it_is_called_and_was_chosen_on_validation_pictures(stubbed, monkeypatch):
    test, val, few = ("test", 7), ("val", 3), ("test", 4)
    whole, own = [[64] * 8, [64] * 8], [[64, 64, 64, 9, 9, 9, 9, 9], [64] * 4 + [30] * 4]

    def run(name, pruner):
        if pruner == "dense":
            return Run([True, False], whole, [1, 2])
        kind, *rest = pruner
        if kind == "VisiPruner":
            exits, left = rest[0].exit_cos != 2, own
            visual = [[*row[:6], *([0, 0] if exits and i == 0 else row[6:])] for i, row in enumerate(left)]
            keep = rest[0].tokens_threshold
            visual = [[k if k == 64 else int(k * keep / 0.05) for k in row] for row in visual] if keep != 0.05 else visual
            return Run([True, rest[0].boundary == 2], visual, [1, 2 + rest[0].boundary])
        right = [rest[0] == 3, True] if kind == "FastV" else [rest[0] == frozenset((2, 4, 6)), True]
        return Run(right if name == val else [False, kind == "Chosen"], [[64] * 4 + [7] * 4] * 2, [1, 2])

    def calibrate(outcome, n_layers, thresholds):
        assert n_layers == 8 and thresholds == analysis.THRESHOLDS
        return CONFIG, [outcome(CONFIG), outcome(CONFIG.with_(boundary=5))]

    values(run)
    monkeypatch.setattr(llava.analysis, "calibrate", calibrate)
    asked = []

    def settings(rival, *of):
        asked.append(of)
        return [(1, 0.5), (3, 0.25), (4, 0.25)] if rival is llava.RIVALS["FastV"] else [((1, 3, 5), 0.5), ((2, 4, 6), 0.75)]

    monkeypatch.setattr(llava, "settings", settings)
    monkeypatch.setattr(llava, "one_of", lambda of, number, config: (of.name, number, config))
    monkeypatch.setattr(llava, "at_own_k", lambda asked, run, score, number: Chosen(score, run.visual[0][-1], number, seed=len(asked)))
    found = llava.pruned(4, "stub")
    chosen_on = [entry for entry in LOG if entry[0] == val]
    assert {name for name, _ in LOG} == {test, val, few} and len(chosen_on) == 1 + 2 + 4 + 4 * 5
    assert [(tokens, layers) for tokens, layers, *_ in asked] == [(64, 8)] * 8 and {planned.__self__.name for *_, planned in asked} == {val}

    def ran(arm):
        return [pruner for name, pruner in LOG if name == test][list(found["test"]).index(arm)]

    exits = CONFIG.with_(exit_cos=2)
    shallow = {"paper's shallow stage": ShallowConfig(3, "before"), "code's shallow stage": ShallowConfig(3, "after", True),
               "shallow, not the first": ShallowConfig(3, "before", first="none")}
    expected = {"dense": "dense", "VisiPruner": ("VisiPruner", CONFIG), "no exit": ("VisiPruner", exits), "FastV": ("FastV", 3, 0.25),
                "PyramidDrop": ("PyramidDrop", frozenset((2, 4, 6)), 0.75)}
    expected |= {name: ("VisiPruner", CONFIG.with_(shallow=of)) for name, of in shallow.items()}
    expected |= {"no boundary": ("VisiPruner", CONFIG.with_(boundary=-1)), "attention at its K": ("Chosen", "attention", 9, 0, 2),
                 "lot at its K": ("Chosen", "lot", 9, 0, 2), "another lot at its K": ("Chosen", "lot", 9, 1, 2)}
    assert {arm: ran(arm) for arm in found["test"]} == expected
    assert found["test"]["VisiPruner"] == "11" and found["test"]["no boundary"] == "10" and found["test"]["lot at its K"] == "01"
    # numbers of two questions of 5 + 3 words: 64, 9 and 30 tokens
    pair = {k: k * k + 8 * k for k in (64, 30, 9, 7)}
    left = [3 * pair[64] + 3 * pair[9], 4 * pair[64] + 4 * pair[30]]
    assert found["pairs"]["VisiPruner"] == pytest.approx(sum(left) / (16 * pair[64])) and found["pairs"]["dense"] == 1.0
    assert found["saved"] == [round(100 * (1 - of / (8 * pair[64])), 1) for of in left]
    assert found["filtered"] == 1.0 and found["filter"] == 2.5 and found["kept"] == (9 + 30) / 2 and found["exit"] == 5.0
    assert found["config"] == {"boundary": 2, "threshold": 0.05, "FastV": [3, 0.25], "PyramidDrop": [[2, 4, 6], 0.75]}
    assert found["shown"] == (test, 0, CONFIG)
    assert found["tried"]["VisiPruner"] == [(1.0 if b == 0 else 0.5, pytest.approx(found["pairs"]["VisiPruner"])) for b in (1, 1)]
    assert found["tried"]["pairs"] == [budget for _, _, budget, _ in asked[:4]] == [budget for _, _, budget, _ in asked[4:]]
    assert len({*found["tried"]["pairs"]}) == 4 and found["tried"]["pairs"][0] == found["pairs"]["VisiPruner"]
    share = round((4 * pair[64] + 4 * pair[7]) / (8 * pair[64]), 4)
    assert found["tried"]["FastV"] == [[[share, 0.5, [1, 0.5]], [share, 1.0, [3, 0.25]], [share, 0.5, [4, 0.25]]]] * 4
    assert found["tried"]["PyramidDrop"] == [[[share, 0.5, [[1, 3, 5], 0.5]], [share, 1.0, [[2, 4, 6], 0.75]]]] * 4
    assert {name: len(rows) for name, rows in found["curve"].items()} == {"VisiPruner": 3, "FastV": 3, "PyramidDrop": 3}
    assert [pruner for name, pruner in LOG if name == few] == [
        *(("VisiPruner", CONFIG.with_(tokens_threshold=t)) for t in (0.2, 0.07, 0.02)), *[("FastV", 3, 0.25)] * 3,
        *[("PyramidDrop", frozenset((2, 4, 6)), 0.75)] * 3]
    assert found["curve"]["FastV"][0] == (pytest.approx(share, abs=1e-4), 0.0)


def test_an_example_is_a_question_that_was_filtered(monkeypatch):
    """Of equal accuracy the setting with more pairs; nothing filtered, nothing shown."""
    assert llava._mean([None, 2, 4]) == 3 and llava._mean([None]) is None and llava._plain(((1, 2), 0.5)) == [[1, 2], 0.5]
    seen = {}
    monkeypatch.setattr(llava.analysis, "Watched", lambda config: Of(config=config, stages=["stages", "of others"]))
    monkeypatch.setattr(llava.scoring, "prompts", lambda parts, asked, shown: seen.update(asked=asked, shown=shown) or ["batch"])
    monkeypatch.setattr(llava.scoring, "answers", lambda parts, batch, pruner: batch == "batch" and (torch.tensor([[0.1, 0.9]]), pruner))
    of = Of(parts=Of(tokenizer=Of(decode=lambda ids: ids.tolist())), asked=ROWS, shown="shown")
    assert llava.one_of(of, 1, CONFIG) == {"picture": 2, "text": "which digit ?", "answer": [1], "stages": "stages"}
    assert seen == {"asked": (ROWS[1],), "shown": "shown"}


# -- jobs, and the guideline ---------------------------------------------------------------------------------
def test_jobs_wait_for_features_and_for_stand_ins_that_are_not_committed(stubbed):
    by_name = {job.name: job for job in llava.jobs("stub")}
    assert {*by_name} == {"features/val", "features/test", "stand-in/seed9", *(
        f"{name}/seed{seed}" for name in ("knocked", "looked", "pruned") for seed in (0, 9))}
    for name, job in by_name.items():
        what, _, of = name.partition("/")
        if what == "features":
            assert job.arguments == {"split": of, "size": "stub"}
        elif what != "stand-in":
            assert job.arguments == {"seed": int(of[4:]), "size": "stub"} and job.function.endswith(f":{what}")
            assert job.after == ("features/val", "features/test", f"stand-in/{of}")
    assert by_name["stand-in/seed9"].arguments == {"seed": 9}


def test_features_are_of_as_many_pictures_as_are_asked_about(stubbed, monkeypatch):
    kept, all_of = [], [*ROWS, Asked(5, "exists", "is there ?", "yes")]
    monkeypatch.setattr(llava.scoring, "features", lambda split, count: kept.append((split, count)))
    monkeypatch.setattr(llava.scoring, "questions", lambda split, count: all_of)
    assert llava.features("val", "stub") == {"pictures": 2} and llava.asked("test", 3) == tuple(ROWS)
    assert llava.features("test", "stub") == dict.fromkeys(("test", "looked"), {"pictures": [5, 2], "kinds": ["color", "digit"]})
    assert kept == [("val", 3), ("test", 7)]


def test_the_guidelines_arms_train_with_the_picture_where_they_say(monkeypatch):
    seen, model = {}, Of(language_model=lambda: "decoder")

    def train(seed, name, kind, first, second, **options):
        seen.update(train=(seed, name, first, second), kind=kind, options=options)
        return model, [float(i) for i in range(60)]

    monkeypatch.setitem(guideline.SIZES, "stub", guideline.Size((4,), 11, 13, 5))
    monkeypatch.setattr(guideline.standins, "train", train)
    monkeypatch.setattr(guideline, "closure", lambda module: [module])
    monkeypatch.setattr(guideline, "hidden", lambda decoder, layout, visual, stages: (decoder, layout, visual, stages.first, stages.last))
    monkeypatch.setattr(guideline, "tested", lambda of, count, way: {"of": of, "count": count, "way": way and way("layout", "visual")})
    monkeypatch.setattr(guideline, "step_seconds", lambda of, stages: (of, stages))
    for arm, first, last in (("middle", 2, 6), ("last", 7, 7)):
        found = guideline.trained(arm, 4, "stub")
        assert seen["train"] == (4, f"stages-{first}-{last}", 11, 13)
        assert seen["options"] == {"progress": False, "sources": ("papers.visipruner.stages",)}
        assert found == {"of": model, "count": 5, "way": ("decoder", "layout", "visual", first, last), "loss": sum(range(10, 60)) / 50,
                         "seconds": (model, guideline.ARMS[arm])}
        assert seen["kind"].hidden(Of(decoder="own"), "l", "v") == ("own", "l", "v", first, last)
    monkeypatch.setattr(guideline, "load_llava", lambda folder, tower: (folder, tower))
    monkeypatch.setattr(guideline.standins, "folder_of", lambda seed: f"seed{seed}")
    assert guideline.dense(4, "stub") == {"of": ("seed4", False), "count": 5, "way": None}
    found = {job.name: (job.function.rpartition(":")[2], job.arguments) for job in guideline.jobs("stub")}
    assert found == {"guideline/dense/seed4": ("dense", {"seed": 4, "size": "stub"})} | {
        f"guideline/{arm}/seed4": ("trained", {"arm": arm, "seed": 4, "size": "stub"}) for arm in ("middle", "last")}


def test_open_questions_alone_are_scored(monkeypatch):
    kinds = [["color", "exists", "digit"], ["relation", "shape"]]
    monkeypatch.setattr(guideline.standins, "test_questions", lambda count: [[Of(kind=k) for k in row] for row in kinds[:count]])
    monkeypatch.setattr(guideline, "Pictures", lambda count, split, easy: Of(scene_features=(count, split, easy)))
    monkeypatch.setattr(guideline.standins, "accuracy", lambda model, features, asked, way: [
        [q.kind == "digit" for q in row] for row in asked] if (model, features, way) == ("model", (2, "test", 0), "way") else None)
    assert guideline.tested("model", 2, "way") == {"right": "010", "pictures": [0, 0, 1]}


def test_steps_are_timed_in_turn_and_the_first_round_warms_up(monkeypatch):
    order, ticks = [], iter(float(i * i) for i in range(1000))
    monkeypatch.setattr(guideline, "time", Of(perf_counter=lambda: next(ticks)))
    weight = torch.ones((), requires_grad=True)
    decoder = Of(zero_grad=lambda: order.append("decoder cleared"))

    class Projector:
        def __call__(self, features):
            return features

        def zero_grad(self):
            order.append("projector cleared")

    model = Of(language_model=lambda: decoder, tokenizer="words", prefix=[1], projector=Projector())
    rows = {}
    monkeypatch.setattr(guideline, "Pictures", lambda *of, **options: rows.update(pictures=(of, options)) or "pictures")
    monkeypatch.setattr(guideline.standins, "Rows", lambda *of, **options: rows.update(rows=(of, options)) or [
        (torch.ones(1).half(), "layout")])
    monkeypatch.setattr(guideline, "dense_hidden", lambda *of: order.append(("dense", of[0] is decoder, of[1])))
    monkeypatch.setattr(guideline, "hidden", lambda *of: order.append(("staged", of[0] is decoder, of[1], of[3])))
    monkeypatch.setattr(guideline, "scored_loss", lambda of, states, layout: (order.append((of is decoder, layout)) or weight * 6, 3))
    found = guideline.step_seconds(model, "stages", 4)
    assert rows["pictures"] == ((4,), {"split": "val", "easy": 0})
    assert rows["rows"] == (("pictures", "words", [1], 0, 1, 0), {"rows": 4})
    turn = [(True, "layout"), "decoder cleared", "projector cleared"]
    assert order == ([("dense", True, "layout"), *turn, ("staged", True, "layout", "stages"), *turn]) * 6
    assert weight.grad == 2 * 12
    began = [2 + 4 * i for i in range(5)]  # two looks at the clock in the first round, four in each other; n^2 behind n looks
    assert found == {"dense": [(2 * n + 1.0) for n in began], "staged": [(2 * (n + 2) + 1.0) for n in began]}
