"""What a word is and what a blank is, for all that streams: units, live input, decoding, delays and their scores.

A blank is any character that Unicode calls white space (`str.isspace`): a space, a tab, a no-break space, a narrow one, the wide one
of Chinese texts. A word is what stands between blanks, with its punctuation (`words_of`). However many blanks stand together and of
whatever kind, a model reads and writes one plain space (`one_blank`): a text that is learnt whole is then the one that is read live
and the one that decoding cuts into words. Some scripts have no blanks; there a character is as much as a word (`parts_of`).

Where words end while they are written, token by token, is told from the marks of a tokenizer's vocabulary:

    "ends"    a word's last token is known as such: words are whole tokens, or are closed by a token of their own
    "opens"   a word's first token is: that the word before it has ended is seen only when the next one begins (or the
              text ends), so whoever waits for words samples one token too many and takes it back
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

import torch
from torch import Tensor

# Scripts that put no blanks between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Chinese characters. Korean has blanks.
WITHOUT_BLANKS = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
                            "\uf900-\ufaff\U00020000-\U0003ffff]")


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def one_blank(text: str) -> str:
    """The text with a single plain space between its words, and none around them."""
    return " ".join(words_of(text))


def parts_of(text: str) -> list[str]:
    """Words, and where a script has no blanks its characters, each with the marks and the punctuation that belong to it: "我爱 you。"
    gives 我, 爱, you。 An opening bracket or quotation mark goes with what it opens."""
    return [part for word in words_of(text) for part in (_cut(word) if WITHOUT_BLANKS.search(word) else [word])]


def _cut(word: str) -> list[str]:
    kinds = "".join(map(_kind, word))
    return [word[part.start() : part.end()] for part in re.finditer(r"o*(?:a|w+(?:b+w+)*)?b*", kinds) if part.group()]


def _kind(letter: str) -> str:
    """o: opens (a bracket), b: stands behind (a mark, a full stop), a: a letter of a script without blanks, w: any other."""
    category = unicodedata.category(letter)
    if category in ("Ps", "Pi"):
        return "o"
    if category[0] in "MP":
        return "b"
    return "a" if category[0] == "L" and WITHOUT_BLANKS.match(letter) else "w"


def has_no_blanks(text: str) -> bool:
    """Whether most letters of a text are of a script that puts no blanks between words."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(WITHOUT_BLANKS.match(letter) is not None for letter in letters) > len(letters)


class Boundary(NamedTuple):
    """How words end. kind: "ends" or "opens"; table (V,) bool: token is the last, or the first, of its word.

    stop: id that ends the text. banned: ids that are never written (other special tokens).
    """

    kind: str
    table: Tensor
    stop: int
    banned: tuple[int, ...] = ()

    @staticmethod
    def of_tokenizer(tokenizer, stop: int) -> Boundary:
        """For any tokenizer that marks where words begin (a leading blank: Ġ, ▁) or go on (##), from its vocabulary.

        Any blank that a piece begins with opens a word, a tab or a no-break space too: the words are those of `words_of`.
        stop: id that ends the text; all other special tokens are banned. Raises ValueError for a tokenizer without marks.
        """
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        marks = [mark for mark in ("Ġ", "▁") if sum(p is not None and p.startswith(mark) for p in pieces) > 1]
        if marks:
            text_of = bytes_text if marks[0] == "Ġ" else (lambda piece: piece.replace("▁", " "))
            opens = [p is not None and text_of(p)[:1].isspace() for p in pieces]
        elif any(p is not None and p.startswith("##") for p in pieces):
            opens = [p is not None and not p.startswith("##") for p in pieces]
        else:
            raise ValueError("the tokenizer marks neither a word's beginning (Ġ, ▁) nor its going on (##), so words "
                             "cannot be told apart while they are written; use another tokenizer, or units of characters")
        banned = tuple(i for i in tokenizer.all_special_ids if i != stop)
        return Boundary("opens", torch.tensor(opens), stop, banned)


_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves
BYTES = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + n): byte for n, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)}  # fmt: skip


def bytes_text(piece: str) -> str:
    """The text of a piece of a byte-level BPE, whose signs stand for bytes (Ġ for a space, Âł for a no-break one): as GPT-2's
    bytes_to_unicode has them. What is only a part of a letter's bytes becomes U+FFFD; a piece that is none, itself."""
    try:
        return bytes(BYTES[sign] for sign in piece).decode("utf-8", errors="replace")
    except KeyError:
        return piece
