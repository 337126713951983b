"""session.py and stream.py: one live stream with two caches is the batch decoder, feeds nothing twice, and talks early."""

import json
import os
import select
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from common.errors import ModelError
from common.masks import wait_k
from common.models import load, tiny
from common.streaming.units import Example, Template
from common.streaming.words import Boundary

from .. import method
from .. import stream as command
from ..analytic import EXAMPLE, Sentence, cost
from ..data import toy_examples
from ..decoding import stream
from ..experiments.exact import forced_session, forced_stream
from ..session import Session, run
from ..stream import main
from ..toy import TARGET_END, Language, spell
from .double import Double

ROOT = Path(__file__).resolve().parents[3]
STANDIN = Path(__file__).resolve().parents[1] / "standins" / "seed0"
LANGUAGE = Language.draw(0)
EXAMPLES = toy_examples(LANGUAGE, range(4))
STOP = LANGUAGE.pieces().index(TARGET_END)
BOUNDARIES = {
    "ends": Boundary("ends", LANGUAGE.word_ends(), STOP),
    "opens": Boundary("opens", torch.tensor([not piece.startswith("##") for piece in LANGUAGE.pieces()]), STOP),
}
ARMS = ("group", "batch_streaming", "position_reencoding", "kv_reencoding", "no_source_positions", "no_target_positions",
        "no_positions")  # fmt: skip


@pytest.fixture(scope="module", ids="-".join, params=[
    pytest.param(("llama", "sdpa"), marks=pytest.mark.numerics), ("llama", "eager"), ("qwen3", "sdpa"),
    pytest.param(("gemma2", "eager"), marks=pytest.mark.numerics)])
def model(request):
    family, attention = request.param
    more = {"sliding_window": 256} if family == "gemma2" else {}
    return load(tiny(family, vocab_size=len(LANGUAGE.pieces()), num_hidden_layers=2, attn_implementation=attention, **more)).model.double()


@pytest.fixture(scope="module")
def llama():
    return load(tiny("llama", vocab_size=len(LANGUAGE.pieces()), num_hidden_layers=2)).model.double()


def live(model, arm, boundary, example, k, max_words=12):
    units = list(torch.split(example.source, list(example.source_units)))
    session = Session(model, arm, boundary, example.target[: example.target_units[0]].tolist(), max_word=8)
    written = list(run(session, units[:-1], units[-1].tolist(), k, max_words))
    return [tokens for tokens, _ in written], [read for _, read in written]


@pytest.mark.parametrize("name", ARMS)
def test_a_live_stream_is_the_batch_decoder(model, name):
    """The same words after the same number of source words: two caches against one cache with a mask. Of Llama at every k, with both
    ways to see a word's end; what sets another family apart shows at one."""
    arm, ends = method.arm(name, 0.5 if name == "group" else 0), list(BOUNDARIES.values())
    plain = (model.config.model_type, model.config._attn_implementation) == ("llama", "sdpa")
    cases = ((1, EXAMPLES), (3, EXAMPLES[:2]), (None, EXAMPLES[2:])) if plain else ((2, EXAMPLES[:2]),)
    one = ends[list(ARMS).index(name) % len(ends)]
    for boundary, (k, examples) in product(ends if plain else [one], cases):
        with Double():  # two ways to add up choose the same words, unless two words are equal to 15 digits
            together = stream(model, arm, examples, boundary, k, max_target=14)
            alone = [live(model, arm, boundary, example, k) for example in examples]
        for example, out, (words, delays) in zip(examples, together, alone, strict=True):
            ours, theirs = ([token for word in side for token in word] for side in (words, out.words))
            n = min(len(ours), len(theirs))  # a random model may write a word without end; then both are cut, elsewhere
            assert ours[:n] == theirs[:n] and (n > 0 or ours == theirs)
            n = min(len(words), len(out.words)) - 1
            assert [min(d, example.n_units) for d in delays[:n]] == out.delays[:n]


@pytest.mark.parametrize("mode", ["group", "position", "kv"])
@pytest.mark.parametrize("k", [1, 5, 21])
def test_tokens_pairs_and_turned_keys_are_those_of_the_specification(llama, mode, k):
    model = load(tiny("llama", vocab_size=3, num_hidden_layers=1, pad_token_id=None, bos_token_id=None, eos_token_id=None)).model
    session = forced_session(model, mode, EXAMPLE)
    for _ in forced_stream(session, EXAMPLE, k):
        pass
    counts, expected = session.counts, cost(EXAMPLE, k, mode)
    assert (counts.fed, counts.pairs, counts.rotated) == expected[:3]
    assert (session.cache.source_length, session.cache.target_length) == (EXAMPLE.S, EXAMPLE.T)


def test_a_read_feeds_its_own_tokens_whatever_came_before():
    """Constant in what was read; KV re-encoding feeds one token more at every word."""
    model = load(tiny("llama", vocab_size=3, num_hidden_layers=1, pad_token_id=None, bos_token_id=None, eos_token_id=None)).model
    sentence, fed = Sentence((1,) * 42, (1,) * 42), {}
    for mode in ("group", "kv"):
        session = forced_session(model, mode, sentence)
        steps, before = [], 0
        for _ in forced_stream(session, sentence, 3):
            steps.append(session.counts.fed - before)
            before = session.counts.fed
        fed[mode] = steps[1:38]  # between the first READ and the end of the source
    assert set(fed["group"]) == {3}  # a source token, the last target token again, a new one
    assert [b - a for a, b in zip(fed["kv"], fed["kv"][1:])] == [1] * 36


@pytest.mark.numerics
def test_reading_ahead_does_not_change_a_word(llama):
    """The source may be there early; what a WRITE sees is what has been read, so a session reads when it is told."""
    example, arm, boundary = EXAMPLES[0], method.arm("group"), BOUNDARIES["ends"]
    units = torch.split(example.source, list(example.source_units))
    with Double():
        early, late = (Session(llama, arm, boundary, [3]) for _ in range(2))
        for unit in units[:4]:
            early.read(unit)
        late.read(torch.cat(units[:4]))  # in one piece
        assert early.write() == late.write()


def test_errors_of_a_session_say_what_is_missing(llama):
    session = Session(llama, method.arm("group"), BOUNDARIES["ends"], [3])
    with pytest.raises(ValueError, match="nothing has been read yet"):
        session.write()
    with pytest.raises(ValueError, match="without tokens"):
        session.read([])
    with pytest.raises(ValueError, match="decoding.stream runs the others"):
        Session(llama, method.arm("interleaved"), BOUNDARIES["ends"], [3])
    narrow = load(tiny("gemma2", vocab_size=len(LANGUAGE.pieces()))).model
    session = Session(narrow, method.arm("group"), BOUNDARIES["ends"], [3])
    with pytest.raises(ModelError, match=r"9 tokens together.*see 8"):
        session.read([5] * 9)


def test_a_word_without_end_is_cut_and_said(llama):
    never = Boundary("ends", torch.zeros(len(LANGUAGE.pieces()), dtype=torch.bool), len(LANGUAGE.pieces()) + 5)
    session = Session(llama, method.arm("group"), never, [3], max_word=6)
    session.read([1, 5, 6])
    word = session.write()
    assert len(word.tokens) == 6 and word.ended and session.truncated
    assert session.write() == ([], True)


@pytest.mark.parametrize("k", [1, 3, None])
def test_an_empty_source_has_an_empty_answer_live_and_in_batches(llama, k):
    arm, boundary = method.arm("group"), BOUNDARIES["ends"]
    for units in ([], [[1]]):  # without even an instruction, and with nothing else
        session = Session(llama, arm, boundary, [3])
        assert list(run(session, units, [2], k)) == []
        assert session.ended and not session.truncated and session.counts.fed == len(units)
        assert session.write() == ([], True)
    empty = Example.of_units([[1], [2]], [[3], [4]])
    full, alone = EXAMPLES[0], stream(llama, arm, EXAMPLES[:1], boundary, k)[0]
    outs = stream(llama, arm, [empty, full, empty], boundary, k)
    assert [(out.words, out.delays, out.truncated, out.fed) for out in outs[::2]] == [([], [], False, 0)] * 2
    assert (outs[1].words, outs[1].delays) == (alone.words, alone.delays) and alone.words
    assert [out.words for out in stream(llama, arm, [empty], boundary, k)] == [[]]


def test_a_stream_reports_that_its_cap_cut_it(llama):
    """One word a token, without end: five of them, and no more; in the batch decoder as well."""
    pieces = len(LANGUAGE.pieces())
    endless = Boundary("ends", torch.ones(pieces, dtype=torch.bool), STOP, banned=(STOP,))
    session = Session(llama, method.arm("group"), endless, [3])
    words = list(run(session, [[1], [5], [6]], [2], 1, max_words=5))
    assert [read for _, read in words] == [1, 2, 2, 2, 2] and session.truncated and not session.ended
    out = stream(llama, method.arm("group"), [Example.of_units([[1], [5], [6], [2]], [[3], [4]])], endless, 1, max_target=5)[0]
    assert out.truncated and len(out.words) == 5
    stop = Boundary("ends", torch.ones(pieces, dtype=torch.bool), STOP, banned=tuple(i for i in range(pieces) if i != STOP))
    session = Session(llama, method.arm("group"), stop, [3])
    assert list(run(session, [[1], [5]], [2], 1)) == [] and session.ended and not session.truncated


def test_waiting_is_for_words_that_are_there():
    assert wait_k(3, 2, 4).tolist() == [2, 2, 2, 2]


# -- templates ---------------------------------------------------------------------------------------------
def test_units_of_a_live_source_are_those_of_the_whole_text():
    template = Template.of(LANGUAGE.tokenizer(), "ignored")
    for number in range(20):
        source, target = (spell(side) for side in LANGUAGE.sentence(number))
        example = template.example(source, target)
        assert torch.equal(example.source, toy_examples(LANGUAGE, [number])[0].source)
        assert example.source_units == toy_examples(LANGUAGE, [number])[0].source_units
        assert [t for unit in template.units(source.split()) for t in unit] == example.source[:-1].tolist()


# -- the command -------------------------------------------------------------------------------------------
@pytest.fixture
def answered(tmp_path, monkeypatch, capsys):
    """answered(text, *options) -> (exit status, what is printed, what is said on stderr) of the command, in this process."""
    threads = torch.get_num_threads()

    def run_it(text, *options):
        (tmp_path / "source.txt").write_text(text)
        with open(tmp_path / "source.txt") as source:
            monkeypatch.setattr(sys, "stdin", source)
            status = main(["--checkpoint", str(STANDIN), *options])
        return status, *capsys.readouterr()

    yield run_it
    torch.set_num_threads(threads)


def test_words_come_out_before_the_source_has_ended():
    """Fed word by word through a pipe: each word is waited for before the next one is given. Nothing else is said."""
    source, target = (spell(side).split() for side in LANGUAGE.sentence(7))
    command = [sys.executable, "-m", "papers.gpe.stream", "--checkpoint", str(STANDIN), "--k", "3", "--arm", "kv_reencoding", "--show",
               "latency"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        read = b""
        for i, word in enumerate(source):
            process.stdin.write(word.encode() + b" ")
            process.stdin.flush()
            while i >= 2 and read.count(b"]") < i - 1:  # after word i + 1 >= k, i - 1 words are out
                assert select.select([process.stdout], [], [], 120)[0], f"nothing after {i + 1} words: {read!r}"
                read += os.read(process.stdout.fileno(), 4096)
        assert read.count(b"]") == len(source) - 2
        process.stdin.close()
        read += process.stdout.read()
        said = process.stderr.read()
    shown = read.decode().split()
    assert [int(x.strip("[]")) for x in shown[1::2]] == [min(3 + j, len(source)) for j in range(len(shown) // 2)]
    assert shown[0::2] == target
    assert process.returncode == 0 and not said


@pytest.mark.parametrize("about, options, said", [
    ({"data.instruction": "Translate the following English paragraph to German"}, (),
     "Translate the following English paragraph to German"),
    ({"data.instruction": ""}, (), ""), ({}, (), "Translate the following English paragraph to French"),
    ({"data.instruction": "To German"}, ("--instruction", "To Dutch"), "To Dutch")])
def test_a_model_is_asked_as_it_was_trained(about, options, said, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "open_checkpoint", lambda *_: ("model", "tokenizer", about))
    monkeypatch.setattr(command, "units_of", lambda _: iter(()))
    monkeypatch.setattr(command, "translate", lambda model, tokenizer, arm, k, instruction, *rest: asked.append(instruction))
    assert command.main(["--checkpoint", "given", *options]) == 0 and asked == [said]


def test_lines_are_sentences_and_a_missing_last_newline_is_none(answered):
    sentences = [tuple(spell(side) for side in LANGUAGE.sentence(number)) for number in (7, 8)]
    text = "\n".join(source for source, _ in sentences)
    status, _, said = answered(text, "--k", "0", "--arm", "contiguous")
    assert status == 2 and "decoding.stream runs the others" in said
    status, shown, said = answered(f"\n{text}", "--k", "0", "--arm", "kv_reencoding")
    assert status == 0 and not said
    assert [line.strip() for line in shown.splitlines()] == ["", *(target for _, target in sentences)]


@pytest.mark.parametrize("text, lines", [("", ""), ("\n", "\n"), (" \n\n", "\n\n")])
def test_nothing_is_answered_with_nothing(answered, text, lines):
    assert answered(text) == (0, lines, "")


@pytest.mark.parametrize("options, expected", [
    (["--k", "-1"], "--k -1"), (["--arm", "sideways"], "no arm 'sideways'"), (["--checkpoint", "./nowhere"], "No folder './nowhere'"),
])  # fmt: skip
def test_mistakes_are_answered_in_a_line(options, expected, answered):
    status, shown, said = answered("a", *options)
    assert status == 2 and expected in said and len(said.strip().splitlines()) == 1 and not shown


def test_adapters_as_pickles_are_not_opened(tmp_path, answered):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"anything")
    status, _, said = answered("a", "--checkpoint", str(tmp_path))
    assert status == 2 and "pickled adapters are not opened" in said
