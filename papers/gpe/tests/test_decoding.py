"""decoding.py, session.py: each decoder gives the logits of the training pass, sees what has been read, and costs what it should.

In double precision. test_method.py runs the batch decoder on every family; here are all arms at every k, the live session's
logits, and spies on masks and caches.
"""

import copy
from fractions import Fraction

import pytest
import torch

from common.benchmarks.translation import (
    average_lagging,
    average_proportion,
    differentiable_average_lagging,
    length_adaptive_average_lagging,
)
from common.streaming.units import Example
from common.streaming.words import Boundary
from tests.numerics import close, far

from .. import method
from ..analytic import EXAMPLE, Sentence, cost
from ..decoding import _Streams, stream
from ..method import ARMS, arm
from ..segments import Batch, readable
from ..session import Session

KINDS = ("ends", "opens")
MARKED = ("ends", pytest.param("opens", marks=pytest.mark.numerics))  # one way is enough for the run with other kernels
PAIRS = [("llama", "sdpa"), ("qwen3", "eager"), ("gemma2", "eager"), ("phi3", "sdpa")]
LIVE = ("group", "batch_streaming", "position_reencoding", "no_source_positions", "no_target_positions", "no_positions")
KS = (1, 2, 5, 99, None)
FEW = {"ends": KS, "opens": (1, None)}  # how a word's end is seen does not depend on how many are waited for


@torch.no_grad()
def training_logits(model, a, batch):
    return method.forward(model, a, batch.source, batch.target, batch.layout)


def fresh_logits(model, source, target):
    """The stock model's last row on [source][target]."""
    with torch.no_grad():
        return model(input_ids=torch.cat([source, target])[None], use_cache=False).logits[0, -1]


def same(got, expected):
    """Where got is finite: what may not be written is at minus infinity."""
    usable = got.isfinite()
    assert usable.any()
    close(got[usable], expected[usable])


# -- the stock model ---------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("pair", [*PAIRS, ("llama", "eager")], ids="-".join)
def test_phi_of_s_with_everything_read_is_the_stock_model(decoder, pair, sentences):
    """The stock model builds its own ids and its own mask."""
    model = decoder(*pair)
    for example in sentences:
        n, batch = len(example.source), Batch.of([example], [example.n_units + 1])
        ids = torch.cat([batch.source, batch.target], 1)
        with torch.no_grad():
            stock = model(input_ids=ids, use_cache=False).logits[0, n - 1 : -1]
        close(training_logits(model, arm("group", n), batch)[0], stock)


# -- training is decoding ----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", MARKED)
@pytest.mark.parametrize("name", [n for n in ARMS if not ARMS[n].refresh])
def test_a_batch_of_streams_has_the_logits_of_training(decoder, sentences, boundaries, name, kind):
    """Every target row, padded batch, words of one and two tokens, a sentence of one word, k beyond all of them."""
    model, a = decoder(), arm(name, 0.5 if name == "group" else 0)
    for k in FEW[kind]:
        expected = training_logits(model, a, Batch.of(sentences, [k] * len(sentences)))
        outs = stream(model, a, sentences, boundaries[kind], k, forced=True, keep_logits=True)
        for b, (example, out) in enumerate(zip(sentences, outs)):
            first, words = example.target_units[0], len(example.target_units) - 2
            assert len(out.logits) == len(example.target) - first
            same(torch.stack(out.logits), expected[b, first : len(example.target)])
            assert out.delays == [min((k or 99) + j, example.n_units) for j in range(words)]
            assert [t for word in out.words for t in word] == example.target[first:-1].tolist()


class Forced(Session):
    """Writes an example's target and keeps the logits that each token was chosen by; the last choice counts."""

    def __init__(self, model, a, boundary, example):
        first = example.target_units[0]
        super().__init__(model, a, boundary, example.target[:first].tolist())
        self.script, self.kept = example.target.tolist(), {}

    def _choose(self, logits, inside):
        at = len(self.target) + len(self.pending)
        assert not self.pending
        self.kept[at] = logits
        return self.script[at]


def play(session, example, k):
    """Wait-k by hand: reads what unit j may see, then writes it."""
    units, read = torch.split(example.source, list(example.source_units)), 0
    for j, goal in enumerate(readable(example, k)[1:].tolist()):
        for unit in units[read:goal]:
            session.read(unit)
        read = goal
        following = readable(example, k)[min(j + 2, len(example.target_units) - 1)]
        session.write(more_source=int(following) > goal)
    return session


@pytest.mark.parametrize("kind", MARKED)
@pytest.mark.parametrize("pair", PAIRS[:3], ids="-".join)
def test_a_live_session_has_the_logits_of_training(decoder, sentences, boundaries, pair, kind):
    """Position re-encoding among them: turned keys in a cache against two frames in one pass."""
    model = decoder(*pair)
    for name in LIVE:
        a = arm(name, 0.5 if name == "group" else 0)
        for k in FEW[kind] if pair == PAIRS[0] else (2,):
            for example in sentences[1:] if k in (1, 2) else sentences[2:]:
                session = play(Forced(model, a, boundaries[kind], example), example, k)
                rows = range(example.target_units[0], len(example.target))
                assert session.ended and sorted(session.kept) == list(rows)
                expected = training_logits(model, a, Batch.of([example], [k]))[0]
                same(torch.stack([session.kept[t] for t in rows]), expected[rows.start :])


@pytest.mark.parametrize("kind", MARKED)
def test_kv_re_encoding_in_both_decoders_is_a_fresh_pass_at_every_token(decoder, sentences, boundaries, kind):
    model, a = decoder(), arm("kv_reencoding")
    for k in FEW[kind]:
        outs = stream(model, a, sentences, boundaries[kind], k, forced=True, keep_logits=True)
        for example, out in zip(sentences, outs):
            session = play(Forced(model, a, boundaries[kind], example), example, k)
            may_see, first = readable(example, k), example.target_units[0]
            unit_of = [j for j, tokens in enumerate(example.target_units) for _ in range(tokens)]
            for t in range(first, len(example.target)):
                read = sum(example.source_units[: int(may_see[unit_of[t]])])
                fresh = fresh_logits(model, example.source[:read], example.target[:t])
                same(out.logits[t - first], fresh)
                same(session.kept[t], fresh)


def test_ids_of_figure_1_are_those_that_decoding_feeds(decoder, monkeypatch):
    """Read 2, write 2, read 1, write 1, all of one token. A word's end is known, so u_2 is read before v_1 is fed."""
    example = Example.of_units([[1], [5], [6]], [[3], [7], [8]])  # u_0 u_1 | v_0 v_1 | u_2 | v_2
    model, ids = decoder(), []
    original = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **more: ids.append(more["position_ids"].item()) or original(*a, **more))
    boundary = Boundary("ends", torch.ones(200, dtype=torch.bool), 199)  # every token is a word; the stop is none of them
    for name, phi, expected in (
        ("interleaved", 0, [0, 1, 2, 3, 4, 5]),  # u_0 u_1 v_0 v_1 u_2 v_2, as they arrive
        ("batch_streaming", 0, [0, 1, 2, 2, 3, 5]),  # u_0 u_1 v_0 u_2 v_1 v_2
        ("group", 0.5, [0, 1, 0.5, 2, 1.5, 2.5]), ("contiguous", 0, [0, 1, 3, 2, 4, 5]),
        ("kv_reencoding", 0, [0, 1, 2, 2, 3, 4, 5]),  # v_0 at 2, and again at 3 once u_2 is there
    ):  # fmt: skip
        ids.clear()
        stream(model, arm(name, phi), [example], boundary, 1, forced=True)
        assert ids == expected, name


# -- nothing unread ----------------------------------------------------------------------------------------
@pytest.mark.numerics
@torch.no_grad()
def test_unread_words_move_no_hidden_state_of_any_layer(decoder, sentences):
    example, k = sentences[1], 2
    batch = Batch.of([example], [k])
    for name in ("group", "batch_streaming", "finished_frozen"):
        for pair in PAIRS:
            model, a = decoder(*pair), arm(name)
            mask = method.attention_mask(a, batch.layout)
            if pair[1] == "eager":
                mask = torch.zeros(mask.shape, dtype=model.dtype).masked_fill(~mask, torch.finfo(model.dtype).min)

            def states(source, model=model, a=a, mask=mask):
                out = model(input_ids=torch.cat([source, batch.target], 1), attention_mask=mask, use_cache=False,
                            position_ids=method.position_ids(a, batch.layout), output_hidden_states=True)
                return [*out.hidden_states, out.logits]

            before, n, units = states(batch.source), batch.layout.n_source, example.target_units
            for j in range(1, len(units) - 1):
                unread = sum(example.source_units[: int(readable(example, k)[j])])
                if unread >= n:
                    break
                other = batch.source.clone()
                other[:, unread:] = (other[:, unread:] + 11) % 100 + 6
                after, rows = states(other), n + sum(units[: j + 1]) - 1  # rows that predict tokens of units <= j
                assert len(after) == 4
                for x, y in zip(before, after):
                    close(y[:, :unread], x[:, :unread])
                    close(y[:, n:rows], x[:, n:rows])
                far(after[-1][:, rows], before[-1][:, rows])  # the word that j + 1 may see is seen
            assert j > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["group", "interleaved", "position_reencoding", "kv_reencoding"])
def test_no_column_of_an_unread_word_is_in_the_cache(decoder, sentences, boundaries, monkeypatch, name, kind):
    """A spy of every step and row: source columns that exist, and are seen, against what the words written so far allow."""
    model, k = decoder(), 2
    original, steps = model.forward, []

    def spy(*args, **more):
        mask = more["attention_mask"][:, 0, 0]
        assert mask.dtype == torch.bool and mask.shape[1] == more["past_key_values"].get_seq_length() + 1
        steps.append(mask)
        return original(*args, **more)

    monkeypatch.setattr(model, "forward", spy)

    class Watched(_Streams):
        def _feed(self, source, target):
            logits = super()._feed(source, target)
            mask = steps[-1]
            for row in range(self.n):
                example = self.examples[row]
                unit = 1 + min(int(self.n_words[row]), len(example.target_units) - 2)
                allowed = sum(example.source_units[: int(readable(example, k)[unit])])
                exists = int((self.is_source[row] & self.alive[row]).sum())
                assert exists == int(self.pointer[row]) + int(source[row]) <= allowed
                if target[row]:  # a target token sees all that was read, and no column without a token
                    seen = int((mask[row] & self.is_source[row]).sum())
                    assert seen == exists and (seen == allowed or self.arm.interleaved)
                    assert not (mask[row] & ~self.alive[row]).any()
            return logits

    outs = Watched(model, arm(name), sentences, boundaries[kind], k, 64, True, False, None).run()
    assert len(steps) >= max(out.fed for out in outs)


def test_a_session_is_given_one_unit_at_a_time_and_holds_no_other(decoder, sentences, boundaries):
    example = sentences[0]
    session, seen = Forced(decoder(), arm("group"), boundaries["ends"], example), []
    write = session.write
    session.write = lambda more_source: (write(more_source), seen.append(session.cache.source_length))
    play(session, example, 2)
    ends = torch.tensor(example.source_units).cumsum(0)
    assert seen == ends[readable(example, 2)[1:] - 1].tolist()
    assert session.cache.layers[0].part("source")[0].shape[-2] == seen[-1]


# -- what it costs -----------------------------------------------------------------------------------------
def units_of(sentence, opens=1, inside=2):
    return Example.of_units(*([[opens] + [inside] * (n - 1) for n in side] for side in (sentence.source, sentence.target)))


OPENING = Boundary("opens", torch.tensor([False, True] + [False] * 161), 162)  # 1 opens a word, 162 ends the text
MODE = {"interleaved": "interleaved", "group": "group", "position": "position_reencoding", "kv": "kv_reencoding"}


@pytest.mark.parametrize("mode", MODE)
@pytest.mark.parametrize("k", [1, 5, 21])
def test_batch_decoder_feeds_and_attends_what_the_specification_counts(decoder, monkeypatch, mode, k):
    """Tokens and (query, key) pairs, by a spy on the masks: 83 and 3486 in arrival order at every k, 479 and 22638 for KV at 1."""
    model, pairs = decoder(), []
    original = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **more: pairs.append(int(more["attention_mask"].sum())) or original(*a, **more))
    out = stream(model, arm(MODE[mode]), [units_of(EXAMPLE)], OPENING, k, forced=True)[0]
    expected = cost(EXAMPLE, k, mode)
    assert (out.fed, len(pairs), sum(pairs)) == (expected.fed, expected.fed, expected.pairs)
    if mode == "interleaved":
        assert (out.fed, sum(pairs)) == (83, 3486)
    assert out.delays == [min(k + j, 20) for j in range(20)] + [20]  # the end unit is written as a word here


# -- how late ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("x, y, k, al, ap, dal", [
    *((20, 20, k, k, ap, k) for k, ap in ((1, ".5250"), (3, ".6175"), (5, ".7000"), (7, ".7725"), (9, ".8350"))),
    (20, 24, 1, "2.5833", ".6042", "2.8472"), (20, 24, 3, "4.4167", ".6813", "4.7708"),
    (20, 24, 5, "6.2500", ".7500", "6.6667"), (20, 24, 7, "8.0833", ".8104", "8.5347"),
    (20, 16, 1, "-0.8750", ".4250", 1), (20, 16, 3, "1.1250", ".5250", 3), (20, 16, 5, "3.1250", ".6250", 5),
    (20, 16, 7, "5.3750", ".7156", 7), (4, 4, 5, 4, "1", 4),
])  # fmt: skip
def test_latency_of_logged_delays_is_that_of_the_specification(decoder, boundaries, x, y, k, al, ap, dal):
    """Table 7.1 from delays that a stream wrote down, in exact fractions."""
    out = stream(decoder(), arm("group"), [units_of(Sentence((1,) * (x + 2), (1,) * (y + 1)))], OPENING, k, forced=True)[0]
    assert out.delays == [min(k + j, x) for j in range(y)]

    def shown(function, text):
        value, decimals = function([Fraction(d) for d in out.delays], x, y), len(str(text).partition(".")[2])
        assert f"{float(value):.{decimals}f}" == (f"0{text}" if str(text).startswith(".") else str(text))
        return value

    assert shown(average_lagging, al) == shown(length_adaptive_average_lagging, al)
    shown(average_proportion, ap)
    shown(differentiable_average_lagging, dal)
    if (y, k) == (24, 3):  # the same words against a reference of 16: writing too much
        assert average_lagging([Fraction(d) for d in out.delays], x, y) == Fraction(53, 12)
        assert average_lagging([Fraction(d) for d in out.delays], x, 16) == Fraction(7, 8)
        assert length_adaptive_average_lagging([Fraction(d) for d in out.delays], x, 16) == Fraction(53, 12)


# -- free streams ------------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("name", ["group", "interleaved", "position_reencoding", "kv_reencoding", "finished_frozen"])
def test_a_stream_writes_the_same_alone_and_among_others(decoder, sentences, boundaries, name):
    """Rows end at different times and leave the batch; what is left must not notice."""
    model, rows, limits = decoder(), sentences * 2, [3, 14, 7, 9, 20, 1, 12, 5]
    for kind in KINDS:
        together = stream(model, arm(name), rows, boundaries[kind], 2, max_target=limits)
        for example, limit, out in zip(rows, limits, together):
            alone = stream(model, arm(name), [example], boundaries[kind], 2, max_target=limit)[0]
            assert (out.words, out.delays, out.truncated, out.fed) == (alone.words, alone.delays, alone.truncated, alone.fed)
            assert sum(map(len, out.words)) <= limit and len(out.delays) == len(out.words)
            assert out.truncated == (sum(map(len, out.words)) == limit)


def test_banned_and_unknown_ids_are_never_written(decoder, sentences, boundaries):
    model, b = decoder(), boundaries["ends"]
    free = stream(model, arm("group"), sentences, b, 1, max_target=20)
    used = {t for out in free for word in out.words for t in word}
    without = stream(model, arm("group"), sentences, b._replace(banned=tuple(used)), 1, max_target=20)
    assert used and not used & {t for out in without for word in out.words for t in word}
    narrow = Boundary("ends", b.table[:50], 4)  # the head has 163 rows
    low = stream(model, arm("group"), sentences, narrow, 1, max_target=20)
    assert max(used) >= 50 > max(t for out in low for word in out.words for t in word)


def test_after_a_read_what_follows_opens_a_word(decoder, sentences, boundaries):
    """A word that was ended before a READ is not gone on with, whatever the model now prefers."""
    b = boundaries["opens"]
    for out in stream(decoder(), arm("group"), sentences, b, 1, max_target=30):
        opened = [bool(b.table[word[0]]) for word in out.words]
        assert all(opened[1:]) and not any(b.table[t] for word in out.words for t in word[1:])


# -- training with a half ----------------------------------------------------------------------------------
def test_phi_of_a_half_trains_and_streams(decoder, sentences, boundaries):
    """The released code cannot run it (its range() refuses a float)."""
    model, a, batch = copy.deepcopy(decoder()).train(), arm("group", 0.5), Batch.of(sentences, [1, 3, 5, None])
    ids = method.position_ids(a, batch.layout)
    assert ids.is_floating_point() and ids[0, batch.layout.n_source :].tolist() == [t + 0.5 for t in range(batch.layout.n_target)]
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(30):
        logits = method.forward(model, a, batch.source, batch.target, batch.layout)
        losses.append(method.loss_sum(logits, batch.target, batch.scored) / batch.scored.sum())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 < 1 < losses[0]
    # What was learned by heart comes out of a stream, each at the k that it was trained with.
    for example, k in zip(sentences, (1, 3, 5, None)):
        out = stream(model.eval(), a, [example], boundaries["ends"], k)[0]
        assert [t for word in out.words for t in word] == example.target[example.target_units[0] : -1].tolist()
