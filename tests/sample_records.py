"""A made-up paper: claims and records to be bent by the tests of verdicts, records and reports."""

from pathlib import Path

import yaml

from common.claims.records import load_claims, make_record, write_record

RUN = {
    "started_at": "2026-11-22T10:00:00+00:00",
    "seconds": 1.5,
    "commit": "0" * 40,
    "dirty": False,
    "command": "make reproduce-demo",
    "environment": {"python": "3.11.7"},
}


def claim(rule="relative", rung="paper-scale", kind="quality", paper=100.0, up=True, **more):
    rule = {"type": rule} if isinstance(rule, str) else dict(rule)
    if rule["type"] in ("relative", "absolute", "equivalence"):
        rule.setdefault("tolerance", 0.05)
    if rule["type"] == "direction":
        rule.setdefault("threshold", 0.1)
    about = {"value": paper, "unit": "points", "source": "table", **more.pop("paper_more", {})}
    return {
        "id": "demo/C1",
        "statement": "It works.",
        "kind": kind,
        "where": "Table 1",
        "rung": rung,
        "paper": about,
        "protocol": {"metric": "score", "higher_is_better": up, "rule": rule, "seeds": [0, 1, 2]},
        **more,
    }


def one(value, **more):
    return {"value": value, "n_runs": 1, **more}


def record(a_claim=None, measured=None, **more):
    a_claim = a_claim or claim()
    measured = one(101.0) if measured is None else measured
    return make_record(
        a_claim, "c" * 64, measured, {**RUN, **more.pop("run", {})}, seeds=[0], **more
    )


def claims_yaml(folder, *claims, **paper):
    path = Path(folder) / "claims.yaml"
    content = {"paper": {"key": "demo", "title": "A demo", **paper}, "claims": list(claims)}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def write(root, *entries):
    """A repository with one paper, demo, whose claims C1, C2, ... are `entries`: (claim, measured or None for no record)."""
    folder = root / "papers" / "demo"
    folder.mkdir(parents=True)
    entries = [(dict(a_claim, id=f"demo/C{i + 1}"), m) for i, (a_claim, m) in enumerate(entries)]
    claims_yaml(folder, *(c for c, _ in entries))
    claims = load_claims(folder / "claims.yaml")
    for a_claim, measured in entries:
        if measured:
            made = make_record(a_claim, claims.sha256, measured, RUN, seeds=[0, 1, 2])
            write_record(made, folder / "results")
    for path, name in ((root, "papers"), (folder, "claims")):
        block = f"before\n<!-- ninefold:{name} -->\n<!-- /ninefold:{name} -->\nafter\n"
        (path / "README.md").write_text(block)
    return root
