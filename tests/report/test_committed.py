"""The committed records are what the papers' quantities make of the committed results: also the last judge of `make mutants`."""

import pytest

from common.claims.machine import ROOT
from common.claims.records import load_claims, read_records
from common.report import chain

PAPERS = sorted(path.parent.name for path in (ROOT / "papers").glob("*/quantities.py"))


@pytest.mark.parametrize("paper", PAPERS)
def test_committed_results_give_the_committed_records(paper):
    folder = ROOT / "papers" / paper
    claims, records = load_claims(folder / "claims.yaml"), read_records(folder / "results")
    assert any(record["measured"]["value"] is not None for record in records)
    assert not list(chain.recomputed(paper, claims, records))
