"""The page of another processor's runs: what is compared, what is counted, and that it follows from its file."""

import json

from common.report import machines


def record(claim="p/C1", word="supports", value=1.0, ci=(0.5, 1.5), seeds=(0, 1, 2), topic="quality", rung="cpu-small", rule=None,
           cpu="Intel", code="a", lock="l", command="make reproduce-p", timing=None):
    return {"claim": {"id": claim, "rung": rung, "topic": topic}, "protocol": {"rule": rule or {"above": 0}, "seeds": list(seeds)},
            "measured": {"value": value, "n_runs": len(seeds), "ci95": list(ci) if ci else None}, "verdict": {"word": word},
            "run": {"command": command, "commit": "0123456789", "environment": {"cpu": cpu, "lock_sha256": lock},
                    "sources": {"experiment": "text", "sha256": code}, "timing": timing}}


def other(claim="p/C1", *given, **named):
    return record(claim, *given, **({"cpu": "AMD"} | named))


def names(committed, again):
    return [row["claim"] for row in machines.compared(committed, again)]


def test_what_cannot_be_compared_is_left_out():
    first = record()
    assert names([first], [other(value=1.2)]) == ["p/C1"]
    assert names([first], [other("p/C2")]) == [], "no committed record"
    for changed in ({"seeds": range(6)}, {"code": "b"}, {"lock": "m"}, {"rule": {"above": 1}}, {"cpu": "Intel"}):
        assert names([first], [other(**changed)]) == [], changed
    for both in ({"topic": "efficiency-measured"}, {"topic": "training-cost"}, {"rung": "analytic"}, {"value": None},
                 {"timing": {"rounds": 3}}, {"command": "make reproduce-p ONLY=speech"}):
        assert names([record(**both)], [other(**both)]) == [], both
    unknown = record()
    del unknown["run"]["sources"]
    assert names([unknown], [other()]) == [], "nobody knows which code"


def test_counts_by_hand():
    """Equal to four digits; moved inside; moved outside and turned to the edge; turned to the opposite."""
    committed = [record("p/C1"), record("p/C2"), record("p/C3"), record("p/C4"), record("p/C5", value=2.0, ci=None)]
    again = [other("p/C1", value=1.00009), other("p/C2", value=1.4), other("p/C3", "inconclusive", 1.6),
             other("p/C4", "opposes", -1.0), other("p/C5", value=2.0)]
    found = machines.counts(machines.compared(committed, again))
    assert found == {"claims": 5, "equal": 2, "inside": 3, "turned": 2, "reversed": 1}


def test_the_page_follows_from_its_file_and_from_nothing_else(tmp_path, capsys):
    assert not machines.is_stale(tmp_path), "a tree without the file has no page"
    (tmp_path / "docs").mkdir()
    facts = {"skipgpt": machines.of_paper([record("skipgpt/C1")], [other("skipgpt/C1", "inconclusive", 0.7)])}
    (tmp_path / machines.FACTS).write_text(json.dumps(facts))
    assert machines.is_stale(tmp_path) and machines.update(tmp_path) == "rewritten" and machines.update(tmp_path) == "unchanged"
    text = (tmp_path / machines.PAGE).read_text()
    assert "Of 1 claims" in text and "1 have another word there, and 0 the opposite one" in text and "[SkipGPT]" in text
    assert "| skipgpt/C1 | supports, " in text and "make reproduce-p at 0123456, Intel" in text and "at the edge of its rule" in text
    turned = machines.of_paper([record("gpe/C1")], [other("gpe/C1", "opposes", -0.7)])
    assert "at the edge of its rule" not in machines.page(facts | {"gpe": turned}), "a reversed word is at no edge"
    (tmp_path / machines.PAGE).write_text(text.replace("0 the opposite", "9 the opposite"))
    assert machines.is_stale(tmp_path)


def test_a_paper_that_was_not_run_again_keeps_what_stands(tmp_path, capsys, monkeypatch):
    """Runs of one paper are added to those of another."""
    (tmp_path / "docs").mkdir()
    (tmp_path / machines.FACTS).write_text(json.dumps({"gpe": machines.of_paper([record("gpe/C1")], [other("gpe/C1")])}))
    monkeypatch.setattr(machines, "read_records", lambda folder: [(other if "runs" in folder.parts else record)("skipgpt/C1")])
    for folder in ("papers/skipgpt/results", "runs/skipgpt"):
        (tmp_path / folder).mkdir(parents=True)
    assert machines.main(["--write", "--runs", str(tmp_path / "runs")], tmp_path) == 0
    assert "skipgpt: 1 claims, 1 equal" in capsys.readouterr().out
    assert [*machines.read(tmp_path)] == ["skipgpt", "gpe"] and not machines.is_stale(tmp_path)
