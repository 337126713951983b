"""Structure in token ids: for the small models of stories, and for any chat model with the paper's special tokens.

The paper's tokens (3.1): <EOS> ends a sentence, <EOQ> a question, <EOT> a unit of thought, <EOR> the reasoning; <Skip> is a unit
without content. They are added to the tokenizer; a model whose embedding has no free rows for them is refused. Text of a user is
encoded with special tokens split into letters, so that nobody ends a thought by writing <EOT>.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.data import stories
from common.errors import ModelError
from common.streaming.units import Template

from .method import Segments
from .reasoner import BadInput, Tokens

SPECIAL = ("<EOS>", "<EOQ>", "<EOT>", "<EOR>", "<Skip>")
CUES = {1: "I answer directly.", 2: "Now I think about it as a whole.", 3: "Now I think about it as a whole, and check it again."}
INSTRUCTION = ("You think while you read. After each sentence, which ends with <EOS>, and after the question, which ends with <EOQ>, "
               "write one short unit of reasoning that ends with <EOT>: what the sentence tells, or what follows from it and from your "
               "notes; <Skip> where it does not matter. When you have read all of it, think once more as a whole, end with <EOR>, and "
               "give the answer in \\boxed{}.")
WHOLE = ("Read the text and the question to their end, think step by step, end the reasoning with <EOR>, and give the answer in "
         "\\boxed{}.")
WHOLE_CUES = {1: "So the answer is:"}


# -- stories -----------------------------------------------------------------------------------------------
def of_stories() -> Tokens:
    """Of the stand-ins: a word is a token, `;` ends a unit, A comes before the answer."""
    def one(word: str) -> tuple[int, ...]:
        return (stories.INDEX[word],)

    unit = stories.INDEX[stories.UNIT]
    return Tokens(one(stories.BOS), one(stories.THINK), frozenset({unit}), unit, {d: one(cue) for d, cue in enumerate(stories.CUES, 1)},
                  stories.INDEX[stories.ANSWER], stories.INDEX[stories.END],
                  frozenset(map(stories.INDEX.get, (stories.BOS, stories.END, stories.PAD, stories.THINK, stories.UNIT, stories.ANSWER,
                                                    stories.QUESTION, stories.SENTENCE, *stories.CUES))))


def segments_of(story: stories.Story, depth: int) -> Segments:
    """A story as the method takes it."""
    deep = (stories.CUES[depth - 1], *story.deep[depth - 1])
    return Segments.of([stories.ids((stories.BOS,)), *map(stories.ids, story.source)],
                       [stories.ids((stories.THINK,)), *map(stories.ids, story.units), stories.ids(deep)], forced=1)


def story_segment(text: str, number: int) -> tuple[list[int], list[str]]:
    """(ids of a live sentence, words left out because a model of stories does not know them). Raises BadInput where none is known."""
    asked = text.rstrip().endswith("?")
    words = [w for w in text.lower().replace("?", " ").replace(".", " ").replace(",", " ").replace("!", " ").split() if w != "and"]
    known = [w for w in words if w in stories.INDEX]
    if not known:
        raise BadInput(f"no word of {text!r} is known to a model of stories; it knows {', '.join(stories.PEOPLE)}, total, has, gives, "
                       f"{', '.join((*stories.GAINS, *stories.LOSSES))} and digits")
    if number >= len(stories.LINES):
        raise BadInput(f"a story has {len(stories.LINES)} sentences at most")
    ended = stories.QUESTION if asked else stories.SENTENCE
    return stories.ids((stories.LINES[number], *known, ended)), [w for w in words if w not in known]


# -- chat models -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Chat:
    """A tokenizer with the paper's tokens under its own chat template. cues: {depth: text}."""

    tokenizer: Any
    template: Template
    cues: dict[int, str]

    @staticmethod
    def of(tokenizer, rows: int, instruction: str = INSTRUCTION, cues: dict[int, str] | None = None) -> Chat:
        """Adds the tokens. rows: of the model's embedding. Raises ModelError where they do not fit into it, or are not one token each."""
        tokenizer.add_tokens([t for t in SPECIAL if t not in tokenizer.get_vocab()], special_tokens=True)
        ids = [tokenizer.encode(token, add_special_tokens=False) for token in SPECIAL]
        if odd := [token for token, of in zip(SPECIAL, ids) if len(of) != 1]:
            raise ModelError(f"the tokenizer cuts {odd[0]} into {len(ids[SPECIAL.index(odd[0])])} tokens: it must be one")
        if (most := max(of[0] for of in ids)) >= rows:
            raise ModelError(f"token {most} of {', '.join(SPECIAL)} has no row in an embedding of {rows}: resize it first "
                             "(model.resize_token_embeddings), and keep it resized")
        return Chat(tokenizer, Template.of(tokenizer, instruction), cues or CUES)

    def id(self, token: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(token)

    def plain(self, text: str) -> list[int]:
        """Ids of a user's text, in which special tokens are letters."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def tokens(self) -> Tokens:
        t = self.template
        return Tokens(tuple(t.ids(t.prefix)), tuple(t.ids(t.opening)), frozenset({self.id("<EOT>"), self.id("<EOQ>")}), self.id("<EOT>"),
                      {depth: tuple(self.plain(text)) for depth, text in self.cues.items()}, self.id("<EOR>"), t.stop,
                      frozenset({*map(self.id, SPECIAL), *self.tokenizer.all_special_ids}), tuple(t.ids(t.user_end)))

    def segment(self, text: str, question: bool = False) -> list[int]:
        return [*self.plain(text), self.id("<EOQ>" if question else "<EOS>")]

    def sample(self, source: Sequence[str], units: Sequence[str], deep: str, answer: str, depth: int, question: int = 0) -> Segments:
        """source: question and sentences, in the order in which they come; question: which is the question. units: a thought for each;
        the empty one is <Skip>. What ends the user's turn is a segment of its own (README, D3)."""
        t = self.template
        segments = [self.segment(text, i == question) for i, text in enumerate(source)]
        thoughts = [[*(self.plain(unit) if unit else [self.id("<Skip>")]), self.id("<EOQ>" if i == question else "<EOT>")]
                    for i, unit in enumerate(units)]
        cue = self.plain(self.cues[depth])
        last = [*cue, *(self.plain(f" {deep}") if deep else []), self.id("<EOR>"), *self.plain(f" \\boxed{{{answer}}}"), *t.ids(t.ending)]
        return Segments.of([t.ids(t.prefix), *segments, t.ids(t.user_end)], [t.ids(t.opening), *thoughts, last], forced=len(cue),
                           closed=True, answer=answer)
