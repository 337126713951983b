"""When the method and the arm that must fail change places, the word turns; where no arm could turn it, the command fails."""

from common.claims.intervals import summarize
from common.claims.records import load_claims, make_record, write_record
from common.report import swaps
from tests.sample_records import RUN, claim, held, one, write

UP, DOWN = [0.3, 0.31, 0.32], [-3.0, -3.1, -3.2]


def paper(tmp_path, *more):
    return write(
        tmp_path,
        (claim("above", "cpu-small"), held(UP)),
        (claim("above", "cpu-small", kind="ours"), held(UP, placebo=summarize([0.05, 0.1, 0.16]))),
        (claim("within", "cpu-small"), held([-0.001, 0.0, 0.001], ceiling={"values": [1.0, 1.1], "best": 100.0})),
        (claim("above", "cpu-small", required=True), held(DOWN, placebo=summarize(UP))),
        (claim("above", "cpu-small"), held(DOWN)),  # neither required nor supporting
        (claim("equals", "analytic", paper=3.0), one(3.0)),
        (claim("above", "analytic", kind="ours"), one(3.0)),
        *more,
    )


def test_words_turn_when_the_arms_change_places(tmp_path, capsys):
    root = paper(tmp_path)
    assert [tuple(swap) for swap in swaps.swaps(root)] == [
        ("demo/C1", "supports", "opposes", "the no-op", False),
        ("demo/C2", "supports", "inconclusive", "the no-op", False),
        ("demo/C3", "supports", "opposes", "a worse arm", False),
        ("demo/C4", "opposes", "supports", "the no-op", False),
        ("demo/C7", "supports", "-", "exact: no arm", False),
    ]
    assert swaps.main(root) == 0 and "5 claims, 5 turn\n" in capsys.readouterr().out


def test_a_supports_that_no_arm_could_turn_fails(tmp_path, capsys):
    root = paper(tmp_path, (claim("above", "gpu-random-weights"), summarize(UP)))
    assert swaps.main(root) == 1
    out = capsys.readouterr().out
    assert "no arm could turn it   <- stays" in out and out.endswith("stay: demo/C8\n")


def test_a_dirty_or_changed_record_is_looked_at_all_the_same(tmp_path):
    """It is of the referee that this asks, and not of the record's age."""
    root = paper(tmp_path)
    folder = root / "papers" / "demo"
    claims = load_claims(folder / "claims.yaml")
    write_record(make_record(claims.find("C1") | {"statement": "Else."}, "0", held(UP), RUN, seeds=[0]), folder / "results")
    assert next(swaps.swaps(root)).swapped == "opposes"
