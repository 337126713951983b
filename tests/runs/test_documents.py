"""Documents of measurements: the same JSON, a line a row."""

import json

import pytest

from common.runs.documents import as_rows, write_document

DOCUMENT = {"b": [{"y": 1.5, "x": None}, {"x": [], "y": "a, [b] {c}\n\u2028"}], "a": {}, "c": [1, 2, [3, [4]]], "d": True}


def test_it_is_the_same_json_with_a_line_for_each_row(tmp_path):
    write_document(tmp_path / "m.json", DOCUMENT)
    text = (tmp_path / "m.json").read_text(encoding="utf-8")
    assert json.loads(text) == DOCUMENT and text.endswith("}\n")
    assert text.splitlines()[:4] == ['{', ' "a": {},', ' "b": [', '  {"x": null, "y": 1.5},']


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, 12345678901234567890, [], {}, [[]], "x", (1, (2,))])
def test_no_value_is_changed(value):
    assert json.loads(as_rows(value)) == json.loads(json.dumps(value))
