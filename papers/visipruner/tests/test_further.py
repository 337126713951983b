"""Jobs that are asked for by name: leaving out each token, other arithmetic, rivals at equal pairs, another family."""

import json
import types

import pytest
import torch

from common.attention import Rows
from common.standins import llava_qwen3
from common.standins.llava import stand_in

from .. import eval as harness
from .. import scoring
from ..experiments import equal, llava, oracle, precision, qwen3, smollm2
from ..method import Influence, paper
from ..pruners import Nothing, VisiPruner
from ..session import View


@pytest.fixture(scope="module")
def few():
    return llava.Set.of(stand_in(0), "test", 1)


@pytest.fixture(scope="module")
def batch(few):
    return next(iter(scoring.prompts(few.parts, few.asked, few.shown)))


# -- leaving out ---------------------------------------------------------------------------------------------
@torch.no_grad()
def test_one_token_less_is_all_but_one_and_all_is_the_model(few, batch):
    def answers(pruner):
        return scoring.answers(few.parts, batch, pruner)[0]

    stay = torch.ones(len(batch.asked), 64, dtype=torch.bool)
    assert torch.equal(answers(oracle.Given(3, stay)), answers(Nothing()))
    stay[:, 17] = False
    without, trace = scoring.answers(few.parts, batch, oracle.Without(3, 17))
    assert torch.equal(without, answers(oracle.Given(3, stay)))
    assert trace.visual == [[count] * len(batch.asked) for count in (64, 64, 64, 64, 63, 63, 63, 63)]
    assert not torch.equal(without, answers(oracle.Without(3, 18)))


@torch.no_grad()
def test_importance_is_what_the_own_answer_loses(few, batch, monkeypatch):
    """Without label: of an answer that is wrong, too. Two tokens of 64 by the definition."""
    logs, _ = scoring.answers(few.parts, batch, Nothing())
    own = logs.argmax(-1)
    found = oracle.importance(few, batch)
    assert found.shape == (len(own), 64)
    for number in (0, 40):
        less, _ = scoring.answers(few.parts, batch, oracle.Without(3, number))
        assert torch.equal(found[:, number], torch.stack([logs[i, k] - less[i, k] for i, k in enumerate(own)]))


def test_rank_correlation_by_hand():
    """Ranks 0 1 2 3 against 1 0 3 2: 1 - 6 (1 + 1 + 1 + 1) / (4 x 15)."""
    a, b = torch.tensor([[1.0, 2, 3, 9], [1, 2, 3, 4], [1, 2, 3, 4]]), torch.tensor([[2.0, 1, 7, 5], [1, 2, 3, 4], [9, 3, 2, 1]])
    assert oracle.correlation(a, b).tolist() == pytest.approx([0.6, 1.0, -1.0])


# -- other arithmetic ----------------------------------------------------------------------------------------
def test_decisions_are_held_against_each_other_by_question():
    usual, other = [(2, (5, 6)), (None, ()), (1, ()), (3, (4,))], [(2, (5, 7)), (None, ()), (1, ()), (2, (4, 9))]
    assert precision.compared(usual, [1, 2, 3, 4], other, [1, 2, 3, 5]) == {
        "layer": "1110", "number": "1110", "tokens": "0110", "answer": "1110", "overlap": [0.3333, 1.0, 0.5]}


def test_a_cosine_of_half_precision_is_as_coarse_as_the_margin(monkeypatch):
    """.9949 is below .995, and in bfloat16 it is .9961."""
    monkeypatch.setattr(precision, "influence", lambda weights, values: Influence(
        torch.tensor([[0.9949, 0.999]]), torch.tensor([[0.5, 0.1]]), torch.tensor([1.0])))
    view = View(torch.tensor([[0, 1]]), torch.tensor([[True, True]]), torch.tensor([1]), 2)
    pruner = precision.Rounded(paper(boundary=-1, shallow=None))
    pruner.begin(view, 2)
    kept = pruner.keep(0, view, Rows(torch.ones(1, 1, 2), torch.ones(1, 1, 2, 1)))
    assert kept.tolist() == [[True, True]] and pruner.rules[0].filter_layer is None


def test_eager_attention_decides_as_sdpa_does(few):
    usual = precision.decisions(few, VisiPruner(equal.calibrated(0)))
    eager = precision.copied(few.parts.decoder, lambda decoder: decoder.set_attn_implementation("eager"))
    parts = types.SimpleNamespace(**vars(few.parts) | {"decoder": eager})
    assert precision.decisions(llava.Set(parts, few.asked, few.shown), VisiPruner(equal.calibrated(0))) == usual
    assert any(layer is not None for layer, _ in usual[0]), "else nothing was compared"


# -- equal pairs ---------------------------------------------------------------------------------------------
def test_settings_are_those_that_the_recorded_run_calibrated():
    found = json.loads((harness.HERE / "results" / "measurements.cpu-small.json").read_text())
    found = found.get("results", found)
    for seed, (boundary, threshold) in equal.CALIBRATED.items():
        config = found[f"pruned/seed{seed}"]["config"]
        assert (config["boundary"], config["threshold"]) == (boundary, threshold)


def test_rivals_have_no_fewer_pairs_on_the_questions_that_are_asked(monkeypatch):
    monkeypatch.setitem(llava.SIZES, "small", llava.Size((0,), test=2, looked=1, validation=1))
    found = equal.equal(0, "small")
    ours = found["pairs"]["VisiPruner"]
    assert ours <= found["pairs"]["lot at its K"] < 1
    assert all(ours <= found["pairs"][name] < ours + 0.03 for name in ("FastV", "PyramidDrop")), found["pairs"]
    assert {len(bits) for bits in found["test"].values()} == {len(found["pictures"])} and json.dumps(found)


def test_rivals_drop_where_validation_pictures_say_and_all_answer_the_test_pictures(monkeypatch):
    sets, chosen_on, measured = {}, [], llava.measured

    def of(parts, split, count):
        return sets.setdefault((split, count), llava.Set.of(parts, split, count))

    monkeypatch.setattr(equal, "Set", types.SimpleNamespace(of=of))
    monkeypatch.setattr(llava, "measured", lambda asked, pruner: chosen_on.append(asked) or measured(asked, pruner))
    found = equal.compared(stand_in(0), equal.calibrated(0), llava.Size((0,), test=2, looked=1, validation=1))
    assert set(sets) == {("val", 1), ("test", 2)} and len(chosen_on) > len(found["settings"])
    assert all(asked is sets["val", 1] for asked in chosen_on)
    assert found["pictures"] == [q.picture for q in sets["test", 2].asked]


# -- another family ------------------------------------------------------------------------------------------
def test_the_default_jobs_run_on_another_model(monkeypatch):
    seen = []
    monkeypatch.setattr(qwen3, "stand_in", lambda seed: f"another {seed}")
    monkeypatch.setattr(llava, "stand_in", lambda seed: pytest.fail("the Llamas are not asked for"))
    for name in ("knocked_out", "looked_at"):
        monkeypatch.setattr(llava, name, lambda parts, size, name=name: seen.append((name, parts, size)) or {})
    qwen3.knocked(0, "smoke")
    qwen3.looked(1, "smoke")
    assert seen == [("knocked_out", "another 0", llava.SIZES["smoke"]), ("looked_at", "another 1", llava.SIZES["smoke"])]
    monkeypatch.setattr(llava, "features", lambda split, size: f"{split} at {size}")
    assert qwen3.features("smoke") == "test at smoke"
    chosen = {"boundary": 3, "threshold": 0.25}
    monkeypatch.setattr(llava, "pruned_by", lambda parts, size: {"of": parts, "config": chosen})
    monkeypatch.setattr(equal, "compared", lambda parts, config, size: (parts, config.boundary, config.tokens_threshold, config.shallow))
    assert qwen3.pruned(2, "smoke") == {"of": "another 2", "config": chosen, "equal": ("another 2", 3, 0.25, None)}


# -- a pretrained decoder ------------------------------------------------------------------------------------
def test_the_jobs_of_the_pretrained_decoder_run(monkeypatch):
    """On the Llama of eight blocks in its place, with a depth of its own: what quantities and tables read is there."""
    from .. import tables

    depth = llava.Depth((0, 1), (2, 3), (0, 1, 3, 6, 7), half=3, sinks=1, hidden=(0, 1, 7), alone=(0, 4, 7))
    monkeypatch.setattr(smollm2, "stand_in", stand_in)
    monkeypatch.setattr(smollm2, "THIRTY", depth)
    monkeypatch.setattr(smollm2, "PLACES", ((1, 3, 5),))
    monkeypatch.setattr(smollm2, "THRESHOLDS", (0.05,))
    monkeypatch.setattr(smollm2.llava.analysis, "calibrate", lambda outcome, n, thresholds: (
        equal.calibrated(0), [{"boundary": 3, "threshold": 0.01, "agreement": outcome(equal.calibrated(0))[0], "pairs": 0.9}]))
    found = {"smollm2/features/test": smollm2.features("smoke")}
    for job in ("knocked", "looked", "recognised", "pruned"):
        found[f"smollm2/{job}/seed0"] = getattr(smollm2, job)(0, "smoke")
    spoken, n = found["smollm2/recognised/seed0"], len(llava.asked("test", smollm2.SIZES["smoke"].test))
    assert {len(bits) for bits in (*spoken["said"].values(), *spoken["another picture"].values(), spoken["answer"])} == {n}
    assert [*spoken["said"]] == [str(b) for b in range(8)] and spoken["said"] != spoken["another picture"]
    last = [spoken["words"][letter][0] for letter in spoken["said"]["7"]]
    own = llava.Set.of(stand_in(0), "test", smollm2.SIZES["smoke"].test)
    hits = [word == q.answer for word, q in zip(last, own.asked)]
    assert hits == own.run().right, "it answers in words that answer"
    assert json.dumps(found) and "SmolLM2" in "\n".join(tables.smollm2(found))
    assert smollm2.kind_of("row") == smollm2.kind_of("digit") == "number" and smollm2.kind_of("shade") == "shade"


@torch.no_grad()
def test_its_decoder_is_pruned_as_its_definition_says():
    """An untrained one: grouped queries and normed keys, and dropping is hiding (check_model), with shared key-value heads."""
    model = llava_qwen3.build(0, torch.randn(5, 64, 1152, generator=torch.Generator().manual_seed(0)), tower_too=False)
    decoder = model.language_model().eval()
    attention = decoder.model.layers[0].self_attn
    assert decoder.config.num_key_value_heads * 2 == decoder.config.num_attention_heads and attention.q_norm.weight.shape == (24,)
    embeds, visual = torch.randn(2, 20, 96, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 20, dtype=torch.bool)
    visual[:, 5:17] = True
    parts = types.SimpleNamespace(decoder=decoder)
    logs, trace = scoring.answers(parts, scoring.Prompts([], embeds, visual), VisiPruner(paper(
        boundary=0, shallow=None, layer_threshold=2.0, relative=True, tokens_threshold=0.1)))
    assert logs.shape == (2, len(model.tokenizer)) and trace.visual[1] == [12, 12] and max(trace.visual[2]) < 12
