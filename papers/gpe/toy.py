"""A generated pair of languages in which waiting pays: "toy English" into "toy French" (spec 8.1).

    source    DET (ADJ) NOUN [not] VERB DET (ADJ) NOUN           one or two clauses, joined by "and" or "but"
    target    DET' NOUN' (ADJ') [ne] VERB' [pas] DET' NOUN' (ADJ')

Why a short-sighted translator fails: the noun comes before its adjective in the target and after it in the source, and
DET', ADJ' agree with the noun's gender, so a word may need two or three words of look-ahead. ne ... pas makes the
target longer than the source. Words repeat, so that content alone does not align them. Half of the source stems, and
all adjectives and verbs of the target, are two tokens, so that counting tokens for words shows.

A language is drawn from its seed: spelling, genders, which stems are two tokens. Tokens are word pieces ("##" goes on
inside a word), in an ordinary tokenizer of the hub's format.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

PAD, SOURCE, SOURCE_END, TARGET, TARGET_END, UNKNOWN = "<pad>", "<source>", "</source>", "<target>", "</target>", "<unk>"
SPECIAL = [PAD, SOURCE, SOURCE_END, TARGET, TARGET_END, UNKNOWN]
NOUNS, ADJECTIVES, VERBS = 24, 16, 16
CHAT = ("{% for turn in messages %}{% if turn['role'] == 'user' %}<source> {{ turn['content'] }} </source> "
        "{% elif turn['role'] == 'assistant' %}<target> {{ turn['content'] }} </target>{% endif %}{% endfor %}")
TWO_CLAUSES, ADJECTIVE, NEGATION = 0.5, 0.5, 0.3  # probabilities
# Of the small models that learn these languages, and of those that recognise spoken words.
CONFIG = dict(model_type="llama", hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=2048, bos_token_id=None,
              eos_token_id=None, pad_token_id=None)
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


@dataclass(frozen=True)
class Recipe:
    """How a committed small model was trained. steps: of `batch` sentences or utterances each; test: unseen ones that are scored."""

    steps: int
    batch: int
    test: int


@dataclass(frozen=True)
class Language:
    """Lexicon of one language pair. `source` and `target` map a meaning to its pieces; `gender` a noun to 0 or 1."""

    seed: int
    source: dict[str, tuple[str, ...]]
    target: dict[str, tuple[str, ...]]
    gender: tuple[int, ...]

    @staticmethod
    def draw(seed: int) -> Language:
        rng = random.Random(f"toy language {seed}")
        used: set[str] = set()

        def word(n: int) -> str:
            while (new := "".join(rng.sample(SYLLABLES, n))) in used:
                pass
            used.add(new)
            return new

        stems = [f"{kind}{i}" for kind, n in (("noun", NOUNS), ("adj", ADJECTIVES), ("verb", VERBS)) for i in range(n)]
        two = set(rng.sample(stems, len(stems) // 2))
        source = {s: (word(2), "##" + word(1)) if s in two else (word(2),) for s in stems}
        source |= {s: (s,) for s in ("the", "some", "not", "and", "but")}
        # Function words and endings of the target are in capitals: no spelling is in both languages.
        target = {f"noun{i}": (word(3),) for i in range(NOUNS)}
        for i in range(ADJECTIVES):
            stem = word(3)
            target |= {f"adj{i}/{g}": (stem, f"##{'EA'[g]}") for g in (0, 1)}
        for i in range(VERBS):
            stem = word(3)
            target |= {f"verb{i}/{n}": (stem, f"##{'TN'[n]}") for n in (0, 1)}
        target |= {f"det/{n}{g}": (f"{'LD'[n]}{'EA'[g]}",) for n in (0, 1) for g in (0, 1)}
        target |= {"ne": ("NE",), "pas": ("PAS",), "and": ("ET",), "but": ("MAIS",)}
        return Language(seed, source, target, tuple(rng.randrange(2) for _ in range(NOUNS)))

    def pieces(self) -> list[str]:
        """The vocabulary in a fixed order: ids are positions in it."""
        seen = dict.fromkeys(SPECIAL)
        for side in (self.source, self.target):
            for parts in side.values():
                seen |= dict.fromkeys(parts)
        return list(seen)

    def word_ends(self) -> Tensor:
        """Boolean (vocabulary,): True for a piece that is always the last of its word, so that an end needs no look-ahead."""
        goes_on = {parts[0] for side in (self.source, self.target) for parts in side.values() if len(parts) > 1}
        return torch.tensor([piece not in goes_on for piece in self.pieces()])

    def sentence(self, number: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        """Sentence `number` of the language's endless text: (source words, target words), each word its pieces."""
        rng = random.Random(f"{self.seed}/{number}")
        source: list[str] = []
        target: list[str] = []

        def phrase() -> int:
            plural, noun = rng.randrange(2), rng.randrange(NOUNS)
            gender = self.gender[noun]
            source.append(("the", "some")[plural])
            target.extend([f"det/{plural}{gender}", f"noun{noun}"])
            if rng.random() < ADJECTIVE:
                adjective = rng.randrange(ADJECTIVES)
                source.append(f"adj{adjective}")
                target.append(f"adj{adjective}/{gender}")
            source.append(f"noun{noun}")
            return plural

        for clause in range(1 + (rng.random() < TWO_CLAUSES)):
            if clause:
                joint = rng.choice(("and", "but"))
                source.append(joint)
                target.append(joint)
            plural, verb, negated = phrase(), rng.randrange(VERBS), rng.random() < NEGATION
            source.extend(["not"] * negated + [f"verb{verb}"])
            target.extend(["ne"] * negated + [f"verb{verb}/{plural}"] + ["pas"] * negated)
            phrase()
        return [self.source[w] for w in source], [self.target[w] for w in target]

    def unseen(self, count: int, first: int, learnt: Iterable[int]) -> list[int]:
        """Numbers from `first` on of `count` sentences that are none of those numbered `learnt`, and each another one.

        Other numbers are not yet other sentences: one of two clauses is hardly ever drawn twice, but a short one is.
        """
        return unseen(lambda number: spell(self.sentence(number)[0]), count, first, learnt)

    def tokenizer(self):
        """A transformers tokenizer of these pieces; save_pretrained writes it in the hub's format."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        vocabulary = {piece: i for i, piece in enumerate(self.pieces())}
        inner = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        inner.decoder = decoders.WordPiece()
        return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, unk_token=UNKNOWN, bos_token=SOURCE,
                                       eos_token=TARGET_END, chat_template=CHAT,
                                       additional_special_tokens=[SOURCE_END, TARGET])


def unseen(text: Callable[[int], str], count: int, first: int, learnt: Iterable[int]) -> list[int]:
    """The first `count` numbers from `first` on whose text is that of no number in `learnt`, and of none before them here."""
    seen, found, number = {text(n) for n in learnt}, [], first
    while len(found) < count:
        if (new := text(number)) not in seen:
            seen.add(new)
            found.append(number)
        number += 1
    return found


def spell(words: list[tuple[str, ...]]) -> str:
    """Words as text: pieces joined, blanks between words."""
    return " ".join("".join(piece.removeprefix("##") for piece in word) for word in words)


def write_text(folder: Path, language: Language, count: int, first: int = 0) -> tuple[Path, Path]:
    """`count` sentences as two line-aligned files, source.txt and target.txt."""
    pairs = [language.sentence(first + i) for i in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "source.txt", folder / "target.txt"
    for side, path in enumerate(files):
        path.write_text("".join(spell(pair[side]) + "\n" for pair in pairs), encoding="utf-8")
    return files
