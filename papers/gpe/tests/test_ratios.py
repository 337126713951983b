"""READ and WRITE beside a plain step: what is timed is one pass of one token each, and the quantities by hand."""

import pytest
import torch

from common.models import load, tiny
from tests.numerics import drawn

from .. import quantities_ratios, tables
from ..experiments import ratios
from ..experiments.ratios import Plain, session_at
from .test_words import judged


@pytest.fixture(scope="module")
def model():
    return load(tiny("llama")).model


@pytest.mark.parametrize("length", [4, 16])
def test_a_read_and_a_write_are_one_pass_of_one_token(model, length):
    session = session_at(model, length, "group")
    assert session.cache.source_length == session.cache.target_length == length // 2
    for number in range(3):
        before = session.counts.fed, session.counts.reads, session.counts.writes
        session.read([1])
        word = session.write()
        assert word.tokens == [1] and not word.ended
        assert (session.counts.fed, session.counts.reads, session.counts.writes) == (before[0] + 2, before[1] + 1, before[2] + 1)
        assert session.cache.source_length == session.cache.target_length == length // 2 + 1 + number


def test_the_placebo_writes_the_whole_target_again(model):
    session = session_at(model, 16, "kv_reencoding")
    session.read([1])
    before = session.counts.fed
    session.write()
    assert session.counts.fed - before == 8 + 1  # what was fed, and the word chosen before this READ


def test_the_plain_step_goes_on_behind_its_cache(model):
    plain = Plain(model, model.config, 6, more=4)
    assert plain.cache.get_seq_length() == 6
    for number in (7, 8):
        plain.step()
        assert plain.cache.get_seq_length() == number and plain.at == number


def test_the_plain_step_is_the_stock_models():
    """The same cache in stock layers gives the same token."""
    from transformers import DynamicCache

    model = load(tiny("llama")).model.double()
    plain, stock = Plain(model, model.config, 6, more=2), DynamicCache(config=model.config)
    for layer, room in enumerate(plain.cache.layers):
        stock.update(room.keys.clone(), room.values.clone(), layer)
    with torch.no_grad():
        out = model(input_ids=torch.tensor([[1]]), position_ids=torch.tensor([[6]]), past_key_values=stock, use_cache=True)
    assert plain.step() == int(out.logits[0, -1].argmax())


def test_each_pass_is_timed_apart_and_a_rounds_plain_time_is_the_mean_of_two(monkeypatch):
    """On a clock that the passes themselves move: 1 for a plain step and 4 for the next, 10 a READ, 100 a WRITE, 1000 the source anew."""
    now, plain = [0.0], [1.0, 4.0] * 3

    def costs(seconds):
        def cost(*arguments, **options):
            now[0] += seconds() if callable(seconds) else seconds
            return torch.zeros(1)
        return cost

    monkeypatch.setattr(ratios.Plain, "__init__", lambda *arguments, **options: None)
    monkeypatch.setattr(ratios.Plain, "step", costs(lambda: plain.pop(0)))
    monkeypatch.setattr(ratios.OneWord, "read", costs(10.0))
    monkeypatch.setattr(ratios.OneWord, "write", costs(100.0))
    monkeypatch.setattr(ratios, "session_at", lambda model, length, arm: object.__new__(ratios.OneWord))

    whole = costs(1000.0)
    whole.config = None
    found = ratios.at_length(whole, 4, rounds=2, anew=1, clock=lambda: now[0])
    assert found == {"plain": [2.5, 2.5], "read": [10, 10], "write": [100, 100], "read anew": [1000], "write anew": [100]}


def test_the_job_and_its_table():
    job, *_ = ratios.jobs("smoke")
    results = {job.name: ratios.one_process(**job.arguments)}
    rows = results[job.name]["seconds"]
    assert set(rows) == {"4", "16"} and all(len(of[way]) == 2 and min(of[way]) > 0 for of in rows.values() for way in of)
    assert len(list(tables.ratios(results))) == 4
    assert [job.name for job in ratios.jobs()] == [f"ratios/process{i}" for i in range(3)]


def test_quantities_by_hand():
    """Of each process the length at which it costs most, by its median round; not the same length in all."""
    ways = ("plain", "read", "write", "read anew", "write anew")
    results = {f"ratios/process{i}": {"seconds": {length: {
        way: [drawn(i, length, way, n, low=1.0, high=9.0) for n in range(2 if "anew" in way else 3)] for way in ways}
        for length in ("16", "256", "1500")}} for i in range(3)}
    measured = quantities_ratios.live(results | {"other": {}})
    for claim, way, anew in (("C16a", "read", "read anew"), ("C16b", "write", "write anew")):
        expected, control, at = [], [], set()
        for of in (results[f"ratios/process{i}"]["seconds"] for i in range(3)):
            by = {length: sorted(a / b for a, b in zip(row[way], row["plain"]))[1] for length, row in of.items()}
            expected.append(max(by.values()))
            at.add(max(by, key=by.get))
            control.append(max(sum(row[anew]) / 2 / sorted(row["plain"])[1] for row in of.values()))
        assert measured[claim]["per_seed"] == pytest.approx(expected, rel=1e-12), claim
        assert measured[claim]["placebo"]["per_seed"] == pytest.approx(control, rel=1e-12), claim
        assert len(at) > 1, "one length is the largest in every process: the choice is not tested"
        assert set(measured[claim]["baselines"]) == {f"{each} / plain, {length} tokens"
                                                     for each in (way, anew) for length in ("16", "256", "1500")}


@pytest.mark.parametrize("step, anew, expected", [(1.1, 9.0, "supports"), (1.3, 9.0, "opposes"), (1.1, 1.1, "inconclusive")])
def test_words_follow_the_clock(step, anew, expected):
    """The largest of two lengths, in three processes; the placebo that costs no more leaves it open."""
    rows = {"plain": [1.0, 1.0], "read": [step, step], "write": [step, step], "read anew": [anew], "write anew": [anew]}
    results = {f"ratios/process{i}": {"seconds": {"16": dict.fromkeys(rows, [1.0, 1.0]), "256": {
        way: [x * (1 + 0.001 * i * (way != "plain")) for x in of] for way, of in rows.items()}}} for i in range(3)}
    for claim, measured in quantities_ratios.live(results).items():
        assert judged(claim, measured)["word"] == expected, claim
