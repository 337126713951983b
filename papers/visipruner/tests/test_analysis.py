"""Knock-outs against the stock model with masks, the logit lens, what is looked at, calibration by hand, and how questions are asked."""

import pytest
import torch

from common.data import scenes
from common.standins.llava import folder_of
from common.vision import tower
from common.vision.llava import N_VISUAL, load_llava
from common.vision.parts import parts_of

from .. import analysis, scoring
from ..families import hiding
from ..method import influence, paper
from ..pruners import Nothing, VisiPruner
from ..session import PruningSession
from .test_method import LAYERS, WIDTH, alone, close, decoder, prompts


@pytest.fixture(scope="module")
def model():
    return decoder()


@pytest.fixture(scope="module")
def case():
    return alone(*prompts(padded=False), 0)


def under(model, case, pruner):
    with torch.no_grad(), PruningSession(model, pruner, case[1]):
        return model(**case[0]).logits


# -- knock-outs ----------------------------------------------------------------------------------------------
def text_blind(model, call, layers, slots):
    """The stock model whose text does not see these slots in these layers; the picture sees itself as it did."""
    seen = torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril()
    text = torch.tensor([not 4 <= i < 9 for i in range(WIDTH)])
    seen[text[:, None] & torch.isin(torch.arange(WIDTH), torch.tensor(slots))] = False

    def act(module, args, kwargs):
        return args, kwargs | {"attention_mask": seen[None, None]}

    hooks = [model.model.layers[i].register_forward_pre_hook(act, with_kwargs=True) for i in layers]
    try:
        with torch.no_grad():
            return model(**call).logits
    finally:
        for each in hooks:
            each.remove()


@pytest.mark.parametrize("layers", [(0,), (1, 3), range(LAYERS)])
def test_hidden_before_the_softmax_is_the_stock_model_with_a_mask(model, case, layers):
    ours = under(model, case, analysis.Knockout(layers, "before"))
    assert close(ours, text_blind(model, case[0], layers, list(range(4, 9)))) and not close(ours, model(**case[0]).logits, 1e-3)


def test_the_three_ways_differ_and_no_layer_is_nothing(model, case):
    with torch.no_grad():
        dense = model(**case[0]).logits
    assert torch.equal(under(model, case, analysis.Knockout(())), dense)
    ways = [under(model, case, analysis.Knockout((1,), mode)) for mode in ("before", "after", "merge")]
    assert not any(close(a, b, 1e-3) for i, a in enumerate(ways) for b in [dense, *ways[:i]])
    assert not close(under(model, case, analysis.Knockout((1,), "merge", onto=3)), ways[2], 1e-3)
    assert not close(under(model, case, analysis.Knockout((1,), "before", among=True)), ways[0], 1e-4), "the picture's own attention"


def test_the_tokens_that_are_hidden_are_those_of_the_highest_attention(model, case):
    look = analysis.sinks()
    under(model, case, look)
    attention, _, visual = look.by_layer[0]
    order = attention[0].masked_fill(~visual[0], -1).argsort(descending=True)[:5].tolist()
    for which, count, slots in (("highest", 2, order[:2]), ("lowest", 2, order[3:]), ("all but highest", 2, order[2:])):
        ours = under(model, case, analysis.Knockout((0,), "before", which=which, count=count))
        assert close(ours, text_blind(model, case[0], (0,), slots)), which
    lots = [under(model, case, analysis.Knockout((0,), "before", which="random", count=2, seed=seed)) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(lots[0], lots[1]) and not all(torch.equal(lots[0], lot) for lot in lots[2:])


# -- looking -------------------------------------------------------------------------------------------------
def test_looking_changes_nothing_and_sees_weights_and_values(model, case):
    look = analysis.influences()
    with torch.no_grad():
        dense = model(**case[0]).logits
        assert torch.equal(under(model, case, look), dense) and set(look.by_layer) == set(range(LAYERS))
    sink = analysis.sinks()
    under(model, case, sink)
    attention, size, _ = sink.by_layer[2]
    assert attention.sum() == pytest.approx(1.0) and (size > 0).all() and attention.shape == size.shape == (1, WIDTH)


def test_the_last_state_of_the_lens_is_the_models_answer(model, case):
    with torch.no_grad():
        out = model(**case[0], output_hidden_states=True)
        found = analysis.logit_lens(model, out.hidden_states)
        second = model.lm_head(model.model.norm(out.hidden_states[2][:, -1])).float().log_softmax(-1)
    assert found.shape == (LAYERS, 1, 60)
    torch.testing.assert_close(found[-1], out.logits[:, -1].float().log_softmax(-1))
    torch.testing.assert_close(found[1], second)


# -- calibration ---------------------------------------------------------------------------------------------
def outcome_of(boundaries: dict[int, float], seen: list):
    """A model that agrees while the threshold is at most `boundaries[boundary]`, and whose pairs fall with the threshold."""
    def outcome(config):
        seen.append((config.boundary, config.tokens_threshold))
        good = config.tokens_threshold <= boundaries.get(config.boundary, 0.0)
        return (0.99 if good else 0.5), (2 + config.boundary) / 10 - config.tokens_threshold / 10

    return outcome


def test_calibration_takes_the_fewest_pairs_that_agree():
    """Boundary 1 allows .1 (pairs .29), boundary 2 allows .5 (pairs .35): fewer pairs win; boundaries below allow nothing."""
    seen = []
    config, tried = analysis.calibrate(outcome_of({1: 0.1, 2: 0.5, 3: 0.5}, seen), 6)
    assert (config.boundary, config.tokens_threshold, config.relative, config.shallow) == (1, 0.1, True, None)
    assert {boundary for boundary, _ in seen} == {-1, 0, 1, 2, 3} and len(seen) == len(tried) < 5 * 5
    assert all(each["threshold"] <= 0.1 for each in tried if each["boundary"] == 1 and each["agreement"] > 0.9)


def test_calibration_without_an_agreement_takes_what_agrees_most():
    config, tried = analysis.calibrate(lambda c: (0.6 if c.boundary == 2 else 0.4, 0.5), 5)
    assert config.boundary == 2 and len(tried) >= 4


# -- questions -----------------------------------------------------------------------------------------------
def test_prompts_are_the_stock_llava_on_pixels():
    """A question about a picture's features, one a row, is answered as `LlavaForConditionalGeneration` answers it on the picture."""
    small = load_llava(folder_of(0))
    parts = parts_of(small)
    asked = scoring.questions("val", 1)[:3]
    shown = tower.encode(small.llava.model.vision_tower, [scenes.scene(0, "val").image()], (2, 9, 11))
    image = small.llava.config.image_token_id
    for batch in scoring.prompts(parts, asked, shown):
        for b, q in enumerate(batch.asked):
            ids = torch.tensor([[*parts.prefix, *[image] * N_VISUAL, *parts.tokenizer.convert_tokens_to_ids(q.text.split())]])
            with torch.no_grad():
                stock = small.llava(input_ids=ids, pixel_values=tower.pixels([scenes.scene(0, "val").image()], 112)).logits[:, -1]
                ours, trace = scoring.answers(parts, batch, Nothing())
            torch.testing.assert_close(ours[b], stock[0].log_softmax(-1), atol=0.02, rtol=0.02)  # features are kept in half precision
            assert trace.visual == [[N_VISUAL] * len(batch.asked)] * 8


def test_influence_in_a_session_is_that_of_the_rows_that_it_saw(model, case):
    """What the rule was fed with follows from the row of attention that the session handed on, whichever layers come behind."""
    rows = {}

    class Kept(VisiPruner):
        def keep(self, layer, view, seen):
            rows[layer] = influence(seen.weights, seen.values)
            return super().keep(layer, view, seen)

    pruner = Kept(paper(boundary=-1, layer_threshold=2, relative=True, tokens_threshold=0.15, shallow=None))
    ours = under(model, case, pruner)
    of = rows[0]
    stay = [slot for slot in range(4, 9) if of.norm[0, slot] / of.output[0] > 0.15]
    assert pruner.rules[0].filter_layer == 0 and pruner.rules[0].kept.tolist() == stay
    gone = dict.fromkeys(set(range(4, 9)) - set(stay), 1)
    exit_layer = pruner.rules[0].exit_layer
    gone |= {} if exit_layer is None else dict.fromkeys(stay, exit_layer + 1)
    theirs = hiding(model, case[0], [gone])
    assert close(ours[~case[1]], theirs[~case[1]])
