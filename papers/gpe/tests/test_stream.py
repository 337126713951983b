"""stream.py without its process: words become text, and what the command is told is taken up or refused.

The command itself, fed through a pipe word by word, is in test_session.py.
"""

import copy
import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from common.errors import ModelError
from common.models import load, tiny
from common.streaming.live import open_checkpoint
from common.streaming.units import Template
from common.streaming.words import Boundary
from tests.open_pipe import open_pipe
from tests.small_tokenizers import tokenizer

from .. import method, stream
from ..session import Session, run
from ..stream import translate
from ..toy import SPECIAL, Language, spell

STANDIN = Path(__file__).resolve().parents[1] / "standins" / "seed0"
INSTRUCTION = "ignored by the toy's template"


@pytest.fixture
def pipe():
    with open_pipe() as both:
        yield both


@pytest.fixture(scope="module")
def standin():
    return open_checkpoint(str(STANDIN), "gpe.json")


# -- text from words ---------------------------------------------------------------------------------------
def written(standin, arm, k, sentences, **more):
    model, tok, _ = standin
    out = io.StringIO()
    translate(model, tok, method.arm(arm), k, INSTRUCTION, (iter(s.split()) for s in sentences), out, **more)
    return out.getvalue()


@pytest.mark.parametrize("k", [3, None])
def test_what_is_printed_is_the_target_and_nothing_of_source_or_template(standin, k):
    """The released code prints the assistant's header in streaming, and prompt and source in batch mode."""
    language = Language.draw(0)
    sources = [spell(language.sentence(number)[0]) for number in range(5)]
    lines = written(standin, "kv_reencoding", k, sources).splitlines()
    assert len(lines) == 5 and all(lines)
    target = {spell([word]) for word in language.target.values()}
    for line, source in zip(lines, sources):
        assert not set(line.split()) & (set(source.split()) | set(SPECIAL) | set(INSTRUCTION.split()))
        assert set(line.split()) <= target
    if k is None:
        assert lines == [spell(language.sentence(number)[1]) for number in range(5)]


def test_latency_stands_behind_every_word(standin):
    language = Language.draw(0)
    source, target = (spell(side) for side in language.sentence(7))
    shown = written(standin, "kv_reencoding", 3, [source], show_latency=True).split()
    assert shown[::2] == target.split()
    assert shown[1::2] == [f"[{min(3 + j, len(source.split()))}]" for j in range(len(target.split()))]


def test_text_is_printed_word_by_word_as_the_session_gives_it(standin):
    """Before a word is printed, no more is taken from the source than its wait-k allows."""
    language, taken, at = Language.draw(0), [], []
    source = spell(language.sentence(7)[0]).split()

    def words():
        for word in source:
            taken.append(word)
            yield word

    class Spy(io.StringIO):
        def write(self, text):
            at.append((text, len(taken)))

    model, tok, _ = standin
    translate(model, tok, method.arm("kv_reencoding"), 2, INSTRUCTION, iter([words()]), Spy())
    assert [read for text, read in at if text.strip()] == [min(2 + j, len(source)) for j in range(len(at) - 1)]


def test_an_answer_stays_on_its_line_whatever_breaks_the_model_writes(monkeypatch):
    """The output's line i is that of the input's line i."""
    tok = tokenizer("qwen2")
    words = [(tok(text)["input_ids"], read) for text, read in (("the\ncat", 1), (" sat\r\n", 2), (" on", 3))]
    monkeypatch.setattr(stream, "run", lambda *_: iter(words))
    model, out = load(tiny("llama", vocab_size=len(tok))).model, io.StringIO()
    translate(model, tok, method.arm("group"), 2, "see", [iter(["a"]), iter(["b"])], out, show_latency=True)
    assert out.getvalue() == 2 * "the cat [1] sat   [2] on [3]\n"


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "phi3", "llama"])
def test_a_real_kind_of_tokenizer_streams_the_text_of_its_tokens(family):
    """Blanks between words come out right for Ġ and ▁, and no turn marker is ever chosen; a random model."""
    tok = tokenizer(family)
    model = load(tiny("llama", vocab_size=len(tok) + 7)).model
    out = io.StringIO()
    translate(model, tok, method.arm("group"), 2, "see", iter([iter("the cat sat on the mat".split())]), out, max_word=6, max_words=5)
    template = Template.of(tok, "see")
    session = Session(model, method.arm("group"), Boundary.of_tokenizer(tok, template.stop), template.ids(template.opening), 6)
    tokens = [t for word, _ in run(session, template.units("the cat sat on the mat".split()), template.ids(template.user_end), 2, 5)
              for t in word]
    assert tokens and not set(tokens) & (set(tok.all_special_ids) | set(range(len(tok), len(tok) + 7)))
    assert out.getvalue() == tok.decode(tokens, skip_special_tokens=True).lstrip() + "\n"


def test_a_word_without_end_is_said_on_the_error_stream(standin, capsys):
    model, tok, _ = standin
    never = load(tiny("llama", vocab_size=len(tok))).model
    ahead = 100 * torch.nn.functional.one_hot(torch.tensor(tok.convert_tokens_to_ids("##T")), len(tok))
    never.lm_head.register_forward_hook(lambda module, inputs, output: output + ahead)  # it goes on inside a word for ever
    out = io.StringIO()
    translate(never, tok, method.arm("group"), 1, INSTRUCTION, iter([iter(["a", "b"])]), out, max_word=4)
    assert "did not end a word" in capsys.readouterr().err and out.getvalue() == "##TTTT\n"


def test_an_empty_source_has_an_empty_answer_and_its_own_line(standin):
    source, target = (spell(side) for side in Language.draw(0).sentence(7))
    for k in (3, None):
        assert written(standin, "kv_reencoding", k, ["", source, ""]).splitlines()[::2] == ["", ""]
    assert written(standin, "kv_reencoding", None, ["", source, ""]) == f"\n{target}\n\n"


def test_a_text_without_end_is_reported_on_the_error_stream(standin, capsys):
    source = spell(Language.draw(0).sentence(7)[0])
    assert len(written(standin, "kv_reencoding", None, [source], max_words=3).split()) == 3
    assert capsys.readouterr().err == "gpe: the model did not end its text within 3 words; its sentence was cut\n"
    written(standin, "kv_reencoding", None, [source])
    assert not capsys.readouterr().err


# -- the command ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options, said", [
    (["--k", "-2"], "--k -2: at least 1, or 0"), (["--phi", "3", "--arm", "kv_reencoding"], "phi = 3.0 has no meaning"),
    (["--arm", "interleaved"], "decoding.stream runs the others"),
    (["--arm", ""], "no arm ''"), (["--k", "9" * 25], "less than 16,777,216"),
    (["--phi", "nan"], "phi nan: the first target position is a number"), (["--phi", "inf"], "phi inf"),
    (["--phi", "1e9"], "phi 1000000000.0"),
    (["--base", "elsewhere"], "is no adapter (it has no adapter_config.json), so --base has no use"),
])  # fmt: skip
def test_mistakes_end_with_status_2_and_say_what(options, said, capsys, monkeypatch, pipe):
    put, file = pipe
    put(b"a\n")
    put(None)
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.stdin", file)
    try:
        assert stream.main(["--checkpoint", str(STANDIN), *options]) == 2
    finally:
        torch.set_num_threads(threads)
    assert said in capsys.readouterr().err


def test_arm_and_phi_of_the_training_are_taken_up(tmp_path, monkeypatch, pipe, standin):
    """gpe.json says how the model was trained; options on the command line come first."""
    model, tok, _ = standin
    model.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    (tmp_path / "gpe.json").write_text(json.dumps({"arm_name": "no_target_positions", "phi": 2.5}))
    put, file = pipe
    put(None)
    monkeypatch.setattr("sys.stdin", file)
    seen, threads = [], torch.get_num_threads()
    monkeypatch.setattr(stream, "translate", lambda model, tok, arm, k, *rest: seen.append((arm, k)))
    try:
        for options in ([], ["--arm", "group"], ["--phi", "7", "--k", "0"]):
            assert stream.main(["--checkpoint", str(tmp_path), *options]) == 0
    finally:
        torch.set_num_threads(threads)
    none, group = "no_target_positions", "group"
    assert seen == [(method.arm(none, 2.5), 3), (method.arm(group, 2.5), 3), (method.arm(none, 7.0), None)]


@pytest.mark.parametrize("count", ["0", "-3", "100000", "1.5"])
def test_threads_that_torch_dies_of_are_refused(count, capsys):
    with pytest.raises(SystemExit) as left:
        stream.main(["--checkpoint", str(STANDIN), "--threads", count])
    assert left.value.code == 2 and f"--threads: {count}: a whole number, 1 to 1024" in capsys.readouterr().err


@pytest.mark.parametrize("facts, said", [
    ("[1]", "holds a list, no facts by name"), ("null", "holds a NoneType"), ("[" * 100_000, "is damaged"),
    ('{"phi": NaN}', "phi nan: the first target position"), ('{"phi": "a"}', "gpe.json: phi is 'a', where 0.0 would do"),
    ('{"phi": true}', "gpe.json: phi is True"), ('{"arm_name": ["x"]}', "gpe.json: arm_name is ['x']"),
    ('{"data.instruction": 5}', "gpe.json: data.instruction is 5"),
])  # fmt: skip
def test_facts_of_a_training_that_are_none_are_told_by_name(facts, said, tmp_path, capsys, monkeypatch, pipe):
    folder = tmp_path / "model"
    shutil.copytree(STANDIN, folder)
    (folder / "gpe.json").write_text(facts)
    put, file = pipe
    put(b"a\n")
    put(None)
    monkeypatch.setattr("sys.stdin", file)
    assert stream.main(["--checkpoint", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("gpe stream: ") == 1


def test_a_template_that_refuses_and_a_tokenizer_of_a_larger_model_are_told(standin):
    model, tok, _ = standin
    refusing = copy.deepcopy(tok)
    refusing.chat_template = "{{ raise_exception('no turn pleases me') }}"
    with pytest.raises(ModelError, match=r"chat template of the tokenizer refuses a user's turn \(no turn pleases me\)"):
        stream.translate(model, refusing, method.arm("group"), 1, "x", [], io.StringIO())
    smaller = copy.deepcopy(model)
    smaller.resize_token_embeddings(20)
    with pytest.raises(ModelError, match="token .* of the tokenizer has no row in an embedding of 20"):
        words = tok.get_vocab()
        stream.translate(smaller, tok, method.arm("group"), 1, "x", [iter([max(words, key=words.get)])], io.StringIO())


def test_an_end_token_that_the_model_has_no_row_of_is_told_before_a_text_is_read(standin):
    """It could never be written, and every answer would be cut."""
    model, tok, _ = standin
    tok = copy.deepcopy(tok)
    tok.chat_template = None
    tok.add_special_tokens({"eos_token": "<the end>"})
    with pytest.raises(ModelError, match=f"token {len(tok) - 1} of the tokenizer has no row in an embedding of {len(tok) - 1}"):
        stream.translate(model, tok, method.arm("group"), 1, "x", [], io.StringIO())
