"""common/streaming/two_streams.py: pieces are the whole, what was taken back was never there, and every count by hand."""

import threading
import time
from dataclasses import astuple

import pytest
import torch

from common import masks
from common.models import load, tiny
from common.streaming.two_streams import TwoStreams
from tests.numerics import close, far

pytestmark = pytest.mark.numerics
SOURCE = torch.randint(3, 90, (11,), generator=torch.Generator().manual_seed(0)).tolist()
TARGET = torch.randint(3, 90, (6,), generator=torch.Generator().manual_seed(1)).tolist()


def after(model, *units, phi=0.0):
    streams = TwoStreams(model, phi)
    for unit in units:
        streams.read(unit)
    return streams


@pytest.mark.parametrize("phi", [0, 0.5, 40])
def test_reading_and_feeding_is_one_pass_under_the_mask(model, phi):
    visible = torch.tensor([3, 3, 7, 7, 11, 11])
    ids, mask = masks.group_position_ids(11, 6, phi)[None], masks.streaming_mask(visible, 11)
    with torch.no_grad():
        expected = model(torch.tensor([SOURCE + TARGET]), position_ids=ids, use_cache=False,
                         attention_mask=masks.for_attention(mask, model.config._attn_implementation, model.dtype)).logits[0, 11:]
    streams, got = TwoStreams(model, phi), []
    for start, end, n in ((0, 3, 2), (3, 7, 2), (7, 11, 2)):
        streams.read(SOURCE[start:end])
        got.append(streams.feed(TARGET[len(got) * 2 :][:n], keep=0))
    close(torch.cat(got), expected)
    assert (streams.source_length, streams.target_length) == (11, 6)


def test_a_source_read_in_pieces_is_the_source_read_whole(model):
    whole = after(model, SOURCE).feed(TARGET, keep=0)
    assert whole.shape == (6, model.config.vocab_size)
    for pieces in ((4, 7), (1,) * 11, (10, 1)):
        close(after(model, *torch.tensor(SOURCE).split(pieces)).feed(TARGET, keep=0), whole)


def test_a_target_fed_token_by_token_is_the_target_fed_at_once(model):
    """Under the same visibility: of 11 tokens read, 5."""
    whole = after(model, SOURCE).feed(TARGET, visible=5, keep=0)
    close(after(model, SOURCE[:5]).feed(TARGET, keep=0), whole)  # what is not visible might as well not be there
    far(after(model, SOURCE).feed(TARGET, keep=0), whole)
    streams = after(model, SOURCE)
    close(torch.cat([streams.feed([token], visible=5) for token in TARGET]), whole)
    close(after(model, SOURCE).feed(TARGET, visible=5), whole[-1:])
    close(after(model, SOURCE).feed(TARGET, visible=5, keep=3), whole[-3:])


def test_what_was_taken_back_was_never_fed(model):
    once = after(model, SOURCE).feed(TARGET)
    streams = after(model, SOURCE)
    streams.feed(TARGET[:2])
    streams.feed([7, 8, 9])
    streams.take_back(3)
    assert streams.target_length == 2
    close(streams.feed(TARGET[2:]), once)
    streams.take_back()
    assert streams.target_length == 0
    close(streams.feed(TARGET), once)


def test_a_token_fed_again_after_a_read_sees_the_read(model):
    streams = after(model, SOURCE[:4])
    early = streams.feed(TARGET[:1])
    streams.read(SOURCE[4:])
    streams.take_back(1)
    late = streams.feed(TARGET[:1])
    far(late, early)
    close(late, after(model, SOURCE).feed(TARGET[:1]))


def test_a_fork_and_what_it_came_from_do_not_know_each_other(model):
    first = after(model, SOURCE[:6], phi=2.0)
    first.feed(TARGET[:3])
    second = first.fork()
    assert astuple(second.counts) == (0,) * 5 and (second.source_length, second.target_length) == (6, 3)
    second.read([5, 6, 7])
    other = second.feed([9, 9])
    first.read(SOURCE[6:])
    same = first.feed(TARGET[3:])
    for units, target, got in (((SOURCE[:6], SOURCE[6:]), TARGET[3:], same), ((SOURCE[:6], [5, 6, 7]), [9, 9], other)):
        alone = after(model, units[0], phi=2.0)
        alone.feed(TARGET[:3])
        alone.read(units[1])
        close(alone.feed(target), got)
    empty = TwoStreams(model).fork()  # of nothing
    empty.read(SOURCE)
    close(empty.feed(TARGET), after(model, SOURCE).feed(TARGET))


def test_counts_by_hand(llama):
    streams = TwoStreams(llama)

    def counts():
        return streams.counts.fed, streams.counts.pairs, streams.counts.rotated, streams.counts.reads, streams.counts.writes

    streams.read([5, 6, 7])
    assert counts() == (3, 6, 0, 1, 0)  # 1 + 2 + 3
    streams.read([8, 9])
    assert counts() == (5, 15, 0, 2, 0)  # and 4 + 5
    streams.feed([3, 4])
    assert counts() == (7, 28, 0, 2, 1)  # and 6 + 7: all five of the source, the target up to itself
    streams.take_back(1)
    streams.feed([4], visible=3)
    assert counts() == (8, 33, 0, 2, 2)  # and 3 + 2
    streams.change_target_keys(lambda keys, layer: keys)
    assert counts() == (8, 33, 2, 2, 2)


def test_embeddings_are_read_and_fed_as_ids_are(llama):
    table = llama.get_input_embeddings()
    with torch.no_grad():
        source, target = table(torch.tensor(SOURCE)), table(torch.tensor(TARGET))
    close(after(llama, source).feed(target), after(llama, SOURCE).feed(TARGET))


def test_positions_of_ones_own(llama):
    """The default ids, given; and others, which matter."""
    expected = after(llama, SOURCE, phi=0.5).feed(TARGET)
    streams = TwoStreams(llama)
    streams.read(SOURCE, positions=range(11))
    close(streams.feed(TARGET, positions=[t + 0.5 for t in range(6)]), expected)
    streams.take_back()
    far(streams.feed(TARGET, positions=[0] * 6), expected, rel=1e-6)


def test_changed_keys_are_what_later_tokens_see(llama):
    streams = after(llama, SOURCE)
    streams.feed(TARGET[:3])
    before = streams.fork()
    streams.change_target_keys(lambda keys, layer: -keys)
    far(streams.feed(TARGET[3:]), before.feed(TARGET[3:]), rel=1e-6)


def test_one_thread_reads_while_another_feeds(llama):
    visible = [3, 5, 5, 9, 11, 11]
    streams, expected = after(llama, SOURCE), []
    for token, n in zip(TARGET, visible):
        expected.append(streams.feed([token], visible=n))
    live, got, failed = TwoStreams(llama), [], []

    def read():
        for token in SOURCE:
            live.read([token])

    def write():
        try:
            for token, n in zip(TARGET, visible):
                while live.source_length < n:
                    time.sleep(0.0005)
                got.append(live.feed([token], visible=n))
        except Exception as error:  # else it would be lost with its thread
            failed.append(error)

    threads = [threading.Thread(target=each) for each in (read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed and len(got) == 6
    close(torch.cat(got), torch.cat(expected))
    assert (live.counts.fed, live.counts.reads, live.counts.writes) == (17, 11, 6)
    assert live.counts.pairs == 66 + sum(visible) + 21


def test_what_cannot_be_done_is_refused(llama):
    streams = after(llama, SOURCE[:4])
    for act, said in ((lambda: streams.read([]), "read: a unit without tokens"), (lambda: streams.feed([]), "feed: no target token"),
                      (lambda: streams.feed([3], visible=5), r"visible=5\): 4 source tokens have been read"),
                      (lambda: streams.take_back(1), r"drop_target\(1\): the target has 0 tokens")):
        with pytest.raises(ValueError, match=said):
            act()
    assert streams.counts.fed == 4 and streams.target_length == 0
    llama.config._attn_implementation = "flash_attention_2"
    with pytest.raises(TypeError, match="LlamaForCausalLM uses attention 'flash_attention_2'"):
        TwoStreams(llama)
    narrow = TwoStreams(load(tiny("gemma2", attn_implementation="eager")).model)
    with pytest.raises(ValueError, match=r"9 tokens together.*see 8"):
        narrow.read([5] * 9)
