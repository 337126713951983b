"""Stories told a sentence at a time, and a thought for each sentence: what a model that thinks while it reads has to write.

    segment            sentence                      unit of thought                         kind
    #0                 total ann bob ?               total Ann Bob ;                         question
    #1                 ann has 3 .                   Ann 3 ;                                 init
    #2                 dan has 8 .                   skip ;                                  skip (nobody asks for dan)
    #3                 ann buys 4 .                  Ann 3 + 4 : Ann 7 ;                     update
    #4                 bob has 1 .                   Bob 1 ;                                 init
    #5                 ann gives 2 bob .             Ann 7 - 2 : Ann 5 Bob 1 + 2 : Bob 3 ;   give

Every segment and unit begins with its line number; numbers are modulo 10. A unit needs its sentence and the last unit about the same
person, whose value stands behind the name: "last Ann, take what follows". After the last sentence the answer, in three depths:

    D1  A 8                                     at once
    D2  Ann 5 Bob 3 : 5 + 3 = 8 A 8             the notes gathered, then the sum
    D3  ... = 8 wait Bob 3 Ann 5 : 3 + 5 = 8 A 8    and the sum once more in another order

`order="context"` tells the question last; then only hats can be skipped, so only they are told beside what counts. `ahead`: "ann has
2 more bob ." may come before bob's number does, so that a right unit can only note it: `Ann Bob + 2 ;`. Two more tasks in the same
words: `rules` (facts and if-then sentences; is it true, false or unknown?) and `places` (many sentences of which two matter). All
follow from (seed, split, number).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

BOS, END, PAD, THINK = "<bos>", "<eos>", "<pad>", "<think>"
QUESTION, SENTENCE, UNIT, ANSWER, WAIT, SKIP = "?", ".", ";", "A", "wait", "skip"
CUES = ("<d1>", "<d2>", "<d3>")
PEOPLE = ("ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal")
NOTES = tuple(name.capitalize() for name in PEOPLE)
DIGITS, LINES = tuple("0123456789"), tuple(f"#{i}" for i in range(25))
GAINS, LOSSES = ("buys", "finds"), ("eats", "sells")
QUALITIES = ("red", "tall", "kind", "calm", "wise", "bold", "shy", "warm")
PLACES = ("park", "shop", "home", "farm", "lake", "pier")
WORDS = (PAD, BOS, END, THINK, QUESTION, SENTENCE, UNIT, ANSWER, WAIT, SKIP, ":", "+", "-", "=", *CUES, *DIGITS, *LINES, *PEOPLE, *NOTES,
         "total", "has", "gives", "more", "wears", "hat", "blue", *GAINS, *LOSSES,
         "is", "not", "if", "then", "true", "false", "unknown", *QUALITIES, "where", "meets", "in", *PLACES)
SPLITS = {"train": 0, "val": 1, "test": 2}

Words = tuple[str, ...]


@dataclass(frozen=True)
class Level:
    """How hard totals are. sentences, people (asked for): least and most. skip, ahead: share of sentences without use for the
    question, and that name a person whose number comes next. give: share of transfers among what changes a number."""

    sentences: tuple[int, int] = (3, 7)
    people: tuple[int, int] = (2, 3)
    skip: float = 0.12
    ahead: float = 0.0
    give: float = 0.3


TEST = Level(sentences=(4, 7))


@dataclass(frozen=True)
class Story:
    """source, units: segments, a unit for each, with line number and end mark. deep: what follows the cue of D1, D2, D3, <eos>
    included. kinds: of each unit. order: "question" (first) or "context" (first)."""

    source: tuple[Words, ...]
    units: tuple[Words, ...]
    deep: tuple[Words, Words, Words]
    answer: str
    kinds: tuple[str, ...]
    order: str = "question"

    @property
    def words(self) -> tuple[int, ...]:
        """Words of each segment."""
        return tuple(map(len, self.source))


# -- totals ------------------------------------------------------------------------------------------------
def totals(number: int, split: str = "test", seed: int = 0, level: Level = TEST, order: str = "question") -> Story:
    """Story `number` of a split."""
    if order not in ("question", "context"):
        raise ValueError(f"order {order!r}: question or context")
    draw = np.random.default_rng([seed, SPLITS[split], number])
    n = int(draw.integers(level.sentences[0], level.sentences[1] + 1))
    asked_for = int(draw.integers(level.people[0], min(level.people[1], n) + 1))
    names = [int(i) for i in draw.permutation(len(PEOPLE))]
    asked, others = names[:asked_for], names[asked_for : asked_for + 2]
    told: list[tuple[Words, Words, str]] = []  # sentence, unit, kind; without line numbers and end marks
    state: dict[int, int] = {}
    pending: dict[int, tuple[int, int]] = {}  # who has so many more than whom
    waiting = list(asked)
    while len(told) < n:
        left = n - len(told)
        if left > len(waiting) and draw.random() < level.skip:
            told.append(_distractor(draw, others, state, order))
        elif level.ahead and left >= 2 and len(waiting) >= 2 and draw.random() < level.ahead:
            who, whom, d, v = waiting.pop(0), waiting.pop(0), int(draw.integers(1, 10)), int(draw.integers(10))
            told.append(((PEOPLE[who], "has", str(d), "more", PEOPLE[whom]), (NOTES[who], NOTES[whom], "+", str(d)), "ahead"))
            told.append(((PEOPLE[whom], "has", str(v)), (NOTES[whom], str(v)), "init"))
            pending[who], state[whom] = (whom, d), v
        elif waiting and (left <= len(waiting) or not state or draw.random() < 0.5):
            who, v = waiting.pop(0), int(draw.integers(10))
            state[who] = v
            told.append(((PEOPLE[who], "has", str(v)), (NOTES[who], str(v)), "init"))
        else:
            told.append(_change(draw, level, state, [p for p in state if p in asked and p not in [w for w, _ in pending.values()]],
                                others, order))
    question = (("total", *(PEOPLE[p] for p in asked)), ("total", *(NOTES[p] for p in asked)), "question")
    resolved = {who: (state[whom] + d) % 10 for who, (whom, d) in pending.items()}
    deep = _sum_up(asked, state | resolved, {who: (state[whom], d, whom) for who, (whom, d) in pending.items()})
    return _story(question, told, deep, str(sum((state | resolved)[p] for p in asked) % 10), order)


def _distractor(draw, others: Sequence[int], state: dict[int, int], order: str) -> tuple[Words, Words, str]:
    who = int(others[int(draw.integers(len(others)))])
    if order == "context" or draw.random() < 0.5:
        return (PEOPLE[who], "wears", ("red", "blue")[int(draw.integers(2))], "hat"), (SKIP,), "skip"
    return (PEOPLE[who], "has", str(int(draw.integers(10)))), (SKIP,), "skip"


def _change(draw, level: Level, state: dict[int, int], free: Sequence[int], others: Sequence[int],
            order: str) -> tuple[Words, Words, str]:
    """A number goes up, down, or from one to another; state follows. Somebody must have a number already."""
    if not free:
        return _distractor(draw, others, state, order)
    who, d = int(free[int(draw.integers(len(free)))]), int(draw.integers(1, 10))
    givers = [p for p in free if p != who]
    if givers and draw.random() < level.give:
        whom = int(givers[int(draw.integers(len(givers)))])
        unit = (*_computed(who, "-", d, state), *_computed(whom, "+", d, state))
        return (PEOPLE[who], "gives", str(d), PEOPLE[whom]), unit, "give"
    sign = "+-"[int(draw.integers(2))]
    verb = (GAINS if sign == "+" else LOSSES)[int(draw.integers(2))]
    return (PEOPLE[who], verb, str(d)), _computed(who, sign, d, state), "update"


def _computed(who: int, sign: str, d: int, state: dict[int, int]) -> Words:
    old = state[who]
    state[who] = (old + d if sign == "+" else old - d) % 10
    return (NOTES[who], str(old), sign, str(d), ":", NOTES[who], str(state[who]))


def _sum_up(asked: Sequence[int], values: dict[int, int], pending: dict[int, tuple[int, int, int]]) -> tuple[Words, Words, Words]:
    def gathered(people: Sequence[int], first: bool) -> Words:
        words: list[str] = []
        for p in people:
            if first and p in pending:
                old, d, whom = pending[p]
                words += [NOTES[whom], str(old), "+", str(d), ":"]
            words += [NOTES[p], str(values[p])]
        words += [":", str(values[people[0]])]
        total = values[people[0]]
        for p in people[1:]:
            total = (total + values[p]) % 10
            words += ["+", str(values[p]), "=", str(total)]
        return tuple(words)

    answer = (ANSWER, str(sum(values[p] for p in asked) % 10), END)
    once = gathered(asked, True)
    return answer, (*once, *answer), (*once, WAIT, *gathered(asked[::-1], False), *answer)


def _story(question: tuple, told: Sequence[tuple], deep: tuple[Words, Words, Words], answer: str, order: str) -> Story:
    rows = [question, *told] if order == "question" else [*told, question]
    source = tuple((LINES[i], *sentence, QUESTION if kind == "question" else SENTENCE) for i, (sentence, _, kind) in enumerate(rows))
    units = tuple((LINES[i], *unit, UNIT) for i, (_, unit, _) in enumerate(rows))
    return Story(source, units, deep, answer, tuple(kind for *_, kind in rows), order)


# -- facts and rules ---------------------------------------------------------------------------------------
def rules(number: int, split: str = "test", seed: int = 0, sentences: tuple[int, int] = (4, 7)) -> Story:
    """Is a person of a quality? Facts ("ann is red", "ann is not shy") and rules ("if red then tall"), forward chaining, open world.

    A unit notes what is new: a fact about the person, with all that follows from it by rules told so far, in the order in which it
    follows; a rule, with what it adds; a sentence about somebody else is skipped. D2 repeats the facts that are known.
    """
    draw = np.random.default_rng([seed, SPLITS[split], number, 7])
    n = int(draw.integers(sentences[0], sentences[1] + 1))
    who, other = (int(i) for i in draw.permutation(len(PEOPLE))[:2])
    qualities = [QUALITIES[i] for i in draw.permutation(len(QUALITIES))[:5]]
    wanted = ("true", "false", "unknown")[int(draw.integers(3))]
    goal = qualities[-1]
    chain = qualities[: int(draw.integers(1, 3))] + [goal]  # a fact, perhaps a middle, then the goal
    needed = [("is", who, chain[0], True)] + [("if", a, b, not (wanted == "false" and b == goal)) for a, b in zip(chain, chain[1:])]
    if wanted == "unknown":
        needed = needed[1:]
    fill = [("is", other, str(draw.choice(qualities)), bool(draw.random() < 0.7)) if draw.random() < 0.6
            else ("is", who, qualities[2 + int(draw.integers(2))], bool(draw.random() < 0.7)) for _ in range(n - len(needed))]
    known: dict[str, bool] = {}
    seen: list[tuple[str, str, bool]] = []
    told = []
    settled = dict.fromkeys([q for kind, p, q, _ in needed if kind == "is"], True)
    for kind, a, b, yes in (([*needed, *fill])[i] for i in draw.permutation(n)):
        if kind == "is":
            if a == who and b in settled and known.get(b, settled[b]) != yes:
                yes = settled[b]
            if a == who:
                settled.setdefault(b, yes)
                yes = settled[b]
            sentence = (PEOPLE[a], "is", *(() if yes else ("not",)), b)
            new = [] if a != who or b in known else _follow(b, yes, known, seen)
            told.append((sentence, _facts(who, new), "fact" if new else "skip"))
        else:
            seen.append((a, b, yes))
            new = _follow(b, yes, known, seen) if known.get(a) is True and b not in known else []
            rule = ("if", a, "then", *(() if yes else ("not",)), b)
            told.append((rule, (*rule, ":", *_facts(who, new)) if new else rule, "rule"))
    question = (("is", PEOPLE[who], goal), ("is", NOTES[who], goal), "question")
    answer = {True: "true", False: "false", None: "unknown"}[known.get(goal)]
    gathered = (*(w for q, yes in known.items() for w in _facts(who, [(q, yes)])), ":", goal)
    end = (ANSWER, answer, END)
    return _story(question, told, (end, (*gathered, *end), (*gathered, WAIT, *gathered, *end)), answer, "question")


def _follow(quality: str, yes: bool, known: dict[str, bool], rules_seen: Sequence[tuple[str, str, bool]]) -> list[tuple[str, bool]]:
    """What is new when a quality becomes known: itself, then what rules add; known follows."""
    known[quality] = yes
    new = [(quality, yes)]
    for a, b, value in rules_seen:
        if yes and a == quality and b not in known:
            new += _follow(b, value, known, rules_seen)
    return new


def _facts(who: int, facts: Sequence[tuple[str, bool]]) -> Words:
    return tuple(w for q, yes in facts for w in (NOTES[who], *(() if yes else ("not",)), q)) or (SKIP,)


# -- much to read, little of use ---------------------------------------------------------------------------
def places(number: int, split: str = "test", seed: int = 0, sentences: int = 20, order: str = "question") -> Story:
    """Where is a person? Two of many sentences matter: whom the person meets, and then where that one is. With the question first
    the rest is skipped; with the context first everything that could matter is noted."""
    draw = np.random.default_rng([seed, SPLITS[split], number, 9])
    who, whom, *others = (int(i) for i in draw.permutation(len(PEOPLE)))
    first, second = sorted(int(i) for i in draw.permutation(sentences)[:2])
    place = PLACES[int(draw.integers(len(PLACES)))]
    told: list[tuple[Words, Words, str]] = []
    for i in range(sentences):
        if i == first:
            told.append(((PEOPLE[who], "meets", PEOPLE[whom]), (NOTES[who], "meets", NOTES[whom]), "fact"))
        elif i == second:
            told.append(((PEOPLE[whom], "is", "in", place), (NOTES[whom], place, ":", NOTES[who], place), "fact"))
        else:
            other = int(others[int(draw.integers(len(others)))])
            if draw.random() < 0.5:
                told.append(((PEOPLE[other], "wears", ("red", "blue")[int(draw.integers(2))], "hat"), (SKIP,), "skip"))
            else:
                where = PLACES[int(draw.integers(len(PLACES)))]
                unit: Words = (SKIP,) if order == "question" else (NOTES[other], where)
                told.append(((PEOPLE[other], "is", "in", where), unit, "skip" if order == "question" else "fact"))
    question = (("where", PEOPLE[who]), ("where", NOTES[who]), "question")
    end = (ANSWER, place, END)
    gathered = (NOTES[who], "meets", NOTES[whom], NOTES[whom], place)
    return _story(question, told, (end, (*gathered, *end), (*gathered, WAIT, NOTES[whom], place, *end)), place, order)


TASKS = {"totals": totals, "rules": rules, "places": places}


# -- in tokens ---------------------------------------------------------------------------------------------
INDEX = {word: i for i, word in enumerate(WORDS)}


def ids(words: Sequence[str]) -> list[int]:
    return [INDEX[word] for word in words]


def with_units_of(story: Story, other: Story) -> Story:
    """The story with another story's thoughts, as many as there are sentences: what a placebo reads."""
    fitted = [other.units[i % len(other.units)] for i in range(len(story.source))]
    return replace(story, units=tuple((LINES[i], *unit[1:]) for i, unit in enumerate(fitted)))


def tokenizer():
    """One token a word, in hub format."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel(dict(INDEX), unk_token=PAD))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BOS, eos_token=END, pad_token=PAD, unk_token=PAD)
