"""The timing code, rehearsed on tiny shapes: what it counts, what it drops, what it flags.

No test here looks at a real clock. Where time matters, the clock is a number that the test moves.
"""

import dataclasses
import json

import pytest
import torch
from transformers import DynamicCache

from common.flops import counted
from common.models import load, tiny
from common.timing import cases as case_runner
from common.timing.decoding import Room
from tests.numerics import close

from .. import gathering, skipping
from ..analytic import LLAMA31_8B, Shape
from ..experiments import speed, timed
from ..experiments.timed import Case, DrawnRouting, bounds, expected_flops, stock_and_routed
from ..gating import RoutedLayerMixin
from ..layers import find_stack
from .invariants import REL

RATES = {"flops_per_s": 1e9, "bytes_per_s": 1e9}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def quiet(text):
    pass


def small(spec, **changes):
    """`measure` on one tiny prefill and one tiny decode. changes: of the plan, or options of `measure`."""
    plan = dict(batches=(1,), prompt_lengths=(7,), contexts=(9,), steps=2, repeats=2)
    plan |= {name: changes.pop(name) for name in list(changes) if name in speed.Plan.__dataclass_fields__}
    return speed.measure(spec, speed.Plan(**plan), **dict(rates=RATES, log=quiet) | changes)


@pytest.fixture(scope="module")
def twins():
    model = load(tiny("llama")).model
    return Shape.of(model.config), stock_and_routed(model, seed=0)


@pytest.fixture
def exact_twins(float64):
    model = load(tiny("llama")).model
    return Shape.of(model.config), stock_and_routed(model, seed=0)


# -- what runs -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "dtype"), [("llama", "float32"), ("qwen3", "float32"),
                                               ("llama", "bfloat16")])
def test_rehearsal_counts_every_flop(family, dtype):
    """Executed = closed form, for every variant of ragged prefill and decode: no flag."""
    document = small(tiny(family), batches=(1, 3), prompt_lengths=(7, 16), dtype=dtype)
    assert not [f for f in document["flags"] if "FLOPs" in f or "caches" in f]
    assert len(document["cases"]) == 6 and document["not_run"] == []
    for case in document["cases"].values():
        assert set(case["variants"]) == {"dense", "mask 0.50", "routers alone", *(
            f"skip {s}" for s in ("0.00", "0.25", "0.40", "0.50"))}
        for row in case["variants"].values():
            assert row["flops"] == row["expected_flops"] > 0
        flops = {name: row["flops"] for name, row in case["variants"].items()}
        routers = flops["routers alone"]
        assert flops["mask 0.50"] == flops["skip 0.00"] == flops["dense"] + routers
        assert flops["skip 0.50"] < flops["skip 0.25"] < flops["skip 0.00"]
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_cache_is_as_large_with_skipping():
    document = small(tiny("llama"))
    m = Shape.of(load(tiny("llama")).model.config)
    for case in document["cases"].values():
        keys = case["length"] + (case["steps"] if case["phase"] == "decode" else 0)
        sizes = {r["kv_cache_bytes"] for r in case["variants"].values() if "kv_cache_bytes" in r}
        assert sizes == {2 * m.L * m.KV * m.dh * 4 * keys}


def test_the_dense_baseline_is_the_stock_model_and_shares_its_weights(twins):
    _, (stock, routed, state) = twins
    assert not any(isinstance(layer, RoutedLayerMixin) for layer in find_stack(stock).layers)
    assert not any("router" in name for name, _ in stock.named_parameters())
    theirs = dict(routed.named_parameters())
    assert all(theirs[name] is p for name, p in stock.named_parameters())
    assert len(state.routers()) == 2 * len(state.layers)


def test_drawn_routing_runs_the_routers_and_overrules_them(twins):
    _, (_, routed, state) = twins
    case, calls = Case("prefill", 2, 50), []
    quarter, half = (DrawnRouting(state, case, s, seed=3) for s in (0.25, 0.5))
    assert (quarter.gates >= half.gates).all(), "the same numbers are behind every sparsity"
    assert float(half.gates.mean()) == pytest.approx(0.5, abs=0.05)
    hooks = [router.register_forward_hook(lambda *a, n=name: calls.append(n))
             for name, router in state.routers().items()]
    state.set_mode("skip").policy = half
    timed.prefill(routed, torch.ones(2, 50, dtype=torch.long))
    for hook in hooks:
        hook.remove()
    assert sorted(calls) == sorted(state.routers())
    drawn = torch.stack([g for pair in state.gates for g in pair])
    assert torch.equal(drawn, half.gates[0])


@pytest.mark.numerics
@torch.no_grad()
def test_room_is_the_stock_cache_without_the_copies(exact_twins):
    m, (stock, _, _) = exact_twins
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(m.V, (2, 9), generator=draw)
    cache = DynamicCache(config=stock.config)
    stock(ids[:, :6], past_key_values=cache)
    rooms = []
    for layer in cache.layers:
        room = [torch.cat([a, torch.full_like(a[:, :, :3], 9.0)], 2)
                for a in (layer.keys, layer.values)]
        rooms.append(Room(*room, length=6))
    expected = [stock(ids[:, i : i + 1], past_key_values=cache).logits for i in range(6, 9)]
    for _ in range(2):  # a second run starts where the first one did
        out = timed.decode(stock, ids[:, 6:], timed.Cache(layers=rooms))
        assert out.past_key_values.get_seq_length() == 9
        close(out.logits, expected[-1], REL)


@pytest.mark.numerics
@torch.no_grad()
def test_reading_in_place_as_on_cuda(exact_twins, monkeypatch):
    """The other form of the attention read: equal results, and its FLOPs are as announced."""
    m, (_, routed, state) = exact_twins
    case = Case("prefill", 3, 17)
    ids = torch.randint(m.V, (3, 17), generator=torch.Generator().manual_seed(0))
    state.set_mode("skip").policy = routing = DrawnRouting(state, case, 0.4, seed=0)
    packed = timed.prefill(routed, ids).logits
    monkeypatch.setattr(skipping, "_packs", lambda q, seq, mask: False)
    in_place = timed.prefill(routed, ids).logits
    close(in_place, packed, REL)
    executed = counted(lambda: timed.prefill(routed, ids)).total
    assert executed == expected_flops(m, case, routing.gates, "linear", packed=False)
    assert executed > expected_flops(m, case, routing.gates, "linear", packed=True)


# -- bounds ----------------------------------------------------------------------------------------
def alternating(case, L=32):
    """Every second module skipped, by all rows: attention and MLP at s = .5 exactly."""
    gates = torch.ones(case.steps, 2 * L, case.batch, case.tokens)
    gates[:, 0::4] = gates[:, 1::4] = 0
    return gates


def test_bounds_are_those_of_the_paper_scale_tables():
    prompt, one = Case("prefill", 2, 1024), Case("decode", 1, 1024, 4)
    found = bounds(LLAMA31_8B, prompt, alternating(prompt))
    assert found["attn_skip"] == found["mlp_skip"] == 0.5
    assert found["bound"] == found["flop_bound"] == pytest.approx(1.8115, abs=1e-4)
    assert bounds(LLAMA31_8B, one, alternating(one))["bound"] == pytest.approx(1.8087, abs=1e-4)


def test_in_a_batch_weights_are_saved_only_if_all_rows_skip():
    case = Case("decode", 2, 1024, 1)
    gates = torch.ones(1, 64, 2, 1)
    gates[:, :, 0] = 0  # one row skips everything, the other nothing
    found = bounds(LLAMA31_8B, case, gates)
    assert found["bound"] == 1.0 and found["flop_bound"] > 1.5


# -- flags -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("skip_takes", "flagged"), [
    (0.1, ["suspicious"]), (0.9, []), (2.0, ["slower than mask mode"])])
def test_flags_by_a_fake_clock(monkeypatch, skip_takes, flagged):
    clock, real = Clock(), timed.prefill

    def prefill(model, ids):
        layer = find_stack(model).layers[0]
        skips = isinstance(layer, RoutedLayerMixin) and layer._routing.mode == "skip"
        clock.now += skip_takes if skips else 1.0
        return real(model, ids)

    monkeypatch.setattr(timed, "prefill", prefill)
    document = small(tiny("llama"), sparsities=(0.5,), decode_batches=(), contexts=(), clock=clock,
                     time_limit=1e6)
    case = document["cases"]["prefill B=1 S=7"]
    assert case["speedups"]["skip 0.50"]["speedup"] == pytest.approx(1 / skip_takes)
    assert case["speedups"]["mask 0.50"]["speedup"] == 1.0
    assert [flag.split(":")[0] for flag in document["flags"]] == flagged


def prompt(batch, length, ratios):
    return {"phase": "prefill", "batch": batch, "length": length, "variants": {},
            "speedups": {"mask 0.50": {"speedup": 1.0, "ratios": [1.0]},
                         "skip 0.50": {"speedup": 1.0, "ratios": ratios}}}


def test_where_skipping_pays():
    win, draw, loss = [1.2, 1.3, 1.1], [0.9, 0.9, 1.4, 1.4], [0.8, 0.9]
    cases = {str(i): prompt(*row) for i, row in enumerate([
        (1, 16, win), (1, 64, draw), (1, 128, win), (1, 256, win), (4, 16, win), (8, 16, loss)])}
    assert speed.pays_from(cases) == {"skip 0.50": {"B=1": 128, "B=4": 16, "B=8": None}}
    assert speed.pays_from({}) == {}


def test_a_wrong_flop_count_and_a_smaller_cache_are_flagged():
    case = prompt(1, 8, [1.0])
    case["variants"] = {"skip 0.50": {"flops": 9, "expected_flops": 10, "kv_cache_bytes": 4},
                        "dense": {"flops": 10, "expected_flops": 10, "kv_cache_bytes": 8}}
    found = speed.flags({"p": case})
    assert len(found) == 2 and "9 FLOPs executed, not 10" in found[0] and "caches" in found[1]


# -- time and files --------------------------------------------------------------------------------
@pytest.fixture
def planned(monkeypatch):
    """`measure` with cases that take exactly what the roofline gives, on a clock of ours."""
    clock, ran = Clock(), []

    def run_case(models, m, case, sparsities, repeats, warmup, seed, seconds, clock):
        a_round = timed.dense_seconds(m, case, 4, RATES) * (2.1 + 0.75 * len(sparsities))
        ran.append((case.name, seconds))
        clock.now += a_round * 7
        result = prompt(case.batch, case.length, [1.0, 1.0])
        result["speedups"]["skip 0.50"]["noisy"] = result["speedups"]["mask 0.50"]["noisy"] = False
        result["variants"] = {"dense": {"median": a_round}}
        return result | {"phase": case.phase, "steps": case.steps, "round_seconds": a_round,
                         "rounds": 5, "best_dense": "dense", "per": "pass",
                         "router_share_of_dense": 0.0}

    monkeypatch.setattr(speed, "run_case", run_case)

    def measure(**changes):
        ran.clear()
        return small(tiny("llama"), prompt_lengths=(8, 16, 64, 256), decode_batches=(), contexts=(),
                     clock=clock, repeats=5, **changes), [name for name, _ in ran]

    return measure


def test_the_largest_cases_are_dropped_and_named(planned):
    document, ran = planned(time_limit=0.4)
    assert ran == ["prefill B=1 S=8", "prefill B=1 S=16", "prefill B=1 S=64"]
    assert [entry["case"] for entry in document["not_run"]] == ["prefill B=1 S=256"]
    assert "were left" in document["not_run"][0]["reason"]


def test_the_smallest_prefill_always_runs_and_all_do_if_there_is_time(planned):
    document, ran = planned(time_limit=0.0)
    assert ran == ["prefill B=1 S=8"] and len(document["not_run"]) == 3
    document, ran = planned(time_limit=1e3)
    assert len(ran) == 4 and document["not_run"] == []


def test_out_of_memory_is_a_reason_not_a_crash(monkeypatch):
    def run_case(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speed, "run_case", run_case)
    document = small(tiny("llama"), time_limit=1e3)
    assert {entry["reason"] for entry in document["not_run"]} == {"out of device memory"}


def test_saved_after_each_case_and_continued(planned, tmp_path, monkeypatch):
    out, saved = tmp_path / "speed.json", []
    write = case_runner.write_json

    def spy(path, value):
        write(path, value)
        saved.append(len(json.loads(path.read_text())["cases"]))

    monkeypatch.setattr(case_runner, "write_json", spy)
    _, ran = planned(time_limit=0.4, out=out)
    assert saved == [1, 2, 3, 3] and len(ran) == 3
    document, ran = planned(time_limit=1e3, out=out)
    assert ran == ["prefill B=1 S=256"] and len(document["cases"]) == 4
    assert document == json.loads(out.read_text())
    _, ran = planned(time_limit=1e3, out=out, seed=1)
    assert len(ran) == 4, "other settings: everything anew"
    out.write_text("{")
    _, ran = planned(time_limit=1e3, out=out)
    assert len(ran) == 4, "damaged: everything anew"


# -- commands --------------------------------------------------------------------------------------
def test_no_gpu_is_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert speed.main(["--device", "cuda"]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "no CUDA device" in error


def test_rehearsal_of_the_gpu_rung(monkeypatch, tmp_path, capsys):
    """Both models, at the sizes of the specification, one file each; here with a tiny stand-in."""
    asked, real = [], speed.measure

    def measure(spec, plan, **options):
        asked.append((spec["num_key_value_heads"], plan, options))
        plan = dataclasses.replace(plan, prompt_lengths=(5,), contexts=(5,), batches=(1,), decode_batches=(2,), repeats=2, warmup=1,
                                   steps=2)
        return real(tiny("llama").config, plan, **options | dict(device="cpu", rates=RATES))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(speed, "measure", measure)
    processes = []  # a patched function cannot go to another process
    monkeypatch.setattr(speed, "over_processes",
                        lambda n, function, *arguments, **options: processes.append(n) or function(*arguments, **options))
    assert speed.main(["--device", "cuda", "--out", str(tmp_path), "--time-limit", "300"]) == 0 and processes == [3, 3]
    assert [kv for kv, *_ in asked] == [8, 32]
    assert asked[0][1].time_limit <= 50 < asked[1][1].time_limit and asked[0][1].decode_batches == (1, 8, 32)
    assert asked[0][2]["dtype"] == "bfloat16"
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(last) == {"8B", "7B"} and len(last["8B"]["speedups"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["speed-7B.json", "speed-8B.json"]


def test_the_config_of_a_shape_has_that_shape():
    from transformers import AutoConfig

    for m in (LLAMA31_8B, speed.analytic.SMOLLM2_135M):
        assert Shape.of(AutoConfig.for_model(**m.config(max_position_embeddings=8192))) == m


# -- what gathering is worth -----------------------------------------------------------------------
@pytest.mark.numerics
def test_plain_skipping_computes_the_same(exact_twins):
    """What the gathering is compared with is the same function, with padding and with a cache."""
    _, (_, routed, state) = exact_twins
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 96, (3, 10), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    gates = (torch.rand(2 * len(state.layers), 3, 10, generator=generator) > 0.4).float()
    start = 0
    state.set_mode("skip").policy = lambda layer, name, x, valid: gates[
        2 * layer + (name == "mlp"), :, start : start + x.shape[1]]

    def logits():
        nonlocal start
        start = 0
        first = routed(input_ids=ids[:, :8], attention_mask=mask[:, :8], use_cache=True)
        start = 8
        rest = routed(input_ids=ids[:, 8:], attention_mask=mask, past_key_values=first.past_key_values)
        return torch.cat([first.logits, rest.logits], 1)[mask.bool()]

    with torch.no_grad():
        close(gathering.plainly(logits), logits(), REL)


def test_gathering_is_compared_in_the_same_rounds():
    logged = []
    rows = gathering.compare([Case("prefill", 2, 8), Case("decode", 2, 8, 2)], 0.4, 2, tiny("llama").config, logged.append)
    assert [row["case"] for row in rows] == ["prefill B=2 S=8", "decode B=2 ctx=8"] and len(logged) == 2
    assert all(row[name] > 0 for row in rows for name in ("dense / plain", "dense / skip", "plain / skip"))
