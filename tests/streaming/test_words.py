"""common/streaming/words.py: which tokens open a word, read off the vocabulary."""

import pytest

from common.streaming.words import Boundary
from tests.small_tokenizers import tokenizer


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


class Vocabulary:
    """As much of a tokenizer as is asked for."""

    all_special_ids = (0, 1)

    def __init__(self, *pieces):
        self.pieces = pieces

    def __len__(self):
        return len(self.pieces)

    def convert_ids_to_tokens(self, ids):
        return [self.pieces[i] for i in ids]


def test_boundary_of_word_pieces_by_hand():
    boundary = Boundary.of_tokenizer(Vocabulary("<s>", "</s>", "cat", "##s", "dog", None), stop=1)
    assert boundary.kind == "opens" and boundary.table.tolist() == [True, True, True, False, True, False]
    assert boundary.stop == 1 and boundary.banned == (0,)


def test_a_mark_alone_is_no_word():
    with pytest.raises(ValueError, match="marks neither a word's beginning"):
        Boundary.of_tokenizer(Vocabulary("a", "b", "Ġ"), 0)
    assert Boundary.of_tokenizer(Vocabulary("a", "Ġb", "Ġ"), 0).table.tolist() == [False, True, True]


def test_any_blank_opens_a_word():
    """Byte-level pieces of a tab, a no-break and a narrow no-break space, a line feed, é (a letter whose signs are no blank)."""
    pieces = ("a", "Ġb", "Ġ", "ĉ", "Âł", "Âł!", "âĢ¯", "Ċ", "Ã©", "ł")
    assert Boundary.of_tokenizer(Vocabulary(*pieces), 0).table.tolist() == [False, *[True] * 7, False, False]
    assert Boundary.of_tokenizer(Vocabulary("▁a", "▁", "\u00a0", "b", "\t"), 0).table.tolist() == [True, True, True, False, True]
