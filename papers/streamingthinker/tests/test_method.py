"""Masks and positions by hand, leaks, the packed-sequence trap, and layouts that must agree."""

import pytest
import torch

from common.models import load, tiny
from tests.numerics import close, far, float64

from .. import method
from ..method import Segments, collate, forward, visible_prefix
from ..probe import NotThisModel, check_live

FIXTURE = Segments.of([range(10, 15), range(20, 24), range(30, 37), range(40, 43)], [(1, 2), range(50, 56), (3,), range(60, 69), (4, 5)])
CLOSED = Segments.of(FIXTURE.source, FIXTURE.target[:-1], closed=True)
SHORT = Segments.of([(7,), (8, 9, 10), (11, 12)], [(1,), (13, 14), (15,), (4, 16, 17)], forced=1)
FIRST = Segments.of([(7, 6), (11, 12), (8, 9, 10)], [(1, 2), (15, 18), (13, 14), (5, 4, 16)], forced=1)  # the question last


def model(family="llama", dtype=None, **more):
    more = dict(vocab_size=96, num_hidden_layers=3, initializer_range=0.3) | more
    found = load(tiny(family, **more)).model
    return found if dtype is None else found.to(dtype)


def test_who_sees_whom_by_hand():
    w = visible_prefix((5, 4, 7, 3), (2, 6, 1, 9))
    assert w.tolist() == [5] + [9] * 6 + [16] + [19] * 10
    batch = collate([CLOSED])
    assert batch.mask.sum() == 626 and collate([CLOSED], shift=False).mask.sum() == 612
    assert collate([CLOSED], "batch").mask.sum() == 703 == 37 * 38 // 2
    assert visible_prefix((1, 2, 3), (1, 1, 1, 2)).tolist() == [3, 6, 6, 6, 6]  # the last two units see all there is


def test_batches_by_hand():
    batch = collate([SHORT, FIRST], start=3)
    assert batch.ids[0].tolist() == [7, 8, 9, 10, 11, 12, 0, 1, 13, 14, 15, 4, 16, 17, 0, 0] and batch.n_source == 7
    assert batch.positions[0].tolist() == [*range(7), *range(3, 12)]
    assert batch.targets[0].tolist() == [-100] * 8 + [13, 14, 15, -100, 16, 17, -100, -100]  # neither header nor cue
    assert batch.rows[0, 8:11].tolist() == [7, 8, 9]
    rope = collate([SHORT], "batch", "rope")
    assert rope.positions[0].tolist() == list(range(13))
    text = collate([SHORT, FIRST], "interleaved")
    assert text.ids[0].tolist() == [7, 1, 8, 9, 10, 13, 14, 11, 12, 15, 4, 16, 17, 0, 0, 0]
    assert text.targets[0].tolist()[:13] == [-100] * 5 + [13, 14, -100, -100, 15, -100, 16, 17] and text.n_source == 0
    closed = collate([CLOSED], "interleaved").ids[0].tolist()
    assert closed[-12:] == [40, 41, 42, *range(60, 69)]


def test_traces_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="2 sentences and 1 units"):
        Segments.of([(1,), (2,), (3,)], [(4,), (5,), (6,)])
    with pytest.raises(ValueError, match="without tokens"):
        Segments.of([(1,), ()], [(4,), (5,), (6,)])
    with pytest.raises(ValueError, match="forced = 1"):
        Segments.of([(1,), (2,)], [(4,), (5,), (6,)], forced=1)
    with pytest.raises(ValueError, match="layout 'both'"):
        collate([SHORT], "both")
    with pytest.raises(ValueError, match="positions 'none'"):
        collate([SHORT], "batch", "none")


@pytest.mark.numerics
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_no_row_sees_what_is_to_come(family):
    """Change the tokens of a segment: rows before it are equal to the bit, the first other row is the first that may see it."""
    found = model(family, torch.float64)
    batch = collate([FIXTURE])
    with torch.no_grad():
        base = forward(found, batch)[0, batch.n_source :]
        w, at = visible_prefix(FIXTURE.source_lengths, FIXTURE.target_lengths), 0
        for length in FIXTURE.source_lengths:
            for token in range(at, at + length):
                other = collate([FIXTURE])
                other.ids[0, token] = 90
                same = (forward(found, other)[0, batch.n_source :] == base).all(-1)
                assert torch.equal(same, w <= token), token
            at += length
    assert (w <= 12).sum() == 7  # spec 10.2: source tokens 12-15 first show in target row 7


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_no_gradient_flows_from_what_is_to_come(family):
    """Of every row, exactly 0: from each source token that it may not see, and from each target token behind it."""
    found = model(family, torch.float64)
    batch = collate([FIXTURE])
    embedded = found.get_input_embeddings()(batch.ids).detach().requires_grad_()
    logits = found(inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False).logits
    for row, w in enumerate(visible_prefix(FIXTURE.source_lengths, FIXTURE.target_lengths).tolist()):
        (gradient,) = torch.autograd.grad(logits[0, batch.n_source + row].sum(), embedded, retain_graph=True)
        moved = (gradient[0] != 0).any(-1).tolist()
        assert moved[: batch.n_source] == [token < w for token in range(batch.n_source)], row
        assert not any(moved[batch.n_source + row + 1 :]) and moved[batch.n_source + row], row


@pytest.mark.numerics
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_packed_sequence_trap(family, implementation):
    """Restarting positions without a mask: transformers cuts the target off from its source. Ours does not."""
    with float64():
        found = model(family)
        found.set_attn_implementation(implementation)
        batch = collate([CLOSED], "batch")
        with torch.no_grad():
            trapped = found(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).logits[:, batch.n_source :]
            alone = found(input_ids=batch.ids[:, batch.n_source :], use_cache=False).logits
            ours = forward(found, batch)[:, batch.n_source :]
        close(trapped, alone, 1e-6)
        far(ours, alone, 1e-2)
        batch.mask = None
        with pytest.raises(ValueError, match="two packed texts"):
            forward(found, batch)


@pytest.mark.numerics
@pytest.mark.parametrize("layout, positions", [("streaming", "spe"), ("batch", "rope"), ("batch", "spe"), ("interleaved", "spe")])
def test_padding_and_company_change_nothing(layout, positions):
    with float64():
        found, samples = model(), [SHORT, FIXTURE, FIRST]
        with torch.no_grad():
            together = collate(samples, layout, positions)
            rows = forward(found, together)
            sums = []
            for i, sample in enumerate(samples):
                alone = collate([sample], layout, positions)
                logits = forward(found, alone)
                of = [together.targets[i] != -100, alone.targets[0] != -100]
                close(rows[i, together.rows[i, of[0]]], logits[0, alone.rows[0, of[1]]])
                sums.append(method.loss_sum(logits, alone))
            total, count = method.loss_sum(rows, together)
        close(total, sum(s for s, _ in sums))
        assert count == sum(n for _, n in sums) == 18 + 5 + 6


@pytest.mark.numerics
def test_limits():
    """Batch with contiguous positions is the stock model; a constant added to all positions changes nothing, to the target's alone does."""
    with float64():
        found = model("qwen3")
        with torch.no_grad():
            batch = collate([SHORT], "batch", "rope")
            close(forward(found, batch), found(input_ids=batch.ids, use_cache=False).logits)
            text = collate([SHORT], "interleaved")
            close(forward(found, text), found(input_ids=text.ids, use_cache=False).logits)
            spe = forward(found, collate([SHORT]))
            moved = collate([SHORT])
            moved.positions = moved.positions + 50
            close(forward(found, moved), spe)
            shifted = forward(found, collate([SHORT], start=50))
            assert torch.equal(shifted[:, :6], spe[:, :6])
            far(shifted[:, 6:], spe[:, 6:])
            one = Segments.of([(7,), (8, 9)], [(1,), (13, 14), (4, 16)])
            far(forward(found, collate([SHORT])), forward(found, collate([SHORT], "batch")))
            close(forward(found, collate([one]))[0, -2:], forward(found, collate([one], "batch"))[0, -2:])


def test_models_that_do_not_fit_are_refused_by_property():
    found = model()
    found.config._attn_implementation = "flex_attention"
    with pytest.raises(NotThisModel, match="'flex_attention' takes no dense mask"):
        forward(found, collate([SHORT]))
    sliding = model("gemma2", layer_types=["sliding_attention"] * 3, sliding_window=12)
    forward(sliding, collate([Segments.of([(7,), (8, 9)], [(1,), (13, 14), (4, 16)])]))
    with pytest.raises(NotThisModel, match="slide over 12"):
        forward(sliding, collate([FIXTURE]))
    nowhere = model()
    nowhere.model.rotary_emb.inv_freq.zero_()
    with pytest.raises(NotThisModel, match="do not depend on position ids"):
        method.check_model(nowhere)


class SeesAll(torch.nn.Module):
    """A model that takes a mask and does not care."""

    def __init__(self):
        super().__init__()
        self.config = model().config
        self.weight = torch.nn.Parameter(torch.randn(96, 8))

    def forward(self, input_ids, use_cache, attention_mask=None, position_ids=None):
        position_ids = torch.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
        total = (self.weight[input_ids] * position_ids[..., None].cos()).cumsum(1)
        return type("Out", (), {"logits": total @ self.weight.T})()


def test_the_probe_measures_and_leaves_the_mode_as_it_was():
    with pytest.raises(NotThisModel, match="sees tokens that a 4-D mask hides"):
        method.check_model(SeesAll())
    both_ways = SeesAll()
    plain = both_ways.forward
    both_ways.forward = lambda input_ids, **more: plain(input_ids.flip(1), **more)
    with pytest.raises(NotThisModel, match="its own pass is not causal"):
        method.check_model(both_ways)
    found = model().train()
    method.check_model(found)
    assert found.training
    deaf = SeesAll()
    deaf.forward = lambda **inputs: 1 / 0
    with pytest.raises(NotThisModel, match=r"does not take a 4-D mask and position ids \(ZeroDivisionError"):
        method.check_model(deaf)


def test_a_model_of_nan_is_refused_by_both_probes():
    broken = model()
    with torch.no_grad():
        broken.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(NotThisModel, match="not finite"):
        method.check_model(broken)
    with pytest.raises(NotThisModel, match="not finite"):
        check_live(broken, method)
