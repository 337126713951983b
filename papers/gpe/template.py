"""A sentence pair as units of tokens, under the tokenizer's own chat template.

    u_0  system turn and the user's header      u_1 .. u_n  source words      u_{n+1}  end of the user's turn
    v_0  the assistant's header                 v_1 .. v_m  target words      v_{m+1}  the token that ends it

The whole text is tokenised once and every token is given to the unit that its last character lies in; a token that
would belong to two units is an error, not a slip of all masks behind it (the official code tokenises words alone and
never compares). A word is what stands between blanks, with its punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .segments import Example

SOURCE_MARK, TARGET_MARK = "\u2983source\u2984", "\u2983target\u2984"  # in no text and no template


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
            return Template(tokenizer, f"{instruction}\n", "\n", ">", tokenizer.eos_token, tokenizer.eos_token_id)

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

    def example(self, source: str, target: str) -> Example:
        """Raises ValueError for an empty side, or naming a token that lies in two units."""
        if not source.strip() or not target.strip():
            raise ValueError(f"an empty side: {source!r}, {target!r}")
        text, borders = "", []  # end of each unit, in characters
        for part, words in ((self.prefix, False), (source, True), (self.user_end, False), (self.opening, False),
                            (target, True), (self.ending, False)):
            ends = [m.end() for m in re.finditer(r"\S+", part)] if words else [len(part)]
            if words:
                ends[-1] = len(part)  # blanks at the end stay with the last word
            borders += [len(text) + end for end in ends]
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
                                 "tokenizer joins words or template and text; use another template")
            counts[unit] += 1
        n_source = len(re.findall(r"\S+", source)) + 2
        source_units, target_units = counts[:n_source], counts[n_source:]
        ids = encoded["input_ids"]
        surplus = target_units[-1] - 1  # what the template puts behind the token that ends the turn
        ids = ids[: len(ids) - surplus]
        target_units[-1] = 1
        split = sum(source_units)
        if ids[-1] != self.stop or min(counts) < 1:
            raise ValueError(f"the template and {source[:40]!r} do not tokenise into whole units: {counts}")
        return Example(torch.tensor(ids[:split]), tuple(source_units), torch.tensor(ids[split:]), tuple(target_units),
                       text=source, reference=target)

    # -- for a live stream -----------------------------------------------------------------------
    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def units(self, words: Iterable[str]) -> Iterator[list[int]]:
        """The instruction, then every word as it comes, as token ids: equal to cutting the whole text."""
        yield self.ids(self.prefix)
        for i, word in enumerate(words):
            yield self.ids(word) if i == 0 else self._after_blank(word)

    def _after_blank(self, word: str) -> list[int]:
        """Ids of " word" inside a text. Tokenised behind a word, since some tokenizers treat the first one apart."""
        whole, head = self.ids(f"a {word}"), self.ids("a")
        if whole[: len(head)] != head:
            raise ValueError(f"the tokenizer joins {word!r} with the word before it")
        return whole[len(head) :]
