"""Traces from a generator: what is asked of it and in which order, what is kept, and rows that training reads as they are."""

import json

import numpy as np
import pytest

from common.errors import DataError
from common.models import load, tiny
from common.reasoning.rollouts import Rollout
from tests.small_tokenizers import tokenizer

from .. import replies, traces
from ..curation import Gate
from ..data import JsonTraces, read_row
from ..eval import HERE
from ..replies import chat_writer
from ..traces import CHECK, CUES, Dropped, Problem, by_pass, make_rows, make_whole_rows, units_of
from ..train import cli
from ..worded import Chat

PROBLEM = Problem(("How many has Ann?", "Ann has 3.", "It rains.", "She gets 2."), "5")
UNITS = "we ask for Ann <EOQ> three of Ann <EOT> <Skip> <EOT> 3 + 2 = 5 she gets <EOT>"


def letters(texts):
    """Similar where letters are."""
    rows = np.array([[text.lower().count(chr(ord("a") + i)) for i in range(26)] for text in texts], float)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


GATE = Gate(letters, diagonal=0.2, first=0.0)


class Scripted:
    """A writer whose replies are given by what is asked: units, what follows the cue, what follows the check."""

    def __init__(self, units=UNITS, deep="3 and 2 are \\boxed{5}.", check="3 + 2 is \\boxed{5}"):
        self.replies, self.asked = (units, deep, check), []

    def __call__(self, asked, attempt):
        found = []
        for message, begun in asked:
            place = 2 if begun.endswith(CHECK) else 1 if begun.endswith(CUES[2]) else 0
            self.asked.append((place, attempt, message, begun))
            reply = self.replies[place]
            found.append(reply(attempt) if callable(reply) else reply)
        return found


def test_what_is_asked_and_in_which_order():
    writer = Scripted()
    rows, dropped = make_rows([PROBLEM], writer, GATE)
    assert [(place, attempt) for place, attempt, _, _ in writer.asked] == [(0, 0), (1, 0), (2, 0)] and dropped == []
    message = writer.asked[0][2]
    assert message.endswith("Text:\nHow many has Ann? <EOQ> Ann has 3. <EOS> It rains. <EOS> She gets 2. <EOS>") and "<Skip>" in message
    assert writer.asked[0][3] == "" and "\\boxed{}" not in message, "no answer is asked for before the last unit"
    assert writer.asked[1][3] == f"{UNITS} {CUES[2]}" and "\\boxed{}" in writer.asked[1][2]
    assert writer.asked[2][3] == f"{UNITS} {CUES[2]} 3 and 2 are \\boxed{{5}}. {CHECK}"
    told = {"context": "Ann has 3. <EOS> It rains. <EOS> She gets 2. <EOS>", "instruct": "How many has Ann? <EOQ>"}
    assert rows == [{"Instruct_Context": told, "streaming_reasoning": UNITS, "deep_reasoning": "3 and 2 are 5. <EOR>",
                     "self_check": f"{CHECK} 3 + 2 is 5", "answer": "\\boxed{5}"}]


def test_rows_are_what_training_reads():
    (row,), _ = make_rows([PROBLEM], Scripted(), GATE)
    read = read_row(json.loads(json.dumps(row)))
    assert read["source"] == list(PROBLEM.sentences) and read["units"] == ["we ask for Ann", "three of Ann", "", "3 + 2 = 5 she gets"]
    assert (read["deep"], read["answer"]) == ("3 and 2 are 5.", "5")
    words = tokenizer("qwen2")
    chat = Chat.of(words, 400)
    made = JsonTraces("a", "b", depths=[1, 2, 3]).sample(row, chat)
    assert sorted(made) == [1, 2, 3]
    last = [words.decode(made[d].target[-1]) for d in (1, 2, 3)]
    assert CHECK.split(",")[0] in last[2] and "3 and 2" in last[1] and "3 and 2" not in last[0] and all("boxed{5}" in text for text in last)


def test_what_fails_is_written_once_more_and_then_dropped():
    late = Scripted(units=lambda attempt: UNITS if attempt else "we ask <EOQ> all of it <EOT>")
    rows, dropped = make_rows([PROBLEM], late, GATE)
    assert len(rows) == 1 and dropped == [Dropped(0, 0, "count", ("we ask", "all of it"))] and by_pass(dropped, 2) == [{"count": 1}, {}]
    for broken, why in ((dict(units=f"{UNITS} So it is 5."), "count"), (dict(units="<think> we ask"), "count"),
                        (dict(units="no marks at all"), "count"), (dict(units=UNITS.replace("<EOQ>", "<EOT>")), "marks"),
                        (dict(units=UNITS.replace("<EOT>", "<EOQ>", 1)), "marks"),
                        (dict(units=UNITS.replace("<Skip>", "<Skip> it rains")), "marks"),
                        (dict(units=UNITS.removesuffix("<EOT>")), "marks"),  # cut at the cap, within the last unit
                        (dict(units="<Skip> <EOQ>" + " <Skip> <EOT>" * 3), "skipped"),
                        (dict(deep="\\boxed{6}"), "answer"), (dict(check="no, \\boxed{4}"), "answer"), (dict(deep="5"), "answer"),
                        (dict(units=UNITS.replace("three of Ann", "Ann has 3.")), "quoted")):
        rows, dropped = make_rows([PROBLEM], Scripted(**broken), GATE)
        assert rows == [] and by_pass(dropped, 2) == [{why: 1}, {why: 1}], broken
    other = Problem(("How many has Bob?", "Bob has 3.", "It rains.", "He gets 2."), "5")
    writer = Scripted(deep=lambda attempt: "\\boxed{5}" if attempt else "\\boxed{4}")
    rows, dropped = make_rows([PROBLEM, other], writer, GATE, passes=3)
    assert len(rows) == 2 and by_pass(dropped, 3) == [{"answer": 2}, {}, {}] and {attempt for _, attempt, *_ in writer.asked} == {0, 1}
    assert dropped == [Dropped(i, 0, "answer", ("\\boxed{4}",)) for i in (0, 1)], "what the depth said that was wrong"


def test_nothing_goes_deeper_that_has_failed_already():
    """Of three problems one has too few units and one comes to a wrong answer at D2: each depth is asked for what is left."""
    def reply(message, begun, number):
        if CHECK in begun:
            return "\\boxed{5}"
        if begun:
            return "\\boxed{7}" if number == 1 else "\\boxed{5}"
        return "all <EOQ>" if number == 0 else UNITS.replace("Ann", f"P{number}")

    problems = [Problem((f"How many has P{i}?", f"P{i} has 3.", "It rains.", "It gets 2."), "5") for i in range(3)]
    asked = []

    def writer(of, attempt):
        which = [next(i for i in range(3) if f"How many has P{i}?" in message) for message, _ in of]
        asked.append(which)
        return [reply(*one, i) for one, i in zip(of, which)]

    rows, dropped = make_rows(problems, writer, GATE, passes=1)
    assert asked == [[0, 1, 2], [1, 2], [2]] and [row["Instruct_Context"]["instruct"] for row in rows] == ["How many has P2? <EOQ>"]
    assert [(one.problem, one.why) for one in dropped] == [(0, "count"), (1, "answer")]


def test_the_teacher_writes_the_units_that_are_kept():
    teacher, writer = Scripted(units=UNITS), Scripted(units="we ask <EOQ> all at once <EOT>")
    rows, dropped = make_rows([PROBLEM], writer, GATE, teacher)
    assert rows[0]["streaming_reasoning"] == UNITS and dropped == []
    (_, _, message, begun), = teacher.asked
    assert message.endswith("Reasoning:\nwe ask <EOQ> all at once <EOT>") and PROBLEM.text in message and begun == ""


def test_units_of_a_reply():
    assert units_of("<think>\nhm\n</think> a  b <EOQ>\nc <EOT> ") == ("a b", "c") and units_of("a <EOQ> b") == ("a", "b")
    assert units_of("<think> never ends") == () and units_of("") == ()
    assert traces.unboxed("So $2+3$ is \\boxed{\\frac{1}{2}}.") == "So 2+3 is \\frac{1}{2}."


def test_problems_and_their_faults(tmp_path):
    path = tmp_path / "problems.jsonl"
    row = {"question": "How  many?", "context": "Ann has 3. It rains.", "answer": 5}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"context": ["A b.", "c."]}) + "\n")
    assert traces.read_problems(path) == [Problem(("How many?", "Ann has 3.", "It rains."), "5"), Problem(("How many?", "A b.", "c."), "5")]
    for wrong in ({"context": "One."}, {"context": "Ann <EOT> has. B."}, {"answer": " "}, {"question": None}, {"context": "A <Skip>. B."}):
        path.write_text(json.dumps(row) + "\n" + json.dumps(row | wrong) + "\n")
        with pytest.raises(DataError, match="problems.jsonl, line 2"):
            traces.read_problems(path)
    with pytest.raises(DataError, match="there is no file gone"):
        traces.read_problems(tmp_path / "gone")


def test_a_writer_goes_on_behind_what_is_begun():
    words, seen = tokenizer("qwen2"), {}

    def draw(prompts, n, cap, **how):
        seen.update(prompts=prompts, n=n, cap=cap, **how)
        return [Rollout(i, (*words.encode(" a dog"), words.eos_token_id), True) for i in range(len(prompts))]

    write = chat_writer(draw, words, 7, 0.6)
    assert write([("how many?", "the cat")], 3) == [" a dog"] and write([], 0) == []
    text = words.decode(seen["prompts"][0])
    assert text.endswith("the cat") and "how many?" in text and (seen["n"], seen["cap"], seen["temperature"]) == (1, 7, 0.6)
    assert seen["end"] == words.eos_token_id and seen["generator"].initial_seed() == 3, "another attempt draws anew"


def test_the_command_from_problems_to_rows(tmp_path, monkeypatch, capsys):
    """A tiny model answers nothing right: every problem is dropped, twice, and it says so. With a scripted one there are rows."""
    words = tokenizer("qwen2")
    model = load(tiny("qwen2", vocab_size=400, eos_token_id=words.eos_token_id, max_position_embeddings=4096)).model
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    problems, out = tmp_path / "problems.jsonl", tmp_path / "rows.jsonl"
    problems.write_text(json.dumps({"question": "How many has Ann?", "context": list(PROBLEM.sentences[1:]), "answer": "5"}) + "\n")
    monkeypatch.setattr(traces, "gate_of", lambda encoder, of, clean: GATE)
    asked = ["--problems", str(problems), "--out", str(out), "--generator", str(tmp_path / "model"), "--cap", "3"]
    assert traces.main(asked) == 0 and out.read_text() == "" and "0 of 1 problems have a trace" in capsys.readouterr().out
    told = [json.loads(line) for line in (tmp_path / "rows.jsonl.dropped").read_text().splitlines()]
    assert [(one["question"], one["pass"], one["why"]) for one in told] == [("How many has Ann?", i, "count") for i in (1, 2)]
    assert all(len(one["wrote"]) <= 1 for one in told), "three tokens without a mark are one unit at most"
    monkeypatch.setattr(traces, "model_writer", lambda *of: Scripted())
    assert traces.main(asked) == 0 and read_row(json.loads(out.read_text()))["answer"] == "5"
    assert "1 of 1 problems have a trace; dropped: pass 1: none; pass 2: none" in capsys.readouterr().out
    assert (tmp_path / "rows.jsonl.dropped").read_text() == "", "of this run, and not of the one before"
    assert traces.main([*asked, "--problems", str(tmp_path / "gone")]) == 2 and "no file gone" in capsys.readouterr().err


def test_a_chain_about_the_whole_input_is_kept_where_its_answer_is_right(tmp_path, monkeypatch, capsys):
    """Once more for the one that was wrong; the row has all of the input as its question, and one unit. Training reads it."""
    asked, other = [], Problem(("How many has Bob?", "Bob has 1.", "He gets 1."), "2")

    def writer(messages, attempt):
        asked.append([message for message, begun in messages if begun == ""])
        return ["<think> hm </think> First 3, then 2 more:\n\\boxed{5}." if "Ann" in message else f"It is \\boxed{{{attempt}}}."
                for message, _ in messages]

    rows, dropped = make_whole_rows([PROBLEM, other], writer)
    text = "How many has Ann?\n\nAnn has 3.\nIt rains.\nShe gets 2."
    assert asked[0][0] == text + traces.SUFFIX and [len(of) for of in asked] == [2, 1], "as an original is asked (harness.py)"
    assert dropped == [Dropped(1, 0, "answer", ("It is \\boxed{0}.",)), Dropped(1, 1, "answer", ("It is \\boxed{1}.",))]
    assert rows == [{"Instruct_Context": {"context": "", "instruct": f"{text} <EOQ>"},
                     "streaming_reasoning": "First 3, then 2 more: 5. <EOQ>", "deep_reasoning": "<EOR>", "answer": "\\boxed{5}"}]
    assert read_row(rows[0]) == {"source": [text], "units": ["First 3, then 2 more: 5."], "deep": "", "answer": "5", "question": 0}
    problems, out = tmp_path / "problems.jsonl", tmp_path / "rows.jsonl"
    problems.write_text(json.dumps({"question": "How many has Ann?", "context": list(PROBLEM.sentences[1:]), "answer": "5"}) + "\n")
    opened = []
    monkeypatch.setattr(traces, "model_writer", lambda *of: opened.append(of) or writer)
    command = ["--problems", str(problems), "--out", str(out), "--generator", "g", "--whole"]
    assert traces.main(command) == 0 and json.loads(out.read_text()) == rows[0] and "1 of 1 problems" in capsys.readouterr().out
    assert opened == [("g", "transformers", traces.WHOLE_CAP)] and traces.WHOLE_CAP > traces.CAP, "whole chains are longer"
    assert traces.main([*command, "--teacher", "t"]) == 2 and "no units to be rewritten" in capsys.readouterr().err


def test_one_model_is_open_at_a_time(monkeypatch):
    open_now, most = [], []

    class Model(Scripted):
        def __init__(self, name):
            super().__init__()
            self.name = name
            open_now.append(name)
            most.append(len(open_now))

        def __del__(self):
            open_now.remove(self.name)

    writer, teacher = replies.in_turn(lambda: Model("generator"), lambda: Model("teacher"))
    assert open_now == [] and writer([], 0) == [] and open_now == [], "nothing is opened before there is something to write"
    assert len(make_rows([PROBLEM], writer, GATE, teacher)[0]) == 1
    assert most == [1, 1, 1] and open_now == ["generator"], "the generator, the teacher, and the generator again"


def test_a_killed_command_goes_on_with_the_replies_that_it_has(tmp_path):
    seen, path = [], tmp_path / "replies"

    def writer(asked, attempt):
        seen.append((attempt, *(message for message, _ in asked)))
        if "die" in seen[-1]:
            raise KeyboardInterrupt
        return [f"{message}\u2028{attempt}" for message, _ in asked]

    asked = [(message, "") for message in ("a", "b", "die", "c")]
    with pytest.raises(KeyboardInterrupt):
        replies.remembered(writer, path, "x", 2)(asked, 0)
    assert seen == [(0, "a", "b"), (0, "die", "c")]
    path.write_text(path.read_text() + '["cut sho')
    again = replies.remembered(writer, path, "x", 2)
    asked[2] = ("d", "")
    told = [f"{message}\u20280" for message in "abdc"]
    assert again(asked, 0) == told and seen[2:] == [(0, "d", "c")]
    assert replies.remembered(writer, path, "x", 2)(asked, 0) == told and len(seen) == 3, "what came behind a cut line is there"
    again(asked[:1], 1), again([("a", "begun")], 0), replies.remembered(writer, path, "y", 2)(asked[:1], 0)
    assert seen[3:] == [(1, "a"), (0, "a"), (0, "a")], "another attempt, another beginning, another model"


def test_a_killed_command_leaves_no_rows_and_asks_for_what_is_missing(tmp_path, monkeypatch, capsys):
    """Killed while the checks of D3 are written: nothing under the names of results, and units and D2 are not asked for again."""
    problems, out = tmp_path / "problems.jsonl", tmp_path / "rows.jsonl"
    problems.write_text(json.dumps({"question": "How many has Ann?", "context": list(PROBLEM.sentences[1:]), "answer": "5"}) + "\n")
    monkeypatch.setattr(traces, "gate_of", lambda encoder, of, clean: GATE)
    asked = ["--problems", str(problems), "--out", str(out), "--generator", "g"]

    def killed(attempt):
        raise KeyboardInterrupt

    monkeypatch.setattr(traces, "model_writer", lambda *of: Scripted(check=killed))
    assert traces.main(asked) == 130
    assert "interrupted; what was written is in rows.jsonl.replies, and the same command goes on" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["problems.jsonl", "rows.jsonl.replies"]
    again = Scripted()
    monkeypatch.setattr(traces, "model_writer", lambda *of: again)
    assert traces.main(asked) == 0 and [place for place, *_ in again.asked] == [2]
    (unbroken,), _ = make_rows([PROBLEM], Scripted(), GATE)
    assert json.loads(out.read_text()) == unbroken


def test_training_reads_what_the_command_writes(tmp_path, monkeypatch):
    """A step at each depth on rows of this file, with the command that a user types; what is held out asks something else."""
    words = tokenizer("qwen2")
    load(tiny("qwen2", vocab_size=400, eos_token_id=words.eos_token_id, max_position_embeddings=4096)).model.save_pretrained(tmp_path / "m")
    words.save_pretrained(tmp_path / "m")
    for name in ("Ann", "Bob"):
        of = Problem(tuple(text.replace("Ann", name) for text in PROBLEM.sentences), "5")
        rows, _ = make_rows([of] * 3, Scripted(UNITS.replace("Ann", name)), GATE)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("sys.argv", ["train"])
    monkeypatch.chdir(tmp_path)
    cli(["fit", "--config", str(HERE / "configs" / "cuda" / "qwen3-1.7b_streaming_d3.yaml"),
         f"--model.init_args.base.name={tmp_path / 'm'}", "--data.init_args.train=Ann.jsonl", "--data.init_args.validation=Bob.jsonl",
         "--data.init_args.depths=[1,2,3]", "--data.init_args.instruction=Think.", "--data.init_args.batch_size=2",
         "--data.init_args.num_workers=0", "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.max_steps=1",
         "--trainer.accumulate_grad_batches=1", "--trainer.limit_val_batches=0", "--trainer.callbacks=[]",
         "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"])
    card = json.loads((tmp_path / "lightning_logs/streamingthinker/qwen3-1.7b_streaming_d3/model/streamingthinker.json").read_text())
    assert card["depths"] == [1, 2, 3] and card["steps"] == 1


def test_options_go_to_the_engine_and_a_line_ends_at_a_line_feed_only(tmp_path, monkeypatch, capsys):
    problems, out, opened = tmp_path / "problems.jsonl", tmp_path / "rows.jsonl", []
    row = {"question": "How many has Ann?", "context": list(PROBLEM.sentences[1:]), "answer": "5", "note": "one\u2028line"}
    problems.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    monkeypatch.setattr(traces, "gate_of", lambda encoder, of, clean: GATE)
    monkeypatch.setattr(traces, "model_writer", lambda *of, **more: opened.append((*of, more)) or Scripted())
    asked = ["--problems", str(problems), "--out", str(out), "--generator", "g", "--teacher", "t", "--engine", "vllm"]
    assert traces.main([*asked, "--generator-options", '{"a": 1}', "--teacher-options", '{"b": [2]}']) == 0
    assert opened == [("g", "vllm", 1024, {"a": 1}), ("t", "vllm", 1024, {"b": [2]}), ("g", "vllm", 1024, {"a": 1})]
    left = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("rows"))
    assert left == ["rows.jsonl", "rows.jsonl.dropped"], "replies go when rows are there"
    for wrong in ("[1]", "{"):
        with pytest.raises(SystemExit):
            traces.main([*asked, "--teacher-options", wrong])
        assert "--teacher-options" in capsys.readouterr().err


def test_bars_of_the_gate(tmp_path):
    with pytest.raises(DataError, match="name clean traces"):
        traces.gate_of("tf-idf", [PROBLEM], None)
    (row,), _ = make_rows([PROBLEM], Scripted(), GATE)
    clean = tmp_path / "clean.jsonl"
    row["note"] = "one\u2028line"
    clean.write_text((json.dumps(row, ensure_ascii=False) + "\n") * 20, encoding="utf-8")
    gate = traces.gate_of("tf-idf", [PROBLEM], clean)
    assert 0 < gate.diagonal < 1 and 0 < gate.first <= 1 and gate.accepts(traces.Trace(PROBLEM.sentences, traces.units_of(UNITS)))


LINE = {"question": "How many?", "context": "Ann has 3. Bob has 2.", "answer": "5"}


@pytest.mark.parametrize("answer", [None, True, [5], float("nan"), "\ud800"])
def test_an_answer_that_is_none_is_no_word(answer, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | {"answer": answer}) + "\n")
    with pytest.raises(DataError, match="p.jsonl, line 2: .*is no text and no number"):
        traces.read_problems(tmp_path / "p.jsonl")


@pytest.mark.parametrize("text, said", [("", "holds no problem"), ("[" * 100_000, "line 1"),
                                        (json.dumps(LINE | {"question": "\ud800?"}), "line 1")])
def test_files_without_problems_are_told(text, said, tmp_path):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(DataError, match=said):
        traces.read_problems(tmp_path / "p.jsonl")


@pytest.mark.parametrize("options, said", [
    (["--passes", "0"], "--passes 0"), (["--cap", "0"], "--cap 0"), (["--clean", "{tmp}/none"], "--clean: there is no file none"),
    (["--clean", "{tmp}"], "--clean: there is no file"), (["--clean", "{tmp}/p.jsonl"], "--clean: p.jsonl, line 1: no row"),
    (["--out", "{tmp}"], "a folder has this name"), (["--out", "{tmp}/p.jsonl/x"], "its folder cannot be made"),
])  # fmt: skip
def test_what_could_only_end_in_nothing_is_one_line_before_any_work(options, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(traces, "writers", lambda *of: pytest.fail("a model is opened first"))
    (tmp_path / "p.jsonl").write_text(json.dumps(LINE) + "\n")
    (tmp_path / "out.jsonl").write_text("mine\n")
    options = [option.replace("{tmp}", str(tmp_path)) for option in options]
    arguments = ["--problems", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--generator", "nobody/none"]
    assert traces.main([*arguments, "--encoder", "tf-idf", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and (tmp_path / "out.jsonl").read_text() == "mine\n"
