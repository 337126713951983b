"""common/streaming/live.py: bytes become units as they come, and checkpoints are opened or refused with the reason."""

import copy
import errno
import io
import json
import sys
import threading

import pytest
import torch
from safetensors.torch import save_file

from common.errors import DataError, ModelError
from common.models import load, tiny
from common.streaming.live import Output, in_a_line, open_checkpoint, units_of
from common.streaming.units import ends_sentence
from tests.numerics import close, far, float64
from tests.open_pipe import open_pipe
from tests.small_tokenizers import tokenizer


# -- words from bytes --------------------------------------------------------------------------------------
@pytest.fixture
def pipe():
    with open_pipe() as both:
        yield both


@pytest.mark.parametrize("text, sentences", [
    ("the dog\na cat\n", [["the", "dog"], ["a", "cat"]]), ("the dog", [["the", "dog"]]), ("", []), ("\n", [[]]), (" \t\n\n", [[], []]),
    ("a  b\tc \n", [["a", "b", "c"]]), ("a\r\nb\r\n", [["a"], ["b"]]),
    ("\n\n a\n\nb", [[], [], ["a"], [], ["b"]]), ("a \v\f b ", [["a", "b"]]),
    ("a\u00a0! b\u202f?\u3000c\u2028d\n", [["a", "!", "b", "?", "c", "d"]]), ("\u00a0\n\u202fa", [[], ["a"]]),
    ("été où", [["été", "où"]]), ("a\n  ", [["a"]]),
])  # fmt: skip
def test_lines_are_texts_and_blanks_part_words(pipe, text, sentences):
    put, file = pipe
    put(text.encode())
    put(None)
    assert [list(words) for words in units_of(file)] == sentences


def test_a_word_is_given_when_what_follows_it_is_there(pipe):
    """Each `next` returns without more bytes than one blank; a thread would hang here if it wanted more, so it is joined."""
    put, file = pipe
    sentences, got = units_of(file), []

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
    assert [list(words) for words in units_of(file)] == [["a", "\ufffd", "b"]]


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_told_and_not_read_as_other_words(pipe, order):
    put, file = pipe
    put("\ufeffa b\n".encode(order))
    put(None)
    with pytest.raises(DataError, match="standard input is UTF-16, and UTF-8 is read: iconv"):
        list(units_of(file))


def test_standard_input_that_is_closed_is_refused_with_the_way_out():
    """Python has None there (`<&-`)."""
    with pytest.raises(DataError, match="closed; give it a text"):
        next(units_of(None))


# -- a line of text to standard output ---------------------------------------------------------------------
def test_whatever_ends_a_line_is_a_plain_space_and_all_else_stays():
    breaks = [sign for sign in map(chr, range(sys.maxunicode + 1)) if len(f"a{sign}b".splitlines()) == 2]
    assert {"\n", "\r", "\u2028"} <= set(breaks) and in_a_line("".join(breaks)) == " " * len(breaks)
    assert in_a_line("été 我\t\u00a0b") == "été 我\t\u00a0b"


class Refusing(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


def test_output_that_cannot_be_written_says_why_and_a_reader_that_left_is_no_mistake():
    with pytest.raises(DataError, match="closed: send the text"):
        Output(None)
    for act in (lambda out: out.write("a"), lambda out: out.flush()):
        with pytest.raises(DataError, match="cannot be written: No space left"):
            act(Output(Refusing(OSError(errno.ENOSPC, "No space left on device"))))
        with pytest.raises(BrokenPipeError):
            act(Output(Refusing(BrokenPipeError(errno.EPIPE, "Broken pipe"))))
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with pytest.raises(DataError, match=r"ascii, which has no 'é': set PYTHONIOENCODING=utf-8"):
        Output(plain).write("un café")
    Output(plain).write("a cafe")
    Output(plain).flush()
    assert plain.buffer.getvalue() == b"a cafe"


# -- sentences ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, units", [
    ("One two. Three  four!\nFive", [["One two.", "Three four!"], ["Five"]]), ("a b\n\nc. d", [["a b"], [], ["c.", "d"]]),
    ("3.14 is.", [["3.14 is."]]),
])  # fmt: skip
def test_a_unit_is_what_ends_a_sentence(pipe, text, units):
    put, file = pipe
    put(text.encode())
    put(None)
    assert [list(sentences) for sentences in units_of(file, split_on=ends_sentence)] == units


def test_a_text_is_left_where_its_answer_ended(pipe):
    """What was not asked for belongs to the line all the same."""
    put, file = pipe
    put(b"a b c\nd e\n")
    put(None)
    assert [next(words) for words in units_of(file)] == ["a", "d"]


# -- checkpoints -------------------------------------------------------------------------------------------
@pytest.fixture
def base(tmp_path):
    """A model and its tokenizer, saved in tmp_path/base."""
    tok = tokenizer("qwen2")
    model = load(tiny("llama", vocab_size=len(tok))).model
    for part in (model, tok):
        part.save_pretrained(tmp_path / "base")
    return model, tok


def adapter(model):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    return wrapped.eval()


@pytest.mark.numerics
def test_an_adapter_is_its_base_with_the_adapter_in(tmp_path, base):
    model, tok = base
    wrapped = adapter(copy.deepcopy(model))
    wrapped.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "mine.json").write_text(json.dumps({"trained_from": str(tmp_path / "base"), "phi": 0.5}))
    opened, tok_of_base, facts = open_checkpoint(str(tmp_path / "adapter"), "mine.json")
    ids = torch.tensor([[1, 20, 21, 2, 3]])
    models = [copy.deepcopy(m).double() for m in (opened, wrapped, model)]
    with torch.no_grad(), float64():
        got, expected, without = (m(input_ids=ids, use_cache=False).logits for m in models)
    close(got, expected, rel=1e-6)  # opened's W + B A was rounded to fp32, 6e-8 of a weight
    far(got, without)
    assert facts["phi"] == 0.5 and tok_of_base.get_vocab() == tok.get_vocab()
    assert set(opened.state_dict()) == set(model.state_dict())


def test_a_folder_of_weights_is_opened_with_its_facts_or_none(tmp_path, base):
    model, tok = base
    opened, found, facts = open_checkpoint(str(tmp_path / "base"), "mine.json")
    assert facts == {} and found.get_vocab() == tok.get_vocab()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in opened.state_dict().items())
    (tmp_path / "base" / "mine.json").write_text('{"k": 3}')
    assert open_checkpoint(str(tmp_path / "base"), "mine.json")[2] == {"k": 3}
    (tmp_path / "base" / "mine.json").write_text('{"k": ')
    with pytest.raises(ModelError, match="mine.json of base is damaged"):
        open_checkpoint(str(tmp_path / "base"), "mine.json")


def test_an_adapter_without_a_base_asks_for_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not say of which model: give --base"):
        open_checkpoint(str(tmp_path), "mine.json")


def test_an_adapter_as_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"anything")
    with pytest.raises(ModelError, match="pickled adapters are not opened"):
        open_checkpoint(str(tmp_path), "mine.json")


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    load(tiny()).model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no tokenizer"):
        open_checkpoint(str(tmp_path), "mine.json")
