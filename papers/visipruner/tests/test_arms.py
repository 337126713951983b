"""The arm is the arm: which decoder, pruner, score and split each way of an experiment is, by spies in the place of the passes."""

from dataclasses import dataclass
from types import SimpleNamespace as Of

import pytest
import torch

from common.benchmarks.kept import folder_sha256

from ..experiments import equal, llava, oracle, paper, precision, qwen3, smollm2
from ..method import paper as config_of_paper

N = 6


class Decoder(torch.nn.Module):
    how = "sdpa"

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def set_attn_implementation(self, name):
        self.how = name


@dataclass(frozen=True)
class Parts:
    decoder: Decoder
    seed: int


@dataclass(frozen=True)
class Questions:
    parts: Parts
    name: tuple
    asked: tuple


def test_a_precision_is_that_of_the_weights_and_of_what_goes_in_and_all_are_of_one_seed(monkeypatch):
    log, looked = [], llava.SIZES["cpu"].looked

    def decisions(of, pruner, into=torch.float32):
        decoder = of.parts.decoder
        log.append((of.name, of.parts.seed, decoder.how, decoder.weight.dtype, type(pruner).__name__, pruner.config, into))
        return [(3, (len(log),)), (None, ())], [len(log), 7]

    monkeypatch.setattr(precision, "stand_in", lambda seed: Parts(Decoder(), seed))
    asked = Of(picture=4), Of(picture=9)
    monkeypatch.setattr(precision, "Set", Of(of=lambda parts, split, count: Questions(parts, (split, count), asked)))
    monkeypatch.setattr(precision, "decisions", decisions)
    found = precision.precision(1)
    full, half, config = torch.float32, torch.bfloat16, equal.calibrated(1)
    assert log == [(("test", looked), 1, how, weights, pruner, config, into) for how, weights, pruner, into in (
        ("sdpa", full, "VisiPruner", full), ("eager", full, "VisiPruner", full), ("sdpa", half, "VisiPruner", half),
        ("sdpa", half, "Rounded", half))]
    assert config == config_of_paper(shallow=None, boundary=0, relative=True, tokens_threshold=0.02)
    same = {"layer": llava.bits([True, True]), "number": llava.bits([True, True]), "tokens": llava.bits([False, True]),
            "answer": llava.bits([False, True]), "overlap": [0.0]}
    assert found == {"pictures": [4, 9], "filtered": llava.bits([True, False]), "eager": same, "bfloat16": same,
                     "bfloat16, influence too": same}


def test_a_comparison_of_decisions_is_of_one_with_the_other():
    """Answers of both, question by question: which is told from the other only where they stand in pairs."""
    found = precision.compared([(3, (1, 2))] * 3, [1, 2, 3], [(3, (1, 2))] * 3, [3, 2, 1])
    assert found["answer"] == llava.bits([False, True, False]) and found["tokens"] == llava.bits([True] * 3)


@pytest.fixture
def scored(monkeypatch):
    """Two questions of which the oracle's scores are known, and the tokens that each arm then keeps."""
    scores = {"oracle": [6.0, 5, 4, 3, 2, 1], "value": [6.0, 4, 5, 1, 2, 3], "attention": [1.0, 2, 3, 4, 5, 6], "lot": [1.0, 6, 2, 5, 3, 4],
              "another lot": [2.0, 1, 6, 3, 4, 5]}
    rows = {name: torch.tensor([of, of[::-1]]) for name, of in scores.items()}
    batch, asked = Of(asked=[Of(answer="two", picture=3), Of(answer="red", picture=5)]), []
    parts = Of(tokenizer=Of(convert_tokens_to_ids=lambda words: [{"two": 1, "red": 2}[word] for word in words]))

    def answers(given, of, way):
        """Right about the first where tokens 0 and 1 are kept, about the second where token 0 is not."""
        assert given is parts and of is batch
        asked.append(way if not isinstance(way, tuple) else ("kept", way[0], way[1].nonzero().tolist()))
        kept = way[1] if isinstance(way, tuple) else torch.ones(2, N, dtype=torch.bool)
        logs = torch.zeros(2, 3)
        logs[0, 1 if kept[0, :2].all() else 0] = logs[1, 2 if not kept[1, 0] else 0] = 1.0
        return logs, None

    monkeypatch.setattr(oracle, "KEPT", 2)
    monkeypatch.setattr(oracle, "stand_in", lambda seed: parts if seed == 2 else None)
    monkeypatch.setattr(oracle, "Set", Of(of=lambda given, split, count: asked.append((split, count)) or Of(
        parts=given, asked=batch.asked, shown=None)))
    monkeypatch.setattr(oracle.scoring, "prompts", lambda *of: [batch])
    monkeypatch.setattr(oracle.scoring, "answers", answers)
    monkeypatch.setattr(oracle, "looking", lambda of: Of(by_layer={oracle.BEHIND: {k: v for k, v in rows.items() if k != "oracle"}}))
    monkeypatch.setattr(oracle, "importance", lambda of, which: rows["oracle"] if of.parts is parts and which is batch else None)
    monkeypatch.setattr(oracle, "Given", lambda behind, kept: (behind, kept))
    return scores, asked


def test_each_score_keeps_its_own_best_and_is_held_against_the_oracle(scored):
    scores, asked = scored
    found = oracle.oracle(2)
    names = list(scores)
    best = {name: sorted(range(N), key=lambda i: -scores[name][i])[:2] for name in names}
    kept = {name: [[0, i] for i in sorted(best[name])] + [[1, i] for i in sorted(N - 1 - i for i in best[name])] for name in names}
    assert asked[0] == ("test", oracle.SIZES["cpu"].test) and asked[2:] == [("kept", oracle.BEHIND, kept[name]) for name in names]
    right = {name: [{0, 1} <= set(best[name]), N - 1 not in best[name]] for name in names}
    assert found["right"] == {"dense": llava.bits([True, False])} | {name: llava.bits(hits) for name, hits in right.items()}

    def spearman(name):  # of six ranks: 1 - 6 sum d² / 210
        return round(1 - 6 * sum((a - b) ** 2 for a, b in zip(scores[name], scores["oracle"])) / 210, 4)

    assert found["rank"] == {name: [spearman(name)] * 2 for name in names[1:]} and found["pictures"] == [3, 5]
    assert found["shared"] == {name: [len({*best[name]} & {*best["oracle"]}) / 2] * 2 for name in names[1:]}
    assert spearman("value") == 0.7143 and len({str(best[name]) for name in names}) == 5, "then this test shows nothing"


def test_two_lots_are_drawn_apart_and_the_same_for_a_question(monkeypatch):
    asked, view = [], Of(visual=torch.tensor([[True, False, True]]))
    monkeypatch.setattr(oracle.analysis, "Looking", lambda see: see)
    monkeypatch.setattr(oracle.llava, "lot", lambda of, number=0: (of, number))
    monkeypatch.setattr(oracle, "scored", lambda name, rows, **how: asked.append((name, rows, how)) or torch.tensor([[1.0, 2.0, 3.0]]))
    found = oracle.looking(Of(asked="questions"))(3, view, "rows")
    assert asked == [("value", "rows", {}), ("attention", "rows", {}), ("lot", "rows", {"seed": ("questions", 0)}),
                     ("lot", "rows", {"seed": ("questions", 1)})]
    assert {name: of.tolist() for name, of in found.items()} == {
        name: [[1.0, 3.0]] for name in ("value", "attention", "lot", "another lot")}


def test_a_rivals_setting_is_the_most_right_one_on_validation_and_of_equal_ones_that_with_more_pairs(monkeypatch):
    measured = {("A", 1, 0.5): (0.2, 0.9), ("A", 2, 0.5): (0.3, 0.9), ("A", 3, 0.5): (0.9, 0.8), ("B", 1, 0.5): (0.1, 0.2),
                ("B", 2, 0.5): (0.2, 0.1), ("B", 3, 0.5): (0.3, 0.1)}
    ran, looked = [], []

    class Asked:
        asked, planned = (Of(picture=8),), None

        def __init__(self, split, count):
            self.split = split, count

        def run(self, pruner=None):
            ran.append((self.split, pruner if isinstance(pruner, tuple) else type(pruner).__name__))
            return Of(right=[True], made=pruner)

        def pairs(self, run):
            return 0.25

    rivals = {name: Of(make=lambda place, share, name=name: (name, place, share)) for name in ("A", "B")}
    monkeypatch.setattr(equal, "Set", Of(of=lambda parts, split, count: Asked(split, count)))
    monkeypatch.setattr(equal, "settings", lambda rival, *of: [(1, 0.5), (2, 0.5), (3, 0.5)])
    monkeypatch.setattr(equal.llava, "at_own_k", lambda *of: ("lot", *of[2:]))
    monkeypatch.setattr(equal.llava, "measured", lambda of, pruner: looked.append(of.split) or measured[pruner])
    parts = Of(decoder=Of(config=Of(num_hidden_layers=8)))
    found = equal.compared(parts, equal.calibrated(0), llava.Size((0,), test=7, looked=1, validation=5), rivals)
    assert found["settings"] == {"A": [2, 0.5], "B": [1, 0.5]} and set(looked) == {("val", 5)}
    test = ("test", 7)
    assert ran == [(test, "NoneType"), (test, "VisiPruner"), (test, "VisiPruner"), (test, ("lot", "lot", 0)), (test, ("A", 2, 0.5)),
                   (test, ("B", 1, 0.5))]


def test_weights_of_a_folder_are_named_by_their_bytes(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert paper.of_weights(tmp_path, lambda: None) == {"weights_sha256": folder_sha256(tmp_path)}


def test_where_pyramiddrop_drops_is_as_early_as_the_paper_or_earlier():
    """Thirty layers; three places of each, in order, none twice."""
    assert smollm2.PLACES == ((7, 14, 21), (3, 11, 18), (11, 16, 22), (3, 7, 11))
    assert all(sorted(set(places)) == list(places) and places[-1] < 30 for places in smollm2.PLACES) and smollm2.jobs("cpu")


def test_every_job_of_qwen3_is_of_its_seed():
    assert all(job.name.endswith(f"seed{job.arguments['seed']}") for job in qwen3.jobs("cpu") if "seed" in job.arguments)
