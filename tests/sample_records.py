"""A made-up paper: claims and records to be bent by the tests of verdicts, records and reports."""

import copy
from pathlib import Path

import yaml

from common.claims.intervals import summarize
from common.claims.records import load_claims, make_record, write_record
from common.claims.rules import COMPARING
from common.report.code import digest_of

RUN = {
    "started_at": "2026-11-22T10:00:00+00:00",
    "seconds": 1.5,
    "commit": "c0ffee" * 6 + "c0ff",
    "dirty": False,
    "command": "make reproduce-demo",
    "environment": {"python": "3.11.7"},
    "sources": {"experiment": "demo", "sha256": digest_of({})},
}
NUMBERS = {"equals": True, "relative": 0.05, "absolute": 0.05, "z": 0.05, "prediction-interval": 0.05, "above": 0.1, "below": 0.1,
           "within": 0.05}
CONTROLS = {"placebo": summarize([-0.01, 0.0, 0.01]), "sensitivity": summarize([8.9, 9.0, 9.1])}  # that fail, and are told apart


def claim(rule="relative", rung="paper-scale", kind=None, paper=100.0, up=True, evidence="trainings", topic="quality", **more):
    """rule: its name, or all of it. kind: by default what the rung and the rule allow."""
    rule = {rule: NUMBERS[rule]} if isinstance(rule, str) else dict(rule)
    name = next(iter(rule))
    small = rung == "cpu-small" or (rung == "gpu-random-weights" and name not in COMPARING)
    kind = kind or ("arithmetic" if rung == "analytic" else "small" if small else "measured")
    about = {"value": paper, "unit": "points", "source": "table", **more.pop("paper_more", {})}
    protocol = {"metric": "score", "higher_is_better": up, "rule": rule, "seeds": [0, 1, 2]}
    if rung == "cpu-small" and name not in COMPARING:
        protocol |= {"evidence": evidence, **({"sensitivity": "a worse arm"} if name == "within" else {"placebo": "the no-op"})}
    return {
        "id": "demo/C1",
        "statement": "It works.",
        "kind": kind,
        "topic": topic,
        "where": "Table 1",
        "rung": rung,
        "paper": about,
        "protocol": protocol | more.pop("protocol", {}),
        **more,
    }


def one(value, **more):
    return {"value": value, "n_runs": 1, **more}


def held(measured, **more):
    """A measurement, or the values of one, with controls that are as they should be."""
    return (summarize(measured) if isinstance(measured, list | tuple) else measured) | CONTROLS | more


UP = held([0.3, 0.31, 0.32])  # supports "above"


def record(a_claim=None, measured=None, **more):
    a_claim = a_claim or claim()
    measured = one(101.0) if measured is None else measured
    return make_record(
        a_claim, "c" * 64, measured, {**RUN, **more.pop("run", {})}, seeds=[0], **more
    )


def put(value, path, new):
    """A copy of a nested value with another at one place."""
    value = copy.deepcopy(value)
    if not path:
        return new
    inside = value
    for part in path[:-1]:
        inside = inside[part]
    inside[path[-1]] = new
    return value


def claims_yaml(folder, *claims, headlines=(), **paper):
    path = Path(folder) / "claims.yaml"
    content = {"paper": {"key": "demo", "title": "A demo", **paper}, "claims": list(claims)}
    if headlines:
        content["headlines"] = list(headlines)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def headline(*rows, number=1, **more):
    return {"id": f"demo/H{number}", "statement": "It works, they say.", "short": "it works", "paper": "2 points", "rows": list(rows),
            "needs": "four GPUs", **more}


def write(root, *entries, headlines=(), key="demo"):
    """A repository with one paper, or one more, whose claims C1, C2, ... are `entries`: (claim, measured or None for no record)."""
    folder = root / "papers" / key
    folder.mkdir(parents=True)
    entries = [(dict(a_claim, id=f"{key}/C{i + 1}"), m) for i, (a_claim, m) in enumerate(entries)]
    claims_yaml(folder, *(c for c, _ in entries), headlines=headlines, key=key)
    claims = load_claims(folder / "claims.yaml")
    for a_claim, measured in entries:
        if measured:
            made = make_record(a_claim, claims.sha256, measured, RUN, seeds=[0, 1, 2])
            write_record(made, folder / "results")
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "sources.json").write_text('{"demo": {}}')
    for path, names in ((root, ("papers", "counts")), (folder, ("headlines",)), (folder / "results", ("claims",))):
        blocks = "".join(f"<!-- ninefold:{name} -->\n<!-- /ninefold:{name} -->\n" for name in names)
        (path / "README.md").write_text(f"before\n{blocks}after\n")
    return root


def every_word(root):
    """One paper with every word once, in their order, and one claim that nobody ran."""
    small = {"paper": None}
    return write(
        root,
        (claim("equals", paper=524416), one(524416)),
        (claim("above", "cpu-small", **small), {**UP, "baselines": {"random": 0.0}}),
        (claim("equals", "analytic", paper=524416), one(524416)),
        (claim(), one(50.0)),
        (claim("above", "cpu-small", **small), held([-3.0, -3.1, -3.2])),
        (claim("equals", "analytic", paper=524416), one(524417)),
        (claim("above", "cpu-small", **small), held([-1.0, 0.5, 1.0])),
        (claim(blocked_by=["weights"]), None),
        (claim(status="not-checkable", paper=None), None),
        (claim("above", "gpu-random-weights", **small), None),
        headlines=[headline("C2", "C8"), headline("C1", number=2)],
    )  # fmt: skip
