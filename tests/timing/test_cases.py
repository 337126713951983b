"""Cases within a time limit, resumed, and over processes: with a false clock, so that no test waits or depends on a machine."""

import json
import multiprocessing
import os
from dataclasses import dataclass

import pytest
import torch

from common.errors import UserError
from common.timing import cases
from common.timing.cases import Timetable, finished, in_a_process, over_processes, pooled, run_cases
from common.timing.clock import interleaved_timings, paired_ratio


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@dataclass(frozen=True)
class Case:
    length: int
    steps: tuple[int, ...] = (1,)

    @property
    def name(self):
        return f"S={self.length}"


SIZES = [Case(n) for n in (8, 64, 16, 32)]


def timetable(clock, limit, slower=None, kind=lambda case: "", rounds=5, these=SIZES):
    return Timetable({c: float(c.length) for c in these}, limit, rounds, clock, slower or {"": 1.0}, kind, surely=these[0])


@pytest.fixture
def runner(tmp_path):
    """Ten passes of a round that takes 0.1 s a token; what it ran."""
    clock, ran, settings = Clock(), [], {"threads": 1}

    def measure(limit=1e6, out=None, these=SIZES, settings=settings, run=None):
        ran.clear()

        def ten_passes(case, seconds):
            ran.append((case.name, round(seconds, 6)))
            clock.now += case.length
            return {"length": case.length, "steps": list(case.steps), "round_seconds": case.length / 10}

        document = {"settings": settings, "cases": finished(out, settings, these, lambda text: None)}
        return run_cases(these, run or ten_passes, timetable(clock, limit, {"": None}, these=these), document, out=out,
                         log=lambda text: None, judged=lambda document: {"count": len(document["cases"])})

    return measure, ran


# -- which, and for how long -------------------------------------------------------------------------------
def test_the_time_is_shared_by_what_a_round_takes():
    """Of 240 s, 8 of 120 parts for the first; then what is left, 8 : 16 : 32 : 64."""
    clock = Clock()
    table = timetable(clock, 240.0, rounds=1)
    pending, shares = list(SIZES), []
    while chosen := table.next(pending):
        case, seconds = chosen
        shares.append((case.length, seconds))
        clock.now += seconds
        table.took(case, float(case.length))
        pending.remove(case)
    assert shares == [(8, 16.0), (16, 32.0), (32, 64.0), (64, 128.0)] and not table.not_run


def test_what_has_run_corrects_the_estimates_of_its_kind():
    clock = Clock()
    table = timetable(clock, 1e6, {"even": 1.5, "odd": 3.0}, kind=lambda c: "even" if c.length < 60 else "odd")
    assert [table.a_round(c) for c in SIZES] == [12.0, 192.0, 24.0, 48.0]
    table.took(SIZES[0], 4.0)
    assert [table.a_round(c) for c in SIZES] == [4.0, 192.0, 8.0, 16.0]


def test_the_largest_are_dropped_and_named_and_the_smallest_runs_in_any_case(runner):
    measure, ran = runner
    document = measure(limit=0.0)
    assert [name for name, _ in ran] == ["S=8"] and [e["case"] for e in document["not_run"]] == ["S=64", "S=16", "S=32"]
    assert document["not_run"][0]["reason"] == "needs about 32 s, 0 s of 0 s were left"  # five rounds of 6.4 s
    document = measure(limit=8 + 16 + 17.0)  # 32 would need five rounds of 3.2 s, 64 as many of 6.4
    assert [name for name, _ in ran] == ["S=8", "S=16", "S=32"] and [e["case"] for e in document["not_run"]] == ["S=64"]
    assert measure()["not_run"] == [] and len(ran) == 4


def test_out_of_device_memory_is_a_reason_and_the_rest_goes_on(runner):
    def run(case, seconds):
        if case.length == 16:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return {"round_seconds": 1.0}

    document = runner[0](run=run)
    assert list(document["cases"]) == ["S=8", "S=32", "S=64"]
    assert document["not_run"] == [{"case": "S=16", "reason": "out of device memory"}]


# -- saved and gone on with --------------------------------------------------------------------------------
def test_saved_after_each_case_and_gone_on_with(runner, tmp_path, monkeypatch):
    measure, ran = runner
    out, saved, write = tmp_path / "speed.json", [], cases.write_json

    def spy(path, value):
        write(path, value)
        saved.append((len(value["cases"]), value["count"]))
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cases, "write_json", spy)
    with pytest.raises(KeyboardInterrupt):
        measure(out=out)
    assert saved == [(1, 1), (2, 2)], "and what follows from it is that of what is there"
    document = measure(out=out)
    assert [name for name, _ in ran] == ["S=32", "S=64"] and document == json.loads(out.read_text())
    assert list(document["cases"]) == ["S=16", "S=8", "S=32", "S=64"]
    measure(out=out)
    assert ran == []
    measure(out=out, these=[Case(8, (1, 2)), *SIZES[1:]])
    assert [name for name, _ in ran] == ["S=8"], "another case of the same name: that one anew"
    measure(out=out, settings={"threads": 2})
    assert len(ran) == 4, "other settings: everything anew"
    out.write_text('{"settings"')
    measure(out=out, settings={"threads": 2})
    assert len(ran) == 4, "damaged: everything anew"
    for held in ([], {"S=8": [1]}):
        out.write_text(json.dumps({"settings": {"threads": 2}, "cases": held}))
        measure(out=out, settings={"threads": 2})
        assert len(ran) == 4, "JSON, and no results: everything anew"


# -- over processes ----------------------------------------------------------------------------------------
def in_turn(slow, out=None, log=print):
    """Two variants on a false clock; every process finds both slower by `slow` and by how many have run before it."""
    clock, number = Clock(), int(os.environ.get("PROCESS_NUMBER", "0")) if out is None else int(out.suffixes[0][1:])

    def takes(seconds):
        clock.now += seconds

    fns = {"dense": lambda: takes(8.0 * slow * (1 + number)), "ours": lambda: takes(2.0 * slow * (1 + number**2))}
    timings = interleaved_timings(fns, 0, 3, "cpu", 0, clock)
    return {"settings": {"device": "cpu"}, "pid": [{"pid": os.getpid()}], "flags": [f"flag {min(number, 2)}"],
            "cases": {"S=8": {"rounds": 3, "noisy": number == 3, "variants": {name: {k: t[k] for k in ("median", "iqr", "times")}
                                                                             for name, t in timings.items()},
                              "ratios": {"dense / ours": paired_ratio(timings, "dense", "ours")}}}}


@pytest.fixture
def forked(monkeypatch):
    """A fork in place of a new interpreter, which would import torch once more: for what becomes of results and errors."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)


def test_every_process_is_one_value_its_median(tmp_path, forked):
    """Processes 1, 2, 3: dense takes 16, 24, 32 and ours 4, 10, 20, so dense is 4, 2.4 and 1.6 times as slow."""
    document = over_processes(3, in_turn, 1.0, out=tmp_path / "speed.json", log=lambda text: None)
    case = document["cases"]["S=8"]
    assert case["variants"]["dense"] == {"median": 24.0, "iqr": 8.0, "times": [16.0, 24.0, 32.0]}
    assert case["variants"]["ours"] == {"median": 10.0, "iqr": 8.0, "times": [4.0, 10.0, 20.0]}
    assert case["ratios"]["dense / ours"] == {"median": 2.4, "iqr": pytest.approx(1.2), "ratios": [4.0, 2.4, 1.6]}
    assert document["processes"] == 3 and case["rounds"] == 3 and case["noisy"] is True and document["flags"] == ["flag 1", "flag 2"]
    pids = {entry["pid"] for entry in document["pid"]}
    assert len(pids) == 3 and os.getpid() not in pids
    assert json.loads((tmp_path / "speed.json").read_text()) == document


def test_one_process_is_this_one_and_changes_nothing(tmp_path):
    logged = []
    assert over_processes(1, in_turn, 2.0, log=logged.append) == in_turn(2.0)
    assert over_processes(1, in_turn, 2.0)["pid"] == [{"pid": os.getpid()}]
    with pytest.raises(ValueError, match="processes is 0"):
        over_processes(0, in_turn, 2.0)


def test_pooled_takes_what_all_have_and_medians_of_the_rest():
    found = pooled([{"a": 1, "b": [1, 2], "seconds": [3.0, 9.0, 4.0], "x": 0, "name": "n"},
                    {"a": 5, "b": [3, 8], "seconds": [6.0], "name": "n"}, {"a": 2, "b": [9, 4], "seconds": [5.0, 7.0], "name": "n"}])
    assert found == {"a": 2, "b": [3, 4], "seconds": [4.0, 6.0, 6.0], "name": "n", "processes": 3}


def killed():
    os.kill(os.getpid(), 9)


def fails():
    raise ValueError("an update of 'ppo' is none of these")


class Strange(Exception):
    """Can be pickled and not made again: what it is made from is not what it shows."""

    def __init__(self, number, why):
        super().__init__(f"{number} is {why}")


def fails_strangely():
    raise Strange(7, "odd")


HERE = []


def what_is_here():
    return list(HERE)


def test_a_process_of_its_own_has_run_nothing(monkeypatch):
    """A new interpreter, not a fork of this one."""
    monkeypatch.setattr("tests.timing.test_cases.HERE", ["left by a test"])
    assert what_is_here() and in_a_process(what_is_here) == []


def test_what_another_process_raises_is_raised_here(forked):
    with pytest.raises(ValueError, match="'ppo' is none of these"):
        in_a_process(fails)
    with pytest.raises(RuntimeError, match="fails_strangely: Strange: 7 is odd"):
        in_a_process(fails_strangely)
    with pytest.raises(RuntimeError, match="killed lost its process"):
        in_a_process(killed)


def test_minutes_of_a_timing_are_asked_for_or_refused(monkeypatch):
    monkeypatch.delenv("MINUTES", raising=False)
    assert cases.time_allowed(540.0) == 540.0
    monkeypatch.setenv("MINUTES", "1.5")
    assert cases.time_allowed(540.0) == 90.0
    for bad in ("0", "-1", "soon", "nan", "1e9"):
        monkeypatch.setenv("MINUTES", bad)
        with pytest.raises(UserError, match=f"MINUTES={bad}: give the minutes"):
            cases.time_allowed(540.0)
