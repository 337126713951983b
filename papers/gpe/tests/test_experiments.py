"""What each job does, run small: on which sentences, trained as which arm, from which weights, scored how; nothing of a test is
trained on. Trainings are real, of a step or two; scores of most jobs are only written down (who is asked what)."""

import dataclasses
import importlib
import itertools
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from common.data.speech import Bank, utterance
from common.models import load
from common.streaming.units import Example

from .. import method, recognisers, scoring, translators
from ..data import HELD_FROM, LEARNT, SPECIAL, TEST_FROM, TUNE_FROM, ToyPairs, toy_example, words_of
from ..experiments import speech, text
from ..toy import Language, spell, unseen

PAPER = Path(text.__file__).parents[1]
KS = (1, 3, 5, 7)
CPU = text.SIZES["cpu"]
# Of the first step the rate is zero, for it only warms up: two steps move something.
SMALL = text.Size((0,), short=2, long=3, batch=4, test=5, maps=3, resamples=5, job_seconds=1)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


class Watched:
    """What a module of experiments asked for: trainings, and scores as (arm, k values, model, other arguments)."""

    def __init__(self, monkeypatch, module, scorer, real=True):
        self.trained, self.scored, self.arms = [], [], []
        fit, forward = module.fit, method.forward

        def watched_fit(training, data, steps, **options):
            training.configure_model()
            before, self.arms = weights(training.model), []
            losses = fit(training, data, steps, **options) if real else [0.5 + i for i in range(steps)]
            self.trained.append(types.SimpleNamespace(module=training, data=data, steps=steps, before=before, arms=self.arms,
                                                      after=weights(training.model), losses=losses, options=options))
            return losses

        def watched_forward(model, arm, *more, **options):
            self.arms.append(arm)
            return forward(model, arm, *more, **options)

        monkeypatch.setattr(module, "fit", watched_fit)
        monkeypatch.setattr(method, "forward", watched_forward)
        monkeypatch.setattr(module, scorer, self.score)

    def score(self, model, *asked):
        self.scored.append((model, *asked))
        return {str(k or "batch"): f"score {len(self.scored) - 1}" for k in asked[-1]}

    def of(self, rows):
        """The call behind what a job gives."""
        return self.scored[int(next(iter(rows.values())).split()[1])]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(text, "SIZES", {"small": SMALL})


def jobs(module, size):
    return {job.name: job for job in module.jobs(size)}


def run(job):
    module, name = job.function.split(":")
    return getattr(importlib.import_module(module), name)(**job.arguments)


# -- text: every job of the run ----------------------------------------------------------------------------
def expected(name):
    """(arm, phi, steps, k values of the training, {what is scored: (arm, k values)}) of a job, by its name alone."""
    arm, _, rest = name.partition(", ")
    phi = float(rest[4:].partition(",")[0]) if rest.startswith("phi ") else 0.0
    long = name.endswith(f"{SMALL.long} steps")
    if arm == "batch":
        return "contiguous", 0.0, SMALL.long, (None,), {"batch": ("contiguous", 0.0, (None,))}
    ks = (*KS, None) if arm == "group with batch" else KS
    arm = arm.removesuffix(" with batch")
    asked = {"stream": (arm, phi, KS)}
    if long:
        asked["batch"] = (arm, phi, (None,))
        if arm == "group" and ks == KS:
            asked["contiguous ids"] = ("kv_reencoding", 0.0, (7,))
    elif arm == "batch_streaming":
        asked["kv_reencoding"] = ("kv_reencoding", 0.0, KS)
    return arm, phi, SMALL.long if long else SMALL.short, ks, asked


def names():
    """Of jobs of the small size, without "text/" and the seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "SIZES", {"small": SMALL})
        return [job.name.removeprefix("text/").removesuffix("/seed0") for job in text.jobs("small")]


NAMES = [name for name in names() if name != "untuned"]


@pytest.mark.parametrize("name", NAMES)
def test_a_job_trains_what_it_is_called_and_asks_its_own_weights(name, small, monkeypatch):
    arm, phi, steps, ks, asked = expected(name)
    seen, looked = Watched(monkeypatch, text, "text_scores"), []
    monkeypatch.setattr(text, "diagonal", lambda *asked: looked.append(asked) or f"map {len(looked) - 1}")
    result = run(jobs(text, "small")[f"text/{name}/seed0"])
    (training,) = seen.trained
    assert training.module.arm == method.arm(arm, phi) and set(training.arms) == {method.arm(arm, phi)}, "trained as another arm"
    assert (training.steps, training.data.ks, training.data.batch_size) == (steps, list(ks), SMALL.batch)
    start = load(training.module.base).model
    started, moved = equal(training.before, weights(start)), not equal(training.before, training.after)
    assert started and moved, "from other weights, or weights that did not move"
    assert training.module.learning_rate == 1e-3 and training.module.seed == 0
    assert result["loss"] == pytest.approx(sum(training.losses) / steps)
    assert {way for way in result if way in ("stream", "batch", "kv_reencoding", "contiguous ids")} == set(asked)
    for way, (of, offset, at) in asked.items():
        model, was, seed, count, scored_at = seen.of(result[way])
        assert (was, tuple(scored_at), seed, count) == (method.arm(of, offset), at, 0, SMALL.test), way
        assert model is training.module.model, f"{way}: other weights than those that were trained"
    maps = "diagonal" in result
    assert maps == (steps == SMALL.long and name.startswith(("group, 3", "batch_streaming")))
    if maps:
        assert result["diagonal"] == {"tuned": "map 0", "batch-trained": "map 1"}
        assert looked[0][0] is training.module.model and looked[0][1:] == (method.arm(arm), 0, SMALL.maps)
        assert equal(weights(looked[1][0]), training.before) and looked[1][1:] == (method.arm("contiguous"), 0, SMALL.maps)


def test_every_arm_is_in_the_run_and_the_names_say_the_steps(small):
    """No arm twice, and none that is another one under its name (the arguments differ)."""
    listed = jobs(text, "small")
    assert len({str(sorted(job.arguments.items(), key=str)) + job.function for job in listed.values()}) == len(listed) == len(NAMES) + 1
    assert {name.partition(",")[0] for name in NAMES} == {
        "interleaved", "batch_streaming", "group", "position_reencoding", "kv_reencoding", "no_source_positions", "no_target_positions",
        "no_positions", "interleaved_group", "finished_frozen", "finished_group", "batch", "group with batch"}
    assert {phi for phi in text.PHIS if any(f"phi {phi}," in name for name in NAMES)} == {0.5, 16, 256}


def test_untuned_is_the_start_in_three_ways(small, monkeypatch):
    seen, asked = Watched(monkeypatch, text, "text_scores"), []
    monkeypatch.setattr(text, "bleu", lambda *of: asked.append(of) or "random")
    result = run(jobs(text, "small")["text/untuned/seed0"])
    found = {way: tuple(seen.of(result[way])[i] for i in (1, 4)) for way in ("batch", "wrong ids", "kv_reencoding")}
    assert not seen.trained and found == {
        "batch": (method.arm("contiguous"), (None,)), "wrong ids": (method.arm("group"), (None,)),
        "kv_reencoding": (method.arm("kv_reencoding"), KS)}
    assert {of[2:4] for of in seen.scored} == {(0, SMALL.test)} and len({id(of[0]) for of in seen.scored}) == 1
    references = [e.reference for e in scoring.test_sentences(0, SMALL.test)[0]]
    (other, own, how), = asked
    assert own == references and how == "none" and sorted(other) == sorted(own) and all(a != b for a, b in zip(other, own))


def test_a_rate_of_zero_moves_nothing_so_that_moved_weights_mean_something(monkeypatch, small):
    seen, real = Watched(monkeypatch, text, "text_scores"), text.StreamingTraining
    monkeypatch.setattr(text, "StreamingTraining", lambda *args, **options: real(*args[:3], 0.0, **(options | {"weight_decay": 0.0})))
    text.tune(0, "group", size="small")
    unmoved = equal(seen.trained[0].before, seen.trained[0].after)
    assert unmoved


# -- what is trained on, and what is tested on -------------------------------------------------------------
def words(e):
    return e.source.tolist(), e.target.tolist()


def sources(seed, numbers):
    language = Language.draw(seed)
    return {spell(language.sentence(number)[0]) for number in numbers}


def test_what_is_learnt_from_is_what_the_test_leaves_out(small, monkeypatch):
    """Every training of a seed, by number: of the stand-ins, of the arms, and of the configs that start from a stand-in."""
    seen = Watched(monkeypatch, text, "text_scores")
    text.tune(0, "group", size="small")
    data = seen.trained[0].data
    assert (data.first, data.train_samples, data.language, data.seed) == (TUNE_FROM, SMALL.short * SMALL.batch, 0, 0)
    batch, tuning, validation = LEARNT
    both = translators.SIZES["cpu"], recognisers.SIZES["cpu"]
    assert all(set(range(s.steps * s.batch)) <= set(batch) for s in both), "a stand-in learns from more than the test leaves out"
    for first, count in ((TUNE_FROM, CPU.long * CPU.batch), (TUNE_FROM, speech.SIZES["cpu"].steps * speech.SIZES["cpu"].batch)):
        assert set(range(first, first + count)) <= set(tuning)
    configs = [yaml.safe_load(path.read_text())["data"]["init_args"] for path in (PAPER / "configs" / "cpu").glob("*.yaml")]
    assert len(configs) == 3
    for found in configs:
        first = found.get("first", 0)
        assert set(range(first, first + found["train_samples"])) <= {*batch, *tuning} and found["val_samples"] <= len(validation) / 2


@pytest.mark.parametrize("seed", [0, 1, 9])
def test_no_sentence_of_the_test_is_learnt_from_nor_tested_twice(seed):
    """By content, for committed stand-ins and those of further seeds. The run streams 160 of these, a stand-in's card is of 256."""
    numbers = scoring.test_numbers(seed, 256)
    tested = sources(seed, numbers)
    assert len(tested) == 256 and not tested & sources(seed, itertools.chain(*LEARNT))
    assert numbers[0] >= TEST_FROM and numbers[-1] < TEST_FROM + 300


def test_the_test_is_what_the_arms_are_scored_on():
    numbers = scoring.test_numbers(0, CPU.test)
    assert len(numbers) == CPU.test and numbers != tuple(range(TEST_FROM, TEST_FROM + CPU.test)), "seed 0 leaves one out"
    examples, _ = scoring.test_sentences(0, CPU.test)
    assert [words(e) for e in examples] == [words(toy_example(Language.draw(0), ids(0), n)) for n in numbers]


def test_a_sentence_that_comes_again_is_left_out_by_hand():
    said = dict(enumerate("a b c a d b e c f".split()))
    assert unseen(said.get, 3, 3, [0, 1]) == [4, 6, 7]
    assert unseen(said.get, 4, 0, []) == [0, 1, 2, 4]


def test_validation_is_no_sentence_of_its_own_training():
    """32,000 of a stand-in's config: the range of numbers alone would share some with its 256."""
    data = ToyPairs([None], train_samples=1, val_samples=256, language=0)
    learnt = range(32_000)
    assert sources(0, range(HELD_FROM, HELD_FROM + 256)) & sources(0, learnt), "then this test shows nothing"
    asked, real = [], Language.unseen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Language, "unseen", lambda self, *of: asked.append(of) or real(self, *of[:2], learnt))
        _, held = data.examples()
    assert asked == [(256, HELD_FROM, range(1))] and not {e.text for e in held} & sources(0, learnt) and len(held) == 256


def ids(seed):
    return {piece: i for i, piece in enumerate(Language.draw(seed).pieces())}


def test_a_training_sees_only_its_own_numbers():
    data = ToyPairs([1], train_samples=3, first=7, language=2, seed=5)
    train, held = data.examples()
    assert [words(e) for e in train] == [words(toy_example(Language.draw(2), ids(2), n)) for n in (7, 8, 9)]
    assert words(held[0]) == words(toy_example(Language.draw(2), ids(2), HELD_FROM))


# -- where it looks ----------------------------------------------------------------------------------------
class Looks(torch.nn.Module):
    """A model whose attention is where the test puts it: weight(j, i) of target word j on source word i, both from 1."""

    dtype = torch.float32

    def __init__(self, examples, weight, prompt=0.0):
        super().__init__()
        self.examples, self.weight, self.prompt = examples, weight, prompt
        self.config, self.set = types.SimpleNamespace(_attn_implementation="sdpa"), []

    def set_attn_implementation(self, name):
        self.set.append(name)
        self.config._attn_implementation = name

    def forward(self, input_ids, attention_mask, position_ids, **options):
        assert options["output_attentions"] and not options["use_cache"] and self.config._attn_implementation == "eager"
        total, maps = input_ids.shape[1], []
        width = max(len(e.source) for e in self.examples)
        for head in range(2):
            found = torch.zeros(len(self.examples), total, total)
            for b, e in enumerate(self.examples):
                begins = torch.tensor([0, *e.source_units]).cumsum(0).tolist()
                rows = torch.tensor(e.target_units).cumsum(0).tolist()
                found[b, :, : begins[1]] = self.prompt
                for j in range(1, len(e.target_units) - 1):
                    for i in range(1, len(e.source_units) - 1):
                        first = begins[i]
                        found[b, width + rows[j - 1] - 1, first] = self.weight(j, i) * (1 + head)
            maps.append(found[:, None].repeat(1, 2, 1, 1))
        return types.SimpleNamespace(attentions=maps)


@pytest.mark.parametrize("weight, share", [
    (lambda j, i: float(i == j), 1.0), (lambda j, i: float(abs(i - j) <= 2), 1.0), (lambda j, i: float(i == j + 3), 0.0),
    (lambda j, i: float(i - j in (0, 3)), 0.5)])
def test_attention_near_the_diagonal_by_hand(weight, share, monkeypatch):
    """Ten words of one and two tokens on either side; the prompt's own attention counts nowhere; k = 7 shows words up to j + 6."""
    units = [[1], *([[2], [3, 4]] * 5), [5]]
    example = Example.of_units(units, [[6], *([[2], [3, 4]] * 5), [7]])
    monkeypatch.setattr(text, "test_sentences", lambda seed, count: ([example] * count, None))
    model = Looks([example] * 2, lambda j, i: weight(j, i) if j <= 7 else float(i == j) * (share > 0), prompt=9.0)
    found = text.diagonal(model, method.arm("group"), 0, 2)
    rows = range(1, 11)
    near = [share if j <= 7 else float(share > 0) for j in rows]
    if share == 0:
        model.weight = lambda j, i: float(i == j + 3) if j <= 7 else float(i == j - 3)
        found, near = text.diagonal(model, method.arm("group"), 0, 2), [0.0] * 10
    even = [sum(abs(i - j) <= 2 for i in range(1, min(j + 6, 10) + 1)) / min(j + 6, 10) for j in rows]
    assert found["share"] == pytest.approx(sum(near) / 10) and found["even"] == pytest.approx(sum(even) / 10)
    assert model.config._attn_implementation == "sdpa", "the model's own attention comes back"


# -- speech ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("job", [job for job in speech.jobs("smoke") if job.function.endswith(":tune")], ids=lambda job: job.name)
def test_speech_is_tuned_as_named_from_the_recogniser_on_utterances_of_its_own(job, monkeypatch):
    seen = Watched(monkeypatch, speech, "speech_scores", real=False)
    bank = types.SimpleNamespace(facts=lambda: {"name": "bank"})
    monkeypatch.setattr(speech.SpokenWords, "banks", lambda self: ("training", bank))
    monkeypatch.setattr(speech, "SIZES", {"smoke": dataclasses.replace(speech.SIZES["smoke"], steps=12, test=6)})
    result = run(job)
    (training,) = seen.trained
    name = job.name.split("/")[1]
    arm = method.arm("interleaved") if name == "interleaved" else method.arm("group", float(name.removeprefix("phi ")))
    assert training.module.arm == arm and (training.steps, training.data.ks, training.data.first) == (12, [1, 3, 5], 10**6)
    assert training.data.train_samples == 12 * training.data.batch_size == 48 and training.data.bank == "espeak"
    assert training.module.learning_rate == 1e-3 and result["data"] == {"name": "bank"}
    assert result["loss"] == pytest.approx(sum(0.5 + i for i in range(2, 12)) / 10), "the mean of the last ten"
    loaded, encoder = speech.recogniser(0)
    started = equal(training.before, weights(loaded.model)), equal(weights(training.module.projector), weights(encoder))
    assert started == (True, True)
    for way, ks in (("stream", (1, 3, 5)), ("batch", (None,))):
        model, projector, was, seed, of, count, at = seen.of(result[way])
        assert (was, seed, of, count, tuple(at)) == (arm, 0, "espeak", 6, ks)
        assert model is training.module.model and projector is training.module.projector


def test_recorded_words_are_of_other_takes_in_training_and_test(monkeypatch):
    called = []
    monkeypatch.setattr(speech, "train_recogniser", lambda *asked: called.append(asked) or {"wer": 7.5})
    monkeypatch.setattr(speech, "tune", lambda *asked: called.append(asked) or {"stream": {}})
    found = speech.recorded(2, 64, "smoke")
    (seed, bank, folder, how), (again, phi, arm, size, same_bank, start) = called
    assert (seed, bank, how, again, phi, arm, size, same_bank) == (2, "fsdd", "smoke", 2, 64, "group", "smoke", "fsdd")
    assert str(folder) == start and found == {"stream": {}, "batch-trained": {"wer": 7.5}}
    asked = []
    monkeypatch.setattr("common.data.speech.fsdd_bank", lambda split: asked.append(split) or split)
    data = speech.SpokenWords(bank="fsdd", train_samples=2, val_samples=3, first=5)
    monkeypatch.setattr(speech.SpokenWords, "cut", lambda self, *of: of)
    assert data.examples() == (("train", range(5, 7)), ("test", list(range(HELD_FROM, HELD_FROM + 3)))) and asked == ["train", "test"]


def test_synthesised_words_of_the_test_are_strings_that_no_training_heard(monkeypatch):
    """The recordings are the same: most strings of three of these words would come again."""
    silence = np.zeros(4, dtype=np.float32)
    bank = Bank("three", 1000, {(who, word): [silence] for who in ("a", "b") for word in ("one", "two", "six")})
    said = words_of(bank, seed=4)
    assert [said(n) for n in range(30)] == [" ".join(utterance(bank, n, 4).words) for n in range(30)]
    monkeypatch.setattr(speech.SpokenWords, "banks", lambda self: (bank, bank))
    source, learnt = speech.SpokenWords(seed=4, train_samples=200, val_samples=20), range(200)
    strings = {said(n) for n in learnt}
    assert {said(n) for n in range(HELD_FROM, HELD_FROM + 20)} & strings, "then this test shows nothing"
    monkeypatch.setattr(speech.SpokenWords, "cut", lambda self, bank, numbers: list(numbers))
    train, held = source.examples()
    assert train == list(learnt) and len(held) == len({said(n) for n in held} - strings) == 20
    recognisers.test_utterances.cache_clear()
    tested, known = recognisers.test_utterances(4, "espeak", 1)
    recognisers.test_utterances.cache_clear()
    assert known == ["one", "six", "two"] and tested[0] >= TEST_FROM
    assert said(tested[0]) not in {said(n) for n in itertools.chain(*LEARNT)}


def test_what_speech_scores_are_of(monkeypatch):
    """The words that a stream wrote, and the milliseconds of audio that had been heard at each."""
    examples = [Example.of_units([[0], [9], [9], [1]], [[2], [4], [5], [3]], reference="one two")]
    examples = [dataclasses.replace(examples[0], unit_ends=[10, 500, 1000, 1010])]
    monkeypatch.setattr(recognisers, "test_utterances", lambda *asked: (examples, ["one", "two"]))
    asked = []

    def stream(model, arm, some, boundary, k, **options):
        asked.append((arm, k, boundary))
        return [types.SimpleNamespace(words=[[len(SPECIAL)], [len(SPECIAL)]], delays=[2, 3])]

    monkeypatch.setattr(recognisers, "stream", stream)
    rows = recognisers.speech_scores(None, torch.nn.Identity(), method.arm("group"), 0, "espeak", 1, (1, None))
    assert set(rows) == {"1", "batch"} and [k for _, k, _ in asked] == [1, None] and rows["1"]["wer"] == 50.0 and rows["1"]["words"] == 2
