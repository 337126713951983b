"""stream.py without its process: bytes become words as they come, words become text, checkpoints are opened or refused.

The command itself, fed through a pipe word by word, is in test_session.py.
"""

import copy
import io
import json
import os
import threading

import pytest
import torch
from safetensors.torch import save_file

from common.errors import ModelError
from common.lora import LoraSpec, add_lora
from common.models import load, tiny
from tests.numerics import close, far

from .. import method, stream
from ..decoding import Boundary
from ..session import Session, run
from ..stream import open_checkpoint, translate, words_of
from ..template import Template
from ..toy import SPECIAL, Language, spell
from .double import Double
from .runs import tokenizer

STANDIN = stream.Path(__file__).resolve().parents[1] / "standins" / "seed0"
INSTRUCTION = "ignored by the toy's template"


@pytest.fixture
def pipe():
    """(function that writes bytes, file that reads them); writing None ends the text."""
    reading, writing = os.pipe()
    opened = [writing]

    def put(data):
        if data is None:
            os.close(opened.pop())
        else:
            os.write(writing, data)

    with os.fdopen(reading, "rb", buffering=0) as file:
        yield put, file
    for left in opened:
        os.close(left)


@pytest.fixture(scope="module")
def standin():
    return open_checkpoint(str(STANDIN))


# -- words from bytes --------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, sentences", [
    ("the dog\na cat\n", [["the", "dog"], ["a", "cat"]]), ("the dog", [["the", "dog"]]), ("", []), (" \t\n\n", []),
    ("a  b\tc \n", [["a", "b", "c"]]), ("a\r\nb\r\n", [["a"], ["b"]]), ("\n\n a\n\nb", [["a"], ["b"]]), ("été où", [["été", "où"]]),
])  # fmt: skip
def test_lines_are_sentences_and_blanks_part_words(pipe, text, sentences):
    put, file = pipe
    put(text.encode())
    put(None)
    found = [list(words) for words in words_of(file)]
    assert [words for words in found if words] == sentences  # an empty line may count as an empty sentence


def test_a_word_is_given_when_what_follows_it_is_there(pipe):
    """Each `next` returns without more bytes than one blank; a thread would hang here if it wanted more, so it is joined."""
    put, file = pipe
    sentences, got = words_of(file), []

    def after(data):
        put(data)
        thread = threading.Thread(target=lambda: got.append(next(words, None)), daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive(), f"waits for more after {data!r}"
        return got[-1]

    put(b"th")
    words = next(sentences)
    assert after(b"e ") == "the"
    put(b"\xc3")  # half a letter
    assert after(b"\xa9t\n") == "ét"
    assert next(words, None) is None  # the line has ended, the text has not
    put(b"x")
    words = next(sentences)
    put(None)
    assert next(words) == "x" and next(words, None) is None and next(sentences, None) is None


def test_bytes_that_are_no_text_are_shown_as_such(pipe):
    put, file = pipe
    put(b"a \xff b\n")
    put(None)
    assert [list(words) for words in words_of(file)] == [["a", "\ufffd", "b"]]


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
    with torch.no_grad():  # "##T" whatever comes: it goes on inside a word for ever
        never.lm_head.weight.zero_()
        never.lm_head.weight[tok.convert_tokens_to_ids("##T")] = 1
    never.model.norm.register_forward_hook(lambda module, inputs, output: torch.ones_like(output))
    out = io.StringIO()
    translate(never, tok, method.arm("group"), 1, INSTRUCTION, iter([iter(["a", "b"])]), out, max_word=4)
    assert "did not end a word" in capsys.readouterr().err and out.getvalue() == "##TTTT\n"


# -- checkpoints -------------------------------------------------------------------------------------------
@pytest.mark.numerics
def test_an_adapter_is_its_base_with_the_adapter_in(tmp_path, standin):
    _, tok, _ = standin
    generator = torch.Generator().manual_seed(0)
    wrapped = add_lora(open_checkpoint(str(STANDIN))[0], LoraSpec(rank=2, dropout=0.0))
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    wrapped.eval().save_pretrained(tmp_path)
    (tmp_path / "gpe.json").write_text(json.dumps({"trained_from": str(STANDIN), "arm_name": "group", "phi": 0.5}))
    opened, tok_of_base, about = open_checkpoint(str(tmp_path))
    ids = torch.tensor([[1, 20, 21, 2, 3]])
    models = [copy.deepcopy(m).double() for m in (opened, wrapped, standin[0])]
    with torch.no_grad(), Double():
        got, expected, base = (m(input_ids=ids, use_cache=False).logits for m in models)
    close(got, expected, rel=1e-6)  # opened's W + B A was rounded to fp32, 6e-8 of a weight
    far(got, base)
    assert about["phi"] == 0.5 and tok_of_base.get_vocab() == tok.get_vocab()
    assert set(opened.state_dict()) == set(standin[0].state_dict())


def test_an_adapter_without_a_base_asks_for_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not say of which model: give --base"):
        open_checkpoint(str(tmp_path))


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    load(tiny()).model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no tokenizer"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("options, said", [
    (["--k", "-2"], "--k -2: at least 1, or 0"), (["--phi", "3", "--arm", "kv_reencoding"], "phi = 3.0 has no meaning"),
    (["--arm", "interleaved"], "decoding.stream runs the others"),
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
