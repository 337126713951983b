"""The clock: order, statistics and how many rounds fit, with a false clock: no seconds."""

import pytest
import torch

from common.timing import clock


class FakeMachine:
    """A clock that moves only when a function runs, and a log of who ran."""

    def __init__(self, **durations):
        self.now, self.log = 0.0, []
        self.fns = {name: self.runner(name, values) for name, values in durations.items()}

    def runner(self, name, values):
        values = iter(values)

        def run():
            self.log.append(name)
            self.now += next(values)
        return run

    def clock(self):
        return self.now


def test_timings_statistics_and_warmup():
    machine = FakeMachine(dense=[100.0, 4.0, 8.0, 2.0, 6.0], skip=[50.0, 2.0, 2.0, 2.0, 2.0])
    out = clock.interleaved_timings(machine.fns, warmup=1, repeats=4, clock=machine.clock)
    assert out["dense"]["times"] == [4.0, 8.0, 2.0, 6.0]  # the warm-up's 100 s are not among them
    assert (out["dense"]["median"], out["dense"]["iqr"]) == (5.0, 3.0)
    assert (out["skip"]["median"], out["skip"]["iqr"]) == (2.0, 0.0)
    assert out["dense"]["load_average"] == out["skip"]["load_average"]
    ratio = clock.paired_ratio(out, "dense", "skip")
    assert (ratio["median"], ratio["iqr"], ratio["ratios"]) == (2.5, 1.5, [2.0, 4.0, 1.0, 3.0])


def test_order_is_shuffled_per_round_and_fixed_by_the_seed():
    def order(seed):
        machine = FakeMachine(**{name: [1.0] * 12 for name in "abc"})
        clock.interleaved_timings(machine.fns, warmup=2, repeats=10, seed=seed, clock=machine.clock)
        return machine.log
    log = order(0)
    assert log[:6] == list("abcabc")
    rounds = [tuple(log[i:i + 3]) for i in range(6, 36, 3)]
    assert all(sorted(r) == list("abc") for r in rounds) and len(set(rounds)) > 1
    assert order(0) == log != order(1)


def test_one_value_has_no_spread():
    with pytest.raises(ValueError, match="at least 2"):
        clock.interleaved_timings({"a": lambda: None}, warmup=0, repeats=1)


def test_calibrate_reports_positive_rates():
    out = clock.calibrate("cpu", seconds=0.0, size=16)
    assert (out["device"], out["gemm_size"]) == ("cpu", 16)
    assert set(out["gemm_flops_per_s"]) == {"float32", "bfloat16"}
    assert min(out["copy_bytes_per_s"], *out["gemm_flops_per_s"].values()) > 0


def test_peak_memory_says_what_it_measured():
    out = clock.peak_memory(lambda: torch.zeros(1000))
    assert out["kind"] == "rss_high_water" and out["peak_bytes"] >= out["before_bytes"] > 2**20


# -- within so many seconds --------------------------------------------------------------------------------
@pytest.mark.parametrize("seconds, repeats, warmup, rounds, passes", [
    (100.0, 7, 2, 7, 1 + 7),  # there is time for all
    (100.0, 50, 2, 32, 1 + 32),  # a round takes 3, the first is untimed: 97 / 3
    (100.0, 50, 6, 28, 1 + 4 + 28),  # warming up four times more
    (24.0, 50, 9, 5, 1 + 2 + 5),  # for no more than a quarter of the time
    (0.0, 50, 9, clock.FEWEST, 1 + clock.FEWEST),  # at least these
    (0.0, 2, 2, 2, 1 + 2),
])
def test_as_many_rounds_as_fit(seconds, repeats, warmup, rounds, passes):
    machine = FakeMachine(a=[1.0] * 99, b=[2.0] * 99)
    timings, found, a_round = clock.timings_within(seconds, machine.fns, repeats, warmup, clock=machine.clock)
    assert (found, a_round) == (rounds, 3.0) and len(machine.log) == 2 * passes
    assert [len(t["times"]) for t in timings.values()] == [rounds] * 2 and machine.log[:2] == ["a", "b"]
    assert timings["b"]["median"] == 2.0


def test_facts_name_what_a_timing_depends_on():
    assert clock.facts("cpu") == {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__}
    assert clock.wait("cpu") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_times_memory_and_graphs():
    x = torch.ones(1 << 20, device="cuda")
    fns = {"a": lambda: x + 1, "b": lambda: x * 2}
    out = clock.interleaved_timings(fns, repeats=3, device="cuda")
    assert all(len(v["times"]) == 3 and v["median"] > 0 for v in out.values())
    memory = clock.peak_memory(lambda: torch.ones(1 << 20, device="cuda"), "cuda")
    assert memory["kind"] == "cuda_allocated"
    assert memory["peak_bytes"] - memory["before_bytes"] >= 4 << 20
    total = torch.zeros(1, device="cuda")
    for pool in (None, torch.cuda.graph_pool_handle()):
        total.zero_()
        replay = clock.in_graph(lambda: total.add_(1), pool)
        before = total.item()
        for _ in range(3):
            replay()
        assert total.item() == before + 3
    with pytest.raises(RuntimeError):
        clock.in_graph(lambda: total.item())
