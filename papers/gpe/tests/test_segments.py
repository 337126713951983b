"""segments.py, template.py: every token belongs to one unit, units begin where words do, and a row sees what it should.

Templates and ways to mark blanks are those of Qwen, Llama, Gemma and Phi (small BPEs, runs.py) and the tokenizer of SmolLM2.
"""

import random
import re
from dataclasses import replace

import pytest
import torch

from common.models import SMOLLM2, _gguf_folder, load, tiny

from .. import method
from ..decoding import Boundary, stream
from ..segments import Batch, Example
from ..session import Session, run
from ..template import Template
from ..toy import TARGET_END, Language
from .runs import ENGLISH, FRENCH, TOKENIZERS, tokenizer

INSTRUCTION = "see the small house"
NAMES = [*TOKENIZERS, "smollm2"]
# Two tokens of opening and one of each word but the second of the source; k = 1.
SMALL = Example.of_units([[1, 1], [5], [6, 6], [2]], [[3, 3], [7, 7], [8], [4]])


@pytest.fixture(scope="session")
def tokenizers():
    from transformers import AutoTokenizer

    found = {name: tokenizer(name) for name in TOKENIZERS}
    return found | {"smollm2": AutoTokenizer.from_pretrained(_gguf_folder(SMOLLM2.name)[0], local_files_only=True)}


@pytest.fixture(params=NAMES)
def template(request, tokenizers):
    return Template.of(tokenizers[request.param], INSTRUCTION)


def sentence(draw, blanks=(" ",)):
    """Words of the vocabulary and none, with apostrophes, digits and punctuation."""
    words = [w for line in ENGLISH + FRENCH for w in line.split()] + ["3,14", "don't", "l'eau", "x", "(1999)", "W-W", "...", "?!"]
    chosen = [draw.choice(words) + draw.choice(["", "", ",", ".", "!", "'s"]) for _ in range(draw.randint(1, 9))]
    return "".join(w + draw.choice(blanks) for w in chosen).strip()


# -- templates ---------------------------------------------------------------------------------------------
def test_units_begin_at_words_and_hold_every_token(template):
    """Against offsets of the whole text: token border i lies between the end of one word and the start of the next."""
    draw = random.Random(1)
    for _ in range(40):
        source, target = (sentence(draw, (" ", " ", "  ")) for _ in range(2))
        example = template.example(source, target)
        text = template.prefix + source + template.user_end + template.opening + target + template.ending
        encoded = template.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = torch.cat([example.source, example.target]).tolist()
        assert ids == encoded["input_ids"][: len(ids)] and ids[-1] == template.stop
        assert sum(example.source_units) + sum(example.target_units) == len(ids)
        spans, at = [(0, len(template.prefix))], len(template.prefix)  # the characters of each unit, without blanks around
        for side, follows in ((source, [template.user_end, template.opening]), (target, [])):
            spans += [(at + m.start(), at + m.end()) for m in re.finditer(r"[^ ]+", side)]
            at += len(side)
            for part in follows:
                spans.append((at, at + len(part)))
                at += len(part)
        spans.append((at, len(text)))
        units = [*example.source_units, *example.target_units]
        assert len(units) == len(spans)
        first = 0
        for (_, before), (start, _), tokens in zip(spans, spans[1:], units):
            first += tokens
            begin, end = encoded["offset_mapping"][first]
            assert end > start or not text[begin:end].strip(), text[begin:end]  # reaches the word, or is blank
            assert begin >= before or not text[begin:before].strip()
            assert encoded["offset_mapping"][first - 1][1] <= start  # the unit before has nothing of it


def test_words_come_back_as_text(template):
    draw = random.Random(2)
    for _ in range(20):
        source, target = (sentence(draw) for _ in range(2))
        example = template.example(source, target)
        for side, tokens, units in ((source, example.source, example.source_units), (target, example.target, example.target_units)):
            words = torch.split(tokens, list(units))[1:-1]
            decode = template.tokenizer.decode
            assert decode(torch.cat(words).tolist(), clean_up_tokenization_spaces=False).strip() == side
            assert [decode(w.tolist(), clean_up_tokenization_spaces=False).strip() for w in words] == side.split()


def test_blanks_at_the_end_stay_with_the_last_word(tokenizers):
    t = Template.of(tokenizers["qwen2"], INSTRUCTION)
    bare, blank = t.example("thank you", "merci"), t.example("thank you ", "merci  ")
    assert blank.source_units[-1] == bare.source_units[-1] and blank.target_units[-1] == 1
    assert blank.source_units[-2] > bare.source_units[-2] and blank.target_units[-2] > bare.target_units[-2]


def test_a_live_stream_has_the_units_of_the_text(template):
    draw = random.Random(3)
    for _ in range(20):
        source = sentence(draw)
        example = template.example(source, "merci")
        live = list(template.units(source.split()))
        assert [len(unit) for unit in live] == list(example.source_units[:-1])
        assert [t for unit in live for t in unit] + template.ids(template.user_end) == example.source.tolist()
        assert template.ids(template.opening) == example.target[: example.target_units[0]].tolist()


def test_template_of_smollm2_and_its_counts_by_hand(tokenizers):
    t = Template.of(tokenizers["smollm2"], "Translate")
    assert t.prefix == "<|im_start|>system\nTranslate<|im_end|>\n<|im_start|>user\n"
    assert (t.user_end, t.opening, t.ending) == ("<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n")
    assert t.stop == t.tokenizer.convert_tokens_to_ids("<|im_end|>")
    example = t.example("Hello, world.", "Bonjour, le monde.")
    pieces = t.tokenizer.convert_ids_to_tokens(example.source.tolist())
    assert pieces[-6:] == ["Hello", ",", "Ġworld", ".", "<|im_end|>", "Ċ"] and example.source_units[1:] == (2, 2, 2)
    assert example.target_units[-1] == 1 and example.target[-1] == t.stop  # what follows the end of the turn is not learned


def test_without_a_system_role_the_instruction_heads_the_users_turn():
    assert Template.of(tokenizer("gemma2"), "Say it").prefix == "<bos><start_of_turn>user\nSay it\n"
    assert "Say it" in Template.of(tokenizer("llama"), "Say it").prefix.partition("<|eot_id|>")[0]


def test_without_a_chat_template_a_plain_one():
    t = Template.of(tokenizer("qwen2", chat=False), "Say it")
    assert (t.prefix, t.user_end, t.opening, t.ending) == ("Say it\n", "\n", ">", "<|endoftext|>")
    assert t.example("thank you", "merci").target_units[-1] == 1


@pytest.mark.parametrize("change, said", [
    (lambda t: setattr(t, "chat_template", "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"), "as they are"),
    (lambda t: setattr(t, "chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}"), "no text at the end of a turn"),
    (lambda t: [setattr(t, n, None) for n in ("chat_template", "eos_token")], "neither a chat template nor an end token"),
])  # fmt: skip
def test_templates_that_cannot_be_cut_are_refused(change, said):
    broken = tokenizer("qwen2")
    change(broken)
    with pytest.raises(ValueError, match=said):
        Template.of(broken, "Say it")


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="no character offsets"):
        Template.of(Slow(), "")


def test_a_token_in_two_units_is_refused_and_named():
    """As of the official Gemma template, where the role and the first word stand together: here "th" + "e"."""
    whole = Template.of(tokenizer("qwen2"), "Say it")
    with pytest.raises(ValueError, match=r"token 'the' lies in two units of .*the cat"):
        replace(whole, opening="<|im_start|>assistant\nth").example("thank you", "e cat")
    with pytest.raises(ValueError, match="joins 'e' with the word before it"):
        replace(whole, tokenizer=Glue())._after_blank("e")


class Glue:
    """A tokenizer whose only token is the whole text."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [len(text)]}


@pytest.mark.parametrize("pair", [("", "merci"), ("thank you", " \t")])
def test_an_empty_side_is_refused(pair):
    with pytest.raises(ValueError, match="an empty side"):
        Template.of(tokenizer("qwen2"), "Say it").example(*pair)


# -- punctuation -------------------------------------------------------------------------------------------
def test_punctuation_belongs_to_its_word_two_reads_and_two_delays(tokenizers):
    """'Hello, world.' is two words: the released code reads four times for it and logs four delays."""
    t = Template.of(tokenizers["qwen2"], "Say it")
    boundary = Boundary.of_tokenizer(t.tokenizer, t.stop)
    model = load(tiny("llama", vocab_size=len(t.tokenizer))).model
    example = t.example("Hello, world.", "merci, monde.")
    out = stream(model, method.arm("group"), [example], boundary, 1, forced=True)[0]
    assert [t.tokenizer.decode(word).strip() for word in out.words] == ["merci,", "monde."] and out.delays == [1, 2]

    reads, written = [], iter(example.target[example.target_units[0] :].tolist())

    class Counting(Session):
        held = None

        def read(self, unit):
            reads.append(len(unit))
            super().read(unit)

        def _choose(self, logits, inside):  # a word that is dropped for a READ comes again after it
            token = next(written) if self.held is None or not self._must_open else self.held
            self.held, self._must_open = token, False
            return token

    session = Counting(model, method.arm("group"), boundary, t.ids(t.opening))
    words = list(run(session, t.units("Hello, world.".split()), t.ids(t.user_end), 1))
    assert [read for _, read in words] == [1, 2]
    assert reads == list(example.source_units)  # instruction, two words, the end


# -- where words begin -------------------------------------------------------------------------------------
@pytest.mark.parametrize("family, opens, inside", [("qwen2", "Ġcat", "cat"), ("gemma2", "▁cat", "cat"), ("phi3", "▁cat", "cat")])
def test_boundary_of_a_tokenizer(family, opens, inside):
    from tokenizers import AddedToken

    tok = tokenizer(family)
    tok.add_tokens([AddedToken(piece, normalized=False) for piece in (opens, inside) if piece not in tok.get_vocab()])
    stop = tok.eos_token_id
    boundary = Boundary.of_tokenizer(tok, stop)
    assert boundary.kind == "opens" and len(boundary.table) == len(tok) and boundary.stop == stop
    assert boundary.table[tok.convert_tokens_to_ids(opens)] and not boundary.table[tok.convert_tokens_to_ids(inside)]
    assert set(boundary.banned) == set(tok.all_special_ids) - {stop}


def test_boundary_of_word_pieces_and_of_none():
    language = Language.draw(0)
    tok = language.tokenizer()
    boundary = Boundary.of_tokenizer(tok, tok.convert_tokens_to_ids(TARGET_END))
    assert [p for p, opens in zip(language.pieces(), boundary.table) if not opens] == [
        p for p in language.pieces() if p.startswith("##")]

    class Characters:
        all_special_ids = ()

        def __len__(self):
            return 3

        def convert_ids_to_tokens(self, ids):
            return ["a", "b", "Ġ"]  # the mark itself is no word

    with pytest.raises(ValueError, match="marks neither a word's beginning"):
        Boundary.of_tokenizer(Characters(), 0)


# -- examples and batches ----------------------------------------------------------------------------------
@pytest.mark.parametrize("source, units", [([1, 2, 3], (1, 1)), ([1, 2], (2,)), ([1, 2], (0, 1, 1))])
def test_units_that_do_not_add_up_are_refused(source, units):
    with pytest.raises(ValueError, match=rf"source has {len(source)} tokens in units {re.escape(str(list(units)))}"):
        Example(torch.tensor(source), units, SMALL.target, SMALL.target_units)
    with pytest.raises(ValueError, match="target has"):
        Example(SMALL.source, SMALL.source_units, torch.tensor(source), units)


@pytest.mark.parametrize("k, readable, visible, written", [
    (1, [2, 2, 3, 4], [3, 3, 3, 5, 6, 6], [3, 3, 3, 3, 5, 6]),
    (2, [3, 3, 4, 4], [5, 5, 5, 6, 6, 6], [5, 5, 5, 5, 6, 6]),
    (99, [4] * 4, [6] * 6, [6] * 6), (None, [4] * 4, [6] * 6, [6] * 6),
])  # fmt: skip
def test_what_rows_see_by_hand(k, readable, visible, written):
    """Source tokens up to unit 0, 1, 2, 3: 2, 3, 5, 6. Rows v0a v0b v1a v1b v2 v3 predict v0b v1a v1b v2 v3 -."""
    assert SMALL.readable(k).tolist() == readable and SMALL.n_words == 2
    layout = Batch.of([SMALL], [k]).layout
    assert layout.visible[0].tolist() == visible and layout.written[0].tolist() == written


def test_a_batch_is_padded_behind_and_scores_words_and_end_only():
    short = Example.of_units([[1], [5], [2]], [[3], [7], [4]])
    batch = Batch.of([SMALL, short], [1, None])
    assert batch.source.tolist() == [[1, 1, 5, 6, 6, 2], [1, 5, 2, 0, 0, 0]]
    assert batch.target.tolist() == [[3, 3, 7, 7, 8, 4], [3, 7, 4, 0, 0, 0]]
    assert batch.scored.int().tolist() == [[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]]
    assert batch.layout.visible[1].tolist() == [3, 3, 3, 0, 0, 0]
    assert batch.layout.source_lengths.tolist() == [6, 3] and batch.layout.target_lengths.tolist() == [6, 3]
    moved = batch.to("cpu")
    assert torch.equal(moved.layout.visible, batch.layout.visible) and moved.layout.n_source == 6


def test_a_batch_for_kv_re_encoding_is_cut_at_what_was_read():
    batch = Batch.of([SMALL, SMALL], [1, 1], method.arm("kv_reencoding"), [1, 2])
    assert batch.source.tolist() == [[1, 1, 5, 0, 0], [1, 1, 5, 6, 6]] and batch.layout.source_lengths.tolist() == [3, 5]
    assert batch.scored.int().tolist() == [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    assert batch.layout.visible.tolist() == [[3] * 6, [5] * 6]


def test_a_long_mask_is_its_definition_row_by_row_and_the_same_twice():
    """At 2,048 tokens the official code's shift of mask rows overwrites what it still has to read."""
    draw = random.Random(4)
    source, target = ([[1] * draw.randint(1, 3) for _ in range(512)] for _ in range(2))
    example = Example.of_units(source, target)
    batch, k = Batch.of([example], [3]), 3
    mask = method.attention_mask(method.arm("group"), batch.layout)[0, 0]
    assert mask.shape[0] > 2000 and torch.equal(mask, method.attention_mask(method.arm("group"), Batch.of([example], [3]).layout)[0, 0])
    n, unit_of = len(example.source), [j for j, unit in enumerate(target) for _ in unit]
    ends = torch.tensor(example.source_units).cumsum(0).tolist()
    for row in range(n):
        assert mask[row].nonzero()[:, 0].tolist() == list(range(row + 1))
    for t, unit in enumerate(unit_of):
        predicts = unit_of[t + 1] if t + 1 < len(unit_of) else unit
        seen = ends[min(k + max(predicts, 1) - 1, 511)]
        assert mask[n + t].nonzero()[:, 0].tolist() == [*range(seen), *range(n, n + t + 1)]
