"""Masks, paths, losses: by hand, and as theory has them."""

import math
import random

import pytest
import torch
from torch import nn

from common.errors import ModelError
from common.models import load, tiny
from common.streaming.units import Example
from common.streaming.words import Boundary
from tests.numerics import close, far

from .. import method
from ..data import batch_of
from ..method import Law, read_path, topk_kl, visible_tokens

KINDS = ("llama", "qwen2", "qwen3")


def example(rng, m=5, length=3, tokens=2):
    """Units of one to `tokens` tokens, drawn."""
    def unit():
        return [rng.randrange(1, 40) for _ in range(rng.randint(1, tokens))]
    return Example.of_units([unit() for _ in range(m + 2)], [unit() for _ in range(length + 1)] + [[rng.randrange(1, 40)]])


def examples(count=3, seed=0):
    rng = random.Random(seed)
    return [example(rng, m=3 + i, length=2 + i % 2) for i in range(count)]


def paths(found, seed=0, law=None):
    rng = random.Random(seed)
    return [read_path(law or Law(), len(e.source_units) - 1, len(e.target_units) - 1, rng) for e in found]


# -- paths and masks ---------------------------------------------------------------------------------------
def test_a_row_carries_what_the_token_sees_that_it_predicts():
    """Instruction of 2 tokens, units of 1, 3, 1, end of 1; header of 2, units of 2 and 1, end."""
    assert visible_tokens([2, 1, 3, 1, 1], [2, 2, 1, 1], [1, 2, 4]).tolist() == [3, 3, 3, 6, 8, 8]
    assert visible_tokens([2, 1], [1, 1], [0]).tolist() == [2, 2]  # nothing read: the instruction alone
    for bad in ([1, 2], [2, 1, 4], [1, 2, 5], [-1, 0, 0]):
        with pytest.raises(ValueError, match="rises within 0 .. 4"):
            visible_tokens([2, 1, 3, 1, 1], [2, 2, 1, 1], bad)


def test_everything_visible_is_the_causal_mask():
    whole = torch.full((1, 4), 5)
    mask = method.streaming_mask(whole, 5, torch.tensor([5]), torch.tensor([4]))
    assert torch.equal(mask[0, 0], torch.ones(9, 9, dtype=torch.bool).tril())


@pytest.mark.numerics
@pytest.mark.parametrize("kind", KINDS)
def test_everything_visible_is_the_stock_model_at_these_positions(kind, models, double):
    found = examples(1)
    batch, _ = batch_of(found, paths(found, law=Law("batch")))
    ids = torch.cat([batch.source, batch.target], 1)
    n, t = batch.source.shape[1], batch.target.shape[1]
    with torch.no_grad():
        stock = models[kind](input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=method.group_positions(n, t),
                             use_cache=False).logits[:, n:]
        close(method.forward(models[kind], batch), stock, rel=1e-12)


@pytest.mark.numerics
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_read_changes_nothing_and_what_is_does(kind, models, double):
    rng = random.Random(1)
    e = example(rng, m=5, length=3, tokens=1)
    path = [1, 3, 3, 6]
    batch, _ = batch_of([e], [path])
    with torch.no_grad():
        base = method.forward(models[kind], batch)[0]
        for place in range(1, 6):  # x_1 .. x_5
            source = batch.source.clone()
            source[0, place] = source[0, place] % 39 + 1
            other = method.forward(models[kind], batch._replace(source=source))[0]
            for row, phi in enumerate([1, 3, 3, 6]):  # row t predicts y_t+1
                if place > phi:
                    assert torch.equal(other[row], base[row]), (place, row)
                else:
                    far(other[row], base[row], rel=1e-6)
        target = batch.target.clone()
        target[0, 2] = target[0, 2] % 39 + 1
        assert torch.equal(method.forward(models[kind], batch._replace(target=target))[0, :2], base[:2])


def test_padding_changes_no_loss(models, double):
    found = examples()
    batch, _ = batch_of(found, paths(found))
    model = models["llama"]
    with torch.no_grad():
        together = method.spsd(method.two_views(model, batch), batch)
        alone = [method.spsd(method.two_views(model, b), b) for b in (batch_of([e], [p])[0] for e, p in zip(found, paths(found)))]
    for ours, singles in zip(together, zip(*alone)):
        close(ours, sum(singles), rel=1e-9)
    assert batch.scored.sum() == sum(len(e.target) - e.target_units[0] for e in found)  # no row of header or padding


def test_a_law_must_be_one():
    for bad, says in ((dict(name="sobered"), "no 'sobered'"), (dict(power=2.0), "polynomial"), (dict(name="waitk", k=0), "above 0"),
                      (dict(name="dirichlet", alpha=0.0), "above 0"), (dict(name="dirichlet", alpha=math.inf), "above 0"),
                      (dict(name="polynomial", power=math.nan), "no number")):
        with pytest.raises(ValueError, match=says):
            Law(**bad)
    with pytest.raises(ValueError, match="one each"):
        read_path(Law(), 0, 1, random.Random(0))


# -- losses ------------------------------------------------------------------------------------------------
TEACHER, FLAT = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64), torch.zeros(4, dtype=torch.float64)


def test_top_k_kl_by_hand():
    assert topk_kl(TEACHER, FLAT, 2).item() == pytest.approx(0.110944, abs=5e-7)
    assert topk_kl(TEACHER, FLAT, 4).item() == pytest.approx(0.438757, abs=5e-7)
    entropy = -(TEACHER.softmax(0) * TEACHER.log_softmax(0)).sum().item()
    assert entropy == pytest.approx(0.947537, abs=5e-7) and topk_kl(TEACHER, FLAT, 4).item() == pytest.approx(
        torch.log(torch.tensor(4.0)).item() - entropy, abs=1e-6)
    assert topk_kl(TEACHER, FLAT, 4, "reverse").item() == pytest.approx(0.553895, abs=5e-7)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("k", [3, 9])
def test_a_token_that_is_excluded_adds_nothing_and_takes_no_gradient(k, direction):
    """-inf on both sides, as a mask of the vocabulary leaves it: the KL of the others, and finite gradients."""
    draw = torch.Generator().manual_seed(0)
    t, s = torch.randn(2, 5, 9, generator=draw, dtype=torch.float64)
    masked_t, masked_s = (torch.cat([x[:, :4], torch.full((5, 2), float("-inf"), dtype=x.dtype), x[:, 4:]], 1) for x in (t, s))
    masked_s.requires_grad_()
    kl = topk_kl(masked_t, masked_s, k + 2 if k == 9 else k, direction)
    close(kl, topk_kl(t, s, k, direction))
    kl.sum().backward()
    assert masked_s.grad.isfinite().all() and not masked_s.grad[:, 4:6].any() and masked_s.grad.any()
    one = torch.tensor([0.0, 0.0]), torch.tensor([0.0, float("-inf")])
    assert topk_kl(*one).item() == float("inf") and topk_kl(*one[::-1]).item() == pytest.approx(math.log(2))


@pytest.mark.numerics
def test_top_k_kl_is_a_kl():
    draw = torch.Generator().manual_seed(0)
    t, s = torch.randn(2, 5, 9, generator=draw, dtype=torch.float64)
    whole = nn.functional.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    close(topk_kl(t, s, 9), whole)
    close(topk_kl(t, s, 100), whole)
    close(topk_kl(t, s, 9, tail="bucket"), whole)
    for k in (2, 5):
        bucket = topk_kl(t, s, k, tail="bucket")
        assert (bucket <= whole + 1e-12).all() and (bucket > 0).all()  # coarser events, less divergence
        assert topk_kl(t, t + 3.0, k).abs().max() < 1e-12
    inside = t.topk(2, -1).indices
    p, q = (x.gather(-1, inside).softmax(-1) for x in (t, s))
    close(topk_kl(t, s, 2), (p * (p / q).log()).sum(-1))


@pytest.mark.numerics
def test_what_the_other_tokens_have_together_keeps_its_digits():
    """Teacher (1 - 2e, e, e), student (1 - 2d, d, d) with e = 1e-6, d = 1e-12 and k = 1: 1 - (1 - 2d) is 0 in single precision."""
    e, d = 1e-6, 1e-12
    teacher, student = (torch.log(torch.tensor([1 - 2 * x, x, x], dtype=torch.float64)) for x in (e, d))
    exact = 2 * e * math.log(e / d) + (1 - 2 * e) * (math.log1p(-2 * e) - math.log1p(-2 * d))
    assert topk_kl(teacher.float(), student.float(), 1, tail="bucket").item() == pytest.approx(exact, rel=1e-2)
    student = student.float().requires_grad_()
    topk_kl(teacher.float(), student, 1, tail="bucket").backward()
    assert student.grad[1].item() == pytest.approx(-e, rel=1e-3)  # q - p of each of the two


def test_a_bucket_that_is_empty_adds_nothing_and_takes_no_gradient():
    teacher = torch.tensor([0.0, 1.0, -math.inf, -math.inf], dtype=torch.float64)
    student = torch.tensor([1.0, 0.0, -math.inf, -math.inf], dtype=torch.float64, requires_grad=True)
    kl = topk_kl(teacher, student, 2, tail="bucket")
    close(kl, topk_kl(teacher[:2], student[:2], 2))
    kl.backward()
    assert student.grad.isfinite().all() and not student.grad[2:].any() and student.grad[:2].any()
    assert topk_kl(torch.zeros(4), torch.tensor([0.0, 0.0, -math.inf, -math.inf]), 2, tail="bucket").item() == math.inf


def test_a_kl_of_nothing_known_is_refused():
    for wrong in (dict(k=0), dict(direction="backward"), dict(tail="buckets")):
        with pytest.raises(ValueError, match="topk_kl"):
            topk_kl(TEACHER, FLAT, **{"k": 2} | wrong)
    with pytest.raises(ValueError, match=r"\(4,\).*\(3,\)"):
        topk_kl(TEACHER, FLAT[:3], 2)  # a longer vocabulary would be read as the shorter one's first tokens


def test_the_teacher_is_pulled_only_if_asked(models, double):
    found = examples()
    batch, _ = batch_of(found, paths(found))
    for asked in (False, True):
        views = method.Views(*(torch.randn(*batch.target.shape, 40, dtype=torch.float64, requires_grad=True) for _ in range(2)))
        method.spsd(views, batch, teacher_grad=asked).kl.backward()
        assert (views.batch.grad is not None and bool(views.batch.grad.any())) == asked and views.stream.grad.any()
        assert not views.stream.grad[:, :-1][~batch.scored[:, 1:]].any()  # no row that does not count


def test_reading_everything_makes_both_views_one(models, double):
    found = examples()
    batch, _ = batch_of(found, paths(found, law=Law("batch")))
    with torch.no_grad():
        losses = method.spsd(method.two_views(models["llama"], batch), batch)
    assert torch.equal(losses.batch, losses.stream) and losses.kl.item() == 0


@pytest.mark.numerics
def test_one_pass_is_two(models, double):
    found = examples()
    batch, _ = batch_of(found, paths(found))
    whole = batch._replace(visible=batch.source_lengths[:, None].expand_as(batch.visible))
    with torch.no_grad():
        views = method.two_views(models["qwen3"], batch)
        close(views.batch, method.forward(models["qwen3"], whole), rel=1e-12)
        close(views.stream, method.forward(models["qwen3"], batch), rel=1e-12)
    far(views.batch, views.stream)


# -- traps -------------------------------------------------------------------------------------------------
def test_a_missing_mask_and_a_boolean_one_under_eager_are_refused():
    model = load(tiny(vocab_size=40)).model
    ids, positions = torch.tensor([[1, 2, 3]]), method.group_positions(3, 3)
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match="second packed text"):
        method.logits_of(model, ids, ids, None, positions)
    sdpa = method.logits_of(model, ids, ids, mask, positions)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="boolean one counts as 0 and 1"):
        method.logits_of(model, ids, ids, mask, positions)
    close(method.logits_of(model, ids, ids, method.as_attention_reads(model, mask), positions), sdpa, rel=1e-4)


def test_models_are_refused_by_property():
    model = load(tiny(vocab_size=40)).model
    method.check_model(model)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="takes no mask of source and target"):
        method.check_model(model)
    model = load(tiny(vocab_size=40)).model
    model.config.rope_parameters["mrope_section"] = [2, 1, 1]
    with pytest.raises(ModelError, match="three dimensions"):
        method.check_model(model)
    model = load(tiny("mistral", vocab_size=40, sliding_window=4)).model
    with pytest.raises(ModelError, match="4 columns"):
        method.check_model(model)


def test_a_window_is_not_lifted_by_a_mask():
    model = load(tiny("mistral", vocab_size=40, sliding_window=9)).model
    method.check_model(model)
    found = examples()
    batch, _ = batch_of(found, paths(found))
    with pytest.raises(ModelError, match="sliding layers see 9 columns"):
        method.forward(model, batch)
    from ..baselines import Always
    from ..decoding import decode
    from .test_session import ENDS

    with pytest.raises(ModelError, match="sliding layers see 9 columns"):
        decode(model, found[:1], Always(True), ENDS)


def test_a_stream_longer_than_the_models_positions_is_refused_in_every_way_to_run_it():
    """Source and target count for themselves: 12 tokens each fit into 12 positions, and 13 of either do not."""
    from ..baselines import Always
    from ..decoding import decode
    from ..session import Session
    from .test_session import ENDS

    model = load(tiny(vocab_size=40, max_position_embeddings=12)).model
    ones = torch.ones(1, 13, dtype=torch.int64)

    def rows(source, target):
        lengths = torch.tensor([source]), torch.tensor([target])
        return method.Batch(ones[:, :source], ones[:, :target], ones[:, :target], *lengths, ones[:, :target].bool())

    method.forward(model, rows(12, 12))
    for sides in ((13, 2), (2, 13)):
        with pytest.raises(ModelError, match="max_position_embeddings"):
            method.forward(model, rows(*sides))
    found = Example.of_units([[4], *([[6]] * 10), [1]], [[5], [7], [0]])  # twelve of the source
    never = Boundary("ends", torch.ones(40, dtype=torch.bool), 39, (*range(38), 39))  # 38 is all that may be written
    assert len(decode(model, [found], Always(False), never, 11)[0].tokens) == 11
    longer = Example.of_units([[4], *([[6]] * 11), [1]], [[5], [7], [0]])
    for example, most in ((found, 12), (longer, 11)):
        with pytest.raises(ModelError, match="max_position_embeddings"):
            decode(model, [example], Always(False), never, most)
    session = Session(model, Always(True), ENDS, [5])
    session.read([4] * 12)
    with pytest.raises(ModelError, match="max_position_embeddings"):
        session.read([4])
    writes = Session(model, Always(True), never, [5])
    writes.read([4])
    writes.read([6])
    assert all(writes.write() == [38] for _ in range(12)), "the header and eleven are fed; the twelfth is written and not fed"
    assert not writes.truncated and writes.write() == [] and writes.truncated and writes.ended, "an answer is cut there, and says so"


def test_decoding_measures_the_model_first():
    from ..baselines import Always
    from ..decoding import decode
    from .test_session import ENDS

    model = load(tiny(vocab_size=40, initializer_range=0.4)).model
    model.get_decoder().layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: ((args[0] + args[0].mean(1, keepdim=True), *args[1:]), kwargs), with_kwargs=True)
    with pytest.raises(ModelError, match="mask hides"):
        decode(model, examples()[:1], Always(True), ENDS)


def test_a_model_that_sees_past_the_mask_is_refused():
    """A mean over all hidden states in front of the first layer carries what is hidden to every row."""
    model = load(tiny(vocab_size=40, initializer_range=0.4)).model

    def leak(module, args, kwargs):
        states = args[0]
        return (states + states.mean(1, keepdim=True), *args[1:]), kwargs

    model.get_decoder().layers[0].register_forward_pre_hook(leak, with_kwargs=True)
    with pytest.raises(ModelError, match="mask hides"):
        method.check_model(model)
