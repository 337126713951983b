"""The timing code, rehearsed on tiny shapes: what it counts, what it keeps, what it flags.

No test here looks at a real clock. Where time matters, the clock is a number that the test moves.
"""

import json
import time
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig

from common.errors import UserError
from common.flops import counted
from common.models import load, tiny
from common.timing import cases as case_runner
from common.timing.clock import FEWEST, interleaved_timings
from common.timing.decoding import Room, cache_bytes
from tests.numerics import close, far, truly_double

from .. import analytic, method, reference, tables
from ..analytic import Shape
from ..experiments import speed, timed
from ..experiments.timed import Case, Inputs, Run

LAYERS = (0, 2)
EXACT = 1e-12  # of the largest logit, of models in double precision
CASE = Case(2, 3, 5, visual=16)
NAMES = {"dense", "vica", "vica warm", "vica frozen", "vica frozen warm", "text only", "masked", "dense 8", "dense 4"}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(timed, "PRUNED", (8, 4, 16))  # 16 is the whole picture here: no variant of its own
    monkeypatch.setattr(timed, "PAIRS", [(a, b.replace("64", "8").replace("32", "4")) for a, b in timed.PAIRS])


@pytest.fixture(scope="module")
def models():
    return timed.stock_and_ours(truly_double(load(tiny("llama")).model.double()))


def measured(cases=(CASE,), family="llama", **options):
    config = tiny(family).config
    shape = Shape.of(AutoConfig.for_model(**config))
    kept = {name: options.pop(name) for name in ("out", "clock") if name in options}
    run = Run(**(dict(device="cpu", dtype="float32", repeats=3, time_limit=1e6) | options))
    return speed.measure(shape, LAYERS, cases, run, config=config, log=lambda text: None, **kept)


# -- what runs ---------------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("family, dtype", [("llama", "float32"), ("qwen3", "float32"), ("llama", "bfloat16")])
def test_every_variant_has_the_flops_and_bytes_it_claims(family, dtype):
    """Executed = closed form, and a KV cache of as many tokens as each keeps: no flag but those of a clock."""
    document = measured([CASE, Case(1, 1, 4, visual=9)], family, dtype=dtype)
    assert not [f for f in document["flags"] if "FLOPs" in f or "definition differ" in f] and document["not_run"] == []
    (first, second) = document["cases"].values()
    assert (first["prefix"], second["prefix"]) == (1, 3), "the smaller case first"
    # Of the largest logit. A unit in the last place is 6e-8 or 4e-3 of a value, and three layers gather a few.
    assert max(first["difference"], second["difference"]) < (5e-6 if dtype == "float32" else 0.05)
    rows = second["variants"]
    assert set(rows) == NAMES
    for row in rows.values():
        assert row["flops"] == row["expected_flops"] > 0 and len(row["times"]) == second["rounds"] == 3
    token = 2 * 2 * 8 * (4 if dtype == "float32" else 2) * CASE.batch  # keys and values, 2 heads of 8, one layer, the batch
    text, visual = 3 * 8 * token, 2 * 16 * token
    assert {name: row["kv_bytes"] for name, row in rows.items() if name != "masked"} == {
        "dense": 3 * 24 * token, "text only": text, "dense 8": 3 * 16 * token, "dense 4": 3 * 12 * token,
        **dict.fromkeys(["vica", "vica warm", "vica frozen", "vica frozen warm"], text + visual)}
    flops = {name: row["flops"] for name, row in rows.items()}
    assert flops["text only"] < flops["vica warm"] < flops["vica"] < flops["dense"] < flops["masked"]
    assert flops["vica frozen"] < flops["vica"] and flops["vica frozen warm"] < flops["vica warm"]  # its prefix asks nothing
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_bounds_are_those_of_the_specification():
    """7.2: 35 + 27 tokens around 576, and one where the paper's claim of 10x has a chance."""
    shape, layers = analytic.LLAVA_7B, method.PAPER_CROSS_LAYERS["llava-1.5-7b"]
    case, short = Case(8, 35, 27), Case(8, 1, 29)
    assert timed.expected_flops(shape, case, "dense", layers) // 8 == 8_476_791_144_448 + 2 * 4096 * 32000
    found = {pair: round(timed.bound(shape, case, *pair, layers), 2) for pair in
             [("dense", "vica"), ("dense", "vica frozen"), ("dense", "text only"), ("vica", "text only"), ("masked", "vica")]}
    assert found == {("dense", "vica"): 7.58, ("dense", "vica frozen"): 8.15, ("dense", "text only"): 10.53,
                     ("vica", "text only"): 1.39, ("masked", "vica"): 7.58}
    assert round(timed.bound(shape, short, "dense", "vica", layers), 2) == 11.48
    assert round(timed.bound(analytic.SMOLLM2_135M, Case(1, 35, 27), "dense", "vica", layers), 2) == 10.14


@pytest.mark.numerics
@torch.no_grad()
def test_vica_is_the_masked_definition_and_dense_is_the_stock_model(models):
    stock, ours = models
    assert (stock.config._attn_implementation, ours.config._attn_implementation) == ("sdpa", "sdpa")
    assert all(a is b for a, b in zip(stock.parameters(), ours.parameters(), strict=True))
    fns, _ = timed.variants(models, CASE, LAYERS, seed=0)
    x = Inputs(stock, CASE, seed=0)
    whole = stock(inputs_embeds=x.joined(16)).logits[:, -1:]
    text = stock(inputs_embeds=x.joined(0)).logits[:, -1:]
    close(fns["dense"]().logits, whole, EXACT)
    close(fns["text only"]().logits, text, EXACT)
    for name, update in (("vica", "full"), ("vica frozen", "frozen")):
        expected = reference.masked_reference(stock, method.ViCAConfig(LAYERS, update), x.layout, x.visual)[:, -1:]
        close(fns[name]().logits, expected, EXACT)
        close(fns[f"{name} warm"]().logits, expected, EXACT)
        far(expected, whole, 0.1)
        far(expected, text, 0.1)
    close(fns["masked"]()[:, -1:], fns["vica"]().logits, EXACT)
    far(fns["dense 8"]().logits, whole, 0.1)
    far(fns["vica"]().logits, fns["vica frozen"]().logits, 1e-2)


@pytest.mark.numerics
def test_agreement_is_of_ragged_rows_and_notices(monkeypatch):
    """Short, long, without a picture; a fast path that differs is refused by the model's own probe. In single precision, as where it is
    timed: shares of the largest logit, a few units in the last place of 6e-8."""
    found = timed.agreement(tiny("llama").config, "cpu")
    assert set(found) == {"full", "frozen"} and max(found.values()) < 5e-6
    real = method.forward
    monkeypatch.setattr(method, "forward", lambda model, config, text, places, *rest, **more: real(
        model, config, text, replace(places, positions=places.positions + 1), *rest, **more))
    with pytest.raises(UserError, match="do not follow from a token's state and position"):
        timed.agreement(tiny("llama").config, "cpu")


@pytest.mark.numerics
@torch.no_grad()
def test_room_is_the_stock_cache_without_the_copies(models):
    stock, _ = models
    ids = torch.randint(5, 96, (2, 9), generator=torch.Generator().manual_seed(0))
    plain, roomy = (stock(ids[:, :6], use_cache=True).past_key_values for _ in range(2))
    roomy.layers[:] = [Room.behind(layer, 3) for layer in roomy.layers]
    for i in range(6, 9):
        expected = stock(ids[:, i : i + 1], past_key_values=plain).logits
        close(stock(ids[:, i : i + 1], past_key_values=roomy).logits, expected, EXACT)
    assert roomy.get_seq_length() == 9 and cache_bytes(roomy) == cache_bytes(plain)
    assert roomy.layers[0].keys.data_ptr() == roomy.layers[0].room[0].data_ptr()


# -- decoding ----------------------------------------------------------------------------------------------
@pytest.mark.numerics
def test_decoding_sees_the_picture_and_goes_on_where_it_should(models, monkeypatch):
    """Each step at the next position, in a row that grows by one; the last logits are those of a whole pass."""
    seen, real = [], method.forward

    def forward(model, config, text, places, *rest, **more):
        out = real(model, config, text, places, *rest, **more)
        seen.append((places.positions[0].tolist(), out.logits[:, -1]))
        return out

    monkeypatch.setattr(method, "forward", forward)
    found = timed.decoding(models, Case(2, 3, 5, visual=16, decode=(1, 3)), LAYERS, 0, Clock(), rounds=2)
    assert {n: len(t["times"]) for n, t in found["vica"].items()} == {"1": 2, "3": 2}
    assert [positions for positions, _ in seen[:2]] == [[0, 1, 2, 19, 20, 21, 22, 23], [24]], "warms up with one step"
    steps = seen[2:6]
    assert [positions for positions, _ in steps] == [[0, 1, 2, 19, 20, 21, 22, 23], [24], [25], [26]]
    stock, ours = models
    x = Inputs(stock, CASE, seed=0)
    text = torch.cat([x.text, x.next, x.next, x.next], 1)
    where = torch.cat([x.layout.positions, torch.tensor([[24, 25, 26]] * 2)], 1)
    whole = real(ours, method.ViCAConfig(LAYERS), text, method.Places(where, x.layout.visual_positions), x.visual).logits[:, -1]
    close(steps[3][1], whole, EXACT)


def test_seconds_of_decoding_are_a_token(models, monkeypatch):
    """A dense step takes 3, a step of ours 1; prefill's time is not in it."""
    clock, real = Clock(), method.forward

    def forward(*args, **more):
        clock.now += 1.0 if args[2].shape[1] == 1 else 100.0
        return real(*args, **more)

    monkeypatch.setattr(method, "forward", forward)
    stock, ours = models
    handle = stock.register_forward_pre_hook(lambda module, args, kwargs: setattr(
        clock, "now", clock.now + (3.0 if kwargs["inputs_embeds"].shape[1] == 1 else 100.0)), with_kwargs=True)
    try:
        found = timed.decoding(models, Case(2, 3, 5, visual=16, decode=(1, 4)), LAYERS, 0, clock, rounds=3)
    finally:
        handle.remove()
    assert {name: [t["median"] for t in by_length.values()] for name, by_length in found.items()} == {
        "dense": [3.0, 3.0], "vica": [1.0, 1.0], "text only": [3.0, 3.0]}
    assert found["vica"]["4"]["times"] == [1.0] * 3


# -- what is made of it ------------------------------------------------------------------------------------
def row(median, flops=10, expected=10):
    return {"median": median, "iqr": 0.0, "times": [median] * 3, "flops": flops, "expected_flops": expected, "kv_bytes": 2**20}


def case_of(batch, suffix, **speedups):
    """A case with these speed-ups of dense over vica by mode, and a bound of 8."""
    found = {f"dense / {name.replace('_', ' ')}": {"median": v, "iqr": 0.0, "ratios": [v] * 3, "bound": 8.0}
             for name, v in speedups.items()}
    return {"batch": batch, "prefix": 35, "visual": 576, "suffix": suffix, "text": 35 + suffix, "rounds": 3, "ratios": found,
            "variants": {"dense": row(1.0)}, "difference": 0.0, "no_graph": {}, "decoding": {}}


def document_of(*cases, agreement=0.0):
    return {"settings": {"dtype": "float32"}, "agreement": {"full": agreement, "frozen": 0.0}, "not_run": [],
            "cases": {str(i): c for i, c in enumerate(cases)}}


def test_flags():
    assert speed.flags(document_of(case_of(8, 27, vica=8.7))) == []
    (found,) = speed.flags(document_of(case_of(8, 27, vica=8.9)))
    assert found == "suspicious: 0: dense / vica is 8.90x, but at most 8.00x is possible: the dense baseline is handicapped"
    wrong = case_of(8, 27)
    wrong["variants"]["vica"] = row(1.0, flops=9)
    assert speed.flags(document_of(wrong)) == ["suspicious: 0, vica: 9 FLOPs executed, not 10"]
    slow = case_of(8, 27)
    slow["ratios"]["masked / vica"] = {"median": 0.9, "bound": 8.0}
    assert speed.flags(document_of(slow)) == ["slower than the masked definition: 0: 0.90x"]
    (found,) = speed.flags(document_of(case_of(8, 27) | {"difference": 0.02}))
    assert found == "suspicious: 0: logits of ViCA and of its masked definition are 2 % apart"
    assert len(speed.flags(document_of(agreement=0.01))) == len(speed.flags(document_of(agreement=float("nan")))) == 1


def test_whether_the_papers_speedups_are_met_is_said_of_graphs_only():
    """Batch 1: more than 3.5x; batch 8: more than 10x; another batch has no claim, and no more has a loop of launches."""
    graph = {"vica, graph": 3.0, "vica frozen, graph": 3.6}
    found = speed.met(document_of(case_of(1, 27, **graph), case_of(8, 27, **graph), case_of(16, 27, **graph), case_of(1, 65, vica=9.0)))
    assert found == [
        "met: more than 3.5x at batch 1: 3.60x of at most 8.00x (dense / vica frozen, graph) with 62 text tokens",
        "not met: more than 10.0x at batch 8: 3.60x of at most 8.00x (dense / vica frozen, graph) with 62 text tokens"]


def test_ratios_are_paired_by_round_and_mode():
    clock, takes = Clock(), {"dense": 8.0, "vica": 2.0, "dense, graph": 6.0, "vica, graph": 1.0, "text only": 1.0}

    def step(name):
        clock.now += takes[name]

    timings = interleaved_timings({name: lambda name=name: step(name) for name in takes}, 0, 3, "cpu", 0, clock)
    found = {pair: (variants, ratio["ratios"]) for pair, variants, ratio in timed.ratios(timings)}
    assert found == {"dense / vica": (("dense", "vica"), [4.0] * 3), "dense / text only": (("dense", "text only"), [8.0] * 3),
                     "vica / text only": (("vica", "text only"), [2.0] * 3), "dense / vica, graph": (("dense", "vica"), [6.0] * 3)}


def test_the_table_says_times_bounds_bytes_and_what_is_missing():
    document = measured([Case(1, 3, 5, visual=16, decode=(1, 2))])
    document["not_run"] = [{"case": "B=8 P=3 Q=5", "reason": "out of device memory"}]
    document["cases"]["B=1 P=3 Q=5"]["no_graph"] = {"vica": "capture failed"}
    text = "\n".join(tables.gpu({"gpu": {"processes": [document]}}))
    ratio = document["cases"]["B=1 P=3 Q=5"]["ratios"]["dense / vica"]
    assert f"dense / vica {ratio['median']:.2f} ({ratio['bound']:.2f})" in text
    for part in ("B=1 P=3 N=16 Q=5, 3 rounds, ms: dense ", "KV cache, MiB: dense 0.0", "decoding, ms a token: dense ", " over 2",
                 "no CUDA graph: vica: capture failed", "not run: B=8 P=3 Q=5: out of device memory", "2 layers look"):
        assert part in text, part


# -- time and files ----------------------------------------------------------------------------------------
CASES = [Case(1, 3, q, visual=16) for q in (5, 9, 40, 200)]


@pytest.fixture
def planned(monkeypatch):
    """`measure` with cases that take as long as their dense FLOPs say, on a clock of ours."""
    clock, ran = Clock(), []

    def run_case(models, shape, case, layers, run, seconds, clock):
        a_round = timed.expected_flops(shape, case, "dense", layers) / 1e6
        ran.append((case.name, seconds))
        clock.now += 9 * a_round
        return case.as_json() | {
            "variants": {}, "difference": 0.0, "ratios": {"dense / vica": {"median": 1.0, "bound": 2.0}}, "rounds": 5,
            "seconds": 9 * a_round, "round_seconds": a_round, "text": case.text}

    monkeypatch.setattr(speed, "run_case", run_case)

    def measure(**options):
        ran.clear()
        return measured(options.pop("cases", CASES), clock=clock, **options), [name for name, _ in ran]

    return measure


def test_the_largest_cases_are_dropped_and_named(planned):
    shape = Shape.of(AutoConfig.for_model(**tiny("llama").config))
    a_round = [timed.expected_flops(shape, case, "dense", LAYERS) / 1e6 for case in CASES]
    document, ran = planned(cases=CASES[::-1], time_limit=9 * sum(a_round[:2]) + 7 * a_round[2] - 0.1)
    assert ran == ["B=1 P=3 Q=5", "B=1 P=3 Q=9"]
    assert [entry["case"] for entry in document["not_run"]] == ["B=1 P=3 Q=200", "B=1 P=3 Q=40"]
    assert "were left" in document["not_run"][0]["reason"]


def test_the_smallest_case_always_runs_and_all_do_if_there_is_time(planned):
    document, ran = planned(time_limit=0.0)
    assert ran == ["B=1 P=3 Q=5"] and len(document["not_run"]) == 3
    document, ran = planned(time_limit=1e6)
    assert len(ran) == 4 and document["not_run"] == []


def test_out_of_memory_is_a_reason_not_a_crash(monkeypatch):
    def run_case(*args, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speed, "run_case", run_case)
    document = measured()
    assert document["not_run"] == [{"case": "B=2 P=3 Q=5", "reason": "out of device memory"}]


def test_saved_after_each_case_and_continued(planned, tmp_path, monkeypatch):
    """A run that was killed has whole files, and the next one does the rest."""
    out, saved, write = tmp_path / "speed.json", [], case_runner.write_json

    def spy(path, value):
        write(path, value)
        saved.append(len(json.loads(path.read_text())["cases"]))
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(case_runner, "write_json", spy)
    with pytest.raises(KeyboardInterrupt):
        planned(out=out)
    assert saved == [1, 2]
    document, ran = planned(out=out)
    assert ran == ["B=1 P=3 Q=40", "B=1 P=3 Q=200"] and len(document["cases"]) == 4 and document == json.loads(out.read_text())
    _, ran = planned(out=out)
    assert ran == []
    _, ran = planned(out=out, seed=1)
    assert len(ran) == 4, "other settings: everything anew"
    changed = [Case(1, 3, 5, visual=16, decode=(1,)), *CASES[1:]]
    _, ran = planned(out=out, seed=1, cases=changed)
    assert ran == ["B=1 P=3 Q=5"], "another case of the same name: that one anew"
    out.write_text("{")
    _, ran = planned(out=out)
    assert len(ran) == 4, "damaged: everything anew"


def test_rounds_fit_into_the_seconds(models):
    """At least FEWEST; never more than asked."""
    shape = Shape.of(models[0].config)
    for seconds, repeats, rounds in ((0.0, 50, FEWEST), (1e6, 7, 7)):
        run = Run("cpu", "float32", repeats=repeats, warmup=0)
        result = timed.run_case(models, shape, CASE, LAYERS, run, seconds, time.perf_counter)
        assert result["rounds"] == rounds


# -- commands ----------------------------------------------------------------------------------------------
def test_no_gpu_is_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert speed.main(["--device", "cuda"]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "no CUDA device" in error


@pytest.mark.parametrize("arguments, says", [
    (["--out", "{folder}"], "is a folder"), (["--out", "{folder}/file/x.json"], "its folder cannot be made"),
    (["--time-limit", "nan"], "--time-limit nan"), (["--time-limit", "-3"], "--time-limit -3"), (["--time-limit", "0"], "above 0")])
def test_what_cannot_be_written_or_meant_is_told_before_anything_is_timed(arguments, says, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speed, "measure_cpu", lambda *_: pytest.fail("timed"))
    (tmp_path / "file").write_text("")
    assert speed.main([each.format(folder=tmp_path) for each in arguments]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and says in error and (tmp_path / "file").read_text() == ""


def test_rehearsal_of_the_gpu_rung(monkeypatch, tmp_path, capsys):
    """The shape, layers and grid of the specification, and the tower beside it; here with a tiny stand-in."""
    asked, real = [], speed.measure

    def measure(shape, layers, cases, run, **options):
        asked.append((shape, layers, cases, run))
        small = tiny("llama").config
        run = replace(run, device="cpu", dtype="float32", repeats=2, warmup=1, vision=False)
        return real(Shape.of(AutoConfig.for_model(**small)), LAYERS, [Case(1, 1, 2, visual=4, decode=(1,))], run, config=small, **options)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(speed, "measure", measure)
    assert speed.main(["--device", "cuda", "--out", str(tmp_path), "--time-limit", "100"]) == 0
    ((shape, layers, cases, run),) = asked
    assert shape == analytic.LLAVA_7B and layers == method.PAPER_CROSS_LAYERS["llava-1.5-7b"]
    assert {(c.prefix, c.suffix) for c in cases} == {(1, 29), (35, 27), (35, 65), (35, 262)} and {c.visual for c in cases} == {576}
    assert sorted({c.batch for c in cases}) == [1, 8, 16, 32] and len(cases) == 16
    assert {c.decode for c in cases if c.suffix == 27} == {(1, 16, 128)} and {c.decode for c in cases if c.suffix != 27} == {()}
    assert run == Run("cuda", "bfloat16", repeats=50, warmup=10, time_limit=100.0, vision=True)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(last["speedups"]) == ["B=1 P=1 Q=2"] == list(last["bounds"])
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


def test_the_tower_is_clips_without_its_last_layer(models, monkeypatch):
    """Spec 7.1: 23 layers of ViT-L/14-336 are 0.366 TFLOP a picture; 20,979,712 parameters in the projector of 7B."""
    stock = torch.nn.Linear(1, 1, device="meta")
    stock.config, stock.device, stock.dtype = AutoConfig.for_model("llama", hidden_size=4096), torch.device("meta"), torch.bfloat16
    found = timed.tower(2, stock)
    assert list(found) == ["vision tower", "projector"]
    assert counted(found["vision tower"]).total == 2 * analytic.clip_tower_flops(23)
    assert counted(found["projector"]).total == 2 * analytic.projector_flops(4096)
    assert found["projector"]().shape == (2, 576, 4096)
    assert round(analytic.clip_tower_flops(23) / 1e12, 3) == 0.366


def test_the_config_of_a_shape_has_that_shape():
    for shape in (analytic.LLAVA_7B, analytic.SMOLLM2_135M):
        assert Shape.of(AutoConfig.for_model(**shape.config(max_position_embeddings=4096))) == shape and not shape.tied
