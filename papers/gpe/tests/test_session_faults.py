"""session.py, misused or broken off: what would give other words without a sign is refused at once, by name, or mended."""

import math

import numpy as np
import pytest
import torch

from common.errors import ModelError
from common.models import load, tiny
from common.streaming.words import Boundary

from .. import method
from ..session import Chosen, Session, Word, run
from .double import Double

V, WIDTH, STOP = 40, 32, 39
ENDS = Boundary("ends", torch.arange(V) % 2 == 0, STOP)
OPENS = Boundary("opens", torch.arange(V) % 3 == 0, STOP)
UNITS, ENDING = [[1, 2], [5], [6, 7], [8]], [3]
GROUP = method.arm("group")


def made(**more):
    return load(tiny("llama", vocab_size=V, num_hidden_layers=2, hidden_size=WIDTH, initializer_range=0.5, **more)).model


@pytest.fixture(scope="module")
def model():
    return made()


def session_of(model, arm=GROUP, boundary=ENDS, opening=(4,), **more):
    return Session(model, arm, boundary, opening, **more)


def words_of(model, units=UNITS, k=2, **more):
    return list(run(session_of(model, **more), units, ENDING, k, max_words=6))


# -- one text ----------------------------------------------------------------------------------------------
def unread(session):
    session.ended = True  # as an agent does for an empty source


def begun(session):
    next(run(session, UNITS, ENDING, 1))


def broken_off(session):
    def units():
        yield [1]
        raise OSError("the microphone is gone")

    with pytest.raises(OSError, match="microphone"):
        next(run(session, units(), ENDING, 1))


@pytest.mark.parametrize("use, read", [
    (lambda session: list(run(session, UNITS, ENDING, 1, 3)), 6), (lambda session: session.read([1]), 1), (begun, 3), (broken_off, 1),
    (unread, 0)], ids=["a text", "a read", "half a text", "half a source", "ended"])  # fmt: skip
def test_a_session_is_of_one_text(model, use, read):
    """A second one would be read behind the first, its instruction as a word of it."""
    session = session_of(model, boundary=Boundary("ends", torch.ones(V, dtype=torch.bool), STOP, banned=(STOP,)))
    use(session)
    with pytest.raises(ValueError, match=f"of another text, {read} tokens of which have been read.*make a new Session"):
        run(session, UNITS, ENDING, 1)
    assert session.cache.source_length == read


def test_of_two_runs_of_one_session_only_the_first_runs(model):
    session = session_of(model)
    first, second = (run(session, UNITS, ENDING, 2, max_words=6) for _ in range(2))
    assert list(first) == words_of(model)
    with pytest.raises(ValueError, match="make a new Session"):
        next(second)


# -- what is given -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("more, says", [
    *[({"k": k}, f"run: k = {k!r}: a whole number, 1 or more, or None") for k in (0, -1, 2.5, True, math.nan, "3")],
    *[({"max_words": most}, f"run: max_words = {most!r}: a whole number, 0 or more") for most in (-1, 2.5, None, True)],
    ({"ending": []}, "run: ending: a unit without tokens"), ({"ending": [V]}, f"run: ending: token id {V}, where .* 0 to {V - 1}"),
])  # fmt: skip
def test_a_run_is_refused_when_it_is_called(model, more, says):
    session = session_of(model)
    with pytest.raises(ValueError, match=says):
        run(session, UNITS, **{"ending": ENDING, "k": 2} | more)
    assert list(run(session, UNITS, ENDING, np.int64(2), max_words=6)) == words_of(model)  # nothing has been taken from it


def test_of_no_words_at_most_none_is_written(model):
    session = session_of(model)
    assert list(run(session, UNITS, ENDING, 1, max_words=0)) == [] and session.truncated and not session.ended


@pytest.mark.parametrize("more, says", [
    *[({"max_word": most}, f"max_word = {most!r}: a whole number, 1 or more") for most in (0, -1, 2.5, True, None)],
    ({"opening": []}, "opening: a unit without tokens"), ({"opening": [4, V]}, f"opening: token id {V}, where .* 0 to {V - 1}"),
    ({"opening": [-1]}, "opening: token id -1"), ({"opening": torch.zeros(2, WIDTH)}, r"opening: torch.float32 of shape \(2, 32\)"),
    *[({"arm": method.arm("group", phi)}, f"phi {phi}: the first target position is a number") for phi in (math.nan, math.inf, 2.0**24)],
    ({"boundary": ENDS._replace(kind="end")}, "boundary: kind is 'end', not ends or opens"),
])  # fmt: skip
def test_a_session_is_refused_what_it_could_not_write_with(model, more, says):
    with pytest.raises(ValueError, match=says):
        session_of(model, **more)


@pytest.mark.parametrize("unit, says", [
    ([V], f"read: token id {V}, where this model has embeddings of 0 to {V - 1}"), ([1, -1], "read: token id -1"),
    ([True], "torch.bool of shape"), ([[1, 2]], r"torch.int64 of shape \(1, 2\)"), (3, r"torch.int64 of shape \(\)"),
    ("ab", "read: token ids or embeddings, and no str"), (None, "read: token ids or embeddings, and no NoneType"),
    ([2**70], "read: token ids or embeddings, and no list"), (torch.zeros(0, WIDTH), "a unit without tokens"),
    (torch.zeros(2, WIDTH + 1), r"embeddings of shape \(2, 33\), where this model takes \(tokens, 32\)"),
    ([1.0], r"embeddings of shape \(1,\)"), (torch.full((2, WIDTH), math.nan), "all finite"),
])  # fmt: skip
def test_a_unit_that_is_none_is_refused_and_the_stream_goes_on(model, unit, says):
    """Also as one that an iterator gives: None is no end of the source."""
    session = session_of(model)
    for given in UNITS:
        with pytest.raises(ValueError, match=says):
            session.read(unit)
        session.read(given)
    session.read(ENDING)
    assert session.write() == (words_of(model, k=None)[0][0], False) and session.counts.reads == 5
    with pytest.raises(ValueError, match=says):
        list(run(session_of(model), [[1], [5], unit, [6]], ENDING, 1))


@pytest.mark.numerics
def test_embeddings_are_read_as_their_ids(model):
    with Double(), torch.no_grad():
        embedded = [model.get_input_embeddings()(torch.tensor(unit)) for unit in UNITS]
        assert words_of(model, embedded) == words_of(model, [torch.tensor(unit, dtype=torch.int32) for unit in UNITS]) == words_of(model)


def test_a_tokenizer_may_have_more_special_tokens_than_the_model(model):
    """They cannot be written, and need no ban."""
    assert words_of(model, boundary=ENDS._replace(banned=(V, V + 7))) == words_of(model)


# -- the model's mode --------------------------------------------------------------------------------------
@pytest.mark.parametrize("boundary", [ENDS, OPENS], ids=["ends", "opens"])
def test_a_model_in_training_answers_as_in_eval_mode_and_trains_on(boundary):
    """Dropout would draw other words each time. It may train, or be put into another mode, between two words."""
    model = made(attention_dropout=0.5)
    wanted, found = words_of(model, boundary=boundary), []
    model.train()
    model.get_input_embeddings().eval()
    session = session_of(model, boundary=boundary)
    for word in run(session, UNITS, ENDING, 2, max_words=6):
        modes = [part.training for part in (model, model.model.layers[0].self_attn, model.get_input_embeddings())]
        assert modes == ([False] * 3 if len(found) == 1 else [True, True, False])
        found.append(word)
        model.train(len(found) != 1)
        model.get_input_embeddings().eval()
    assert found == wanted and len(found) > 2


# -- broken off --------------------------------------------------------------------------------------------
class Failing:
    """The model's second layer, which ends the pass of that number (0: the next one) with this error; the first has done its part."""

    def __init__(self, model, at, error):
        self.left, self.error = at, error
        self.hook = model.model.layers[1].register_forward_pre_hook(self)

    def __call__(self, module, inputs):
        self.left -= 1
        if self.left < 0:
            self.hook.remove()
            raise self.error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), KeyboardInterrupt()], ids=["memory", "interrupt"])
@pytest.mark.parametrize("step", ["read", "write"])
def test_a_step_that_broke_off_is_not_gone_on_from(step, error):
    """Its first layer would hold more than its second, and the tokens that a word has by then would be missing."""
    model = made()
    model.train()
    session = session_of(model, boundary=Boundary("ends", torch.zeros(V, dtype=torch.bool), STOP, banned=(STOP,)), max_word=4)
    session.read([1, 2])
    Failing(model, 2 if step == "write" else 0, error)
    act = session.write if step == "write" else lambda: session.read([5])
    with pytest.raises(type(error)):
        act()
    assert model.training
    for again in (lambda: session.read([5]), session.write):
        with pytest.raises(ValueError, match="half-way: a read or write broke off.*make a new Session"):
            again()
    with pytest.raises(ValueError, match="make a new Session"):
        run(session, UNITS, ENDING, 1)


def test_a_write_that_came_too_early_leaves_nothing(model):
    """Ids of this arm say how much had been read when a token was given."""
    early, fresh = (session_of(model, method.arm("batch_streaming"), opening=(4, 11)) for _ in range(2))
    with pytest.raises(ValueError, match="nothing has been read yet"):
        early.write()
    early.read([1, 2, 5])
    fresh.read([1, 2, 5])
    assert early.write() == fresh.write() and early.target == fresh.target and early.target[:2] == [Chosen(4, 3), Chosen(11, 3)]


@pytest.mark.numerics
@pytest.mark.parametrize("name", ["group", "batch_streaming", "position_reencoding", "kv_reencoding"])
def test_a_read_that_was_announced_may_not_come(name):
    """The word whose opening was dropped for it is chosen again, with what was read before: the same."""
    with Double():
        announced, none = (session_of(made().double(), method.arm(name), OPENS) for _ in range(2))
        for session in (announced, none):
            session.read([1, 2, 5])
        first, second = ([session.write(more).tokens for _ in range(3)] for session, more in ((announced, True), (none, False)))
        assert first == second and first[1]


def test_logits_that_are_no_numbers_choose_nothing():
    model = made()
    session = session_of(model)
    session.read([1, 2])
    model.lm_head.weight.data[7] = math.nan
    with pytest.raises(ModelError, match=r"prefers no token that may be written next \(a logit of nan\)"):
        session.write()
    session = session_of(made(), boundary=ENDS._replace(banned=tuple(range(V))))
    session.read([1, 2])
    with pytest.raises(ModelError, match=r"a logit of -inf\).*its head has none of these tokens"):
        session.write()


def test_what_is_read_after_the_end_is_answered_with_nothing(model):
    """Who reads ahead cannot know that the text has ended."""
    session = session_of(model, boundary=ENDS._replace(banned=tuple(token for token in range(V) if token != STOP)))
    session.read([1, 2])
    assert session.write() == Word([], True)
    session.read([5])
    assert session.write() == Word([], True) and session.counts.reads == 2 and session.counts.writes == 1
