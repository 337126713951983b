"""Files that a user hands over, rows to train on, problems, items of tasks: what is in them is read as it is, or told by line."""

import json
import types

import pytest
import torch

from common.errors import DataError, SetupError, TaskError
from common.models import load, tiny
from tests.small_tokenizers import tokenizer

from .. import harness, questions, replies, traces
from ..data import JsonTraces, boxed, read_row
from ..experiments import paper

ROW = {"Instruct_Context": {"context": "The cat has 3 dogs. <EOS> We see 2 more. <EOS>", "instruct": "How many dogs? <EOQ>"},
       "streaming_reasoning": "we ask <EOQ> it has 3 <EOT> <Skip> <EOT>", "deep_reasoning": "3 and 2 <EOR>", "answer": "\\boxed{5}",
       "self_check": "Wait, 3 + 2 = 5."}
LINE = {"question": "How many?", "context": "Ann has 3. Bob has 2.", "answer": "5"}
TOLD = ("How many?", "Ann has 3.", "Bob has 2.")
HUGE = 10**400  # no float holds it


def asking(question):
    return ROW | {"Instruct_Context": ROW["Instruct_Context"] | {"instruct": f"{question} <EOQ>"}}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# -- rows to train on --------------------------------------------------------------------------------------
@pytest.mark.parametrize("answer, holds", [
    ("\\boxed{5}", "5"), ("\\boxed{5}, one of {2, 5}", "5"), ("\\boxed{3} or rather \\boxed{4}", "4"), ("\\box {5}", "5"), ("5", "5"),
    ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"), ("\\boxed{\\frac{1}{2}} of \\text{it}", "\\frac{1}{2}"), ("\\boxedup", "\\boxedup"),
])  # fmt: skip
def test_an_answer_is_what_its_box_holds(answer, holds):
    """Up to the brace that closes it, and not up to the last one of the text."""
    assert boxed(answer) == holds == read_row(ROW | {"answer": f"{answer} <EOA>"})["answer"]


@pytest.mark.parametrize("wrong, says", [
    *[({"answer": answer}, "braces of the answer do not pair, or its box") for answer in ("\\boxed{5", "\\boxed{a}b}", "\\boxed 5")],
    *[({"answer": answer}, "the answer is empty") for answer in ("", " ", "\\boxed{}", "<EOA>")],
    ({"Instruct_Context": {"context": "<EOS> b <EOS>", "instruct": "q <EOQ>"}}, "sentence 1 is empty"),
    ({"Instruct_Context": {"context": "A. B.", "instruct": " <EOQ>"}}, "the question is empty"),
])  # fmt: skip
def test_a_row_without_a_part_is_told(wrong, says):
    with pytest.raises(DataError, match=says):
        read_row(ROW | wrong)


@pytest.fixture
def rows_of(tmp_path, monkeypatch):
    """Rows that training and validation are made of."""
    def made(train, held, **more):
        for name, text in (("train", train), ("held", held)):
            (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
        data = JsonTraces(str(tmp_path / "train.jsonl"), str(tmp_path / "held.jsonl"), **more)
        model = types.SimpleNamespace(get_input_embeddings=lambda: torch.nn.Embedding(512, 1))
        data.trainer = types.SimpleNamespace(lightning_module=types.SimpleNamespace(model=model))
        monkeypatch.setattr(data, "tokenizer", lambda: tokenizer("qwen2"))
        return data.samples()

    return made


def test_empty_lines_and_a_mark_of_byte_order_are_no_rows(rows_of):
    """They counted as rows that cannot be used: two rows and one at the end were refused, and of thirty with the mark the first fell."""
    train, held = rows_of("\ufeff" + lines(asking("a?"), asking("b?")) + "\n \n", lines(asking("c?")))
    assert len(train) == 2 and len(held) == 1


def test_a_file_without_rows_is_told_as_such(rows_of):
    for train, held, says in (("", lines(ROW), "train.jsonl holds no row$"), (lines(ROW), "\n", "held.jsonl holds no row$"),
                              ("{\n", lines(ROW), "train.jsonl: 1 of 1 rows cannot be used")):
        with pytest.raises(SetupError, match=says):
            rows_of(train, held)
    with pytest.raises(SetupError, match="train.jsonl holds no row that can be used; the first is line 1"):
        rows_of("{\n", lines(ROW), refused=1.0)


def test_words_are_read_with_one_blank_as_a_live_stream_reads_them(rows_of):
    (train,), (held,) = rows_of(lines(asking("How  many\u00a0dogs\n?")), lines(asking("other?")))
    (plain,), _ = rows_of(lines(asking("How many dogs ?")), lines(asking("other?")))
    assert train == plain != held
    with pytest.raises(SetupError, match="every row of train.jsonl asks what a row of held.jsonl asks"):
        rows_of(lines(asking("How  many?")), lines(asking("How many?")))


def test_a_check_is_text_without_marks(rows_of):
    marked, plain = (rows_of(lines(asking("a?") | {"self_check": check}), lines(ROW), depths=[3])[0] for check in (
        "Wait, it is 5. <EOR>", "Wait, it is 5."))
    assert marked == plain
    with pytest.raises(SetupError, match="depth 3 needs a self_check"):
        rows_of(lines(asking("a?") | {"self_check": " <EOR> "}), lines(ROW), depths=[3])


@pytest.mark.parametrize("more", [{"depths": []}, {"depths": [4]}, {"depths": [0, 2]}, {"cues": {1: "So:"}}, {"refused": float("nan")},
                                  {"refused": -0.1}, {"refused": 1.5}])
def test_settings_that_no_row_fits_are_told_before_any_work(more):
    with pytest.raises(SetupError, match="data.depths .*one depth at least, each with a cue .*a share from 0 to 1"):
        JsonTraces("train", "held", **more)


# -- problems ----------------------------------------------------------------------------------------------
def problems(tmp_path, text, kind="number"):
    (tmp_path / "p.jsonl").write_text(text, encoding="utf-8")
    return traces.read_problems(tmp_path / "p.jsonl", kind)


def test_problems_are_read_as_they_are(tmp_path):
    row = json.dumps(LINE)
    assert problems(tmp_path, f"\ufeff{row}\n\n") == [traces.Problem(TOLD, "5")]
    assert problems(tmp_path, lines(LINE | {"answer": HUGE})) == [traces.Problem(TOLD, str(HUGE))]
    assert problems(tmp_path, lines(LINE | {"answer": "$x = \\boxed{5}$"})) == [traces.Problem(TOLD, "5")]


@pytest.mark.parametrize("wrong, kind, says", [
    ({"context": {"Ann has 3.": 1, "Bob has 2.": 2}}, "number", "is no text and no list of sentences"),
    ({"answer": "a}b"}, "text", "braces of the answer do not pair"), ({"answer": "5 <EOR>"}, "number", "without <Skip> and marks"),
    ({"answer": "?!"}, "label", "no word to be compared: every empty box would be right"), ({"answer": "\\boxed{}"}, "text", "the least"),
])  # fmt: skip
def test_problems_whose_answer_could_not_be_told_are_refused_by_line(wrong, kind, says, tmp_path):
    with pytest.raises(DataError, match=f"p.jsonl, line 2: .*{says}"):
        problems(tmp_path, lines(LINE, LINE | wrong), kind)


# -- items of the tasks ------------------------------------------------------------------------------------
def items(tmp_path, text, **more):
    (tmp_path / "streaming").mkdir(exist_ok=True)
    (tmp_path / "streaming" / "pubmedqa.jsonl").write_text(text, encoding="utf-8")
    return questions.load_items("pubmedqa", tmp_path, **more)


def test_items_are_read_as_they_are(tmp_path):
    assert [item["context"] for item in items(tmp_path, "\ufeff" + lines(LINE) + "\n")] == [list(TOLD[1:])]
    assert items(tmp_path, lines(LINE | {"answer": HUGE}))[0]["answer"] == str(HUGE)
    for wrong, says in (({"context": {"Ann has 3.": 1, "Bob has 2.": 2}}, "no text and no list of sentences"), ({"context": 5}, "is 5, no"),
                        ({"question": " "}, "the question is empty")):
        with pytest.raises(DataError, match=f"line 1: .*{says}"):
            items(tmp_path, lines(LINE | wrong))
    for limit in (0, -1):
        with pytest.raises(TaskError, match=f"limit {limit}: 1 item at least"):
            items(tmp_path, lines(LINE), limit=limit)


def test_a_depth_without_a_cue_is_told_before_anything_is_written():
    model = load(tiny("qwen2", vocab_size=512)).model
    with pytest.raises(TaskError, match="depth 3: there is 1, 2"):
        harness.thinking_lm(model, tokenizer("qwen2"), {"layout": "batch", "cues": {"1": "So.", "2": "Now."}}, 3)


def test_scores_are_kept_of_the_items_that_were_asked(tmp_path, monkeypatch):
    """Another file under the same name, or NINEFOLD_DATA in place of the hub, asks something else: old scores are none of it."""
    items(tmp_path, lines(LINE))
    monkeypatch.delenv("NINEFOLD_DATA", raising=False)
    asked, how = [], {"tasks": ["pubmedqa"], "cap": 3, "rows": 1, "items": 1, "unit_cap": 3, "clock_items": 0, "clock_task": "pubmedqa"}
    of = types.SimpleNamespace(source={"weights_sha256": "a"}, model=types.SimpleNamespace(dtype="x"), tokenizer=None)
    monkeypatch.setattr(paper, "load", lambda spec: of)
    monkeypatch.setattr(harness, "thinking_lm", lambda *of: None)
    monkeypatch.setattr(harness, "evaluate", lambda lm, task, **how: asked.append(task) or {"right": 0.5})

    def scores():
        paper.by_task(tmp_path / "run", paper.ModelSpec("m"), {"layout": "batch"}, 2, how, "cpu", lambda line: None, None)
        return len(asked)

    assert scores() == scores() == 1
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path))
    assert scores() == scores() == 2
    items(tmp_path, lines(LINE | {"answer": "6"}))
    assert scores() == scores() == 3


# -- the command that writes traces ------------------------------------------------------------------------
def test_an_input_is_not_written_over_and_what_cannot_be_written_is_told_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(traces, "writers", lambda *of: pytest.fail("a model is opened first"))
    file, here = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    file.write_text(lines(LINE))
    (tmp_path / "out.jsonl.replies").mkdir()
    for out, says in ((f"{tmp_path}/./p.jsonl", "this file is an input"), (here, "replies beside it cannot be written: a folder")):
        assert traces.main(["--problems", str(file), "--out", str(out), "--generator", "nobody/none", "--whole"]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1 and file.read_text() == lines(LINE)
    (tmp_path / "fresh").mkdir()
    replies.writable(tmp_path / "fresh" / "o", tmp_path / "fresh" / "o.replies", [None])
    assert list((tmp_path / "fresh").iterdir()) == [], "trying leaves nothing"


def test_a_disk_that_is_full_at_the_end_is_one_line_and_the_replies_stay(tmp_path, capsys, monkeypatch):
    (tmp_path / "p.jsonl").write_text(lines(LINE))
    monkeypatch.setattr(traces, "model_writer", lambda *of: lambda asked, attempt: ["\\boxed{5}"] * len(asked))
    (tmp_path / "out.jsonl.dropped").mkdir()  # as good as a disk without room
    arguments = ["--problems", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--generator", "g", "--whole"]
    assert traces.main(arguments) == 2
    error = capsys.readouterr().err
    assert "out.jsonl.dropped: cannot be written" in error and error.count("\n") == 1 and (tmp_path / "out.jsonl.replies").is_file()
    (tmp_path / "out.jsonl.dropped").rmdir()
    assert traces.main(arguments) == 0 and json.loads((tmp_path / "out.jsonl").read_text())["answer"] == "\\boxed{5}"


def test_a_folder_that_was_trained_anew_writes_replies_of_its_own(tmp_path, monkeypatch):
    model, asked = tmp_path / "model", []
    model.mkdir()
    (model / "weights").write_text("one")
    (tmp_path / "p.jsonl").write_text(lines(LINE))
    monkeypatch.setattr(traces, "model_writer", lambda *of: lambda all_of, attempt: asked.append(len(all_of)) or ["\\boxed{5}"])
    options = types.SimpleNamespace(generator=str(model), generator_options={}, teacher=None, teacher_options={},
                                    engine="transformers", cap=3)
    for weights in ("one", "one", "two"):
        (model / "weights").write_text(weights)
        traces.writers(options, tmp_path / "kept")[0]([("how many?", "")], 0)
    assert asked == [1, 1]


def test_lines_of_replies_that_are_no_pair_are_as_good_as_none(tmp_path):
    (tmp_path / "kept").write_text('5\nnull\n["a"]\n["cut sho\n')
    write = replies.remembered(lambda asked, attempt: ["yes"] * len(asked), tmp_path / "kept", "x", 2)
    assert write([("how?", "")], 0) == ["yes"]
