"""A source and a target as units of tokens (words, sentences, chunks of audio), under the tokenizer's own chat template.

    u_0  system turn and the user's header      u_1 .. u_n  source units      u_{n+1}  end of the user's turn
    v_0  the assistant's header                 v_1 .. v_m  target units      v_{m+1}  the token that ends it

The whole text is tokenised once and every token is given to the unit that its last character lies in; a token that
would belong to two units is an error, not a slip of all masks behind it. So the text that a model is trained on whole is,
token by token, the one that it reads unit by unit (`Template.units`).

What a unit is, a `split` says: a function from a text to the character ends of its units. A word is what stands between
blanks, with its punctuation (words.py has the one definition); a sentence is words up to one that ends with a full stop, or the
like. In scripts without blanks a word would be the whole text: there `part_ends` cuts into characters.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .words import has_no_blanks, one_blank, parts_of

SOURCE_MARK, TARGET_MARK = "\u2983source\u2984", "\u2983target\u2984"  # in no text and no template


# -- where units end ---------------------------------------------------------------------------------------
def ends_word(word: str) -> bool:
    """Every word is a unit."""
    return True


def ends_sentence(word: str) -> bool:
    """Whether a word is the last of its sentence: . ! ? or an ellipsis, perhaps with closing quotes or brackets behind it.

    An abbreviation with a full stop ends one, too: a live stream cannot wait for what comes next to tell them apart.
    """
    return re.search(r"[.!?\u2026\u3002][\"'\u2019\u201d\u00bb)\]]*$", word) is not None


def ends_of_units(text: str, last: Callable[[str], bool]) -> list[int]:
    """Character ends of the units of a text. last(word): whether a unit ends with this word; the text's last word ends one."""
    words = list(re.finditer(r"\S+", text))
    return [word.end() for i, word in enumerate(words) if last(word.group()) or i == len(words) - 1]


def word_ends(text: str) -> list[int]:
    """Character ends of the words."""
    return ends_of_units(text, ends_word)


def sentence_ends(text: str) -> list[int]:
    """Character ends of the sentences. "One. Two" gives [4, 8]: the blank between belongs to the second."""
    return ends_of_units(text, ends_sentence)


def part_ends(text: str) -> list[int]:
    """Character ends of the words, and of the characters where a script has no blanks (`words.parts_of`)."""
    ends, at = [], 0
    for part in parts_of(text):
        at = text.index(part, at) + len(part)
        ends.append(at)
    return ends


# -- a pair in units ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Example:
    """One source and its target, in tokens.

    source: ids (S,); -1 where the token is a frame of `features` (S, F). source_units, target_units: tokens of
    u_0 .. u_{n+1} and of v_0 .. v_{m+1}. text: the source as a user wrote it; reference: the target.
    Raises ValueError when units and tokens do not add up.
    """

    source: Tensor
    source_units: tuple[int, ...]
    target: Tensor
    target_units: tuple[int, ...]
    text: str = ""
    reference: str = ""
    features: Tensor | None = None
    unit_ends: tuple[float, ...] = field(default=())  # speech: when each source unit has been heard, ms

    def __post_init__(self) -> None:
        for name, tokens, units in (("source", self.source, self.source_units),
                                    ("target", self.target, self.target_units)):
            if sum(units) != len(tokens) or len(units) < 2 or min(units) < 1:
                raise ValueError(f"example {self.text[:40]!r}: {name} has {len(tokens)} tokens in units {list(units)}; "
                                 "units must add up and none may be empty (the first is the prompt, the last the end)")

    @property
    def n_units(self) -> int:
        """Source units between the instruction and the end marker: |x| of the latency metrics."""
        return len(self.source_units) - 2

    @staticmethod
    def of_units(source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], **more) -> Example:
        """From lists of token ids, one list a unit."""
        return Example(torch.tensor([t for u in source for t in u]), tuple(map(len, source)),
                       torch.tensor([t for u in target for t in u]), tuple(map(len, target)), **more)


@dataclass(frozen=True)
class Template:
    """The fixed parts around source and target. stop: id of the token that ends the target."""

    tokenizer: Any
    prefix: str
    user_end: str
    opening: str
    ending: str
    stop: int

    @staticmethod
    def of(tokenizer, instruction: str) -> Template:
        """From the tokenizer's chat template, or a plain one where it has none.

        Models without a system role get the instruction at the head of the user's turn. Raises ValueError for a
        template that changes the text it is given, or that ends a turn with no token of its own.
        """
        if not tokenizer.is_fast:
            raise ValueError("the tokenizer gives no character offsets (it is no fast one), so words have no token borders")
        if getattr(tokenizer, "chat_template", None) is None:
            if tokenizer.eos_token_id is None:
                raise ValueError("the tokenizer has neither a chat template nor an end token: set one")
            return Template(tokenizer, f"{_beginning(tokenizer)}{instruction}\n", "\n", ">", tokenizer.eos_token, tokenizer.eos_token_id)

        def render(*turns: tuple[str, str]) -> str:
            messages = [{"role": role, "content": text} for role, text in turns]
            return tokenizer.apply_chat_template(messages, tokenize=False)

        user = [("system", instruction), ("user", SOURCE_MARK)]
        try:
            render(*user)
        except Exception:  # jinja's own error types; Gemma's template raises for a system turn
            user = [("user", f"{instruction}\n{SOURCE_MARK}")]
        question, whole = render(*user), render(*user, ("assistant", TARGET_MARK))
        if not whole.startswith(question):  # Phi-3's template closes whatever it is given with the end token
            question = question.removesuffix(tokenizer.eos_token or "")
        if SOURCE_MARK not in question or not whole.startswith(question) or TARGET_MARK not in whole:
            raise ValueError("the tokenizer's chat template does not put the turns one after the other as they are; "
                             "give the tokenizer a plain template")
        prefix, user_end = question.split(SOURCE_MARK)
        opening, ending = whole[len(question) :].split(TARGET_MARK)
        ids = tokenizer(ending, add_special_tokens=False)["input_ids"]
        if not ids or not user_end or not opening:
            raise ValueError("the chat template has no text at the end of a turn or the head of the assistant's, which "
                             "streaming needs to tell when a turn ends")
        return Template(tokenizer, prefix, user_end, opening, ending, ids[0])

    def example(self, source: str, target: str, split: Callable[[str], list[int]] = word_ends,
                split_target: Callable[[str], list[int]] | None = None) -> Example:
        """The pair in units. split: character ends of a text's units (`word_ends`, `sentence_ends`, or one's own), rising, the last
        one behind the last letter; split_target: those of the target (None: as the source). Both sides are read with one plain space
        between words, whatever blanks they have: so a live stream reads them, and so decoding writes them. `text` and `reference` of
        the example stay as they were. Warns where one unit would be a whole text without blanks.

        Raises ValueError for an empty side, for ends that do not rise or leave a rest, or naming a token that lies in two units.
        """
        if not source.strip() or not target.strip():
            raise ValueError(f"an empty side: {source!r}, {target!r}")
        as_written, (source, target) = (source, target), map(one_blank, (source, target))
        sides = _checked(source, split(source)), _checked(target, (split_target or split)(target))
        for side, cuts in ((source, sides[0]), (target, sides[1])):
            if len(cuts) == 1 and len(side) > 1 and has_no_blanks(side):
                warnings.warn(f"{side[:40]!r} has no blanks between its words and is one unit: nothing of it is read before all of "
                              "it is. Cut it into characters (split=part_ends).", stacklevel=2)
        text, borders = "", []  # end of each unit, in characters
        for part, ends in ((self.prefix, None), (source, sides[0]), (self.user_end, None), (self.opening, None),
                           (target, sides[1]), (self.ending, None)):
            borders += [len(text) + end for end in ends or [len(part)]]
            text += part
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        counts, unit = [0] * len(borders), 0
        for (start, end), token in zip(encoded["offset_mapping"], encoded["input_ids"]):
            while end > borders[unit]:
                unit += 1
            begin = borders[unit - 1] if unit else 0
            inside = text[start:end]
            if start < begin and inside[: begin - start].strip():
                piece = self.tokenizer.convert_ids_to_tokens(token)
                raise ValueError(f"token {piece!r} lies in two units of {text[max(0, start - 20) : end + 10]!r}: this "
                                 "tokenizer joins units or template and text; use another template or split")
            counts[unit] += 1
        n_source = len(sides[0]) + 2
        source_units, target_units = counts[:n_source], counts[n_source:]
        ids = encoded["input_ids"]
        surplus = target_units[-1] - 1  # what the template puts behind the token that ends the turn
        ids = ids[: len(ids) - surplus]
        target_units[-1] = 1
        end = sum(source_units)
        if ids[-1] != self.stop or min(counts) < 1:
            raise ValueError(f"the template and {source[:40]!r} do not tokenise into whole units: {counts}")
        return Example(torch.tensor(ids[:end]), tuple(source_units), torch.tensor(ids[end:]), tuple(target_units),
                       text=as_written[0], reference=as_written[1])

    # -- for a live stream -----------------------------------------------------------------------
    def ids(self, text: str) -> list[int]:
        """Token ids of a part of the template as they stand in a whole text, or of any other text alone.

        Behind a text, since a tokenizer may treat the beginning of what it is given apart (SentencePiece puts a blank there).
        """
        if text == self.opening:
            return self._behind(self.prefix + "a" + self.user_end, text)
        return self._behind(self.prefix + "a", text) if text == self.user_end else self._alone(text)

    def units(self, source: Iterable[str], blank: str = " ") -> Iterator[list[int]]:
        """Token ids of the instruction, then of every unit as it comes: those that `example` has for the whole text, which is
        asserted here before the first, for a probe, and for every unit while it comes. source: words or sentences, without blanks
        around them. blank: what stands between units, "" for characters (`parts_of`) of a script without blanks.

        Raises ValueError for a tokenizer that joins or changes what it is given in parts.
        """
        self.check_live()
        yield self._alone(self.prefix)
        before = ""
        for unit in source:
            unit = one_blank(unit)
            yield self._behind(before, blank + unit) if before else self._behind(self.prefix, unit)
            before = unit

    def check_live(self) -> None:
        """Asserts that a text fed in parts is, token by token, the text that `example` gives to training. Raises ValueError."""
        words = "It is a small, black dog.".split()
        whole = self.example(" ".join(words), "a")
        fed = [self._alone(self.prefix), self._behind(self.prefix, words[0])]
        fed += [self._behind(a, f" {b}") for a, b in zip(words, words[1:])] + [self.ids(self.user_end)]
        parts = torch.split(whole.source, list(whole.source_units))
        opening = whole.target[: whole.target_units[0]].tolist()
        if fed != [part.tolist() for part in parts] or self.ids(self.opening) != opening:
            show = self.tokenizer.convert_ids_to_tokens
            pairs = [*zip(fed, (part.tolist() for part in parts)), (self.ids(self.opening), opening)]
            one, other = next((a, b) for a, b in pairs if a != b)
            raise ValueError(f"a live stream would be fed {show(one)} where training saw {show(other)}: the tokenizer or its template "
                             "treats a text's parts otherwise than the whole; use another template")

    def _alone(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _behind(self, before: str, text: str) -> list[int]:
        """Ids of `text` inside `before + text`."""
        whole, head = self._alone(before + text), self._alone(before)
        if whole[: len(head)] != head:
            raise ValueError(f"the tokenizer joins {text.strip()!r} with the word before it")
        return whole[len(head) :]


def _beginning(tokenizer) -> str:
    """What the tokenizer puts before every text (a BOS), as text: the model has never seen one without. Raises ValueError if its text
    is not read as that token."""
    ids, alone = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    begins: list[int] = next((ids[:i] for i in range(len(ids)) if ids[i : i + len(alone)] == alone), [])
    text = "".join(tokenizer.convert_ids_to_tokens(begins))
    if begins and tokenizer(text, add_special_tokens=False)["input_ids"][: len(begins)] != begins:
        raise ValueError(f"the tokenizer begins every text with {text!r} and does not read that as a token of its own: mark it as special")
    return text


def _checked(text: str, ends: Sequence[int]) -> list[int]:
    """The ends of a text's units, the last one moved behind the blanks that follow it."""
    ends = list(ends)
    if not ends or any(b <= a for a, b in zip([0, *ends], ends)) or ends[-1] > len(text) or text[ends[-1] :].strip():
        raise ValueError(f"units that end at {ends} do not cut {text[:40]!r} ({len(text)} characters) into whole parts: ends must "
                         "rise, from above 0 to the end of the text")
    return [*ends[:-1], len(text)]
