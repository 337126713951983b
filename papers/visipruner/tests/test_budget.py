"""Few tokens: whose attention rates, at which layer, which threshold, and what the job gives."""

import pytest
import torch

from common.standins.llava import stand_in

from .. import scoring
from ..experiments import budget, equal, llava
from ..pruners import VisiPruner
from ..scoring import Run
from ..session import PruningSession
from .test_method import FAMILIES, alone, decoder, prompts


@pytest.fixture(scope="module")
def few():
    return llava.Set.of(stand_in(0), "test", 1)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_means_of_the_stock_models_own_attention(family, padded):
    """By eager attention's own weights, with grouped heads, norms of queries and keys, and padding."""
    model, (call, visual) = decoder(FAMILIES[family], attn="eager", dtype=torch.float32), prompts(padded)
    weights = model(**call, output_attentions=True).attentions
    for by in ("text", "picture"):
        pruner = budget.Rated(by, 2, [2, 3])
        with budget.Seeing(model, pruner, visual) as session:
            model(**call)
        for b in range(2):
            raters = visual[b] if by == "picture" else call["attention_mask"][b].bool() & ~visual[b]
            wanted = weights[2][b].mean(0)[raters].mean(0)
            torch.testing.assert_close(pruner.score[b, visual[b]], wanted[visual[b]], atol=1e-6, rtol=1e-4)
            slots = visual[b].nonzero()[:, 0]
            best = slots[wanted[visual[b]].argsort(descending=True)[: [2, 3][b]]]
            assert sorted(session.trace.kept[2][b].tolist()) == sorted(best.tolist())
        assert session.trace.visual[2] == visual.sum(1).tolist() and session.trace.visual[3] == [2, 3]


@torch.no_grad()
def test_text_and_picture_rate_otherwise_than_the_last_token(few):
    """By what they keep: the same layer and number, three choices."""
    (batch, *_) = scoring.prompts(few.parts, few.asked, few.shown)
    kept = []
    for session, pruner in ((budget.Seeing, budget.Rated("text", 3, [9] * len(batch.asked))),
                            (budget.Seeing, budget.Rated("picture", 3, [9] * len(batch.asked))),
                            (PruningSession, llava.Chosen("attention", 3, 9))):
        with session(few.parts.decoder, pruner, batch.visual) as s:
            few.parts.decoder(inputs_embeds=batch.embeds, attention_mask=torch.ones(batch.visual.shape, dtype=torch.long), use_cache=False)
        kept.append(s.trace.kept[3][0].tolist())
    assert all(len(of) == 9 for of in kept) and len({tuple(of) for of in kept}) == 3


@torch.no_grad()
def test_each_question_keeps_its_own_number_behind_its_own_layer(few):
    """Layers 2 and 4, or none at all: where VisiPruner dropped nothing the answers are the stock model's."""
    n = len(few.asked)
    plan = [[[64] * 8, [64, 64, 64, 9, 9, 9, 9, 9], [64] * 5 + [3] * 3][i % 3] for i in range(n)]
    found, stock = budget.rated(few, Run([], plan, []), "text"), few.run()
    assert found.visual == plan and len(found.right) == n
    assert [a for a, of in zip(found.chosen, plan) if of == [64] * 8] == [a for a, of in zip(stock.chosen, plan) if of == [64] * 8]
    assert found.right == [a == b for a, b in zip(found.chosen, few.parts.tokenizer.convert_tokens_to_ids([q.answer for q in few.asked]))]


def test_the_threshold_is_the_lowest_that_keeps_twenty_on_average(monkeypatch):
    """Of those that are filtered alone, without labels, before any exit."""
    asked = []

    class Val:
        def run(self, pruner):
            assert isinstance(pruner, VisiPruner) and pruner.config.exit_cos == 2
            asked.append(pruner.config.tokens_threshold)
            kept = {0.01: 40, 0.05: 21, 0.1: 20, 0.5: 1}[asked[-1]]
            return Run([], [[64, 64, kept], [64, kept, kept], [64, 64, 64]], [])

    config = equal.calibrated(1)
    assert budget.threshold_for(Val(), config, (0.5, 0.1, 0.05, 0.01)) == 0.1 and asked == [0.01, 0.05, 0.1]
    assert budget.threshold_for(Val(), config, (0.05, 0.01)) == 0.05, "none does"


def test_the_job_walks_and_its_arms_are_its_arms(monkeypatch):
    """On one picture: value is VisiPruner without the exit, few are those with 1 to 20, and no test picture chooses anything."""
    seen, size = [], llava.Size((0,), test=1, looked=1, validation=1)
    monkeypatch.setattr(budget, "threshold_for", lambda val, config: seen.append(val.asked) or 0.1)
    found = budget.at_few(stand_in(0), equal.calibrated(0), size)
    assert seen == [llava.Set.of(stand_in(0), "val", 1).asked]
    test = llava.Set.of(stand_in(0), "test", 1)
    whole = test.run(VisiPruner(equal.calibrated(0).with_(tokens_threshold=0.1, exit_cos=2)))
    kept = [min(row) if min(row) < 64 else None for row in whole.visual]
    assert found["kept"] == kept and found["few"] == "".join("01"[k is not None and 1 <= k <= 20] for k in kept)
    assert found["right"]["value"] == llava.bits(whole.right) and found["threshold"] == 0.1
    assert {*found["right"]} == {"value", "attention", "text", "picture", "lot", "another lot"}
    assert {*found["test"]} == {"dense", "VisiPruner", "lot at its K", "FastV", "PyramidDrop"} and found["pictures"] == [0] * len(kept)
    assert found["pairs"]["FastV"] >= found["pairs"]["VisiPruner"] < 1


def test_questions_that_are_alone_in_a_batch(few):
    call, visual = alone(*prompts(padded=False), 0)
    with budget.Seeing(decoder(dtype=torch.float32), budget.Rated("text", 1, [0]), visual) as session, torch.no_grad():
        session.model(**call)
    assert [row[0] for row in session.trace.visual] == [5, 5, 0, 0, 0]
