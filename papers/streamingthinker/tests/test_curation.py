"""Quality control: faults that are there, scores by hand, and a gate that sees them."""

import random

import numpy as np
import pytest

from common.errors import ModelError

from .. import curation, faults, reported
from ..curation import SKIP, Gate, Trace, generate, scores, tf_idf

TRACE = Trace(("How many?", "Ann has three.", "Bob wears hats.", "Ann buys two."),
              ("They ask how many.", "Ann three.", SKIP, "Ann two more, five."))


def letters(texts):
    """An encoder by hand: counts of a few words, normalised."""
    words = ["how", "many", "three", "bob", "two", "ann"]
    plain = ["".join(sign if sign.isalnum() else " " for sign in text.lower()).split() for text in texts]
    counts = np.array([[text.count(w) for w in words] for text in plain], float)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def test_scores_by_hand():
    found = scores(TRACE, letters)
    # units: (how many | how many) = 1; (ann three | ann three) = 1; (ann two | ann two) = 1
    assert (found.granularity, found.diagonal, found.first, found.quoted, found.skipped) == pytest.approx((1.0, 1.0, 1.0, 0.0, 0.25))
    moved = Trace(TRACE.sentences, (TRACE.units[0], SKIP, TRACE.units[1], TRACE.units[3]))
    late = scores(moved, letters)
    assert late.first == pytest.approx(2 / 3) and late.diagonal == pytest.approx(2 / 3)
    short = scores(Trace(TRACE.sentences, TRACE.units[:3]), letters)
    assert short.granularity == 0.75 and np.isnan(short.diagonal)
    assert scores(Trace(("A b.",), ("a  B!",)), letters).quoted == 1.0
    assert scores(Trace(("A.",), (SKIP,)), letters).first == 0.0
    strange = scores(Trace(TRACE.sentences, ("Quux.", "Ann three.", "Zork.", "Blip.")), letters)
    assert (strange.first, strange.diagonal) == pytest.approx((0.25, 0.25)), "like nothing: in no place"
    with pytest.raises(ValueError, match="without sentences"):
        scores(Trace((), ()), letters)


def test_each_reason_by_hand():
    gate = Gate(letters, diagonal=0.9, first=0.7)
    assert gate.reason(TRACE) is None and gate.accepts(TRACE)
    for units, why in ((TRACE.units[:3], "count"), ((*TRACE.units, "In all five."), "count"),
                       ((TRACE.units[0], "Ann has three!", *TRACE.units[2:]), "quoted"),
                       ((TRACE.units[0], SKIP, TRACE.units[1], TRACE.units[3]), "order"), ((SKIP,) * 4, "skipped")):
        assert gate.reason(Trace(TRACE.sentences, units)) == why
    weak = (TRACE.units[0], TRACE.units[1], SKIP, "Ann two two three many.")
    assert Gate(letters, diagonal=0.99, first=0.1).reason(Trace(TRACE.sentences, weak)) == "diagonal"


def test_the_paper_s_examples_pass():
    """Similarity maps with these diagonals, whose rows have their maximum there."""
    for diagonal in reported.DIAGONALS:
        n = len(diagonal)
        vectors = {f"s{i}": np.eye(2 * n)[i] for i in range(n)}
        vectors |= {f"u{i}": d * np.eye(2 * n)[i] + np.sqrt(1 - d * d) * np.eye(2 * n)[n + i] for i, d in enumerate(diagonal)}
        trace = Trace(tuple(f"s{i}" for i in range(n)), tuple(f"u{i}" for i in range(n)))
        gate = Gate(lambda texts, vectors=vectors: np.stack([vectors[t] for t in texts]))
        assert gate.accepts(trace) and scores(trace, gate.encode).diagonal == pytest.approx(sum(diagonal) / n)


def test_faults_are_what_they_are_called():
    trace, draw = faults.english(3), random.Random(1)
    n = len(trace.units)
    assert len(trace.sentences) == n == len(faults.delayed(trace, draw).units) == len(faults.ahead(trace, draw).units)
    assert len(faults.merged(trace, draw).units) == n - 1 and len(faults.summary(trace, draw).units) == n + 1
    late, early = faults.delayed(trace, random.Random(1)), faults.ahead(trace, random.Random(1))
    k = late.units.index(SKIP, 1) if trace.units[1] != SKIP else 1
    assert late.units[k + 1 : n - 1] == trace.units[k : n - 2] and trace.units[n - 1] in late.units[n - 1]
    assert early.units[-1] == SKIP and early.units[1:-1][-1] == trace.units[-1]
    quoted = faults.quoted(trace, draw)
    assert sum(u == s for u, s in zip(quoted.units, quoted.sentences)) == 2 and quoted.answer == trace.answer
    assert all(sorted(FAULT(trace, draw).sentences) == sorted(trace.sentences) for FAULT in faults.FAULTS.values())


def test_a_calibrated_gate_sees_the_faults_and_keeps_the_clean():
    known = [faults.english(i, "val") for i in range(60)]
    gate = Gate.calibrated(known, tf_idf([text for t in known for text in (*t.sentences, *t.units)]))
    clean = [gate.accepts(faults.english(i)) for i in range(60)]
    assert sum(clean) >= 50
    for name, plant in faults.FAULTS.items():
        draw = random.Random(name)
        dropped = [not gate.accepts(plant(faults.english(100 + i), draw)) for i in range(20)]
        assert sum(dropped) >= (20 if name in faults.COUNT else 17), name
    with pytest.raises(ValueError, match="needs twenty"):
        Gate.calibrated(known[:19], gate.encode)


def test_two_passes_and_the_teacher():
    problems = [(TRACE.sentences, "5"), (TRACE.sentences, "6"), (TRACE.sentences, "")]
    asked = []

    def generator(sentences, attempt):
        asked.append(attempt)
        return Trace(tuple(sentences), TRACE.units if attempt else TRACE.units[:3], "5")

    found = generate(problems, generator, Gate(letters))
    assert asked == [0, 0, 0, 1, 1, 1] and len(found.kept) == 2 and found.dropped == [{"count": 2, "answer": 1}, {"answer": 1}]
    found = generate(problems, generator, Gate(letters), teacher=lambda t: Trace(t.sentences, TRACE.units, t.answer), passes=1)
    assert len(found.kept) == 2 and found.dropped == [{"answer": 1}]


def test_a_transformer_as_encoder_pools_real_tokens():
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)).eval()

    def tokenizer(texts, **_):
        rows = [[ord(letter) % 30 for letter in text] for text in texts]
        width = max(map(len, rows))
        from transformers import BatchEncoding

        return BatchEncoding({"input_ids": torch.tensor([r + [0] * (width - len(r)) for r in rows]),
                              "attention_mask": torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])})

    encode = curation.sentence_encoder(model, tokenizer, batch=2)
    together = encode(["abc", "a longer text", "b"])
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert np.allclose(together[0], encode(["abc"])[0], atol=1e-5) and not np.allclose(together[0], together[2], atol=1e-2)
    with pytest.raises(ModelError, match="not installed"):
        curation.minilm("no_such_package_here")
