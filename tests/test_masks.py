"""common/masks.py: who may see whom, in every form, and that nothing that may not be seen leaks."""

import pytest
import torch

from common import masks
from common.models import load, tiny
from tests.numerics import close, far, float64

# StreamingThinker's worked example: source and target units, one target unit for each source unit, the last sees all.
SOURCE, TARGET = (5, 4, 7, 3), (2, 6, 1, 9)
W = [5] + [9] * 6 + [16] + [19] * 10


def w(shift=True):
    return masks.visible_tokens(SOURCE, TARGET, masks.unit_by_unit(4, 4), shift)


# -- policies and visibility -------------------------------------------------------------------------------
def test_wait_k_values():
    assert masks.wait_k(1, 4, 6).tolist() == [1, 2, 3, 4, 4, 4]
    assert masks.wait_k(3, 4, 3).tolist() == [3, 4, 4]
    assert masks.wait_k(9, 4, 2).tolist() == [4, 4]
    assert masks.wait_k(None, 4, 2).tolist() == [4, 4]
    assert masks.unit_by_unit(4, 4).tolist() == [1, 2, 3, 4]
    assert masks.unit_by_unit(4, 3).tolist() == [1, 2, 4]  # the last sees all


def test_visibility_of_the_worked_example():
    assert w().tolist() == W
    assert w(shift=False).tolist() == [5] * 2 + [9] * 6 + [16] + [19] * 9


def test_figure_2_of_gpe():
    """k = 2, four one-token words, prompt and opening of one token: rows that predict T1 .. T4 see 2, 3, 4, 4 words."""
    readable = 1 + masks.wait_k(2, 4, 4)
    visible = masks.visible_tokens((1,) * 5, (1,) * 5, [int(readable[0]), *readable.tolist()])
    assert (visible[:4] - 1).tolist() == [2, 3, 4, 4]


@pytest.mark.parametrize("call, said", [
    (lambda: masks.wait_k(0, 3, 3), "k = 0"),
    (lambda: masks.wait_k(2, 0, 3), "one source unit"),
    (lambda: masks.monotone_path([2, 1], 3), "cannot be unread"),
    (lambda: masks.monotone_path([1, 4], 3), "leaves 0 .. 3"),
    (lambda: masks.visible_tokens((1, 1), (1, 1), [1]), "1 entries of readable for 2"),
    (lambda: masks.visible_tokens((1, 0), (1,), [1]), "without tokens"),
    (lambda: masks.for_attention(torch.ones(1, 1, 2, 2, dtype=torch.bool), "flash_attention_2"), "sdpa or eager"),
    (lambda: masks.for_attention(torch.ones(1, 1, 2, 2, dtype=torch.bool), "flex_attention"), "block_mask"),
])  # fmt: skip
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# -- masks -------------------------------------------------------------------------------------------------
def cell(q, k, n_source, visible, s_length, t_length):
    """One cell, by the definition."""
    real = k < s_length if k < n_source else k - n_source < t_length
    if q == k:
        return True
    if q < n_source:
        return real and k < n_source and k <= q
    return real and (k < visible[q - n_source] if k < n_source else k <= q)


@pytest.mark.parametrize("seed", range(4))
def test_mask_is_its_definition_cell_by_cell_with_padding(seed):
    generator = torch.Generator().manual_seed(seed)
    n, t = (int(torch.randint(1, 9, (1,), generator=generator)) for _ in range(2))
    visible = torch.randint(0, n + 1, (3, t), generator=generator).sort(1).values
    s_lengths, t_lengths = (torch.randint(1, m + 1, (3,), generator=generator) for m in (n, t))
    mask = masks.streaming_mask(visible, n, s_lengths, t_lengths)
    for b in range(3):
        for q in range(n + t):
            for k in range(n + t):
                wanted = cell(q, k, n, visible[b].tolist(), int(s_lengths[b]), int(t_lengths[b]))
                assert bool(mask[b, 0, q, k]) == wanted, (b, q, k)
    assert mask.any(-1).all()  # no softmax over nothing


def test_long_mask_is_the_same_twice_and_right_at_its_edges():
    """The official code shifts rows by an overlapping copy, which goes wrong from 512 rows on."""
    visible = torch.arange(1024).clamp(min=3)
    first, second = (masks.streaming_mask(visible, 1024) for _ in range(2))
    assert torch.equal(first, second)
    counts = first[0, 0, 1024:, :1024].sum(-1)
    assert torch.equal(counts, visible)
    assert torch.equal(first[0, 0, :1024, :1024], torch.ones(1024, 1024, dtype=torch.bool).tril())
    assert not first[0, 0, :1024, 1024:].any()


def test_pair_counts_of_the_worked_example():
    assert masks.pair_count(masks.streaming_mask(w(), 19)) == 626
    assert masks.pair_count(masks.streaming_mask(w(shift=False), 19)) == 612
    assert masks.pair_count(masks.streaming_mask(torch.full((18,), 19), 19)) == 703  # batch: plain causal
    assert masks.source_density(torch.full((18,), 19), 19) == 1.0
    assert masks.source_density(torch.tensor([1, 2]), 4) == 0.375


def test_flex_mask_is_the_dense_one():
    visible = torch.stack([w(), w(shift=False)])
    lengths = torch.tensor([19, 12]), torch.tensor([18, 5])
    dense = masks.streaming_mask(visible, 19, *lengths)
    block = masks.block_mask(visible, 19, *lengths)
    index = torch.arange(37)
    for b in range(2):
        made = torch.stack([block.mask_mod(torch.tensor(b), torch.tensor(0), q, index) for q in index])
        assert torch.equal(made, dense[b, 0])


@torch.no_grad()
def test_flex_attention_gives_sdpas_logits(monkeypatch):
    """Traced by torch's compiler and then computed by the definition, in double precision, for which a CPU has no kernel of it."""
    from transformers.integrations.flex_attention import WrappedFlexAttention

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiled(function, backend="eager"))
    monkeypatch.setattr(WrappedFlexAttention, "_instance", None)  # which holds what was compiled before
    ids = torch.randint(3, 90, (2, 37), generator=torch.Generator().manual_seed(0))
    visible, positions = torch.stack([w(), w(shift=False)]), masks.group_position_ids(19, 18)[None]
    dense, one_more = masks.streaming_mask(visible, 19), masks.streaming_mask(visible, 19)
    one_more[0, 0, 19, 5] = True  # a single cell
    with float64():
        plain, flex = (load(tiny(attn_implementation=name)).model.double() for name in ("sdpa", "flex_attention"))
        got = flex(ids, attention_mask=masks.block_mask(visible, 19), position_ids=positions).logits
        expected, wrong = (plain(ids, attention_mask=mask, position_ids=positions).logits for mask in (dense, one_more))
    close(got, expected)
    far(wrong[0, 19], expected[0, 19])


def test_group_position_ids():
    assert masks.group_position_ids(3, 2).tolist() == [0, 1, 2, 0, 1]
    assert masks.group_position_ids(3, 2, 7).tolist() == [0, 1, 2, 7, 8]
    half = masks.group_position_ids(3, 2, 0.5)
    assert half.tolist() == [0, 1, 2, 0.5, 1.5] and half.dtype == torch.float32
    assert masks.group_position_ids(3, 2, 4.0).dtype == torch.int64


def test_drawings(tmp_path):
    mask = masks.streaming_mask(torch.tensor([1, 2]), 2)[0, 0]
    assert masks.sketch(mask, 2) == "#.|..\n##|..\n--+--\n#.|#.\n##|##"
    svg = masks.draw(mask, 2, tmp_path / "mask.svg", title="two and two").read_text()
    assert "two and two" in svg and "dc:date" not in svg
    assert masks.draw(mask, 2, tmp_path / "mask.png").stat().st_size > 1000


# -- through a model ---------------------------------------------------------------------------------------
MODELS = [(family, attention) for family in ("llama", "qwen3") for attention in ("sdpa", "eager")]


@pytest.fixture(params=MODELS, ids="-".join)
def model(request):
    with float64():
        yield load(tiny(request.param[0], attn_implementation=request.param[1])).model.double()


def run(model, ids, visible, n_source, **more):
    mask = masks.for_attention(masks.streaming_mask(visible, n_source), model.config._attn_implementation, model.dtype)
    positions = masks.group_position_ids(n_source, ids.shape[1] - n_source)[None]
    return model(ids, attention_mask=mask, position_ids=positions, use_cache=False, **more)


@pytest.mark.numerics
@torch.no_grad()
def test_unread_source_moves_no_row_at_any_layer(model):
    """Changing source tokens 12 to 15 (of unit 2) first moves target row 7, bit for bit, at every layer."""
    ids = torch.randint(3, 90, (1, 37), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[0, 12:16] = (ids[0, 12:16] + 11) % 87 + 3
    a, b = (run(model, x, w(), 19, output_hidden_states=True) for x in (ids, other))
    for layer, (x, y) in enumerate(zip((*a.hidden_states, a.logits), (*b.hidden_states, b.logits))):
        moved = (x != y).any(-1)[0]
        assert not moved[:12].any() and not moved[19 : 19 + 7].any(), layer
        if layer > 0:
            assert moved[19 + 7], layer  # and it is seen as soon as it may be: else the test shows nothing
    for unit, row in ((1, 1), (2, 7), (3, 8)):  # the first row that may see each later unit
        start = sum(SOURCE[:unit])
        other = ids.clone()
        other[0, start] = (ids[0, start] + 11) % 87 + 3
        changed = (run(model, other, w(), 19).logits != a.logits).any(-1)[0, 19:]
        assert int(changed.int().argmax()) == row


@pytest.mark.numerics
def test_early_logits_have_no_gradient_from_late_source(model):
    ids = torch.randint(3, 90, (1, 37), generator=torch.Generator().manual_seed(2))
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    mask = masks.for_attention(masks.streaming_mask(w(), 19), model.config._attn_implementation, model.dtype)
    logits = model(inputs_embeds=embeddings, attention_mask=mask, position_ids=masks.group_position_ids(19, 18)[None]).logits
    gradient = torch.autograd.grad(logits[0, 19 + 6].sum(), embeddings)[0][0]
    assert gradient[9:19].abs().max() == 0 and gradient[:9].abs().min() > 0


@pytest.mark.numerics
@torch.no_grad()
def test_batch_visibility_and_contiguous_ids_are_the_plain_model(model):
    ids = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(3))
    mask = masks.for_attention(masks.streaming_mask(torch.full((2, 5), 7), 7), model.config._attn_implementation, model.dtype)
    ours = model(ids, attention_mask=mask, position_ids=torch.arange(12)[None]).logits
    close(ours, model(ids).logits)


@pytest.mark.numerics
@torch.no_grad()
def test_transformers_takes_restarted_ids_without_a_mask_for_packed_sequences(model):
    """The trap: the target is cut off from the source without a word. An explicit mask is never optional."""
    ids = torch.randint(3, 90, (1, 12), generator=torch.Generator().manual_seed(4))
    positions = masks.group_position_ids(7, 5)[None]
    trapped = model(ids, position_ids=positions, use_cache=False).logits[:, 7:]
    alone = model(ids[:, 7:], use_cache=False).logits
    ours = run(model, ids, torch.full((5,), 7), 7).logits[:, 7:]
    close(trapped, alone)
    far(ours, alone)
