"""The exact claims, counted: a small random model streams sentences whose every token is forced, and steps are tallied.

Nothing here needs training: what a stream feeds, attends to and logs follows from policy and method alone, and is
compared with the formulas of analytic.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from common.masks import wait_k
from common.models import load, tiny
from common.streaming.units import Example
from common.streaming.words import Boundary

from .. import method
from ..analytic import EXAMPLE, QWEN25_3B, Cost, Sentence, delays
from ..decoding import stream
from ..session import Chosen, Session

OPENS, INSIDE, STOP = 1, 2, 0  # in the vocabulary of two kinds of token: one opens a word, one goes on in it


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For matrices of width 32: threads that wait for each other cost more than they do, on a busy machine ten times as much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ForcedSession(Session):
    """A session that writes what it is told: the model runs, its preference is ignored."""

    script: list[int]

    def _choose(self, logits, inside: bool) -> int:
        return self.script[len(self.target) + len(self.pending) - len(self.opening)]


def forced_session(model, mode: str, sentence: Sentence) -> ForcedSession:
    """A session that will write the sentence. mode: "group", "position" or "kv"."""
    name = {"group": "group", "position": "position_reencoding", "kv": "kv_reencoding"}[mode]
    boundary = Boundary("opens", torch.tensor([False, True, False]), STOP)
    session = ForcedSession(model, method.arm(name), boundary, [OPENS] * sentence.target[0])
    words = [[OPENS] + [INSIDE] * (n - 1) for n in sentence.target[1:-1]]
    session.script = [token for word in words for token in word] + [STOP] * sentence.target[-1]
    return session


def forced_stream(session: ForcedSession, sentence: Sentence, k: int | None) -> Iterator[None]:
    """Runs the sentence; yields after every READ with the WRITE that follows it."""
    words, read = len(sentence.target) - 2, 0
    for j, goal in enumerate((1 + wait_k(k, sentence.n + 1, words + 1)).tolist()):
        for unit in sentence.source[read:goal]:
            session.read([OPENS] * unit)
        read = goal
        session.write(more_source=j < words and goal < len(sentence.source))
        if j == words:  # the text ends with its first stop token; the formula feeds the end unit, too
            for _ in range(sentence.target[-1]):
                session.pending = session.pending or [Chosen(STOP, session.cache.source_length)]
                session._prepare()
                session._feed_pending()
        yield


def counted(sentence: Sentence, k: int | None, mode: str) -> Cost:
    """What a stream of the sentence really feeds, attends to and turns."""
    session = forced_session(_model(), mode, sentence)
    for _ in forced_stream(session, sentence, k):
        pass
    c = session.counts
    return Cost(c.fed, c.pairs, c.rotated)


def _model():
    return load(tiny("llama", vocab_size=3, initializer_range=0.3, pad_token_id=None, bos_token_id=None, eos_token_id=None)).model


def wrong_delays(ks=(1, 3, 5, 7, 99), lengths=((1, 1), (4, 6), (9, 5), (20, 24))) -> int:
    """Words whose logged delay is not g(j), over random-length words and both ways of seeing a word's end."""
    generator, wrong = torch.Generator().manual_seed(0), 0
    model, examples = _model(), []
    for n, m in lengths:
        units = [[1, *torch.randint(1, 3, (count,), generator=generator).tolist(), 1] for count in (n, m)]
        target = [[OPENS] + [INSIDE] * (tokens - 1) for tokens in units[1]]
        examples.append(Example.of_units([[OPENS] * tokens for tokens in units[0]], [*target[:-1], [STOP]]))
    for k in ks:
        for out, (n, m) in zip(stream(model, method.arm("group"), examples, Boundary("opens", torch.tensor(
                [False, True, False]), STOP), k, forced=True), lengths):
            wrong += sum(a != b for a, b in zip(out.delays, delays(k, n, m))) + abs(len(out.delays) - m)
    return wrong


def added_entries() -> int:
    """Parameters and state-dict entries that a model has more after it was taught to stream with GPE."""
    from ..segments import Batch

    model, stock = _model(), _model()
    batch = Batch.of([Example.of_units([[1], [1, 1], [1]], [[1], [1, 2], [0]])], [1])
    loss = method.loss_sum(method.forward(model.train(), method.arm("group"), batch.source, batch.target, batch.layout),
                           batch.target, batch.scored)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    more = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in stock.parameters())
    return abs(more) + len(set(model.state_dict()) ^ set(stock.state_dict()))


def growth(mode: str, words: int = 64, k: int = 3) -> list[int]:
    """Tokens fed at each READ after the first and before the source ends; sentences of one-token units."""
    fed, boundary = [], Boundary("opens", torch.tensor([False, True, False]), STOP)
    name = {"group": "group", "kv": "kv_reencoding"}[mode]
    session = ForcedSession(_model(), method.arm(name), boundary, [OPENS])
    session.script = [OPENS] * words + [STOP]
    for _ in range(1 + k):
        session.read([OPENS])
    session.write()
    for _ in range(words - k):
        before = session.counts.fed
        session.read([OPENS])
        session.write()
        fed.append(session.counts.fed - before)
    return fed


def flops_ratio(k: int = 1) -> float:
    """KV re-encoding over GPE on the example sentence, from counted tokens and pairs at the shape of Qwen2.5-3B."""
    return QWEN25_3B.flops(counted(EXAMPLE, k, "kv")) / QWEN25_3B.flops(counted(EXAMPLE, k, "group"))
