"""Where words end while they are written, token by token, told from the marks of a tokenizer's vocabulary.

    "ends"    a word's last token is known as such: words are whole tokens, or are closed by a token of their own
    "opens"   a word's first token is: that the word before it has ended is seen only when the next one begins (or the
              text ends), so whoever waits for words samples one token too many and takes it back
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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

        stop: id that ends the text; all other special tokens are banned. Raises ValueError for a tokenizer without marks.
        """
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        marks = [mark for mark in ("Ġ", "▁") if sum(p is not None and p.startswith(mark) for p in pieces) > 1]
        if marks:
            opens = [p is not None and p.startswith(marks[0]) for p in pieces]
        elif any(p is not None and p.startswith("##") for p in pieces):
            opens = [p is not None and not p.startswith("##") for p in pieces]
        else:
            raise ValueError("the tokenizer marks neither a word's beginning (Ġ, ▁) nor its going on (##), so words "
                             "cannot be told apart while they are written; use another tokenizer, or units of characters")
        banned = tuple(i for i in tokenizer.all_special_ids if i != stop)
        return Boundary("opens", torch.tensor(opens), stop, banned)
