"""The page of open questions: which required claims stand on it, with which n and price, from records made up by hand."""

import pytest

from common.report.open_questions import PAGE, is_stale, open_rows, page, price, update
from common.report.papers import Paper
from common.report.rows import Row

RULE = {"above": 0.0, "falsified_if": "not"}


def row(name, word, reason="", *, value=1.0, stderr=0.1, n=3, evidence="trainings", required=True, kind="small", seconds=600.0, flag=""):
    claim = {"id": f"mine/{name}", "rung": "cpu-small", "statement": f"{name} holds.", "kind": kind, "required": required, "topic": "t",
             "where": "w", "paper_key": "mine"}
    protocol = {"rule": RULE, "evidence": evidence, "seeds": list(range(n))}
    measured = {"value": value, "n_runs": n, "stderr": stderr, "stderr_kind": "across-seeds", "ci95": [value - stderr, value + stderr]}
    record = {"claim": claim, "paper": {"value": None, "unit": "nats", "source": "text"}, "protocol": protocol, "measured": measured,
              "verdict": {"word": word, "reason": reason}, "run": {"command": "make reproduce-mine", "seconds": seconds, "dirty": False}}
    return Row(claim["id"], "cpu-small", claim | {"protocol": protocol, "paper": record["paper"]}, record, flag, "changed since")


def open_of(*rows):
    return {one.short: why for one, why in open_rows(Paper("mine", "Mine", here=True, rows=list(rows)))}


def test_a_decided_claim_is_not_open_and_one_that_nobody_asked_for_neither():
    assert open_of(row("A", "supports", stderr=1e-3), row("B", "inconclusive", "x", required=False)) == {}


def test_a_word_that_stands_alone_is_open_beside_others():
    """t = 5 with two degrees of freedom: p = .019 one-sided, enough for .025 alone, and not for half of it beside an open one."""
    strong = row("A", "supports", value=1.0, stderr=0.2)
    assert open_of(strong) == {}
    both = open_of(strong, row("B", "inconclusive", "1 nats, wanted above 0: contains 0; about 9 runs would decide (n = 3).", stderr=1.0))
    assert "(Holm)" in both["A"] and both["B"] == "its interval contains the bar"


def test_a_word_that_stands_alone_has_the_n_at_which_it_stands_beside_others(tmp_path):
    """One run spreads by .2 sqrt(3) = .346. Of four the standard error is .173 and t = 5.77: p = .0052 with three degrees of freedom,
    below .0125, the level of the first of two. The rule's other side: t = -5.77 for a word that opposes. At a level that four miss
    (.005) it takes five: t = 6.45, p = .0015."""
    strong, opposing = row("A", "supports", value=1.0, stderr=0.2), row("A", "opposes", value=-1.0, stderr=0.2)
    for one in (strong, opposing):
        assert price(one, 0.0125)[0] == "4 trainings" and price(one, 0.005)[0] == "5 trainings"
        assert price(one, 0.0125)[1].startswith("`make reproduce-mine SEEDS=4`, about 13 minutes")
    assert price(row("A", "supports", evidence="items", stderr=0.2), 0.0125) == ("-", "`make reproduce-mine`")
    other = row("B", "inconclusive", "1 nats, wanted above 0: contains 0; about 9 runs would decide (n = 3).", stderr=1.0)
    assert "| 4 trainings |" in page([Paper("mine", "Mine", here=True, rows=[strong, other])])


def test_a_record_of_older_code_is_open_whatever_its_word():
    assert open_of(row("A", "supports", flag="older", stderr=1e-3)) == {"A": "changed since"}


@pytest.mark.parametrize("reason, decides, takes", [
    ("contains 0; about 12 runs would decide (n = 3).", "12 trainings", "`make reproduce-mine SEEDS=12`, about 40 minutes"),
    ("contains 0; about 1,980 runs would decide (n = 3).", "1,980 trainings", "-"),
    ("contains 0; no number of runs below a million would decide (n = 3).", "no number of runs: the value lies at its bar", "-"),
    ("wanted above 0, but the placebo, another arm, passes, too (2): the measure does not discriminate.",
     "no number of runs: the measure cannot tell the two apart", "-"),
    ("contains 0; and the placebo, another arm, passes, too (2): the measure does not discriminate.",
     "no number of runs: the measure cannot tell the two apart", "-"),
    ("wanted above 0, but the placebo, another arm, neither fails (.1, 95 % interval [-1, 1]) nor is shown to be behind: about 9 runs "
     "would decide (n = 3).", "9 trainings", "`make reproduce-mine SEEDS=9`, about 30 minutes"),
    ("there is no interval (n = 1); run 3 seeds.", "three trainings", "see papers/mine/README.md"),
])
def test_what_would_decide_and_what_it_takes(reason, decides, takes):
    """600 seconds for three trainings are 200 each: twelve take 40 minutes."""
    n, found = price(row("A", "inconclusive", reason), 0.025)
    assert n == decides and found.startswith(takes)


def test_the_arm_that_did_not_fail_is_named():
    reasons = {"A": "wanted above 0, but the placebo, b, in place of c, passes, too (2): the measure does not discriminate.",
               "B": "contains 0; and the placebo, d, passes, too (2): the measure does not discriminate.",
               "C": "wanted above 0, but the placebo, e, neither fails (.1, 95 % interval [-1, 1]) nor is shown to be behind: more runs "
                    "would tell."}
    assert open_of(*(row(name, "inconclusive", reason) for name, reason in reasons.items())) == {
        "A": "the arm that must fail passes, too: b, in place of c", "B": "the arm that must fail passes, too: d",
        "C": "the arm that must fail is not shown to fail: e"}


def test_more_seeds_take_the_place_of_those_that_were_asked_for():
    one = row("A", "inconclusive", "contains 0; about 7 runs would decide (n = 3).")
    one.record["run"]["command"] = "make reproduce-mine SEEDS=3"
    assert price(one, 0.025)[1].startswith("`make reproduce-mine SEEDS=7`, about 23 minutes")


def test_processes_and_items_have_no_price_in_seeds():
    assert price(row("A", "inconclusive", "about 30 runs would decide (n = 3).", evidence="processes"), 0.025) == ("30 processes", "-")
    assert price(row("A", "inconclusive", "about 393 items would decide (n = 85).", evidence="items"), 0.025) == ("393 items", "-")


def test_the_page_names_the_arm_that_passes_and_is_written_where_docs_are(tmp_path):
    one = row("A", "inconclusive", "wanted above 0, but the placebo, <another> arm, passes, too (2): the measure does not discriminate.")
    papers = [Paper("mine", "Mine", here=True, rows=[one]), Paper("planned", "Planned")]
    text = page(papers)
    assert "Of 1 required claims of 1 papers these 1 " in text and "passes, too: &lt;another&gt; arm |" in text
    assert not is_stale(tmp_path, papers), "a paper that was copied out has no docs"
    (tmp_path / "docs").mkdir()
    assert is_stale(tmp_path, papers) and update(tmp_path, papers) == "rewritten" and (tmp_path / PAGE).read_text() == text
    assert not is_stale(tmp_path, papers) and update(tmp_path, papers) == "unchanged"
