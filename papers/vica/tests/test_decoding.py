"""Word by word is all at once: with the cache, at every split, for every row of a mixed batch."""

import pytest
import torch

from common.vision.visual_tokens import kept_by, last_slots
from tests.numerics import close

from .. import method, pruning
from ..baselines import dense_on, last_layers, random_layers, uniform_layers
from ..decoding import generate
from ..method import Places, ViCACache, ViCAConfig
from ..reference import masked_reference
from .conftest import IMAGE, PROMPTS, batch, pictures

EXACT = 1e-12  # of the largest logit: models are in double precision


def whole(model, config, layout, visual):
    embeds = model.get_input_embeddings()(layout.ids)
    with torch.no_grad():
        return method.forward(model, config, embeds, layout, visual).logits


@pytest.mark.numerics
@pytest.mark.parametrize("family, attention", [("llama", "sdpa"), ("qwen3", "eager")])
@pytest.mark.parametrize("update", ["full", "frozen"])
def test_decoding_is_prefill_at_every_split(decoder, family, attention, update):
    model, config = decoder(family, attention), ViCAConfig((0, 2), update)
    layout, *_ = batch([PROMPTS[2]])
    visual, embeds = pictures(layout), model.get_input_embeddings()(layout.ids)
    wanted = whole(model, config, layout, visual)
    behind = int((layout.positions[0] < layout.visual_positions[0, 0]).sum()) + 1  # the first call sees the picture
    for first in range(behind, layout.ids.shape[1]):
        cache, out = ViCACache(), []
        for start, stop in [(0, first), *((i, i + 1) for i in range(first, layout.ids.shape[1]))]:
            places = Places(layout.positions[:, start:stop], layout.visual_positions if start == 0 else None)
            with torch.no_grad():
                out.append(method.forward(model, config, embeds[:, start:stop], places, None if start else visual, cache).logits)
        close(torch.cat(out, 1), wanted, EXACT)
        assert cache.get_seq_length() == layout.ids.shape[1] and cache.visual.keys[0].shape[2] == 4
        assert set(cache.visual.keys) == {0, 2}


@pytest.mark.numerics
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("update", ["full", "frozen"])
def test_generation_of_a_mixed_batch_is_that_of_its_rows(decoder, side, update):
    """Against greedy decoding without a cache, by the definition, one row after the other."""
    model, config, count = decoder(), ViCAConfig((0, 2), update), 5
    layout, *_ = batch(PROMPTS, side)
    said = generate(model, config, layout, pictures(layout), count)
    for prompt, got in zip(PROMPTS, said):
        ids = list(prompt)
        for _ in range(count):
            alone, *_ = batch([ids])
            with torch.no_grad():
                ids.append(int(masked_reference(model, config, alone, pictures(alone))[0, -1].argmax()))
        assert got == ids[len(prompt) :]


def test_generation_ends_at_the_end_token_of_each_row(decoder):
    model, config = decoder(), ViCAConfig((0, 2))
    layout, *_ = batch(PROMPTS)
    free = generate(model, config, layout, pictures(layout), 6)
    end = free[1][2]
    stopped = generate(model, config, layout, pictures(layout), 6, eos_token_id=end)
    for got, row in zip(stopped, free):
        assert got == (row[: row.index(end) + 1] if end in row else row)


def test_several_end_tokens_end_a_row_at_the_first_of_them(decoder):
    """A chat model has two and more; 0 is a token like any other."""
    model, config = decoder(), ViCAConfig((0, 2))
    layout, *_ = batch(PROMPTS)
    free = generate(model, config, layout, pictures(layout), 6)
    ends = [free[1][2], free[2][3], 0]
    for given in (ends, tuple(ends)):
        stopped = generate(model, config, layout, pictures(layout), 6, eos_token_id=given)
        for got, row in zip(stopped, free):
            first = next((i for i, token in enumerate(row) if token in ends), None)
            assert got == (row if first is None else row[: first + 1])
    assert generate(model, config, layout, pictures(layout), 6, eos_token_id=[]) == free


def test_an_answer_goes_on_with_the_segment_of_its_question(decoder):
    """Rows of questions in segments (layout.packed): the last one is answered as it is alone, by what it asks and not by the prefix."""
    from dataclasses import replace

    from common.vision.layout import packed

    model, config = decoder(), ViCAConfig((0, 2))
    questions = [([20, 21, 22], [-100] * 3), ([30, 31], [-100] * 2)]
    alone = packed([1, 5], [[questions[1]]], 4)
    visual = pictures(alone)
    plain = generate(model, config, replace(alone, segments=torch.zeros_like(alone.segments)), visual, 6)
    assert generate(model, config, alone, visual, 6) == plain
    assert generate(model, config, packed([1, 5], [questions], 4), visual, 6) == plain
    assert generate(model, config, packed([1, 5], [questions[::-1]], 4), visual, 6) != plain


@pytest.mark.parametrize("update", ["full", "frozen"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_kept_picture_answers_the_next_question_to_its_last_token(decoder, update, side):
    """Kept from a first question; prefill, decoding by the cache, and `generate` with another text are those of a fresh picture."""
    model, config = decoder(), ViCAConfig((0, 2), update)
    first, *_ = batch(PROMPTS[1:3], side)
    visual = pictures(first)
    kept = method.compute_visual_kv(model, visual, first.visual_positions, config.cross_layers, first.visual_real)
    question, *_ = batch([[1, 6, *[IMAGE] * 4, 20, 21, 22], [1, 5, 6, 7, 8, 9, *[IMAGE] * 4, 30, 31]], side)
    assert generate(model, config, question, kept, 5) == generate(model, config, question, visual, 5)
    embeds, new = model.get_input_embeddings()(question.ids), model.get_input_embeddings()(torch.tensor([[40], [41]]))
    following = Places(question.positions.amax(1, keepdim=True) + 1)
    logits = []
    for shown in (visual, kept):
        cache = ViCACache()
        with torch.no_grad():
            before = method.forward(model, config, embeds, question, shown, cache).logits[question.real]
            logits.append(torch.cat([before, method.forward(model, config, new, following, past_key_values=cache).logits[:, 0]]))
        assert cache.visual is not None and set(cache.visual.keys) == {0, 2}
    close(logits[1], logits[0], EXACT)
    with pytest.raises(ValueError, match=r"kept for layers \[0, 2\], and \[1\] look, too"):
        method.forward(model, ViCAConfig((0, 1)), embeds, question, kept)


def test_a_picture_that_is_last_can_be_answered(decoder):
    """No text behind it: the position goes on behind the picture, and the last text slot, which is before it, answers."""
    model, config = decoder(), ViCAConfig((0, 2))
    layout, *_ = batch([[1, 5, *[IMAGE] * 4]])
    visual, embed = pictures(layout), model.get_input_embeddings()
    said = generate(model, config, layout, visual, 2)[0]
    cache = ViCACache()
    with torch.no_grad():
        out = method.forward(model, config, embed(layout.ids), Places(layout.positions, layout.visual_positions), visual, cache)
        assert said[0] == int(out.logits[0, -1].argmax())
        out = method.forward(model, config, embed(torch.tensor([said[:1]])), Places(torch.tensor([[6]])), past_key_values=cache)
    assert said[1] == int(out.logits[0, -1].argmax())


@pytest.mark.numerics
def test_visual_keys_can_be_kept_for_the_next_question_and_follow_beams(decoder):
    model, config = decoder(), ViCAConfig((0, 2))
    layout, *_ = batch([PROMPTS[1], PROMPTS[2]])
    visual, embeds = pictures(layout), model.get_input_embeddings()(layout.ids)
    kv = method.compute_visual_kv(model, visual, layout.visual_positions, config.cross_layers, layout.visual_real)
    again = method.forward(model, config, embeds, Places(layout.positions, real=layout.real), kv).logits
    close(again[layout.real], whole(model, config, layout, visual)[layout.real], EXACT)
    assert kv.bytes() == 2 * 2 * 2 * 2 * 4 * 8 * 8  # keys and values, layers, rows, heads, tokens, head size, bytes
    order = torch.tensor([1, 0, 1])
    beams = method.forward(model, config, embeds[order], layout.rows(order), kv.select(order)).logits
    close(beams[layout.real[order]], again[order][layout.real[order]], EXACT)


# -- fewer visual tokens -----------------------------------------------------------------------------------
def test_the_paper_s_schedule_has_its_mean():
    assert pruning.mean_keep(pruning.PAPER_SCHEDULE) == 0.5
    assert set(pruning.PAPER_SCHEDULE) == set(method.PAPER_CROSS_LAYERS["llava-1.5-7b"])


@pytest.mark.numerics
def test_pyramid_drop_ranks_by_the_last_token_s_attention(decoder):
    """The definition's own attention map in the first layer of C, in a padded batch; what is dropped stays dropped."""
    model, config = decoder("llama", "sdpa"), ViCAConfig((0, 1, 2))
    layout, *_ = batch([PROMPTS[1], PROMPTS[2]], "left")
    visual = pictures(layout)
    keep = pruning.ranked(model, config, layout, visual, {0: 1.0, 1: 0.5, 2: 0.25})
    assert [int(k.sum(1).unique()) for k in keep.values()] == [4, 2, 1] and not (keep[2] & ~keep[1]).any()
    eager, maps = decoder("llama", "eager"), {}
    hook = eager.model.layers[0].self_attn.register_forward_hook(lambda m, a, out: maps.update(first=out[1]))
    with torch.no_grad():
        masked_reference(eager, config, layout, visual)
    hook.remove()
    score = maps["first"].mean(1)[torch.arange(2), 4 + last_slots(layout), :4]
    assert (score.sort().values.diff() > 1e-4).all(), "no ties, which roundings would decide"
    assert torch.equal(keep[1], kept_by(score, 2))
    assert model.config._attn_implementation == "sdpa"
    for shares, says in (({0: 0.5, 1: 0.5, 2: 0.5}, "nothing has ranked"),
                         ({0: 1.0, 2: 0.5}, r"for layers \[0, 2\]: .* that looks, \[0, 1, 2\]"),
                         ({0: 1.0, 1: 0.5, 2: 0.6}, "none above the one before"), ({0: 1.0, 1: 0.5, 2: 0.0}, "each above 0")):
        with pytest.raises(ValueError, match=says):
            pruning.ranked(model, config, layout, visual, shares)
    with pytest.raises(ValueError, match=r"keep names layers \[2\], which do not look: those of C are \[0, 1\]"):
        method.hidden_states(model, ViCAConfig((0, 1)), model.get_input_embeddings()(layout.ids), layout, visual, keep=keep)


@pytest.mark.parametrize("way", ["ranked", "by lot"])
def test_a_row_keeps_its_share_of_its_own_picture_whatever_stands_beside_it(decoder, way):
    """One picture of four tokens in a batch with two of them: four, two and one are kept, as alone."""
    model, config, shares = decoder(), ViCAConfig((0, 1, 2)), {0: 1.0, 1: 0.5, 2: 0.25}
    layout, *_ = batch([PROMPTS[1], PROMPTS[3]], "left")
    visual = pictures(layout)
    keep = pruning.ranked(model, config, layout, visual, shares) if way == "ranked" else pruning.by_lot(layout.visual_real, shares)
    assert [k.sum(1).tolist() for k in keep.values()] == [[4, 8], [2, 4], [1, 2]]
    assert not any((k & ~layout.visual_real).any() for k in keep.values())
    if way == "ranked":
        alone, *_ = batch([PROMPTS[1]])
        for layer, kept in pruning.ranked(model, config, alone, pictures(alone), shares).items():
            assert torch.equal(kept[0], keep[layer][0, :4])


def test_random_drop_keeps_as_many_and_nests(decoder):
    real = torch.tensor([[True] * 8, [True] * 6 + [False] * 2])
    keep = pruning.by_lot(real, {0: 1.0, 3: 0.5, 5: 0.25}, seed=3)
    assert [k.sum(1).tolist() for k in keep.values()] == [[8, 6], [4, 3], [2, 2]] and not (keep[5] & ~keep[3]).any()
    assert not (keep[0] & ~real).any()


@pytest.mark.numerics
def test_dense_on_all_tokens_is_dense_and_on_fewer_is_what_it_sees(decoder):
    from common.vision.llava import dense_hidden

    model = decoder()
    layout, *_ = batch([PROMPTS[1]])
    visual, score = pictures(layout), torch.tensor([[0.4, 0.1, 0.2, 0.3]])
    with torch.no_grad():
        close(dense_on(model, layout, visual, score, 4), dense_hidden(model, layout, visual), EXACT)
        fewer = dense_on(model, layout, visual, score, 2)
        visual[:, 1:3] = 7.0  # must not be seen
        assert torch.equal(dense_on(model, layout, visual, score, 2), fewer)


def test_sets_of_layers():
    assert last_layers(8, 2) == (6, 7) and uniform_layers(8, 4) == (0, 2, 4, 6) and uniform_layers(32, 8)[:3] == (0, 4, 8)
    assert random_layers(8, 2, 0) == random_layers(8, 2, 0) and len({random_layers(8, 2, s) for s in range(9)}) > 3
    every = [random_layers(4, 2, 0, draw) for draw in range(5)]
    assert len(set(every)) == 5 and last_layers(4, 2) not in every and all(random_layers(8, 2, s) != (6, 7) for s in range(50))
    with pytest.raises(ValueError, match="not so many"):
        random_layers(4, 2, 0, 5)
