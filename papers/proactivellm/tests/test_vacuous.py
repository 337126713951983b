"""Answers of one letter under each law of the paths: by hand, by enumeration, by draws; and PubMedQA's abstracts from a file by hand."""

import itertools
import json
import random
from collections import Counter
from fractions import Fraction as F

import pytest
import torch

from common.errors import DataError
from common.models import load, tiny

from .. import analytic, quantities_letter, shown, tables_letter
from ..data import batch_of
from ..experiments import vacuous
from ..method import Law, read_path, spsd, two_views, weights
from ..tasks import Task
from .made_up import of_abstracts as made
from .made_up import verdict

BINNED = ("multinomial", "polynomial, power 1", "polynomial, power -1", "slack")


# -- exactly -----------------------------------------------------------------------------------------------
def test_the_laws_by_hand():
    """n = 2: binomial (1/3, 2/3) over bins 0, 1 of 0, 1, 2; Dirichlet of alpha 1 over two bins is uniform, over three 2 (3 - v) / 12."""
    def of(name, n=2, L=2):
        return shown.of_first(shown.FAMILY[name], n, L)

    assert of("multinomial") == of("slack", L=1) == (F(1, 9), F(4, 9), F(4, 9)) and of("multinomial", L=1) == (0, 0, 1)
    assert of("slack") == (F(1, 4), F(1, 2), F(1, 4)) and of("polynomial, power 1") == (F(1, 4), F(1, 2), F(1, 4))
    assert of("polynomial, power -1") == (F(1, 36), F(10, 36), F(25, 36))
    powers = [F(2, 3), F(1, 2), F(5, 14)]  # bins 1 1 1, 1 2 3, 1 4 9
    assert of("polynomial, drawn power")[2] == sum(p * p for p in powers) / 3
    assert of("dirichlet", L=1) == (F(1, 3),) * 3 == of("naive") and of("dirichlet") == (F(1, 2), F(1, 3), F(1, 6))
    assert of("sorted") == (F(5, 9), F(3, 9), F(1, 9)) and of("sorted", L=1) == of("naive", L=1)
    assert of("wait-3") == (0, 0, 1) and of("wait-3", n=4) == (0, 0, 0, 1, 0) and of("multipath") == (0, F(1, 2), F(1, 2))
    assert shown.of_first(Law("batch"), 2, 1) == (0, 0, 1)
    assert shown.of_first(Law("dirichlet", alpha=2.0), 1, 1) == (F(1, 2), F(1, 2))
    for law in shown.FAMILY.values():
        assert all(sum(shown.of_first(law, n, L)) == 1 and len(shown.of_first(law, n, L)) == n + 1 for n in (1, 6, 13) for L in (1, 2, 3))
    with pytest.raises(ValueError, match="0 units to read"):
        shown.of_first(Law(), 0, 1)


@pytest.mark.parametrize("name", BINNED)
@pytest.mark.parametrize("L", [1, 2])
def test_closed_forms_are_what_enumeration_gives(name, L):
    """Every way in which three units fall into the bins."""
    law, n = shown.FAMILY[name], 3
    chances = [F(w).limit_denominator(1000) for w in weights(law, L)]
    found = Counter()
    for bins in itertools.product(range(len(chances)), repeat=n):
        weight = F(1)
        for b in bins:
            weight *= chances[b] / sum(chances)
        found[sum(b <= 1 for b in bins)] += weight
    assert tuple(found[v] for v in range(n + 1)) == shown.of_first(law, n, L)


@pytest.mark.parametrize("name", shown.FAMILY)
@pytest.mark.parametrize("L", [1, 2])
def test_moments_are_those_of_the_analytic_page(name, L):
    law, n = shown.FAMILY[name], 7
    of = shown.of_first(law, n, L)
    mean = shown.mean_of(of)
    if not law.random_power:
        assert mean == analytic.mean(law, n, L)[0]
        assert sum((v * v * p for v, p in enumerate(of)), F(0)) - mean**2 == analytic.variance(law, n, L)[0]


def test_draws_agree_and_a_wrong_law_does_not(monkeypatch):
    found = vacuous.drawn("smoke")
    assert {*found} == {*shown.FAMILY} and {*found["slack"]} == {"5, 1", "5, 2", "12, 1", "12, 2"}
    assert max(of["furthest"] for rows in found.values() for of in rows.values()) < 4
    assert not any(of["impossible"] for rows in found.values() for of in rows.values())
    assert found["multinomial"]["5, 1"]["whole"] == found["multinomial"]["5, 1"]["drawn"] == 1.0
    monkeypatch.setattr(vacuous, "read_path", lambda law, n, L, rng: read_path(Law("naive"), n, L, rng))
    wrong = vacuous.drawn("smoke")
    assert wrong["slack"]["12, 2"]["furthest"] > 5 and wrong["multinomial"]["12, 1"]["impossible"] > 100


def test_which_laws_are_vacuous():
    """Over the letter alone all whose bins are all read, whatever the power; with the end counted none of the paper's."""
    def of(L):
        return {name for name, law in shown.FAMILY.items() if shown.vacuous(law, 5, L)}

    assert of(1) == {"multinomial", "polynomial, power 1", "polynomial, power -1", "polynomial, drawn power"} and of(2) == set()
    assert shown.vacuous(Law("batch"), 5, 2) and shown.vacuous(Law("waitk", k=6), 5, 1) and not shown.vacuous(Law("waitk", k=5), 5, 1)


def test_kinds_of_prefix_by_hand():
    """Two sentences and the end, slack over letter and end: 1, 3, 3, 1 of 8."""
    assert shown.kinds(Law("slack"), 2, 2, 1) == (F(1, 8), F(3, 8), F(4, 8)) and shown.kinds(Law("slack"), 2, 2, 2) == (F(4, 8), 0, F(4, 8))
    assert shown.kinds(Law(), 9, 1, 4) == (0, 0, 1)
    assert sum(shown.kinds(Law("dirichlet"), 12, 2, 7)) == 1
    for needed in (0, 3):
        with pytest.raises(ValueError, match=f"evidence at unit {needed} of 2"):
            shown.kinds(Law(), 2, 1, needed)
    assert shown.quarters(Law("naive"), 6, 1) == [F(1, 4)] * 4


def test_a_vacuous_law_trains_what_batch_training_trains(double):
    """The masked view is the batch view bit for bit, and its KL is 0; of a slack path neither is so."""
    model = load(tiny(vocab_size=71)).model.double()
    examples = [item.example for item in Task("qa").items(3, "train")]
    n = len(examples[0].source_units) - 1
    batch, _ = batch_of(examples, [read_path(Law(), n, 1, random.Random(0)) * 3] * 3)
    losses = spsd(two_views(model, batch), batch)
    assert torch.equal(losses.batch, losses.stream) and losses.kl < 1e-12 * losses.batch
    batch, _ = batch_of(examples, [[5, 9, n]] * 3)
    losses = spsd(two_views(model, batch), batch)
    assert abs(losses.batch - losses.stream) > 1e-3 * losses.batch and losses.kl > 0


def test_exact_claims_and_their_words():
    found = quantities_letter.exact({}, "analytic")
    assert found["C7c"]["value"] == pytest.approx(1 / 3) and found["C7c"]["baselines"] == {"1 units": 0, "2 units": pytest.approx(1 / 3)}
    assert 1e-13 < found["C7d"]["value"] < 1.1e-13  # of Binomial(206, 1/2), 0 .. 51
    # Dirichlet: 2 (n + 1 - v) / ((n + 1) (n + 2)), v = 156 .. 206: 2 * (1 + .. + 51) / (207 * 208)
    assert found["C7e"]["value"] == pytest.approx(2 * (51 * 52 // 2) / (207 * 208), abs=2e-3)
    assert {verdict(name, found)[0] for name in found} == {"supports"}


# -- PubMedQA ----------------------------------------------------------------------------------------------
ABSTRACT = "BACKGROUND. Cats sleep. We asked why.\nRESULTS. Ten of 12 slept all day. Two did not. One ran.\nLIMITATIONS. Few cats."


def row(text=ABSTRACT, answer="yes"):
    return {"context": f"Context: {text}\nQuestion: Do cats sleep?\nA. yes\nB. no\nC. maybe\nAnswer: ", "continuation": answer}


@pytest.mark.parametrize("text, places", [
    (ABSTRACT, (9, 5, 21, 13)), ("RESULTS. One came", (2, 2, 3, 3)), ("METHODS. We did. We saw.", (3, None, 5, None)),
    ("METHODS AND RESULTS. All in one. Two.", (3, None, 7, None)), ("We RESULTS. Not a heading.", (2, None, 5, None)),
    ("AIM. To see.\nMAIN RESULTS. We saw it.", (4, 4, 8, 8)), ("A. B.\nRESULTS.\nC.", (4, None, 4, None))])
def test_where_results_begin(text, places):
    """Headings are sentences of their own, since a live stream cannot know them for what they are."""
    assert vacuous.places(text) == places


def test_abstracts_from_a_file_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path))
    (tmp_path / "text").mkdir()
    file = tmp_path / vacuous.ABSTRACTS
    rows = [row(), row("METHODS. None.", "no"), row("AIM. Why.\nRESULTS. So.", "maybe")]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    found = vacuous.abstracts("smoke")
    assert found == {"sentences": [9, 4], "evidence": [5, 4], "words": [21, 4], "evidence words": [13, 4], "all": 3,
                     "answers": {"maybe": 1, "no": 1, "yes": 1}}
    (job,) = vacuous.abstract_jobs("smoke")
    assert job.data == (str(file),) and job.arguments == {"size": "smoke"}
    file.write_text(json.dumps(rows[1]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="none of 1 abstracts"):
        vacuous.abstracts("smoke")
    for wrong in ({"context": "Context: a"}, {"context": 3, "continuation": "yes"}, row(answer="perhaps"), row("")):
        with pytest.raises(DataError, match="a row needs a context"):
            vacuous.of_row(wrong)
    monkeypatch.delenv("NINEFOLD_DATA")
    with pytest.raises(DataError, match="NINEFOLD_DATA"):
        vacuous.abstract_jobs()


def test_quantities_of_abstracts_by_hand():
    """One shape: 3 sentences, results in the second. Slack, n = 4: C(4, 2) / 16 = 6 / 16; Dirichlet 2 (5 - 2) / 30 = 1 / 5. In words 6 and
    4: phi = 4, 5 of binomial(7, 1/2): (35 + 21) / 128; Dirichlet 2 (4 + 3) / 72."""
    found = {"letter/abstracts": {"sentences": [3, 3], "evidence": [2, 2], "words": [6, 6], "evidence words": [4, 4], "all": 2,
                                  "answers": {}}}
    got = quantities_letter.abstracts(found)
    assert [got[name]["value"] for name in ("C7f", "C7g", "C7h")] == pytest.approx([6 / 16, 1 / 5 - 6 / 16, 56 / 128])
    assert [got[name]["placebo"]["value"] for name in ("C7f", "C7g", "C7h")] == pytest.approx([0, -6 / 16, 14 / 72])
    # the plain law with the end counted: C(4, 2) (2/3)^2 (1/3)^2
    assert got["C7f"]["baselines"] == pytest.approx({"the plain law, letter alone": 0, "the plain law, end counted": 24 / 81,
                                                     "slack": 6 / 16, "dirichlet": 1 / 5})


def test_words_about_abstracts():
    early = quantities_letter.abstracts(made())
    assert early["C7f"]["n_items"] == 40 and verdict("C7f", early)[0] == "supports" and verdict("C7g", early)[0] == "opposes"
    late = quantities_letter.abstracts(made(later=3))
    assert verdict("C7f", late)[0] == "opposes" and late["C7h"]["value"] < early["C7h"]["value"]
    own = {key: value for key, value in early["C7f"].items() if key != "placebo"}
    assert "does not discriminate" in verdict("C7f", {"C7f": own | {"placebo": own}})[1]
    few = quantities_letter.abstracts(made(count=20))
    assert verdict("C7f", few)[0] == "inconclusive" and "20" in verdict("C7f", few)[1]
    assert verdict("C7h", early)[0] == "opposes" and verdict("C7h", quantities_letter.abstracts(made(later=1)))[0] == "supports"


def test_tables_say_which_laws_are_vacuous():
    text = "\n".join(tables_letter.laws({"letter/drawn": vacuous.drawn("smoke")}))
    assert "Vacuous over the letter alone: multinomial, polynomial, power 1, polynomial, power -1, polynomial, drawn power" in text
    assert "over letter and end: none" in text and "100.0/50.0" not in text and text.count("s.e.") == len(shown.FAMILY)
    said = "\n".join(tables_letter.abstracts(made()))
    assert "40 of 42 abstracts" in said and "0/0/100" in said
    assert quantities_letter.abstract_facts(made()) == ([], [{"name": "PubMedQA, labelled", "split": "all", "n": 42}])
