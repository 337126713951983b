"""The jobs in the small, without a training: which stories, which arm, how it is run, what its scores are of. What writes and tunes is
replaced by what notes how it was called; that it runs, too, is test_harness.py's."""

import json
from types import SimpleNamespace as Of

import pytest
import torch

from common.data import stories
from common.standins import stories as base_of

from .. import baselines, faults, latency, standins
from ..experiments import arms, clock, exact, gates, realtext, speed, variants
from ..reasoner import Reasoner, Serial, Threads

TEST = [stories.totals(i, "test", 4) for i in range(5)]


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    monkeypatch.setitem(arms.SIZES, "five", arms.Size((4,), 5, 10, (7, 9)))
    monkeypatch.setattr(standins, "base", lambda seed: (f"base {seed}", "words", {"name": f"base {seed}"}))
    monkeypatch.setattr(standins, "tuned", lambda seed, arm: (f"{arm} {seed}", {"name": f"{arm} {seed}"}))


@pytest.fixture
def written(monkeypatch):
    """Calls of what writes: (model, stories, depth, mode, start, given, caps)."""
    seen = []

    def fake(model, told, depth, mode="batch", start=0, given=False, caps=None):
        seen.append((model, list(told), depth, mode, start, given, caps))
        return [(depth, i) for i in range(len(told))]

    monkeypatch.setattr(base_of, "written", fake)
    return seen


# -- arms --------------------------------------------------------------------------------------------------
def test_the_base_is_asked_unseen_stories_in_batch_and_in_streaming(written, monkeypatch):
    monkeypatch.setattr(arms, "scores", lambda told, rows: (told == TEST, rows))
    found = arms.start(4, "five")
    rows = {d: [(d, i) for i in range(5)] for d in (1, 2, 3)}
    assert found == {"model": {"name": "base 4"}, **dict.fromkeys(("start", "untuned", "untuned rope"), (True, rows))}
    ways = [("batch", None)] * 3 + [("streaming", 0)] * 3 + [("streaming", None)] * 3
    assert written == [("base 4", TEST, d, *way, False, (7, 9)) for d, way in zip((1, 2, 3) * 3, ways)]


WAYS = {"batch": ("batch", None), "batch spe": ("batch", 0), "streaming": ("streaming", 0), "streaming far": ("streaming", 256),
        "interleaved": ("interleaved", 0), "batch own": ("batch", None)}


@pytest.mark.parametrize("arm", WAYS)
def test_an_arm_is_run_as_it_was_tuned(arm, written, monkeypatch):
    monkeypatch.setattr(arms, "scores", lambda told, rows: {"told": told == TEST, "rows": rows})
    monkeypatch.setattr(base_of, "graded", lambda told, rows: {"answer": (told == TEST, rows)})
    found = arms.run(4, arm, "five")
    rows = [(2, i) for i in range(5)]
    assert found == {"told": True, "rows": {d: [(d, i) for i in range(5)] for d in (1, 2, 3)}, "model": {"name": f"{arm} 4"}} | (
        {"other units": (True, rows)} if arm == "streaming" else {})
    assert written[:3] == [(f"{arm} 4", TEST, d, *WAYS[arm], False, (7, 9)) for d in (1, 2, 3)]
    if arm == "streaming":
        (_, told, *how), = written[3:]
        assert how == [2, "streaming", 0, True, (7, 9)]
        for ours, own, other in zip(told, TEST, [*TEST[1:], TEST[0]]):
            assert ours == stories.with_units_of(own, other) and own.source == ours.source and own.answer == ours.answer
    else:
        assert len(written) == 3
    assert {*arms.ARMS} == {*WAYS}


def test_untrained_models_are_of_smoke_alone():
    model, facts = arms.model_of(4, "start", arms.SIZES["smoke"])
    assert isinstance(model, torch.nn.Module) and not model.training and facts == {"name": "untrained"}
    assert arms.model_of(4, "start", arms.SIZES["five"]) == ("base 4", {"name": "base 4"})
    assert arms.model_of(4, "batch", arms.SIZES["five"]) == ("batch 4", {"name": "batch 4"})


def test_scores_are_of_units_at_depth_two_and_of_answers_at_each(monkeypatch):
    rows = {d: [Of(units=[(1,) * 3, (1,) * (d + i)], rest=(1,) * (2 * d + i)) for i in range(5)] for d in (1, 2, 3)}
    names = ("answer", "answers", "unit", "kinds", "places", "truncated", "tokens")
    monkeypatch.setattr(base_of, "graded", lambda told, found: told == TEST and {name: (name, len(found[0].rest)) for name in names})
    monkeypatch.setattr(latency, "reduction", lambda way, words, units, m: len(way) + sum(units) + m + len(words) / 99)
    found = arms.scores(TEST, rows)
    assert [found[f"D{d}"] for d in (1, 2, 3)] == [("answer", 2 * d) for d in (1, 2, 3)] and found["items"] == 5
    assert found["tokens"] == [("tokens", 2), ("tokens", 4), ("tokens", 6)]
    assert all(found[name] == (name, 4) for name in ("answers", "unit", "kinds", "places", "truncated"))
    assert {*found} == {"D1", "D2", "D3", "items", "tokens", "answers", "unit", "kinds", "places", "truncated", "reduction"}
    for way in ("blocking", "buffered", "streaming"):
        means = [sum(len(way) + 3 + d + i + 1 + (2 * d + i - 1) + len(TEST[i].words) / 99 for i in range(5)) / 5 for d in (1, 2, 3)]
        assert found["reduction"][way] == pytest.approx(means)


def test_the_first_answer_token_comes_behind_the_cue_and_the_rest_without_its_end(monkeypatch):
    monkeypatch.setattr(latency, "reduction", lambda way, words, units, m: (way, words, units, m))
    story = TEST[0]
    assert arms.reduced(story, Of(units=[(1, 2), (3,)], rest=(1, 2, 3)), "streaming") == ("streaming", story.words, [2, 1], 3)
    assert arms.reduced(story, Of(units=[], rest=()), "batch") == ("batch", story.words, [], 2)


def test_schedules_are_of_the_streaming_arm_and_counted(monkeypatch):
    asked = []

    class Fake:
        def __init__(self, model, tokens, unit_cap, rest_cap):
            assert (model, unit_cap, rest_cap) == ("streaming 4", 7, 9)

        def think(self, segments, depth, schedule=None):
            asked.append((type(self).__name__, segments, depth, schedule))
            return (type(self).__name__, len(asked))

    class Hasty(Fake):
        pass

    monkeypatch.setattr(arms, "Reasoner", Fake)
    monkeypatch.setattr(baselines, "Impatient", Hasty)
    monkeypatch.setattr(baselines, "same", lambda a, b: (a[0], b[0]) == ("Fake", "Fake") and a[1] % 2 == 0)
    found = arms.schedules(4, "five")
    assert found == {"equal": 5, "placebo": 0, "of": 10} and len(asked) == 30
    for i in range(10):
        segments = [stories.ids(s) for s in stories.totals(i, "test", 4).source]
        (_, reference, d, none), (_, ours, *_), (kind, theirs, *_) = asked[3 * i : 3 * i + 3]
        assert reference == ours == theirs == segments and (d, none, kind) == (2, None, "Hasty")


def test_each_fifth_schedule_is_of_two_threads_and_the_others_read_ahead_by_lot():
    seen = []
    fake = Of(think=lambda segments, depth, schedule: seen.append((depth, schedule)))
    for number in range(10):
        arms.scheduled(fake, [], number)
    assert [isinstance(schedule, Threads) for _, schedule in seen] == [number % 5 == 4 for number in range(10)]
    assert all(isinstance(schedule, Serial) or isinstance(schedule, Threads) for _, schedule in seen) and {d for d, _ in seen} == {2}

    def ahead(number):
        seen.clear()
        arms.scheduled(fake, [], number)
        read = next(value for value in vars(seen[0][1]).values() if callable(value))
        return [read() for _ in range(4000)]

    shares = {number: sum(ahead(number)) / 4000 for number in (0, 1, 2, 3, 5, 6)}
    assert len({*shares.values()}) > 1 and all(min(abs(share - p) for p in (0.02, 0.1, 0.5)) < 0.03 for share in shares.values())
    assert ahead(3) == ahead(3), "a schedule repeats itself"


def test_jobs_are_of_seeds_whose_base_is_there_and_name_what_they_compute_from(monkeypatch, tmp_path):
    monkeypatch.setattr(base_of, "FOLDER", tmp_path)
    monkeypatch.setattr(standins, "FOLDER", tmp_path / "arms")
    monkeypatch.setattr(standins, "committed", lambda: (0, 1))
    monkeypatch.setitem(arms.SIZES, "cpu", arms.Size((0, 1), 5, 10))
    for path in ("seed0", "seed1", "arms/seed0/batch-spe", "arms/seed0/streaming"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "model.safetensors").write_text("")
    of = {job.name: job for job in arms.jobs("cpu")}
    assert {*of} == {f"{name}/seed{seed}" for seed in (0, 1) for name in ("start", "schedules", *WAYS)}

    def reads(name):
        return [path.replace(str(tmp_path), "").removesuffix("/model.safetensors") for path in of[name].data]

    assert reads("start/seed0") == ["/seed0"] and reads("batch spe/seed0") == ["/seed0", "/arms/seed0/batch-spe"]
    assert reads("schedules/seed0") == ["/seed0", "/arms/seed0/streaming"] and reads("batch/seed1") == ["/seed1"]
    for name, job in of.items():
        arm, _, seed = name.partition("/seed")
        assert job.function.rpartition(":")[2] == (arm if arm in ("start", "schedules") else "run")
        assert job.arguments == {"seed": int(seed), "size": "cpu"} | ({"arm": arm} if arm in WAYS else {})
    monkeypatch.setattr(standins, "committed", lambda: ())
    assert arms.seeds("cpu") == (0,) and arms.seeds("smoke") == (0,)


# -- variants ----------------------------------------------------------------------------------------------
VARIANTS = {"context": ("batch", "batch", None), "rules": ("batch", "batch", None), "places": ("batch", "batch", None),
            "ahead": ("batch spe", "streaming", 0)}  # what streaming is held against, how that is run


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("which", ["untuned", "against", "streaming"])
def test_a_variant_is_tuned_and_asked_on_its_own_stories(variant, which, written, monkeypatch):
    against, mode, start = VARIANTS[variant]
    arm = against if which == "against" else which
    model, tuned = Of(), []
    model.eval = lambda: "eval"
    monkeypatch.setattr(standins, "base", lambda seed: (model, "words", {}))
    monkeypatch.setattr(standins, "tune", lambda *of: tuned.append(of) or [float(i) for i in range(45)])
    monkeypatch.setattr(standins, "rows_at", lambda *of, tell: tell)
    monkeypatch.setitem(variants.SIZES, "three", variants.Size((4,), 3, standins.Tuning(11), (7, 9)))
    monkeypatch.setattr(base_of, "graded", lambda told, rows: {"answer": told, "unit": rows, "kinds": "kinds"})
    found = variants.run(variant, arm, 4, "three")
    told = [variants.VARIANTS[variant].tell(i, "test", 4) for i in range(3)]
    (first, asked, depth, *how), = written
    ways = {"untuned": ["streaming", 0], "against": [mode, start], "streaming": ["streaming", 0]}
    assert (first, asked, depth) == ("eval", told, 2) and how == [*ways[which], False, (7, 9)]
    assert found == {"D2": told, "unit": [(2, i) for i in range(3)], "kinds": "kinds", "items": 3,
                     "losses": [] if which == "untuned" else [0.0, 20.0, 40.0]}
    assert len(tuned) == (which != "untuned")
    if tuned:
        (of, of_arm, seed, how, rows), = tuned
        assert (of, of_arm, seed, how) == (model, standins.ARMS[arm], 4, standins.Tuning(11))
        assert rows(0, 4, how) is variants.VARIANTS[variant].tell


def test_stories_of_variants():
    told = {name: [variant.tell(i, "test", 0) for i in range(20)] for name, variant in variants.VARIANTS.items()}
    assert told["context"] == [stories.totals(i, "test", 0, stories.Level((3, 7), (2, 3)), "context") for i in range(20)]
    assert told["rules"] == [stories.rules(i, "test", 0) for i in range(20)]
    assert told["places"] == [stories.places(i, "test", 0) for i in range(20)]
    assert told["ahead"] == [stories.totals(i, "test", 0, stories.Level((3, 7), (2, 3), ahead=0.3)) for i in range(20)]


def test_jobs_of_variants(monkeypatch):
    monkeypatch.setattr(arms, "seeds", lambda size: (0, 1) if size == "cpu" else None)
    monkeypatch.setattr(arms, "weights", lambda seed, *arms: (f"{seed}", *arms))
    of = {job.name: job for job in variants.jobs("cpu")}
    assert {*of} == {f"{name}/{arm}/seed{seed}" for name, (against, *_) in VARIANTS.items() for arm in ("untuned", against, "streaming")
                     for seed in (0, 1)}
    for name, job in of.items():
        variant, arm, seed = name.split("/")
        assert job.arguments == {"variant": variant, "arm": arm, "seed": int(seed[4:]), "size": "cpu"} and job.data == (seed[4:],)
    assert {job.name.rpartition("/")[2] for job in variants.jobs("smoke")} == {"seed0"}


# -- gold traces, the gate, real text ----------------------------------------------------------------------
def test_gold_traces_wait_and_save_what_their_stories_say(monkeypatch):
    found = exact.gold("smoke")
    told = [stories.totals(i) for i in range(20)]
    assert found["waited"] == [round(100 * (1 - s.words[0] / sum(s.words)), 3) for s in told]
    for speed_of, r in (("150 words a minute", 0.4), ("680 words a minute", 0.088)):
        costs = latency.Costs(r=r)
        for way in ("blocking", "buffered", "streaming"):
            expected = [sum(latency.reduction(way, s.words, [len(u) for u in s.units], len(s.deep[d]), costs) for s in told) / 20
                        for d in range(3)]
            assert found["reduction"][speed_of][way] == pytest.approx(expected)
    pairs = [(stories.places(i, order="question"), stories.places(i, order="context")) for i in range(2)]

    def tokens(story):
        return sum(map(len, story.units)) + 1 + len(story.deep[0])

    assert found["places"] == [round(100 * tokens(a) / tokens(b), 2) for a, b in pairs]
    assert [exact.written_tokens(told[0], d) - sum(map(len, told[0].units)) - 1 for d in (1, 2, 3)] == [len(d) for d in told[0].deep]
    monkeypatch.setitem(exact.SIZES, "more", exact.Size(520))
    assert len(exact.gold("more")["waited"]) == 500


def test_bars_are_set_on_other_traces_than_are_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(faults, "english", lambda number, split="test": asked.append((split, number)) or Of(
        number=number, sentences=["a"], units=["b"], split=split))
    monkeypatch.setattr(faults, "FAULTS", {"one": lambda trace, draw: ("one", trace.number, draw.random()),
                                           "two": lambda trace, draw: ("two", trace.number, 0)})
    monkeypatch.setattr(gates, "tf_idf", lambda texts: texts)

    class Found:
        diagonal, first = 0.123456, 0.654321
        accepts = staticmethod(lambda trace: trace.number % 4 != 0)

        @staticmethod
        def reason(trace):
            return {0: None, 1: "count", 2: "order"}[trace[1] % 3]

    monkeypatch.setattr(gates.Gate, "calibrated", lambda known, encode: Found if {k.split for k in known} == {"val"} and encode == [
        "a", "b"] * len(known) else None)
    found = gates.gate("smoke")
    assert asked == [*(("val", i) for i in range(20)), *(("test", i) for i in range(20)), *(("test", 10_000 + i) for i in range(5))] + [
        ("test", 10_000 + i) for i in range(5)]
    why = [{0: None, 1: "count", 2: "order"}[(10_000 + i) % 3] for i in range(5)]
    assert found == {"kept": {"tf-idf": [15, 20]}, "dropped": {"tf-idf": dict.fromkeys(("one", "two"), [5 - why.count(None), 5])},
                     "reasons": {"tf-idf": dict.fromkeys(("one", "two"), {str(w): why.count(w) for w in {*why}})},
                     "bars": {"tf-idf": {"diagonal": 0.1235, "first": 0.6543}}, "count faults": list(faults.COUNT),
                     "order faults": list(faults.ORDER)}


def test_real_questions_are_cut_and_those_of_two_sentences_left_out(tmp_path, monkeypatch):
    (tmp_path / "math").mkdir()
    (tmp_path / "text").mkdir()
    gsm = [{"question": "One two three. Four five. How many?"}, {"question": "One. How?"}, {"question": "A b. C d e f. G h. What is it?"}]
    med = [{"context": f"Context: AIM. We ask {i}. It is.\nQuestion: Is it?\nA. yes"} for i in range(3)]
    for name, rows in (("math/gsm8k_test.jsonl", gsm), ("text/pubmed_qa_labeled.jsonl", med)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path))
    monkeypatch.setattr(realtext, "load", lambda spec: Of(tokenizer=lambda texts, add_special_tokens: {
        "input_ids": [text.split() for text in texts]} if add_special_tokens is False and spec is realtext.SMOLLM2 else None))
    found = realtext.waited("smoke")
    assert found["GSM8K"] == [round(100 * (1 - 2 / 7), 2), round(100 * (1 - 3 / 11), 2)]
    assert found["PubMedQA"] == [round(100 * (1 - 2 / 8), 2)] * 3 and found["sentences"] == {"GSM8K": 3.5, "PubMedQA": 4.0}
    monkeypatch.setitem(realtext.SIZES, "one", realtext.Size(1))
    assert len(realtext.waited("one")["PubMedQA"]) == 1
    (job,) = realtext.jobs("smoke")
    assert [path.removeprefix(str(tmp_path)) for path in job.data] == ["/math/gsm8k_test.jsonl", "/text/pubmed_qa_labeled.jsonl"]


# -- time: of what, not how long ---------------------------------------------------------------------------
def test_the_clock_is_paced_by_measured_costs_and_predicted_from_what_was_written(monkeypatch):
    monkeypatch.setitem(arms.SIZES, "five", arms.Size((4,), 5, 10, (7, 9)))
    monkeypatch.setattr(arms, "seeds", lambda size: (4,) if size == "five" else None)
    monkeypatch.setitem(clock.SIZES, "five", clock.Size(3, 2, 3, "five"))
    kinds = {name: lambda model, tokens, unit_cap, rest_cap, name=name: (name, model, unit_cap, rest_cap) for name in ("ours", "waits")}
    monkeypatch.setattr(clock, "Reasoner", kinds["ours"])
    monkeypatch.setattr(baselines, "Batch", kinds["waits"])
    seen = []
    monkeypatch.setattr(clock, "costs", lambda reasoner, told: seen.append((reasoner, list(told))) or (0.01, 0.02, 30.0))

    def timed(reasoner, told, pauses):
        seen.append((reasoner, told, pauses))
        number = len(seen)
        return (0.5 * number**2, Of(units=[(1,) * 3] * len(told), m=4 + number))

    monkeypatch.setattr(clock, "timed", timed)
    found = clock.clock(1, "five")
    warm = [stories.totals(2000 + i, "val", 4) for i in range(2)]
    ours, waits = (("ours", "streaming 4", 7, 9), ("waits", "streaming 4", 7, 9))
    r = 0.01 * 30.0 / (0.5 * sum(sum(s.words) for s in warm) / 2)  # thinking takes half of the reading time
    assert seen[0] == (ours, list(map(clock.ids_of, warm))) and found["r"] == pytest.approx(r)
    assert (found["tau"], found["p"]) == (0.01, 0.02)
    told = [stories.totals(2500 + i, "val", 4) for i in range(3)]
    assert [(who, ids) for who, ids, _ in seen[1:]] == [(who, clock.ids_of(story)) for story in told for who in (ours, waits)]
    assert all(pauses == pytest.approx([r * len(s) for s in ids]) for _, ids, pauses in seen[1:])
    costs = latency.Costs(r=found["r"], tau=0.01, p=0.02, whole=0.02)
    rows = [(0.5 * (2 + 2 * i) ** 2, 0.5 * (3 + 2 * i) ** 2,
             latency.simulate("streaming", s.words, [3] * len(s.words), 6 + 2 * i, costs).delay) for i, s in enumerate(told)]
    assert found["delay"] == pytest.approx({
        name: sorted(row[k] for row in rows)[1] for k, name in enumerate(("streaming", "batch", "predicted"))})
    assert found["streaming"] == pytest.approx(sorted(a / q for a, _, q in rows)[1])
    assert found["batch"] == pytest.approx(sorted(b / q for _, b, q in rows)[1])


def test_jobs_of_what_is_timed(monkeypatch):
    monkeypatch.setattr(arms, "seeds", lambda size: (4, 5) if size == "cpu" else None)
    monkeypatch.setattr(arms, "weights", lambda seed, *arms: (f"{seed}", *arms))
    found = clock.jobs("cpu")
    assert [(job.name, job.arguments, job.data) for job in found] == [
        (f"clock/process{i}", {"process": i, "size": "cpu"}, ("4", "streaming")) for i in range(5)]
    assert [(job.name, job.arguments) for job in speed.jobs("cpu")] == [
        (f"step/process{i}", {"process": i, "size": "cpu"}) for i in range(3)]


def test_costs_are_of_a_token_and_of_a_segment(monkeypatch):
    """A second for every reading of the clock: a segment takes one, and thinking what the thought says."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(clock, "time", Of(perf_counter=lambda: float(next(ticks))))
    read = []
    monkeypatch.setattr(clock, "TwoStreams", lambda model: Of(read=read.append))
    told = TEST[:2]
    thoughts = iter([Of(units=[(1,) * 2, (1,) * 3], rest=(1,) * 4, at={"end": 30.0}.get),
                     Of(units=[(1,)], rest=(1,), at={"end": 12.0}.get)])
    tau, p, tokens = clock.costs(Of(model="model", think=lambda segments: next(thoughts)), map(clock.ids_of, told))
    assert read == [stories.ids(s) for story in told for s in story.source]
    each = [(30.0 - len(told[0].source)) / (5 + 4 + 1), (12.0 - len(told[1].source)) / (1 + 1 + 1)]
    assert (tau, p, tokens) == (pytest.approx(sum(each) / 2), 1.0, 3.0)


def test_a_delay_is_from_the_last_segment_to_the_first_answer_token(monkeypatch):
    now, slept = [0.0], []
    monkeypatch.setattr(clock, "time", Of(perf_counter=lambda: now[0], sleep=lambda s: (slept.append(s), now.__setitem__(0, now[0] + s))))
    story, threads = TEST[0], torch.get_num_threads()

    def think(segments, depth, how, told):
        assert (depth, how, torch.get_num_threads()) == (2, "threads", 1)
        assert list(segments) == [stories.ids(s) for s in story.source]
        for after, kind in ((0.5, "unit"), (1.0, "answer"), (2.0, "end")):
            now[0] += after
            told(Of(kind=kind))
        return "thought"

    delay, thought = clock.timed(Of(think=think), clock.ids_of(story), [0.25 * n for n in story.words])
    assert delay == pytest.approx(1.5) and thought == "thought" and torch.get_num_threads() == threads
    assert slept == pytest.approx([0.25 * len(s) for s in story.source])


def test_a_step_is_the_same_step_in_every_way():
    """Of a cache of as many tokens; the joined cache gives what the stock one gives."""
    found = speed.step(0, "smoke")
    assert {*found["ratio"]} == {"views", "concatenation"} and {*found["ms"]} == {"stock", "views", "concatenation"}
    assert all(0 < value < 1000 for value in found["ms"].values()) and issubclass(baselines.Impatient, Reasoner)


def test_rounds_take_turns_and_the_first_two_do_not_count(monkeypatch):
    ticks = iter([x for i in range(5) for way in (1.0, 2.0, 4.0) for x in (0.0, way * (1000 if i < 2 else i))])
    monkeypatch.setattr(speed, "time", Of(perf_counter=lambda: next(ticks)))
    found = speed.step(0, "smoke")
    assert found["ratio"] == {"views": 2.0, "concatenation": 4.0}
    assert found["ms"] == {"stock": 3000.0, "views": 6000.0, "concatenation": 12000.0}


def test_what_is_timed_is_one_step_behind_the_same_tokens(monkeypatch):
    seen = []
    original = speed.load

    def load(spec):
        loaded = original(spec)
        assert (spec.config["num_hidden_layers"], spec.seed) == (1, 3)
        loaded.model.register_forward_hook(lambda module, args, options, out: seen.append(
            (options["input_ids"].shape[-1], options.get("position_ids"), options["past_key_values"].get_seq_length())), with_kwargs=True)
        return loaded

    monkeypatch.setattr(speed, "load", load)
    speed.step(3, "smoke")
    stock = [(n, int(at), held) for n, at, held in seen if n == 1 and at is not None and at.numel() == 1]
    assert {at for _, at, _ in stock} == {4} and {held for _, _, held in stock} == {60 + 4 + 1}
