"""common/streaming/caches.py: one pass under a mask and any order of reads and writes with two caches are one and the same."""

import random
import threading
import time

import pytest
import torch
from transformers import DynamicCache

from common import masks
from common.models import load, tiny
from common.streaming.caches import TwoPartCache, attention_window
from tests.numerics import close

pytestmark = pytest.mark.numerics
S, T = 14, 9
POLICIES = {
    "wait-1": masks.wait_k(1, S, T), "wait-5": masks.wait_k(5, S, T), "batch": masks.wait_k(None, S, T),
    "sentences": torch.tensor([4, 4, 4, 9, 9, 11, 14, 14, 14]), "nothing first": torch.tensor([0, 0, 3, 3, 3, 8, 8, 8, 14]),
}  # fmt: skip


def tokens(n, seed=0, batch=1):
    return torch.randint(3, 90, (batch, n), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def one_pass(model, source, target, visible, **lengths):
    mask = masks.streaming_mask(visible, source.shape[1], **lengths)
    mask = masks.for_attention(mask, model.config._attn_implementation, model.dtype)
    ids = masks.group_position_ids(source.shape[1], target.shape[1])[None]
    return model(torch.cat([source, target], 1), attention_mask=mask, position_ids=ids, use_cache=False).logits


@torch.no_grad()
def read(model, cache, source, **more):
    start = cache.source_length
    with cache.reading():
        return model(source, position_ids=torch.arange(start, start + source.shape[1])[None], past_key_values=cache, **more).logits


@torch.no_grad()
def write(model, cache, target, visible=None, **more):
    start = cache.target_length
    with cache.writing(visible):
        return model(target, position_ids=torch.arange(start, start + target.shape[1])[None], past_key_values=cache, **more).logits


@pytest.mark.parametrize("policy", POLICIES)
def test_reading_as_needed_equals_one_pass(model, policy):
    """No mask is given to the passes with a cache: what a query sees is a slice."""
    source, target, visible = tokens(S), tokens(T, 1), POLICIES[policy]
    expected, cache, got = one_pass(model, source, target, visible), TwoPartCache(model.config, start=1), []
    for t, n in enumerate(visible.tolist()):
        if n > cache.source_length:
            assert cache.source_length == (visible[t - 1] if t else 0)  # unread source is not there
            read(model, cache, source[:, cache.source_length : n])
        got.append(write(model, cache, target[:, t : t + 1]))
    close(torch.cat(got, 1), expected[:, S:])
    assert (cache.source_length, cache.target_length) == (int(visible[-1]), T)


@pytest.mark.parametrize("policy", POLICIES)
def test_batches_with_padding_equal_the_singles(model, policy):
    """Rows of 14 and 9 source tokens, 9 and 6 target tokens, each with its own visibility, through `write_mask`."""
    lengths, t_lengths = torch.tensor([S, 9]), torch.tensor([T, 6])
    source, target = tokens(S, batch=2), tokens(T, 1, batch=2)
    visible = torch.stack([POLICIES[policy], POLICIES[policy].clamp(max=9)])
    expected = one_pass(model, source, target, visible, source_lengths=lengths, target_lengths=t_lengths)
    cache, got = TwoPartCache(model.config), []
    real = torch.arange(S) < lengths[:, None]
    mask = masks.streaming_mask(torch.zeros(2, 0, dtype=torch.int64), S, lengths)
    form = lambda m: masks.for_attention(m, model.config._attn_implementation, model.dtype)  # noqa: E731
    read(model, cache, source, attention_mask=form(mask))
    assert real.sum() == S + 9
    for t in range(T):
        columns = torch.arange(t + 1) < t_lengths[:, None]
        mask = cache.write_mask(visible[:, t], 1, lengths, columns)
        got.append(write(model, cache, target[:, t : t + 1], attention_mask=form(mask)))
    got = torch.cat(got, 1)
    for b in range(2):
        n = int(t_lengths[b])
        single = one_pass(model, source[b : b + 1, : lengths[b]], target[b : b + 1, :n], visible[b, :n])
        close(got[b, :n], expected[b, S : S + n])
        close(got[b, :n], single[0, lengths[b] :])


def test_reading_ahead_and_seeing_less_is_reading_less(model):
    """Schedules: lazily, all at once, in odd chunks. One cursor decides what is seen, so all are the same."""
    source, target, visible = tokens(S), tokens(T, 1), POLICIES["sentences"].tolist()
    runs = []
    for ahead in (0, 3, S):
        cache, got = TwoPartCache(model.config, start=2), []
        for t, n in enumerate(visible):
            while cache.source_length < min(S, max(n, n + ahead)):
                read(model, cache, source[:, cache.source_length : cache.source_length + 1])
            got.append(write(model, cache, target[:, t : t + 1], visible=n))
        runs.append(torch.cat(got, 1))
    close(runs[1], runs[0])  # not bit for bit: the buffers are of other sizes, and so lie otherwise in memory
    close(runs[2], runs[0])


def test_writing_several_tokens_at_once_is_causal(model):
    source, target = tokens(S), tokens(T, 1)
    whole, steps = TwoPartCache(model.config), TwoPartCache(model.config)
    for cache in (whole, steps):
        read(model, cache, source)
    at_once = write(model, whole, target, visible=6)
    one_by_one = torch.cat([write(model, steps, target[:, t : t + 1], visible=6) for t in range(T)], 1)
    close(at_once, one_by_one)


def test_source_states_are_those_of_a_plain_prefill_whatever_is_written(model):
    source, plain = tokens(S), DynamicCache()
    with torch.no_grad():
        model(source, position_ids=torch.arange(S)[None], past_key_values=plain)
    cache = TwoPartCache(model.config, start=1)
    for n in (5, 9, S):
        read(model, cache, source[:, cache.source_length : n])
        write(model, cache, tokens(2, n))
    for layer, other in zip(cache.layers, plain.layers):
        for mine, theirs in zip(layer.part("source"), (other.keys, other.values)):
            close(mine, theirs)


def test_taking_back_and_feeding_again(llama):
    source, target = tokens(S), tokens(T, 1)
    cache = TwoPartCache(llama.config)
    read(llama, cache, source[:, :5])
    write(llama, cache, target[:, :4])
    cache.drop_target(1)
    read(llama, cache, source[:, 5:])
    again = write(llama, cache, target[:, 3:4])
    visible = torch.tensor([5, 5, 5, S])
    close(again, one_pass(llama, source, target[:, :4], visible)[:, -1:])
    cache.drop_target()
    assert (cache.source_length, cache.target_length) == (S, 0)


def test_forks_share_the_source_and_grow_apart(llama):
    source = tokens(S)
    cache = TwoPartCache(llama.config)
    read(llama, cache, source)
    write(llama, cache, tokens(3, 5))
    fork = cache.fork()
    assert (fork.source_length, fork.target_length) == (S, 0)
    got = write(llama, fork, tokens(4, 6))
    close(got, one_pass(llama, source, tokens(4, 6), torch.full((4,), S))[:, S:])
    assert cache.target_length == 3


def test_target_keys_can_be_changed_in_place_and_the_source_stays(llama):
    cache = TwoPartCache(llama.config)
    read(llama, cache, tokens(S))
    write(llama, cache, tokens(3, 5))
    before = [(layer.part("source")[0].clone(), layer.part("target")[0].clone()) for layer in cache.layers]
    cache.map_target_keys(lambda keys, layer: 2 * keys)
    for layer, (source, target) in zip(cache.layers, before):
        assert torch.equal(layer.part("source")[0], source) and torch.equal(layer.part("target")[0], 2 * target)


def test_buffers_grow_on_both_sides_and_keep_what_they_hold(llama):
    small, roomy = TwoPartCache(llama.config, start=1), TwoPartCache(llama.config, start=512)
    for i in range(60):
        for cache in (small, roomy):
            read(llama, cache, tokens(1 + i % 3, i))
            write(llama, cache, tokens(1, 100 + i))
    for a, b in zip(small.layers, roomy.layers):
        for name in ("source", "target"):
            for x, y in zip(a.part(name), b.part(name)):
                close(x, y)
    # 3 layers, keys and values, 2 heads of 8 numbers of 8 bytes
    assert small.nbytes() == roomy.nbytes() == (small.source_length + small.target_length) * 3 * 2 * 2 * 8 * 8
    assert small.layers[0].keys.shape[-2] <= 4 * (small.source_length + small.target_length)


def test_half_precision_runs():
    model = load(tiny("qwen3", dtype="bfloat16")).model
    cache = TwoPartCache(model.config)
    read(model, cache, tokens(S))
    logits = write(model, cache, tokens(T, 1), visible=3)
    assert logits.isfinite().all() and cache.layers[0].keys.dtype == torch.bfloat16


# -- what is refused ---------------------------------------------------------------------------------------
def test_windows(llama):
    assert attention_window(llama.config) is None
    assert attention_window(load(tiny("gemma2")).model.config) == 8
    assert attention_window(load(tiny("mistral", sliding_window=16)).model.config) == 16
    assert attention_window(load(tiny("mistral", sliding_window=None)).model.config) is None
    assert attention_window(load(tiny("qwen2", sliding_window=16, use_sliding_window=False)).model.config) is None


def test_a_stream_longer_than_the_window_is_refused_before_anything_is_kept():
    model = load(tiny("gemma2")).model  # window 8
    cache = TwoPartCache(model.config)
    read(model, cache, tokens(6))
    write(model, cache, tokens(2))
    with pytest.raises(ValueError, match=r"9 tokens together.*see 8"):
        write(model, cache, tokens(1))
    assert cache.target_length == 2


def test_layers_of_other_kinds_are_refused(llama):
    from copy import deepcopy

    config = deepcopy(llama.config)
    config.layer_types = ["full_attention", "chunked_attention", "linear_attention"]
    with pytest.raises(TypeError, match="chunked_attention, linear_attention"):
        TwoPartCache(config)


def test_impossible_requests_are_refused(llama):
    cache = TwoPartCache(llama.config)
    read(llama, cache, tokens(4))
    with pytest.raises(ValueError, match=r"visible=5.*4 source tokens"), cache.writing(5):
        pass
    with pytest.raises(ValueError, match="has 0 tokens"):
        cache.drop_target(1)
    with pytest.raises(ValueError, match="has 0 tokens"):
        cache.drop_target(-1)


def test_an_error_inside_leaves_the_mode_as_it_was(llama):
    cache = TwoPartCache(llama.config)
    read(llama, cache, tokens(4))
    with pytest.raises(KeyError), cache.writing(2):
        raise KeyError("anything")
    read(llama, cache, tokens(1))
    assert (cache.source_length, cache.target_length) == (5, 0)


# -- two threads -------------------------------------------------------------------------------------------
def schedule(seed):
    """[(source tokens of a read, target tokens of the write after it)], drawn."""
    draw = random.Random(seed)
    return [(draw.randint(1, 5), draw.randint(0, 4)) for _ in range(draw.randint(2, 5))]


def states(cache):
    return [t for layer in cache.layers for part in ("source", "target") for t in layer.part(part)]


def one_after_the_other(model, cache, plan, source, target):
    logits = []
    for n_source, n_target in plan:
        with cache.reading():
            feed(model, cache, source, cache.source_length, n_source)
        for _ in range(n_target):
            with cache.writing(cache.source_length):
                logits.append(feed(model, cache, target, cache.target_length, 1))
    return logits


def feed(model, cache, ids, start, n):
    """Logits of ids[start : start + n] fed through whatever is open."""
    with torch.no_grad():
        return model(ids[:, start : start + n], position_ids=torch.arange(start, start + n)[None], past_key_values=cache).logits


def side_by_side(model, cache, plan, source, target, draw):
    """A reader that runs ahead as it likes, and a writer that sees what the plan says it may see."""
    read, logits, failed = threading.Semaphore(0), [], []

    def reading():
        try:
            at = 0
            for n_source, _ in plan:
                feed(model, cache.reader(), source, at, n_source)
                at += n_source
                read.release()
                time.sleep(draw.choice((0, 0, 1e-3)))
        except BaseException as error:
            failed.append(error)
            read.release(len(plan))

    def writing():
        try:
            visible = at = 0
            for n_source, n_target in plan:
                read.acquire()
                visible += n_source
                for _ in range(n_target):
                    logits.append(feed(model, cache.writer(visible), target, at, 1))
                    at += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=each) for each in (reading, writing)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed, failed
    return logits


def test_two_threads_give_what_one_gives_whatever_the_schedule():
    """200 schedules; buffers that must grow while the other thread is in them."""
    model, between = load(tiny("llama", num_hidden_layers=2)).model, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for seed in range(200):
            plan, draw = schedule(seed), random.Random(seed)
            source, target = tokens(sum(n for n, _ in plan), seed), tokens(max(1, sum(n for _, n in plan)), 1000 + seed)
            single, double = TwoPartCache(model.config, start=1), TwoPartCache(model.config, start=1)
            expected = one_after_the_other(model, single, plan, source, target)
            found = side_by_side(model, double, plan, source, target, draw)
            assert len(found) == len(expected) and all(map(torch.equal, found, expected)), seed
            assert (double.source_length, double.target_length) == (single.source_length, single.target_length)
            if single.target_length:
                assert all(map(torch.equal, states(double), states(single))), seed
    finally:
        torch.set_num_threads(between)


def test_a_pass_of_a_writer_sees_no_token_that_is_still_being_read(llama):
    """The reader stands between two layers: the cache does not count its tokens yet, and the writer is not disturbed by them."""
    cache, source = TwoPartCache(llama.config, start=1), tokens(9)
    read(llama, cache, source[:, :4])
    plain = cache.fork()
    expected = write(llama, plain, tokens(2, 1), visible=4)
    found, hook = [], None

    def between_layers(*_):
        hook.remove()
        assert cache.source_length == 4
        with pytest.raises(ValueError, match=r"writer\(visible=9\): 4 source tokens"):
            cache.writer(9)
        found.append(feed(llama, cache.writer(4), tokens(2, 1), 0, 2))

    hook = llama.model.layers[1].register_forward_pre_hook(between_layers)
    feed(llama, cache.reader(), source, 4, 5)
    assert torch.equal(found[0], expected) and (cache.source_length, cache.target_length) == (9, 2)
    with cache.writing():  # the views are gone, the cache is as ever
        assert write(llama, cache, tokens(1)).isfinite().all()
