"""Rows of hub sets and files: each form by hand, and what is no row is named instead of being a traceback."""

import pytest

from common.errors import SetupError

from ..data import FORMS, Answered, read_rows

SQUAD = {"context": "a b", "answers": {"text": ["b"], "answer_start": [2]}, "question": "which"}
MCTEST = {"story": "a b", "answer": "1", "choices": ["x", "y"], "question": "which"}
HALF = "\ud800 c"  # half of a surrogate pair


@pytest.fixture
def rows_of(monkeypatch):
    """form, rows -> what the training rows of a hub set with these rows are."""

    def rows_of(form, *rows):
        monkeypatch.setattr("datasets.load_dataset", lambda path, name, split, revision: list(rows))
        return Answered(path="some/set", form=form).rows_of(0)

    return rows_of


@pytest.mark.parametrize("form, row, expected", [
    ("squad", SQUAD, ("a b", "b", "Question: which")),
    ("mctest", MCTEST, ("a b", "B", "Question: which Choices: A. x B. y")),
    ("mctest", MCTEST | {"answer": 0}, ("a b", "A", "Question: which Choices: A. x B. y")),
    ("mctest", MCTEST | {"answer": "B"}, ("a b", "B", "Question: which Choices: A. x B. y")),
    ("translation", {"translation": {"en": "a", "de": "b"}}, ("a", "b", "")),
    ("dialogsum", {"dialogue": "a b", "summary": "a"}, ("a b", "a", "")),
    ("spoken-squad", {"context": "a", "answer": "b", "question": "which"}, ("a", "b", "Question: which")),
])  # fmt: skip
def test_each_form_by_hand(rows_of, form, row, expected):
    assert rows_of(form, row) == [expected]


def test_rows_without_an_answer_are_left_out_and_counted(rows_of, capsys):
    """As half of SQuAD 2: until then the first ended a run by IndexError."""
    unanswered = SQUAD | {"answers": {"text": [], "answer_start": []}}
    assert len(rows_of("squad", SQUAD, unanswered, SQUAD | {"context": " "})) == 1
    assert "2 of 3 rows of some/set, train have no source or no answer" in capsys.readouterr().out
    with pytest.raises(SetupError, match="no row of some/set, train has both"):
        rows_of("squad", unanswered)


@pytest.mark.parametrize("form, row, says", [
    ("squad", SQUAD | {"context": None}, "row 1: None is where data.form squad has a text"),
    ("squad", SQUAD | {"question": None}, 'row 1: "question" is None, and no text'),
    ("squad", {"story": "a"}, r"row 1: its columns \(story\) are not those of data.form squad \(KeyError"),
    ("mctest", MCTEST | {"answer": 4}, "row 1: its columns .*IndexError"),
    ("mctest", MCTEST | {"choices": None}, "row 1: its columns .*TypeError"),
    ("translation", {"translation": {"en": "a"}}, "row 1: its columns .*KeyError: 'de'"),
    ("translation", {"translation": None}, "row 1: its columns .*TypeError"),
    ("dialogsum", {"dialogue": HALF, "summary": "a"}, "row 1: .* is where data.form dialogsum has a text"),
])  # fmt: skip
def test_a_row_of_another_form_is_named(rows_of, form, row, says):
    good = {"squad": SQUAD, "mctest": MCTEST, "translation": {"translation": {"en": "a", "de": "b"}},
            "dialogsum": {"dialogue": "a", "summary": "b"}}[form]  # fmt: skip
    with pytest.raises(SetupError, match=rf"some/set, train, {says}"):
        rows_of(form, good, row)


def test_all_forms_are_tried_here():
    assert set(FORMS) == {"translation", "squad", "mctest", "dialogsum", "spoken-squad"}


@pytest.mark.parametrize("key", ["source", "target", "question"])
def test_half_of_a_letter_in_a_file_is_named(tmp_path, key):
    """JSON may hold it, and no tokenizer takes it: that was a TypeError in the middle of cutting."""
    row = {"source": "a b", "target": "c", "question": "d"}
    rest = "".join(f', "{name}": "{text}"' for name, text in row.items() if name != key)
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"{key}": "\\ud800 c"{rest}}}\n')
    with pytest.raises(SetupError, match=f'line 1: "{key}" '):
        read_rows(file)
