"""session.py, misused or broken off: what would give another answer without a sign is refused at once, by name."""

import math

import numpy as np
import pytest
import torch

from common.errors import ModelError
from common.models import load, tiny
from common.streaming.words import Boundary

from .. import baselines, heads
from ..session import Session, run

V, WIDTH, STOP = 40, 32, 0
ENDS = Boundary("ends", torch.arange(V) % 3 != 1, STOP, (2,))
UNITS, ENDING = [[6], [7], [8], [9]], [10]


def made():
    return load(tiny("llama", vocab_size=V, num_hidden_layers=2, hidden_size=WIDTH, initializer_range=0.5)).model


@pytest.fixture(scope="module")
def model():
    return made()


def session_of(model, policy=None, boundary=ENDS, header=(5, 5), **more):
    return Session(model, policy or baselines.WaitK(1), boundary, header, **more)


def answer_of(model, units=UNITS, **more):
    return list(run(session_of(model, **more), units, ENDING, max_units=4))


# -- what is given -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("more, says", [
    *[({name: value}, f"{name} = {value!r}: a whole number, 1 or more") for name in ("every", "max_unit")
      for value in (0, -1, 2.5, True, None, math.nan)],
    ({"header": []}, "header: a unit without tokens"), ({"header": [5, V]}, f"header: token id {V}, where .* 0 to {V - 1}"),
    ({"header": [-1]}, "header: token id -1"), ({"boundary": ENDS._replace(kind="end")}, "boundary: kind is 'end', not ends or opens"),
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
    for given in UNITS[:2]:
        with pytest.raises(ValueError, match=says):
            session.read(unit)
        session.read(given)
    assert session.write() == answer_of(model)[0][0] and session.counts.reads == 2
    with pytest.raises(ValueError, match=says):
        list(run(session_of(model, baselines.Always(False)), [[6], [7], unit, [8]], ENDING))


@pytest.mark.parametrize("more, says", [
    *[({"max_units": most}, f"run: max_units = {most!r}: a whole number, 0 or more") for most in (-1, 2.5, True, None)],
    ({"ending": []}, "run: ending: a unit without tokens"), ({"ending": [V]}, f"run: ending: token id {V}"),
])  # fmt: skip
def test_a_run_is_refused_when_it_is_called(model, more, says):
    session = session_of(model)
    with pytest.raises(ValueError, match=says):
        run(session, UNITS, **{"ending": ENDING} | more)
    assert list(run(session, UNITS, ENDING, np.int64(4))) == answer_of(model)  # nothing has been taken from it


def test_of_two_runs_of_one_session_only_the_first_runs(model):
    session = session_of(model)
    first, second = (run(session, UNITS, ENDING, 4) for _ in range(2))
    assert list(first) == answer_of(model)
    with pytest.raises(ValueError, match="units of another stream; make a new Session"):
        next(second)
    with pytest.raises(ValueError, match="make a new Session"):
        run(session, UNITS, ENDING)


def test_a_tokenizer_may_have_more_special_tokens_than_the_model(model):
    """They cannot be written, and need no ban."""
    assert answer_of(model, boundary=ENDS._replace(banned=(2, V, V + 7))) == answer_of(model)


# -- numbers that are none ---------------------------------------------------------------------------------
@pytest.mark.parametrize("head", [heads.Entropy, heads.MaxProb, heads.Margin, heads.Attention])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_choose_nothing(head, value):
    """The entropy of NaN was 0, so that the head was sure, and the token with it was written until the guard."""
    model = made()
    model.lm_head.weight.data[7] = value
    session = session_of(model, heads.Decide(head(), 0.1))
    session.read([6])
    session.read([7])
    with pytest.raises(ModelError, match=r"prefers no token that may be written next \(a logit of (nan|inf)\)"):
        session.write()


def test_where_nothing_may_be_written_that_is_said(model):
    with pytest.raises(ModelError, match=r"a logit of -inf\).*its head has none of these tokens"):
        answer_of(model, boundary=ENDS._replace(banned=tuple(range(V))))


# -- broken off --------------------------------------------------------------------------------------------
class Failing:
    """The model's second layer, which ends the next pass with this error; the first has done its part."""

    def __init__(self, model, error):
        self.error, self.hook = error, model.model.layers[1].register_forward_pre_hook(self)

    def __call__(self, module, inputs):
        self.hook.remove()
        raise self.error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), KeyboardInterrupt()], ids=["memory", "interrupt"])
@pytest.mark.parametrize("step", ["read", "write"])
def test_a_step_that_broke_off_is_not_gone_on_from(step, error):
    """Its first layer would hold more than its second: after a read, the answer was to another source without a sign."""
    model = made()
    model.train()
    session = session_of(model)
    session.read([6])
    session.read([7])
    Failing(model, error)
    act = session.write if step == "write" else lambda: session.read([8])
    with pytest.raises(type(error)):
        act()
    assert model.training
    for again in (lambda: session.read([8]), session.write):
        with pytest.raises(ValueError, match="half-way: a read or write broke off.*make a new Session"):
            again()
    with pytest.raises(ValueError, match="make a new Session"):
        run(session, UNITS, ENDING)
