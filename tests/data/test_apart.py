"""What validates is not trained on, whatever stands in the files."""

import pytest

from common.data.apart import apart
from common.errors import SetupError

ROWS = [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")]


def test_rows_that_ask_the_same_are_left_out_in_order_and_said(capsys):
    held = [("a", "another answer"), ("d", "4")]
    assert apart(ROWS, held, lambda row: row[0]) == [("b", "2"), ("c", "4")]
    assert "2 of 4 rows of training ask what validation asks" in capsys.readouterr().out
    assert apart(ROWS, held, lambda row: row) == ROWS and apart(ROWS, [], lambda row: row[0]) == ROWS and apart([], held, len) == []
    assert not capsys.readouterr().out


def test_where_nothing_is_left_it_is_an_error():
    with pytest.raises(SetupError, match="all 2 rows of training ask what a row of validation asks"):
        apart(ROWS[:2], [("b", "x"), ("a", "y")], lambda row: row[0])
