"""Sentence pairs as training batches: generated, from files, from the hub, or spoken.

    ToyPairs       the generated languages of toy.py, the default (seconds)
    TextPairs      two line-aligned text files, e.g. Multi30k, or a hub data set of translations, e.g. IWSLT-17
    SpokenWords    synthesised or recorded words: the source is audio
All cut both sides into units (common/streaming/units.py) and draw a wait-k for every example, a function of (seed, place in the
stream): the same whatever the batch, the devices, or a restart. What comes of it: common/training/steps.py.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from common.data.apart import apart
from common.errors import DataError, SetupError
from common.seeds import seed_of
from common.streaming.units import Example
from common.training.steps import StepData

from .segments import Batch
from .toy import SOURCE, SOURCE_END, TARGET, TARGET_END, Language, spell, unseen


class Pairs:
    """Examples as the rows of common/training/steps.py. collate: makes a micro-batch of them, see StreamData.

    by_word: a row for every target word of every example, of which that word alone is scored (KV re-encoding, whose
    decoder sees another context at each word).
    """

    def __init__(self, examples: Sequence[Example], collate: Callable, by_word: bool = False):
        self.examples, self.collate, self.words = examples, collate, None
        which = np.arange(len(examples))
        scored = np.array([len(e.target) - e.target_units[0] for e in examples], dtype=np.int64)
        if by_word:
            units = [(i, u) for i, e in enumerate(examples) for u in range(1, len(e.target_units))]
            which, self.words = (np.array(column, dtype=np.int64) for column in zip(*units))
            scored = np.array([examples[i].target_units[u] for i, u in units], dtype=np.int64)
        tokens = np.array([len(e.source) + len(e.target) for e in examples], dtype=np.int64)
        self.which = which
        self.counts = {"step_tokens": tokens[which], "step_targets": scored}

    def __getitem__(self, row: int) -> tuple[Example, int]:
        return self.examples[self.which[row]], int(self.words[row]) if self.words is not None else 0

    @staticmethod
    def blank(micro: dict) -> dict:
        """A micro-batch that counts nowhere, for a rank that has run out of validation examples."""
        micro["batch"].scored.zero_()
        return micro


class StreamData(StepData):
    """Common part. ks: wait-k values, one drawn for each example; null stands for "everything first" (batch processing).

    Subclasses define `examples()`: (training, validation).
    """

    def __init__(self, ks: list[int | None], batch_size: int = 32, seed: int = 1, num_workers: int = 0):
        super().__init__(batch_size, seed, num_workers)
        if not ks or any(k is not None and k < 1 for k in ks):
            raise ValueError(f"data.ks: {ks}; give one wait-k or more, each at least 1 or null")
        self.ks = ks

    def examples(self) -> tuple[Sequence[Example], Sequence[Example]]:
        raise NotImplementedError

    @property
    def arm(self):
        return getattr(self.trainer.lightning_module, "arm", None)

    def sequences(self) -> tuple[Pairs, Pairs]:
        by_word = self.arm is not None and self.arm.refresh
        train, held = self.examples()
        for name, found in (("training", train), ("validation", held)):
            if not len(found):
                raise SetupError(f"{type(self).__name__}: no {name} sentence pair")
        return Pairs(train, self.collate, by_word), Pairs(held, self.collate, by_word)

    def collate(self, rows: list[tuple[Example, int]], sample_index: list[int], totals: dict[str, int]) -> dict:
        examples, words = zip(*rows)
        ks = [self.ks[seed_of("k", self.seed, index) % len(self.ks)] for index in sample_index]
        return {"batch": Batch.of(examples, ks, self.arm, words), "sample_index": sample_index, **totals}


# -- generated ---------------------------------------------------------------------------------------------
# Numbers of the sentences (and of the utterances) that models learn from, and where those begin that judge them: TEST_FROM of an
# experiment, HELD_FROM of a training. Whoever is scored on the test asks that its sentences be none of LEARNT, as texts (`unseen`).
TUNE_FROM, TEST_FROM, HELD_FROM = 10**6, 2 * 10**6, 10**9
LEARNT = (range(32_000), range(TUNE_FROM, TUNE_FROM + 19_200), range(HELD_FROM, HELD_FROM + 512))


def toy_example(language: Language, ids: dict[str, int], number: int) -> Example:
    """Sentence `number` of the language. ids: its vocabulary."""
    source, target = language.sentence(number)
    words = [[[ids[piece] for piece in word] for word in side] for side in (source, target)]
    return Example.of_units([[ids[SOURCE]], *words[0], [ids[SOURCE_END]]], [[ids[TARGET]], *words[1], [ids[TARGET_END]]],
                            text=spell(source), reference=spell(target))


def toy_examples(language: Language, numbers: Iterable[int]) -> list[Example]:
    ids = {piece: i for i, piece in enumerate(language.pieces())}
    return [toy_example(language, ids, number) for number in numbers]


class ToyPairs(StreamData):
    """Sentences of the language `language` (default: that of the seed).

    first: number of the first training sentence; validation sentences, none of which is trained on, start at 10^9.
    """

    def __init__(self, ks: list[int | None] = (1, 3, 5, 7), train_samples: int = 32_000, val_samples: int = 256,
                 first: int = 0, language: int | None = None, batch_size: int = 32, seed: int = 1, num_workers: int = 0):
        super().__init__(list(ks), batch_size, seed, num_workers)
        self.train_samples, self.val_samples, self.first, self.language = train_samples, val_samples, first, language

    def examples(self) -> tuple[list[Example], list[Example]]:
        language = Language.draw(self.seed if self.language is None else self.language)
        learnt = range(self.first, self.first + self.train_samples)
        return toy_examples(language, learnt), toy_examples(language, language.unseen(self.val_samples, HELD_FROM, learnt))


# -- real text ---------------------------------------------------------------------------------------------
MAY_REFUSE = 0.01  # share of the pairs that may be left out because a token lies in two of their words


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, plain or .gz. Raises SetupError naming a file that is missing or no UTF-8 text."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise SetupError(f"there is no file {path.name} in {path.parent.name or '.'}: data.train and data.validation each "
                         "name two line-aligned text files, source and target (.gz is fine)")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            return [line.strip() for line in file]
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise SetupError(f"{path.name} cannot be read as text: {error}") from error


def read_pairs(source: Path, target: Path) -> list[tuple[str, str]]:
    """Aligned lines of two files, without the pairs that have an empty side. Raises SetupError for unequal lengths."""
    sides = read_lines(source), read_lines(target)
    if len(sides[0]) != len(sides[1]):
        raise SetupError(f"{Path(source).name} has {len(sides[0])} lines and {Path(target).name} {len(sides[1])}: "
                         "they must be aligned line by line")
    return [pair for pair in zip(*sides) if all(pair)]


def hub_pairs(path: str, name: str | None, revision: str | None, split: str, languages: tuple[str, str]) -> list[tuple[str, str]]:
    """Pairs of a hub data set with a column "translation" of {language: text}, as IWSLT-17 has it."""
    from datasets import load_dataset

    try:
        rows = load_dataset(path, name, split=split, revision=revision)["translation"]
    except Exception as error:  # hub, http and dataset errors share no useful base class
        reason = (str(error).splitlines() or [""])[0][:200]
        raise SetupError(f"Cannot get data set {path} ({name}, {split}) from the hub ({type(error).__name__}: {reason}). "
                         "Offline, give data.train and data.validation two line-aligned files each.") from error
    pairs = [tuple(" ".join(row[language].split()) for language in languages) for row in rows]
    return [pair for pair in pairs if all(pair)]


def cut_all(cut: Callable[[str, str], Example], pairs: Sequence[tuple[str, str]]) -> tuple[list[Example], list[str]]:
    """(examples, why each other pair could not be cut): a token across two words in one of 200,000 lines ends no run."""
    from tqdm import tqdm

    examples, refused = [], []
    for pair in tqdm(pairs, "cutting sentence pairs into units", disable=len(pairs) < 20_000):
        try:
            examples.append(cut(*pair))
        except ValueError as error:
            refused.append(str(error))
    return examples, refused


class TextPairs(StreamData):
    """Translation pairs, cut into words under the tokenizer's own chat template.

    train, validation: [source file, target file]; or null, and path, name, revision, languages name a hub data set.
    instruction: the system turn. max_tokens: pairs with more source and target tokens are left out, and their number said.
    So are pairs with a token across two words, as long as they are few (MAY_REFUSE).
    """

    def __init__(self, ks: list[int | None], train: list[str] | None = None, validation: list[str] | None = None,
                 path: str | None = None, name: str | None = None, revision: str | None = None,
                 languages: list[str] = ("en", "fr"), instruction: str = "Translate the following English paragraph to French",
                 max_tokens: int = 512, val_samples: int = 512, batch_size: int = 32, seed: int = 1, num_workers: int = 0):
        super().__init__(ks, batch_size, seed, num_workers)
        self.train, self.validation, self.path, self.name, self.revision = train, validation, path, name, revision
        self.languages, self.instruction = list(languages), instruction
        self.max_tokens, self.val_samples = max_tokens, val_samples
        if (train is None) == (path is None):
            raise ValueError("data: give either train and validation (files) or path (a hub data set)")

    def pairs(self, split: str) -> list[tuple[str, str]]:
        files = self.train if split == "train" else self.validation
        if self.path is None:
            if files is None or len(files) != 2:
                raise SetupError(f"data.{'train' if split == 'train' else 'validation'}: name two files, source and target")
            return read_pairs(*map(Path, files))
        return hub_pairs(self.path, self.name, self.revision, split, tuple(self.languages))

    def prepare_data(self) -> None:
        """Before any model is loaded: a missing file should not cost ten minutes of loading."""
        if self.path is None:
            self.pairs("validation")

    def examples(self) -> tuple[Sequence[Example], Sequence[Example]]:
        from common.streaming.units import Template

        cut, held = Template.of(self.tokenizer(), self.instruction).example, self.pairs("validation")[: self.val_samples]
        return self._cut(cut, apart(self.pairs("train"), held, lambda pair: pair[0].strip())), self._cut(cut, held)

    def _cut(self, cut: Callable[[str, str], Example], pairs: list[tuple[str, str]]) -> list[Example]:
        examples, refused = cut_all(cut, pairs)
        if len(refused) > MAY_REFUSE * len(pairs):
            raise SetupError(f"data: {len(refused)} of {len(pairs)} pairs cannot be cut into words; the first: {refused[0]}")
        kept = [e for e in examples if len(e.source) + len(e.target) <= self.max_tokens]
        for left_out, why in ((len(examples) - len(kept), f"have more than {self.max_tokens} tokens"),
                              (len(refused), f"cannot be cut into words (the first: {refused[:1]})")):
            if left_out:
                print(f"data: {left_out} of {len(pairs)} pairs {why} and are left out", flush=True)
        return kept


# -- speech ------------------------------------------------------------------------------------------------
SPECIAL = (SOURCE, SOURCE_END, TARGET, TARGET_END)  # ids 0 .. 3; words follow in alphabetical order


def words_of(bank, seed: int) -> Callable[[int], str]:
    """Number -> the words of common.data.speech.utterance(bank, number, seed), by the same draws, without their sound."""
    known = {speaker: sorted(word for who, word in bank.takes if who == speaker) for speaker in bank.speakers}

    def words(number: int) -> str:
        rng = random.Random(f"utterance {seed} {number}")
        mine = known[rng.choice(list(known))]
        return " ".join([rng.choice(mine) for _ in range(rng.randint(3, 7))])

    return words


class SpokenWords(StreamData):
    """Strings of spoken words (common/data/speech.py). bank: "espeak", synthesised, or "fsdd", recorded digits.

    stack: 20 ms frames a source token; chunk_tokens: tokens a unit, so that k counts chunks of 20 x stack x chunk_tokens ms.
    first: number of the first training utterance; validation starts at 10^9, from the test recordings where there are any. Where there
    are none its words are, as a string, those of no utterance that is trained on.
    """

    def __init__(self, ks: list[int | None] = (1, 3, 5), bank: str = "espeak", train_samples: int = 6400,
                 val_samples: int = 128, first: int = 0, stack: int = 4, chunk_tokens: int = 6, batch_size: int = 32,
                 seed: int = 1, num_workers: int = 0):
        super().__init__(list(ks), batch_size, seed, num_workers)
        if bank not in ("espeak", "fsdd"):
            raise ValueError(f"data.bank {bank!r} is neither espeak nor fsdd")
        self.bank, self.train_samples, self.val_samples, self.first = bank, train_samples, val_samples, first
        self.stack, self.chunk_tokens = stack, chunk_tokens

    def banks(self) -> tuple:
        """Recordings to train and to test on: for synthesised words the same, of which the strings differ."""
        from common.data.speech import espeak_bank, fsdd_bank

        try:
            return (espeak_bank(),) * 2 if self.bank == "espeak" else (fsdd_bank("train"), fsdd_bank("test"))
        except DataError as error:
            raise SetupError(f"data.bank {self.bank}: {error}") from error

    def unseen(self, banks: tuple, count: int, first: int, learnt: Iterable[int]) -> list[int]:
        """Numbers from `first` on of `count` utterances to judge by: of other strings of words than those numbered `learnt`, where
        both are put together from the same recordings; where recordings are apart, any: ten digits leave few strings of three."""
        train, test = banks
        if train is not test:
            return list(range(first, first + count))
        return unseen(words_of(test, self.seed), count, first, learnt)

    def cut(self, bank, numbers: Iterable[int]) -> list[Example]:
        """These utterances as examples: the words that are spoken are the target, each a unit of one id."""
        from common.streaming.audio import spoken_examples

        ids = {word: len(SPECIAL) + i for i, word in enumerate(bank.words)}
        source, source_end, target, target_end = range(len(SPECIAL))
        return spoken_examples(bank, numbers, [source], [source_end],
                               lambda spoken: [[target], *([ids[word]] for word in spoken.words), [target_end]],
                               self.seed, self.stack, self.chunk_tokens)

    def examples(self) -> tuple[list[Example], list[Example]]:
        banks, learnt = self.banks(), range(self.first, self.first + self.train_samples)
        return self.cut(banks[0], learnt), self.cut(banks[1], self.unseen(banks, self.val_samples, HELD_FROM, learnt))
