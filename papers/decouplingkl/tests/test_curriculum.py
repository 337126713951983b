"""The gate by hand, and the curriculum in trainings: a schedule, a fixed length, a kill, a roll-back, all bit for bit."""

import json
import math

import pytest
import torch

from common.errors import SetupError

from ..curriculum import EntropyGatedLength, Gate
from .runs import fit, fit_in_processes, training, weights

pytestmark = pytest.mark.usefixtures("one_thread")

LADDER = dict(ladder=[2, 4, 6], stage_steps=2, prompts=4)


class Scripted(EntropyGatedLength):
    """Entropies are given, the first of them that before training; `kept` are the weights at each stage's end, before the decision."""

    def __init__(self, entropies, **options):
        super().__init__(**(LADDER | options))
        self.entropies, self.kept = list(entropies), []

    def measure(self, pl_module):
        self.kept.append(weights(pl_module))
        return {"entropy": self.entropies.pop(0), "at_cap": 0.0, "length": 1.0}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def lengths(found):
    return [int(row["training length"]) for row in found.history]


# -- the gate ----------------------------------------------------------------------------------------------
def test_advances_iff_the_entropy_is_at_least_the_threshold():
    gate = Gate((10, 20, 40), 0.5, relative=False)
    assert gate.decide(0.5, 3)["action"] == "advance" and gate.length == 20
    row = gate.decide(0.4999, 6)
    assert row == {"step": 6, "stage": 1, "length": 20, "entropy": 0.4999, "threshold": 0.5, "at_cap": None, "passed": False,
                   "action": "rollback", "next_length": 10}
    assert not gate.open and gate.length == 10 and gate.decisions == json.loads(json.dumps(gate.decisions))


@pytest.mark.parametrize("on_fail, length", [("hold", 20), ("stop", 20), ("rollback", 10)])
def test_what_happens_when_the_gate_fails(on_fail, length):
    gate = Gate((10, 20, 40), 0.85, start=1.0, on_fail=on_fail)
    gate.decide(0.9, 1)
    assert gate.decide(0.8, 2)["action"] == on_fail and gate.length == length and not gate.open


@pytest.mark.parametrize("on_fail", ["hold", "stop", "rollback"])
def test_the_length_never_falls_but_by_rolling_back(on_fail):
    """Over 300 random walks of the entropy (acceptance check 8; pitfall 10). The check is about decisions that let training go on:
    rolling back to the length of the stage that passed is a fall, the only one, by one stage, and the last decision there is."""
    import random

    for seed in range(300):
        draw = random.Random(seed)
        ladder = tuple(sorted(draw.sample(range(1, 200), draw.randint(1, 6))))
        gate = Gate(ladder, draw.choice([0.0, 0.3, 0.6, 2.0]), start=1.0, on_fail=on_fail)
        lengths, step = [gate.length], 0
        while gate.open:
            step += 1
            gate.decide(draw.random(), step)
            lengths.append(gate.length)
        steps = [b - a for a, b in zip(map(ladder.index, lengths), map(ladder.index, lengths[1:]))]
        assert all(up == 1 for up in steps[:-1]) and len(gate.decisions) == len(steps)
        if steps:
            fell = on_fail == "rollback" and not gate.decisions[-1]["passed"] and len(steps) > 1
            assert steps[-1] == (-1 if fell else int(gate.decisions[-1]["passed"]))
        with_threshold = [row["entropy"] >= gate.threshold for row in gate.decisions]
        assert with_threshold == [row["passed"] for row in gate.decisions], "on iff the entropy is at least the threshold"
        assert not gate.open and (gate.closed or gate.length == ladder[-1])


def test_relative_ends_and_a_second_gate():
    assert Gate((1, 2), 0.85, start=2.0).threshold == 1.7
    assert Gate((1, 2), 0.0).threshold == 0 and Gate((1, 2), math.inf).threshold == math.inf  # of any start
    with pytest.raises(ValueError, match="not known"):
        Gate((1, 2), 0.5).decide(1.0, 1)
    first = Gate((1, 2), 0.5, start=1.0)
    assert first.decide(0.1, 1)["action"] == "hold" and first.length == 1  # there is no stage to return to
    full = Gate((1, 2), 0.0, max_at_cap=0.2)
    assert full.decide(1.0, 1, at_cap=0.3)["passed"] is False
    end = Gate((1, 2), 0.0)
    end.decide(1.0, 1)
    assert not end.open and not end.closed


@pytest.mark.parametrize("options, says", [
    (dict(ladder=()), "ladder"), (dict(ladder=(4, 4)), "each above the one before"), (dict(ladder=(0, 4)), "ladder"),
    (dict(h_min=-1.0), "h_min is -1"), (dict(h_min=math.nan), "h_min is nan"), (dict(on_fail="retry"), "on_fail is 'retry'")])
def test_bad_gates(options, says):
    with pytest.raises(ValueError, match=says):
        Gate(**(dict(ladder=(2, 4), h_min=0.5) | options))
    with pytest.raises(ValueError, match="diverged"):
        Gate((2, 4), 0.5, start=1.0).decide(math.nan, 1)


# -- in a training -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """Length 2 throughout."""
    torch.set_num_threads(1)
    return fit(training(config={"max_new_tokens": 2}), tmp_path_factory.mktemp("fixed"), steps=6)


def test_no_gate_is_a_schedule_and_an_infinite_one_is_the_first_length(tmp_path, fixed):
    found = fit(training(), tmp_path / "schedule", steps=6, curriculum=LADDER | {"h_min": 0.0})
    assert lengths(found) == [2, 2, 4, 4, 6, 6]
    by_hand = training()
    lengths_of = iter([2, 2, 4, 4, 6, 6])
    rollouts = by_hand.rollouts

    def scheduled(problems, first):
        by_hand.length = next(lengths_of)
        return rollouts(problems, first)

    by_hand.rollouts = scheduled
    fit(by_hand, tmp_path / "by hand", steps=6)
    assert same(weights(found), weights(by_hand)) and not same(weights(found), weights(fixed))
    held = fit(training(), tmp_path / "held", steps=6, curriculum=LADDER | {"h_min": math.inf})
    assert lengths(held) == [2] * 6 and same(weights(held), weights(fixed))
    assert [row["action"] for row in held.trainer.callbacks[0].decisions] == ["hold"]


def test_a_roll_back_gives_the_passed_stages_weights_bit_for_bit(tmp_path):
    callback = Scripted([1.0, 0.9, 0.2], on_fail="rollback")
    seen = []
    restore = callback.restore

    def watched(trainer, pl_module):
        restore(trainer, pl_module)
        seen.append((weights(pl_module), len(trainer.optimizers[0].state)))

    callback.restore = watched
    found = fit(training(), tmp_path, steps=6, callbacks=[callback])
    assert [row["action"] for row in callback.decisions] == ["advance", "rollback"] and lengths(found) == [2, 2, 4, 4, 2, 2]
    (back, moments), (start, passed, damaged) = seen[0], callback.kept
    assert same(back, passed) and not same(back, damaged) and not same(back, start) and moments == 0
    assert not same(weights(found), passed), "and training goes on from there"


@pytest.mark.parametrize("on_fail, expected", [("hold", [2, 2, 4, 4, 4, 4]), ("stop", [2, 2, 4, 4])])
def test_hold_and_stop_keep_the_weights(on_fail, expected, tmp_path):
    callback = Scripted([1.0, 0.9, 0.2], on_fail=on_fail)
    found = fit(training(), tmp_path, steps=6, callbacks=[callback])
    assert lengths(found) == expected and not callback.passed
    if on_fail == "stop":
        assert same(weights(found), callback.kept[-1])


@pytest.mark.numerics
def test_killed_and_resumed_is_unbroken_with_its_decisions(tmp_path):
    """Killed after the roll-back: weights of the passed stage, decisions and length are in the checkpoint."""
    gate = LADDER | {"h_min": 0.97, "stage_steps": 1, "ladder": [1, 2, 4, 6]}
    whole = fit(training(), tmp_path / "whole", steps=5, checkpoint_every=1, curriculum=gate)
    codes, saved = fit_in_processes(tmp_path / "killed", steps=5, checkpoint_every=1, kill_at=3, curriculum=gate)
    assert codes == [-9] and not saved
    resumed = fit(training(), tmp_path / "killed", steps=5, checkpoint_every=1, curriculum=gate,
                  resume=tmp_path / "killed" / "checkpoints" / "step=2.ckpt")
    assert same(weights(resumed), weights(whole)) and lengths(resumed) == lengths(whole)
    ours, theirs = (next(c for c in run.trainer.callbacks if isinstance(c, EntropyGatedLength)) for run in (resumed, whole))
    assert ours.decisions == theirs.decisions and len(ours.decisions) >= 2 and ours.gate.start == theirs.gate.start
    with pytest.raises(SetupError, match="curriculum h_min = 0.97; the config says 0.5"):
        fit(training(), tmp_path / "other", steps=5, curriculum=gate | {"h_min": 0.5},
            resume=tmp_path / "killed" / "checkpoints" / "step=2.ckpt")


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(SetupError, match="ladder goes up to 9 tokens"):
        fit(training(), tmp_path, curriculum=LADDER | {"ladder": [2, 9]})
    with pytest.raises(SetupError, match="max_steps is 2 and the ladder has 3"):
        fit(training(), tmp_path, curriculum={"ladder": [2, 4, 6], "prompts": 2})
    with pytest.raises(ValueError, match="prompts 0"):
        EntropyGatedLength([2], prompts=0)


def test_trls_twin_walks_the_same_ladder():
    from types import SimpleNamespace

    from ..trl_backend import GatedLength

    entropies = iter([1.0, 0.9, 0.2])
    callback = GatedLength(Gate((2, 4, 6), 0.85, on_fail="hold"), 2, lambda model: {"entropy": next(entropies), "at_cap": 0.0})
    callback.trainer = trainer = SimpleNamespace(generation_config=SimpleNamespace(max_new_tokens=99), generation_kwargs={},
                                                 max_completion_length=99)
    state, control, seen = SimpleNamespace(global_step=0), SimpleNamespace(should_training_stop=False), []
    callback.on_train_begin(None, state, control)
    for step in range(1, 7):
        seen.append((trainer.max_completion_length, trainer.generation_config.max_new_tokens, trainer.generation_kwargs["max_new_tokens"]))
        state.global_step = step
        callback.on_step_end(None, state, control)
    assert seen == [(n, n, n) for n in (2, 2, 4, 4, 4, 4)] and not control.should_training_stop
    with pytest.raises(ValueError, match="only train.py"):
        GatedLength(Gate((2, 4), 0.5), 2, None)
