"""A live session, the batched decoder and one masked pass: the same tokens, delays, probes, and the same states."""

import random

import pytest
import torch

from common.models import load, tiny
from common.streaming.units import Example
from common.streaming.words import Boundary
from tests.numerics import close

from .. import baselines, heads, method
from ..data import batch_of
from ..decoding import decode
from ..heads import Probe
from ..session import Session, run

STOP, V = 0, 40
ENDS = Boundary("ends", torch.arange(V) % 3 != 1, STOP, (2,))
OPENS = Boundary("opens", torch.arange(V) % 2 == 0, STOP, (3,))


class Lots(baselines.Random):
    """Draws that follow from what is read and written alone, so that two ways to decode draw alike."""

    def write(self, probe):
        key = probe.read * 31 + torch.as_tensor(probe.written) * 17 + 5
        return (key * 2654435761 % 97) / 97 < self.chance


def example(rng, m, header=2):
    units = [[rng.randrange(4, V) for _ in range(rng.randint(1, 2))] for _ in range(m + 2)]
    return Example.of_units(units, [[5] * header, [7], [STOP]])


def sessions(model, examples, policy, boundary, most):
    found = []
    for e in examples:
        session = Session(model, policy, boundary, e.target[: e.target_units[0]].tolist(), max_unit=10**6)
        parts = [unit.tolist() for unit in e.source.split(list(e.source_units))]
        units, delays = [], []
        for tokens, read in run(session, iter(parts[:-1]), parts[-1]):
            units.append(tokens)
            delays.append(read)
            if sum(map(len, units)) >= most:
                break
        found.append((session, units, delays))
    return found


POLICIES = [heads.Decide(heads.Entropy(), 0.25), heads.Decide(heads.Margin(), 0.1), heads.Decide(heads.Attention("mass", (0, -1)), 0.35),
            Lots(0.3), baselines.WaitK(2), baselines.WaitK(3, 0.5), baselines.Always(True), baselines.Always(False),
            heads.Decide(heads.MaxProb(), 2.0)]


@pytest.mark.parametrize("boundary", [ENDS, OPENS], ids=["ends", "opens"])
def test_the_decoder_is_the_session(boundary):
    """Tokens, delays, and every probe counted with its pairs; answers end, or are cut at the same token."""
    rng = random.Random(3)
    model = load(tiny(vocab_size=V, initializer_range=0.5, seed=1)).model
    examples, most, ended = [example(rng, m) for m in (1, 4, 0, 7, 5)], 12, 0  # one of them empty
    for policy in POLICIES:
        batch = decode(model, examples, policy, boundary, most)
        for out, (session, units, delays) in zip(batch, sessions(model, examples, policy, boundary, most)):
            n = min(len(out.units), len(units)) - out.truncated
            assert out.units[:n] == units[:n] and out.delays[:n] == delays[:n], type(policy).__name__
            if session.ended and not out.truncated:
                ended += 1
                assert out.units == units and out.delays == delays
                assert (out.probes, out.failed, out.wasted, out.fed_again) == (
                    session.probes, session.wasted.probes, session.wasted.pairs, session.wasted.fed), type(policy).__name__
                assert (out.pairs, out.fed) == (session.counts.pairs, session.counts.fed), type(policy).__name__
    assert ended >= 5


class Told(baselines.Random):
    """Follows a path: reads until phi(t), probing in between; keeps the logits of every probe that writes."""

    def __init__(self, path):
        super().__init__(0.0)
        self.path, self.kept = path, []

    def write(self, probe: Probe):
        if int(probe.read) < self.path[int(probe.written)]:
            return torch.tensor(False)
        return torch.tensor(True)


class Scripted(Session):
    """Writes what it is told, and keeps what every row that stays was computed to."""

    def told(self, script):
        self.script, self.rows = list(script), []
        return self

    def _probe(self):
        token, probe = super()._probe()
        self.last = probe.logits
        return self.script[len(self.rows)], probe

    def write(self, more=True):
        unit = super().write(more)
        if unit is not None:
            self.rows.append(self.last)
        return unit


@pytest.mark.numerics
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_stream_is_one_masked_pass(kind, models, double):
    """Thirty paths a family, a failed probe at every unit that is read: the rows are those of one pass over the whole."""
    rng = random.Random(kind)
    every = Boundary("ends", torch.ones(V, dtype=torch.bool), STOP)
    for _ in range(30):
        m, length = rng.randint(2, 6), rng.randint(1, 3)
        units = [[rng.randrange(1, V) for _ in range(rng.randint(1, 2))] for _ in range(m + 2)]
        words = [[rng.randrange(1, V)] for _ in range(length)]
        e = Example.of_units(units, [[5, 6][: rng.randint(1, 2)], *words, [STOP]])
        path = sorted(rng.randint(1, m + 1) for _ in range(length + 1))
        session = Scripted(models[kind], Told(path), every, e.target[: e.target_units[0]].tolist()).told([w[0] for w in words] + [STOP])
        for _ in run(session, iter(units[:-1]), units[-1]):
            pass
        batch, _ = batch_of([e], [path])
        with torch.no_grad():
            whole = method.forward(models[kind], batch)[0, e.target_units[0] - 1 : -1]
        close(torch.stack(session.rows), whole, rel=1e-12)
        assert session.wasted.probes == path[-1] - 1 and session.ended


def test_a_head_sees_no_length_and_nothing_unread(models, double):
    """The scores of a stream's beginning are the same bits, whatever comes behind it and however much."""
    rng, model = random.Random(5), models["llama"]
    seen = {}

    class Noting(baselines.Random):
        needs = frozenset({"attention", "hidden"})

        def write(self, probe):
            if int(probe.read) <= 3:
                for name, head in (*heads.HEADS.items(), ("linear", linear)):
                    head = head() if isinstance(head, type) else head
                    seen.setdefault((name, int(probe.read)), []).append(head.score(probe).item())
            return torch.tensor(False)

    linear = heads.Linear(model.config.hidden_size)
    start = [[rng.randrange(1, V)] for _ in range(4)]
    for rest in ([[9]], [[11], [12], [13], [14]], [[1] * 3, [2] * 5]):
        units = [*start, *rest]
        session = Session(model, Noting(0.0), ENDS, [5])
        for _ in run(session, iter(units), [1]):
            break
    assert len(seen) == 5 * 3 and all(len(values) == 3 and len(set(values)) == 1 for values in seen.values())
    assert len({values[0] for (name, _), values in seen.items() if name == "entropy"}) == 3


@pytest.mark.parametrize("needs", ["attention", "hidden"])
def test_what_heads_need_is_shown_alike_live_and_in_a_batch(needs, models, double):
    rng, found = random.Random(7), {"live": [], "batch": []}

    class Keeping(baselines.Random):
        def __init__(self, which):
            super().__init__(0.0)
            self.needs, self.which = frozenset({needs}), which

        def write(self, probe):
            found[self.which].append(probe)
            return torch.zeros_like(probe.read, dtype=torch.bool)

    e = example(rng, 4)
    decode(models["llama"], [e], Keeping("batch"), ENDS, 1)
    parts = [unit.tolist() for unit in e.source.split(list(e.source_units))]
    for _ in run(Session(models["llama"], Keeping("live"), ENDS, [5, 5]), iter(parts[:-1]), parts[-1]):
        break
    whole = getattr(found["batch"][0], needs)[0]
    for slot, probe in enumerate(found["live"]):
        ours = getattr(probe, needs)
        close(ours, whole[slot] if needs == "hidden" else whole[slot][..., : ours.shape[-1]], rel=1e-5)
        if needs == "attention":
            assert not ours[..., : e.source_units[0]].any() and not whole[slot][..., ours.shape[-1] :].any()


def test_reading_everything_first_equals_never_being_sure(models, double):
    """The no-op: a head that is never sure writes what batch processing writes, bit for bit, at the end."""
    rng = random.Random(11)
    examples, never = [example(rng, m) for m in (2, 5)], ENDS._replace(stop=99)
    one = decode(models["qwen2"], examples, baselines.Always(False), never, 8)
    other = decode(models["qwen2"], examples, heads.Decide(heads.Entropy(), 2.0), never, 8)
    assert [s.tokens for s in one] == [s.tokens for s in other] and [s.delays for s in one] == [s.delays for s in other]
    for s, e in zip(one, examples):
        assert set(s.delays) == {len(e.source_units) - 2} and s.failed == 0
    early = decode(models["qwen2"], examples, baselines.Always(True), never, 8)
    assert all(s.delays[0] == 1 for s in early)


def test_ragged_ends(models, double):
    """A stream of nothing, an answer that ends at once, one that never ends, an error for what cannot be."""
    model = models["llama"]
    session = Session(model, baselines.Always(True), ENDS, [5])
    assert list(run(session, iter([]), [1])) == [] and session.ended
    session = Session(model, baselines.Always(True), ENDS, [5])
    assert list(run(session, iter([[4]]), [1])) == [] and session.ended and not session.truncated
    stops = Scripted(model, baselines.Always(True), ENDS, [5]).told([STOP])
    assert list(run(stops, iter([[4], [6], [7]]), [1])) == [] and stops.ended and stops.units_read == 1 and stops.write() == []
    never = Scripted(model, baselines.Always(True), ENDS, [5]).told([5] * 99)
    assert len(list(run(never, iter([[4], [6], [7]]), [1], max_units=4))) == 4 and never.truncated
    with pytest.raises(ValueError, match="read the instruction and a unit first"):
        Session(model, baselines.Always(True), ENDS, [5]).write()
    with pytest.raises(ValueError, match="header: a unit without tokens"):
        Session(model, baselines.Always(True), ENDS, [])
    with pytest.raises(ValueError, match="headers have to be of one length"):
        decode(model, [example(random.Random(0), 2, 1), example(random.Random(0), 2, 2)], baselines.Always(True), ENDS)


def test_every_so_many_units_the_model_is_asked(models, double):
    session = Session(models["llama"], heads.Decide(heads.Entropy(), 2.0), ENDS, [5], every=3)
    for _ in run(session, iter([[4], *([6 + i] for i in range(7))]), [1]):
        break
    assert session.wasted.probes == 3  # after 1, 4 and 7 units; the end is WRITE whatever is asked


def test_re_encoding_is_a_batch_over_what_was_read(models, double):
    """All rows see what the last one sees: the answer's states are those of a source that ends there."""
    rng = random.Random(13)
    e = example(rng, 5, 1)
    every = Boundary("ends", torch.ones(V, dtype=torch.bool), 99)
    out = decode(models["llama"], [e], baselines.WaitK(2), every, 4, reencode=True)[0]
    written = []
    for phi in (2, 3, 4, 5):
        n = sum(e.source_units[: phi + 1])
        source, target = e.source[None, :n], torch.tensor([[5, *written]])
        lengths = torch.tensor([n]), torch.tensor([target.shape[1]])
        rows = method.Batch(source, target, torch.full_like(target, n), *lengths, torch.ones_like(target, dtype=torch.bool))
        with torch.no_grad():
            written.append(int(method.forward(models["llama"], rows)[0, -1].argmax()))
    assert out.tokens == written and out.delays == [2, 3, 4, 5]


@pytest.mark.parametrize("boundary", [ENDS, OPENS], ids=["ends", "opens"])
def test_an_empty_source_has_an_empty_answer_live_and_in_batches(boundary):
    rng, model = random.Random(3), load(tiny(vocab_size=V, initializer_range=0.5, seed=1)).model
    empty, full = example(rng, 0), example(rng, 4)
    for policy in POLICIES:
        assert decode(model, [], policy, boundary) == []
        alone, beside, among = decode(model, [empty], policy, boundary)[0], *decode(model, [empty, full], policy, boundary, 12)
        assert among == decode(model, [full], policy, boundary, 12)[0]
        for out in (alone, beside):
            assert (out.units, out.delays, out.probes, out.ended_at, out.truncated) == ([], [], 0, 0, False)
        session, units, delays = sessions(model, [empty], policy, boundary, 12)[0]
        assert (units, delays, session.probes, session.truncated) == ([], [], 0, False)


# -- as a library ------------------------------------------------------------------------------------------
def test_a_model_in_training_mode_answers_as_in_eval_mode_and_stays_in_its_mode():
    """Dropout would draw every probe anew."""
    model = load(tiny("qwen2", vocab_size=V, attention_dropout=0.5, initializer_range=0.4, seed=3)).model.double()
    examples = [example(random.Random(seed), 6) for seed in range(3)]
    policies = (heads.Decide(heads.MaxProb(), 0.2), heads.Decide(heads.Attention("mass", (0, -1)), 0.35))
    wanted, at_once = ([way(model, examples, policy, OPENS, 12) for policy in policies] for way in (sessions, decode))
    model.train()
    model.get_input_embeddings().eval()
    found = [sessions(model, examples, policy, OPENS, 12) for policy in policies]
    assert [[row[1:] for row in rows] for rows in found] == [[row[1:] for row in rows] for rows in wanted]
    assert [decode(model, examples, policy, OPENS, 12) for policy in policies] == at_once
    assert model.training and not model.get_input_embeddings().training


def test_a_session_is_of_one_stream():
    """Read into the same caches, a second text would be answered together with the first."""
    model = load(tiny("qwen2", vocab_size=V)).model
    session = Session(model, baselines.WaitK(1), ENDS, [5, 5])
    list(run(session, iter([[6], [7], [8]]), [9], max_units=2))
    before = session.streams.source_length
    with pytest.raises(ValueError, match="2 units of another stream; make a new Session"):
        next(run(session, iter([[6], [10]]), [9]))
    assert session.streams.source_length == before


def test_a_threshold_is_a_number_of_a_known_kind():
    even = heads.Probe(torch.zeros(7), torch.tensor(1), torch.tensor(0))
    assert 0 <= heads.Entropy().score(even) < 1e-6 and heads.Entropy().score(heads.Probe(torch.full((50_257,), 3.7), *even[1:3])) >= 0
    for scores, more, says in (([0.1, float("nan")], {}, "1 of 2 scores"), ([0.1, float("inf")], {}, "no number"), ([], {}, "0 scores"),
                               ([0.1], {"mode": "batched"}, "not batch or stream"), ([0.1], {"q": float("nan")}, "q = nan")):
        with pytest.raises(ValueError, match=says):
            heads.threshold(scores, **{"q": 0.9} | more)
    for wrong in (lambda: baselines.WaitK(float("nan")), lambda: baselines.WaitK(1, float("inf")), lambda: baselines.Random(1.5)):
        with pytest.raises(ValueError):
            wrong()
