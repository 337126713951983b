"""What a model says at every prefix of a stream whose answer is one letter, and policies that are read off that table.

One letter is one decision: a stream is known by M + 1 rows, a sentence read, two, .. all, and the end. The rows are those that live probes
would have (decoding.py), computed in one pass a stream; then a threshold, wait-k or lots only say which row is written. Lots need no
draws: their accuracy and RCO are expectations over when they write, exactly, and so they stand at the very RCO of what they are held
against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.streaming.words import Boundary

from .baselines import Random
from .cloze import Cloze
from .decoding import Looked, decode
from .heads import Entropy, Margin, MaxProb, Probe, threshold
from .scoring import auroc, operating
from .tasks import Item

MOST = 0.75  # the largest RCO of an operating point
QUANTILES = tuple(i / 20 for i in range(21))
HEADS = {"entropy": Entropy, "max-prob": MaxProb, "margin": Margin}
AT_ONCE = 16  # passages of a pass


class Looks(NamedTuple):
    """Of n passages at M sentences read 1 .. M, and with the end: token (n, M + 1), the likeliest one; scores {head: (n, M + 1)};
    letters (n, M + 1): the likeliest of the eight letters; answer (n,): the right letter's id; place (n,): of the evidence, from 1."""

    token: Tensor
    scores: dict[str, Tensor]
    letters: Tensor
    answer: Tensor
    place: Tensor

    @property
    def right(self) -> Tensor:
        """(n, M + 1): what would be written is the right letter."""
        return self.token == self.answer[:, None]

    @property
    def sentences(self) -> int:
        return self.token.shape[1] - 1


def looks(model: nn.Module, task: Cloze, items: Sequence[Item]) -> Looks:
    """One pass a passage; every prefix is looked at by the rows that live probes would have (decoding.py). Questions of one length, which
    decoding has in the header of the answer, go together."""
    boundary = Boundary.of_tokenizer(task.tokenizer, int(items[0].example.target[-1]))
    found: dict[int, tuple[Tensor, ...]] = {}
    for places in together([item.example.target_units[0] for item in items]):
        record: list[Looked] = []
        decode(model, [items[i].example for i in places], Random(0.0), boundary, max_target=1, record=record)
        probe: Probe = record[0].probe
        of_letters = torch.tensor(task.letters)[probe.logits[..., list(task.letters)].argmax(-1)]
        parts = (record[0].token, of_letters, *(head().score(probe).double() for head in HEADS.values()))
        found |= {i: tuple(part[row] for part in parts) for row, i in enumerate(places)}
    token, letters, *scores = (torch.stack(part) for part in zip(*(found[i] for i in range(len(items)))))
    answers = torch.tensor([int(item.example.target[item.example.target_units[0]]) for item in items])
    return Looks(token, dict(zip(HEADS, scores)), letters, answers, torch.tensor([item.oracle[0] for item in items]))


def together(lengths: Sequence[int]) -> list[list[int]]:
    """Places of equal lengths, AT_ONCE of them at most."""
    found = []
    for length in sorted(set(lengths)):
        places = [i for i, other in enumerate(lengths) if other == length]
        found += [places[at : at + AT_ONCE] for at in range(0, len(places), AT_ONCE)]
    return found


# -- policies --------------------------------------------------------------------------
def row(of: Looks, at: Tensor) -> dict[str, Any]:
    """Scores of a policy that writes the answer of passage i in column at[i] (0: one sentence read; M: with the end). "quality": right
    answers in %; "RCO"; "premature": % written before the evidence."""
    read = (at + 1).clamp(max=of.sentences)
    return _row(of, of.right.gather(1, at[:, None])[:, 0].double(), read / of.sentences, (at + 1 < of.place).double())


def _row(of: Looks, right: Tensor, rco: Tensor, premature: Tensor) -> dict[str, Any]:
    return {"quality": 100 * float(right.mean()), "RCO": float(rco.mean()), "premature": 100 * float(premature.mean()), "n": len(of.place)}


def written_at(score: Tensor, least: float) -> Tensor:
    """Column (n,) of the first prefix whose score is at least the threshold; with the end there is nothing to decide."""
    writes = score >= least
    writes[:, -1] = True
    return writes.int().argmax(1)


def chances(chance: float, sentences: int) -> Tensor:
    """Of writing in each column, by lots at every sentence."""
    column = torch.arange(sentences + 1, dtype=torch.float64)
    found = chance * (1 - chance) ** column
    found[-1] = (1 - chance) ** sentences
    return found


def lots_at(of: Looks, rco: float) -> dict[str, Any]:
    """What is expected of lots whose expected RCO is this one: {..., "chance"}. Nothing is drawn."""
    m = of.sentences
    read = (torch.arange(m + 1) + 1).clamp(max=m) / m
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(chances(middle, m) @ read.double()) > rco else (low, middle)
    weight = chances(low, m)
    column = torch.arange(m + 1)
    return _row(of, of.right.double() @ weight, (weight @ read.double()).expand(len(of.place)),
                (column + 1 < of.place[:, None]).double() @ weight) | {"chance": low}


def swept(calibration: Looks, test: Looks, head: str) -> dict[str, Any]:
    """Thresholds at QUANTILES of the head's scores at all prefixes of calibration passages; "chosen": by calibration alone."""
    taus = [threshold(calibration.scores[head][:, :-1].flatten(), q, "stream") for q in QUANTILES]
    sides = {name: [row(of, written_at(of.scores[head], tau)) for tau in taus]
             for name, of in (("calibration", calibration), ("test", test))}
    return {"threshold": taus, **sides, "chosen": operating(sides["calibration"], MOST)}


def sufficiency(of: Looks, head: str = "entropy") -> float:
    """AUROC of a head's score at all prefixes against "the sentence with the evidence has been read"."""
    read = torch.arange(1, of.sentences + 1)
    return auroc(of.scores[head][:, :-1].flatten().tolist(), (read >= of.place[:, None]).flatten().tolist())


def guesses(of: Looks) -> float:
    """% of right answers at prefixes without the evidence; 0 where there is none."""
    before = torch.arange(1, of.sentences + 1) < of.place[:, None]
    return 100 * float(of.right[:, :-1][before].double().mean()) if before.any() else 0.0
