"""common/streaming/units.py: every token belongs to one unit, units begin where the split has them, whole or as they come.

Templates and ways to mark blanks are those of Qwen, Llama, Gemma and Phi (small BPEs) and the tokenizer of SmolLM2.
"""

import functools
import random
import re
from dataclasses import replace

import pytest
import torch

from common.models import SMOLLM2, _gguf_folder
from common.streaming.units import Example, Template, part_ends, sentence_ends, word_ends
from common.streaming.words import Boundary, parts_of
from tests.small_tokenizers import ENGLISH, FRENCH, TOKENIZERS, tokenizer

INSTRUCTION = "see the small house"
NAMES = [*TOKENIZERS, "smollm2"]
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
        source, target = (re.sub(" +", " ", side) for side in (source, target))  # as they are read
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


@functools.cache
def opening_pieces(tokenizer):
    return Boundary.of_tokenizer(tokenizer, tokenizer.eos_token_id).table


NO_BREAK, NARROW, WIDE = "\u00a0", "\u202f", "\u3000"


@pytest.mark.parametrize("blank", ["  ", "\t", " \t ", NO_BREAK, NARROW, WIDE, "\n", f" {NO_BREAK}"], ids=repr)
def test_whatever_blanks_a_text_has_its_words_and_tokens_are_the_same(template, blank):
    """Units, tokens, live units and the words that decoding tells apart: one definition of a blank for all."""
    plain = template.example("the small house is small", "merci !")
    words = "the small house is small".split()
    example = template.example(f"{blank}{blank.join(words)}{blank}", f"merci{blank}!{blank}")
    assert torch.equal(example.source, plain.source) and torch.equal(example.target, plain.target)
    assert (example.source_units, example.target_units) == (plain.source_units, plain.target_units)
    assert example.n_units == 5 and len(example.target_units) == 4 and example.reference == f"merci{blank}!{blank}"
    live = template.units([f"the{blank}small", "house", "is small"])  # units of several words, joined by anything
    assert [t for unit in live for t in unit] + template.ids(template.user_end) == plain.source.tolist()
    opens = opening_pieces(template.tokenizer)
    first, *rest = torch.split(plain.target, list(plain.target_units))[1:-1]
    assert not opens[first[1:]].any() and all(opens[word[0]] and not opens[word[1:]].any() for word in rest)


def test_a_live_stream_has_the_units_of_the_text(template):
    draw = random.Random(3)
    for _ in range(20):
        source = sentence(draw)
        example = template.example(source, "merci")
        live = list(template.units(source.split()))
        assert [len(unit) for unit in live] == list(example.source_units[:-1])
        assert [t for unit in live for t in unit] + template.ids(template.user_end) == example.source.tolist()
        assert template.ids(template.opening) == example.target[: example.target_units[0]].tolist()


ROLE_LINES = ("{% for m in messages %}{{ m['role'] + ':\n' + m['content'] + '<|end|>\n' }}{% endfor %}")


def test_a_blank_that_the_tokenizer_puts_in_front_is_only_in_front():
    """SentencePiece's dummy prefix and a template of role lines: ▁ stands before the whole text and before no part of it."""
    t = tokenizer("phi3")
    t.chat_template = ROLE_LINES
    template = Template.of(t, "see")
    assert (template.prefix, template.opening) == ("system:\nsee<|end|>\nuser:\n", "assistant:\n")
    example = template.example("the dog", "le chien")
    pieces = t.convert_ids_to_tokens(example.source.tolist())
    live = [t.convert_ids_to_tokens(unit) for unit in template.units(["the", "dog"])]
    assert pieces[0].startswith("▁") and live[1][0] == "t" and live[2][0].startswith("▁")  # "▁the" was fed before
    assert sum(live, []) + t.convert_ids_to_tokens(template.ids(template.user_end)) == pieces
    assert template.ids(template.opening) == example.target[: example.target_units[0]].tolist()


def test_a_live_stream_that_would_not_be_the_text_is_refused_at_its_start():
    template = Template.of(tokenizer("qwen2"), "see")

    class Whole:  # a tokenizer that reads the first word otherwise where it sees the end of the answer, too
        def __call__(self, text, **options):
            found = dict(template.tokenizer(text, **options))
            if template.opening in text and text.endswith(template.ending):  # ChatML ends the user's turn with `ending`, too
                found["input_ids"][len(template.ids(template.prefix))] += 1
            return found

        convert_ids_to_tokens = staticmethod(template.tokenizer.convert_ids_to_tokens)

    with pytest.raises(ValueError, match=r"a live stream would be fed \['I', 't'\] where training saw \['J', 't'\]"):
        next(replace(template, tokenizer=Whole()).units(["the"]))


def test_a_tokenizer_that_begins_every_text_with_bos_begins_these_with_it(tokenizers):
    """No chat template: examples and the live prefix begin as `tokenizer(text)` does."""
    from tokenizers.processors import TemplateProcessing

    t = tokenizer("llama", chat=False)
    bos = t.bos_token_id
    t.backend_tokenizer.post_processor = TemplateProcessing(single=f"{t.bos_token} $A", special_tokens=[(t.bos_token, bos)])
    assert t("the")["input_ids"][0] == bos
    template = Template.of(t, "see")
    source = template.example("the dog", "le chien").source.tolist()
    assert source[0] == bos and source.count(bos) == 1 and source == t("see\nthe dog\n")["input_ids"]
    assert next(template.units(["the"]))[0] == bos
    assert Template.of(tokenizer("llama", chat=False), "see").prefix == "see\n"  # and none where the tokenizer puts none


def test_a_text_without_blanks_is_cut_into_characters_on_request():
    assert part_ends("我爱你。") == [1, 2, 4] and part_ends("ok 我（你）") == [2, 4, 7]
    assert parts_of("我爱 NBA，「你好」。") == ["我", "爱", "NBA，", "「你", "好」。"]
    assert parts_of("don't stop") == ["don't", "stop"] and parts_of("हिन्दी भाषा") == ["हिन्दी", "भाषा"] and parts_of("") == []
    assert "".join(parts_of("กินข้าว")) == "กินข้าว" and all(len(part) <= 3 for part in parts_of("กินข้าว"))
    template = Template.of(tokenizer("qwen2"), "see")
    with pytest.warns(UserWarning, match="no blanks between its words and is one unit.*split=part_ends"):
        assert template.example("我爱你。", "merci").n_units == 1
    example = template.example("我爱你。", "merci", split=part_ends, split_target=word_ends)
    assert example.n_units == 3
    live = [t for unit in template.units(parts_of("我爱你。"), blank="") for t in unit]
    assert live + template.ids(template.user_end) == example.source.tolist()


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
        replace(whole, tokenizer=Glue())._behind("a", " e")


class Glue:
    """A tokenizer whose only token is the whole text."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [len(text)]}


@pytest.mark.parametrize("pair", [("", "merci"), ("thank you", " \t")])
def test_an_empty_side_is_refused(pair):
    with pytest.raises(ValueError, match="an empty side"):
        Template.of(tokenizer("qwen2"), "Say it").example(*pair)


# -- other units than words --------------------------------------------------------------------------------
@pytest.mark.parametrize("text, ends", [
    ("One. Two", [4, 8]), ("Is it? It is!", [6, 13]), ("He said \"no.\" (Then left.) So", [13, 26, 29]), ("3.14 is a number", [16]),
    ("Mr. X", [3, 5]), ("  a.  b ", [4, 7]), ("no mark", [7]), ("...", [3]),
])  # fmt: skip
def test_ends_of_sentences_by_hand(text, ends):
    assert sentence_ends(text) == ends


def test_sentences_as_units_by_hand(tokenizers):
    t = Template.of(tokenizers["smollm2"], "Translate")
    example = t.example("Hello, world. Hello, world.", "Bonjour, le monde.", split=sentence_ends, split_target=word_ends)
    pieces = t.tokenizer.convert_ids_to_tokens(example.source.tolist())
    assert example.n_units == 2 and example.source_units[1:] == (4, 4, 2)
    assert pieces[-10:-2] == ["Hello", ",", "Ġworld", ".", "ĠHello", ",", "Ġworld", "."]
    assert len(example.target_units) == 2 + 3
    same = t.example("Hello, world. Hello, world.", "Bonjour, le monde.", split=lambda text: [13, 27] if len(text) == 27 else [18])
    assert same.source_units == example.source_units and len(same.target_units) == 2 + 1


def test_live_sentences_have_the_units_of_the_text(template):
    draw = random.Random(4)
    for _ in range(10):
        source = " ".join(sentence(draw) for _ in range(3))
        example = template.example(source, "merci", split=sentence_ends)
        starts = [0, *sentence_ends(source)]
        live = list(template.units(source[a:b].strip() for a, b in zip(starts, starts[1:])))
        assert [len(unit) for unit in live] == list(example.source_units[:-1])
        assert [t for unit in live for t in unit] + template.ids(template.user_end) == example.source.tolist()
        assert torch.equal(example.source, template.example(source, "merci").source)  # the tokens are those of the words


@pytest.mark.parametrize("ends", [[], [5, 5], [0, 9], [9, 5], [5], [5, 12]])
def test_ends_that_do_not_cut_the_text_are_refused(ends):
    with pytest.raises(ValueError, match=r"do not cut 'thank you' \(9 characters\) into whole parts"):
        Template.of(tokenizer("qwen2"), "Say it").example("thank you", "merci", split=lambda text: ends, split_target=word_ends)


# -- examples ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("source, units", [([1, 2, 3], (1, 1)), ([1, 2], (2,)), ([1, 2], (0, 1, 1))])
def test_units_that_do_not_add_up_are_refused(source, units):
    with pytest.raises(ValueError, match=rf"source has {len(source)} tokens in units {re.escape(str(list(units)))}"):
        Example(torch.tensor(source), units, SMALL.target, SMALL.target_units)
    with pytest.raises(ValueError, match="target has"):
        Example(SMALL.source, SMALL.source_units, torch.tensor(source), units)


def test_units_of_an_example_by_hand():
    assert SMALL.source.tolist() == [1, 1, 5, 6, 6, 2] and SMALL.source_units == (2, 1, 2, 1) and SMALL.n_units == 2
    assert SMALL.target.tolist() == [3, 3, 7, 7, 8, 4] and SMALL.target_units == (2, 2, 1, 1)
