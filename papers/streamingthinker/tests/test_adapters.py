"""Adapters of a tiny model in the place of SmolLM2: what a kill leaves, what a card says, and the jobs walked at a small size."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from common.errors import DataError, SetupError
from common.models import Loaded, load, tiny
from common.streaming.batched import Written
from tests.small_tokenizers import tokenizer

from .. import adapters, latency, symbolic
from ..adapters import WAYS, Recipe
from ..experiments import paced
from ..experiments import symbolic as experiment
from ..symbolic import Aligned, Lines

RECIPE = Recipe(drawn=0, held=2, each=2, known=1, steps=4, rows=2, parts=2, warm=1, every=1)


def story(template, n, extra=""):
    return Aligned((f"How many has Ann{extra}?", f"Ann has {n}.", "She sings.", "She gets 2."),
                   ("We need how many has Ann.", "-", "-", f"{n}+2={n + 2}"), f"So {n + 2}", str(n + 2), template)


SPLIT = symbolic.split([story(template, n) for template in range(5) for n in range(2, 6)], held=2, each=2, known=1)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache of its own, no committed adapter, and a tiny model for SmolLM2."""
    words = tokenizer("qwen2")
    words.add_tokens([" ####"])
    base = dict(vocab_size=len(words), num_hidden_layers=1, initializer_range=0.3)

    def opened(*_):
        found = load(tiny(**base))
        return Loaded(found.model, words, {"name": "tiny", "weights_sha256": "0"})

    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(adapters, "FOLDER", tmp_path / "committed")
    for module in (adapters, experiment):
        monkeypatch.setattr(module, "load", opened)
    monkeypatch.setattr(adapters, "questions", lambda how: SPLIT)
    monkeypatch.setitem(experiment.SIZES, "try", experiment.Size((0, 1), RECIPE, (5, 6), 3))
    monkeypatch.setitem(paced.SIZES, "try", paced.Size(2, 1, 2, 0.001, RECIPE, (5, 6)))
    return opened


# -- the split ---------------------------------------------------------------------------------------------
def test_templates_of_the_test_are_no_training_s_and_weigh_alike():
    of = {name: {one.template for one in getattr(SPLIT, name)} for name in ("train", "known", "new")}
    assert of == {"train": {1, 3, 4}, "known": {1, 3, 4}, "new": {0, 2}} and len(SPLIT.new) == 4 and len(SPLIT.known) == 3
    assert not {one.sentences for one in SPLIT.known} & {one.sentences for one in SPLIT.train}
    again = symbolic.split([*[story(0, n) for n in range(9)], *[story(1, 3)] * 9], 1, 2, 1)
    assert again.train == () and len(again.known) == 1, "what is asked is learnt nowhere, also where a template tells it twice"
    for held, each in ((5, 2), (4, 9), (0, 1)):
        with pytest.raises(DataError, match="draw more questions, or hold out fewer"):
            symbolic.split([story(t, n) for t in range(5) for n in range(4)], held, each)


def test_the_real_split_can_carry_a_word():
    """The recipe's own questions: as many templates as a claim about items needs, as many questions of each, none of them learnt."""
    pytest.importorskip("reasoning_gym")
    from common.claims.intervals import MIN_ITEMS

    told = adapters.questions()
    new, learnt = ({one.template for one in of} for of in (told.new, told.train))
    assert len(new) >= MIN_ITEMS and len(told.new) == 7 * len(new) and not new & learnt
    assert len(learnt) == 23 and len(told.train) > 1000 and {one.template for one in told.known} <= learnt and len(told.known) == 95
    texts = [" ".join(one.sentences) for one in told.train]
    assert not {" ".join(one.sentences) for one in (*told.known, *told.new)} & set(texts)


# -- the training ------------------------------------------------------------------------------------------
def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_tuning_goes_on_as_if_it_had_not_been(home, tmp_path, way):
    whole, losses = adapters.tune(home(), way, 3, SPLIT.train, tmp_path / "whole", RECIPE)
    adapters.tune(home(), way, 3, SPLIT.train, tmp_path / "part", RECIPE, stop=2)
    cut, again = adapters.tune(home(), way, 3, SPLIT.train, tmp_path / "part", RECIPE)
    assert len(losses) == 4 and again == losses and losses[0] != losses[-1]
    one, other = weights(whole), weights(cut)
    assert one.keys() == other.keys() and all("lora" in name for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    kept = torch.load(tmp_path / "part" / "last.ckpt", weights_only=True)
    assert all("lora" in name for name in kept["state_dict"]), "a checkpoint holds what is trained, and not the base"


def test_all_ways_begin_alike_and_read_the_same_questions(home, tmp_path, monkeypatch):
    rows, begun = {}, {}
    collate = adapters.StreamingTraining.loss_sum

    def seen(self, batch):
        begun.setdefault(self.layout_name, weights(self.model))
        rows.setdefault(self.layout_name, []).append(sorted(batch.targets[batch.targets != -100].tolist()))
        return collate(self, batch)

    monkeypatch.setattr(adapters.StreamingTraining, "loss_sum", seen)
    layouts = {}
    for way in WAYS:
        model, _ = adapters.tune(home(), way, 0, SPLIT.train, tmp_path / way, replace(RECIPE, steps=2))
        layouts[way] = weights(model)
    assert rows["batch"] == rows["streaming"] == rows["interleaved"] and len(rows["batch"]) == 4
    assert all(torch.equal(begun["batch"][n], begun[w][n]) for w in ("streaming", "interleaved") for n in begun["batch"])
    assert any(not torch.equal(layouts["batch"][n], layouts["streaming"][n]) for n in layouts["batch"]), "but are tuned otherwise"


def test_the_committed_adapter_is_taken_where_its_card_is_of_the_recipe(home):
    assert adapters.there("batch", 0, RECIPE) is None
    folder = adapters.place("batch", 0, RECIPE)
    assert folder.is_dir() and adapters.there("batch", 0, RECIPE) == folder == adapters.place("batch", 0, RECIPE)
    committed = adapters.FOLDER / "seed0" / "batch"
    card = adapters.make("batch", 0, committed, RECIPE)
    assert adapters.place("batch", 0, RECIPE) == committed and {path.name for path in committed.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "training.json"}
    assert card["recipe"] == asdict(RECIPE) and card["templates"] == {"learnt": [1, 3, 4], "held out": [0, 2]}
    assert (committed / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    (committed / "training.json").write_text(json.dumps(card | {"recipe": asdict(replace(RECIPE, steps=9))}))
    assert adapters.place("batch", 0, RECIPE) == folder, "one of another recipe is not"


def test_what_is_missing_is_said_before_any_work(monkeypatch):
    monkeypatch.setattr(adapters, "PACKAGES", {"no_such_package": "no-such-package", "torch": "torch"})
    with pytest.raises(SetupError, match="need no-such-package, which is not installed"):
        adapters.ready()
    monkeypatch.setattr(adapters, "PACKAGES", {})
    monkeypatch.setattr(adapters, "there", lambda way, seed, how=None: None if way == "batch" else "folder")
    with pytest.raises(SetupError, match="no adapter of seed 0 for batch: run"):
        paced.ready()
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="reasoning-gym"):
        symbolic.ready()


def test_an_adapter_is_of_its_code_its_base_and_its_questions(home, tmp_path, monkeypatch):
    """After an edit of the training, or of the rules of alignment, nothing that was tuned before is read back."""
    kept = adapters.place("batch", 0, RECIPE)
    assert adapters.there("batch", 0, RECIPE) == kept and adapters.there("batch", 1, RECIPE) is None
    files, found = adapters.closure(adapters.__name__), set()
    for name in ("module.py", "symbolic.py", "adapters.py"):
        (path,) = (p for p in files if p.name == name and p.parent.name == "streamingthinker")
        edited = tmp_path / name
        edited.write_text(path.read_text() + "# an edit")
        with monkeypatch.context() as m:
            m.setattr(adapters, "closure", lambda of, path=path, edited=edited: tuple(edited if p == path else p for p in files))
            assert adapters.there("batch", 0, RECIPE) is None, name
            found.add(adapters._digest("batch", 0, RECIPE, {"weights_sha256": "0"}, SPLIT.train))
    found |= {adapters._digest("batch", 0, RECIPE, {"weights_sha256": "1"}, SPLIT.train),
              adapters._digest("batch", 0, RECIPE, {"weights_sha256": "0"}, SPLIT.train[1:]), kept.name}
    assert len(found) == 6 and adapters.there("batch", 0, RECIPE) == kept
    with monkeypatch.context() as m:  # an adapter that is written beside is no code
        m.setattr(adapters, "closure", lambda of: (*files, adapters.FOLDER / "seed0" / "batch" / "training.json"))
        assert adapters.there("batch", 0, RECIPE) == kept


# -- the jobs ----------------------------------------------------------------------------------------------
def test_every_arm_answers_and_is_timed_in_its_own_way_alone(home):
    names = [job.name for job in experiment.jobs("try")]
    assert names == ["symbolic/asked", "symbolic/untuned", *(f"symbolic/{way}/seed{s}" for s in (0, 1) for way in WAYS)]
    found = {job.name: getattr(experiment, job.function.split(":")[1])(**job.arguments) for job in experiment.jobs("try")[:5]}
    for name, of in (("new", SPLIT.new), ("known", SPLIT.known)):
        asked = found["symbolic/asked"][name]
        assert asked["templates"] == [one.template for one in of] and all(0 < share < 100 for share in asked["waited"])
        counts = [[len(Lines.of(home().tokenizer).line(s)) for s in one.sentences] for one in of]
        assert asked["half"] == [pytest.approx(100 * (c + d) / (a + b + c + d), abs=0.01) for a, b, c, d in counts]
        for way, ways in {"untuned": ("streaming",), **{f"{way}/seed0": own.delays for way, own in WAYS.items()}}.items():
            row = found[f"symbolic/{way}"][name]
            assert tuple(row["delay"]) == ways and len(row["correct"]) == len(of)
            assert row["thoughts"][1] == len(of) and row["skips"][1] == 2 * len(of)  # a story has one thought and two skips
    adapter = found["symbolic/streaming/seed0"]["model"]
    assert adapter["adapter"] == "streaming, seed 0" and len(adapter["adapter_sha256"]) == 64
    assert "adapter" not in found["symbolic/untuned"]["model"]


def test_answer_tokens_are_those_of_the_event_model(home):
    """m: the forced cue, what is written up to the answer's mark, the mark, and the answer's first token."""
    words = Lines.of(home().tokenizer)
    tokens, cue = words.tokens(), len(words.tokens().cues[2])
    for rest, m in (([5, 6, tokens.answer, 7, 8, tokens.stop], 4), ([tokens.answer, 7], 2), ([5, tokens.answer], 2), ([5, 6, 7], 3)):
        assert experiment.answer_tokens(Written([], rest), tokens) == cue + m
    row = Written([[1] * 4, [1] * 3, [1] * 2, [1] * 9], [5, tokens.answer, 7, 8, 9])
    one = story(0, 3)
    spoken = [len(s.split()) for s in one.sentences]
    assert spoken == [4, 3, 2, 3]
    for way, own in WAYS.items():
        assert experiment.delays(one, row, tokens, way) == {
            name: pytest.approx(latency.simulate(name, spoken, [4, 3, 2, 9], cue + 3).delay) for name in own.delays}
    assert experiment.delays(one, row, tokens, "untuned") == experiment.delays(one, row, tokens, "streaming")


def test_scores_by_hand(home):
    words, one = Lines.of(home().tokenizer), story(0, 3)
    right = Written([words.line(unit) for unit in one.units], [*words.plain(" So 5"), *words.plain(" ####"), *words.plain(" 5")])
    wrong = Written([words.line("-"), words.line("3"), words.line("-"), words.line("3+2=5")], words.plain("So 5"), truncated=True)
    found = experiment.scores([one, one], [right, wrong], words, "batch")
    assert found["correct"] == [1, 0] and found["thoughts"] == [2, 2] and found["skips"] == [3, 4] and found["truncated"] == 0.5
    with pytest.raises(ValueError, match="zip"):
        experiment.scores([one], [Written([[1]], [2])], words, "batch")


def test_questions_by_the_clock(home):
    """Two processes ask other questions; what is written by the clock is what the batched decoder writes."""
    asked = [paced.asked(SPLIT.new, i, paced.SIZES["try"]) for i in (0, 1)]
    assert [one.template for one in asked[0]] == [0, 2, 0] and len({(one.template, one.sentences) for of in asked for one in of}) == 4
    (job, _) = paced.jobs("try")
    found = paced.paced(**job.arguments)
    assert found["items"] == 2 and min(found[name] for name in ("tau", "p", "streaming", "batch", "predicted", "duty")) > 0
    model, words, _ = adapters.opened("streaming", 0, RECIPE)
    other, _, _ = adapters.opened("batch", 0, RECIPE)
    how = paced.SIZES["try"]
    for way, of, kind in (("streaming", model, paced.Reasoner), ("batch", other, paced.baselines.Batch)):
        rows = experiment.written(of, words, SPLIT.new, way, how.caps, 4)
        for one, row in zip(SPLIT.new, rows):
            segments = paced.segments_of(one, words)
            start = paced.behind(segments, words) if way == "batch" else 0
            alone = paced.thinker(kind, of, words, start, how).think(segments, 2, "threads")
            assert (alone.units, alone.rest) == (row.units, row.rest), way
            assert alone.m == experiment.answer_tokens(row, words.tokens())


def test_costs_are_measured_with_the_threads_of_a_worker(monkeypatch):
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(paced.clock, "costs", lambda *of: seen.append((of, torch.get_num_threads())) or (1.0, 2.0, 3.0))

    def broken(*_):
        raise ValueError("broken")

    try:
        torch.set_num_threads(2)
        assert paced.costs("reasoner", ["told"]) == (1.0, 2.0) and seen == [(("reasoner", ["told"]), 1)]
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(paced.clock, "costs", broken)
        with pytest.raises(ValueError, match="broken"):
            paced.costs("reasoner", [])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
