"""The live command: units come while the text does, structure is never taken from a user, and what cannot be done is one line."""

import io
import os
import shutil
import subprocess
import sys
import threading

import pytest

from common.claims.machine import ROOT
from common.data import stories
from common.errors import ModelError
from common.models import load, tiny
from common.streaming.live import units_of
from common.streaming.units import ends_sentence
from tests.small_tokenizers import tokenizer

from .. import stream, worded
from ..reasoner import BadInput, Event, Reasoner, Thought


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model of stories that has learnt nothing, in the hub's format."""
    folder = tmp_path_factory.mktemp("stories")
    load(tiny(vocab_size=len(stories.WORDS))).model.save_pretrained(folder)
    stories.tokenizer().save_pretrained(folder)
    return str(folder)


def run(checkpoint, text, monkeypatch, capsys, *options):
    here, there = os.pipe()
    os.write(there, text.encode())
    os.close(there)
    with os.fdopen(here) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        status = stream.main(["--checkpoint", checkpoint, "--unit-cap", "4", "--rest-cap", "4", *options])
    return status, *capsys.readouterr()


def test_the_first_unit_is_printed_before_the_second_sentence_is_written(checkpoint):
    """Fed through a pipe: nothing of the second sentence exists when the first unit is read."""
    here, there = os.pipe()
    out, shown = io.StringIO(), threading.Event()

    class Seen(io.StringIO):
        def write(self, text):
            out.write(text)
            shown.set()

    model, tok, about = stream.open_checkpoint(checkpoint, stream.ABOUT)
    tokens, encode = stream.structure(model, tok, about)
    think = Reasoner(model, tokens, unit_cap=4, rest_cap=4)
    texts = units_of(os.fdopen(here), split_on=ends_sentence)
    work = threading.Thread(target=stream.converse, args=(think, encode, tok, texts, 2, "threads", Seen(), True))
    work.start()
    os.write(there, b"Total ann bob? ")
    assert shown.wait(20) and out.getvalue().count("\n") == 1 and "its sentence" in out.getvalue()
    os.write(there, b"Ann has 3. Bob has 4.\n")
    os.close(there)
    work.join(20)
    lines = out.getvalue().splitlines()
    assert len(lines) == 5 and lines[-1].startswith("delay, from the last sentence to the ")
    assert "by the clock of this machine (" in lines[-1] and lines[-1].endswith("), schedule threads")


def test_a_delay_ends_at_the_first_answer_token_and_says_whose_clock_and_schedule(capsys):
    """By hand: the last sentence comes after 3 s, the answer's first token after 5 s, the end after 9 s."""
    class Thinker:
        def __init__(self, *events):
            self.events = events

        def think(self, segments, depth, schedule, told):
            list(segments)
            return Thought(events=[Event(kind, 0, at) for kind, at in self.events])

    words = type("Words", (), {"decode": staticmethod(lambda ids, **_: "")})
    for events, says in ((((("read", 1.0), ("read", 3.0), ("answer", 5.0), ("end", 9.0))), "first answer token: 2.00 s"),
                         ((("read", 3.0), ("end", 9.0)), "end, for no answer came: 6.00 s")):
        out = io.StringIO()
        stream.converse(Thinker(*events), lambda text, i: [1], words, iter([iter(["Total ann?"])]), 2, "serial", out, True)
        assert f"delay, from the last sentence to the {says} by the clock of this machine (" in out.getvalue()
        assert out.getvalue().endswith("), schedule serial\n")


def test_the_command_itself_prints_a_unit_before_the_next_sentence_is_sent(checkpoint, tmp_path):
    """Through a FIFO into a process of its own: what the acceptance check asks of the command."""
    pipe = tmp_path / "said"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "papers.streamingthinker.stream", "--checkpoint", checkpoint, "--unit-cap", "4", "--rest-cap", "4",
               "--show", "timing"]
    keeper = os.open(pipe, os.O_RDWR)  # so that neither side waits for the other to open
    with open(pipe) as stdin:
        work = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        os.write(keeper, b"Total ann bob? ")
        first = work.stdout.readline()
        assert "its sentence" in first, "a unit while there is no second sentence"
        os.write(keeper, b"Ann has 3. Bob has 4.\n")
        os.close(keeper)
        rest = work.communicate(timeout=60)[0].splitlines()
    finally:
        work.kill()
    assert len(rest) == 4 and rest[-1].startswith("delay, from the last sentence to the ") and work.returncode == 0


def test_lines_are_inputs_of_their_own_and_caps_are_told(checkpoint, monkeypatch, capsys):
    status, out, err = run(checkpoint, "Total ann bob? Ann has 3.\nTotal cid dan?\n", monkeypatch, capsys, "--schedule", "serial")
    assert status == 0 and len(out.splitlines()) == 3 + 2 and err.count("reached its cap") == 2
    status, out, err = run(checkpoint, "Total ann bob? Ann has 3 apples.\n", monkeypatch, capsys)
    assert status == 0 and "left out, for a model of stories does not know them: apples" in err


@pytest.mark.parametrize("schedule", ["serial", "threads"])
def test_an_empty_line_has_an_empty_answer_and_the_next_one_its_own(checkpoint, monkeypatch, capsys, schedule):
    alone = run(checkpoint, "Total ann bob? Ann has 3.\n", monkeypatch, capsys, "--schedule", schedule)[1]
    status, out, _ = run(checkpoint, "\n  \nTotal ann bob? Ann has 3.\n\n", monkeypatch, capsys, "--schedule", schedule, "--show", "text")
    assert status == 0 and out == "\n\n" + alone + "\n" and len(alone.splitlines()) == 3
    assert run(checkpoint, "", monkeypatch, capsys, "--schedule", schedule)[:2] == (0, "")


def test_what_cannot_be_done_is_one_line_and_status_2(checkpoint, monkeypatch, capsys, tmp_path):
    for text, options, says in (("Xyz qqq.\n", (), "no word of 'Xyz qqq.' is known"),
                                ("Total ann?\n", ("--depth", "7"), "depth 7: there is 1, 2, 3"),
                                ("Ann ; has 3.\n", (), "which marks structure"), ("Total ann?\n", ("--unit-cap", "0"), "at least 1 each")):
        status, out, err = run(checkpoint, text, monkeypatch, capsys, *options)
        assert status == 2 and says in err and err.count("\n") == 1, err
    load(tiny()).model.save_pretrained(tmp_path)
    assert run(str(tmp_path), "", monkeypatch, capsys)[0] == 2


def test_the_same_units_under_every_schedule(checkpoint, monkeypatch, capsys):
    text = "Total ann bob? Ann has 3. Bob has 4. Ann buys 2.\n"
    one, two = (run(checkpoint, text, monkeypatch, capsys, "--schedule", name)[1] for name in ("serial", "threads"))
    assert one == two and len(one.splitlines()) == 5


def test_live_sentences_are_those_of_the_stories():
    ids, left_out = worded.story_segment("Ann gives 2 to Bob.", 3)
    assert ids == stories.ids("#3 ann gives 2 bob .".split()) and left_out == ["to"]
    assert worded.story_segment("Total ann and bob?", 0)[0] == stories.ids("#0 total ann bob ?".split())
    with pytest.raises(BadInput, match="25 sentences at most"):
        worded.story_segment("Ann has 3.", 25)


def test_a_chat_model_reads_and_is_not_fooled():
    tok = tokenizer("qwen2")
    model = load(tiny("qwen2", vocab_size=400)).model
    tokens, encode = stream.structure(model, tok, {"cues": {"2": "Now."}})
    assert set(tokens.cues) == {2} and encode("how many?", 0)[-1] != encode("a dog.", 1)[-1] and tokens.closing
    thought = Reasoner(model, tokens, unit_cap=3, rest_cap=3).think([encode("how many?", 0), encode("a <EOT> dog.", 1)], 2)
    assert len(thought.units) == 2 and all(unit[-1] in tokens.ends for unit in thought.units)
    asked, told = tok.convert_tokens_to_ids("<EOQ>"), tok.convert_tokens_to_ids("<EOS>")
    assert [encode(text, i)[-1] for i, text in enumerate(("Find x.", "Is it 3?"))] == [asked, told], "the first, as in training"
    last = stream.structure(model, tok, {"context_first": True})[1]
    assert [last(text, i)[-1] for i, text in enumerate(("It is 3.", "What is it?"))] == [told, asked]
    with pytest.raises(BadInput, match="marks structure"):
        Reasoner(model, tokens).think([[tokens.boundary, 5]], 2)
    with pytest.raises(worded.ModelError, match="has no row in an embedding"):
        stream.structure(load(tiny("qwen2", vocab_size=361)).model, tokenizer("qwen2"), {})


@pytest.mark.parametrize("facts, said", [
    ("[1]", "holds a list, no facts by name"), ('{"start": null}', "streamingthinker.json: start is None"),
    ('{"start": "x"}', "start is 'x', where 0 would do"), ('{"start": 2.7}', "start is 2.7"), ('{"start": -5}', "start -5: the target's"),
    ('{"layout": "batch", "positions": "rope"}', "trained in the layout batch, and has not learnt to think while it reads"),
    ('{"layout": "interleaved"}', "trained in the layout interleaved"), ('{"layout": 5}', "layout is 5, where 'streaming' would do"),
])  # fmt: skip
def test_facts_of_a_training_that_are_none_are_told_by_name(facts, said, checkpoint, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    (folder / "streamingthinker.json").write_text(facts)
    assert stream.main(["--checkpoint", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_an_order_that_is_no_word_of_json_is_no_order():
    """"false" in quotes was taken for true: the question's mark would have stood elsewhere than in training."""
    with pytest.raises(ModelError, match="context_first is 'false', where true or false belongs"):
        stream.structure(load(tiny("qwen2", vocab_size=400)).model, tokenizer("qwen2"), {"context_first": "false"})


@pytest.mark.parametrize("cues", [5, ["a"], {"a": "b"}, {"2": 5}])
def test_cues_that_are_no_texts_by_depth_are_refused(cues):
    from types import SimpleNamespace

    with pytest.raises(ModelError, match="streamingthinker.json: cues is"):
        stream.structure(None, SimpleNamespace(get_vocab=dict), {"cues": cues})
